"""How a run was made and how far to trust it, in lines: machine, selftest, calibration, disturbances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.store import Run
from reports import calibration, marks
from reports.marks import Mark

NEVER: Final = "never run on this machine: schedbench selftest"

MACHINE_WORDS: Final = {
    "virtualisation": "virtualisation",
    "governor": "governor",
    "turbo": "turbo",
    "smt": "SMT",
    "usable_cores": "usable cores",
    "quota_cores": "CPU quota in cores",
    "memory_limit_bytes": "memory limit",
    "load": "load at the start",
    "stolen_since_boot": "stolen since boot",
    "swap_used_bytes": "swap used",
    "clock_source": "clock",
    "timer_slack_ns": "timer slack in ns",
    "pss": "PSS",
    "cpu_source": "CPU time from",
    "kernel": "kernel",
    "python": "Python",
}
"""Names of what `run.json` says of the machine; what has no name here is shown by its key."""

UNTOLD: Final = ("governor", "turbo", "smt")
"""What a reader would miss: listed where the kernel did not tell it."""

ELSEWHERE: Final = ("cpu", "cores", "memory_bytes")
"""Keys of the machine that stand in its first line."""


@dataclass(frozen=True)
class Fact:
    """One line about how the run was made."""

    name: str
    text: str


def subtitle(run: Run) -> str:
    """The run in one line: when, on what."""
    machine = run.info.get("machine", {})
    words = [str(run.info.get("created", ""))[:10], str(machine.get("cpu", "")), _cores(machine)]
    return " · ".join(word for word in words if word)


def warnings(run: Run) -> list[str]:
    """What a reader must know before any figure."""
    found = []
    planned = run.info.get("cells_planned")
    done = len(run.cells) or run.info.get("cells_done")  # a run that was killed could not count
    if run.info.get("interrupted"):
        found.append(f"This run was cut off: {done} of {planned} cells are done. Complete it with --resume.")
    last = run.info.get("selftest")
    if last and last["outcome"] != "passed":
        found.append(
            f"The last selftest of this machine failed: {_found(last)}. Do not trust these figures before it "
            "passes: schedbench selftest."
        )
    if last and last["schedbench"] != run.info.get("schedbench"):
        found.append(
            f"The last selftest of this machine was made by schedbench {last['schedbench']}, this run by "
            f"{run.info.get('schedbench')}. Repeat it: schedbench selftest."
        )
    return found


def trust(run: Run) -> list[Fact]:
    """What speaks for the figures of a run and against them: selftest, calibration, disturbances."""
    known = {
        "Selftest": selftest(run),
        "Calibration": calibration.outcome(run),
        "Disturbances": disturbances(run),
        "Figures": figures(run),
    }
    return [Fact(name, text) for name, text in known.items()]


def selftest(run: Run) -> str:
    """The date and outcome of the machine's last selftest, as it was when the run began."""
    if "selftest" not in run.info:
        return "not recorded: this run was made before there was one"
    last: Mapping[str, Any] | None = run.info["selftest"]
    if not last:
        return NEVER
    return f"{last['outcome']} on {str(last['date'])[:10]}, {_found(last)}, schedbench {last['schedbench']}"


def _found(last: Mapping[str, Any]) -> str:
    aa = last.get("aa")
    compared = f", A/A: {calibration.called_different(aa)}" if aa else ""
    return f"{last['found']} of {last['of']} known faults found{compared}"


def figures(run: Run) -> str:
    """How many figures of the run are sure, a first look, or in doubt."""
    rows = run.summary[(run.summary["trial"] == "") & (run.summary["unit"] != "count")]
    found = [marks.marks(reason) for reason in rows[rows["value"].notna()]["reason"]]
    doubts = sum(marks.dagger(own) for own in found)
    looks = sum(marks.about(own) and not marks.dagger(own) for own in found)
    clean = len(found) - doubts - looks
    return (
        f"{len(found):,}: {clean:,} without a mark, {looks:,} {marks.ABOUT} from fewer than six trials, "
        f"{doubts:,} {marks.DAGGER} in doubt"
    )


def disturbances(run: Run) -> str:
    """Whether something else used the machine: what was seen beside the cells, and the marks on figures."""
    noise: Mapping[str, Any] = run.info.get("noise") or {}
    words = []
    if noise.get("cells"):
        words.append(
            f"{noise['disturbed']} of {noise['cells']} cells disturbed, {noise['rerun']} of them run again, "
            f"{noise['still_disturbed']} still disturbed; {_worst(noise)}"
        )
    trials = run.summary[run.summary["trial"] != ""]
    names = ["system", "variant", "scenario", "params", "trial"]
    whole = len(trials[names].drop_duplicates())
    for mark in (Mark.DISTURBED, Mark.SHARED):
        own = trials[[mark in marks.marks(reason) for reason in trials["reason"]]]
        count = len(own[names].drop_duplicates())
        words += [f"{count} of {whole} trials: {marks.MEANINGS[mark]}"] if count else []
    return "; ".join(words) or "none marked; the cells of this run were not watched"


