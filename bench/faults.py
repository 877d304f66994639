"""Faults: what is done to a part of a running system, when, and to which processes.

Verbs:
    kill    SIGKILL, and the supervisor does its work
    stop    what a service manager sends to end it in good order; the supervisor does its work
    pause   SIGSTOP, and SIGCONT after `for_s`; of connections, nothing goes through and none is closed
    cut     no connection to a service is open, and none can be made, for `for_s`
    set     the wall clock of the system's processes jumps by `ahead_s`, and back after `for_s`

Aims:
    task    the process that runs a task at that moment, where it is not the worker itself
    worker  the process that somebody started and below which a task runs at that moment
    server  everything else of the system's own: schedulers, daemons, servers
    keeper  what keeps schedules: of those the schedulers, or else the daemons, or else the servers; or
            else the client
    broker, database    that service
    network connections to services; clock the wall clock
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench import ledger, wallclock
from bench.errors import Unsupported
from bench.model import PHASE_SHIFT, SCHEDULE, Fault, Role
from bench.processes import Child, Group
from bench.supervisor import send

STOP_SIGNALS: Final[Mapping[str, signal.Signals]] = {Role.DATABASE: signal.SIGINT}
"""What ends a service in good order, where it is not SIGTERM: PostgreSQL waits for its clients at that.
https://www.postgresql.org/docs/current/server-shutdown.html"""

KEEPERS: Final = (Role.SCHEDULER, Role.DAEMON, Role.SERVER, Role.CLIENT)
"""Who keeps schedules, the first role of which there is a process."""


@dataclass
class Strike:
    """A fault of a phase, due at `at_s` of CLOCK_MONOTONIC; `done_ns` and `healed_ns` once they are.

    `pids` got the signal, or run a task and read the clock that was set; `touched` are those in which tasks
    are struck by it, empty for all that run any.
    """

    fault: Fault
    at_s: float
    done_ns: int = 0
    healed_ns: int = 0
    pids: list[int] = field(default_factory=list)
    touched: list[int] = field(default_factory=list)

    @property
    def healing(self) -> bool:
        """Whether it was done and is not healed yet."""
        return self.done_ns > 0 and not self.healed_ns

    def record(self) -> dict[str, Any]:
        """What the record of a cell says of it."""
        return {
            "verb": self.fault.verb,
            "aim": self.fault.aim,
            "ahead_s": self.fault.ahead_s,
            "done_ns": self.done_ns,
            "healed_ns": self.healed_ns,
            "pids": self.pids,
            "touched": self.touched,
        }


