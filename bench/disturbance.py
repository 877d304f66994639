"""Was the machine itself while a cell ran? A fixed piece of work beside every cell, and whose the CPU was.

Two questions that a cell's own figures have no part in: does the same work take as long as ever, and did
others (neighbours on the host, other processes here) take CPU that the cell could have used?

The limits stand against what a shared virtual machine with two cores showed. Left alone, the burn stayed
within 3 % of its usual time, but for bursts of a few seconds in which everything took 1.5 to 1.7 times as
long while nothing ran here and nothing counted as stolen: a neighbour on the same core. With a busy process
per core it took 1.7 to 2.5 times as long. Over quiet cells of four systems, others used 0 to 0.06 cores
(kernel threads that work for the cell are among them), and 0.0 % was stolen.
"""

from __future__ import annotations

import hashlib
import os
import resource
import statistics
import time
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from bench import kernel

BURN_LIMIT: Final = 1.25
"""A cell is disturbed when a burn beside it took more than so many times the run's baseline."""

STOLEN_LIMIT: Final = 0.02
"""... or when the host gave more than this share of the CPU time to others,"""

OTHERS_LIMIT: Final = 0.1
"""... or when other processes here used more than this share of the CPUs."""

CHUNKS: Final = 10
BLOCK: Final = bytes(range(256)) * 128
BLOCKS: Final = 52
"""A burn is 10 chunks of 1.7 MB: 18 ms on a core of 2.6 GHz. Hashing, because it needs no memory of its own:
loops of Python objects took up to 1.5 times as long after other code had used the allocator."""

TRIES: Final = 3
PAUSE_S: Final = 0.03
"""A slow burn is done so often, and the fastest counts: processes that die slowly are no disturbance."""

SETTLE: Final = 20
"""Burns before the first cell, so that there is a baseline to compare it with."""

BASELINE_QUANTILE: Final = 0.1
SHORTEST_S: Final = 0.5
"""The kernel counts in 10 ms: over less than this, shares of CPU time mean nothing."""


def burn_ns() -> float:
    """Do the fixed work; the mean time of a chunk in ns, without the slowest (one preemption is no news)."""
    spans = []
    for _ in range(CHUNKS):
        began_ns = time.perf_counter_ns()
        digest = hashlib.blake2b()
        for _ in range(BLOCKS):
            digest.update(BLOCK)
        spans.append(time.perf_counter_ns() - began_ns)
    return statistics.fmean(sorted(spans)[:-1])


# --- whose the CPU was -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ticks:
    """What `/proc/stat` says of the CPUs that we may use, in clock ticks since boot."""

    idle: int
    stolen: int


def ticks(stat: str, usable: AbstractSet[int]) -> Ticks | None:
    """Idle and stolen time of the usable CPUs; None where the text does not list every one of them.

    Source: proc(5); the columns are user, nice, system, idle, iowait, irq, softirq, steal.
    """
    idle = stolen = 0
    missing = set(usable)
    for line in stat.splitlines():
        name, *columns = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in missing and len(columns) >= 8:
            missing.remove(int(name[3:]))
            idle += int(columns[3]) + int(columns[4])
            stolen += int(columns[7])
    return None if missing else Ticks(idle, stolen)


