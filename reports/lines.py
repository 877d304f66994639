"""A line of a table: one measured figure beside the published one, with its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bench.stats import Interval
from reports.measured import Measured, Params, Subject
from reports.published import Figure, Verdict

GUARANTEES: Final = ("exactly-once", "at-least-once", "at-most-once", "none")


@dataclass(frozen=True)
class Line:
    """One line of a table. `interval` is None where nothing was measured; `reason` then says why.

    `rank` is the range of places that the intervals leave open; where it is empty in a ranked group,
    `unranked` says why. `beside` holds further figures by their name, each with its own remarks.
    """

    subject: Subject
    part: str  # the role, for figures that have one
    unit: str
    interval: Interval | None
    trials: int
    tasks: str
    reason: str
    status: str
    published: Figure | None
    verdict: Verdict
    whole: bool = True  # about the whole system, not one role of it
    rank: str = ""
    unranked: str = ""
    beside: Mapping[str, Measured] = field(default_factory=dict)

    @property
    def asked(self) -> bool:
        """Whether this run measured it, or tried to. A published figure alone has no status."""
        return bool(self.status)

    @property
    def group(self) -> str:
        """What may be ranked together: systems that promise the same. Floors are in no ranking."""
        if not self.asked:
            return "not measured"
        return "floor" if self.subject.floor else self.subject.guarantee


@dataclass(frozen=True)
class Section:
    """One table of the survey, measured again."""

    key: str
    title: str
    unit: str
    higher_is_better: bool | None
    condition: str
    params_text: str
    lines: tuple[Line, ...]

    @property
    def asked(self) -> bool:
        """Whether this run measured any of it, or tried to."""
        return any(line.asked for line in self.lines)


def condition(scenario: str, params: Params) -> str:
    """A condition in words. A parameter that is not given has the scenario's default."""
    words = []
    if scenario == "throughput":
        seconds = float(params.get("seconds", 0))
        words = [f"drain of {seconds:g} s" if seconds else f"{float(params.get('tasks', 1000)):g} tasks"]
    elif scenario == "latency":
        load, rate = float(params.get("load", 0)), float(params.get("rate", 0))
        words = [f"{params.get('arrival', 'poisson')} arrivals"]
        words += [f"{rate:g} tasks/s"] if rate else []
        words += [f"{'at most ' if rate else ''}{100 * load:g} % of capacity"] if load else []
    elif scenario == "cpu":
        words = [f"{float(params.get('work_ms', 10)):g} ms of work"]
    elif scenario == "capacity":
        words = [f"P95 at most {float(params.get('p95_ms', 250)):g} ms"]
        words += [f"{params.get('arrival', 'poisson')} arrivals"]
    elif scenario == "startup":
        words = [f"{params.get('start', 'warm')} start"]
    elif scenario == "memory":
        words = ["idle, after the first tasks"]
        words += [f"{float(params['queued']):g} tasks queued later"] if params.get("queued") else []
    elif scenario == "concurrency":
        words = [f"{float(params.get('jobs', 100)):g} tasks at once"]
        words += [] if "work" in params else ["work sleep:100"]
    elif scenario == "periodic":
        words = [f"every {float(params.get('every_s', 1)):g} s", *_asked(params)]
    elif scenario == "replicas":
        words = [
            f"{float(params.get('replicas', 2)):g} replicas, every {float(params.get('every_s', 2)):g} s"
        ]
        words += [f"paused for {float(params['pause_s']):g} s"] if params.get("pause_s") else []
    elif scenario == "soak":
        words = [f"{params.get('duration', '10m')} at {float(params.get('per_hour', 1000)):g} tasks/h"]
        compress = float(params.get("compress", 1))
        words += [f"compressed \N{MULTIPLICATION SIGN}{compress:g}"] if compress > 1 else []
    if params.get("slots"):
        words.append(f"{float(params['slots']):g} slot{'s' * (params['slots'] != 1)}")
    if params.get("work", "noop") != "noop":
        words.append(f"work {params['work']}")
    if scenario != "memory" and params.get("payload"):
        words.append(f"payload {float(params['payload']):g} B")
    return ", ".join(words)


def _asked(params: Params) -> list[str]:
    """What was asked of a schedule, in words."""
    missed = f"{float(params.get('missed', 4)):g}"
    load = [f"beside {100 * float(params.get('load', 0)):g} % of capacity"] if params.get("load") else []
    load += ["by a cron expression"] if params.get("trigger") == "cron" else []
    return {
        "accuracy": [f"{float(params.get('ticks', 20)):g} ticks", *load],
        "overlap": ["with a long run"],
        "down": [f"down for {missed} ticks"],
        "restart": ["killed and started again"],
    }[str(params.get("what", "accuracy"))]
