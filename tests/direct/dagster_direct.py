# /// script
# requires-python = ">=3.11"
# dependencies = ["dagster~=1.13", "dagster-webserver~=1.13", "dagster-postgres~=0.29"]
# ///
"""Dagster used directly: `dagster_direct.py POSTGRESQL_URL|sqlite SLOTS N [ops]`.

The N tasks are a run each, of which SLOTS may be in progress, or with `ops` all mapped ops of one run. They
are queued before the daemon starts. Then `PACED_N` runs follow at half the rate that the N were drained with;
ops are not paced and give no `p95_ms`, because the harness hands them over in batches only.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from dagster import DynamicOut, DynamicOutput, job, multiprocess_executor, op, repository

from tests import direct

MODULE = "tests.direct.dagster_direct"
HOST = "127.0.0.1"
SLOTS = int(os.environ.get("DIRECT_SLOTS", "1"))  # set for the code server by `main`
PACED_N = 20
START_S = 120

LAUNCH = """
mutation($given: ExecutionParams!) {
  launchRun(executionParams: $given) { __typename ... on Error { message } }
}
"""


@op(config_schema={"submitted_ns": int})
def body(context) -> None:
    direct.stamp(context.op_config["submitted_ns"])


@op(config_schema={"submitted": [int]}, out=DynamicOut(int))
def spread(context) -> Iterator[DynamicOutput[int]]:
    for number, submitted_ns in enumerate(context.op_config["submitted"]):
        yield DynamicOutput(submitted_ns, mapping_key=str(number))


@op
def mapped(submitted_ns: int) -> None:
    direct.stamp(submitted_ns)


@job
def single() -> None:
    body()


@job(executor_def=multiprocess_executor.configured({"max_concurrent": SLOTS}))
def many() -> None:
    spread().map(mapped)


@repository
def jobs() -> list[Any]:
    return [single, many]


class Deployment:
    """Code server, webserver and, once it is started, the daemon."""

    def __init__(self, folder: Path, database: str, runs: int) -> None:
        with socket.create_server((HOST, 0)) as one, socket.create_server((HOST, 0)) as other:
            self.code, self.web = one.getsockname()[1], other.getsockname()[1]
        instance: dict[str, Any] = {
            "concurrency": {"runs": {"max_concurrent_runs": runs}},
            "telemetry": {"enabled": False},
        }
        if database != "sqlite":
            driver = database.replace("postgresql://", "postgresql+psycopg2://", 1)
            instance["storage"] = {"postgres": {"postgres_url": driver}}
        (folder / "dagster.yaml").write_text(json.dumps(instance))
        server = {"host": HOST, "port": self.code, "location_name": "direct"}
        (folder / "workspace.yaml").write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
        self.environ = os.environ | {"DAGSTER_HOME": str(folder)}
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []
        try:
            if self.start("dagster", "instance", "migrate").wait(START_S):
                raise SystemExit(f"no tables were made: see {folder / 'log'}")
            self.running.clear()
            self.start("dagster", "api", "grpc", "-h", HOST, "-p", str(self.code), "-m", MODULE)
            self.reach(self.code)
            self.start("dagster_webserver", "-h", HOST, "-p", str(self.web))
            self.reach(self.web)
        except BaseException:
            self.stop()
            raise

    def start(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        with open(self.folder / "log", "ab") as log:
            command = [sys.executable, "-m", module, *words]
            started = subprocess.Popen(command, env=self.environ, stdout=log, stderr=log, cwd=self.folder)
        self.running.append(started)
        return started

    def reach(self, port: int) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection((HOST, port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.running[-1].poll() is not None:
                    raise SystemExit(f"a server did not start: see {self.folder / 'log'}") from None
                time.sleep(0.1)

    def launch(self, name: str, ops: dict[str, Any]) -> None:
        selector = {"repositoryLocationName": "direct", "repositoryName": "jobs", "jobName": name}
        given = {"selector": selector, "runConfigData": {"ops": ops}}
        request = {"query": LAUNCH, "variables": {"given": given}}
        answer = requests.post(f"http://{HOST}:{self.web}/graphql", json=request)
        answer.raise_for_status()
        if answer.json()["data"]["launchRun"]["__typename"] != "LaunchRunSuccess":
            raise SystemExit(answer.text)

    def stop(self) -> None:
        for process in reversed(self.running):  # the code server last: it is the parent of all runs
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def measure(dagster: Deployment, records: Path, count: int, ops: bool) -> dict[str, float]:
    def submit() -> None:
        dagster.launch("single", {"body": {"config": {"submitted_ns": time.monotonic_ns()}}})

    if ops:
        submitted = [time.monotonic_ns() for _ in range(count)]
        dagster.launch("many", {"spread": {"config": {"submitted": submitted}}})
    else:
        for _ in range(count):
            submit()
    dagster.start("dagster._daemon", "run")
    drained = direct.wait(records, count, dagster.running)
    span_s = (max(ended for *_, ended in drained) - min(started for _, started, _ in drained)) / 1e9
    figures = {"throughput": direct.rate(drained, int(sys.argv[2])) if count < 100 else count / span_s}
    if ops:
        return figures
    gap_s = 2 * span_s / count
    first_s = time.monotonic() + gap_s
    for number in range(PACED_N):
        time.sleep(max(0.0, first_s + number * gap_s - time.monotonic()))
        submit()
    paced = direct.wait(records, count + PACED_N, dagster.running)[count:]
    waits_ms = sorted((started - submitted) / 1e6 for submitted, started, _ in paced)
    return figures | {"p95_ms": waits_ms[-(-PACED_N * 95 // 100) - 1]}


def main(database: str, slots: str, count: int, ops: bool) -> None:
    folder = Path(tempfile.mkdtemp())
    records = folder / "records"
    records.touch()
    os.environ |= {"DIRECT_FILE": str(records), "DIRECT_SLOTS": slots}
    dagster = Deployment(folder, database, 1 if ops else int(slots))
    try:
        found = measure(dagster, records, count, ops)
    finally:
        dagster.stop()
    print(json.dumps(found))
    shutil.rmtree(folder)  # kept when something failed: the log is in it


if __name__ == "__main__":
    main(direct.url(), sys.argv[2], int(sys.argv[3]), "ops" in sys.argv[4:])
