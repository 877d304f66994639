"""Charts of a soak over time: P95 dispatch latency of each system, and memory of its parts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from bench.stats import Interval
from reports import look, marks
from reports.curves import LINES
from reports.lines import condition
from reports.look import GRID, INK, Chart
from reports.measured import Measured, Params, Subject
from reports.survey import choose

P95: Final = re.compile(r"dispatch_latency_part(\d\d)of(\d\d)_p95")
PSS: Final = re.compile(r"loaded_pss_part(\d\d)of(\d\d)\.(.+)")
RATE: Final = "success_rate"
UNITS: Final = {"s": "s", "m": "min", "h": "h"}

LEGEND_IN: Final = 2.9
COLUMNS: Final = 3
PANEL_IN: Final = 2.1

Kept = TypeVar("Kept")
Points = dict[float, Measured]
"""Figures by how far into the soak they were taken, in its unit of time."""


def latency(rows: Sequence[Measured], colours: Mapping[str, str], folder: Path) -> Chart | None:
    """P95 of every part of the soak, a line for each default variant; hollow where there is a doubt."""
    own = _condition(rows)
    shown: dict[Subject, Points] = {}
    for row in own:
        if (match := P95.fullmatch(row.metric)) and row.interval and row.interval.value > 0:
            shown.setdefault(row.subject, {})[_middle(row, match)] = row
    shown = _defaults(shown)
    if not shown:
        return None
    figures = [row for points in shown.values() for row in points.values()]
    values = [end for row in figures if row.interval for end in _ends(row.interval)]
    lasts, unit = _lasts(figures[0].params)
    foot = look.foot(marks.named([(look.label(row.subject), row.reason) for row in figures], "hollow"))
    drawing = look.figure(max(3.0, 0.24 * len(shown)) + 1.25 + look.foot_in(foot))
    axes = look.frame(drawing, 0.75, LEGEND_IN, 0.72, 0.53 + look.foot_in(foot))
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 1.4, max(values) * 1.4)
    few = math.log10(max(values) / min(values) * 2) < 2.5
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _time_axis(axes, lasts, f"time since the soak began, {unit}")
    for subject, points in shown.items():
        same = [other for other in shown if other.system == subject.system]
        line = LINES[same.index(subject) % len(LINES)]
        _line(axes, points, colours[subject.system], line, look.label(subject))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), fontsize=8.5)
    title = "Latency over a soak"
    look.head(drawing, title, f"P95 dispatch latency of each part, ms · {_words(figures[0])}")
    look.write_foot(drawing, foot)
    alt = "P95 dispatch latency of each system over the time of the soak."
    return look.save(drawing, folder, "soak-latency", title, " ".join([alt, *foot]))


def memory(rows: Sequence[Measured], folder: Path) -> Chart | None:
    """PSS by role over time, one panel for each default variant."""
    own = _condition(rows)
    found: dict[Subject, dict[str, Points]] = {}
    for row in own:
        if (match := PSS.fullmatch(row.metric)) and row.interval and match[3] != "total":
            found.setdefault(row.subject, {}).setdefault(match[3], {})[_middle(row, match)] = row
    shown = _defaults(found)
    if not shown:
        return None
    figures = [row for roles in shown.values() for points in roles.values() for row in points.values()]
    lasts, unit = _lasts(figures[0].params)
    roles = [role for role in look.ROLES if any(role in points for points in shown.values())]
    foot = look.foot(marks.named([(look.label(row.subject), row.reason) for row in figures], "hollow"))
    lines = math.ceil(len(shown) / COLUMNS)
    drawing = look.figure(1.15 + PANEL_IN * lines + look.foot_in(foot))
    height_in = float(drawing.get_size_inches()[1])
    for place, (subject, by_role) in enumerate(shown.items()):
        x_in = 0.55 + (place % COLUMNS) * 2.75
        y_in = height_in - 0.95 - (place // COLUMNS + 1) * PANEL_IN + 0.45
        size = (2.3 / look.WIDTH_IN, (PANEL_IN - 0.7) / height_in)
        axes = drawing.add_axes((x_in / look.WIDTH_IN, y_in / height_in, *size))
        axes.set_axisbelow(True)
        axes.grid(True, axis="y", color=GRID, linewidth=0.8)
        axes.set_title(look.label(subject), loc="left", fontsize=9, color=INK)
        axes.tick_params(labelsize=8)
        for role, points in by_role.items():
            _line(axes, points, look.ROLES[role], "-", role)
        axes.set_ylim(0, 1.12 * axes.dataLim.y1)
        _time_axis(axes, lasts, unit)
    handles = [
        drawing.axes[0].plot([], [], color=look.ROLES[role], linewidth=1.8, label=role)[0] for role in roles
    ]
    at = (0.008, 1 - 0.52 / height_in)
    drawing.legend(handles=handles, loc="upper left", bbox_to_anchor=at, ncols=len(roles), fontsize=8.5)
    title = "Memory over a soak, by role"
    look.head(drawing, title, f"median PSS of each part, MB · {_words(figures[0])}")
    look.write_foot(drawing, foot)
    alt = "PSS of each role of each system over the time of the soak."
    return look.save(drawing, folder, "soak-memory", title, " ".join([alt, *foot]))


def _condition(rows: Sequence[Measured]) -> list[Measured]:
    """The figures under the condition that most systems share."""
    own = [row for row in rows if row.scenario == "soak"]
    rates = [row for row in own if row.metric in (RATE, "")]
    text = choose(rates, "soak", lambda params: True)
    return [row for row in own if row.params_text == text]


def _defaults(found: Mapping[Subject, Kept]) -> dict[Subject, Kept]:
    """The default variants, or all where there is none, floors last."""
    order = sorted(found, key=lambda s: (s.floor, s.title, s.variant))
    kept = [subject for subject in order if subject.default] or order
    return {subject: found[subject] for subject in kept}


def _lasts(params: Params) -> tuple[float, str]:
    """How long the plan of a soak lasts, in the unit in which it was asked for."""
    text = str(params.get("duration", "10m"))
    return float(text[:-1]) / float(params.get("compress", 1)), UNITS[text[-1]]


def _middle(row: Measured, match: re.Match[str]) -> float:
    """The middle of a part of the plan."""
    return (int(match[1]) - 0.5) / int(match[2]) * _lasts(row.params)[0]


def _words(row: Measured) -> str:
    return condition("soak", row.params)


def _time_axis(axes: Axes, lasts: float, label: str) -> None:
    axes.set_xlim(0, lasts)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(label, fontsize=8.5)


def _ends(found: Interval) -> list[float]:
    """What of a figure a logarithmic axis must have room for."""
    return [end for end in (found.low, found.value, found.high) if end is not None and end > 0]


def _line(axes: Axes, points: Points, colour: str, line: str, label: str) -> None:
    """A line through figures, with their intervals; hollow dots where there is a doubt."""
    kept = {at: row.interval for at, row in sorted(points.items()) if row.interval}
    places, values = np.array(list(kept)), np.array([found.value for found in kept.values()])
    steps = np.diff(places)
    # Where nothing is known of a part, as while the harness was down, the line is broken.
    gaps = np.flatnonzero(steps > 1.5 * steps.min(initial=np.inf)) + 1
    axes.plot(
        np.insert(places, gaps, np.nan),
        np.insert(values, gaps, np.nan),
        line,
        color=colour,
        linewidth=1.4,
        label=label,
    )
    for at, found in kept.items():
        if found.low is not None and found.high is not None:
            axes.plot([at, at], [found.low, found.high], color=colour, linewidth=0.8, alpha=0.5)
        fill = look.PAPER if marks.grave(points[at].reason) else colour
        axes.plot([at], [found.value], "o", color=colour, markerfacecolor=fill, markersize=3.2, zorder=4)
