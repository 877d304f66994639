"""A harness's own folder: what it runs, written down, so that the next one can end what it left behind.

What a harness starts carries a marker in its environment, and its pids and control groups stand in files.
One that was killed cannot clean up; the next start does, and leaves alone what belongs to live ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench import cgroups

MARKER = "SCHEDBENCH_HARNESS"
PR_SET_CHILD_SUBREAPER = 36
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


def started(pid: int) -> int:
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


def alive(name: str) -> bool:
    """Whether the harness of that name (`Home.name`), one of this place, still runs."""
    pid, _, since = name.partition("-")
    return pid.isdigit() and since.isdigit() and started(int(pid)) == int(since)


def here() -> str:
    """Where a pid means the same process: this machine since it booted, and the namespace of its pids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot, space = socket.gethostname(), ""
    return re.sub(r"[^0-9a-z]", "", boot.lower())[:12] + "".join(filter(str.isdigit, space))


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
        self.name = f"{pid}-{started(pid)}"
        self.folder = state_folder() / self.name
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.hierarchy = cgroups.hierarchy()
        become_subreaper()
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
        if len(words) == 2 and all(map(str.isdigit, words)) and started(int(words[0])) == int(words[1]):
            found.add(int(words[0]))
    for line in _lines(folder / "cgroups"):
        found.update(cgroups.Group("cgroup2", Path(line)).pids())
    for pid in list(found):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(child.pid for child in psutil.Process(pid).children(recursive=True))
    return {pid for pid in found if started(pid)}


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
        if re.fullmatch(r"\d+-\d+", folder.name) and not alive(folder.name):
            killed += _clean(folder)
    return killed


def others() -> list[int]:
    """Pids of other harnesses of this user that are alive now: two that measure disturb each other."""
    root = state_folder()
    names = [folder.name for folder in root.iterdir()] if root.exists() else []
    pids = [int(name.partition("-")[0]) for name in names if alive(name)]
    return [pid for pid in pids if pid != os.getpid()]


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
