"""Runs on disk: what was measured is written cell by cell, and read back by the reports.

    results/<run-id>/run.json                 how, where and with what the run was made
    results/<run-id>/summary.csv              one row per metric and cell, `bench.model.SUMMARY_COLUMNS`
    results/<run-id>/cells/<cell-id>/         cell.json, events.parquet, tasks.parquet,
                                              resources.parquet, logs/

`cell.json` is written last and at once, so a cell without it was cut off and is measured again, or goes on
where it stood (`bench.checkpoint`).

Format history (`FORMAT` stands in run.json and in every cell.json):

    1   first format
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.errors import StoreError, unknown
from bench.model import SUMMARY_COLUMNS, Cell, Metric, Status
from bench.summary import cell_of, summary_rows

FORMAT: Final = 1
EVENT_COLUMNS: Final = ("task", "t_ns", "aux", "pid", "run", "kind", "domain")
FREE_BYTES_WANTED: Final = 200 * 2**20
LEDGER: Final = "ledger"
PAST: Final = "past"
CHECKPOINT: Final = "checkpoint.json"
"""What a cell's folder holds until the cell is finished."""


@dataclass(frozen=True)
class Run:
    """A run as the reports read it.

    `summary` has the columns `SUMMARY_COLUMNS`: `value`, `ci_low`, `ci_high`, `n` are floats (NaN where
    empty), all others text; aggregates have an empty `trial`. `cells` holds one parsed `cell.json` per
    finished cell, and is empty for a run of which only the summary was kept.
    """

    path: Path
    info: dict[str, Any]
    summary: pd.DataFrame
    cells: list[dict[str, Any]]


