"""Charts with one row per system: dots with intervals, stacked bars, pairs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.stats import Interval
from reports import look, marks
from reports.lines import Line, Section
from reports.look import BAND, INK, MUTED, Chart
from reports.marks import marked
from reports.measured import Measured, Subject
from reports.tables import number
from reports.texts import GROUP_NAMES

TITLES: Final = {
    "throughput": "How fast a full queue drains",
    "latency": "How soon 95 of 100 tasks start",
}
ROW_IN: Final = 0.29
"""Height of one row."""
LABEL_IN: Final = 0.45
"""Room to the right of the axes, where half of the last tick's label may stand."""
REASON_CHARACTERS: Final = 90


@dataclass
class Rows:
    """A chart that is being drawn: one named row per subject, under the heading of its group."""

    drawing: Figure
    axes: Axes
    places: list[float]
    foot: list[str]

    def save(self, folder: Path, name: str, title: str, under: str, alt: str) -> Chart:
        """Head, foot, files; the alternative text says the marks as well."""
        look.head(self.drawing, title, under)
        look.write_foot(self.drawing, self.foot)
        return look.save(self.drawing, folder, name, title, " ".join([alt, *self.foot]))


def dots(section: Section, colours: Mapping[str, str], folder: Path) -> Chart | None:
    """A dot with its interval for every line, the published range as a band behind it.

    A line without a figure keeps its row, with the reason in it.
    """
    lines = [line for line in section.lines if line.asked]
    drawn = [line for line in lines if line.interval and line.interval.value > 0]
    if not drawn:
        return None
    rows = _rows(
        [line.group for line in lines],
        [look.label(line.subject) for line in lines],
        [(look.label(line.subject), line.reason) for line in drawn],
        "hollow",
    )
    ends = [bound for line in drawn for bound in _extent(line)]
    low, high = min(ends) / 1.6, max(ends) * 2.2
    look.log_scale(rows.axes, low, high, section.unit)
    for line, y in zip(lines, rows.places, strict=True):
        if line.interval and line.interval.value > 0:
            _band(rows.axes, line, y, (low, high))
            _dot(rows.axes, line.interval, y, colours[line.subject.system], line.reason)
        else:
            _missing(rows.axes, y, line.reason)
    title = TITLES[section.key]
    better = "higher is better" if section.higher_is_better else "lower is better"
    alt = (
        f"{title}, one row per system, with intervals and published ranges; the table below has the figures."
    )
    under = f"{section.condition} · {better} · shaded: the published range"
    return rows.save(folder, section.key, title, under, alt)


