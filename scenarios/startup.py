"""Startup: from just before the processes that run tasks are spawned to the first task's start.

The task waits in the queue before they are spawned. An in-process system has no queue outside itself:
there the clock runs from the spawn of the process to the start of the first task it gives itself. What
must be there before is told apart: services, the migration of a database, servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.scenario import (
    BATCHES,
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
    Workers,
)


class Startup(Scenario):
    """Process spawn to first task."""

    headline = "startup"
    title = "Startup: process spawn to first task"
    parameters = {
        "start": Parameter("warm", "cold: the files are put out of the page cache first", ("warm", "cold")),
    }
    profiles = {
        "quick": (Grid(2, ({"start": "warm"},), heavy=0),),
        "standard": (Grid(6, ({"start": "cold"}, {"start": "warm"})),),
        "full": (Grid(10, ({"start": "cold"}, {"start": "warm"})),),
    }

    def cold(self, params: Mapping[str, Any]) -> bool:
        return bool(params["start"] == "cold")

    def unsupported(self, system: System, variant: Variant, params: Mapping[str, Any]) -> str:
        return BATCHES if variant.batch else ""

    def seconds(self, params: Mapping[str, Any]) -> float:
        return 1.5

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        yield Phase("queue", Load(1), workers=Workers.DOWN, wait="queued")
        yield Phase("first", ready=False, limit_s=60 + variant.start_s)

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        started = history.of("queue").dropna(subset=["start_ns"])
        if started.empty:
            raise CellError("the task that was queued never started")
        task = started.iloc[0]
        seconds = (int(task["start_ns"]) - history.spawned_ns["first"]) / 1e9
        # Told ahead, the task was due later than it could have run.
        wait_s = max(0.0, (int(task["due_ns"]) - int(task["submit_ns"])) / 1e9) if history.ahead else 0.0
        yield Metric("startup", "s", seconds - wait_s, 1)
        for step, took_s in history.set_up_s.items():
            yield Metric(f"set_up.{step}", "s", took_s, 1)
