# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi~=0.165.0", "uvicorn[standard]~=0.54.0"]
#
# [tool.schedbench]
# title = "FastAPI BackgroundTasks"
# family = "pattern"
# homepage = "https://fastapi.tiangolo.com/tutorial/background-tasks/"
# capabilities = ["enqueue"]
# default = ["uvicorn"]
#
# [tool.schedbench.parity]
# slots = ["threads that the web server may use at once", "https://starlette.dev/threadpool/"]
# runs_in = ["threads of the web server", "https://starlette.dev/threadpool/"]
# acknowledgement = ["none; accepted by the response, which goes first", "https://starlette.dev/background/"]
# persistence = ["nothing: tasks wait in the web server's memory", "https://fastapi.tiangolo.com/tutorial/background-tasks/#caveat"]
# results = ["none", "https://starlette.dev/background/"]
# prefetch = ["none: one queue for all threads", "https://starlette.dev/threadpool/"]
# polling = ["none: a request brings its task", "https://starlette.dev/background/"]
#
# [tool.schedbench.changed]
# total_tokens = ["slots, not 40; 0 while no task may run", "a slot means the same for every system", "https://starlette.dev/threadpool/"]
# timeout-keep-alive = ["1 h, not 5 s", "the client keeps its connection while idle", "https://uvicorn.dev/settings/#timeouts"]
# exceptions = ["logged by the body, not left to uvicorn", "it would drop the next response", "https://github.com/Kludex/uvicorn/pull/3156"]
#
# [tool.schedbench.promises]
# worker = ["lost", "tasks are in the web server's memory: all are gone, though their responses said 202", 0, "https://fastapi.tiangolo.com/tutorial/background-tasks/#caveat"]
# worker-pause = ["kept", "not run twice: tasks wait in memory and go on", 0, "https://starlette.dev/background/"]
# poison = ["lost", "kills the web server, and with it all waiting tasks", 0, "https://fastapi.tiangolo.com/tutorial/background-tasks/#caveat"]
# raise = ["lost", "not retried; later tasks of the same response do not run (the adapter catches)", 0, "https://starlette.dev/background/"]
# unserialisable = ["refused", "not an argument: the client's json.dumps raises before the request", 0, "https://starlette.dev/background/"]
#
# [tool.schedbench.variants.uvicorn]
# summary = "a request for every task, one uvicorn process, its tasks in the thread pool"
# guarantee = "none"
# source = "https://fastapi.tiangolo.com/tutorial/background-tasks/#caveat"
# queue_limit = 20_000  # a task that waits holds 20 kB of the web server's memory
# settle_s = 3
# ///
"""FastAPI under uvicorn: a request is answered, then its task runs in a thread of the same process.

Nothing outside that process could hold tasks while they must not run. They wait where they do under overload,
for a token of the thread limiter, which then has none. The endpoints are coroutines, so they take no token.

The client talks to it over one connection. When a task raises, uvicorn closes the connection that its request
came by, whatever that is carrying by then: the body must not raise.
"""

from __future__ import annotations

import json
import logging
from asyncio import sleep
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from http.client import HTTPConnection, HTTPException

from anyio.to_thread import current_default_thread_limiter
from fastapi import BackgroundTasks
from fastapi import FastAPI as Application

from bench.agent import Adapter, InProcess, Process, Task, context, run

HOST = "127.0.0.1"


@asynccontextmanager
async def lifespan(_: Application) -> AsyncIterator[None]:
    """Let no task run before the harness has said so; it need not say so again to a server that comes back."""
    current_default_thread_limiter().total_tokens = context().slots if STARTED.exists() else 0
    yield


app = Application(lifespan=lifespan)

STARTED = context().home / "started"


def work(task: Task) -> None:
    """The body of every task."""
    try:
        run(task.id, task.work, task.payload)
    except Exception:
        logging.exception("task %d raised", task.id)


@app.post("/tasks", status_code=202)
async def add(task: Task, tasks: BackgroundTasks) -> None:
    """Answer; Starlette runs the task afterwards."""
    tasks.add_task(work, task)


@app.post("/start")
async def start() -> None:
    """Let tasks run, those that wait first."""
    STARTED.touch()
    current_default_thread_limiter().total_tokens = context().slots


@app.post("/stop")
async def stop() -> None:
    """Answer when no task runs any more."""
    STARTED.unlink()
    limiter = current_default_thread_limiter()
    limiter.total_tokens = 0
    while limiter.borrowed_tokens:
        await sleep(0.01)


class FastAPI(Adapter, InProcess):
    """One client and its connection, one web server."""

    def servers(self) -> Sequence[Process]:
        port = str(self.context.ports[0])
        argv = ("-m", "uvicorn", f"{__name__}:app", "--host", HOST, "--port", port)
        keep = ("--timeout-keep-alive", "3600")
        return [Process.python("webserver", *argv, *keep, ready=f"tcp://{HOST}:{port}")]

    def open(self) -> None:
        self.connection = HTTPConnection(HOST, self.context.ports[0])

    def post(self, path: str, body: str = "") -> None:
        try:
            self.connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = self.connection.getresponse()
            text = response.read()
        except (OSError, HTTPException):
            self.connection.close()  # else it would refuse every later request
            raise
        if not 200 <= response.status < 300:
            raise OSError(f"{path}: {response.status} {text.decode()}")

    def submit(self, task: Task) -> None:
        self.post("/tasks", json.dumps(asdict(task)))

    def start(self) -> None:
        self.post("/start")

    def stop(self) -> None:
        self.post("/stop")

    def close(self) -> None:
        self.connection.close()
