"""What `doctor` says of a machine: whether its figures can be trusted, and what to do where not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench import disturbance

Known = Mapping[str, Any]
"""`machine.facts` and the fields of `machine.Noise`, by name."""

MOST_LOAD: Final = 0.5
"""Of the one-minute load, per core."""

MOST_SPREAD: Final = 0.2
MOST_LATE_NS: Final = 1_000_000
MEMORY_WANTED: Final = 2 * 2**30
MOST_SWAPPED: Final = 64 * 2**20
SLOW_CLOCKS: Final = ("hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit")
"""Clock sources that are read in the kernel. Source: the vDSO modes of arch/x86/entry/vdso."""


@dataclass(frozen=True)
class Check:
    """One line of `doctor`: what was looked at, how it is (`ok`, `note`, `missing`), and what to do."""

    name: str
    state: str
    found: str
    advice: str = ""


def judged(known: Known) -> list[Check]:
    """The checks of a machine of which this is known; one that finds nothing to say is left out."""
    return [check for judge in JUDGES if (check := judge(known)) is not None]


def _said(name: str, found: str, advice: str, *, good: bool) -> Check:
    return Check(name, "ok", found) if good else Check(name, "note", found, advice)


def _python(known: Known) -> Check:
    return Check("Python", "ok", f"{known['python']} at {sys.executable}")


def _cpu(known: Known) -> Check:
    return Check("CPU", "ok", f"{known['cpu']}, {known['usable_cores']} of {known['cores']} cores usable")


def _cores(known: Known) -> Check | None:
    advice = "client and workers share it: compare only with other one-core runs"
    return Check("cores", "note", "one core", advice) if known["usable_cores"] < 2 else None


def _quota(known: Known) -> Check | None:
    quota = known["quota_cores"]
    if quota is None:
        return None
    advice = "raise it (docker run --cpus), or compare only with runs of the same quota"
    found = f"{quota:g} CPUs of {known['usable_cores']} that can be seen"
    return _said("CPU quota", found, advice, good=quota >= known["usable_cores"])


def _load(known: Known) -> Check:
    advice = "something else is running: close it, or expect cells to be run again"
    quiet = known["load"][0] / max(1, known["usable_cores"]) < MOST_LOAD
    return _said("load", f"{known['load'][0]:.2f} over 1 min", advice, good=quiet)


def _noise(known: Known) -> Check:
    quiet = known["burn_spread"] < MOST_SPREAD and known["stolen_share"] < disturbance.STOLEN_LIMIT
    burn, stolen = f"a fixed burn varies by {known['burn_spread']:.0%}", f"{known['stolen_share']:.1%} of CPU"
    found = f"{burn}, {stolen} stolen by the host"
    return _said("noise", found, "use --profile standard: more trials, and look at the intervals", good=quiet)


def _timers(known: Known) -> Check:
    found = f"clock steps of {known['timer_ns']} ns, sleeps late by {known['sleep_ns'] / 1000:.0f} µs"
    if slack_ns := known["timer_slack_ns"]:
        found += f" ({slack_ns / 1000:g} µs of it slack)"
    advice = "sleeps are late: latencies of systems that poll hold for this machine only"
    return _said("timers", found, advice, good=known["sleep_ns"] < MOST_LATE_NS)


def _clock(known: Known) -> Check | None:
    source = known["clock_source"]
    if not source:
        return None
    advice = "reading the clock is a system call with this source: stamps cost more"
    return _said("clock source", source, advice, good=source not in SLOW_CLOCKS)


def _governor(known: Known) -> Check | None:
    if not known["governor"]:
        return None
    advice = "set it to `performance` for repeatable figures (needs root)"
    return _said("governor", known["governor"], advice, good=known["governor"] == "performance")


def _turbo(known: Known) -> Check | None:
    if known["turbo"] is None:
        return None
    advice = "speed falls as the processor warms: switch it off for repeatable figures (needs root)"
    return _said("turbo", "on" if known["turbo"] else "off", advice, good=not known["turbo"])


def _smt(known: Known) -> Check | None:
    if not known["smt"]:
        return None
    advice = "two CPUs share a core: twice the slots is not twice the work"
    return Check("SMT", "note", "on", advice)


def _virtualisation(known: Known) -> Check:
    found = known["virtualisation"]
    if known["stolen_since_boot"]:
        found += f", {known['stolen_since_boot']:.2%} of CPU time stolen since it booted"
    shared = found.startswith(("container", "virtual machine"))
    return _said("virtualisation", found, "neighbours may disturb: look at the intervals", good=not shared)


def _memory(known: Known) -> Check:
    advice = "sums over forked processes are upper bounds here"
    return _said(
        "memory",
        "PSS, USS and RSS of every process" if known["pss"] else "RSS only",
        advice,
        good=known["pss"],
    )


def _memory_limit(known: Known) -> Check | None:
    if (limit := known["memory_limit_bytes"]) is None:
        return None
    found = f"{limit / 2**30:.1f} GB of {known['memory_bytes'] / 2**30:.0f} GB"
    advice = "orchestrators with a database want 2 GB: raise the container's limit"
    return _said("memory limit", found, advice, good=limit >= MEMORY_WANTED)


def _swap(known: Known) -> Check | None:
    if not (used := known["swap_used_bytes"]):
        return None
    advice = "what is swapped out is missing from every memory figure: close something, then `swapoff -a`"
    return _said("swap", f"{used / 2**20:.0f} MB in use", advice, good=used < MOST_SWAPPED)


def _accounting(known: Known) -> Check:
    source = known["cpu_source"]
    exact = source != "psutil"
    found = f"control groups ({source})" if exact else "process tree"
    return _said(
        "CPU accounting", found, "CPU figures are lower bounds: no writable control group", good=exact
    )


JUDGES: Final[tuple[Callable[[Known], Check | None], ...]] = (
    _python,
    _cpu,
    _cores,
    _quota,
    _load,
    _noise,
    _timers,
    _clock,
    _governor,
    _turbo,
    _smt,
    _virtualisation,
    _memory,
    _memory_limit,
    _swap,
    _accounting,
)
"""What `doctor` says of the machine, in this order."""
