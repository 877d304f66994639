from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import ledger
from bench.errors import StoreError, UsageError
from bench.model import RECORD, SUMMARY_COLUMNS, Cell, Kind, Metric, Status
from bench.store import EVENT_COLUMNS, FORMAT, Store, create, latest, open_store, read_run, runs

EVENTS = np.array(
    [(1 << 32, 5, 4, 77, 0, 1, 0), (1 << 32, 9, 0, 78, 1, 3, 0)],
    dtype=[(name, "<i8") for name in EVENT_COLUMNS],
)


def cell(trial: int = 1, system: str = "alpha", **params: object) -> Cell:
    return Cell(system, "plain", "throughput", params or {"tasks": 1000}, trial)


def rate(value: float, note: str = "", low: float | None = None, high: float | None = None) -> Metric:
    return Metric("throughput", "tasks/s", value, 1000, low, high, note)


def write(store: Store, which: Cell, status: Status = Status.OK, reason: str = "", *metrics: Metric) -> None:
    store.cell_folder(which)
    store.write_cell(which, status, reason, metrics, {})


def rows(store: Store, trial: str) -> list[dict[str, str]]:
    with store.write_summary().open(newline="") as lines:
        return [row for row in csv.DictReader(lines) if row["trial"] == trial]


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write everywhere, so the test gives root up for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create(tmp_path / "results", {"schedbench": "0.1", "seed": 7})


def test_a_run_is_found_again_by_id_by_path_and_as_the_latest(store: Store, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert runs(results) == [store.run_id]
    assert latest(results) == store.path
    assert open_store(results, store.run_id).info == store.info
    assert open_store(tmp_path, store.path).info["seed"] == 7


def test_the_latest_run_is_the_one_that_began_last_whatever_the_names(store: Store, tmp_path: Path) -> None:
    kept = create(tmp_path / "results", {})
    kept.update_run(created="2001-01-01T00:00:00+00:00")
    kept.path.rename(tmp_path / "results" / "zzz")
    assert latest(tmp_path / "results") == store.path


def test_an_unknown_run_names_the_nearest_one(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{store.run_id}'"):
        open_store(tmp_path / "results", store.run_id[:-1] + "x")


def test_a_results_folder_without_runs_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="schedbench run"):
        latest(tmp_path)


def test_a_cell_keeps_everything_that_was_recorded(store: Store) -> None:
    one = cell()
    folder = store.cell_folder(one)
    assert (folder / "logs").is_dir()
    assert (folder / "ledger").is_dir()
    tasks, resources = pd.DataFrame({"phase": [1], "index": [0]}), pd.DataFrame({"role": ["client"]})
    store.write_cell(
        one, Status.OK, "", [rate(np.float64(2.0))], {"p": Path("x"), "f": np.nan}, EVENTS, tasks, resources
    )
    assert pq.read_table(folder / "events.parquet").column_names == list(EVENT_COLUMNS)
    assert pq.read_table(folder / "events.parquet").column("t_ns").to_pylist() == [5, 9]
    assert pq.read_table(folder / "tasks.parquet").to_pydict() == {"phase": [1], "index": [0]}
    assert pq.read_table(folder / "resources.parquet").to_pydict() == {"role": ["client"]}
    record = json.loads((folder / "cell.json").read_text())
    assert record["format"] == FORMAT
    assert record["cell"] == {
        "system": "alpha",
        "variant": "plain",
        "scenario": "throughput",
        "params": {"tasks": 1000},
        "trial": 1,
    }
    assert record["details"] == {"p": "x", "f": None}
    assert record["metrics"][0]["value"] == 2.0
    assert record["seconds"] >= 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "cell.json",
        "events.parquet",
        "logs",
        "resources.parquet",
        "tasks.parquet",
    ]


def test_only_finished_cells_that_were_not_interrupted_are_done(store: Store) -> None:
    write(store, cell(1), Status.OK, "", rate(1))
    write(store, cell(2), Status.INTERRUPTED, "Ctrl-C")
    write(store, cell(3), Status.TIMEOUT, "too slow")
    store.cell_folder(cell(4))
    assert store.done() == {cell(1).id, cell(3).id}


