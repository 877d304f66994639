"""What measuring costs: reading the clock and sleeping, the probe's stamps, one look of the sampler."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench import environments, probe_cost, stats
from bench.agent.work import LEDGER_VARIABLE
from bench.errors import CellError
from bench.floors import Cells
from bench.model import System
from bench.stack import Stack

SLEEPS, ROUNDS, LOOKS, CALLS = 400, 25, 20, 2000
SLEEP_S: Final = 0.001
CHILD_LIMIT_S: Final = 60


def timer() -> dict[str, stats.Interval]:
    """The clock's smallest step and what reading it costs, in ns; how late a sleep of 1 ms ends, in µs."""
    ticks = [time.monotonic_ns() for _ in range(CALLS)]
    steps_ns = [later - earlier for earlier, later in itertools.pairwise(ticks) if later > earlier]
    late_us = [_late_us() for _ in range(SLEEPS)]
    return {
        "clock_step": stats.Interval(float(min(steps_ns)), None, None, len(steps_ns), 0.0),
        "clock_read": stats.median_interval([_read_ns() for _ in range(ROUNDS)]),
        "sleep_late_p50": stats.quantile_interval(late_us, 0.50),
        "sleep_late_p99": stats.quantile_interval(late_us, 0.99),
    }


def _read_ns() -> float:
    read = time.monotonic_ns
    began_ns = read()
    for _ in range(CALLS):
        read()
    return (read() - began_ns) / CALLS


def _late_us() -> float:
    began_ns = time.monotonic_ns()
    time.sleep(SLEEP_S)
    return (time.monotonic_ns() - began_ns) / 1e3 - SLEEP_S * 1e6


def probe(folder: Path) -> stats.Interval:
    """What the two stamps of a task cost in µs, with a ledger in `folder`, in a process of its own.

    Raises:
        CellError: that process did not end well.
    """
    ledger = folder / "probe"
    ledger.mkdir(exist_ok=True)
    path = str(Path(probe_cost.__file__).parents[1])
    try:
        done = subprocess.run(
            [sys.executable, "-m", probe_cost.__name__, str(ROUNDS), str(CALLS)],
            env={**os.environ, "PYTHONPATH": path, LEDGER_VARIABLE: str(ledger.absolute())},
            capture_output=True,
            text=True,
            check=False,
            timeout=CHILD_LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise CellError(f"the probe could not be measured in {CHILD_LIMIT_S} s") from error
    if done.returncode:
        raise CellError(f"the probe could not be measured: {' '.join(done.stderr.splitlines()[-1:])}")
    shutil.rmtree(ledger)
    return stats.median_interval([cost_ns / 1e3 for cost_ns in json.loads(done.stdout)])


def look(cells: Cells, system: System) -> tuple[stats.Interval, int]:
    """How many ms one look with memory takes at a cell of `system`, and how many processes that cell has.

    Raises:
        CellError: the cell did not come up.
    """
    folder, environment = cells.folder / "look", environments.ensure(system, cells.say)
    shutil.rmtree(folder, ignore_errors=True)  # what an attempt that failed left behind
    variant = system.variants[system.default[0]]
    stack = Stack(
        system, variant, environment, cells.home, folder, cells.slots, lambda _: None, cells.provision
    )
    spans_ms = []
    try:
        stack.open(io=False, cold=False)
        stack.bring(up=True, ready=True, cold=False)
        for _ in range(LOOKS):
            began_ns = time.monotonic_ns()
            stack.sampler.sample("look", with_memory=True)
            spans_ms.append((time.monotonic_ns() - began_ns) / 1e6)
        processes = int(stack.sampler.frame()["processes"].max())
        stack.close()
    finally:
        stack.tear_down()
    shutil.rmtree(folder)
    return stats.median_interval(spans_ms), processes
