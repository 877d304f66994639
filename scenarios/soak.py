"""Soak: a day's work at the survey's rate, with a day's peaks, in which some tasks raise and are retried.

`--set soak.duration=24h` is the real thing; anything shorter runs the same code, with the day squeezed into
it. `compress=k` offers k times the rate for a k-th of the time, which only exercises what depends on counts.

A soak that was cut off is taken up again: what it recorded is kept. A task that was due meanwhile was not
offered, and one that was under way was cut off by the harness: neither is counted for or against the system.
All that is said over time rests on where a task stood in the plan; clocks of two segments are never compared.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.openloop import dispatch_ms, fell_behind, generator_lag_ms
from bench.scenario import (
    AHEAD_S,
    BATCHES,
    Arrival,
    Fate,
    Grid,
    History,
    Load,
    Metric,
    Parameter,
    Phase,
    Phases,
    Scenario,
    System,
    Variant,
    offsets_ns,
    quantiles,
    stats,
    works,
)

PHASE = "soak"
RAISING = "raise-once"
MIX = (("noop", 0.49), ("sleep:50", 0.245), ("io:50:1000", 0.245), (RAISING, 0.02))
"""The survey does not say what its tasks did. Bodies of 50 ms, so that 1000 an hour keep no slot busy."""

RETRIES = 1
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
DAY_S = 24 * 3600.0
HOUR_S = 3600.0

INCIDENT_GAP_S = 60.0
"""Tasks that went wrong less than this apart, by when they were due, are one incident."""

PARTS, LEAST_IN_PART = 24, 20
"""What is shown over time is shown for so many equal parts of the plan, or fewer, so that there are on
average so many tasks in each."""

LOOK_S = 0.2
LEAST_SAMPLE_S, MOST_SAMPLE_S, SAMPLES = 0.5, 10.0, 1000
LEAST_DRAIN_S = 600.0

SETTLING_SHARE = 0.10
LEAST_SAMPLES = 60
HOURLY_S = 60.0
"""Growth counts from this share of a segment on, is marked below so many samples (`stats.slope_interval` says
what fewer are worth) and is not told of less time: that would be blown up too far."""

PAGE_MB = mmap.PAGESIZE / 1e6
SEED = 24

Seconds = npt.NDArray[np.float64]


def seconds_of(text: str) -> float:
    """How many seconds a text such as `90s`, `10m` or `24h` means.

    Raises:
        ValueError: it is not of that form, or means no time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None or not float(found[1]):
        raise ValueError("give a number above 0 with its unit, such as 90s, 10m or 24h")
    return float(found[1]) * UNITS_S[found[2]]


def spoken(seconds: float) -> str:
    """A time in the largest unit of which there are at least two, as people say it."""
    for words, unit_s in (("h", HOUR_S), ("min", 60.0)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.3g} {words}"
    return f"{seconds:.3g} s"