def test_a_cell_that_was_cut_off_leaves_nothing_in_its_second_attempt(store: Store, tmp_path: Path) -> None:
    (store.cell_folder(cell()) / "ledger" / "1-1.events").write_bytes(b"old")
    (store.cell_folder(cell()) / "ledger" / "2-2.events").write_bytes(b"same attempt")
    assert len(list((store.cell_folder(cell()) / "ledger").iterdir())) == 2
    again = open_store(tmp_path / "results", store.run_id).cell_folder(cell())
    assert list((again / "ledger").iterdir()) == []


def test_the_summary_has_the_columns_of_the_design_and_the_median_over_trials(store: Store) -> None:
    for trial, value in enumerate([10, 30, 20, 40, 60, 50], start=1):
        write(store, cell(trial), Status.OK, "", rate(value))
    [row] = rows(store, "")
    assert tuple(row) == SUMMARY_COLUMNS
    assert (float(row["value"]), float(row["ci_low"]), float(row["ci_high"])) == (35, 10, 60)
    assert (row["n"], row["status"], row["reason"]) == ("6", "ok", "")
    assert [r["value"] for trial in "123456" for r in rows(store, trial)] == [
        "10",
        "30",
        "20",
        "40",
        "60",
        "50",
    ]


def test_few_trials_say_what_their_interval_covers(store: Store) -> None:
    for trial, value in enumerate([10, 30, 20], start=1):
        write(store, cell(trial), Status.OK, "", rate(value))
    [row] = rows(store, "")
    assert row["reason"] == "interval of 3 trials covers 75 %"


def test_a_single_trial_keeps_its_own_interval_and_says_so(store: Store) -> None:
    write(store, cell(), Status.OK, "", rate(10, "n < 1000", 9, 12))
    [row] = rows(store, "")
    assert (row["value"], row["ci_low"], row["ci_high"], row["n"]) == ("10", "9", "12", "1")
    assert row["reason"] == "n < 1000; 1 trial, the interval is within it"


def test_failed_trials_have_their_own_row_and_are_counted_in_the_aggregate(store: Store) -> None:
    for trial in range(1, 5):
        write(store, cell(trial), Status.OK, "", rate(trial))
    write(
        store, cell(5), Status.TIMEOUT, "drain not over\nafter 120 s", Metric("tasks_lost", "count", 3, 1000)
    )
    write(store, cell(6), Status.ERROR, "worker died")
    failed, kept = rows(store, "5")
    assert (failed["metric"], failed["value"], failed["status"]) == ("", "", "timeout")
    assert failed["reason"] == "drain not over after 120 s"
    assert (kept["metric"], kept["value"], kept["status"]) == ("tasks_lost", "3", "timeout")
    [row] = rows(store, "")
    assert (row["metric"], float(row["value"]), row["n"], row["status"]) == (
        "throughput",
        2.5,
        "4",
        "partial",
    )
    assert row["reason"].startswith(
        "2 of 6 trials failed: timeout: drain not over after 120 s, error: worker died"
    )


def test_a_condition_in_which_all_trials_failed_is_a_row_without_a_figure(store: Store) -> None:
    write(store, cell(1), Status.UNSUPPORTED, "no Redis")
    write(store, cell(2), Status.UNSUPPORTED, "no Redis")
    [row] = rows(store, "")
    assert (row["metric"], row["value"], row["n"], row["status"]) == ("", "", "0", "unsupported")
    assert row["reason"] == "2 of 2 trials failed: unsupported: no Redis"


def test_an_invalid_trial_is_kept_but_not_in_the_median(store: Store) -> None:
    write(store, cell(1), Status.OK, "", rate(1))
    write(store, cell(2), Status.OK, "", rate(3))
    write(
        store, cell(3), Status.OK, "", rate(99, "1 of 9 tasks never started; invalid: generator fell behind")
    )
    [row] = rows(store, "")
    assert (float(row["value"]), row["n"], row["status"]) == (2, "2", "partial")
    assert (
        "1 of 3 trials left out: 1 of 9 tasks never started, invalid: generator fell behind" in row["reason"]
    )
    assert [r["value"] for r in rows(store, "3")] == ["99"]


