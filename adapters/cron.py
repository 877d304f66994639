# /// script
# requires-python = ">=3.11"
# dependencies = []
#
# [tool.schedbench]
# title = "cron"
# family = "pattern"
# homepage = "https://tracker.debian.org/pkg/cron"
# capabilities = ["periodic", "cron"]
# default = []
#
# [tool.schedbench.parity]
# slots = ["no bound: each run is a process of its own", "https://manpages.debian.org/bookworm/cron/cron.8.en.html#NOTES"]
# runs_in = ["a new Python, started by a shell for each run", "https://manpages.debian.org/bookworm/cron/crontab.5.en.html#DESCRIPTION"]
# acknowledgement = ["when its minute comes: what fails is not run again", "https://manpages.debian.org/bookworm/cron/cron.8.en.html#NOTES"]
# persistence = ["crontabs are files; a minute without it is lost", "https://manpages.debian.org/bookworm/cron/cron.8.en.html#NOTES"]
# results = ["none: what a job prints is mailed", "https://manpages.debian.org/bookworm/cron/crontab.5.en.html#DESCRIPTION"]
# prefetch = ["none: crontabs are looked through every minute", "https://manpages.debian.org/bookworm/cron/cron.8.en.html#NOTES"]
# polling = ["wakes up every minute", "https://manpages.debian.org/bookworm/cron/cron.8.en.html#NOTES"]
#
# [tool.schedbench.changed]
# -f = ["given: it stays in the foreground", "the harness watches and ends it", "https://manpages.debian.org/bookworm/cron/cron.8.en.html#OPTIONS"]
# "/etc/cron.d" = ["a folder of the cell's own, like all it reads", "no job but ours, and the machine's cron is left alone", "https://manpages.debian.org/bookworm/util-linux/unshare.1.en.html"]
# MAILTO = ["empty", "nobody reads the mail", "https://manpages.debian.org/bookworm/cron/crontab.5.en.html#DESCRIPTION"]
# HOME = ["the cell's, not root's", "a job starts there", "https://manpages.debian.org/bookworm/cron/crontab.5.en.html#DESCRIPTION"]
#
# [tool.schedbench.variants.debian]
# summary = "one line of a crontab: a new Python every so many whole minutes; schedules only"
# services = ["cron"]
# guarantee = "at-most-once"
# source = "https://manpages.debian.org/bookworm/cron/cron.8.en.html#NOTES"
# every_s = 60
# ///
"""The cron daemon of Debian: the pattern that all the libraries replace.

A job gets next to nothing of the daemon's environment, so its line reads the cell's from a file. It is started
by the shell that reads that, in the shell's place.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.agent import Adapter, Periodic, Process, Schedule, Task


class Cron(Adapter, Periodic):
    """A crontab of one line, and the daemon that is started once it is there."""

    def submit(self, task: Task) -> None:
        raise NotImplementedError("cron runs nothing but schedules")

    def register(self, schedule: Schedule) -> Sequence[Process]:
        cron = self.context.services["cron"]
        exports = [f"export {name}={shlex.quote(value)}\n" for name, value in os.environ.items()]
        environ = written(self.context.home / "environ", "".join(exports))
        body = f"from bench.agent import run; run({schedule.id}, {schedule.work!r})"
        command = f". {shlex.quote(str(environ))}; exec {shlex.join([sys.executable, '-c', body])}"
        minutes = int(schedule.every_s) // 60
        line = f"*/{minutes} * * * * root " + command.replace("%", r"\%")
        written(Path(cron["crontabs"], "schedbench"), f'MAILTO=""\nHOME={self.context.home}\n{line}\n')
        return [Process("scheduler", ["/bin/sh", cron["start"]])]


def written(path: Path, text: str) -> Path:
    """A new file that only root may read: the environment may hold secrets, and cron wants no other writer."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path
