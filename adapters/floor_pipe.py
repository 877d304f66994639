# /// script
# requires-python = ">=3.11"
# dependencies = []
#
# [tool.schedbench]
# title = "Bare pipe"
# family = "floor"
# homepage = "https://man7.org/linux/man-pages/man7/pipe.7.html"
# capabilities = ["enqueue"]
# default = ["processes"]
#
# [tool.schedbench.variants.processes]
# summary = "one named pipe, one write per task, one worker process per slot"
# guarantee = "none"
# source = "https://man7.org/linux/man-pages/man7/fifo.7.html"
# queue_limit = 1024  # records of 64 bytes in the 64 KiB that a pipe holds by default
# settle_s = 2
# ///
"""A named pipe between the client and worker processes: what two processes and one kernel queue cost."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
from collections.abc import Sequence

from bench.agent import Adapter, Context, Process, Task, context, run

RECORD = struct.Struct("<Q56s")
"""One task, 64 bytes: id, then `work payload` padded with zeros.

All records have one size far below PIPE_BUF: writes are atomic, and a read finds whole records only.
"""

TEXT_BYTES = RECORD.size - 8
PIPE_NAME = "tasks"
QUEUE_LIMIT = 1024
PIPE_BYTES = 1 << 20
"""Asked for, so that bursts do not block the client; more than the limit above is never relied upon."""


class FloorPipe(Adapter):
    """The client's end of the pipe."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.pipe = -1

    def processes(self) -> Sequence[Process]:
        worker = Process.python("worker", "-m", "adapters.floor_pipe")
        return [worker] * self.context.slots

    def open(self) -> None:
        path = self.context.home / PIPE_NAME
        os.mkfifo(path)
        self.pipe = os.open(path, os.O_RDWR)  # both ways: opening does not wait for a worker to read
        try:
            fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError as error:
            logging.warning("the pipe keeps its default size: %s", error)
        size = fcntl.fcntl(self.pipe, fcntl.F_GETPIPE_SZ)
        if size < QUEUE_LIMIT * RECORD.size:
            raise OSError(f"the pipe holds {size} bytes, not {QUEUE_LIMIT * RECORD.size}: close other pipes")

    def submit(self, task: Task) -> None:
        text = f"{task.work} {task.payload}".encode()
        if len(text) > TEXT_BYTES:
            raise ValueError(f"work and payload take {len(text)} of {TEXT_BYTES} bytes: use less payload")
        os.write(self.pipe, RECORD.pack(task.id, text))

    def close(self) -> None:
        os.close(self.pipe)


def work(path: str) -> None:
    """Run tasks until the client has closed the pipe and it is empty."""
    pipe = os.open(path, os.O_RDONLY)
    while record := os.read(pipe, RECORD.size):
        task_id, text = RECORD.unpack(record)
        kind, _, payload = text.rstrip(b"\0").decode().partition(" ")
        try:
            run(task_id, kind, payload)
        except Exception:
            logging.exception("task %d raised", task_id)


if __name__ == "__main__":
    work(str(context().home / PIPE_NAME))
