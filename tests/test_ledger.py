"""Facts about the ledger: golden histories judged by hand, damaged files, growing files, and invariants."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import ledger
from bench import tail as tail_module
from bench.model import RECORD, SCHEDULE, Fate, Kind
from bench.tail import SLOW_LANE_POLLS, Tail

GOLDEN = Path(__file__).parent / "golden"
MS = 1_000_000
SECOND = 1000 * MS
DEAD_PID = 4_194_305  # above the largest pid that Linux hands out


def event(
    task: int, kind: Kind, t_ns: int, aux: int = 0, pid: int = 1, run: int = 0, domain: int = 0
) -> bytes:
    return RECORD.pack(task, t_ns, aux, pid, run, kind, domain)


def golden(name: str) -> list[bytes]:
    """The records of a history in tests/golden, in the order of its lines."""
    lines = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    assert rows[0] == ["task", "kind", "t_ms", "aux", "pid", "run", "domain"]
    records = []
    for task, kind_name, t_ms, aux, *rest in rows[1:]:
        phase, index = map(int, task.split("."))
        kind = Kind[kind_name]
        unit = 1 if kind is Kind.START else MS
        pid, run, domain = map(int, rest)
        records.append(event(phase << 32 | index, kind, int(t_ms) * MS, int(aux) * unit, pid, run, domain))
    return records


def write(folder: Path, records: list[bytes]) -> None:
    """One file per process, as the probes write them."""
    for record in records:
        pid = RECORD.unpack(record)[3]
        with open(folder / f"{pid}-0.events", "ab") as file:
            file.write(record)


def table(records: list[bytes]) -> ledger.Records:
    return np.frombuffer(b"".join(records), ledger.EVENT)


def frame_of(name: str, folder: Path) -> pd.DataFrame:
    write(folder, golden(name))
    return ledger.per_task(ledger.read(folder).records)


def rows(frame: pd.DataFrame) -> list[dict[str, object]]:
    """The rows in order; None where a figure is missing."""
    return [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def fates_by_index(frame: pd.DataFrame) -> list[str]:
    assert frame["index"].tolist() == list(range(len(frame)))
    return ledger.fates(frame, deadline_s=1.0).tolist()


# --- reading ----------------------------------------------------------------------------------------


def test_an_event_has_the_layout_of_the_record_that_probes_write() -> None:
    assert ledger.EVENT.itemsize == RECORD.size == 32
    record = RECORD.pack(2**63 + 5, -7, 11, 2**31 + 1, 65535, 6, 255)
    assert table([record])[0].item() == (2**63 + 5, -7, 11, 2**31 + 1, 65535, 6, 255)


def test_an_empty_folder_is_an_empty_history(tmp_path: Path) -> None:
    events = ledger.read(tmp_path)
    assert (len(events.records), events.torn_bytes, events.files) == (0, 0, 0)
    frame = ledger.per_task(events.records)
    assert len(frame) == len(ledger.fates(frame, 1.0)) == ledger.negative(frame) == 0


def test_a_torn_tail_is_cut_off_and_counted(tmp_path: Path) -> None:
    whole = event(5, Kind.START, 1)
    (tmp_path / "1-0.events").write_bytes(whole + event(6, Kind.START, 2)[:31])
    (tmp_path / "2-0.events").write_bytes(whole[:3])
    (tmp_path / "3-0.events").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(whole)
    events = ledger.read(tmp_path)
    assert events.records["task"].tolist() == [5]
    assert (events.torn_bytes, events.files, events.unreadable) == (31 + 3, 3, 0)


def test_unknown_kinds_and_unreadable_files_are_counted(tmp_path: Path) -> None:
    strange = [RECORD.pack(1, 1, 0, 1, 0, kind, 0) for kind in (0, 7, 255)]
    (tmp_path / "1-0.events").write_bytes(b"".join([*strange, event(9, Kind.END, 2)]))
    (tmp_path / "2-0.events").mkdir()
    events = ledger.read(tmp_path)
    assert events.records["task"].tolist() == [9]
    assert (events.unknown, events.unreadable, events.files) == (3, 1, 2)


# --- golden histories -------------------------------------------------------------------------------


def test_a_quiet_history_gives_one_row_per_task(tmp_path: Path) -> None:
    frame = frame_of("quiet", tmp_path)
    assert frame.index.tolist() == [1 << 32 | i for i in range(4)]
    assert frame["phase"].tolist() == [1, 1, 1, 1]
    by_hand = {
        "due_ns": [100, 110, 120, 130],
        "submit_ns": [100, 111, 120, 130],
        "accepted_ns": [101, 113, 121, 131],
        "start_ns": [101, 112, 123, 140],
        "end_ns": [104, 115, 133, 150],
        "burned_ns": [1, 2, 5, 9],
    }
    for column, in_ms in by_hand.items():
        assert frame[column].tolist() == [value * MS for value in in_ms], column
    assert frame["fail_ns"].isna().all()
    assert frame["payload_bytes"].tolist() == [7, 7, 7, 0]
    assert frame["pid"].tolist() == [21, 22, 21, 22]
    for column, count in {
        "submits": 1,
        "accepted": 1,
        "refused": 0,
        "starts": 1,
        "ends": 1,
        "fails": 0,
    }.items():
        assert frame[column].tolist() == [count] * 4, column
    assert not frame["mixed_domains"].any()
    assert not frame["repeated"].any()
    assert fates_by_index(frame) == ["ok"] * 4


def test_dispatch_latency_counts_from_the_due_time(tmp_path: Path) -> None:
    frame = frame_of("quiet", tmp_path)
    dispatch_ms = ledger.between_ns(frame, "due_ns", "start_ns") / MS
    assert dispatch_ms.tolist() == [1, 2, 3, 10]
    assert dispatch_ms.quantile([0.5, 0.75, 1.0]).tolist() == [2.5, 4.75, 10.0]
    # Task 1 was submitted 1 ms late and started before its submit call had returned.
    assert (ledger.between_ns(frame, "submit_ns", "start_ns") / MS).tolist() == [1, 1, 3, 10]
    assert (ledger.between_ns(frame, "accepted_ns", "start_ns") / MS).tolist() == [0, -1, 2, 9]
    assert ledger.negative(frame) == 0


def test_each_fate_by_each_way_to_it(tmp_path: Path) -> None:
    fates = fates_by_index(frame_of("fates", tmp_path))
    assert fates == [
        "ok", "late", "failed", "failed", "lost", "lost", "refused", "refused", "ok", "unexpected", "lost",
    ]  # fmt: skip


def test_a_retry_is_no_duplicate(tmp_path: Path) -> None:
    frame = frame_of("retries", tmp_path)
    assert frame["starts"].tolist() == [2, 2, 2, 2, 2, 2, 3, 2]
    assert fates_by_index(frame) == [
        "ok", "ok", "duplicated", "duplicated", "duplicated", "duplicated", "ok", "failed",
    ]  # fmt: skip
    assert (frame["start_ns"] / MS).tolist() == [10] * 8


def test_duplicates_do_not_cancel_losses(tmp_path: Path) -> None:
    frame = frame_of("balanced", tmp_path)
    assert frame["submits"].sum() == frame["starts"].sum() == frame["ends"].sum() == 6
    assert fates_by_index(frame) == ["ok", "duplicated", "lost", "ok", "duplicated", "lost"]


def test_times_of_two_clock_domains_are_never_subtracted(tmp_path: Path) -> None:
    frame = frame_of("domains", tmp_path)
    assert frame["mixed_domains"].tolist() == [False] + [True] * 7
    dispatch = ledger.between_ns(frame, "due_ns", "start_ns")
    assert dispatch.isna().tolist() == [False] + [True] * 7
    assert dispatch.iloc[0] == 4 * MS
    assert ledger.negative(frame) == 0
    assert fates_by_index(frame) == ["ok", "ok", "ok", "ok", "duplicated", "duplicated", "ok", "duplicated"]


def test_negative_latencies_are_counted_and_kept() -> None:
    frame = ledger.per_task(
        table(
            [
                event(0, Kind.SUBMIT, 10, aux=30), event(0, Kind.START, 20),  # before it was due
                event(1, Kind.SUBMIT, 40, aux=30), event(1, Kind.START, 35),  # before it was submitted
                event(2, Kind.SUBMIT, 30, aux=30), event(2, Kind.START, 30),
                event(3, Kind.SUBMIT, 30, aux=30),
                event(4, Kind.START, 5),
            ]
        )
    )  # fmt: skip
    assert ledger.negative(frame) == 2
    assert ledger.between_ns(frame, "due_ns", "start_ns").fillna(99).tolist() == [-10, 5, 0, 99, 99]


def test_pid_and_payload_are_those_of_the_first_attempt() -> None:
    records = [event(0, Kind.START, 5, aux=1, pid=3), event(0, Kind.START, 4, aux=6, pid=9)]
    records += [event(0, Kind.END, 8, aux=2, pid=3), event(0, Kind.END, 7, aux=8, pid=9)]
    frame = ledger.per_task(table(records))
    assert frame[["pid", "payload_bytes", "burned_ns", "start_ns", "end_ns"]].values.tolist() == [
        [9, 6, 8, 4, 7]
    ]


def test_a_missing_start_counts_from_the_end() -> None:
    frame = ledger.per_task(
        table(
            [
                event(0, Kind.SUBMIT, 0, aux=0), event(0, Kind.END, 900 * MS),
                event(1, Kind.SUBMIT, 0, aux=0), event(1, Kind.END, 1100 * MS),
            ]
        )
    )  # fmt: skip
    assert ledger.fates(frame, 1.0).tolist() == ["ok", "late"]


def test_bodies_that_touch_did_not_run_at_once() -> None:
    spans = {1: (0, 10), 2: (10, 20), 3: (15, 30), 4: (18, 19), 5: (30, 31)}
    records = [event(task, Kind.START, start) for task, (start, _) in spans.items()]
    records += [event(task, Kind.END, end) for task, (_, end) in spans.items()]
    assert ledger.at_once(table(records[::-1])) == 3
    assert ledger.at_once(table([])) == 0


# --- following a run --------------------------------------------------------------------------------


def test_a_tail_returns_each_whole_record_once(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    assert len(tail.poll()) == 0
    path = tmp_path / f"{os.getpid()}-0.events"
    first, second = event(7, Kind.START, 10), event(7, Kind.END, 30)
    path.write_bytes(first + second[:10])
    assert tail.poll()["kind"].tolist() == [Kind.START]
    assert len(tail.poll()) == 0
    path.write_bytes(first + second)
    assert tail.poll()["kind"].tolist() == [Kind.END]
    assert tail.last_ns == 30


def test_a_tail_counts_distinct_tasks_by_phase(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    write(tmp_path, golden("balanced"))
    tail.poll()
    assert (tail.submitted(1), tail.started(1), tail.ended(1)) == (6, 4, 4)
    assert (tail.submitted(2), tail.started(2), tail.ended(2)) == (0, 0, 0)
    write(tmp_path, golden("retries"))
    for _ in range(SLOW_LANE_POLLS):
        tail.poll()
    assert (tail.submitted(1), tail.started(1), tail.ended(1)) == (6, 4, 4)
    assert (tail.submitted(2), tail.ended(2)) == (8, 8)


def test_a_tail_counts_a_task_again_neither_within_nor_across_polls(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    path = tmp_path / f"{os.getpid()}-0.events"
    ids = [3, 3, 5000, 3, 5000, 70_000]
    for upto in range(len(ids)):
        path.write_bytes(b"".join(event(i, Kind.FAIL, 1) for i in ids[: upto + 1]))
        tail.poll()
        assert tail.ended(0) == len(set(ids[: upto + 1]))


def test_a_tail_knows_the_newest_event_in_whatever_order_files_arrive(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    for number, (start, end) in enumerate([(20, 90), (10, 30), (40, 50)]):
        (tmp_path / f"{os.getpid()}-{number}.events").write_bytes(
            event(number, Kind.START, start) + event(number, Kind.END, end)
        )
        tail.poll()
    assert tail.last_ns == 90


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The clock that a tail reads, which goes on by 0.1 ms whenever it is read. An hour of it has passed.

    With the machine's own, a stamp of an hour ago is before zero until the machine has run for an hour, and
    one that is 2 ms ahead has come true by the time a busy machine looks at it.
    """
    ticks = itertools.count(4000 * 10**9, 100_000)
    monkeypatch.setattr(tail_module, "monotonic_ns", lambda: next(ticks))
    return lambda: next(ticks)


