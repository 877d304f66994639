# /// script
# requires-python = ">=3.11"
# dependencies = ["dagster~=1.13", "dagster-webserver~=1.13", "dagster-postgres~=0.29"]
#
# [tool.schedbench]
# title = "Dagster"
# family = "orchestrator"
# homepage = "https://docs.dagster.io"
# capabilities = ["enqueue", "periodic", "cron", "retry"]
# default = ["postgresql", "postgresql-ops"]
#
# [tool.schedbench.parity]
# slots = ["runs in progress at once", "https://docs.dagster.io/guides/operate/managing-concurrency/run-queue-limits"]
# runs_in = ["a process for the run, another for its op", "https://docs.dagster.io/guides/operate/run-executors"]
# acknowledgement = ["when it leaves the queue; not run again if it dies", "https://docs.dagster.io/deployment/execution/run-monitoring"]
# persistence = ["runs and their events: PostgreSQL", "https://docs.dagster.io/deployment/oss/oss-instance-configuration#dagster-storage"]
# results = ["events and logs of every run, until deleted", "https://docs.dagster.io/deployment/oss/oss-instance-configuration#compute-log-storage"]
# prefetch = ["none: no more runs than may be in progress", "https://docs.dagster.io/deployment/execution/customizing-run-queue-priority"]
# polling = ["the queue every 5 s; runs launched one by one", "https://github.com/dagster-io/dagster/blob/master/python_modules/dagster/dagster/_core/run_coordinator/queued_run_coordinator.py"]
#
# [tool.schedbench.changed]
# max_concurrent_runs = ["slots, not 10", "a slot means the same for every system", "https://docs.dagster.io/guides/operate/managing-concurrency/run-queue-limits"]
# RetryRequested = ["raised by the op, where a task is to be retried", "as often as for every system", "https://docs.dagster.io/guides/build/ops/op-retries"]
# grpc_server = ["one code server for webserver and daemon", "as it is deployed; else each starts its own", "https://docs.dagster.io/deployment/code-locations/workspace-yaml#running-your-own-grpc-server"]
# "--port" = ["free ports of 127.0.0.1, not 3000", "cells do not meet", "https://docs.dagster.io/guides/operate/webserver"]
# "telemetry.enabled" = ["false", "nothing leaves the machine", "https://docs.dagster.io/about/telemetry"]
#
# [tool.schedbench.promises]
# task-process = ["failed", "the run's process sees its child end: the step fails, and so does the run", 0, "https://docs.dagster.io/guides/operate/run-executors"]
# worker = ["lost", "code server: what it runs ends with its service; what is dequeued meanwhile fails (max_user_code_failure_retries 0)", 0, "https://github.com/dagster-io/dagster/blob/master/python_modules/dagster/dagster/_core/run_coordinator/queued_run_coordinator.py"]
# server = ["lost", "daemon: the queue is in the database and goes on; one caught in its launch stays STARTING", 15, "https://docs.dagster.io/deployment/execution/run-monitoring"]
# worker-pause = ["kept", "not run twice: nothing takes a run back", 0, "https://docs.dagster.io/deployment/execution/run-monitoring"]
# poison = ["failed", "failed after the first attempt", 0, "https://docs.dagster.io/deployment/execution/run-retries"]
# raise = ["failed", "step and run fail; not retried", 0, "https://docs.dagster.io/deployment/execution/run-retries"]
# unserialisable = ["refused", "the client raises: run config is JSON in the GraphQL request", 0, "https://docs.dagster.io/api/graphql/dagster-graphql"]
#
# [tool.schedbench.variants.postgresql]
# summary = "a run with one op per task, over GraphQL; multiprocess executor; PostgreSQL"
# services = ["postgresql"]
# guarantee = "at-most-once"
# source = "https://docs.dagster.io/deployment/execution/run-monitoring"
# heavy = true
# max_slots = 4  # runs are launched one by one: more never overlap, unless they are long
# canary_ms = 5000
# start_s = 180
# settle_s = 60
# every_s = 60  # a cron string has minutes
#
# [tool.schedbench.variants.postgresql.changed]
# "storage.postgres" = ["PostgreSQL, not SQLite", "what the vendor's guides deploy", "https://docs.dagster.io/deployment/oss/oss-instance-configuration#dagster-storage"]
# postgres_url = ["postgresql+psycopg2://", "what it installs; not SQLAlchemy 2.1's default", "https://github.com/dagster-io/dagster/issues/33958"]
#
# [tool.schedbench.variants.postgresql-ops]
# summary = "all tasks as mapped ops of one run; multiprocess executor; PostgreSQL"
# services = ["postgresql"]
# guarantee = "at-most-once"
# source = "https://docs.dagster.io/deployment/execution/run-monitoring"
# batch = true
# heavy = true
# canary_ms = 2000
# start_s = 180
# settle_s = 60
# every_s = 60  # a cron string has minutes
#
# [tool.schedbench.variants.postgresql-ops.parity]
# slots = ["ops at once in a run, one run at a time", "https://docs.dagster.io/guides/operate/managing-concurrency/run-executor-limits"]
# runs_in = ["a process for each op, below the run's own", "https://docs.dagster.io/guides/operate/run-executors"]
# results = ["events, logs; what is mapped over: pickled files", "https://docs.dagster.io/guides/build/io-managers"]
# prefetch = ["all: they wait inside the run", "https://docs.dagster.io/guides/build/ops/dynamic-graphs"]
#
# [tool.schedbench.variants.postgresql-ops.changed]
# "storage.postgres" = ["PostgreSQL, not SQLite", "what the vendor's guides deploy", "https://docs.dagster.io/deployment/oss/oss-instance-configuration#dagster-storage"]
# postgres_url = ["postgresql+psycopg2://", "what it installs; not SQLAlchemy 2.1's default", "https://github.com/dagster-io/dagster/issues/33958"]
# max_concurrent_runs = ["1, not 10", "a slot is an op of a run here", "https://docs.dagster.io/guides/operate/managing-concurrency/run-queue-limits"]
# max_concurrent = ["slots, not the number of cores", "a slot means the same for every system", "https://docs.dagster.io/guides/operate/managing-concurrency/run-executor-limits"]
#
# [tool.schedbench.variants.postgresql-ops.promises]
# task-process = ["failed", "the run's process sees its child end: the step fails, the others go on, the run fails", 0, "https://docs.dagster.io/guides/operate/run-executors"]
#
# [tool.schedbench.variants.postgresql-in-process]
# summary = "as postgresql, and the op runs in the process of its run"
# services = ["postgresql"]
# guarantee = "at-most-once"
# source = "https://docs.dagster.io/deployment/execution/run-monitoring"
# heavy = true
# max_slots = 4  # runs are launched one by one: more never overlap, unless they are long
# canary_ms = 5000
# start_s = 180
# settle_s = 60
# every_s = 60  # a cron string has minutes
# settings = { in_process = true }
#
# [tool.schedbench.variants.postgresql-in-process.parity]
# runs_in = ["a process for the run", "https://docs.dagster.io/guides/operate/run-executors"]
#
# [tool.schedbench.variants.postgresql-in-process.changed]
# "storage.postgres" = ["PostgreSQL, not SQLite", "what the vendor's guides deploy", "https://docs.dagster.io/deployment/oss/oss-instance-configuration#dagster-storage"]
# postgres_url = ["postgresql+psycopg2://", "what it installs; not SQLAlchemy 2.1's default", "https://github.com/dagster-io/dagster/issues/33958"]
# executor_def = ["in_process_executor, not multiprocess", "what a process for each op costs", "https://docs.dagster.io/guides/operate/run-executors"]
#
# [tool.schedbench.variants.postgresql-in-process.promises]
# task-process = ["failed", "the code server sees the process of the run end and fails the run", 0, "https://github.com/dagster-io/dagster/blob/master/python_modules/dagster/dagster/_grpc/server.py"]
#
# [tool.schedbench.variants.postgresql-poll-1s]
# summary = "as postgresql, and the daemon looks at the queue every second"
# services = ["postgresql"]
# guarantee = "at-most-once"
# source = "https://docs.dagster.io/deployment/execution/run-monitoring"
# heavy = true
# max_slots = 4  # runs are launched one by one: more never overlap, unless they are long
# canary_ms = 5000
# start_s = 180
# settle_s = 60
# every_s = 60  # a cron string has minutes
# settings = { run_queue = { dequeue_interval_seconds = 1 } }
#
# [tool.schedbench.variants.postgresql-poll-1s.parity]
# polling = ["the queue every second; runs launched one by one", "https://github.com/dagster-io/dagster/blob/master/python_modules/dagster/dagster/_core/run_coordinator/queued_run_coordinator.py"]
#
# [tool.schedbench.variants.postgresql-poll-1s.changed]
# "storage.postgres" = ["PostgreSQL, not SQLite", "what the vendor's guides deploy", "https://docs.dagster.io/deployment/oss/oss-instance-configuration#dagster-storage"]
# postgres_url = ["postgresql+psycopg2://", "what it installs; not SQLAlchemy 2.1's default", "https://github.com/dagster-io/dagster/issues/33958"]
# dequeue_interval_seconds = ["1, not 5", "what waiting for the daemon costs", "https://github.com/dagster-io/dagster/blob/master/python_modules/dagster/dagster/_core/run_coordinator/queued_run_coordinator.py"]
#
# [tool.schedbench.variants.sqlite]
# summary = "a run with one op per task, over GraphQL; multiprocess executor; SQLite"
# guarantee = "at-most-once"
# source = "https://docs.dagster.io/deployment/execution/run-monitoring"
# heavy = true
# max_slots = 4  # runs are launched one by one: more never overlap, unless they are long
# canary_ms = 5000
# start_s = 180
# settle_s = 60
# every_s = 60  # a cron string has minutes
#
# [tool.schedbench.variants.sqlite.parity]
# persistence = ["SQLite: a file for runs, one for each run's events", "https://docs.dagster.io/deployment/oss/oss-instance-configuration#default-local-behavior"]
#
# [tool.schedbench.variants.sqlite-ops]
# summary = "all tasks as mapped ops of one run; multiprocess executor; SQLite"
# guarantee = "at-most-once"
# source = "https://docs.dagster.io/deployment/execution/run-monitoring"
# batch = true
# heavy = true
# canary_ms = 2000
# start_s = 180
# settle_s = 60
# every_s = 60  # a cron string has minutes
#
# [tool.schedbench.variants.sqlite-ops.parity]
# slots = ["ops at once in a run, one run at a time", "https://docs.dagster.io/guides/operate/managing-concurrency/run-executor-limits"]
# runs_in = ["a process for each op, below the run's own", "https://docs.dagster.io/guides/operate/run-executors"]
# persistence = ["SQLite: a file for runs, one for each run's events", "https://docs.dagster.io/deployment/oss/oss-instance-configuration#default-local-behavior"]
# results = ["events, logs; what is mapped over: pickled files", "https://docs.dagster.io/guides/build/io-managers"]
# prefetch = ["all: they wait inside the run", "https://docs.dagster.io/guides/build/ops/dynamic-graphs"]
#
# [tool.schedbench.variants.sqlite-ops.changed]
# max_concurrent_runs = ["1, not 10", "a slot is an op of a run here", "https://docs.dagster.io/guides/operate/managing-concurrency/run-queue-limits"]
# max_concurrent = ["slots, not the number of cores", "a slot means the same for every system", "https://docs.dagster.io/guides/operate/managing-concurrency/run-executor-limits"]
#
# [tool.schedbench.variants.sqlite-ops.promises]
# task-process = ["failed", "the run's process sees its child end: the step fails, the others go on, the run fails", 0, "https://docs.dagster.io/guides/operate/run-executors"]
# ///
"""Dagster as its parts: webserver, code server and daemon (https://docs.dagster.io/deployment/oss/oss-deployment-architecture).

A task is sent through the vendor's GraphQL client as the configuration of a run, or as one of a list over
which a run maps an op (https://docs.dagster.io/guides/build/ops/dynamic-graphs). Nothing is retried by default.
The op of a task that is to be retried asks for it: https://docs.dagster.io/guides/build/ops/op-retries

A run waits in the database until the daemon takes it from the queue and asks the code server to start it.
So the processes of runs and ops are children of the code server and count to its role. Without the daemon
nothing is started. The daemon waits for each launch until the process has loaded Dagster, for a second and
more: so late after each other do runs begin that are due at once, and the canaries must sleep for longer.

A schedule is part of the code that the code server has loaded, and is switched on through GraphQL
(https://docs.dagster.io/guides/automate/schedules). What it is to run it reads from a file when it is due.

The tables are made by whoever opens the storage first. Here `dagster instance migrate` does so, before the
servers would all at once; it finds nothing else to do.
"""

