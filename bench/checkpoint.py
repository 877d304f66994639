"""Checkpoints: a cell that was cut off is taken up again where it stood, without losing what it recorded.

    checkpoint.json   when the plan began, and when the harness was last known to live
    ledger/           what the present segment records
    past/0, past/1    the ledgers of the segments before

A segment is what one harness did of a cell: from fresh services to the end, or to the moment it was cut off.
Its number is its clock domain, because a reboot may lie between two of them. Only the wall clock goes on
over a reboot: it says how far the plan has got, and is in no figure.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.errors import CellError
from bench.store import CHECKPOINT, LEDGER, PAST, read_record, write_record

MOST_SEGMENTS: Final = 256
"""A record has one byte for its clock domain."""


@dataclass(frozen=True)
class Segment:
    """A harness's part of a cell in `folder`; the plan began at `plan_wall_ns`, 0 when it has not.

    `alive_wall_ns` is when a harness was last known to live. `number` counts from 0.
    """

    folder: Path
    number: int = 0
    plan_wall_ns: int = 0
    alive_wall_ns: int = 0

    @property
    def past(self) -> list[Path]:
        """The ledgers of the segments before this one, in their order."""
        return [self.folder / PAST / str(number) for number in range(self.number)]

    @property
    def ledgers(self) -> list[Path]:
        """All ledgers of the cell, this segment's own last."""
        return [*self.past, self.folder / LEDGER]

    @property
    def position_ns(self) -> int:
        """How far the plan has got by now; a wall clock that was set back does not take it back."""
        return max(time.time_ns(), self.alive_wall_ns) - self.plan_wall_ns if self.plan_wall_ns else 0

    def saved(self) -> Segment:
        """The same as of now, on disk; the plan begins now if it had not begun."""
        now_ns = time.time_ns()
        fresh = replace(
            self,
            plan_wall_ns=self.plan_wall_ns or now_ns,
            alive_wall_ns=max(now_ns, self.alive_wall_ns),
        )
        times = {"plan_wall_ns": fresh.plan_wall_ns, "alive_wall_ns": fresh.alive_wall_ns}
        write_record(self.folder / CHECKPOINT, times)
        return fresh


def take_up(folder: Path) -> Segment:
    """The next segment of the cell in `folder`: the first one where there is no checkpoint.

    The ledger of the one before is moved aside in one step, so that a crash in here loses nothing.

    Raises:
        CellError: it was cut off more often than there are clock domains.
        StoreError: the checkpoint cannot be read.
    """
    if not (folder / CHECKPOINT).is_file():
        return Segment(folder)
    found = read_record(folder / CHECKPOINT)
    past, ledger = folder / PAST, folder / LEDGER
    past.mkdir(exist_ok=True)
    number = sum(1 for _ in past.iterdir())
    if any(ledger.iterdir()):  # else it was moved already, by a harness that came no further
        ledger.rename(past / str(number))
        ledger.mkdir()
        number += 1
    if number >= MOST_SEGMENTS:
        raise CellError(f"cut off {number} times: there is no clock domain left to go on with")
    return Segment(folder, number, int(found["plan_wall_ns"]), int(found["alive_wall_ns"]))
