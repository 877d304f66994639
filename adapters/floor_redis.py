# /// script
# requires-python = ">=3.11"
# dependencies = ["redis~=8.1"]
#
# [tool.schedbench]
# title = "Raw Redis list"
# family = "floor"
# homepage = "https://redis.io/docs/latest/commands/brpop/"
# capabilities = ["enqueue"]
# default = ["redis"]
#
# [tool.schedbench.variants.redis]
# summary = "LPUSH in the client, BRPOP in one process per slot; nothing is acknowledged"
# services = ["redis"]
# guarantee = "at-most-once"
# source = "https://redis.io/docs/latest/commands/lmove/#pattern-reliable-queue"
# settle_s = 2
# ///
"""A Redis list with a process per slot: what any queue on Redis costs at least.

`python -m` on this module is one worker.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Sequence

from redis import Redis

from bench.agent import Adapter, Process, Task, context, run

KEY = "schedbench"
POLL_S = 1
"""How long one BRPOP blocks, and so how long an idle worker takes to notice that it should stop."""


class RedisList(Adapter):
    """One list: pushed on the left, popped on the right."""

    def processes(self) -> Sequence[Process]:
        return [Process.python("worker", "-m", __name__)] * self.context.slots

    def open(self) -> None:
        self.redis = Redis.from_url(self.context.url("redis"))

    def submit(self, task: Task) -> None:
        self.redis.lpush(KEY, json.dumps((task.id, task.work, task.payload)))

    def close(self) -> None:
        self.redis.close()


def consume(redis: Redis, stopped: threading.Event) -> None:
    """Run tasks from the list until `stopped` is set; a task that raises is reported and is done."""
    while not stopped.is_set():
        popped = redis.brpop([KEY], timeout=POLL_S)
        if popped is None:
            continue
        task, work, payload = json.loads(popped[1])
        try:
            run(task, work, payload)
        except Exception:
            logging.exception("task %d raised", task)


if __name__ == "__main__":
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    consume(Redis.from_url(context().url("redis")), stop)
