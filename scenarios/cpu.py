"""CPU: what a task costs above its own work, by role, and how much of all CPU was useful work.

The work comes in bursts that are drained one by one, so short that no task waits a second for its turn:
some systems drop one that does. Ending the process of a task belongs to its price, so heavy variants are
watched for a while longer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from bench.scenario import (
    REST_S,
    Grid,
    History,
    Load,
    Metric,
    Parameter,
    Phase,
    Phases,
    Scenario,
    Variant,
    first_tasks,
    idling,
)

BURST_S = 0.4
"""CPU seconds of work in one burst."""

QUICK = {"burn_s": 0.4, "idle_s": 0.8, "most_s": 5.0}

BUSY_CORES = 0.5
"""Above this idle use a system is taken to spin."""


class Cpu(Scenario):
    """CPU cost and efficiency."""

    headline = "cpu_efficiency"
    title = "CPU per task and CPU efficiency"
    parameters = {
        "work_ms": Parameter(10.0, "CPU milliseconds that each task burns", above_zero=True),
        "burn_s": Parameter(4.0, "CPU seconds to burn in all, in bursts", above_zero=True),
        "idle_s": Parameter(2.0, "seconds of idling before, to know the idle CPU"),
        "most_s": Parameter(120.0, "less is burned when it would take longer than about so many seconds"),
    }
    profiles = {
        "quick": (Grid(1, ({"work_ms": 10.0, **QUICK},), batch=0),),
        "standard": (Grid(6, tuple({"work_ms": ms, "idle_s": 10.0} for ms in (1.0, 10.0, 50.0))),),
        "full": (
            Grid(10, tuple({"work_ms": ms, "idle_s": 30.0, "burn_s": 20.0} for ms in (1.0, 10.0, 50.0))),
        ),
    }

    def seconds(self, params: Mapping[str, Any]) -> float:
        return 1 + float(params["idle_s"]) + float(params["burn_s"])

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        yield from idling(variant, params["idle_s"])
        work = f"cpu:{params['work_ms']}"
        burst_n = math.ceil(BURST_S * 1000 / params["work_ms"])
        left_n = math.ceil(params["burn_s"] * 1000 / params["work_ms"])
        left_s, most_n = float(params["most_s"]), first_tasks(variant)
        for number in itertools.count(1):
            n = min(burst_n, left_n, most_n, variant.queue_limit or burst_n)
            if n < 1:
                break
            load = Load(n, work=work)
            tasks = (yield Phase(f"load {number}", load, limit_s=120 + params["most_s"]))()
            if not tasks["ends"].any():
                break  # nothing tells how long the next would take
            took_s = float(tasks["end_ns"].max() - tasks["submit_ns"].min()) / 1e9
            left_n -= n
            left_s -= took_s
            most_n = math.floor(n / took_s * left_s)
        if variant.heavy:
            yield Phase("after", wait="hold", hold_s=REST_S)

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        begin, end, idle_s = history.edges("idle")
        idle_per_s = (end - begin) / idle_s
        names = [phase.name for phase in history.phases.values() if phase.load]
        windows = [history.edges(name) for name in names]
        used_ns = pd.concat([end - begin for begin, end, _ in windows]).groupby(level=0).sum()
        load_s = sum(seconds for *_, seconds in windows)
        if any(phase.name == "after" for phase in history.phases.values()):
            begin, end, after_s = history.edges("after")
            late_ns = end - begin - idle_per_s.reindex(end.index, fill_value=0) * after_s
            used_ns = used_ns.add(late_ns.clip(lower=0), fill_value=0)
        tasks = pd.concat([history.of(name) for name in names])
        n = int((tasks["ends"] > 0).sum())
        exact = history.cpu_source.startswith("cgroup")
        notes = [f"invalid: {len(tasks) - n} of {len(tasks)} tasks did not end"] if n < len(tasks) else []
        notes += [] if exact else ["CPU used is a lower bound: no control groups here"]
        note = "; ".join(notes)
        if n == 0:
            return
        useful_ns = float(tasks["burned_ns"].sum())
        yield Metric("cpu_efficiency", "%", 100 * useful_ns / float(used_ns.sum()), n, note=note)
        yield Metric("idle_cpu.total", "ms/s", float(idle_per_s.sum()) / 1e6, 1, note=note)
        for role in used_ns.index:
            yield Metric(f"idle_cpu.{role}", "ms/s", float(idle_per_s.get(role, 0)) / 1e6, 1, note=note)
        if float(idle_per_s.sum()) / 1e9 > BUSY_CORES:
            return  # what spins when idle does not spin on top of work: nothing is "above idle"
        above_ns = used_ns - idle_per_s.reindex(used_ns.index, fill_value=0) * load_s
        overhead_ns = float(above_ns.sum()) - useful_ns
        if overhead_ns < 0:
            note = "; ".join(filter(None, (note, "invalid: less CPU than when idle")))
        yield Metric("cpu_overhead_per_task", "ms", overhead_ns / n / 1e6, n, note=note)
        yield Metric("cpu_per_task.total", "ms", float(above_ns.sum()) / n / 1e6, n, note=note)
        for role in used_ns.index:
            yield Metric(f"cpu_per_task.{role}", "ms", float(above_ns[role]) / n / 1e6, n, note=note)
