"""One cell, start to finish: services, client, phases, history, figures. Knows no system and no scenario.

Everything happens in this one thread: between two looks at the ledger it checks that all processes
live, takes a sample if one is due, and lets the progress line move.
"""

from __future__ import annotations

import functools
import os
import select
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import ledger, pagecache, services
from bench.agent.contract import CONTEXT_VARIABLE, Context
from bench.agent.probe import DOMAIN_VARIABLE, LEDGER_VARIABLE
from bench.agent.work import IO_VARIABLE, body_s
from bench.environments import Environment, bundle
from bench.errors import CellError, CellTimeout, ProcessDied, SchedbenchError, Unsupported
from bench.link import Link
from bench.model import (
    CANARY_PHASE,
    Arrival,
    Cell,
    Load,
    Metric,
    Outcome,
    Phase,
    Role,
    Status,
    System,
    Variant,
    Workers,
)
from bench.processes import Child, Group, Home, deferred_signals
from bench.sampler import Sampler
from bench.scenario import History, Scenario
from bench.tail import Tail

LOOK_S = 0.02
READY_S = 60.0
STOP_GRACE_S = 10.0
CANARY_WAVES = 5
CANARY_WORK = "sleep:20"
CANARIES_PER_SLOT = 4
"""In the first wave; twice as many in each one after, because a worker that prefetches takes many."""
SETTLE_S = 0.1
TRIAL_SEED = 1_000_003
"""Arrivals differ between trials, and are the same for every system in one trial."""

Progress = Callable[[str], None]


@dataclass
class Result:
    """What a cell left behind."""

    status: Status
    reason: str
    metrics: list[Metric] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    events: np.ndarray | None = None
    tasks: ledger.Frame | None = None
    resources: ledger.Frame | None = None


def run_cell(
    cell: Cell,
    system: System,
    scenario: Scenario,
    environment: Environment,
    home: Home,
    folder: Path,
    slots: int,
    progress: Progress,
    seed: int = 1,
) -> Result:
    """Run one cell; never raises for what a system or adapter does, only for the user's Ctrl-C.

    `folder` is the cell's place in the store: the ledger and the logs go there as they are written.
    """
    run = _Run(cell, system, scenario, environment, home, folder, slots, progress, seed)
    status, reason = Status.OK, ""
    try:
        missing = scenario.unsupported(system, run.variant, run.params)
        if missing:
            raise Unsupported(missing)
        run.prepare()
        run.play_scenario()
    except KeyboardInterrupt:
        status, reason = Status.INTERRUPTED, "interrupted by the user"
    except Unsupported as error:
        status, reason = Status.UNSUPPORTED, str(error)
    except CellTimeout as error:
        status, reason = Status.TIMEOUT, str(error)
    except SchedbenchError as error:
        status, reason = Status.ERROR, str(error)
    finally:
        run.tear_down()
    return run.result(status, reason)


