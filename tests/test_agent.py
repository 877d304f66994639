"""Facts about the agent: stamps that survive forks and kills, arrival plans, work kinds, and the client."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench import ledger
from bench.agent import client, contract, pacer, probe, work
from bench.model import SCHEDULE, UNSERIALISABLE, Arrival, Fate, Kind, Load, Task
from bench.tail import Tail

ROOT = Path(__file__).parents[1]
SECOND = 1_000_000_000


def until(condition: Callable[[], Any], deadline_s: float = 30.0) -> Any:
    """The first true value of `condition`, or a failed test."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return value


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), work.LEDGER_VARIABLE: str(folder), **more}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A ledger folder for the probe of this process."""
    path = tmp_path / "ledger"
    path.mkdir()
    monkeypatch.setenv(work.LEDGER_VARIABLE, str(path))
    probe._forget()
    yield path
    probe._forget()


# --- the probe --------------------------------------------------------------------------------------


def test_a_run_stamps_its_start_and_its_end(folder: Path) -> None:
    before_ns = time.monotonic_ns()
    probe.run(7, "noop", "payload")
    after_ns = time.monotonic_ns()
    (row,) = ledger.per_task(ledger.read(folder).records).reset_index().to_dict("records")
    assert (row["task"], row["starts"], row["ends"], row["fails"]) == (7, 1, 1, 0)
    assert (row["pid"], row["payload_bytes"], row["burned_ns"]) == (os.getpid(), 7, 0)
    assert before_ns <= row["start_ns"] <= row["end_ns"] <= after_ns


def test_a_failing_body_stamps_the_failure_and_raises(folder: Path) -> None:
    with pytest.raises(work.PlannedFailure):
        probe.run(8, "raise")
    records = np.sort(ledger.read(folder).records, order="t_ns")
    assert records["kind"].tolist() == [Kind.START, Kind.FAIL]
    assert len(set(records["run"].tolist())) == 1


def test_the_clock_domain_of_a_process_stands_in_its_records(tmp_path: Path) -> None:
    script = "from bench.agent import run; run(1)"
    subprocess.run(
        [sys.executable, "-c", script], env=environment(tmp_path, SCHEDBENCH_CLOCK_DOMAIN="3"), check=True
    )
    assert ledger.read(tmp_path).records["domain"].tolist() == [3, 3]


def test_a_forked_child_writes_a_file_of_its_own(tmp_path: Path) -> None:
    script = (
        "import os\n"
        "from bench.agent import run\n"
        "run(1)\n"
        "for task in (2, 3):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        run(task)\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    run(10 + task)\n"
    )
    subprocess.run([sys.executable, "-c", script], env=environment(tmp_path), check=True)
    events = ledger.read(tmp_path)
    pid_of = ledger.per_task(events.records)["pid"].to_dict()
    assert events.files == 3
    assert pid_of[1] == pid_of[12] == pid_of[13]
    assert len({pid_of[1], pid_of[2], pid_of[3]}) == 3
    for path in tmp_path.iterdir():
        pids = np.fromfile(path, ledger.EVENT)["pid"]
        assert {path.name.partition("-")[0]} == set(map(str, pids.tolist()))


def test_a_killed_writer_keeps_its_records(tmp_path: Path) -> None:
    script = "import itertools\nfrom bench.agent import run\nfor task in itertools.count(): run(task)\n"
    writer = subprocess.Popen([sys.executable, "-c", script], env=environment(tmp_path))
    tail = Tail(tmp_path)

    def enough() -> bool:
        tail.poll()
        return tail.ended(0) >= 1000

    try:
        until(enough)
    finally:
        writer.kill()
    assert writer.wait() == -signal.SIGKILL
    events = ledger.read(tmp_path)
    assert events.torn_bytes == events.unknown == 0
    frame = ledger.per_task(events.records)
    assert len(frame) >= tail.ended(0) >= 1000
    # Nothing but the last body can be cut off.
    assert frame["index"].tolist() == list(range(len(frame)))
    assert (frame["ends"].iloc[:-1] == 1).all()


def test_threads_of_one_process_lose_and_mix_nothing(folder: Path) -> None:
    threads, each = 8, 200
    gate = threading.Barrier(threads)

    def body(number: int) -> None:
        gate.wait()
        for index in range(each):
            probe.run(number << 32 | index)

    pool = [threading.Thread(target=body, args=(number,)) for number in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    records = ledger.read(folder).records
    frame = ledger.per_task(records)
    assert len(frame) == threads * each
    assert (frame["starts"] == 1).all()
    assert (frame["ends"] == 1).all()
    assert len(np.unique(records["run"])) == threads * each


# --- the pacer --------------------------------------------------------------------------------------


def test_a_burst_is_due_at_once() -> None:
    assert pacer.offsets_ns(Load(3)) == [0, 0, 0]


def test_a_constant_load_is_evenly_spaced_and_does_not_drift() -> None:
    assert pacer.offsets_ns(Load(4, Arrival.CONSTANT, rate_hz=3)) == [0, 333333333, 666666667, SECOND]
    assert pacer.offsets_ns(Load(30_001, Arrival.CONSTANT, rate_hz=3))[-1] == 10_000 * SECOND


def test_a_poisson_load_has_its_rate_and_exponential_gaps() -> None:
    gaps = np.diff([0, *pacer.offsets_ns(Load(20_000, Arrival.POISSON, rate_hz=1000, seed=4))]) / 1e6
    # Mean and deviation of an exponential gap are both 1 ms; 1/e of the gaps exceed it.
    assert abs(gaps.mean() - 1) < 4 / len(gaps) ** 0.5
    assert abs(gaps.std() - 1) < 0.05
    assert abs((gaps > 1).mean() - np.exp(-1)) < 0.02


def test_a_poisson_load_depends_on_its_seed_alone() -> None:
    load = Load(50, Arrival.POISSON, rate_hz=10, seed=1)
    assert pacer.offsets_ns(load) == pacer.offsets_ns(load)
    assert pacer.offsets_ns(load) != pacer.offsets_ns(Load(50, Arrival.POISSON, rate_hz=10, seed=2))


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan")])
def test_a_paced_load_needs_a_rate(rate_hz: float) -> None:
    with pytest.raises(ValueError, match="needs a rate above 0"):
        pacer.offsets_ns(Load(2, Arrival.CONSTANT, rate_hz))


LOADS = st.builds(
    Load,
    n=st.integers(0, 200),
    arrival=st.sampled_from(Arrival),
    rate_hz=st.floats(0.1, 1e5),
    seed=st.integers(0, 9),
)


def by_id(entry: tuple[int, int, Task]) -> int:
    return entry[2].id


@settings(deadline=None)
@given(LOADS)
def test_a_plan_sends_every_task_once_when_it_is_due(load: Load) -> None:
    plan = pacer.tasks(load, phase=3, ahead=False)
    assert [task.id for _, _, task in plan] == [3 << 32 | index for index in range(load.n)]
    assert all(send == due and task.delay_s == 0 for send, due, task in plan)
    assert [due for _, due, _ in plan] == sorted(pacer.offsets_ns(load))


@settings(deadline=None)
@given(LOADS)
def test_a_plan_ahead_keeps_the_arrivals_and_is_due_a_second_after_each(load: Load) -> None:
    plan = pacer.tasks(load, phase=3, ahead=True)
    assert sorted(task.id for _, _, task in plan) == [3 << 32 | index for index in range(load.n)]
    assert [send for send, _, _ in plan] == sorted(send for send, _, _ in plan)
    for send, due, task in plan:
        assert due - send == task.delay_s * SECOND == SECOND
    assert [send for send, _, _ in plan] == pacer.offsets_ns(load)


def test_bodies_are_drawn_by_their_weights_and_single_ones_are_given(folder: Path) -> None:
    mix, special = (("noop", 3), ("sleep:1", 1)), ((7, "poison"), (8, UNSERIALISABLE))
    load = Load(4000, mix=mix, special=special, retries=2)
    plan = [task for *_, task in pacer.tasks(load, phase=1, ahead=False)]
    assert [task.work for task in plan] == [*pacer.works(load)[:8], "noop", *pacer.works(load)[9:]]
    assert 900 < sum(task.work == "sleep:1" for task in plan) < 1100
    assert (plan[7].work, {task.retries for task in plan}) == ("poison", {2})
    with pytest.raises(TypeError):
        json.dumps(plan[8].payload)
    with pytest.raises(TypeError):
        pickle.dumps(plan[8].payload)
    probe.run(plan[8].id, plan[8].work, plan[8].payload)  # where nothing is sent, nothing is serialised


def test_the_same_seed_draws_the_same_bodies() -> None:
    load = Load(50, mix=(("noop", 1), ("raise", 1)), seed=3)
    assert pacer.works(load) == pacer.works(load)
    assert pacer.works(load) != pacer.works(replace(load, seed=4))


def test_a_task_that_raises_once_raises_once_in_whatever_process(folder: Path) -> None:
    with pytest.raises(work.PlannedFailure):
        probe.run(9, "raise-once")
    script = "from bench.agent import run; run(9, 'raise-once'); run(9, 'raise-once')"
    subprocess.run([sys.executable, "-c", script], check=True, env=environment(folder))
    with pytest.raises(work.PlannedFailure):
        probe.run(10, "raise-once")
    kinds = ledger.read(folder).records["kind"].tolist()
    assert (kinds.count(Kind.FAIL), kinds.count(Kind.END)) == (2, 2)


def test_a_task_that_sleeps_once_sleeps_the_first_time_it_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(work.time, "sleep", slept.append)
    for task in (9, 9, 10):
        probe.run(task, "sleep-once:1500")
    assert slept == [1.5, 1.5]
    assert work.body_s("sleep-once:1500") == 1.5


def test_a_poisoned_task_ends_its_process_five_times_and_then_runs(folder: Path) -> None:
    script = "from bench.agent import run; run(11, 'poison')"
    for _ in range(work.POISONED):
        ended = subprocess.run([sys.executable, "-c", script], check=False, env=environment(folder))
        assert ended.returncode == -signal.SIGKILL
    assert ledger.read(folder).records["kind"].tolist() == [Kind.START] * work.POISONED
    subprocess.run([sys.executable, "-c", script], check=True, env=environment(folder))
    assert ledger.read(folder).records["kind"].tolist().count(Kind.END) == 1


def test_a_task_carries_the_work_and_payload_of_its_load() -> None:
    ((_, _, task),) = pacer.tasks(Load(1, work="cpu:1", payload_bytes=5), phase=1, ahead=False)
    assert task == Task(1 << 32, "cpu:1", "xxxxx", 0)


def test_pacing_stamps_the_due_time_and_no_submit_comes_early(folder: Path) -> None:
    plan = pacer.tasks(Load(5, Arrival.CONSTANT, rate_hz=500), phase=1, ahead=False)
    base_ns = time.monotonic_ns() + 5_000_000
    sent: list[Task] = []
    assert pacer.pace(plan, base_ns, sent.append) == (0, None)
    assert sent == [task for _, _, task in plan]
    frame = ledger.per_task(ledger.read(folder).records)
    assert frame["due_ns"].tolist() == [base_ns + due for _, due, _ in plan]
    assert (ledger.between_ns(frame, "due_ns", "submit_ns") >= 0).all()
    assert (ledger.between_ns(frame, "submit_ns", "accepted_ns") >= 0).all()


def test_a_stalled_pacer_skips_no_task(folder: Path) -> None:
    plan = pacer.tasks(Load(100, Arrival.CONSTANT, rate_hz=100), phase=1, ahead=False)
    base_ns = time.monotonic_ns() - 2 * SECOND  # everything is already due
    sent: list[Task] = []
    pacer.pace(plan, base_ns, sent.append)
    assert len(sent) == 100
    frame = ledger.per_task(ledger.read(folder).records)
    assert (ledger.between_ns(frame, "due_ns", "submit_ns") > SECOND).all()


def test_a_submit_that_raises_is_stamped_and_the_load_goes_on(folder: Path) -> None:
    def submit(task: Task) -> None:
        if task.id & 1:
            raise ConnectionError(f"no {task.id & 0xFF}")

    refused, error = pacer.pace(pacer.tasks(Load(5), phase=1, ahead=False), time.monotonic_ns(), submit)
    assert (refused, str(error)) == (2, "no 1")
    fates = ledger.fates(ledger.per_task(ledger.read(folder).records), 1.0)
    assert fates.tolist() == ["lost", "refused", "lost", "refused", "lost"]


@settings(deadline=None)
@given(LOADS, st.integers(0, 200))
def test_a_shorter_load_is_the_beginning_of_a_longer_one(load: Load, n: int) -> None:
    assume(load.arrival is not Arrival.DAILY)  # whose day lasts as long as the load does
    assert pacer.offsets_ns(replace(load, n=n)) == pacer.offsets_ns(replace(load, n=n + load.n))[:n]


@settings(deadline=None)
@given(st.sampled_from([Arrival.CONSTANT, Arrival.POISSON]), st.floats(0.1, 1e5), st.integers(0, 9))
def test_half_the_rate_is_the_same_arrivals_in_twice_the_time(
    arrival: Arrival, rate_hz: float, seed: int
) -> None:
    fast, slow = (pacer.offsets_ns(Load(50, arrival, hz, seed=seed)) for hz in (rate_hz, rate_hz / 2))
    assert all(
        abs(late - 2 * soon) <= 2 for soon, late in zip(fast, slow, strict=True)
    )  # each rounded to 1 ns


@settings(deadline=None)
@given(LOADS, st.integers(0, 2**31 - 1), st.booleans())
def test_the_phase_and_the_index_of_a_task_stand_in_its_id(load: Load, phase: int, ahead: bool) -> None:
    planned = [task.id for _, _, task in pacer.tasks(load, phase, ahead)]
    assert [divmod(task, 2**32) for task in planned] == [(phase, index) for index in range(load.n)]
    assert all(task < SCHEDULE for task in planned)


@pytest.mark.parametrize("phase", [-1, 2**31, 2**32], ids=["negative", "of schedules", "too large"])
def test_an_id_that_does_not_fit_is_refused_and_not_wrapped(folder: Path, phase: int) -> None:
    sent: list[Task] = []
    with pytest.raises(ValueError, match="does not fit"):
        pacer.pace(pacer.tasks(Load(1), phase, ahead=False), time.monotonic_ns(), sent.append)
    assert sent == []
    assert len(ledger.read(folder).records) == 0


def test_a_due_time_that_does_not_fit_is_refused_and_not_wrapped(folder: Path) -> None:
    sent: list[Task] = []
    with pytest.raises(struct.error):
        pacer.pace([(0, 2**63, Task(1))], 0, sent.append)
    pacer.pace([(0, 2**63 - 1, Task(2))], 0, sent.append)
    assert [task.id for task in sent] == [2]
    assert ledger.per_task(ledger.read(folder).records)["due_ns"].to_dict() == {2: 2**63 - 1}


def test_events_are_stamped_in_the_order_they_happen(folder: Path) -> None:
    """The due time stands in the SUBMIT; the submit call lies between it and the next event."""
    called_ns: list[int] = []

    def submit(task: Task) -> None:
        called_ns.append(time.monotonic_ns())
        if task.id == 2:
            raise TimeoutError

    base_ns = time.monotonic_ns()
    plan = [(0, 7, Task(1)), (1, 8, Task(2)), (2, 9, Task(3))]
    refused, error = pacer.pace(plan, base_ns, submit)
    assert (refused, type(error)) == (1, TimeoutError)
    records = ledger.read(folder).records
    assert records["kind"].tolist() == [
        Kind.SUBMIT, Kind.ACCEPTED, Kind.SUBMIT, Kind.REFUSED, Kind.SUBMIT, Kind.ACCEPTED,
    ]  # fmt: skip
    assert records["task"].tolist() == [1, 1, 2, 2, 3, 3]
    assert records["aux"].tolist() == [base_ns + 7, 0, base_ns + 8, 0, base_ns + 9, 0]
    before, after = records["t_ns"][::2].tolist(), records["t_ns"][1::2].tolist()
    for sent_ns, call_ns, answered_ns in zip(before, called_ns, after, strict=True):
        assert sent_ns <= call_ns <= answered_ns


# --- batches ----------------------------------------------------------------------------------------


def kinds(folder: Path) -> list[tuple[int, int]]:
    """Task and kind of every event, in the order they were written."""
    records = ledger.read(folder).records
    return list(zip(records["task"].tolist(), records["kind"].tolist(), strict=True))


def test_what_is_sent_at_one_moment_is_one_batch(folder: Path) -> None:
    """Told apart by when they are to be sent, not by when they are due."""
    plan = [(send, due, Task(i)) for i, (send, due) in enumerate([(0, 5), (0, 5), (0, 9), (7, 9), (8, 9)])]
    base_ns = time.monotonic_ns()
    calls: list[tuple[int, list[int], int]] = []

    def submit(tasks: Sequence[Task]) -> None:
        calls.append((time.monotonic_ns(), [task.id for task in tasks], len(kinds(folder))))

    assert pacer.pace_batches(plan, base_ns, submit) == (0, None)
    assert [ids for _, ids, _ in calls] == [[0, 1, 2], [3], [4]]
    # All of a batch are stamped before its call, and all again once it has returned.
    assert [n for *_, n in calls] == [3, 7, 9]
    assert kinds(folder) == [
        *((i, Kind.SUBMIT) for i in (0, 1, 2)),
        *((i, Kind.ACCEPTED) for i in (0, 1, 2)),
        *((i, kind) for i in (3, 4) for kind in (Kind.SUBMIT, Kind.ACCEPTED)),
    ]
    frame = ledger.per_task(ledger.read(folder).records)
    assert frame["due_ns"].tolist() == [base_ns + due for _, due, _ in plan]
    for at_ns, ids, _ in calls:
        own = frame.loc[ids]
        assert own["submit_ns"].max() <= at_ns <= own["accepted_ns"].min()


def test_no_batch_comes_early_and_none_is_skipped_after_a_stall(folder: Path) -> None:
    plan = pacer.tasks(Load(5, Arrival.CONSTANT, rate_hz=500), phase=1, ahead=False)
    sizes: list[int] = []
    pacer.pace_batches(plan, time.monotonic_ns() + 5_000_000, lambda tasks: sizes.append(len(tasks)))
    pacer.pace_batches(
        pacer.tasks(Load(3, Arrival.CONSTANT, rate_hz=100), phase=2, ahead=False),
        time.monotonic_ns() - 2 * SECOND,
        lambda tasks: sizes.append(len(tasks)),
    )
    assert sizes == [1] * 8
    frame = ledger.per_task(ledger.read(folder).records)
    assert (ledger.between_ns(frame, "due_ns", "submit_ns") >= 0).all()


def test_a_burst_is_one_batch_and_nothing_is_none(folder: Path) -> None:
    calls: list[list[int]] = []
    for n in (0, 100):
        plan = pacer.tasks(Load(n), phase=1, ahead=False)
        assert pacer.pace_batches(plan, time.monotonic_ns(), lambda tasks: calls.append(list(tasks))) == (
            0,
            None,
        )
    assert [len(call) for call in calls] == [100]


def test_a_refused_batch_is_refused_whole_and_the_load_goes_on(folder: Path) -> None:
    plan = [(send, send, Task(10 * send + i)) for send in range(4) for i in range(3)]

    def submit(tasks: Sequence[Task]) -> None:
        if tasks[0].id // 10 in (1, 2):
            raise ConnectionError(f"no {tasks[0].id}")

    refused, error = pacer.pace_batches(plan, time.monotonic_ns(), submit)
    assert (refused, str(error)) == (6, "no 10")
    frame = ledger.per_task(ledger.read(folder).records)
    assert frame["refused"].tolist() == [0, 0, 0, *[1] * 6, 0, 0, 0]
    assert frame["accepted"].tolist() == [1, 1, 1, *[0] * 6, 1, 1, 1]
    assert ledger.fates(frame, 1.0).tolist() == [*["lost"] * 3, *["refused"] * 6, *["lost"] * 3]


# --- the work ---------------------------------------------------------------------------------------


def test_cpu_work_burns_at_least_its_budget_of_thread_time(folder: Path) -> None:
    before_ns = time.thread_time_ns()
    probe.run(1, "cpu:3")
    spent_ns = time.thread_time_ns() - before_ns
    (burned_ns,) = ledger.per_task(ledger.read(folder).records)["burned_ns"]
    assert 3_000_000 <= burned_ns <= spent_ns


def test_sleep_lasts_at_least_its_time_and_burns_nothing(folder: Path) -> None:
    probe.run(1, "sleep:5")
    frame = ledger.per_task(ledger.read(folder).records)
    assert ledger.between_ns(frame, "start_ns", "end_ns").iloc[0] >= 5_000_000
    assert frame["burned_ns"].tolist() == [0]


@pytest.mark.parametrize("name", ["", "nap", "nap:5"])
def test_unknown_work_names_the_valid_kinds(name: str) -> None:
    with pytest.raises(ValueError, match="valid: noop, sleep, io, cpu, raise"):
        work.perform(name)


@pytest.fixture
def io_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a real io server."""
    file = tmp_path / "port"
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.agent.io_server", str(file)],
        env=environment(tmp_path),
        stderr=subprocess.DEVNULL,
    )
    try:
        until(file.exists)
        monkeypatch.setenv(work.IO_VARIABLE, file.read_text())
        yield int(file.read_text())
    finally:
        server.kill()
        server.wait()


