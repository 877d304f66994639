"""A calibration as it is made for every run, with smaller loads: its structure, failures and Ctrl-C."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import calibration, costs, discovery, floors, harness, probe_cost, services, stats
from bench.errors import CellError, Unsupported
from bench.harness import Home
from bench.model import Load, Metric

ROOT = Path(__file__).resolve().parent.parent

SMALL: list[tuple[Any, str, Any]] = [
    (floors, "DRAINED", {"tasks": 300}),
    (floors, "PACED", {"rate": 400.0, "tasks": 40, "warmup_s": 0.0}),
    (floors, "BURST", Load(100, work="cpu:0.2")),
    (calibration, "FLOOR_TRIALS", 1),
]

ROWS = [
    *(("timer", name) for name in ("clock_step", "clock_read", "sleep_late_p50", "sleep_late_p99")),
    ("probe", "cost_per_task"),
    ("sampler", "throughput_on_off"),
    ("sampler", "look_with_memory"),
    *((name, metric) for name in ("reference", "floor_pipe", "floor_redis") for metric in floors.METRICS),
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name, value in SMALL:
        monkeypatch.setattr(place, name, value)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path, list[str]]]:
    """One real calibration, its folder, and what it said."""
    folder, said, home = tmp_path_factory.mktemp("calibration") / "own", list[str](), Home()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for place, name, value in SMALL:
                patch.setattr(place, name, value)
            yield calibration.measure(home, folder, said.append, slots=2), folder, said
    finally:
        home.close()


def test_a_calibration_has_every_row_finite_and_in_order(measured) -> None:
    found, _, _ = measured
    assert [(row["name"], row["metric"]) for row in found["rows"]] == ROWS
    redis, why = services.available("redis")
    for row in found["rows"]:
        assert set(row) == {"name", "metric", "unit", "value", "low", "high", "n", "note"}
        if row["name"] == "floor_redis" and not redis:
            assert row["value"] is None
            assert why in row["note"]
            continue
        assert math.isfinite(row["value"]), row
        assert row["n"] > 0
        if row["low"] is not None:
            assert row["low"] <= row["value"] <= row["high"], row
    json.dumps(found, allow_nan=False)


def test_its_intervals_across_trials_say_when_they_are_not_95_percent(measured) -> None:
    found, _, _ = measured
    rows = {(row["name"], row["metric"]): row for row in found["rows"]}
    assert rows["reference", "throughput"]["n"] == 2 * calibration.AA_TRIALS
    assert "covers" not in rows["reference", "throughput"]["note"]
    assert "interval of 1 trials covers 0%" in rows["floor_pipe", "throughput"]["note"]
    assert "n < 1000" in rows["reference", "dispatch_latency_p95"]["note"]


def test_it_compares_the_reference_with_itself(measured) -> None:
    aa = measured[0]["aa"]
    assert (aa["system"], aa["trials"], aa["n"]) == ("reference", 5, 4)
    assert [row["metric"] for row in aa["comparisons"]] == list(floors.METRICS)
    for row in aa["comparisons"]:
        assert row["low"] <= row["ratio"] <= row["high"]
        assert row["ratio"] == pytest.approx(row["a"] / row["b"])
        assert 0 < row["p"] <= row["p_adjusted"] <= 1
    assert aa["different"] == sum(row["word"] == "different" for row in aa["comparisons"])


def test_it_tells_each_step_and_leaves_nothing_of_what_went_well(measured) -> None:
    found, folder, said = measured
    assert [path.name for path in folder.iterdir()] == ["reference_twin.py"]
    assert [text for text in said if text.startswith("A/A")] == [f"A/A: trial {i} of 5" for i in range(1, 6)]
    assert said[0] == "timer"
    assert found["seconds"] > 0


@pytest.mark.usefixtures("small")
def test_many_comparisons_of_one_system_with_itself(home: Home, tmp_path: Path) -> None:
    found = calibration.aa(home, tmp_path / "aa", lambda _: None, comparisons=5, trials=2, slots=1)
    assert (found["n"], found["different"], found["uncorrected"]) == (8, 0, 0)
    assert [row["pair"] for row in found["comparisons"]] == [1] * 4 + [2] * 4
    assert {row["word"] for row in found["comparisons"]} == {"unclear"}
    bound = stats.proportion_interval(0, 8)
    assert (found["share"], found["low"], found["high"]) == (0, bound.low, bound.high)


@pytest.mark.usefixtures("small")
def test_parts_that_fail_say_why_and_cost_nothing_else(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe cannot run, a cell dies and keeps its logs, Redis is not here, a part of ours is wrong."""
    monkeypatch.setattr(probe_cost, "__name__", "bench.no_such_module")
    monkeypatch.setattr(floors, "BURST", Load(5, work="raise"))
    monkeypatch.setattr(services.Provision, "available", lambda *_: (False, "install redis-server"))
    monkeypatch.setattr(costs, "look", lambda *_: 1 / 0)
    monkeypatch.setattr(calibration, "AA_TRIALS", 2)
    found = calibration.measure(home, tmp_path, lambda _: None, slots=1)
    rows = {(row["name"], row["metric"]): row for row in found["rows"]}
    assert list(rows) == ROWS
    assert "No module named bench.no_such_module" in rows["probe", "cost_per_task"]["note"]
    assert rows["floor_redis", "throughput"]["note"].startswith("install redis-server")
    assert "ZeroDivisionError" in rows["sampler", "look_with_memory"]["note"]
    assert "ZeroDivisionError" in (tmp_path / "sampler.log").read_text()
    failed = {key for key, row in rows.items() if row["value"] is None}
    assert failed == {row for row in ROWS if row[0] in ("probe", "sampler", "floor_redis")}
    assert found["aa"]["n"] == 4


