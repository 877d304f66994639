"""What each scenario makes of a history: small recorded histories, figures worked out by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench import discovery, ledger, openloop, stats
from bench.errors import CellError, Unsupported
from bench.model import (
    FAULTS,
    PHASE_SHIFT,
    SCHEDULE,
    Arrival,
    Fault,
    Kind,
    Load,
    Metric,
    Phase,
    Promise,
    Variant,
    Workers,
)
from bench.sampler import COLUMNS
from bench.scenario import (
    BATCHES,
    LEAST_IDLE_S,
    REST_S,
    History,
    Seen,
    bursts,
    capacity_hz,
    first_tasks,
    idling,
    quantiles,
    rate_hz,
    speedup,
    steady_hz,
)
from scenarios import capacity, memory
from scenarios.faults import CALM_S, LEAST_CALM

MS = 1_000_000
SECOND = 1_000_000_000
SCENARIOS = discovery.scenarios()
HEAVY = Variant("v", max_slots=2, heavy=True)
FEW = first_tasks(HEAVY)
DRAINED = first_tasks(HEAVY, 3)

Event = tuple[int, int, Kind, int, int]
"""Phase, index, kind, t_ns, aux."""


def task(
    phase: int,
    index: int,
    *,
    due: int = 0,
    submit: int | None = None,
    accepted: int | None = None,
    start: int | None = None,
    end: int | None = None,
    burned: int = 0,
) -> list[Event]:
    """The events of a task; times in ns. It is submitted when it is due, and accepted at once."""
    submit = due if submit is None else submit
    events = [(phase, index, Kind.SUBMIT, submit, due)]
    events.append((phase, index, Kind.ACCEPTED, submit if accepted is None else accepted, 0))
    if start is not None:
        events.append((phase, index, Kind.START, start, 0))
    if end is not None:
        events.append((phase, index, Kind.END, end, burned))
    return events


def sample(phase: str, edge: str, t_ns: int, role: str, **figures: float) -> dict[str, object]:
    memory = {f"{kind}_bytes": figures.get(kind, math.nan) for kind in ("pss", "uss", "rss")}
    return {
        "t_ns": t_ns,
        "phase": phase,
        "edge": edge,
        "role": role,
        "processes": figures.get("processes", 1),
        "cpu_ns": figures.get("cpu_ns", 0),
        **memory,
    }


def history(
    phases: Sequence[Phase],
    events: Iterable[Iterable[Event]] = (),
    samples: Sequence[Mapping[str, object]] = (),
    *,
    spawned_ns: Mapping[str, int] | None = None,
    ahead: bool = False,
    cpu_source: str = "cgroup2",
) -> History:
    flat = [event for one in events for event in one]
    records = np.zeros(len(flat), ledger.EVENT)
    for at, (phase, index, kind, t_ns, aux) in enumerate(flat):
        records[at] = (
            phase << PHASE_SHIFT | index,
            t_ns,
            aux,
            100,
            0 if kind < Kind.START else index,
            kind,
            0,
        )
    is_scheduled = records["task"] >= SCHEDULE
    return History(
        ledger.per_task(records[~is_scheduled]),
        pd.DataFrame([dict(row) for row in samples], columns=list(COLUMNS)),
        dict(enumerate(phases, 1)),
        spawned_ns or {},
        ahead,
        cpu_source,
        records[is_scheduled],
    )


def drained(n: int, took_ns: int) -> Seen:
    """What is seen of a phase whose `n` tasks ran in `took_ns`, all of them at once."""
    return lambda: history([QUEUE[0]], [task(1, i, start=0, end=took_ns) for i in range(n)]).tasks


def figures(scenario: str, made: History, **params: Any) -> dict[str, Metric]:
    metrics = list(SCENARIOS[scenario].metrics(made, SCENARIOS[scenario].values(params)))
    found = {metric.name: metric for metric in metrics}
    assert len(found) == len(metrics), "two metrics of one name"
    return found


# --- throughput -----------------------------------------------------------------------------------

QUEUE = [Phase("queue", Load(4), workers=Workers.DOWN, wait="queued"), Phase("drain", ready=False)]


def test_throughput_is_from_first_start_to_last_end() -> None:
    """100 tasks from 10.0 s to 20.1 s; when they were queued, and when workers came up, does not matter."""
    events = [
        task(1, i, submit=i * 100 * MS, accepted=i * 100 * MS + 50 * MS, start=10 * SECOND + i * 100 * MS,
             end=10 * SECOND + i * 100 * MS + 200 * MS)
        for i in range(100)
    ]  # fmt: skip
    found = figures("throughput", history(QUEUE, events), tasks=100)
    assert rows([found["throughput"]]) == {"throughput": ("tasks/s", 100 / 10.1, 100, "")}
    # Submitted from 0 to 9.95 s, when the last was accepted.
    assert found["submit_rate"].value == exactly(100 / 9.95)


@pytest.mark.parametrize(
    ("n", "asked", "hz", "told"),
    [(6, 6, 0.2, False), (6, 1000, 0.2, True), (98, 1000, 0.2, True), (100, 1000, 100 / 491.001, False)],
)
def test_of_a_few_tasks_the_first_round_is_left_out(n: int, asked: int, hz: float, told: bool) -> None:
    """Rounds of two, ten seconds apart and a second long."""
    found = figures("throughput", history(QUEUE, in_rounds(n)), tasks=asked)["throughput"]
    words = f"{n} tasks, more would take too long; from the end of the first round on"
    assert (found.value, found.n, found.note) == (exactly(hz), n, words if told else "")


def in_rounds(n: int, of: int = 2) -> list[list[Event]]:
    """Tasks in rounds of so many at once, which take about a second and begin every ten."""
    begin = [i // of * 10 * SECOND for i in range(n)]
    end = [at + SECOND + i % of * MS for i, at in enumerate(begin)]
    return [task(1, i, accepted=1, start=begin[i], end=end[i]) for i in range(n)]


def test_throughput_counts_what_ended_and_says_what_did_not() -> None:
    events = [
        task(1, i, accepted=1, start=SECOND * i, end=SECOND * (i + 1) if i < 3 else None) for i in range(4)
    ]
    found = figures("throughput", history(QUEUE, events), tasks=4)
    assert found["throughput"].value == pytest.approx(1.0)
    assert found["throughput"].n == 3
    assert found["throughput"].note == "invalid: 1 of 4 tasks did not end"


def test_throughput_of_one_task_is_unknown() -> None:
    found = figures("throughput", history(QUEUE, [task(1, 0, accepted=1, start=5, end=9)]), tasks=1)
    assert math.isnan(found["throughput"].value)


def test_a_longer_drain_is_measured_on_its_own_tasks() -> None:
    phases = [*QUEUE, Phase("long queue", Load(2)), Phase("long drain")]
    events = [task(1, 0, start=0, end=SECOND), task(1, 1, start=0, end=SECOND)]
    events += [task(3, i, accepted=SECOND, start=0, end=4 * SECOND) for i in range(2)]
    found = figures("throughput", history(phases, events), seconds=4.0)
    assert found["throughput"].value == pytest.approx(0.5)


def test_a_longer_drain_is_sized_by_the_first() -> None:
    steps = SCENARIOS["throughput"].phases(SCENARIOS["throughput"].values({"seconds": 3.0}), Variant("v"))
    first = next(steps)
    assert first.load is not None
    assert steps.send(drained(5000, SECOND)).name == "drain"
    second = steps.send(drained(0, 0))
    assert second.load is not None
    assert (second.workers, second.load.n) == (Workers.DOWN, 15_000)


def test_a_burst_of_which_nothing_ends_sizes_no_drain() -> None:
    steps = SCENARIOS["throughput"].phases(SCENARIOS["throughput"].values({"seconds": 3.0}), Variant("v"))
    next(steps)
    steps.send(lambda: history([QUEUE[0]], [task(1, i, start=0) for i in range(5)]).tasks)
    with pytest.raises(CellError, match="0 of 5 tasks"):
        steps.send(drained(0, 0))


def test_a_queue_that_holds_little_is_not_overfilled() -> None:
    variant = Variant("v", queue_limit=100)
    steps = SCENARIOS["throughput"].phases(SCENARIOS["throughput"].values({"seconds": 3.0}), variant)
    first = next(steps)
    assert first.load is not None
    assert first.load.n == 100
    steps.send(drained(100, MS))
    second = steps.send(drained(0, 0))
    assert second.load is not None
    assert second.load.n == 100


def test_where_nothing_ended_there_is_a_remark_and_where_nothing_was_queued_an_error() -> None:
    nothing = figures("throughput", history(QUEUE, [task(1, i, accepted=9) for i in range(4)]), tasks=4)
    assert math.isnan(nothing["throughput"].value)
    assert nothing["throughput"].note == "invalid: 4 of 4 tasks did not end"
    refused = [[(1, i, Kind.SUBMIT, 0, 0), (1, i, Kind.REFUSED, 1, 0)] for i in range(4)]
    assert list(figures("throughput", history(QUEUE, refused))) == ["throughput"]
    with pytest.raises(CellError, match=r"^no task was queued$"):
        figures("throughput", history(QUEUE, [[(1, 0, Kind.START, 5, 0), (1, 0, Kind.END, 6, 0)]]))


# --- latency --------------------------------------------------------------------------------------


def load(n: int, warmup: int = 0, rate_hz: float = 100.0) -> list[Phase]:
    return [Phase("load", Load(n, Arrival.CONSTANT, rate_hz, warmup_n=warmup))]


def test_dispatch_latency_is_from_due_to_start() -> None:
    """Latencies of 1, 2, ... 101 ms, shuffled: the median is 51, P95 96, P99 100."""
    events = [task(1, i, due=i * SECOND, start=i * SECOND + (1 + i * 37 % 101) * MS) for i in range(101)]
    found = figures("latency", history(load(101), events))
    assert [
        found[f"dispatch_latency_{name}"].value for name in ("p50", "p95", "p99", "max")
    ] == pytest.approx([51, 96, 100, 101])
    p95 = found["dispatch_latency_p95"]
    assert (p95.unit, p95.n, p95.note) == ("ms", 101, "n < 1000")
    assert p95.low is not None
    assert p95.high is not None
    assert p95.low < p95.value < p95.high
    assert found["dispatch_latency_p50"].note == ""
    assert found["offered_rate"].value == 100.0


def test_warm_up_is_left_out() -> None:
    events = [task(1, i, due=i * SECOND, start=i * SECOND + (900 if i < 5 else 2) * MS) for i in range(10)]
    found = figures("latency", history(load(10, warmup=5), events))
    assert found["dispatch_latency_max"].value == pytest.approx(2)
    assert found["dispatch_latency_max"].n == 5


def test_waiting_to_be_sent_is_part_of_dispatch_latency() -> None:
    """Sent 30 ms late, because the call before blocked for so long: the system's own latency."""
    events = [
        *task(1, 0, due=0, accepted=40 * MS, start=50 * MS),
        *task(1, 1, due=10 * MS, submit=40 * MS, start=60 * MS),
    ]
    found = figures("latency", history(load(2), [events]))
    assert found["dispatch_latency_max"].value == pytest.approx(50)
    assert found["submit_to_start_max"].value == pytest.approx(50)
    assert found["submit_to_start_p50"].value == pytest.approx(35)
    assert found["submit_call_max"].value == pytest.approx(40)
    assert found["generator_lag_p99"].value == pytest.approx(0)
    assert "fell behind" not in found["dispatch_latency_p95"].note


