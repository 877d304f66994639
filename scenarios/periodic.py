"""Periodic: a schedule that runs a no-op every so often; each of its ticks is accounted for.

A tick is skipped when nothing ran from its due time to the next one's, and runs too often when more than
one run began in that time. Two runs overlap when one begins before the other has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bench.scenario import (
    Grid,
    History,
    Metric,
    Parameter,
    Phase,
    Phases,
    Scenario,
    System,
    Variant,
    quantiles,
)

HOUR_S = 3600.0
"""Periods by the wall clock begin anew with every hour."""


class Periodic(Scenario):
    """Ticks of one schedule."""

    sends = False
    headline = "tick_delay_p95"
    title = "Periodic: skipped, repeated and overlapping ticks of a schedule, and how late they are"
    unasked = frozenset({"standard", "full"})
    parameters = {
        "every_s": Parameter(1.0, "seconds between two ticks", above_zero=True),
        "ticks": Parameter(20, "ticks to account for", above_zero=True),
    }
    profiles = {
        "quick": (Grid(1, ({"ticks": 5},)),),
        "standard": (Grid(6),),
        "full": (Grid(10, ({"ticks": 60},)),),
    }

    def unsupported(self, system: System, variant: Variant, params: Mapping[str, Any]) -> str:
        if "periodic" not in system.capabilities:
            return "it has no schedules"
        if variant.every_s and (params["every_s"] % variant.every_s or HOUR_S % params["every_s"]):
            return (
                f"its schedules are of multiples of {variant.every_s:g} s that divide an hour: "
                f"--set periodic.every_s={variant.every_s:g}"
            )
        return ""

    def seconds(self, params: Mapping[str, Any]) -> float:
        return float((params["ticks"] + 1.5) * params["every_s"])

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        yield Phase(
            "ticks",
            every_s=params["every_s"],
            wall_clock=variant.every_s > 0,
            wait="hold",
            hold_s=self.seconds(params),
        )

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        ticks = history.ticks("ticks")
        planned = ticks[ticks["planned"]]
        n = len(planned)
        ran = planned.dropna(subset=["start_ns"])
        yield Metric("ticks_planned", "count", float(n), n)
        yield Metric("ticks_skipped", "count", float((planned["starts"] == 0).sum()), n)
        extra = int(ticks["starts"].sum()) - len(ran)
        yield Metric("ticks_repeated", "count", float(extra), n)
        yield Metric("ticks_overlapped", "count", float(ticks["overlapped"].sum()), n)
        delay_ms = (ran["start_ns"] - ran["due_ns"]).to_numpy(np.int64) / 1e6
        note = "" if history.told("ticks") else "due times are counted from its least late tick"
        if history.phases[history.number("ticks")].wall_clock:
            note = f"due when the wall clock shows a multiple of {params['every_s']:g} s"
        yield from quantiles("tick_delay", delay_ms, note)
