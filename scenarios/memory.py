"""Memory: the whole stack by role, idle and under load, what it grows by, and how many processes it takes.

With `slots`, cells of several sizes tell what a slot takes; with `queued`, what a task takes that waits.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bench.openloop import dispatch_ms, offered_remarks, overloaded
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
    Variant,
    Workers,
    capacity_hz,
    first_tasks,
    idling,
    stats,
)

KINDS = ("pss", "uss", "rss")

SHARED_SHARE, SHARED_MB = 0.10, 5.0
"""RSS of several processes is flagged when it exceeds their PSS by this share of PSS and by this many MB."""

SETTLING_SHARE = 0.10
"""Growth counts from the moment this share of the tasks has ended: the first ones fill caches and pools."""

LEAST_SAMPLES = 8
QUEUED_HZ = 500.0
"""A first guess at how fast a queue is filled and drained again."""

HOURLY_S = 60.0
"""Growth per hour is shown when at least so much time was sampled: less would be blown up too far."""

LOAD = 0.8
"""At most so much of the capacity that a burst finds is offered: a growing backlog would be measured else."""

PAGE_MB = mmap.PAGESIZE / 1e6
"""Memory moves in pages, so that no growth is known better."""

QUEUE, STEPS = "queue ", 10
"""How the names of the phases begin in which a queue grows, and how many they are: the client has plans of
one step in memory at a time, which are none of the system."""

PAGE_KB = mmap.PAGESIZE / 1e3

SEED = 1

FEW = {"idle_s": 3.0, "tasks": 20}
SLOTS = tuple({**FEW, "slots": slots} for slots in (1, 2, 4, 8))
QUEUED = {**FEW, "queued": 10_000, "most_s": 60.0}


class Memory(Scenario):
    """Memory by role."""

    headline = "idle_pss.total"
    title = "Memory of the whole stack, by role, idle and loaded"
    parameters = {
        "idle_s": Parameter(3.0, "seconds of idling, after the first tasks have run"),
        "tasks": Parameter(500, "tasks of the loaded part", above_zero=True),
        "rate": Parameter(100.0, "tasks per second of the loaded part", above_zero=True),
        "payload": Parameter(0, "bytes of payload in every task of the loaded part"),
        "most_s": Parameter(300.0, "fewer tasks are sent when they would take longer than this many seconds"),
        "slots": Parameter(0, "tasks that may run at once; 0 for as many as in the rest of the run"),
        "queued": Parameter(0, "at last so many tasks are queued while nothing runs them"),
    }
    profiles = {
        "quick": (Grid(1, ({"idle_s": 1.0, "tasks": 100, "most_s": 5.0},), batch=0),),
        "standard": (
            Grid(6, ({"idle_s": 10.0, "tasks": 2000},)),
            Grid(6, SLOTS, heavy=1),
            Grid(6, (QUEUED,), heavy=0),
        ),
        "full": (
            Grid(10, ({"idle_s": 30.0, "tasks": 10_000},)),
            Grid(10, SLOTS, heavy=3),
            Grid(10, (QUEUED,), heavy=0),
        ),
    }

    def unsupported(self, system: System, variant: Variant, params: Mapping[str, Any]) -> str:
        return BATCHES if variant.batch else ""

    def seconds(self, params: Mapping[str, Any]) -> float:
        loaded_s = min(params["tasks"] / params["rate"], params["most_s"])
        return float(1 + params["idle_s"] + loaded_s + params["queued"] / QUEUED_HZ)

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        yield from idling(variant, params["idle_s"], memory=True)
        few = min(first_tasks(variant), params["tasks"])
        seen = yield Phase("burst", Load(few, payload_bytes=params["payload"]), memory=True)
        if few < params["tasks"]:  # or the burst was the load
            rate = min(params["rate"], LOAD * capacity_hz(seen()))
            n = min(params["tasks"], round(rate * params["most_s"]))
            if n > few:
                load = Load(n, Arrival.CONSTANT, rate, payload_bytes=params["payload"])
                yield Phase("loaded", load, memory=True, limit_s=120 + load.n / load.rate_hz)
        if params["queued"]:
            most_n = round(LOAD * capacity_hz(seen()) * params["most_s"])
            n = min(params["queued"], variant.queue_limit or most_n, most_n)
            load = Load(max(1, n // STEPS), payload_bytes=params["payload"])
            for number in range(STEPS):
                name = f"{QUEUE}{number + 1}"
                yield Phase(name, load, workers=Workers.DOWN, wait="queued", memory=True)
            yield Phase("drain", ready=False, limit_s=120 + 2 * params["most_s"])

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        phases = {phase.name: phase for phase in history.phases.values()}
        under_load = "loaded" if "loaded" in phases else "burst"
        idle, loaded = by_role(history.samples("idle")), by_role(history.samples(under_load))
        load = phases[under_load].load
        assert load is not None
        if under_load == "burst":
            notes = [f"loaded with {load.n} tasks at once"]
        else:
            notes = offered_remarks(history.sent("loaded"), load, AHEAD_S if history.ahead else 0)
            ran = history.of("loaded").sort_values("due_ns")
            if not notes and overloaded(dispatch_ms(ran), 1000 * len(ran) / load.rate_hz):
                notes.append("that is more than it keeps up with")
        if 0 < load.rate_hz < params["rate"]:
            notes.append(
                f"loaded with {load.n} tasks at {load.rate_hz:.3g}/s, {LOAD:.0%} of what a burst reached"
            )
        late = "; ".join(notes)
        for name, samples, pick, note in (
            ("idle", idle, "median", ""),
            ("loaded", loaded, "median", late),
            ("peak", loaded, "max", late),
        ):
            for role, rows in samples.groupby("role"):
                for kind in KINDS:
                    column = rows[f"{kind}_bytes"].dropna()
                    if len(column):
                        value = float(column.agg(pick)) / 1e6
                        found = Metric(f"{name}_{kind}.{role}", "MB", value, len(column), note=note)
                        yield found.noted(rss_remark(rows)) if kind == "rss" else found
        for role, rows in idle.groupby("role"):
            yield Metric(f"processes.{role}", "count", float(rows["processes"].median()), len(rows))
        roles = set(idle["role"]) - {"total"}
        yield Metric("components", "count", float(len(roles)), len(roles))
        for metric in growth(loaded[loaded["role"] == "total"], history.of(under_load)):
            yield metric.noted(late)
        yield from per_queued_job(history)


def by_role(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples with rows of the role `total` added: the sum over all roles at the same moment."""
    columns = ["processes", *(f"{kind}_bytes" for kind in KINDS)]
    kept = samples[samples["rss_bytes"].notna()]
    # Where a role's PSS cannot be read, such as that of another user's container, there is no total either.
    at_once = kept.groupby("t_ns")[columns]
    whole = at_once.count().eq(at_once.size(), axis="index")
    total = at_once.sum().where(whole).reset_index().assign(role="total")
    return pd.concat([kept, total], ignore_index=True)