def test_where_every_trial_is_invalid_the_figure_is_shown_as_invalid(store: Store) -> None:
    write(store, cell(1), Status.OK, "", rate(5, "invalid: generator fell behind"))
    [row] = rows(store, "")
    assert (row["value"], row["reason"]) == ("5", "invalid: generator fell behind; 1 trial")


def test_a_figure_that_is_not_a_number_is_empty(store: Store) -> None:
    write(store, cell(1), Status.OK, "", rate(float("nan")))
    assert [row["value"] for row in rows(store, "")] == [""]
    assert np.isnan(read_run(store.path).summary["value"]).all()


def test_a_remark_of_several_lines_is_on_one_line_in_the_summary(store: Store) -> None:
    """A lone carriage return ends a row of a CSV that was not quoted."""
    write(store, cell(1), Status.OK, "", rate(10.5, note="library said:\r50 %\r\n 100 %\tdone"))
    write(store, cell(2), Status.ERROR, "first\rsecond")
    found = [rows(store, trial)[0]["reason"] for trial in ("1", "2", "")]
    assert found[:2] == ["library said: 50 % 100 % done", "first second"]
    assert "first second" in found[2]
    assert "library said: 50 % 100 % done" in found[2]


def test_a_run_is_read_the_same_from_its_cells_and_from_its_summary_alone(store: Store) -> None:
    write(store, cell(1), Status.OK, "", rate(10.5, low=9.25))
    write(store, cell(2), Status.ERROR, "x")
    store.write_summary()
    whole = read_run(store.path)
    for file in store.path.glob("cells/*/cell.json"):
        file.unlink()
    summary_only = read_run(store.path)
    assert len(whole.cells) == 2
    assert summary_only.cells == []
    pd.testing.assert_frame_equal(whole.summary, summary_only.summary)


def test_a_run_without_any_finished_cell_says_how_to_complete_it(store: Store) -> None:
    with pytest.raises(StoreError, match=f"--resume {store.run_id}"):
        read_run(store.path)


def test_fields_of_the_run_can_be_set_later(store: Store, tmp_path: Path) -> None:
    store.update_run(interrupted=True, wall_s=2.5)
    info = open_store(tmp_path / "results", store.run_id).info
    assert (info["interrupted"], info["wall_s"], info["format"]) == (True, 2.5, FORMAT)


@pytest.mark.parametrize("name", ["run.json", "cell.json"])
def test_a_newer_format_is_refused_with_the_version_that_wrote_it(
    store: Store, tmp_path: Path, name: str
) -> None:
    write(store, cell(), Status.OK, "", rate(1))
    [file] = store.path.rglob(name)
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "format": FORMAT + 1, "schedbench": "9.9", "run_id": "x"})
    )
    with pytest.raises(StoreError, match=r"format 2, written by schedbench 9\.9.*upgrade"):
        read_run(store.path)
    if name == "run.json":
        with pytest.raises(StoreError, match="upgrade"):
            open_store(tmp_path / "results", store.run_id)


def test_a_damaged_file_is_named(store: Store) -> None:
    (store.path / "run.json").write_text("{")
    with pytest.raises(StoreError, match=r"run\.json is damaged"):
        read_run(store.path)


def test_a_results_folder_that_is_not_writable_is_one_line_with_advice(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with unprivileged(), pytest.raises(StoreError, match=r"not writable.*--results") as caught:
        create(tmp_path / "results", {})
    assert "\n" not in str(caught.value)


def test_a_results_folder_under_a_file_is_one_line_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--results"):
        create(tmp_path / "file" / "results", {})


@pytest.mark.parametrize("name", ["cell.json.new", "events.parquet"])
def test_a_full_disk_says_how_to_go_on_and_leaves_the_cell_incomplete(store: Store, name: str) -> None:
    folder = store.cell_folder(cell())
    (folder / name).symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"disk is full.*--resume"):
        store.write_cell(cell(), Status.OK, "", [rate(1)], {}, EVENTS)
    assert store.done() == set()


