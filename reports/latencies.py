"""Every single dispatch latency of a latency cell, from its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.model import Status
from bench.store import Run, on_disk
from bench.summary import INVALID, cell_of

Latencies = npt.NDArray[np.float64]


def by_variant(run: Run, params_text: str) -> dict[tuple[str, str], Latencies]:
    """Sorted due-to-start latencies in ms of each system and variant under one condition, trials pooled.

    Empty for a run of which only the summary was kept. Cells that did not end `ok`, and invalid ones, are
    left out.
    """
    found: dict[tuple[str, str], list[Latencies]] = {}
    for record in run.cells:
        cell = cell_of(record)
        fits = cell.scenario == "latency" and cell.params_text == params_text
        file = run.path / "cells" / cell.id / "tasks.parquet"
        offered = next((m for m in record["metrics"] if m["name"] == "offered_rate"), None)
        if fits and offered and record["status"] == Status.OK.value and file.is_file() and _valid(record):
            found.setdefault((cell.system, cell.variant), []).append(_dispatch_ms(file, int(offered["n"])))
    return {key: np.sort(np.concatenate(parts)) for key, parts in found.items()}


def _valid(record: Mapping[str, Any]) -> bool:
    return not any(INVALID in metric["note"] for metric in record["metrics"])


def _dispatch_ms(file: Path, measured_n: int) -> Latencies:
    """Due to first start of the last load of a cell: its last `measured_n` tasks, the others are warm-up."""
    with on_disk(file):
        tasks = pd.read_parquet(file, columns=["phase", "index", "due_ns", "start_ns", "submits"])
    load = tasks[(tasks["phase"] == tasks["phase"].max()) & (tasks["submits"] > 0)].sort_values("index")
    ran = load.tail(measured_n).dropna(subset=["due_ns", "start_ns"])
    return np.asarray((ran["start_ns"] - ran["due_ns"]).to_numpy(np.float64) / 1e6)
