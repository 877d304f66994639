"""Capacity: the highest rate that a system sustains, and its latency at shares of that rate.

A burst gives the first guess. Then short open-loop steps close in on the rate from both sides: one is
sustained when the client could offer it, nothing was lost, the backlog did not grow and P95 of due to start
met the objective. In a system that looks for work too seldom for the objective no rate is sustainable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.openloop import Limit, Verdict, dispatch_ms, judge, offered_share, remarks
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
    quantiles,
)

FIRST, LEAST = 0.8, 0.01
"""The first rate that is tried and the lowest, as shares of the burst's."""

UP, DOWN = 1.25, 1.5
"""From step to step, until one is sustained and one is not. Up is little, because the backlog of the step
that fails must drain; down is squared every time, because there may be nothing to find."""

CLOSE = 1.1
"""The search is over when the rate that failed is at most so many times the one that was sustained."""

LEAST_TASKS, MOST_TASKS = 50, 50_000
"""Of a step; a load at a share of the rate has no more either."""

LONGEST_S = 60.0
"""No rate is tried at which a step would take longer."""

LEADS = 3
"""A system that is told of a task so and so long before it is due has steps and loads of so many times that;
shorter, and it would have been told everything before it ran anything."""

ENOUGH_TASKS = 200
"""Random arrivals of fewer tasks miss their rate by about as much as the search is fine: 1 / sqrt(n), 7 %."""

PERCENTS = (10, 30, 50, 70, 90)

OBJECTIVE_MS = 250.0
"""Far above what handing over a task costs, so that queueing decides; and a wait that people begin to notice.
A step of 4 s that is 6 % too fast ends so late."""


class Capacity(Scenario):
    """Highest sustainable rate, and latency against load."""

    headline = "sustainable_rate"
    title = "Highest sustainable rate, and dispatch latency at shares of it"
    unasked = frozenset({"standard", "full"})
    parameters = {
        "p95_ms": Parameter(
            OBJECTIVE_MS,
            "the objective: 95 of 100 tasks start within so many ms of when they are due",
            above_zero=True,
        ),
        "arrival": Parameter("poisson", "how due times are spread", ("constant", "poisson")),
        "step_s": Parameter(4.0, "seconds of load in a step of the search", above_zero=True),
        "steps": Parameter(10, "most steps of the search", above_zero=True),
        "tasks": Parameter(1000, "measured tasks at each share of the rate, at least", above_zero=True),
        "most_s": Parameter(
            20.0, "fewer are sent when they would take longer than this many seconds", above_zero=True
        ),
        "work": Parameter("noop", "what a task does: noop, sleep:MS, io:MS:BYTES, cpu:MS"),
    }
    profiles = {
        "quick": (Grid(1, ({"step_s": 1.0, "steps": 6, "tasks": 100, "most_s": 1.2},), heavy=0),),
        "standard": (Grid(6),),
        "full": (Grid(10, ({"step_s": 10.0, "steps": 12, "tasks": 10_000, "most_s": 120.0},)),),
    }

    def unsupported(self, system: System, variant: Variant, params: Mapping[str, Any]) -> str:
        return BATCHES if variant.batch else ""

    def seconds(self, params: Mapping[str, Any]) -> float:
        return float(3 + 1.3 * min(params["steps"], 6) * params["step_s"] + 4 * params["most_s"])

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        burst = yield from bursts(variant, params["work"], MOST_TASKS)
        burst_hz, least_s = capacity_hz(burst), LEADS * lead_s(burst)
        if FIRST * burst_hz < LEAST_TASKS / LONGEST_S:
            raise Unsupported(
                f"a burst reached {burst_hz:.2g} tasks/s: {LEAST_TASKS} tasks, a step, would take too long"
            )
        step_s, most_s = max(params["step_s"], least_s), max(params["most_s"], least_s)
        highest_hz = MOST_TASKS / least_s if least_s else math.inf
        tried: list[Verdict] = []
        while len(tried) < params["steps"] and (rate := next_hz(tried, burst_hz, highest_hz)):
            load = paced(rate, max(rate * step_s, LEAST_TASKS), params)
            seen = yield _paced_phase(f"step {len(tried) + 1}", load)
            tried.append(judge(seen(), load, params["p95_ms"], AHEAD_S if least_s else 0))
        if best := sustained(tried):
            for percent in PERCENTS:
                rate = best.rate_hz * percent / 100
                n = min(max(params["tasks"], rate * step_s), rate * most_s)
                yield _paced_phase(f"load {percent} %", paced(rate, n, params))

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        loads = {phase.name: phase.load for phase in history.phases.values() if phase.load}
        ahead_s = AHEAD_S if history.ahead else 0
        tried = [
            judge(history.sent(name), load, params["p95_ms"], ahead_s)
            for name, load in loads.items()
            if name.startswith("step ")
        ]
        yield sustainable_rate(tried, params["p95_ms"])
        for percent in PERCENTS:
            if load := loads.get(f"load {percent} %"):
                note = "; ".join(remarks(history.sent(f"load {percent} %"), load, ahead_s))
                measured = history.of(f"load {percent} %").sort_values("submit_ns")
                yield from quantiles(f"dispatch_latency_at{percent}", dispatch_ms(measured), note)
                offered_hz = load.rate_hz * min(1.0, offered_share(measured))
                yield Metric(f"offered_rate_at{percent}", "tasks/s", offered_hz, len(measured))


