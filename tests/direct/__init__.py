"""What the scripts beside this file share: one record per task, a drain, a paced load, two figures.

Each script uses a library directly, with the configuration of its adapter and none of the harness, and
prints what the harness's figures are checked against. From the root of a checkout:

    PYTHONPATH=. uv run --script tests/direct/celery_direct.py REDIS_URL SLOTS N
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

RECORD = struct.Struct("<qqq")  # submitted, started, ended: CLOCK_MONOTONIC ns
PACED_N = 1000
GAP_NS = 20_000_000  # 50 tasks/s
LIMIT_S = 600


def url() -> str:
    """The address of Redis: the first argument of a script, and through the environment of its workers."""
    return os.environ.setdefault("DIRECT_URL", sys.argv[1])


def stamp(submitted_ns: int) -> None:
    """Append one record; the whole body of a task. Appends by several processes do not mix."""
    started_ns = time.monotonic_ns()
    file = os.open(os.environ["DIRECT_FILE"], os.O_WRONLY | os.O_APPEND)
    os.write(file, RECORD.pack(submitted_ns, started_ns, time.monotonic_ns()))
    os.close(file)


def measure(submit: Callable[[int], object], *arguments: str, workers: int = 1) -> None:
    """Drain N tasks that were queued before the workers start, then pace `PACED_N` into the warm workers.

    `submit` queues one task with the time it was submitted; each worker is `python ARGUMENTS`. Prints
    `throughput` (tasks/s, first start to last end) and `p95_ms` (submit to start, nearest rank) as JSON.
    """
    count = int(sys.argv[3])
    records = Path(tempfile.mkdtemp(), "records")
    records.touch()
    os.environ["DIRECT_FILE"] = str(records)
    for _ in range(count):
        submit(time.monotonic_ns())
    with open(records.with_name("log"), "wb") as log:
        command = [sys.executable, *arguments]
        running = [subprocess.Popen(command, stdout=log, stderr=log) for _ in range(workers)]
    try:
        drained = wait(records, count, running)
        first_ns = time.monotonic_ns() + GAP_NS
        for due_ns in range(first_ns, first_ns + PACED_N * GAP_NS, GAP_NS):
            time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            submit(time.monotonic_ns())
        paced = wait(records, count + PACED_N, running)[count:]
    finally:
        for worker in running:
            worker.terminate()
        for worker in running:
            worker.wait(60)
    span_s = (max(ended for _, _, ended in drained) - min(started for _, started, _ in drained)) / 1e9
    waits_ms = sorted((started - submitted) / 1e6 for submitted, started, _ in paced)
    print(json.dumps({"throughput": count / span_s, "p95_ms": waits_ms[PACED_N * 95 // 100 - 1]}))
    shutil.rmtree(records.parent)  # kept when something failed: the workers' log is in it


def rate(drained: Sequence[tuple[int, int, int]], slots: int) -> float:
    """Tasks per second of a drain of few tasks, from the end of the first SLOTS on: they began at once."""
    ends = sorted(ended for *_, ended in drained)
    return (len(ends) - slots) / (ends[-1] - ends[slots - 1]) * 1e9


def wait(records: Path, count: int, workers: Sequence[subprocess.Popen[bytes]]) -> list[tuple[int, int, int]]:
    """The records once there are `count` of them; exits when a worker does or after `LIMIT_S`."""
    deadline = time.monotonic() + LIMIT_S
    while (ended := records.stat().st_size // RECORD.size) < count:
        if time.monotonic() > deadline or any(worker.poll() is not None for worker in workers):
            raise SystemExit(f"{ended} of {count} tasks ended: see {records.with_name('log')}")
        time.sleep(0.1)
    return [(a, b, c) for a, b, c in RECORD.iter_unpack(records.read_bytes())]
