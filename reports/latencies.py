"""Every single dispatch latency of a cell, from its tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.model import Status
from bench.store import Run, on_disk
from bench.summary import cell_of, is_invalid

Latencies = npt.NDArray[np.float64]

SHARE: Final = re.compile(r"offered_rate_at(\d+)")
"""The metric that says how many tasks were measured at a share (in %) of the sustainable rate."""


def by_variant(run: Run, params_text: str) -> dict[tuple[str, str], Latencies]:
    """Sorted due-to-start latencies in ms of each system and variant under one condition, trials pooled.

    Empty for a run of which only the summary was kept. Cells that did not end `ok`, and invalid ones, are
    left out.
    """
    found: dict[tuple[str, str], list[Latencies]] = {}
    for record, file in _cells(run, "latency", params_text):
        cell = cell_of(record)
        offered = next((m for m in record["metrics"] if m["name"] == "offered_rate"), None)
        if offered and _valid(record):
            found.setdefault((cell.system, cell.variant), []).append(
                _dispatch_ms(file, [int(offered["n"])])[0]
            )
    return {key: np.sort(np.concatenate(parts)) for key, parts in found.items()}


def by_share(run: Run, params_text: str) -> dict[tuple[str, str], dict[int, Latencies]]:
    """The same of the capacity scenario, for each share of the system's own sustainable rate, in %.

    A share at which the load was invalid is left out.
    """
    found: dict[tuple[str, str], dict[int, list[Latencies]]] = {}
    for record, file in _cells(run, "capacity", params_text):
        cell = cell_of(record)
        matches = ((SHARE.fullmatch(metric["name"]), metric) for metric in record["metrics"])
        measured_n = {int(match[1]): int(metric["n"]) for match, metric in matches if match}
        loads = _dispatch_ms(file, list(measured_n.values())) if measured_n else []
        for percent, sample in zip(measured_n, loads, strict=True):
            if _valid(record, f"dispatch_latency_at{percent}_"):
                own = found.setdefault((cell.system, cell.variant), {})
                own.setdefault(percent, []).append(sample)
    return {
        key: {percent: np.sort(np.concatenate(parts)) for percent, parts in shares.items()}
        for key, shares in found.items()
    }


def _cells(run: Run, scenario: str, params_text: str) -> Iterator[tuple[Mapping[str, Any], Path]]:
    """The cells of a condition that ended `ok` and whose tasks were kept, with the file of those."""
    for record in run.cells:
        cell = cell_of(record)
        file = run.path / "cells" / cell.id / "tasks.parquet"
        fits = cell.scenario == scenario and cell.params_text == params_text
        if fits and record["status"] == Status.OK.value and file.is_file():
            yield record, file


def _valid(record: Mapping[str, Any], prefix: str = "") -> bool:
    own = (metric for metric in record["metrics"] if metric["name"].startswith(prefix))
    return not any(is_invalid(metric["note"]) for metric in own)


def _dispatch_ms(file: Path, measured_n: list[int]) -> list[Latencies]:
    """Due to first start in the last loads of a cell: of each its last so many tasks, before is warm-up."""
    with on_disk(file):
        tasks = pd.read_parquet(file, columns=["phase", "index", "due_ns", "start_ns", "submits"])
    sent = tasks[tasks["submits"] > 0].sort_values("index")
    phases = np.sort(sent["phase"].unique())[-len(measured_n) :]
    found = []
    for phase, n in zip(phases, measured_n, strict=True):
        ran = sent[sent["phase"] == phase].tail(n).dropna(subset=["due_ns", "start_ns"])
        found.append(np.asarray((ran["start_ns"] - ran["due_ns"]).to_numpy(np.float64) / 1e6))
    return found