def lead_s(tasks: pd.DataFrame) -> float:
    """How long before they are due a system is told of tasks; 0 where they run at once."""
    return max(0.0, float((tasks["due_ns"] - tasks["submit_ns"]).max()) / 1e9)


def _paced_phase(name: str, load: Load) -> Phase:
    return Phase(name, load, limit_s=120 + load.n / load.rate_hz)


def paced(rate_hz: float, measured_n: float, params: Mapping[str, Any]) -> Load:
    """About `measured_n` tasks at a rate, after a fifth of all as warm-up."""
    n = min(max(2, math.ceil(measured_n / 0.8)), MOST_TASKS)
    seed = round(rate_hz * 1000)
    return Load(n, Arrival(params["arrival"]), rate_hz, work=params["work"], warmup_n=n // 5, seed=seed)


# --- the search -------------------------------------------------------------------------------------


def next_hz(tried: Sequence[Verdict], burst_hz: float, highest_hz: float = math.inf) -> float | None:
    """The rate to try next, from all that were tried so far; None when the search is over."""
    tried = [one for one in tried if one.limit is not Limit.GENERATOR]
    good, bad = sustained(tried), failed(tried)
    lowest_hz = max(LEAST * burst_hz, LEAST_TASKS / LONGEST_S)
    if good and bad:
        return math.sqrt(good.rate_hz * bad.rate_hz) if bad.rate_hz > CLOSE * good.rate_hz else None
    if good:
        return min(UP * good.rate_hz, highest_hz) if good.rate_hz < highest_hz else None
    if bad:
        down = DOWN ** (2 ** (len(tried) - 1))
        return max(bad.rate_hz / down, lowest_hz) if bad.rate_hz > lowest_hz else None
    return min(FIRST * burst_hz, highest_hz)


def sustained(tried: Iterable[Verdict]) -> Verdict | None:
    """The highest rate that was sustained."""
    return max((one for one in tried if one.sustained), key=lambda one: one.rate_hz, default=None)


def failed(tried: Iterable[Verdict]) -> Verdict | None:
    """The lowest rate that was not, for a reason of the system's own."""
    own = (one for one in tried if not one.sustained and one.limit is not Limit.GENERATOR)
    return min(own, key=lambda one: one.rate_hz, default=None)


def sustainable_rate(tried: Sequence[Verdict], objective_ms: float) -> Metric:
    """The highest rate that was sustained; its interval ends at the lowest that was not.

    0 where nothing was sustained. The remark says what the limit is.
    """
    good, bad = sustained(tried), failed(tried)
    late_n = sum(one.limit is Limit.GENERATOR for one in tried)
    if bad is None and late_n == len(tried):
        note = f"invalid: {Limit.GENERATOR} in every step" if tried else "none was tried"
        return Metric("sustainable_rate", "tasks/s", math.nan, 0, note=note)
    if good is None:
        assert bad is not None
        note = f"none was sustained, down to {bad.rate_hz:.2g} tasks/s: {bad.limit}"
        if bad.limit is Limit.LATE:
            note += f" of {objective_ms:g} ms, it was {bad.p95_ms:.3g} ms"
        return Metric("sustainable_rate", "tasks/s", 0.0, bad.n, 0.0, bad.rate_hz, note)
    words = []
    if bad is None:
        above = f"{Limit.GENERATOR} above it" if late_n else "all that was offered was sustained"
        words.append(f"lower bound: {above}")
    else:
        words.append(f"limit: {bad.limit}" + f" of {objective_ms:g} ms" * (bad.limit is Limit.LATE))
        if bad.rate_hz > CLOSE * good.rate_hz:
            words.append(f"lower bound: the steps were used up, {bad.rate_hz:.3g} tasks/s failed")
    if good.n < ENOUGH_TASKS:
        words.append(f"n < {ENOUGH_TASKS}")
    high = bad.rate_hz if bad else None
    return Metric("sustainable_rate", "tasks/s", good.rate_hz, good.n, good.rate_hz, high, "; ".join(words))
