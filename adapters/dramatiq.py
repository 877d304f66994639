# /// script
# requires-python = ">=3.11"
# dependencies = ["dramatiq[rabbitmq,redis]~=2.2"]
#
# [tool.schedbench]
# title = "Dramatiq"
# family = "task queue"
# homepage = "https://dramatiq.io"
# capabilities = ["enqueue"]
# default = ["redis", "redis-prefetch"]
#
# [tool.schedbench.variants.redis]
# summary = "one process per slot, one thread in each; acknowledged after it ran"
# services = ["redis"]
# guarantee = "at-least-once"
# source = "https://dramatiq.io/advanced.html#message-persistence"
# settle_s = 10
# settings = { slots_are = "processes" }
#
# [tool.schedbench.variants.redis-threads]
# summary = "one process, one thread per slot; acknowledged after it ran"
# services = ["redis"]
# guarantee = "at-least-once"
# source = "https://dramatiq.io/advanced.html#message-persistence"
# settle_s = 10
# settings = { slots_are = "threads" }
#
# [tool.schedbench.variants.redis-prefetch]
# summary = "one process per slot, one thread in each, 16 tasks prefetched by each; acknowledged after it ran"
# services = ["redis"]
# guarantee = "at-least-once"
# source = "https://dramatiq.io/reference.html#environment-variables"
# settle_s = 10
# settings = { slots_are = "processes", prefetch = 16 }
#
# [tool.schedbench.variants.rabbitmq]
# summary = "one process per slot, one thread in each; acknowledged after it ran"
# services = ["rabbitmq"]
# guarantee = "at-least-once"
# source = "https://dramatiq.io/guide.html#message-brokers"
# heavy = true
# settle_s = 10
# settings = { slots_are = "processes" }
#
# [tool.schedbench.variants.rabbitmq-confirms]
# summary = "as rabbitmq, and each send waits until the broker has confirmed it"
# services = ["rabbitmq"]
# guarantee = "at-least-once"
# source = "https://dramatiq.io/reference.html#dramatiq.brokers.rabbitmq.RabbitmqBroker"
# heavy = true
# settle_s = 10
# settings = { slots_are = "processes", confirm = true }
# ///
"""Dramatiq on Redis or RabbitMQ. Slots aside, everything is the vendor's default, its middleware included.

The command line starts `processes x threads` (CPU count x 8 by default), which is the number of tasks that
may run at once: https://dramatiq.io/guide.html#workers. Each process prefetches twice its threads and then
sleeps 5 to 10 ms before it asks Redis again, so with few threads the prefetch decides the drain: the variant
`redis-prefetch` keeps the 16 of the default 8 threads.

A task that raises is retried up to 20 times, the first time after 15 to 30 s:
https://dramatiq.io/guide.html#message-retries. Messages of a worker that is gone come back once its heartbeat
is 60 s old, at a later command that happens to do maintenance (1 in 1000).
"""

from __future__ import annotations

from collections.abc import Sequence

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

from bench.agent import Adapter, Process, Task, context, run


def chosen() -> dramatiq.Broker:
    """The broker of this variant."""
    if "redis" in context().services:
        return RedisBroker(url=context().url("redis"))
    confirm = bool(context().settings.get("confirm"))
    return RabbitmqBroker(url=context().url("rabbitmq"), confirm_delivery=confirm)


broker = chosen()
dramatiq.set_broker(broker)


@dramatiq.actor
def work(task: int, kind: str, payload: str) -> None:
    """The body of every task."""
    run(task, kind, payload)


class Dramatiq(Adapter):
    """One client that sends to the queue `default`, one supervisor whose processes consume it."""

    def processes(self) -> Sequence[Process]:
        slots, settings = str(self.context.slots), self.context.settings
        processes, threads = (slots, "1") if settings["slots_are"] == "processes" else ("1", slots)
        shape = ("--processes", processes, "--threads", threads)
        # 0 is the library's word for twice the threads
        env = {"dramatiq_queue_prefetch": str(settings.get("prefetch", 0))}
        return [Process.python("worker", "-m", "dramatiq", __name__, *shape, env=env)]

    def submit(self, task: Task) -> None:
        work.send(task.id, task.work, task.payload)

    def close(self) -> None:
        broker.close()