def test_a_cell_that_did_not_end_well_is_an_error_that_names_it_and_keeps_its_logs(
    home: Home, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.py"
    text = (discovery.folder_of("adapters") / "reference.py").read_text()
    broken.write_text(text.replace("self.queue.put(task)", "raise OSError('no room')"))
    cells = floors.Cells(home, tmp_path, lambda _: None, 1, 1)
    with pytest.raises(CellError, match=r"broken ended as error: .*no room"):
        cells.run(discovery.load(broken), floors.Floor())
    assert list(tmp_path.glob("broken.*/logs/client-*.log"))


def test_a_floor_without_its_service_is_unsupported(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.Provision, "available", lambda *_: (False, "install redis-server"))
    with pytest.raises(Unsupported, match="install redis-server"):
        floors.Cells(home, tmp_path, lambda _: None, 1, 1).floor("floor_redis", 1)


def trial(value: float, note: str = "") -> dict[str, Metric]:
    return {name: Metric(name, unit, value, 10, note=note) for name, unit in floors.METRICS.items()}


def test_an_invalid_trial_is_left_out_of_a_floor_and_told() -> None:
    trials = [trial(float(i)) for i in range(1, 7)]
    row = calibration._over_trials("x", [*trials, trial(999.0, "invalid: generator fell behind")])[0]
    assert (row["value"], row["n"], row["note"]) == (3.5, 6, "1 of 7 trials left out as invalid")
    only = calibration._over_trials("x", [trial(999.0, "invalid: generator fell behind")])[0]
    assert only["value"] == 999.0
    assert only["note"].startswith("invalid: generator fell behind")


def test_remarks_that_differ_in_their_numbers_only_are_told_once() -> None:
    assert calibration._joined(["joined after 8%; n < 1000", "", "joined after 9%"]) == (
        "joined after 8%; n < 1000"
    )


def test_the_body_without_stamps_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: 1 call to open the ledger, then 2 rounds of 3 calls with two stamps each."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.probe_cost", "2", "3"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "SCHEDBENCH_LEDGER": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(done.stdout)) == 2
    (ledger,) = tmp_path.glob("*.events")
    assert ledger.stat().st_size == (1 + 2 * 3) * 2 * 32


INTERRUPTED = """
import sys
from pathlib import Path
from bench import calibration
from bench.harness import Home
home = Home()
print(home.name, flush=True)
try:
    calibration.measure(home, Path(sys.argv[1]), lambda text: print(text, flush=True))
except KeyboardInterrupt:
    print("interrupted", flush=True)
finally:
    home.close()
"""


def test_ctrl_c_passes_through_and_nothing_is_left_running(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    try:
        _until(lambda: any(tmp_path.glob("reference.*/ledger/*.events")))
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert out.splitlines()[-1] == "interrupted"
    assert process.returncode == 0
    assert not (harness.state_folder() / name).exists()
    assert not [pid for pid in psutil.pids() if _carries(pid, name)]


def _until(done: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < deadline_s, "it did not come about"
        time.sleep(0.01)


def _carries(pid: int, name: str) -> bool:
    try:
        return f"{harness.MARKER}={name}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
