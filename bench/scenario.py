"""The scenario base: what a scenario declares, what it yields to the runner, and the history it reads.

A scenario is one file. It says with which parameters each profile runs it, yields the phases of a cell,
and computes its figures from the recorded history; nothing else in the house knows its name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench import ledger, openloop, stats
from bench.agent.pacer import offsets_ns, works
from bench.agent.work import body_s
from bench.errors import CellError, Unsupported
from bench.model import (
    AHEAD_S,
    PHASE_SHIFT,
    SCHEDULE,
    Arrival,
    Fate,
    Fault,
    Kind,
    Load,
    Metric,
    Phase,
    Role,
    System,
    Variant,
    Workers,
)

__all__ = [
    "AHEAD_S", "BATCHES", "REST_S", "Arrival", "CellError", "Fate", "Fault", "Grid", "History", "Load",
    "Metric", "Parameter", "Phase", "Phases", "Scenario", "Seen", "System", "Unsupported", "Variant",
    "Workers", "body_s", "bursts", "capacity_hz", "cron_of", "first_tasks", "idling", "ledger",
    "no_schedule", "offsets_ns", "quantiles", "rate_hz", "schedule_of", "speedup", "stats",
    "steady_hz", "works",
]  # fmt: skip

BATCHES = "its tasks are handed over in batches: see the variant that takes them one by one"
"""Why a variant cannot be asked what happens to one task at a time."""

Seen = Callable[[], pd.DataFrame]
"""The `ledger.per_task` frame of one phase's tasks as they are when it is called."""

Phases = Generator[Phase, Seen, Any]
"""Phases out, what was seen of each in; what a part of a scenario returns is its own business."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a scenario: its default (which also gives its type), help, and what it may be.

    `check` raises a ValueError that says what is wrong with a value.
    """

    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    above_zero: bool = False
    check: Callable[[Any], object] = bool


@dataclass(frozen=True)
class Grid:
    """Part of what a profile runs: `trials` of each entry of `params` (overrides of the defaults).

    Heavy variants have `heavy` trials where it is given, those of them that take batches `batch`, unless the
    user named the scenario.
    """

    trials: int
    params: Sequence[Mapping[str, Any]] = ({},)
    heavy: int | None = None
    batch: int | None = None

    def fewer(self, variant: Variant) -> int:
        """How many trials a variant has of which the user asked for nothing in particular."""
        if not variant.heavy:
            return self.trials
        chosen = (self.batch if variant.batch else None, self.heavy, self.trials)
        return next(trials for trials in chosen if trials is not None)


