# /// script
# requires-python = ">=3.11"
# dependencies = ["apache-airflow[postgres]~=3.3"]
# ///
"""Airflow used directly: a DAG run with one task per task, LocalExecutor with SLOTS workers.

The database is PostgreSQL, or Airflow's own SQLite file when the URL is `sqlite`. N runs are queued before
the scheduler starts; then `PACED_RUNS` are triggered at half the rate that they were drained with.
"""

import json
import math
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from tests.direct import LIMIT_S, rate, url, wait

PACED_RUNS = 25

DAG = """
from airflow.sdk import dag, task
from tests.direct import stamp

@dag(schedule=None, is_paused_upon_creation=False)
def direct():
    @task
    def body(dag_run=None):
        stamp(dag_run.conf["submitted_ns"])

    body()

direct()
"""


class Deployment:
    """Airflow's parts in a folder, and a session with its API."""

    def __init__(self, folder: Path, database: str, slots: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.base = f"http://127.0.0.1:{free.getsockname()[1]}"
        home = folder / "airflow"
        (home / "dags").mkdir(parents=True)
        (home / "dags" / "direct.py").write_text(DAG)
        password = secrets.token_urlsafe(24)
        passwords = home / "simple_auth_manager_passwords.json.generated"
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps({"admin": password}))
        self.environ = os.environ | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__PARALLELISM": slots,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": self.base.rsplit(":", 1)[1],
            "AIRFLOW__API__BASE_URL": self.base,
        }
        if database != "sqlite":
            driver = database.replace("postgresql://", "postgresql+psycopg2://", 1)
            self.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = driver
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []
        self.start("db", "migrate").wait(LIMIT_S)
        self.start("dags", "reserialize").wait(LIMIT_S)
        self.running = []
        try:
            self.start("api-server")
            self.start("dag-processor")
            self.session = self.log_in(password)
        except BaseException:
            self.stop()
            raise

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        with open(self.folder / "log", "ab") as log:
            command = [sys.executable, "-m", "airflow", *words]
            started = subprocess.Popen(command, env=self.environ, stdout=log, stderr=log, cwd=self.folder)
        self.running.append(started)
        return started

    def log_in(self, password: str) -> requests.Session:
        session = requests.Session()
        credentials = {"username": "admin", "password": password}
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                session.get(f"{self.base}/execution/health").raise_for_status()
                break
            except requests.ConnectionError:
                if time.monotonic() > deadline or self.running[0].poll() is not None:
                    raise SystemExit(f"no API server: see {self.folder / 'log'}") from None
                time.sleep(0.1)
        answer = session.post(f"{self.base}/auth/token", json=credentials)
        answer.raise_for_status()
        session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return session

    def trigger(self) -> None:
        body = {"logical_date": None, "conf": {"submitted_ns": time.monotonic_ns()}}
        self.session.post(f"{self.base}/api/v2/dags/direct/dagRuns", json=body).raise_for_status()

    def stop(self) -> None:
        for process in reversed(
            self.running
        ):  # the scheduler waits for its workers, which need the API server
            process.terminate()
            process.wait(60)


def main(database: str, slots: str, count: int) -> None:
    folder = Path(tempfile.mkdtemp())
    records = folder / "records"
    records.touch()
    os.environ["DIRECT_FILE"] = str(records)
    airflow = Deployment(folder, database, slots)
    try:
        for _ in range(count):
            airflow.trigger()
        airflow.start("scheduler", "--skip-serve-logs")
        drained = wait(records, count, airflow.running)
        span_s = (max(ended for _, _, ended in drained) - min(started for _, started, _ in drained)) / 1e9
        gap_s = 2 * span_s / count
        first_s = time.monotonic() + gap_s
        for number in range(PACED_RUNS):
            time.sleep(max(0.0, first_s + number * gap_s - time.monotonic()))
            airflow.trigger()
        paced = wait(records, count + PACED_RUNS, airflow.running)[count:]
    finally:
        airflow.stop()
    waits_ms = sorted((started - submitted) / 1e6 for submitted, started, _ in paced)
    p95_ms = waits_ms[math.ceil(PACED_RUNS * 0.95) - 1]
    print(json.dumps({"throughput": rate(drained, int(slots)), "p95_ms": p95_ms}))
    shutil.rmtree(folder)  # kept when something failed: the log is in it


if __name__ == "__main__":
    main(url(), sys.argv[2], int(sys.argv[3]))
