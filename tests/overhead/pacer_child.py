"""One second of pacing at 10 000 tasks/s, by our pacer or by a bare loop; prints the P99 lag in µs.

`pacer_child.py pacer FOLDER` or `pacer_child.py bare`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic_ns, sleep

import numpy as np

from bench import ledger
from bench.agent import pacer
from bench.model import Arrival, Load, Task

RATE_HZ = 10_000
N = 10_000
LEAD_NS = 20_000_000


def paced(folder: Path) -> np.ndarray:
    """Lag of our pacer, as its own stamps in the ledger tell it."""
    plan = pacer.tasks(Load(N, Arrival.CONSTANT, RATE_HZ), phase=1, ahead=False)

    def submit(task: Task) -> None:
        pass

    pacer.pace(plan, monotonic_ns() + LEAD_NS, submit)
    frame = ledger.per_task(ledger.read(folder).records)
    return ledger.between_ns(frame, "due_ns", "submit_ns").to_numpy(np.int64)


def bare() -> np.ndarray:
    """Lag of the least loop that sleeps to absolute deadlines."""
    lags = []
    due_ns = monotonic_ns() + LEAD_NS
    gap_ns = 1_000_000_000 // RATE_HZ
    for _ in range(N):
        wait_ns = due_ns - monotonic_ns()
        if wait_ns > 0:
            sleep(wait_ns / 1e9)
        lags.append(monotonic_ns() - due_ns)
        due_ns += gap_ns
    return np.array(lags)


lag_ns = paced(Path(sys.argv[2])) if sys.argv[1] == "pacer" else bare()
assert len(lag_ns) == N
print(np.quantile(lag_ns, 0.99) / 1e3)
