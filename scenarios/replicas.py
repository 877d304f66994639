"""Replicas: several instances keep one schedule; each tick is counted: once, never, or several times.

They are told the same, one right after the other, as if one program had been deployed several times. The
body lasts longer than they are apart, so that a lock around it can keep all but one out. With `pause_s`, the
process that runs the body is stopped for so long in the middle of it: a lock that is gone by then lets
another one in. That is asked of variants that have such a lock, by the setting `lock_s`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bench.scenario import (
    CellError,
    Fault,
    Grid,
    History,
    Metric,
    Parameter,
    Phase,
    Phases,
    Scenario,
    System,
    Variant,
    no_schedule,
    schedule_of,
)

PAUSED_AT = 3
"""The tick in which the process that runs the body is stopped."""

UP_S = 5.0
"""Ticks of so many seconds from the first are left out: it is kept by whichever of them is up by then."""


class Replicas(Scenario):
    """Ticks of one schedule that is kept several times."""

    headline = "ticks_several"
    again = False
    sends = False
    title = "Replicas: ticks that run once, never or several times where a schedule is kept more than once"
    unasked = frozenset({"standard", "full"})
    parameters = {
        "replicas": Parameter(2, "instances of what keeps the schedule", (2, 3, 4)),
        "every_s": Parameter(2.0, "seconds between two ticks", above_zero=True),
        "ticks": Parameter(20, "ticks to account for", above_zero=True),
        "work_ms": Parameter(300, "how long the body sleeps", above_zero=True),
        "pause_s": Parameter(0.0, "for how long a process is stopped while it runs the body; 0 for never"),
    }
    profiles = {
        "quick": (Grid(1, ({"ticks": 5},)),),
        "standard": (Grid(6, ({}, {"replicas": 4}, {"pause_s": 7.0}), heavy=3),),
        "full": (Grid(10, ({"ticks": 100}, {"replicas": 4, "ticks": 100}, {"pause_s": 7.0})),),
    }

    def unsupported(self, system: System, variant: Variant, params: Mapping[str, Any]) -> str:
        if params["pause_s"] and "lock_s" not in variant.settings:
            return "it has no lock around the body that could run out"
        return no_schedule(system, variant, params["every_s"])

    def seconds(self, params: Mapping[str, Any]) -> float:
        return float((params["ticks"] + left_out(params) + 1.5) * params["every_s"])

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        at_s = (left_out(params) + PAUSED_AT - 0.5) * params["every_s"]
        for_s = params["pause_s"]
        yield Phase(
            "ticks",
            every_work=f"sleep:{params['work_ms']}",
            replicas=params["replicas"],
            wait="hold",
            hold_s=self.seconds(params),
            supervised=for_s > 0,
            faults=(Fault("pause", "worker", at_s, for_s),) if for_s else (),
            **schedule_of(variant, params["every_s"]),
        )

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        if params["pause_s"]:
            _check_paused(history)
        ticks = history.ticks("ticks")
        planned = ticks[ticks["planned"]].iloc[left_out(params) :]
        n, starts = len(planned), planned["starts"]
        yield Metric("ticks_planned", "count", float(n), n)
        yield Metric("ticks_once", "count", float((starts == 1).sum()), n)
        yield Metric("ticks_missed", "count", float((starts == 0).sum()), n)
        yield Metric("ticks_several", "count", float((starts > 1).sum()), n)
        yield Metric("ticks_overlapped", "count", float(planned["overlapped"].sum()), n)
        since_ns = int(planned["due_ns"].min()) if n else 0
        yield Metric("runs_at_once_max", "count", float(history.at_once("ticks", since_ns)), n)


def left_out(params: Mapping[str, Any]) -> int:
    """How many ticks pass before those that count."""
    return math.ceil(UP_S / float(params["every_s"]))


def _check_paused(history: History) -> None:
    """Whether a body stood still in a process that was stopped.

    Raises:
        CellError: it had ended by then, so that no lock could run out around it.
    """
    if not history.faults:
        raise CellError("nothing was paused")
    runs, strike = history.runs("ticks"), history.faults[0]
    begun = (runs["start_ns"] < strike["done_ns"]).to_numpy(bool) & runs["pid"].isin(strike["pids"])
    if not (begun & (runs["end_ns"].isna() | (runs["end_ns"] > strike["done_ns"]))).any():
        raise CellError("the process was stopped after its body had ended: nothing was paused")
