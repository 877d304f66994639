"""Throughput: how fast a full queue drains.

Tasks are queued while nothing can run them; then the workers start. From first start to last end.
`seconds` adds a longer drain, sized by a first one to last about that long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from bench.scenario import (
    CellError,
    Grid,
    History,
    Load,
    Metric,
    Parameter,
    Phase,
    Phases,
    Scenario,
    Variant,
    Workers,
    capacity_hz,
    first_tasks,
    rate_hz,
    steady_hz,
)

MOST_TASKS = 200_000
SIZING_TASKS = 200
LATE_SHARE = 0.05
FEW_ROUNDS = 3
"""A drain of a heavy variant has so many tasks for each slot: there may be no time for more."""

FEW = 100
"""Of fewer tasks the first round counts too much: they are counted from its end on."""


class Throughput(Scenario):
    """Drain of queued tasks."""

    headline = "throughput"
    title = "Throughput of a full queue (drain)"
    parameters = {
        "tasks": Parameter(
            1000,
            "tasks queued before the workers start (the survey's condition), or at least so many",
            above_zero=True,
        ),
        "seconds": Parameter(
            0.0, "queue as many as last about this long, by a short drain before; 0 for just `tasks`"
        ),
        "most_s": Parameter(
            60.0, "a heavy system is given fewer tasks when they would take about longer than this"
        ),
        "work": Parameter("noop", "what a task does: noop, sleep:MS, io:MS:BYTES, cpu:MS"),
        "payload": Parameter(0, "bytes of payload in every task"),
    }
    profiles = {
        "quick": (Grid(2, ({"tasks": 1000, "most_s": 5.0},), heavy=1),),
        "standard": (Grid(6, ({"tasks": 1000}, {"seconds": 30.0})),),
        "full": (
            Grid(
                10,
                (
                    {"tasks": 1000},
                    {"seconds": 30.0},
                    {"seconds": 30.0, "payload": 10_000},
                    {"work": "io:5:1024"},
                    {"work": "sleep:5"},
                ),
            ),
        ),
    }

    def seconds(self, params: Mapping[str, Any]) -> float:
        return 1.5 + 2 * float(params["seconds"])

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        limit = variant.queue_limit or MOST_TASKS
        if variant.heavy:
            yield from self._from_few(variant, limit, params)
            return
        # Of a longer drain, the first one only tells the size.
        n = min(SIZING_TASKS if params["seconds"] else params["tasks"], limit)
        drained = yield from self._drain("", n, params)
        if params["seconds"]:
            n = min(max(params["tasks"], math.ceil(capacity_hz(drained()) * params["seconds"])), limit)
            yield from self._drain("long ", n, params)

    def _from_few(self, variant: Variant, limit: int, params: Mapping[str, Any]) -> Phases:
        """As many tasks as end in time: a drain of a few tells, and counts where no more would."""
        few = min(first_tasks(variant, FEW_ROUNDS), limit, params["tasks"])
        drained = yield from self._drain("", few, params)
        wanted_s = params["seconds"] or params["most_s"]
        most = limit if params["seconds"] else min(limit, params["tasks"])
        if few == most:
            return
        n = min(most, math.ceil(capacity_hz(drained()) * wanted_s))
        if n > few:
            yield from self._drain("long ", n, params)

    def _drain(self, prefix: str, n: int, params: Mapping[str, Any]) -> Phases:
        load = Load(n, work=params["work"], payload_bytes=params["payload"])
        limit_s = 180 + 10 * max(params["seconds"], params["most_s"])
        queued = yield Phase(prefix + "queue", load, workers=Workers.DOWN, wait="queued", limit_s=limit_s)
        yield Phase(prefix + "drain", ready=False, limit_s=limit_s)
        return queued

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        names = {phase.name for phase in history.phases.values()}
        tasks = history.of("long queue" if "long queue" in names else "queue")
        if tasks.empty:
            raise CellError("no task was queued")
        whole_hz, n = rate_hz(tasks)
        rate = steady_hz(tasks)[0] if len(tasks) < FEW else whole_hz
        notes = [f"invalid: {len(tasks) - n} of {len(tasks)} tasks did not end"] if n < len(tasks) else []
        if len(tasks) < min(FEW, params["tasks"]):
            notes.append(f"{len(tasks)} tasks, more would take too long; from the end of the first round on")
        lasted_s = n / whole_hz if whole_hz > 0 else 0.0
        wanted_s = params["seconds"]
        if wanted_s and not 0.7 * wanted_s <= lasted_s <= wanted_s / 0.7:
            notes.append(f"the drain lasted {lasted_s:.2g} s with {n} tasks")
        joined = last_joined_share(tasks)
        if joined > LATE_SHARE:
            notes.append(f"its last process joined late, after {joined:.0%} of the time")
        yield Metric("throughput", "tasks/s", rate, n, note="; ".join(notes))
        accepted = tasks[tasks["accepted"] > 0]
        if accepted.empty:
            return
        span_ns = int(accepted["accepted_ns"].max()) - int(accepted["submit_ns"].min())
        yield Metric("submit_rate", "tasks/s", len(accepted) / span_ns * 1e9, len(accepted))


def last_joined_share(tasks: pd.DataFrame) -> float:
    """How much of a drain had passed when its last process ran its first task, as a share of the drain.

    0 for one process, and for systems that fork a process for every few tasks.
    """
    first = tasks.dropna(subset=["start_ns", "end_ns"]).groupby("pid")["start_ns"].min()
    if not 1 < len(first) <= len(tasks) / 10:
        return 0.0
    return float((first.max() - first.min()) / (tasks["end_ns"].max() - first.min()))
