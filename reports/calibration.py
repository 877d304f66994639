"""What a run says of its own measuring: its calibration, and the same system under two names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.stats import Interval, proportion_interval
from bench.store import Run
from reports import marks
from reports.tables import NONE, Column, Entry, Footnotes, Group, Table, interval_text, number
from reports.texts import TITLES

Row = Mapping[str, Any]

KINDS: Final = {"reference": True, "floor_pipe": False, "floor_redis": False}
"""The floors that a calibration measures, and whether each runs its tasks in one process."""

TITLE: Final = "Calibration of this run"
NOT_CALIBRATED: Final = (
    "Not calibrated: this run has no floors, probe costs or A/A comparisons of its own. Runs with "
    "--no-calibration and those of older releases have none."
)
LEAD: Final = (
    "Measured in this run, before its cells: the clock, what the probe and the sampler cost, and the floors."
)
WORDS: Final = {
    "clock_step": "smallest step of the clock",
    "clock_read": "reading the clock",
    "sleep_late_p50": "a sleep of 1 ms ends late by, P50",
    "sleep_late_p99": "a sleep of 1 ms ends late by, P99",
    "cost_per_task": "its stamps on a task",
    "throughput_on_off": "throughput with sampling to that without",
    "look_with_memory": "one look at a cell, memory included",
    "throughput": "throughput",
    "submit_rate": "submit rate",
    "dispatch_latency_p50": "P50 dispatch latency",
    "dispatch_latency_p95": "P95 dispatch latency",
}
"""What the metrics of a calibration are; one without words is named as it is."""
AA_TITLE: Final = "The same system under two names"
MOST_DIFFERENT: Final = 0.05
"""The share of A/A comparisons that chance alone may call different."""


def floors(run: Run, metric: str) -> dict[bool, list[Interval]]:
    """The floors that the calibration of a run gives for a metric, by whether they are in one process."""
    found: dict[bool, list[Interval]] = {}
    for row in _rows(run):
        system = next((name for name in KINDS if str(row["name"]).startswith(name)), None)
        interval = _interval(row)
        valid = marks.Mark.INVALID not in marks.marks(_note(row))
        if system and row["metric"] == metric and interval and valid:
            found.setdefault(KINDS[system], []).append(interval)
    return found


def tables(run: Run) -> list[Table]:
    """The calibration and the A/A comparisons; of a run without, a table that says so."""
    if not run.info.get("calibration"):
        return [Table("calibration", TITLE, NOT_CALIBRATED, (), (), stated=True)]
    aa = run.info["calibration"].get("aa")
    return [_calibration(run), *([_aa(aa)] if aa else [])]


def outcome(run: Run) -> str:
    """The calibration in one line."""
    calibration = run.info.get("calibration")
    if not calibration:
        return "not calibrated"
    seconds = calibration.get("seconds")
    words = [f"{len(calibration['rows'])} figures" + (f" in {seconds:.0f} s" if seconds else "")]
    aa = calibration.get("aa")
    return "; ".join([*words, f"A/A: {called_different(aa)}" if aa and aa.get("n") else "no A/A comparisons"])


def _rows(run: Run) -> Sequence[Row]:
    rows: Sequence[Row] = (run.info.get("calibration") or {}).get("rows", ())
    return rows


def _note(row: Row) -> str:
    return str(row.get("note") or "")


def _interval(row: Row) -> Interval | None:
    if row["value"] is None:
        return None
    return Interval(float(row["value"]), row.get("low"), row.get("high"), int(row.get("n") or 0), 0.95)


def _calibration(run: Run) -> Table:
    about, notes = run.info.get("systems", {}), Footnotes()
    rows: dict[str, list[tuple[Entry, ...]]] = {"The harness itself": [], "Floors": []}
    for row in _rows(run):
        interval, name, metric = _interval(row), str(row["name"]), str(row["metric"])
        rows["Floors" if name in KINDS else "The harness itself"].append(
            (
                Entry(about.get(name, {}).get("title") or TITLES.get(name, name)),
                Entry(WORDS.get(metric, metric)),
                notes.figure(interval, _note(row)),
                Entry(interval_text(interval)),
                Entry(str(row["unit"])),
                Entry(f"{row.get('n') or NONE}"),
            )
        )
    columns = (
        Column("Of"), Column("What"), Column("Measured", True), Column("Interval", True), Column("Unit"),
        Column("n", True),
    )  # fmt: skip
    groups = tuple(Group(title, tuple(own)) for title, own in rows.items() if own)
    records = tuple({**row, "marks": marks.words(_note(row))} for row in _rows(run))
    return Table("calibration", TITLE, LEAD, columns, groups, tuple(notes.texts), records, notes.legend)


def _aa(aa: Row) -> Table:
    lead = (
        f"{aa['system']} against itself, {aa['trials']} trials under each name. Nothing may differ: "
        f"{called_different(aa)}. By chance at most {100 * MOST_DIFFERENT:.0f} % may be."
    )
    rows = []
    for one in aa["comparisons"]:
        ratio = None if one["ratio"] is None else Interval(one["ratio"], one["low"], one["high"], 0, 0.95)
        rows.append(
            (
                Entry(WORDS.get(str(one["metric"]), str(one["metric"]))),
                Entry(_text(one["a"])),
                Entry(_text(one["b"])),
                Entry(str(one["unit"])),
                Entry(_text(one["ratio"])),
                Entry(interval_text(ratio)),
                Entry(_text(one["p"])),
                Entry(_text(one["p_adjusted"])),
                Entry(str(one["word"])),
            )
        )
    columns = (
        Column("Metric"), Column("A", True), Column("B", True), Column("Unit"), Column("Ratio", True),
        Column("Interval", True), Column("p", True), Column("p corrected", True), Column("Called"),
    )  # fmt: skip
    groups, records = (Group("", tuple(rows)),), tuple(map(dict, aa["comparisons"]))
    return Table("aa", AA_TITLE, lead, columns, groups, (), records)


def _text(value: float | None) -> str:
    return NONE if value is None else number(value)


def called_different(aa: Row) -> str:
    """How many comparisons were called different, with the exact interval of the share."""
    different, n = int(aa["different"]), int(aa["n"])
    if n == 0:
        return "no comparison was made"
    share = proportion_interval(different, n)
    low, high = (100 * (end or 0.0) for end in (share.low, share.high))
    ends = f"{low:.1f}\N{EN DASH}{high:.1f} %"
    return f"{different} of {n} comparisons called different ({100 * share.value:.1f} %, interval {ends})"
