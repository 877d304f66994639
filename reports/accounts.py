"""What is counted one by one: the fate of every task, the ticks of every schedule, the trials that failed."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import pandas as pd

from bench.model import Fate, Status
from bench.stats import proportion_interval
from bench.store import Run
from reports import faults, marks
from reports.lines import condition
from reports.marks import Mark
from reports.measured import Measured, measured, parameters, subjects
from reports.tables import NONE, Column, Entry, Footnotes, Group, Table, interval_text, plain, text

FATES_LEAD: Final = (
    "Every task of every trial that ended ok, counted by id; the others are listed with their reasons. "
    "Lost means not seen after {settle} s without any event, the settle time of its variant. The share that "
    "is ok has an exact 95 % interval: no failure among n tasks supports only its lower end."
)
OPTIONAL: Final = {
    "negative_latencies": ("Before due", "Starts before the due time are a fault of the measurement."),
    "claims_false_success": (
        "Said ok, was not",
        "Where the library was asked what became of each task, its answers are held against the ledger.",
    ),
    "claims_false_failure": ("Said failed, was ok", ""),
}
"""Counts that have a column only in a run that has them: heading, and a sentence for the lead."""

TICKS: Final = ("planned", "skipped", "repeated", "overlapped")
TICKS_LEAD: Final = (
    "Each tick of a schedule from its due time to the next one's, summed over the trials: skipped when "
    "nothing began in it, repeated for every further run that began, overlapped when a run began before the "
    "one before it had ended. The delay is from due to start, the median of the trials."
)

APART: Final = ("soak", faults.SCENARIO)
"""Their fates have tables of their own: some of their tasks fail because they were asked to."""

FATES: Final = tuple(fate for fate in Fate if fate is not Fate.CUT_OFF)
"""Only a soak goes on after it was cut off."""

Counts = dict[str, int]


def tables(run: Run) -> list[Table]:
    """Fates, ticks, failures and what was not asked; a table without a row is empty."""
    return [_fates(run), _ticks(run), _failures(run), _unsupported(run)]


def _trials(run: Run, *beginnings: str) -> pd.DataFrame:
    """The rows of single trials of every metric that begins with one of these, but for those `APART`."""
    own = run.summary["metric"].str.startswith(beginnings) & ~run.summary["scenario"].isin(APART)
    return run.summary[(run.summary["trial"] != "") & own]


def _sums(rows: pd.DataFrame, *names: str) -> dict[tuple[str, ...], Counter[str]]:
    """Values by metric, summed for each combination of the columns `names`."""
    sums: dict[tuple[str, ...], Counter[str]] = {}
    for row in rows.to_dict("records"):
        if not pd.isna(row["value"]):
            counts = sums.setdefault(tuple(str(row[name]) for name in names), Counter())
            counts[str(row["metric"])] += int(row["value"])
    return sums


def _doubts(rows: pd.DataFrame, *names: str) -> dict[tuple[str, ...], str]:
    """The remarks on counts that hold several trials: in how many of them each mark occurs."""
    found: dict[tuple[str, ...], dict[Mark, set[tuple[str, ...]]]] = {}
    trials: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for row in rows.to_dict("records"):
        key = tuple(str(row[name]) for name in names)
        trial = tuple(str(row[name]) for name in ("scenario", "params", "trial"))
        trials.setdefault(key, set()).add(trial)
        for mark in marks.marks(str(row["reason"])):
            found.setdefault(key, {}).setdefault(mark, set()).add(trial)
    return {
        key: "; ".join(
            f"{PLAIN[mark]} in {len(own)} of {len(trials[key])} trials"
            for mark, own in found.get(key, {}).items()
            if mark in PLAIN
        )
        for key in trials
    }


PLAIN: Final = {
    Mark.INVALID: "invalid",
    Mark.DISTURBED: "machine disturbed",
    Mark.SHARED: "another schedbench was running",
}
"""What can be wrong with a count; each begins like the remark that it sums up, and so has its mark."""


def counted_doubts(reasons: Sequence[str]) -> str:
    """Remarks on a figure that rests on several trials: how many of them each doubt about the machine has."""
    counts = Counter(mark for reason in reasons for mark in marks.marks(reason) if mark in PLAIN)
    of = len(reasons)
    return "; ".join(PLAIN[mark] + (f" ({n} of {of} trials)" if n < of else "") for mark, n in counts.items())


def _fates(run: Run) -> Table:
    about, notes = subjects(run), Footnotes()
    rows = _trials(run, "tasks_", "negative_latencies", "claims_")
    doubts = _doubts(rows, "system", "variant")
    trials = run.summary[run.summary["trial"] != ""]
    cells = trials[["system", "variant", "scenario", "params", "trial"]].drop_duplicates()
    failed = Counter((row["system"], row["variant"]) for row in failures(run))
    unasked = Counter((row["system"], row["variant"]) for row in unsupported(run))
    whole = Counter(zip(cells["system"], cells["variant"], strict=True)) - unasked
    sums = _sums(rows, "system", "variant")
    shown = [name for name in OPTIONAL if any(_has(name, counts) for counts in sums.values())]
    entries, records = [], []
    for (system, variant), counts in sums.items():
        by_fate = {fate: counts[f"tasks_{fate}"] for fate in FATES}
        submitted = sum(by_fate.values()) - by_fate[Fate.UNEXPECTED]
        doubt, ok = doubts[system, variant], whole[system, variant] - failed[system, variant]
        extra = {name: counts.get(name) for name in shown}
        record = {
            "system": about[system, variant].title,
            "variant": variant,
            "trials_ok": f"{ok} of {whole[system, variant]}",
            "tasks": submitted,
            "success": _success(by_fate[Fate.OK], submitted),
            **{str(fate): count for fate, count in by_fate.items()},
            **extra,
        }
        notes.reasons.append(doubt)
        named = {name: Entry(NONE if value is None else text(value)) for name, value in record.items()}
        named["success"] = Entry(str(record["success"]), notes=notes.of(doubt), marks=marks.marks(doubt))
        entries.append(tuple(named.values()))
        records.append({**record, "marks": marks.words(doubt), "reason": doubt})
    heads = ["Tasks", "Share ok, %", *(fate.capitalize() for fate in FATES), *(OPTIONAL[n][0] for n in shown)]
    columns = (*map(Column, ("System", "Variant", "Trials ok")), *(Column(head, True) for head in heads))
    words = FATES_LEAD.format(settle=_settle(run, sums))
    lead = " ".join([words, *filter(None, (OPTIONAL[name][1] for name in shown))])
    groups = (Group("", tuple(entries)),)
    title = "What became of every task"
    return Table("fates", title, lead, columns, groups, tuple(notes.texts), tuple(records), notes.legend)


def _settle(run: Run, keys: Iterable[tuple[str, ...]]) -> str:
    """The settle times of these variants, in s."""
    systems = run.info.get("systems", {})
    declared = (systems.get(system, {}).get("variants", {}).get(variant, {}) for system, variant in keys)
    times = [own["settle_s"] for own in declared if "settle_s" in own]
    return " to ".join(f"{time:g}" for time in sorted({min(times), max(times)})) if times else "some"


def _has(name: str, counts: Mapping[str, int]) -> bool:
    """Whether a count is worth a column: an answer of a library also when it was right every time."""
    return name in counts if name.startswith("claims_") else counts.get(name, 0) > 0


def _success(ok: int, n: int) -> str:
    if n == 0:
        return NONE
    share = proportion_interval(ok, n)
    low = 0.0 if share.low is None else share.low
    return f"{_percent(share.value)} (≥ {_percent(low)})"


def _percent(share: float) -> str:
    """Rounded down, so that it never says more than was seen; finer where it is nearly whole."""
    digits = 4 if share > 0.99 else 1
    return f"{math.floor(share * 100 * 10**digits) / 10**digits:.{digits}f}".rstrip("0").rstrip(".")


def _ticks(run: Run) -> Table:
    about, notes = subjects(run), Footnotes()
    keys = ("system", "variant", "scenario", "params")
    rows = _trials(run, "ticks_")
    rows = rows[rows["scenario"] == "periodic"]
    doubts, delays = _doubts(rows, *keys), _delays(measured(run))
    entries, records = [], []
    for (system, variant, scenario, params), counts in _sums(rows, *keys).items():
        key = (system, variant, scenario, params)
        doubt, delay, subject = doubts[key], delays.get(key), about[system, variant]
        words = condition(scenario, parameters(params))
        own = rows[(rows[list(keys)] == list(key)).all(axis=1)]
        notes.reasons.append(doubt)
        planned = Entry(text(counts["ticks_planned"]), notes=notes.of(doubt), marks=marks.marks(doubt))
        others = [Entry(text(counts[f"ticks_{name}"])) for name in TICKS[1:]]
        ends = "" if delay is None else interval_text(delay.interval).replace(NONE, "")
        entries.append(
            (
                Entry(subject.title),
                Entry(variant),
                Entry(words),
                Entry(f"{own['trial'].nunique()}"),
                planned,
                *others,
                notes.beside(delay, sub=ends),
            )
        )
        records.append(
            {
                "system": system,
                "variant": variant,
                "condition": words,
                "trials": own["trial"].nunique(),
                **{name: counts[f"ticks_{name}"] for name in TICKS},
                "delay_p95_ms": delay.interval.value if delay and delay.interval else None,
                "marks": marks.words(doubt, delay.reason if delay else ""),
                "reason": "; ".join(filter(None, (doubt, delay.reason if delay else ""))),
            }
        )
    heads = ("Trials", *(name.capitalize() for name in TICKS), "P95 delay, ms")
    columns = (*map(Column, ("System", "Variant", "Schedule")), *(Column(head, True) for head in heads))
    groups = (Group("", tuple(entries)),)
    title = "Schedules: every tick accounted for"
    return Table(
        "ticks", title, TICKS_LEAD, columns, groups, tuple(notes.texts), tuple(records), notes.legend
    )


def _delays(rows: Iterable[Measured]) -> dict[tuple[str, str, str, str], Measured]:
    return {
        (*row.subject.key, row.scenario, row.params_text): row
        for row in rows
        if row.metric == "tick_delay_p95"
    }


def failures(run: Run) -> list[dict[str, str]]:
    """Every trial that failed: system, variant, scenario, params, trial, status, reason."""
    return [row for row in _without_figures(run) if row["status"] != Status.UNSUPPORTED]


def unsupported(run: Run) -> list[dict[str, str]]:
    """Every trial that could not be asked for, with the same keys."""
    return [row for row in _without_figures(run) if row["status"] == Status.UNSUPPORTED]


def _without_figures(run: Run) -> list[dict[str, str]]:
    rows = run.summary[(run.summary["trial"] != "") & (run.summary["metric"] == "")]
    columns = ["system", "variant", "scenario", "params", "trial", "status", "reason"]
    return [{name: str(row[name]) for name in columns} for row in rows.to_dict("records")]


def _failures(run: Run) -> Table:
    lead = "Kept, shown, and in no median."
    labels = ["System", "Variant", "Scenario", "Parameters", "Trial", "Status", "Reason"]
    return plain("failures", "Trials that did not end ok", lead, labels, failures(run))


def _unsupported(run: Run) -> Table:
    """What a variant could not be asked, once for all its trials and conditions; the first trial says why."""
    found: dict[tuple[str, str, str, str], list[dict[str, str]]] = {}
    for row in unsupported(run):
        words = condition(row["scenario"], parameters(row["params"]))
        found.setdefault((row["system"], row["variant"], row["scenario"], words), []).append(row)
    records = [
        {
            "system": system,
            "variant": variant,
            "scenario": scenario,
            "condition": words,
            "trials": len(rows),
            "reason": rows[0]["reason"],
        }
        for (system, variant, scenario, words), rows in found.items()
    ]
    lead = "No failure: a system or variant that does not do this, or something that is missing here."
    labels = ["System", "Variant", "Scenario", "Condition", "Trials", "Reason"]
    table = plain("unsupported", "What could not be asked", lead, labels, records)
    return dataclasses.replace(table, folded=f"{len(records)} condition{'s' * (len(records) != 1)}")
