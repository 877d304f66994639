"""What each scenario makes of a history: small recorded histories, figures worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench import discovery, ledger
from bench.errors import CellError
from bench.model import PHASE_SHIFT, Arrival, Kind, Load, Metric, Phase, Variant, Workers
from bench.sampler import COLUMNS
from bench.scenario import History, Seen

MS = 1_000_000
SECOND = 1_000_000_000
SCENARIOS = discovery.scenarios()

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
    return History(
        ledger.per_task(records),
        pd.DataFrame([dict(row) for row in samples], columns=list(COLUMNS)),
        dict(enumerate(phases, 1)),
        spawned_ns or {},
        ahead,
        cpu_source,
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
    """4 tasks from 10.0 s to 10.5 s; when they were queued, and when workers came up, does not matter."""
    events = [
        task(1, i, submit=i * 100 * MS, accepted=i * 100 * MS + 50 * MS, start=10 * SECOND + i * 100 * MS,
             end=10 * SECOND + i * 100 * MS + 200 * MS)
        for i in range(4)
    ]  # fmt: skip
    found = figures("throughput", history(QUEUE, events), tasks=4)
    assert found["throughput"].value == pytest.approx(8.0)
    assert (found["throughput"].unit, found["throughput"].n, found["throughput"].note) == ("tasks/s", 4, "")
    # Submitted from 0 to 0.35 s, when the last was accepted.
    assert found["submit_rate"].value == pytest.approx(4 / 0.35)


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
    """Half of 500 tasks/s, for at least 5 s."""
    scenario = SCENARIOS["latency"]
    params = {"rate": 0.0, "load": 0.5, "warmup_s": 0.0, "tasks": 10}
    steps = scenario.phases(scenario.values(params), Variant("v"))
    assert next(steps).name == "capacity"
    phase = steps.send(drained(1000, 2 * SECOND))
    assert phase.load is not None
    assert phase.load.rate_hz == pytest.approx(250)
    assert phase.load.n == 1250


def test_no_load_asked_for_is_unsupported() -> None:
    scenario = SCENARIOS["latency"]
    system = discovery.systems()["reference"]
    for rate, load_share, supported in ((0.0, 0.0, False), (5.0, 0.0, True), (0.0, 0.5, True)):
        why = scenario.unsupported(system, Variant("v"), scenario.values({"rate": rate, "load": load_share}))
        assert (why == "") is supported


# --- memory ---------------------------------------------------------------------------------------

MEMORY = [Phase("idle", memory=True), Phase("loaded", Load(1), memory=True)]
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
        if profile != "quick":
            assert min(grid.trials for grid in grids) >= 6
