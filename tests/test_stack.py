"""The stack of a cell with real processes: migrations, servers and workers that come up, fail, hang and end.

The systems are the example adapter with methods added to it. What happens in their processes they write, a
line each, into files of the test.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import cgroups, discovery, services
from bench.model import CANARY_PHASE, SCHEDULE, Kind, Load, Metric, Phase, Status, Variant, Workers
from bench.runner import Result
from bench.scenario import History, Phases, Scenario
from bench.services import Provision
from bench.stack import Stack
from tests.conftest import ROOT, OneCell
from tests.test_readiness import serving

EXAMPLE = ROOT / "tests" / "example_adapter.py"
SCENARIOS = discovery.scenarios()

SETTLE = "# settle_s = 1\n"
CLASS = "class Spool(Adapter):\n"
PROCESSES = "    def processes(self) -> Sequence[Process]:\n"
OPEN = "    def open(self) -> None:\n"
SUBMIT = "    def submit(self, task: Task) -> None:\n"
WORK = '    work(context().home / "spool", context().settings["poll_s"])\n'

SERVER = """
import os, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer

port, ready_s, seen = int(sys.argv[1]), time.monotonic() + float(sys.argv[2]), sys.argv[3]

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if time.monotonic() > ready_s else 503)
        self.end_headers()

if "tcp" in sys.argv:
    time.sleep(max(0, ready_s - time.monotonic()))
with open(seen, "a") as file:
    file.write(f"{os.getpid()} {max(time.monotonic(), ready_s)}\\n")
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
"""Listens and answers 503 until it is ready; with `tcp`, it does not even listen until then."""


class System:
    """An adapter that is being written, and the files that its processes write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = EXAMPLE.read_text()

    def change(self, old: str, new: str) -> None:
        assert old in self.text
        self.text = self.text.replace(old, new)

    def declare(self, **methods: str) -> None:
        """Give it methods that return a list of processes, as Python text."""
        for name, processes in methods.items():
            self.change(
                SUBMIT,
                f"    def {name}(self) -> Sequence[Process]:\n        return [{processes}]\n\n" + SUBMIT,
            )

    @property
    def path(self) -> str:
        """The adapter, written; its environment is the one that other tests have as well."""
        path = self.folder / "spool.py"
        path.write_text(self.text)
        return str(path)

    def file(self, name: str) -> str:
        return repr(str(self.folder / name))

    def noting(self, name: str, expression: str) -> str:
        """Python that adds a line to a file."""
        return f"print({expression}, file=open({self.file(name)}, 'a'))"

    def noted(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def shell(self, role: str, script: str, ready: str = "") -> str:
        """A process, as Python text."""
        return f"Process({role!r}, ['/bin/sh', '-c', {script!r}], ready={ready or repr('')})"

    def server(self, port: int, role: str = "server", late_s: float = 0.0, scheme: str = "http") -> str:
        """A process that is ready after a while, and notes its id and since when in a file of its role."""
        where = f"f'{scheme}://127.0.0.1:{{self.context.ports[{port}]}}/health'"
        words = f"str(self.context.ports[{port}]), '{late_s}', {self.file(role)}, '{scheme}'"
        return f"Process.python({role!r}, '-c', {SERVER!r}, {words}, ready={where})"


@pytest.fixture
def system(tmp_path: Path) -> Iterable[System]:
    """Whatever becomes of its cell, nothing of it is left."""
    before = set(psutil.Process().children(recursive=True))
    yield System(tmp_path)
    assert set(psutil.Process().children(recursive=True)) - before == set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not come up is waited for a second."""
    monkeypatch.setattr(Stack, "_patience_s", 1.0)


class Drain(Scenario):
    """A few tasks, workers up."""

    title = "a few tasks"
    parameters = {}
    profiles = {}

    def seconds(self, params: Mapping[str, Any]) -> float:
        return 1.0

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        yield Phase("load", Load(4, work=params.get("work", "noop")))

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        return ()


class DownAndUp(Drain):
    """A few tasks; a few more that are queued while the workers are down; and the workers again."""

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        yield Phase("load", Load(2))
        yield Phase("queue", Load(3), workers=Workers.DOWN, wait="queued")
        yield Phase("again", ready=False)


