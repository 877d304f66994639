"""Charts of curves: the distribution of every dispatch latency, and CPU efficiency against task length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes

from bench.store import Run
from reports import look, marks, published
from reports.latencies import by_variant
from reports.lines import Section
from reports.look import BAND, GRID, INK, MUTED, Chart
from reports.measured import Measured, Subject
from reports.tables import value_text

LINES: Final = ("-", "--", ":", "-.")
"""Variants of one system share its colour and differ in their line."""
MARGINS_IN: Final = (0.65, 1.9)
"""Left and right of the distribution; names may run into the right one."""


def distribution(run: Run, section: Section, colours: Mapping[str, str], folder: Path) -> Chart | None:
    """What share of the tasks had started after how long: one curve per default variant, trials pooled."""
    samples = by_variant(run, section.params_text)
    subjects = {line.subject.key: line.subject for line in section.lines if line.interval}
    shown = [subjects[key] for key in sorted(samples) if key in subjects and len(samples[key])]
    shown = [subject for subject in shown if subject.default] or shown
    if not shown:
        return None
    values = {subject: np.maximum(samples[subject.key], 1e-3) for subject in shown}
    low, high = (float(f([f(sample) for sample in values.values()])) for f in (np.min, np.max))
    low, high = low / 1.3, high * 1.3
    p95 = {subject: float(np.quantile(values[subject], 0.95)) for subject in shown}
    tabled = {line.subject: line for line in section.lines}
    figures = {
        subject: marks.marked(value_text(tabled[subject].interval), marks.marks(tabled[subject].reason))
        for subject in shown
    }
    names = _stair(
        [(p95[subject], f"{look.label(subject)}  {figures[subject]}") for subject in shown], low, high
    )
    top_in = 0.95 + 0.18 * (1 + max(row for row, _, _ in names))
    foot = look.foot(
        [
            *marks.named([(look.label(subject), tabled[subject].reason) for subject in shown], "hollow"),
            *look.absent(_without_curve(section, shown)),
        ]
    )
    drawing = look.figure(3.9 + top_in + look.foot_in(foot))
    axes = look.frame(drawing, MARGINS_IN[0], MARGINS_IN[1], top_in, bottom_in=0.5 + look.foot_in(foot))
    look.log_scale(axes, low, high, "dispatch latency, ms")
    for subject, (row, at, words) in zip(shown, names, strict=True):
        colour, sample = colours[subject.system], values[subject]
        share = np.arange(1, len(sample) + 1) / len(sample) * 100
        axes.plot(sample, share, _line(subject, shown), color=colour, linewidth=1.8, drawstyle="steps-post")
        fill = look.PAPER if marks.grave(tabled[subject].reason) else colour
        axes.plot([at], [95], "o", color=colour, markerfacecolor=fill, markersize=5, zorder=5)
        _name(axes, at, words, row, colour)
    axes.set_ylim(0, 100.5)
    axes.set_yticks([0, 25, 50, 75, 95], ["0 %", "25 %", "50 %", "75 %", "95 %"])
    axes.axhline(95, color=GRID, linewidth=0.8, zorder=0)
    title = "Dispatch latency of every task"
    under = f"share of tasks that have started · {section.condition} · named with the P95 of the table, ms"
    look.head(drawing, title, under)
    look.write_foot(drawing, foot)
    alt = "Cumulative distribution of dispatch latency for each system, each labelled with its P95."
    return look.save(drawing, folder, "latency-distribution", title, " ".join([alt, *foot]))


def _without_curve(section: Section, shown: Sequence[Subject]) -> dict[str, str]:
    """The default variants that were measured and have no curve, and why."""
    missing = [
        line for line in section.lines if line.asked and line.subject.default and line.subject not in shown
    ]
    return {look.label(line.subject): line.reason or "its tasks were not kept" for line in missing}


def _line(subject: Subject, shown: Sequence[Subject]) -> str:
    same = [other for other in shown if other.system == subject.system]
    return LINES[same.index(subject) % len(LINES)]


def _stair(marks: Sequence[tuple[float, str]], low: float, high: float) -> list[tuple[int, float, str]]:
    """A row above the plot for the name of each mark, so that no name or leader crosses another.

    A name runs to the right of its mark, so it must lie above the leaders of all marks that it covers.
    """
    width_in = look.WIDTH_IN - sum(MARGINS_IN)

    def place_in(at: float) -> float:
        return width_in * math.log10(at / low) / math.log10(high / low)

    rows: dict[int, int] = {}
    for i in sorted(range(len(marks)), key=lambda i: -marks[i][0]):
        end_in = place_in(marks[i][0]) + len(marks[i][1]) * look.CHARACTER_IN
        rows[i] = max((row + 1 for j, row in rows.items() if place_in(marks[j][0]) <= end_in), default=0)
    return [(rows[i], at, words) for i, (at, words) in enumerate(marks)]


def _name(axes: Axes, at: float, words: str, row: int, colour: str) -> None:
    """The name of a curve in a row above the plot, with a leader from its P95."""
    up = 6 + 13 * row
    axes.plot([at, at], [95, 100.5], color=colour, linewidth=0.9, zorder=4)
    edge = ("data", "axes fraction")
    axes.annotate(
        "", (at, 1), (0, up + 9), xycoords=edge, textcoords="offset points",
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
    axes.annotate(words, (at, 1), (4, up), xycoords=edge, textcoords="offset points", fontsize=8.5, color=INK)


def efficiency(rows: Sequence[Measured], colours: Mapping[str, str], folder: Path) -> Chart | None:
    """CPU efficiency against the length of a task, one panel per system, the published range behind it."""
    asked = [row for row in rows if row.scenario == "cpu" and row.metric in ("cpu_efficiency", "")]
    own = [row for row in asked if row.interval]
    if not own:
        return None
    names = sorted({(row.subject.floor, row.subject.title, row.subject.system) for row in own})
    columns = 3
    lines = math.ceil(len(names) / columns)
    foot = look.foot(
        [
            *marks.named([(look.label(row.subject), row.reason) for row in own], "hollow"),
            *look.absent({look.label(row.subject): row.reason for row in asked if not row.interval}),
        ]
    )
    drawing = look.figure(0.75 + 2.05 * lines + look.foot_in(foot))
    height_in = float(drawing.get_size_inches()[1])
    work = sorted({_work_ms(row) for row in own})
    figures = [figure for figure in published.load() if figure.table == "S2 CPU efficiency"]
    for place, (_, name, system) in enumerate(names):
        x_in = 0.5 + (place % columns) * 2.75
        y_in = height_in - 0.75 - (place // columns + 1) * 2.05 + 0.45
        axes = drawing.add_axes(
            (x_in / look.WIDTH_IN, y_in / height_in, 2.3 / look.WIDTH_IN, 1.35 / height_in)
        )
        _panel(axes, [row for row in own if row.subject.system == system], colours[system], work)
        band = next((figure for figure in figures if figure.system == system), None)
        if band and band.low is not None and band.high is not None:
            axes.axhspan(band.low, band.high, color=BAND, linewidth=0, zorder=0)
        axes.set_title(name, loc="left", fontsize=9.5, color=INK)
    title = "How much of the CPU time is the tasks' own work"
    under = "% of all CPU time used, by length of a task · higher is better · shaded: the published range"
    look.head(drawing, title, under)
    look.write_foot(drawing, foot)
    alt = "CPU efficiency of each system against task length, as in the table."
    return look.save(drawing, folder, "cpu", title, " ".join([alt, *foot]))


def _panel(axes: Axes, rows: Sequence[Measured], colour: str, work: Sequence[float]) -> None:
    axes.set_axisbelow(True)
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(min(work) / 1.5, max(work) * 1.5)
    axes.set_xticks(work, [f"{ms:g} ms" for ms in work])
    axes.minorticks_off()
    axes.set_ylim(0, 105)
    axes.set_yticks([0, 50, 100])
    subjects = sorted({row.subject for row in rows}, key=lambda subject: subject.variant)
    for subject in subjects:
        points = sorted((row for row in rows if row.subject == subject), key=_work_ms)
        values = [row.interval.value for row in points if row.interval]
        at = [_work_ms(row) for row in points]
        axes.plot(at, values, _line(subject, subjects), color=colour, linewidth=1.6)
        for ms, row in zip(at, points, strict=True):
            _dot(axes, ms, row, colour)
            if row.interval and row.interval.low is not None and row.interval.high is not None:
                axes.plot([ms, ms], [row.interval.low, row.interval.high], color=colour, linewidth=2.2)
    for place, subject in enumerate(subjects):
        sample = LINES[place % len(LINES)]
        axes.plot([0.5, 0.58], [0.1 + 0.12 * place] * 2, sample, color=colour, transform=axes.transAxes)
        axes.text(
            0.61,
            0.1 + 0.12 * place,
            subject.variant,
            transform=axes.transAxes,
            va="center",
            fontsize=7.5,
            color=MUTED,
        )


def _dot(axes: Axes, ms: float, row: Measured, colour: str) -> None:
    """A figure; hollow, and with its sign, where there is a doubt."""
    if row.interval is None:
        return
    doubt = marks.grave(row.reason)
    fill = look.PAPER if doubt else colour
    axes.plot([ms], [row.interval.value], "o", color=colour, markerfacecolor=fill, markersize=4, zorder=4)
    if doubt:
        at = (ms, row.interval.value)
        axes.annotate(marks.DAGGER, at, (4, 4), textcoords="offset points", fontsize=8, color=INK)


def _work_ms(row: Measured) -> float:
    return float(row.params.get("work_ms", 10))
