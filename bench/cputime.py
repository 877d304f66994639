"""Whose the CPU was between two moments: idle, stolen by the host, ours, or used by others here."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from bench import kernel

SHORTEST_S: Final = 0.5
"""The kernel counts in 10 ms: over less than this, shares of CPU time mean nothing."""


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
