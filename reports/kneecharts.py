"""Charts of concurrent jobs, one panel per variant: where the knee is, and latency beside the ideal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports import loadcurves, look, marks
from reports.knees import JOBS, Curve, claim, efficiency, slots_words
from reports.look import BAND, GRID, INK, MUTED, Chart
from reports.measured import Measured, but

COLUMNS: Final = 3
PANEL_IN: Final = 2.15
HEAD_IN: Final = 0.85

IDEAL: Final = (0, (4, 2))
"""How the ideal is drawn: dashed, in ink, above all else."""

Key = list[tuple[Line2D, str]]


def knees(found: Sequence[Curve], colours: Mapping[str, str], folder: Path) -> Chart | None:
    """Efficiency and success against the number of jobs, its knee marked."""
    shown = _of_most(found)
    if not shown:
        return None
    lines = marks.named([(look.label(curve.subject), curve.reason) for curve in shown], "read with care")
    if any(point.efficiency is None for curve in shown for points in curve.trials for point in points):
        lines.append("no efficiency where tasks were lost: such a burst is never cleared")
    foot = look.foot(lines)
    drawing, panels = _panels(shown, foot)
    for axes, curve in zip(panels, shown, strict=True):
        axes.set_ylim(0, 108)
        axes.set_yticks([0, 50, 100], ["0", "50", "100 %"])
        axes.axhline(100, color=INK, linewidth=0.9, linestyle=IDEAL, zorder=5)
        _success(axes, curve)
        _efficiency(axes, curve, colours[curve.subject.system])
        _knee(axes, curve)
    key: Key = [
        (
            Line2D([], [], marker="o", markersize=4, color=INK, linewidth=1.6),
            "efficiency: ideal time over time",
        ),
        (Line2D([], [], marker="s", markersize=3.5, color=MUTED, linewidth=1.1, linestyle=":"), "tasks ok"),
        _ideal_key(),
    ]
    if any(curve.between for curve in shown):
        key.append((Line2D([], [], marker="|", markersize=7, color=INK, linewidth=1.6), "knee"))
    title = "Concurrent jobs: where is the knee?"
    look.head(drawing, title, f"%, by tasks that become due at once · {_words(shown)}")
    _write_key(drawing, key + _claim_key(shown))
    look.write_foot(drawing, foot)
    alt = ["Efficiency and share of tasks ok against the number of concurrent jobs, one panel per system."]
    alt += [f"{look.label(curve.subject)}: knee {curve.words} ({curve.support})." for curve in shown]
    return look.save(drawing, folder, "concurrency", title, " ".join([*alt, *foot]))


def latencies(
    rows: Sequence[Measured], found: Sequence[Curve], colours: Mapping[str, str], folder: Path
) -> Chart | None:
    """P95 latency of bursts against their size beside that of the ideal."""
    most = _of_most(found)
    points, ideals = (
        {curve.subject: _by_jobs(rows, curve, metric) for curve in most}
        for metric in ("dispatch_latency_p95", "ideal_latency_p95")
    )
    shown = [curve for curve in most if points[curve.subject]]
    if not shown:
        return None
    own = [(look.label(c.subject), row.reason) for c in shown for row in points[c.subject].values()]
    lines = marks.named(own, "hollow")
    if any(curve.sizes[0] <= curve.slots for curve in shown):
        lines.append("an ideal of 0, of no more tasks than slots, is not drawn")
    foot = look.foot(lines)
    drawing, panels = _panels(shown, foot)
    drawn = [row for each in (points, ideals) for c in shown for row in each[c.subject].values()]
    values = [end for row in drawn for end in loadcurves.extent(row)]
    for axes, curve in zip(panels, shown, strict=True):
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 1.5, max(values) * 1.8)
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms / 1000:,.10g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        ideal = {x: row.interval.value for x, row in ideals[curve.subject].items() if row.interval}
        above = {x: value for x, value in ideal.items() if value > 0}
        axes.plot(list(above), list(above.values()), color=INK, linewidth=0.9, linestyle=IDEAL, zorder=5)
        loadcurves.curve(axes, points[curve.subject], colours[curve.subject.system], "-")
    title = "Concurrent jobs: latency beside that of queueing alone"
    look.head(drawing, title, f"P95 from due to start, s, by tasks that become due at once · {_words(shown)}")
    line = Line2D([], [], marker="o", markersize=4, color=INK, linewidth=1.6)
    _write_key(drawing, [(line, "measured"), _ideal_key(), *_claim_key(shown)])
    look.write_foot(drawing, foot)
    alt = "P95 dispatch latency against the number of concurrent jobs, beside that of ideal slots."
    return look.save(drawing, folder, "concurrency-latency", title, " ".join([alt, *foot]))


# --- what is shown ------------------------------------------------------------------------------------


def _of_most(found: Sequence[Curve]) -> list[Curve]:
    """The curves of the condition that most variants have; a run's own number of slots first."""
    texts = [curve.text for curve in found]
    best = min(texts, key=lambda text: (-texts.count(text), "slots=" in text, text), default="")
    return [curve for curve in found if curve.text == best]


