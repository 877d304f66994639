"""Throughput: how fast a full queue drains.

Tasks are queued while nothing can run them; then the workers start. From first start to last end.
`seconds` adds a longer drain, sized by a first one to last about that long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bench.scenario import (
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
    rate_hz,
)

MOST_TASKS = 200_000
SIZING_TASKS = 200


class Throughput(Scenario):
    """Drain of queued tasks."""

    title = "Throughput of a full queue (drain)"
    parameters = {
        "tasks": Parameter(
            1000, "tasks queued before the workers start (the survey's condition), or at least so many"
        ),
        "seconds": Parameter(
            0.0, "queue as many as last about this long, by a short drain before; 0 for just `tasks`"
        ),
        "work": Parameter("noop", "what a task does: noop, sleep:MS, io:MS:BYTES, cpu:MS"),
        "payload": Parameter(0, "bytes of payload in every task"),
    }
    profiles = {
        "quick": (Grid(3, ({"tasks": 1000},)), Grid(1, ({"seconds": 1.0},))),
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
        return 4 + 2.5 * float(params["seconds"])

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        limit = variant.queue_limit or MOST_TASKS
        # Of a longer drain, the first one only tells the size.
        n = min(SIZING_TASKS if params["seconds"] else params["tasks"], limit)
        outcome = yield from self._drain("", n, params)
        if params["seconds"]:
            n = min(max(params["tasks"], math.ceil(outcome.rate_hz * params["seconds"])), limit)
            yield from self._drain("long ", n, params)

    def _drain(self, prefix: str, n: int, params: Mapping[str, Any]) -> Phases:
        load = Load(n, work=params["work"], payload_bytes=params["payload"])
        yield Phase(prefix + "queue", load, workers=Workers.DOWN, wait="queued")
        outcome = yield Phase(prefix + "drain", ready=False, limit_s=120 + 10 * params["seconds"])
        return outcome

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        tasks = history.of("long queue" if params["seconds"] else "queue")
        rate, n = rate_hz(tasks)
        lost = len(tasks) - n
        note = f"invalid: {lost} of {len(tasks)} tasks did not end" if lost else ""
        yield Metric("throughput", "tasks/s", rate, n, note=note)
        accepted = tasks[tasks["accepted"] > 0]
        span_ns = int(accepted["accepted_ns"].max()) - int(accepted["submit_ns"].min())
        yield Metric("submit_rate", "tasks/s", len(accepted) / span_ns * 1e9, len(accepted))
