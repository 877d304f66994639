# /// script
# requires-python = ">=3.11"
# dependencies = ["apache-airflow[postgres]~=3.3", "urllib3~=2.8"]
#
# [tool.schedbench]
# title = "Airflow"
# family = "orchestrator"
# homepage = "https://airflow.apache.org"
# capabilities = ["enqueue", "periodic", "cron"]
# default = ["postgresql", "postgresql-mapped"]
#
# [tool.schedbench.parity]
# slots = ["worker processes of the LocalExecutor", "https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/executor/local.html"]
# runs_in = ["a process forked by a worker for each task", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#execute-tasks-new-python-interpreter"]
# acknowledgement = ["when its process starts; not run again if that dies", "https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/tasks.html#task-instance-heartbeat-timeout"]
# persistence = ["runs, tasks and their states: PostgreSQL", "https://airflow.apache.org/docs/apache-airflow/stable/howto/set-up-database.html"]
# results = ["state and log of every task, kept until purged", "https://airflow.apache.org/docs/apache-airflow/stable/howto/usage-cli.html#purge-history-from-metadata-database"]
# prefetch = ["16 active runs: `parallelism` does not bound it", "https://github.com/apache/airflow/pull/71914"]
# polling = ["a loop over the database; 1 s of sleep when idle", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#scheduler-idle-sleep-time"]
#
# [tool.schedbench.changed]
# AIRFLOW__CORE__PARALLELISM = ["slots, not 32", "a slot means the same for every system", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#parallelism"]
# max_active_runs = ["slots where that is more than 16", "else no more slots than that could be busy", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#max-active-runs-per-dag"]
# max_active_tasks = ["slots where that is more than 16", "else no more slots than that could be busy", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#max-active-tasks-per-dag"]
# is_paused_upon_creation = ["False", "a DAG that is paused runs nothing", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#dags-are-paused-at-creation"]
# AIRFLOW__CORE__LOAD_EXAMPLES = ["False", "as the vendor advises for production", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#load-examples"]
# AIRFLOW__CORE__HOSTNAME_CALLABLE = ["socket.gethostname", "the default may ask a name server", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#hostname-callable"]
# AIRFLOW__API__HOST = ["127.0.0.1, not 0.0.0.0", "nothing listens beyond this machine", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#host"]
# AIRFLOW__API__PORT = ["a free port, not 8080", "cells do not meet", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#port"]
# AIRFLOW__API__BASE_URL = ["that address", "where tasks find the API server", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#base-url"]
# --skip-serve-logs = ["given", "the log server listens on all interfaces; none asks it", "https://airflow.apache.org/docs/apache-airflow/stable/cli-and-env-variables-ref.html#scheduler"]
#
# [tool.schedbench.promises]
# task-process = ["failed", "its supervisor sees the exit code and reports it; no retries, so not run again", 0, "https://github.com/apache/airflow/blob/main/task-sdk/src/airflow/sdk/execution_time/supervisor.py"]
# worker = ["redelivered", "scheduler: what was queued or running is reset and run again", 60, "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#orphaned-tasks-check-interval"]
# server = ["redelivered", "API server: running tasks repeat their requests; killed after 3 failed heartbeats", 60, "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#max-failed-heartbeats"]
# worker-pause = ["kept", "not run twice: 10 s is below 30 s (scheduler) and 300 s (task)", 0, "https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/tasks.html#task-instance-heartbeat-timeout"]
# poison = ["failed", "failed after the first attempt", 0, "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#default-task-retries"]
# raise = ["failed", "not retried", 0, "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#default-task-retries"]
# unserialisable = ["refused", "the client raises: the conf of a run is JSON in the request", 0, "https://airflow.apache.org/docs/apache-airflow/stable/stable-rest-api-ref.html"]
#
# [tool.schedbench.scaled]
# AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL = ["5", "5 s, not 300 s", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html"]
# AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD = ["20", "20 s, not 30 s", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html"]
# AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC = ["1", "1 s, not 5 s", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html"]
#
# [tool.schedbench.variants.postgresql]
# summary = "a DAG run with one task per task, over the REST API; LocalExecutor; PostgreSQL"
# services = ["postgresql"]
# guarantee = "at-most-once"
# source = "https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/tasks.html#task-instance-heartbeat-timeout"
# heavy = true
# max_slots = 128  # slots of the default pool
# canary_ms = 1000
# start_s = 180
# settle_s = 60
# shortest_s = 10
#
# [tool.schedbench.variants.postgresql.changed]
# AIRFLOW__DATABASE__SQL_ALCHEMY_CONN = ["PostgreSQL, not SQLite", "what the vendor advises for production", "https://airflow.apache.org/docs/apache-airflow/stable/howto/set-up-database.html#setting-up-a-postgresql-database"]
#
# [tool.schedbench.variants.postgresql-heartbeat-1s]
# summary = "as postgresql, and a worker looks every second whether the process of its task has ended"
# services = ["postgresql"]
# guarantee = "at-most-once"
# source = "https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/tasks.html#task-instance-heartbeat-timeout"
# heavy = true
# max_slots = 128
# canary_ms = 1000
# start_s = 180
# settle_s = 60
# shortest_s = 10
# settings = { AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL = "1" }
#
# [tool.schedbench.variants.postgresql-heartbeat-1s.changed]
# AIRFLOW__DATABASE__SQL_ALCHEMY_CONN = ["PostgreSQL, not SQLite", "what the vendor advises for production", "https://airflow.apache.org/docs/apache-airflow/stable/howto/set-up-database.html#setting-up-a-postgresql-database"]
# AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL = ["1 s, not 5 s", "what the wait for an ended process costs", "https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#min-heartbeat-interval"]
#
# [tool.schedbench.variants.postgresql-mapped]
# summary = "all tasks as mapped tasks of one DAG run; LocalExecutor; PostgreSQL"
# services = ["postgresql"]
# guarantee = "at-most-once"
# source = "https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/tasks.html#task-instance-heartbeat-timeout"
# batch = true
# queue_limit = 1024  # [core] max_map_length by default
# heavy = true
# max_slots = 128
# canary_ms = 1000
# start_s = 180
# settle_s = 60
# shortest_s = 10
#
# [tool.schedbench.variants.postgresql-mapped.changed]
# AIRFLOW__DATABASE__SQL_ALCHEMY_CONN = ["PostgreSQL, not SQLite", "what the vendor advises for production", "https://airflow.apache.org/docs/apache-airflow/stable/howto/set-up-database.html#setting-up-a-postgresql-database"]
#
# [tool.schedbench.variants.postgresql-mapped.parity]
# results = ["state and log of every task; their list as an XCom", "https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/xcoms.html"]
# prefetch = ["16 tasks of a run: `parallelism` does not bound it", "https://github.com/apache/airflow/pull/71914"]
#
# [tool.schedbench.variants.sqlite]
# summary = "a DAG run with one task per task, over the REST API; LocalExecutor; SQLite"
# guarantee = "at-most-once"
# source = "https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/tasks.html#task-instance-heartbeat-timeout"
# heavy = true
# max_slots = 128
# canary_ms = 1000
# start_s = 180
# settle_s = 60
# shortest_s = 10
#
# [tool.schedbench.variants.sqlite.parity]
# persistence = ["runs, tasks and their states: a SQLite file", "https://airflow.apache.org/docs/apache-airflow/stable/howto/set-up-database.html#choosing-database-backend"]
#
# [tool.schedbench.variants.sqlite-mapped]
# summary = "all tasks as mapped tasks of one DAG run; LocalExecutor; SQLite"
# guarantee = "at-most-once"
# source = "https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/tasks.html#task-instance-heartbeat-timeout"
# batch = true
# queue_limit = 1024
# heavy = true
# max_slots = 128
# canary_ms = 1000
# start_s = 180
# settle_s = 60
# shortest_s = 10
#
# [tool.schedbench.variants.sqlite-mapped.parity]
# persistence = ["runs, tasks and their states: a SQLite file", "https://airflow.apache.org/docs/apache-airflow/stable/howto/set-up-database.html#choosing-database-backend"]
# results = ["state and log of every task; their list as an XCom", "https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/xcoms.html"]
# prefetch = ["16 tasks of a run: `parallelism` does not bound it", "https://github.com/apache/airflow/pull/71914"]
# ///
"""Airflow 3 as its parts: API server, DAG processor, and a scheduler whose children are the workers.

A task is sent as the `conf` of a DAG run
(https://airflow.apache.org/docs/apache-airflow/stable/stable-rest-api-ref.html), or as one of the list that
the mapped tasks of a run are made from
(https://airflow.apache.org/docs/apache-airflow/stable/authoring-and-scheduling/dynamic-task-mapping.html). It
is tried once, as by default: how often a task is retried is said in its DAG, not by a run. Nothing defers, so
there is no triggerer. Airflow no longer collects usage data (https://github.com/apache/airflow/pull/45865):
there is nothing to opt out of.

All parts share `~/airflow`, where the first command writes a configuration with random secrets that only this
user may read; `~` is the cell's own.

A worker waits for the sockets of a task's process, for up to `[workers] min_heartbeat_interval` (5 s) at a
time. Where it sees the last of them close a moment before the kernel lets it reap the process, it waits for
all of that time for nothing, and takes no other task: on two cores after a third to two thirds of all tasks.
Drains and latencies show it, as they would in any deployment with the default; `postgresql-heartbeat-1s` has
the same with 1 s.

A schedule is a DAG of its own with a `timedelta` or a cron expression
(https://airflow.apache.org/docs/apache-airflow/stable/authoring-and-scheduling/cron.html), in a file that
`airflow dags reserialize` reads at once: the DAG processor looks for new files every 300 s
(`[dag_processor] refresh_interval`). There is no catching up by default:
https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/dag-run.html#catchup

On SIGTERM the scheduler waits until its workers have run all that was handed to them.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import urllib3

from bench.agent import Adapter, Batch, Context, Periodic, Process, Schedule, Task

HOST = "127.0.0.1"
USER = "admin"  # the one user of the simple auth manager's default

SET_UP = """
import sys
from airflow.__main__ import main
for words in (["db", "migrate"], ["dags", "reserialize"]):
    sys.argv[1:] = words
    main()
