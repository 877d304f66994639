"""Disturbed cells: what disturbs, which cells run again, and what becomes of the first attempt."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import attempts, disturbance, session
from bench.cputime import SHORTEST_S, Moment, Shares, Ticks, shares, ticks, usable_cpus
from bench.disturbance import Watch, judge, noise
from bench.errors import StoreError
from bench.model import Cell, Metric, Status
from bench.runner import Result
from bench.store import Store, create, open_store, read_run

SECOND_NS = 1_000_000_000
LIMITS = ("BURN_LIMIT", "STOLEN_LIMIT", "OTHERS_LIMIT")

STAT = """\
cpu  100 0 100 1000 50 0 0 7 0 0
cpu0 50 0 50 400 20 0 0 3 0 0
cpu1 50 0 50 600 30 0 0 4 0 0
intr 1 2 3
"""


# --- the judgement ---------------------------------------------------------------------------------------


def test_a_quiet_machine_has_no_words() -> None:
    assert judge(1.0, 0.0, 0.0, 2) == ""
    assert judge(1.5, 0.02, 0.2, 2) == ""
    assert judge(1.0, None, None, 2) == ""


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ((1.56, 0.0, 0.0, 2), "a fixed burn took 1.6x its usual time"),
        ((1.0, 0.03, 0.0, 2), "the host took 3% of the CPU time"),
        ((1.0, 0.0, 0.21, 2), "other processes used 0.2 of 2 cores"),
        ((1.0, 0.0, 0.9, 8), "other processes used 0.9 of 8 cores"),
        ((2.0, None, 1.5, 2), "a fixed burn took 2.0x its usual time, other processes used 1.5 of 2 cores"),
    ],
)
def test_each_limit_has_its_words_and_none_parts_a_remark(seen: tuple[Any, ...], words: str) -> None:
    assert judge(*seen) == words
    assert ";" not in words


def test_only_the_cpus_that_may_be_used_are_counted() -> None:
    assert ticks(STAT, {0, 1}) == Ticks(1050, 7)
    assert ticks(STAT, {1}) == Ticks(630, 4)
    assert ticks(STAT, {1, 2}) is None
    assert ticks("", {0}) is None


def moment(seconds: float, idle_s: float, stolen_s: float, harness_s: float, reaped_s: float) -> Moment:
    found = Ticks(round(idle_s * 100), round(stolen_s * 100))
    return Moment(round(seconds * 1e9), found, round(harness_s * 1e9), round(reaped_s * 1e9))


BEGIN = moment(100, 500, 5, 30, 40)


def test_others_used_what_is_not_idle_not_stolen_and_not_ours() -> None:
    # 20 s of CPU: 9 idle, 1 stolen, 0.5 of the harness, 3.5 of the cell: 6 are left.
    end = moment(110, 509, 6, 30.5, 43)
    found = shares(BEGIN, end, 2, 100, round(3.5 * SECOND_NS))
    assert found.stolen == pytest.approx(0.05)
    assert found.others_cores == pytest.approx(0.6)


def test_the_cell_is_not_counted_twice_nor_too_little_when_its_processes_were_waited_for() -> None:
    end = moment(110, 510, 5, 30, 48)
    assert shares(BEGIN, end, 2, 100, 6 * SECOND_NS).others_cores == pytest.approx(0.2)
    assert shares(BEGIN, end, 2, 100, 9 * SECOND_NS).others_cores == pytest.approx(0.1)
    assert shares(BEGIN, end, 2, 100, 12 * SECOND_NS).others_cores == 0


def test_what_cannot_be_known_is_unknown() -> None:
    end = moment(110, 510, 6, 30, 40)
    assert shares(BEGIN, end, 2, 100, None) == Shares(pytest.approx(0.05), None)
    assert shares(BEGIN, moment(100.4, 500, 5, 30, 40), 2, 100, 0) == Shares(None, None)
    unread = Moment(110 * SECOND_NS, None, 0, 0)
    assert shares(BEGIN, unread, 2, 100, 0) == shares(unread, end, 2, 100, 0) == Shares(None, None)


# --- a real machine --------------------------------------------------------------------------------------


@contextmanager
def stopped_burners() -> Iterator[list[psutil.Process]]:
    """Three processes for every core that will burn CPU once they are continued."""
    spawned = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * len(usable_cpus()))
    ]
    try:
        found = [psutil.Process(one.pid) for one in spawned]
        for process in found:
            process.suspend()
        yield found
    finally:
        for one in spawned:
            one.kill()
            one.wait()


def burn(processes: list[psutil.Process]) -> None:
    """Let them burn, and return once each of them does."""
    before = [sum(process.cpu_times()[:2]) for process in processes]
    for process in processes:
        process.send_signal(signal.SIGCONT)
    deadline_s = time.monotonic() + 60
    while any(sum(one.cpu_times()[:2]) <= was for one, was in zip(processes, before, strict=True)):
        assert time.monotonic() < deadline_s


def test_others_that_burn_on_every_core_are_found_by_their_cpu_time() -> None:
    watch = Watch()
    with stopped_burners() as processes:
        before = watch.begin()
        burn(processes)
        until_s = time.monotonic() + 2 * SHORTEST_S
        while time.monotonic() < until_s:
            pass
        found = watch.end(before, 0)
    assert "other processes used" in found.words


def test_the_baseline_never_rises() -> None:
    watch = Watch(baseline_ns=1.0)
    assert watch.begin().burn_ns > 1
    assert watch.baseline_ns == 1
    assert Watch().baseline_ns < math.inf


# --- which cells run again -------------------------------------------------------------------------------


def cell(trial: int) -> Cell:
    return Cell("reference", "threads", "throughput", {}, trial)


def seen(words: str = "") -> dict[str, Any]:
    return {
        "burn_ratio": 1.5 if words else 1.0,
        "stolen_share": 0.01,
        "others_cores": None,
        "baseline_ns": 2_000_000,
        "words": words,
    }


def record(trial: int, words: str = "", *earlier: str) -> dict[str, Any]:
    """A `cell.json`: how its last attempt was disturbed, and how the ones before it were."""
    details: dict[str, Any] = {"disturbance": seen(words)}
    if earlier:
        details["earlier_attempts"] = [{"disturbance": seen(one)} for one in earlier]
    return {"cell": cell(trial).__dict__, "details": details}


def due(cells: int, *records: Mapping[str, Any], seconds: float = 1.0) -> list[int]:
    everything = [cell(trial) for trial in range(1, cells + 1)]
    return [found.trial for found in attempts.due(records, everything, lambda _: seconds)]


def test_disturbed_cells_run_again_once_and_in_the_order_of_the_run() -> None:
    records = [record(3, "x"), record(1, "x"), record(2), record(4, "x", "x"), record(5, "", "x")]
    assert due(30, *records) == [1, 3]


def test_a_cell_that_was_never_judged_does_not_run_again() -> None:
    assert due(10, {"cell": cell(1).__dict__, "details": {}}) == []


def test_at_most_a_share_of_the_cells_runs_again_but_always_one() -> None:
    spoilt = [record(trial, "x") for trial in range(1, 11)]
    assert due(10, *spoilt) == [1, 2]
    assert due(10, record(1, "x", "x"), *spoilt[1:]) == [2]
    assert due(10, record(1, "x", "x"), record(2, "", "x"), *spoilt[2:]) == []
    assert due(1, record(1, "x")) == [1]


def test_at_most_a_share_of_the_estimated_time_goes_into_second_attempts() -> None:
    cells = [cell(trial) for trial in range(1, 11)]
    spoilt = [record(trial, "x") for trial in range(1, 11)]

    def found(first_s: float) -> list[int]:
        return [
            one.trial for one in attempts.due(spoilt, cells, lambda one: first_s if one.trial == 1 else 1.0)
        ]

    assert found(1.0) == [1, 2]
    assert found(2.0) == [1]
    assert found(100.0) == [1]  # always one, and nothing is left for the next


def test_the_run_says_how_noisy_it_was() -> None:
    found = noise([record(1), record(2, "x", "x"), record(3, "", "x"), {"cell": {}, "details": {}}])
    counts = ("cells", "disturbed", "rerun", "still_disturbed")
    assert [found[name] for name in counts] == [3, 2, 2, 1]
    assert (found["burn_median"], found["burn_worst"]) == (1.5, 1.5)
    assert (found["baseline_ms"], found["stolen_share_worst"], found["others_cores_worst"]) == (
        20,
        0.01,
        None,
    )
    assert noise([])["burn_median"] is None
    assert disturbance.baseline_ns([record(1), record(2, "x", "x")]) == 2_000_000
    assert disturbance.baseline_ns([]) is None


def test_an_aggregate_counts_its_disturbed_trials_however_each_was_disturbed(tmp_path: Path) -> None:
    target = create(tmp_path, {})
    notes = ["", "machine disturbed: a", "n < 9; machine disturbed: b, c; d"]
    for trial, note in enumerate(notes, start=1):
        metric = Metric("throughput", "tasks/s", trial, 9, note=note)
        target.write_cell(cell(trial), Status.OK, "", [metric], {})
    rows = read_run(target.path).summary.set_index("trial")["reason"]
    assert [rows[trial] for trial in "123"] == notes
    remarks = "machine disturbed (2 of 3 trials)", "n < 9 (1 of 3 trials)", "d (1 of 3 trials)"
    assert rows[""].split("; ")[:3] == list(remarks)


# --- what becomes of the first attempt -------------------------------------------------------------------


@pytest.fixture
def first(tmp_path: Path) -> Store:
    """A run with one finished cell."""
    target = create(tmp_path, {"machine": {"python": "3"}})
    write(target, 1.0)
    return target


def write(target: Store, value: float) -> None:
    (target.cell_folder(cell(1)) / "logs" / f"{value}.log").touch()
    target.write_cell(cell(1), Status.OK, "", [Metric("throughput", "tasks/s", value, 9)], {})


def kept(target: Store) -> tuple[list[float], list[str]]:
    """The figures of the run, and the names of the logs of its only cell."""
    figures = [metric["value"] for one in read_run(target.path).cells for metric in one["metrics"]]
    assert {path.name for path in target.path.iterdir()} <= {"run.json", "cells", "summary.csv"}
    return figures, [path.stem for path in target.path.glob("cells/*/logs/*")]


def test_a_second_attempt_that_was_written_replaces_the_first(first: Store) -> None:
    with attempts.second(first, cell(1)):
        assert list((first.cell_folder(cell(1)) / "logs").iterdir()) == []
        write(first, 2.0)
    assert kept(first) == ([2.0], ["2.0"])


def test_the_first_attempt_comes_back_when_the_second_is_cut_off(first: Store) -> None:
    def cut_off() -> None:
        with attempts.second(first, cell(1)):
            (first.cell_folder(cell(1)) / "logs" / "half.log").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    assert kept(first) == ([1.0], ["1.0"])
    assert first.done() == {cell(1).id}


@pytest.mark.parametrize("written", [False, True])
def test_what_a_killed_process_left_of_a_second_attempt_is_mended(first: Store, written: bool) -> None:
    (first.path / attempts.ASIDE).mkdir()
    (first.path / "cells" / cell(1).id).replace(first.path / attempts.ASIDE / cell(1).id)
    first.forget(cell(1))
    if written:
        write(first, 2.0)
    else:
        first.cell_folder(cell(1))
    with attempts.exclusive(open_store(first.path.parent, first.path.name)):
        assert kept(first) == (([2.0], ["2.0"]) if written else ([1.0], ["1.0"]))


def test_two_cannot_write_the_same_run_at_once(first: Store) -> None:
    other = open_store(first.path.parent, first.path.name)
    with attempts.exclusive(first):
        with pytest.raises(StoreError, match=r"written by another schedbench: wait") as caught:
            attempts.exclusive(other).__enter__()
        assert "\n" not in str(caught.value)
        first.update_run(note="written meanwhile")
    with attempts.exclusive(other):
        assert other.info["note"] == "written meanwhile"


# --- a whole session -------------------------------------------------------------------------------------


def planned(folder: Path, seconds: float = 0) -> tuple[session.Plan, Store]:
    sets = ("tasks=20", f"seconds={seconds}")
    asked = session.Request(("reference",), ("throughput",), trials=1, slots=2, sets=sets, calibrate=False)
    plan = session.plan(asked)
    return plan, session.begin(plan, folder)


def only_cell(target: Store) -> dict[str, Any]:
    (file,) = target.path.glob("cells/*/cell.json")
    return dict(json.loads(file.read_text()))


class Listening(session.Watcher):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class Planted(Listening):
    """The first attempt at each cell is disturbed, because every limit is passed; the second is not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.monkeypatch = monkeypatch
        self.limit(-1.0)

    def limit(self, value: float) -> None:
        for name in LIMITS:
            self.monkeypatch.setattr(disturbance, name, value)

    def end(self, cell: Cell, result: Result) -> None:
        self.limit(math.inf)


