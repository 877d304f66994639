"""The capacity scenario: its judgement of a load, its search, and what it makes of a whole history.

The systems are made up: a queue that serves tasks one after another, each in the same time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.agent import pacer
from bench.errors import Unsupported
from bench.model import AHEAD_S, Arrival, Load, Metric, Phase, Status, Variant
from bench.openloop import LEAST_OFFERED, Limit, Verdict, at_once, backlog_grew, judge, remarks
from bench.scenario import History
from bench.summary import summary_rows
from scenarios.capacity import CLOSE, FIRST, LEAST, MOST_TASKS, PERCENTS, Capacity, next_hz, sustainable_rate
from tests.conftest import OneCell

SECOND = 1_000_000_000
OBJECTIVE_MS = 250.0


@dataclass(frozen=True)
class Queue:
    """`hz` tasks a second in order of arrival, `wait_s` after being handed over, or at the next look.

    The client sends at most `client_hz`; tasks that would start more than `grace_s` late are dropped.
    """

    hz: float
    wait_s: float = 0.0
    look_s: float = 0.0
    client_hz: float = math.inf
    grace_s: float = math.inf
    ahead: bool = False

    def run(self, load: Load, phase: int = 1) -> pd.DataFrame:
        """The columns of `ledger.per_task` that the judgement reads."""
        send = np.array(pacer.offsets_ns(load), np.float64) / SECOND
        due = send + (AHEAD_S if self.ahead else 0)
        submit = in_order(send, 1 / self.client_hz)
        ready = np.maximum(submit, due) + self.wait_s
        if self.look_s:
            ready = np.ceil(ready / self.look_s) * self.look_s
        start = in_order(ready, 1 / self.hz)
        lost = start - due > self.grace_s
        frame = pd.DataFrame({"phase": phase, "index": np.arange(load.n), "submits": 1, "accepted": 1})
        frame["starts"] = frame["ends"] = np.where(lost, 0, 1)
        frame["fails"], frame["fail_ns"] = 0, pd.array([None] * load.n, "Int64")
        for name, at in {"due": due, "submit": submit, "accepted": submit}.items():
            frame[f"{name}_ns"] = pd.array(np.rint(at * SECOND).astype(np.int64), "Int64")
        for name, at in {"start": start, "end": start + 1 / self.hz}.items():
            frame[f"{name}_ns"] = pd.arrays.IntegerArray(np.rint(at * SECOND).astype(np.int64), lost.copy())
        return frame


def in_order(ready: np.ndarray, each_s: float) -> np.ndarray:
    """When each can begin that has to wait for all before it, which take `each_s`."""
    before = np.arange(len(ready)) * each_s
    return np.asarray(np.maximum.accumulate(ready - before) + before)


def paced(rate_hz: float, n: int = 1000, arrival: Arrival = Arrival.POISSON) -> Load:
    return Load(n, arrival, rate_hz, warmup_n=n // 5)


# --- the judgement ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "limit"),
    [
        (Queue(1000), None),
        (Queue(105), None),
        (Queue(95), Limit.BACKLOG),
        (Queue(50), Limit.BACKLOG),
        (Queue(1000, wait_s=0.24), None),
        (Queue(1000, wait_s=0.26), Limit.LATE),
        (Queue(90, grace_s=0.5), Limit.LOST),
        (Queue(1000, client_hz=90), Limit.CLIENT),
        (Queue(1000, client_hz=97), Limit.GENERATOR),
        (Queue(1000, client_hz=99), None),
    ],
)
def test_a_rate_is_sustained_or_has_a_limit(queue: Queue, limit: Limit | None) -> None:
    load = paced(100, arrival=Arrival.CONSTANT)
    found = judge(queue.run(load), load, OBJECTIVE_MS)
    assert (found.limit, found.sustained) == (limit, limit is None)
    assert (found.rate_hz, found.n) == (100, 800)


def test_p95_is_that_of_the_measured_tasks_from_their_due_time() -> None:
    load = paced(100, 100, Arrival.CONSTANT)
    tasks = Queue(1000).run(load)
    tasks["start_ns"] = tasks["due_ns"] + (tasks["index"] - 19) * 1_000_000  # measured: 1, 2, ... 80 ms
    assert judge(tasks, load, OBJECTIVE_MS).p95_ms == pytest.approx(1 + 0.95 * 79)


def test_one_task_that_never_ended_is_enough_even_of_the_warm_up() -> None:
    load = paced(100)
    for index in (0, 999):
        tasks = Queue(1000).run(load)
        tasks.loc[index, "ends"] = 0
        assert judge(tasks, load, OBJECTIVE_MS).limit is Limit.LOST


def test_a_task_that_was_never_sent_is_lost() -> None:
    load = paced(100)
    assert judge(Queue(1000).run(load).iloc[:-1], load, OBJECTIVE_MS).limit is Limit.LOST


def test_where_nothing_started_nothing_is_sustained() -> None:
    load = paced(100)
    found = judge(Queue(1000, grace_s=-1).run(load), load, OBJECTIVE_MS)
    assert (found.limit, math.isnan(found.p95_ms)) == (Limit.LOST, True)


def test_an_objective_that_is_just_met_is_met() -> None:
    load = paced(100, arrival=Arrival.CONSTANT)
    tasks = Queue(1000).run(load)
    tasks["start_ns"] = tasks["due_ns"] + 250_000_000
    assert judge(tasks, load, 250.0).sustained
    assert judge(tasks, load, 249.0).limit is Limit.LATE


@pytest.mark.parametrize(("hz", "grows"), [(1000, False), (150, False), (90, True), (60, True)])
def test_a_backlog_that_goes_up_and_down_every_second_only_grows_when_its_trend_does(
    hz: float, grows: bool
) -> None:
    """As of a system that looks for work once a second."""
    for arrival in Arrival.CONSTANT, Arrival.POISSON:
        load = paced(100, 430, arrival)
        tasks = Queue(hz, look_s=1.0).run(load)
        assert backlog_grew(tasks, int(tasks["due_ns"].iloc[load.warmup_n])) is grows


def test_a_backlog_that_the_warm_up_left_and_that_shrinks_does_not_grow() -> None:
    load = paced(100, arrival=Arrival.CONSTANT)
    tasks = Queue(110).run(load)
    tasks.loc[:150, "end_ns"] = tasks["end_ns"].iloc[200]
    assert not backlog_grew(tasks, int(tasks["due_ns"].iloc[200]))


def test_what_runs_at_once() -> None:
    def spans(*ends: tuple[int, int], starts: object = 1) -> int:
        frame = pd.DataFrame(ends, columns=["start_ns", "end_ns"], dtype="Int64")
        return at_once(frame.assign(starts=starts))

    assert spans() == 0
    assert spans((0, 5), (5, 9)) == 1
    assert spans((0, 5), (4, 9), (1, 2)) == 2
    assert spans((0, 5), (1, 5), (2, 5), (6, 9)) == 3
    # One ran again: its first start and its end may be of two runs.
    assert spans((0, 9), (1, 5), (6, 9), starts=[2, 1, 1]) == 1


@given(st.floats(1, 50_000), st.floats(0.3, 3), st.integers(-(10**15), 10**15), st.randoms())
@settings(max_examples=60, deadline=None)
def test_a_verdict_depends_neither_on_when_it_was_nor_on_the_order_of_rows(
    rate_hz: float, times: float, shift_ns: int, random: Any
) -> None:
    load = paced(rate_hz, 500)
    tasks = Queue(rate_hz * times).run(load)
    order = list(range(load.n))
    random.shuffle(order)
    moved = tasks.iloc[order].copy()
    for name in ("due", "submit", "accepted", "start", "end"):
        moved[f"{name}_ns"] += shift_ns
    assert judge(moved, load, OBJECTIVE_MS) == judge(tasks, load, OBJECTIVE_MS)


@given(st.floats(3, 100_000), st.floats(1.3, 100), st.sampled_from([Arrival.CONSTANT, Arrival.POISSON]))
@settings(max_examples=60, deadline=None)
def test_three_quarters_of_what_is_possible_is_sustained_and_four_thirds_are_not(
    rate_hz: float, times: float, arrival: Arrival
) -> None:
    """Where tasks take so long that few of them queue up to more than the objective, an hour will do."""
    load = paced(rate_hz, 2000, arrival)
    assert judge(Queue(rate_hz * times).run(load), load, 3_600_000.0).sustained
    assert judge(Queue(rate_hz / times).run(load), load, 3_600_000.0).limit is Limit.BACKLOG


def test_what_speaks_against_latencies_is_said() -> None:
    load = paced(100, arrival=Arrival.CONSTANT)
    assert remarks(Queue(1000).run(load), load, 0) == []
    assert remarks(Queue(1000, ahead=True).run(load), load, AHEAD_S) == []
    assert remarks(Queue(80).run(load), load, 0) == [
        "invalid: overloaded, latency grew all the time at 100 tasks/s"
    ]
    dropping = remarks(Queue(90, grace_s=0.5).run(load), load, 0)
    assert dropping[-1].endswith("of 800 tasks never started")
    slow = Queue(1000, client_hz=100 * LEAST_OFFERED * 0.98).run(load)
    slow["accepted_ns"] = slow["submit_ns"].shift(-1).fillna(slow["submit_ns"].max())  # it is in the calls
    assert remarks(slow, load, 0)[0] == "invalid: the client could offer only 93% of 100 tasks/s"


def test_a_call_of_the_warm_up_that_blocks_is_not_blamed_on_the_generator() -> None:
    """The last call before the measured part takes 400 ms; what is due meanwhile is sent when it returns."""
    load = paced(100, 100, Arrival.CONSTANT)
    tasks = Queue(1000).run(load)
    due_ms = 10.0 * np.arange(load.n)
    submit_ms = np.where((due_ms > 190) & (due_ms < 590), 590, due_ms)
    for name, at_ms in {"submit": submit_ms, "accepted": submit_ms + np.where(due_ms == 190, 400, 0)}.items():
        tasks[f"{name}_ns"] = pd.array(np.rint(at_ms * 1e6).astype(np.int64), "Int64")
    tasks["start_ns"] = tasks["accepted_ns"] + 1
    assert remarks(tasks, load, 0) == []
    assert "generator fell behind" in remarks(tasks[tasks["index"] >= load.warmup_n], load, 0)[0]


def test_a_generator_that_stopped_says_nothing_of_the_system() -> None:
    """A step that fails only because nothing was sent for 600 ms is tried again."""
    load = paced(100, 500, Arrival.CONSTANT)
    tasks = Queue(1000).run(load)
    due_ms = 10.0 * np.arange(load.n)
    sent_ms = np.where((due_ms >= 3000) & (due_ms < 3600), 3600, due_ms)
    for name in ("submit", "accepted", "start", "end"):
        tasks[f"{name}_ns"] = pd.array(np.rint(sent_ms * 1e6).astype(np.int64), "Int64")
    found = judge(tasks, load, OBJECTIVE_MS)
    assert found.limit is Limit.GENERATOR
    assert next_hz([found], 125) == FIRST * 125
    assert sustainable_rate([found], OBJECTIVE_MS).note == "invalid: the generator fell behind in every step"


# --- the search -------------------------------------------------------------------------------------


def played(queue: Queue, loads: bool = False, **params: Any) -> History:
    """What the scenario records of a queue; without `loads` only up to the end of the search."""
    scenario = Capacity()
    steps = scenario.phases(scenario.values(params), Variant("v"))
    phases: list[Phase] = []
    frames: list[pd.DataFrame] = []
    try:
        phase = next(steps)
        while loads or not phase.name.startswith("load"):
            assert phase.load is not None
            frames.append(queue.run(phase.load, len(phases) + 1))
            phases.append(phase)
            phase = steps.send(functools.partial(frames.__getitem__, len(phases) - 1))
    except StopIteration:
        pass
    tasks = pd.concat(frames, ignore_index=True)
    return History(tasks, pd.DataFrame(), dict(enumerate(phases, 1)), {}, queue.ahead, "cgroup2")


def figures(made: History, **params: Any) -> dict[str, Metric]:
    scenario = Capacity()
    return {metric.name: metric for metric in scenario.metrics(made, scenario.values(params))}


def rate_of(queue: Queue, **params: Any) -> Metric:
    return figures(played(queue, **params), **params)["sustainable_rate"]


@given(st.floats(3, 100_000))
@settings(max_examples=25, deadline=None)
def test_the_bracket_holds_the_capacity(hz: float) -> None:
    """At its lower end up to 6 %: so little too much, for a few seconds, is neither late nor a trend."""
    found = rate_of(Queue(hz), arrival="constant")
    assert found.value == found.low
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 1.06 * hz
    assert found.high >= 0.999 * hz
    assert found.high <= CLOSE * found.low * 1.0001
    assert "lower bound" not in found.note
    assert found.note.startswith(f"limit: {Limit.BACKLOG}") or Limit.LATE in found.note


@pytest.mark.parametrize("hz", [200, 2000, 20_000, 100_000])
def test_the_bracket_is_near_the_capacity_with_random_arrivals(hz: float) -> None:
    found = rate_of(Queue(hz))
    assert found.high is not None
    assert 0.8 * hz <= found.high
    assert found.value <= 1.06 * hz


def test_a_client_that_is_slower_than_the_system_is_the_limit() -> None:
    found = rate_of(Queue(5000, client_hz=700), arrival="constant")
    assert found.value == pytest.approx(700, rel=0.12)
    assert found.note == f"limit: {Limit.CLIENT}"


def test_a_system_that_drops_what_is_late_is_limited_by_that() -> None:
    found = rate_of(Queue(800, grace_s=0.1), arrival="constant")
    assert found.value == pytest.approx(800, rel=0.12)
    assert found.note == f"limit: {Limit.LOST}"


def test_where_the_objective_is_not_met_at_any_rate_there_is_no_figure() -> None:
    found = rate_of(Queue(5000, look_s=1.0, ahead=True))
    assert (found.value, found.low, found.high) == (0, 0, 50)
    assert found.note.startswith("none was sustained, down to 50 tasks/s")
    assert f": {Limit.LATE} of 250 ms, it was 9" in found.note  # about 0.95 of a second
    names = {phase.name for phase in played(Queue(5000, look_s=1.0, ahead=True), loads=True).phases.values()}
    assert not any(name.startswith("load") for name in names)


def test_another_objective_finds_the_rate_of_the_same_system() -> None:
    found = rate_of(Queue(3000, look_s=1.0, ahead=True), p95_ms=1500.0, arrival="constant")
    assert found.high is not None
    assert found.high >= 0.8 * 3000
    assert found.value <= 1.2 * 3000


def test_a_system_that_is_told_ahead_is_asked_no_rate_at_which_a_step_is_shorter_than_the_lead() -> None:
    made = played(Queue(90_000, ahead=True))
    steps = [phase.load for phase in made.phases.values() if phase.name.startswith("step")]
    for load in steps:
        assert load is not None
        assert load.n / load.rate_hz >= 3 * AHEAD_S
    found = figures(made)["sustainable_rate"]
    assert found.value == pytest.approx(MOST_TASKS / 3)
    assert (found.high, found.note) == (None, "lower bound: all that was offered was sustained")


@pytest.mark.parametrize(("hz", "asked"), [(1.04, False), (1.05, True)])
def test_a_system_of_which_no_step_would_end_in_a_minute_is_asked_none(hz: float, asked: bool) -> None:
    """The first step, of 50 tasks at 0.8 of what the burst reached, would take longer."""
    if asked:
        assert len(played(Queue(hz), steps=1).phases) > 1
        return
    with pytest.raises(Unsupported, match=r"^a burst reached 1 tasks/s: 50 tasks, a step, would take too"):
        played(Queue(hz))


def test_used_up_steps_are_told() -> None:
    found = rate_of(Queue(1000), arrival="constant", steps=3)
    assert found.note.startswith(f"limit: {Limit.BACKLOG}; lower bound: the steps were used up, 1")
    assert found.low == pytest.approx(1000)
    assert found.high == pytest.approx(1250)


def test_few_tasks_are_told() -> None:
    assert rate_of(Queue(20), arrival="constant").note.endswith("n < 200")
    assert "n <" not in rate_of(Queue(1000), arrival="constant").note


def test_a_history_without_a_step_has_no_rate() -> None:
    found = sustainable_rate([], OBJECTIVE_MS)
    assert math.isnan(found.value)


def oracle(capacity_hz: float, burst_hz: float, steps: int = 40) -> list[Verdict]:
    """The search against something that sustains every rate up to one and none above."""
    tried: list[Verdict] = []
    while len(tried) < steps and (rate := next_hz(tried, burst_hz)):
        tried.append(Verdict(rate, 100, 1.0, None if rate <= capacity_hz else Limit.BACKLOG))
    return tried


@given(st.floats(1, 1e6), st.floats(0.02, 20))
def test_the_search_closes_in_wherever_the_capacity_lies(burst_hz: float, share: float) -> None:
    tried = oracle(burst_hz * share, burst_hz)
    good = max((one.rate_hz for one in tried if one.sustained), default=0.0)
    bad = min((one.rate_hz for one in tried if not one.sustained), default=math.inf)
    if good:
        assert good <= burst_hz * share <= bad <= CLOSE * good
        assert len(tried) <= 20
    else:  # no rate is tried at which a step would take more than a minute
        assert burst_hz * share <= 50 / 60


@given(st.floats(1, 1e6))
def test_the_search_gives_up_at_a_hundredth_of_the_burst(burst_hz: float) -> None:
    tried = oracle(0.0, burst_hz)
    assert tried[-1].rate_hz == pytest.approx(min(max(LEAST * burst_hz, 50 / 60), 0.8 * burst_hz))
    assert len(tried) <= 6


@given(st.floats(1, 1e6), st.floats(0.02, 20))
def test_no_rate_is_far_above_one_that_was_sustained(burst_hz: float, share: float) -> None:
    """A backlog that a step leaves must drain in little time."""
    good = 0.8 * burst_hz
    for one in oracle(burst_hz * share, burst_hz):
        assert one.rate_hz <= 1.2501 * good
        good = max(good, one.rate_hz) if one.sustained else good


# --- bursts and loads -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hz", "sizes"),
    [(3, [20]), (100, [20, 100]), (1000, [20, 200, 1000]), (1e6, [20, 200, 2000, 20_000, 50_000])],
)
def test_bursts_grow_until_they_last(hz: float, sizes: Sequence[int]) -> None:
    found = [
        phase.load.n for phase in played(Queue(hz)).phases.values() if phase.load and "burst" in phase.name
    ]
    assert found == pytest.approx(list(sizes), abs=1)


def test_a_queue_that_holds_little_is_not_overfilled_by_a_burst() -> None:
    scenario = Capacity()
    steps = scenario.phases(scenario.values({}), Variant("v", queue_limit=100))
    sizes = []
    phase = next(steps)
    while phase.name.startswith("burst"):
        assert phase.load is not None
        sizes.append(phase.load.n)
        phase = steps.send(functools.partial(Queue(1e5).run, phase.load))
    assert sizes == [20, 100]


def test_the_loads_are_shares_of_the_rate_that_was_found() -> None:
    made = played(Queue(1000), loads=True, arrival="constant")
    found = figures(made)
    best = found["sustainable_rate"].value
    loads = {phase.name: phase.load for phase in made.phases.values()}
    for percent in PERCENTS:
        load = loads[f"load {percent} %"]
        assert load is not None
        assert load.rate_hz == pytest.approx(best * percent / 100)
        assert load.n - load.warmup_n >= 1000
        assert found[f"offered_rate_at{percent}"].value == pytest.approx(load.rate_hz)
        p95 = found[f"dispatch_latency_at{percent}_p95"]
        assert (p95.unit, p95.n, p95.note) == ("ms", load.n - load.warmup_n, "")


def test_a_share_of_a_slow_rate_is_offered_for_a_limited_time_and_its_figures_are_marked() -> None:
    found = figures(played(Queue(20), loads=True, arrival="constant"))
    assert found["dispatch_latency_at10_p95"].n < 50
    assert "n < 1000" in found["dispatch_latency_at10_p95"].note


def test_latencies_of_a_load_that_was_lost_in_part_say_so() -> None:
    made = played(Queue(1000), loads=True, arrival="constant")
    last = made.tasks["phase"] == made.number("load 90 %")
    lost = made.tasks.index[last][-10:]
    made.tasks.loc[lost, ["starts", "ends"]] = 0
    assert "10 of " in figures(made)["dispatch_latency_at90_p95"].note
    assert "never started" not in figures(made)["dispatch_latency_at70_p95"].note


def test_over_trials_the_largest_latency_is_the_maximum_and_p95_the_median() -> None:
    def record(trial: int, ms: float) -> Mapping[str, Any]:
        names = ("dispatch_latency_at30_p95", "dispatch_latency_at30_max")
        metrics = [
            {"name": n, "unit": "ms", "value": ms, "low": None, "high": None, "n": 9, "note": ""}
            for n in names
        ]
        cell = {"system": "s", "variant": "v", "scenario": "capacity", "params": {}, "trial": trial}
        return {"cell": cell, "status": "ok", "reason": "", "metrics": metrics}

    made = figures(played(Queue(1000), loads=True, arrival="constant"))
    assert {"dispatch_latency_at30_p95", "dispatch_latency_at30_max"} <= made.keys()
    rows = summary_rows("r", [record(1, 1.0), record(2, 2.0), record(3, 9.0)])
    values = {row["metric"]: row["value"] for row in rows if row["trial"] == ""}
    assert values == {"dispatch_latency_at30_p95": 2.0, "dispatch_latency_at30_max": 9.0}


def test_it_runs_for_real(one_cell: OneCell) -> None:
    params: dict[str, object] = {"step_s": 0.1, "steps": 4, "tasks": 50, "most_s": 0.1}
    result = one_cell("reference", Capacity(), params=params)
    assert (result.status, result.reason) == (Status.OK, "")
    found = {metric.name: metric for metric in result.metrics}
    assert found["tasks_lost"].value == found["tasks_unexpected"].value == 0
    assert "sustainable_rate" in found
    if not math.isnan(found["sustainable_rate"].value):  # else the machine was too busy for any rate
        assert {f"dispatch_latency_at{percent}_p95" for percent in PERCENTS} <= found.keys()