def fates(result: Result) -> dict[str, float]:
    """How many tasks met which fate; of a cell that went well, all are `ok`."""
    return {one.name: one.value for one in result.metrics if one.name.startswith("tasks_") and one.value}


def ended(result: Result) -> tuple[str, str]:
    return result.status.value, result.reason


# --- migrations -------------------------------------------------------------------------------------


def test_all_that_a_system_is_made_of_starts_in_its_order(system: System, one_cell: OneCell) -> None:
    def noting(words: str) -> str:
        return system.noting("order", repr(words))

    slowly = f"sleep 0.3; echo migrated 1 >> {system.file('order')}"
    at_once = f"echo migrated 2 >> {system.file('order')}"
    system.declare(
        migrations=f"{system.shell('database', slowly)}, {system.shell('database', at_once)}",
        servers=system.server(0, late_s=0.2).replace(system.file("server"), system.file("order")),
    )
    for method in ("migrations", "servers", "processes"):
        head = f"    def {method}(self) -> Sequence[Process]:\n"
        system.change(head, f"{head}        {noting(method)}\n")
    system.change(CLASS, f"{CLASS}    def __init__(self, context):\n        super().__init__(context)\n"
                         f"        {noting('made')}\n\n")  # fmt: skip
    system.change(OPEN, f"{OPEN}        {noting('open')}\n")
    system.change(SUBMIT, f"    def close(self) -> None:\n        {noting('close')}\n\n{SUBMIT}")
    system.change(WORK, f"    {noting('worker')}\n{WORK}")
    result = one_cell(system.path, Drain(), slots=1)
    assert ended(result) == ("ok", "")
    assert fates(result) == {"tasks_ok": 4}
    (server,) = (line for line in system.noted("order") if line[0].isdigit())
    assert [line if line != server else "server" for line in system.noted("order")] == [
        "made", "migrations", "servers", "migrated 1", "migrated 2", "server", "open", "processes", "worker",
        "close",
    ]  # fmt: skip


def test_a_migration_that_fails_ends_the_cell_before_anything_else_starts(
    system: System, one_cell: OneCell
) -> None:
    failing = "echo checking tables; echo no such table: task_instance >&2; exit 3"
    system.declare(
        migrations=f"{system.shell('database', failing)}, "
        f"{system.shell('database', 'echo second >> ' + system.file('started'))}",
        servers=system.shell("server", f"echo server >> {system.file('started')}; exec sleep 60"),
    )
    system.change(OPEN, f"{OPEN}        {system.noting('started', '1')}\n")
    assert ended(one_cell(system.path, Drain())) == (
        "error",
        "migration exited with status 3; its last lines: checking tables | no such table: task_instance",
    )
    assert system.noted("started") == []


def test_a_migration_that_hangs_ends_the_cell_with_its_log(
    system: System, one_cell: OneCell, impatient: None
) -> None:
    system.declare(migrations=system.shell("database", "echo waiting for a lock; exec sleep 60"))
    assert ended(one_cell(system.path, Drain())) == (
        "timeout",
        "migrating: nothing after 1 s; database: waiting for a lock",
    )


# --- servers ----------------------------------------------------------------------------------------


def test_a_server_that_exits_before_it_is_ready_ends_the_cell(system: System, one_cell: OneCell) -> None:
    """What a migration of the same role has written into its log is not the server's."""
    ready = "f'tcp://127.0.0.1:{self.context.ports[0]}'"
    system.declare(
        migrations=system.shell("server", "echo all tables made"),
        servers=system.shell("server", "echo the port is taken; exit 4", ready),
    )
    assert ended(one_cell(system.path, Drain())) == (
        "error",
        "server exited with status 4; its last lines: the port is taken",
    )


def test_a_server_that_exits_later_ends_the_cell(system: System, one_cell: OneCell) -> None:
    until_told = f"until [ -e {system.file('ran')} ]; do sleep 0.02; done; echo the disk is full; exit 5"
    system.declare(servers=system.shell("server", until_told))
    system.change("        run(int", f"        {system.noting('ran', '1')}\n        run(int")
    assert ended(one_cell(system.path, Drain(), params={"work": "sleep:60000"})) == (
        "error",
        "server exited with status 5; its last lines: the disk is full",
    )