def test_a_cell_that_was_disturbed_runs_again_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, target = planned(tmp_path)
    watcher = Planted(monkeypatch)
    ended = session.run(plan, target, watcher)
    assert ended == {Status.OK: 1}
    found = only_cell(target)
    assert found["details"]["disturbance"]["words"] == ""
    assert not [metric for metric in found["metrics"] if "disturbed" in metric["note"]]
    (earlier,) = found["details"]["earlier_attempts"]
    assert earlier["status"] == "ok"
    assert earlier["disturbance"]["words"].startswith("a fixed burn took")
    first_figures = {metric["name"] for metric in earlier["metrics"]}
    assert first_figures == {metric["name"] for metric in found["metrics"]}
    (line,) = (line for line in watcher.said if line.startswith("again: "))
    assert earlier["disturbance"]["words"] in line
    info = read_run(target.path).info
    assert [info["noise"][name] for name in ("cells", "disturbed", "rerun", "still_disturbed")] == [
        1,
        1,
        1,
        0,
    ]
    assert info["interrupted"] is False
    assert (
        session.run(plan, target, Listening()) == {}
    )  # nothing is left to do, and nothing runs a third time


def test_an_interrupted_second_attempt_leaves_the_first_and_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(Planted):
        begun = 0

        def begin(self, cell: Cell) -> None:
            self.begun += 1

        def doing(self, phase: str) -> None:
            if self.begun == 2:
                raise KeyboardInterrupt

    plan, target = planned(tmp_path)
    assert session.run(plan, target, Impatient(monkeypatch))[Status.INTERRUPTED] == 1
    found = only_cell(target)
    assert found["status"] == "ok"
    assert "earlier_attempts" not in found["details"]
    assert all("machine disturbed: a fixed burn" in metric["note"] for metric in found["metrics"])
    assert read_run(target.path).info["interrupted"] is True
    assert session.run(plan, target, Listening()) == {Status.OK: 1}
    assert len(only_cell(target)["details"]["earlier_attempts"]) == 1
    assert read_run(target.path).info["interrupted"] is False


