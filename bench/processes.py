"""The processes of a cell: spawn them by role, know all their descendants, end every one of them.

Three nets, because each has a hole: control groups (need write access), the process tree below this
harness as a subreaper (needs Linux), and a marker in the environment of everything that was spawned
(some programs overwrite theirs). What outlives a harness that was killed is ended at the next start.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from bench import cgroups
from bench.errors import CellError, ProcessDied
from bench.harness import MARKER, Home, started
from bench.model import Role

LOG_LINES = 5
LOG_CHARACTERS = 500

MANY = 1000
"""Roles of so many processes that are gone are kept, before they are forgotten."""


@dataclass
class Child:
    """A process that we started ourselves; `start` starts its command once more."""

    role: str
    popen: subprocess.Popen[bytes]
    log: Path
    start: Callable[[], subprocess.Popen[bytes]]
    stopping: bool = False

    def last_lines(self) -> str:
        """The end of its log, on one line."""
        return last_lines(self.log)

    def ended(self) -> bool:
        """Whether it has exited."""
        return self.popen.poll() is not None

    def epitaph(self, name: str) -> str:
        """How it ended, and what it said last."""
        return (
            f"{name} exited with status {self.popen.returncode}; its last lines: "
            f"{self.last_lines() or '(none)'}"
        )


def last_lines(log: Path) -> str:
    """The end of a log, on one line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return " | ".join(lines[-LOG_LINES:])[-LOG_CHARACTERS:]


class Member(Protocol):
    """A part of a cell that is no process of ours, such as a container, and does not end with one of ours."""

    role: str
    log: Path
    stopping: bool

    def pids(self) -> list[int]:
        """Its live processes, as this machine numbers them."""

    def cpu_ns(self) -> int:
        """CPU time that it has used, in ns."""

    def ended(self) -> bool:
        """Whether it is over."""

    def epitaph(self, name: str) -> str:
        """How it ended, and what it said last."""

    def remove(self) -> None:
        """End it and take it away; raises CellError where that fails."""