@pytest.mark.parametrize("listens", [False, True], ids=["does not listen", "answers with an error"])
def test_a_server_that_never_gets_ready_ends_the_cell_with_its_log(
    system: System, one_cell: OneCell, impatient: None, listens: bool
) -> None:
    with serving(503) as (port, paths):
        ready = repr(f"http://127.0.0.1:{port}/") if listens else "f'tcp://127.0.0.1:{self.context.ports[0]}'"
        script = "echo compiling the assets; exec sleep 60"
        system.declare(servers=system.shell("server", script, ready))
        assert ended(one_cell(system.path, Drain())) == (
            "timeout",
            "waiting for the server: nothing after 1 s; server: compiling the assets",
        )
        assert (len(paths) > 1) is listens


def test_servers_that_are_ready_late_are_waited_for(system: System, one_cell: OneCell) -> None:
    """The client connects to all of them; no task is sent before what runs tasks is ready as well."""
    system.declare(servers=f"{system.server(0, 'webserver', 0.6)}, {system.server(1, 'server', 0.3, 'tcp')}")
    system.change(
        OPEN,
        f"{OPEN}        import socket, urllib.request\n"
        "        urllib.request.urlopen(f'http://127.0.0.1:{self.context.ports[0]}/', timeout=9).close()\n"
        "        socket.create_connection(('127.0.0.1', self.context.ports[1]), 9).close()\n",
    )
    started = '        return [Process.python("worker"'
    scheduler = system.server(2, "scheduler", 0.5)
    system.change(started, started.replace("return [", f"return [{scheduler}] + ["))
    result = one_cell(system.path, Drain())
    assert ended(result) == ("ok", "")
    assert result.details["set_up_s"]["servers"] >= 0.6
    assert result.events is not None
    sent = result.events[result.events["kind"] == Kind.SUBMIT]
    for role in ("webserver", "server", "scheduler"):
        ((_, since_s),) = (line.split() for line in system.noted(role))
        assert sent["t_ns"].min() > float(since_s) * 1e9


def test_an_address_that_cannot_be_asked_is_the_adapter_s_fault(system: System, one_cell: OneCell) -> None:
    system.declare(servers=system.shell("server", "exec sleep 60", "'localhost:8080'"))
    assert ended(one_cell(system.path, Drain())) == (
        "error",
        "cannot ask 'localhost:8080': give http://HOST:PORT/PATH or tcp://HOST:PORT",
    )