def test_io_work_waits_for_a_real_answer(io_port: int) -> None:
    before_ns = time.monotonic_ns()
    assert work.perform("io:20:300000") == 0
    assert time.monotonic_ns() - before_ns >= 20_000_000
    assert work.perform("io:0") == 0


def test_the_io_server_sends_the_bytes_asked_for_and_survives_a_broken_request(io_port: int) -> None:
    with socket.create_connection(("127.0.0.1", io_port)) as peer:
        peer.sendall(b"\0" * 3)
    with socket.create_connection(("127.0.0.1", io_port)) as peer, peer.makefile("rb") as reply:
        peer.sendall(work.IO_REQUEST.pack(0, 1234))
        assert reply.read() == bytes(1234)


def test_an_io_answer_that_is_cut_short_fails_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv(work.IO_VARIABLE, str(server.getsockname()[1]))

        def cut_short() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(work.IO_REQUEST.size)
                peer.sendall(b"\0" * 10)

        thread = threading.Thread(target=cut_short)
        thread.start()
        with pytest.raises(ConnectionError, match="closed the connection early"):
            work.perform("io:0:100")
        thread.join()


# --- the client -------------------------------------------------------------------------------------

ONE = "from bench.agent import Adapter\nclass A(Adapter):\n    def submit(self, task): pass\n"


