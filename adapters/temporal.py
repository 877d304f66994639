# /// script
# requires-python = ">=3.11"
# dependencies = ["temporalio~=1.35"]
#
# [tool.schedbench]
# title = "Temporal"
# family = "orchestrator"
# homepage = "https://docs.temporal.io"
# capabilities = ["enqueue", "periodic", "cron", "retry"]
# default = ["memory", "memory-activities"]
#
# [tool.schedbench.parity]
# slots = ["activities at once in one worker", "https://python.temporal.io/temporalio.worker.Worker.html"]
# runs_in = ["threads of one worker process", "https://docs.temporal.io/develop/python/python-sdk-sync-vs-async"]
# acknowledgement = ["after it ran; retried 60 s after its start else", "https://docs.temporal.io/encyclopedia/detecting-activity-failures#start-to-close-timeout"]
# persistence = ["nothing: the history is in the server's memory", "https://docs.temporal.io/cli/server#start-dev"]
# results = ["in the history, for a day after the workflow ended", "https://docs.temporal.io/temporal-service/temporal-server#retention-period"]
# prefetch = ["none: polls for free slots only", "https://docs.temporal.io/develop/worker-performance"]
# polling = ["long polls; handed out at most 20 times a second", "https://github.com/temporalio/temporal/blob/main/common/dynamicconfig/constants.go"]
#
# [tool.schedbench.changed]
# max_concurrent_activities = ["slots, not 100", "a slot means the same for every system", "https://python.temporal.io/temporalio.worker.Worker.html"]
# activity_executor = ["slots threads; none by default", "the body blocks, and such activities need one", "https://docs.temporal.io/develop/python/python-sdk-sync-vs-async"]
# start_to_close_timeout = ["60 s; none by default", "an activity needs a timeout", "https://docs.temporal.io/develop/python/activities/timeouts"]
# non_retryable_error_types = ["the harness's planned failure", "else such a body is run again for ever", "https://docs.temporal.io/encyclopedia/retry-policies"]
# maximum_attempts = ["as asked, not without end, where a task is to be retried", "as often as for every system", "https://docs.temporal.io/encyclopedia/retry-policies"]
# initial_interval = ["1 ms, not 1 s, where a task is to be retried", "retries wait for nothing", "https://docs.temporal.io/encyclopedia/retry-policies"]
# TEMPORAL_VERSION_CHECK_DISABLED = ["1; not set by default", "the server would report to its vendor", "https://github.com/temporalio/temporal/blob/main/common/dynamicconfig/constants.go"]
# headless = ["set: no web interface", "nothing looks at it", "https://docs.temporal.io/cli/server#start-dev"]
#
# [tool.schedbench.promises]
# worker = ["redelivered", "running activities run again when their timeout of 60 s is over; others at once", 35, "https://docs.temporal.io/encyclopedia/detecting-activity-failures#start-to-close-timeout"]
# server = ["lost", "the history is in its memory: all workflows are gone", 0, "https://docs.temporal.io/cli/server#start-dev"]
# cut = ["redelivered", "requests are repeated; an end that is not reported in 60 s is run again", 35, "https://docs.temporal.io/encyclopedia/detecting-activity-failures#start-to-close-timeout"]
# worker-pause = ["kept", "not run twice: 10 s is below 60 s (with a body of < 50 s)", 0, "https://docs.temporal.io/encyclopedia/detecting-activity-failures#start-to-close-timeout"]
# poison = ["redelivered", "loops for ever: attempts have no bound; 60 s and 1, 2, 4 .. 100 s apart", 35, "https://docs.temporal.io/encyclopedia/retry-policies"]
# raise = ["failed", "not retried: the adapter declares its error non-retryable", 0, "https://docs.temporal.io/encyclopedia/retry-policies"]
# unserialisable = ["refused", "start_workflow raises: arguments become JSON", 0, "https://docs.temporal.io/develop/python/data-handling/data-conversion"]
#
# [tool.schedbench.scaled]
# start_to_close_s = [20, "20 s, not 60 s", "https://docs.temporal.io/encyclopedia/detecting-activity-failures#start-to-close-timeout"]
#
# [tool.schedbench.variants.memory]
# summary = "a workflow with one activity per task; development server, history in memory; sandbox"
# heavy = true
# services = ["temporal"]
# guarantee = "at-least-once"
# source = "https://docs.temporal.io/activity-definition#idempotency"
# every_s = 1
#
# [tool.schedbench.variants.memory-activities]
# summary = "all tasks as activities of one workflow; development server, history in memory; sandbox"
# heavy = true
# services = ["temporal"]
# guarantee = "at-least-once"
# source = "https://docs.temporal.io/activity-definition#idempotency"
# every_s = 1
# batch = true
# queue_limit = 2000  # activities that may be pending in one workflow, by the server's default
#
# [tool.schedbench.variants.memory-unsandboxed]
# summary = "a workflow with one activity per task; development server, history in memory; no sandbox"
# heavy = true
# services = ["temporal"]
# guarantee = "at-least-once"
# source = "https://docs.temporal.io/activity-definition#idempotency"
# every_s = 1
# settings = { sandbox = false }
#
# [tool.schedbench.variants.memory-unsandboxed.changed]
# workflow_runner = ["UnsandboxedWorkflowRunner", "what the sandbox costs", "https://docs.temporal.io/develop/python/python-sdk-sandbox"]
#
# [tool.schedbench.variants.sqlite]
# summary = "a workflow with one activity per task; development server, history in a file; sandbox"
# heavy = true
# services = ["temporal-sqlite"]
# guarantee = "at-least-once"
# source = "https://docs.temporal.io/activity-definition#idempotency"
# every_s = 1
#
# [tool.schedbench.variants.sqlite.parity]
# persistence = ["the history: a SQLite file", "https://docs.temporal.io/cli/server#start-dev"]
#
# [tool.schedbench.variants.sqlite.promises]
# server = ["redelivered", "the history is on disk: goes on where it was", 35, "https://docs.temporal.io/cli/server#start-dev"]
#
# [tool.schedbench.variants.external]
# summary = "a workflow with one activity per task; a server that is already running; sandbox"
# heavy = true
# services = ["temporal-external"]
# guarantee = "at-least-once"
# source = "https://docs.temporal.io/activity-definition#idempotency"
# every_s = 1
#
# [tool.schedbench.variants.external.parity]
# persistence = ["the history: that server's database", "https://docs.temporal.io/temporal-service/persistence"]
# results = ["in the history, for that server's retention period", "https://docs.temporal.io/temporal-service/temporal-server#retention-period"]
# polling = ["long polls; handed out as that server is set", "https://github.com/temporalio/temporal/blob/main/common/dynamicconfig/constants.go"]
#
# [tool.schedbench.variants.external.changed]
# TEMPORAL_VERSION_CHECK_DISABLED = ["as that server is set", "it is not started here", "https://github.com/temporalio/temporal/blob/main/common/dynamicconfig/constants.go"]
# headless = ["as that server is set", "it is not started here", "https://docs.temporal.io/temporal-service"]
#
# [tool.schedbench.variants.external.promises]
# server = ["redelivered", "the history is on disk: goes on where it was; that server's own database", 35, "https://docs.temporal.io/temporal-service/persistence"]
# ///
"""Temporal: workflows that run activities, in a worker process of its own. A body is an activity.

A workflow's progress is recorded once. An activity may run more than once: again where its worker did not
report an end before the timeout, and again where it raised what the harness did not plan.

The development server has one history shard, which looks for what to hand out at most 20 times a second, by
default (`history.transferProcessorMaxPollRPS`). A task waits for two such looks: one for the workflow and one
for the activity. The worker polls for workflow tasks and for activities with up to five long polls each.

The sandbox imports the module of a workflow anew for each workflow that a worker takes up. As the vendor
advises, what this module imports is passed through: else each workflow would load the agent again
(https://docs.temporal.io/develop/python/python-sdk-sandbox#passthrough-modules).

Schedules are kept by the server, which starts a workflow at every multiple of whole seconds since 1970, or as
a cron expression says (https://docs.temporal.io/schedule). By default it skips a start while the one before is
running, and makes up for what it missed in the last year
(https://python.temporal.io/temporalio.client.SchedulePolicy.html).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleSpec,
)
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

with workflow.unsafe.imports_passed_through():
    from bench.agent import Adapter, Batch, Periodic, Process, Task, context, run
    from bench.agent import Schedule as Every

QUEUE = context().home.parent.name
"""The task queue, and what workflow ids begin with: a server that is not the cell's own may hold others."""

