"""What a slot and a queued task take in memory: the slope over cells with several slots, and over a queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from bench.stats import Interval, slope_interval
from bench.store import Run
from reports import marks, published
from reports.accounts import counted_doubts
from reports.measured import Measured, Subject, measured, parameters, subjects, trials_of
from reports.published import Figure, Verdict
from reports.tables import NONE, Column, Entry, Footnotes, Group, Table, interval_text, value_text

SEED: Final = 1
KINDS: Final = ("pss", "rss")
PER_JOB: Final = "pss_per_queued_job."
KB: Final = 1e-3
"""MB in a kB."""

SLOT_CLAIM, JOB_CLAIM = "rss_per_worker", "rss_per_job"
"""Published metrics."""

SLOT_LEAD: Final = (
    "Memory of the whole stack at rest, after the first tasks, in cells with several numbers of slots: the "
    "slope over them (Theil-Sen) of all trials. A slot is a thread in one system and a process in another. "
    "PSS shares out the pages that processes have in common, RSS counts them once in every process. What was "
    "published is RSS for each worker."
)
JOB_LEAD: Final = (
    "Tasks are queued step by step while nothing runs any: what the PSS of each role grows by with every one "
    "of them (Theil-Sen slope). The client's share includes what the measuring agent keeps."
)


def per_slot(run: Run) -> dict[tuple[Subject, str], tuple[Interval, str]]:
    """The slope of idle memory over the slots in MB, by variant and kind (`pss`, `rss`), with its remarks.

    Fewer than three different numbers of slots give none.
    """
    about = subjects(run)
    rows = trials_of(run, "memory")
    found: dict[tuple[Subject, str], tuple[Interval, str]] = {}
    for kind in KINDS:
        own = rows[rows["metric"] == f"idle_{kind}.total"].dropna(subset=["value"])
        own = own.assign(slots=[float(parameters(str(text)).get("slots", 0)) for text in own["params"]])
        for (system, variant), cells in own[own["slots"] > 0].groupby(["system", "variant"]):
            if cells["slots"].nunique() >= 3:
                key = (about[str(system), str(variant)], kind)
                found[key] = (_slope(cells), _remarks(cells))
    return found


def _slope(cells: pd.DataFrame) -> Interval:
    ordered = cells.assign(number=pd.to_numeric(cells["trial"])).sort_values(["number", "slots"])
    return slope_interval(ordered["slots"].to_numpy(), ordered["value"].to_numpy(float), SEED)


def _remarks(cells: pd.DataFrame) -> str:
    """The doubts about the machine, and that there is one trial where there is no other."""
    alone = "1 trial" if cells["trial"].nunique() == 1 else ""
    return "; ".join(filter(None, (counted_doubts(cells["reason"].astype(str).tolist()), alone)))


def slopes(run: Run) -> dict[Subject, str]:
    """The slope of PSS over the slots as text, for a chart."""
    return {
        subject: marks.marked(value_text(interval), marks.marks(reason))
        for (subject, kind), (interval, reason) in per_slot(run).items()
        if kind == "pss"
    }


def tables(run: Run) -> list[Table]:
    """Memory per slot, and per queued task."""
    return [_slot_table(run), _job_table(measured(run))]


def _slot_table(run: Run) -> Table:
    found, notes = per_slot(run), Footnotes()
    entries, records = [], []
    for subject in sorted({subject for subject, _ in found}, key=_order):
        figure = _published(subject, SLOT_CLAIM)
        row = [Entry(subject.title), Entry(subject.variant)]
        for kind in KINDS:
            interval, reason = found.get((subject, kind), (None, ""))
            row += [notes.figure(interval, reason), Entry(interval_text(interval))]
        interval, reason = found.get((subject, "rss"), (None, ""))
        verdict = published.judge(figure, interval, reason)
        entries.append((*row, *_verdict_entries(figure, verdict)))
        for kind in KINDS:
            if (subject, kind) in found:
                interval, reason = found[subject, kind]
                records.append(_record(subject, {"kind": kind}, "MB", interval, reason, figure, verdict))
    numbers = ("PSS per slot, MB", "Interval", "RSS per slot, MB", "Interval", "Published")
    columns = (Column("System"), Column("Variant"), *(Column(n, True) for n in numbers), Column("Verdict"))
    return Table(
        "slots-memory", "What a slot takes in memory", SLOT_LEAD, columns, (Group("", tuple(entries)),),
        tuple(notes.texts), tuple(records), notes.legend,
    )  # fmt: skip


def _job_table(rows: Sequence[Measured]) -> Table:
    notes, entries, records = Footnotes(), [], []
    own = [row for row in rows if row.scenario == "memory" and row.metric.startswith(PER_JOB)]
    for row in sorted(own, key=lambda row: (*_order(row.subject), row.metric.endswith("total"), row.metric)):
        role = row.metric.removeprefix(PER_JOB)
        figure = _published(row.subject, JOB_CLAIM) if role == "total" else None
        verdict = published.judge(figure, _in_mb(row.interval), row.reason)
        if verdict.told:
            verdict = verdict.reserved("it is RSS that was published")
        entries.append(
            (
                Entry(row.subject.title),
                Entry(row.subject.variant),
                Entry(role),
                notes.figure(row.interval, row.reason),
                Entry(interval_text(row.interval)),
                *_verdict_entries(figure, verdict),
            )
        )
        records.append(
            _record(row.subject, {"role": role}, row.unit, row.interval, row.reason, figure, verdict)
        )
    labels = ("PSS per task, kB", "Interval", "Published")
    columns = (
        *map(Column, ("System", "Variant", "Role")),
        *(Column(label, True) for label in labels),
        Column("Verdict"),
    )
    return Table(
        "queue-memory", "What a queued task takes in memory", JOB_LEAD, columns, (Group("", tuple(entries)),),
        tuple(notes.texts), tuple(records), notes.legend,
    )  # fmt: skip


def _in_mb(interval: Interval | None) -> Interval | None:
    if interval is None:
        return None
    low, high = (None if end is None else KB * end for end in (interval.low, interval.high))
    return Interval(KB * interval.value, low, high, interval.n, interval.coverage)


def _published(subject: Subject, metric: str) -> Figure | None:
    figures = (one for one in published.load() if one.metric == metric and published.concerns(one, subject))
    return next(figures, None)


def _verdict_entries(figure: Figure | None, verdict: Verdict) -> tuple[Entry, Entry]:
    tone = str(verdict.word) if verdict.told else "absent"
    said = Entry(str(verdict.word) or NONE, verdict.why, tone=tone)
    return Entry(f"{figure.text} {figure.unit}" if figure else NONE), said


def _order(subject: Subject) -> tuple[bool, str, str]:
    return subject.floor, subject.title, subject.variant


def _record(
    subject: Subject,
    what: Mapping[str, str],
    unit: str,
    interval: Interval | None,
    reason: str,
    figure: Figure | None,
    verdict: Verdict,
) -> dict[str, Any]:
    return {
        "system": subject.system,
        "variant": subject.variant,
        **what,
        "value": interval.value if interval else None,
        "unit": unit,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "published": figure.id if figure else "",
        "verdict": str(verdict),
        "marks": marks.words(reason),
        "reason": reason,
    }
