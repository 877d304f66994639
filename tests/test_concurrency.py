"""Concurrent jobs: what bursts show, where a knee is, what slots and queued tasks take; the reports."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from bench import discovery
from bench.errors import Unsupported
from bench.model import Cell, Load, Metric, Phase, Status, Variant, Workers
from bench.scenario import Phases
from bench.store import create, read_run
from reports import footprint, kneecharts, look, slotcharts
from reports.knees import Curve, Knee, Point, claim, curves, knee, tables, verdict
from reports.look import Chart
from reports.measured import Subject, measured
from scenarios.concurrency import SIZES, Concurrency, Ideal
from scenarios.memory import QUEUE, STEPS, Memory, per_queued_job
from tests.conftest import OneCell
from tests.test_reports import info
from tests.test_scenarios import MS, SECOND, figures, history, sample, task

SCENARIO = Concurrency()
DEFAULTS = SCENARIO.values({})
SYSTEM = discovery.systems()["reference"]


# --- the ideal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "slots", "clear_s", "latency_ms"),
    [
        (1, 1, 0.1, [0]),
        (3, 1, 0.3, [0, 100, 200]),
        (4, 2, 0.2, [0, 0, 100, 100]),
        (5, 2, 0.3, [0, 0, 100, 100, 200]),
        (3, 8, 0.1, [0, 0, 0]),
    ],
)
def test_ideal_slots_are_never_idle(jobs: int, slots: int, clear_s: float, latency_ms: list[float]) -> None:
    ideal = Ideal(jobs, slots, 0.1)
    assert ideal.clear_s == pytest.approx(clear_s)
    assert ideal.latency_ms == pytest.approx(latency_ms)


# --- what bursts show ---------------------------------------------------------------------------------


def burst(
    phase: int, starts_ms: Sequence[float | None], *, work_ms: float = 100, due_s: int = 1
) -> list[Any]:
    """Tasks that are due at one moment; each starts so many ms later, or never does."""
    due = due_s * SECOND
    return [
        task(phase, i, due=due)
        if at is None
        else task(phase, i, due=due, start=due + round(at * MS), end=due + round((at + work_ms) * MS))
        for i, at in enumerate(starts_ms)
    ]


def bursts(*starts_ms: Sequence[float | None], slots: int = 2, **params: Any) -> dict[str, Metric]:
    phases, events = [], []
    for number, starts in enumerate(starts_ms, start=1):
        phases += [Phase(f"rest {number}"), Phase(f"burst {number}", Load(len(starts), work="sleep:100"))]
        events += burst(2 * number, starts)
    made = dataclasses.replace(history(phases, events), slots=slots)
    return figures("concurrency", made, jobs=len(starts_ms[0]), **params)


def test_an_ideal_burst_has_the_ideal_latency_and_time() -> None:
    found = bursts([0, 0, 100, 100])
    assert found["slots"].value == 2
    assert found["efficiency"].value == pytest.approx(100)
    assert found["clear_time"].value == found["ideal_time"].value == pytest.approx(0.2)
    assert found["dispatch_latency_p95"].value == found["ideal_latency_p95"].value == pytest.approx(100)
    assert (found["success"].value, found["success"].n) == (100, 4)
    assert found["success"].low == pytest.approx(100 * 0.025 ** (1 / 4))


def test_figures_are_medians_of_the_bursts_and_not_of_their_tasks() -> None:
    """Three bursts of two tasks in two slots, of which the ideal is 100 ms: they take 100, 125 and 400 ms."""
    found = bursts([0, 0], [25, 25], [300, 300])
    assert found["clear_time"].value == pytest.approx(0.125)
    assert found["efficiency"].value == pytest.approx(80)
    assert (found["efficiency"].low, found["efficiency"].high) == pytest.approx((25, 100))
    assert (found["efficiency"].n, found["success"].n) == (3, 6)
    assert found["dispatch_latency_p50"].value == pytest.approx(25)
    assert found["dispatch_latency_max"].value == pytest.approx(300)


def test_percentiles_are_those_of_the_whole_burst() -> None:
    found = bursts([10 * i for i in range(101)], slots=1)
    assert found["dispatch_latency_p50"].value == pytest.approx(500)
    assert found["dispatch_latency_p95"].value == pytest.approx(950)


def test_a_burst_of_which_a_task_is_lost_is_never_cleared() -> None:
    found = bursts([0, 0, 100, None], [0, 0, 100, None])
    assert "efficiency" not in found
    assert "clear_time" not in found
    assert (found["success"].value, found["success"].n) == (75, 8)
    assert found["dispatch_latency_p95"].note == "2 of 8 tasks did not end"
    assert found["dispatch_latency_max"].value == pytest.approx(100)


def test_of_several_bursts_those_that_were_cleared_tell_the_efficiency_and_say_so() -> None:
    found = bursts([0, 0, 100, None], [0, 0, 100, 100])
    assert (found["efficiency"].value, found["efficiency"].n) == (pytest.approx(100), 1)
    assert found["efficiency"].note == "1 of 8 tasks did not end"


@pytest.mark.parametrize(("start_ms", "ok"), [(1100, 100.0), (1101, 75.0)])
def test_a_task_is_late_so_long_after_the_ideal_end(start_ms: float, ok: float) -> None:
    """Four tasks in four slots are ideally over after 100 ms."""
    assert bursts([0, 0, 0, start_ms], slots=4, grace_s=1.0)["success"].value == ok


def test_a_burst_of_which_nothing_ran_has_no_latency() -> None:
    found = bursts([None, None])
    assert set(found) == {"slots", "ideal_time", "ideal_latency_p95", "success"}
    assert found["success"].value == 0


# --- its phases ---------------------------------------------------------------------------------------


def through(steps: Phases, tasks: Callable[[Phase], pd.DataFrame]) -> list[Phase]:
    """All phases of a scenario, each answered with the tasks that its phase is said to have had."""
    phases = [next(steps)]
    with contextlib.suppress(StopIteration):
        while True:
            phases.append(steps.send(functools.partial(tasks, phases[-1])))
    return phases


def played(took_s: Sequence[float], *, heavy: bool = False, slots: int = 2, **params: Any) -> list[Phase]:
    """The phases of a cell whose bursts take so long."""
    lasts = iter(took_s)

    def tasks(phase: Phase) -> pd.DataFrame:
        assert phase.load is not None
        n, end = phase.load.n, round(next(lasts) * SECOND)
        return history([phase], [task(1, i, start=0, end=end * (i + 1) // n) for i in range(n)]).tasks

    return through(
        SCENARIO.phases(SCENARIO.values(params), Variant("v", max_slots=slots, heavy=heavy)), tasks
    )


@pytest.mark.parametrize(
    ("took_s", "n"), [([0.5] * 5, 5), ([4.0] * 5, 3), ([10.0], 1), ([9.9, 0.2], 2), ([50.0], 1)]
)
def test_no_burst_begins_when_those_before_took_long(took_s: list[float], n: int) -> None:
    phases = played(took_s, jobs=10)
    assert [phase.name for phase in phases if phase.load] == [f"burst {i + 1}" for i in range(n)]
    assert all(phase.load.n == 10 for phase in phases if phase.load)
    assert [phase.hold_s for phase in phases if not phase.load] == [1.0] * n


def test_a_burst_has_time_for_many_times_the_ideal() -> None:
    [_, phase] = played([50.0], jobs=1000)
    assert phase.limit_s == pytest.approx(120 + 10 * 50)


def test_a_heavy_variant_is_not_asked_for_what_would_take_too_long() -> None:
    """Its first four tasks end at one a second."""
    assert [phase.name for phase in played([4.0, 99.0], heavy=True, jobs=100)][:1] == ["first tasks"]
    with pytest.raises(Unsupported, match="1 tasks/s: 1000 of them would take too long"):
        played([4.0], heavy=True, jobs=1000)


@pytest.mark.parametrize(
    ("variant", "params", "why"),
    [
        (Variant("v"), {}, ""),
        (Variant("v", max_slots=4), {"slots": 4}, ""),
        (Variant("v", max_slots=4), {"slots": 5}, "it runs no more than 4 at once"),
        (Variant("v", queue_limit=100), {"jobs": 101}, "it holds at most 100 unfinished tasks"),
        (Variant("v", batch=True), {}, "its tasks are handed over in batches: see the variant that takes "),
        (Variant("v"), {"work": "noop"}, "a body of no length has no ideal: "),
    ],
)
def test_what_a_variant_cannot_be_asked(variant: Variant, params: Mapping[str, Any], why: str) -> None:
    found = SCENARIO.why_not(SYSTEM, variant, SCENARIO.values(params))
    assert found.startswith(why) if why else found == ""


def test_every_profile_asks_every_size_of_light_variants() -> None:
    sizes = {size["jobs"] for size in SIZES}
    assert sizes == {10, 30, 100, 300, 1000}
    for grids in SCENARIO.profiles.values():
        asked = {p["jobs"] for grid in grids if grid.fewer(Variant("v")) for p in grid.params if "jobs" in p}
        assert asked == sizes


def test_sizes_differ_in_nothing_else_or_they_would_make_no_curve() -> None:
    for grids in SCENARIO.profiles.values():
        for slots in (0, 10):
            sizes = [p for grid in grids for p in grid.params if "jobs" in p and p.get("slots", 0) == slots]
            assert len({frozenset(params.items()) - {("jobs", params["jobs"])} for params in sizes}) <= 1


# --- for real -----------------------------------------------------------------------------------------


def test_the_reference_runs_bursts_in_so_many_slots(one_cell: OneCell) -> None:
    params: dict[str, object] = {"jobs": 9, "slots": 3, "rounds": 2, "rest_s": 0.0, "work": "sleep:20"}
    result = one_cell("reference", SCENARIO, slots=1, params=params)
    assert (result.status, result.reason) == (Status.OK, "")
    assert result.details["slots"] == result.details["tasks_at_once"] == 3
    found = {metric.name: metric for metric in result.metrics}
    assert (found["success"].value, found["success"].n, found["tasks_ok"].value) == (100, 18, 18)
    assert (found["slots"].value, found["efficiency"].n) == (3, 2)
    assert found["ideal_time"].value == pytest.approx(0.06)
    assert found["negative_latencies"].value == 0
    # Of canaries in more than two slots, each sleeps 20 ms for every two of them.
    assert result.tasks is not None
    canaries = result.tasks[result.tasks["phase"] == 0]
    assert len(canaries) >= 12
    assert (canaries["end_ns"] - canaries["start_ns"]).min() >= 30 * MS
    # No body of 20 ms is over sooner, so no burst beats the ideal.
    assert 0 < found["efficiency"].value <= 100
    assert found["dispatch_latency_max"].value >= 40


@pytest.mark.parametrize(("variant", "ok"), [("thread-pool", 4), ("thread-pool-relaxed", 6)])
def test_apscheduler_drops_what_waits_for_more_than_a_second_unless_told_not_to(
    variant: str, ok: int, one_cell: OneCell
) -> None:
    """Six jobs of 600 ms in two slots: the last two could begin after 1.2 s."""
    params: dict[str, object] = {"jobs": 6, "rounds": 1, "rest_s": 0.0, "work": "sleep:600"}
    result = one_cell(f"apscheduler:{variant}", SCENARIO, params=params)
    assert (result.status, result.reason) == (Status.OK, "")
    found = {metric.name: metric for metric in result.metrics}
    assert (found["tasks_ok"].value, found["tasks_lost"].value) == (ok, 6 - ok)
    assert found["success"].value == pytest.approx(100 * ok / 6)
    assert ("efficiency" in found) == (ok == 6)


def test_a_queue_of_the_reference_takes_memory(one_cell: OneCell) -> None:
    params: dict[str, object] = {"queued": 1000, "idle_s": 0.1, "tasks": 20, "slots": 1}
    result = one_cell("reference", Memory(), params=params)
    assert (result.status, result.reason) == (Status.OK, "")
    found = {metric.name: metric for metric in result.metrics}
    assert {"pss_per_queued_job.client", "pss_per_queued_job.total"} <= found.keys()
    assert found["tasks_ok"].value == 1000 + 20
    assert result.details["slots"] == 1


# --- memory of what is queued ---------------------------------------------------------------------------


def queue_history(kb: Mapping[str, Sequence[float]], step: int = 100) -> Any:
    """A queue that grows by so many tasks in each second; PSS in kB by role at the edges of the steps."""
    n = len(next(iter(kb.values()))) - 1
    phases = [Phase(f"{QUEUE}{i + 1}", Load(step), Workers.DOWN, "queued") for i in range(n)]
    events = [
        task(i + 1, j, due=i * SECOND + 1, accepted=i * SECOND + 1) for i in range(n) for j in range(step)
    ]
    samples = []
    for i in range(n):
        for role, series in kb.items():
            begin, end = i * SECOND, i * SECOND + SECOND // 2
            samples.append(sample(f"{QUEUE}{i + 1}", "begin", begin, role, pss=series[i] * 1000, rss=1))
            samples.append(sample(f"{QUEUE}{i + 1}", "", begin + 2, role, pss=9e9, rss=1))
            samples.append(sample(f"{QUEUE}{i + 1}", "end", end, role, pss=series[i + 1] * 1000, rss=1))
    return history(phases, events, samples)


def test_a_queued_task_takes_what_each_role_grows_by() -> None:
    made = queue_history({"client": [5000.0] * 5, "broker": [1000 + 100 * 1.5 * i for i in range(5)]})
    found = {metric.name: metric for metric in per_queued_job(made)}
    assert set(found) == {f"pss_per_queued_job.{role}" for role in ("client", "broker", "total")}
    assert found["pss_per_queued_job.broker"].value == pytest.approx(1.5)
    assert found["pss_per_queued_job.total"].value == pytest.approx(1.5)
    assert found["pss_per_queued_job.client"].value == pytest.approx(0)
    assert found["pss_per_queued_job.broker"].unit == "kB"
    assert found["pss_per_queued_job.broker"].n == 5


def test_a_cell_without_a_queue_says_nothing_of_queued_tasks() -> None:
    assert list(per_queued_job(history([Phase("idle")]))) == []


def test_a_queue_is_no_longer_than_what_drains_in_time() -> None:
    """Twenty tasks in a second: of 10 000, in 10 s, 160 are queued, which is most of what would end."""
    scenario = Memory()
    steps = scenario.phases(scenario.values({"queued": 10_000, "tasks": 20, "most_s": 10.0}), Variant("v"))
    burst = history([Phase("b")], [task(1, i, start=0, end=SECOND * (i + 1) // 20) for i in range(20)])
    phases = through(steps, lambda phase: burst.tasks)
    queue = [phase for phase in phases if phase.name.startswith(QUEUE)]
    assert len(queue) == STEPS
    assert {phase.load.n for phase in queue if phase.load} == {16}
    assert {(phase.workers, phase.wait, phase.memory) for phase in queue} == {(Workers.DOWN, "queued", True)}
    assert (phases[-1].name, phases[-1].wait, phases[-1].ready) == ("drain", "drain", False)


# --- the knee -------------------------------------------------------------------------------------------


def points(*figures: tuple[int, float | None, int]) -> list[Point]:
    """Jobs, efficiency, and how many of as many tasks were not ok."""
    return [Point(jobs, efficiency, jobs - bad, jobs) for jobs, efficiency, bad in figures]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(10, 99, 0), (100, 99, 0), (1000, 99, 0)], Knee(None, 1000)),
        ([(10, 40, 0), (100, 40, 0), (1000, 40, 0)], Knee(None, 1000)),
        ([(10, 30, 0), (100, 90, 0), (1000, 99, 0)], Knee(None, 1000)),
        ([(10, 99, 0), (100, 80, 0), (1000, 79.3, 0)], Knee(None, 1000)),
        ([(10, 99, 0), (100, 90, 0), (1000, 79.1, 0)], Knee(1000, 100, "falling efficiency")),
        ([(10, 30, 0), (100, 90, 0), (1000, 71, 0)], Knee(1000, 100, "falling efficiency")),
        ([(10, 99, 0), (100, 99, 1), (1000, 99, 0)], Knee(100, 10, "tasks that were not ok")),
        ([(10, 99, 0), (100, None, 0)], Knee(100, 10, "tasks that were not ok")),
        ([(10, 99, 1), (100, 99, 0)], Knee(10, 0, "tasks that were not ok")),
        ([(1000, 50, 0), (10, 99, 0)], Knee(1000, 10, "falling efficiency")),
    ],
)
def test_a_knee_is_where_a_system_departs_from_what_it_did_with_fewer(
    found: list[tuple[int, float | None, int]], expected: Knee
) -> None:
    assert knee(points(*found)) == expected


APSCHEDULER = Subject("apscheduler", "thread-pool", "APScheduler", "timer", "none", True, True)


def curve(*trials: Sequence[tuple[int, float | None, int]], subject: Subject = APSCHEDULER) -> Curve:
    return Curve(subject, "", 2, tuple(tuple(points(*trial)) for trial in trials))


FINE = ((10, 99, 0), (100, 99, 0), (300, 99, 0))


def test_a_knee_is_told_with_its_trials() -> None:
    early, late = ((10, 99, 0), (100, 50, 0), (300, 50, 0)), ((10, 99, 0), (100, 99, 0), (300, None, 5))
    assert (curve(FINE, FINE).words, curve(FINE, FINE).support) == ("none up to 300", "in 2 of 2 trials")
    assert (curve(early).words, curve(early).support) == ("10\N{EN DASH}100", "in 1 of 1 trial")
    assert curve(((10, 99, 1), (30, 99, 0))).words == "10 or fewer"
    both = curve(early, late, FINE)
    assert (both.words, both.support) == ("10\N{EN DASH}300", "in 2 of 3 trials")
    assert both.why == "falling efficiency or tasks that were not ok"


@pytest.mark.parametrize(
    ("trials", "word"),
    [
        ((FINE,), "above"),
        ((((10, 99, 0), (100, 99, 0)),), "not comparable"),
        ((((10, 99, 0), (30, 10, 0)),), "below"),
        ((((30, 99, 0), (100, 10, 0)),), "within"),
        ((((100, 99, 0), (300, 10, 0)),), "within"),
        ((((300, 99, 0), (1000, 10, 0)),), "above"),
        ((FINE, ((10, 99, 0), (30, 10, 0))), "not comparable"),
    ],
)
def test_a_knee_is_held_against_the_published_one(trials: Any, word: str) -> None:
    """100 jobs, which stand for themselves and a tenth more or less."""
    figure = claim(APSCHEDULER)
    assert figure is not None
    assert str(verdict(curve(*trials), figure).word) == word


def test_only_apscheduler_has_a_published_knee() -> None:
    figure = claim(APSCHEDULER)
    assert figure is not None
    assert figure.bounds == pytest.approx((90, 110))
    assert claim(Subject("celery", "redis", "Celery", "task queue", "none", True, False)) is None


# --- reports --------------------------------------------------------------------------------------------

SIX = (10, 30, 100, 300, 1000)
SHARES = {
    ("apscheduler", "thread-pool"): lambda jobs: (None if jobs > 20 else 97.0, min(jobs, 22)),
    ("celery", "redis"): lambda jobs: (98 - 5 / jobs, jobs),
    ("rq", "redis"): lambda jobs: (70.0 if jobs < 1000 else 35.0, jobs),
    ("reference", "threads"): lambda jobs: (99.7, jobs),
}
"""Efficiency, and how many of a burst are ok."""


def metrics(jobs: int, slots: int, each: tuple[float | None, int]) -> list[Metric]:
    efficiency, ok = each
    ideal = Ideal(jobs, slots, 0.1)
    found = [
        Metric("slots", "count", slots, 1),
        Metric("ideal_time", "s", ideal.clear_s, 1),
        Metric("ideal_latency_p95", "ms", float(np.percentile(ideal.latency_ms, 95)), 1),
        Metric("success", "%", 100 * ok / jobs, jobs),
        Metric("dispatch_latency_p95", "ms", 1 + float(np.percentile(ideal.latency_ms[:ok], 95)), 2),
    ]
    if efficiency is not None:
        found.append(Metric("efficiency", "%", efficiency, 2, efficiency - 1, efficiency + 0.1))
        found.append(Metric("clear_time", "s", ideal.clear_s * 100 / efficiency, 2))
    return found


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials of each."""
    store = create(tmp_path_factory.mktemp("concurrency"), info())
    for (system, variant), each in SHARES.items():
        for trial in (1, 2):
            for jobs in SIX:
                cell = Cell(system, variant, "concurrency", {"jobs": jobs}, trial)
                store.write_cell(cell, Status.OK, "", metrics(jobs, 2, each(jobs)), {})
            for slots in (1, 2, 4, 8):
                cell = Cell(system, variant, "concurrency", {"slots": slots}, trial)
                store.write_cell(cell, Status.OK, "", metrics(100, slots, each(100)), {})
                pss, rss = 30 + 5 * slots + 0.1 * trial, 40 + 30 * slots + 0.1 * trial
                idle = [Metric("idle_pss.total", "MB", pss, 8), Metric("idle_rss.total", "MB", rss, 8)]
                cell = Cell(system, variant, "memory", {"slots": slots}, trial)
                store.write_cell(cell, Status.OK, "", idle, {})
            queue = [Metric("pss_per_queued_job.total", "kB", 1.5 + 0.1 * trial, 20, 1.4, 1.8)]
            store.write_cell(Cell(system, variant, "memory", {"queued": 9}, trial), Status.OK, "", queue, {})
    store.write_summary()
    return store.path


