"""Second attempts at cells that a disturbed machine spoilt: which ones, and what becomes of the first.

Whether a cell gets another attempt rests on the disturbance alone, never on its figures; and whatever the
second one gives stands. One process at a time writes a run: a second one is refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.errors import StoreError
from bench.model import Cell
from bench.store import Store, on_disk, open_store
from bench.summary import cell_of

RERUN_SHARE: Final = 0.2
"""Second attempts take at most this share of the cells of a run, and of its estimated time; one is always
allowed. A machine that is never quiet is not made better by measuring on it for longer."""

ASIDE: Final = "set-aside"
KEPT: Final = ("name", "unit", "value", "n")


def due(
    records: Iterable[Mapping[str, Any]], cells: Sequence[Cell], seconds: Callable[[Cell], float]
) -> list[Cell]:
    """The cells to be run again, in the order of the run.

    `records` are the parsed `cell.json` of the run so far, `cells` all that it has, and `seconds` estimates
    one: not what it took, because that is akin to its figures.
    """
    details = {cell_of(record).id: record["details"] for record in records}
    had = [cell for cell in cells if details.get(cell.id, {}).get("earlier_attempts")]
    count = max(1, int(RERUN_SHARE * len(cells))) - len(had)
    left_s = RERUN_SHARE * sum(map(seconds, cells)) - sum(map(seconds, had))
    found: list[Cell] = []
    for cell in cells:
        own = details.get(cell.id, {})
        if own.get("earlier_attempts") or not own.get("disturbance", {}).get("words"):
            continue
        fits = seconds(cell) <= left_s or not (had or found)
        if fits and len(found) < count:
            found.append(cell)
            left_s -= seconds(cell)
    return found


def earlier(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of a second attempt says of the first, under `earlier_attempts`."""
    return {
        "status": record["status"],
        "reason": record["reason"],
        "began": record["began"],
        "seconds": record["seconds"],
        "metrics": [{name: metric[name] for name in KEPT} for metric in record["metrics"]],
        "disturbance": record["details"]["disturbance"],
    }


@contextmanager
def exclusive(target: Store) -> Iterator[None]:
    """Keep other processes from writing a run, and mend what one that was killed left of a second attempt.

    Raises:
        StoreError: another process is writing it.
    """
    with on_disk(target.path):
        # The folder itself is locked, so that there is no lock file to be left behind.
        folder = os.open(target.path, os.O_RDONLY)
    try:
        _lock(folder, target)
        target.info = open_store(target.path.parent, target.path).info  # of another process, just ended
        for aside in sorted(target.path.glob(f"{ASIDE}/*")):
            _settle(aside, target.path / "cells" / aside.name)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, target: Store) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(
            f"run {target.run_id} is being written by another schedbench: wait until it has ended, or begin "
            "a new run"
        ) from error
    except OSError as error:
        # Network file systems lock no folders; there the user must see to it.
        if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
            raise


@contextmanager
def second(target: Store, cell: Cell) -> Iterator[None]:
    """Set the first attempt at a cell aside; it comes back unless a second one was written meanwhile."""
    folder, aside = target.path / "cells" / cell.id, target.path / ASIDE / cell.id
    with on_disk(target.path):
        aside.parent.mkdir(exist_ok=True)
        folder.replace(aside)
    target.forget(cell)
    try:
        yield
    finally:
        _settle(aside, folder)


def _settle(aside: Path, folder: Path) -> None:
    """Keep the attempt in `folder` if it was written to its end, otherwise the one set aside."""
    with on_disk(folder):
        if (folder / "cell.json").exists():
            shutil.rmtree(aside)
        else:
            if folder.exists():
                shutil.rmtree(folder)
            aside.replace(folder)
        if not any(aside.parent.iterdir()):
            aside.parent.rmdir()