class Soak(Scenario):
    """A long load at a low rate."""

    title = "Soak: a day's load with its peaks; the fate of every task, incidents, memory growth"
    unasked = frozenset()
    resumable = True
    again = False
    headline = "success_rate"
    deadline_s = 60.0
    parameters = {
        "duration": Parameter("10m", "how long it lasts, such as 90s, 10m, 1h or 24h", check=seconds_of),
        "per_hour": Parameter(1000, "tasks per hour, on average", above_zero=True),
        "compress": Parameter(
            1, "offer so many times the rate, for so much less time; no longer that duration", above_zero=True
        ),
    }
    profiles = {
        "quick": (Grid(1),),
        "standard": (Grid(1, ({"duration": "1h"},)),),
        "full": (Grid(1, ({"duration": "24h"},)),),
    }

    def io(self, params: Mapping[str, Any]) -> bool:
        return True

    def unsupported(self, system: System, variant: Variant, params: Mapping[str, Any]) -> str:
        return BATCHES if variant.batch else ""

    def remark(self, params: Mapping[str, Any]) -> str:
        return f"compressed \N{MULTIPLICATION SIGN}{params['compress']}" if params["compress"] > 1 else ""

    def seconds(self, params: Mapping[str, Any]) -> float:
        return seconds_of(params["duration"]) / float(params["compress"])

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        lasts_s = self.seconds(params)
        n = max(1, round(params["per_hour"] * params["compress"] / HOUR_S * lasts_s))
        load = Load(n, Arrival.DAILY, n / lasts_s, mix=MIX, retries=RETRIES, seed=SEED)
        yield Phase(
            PHASE,
            load,
            limit_s=max(LEAST_DRAIN_S, lasts_s),
            memory=True,
            sample_s=min(max(lasts_s / SAMPLES, LEAST_SAMPLE_S), MOST_SAMPLE_S),
            look_s=LOOK_S,
            supervised=True,
        )

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        load = history.phases[history.number(PHASE)].load
        assert load is not None
        tasks = history.sent(PHASE)
        plan = _Plan(load, np.asarray(offsets_ns(load), np.float64) / 1e9)
        segments = _segments(history, plan)
        ran_s = sum(segment.ran_s for segment in segments)
        yield from _judged(history, tasks, plan, _ran_words(ran_s, params))
        yield Metric("tasks_offered", "count", float(len(tasks)), load.n)
        yield Metric("tasks_not_offered", "count", float(load.n - len(tasks)), load.n)
        yield Metric("ran", "s", ran_s, len(segments), note=_ran_words(ran_s, params))
        yield Metric("segments", "count", float(history.segment + 1), history.segment + 1)
        lag_ms = _lag_ms(tasks, AHEAD_S if history.ahead else 0)
        late = _behind(lag_ms, dispatch_ms(tasks))
        yield from quantiles("dispatch_latency", dispatch_ms(tasks), late)
        yield from quantiles("generator_lag", lag_ms)
        for metric in _latency_parts(tasks, plan):
            yield metric.noted(late)
        yield from _memory_parts(segments, plan)
        yield from _growth(segments)


