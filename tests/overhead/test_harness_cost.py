"""The reference adapter through the whole harness reaches 90 % of a bare loop, same queue, same stamps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench import discovery
from bench.agent.work import LEDGER_VARIABLE
from bench.harness import Home
from bench.model import Status
from tests.conftest import OneCell

TASKS = 50_000
LIMIT = 1 / 0.9


def test_reference_through_the_harness_against_a_bare_loop(
    home: Home, tmp_path: Path, against_floor, in_child: Callable[..., list[float]]
) -> None:
    throughput = discovery.scenarios()["throughput"]
    rounds = iter(range(1000))

    def harness() -> float:
        result = OneCell(home, tmp_path / f"cell-{next(rounds)}")(
            "reference", throughput, slots=1, params={"tasks": TASKS}
        )
        assert result.status is Status.OK, result.reason
        return 1e6 / next(metric.value for metric in result.metrics if metric.name == "throughput")

    def bare() -> float:
        folder = tmp_path / f"bare-{next(rounds)}"
        folder.mkdir()
        (figure,) = in_child("bare_loop_child.py", str(TASKS), **{LEDGER_VARIABLE: str(folder)})
        return figure

    assert against_floor(harness, bare, "µs per task", LIMIT, rounds=7) <= LIMIT
