"""The system under test as it runs in one cell: services, client, workers. Knows no system and no scenario.

Everything happens in one thread: between two looks at the ledger it checks that all processes live,
takes a sample if one is due, and lets the progress line move.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import select
import shutil
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import ledger, pagecache, wallclock
from bench.agent.contract import CONTEXT_VARIABLE, Context
from bench.agent.probe import DOMAIN_VARIABLE
from bench.agent.work import IO_VARIABLE, LEDGER_VARIABLE
from bench.environments import Environment, bundle
from bench.errors import AdapterError, CellError, CellTimeout, ProcessDied, Unsupported
from bench.faults import Striker
from bench.harness import Home, deferred_signals
from bench.link import Link
from bench.model import CANARY_PHASE, PHASE_SHIFT, SCHEDULE, Fault, Load, Phase, Role, System, Variant
from bench.processes import Child, Group
from bench.readiness import answers
from bench.sampler import Sampler
from bench.services import Provision, embedded
from bench.services.serving import Serving
from bench.supervisor import RESTART_S, Supervisor, send
from bench.tail import Tail

PORTS = 4
"""Free ports for the servers of a system's own."""

LOOK_S = 0.02
SOON_NS = 200_000_000
"""From the order to play a load to its begin, where its times must be known outside the client."""

MINUTE_S = 60.0
READY_S = 60.0
STOP_GRACE_S = 10.0
MANIFOLD = (Role.SCHEDULER, Role.DAEMON)
"""Of the roles that keep schedules, those of which there may be several processes."""

CANARY_WAVES = 5
CANARIES, HEAVY_CANARIES = 4, 1
"""For each slot, in the first wave; twice as many in each one after, because a worker that prefetches takes
many. The second is for what reaches a few tasks a second, or would take most of the cell for it."""
CANARY_SLOTS = 2
"""For so many slots `canary_ms` is enough. More of them share the cores and the server, so that too few begin
while one sleeps: they sleep longer in proportion, and twice as long in each wave after the first."""

Progress = Callable[[str], None]


class ClientLost(CellError):
    """The client was killed while it carried out an order, and is to be started again."""


