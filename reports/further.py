"""The tables beside the survey's: all conditions, what was counted, published elsewhere, calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.model import Role
from bench.store import Run
from reports import (
    accounts,
    calibration,
    faults,
    footprint,
    knees,
    marks,
    parity,
    published,
    schedules,
    soaks,
)
from reports.lines import condition
from reports.measured import Measured, measured
from reports.published import Figure, Verdict
from reports.tables import (
    NONE,
    Column,
    Entry,
    Footnotes,
    Group,
    Table,
    counts_text,
    interval_text,
    number,
)

ROLES: Final = tuple(role.value for role in Role if role is not Role.HARNESS)


@dataclass(frozen=True)
class Grid:
    """A table of several metrics of one scenario, one row per condition and system."""

    key: str
    title: str
    lead: str
    scenario: str
    metrics: Mapping[str, str]  # metric -> heading


GRIDS: Final = (
    Grid(
        "latency-all",
        "Dispatch latency in full",
        "Due to start, in ms, under every load that was offered. The lag is the harness's own: how late it "
        "sent the task.",
        "latency",
        {
            "dispatch_latency_p50": "P50",
            "dispatch_latency_p95": "P95",
            "dispatch_latency_p99": "P99",
            "dispatch_latency_max": "Max",
            "submit_to_start_p95": "P95 from submit",
            "generator_lag_p99": "Lag P99",
        },
    ),
    Grid(
        "throughput-all",
        "Throughput in full",
        "Tasks per second of the drain, and of one client that submits as fast as it can.",
        "throughput",
        {"throughput": "Drain, tasks/s", "submit_rate": "Submit, tasks/s"},
    ),
    Grid(
        "capacity",
        "Highest sustainable rate",
        "The highest open-loop rate that was sustained, and P95 dispatch latency in ms at shares of it.",
        "capacity",
        {"sustainable_rate": "Sustained, tasks/s"}
        | {f"dispatch_latency_at{percent}_p95": f"P95 at {percent} %" for percent in (10, 30, 50, 70, 90)},
    ),
    Grid(
        "concurrency",
        "Concurrent jobs in full",
        "So many tasks become due at once. A figure is the median of the bursts of a trial. The ideal is "
        "that of slots which are never idle; a burst of which a task was lost is never cleared.",
        "concurrency",
        {
            "success": "Ok, %",
            "dispatch_latency_p50": "P50, ms",
            "dispatch_latency_p95": "P95, ms",
            "dispatch_latency_max": "Max, ms",
            "ideal_latency_p95": "Ideal P95, ms",
            "clear_time": "Time, s",
            "ideal_time": "Ideal time, s",
            "efficiency": "Efficiency, %",
        },
    ),
    Grid(
        "cpu-all",
        "CPU cost",
        "CPU time of the whole stack for each task above idle, its own work included; what of that is not "
        "the task's own work; and CPU time at rest.",
        "cpu",
        {
            "cpu_efficiency": "Efficiency, %",
            "cpu_per_task.total": "CPU per task, ms",
            "cpu_overhead_per_task": "Overhead per task, ms",
            "idle_cpu.total": "Idle CPU, ms/s",
        },
    ),
    Grid(
        "memory-all",
        "Memory, idle and loaded",
        "Sums over the whole stack, in MB.",
        "memory",
        {
            "idle_pss.total": "Idle PSS",
            "loaded_pss.total": "Loaded PSS",
            "peak_pss.total": "Peak PSS",
            "idle_uss.total": "Idle USS",
            "idle_rss.total": "Idle RSS",
            "growth_pss_per_1000": "Growth per 1000 tasks",
            "growth_pss_per_hour": "Growth per hour",
        },
    ),
    Grid(
        "startup",
        "Startup",
        "From just before the processes that run tasks are spawned to the start of a task that was already "
        "waiting. What must be there before is timed apart: services such as a broker or a database, the "
        "migration of a database, and servers.",
        "startup",
        {
            "startup": "Startup, s",
            "set_up.services": "Services, s",
            "set_up.migration": "Migration, s",
            "set_up.servers": "Servers, s",
        },
    ),
    Grid(
        "soak-growth",
        "Memory growth in a soak, by role",
        "What the PSS of each role grows by per hour, in MB: the slope of a straight line (Theil and Sen) "
        "through the samples after the first tenth, with a block bootstrap interval.",
        "soak",
        {f"growth_pss_per_hour.{role}": role.capitalize() for role in (*ROLES, "total")},
    ),
)


def further_tables(run: Run) -> list[Table]:
    """Every table beside the survey's that has a row."""
    rows = measured(run)
    grids = [_grid(grid, rows) for grid in GRIDS]
    tables = [
        soaks.table(run),
        *faults.tables(run),
        *schedules.tables(run),
        *knees.tables(run),
        *grids,
        *footprint.tables(run),
        *parity.tables(run),
        *accounts.tables(run),
        _elsewhere(rows),
        *calibration.tables(run),
    ]
    return [table for table in tables if table.stated or not table.empty]