def _by_jobs(rows: Iterable[Measured], curve: Curve, metric: str) -> dict[int, Measured]:
    """A metric of a variant by its number of jobs, under the condition of its curve."""
    found = {
        int(row.params.get("jobs", JOBS)): row
        for row in rows
        if row.scenario == "concurrency" and row.metric == metric and row.subject == curve.subject
        if but(row.params_text, "jobs") == curve.text and row.interval
    }
    return dict(sorted(found.items()))


def _slots(shown: Sequence[Curve]) -> int:
    """The number of slots that most of them have; some systems cannot have as many."""
    return Counter(curve.slots for curve in shown).most_common(1)[0][0]


def _words(shown: Sequence[Curve]) -> str:
    return f"{slots_words(_slots(shown))}, work {shown[0].work}"


# --- how it is drawn ----------------------------------------------------------------------------------


def _panels(shown: Sequence[Curve], foot: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A drawing with a panel for each curve, row by row: jobs along it, the published knee as a band."""
    drawing = look.figure(HEAD_IN + PANEL_IN * math.ceil(len(shown) / COLUMNS) + look.foot_in(foot))
    height_in = float(drawing.get_size_inches()[1])
    sizes = sorted({jobs for curve in shown for jobs in curve.sizes})
    found = []
    for place, curve in enumerate(shown):
        x_in = 0.6 + (place % COLUMNS) * 2.75
        y_in = height_in - HEAD_IN - (place // COLUMNS + 1) * PANEL_IN + 0.45
        size = (2.2 / look.WIDTH_IN, (PANEL_IN - 0.75) / height_in)
        axes = drawing.add_axes((x_in / look.WIDTH_IN, y_in / height_in, *size))
        axes.set_axisbelow(True)
        axes.grid(True, axis="y", color=GRID, linewidth=0.8)
        axes.tick_params(labelsize=8)
        axes.set_xscale("log")
        axes.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
        axes.set_xticks(sizes, [f"{jobs:,}" for jobs in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        own = f", {slots_words(curve.slots)}" if curve.slots != _slots(shown) else ""
        axes.set_title(look.label(curve.subject) + own, loc="left", fontsize=9, color=INK)
        if figure := claim(curve.subject):
            low, high = figure.bounds
            left, right = axes.get_xlim()
            axes.axvspan(low or left, high or right, color=BAND, linewidth=0, zorder=0)
        found.append(axes)
    return drawing, found


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
    several = f", {curve.support.removeprefix('in ')}" if len(curve.trials) > 1 else ""
    words = marks.marked(f"knee: {curve.words}{several}", marks.marks(curve.reason))
    box = {"facecolor": look.PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1}
    axes.text(0.03, 0.06, words, transform=axes.transAxes, fontsize=8, color=INK, zorder=6, bbox=box)


def _ideal_key() -> tuple[Line2D, str]:
    return Line2D([], [], color=INK, linewidth=0.9, linestyle=IDEAL), "ideal: slots never idle"


def _claim_key(shown: Sequence[Curve]) -> Key:
    band = Line2D([], [], color=BAND, linewidth=7)
    return [(band, "published knee")] if any(claim(curve.subject) for curve in shown) else []


def _write_key(drawing: Figure, key: Key) -> None:
    """What the lines are, in a row under the condition."""
    height_in = float(drawing.get_size_inches()[1])
    drawing.legend(
        [line for line, _ in key], [words for _, words in key], loc="upper left", ncols=len(key),
        bbox_to_anchor=(0.006, 1 - 0.56 / height_in), borderaxespad=0, fontsize=8.5, labelcolor=MUTED,
        handlelength=2.2, columnspacing=1.6,
    )  # fmt: skip
