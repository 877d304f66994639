"""The floor of the whole harness: one thread takes tasks from a queue and stamps them. Prints µs per task."""

from __future__ import annotations

import sys
import threading
from queue import SimpleQueue
from time import monotonic_ns

from bench.agent import Task, run

queue: SimpleQueue[Task | None] = SimpleQueue()
tasks = int(sys.argv[1])
spans: list[int] = []


def work() -> None:
    """Time the tasks from the first start to the last end."""
    began_ns = monotonic_ns()
    while (task := queue.get()) is not None:
        run(task.id, task.work, task.payload)
    spans.append(monotonic_ns() - began_ns)


for index in range(tasks):
    queue.put(Task(index))
queue.put(None)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(spans[0] / tasks / 1e3)
