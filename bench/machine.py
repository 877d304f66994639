"""What this machine is and how it feels: facts for `run.json`, and the checks behind `doctor`."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench import cgroups

BURNS = 60


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has under `taskset` or in a cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def facts() -> dict[str, Any]:
    """The machine in a few words and numbers; bytes, counts, text."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "virtualisation": _virtualisation(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load": list(os.getloadavg()),
        "pss": pss(),
        "cpu_source": place.source if (place := cgroups.hierarchy()) else "psutil",
    }


def pss() -> bool:
    """Whether the kernel tells the proportional memory of a process."""
    return "Pss:" in _read("/proc/self/smaps_rollup")


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text().strip()
    return ""


def _cpu_name() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _virtualisation() -> str:
    flags = next((line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("flags")), "")
    vendor = _read("/sys/class/dmi/id/sys_vendor")
    if Path("/.dockerenv").exists():
        return "container"
    return f"virtual machine {vendor}".strip() if " hypervisor" in flags else vendor or "none seen"


@dataclass(frozen=True)
class Noise:
    """How much slower a fixed burn is at its 95th percentile than at its fastest, as a share; and timers."""

    burn_spread: float
    stolen_share: float
    timer_ns: int
    sleep_ns: int


def noise() -> Noise:
    """Measure the machine's noise in about half a second of work on one core."""
    chunk = range(2000)
    began = psutil.cpu_times()
    spans = []
    for _ in range(BURNS):
        start = time.monotonic_ns()
        for _ in range(50):
            sum(chunk)
        spans.append(time.monotonic_ns() - start)
    ended = psutil.cpu_times()
    total = sum(ended) - sum(began)
    stolen = (getattr(ended, "steal", 0.0) - getattr(began, "steal", 0.0)) / total if total > 0 else 0.0
    sleeps = []
    for _ in range(50):
        start = time.monotonic_ns()
        time.sleep(0.001)
        sleeps.append(time.monotonic_ns() - start - 1_000_000)
    ticks = [time.monotonic_ns() for _ in range(1000)]
    steps = [later - earlier for earlier, later in itertools.pairwise(ticks) if later > earlier]
    return Noise(
        burn_spread=statistics.quantiles(spans, n=20)[-1] / min(spans) - 1,
        stolen_share=stolen,
        timer_ns=min(steps, default=0),
        sleep_ns=round(statistics.median(sleeps)),
    )


@dataclass(frozen=True)
class Check:
    """One line of `doctor`: what was looked at, how it is (`ok`, `note`, `missing`), and what to do."""

    name: str
    state: str
    found: str
    advice: str = ""


def checks(results: Path) -> list[Check]:
    """What this machine can run and how far its figures can be trusted."""
    known = facts()
    felt = noise()
    found = [
        Check("Python", "ok", f"{known['python']} at {sys.executable}"),
        Check("CPU", "ok", f"{known['cpu']}, {known['usable_cores']} of {known['cores']} cores usable"),
    ]
    if known["usable_cores"] < 2:
        found.append(
            Check(
                "cores",
                "note",
                "one core",
                "client and workers share it: compare only with other one-core runs",
            )
        )
    busy = known["load"][0] / max(1, known["usable_cores"])
    found.append(
        Check(
            "load",
            "ok" if busy < 0.5 else "note",
            f"{known['load'][0]:.2f} over 1 min",
            "" if busy < 0.5 else "something else is running: close it, or expect wide intervals",
        )
    )
    spread = felt.burn_spread
    found.append(
        Check(
            "noise",
            "ok" if spread < 0.2 else "note",
            f"a fixed burn varies by {spread:.0%}, {felt.stolen_share:.1%} of CPU stolen by the host",
            "" if spread < 0.2 else "use --profile standard: more trials, and look at the intervals",
        )
    )
    found.append(
        Check(
            "timers", "ok", f"clock steps of {felt.timer_ns} ns, sleeps late by {felt.sleep_ns / 1000:.0f} µs"
        )
    )
    governor = known["governor"]
    if governor and governor != "performance":
        found.append(
            Check("governor", "note", governor, "set it to `performance` for repeatable figures (needs root)")
        )
    found.append(
        Check("virtualisation", "ok", known["virtualisation"])
        if known["virtualisation"] == "none seen"
        else Check(
            "virtualisation", "note", known["virtualisation"], "neighbours may disturb: look at the intervals"
        )
    )
    found.append(
        Check("memory", "ok", "PSS, USS and RSS of every process")
        if known["pss"]
        else Check("memory", "note", "RSS only", "sums over forked processes are upper bounds here")
    )
    source = known["cpu_source"]
    found.append(
        Check("CPU accounting", "ok", f"control groups ({source})")
        if source != "psutil"
        else Check(
            "CPU accounting",
            "note",
            "process tree",
            "CPU figures are lower bounds: no writable control group",
        )
    )
    found.append(_folder(results))
    return found


def _folder(results: Path) -> Check:
    nearest = next(folder for folder in (results, *results.absolute().parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        return Check("results", "missing", f"{results} is not writable", "choose another with --results DIR")
    free = psutil.disk_usage(str(nearest)).free
    return Check("results", "ok", f"{results}, {free / 2**30:.0f} GB free")
