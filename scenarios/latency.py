"""Dispatch latency: from the moment a task is due to the moment its body starts, under open-loop load.

Arrivals are planned before the run and do not wait for completions, so a stall delays every task that
was due during it (no coordinated omission). `rate` is a fixed number of tasks per second; `load` a
fraction of the capacity that a drain has found a moment before in the same cell; with both, the lower.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bench.scenario import (
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
    Workers,
    quantiles,
)

LAG_SHARE, LAG_MS = 0.10, 1.0
"""A trial is invalid when the generator's P99 lag is above both this share of P95 and this many ms."""

SECOND_NS = 1_000_000_000


class Latency(Scenario):
    """Open-loop dispatch latency."""

    title = "Dispatch latency under an open-loop load"
    parameters = {
        "arrival": Parameter("poisson", "how due times are spread", ("constant", "poisson")),
        "rate": Parameter(0.0, "tasks per second; with load as well, the lower of the two"),
        "load": Parameter(0.0, "fraction of the capacity that a drain in the same cell finds; 0 for none"),
        "tasks": Parameter(1000, "measured tasks (P95 wants at least 1000, P99 10 000)"),
        "most_s": Parameter(120.0, "fewer tasks are sent when they would take longer than this many seconds"),
        "warmup_s": Parameter(2.0, "seconds of load before the measured part"),
        "capacity_tasks": Parameter(1000, "tasks of the drain that finds the capacity"),
        "work": Parameter("noop", "what a task does: noop, sleep:MS, io:MS:BYTES, cpu:MS"),
    }
    profiles = {
        "quick": (Grid(1, ({"rate": 125.0, "load": 0.5, "warmup_s": 1.0, "capacity_tasks": 200},)),),
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
            yield Phase("queue", Load(n), workers=Workers.DOWN, wait="queued")
            capacity = yield Phase("drain", ready=False)
            most = capacity.rate_hz * params["load"]
            rate = min(rate or most, most)
        warmup = math.ceil(rate * params["warmup_s"])
        measured = max(1, min(params["tasks"], math.ceil(rate * params["most_s"])))
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
        sent = history.of("load")
        tasks = sent[sent["starts"] > 0]
        due, submit, start = (tasks[f"{name}_ns"].to_numpy(np.int64) for name in ("due", "submit", "start"))
        dispatch_ms = (start - due) / 1e6
        lag_ms = generator_lag_ms(sent, ahead=history.ahead)
        notes = []
        lag_p99 = float(np.percentile(lag_ms, 99))
        p95 = float(np.percentile(dispatch_ms, 95)) if len(dispatch_ms) else math.nan
        if lag_p99 > LAG_MS and not lag_p99 <= LAG_SHARE * p95:
            notes.append(f"invalid: generator fell behind (P99 lag {lag_p99:.1f} ms)")
        load = history.phases[history.number("load")].load
        offered_hz = load.rate_hz if load else math.nan
        if params["rate"] and offered_hz < params["rate"]:
            notes.append(f"offered {offered_hz:.3g} tasks/s, {params['load']:.0%} of its capacity")
        if lost := len(sent) - len(tasks):
            notes.append(f"{lost} of {len(sent)} tasks never started")
        note = "; ".join(notes)
        yield from quantiles("dispatch_latency", dispatch_ms, note)
        if not history.ahead:
            yield from quantiles("submit_to_start", (start - submit) / 1e6, note)
            accepted = sent[sent["accepted"] > 0]
            calls_ms = (accepted["accepted_ns"] - accepted["submit_ns"]).to_numpy(np.int64) / 1e6
            yield from quantiles("submit_call", calls_ms, note)
        yield Metric("generator_lag_p99", "ms", lag_p99, len(lag_ms))
        yield Metric("offered_rate", "tasks/s", offered_hz, len(sent))


def generator_lag_ms(sent: pd.DataFrame, *, ahead: bool) -> np.ndarray:
    """How late the generator itself was with each task, in ms.

    It is late from the moment the task was to be sent, or from the end of the submit call before, if
    that was later: what a blocking submit call delays is the system's own latency, and stays in it.
    """
    tasks = sent.sort_values("submit_ns")
    due, submit = (tasks[f"{name}_ns"].to_numpy(np.int64) for name in ("due", "submit"))
    if ahead:  # handed over whole seconds before it is due
        return np.asarray((submit - due) % SECOND_NS / 1e6)
    free = tasks["accepted_ns"].fillna(0).to_numpy(np.int64)
    ready = np.maximum(due, np.concatenate([[0], free[:-1]]))
    return np.asarray((submit - ready) / 1e6)