@pytest.mark.parametrize(
    ("source", "found"),
    [("", 0), ("from bench.agent import Adapter, InProcess\n", 0), (ONE + "class B(A): pass\n", 2)],
)
def test_a_module_must_define_exactly_one_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, found: int
) -> None:
    name = f"adapter_with_{found}_{len(source)}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError, match=rf"{name} must define exactly one Adapter subclass, found {found}"):
        client.find(name)


def test_an_imported_adapter_is_not_the_module_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_adapter.py").write_text("from adapters.reference import Reference\n" + ONE)
    monkeypatch.syspath_prepend(tmp_path)
    assert client.find("own_adapter").__name__ == "A"


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., contract.Context]]:
    """Sets the context of this process, with what is given."""

    def set_to(**values: Any) -> contract.Context:
        made = contract.Context("v", slots=2, home=tmp_path, **values)
        monkeypatch.setenv(contract.CONTEXT_VARIABLE, made.to_json())
        contract.context.cache_clear()
        return contract.context()

    yield set_to
    contract.context.cache_clear()


class Single(contract.Adapter):
    """Takes tasks one by one."""

    def __init__(self, context: contract.Context) -> None:
        super().__init__(context)
        self.calls: list[list[int]] = []

    def submit(self, task: Task) -> None:
        self.calls.append([task.id])


