# /// script
# requires-python = ">=3.11"
# dependencies = ["schedule~=1.2"]
# ///
"""schedule used directly, without schedbench: `schedule_direct.py 1 N poll-1s|idle-seconds|tight`.

Prints, as JSON, the drain of N no-ops that are due at once, and the P95 from due to start of 1000 at
50 tasks/s. Every job is added, 2 s or more before it is due, before the loop begins.
"""

import json
import os
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

import schedule

PAIR = struct.Struct("<qq")  # a start: due, time; an end: -1, time


def body(stamps: int, due_ns: int) -> type[schedule.CancelJob]:
    os.write(stamps, PAIR.pack(due_ns, time.monotonic_ns()))
    os.write(stamps, PAIR.pack(-1, time.monotonic_ns()))
    return schedule.CancelJob


def loop(scheduler: schedule.Scheduler, name: str) -> None:
    while scheduler.jobs:
        scheduler.run_pending()
        if name == "poll-1s":
            time.sleep(1)
        elif name == "idle-seconds":
            time.sleep(max(0.0, scheduler.idle_seconds or 0.0))


def run(plan: list[tuple[float, int]], name: str, file: Path) -> list[tuple[int, int]]:
    """Add a job at each offset in seconds, that many whole seconds ahead; run them; return the stamps."""
    scheduler = schedule.Scheduler()
    stamps = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    base_ns = time.monotonic_ns() + 20_000_000
    for offset_s, delay_s in plan:
        at_ns = base_ns + round(offset_s * 1e9)
        if (wait_ns := at_ns - time.monotonic_ns()) > 0:  # sleep(0) costs 80 us
            time.sleep(wait_ns / 1e9)
        scheduler.every(delay_s).seconds.do(body, stamps, at_ns + delay_s * 1_000_000_000)
    loop(scheduler, name)
    return list(PAIR.iter_unpack(file.read_bytes()))


def main(n: int, name: str, folder: Path) -> None:
    drain = run([(0.0, 2)] * n, name, folder / "drain")
    ends = [at for due, at in drain if due == -1]
    throughput = len(ends) / (max(ends) - min(at for due, at in drain)) * 1e9
    paced = run(sorted((i % 50 / 50, i // 50 + 2) for i in range(1000)), name, folder / "paced")
    late_ms = [(at - due) / 1e6 for due, at in paced if due != -1]
    p95_ms = statistics.quantiles(late_ms, n=20, method="inclusive")[-1]
    print(json.dumps({"throughput": throughput, "p95_ms": p95_ms, "ran": [len(ends), len(late_ms)]}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(int(sys.argv[2]), sys.argv[3], Path(temporary))
