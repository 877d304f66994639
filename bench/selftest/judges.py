"""Judging a lie: what the liar's cell shows, with its interval, beside what the honest twin's cell shows.

Pure functions over two results. A lie is found when the planted value lies inside the interval, the honest
twin's does not show it, and every mark that the fault must carry is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from bench.model import Metric
from bench.runner import Result
from bench.selftest import lies
from bench.stats import proportion_interval

RELATIVE_RESOLUTION: Final = 0.05
"""Added to either side of an interval, and all there is of it where a cell gives one figure without any. A
planted size is known to this share of itself: a burn overshoots, pages are whole, and the PSS of a library
changes when another process on the machine loads it or ends."""

TIMER_RESOLUTION_MS: Final = 2.0
"""How far from its time a sleep may end on a busy machine; the planted delays are sleeps themselves."""


@dataclass(frozen=True)
class Span:
    """What a cell shows of a fault: a figure and its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Evidence:
    """What is known of one lie: the planted value, what was found, what the honest twin shows.

    `missing` names what else had to be there and was not: marks on the liar's figures, or silence on the
    twin's.
    """

    planted: float
    unit: str
    found: Span
    honest: Span
    missing: tuple[str, ...] = field(default=())

    @property
    def good(self) -> bool:
        """Whether the lie was found, and only where it was planted: no interval holds the value of both."""
        return (
            self.found.holds(self.planted)
            and self.honest.holds(self.honest.value)
            and not self.found.holds(self.honest.value)
            and not self.honest.holds(self.planted)
            and not self.missing
        )


Judge = Callable[[Result, Result], Evidence]


def metric(result: Result, name: str) -> Metric:
    """A figure of a cell; NaN where it has none."""
    found = (one for one in result.metrics if one.name == name)
    return next(found, Metric(name, "", math.nan, 0, note="not measured"))


def share(result: Result, name: str, of: int) -> Span:
    """A count of tasks as a share of 1000, with the exact interval."""
    count = metric(result, name).value
    if math.isnan(count):
        return Span(math.nan, math.nan, math.nan)
    found = proportion_interval(round(count), of, confidence=0.999)
    return Span(*(1000 * float(end or 0) for end in (found.value, found.low, found.high)))


def span(result: Result, name: str) -> Span:
    """A figure with its own interval; without one, the figure alone."""
    found = metric(result, name)
    ends = (found.value if end is None else end for end in (found.low, found.high))
    return Span(found.value, *ends)


def difference(liar: Span, honest: Span, resolution: float) -> Span:
    """The liar's figure above the honest one's, at the widest, and `resolution` to either side."""
    return Span(
        liar.value - honest.value, liar.low - honest.high - resolution, liar.high - honest.low + resolution
    )


def _required(conditions: Mapping[str, bool]) -> tuple[str, ...]:
    return tuple(words for words, met in conditions.items() if not met)


def _invalid(result: Result, name: str) -> bool:
    return "invalid" in metric(result, name).note


# --- one for each lie -------------------------------------------------------------------------------


def _fate(fate: str, other: str = "") -> Judge:
    """1 in 1000 met this fate; 1 in 1000 the other, or none did."""

    def judge(liar: Result, honest: Result) -> Evidence:
        planted = 1000 / lies.ONE_IN
        quiet = {name for name in ("lost", "duplicated", "failed", "unexpected") if name not in (fate, other)}
        conditions = {f"no task {name}": metric(liar, f"tasks_{name}").value == 0 for name in sorted(quiet)}
        if other:
            found = share(liar, f"tasks_{other}", lies.DRAIN_TASKS)
            conditions[f"the {other} ones as well"] = found.holds(planted)
        return Evidence(
            planted,
            "in 1000 tasks",
            share(liar, f"tasks_{fate}", lies.DRAIN_TASKS),
            share(honest, f"tasks_{fate}", lies.DRAIN_TASKS),
            _required(conditions),
        )

    return judge


def _late_dispatch(liar: Result, honest: Result) -> Evidence:
    ours = span(honest, "dispatch_latency_p50")
    found = difference(span(liar, "dispatch_latency_p50"), ours, TIMER_RESOLUTION_MS)
    still = difference(ours, ours, TIMER_RESOLUTION_MS)
    conditions = {"no invalid mark": not _invalid(liar, "dispatch_latency_p50")}
    return Evidence(lies.DELAY_MS, "ms", found, still, _required(conditions))


def expected_p99_ms(pause_s: float) -> float:
    """P99 of what waits while nothing can be sent: evenly spaced, the first waits all of the pause."""
    return 1000 * pause_s * (1 - 0.01 * lies.STALL_TASKS / (lies.STALL_HZ * pause_s))


