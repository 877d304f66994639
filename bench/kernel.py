"""What the kernel tells of this machine, read from its files: processor, clocks, limits of control groups.

Every function takes the folder that `/proc` and `/sys` lie in, and answers with an empty text, zero or None
where a file is missing: off Linux, in a sandbox, on a processor without that knob.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
CPU = "sys/devices/system/cpu"
CLOCKS = "sys/devices/system/clocksource/clocksource0"


def read(root: Path, path: str) -> str:
    """The text of a file below `root`, or nothing."""
    with contextlib.suppress(OSError):
        return (root / path).read_text(encoding="utf-8", errors="replace").strip()
    return ""


def cpu_name(root: Path = ROOT) -> str:
    """The model of the processor."""
    return next(_cpuinfo(root, "model name"), "")


def virtualisation(root: Path = ROOT) -> str:
    """`container`, `virtual machine VENDOR`, the vendor of the hardware, or `none seen`."""
    vendor = read(root, "sys/class/dmi/id/sys_vendor")
    if any((root / name).exists() for name in (".dockerenv", "run/.containerenv")):
        return "container"
    if "hypervisor" in next(_cpuinfo(root, "flags"), "").split():
        return f"virtual machine {vendor}".strip()
    return vendor or "none seen"


def _cpuinfo(root: Path, key: str) -> Iterator[str]:
    for line in read(root, "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            yield value.strip()


def governor(root: Path = ROOT) -> str:
    """Who chooses the frequency of the first CPU."""
    return read(root, f"{CPU}/cpu0/cpufreq/scaling_governor")


def turbo(root: Path = ROOT) -> bool | None:
    """Whether a CPU may run above its nominal frequency for a while; None where the kernel does not say.

    Source: the kernel's admin-guide/pm/intel_pstate and admin-guide/pm/cpufreq.
    """
    if forbidden := read(root, f"{CPU}/intel_pstate/no_turbo"):
        return forbidden == "0"
    allowed = read(root, f"{CPU}/cpufreq/boost")
    return allowed == "1" if allowed else None


def smt(root: Path = ROOT) -> bool | None:
    """Whether two CPUs of this kernel are threads of one core; None where it does not say."""
    active = read(root, f"{CPU}/smt/active")
    return active == "1" if active else None


def clock_source(root: Path = ROOT) -> str:
    """What the kernel reads the time from."""
    return read(root, f"{CLOCKS}/current_clocksource")


def timer_slack_ns(root: Path = ROOT) -> int:
    """How late the kernel may make a sleep on purpose; 0 where it does not say."""
    text = read(root, "proc/self/timerslack_ns")
    return int(text) if text.isdigit() else 0


# --- limits of the control groups that this process is in ----------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What control groups leave to us: `cpus` (may be a fraction) and `memory_bytes`; None: no limit."""

    cpus: float | None
    memory_bytes: int | None


def limits(root: Path = ROOT) -> Limits:
    """The tightest limits among our own control group and its parents, as far as they can be seen.

    Source: the kernel's admin-guide/cgroup-v2 (`cpu.max`, `memory.max`), cgroup-v1/memory
    (`memory.limit_in_bytes`) and scheduler/sched-bwc (`cpu.cfs_quota_us`, `cpu.cfs_period_us`).
    """
    cpus: list[float] = []
    memory: list[int] = []
    for folder in _own_groups(root):
        quota, _, period = read(folder, "cpu.max").partition(" ")
        if not quota:
            quota, period = read(folder, "cpu.cfs_quota_us"), read(folder, "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():  # else `max` or -1: none
            cpus.append(int(quota) / int(period))
        most = read(folder, "memory.max") or read(folder, "memory.limit_in_bytes")
        if most.isdigit() and int(most) < UNLIMITED_BYTES:
            memory.append(int(most))
    return Limits(min(cpus, default=None), min(memory, default=None))


UNLIMITED_BYTES = 2**60
"""Version 1 writes no limit as the largest number of whole pages."""


def _own_groups(root: Path) -> Iterator[Path]:
    """The folders of our own groups and of their parents, up to where each hierarchy is mounted."""
    own: dict[str, str] = {}
    for line in read(root, "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    for line in read(root, "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        names = {"cgroup": options.split(","), "cgroup2": [""]}.get(kind, [])
        shown, point = left.split(" ")[3:5]
        for path in {own[name] for name in names if name in own}:
            # A container may see its own group as the root of the mount, and its path as it is outside.
            inside = Path(path).relative_to(shown) if Path(path).is_relative_to(shown) else Path()
            for part in (inside, *inside.parents):
                yield root / point.lstrip("/") / part
