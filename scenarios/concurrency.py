"""Concurrency: many tasks become due at one moment, in a system that has fewer slots.

With `slots` of them, `jobs` tasks of so much work cannot be over before ceil(jobs / slots) times that work:
the ideal. Latency that grows with the number of tasks is queueing, and no system is to blame for it; what it
adds shows in the efficiency, which is the ideal over the time that the burst took. A system has a knee only
where it departs from the ideal: `reports.knees` looks for it over the cells of several sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.model import Fate
from bench.openloop import Milliseconds, dispatch_ms
from bench.scenario import (
    BATCHES,
    Grid,
    History,
    Load,
    Metric,
    Parameter,
    Phase,
    Phases,
    Scenario,
    System,
    Unsupported,
    Variant,
    body_s,
    capacity_hz,
    first_tasks,
    ledger,
    stats,
)

BURST = "burst "
"""How the names of the measured phases begin."""

LIMIT_S, LIMIT_IDEALS, LONGEST_S = 120.0, 10, 600.0
"""A burst is given up after the first and so many times the ideal. A heavy variant is not asked for one that
would take longer than the last, by the rate of its first tasks."""

PERCENTS = (50, 95)

SIZES = tuple({"jobs": jobs} for jobs in (10, 30, 100, 300, 1000))
FEW, MANY = SIZES[:3], SIZES[3:]
SLOTS = tuple({"slots": slots} for slots in (1, 2, 4, 8))
LONG = {"rounds": 20, "most_s": 60.0}
POOL = tuple({**size, "slots": 10} for size in SIZES)
"""With the ten threads that APScheduler's pool has by default, of which the survey speaks."""