@pytest.fixture(params=["cgroup2", "cgroup1", "psutil"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to start processes. Asked for before the harness, which chooses one when it is made."""
    monkeypatch.setenv(cgroups.SOURCE_VARIABLE, request.param)
    if request.param != "psutil" and cgroups.hierarchy() is None:
        pytest.skip(f"no writable {request.param} hierarchy here")
    return str(request.param)


@pytest.mark.parametrize("method", ["migrations", "servers"])
def test_a_program_that_is_not_there_ends_the_cell(
    system: System, source: str, one_cell: OneCell, method: str
) -> None:
    assert one_cell.home.cpu_source == source
    system.declare(**{method: "Process('server', ['no-such-program', '--now'])"})
    status, reason = ended(one_cell(system.path, Drain()))
    assert status == "error"
    assert reason.startswith(("cannot start the server: ", "server exited", "migration exited"))
    assert "no-such-program" in reason


def test_servers_stay_up_while_workers_go_down_and_come_up(system: System, one_cell: OneCell) -> None:
    system.declare(servers=system.server(0))
    system.change(WORK, f"    {system.noting('workers', 'os.getpid()')}\n{WORK}")
    result = one_cell(system.path, DownAndUp(), slots=1)
    assert ended(result) == ("ok", "")
    assert fates(result) == {"tasks_ok": 5}
    assert len(system.noted("server")) == 1
    first, second = map(int, system.noted("workers"))
    assert result.tasks is not None
    ran = result.tasks[result.tasks["phase"] > CANARY_PHASE]
    assert ran["pid"].tolist() == [first] * 2 + [second] * 3
    assert "killed_at_stop" not in result.details


@pytest.mark.parametrize(
    ("servers", "processes", "role"),
    [("server", ["worker", "server"], "server"), ("webserver", ["client"], "client")],
)
def test_what_runs_tasks_has_no_role_of_what_stays_up(
    system: System, one_cell: OneCell, servers: str, processes: list[str], role: str
) -> None:
    """They are ended by role: the server would be ended with the workers."""
    system.declare(servers=system.shell(servers, "exec sleep 60"))
    started = [system.shell(one, f"echo 1 >> {system.file('started')}") for one in processes]
    system.change(PROCESSES, f"{PROCESSES}        return [{', '.join(started)}]\n")
    assert ended(one_cell(system.path, Drain())) == (
        "error",
        f"{role!r} is the role of a process that runs tasks and of one that stays up: "
        "give one of them another role in the adapter",
    )
    assert system.noted("started") == []


def test_all_processes_of_a_cell_have_the_same_free_ports(system: System, one_cell: OneCell) -> None:
    def noting(name: str) -> str:
        return system.noting(name, "__import__('json').dumps(list(context().ports))")

    asking = f"from bench.agent import context; {noting('server')}; import time; time.sleep(60)"
    migrating = f"from bench.agent import context; {noting('migration')}"
    system.declare(
        migrations=f"Process.python('database', '-c', {migrating!r})",
        servers=f"Process.python('server', '-c', {asking!r})",
    )
    system.change(OPEN, f"{OPEN}        {noting('client')}\n")
    system.change(WORK, f"    {noting('worker')}\n{WORK}")
    assert ended(one_cell(system.path, Drain(), slots=1)) == ("ok", "")
    said = {line for name in ("migration", "server", "client", "worker") for line in system.noted(name)}
    assert len(said) == 1
    ports = json.loads(said.pop())
    assert len(set(ports)) == len(ports) == 4
    assert all(0 < port < 2**16 for port in ports)


def test_what_setting_up_took_is_told_step_by_step(system: System, one_cell: OneCell) -> None:
    system.declare(
        migrations=", ".join([system.shell("database", "sleep 0.2")] * 2),
        servers=system.server(0, late_s=0.5),
    )
    result = one_cell(system.path, SCENARIOS["startup"], slots=1)
    assert ended(result) == ("ok", "")
    found = {one.name: (one.unit, one.value) for one in result.metrics if one.name.startswith("set_up.")}
    assert set(found) == {"set_up.migration", "set_up.servers"}
    assert found["set_up.migration"] == ("s", result.details["set_up_s"]["migration"])
    assert found["set_up.migration"][1] >= 0.4
    assert found["set_up.servers"][1] >= 0.5


def test_a_system_that_brings_nothing_has_nothing_set_up(system: System, one_cell: OneCell) -> None:
    result = one_cell(system.path, Drain(), slots=1)
    assert ended(result) == ("ok", "")
    assert result.details["set_up_s"] == {}


def test_a_slow_system_has_the_patience_that_its_header_asks_for(system: System, one_cell: OneCell) -> None:
    for start_s, patience_s in ((5, 60), (240, 240)):
        system.text = EXAMPLE.read_text().replace(SETTLE, f"{SETTLE}# start_s = {start_s}\n")
        found = discovery.load(Path(system.path))
        made = Stack(
            found,
            found.variants["poll"],
            None,
            one_cell.home,
            one_cell.folder,
            1,
            lambda _: None,
            Provision(),
        )  # type: ignore[arg-type]
        assert made._patience_s == patience_s
        made.tear_down()


def test_nothing_of_a_cell_is_left(system: System, one_cell: OneCell) -> None:
    """A service, a server with a daemon that left it, a worker with a child."""
    fine, reason = services.available("redis")
    if not fine:
        pytest.skip(reason)
    system.change("# settle_s", '# services = ["redis"]\n# settle_s')
    pids = system.file("pids")
    with_daemon = f"(setsid sleep 60 & echo $! >> {pids}); echo $$ >> {pids}; exec sleep 60"
    system.declare(servers=system.shell("server", with_daemon))
    noting = system.noting("pids", "os.getpid()")
    system.change(
        WORK, f"    {noting}\n    if os.fork() == 0:\n        {noting}\n        time.sleep(60)\n{WORK}"
    )
    result = one_cell(system.path, Drain(), slots=1)
    assert ended(result) == ("ok", "")
    assert set(result.details["set_up_s"]) == {"services", "servers"}
    assert "redis" in result.details["services"]
    noted = [int(line) for line in system.noted("pids")]
    assert len(set(noted)) == 4
    assert [pid for pid in noted if alive(pid)] == []


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


# --- batches ----------------------------------------------------------------------------------------

BATCH = """\
    def submit_batch(self, tasks: Sequence[Task]) -> None:
        {noting}
        for task in tasks:
            self.submit(task)

"""


def batching(system: System) -> None:
    """Make it a system that takes many tasks at once, and notes how many."""
    system.change(SETTLE, f"{SETTLE}# batch = true\n")
    system.change("from bench.agent import Adapter,", "from bench.agent import Adapter, Batch,")
    system.change(CLASS, "class Spool(Adapter, Batch):\n")
    system.change(SUBMIT, BATCH.format(noting=system.noting("batches", "len(tasks)")) + SUBMIT)


def test_a_batch_variant_is_handed_every_burst_in_one_call(system: System, one_cell: OneCell) -> None:
    batching(system)
    result = one_cell(system.path, SCENARIOS["throughput"], slots=2, params={"tasks": 30})
    assert ended(result) == ("ok", "")
    assert fates(result) == {"tasks_ok": 30}
    assert system.noted("batches") == ["30"]
    found = {one.name: one for one in result.metrics}
    assert found["throughput"].n == found["submit_rate"].n == 30
    one_by_one = one_cell(system.path, SCENARIOS["latency"], params={"rate": 10.0})
    assert one_by_one.status is Status.UNSUPPORTED
    assert "handed over in batches" in one_by_one.reason


def test_more_tasks_at_once_than_slots_are_the_adapter_s_fault(system: System, one_cell: OneCell) -> None:
    """Workers for three slots where there are two."""
    system.change("] * self.context.slots", "] * (self.context.slots + 1)")
    result = one_cell(system.path, Drain(), slots=2)
    assert ended(result) == ("error", "3 tasks ran at once in 2 slots: the adapter does not bound them")
    assert result.details["tasks_at_once"] == 3


def test_canaries_come_in_batches_too(system: System, one_cell: OneCell) -> None:
    batching(system)
    assert ended(one_cell(system.path, Drain(), slots=2)) == ("ok", "")
    assert system.noted("batches")[-1] == "4"
    assert system.noted("batches")[0] == "8"


def test_a_batch_variant_whose_adapter_takes_none_is_an_error(system: System, one_cell: OneCell) -> None:
    system.change(SETTLE, f"{SETTLE}# batch = true\n")
    assert ended(one_cell(system.path, Drain())) == (
        "error",
        "the adapter raised in `play`: TypeError: this adapter takes no batches: it is not Batch",
    )


# --- schedules that a process keeps -----------------------------------------------------------------

KEEPER = """
import sys, time
from bench.agent import run
time.sleep(0.5)
while True:
    run(int(sys.argv[1]), "noop")
    time.sleep(float(sys.argv[2]))
"""


def keeping(system: System, keeper: str) -> None:
    """Make it a system whose schedules are kept by a process of their own; `keeper` is Python text."""
    system.change('# capabilities = ["enqueue"]', '# capabilities = ["enqueue", "periodic"]')
    system.change("from bench.agent import Adapter,", "from bench.agent import Adapter, Periodic,")
    system.change(CLASS, "class Spool(Adapter, Periodic):\n")
    system.change(SUBMIT, f"    def register(self, schedule):\n        return [{keeper}]\n\n" + SUBMIT)


def test_a_schedule_counts_from_the_first_tick_of_the_process_that_keeps_it(
    system: System, one_cell: OneCell
) -> None:
    """That process comes up long after the first tick would have been due had it been there."""
    keeping(
        system,
        f"Process.python('scheduler', '-c', {KEEPER!r}, str(schedule.id), str(schedule.every_s))",
    )
    result = one_cell(system.path, SCENARIOS["periodic"], params={"every_s": 0.25, "ticks": 14}, slots=1)
    assert ended(result) == ("ok", "")
    assert result.events is not None
    assert result.resources is not None
    own = result.events[result.events["task"] >= SCHEDULE]
    assert set(own["kind"].tolist()) == {Kind.START, Kind.END}
    end_ns = int(result.resources["t_ns"].max())
    turns = (end_ns - int(own["t_ns"].min())) / 250_000_000 - 1  # one that began so late could not be missed
    planned = next(one.value for one in result.metrics if one.name == "ticks_planned")
    assert turns - 1 <= planned <= turns + 1


def test_a_schedule_that_never_ticks_is_an_error_and_the_fates_are_kept(
    system: System, one_cell: OneCell
) -> None:
    keeping(system, system.shell("scheduler", "exec sleep 60"))
    result = one_cell(system.path, SCENARIOS["periodic"], params={"every_s": 0.1, "ticks": 3}, slots=1)
    assert ended(result) == ("error", "the schedule never ticked")
    names = {one.name for one in result.metrics}
    assert {"tasks_ok", "tasks_lost", "negative_latencies"} <= names
    assert not any(name.startswith("tick") for name in names)


def test_what_keeps_a_schedule_goes_down_and_comes_up_again(system: System, one_cell: OneCell) -> None:
    keeping(
        system,
        f"Process.python('scheduler', '-c', {KEEPER!r}, str(schedule.id), str(schedule.every_s))",
    )
    params = {"what": "down", "every_s": 0.4, "missed": 4}
    result = one_cell(system.path, SCENARIOS["periodic"], params=params, slots=1)
    assert ended(result) == ("ok", "")
    assert result.events is not None
    own = result.events[result.events["task"] >= SCHEDULE]
    assert len(set(own["pid"].tolist())) == 2
    found = {one.name: one.value for one in result.metrics}
    assert found["missed_ticks"] in (3, 4, 5)
    assert found["runs_after"] > 0


def test_what_keeps_a_schedule_is_killed_and_started_again(system: System, one_cell: OneCell) -> None:
    keeping(
        system,
        f"Process.python('scheduler', '-c', {KEEPER!r}, str(schedule.id), str(schedule.every_s))",
    )
    params = {"what": "restart", "every_s": 1.0, "missed": 3}
    result = one_cell(system.path, SCENARIOS["periodic"], params=params, slots=1)
    assert ended(result) == ("ok", "")
    (restart,) = result.details["restarts"]
    assert (restart["role"], restart["status"]) == ("scheduler", -9)
    found = {one.name: one.value for one in result.metrics}
    assert found["runs_after"] > 0


def test_a_schedule_in_the_memory_of_a_client_is_gone_with_it(one_cell: OneCell) -> None:
    params: dict[str, object] = {"what": "restart", "every_s": 0.5, "missed": 6}
    result = one_cell("reference", SCENARIOS["periodic"], params=params)
    assert ended(result) == ("ok", "")
    assert [restart["role"] for restart in result.details["restarts"]] == ["client"]
    found = {one.name: one.value for one in result.metrics}
    assert (found["runs_after"], "runs_made_up" in found) == (0, False)


def test_of_several_clients_only_the_one_that_runs_the_body_is_paused(
    one_cell: OneCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other goes on: its runs begin during the one that was stopped in the middle."""
    monkeypatch.setattr(type(SCENARIOS["replicas"]), "unsupported", lambda *_: "")  # without a lock, too
    params: dict[str, object] = {"every_s": 1.0, "ticks": 7, "work_ms": 400, "pause_s": 2.5}
    result = one_cell("reference", SCENARIOS["replicas"], params=params)
    assert ended(result) == ("ok", "")
    (fault,) = result.details["faults"]
    assert result.events is not None
    own = result.events[(result.events["task"] >= SCHEDULE) & (result.events["kind"] == Kind.START)]
    paused = own[(own["t_ns"] > fault["done_ns"]) & (own["t_ns"] < fault["healed_ns"])]
    ran = set(paused["pid"].tolist())
    assert len(ran) == 1
    assert ran.isdisjoint(fault["pids"])
    assert set(own["pid"].tolist()) - ran <= set(fault["pids"])


def test_a_schedule_that_two_processes_keep_ticks_twice_and_each_has_its_own_folder(
    system: System, one_cell: OneCell
) -> None:
    """The file that the first one makes would end the second."""
    keeper = f"open('mine', 'x'){KEEPER}"
    keeping(system, f"Process.python('scheduler', '-c', {keeper!r}, str(schedule.id), str(schedule.every_s))")
    params = {"every_s": 0.5, "ticks": 5, "work_ms": 1}
    result = one_cell(system.path, SCENARIOS["replicas"], params=params, slots=1)
    assert ended(result) == ("ok", "")
    found = {one.name: one.value for one in result.metrics}
    assert found["ticks_several"] == found["ticks_planned"] > 0


@pytest.mark.parametrize("replicas", [2, 3])
def test_a_schedule_that_several_clients_keep_without_a_lock_runs_as_often_each_time(
    one_cell: OneCell, replicas: int
) -> None:
    params: dict[str, object] = {"every_s": 0.5, "ticks": 5, "work_ms": 100, "replicas": replicas}
    result = one_cell("reference", SCENARIOS["replicas"], params=params)
    assert ended(result) == ("ok", "")
    assert result.events is not None
    own = result.events[result.events["task"] >= SCHEDULE]
    starts = own[own["kind"] == Kind.START]
    assert len(set(starts["pid"].tolist())) == replicas
    found = {one.name: one.value for one in result.metrics}
    assert found["ticks_several"] == found["ticks_planned"] > 0
    assert found["ticks_overlapped"] == found["ticks_planned"]


def test_a_schedule_that_a_server_keeps_has_no_replicas(system: System, one_cell: OneCell) -> None:
    system.change('# capabilities = ["enqueue"]', '# capabilities = ["enqueue", "periodic"]')
    system.change("from bench.agent import Adapter,", "from bench.agent import Adapter, Periodic,")
    system.change(CLASS, "class Spool(Adapter, Periodic):\n")
    system.change(SUBMIT, "    def register(self, schedule):\n        pass\n\n" + SUBMIT)
    result = one_cell(system.path, SCENARIOS["replicas"], params={"ticks": 1}, slots=1)
    assert ended(result) == (
        "unsupported",
        "its schedules are kept by a server: there are no replicas of that here",
    )


def test_a_schedule_that_the_library_does_not_have_is_no_error(system: System, one_cell: OneCell) -> None:
    system.change('# capabilities = ["enqueue"]', '# capabilities = ["enqueue", "periodic"]')
    system.change("from bench.agent import Adapter,", "from bench.agent import Adapter, Periodic,")
    system.change(CLASS, "class Spool(Adapter, Periodic):\n")
    raising = "    def register(self, schedule):\n        raise NotImplementedError('whole minutes')\n\n"
    system.change(SUBMIT, raising + SUBMIT)
    result = one_cell(system.path, SCENARIOS["periodic"], params={"ticks": 1}, slots=1)
    assert ended(result) == ("unsupported", "whole minutes")


@pytest.mark.parametrize(
    ("script", "role", "said"),
    [
        (
            "echo no schedule found; exit 6",
            "scheduler",
            "scheduler exited with status 6; its last lines: no schedule found",
        ),
        (
            "exec sleep 60",
            "client",
            "'client' is the role of a process that runs tasks and of one that stays up: "
            "give one of them another role in the adapter",
        ),
    ],
)
def test_a_process_that_keeps_a_schedule_must_live_and_have_a_role_of_its_own(
    system: System, one_cell: OneCell, script: str, role: str, said: str
) -> None:
    keeping(system, system.shell(role, script))
    result = one_cell(system.path, SCENARIOS["periodic"], params={"every_s": 0.1, "ticks": 50}, slots=1)
    assert ended(result) == ("error", said)
