"""Memory and CPU of a cell's processes, by role, at the moments the runner asks for.

Samples go to a file as they are taken: a run of a day must not grow in memory, and one that is killed must
not lose them.

PSS shares every page among the processes that map it, so that a sum over forks is right; USS is what
would be freed; RSS counts shared pages once per process and is an upper bound.
Source: proc(5), smaps_rollup.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from bench.model import Phase
from bench.processes import Group

MEMORY = ("pss_bytes", "uss_bytes", "rss_bytes")
COLUMNS = ("t_ns", "phase", "edge", "role", "processes", *MEMORY, "cpu_ns", "domain")
TEXTS = frozenset({"phase", "edge", "role"})
FILE = "samples.csv"
"""The samples of a ledger, one row per role and sample; `domain` is the clock domain of `t_ns`."""


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


def read_samples(ledgers: Iterable[Path]) -> pd.DataFrame:
    """All samples in these ledgers, in the order in which they were taken; a torn last row is left out."""
    texts = [(ledger / FILE).read_text() for ledger in ledgers if (ledger / FILE).exists()]
    rows = io.StringIO("".join(text[: text.rfind("\n") + 1] for text in texts))
    types = {
        name: np.float64 if name in MEMORY else object if name in TEXTS else np.int64 for name in COLUMNS
    }
    missing = {name: ["nan"] for name in MEMORY}
    frame: pd.DataFrame = pd.read_csv(
        rows, names=list(COLUMNS), dtype=types, keep_default_na=False, na_values=missing
    )
    return frame


class Sampler:
    """Writes one row per role and sample into a ledger."""

    def __init__(self, group: Group, ledger: Path, domain: int = 0) -> None:
        self.group = group
        self._ledger = ledger
        self._domain = domain
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
        rows = []
        for role in sorted(set(used) | set(members.values())):
            pids = [pid for pid, its in members.items() if its == role]
            found = [its for pid in pids if (its := memory(pid)) is not None] if with_memory else []
            sums = [sum(getattr(one, name) for one in found) for name in ("pss", "uss", "rss")]
            figures = sums if with_memory else [math.nan] * 3
            rows.append((now_ns, phase, edge, role, len(pids), *figures, used.get(role, 0), self._domain))
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        with (self._ledger / FILE).open("a", newline="") as file:
            file.write(text.getvalue())

    def frame(self) -> pd.DataFrame:
        """All samples so far, one row per role and sample."""
        return read_samples([self._ledger])
