"""Every single dispatch latency of a latency cell, from its raw events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from bench.model import PHASE_SHIFT, Kind, Status
from bench.store import Run, on_disk
from bench.summary import cell_of

Latencies = npt.NDArray[np.float64]


def by_variant(run: Run, params_text: str) -> dict[tuple[str, str], Latencies]:
    """Sorted due-to-start latencies in ms of each system and variant under one condition, trials pooled.

    Empty for a run of which only the summary was kept. Cells that did not end `ok` are left out.
    """
    found: dict[tuple[str, str], list[Latencies]] = {}
    for record in run.cells:
        cell = cell_of(record)
        fits = cell.scenario == "latency" and cell.params_text == params_text
        file = run.path / "cells" / cell.id / "events.parquet"
        if fits and record["status"] == Status.OK.value and file.is_file():
            found.setdefault((cell.system, cell.variant), []).append(_dispatch_ms(file, _measured_n(record)))
    return {key: np.sort(np.concatenate(parts)) for key, parts in found.items()}


def _measured_n(record: Mapping[str, Any]) -> int | None:
    """How many tasks were measured; the others of the load were warm-up."""
    return next((int(m["n"]) for m in record["metrics"] if m["name"] == "offered_rate"), None)


def _dispatch_ms(file: Path, measured_n: int | None) -> Latencies:
    """Due-to-first-start of the last load of a cell, without its warm-up (which is sent first)."""
    with on_disk(file):
        table = pq.read_table(file, columns=["task", "t_ns", "aux", "kind"])
    task, t_ns, aux, kind = (
        table.column(name).to_numpy().astype(np.int64) for name in ("task", "t_ns", "aux", "kind")
    )
    submits, starts = kind == Kind.SUBMIT, kind == Kind.START
    if not submits.any():
        return np.empty(0)
    load = (task >> PHASE_SHIFT) == (task[submits] >> PHASE_SHIFT).max()
    sent = np.sort(task[submits & load])
    kept = sent[-measured_n:] if measured_n else sent
    due = dict(zip(task[submits].tolist(), aux[submits].tolist(), strict=True))
    order = np.argsort(t_ns[starts], kind="stable")[::-1]  # so that the first start is written last
    first = dict(zip(task[starts][order].tolist(), t_ns[starts][order].tolist(), strict=True))
    return np.array([(first[i] - due[i]) / 1e6 for i in kept.tolist() if i in first], np.float64)
