"""What keeps a system running in production: a process that exits is ended as a whole and started again.

As systemd does with `Restart=always` and `KillMode=control-group`: what is left below a main process that
has exited gets a SIGTERM, and SIGKILL where that does not help; a while later the command runs again.
https://www.freedesktop.org/software/systemd/man/latest/systemd.service.html#Restart=
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any, Final

from bench.model import Role
from bench.processes import Child, Group

RESTART_S: Final = 1.0
"""From the exit of a process to its restart, at least. systemd's own default is 0.1 s."""

STOP_S: Final = 10.0
"""What is left of it is killed after so long. systemd's own default is 90 s."""


class Supervisor:
    """Watches the children of a group, but for clients: they would come back without what they were given.

    `restarts` has an entry for each process that it started again: `role`, `status` (the exit status, or
    minus the signal), `ended_ns` and `again_ns`.
    """

    def __init__(self, group: Group) -> None:
        self.restarts: list[dict[str, Any]] = []
        self._group = group
        self._ended_s: dict[int, float] = {}

    def look(self) -> None:
        """Start again what has been down for long enough."""
        for child in self._group.children:
            if child.role != Role.CLIENT and not child.stopping and child.ended():
                self._bring_back(child)

    def _bring_back(self, child: Child) -> None:
        pid, now_s = child.popen.pid, time.monotonic()
        left = self._group.remains(child.role)
        if pid not in self._ended_s:
            self._ended_s[pid] = now_s
            send(left, signal.SIGTERM)
        down_s = now_s - self._ended_s[pid]
        if left and down_s > STOP_S:
            send(left, signal.SIGKILL)
        elif not left and down_s >= RESTART_S:
            status = child.popen.returncode
            self._group.restart(child)
            ended_ns, again_ns = round(self._ended_s.pop(pid) * 1e9), time.monotonic_ns()
            self.restarts.append(
                {"role": child.role, "status": status, "ended_ns": ended_ns, "again_ns": again_ns}
            )


def send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to each process that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
