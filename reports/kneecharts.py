"""Charts of concurrent jobs: efficiency and success, latency beside the ideal, and what more slots bring."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from reports import look, marks
from reports.curves import LINES
from reports.knees import Curve, claim, efficiency, slots_words
from reports.loadcurves import apart
from reports.look import BAND, GRID, INK, MUTED, Chart
from reports.measured import Measured, Subject

COLUMNS: Final = 3
PANEL_IN: Final = 2.15
HEAD_IN: Final = 0.85
NAMES_IN, NAME_IN = 3.1, 0.19
IDEAL: Final = (0, (4, 2))
"""How the ideal is drawn: dashed, in ink."""
IDEAL_KEY: Final = (Line2D([], [], color=INK, linewidth=0.9, linestyle=IDEAL), "ideal: slots never idle")

JOBS: Final = 100.0
FLOOR_MS: Final = 0.1
"""Latencies below are drawn here: the scale is logarithmic."""


def knees(found: Sequence[Curve], colours: Mapping[str, str], folder: Path) -> Chart | None:
    """Efficiency and success against the number of jobs, one panel per variant, its knee marked."""
    shown = _of_most(found)
    if not shown:
        return None
    lines = marks.named([(look.label(c.subject), c.reason) for c in shown], "read with care")
    if any(point.efficiency is None for c in shown for points in c.trials for point in points):
        lines.append("no efficiency where tasks were lost: such a burst is never cleared")
    foot = look.foot(lines)
    drawing, panels = _panels(len(shown), foot)
    sizes = sorted({jobs for curve in shown for jobs in curve.sizes})
    for axes, curve in zip(panels, shown, strict=True):
        _jobs_axis(axes, sizes)
        axes.set_ylim(0, 108)
        axes.set_yticks([0, 50, 100], ["0", "50", "100 %"])
        axes.set_title(_title(curve, shown), loc="left", fontsize=9, color=INK)
        _claimed(axes, curve.subject)
        axes.axhline(100, color=INK, linewidth=0.9, linestyle=IDEAL, zorder=5)
        colour = colours[curve.subject.system]
        _success(axes, curve)
        _efficiency(axes, curve, colour)
        _knee(axes, curve)
    title = "Concurrent jobs: where is the knee?"
    under = f"%, by tasks that become due at once · {_words(shown)}"
    look.head(drawing, title, under)
    key = [
        (
            Line2D([], [], marker="o", markersize=4, color=INK, linewidth=1.6),
            "efficiency: ideal time over time",
        ),
        (Line2D([], [], marker="s", markersize=3.5, color=MUTED, linewidth=1.1, linestyle=":"), "tasks ok"),
        IDEAL_KEY,
    ]
    if any(curve.found for curve in shown):
        key.append((Line2D([], [], marker="|", markersize=7, color=INK, linewidth=1.6), "knee"))
    _key(drawing, key + _claim_key(shown))
    look.write_foot(drawing, foot)
    alt = " ".join(
        ["Efficiency and share of tasks ok against the number of concurrent jobs, one panel per system."]
        + [f"{look.label(c.subject)}: knee {c.words} ({c.support})." for c in shown]
    )
    return look.save(drawing, folder, "concurrency", title, " ".join([alt, *foot]))


def latencies(
    rows: Sequence[Measured], found: Sequence[Curve], colours: Mapping[str, str], folder: Path
) -> Chart | None:
    """P95 latency of bursts against their size beside that of the ideal, one panel per variant."""
    shown = _of_most(found)
    points = {
        curve.subject: _by(rows, curve.text, curve.subject, "dispatch_latency_p95", "jobs") for curve in shown
    }
    ideals = {
        curve.subject: _by(rows, curve.text, curve.subject, "ideal_latency_p95", "jobs") for curve in shown
    }
    shown = [curve for curve in shown if points[curve.subject]]
    if not shown:
        return None
    foot = look.foot(
        marks.named(
            [(look.label(c.subject), row.reason) for c in shown for row in points[c.subject].values()],
            "hollow",
        )
    )
    drawing, panels = _panels(len(shown), foot)
    sizes = sorted({jobs for curve in shown for jobs in curve.sizes})
    values = [v for own in (points, ideals) for c in shown for v in _values(own[c.subject].values())]
    low, high = max(FLOOR_MS, min(values)) / 1.5, max(values) * 1.8
    for axes, curve in zip(panels, shown, strict=True):
        _jobs_axis(axes, sizes)
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms / 1000:,.10g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(_title(curve, shown), loc="left", fontsize=9, color=INK)
        _claimed(axes, curve.subject)
        ideal = {x: row.interval.value for x, row in ideals[curve.subject].items() if row.interval}
        above = {x: value for x, value in ideal.items() if value > 0}
        axes.plot(list(above), list(above.values()), color=INK, linewidth=0.9, linestyle=IDEAL, zorder=5)
        _curve(axes, points[curve.subject], colours[curve.subject.system], "-")
    title = "Concurrent jobs: latency beside that of queueing alone"
    under = f"P95 from due to start, s, by tasks that become due at once · {_words(shown)}"
    look.head(drawing, title, under)
    measured_key = (Line2D([], [], marker="o", markersize=4, color=INK, linewidth=1.6), "measured")
    _key(drawing, [measured_key, IDEAL_KEY, *_claim_key(shown)])
    look.write_foot(drawing, foot)
    alt = "P95 dispatch latency against the number of concurrent jobs, beside that of ideal slots."
    return look.save(drawing, folder, "concurrency-latency", title, " ".join([alt, *foot]))


def by_slots(rows: Sequence[Measured], colours: Mapping[str, str], folder: Path) -> Chart | None:
    """How long a burst takes with 1 to 8 slots, beside the ideal; one curve per variant."""
    own = [row for row in rows if row.scenario == "concurrency" and row.params.get("slots")]
    sizes = sorted({float(row.params.get("jobs", JOBS)) for row in own}, key=lambda n: (n != JOBS, n))
    for jobs in sizes:
        same = [row for row in own if float(row.params.get("jobs", JOBS)) == jobs]
        text = _but_slots(same[0].params_text)
        same = [row for row in same if _but_slots(row.params_text) == text]
        curves = _along_slots(same, "clear_time")
        if curves:
            break
    else:
        return None
    ideal = next(iter(sorted(_along_slots(same, "ideal_time").values(), key=len, reverse=True)))
    title = "What more slots bring"
    under = f"s until {jobs:g} tasks that become due at once have ended · {_work(same[0])} · by slots"
    return _slots_chart(
        curves, colours, folder, "concurrency-slots", title, under,
        ideal={x: row.interval.value for x, row in ideal.items() if row.interval},
        names={subject: look.label(subject) for subject in curves},
    )  # fmt: skip


def memory_by_slots(
    rows: Sequence[Measured], slopes: Mapping[Subject, str], colours: Mapping[str, str], folder: Path
) -> Chart | None:
    """Idle PSS of the whole stack with 1 to 8 slots; one curve per variant, named with its slope."""
    own = [row for row in rows if row.scenario == "memory" and row.params.get("slots")]
    curves = _along_slots(own, "idle_pss.total")
    if not curves:
        return None
    names = {subject: f"{look.label(subject)}  {slopes.get(subject, '')}".rstrip() for subject in curves}
    title = "What a slot takes in memory"
    under = "MB of PSS, the whole stack at rest, by slots · named with the slope, MB per slot"
    return _slots_chart(curves, colours, folder, "memory-slots", title, under, ideal={}, names=names)


# --- the parts of a chart -----------------------------------------------------------------------------


def _of_most(found: Sequence[Curve]) -> list[Curve]:
    """The curves of the condition that most variants have; a run's own number of slots first."""
    texts = [curve.text for curve in found]
    best = min(texts, key=lambda text: (-texts.count(text), "slots=" in text, text), default="")
    return [curve for curve in found if curve.text == best]