def _grid(grid: Grid, rows: Sequence[Measured]) -> Table:
    own = [row for row in rows if row.scenario == grid.scenario and row.metric in grid.metrics]
    heads = [heading for metric, heading in grid.metrics.items() if any(row.metric == metric for row in own)]
    metrics = {heading: metric for metric, heading in grid.metrics.items()}
    by_condition: dict[str, dict[tuple[str, str], dict[str, Measured]]] = {}
    for row in own:
        words = condition(row.scenario, row.params)
        by_condition.setdefault(words, {}).setdefault(row.subject.key, {})[row.metric] = row
    notes = Footnotes()
    groups = []
    for words, members in sorted(by_condition.items(), key=lambda item: _natural(item[0])):
        found = []
        for figures in sorted(members.values(), key=lambda found: _floors_last(next(iter(found.values())))):
            first = next(iter(figures.values()))
            entries = [Entry(first.subject.title), Entry(first.subject.variant)]
            for heading in heads:
                row_or_none = figures.get(metrics[heading])
                entries.append(_entry(row_or_none, notes))
            most = max(figures.values(), key=lambda row: row.trials)
            found.append((*entries, Entry(counts_text(most.trials, most.tasks))))
        groups.append(Group(words, tuple(found)))
    columns = [
        Column("System"),
        Column("Variant"),
        *(Column(head, True) for head in heads),
        Column("n", True),
    ]
    records = tuple(_record(row) for row in own)
    texts, legend = tuple(notes.texts), notes.legend
    return Table(grid.key, grid.title, grid.lead, tuple(columns), tuple(groups), texts, records, legend)


def _entry(row: Measured | None, notes: Footnotes) -> Entry:
    ends = interval_text(row.interval) if row else NONE
    return notes.beside(row, sub="" if ends == NONE else ends)


def _record(row: Measured) -> dict[str, Any]:
    interval = row.interval
    return {
        "system": row.subject.system,
        "variant": row.subject.variant,
        "condition": condition(row.scenario, row.params),
        "metric": row.metric,
        "value": interval.value if interval else None,
        "unit": row.unit,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "trials": row.trials,
        "tasks": row.tasks,
        "status": row.status,
        "marks": marks.words(row.reason),
        "reason": row.reason,
    }


# --- published elsewhere ----------------------------------------------------------------------------

ELSEWHERE_TABLES: Final = ("S1 throughput", "S1 footprint", "explainer")
_FACTORS: Final = {"tasks/min": 1 / 60}


def _elsewhere(rows: Sequence[Measured]) -> Table:
    """Published figures outside S2 of quantities that this run measured."""
    records, groups = [], []
    notes = Footnotes()
    for figure in published.load():
        if figure.table not in ELSEWHERE_TABLES:
            continue
        for row, scaled in _counterparts(figure, rows):
            verdict = published.judge(scaled, row.interval, row.reason)
            records.append({**_record(row), "published": figure.id, "verdict": str(verdict)})
            groups.append(_elsewhere_row(figure, scaled, row, verdict, notes))
    labels = [
        "Published in",
        "System",
        "Variant",
        "Metric",
        "Measured",
        "Interval",
        "n",
        "Published",
        "Verdict",
    ]
    columns = tuple(Column(label, label in ("Measured", "Interval", "n", "Published")) for label in labels)
    lead = (
        "Figures that the survey and its companions give in other places for what this run measured as well."
    )
    title = "Other published figures"
    rows_shown, texts = (Group("", tuple(groups)),), tuple(notes.texts)
    return Table("elsewhere", title, lead, columns, rows_shown, texts, tuple(records), notes.legend)


def _elsewhere_row(
    figure: Figure, scaled: Figure, row: Measured, verdict: Verdict, notes: Footnotes
) -> tuple[Entry, ...]:
    word = str(verdict.word)
    return (
        Entry(figure.table, figure.condition),
        Entry(row.subject.title),
        Entry(row.subject.variant),
        Entry(row.metric, condition(row.scenario, row.params)),
        notes.figure(row.interval, row.reason, sub=row.unit),
        Entry(interval_text(row.interval)),
        Entry(counts_text(row.trials, row.tasks)),
        Entry(
            f"{_published(scaled)} {scaled.unit}",
            "" if scaled.unit == figure.unit else f"{figure.text} {figure.unit}",
        ),
        Entry(word, verdict.why, tone="unclear" if word.startswith("not") else word),
    )


def _published(figure: Figure) -> str:
    single = figure.low is not None and figure.low == figure.high
    return number(figure.low) if single and figure.low is not None else figure.text


def _counterparts(figure: Figure, rows: Sequence[Measured]) -> Iterator[tuple[Measured, Figure]]:
    """The measured figures of the same quantity, each with the published one in its unit."""
    factor = _FACTORS.get(figure.unit, 1.0)
    low, high = (None if bound is None else bound * factor for bound in (figure.low, figure.high))
    for row in rows:
        name = published.measured_name(figure, row.subject.in_process)
        survey_drain = row.scenario != "throughput" or condition(row.scenario, row.params) == "1000 tasks"
        if row.metric == name and published.concerns(figure, row.subject) and survey_drain:
            unit = row.unit if factor != 1 else figure.unit
            yield row, published.Figure(**{**figure.__dict__, "low": low, "high": high, "unit": unit})


def _natural(words: str) -> tuple[Any, ...]:
    """Sort `2 s` before `10 s`."""
    return tuple(
        (0, float(part), "") if part.replace(".", "", 1).isdigit() else (1, 0.0, part)
        for part in words.split()
    )


def _floors_last(row: Measured) -> tuple[bool, str, str]:
    return row.subject.floor, row.subject.title, row.subject.variant