class Batching(Single, contract.Batch):
    def submit_batch(self, tasks: Sequence[Task]) -> None:
        self.calls.append([task.id for task in tasks])
        if len(self.calls) == 2:
            raise OSError("full")


def test_a_context_is_the_same_for_all_who_read_it(context: Callable[..., contract.Context]) -> None:
    read = context(services={"redis": {"url": "redis://x"}}, settings={"a": [1]}, ports=(1, 2), batch=True)
    assert (read.slots, read.url("redis"), list(read.ports), read.batch) == (2, "redis://x", [1, 2], True)
    assert contract.Context("v", 1, read.home).batch is False


def test_an_adapter_declares_what_must_run_before_it_can_connect(
    context: Callable[..., contract.Context],
) -> None:
    class Served(Single):
        def migrations(self) -> Sequence[contract.Process]:
            return [contract.Process("database", ["upgrade"])]

        def servers(self) -> Sequence[contract.Process]:
            return [contract.Process.python("server", "-m", "it", env={"A": "1"}, ready="tcp://127.0.0.1:9")]

    assert client.Client(Served(context())).declare() == {
        "migrations": [{"role": "database", "argv": ["upgrade"], "env": {}, "ready": ""}],
        "servers": [
            {
                "role": "server",
                "argv": [sys.executable, "-m", "it"],
                "env": {"A": "1"},
                "ready": "tcp://127.0.0.1:9",
            }
        ],
    }
    assert client.Client(Single(context())).declare() == {"migrations": [], "servers": []}