OPTIONS: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=context().settings.get("start_to_close_s", 60)),
    "retry_policy": RetryPolicy(non_retryable_error_types=["PlannedFailure"]),
}


def options(task: Task) -> dict[str, Any]:
    """How the activity of a task is run: again, where the harness wants that."""
    if not task.retries:
        return OPTIONS
    again = RetryPolicy(initial_interval=timedelta(milliseconds=1), maximum_attempts=1 + task.retries)
    return {**OPTIONS, "retry_policy": again}


@activity.defn
def work(task: Task) -> None:
    """The body of every task."""
    run(task.id, task.work, task.payload)


@workflow.defn
class One:
    """A workflow for one task."""

    @workflow.run
    async def run(self, task: Task) -> None:
        await workflow.execute_activity(work, task, **options(task))


@workflow.defn
class Many:
    """A workflow for many tasks, which ends when the last has: one that failed must not drop the others."""

    @workflow.run
    async def run(self, tasks: list[Task]) -> None:
        started = [workflow.execute_activity(work, task, **options(task)) for task in tasks]
        await asyncio.gather(*started, return_exceptions=True)


class Temporal(Adapter, Batch, Periodic):
    """A client that starts workflows, and one worker for workflows and activities."""

    def processes(self) -> Sequence[Process]:
        return [Process.python("worker", "-m", "adapters.temporal")]

    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = self.loop.run_until_complete(connect())

    def submit(self, task: Task) -> None:
        self.start(One.run, task, task.id)

    def submit_batch(self, tasks: Sequence[Task]) -> None:
        self.start(Many.run, list(tasks), tasks[0].id)

    def start(self, workflow_run: Any, tasks: Any, number: int) -> None:
        started = self.client.start_workflow(workflow_run, tasks, id=f"{QUEUE}-{number}", task_queue=QUEUE)
        self.loop.run_until_complete(started)

    def register(self, schedule: Every) -> None:
        task, name = Task(schedule.id, schedule.work), f"{QUEUE}-{schedule.id}"
        action = ScheduleActionStartWorkflow(One.run, task, id=name, task_queue=QUEUE)
        every = ScheduleIntervalSpec(every=timedelta(seconds=schedule.every_s))
        spec = (
            ScheduleSpec(cron_expressions=[schedule.cron])
            if schedule.cron
            else ScheduleSpec(intervals=[every])
        )
        created = self.client.create_schedule(name, Schedule(action=action, spec=spec))
        self.loop.run_until_complete(created)

    def close(self) -> None:
        self.loop.close()


async def connect() -> Client:
    """A connection to the one server that the variant names."""
    (service,) = context().services.values()
    return await Client.connect(service["url"], namespace=service["namespace"])


async def serve(slots: int, runner: WorkflowRunner) -> None:
    """Be the worker until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Worker(
        await connect(),
        task_queue=QUEUE,
        workflows=[One, Many],
        activities=[work],
        activity_executor=ThreadPoolExecutor(slots),
        max_concurrent_activities=slots,
        workflow_runner=runner,
    ):
        await stop.wait()


if __name__ == "__main__":
    sandbox = context().settings.get("sandbox", True)
    asyncio.run(serve(context().slots, SandboxedWorkflowRunner() if sandbox else UnsandboxedWorkflowRunner()))