# --- round trips ------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8"), max_size=30)
REMARKS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30)
FIGURES = st.floats(allow_nan=False, allow_infinity=False)
METRICS = st.lists(
    st.builds(
        Metric,
        name=st.sampled_from(["throughput", "latency_p50"]),
        unit=REMARKS,
        value=FIGURES,
        n=st.integers(0, 2**63 - 1),
        low=st.none() | FIGURES,
        high=st.none() | FIGURES,
        note=WORDS,
    ),
    max_size=2,
    unique_by=lambda metric: metric.name,
)
RECORDS = st.lists(
    st.builds(
        RECORD.pack,
        st.integers(2**64 - 4, 2**64 - 1) | st.integers(0, 3),
        st.integers(2**63 - 4, 2**63 - 1) | st.integers(0, 9),
        st.integers(2**63 - 4, 2**63 - 1) | st.integers(0, 9),
        st.integers(2**32 - 2, 2**32 - 1) | st.integers(0, 1),
        st.integers(0, 2**16 - 1),
        st.sampled_from(Kind),
        st.integers(0, 255),
    ),
    max_size=20,
)


@settings(deadline=None, max_examples=25)
@given(RECORDS)
def test_the_history_of_a_cell_can_be_judged_again_from_what_was_kept(
    tmp_path_factory: pytest.TempPathFactory, packed: list[bytes]
) -> None:
    """Events and tasks come back to the bit, also at the ends of 64 bits, and give the same fates."""
    records = np.frombuffer(b"".join(packed), ledger.EVENT)
    frame = ledger.per_task(records)
    store = create(tmp_path_factory.mktemp("kept"), {})
    folder = store.cell_folder(cell())
    store.write_cell(cell(), Status.OK, "", [], {}, records, frame.reset_index())
    kept = pq.read_table(folder / "events.parquet")
    again = np.empty(kept.num_rows, ledger.EVENT)
    for name in EVENT_COLUMNS:
        assert kept.schema.field(name).type == pa.from_numpy_dtype(ledger.EVENT[name])
        again[name] = kept.column(name).to_numpy()
    assert again.tobytes() == b"".join(packed)
    assert not (folder / "ledger").exists()
    tasks = pd.read_parquet(folder / "tasks.parquet").set_index("task")
    pd.testing.assert_frame_equal(tasks, frame)
    assert ledger.fates(tasks, 1.0).tolist() == ledger.fates(frame, 1.0).tolist()


@settings(deadline=None, max_examples=50)
@given(METRICS, WORDS, st.sampled_from(Status))
def test_a_cell_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, metrics: list[Metric], reason: str, status: Status
) -> None:
    """Every figure to the last bit and every word, from the cell and from the summary alone."""
    store = create(tmp_path_factory.mktemp("cells"), {})
    store.write_cell(cell(), status, reason, metrics, {})
    store.write_summary()
    whole = read_run(store.path)
    (record,) = whole.cells
    assert [Metric(**metric) for metric in record["metrics"]] == metrics
    assert (record["status"], record["reason"]) == (status.value, " ".join(reason.split()))
    assert store.done() == (set() if status is Status.INTERRUPTED else {cell().id})
    rows = whole.summary[(whole.summary["trial"] == "1") & (whole.summary["metric"] != "")]
    assert rows["metric"].tolist() == [metric.name for metric in metrics]
    assert rows["value"].tolist() == [metric.value for metric in metrics]
    (store.path / "cells" / cell().id / "cell.json").unlink()
    if metrics or status is not Status.OK:
        pd.testing.assert_frame_equal(read_run(store.path).summary, whole.summary, check_exact=True)


@settings(deadline=None, max_examples=25)
@given(
    st.dictionaries(WORDS, st.none() | st.booleans() | st.integers() | FIGURES | WORDS | st.lists(WORDS)),
)
def test_what_is_known_of_a_run_reads_back(
    tmp_path_factory: pytest.TempPathFactory, info: dict[str, object]
) -> None:
    store = create(tmp_path_factory.mktemp("runs"), {})
    store.update_run(known=info)
    assert open_store(store.path.parent, store.run_id).info["known"] == info