def usable_cpus() -> frozenset[int]:
    """The numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _used_ns(who: int) -> int:
    usage = resource.getrusage(who)
    return round((usage.ru_utime + usage.ru_stime) * 1e9)


@dataclass(frozen=True)
class Moment:
    """Everything that is read at the edges of a cell. CPU times in ns."""

    t_ns: int
    ticks: Ticks | None
    harness_ns: int
    reaped_ns: int

    @classmethod
    def now(cls, usable: AbstractSet[int]) -> Moment:
        """Read it."""
        return cls(
            time.monotonic_ns(),
            ticks(kernel.read(kernel.ROOT, "proc/stat"), usable),
            _used_ns(resource.RUSAGE_SELF),
            _used_ns(resource.RUSAGE_CHILDREN),
        )


@dataclass(frozen=True)
class Shares:
    """Shares of the CPU time between two moments: `stolen` by the host, and cores used by `others` here."""

    stolen: float | None
    others_cores: float | None


def shares(begin: Moment, end: Moment, cores: int, tick_hz: int, cell_ns: int | None) -> Shares:
    """Whose the CPU was between two moments; None for what cannot be known.

    `cell_ns` is the CPU time of the cell's processes by exact account, None where there is none. What is
    not idle, stolen, the cell's or the harness's own was used by others. Idle time, because the kernel
    measures it, while it samples busy time at ticks.
    """
    wall_s = (end.t_ns - begin.t_ns) / 1e9
    if wall_s < SHORTEST_S or begin.ticks is None or end.ticks is None:
        return Shares(None, None)
    stolen_s = (end.ticks.stolen - begin.ticks.stolen) / tick_hz
    stolen = max(0.0, stolen_s / (wall_s * cores))
    if cell_ns is None:
        return Shares(stolen, None)
    idle_s = (end.ticks.idle - begin.ticks.idle) / tick_hz
    # Processes of the cell that were waited for are in both counts, and neither has all of them.
    ours_s = (end.harness_ns - begin.harness_ns + max(cell_ns, end.reaped_ns - begin.reaped_ns)) / 1e9
    return Shares(stolen, max(0.0, cores - (idle_s + stolen_s + ours_s) / wall_s))


# --- the judgement ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disturbance:
    """How the machine was around and during one cell; stands in `cell.json` under `disturbance`.

    `burn_ratio` is the slower of the burns before and after, in units of the baseline (`baseline_ns` for a
    chunk). `words` say what disturbed; empty: nothing.
    """

    burn_ratio: float
    stolen_share: float | None
    others_cores: float | None
    baseline_ns: float
    words: str = ""


def judge(burn_ratio: float, stolen_share: float | None, others_cores: float | None, cores: int) -> str:
    """What disturbed, in words; nothing when every limit is kept."""
    found = []
    if burn_ratio > BURN_LIMIT:
        found.append(f"a fixed burn took {burn_ratio:.1f}x its usual time")
    if stolen_share is not None and stolen_share > STOLEN_LIMIT:
        found.append(f"the host took {stolen_share:.0%} of the CPU time")
    if others_cores is not None and others_cores / cores > OTHERS_LIMIT:
        found.append(f"other processes used {others_cores:.1f} of {cores} cores")
    return ", ".join(found)


@dataclass(frozen=True)
class Before:
    """What `Watch.begin` saw."""

    burn_ns: float
    moment: Moment


class Watch:
    """The noise of the machine over a run.

    The baseline is a low quantile of all burns so far and never rises, so that a disturbance cannot make
    itself the norm; `baseline_ns` of an earlier session of the same run is taken up.
    """

    def __init__(self, baseline_ns: float | None = None) -> None:
        self.baseline_ns = float("inf") if baseline_ns is None else baseline_ns
        self._usable = usable_cpus()
        # Under a quota the CPUs of /proc/stat are not ours: what others use of them need not be missed.
        self._limited = kernel.limits().cpus is not None
        self._burns: list[float] = []
        for _ in range(SETTLE):
            self._burns.append(burn_ns())
        self._learn()

    def begin(self) -> Before:
        """A cell is about to begin."""
        return Before(self._burn(), Moment.now(self._usable))

    def end(self, before: Before, cell_ns: int | None) -> Disturbance:
        """A cell has ended; `cell_ns` is the exact CPU time of its processes, None where it is not known."""
        moment = Moment.now(self._usable)
        ratio = max(before.burn_ns, self._burn()) / self.baseline_ns
        cores = len(self._usable)
        exact_ns = None if self._limited else cell_ns
        found = shares(before.moment, moment, cores, os.sysconf("SC_CLK_TCK"), exact_ns)
        return Disturbance(
            burn_ratio=round(ratio, 3),
            stolen_share=None if found.stolen is None else round(found.stolen, 4),
            others_cores=None if found.others_cores is None else round(found.others_cores, 3),
            baseline_ns=round(self.baseline_ns),
            words=judge(ratio, found.stolen, found.others_cores, cores),
        )

    def _burn(self) -> float:
        fastest = float("inf")
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_S)
            self._burns.append(burn_ns())
            fastest = min(fastest, self._burns[-1])
            if fastest <= BURN_LIMIT * self.baseline_ns:
                break
        self._learn()
        return fastest

    def _learn(self) -> None:
        low = sorted(self._burns)[int(BASELINE_QUANTILE * len(self._burns))]
        self.baseline_ns = min(self.baseline_ns, low)


# --- what a run says of it -------------------------------------------------------------------------------


def of_cell(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The disturbances of every attempt at a cell, from its `cell.json`, the first attempt first."""
    details = record["details"]
    attempts = [*details.get("earlier_attempts", ()), details]
    return [attempt["disturbance"] for attempt in attempts if attempt.get("disturbance")]


def baseline_ns(records: Iterable[Mapping[str, Any]]) -> float | None:
    """The baseline of the cells of a run so far, None before the first."""
    return min((found["baseline_ns"] for record in records for found in of_cell(record)), default=None)


def noise(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What `run.json` says under `noise`: how often the machine was disturbed, and how far the burns spread.

    `cells` were judged, `disturbed` of them at their first attempt, `rerun` again, and `still_disturbed`
    is what is left; burns are in units of the baseline, over all attempts.
    """
    judged = [found for record in records if (found := of_cell(record))]
    seen = [one for attempts in judged for one in attempts]
    burns = sorted(one["burn_ratio"] for one in seen)
    return {
        "cells": len(judged),
        "disturbed": sum(bool(attempts[0]["words"]) for attempts in judged),
        "rerun": sum(len(attempts) > 1 for attempts in judged),
        "still_disturbed": sum(bool(attempts[-1]["words"]) for attempts in judged),
        "baseline_ms": min(one["baseline_ns"] for one in seen) * CHUNKS / 1e6 if seen else None,
        "burn_median": statistics.median(burns) if burns else None,
        "burn_p95": burns[int(0.95 * (len(burns) - 1))] if burns else None,
        "burn_worst": burns[-1] if burns else None,
        "stolen_share_worst": _worst(seen, "stolen_share"),
        "others_cores_worst": _worst(seen, "others_cores"),
        "limits": {"burn": BURN_LIMIT, "stolen_share": STOLEN_LIMIT, "others_share": OTHERS_LIMIT},
    }


def _worst(seen: Iterable[Mapping[str, Any]], name: str) -> float | None:
    return max((one[name] for one in seen if one[name] is not None), default=None)
