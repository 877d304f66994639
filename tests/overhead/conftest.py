"""How a limit is checked: our code and its floor take turns in one run, and only their ratio is judged.

One file per limit. The times themselves belong to the machine and are printed, never asserted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

Measure = Callable[[], float]
AgainstFloor = Callable[..., float]


@pytest.fixture
def against_floor(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> AgainstFloor:
    """Call `measure` and `floor` in turn, each a figure in `unit`; gives the median of their ratios."""

    def check(measure: Measure, floor: Measure, unit: str, limit: float, rounds: int = 5) -> float:
        floors: list[float] = []
        figures: list[float] = []
        # The floor is the set-up of each round: so the two alternate.
        benchmark.pedantic(
            lambda: figures.append(measure()), setup=lambda: floors.append(floor()), rounds=rounds
        )
        ratio = median(ours / bare for ours, bare in zip(figures, floors, strict=True))
        benchmark.extra_info |= {"ours": figures, "floor": floors, "unit": unit, "ratio": ratio}
        with capsys.disabled():
            print(f"\n{benchmark.name}: ratio {ratio:.2f} (limit {limit:g}), in {unit}")
            print("  ours   " + "".join(f"{figure:12.3f}" for figure in figures))
            print("  floor  " + "".join(f"{figure:12.3f}" for figure in floors))
        return ratio

    return check


@pytest.fixture
def in_child(tmp_path: Path) -> Callable[..., list[float]]:
    """Run a script of this folder in a process of its own; it prints its figures, separated by spaces."""

    def run(script: str, *arguments: str, **variables: str) -> list[float]:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name(script)), *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
            cwd=tmp_path,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return [float(word) for word in done.stdout.split()]

    return run