@dataclass(frozen=True)
class History:
    """Everything recorded about one cell.

    `tasks` is `ledger.per_task`'s frame, `resources` the sampler's (one row per role and sample),
    `phases` the phases by number, with their loads as they were sent, `spawned_ns` when the processes that
    run tasks were last spawned in each phase. Times are CLOCK_MONOTONIC ns. `scheduled` holds the events of
    schedules; `claims` what the library itself says of tasks by id (True for success), None where it was not
    asked. `set_up_s` is what setting up took, by step, in s. `faults` are those that were done
    (`bench.faults.Strike.record`), `restarts` what was started again (`bench.supervisor`). `segment` is the
    number of the last segment of a cell that was resumed, `slots` how many tasks may run at once.
    """

    tasks: pd.DataFrame
    resources: pd.DataFrame
    phases: Mapping[int, Phase]
    spawned_ns: Mapping[str, int]
    ahead: bool
    cpu_source: str
    scheduled: ledger.Records | None = None
    claims: Mapping[int, bool] | None = None
    set_up_s: Mapping[str, float] = field(default_factory=dict)
    faults: Sequence[Mapping[str, Any]] = ()
    restarts: Sequence[Mapping[str, Any]] = ()
    segment: int = 0
    slots: int = 1

    def number(self, name: str) -> int:
        """The number of the phase called `name`."""
        return next(number for number, phase in self.phases.items() if phase.name == name)

    def sent(self, name: str) -> pd.DataFrame:
        """All tasks of a phase that were submitted; one that ran all the same is told by its fate."""
        return self.tasks[(self.tasks["phase"] == self.number(name)) & (self.tasks["submits"] > 0)]

    def of(self, name: str) -> pd.DataFrame:
        """The measured tasks of a phase, warm-up left out."""
        load = self.phases[self.number(name)].load
        own = self.sent(name)
        return own[own["index"] >= (load.warmup_n if load else 0)]

    def samples(self, name: str) -> pd.DataFrame:
        """The resource samples of a phase, the harness's own processes left out."""
        rows = self.resources
        return rows[(rows["phase"] == name) & (rows["role"] != Role.HARNESS)]

    def edges(self, name: str) -> tuple[pd.Series, pd.Series, float]:
        """CPU ns by role at the begin and end of a phase, and the seconds between."""
        rows = self.samples(name)
        begin, end = rows[rows["edge"] == "begin"], rows[rows["edge"] == "end"]
        seconds = float(end["t_ns"].iloc[0] - begin["t_ns"].iloc[0]) / 1e9
        by_role = end.set_index("role")["cpu_ns"]
        return begin.set_index("role")["cpu_ns"].reindex(by_role.index, fill_value=0), by_role, seconds

    def edge_ns(self, name: str, edge: str) -> int:
        """When a phase began (`edge` is `begin`) or ended (`end`)."""
        samples = self.samples(name)
        return int(samples["t_ns"][samples["edge"] == edge].iloc[0])

    def ticks(self, name: str) -> pd.DataFrame:
        """The ticks of the schedule of a phase that were due at least one interval before its end.

        What ran after the phase, as its schedule goes on, is not in them.

        Raises:
            CellError: it is not known when they were due, because none ever came or their clocks differ.
        """
        own, end_ns = self._schedule(name), self.edge_ns(name, "end")
        own = own[own["t_ns"] < end_ns]
        phase = self.phases[self.number(name)]
        every_ns, early_ns = round(phase.every_s * 1e9), round(phase.early_s * 1e9)
        try:
            return ledger.ticks(own, every_ns, end_ns - every_ns, early_ns)
        except ValueError as error:
            raise CellError(str(error)) from error

    def runs(self, name: str) -> pd.DataFrame:
        """Every run of the schedule of a phase, in that phase and in later ones: see `ledger.runs`."""
        return ledger.runs(self._schedule(name))

    def at_once(self, name: str, since_ns: int = 0) -> int:
        """The most runs of the schedule of a phase that there were at the same moment.

        Those that began before `since_ns` do not count.
        """
        own = self._schedule(name)
        which = own["pid"].astype(np.int64) << 16 | own["run"]  # of a process, and which of its runs
        early = (own["kind"] == Kind.START) & (own["t_ns"] < since_ns)
        return ledger.at_once(own[~np.isin(which, which[early])])

    def told(self, name: str) -> bool:
        """Whether it is known when the schedule of a phase was due first; its own process does not say."""
        return bool((self._schedule(name)["kind"] == Kind.SUBMIT).any())

    def _schedule(self, name: str) -> ledger.Records:
        """The events of the schedule of a phase."""
        records = ledger.joined([] if self.scheduled is None else [self.scheduled])
        own: ledger.Records = records[records["task"] == SCHEDULE | self.number(name) << PHASE_SHIFT]
        return own

    def fate(self, tasks: pd.DataFrame, deadline_s: float) -> pd.Series[str]:
        """The fate of each of these tasks; a `Fate` by its value."""
        retries = max((phase.load.retries for phase in self.phases.values() if phase.load), default=0)
        return ledger.fates(tasks, deadline_s, segment=self.segment, retries=retries)

    def fates(self, deadline_s: float) -> Iterator[Metric]:
        """How many tasks met each fate, warm-up included and canaries left out; late after `deadline_s`."""
        frame = self.tasks[self.tasks["phase"] > 0]
        counts = self.fate(frame, deadline_s).value_counts()
        for fate in Fate:
            if fate is Fate.CUT_OFF and not self.segment:
                continue
            yield Metric(f"tasks_{fate}", "count", float(counts.get(fate, 0)), n=len(frame))
        negative = ledger.negative(frame)
        yield Metric("negative_latencies", "count", float(negative), n=len(frame))
        if self.claims is not None:
            said = frame.index.map(self.claims).to_numpy(object)
            ended = (frame["ends"] > 0).to_numpy(bool)
            false_success = int(np.count_nonzero((said == True) & ~ended))  # noqa: E712 - NaN: said nothing
            false_failure = int(np.count_nonzero((said == False) & ended))  # noqa: E712
            yield Metric("claims_made", "count", float(pd.notna(said).sum()), n=len(frame))
            yield Metric("claims_false_success", "count", float(false_success), n=len(frame))
            yield Metric("claims_false_failure", "count", float(false_failure), n=len(frame))


