"""Faults that are done to real processes: what is struck, what comes back, and what is counted of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bench import discovery, ledger, wallclock
from bench.agent.probe import RECORD
from bench.errors import Unsupported
from bench.faults import Striker
from bench.harness import Home
from bench.model import FAULTS, PHASE_SHIFT, SCHEDULE, Fault, Kind, Metric, Status
from bench.processes import Child, Group
from bench.relay import HOST
from bench.runner import Result
from bench.services.embedded import free_ports
from bench.supervisor import RESTART_S, Supervisor
from scenarios import faults
from tests.conftest import ROOT, OneCell

FAULT = discovery.scenarios()["faults"]
EXAMPLE = str(ROOT / "tests" / "example_adapter.py")


@pytest.fixture
def group(home: Home) -> Iterator[Group]:
    made = Group(home, "faults")
    yield made
    made.kill()


def spawned(group: Group, folder: Path, script: str, role: str = "worker") -> Child:
    return group.spawn(
        role, [sys.executable, "-c", script], env=dict(os.environ), cwd=folder, log=folder / f"{role}.log"
    )


def begun(folder: Path, pid: int, task: int) -> None:
    """Have the ledger say that a process runs a task."""
    (folder / f"{pid}-0.events").write_bytes(RECORD.pack(task, 1, 0, pid, 0, Kind.START, 0))


def until(condition: Any, deadline_s: float = 30.0) -> Any:
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


# --- the supervisor -----------------------------------------------------------------------------------


def test_what_exits_is_started_again_after_a_while(group: Group, tmp_path: Path) -> None:
    child = spawned(group, tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    supervisor = Supervisor(group)
    until(lambda: child.log.read_text())
    first = child.popen.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor.look() or supervisor.restarts)
    (restart,) = supervisor.restarts
    assert (restart["role"], restart["status"]) == ("worker", -signal.SIGKILL)
    assert restart["again_ns"] - restart["ended_ns"] >= RESTART_S * 1e9
    assert child.popen.pid != first
    assert until(lambda: child.log.read_text().split()[1:]) == [str(child.popen.pid)]
    assert set(group.members()) == {child.popen.pid}


def test_what_a_dead_process_leaves_is_ended_before_it_comes_back(group: Group, tmp_path: Path) -> None:
    left = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit()); time.sleep(60)"
    begin = f"subprocess.Popen([sys.executable, '-c', {left!r}])"
    script = f"import subprocess, sys, time; {begin}; time.sleep(60)"
    child, other = spawned(group, tmp_path, script), spawned(group, tmp_path, "import time; time.sleep(60)")
    until(lambda: len(group.members()) == 3)
    (orphan,) = set(group.members()) - {child.popen.pid, other.popen.pid}
    supervisor = Supervisor(group)
    os.kill(child.popen.pid, signal.SIGKILL)
    until(lambda: supervisor.look() or supervisor.restarts)
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE
    assert other.popen.poll() is None


def test_a_process_that_is_to_end_stays_down(group: Group, tmp_path: Path) -> None:
    child = spawned(group, tmp_path, "")
    child.stopping = True
    supervisor = Supervisor(group)
    until(child.ended)
    for _ in range(3):
        supervisor.look()
        time.sleep(RESTART_S / 2)
    assert supervisor.restarts == []


# --- what is aimed at ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roles", "struck"),
    [
        (("client", "worker", "scheduler", "server", "broker"), "scheduler"),
        (("client", "worker", "daemon", "server"), "daemon"),
        (("client", "agent", "server", "database"), "server"),
        (("client", "database"), "client"),
        (("client", "worker", "broker"), ""),  # of a server that was there before
    ],
)
def test_schedules_are_kept_by_the_first_of_these(
    group: Group, tmp_path: Path, roles: tuple[str, ...], struck: str
) -> None:
    children = {role: spawned(group, tmp_path, "import time; time.sleep(60)", role) for role in roles}
    striker = Striker(group, tmp_path, [], None)
    striker.begin(1, [Fault("kill", "keeper")])
    if not struck:
        with pytest.raises(Unsupported, match="kept by a server that is not a process of this cell"):
            striker.look()
        return
    striker.look()
    assert children[struck].popen.wait(30) == -signal.SIGKILL
    assert striker.strikes[0].pids == [children[struck].popen.pid]
    assert [role for role in roles if children[role].ended()] == [struck]


def test_a_pause_stops_a_process_and_all_below_it_and_no_other_of_its_role(
    group: Group, tmp_path: Path
) -> None:
    script = "import subprocess; subprocess.run(['sleep', '60'])"
    first, other = spawned(group, tmp_path, script, "scheduler"), spawned(group, tmp_path, script, "worker")
    until(lambda: len(group.members()) == 4)
    striker = Striker(group, tmp_path, [], None)
    striker.begin(1, [Fault("pause", "keeper", for_s=1)])
    striker.look()
    (strike,) = striker.strikes
    assert set(strike.pids) == set(group.below(first)) > {first.popen.pid}
    until(lambda: {psutil.Process(pid).status() for pid in strike.pids} == {psutil.STATUS_STOPPED})
    assert all(psutil.Process(pid).status() != psutil.STATUS_STOPPED for pid in group.below(other))
    until(lambda: striker.look() or not striker.healing)
    until(lambda: psutil.STATUS_STOPPED not in {psutil.Process(pid).status() for pid in strike.pids})


def test_a_fault_that_found_no_task_is_not_done_in_a_later_phase(group: Group, tmp_path: Path) -> None:
    striker = Striker(group, tmp_path, [], None)
    striker.begin(1, [Fault("kill", "worker")])
    striker.look()
    striker.begin(2, [Fault("kill", "keeper", at_s=60)])
    child = spawned(group, tmp_path, "import time; time.sleep(60)", "worker")
    begun(tmp_path, child.popen.pid, 2 << PHASE_SHIFT)
    striker.look()
    assert [strike.done_ns for strike in striker.strikes] == [0, 0]
    assert not striker.healing
    striker.begin(2, [Fault("kill", "worker")])
    striker.look()
    assert child.popen.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("task", "struck"),
    [
        (2 << PHASE_SHIFT | 7, True),
        (SCHEDULE | 2 << PHASE_SHIFT, True),
        (1 << PHASE_SHIFT | 7, False),  # left over from what came before
        (SCHEDULE | 1 << PHASE_SHIFT, False),
    ],
)
def test_what_is_to_strike_a_task_waits_for_one_of_its_phase(
    group: Group, tmp_path: Path, task: int, struck: bool
) -> None:
    child = spawned(group, tmp_path, "import time; time.sleep(60)", "worker")
    begun(tmp_path, child.popen.pid, task)
    striker = Striker(group, tmp_path, [], None)
    striker.begin(2, [Fault("kill", "worker")])
    striker.look()
    assert bool(striker.strikes[0].done_ns) == struck


def test_connections_go_silent_when_their_relay_stands_still(group: Group, tmp_path: Path) -> None:
    worker = spawned(group, tmp_path, "import time; time.sleep(60)", "worker")
    relay = spawned(group, tmp_path, "import time; time.sleep(60)", "harness")
    pid = worker.popen.pid
    begun(tmp_path, pid, 1 << PHASE_SHIFT)
    striker = Striker(group, tmp_path, [relay], None)
    striker.begin(1, FAULTS["cut-silent"].done)
    striker.strikes[0].at_s = 0.0
    striker.look()
    until(lambda: psutil.Process(relay.popen.pid).status() == psutil.STATUS_STOPPED)
    assert psutil.Process(pid).status() != psutil.STATUS_STOPPED
    striker.strikes[0].done_ns = 1
    striker.look()
    until(lambda: psutil.Process(relay.popen.pid).status() != psutil.STATUS_STOPPED)


# --- the relay ----------------------------------------------------------------------------------------


def test_a_relay_passes_on_both_ways_and_ends_with_its_target(tmp_path: Path) -> None:
    port, target = free_ports(2)
    with socket.create_server((HOST, target)) as server:
        relay = subprocess.Popen([sys.executable, "-m", "bench.relay", str(port), str(target)], cwd=ROOT)
        try:
            near = until(lambda: connected(port))
            far, _ = server.accept()
            payload = os.urandom(1 << 20)
            near.settimeout(30)
            far.settimeout(30)
            near.sendall(b"ping")
            assert far.recv(4) == b"ping"
            far.sendall(payload)
            far.close()
            received = b"".join(iter(lambda: near.recv(65536), b""))
            assert received == payload  # and the end of the stream came through
            near.close()
        finally:
            relay.kill()
            relay.wait()


def connected(port: int) -> socket.socket | None:
    try:
        return socket.create_connection((HOST, port))
    except ConnectionRefusedError:
        return None


# --- the wall clock -----------------------------------------------------------------------------------


def test_a_wall_clock_is_set_in_one_process_and_nowhere_else(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    environ = {**os.environ, **wallclock.environment(file)}
    script = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for ahead_s in (0, 3600, -3600, 0):
            wallclock.set_ahead(file, ahead_s)
            before = time.time(), time.monotonic()
            print("now", file=child.stdin, flush=True)
            there_s, monotonic_s = map(float, child.stdout.readline().split())
            assert before[0] <= there_s - ahead_s <= time.time()
            assert before[1] <= monotonic_s <= time.monotonic()
        assert wallclock.reaches(child.pid)
        child.stdin.close()
    assert not wallclock.reaches(os.getpid())
    assert not wallclock.reaches(child.pid)


def test_a_jump_of_the_clock_is_not_taken_for_one_of_the_machine(one_cell: OneCell) -> None:
    result, found = play(one_cell, "reference", "clock-ahead")
    assert (result.status, result.reason) == (Status.OK, "")
    assert "wall_clock_step_s" not in result.details
    assert [fault["ahead_s"] for fault in result.details["faults"]] == [15]
    assert result.details["faults"][0]["pids"]
    assert found["fault_lost"].value == found["fault_duplicated"].value == 0
    assert "invalid" not in found["fault_lost"].note


def test_a_clock_that_tasks_do_not_read_is_not_taken_for_one_that_was_set(
    one_cell: OneCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    wallclock.library()  # is kept, and works
    monkeypatch.setattr(wallclock, "_variables", lambda _found, _file: {})
    result, _ = play(one_cell, "reference", "clock-ahead")
    words = "its tasks run in a process that does not load libfaketime"
    assert (result.status, result.reason) == (Status.UNSUPPORTED, words)


# --- whose body runs ----------------------------------------------------------------------------------


def test_running_are_those_whose_last_start_has_no_end() -> None:
    events = [(1, 10, 100, 0, Kind.START), (1, 20, 100, 0, Kind.END), (2, 15, 200, 0, Kind.START),
              (3, 30, 100, 1, Kind.START), (4, 5, 300, 0, Kind.START), (4, 6, 300, 0, Kind.FAIL)]  # fmt: skip
    records = np.zeros(len(events), ledger.EVENT)
    for row, (task, t_ns, pid, run, kind) in zip(records, events, strict=True):
        row["task"], row["t_ns"], row["pid"], row["run"], row["kind"] = task, t_ns, pid, run, kind
    assert ledger.running(records) == [200, 100]


# --- cells --------------------------------------------------------------------------------------------


def play(one_cell: OneCell, word: str, fault: str, **params: object) -> tuple[Result, dict[str, Metric]]:
    wanted = {"fault": fault, "load_s": 6.0, "limit_s": 8.0, **params}
    result = one_cell(word, FAULT, params=wanted)
    return result, {metric.name: metric for metric in result.metrics}


def test_a_killed_client_goes_on_where_it_was_and_loses_what_it_ran(one_cell: OneCell) -> None:
    result, found = play(one_cell, "reference", "worker")
    assert (result.status, result.reason) == (Status.OK, "")
    assert [restart["role"] for restart in result.details["restarts"]] == ["client"]
    assert found["struck"].value >= 1
    assert found["fault_lost"].value >= found["struck"].value  # what was queued is gone as well
    assert found["fault_duplicated"].value == 0
    assert result.tasks is not None
    load = result.tasks[result.tasks["phase"] == result.tasks["phase"].max() - 2]
    assert load["index"].tolist() == list(range(len(load)))  # none was left out, none sent twice
    assert set(load["submits"]) == {1}
    assert found["throughput_after"].value == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("fault", ["raise", "unserialisable"])
def test_a_bad_task_harms_no_other(one_cell: OneCell, fault: str) -> None:
    result, found = play(one_cell, "reference", fault)
    assert (result.status, result.reason) == (Status.OK, "")
    assert found["special_attempts"].value == 1
    assert {found[f"fault_{what}"].value for what in ("lost", "failed", "duplicated", "refused")} == {0}


def test_a_poisoned_task_takes_its_process_along(one_cell: OneCell) -> None:
    result, found = play(one_cell, "reference", "poison")
    assert (result.status, result.reason) == (Status.OK, "")
    assert [restart["status"] for restart in result.details["restarts"]] == [-signal.SIGKILL]
    assert found["special_attempts"].value == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("task-process", "its tasks run in the worker itself: that is the fault `worker`"),
        ("broker", "it has no broker of its own"),
        ("server", "nothing runs beside its workers: it has no server or scheduler"),
        ("cut", "it has no connection to a service"),
    ],
)
def test_a_system_without_the_part_is_unsupported(one_cell: OneCell, fault: str, words: str) -> None:
    result, _ = play(one_cell, "reference", fault)
    assert (result.status, result.reason) == (Status.UNSUPPORTED, words)


def test_a_fault_for_which_the_load_was_too_short_gives_no_figure(one_cell: OneCell) -> None:
    result, found = play(one_cell, "reference", "worker", work="sleep:20", load_s=1.0)
    assert (result.status, result.reason.partition(":")[0]) == (Status.ERROR, "a fault was never done")
    assert "fault_lost" not in found


def test_every_fault_names_what_it_does() -> None:
    assert [kind for kind in FAULTS.values() if kind.done and kind.special] == []


def test_a_server_that_runs_tasks_is_killed_as_a_worker_and_loses_what_it_held(one_cell: OneCell) -> None:
    result, found = play(one_cell, "fastapi", "worker")
    assert (result.status, result.reason) == (Status.OK, "")
    (restart,) = result.details["restarts"]
    assert (restart["role"], restart["status"]) == ("webserver", -signal.SIGKILL)
    assert found["fault_lost"].value >= found["struck"].value > 0
    assert found["fault_duplicated"].value == 0


@pytest.mark.parametrize("fault", ["task-process", "worker", "worker-pause", "broker", "cut"])
def test_celery_is_struck_where_it_was_aimed_at_and_goes_on(
    one_cell: OneCell, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "slowest_s", lambda _: 5.0)  # what it brings back is not looked at here
    result, found = play(one_cell, "celery:redis", fault)
    assert (result.status, result.reason) == (Status.OK, "")
    (done,) = result.details["faults"]
    assert done["healed_ns"] >= done["done_ns"] > 0
    roles = [restart["role"] for restart in result.details["restarts"]]
    # A worker that loses its broker may give up, and is started again too.
    assert roles[:1] == {"worker": ["worker"], "broker": ["broker"], "cut": roles[:1]}.get(fault, [])
    assert set(roles) <= {"broker", "worker"}
    if fault != "cut":  # whose acknowledgements were lost may run again
        assert found["throughput_after"].value > 0.5
        assert found["fault_duplicated"].value == 0
    if fault == "task-process":
        assert found["fault_lost"].value == 1  # acknowledged before it ran: that one, and no other
