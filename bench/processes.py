"""The processes of a cell: spawn them by role, know all their descendants, end every one of them.

Three nets, because each has a hole: control groups (need write access), the process tree below this
harness as a subreaper (needs Linux), and a marker in the environment of everything that was spawned
(some programs overwrite theirs). What outlives a harness that was killed is ended at the next start.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import cgroups
from bench.errors import ProcessDied
from bench.model import Role

MARKER = "SCHEDBENCH_HARNESS"
PR_SET_CHILD_SUBREAPER = 36
LOG_LINES = 5
LOG_CHARACTERS = 500
STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Put off the signals that end a run until the block is done; the first of them is then raised.

    Handlers, not a signal mask: libraries start threads, and any of those would take the signal.
    """
    caught: list[int] = []
    before = {one: signal.signal(one, lambda number, _: caught.append(number)) for one in STOP_SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        if caught:
            signal.raise_signal(caught[0])


@dataclass
class Child:
    """A process that we started ourselves."""

    role: str
    popen: subprocess.Popen[bytes]
    log: Path
    stopping: bool = False

    def last_lines(self) -> str:
        """The end of its log, on one line."""
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(errors="replace"))
        lines = [line.strip() for line in plain.splitlines() if line.strip()]
        return " | ".join(lines[-LOG_LINES:])[-LOG_CHARACTERS:]


def _started(pid: int) -> int:
    """Start time of a process in clock ticks since boot: with the pid, its identity. 0 if it is gone.

    A zombie is gone: not every init of a container collects those it is handed.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        if sys.platform.startswith("linux"):
            return 0
        with contextlib.suppress(psutil.NoSuchProcess):
            return int(psutil.Process(pid).create_time() * 100)
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def state_folder() -> Path:
    """Where live harnesses of this user keep what must be cleaned up after them."""
    return Path(tempfile.gettempdir()) / f"schedbench-{os.getuid()}"


def become_subreaper() -> bool:
    """Have orphaned descendants handed to this process instead of init; false where unsupported."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


class Home:
    """This harness's own folder below `state_folder()`: temporary files, and the names of its processes."""

    def __init__(self) -> None:
        pid = os.getpid()
        self.name = f"{pid}-{_started(pid)}"
        self.folder = state_folder() / self.name
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.hierarchy = cgroups.hierarchy()
        self.subreaper = become_subreaper()
        os.environ[MARKER] = self.name  # for what runs beside the cells: an installer and its children

    @property
    def cpu_source(self) -> str:
        """Where CPU figures come from: `cgroup2`, `cgroup1` or `psutil` (a lower bound)."""
        return self.hierarchy.source if self.hierarchy else "psutil"

    def note(self, kind: str, value: str) -> None:
        """Write down something that must be ended should this harness be killed."""
        with (self.folder / kind).open("a", encoding="utf-8") as file:
            file.write(value + "\n")

    def close(self) -> None:
        """End whatever a cell left behind and remove the folder."""
        os.environ.pop(MARKER, None)
        _clean(self.folder)


def _marked(name: str) -> Iterator[int]:
    """Processes that carry the marker of harness `name` in their environment."""
    wanted = f"{MARKER}={name}".encode()
    for pid in set(psutil.pids()) - {os.getpid()}:
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                yield pid


def _remains(folder: Path) -> set[int]:
    """Processes that a dead harness left behind."""
    found = set(_marked(folder.name))
    for line in _lines(folder / "pids"):
        words = line.split()
        if len(words) == 2 and all(map(str.isdigit, words)) and _started(int(words[0])) == int(words[1]):
            found.add(int(words[0]))
    for line in _lines(folder / "cgroups"):
        found.update(cgroups.Group("cgroup2", Path(line)).pids())
    for pid in list(found):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(child.pid for child in psutil.Process(pid).children(recursive=True))
    return {pid for pid in found if _started(pid)}


def _lines(path: Path) -> list[str]:
    """The lines of a file that another harness may be removing, or have been killed while writing."""
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []


def sweep() -> list[int]:
    """End what harnesses that are no longer alive left running; returns the pids that were killed."""
    killed: list[int] = []
    root = state_folder()
    for folder in sorted(root.iterdir()) if root.exists() else ():
        pid, _, started = folder.name.partition("-")
        if pid.isdigit() and started.isdigit() and _started(int(pid)) != int(started):
            killed += _clean(folder)
    return killed


def others() -> list[int]:
    """Pids of other harnesses of this user that are alive now: two that measure disturb each other."""
    root = state_folder()
    names = [folder.name.partition("-") for folder in root.iterdir()] if root.exists() else []
    return [
        int(pid)
        for pid, _, started in names
        if pid.isdigit()
        and int(pid) != os.getpid()
        and started.isdigit()
        and _started(int(pid)) == int(started)
    ]


def _clean(folder: Path) -> list[int]:
    """End all that a harness left running and remove its folder; returns the pids that were killed."""
    killed: list[int] = []
    deadline = time.monotonic() + 5
    while (remains := _remains(folder)) and time.monotonic() < deadline:
        for pid in remains:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed += [pid for pid in remains if pid not in killed]
        time.sleep(0.02)
    for line in reversed(_lines(folder / "cgroups")):
        cgroups.Group("cgroup2", Path(line)).remove()
    shutil.rmtree(folder, ignore_errors=True)
    return killed


class Group:
    """All processes of one cell."""

    def __init__(self, home: Home, name: str) -> None:
        self.home = home
        self.children: list[Child] = []
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
        self.home.note("pids", f"{popen.pid} {_started(popen.pid)}")
        child = Child(role, popen, log)
        self.children.append(child)
        self._roles[popen.pid] = role
        return child

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

    def members(self) -> dict[int, str]:
        """Every live process of this cell, descendants included, with its role."""
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
        return found

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
        if self.groups:
            return {role: group.cpu_ns() for role, group in self.groups.items()}
        for pid in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = psutil.Process(pid).cpu_times()
                self._seen_ns[pid] = round(sum(times[:4]) * 1e9)
        used = dict(self._reaped_ns)
        roots = {child.popen.pid for child in self.children}
        for pid, seen_ns in self._seen_ns.items():
            # A dead process below a live parent is in its parent's own count already.
            if pid in members or pid in roots:
                role = self._roles[pid]
                used[role] = used.get(role, 0) + seen_ns
        return used

    def check(self) -> None:
        """Raise if a process that should be running has exited.

        Raises:
            ProcessDied: with its role, exit status and last log lines.
        """
        for child in self.children:
            if not child.stopping and child.popen.poll() is not None:
                raise ProcessDied(
                    f"{child.role} exited with status {child.popen.returncode}; its last lines: "
                    f"{child.last_lines() or '(none)'}"
                )

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

    def kill(self) -> None:
        """End everything of this cell at once and remove its groups."""
        for child in self.children:
            child.stopping = True
        self._kill(None)
        self.children = []
        for group in self.groups.values():
            group.remove()
        if self.folder is not None:
            cgroups.Group("", self.folder).remove()

    def _left(self, roles: set[str] | None) -> list[int]:
        for child in self.children:
            child.popen.poll()
        return [pid for pid, role in self.members().items() if roles is None or role in roles]

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
