"""Judging an open-loop load: whether it was offered as planned, and whether the system kept up with it.

Pure functions over the `ledger.per_task` frame of the tasks of one load.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from bench.ledger import Frame
from bench.model import Load

Milliseconds = npt.NDArray[np.float64]

LAG_SHARE: Final = 0.10
LAG_MS: Final = 1.0
"""A load is invalid when the generator's P99 lag is above both this share of P95 and this many ms."""

LEAST_OFFERED: Final = 0.95
"""A load is invalid when tasks were sent at less than this share of the planned rate."""

GROWTH_MS: Final = 10.0
LEAST_QUARTER: Final = 25
"""A load is invalid when the latency of its last quarter is twice that of the first, and this much more;
where a quarter is fewer than so many tasks, more than half of what the load lasted, and this much more."""

GROWTH_SHARE: Final = 0.02
GROWTH_ROUNDS: Final = 3
GROWTH_SPREADS: Final = 3
"""A backlog grows when it gains more than this share of the tasks offered meanwhile and this many tasks for
each that can run at once, and more than this many times what it scatters about its own trend: that of a
system that looks for work once a second goes up and down without growing."""

MOMENTS: Final = 200
"""At so many moments of a load its backlog is counted."""

SECOND_NS: Final = 1_000_000_000


def dispatch_ms(sent: Frame) -> Milliseconds:
    """Due to first start, in ms, of the tasks that started, in the order of their due times."""
    ran = sent[sent["starts"] > 0]
    due, start = (ran[f"{name}_ns"].to_numpy(np.int64) for name in ("due", "start"))
    return np.asarray((start - due)[np.argsort(due, kind="stable")] / 1e6)


def generator_lag_ms(sent: Frame, ahead_s: int, warmup_n: int = 0) -> Milliseconds:
    """How late the generator itself was with each task after the warm-up, in ms.

    `sent` holds all tasks of the load in the order of sending: a call of the warm-up may block until later.

    It is late against a generator that never is, and whose submit calls take as long as they took here:
    that one sends each task when it is to be sent, or when the call before has returned. So what a blocking
    submit call delays is the system's own latency and stays in it, and what a stopped generator delays is
    all counted here, also the tasks that it has to catch up with.
    """
    due, submit = (sent[f"{name}_ns"].to_numpy(np.int64) for name in ("due", "submit"))
    calls = (sent["accepted_ns"] - sent["submit_ns"]).fillna(0).to_numpy(np.int64)
    # Each is sent at max(its time, the sending before + the call before), which unrolls to a running maximum.
    before = np.concatenate([[0], np.cumsum(calls)[:-1]])
    ready = np.maximum.accumulate(due - ahead_s * SECOND_NS - before) + before
    measured = (sent["index"] >= warmup_n).to_numpy(bool)
    return np.asarray((submit - ready)[measured] / 1e6)


def fell_behind(lag_p99_ms: float, p95_ms: float) -> bool:
    """Whether the generator was so late that the latencies beside it are partly its own."""
    return lag_p99_ms > LAG_MS and not lag_p99_ms <= LAG_SHARE * p95_ms


def offered_share(sent: Frame) -> float:
    """The rate at which tasks were really sent, as a share of the planned rate; `sent` in that order."""
    planned, took = (float(sent[name].iloc[-1] - sent[name].iloc[0]) for name in ("due_ns", "submit_ns"))
    return planned / took if took > 0 else 1.0


def overloaded(latency_ms: Milliseconds, lasted_ms: float) -> bool:
    """Whether latency grew all through a load: then it tells the load's length and not the system.

    `latency_ms` in the order of the due times, of a load that lasted so long. Compares the medians of the
    last and the first quarter; where those are of few tasks, the last with half of what the load lasted.
    """
    quarter = len(latency_ms) // 4
    if not quarter:
        return False
    first, last = (float(np.median(part)) for part in (latency_ms[:quarter], latency_ms[-quarter:]))
    most_ms = 2 * first if quarter >= LEAST_QUARTER else lasted_ms / 2
    return last > most_ms and last - first > GROWTH_MS


def offered_remarks(tasks: Frame, load: Load, ahead_s: int) -> list[str]:
    """How a load was not offered as planned; `tasks` are all of it, warm-up included."""
    sent = tasks.sort_values("submit_ns")
    measured = sent[sent["index"] >= load.warmup_n]
    if not len(measured):
        return []
    lag_p99_ms = float(np.percentile(generator_lag_ms(sent, ahead_s, load.warmup_n), 99))
    offered = offered_share(measured)
    found = []
    if fell_behind(lag_p99_ms, _p95(dispatch_ms(measured))):
        found.append(f"generator fell behind (P99 lag {lag_p99_ms:.1f} ms)")
    if offered < LEAST_OFFERED:
        found.append(f"the client could offer only {offered:.0%} of {load.rate_hz:.3g} tasks/s")
    return found


