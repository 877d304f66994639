"""The charts of latency against load, on made-up queues that went through the capacity scenario."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.model import Cell, Metric, Status
from bench.store import create, read_run
from reports import look
from reports.latencies import by_share
from reports.loadcurves import against_load, apart, distributions
from reports.look import Chart
from reports.measured import measured
from tests.test_capacity import SECOND, Queue, figures, played
from tests.test_reports import FAKES, info

PARAMS: dict[str, Any] = {"tasks": 200, "step_s": 0.5, "most_s": 1.0}
PARAMS_TEXT = "most_s=1.0 step_s=0.5 tasks=200"
QUEUES = {
    ("apscheduler", "thread-pool"): Queue(9000, wait_s=0.0003),
    ("apscheduler", "process-pool"): Queue(3000, wait_s=0.001),
    ("schedule", "poll-1s"): Queue(5000, look_s=1.0, ahead=True),
    ("celery", "redis"): Queue(1000, wait_s=0.002),
    ("dramatiq", "redis"): Queue(2600, wait_s=0.01),
    ("rq", "redis"): Queue(90, wait_s=0.004),
    ("reference", "threads"): Queue(8000),
}
NEVER = ("schedule", "poll-1s")
"""Looks once a second: no rate meets the objective."""

BEHIND = ("celery", "redis")
"""Its generator fell behind in the load of 50 % of every trial."""


def noted(key: tuple[str, str], metrics: Sequence[Metric]) -> list[Metric]:
    words = "invalid: generator fell behind (P99 lag 4.0 ms)"
    return [m.noted(words) if key == BEHIND and "_at50" in m.name else m for m in metrics]


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials of each."""
    store = create(tmp_path_factory.mktemp("capacity"), info())
    for key, queue in QUEUES.items():
        made = played(queue, loads=True, **PARAMS)
        for number, phase in made.phases.items():
            warmup_n = phase.load.warmup_n if phase.load else 0
            warmup = (made.tasks["phase"] == number) & (made.tasks["index"] < warmup_n)
            made.tasks.loc[warmup, "start_ns"] += 3600 * SECOND  # would be seen at once if it were counted
        for trial in (1, 2):
            cell = Cell(*key, "capacity", PARAMS, trial)
            metrics = noted(key, list(figures(made, **PARAMS).values()))
            store.write_cell(cell, Status.OK, "", metrics, {}, None, made.tasks)
    store.write_summary()
    return store.path


def drawn(path: Path, folder: Path) -> list[Chart | None]:
    folder.mkdir(exist_ok=True)
    run = read_run(path)
    rows = measured(run)
    colours = look.colours([row.subject for row in rows])
    with mpl.rc_context(look.STYLE):
        return [against_load(rows, colours, folder), distributions(run, rows, colours, folder)]


def test_latencies_by_share_are_those_of_the_measured_tasks_of_all_trials(run_path: Path) -> None:
    run = read_run(run_path)
    found = by_share(run, PARAMS_TEXT)
    assert set(found["rq", "redis"]) == {10, 30, 50, 70, 90}
    [first, _] = [r for r in run.cells if r["cell"]["system"] == "rq"]
    counts = {m["name"]: m["n"] for m in first["metrics"]}
    for percent, sample in found["rq", "redis"].items():
        assert len(sample) == 2 * counts[f"dispatch_latency_at{percent}_p95"]
        assert sample.max() < 60_000
        assert (np.diff(sample) >= 0).all()


def test_an_invalid_share_is_left_out_and_the_others_are_not(run_path: Path) -> None:
    found = by_share(read_run(run_path), PARAMS_TEXT)
    assert set(found[BEHIND]) == {10, 30, 70, 90}
    assert NEVER not in found
    assert by_share(read_run(run_path), "tasks=7") == {}


def test_both_charts_are_drawn_and_say_what_is_missing(run_path: Path, tmp_path: Path) -> None:
    charts = drawn(run_path, tmp_path)
    for chart in charts:
        assert chart is not None
        assert chart.svg.stat().st_size > 0
        assert chart.png.stat().st_size > 0
        words = chart.alt.replace(look.INDENT, "")
        assert "no figure: schedule · poll-1s (none was sustained, down to 50 tasks/s: P95 missed" in words
    [load, curves] = charts
    assert load is not None
    assert curves is not None
    assert (load.name, curves.name) == ("latency-load", "latency-load-distribution")
    assert "generator that fell behind (Celery · redis)" in load.alt.replace(look.INDENT, "")
    assert "Celery · redis at 50 % (invalid: generator fell behind" in curves.alt.replace(look.INDENT, "")


def test_the_same_run_gives_the_same_bytes(run_path: Path, tmp_path: Path) -> None:
    for one, other in zip(drawn(run_path, tmp_path / "a"), drawn(run_path, tmp_path / "b"), strict=True):
        assert one is not None
        assert other is not None
        assert one.svg.read_bytes() == other.svg.read_bytes()
        assert one.png.read_bytes() == other.png.read_bytes()


def test_of_a_summary_alone_p95_is_drawn_and_the_distributions_are_not(
    run_path: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "cells")
    load, curves = drawn(tmp_path / "run", tmp_path)
    assert load is not None
    assert curves is None


def test_a_run_without_the_scenario_has_neither(tmp_path: Path) -> None:
    store = create(tmp_path, info(FAKES[4:5]))
    metrics = [Metric("throughput", "tasks/s", 900.0, 1000)]
    store.write_cell(Cell("celery", "redis", "throughput", {}, 1), Status.OK, "", metrics, {})
    store.write_summary()
    assert drawn(store.path, tmp_path / "charts") == [None, None]


def test_where_nothing_is_sustained_nothing_is_drawn(run_path: Path, tmp_path: Path) -> None:
    store = create(tmp_path, info())
    metrics = list(figures(played(QUEUES[NEVER], **PARAMS), **PARAMS).values())
    store.write_cell(Cell(*NEVER, "capacity", PARAMS, 1), Status.OK, "", metrics, {})
    store.write_summary()
    assert drawn(store.path, tmp_path / "charts") == [None, None]


@given(st.lists(st.floats(0, 3), max_size=12))
def test_names_keep_their_order_and_their_distance(wanted: Sequence[float]) -> None:
    wanted = sorted(wanted, reverse=True)
    places = apart(wanted, 0.2, 0.1, 3.0)
    assert all(upper - lower >= 0.2 - 1e-9 for upper, lower in itertools.pairwise(places))
    assert all(place >= 0.1 - 1e-9 for place in places)


def test_names_that_have_room_stay_where_they_are() -> None:
    assert apart([2.5, 1.0, 0.5], 0.2, 0.1, 3.0) == [2.5, 1.0, 0.5]