def _slots(shown: Sequence[Curve]) -> int:
    """The number of slots that most of them have; some systems cannot have as many."""
    return Counter(curve.slots for curve in shown).most_common(1)[0][0]


def _words(shown: Sequence[Curve]) -> str:
    return f"{slots_words(_slots(shown))}, work {shown[0].params.get('work', 'sleep:100')}"


def _title(curve: Curve, shown: Sequence[Curve]) -> str:
    own = f", {slots_words(curve.slots)}" if curve.slots != _slots(shown) else ""
    return look.label(curve.subject) + own


def _work(row: Measured) -> str:
    return f"work {row.params.get('work', 'sleep:100')}"


def _by(
    rows: Iterable[Measured], text: str, subject: Subject, metric: str, axis: str
) -> dict[float, Measured]:
    """A metric of a variant along a parameter, the other parameters being those of `text`."""
    found = {
        float(row.params.get(axis, JOBS)): row
        for row in rows
        if row.scenario == "concurrency" and row.metric == metric and row.subject == subject
        if " ".join(pair for pair in row.params_text.split() if not pair.startswith(f"{axis}=")) == text
        if row.interval
    }
    return dict(sorted(found.items()))


def _but_slots(text: str) -> str:
    return " ".join(pair for pair in text.split() if not pair.startswith("slots="))