@pytest.mark.parametrize("off_s", [-3600.0, -0.6, 0.002, 1.4])
def test_a_clock_that_is_off_is_found_between_two_looks(
    tmp_path: Path, clock: Callable[[], int], off_s: float
) -> None:
    """Stamped by the wrong clock, written between two looks: its offset lies between those two bounds."""
    tail = Tail(tmp_path)
    path = tmp_path / f"{os.getpid()}-0.events"
    path.write_bytes(event(1, Kind.START, clock()))
    tail.poll()
    assert tail.clock_off_ns is None
    with path.open("ab") as file:
        file.write(event(1, Kind.END, clock() + round(off_s * 1e9)))
    tail.poll()
    assert tail.clock_off_ns is not None
    low_ns, high_ns = tail.clock_off_ns
    assert low_ns <= off_s * 1e9 <= high_ns
    assert not low_ns <= 0 <= high_ns
    assert high_ns - low_ns < 2_000_000


def test_a_stamp_written_late_is_no_clock_fault(tmp_path: Path, clock: Callable[[], int]) -> None:
    """A thread may be put to sleep between reading the clock and writing."""
    tail = Tail(tmp_path)
    stamped_ns = clock() - 100 * MS
    tail.poll()
    (tmp_path / f"{os.getpid()}-0.events").write_bytes(event(1, Kind.START, stamped_ns))
    tail.poll()
    assert tail.clock_off_ns is None


