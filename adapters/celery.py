# /// script
# requires-python = ">=3.11"
# dependencies = ["celery[redis]~=5.7"]
#
# [tool.schedbench]
# title = "Celery"
# family = "task queue"
# homepage = "https://docs.celeryq.dev"
# capabilities = ["enqueue", "periodic", "cron", "retry"]
# default = ["redis", "rabbitmq"]
#
# [tool.schedbench.parity]
# slots = ["child processes of the worker: --concurrency", "https://docs.celeryq.dev/en/stable/userguide/workers.html#concurrency"]
# runs_in = ["a child process of the worker (prefork)", "https://docs.celeryq.dev/en/stable/userguide/concurrency/index.html"]
# acknowledgement = ["just before it runs: gone if its process dies", "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-acks-late"]
# persistence = ["what is queued, as of the last snapshot of Redis", "https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/"]
# results = ["none: there is no result backend by default", "https://docs.celeryq.dev/en/stable/userguide/configuration.html#result-backend"]
# prefetch = ["4 per slot, beside the one that runs", "https://docs.celeryq.dev/en/stable/userguide/optimizing.html#prefetch-limits"]
# polling = ["waits at Redis (BRPOP), asked again after 1 s", "https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.redis.html"]
#
# [tool.schedbench.changed]
# --concurrency = ["slots, not one per core", "a slot means the same for every system", "https://docs.celeryq.dev/en/stable/userguide/workers.html#concurrency"]
# broker_url = ["a server of the cell, with a password", "every cell has fresh servers of its own", "https://docs.celeryq.dev/en/stable/userguide/configuration.html#broker-url"]
# task_id = ["the harness's own, not a UUID", "a task can be asked for by it", "https://docs.celeryq.dev/en/stable/userguide/calling.html"]
# countdown = ["0, not 180 s, where a task is to be retried", "retries wait for nothing", "https://docs.celeryq.dev/en/stable/userguide/tasks.html#using-a-custom-retry-delay"]
# max_retries = ["as asked, not 3, where a task is to be retried", "as often as for every system", "https://docs.celeryq.dev/en/stable/userguide/tasks.html#retrying"]
#
# [tool.schedbench.promises]
# broker-kill = ["lost", "what Redis took since its last snapshot is gone", 35, "https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/"]
# task-process = ["failed", "WorkerLostError: logged, not run again, no state kept", 0, "https://docs.celeryq.dev/en/stable/userguide/tasks.html"]
# worker = ["lost", "running ones are lost; prefetched ones come back after the visibility timeout", 35, "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout"]
# broker = ["repeated", "queue is in the snapshot; what workers hold comes back after the visibility timeout", 35, "https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.redis.html"]
# cut = ["repeated", "reconnects; what it held may wait for the visibility timeout", 35, "https://docs.celeryq.dev/en/stable/userguide/configuration.html#worker-cancel-long-running-tasks-on-connection-loss"]
# worker-pause = ["kept", "not run twice: 10 s is far below the visibility timeout of 3600 s", 0, "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout"]
# poison = ["failed", "given up after the first attempt: already acknowledged", 0, "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-acks-late"]
# raise = ["failed", "not retried: logged and done, also with acks_late (task_acks_on_failure)", 0, "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-acks-on-failure-or-timeout"]
# unserialisable = ["refused", "apply_async raises (EncodeError of kombu): task_serializer is json", 0, "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-serializer"]
#
# [tool.schedbench.variants.redis]
# summary = "prefork pool, one child per slot; acknowledged before it runs; no result backend"
# services = ["redis"]
# guarantee = "at-most-once"
# source = "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-acks-late"
# settle_s = 10
#
# [tool.schedbench.variants.redis.scaled]
# broker_transport_options = [{ visibility_timeout = 20, unacked_restore_interval = 1, unacked_restore_throttle = 1 }, "visibility_timeout 20 s, looked at every 1 s, not 3600 s and 100 s", "https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.redis.html"]
#
# [tool.schedbench.variants.redis-threads]
# summary = "thread pool, one thread per slot in one process; acknowledged before it runs; no result backend"
# services = ["redis"]
# guarantee = "at-most-once"
# source = "https://docs.celeryq.dev/en/stable/userguide/concurrency/index.html"
# settle_s = 10
# settings = { worker_pool = "threads" }
#
# [tool.schedbench.variants.redis-threads.parity]
# slots = ["threads of the worker: --concurrency", "https://docs.celeryq.dev/en/stable/userguide/workers.html#concurrency"]
# runs_in = ["a thread of the worker", "https://docs.celeryq.dev/en/stable/userguide/concurrency/index.html"]
# acknowledgement = ["just before it runs: gone if the worker dies", "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-acks-late"]
#
# [tool.schedbench.variants.redis-threads.changed]
# worker_pool = ["threads, not prefork", "what threads cost", "https://docs.celeryq.dev/en/stable/userguide/configuration.html#worker-pool"]
#
# [tool.schedbench.variants.redis-threads.promises]
# poison = ["lost", "kills the whole worker; the task was acknowledged, so it is not run again", 0, "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-acks-late"]
#
# [tool.schedbench.variants.redis-threads.scaled]
# broker_transport_options = [{ visibility_timeout = 20, unacked_restore_interval = 1, unacked_restore_throttle = 1 }, "visibility_timeout 20 s, looked at every 1 s, not 3600 s and 100 s", "https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.redis.html"]
#
# [tool.schedbench.variants.redis-acks-late]
# summary = "prefork pool; acknowledged after it ran, put back when its child dies; no result backend"
# services = ["redis"]
# guarantee = "at-least-once"
# source = "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-reject-on-worker-lost"
# settle_s = 10
# settings = { task_acks_late = true, task_reject_on_worker_lost = true }
#
# [tool.schedbench.variants.redis-acks-late.parity]
# acknowledgement = ["after it ran; back in the queue if its process dies", "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-reject-on-worker-lost"]
# prefetch = ["4 per slot, the one that runs included", "https://docs.celeryq.dev/en/stable/userguide/optimizing.html#reserve-one-task-at-a-time"]
#
# [tool.schedbench.variants.redis-acks-late.changed]
# task_acks_late = ["true", "what at-least-once costs", "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-acks-late"]
# task_reject_on_worker_lost = ["true", "else a task whose process dies counts as done", "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-reject-on-worker-lost"]
#
# [tool.schedbench.variants.redis-acks-late.promises]
# task-process = ["redelivered", "put back by its worker at once, to the end of the queue", 5, "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-reject-on-worker-lost"]
# worker = ["redelivered", "all unacknowledged, run or prefetched, come back after the visibility timeout", 35, "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout"]
# cut = ["redelivered", "reconnects; what it held may wait for the visibility timeout, may run twice", 35, "https://docs.celeryq.dev/en/stable/userguide/configuration.html#worker-cancel-long-running-tasks-on-connection-loss"]
# poison = ["redelivered", "loops for ever: `can cause message loops`", 5, "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-reject-on-worker-lost"]
#
# [tool.schedbench.variants.redis-acks-late.scaled]
# broker_transport_options = [{ visibility_timeout = 20, unacked_restore_interval = 1, unacked_restore_throttle = 1 }, "visibility_timeout 20 s, looked at every 1 s, not 3600 s and 100 s", "https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.redis.html"]
#
# [tool.schedbench.variants.redis-results]
# summary = "prefork pool; acknowledged before it runs; results kept in the same Redis"
# services = ["redis"]
# guarantee = "at-most-once"
# source = "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#results"
# settle_s = 10
# settings = { result_backend = "redis" }
#
# [tool.schedbench.variants.redis-results.parity]
# results = ["state and return value in Redis, for a day", "https://docs.celeryq.dev/en/stable/userguide/configuration.html#result-expires"]
#
# [tool.schedbench.variants.redis-results.changed]
# result_backend = ["the same Redis, not none", "what keeping results costs", "https://docs.celeryq.dev/en/stable/userguide/configuration.html#result-backend"]
#
# [tool.schedbench.variants.redis-results.promises]
# task-process = ["failed", "WorkerLostError: FAILURE in the result backend", 0, "https://docs.celeryq.dev/en/stable/userguide/tasks.html"]
#
# [tool.schedbench.variants.redis-results.scaled]
# broker_transport_options = [{ visibility_timeout = 20, unacked_restore_interval = 1, unacked_restore_throttle = 1 }, "visibility_timeout 20 s, looked at every 1 s, not 3600 s and 100 s", "https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.redis.html"]
#
# [tool.schedbench.variants.redis-polls-table]
# summary = "as redis; beat has a task look into a table for schedules that are due, every second for a minute"
# services = ["redis"]
# guarantee = "at-most-once"
# source = "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-acks-late"
# settle_s = 10
# every_s = 1
# settings = { poll_s = 1 }
#
# [tool.schedbench.variants.redis-polls-table.scaled]
# broker_transport_options = [{ visibility_timeout = 20, unacked_restore_interval = 1, unacked_restore_throttle = 1 }, "visibility_timeout 20 s, looked at every 1 s, not 3600 s and 100 s", "https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.redis.html"]
#
# [tool.schedbench.variants.redis-polls-table.changed]
# beat_schedule = ["polls a SQLite table every second", "schedules that users edit; its minute, scaled", "https://docs.celeryq.dev/en/stable/userguide/periodic-tasks.html#using-custom-scheduler-classes"]
#
# [tool.schedbench.variants.rabbitmq]
# summary = "prefork pool, one child per slot; acknowledged before it runs; no result backend"
# services = ["rabbitmq"]
# guarantee = "at-most-once"
# source = "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-acks-late"
# heavy = true
# settle_s = 10
#
# [tool.schedbench.variants.rabbitmq.parity]
# persistence = ["what is queued: durable queue, persistent messages", "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-default-delivery-mode"]
# polling = ["pushed by the broker, as far as the prefetch goes", "https://www.rabbitmq.com/docs/consumer-prefetch"]
#
# [tool.schedbench.variants.rabbitmq.promises]
# broker-kill = ["lost", "persistent messages that the broker has not written yet are gone: no confirms", 30, "https://www.rabbitmq.com/docs/confirms#when-publishes-are-confirmed"]
# worker = ["lost", "running ones are lost; prefetched ones are requeued by the broker at once", 5, "https://www.rabbitmq.com/docs/confirms#automatic-requeueing"]
# broker = ["repeated", "durable queue, persistent messages; what was prefetched is requeued", 30, "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-default-delivery-mode"]
# cut = ["repeated", "reconnects; what was prefetched is requeued; unacknowledged ones may run twice", 30, "https://www.rabbitmq.com/docs/heartbeats"]
# worker-pause = ["kept", "not run twice: below the AMQP heartbeat of 60 s and the delivery timeout of 30 min", 0, "https://www.rabbitmq.com/docs/heartbeats"]
#
# [tool.schedbench.variants.rabbitmq-confirms]
# summary = "as rabbitmq, and each send waits until the broker has confirmed it"
# services = ["rabbitmq"]
# guarantee = "at-most-once"
# source = "https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.pyamqp.html"
# heavy = true
# settle_s = 10
# settings = { broker_transport_options = { confirm_publish = true } }
#
# [tool.schedbench.variants.rabbitmq-confirms.parity]
# persistence = ["what is queued: durable queue, persistent messages", "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-default-delivery-mode"]
# polling = ["pushed by the broker, as far as the prefetch goes", "https://www.rabbitmq.com/docs/consumer-prefetch"]
#
# [tool.schedbench.variants.rabbitmq-confirms.changed]
# broker_transport_options = ["confirm_publish = true", "what it costs to know that the broker has a task", "https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.pyamqp.html#publisher-confirms"]
#
# [tool.schedbench.variants.rabbitmq-confirms.promises]
# broker-kill = ["repeated", "what the broker has confirmed is on disk", 30, "https://www.rabbitmq.com/docs/confirms#when-publishes-are-confirmed"]
# worker = ["lost", "running ones are lost; prefetched ones are requeued by the broker at once", 5, "https://www.rabbitmq.com/docs/confirms#automatic-requeueing"]
# broker = ["repeated", "durable queue, persistent messages; what was prefetched is requeued", 30, "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-default-delivery-mode"]
# cut = ["repeated", "reconnects; what was prefetched is requeued; unacknowledged ones may run twice", 30, "https://www.rabbitmq.com/docs/heartbeats"]
# worker-pause = ["kept", "not run twice: below the AMQP heartbeat of 60 s and the delivery timeout of 30 min", 0, "https://www.rabbitmq.com/docs/heartbeats"]
# ///
"""Celery on Redis or RabbitMQ. A variant's settings are Celery settings; all else is the vendor's default.

A task that raises is done, unless it asks to be retried: one that is to be is another task, which does.
Celery puts it into the queue again: https://docs.celeryq.dev/en/stable/userguide/tasks.html#retrying

Schedules are kept by `celery beat`, a process of its own, which reads them when it starts:
https://docs.celeryq.dev/en/stable/userguide/periodic-tasks.html. It has to be the only one.

A cron expression becomes a `crontab` schedule of beat
(https://docs.celeryq.dev/en/stable/userguide/periodic-tasks.html#crontab-schedules).

The variant that polls a table is a pattern and none of the library's own: beat knows one task, which looks up
what is due by the wall clock, says when it is due next, and sends it. Each row is taken in one statement, so
that two of these tasks do not take the same. Its usual period is a minute, here it is a second: an offset is
to be read as sixty times that.

`task_acks_late` alone still acknowledges a task whose child was killed, so the at-least-once variant adds
`task_reject_on_worker_lost`. Messages of a worker that is gone as a whole come back after the transport's
visibility timeout of 3600 s:
https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from math import ceil
from time import time

from celery import Celery, states
from celery import Task as CeleryTask
from celery.schedules import crontab

from bench.agent import Adapter, Claims, Periodic, Process, Schedule, Task, context, run

BEAT = "SCHEDBENCH_BEAT"

app = Celery(__name__, broker=context().url("redis" if "redis" in context().services else "rabbitmq"))
settings = dict(context().settings)
poll_s = settings.pop("poll_s", None)
app.conf.update(settings)
if app.conf.result_backend:  # the header names a service, Celery wants its address
    app.conf.result_backend = context().url(app.conf.result_backend)


if BEAT in os.environ:
    task_id, when, kind = json.loads(os.environ[BEAT])
    when = crontab.from_string(when) if isinstance(when, str) else when
    entry = {"task": f"{__name__}.work", "schedule": when, "args": (task_id, kind, "")}
    polling = {"task": f"{__name__}.poll", "schedule": poll_s}
    app.conf.beat_schedule = {"tick": polling if poll_s else entry}

TABLE = context().home / "schedules.sqlite"


@app.task
def work(task: int, kind: str, payload: str) -> None:
    """The body of every task."""
    run(task, kind, payload)


@app.task(bind=True)
def work_with_retries(self: CeleryTask[..., None], task: int, kind: str, payload: str, retries: int) -> None:
    """The body of a task that is to be retried."""
    try:
        run(task, kind, payload)
    except Exception as error:
        raise self.retry(exc=error, countdown=0, max_retries=retries) from error


@app.task
def poll() -> None:
    """Send what is due by the table, which is to run next at a multiple of its period from now."""
    with closing(sqlite3.connect(TABLE, timeout=30)) as table, table:
        due = table.execute(
            "UPDATE schedules SET due = due + every_s * (1 + CAST((:now - due) / every_s AS INTEGER))"
            " WHERE due <= :now RETURNING id, work",
            {"now": time()},
        ).fetchall()
    for task, kind in due:
        work.delay(int(task), kind, "")


class CeleryApp(Adapter, Claims, Periodic):
    """One client that sends to the queue `celery`, one worker that consumes it."""

    def processes(self) -> Sequence[Process]:
        slots = str(self.context.slots)
        return [Process.python("worker", "-m", "celery", "-A", __name__, "worker", "--concurrency", slots)]

    def submit(self, task: Task) -> None:
        if task.retries:
            words = (task.id, task.work, task.payload, task.retries)
            work_with_retries.apply_async(words, task_id=str(task.id))
        else:
            work.apply_async((task.id, task.work, task.payload), task_id=str(task.id))

    def register(self, schedule: Schedule) -> Sequence[Process]:
        if poll_s and schedule.cron:
            raise NotImplementedError("its table holds periods")
        if poll_s:
            with closing(sqlite3.connect(TABLE)) as table, table:
                table.execute("CREATE TABLE schedules (id TEXT, every_s REAL, work TEXT, due REAL)")
                due_s = ceil(time() / schedule.every_s) * schedule.every_s
                row = (
                    str(schedule.id),
                    schedule.every_s,
                    schedule.work,
                    due_s,
                )  # the id is too large a number
                table.execute("INSERT INTO schedules VALUES (?, ?, ?, ?)", row)
        entry = json.dumps((schedule.id, schedule.cron or schedule.every_s, schedule.work))
        command = ("-m", "celery", "-A", __name__, "beat")
        return [Process.python("scheduler", *command, env={BEAT: entry})]

    def claims(self, ids: Sequence[int]) -> Mapping[int, bool]:
        """The state in the result backend, where there is one."""
        if not app.conf.result_backend:
            return {}
        said = {task: app.AsyncResult(str(task)).state for task in ids}
        ended = {states.SUCCESS: True, states.FAILURE: False}
        return {task: ended[state] for task, state in said.items() if state in ended}

    def close(self) -> None:
        app.close()