def drawn(path: Path, folder: Path) -> list[Chart | None]:
    folder.mkdir(exist_ok=True)
    run = read_run(path)
    rows, found = measured(run), curves(run)
    colours = look.colours([row.subject for row in rows])
    with mpl.rc_context(look.STYLE):
        return [
            kneecharts.knees(found, colours, folder),
            kneecharts.latencies(rows, found, colours, folder),
            slotcharts.time_by_slots(rows, colours, folder),
            slotcharts.memory_by_slots(rows, footprint.slopes(run), colours, folder),
        ]


def test_curves_are_of_the_cells_that_differ_in_their_jobs(run_path: Path) -> None:
    found = {curve.subject.key: curve for curve in curves(read_run(run_path))}
    assert set(found) == set(SHARES)
    assert {one.slots for one in found.values()} == {2}
    assert [len(one.trials) for one in found.values()] == [2] * 4
    words = {key: one.words for key, one in found.items()}
    assert words == {
        ("apscheduler", "thread-pool"): "10\N{EN DASH}30",
        ("celery", "redis"): "none up to 1,000",
        ("rq", "redis"): "300\N{EN DASH}1,000",
        ("reference", "threads"): "none up to 1,000",
    }
    assert found["apscheduler", "thread-pool"].success(1000).value == pytest.approx(0.022)