def _stall(liar: Result, honest: Result) -> Evidence:
    pause_ms = 1000 * lies.STALL_S
    uncorrected = metric(liar, "submit_to_start_p99").value
    conditions = {
        "the uncorrected P99 stays": uncorrected < 0.1 * pause_ms,
        "the generator is not blamed": not _invalid(liar, "dispatch_latency_p99"),
    }
    return Evidence(
        expected_p99_ms(lies.STALL_S),
        "ms, P99",
        span(liar, "dispatch_latency_p99"),
        span(honest, "dispatch_latency_p99"),
        _required(conditions),
    )


def _stopped_generator(liar: Result, honest: Result) -> Evidence:
    blamed = "generator fell behind"
    conditions = {"marked invalid": f"invalid: {blamed}" in metric(liar, "dispatch_latency_p95").note}
    return Evidence(
        expected_p99_ms(lies.STOP_S),
        "ms, P99 lag",
        span(liar, "generator_lag_p99"),
        span(honest, "generator_lag_p99"),
        _required(conditions),
    )


def _clock(step_s: float) -> Judge:
    def judge(liar: Result, honest: Result) -> Evidence:
        mark = "invalid: the clock of a process was off"
        conditions = {"marked invalid": mark in metric(liar, "dispatch_latency_p50").note}
        if step_s < 0:
            conditions["starts before the due time are counted"] = (
                metric(liar, "negative_latencies").value > 0
            )
        return Evidence(step_s, "s", _clock_off(liar), _clock_off(honest), _required(conditions))

    return judge


def _clock_off(result: Result) -> Span:
    low, high = result.details.get("clock_off_s", (0.0, 0.0))
    return Span((low + high) / 2, low, high)


def _leak(liar: Result, honest: Result) -> Evidence:
    planted = lies.LEAK_BYTES / 1000
    ours, theirs = (span(one, "growth_pss_per_1000") for one in (honest, liar))
    resolution = RELATIVE_RESOLUTION * planted
    still = Span(ours.value, ours.low - resolution, ours.high + resolution)
    found = Span(theirs.value, theirs.low - resolution, theirs.high + resolution)
    return Evidence(planted, "MB per 1000 tasks", found, still)


def _shared_pages(liar: Result, honest: Result) -> Evidence:
    ours, theirs = (span(one, "idle_pss.total") for one in (honest, liar))
    resolution = RELATIVE_RESOLUTION * lies.SHARED_MB
    rss_mb = metric(liar, "idle_rss.total").value - metric(honest, "idle_rss.total").value
    conditions = {
        "RSS counts them once per process": rss_mb > lies.FORKS * lies.SHARED_MB,
        "RSS is flagged": "upper bound" in metric(liar, "idle_rss.total").note,
    }
    return Evidence(
        lies.SHARED_MB,
        "MB",
        difference(theirs, ours, resolution),
        difference(ours, ours, resolution),
        _required(conditions),
    )


def _hidden_cpu(liar: Result, honest: Result) -> Evidence:
    ours, theirs = (span(one, "cpu_overhead_per_task") for one in (honest, liar))
    resolution = RELATIVE_RESOLUTION * lies.BURN_MS
    return Evidence(
        lies.BURN_MS,
        "ms a task",
        difference(theirs, ours, resolution),
        difference(ours, ours, resolution),
    )


def _false_success(liar: Result, honest: Result) -> Evidence:
    name = "claims_false_success"
    conditions = {"failures are seen": metric(liar, "tasks_failed").value > 0}
    theirs, ours = (share(one, name, lies.CLAIMED_TASKS) for one in (liar, honest))
    return Evidence(1000 / lies.RAISING_ONE_IN, "in 1000 tasks", theirs, ours, _required(conditions))


def _tick(name: str, *others: str) -> Judge:
    """So many ticks met this, and none the others."""

    def judge(liar: Result, honest: Result) -> Evidence:
        conditions = {f"none of the {other}": metric(liar, other).value == 0 for other in others}
        planned = metric(liar, "ticks_planned").value
        conditions["every tick is planned"] = abs(planned - lies.TICKS) <= 1  # a busy machine is late
        return Evidence(
            lies.FAULTY_TICKS,
            f"of {lies.TICKS} ticks",
            span(liar, name),
            span(honest, name),
            _required(conditions),
        )

    return judge


JUDGES: Final[Mapping[str, Judge]] = {
    "drops": _fate("lost"),
    "duplicates": _fate("duplicated"),
    "drops and duplicates": _fate("lost", "duplicated"),
    "late dispatch": _late_dispatch,
    "stall": _stall,
    "stopped generator": _stopped_generator,
    "clock ahead": _clock(lies.STEP_S),
    "clock back": _clock(-lies.STEP_S),
    "leak": _leak,
    "shared pages": _shared_pages,
    "hidden CPU": _hidden_cpu,
    "false success": _false_success,
    "skipped tick": _tick("ticks_skipped", "ticks_repeated", "ticks_overlapped"),
    "repeated tick": _tick("ticks_repeated", "ticks_skipped"),
    "overlap": _tick("ticks_overlapped", "ticks_skipped", "ticks_repeated"),
}
"""How each lie is judged, by its name."""