# --- ticks ------------------------------------------------------------------------------------------

EVERY = 100 * MS


def ticked(runs: list[tuple[int, int | None]], until: int) -> pd.DataFrame:
    """The ticks of a schedule first due at 1000 ms, from the begin and end of each run in ms."""
    records = [event(1, Kind.SUBMIT, 900 * MS, 1000 * MS)]
    for run, (start, end) in enumerate(runs):
        records.append(event(1, Kind.START, start * MS, run=run))
        if end is not None:
            records.append(event(1, Kind.END, end * MS, run=run))
    return ledger.ticks(ledger.decode(b"".join(records))[0], EVERY, until * MS)


def test_every_tick_has_its_turn() -> None:
    found = ticked([(1000, 1001), (1103, 1104), (1299, 1300)], 1300)
    assert found["due_ns"].tolist() == [1000 * MS, 1100 * MS, 1200 * MS]
    assert found["starts"].tolist() == [1, 1, 0], "the last run is that of the tick at 1300, 1 ms early"
    assert found["start_ns"].isna().tolist() == [False, False, True]
    assert found["start_ns"].tolist()[:2] == [1000 * MS, 1103 * MS]
    assert not found["overlapped"].any()


def test_a_late_tick_belongs_to_its_own_turn_and_a_second_run_repeats_it() -> None:
    found = ticked([(1090, 1091), (1110, 1111), (1150, 1151)], 1200)
    assert found["starts"].tolist() == [1, 2]
    assert found["start_ns"].tolist() == [1090 * MS, 1110 * MS]