class _Run:
    """The state of a cell while it runs."""

    def __init__(
        self,
        cell: Cell,
        system: System,
        scenario: Scenario,
        environment: Environment,
        home: Home,
        folder: Path,
        slots: int,
        progress: Progress,
        seed: int,
    ) -> None:
        self.cell, self.system, self.scenario, self.environment = cell, system, scenario, environment
        self.params = scenario.values(cell.params)
        self.variant: Variant = system.variants[cell.variant]
        self.slots = min(slots, self.variant.max_slots or slots)
        self.progress = progress
        self.seed = seed
        self.ahead = "enqueue" not in system.capabilities
        folder = folder.absolute()  # the processes of a cell have another working directory
        self.logs, self.ledger = folder / "logs", folder / "ledger"
        self.work = home.folder / f"cell-{time.monotonic_ns()}"
        for made in (self.logs, self.ledger, self.work, self.work / "home"):
            made.mkdir(parents=True, exist_ok=True)
        self.group = Group(home, str(time.monotonic_ns()))
        self.sampler = Sampler(self.group)
        self.tail = Tail(self.ledger)
        self.link = Link()
        self.environ: dict[str, str] = {}
        self.declared: list[dict[str, Any]] = []
        self.workers: list[Child] = []
        self.up = self.in_process = self.ordered = False
        self.phases: dict[int, Phase] = {}
        self.sent: dict[int, int] = {}
        self.spawned_ns: dict[str, int] = {}
        self.up_ns = 0
        self.body_s = 0.0
        self.details: dict[str, Any] = {"slots": self.slots, "cpu_source": home.cpu_source}
        self.current = ""
        self.next_sample_s: float | None = None
        self.sample_s = 0.25
        self.with_memory = False

    # -- the recipe

    def prepare(self) -> None:
        """Services up, client open."""
        python_path = bundle(self.system, self.work / "bundle")
        if self.scenario.cold(self.params):
            self.details["evicted_bytes"] = pagecache.evict(self._python_files())
        self.environ = {
            "PATH": f"{self.environment.python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.work / "home"),
            "TMPDIR": str(self.work / "home"),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "PYTHONPATH": str(python_path),
            "PYTHONUNBUFFERED": "1",
            LEDGER_VARIABLE: str(self.ledger),
            DOMAIN_VARIABLE: "0",
        }
        self._start_io_server()
        addresses = {name: self._start_service(name) for name in self.variant.services}
        context = Context(
            self.variant.name, self.slots, self.work / "home", addresses, dict(self.variant.settings)
        )
        self.environ[CONTEXT_VARIABLE] = context.to_json()
        module = f"adapters.{self.system.name}"
        client_spawned_ns = time.monotonic_ns()
        self.client = self._spawn(
            Role.CLIENT,
            [str(self.environment.python), "-m", "bench.agent.client", module, str(self.link.descriptor)],
            pass_fds=[self.link.descriptor],
        )
        self.link.spawned()
        answer = self._order("open", READY_S)
        self.declared = answer["processes"]
        self.in_process = bool(answer["in_process"])
        self.details["in_process"] = self.in_process
        if self.in_process and not self.declared:
            self.spawned_ns["client"] = client_spawned_ns

    def play_scenario(self) -> None:
        """Every phase the scenario yields, each answered with what came of it."""
        steps = self.scenario.phases(self.params, self.variant)
        outcome: Outcome | None = None
        while True:
            try:
                phase = next(steps) if outcome is None else steps.send(outcome)
            except StopIteration:
                break
            outcome = self._phase(len(self.phases) + 1, phase)
        time.sleep(SETTLE_S)  # a duplicate of the last task would show up now
        self.client.stopping = True
        try:
            self._order("close", STOP_GRACE_S)
        except CellError as error:  # what was measured is good all the same
            self.details["close_failed"] = str(error)

    def tear_down(self) -> None:
        """End everything. A Ctrl-C in here is put off until it is done."""
        with deferred_signals():
            self.group.kill()
            self.link.close()
            shutil.rmtree(self.work, ignore_errors=True)

    def result(self, status: Status, reason: str) -> Result:
        """The history, and the figures computed from it."""
        found = ledger.read(self.ledger)
        tasks = ledger.per_task(found.records)
        faults = {
            "torn bytes": found.torn_bytes,
            "records of an unknown kind": found.unknown,
            "unreadable files": found.unreadable,
            "tasks of several clocks": int(tasks["mixed_domains"].sum()),
        }
        if seen := {name: count for name, count in faults.items() if count}:
            self.details["ledger_faults"] = seen
            # A torn tail is what a killed writer leaves; anything else cannot be explained.
            if status is Status.OK and seen.keys() != {"torn bytes"}:
                status, reason = Status.ERROR, f"the ledger is damaged: {seen}; nothing is computed from it"
        resources = self.sampler.frame()
        metrics: list[Metric] = []
        if status is Status.OK and self.phases:
            history = History(
                tasks, resources, self.phases, self.spawned_ns, self.ahead, str(self.details["cpu_source"])
            )
            metrics = [
                *history.fates(self.scenario.deadline_s),
                *self.scenario.metrics(history, self.params),
            ]
        return Result(status, reason, metrics, self.details, found.records, tasks, resources)

    # -- phases

    def _phase(self, number: int, phase: Phase) -> Outcome:
        self.phases[number] = phase
        self.current = phase.name
        self.progress(phase.name)
        load = phase.load
        up = phase.workers is Workers.UP
        self._set_workers(phase, up=up)
        began_s = time.monotonic()
        self.sampler.sample(phase.name, "begin", with_memory=phase.memory)
        self.with_memory, self.sample_s = phase.memory, phase.sample_s
        self.next_sample_s = time.monotonic() + phase.sample_s if phase.memory else None
        last_due_ns = 0
        if load is not None:
            last_due_ns = self._play(number, load, phase.limit_s)
        if self.ahead and not up:
            self._until(lambda: time.monotonic_ns() > last_due_ns, phase.limit_s, "waiting for the due time")
        if phase.wait == "drain":
            self._drain(phase, last_due_ns)
        elif phase.wait == "hold":
            over_s = time.monotonic() + phase.hold_s
            self._until(lambda: time.monotonic() >= over_s, phase.hold_s + phase.limit_s, "holding")
        self.next_sample_s = None
        self.sampler.sample(phase.name, "end", with_memory=phase.memory)
        self.details["measuring_s"] = self.details.get("measuring_s", 0.0) + time.monotonic() - began_s
        self.tail.poll()
        return self.tail.outcome(number if load is not None else number - 1)

    def _play(self, number: int, load: Load, limit_s: float) -> int:
        """Have the client send a load; returns the last due time."""
        seconds = load.n / load.rate_hz if load.arrival is not Arrival.BURST else 0.0
        details = asdict(replace(load, seed=load.seed + self.seed + self.cell.trial * TRIAL_SEED))
        answer = self._order("play", seconds + limit_s, phase=number, load=details, ahead=self.ahead)
        self.sent[number] = answer["sent"]
        self.body_s = max(self.body_s, body_s(load.work))
        if answer["refused"]:
            raise CellError(
                f"submit raised for {answer['refused']} of {answer['sent']} tasks: {answer['error']}"
            )
        return int(answer["last_due_ns"])

    def _drain(self, phase: Phase, last_due_ns: int) -> None:
        """Wait until every task sent so far has ended, or the system has been silent for too long.

        Too long is the variant's settle time and the longest body, or its start time while nothing has
        happened since the workers came up. Before the last task is due, nothing is too long.

        Raises:
            CellTimeout: nothing ran at all, a body never ended, or the limit passed.
        """
        limit_s = phase.limit_s
        deadline_s = time.monotonic() + limit_s
        moved_s, newest_ns = max(time.monotonic(), last_due_ns / 1e9), self.tail.last_ns
        while not self._drained():
            self._look()
            if self.tail.last_ns != newest_ns:
                moved_s, newest_ns = max(time.monotonic(), last_due_ns / 1e9), self.tail.last_ns
            fresh = self.tail.last_ns < self.up_ns
            patience_s = (self.variant.start_s if fresh else self.variant.settle_s) + self.body_s
            silent = time.monotonic() - moved_s > patience_s
            if not silent and time.monotonic() < deadline_s:
                continue
            sent = sum(self.sent.values())
            started, ended = (
                sum(count(number) for number in self.sent) for count in (self.tail.started, self.tail.ended)
            )
            ran = any(self.tail.ended(number) for number in self.sent if number != CANARY_PHASE)
            if silent and started == ended and ran:
                return  # what is missing is lost: the fates say so
            why = f"nothing moved for {patience_s:g} s" if silent else f"limit of {limit_s:g} s passed"
            raise CellTimeout(
                f"{why} in phase {self.current!r}: {sent} tasks sent, {started} started, {ended} ended"
                + self._log_tails()
            )

    def _drained(self) -> bool:
        return self._ended() >= sum(self.sent.values())

    def _ended(self) -> int:
        return sum(self.tail.ended(number) for number in self.sent)

    # -- workers

    def _set_workers(self, phase: Phase, *, up: bool) -> None:
        if up == self.up:
            return
        self.up = up
        if up:
            self._workers_up(phase)
        else:
            self._workers_down()

    def _workers_up(self, phase: Phase) -> None:
        if self.declared and self.scenario.cold(self.params):
            self.details["evicted_bytes"] = pagecache.evict(self._python_files())
        self.spawned_ns[phase.name] = self.spawned_ns.pop("client", 0) or time.monotonic_ns()
        self.workers = [
            self._spawn(process["role"], process["argv"], extra=process["env"]) for process in self.declared
        ]
        if self.in_process:
            self._order("start", READY_S)
        self.up_ns = time.monotonic_ns()
        if phase.ready:
            self._canaries()

    def _workers_down(self) -> None:
        if self.in_process:
            self._order("stop", READY_S)
        if self.workers:
            left = self.group.stop(self.workers, STOP_GRACE_S)
            if left:
                self.details["killed_at_stop"] = self.details.get("killed_at_stop", 0) + len(left)
        self.workers = []

    def _canaries(self) -> None:
        """Send waves of short sleeps until as many ran at once as there are slots."""
        self.progress("waiting for the workers")
        wanted = self.tail.ended(CANARY_PHASE)
        sent = self.sent.pop(CANARY_PHASE, 0)
        most, wave_n = 0, CANARIES_PER_SLOT * self.slots
        for _ in range(CANARY_WAVES):
            load = Load(sent + wave_n, work=CANARY_WORK)
            # Ids of earlier waves must not come again: a wave is the tail of a longer load.
            answer = self._order(
                "play", READY_S, phase=CANARY_PHASE, load=asdict(load), ahead=self.ahead, skip=sent
            )
            sent += wave_n
            wanted += wave_n
            if answer["refused"]:
                raise CellError(f"submit raised for a canary: {answer['error']}")
            self._until(
                functools.partial(self._canaries_ended, wanted),
                READY_S,
                "waiting for the first task",
            )
            records = ledger.read(self.ledger).records
            most = max(most, ledger.at_once(records[records["t_ns"] > self.up_ns]))
            if most >= self.slots:
                break
            wave_n *= 2
        self.details["tasks_at_once"] = most
        self.sent[CANARY_PHASE] = sent
        if most < self.slots:
            raise CellError(f"only {most} of {self.slots} slots ever ran at once" + self._log_tails())

    def _canaries_ended(self, wanted: int) -> bool:
        return self.tail.ended(CANARY_PHASE) >= wanted

    # -- the loop between two looks

    def _look(self) -> None:
        """One turn: processes alive, new events, a sample if due."""
        self.group.check()
        self.tail.poll()
        if self.next_sample_s is not None and time.monotonic() >= self.next_sample_s:
            self.sampler.sample(self.current, with_memory=self.with_memory)
            self.next_sample_s = time.monotonic() + self.sample_s
        self.progress("")
        select.select([self.link.ours] if self.ordered else [], [], [], LOOK_S)

    def _until(self, done: Callable[[], bool], limit_s: float, doing: str) -> None:
        deadline_s = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > deadline_s:
                raise CellTimeout(f"{doing}: nothing after {limit_s:g} s" + self._log_tails())
            self._look()

    def _order(self, name: str, limit_s: float, **details: Any) -> dict[str, Any]:
        deadline_s = time.monotonic() + limit_s

        def wait() -> None:
            if time.monotonic() > deadline_s:
                raise CellTimeout(f"the client did not finish `{name}` in {limit_s:g} s" + self._log_tails())
            self._look()

        self.ordered = True
        try:
            return self.link.order(name, wait, **details)
        finally:
            self.ordered = False

    # -- processes

    def _spawn(
        self,
        role: str,
        argv: list[str],
        *,
        extra: Mapping[str, str] | None = None,
        pass_fds: list[int] | None = None,
    ) -> Child:
        log = self.logs / f"{role}-{len(self.group.children)}.log"
        return self.group.spawn(
            role,
            argv,
            env={**self.environ, **(extra or {})},
            cwd=self.work / "home",
            log=log,
            pass_fds=pass_fds or (),
        )

    def _start_service(self, name: str) -> dict[str, Any]:
        """Start a service on a free port; once more on another if that port was taken meanwhile."""
        for attempt in (1, 2, 3):
            service = services.prepare(name, self.work / name)
            self.progress(f"starting {name} {service.version}")
            child = self._spawn(service.role, list(service.argv))
            try:
                self._until(service.ready, READY_S, f"waiting for {name}")
            except ProcessDied:
                if attempt == 3 or not services.port_taken(child.log.read_text(errors="replace")):
                    raise
                child.stopping = True
                continue
            self.details.setdefault("services", {})[name] = {
                "version": service.version,
                "provider": service.provider,
            }
            return dict(service.address)
        raise AssertionError("unreachable")

    def _start_io_server(self) -> None:
        """The other end of the work kind `io`: ours, counted into no figure."""
        if not self.scenario.io(self.params):
            return
        port = self.work / "io.port"
        root = Path(__file__).resolve().parent.parent
        self.group.spawn(
            Role.HARNESS,
            [sys.executable, "-m", "bench.agent.io_server", str(port)],
            env={**os.environ, "PYTHONPATH": str(root)},
            cwd=root,
            log=self.logs / "io-server.log",
        )
        self._until(port.exists, READY_S, "waiting for the io server")
        self.environ[IO_VARIABLE] = port.read_text()

    def _python_files(self) -> list[Path]:
        """Where the libraries of the adapter's environment and Python's own lie."""
        return [self.environment.python.parent.parent, Path(sysconfig.get_path("stdlib"))]

    def _log_tails(self) -> str:
        """The last lines of every worker's log, for an error message."""
        tails = [(child.role, child.last_lines()) for child in self.workers or self.group.children]
        return "".join(f"; {role}: {tail}" for role, tail in tails if tail)