def test_a_batch_variant_hands_over_a_load_at_once(
    folder: Path, context: Callable[..., contract.Context]
) -> None:
    batching = Batching(context(batch=True))
    burst = {"n": 3, "arrival": "burst"}
    played = client.Client(batching).play(1, burst, ahead=False)
    assert (played["sent"], played["refused"], played["error"]) == (3, 0, "")
    played = client.Client(batching).play(2, burst, ahead=False, skip=1)
    assert (played["sent"], played["refused"], played["error"]) == (2, 2, "OSError: full")
    assert [[task >> 32 for task in call] for call in batching.calls] == [[1, 1, 1], [2, 2]]


@pytest.mark.parametrize("since_s", [0, 5, 100])
def test_a_load_that_goes_on_is_sent_from_there(
    folder: Path, context: Callable[..., contract.Context], since_s: int
) -> None:
    """What was due before is not sent, and what is left keeps its place in the plan."""
    load = {"n": 300, "arrival": "daily", "rate_hz": 60.0, "seed": 3}
    due_ns = pacer.offsets_ns(Load(300, Arrival.DAILY, 60.0, seed=3))
    left = [i for i, at in enumerate(due_ns) if i >= 10 and at >= since_s * SECOND // 2]
    single = Single(context())
    played = client.Client(single).play(1, load, ahead=False, skip=10, since_ns=since_s * SECOND // 2)
    assert [[1 << 32 | i] for i in left] == single.calls
    assert played["sent"] == len(left)
    records = ledger.read(folder).records
    due = np.sort(records["aux"][records["kind"] == Kind.SUBMIT])
    assert (np.diff(due) == np.diff(np.array(due_ns)[left])).all()


def test_batches_are_for_batch_variants_of_adapters_that_take_them(
    folder: Path, context: Callable[..., contract.Context]
) -> None:
    one_by_one = Batching(context())
    client.Client(one_by_one).play(1, {"n": 3, "arrival": "burst"}, ahead=False)
    assert [len(call) for call in one_by_one.calls] == [1, 1, 1]
    single = Single(context(batch=True))
    with pytest.raises(TypeError, match="it is not Batch"):
        client.Client(single).play(1, {"n": 3, "arrival": "burst"}, ahead=False)
    assert single.calls == []


@pytest.mark.parametrize("answer", [None, ()])
def test_a_schedule_that_the_library_keeps_is_due_from_when_it_was_asked_for(
    folder: Path, context: Callable[..., contract.Context], answer: object
) -> None:
    class Own(Single, contract.Periodic):
        def register(self, schedule: Any) -> Any:
            self.calls.append([schedule.id, schedule.every_s, schedule.work])
            return answer

    own = Own(context())
    before_ns = time.monotonic_ns()
    assert client.Client(own).register(SCHEDULE | 7, 2.5, "sleep:3") == {"processes": []}
    (record,) = ledger.read(folder).records
    assert own.calls == [[SCHEDULE | 7, 2.5, "sleep:3"]]
    assert (record["task"], record["kind"]) == (SCHEDULE | 7, Kind.SUBMIT)
    assert before_ns <= record["aux"] - 2.5 * SECOND <= record["t_ns"]


def test_a_schedule_that_a_process_keeps_is_not_due_before_that_has_started(
    folder: Path, context: Callable[..., contract.Context]
) -> None:
    class Kept(Single, contract.Periodic):
        def register(self, schedule: Any) -> Sequence[contract.Process]:
            return [contract.Process("scheduler", ["beat", str(schedule.every_s)])]

    assert client.Client(Kept(context())).register(SCHEDULE | 7, 2.5) == {
        "processes": [{"role": "scheduler", "argv": ["beat", "2.5"], "env": {}, "ready": ""}]
    }
    assert len(ledger.read(folder).records) == 0
    with pytest.raises(TypeError, match="it is not Periodic"):
        client.Client(Single(context())).register(SCHEDULE | 7, 2.5)


@pytest.mark.parametrize(
    ("wall_s", "every_s", "slept_s", "left_s"),
    [
        (600.0, 60, 0, 60),  # at a turn: that one is over
        (610.5, 60, 0, 49.5),
        (645.5, 60, 14.5, 60),  # too soon for what has yet to be told
        (600.0, 3600, 0, 3000),
        (600.2, 1, 0, 0.8),
    ],
)
def test_by_the_wall_clock_a_schedule_is_due_at_its_next_turn(
    folder: Path,
    context: Callable[..., contract.Context],
    monkeypatch: pytest.MonkeyPatch,
    wall_s: float,
    every_s: int,
    slept_s: float,
    left_s: float,
) -> None:
    class Kept(Single, contract.Periodic):
        def register(self, schedule: Any) -> Sequence[contract.Process]:
            return [contract.Process("scheduler", ["cron"])]

    slept: list[float] = []
    monkeypatch.setattr(client, "sleep", slept.append)
    monkeypatch.setattr(client, "time_ns", lambda: round((wall_s + sum(slept)) * SECOND))
    monkeypatch.setattr(client, "monotonic_ns", lambda: round((7.0 + sum(slept)) * SECOND))
    client.Client(Kept(context())).register(SCHEDULE | 7, every_s, wall_clock=True)
    (record,) = ledger.read(folder).records
    assert (record["task"], record["kind"]) == (SCHEDULE | 7, Kind.SUBMIT)
    assert sum(slept) == slept_s
    assert record["aux"] == round((7.0 + slept_s + left_s) * SECOND)


class Remote:
    """A client process and the runner's end of its socket."""

    def __init__(self, module: str, tmp_path: Path) -> None:
        self.ledger = tmp_path / "ledger"
        self.ledger.mkdir()
        home = contract.Context("threads", slots=2, home=tmp_path)
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.agent.client", module, str(theirs.fileno())],
                env=environment(self.ledger, **{contract.CONTEXT_VARIABLE: home.to_json()}),
                pass_fds=[theirs.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        ours.settimeout(30)
        self.link = ours
        self.lines = ours.makefile("rw", encoding="utf-8")

    def order(self, name: str, **values: Any) -> dict[str, Any]:
        self.lines.write(json.dumps({"do": name, **values}) + "\n")
        self.lines.flush()
        answer: dict[str, Any] = json.loads(self.lines.readline())
        return answer

    def hang_up(self) -> None:
        self.lines.close()
        self.link.close()

    def end(self) -> None:
        self.hang_up()
        self.process.kill()
        self.process.wait()


def test_a_client_plays_a_load_into_the_reference_adapter(tmp_path: Path) -> None:
    remote = Remote("adapters.reference", tmp_path)
    try:
        assert remote.order("declare") == {"ok": True, "migrations": [], "servers": []}
        assert remote.order("open") == {"ok": True, "processes": [], "in_process": True, "claims": False}
        assert remote.order("start") == {"ok": True}
        load = {"n": 20, "arrival": "constant", "rate_hz": 1000.0, "work": "noop", "payload_bytes": 3}
        played = remote.order("play", phase=1, load=load, ahead=False)
        assert (played["ok"], played["sent"], played["refused"], played["error"]) == (True, 20, 0, "")
        load = {"n": 3, "arrival": "burst", "work": "raise"}
        assert remote.order("play", phase=2, load=load, ahead=False)["sent"] == 3
        tail_of_five = {"phase": 0, "load": {"n": 5, "arrival": "burst"}, "ahead": False, "skip": 3}
        assert remote.order("play", **tail_of_five)["sent"] == 2
        assert remote.order("stop") == {"ok": True}
        assert remote.order("close") == {"ok": True}
        assert remote.process.wait(30) == 0
    finally:
        remote.end()
    frame = ledger.per_task(ledger.read(remote.ledger).records)
    counts = ledger.fates(frame, deadline_s=60).value_counts().to_dict()
    assert counts == {**dict.fromkeys(Fate, 0), Fate.OK: 22, Fate.FAILED: 3}
    assert frame.loc[frame["phase"] == 0, "index"].tolist() == [3, 4]
    assert frame.loc[frame["phase"] == 1, "payload_bytes"].tolist() == [3] * 20
    assert frame.loc[frame["phase"] == 1, "due_ns"].max() == played["last_due_ns"]


def test_a_client_answers_an_error_and_goes_on(tmp_path: Path) -> None:
    remote = Remote("adapters.reference", tmp_path)
    try:
        assert remote.order("open")["ok"]
        bad = remote.order("play", phase=1, load={"n": 1, "arrival": "constant"}, ahead=False)
        assert bad["ok"] is False
        assert "ValueError: a constant load needs a rate" in bad["error"]
        assert remote.order("close")["ok"]
    finally:
        remote.end()


def test_a_client_ends_when_the_runner_goes_away(tmp_path: Path) -> None:
    remote = Remote("adapters.reference", tmp_path)
    try:
        assert remote.order("open")["ok"]
        remote.hang_up()
        assert remote.process.wait(30) == 0
    finally:
        remote.end()


def test_a_process_that_schedbench_did_not_start_has_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(contract.CONTEXT_VARIABLE, raising=False)
    contract.context.cache_clear()
    with pytest.raises(RuntimeError, match="is not set: start adapters with"):
        contract.context()