class Store:
    """One run that is being written. Every method raises `StoreError` when the disk does not take it."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info
        self._began: dict[str, tuple[datetime, float]] = {}

    @property
    def run_id(self) -> str:
        """The name of the run."""
        return str(self.info["run_id"])

    def cell_folder(self, cell: Cell, *, keep: bool = False) -> Path:
        """The folder of a cell, with `logs/` and `ledger/` inside.

        Emptied the first time an attempt asks for it, so that nothing of one that was cut off is counted;
        the cell's clock starts then. With `keep`, one that has a checkpoint is left as it is.
        """
        folder = self._folder(cell)
        with on_disk(folder):
            if cell.id not in self._began:
                if folder.exists() and not (keep and (folder / CHECKPOINT).exists()):
                    shutil.rmtree(folder)
                (folder / "cell.json").unlink(missing_ok=True)
                self._began[cell.id] = (datetime.now(UTC), time.monotonic())
            for name in ("logs", LEDGER):
                (folder / name).mkdir(parents=True, exist_ok=True)
        return folder

    def forget(self, cell: Cell) -> None:
        """Have the next `cell_folder` begin another attempt at a cell."""
        self._began.pop(cell.id, None)

    def write_cell(
        self,
        cell: Cell,
        status: Status,
        reason: str,
        metrics: Sequence[Metric],
        details: Mapping[str, Any],
        events: np.ndarray[Any, Any] | None = None,
        tasks: pd.DataFrame | None = None,
        resources: pd.DataFrame | None = None,
    ) -> None:
        """Write a cell for good. `events` is a structured array with the fields `EVENT_COLUMNS`.

        The raw ledgers are removed once their events stand in `events.parquet`.
        """
        began, since_s = self._began.get(cell.id) or (datetime.now(UTC), time.monotonic())
        folder = self._folder(cell)
        with on_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if events is not None:
                columns = {name: np.ascontiguousarray(events[name]) for name in EVENT_COLUMNS}
                pq.write_table(pa.table(columns), folder / "events.parquet", compression="zstd")
            for name, frame in (("tasks", tasks), ("resources", resources)):
                if frame is not None:
                    table = pa.Table.from_pandas(frame, preserve_index=False)
                    pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
        record = {
            "format": FORMAT,
            "cell": asdict(cell),
            "status": Status(status).value,
            "reason": " ".join(reason.split()),
            "metrics": [asdict(metric) for metric in metrics],
            "details": details,
            "began": began.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - since_s, 3),
        }
        _replace(folder / "cell.json", _json(record))
        if events is not None:
            with on_disk(folder):
                for name in (LEDGER, PAST):
                    shutil.rmtree(folder / name, ignore_errors=True)
                (folder / CHECKPOINT).unlink(missing_ok=True)

    def rewrite(self, record: Mapping[str, Any]) -> None:
        """Put another record in the place of a finished cell's."""
        _replace(self._folder(cell_of(record)) / "cell.json", _json(record))

    def done(self) -> set[str]:
        """Ids of the cells that need not be measured again."""
        return {
            cell_of(record).id
            for record in read_cells(self.path)
            if record["status"] != Status.INTERRUPTED.value
        }

    def update_run(self, **fields: Any) -> None:
        """Set fields of `run.json`."""
        self.info = {**self.info, **fields}
        _replace(self.path / "run.json", _json(self.info))

    def write_summary(self) -> Path:
        """Write `summary.csv` from all finished cells; returns its path."""
        text = io.StringIO()
        writer = csv.DictWriter(text, SUMMARY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(summary_rows(self.run_id, read_cells(self.path)))
        path = self.path / "summary.csv"
        _replace(path, text.getvalue())
        return path

    def _folder(self, cell: Cell) -> Path:
        return self.path / "cells" / cell.id


def create(results: Path, run_info: Mapping[str, Any]) -> Store:
    """Begin a run: make its folder and write `run.json`.

    Raises:
        StoreError: the folder cannot be made or written, or less than 200 MB are free.
    """
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    path = results / run_id
    with on_disk(results):
        results.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(results).free
        if free_bytes < FREE_BYTES_WANTED:
            raise StoreError(
                f"only {free_bytes / 2**20:.0f} MB are free for {results}, a run wants "
                f"{FREE_BYTES_WANTED / 2**20:.0f} MB: make room, or choose another folder with --results"
            )
        (path / "cells").mkdir(parents=True)
    store = Store(path, {"format": FORMAT, "run_id": run_id, "created": now.isoformat(timespec="seconds")})
    store.update_run(**{key: value for key, value in run_info.items() if key not in store.info})
    return store


def open_store(results: Path, run: str | Path) -> Store:
    """Take up an existing run, by its id or its path, to write further cells.

    Raises:
        UsageError: there is no such run.
        StoreError: it cannot be read, or was written in a newer format.
    """
    path = resolve(results, run)
    return Store(path, _info(path))


def read_run(path: Path) -> Run:
    """Read a run, finished or not, without writing anything.

    Raises:
        StoreError: it cannot be read, or was written in a newer format.
    """
    info = _info(path)
    cells = read_cells(path)
    file = path / "summary.csv"
    if cells:
        frame = pd.DataFrame(summary_rows(str(info["run_id"]), cells), columns=list(SUMMARY_COLUMNS))
    elif file.exists():
        with on_disk(file):
            frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    else:
        raise StoreError(
            f"{path} holds no finished cell: complete it with `schedbench run --resume {path.name}`"
        )
    if list(frame.columns) != list(SUMMARY_COLUMNS):
        raise StoreError(f"{file} does not have the columns of format {FORMAT}: restore it, or run again")
    numeric = ("value", "ci_low", "ci_high", "n")
    for column in SUMMARY_COLUMNS:
        if column in numeric:
            frame[column] = pd.to_numeric(frame[column].replace("", np.nan)).astype(float)
        else:
            frame[column] = frame[column].astype(str)
    return Run(path, info, frame, cells)


def runs(results: Path) -> list[str]:
    """The folders of all runs in a results folder, by name."""
    return sorted(file.parent.name for file in results.glob("*/run.json"))


def latest(results: Path) -> Path:
    """The path of the newest run.

    Raises:
        StoreError: there is none.
    """
    names = runs(results)
    if not names:
        raise StoreError(f"no runs in {results}: make one with `schedbench run`")
    # By what it says itself: a folder that was copied or kept may have another name.
    began = {name: str(_info(results / name).get("created", "")) for name in names}
    return results / max(names, key=lambda name: (began[name], name))


def resolve(results: Path, run: str | Path) -> Path:
    """The folder of a run that is given by its id in `results` or by its own path.

    Raises:
        UsageError: there is no such run.
    """
    for path in (results / run, Path(run)):
        if (path / "run.json").is_file():
            return path
    raise unknown("run", str(run), runs(results) or ["(none yet)"])


# --- files ------------------------------------------------------------------------------------------


def read_cells(path: Path) -> list[dict[str, Any]]:
    """Every `cell.json` of a run, in the order of the cells' names."""
    return [_load(file) for file in sorted(path.glob("cells/*/cell.json"))]


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON file, with the format, so that a reader sees the old one or the new one."""
    _replace(file, _json({"format": FORMAT, **record}))


def read_record(file: Path) -> dict[str, Any]:
    """A JSON file that has a format.

    Raises:
        StoreError: it is damaged, or of a format that this release does not know.
    """
    return _load(file)


def _info(path: Path) -> dict[str, Any]:
    info = _load(path / "run.json")
    if "run_id" not in info:
        raise StoreError(f"{path / 'run.json'} names no run_id: it is not a run of schedbench")
    return info


def _load(file: Path) -> dict[str, Any]:
    with on_disk(file):
        text = file.read_text(encoding="utf-8")
    try:
        record = json.loads(text)
        written = int(record["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file} is damaged ({error}): remove {file.parent}, then resume the run") from error
    if written > FORMAT:
        writer = record.get("schedbench") or "a later release"
        raise StoreError(
            f"{file} has format {written}, written by schedbench {writer}; this one reads up to "
            f"format {FORMAT}: upgrade schedbench to read it"
        )
    return dict(record)


def _json(value: Any) -> str:
    return json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """JSON-safe: NumPy scalars and paths become plain, NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _replace(file: Path, text: str) -> None:
    """Write a file so that a reader, also after a power cut, sees the old one or the new one."""
    fresh = file.with_name(file.name + ".new")
    with on_disk(file):
        with fresh.open("w", encoding="utf-8", newline="") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a `StoreError`: one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            advice = "the disk is full: make room, then continue with --resume"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "it is not writable: choose another folder with --results"
        elif error.errno in (errno.ENOENT, errno.ENOTDIR):
            advice = "it is missing: check the path given with --results"
        else:
            advice = "check the disk, or choose another folder with --results"
        raise StoreError(f"cannot use {path} ({error.strerror or error}): {advice}") from error