def remarks(tasks: Frame, load: Load, ahead_s: int) -> list[str]:
    """What speaks against the latencies of a load, of which `tasks` are all, warm-up included."""
    measured = tasks[tasks["index"] >= load.warmup_n]
    latency_ms = dispatch_ms(measured)
    found = [f"invalid: {remark}" for remark in offered_remarks(tasks, load, ahead_s)]
    if not found and overloaded(latency_ms, 1000 * len(measured) / load.rate_hz):
        found.append(f"invalid: overloaded, latency grew all the time at {load.rate_hz:.3g} tasks/s")
    if lost := len(measured) - len(latency_ms):
        found.append(f"{lost} of {len(measured)} tasks never started")
    return found


def _p95(latency_ms: Milliseconds) -> float:
    return float(np.percentile(latency_ms, 95)) if len(latency_ms) else math.nan


# --- sustained or not -------------------------------------------------------------------------------


class Limit(enum.StrEnum):
    """Why a rate is not sustainable; of several that hold, the first."""

    CLIENT = "one client could not offer more"
    LOST = "tasks were lost"
    GENERATOR = "the generator fell behind"  # which tells nothing of the system
    BACKLOG = "the backlog grew"
    LATE = "P95 missed the objective"


@dataclass(frozen=True)
class Verdict:
    """What one load showed of a rate. `n` tasks were judged; `p95_ms` is their P95 from due to start."""

    rate_hz: float
    n: int
    p95_ms: float
    limit: Limit | None

    @property
    def sustained(self) -> bool:
        """Whether nothing speaks against the rate."""
        return self.limit is None


def judge(tasks: Frame, load: Load, objective_ms: float, ahead_s: int = 0) -> Verdict:
    """Whether a system sustained a load, of which `tasks` are all, warm-up included.

    Sustained means: the client could offer it, every task ended, the backlog did not grow, and P95 of due to
    start was at most `objective_ms`. The warm-up counts only for what was lost, and for the backlog that it
    left behind.
    """
    sent = tasks[tasks["submits"] > 0].sort_values("submit_ns")
    measured = sent[sent["index"] >= load.warmup_n]
    p95_ms = _p95(dispatch_ms(measured))
    lag_ms = generator_lag_ms(sent, ahead_s, load.warmup_n)
    not_ours = backlog_grew(sent, int(measured["due_ns"].min())), not p95_ms <= objective_ms
    limits = {
        Limit.CLIENT: offered_share(measured) < LEAST_OFFERED,
        Limit.LOST: len(sent) < load.n or bool((sent["ends"] == 0).any()),
        Limit.GENERATOR: any(not_ours) and fell_behind(float(np.percentile(lag_ms, 99)), p95_ms),
        Limit.BACKLOG: not_ours[0],
        Limit.LATE: not_ours[1],
    }
    limit = next((limit for limit, holds in limits.items() if holds), None)
    return Verdict(load.rate_hz, len(measured), p95_ms, limit)


def backlog_grew(sent: Frame, since_ns: int) -> bool:
    """Whether the number of tasks that are due and have not ended grew from `since_ns` to the last due time.

    The growth is that of a straight line through it (least squares).
    """
    due = np.sort(sent["due_ns"].to_numpy(np.int64))
    ended = np.sort(sent["end_ns"].dropna().to_numpy(np.int64))
    moments = np.linspace(since_ns, due[-1], MOMENTS)
    backlog = np.searchsorted(due, moments, "right") - np.searchsorted(ended, moments, "right")
    along = np.linspace(-0.5, 0.5, MOMENTS)
    growth = float(along @ backlog / (along @ along))
    spread = float(np.std(backlog - growth * along))
    offered = len(due) - int(np.searchsorted(due, since_ns))
    allowed = GROWTH_SHARE * offered + GROWTH_ROUNDS * at_once(sent)
    return growth > max(allowed, GROWTH_SPREADS * spread)


def at_once(tasks: Frame) -> int:
    """The most bodies of these tasks that ran at the same moment, without those that ran more than once.

    Of those the first start and the first end are known, which may be of two runs.
    """
    ran = tasks[tasks["starts"] == 1].dropna(subset=["start_ns", "end_ns"])
    starts, ends = (np.sort(ran[name].to_numpy(np.int64)) for name in ("start_ns", "end_ns"))
    running = np.arange(1, len(starts) + 1) - np.searchsorted(ends, starts, "right")
    return int(running.max(initial=0))
