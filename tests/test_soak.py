"""A soak: its plan, its figures, and that neither the harness nor its end costs a record.

The harness is really killed, at moments that are drawn anew in every run of the tests.
"""

from __future__ import annotations

import functools
import gc
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FunctionType, ModuleType

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from bench import checkpoint, discovery, ledger, matrix, sampler
from bench.agent import pacer
from bench.errors import CellError, UsageError
from bench.harness import Home
from bench.model import RECORD, Arrival, Cell, Fate, Kind, Load, Metric, Status, Variant
from bench.processes import Group
from bench.sampler import Sampler
from bench.scenario import History
from bench.store import LEDGER, PAST, Store, create
from bench.tail import Tail
from scenarios import soak
from tests.test_bad_days import Harness, until

SOAK = discovery.scenarios()["soak"]
S = 1_000_000_000
MS = 1_000_000
HOUR = 3600 * S

# --- what may be asked ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("24h", 86_400), ("1.5h", 5400)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert matrix.overrides([f"soak.duration={text}"], {"soak": SOAK}) == {"soak": {"duration": (text,)}}
    assert SOAK.seconds(SOAK.values({"duration": text})) == seconds


@pytest.mark.parametrize("text", ["24", "h", "-1h", "0s", "1d", "1h30m", "1e3s", ""])
def test_what_is_no_duration_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"such as 90s, 10m or 24h \(how long it lasts"):
        matrix.overrides([f"soak.duration={text}"], {"soak": SOAK})


def test_it_runs_only_when_it_is_named() -> None:
    assert SOAK.unasked == frozenset()


def test_it_offers_the_surveys_rate_and_compressed_more_of_it_for_less_time() -> None:
    day, hour = (_load(duration="24h", compress=k) for k in (1, 24))
    assert (day.n, hour.n) == (24_000, 24_000)
    assert day.n / day.rate_hz == pytest.approx(86_400)
    assert hour.n / hour.rate_hz == pytest.approx(3600)
    assert dict(day.mix)["raise-once"] == pytest.approx(0.02 * sum(weight for _, weight in day.mix))


def test_compressed_is_said_of_every_figure_and_never_called_a_day() -> None:
    assert (
        SOAK.remark(SOAK.values({"duration": "24h", "compress": 24}))
        == "compressed \N{MULTIPLICATION SIGN}24"
    )
    assert SOAK.remark(SOAK.values({"duration": "24h"})) == ""
    load = _load(duration="24h", compress=24)
    tasks = [_task(i, load=load) for i in (0, load.n - 1)]
    found = _figures(_history(tasks, duration="24h", compress=24), duration="24h", compress=24)
    assert found["ran"].note == "60 min, not 24 h"


def _load(**params: object) -> Load:
    phase = next(SOAK.phases(SOAK.values(params), Variant("v")))
    assert phase.load is not None
    return phase.load


# --- the profile of a day ---------------------------------------------------------------------------