def test_the_table_says_the_knee_and_what_was_published(run_path: Path) -> None:
    [table] = tables(read_run(run_path))
    rows = {row["system"]: row for row in table.records}
    assert rows["apscheduler"]["published"] == "s3-threshold-apscheduler"
    assert rows["apscheduler"]["verdict"].startswith("below (with 2 slots: it names none)")
    assert (rows["apscheduler"]["knee_low"], rows["apscheduler"]["knee_high"]) == (10, 30)
    assert (rows["celery"]["knee_low"], rows["celery"]["up_to"], rows["celery"]["verdict"]) == (
        None,
        1000,
        "",
    )
    assert "in 2 of 2 trials" in [entry.sub for entry in table.groups[0].rows[0]]


def test_the_slopes_of_slots_and_queues_have_their_tables(run_path: Path) -> None:
    slots, queue = footprint.tables(read_run(run_path))
    rows = {(row["system"], row["kind"]): row for row in slots.records}
    assert rows["celery", "pss"]["value"] == pytest.approx(5, abs=0.1)
    assert rows["celery", "rss"]["value"] == pytest.approx(30, abs=0.1)
    assert rows["celery", "rss"]["verdict"] == "below"
    jobs = {row["system"]: row for row in queue.records}
    assert jobs["apscheduler"]["value"] == pytest.approx(1.65)
    assert jobs["apscheduler"]["verdict"].startswith("below")


