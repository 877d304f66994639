"""What each system promises when something goes wrong, beside what was observed: a matrix, and every fault.

Counts are summed over the trials: one lost task in ten trials is a lost task. A verdict is `kept` or `broken`
by what the vendor says of that fault; where it says nothing, by the delivery guarantee of the variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from bench.model import FAULTS, UNSERIALISABLE, Promise, Status
from bench.store import Run
from reports.measured import Subject, parameters, subjects
from reports.tables import NONE, Column, Entry, Group, Table, number

SCENARIO: Final = "faults"

COUNTS: Final = {
    "struck": "Struck",
    "fault_lost": "Lost",
    "fault_duplicated": "Twice",
    "fault_rerun": "Ran again",
    "fault_failed": "Failed",
    "fault_refused": "Refused",
    "tasks_late": "Late",
}
"""Counts that are summed over trials: metric and heading."""

TIMES: Final = {
    "standstill": "Standstill, s",
    "recovered_after": "Late until, s",
    "throughput_after": "Throughput after",
}
"""Figures of which the median of the trials is shown."""

GUARANTEES: Final = {
    "at-most-once": "none runs twice",
    "at-least-once": "none is lost",
    "exactly-once": "none is lost, none runs twice",
    "none": "",
}

SHORT: Final = {
    "redelivered": "to run again",
    "lost": "may be lost",
    "failed": "not to run again",
    "refused": "to be refused",
    "kept": "to be unharmed",
    "at-most-once": "never twice",
    "at-least-once": "never lost",
    "exactly-once": "exactly once",
    "none": "nothing said",
}
"""What is promised, by kind of promise or by guarantee."""

TONES: Final = {"kept": "within", "broken": "above", "no promise": "unclear"}

LEAD: Final = (
    "One thing goes wrong under a load of half the capacity. Struck are the tasks whose body ran at that "
    "moment, or that carry the fault; all other counts are of every task of the load, over all trials. "
    "Twice: it ran again although it had ended or still ran. Ran again: after its first run had vanished or "
    "failed. Late: it began more than 5 s after it was due. Standstill is the longest time without any start "
    "from the fault on; late until says how long after the fault the last task was due that waited unusually "
    "long; throughput after is that of a burst after healing over that of the same burst before."
)
MATRIX_LEAD: Final = (
    "Kept or broken is judged by what the vendor says becomes of struck tasks, else by the guarantee "
    "of the variant; a system without a guarantee has nothing to break. Under each verdict stands what was "
    "promised, and what was seen."
)


@dataclass
class Seen:
    """What was observed of one variant and fault, over all trials that ended ok."""

    subject: Subject
    fault: str
    promise: Promise | None
    trials: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    failed: str = ""
    unsupported: str = ""

    @property
    def promised(self) -> str:
        """What the vendor says, in words."""
        return self.promise.words if self.promise else GUARANTEES[self.subject.guarantee]

    @property
    def short(self) -> str:
        """The same in a few words."""
        return SHORT[self.promise.kind if self.promise else self.subject.guarantee]

    @property
    def verdict(self) -> str:
        """`kept`, `broken` or `no promise`; empty where nothing was observed."""
        if not self.trials:
            return ""
        kept = self._kept()
        return "no promise" if kept is None else "kept" if kept else "broken"

    def _kept(self) -> bool | None:
        kind = self.promise.kind if self.promise else ""
        if FAULTS[self.fault].special and kind:
            return self._as_said(kind) and self._by_guarantee() is not False
        lost, twice = self.counts["fault_lost"], self.counts["fault_duplicated"]
        rules = {
            "redelivered": not lost,
            "lost": not twice,
            "failed": not twice,
            "kept": not lost and not twice and not self.counts["fault_failed"],
        }
        return rules.get(kind, self._by_guarantee())

    def _as_said(self, kind: str) -> bool:
        """Whether the one task that carries the fault fared in every trial as the vendor says."""
        attempts = self.counts.get("special_attempts", 0)
        never_sent = FAULTS[self.fault].special == UNSERIALISABLE
        rules = {
            "refused": self.counts.get("special_refused", 0) == self.trials,
            "redelivered": attempts > self.trials,
            "kept": attempts == self.trials,
            "lost": attempts == (0 if never_sent else self.trials),
            "failed": attempts == (0 if never_sent else self.trials),
        }
        return rules[kind]

    def _by_guarantee(self) -> bool | None:
        """Whether the other tasks fared as the guarantee of the variant says; None where there is none."""
        lost, twice = self.counts["fault_lost"], self.counts["fault_duplicated"]
        guarantee = self.subject.guarantee
        if guarantee == "none":
            return None
        may_lose = guarantee == "at-most-once" and FAULTS[self.fault].crash
        may_repeat = guarantee == "at-least-once" and FAULTS[self.fault].crash
        return (may_lose or not lost) and (may_repeat or not twice)


def observed(run: Run) -> list[Seen]:
    """Every variant and fault of a run, in the order of systems, variants and `FAULTS`."""
    about = subjects(run)
    own = run.summary[(run.summary["scenario"] == SCENARIO) & (run.summary["trial"] != "")]
    found: dict[tuple[str, str, str], Seen] = {}
    ok: dict[tuple[str, str, str], set[str]] = {}
    for row in own.to_dict("records"):
        fault = str(parameters(str(row["params"])).get("fault", "worker"))
        key = (str(row["system"]), str(row["variant"]), fault)
        seen = found.setdefault(key, Seen(about[key[:2]], fault, _promise(run, *key)))
        if row["status"] == Status.UNSUPPORTED:
            seen.unsupported = str(row["reason"])
        elif row["status"] != Status.OK:
            seen.failed = str(row["reason"])
        else:
            ok.setdefault(key, set()).add(str(row["trial"]))
            _add(seen, str(row["metric"]), float(row["value"]), str(row["reason"]))
    for key, seen in found.items():
        seen.trials = len(ok.get(key, ()))
    order = list(FAULTS)
    return sorted(
        found.values(), key=lambda seen: (seen.subject.title, seen.subject.variant, order.index(seen.fault))
    )


def _add(seen: Seen, metric: str, value: float, reason: str) -> None:
    if metric in TIMES:
        seen.times.setdefault(metric, []).append(value)
    elif metric in COUNTS or metric.startswith("special_"):
        seen.counts[metric] = seen.counts.get(metric, 0) + int(value)
        if named := next((part for part in reason.split("; ") if part.startswith("tasks ")), ""):
            seen.ids[metric] = named


def _promise(run: Run, system: str, variant: str, fault: str) -> Promise | None:
    variants: Mapping[str, Any] = run.info.get("systems", {}).get(system, {}).get("variants", {})
    said = variants.get(variant, {}).get("promises", {}).get(fault)
    return Promise(**said) if said else None


def tables(run: Run) -> list[Table]:
    """The matrix of verdicts, and a row for each variant and fault."""
    rows = observed(run)
    return [_matrix(rows), _details(rows)]


def _matrix(rows: Sequence[Seen]) -> Table:
    faults = [fault for fault in FAULTS if any(row.fault == fault and row.trials for row in rows)]
    by_variant: dict[tuple[str, str], dict[str, Seen]] = {}
    for row in rows:
        if row.trials or row.failed:
            by_variant.setdefault(row.subject.key, {})[row.fault] = row
    shown = []
    for own in by_variant.values():
        subject = next(iter(own.values())).subject
        head = Entry(subject.title, subject.variant), Entry(subject.guarantee)
        shown.append((*head, *(_cell(own.get(fault)) for fault in faults)))
    columns = (Column("System"), Column("Guarantee"), *(Column(fault) for fault in faults))
    records = tuple(_record(row) for row in rows)
    title = "When something goes wrong: promised and observed"
    return Table("faults-matrix", title, MATRIX_LEAD, columns, (Group("", tuple(shown)),), (), records)


def _cell(row: Seen | None) -> Entry:
    if row is None:
        return Entry(NONE)
    if not row.trials:
        return Entry("did not end ok", tone="unclear")
    seen = [
        f"{row.counts[name]} {word}"
        for name, word in (
            ("fault_lost", "lost"),
            ("fault_duplicated", "twice"),
            ("fault_rerun", "ran again"),
            ("fault_failed", "failed"),
            ("special_refused", "refused"),
        )
        if row.counts.get(name)
    ]
    return Entry(row.verdict, f"{row.short}: {', '.join(seen) or 'none harmed'}", tone=TONES[row.verdict])


def _details(rows: Sequence[Seen]) -> Table:
    groups: dict[str, list[tuple[Entry, ...]]] = {}
    for row in rows:
        if row.unsupported and not row.trials:
            continue
        head = f"{row.subject.title} {row.subject.variant} ({row.subject.guarantee})"
        groups.setdefault(head, []).append(_detail(row))
    labels = ["Fault", "Promised", *COUNTS.values(), *TIMES.values(), "Trials", "Verdict"]
    numeric = {*COUNTS.values(), *TIMES.values(), "Trials"}
    columns = tuple(Column(label, label in numeric) for label in labels)
    shown = tuple(Group(title, tuple(own)) for title, own in groups.items())
    records = tuple(_record(row) for row in rows)
    return Table("faults", "Every fault", LEAD, columns, shown, (), records, folded="Every fault in full")


def _detail(row: Seen) -> tuple[Entry, ...]:
    link = row.promise.link if row.promise else ""
    head = Entry(row.fault, FAULTS[row.fault].words), Entry(row.promised or NONE, link=link)
    if not row.trials:
        blanks = [Entry(NONE)] * (len(COUNTS) + len(TIMES))
        return (*head, *blanks, Entry("0"), Entry("did not end ok", row.failed, tone="unclear"))
    counts = [Entry(str(row.counts.get(name, 0)), row.ids.get(name, "")) for name in COUNTS]
    times = [Entry(number(median(row.times[name])) if row.times.get(name) else NONE) for name in TIMES]
    return (*head, *counts, *times, Entry(str(row.trials)), Entry(row.verdict, tone=TONES[row.verdict]))


def _record(row: Seen) -> dict[str, Any]:
    return {
        "system": row.subject.system,
        "variant": row.subject.variant,
        "guarantee": row.subject.guarantee,
        "fault": row.fault,
        "promised": row.promised,
        "link": row.promise.link if row.promise else "",
        **{name: row.counts.get(name) for name in (*COUNTS, "special_attempts", "special_refused")},
        **{name: median(row.times[name]) if row.times.get(name) else None for name in TIMES},
        "trials": row.trials,
        "verdict": row.verdict,
        "ids": "; ".join(f"{name}: {ids}" for name, ids in row.ids.items()),
        "reason": row.unsupported or row.failed,
    }
