"""Follows the ledger of a running cell: how many tasks of each phase have started and ended so far."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from bench.ledger import SUFFIX, Records, decode, joined
from bench.model import PHASE_SHIFT, RECORD, Kind, Outcome

SLOW_LANE_POLLS: Final = 16
"""`Tail` looks at the file of a process that is gone only once in so many polls."""


class Tail:
    """Follows the ledger files of a running cell. Cheap with one file per task, as forking workers write.

    A file whose process is gone (as far as can be seen from here: a container has its own process ids)
    moves to a slow lane, because it will not grow again.
    """

    def __init__(self, folder: Path) -> None:
        self.last_ns = 0
        """Time of the newest event seen so far; 0 before the first."""
        self.unknown = 0
        """Whole records of a kind that does not exist, so far."""
        self._folder = folder
        self._read_bytes: dict[str, int] = {}
        self._live: set[str] = set()
        self._polls = 0
        self._seen: dict[tuple[int, str], _Ids] = {}
        self._first_start_ns: dict[int, int] = {}
        self._last_end_ns: dict[int, int] = {}

    def poll(self) -> Records:
        """The whole records that were written since the last poll; a torn tail waits for its rest."""
        names = {entry.name for entry in os.scandir(self._folder) if entry.name.endswith(SUFFIX)}
        self._live |= names - self._read_bytes.keys()
        self._polls += 1
        parts = []
        for name in names if self._polls % SLOW_LANE_POLLS == 0 else tuple(self._live):
            # In this order: what a process wrote before it was seen to be gone is read now.
            gone = not Path("/proc", name.partition("-")[0]).exists()
            if part := self._grown(name):
                records, unknown = decode(part)
                parts.append(records)
                self.unknown += unknown
            if gone:
                self._live.discard(name)
        fresh = joined(parts)
        self._count(fresh)
        return fresh

    def submitted(self, phase: int) -> int:
        """Distinct task ids of a phase that were handed to the adapter."""
        return self._distinct(phase, "submitted")

    def started(self, phase: int) -> int:
        """Distinct task ids of a phase that have started."""
        return self._distinct(phase, "started")

    def ended(self, phase: int) -> int:
        """Distinct task ids of a phase that have ended or failed at least once."""
        return self._distinct(phase, "ended")

    def outcome(self, phase: int) -> Outcome:
        """What a phase came to so far, warm-up tasks included; times are 0 when nothing ran."""
        return Outcome(
            tasks=self.submitted(phase),
            ended=self.ended(phase),
            first_start_ns=self._first_start_ns.get(phase, 0),
            last_end_ns=self._last_end_ns.get(phase, 0),
        )

    def _grown(self, name: str) -> bytes:
        """What file `name` has gained, from its first unread record on."""
        path = self._folder / name
        at = self._read_bytes.setdefault(name, 0)
        if path.stat().st_size - at < RECORD.size:
            return b""
        with open(path, "rb", buffering=0) as file:
            file.seek(at)
            data = file.readall()
        self._read_bytes[name] += len(data) - len(data) % RECORD.size
        return data

    def _count(self, fresh: Records) -> None:
        if not len(fresh):
            return
        self.last_ns = max(self.last_ns, int(fresh["t_ns"].max()))
        phases = fresh["task"] >> PHASE_SHIFT
        for phase in np.unique(phases).tolist():
            own = fresh[phases == phase]
            kind, index, t_ns = own["kind"], own["task"] & 0xFFFFFFFF, own["t_ns"]
            start, end = kind == Kind.START, (kind == Kind.END) | (kind == Kind.FAIL)
            for what, mask in (("submitted", kind == Kind.SUBMIT), ("started", start), ("ended", end)):
                self._seen.setdefault((phase, what), _Ids()).add(index[mask])
            if start.any():
                first_ns = int(t_ns[start].min())
                self._first_start_ns[phase] = min(self._first_start_ns.get(phase, first_ns), first_ns)
            if end.any():
                self._last_end_ns[phase] = max(self._last_end_ns.get(phase, 0), int(t_ns[end].max()))

    def _distinct(self, phase: int, what: str) -> int:
        ids = self._seen.get((phase, what))
        return ids.count if ids else 0


class _Ids:
    """A growing set of task indexes: one byte each, because there may be millions."""

    def __init__(self) -> None:
        self.count = 0
        self._has = np.zeros(1024, np.bool_)

    def add(self, index: npt.NDArray[np.uint64]) -> None:
        if not index.size:
            return
        needed = int(index.max()) + 1
        if needed > self._has.size:
            grown = np.zeros(max(needed, 2 * self._has.size), np.bool_)
            grown[: self._has.size] = self._has
            self._has = grown
        self.count += np.unique(index[~self._has[index]]).size
        self._has[index] = True
