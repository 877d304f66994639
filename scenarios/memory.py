"""Memory: the whole stack by role, idle and under load, and how many processes it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from bench.scenario import Arrival, Grid, History, Load, Metric, Parameter, Phase, Phases, Scenario, Variant

KINDS = ("pss", "uss", "rss")


class Memory(Scenario):
    """Memory by role."""

    title = "Memory of the whole stack, by role, idle and loaded"
    parameters = {
        "idle_s": Parameter(3.0, "seconds of idling, after the first tasks have run"),
        "tasks": Parameter(500, "tasks of the loaded part", above_zero=True),
        "rate": Parameter(100.0, "tasks per second of the loaded part", above_zero=True),
        "payload": Parameter(0, "bytes of payload in every task of the loaded part"),
    }
    profiles = {
        "quick": (Grid(2, ({"idle_s": 1.0, "tasks": 100},)),),
        "standard": (Grid(6, ({"idle_s": 10.0, "tasks": 2000},)),),
        "full": (Grid(10, ({"idle_s": 30.0, "tasks": 10_000},)),),
    }

    def seconds(self, params: Mapping[str, Any]) -> float:
        return 3 + float(params["idle_s"]) + float(params["tasks"] / params["rate"])

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        yield Phase("idle", wait="hold", hold_s=params["idle_s"], memory=True)
        load = Load(params["tasks"], Arrival.CONSTANT, params["rate"], payload_bytes=params["payload"])
        yield Phase("loaded", load, memory=True, limit_s=120 + load.n / load.rate_hz)

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        idle, loaded = _by_role(history.samples("idle")), _by_role(history.samples("loaded"))
        for name, samples, pick in (
            ("idle", idle, "median"),
            ("loaded", loaded, "median"),
            ("peak", loaded, "max"),
        ):
            for role, rows in samples.groupby("role"):
                for kind in KINDS:
                    column = rows[f"{kind}_bytes"].dropna()
                    if len(column):
                        value = float(column.agg(pick)) / 1e6
                        yield Metric(f"{name}_{kind}.{role}", "MB", value, len(column))
        for role, rows in idle.groupby("role"):
            yield Metric(f"processes.{role}", "count", float(rows["processes"].median()), len(rows))
        roles = set(idle["role"]) - {"total"}
        yield Metric("components", "count", float(len(roles)), len(roles))


def _by_role(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples with rows of the role `total` added: the sum over all roles at the same moment."""
    columns = ["processes", *(f"{kind}_bytes" for kind in KINDS)]
    kept = samples[samples["rss_bytes"].notna()]
    total = kept.groupby("t_ns", as_index=False)[columns].sum(min_count=1).assign(role="total")
    return pd.concat([kept, total], ignore_index=True)