class Concurrency(Scenario):
    """Bursts of tasks that all become due at once."""

    headline = "success"
    title = "Concurrent jobs: latency, success and efficiency of bursts of 10 to 1000 tasks"
    unasked = frozenset({"standard", "full"})
    parameters = {
        "jobs": Parameter(100, "tasks that become due at once", above_zero=True),
        "slots": Parameter(0, "tasks that may run at once; 0 for as many as in the rest of the run"),
        "work": Parameter("sleep:100", "what a task does: sleep:MS, io:MS:BYTES, cpu:MS"),
        "rounds": Parameter(5, "bursts, one after the other", above_zero=True),
        "most_s": Parameter(10.0, "no further burst begins when those before took so many seconds"),
        "rest_s": Parameter(1.0, "seconds of rest before each burst"),
        "grace_s": Parameter(60.0, "a task is late that starts so many seconds after the ideal end"),
    }
    profiles = {
        "quick": (Grid(1, tuple({**size, "rounds": 2, "most_s": 2.0} for size in SIZES)),),
        "standard": (Grid(6, FEW, heavy=1), Grid(6, MANY, heavy=0), Grid(6, SLOTS, heavy=0)),
        "full": (
            Grid(10, tuple({**size, **LONG} for size in FEW), heavy=3),
            Grid(10, tuple({**size, **LONG} for size in MANY), heavy=0),
            Grid(10, SLOTS + POOL, heavy=0),
        ),
    }

    def unsupported(self, system: System, variant: Variant, params: Mapping[str, Any]) -> str:
        if variant.batch:
            return BATCHES
        if variant.queue_limit and params["jobs"] > variant.queue_limit:
            return f"it holds at most {variant.queue_limit} unfinished tasks"
        return "" if body_s(params["work"]) else "a body of no length has no ideal: --set work=sleep:100"

    def seconds(self, params: Mapping[str, Any]) -> float:
        ideal_s = Ideal(params["jobs"], params["slots"] or 2, body_s(params["work"])).clear_s
        rounds = min(params["rounds"], 1 + params["most_s"] // max(ideal_s, 0.001))
        return float(rounds * (params["rest_s"] + ideal_s))

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        jobs, work = params["jobs"], params["work"]
        if variant.heavy:
            seen = yield Phase("first tasks", Load(first_tasks(variant), work=work))
            if jobs / (first_hz := capacity_hz(seen())) > LONGEST_S:
                raise Unsupported(
                    f"its first tasks ran at {first_hz:.2g} tasks/s: {jobs} of them would take too long"
                )
        ideal_s = Ideal(jobs, variant.max_slots or 1, body_s(work)).clear_s
        limit_s = LIMIT_S + LIMIT_IDEALS * ideal_s + (LONGEST_S if variant.heavy else 0.0)
        took_s = 0.0
        for number in range(1, params["rounds"] + 1):
            yield Phase(f"rest {number}", wait="hold", hold_s=params["rest_s"])
            seen = yield Phase(f"{BURST}{number}", Load(jobs, work=work), limit_s=limit_s)
            took_s += lasted_s(seen())
            if took_s >= params["most_s"]:
                return

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        ideal = Ideal(params["jobs"], history.slots, body_s(params["work"]))
        names = [phase.name for phase in history.phases.values() if phase.name.startswith(BURST)]
        rounds = [judged(history.of(name), ideal.clear_s + params["grace_s"]) for name in names]
        yield from figures(rounds, ideal.clear_s)
        yield Metric("slots", "count", float(history.slots), 1)
        yield Metric("ideal_time", "s", ideal.clear_s, 1)
        yield Metric("ideal_latency_p95", "ms", float(np.percentile(ideal.latency_ms, 95)), 1)


@dataclass(frozen=True)
class Ideal:
    """Slots that take the next task the moment they have ended one: `jobs` tasks that take `work_s` each."""

    jobs: int
    slots: int
    work_s: float

    @property
    def clear_s(self) -> float:
        """From due until the last has ended."""
        return math.ceil(self.jobs / self.slots) * self.work_s

    @property
    def latency_ms(self) -> Milliseconds:
        """From due to start, of every task."""
        return np.asarray(np.arange(self.jobs) // self.slots * (self.work_s * 1e3), np.float64)


@dataclass(frozen=True)
class Round:
    """What one burst showed. `clear_s` is None where a task never ended: it was never cleared."""

    latency_ms: Milliseconds
    clear_s: float | None
    ok: int
    ended: int
    n: int


def lasted_s(tasks: pd.DataFrame) -> float:
    """From the first due time to the last end; 0 where nothing ended."""
    ended_ns = tasks["end_ns"].dropna()
    return (int(ended_ns.max()) - int(tasks["due_ns"].min())) / 1e9 if len(ended_ns) else 0.0


def judged(tasks: pd.DataFrame, deadline_s: float) -> Round:
    """What the tasks of a burst show; one that starts later than `deadline_s` after it is due is not ok."""
    ok = int((ledger.fates(tasks, deadline_s) == Fate.OK).sum())
    ended = int((tasks["ends"] > 0).sum())
    clear_s = lasted_s(tasks) if ended == len(tasks) else None
    return Round(dispatch_ms(tasks), clear_s, ok, ended, len(tasks))


def figures(rounds: Sequence[Round], ideal_s: float) -> Iterator[Metric]:
    """The figures of several bursts of one size: the median of the bursts, with its interval over them.

    Percentiles are of all tasks of a burst, and no estimate from a sample of it. What was lost is in
    `success` alone, so that the others say that they speak of the tasks that ran.
    """
    n, ended, ok = (sum(getattr(one, name) for one in rounds) for name in ("n", "ended", "ok"))
    share = stats.proportion_interval(ok, n)
    low, high = (None if end is None else 100 * end for end in (share.low, share.high))
    yield Metric("success", "%", 100 * share.value, n, low, high)
    lost = f"{n - ended} of {n} tasks did not end" if ended < n else ""
    ran = [one.latency_ms for one in rounds if len(one.latency_ms)]
    for percent in PERCENTS:
        found = [float(np.percentile(latency_ms, percent)) for latency_ms in ran]
        yield from over_bursts(f"dispatch_latency_p{percent}", "ms", found, lost)
    if ran:
        longest_ms = max(float(latency_ms.max()) for latency_ms in ran)
        yield Metric("dispatch_latency_max", "ms", longest_ms, len(ran), note=lost)
    clear_s = [one.clear_s for one in rounds if one.clear_s is not None]
    yield from over_bursts("clear_time", "s", clear_s, lost)
    yield from over_bursts("efficiency", "%", [100 * ideal_s / each_s for each_s in clear_s], lost)


def over_bursts(name: str, unit: str, values: Sequence[float], note: str) -> Iterator[Metric]:
    """The median of the bursts that have the figure; nothing where none has."""
    if values:
        found = stats.median_interval(values)
        yield Metric(name, unit, found.value, found.n, found.low, found.high, note)