def quantiles(name: str, ms: np.ndarray, note: str = "") -> Iterator[Metric]:
    """P50, P95, P99 (with order-statistic intervals) and the maximum of latencies in ms.

    P95 wants 1000 samples and P99 10 000; with fewer the figure is marked.
    """
    for percent, wanted in ((50, 100), (95, 1000), (99, 10_000)):
        if len(ms) == 0:
            continue
        found = stats.quantile_interval(ms, percent / 100)
        few = f"n < {wanted}" if len(ms) < wanted else ""
        yield Metric(
            f"{name}_p{percent}", "ms", found.value, found.n, found.low, found.high,
            "; ".join(part for part in (note, few) if part),
        )  # fmt: skip
    if len(ms):
        yield Metric(f"{name}_max", "ms", float(ms.max()), len(ms), note=note)


FIRST_TASKS, FIRST_ROUNDS, BURST_S, HEAVY_BURST_S, MORE = 20, 2, 1.0, 5.0, 10
"""Bursts grow from so few tasks (of heavy variants: that fill the slots so often), at most so many times
each, until one lasts about so long: what a burst of a few tasks promises can be far too much. Of heavy ones
above all: Airflow runs the first six at four times the rate that it keeps up."""

BURST_LIMIT_S = 120.0
"""A burst is given up after so long, or after three times what the one before it lets expect."""

REST_S, LEAST_IDLE_S = 5.0, 3.0
"""Processes that ran tasks of a heavy variant are gone after so long, and it is idle for at least so long."""


MINUTE_S, HOUR_S = 60.0, 3600.0
"""Of these are cron expressions; periods by the wall clock begin anew with every hour."""


def cron_of(every_s: float) -> str:
    """The cron expression for whole minutes that divide an hour, or an empty string."""
    if every_s % MINUTE_S or HOUR_S % every_s:
        return ""
    return {MINUTE_S: "*", HOUR_S: "0"}.get(every_s, f"*/{every_s / MINUTE_S:g}") + " * * * *"


def no_schedule(system: System, variant: Variant, every_s: float, *, cron: bool = False) -> str:
    """Why a variant cannot be asked to run something every so often, or an empty string."""
    if "periodic" not in system.capabilities:
        return "it has no schedules"
    if cron and "cron" not in system.capabilities:
        return "it takes no cron expressions"
    if cron and not cron_of(every_s):
        return "a cron expression has whole minutes, of which some make an hour: --set every_s=60"
    if variant.every_s and (every_s % variant.every_s or HOUR_S % every_s):
        return (
            f"its schedules are of multiples of {variant.every_s:g} s that divide an hour: "
            f"--set every_s={variant.every_s:g}"
        )
    if every_s < variant.shortest_s:
        return f"what its schedules start takes seconds: --set every_s={variant.shortest_s:g}, or more"
    return ""


def schedule_of(variant: Variant, every_s: float, cron: str = "") -> dict[str, Any]:
    """What a phase says of a schedule that a variant keeps."""
    return {
        "every_s": every_s,
        "cron": cron,
        "wall_clock": bool(cron or variant.every_s),
        "early_s": variant.early_s,
    }


def first_tasks(variant: Variant, rounds: int = FIRST_ROUNDS) -> int:
    """How many tasks of a variant are enough to see roughly what it reaches."""
    return rounds * (variant.max_slots or 1) if variant.heavy else FIRST_TASKS