def test_a_run_that_begins_before_another_has_ended_overlaps_it() -> None:
    """The first lasts into the third; the last never ends, which nothing follows."""
    found = ticked([(1000, 1250), (1100, 1110), (1200, 1210), (1300, None)], 1400)
    assert found["overlapped"].tolist() == [False, True, True, False]
    assert ticked([(1000, None), (1100, 1101)], 1200)["overlapped"].tolist() == [False, True]


def test_every_run_of_a_schedule_has_its_begin_and_end() -> None:
    """The second is cut off, the third fails, and a process numbers its own runs."""
    records = [event(1, Kind.START, 30, run=1), event(1, Kind.FAIL, 40, run=1), event(1, Kind.SUBMIT, 5, 9)]
    records += [event(1, Kind.START, 20, pid=2), event(1, Kind.START, 10), event(1, Kind.END, 50)]
    found = ledger.runs(table(records))
    assert found["start_ns"].tolist() == [10, 20, 30]
    assert found["end_ns"].fillna(-1).tolist() == [50, -1, 40]
    assert found["pid"].tolist() == [1, 2, 1]


def beaten(starts: list[float], until: float, *, lasting: float = 1.0) -> pd.DataFrame:
    """The ticks of a schedule of which nothing was told, by when its runs began; all in ms."""
    records = []
    for run, start in enumerate(starts):
        records.append(event(1, Kind.START, round(start * MS), run=run))
        records.append(event(1, Kind.END, round((start + lasting) * MS), run=run))
    return ledger.ticks(table(records), EVERY, round(until * MS))


def test_a_run_that_may_be_early_belongs_to_the_tick_that_follows() -> None:
    records = [event(1, Kind.SUBMIT, 900 * MS, 1000 * MS)]
    records += [event(1, Kind.START, at * MS, run=run) for run, at in enumerate((980, 1110, 1170))]
    found = ledger.ticks(table(records), EVERY, 1300 * MS, 40 * MS)
    assert found["starts"].tolist() == [1, 1, 1]
    assert (found["start_ns"] - found["due_ns"]).tolist() == [-20 * MS, 10 * MS, -30 * MS]
    strict = ledger.ticks(table(records), EVERY, 1300 * MS)
    assert strict["starts"].to_dict() == {-1: 1, 0: 0, 1: 2, 2: 0}


def test_without_a_submit_turns_begin_with_the_first_run() -> None:
    found = beaten([1000, 1100, 1200], 1300)
    assert found["due_ns"].tolist() == [1000 * MS, 1100 * MS, 1200 * MS]
    assert found["planned"].all()
    assert found["starts"].tolist() == [1, 1, 1]


def test_without_a_submit_the_least_late_run_was_on_time() -> None:
    """The first run was 30 ms late, the last but one 10 ms: they are told from the one that was in time."""
    found = beaten([1030, 1100, 1210, 1315], 1400)
    assert found["due_ns"].tolist() == [at * MS for at in (1000, 1100, 1200, 1300)]
    assert (found["start_ns"] - found["due_ns"]).tolist() == [30 * MS, 0, 10 * MS, 15 * MS]


def test_without_a_submit_what_loses_a_little_with_each_tick_is_late_by_all_of_it() -> None:
    """Every 104 ms instead of 100: by more than half a period in the end, and none of them early."""
    found = beaten([1000 + 104 * turn for turn in range(20)], 3000)
    assert found["starts"].tolist() == [1] * 20
    assert (found["start_ns"] - found["due_ns"]).tolist() == [4 * turn * MS for turn in range(20)]


@pytest.mark.parametrize(
    "starts", [[0, 100, 260, 340, 420, 500, 600, 700], [160 * turn for turn in range(12)]]
)
def test_without_a_submit_the_first_run_was_late_by_half_a_period_at_most(starts: list[int]) -> None:
    """One that was late by more and caught up in small steps, and one that takes 1.6 periods."""
    found = beaten([1000.0 + start for start in starts], 3000)
    assert found["due_ns"].iloc[0] >= 950 * MS


def test_without_a_submit_a_tick_that_was_skipped_is_missed() -> None:
    found = beaten([1000, 1300], 1500)
    assert found["starts"].tolist() == [1, 0, 0, 1, 0]
    twice = beaten([1000, 1004, 1100], 1200)
    assert twice["starts"].tolist() == [2, 1]


def test_without_a_submit_it_does_not_matter_in_which_order_runs_are_read() -> None:
    runs = [1030, 1100, 1210, 1315]
    pd.testing.assert_frame_equal(beaten(runs[::-1], 1400), beaten(runs, 1400))


def test_a_submit_says_when_the_first_was_due_even_if_nothing_ran_then() -> None:
    """Skipped at 1000 and 1100 ms. Without the SUBMIT the schedule would seem to begin with the first run."""
    found = ticked([(1203, 1204)], 1300)
    assert found["starts"].tolist() == [0, 0, 1]
    assert beaten([1203], 1300)["starts"].tolist() == [1]


