"""Dispatch latency: from the moment a task is due to the moment its body starts, under open-loop load.

Arrivals are planned before the run and do not wait for completions, so a stall delays every task that
was due during it (no coordinated omission). `rate` is a fixed number of tasks per second; `load` a
fraction of the capacity that bursts have found a moment before in the same cell; with both, the lower. A
fixed rate above the capacity is not tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bench.openloop import dispatch_ms, generator_lag_ms, offered_share, remarks
from bench.scenario import (
    AHEAD_S,
    BATCHES,
    Arrival,
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
    bursts,
    capacity_hz,
    first_tasks,
    quantiles,
)

LEAST_S = 5.0
"""A share of capacity is offered for at least so long, however fast the system is."""

MOST_TASKS = 100_000

FAR = 1.25
"""A rate so far above what a burst reached is not tried; a burst is too noisy to tell less."""


class Latency(Scenario):
    """Open-loop dispatch latency."""

    deadline_s = 60.0
    headline = "dispatch_latency_p95"
    title = "Dispatch latency under an open-loop load"
    parameters = {
        "arrival": Parameter("poisson", "how due times are spread", ("constant", "poisson")),
        "rate": Parameter(0.0, "tasks per second; with load as well, the lower of the two"),
        "load": Parameter(0.0, "fraction of the capacity that a burst in the same cell finds; 0 for none"),
        "tasks": Parameter(1000, "measured tasks (P95 wants at least 1000, P99 10 000)", above_zero=True),
        "most_s": Parameter(120.0, "fewer tasks are sent when they would take longer than this many seconds"),
        "warmup_s": Parameter(2.0, "seconds of load before the measured part"),
        "capacity_tasks": Parameter(
            1000, "most tasks of the growing bursts that find the capacity", above_zero=True
        ),
        "work": Parameter("noop", "what a task does: noop, sleep:MS, io:MS:BYTES, cpu:MS"),
    }
    profiles = {
        "quick": (
            Grid(
                1,
                ({"rate": 200.0, "load": 0.5, "warmup_s": 1.0, "capacity_tasks": 200, "most_s": 10.0},),
            ),
        ),
        "standard": (
            Grid(6, ({"rate": 50.0}, {"rate": 50.0, "arrival": "constant"}, {"load": 0.5}, {"load": 0.9})),
        ),
        "full": (
            Grid(
                10,
                tuple(
                    {**at, "arrival": arrival, "tasks": 10_000, "most_s": 300.0}
                    for arrival in ("poisson", "constant")
                    for at in ({"rate": 10.0}, {"rate": 100.0}, {"load": 0.1}, {"load": 0.5}, {"load": 0.9})
                ),
            ),
        ),
    }

    def unsupported(self, system: System, variant: Variant, params: Mapping[str, Any]) -> str:
        if variant.batch:
            return BATCHES
        asked = params["rate"] > 0 or params["load"] > 0
        return "" if asked else "no load was asked for: --set latency.rate=50 or latency.load=0.5"

    def seconds(self, params: Mapping[str, Any]) -> float:
        rate = params["rate"] or 100.0
        return float(2 + params["warmup_s"] + min(params["tasks"] / rate, params["most_s"]))

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        rate = float(params["rate"])
        capacity = capacity_hz((yield from bursts(variant, params["work"], params["capacity_tasks"])))
        if params["load"]:
            rate = min(rate or math.inf, capacity * params["load"])
        elif rate > FAR * capacity:
            raise Unsupported(
                f"{rate:g} tasks/s are above its capacity ({capacity:.3g} tasks/s in a burst of this cell): "
                "latency would only tell how long the load lasts"
            )
        warmup = min(math.floor(rate * params["warmup_s"]), MOST_TASKS // 10)
        few = first_tasks(variant) if variant.heavy else 1
        least = max(math.ceil(rate * LEAST_S), few) if params["load"] else few
        most_n = min(max(math.ceil(rate * params["most_s"]), few), MOST_TASKS)
        measured = max(1, min(max(params["tasks"], least), most_n))
        load = Load(
            warmup + measured,
            Arrival(params["arrival"]),
            rate,
            work=params["work"],
            warmup_n=warmup,
            seed=round(rate * 1000),
        )
        yield Phase("load", load, limit_s=120 + load.n / rate)

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        sent = history.of("load").sort_values("submit_ns")
        everything = history.sent("load").sort_values("submit_ns")
        load = history.phases[history.number("load")].load
        assert load is not None
        ahead_s = AHEAD_S if history.ahead else 0
        notes = remarks(everything, load, ahead_s)
        if params["rate"] and load.rate_hz < params["rate"]:
            notes.append(f"offered {load.rate_hz:.3g} tasks/s, {params['load']:.0%} of its capacity")
        note = "; ".join(notes)
        yield from quantiles("dispatch_latency", dispatch_ms(sent), note)
        if not history.ahead:
            ran = sent[sent["starts"] > 0]
            waited_ms = (ran["start_ns"] - ran["submit_ns"]).to_numpy(np.int64) / 1e6
            yield from quantiles("submit_to_start", waited_ms, note)
            accepted = sent[sent["accepted"] > 0]
            calls_ms = (accepted["accepted_ns"] - accepted["submit_ns"]).to_numpy(np.int64) / 1e6
            yield from quantiles("submit_call", calls_ms, note)
        yield from quantiles("generator_lag", generator_lag_ms(everything, ahead_s, load.warmup_n))
        offered_hz = load.rate_hz * min(1.0, offered_share(sent))
        yield Metric("offered_rate", "tasks/s", offered_hz, len(sent))