"""
"""`airflow db migrate`, and `airflow dags reserialize` so that the DAG is there before the DAG processor is.
Both in one process, because each would take some 3 s to load Airflow."""

DAG = """
from airflow.sdk import dag, task
from bench.agent import run

@dag(
    schedule=None,
    is_paused_upon_creation=False,
    max_active_runs={most_active},
    max_active_tasks={most_active},
)
def schedbench():
{tasks}

schedbench()
"""

TICKS = """
from datetime import datetime, timedelta
from airflow.sdk import dag, task
from bench.agent import run

@dag(
    schedule={when},
    start_date=datetime.fromisoformat("{first}"),
    is_paused_upon_creation=False,
)
def ticks():
    @task
    def body():
        run({id}, "{work}")

    body()

ticks()
"""

RUN_PER_TASK = """
    @task
    def body(dag_run=None):
        run(dag_run.conf["id"], dag_run.conf["work"], dag_run.conf["payload"])

    body()
"""

MAPPED = """
    @task
    def all_tasks(dag_run=None):
        return dag_run.conf["tasks"]

    @task
    def body(id, work, payload):
        run(id, work, payload)

    body.expand_kwargs(all_tasks())
"""

MOST_ACTIVE = 16
"""`max_active_runs_per_dag` and `max_active_tasks_per_dag` by default."""


class Airflow(Adapter, Batch, Periodic):
    """One client of the public API, one DAG."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.port = context.ports[0]
        self.env = {
            "AIRFLOW__CORE__PARALLELISM": str(context.slots),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
            "AIRFLOW__API__HOST": HOST,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": f"http://{HOST}:{self.port}",
            **context.settings,
        }
        if "postgresql" in context.services:
            _, address = context.url("postgresql").split("://")
            self.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"postgresql+psycopg2://{address}"
        folder = context.home / "airflow"
        (folder / "dags").mkdir(parents=True)
        tasks = MAPPED if context.batch else RUN_PER_TASK
        text = DAG.format(tasks=tasks, most_active=max(MOST_ACTIVE, context.slots))
        (folder / "dags" / "schedbench.py").write_text(text)
        # Chosen here, because the server would print the one that it makes into its log.
        self.password = secrets.token_urlsafe(24)
        passwords = folder / "simple_auth_manager_passwords.json.generated"
        with open(os.open(passwords, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({USER: self.password}, file)

    def migrations(self) -> Sequence[Process]:
        return [Process.python("webserver", "-c", SET_UP, env=self.env)]

    def servers(self) -> Sequence[Process]:
        # The routes that workers use are made at the first request: else the first task would wait for them.
        ready = f"http://{HOST}:{self.port}/execution/health"
        return [
            Process.python("webserver", "-m", "airflow", "api-server", env=self.env, ready=ready),
            Process.python("dag-processor", "-m", "airflow", "dag-processor", env=self.env),
        ]

    def processes(self) -> Sequence[Process]:
        return [Process.python("scheduler", "-m", "airflow", "scheduler", "--skip-serve-logs", env=self.env)]

    def open(self) -> None:
        self.api = urllib3.HTTPConnectionPool(HOST, self.port, retries=False)
        found = self._post("/auth/token", {"username": USER, "password": self.password})
        self.api.headers = {"Authorization": f"Bearer {found['access_token']}"}

    def submit(self, task: Task) -> None:
        self._trigger(task.id, _arguments(task))

    def submit_batch(self, tasks: Sequence[Task]) -> None:
        self._trigger(tasks[0].id, {"tasks": [_arguments(task) for task in tasks]})

    def register(self, schedule: Schedule) -> None:
        # What the library wants to be told: the first run, or for a cron expression where to begin to count.
        first = datetime.now(UTC) + timedelta(seconds=0 if schedule.cron else schedule.every_s)
        when = repr(schedule.cron) if schedule.cron else f"timedelta(seconds={schedule.every_s})"
        text = TICKS.format(when=when, first=first, id=schedule.id, work=schedule.work)
        (self.context.home / "airflow" / "dags" / "ticks.py").write_text(text)
        command = [sys.executable, "-m", "airflow", "dags", "reserialize"]
        subprocess.run(command, env={**os.environ, **self.env}, check=True)

    def close(self) -> None:
        self.api.close()

    def _trigger(self, run: int, conf: Mapping[str, Any]) -> None:
        body = {"dag_run_id": str(run), "logical_date": None, "conf": conf}
        self._post("/api/v2/dags/schedbench/dagRuns", body)

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = self.api.request("POST", path, json=body)
        if answer.status not in (200, 201):
            raise RuntimeError(f"{path} answered {answer.status}: {answer.data.decode()}")
        return dict(answer.json())


def _arguments(task: Task) -> dict[str, Any]:
    return {"id": task.id, "work": task.work, "payload": task.payload}