def idling(variant: Variant, idle_s: float, *, memory: bool = False) -> Phases:
    """The phase `idle`; before it, what the first tasks left behind comes to rest."""
    if variant.heavy:
        yield Phase("rest", wait="hold", hold_s=REST_S)
        idle_s = max(idle_s, LEAST_IDLE_S)
    yield Phase("idle", wait="hold", hold_s=idle_s, memory=memory)


def bursts(variant: Variant, work: str, most_n: int, least_n: int = 0) -> Phases:
    """Bursts of growing size, up to `most_n` tasks; returns the tasks of the last, to size a load by.

    The last has `least_n` tasks or more, so that one burst can be held against another.

    The workers are up: whoever submits takes its share of the machine.
    """
    most_n = min(most_n, variant.queue_limit or most_n)
    n = min(first_tasks(variant), most_n)
    wanted_s = HEAVY_BURST_S if variant.heavy else BURST_S
    limit_s = BURST_LIMIT_S
    while True:
        seen = yield Phase(f"burst of {n}", Load(n, work=work), limit_s=limit_s)
        tasks = seen()
        burst_hz = capacity_hz(tasks)
        if n >= most_n or (n >= least_n and n / burst_hz >= wanted_s / 2):
            return tasks
        n = min(max(least_n, min(MORE * n, math.ceil(burst_hz * wanted_s))), most_n)
        limit_s = max(limit_s, 3 * n / burst_hz)


def capacity_hz(tasks: pd.DataFrame) -> float:
    """Tasks per second of a burst that sizes a later load; a body that raised has taken its time as well.

    Raises:
        CellError: fewer than two of them came to an end.
    """
    found, n = steady_hz(_over(tasks))
    if not found > 0:
        raise CellError(f"no capacity to be seen: {n} of {len(tasks)} tasks of a burst came to an end")
    return found


LEAST_ROUNDS = 4
"""Of fewer, an interval of their mean says too little."""


def speedup(after: pd.DataFrame, before: pd.DataFrame) -> stats.Interval:
    """The capacity in one burst over that in another, each as in `capacity_hz`.

    The interval is that of the times in which as many tasks came to an end as run at once: several slots
    end theirs together, so that the time from one end to the next says little. Without it where a burst has
    fewer than `LEAST_ROUNDS` such rounds after the first. It takes them to be independent, which those of a
    system that is still warming up are not.

    Raises:
        CellError: of a burst, fewer than two tasks came to an end.
    """
    value = capacity_hz(after) / capacity_hz(before)
    before_ns, after_ns = _rounds_ns(before), _rounds_ns(after)
    n = min(len(before_ns), len(after_ns))
    if n < LEAST_ROUNDS or min(before_ns.min(), after_ns.min()) <= 0:
        return stats.Interval(value, None, None, n, 0.0)
    found = stats.mean_ratio_interval(before_ns, after_ns)
    assert found.low is not None
    assert found.high is not None
    scale = value / found.value  # of rounds of another size, and of what was left over
    return stats.Interval(value, scale * found.low, scale * found.high, n, found.coverage)


def _over(tasks: pd.DataFrame) -> pd.DataFrame:
    """Tasks of which one that raised has come to an end as well."""
    return tasks.assign(end_ns=tasks["end_ns"].fillna(tasks["fail_ns"]), ends=tasks["ends"] + tasks["fails"])


def _rounds_ns(tasks: pd.DataFrame) -> npt.NDArray[np.float64]:
    """How long each round of a burst took after the first; what is left at the end counts as a whole one."""
    ends_ns, size = _in_rounds(_over(tasks))
    whole_ns, left = ends_ns[size - 1 :: size], len(ends_ns) % size
    rounds_ns = np.diff(whole_ns).astype(np.float64)
    return np.append(rounds_ns, (ends_ns[-1] - whole_ns[-1]) * size / left) if left else rounds_ns


def _in_rounds(tasks: pd.DataFrame) -> tuple[npt.NDArray[np.int64], int]:
    """When each task came to an end, in that order, and how many a round is: as many as ran at once."""
    ended = tasks[tasks["ends"] > 0].sort_values("end_ns")
    return ended["end_ns"].to_numpy(np.int64), max(1, openloop.at_once(ended))


