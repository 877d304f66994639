# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect~=3.8", "fastapi<0.151", "sqlalchemy<2.1"]
#
# [tool.schedbench]
# title = "Prefect"
# family = "orchestrator"
# homepage = "https://docs.prefect.io"
# capabilities = ["enqueue", "periodic", "cron", "retry"]
# default = ["sqlite", "sqlite-tasks"]
#
# [tool.schedbench.parity]
# slots = ["flow runs at once: worker --limit", "https://docs.prefect.io/v3/concepts/workers#worker-options"]
# runs_in = ["a process per flow run", "https://docs.prefect.io/v3/concepts/workers#worker-types"]
# acknowledgement = ["before it runs: the worker sets it to Pending", "https://docs.prefect.io/v3/concepts/states"]
# persistence = ["flow runs and their states: a SQLite file", "https://docs.prefect.io/v3/concepts/server#the-prefect-database"]
# results = ["final state; return values are not persisted", "https://docs.prefect.io/v3/advanced/results"]
# prefetch = ["none for runs due now: free slots only", "https://docs.prefect.io/v3/concepts/workers#configure-prefetch"]
# polling = ["every 10 s, give or take 30 %", "https://docs.prefect.io/v3/concepts/workers#polling-for-work"]
#
# [tool.schedbench.changed]
# limit = ["slots; none by default", "a slot means the same for every system", "https://docs.prefect.io/v3/concepts/workers#worker-options"]
# retries = ["as asked, not 0, where a task is to be retried", "as often as for every system", "https://docs.prefect.io/v3/how-to-guides/workflows/retries"]
# PREFECT_API_URL = ["the cell's own server; unset", "a server of its own, not one inside the client", "https://docs.prefect.io/v3/api-ref/settings-ref"]
# PREFECT_SERVER_ANALYTICS_ENABLED = ["false", "no telemetry of the server", "https://docs.prefect.io/v3/concepts/telemetry"]
# DO_NOT_TRACK = ["1", "no telemetry of client and workers", "https://docs.prefect.io/v3/concepts/telemetry"]
# PREFECT_SERVER_DATABASE_MIGRATE_ON_START = ["false", "migrated before, so that it is timed apart", "https://docs.prefect.io/v3/advanced/self-hosted#database-migrations"]
#
# [tool.schedbench.promises]
# task-process = ["failed", "Crashed, set by the worker when the process ends; not run again", 0, "https://docs.prefect.io/v3/concepts/states"]
# worker = ["lost", "run processes go on alone; runs that die too stay Running or Pending for ever", 0, "https://docs.prefect.io/v3/advanced/detect-zombie-flows"]
# server = ["redelivered", "runs are in the database; workers and runs repeat their requests", 75, "https://docs.prefect.io/v3/api-ref/settings-ref"]
# worker-pause = ["kept", "not run twice: nothing takes a run back from a worker", 0, "https://docs.prefect.io/v3/advanced/detect-zombie-flows"]
# poison = ["failed", "Crashed after the first attempt", 0, "https://docs.prefect.io/v3/concepts/states"]
# raise = ["failed", "Failed; not retried", 0, "https://docs.prefect.io/v3/how-to-guides/workflows/retries"]
# unserialisable = ["refused", "the client raises: parameters become JSON in the request", 0, "https://docs.prefect.io/v3/concepts/flows"]
# database = ["redelivered", "server answers 503, which clients repeat", 75, "https://docs.prefect.io/v3/api-ref/settings-ref"]
#
# [tool.schedbench.variants.sqlite]
# summary = "a flow run per task; server on SQLite; a process worker"
# guarantee = "at-most-once"
# source = "https://docs.prefect.io/v3/advanced/detect-zombie-flows"
# heavy = true
# canary_ms = 3000
# start_s = 180
# settle_s = 90  # SQLite: everything may wait 60 s for a lock (issue 17473)
# shortest_s = 10
# early_s = 0.5
#
# [tool.schedbench.variants.sqlite-poll-1s]
# summary = "as sqlite, and the worker polls every second"
# guarantee = "at-most-once"
# source = "https://docs.prefect.io/v3/advanced/detect-zombie-flows"
# heavy = true
# canary_ms = 3000
# start_s = 180
# settle_s = 90  # SQLite: everything may wait 60 s for a lock (issue 17473)
# shortest_s = 10
# early_s = 0.5
# settings = { query_seconds = 1 }
#
# [tool.schedbench.variants.sqlite-poll-1s.parity]
# polling = ["every second, give or take 30 %", "https://docs.prefect.io/v3/concepts/workers#polling-for-work"]
#
# [tool.schedbench.variants.sqlite-poll-1s.changed]
# PREFECT_WORKER_QUERY_SECONDS = ["1, not 10", "what polling costs", "https://docs.prefect.io/v3/concepts/workers#polling-for-work"]
#
# [tool.schedbench.variants.postgresql]
# summary = "a flow run per task; server on PostgreSQL; a process worker"
# services = ["postgresql-contrib"]  # pg_trgm
# guarantee = "at-most-once"
# source = "https://docs.prefect.io/v3/advanced/detect-zombie-flows"
# heavy = true
# canary_ms = 3000
# start_s = 180
# settle_s = 40
# shortest_s = 10
# early_s = 0.5
#
# [tool.schedbench.variants.postgresql.parity]
# persistence = ["flow runs and their states: PostgreSQL", "https://docs.prefect.io/v3/concepts/server#the-prefect-database"]
#
# [tool.schedbench.variants.postgresql.changed]
# PREFECT_SERVER_DATABASE_CONNECTION_URL = ["PostgreSQL, not SQLite", "the vendor's choice for production", "https://docs.prefect.io/v3/concepts/server#the-prefect-database"]
#
# [tool.schedbench.variants.sqlite-tasks]
# summary = "all tasks as task runs of one flow run, in its threads; server on SQLite"
# guarantee = "at-most-once"
# source = "https://docs.prefect.io/v3/concepts/tasks#task-orchestration-model"
# batch = true
# heavy = true
# canary_ms = 300
# start_s = 180
# settle_s = 90  # SQLite: everything may wait 60 s for a lock (issue 17473)
# shortest_s = 10
# early_s = 0.5
#
# [tool.schedbench.variants.sqlite-tasks.parity]
# slots = ["threads of one flow run: max_workers", "https://docs.prefect.io/v3/concepts/task-runners"]
# runs_in = ["threads of the process of one flow run", "https://docs.prefect.io/v3/concepts/task-runners"]
# acknowledgement = ["none: the flow run orchestrates its tasks", "https://docs.prefect.io/v3/concepts/tasks#client-side-orchestration"]
# prefetch = ["the whole batch: it is one flow run", "https://docs.prefect.io/v3/concepts/task-runners"]
#
# [tool.schedbench.variants.sqlite-tasks.changed]
# limit = ["1; none by default", "one batch at a time, so that slots hold", "https://docs.prefect.io/v3/concepts/workers#worker-options"]
# max_workers = ["slots; no bound by default", "a slot means the same for every system", "https://docs.prefect.io/v3/concepts/task-runners"]
#
# [tool.schedbench.variants.sqlite-tasks.promises]
# task-process = ["failed", "Crashed, set by the worker when the process ends: the whole batch with it; not run again", 0, "https://docs.prefect.io/v3/concepts/states"]
# poison = ["failed", "Crashed after the first attempt, all tasks of the batch", 0, "https://docs.prefect.io/v3/concepts/states"]
#
# [tool.schedbench.variants.postgresql-tasks]
# summary = "all tasks as task runs of one flow run, in its threads; server on PostgreSQL"
# services = ["postgresql-contrib"]  # pg_trgm
# guarantee = "at-most-once"
# source = "https://docs.prefect.io/v3/concepts/tasks#task-orchestration-model"
# batch = true
# heavy = true
# canary_ms = 300
# start_s = 180
# settle_s = 40
# shortest_s = 10
# early_s = 0.5
#
# [tool.schedbench.variants.postgresql-tasks.parity]
# slots = ["threads of one flow run: max_workers", "https://docs.prefect.io/v3/concepts/task-runners"]
# runs_in = ["threads of the process of one flow run", "https://docs.prefect.io/v3/concepts/task-runners"]
# acknowledgement = ["none: the flow run orchestrates its tasks", "https://docs.prefect.io/v3/concepts/tasks#client-side-orchestration"]
# persistence = ["flow runs and their states: PostgreSQL", "https://docs.prefect.io/v3/concepts/server#the-prefect-database"]
# prefetch = ["the whole batch: it is one flow run", "https://docs.prefect.io/v3/concepts/task-runners"]
#
# [tool.schedbench.variants.postgresql-tasks.changed]
# PREFECT_SERVER_DATABASE_CONNECTION_URL = ["PostgreSQL, not SQLite", "the vendor's choice for production", "https://docs.prefect.io/v3/concepts/server#the-prefect-database"]
# limit = ["1; none by default", "one batch at a time, so that slots hold", "https://docs.prefect.io/v3/concepts/workers#worker-options"]
# max_workers = ["slots; no bound by default", "a slot means the same for every system", "https://docs.prefect.io/v3/concepts/task-runners"]
#
# [tool.schedbench.variants.postgresql-tasks.promises]
# task-process = ["failed", "Crashed, set by the worker when the process ends: the whole batch with it; not run again", 0, "https://docs.prefect.io/v3/concepts/states"]
# poison = ["failed", "Crashed after the first attempt, all tasks of the batch", 0, "https://docs.prefect.io/v3/concepts/states"]
#
# [tool.schedbench.variants.background]
# summary = "a background task per task, pushed to a task worker; server on SQLite"
# guarantee = "at-most-once"
# source = "https://docs.prefect.io/v3/concepts/tasks#background-tasks"
# heavy = true
# queue_limit = 1000  # the server's max_scheduled_queue_size: one more would wait inside its request
# canary_ms = 500
# start_s = 180
# settle_s = 90  # SQLite: everything may wait 60 s for a lock (issue 17473)
# shortest_s = 10
# early_s = 0.5
# settings = { background = true }
#
# [tool.schedbench.variants.background.parity]
# slots = ["threads of one task worker: limit", "https://docs.prefect.io/v3/api-ref/cli/task"]
# runs_in = ["threads of one task worker", "https://docs.prefect.io/v3/how-to-guides/workflows/run-background-tasks"]
# acknowledgement = ["when the task worker received it, before it runs", "https://docs.prefect.io/v3/how-to-guides/workflows/run-background-tasks"]
# persistence = ["task runs: SQLite; their queue: the server's memory", "https://docs.prefect.io/v3/concepts/tasks#background-tasks"]
# results = ["final state; parameters and return values in files", "https://docs.prefect.io/v3/advanced/results"]
# prefetch = ["one beyond its free slots", "https://docs.prefect.io/v3/how-to-guides/workflows/run-background-tasks"]
# polling = ["none: pushed over a WebSocket", "https://docs.prefect.io/v3/concepts/tasks#background-tasks"]
#
# [tool.schedbench.variants.background.changed]
# limit = ["slots, not 10", "a slot means the same for every system", "https://docs.prefect.io/v3/api-ref/cli/task"]
#
# [tool.schedbench.variants.background.promises]
# worker = ["lost", "what it received is acknowledged, not run again; stays Scheduled, Pending or Running", 0, "https://github.com/PrefectHQ/prefect/blob/main/src/prefect/client/subscriptions.py"]
# server = ["lost", "the queue is in the server's memory: what waits stays Scheduled for ever", 0, "https://github.com/PrefectHQ/prefect/blob/main/src/prefect/server/task_queue.py"]
# poison = ["lost", "kills the task worker; not run again, stays Running", 0, "https://github.com/PrefectHQ/prefect/blob/main/src/prefect/server/task_queue.py"]
# unserialisable = ["refused", "delay() stores the parameters first (pickled by default)", 0, "https://docs.prefect.io/v3/advanced/results"]
# ///
"""Prefect: a server with its database, a client that creates runs through its API, a worker that runs them.

A worker asks for work only when it polls, and then takes no more flow runs than it has free slots: with a
limit, its throughput is at most slots / 10 s, however short the runs are. The vendor's page says 15 s, the
library has 10 s: https://docs.prefect.io/v3/concepts/workers#polling-for-work

A schedule, an `Interval` or a `Cron` (https://docs.prefect.io/v3/how-to-guides/deployments/create-schedules),
belongs to a deployment, and the server's own service makes its flow runs ahead of time, at first
up to 5 s after it was asked for (https://docs.prefect.io/v3/concepts/schedules). The worker takes them up to
10 s early (https://docs.prefect.io/v3/concepts/workers#configure-prefetch), and their processes wait. How long, the
server tells them in whole seconds, rounded: a run may begin up to half a second before it is due
(https://github.com/PrefectHQ/prefect/blob/3.8.8/src/prefect/server/orchestration/core_policy.py).

Task runs are orchestrated where they run, and the server is told in batches: bodies end before it knows
(https://docs.prefect.io/v3/concepts/tasks#client-side-orchestration).

Nothing is retried by default, and how often is said where a flow or a task is defined, not by a run. A task that
is to be retried is therefore run as a task run of its own, which has the retries, inside of what runs it else:
https://docs.prefect.io/v3/how-to-guides/workflows/retries

On SQLite its log says `database is locked` once runs wait for 15 s: the server's own service that marks them
late writes beside itself. Nothing is refused or lost (https://github.com/PrefectHQ/prefect/issues/17473), but once
everything waited a minute for that lock. On PostgreSQL its tables need the extension `pg_trgm`, which not every
build of that server has.

`fastapi` is bounded as Prefect 3.9 itself bounds it: the server of 3.8 does not start with 0.155 or later.
SQLAlchemy is bounded because the server of 3.8 makes no flow runs for a schedule with 2.1: its insert raises "Can't
evaluate bulk DML statement", once for each round of the service.
Prefect 3.9 is not asked for: it needs certifi 2026.10.19, and where that cannot be had there is 3.8.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

from bench.agent import Adapter, Batch, Periodic, Process, Schedule, Task, context, run

HOST, PORT = "127.0.0.1", str(context().ports[0])
API = f"http://{HOST}:{PORT}/api"
SETTINGS = {"PREFECT_API_URL": API, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
if "query_seconds" in context().settings:
    SETTINGS["PREFECT_WORKER_QUERY_SECONDS"] = str(context().settings["query_seconds"])
os.environ.update(SETTINGS)  # read when the library is imported

from prefect import flow, task  # noqa: E402
from prefect.futures import wait  # noqa: E402
from prefect.task_runners import ThreadPoolTaskRunner  # noqa: E402

POOL = "pool"


def body(number: int, kind: str, payload: str, retries: int) -> None:
    """The body of a task, and a task run around it where it is to be retried."""
    if retries:
        task(run, retries=retries)(number, kind, payload)
    else:
        run(number, kind, payload)


@flow
def one(number: int, kind: str, payload: str, retries: int = 0) -> None:
    """A flow run for one task."""
    body(number, kind, payload, retries)


@task
def work(number: int, kind: str, payload: str, retries: int = 0) -> None:
    """A task run for one task."""
    body(number, kind, payload, retries)


@flow(task_runner=ThreadPoolTaskRunner(max_workers=context().slots))
def many(tasks: list[tuple[int, str, str]], retries: int = 0) -> None:
    """A flow run for many tasks, which ends when the last has: one that failed must not drop the others."""
    wait([work.submit(*values, **_retried(retries)) for values in tasks])


def _retried(retries: int) -> dict[str, int]:
    """The parameter that says how often a task is retried, where it is."""
    return {"retries": retries} if retries else {}


class Prefect(Adapter, Batch, Periodic):
    """One client with its connection, one server, one worker."""

    def migrations(self) -> Sequence[Process]:
        return [self.server("database", "upgrade", "--yes")]

    def servers(self) -> Sequence[Process]:
        return [self.server("start", "--host", HOST, "--port", PORT, ready=f"{API}/health")]

    def server(self, *arguments: str, ready: str = "") -> Process:
        """A `prefect server` command; only these know the database."""
        env = {**SETTINGS, "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false"}
        if "postgresql-contrib" in self.context.services:
            url = self.context.url("postgresql-contrib").replace("postgresql:", "postgresql+asyncpg:")
            env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
        return Process.python("server", "-m", "prefect", "server", *arguments, env=env, ready=ready)

    def processes(self) -> Sequence[Process]:
        slots = str(self.context.slots)
        if self.context.settings.get("background"):
            command = ("task", "serve", "--module", __name__, "--limit", slots)
            return [Process.python("worker", "-m", "prefect", *command, env=SETTINGS)]
        limit = "1" if self.context.batch else slots  # of flow runs
        command = ("worker", "start", "--pool", POOL, "--type", "process", "--limit", limit)
        return [Process.python("agent", "-m", "prefect", *command, env=SETTINGS)]

    def open(self) -> None:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import WorkPoolCreate
        from prefect.deployments.runner import EntrypointType

        self.resources = ExitStack()
        if self.context.settings.get("background"):
            return
        self.client = self.resources.enter_context(get_client(sync_client=True))
        self.client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        runs = many if self.context.batch else one
        deployment = runs.to_deployment(
            "bench", work_pool_name=POOL, entrypoint_type=EntrypointType.MODULE_PATH
        )
        self.deployment = deployment.apply()

    def submit(self, task: Task) -> None:
        if self.context.settings.get("background"):
            work.delay(task.id, task.work, task.payload, **_retried(task.retries))
        else:
            parameters = {"number": task.id, "kind": task.work, "payload": task.payload}
            parameters |= _retried(task.retries)
            self.client.create_flow_run_from_deployment(self.deployment, parameters=parameters)

    def submit_batch(self, tasks: Sequence[Task]) -> None:
        values = [(task.id, task.work, task.payload) for task in tasks]
        parameters = {"tasks": values, **_retried(tasks[0].retries)}
        self.client.create_flow_run_from_deployment(self.deployment, parameters=parameters)

    def register(self, schedule: Schedule) -> None:
        from prefect.deployments.runner import EntrypointType
        from prefect.schedules import Cron, Interval

        if self.context.settings.get("background"):
            raise NotImplementedError("background tasks have no schedules: flows have")
        one.to_deployment(
            "ticks",
            schedule=Cron(schedule.cron) if schedule.cron else Interval(schedule.every_s),
            parameters={"number": schedule.id, "kind": schedule.work, "payload": ""},
            work_pool_name=POOL,
            entrypoint_type=EntrypointType.MODULE_PATH,
        ).apply()

    def close(self) -> None:
        self.resources.close()