def test_a_schedule_of_which_nothing_began_or_of_several_clocks_has_no_ticks() -> None:
    for records in ([], [event(1, Kind.END, 5)]):
        with pytest.raises(ValueError, match=r"^the schedule never ticked$"):
            ledger.ticks(table(records), EVERY, SECOND)
    told = event(1, Kind.SUBMIT, 0, SECOND)
    with pytest.raises(ValueError, match=r"^the schedule was kept by several clocks"):
        ledger.ticks(table([told, event(1, Kind.START, SECOND, domain=1)]), EVERY, 2 * SECOND)
    ledger.ticks(table([event(1, Kind.START, SECOND, domain=1)]), EVERY, 2 * SECOND)


def test_a_run_before_the_first_tick_is_not_planned() -> None:
    found = ticked([(850, 851), (1000, 1001)], 1100)
    assert found["planned"].tolist() == [False, True]
    assert found["starts"].tolist() == [1, 1]


def test_a_schedule_that_never_ran_skipped_every_tick() -> None:
    found = ticked([], 1300)
    assert (len(found), found["starts"].sum(), found["start_ns"].isna().all()) == (3, 0, True)
    assert len(ticked([], 900)) == 0


def test_a_file_of_a_process_that_is_gone_is_read_at_once_and_not_forgotten(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    path = tmp_path / f"{DEAD_PID}-0.events"
    path.write_bytes(event(1, Kind.START, 1))
    assert len(tail.poll()) == 1
    # A worker in a container looks gone from here, and may still write.
    path.write_bytes(event(1, Kind.START, 1) + event(1, Kind.END, 2))
    fresh = [len(tail.poll()) for _ in range(SLOW_LANE_POLLS)]
    assert fresh[0] == 0
    assert sum(fresh) == 1


def test_a_tail_counts_unknown_kinds(tmp_path: Path) -> None:
    (tmp_path / "1-0.events").write_bytes(RECORD.pack(1, 1, 0, 1, 0, 9, 0))
    tail = Tail(tmp_path)
    assert len(tail.poll()) == 0
    assert tail.unknown == 1


# --- invariants -------------------------------------------------------------------------------------

EVENTS = st.builds(
    event,
    task=st.sampled_from([0, 1, 2, 1 << 32, (1 << 32) + 1]),
    kind=st.sampled_from(Kind),
    t_ns=st.integers(0, 12),
    aux=st.integers(0, 12),
    pid=st.integers(1, 2),
    run=st.integers(0, 2),
    domain=st.integers(0, 1),
)
HISTORIES = st.lists(EVENTS, max_size=40)


@settings(deadline=None)
@given(HISTORIES, st.randoms(use_true_random=False))
def test_the_order_of_records_changes_nothing(records: list[bytes], random) -> None:
    shuffled = records.copy()
    random.shuffle(shuffled)
    pd.testing.assert_frame_equal(ledger.per_task(table(records)), ledger.per_task(table(shuffled)))


@settings(deadline=None)
@given(HISTORIES)
def test_every_submitted_task_has_exactly_one_fate(records: list[bytes]) -> None:
    fates = ledger.fates(ledger.per_task(table(records)), deadline_s=5e-9)
    submitted = {r[0] for r in map(RECORD.unpack, records) if r[5] == Kind.SUBMIT}
    seen = {r[0] for r in map(RECORD.unpack, records)}
    assert fates.index.is_unique
    assert set(fates.index) == seen
    assert not fates.isna().any()
    assert set(fates.index[fates != Fate.UNEXPECTED]) == submitted


@st.composite
def attempts(draw: st.DrawFn) -> list[tuple[int, Kind | None, int]]:
    """Attempts of one task as (start, how it came out, when), starts ascending and all times distinct."""
    n = draw(st.integers(1, 4))
    times = iter(draw(st.permutations(range(1, 2 * n + 1))))
    found = []
    for _ in range(n):
        start, done = sorted((next(times), next(times)))
        found.append((start, draw(st.sampled_from([Kind.END, Kind.FAIL, None])), done))
    return sorted(found)


@settings(deadline=None)
@given(attempts())
def test_a_start_repeats_unless_all_before_it_failed_by_then_or_vanished(
    found: list[tuple[int, Kind | None, int]],
) -> None:
    records = [event(1, Kind.SUBMIT, 0)]
    for run, (start, outcome, done) in enumerate(found):
        records.append(event(1, Kind.START, start, run=run))
        if outcome is not None:
            records.append(event(1, outcome, done, run=run))
    by_definition = any(
        before == Kind.END or (before == Kind.FAIL and done > start)
        for (_, before, done), (start, _, _) in itertools.combinations(found, 2)
    )
    assert ledger.per_task(table(records))["repeated"].tolist() == [by_definition]


@settings(deadline=None)
@given(HISTORIES, st.integers(0, 31))
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], torn: int
) -> None:
    folder = tmp_path_factory.mktemp("events")
    write(folder, records)
    (folder / "99-0.events").write_bytes(b"\1" * torn)
    events = ledger.read(folder)
    assert sorted(record.tobytes() for record in events.records) == sorted(records)
    assert events.torn_bytes == torn
    tail = Tail(folder)
    assert sorted(record.tobytes() for record in tail.poll()) == sorted(records)


