# /// script
# requires-python = ">=3.11"
# dependencies = ["celery[redis]~=5.7"]
#
# [tool.schedbench]
# title = "Celery"
# family = "task queue"
# homepage = "https://docs.celeryq.dev"
# capabilities = ["enqueue", "periodic"]
# default = ["redis", "rabbitmq"]
#
# [tool.schedbench.variants.redis]
# summary = "prefork pool, one child per slot; acknowledged before it runs; no result backend"
# services = ["redis"]
# guarantee = "at-most-once"
# source = "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-acks-late"
# settle_s = 10
#
# [tool.schedbench.variants.redis-threads]
# summary = "thread pool, one thread per slot in one process; acknowledged before it runs; no result backend"
# services = ["redis"]
# guarantee = "at-most-once"
# source = "https://docs.celeryq.dev/en/stable/userguide/concurrency/index.html"
# settle_s = 10
# settings = { worker_pool = "threads" }
#
# [tool.schedbench.variants.redis-acks-late]
# summary = "prefork pool; acknowledged after it ran, put back when its child dies; no result backend"
# services = ["redis"]
# guarantee = "at-least-once"
# source = "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-reject-on-worker-lost"
# settle_s = 10
# settings = { task_acks_late = true, task_reject_on_worker_lost = true }
#
# [tool.schedbench.variants.redis-results]
# summary = "prefork pool; acknowledged before it runs; results kept in the same Redis"
# services = ["redis"]
# guarantee = "at-most-once"
# source = "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#results"
# settle_s = 10
# settings = { result_backend = "redis" }
#
# [tool.schedbench.variants.rabbitmq]
# summary = "prefork pool, one child per slot; acknowledged before it runs; no result backend"
# services = ["rabbitmq"]
# guarantee = "at-most-once"
# source = "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-acks-late"
# heavy = true
# settle_s = 10
#
# [tool.schedbench.variants.rabbitmq-confirms]
# summary = "as rabbitmq, and each send waits until the broker has confirmed it"
# services = ["rabbitmq"]
# guarantee = "at-most-once"
# source = "https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.pyamqp.html"
# heavy = true
# settle_s = 10
# settings = { broker_transport_options = { confirm_publish = true } }
# ///
"""Celery on Redis or RabbitMQ. A variant's settings are Celery settings; all else is the vendor's default.

Schedules are kept by `celery beat`, a process of its own, which reads them when it starts:
https://docs.celeryq.dev/en/stable/userguide/periodic-tasks.html

`task_acks_late` alone still acknowledges a task whose child was killed, so the at-least-once variant adds
`task_reject_on_worker_lost`. Messages of a worker that is gone as a whole come back after the transport's
visibility timeout of 3600 s:
https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from celery import Celery, states

from bench.agent import Adapter, Claims, Periodic, Process, Schedule, Task, context, run

BEAT = "SCHEDBENCH_BEAT"

app = Celery(__name__, broker=context().url("redis" if "redis" in context().services else "rabbitmq"))
app.conf.update(context().settings)
if app.conf.result_backend:  # the header names a service, Celery wants its address
    app.conf.result_backend = context().url(app.conf.result_backend)


if BEAT in os.environ:
    task_id, every_s, kind = json.loads(os.environ[BEAT])
    entry = {"task": f"{__name__}.work", "schedule": every_s, "args": (task_id, kind, "")}
    app.conf.beat_schedule = {"tick": entry}


@app.task
def work(task: int, kind: str, payload: str) -> None:
    """The body of every task."""
    run(task, kind, payload)


class CeleryApp(Adapter, Claims, Periodic):
    """One client that sends to the queue `celery`, one worker that consumes it."""

    def processes(self) -> Sequence[Process]:
        slots = str(self.context.slots)
        return [Process.python("worker", "-m", "celery", "-A", __name__, "worker", "--concurrency", slots)]

    def submit(self, task: Task) -> None:
        work.apply_async((task.id, task.work, task.payload), task_id=str(task.id))

    def register(self, schedule: Schedule) -> Sequence[Process]:
        entry = json.dumps((schedule.id, schedule.every_s, schedule.work))
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