@dataclass(frozen=True)
class _Plan:
    """The load as it was planned, and when each of its tasks was due, in s from its beginning."""

    load: Load
    due_s: Seconds

    @property
    def lasts_s(self) -> float:
        return self.load.n / self.load.rate_hz

    @property
    def parts(self) -> int:
        return max(1, min(PARTS, self.load.n // LEAST_IN_PART))

    def part(self, at_s: Seconds) -> npt.NDArray[np.int64]:
        """The part of the plan, from 1, that each moment lies in; the drain belongs to the last."""
        place = np.floor(at_s / self.lasts_s * self.parts).astype(np.int64)
        return np.asarray(np.clip(place, 0, self.parts - 1) + 1)

    def name(self, metric: str, part: int) -> str:
        """A figure of one part: `pss_part03of24`."""
        return f"{metric}_part{part:02}of{self.parts:02}"


@dataclass(frozen=True)
class _Segment:
    """What was sampled of one segment while the plan ran: PSS in MB by role and `total`, by s of the plan."""

    ran_s: float
    pss_mb: pd.DataFrame


def _segments(history: History, plan: _Plan) -> list[_Segment]:
    """Every segment in which a task was sent, its clock turned into the plan's time.

    What both have in common are the tasks: their due times stand in the records and in the plan.
    """
    tasks, samples = history.sent(PHASE), history.samples(PHASE)
    ahead_ns = (AHEAD_S if history.ahead else 0) * 10**9
    found = []
    for domain, own in tasks.groupby("domain"):
        first = own.iloc[0]
        base_ns = int(first["due_ns"]) - ahead_ns - round(plan.due_s[int(first["index"])] * 1e9)
        rows = samples[samples["domain"] == domain]
        events = own[["submit_ns", "accepted_ns", "start_ns", "end_ns", "fail_ns"]]
        seen_ns = [int(at) for at in (*events.min().dropna(), *events.max().dropna(), *rows["t_ns"])]
        begin_s, end_s = ((at - base_ns) / 1e9 for at in (min(seen_ns), max(seen_ns)))
        if int(own["index"].max()) == plan.load.n - 1:
            end_s = plan.lasts_s  # the plan was over: nothing was due after its last task
        ran_s = min(end_s, plan.lasts_s) - max(begin_s, 0.0)
        table = rows.pivot_table(index="t_ns", columns="role", values="pss_bytes") / 1e6
        # A role whose PSS cannot be read at a moment leaves no total of that moment either.
        table["total"] = table.sum(axis=1, skipna=False)
        table.index = pd.Index((table.index.to_numpy(np.int64) - base_ns) / 1e9)
        found.append(_Segment(max(0.0, ran_s), table))
    return found


def _ran_words(ran_s: float, params: Mapping[str, Any]) -> str:
    """How long the load really ran, and that it was not a day where it was not."""
    day = params["compress"] == 1 and ran_s > 0.999 * DAY_S
    return spoken(ran_s) + ("" if day else ", not 24 h")


def _judged(history: History, tasks: pd.DataFrame, plan: _Plan, ran: str) -> Iterator[Metric]:
    """The success rate and the incidents: of what was offered and not cut off."""
    fate = history.fate(tasks, Soak.deadline_s).astype(str)
    index = tasks["index"].to_numpy(np.int64)
    raising = np.asarray(works(plan.load))[index] == RAISING
    as_asked = raising & (plan.load.retries == 0) & (fate == Fate.FAILED).to_numpy()
    cut = (fate == Fate.CUT_OFF).to_numpy()
    overdue = np.zeros(len(tasks), np.bool_)
    overdue[cut] = _overdue(history, tasks[cut])
    cut = cut & ~overdue
    judged = ~(as_asked | cut)
    ok = (fate == Fate.OK).to_numpy() & judged
    bad_s = np.sort(plan.due_s[index[judged & ~ok]])
    n = int(judged.sum())
    note = [ran]
    if as_asked.any():
        note.append(f"{as_asked.sum()} left out that failed as asked: it has no retries")
        words = "failed as asked, it has no retries"
        yield Metric("tasks_failed_as_asked", "count", float(as_asked.sum()), len(tasks), note=words)
    if cut.any():
        note.append(f"{cut.sum()} left out that were under way when the harness was cut off")
    if overdue.any():
        words = "counted as lost: silent for longer than the deadline when the harness was cut off"
        yield Metric("cut_off_overdue", "count", float(overdue.sum()), len(tasks), note=words)
    if n:
        found = stats.proportion_interval(int(ok.sum()), n)
        if ok.sum() == n:
            most = 100 * (1 - (stats.proportion_interval(n, n, 0.90).low or 0.0))
            note.append(f"no failure in {n}: at most {most:.2g} % fail (95 %, one-sided)")
        yield Metric(
            "success_rate", "%", 100 * found.value, n,
            100 * (found.low or 0.0), 100 * (found.high or 0.0), "; ".join(note),
        )  # fmt: skip
    yield Metric("incidents", "count", float(incidents(bad_s)), n)


def incidents(at_s: Seconds) -> int:
    """How many groups there are with less than `INCIDENT_GAP_S` between neighbours; `at_s` ascends."""
    return int(len(at_s) > 0) + int(np.count_nonzero(np.diff(at_s) >= INCIDENT_GAP_S))


def _overdue(history: History, cut: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Of the tasks that were cut off, those that had given no sign of life for longer than the deadline.

    They are held against the last event of their own segment.
    """
    times = ["submit_ns", "accepted_ns", "start_ns", "fail_ns", "end_ns"]
    own = history.sent(PHASE).groupby("domain")[times].max().max(axis=1)
    signs = cut[["due_ns", "start_ns", "fail_ns"]].max(axis=1)
    silent_ns = cut["domain"].map(own) - signs
    return (silent_ns > Soak.deadline_s * 1e9).fillna(False).to_numpy(bool)


def _lag_ms(tasks: pd.DataFrame, ahead_s: int) -> npt.NDArray[np.float64]:
    """How late the generator was with each task; each segment had a generator of its own."""
    parts = [
        generator_lag_ms(own.sort_values("submit_ns"), ahead_s)
        for _, own in tasks.groupby("domain")
        if len(own)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _behind(lag_ms: npt.NDArray[np.float64], latency_ms: npt.NDArray[np.float64]) -> str:
    if not len(lag_ms) or not len(latency_ms):
        return ""
    lag_p99_ms = float(np.percentile(lag_ms, 99))
    behind = fell_behind(lag_p99_ms, float(np.percentile(latency_ms, 95)))
    return f"invalid: generator fell behind (P99 lag {lag_p99_ms:.1f} ms)" if behind else ""


def _latency_parts(tasks: pd.DataFrame, plan: _Plan) -> Iterator[Metric]:
    """P50 and P95 of dispatch latency by part of the plan, where there is more than one."""
    ran = tasks[tasks["starts"] > 0]
    if plan.parts < 2 or not len(ran):
        return
    ms = (ran["start_ns"] - ran["due_ns"]).to_numpy(np.int64) / 1e6
    part = plan.part(plan.due_s[ran["index"].to_numpy(np.int64)])
    for number in np.unique(part).tolist():
        for percent, wanted in ((50, 100), (95, 1000)):
            found = stats.quantile_interval(ms[part == number], percent / 100)
            few = f"n < {wanted}" if found.n < wanted else ""
            name = f"{plan.name('dispatch_latency', number)}_p{percent}"
            yield Metric(name, "ms", found.value, found.n, found.low, found.high, few)


def _memory_parts(segments: Iterable[_Segment], plan: _Plan) -> Iterator[Metric]:
    """The median PSS of each role by part of the plan, over all segments in it."""
    if plan.parts < 2:
        return
    whole = pd.concat([segment.pss_mb for segment in segments]) if segments else pd.DataFrame()
    part = plan.part(whole.index.to_numpy(np.float64))
    for role in whole.columns:
        for number, values in whole[role].groupby(part):
            kept = values.dropna()
            if len(kept):
                name = f"{plan.name('loaded_pss', int(str(number)))}.{role}"
                yield Metric(name, "MB", float(kept.median()), len(kept))


def _growth(segments: Iterable[_Segment]) -> Iterator[Metric]:
    """What the PSS of each role grows by per hour, in the longest segment: another begins from anew."""
    kept = list(segments)
    if not kept:
        return
    longest = max(kept, key=lambda segment: segment.ran_s)
    span_s = float(np.ptp(longest.pss_mb.index)) if len(longest.pss_mb) else 0.0
    settled = longest.pss_mb[longest.pss_mb.index >= longest.pss_mb.index.min() + SETTLING_SHARE * span_s]
    for role in settled.columns:
        pss_mb = settled[role].dropna()
        hours = pss_mb.index.to_numpy(np.float64) / HOUR_S
        if len(pss_mb) < 3 or np.ptp(hours) * HOUR_S < HOURLY_S:
            continue
        found = stats.slope_interval(hours, pss_mb.to_numpy(np.float64), SEED, resolution=PAGE_MB)
        metric = Metric(f"growth_pss_per_hour.{role}", "MB", found.value, found.n, found.low, found.high)
        words = f"the longest of {len(kept)} segments, " if len(kept) > 1 else ""
        few = f"n < {LEAST_SAMPLES}" if found.n < LEAST_SAMPLES else ""
        yield metric.noted(few).noted(f"{words}sampled for {spoken(float(np.ptp(hours)) * HOUR_S)}")
