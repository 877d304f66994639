"""10 million events become a per-task frame in at most 5 times a NumPy read and sort, under 4 GB."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench import ledger
from bench.model import Kind

TASKS, RETRIED, FILES = 2_400_000, 200_000, 8
LIMIT = 5.0
LIMIT_MB = 4000


def write_history(folder: Path) -> None:
    """Four events per task, and an attempt that failed before in some: shuffled over several files."""
    stages = [(Kind.SUBMIT, TASKS), (Kind.ACCEPTED, TASKS), (Kind.START, RETRIED), (Kind.FAIL, RETRIED)]
    stages += [(Kind.START, TASKS), (Kind.END, TASKS)]
    records = np.concatenate([np.zeros(n, ledger.EVENT) for _, n in stages])
    index = np.concatenate([np.arange(n) for _, n in stages])
    stage = np.repeat(np.arange(len(stages)), [n for _, n in stages])
    assert len(records) == 10_000_000
    records["task"] = index | 1 << 32
    records["kind"] = np.array([kind for kind, _ in stages])[stage]
    records["t_ns"] = index * 1000 + stage * 100_000
    records["aux"] = np.where(stage == 0, index * 1000, 0)
    records["pid"] = stage
    order = np.random.default_rng(0).permutation(len(records))
    for number, part in enumerate(np.array_split(order, FILES)):
        records[part].tofile(folder / f"{number}-0.events")


def test_ten_million_events_against_reading_and_sorting_them(tmp_path: Path, in_child, against_floor) -> None:
    write_history(tmp_path)
    peaks_mb = []

    def frame() -> float:
        seconds, peak_mb = in_child("ledger_child.py", "frame", str(tmp_path))
        peaks_mb.append(peak_mb)
        return seconds

    def sort() -> float:
        seconds, _ = in_child("ledger_child.py", "sort", str(tmp_path))
        return seconds

    ratio = against_floor(frame, sort, "s", LIMIT, rounds=3)
    assert ratio <= LIMIT
    assert max(peaks_mb) < LIMIT_MB
