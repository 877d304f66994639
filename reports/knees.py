"""Knees: the number of concurrent jobs at which a system begins to do worse than queueing alone would.

Of slots that are all taken, latency grows with the number of jobs in any system, the ideal one too: that is
no knee. A trial has its knee at the first number of jobs of which a task was lost or late, or at which the
efficiency (the ideal time of the burst over the time it took) falls below `FALL` of the best at any smaller
number. A system that is as slow with few jobs as with many has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from bench.model import Status
from bench.stats import Interval, proportion_interval
from bench.store import Run
from reports import marks, published
from reports.accounts import counted_doubts
from reports.measured import Subject, but, parameters, subjects, trials_of
from reports.published import Figure, Verdict, Word
from reports.tables import DASH, NONE, Column, Entry, Footnotes, Group, Table, number

FALL: Final = 0.8
"""The share of the best efficiency below which there is a knee."""

JOBS, WORK = 100, "sleep:100"
"""Of a burst whose parameters do not say."""

CLAIM: Final = "concurrent_jobs_knee"
"""The published metric."""


@dataclass(frozen=True)
class Point:
    """What bursts of one size showed in one trial; `efficiency` in % is None where none was ever cleared."""

    jobs: int
    efficiency: float | None
    ok: int
    n: int


@dataclass(frozen=True)
class Knee:
    """Where one trial has its knee: at `jobs` (None: nowhere), and not yet at `before` (0: the smallest)."""

    jobs: int | None
    before: int
    why: str = ""


def knee(points: Iterable[Point]) -> Knee:
    """The knee of one trial, of which there is a point for each number of jobs."""
    best, before = 0.0, 0
    for point in sorted(points, key=lambda point: point.jobs):
        if point.ok < point.n or point.efficiency is None:
            return Knee(point.jobs, before, "tasks that were not ok")
        if point.efficiency < FALL * best:
            return Knee(point.jobs, before, "falling efficiency")
        best, before = max(best, point.efficiency), point.jobs
    return Knee(None, before)


@dataclass(frozen=True)
class Curve:
    """A variant under one condition: its points by trial, and the remarks on their figures.

    `text` are the parameters but the number of jobs, as they stand in `summary.csv`.
    """

    subject: Subject
    text: str
    slots: int
    trials: tuple[tuple[Point, ...], ...]
    reason: str = ""

    @property
    def work(self) -> str:
        """What each task did."""
        return str(parameters(self.text).get("work", WORK))

    @property
    def knees(self) -> list[Knee]:
        """The knee of every trial."""
        return [knee(points) for points in self.trials]

    @property
    def found(self) -> list[int]:
        """At how many jobs the knee showed, in the trials that have one."""
        return sorted(one.jobs for one in self.knees if one.jobs is not None)

    @property
    def upto(self) -> int:
        """The most jobs that every trial tried."""
        return min(max(point.jobs for point in points) for points in self.trials)

    @property
    def between(self) -> tuple[int, int] | None:
        """The last number of jobs without a knee and the first with one, of all trials that have one."""
        having = [(one.before, one.jobs) for one in self.knees if one.jobs is not None]
        return (min(low for low, _ in having), max(high for _, high in having)) if having else None

    @property
    def words(self) -> str:
        """The knee in words."""
        if self.between is None:
            return f"none up to {self.upto:,}"
        low, high = self.between
        return f"{low:,}{DASH}{high:,}" if low else f"{high:,} or fewer"

    @property
    def support(self) -> str:
        """In how many trials it is so."""
        n, having = len(self.trials), len(self.found)
        return f"in {having or n} of {n} trial{'s' * (n != 1)}"

    @property
    def why(self) -> str:
        """What makes it a knee."""
        return " or ".join(dict.fromkeys(one.why for one in self.knees if one.why))

    def at(self, jobs: int) -> list[Point]:
        """What all trials showed at one number of jobs."""
        return [point for points in self.trials for point in points if point.jobs == jobs]

    @property
    def sizes(self) -> list[int]:
        """Every number of jobs."""
        return sorted({point.jobs for points in self.trials for point in points})

    def success(self, jobs: int) -> Interval:
        """The share of tasks that were ok, over all trials, with its exact interval."""
        points = self.at(jobs)
        return proportion_interval(sum(p.ok for p in points), sum(p.n for p in points))


def curves(run: Run) -> list[Curve]:
    """Every variant and condition with at least two numbers of jobs; invalid figures left out.

    A cell that did not end ok, of a variant and condition that has others, counts as no task that was ok.
    """
    about = subjects(run)
    trials: dict[tuple[str, str, str], dict[str, list[Point]]] = {}
    slots: dict[tuple[str, str, str], int] = {}
    reasons: dict[tuple[str, str, str], list[str]] = {}
    keys = ["system", "variant", "params", "trial"]
    for (system, variant, params, trial), own in trials_of(run, "concurrency").groupby(keys):
        key = (str(system), str(variant), but(str(params), "jobs"))
        by_name: dict[str, dict[Any, Any]] = {str(row["metric"]): row for row in own.to_dict("records")}
        if "success" not in by_name:
            continue
        point = _point(int(float(parameters(str(params)).get("jobs", JOBS))), by_name)
        trials.setdefault(key, {}).setdefault(str(trial), []).append(point)
        slots[key] = int(by_name["slots"]["value"])
        reasons.setdefault(key, []).append(str(by_name["success"]["reason"]))
    for system, variant, params, trial in _failed(run):
        key = (system, variant, but(params, "jobs"))
        if key in trials:
            jobs = int(float(parameters(params).get("jobs", JOBS)))
            trials[key].setdefault(trial, []).append(Point(jobs, None, 0, jobs))
    found = [
        Curve(
            about[key[0], key[1]],
            key[2],
            slots[key],
            tuple(tuple(points) for points in by_trial.values()),
            counted_doubts(reasons[key]),
        )
        for key, by_trial in trials.items()
    ]
    several = [curve for curve in found if len(curve.sizes) > 1]
    return sorted(
        several, key=lambda c: (c.slots, c.text, c.subject.floor, c.subject.title, c.subject.variant)
    )


def _failed(run: Run) -> list[tuple[str, str, str, str]]:
    """System, variant, parameters and trial of every cell that could not be brought to an end."""
    rows = run.summary[(run.summary["scenario"] == "concurrency") & (run.summary["trial"] != "")]
    rows = rows[rows["status"].isin((Status.ERROR.value, Status.TIMEOUT.value))]
    keys = rows[["system", "variant", "params", "trial"]].drop_duplicates()
    return [(str(a), str(b), str(c), str(d)) for a, b, c, d in keys.itertuples(index=False)]


def _point(jobs: int, by_name: dict[str, dict[Any, Any]]) -> Point:
    success, efficiency = by_name["success"], by_name.get("efficiency")
    # Where tasks were lost in some of the bursts, the others alone do not make it whole.
    n = int(success["n"])
    ok = round(float(success["value"]) / 100 * n)
    known = efficiency is not None and not pd.isna(efficiency["value"])
    return Point(jobs, float(efficiency["value"]) if efficiency and known else None, ok, n)


# --- held against what was published ----------------------------------------------------------------


def claim(subject: Subject) -> Figure | None:
    """What was published of the knee of a system."""
    figures = (one for one in published.load() if one.metric == CLAIM and published.concerns(one, subject))
    return next(figures, None)


def verdict(curve: Curve, figure: Figure) -> Verdict:
    """A knee lies above the last number of jobs without one, and at or below the first with one."""
    low, high = figure.bounds
    reserved = f"with {slots_words(curve.slots)}: it names none"
    if curve.between is None:
        if high is not None and curve.upto <= high:
            return Verdict(Word.NOT_COMPARABLE, f"no more than {curve.upto:,} were tried")
        return Verdict(Word.ABOVE, reserved)
    if len(curve.found) < len(curve.trials):
        return Verdict(Word.NOT_COMPARABLE, "not every trial has a knee")
    interval = Interval(curve.found[0], *curve.between, len(curve.trials), 0.0)
    return published.verdict(low, high, interval, curve.reason).reserved(reserved)


# --- the table --------------------------------------------------------------------------------------

LEAD: Final = (
    "So many tasks become due at once. Slots that are all taken make the last ones wait in any system: the "
    "ideal needs the number of tasks over that of slots, rounded up, times the work of one. Efficiency is "
    "that time over the one that the burst took until its last task had ended. A trial has its knee at the "
    "first number of tasks of which one was lost or late, or at which the efficiency falls below "
    f"{FALL:.0%} of the best at a smaller number: it lies somewhere between the number before, where all was "
    "well, and that one."
)


def tables(run: Run) -> list[Table]:
    """The table of the knees."""
    notes, groups, records = Footnotes(), [], []
    found = curves(run)
    for words in dict.fromkeys(_condition(curve) for curve in found):
        own = [curve for curve in found if _condition(curve) == words]
        groups.append(Group(words, tuple(_entries(curve, notes) for curve in own)))
        records += [_record(curve) for curve in own]
    labels = (
        "System",
        "Variant",
        "Knee, tasks",
        "Why",
        "Efficiency, %",
        "Ok with the most, %",
        "Published",
        "Verdict",
    )
    numeric = ("Efficiency, %", "Ok with the most, %", "Published")
    columns = tuple(Column(label, label in numeric) for label in labels)
    title = "Concurrent jobs: where is the knee?"
    return [
        Table("knees", title, LEAD, columns, tuple(groups), tuple(notes.texts), tuple(records), notes.legend)
    ]


def _condition(curve: Curve) -> str:
    return f"{slots_words(curve.slots)}, work {curve.work}"


def slots_words(slots: int) -> str:
    """So many slots in words."""
    return f"{slots} slot{'s' * (slots != 1)}"


def _entries(curve: Curve, notes: Footnotes) -> tuple[Entry, ...]:
    notes.reasons.append(curve.reason)
    figure = claim(curve.subject)
    said = verdict(curve, figure) if figure else Verdict(Word.NOTHING)
    return (
        Entry(curve.subject.title),
        Entry(curve.subject.variant),
        Entry(curve.words, curve.support, notes.of(curve.reason), marks=marks.marks(curve.reason)),
        Entry(curve.why or NONE),
        Entry(_efficiencies(curve)),
        Entry(_percent(curve.success(curve.upto))),
        Entry(figure.text if figure else NONE),
        Entry(str(said.word) or NONE, said.why, tone=str(said.word) if said.told else "absent"),
    )


def _efficiencies(curve: Curve) -> str:
    """The lowest and the highest of the medians, from the fewest jobs to the most."""
    medians = [value for jobs in curve.sizes if (value := efficiency(curve.at(jobs))) is not None]
    return f"{number(min(medians))}{DASH}{number(max(medians))}" if medians else NONE


def efficiency(points: Sequence[Point]) -> float | None:
    """The median of the trials in which a burst was cleared."""
    known = [point.efficiency for point in points if point.efficiency is not None]
    return float(pd.Series(known).median()) if known else None


def _percent(share: Interval) -> str:
    low, high = (0.0 if end is None else 100 * end for end in (share.low, share.high))
    return f"{number(100 * share.value)} ({number(low)}{DASH}{number(high)})"


def _record(curve: Curve) -> dict[str, Any]:
    last = curve.success(curve.upto)
    figure = claim(curve.subject)
    return {
        "system": curve.subject.system,
        "variant": curve.subject.variant,
        "condition": _condition(curve),
        "knee_low": curve.between[0] if curve.between else None,
        "knee_high": curve.between[1] if curve.between else None,
        "up_to": curve.upto,
        "trials_with_knee": len(curve.found),
        "trials": len(curve.trials),
        "why": curve.why,
        "ok_at_most": last.value,
        "ok_low": last.low,
        "ok_high": last.high,
        "published": figure.id if figure else "",
        "verdict": str(verdict(curve, figure)) if figure else "",
        "marks": marks.words(curve.reason),
        "reason": curve.reason,
    }