class Striker:
    """Does the faults of a phase to the processes of a group, and heals them.

    `relays` are the processes through which all connections to services go, `clock` the file that the
    system's wall clock is read through; both only where they were asked for.
    """

    def __init__(self, group: Group, events: Path, relays: Sequence[Child], clock: Path | None) -> None:
        self.strikes: list[Strike] = []
        self._open: list[Strike] = []
        self._phase = 0
        self._group, self._events, self._relays, self._clock = group, events, relays, clock

    def begin(self, phase: int, faults: Sequence[Fault]) -> None:
        """Count the times of the faults of a phase from now; earlier ones that are not done will not be."""
        self._phase = phase
        now_s = time.monotonic()
        new = [Strike(fault, now_s + fault.at_s) for fault in faults]
        self.strikes += new
        self._open = [strike for strike in self._open if strike.healing] + new

    @property
    def healing(self) -> bool:
        """Whether something was done that is not healed yet."""
        return any(strike.healing for strike in self._open)

    def look(self) -> None:
        """Do and heal what is due. What is to strike a task waits until one of the phase runs.

        Raises:
            Unsupported: this system has no such part.
        """
        now_s = time.monotonic()
        for strike in self._open:
            if not strike.done_ns and now_s >= strike.at_s:
                self._do(strike)
            elif strike.healing and now_s >= strike.done_ns / 1e9 + strike.fault.for_s:
                self._heal(strike)

    def _do(self, strike: Strike) -> None:
        verb, aim = strike.fault.verb, strike.fault.aim
        running = self._running()
        if not running and aim != "keeper":
            return  # what strikes no task tells nothing: at the next look, then
        if verb == "set":
            strike.pids = self._clocks(running)
            self._set_clock(strike.fault.ahead_s)
        elif verb == "cut":
            strike.pids = [child.popen.pid for child in self._relays]
            for child in self._relays:
                child.stopping = True
            send(strike.pids, signal.SIGKILL)
        else:
            role, strike.pids, strike.touched = self._aimed(verb, aim, running)
            number = {
                "kill": signal.SIGKILL,
                "stop": STOP_SIGNALS.get(role, signal.SIGTERM),
                "pause": signal.SIGSTOP,
            }[verb]
            send(strike.pids, number)
        strike.done_ns = time.monotonic_ns()
        if verb in ("kill", "stop"):
            strike.healed_ns = strike.done_ns

    def _running(self) -> list[int]:
        """Processes of this cell in which a task of the phase runs now, or a tick of its schedule."""
        members, records = self._group.members(), ledger.read(self._events).records
        own = records[(records["task"] & (SCHEDULE - 1)) >> PHASE_SHIFT == self._phase]
        return [pid for pid in ledger.running(own) if pid in members]

    def _heal(self, strike: Strike) -> None:
        verb = strike.fault.verb
        if verb == "pause":
            send(strike.pids, signal.SIGCONT)
        elif verb == "cut":
            for child in self._relays:
                child.popen.wait()
                self._group.restart(child)
                child.stopping = False
        else:
            self._set_clock(0)
        strike.healed_ns = time.monotonic_ns()

    def _clocks(self, running: Sequence[int]) -> list[int]:
        """Those of the processes in which a task runs whose clock can be set.

        Raises:
            Unsupported: not that of one, in which a task still runs after it was looked at.
        """
        deaf = {pid for pid in running if not wallclock.reaches(pid)}
        if deaf and deaf & set(self._running()):
            raise Unsupported("its tasks run in a process that does not load libfaketime")
        return [pid for pid in running if pid not in deaf]

    def _set_clock(self, ahead_s: int) -> None:
        assert self._clock is not None
        wallclock.set_ahead(self._clock, ahead_s)

    def _aimed(self, verb: str, aim: str, running: Sequence[int]) -> tuple[str, list[int], list[int]]:
        """The role and the processes that a fault is aimed at, and those in which it strikes tasks.

        Raises:
            Unsupported: there is no such part.
        """
        if aim in (Role.BROKER, Role.DATABASE):
            return *self._service(verb, aim), []
        if aim == "keeper":
            return *self._keepers(verb), []
        if aim == "network":
            return Role.HARNESS, [child.popen.pid for child in self._relays], []
        above = self._group.above(running[-1])
        if above is None:
            raise Unsupported("what runs its tasks was not started here")
        if aim == "task":
            if above.popen.pid == running[-1]:
                raise Unsupported("its tasks run in the worker itself: that is the fault `worker`")
            return above.role, [running[-1]], [running[-1]]
        if aim == "worker":
            return above.role, self._whole(above, verb), self._group.below(above)
        return *self._servers(verb, above), []

    def _service(self, verb: str, role: str) -> tuple[str, list[int]]:
        if any(other.role == role for other in self._group.others):
            raise Unsupported(f"its {role} runs in a container: faults are for embedded services")
        own = [child for child in self._group.children if child.role == role]
        if not own:
            raise Unsupported(f"it has no {role} of its own")
        everything = [pid for pid, its in self._group.members().items() if its == role]
        return role, [own[0].popen.pid] if verb == "stop" else everything

    def _keepers(self, verb: str) -> tuple[str, list[int]]:
        roles = {one.role for one in self._group.everything}
        role = next(role for role in KEEPERS if role in roles)
        own = [child for child in self._group.children if child.role == role]
        elsewhere = role is Role.CLIENT and roles - {role, Role.HARNESS, Role.BROKER, Role.DATABASE}
        if elsewhere or not own:
            raise Unsupported("its schedules are kept by a server that is not a process of this cell")
        return role, [pid for child in own for pid in self._whole(child, verb)]

    def _servers(self, verb: str, worker: Child) -> tuple[str, list[int]]:
        apart = {Role.CLIENT, Role.HARNESS, Role.BROKER, Role.DATABASE, worker.role}
        own = [child for child in self._group.children if child.role not in apart]
        if not own:
            raise Unsupported("nothing runs beside its workers: it has no server or scheduler")
        return own[0].role, [pid for child in own for pid in self._whole(child, verb)]

    def _whole(self, child: Child, verb: str) -> list[int]:
        """The process alone where it is to end, with all that it has started where it is paused."""
        if verb != "pause":
            return [child.popen.pid]
        return [*self._group.below(child), *self._group.remains(child.role)]
