"""Dispatch latency: from the moment a task is due to the moment its body starts, under open-loop load.

Arrivals are planned before the run and do not wait for completions, so a stall delays every task that
was due during it (no coordinated omission). `rate` is a fixed number of tasks per second; `load` a
fraction of the capacity that a burst has found a moment before in the same cell; with both, the lower.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bench.scenario import (
    AHEAD_S,
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
    Variant,
    capacity_hz,
    quantiles,
)

LAG_SHARE, LAG_MS = 0.10, 1.0
"""A trial is invalid when the generator's P99 lag is above both this share of P95 and this many ms."""

LEAST_OFFERED = 0.95
"""A trial is invalid when tasks were sent at less than this share of the planned rate."""

GROWTH_MS = 10.0
"""A trial is invalid when the latency of its last quarter is twice that of the first, and this much more."""

LEAST_S = 5.0
"""A share of capacity is offered for at least so long, however fast the system is."""

MOST_TASKS = 100_000
SECOND_NS = 1_000_000_000


class Latency(Scenario):
    """Open-loop dispatch latency."""

    deadline_s = 60.0
    title = "Dispatch latency under an open-loop load"
    parameters = {
        "arrival": Parameter("poisson", "how due times are spread", ("constant", "poisson")),
        "rate": Parameter(0.0, "tasks per second; with load as well, the lower of the two"),
        "load": Parameter(0.0, "fraction of the capacity that a burst in the same cell finds; 0 for none"),
        "tasks": Parameter(1000, "measured tasks (P95 wants at least 1000, P99 10 000)", above_zero=True),
        "most_s": Parameter(120.0, "fewer tasks are sent when they would take longer than this many seconds"),
        "warmup_s": Parameter(2.0, "seconds of load before the measured part"),
        "capacity_tasks": Parameter(1000, "tasks of the burst that finds the capacity", above_zero=True),
        "work": Parameter("noop", "what a task does: noop, sleep:MS, io:MS:BYTES, cpu:MS"),
    }
    profiles = {
        "quick": (Grid(1, ({"rate": 200.0, "load": 0.5, "warmup_s": 1.0, "capacity_tasks": 200},)),),
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
        asked = params["rate"] > 0 or params["load"] > 0
        return "" if asked else "no load was asked for: --set latency.rate=50 or latency.load=0.5"

    def seconds(self, params: Mapping[str, Any]) -> float:
        rate = params["rate"] or 100.0
        drain_s = 3 if params["load"] else 0
        return float(drain_s + params["warmup_s"] + min(params["tasks"] / rate, params["most_s"]))

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        rate = float(params["rate"])
        if params["load"]:
            n = min(params["capacity_tasks"], variant.queue_limit or params["capacity_tasks"])
            # With the workers up: whoever submits takes its share of the machine, as under the load.
            capacity = yield Phase("capacity", Load(n))
            most = capacity_hz(capacity()) * params["load"]
            rate = min(rate or most, most)
        warmup = min(math.ceil(rate * params["warmup_s"]), MOST_TASKS // 10)
        least = math.ceil(rate * LEAST_S) if params["load"] else 1
        most_n = min(math.ceil(rate * params["most_s"]), MOST_TASKS)
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
        tasks = sent[sent["starts"] > 0]
        due, submit, start = (tasks[f"{name}_ns"].to_numpy(np.int64) for name in ("due", "submit", "start"))
        dispatch_ms = (start - due) / 1e6
        load = history.phases[history.number("load")].load
        planned_hz = load.rate_hz if load else math.nan
        offered = offered_share(sent)
        lag_ms = generator_lag_ms(sent, AHEAD_S if history.ahead else 0)
        lag_p99 = float(np.percentile(lag_ms, 99))
        p95 = float(np.percentile(dispatch_ms, 95)) if len(dispatch_ms) else math.nan
        notes = []
        if lag_p99 > LAG_MS and not lag_p99 <= LAG_SHARE * p95:
            notes.append(f"invalid: generator fell behind (P99 lag {lag_p99:.1f} ms)")
        if offered < LEAST_OFFERED:
            notes.append(f"invalid: the client could offer only {offered:.0%} of {planned_hz:.3g} tasks/s")
        if overloaded(dispatch_ms[np.argsort(due, kind="stable")]):
            notes.append(f"invalid: overloaded, latency grew all the time at {planned_hz:.3g} tasks/s")
        if lost := len(sent) - len(tasks):
            notes.append(f"{lost} of {len(sent)} tasks never started")
        if params["rate"] and planned_hz < params["rate"]:
            notes.append(f"offered {planned_hz:.3g} tasks/s, {params['load']:.0%} of its capacity")
        note = "; ".join(notes)
        yield from quantiles("dispatch_latency", dispatch_ms, note)
        if not history.ahead:
            yield from quantiles("submit_to_start", (start - submit) / 1e6, note)
            accepted = sent[sent["accepted"] > 0]
            calls_ms = (accepted["accepted_ns"] - accepted["submit_ns"]).to_numpy(np.int64) / 1e6
            yield from quantiles("submit_call", calls_ms, note)
        yield Metric("generator_lag_p99", "ms", lag_p99, len(lag_ms))
        yield Metric("offered_rate", "tasks/s", planned_hz * min(1.0, offered), len(sent))


def generator_lag_ms(sent: pd.DataFrame, ahead_s: int) -> np.ndarray:
    """How late the generator itself was with each task, in ms; `sent` in the order of sending.

    It is late from the moment the task was to be sent, or from the end of the submit call before, if
    that was later: what a blocking submit call delays is the system's own latency, and stays in it.
    """
    due, submit = (sent[f"{name}_ns"].to_numpy(np.int64) for name in ("due", "submit"))
    free = sent["accepted_ns"].fillna(0).to_numpy(np.int64)
    ready = np.maximum(due - ahead_s * SECOND_NS, np.concatenate([[0], free[:-1]]))
    return np.asarray((submit - ready) / 1e6)


def offered_share(sent: pd.DataFrame) -> float:
    """The rate at which tasks were really sent, as a share of the planned rate."""
    planned, took = (float(sent[name].iloc[-1] - sent[name].iloc[0]) for name in ("due_ns", "submit_ns"))
    return planned / took if took > 0 else 1.0


def overloaded(dispatch_ms: np.ndarray) -> bool:
    """Whether latency grew all through a trial: then it tells the trial's length and not the system.

    `dispatch_ms` in the order of the due times. Compares the medians of the last and the first quarter.
    """
    quarter = len(dispatch_ms) // 4
    if quarter < 25:
        return False
    first, last = (float(np.median(part)) for part in (dispatch_ms[:quarter], dispatch_ms[-quarter:]))
    return last > 2 * first and last - first > GROWTH_MS
