"""CPU accounting and membership of process trees by control group, where this user may write one.

A group counts the CPU of every process that was ever in it, of double-forked and already dead ones
too. Version 2 has `cpu.stat` in every group, even where no controller is enabled; version 1 has the
`cpuacct` hierarchy. Source: the kernel's admin-guide/cgroup-v2 and cgroup-v1/cpuacct.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE_VARIABLE = "SCHEDBENCH_CPU_SOURCE"
"""Set to `cgroup2`, `cgroup1` or `psutil` to force a source; otherwise the first that works."""


@dataclass(frozen=True)
class Hierarchy:
    """A place where this process may make groups: `cgroup2` or `cgroup1`, and the parent folder."""

    source: str
    folder: Path


@dataclass(frozen=True)
class Group:
    """One control group."""

    source: str
    folder: Path

    def enter_command(self, argv: list[str]) -> list[str]:
        """`argv` behind a shell that enters the group first, so that not one cycle runs outside it."""
        script = 'echo $$ > "$0" && exec "$@"'
        return ["/bin/sh", "-c", script, str(self.folder / "cgroup.procs"), *argv]

    def pids(self) -> list[int]:
        """The processes in the group now; empty when the group is gone."""
        try:
            return [int(line) for line in (self.folder / "cgroup.procs").read_text().split()]
        except OSError:  # it is gone, or going
            return []

    def cpu_ns(self) -> int:
        """CPU time used by all that ever ran in the group, in ns."""
        if self.source == "cgroup1":
            return int((self.folder / "cpuacct.usage").read_text())
        for line in (self.folder / "cpu.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "usage_usec":
                return int(value) * 1000
        raise OSError(f"no usage_usec in {self.folder}/cpu.stat")

    def kill(self) -> None:
        """SIGKILL every process in the group."""
        with contextlib.suppress(OSError):  # cgroup.kill came with Linux 5.14; v1 never had it
            (self.folder / "cgroup.kill").write_text("1")
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> bool:
        """Remove the group; false while something still runs in it."""
        try:
            self.folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


def _mounts() -> Iterator[tuple[str, str, Path]]:
    """`(file system, super options, mount point)` of every control group mount."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            yield kind, options, Path(left.split(" ")[4])


def _path(controller: str, pid: int | str = "self") -> str:
    """A process's path in the hierarchy of `controller` (empty for version 2)."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") if controller else controllers == "":
            return path
    return "/"


def _candidates(pid: int | str = "self") -> Iterator[Hierarchy]:
    for kind, options, point in _mounts():
        if kind == "cgroup2":
            yield Hierarchy("cgroup2", Path(f"{point}{_path('', pid)}"))
        elif "cpuacct" in options.split(","):
            yield Hierarchy("cgroup1", Path(f"{point}{_path('cpuacct', pid)}"))


def holding(pid: int, name: str) -> Group | None:
    """The group of a process whose path has `name` in it; None where there is none or it cannot be read."""
    with contextlib.suppress(OSError):
        for place in _candidates(pid):
            group = Group(place.source, place.folder)
            if name in str(place.folder) and group.folder.exists():
                group.cpu_ns()
                return group
    return None


def hierarchy() -> Hierarchy | None:
    """Where groups can be made here, version 2 first; None where this user may not, or off Linux."""
    forced = os.environ.get(SOURCE_VARIABLE, "")
    try:
        found = sorted(_candidates(), key=lambda place: place.source, reverse=True)
    except FileNotFoundError:
        return None
    for place in found:
        if forced and place.source != forced:
            continue
        probe = Group(place.source, place.folder / f"schedbench-probe-{os.getpid()}")
        try:
            probe.folder.mkdir()
            probe.cpu_ns()
            (probe.folder / "cgroup.procs").open("a").close()
        except OSError:
            continue
        finally:
            probe.remove()
        return place
    return None
