"""Charts along the number of slots: how long a burst takes, and what the whole stack takes in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from reports import loadcurves, look, marks
from reports.curves import LINES
from reports.kneecharts import IDEAL
from reports.knees import JOBS, WORK
from reports.look import GRID, INK, Chart
from reports.measured import Measured, Subject, but

NAMES_IN: Final = 3.1
"""Room for the names at the right end of the curves."""
NAME_IN: Final = 0.19
"""Between two names."""

Points = Mapping[int, Measured]
"""A figure by its number of slots."""


def time_by_slots(rows: Sequence[Measured], colours: Mapping[str, str], folder: Path) -> Chart | None:
    """How long a burst takes with so many slots, beside the ideal."""
    own = _condition(rows, "concurrency", "clear_time")
    curves = _along_slots(own, "clear_time")
    if not curves:
        return None
    ideal: dict[int, float] = {}
    for points in _along_slots(own, "ideal_time").values():
        ideal |= {slots: row.interval.value for slots, row in points.items() if row.interval}
    cleared = {row.subject for row in own if row.metric == "clear_time"}
    asked = [row.subject for row in own if row.metric == "success"]
    never = [look.label(subject) for subject in asked if subject not in cleared]
    absent = look.absent(dict.fromkeys(never, "it lost tasks: no burst was ever cleared"))
    params = own[0].params
    under = f"s until {params.get('jobs', JOBS):g} tasks that become due at once have ended · "
    under += f"work {params.get('work', WORK)} · lower is better"
    names = {subject: look.label(subject) for subject in curves}
    return _drawn(
        curves,
        names,
        colours,
        folder,
        "concurrency-slots",
        "What more slots bring",
        under,
        dict(sorted(ideal.items())),
        absent,
    )


def memory_by_slots(
    rows: Sequence[Measured], slopes: Mapping[Subject, str], colours: Mapping[str, str], folder: Path
) -> Chart | None:
    """Idle PSS of the whole stack with so many slots; each curve is named with its slope."""
    metric = "idle_pss.total"
    curves = _along_slots(_condition(rows, "memory", metric), metric)
    if not curves:
        return None
    names = {subject: f"{look.label(subject)}  {slopes.get(subject, '')}".rstrip() for subject in curves}
    under = "MB of PSS, the whole stack at rest · named with the slope, MB per slot · lower is better"
    return _drawn(
        curves, names, colours, folder, "memory-slots", "What a slot takes in memory", under, {}, ()
    )


def _condition(rows: Sequence[Measured], scenario: str, metric: str) -> list[Measured]:
    """The rows of the condition, slots aside, under which most figures with several slots were measured."""
    own = [row for row in rows if row.scenario == scenario and row.params.get("slots")]
    texts = [but(row.params_text, "slots") for row in own if row.metric == metric]
    best = min(texts, key=lambda text: (-texts.count(text), text), default="")
    return [row for row in own if but(row.params_text, "slots") == best]


def _along_slots(rows: Iterable[Measured], metric: str) -> dict[Subject, Points]:
    """A metric of every variant that has it for at least two numbers of slots."""
    found: dict[Subject, dict[int, Measured]] = {}
    for row in rows:
        if row.metric == metric and row.interval:
            found.setdefault(row.subject, {})[int(row.params["slots"])] = row
    return {subject: dict(sorted(points.items())) for subject, points in found.items() if len(points) > 1}


def _drawn(
    curves: Mapping[Subject, Points],
    names: Mapping[Subject, str],
    colours: Mapping[str, str],
    folder: Path,
    name: str,
    title: str,
    under: str,
    ideal: Mapping[int, float],
    absent: Sequence[str],
) -> Chart:
    """One curve per variant, named at its right end."""
    shown = sorted(curves, key=lambda subject: subject.key)
    own = [(look.label(subject), row.reason) for subject in shown for row in curves[subject].values()]
    foot = look.foot([*marks.named(own, "hollow"), *absent])
    height_in = max(3.0, NAME_IN * (len(shown) + 1))
    drawing = look.figure(height_in + 1.25 + look.foot_in(foot))
    axes = look.frame(drawing, 0.75, NAMES_IN, 0.72, 0.53 + look.foot_in(foot))
    drawn = [row for points in curves.values() for row in points.values()]
    values = [*ideal.values(), *(end for row in drawn for end in loadcurves.extent(row))]
    _log_y(axes, min(values) / 1.3, max(values) * 1.3)
    _slots_x(axes, sorted({slots for points in curves.values() for slots in points}))
    ends = []
    if ideal:
        axes.plot(list(ideal), list(ideal.values()), color=INK, linewidth=0.9, linestyle=IDEAL, zorder=5)
        ends.append((max(ideal), ideal[max(ideal)], "ideal", INK))
    for subject in shown:
        same = [other for other in shown if other.system == subject.system]
        line, colour, points = (
            LINES[same.index(subject) % len(LINES)],
            colours[subject.system],
            curves[subject],
        )
        loadcurves.curve(axes, points, colour, line)
        if last := points[max(points)].interval:
            ends.append((max(points), last.value, names[subject], colour))
    _write_names(axes, sorted(ends, key=lambda end: -end[1]), height_in)
    look.head(drawing, title, under)
    look.write_foot(drawing, foot)
    alt = f"{title}: one curve per system along the number of slots, as in the table."
    return look.save(drawing, folder, name, title, " ".join([alt, *foot]))


def _log_y(axes: Axes, low: float, high: float) -> None:
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high > 30 * low else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _slots_x(axes: Axes, slots: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(slots[0] / 1.15, slots[-1] * 1.15)
    axes.set_xticks(slots, [f"{n}" for n in slots])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("slots")


def _write_names(axes: Axes, ends: Sequence[tuple[float, float, str, str]], height_in: float) -> None:
    """Names right of the curves, given from top to bottom as `(x, y, name, colour)` of their last point."""
    low, high = (math.log(end) for end in axes.get_ylim())
    wanted = [(math.log(y) - low) / (high - low) * height_in for _, y, _, _ in ends]
    places = loadcurves.apart(wanted, NAME_IN, 0.5 * NAME_IN, height_in)
    for (x, y, name, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            name, (x, y), (1.035, place / height_in), xycoords="data", textcoords="axes fraction",
            va="center", fontsize=8.5, color=INK,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.9, "shrinkA": 2, "shrinkB": 3,
                        "relpos": (0.0, 0.5)},
        )  # fmt: skip