# No `from __future__ import annotations`: Dagster wants classes where ops say of what their configuration is.

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.request import Request, urlopen

from dagster import (
    Config,
    Definitions,
    DynamicOut,
    DynamicOutput,
    RetryRequested,
    RunRequest,
    in_process_executor,
    job,
    multiprocess_executor,
    op,
    schedule,
)

from bench.agent import Adapter, Batch, Context, Periodic, Process, Schedule, Task, context, run

HOST = "127.0.0.1"
LOCATION, REPOSITORY = "schedbench", "__repository__"
DATABASE = "DAGSTER_POSTGRES_URL"


class TaskConfig(Config):
    """A task in the configuration of a run."""

    id: int
    work: str
    payload: str
    retries: int = 0


class TasksConfig(Config):
    """All tasks of one run."""

    tasks: list[TaskConfig]


def attempt(task: int, kind: str, payload: str, retries: int = 0) -> None:
    """Run a task, and ask for another attempt where it is to have one."""
    try:
        run(task, kind, payload)
    except Exception as error:
        if retries:
            raise RetryRequested(max_retries=retries) from error
        raise


@op
def body(config: TaskConfig) -> None:
    """The body of a run's only task."""
    attempt(config.id, config.work, config.payload, config.retries)


@op(out=DynamicOut())
def listed(config: TasksConfig) -> Iterator[DynamicOutput[Any]]:
    """What `mapped` is run for."""
    for task in config.tasks:
        retries = (task.retries,) if task.retries else ()
        yield DynamicOutput((task.id, task.work, task.payload, *retries), mapping_key=str(task.id))


