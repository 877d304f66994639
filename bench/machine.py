"""What this machine is and how it feels: facts for `run.json` and for `doctor`."""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from bench import cgroups, disturbance, kernel
from bench.advice import Check as Check
from bench.advice import judged
from bench.cputime import usable_cpus

BURNS: Final = 25
SLEEPS: Final = 50


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has under `taskset` or in a cpuset."""
    return len(usable_cpus())


def facts() -> dict[str, Any]:
    """The machine in a few words and numbers; bytes, counts, text. Empty or None: the kernel does not say.

    `stolen_since_boot` is a share of the CPU time; `quota_cores` and `memory_limit_bytes` are the limits
    of the control groups that this process is in, None where there are none.
    """
    limits = kernel.limits()
    memory = psutil.virtual_memory().total
    limited = limits.memory_bytes if limits.memory_bytes and limits.memory_bytes < memory else None
    return {
        "cpu": kernel.cpu_name() or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "memory_bytes": memory,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "virtualisation": kernel.virtualisation(),
        "governor": kernel.governor(),
        "turbo": kernel.turbo(),
        "smt": kernel.smt(),
        "quota_cores": limits.cpus,
        "memory_limit_bytes": limited,
        "swap_used_bytes": psutil.swap_memory().used,
        "stolen_since_boot": _stolen_share(),
        "clock_source": kernel.clock_source(),
        "timer_slack_ns": kernel.timer_slack_ns(),
        "load": list(os.getloadavg()),
        "pss": pss(),
        "cpu_source": place.source if (place := cgroups.hierarchy()) else "psutil",
    }


def pss() -> bool:
    """Whether the kernel tells the proportional memory of a process."""
    return "Pss:" in kernel.read(kernel.ROOT, "proc/self/smaps_rollup")


def _stolen_share() -> float | None:
    times = psutil.cpu_times()._asdict()
    return round(times["steal"] / sum(times.values()), 5) if "steal" in times else None


@dataclass(frozen=True)
class Noise:
    """How much slower a fixed burn is at its 95th percentile than at its fastest, as a share; and timers."""

    burn_spread: float
    stolen_share: float
    timer_ns: int
    sleep_ns: int


def noise() -> Noise:
    """Measure the machine's noise in about half a second of work on one core."""
    began = psutil.cpu_times()
    burns = [disturbance.burn_ns() for _ in range(BURNS)]
    ended = psutil.cpu_times()
    total = sum(ended) - sum(began)
    stolen = (getattr(ended, "steal", 0.0) - getattr(began, "steal", 0.0)) / total if total > 0 else 0.0
    sleeps = []
    for _ in range(SLEEPS):
        start = time.monotonic_ns()
        time.sleep(0.001)
        sleeps.append(time.monotonic_ns() - start - 1_000_000)
    ticks = [time.monotonic_ns() for _ in range(1000)]
    steps = [later - earlier for earlier, later in itertools.pairwise(ticks) if later > earlier]
    return Noise(
        burn_spread=statistics.quantiles(burns, n=20)[-1] / min(burns) - 1,
        stolen_share=stolen,
        timer_ns=min(steps, default=0),
        sleep_ns=round(statistics.median(sleeps)),
    )


def checks(results: Path) -> list[Check]:
    """What this machine can run and how far its figures can be trusted."""
    return [*judged({**facts(), **asdict(noise())}), _folder(results)]


def _folder(results: Path) -> Check:
    nearest = next(folder for folder in (results, *results.absolute().parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        return Check("results", "missing", f"{results} is not writable", "choose another with --results DIR")
    free = psutil.disk_usage(str(nearest)).free
    return Check("results", "ok", f"{results}, {free / 2**30:.0f} GB free")