# --- damage and interleaving ------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(HISTORIES, st.integers(0, 200)), max_size=4))
def test_a_cut_costs_only_the_records_it_cut(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[list[bytes], int]]
) -> None:
    """Any number of bytes lost from the end of any file."""
    folder = tmp_path_factory.mktemp("cut")
    kept, torn = [], 0
    for number, (records, cut) in enumerate(files):
        left = b"".join(records)[: max(0, len(records) * RECORD.size - cut)]
        (folder / f"{number}-0.events").write_bytes(left)
        kept += records[: len(left) // RECORD.size]
        torn += len(left) % RECORD.size
    events = ledger.read(folder)
    assert (events.torn_bytes, events.files, events.unknown, events.unreadable) == (torn, len(files), 0, 0)
    pd.testing.assert_frame_equal(ledger.per_task(events.records), ledger.per_task(table(kept)))


@settings(deadline=None)
@given(st.data(), st.lists(HISTORIES, min_size=1, max_size=4))
def test_writers_may_interleave_in_any_way(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, files: list[list[bytes]]
) -> None:
    """However the bytes of several processes alternate, and whenever one looks, the history is the same."""
    folder = tmp_path_factory.mktemp("interleaved")
    tail = Tail(folder)
    left = {folder / f"{os.getpid()}-{number}.events": b"".join(one) for number, one in enumerate(files)}
    seen = []
    while left:
        path = data.draw(st.sampled_from(sorted(left)))
        upto = data.draw(st.integers(1, 300))
        with path.open("ab") as file:
            file.write(left[path][:upto])
        left[path] = left[path][upto:]
        if not left[path]:
            del left[path]
        if data.draw(st.booleans()):
            seen.append(tail.poll())
    seen.append(tail.poll())
    whole = ledger.per_task(table([record for one in files for record in one]))
    pd.testing.assert_frame_equal(ledger.per_task(ledger.joined(seen)), whole)
    pd.testing.assert_frame_equal(ledger.per_task(ledger.read(folder).records), whole)


def test_faults_add_up_over_files(tmp_path: Path) -> None:
    strange = RECORD.pack(1, 1, 0, 1, 0, 9, 0)
    for number, count in enumerate((2, 3)):
        (tmp_path / f"{number}-0.events").write_bytes(strange * count + strange[:number])
        (tmp_path / f"9{number}-0.events").mkdir()
    events = ledger.read(tmp_path)
    assert (events.unknown, events.unreadable, events.torn_bytes, events.files) == (5, 2, 1, 4)


# --- the ends of 64 bits ----------------------------------------------------------------------------

LAST_NS = 2**63 - 1
AT_THE_ENDS = st.lists(
    st.builds(
        event,
        task=st.sampled_from([0, 2**31 << 32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]),
        kind=st.sampled_from(Kind),
        t_ns=st.sampled_from([0, 1, 2**31, 2**53 + 1, LAST_NS - 1, LAST_NS]),
        aux=st.sampled_from([0, 2**31, 2**53 + 1, LAST_NS - 1, LAST_NS]),
        pid=st.sampled_from([0, 2**31, 2**32 - 1]),
        run=st.sampled_from([0, 2**16 - 1]),
        domain=st.sampled_from([0, 127, 255]),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(AT_THE_ENDS)
def test_nothing_wraps_or_is_rounded_at_the_ends_of_64_bits(records: list[bytes]) -> None:
    """The frame beside the same counting done with Python's integers, which have no end."""
    frame = ledger.per_task(table(records))
    events = [RECORD.unpack(record) for record in records]
    assert frame.index.tolist() == sorted({task for task, *_ in events})
    for task, row in zip(frame.index.tolist(), rows(frame), strict=True):
        own = [rest for of, *rest in events if of == task]
        assert (row["phase"], row["index"]) == divmod(task, 2**32)
        assert row["mixed_domains"] == (len({domain for *_, domain in own}) > 1)
        for kind, at, count, more in (
            (Kind.SUBMIT, "submit_ns", "submits", {"due_ns": 1}),
            (Kind.ACCEPTED, "accepted_ns", "accepted", {}),
            (Kind.START, "start_ns", "starts", {"pid": 2, "payload_bytes": 1}),
            (Kind.END, "end_ns", "ends", {"burned_ns": 1}),
            (Kind.FAIL, "fail_ns", "fails", {}),
        ):
            found = [one for one in own if one[4] == kind]
            assert row[count] == len(found)
            first_ns = min((one[0] for one in found), default=None)
            assert row[at] == first_ns
            for name, place in more.items():
                assert row[name] == min((one[place] for one in found if one[0] == first_ns), default=None)
    waited = frame.assign(ns=ledger.between_ns(frame, "due_ns", "start_ns"))
    for row in rows(waited):
        due_ns, start_ns = row["due_ns"], row["start_ns"]
        told = due_ns is not None and start_ns is not None and not row["mixed_domains"]
        assert row["ns"] == (start_ns - due_ns if told else None)


def test_a_time_before_zero_is_damage_and_no_time(tmp_path: Path) -> None:
    """CLOCK_MONOTONIC is never negative: such a record was wrapped or damaged, and is in no figure."""
    good = event(1, Kind.SUBMIT, 5, aux=LAST_NS)
    (tmp_path / "1-0.events").write_bytes(
        event(1, Kind.START, -1) + good + event(1, Kind.SUBMIT, 0, aux=-(2**63))
    )
    events = ledger.read(tmp_path)
    assert (events.records.tobytes(), events.unknown) == (good, 2)


def test_frames_have_the_types_they_are_documented_with() -> None:
    frame = ledger.per_task(table([event(2**64 - 1, Kind.START, 5)]))
    assert frame.index.dtype == np.uint64
    nullable = {"due_ns", "submit_ns", "accepted_ns", "start_ns", "end_ns", "fail_ns", "pid", "payload_bytes",
                "burned_ns"}  # fmt: skip
    truths = {"mixed_domains", "repeated"}
    for name, dtype in frame.dtypes.items():
        assert str(dtype) == ("Int64" if name in nullable else "bool" if name in truths else "int64"), name
    fates = ledger.fates(frame, 1.0)
    assert fates.name == "fate"
    assert fates.cat.categories.tolist() == [fate.value for fate in Fate]


def test_ticks_are_told_to_the_nanosecond_after_any_uptime() -> None:
    first_due_ns, started_ns = 2**62 + 1, 2**62 + 4
    records = [event(1, Kind.SUBMIT, 0, first_due_ns), event(1, Kind.START, started_ns)]
    found = ledger.ticks(table(records), EVERY, first_due_ns + 2 * EVERY)
    assert [row["start_ns"] for row in rows(found)] == [started_ns, None]
    assert found["due_ns"].tolist() == [first_due_ns, first_due_ns + EVERY]


def test_a_run_by_a_clock_that_is_far_behind_is_one_row_and_not_a_row_for_every_turn_between() -> None:
    records = [event(1, Kind.SUBMIT, 0, 2**62), event(1, Kind.START, 0), event(1, Kind.END, 1)]
    found = ledger.ticks(table(records), 1, 2**62 + 2)
    assert found["planned"].tolist() == [False, True, True]
    assert found["starts"].tolist() == [1, 0, 0]


def test_a_phase_has_its_own_tasks_and_not_its_schedule() -> None:
    ids = [1 << 32, (1 << 32) + 5, 2 << 32, SCHEDULE | 1 << 32]
    records = table([event(task, Kind.START, 1) for task in ids])
    assert ledger.of_phase(records, 1)["task"].tolist() == ids[:2]
    assert ledger.of_phase(records, 3)["task"].tolist() == []


# --- to the nanosecond ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deadline_s", "waited_ns", "fate"),
    [(1.0, 10**9, "ok"), (1.0, 10**9 + 1, "late"), (0.0, 0, "ok"), (0.0, 1, "late"), (np.inf, LAST_NS, "ok")],
)
def test_late_is_later_than_the_deadline(deadline_s: float, waited_ns: int, fate: str) -> None:
    records = [event(1, Kind.SUBMIT, 0), event(1, Kind.START, waited_ns), event(1, Kind.END, waited_ns)]
    assert ledger.fates(ledger.per_task(table(records)), deadline_s).tolist() == [fate]


def test_what_fails_in_the_moment_the_next_attempt_starts_has_failed_by_then() -> None:
    for failed_ns, repeated in ((4, False), (5, False), (6, True)):
        records = [event(1, Kind.START, 0, run=1), event(1, Kind.FAIL, failed_ns, run=1)]
        records += [event(1, Kind.START, 5, run=2), event(1, Kind.END, 9, run=2)]
        assert ledger.per_task(table(records))["repeated"].tolist() == [repeated]


def test_bodies_that_only_touch_ran_one_at_a_time() -> None:
    records = [event(i, Kind.START, 10 * i) for i in range(4)]
    records += [event(i, kind, 10 * i + 10) for i, kind in enumerate([Kind.END, Kind.FAIL] * 2)]
    assert ledger.at_once(table(records)) == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), max_size=12))
