"""CPU: what a task costs above its own work, by role, and how much of all CPU was useful work."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bench.scenario import Grid, History, Load, Metric, Parameter, Phase, Phases, Scenario, Variant


class Cpu(Scenario):
    """CPU cost and efficiency."""

    title = "CPU per task and CPU efficiency"
    parameters = {
        "work_ms": Parameter(10.0, "CPU milliseconds that each task burns"),
        "burn_s": Parameter(4.0, "CPU seconds to burn in all (at least 20 tasks)"),
        "idle_s": Parameter(2.0, "seconds of idling before, to know the idle CPU"),
    }
    profiles = {
        "quick": (
            Grid(2, ({"work_ms": 10.0, "burn_s": 0.6, "idle_s": 0.8},)),
            Grid(1, tuple({"work_ms": ms, "burn_s": 0.6, "idle_s": 0.8} for ms in (1.0, 50.0))),
        ),
        "standard": (Grid(6, tuple({"work_ms": ms, "idle_s": 10.0} for ms in (1.0, 10.0, 50.0))),),
        "full": (
            Grid(10, tuple({"work_ms": ms, "idle_s": 30.0, "burn_s": 20.0} for ms in (1.0, 10.0, 50.0))),
        ),
    }

    def seconds(self, params: Mapping[str, Any]) -> float:
        return 3 + float(params["idle_s"]) + float(params["burn_s"])

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        yield Phase("idle", wait="hold", hold_s=params["idle_s"])
        n = max(20, math.ceil(params["burn_s"] * 1000 / params["work_ms"]))
        load = Load(min(n, variant.queue_limit or n), work=f"cpu:{params['work_ms']}")
        yield Phase("load", load, limit_s=120 + 4 * params["burn_s"])

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        exact = history.cpu_source.startswith("cgroup")
        note = "" if exact else "CPU used is a lower bound: no control groups here"
        begin, end, idle_s = history.edges("idle")
        idle_per_s = (end - begin) / idle_s
        begin, end, load_s = history.edges("load")
        used_ns = end - begin
        tasks = history.of("load")
        n = int((tasks["ends"] > 0).sum())
        useful_ns = float(tasks["burned_ns"].sum())
        above_ns = used_ns - idle_per_s.reindex(used_ns.index, fill_value=0) * load_s
        yield Metric("cpu_efficiency", "%", 100 * useful_ns / float(used_ns.sum()), n, note=note)
        overhead_ns = float(above_ns.sum()) - useful_ns
        yield Metric("cpu_overhead_per_task", "ms", overhead_ns / n / 1e6, n, note=note)
        for role in used_ns.index:
            yield Metric(f"cpu_per_task.{role}", "ms", float(above_ns[role]) / n / 1e6, n, note=note)
            yield Metric(f"idle_cpu.{role}", "ms/s", float(idle_per_s.get(role, 0)) / 1e6, 1, note=note)
        yield Metric("cpu_per_task.total", "ms", float(above_ns.sum()) / n / 1e6, n, note=note)
        yield Metric("idle_cpu.total", "ms/s", float(idle_per_s.sum()) / 1e6, 1, note=note)