def _along_slots(rows: Iterable[Measured], metric: str) -> dict[Subject, dict[float, Measured]]:
    """A metric of every variant by its number of slots, for those that have at least two."""
    found: dict[Subject, dict[float, Measured]] = {}
    for row in rows:
        if row.metric == metric and row.interval:
            found.setdefault(row.subject, {})[float(row.params["slots"])] = row
    return {subject: dict(sorted(own.items())) for subject, own in found.items() if len(own) > 1}


def _values(rows: Iterable[Measured]) -> Iterator[float]:
    for row in rows:
        bounds = (row.interval.value, row.interval.low, row.interval.high) if row.interval else ()
        yield from (bound for bound in bounds if bound is not None and bound > 0)


def _panels(n: int, foot: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A drawing with so many panels, row by row."""
    drawing = look.figure(HEAD_IN + PANEL_IN * math.ceil(n / COLUMNS) + look.foot_in(foot))
    height_in = float(drawing.get_size_inches()[1])
    found = []
    for place in range(n):
        x_in = 0.6 + (place % COLUMNS) * 2.75
        y_in = height_in - HEAD_IN - (place // COLUMNS + 1) * PANEL_IN + 0.45
        size = (2.2 / look.WIDTH_IN, (PANEL_IN - 0.75) / height_in)
        axes = drawing.add_axes((x_in / look.WIDTH_IN, y_in / height_in, *size))
        axes.set_axisbelow(True)
        axes.grid(True, axis="y", color=GRID, linewidth=0.8)
        axes.tick_params(labelsize=8)
        found.append(axes)
    return drawing, found


def _jobs_axis(axes: Axes, sizes: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
    axes.set_xticks(sizes, [f"{jobs:,}" for jobs in sizes])
    axes.xaxis.set_minor_locator(NullLocator())


def _claimed(axes: Axes, subject: Subject) -> None:
    """The published knee, as a band over the whole height."""
    if figure := claim(subject):
        low, high = figure.bounds
        left, right = axes.get_xlim()
        axes.axvspan(low or left, high or right, color=BAND, linewidth=0, zorder=0)


def _claim_key(shown: Sequence[Curve]) -> list[tuple[Line2D, str]]:
    band = Line2D([], [], color=BAND, linewidth=7)
    return [(band, "published knee")] if any(claim(curve.subject) for curve in shown) else []


def _efficiency(axes: Axes, curve: Curve, colour: str) -> None:
    """The median of the trials, and their range."""
    known = {jobs: value for jobs in curve.sizes if (value := efficiency(curve.at(jobs))) is not None}
    axes.plot(list(known), list(known.values()), "o-", color=colour, linewidth=1.6, markersize=4, zorder=4)
    for jobs in known:
        values = [point.efficiency for point in curve.at(jobs) if point.efficiency is not None]
        axes.plot([jobs, jobs], [min(values), max(values)], color=colour, linewidth=2.2, zorder=4)


def _success(axes: Axes, curve: Curve) -> None:
    """The share of tasks that were ok, with its exact interval."""
    shares = {jobs: curve.success(jobs) for jobs in curve.sizes}
    values = [100 * share.value for share in shares.values()]
    axes.plot(list(shares), values, "s:", color=MUTED, linewidth=1.1, markersize=3.5, zorder=3)
    for jobs, share in shares.items():
        if share.low is not None and share.high is not None:
            axes.plot([jobs, jobs], [100 * share.low, 100 * share.high], color=MUTED, linewidth=1.1, zorder=3)


def _knee(axes: Axes, curve: Curve) -> None:
    """A bar from where all was well to where the knee showed, and what is to be said of it."""
    if curve.between:
        low, high = curve.between
        axes.plot([low or axes.get_xlim()[0], high], [22, 22], "|-", color=INK, linewidth=1.6, markersize=7)
    words = f"knee: {curve.words}"
    words = f"{words} {curve.support.removeprefix('in ')}" if len(curve.trials) > 1 else words
    words = marks.marked(words, marks.marks(curve.reason))
    axes.text(0.03, 0.06, words, transform=axes.transAxes, fontsize=8, color=INK, zorder=6,
              bbox={"facecolor": look.PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1})  # fmt: skip


def _curve(axes: Axes, points: Mapping[float, Measured], colour: str, line: str) -> None:
    """Figures with their intervals; hollow where there is a doubt."""
    found = {x: row.interval for x, row in points.items() if row.interval}
    values = [max(FLOOR_MS, interval.value) for interval in found.values()]
    axes.plot(list(found), values, line, color=colour, linewidth=1.6, zorder=3)
    for (x, interval), value in zip(found.items(), values, strict=True):
        if interval.low is not None and interval.high is not None:
            axes.plot([x, x], [interval.low, interval.high], color=colour, linewidth=2.2, zorder=3)
        fill = look.PAPER if marks.grave(points[x].reason) else colour
        axes.plot([x], [value], "o", color=colour, markerfacecolor=fill, markersize=4.5, zorder=4)


def _slots_chart(
    curves: Mapping[Subject, Mapping[float, Measured]],
    colours: Mapping[str, str],
    folder: Path,
    name: str,
    title: str,
    under: str,
    *,
    ideal: Mapping[float, float],
    names: Mapping[Subject, str],
) -> Chart:
    """One curve per variant along the slots, named at its right end."""

    def last(subject: Subject) -> float:
        interval = curves[subject][max(curves[subject])].interval
        return interval.value if interval else 0.0

    shown = sorted(curves, key=last, reverse=True)
    foot = look.foot(
        marks.named([(look.label(s), row.reason) for s in shown for row in curves[s].values()], "hollow")
    )
    height_in = max(3.0, NAME_IN * (len(shown) + bool(ideal)))
    drawing = look.figure(height_in + 1.25 + look.foot_in(foot))
    axes = look.frame(drawing, 0.75, NAMES_IN, 0.72, 0.53 + look.foot_in(foot))
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    values = [value for own in curves.values() for value in _values(own.values())] + list(ideal.values())
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 1.3, max(values) * 1.3)
    decades = math.log10(max(values) / min(values))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    slots = sorted({x for own in curves.values() for x in own})
    axes.set_xscale("log", base=2)
    axes.set_xlim(slots[0] / 1.15, slots[-1] * 1.15)
    axes.set_xticks(slots, [f"{x:g}" for x in slots])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("slots")
    ends: list[tuple[float, float, str, str]] = []
    if ideal:
        axes.plot(list(ideal), list(ideal.values()), color=INK, linewidth=0.9, linestyle=IDEAL, zorder=5)
        ends.append((max(ideal), ideal[max(ideal)], "ideal", INK))
    for subject in shown:
        same = [s for s in sorted(shown, key=lambda s: s.key) if s.system == subject.system]
        _curve(axes, curves[subject], colours[subject.system], LINES[same.index(subject) % len(LINES)])
        ends.append((max(curves[subject]), last(subject), names[subject], colours[subject.system]))
    _names(axes, sorted(ends, key=lambda end: -end[1]), height_in)
    look.head(drawing, title, under)
    look.write_foot(drawing, foot)
    alt = f"{title}: one curve per system along the number of slots, as in the table."
    return look.save(drawing, folder, name, title, " ".join([alt, *foot]))


def _names(axes: Axes, ends: Sequence[tuple[float, float, str, str]], height_in: float) -> None:
    """Names right of the curves, given from top to bottom as `(x, y, name, colour)` of their last point."""
    low, high = (math.log(end) for end in axes.get_ylim())
    wanted = [(math.log(y) - low) / (high - low) * height_in for _, y, _, _ in ends]
    for (x, y, name, colour), place in zip(
        ends, apart(wanted, NAME_IN, 0.5 * NAME_IN, height_in), strict=True
    ):
        axes.annotate(
            name, (x, y), (1.035, place / height_in), xycoords="data", textcoords="axes fraction",
            va="center", fontsize=8.5, color=INK,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.9, "shrinkA": 2, "shrinkB": 3,
                        "relpos": (0.0, 0.5)},
        )  # fmt: skip


def _key(drawing: Figure, entries: Sequence[tuple[Line2D, str]]) -> None:
    """What the lines are, in a row under the condition."""
    height_in = float(drawing.get_size_inches()[1])
    drawing.legend(
        [line for line, _ in entries], [words for _, words in entries], loc="upper left", ncols=len(entries),
        bbox_to_anchor=(0.006, 1 - 0.56 / height_in), borderaxespad=0, fontsize=8.5, labelcolor=MUTED,
        handlelength=2.2, columnspacing=1.6,
    )  # fmt: skip