def test_another_harness_during_a_part_of_a_cell_is_told_of_all_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Beside(Listening):
        def doing(self, phase: str) -> None:
            monkeypatch.setattr(session.harness, "others", lambda: [1] if phase == "idle" else [])

    asked = session.Request(
        ("reference",), ("memory",), trials=1, slots=2, calibrate=False, sets=("idle_s=0.3",)
    )
    plan = session.plan(asked)
    target = session.begin(plan, tmp_path)
    assert session.run(plan, target, Beside()) == {Status.OK: 1}
    metrics = only_cell(target)["metrics"]
    assert metrics
    assert all("another schedbench was running" in metric["note"] for metric in metrics)


def test_a_cell_beside_busy_processes_is_disturbed_and_marked_also_the_second_time(tmp_path: Path) -> None:
    class Busy(Listening):
        """The processes begin to burn while the first cell runs, after the machine was measured."""

        burning = False

        def doing(self, phase: str) -> None:
            if not self.burning:
                self.burning = True
                burn(processes)

    plan, target = planned(tmp_path, seconds=2 * SHORTEST_S)
    with stopped_burners() as processes:
        session.run(plan, target, Busy())
    found = only_cell(target)
    words = found["details"]["disturbance"]["words"]
    assert words
    assert found["metrics"]
    assert all(f"machine disturbed: {words}" in metric["note"].split("; ") for metric in found["metrics"])
    assert found["details"]["earlier_attempts"][0]["disturbance"]["words"]
    assert read_run(target.path).info["noise"]["still_disturbed"] == 1
    rows = read_run(target.path).summary
    assert rows[rows["metric"] != ""]["reason"].str.contains("machine disturbed: ").all()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [({}, {"a": "1"}, {"a": "1"}), ({"a": "1"}, {}, {"a": "1"}), ({"a": "1"}, {"a": "1"}, {"a": "1"})],
)
def test_a_system_that_could_not_be_built_has_no_other_packages(
    before: dict[str, str], after: dict[str, str], said: dict[str, str]
) -> None:
    earlier, now = {"rq": {"packages": before}, "x": {"packages": {}}}, {"rq": {"packages": after}}
    assert session.merged(earlier, now) == {"rq": {"packages": said}, "x": {"packages": {}}}


def test_a_run_is_not_taken_up_with_other_packages() -> None:
    with pytest.raises(StoreError, match="rq has other packages now"):
        session.merged({"rq": {"packages": {"a": "1"}}}, {"rq": {"packages": {"a": "2"}}})


def test_what_disturbed_from_the_start_is_seen_against_the_quiet_that_follows() -> None:
    """1.0 times a baseline of 18 ms is 1.8 times one of 10 ms; what was quiet stays quiet."""
    found = {"burn_ratio": 1.0, "baseline_ns": 18e6, "stolen_share": 0.0, "others_cores": None}
    later = disturbance.again(found, 10e6)
    assert (later.burn_ratio, later.baseline_ns) == (1.8, 10_000_000)
    assert later.words == "a fixed burn took 1.8x its usual time"
    assert disturbance.again(found, 17e6).words == ""