def _rows(
    groups: Sequence[str], labels: Sequence[str], figures: Sequence[tuple[str, str]], drawn: str
) -> Rows:
    """Axes with one named row per label, under the heading of its group; `drawn` as in `marks.named`."""
    places: list[float] = []
    heads: list[tuple[float, str]] = []
    y, before = 0.0, ""
    for group in groups:
        if group != before:
            y += 0.35 if before else 0.0
            heads.append((y, GROUP_NAMES.get(group, group)))
            y, before = y + 0.95, group
        places.append(y)
        y += 1
    foot = look.foot(marks.named(figures, drawn))
    drawing = look.figure(y * ROW_IN + 1.25 + look.foot_in(foot))
    axes = look.frame(
        drawing,
        left_in=0.3 + look.CHARACTER_IN * max(map(len, labels)),
        right_in=LABEL_IN,
        top_in=0.68,
        bottom_in=0.5 + look.foot_in(foot),
    )
    axes.set_ylim(y - 0.35, -0.6)
    axes.set_yticks(places, labels, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for place, words in heads:
        axes.annotate(
            words, (0, place), (-8, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="center", color=MUTED, fontsize=8, fontstyle="italic",
        )  # fmt: skip
    return Rows(drawing, axes, places, foot)


def _extent(line: Line) -> list[float]:
    interval, figure = line.interval, line.published
    found = [interval.value, interval.low, interval.high] if interval else []
    found += list(figure.bounds) if figure else []
    return [bound for bound in found if bound is not None and bound > 0]


def _band(axes: Axes, line: Line, y: float, ends: tuple[float, float]) -> None:
    if line.published is None or line.published.bounds == (None, None):
        return
    low, high = line.published.bounds
    left, right = ends[0] if low is None else low, ends[1] if high is None else high
    axes.barh(y, right - left, left=left, height=0.74, color=BAND, linewidth=0, zorder=1)


def _missing(axes: Axes, y: float, reason: str) -> None:
    """Why a row has no figure."""
    words = textwrap.shorten(f"no figure: {reason or 'not above 0'}", REASON_CHARACTERS, placeholder=" …")
    axes.annotate(
        words, (0, y), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
        va="center", color=MUTED, fontsize=8, fontstyle="italic",
    )  # fmt: skip


def _dot(axes: Axes, interval: Interval, y: float, colour: str, reason: str) -> None:
    """A figure with its interval, its number and its marks; hollow where there is a doubt."""
    _mark(axes, interval, y, colour, reason)
    right = interval.value if interval.high is None else interval.high
    _words(axes, marked(number(interval.value), marks.marks(reason)), right, y)


def _mark(axes: Axes, interval: Interval, y: float, colour: str, reason: str, shape: str = "o") -> None:
    if interval.low is not None and interval.high is not None:
        ends = [interval.low, interval.high]
        axes.plot(ends, [y, y], color=colour, linewidth=2, solid_capstyle="butt", zorder=3)
    fill = look.PAPER if marks.grave(reason) else colour
    axes.plot([interval.value], [y], shape, color=colour, markerfacecolor=fill, markersize=5.5, zorder=4)


def _words(axes: Axes, words: str, right: float, y: float) -> None:
    """Words right of what is drawn in a row."""
    axes.annotate(
        words, (right, y), (7, 0), textcoords="offset points", va="center", color=INK, fontsize=8.5, zorder=5
    )


STARTS: Final = {"warm": "o", "cold": "s"}


def startup(rows: Sequence[Measured], colours: Mapping[str, str], folder: Path) -> Chart | None:
    """Cold and warm start of every system on one row; one without either keeps its row, with the reason."""
    starts: dict[Subject, dict[str, Measured]] = {}
    for row in rows:
        if row.scenario == "startup" and row.metric in ("startup", ""):
            starts.setdefault(row.subject, {})[str(row.params.get("start", "warm"))] = row
    figures = [row for found in starts.values() for row in found.values() if row.interval]
    values = [row.interval.value for row in figures if row.interval]
    if not values:
        return None
    order = sorted(starts, key=lambda subject: (subject.floor, _best(starts[subject])))
    shown = _rows(
        ["floor" if subject.floor else "systems" for subject in order],
        [look.label(subject) for subject in order],
        [(look.label(row.subject), row.reason) for row in figures],
        "hollow",
    )
    look.log_scale(shown.axes, min(values) / 1.5, max(values) * 2, "s")
    for subject, y in zip(order, shown.places, strict=True):
        colour, found = colours[subject.system], starts[subject]
        both = [row.interval.value for row in found.values() if row.interval]
        if not both:
            _missing(shown.axes, y, next(iter(found.values())).reason)
            continue
        shown.axes.plot([min(both), max(both)], [y, y], color=colour, linewidth=1.2, zorder=2)
        words = []
        for start, shape in STARTS.items():
            one = found.get(start)
            if one and one.interval:
                _mark(shown.axes, one.interval, y, colour, one.reason, shape)
                words.append(marked(number(one.interval.value), marks.marks(one.reason)))
            elif one:
                words.append(f"no {start} figure")
        _words(shown.axes, " → ".join(words), max(both), y)
    title = "From spawn to first task"
    under = "a task is already waiting · circle: warm, square: cold · lower is better"
    alt = "Startup time of each system, warm and cold, as in the table."
    return shown.save(folder, "startup", title, under, alt)


def _best(found: Mapping[str, Measured]) -> float:
    return min((row.interval.value for row in found.values() if row.interval), default=math.inf)


def stack(section: Section, folder: Path) -> Chart | None:
    """Idle PSS of every system, stacked by role; a doubtful part is hatched."""
    parts = [line for line in section.lines if line.interval and line.part not in ("", "total")]
    if not parts:
        return None
    lines = [line for line in section.lines if line.asked and (line.whole or line in parts)]
    group = {line.subject: line.group for line in lines}
    order = list(group)
    rows = _rows(
        list(group.values()),
        [look.label(subject) for subject in order],
        [(look.label(line.subject), line.reason) for line in lines if line.interval],
        "hatched",
    )
    ends = dict.fromkeys(order, 0.0)
    named: set[str] = set()
    for role in look.ROLES:
        for line in (line for line in parts if line.part == role and line.interval):
            width = line.interval.value if line.interval else 0.0
            y = rows.places[order.index(line.subject)]
            rows.axes.barh(
                y, width, left=ends[line.subject], height=0.66, color=look.ROLES[role], edgecolor=look.PAPER,
                linewidth=1, label=None if role in named else role, hatch="////" * marks.grave(line.reason),
            )  # fmt: skip
            named.add(role)
            ends[line.subject] += width
    totals = {line.subject: line for line in lines if line.whole}
    for subject, y in zip(order, rows.places, strict=True):
        total = totals.get(subject)
        if total and total.interval:
            words = marked(number(total.interval.value), marks.marks(total.reason))
            _words(rows.axes, words, ends[subject], y)
        elif total:
            _missing(rows.axes, y, total.reason)
    rows.axes.set_xlim(0, max(ends.values()) * 1.15)
    rows.axes.set_xlabel("MB, PSS")
    legend = rows.axes.legend(loc="lower right", ncols=1, fontsize=8.5, handlelength=1, handleheight=1)
    for patch in legend.get_patches():
        patch.set_hatch("")
    title = "Where idle memory goes"
    under = "whole stack at rest, broker included · lower is better"
    alt = "Idle PSS of each system, stacked by role, as in the table."
    return rows.save(folder, "memory", title, under, alt)
