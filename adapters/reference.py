# /// script
# requires-python = ">=3.11"
# dependencies = []
#
# [tool.schedbench]
# title = "Reference queue"
# family = "floor"
# homepage = "https://docs.python.org/3/library/queue.html"
# capabilities = ["enqueue", "periodic", "retry"]
# default = ["threads"]
#
# [tool.schedbench.variants.threads]
# summary = "queue.SimpleQueue and one thread per slot, in the client's process"
# guarantee = "none"
# source = "https://docs.python.org/3/library/queue.html#simplequeue-objects"
# settle_s = 2
# ///
"""An in-process queue: the fake that the harness is tested on, and the floor beside every figure."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from queue import SimpleQueue

from bench.agent import Adapter, Context, InProcess, Periodic, Schedule, Task, run


class Reference(Adapter, InProcess, Periodic):
    """Threads that take tasks from a queue and run them, and one that queues what is due again."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.queue: SimpleQueue[Task | None] = SimpleQueue()
        self.threads: list[threading.Thread] = []

    def submit(self, task: Task) -> None:
        self.queue.put(task)

    def start(self) -> None:
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(self.context.slots)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        for _ in self.threads:
            self.queue.put(None)
        for thread in self.threads:
            thread.join()

    def register(self, schedule: Schedule) -> None:
        threading.Thread(target=self.tick, args=(schedule,), daemon=True).start()

    def tick(self, schedule: Schedule) -> None:
        task, due_s = Task(schedule.id, schedule.work), time.monotonic()
        while True:
            due_s += schedule.every_s
            time.sleep(max(0.0, due_s - time.monotonic()))
            self.submit(task)

    def work(self) -> None:
        while (task := self.queue.get()) is not None:
            try:
                run(task.id, task.work, task.payload)
            except Exception as error:  # noqa: BLE001 - a queue of callables must outlive any of them
                print(f"task {task.id}: {error!r}")
                if task.retries:
                    self.queue.put(replace(task, retries=task.retries - 1))