def rss_remark(rows: pd.DataFrame) -> str:
    """Whether RSS says too much in these samples: it counts a page once in each process that shares it."""
    processes = float(rows["processes"].median())
    if processes < 2:
        return ""
    pss_mb, rss_mb = (rows[f"{kind}_bytes"] / 1e6 for kind in ("pss", "rss"))
    shared_mb = float((rss_mb - pss_mb).median())
    if np.isnan(shared_mb):
        return "RSS is an upper bound: this machine does not tell which pages are shared"
    if shared_mb <= max(SHARED_MB, SHARED_SHARE * float(pss_mb.median())):
        return ""
    return "RSS is an upper bound: it counts a page once in each of the processes that share it"


def growth(total: pd.DataFrame, tasks: pd.DataFrame) -> Iterator[Metric]:
    """What the whole stack's PSS grows by, per 1000 tasks and per hour, while the load runs.

    `total` holds the samples of the role `total`, `tasks` the tasks of the load. Fewer than 3 samples in
    that time, or none with PSS, give no figure.
    """
    ended_ns = np.sort(tasks["end_ns"].dropna().to_numpy(np.int64))
    if not len(ended_ns):
        return
    settled_ns = ended_ns[int(SETTLING_SHARE * len(ended_ns))]
    rows = total[total["t_ns"].between(settled_ns, ended_ns[-1])].dropna(subset=["pss_bytes"])
    rows = rows.sort_values("t_ns")
    t_ns, pss_mb = rows["t_ns"].to_numpy(np.int64), rows["pss_bytes"].to_numpy(np.float64) / 1e6
    thousands = np.searchsorted(ended_ns, t_ns, side="right") / 1000
    if len(np.unique(thousands)) < 3:
        return
    few = f"n < {LEAST_SAMPLES}" if len(rows) < LEAST_SAMPLES else ""
    found = stats.slope_interval(thousands, pss_mb, SEED, resolution=PAGE_MB)
    yield Metric("growth_pss_per_1000", "MB", found.value, found.n, found.low, found.high, few)
    hours = (t_ns - t_ns[0]) / 3.6e12
    if hours[-1] * 3600 >= HOURLY_S:
        found = stats.slope_interval(hours, pss_mb, SEED, resolution=PAGE_MB)
        yield Metric("growth_pss_per_hour", "MB", found.value, found.n, found.low, found.high, few)


def per_queued_job(history: History) -> Iterator[Metric]:
    """What the PSS of every role grows by with each task that is queued while nothing runs tasks, in kB.

    Between two steps: while one is sent, the client has its plan in memory as well.
    """
    names = [phase.name for phase in history.phases.values() if phase.name.startswith(QUEUE)]
    if not names:
        return
    samples = pd.concat([history.samples(name) for name in names])
    accepted = pd.concat([history.sent(name)["accepted_ns"] for name in names]).dropna()
    accepted_ns = np.sort(accepted.to_numpy(np.int64))
    between = (samples["edge"] == "end") | (samples["edge"] == "begin") & (samples["phase"] == names[0])
    for role, rows in by_role(samples[between]).groupby("role"):
        known = rows[rows["processes"] > 0].dropna(subset=["pss_bytes"]).sort_values("t_ns")
        queued = np.searchsorted(accepted_ns, known["t_ns"].to_numpy(np.int64), side="right")
        if len(np.unique(queued)) < 3:
            continue
        pss_kb = known["pss_bytes"].to_numpy(np.float64) / 1e3
        found = stats.slope_interval(queued, pss_kb, SEED, resolution=PAGE_KB)
        few = f"n < {LEAST_SAMPLES}" if found.n < LEAST_SAMPLES else ""
        yield Metric(f"pss_per_queued_job.{role}", "kB", found.value, found.n, found.low, found.high, few)
