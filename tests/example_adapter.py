# /// script
# requires-python = ">=3.11"
# dependencies = []
#
# [tool.schedbench]
# title = "Spool folder"
# family = "task queue"
# homepage = "https://en.wikipedia.org/wiki/Spooling"
# capabilities = ["enqueue"]
#
# [tool.schedbench.variants.poll]
# summary = "one file per task, claimed by renaming it; one worker process per slot polls every 10 ms"
# guarantee = "at-most-once"
# source = "https://docs.python.org/3/library/pathlib.html#pathlib.Path.rename"
# settle_s = 1
# settings = { poll_s = 0.01 }
# ///
"""A folder of files as a task queue: the smallest system with worker processes of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from bench.agent import Adapter, Process, Task, context, run


class Spool(Adapter):
    """Puts each task into the folder; the workers take it out."""

    def processes(self) -> Sequence[Process]:
        return [Process.python("worker", "-m", __name__)] * self.context.slots

    def open(self) -> None:
        (self.context.home / "spool").mkdir()

    def submit(self, task: Task) -> None:
        path = self.context.home / "spool" / f"{task.id:020}"
        path.write_text(f"{task.work} {task.payload}")
        path.rename(path.with_suffix(".task"))  # workers see whole files only


def work(spool: Path, poll_s: float) -> None:
    """Take the oldest task, run it, and go on until killed."""
    while True:
        for path in sorted(spool.glob("*.task")):
            with contextlib.suppress(FileNotFoundError):  # another worker was faster
                take(path.rename(path.with_suffix(f".{os.getpid()}")))
        time.sleep(poll_s)


def take(path: Path) -> None:
    """Run one task; a body that raises is logged, and the worker lives on."""
    kind, _, payload = path.read_text().partition(" ")
    try:
        run(int(path.stem), kind, payload)
    except Exception:
        logging.exception("task %s raised", path.stem)
    path.unlink()


if __name__ == "__main__":
    work(context().home / "spool", context().settings["poll_s"])