class Stack:
    """All processes of one cell, and the one loop that watches them.

    `spawned_ns` is when the processes that run tasks were last spawned, `up_ns` when they had been.
    `seconds` is what setting up took by step: `services`, `migration`, `servers`. `details` collects what
    the cell's record should say of the stack. It is looked at every `look_s`, and `minutely` is called about
    once a minute. `segment` is the clock domain of a cell that goes on.
    """

    def __init__(
        self,
        system: System,
        variant: Variant,
        environment: Environment,
        home: Home,
        folder: Path,
        slots: int,
        progress: Progress,
        provision: Provision,
        segment: int = 0,
    ) -> None:
        self.system, self.variant, self.environment = system, variant, environment
        self.slots = min(slots, variant.max_slots or slots)
        self.progress = progress
        self.ahead = "enqueue" not in system.capabilities
        folder = folder.absolute()  # the processes of a cell have another working directory
        self.logs, self.ledger = folder / "logs", folder / "ledger"
        self.work = home.folder / f"cell-{time.monotonic_ns()}"
        for made in (self.logs, self.ledger, self.work, self.work / "home"):
            made.mkdir(parents=True, exist_ok=True)
        self.group = Group(home, str(time.monotonic_ns()))
        self.sampler = Sampler(self.group, self.ledger, segment)
        self.tail = Tail(self.ledger)
        self.seconds: dict[str, float] = {}
        self.details: dict[str, Any] = {
            "slots": self.slots,
            "cpu_source": home.cpu_source,
            "set_up_s": self.seconds,
        }
        self.spawned_ns = self.up_ns = 0
        self.look_s = LOOK_S
        self.minutely: Callable[[], None] | None = None
        self._minute_s = 0.0
        self._segment = segment
        self._link = Link()
        self._replicas: list[Link] = []
        self._ordered = False
        self._environ: dict[str, str] = {}
        self._ports = embedded.free_ports(PORTS)
        # Of log files: none goes on where another ended, also not one of an earlier segment.
        self._numbers = itertools.count(sum(1 for _ in self.logs.iterdir()))
        self.services = Serving(provision, self.group, self.work, self._spawn, self.until, progress)
        self._servers: list[Child] = []
        self._declared: list[dict[str, Any]] = []
        self._keepers: list[tuple[dict[str, Any], Path]] = []
        self._client: Child | None = None
        self._workers: list[Child] = []
        self._up = self._in_process = False
        self._canaries_sent = 0
        self._claims = False
        self._relays: list[Child] = []
        self._clock: Path | None = None
        self._supervisor: Supervisor | None = None
        self._striker: Striker | None = None

    # -- its life

    def open(self, *, io: bool, cold: bool, relay: bool = False, clock: bool = False) -> None:
        """Start the services and the client, and connect; nothing runs tasks yet.

        With `relay`, all connections to services can be cut; with `clock`, the wall clock that all of it sees
        can be set.

        Raises:
            Unsupported: there is no way to set a clock.
        """
        python_path = bundle(self.system, self.work / "bundle")
        if cold:
            self._evict()
        self._environ = {
            "PATH": f"{self.environment.python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.work / "home"),
            "TMPDIR": str(self.work / "home"),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "TZ": "UTC",  # some count cron expressions in UTC, some in local time
            "PYTHONPATH": str(python_path),
            "PYTHONUNBUFFERED": "1",
            LEDGER_VARIABLE: str(self.ledger),
            DOMAIN_VARIABLE: str(self._segment),
        }
        if io:
            self._start_io_server()
        began_s = time.monotonic()
        if self.variant.services:
            self.details["services"] = self.services.record
        addresses = {name: self.services.start(name, self._log) for name in self.variant.services}
        if clock:  # of the system's processes: servers such as Redis do not start with another clock
            self._clock = self.work / "clock"
            self._environ |= wallclock.environment(self._clock)
        if relay:
            addresses = {name: self._relayed(address) for name, address in addresses.items()}
        if addresses:
            self.seconds["services"] = time.monotonic() - began_s
        context = Context(
            self.variant.name,
            self.slots,
            self.work / "home",
            addresses,
            dict(self.variant.settings),
            self._ports,
            self.variant.batch,
        )
        self._environ[CONTEXT_VARIABLE] = context.to_json()
        client_spawned_ns = time.monotonic_ns()
        self._client = self._spawn_client(self._link)
        before = self.order("declare", READY_S)
        self._migrate(before["migrations"])
        servers_spawned_ns = time.monotonic_ns()
        self._start_servers(before["servers"])
        answer = self.order("open", self._patience_s)
        self._declared = self._checked(answer["processes"])
        self._claims = bool(answer["claims"])
        self._in_process = bool(answer["in_process"])
        self.details["in_process"] = self._in_process and not self._servers
        if self._in_process and not self._declared:
            self.spawned_ns = servers_spawned_ns if self._servers else client_spawned_ns

    def _spawn_client(self, link: Link) -> Child:
        module = f"adapters.{self.system.name}"
        argv = [str(self.environment.python), "-m", "bench.agent.client", module, str(link.descriptor)]
        child = self._spawn(Role.CLIENT, argv, pass_fds=[link.descriptor])
        link.spawned()
        return child

    def bring(self, *, up: bool, ready: bool, cold: bool) -> None:
        """Let tasks be executed, or not; with `ready`, as many at once as there are slots.

        A system that takes no tasks is not asked whether it is ready: its first tick shows.

        Raises:
            CellError: fewer than the declared slots ever ran at once.
            CellTimeout: no task ran.
        """
        if up and not self._up:
            self._workers_up(cold=cold)
            if ready and self.system.takes_tasks:
                self._canaries()
        elif self._up and not up:
            self._workers_down()
        self._up = up

    # -- while faults are done to it

    def supervise(self) -> None:
        """From now on, start again what exits, and take what the library refuses as it comes."""
        if self._supervisor is None:
            self._supervisor = Supervisor(self.group)
            self._striker = Striker(self.group, self.ledger, self._relays, self._clock)
            self.details["restarts"] = self._supervisor.restarts

    def strike(self, number: int, faults: Sequence[Fault]) -> None:
        """Do the faults of a phase from now on, each at its time."""
        assert self._striker is not None
        self._striker.begin(number, faults)

    @property
    def struck(self) -> bool:
        """Whether a fault was done that is not healed yet."""
        return self._striker is not None and self._striker.healing

    def _look_after(self) -> None:
        """Do the faults that are due, and start again what has exited.

        Raises:
            ClientLost: the client has exited, in the middle of an order.
            ProcessDied: the client has exited, and it is not what runs tasks.
        """
        assert self._supervisor is not None
        assert self._striker is not None
        self._striker.look()
        self._supervisor.look()
        self.group.check_others()
        for child in self.group.children:
            if (
                child.role == Role.CLIENT
                and child is not self._client
                and not child.stopping
                and child.ended()
            ):
                raise ProcessDied(child.epitaph("a replica"))
        if self._client is None or self._client.stopping or not self._client.ended():
            return
        if not self._in_process or self._servers:
            raise ProcessDied(self._client.epitaph("client"))
        if self._ordered:
            raise ClientLost(self._client.epitaph("client"))
        self.revive()

    def revive(self) -> None:
        """Start the client again, which is what runs tasks, as a supervisor would."""
        assert self._client is not None
        assert self._supervisor is not None
        lost, ended_ns = self._client, time.monotonic_ns()
        lost.stopping = True
        self._link.close()
        self._link = Link()
        again_s = time.monotonic() + RESTART_S
        self.until(lambda: time.monotonic() >= again_s, 2 * RESTART_S, "waiting to start the client again")
        send(self.group.remains(Role.CLIENT), signal.SIGKILL)
        self.group.children.remove(lost)
        self._client = self._spawn_client(self._link)
        self.order("open", self._patience_s)
        if self._up:
            self.order("start", READY_S)
        status, again_ns = lost.popen.returncode, time.monotonic_ns()
        self._supervisor.restarts.append(
            {"role": Role.CLIENT, "status": status, "ended_ns": ended_ns, "again_ns": again_ns}
        )

    def _relayed(self, address: Mapping[str, Any]) -> dict[str, Any]:
        """The address of a service, by way of a relay of its own."""
        (port,), target = embedded.free_ports(1), str(address["port"])
        relay = self._spawn_own(f"relay-{next(self._numbers)}", "bench.relay", str(port), target)
        self._relays.append(relay)
        self._until_ready(relay, f"tcp://127.0.0.1:{port}")
        there = re.compile(rf":{target}(?!\d)")
        changed = {key: there.sub(f":{port}", str(value)) for key, value in address.items() if key != "port"}
        return {**changed, "port": port}

    # -- the end

    def close(self) -> None:
        """Have the client disconnect and exit; what was measured is good even if that fails."""
        if self._client is not None:
            self._client.stopping = True
        try:
            self.order("close", STOP_GRACE_S)
        except CellError as error:
            self.details["close_failed"] = str(error)

    def tear_down(self) -> None:
        """End everything. A Ctrl-C in here is put off until it is done."""
        with deferred_signals():
            if self._striker:  # what stands still is ended all the same: SIGKILL does not wait
                self.details["faults"] = [strike.record() for strike in self._striker.strikes]
            used_ns = self.group.kill()
            if left := self.group.remove_others() + self.services.drop():
                self.details["left_behind"] = left
            if used_ns is not None:
                self.details["cpu_ns"] = used_ns + self.services.engine_used_ns()
            for link in (self._link, *self._replicas):
                link.close()
            self.services.strike_out(self.logs)
            shutil.rmtree(self.work, ignore_errors=True)

    # -- the loop between two looks

    def look(self) -> None:
        """One turn: processes alive, new events, a sample if due.

        Raises:
            ProcessDied: one of the processes has exited, and nobody starts it again.
            ClientLost: see `supervise`.
        """
        if self._supervisor:
            self._look_after()
        else:
            self.group.check()
        self.tail.poll()
        self.sampler.tick()
        self.progress("")
        if self.minutely is not None and time.monotonic() > self._minute_s:
            self._minute_s = time.monotonic() + MINUTE_S
            self.minutely()
        links = (self._link, *self._replicas) if self._ordered else ()
        select.select([link.ours for link in links], [], [], self.look_s)

    def until(self, done: Callable[[], bool], limit_s: float, doing: str) -> None:
        """Look until `done()`.

        Raises:
            CellTimeout: it is not, after `limit_s`.
        """
        deadline_s = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > deadline_s:
                raise CellTimeout(f"{doing}: nothing after {limit_s:g} s" + self.log_tails())
            self.look()

    def order(self, name: str, limit_s: float, *, to: Link | None = None, **details: Any) -> dict[str, Any]:
        """Give the client an order, or a replica of it, and look until it answers.

        Raises:
            AdapterError: the adapter raised.
            CellTimeout: there is no answer after `limit_s`.
            Unsupported: the adapter says that the library cannot do this.
        """
        deadline_s = time.monotonic() + limit_s

        def wait() -> None:
            if time.monotonic() > deadline_s:
                raise CellTimeout(f"the client did not finish `{name}` in {limit_s:g} s" + self.log_tails())
            self.look()

        self._ordered = True
        try:
            return (to or self._link).order(name, wait, **details)
        finally:
            self._ordered = False

    def asked(self, load: Load) -> Load:
        """A load as this system can be asked for it: without retries where it has none."""
        return load if "retry" in self.system.capabilities else replace(load, retries=0)

    def play(
        self,
        phase: int,
        load: Load,
        limit_s: float,
        *,
        skip: int = 0,
        since_ns: int = 0,
    ) -> dict[str, Any]:
        """Have the client send a load, without its first `skip` tasks and those due before `since_ns` of it.

        A supervised client that is lost goes on where it was: what has become due meanwhile is sent at once.

        Raises:
            CellError: the library did not accept every task, and nobody supervises.
        """
        begin_ns = time.monotonic_ns() + SOON_NS if self._supervisor else 0
        before = 0
        while True:
            try:
                answer = self.order(
                    "play",
                    limit_s,
                    phase=phase,
                    load=asdict(load),
                    ahead=self.ahead,
                    skip=skip,
                    since_ns=since_ns,
                    begin_ns=begin_ns,
                )
                break
            except ClientLost:
                self.revive()
                self.tail.poll()
                before = self.tail.submitted(phase)
                skip = max(skip, ledger.next_index(ledger.read(self.ledger).records, phase))
        answer["sent"] += before
        if answer["refused"] and self._supervisor is None:
            raise CellError(
                f"submit raised for {answer['refused']} of {answer['sent']} tasks: {answer['error']}"
            )
        return answer

    # -- schedules

    def register(self, number: int, phase: Phase) -> None:
        """Have the system run a body every so often, as the schedule of a phase.

        What keeps the schedule is there as often as the phase has `replicas`, as if it had been deployed on
        so many machines: the clients of a system that runs in them, the processes that keep its schedules,
        or its scheduler.

        Raises:
            Unsupported: a server keeps the schedule, and replicas were asked for.
        """
        more = phase.replicas - 1
        alone = self._in_process and not self._servers
        self._replicas += [self._start_replica() for _ in range(more if alone else 0)]
        schedule = {
            "id": SCHEDULE | number << PHASE_SHIFT,
            "every_s": phase.every_s,
            "work": phase.every_work,
            "wall_clock": phase.wall_clock,
            "cron": phase.cron,
        }
        # One right after the other, so that all are due at nearly the same moment.
        for link in (self._link, *self._replicas):
            answer = self.order("register", READY_S, to=link, **schedule)
        keepers = [(keeper, self.work / "home") for keeper in self._checked(answer["processes"])]
        twins = [keeper for keeper, _ in keepers]
        twins = twins or [process for process in self._declared if process["role"] in MANIFOLD]
        if more and not alone:
            if not twins:
                raise Unsupported("its schedules are kept by a server: there are no replicas of that here")
            machines = [self.work / f"replica-{number}" for number in range(1, phase.replicas)]
            keepers += itertools.product(twins, machines)
        self._keepers += keepers
        self._workers += [self._spawn_keeper(*keeper) for keeper in keepers]

    def _start_replica(self) -> Link:
        """Another client, which runs tasks as the first one does."""
        link = Link()
        self._spawn_client(link)
        self.order("open", self._patience_s, to=link)
        self.order("start", READY_S, to=link)
        return link

    def _spawn_keeper(self, process: Mapping[str, Any], cwd: Path) -> Child:
        cwd.mkdir(exist_ok=True)  # a replica has files of its own
        return self._spawn(process["role"], process["argv"], extra=process["env"], cwd=cwd)

    def claims(self) -> dict[int, bool] | None:
        """What the library says of every task that was sent, or None where it keeps no such record."""
        if not self._claims:
            return None
        answer = self.order("claims", READY_S)
        return dict.fromkeys(answer["succeeded"], True) | dict.fromkeys(answer["failed"], False)

    def log_tails(self) -> str:
        """The last lines of every worker's log, for an error message."""
        own = self._workers + self._servers
        tails = [(child.role, child.last_lines()) for child in own or self.group.children]
        return "".join(f"; {role}: {tail}" for role, tail in tails if tail)

    # -- what must run before the client connects

    @property
    def _patience_s(self) -> float:
        """How long a part of the system may take to come up."""
        return max(READY_S, self.variant.start_s)

    def _migrate(self, commands: list[dict[str, Any]]) -> None:
        """Run each command to its end.

        Raises:
            ProcessDied: one failed.
        """
        began_s = time.monotonic()
        for command in commands:
            self.progress("migrating")
            child = self._spawn_declared(command)
            child.stopping = True  # its end is no fault
            self.until(child.ended, self._patience_s, "migrating")
            if child.popen.returncode != 0:
                raise ProcessDied(child.epitaph("migration"))
            self.group.children.remove(child)
        if commands:
            self.seconds["migration"] = time.monotonic() - began_s

    def _start_servers(self, processes: list[dict[str, Any]]) -> None:
        """Start all servers, and wait until each is ready."""
        began_s = time.monotonic()
        self._servers = [self._spawn_declared(process) for process in processes]
        for child, process in zip(self._servers, processes, strict=True):
            self._until_ready(child, process["ready"])
        if processes:
            self.seconds["servers"] = time.monotonic() - began_s

    def _until_ready(self, child: Child, address: str) -> None:
        if address:
            ready = functools.partial(answers, address)
            self.until(ready, self._patience_s, f"waiting for the {child.role}")
            self.group.check()  # or somebody else answered on its port

    def _checked(self, processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Processes that run tasks, or keep a schedule.

        Raises:
            AdapterError: they could not be told from what must stay up.
        """
        staying = {one.role for one in self.group.everything if one not in self._workers}
        if shared := sorted(staying & {process["role"] for process in processes}):
            raise AdapterError(
                f"{shared[0]!r} is the role of a process that runs tasks and of one that stays up: "
                "give one of them another role in the adapter"
            )
        return processes

    # -- workers

    def _workers_up(self, *, cold: bool) -> None:
        if self._declared or not self.spawned_ns:
            if cold:
                self._evict()
            self.spawned_ns = time.monotonic_ns()
        self._workers = [self._spawn_declared(process) for process in self._declared]
        for child, process in zip(self._workers, self._declared, strict=True):
            self._until_ready(child, process["ready"])
        self._workers += [self._spawn_keeper(*keeper) for keeper in self._keepers]
        if self._in_process:
            self.order("start", READY_S)
        self.up_ns = time.monotonic_ns()

    def _workers_down(self) -> None:
        if self._in_process:
            self.order("stop", READY_S)
        left = self.group.stop(self._workers, STOP_GRACE_S) if self._workers else []
        if left:
            self.details["killed_at_stop"] = self.details.get("killed_at_stop", 0) + len(left)
        self._workers = []

    def _canaries(self) -> None:
        """Send waves of short sleeps until as many ran at once as there are slots."""
        self.progress("waiting for the workers")
        most, wave_n = 0, (HEAVY_CANARIES if self.variant.heavy else CANARIES) * self.slots
        sleep_ms = self.variant.canary_ms * max(1.0, self.slots / CANARY_SLOTS)
        ended = self.tail.ended(CANARY_PHASE)
        for _ in range(CANARY_WAVES):
            # Ids of earlier waves must not come again: a wave is the tail of a longer load.
            skip = self._canaries_sent
            self._canaries_sent += wave_n
            ended += wave_n
            load = Load(self._canaries_sent, work=f"sleep:{sleep_ms:g}")
            self.play(CANARY_PHASE, load, self._patience_s, skip=skip)
            arrived = functools.partial(self._canaries_ended, ended)
            self.until(arrived, self.variant.start_s, "waiting for the first task")
            records = ledger.read(self.ledger).records
            most = max(most, ledger.at_once(records[records["t_ns"] > self.up_ns]))
            if most >= self.slots:
                break
            wave_n *= 2
            if self.slots > CANARY_SLOTS:
                sleep_ms *= 2
        self.details["tasks_at_once"] = most
        if most < self.slots:
            raise CellError(f"only {most} of {self.slots} slots ever ran at once" + self.log_tails())
        if most > self.slots:
            raise CellError(
                f"{most} tasks ran at once in {self.slots} slots: the adapter does not bound them"
            )

    def _canaries_ended(self, wanted: int) -> bool:
        return self.tail.ended(CANARY_PHASE) >= wanted

    # -- processes

    def _spawn_declared(self, process: Mapping[str, Any]) -> Child:
        return self._spawn(process["role"], process["argv"], extra=process["env"])

    def _spawn(
        self,
        role: str,
        argv: list[str],
        *,
        extra: Mapping[str, str] | None = None,
        pass_fds: list[int] | None = None,
        log: Path | None = None,
        cwd: Path | None = None,
    ) -> Child:
        try:
            return self.group.spawn(
                role,
                argv,
                env={**self._environ, **(extra or {})},
                cwd=cwd or self.work / "home",
                log=log or self._log(role),
                pass_fds=pass_fds or (),
            )
        except OSError as error:
            raise ProcessDied(f"cannot start the {role}: {error}") from error

    def _log(self, role: str) -> Path:
        return self.logs / f"{role}-{next(self._numbers)}.log"

    def _spawn_own(self, name: str, module: str, *arguments: str) -> Child:
        """A process of the harness's own, with its Python, which is counted into no figure."""
        root = Path(__file__).resolve().parent.parent
        return self.group.spawn(
            Role.HARNESS,
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, "PYTHONPATH": str(root)},
            cwd=root,
            log=self.logs / f"{name}.log",
        )

    def _start_io_server(self) -> None:
        """The other end of the work kind `io`: ours, counted into no figure."""
        port = self.work / "io.port"
        self._spawn_own("io-server", "bench.agent.io_server", str(port))
        self.until(port.exists, READY_S, "waiting for the io server")
        self._environ[IO_VARIABLE] = port.read_text()

    def _evict(self) -> None:
        """Put the files of the adapter's environment and Python's own out of the page cache."""
        folders = [self.environment.python.parent.parent, Path(sysconfig.get_path("stdlib"))]
        self.details["evicted_bytes"] = pagecache.evict(folders)