def test_a_client_that_could_not_offer_the_rate_is_told() -> None:
    """Planned over 0.9 s, sent over 1 s; the offered rate is the one that was sent."""
    events = [
        task(1, i, due=i * 100 * MS, submit=i * SECOND // 9, start=i * SECOND // 9 + 1) for i in range(10)
    ]
    found = figures("latency", history(load(10, rate_hz=10.0), events))
    assert "invalid: the client could offer only 90% of 10 tasks/s" in found["dispatch_latency_p95"].note
    assert found["offered_rate"].value == pytest.approx(9.0)


@pytest.mark.parametrize(
    ("growth_ms", "n", "invalid"), [(1, 100, True), (0.1, 100, False), (1, 96, False)],
    ids=["grows by 75 ms", "grows by 7.5 ms", "too few to tell"],
)  # fmt: skip
def test_latency_that_grows_all_the_time_is_told(growth_ms: float, n: int, invalid: bool) -> None:
    events = [
        task(1, i, due=i * SECOND, start=i * SECOND + round((1 + growth_ms * i) * MS)) for i in range(n)
    ]
    note = figures("latency", history(load(n), events))["dispatch_latency_p50"].note
    assert ("invalid: overloaded" in note) is invalid


@pytest.mark.parametrize(
    ("lag_ms", "latency_ms", "invalid"),
    [(5, 10, True), (5, 60, False), (0.9, 1, False), (1.1, 1.2, True)],
    ids=["much of it", "little of it", "below 1 ms", "just above 1 ms"],
)
def test_a_generator_that_fell_behind_is_told(lag_ms: float, latency_ms: float, invalid: bool) -> None:
    """Behind by more than 1 ms and by more than a tenth of P95, each on its own is not enough."""
    lag, latency = round(lag_ms * MS), round(latency_ms * MS)
    events = [
        task(1, i, due=i * SECOND, submit=i * SECOND + lag, start=i * SECOND + latency) for i in range(20)
    ]
    found = figures("latency", history(load(20), events))
    assert found["generator_lag_p99"].value == pytest.approx(lag_ms)
    for name in ("dispatch_latency_p95", "submit_to_start_p50"):
        assert found[name].note.startswith("invalid: generator fell behind") is invalid


def test_what_a_stopped_generator_delays_is_all_its_own() -> None:
    """Due every 10 ms, but nothing is sent from 95 to 195 ms: ten tasks are late, by 95 ms down to 5 ms."""
    events = []
    for i in range(100):
        due = 10 * i * MS
        sent = 195 * MS if 10 <= i < 20 else due
        events.append(task(1, i, due=due, submit=sent, start=sent + MS))
    found = figures("latency", history(load(100), events))
    assert found["generator_lag_max"].value == pytest.approx(95)
    assert found["generator_lag_p99"].value > 80
    assert "invalid: generator fell behind" in found["dispatch_latency_p95"].note


def test_tasks_that_never_started_are_told() -> None:
    events = [task(1, i, start=MS if i else None) for i in range(4)]
    found = figures("latency", history(load(4), events))
    assert found["dispatch_latency_p50"].n == 3
    assert "1 of 4 tasks never started" in found["dispatch_latency_p50"].note


def test_told_ahead_latency_counts_from_the_due_time() -> None:
    """Told a second before, which was 1 ms late, and started 7 ms after it was due."""
    told, due = SECOND + MS, 2 * SECOND
    events = [
        task(1, i, due=due + i * SECOND, submit=told + i * SECOND, start=due + i * SECOND + 7 * MS)
        for i in range(3)
    ]
    found = figures("latency", history(load(3), events, ahead=True))
    assert found["dispatch_latency_p50"].value == pytest.approx(7)
    assert found["generator_lag_p99"].value == pytest.approx(1)
    assert "submit_to_start_p50" not in found


def test_the_offered_load_follows_the_capacity() -> None:
    """Half of 40 tasks/s, for at least 5 s; a burst of 20 tasks in half a second is long enough."""
    scenario = SCENARIOS["latency"]
    params = {"rate": 0.0, "load": 0.5, "warmup_s": 0.0, "tasks": 10}
    steps = scenario.phases(scenario.values(params), Variant("v"))
    assert next(steps).name == "burst of 20"
    phase = steps.send(drained(20, SECOND // 2))
    assert phase.load is not None
    assert phase.load.rate_hz == pytest.approx(20)
    assert phase.load.n == 100


def test_no_load_asked_for_is_unsupported() -> None:
    scenario = SCENARIOS["latency"]
    system = discovery.systems()["reference"]
    for rate, load_share, supported in ((0.0, 0.0, False), (5.0, 0.0, True), (0.0, 0.5, True)):
        why = scenario.unsupported(system, Variant("v"), scenario.values({"rate": rate, "load": load_share}))
        assert (why == "") is supported


def test_a_task_that_ran_without_having_been_submitted_is_a_fate_and_in_no_figure() -> None:
    events: list[list[Event]] = [
        task(1, i, due=i * SECOND, start=i * SECOND + MS, end=i * SECOND + 2 * MS) for i in range(4)
    ]
    stranger = [(1, 4, Kind.START, 9 * SECOND, 0), (1, 4, Kind.END, 9 * SECOND + 1, 0)]
    phases = load(4, rate_hz=1.0)
    with_it, without = (history(phases, found) for found in ([*events, stranger], events))
    assert rows(figures("latency", with_it).values()) == rows(figures("latency", without).values())
    fates = {metric.name: metric.value for metric in with_it.fates(60.0)}
    assert (fates["tasks_unexpected"], fates["tasks_ok"]) == (1, 4)


# --- memory ---------------------------------------------------------------------------------------

MEMORY = [
    Phase("idle", memory=True),
    Phase("loaded", Load(1, Arrival.CONSTANT, 100.0), memory=True),
]
"""At the rate that is asked for where nothing else is: it was not lowered."""
MB = 1e6


def test_memory_by_role_and_in_all() -> None:
    """Medians over moments; the total is summed moment by moment, so its peak is not the sum of peaks."""
    rows = []
    for t_ns, phase, worker, broker in (
        (1, "idle", 10, 5), (2, "idle", 12, 5), (3, "idle", 20, 5),
        (4, "loaded", 30, 5), (5, "loaded", 10, 40), (6, "loaded", 20, 6),
    ):  # fmt: skip
        rows.append(sample(phase, "", t_ns, "worker", processes=2, pss=worker * MB, uss=MB, rss=99 * MB))
        rows.append(sample(phase, "", t_ns, "broker", pss=broker * MB, uss=MB, rss=99 * MB))
        rows.append(sample(phase, "", t_ns, "harness", pss=1000 * MB, uss=1000 * MB, rss=1000 * MB))
    found = figures("memory", history(MEMORY, samples=rows))
    values = {name: found[name].value for name in found}
    assert values["idle_pss.worker"] == pytest.approx(12)
    assert values["idle_pss.broker"] == pytest.approx(5)
    assert values["idle_pss.total"] == pytest.approx(17)
    assert values["idle_rss.total"] == pytest.approx(198)
    assert values["loaded_pss.total"] == pytest.approx(35)
    assert values["peak_pss.worker"] == pytest.approx(30)
    assert values["peak_pss.broker"] == pytest.approx(40)
    assert values["peak_pss.total"] == pytest.approx(50)
    assert values["processes.worker"] == 2
    assert values["processes.total"] == 3
    assert values["components"] == 2
    assert not [name for name in found if "harness" in name]
    assert (found["idle_pss.total"].unit, found["idle_pss.total"].n) == ("MB", 3)


def test_memory_without_pss() -> None:
    rows = [sample(phase, "", at, "worker", rss=50 * MB) for at, phase in ((1, "idle"), (2, "loaded"))]
    found = figures("memory", history(MEMORY, samples=rows))
    assert found["idle_rss.total"].value == pytest.approx(50)
    assert not [name for name in found if "pss" in name or "uss" in name]


def test_samples_without_memory_do_not_count_as_memory() -> None:
    rows = [
        sample("idle", "begin", 1, "worker", cpu_ns=5),
        sample("idle", "", 2, "worker", pss=MB, uss=MB, rss=MB),
        sample("loaded", "", 3, "worker", pss=MB, uss=MB, rss=MB),
    ]
    found = figures("memory", history(MEMORY, samples=rows))
    assert found["idle_pss.worker"].n == found["processes.worker"].n == 1


def shared(pss: float, rss: float, processes: int) -> str:
    """The remark on the RSS of a role."""
    figures_of = {"pss": pss * MB, "uss": MB, "rss": rss * MB, "processes": processes}
    rows = [sample(phase, "", at, "worker", **figures_of) for at, phase in enumerate(("idle", "loaded"))]
    return figures("memory", history(MEMORY, samples=rows))["peak_rss.worker"].note


def test_rss_of_processes_that_share_pages_is_flagged() -> None:
    """20 MB shared by three: 60 in the sum of their RSS and 20 in that of their PSS."""
    note = "RSS is an upper bound: it counts a page once in each of the processes that share it"
    assert shared(pss=50, rss=90, processes=3) == note


@pytest.mark.parametrize(
    ("pss", "rss", "processes", "flagged"),
    [(50, 90, 1, False), (50, 56, 2, True), (50, 55, 2, False), (100, 110, 2, False), (100, 111, 2, True)],
    ids=["one process", "6 MB", "5 MB", "a tenth", "above a tenth"],
)
def test_rss_is_flagged_when_it_is_clearly_above_pss(
    pss: float, rss: float, processes: int, flagged: bool
) -> None:
    """By more than 5 MB and by more than a tenth; what one process shares is shared with strangers."""
    assert (shared(pss, rss, processes) != "") is flagged


def test_rss_of_several_processes_is_an_upper_bound_where_pss_is_not_told() -> None:
    assert shared(math.nan, 90, 2).startswith("RSS is an upper bound")
    assert shared(math.nan, 90, 1) == ""


def grown(seconds: float, mb_per_1000: float, every_s: float = 0.25) -> dict[str, Metric]:
    """A load of 100 tasks/s; memory of 10 MB, and for every task that has ended a little more.

    The first tenth of the tasks took 30 MB once, and before the load and after it there was much less.
    """
    n = round(seconds * 100)
    events = [task(2, i, start=0, end=SECOND + i * SECOND // 100) for i in range(n)]
    rows = [sample("loaded", "begin", 0, "worker", pss=MB, uss=MB, rss=MB)]
    for step in range(1, round(seconds / every_s)):
        done = round(step * every_s * 100)
        pss = (40 if done > n / 10 else 10) + mb_per_1000 * done / 1000
        t_ns = SECOND + round(step * every_s * SECOND) - 1
        rows.append(sample("loaded", "", t_ns, "worker", pss=pss * MB / 2, uss=MB, rss=MB))
        rows.append(sample("loaded", "", t_ns, "broker", pss=pss * MB / 2, uss=MB, rss=MB))
    end_ns = round((seconds + 9) * SECOND)
    rows.append(sample("loaded", "end", end_ns, "worker", pss=MB, uss=MB, rss=MB))
    return figures("memory", history(MEMORY, events, rows))


def test_memory_growth_per_1000_tasks() -> None:
    growth = grown(seconds=10, mb_per_1000=1.5)["growth_pss_per_1000"]
    assert (growth.unit, growth.n, growth.note) == ("MB", 35, "")
    assert growth.value == pytest.approx(1.5)
    assert known_to_a_page(growth, 0.85)


def test_memory_that_stays_does_not_grow() -> None:
    growth = grown(seconds=10, mb_per_1000=0.0)["growth_pss_per_1000"]
    assert growth.value == 0
    assert known_to_a_page(growth, 0.85)


def known_to_a_page(growth: Metric, span: float) -> bool:
    """Whether an interval is that of memory on a straight line: a page over `span`, or a little more."""
    assert growth.low is not None
    assert growth.high is not None
    half = (growth.high - growth.low) / 2
    return memory.PAGE_MB <= half * span * 1.0001 <= 2 * memory.PAGE_MB


def test_memory_growth_per_hour_is_not_blown_up_from_seconds() -> None:
    """100 tasks/s for an hour are 360 000."""
    assert "growth_pss_per_hour" not in grown(seconds=60, mb_per_1000=1.0)
    hourly = grown(seconds=100, mb_per_1000=1.0)["growth_pss_per_hour"]
    assert (hourly.unit, hourly.value) == ("MB", pytest.approx(360))


def test_memory_growth_from_few_samples_is_marked_and_from_two_there_is_none() -> None:
    few = grown(seconds=2, mb_per_1000=1.0)["growth_pss_per_1000"]
    assert (few.n, few.note) == (7, "n < 8")
    assert "growth_pss_per_1000" not in grown(seconds=0.75, mb_per_1000=1.0)
    # A load of which nothing ended, and samples that do not tell PSS.
    rows = [sample("loaded", "", at * SECOND, "worker", rss=MB) for at in range(20)]
    for events in ([task(2, 0)], [task(2, i, start=0, end=i * SECOND) for i in range(20)]):
        assert "growth_pss_per_1000" not in figures("memory", history(MEMORY, events, rows))


# --- cpu ------------------------------------------------------------------------------------------

CPU = [Phase("idle", wait="hold"), Phase("load 1", Load(5)), Phase("load 2", Load(5))]


def cpu_history(**options: Any) -> History:
    """Idle for 2 s: worker 20 ms, broker 10 ms. Load for 4 s: 140 and 60 ms, 100 ms of it useful."""
    counts = {
        "worker": ((100, 120), (200, 300), (310, 350)),
        "broker": ((50, 60), (70, 100), (100, 130)),
        "harness": ((0, 0), (0, 900), (900, 1800)),
    }
    windows = {"idle": (0, 2), "load 1": (3, 5), "load 2": (6, 8)}
    rows = [
        sample(phase, edge, at * SECOND, role, cpu_ns=used_ms * MS)
        for role, pairs in counts.items()
        for (phase, times), used in zip(windows.items(), pairs, strict=True)
        for edge, at, used_ms in zip(("begin", "end"), times, used, strict=True)
    ]
    events = [task(2 + i // 5, i % 5, start=i, end=i + 1, burned=10 * MS) for i in range(10)]
    return history(CPU, events, rows, **options)


def test_cpu_efficiency_is_useful_over_used() -> None:
    found = figures("cpu", cpu_history())
    assert found["cpu_efficiency"].value == pytest.approx(100 * 100 / 200)
    assert (found["cpu_efficiency"].unit, found["cpu_efficiency"].n) == ("%", 10)


def test_cpu_per_task_is_above_idle_and_by_role() -> None:
    """Idling costs the worker 10 ms/s and the broker 5 ms/s: 40 and 20 ms of the 4 s of load."""
    values = {name: metric.value for name, metric in figures("cpu", cpu_history()).items()}
    assert values["idle_cpu.worker"] == pytest.approx(10)
    assert values["idle_cpu.broker"] == pytest.approx(5)
    assert values["idle_cpu.total"] == pytest.approx(15)
    assert values["cpu_per_task.worker"] == pytest.approx((140 - 40) / 10)
    assert values["cpu_per_task.broker"] == pytest.approx((60 - 20) / 10)
    assert values["cpu_per_task.total"] == pytest.approx(14)
    assert values["cpu_overhead_per_task"] == pytest.approx(4)
    assert not [name for name in values if "harness" in name]


def watched_after(worker_ms: float, broker_ms: float) -> History:
    """The cell of `cpu_history`, watched for 4 s more, in which it used so much CPU."""
    made = cpu_history()
    rows = [
        sample("after", edge, at * SECOND, role, cpu_ns=used_ms * MS)
        for role, used in (("worker", worker_ms), ("broker", broker_ms), ("harness", 500))
        for edge, at, used_ms in (("begin", 9, 1000), ("end", 13, 1000 + used))
    ]
    phases = {**made.phases, len(made.phases) + 1: Phase("after", wait="hold")}
    return dataclasses.replace(
        made, phases=phases, resources=pd.concat([made.resources, pd.DataFrame(rows)], ignore_index=True)
    )


def test_cpu_above_idle_after_the_load_belongs_to_its_tasks() -> None:
    """Idling for 4 s costs the worker 40 ms and the broker 20 ms; one uses more after the load, one less."""
    found, before = (table("cpu", made) for made in (watched_after(90, 15), cpu_history()))
    assert found == {
        **before,
        "cpu_efficiency": ("%", 40, 10, ""),
        "cpu_overhead_per_task": ("ms", 9, 10, ""),
        "cpu_per_task.total": ("ms", 19, 10, ""),
        "cpu_per_task.worker": ("ms", 15, 10, ""),
    }
    assert table("cpu", watched_after(40, 20)) == before


def test_a_task_that_costs_less_than_idling_is_invalid() -> None:
    """While idle 300 ms more in 2 s; the 4 s of load would have cost 660 ms without any task."""
    made = cpu_history(cpu_source="psutil")
    more = made.resources.copy()
    ended = (more["phase"] == "idle") & (more["edge"] == "end") & (more["role"] == "worker")
    more.loc[ended, "cpu_ns"] += 300 * MS
    found = table("cpu", dataclasses.replace(made, resources=more))
    bound = "CPU used is a lower bound: no control groups here"
    assert found["cpu_overhead_per_task"] == ("ms", -56, 10, f"{bound}; invalid: less CPU than when idle")
    marked = {name for name, row in found.items() if "invalid" in row[3]}
    assert marked == {name for name in found if "per_task" in name}


def test_cpu_without_control_groups_is_a_lower_bound() -> None:
    bounds = figures("cpu", cpu_history(cpu_source="psutil")).values()
    assert all("lower bound" in metric.note for metric in bounds)
    assert all(metric.note == "" for metric in figures("cpu", cpu_history()).values())


def test_a_role_that_appears_under_load_has_no_idle_cpu_taken_off() -> None:
    made = cpu_history()
    late = made.resources[~((made.resources["phase"] == "idle") & (made.resources["role"] == "broker"))]
    values = figures("cpu", History(**{**made.__dict__, "resources": late}))
    assert values["cpu_per_task.broker"].value == pytest.approx(6)


def test_what_spins_when_idle_has_no_cpu_above_idle() -> None:
    made = cpu_history()
    spinning = made.resources.copy()
    ended = (spinning["phase"] == "idle") & (spinning["edge"] == "end") & (spinning["role"] == "worker")
    spinning.loc[ended, "cpu_ns"] += 2 * SECOND
    found = figures("cpu", History(**{**made.__dict__, "resources": spinning}))
    assert found["idle_cpu.worker"].value == pytest.approx(1010)
    assert found["cpu_efficiency"].value == pytest.approx(50)
    assert not [name for name in found if "per_task" in name]


def test_cpu_of_a_burst_that_did_not_end_is_invalid() -> None:
    made = cpu_history()
    tasks = made.tasks.copy()
    tasks.loc[tasks.index[-1], "ends"] = 0
    found = figures("cpu", History(**{**made.__dict__, "tasks": tasks}))
    assert {metric.note for metric in found.values()} == {"invalid: 1 of 10 tasks did not end"}


# --- startup --------------------------------------------------------------------------------------

STARTUP = [Phase("queue", Load(1), workers=Workers.DOWN, wait="queued"), Phase("first", ready=False)]


def test_startup_is_from_spawn_to_first_start() -> None:
    made = history(STARTUP, [task(1, 0, start=9 * SECOND)], spawned_ns={"first": 7 * SECOND})
    found = figures("startup", made)["startup"]
    assert (found.value, found.unit, found.n) == (2.0, "s", 1)


def test_startup_told_ahead_does_not_count_the_time_until_it_was_due() -> None:
    made = history(
        STARTUP,
        [task(1, 0, submit=SECOND, due=4 * SECOND, start=4 * SECOND + 100 * MS)],
        spawned_ns={"first": SECOND // 2},
        ahead=True,
    )
    assert figures("startup", made)["startup"].value == pytest.approx(0.6)


@pytest.mark.parametrize("events", [[], [task(1, 0)], [[(1, 0, Kind.END, 9, 0)]]])
def test_startup_without_a_first_start_is_an_error(events: list[list[Event]]) -> None:
    made = history(STARTUP, events, spawned_ns={"first": SECOND})
    with pytest.raises(CellError, match=r"^the task that was queued never started$"):
        figures("startup", made)


def test_startup_tells_apart_what_must_be_there_before() -> None:
    made = history(STARTUP, [task(1, 0, start=9 * SECOND)], spawned_ns={"first": 7 * SECOND})
    made = dataclasses.replace(made, set_up_s={"services": 0.5, "migration": 3.25, "servers": 8.0})
    assert table("startup", made) == {
        "startup": ("s", 2, 1, ""),
        "set_up.services": ("s", 0.5, 1, ""),
        "set_up.migration": ("s", 3.25, 1, ""),
        "set_up.servers": ("s", 8, 1, ""),
    }


# --- what all share -------------------------------------------------------------------------------


def test_fates_leave_nothing_out() -> None:
    """Canaries do not count; each measured task, warm-up included, has one fate."""
    events = [
        task(0, 0, start=1, end=2),
        task(1, 0, start=1, end=2),
        task(1, 1, start=70 * SECOND, end=71 * SECOND),
        task(1, 2, start=1),
        task(1, 3),
    ]
    metrics = {metric.name: metric for metric in history(load(4, warmup=2), events).fates(60.0)}
    values = {name: metric.value for name, metric in metrics.items() if metric.value}
    assert values == {"tasks_ok": 1, "tasks_late": 1, "tasks_lost": 2}
    assert {metric.n for metric in metrics.values()} == {4}


def test_a_start_before_it_was_due_is_a_fault_of_the_measurement() -> None:
    made = history(load(2), [task(1, 0, due=5, start=4, end=9), task(1, 1, due=5, start=6, end=9)])
    negative = next(metric for metric in made.fates(60.0) if metric.name == "negative_latencies")
    assert (negative.value, negative.n) == (1, 2)


def test_what_a_library_claims_is_held_against_the_ledger() -> None:
    """A success that never ended, a failure that did, a true success, and one of which nothing is said."""
    events = [task(1, 0, start=1), *(task(1, i, start=1, end=2) for i in (1, 2, 3))]
    said = {1 << PHASE_SHIFT | 0: True, 1 << PHASE_SHIFT | 1: False, 1 << PHASE_SHIFT | 2: True, 7: True}
    made = dataclasses.replace(history(load(4), events), claims=said)
    found = {metric.name: metric.value for metric in made.fates(60.0) if metric.name.startswith("claims_")}
    assert found == {"claims_made": 3, "claims_false_success": 1, "claims_false_failure": 1}


def test_ticks_of_a_phase_count_until_an_interval_before_its_end() -> None:
    """Due at 1, 2, 3 and 4 s; the phase ends at 4.5 s, too early to say that the last was skipped."""
    own = SCHEDULE >> PHASE_SHIFT | 1
    told = (own, 0, Kind.SUBMIT, 0, SECOND)
    runs = [(own, 0, kind, at * SECOND, 0) for at in (1, 3) for kind in (Kind.START, Kind.END)]
    edges = [sample("ticks", "end", 4 * SECOND + SECOND // 2, "client")]
    found = figures("periodic", history([Phase("ticks", every_s=1.0)], [[told, *runs]], edges))
    assert found["ticks_planned"].value == 3
    assert found["ticks_skipped"].value == 1
    missing = "1 of 3 ticks never ran"
    assert (found["tick_delay_max"].value, found["tick_delay_max"].note) == (0, missing)
    # Nobody told when the first was due.
    untold = figures("periodic", history([Phase("ticks", every_s=1.0)], [runs], edges))
    least = "due times are counted from its least late tick"
    assert untold["tick_delay_max"].note == f"{least}; {missing}"
    assert untold["tick_delay_p50"].note == f"{least}; n < 100; {missing}"
    assert untold["ticks_planned"].note == ""
    # The wall clock told.
    turns = history([Phase("ticks", every_s=1.0, wall_clock=True)], [[told, *runs]], edges)
    wall = "due when the wall clock shows a multiple of 1 s"
    assert figures("periodic", turns)["tick_delay_max"].note == f"{wall}; {missing}"


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([], "the schedule never ticked"),
        ([(0, Kind.END)], "the schedule never ticked"),
        ([(0, Kind.SUBMIT), (1, Kind.START)], "the schedule was kept by several clocks"),
    ],
)
def test_ticks_of_which_nobody_knows_when_they_were_due_are_an_error(
    events: list[tuple[int, Kind]], why: str
) -> None:
    own, other = SCHEDULE | 1 << PHASE_SHIFT, SCHEDULE | 2 << PHASE_SHIFT
    records = [(own, SECOND, SECOND, 1, 0, kind, domain) for domain, kind in events]
    records.append((other, SECOND, 0, 1, 0, Kind.START, 0))
    edges = [sample("ticks", "end", 9 * SECOND, "client")]
    made = history([Phase("ticks", every_s=1.0)], samples=edges)
    with pytest.raises(CellError, match=why):
        figures("periodic", dataclasses.replace(made, scheduled=np.array(records, ledger.EVENT)))
    with pytest.raises(CellError, match="never ticked"):
        figures("periodic", dataclasses.replace(made, scheduled=None))


@pytest.mark.parametrize("name", SCENARIOS)
def test_declared_profiles_use_declared_parameters(name: str) -> None:
    scenario = SCENARIOS[name]
    assert set(scenario.profiles) == {"quick", "standard", "full"}
    for profile, grids in scenario.profiles.items():
        for params in (params for grid in grids for params in grid.params):
            assert set(params) <= set(scenario.parameters)
            for key, value in params.items():
                assert type(value) is type(scenario.parameters[key].default), (profile, key)
                choices = scenario.parameters[key].choices
                assert not choices or value in choices
            assert scenario.seconds(scenario.values(params)) > 0
        if profile != "quick" and profile in scenario.unasked:
            assert min(grid.trials for grid in grids) >= 6


# --- every figure, with its unit and what it rests on -----------------------------------------------

Row = tuple[str, float, int, str]
"""Unit, value, n and note of a metric."""


def exactly(value: float) -> Any:
    """Equal but for rounding: a factor that is off by a millionth is another figure."""
    return pytest.approx(value, rel=1e-12, abs=1e-12, nan_ok=True)


def rows(metrics: Iterable[Metric]) -> dict[str, Row]:
    return {one.name: (one.unit, exactly(one.value), one.n, one.note) for one in metrics}


def table(scenario: str, made: History, **params: Any) -> dict[str, Row]:
    return rows(figures(scenario, made, **params).values())


@pytest.mark.parametrize(
    ("n", "few"),
    [
        (1, ("n < 100", "n < 1000", "n < 10000")),
        (99, ("n < 100", "n < 1000", "n < 10000")),
        (100, ("", "n < 1000", "n < 10000")),
        (999, ("", "n < 1000", "n < 10000")),
        (1000, ("", "", "n < 10000")),
        (9999, ("", "", "n < 10000")),
        (10_000, ("", "", "")),
    ],
)
def test_a_quantile_says_when_it_rests_on_too_few(n: int, few: tuple[str, str, str]) -> None:
    ms = np.arange(n) + 7.0
    found = list(quantiles("wait", ms, "why"))
    assert rows(found) == {
        **{
            f"wait_p{percent}": (
                "ms",
                7 + (n - 1) * percent / 100,
                n,
                "; ".join(filter(None, ("why", words))),
            )
            for percent, words in zip((50, 95, 99), few, strict=True)
        },
        "wait_max": ("ms", 7.0 + n - 1, n, "why"),
    }
    assert [one.note for one in quantiles("wait", ms)] == [*few, ""]
    for one in found[:3]:
        interval = stats.quantile_interval(ms, int(one.name[-2:]) / 100)
        assert (one.low, one.high) == (interval.low, interval.high)
    assert (found[3].low, found[3].high) == (None, None)


def test_nothing_has_no_quantiles() -> None:
    assert list(quantiles("wait", np.array([]))) == []


def test_a_rate_needs_two_tasks_that_ended_and_some_time_between() -> None:
    def rate(*spans: tuple[int, int | None]) -> tuple[float, int]:
        return rate_hz(
            history(load(9), [task(1, i, start=at, end=end) for i, (at, end) in enumerate(spans)]).tasks
        )

    assert rate((0, 10), (5, 4 * SECOND)) == (0.5, 2)
    assert rate((0, 1), (0, 1)) == (exactly(2e9), 2)
    assert rate((0, 1), (0, 1), (0, None)) == (exactly(2e9), 2)
    assert rate((7, 7), (7, 7)) == (exactly(math.nan), 2)
    assert rate((0, 10)) == (exactly(math.nan), 1)
    assert rate() == (exactly(math.nan), 0)


def test_a_steady_rate_starts_with_nothing() -> None:
    """Three rounds of two, ten seconds apart: four tasks in 20 s, where six in 21 s would be 0.29/s."""
    tasks = history(load(6), in_rounds(6)).tasks
    assert steady_hz(tasks) == (exactly(0.2), 6)
    assert steady_hz(tasks.sample(frac=1, random_state=1)) == (exactly(0.2), 6)
    assert rate_hz(tasks) == (exactly(6 / 21.001), 6)
    assert capacity_hz(tasks) == exactly(0.2)
    # One after another, from the end of the first.
    assert steady_hz(history(load(3), in_rounds(3, of=1)).tasks) == (exactly(0.1), 3)
    # Whatever did not end takes no part.
    unended = [*in_rounds(6), task(1, 6, start=99 * SECOND)]
    assert steady_hz(history(load(7), unended).tasks) == (exactly(0.2), 6)


@pytest.mark.parametrize(
    "events",
    [
        [],
        in_rounds(1),
        in_rounds(2),  # all at once
        in_rounds(3),  # one of a second round: the others that it may hold are not known
        [task(1, i, start=0, end=SECOND) for i in range(4)],
        [task(1, i, start=7, end=7) for i in range(3)],  # in no time
        [task(1, i, start=min(i, 1), end=1) for i in range(3)],
    ],
)
def test_without_a_second_round_there_is_only_the_whole(events: list[list[Event]]) -> None:
    tasks = history(load(9), events).tasks
    hz, n = rate_hz(tasks)
    assert steady_hz(tasks) == (exactly(hz), n)


def test_a_burst_of_a_heavy_variant_that_was_soon_over_is_tried_with_more() -> None:
    """The first tasks may run at several times the rate that the system keeps up."""
    phases = bursts(HEAVY, "noop", 100)
    first = next(phases).load
    assert first == Load(FEW)
    quick = [task(1, i, start=i * SECOND // 5, end=(i + 1) * SECOND // 5) for i in range(FEW)]
    second = phases.send(lambda: history(load(FEW), quick).tasks).load
    assert second == Load(25)  # five seconds of five tasks a second
    slow = [task(1, i, start=i * SECOND, end=(i + 1) * SECOND) for i in range(25)]
    with pytest.raises(StopIteration):
        phases.send(lambda: history(load(25), slow).tasks)


def test_a_burst_that_is_compared_has_enough_tasks_however_slow_the_first_was() -> None:
    phases = bursts(HEAVY, "noop", 100, 10)
    next(phases)
    slow = [task(1, i, start=i * SECOND, end=(i + 1) * SECOND) for i in range(10)]
    second = phases.send(lambda: history(load(FEW), slow[:FEW]).tasks).load
    assert second == Load(10)
    with pytest.raises(StopIteration):
        phases.send(lambda: history(load(10), slow).tasks)


def test_the_first_tasks_of_a_heavy_variant_fill_its_slots_twice() -> None:
    heavy = [dataclasses.replace(HEAVY, max_slots=slots) for slots in (None, 1, 2, 8)]
    assert [first_tasks(variant) for variant in heavy] == [2, 2, 4, 16]
    assert [first_tasks(variant, 3) for variant in heavy] == [3, 3, 6, 24]
    assert first_tasks(Variant("v", max_slots=2)) == 20


@pytest.mark.parametrize(("idle_s", "idles_s"), [(1.0, 3.0), (3.0, 3.0), (10.0, 10.0)])
def test_a_heavy_variant_rests_before_it_idles(idle_s: float, idles_s: float) -> None:
    assert (REST_S, LEAST_IDLE_S) == (5.0, 3.0)
    assert list(idling(HEAVY, idle_s, memory=True)) == [
        Phase("rest", wait="hold", hold_s=5.0),
        Phase("idle", wait="hold", hold_s=idles_s, memory=True),
    ]
    assert list(idling(Variant("v"), idle_s)) == [Phase("idle", wait="hold", hold_s=idle_s)]


def test_a_capacity_may_be_less_than_a_task_a_second_but_not_nothing() -> None:
    assert capacity_hz(drained(2, 4 * SECOND)()) == 0.5
    with pytest.raises(CellError, match="1 of 1 tasks of a burst came to an end"):
        capacity_hz(drained(1, SECOND)())


def test_a_body_that_raised_took_its_time_as_well() -> None:
    """Two end at 1 s, and two fail at 2 s; of a fifth nothing is known."""
    events = [task(1, i, start=0, end=SECOND) for i in range(2)]
    events += [[*task(1, i, start=0), (1, i, Kind.FAIL, 2 * SECOND, 0)] for i in (2, 3)]
    assert capacity_hz(history(load(5), [*events, task(1, 4, start=0)]).tasks) == 2.0


def in_slots(rounds_ns: Sequence[int], slots: int = 2, phase: int = 1, left: int = 0) -> list[list[Event]]:
    """Tasks in rounds of so many at once, each as long as given; `left` of them in the last."""
    edges = [sum(rounds_ns[:i]) for i in range(len(rounds_ns) + 1)]
    spans = [span for span in itertools.pairwise(edges) for _ in range(slots)]
    spans = spans[: len(spans) - slots + left] if left else spans
    return [task(phase, i, start=start, end=end) for i, (start, end) in enumerate(spans)]


def burst(rounds_ns: Sequence[int], slots: int = 2, left: int = 0) -> pd.DataFrame:
    events = in_slots(rounds_ns, slots, left=left)
    return history(load(len(events)), events).tasks


def test_how_much_faster_one_burst_is_than_another_has_the_interval_of_their_rounds() -> None:
    """Slots that end together are one round, and the first round is left out: it may hold a start."""
    found = speedup(burst([SECOND] * 5), burst([9 * SECOND] + [2 * SECOND] * 4))
    assert (found.value, found.low, found.high, found.n) == (exactly(2), exactly(2), exactly(2), 4)
    after, before = [SECOND * s for s in (1, 2, 4, 6, 8)], [SECOND * s for s in (1, 1, 2, 3, 4)]
    rounds = stats.mean_ratio_interval([1, 2, 3, 4], [2, 4, 6, 8])
    found = speedup(burst(after), burst(before))
    assert (found.value, found.low, found.high) == (0.5, exactly(rounds.low), exactly(rounds.high))
    three = speedup(burst([SECOND] * 4), burst([SECOND] * 5))
    assert (three.value, three.low, three.n) == (1.0, None, 3)
    with pytest.raises(CellError, match="no capacity to be seen"):
        speedup(burst([SECOND], slots=1), burst([SECOND] * 4))


def test_a_slot_that_is_lost_halves_a_burst_and_its_interval() -> None:
    found = speedup(burst([SECOND] * 10, slots=1), burst([SECOND] * 5, slots=2))
    assert (found.value, found.low, found.high) == (exactly(0.5), exactly(0.5), exactly(0.5))


def test_a_task_that_is_left_over_at_the_end_widens_the_interval() -> None:
    """Eleven tasks in two slots, the last after 30 s: half a round, that a whole one would take 60 s for."""
    found = speedup(burst([SECOND] * 5 + [30 * SECOND], left=1), burst([SECOND] * 5))
    rounds = stats.mean_ratio_interval([1, 1, 1, 1], [1, 1, 1, 1, 60])
    assert found.value == exactly(9 / 34 / 2)
    assert rounds.low is not None
    assert found.low == exactly(rounds.low * found.value / rounds.value)
    assert found.high is not None
    assert found.high > 2 * found.value


def test_the_throughput_after_a_fault_says_how_many_never_ended() -> None:
    phases = [Phase("burst of 10", Load(10)), Phase("load", Load(1)), Phase("burst after", Load(11))]
    alone = task(2, 0, due=9 * SECOND, start=9 * SECOND, end=10 * SECOND)
    events = [*in_slots([SECOND] * 5), alone, *in_slots([SECOND] * 5, phase=3)]
    made = history(phases, [*events, task(3, 10)])
    found = next(
        one
        for one in SCENARIOS["faults"].metrics(made, SCENARIOS["faults"].values({"fault": "raise"}))
        if one.name == "throughput_after"
    )
    assert (found.value, found.low, found.high, found.n) == (exactly(1), exactly(1), exactly(1), 10)
    assert found.note == "1 of 11 tasks never came to an end"


def test_a_load_beside_which_tasks_of_the_burst_before_begin_gives_no_figure() -> None:
    phases = [Phase("burst of 2", Load(2)), Phase("load", Load(1)), Phase("burst after", Load(2))]
    late = [task(1, 0, start=0, end=SECOND), task(1, 1, start=10 * SECOND, end=11 * SECOND)]
    made = history(phases, [*late, task(2, 0, due=9 * SECOND, start=12 * SECOND, end=13 * SECOND)])
    with pytest.raises(CellError, match=r"^1 tasks of 'burst of 2' began only when the load was under way$"):
        figures("faults", made, fault="raise")


@pytest.mark.parametrize("calm", [LEAST_CALM - 1, LEAST_CALM])
def test_how_long_tasks_usually_wait_is_not_learnt_of_a_few(calm: int) -> None:
    """One a second, on time until the fault; of those after it, the first is a second late."""
    phases = [Phase("burst of 10", Load(10)), Phase("load", Load(9)), Phase("burst after", Load(10))]
    at_s = [20 + i for i in range(calm)]
    runs = [(second, second) for second in at_s] + [(30, 31), (32, 32)]
    load = [
        task(2, i, due=due * SECOND, start=start * SECOND, end=start * SECOND + 1)
        for i, (due, start) in enumerate(runs)
    ]
    made = history(phases, [*in_slots([SECOND] * 5), *load, *in_slots([SECOND] * 5, phase=3)])
    made = dataclasses.replace(made, faults=[{"done_ns": 29 * SECOND, "touched": []}])
    found = figures("faults", made, fault="worker")
    assert ("recovered_after" in found) == (calm == LEAST_CALM)
    if "recovered_after" in found:
        assert found["recovered_after"].value == 1.0


def test_a_phase_has_its_own_tasks_but_for_its_warm_up() -> None:
    made = history(
        [*load(3, warmup=2), Phase("drain")], [task(phase, i) for phase in (1, 2) for i in range(3)]
    )
    assert made.of("load")["index"].tolist() == [2]
    assert made.of("drain")["index"].tolist() == [0, 1, 2]
    assert (made.number("load"), made.number("drain")) == (1, 2)


def test_the_edges_of_a_phase_know_every_role_that_lived_to_its_end() -> None:
    edges = (
        ("begin", 1, {"worker": 5, "gone": 7, "harness": 1}),
        ("end", 4, {"worker": 9, "late": 3, "harness": 2}),
    )
    samples = [
        sample("idle", edge, at * SECOND, role, cpu_ns=used)
        for edge, at, roles in edges
        for role, used in roles.items()
    ]
    samples.append(sample("idle", "", 2 * SECOND, "worker", cpu_ns=6))
    begin, end, seconds = history([Phase("idle")], samples=samples).edges("idle")
    assert begin.to_dict() == {"worker": 5, "late": 0}
    assert end.to_dict() == {"worker": 9, "late": 3}
    assert seconds == 3.0


def test_every_fate_is_shown_also_when_nothing_met_it() -> None:
    events = [
        task(1, 0, due=5, start=4, end=9),
        task(1, 1, start=1, end=2),
        task(1, 2),
        [(1, 3, Kind.START, 9, 0)],
    ]
    made = history(load(4), events)
    fates = {"ok": 2, "late": 0, "failed": 0, "lost": 1, "duplicated": 0, "refused": 0, "unexpected": 1}
    without = {f"tasks_{fate}": ("count", count, 4, "") for fate, count in fates.items()}
    assert rows(made.fates(60.0)) == {**without, "negative_latencies": ("count", 1, 4, "")}
    said = dataclasses.replace(made, claims={1 << PHASE_SHIFT | 1: False, 1 << PHASE_SHIFT | 2: True})
    claims = {"made": 2, "false_success": 1, "false_failure": 1}
    assert rows(said.fates(60.0)) == {
        **rows(made.fates(60.0)),
        **{f"claims_{name}": ("count", count, 4, "") for name, count in claims.items()},
    }


def test_a_throughput_says_what_it_rests_on() -> None:
    """3 of 4 tasks were accepted, from 1 s to 3 s; 3 ended, all at once, from 5 s to 11 s; asked for 10 s."""
    phases = [*QUEUE, Phase("long queue", Load(4)), Phase("long drain")]
    events: list[list[Event]] = [
        task(3, i, submit=SECOND + i * SECOND // 2, accepted=(1 + i) * SECOND, start=(5 + i) * SECOND,
             end=(9 + i) * SECOND)
        for i in range(3)
    ]  # fmt: skip
    events.append([(3, 3, Kind.SUBMIT, 9 * SECOND, 0), (3, 3, Kind.REFUSED, 9 * SECOND, 0)])
    assert table("throughput", history(phases, events), seconds=10.0) == {
        "throughput": (
            "tasks/s", 0.5, 3, "invalid: 1 of 4 tasks did not end; "
            "4 tasks, more would take too long; from the end of the first round on; "
            "the drain lasted 6 s with 3 tasks",
        ),
        "submit_rate": ("tasks/s", 1.5, 3, ""),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lasted_ms", "told"), [(690, True), (710, False), (1000, False), (1420, False), (1440, True), (0, True)]
)
def test_a_longer_drain_that_missed_its_length_by_far_says_so(lasted_ms: int, told: bool) -> None:
    phases = [*QUEUE, Phase("long queue", Load(2)), Phase("long drain")]
    events = [task(3, i, accepted=1, start=0, end=lasted_ms * MS) for i in range(2)]
    note = figures("throughput", history(phases, events), seconds=1.0, tasks=2)["throughput"].note
    assert note == (f"the drain lasted {lasted_ms / 1000:.2g} s with 2 tasks" if told else "")


def test_how_long_a_drain_lasted_is_told_with_its_first_round() -> None:
    """21 s in rounds of two that are 10 s apart: 0.2 tasks/s would be 30 s."""
    phases = [*QUEUE, Phase("long queue", Load(6)), Phase("long drain")]
    events = [[(3, *event[1:]) for event in one] for one in in_rounds(6)]
    found = figures("throughput", history(phases, events), seconds=20.0, tasks=6)["throughput"]
    assert (found.value, found.note) == (exactly(0.2), "")


def drained_by(pids: Sequence[int], late_ms: int) -> History:
    """As many tasks as `pids`, in 100 ms; those of the last process begin `late_ms` after the others."""
    made = history(
        QUEUE, [task(1, i, accepted=1, start=SECOND + i, end=SECOND + i + 1) for i in range(len(pids))]
    )
    tasks = made.tasks.copy()
    tasks["pid"] = pd.array(pids, "Int64")
    tasks["start_ns"] = pd.array(
        [SECOND + (late_ms * MS if pid == max(pids) else 0) for pid in pids], "Int64"
    )
    tasks["end_ns"] = SECOND + 100 * MS
    return dataclasses.replace(made, tasks=tasks)


@pytest.mark.parametrize(
    ("pids", "late_ms", "note"),
    [
        ([1] * 10 + [2] * 10, 30, "its last process joined late, after 30% of the time"),
        ([1] * 10 + [2] * 10, 5, ""),
        ([1] * 10 + [2] * 9, 30, ""),  # a process for every few tasks
        ([1] * 20, 30, ""),
        ([1] * 15 + [2] * 10 + [3] * 5, 90, "its last process joined late, after 90% of the time"),
    ],
)
def test_a_process_that_joins_a_drain_late_is_told(pids: list[int], late_ms: int, note: str) -> None:
    assert figures("throughput", drained_by(pids, late_ms), tasks=len(pids))["throughput"].note == note


def test_latencies_of_a_quiet_load() -> None:
    """Due every 0.1 s; sent 1 ms late in a call of 2 ms; started 4 ms after it was due."""
    events = [
        task(
            1,
            i,
            due=100 * i * MS,
            submit=(100 * i + 1) * MS,
            accepted=(100 * i + 3) * MS,
            start=(100 * i + 4) * MS,
        )
        for i in range(10)
    ]
    few = ("n < 100", "n < 1000", "n < 10000", "")

    def all_of(name: str, ms: float, note: str) -> dict[str, Row]:
        words = ["; ".join(filter(None, (note, one))) for one in few]
        return {
            f"{name}_{at}": ("ms", ms, 10, one)
            for at, one in zip(("p50", "p95", "p99", "max"), words, strict=True)
        }

    for params, note in (
        ({"rate": 10.0}, ""),
        ({"load": 0.5}, ""),
        ({"rate": 10.1, "load": 0.5}, "offered 10 tasks/s, 50% of its capacity"),
    ):
        assert table("latency", history(load(10, rate_hz=10.0), events), **params) == {
            **all_of("dispatch_latency", 4, note),
            **all_of("submit_to_start", 3, note),
            **all_of("submit_call", 2, note),
            **all_of("generator_lag", 1, ""),
            "offered_rate": ("tasks/s", 10, 10, ""),
        }


def test_a_load_that_caught_up_was_offered_as_planned_and_no_faster() -> None:
    """The first of three was sent half a second late, the others in time."""
    events = [task(1, i, due=i * SECOND, submit=max(i * SECOND, SECOND // 2)) for i in range(3)]
    assert figures("latency", history(load(3, rate_hz=1.0), events))["offered_rate"].value == 1.0


@pytest.mark.parametrize(("rate", "share", "asked"), [(0.0, 0.0, False), (0.5, 0.0, True), (0.0, 0.5, True)])
def test_a_load_must_be_asked_for(rate: float, share: float, asked: bool) -> None:
    latency = SCENARIOS["latency"]
    why = latency.unsupported(
        discovery.systems()["reference"], Variant("v"), latency.values({"rate": rate, "load": share})
    )
    assert why == ("" if asked else "no load was asked for: --set latency.rate=50 or latency.load=0.5")


def test_notes_of_a_load_stand_side_by_side() -> None:
    """Sent at half the rate, the last task never started, and its submit call never returned."""
    events: list[list[Event]] = [
        task(1, i, due=i * SECOND, submit=2 * i * SECOND, start=2 * i * SECOND + MS) for i in range(4)
    ]
    events.append([(1, 4, Kind.SUBMIT, 8 * SECOND, 4 * SECOND)])
    found = figures("latency", history(load(5, rate_hz=1.0), events), rate=2.0)
    words = [
        "invalid: generator fell behind (P99 lag 3960.0 ms)",
        "invalid: the client could offer only 50% of 1 tasks/s",
        "1 of 5 tasks never started",
        "offered 1 tasks/s, 0% of its capacity",
        "n < 100",
    ]
    for name in ("dispatch_latency", "submit_to_start", "submit_call"):
        assert found[f"{name}_p50"].note == "; ".join(words)
        assert found[f"{name}_p50"].n == 4
    assert found["offered_rate"].value == exactly(0.5)


def test_a_load_of_which_nothing_started_has_no_latency() -> None:
    found = table("latency", history(load(2), [task(1, i, due=i * SECOND) for i in range(2)]))
    assert [name for name in found if name.startswith(("dispatch", "submit_to"))] == []
    assert found["offered_rate"] == ("tasks/s", 100, 2, "")


def test_memory_is_shown_in_megabytes_and_processes_are_counted() -> None:
    samples = [
        sample(phase, "", at, role, processes=2, pss=3 * MB, uss=2 * MB, rss=4 * MB)
        for at, phase in ((1, "idle"), (2, "loaded"))
        for role in ("broker", "worker")
    ]
    found = table("memory", history(MEMORY, samples=samples))
    assert found == {
        **{
            f"{name}_{kind}.{role}": ("MB", mb * (2 if role == "total" else 1), 1, "")
            for name in ("idle", "loaded", "peak")
            for kind, mb in (("pss", 3), ("uss", 2), ("rss", 4))
            for role in ("broker", "worker", "total")
        },
        "processes.broker": ("count", 2, 1, ""),
        "processes.worker": ("count", 2, 1, ""),
        "processes.total": ("count", 4, 1, ""),
        "components": ("count", 2, 2, ""),
    }


def test_cpu_of_a_cell() -> None:
    """As told by `cpu_history`: 100 ms of 200 were useful; 10 tasks; idling for 4 s would have cost 60 ms."""
    found = table("cpu", cpu_history(cpu_source="psutil"))
    bound = "CPU used is a lower bound: no control groups here"
    assert found == {
        "cpu_efficiency": ("%", 50, 10, bound),
        "idle_cpu.total": ("ms/s", 15, 1, bound),
        "idle_cpu.broker": ("ms/s", 5, 1, bound),
        "idle_cpu.worker": ("ms/s", 10, 1, bound),
        "cpu_overhead_per_task": ("ms", 4, 10, bound),
        "cpu_per_task.total": ("ms", 14, 10, bound),
        "cpu_per_task.broker": ("ms", 4, 10, bound),
        "cpu_per_task.worker": ("ms", 10, 10, bound),
    }
    made = cpu_history(cpu_source="psutil")
    tasks = made.tasks.assign(ends=[0, *made.tasks["ends"].iloc[1:]])
    cut = figures("cpu", dataclasses.replace(made, tasks=tasks))
    assert {one.note for one in cut.values()} == {f"invalid: 1 of 10 tasks did not end; {bound}"}
    assert table("cpu", dataclasses.replace(made, tasks=tasks.assign(ends=0))) == {}


def test_a_role_that_idled_nowhere_idled_at_nothing() -> None:
    made = cpu_history()
    idle = (made.resources["phase"] == "idle") & (made.resources["role"] == "broker")
    found = table("cpu", dataclasses.replace(made, resources=made.resources[~idle]))
    assert found["idle_cpu.broker"] == ("ms/s", 0, 1, "")
    assert found["cpu_per_task.broker"] == ("ms", 6, 10, "")


@pytest.mark.parametrize(("busy_ms", "spins"), [(970, False), (972, True)])
def test_half_a_core_when_idle_is_spinning(busy_ms: int, spins: bool) -> None:
    """With the 30 ms that it idles anyway, more than half of 2 s."""
    made = cpu_history()
    more = made.resources.copy()
    ended = (more["phase"] == "idle") & (more["edge"] == "end") & (more["role"] == "worker")
    more.loc[ended, "cpu_ns"] += busy_ms * MS
    found = figures("cpu", dataclasses.replace(made, resources=more))
    assert ("cpu_per_task.total" not in found) is spins


@pytest.mark.parametrize(
    ("ahead", "due_ms", "startup_s"),
    [(False, 4000, 2.1), (True, 4000, 0.1), (True, 2000, 2.1), (True, 500, 2.1)],
)
def test_startup_is_without_the_wait_that_was_asked_for(ahead: bool, due_ms: int, startup_s: float) -> None:
    """Submitted at 2 s, workers spawned at 3 s, started at 5.1 s."""
    events = [task(1, 0, submit=2 * SECOND, due=due_ms * MS, start=5 * SECOND + 100 * MS)]
    made = history(STARTUP, events, spawned_ns={"queue": 9, "first": 3 * SECOND}, ahead=ahead)
    assert table("startup", made) == {"startup": ("s", startup_s, 1, "")}


def test_ticks_of_a_schedule() -> None:
    """Due at 1 to 5 s. One ran before the first was due; 2 s was skipped; two of 3 s overlap, 4 s is late."""
    own, other = SCHEDULE | 1 << PHASE_SHIFT, SCHEDULE | 2 << PHASE_SHIFT
    runs = ((200, 201), (1000, 1001), (3001, 3100), (3050, 3060), (4400, 4401), (5000, 5001))
    events = [(own, 0, SECOND, 1, 0, Kind.SUBMIT, 0), (other, SECOND, 0, 1, 9, Kind.START, 0)]
    for run, (start, end) in enumerate(runs):
        events += [(own, at * MS, 0, 1, run, kind, 0) for kind, at in ((Kind.START, start), (Kind.END, end))]
    edges = [sample("ticks", edge, at * SECOND, "client") for edge, at in (("begin", 0), ("end", 6))]
    made = history([Phase("ticks", every_s=1.0)], samples=edges)
    found = table("periodic", dataclasses.replace(made, scheduled=np.array(events, ledger.EVENT)))
    counts = {"planned": 4, "skipped": 1, "repeated": 2, "overlapped": 1}
    assert {name: row for name, row in found.items() if name.startswith("ticks_")} == {
        f"ticks_{name}": ("count", count, 4, "") for name, count in counts.items()
    }
    assert found["tick_delay_p50"] == ("ms", 1, 3, "n < 100; 1 of 4 ticks never ran")
    assert found["tick_delay_max"] == ("ms", 400, 3, "1 of 4 ticks never ran")
    assert "tick_drift_per_minute" not in found


def kept(
    runs: Sequence[tuple[float, float]], *phases: Phase, ends: Mapping[str, float], first_s: float = 1.0
) -> History:
    """A schedule of once a second, first due then, and its runs from when to when; all in s."""
    own = SCHEDULE | 1 << PHASE_SHIFT
    events = [(own, 0, round(first_s * SECOND), 1, 0, Kind.SUBMIT, 0)]
    for number, (start, end) in enumerate(runs):
        events += [
            (own, round(at * SECOND), 0, 1, number, kind, 0)
            for kind, at in ((Kind.START, start), (Kind.END, end))
        ]
    edges, begin = [], 0.0
    for name, end in ends.items():
        edges += [
            sample(name, edge, round(at * SECOND), "client") for edge, at in (("begin", begin), ("end", end))
        ]
        begin = end
    made = history([Phase("ticks", every_s=1.0), *phases], samples=edges)
    return dataclasses.replace(made, scheduled=np.array(events, ledger.EVENT))


def instants(*starts: float) -> list[tuple[float, float]]:
    return [(start, start + 0.001) for start in starts]


def test_replicas_are_counted_once_all_of_them_are_up() -> None:
    """Of once a second, the first five are left out; of the three that follow the second ran twice."""
    early = [(1, 1.9), (1.1, 1.9), (1.2, 1.9)]
    runs = [*early, *instants(2, 3, 4, 5, 6), (7, 7.3), (7.2, 7.4)]
    made = kept(runs, ends={"ticks": 10.0})
    assert table("replicas", made, every_s=1.0) == {
        "ticks_planned": ("count", 3, 3, ""),
        "ticks_once": ("count", 1, 3, ""),
        "ticks_missed": ("count", 1, 3, ""),
        "ticks_several": ("count", 1, 3, ""),
        "ticks_overlapped": ("count", 1, 3, ""),
        "runs_at_once_max": ("count", 2, 3, ""),
    }


@pytest.mark.parametrize(("at_s", "pid", "fine"), [(6.1, 1, True), (6.4, 1, False), (6.1, 2, False)])
def test_a_pause_after_the_body_has_ended_tells_nothing_of_a_lock(at_s: float, pid: int, fine: bool) -> None:
    made = kept([*instants(1, 2, 3, 4, 5), (6, 6.3)], ends={"ticks": 10.0})
    strike = {"verb": "pause", "aim": "worker", "done_ns": round(at_s * SECOND), "pids": [pid]}
    made = dataclasses.replace(made, faults=[strike])
    if fine:
        assert figures("replicas", made, every_s=1.0, pause_s=7.0)["ticks_planned"].value == 3
        return
    with pytest.raises(CellError, match="nothing was paused"):
        figures("replicas", made, every_s=1.0, pause_s=7.0)


def test_what_never_ran_is_said_of_how_late_the_others_were() -> None:
    found = figures("periodic", kept(instants(1, 3, 4), ends={"ticks": 6.0}))
    assert "1 of 4 ticks never ran" in found["tick_delay_p95"].note


def test_a_schedule_that_loses_a_hundredth_with_each_tick_drifts() -> None:
    """10 ms a second are 36 s an hour; each run comes a second and 10 ms after the one before."""
    runs = instants(*(1 + turn * 1.01 for turn in range(20)))
    found = figures("periodic", kept(runs, ends={"ticks": 21.5}))
    assert found["tick_drift_per_minute"].value == pytest.approx(600)
    assert found["tick_drift_per_minute"].low == pytest.approx(600)
    assert (found["tick_drift_per_minute"].n, found["tick_drift_per_minute"].note) == (20, "seen over 19 s")
    assert found["tick_jitter_p95"].value == pytest.approx(10)


def test_a_gap_over_a_skipped_tick_is_no_jitter() -> None:
    runs = instants(1, 2, 3, 5.02, 6.02, 7, 8, 9, 10.02)
    found = figures("periodic", kept(runs, ends={"ticks": 11.5}))
    assert found["ticks_skipped"].value == 1
    # Of the gaps between neighbours, 6.02 to 7 and 9 to 10.02 are 20 ms off.
    assert (found["tick_jitter_p95"].value, found["tick_jitter_p95"].n) == (pytest.approx(20), 7)


@pytest.mark.parametrize(
    ("runs", "beside", "queued", "skipped", "most"),
    [
        ([(1, 4.5), *instants(5, 6, 7)], 0, 0, 3, 1),
        ([(1, 4.5), *instants(4.51, 4.52, 4.53, 5, 6, 7)], 0, 3, 0, 1),
        ([(1, 4.5), *instants(4.51, 5, 6, 7)], 0, 1, 2, 1),
        ([(1, 4.5), *instants(2, 3, 4, 5, 6, 7)], 3, 0, 0, 2),
        ([(1, 4.5), (2, 6), *instants(4.51, 4.52, 5, 6, 7)], 1, 2, 0, 2),
        ([(1, 4.5), *instants(5.5, 6.5, 7.5)], 0, 0, 3, 1),  # a period after the end, and so on
        ([(1.4, 4.9), *instants(5.4, 6.45, 7.35)], 0, 0, 3, 1),  # each is late, the first one too
        ([(1.6, 5.1), *instants(2.6, 3.6, 4.6, 5.6, 6.6)], 3, 0, 0, 2),  # by more than half a period
    ],
)
def test_what_is_due_during_a_long_run_is_skipped_or_waits_or_runs_beside_it(
    runs: list[tuple[float, float]], beside: int, queued: int, skipped: int, most: int
) -> None:
    found = table("periodic", kept(runs, ends={"ticks": 9.0}), what="overlap")
    assert found == {
        "overlap_due": ("count", 3, 3, ""),
        "overlap_beside": ("count", beside, 3, ""),
        "overlap_queued": ("count", queued, 3, ""),
        "overlap_skipped": ("count", skipped, 3, ""),
        "runs_at_once_max": ("count", most, len(runs), ""),
    }


def test_a_long_run_that_begins_early_is_not_due_beside_itself() -> None:
    """It begins 40 ms before its tick at 1 s; that at 5 s, due after its end, waits for 760 ms."""
    runs = [(0.96, 4.46), *instants(2, 3, 4, 5.76, 6, 7)]
    made = kept(runs, ends={"ticks": 9.0})
    phase = dataclasses.replace(made.phases[1], early_s=0.05)
    found = figures("periodic", dataclasses.replace(made, phases={**made.phases, 1: phase}), what="overlap")
    assert [found[f"overlap_{name}"].value for name in ("due", "beside", "queued", "skipped")] == [3, 3, 0, 0]


DOWN = (Phase("down"), Phase("after"))


def test_a_long_run_that_does_not_end_is_an_error() -> None:
    made = kept([(1, 4.5)], ends={"ticks": 9.0})
    assert made.scheduled is not None
    for told in (1, 2):
        with pytest.raises(CellError, match="never began, or did not end"):
            figures("periodic", dataclasses.replace(made, scheduled=made.scheduled[:told]), what="overlap")
    down = kept([], *DOWN, ends={"ticks": 3.5, "down": 7.5, "after": 12})
    with pytest.raises(CellError, match="did not run before"):
        figures("periodic", down, what="down")


@pytest.mark.parametrize(
    ("after", "missed", "made_up", "moved_ms"),
    [
        ((8, 9, 10, 11), 4, 0, 0),  # the next one that is due, and on
        ((7.6, 8, 9, 10, 11), 4, 1, 0),  # one at once, then as before
        ((7.6, 7.61, 7.62, 7.63, 8, 9, 10, 11), 4, 4, 0),
        ((7.6, 8.6, 9.6, 10.6), 4, 1, 400),  # one at once, and so on from then
        ((8.5, 9.5, 10.5, 11.5), 5, 0, 500),  # a period after it came up, and so on from then
        ((7.6, 7.61, 7.62, 7.63, 8.6, 9.6, 10.6), 4, 4, 400),
    ],
)
def test_what_comes_for_ticks_that_were_missed(
    after: tuple[float, ...], missed: int, made_up: int, moved_ms: float
) -> None:
    """Down from 3.5 to 7.5 s, when 4 were due."""
    made = kept(instants(1, 2, 3, *after), *DOWN, ends={"ticks": 3.5, "down": 7.5, "after": 12.5})
    assert table("periodic", made, what="down") == {
        "missed_ticks": ("count", missed, missed, ""),
        "runs_after": ("count", len(after), len(after), ""),
        "first_run_after": ("s", after[0] - 7.5, 1, ""),
        "runs_made_up": ("count", made_up, missed, ""),
        "rhythm_moved": ("ms", moved_ms, 1, ""),
    }


def test_a_schedule_that_was_late_before_may_be_as_late_after() -> None:
    made = kept(
        instants(1.09, 2.01, 3, 8.15, 9.1, 10.1), *DOWN, ends={"ticks": 3.5, "down": 7.5, "after": 12}
    )
    assert figures("periodic", made, what="down")["runs_made_up"].value == 0


@pytest.mark.parametrize(
    ("runs", "missed"),
    [
        (instants(1.3, 2.3, 3.3, 8.3, 9.3, 10.3), 4),  # it is always as late
        (instants(1, 2, 3, 4, 8, 9, 10), 3),  # told to stop at 3.5 s, it took until after 4 s
        (instants(1.6, 2.6, 8.6, 9.6, 10.6), 5),  # late by more than half a period: that of 3 s is gone, too
        (instants(1.6, 2.6, 3.6, 8.6, 9.6, 10.6), 4),  # it came while it was stopping
    ],
)
def test_a_tick_that_ran_as_usual_was_not_missed(runs: list[tuple[float, float]], missed: int) -> None:
    made = kept(runs, *DOWN, ends={"ticks": 3.5, "down": 7.5, "after": 12})
    found = figures("periodic", made, what="down")
    assert (found["missed_ticks"].value, found["runs_made_up"].value) == (missed, 0)


def test_where_nobody_told_the_rhythm_is_that_from_before() -> None:
    """What came after would be the least late of all, and lay the turns."""
    made = kept(instants(1.1, 2.1, 3.1, 7.7, 8.7, 9.7), *DOWN, ends={"ticks": 4.2, "down": 7.5, "after": 11})
    assert made.scheduled is not None
    found = figures("periodic", dataclasses.replace(made, scheduled=made.scheduled[1:]), what="down")
    assert (found["runs_made_up"].value, found["rhythm_moved"].value) == (1, pytest.approx(400))


def test_a_schedule_that_never_comes_back_did_not_survive() -> None:
    made = kept(instants(1, 2, 3), Phase("after"), ends={"ticks": 3.5, "after": 9.5})
    with pytest.raises(CellError, match="not started again"):
        figures("periodic", made, what="restart")
    restarted = {"ended_ns": 3_600_000_000, "again_ns": 4_600_000_000}
    found = table("periodic", dataclasses.replace(made, restarts=[restarted]), what="restart")
    assert found == {"missed_ticks": ("count", 1, 1, ""), "runs_after": ("count", 0, 0, "")}


# --- the plan of a cell -----------------------------------------------------------------------------


def plan(
    scenario: str, seen: Sequence[Seen] = (), *, hz: float = 0, variant: Variant | None = None, **params: Any
) -> list[Phase]:
    """All phases of a cell; `seen` tells what came of the first ones, and the others ran at `hz` tasks/s."""
    asked = SCENARIOS[scenario]
    steps = asked.phases(asked.values(params), variant or Variant("v"))
    phases = [next(steps)]
    told = iter(seen)
    while True:
        n = phases[-1].load.n if hz and phases[-1].load else 0
        ran = drained(n, round(n / hz * SECOND)) if n else drained(0, 0)
        try:
            phases.append(steps.send(next(told, ran)))
        except StopIteration:
            return phases


def loads(found: Sequence[Phase], name: str) -> list[int]:
    """How many tasks each phase has whose name begins so."""
    return [phase.load.n for phase in found if phase.load and phase.name.startswith(name)]


@pytest.mark.parametrize(
    ("fault", "settle_s", "patience_s"),
    [
        ("worker", 60, 35),  # the runner waits for the settle time in any case
        ("clock-ahead", 20, 50),
        ("clock-back", 20, 50),
        ("clock-back", 60, 75),
    ],
)
def test_what_waits_until_the_clock_shows_its_time_again_is_waited_for(
    fault: str, settle_s: float, patience_s: float
) -> None:
    promise = Promise("redelivered", "comes back", 35, "https://example.org")
    variant = Variant("v", max_slots=2, settle_s=settle_s, promises={"worker": promise})
    found = plan("faults", hz=10, variant=variant, fault=fault)
    (load,) = (phase for phase in found if phase.faults)
    assert load.patience_s == patience_s
    assert load.limit_s > patience_s


@pytest.mark.parametrize(
    ("fault", "calm_s"), [("worker", 35), ("cut", 35), ("raise", 35), ("clock-back", 50), ("flood", CALM_S)]
)
def test_what_may_run_twice_is_waited_for_after_all_has_ended(fault: str, calm_s: float) -> None:
    promise = Promise("redelivered", "comes back", 35, "https://example.org")
    found = plan(
        "faults", hz=10, variant=Variant("v", max_slots=2, promises={"worker": promise}), fault=fault
    )
    assert [phase.hold_s for phase in found if phase.name == "calm"] == [calm_s]


@pytest.mark.parametrize("fault", ["clock-ahead", "clock-back"])
def test_no_jump_of_the_clock_reaches_a_constant_that_was_made_shorter(fault: str) -> None:
    """Else a clock would bring back what it would not by the vendor's constants: those are 20 s or longer."""
    (done,) = FAULTS[fault].done
    assert abs(done.ahead_s) + done.for_s <= 20


@pytest.mark.parametrize(
    ("params", "limit", "n"),
    [({}, None, 1000), ({"tasks": 7}, None, 7), ({}, 5, 5), ({"tasks": 300_000}, None, 200_000)],
)
def test_a_drain_is_queued_while_nothing_can_run(params: dict[str, Any], limit: int | None, n: int) -> None:
    found = plan("throughput", variant=Variant("v", queue_limit=limit), work="sleep:1", payload=3, **params)
    assert found == [
        Phase("queue", Load(n, work="sleep:1", payload_bytes=3), Workers.DOWN, "queued", limit_s=780.0),
        Phase("drain", ready=False, limit_s=780.0),
    ]


@pytest.mark.parametrize(("tasks", "n"), [(1000, 1500), (2000, 2000)])
def test_a_long_drain_comes_after_a_short_one(tasks: int, n: int) -> None:
    """The short one ran 200 tasks in 0.4 s."""
    found = plan("throughput", [drained(200, 2 * SECOND // 5)], seconds=3.0, tasks=tasks, most_s=2.0)
    queued = {"workers": Workers.DOWN, "wait": "queued", "limit_s": 210.0}
    assert found == [
        Phase("queue", Load(200), **queued),
        Phase("drain", ready=False, limit_s=210.0),
        Phase("long queue", Load(n), **queued),
        Phase("long drain", ready=False, limit_s=210.0),
    ]


def test_a_load_begins_with_its_warm_up() -> None:
    found = plan("latency", hz=50, rate=50.0, arrival="constant", work="io:1:2", tasks=100)
    load_of = Load(200, Arrival.CONSTANT, 50.0, "io:1:2", warmup_n=100, seed=50_000)
    assert found == [
        Phase("burst of 20", Load(20, work="io:1:2")),
        Phase("burst of 50", Load(50, work="io:1:2")),
        Phase("load", load_of, limit_s=124.0),
    ]
    last = plan("latency", hz=60, rate=50.0)[-1]
    assert last.load == Load(1100, Arrival.POISSON, 50.0, warmup_n=100, seed=50_000)


@pytest.mark.parametrize(
    ("params", "warmup_n", "measured_n"),
    [
        ({"rate": 10.0, "tasks": 1000, "most_s": 3.0, "warmup_s": 0.0}, 0, 30),  # no longer than asked for
        ({"rate": 0.1, "tasks": 9, "most_s": 3.0, "warmup_s": 0.0}, 0, 1),  # but at least one task
        ({"rate": 10.0, "tasks": 1, "most_s": 3.0, "warmup_s": 0.25}, 2, 1),  # whole tasks only
        (
            {"rate": 1e6, "tasks": 500_000, "most_s": 9.0, "warmup_s": 9.0},
            10_000,
            100_000,
        ),  # nor more than all
    ],
)
def test_a_load_is_bounded(params: dict[str, Any], warmup_n: int, measured_n: int) -> None:
    found = plan("latency", hz=1e7, **params)[-1]
    assert (found.name, found.load is not None) == ("load", True)
    assert found.load is not None
    assert (found.load.warmup_n, found.load.n) == (warmup_n, warmup_n + measured_n)


@pytest.mark.parametrize(
    ("params", "rate_hz", "measured_n"),
    [
        ({"load": 0.5}, 250.0, 1250),  # at least 5 s of it
        ({"load": 0.5, "tasks": 2000}, 250.0, 2000),
        ({"load": 0.5, "rate": 100.0}, 100.0, 500),  # the lower of the two
        ({"load": 0.5, "rate": 300.0}, 250.0, 1250),
    ],
)
def test_a_load_follows_the_capacity(params: dict[str, Any], rate_hz: float, measured_n: int) -> None:
    found = plan("latency", hz=500, **{"tasks": 10, "warmup_s": 0.0, **params})
    assert loads(found[:-1], "burst") == [20, 200, 500]
    assert found[-1].load is not None
    assert (found[-1].load.rate_hz, found[-1].load.n) == (exactly(rate_hz), measured_n)
    small = plan("latency", hz=500, variant=Variant("v", queue_limit=9), load=0.5)
    assert loads(small, "burst") == [9]
    few = plan("latency", hz=500, load=0.5, capacity_tasks=100)
    assert loads(few, "burst") == [20, 100]


def test_a_fixed_rate_above_the_capacity_is_not_tried() -> None:
    with pytest.raises(Unsupported, match=r"^51 tasks/s are above its capacity \(40 tasks/s in a burst"):
        plan("latency", hz=40, rate=51.0)
    assert plan("latency", hz=40, rate=50.0)[-1].load == Load(
        1100, Arrival.POISSON, 50.0, warmup_n=100, seed=50_000
    )
    lowered = plan("latency", hz=40, rate=50.0, load=0.9)[-1]
    assert lowered.load is not None
    assert lowered.load.rate_hz == exactly(36)


@pytest.mark.parametrize(
    ("hz", "most_s", "rate_hz", "warmup_n", "n"),
    [(1.5, 20.0, 0.75, 1, 15), (1.5, 3.0, 0.75, 1, FEW), (0.1, 20.0, 0.05, 0, FEW)],
)
def test_a_slow_system_is_offered_a_load_for_a_bounded_time(
    hz: float, most_s: float, rate_hz: float, warmup_n: int, n: int
) -> None:
    """A burst of a few tasks is long enough to see how slow it is; no fewer are measured."""
    found = plan("latency", hz=hz, variant=HEAVY, load=0.5, most_s=most_s)
    assert [phase.name for phase in found] == [f"burst of {FEW}", "load"]
    assert found[1].load is not None
    assert found[1].load.rate_hz == pytest.approx(rate_hz, rel=1e-6)
    assert (found[1].load.warmup_n, found[1].load.n) == (warmup_n, warmup_n + n)


def test_batches_cannot_be_asked_what_happens_to_one_task_at_a_time() -> None:
    system, batch = discovery.systems()["reference"], Variant("v", batch=True)
    for name, scenario in SCENARIOS.items():
        why = scenario.unsupported(system, batch, scenario.values({"load": 0.5} if name == "latency" else {}))
        asked_one_by_one = ("latency", "capacity", "concurrency", "faults", "memory", "soak", "startup")
        assert ("batches" in why) is (name in asked_one_by_one)


def test_memory_is_sampled_idle_and_under_load() -> None:
    """4/5 of what a burst reaches are more than the rate that is asked for."""
    assert plan("memory", hz=63, idle_s=2.0, tasks=300, rate=50.0, payload=9) == [
        Phase("idle", wait="hold", hold_s=2.0, memory=True),
        Phase("burst", Load(20, payload_bytes=9), memory=True),
        Phase("loaded", Load(300, Arrival.CONSTANT, 50.0, payload_bytes=9), memory=True, limit_s=126.0),
    ]


@pytest.mark.parametrize(
    ("hz", "variant", "params", "burst_n", "rate_hz", "n"),
    [
        (10, Variant("v"), {}, 20, 8.0, 500),
        (10, Variant("v"), {"most_s": 15.0}, 20, 8.0, 120),
        (1000, Variant("v"), {"most_s": 2.0}, 20, 100.0, 200),
        (2, HEAVY, {"most_s": 15.0}, FEW, 1.6, 24),
    ],
)
def test_memory_is_loaded_as_much_as_a_burst_after_idling_allows(
    hz: float, variant: Variant, params: dict[str, float], burst_n: int, rate_hz: float, n: int
) -> None:
    *before, burst, loaded = plan("memory", hz=hz, variant=variant, **params)
    assert before == list(idling(variant, 3.0, memory=True))
    assert loads([burst], "burst") == [burst_n]
    assert loaded.load is not None
    assert (loaded.load.rate_hz, loaded.load.n) == (exactly(rate_hz), n)
    assert loaded.limit_s == exactly(120 + n / rate_hz)


@pytest.mark.parametrize(
    ("hz", "variant", "params", "n"),
    [
        (0.01, HEAVY, {"most_s": 15.0}, FEW),
        (1000, Variant("v"), {"tasks": 20}, 20),
        (1000, Variant("v"), {"tasks": 5}, 5),
        (2, HEAVY, {"tasks": 1}, 1),
    ],
)
def test_where_no_more_would_end_in_time_a_burst_is_the_load(
    hz: float, variant: Variant, params: dict[str, Any], n: int
) -> None:
    *_, burst = plan("memory", hz=hz, variant=variant, payload=9, **params)
    assert burst == Phase("burst", Load(n, payload_bytes=9), memory=True)
    phases = [Phase("idle", memory=True), burst]
    samples = [sample(one.name, "", 1, "worker", pss=MB, uss=MB, rss=MB) for one in phases]
    notes = {name: one.note for name, one in figures("memory", history(phases, samples=samples)).items()}
    assert notes["idle_pss.worker"] == ""
    assert notes["loaded_pss.worker"] == notes["peak_rss.total"] == f"loaded with {n} tasks at once"


def test_memory_under_a_load_that_was_lowered_says_so() -> None:
    phases = [Phase("idle", memory=True), Phase("loaded", Load(24, Arrival.CONSTANT, 1.6), memory=True)]
    samples = [sample(phase, "", 1, "worker", pss=MB, uss=MB, rss=MB) for phase in ("idle", "loaded")]
    made = history(phases, samples=samples)
    found = figures("memory", made)
    words = "loaded with 24 tasks at 1.6/s, 80% of what a burst reached"
    of_load = {name for name, one in found.items() if one.note == words}
    assert of_load == {name for name in found if name.startswith(("loaded", "peak"))}
    assert of_load
    assert {one.note for one in figures("memory", made, rate=1.6).values()} == {""}


@pytest.mark.parametrize(
    ("params", "variant", "sizes"),
    [
        ({"work_ms": 10.0, "burn_s": 4.0}, Variant("v"), [20, *[40] * 9, 20]),
        ({"work_ms": 1.0, "burn_s": 0.5}, Variant("v"), [20, 400, 80]),
        ({"work_ms": 900.0, "burn_s": 1.0}, Variant("v"), [1, 1]),
        ({"work_ms": 10.0, "burn_s": 1.0}, Variant("v", queue_limit=25), [20, 25, 25, 25, 5]),
        ({"work_ms": 10.0, "burn_s": 0.4}, HEAVY, [FEW, 40 - FEW]),
    ],
)
def test_cpu_is_burned_in_bursts_after_idling(
    params: dict[str, Any], variant: Variant, sizes: list[int]
) -> None:
    """The first is as small as one that is to tell how fast it goes."""
    found = plan("cpu", hz=1e6, variant=variant, idle_s=3.0, most_s=30.0, **params)
    work = f"cpu:{params['work_ms']}"
    assert found == [
        *idling(variant, 3.0),
        *(Phase(f"load {number}", Load(n, work=work), limit_s=150.0) for number, n in enumerate(sizes, 1)),
        *([Phase("after", wait="hold", hold_s=5.0)] if variant.heavy else []),
    ]


@pytest.mark.parametrize(
    ("hz", "most_s", "sizes"),
    [
        (10, 120.0, [20, *[40] * 9, 20]),
        (10, 5.0, [20, 30]),  # 2 s, and the 3 s that are left
        (10, 2.05, [20]),
        (10, 2.0, [20]),
        (0.1, 15.0, [20]),
        (100, 1.0, [20, 40, 40]),
    ],
)
def test_cpu_is_burned_for_about_so_many_seconds_at_most(hz: float, most_s: float, sizes: list[int]) -> None:
    assert loads(plan("cpu", hz=hz, work_ms=10.0, burn_s=4.0, most_s=most_s), "load") == sizes


def test_no_more_cpu_is_burned_by_a_system_that_ends_nothing() -> None:
    lost = history([QUEUE[0]], [task(1, i, start=0) for i in range(20)]).tasks
    assert loads(plan("cpu", [drained(0, 0), lambda: lost]), "load") == [20]
    heavy = plan("cpu", [drained(0, 0), drained(0, 0), lambda: lost], variant=HEAVY)
    assert [phase.name for phase in heavy] == ["rest", "idle", "load 1", "after"]


@pytest.mark.parametrize(
    ("hz", "params", "limit", "sizes"),
    [
        (2, {}, None, [DRAINED, 120]),  # a minute's worth
        (2, {"most_s": 20.0}, None, [DRAINED, 40]),
        (2, {"tasks": 30}, None, [DRAINED, 30]),
        (0.1, {"most_s": 20.0}, None, [DRAINED]),  # no more would end in time
        (100, {}, None, [DRAINED, 1000]),
        (100, {}, 5, [5]),
        (2, {"tasks": 4}, None, [4]),
        (2, {"tasks": 1}, None, [1]),  # which tells no rate, and need not
        ((DRAINED - 0.5) / 10, {"most_s": 10.0}, None, [DRAINED]),
        ((DRAINED + 0.5) / 10, {"most_s": 10.0}, None, [DRAINED, DRAINED + 1]),
    ],
)
def test_a_heavy_system_drains_as_many_as_end_in_time(
    hz: float, params: dict[str, Any], limit: int | None, sizes: list[int]
) -> None:
    """A drain of a few tells how many, and is all there is where no more would end."""
    variant = dataclasses.replace(HEAVY, queue_limit=limit)
    limit_s = 180 + 10 * params.get("most_s", 60.0)
    assert plan("throughput", hz=hz, variant=variant, work="sleep:1", payload=3, **params) == [
        phase
        for prefix, n in zip(("", "long "), sizes, strict=False)
        for phase in (
            Phase(f"{prefix}queue", Load(n, work="sleep:1", payload_bytes=3), Workers.DOWN, "queued",
                  limit_s=limit_s),
            Phase(f"{prefix}drain", ready=False, limit_s=limit_s),
        )
    ]  # fmt: skip


@pytest.mark.parametrize(("hz", "sizes"), [(2, [DRAINED, 60]), (0.1, [DRAINED]), (1e5, [DRAINED, 200_000])])
def test_a_long_drain_of_a_heavy_system_is_sized_by_its_seconds(hz: float, sizes: list[int]) -> None:
    found = plan("throughput", hz=hz, variant=HEAVY, seconds=30.0, most_s=20.0)
    assert loads(found, "queue") + loads(found, "long queue") == sizes
    assert {phase.limit_s for phase in found} == {480.0}


def test_the_throughput_of_a_heavy_system_is_that_of_its_longest_drain() -> None:
    """2 tasks/s by the first, 4 tasks/s by the second."""
    short = [task(1, i, accepted=1, start=0, end=SECOND) for i in range(2)]
    long = [task(3, i, accepted=1, start=0, end=2 * SECOND) for i in range(8)]
    for phases, events, hz, n in (
        (QUEUE, short, 2.0, 2),
        ([*QUEUE, Phase("long queue", Load(8)), Phase("long drain")], [*short, *long], 4.0, 8),
    ):
        found = figures("throughput", history(phases, events), tasks=n)["throughput"]
        assert (found.value, found.n, found.note) == (exactly(hz), n, "")


@pytest.mark.parametrize("start", ["warm", "cold"])
def test_startup_queues_a_task_and_then_spawns(start: str) -> None:
    assert plan("startup", start=start) == [
        Phase("queue", Load(1), Workers.DOWN, "queued"),
        Phase("first", ready=False, limit_s=120.0),
    ]
    assert plan("startup", variant=Variant("v", start_s=240.0))[1].limit_s == 300.0
    assert SCENARIOS["startup"].cold({"start": start}) is (start == "cold")
    assert SCENARIOS["cpu"].cold({}) is False


def test_a_schedule_is_held_for_all_its_ticks_and_the_one_after() -> None:
    assert plan("periodic", ticks=4, every_s=0.5) == [Phase("ticks", wait="hold", hold_s=2.75, every_s=0.5)]
    systems = discovery.systems()
    for name, why in (("reference", ""), ("dramatiq", "it has no schedules")):
        for scenario in ("periodic", "replicas"):
            asked = SCENARIOS[scenario].values({})
            assert SCENARIOS[scenario].unsupported(systems[name], Variant("v"), asked) == why
        assert SCENARIOS["cpu"].unsupported(systems[name], Variant("v"), {}) == ""


def test_beside_a_schedule_there_is_a_share_of_what_a_burst_reaches() -> None:
    """200 tasks/s, of which a half for 5.5 s; what is left of them is waited for."""
    held = Phase("ticks", Load(550, Arrival.POISSON, 100.0), wait="hold", hold_s=5.5, every_s=1.0)
    assert plan("periodic", hz=200.0, ticks=4, load=0.5)[-2:] == [held, Phase("rest of the load")]
    most = plan("periodic", hz=20_000.0, ticks=4, load=0.5)[-2]
    assert most.load is not None
    assert most.load.rate_hz == 500
    systems, asked = discovery.systems(), SCENARIOS["periodic"].values({"load": 0.5, "every_s": 60.0})
    for variant, why in (
        (systems["cron"].variants["debian"], "it runs nothing but schedules: there is no load beside them"),
        (systems["temporal"].variants["memory-activities"], BATCHES),
    ):
        system = systems["cron" if variant.every_s == 60 else "temporal"]
        assert SCENARIOS["periodic"].why_not(system, variant, asked) == why


def test_something_is_done_to_a_schedule_once_it_has_ticked_three_times() -> None:
    assert plan("periodic", what="overlap", every_s=2.0) == [
        Phase("ticks", wait="hold", hold_s=18.0, every_s=2.0, every_work="sleep-once:7000")
    ]
    ticking = Phase("ticks", wait="hold", hold_s=7.0, every_s=2.0)
    assert plan("periodic", what="down", every_s=2.0, missed=5) == [
        ticking,
        Phase("down", workers=Workers.DOWN, wait="hold", hold_s=10.0),
        Phase("after", ready=False, wait="hold", hold_s=12.0),
    ]
    killed = (Fault("kill", "keeper"),)
    assert plan("periodic", what="restart", every_s=2.0, missed=5) == [
        ticking,
        Phase("after", wait="hold", hold_s=12.0, supervised=True, faults=killed),
    ]


def test_several_keep_a_schedule_and_one_may_be_stopped_in_the_middle_of_a_run() -> None:
    held = Phase("ticks", wait="hold", hold_s=15.0, every_s=2.0, every_work="sleep:300", replicas=3)
    assert plan("replicas", replicas=3, ticks=3) == [held]
    system, asked = discovery.systems()["apscheduler"], SCENARIOS["replicas"].values({"pause_s": 7.0})
    for name, why in (
        ("thread-pool-redis-lock", ""),
        ("thread-pool", "it has no lock around the body that could run out"),
    ):
        assert SCENARIOS["replicas"].why_not(system, system.variants[name], asked) == why
    paused = (Fault("pause", "worker", 11.0, 7.0),)
    assert plan("replicas", replicas=3, ticks=3, pause_s=7.0) == [
        dataclasses.replace(held, supervised=True, faults=paused)
    ]


def test_what_counts_by_the_wall_clock_is_asked_for_no_other_period() -> None:
    minutes, systems = Variant("v", every_s=60.0), discovery.systems()
    assert plan("periodic", variant=minutes, ticks=2, every_s=60.0) == [
        Phase("ticks", wait="hold", hold_s=210.0, every_s=60.0, wall_clock=True)
    ]
    for every_s, fine in ((60.0, True), (120.0, True), (3600.0, True), (1.0, False), (90.0, False),
                          (420.0, False), (7200.0, False)):  # fmt: skip
        asked = SCENARIOS["periodic"].values({"every_s": every_s})
        why = SCENARIOS["periodic"].why_not(systems["reference"], minutes, asked)
        refused = "its schedules are of multiples of 60 s that divide an hour: --set every_s=60"
        assert why == ("" if fine else refused)


@pytest.mark.parametrize(
    ("every_s", "cron"),
    [(60.0, "* * * * *"), (120.0, "*/2 * * * *"), (1800.0, "*/30 * * * *"), (3600.0, "0 * * * *"),
     (1.0, ""), (90.0, ""), (420.0, ""), (7200.0, "")],
)  # fmt: skip
def test_a_cron_expression_says_what_a_period_says(every_s: float, cron: str) -> None:
    systems, scenario = discovery.systems(), SCENARIOS["periodic"]
    asked = scenario.values({"trigger": "cron", "every_s": every_s})
    refused = "a cron expression has whole minutes, of which some make an hour: --set every_s=60"
    assert scenario.why_not(systems["apscheduler"], Variant("v"), asked) == ("" if cron else refused)
    assert scenario.why_not(systems["schedule"], Variant("v"), asked) == "it takes no cron expressions"
    (phase,) = scenario.phases(asked, Variant("v"))
    assert (phase.cron, phase.wall_clock) == (cron, bool(cron))


def test_a_schedule_that_may_be_early_is_not_called_skipped_and_repeated() -> None:
    """Due every 10 s from 10 s on: the runs at 9.6 and 30.2 s are those of the first and the third tick."""
    early = Variant("v", early_s=0.5)
    (phase,) = plan("periodic", variant=early, every_s=10.0, ticks=3)
    assert phase.early_s == plan("replicas", variant=early)[0].early_s == 0.5
    own = SCHEDULE >> PHASE_SHIFT | 1
    told = [(own, 0, Kind.SUBMIT, 0, 10 * SECOND)]
    runs = [(own, 0, kind, at * 100 * MS, 0) for at in (96, 199, 302) for kind in (Kind.START, Kind.END)]
    edges = [sample("ticks", "begin", 0, "total"), sample("ticks", "end", 45 * SECOND, "total")]
    found = figures("periodic", history([phase], [[*told, *runs]], edges), every_s=10.0, ticks=3)
    assert [found[f"ticks_{what}"].value for what in ("planned", "skipped", "repeated")] == [3, 0, 0]
    assert found["tick_delay_p50"].value == exactly(-100)
    assert found["tick_delay_max"].value == exactly(200)
    assert "2 of 3 began early, by up to 400 ms" in found["tick_delay_p95"].note


def test_what_takes_seconds_is_asked_for_no_shorter_period() -> None:
    slow, system = Variant("v", shortest_s=10.0), discovery.systems()["reference"]
    refused = "what its schedules start takes seconds: --set every_s=10, or more"
    for scenario in ("periodic", "replicas"):
        for every_s, why in ((9.0, refused), (10.0, "")):
            asked = SCENARIOS[scenario].values({"every_s": every_s})
            assert SCENARIOS[scenario].why_not(system, slow, asked) == why


def test_a_system_that_takes_no_tasks_is_asked_for_schedules_only() -> None:
    system = dataclasses.replace(discovery.systems()["reference"], capabilities=frozenset({"periodic"}))
    for name, scenario in SCENARIOS.items():
        why = scenario.why_not(system, Variant("v"), scenario.values({}))
        assert why == ("" if name in ("periodic", "replicas") else "it runs nothing but schedules")


def test_only_io_needs_the_io_server() -> None:
    for params, needed in (({"work": "io:5:1024"}, True), ({"work": "sleep:5"}, False), ({}, False)):
        assert SCENARIOS["throughput"].io(params) is needed


# --- open loop --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first_ms", "middle_ms", "last_ms", "grew"),
    [
        (4, 4, 15, True),
        (4, 15, 4, False),  # what recovers has not grown all the time
        (5, 5, 15, False),  # 10 ms more are not enough, nor is twice as much
        (11, 11, 22, False),
        (11, 11, 23, True),
        (0, 0, 10.1, True),
    ],
)
def test_a_load_is_overloaded_when_its_end_is_much_slower_than_its_begin(
    first_ms: float, middle_ms: float, last_ms: float, grew: bool
) -> None:
    quarter = np.ones(30)
    found = openloop.overloaded(np.concatenate([first_ms * quarter, middle_ms * quarter, middle_ms * quarter,
                                                last_ms * quarter]), math.inf)  # fmt: skip
    assert found is grew


@pytest.mark.parametrize(
    ("latencies_ms", "lasted_ms", "grew"),
    [
        ((100, 900, 4000, 9000), 6000, True),  # the last waited for longer than the load took to come
        ((100, 900, 4000, 9000), 18_000, False),
        ((100, 900, 4000, 9000), 17_999, True),
        ((9000, 4000, 900, 100), 100, False),
        ((1, 2, 5, 11), 4, False),  # 10 ms more are not enough
        ((1, 2, 5, 11.1), 4, True),
        ((9000, 9000, 9000), 10, False),  # too few to tell
    ],
)
def test_a_load_of_few_tasks_is_overloaded_when_its_backlog_takes_half_as_long_again(
    latencies_ms: tuple[float, ...], lasted_ms: float, grew: bool
) -> None:
    assert openloop.overloaded(np.array(latencies_ms, float), lasted_ms) is grew


@pytest.mark.parametrize(
    ("due", "submit", "share"),
    [
        ((0, 1, 5, 6), (0, 3, 7, 12), 0.5),
        ((0, 1, 5, 6), (2, 3, 4, 5), 2.0),
        ((0, 2), (0, 1), 2.0),
        ((0, 9), (4, 4), 1.0),
        ((7,), (9,), 1.0),
    ],
)
def test_the_offered_share_is_told_from_the_first_and_the_last(
    due: Sequence[int], submit: Sequence[int], share: float
) -> None:
    events = [task(1, i, due=at, submit=sent) for i, (at, sent) in enumerate(zip(due, submit, strict=True))]
    assert openloop.offered_share(history(load(4), events).tasks) == share


def test_a_submit_call_that_never_returned_delays_nothing() -> None:
    """Two are due at once; what the first one's call took is not known."""
    events: list[list[Event]] = [[(1, 0, Kind.SUBMIT, 5, 5)], task(1, 1, due=5, submit=5, accepted=9)]
    assert openloop.generator_lag_ms(history(load(2), events).tasks, 0).tolist() == [0, 0]


def test_what_was_never_submitted_is_not_judged() -> None:
    events: list[list[Event]] = [
        task(1, i, due=i * SECOND, start=i * SECOND, end=i * SECOND + 1) for i in range(9)
    ]
    events.append([(1, 9, Kind.START, 5, 0)])
    (phase,) = load(9)
    assert phase.load is not None
    assert openloop.judge(history([phase], events).tasks, phase.load, 100.0).sustained


@pytest.mark.parametrize(
    ("gained", "since", "grew"), [(4, 0, False), (9, 0, True), (7, 50, False), (10, 50, True)]
)
def test_a_backlog_of_a_few_rounds_is_no_backlog(gained: int, since: int, grew: bool) -> None:
    """100 tasks, one every 10 ms and one at a time; the last waits `gained` times as long as that."""
    events = [
        task(1, i, due=10 * i * MS, start=(at := round((10 * i + 0.1 * gained * i + 1) * MS)), end=at + MS)
        for i in range(100)
    ]
    assert openloop.backlog_grew(history(load(100), events).tasks, 10 * since * MS) is grew


def test_the_warm_up_may_be_sent_late() -> None:
    """The first five of ten are sent half a second late; all start 0.3 s after that, which is too late."""
    sent_ns = [round((i + (0.5 if i < 5 else 0)) * SECOND) for i in range(10)]
    events = [
        task(1, i, due=i * SECOND, submit=at, start=at + 300 * MS, end=at + 301 * MS)
        for i, at in enumerate(sent_ns)
    ]
    made = history(load(10, warmup=5, rate_hz=1.0), events)
    (phase,) = made.phases.values()
    assert phase.load is not None
    assert openloop.judge(made.tasks, phase.load, 250.0).limit is openloop.Limit.LATE
    assert openloop.judge(made.tasks, dataclasses.replace(phase.load, warmup_n=0), 250.0).limit is (
        openloop.Limit.GENERATOR
    )
    found = figures("latency", made)
    assert (found["generator_lag_max"].value, found["generator_lag_max"].n) == (0, 5)
    assert found["dispatch_latency_max"].note == ""


def test_the_first_measured_task_counts_for_what_was_offered() -> None:
    """After one of warm-up, the second of two is sent a second late, when the call before has returned."""
    events = [
        task(1, 0),
        task(1, 1, due=SECOND, accepted=3 * SECOND, start=SECOND),
        task(1, 2, due=2 * SECOND, submit=3 * SECOND, start=3 * SECOND),
    ]
    made = history(load(3, warmup=1, rate_hz=1.0), events)
    (phase,) = made.phases.values()
    assert phase.load is not None
    assert openloop.offered_remarks(made.tasks, phase.load, 0) == [
        "the client could offer only 50% of 1 tasks/s"
    ]


# --- growth -----------------------------------------------------------------------------------------


def growing(seconds: Sequence[float], mb: Callable[[float], float]) -> dict[str, Metric]:
    """The growth of a stack of `mb` megabytes over a load of 1000 tasks, one ended every 0.1 s."""
    tasks = history([QUEUE[0]], [task(1, i, start=0, end=i * 100 * MS) for i in range(1, 1001)]).tasks
    total = pd.DataFrame(
        {"t_ns": [round(at * 1e9) for at in seconds], "pss_bytes": [mb(at) * 1e6 for at in seconds]}
    )
    return {one.name: one for one in memory.growth(total.sample(frac=1, random_state=1), tasks)}


def test_growth_is_told_per_1000_tasks_and_per_hour() -> None:
    """3 MB in 100 s, in which 1000 tasks end; what was before the first hundred had ended does not count."""
    found = growing([1, 9.9, *range(20, 100, 10), 100], lambda at: 900 if at < 10 else 50 + 0.03 * at)
    assert rows(found.values()) == {
        "growth_pss_per_1000": ("MB", 3, 9, ""),
        "growth_pss_per_hour": ("MB", 108, 9, ""),
    }
    for one, span in zip(found.values(), (0.8, 80 / 3600), strict=True):
        assert known_to_a_page(one, span)


@pytest.mark.parametrize("mb", [lambda at: 50.0, lambda at: 51.0 if at > 95 else 50.0], ids=["no", "one"])
def test_memory_that_moves_in_pages_may_grow_by_what_it_does_not_show(mb: Callable[[float], float]) -> None:
    """A page more over all of it, or the one step that came at its very end."""
    found = growing(range(10, 101, 5), mb)["growth_pss_per_1000"]
    grown_mb = max(mb(101) - mb(10), memory.PAGE_MB)
    assert found.value == 0
    assert found.low is not None
    assert found.high is not None
    assert found.low <= -grown_mb / 0.9
    assert found.high >= grown_mb / 0.9


@pytest.mark.parametrize(
    ("seconds", "names", "note"),
    [
        ([20, 30], [], ""),
        ([20, 30, 40], ["growth_pss_per_1000"], "n < 8"),
        ([20, 30, 40, 50, 60, 79.5], ["growth_pss_per_1000"], "n < 8"),
        ([20, 30, 40, 50, 60, 70, 80], ["growth_pss_per_1000", "growth_pss_per_hour"], "n < 8"),
        ([20, 30, 40, 50, 60, 65, 70, 80], ["growth_pss_per_1000", "growth_pss_per_hour"], ""),
        ([*range(110, 200, 10)], [], ""),  # after the load
    ],
)
def test_growth_needs_samples_and_growth_per_hour_a_minute(
    seconds: Sequence[float], names: list[str], note: str
) -> None:
    found = growing(seconds, lambda at: at % 7)
    assert list(found) == names
    assert {one.note for one in found.values()} <= {note}


def test_growth_is_the_same_whenever_it_is_asked() -> None:
    once, again = (growing(range(20, 100), lambda at: math.sin(at * at)) for _ in range(2))
    assert once == again
    assert once["growth_pss_per_1000"].low != once["growth_pss_per_1000"].high


def test_only_rss_is_an_upper_bound() -> None:
    samples = [
        sample(phase, "", at, "worker", processes=2, pss=10 * MB, uss=9 * MB, rss=16 * MB)
        for at, phase in ((1, "idle"), (2, "loaded"))
    ]
    found = figures("memory", history(MEMORY, samples=samples))
    marked = {name for name, one in found.items() if "counts a page once in each" in one.note}
    assert marked == {
        f"{what}_rss.{role}" for what in ("idle", "loaded", "peak") for role in ("worker", "total")
    }
    assert all(one.note == "" for name, one in found.items() if name not in marked)


# --- the search for the sustainable rate ------------------------------------------------------------


def good(rate_hz: float, n: int = 500) -> openloop.Verdict:
    return openloop.Verdict(rate_hz, n, 9.0, None)


def bad(rate_hz: float, limit: openloop.Limit = openloop.Limit.LATE) -> openloop.Verdict:
    return openloop.Verdict(rate_hz, 300, 1234.5, limit)


@pytest.mark.parametrize(
    ("tried", "value", "n", "low", "high", "note"),
    [
        ([], math.nan, 0, None, None, "none was tried"),
        ([bad(8), bad(4)], 0, 300, 0, 4,
         "none was sustained, down to 4 tasks/s: P95 missed the objective of 250 ms, it was 1.23e+03 ms"),
        ([bad(4, openloop.Limit.LOST)], 0, 300, 0, 4,
         "none was sustained, down to 4 tasks/s: tasks were lost"),
        ([good(80), good(100)], 100, 500, 100, None, "lower bound: all that was offered was sustained"),
        ([good(80), bad(100, openloop.Limit.GENERATOR)], 80, 500, 80, None,
         "lower bound: the generator fell behind above it"),
        ([good(100, 199)], 100, 199, 100, None, "lower bound: all that was offered was sustained; n < 200"),
        ([good(100, 200), bad(109)], 100, 200, 100, 109, "limit: P95 missed the objective of 250 ms"),
        ([good(100), bad(130, openloop.Limit.BACKLOG), bad(150)], 100, 500, 100, 130,
         "limit: the backlog grew; lower bound: the steps were used up, 130 tasks/s failed"),
    ],
)  # fmt: skip
def test_the_sustainable_rate_says_what_limits_it(
    tried: list[openloop.Verdict], value: float, n: int, low: float | None, high: float | None, note: str
) -> None:
    found = capacity.sustainable_rate(tried, 250.0)
    assert rows([found]) == {"sustainable_rate": ("tasks/s", value, n, note)}
    assert (found.low, found.high) == (low, high)


@pytest.mark.parametrize(
    ("tried", "then"),
    [
        ([], 80),  # 0.8 of the burst's 100
        ([good(80)], 100),
        ([good(80), good(100)], 125),
        ([good(80), good(100), good(390)], 400),  # not above what can be offered
        ([good(400)], None),
        ([bad(80)], 80 / 1.5),
        ([bad(80), bad(53)], 53 / 1.5**2),
        ([bad(80), bad(53), bad(24)], 24 / 1.5**4),
        ([bad(80), bad(53), bad(24), bad(5)], 1),  # a hundredth of the burst's
        ([bad(80), bad(1)], None),
        ([good(80), bad(125)], 100),
        ([good(80), bad(125), good(100), bad(111)], math.sqrt(11100)),
        ([good(80), bad(125), good(101), bad(111)], None),
    ],
)
def test_the_rate_to_try_next(tried: list[openloop.Verdict], then: float | None) -> None:
    found = capacity.next_hz(tried, 100.0, 400.0)
    assert found is then if then is None else found == exactly(then)


def test_no_rate_is_tried_at_which_a_step_would_last_more_than_a_minute() -> None:
    assert capacity.next_hz([bad(2)], 3.0) == exactly(2 / 1.5)
    assert capacity.next_hz([bad(1)], 3.0) == exactly(50 / 60)
    assert capacity.next_hz([bad(50 / 60)], 3.0) is None


@pytest.mark.parametrize(
    ("measured_n", "n", "warmup_n"), [(0.1, 2, 0), (4, 5, 1), (80, 100, 20), (1e6, 50_000, 10_000)]
)
def test_a_fifth_of_a_paced_load_is_warm_up(measured_n: float, n: int, warmup_n: int) -> None:
    found = capacity.paced(12.5, measured_n, {"arrival": "constant", "work": "sleep:1"})
    assert found == Load(n, Arrival.CONSTANT, 12.5, "sleep:1", warmup_n=warmup_n, seed=12_500)


def test_a_system_is_told_ahead_by_the_longest_time_before_a_task_is_due() -> None:
    ahead = [task(1, i, due=i * SECOND, submit=i * SECOND // 2) for i in (4, 6)]
    assert capacity.lead_s(history(load(2), ahead).tasks) == 3.0
    late = [task(1, i, due=SECOND, submit=2 * SECOND) for i in range(2)]
    assert capacity.lead_s(history(load(2), late).tasks) == 0.0


def test_a_capacity_cell_has_bursts_and_then_steps_and_then_loads() -> None:
    """A burst of 20 tasks in 0.5 s lasts long enough; the first step is at 4/5 of its rate."""

    def kept_up(n: int, rate_hz: float) -> Seen:
        due = [round(i / rate_hz * 1e9) for i in range(n)]
        return lambda: (
            history([QUEUE[0]], [task(1, i, due=at, start=at, end=at + 1) for i, at in enumerate(due)]).tasks
        )

    seen = [drained(20, SECOND // 2), kept_up(80, 32.0), kept_up(100, 40.0)]
    asked = {"steps": 2, "step_s": 2.0, "tasks": 100, "most_s": 4.0, "arrival": "constant", "work": "sleep:9"}
    found = plan("capacity", seen, **asked)

    def paced(name: str, rate_hz: float, n: int) -> Phase:
        load_of = Load(n, Arrival.CONSTANT, rate_hz, "sleep:9", warmup_n=n // 5, seed=round(rate_hz * 1000))
        return Phase(name, load_of, limit_s=120 + n / rate_hz)

    assert found == [
        Phase("burst of 20", Load(20, work="sleep:9")),
        paced("step 1", 32.0, 80),
        paced("step 2", 40.0, 100),
        paced("load 10 %", 4.0, 20),
        paced("load 30 %", 12.0, 60),
        paced("load 50 %", 20.0, 100),
        paced("load 70 %", 28.0, 125),
        paced("load 90 %", 36.0, 125),
    ]
    assert plan("capacity", seen, **{**asked, "tasks": 1})[3:] == [
        paced(f"load {percent} %", 0.4 * percent, percent) for percent in (10, 30, 50, 70, 90)
    ]


def test_a_burst_that_was_over_in_less_than_half_a_second_is_tried_again() -> None:
    for lasted_ms, then in ((490, "burst of 41"), (500, "step 1")):
        steps = SCENARIOS["capacity"].phases(SCENARIOS["capacity"].values({}), Variant("v"))
        assert next(steps).name == "burst of 20"
        assert steps.send(drained(20, lasted_ms * MS)).name == then


def test_a_share_of_the_rate_has_latencies_and_what_was_offered() -> None:
    """Sent at half the planned rate, and the last never started; told ahead, but 0.4 s late; caught up."""
    phases = [Phase("burst of 20", Load(1)), Phase("load 30 %", Load(5, Arrival.CONSTANT, 2.0, warmup_n=1))]
    events: list[list[Event]] = [
        task(2, i, due=i * SECOND // 2, submit=i * SECOND, start=i * SECOND + 2000 * MS if i < 4 else None)
        for i in range(5)
    ]
    found = table("capacity", history(phases, events))
    assert found["offered_rate_at30"] == ("tasks/s", 1, 4, "")
    assert found["dispatch_latency_at30_p50"] == (
        "ms", 3000, 3,
        "invalid: generator fell behind (P99 lag 1985.0 ms); "
        "invalid: the client could offer only 50% of 2 tasks/s; 1 of 4 tasks never started; n < 100",
    )  # fmt: skip
    told_ms = [500 * i + 400 for i in range(5)]
    ahead = [
        task(2, i, due=(500 * i + 1000) * MS, submit=at * MS, start=(500 * i + 1900) * MS)
        for i, at in enumerate(told_ms)
    ]
    told = table("capacity", history(phases, ahead, ahead=True))
    assert told["offered_rate_at30"] == ("tasks/s", 2, 4, "")
    assert told["dispatch_latency_at30_max"] == (
        "ms", 900, 4, "invalid: generator fell behind (P99 lag 400.0 ms)",
    )  # fmt: skip
    fast = [task(2, i, due=i * SECOND, submit=(i + 5) * SECOND // 2) for i in range(5)]
    assert table("capacity", history(phases, fast))["offered_rate_at30"] == ("tasks/s", 2, 4, "")


def paced_by(load_of: Load, ahead_s: int, late_ms: int, took_ms: int) -> list[list[Event]]:
    """A constant load, told `ahead_s` before it is due and `late_ms` late; started `took_ms` after due."""
    due_ns = [round((ahead_s + i / load_of.rate_hz) * 1e9) for i in range(load_of.n)]
    return [
        task(1, i, due=due, submit=due - ahead_s * SECOND + late_ms * MS, start=due + took_ms * MS,
             end=due + took_ms * MS + 1)
        for i, due in enumerate(due_ns)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ahead_s", "late_ms", "ours"), [(0, 0, False), (0, 400, True), (1, 0, False), (1, 400, True)]
)
def test_a_step_in_which_the_generator_fell_behind_is_tried_again(
    ahead_s: int, late_ms: int, ours: bool
) -> None:
    """The objective is missed in any case; a step with the system to blame is followed by a slower one."""
    steps = SCENARIOS["capacity"].phases(SCENARIOS["capacity"].values({"arrival": "constant"}), Variant("v"))
    next(steps)
    burst = paced_by(Load(20, Arrival.CONSTANT, 20.0), ahead_s, 0, 1)
    step = steps.send(lambda: history([QUEUE[0]], burst).tasks)
    assert step.load is not None
    made = history([dataclasses.replace(step, name="step 1")], paced_by(step.load, ahead_s, late_ms, 900),
                   ahead=bool(ahead_s))  # fmt: skip
    then = steps.send(lambda: made.tasks)
    assert then.load is not None
    assert then.load.rate_hz == exactly(step.load.rate_hz / (1 if ours else 1.5))
    note = figures("capacity", made, arrival="constant")["sustainable_rate"].note
    assert ("the generator fell behind in every step" in note) is ours


@pytest.mark.parametrize("ahead_s", [0, 1])
def test_memory_of_a_load_that_was_not_offered_as_planned_says_so(ahead_s: int) -> None:
    phases = [Phase("loaded", Load(9, Arrival.CONSTANT, 1.0), memory=True), Phase("idle", memory=True)]
    samples = [
        sample(phase, "", at * SECOND, "worker", pss=at * MB, uss=MB, rss=at * MB)
        for phase in ("idle", "loaded")
        for at in range(1, 9)
    ]

    def notes(late_ms: int, each_ms: int) -> tuple[set[str], set[str]]:
        events = [
            task(1, i, due=(i + ahead_s) * SECOND, submit=(i * (1000 + each_ms) + late_ms) * MS,
                 start=(i * (1000 + each_ms) + ahead_s * 1000 + late_ms + 1) * MS, end=i * SECOND + 1)
            for i in range(9)
        ]  # fmt: skip
        found = figures("memory", history(phases, events, samples, ahead=bool(ahead_s)), rate=1.0)
        assert "growth_pss_per_1000" in found
        of_load = {one.note.replace("n < 8", "").strip("; ") for name, one in found.items()
                   if name.startswith(("loaded", "peak", "growth"))}  # fmt: skip
        return of_load, {one.note for name, one in found.items() if name.startswith(("idle", "proc", "comp"))}

    assert notes(0, 0) == ({""}, {""})
    assert notes(500, 0) == ({"generator fell behind (P99 lag 500.0 ms)"}, {""})
    assert notes(0, 1000) == (
        {"generator fell behind (P99 lag 7920.0 ms); the client could offer only 50% of 1 tasks/s"}, {""},
    )  # fmt: skip
