"""The pacer: due times computed before the run, and the loop that meets them.

Hot path. The loop sleeps to absolute deadlines and never skips a task: after a stall it sends what is
due at once, and the lateness stands in the ledger (`submit - due`).
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from time import monotonic_ns, sleep
from typing import cast

from bench.agent.probe import stamp
from bench.model import AHEAD_S, PHASE_SHIFT, SCHEDULE, UNSERIALISABLE, Arrival, Kind, Load, Task

Plan = Sequence[tuple[int, int, Task]]
"""`(send offset, due offset, task)` in ns, in the order of sending."""


DAY_NS = 24 * 3600 * 10**9

HOURS = (2, 2, 2, 2, 2, 3, 4, 7, 12, 20, 22, 18, 12, 14, 19, 20, 16, 12, 9, 8, 7, 6, 4, 3)
"""Relative rates of the hours of a day: quiet nights and two peaks, the higher one 2.3 times the mean. It is
our own choice: the survey speaks of peaks and does not say how high they were."""


def offsets_ns(load: Load) -> list[int]:
    """Due times of a load relative to its start, in ns, ascending, one per task.

    Raises:
        ValueError: a paced load with no positive rate.
    """
    if load.arrival is Arrival.BURST:
        return [0] * load.n
    if not load.rate_hz > 0:
        raise ValueError(f"a {load.arrival} load needs a rate above 0 tasks/s, got {load.rate_hz}")
    gap_ns = 1e9 / load.rate_hz
    if load.arrival is Arrival.CONSTANT:
        return [round(i * gap_ns) for i in range(load.n)]
    rng = random.Random(load.seed)
    if load.arrival is Arrival.DAILY:
        return _daily_ns(rng, load.n, load.n * gap_ns)
    return [round(at) for at in accumulate(rng.expovariate(1) * gap_ns for _ in range(load.n))]


def _daily_ns(rng: random.Random, n: int, lasts_ns: float) -> list[int]:
    """`n` arrivals of a Poisson process with the rates of `HOURS`, given that there are so many.

    Those are independent draws from the rate as a density, in order (Ross, Stochastic Processes, 1996, 2.4).
    Times are straight lines between the edges of the hours in the cumulated rate.
    """
    hour_ns = min(lasts_ns, DAY_NS) / len(HOURS)
    edges, expected = [0.0], [0.0]
    while edges[-1] < lasts_ns:
        rate = HOURS[(len(edges) - 1) % len(HOURS)]
        edges.append(min(edges[-1] + hour_ns, lasts_ns))
        expected.append(expected[-1] + rate * (edges[-1] - edges[-2]))
    found = []
    for at in sorted(rng.uniform(0, expected[-1]) for _ in range(n)):
        hour = min(bisect_right(expected, at), len(expected) - 1) - 1
        share = (at - expected[hour]) / (expected[hour + 1] - expected[hour])
        found.append(round(edges[hour] + share * (edges[hour + 1] - edges[hour])))
    return found


def tasks(load: Load, phase: int, ahead: bool) -> list[tuple[int, int, Task]]:
    """`(send offset, due offset, task)` of a load in ns, in the order of sending.

    With `ahead`, for systems that can only run a task some whole seconds later, every task is due
    `AHEAD_S` after it is sent; otherwise at that moment.

    Raises:
        ValueError: the phase has a number that ids have no room for.
    """
    if not 0 <= phase < SCHEDULE >> PHASE_SHIFT:
        raise ValueError(f"phase {phase} does not fit into the id of a task")
    payload = "x" * load.payload_bytes
    first = phase << PHASE_SHIFT
    delay_s = AHEAD_S if ahead else 0
    return [
        (send, send + delay_s * 1_000_000_000, _task(first | index, work, payload, delay_s, load.retries))
        for index, (send, work) in enumerate(zip(offsets_ns(load), works(load), strict=True))
    ]


def works(load: Load) -> list[str]:
    """The body of every task of a load, in the order of their indexes."""
    found = [load.work] * load.n
    if load.mix:
        words, weights = zip(*load.mix, strict=True)
        found = random.Random(load.seed).choices(words, weights, k=load.n)
    for index, work in load.special:
        found[index] = work
    return found


class Unserialisable:
    """A payload that neither JSON nor pickle can make bytes of, as a lock or a connection would be."""

    def __len__(self) -> int:
        return 0

    def __reduce__(self) -> str:
        raise TypeError("this payload was made not to be serialisable")


def _task(number: int, work: str, payload: str, delay_s: int, retries: int) -> Task:
    if work == UNSERIALISABLE:
        return Task(number, "noop", cast(str, Unserialisable()), delay_s, retries)
    return Task(number, work, payload, delay_s, retries)


def pace(plan: Plan, base_ns: int, submit: Callable[[Task], None]) -> tuple[int, BaseException | None]:
    """Submit every task at its time; returns how many submits raised, and the first exception.

    Stamps `SUBMIT` (with the due time) before and `ACCEPTED` or `REFUSED` after each call.
    """
    refused = 0
    first: BaseException | None = None
    before, after, bad = int(Kind.SUBMIT), int(Kind.ACCEPTED), int(Kind.REFUSED)
    for send, due, task in plan:
        wait_ns = base_ns + send - monotonic_ns()
        if wait_ns > 0:
            sleep(wait_ns / 1e9)
        stamp(before, task.id, base_ns + due)
        try:
            submit(task)
        except Exception as error:  # noqa: BLE001 - a refusal is an event; the plan goes on
            stamp(bad, task.id)
            refused += 1
            first = first or error
        else:
            stamp(after, task.id)
    return refused, first


def pace_batches(
    plan: Plan, base_ns: int, submit: Callable[[Sequence[Task]], None]
) -> tuple[int, BaseException | None]:
    """As `pace`, with all tasks that are to be sent at one moment in one call; a refusal is of them all."""
    refused = 0
    first: BaseException | None = None
    for send, group in groupby(plan, key=itemgetter(0)):
        own = list(group)
        wait_ns = base_ns + send - monotonic_ns()
        if wait_ns > 0:
            sleep(wait_ns / 1e9)
        for _, due, task in own:
            stamp(Kind.SUBMIT, task.id, base_ns + due)
        try:
            submit([task for *_, task in own])
            answer = Kind.ACCEPTED
        except Exception as error:  # noqa: BLE001 - a refusal is an event; the plan goes on
            answer = Kind.REFUSED
            refused += len(own)
            first = first or error
        for *_, task in own:
            stamp(answer, task.id)
    return refused, first
