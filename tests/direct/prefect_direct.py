# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect~=3.8", "fastapi<0.151"]
# ///
# ruff: noqa: E402 - the library reads its settings when it is imported
"""Prefect used directly: `prefect_direct.py SLOTS N runs|tasks|background [POLL_S]`, server on SQLite.

The N tasks are a flow run each, the task runs of one flow run, or a background task each, queued before the
worker starts, which polls every POLL_S. Then `PACED_N` follow at half the rate that the N were drained with.
Task runs are not paced and give no `p95_ms`: the harness hands them over in batches only.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

from tests import direct

MODULE = "tests.direct.prefect_direct"
HOST = "127.0.0.1"
POOL = "direct"
PACED_N = 25
START_S = 120

if __name__ == "__main__":  # for this process and all that it starts
    with socket.create_server((HOST, 0)) as free:
        os.environ["DIRECT_PORT"] = str(free.getsockname()[1])
    os.environ["DIRECT_SLOTS"] = sys.argv[1]
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{os.environ['DIRECT_PORT']}/api"
    os.environ["PREFECT_HOME"] = tempfile.mkdtemp()
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ["DO_NOT_TRACK"] = "1"
    if len(sys.argv) > 4:
        os.environ["PREFECT_WORKER_QUERY_SECONDS"] = sys.argv[4]

from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import EntrypointType
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner


@flow
def single(submitted_ns: int) -> None:
    direct.stamp(submitted_ns)


@task
def body(submitted_ns: int) -> None:
    direct.stamp(submitted_ns)


@flow(task_runner=ThreadPoolTaskRunner(max_workers=int(os.environ["DIRECT_SLOTS"])))
def many(submitted: list[int]) -> None:
    wait([body.submit(ns) for ns in submitted])


class Cell:
    """A server, and what is started beside it."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.running: list[subprocess.Popen[bytes]] = []
        self.start("server", "start", "--host", HOST, "--port", os.environ["DIRECT_PORT"])

    def start(self, *words: str) -> None:
        with open(self.log, "ab") as log:
            command = [sys.executable, "-m", "prefect", *words]
            self.running.append(subprocess.Popen(command, stdout=log, stderr=log))

    def wait(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.running[0].poll() is None:
            connection = HTTPConnection(HOST, int(os.environ["DIRECT_PORT"]), timeout=5)
            try:
                connection.request("GET", "/api/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.1)
            finally:
                connection.close()
        raise SystemExit(f"the server did not start: see {self.log}")

    def stop(self) -> None:
        for process in reversed(self.running):  # the server last
            process.terminate()
            process.wait(60)


def deploy(client: SyncPrefectClient, grain: str) -> Callable[..., object]:
    """What creates a flow run with the parameters that it is given."""
    client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    deployed = many if grain == "tasks" else single
    made = deployed.to_deployment("direct", work_pool_name=POOL, entrypoint_type=EntrypointType.MODULE_PATH)
    deployment = made.apply()
    return lambda **given: client.create_flow_run_from_deployment(deployment, parameters=given)


def measure(cell: Cell, records: Path, count: int, grain: str, client: SyncPrefectClient) -> dict[str, float]:
    slots = os.environ["DIRECT_SLOTS"]
    if grain == "background":
        create: Callable[..., object] = body.delay
        worker = ["task", "serve", "--module", MODULE, "--limit", slots]
    else:
        create = deploy(client, grain)
        limit = "1" if grain == "tasks" else slots
        worker = ["worker", "start", "--pool", POOL, "--type", "process", "--limit", limit]
    if grain == "tasks":
        create(submitted=[time.monotonic_ns() for _ in range(count)])
    else:
        for _ in range(count):
            create(submitted_ns=time.monotonic_ns())
    cell.start(*worker)
    drained = direct.wait(records, count, cell.running)
    span_s = (max(ended for *_, ended in drained) - min(started for _, started, _ in drained)) / 1e9
    figures = {"throughput": direct.rate(drained, int(sys.argv[1])) if count < 100 else count / span_s}
    if grain == "tasks":
        return figures
    gap_ns = round(2e9 * span_s / count)
    first_ns = time.monotonic_ns() + gap_ns
    for due_ns in range(first_ns, first_ns + PACED_N * gap_ns, gap_ns):
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        create(submitted_ns=time.monotonic_ns())
    paced = direct.wait(records, count + PACED_N, cell.running)[count:]
    waits_ms = sorted((started - submitted) / 1e6 for submitted, started, _ in paced)
    return figures | {"p95_ms": waits_ms[-(-PACED_N * 95 // 100) - 1]}


def main(count: int, grain: str) -> None:
    folder = Path(tempfile.mkdtemp())
    records = folder / "records"
    records.touch()
    os.environ["DIRECT_FILE"] = str(records)
    cell = Cell(folder)
    try:
        cell.wait()
        with get_client(sync_client=True) as client:
            found = measure(cell, records, count, grain, client)
    finally:
        cell.stop()
    print(json.dumps(found))
    for made in (folder, os.environ["PREFECT_HOME"]):  # kept when something failed: the log is there
        shutil.rmtree(made)


if __name__ == "__main__":
    from tests.direct import prefect_direct  # flows and tasks are found by the name of their module

    prefect_direct.main(int(sys.argv[2]), sys.argv[3])
