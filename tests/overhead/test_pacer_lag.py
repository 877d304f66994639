"""The pacer's P99 lag at 10 000 tasks/s is at most twice that of a bare absolute-deadline sleep loop."""

from __future__ import annotations

import itertools
from pathlib import Path

from bench.agent import work

LIMIT = 2.0


def test_the_pacer_against_a_bare_sleep_loop(tmp_path: Path, in_child, against_floor) -> None:
    numbers = itertools.count()

    def paced() -> float:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        (lag_us,) = in_child("pacer_child.py", "pacer", str(folder), **{work.LEDGER_VARIABLE: str(folder)})
        return lag_us

    def bare() -> float:
        (lag_us,) = in_child("pacer_child.py", "bare")
        return lag_us

    assert against_floor(paced, bare, "µs of P99 lag", LIMIT, rounds=7) <= LIMIT
