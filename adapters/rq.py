# /// script
# requires-python = ">=3.11"
# dependencies = ["rq~=2.12"]
#
# [tool.schedbench]
# title = "RQ"
# family = "task queue"
# homepage = "https://python-rq.org"
# capabilities = ["enqueue", "periodic", "cron", "retry"]
# default = ["redis"]
#
# [tool.schedbench.parity]
# slots = ["worker processes, each with one task at a time", "https://python-rq.org/docs/workers/#starting-workers"]
# runs_in = ["a process that a worker forks for every task", "https://python-rq.org/docs/workers/#the-worker-lifecycle"]
# acknowledgement = ["off the queue when taken; failed if its worker dies", "https://python-rq.org/docs/results/#dealing-with-interruptions"]
# persistence = ["what is queued, as of the last snapshot of Redis", "https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/"]
# results = ["return value for 500 s, a failure for a year", "https://python-rq.org/docs/jobs/#job-creation"]
# prefetch = ["none: a worker takes one task at a time", "https://python-rq.org/docs/workers/#starting-workers"]
# polling = ["waits at Redis (BLMOVE), asked again after 405 s", "https://python-rq.org/docs/connections/#timeout"]
#
# [tool.schedbench.changed]
# "rq worker" = ["started once per slot, not once", "a slot means the same for every system", "https://python-rq.org/docs/workers/#starting-workers"]
# --config = ["this module, which names the Redis of the cell", "every cell has fresh servers of its own", "https://python-rq.org/docs/workers/#using-a-config-file"]
# retry = ["as asked, not none, where a task is to be retried", "as often as for every system", "https://python-rq.org/docs/exceptions/#retrying-failed-jobs"]
# job_id = ["the harness's own, not a UUID", "a task can be asked for by it", "https://python-rq.org/docs/#enqueueing-jobs"]
#
# [tool.schedbench.promises]
# broker-kill = ["lost", "what Redis took since its last snapshot is gone", 25, "https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/"]
# worker = ["failed", "docs: FailedJobRegistry as abandoned; in fact its work-horse lives on and ends the job", 0, "https://python-rq.org/docs/results/#dealing-with-interruptions"]
# worker-pause = ["kept", "not run twice: nothing is requeued; heartbeats last 90 s and more", 0, "https://python-rq.org/docs/results/#dealing-with-interruptions"]
# poison = ["failed", "given up after the first attempt: `work-horse terminated unexpectedly`", 0, "https://python-rq.org/docs/exceptions/#work-horse-killed-handler"]
# raise = ["failed", "not retried: FailedJobRegistry, kept for a year", 0, "https://python-rq.org/docs/exceptions/"]
# unserialisable = ["refused", "enqueue() raises: arguments are pickled there", 0, "https://python-rq.org/docs/jobs/#job--queue-creation-with-custom-serializer"]
#
# [tool.schedbench.variants.redis]
# summary = "one worker process per slot, which forks for every task; results kept for 500 s"
# services = ["redis"]
# guarantee = "at-most-once"
# source = "https://python-rq.org/docs/exceptions/"
# settle_s = 10
#
# [tool.schedbench.variants.redis.promises]
# task-process = ["failed", "its worker sees the work-horse die and fails the job at once; no Retry, no rerun", 0, "https://python-rq.org/docs/exceptions/#work-horse-killed-handler"]
#
# [tool.schedbench.variants.redis-simple]
# summary = "one SimpleWorker process per slot, which does not fork; results kept for 500 s"
# services = ["redis"]
# guarantee = "at-most-once"
# source = "https://python-rq.org/docs/workers/"
# settle_s = 10
# settings = { worker_class = "rq.worker.SimpleWorker" }
#
# [tool.schedbench.variants.redis-simple.parity]
# runs_in = ["the worker process itself", "https://python-rq.org/docs/workers/#simpleworker"]
#
# [tool.schedbench.variants.redis-simple.changed]
# --worker-class = ["rq.worker.SimpleWorker", "what forking for every task costs", "https://python-rq.org/docs/workers/#simpleworker"]
#
# [tool.schedbench.variants.redis-simple.promises]
# worker = ["failed", "`eventually` FailedJobRegistry, by another worker's cleanup: AbandonedJobError", 0, "https://python-rq.org/docs/results/#dealing-with-interruptions"]
# poison = ["failed", "kills the worker itself; failed as abandoned, not run again", 0, "https://python-rq.org/docs/results/#dealing-with-interruptions"]
# ///
"""RQ on Redis, without the scheduler of its workers: `rq worker` starts that only when asked to.

Schedules are kept by `rq cron`, a process of its own, which sends a job when it starts and then again so long
after it last sent one; with a cron expression, only when that is due (https://python-rq.org/docs/cron/). The
vendor calls it beta; the other way, a `Repeat`, runs a job a number of times that is given in advance. It
keeps no lock and reads nothing back when it starts.

This module is also the settings module of `rq worker --config`, which is how a worker learns the address
(https://python-rq.org/docs/workers/#using-a-config-file). It is imported before the worker forks: otherwise
each task would pay some 10 ms for loading the agent. RQ reads every upper-case name here as a setting, so a
constant called NAME or QUEUES would change the worker.

A job is tried once. One whose worker died is moved to the FailedJobRegistry by the maintenance that each
worker does every 600 s, and runs again only if it was enqueued with a `Retry`. With one, a job that
raised is queued again at once: https://python-rq.org/docs/exceptions/#retrying-failed-jobs
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from redis import Redis
from rq import Queue, Retry, cron
from rq.job import Job, JobStatus

from bench.agent import Adapter, Claims, Periodic, Process, Schedule, Task, context, run

REDIS_URL = context().url("redis")
CRON_TICK = "SCHEDBENCH_CRON"


def work(task: int, kind: str, payload: str) -> None:
    """The body of every task."""
    run(task, kind, payload)


if CRON_TICK in os.environ:  # this module is what `rq cron` reads its schedules from, too
    task_id, when, body = json.loads(os.environ[CRON_TICK])
    cron.register(work, "default", args=(task_id, body, ""), **when)


class RqOnRedis(Adapter, Claims, Periodic):
    """One client that enqueues to the queue `default`, one worker per slot that consumes it."""

    def processes(self) -> Sequence[Process]:
        chosen = self.context.settings.get("worker_class")
        options = ("--worker-class", str(chosen)) if chosen else ()
        worker = Process.python("worker", "-m", "rq.cli", "worker", "--config", __name__, *options)
        return [worker] * self.context.slots

    def open(self) -> None:
        self.queue = Queue(connection=Redis.from_url(REDIS_URL))

    def submit(self, task: Task) -> None:
        words = (task.id, task.work, task.payload)
        if task.retries:
            self.queue.enqueue(work, *words, job_id=str(task.id), retry=Retry(max=task.retries))
        else:
            self.queue.enqueue(work, *words, job_id=str(task.id))

    def register(self, schedule: Schedule) -> Sequence[Process]:
        if schedule.every_s % 1:
            raise NotImplementedError(f"rq cron counts whole seconds, asked for {schedule.every_s} s")
        when = {"cron": schedule.cron} if schedule.cron else {"interval": int(schedule.every_s)}
        entry = json.dumps((schedule.id, when, schedule.work))
        command = ("-m", "rq.cli", "cron", "--config", __name__, __name__)
        return [Process.python("scheduler", *command, env={CRON_TICK: entry})]

    def claims(self, ids: Sequence[int]) -> Mapping[int, bool]:
        """The status RQ keeps with a job: for 500 s of one that succeeded, for a year of a failed one."""
        jobs = Job.fetch_many([str(task) for task in ids], self.queue.connection)
        said = {int(job.id): job.get_status(refresh=False) for job in jobs if job is not None}
        ended = {JobStatus.FINISHED: True, JobStatus.FAILED: False}
        return {task: ended[status] for task, status in said.items() if status in ended}

    def close(self) -> None:
        self.queue.connection.close()