@op
def mapped(task: Any) -> None:
    """The body of one of a run's tasks."""
    attempt(*task)


@job(executor_def=in_process_executor if context().settings.get("in_process") else None)
def one() -> None:
    """A run for each task."""
    body()


@job(executor_def=multiprocess_executor.configured({"max_concurrent": context().slots}))
def many() -> None:
    """A run for many tasks."""
    listed().map(mapped)


TICK = context().home / "tick.json"


@schedule(cron_schedule="* * * * *", job=one)
def every_minute() -> Any:
    """A run for what was registered."""
    return RunRequest(run_config=json.loads(TICK.read_text()))


SWITCH_ON = """
mutation ($schedule: ScheduleSelector!) {
  startSchedule(scheduleSelector: $schedule) { __typename }
}
"""

definitions = Definitions(jobs=[one, many], schedules=[every_minute])


class Dagster(Adapter, Batch, Periodic):
    """A client of the webserver; all parts read the same two files."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.code_port, self.web_port = context.ports[:2]
        instance: dict[str, Any] = {
            "concurrency": {"runs": {"max_concurrent_runs": 1 if context.batch else context.slots}},
            "telemetry": {"enabled": False},
        }
        home = context.home / "dagster_home"
        self.env = {"DAGSTER_HOME": str(home)}
        if "run_queue" in context.settings:
            instance["run_queue"] = context.settings["run_queue"]
        if "postgresql" in context.services:
            instance["storage"] = {"postgres": {"postgres_url": {"env": DATABASE}}}
            _, address = context.url("postgresql").split("://")
            self.env[DATABASE] = f"postgresql+psycopg2://{address}"
        home.mkdir()
        (home / "dagster.yaml").write_text(json.dumps(instance))
        code_server = {"host": HOST, "port": self.code_port, "location_name": LOCATION}
        self.workspace = context.home / "workspace.yaml"
        self.workspace.write_text(json.dumps({"load_from": [{"grpc_server": code_server}]}))

    def migrations(self) -> Sequence[Process]:
        return [self._process("webserver", "dagster", "instance", "migrate")]

    def servers(self) -> Sequence[Process]:
        code, web = ("-h", HOST, "-p", str(self.code_port)), ("-h", HOST, "-p", str(self.web_port))
        loaded, up = f"tcp://{HOST}:{self.code_port}", f"http://{HOST}:{self.web_port}/server_info"
        return [
            self._process("code-server", "dagster", "api", "grpc", *code, "-m", __name__, ready=loaded),
            self._process("webserver", "dagster_webserver", *web, "-w", str(self.workspace), ready=up),
        ]

    def processes(self) -> Sequence[Process]:
        return [self._process("daemon", "dagster._daemon", "run", "-w", str(self.workspace))]

    def open(self) -> None:
        from dagster_graphql import DagsterGraphQLClient  # only here: every run and op loads this module

        self.client = DagsterGraphQLClient(HOST, port_number=self.web_port)
        # The webserver may have looked for the code server before that was up.
        answer = self.client.reload_repository_location(LOCATION)
        if answer.failure_type:
            raise RuntimeError(f"{answer.failure_type}: {answer.message}")

    def submit(self, task: Task) -> None:
        self._launch("one", {"body": {"config": _config(task)}})

    def submit_batch(self, tasks: Sequence[Task]) -> None:
        self._launch("many", {"listed": {"config": {"tasks": [_config(task) for task in tasks]}}})

    def register(self, schedule: Schedule) -> None:
        if schedule.every_s != 60:
            raise NotImplementedError("the schedule in its code runs every minute")
        TICK.write_text(json.dumps({"ops": {"body": {"config": _config(Task(schedule.id, schedule.work))}}}))
        which = {
            "repositoryLocationName": LOCATION,
            "repositoryName": REPOSITORY,
            "scheduleName": "every_minute",
        }
        asked = json.dumps({"query": SWITCH_ON, "variables": {"schedule": which}}).encode()
        page = Request(f"http://{HOST}:{self.web_port}/graphql", asked, {"Content-Type": "application/json"})
        with urlopen(page) as answer:
            said = json.load(answer)
        if said["data"]["startSchedule"]["__typename"] != "ScheduleStateResult":
            raise RuntimeError(f"the schedule was not switched on: {said}")

    def _launch(self, job_name: str, ops: Mapping[str, Any]) -> None:
        self.client.submit_job_execution(
            job_name,
            repository_location_name=LOCATION,
            repository_name=REPOSITORY,  # else it is asked for, each time
            run_config={"ops": ops},
        )

    def _process(self, role: str, module: str, *words: str, ready: str = "") -> Process:
        return Process.python(role, "-m", module, *words, env=self.env, ready=ready)


def _config(task: Task) -> dict[str, Any]:
    retries = {"retries": task.retries} if task.retries else {}
    return {"id": task.id, "work": task.work, "payload": task.payload, **retries}
