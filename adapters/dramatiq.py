# /// script
# requires-python = ">=3.11"
# dependencies = ["dramatiq[rabbitmq,redis]~=2.2"]
#
# [tool.schedbench]
# title = "Dramatiq"
# family = "task queue"
# homepage = "https://dramatiq.io"
# capabilities = ["enqueue", "retry"]
# default = ["redis", "redis-prefetch"]
#
# [tool.schedbench.parity]
# slots = ["worker processes of one thread each: --processes", "https://dramatiq.io/guide.html#workers"]
# runs_in = ["the thread of a worker process", "https://dramatiq.io/guide.html#workers"]
# acknowledgement = ["after it ran; what a dead worker held comes back", "https://dramatiq.io/advanced.html#message-persistence"]
# persistence = ["what is queued, as of the last snapshot of Redis", "https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/"]
# results = ["none: the Results middleware is off by default", "https://dramatiq.io/advanced.html#message-results"]
# prefetch = ["2 per slot, the one that runs included", "https://dramatiq.io/reference.html#environment-variables"]
# polling = ["asks Redis every 5 to 10 ms, up to 1 s when idle", "https://dramatiq.io/reference.html#environment-variables"]
#
# [tool.schedbench.changed]
# --processes = ["slots, not one per core", "a slot means the same for every system", "https://dramatiq.io/guide.html#workers"]
# --threads = ["1, not 8", "a slot means the same for every system", "https://dramatiq.io/guide.html#workers"]
# max_retries = ["as asked, not 20, where a task is to be retried", "as often as for every system", "https://dramatiq.io/guide.html#message-retries"]
# min_backoff = ["1 ms, not 15 s, where a task is to be retried", "retries wait for nothing", "https://dramatiq.io/guide.html#message-retries"]
# url = ["a server of the cell, with a password", "every cell has fresh servers of its own", "https://dramatiq.io/reference.html#brokers"]
#
# [tool.schedbench.promises]
# broker-kill = ["lost", "what Redis took since its last snapshot is gone", 25, "https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/"]
# task-process = ["redelivered", "redelivered once its heartbeat is 60 s old and some command does maintenance", 30, "https://dramatiq.io/advanced.html#message-persistence"]
# worker = ["redelivered", "docs: redelivered later; its processes live on as orphans and run what they hold", 30, "https://dramatiq.io/advanced.html#message-persistence"]
# broker = ["redelivered", "queue is in the snapshot; consumers start again after 3 s; acks are tried until done", 30, "https://dramatiq.io/reference.html#environment-variables"]
# cut = ["redelivered", "reset connections: as a broker restart; silent ones: 5 s socket timeout, then 3 s", 30, "https://github.com/Bogdanp/dramatiq/blob/v2.2.0/dramatiq/worker.py"]
# worker-pause = ["kept", "not run twice: 10 s is below the heartbeat of 60 s", 0, "https://dramatiq.io/reference.html#dramatiq.brokers.redis.RedisBroker"]
# poison = ["redelivered", "loops for ever: retries count exceptions, not dead processes", 30, "https://github.com/Bogdanp/dramatiq/pull/383"]
# raise = ["redelivered", "20 retries, first after 15-30 s, then twice as long each, at most 7 days; then dead", 30, "https://dramatiq.io/guide.html#message-retries"]
# unserialisable = ["refused", "send() raises: what json cannot encode `will fail immediately`", 0, "https://dramatiq.io/best_practices.html#simple-messages"]
#
# [tool.schedbench.variants.redis]
# summary = "one process per slot, one thread in each; acknowledged after it ran"
# services = ["redis"]
# guarantee = "at-least-once"
# source = "https://dramatiq.io/advanced.html#message-persistence"
# settle_s = 10
# settings = { slots_are = "processes" }
#
# [tool.schedbench.variants.redis.traced]
# broker-pause = ["what a worker fetched and got no answer for waits until it has ended: tests/traces/dramatiq_lost_answer.py", "https://github.com/Bogdanp/dramatiq/blob/v2.2.1/dramatiq/brokers/redis/dispatch.lua"]
# cut-silent = ["what a worker fetched and got no answer for waits until it has ended: tests/traces/dramatiq_lost_answer.py", "https://github.com/Bogdanp/dramatiq/blob/v2.2.1/dramatiq/brokers/redis/dispatch.lua"]
#
# [tool.schedbench.variants.redis.scaled]
# heartbeat_timeout = [20000, "20 s, not 60 s", "https://dramatiq.io/reference.html#dramatiq.brokers.redis.RedisBroker"]
# maintenance_chance = [1000000, "at every command, not one in 1000", "https://dramatiq.io/reference.html#dramatiq.brokers.redis.RedisBroker"]
#
# [tool.schedbench.variants.redis-threads]
# summary = "one process, one thread per slot; acknowledged after it ran"
# services = ["redis"]
# guarantee = "at-least-once"
# source = "https://dramatiq.io/advanced.html#message-persistence"
# settle_s = 10
# settings = { slots_are = "threads" }
#
# [tool.schedbench.variants.redis-threads.parity]
# slots = ["threads of one worker process: --threads", "https://dramatiq.io/guide.html#workers"]
# runs_in = ["a thread of the worker process", "https://dramatiq.io/guide.html#workers"]
#
# [tool.schedbench.variants.redis-threads.changed]
# --processes = ["1, not one per core", "a slot means the same for every system", "https://dramatiq.io/guide.html#workers"]
# --threads = ["slots, not 8", "a slot means the same for every system", "https://dramatiq.io/guide.html#workers"]
#
# [tool.schedbench.variants.redis-threads.traced]
# broker-pause = ["what a worker fetched and got no answer for waits until it has ended: tests/traces/dramatiq_lost_answer.py", "https://github.com/Bogdanp/dramatiq/blob/v2.2.1/dramatiq/brokers/redis/dispatch.lua"]
# cut-silent = ["what a worker fetched and got no answer for waits until it has ended: tests/traces/dramatiq_lost_answer.py", "https://github.com/Bogdanp/dramatiq/blob/v2.2.1/dramatiq/brokers/redis/dispatch.lua"]
#
# [tool.schedbench.variants.redis-threads.scaled]
# heartbeat_timeout = [20000, "20 s, not 60 s", "https://dramatiq.io/reference.html#dramatiq.brokers.redis.RedisBroker"]
# maintenance_chance = [1000000, "at every command, not one in 1000", "https://dramatiq.io/reference.html#dramatiq.brokers.redis.RedisBroker"]
#
# [tool.schedbench.variants.redis-prefetch]
# summary = "one process per slot, one thread in each, 16 tasks prefetched by each; acknowledged after it ran"
# services = ["redis"]
# guarantee = "at-least-once"
# source = "https://dramatiq.io/reference.html#environment-variables"
# settle_s = 10
# settings = { slots_are = "processes", prefetch = 16 }
#
# [tool.schedbench.variants.redis-prefetch.parity]
# prefetch = ["16 per slot, the one that runs included", "https://dramatiq.io/reference.html#environment-variables"]
#
# [tool.schedbench.variants.redis-prefetch.changed]
# dramatiq_queue_prefetch = ["16, not 2 per thread", "as a process of the default 8 threads has", "https://dramatiq.io/reference.html#environment-variables"]
#
# [tool.schedbench.variants.redis-prefetch.traced]
# broker-pause = ["what a worker fetched and got no answer for waits until it has ended: tests/traces/dramatiq_lost_answer.py", "https://github.com/Bogdanp/dramatiq/blob/v2.2.1/dramatiq/brokers/redis/dispatch.lua"]
# cut-silent = ["what a worker fetched and got no answer for waits until it has ended: tests/traces/dramatiq_lost_answer.py", "https://github.com/Bogdanp/dramatiq/blob/v2.2.1/dramatiq/brokers/redis/dispatch.lua"]
#
# [tool.schedbench.variants.redis-prefetch.scaled]
# heartbeat_timeout = [20000, "20 s, not 60 s", "https://dramatiq.io/reference.html#dramatiq.brokers.redis.RedisBroker"]
# maintenance_chance = [1000000, "at every command, not one in 1000", "https://dramatiq.io/reference.html#dramatiq.brokers.redis.RedisBroker"]
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
# [tool.schedbench.variants.rabbitmq.parity]
# persistence = ["what is queued: durable queue, persistent messages", "https://dramatiq.io/advanced.html#message-persistence"]
# polling = ["pushed by the broker, as far as the prefetch goes", "https://www.rabbitmq.com/docs/consumer-prefetch"]
#
# [tool.schedbench.variants.rabbitmq.promises]
# broker-kill = ["lost", "persistent messages that the broker has not written yet are gone: no confirms", 30, "https://www.rabbitmq.com/docs/confirms#when-publishes-are-confirmed"]
# task-process = ["redelivered", "requeued by the broker at once, run when the supervisor is up again", 10, "https://dramatiq.io/advanced.html#message-persistence"]
# worker = ["redelivered", "docs: redelivered later; its processes live on as orphans and run what they hold", 10, "https://dramatiq.io/advanced.html#message-persistence"]
# broker = ["redelivered", "durable queue, persistent messages; what was held is requeued and may run twice", 30, "https://dramatiq.io/advanced.html#message-persistence"]
# cut = ["redelivered", "noticed by heartbeat (60 s) or reset; what was held is requeued, may run twice", 30, "https://www.rabbitmq.com/docs/heartbeats"]
# worker-pause = ["kept", "not run twice: 10 s is below the AMQP heartbeat of 60 s", 0, "https://www.rabbitmq.com/docs/heartbeats"]
# poison = ["redelivered", "loops for ever: a classic queue has no delivery limit", 10, "https://github.com/Bogdanp/dramatiq/issues/505"]
#
# [tool.schedbench.variants.rabbitmq-confirms]
# summary = "as rabbitmq, and each send waits until the broker has confirmed it"
# services = ["rabbitmq"]
# guarantee = "at-least-once"
# source = "https://dramatiq.io/reference.html#dramatiq.brokers.rabbitmq.RabbitmqBroker"
# heavy = true
# settle_s = 10
# settings = { slots_are = "processes", confirm = true }
#
# [tool.schedbench.variants.rabbitmq-confirms.parity]
# persistence = ["what is queued: durable queue, persistent messages", "https://dramatiq.io/advanced.html#message-persistence"]
# polling = ["pushed by the broker, as far as the prefetch goes", "https://www.rabbitmq.com/docs/consumer-prefetch"]
#
# [tool.schedbench.variants.rabbitmq-confirms.changed]
# confirm_delivery = ["true", "what it costs to know that the broker has a task", "https://dramatiq.io/reference.html#dramatiq.brokers.rabbitmq.RabbitmqBroker"]
#
# [tool.schedbench.variants.rabbitmq-confirms.promises]
# broker-kill = ["redelivered", "what the broker has confirmed is on disk", 30, "https://www.rabbitmq.com/docs/confirms#when-publishes-are-confirmed"]
# task-process = ["redelivered", "requeued by the broker at once, run when the supervisor is up again", 10, "https://dramatiq.io/advanced.html#message-persistence"]
# worker = ["redelivered", "docs: redelivered later; its processes live on as orphans and run what they hold", 10, "https://dramatiq.io/advanced.html#message-persistence"]
# broker = ["redelivered", "durable queue, persistent messages; what was held is requeued and may run twice", 30, "https://dramatiq.io/advanced.html#message-persistence"]
# cut = ["redelivered", "noticed by heartbeat (60 s) or reset; what was held is requeued, may run twice", 30, "https://www.rabbitmq.com/docs/heartbeats"]
# worker-pause = ["kept", "not run twice: 10 s is below the AMQP heartbeat of 60 s", 0, "https://www.rabbitmq.com/docs/heartbeats"]
# poison = ["redelivered", "loops for ever: a classic queue has no delivery limit", 10, "https://github.com/Bogdanp/dramatiq/issues/505"]
# ///
"""Dramatiq on Redis or RabbitMQ. Slots aside, everything is the vendor's default, its middleware included.

The command line starts `processes x threads` (CPU count x 8 by default), which is the number of tasks that
may run at once: https://dramatiq.io/guide.html#workers. Each process prefetches twice its threads and then
sleeps 5 to 10 ms before it asks Redis again, so with few threads the prefetch decides the drain: the variant
`redis-prefetch` keeps the 16 of the default 8 threads.

A task that raises is retried up to 20 times, the first time after 15 to 30 s:
https://dramatiq.io/guide.html#message-retries. One that is to be retried has options of its own, with the
shortest backoff that there is: 1 to 2 ms, then twice as long each time. Messages of a worker that is gone come back once its heartbeat
is 60 s old, at a later command that happens to do maintenance (1 in 1000).

It has no schedules: its cookbook has APScheduler send the messages
(https://dramatiq.io/cookbook.html#scheduling-messages).
"""

from __future__ import annotations

from collections.abc import Sequence

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

from bench.agent import Adapter, Process, Task, context, run

BACKOFF_MS = 1


def chosen() -> dramatiq.Broker:
    """The broker of this variant."""
    settings = context().settings
    if "redis" in context().services:
        constants = {
            key: settings[key] for key in ("heartbeat_timeout", "maintenance_chance") if key in settings
        }
        return RedisBroker(url=context().url("redis"), **constants)
    confirm = bool(settings.get("confirm"))
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
        if task.retries:
            words = (task.id, task.work, task.payload)
            work.send_with_options(args=words, max_retries=task.retries, min_backoff=BACKOFF_MS)
        else:
            work.send(task.id, task.work, task.payload)

    def close(self) -> None:
        broker.close()
