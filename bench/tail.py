"""Follows the ledger of a running cell: how many tasks of each phase have started and ended so far."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic_ns
from typing import Final

import numpy as np
import numpy.typing as npt

from bench.ledger import COMPACTED, SUFFIX, Records, compact, decode, joined
from bench.model import PHASE_SHIFT, RECORD, Kind

SLOW_LANE_POLLS: Final = 16
"""`Tail` looks at the file of a process that is gone only once in so many polls."""

AHEAD_NS: Final = 1_000_000
BEHIND_NS: Final = 500_000_000
"""How far a stamp may lie after the moment it was read, or before the last look at its file. The second is
long because a thread can be put to sleep between reading the clock and writing."""


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
        self.clock_off_ns: tuple[int, int] | None = None
        """Between what offsets the clock of a writer was off; None while all agreed with ours."""
        self._folder = folder
        self._listed_ns = monotonic_ns()
        self._looked_ns: dict[str, int] = {}
        self._read_bytes: dict[str, int] = {}
        self._live: set[str] = set()
        self._polls = 0
        self._seen: dict[tuple[int, str], _Ids] = {}
        self._retries: dict[int, int] = {}
        self._fails: dict[int, dict[int, int]] = {}

    def allow(self, phase: int, retries: int) -> None:
        """Say how often a task of a phase is run again when it fails: only then it has ended."""
        self._retries[phase] = retries

    def poll(self) -> Records:
        """The whole records that were written since the last poll; a torn tail waits for its rest."""
        listed_before_ns, self._listed_ns = self._listed_ns, monotonic_ns()
        names = {entry.name for entry in os.scandir(self._folder) if entry.name.endswith(SUFFIX)}
        self._live |= names - self._read_bytes.keys()
        self._polls += 1
        parts = []
        for name in names if self._polls % SLOW_LANE_POLLS == 0 else tuple(self._live):
            # In this order: what a process wrote before it was seen to be gone is read now.
            gone = not Path("/proc", name.partition("-")[0]).exists()
            since_ns, self._looked_ns[name] = self._looked_ns.get(name, listed_before_ns), monotonic_ns()
            if part := self._grown(name):
                records, unknown = decode(part)
                parts.append(records)
                self.unknown += unknown
                self._compare_clocks(records["t_ns"], since_ns, monotonic_ns())
            if gone:
                self._live.discard(name)
        fresh = joined(parts)
        self._count(fresh)
        return fresh

    def compact(self) -> None:
        """Put the files of processes that are gone into one: there may be one for every task.

        Not where a writer has process ids of its own, as in a container: it would look gone and still write.
        """
        gone = [name for name in self._read_bytes if name not in self._live and name != COMPACTED]
        whole = [name for name in gone if (self._folder / name).stat().st_size == self._read_bytes[name]]
        if not whole:
            return
        compact(self._folder, whole)
        for name in whole:
            del self._read_bytes[name], self._looked_ns[name]
        self._read_bytes[COMPACTED] = (self._folder / COMPACTED).stat().st_size

    def submitted(self, phase: int) -> int:
        """Distinct task ids of a phase that were handed to the adapter."""
        return self._distinct(phase, "submitted")

    def over(self, phase: int) -> int:
        """Distinct task ids of a phase of which nothing more is to come: they ended, or were refused."""
        return self._distinct(phase, "over")

    def started(self, phase: int) -> int:
        """Distinct task ids of a phase that have started."""
        return self._distinct(phase, "started")

    def ended(self, phase: int) -> int:
        """Distinct task ids of a phase that have ended, or failed more often than they are run again."""
        return self._distinct(phase, "ended")

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

    def _compare_clocks(self, t_ns: npt.NDArray[np.int64], since_ns: int, now_ns: int) -> None:
        """Records that appeared between `since_ns` and `now_ns` were stamped then, or a clock is off."""
        if not len(t_ns):
            return
        first_ns, last_ns = int(t_ns.min()), int(t_ns.max())
        for off, stamp_ns in (
            (last_ns - now_ns > AHEAD_NS, last_ns),
            (since_ns - first_ns > BEHIND_NS, first_ns),
        ):
            found = (
                stamp_ns - now_ns,
                stamp_ns - since_ns + AHEAD_NS,
            )  # stamped a little before it was written
            if off and (self.clock_off_ns is None or np.ptp(found) < np.ptp(self.clock_off_ns)):
                self.clock_off_ns = found

    def _count(self, fresh: Records) -> None:
        if not len(fresh):
            return
        self.last_ns = max(self.last_ns, int(fresh["t_ns"].max()))
        phases = fresh["task"] >> PHASE_SHIFT
        for phase in np.unique(phases).tolist():
            own = fresh[phases == phase]
            kind, index = own["kind"], own["task"] & 0xFFFFFFFF
            ended = kind == Kind.END
            ended[self._failed(phase, kind, index)] = True
            kinds = {
                "submitted": kind == Kind.SUBMIT,
                "started": kind == Kind.START,
                "ended": ended,
                "over": ended | (kind == Kind.REFUSED),
            }
            for what, mask in kinds.items():
                self._seen.setdefault((phase, what), _Ids()).add(index[mask])

    def _failed(
        self, phase: int, kind: npt.NDArray[np.uint8], index: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.intp]:
        """Where a task failed for the last time."""
        failed = np.flatnonzero(kind == Kind.FAIL)
        retries, counts = self._retries.get(phase, 0), self._fails.setdefault(phase, {})
        if not retries:
            return failed
        last = []
        for place in failed.tolist():
            task = int(index[place])
            counts[task] = counts.get(task, 0) + 1
            if counts[task] > retries:
                last.append(place)
        return np.array(last, np.intp)

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
