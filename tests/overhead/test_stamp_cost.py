"""A START and an END stamp cost at most twice two bare 32-byte writes to an append-only file."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter_ns

import pytest

from bench.agent import probe, work
from bench.model import RECORD, Kind

PAIRS = 20_000
LIMIT = 2.0


def test_a_pair_of_stamps_against_two_bare_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, against_floor
) -> None:
    monkeypatch.setenv(work.LEDGER_VARIABLE, str(tmp_path))
    probe._forget()
    file = os.open(tmp_path / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    start, end, record = int(Kind.START), int(Kind.END), bytes(RECORD.size)

    def stamps() -> float:
        stamp = probe.stamp
        began_ns = perf_counter_ns()
        for task in range(PAIRS):
            stamp(start, task, 0, 1)
            stamp(end, task, 0, 1)
        return (perf_counter_ns() - began_ns) / PAIRS / 1e3

    def writes() -> float:
        write = os.write
        began_ns = perf_counter_ns()
        for _ in range(PAIRS):
            write(file, record)
            write(file, record)
        return (perf_counter_ns() - began_ns) / PAIRS / 1e3

    try:
        assert against_floor(stamps, writes, "µs per pair", LIMIT, rounds=11) <= LIMIT
    finally:
        os.close(file)
        probe._forget()
