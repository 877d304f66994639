"""Charts with one row per system: dots with intervals, stacked bars, pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.stats import Interval
from reports import look, published
from reports.lines import Line, Section
from reports.look import BAND, INK, MUTED, Chart
from reports.measured import Measured, Subject
from reports.tables import number
from reports.texts import GROUP_NAMES

TITLES: Final = {
    "throughput": "How fast a full queue drains",
    "latency": "How soon 95 of 100 tasks start",
}
ROW_IN: Final = 0.29
"""Height of one row."""


def dots(section: Section, colours: Mapping[str, str], folder: Path) -> Chart | None:
    """A dot with its interval for every line, the published range as a band behind it."""
    lines = [line for line in section.lines if line.interval and line.interval.value > 0]
    if not lines:
        return None
    drawing, axes, places = _rows(
        [line.group for line in lines], [look.label(line.subject) for line in lines]
    )
    ends = [bound for line in lines for bound in _extent(line)]
    low, high = min(ends) / 1.6, max(ends) * 2.2
    look.log_scale(axes, low, high, section.unit)
    for line, y in zip(lines, places, strict=True):
        _band(axes, line, y, (low, high))
        if line.interval:
            _dot(axes, line.interval, y, colours[line.subject.system], bool(published.unfit(line.reason)))
    title = TITLES[section.key]
    better = "higher is better" if section.higher_is_better else "lower is better"
    look.head(drawing, title, f"{section.condition} · {better} · shaded: the published range")
    alt = (
        f"{title}, one row per system, with intervals and published ranges; the table below has the figures."
    )
    return look.save(drawing, folder, section.key, title, alt)


def _rows(groups: Sequence[str], labels: Sequence[str]) -> tuple[Figure, Axes, list[float]]:
    """Axes with one named row per label, under the heading of its group; returns each row's place."""
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
    drawing = look.figure(y * ROW_IN + 1.25)
    axes = look.frame(
        drawing,
        left_in=0.3 + look.CHARACTER_IN * max(map(len, labels)),
        right_in=0.25,
        top_in=0.68,
        bottom_in=0.5,
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
    return drawing, axes, places


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


def _dot(axes: Axes, interval: Interval, y: float, colour: str, unfit: bool) -> None:
    """A figure with its interval and its number; hollow when it is unfit for comparison."""
    _mark(axes, interval, y, colour, hollow=unfit)
    right = interval.value if interval.high is None else interval.high
    axes.annotate(
        number(interval.value), (right, y), (7, 0), textcoords="offset points", va="center", color=INK,
        fontsize=8.5, zorder=5,
    )  # fmt: skip


def _mark(axes: Axes, interval: Interval, y: float, colour: str, hollow: bool) -> None:
    if interval.low is not None and interval.high is not None:
        ends = [interval.low, interval.high]
        axes.plot(ends, [y, y], color=colour, linewidth=2, solid_capstyle="butt", zorder=3)
    fill = look.PAPER if hollow else colour
    axes.plot([interval.value], [y], "o", color=colour, markerfacecolor=fill, markersize=5.5, zorder=4)


def startup(rows: Sequence[Measured], colours: Mapping[str, str], folder: Path) -> Chart | None:
    """Cold and warm start of every system on one row."""
    starts: dict[Subject, dict[str, Measured]] = {}
    for row in rows:
        if row.metric == "startup" and row.interval and row.interval.value > 0:
            starts.setdefault(row.subject, {})[str(row.params.get("start", "warm"))] = row
    if not starts:
        return None
    order = sorted(starts, key=lambda subject: (subject.floor, _best(starts[subject])))
    groups = ["floor" if subject.floor else "systems" for subject in order]
    drawing, axes, places = _rows(groups, [look.label(subject) for subject in order])
    values = [row.interval.value for found in starts.values() for row in found.values() if row.interval]
    look.log_scale(axes, min(values) / 1.5, max(values) * 2, "s")
    for subject, y in zip(order, places, strict=True):
        colour, found = colours[subject.system], starts[subject]
        both = [row.interval.value for row in found.values() if row.interval]
        axes.plot([min(both), max(both)], [y, y], color=colour, linewidth=1.2, zorder=2)
        for start, row in found.items():
            if row.interval:
                _mark(axes, row.interval, y, colour, hollow=start == "cold")
        ordered = [found[start].interval for start in ("warm", "cold") if start in found]
        words = " → ".join(number(interval.value) for interval in ordered if interval)
        axes.annotate(
            words, (max(both), y), (8, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK
        )
    title = "From spawn to first task"
    look.head(drawing, title, "a task is already waiting · filled: warm, hollow: cold · lower is better")
    alt = "Startup time of each system, warm and cold, as in the table."
    return look.save(drawing, folder, "startup", title, alt)


def _best(found: Mapping[str, Measured]) -> float:
    return min(row.interval.value for row in found.values() if row.interval)


def stack(section: Section, folder: Path) -> Chart | None:
    """Idle PSS of every system, stacked by role."""
    parts = [line for line in section.lines if line.interval and line.part not in ("", "total")]
    if not parts:
        return None
    order = list(dict.fromkeys(line.subject for line in parts))
    group = {line.subject: line.group for line in parts}
    roles = [role for role in look.ROLES if any(line.part == role for line in parts)]
    drawing, axes, places = _rows(
        [group[subject] for subject in order], [look.label(subject) for subject in order]
    )
    ends = dict.fromkeys(order, 0.0)
    for role in roles:
        for line in (line for line in parts if line.part == role and line.interval):
            width = line.interval.value if line.interval else 0.0
            y = places[order.index(line.subject)]
            axes.barh(
                y, width, left=ends[line.subject], height=0.66, color=look.ROLES[role], edgecolor=look.PAPER,
                linewidth=1, label=role if role not in axes.get_legend_handles_labels()[1] else None,
            )  # fmt: skip
            ends[line.subject] += width
    totals = {line.subject: line.interval for line in section.lines if line.whole and line.interval}
    for subject, y in zip(order, places, strict=True):
        if subject in totals:
            words = number(totals[subject].value)
            axes.annotate(
                words, (ends[subject], y), (6, 0), textcoords="offset points", va="center", fontsize=8.5
            )
    axes.set_xlim(0, max(ends.values()) * 1.12)
    axes.set_xlabel("MB, PSS")
    axes.legend(loc="lower right", ncols=1, fontsize=8.5, handlelength=1, handleheight=1)
    title = "Where idle memory goes"
    look.head(drawing, title, "whole stack at rest, broker included · lower is better")
    alt = "Idle PSS of each system, stacked by role, as in the table."
    return look.save(drawing, folder, "memory", title, alt)