def rate_hz(tasks: pd.DataFrame) -> tuple[float, int]:
    """Tasks per second from the first start to the last end, and how many tasks that rests on."""
    ended = tasks[tasks["ends"] > 0]
    if len(ended) < 2:
        return math.nan, len(ended)
    span_ns = int(ended["end_ns"].max()) - int(ended["start_ns"].min())
    return (len(ended) / span_ns * 1e9 if span_ns > 0 else math.nan), len(ended)


def steady_hz(tasks: pd.DataFrame) -> tuple[float, int]:
    """As `rate_hz`, from the end of the first round: what runs k tasks at once starts k for nothing.

    Where less than another round ended, or in no time, the whole is all there is.
    """
    ends_ns, first = _in_rounds(tasks)
    n = len(ends_ns)
    if n < 2 * first:
        return rate_hz(tasks)
    span_ns = int(ends_ns[-1] - ends_ns[first - 1])
    return ((n - first) / span_ns * 1e9, n) if span_ns > 0 else rate_hz(tasks)


class Scenario(ABC):
    """One question, asked of every system in the same way. Stateless: one instance serves all cells."""

    title: ClassVar[str]
    parameters: ClassVar[Mapping[str, Parameter]]
    profiles: ClassVar[Mapping[str, Sequence[Grid]]]
    unasked: ClassVar[frozenset[str]] = frozenset({"quick", "standard", "full"})
    """The profiles that include it; in the others it runs only when it is named."""
    headline: ClassVar[str] = ""
    """The metric that the line of a cell shows."""
    again: ClassVar[bool] = True
    """Whether a cell that a disturbed machine spoilt is run again: its figures are times, not counts."""
    scaled: ClassVar[bool] = False
    """Whether the constants that a variant's header can make shorter are made so."""
    sends: ClassVar[bool] = True
    """Whether it hands tasks over; else the system is asked to run something of its own accord."""
    resumable: ClassVar[bool] = False
    """Whether a cell that was cut off goes on where it stood. It then has one phase, with a load."""
    deadline_s: ClassVar[float] = math.inf
    """A task that starts later than this after its due time counts as `late`. In a drain nothing is late."""

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a cell with the defaults filled in."""
        return {**{name: parameter.default for name, parameter in self.parameters.items()}, **params}

    def cold(self, params: Mapping[str, Any]) -> bool:
        """Whether files are put out of the page cache before anything is spawned."""
        del params
        return False

    def io(self, params: Mapping[str, Any]) -> bool:
        """Whether tasks talk to the io server."""
        return str(params.get("work", "")).startswith("io")

    def relay(self, params: Mapping[str, Any]) -> bool:
        """Whether connections to services must be such that they can be cut."""
        del params
        return False

    def clock(self, params: Mapping[str, Any]) -> bool:
        """Whether the wall clock of the system's processes must be such that it can be set."""
        del params
        return False

    def slots(self, params: Mapping[str, Any], of_run: int) -> int:
        """How many tasks may run at once in a cell: what the parameter `slots` says, where there is one."""
        return int(params.get("slots") or of_run)

    def why_not(self, system: System, variant: Variant, params: Mapping[str, Any]) -> str:
        """Why a variant cannot be asked this, or an empty string: what it takes, and `unsupported`."""
        if self.sends and not system.takes_tasks:
            return "it runs nothing but schedules"
        slots = params.get("slots", 0)
        if variant.max_slots and slots > variant.max_slots:
            return f"it runs no more than {variant.max_slots} at once"
        return self.unsupported(system, variant, params)

    def unsupported(self, system: System, variant: Variant, params: Mapping[str, Any]) -> str:
        """What this scenario in particular has against a variant, or an empty string."""
        del system, variant, params
        return ""

    def remark(self, params: Mapping[str, Any]) -> str:
        """What every figure of a cell must say of its condition, or an empty string."""
        del params
        return ""

    @abstractmethod
    def seconds(self, params: Mapping[str, Any]) -> float:
        """Roughly how long the phases take, for the estimate of the time left."""

    @abstractmethod
    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        """Yield the phases of a cell one by one; each `yield` returns what tells that phase's tasks."""

    @abstractmethod
    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        """The figures of one cell: a pure function of its history."""