def test_the_most_at_once_is_reached_in_the_moment_one_of_them_starts(spans: list[tuple[int, int]]) -> None:
    records = [event(i, Kind.START, start) for i, (start, _) in enumerate(spans)]
    records += [event(i, Kind.END, start + lasted) for i, (start, lasted) in enumerate(spans)]
    running = [sum(at <= start < at + lasted for at, lasted in spans) for start, _ in spans]
    assert ledger.at_once(table(records)) == max(running, default=0)


# --- attempts ---------------------------------------------------------------------------------------

Execution = tuple[int, int, int, int, int | None, Kind | None, int]
"""Task, clock domain, pid, run, start, how it came out, and when."""


@st.composite
def executions(draw: st.DrawFn) -> list[Execution]:
    """Executions of two tasks in two clock domains; some lost their START, some came to no end."""
    n = draw(st.integers(0, 7))
    times = iter(draw(st.permutations(range(2 * n))))
    found: list[Execution] = []
    for _ in range(n):
        start, done = sorted((next(times), next(times)))
        domain, pid = draw(st.integers(0, 1)), draw(st.integers(1, 2))
        run = sum(one[1:3] == (domain, pid) for one in found)
        has_start = draw(st.integers(0, 4)) > 0
        outcome = draw(st.sampled_from([Kind.END, Kind.FAIL, None]))
        found.append((draw(st.integers(1, 2)), domain, pid, run, start if has_start else None, outcome, done))
    return found