def test_all_charts_are_drawn(run_path: Path, tmp_path: Path) -> None:
    charts = drawn(run_path, tmp_path)
    names = ["concurrency", "concurrency-latency", "concurrency-slots", "memory-slots"]
    assert [chart.name if chart else "" for chart in charts] == names
    [first, _, slots, _] = charts
    assert first is not None
    assert slots is not None
    assert "no figure: APScheduler · thread-pool (it lost tasks" in slots.alt
    assert "APScheduler · thread-pool: knee 10\N{EN DASH}30 (in 2 of 2 trials)" in first.alt
    assert "Celery · redis: knee none up to 1,000" in first.alt


def test_the_same_run_gives_the_same_charts(run_path: Path, tmp_path: Path) -> None:
    for one, other in zip(drawn(run_path, tmp_path / "a"), drawn(run_path, tmp_path / "b"), strict=True):
        assert one is not None
        assert other is not None
        assert one.svg.read_bytes() == other.svg.read_bytes()


def test_a_run_without_bursts_has_no_knees(tmp_path: Path) -> None:
    store = create(tmp_path / "run", info())
    store.write_cell(
        Cell("celery", "redis", "startup", {}, 1), Status.OK, "", [Metric("startup", "s", 1, 1)], {}
    )
    store.write_summary()
    assert curves(read_run(store.path)) == []
    assert drawn(store.path, tmp_path / "charts") == [None] * 4
    assert all(
        table.empty for table in [*tables(read_run(store.path)), *footprint.tables(read_run(store.path))]
    )
