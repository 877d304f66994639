"""Memory and CPU of a cell's processes, by role, at the moments the runner asks for.

PSS shares every page among the processes that map it, so that a sum over forks is right; USS is what
would be freed; RSS counts shared pages once per process and is an upper bound.
Source: proc(5), smaps_rollup.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil

from bench.model import Phase
from bench.processes import Group

COLUMNS = ("t_ns", "phase", "edge", "role", "processes", "pss_bytes", "uss_bytes", "rss_bytes", "cpu_ns")


@dataclass(frozen=True)
class Memory:
    """Bytes of one process; `pss` and `uss` are NaN where the system does not tell."""

    pss: float
    uss: float
    rss: float


def memory(pid: int) -> Memory | None:
    """Memory of a process, or None if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except ProcessLookupError:
        return None
    except OSError:
        with contextlib.suppress(psutil.NoSuchProcess):
            return Memory(math.nan, math.nan, psutil.Process(pid).memory_info().rss)
        return None
    kb = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return Memory(
        pss=kb["Pss"] * 1024,
        uss=(kb["Private_Clean"] + kb["Private_Dirty"]) * 1024,
        rss=kb["Rss"] * 1024,
    )


class Sampler:
    """Collects one row per role and sample."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.rows: list[tuple[object, ...]] = []
        self._phase: Phase | None = None
        self._next_s = 0.0

    def begin(self, phase: Phase) -> None:
        """Sample the begin of a phase; `tick` samples within it where the phase asks for memory."""
        self.sample(phase.name, "begin", with_memory=phase.memory)
        self._phase = phase if phase.memory else None
        self._next_s = time.monotonic() + phase.sample_s

    def tick(self) -> None:
        """Take a sample if one is due."""
        if self._phase is not None and time.monotonic() >= self._next_s:
            self.sample(self._phase.name, with_memory=True)
            self._next_s = time.monotonic() + self._phase.sample_s

    def end(self, phase: Phase) -> None:
        """Sample the end of a phase."""
        self._phase = None
        self.sample(phase.name, "end", with_memory=phase.memory)

    def sample(self, phase: str, edge: str = "", *, with_memory: bool) -> None:
        """Take a sample; `edge` is `begin` or `end` at the borders of a phase."""
        now_ns = time.monotonic_ns()
        members = self.group.members()
        used = self.group.cpu_ns(members)
        for role in sorted(set(used) | set(members.values())):
            pids = [pid for pid, its in members.items() if its == role]
            found = [its for pid in pids if (its := memory(pid)) is not None] if with_memory else []
            sums = [sum(getattr(one, name) for one in found) for name in ("pss", "uss", "rss")]
            figures = sums if with_memory else [math.nan] * 3
            self.rows.append((now_ns, phase, edge, role, len(pids), *figures, used.get(role, 0)))

    def frame(self) -> pd.DataFrame:
        """All samples so far, one row per role and sample."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS))
