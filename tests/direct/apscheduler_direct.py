# /// script
# requires-python = ">=3.11"
# dependencies = ["apscheduler~=3.11"]
# ///
"""APScheduler used directly, without schedbench: `apscheduler_direct.py SLOTS N thread|process`.

Prints, as JSON, the drain of N queued no-ops and the P95 from due to start of 1000 at 50 tasks/s.
"""

import functools
import json
import os
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler

PAIR = struct.Struct("<qq")  # a start: due or 0, time; an end: -1, time


@functools.cache
def stamps() -> int:
    return os.open(f"{os.environ['STAMPS']}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def body(due_ns: int = 0) -> None:
    os.write(stamps(), PAIR.pack(due_ns, time.monotonic_ns()))
    os.write(stamps(), PAIR.pack(-1, time.monotonic_ns()))


def ended(count: int) -> None:
    """Wait for that many ends in all, or until nothing has ended for 5 s (dropped as misfired)."""
    seen, limit = -1, 0.0
    while (now := sum(file.stat().st_size for file in Path(os.environ["STAMPS"]).iterdir()) // 32) < count:
        if now > seen:
            seen, limit = now, time.monotonic() + 5
        elif time.monotonic() > limit:
            return
        time.sleep(0.02)


def read() -> list[tuple[int, int]]:
    return [
        pair for file in Path(os.environ["STAMPS"]).iterdir() for pair in PAIR.iter_unpack(file.read_bytes())
    ]


def scheduler(slots: int, pool: str) -> BackgroundScheduler:
    return BackgroundScheduler(executors={"default": {"type": f"{pool}pool", "max_workers": slots}})


def main(slots: int, n: int, pool: str) -> None:
    drain = scheduler(slots, pool)
    drain.start(paused=True)
    for _ in range(n):
        drain.add_job(body)
    drain.resume()
    ended(n)
    drain.shutdown()
    ends = [at for due, at in read() if due == -1]
    throughput = len(ends) / (max(ends) - min(at for due, at in read() if due == 0)) * 1e9

    paced = scheduler(slots, pool)
    paced.start()
    for _ in range(100):  # brings the pool up
        paced.add_job(body)
    ended(len(ends) + 100)
    base_ns = time.monotonic_ns() + 20_000_000
    for due_ns in range(base_ns, base_ns + 1000 * 20_000_000, 20_000_000):
        if (wait_ns := due_ns - time.monotonic_ns()) > 0:
            time.sleep(wait_ns / 1e9)
        paced.add_job(body, args=(due_ns,))
    ended(len(ends) + 1100)
    paced.shutdown()
    late_ms = [(at - due) / 1e6 for due, at in read() if due > 0]
    p95_ms = statistics.quantiles(late_ms, n=20, method="inclusive")[-1]
    print(json.dumps({"throughput": throughput, "p95_ms": p95_ms, "ran": [len(ends), len(late_ms)]}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STAMPS"] = folder
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