def test_a_day_has_its_tasks_where_its_hours_have_them() -> None:
    """40 000 draws: the share of each hour is within five standard errors of that of the profile."""
    load = Load(40_000, Arrival.DAILY, 40_000 / 86_400, seed=3)
    at = np.array(pacer.offsets_ns(load))
    assert (np.diff(at) >= 0).all()
    assert 0 <= at[0] <= at[-1] <= 24 * HOUR
    counts = np.bincount(at // HOUR, minlength=24)
    share = np.array(pacer.HOURS) / sum(pacer.HOURS)
    error = np.sqrt(load.n * share * (1 - share))
    assert (np.abs(counts - load.n * share) < 5 * error).all()
    assert max(share) / np.mean(share) > 2


def test_a_shorter_load_has_a_whole_day_in_it_and_a_longer_one_repeats_it() -> None:
    day = Load(24_000, Arrival.DAILY, 24_000 / 86_400, seed=5)
    minute = replace(day, rate_hz=24_000 / 60)
    assert pacer.offsets_ns(minute) == pytest.approx(np.array(pacer.offsets_ns(day)) / 1440, abs=2)
    two = np.array(pacer.offsets_ns(replace(day, n=48_000)))
    first, second = (np.bincount(two[two // (24 * HOUR) == i] // HOUR % 24, minlength=24) for i in (0, 1))
    assert (np.abs(first - second) < 5 * np.sqrt(first + second) + 1).all()
    half = np.array(pacer.offsets_ns(replace(day, n=36_000)))
    assert half[-1] <= 36 * HOUR
    assert (half > 24 * HOUR).sum() == pytest.approx(12_000 * sum(pacer.HOURS[:12]) / 112, rel=0.1)


def test_the_same_seed_gives_the_same_day() -> None:
    load = Load(500, Arrival.DAILY, 1.0, seed=1)
    assert pacer.offsets_ns(load) == pacer.offsets_ns(load)
    assert pacer.offsets_ns(load) != pacer.offsets_ns(replace(load, seed=2))


# --- what the figures say ---------------------------------------------------------------------------

Event = tuple[int, Kind, int, int, int, int]
"""Index, kind, t_ns, aux, run, clock domain."""


def _task(
    index: int,
    ends: int = 1,
    *,
    fails: int = 0,
    domain: int = 0,
    clock_ns: int = 0,
    waited_ms: int = 5,
    load: Load | None = None,
) -> list[Event]:
    """A task that was sent when it was due, by the clock of its segment, failed and then ended so often."""
    load = load or DAY
    due = _due_ns(load)[index] + clock_ns
    events = [(index, Kind.SUBMIT, due, due, 0, domain), (index, Kind.ACCEPTED, due + MS, 0, 0, domain)]
    at = due + waited_ms * MS
    for run, kind in enumerate([Kind.FAIL] * fails + [Kind.END] * ends):
        events += [(index, Kind.START, at, 0, run, domain), (index, kind, at + MS, 0, run, domain)]
        at += 10 * MS
    return events


_due_ns = functools.cache(pacer.offsets_ns)
DAY = _load(duration="24h")


def _records(tasks: list[list[Event]]) -> ledger.Records:
    return np.array(
        [
            (1 << 32 | index, t_ns, aux, 7, 100 * index % 60_000 + run, kind, domain)
            for events in tasks
            for index, kind, t_ns, aux, run, domain in events
        ],
        ledger.EVENT,
    )


def _history(
    tasks: list[list[Event]],
    samples: list[dict[str, object]] | None = None,
    *,
    segment: int = 0,
    retries: int = 1,
    **params: object,
) -> History:
    phase = next(SOAK.phases(SOAK.values(params or {"duration": "24h"}), Variant("v")))
    assert phase.load is not None
    phase = replace(phase, load=replace(phase.load, retries=retries))
    frame = pd.DataFrame(samples or [], columns=list(sampler.COLUMNS))
    per_task = ledger.per_task(_records(tasks))
    return History(per_task, frame, {1: phase}, {}, False, "cgroup2", segment=segment)


def _figures(made: History, **params: object) -> dict[str, Metric]:
    metrics = list(SOAK.metrics(made, SOAK.values(params or {"duration": "24h"})))
    found = {metric.name: metric for metric in metrics}
    assert len(found) == len(metrics), "two metrics of one name"
    return found


def _raising(load: Load, wanted: bool = True) -> Iterator[int]:
    return (i for i, work in enumerate(pacer.works(load)) if (work == "raise-once") is wanted)


def test_a_day_without_a_failure_supports_no_more_than_its_tasks_do() -> None:
    """Rule of three: 24 000 clean tasks leave room for 3 / 24 000."""
    found = _figures(_history([_task(i) for i in range(24_000)]))
    rate = found["success_rate"]
    assert (rate.value, rate.high, rate.n) == (100.0, 100.0, 24_000)
    assert rate.low == pytest.approx(100 * 0.025 ** (1 / 24_000))
    assert rate.note == "24 h; no failure in 24000: at most 0.012 % fail (95 %, one-sided)"
    assert found["incidents"].value == 0
    assert found["ran"].value == pytest.approx(86_400, abs=60)


def test_a_task_that_raised_as_asked_and_was_retried_is_ok() -> None:
    index = next(_raising(_load(duration="24h")))
    made = _history([_task(0), _task(index, fails=1)])
    assert _figures(made)["success_rate"].value == 100.0
    assert [metric.value for metric in made.fates(60.0) if metric.name == "tasks_ok"] == [2]


def test_without_retries_what_fails_as_asked_is_left_out_and_said() -> None:
    raising = list(_raising(_load(duration="24h")))[:3]
    others = list(_raising(_load(duration="24h"), wanted=False))
    tasks = [_task(i, 0, fails=1) for i in raising] + [_task(i) for i in others[:9]]
    tasks.append(_task(others[9], 0, fails=1))  # nobody asked this one to fail
    found = _figures(_history(tasks, retries=0))
    assert (found["success_rate"].value, found["success_rate"].n) == (90.0, 10)
    assert "3 left out that failed as asked: it has no retries" in found["success_rate"].note
    assert found["tasks_failed_as_asked"].value == 3
    assert found["incidents"].value == 1


def test_with_retries_a_task_that_never_ends_well_is_a_failure() -> None:
    index = next(_raising(_load(duration="24h")))
    found = _figures(_history([_task(0), _task(index, 0, fails=2)]))
    assert found["success_rate"].value == 50.0
    assert "tasks_failed_as_asked" not in found


@pytest.mark.parametrize(
    ("at_s", "n"),
    [([], 0), ([5.0], 1), ([5.0, 64.9, 124.8], 1), ([5.0, 65.0], 2), ([0.0, 1.0, 100.0, 101.0, 500.0], 3)],
)
def test_a_gap_of_a_minute_begins_another_incident(at_s: list[float], n: int) -> None:
    assert soak.incidents(np.array(at_s)) == n


def test_latency_over_time_has_a_figure_for_each_hour_of_a_day() -> None:
    load = _load(duration="24h")
    hours = np.array(pacer.offsets_ns(load)) // HOUR
    found = _figures(_history([_task(i, waited_ms=1 + int(hours[i])) for i in range(load.n)]))
    parts = [found[f"dispatch_latency_part{hour + 1:02}of24_p95"].value for hour in range(24)]
    assert parts == [1 + hour for hour in range(24)]


def test_memory_growth_is_told_by_role_and_per_hour() -> None:
    """A worker that gains 6 MB an hour and a broker that gains nothing, sampled every minute for a day."""
    samples = [
        _sample(at_s * S, role, (100 + rate * at_s / 3600) * 1e6)
        for at_s in range(0, 86_400, 60)
        for role, rate in (("worker", 6.0), ("broker", 0.0))
    ]
    found = _figures(_history([_task(0), _task(23_999)], samples))
    assert found["growth_pss_per_hour.worker"].value == pytest.approx(6.0, rel=1e-3)
    assert found["growth_pss_per_hour.total"].value == pytest.approx(6.0, rel=1e-3)
    assert found["growth_pss_per_hour.broker"].value == pytest.approx(0.0, abs=1e-6)
    assert found["growth_pss_per_hour.worker"].note == "sampled for 21.6 h"
    assert found["loaded_pss_part13of24.worker"].value == pytest.approx(175, abs=0.5)


def test_few_samples_are_said_and_a_moment_gives_no_growth() -> None:
    ten_minutes = [_sample(at_s * S, "worker", 1e6 * at_s) for at_s in range(0, 600, 30)]
    assert _growth(ten_minutes).note == "n < 60; sampled for 8.5 min"
    with pytest.raises(KeyError):
        _growth(ten_minutes[:2])


def _growth(samples: list[dict[str, object]]) -> Metric:
    return _figures(_history([_task(0)], samples))["growth_pss_per_hour.worker"]


def _sample(t_ns: int, role: str, pss: float, domain: int = 0) -> dict[str, object]:
    head = {"t_ns": t_ns, "phase": "soak", "edge": "", "role": role, "processes": 1, "cpu_ns": 0}
    return {**head, "pss_bytes": pss, "uss_bytes": pss, "rss_bytes": pss, "domain": domain}


def test_segments_have_clocks_of_their_own_and_are_put_together_by_the_plan() -> None:
    """The second segment's clock is far behind the first one's, as after a reboot; 6 hours lay between."""
    load = _load(duration="24h")
    due_h = np.array(pacer.offsets_ns(load)) / HOUR
    before, after = np.flatnonzero(due_h < 12), np.flatnonzero(due_h >= 18)
    tasks = [_task(int(i), clock_ns=500 * HOUR) for i in before[:-3]]
    tasks += [_task(int(i), 0, clock_ns=500 * HOUR) for i in before[-3:]]
    tasks += [_task(int(i), domain=1, clock_ns=-17 * HOUR) for i in after]
    samples = [_sample(500 * HOUR + h * HOUR // 60, "worker", 5e6) for h in range(720)]
    samples += [_sample(HOUR + h * HOUR // 60, "worker", 9e6, domain=1) for h in range(360)]
    made = _history(tasks, samples, segment=1)
    found = _figures(made)
    fates = {metric.name: metric.value for metric in made.fates(60.0)}
    assert (fates["tasks_cut_off"], fates["tasks_lost"], fates["tasks_failed"]) == (3, 0, 0)
    assert found["tasks_not_offered"].value == load.n - len(before) - len(after)
    assert found["tasks_offered"].value + found["tasks_not_offered"].value == load.n
    assert (found["success_rate"].value, found["success_rate"].n) == (100.0, len(before) + len(after) - 3)
    assert "3 left out that were under way" in found["success_rate"].note
    assert found["ran"].value == pytest.approx(18 * 3600, abs=60)
    assert found["segments"].value == 2
    assert found["dispatch_latency_max"].value == pytest.approx(5.0)
    assert "dispatch_latency_part14of24_p50" not in found
    assert found["loaded_pss_part20of24.worker"].value == 9
    assert found["growth_pss_per_hour.worker"].note.startswith("the longest of 2 segments")


def test_a_retry_that_the_harness_cut_off_did_not_fail() -> None:
    tasks = [_task(0, 0, fails=1), _task(1, 0, fails=2), _task(2, 0)]
    assert _fates(tasks, retries=1, segment=1) == ["cut_off", "failed", "cut_off"]
    assert _fates(tasks, retries=0, segment=1) == ["failed", "failed", "cut_off"]
    assert _fates(tasks, retries=1, segment=0) == ["failed", "failed", "lost"]


def _fates(tasks: list[list[Event]], *, retries: int, segment: int) -> list[str]:
    frame = ledger.per_task(_records(tasks))
    return ledger.fates(frame, 60.0, retries=retries, segment=segment).tolist()


# --- a ledger of a day ------------------------------------------------------------------------------

DEAD_PIDS = range(2**22 + 1, 2**22 + 100_000)
"""Above the most that Linux gives out."""

STEPS = """
import os, signal, sys
from pathlib import Path
from bench.ledger import compact

left = int(sys.argv[1])

def before(event, args):
    global left
    if event in ("open", "os.rename", "os.remove"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(before)
compact(Path(sys.argv[2]), sys.argv[3:])
"""


def _event(task: int, kind: Kind, t_ns: int) -> bytes:
    return RECORD.pack(1 << 32 | task, t_ns, 0, 7, 0, kind, 0)


def _files(folder: Path, numbers: range) -> list[str]:
    """A file of a process that is gone for each of these tasks."""
    for number in numbers:
        records = _event(number, Kind.START, 2 * number), _event(number, Kind.END, 2 * number + 1)
        (folder / f"{DEAD_PIDS[number]}-0.events").write_bytes(b"".join(records))
    return [f"{DEAD_PIDS[number]}-0.events" for number in numbers]


def test_a_crash_at_any_step_of_compacting_costs_no_record(tmp_path: Path) -> None:
    killed = 0
    for step in range(100):
        folder = tmp_path / str(step)
        folder.mkdir()
        ledger.compact(folder, _files(folder, range(2)))
        names = _files(folder, range(2, 5))
        argv = [sys.executable, "-c", STEPS, str(step), str(folder), *names]
        ended = subprocess.run(argv, check=False, timeout=60).returncode
        assert _ends(folder) == Counter(range(5))
        tail = Tail(folder)
        tail.poll()
        tail.compact()  # goes on after the crash
        assert _ends(folder) == Counter(range(5))
        assert [path.name for path in folder.glob("*.events")] == [ledger.COMPACTED]
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        killed += 1
    # A new file, what there was, three parts, the name, the folder, and three parts that go.
    assert killed >= 10


def _ends(folder: Path) -> Counter[int]:
    records = ledger.read(folder).records
    return Counter((records["task"][records["kind"] == Kind.END] & 0xFFFFFFFF).tolist())


def test_what_is_compacted_is_not_counted_twice_and_what_is_written_later_is_seen(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    _files(tmp_path, range(4))
    alive = tmp_path / f"{os.getpid()}-0.events"
    alive.write_bytes(_event(4, Kind.END, 100))
    torn = tmp_path / f"{DEAD_PIDS[9]}-0.events"
    torn.write_bytes(_event(5, Kind.END, 101) + b"torn")
    assert len(tail.poll()) == 10
    tail.compact()
    assert {path.name for path in tmp_path.iterdir()} == {ledger.COMPACTED, alive.name, torn.name}
    alive.write_bytes(_event(4, Kind.END, 100) + _event(6, Kind.END, 102))
    fresh = np.concatenate([tail.poll() for _ in range(40)])
    assert (fresh["t_ns"].tolist(), tail.ended(1)) == ([102], 7)
    assert ledger.read(tmp_path).torn_bytes == 4


def test_following_a_day_of_processes_holds_no_more_than_an_hour_of_them(tmp_path: Path) -> None:
    """RQ runs every task in a process of its own, which leaves a file."""
    tail, held, files = Tail(tmp_path), [], []
    for hour in range(24):
        _files(tmp_path, range(20 * hour, 20 * hour + 20))
        tail.poll()
        tail.compact()
        held.append(_objects(tail))
        files.append(sum(1 for _ in tmp_path.iterdir()))
    assert set(files) == {1}
    assert max(held) < held[0] + 20  # numbers up to 256 are one object each, and so are shared
    assert tail.ended(1) == 480


def test_a_sampler_holds_no_samples(tmp_path: Path, harness_group: Group) -> None:
    made = Sampler(harness_group, tmp_path)
    held = []
    for _ in range(50):
        made.sample("soak", with_memory=True)
        held.append(_objects(made))
    assert max(held) < held[0] + 20
    assert len(made.frame()) == 50 * len(set(made.frame()["role"]))


def _objects(root: object) -> int:
    """How many objects can be reached from one, classes and modules left out."""
    seen: dict[int, object] = {}
    todo = [root]
    while todo:
        one = todo.pop()
        if id(one) not in seen and not isinstance(one, type | ModuleType | FunctionType):
            seen[id(one)] = one
            todo += gc.get_referents(one)
    return len(seen)


@pytest.fixture
def harness_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """A process that sleeps."""
    home = Home()
    group = Group(home, str(time.monotonic_ns()))
    folder = tmp_path_factory.mktemp("group")
    group.spawn("worker", ["sleep", "600"], env={}, cwd=folder, log=folder / "log")
    yield group
    group.kill()
    home.close()


def test_samples_are_read_back_as_they_were_taken_but_for_a_torn_one(
    tmp_path: Path, harness_group: Group
) -> None:
    made = Sampler(harness_group, tmp_path, domain=3)
    made.sample("a phase, with a comma", "begin", with_memory=True)
    made.sample("soak", with_memory=False)
    whole = made.frame()
    assert whole["phase"].tolist() == ["a phase, with a comma", "soak"]
    assert whole["edge"].tolist() == ["begin", ""]
    assert whole["pss_bytes"].isna().tolist() == [False, True]
    assert whole["domain"].tolist() == [3, 3]
    with (tmp_path / sampler.FILE).open("a") as file:
        file.write("123,so")
    pd.testing.assert_frame_equal(made.frame(), whole)
    assert len(sampler.read_samples([tmp_path / "nothing"])) == 0


def test_a_task_that_will_be_run_again_has_not_ended(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    tail.allow(1, 1)
    path = tmp_path / f"{os.getpid()}-0.events"
    ended = []
    for kind in (Kind.FAIL, Kind.FAIL, Kind.END):
        with path.open("ab") as file:
            file.write(_event(0, kind, 1) + _event(1, Kind.FAIL if kind is Kind.FAIL else Kind.START, 2))
        tail.poll()
        ended.append(tail.ended(1))
    assert ended == [0, 2, 2]


# --- segments ---------------------------------------------------------------------------------------


def test_a_cell_is_taken_up_without_touching_what_it_recorded(tmp_path: Path) -> None:
    (tmp_path / LEDGER).mkdir()
    first = checkpoint.take_up(tmp_path)
    assert (first.number, first.past, first.position_ns) == (0, [], 0)
    (tmp_path / LEDGER / "1-0.events").write_bytes(_event(0, Kind.END, 1))
    begun = first.saved()
    second = checkpoint.take_up(tmp_path)
    assert second.number == 1
    assert second.plan_wall_ns == begun.plan_wall_ns
    assert second.position_ns >= begun.alive_wall_ns - begun.plan_wall_ns
    assert (tmp_path / PAST / "0" / "1-0.events").exists()
    assert list((tmp_path / LEDGER).iterdir()) == []
    # One that recorded nothing is no segment.
    assert checkpoint.take_up(tmp_path).number == 1
    assert ledger.read(*second.ledgers).records["t_ns"].tolist() == [1]


def test_a_wall_clock_that_was_set_back_takes_nothing_back(tmp_path: Path) -> None:
    late_ns = time.time_ns() + HOUR
    segment = checkpoint.Segment(tmp_path, 1, plan_wall_ns=late_ns - 60 * S, alive_wall_ns=late_ns)
    assert segment.position_ns == 60 * S
    assert segment.saved().alive_wall_ns == late_ns


def test_a_cell_is_cut_off_only_as_often_as_there_are_clock_domains(tmp_path: Path) -> None:
    (tmp_path / LEDGER).mkdir()
    checkpoint.Segment(tmp_path).saved()
    for number in range(checkpoint.MOST_SEGMENTS):
        (tmp_path / PAST / str(number)).mkdir(parents=True)
    with pytest.raises(CellError, match="256 times"):
        checkpoint.take_up(tmp_path)


def test_only_a_cell_with_a_checkpoint_is_kept(tmp_path: Path) -> None:
    run = create(tmp_path, {})
    cells = [Cell("alpha", "plain", "soak", {}, trial) for trial in (1, 2)]
    for cell in cells:
        folder = run.cell_folder(cell)
        (folder / LEDGER / "1-0.events").write_bytes(_event(0, Kind.END, 1))
    checkpoint.Segment(run.cell_folder(cells[0])).saved()
    run.write_cell(cells[0], Status.INTERRUPTED, "Ctrl-C", [], {})
    again = Store(run.path, run.info)
    kept = [list((again.cell_folder(cell, keep=True) / LEDGER).iterdir()) for cell in cells]
    assert [len(files) for files in kept] == [1, 0]
    assert again.done() == set()


# --- a harness that is killed -----------------------------------------------------------------------

PER_HOUR, LASTS_S = 72_000, 12
PLANNED = PER_HOUR * LASTS_S // 3600
ASKED = (
    *("--scenario", "soak", "--set", f"soak.duration={LASTS_S}s", "--set", f"soak.per_hour={PER_HOUR}"),
    *("--trials", "1"),
)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    yield made
    try:
        assert made.left() == []
    finally:
        made.end()


def _ledgers(harness: Harness) -> list[Path]:
    return [
        *harness.folder.glob("results/*/cells/*/ledger"),
        *harness.folder.glob("results/*/cells/*/past/*"),
    ]


def _recorded(harness: Harness) -> set[bytes]:
    """Every record that stands on the disk now."""
    return {record.tobytes() for record in ledger.read(*_ledgers(harness)).records}


def _sent(harness: Harness) -> int:
    """How many tasks of the load were sent so far."""
    records = ledger.of_phase(ledger.read(*_ledgers(harness)).records, 1)
    return int((records["kind"] == Kind.SUBMIT).sum())


def _kept(harness: Harness) -> set[bytes]:
    """Every record that stands in the finished cell."""
    (file,) = harness.folder.glob("results/*/cells/*/events.parquet")
    columns = pq.read_table(file).to_pydict()
    rows = zip(
        *(columns[name] for name in ("task", "t_ns", "aux", "pid", "run", "kind", "domain")), strict=True
    )
    return {RECORD.pack(*row) for row in rows}


def _cut(harness: Harness, how: signal.Signals, *words: str) -> set[bytes]:
    """Run until a moment that is drawn, end the harness, and say what was on the disk then."""
    before = _sent(harness)
    running = harness.start("run", *words)
    moment = before + random.randint(3, PLANNED // 4)
    until(lambda: _sent(harness) >= moment or running.poll() is not None, f"{moment} tasks", 120)
    running.send_signal(how)
    running.communicate(timeout=60)
    return _recorded(harness)


def _adds_up(harness: Harness, cut: set[bytes]) -> dict[str, float]:
    """What a soak that was cut off comes to; its metrics by name."""
    cell = harness.only_cell()
    assert (cell["status"], cell["reason"]) == ("ok", "")
    kept = _kept(harness)
    assert cut <= kept
    found = {metric["name"]: metric["value"] for metric in cell["metrics"]}
    fates = sum(found.get(f"tasks_{fate}", 0) for fate in Fate if fate is not Fate.UNEXPECTED)
    assert fates + found["tasks_not_offered"] == PLANNED
    assert fates == found["tasks_offered"]
    assert not any(found[f"tasks_{fate}"] for fate in ("lost", "duplicated", "unexpected", "refused"))
    folders = {path.name for path in harness.folder.glob("results/*/cells/*/*")}
    assert not {LEDGER, PAST, "checkpoint.json"} & folders
    return found


def test_a_soak_whose_harness_is_killed_goes_on_without_losing_an_event(harness: Harness) -> None:
    cut = _cut(harness, signal.SIGKILL, "celery:redis", *ASKED)
    assert harness.cells() == []
    ended = harness("run", "--resume", "latest")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = _adds_up(harness, cut)
    assert found["segments"] == 2


def test_a_soak_is_cut_off_twice_by_the_user_and_by_a_crash(harness: Harness) -> None:
    cut = _cut(harness, signal.SIGINT, "reference", *ASKED)
    assert harness.only_cell()["status"] == "interrupted"
    cut |= _cut(harness, signal.SIGKILL, "--resume", "latest")
    ended = harness("run", "--resume", "latest")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert _adds_up(harness, cut)["segments"] in (2, 3)  # two, where the plan was over before the second cut


REFUSING = """    def submit(self, task: Task) -> None:
        if task.id in (1 << 32 | 7, 1 << 32 | 8):
            raise ConnectionError("the queue is full")
"""
HANGING = """        if int(path.stem) == 1 << 32 | 20:
            time.sleep(3600)
        run(int(path.stem), kind, payload)
"""


def test_what_is_refused_or_hangs_is_counted_and_the_soak_goes_on(harness: Harness) -> None:
    adapter = harness.adapter(SUBMIT=REFUSING, RUN=HANGING)
    words = (
        "--scenario",
        "soak",
        "--set",
        "soak.duration=4s",
        "--set",
        "soak.per_hour=90000",
        "--slots",
        "2",
    )
    ended = harness("run", adapter, *words, "--trials", "1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    cell = harness.only_cell()
    found = {metric["name"]: metric["value"] for metric in cell["metrics"]}
    notes = {metric["name"]: metric["note"] for metric in cell["metrics"]}
    assert (cell["status"], found["tasks_offered"]) == ("ok", 100)
    assert (found["tasks_refused"], found["tasks_lost"]) == (2, 1)
    # The example has no retries: what was asked to raise failed, and is not held against it.
    asked = found.get("tasks_failed_as_asked", 0)
    assert found["tasks_failed"] == asked
    assert found["tasks_ok"] == 97 - asked
    assert found["success_rate"] == pytest.approx(100 * found["tasks_ok"] / (100 - asked))
    assert ("it has no retries" in notes["success_rate"]) is (asked > 0)
    assert found["incidents"] == 1
