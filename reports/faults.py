"""What each system promises when something goes wrong, beside what was observed: matrices, and every fault.

Counts are summed over the trials: one lost task in ten trials is a lost task. A verdict is `kept` or `broken`
by what the vendor says of that fault; where it says nothing, by the delivery guarantee of the variant.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from bench.model import FAULTS, UNSERIALISABLE, Promise, Status
from bench.store import Run
from reports import marks
from reports.marks import Mark
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
    "fault_late": "Late",
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

HARMS: Final = ("lost", "duplicated", "rerun", "failed")
"""What can become of a task that was not asked to raise, beside ending once; each a metric `fault_...`."""

ALLOWED: Final[Mapping[str, frozenset[str] | None]] = {
    "redelivered": frozenset({"rerun", "duplicated"}),
    "lost": frozenset({"lost", "failed"}),
    "failed": frozenset({"lost", "failed"}),
    "kept": frozenset(),
    "refused": frozenset(),
    "at-most-once": frozenset({"lost", "failed"}),
    "at-least-once": frozenset({"rerun", "duplicated"}),
    "exactly-once": frozenset({"rerun"}),
    "none": None,
}
"""What a kind of promise, or a guarantee, leaves open; None for everything."""

FEW: Final = 10
"""A figure that rests on fewer tasks has their number under it."""

NOTABLE: Final = {
    "fault_lost": "lost",
    "fault_duplicated": "twice",
    "fault_rerun": "ran again",
    "fault_failed": "failed",
    "special_refused": "refused",
}

TONES: Final = {
    "kept": "within",
    "broken": "above",
    "no promise": "unclear",
    "not struck": "unclear",
    "unclear": "unclear",
}

LEAD: Final = (
    "One thing goes wrong under a load of half the capacity, 3 s after it began or when a task runs after "
    "that. Struck are the tasks whose body ran at that "
    "moment, or that carry the fault; all other counts are of every task of the load, over all trials. "
    "Twice: it ran again although it had ended or still ran. Ran again: after its first run had vanished or "
    "failed. Late: it began more than 5 s after it was due. Standstill is the longest time without any start "
    "from the fault on; late until says how long after the fault the last task was due that waited unusually "
    "long; throughput after is that of a burst after healing over that of the same burst before. A trial in "
    "which more went wrong than was promised breaks it for all."
)
MATRIX_LEAD: Final = (
    "Kept or broken is judged by what the vendor says becomes of struck tasks, else by the guarantee "
    "of the variant; a system without a guarantee has nothing to break. Under each verdict stands what was "
    "promised, and what was seen. Not struck: no task ran when the fault was done. Unclear: no trial broke "
    "it, but some did not end ok."
)


PARTS: Final = {
    "processes": ("When a process dies or stands still: promised and observed", ("task", "worker", "server")),
    "services": ("When a service, a connection or the clock fails: promised and observed", None),
    "tasks": ("When a task is bad, or tasks are too many: promised and observed", ()),
}
"""The matrices: title, and what its faults are aimed at; nothing for those of tasks, None for the rest."""


@dataclass
class Trial:
    """What was observed in one trial that ended ok: counts, the figures of `TIMES` and of how many tasks."""

    counts: dict[str, int] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def verdict(self, fault: str, kind: str, guarantee: str) -> str:
        """One of `TONES`: by the kind of promise, and by the guarantee for the tasks that carry no fault."""
        special = FAULTS[fault].special
        allowed = ALLOWED[guarantee if special or not kind else kind]
        if not kind and allowed is None:
            return "no promise"
        if not special and not self.counts["struck"]:
            return "kept" if not FAULTS[fault].done else "not struck"
        harmed = {name for name in HARMS if self.counts.get(f"fault_{name}")}
        good = allowed is None or harmed <= allowed
        return "kept" if good and (not special or not kind or self._as_said(kind, special)) else "broken"

    def _as_said(self, kind: str, special: str) -> bool:
        """Whether the one task that carries the fault fared as the vendor says."""
        attempts = self.counts.get("special_attempts", 0)
        if kind == "refused":
            return self.counts.get("special_refused", 0) == 1
        if kind == "redelivered":
            return attempts > 1
        return attempts == (0 if special == UNSERIALISABLE and kind != "kept" else 1)


@dataclass
class Seen:
    """What was observed of one variant and fault: the trials that ended ok, and why others did not."""

    subject: Subject
    fault: str
    promise: Promise | None
    trials: dict[str, Trial] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unsupported: str = ""

    @property
    def kind(self) -> str:
        """The kind of promise, or an empty string."""
        return self.promise.kind if self.promise else ""

    @property
    def promised(self) -> str:
        """What the vendor says, in words."""
        return self.promise.words if self.promise else GUARANTEES[self.subject.guarantee]

    @property
    def short(self) -> str:
        """The same in a few words."""
        return SHORT[self.kind or self.subject.guarantee]

    @property
    def verdict(self) -> str:
        """That of the worst trial, because one loss in ten trials is a loss; empty where none ended ok."""
        found = {
            trial.verdict(self.fault, self.kind, self.subject.guarantee) for trial in self.trials.values()
        }
        if "broken" in found:
            return "broken"
        if found and self.failed:
            return "unclear"
        return next((word for word in ("kept", "not struck", "no promise") if word in found), "")

    @property
    def trials_text(self) -> str:
        """How many trials ended ok, of how many where that is not all."""
        n = len(self.trials)
        return f"{n} of {n + len(self.failed)}" if self.failed else str(n)

    def count(self, metric: str) -> int:
        """A count, summed over the trials."""
        return sum(trial.counts.get(metric, 0) for trial in self.trials.values())

    def time(self, metric: str) -> float | None:
        """The median of a figure over the trials that have it."""
        found = [trial.times[metric] for trial in self.trials.values() if metric in trial.times]
        return median(found) if found else None

    def few(self, metric: str) -> str:
        """On how many tasks a figure rests in a trial, where those are few."""
        found = [trial.tasks[metric] for trial in self.trials.values() if metric in trial.tasks]
        return f"{min(found)} tasks" if found and min(found) < FEW else ""

    def ids(self, metric: str) -> str:
        """The tasks behind a count, by trial."""
        found = [(number, trial.ids[metric]) for number, trial in self.trials.items() if metric in trial.ids]
        return "; ".join(f"trial {number}: {ids}" for number, ids in found)


def observed(run: Run) -> list[Seen]:
    """Every variant and fault of a run, in the order of systems, variants and `FAULTS`."""
    about = subjects(run)
    own = run.summary[(run.summary["scenario"] == SCENARIO) & (run.summary["trial"] != "")]
    found: dict[tuple[str, str, str], Seen] = {}
    for row in own.to_dict("records"):
        fault = str(parameters(str(row["params"])).get("fault", "worker"))
        key = (str(row["system"]), str(row["variant"]), fault)
        seen = found.setdefault(key, Seen(about[key[:2]], fault, _promise(run, *key)))
        number, reason = str(row["trial"]), str(row["reason"])
        if row["status"] == Status.UNSUPPORTED:
            seen.unsupported = reason
        elif row["status"] != Status.OK or Mark.INVALID in marks.marks(reason):
            seen.failed[number] = reason
        else:
            _add(seen.trials.setdefault(number, Trial()), row)
    for seen in found.values():
        for number in seen.failed:
            seen.trials.pop(number, None)
    order = list(FAULTS)
    return sorted(
        found.values(), key=lambda seen: (seen.subject.title, seen.subject.variant, order.index(seen.fault))
    )


def _add(trial: Trial, row: Mapping[Hashable, Any]) -> None:
    metric, value, reason = str(row["metric"]), float(row["value"]), str(row["reason"])
    if metric in TIMES:
        trial.times[metric], trial.tasks[metric] = value, int(row["n"])
    elif metric in COUNTS or metric.startswith("special_"):
        trial.counts[metric] = int(value)
        if named := next((part for part in reason.split("; ") if part.startswith("tasks ")), ""):
            trial.ids[metric] = named


def _promise(run: Run, system: str, variant: str, fault: str) -> Promise | None:
    variants: Mapping[str, Any] = run.info.get("systems", {}).get(system, {}).get("variants", {})
    said = variants.get(variant, {}).get("promises", {}).get(fault)
    return Promise(**said) if said else None


def tables(run: Run) -> list[Table]:
    """The matrices of verdicts, and a row for each variant and fault."""
    rows = observed(run)
    by_part: dict[str, list[Seen]] = {part: [] for part in PARTS}
    for row in rows:
        by_part[_part(row.fault)].append(row)
    return [*(_matrix(part, own) for part, own in by_part.items()), _details(rows)]


def _part(fault: str) -> str:
    done = FAULTS[fault].done
    if not done:
        return "tasks"
    return next((part for part, (_, aims) in PARTS.items() if aims and done[0].aim in aims), "services")


def _matrix(part: str, rows: Sequence[Seen]) -> Table:
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
    return Table(
        f"faults-{part}", PARTS[part][0], MATRIX_LEAD, columns, (Group("", tuple(shown)),), (), records
    )


def _cell(row: Seen | None) -> Entry:
    if row is None:
        return Entry(NONE)
    if not row.trials:
        return Entry("did not end ok", tone="unclear")
    seen = [f"{row.count(name)} {word}" for name, word in NOTABLE.items() if row.count(name)]
    seen += [f"{len(row.failed)} trials did not end ok"] if row.failed else []
    return Entry(row.verdict, f"{row.short}: {', '.join(seen) or 'none harmed'}", tone=TONES[row.verdict])


def _details(rows: Sequence[Seen]) -> Table:
    groups: dict[str, list[tuple[Entry, ...]]] = {}
    for row in rows:
        if row.trials or row.failed:
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
    why = "; ".join(dict.fromkeys(row.failed.values()))
    if not row.trials:
        blanks = [Entry(NONE)] * (len(COUNTS) + len(TIMES))
        return (*head, *blanks, Entry(row.trials_text), Entry("did not end ok", why, tone="unclear"))
    counts = [Entry(str(row.count(name)), row.ids(name)) for name in COUNTS]
    times = [
        Entry(NONE if (found := row.time(name)) is None else number(found), row.few(name)) for name in TIMES
    ]
    return (*head, *counts, *times, Entry(row.trials_text), Entry(row.verdict, why, tone=TONES[row.verdict]))


def _record(row: Seen) -> dict[str, Any]:
    return {
        "system": row.subject.system,
        "variant": row.subject.variant,
        "guarantee": row.subject.guarantee,
        "fault": row.fault,
        "promised": row.promised,
        "link": row.promise.link if row.promise else "",
        **{name: row.count(name) for name in (*COUNTS, "special_attempts", "special_refused")},
        **{name: row.time(name) for name in TIMES},
        "trials": row.trials_text,
        "verdict": row.verdict,
        "ids": ". ".join(f"{name}: {ids}" for name in COUNTS if (ids := row.ids(name))),
        "reason": row.unsupported or "; ".join(dict.fromkeys(row.failed.values())),
    }
