# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi~=0.165.0", "uvicorn[standard]~=0.54.0"]
# ///
"""FastAPI used directly: `fastapi_direct.py SLOTS N`. One uvicorn process with SLOTS threads in its pool.

The pool has none while the N tasks are handed over; one more request gives it SLOTS.
"""

import functools
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path

import anyio.to_thread
from fastapi import BackgroundTasks, FastAPI
from pydantic import BaseModel

from tests.direct import GAP_NS, LIMIT_S, PACED_N

MODULE = "tests.direct.fastapi_direct"
PAIR = struct.Struct("<qq")  # a start: when submitted, time; an end: -1, time


@functools.cache
def stamps() -> int:
    return os.open(os.environ["DIRECT_FILE"], os.O_WRONLY | os.O_APPEND)


def body(submitted_ns: int) -> None:
    """Two writes to a file that stays open, as the harness does: opening it would take as long as a task."""
    os.write(stamps(), PAIR.pack(submitted_ns, time.monotonic_ns()))
    os.write(stamps(), PAIR.pack(-1, time.monotonic_ns()))


class Job(BaseModel):
    submitted_ns: int


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = 0
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202)
async def add(job: Job, tasks: BackgroundTasks) -> None:
    tasks.add_task(body, job.submitted_ns)


@app.post("/threads/{count}")
async def threads(count: int) -> None:
    anyio.to_thread.current_default_thread_limiter().total_tokens = count


def post(connection: HTTPConnection, path: str, **fields: int) -> None:
    connection.request("POST", path, json.dumps(fields), {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    assert response.status in (200, 202), response.status


def connect(port: int) -> HTTPConnection:
    for _ in range(200):
        connection = HTTPConnection("127.0.0.1", port)
        try:
            connection.connect()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return connection
    raise SystemExit("the web server did not start")


def ended(count: int) -> list[tuple[int, int]]:
    """All stamps once that many tasks have ended."""
    records = Path(os.environ["DIRECT_FILE"])
    deadline = time.monotonic() + LIMIT_S
    while records.stat().st_size < 2 * count * PAIR.size:
        if time.monotonic() > deadline:
            raise SystemExit(f"fewer than {count} tasks ended")
        time.sleep(0.02)
    return list(PAIR.iter_unpack(records.read_bytes()))


def main(slots: int, count: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder, "records")
        records.touch()
        os.environ["DIRECT_FILE"] = str(records)
        command = ["-m", "uvicorn", f"{MODULE}:app", "--host", "127.0.0.1", "--port", str(port)]
        with open(Path(folder, "log"), "wb") as log:
            server = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
        try:
            connection = connect(port)
            for _ in range(count):
                post(connection, "/jobs", submitted_ns=time.monotonic_ns())
            post(connection, f"/threads/{slots}")
            drained = ended(count)
            first_ns = time.monotonic_ns() + GAP_NS
            for due_ns in range(first_ns, first_ns + PACED_N * GAP_NS, GAP_NS):
                time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
                post(connection, "/jobs", submitted_ns=time.monotonic_ns())
            paced = ended(count + PACED_N)[2 * count :]
        finally:
            server.terminate()
            server.wait(60)
    span_s = (max(at for _, at in drained) - min(at for _, at in drained)) / 1e9
    waits_ms = sorted((at - submitted) / 1e6 for submitted, at in paced if submitted >= 0)
    print(json.dumps({"throughput": count / span_s, "p95_ms": waits_ms[PACED_N * 95 // 100 - 1]}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