def _worst(noise: Mapping[str, Any]) -> str:
    """The worst that was seen beside any cell; what the kernel did not tell is left out."""
    burn, stolen, others = (noise.get(f"{name}_worst") for name in ("burn", "stolen_share", "others_cores"))
    words = [
        "" if burn is None else f"a fixed burn took {burn:.2f} times its usual",
        "" if stolen is None else f"{100 * stolen:.1f} % of the CPU stolen",
        "" if others is None else f"{others:.2f} cores used by others",
    ]
    return f"at worst {', '.join(filter(None, words))}"


def facts(run: Run) -> list[Fact]:
    """How the run was made: machine, seed, command, share of time spent measuring. See also `trust`."""
    info, machine = run.info, run.info.get("machine", {})
    memory_bytes = machine.get("memory_bytes")
    memory = f"{memory_bytes / 2**30:.0f} GiB" if memory_bytes else ""
    services = [f"{name} {_served(about)}" for name, about in info.get("services", {}).items()]
    known = {
        "Command": info.get("command"),
        "Profile": info.get("profile"),
        "Seed": info.get("seed"),
        "Slots": info.get("slots"),
        "Cells": _of(info.get("cells_done"), info.get("cells_planned")),
        "Time": measuring(info),
        "Machine": " · ".join(filter(None, [str(machine.get("cpu", "")), _cores(machine), memory])),
        "Its state": _state(machine),
        "Services": ", ".join(services),
        "schedbench": info.get("schedbench"),
        "Run": f"{info['run_id']}, begun {info.get('created', '')}",
    }
    return [Fact(name, str(value)) for name, value in known.items() if value not in (None, "")]


def _served(about: Mapping[str, Any]) -> str:
    """A service's version, and where it came from."""
    stand_in, delay_ms = about.get("stand_in"), about.get("rtt_ms")
    words = [
        about.get("provider"),
        about.get("image"),
        stand_in and f"stand-in: {stand_in}",
        about.get("limits"),
        delay_ms and f"{delay_ms:g} ms of network delay",
    ]
    return f"{about.get('version', '')} ({', '.join(str(word) for word in words if word)})"


def _state(machine: Mapping[str, Any]) -> str:
    """Everything else that the run says of the machine."""
    known = {name: value for name, value in machine.items() if name not in ELSEWHERE}
    order = [
        *(name for name in MACHINE_WORDS if name in known),
        *(n for n in known if n not in MACHINE_WORDS),
    ]
    told = [name for name in order if known[name] not in (None, "", [], {})]
    words = [
        f"{MACHINE_WORDS.get(name, name.replace('_', ' '))} {_value(known[name], name)}" for name in told
    ]
    untold = [MACHINE_WORDS[name] for name in UNTOLD if name in known and name not in told]
    words += [f"not told by the kernel: {', '.join(untold)}"] if untold else []
    return " · ".join(words)


def _value(value: object, name: str = "") -> str:
    if isinstance(value, int) and name.endswith("_bytes"):
        return f"{value / 2**20:,.0f} MiB"
    if isinstance(value, float) and name == "stolen_since_boot":
        return f"{100 * value:.2g} %"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return " ".join(_value(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def measuring(info: Mapping[str, Any]) -> str:
    """The wall time and the share of it that was spent measuring."""
    wall_s = float(info.get("wall_s") or 0)
    if not wall_s:
        return "unknown"
    return f"{wall_s:,.0f} s, {100 * float(info.get('measuring_s') or 0) / wall_s:.0f} % of it measuring"


def packages(run: Run) -> list[tuple[str, str, str]]:
    """Title, homepage and main packages with versions of every system in the run."""
    measured = set(run.summary["system"])
    found = []
    for name, about in sorted(run.info.get("systems", {}).items()):
        if name in measured:
            pins = ", ".join(
                f"{package} {version}" for package, version in sorted(about.get("packages", {}).items())
            )
            found.append((str(about.get("title", name)), str(about.get("homepage", "")), pins))
    return found


def _cores(machine: Mapping[str, Any]) -> str:
    return f"{machine['cores']} cores" if machine.get("cores") else ""


def _of(part: object, whole: object) -> str:
    return f"{part} of {whole}" if part is not None and whole is not None else ""