class Group:
    """All processes of one cell, and the other members that were added to it."""

    def __init__(self, home: Home, name: str) -> None:
        self.home = home
        self.children: list[Child] = []
        self.others: list[Member] = []
        self.folder: Path | None = None
        self.groups: dict[str, cgroups.Group] = {}
        self._roles: dict[int, str] = {}
        self._reaped_ns: dict[str, int] = {}
        self._seen_ns: dict[int, int] = {}
        self._strangers = {process.pid for process in psutil.Process().children()}
        if home.hierarchy:
            self.folder = home.hierarchy.folder / f"schedbench-{home.name}-{name}"
            home.note("cgroups", str(self.folder))
            self.folder.mkdir()

    # -- starting

    def spawn(
        self,
        role: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Start a process in its own session, accounted to `role`, with output going to `log`."""
        command = list(argv)
        if self.folder is not None and self.home.hierarchy is not None:
            command = self._group(role).enter_command(command)

        def start() -> subprocess.Popen[bytes]:
            with log.open("ab") as output:
                popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**env, MARKER: self.home.name},
                    cwd=cwd,
                    pass_fds=pass_fds,
                    start_new_session=True,
                )
            self.home.note("pids", f"{popen.pid} {started(popen.pid)}")
            self._roles[popen.pid] = role
            return popen

        child = Child(role, start(), log, start)
        self.children.append(child)
        return child

    def restart(self, child: Child) -> None:
        """Start the command of a process that has exited once more."""
        child.popen = child.start()

    def _group(self, role: str) -> cgroups.Group:
        if role not in self.groups:
            assert self.folder is not None
            assert self.home.hierarchy is not None
            group = cgroups.Group(self.home.hierarchy.source, self.folder / role)
            self.home.note("cgroups", str(group.folder))
            group.folder.mkdir()
            self.groups[role] = group
        return self.groups[role]

    # -- looking

    @property
    def everything(self) -> list[Child | Member]:
        """All that was started and not ended again."""
        return [*self.children, *self.others]

    def members(self) -> dict[int, str]:
        """Every live process of this cell, descendants included, with its role."""
        return self._own() | {pid: other.role for other in self.others for pid in other.pids()}

    def _own(self) -> dict[int, str]:
        if self.groups:
            starting = {child.popen.pid: child.role for child in self.children if child.popen.poll() is None}
            return starting | {pid: role for role, group in self.groups.items() for pid in group.pids()}
        self._reap_orphans()
        found: dict[int, str] = {}
        for child in self.children:
            for pid in _tree(child.popen.pid):
                found[pid] = child.role
        for orphan in self._orphans():
            for pid in _tree(orphan):
                found[pid] = self._roles.get(pid) or self._roles.get(orphan) or Role.WORKER
        self._roles.update(found)
        if len(self._roles) > 2 * len(found) + MANY:  # a day's tasks may each have had a process
            roots = {child.popen.pid for child in self.children}
            kept = {pid: role for pid, role in self._roles.items() if pid in roots or psutil.pid_exists(pid)}
            self._roles = kept
        return found

    def below(self, child: Child) -> list[int]:
        """A live child and all its live descendants."""
        return _tree(child.popen.pid)

    def remains(self, role: str) -> list[int]:
        """Live processes of a role that are not below a live child: what is left of one that has exited."""
        live = [child for child in self.children if child.role == role and not child.ended()]
        below = {pid for child in live for pid in self.below(child)}
        return [pid for pid, its in self._own().items() if its == role and pid not in below]

    def above(self, pid: int) -> Child | None:
        """The child that a process is or descends from; one of its role, where its parents are gone."""
        role = self._own().get(pid)
        for child in self.children:
            if child.role == role and pid in self.below(child):
                return child
        return next((child for child in self.children if child.role == role), None)

    def _orphans(self) -> list[int]:
        """Processes of this cell whose parent has gone, so that they were handed to us as the subreaper."""
        known = self._strangers | {child.popen.pid for child in self.children}
        return [process.pid for process in psutil.Process().children() if process.pid not in known]

    def _reap_orphans(self) -> None:
        """Collect dead orphans, and the CPU they used."""
        for orphan in self._orphans():
            with contextlib.suppress(ChildProcessError):
                pid, _, usage = os.wait4(orphan, os.WNOHANG)
                if pid:
                    role = self._roles.pop(pid, Role.WORKER)
                    used_ns = round((usage.ru_utime + usage.ru_stime) * 1e9)
                    self._reaped_ns[role] = self._reaped_ns.get(role, 0) + used_ns
                    self._seen_ns.pop(pid, None)

    def cpu_ns(self, members: Mapping[int, str]) -> dict[str, int]:
        """CPU time used so far by role, in ns: exact from control groups, else a lower bound."""
        used = self._own_cpu_ns({pid: role for pid, role in members.items() if pid in self._roles})
        for other in self.others:
            used[other.role] = used.get(other.role, 0) + other.cpu_ns()
        return used

    def _own_cpu_ns(self, members: Mapping[int, str]) -> dict[str, int]:
        if self.groups:
            return {role: group.cpu_ns() for role, group in self.groups.items()}
        for pid in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = psutil.Process(pid).cpu_times()
                self._seen_ns[pid] = round(sum(times[:4]) * 1e9)
        used = dict(self._reaped_ns)
        roots = {child.popen.pid for child in self.children}
        # A dead process below a live parent is in its parent's own count already.
        self._seen_ns = {pid: ns for pid, ns in self._seen_ns.items() if pid in members or pid in roots}
        for pid, seen_ns in self._seen_ns.items():
            role = self._roles[pid]
            used[role] = used.get(role, 0) + seen_ns
        return used

    def check(self) -> None:
        """Raise if a process that should be running has exited.

        Raises:
            ProcessDied: with its role, exit status and last log lines.
        """
        self._check(self.everything)

    def check_others(self) -> None:
        """As `check`, of what is no process of ours."""
        self._check(self.others)

    def _check(self, members: Sequence[Child | Member]) -> None:
        for one in members:
            if not one.stopping and one.ended():
                raise ProcessDied(one.epitaph(one.role))

    # -- ending

    def stop(self, children: Sequence[Child], grace_s: float) -> list[int]:
        """SIGTERM each child, wait for it and all below it; returns pids that had to be killed."""
        roles = {child.role for child in children}
        for child in children:
            child.stopping = True
            if child.popen.poll() is None:
                child.popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while left := self._left(roles):
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        self._kill(roles)
        self.children = [child for child in self.children if child not in children]
        return left

    def kill(self) -> int | None:
        """End everything of this cell at once and remove its groups.

        Returns the CPU time in ns that all of it used; None where only a lower bound is known. Members that
        are no processes of ours are left to `remove_others`.
        """
        for one in self.everything:
            one.stopping = True
        self._kill(None)
        self.children = []
        used_ns = None
        if self.groups:
            with contextlib.suppress(FileNotFoundError):  # ended before, and its groups are gone
                used_ns = sum(self.cpu_ns({}).values())
        for group in self.groups.values():
            group.remove()
        if self.folder is not None:
            cgroups.Group("", self.folder).remove()
        return used_ns

    def remove_others(self) -> list[str]:
        """Take away the members that are no processes of ours; what is said of those that stay."""
        others, self.others = self.others, []
        left = []
        for other in others:
            try:
                other.remove()
            except CellError as error:
                left.append(str(error))
        return left

    def _left(self, roles: set[str] | None) -> list[int]:
        for child in self.children:
            child.popen.poll()
        return [pid for pid, role in self._own().items() if roles is None or role in roles]

    def _kill(self, roles: set[str] | None) -> None:
        deadline = time.monotonic() + 10
        while (left := self._left(roles)) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        for child in self.children:
            if roles is None or child.role in roles:
                with contextlib.suppress(subprocess.TimeoutExpired):  # in the kernel: the sweep ends it later
                    child.popen.wait(timeout=10)
        self._reap_orphans()


def _tree(pid: int) -> list[int]:
    """A live process and all its live descendants."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # one that ends now must not hide the others
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
    return found
