"""Faults: one thing goes wrong under a load, and each task of it is accounted for.

A burst finds the capacity; half of it is offered, and some seconds into that the fault is done and, where it
does not heal by itself, healed. What exits is started again by the harness, as a service manager would. The
drain outlasts the slowest constant by which the vendor promises that a struck task runs again, so that late
is not called lost; as long is waited once more, so that a task whose acknowledgement was lost is seen to run
twice. A last burst tells what the system reaches afterwards.

Struck tasks are those whose body ran when the fault was done, or the one that carries the fault. Constants
are made shorter where the library lets one, and stay longer than what stands still here does: else a pause
would look like a death.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from bench.model import FAULTS, FaultKind
from bench.scenario import (
    BATCHES,
    Arrival,
    CellError,
    Grid,
    History,
    Load,
    Metric,
    Parameter,
    Phase,
    Phases,
    Scenario,
    System,
    Variant,
    bursts,
    capacity_hz,
    speedup,
)

CALM_S: Final = 2.0
"""After the drain, at least: what comes twice may come late."""

SPECIAL: Final = 5
"""The index of the task of a load that raises, kills its process or cannot be serialised."""

LOAD, FLOOD = 0.5, 2.0
"""What is offered, as a share of the capacity: usually, and in a flood."""

EXHAUSTED, LONG_MS = 10, 1000
"""So many long tasks for each slot fill a pool; so many tasks at least are a burst that is compared."""

CORE: Final = ("task-process", "worker", "server", "broker", "database", "raise", "poison")
"""What is asked unless all is."""

SERVICES: Final = {
    "broker": frozenset({"redis", "rabbitmq"}),
    "database": frozenset({"postgresql", "postgresql-contrib"}),
}
"""What a variant must have for a fault to be aimed at it: seen before anything is started."""

LATE_S: Final = 5.0
"""A task that begins so long after it was due is late."""

LEAST_CALM: Final = 5
"""Of fewer tasks that started before the fault nobody learns how long they usually wait."""

IDS: Final = 10
"""So many task numbers are named beside a count."""


class Faults(Scenario):
    """What a variant promises when something goes wrong, beside what was observed."""

    headline = "fault_lost"
    again = False
    scaled = True
    title = "Faults: the fate of every task when something goes wrong, beside what the vendor promises"
    unasked = frozenset({"standard", "full"})
    parameters = {
        "fault": Parameter("worker", "what goes wrong", tuple(FAULTS)),
        "work": Parameter("sleep:200", "what a task does; long enough to be struck while it runs"),
        "load_s": Parameter(
            12.0,
            "seconds of load; the fault is done when a task runs after 3 of them",
            above_zero=True,
        ),
        "limit_s": Parameter(60.0, "seconds for the drain, beside what is promised", above_zero=True),
    }
    profiles = {
        "quick": (Grid(1, tuple({"fault": fault} for fault in CORE)),),
        "standard": (Grid(6, tuple({"fault": fault} for fault in CORE), heavy=1),),
        "full": (Grid(10, tuple({"fault": fault} for fault in FAULTS), heavy=3),),
    }

    def relay(self, params: Mapping[str, Any]) -> bool:
        return any(fault.aim == "network" for fault in FAULTS[params["fault"]].done)

    def clock(self, params: Mapping[str, Any]) -> bool:
        return any(fault.aim == "clock" for fault in FAULTS[params["fault"]].done)

    def unsupported(self, system: System, variant: Variant, params: Mapping[str, Any]) -> str:
        if variant.batch:
            return BATCHES
        for fault in FAULTS[params["fault"]].done:
            if fault.aim in SERVICES and SERVICES[fault.aim].isdisjoint(variant.services):
                return f"it has no {fault.aim} of its own"
            if fault.aim == "network" and not variant.services:
                return "it has no connection to a service"
        return ""

    def seconds(self, params: Mapping[str, Any]) -> float:
        return float(params["load_s"] + 20)

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        kind = FAULTS[params["fault"]]
        patience_s = constant_s = slowest_s(variant)
        # A wait that was told by the wall clock may end so much later than it should.
        if jump_s := max((abs(fault.ahead_s) for fault in kind.done), default=0):
            patience_s = max(constant_s, variant.settle_s) + jump_s

        def limit_s(lasts_s: float) -> float:
            return float(params["limit_s"] + 3 * lasts_s + patience_s)

        slots, work, load_s = variant.max_slots or 1, params["work"], params["load_s"]
        before = yield from bursts(variant, work, EXHAUSTED * slots, EXHAUSTED)
        before_hz = capacity_hz(before)
        rate_hz = before_hz * (FLOOD if params["fault"] == "flood" else LOAD)
        special = {SPECIAL: kind.special} if kind.special else {}
        if params["fault"] == "pool":
            special = dict.fromkeys(range(EXHAUSTED * slots), f"sleep:{LONG_MS}")
        n = max(2 * SPECIAL, len(special), math.ceil(rate_hz * load_s))
        load = Load(
            n,
            Arrival.POISSON,
            rate_hz,
            work=work,
            seed=round(rate_hz * 1000),
            special=tuple(special.items()),
        )
        yield Phase(
            "load",
            load,
            supervised=True,
            faults=kind.done,
            patience_s=patience_s,
            limit_s=limit_s(load.n / rate_hz),
        )
        again_s = constant_s + jump_s if kind.special or kind.done else 0.0
        yield Phase("calm", wait="hold", hold_s=max(CALM_S, again_s), supervised=True)
        yield Phase(
            "burst after",
            Load(len(before), work=work),
            supervised=True,
            patience_s=patience_s,
            limit_s=limit_s(len(before) / before_hz),
        )

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        """The fate of the load, and what came after it.

        Raises:
            CellError: what was sent before the load began beside it.
        """
        kind = FAULTS[params["fault"]]
        tasks = history.sent("load")
        _check_alone(history, int(tasks["submit_ns"].min()), int(tasks[["due_ns", "start_ns"]].max().max()))
        struck = _struck(history, tasks, kind)
        yield Metric("struck", "count", float(len(struck)), len(tasks), note=_named(struck))
        others = tasks.drop(tasks.index[tasks["index"] == SPECIAL]) if kind.special else tasks
        ended, taken = others["ends"] > 0, others["accepted"] > 0
        counts = {
            "lost": others[~ended & (others["fails"] == 0) & (taken | (others["starts"] > 0))],
            "duplicated": others[others["repeated"]],
            "failed": others[~ended & (others["fails"] > 0)],
            "refused": others[~ended & (others["refused"] > 0) & (others["starts"] == 0)],
            "unanswered": others[~taken & (others["refused"] == 0) & (others["starts"] == 0)],
            "rerun": others[(others["starts"] > 1) & ~others["repeated"]],
        }
        waited_ns = (others["start_ns"] - others["due_ns"]).astype("Float64")
        counts["late"] = others[(ended & (waited_ns > LATE_S * 1e9).fillna(False)).to_numpy(bool)]
        for name, rows in counts.items():
            yield Metric(f"fault_{name}", "count", float(len(rows)), len(others), note=_named(rows))
        if kind.special:
            special = tasks[tasks["index"] == SPECIAL]
            yield Metric("special_attempts", "count", float(special["starts"].sum()), 1)
            yield Metric("special_refused", "count", float(special["refused"].sum()), 1)
        if kind.done:
            yield from self.recovery(history, tasks)
        yield from self.afterwards(history)
        if history.restarts:
            yield Metric("restarts", "count", float(len(history.restarts)), len(history.restarts))

    def recovery(self, history: History, tasks: pd.DataFrame) -> Iterable[Metric]:
        """How long nothing started, and until when tasks were late, both from the fault on."""
        at_ns = int(history.faults[0]["done_ns"])
        yield _standstill(tasks, at_ns)
        waited_ms = ((tasks["start_ns"] - tasks["due_ns"]) / 1e6).astype(float)
        calm = waited_ms[(tasks["start_ns"] < at_ns).fillna(False).to_numpy(bool)]
        after_it = (tasks["due_ns"] > at_ns).to_numpy(bool)
        if len(calm) < LEAST_CALM or not after_it.any():
            return
        usual_ms = 2 * float(calm.max()) + 100
        upset = tasks[after_it & ((waited_ms > usual_ms) | waited_ms.isna()).to_numpy(bool)]
        last_ns = int(upset["due_ns"].max()) if len(upset) else at_ns
        until_the_end = len(upset) and last_ns == tasks["due_ns"].max()
        note = "a lower bound: not before the load ended" if until_the_end else ""
        yield Metric("recovered_after", "s", (last_ns - at_ns) / 1e9, int(after_it.sum()), note=note)

    def afterwards(self, history: History) -> Iterable[Metric]:
        """What a burst reaches after the fault, over what the same burst reached before."""
        before = [phase.name for phase in history.phases.values() if phase.name.startswith("burst of")]
        after = history.sent("burst after")
        over = int(((after["ends"] + after["fails"]) > 0).sum())
        left = len(after) - over
        note = f"{left} of {len(after)} tasks never came to an end" if left else ""
        try:
            found = speedup(after, history.sent(before[-1]))
        except CellError as error:
            yield Metric("throughput_after", "x", 0.0, over, note=str(error))
        else:
            yield Metric("throughput_after", "x", found.value, over, found.low, found.high, note)


def slowest_s(variant: Variant) -> float:
    """The slowest constant by which it is promised that tasks run again, in s, after whatever fault.

    What is promised for another one may be what brings a task back after this one.
    """
    return max((promise.within_s for promise in variant.promises.values()), default=0.0)


def _check_alone(history: History, began_ns: int, over_ns: int) -> None:
    for name in (phase.name for phase in history.phases.values() if phase.name.startswith("burst of")):
        starts_ns = history.sent(name)["start_ns"]
        if late := int(((starts_ns > began_ns) & (starts_ns < over_ns)).fillna(False).sum()):
            raise CellError(f"{late} tasks of {name!r} began only when the load was under way")


def _standstill(tasks: pd.DataFrame, at_ns: int) -> Metric:
    """The longest time, from the fault on, in which the task that started next was due and nothing started.

    After the last start it goes on until the last task was due, if any of those that never started waited.
    """
    ran = tasks[(tasks["start_ns"] > at_ns).fillna(False).to_numpy(bool)].sort_values("start_ns")
    starts_ns, due_ns = ran["start_ns"].to_numpy(np.int64), ran["due_ns"].to_numpy(np.int64)
    before_ns = np.append(at_ns, starts_ns)
    waits_ns = starts_ns - np.maximum(before_ns[:-1], due_ns)
    last_ns = int(before_ns[-1])
    never = tasks[(tasks["starts"] == 0) & (tasks["due_ns"] > last_ns).to_numpy(bool)]
    note = ""
    if len(never):
        waits_ns = np.append(waits_ns, int(tasks["due_ns"].max()) - int(never["due_ns"].min()))
        note = "a lower bound: what was due last never started"
    return Metric("standstill", "s", float(waits_ns.max(initial=0)) / 1e9, len(ran), note=note)


def _struck(history: History, tasks: pd.DataFrame, kind: FaultKind) -> pd.DataFrame:
    """The tasks whose body ran when the fault was done, or that carry it."""
    if kind.special:
        chosen = (tasks["index"] == SPECIAL).to_numpy(bool)
    elif history.faults:
        at_ns = history.faults[0]["done_ns"]
        over = (tasks["end_ns"] < at_ns) | (tasks["fail_ns"] < at_ns)
        chosen = (tasks["start_ns"] < at_ns).fillna(False).to_numpy(bool) & ~over.fillna(False).to_numpy(bool)
        if struck := history.faults[0]["touched"]:
            chosen &= tasks["pid"].isin(struck).to_numpy(bool)
    else:
        chosen = np.zeros(len(tasks), np.bool_)
    return tasks.loc[chosen]


def _named(rows: pd.DataFrame) -> str:
    """The numbers of tasks, so that each can be looked up in tasks.parquet."""
    numbers = rows["index"].tolist()
    more = f" and {len(numbers) - IDS} more" if len(numbers) > IDS else ""
    return f"tasks {', '.join(map(str, numbers[:IDS]))}{more}" if numbers else ""