@settings(deadline=None, max_examples=300)
@given(executions())
def test_a_repeat_is_told_within_one_clock_or_by_two_good_ends(found: list[Execution]) -> None:
    records = []
    for task, domain, pid, run, start, outcome, done in found:
        if start is not None:
            records.append(event(task, Kind.START, start, pid=pid, run=run, domain=domain))
        if outcome is not None:
            records.append(event(task, outcome, done, pid=pid, run=run, domain=domain))
    frame = ledger.per_task(table(records))
    for task in frame.index.tolist():
        own = [one for one in found if one[0] == task]
        begun = sorted((one for one in own if one[4] is not None), key=lambda one: one[4] or 0)
        by_definition = sum(one[5] is Kind.END for one in own) > 1 or any(
            before[1] == after[1]
            and (before[5] is Kind.END or (before[5] is Kind.FAIL and before[6] > (after[4] or 0)))
            for before, after in itertools.combinations(begun, 2)
        )
        assert frame["repeated"][task] == by_definition


def test_run_numbers_may_come_round_again() -> None:
    """A process numbers its executions modulo 65536: the second of one number is no part of the first."""
    first = [event(1, Kind.START, 1, run=7), event(1, Kind.FAIL, 2, run=7)]
    again = [event(1, Kind.START, 3, run=7), event(1, Kind.END, 4, run=7)]
    assert ledger.per_task(table(again + first))["repeated"].tolist() == [False]
    vanished = [event(1, Kind.START, 1, run=7)]
    assert ledger.per_task(table(again + vanished))["repeated"].tolist() == [False]
    good = [event(1, Kind.START, 1, run=7), event(1, Kind.END, 2, run=7)]
    assert ledger.per_task(table([again[0], *good]))["repeated"].tolist() == [True]


@pytest.mark.parametrize(
    ("stranger", "retry_pid"),
    [((1, 1, 2, 0), 1), ((1, 0, 3, 0), 4), ((1, 0, 2, 1), 3), ((2, 0, 2, 0), 1)],
    ids=["clock", "process", "run", "task"],
)
def test_an_execution_vanished_whatever_another_came_to(
    stranger: tuple[int, int, int, int], retry_pid: int
) -> None:
    """A START whose END was lost, and an END whose START was lost, are not one execution."""
    task, domain, pid, run = stranger
    records = [
        event(1, Kind.START, 1, pid=2),
        event(task, Kind.END, 5, pid=pid, run=run, domain=domain),
        event(1, Kind.START, 3, pid=retry_pid),
        event(2, Kind.START, 1, pid=8),
        event(2, Kind.START, 2, pid=9),
    ]
    assert not ledger.per_task(table(records))["repeated"].any()


# --- any schedule -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.integers(0, 40),
    st.integers(1, 7),
    st.integers(0, 60),
    st.lists(
        st.tuples(st.integers(0, 70), st.integers(0, 9), st.booleans()),
        max_size=10,
        unique_by=lambda run: run[0],
    ),
)
def test_every_run_counts_in_the_one_turn_it_began_in(
    first_due_ms: int, every_ms: int, until_ms: int, runs: list[tuple[int, int, bool]]
) -> None:
    """`runs`: when each began in ms, how long it lasted, whether it ended. A tick may come 5 ms early."""
    records = [event(1, Kind.SUBMIT, 0, first_due_ms * MS)]
    for run, (start, lasted, ended) in enumerate(runs):
        records.append(event(1, Kind.START, start * MS, run=run))
        if ended:
            records.append(event(1, Kind.END, (start + lasted) * MS, run=run))
    found = ledger.ticks(table(records), every_ms * MS, until_ms * MS)
    due_ms = [due // MS for due in found["due_ns"].tolist()]
    assert due_ms == sorted(set(due_ms))
    assert due_ms == [due for due in due_ms if (due - first_due_ms) % every_ms == 0]
    planned = [due for due, is_planned in zip(due_ms, found["planned"], strict=True) if is_planned]
    assert planned == list(range(first_due_ms, until_ms, every_ms))
    for due, row in zip(due_ms, rows(found), strict=True):
        own = [start for start, *_ in runs if due - 5 <= start < due - 5 + every_ms]
        assert row["starts"] == len(own)
        assert row["start_ns"] == (min(own) * MS if own else None)
        assert row["planned"] or own
        assert row["overlapped"] == any(
            before < start and (not ended or before + lasted > start)
            for start in own
            for before, lasted, ended in runs
        )
    # What began after the last turn is no tick of this schedule; everything else is in one.
    end_ms = max([first_due_ms, *(due + every_ms for due in planned)])
    assert found["starts"].sum() == sum(start < end_ms - 5 for start, *_ in runs)
