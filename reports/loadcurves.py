"""Charts of latency against load: P95 at shares of each system's own sustainable rate, and every latency."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from bench.store import Run
from reports import look, marks
from reports.curves import LINES
from reports.latencies import Latencies, by_share
from reports.lines import condition
from reports.look import GRID, INK, MUTED, Chart
from reports.measured import Measured, Subject
from reports.survey import choose
from reports.tables import number

P95_AT: Final = re.compile(r"dispatch_latency_at(\d+)_p95")
RATE: Final = "sustainable_rate"

NAMES_IN: Final = 3.1
"""Room for the names at the right end of the curves."""
NAME_IN: Final = 0.19
"""Between two names."""
COLUMNS: Final = 3
PANEL_IN: Final = 2.1
FLOOR_MS: Final = 1e-3
"""Latencies below are drawn here: the scale is logarithmic."""


def against_load(rows: Sequence[Measured], colours: Mapping[str, str], folder: Path) -> Chart | None:
    """P95 dispatch latency at shares of the rate that a system sustains; one curve per default variant."""
    rates, points = _condition(rows)
    shown = sorted((s for s in _shown(rates) if points.get(s)), key=lambda s: _last(points[s]), reverse=True)
    if not shown:
        return None
    figures = [row for subject in shown for row in points[subject].values()]
    ends = [bound for row in figures for bound in extent(row)]
    foot = look.foot(
        [
            *marks.named(
                [(look.label(s), _reasons([rates[s], *points[s].values()])) for s in shown], "hollow"
            ),
            *look.absent((look.label(s), rates[s].reason) for s in _shown(rates) if s not in shown),
        ]
    )
    height_in = max(3.0, NAME_IN * len(shown))
    drawing = look.figure(height_in + 1.25 + look.foot_in(foot))
    axes = look.frame(drawing, 0.75, NAMES_IN, 0.72, 0.53 + look.foot_in(foot))
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    _log_y(axes, min(ends) / 1.4, max(ends) * 1.4)
    shares = sorted({share for subject in shown for share in points[subject]})
    axes.set_xlim(0, max(shares) + 3)
    axes.set_xticks(shares, [f"{share} %" for share in shares])
    axes.set_xlabel("load, as a share of the rate that the system itself sustains")
    for subject in shown:
        same = [s for s in sorted(shown, key=lambda s: s.key) if colours[s.system] == colours[subject.system]]
        line = LINES[same.index(subject) % len(LINES)]
        curve(axes, points[subject], colours[subject.system], line)
    words = [f"{look.label(s)}  {_rate(rates[s])}" for s in shown]
    _names(axes, [_last(points[s]) for s in shown], words, [colours[s.system] for s in shown], height_in)
    title = "Latency against load"
    under = f"P95 dispatch latency, ms · named with the rate in tasks/s that was sustained ({_words(rates)})"
    look.head(drawing, title, under)
    look.write_foot(drawing, foot)
    alt = "P95 dispatch latency of each system at shares of its own sustainable rate, as in the table."
    return look.save(drawing, folder, "latency-load", title, " ".join([alt, *foot]))


def distributions(
    run: Run, rows: Sequence[Measured], colours: Mapping[str, str], folder: Path
) -> Chart | None:
    """What share of the tasks had started after how long, one panel per default variant, a curve per load."""
    rates, points = _condition(rows)
    samples = by_share(run, next(iter(rates.values())).params_text if rates else "")
    shown = [subject for subject in _shown(rates) if subject in points and samples.get(subject.key)]
    if not shown:
        return None
    everything = [sample for s in shown for sample in samples[s.key].values() if len(sample)]
    low = max(FLOOR_MS, min(float(sample[0]) for sample in everything)) / 1.3
    high = max(float(sample[-1]) for sample in everything) * 1.3
    drawn = {s: {share: points[s][share] for share in samples[s.key] if share in points[s]} for s in shown}
    foot = look.foot(
        [
            *marks.named([(look.label(s), _reasons(list(drawn[s].values()))) for s in shown], "dashed"),
            *look.absent(_missing(rates, points, samples)),
        ]
    )
    lines = math.ceil(len(shown) / COLUMNS)
    drawing = look.figure(0.75 + PANEL_IN * lines + look.foot_in(foot))
    height_in = float(drawing.get_size_inches()[1])
    for place, subject in enumerate(shown):
        x_in = 0.55 + (place % COLUMNS) * 2.75
        y_in = height_in - 0.75 - (place // COLUMNS + 1) * PANEL_IN + 0.45
        size = (2.3 / look.WIDTH_IN, (PANEL_IN - 0.7) / height_in)
        axes = drawing.add_axes((x_in / look.WIDTH_IN, y_in / height_in, *size))
        doubtful = {share for share, row in drawn[subject].items() if marks.grave(row.reason)}
        _panel(axes, samples[subject.key], doubtful, colours[subject.system], (low, high))
        axes.set_title(look.label(subject), loc="left", fontsize=9, color=INK)
    title = "Dispatch latency of every task, by load"
    look.head(drawing, title, "share of tasks that have started, by ms after they were due · at loads of")
    _key(drawing, sorted({share for subject in shown for share in samples[subject.key]}))
    look.write_foot(drawing, foot)
    alt = "Cumulative distributions of dispatch latency of each system at shares of its own sustainable rate."
    return look.save(drawing, folder, "latency-load-distribution", title, " ".join([alt, *foot]))


def _condition(
    rows: Sequence[Measured],
) -> tuple[dict[Subject, Measured], dict[Subject, dict[int, Measured]]]:
    """The sustainable rates, and P95 by share of the load, under the condition that most systems share."""
    own = [row for row in rows if row.scenario == "capacity"]
    text = choose(own, "capacity", lambda params: True)
    rates: dict[Subject, Measured] = {}
    points: dict[Subject, dict[int, Measured]] = {}
    for row in own:
        if row.params_text != text:
            continue
        if row.metric in (RATE, ""):
            rates[row.subject] = row
        elif (match := P95_AT.fullmatch(row.metric)) and row.interval and row.interval.value > 0:
            points.setdefault(row.subject, {})[int(match[1])] = row
    return rates, points


def _shown(rates: Mapping[Subject, Measured]) -> list[Subject]:
    """The default variants, floors last."""
    found = sorted(rates, key=lambda s: (s.floor, s.title, s.variant))
    return [subject for subject in found if subject.default] or found


def _missing(
    rates: Mapping[Subject, Measured],
    points: Mapping[Subject, Mapping[int, Measured]],
    samples: Mapping[tuple[str, str], Mapping[int, Latencies]],
) -> Iterator[tuple[str, str]]:
    """What has no distribution, and why."""
    for subject in _shown(rates):
        own = points.get(subject, {})
        missing = [share for share in sorted(own) if share not in samples.get(subject.key, {})]
        if not own:
            yield look.label(subject), rates[subject].reason
        elif missing:
            loads = ", ".join(f"{share} %" for share in missing)
            remarks = marks.remarks(own[missing[0]].reason)
            invalid = (remark for remark in remarks if marks.mark_of(remark) is marks.Mark.INVALID)
            yield f"{look.label(subject)} at {loads}", next(invalid, "its tasks were not kept")


def _words(rates: Mapping[Subject, Measured]) -> str:
    first = next(iter(rates.values()))
    return condition(first.scenario, first.params)


def _rate(row: Measured) -> str:
    figure = number(row.interval.value) if row.interval else "-"
    return marks.marked(figure, marks.marks(row.reason))


def _reasons(rows: Sequence[Measured]) -> str:
    return "; ".join(row.reason for row in rows if row.reason)


def _last(points: Mapping[int, Measured]) -> float:
    """P95 at the highest load."""
    interval = points[max(points)].interval
    return interval.value if interval else 0.0


def extent(row: Measured) -> list[float]:
    """A figure and the ends of its interval, as far as a logarithmic scale can show them."""
    found = [row.interval.value, row.interval.low, row.interval.high] if row.interval else []
    return [bound for bound in found if bound is not None and bound > 0]


def curve(axes: Axes, points: Mapping[int, Measured], colour: str, line: str) -> None:
    """Figures with their intervals, for example P95 over the load; hollow where there is a doubt."""
    values = {share: row.interval for share, row in sorted(points.items()) if row.interval}
    axes.plot(list(values), [found.value for found in values.values()], line, color=colour, linewidth=1.6)
    for share, found in values.items():
        if found.low is not None and found.high is not None:
            axes.plot([share, share], [found.low, found.high], color=colour, linewidth=2.2)
        fill = look.PAPER if marks.grave(points[share].reason) else colour
        axes.plot([share], [found.value], "o", color=colour, markerfacecolor=fill, markersize=4.5, zorder=4)


def _names(
    axes: Axes, at: Sequence[float], words: Sequence[str], colours: Sequence[str], height_in: float
) -> None:
    """Names at the right ends of curves, given from top to bottom, moved apart where they would overlap."""
    low, high = (math.log(end) for end in axes.get_ylim())
    wanted = [(math.log(value) - low) / (high - low) * height_in for value in at]
    places = apart(wanted, NAME_IN, 0.5 * NAME_IN, height_in)
    right = axes.get_xlim()[1]
    for value, place, name, colour in zip(at, places, words, colours, strict=True):
        axes.annotate(
            name, (right - 2.5, value), (1.035, place / height_in), xycoords="data",
            textcoords="axes fraction", va="center", fontsize=8.5, color=INK,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.9, "shrinkA": 2, "shrinkB": 0,
                        "relpos": (0.0, 0.5)},
        )  # fmt: skip


def apart(wanted: Sequence[float], least: float, bottom: float, top: float) -> list[float]:
    """Places near the wanted ones, which descend, at least so far apart and above the bottom."""
    places: list[float] = []
    for place in wanted:
        places.append(min(place, places[-1] - least if places else top))
    for i in reversed(range(len(places))):
        places[i] = max(places[i], bottom + least * (len(places) - 1 - i))
    return places


def _log_y(axes: Axes, low: float, high: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    decades = math.log10(high / low)
    steps = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _panel(
    axes: Axes, shares: Mapping[int, Latencies], doubtful: Set[int], colour: str, ends: tuple[float, float]
) -> None:
    axes.set_axisbelow(True)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(*ends)
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 101)
    axes.set_yticks([0, 50, 95], ["0 %", "50 %", "95 %"])
    axes.tick_params(labelsize=8)
    for share, sample in sorted(shares.items()):
        part = np.arange(1, len(sample) + 1) / len(sample) * 100
        values = np.maximum(sample, FLOOR_MS)
        axes.plot(
            values, part, "--" if share in doubtful else "-", color=colour, alpha=_strength(share),
            linewidth=1.6, drawstyle="steps-post",
        )  # fmt: skip


def _strength(share: int) -> float:
    """The less load, the paler."""
    return 0.25 + 0.75 * share / 100


def _key(drawing: Figure, shares: Sequence[int]) -> None:
    """Which curve belongs to which load, right of the condition."""
    height_in = float(drawing.get_size_inches()[1])
    y = 1 - 0.475 / height_in
    for place, share in enumerate(shares):
        x = 0.59 + 0.078 * place
        drawing.add_artist(Line2D([x, x + 0.025], [y, y], color=INK, alpha=_strength(share), linewidth=1.8))
        drawing.text(x + 0.03, y, f"{share} %", va="center", fontsize=8.5, color=MUTED)
