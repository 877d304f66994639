"""What each system promises when something goes wrong, beside what was observed: matrices, and every fault.

Counts are summed over the trials: one lost task in ten trials is a lost task. A verdict is `kept` or `broken`
by what the vendor says of that fault; where it says nothing, by the delivery guarantee of the variant.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.model import FAULTS, UNSERIALISABLE, Promise, Status, Traced
from bench.store import Run
from reports import marks
from reports.marks import Mark
from reports.measured import Measured, Subject, but, measured, parameters
from reports.tables import NONE, Column, Entry, Footnotes, Group, Table, interval_text

SCENARIO: Final = "faults"

COUNTS: Final = {
    "struck": "Struck",
    "fault_lost": "Lost",
    "fault_duplicated": "Twice",
    "fault_rerun": "Ran again",
    "fault_failed": "Failed",
    "fault_refused": "Refused",
    "fault_unanswered": "Unanswered",
    "fault_late": "Late",
}
"""Counts that are summed over trials: metric and heading."""

TIMES: Final = {
    "standstill": "Standstill, s",
    "recovered_after": "Late until, s",
    "throughput_after": "Throughput after",
}
"""Figures of which the median of the trials is shown, with the interval over them, or within a single one."""

GUARANTEES: Final = {
    "at-most-once": "none runs twice",
    "at-least-once": "none is lost",
    "exactly-once": "none is lost, none runs twice",
    "none": "",
}

SHORT: Final = {
    "redelivered": "to run again",
    "repeated": "to run again, even twice",
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

AGAIN: Final = frozenset({"rerun", "duplicated"})

ALLOWED: Final[Mapping[str, frozenset[str] | None]] = {
    "redelivered": frozenset({"rerun"}),
    "repeated": AGAIN,
    "lost": frozenset({"lost", "failed"}),
    "failed": frozenset({"lost", "failed"}),
    "kept": frozenset(),
    "refused": frozenset(),
    "at-most-once": frozenset({"lost", "failed"}),
    "at-least-once": AGAIN,
    "exactly-once": frozenset({"rerun"}),
    "none": None,
}
"""What a kind of promise, or a guarantee, leaves open; None for everything."""

AGAIN_TOO: Final[Mapping[str, frozenset[str]]] = {
    "at-least-once": frozenset({"redelivered", "lost"}),
    "none": frozenset({"redelivered"}),
}
"""The kinds of promise that leave `AGAIN` open as well, by guarantee: neither says that none runs twice."""

NAMED: Final = "tasks "
"""So begins the remark that names the tasks behind a count."""

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
    "that. Struck are the tasks whose body ran at that moment, or that carry the fault; all other counts "
    "are of every task of the load, over all trials. Twice: it ran again although it had ended or still "
    "ran. Ran again: after its first run had vanished or failed. Unanswered: it was handed over when the "
    "client died, and never ran. Late: it began more than 5 s after it was due, as many do of a slow "
    "orchestrator without any fault. Standstill is the longest time without any "
    "start from the fault on; late until says how long after the fault the last task was due that waited "
    "unusually long; throughput after is that of a burst over that of the same burst before: it comes last, "
    "when what may run twice has been waited for. "
    "These are medians of the trials, with the interval over them; throughput has one of its own in a single "
    "trial. A trial in which more went wrong than was promised breaks it for all."
)
MATRIX_LEAD: Final = (
    "Kept or broken is judged by what the vendor says becomes of struck tasks, else by the guarantee "
    "of the variant; a system without a guarantee has nothing to break. Under each verdict stands what was "
    "promised, and what was seen. Not struck: no task of the load ran when the fault was done. Unclear: no "
    "trial broke it, but some did not end ok."
)

PARTS: Final = {
    "processes": ("When a process dies or stands still: promised and observed", ("task", "worker", "server")),
    "services": ("When a service, a connection or the clock fails: promised and observed", None),
    "tasks": ("When a task is bad, or tasks are too many: promised and observed", ()),
}
"""The matrices: title, and what its faults are aimed at; nothing for those of tasks, None for the rest."""


@dataclass
class Trial:
    """What was observed in one trial that ended ok; of `TIMES`, only of how many tasks each figure is."""

    counts: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def verdict(self, fault: str, kind: str, guarantee: str) -> str:
        """One of `TONES`: by the kind of promise, and by the guarantee for the tasks that carry no fault."""
        special = FAULTS[fault].special
        allowed = ALLOWED[guarantee if special or not kind else kind]
        if allowed is not None and kind in AGAIN_TOO.get(guarantee, ()):
            allowed |= AGAIN
        if not kind and allowed is None:
            return "no promise"
        harmed = {name for name in HARMS if self.counts.get(f"fault_{name}")}
        good = allowed is None or harmed <= allowed
        if not good or (special and kind and not self._as_said(kind, special)):
            return "broken"
        return "not struck" if FAULTS[fault].done and not self.counts["struck"] else "kept"

    def _as_said(self, kind: str, special: str) -> bool:
        """Whether the one task that carries the fault fared as the vendor says."""
        attempts = self.counts.get("special_attempts", 0)
        if kind == "refused":
            return self.counts.get("special_refused", 0) == 1
        if kind in ("redelivered", "repeated"):
            return attempts > 1
        return attempts == (0 if special == UNSERIALISABLE and kind != "kept" else 1)


@dataclass
class Seen:
    """What was observed of one variant and fault: the trials that ended ok, and why others did not.

    `figures` are those of `TIMES` over the trials; `remarks` is what is said of every figure of its cells;
    `condition` is what was asked beside the fault, as it stands in `summary.csv`, and `traced` why the
    promise is broken where that is known.
    """

    subject: Subject
    fault: str
    promise: Promise | None
    trials: dict[str, Trial] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unsupported: str = ""
    figures: dict[str, Measured] = field(default_factory=dict)
    remarks: str = ""
    condition: str = ""
    traced: Traced | None = None

    @property
    def variant(self) -> str:
        """The variant, and the condition if there is one."""
        return ", ".join(filter(None, (self.subject.variant, self.condition)))

    @property
    def asked(self) -> bool:
        """Whether a trial could be made at all, whatever became of it."""
        return bool(self.trials or self.failed)

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
    def why(self) -> str:
        """Why a promise is broken; empty where it is not."""
        if self.verdict != "broken":
            return ""
        return self.traced.words if self.traced else "not traced yet"

    @property
    def why_link(self) -> str:
        """Where that can be read."""
        return self.traced.link if self.traced and self.why else ""

    @property
    def trials_text(self) -> str:
        """How many trials ended ok, of how many where that is not all."""
        n = len(self.trials)
        return f"{n} of {n + len(self.failed)}" if self.failed else str(n)

    def count(self, metric: str) -> int:
        """A count, summed over the trials."""
        return sum(trial.counts.get(metric, 0) for trial in self.trials.values())

    def few(self, metric: str) -> str:
        """On how many tasks a figure rests in a trial, where those are few."""
        found = [trial.tasks[metric] for trial in self.trials.values() if metric in trial.tasks]
        return f"{min(found)} tasks" if found and min(found) < FEW else ""

    def ids(self, metric: str) -> str:
        """The tasks behind a count, by trial."""
        found = [(number, trial.ids[metric]) for number, trial in self.trials.items() if metric in trial.ids]
        return "; ".join(f"trial {number}: {ids}" for number, ids in found)


def observed(run: Run) -> list[Seen]:
    """Every variant, condition and fault of a run, in the order of systems, variants and `FAULTS`."""
    found: dict[tuple[str, ...], Seen] = {}
    for figure in measured(run):
        if figure.scenario != SCENARIO:
            continue
        fault, condition = _asked(figure.params_text)
        key = (*figure.subject.key, fault, condition)
        if key not in found:
            promise = _said(run, *figure.subject.key, "promises", fault)
            traced = _said(run, *figure.subject.key, "traced", fault)
            found[key] = Seen(
                figure.subject,
                fault,
                Promise(**promise) if promise else None,
                condition=condition,
                traced=Traced(**traced) if traced else None,
            )
        seen = found[key]
        if figure.metric in TIMES:
            seen.figures[figure.metric] = figure
        elif figure.metric == "struck":
            seen.remarks = "; ".join(_common(figure.reason))
    own = run.summary[(run.summary["scenario"] == SCENARIO) & (run.summary["trial"] != "")]
    for row in own.to_dict("records"):
        seen = found[str(row["system"]), str(row["variant"]), *_asked(str(row["params"]))]
        number, reason = str(row["trial"]), str(row["reason"])
        if row["status"] == Status.UNSUPPORTED:
            seen.unsupported = reason
        elif row["status"] != Status.OK:
            seen.failed.setdefault(number, reason)  # the rows after the first are figures with remarks
        elif Mark.INVALID in marks.marks(reason):
            remarks = (remark for remark in marks.remarks(reason) if marks.mark_of(remark) is Mark.INVALID)
            seen.failed.setdefault(number, "; ".join(remarks))
        else:
            _add(seen.trials.setdefault(number, Trial()), row)
    for seen in found.values():
        for number in seen.failed:
            seen.trials.pop(number, None)
    order = list(FAULTS)
    return sorted(
        found.values(), key=lambda seen: (seen.subject.title, seen.variant, order.index(seen.fault))
    )


def _asked(params: str) -> tuple[str, str]:
    """The fault, and what was asked beside it."""
    return str(parameters(params).get("fault", "worker")), but(params, "fault")


def _common(reason: str) -> list[str]:
    """Those of the remarks on a count that are of its cells: not of this count, or of trials too few."""
    return [
        remark
        for remark in marks.remarks(reason)
        if not remark.startswith(NAMED) and marks.mark_of(remark) not in (*marks.FIRST_LOOK, Mark.PARTIAL)
    ]


def _add(trial: Trial, row: Mapping[Hashable, Any]) -> None:
    metric, reason = str(row["metric"]), str(row["reason"])
    if metric in TIMES:
        trial.tasks[metric] = int(row["n"])
    elif metric in COUNTS or metric.startswith("special_"):
        trial.counts[metric] = int(row["value"])
        if named := next((part for part in marks.remarks(reason) if part.startswith(NAMED)), ""):
            trial.ids[metric] = named


def _said(run: Run, system: str, variant: str, table: str, fault: str) -> Mapping[str, Any]:
    """What a table of the header of a variant says of a fault, or nothing."""
    variants: Mapping[str, Any] = run.info.get("systems", {}).get(system, {}).get("variants", {})
    said: Mapping[str, Any] = variants.get(variant, {}).get(table, {}).get(fault, {})
    return said


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
    asked = [row for row in rows if row.asked]
    faults = [fault for fault in FAULTS if any(row.fault == fault for row in asked)]
    by_variant: dict[tuple[str, str], dict[str, Seen]] = {}
    for row in asked:
        by_variant.setdefault((row.subject.system, row.variant), {})[row.fault] = row
    shown, notes = [], Footnotes()
    for own in by_variant.values():
        first = next(iter(own.values()))
        head = Entry(first.subject.title, first.variant), Entry(first.subject.guarantee)
        shown.append((*head, *(_cell(own.get(fault), notes) for fault in faults)))
    columns = (Column("System"), Column("Guarantee"), *(Column(fault) for fault in faults))
    records, groups = tuple(_record(row) for row in rows), (Group("", tuple(shown)),)
    texts, legend = tuple(notes.texts), notes.legend
    return Table(f"faults-{part}", PARTS[part][0], MATRIX_LEAD, columns, groups, texts, records, legend)


def _cell(row: Seen | None, notes: Footnotes) -> Entry:
    if row is None:
        return Entry(NONE)
    if not row.trials:
        return Entry("did not end ok", tone="unclear")
    seen = [f"{row.count(name)} {word}" for name, word in NOTABLE.items() if row.count(name)]
    n = len(row.trials)
    trials = f"{n} trial{'s' * (n > 1)}" + (f", {len(row.failed)} more did not end ok" if row.failed else "")
    return _verdict(row, f"{row.short}: {', '.join(seen) or 'none harmed'} in {trials}", notes)


def _verdict(row: Seen, sub: str, notes: Footnotes) -> Entry:
    """The verdict with what is said of all that it rests on."""
    notes.reasons.append(row.remarks)
    found = marks.marks(row.remarks)
    said = "; ".join(filter(None, (row.remarks, row.why)))
    return Entry(row.verdict, sub, notes.of(said), TONES[row.verdict], found, row.why_link)


def _details(rows: Sequence[Seen]) -> Table:
    groups: dict[str, list[tuple[Entry, ...]]] = {}
    notes = Footnotes()
    for row in (row for row in rows if row.asked):
        head = f"{row.subject.title} {row.variant} ({row.subject.guarantee})"
        groups.setdefault(head, []).append(_detail(row, notes))
    labels = ["Fault", "Promised", *COUNTS.values(), *TIMES.values(), "Trials", "Verdict"]
    numeric = {*COUNTS.values(), *TIMES.values(), "Trials"}
    columns = tuple(Column(label, label in numeric) for label in labels)
    shown = tuple(Group(title, tuple(own)) for title, own in groups.items())
    records = tuple(_record(row) for row in rows)
    folded, texts, legend = "Every fault in full", tuple(notes.texts), notes.legend
    return Table("faults", "Every fault", LEAD, columns, shown, texts, records, legend, folded=folded)


def _detail(row: Seen, notes: Footnotes) -> tuple[Entry, ...]:
    link = row.promise.link if row.promise else ""
    head = Entry(row.fault, FAULTS[row.fault].words), Entry(row.promised or NONE, link=link)
    why = "; ".join(dict.fromkeys(row.failed.values()))
    if not row.trials:
        blanks = [Entry(NONE)] * (len(COUNTS) + len(TIMES))
        return (*head, *blanks, Entry(row.trials_text), Entry("did not end ok", why, tone="unclear"))
    counts = [Entry(str(row.count(name)), row.ids(name)) for name in COUNTS]
    times = [_time(row, name, notes) for name in TIMES]
    return (*head, *counts, *times, Entry(row.trials_text), _verdict(row, why, notes))


def _time(row: Seen, metric: str, notes: Footnotes) -> Entry:
    """The median of the trials; below it the interval, and of how few trials or tasks it is."""
    if (figure := row.figures.get(metric)) is None:
        return Entry(NONE)
    ends = interval_text(figure.interval)
    some = f"{figure.trials} of {len(row.trials)} trials" if figure.trials < len(row.trials) else ""
    below = ("" if ends == NONE else ends, some, row.few(metric))
    return notes.beside(figure, sub="; ".join(filter(None, below)))


def _record(row: Seen) -> dict[str, Any]:
    remarks = "; ".join((row.remarks, *(figure.reason for figure in row.figures.values())))
    why = [row.unsupported, *row.failed.values(), *marks.remarks(remarks)]
    return {
        "system": row.subject.system,
        "variant": row.subject.variant,
        "guarantee": row.subject.guarantee,
        "fault": row.fault,
        "condition": row.condition,
        "promised": row.promised,
        "link": row.promise.link if row.promise else "",
        **{name: row.count(name) for name in (*COUNTS, "special_attempts", "special_refused")},
        **{key: value for name in TIMES for key, value in _ends(name, row.figures.get(name)).items()},
        "trials": row.trials_text,
        "verdict": row.verdict,
        "traced": row.why,
        "traced_link": row.why_link,
        "ids": ". ".join(f"{name}: {ids}" for name in COUNTS if (ids := row.ids(name))),
        "marks": marks.words(remarks),
        "reason": "; ".join(dict.fromkeys(filter(None, why))),
    }


def _ends(name: str, figure: Measured | None) -> dict[str, float | None]:
    """A figure and the ends of its interval, as columns of a CSV file."""
    found = figure.interval if figure else None
    value, low, high = (found.value, found.low, found.high) if found else (None, None, None)
    return {name: value, f"{name}_ci_low": low, f"{name}_ci_high": high}
