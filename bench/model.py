"""The words of schedbench as data: events, tasks, loads, phases, cells, metrics.

Imports nothing of ours and only the standard library, because it travels into every adapter's
environment together with the agent.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

# --- events ---------------------------------------------------------------------------------------

RECORD: Final = struct.Struct("<QqqIHBB")
"""One event, 32 bytes little-endian: task id, t_ns, aux, pid, run, kind, clock domain."""


class Kind(enum.IntEnum):
    """What happened to a task. `aux` of the record is given in brackets."""

    SUBMIT = 1  # about to hand the task to the library [due_ns]
    ACCEPTED = 2  # the library's submit call returned [0]
    START = 3  # the task body began [bytes of payload that arrived]
    END = 4  # the task body finished [thread CPU time it burned on purpose, ns]
    FAIL = 5  # the task body raised [0]
    REFUSED = 6  # the library's submit call raised [0]


class Fate(enum.StrEnum):
    """What became of a task, counted by id. Every submitted task has exactly one fate."""

    OK = "ok"  # ran once, in time
    LATE = "late"  # ran once, after its deadline
    FAILED = "failed"  # its body raised, and it never ended well
    LOST = "lost"  # accepted, and neither ended nor failed before the drain gave up
    DUPLICATED = "duplicated"  # ran again although the run before had neither failed nor vanished
    REFUSED = "refused"  # the library never accepted it
    UNEXPECTED = "unexpected"  # ran, but was never submitted
    CUT_OFF = "cut_off"  # under way when the harness itself was cut off, in a cell that was then resumed


PHASE_SHIFT: Final = 32
"""A task id is `(phase number << 32) | index`; phase 0 holds the canaries."""

CANARY_PHASE: Final = 0

SCHEDULE: Final = 1 << 63
"""Set in the id of a schedule: one id whose body runs once a tick. The rest is as in a task's id."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task, as an adapter hands it to its library.

    `work` is one word for the body (`noop`, `sleep:MS`, `io:MS:BYTES`, `cpu:MS`, `raise`, `raise-once`,
    `sleep-once:MS`, `poison`) and `payload` a string of the asked-for length; of an unserialisable task it is
    no string. `delay_s` is the whole number of seconds after which the task is due; it is 0 except for
    systems that cannot run a task at once. `retries` is how often the library is to run it again when it
    raises, at once; it is 0 except for systems with the capability `retry`.
    """

    id: int
    work: str = "noop"
    payload: str = ""
    delay_s: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A body to be run every `every_s` seconds, first that long after it is registered.

    With `cron`, a cron expression of five fields that says the same by the wall clock, the library is given
    that.
    """

    id: int
    every_s: float
    work: str = "noop"
    cron: str = ""


AHEAD_S: Final = 1
"""How long before its due time a task is handed to a system that cannot run one at once."""


# --- load -----------------------------------------------------------------------------------------


UNSERIALISABLE: Final = "unserialisable"
"""The word for a noop whose payload nothing can send to another process."""


class Arrival(enum.StrEnum):
    """How due times are spread over a load. Independent of completions: open loop."""

    BURST = "burst"  # everything is due at once
    CONSTANT = "constant"  # evenly spaced
    POISSON = "poisson"  # exponential gaps
    DAILY = "daily"  # a Poisson process whose rate follows a day with two peaks


@dataclass(frozen=True, slots=True)
class Load:
    """`n` tasks, their arrivals and their body.

    `rate_hz` is ignored for bursts. The first `warmup_n` tasks are sent and recorded like the others
    and left out of every figure. With `mix`, `(work, weight)` pairs, each body is drawn from it by `seed`;
    `special` gives single tasks, by index, another one. `UNSERIALISABLE` is a word for either. `retries` is
    passed on where the system has retries. A daily load that lasts for less than 24 h has a whole day in it;
    a longer one repeats it.
    """

    n: int
    arrival: Arrival = Arrival.BURST
    rate_hz: float = 0.0
    work: str = "noop"
    payload_bytes: int = 0
    warmup_n: int = 0
    seed: int = 0
    mix: tuple[tuple[str, float], ...] = ()
    special: tuple[tuple[int, str], ...] = ()
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is done to a part of the system, `at_s` after the load of its phase begins.

    What is to strike a task is done when one runs, at that moment or later.

    `verb` and `aim` are words of `bench.faults`; `for_s` is after how long it is healed, for verbs that
    need healing. A clock is set ahead by `ahead_s`, which is below 0 for back.
    """

    verb: str
    aim: str
    at_s: float = 0.0
    for_s: float = 0.0
    ahead_s: int = 0


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault: the faults that are done, or the work that a single task of the load has instead."""

    words: str
    done: tuple[Fault, ...] = ()
    special: str = ""


_AT_S, _OUTAGE_S, _PAUSE_S, _JUMP_S = 3.0, 5.0, 10.0, 5.0
_AHEAD_S = 15  # longer than a pause and shorter than every scaled constant: it does not look like a death

FAULTS: Final[Mapping[str, FaultKind]] = {
    "task-process": FaultKind("the process of a running task is killed", (Fault("kill", "task", _AT_S),)),
    "worker": FaultKind("the worker is killed", (Fault("kill", "worker", _AT_S),)),
    "worker-stop": FaultKind("the worker is restarted in good order", (Fault("stop", "worker", _AT_S),)),
    "worker-pause": FaultKind("the worker stands still", (Fault("pause", "worker", _AT_S, _PAUSE_S),)),
    "server": FaultKind("schedulers and servers are killed", (Fault("kill", "server", _AT_S),)),
    "server-pause": FaultKind(
        "schedulers and servers stand still", (Fault("pause", "server", _AT_S, _PAUSE_S),)
    ),
    "broker": FaultKind("the broker is restarted in good order", (Fault("stop", "broker", _AT_S),)),
    "broker-kill": FaultKind("the broker is killed", (Fault("kill", "broker", _AT_S),)),
    "broker-pause": FaultKind("the broker stands still", (Fault("pause", "broker", _AT_S, _PAUSE_S),)),
    "database": FaultKind("the database is restarted in good order", (Fault("stop", "database", _AT_S),)),
    "database-kill": FaultKind("the database is killed", (Fault("kill", "database", _AT_S),)),
    "database-pause": FaultKind("the database stands still", (Fault("pause", "database", _AT_S, _PAUSE_S),)),
    "cut": FaultKind("connections to services are cut", (Fault("cut", "network", _AT_S, _OUTAGE_S),)),
    "cut-silent": FaultKind(
        "connections to services go silent", (Fault("pause", "network", _AT_S, _PAUSE_S),)
    ),
    "clock-ahead": FaultKind(
        "the wall clock is 15 s ahead, but not that of services",
        (Fault("set", "clock", _AT_S, _JUMP_S, _AHEAD_S),),
    ),
    "clock-back": FaultKind(
        "the wall clock is 15 s back, but not that of services",
        (Fault("set", "clock", _AT_S, _JUMP_S, -_AHEAD_S),),
    ),
    "raise": FaultKind("a task raises", special="raise"),
    "unserialisable": FaultKind("a task cannot be serialised", special=UNSERIALISABLE),
    "poison": FaultKind("a task kills its process, the first five times that it runs", special="poison"),
    "pool": FaultKind("long tasks fill every slot"),
    "flood": FaultKind("tasks come faster than they are run"),
}
"""What goes wrong in the cells of the scenario `faults`, by the value of its parameter `fault`."""


class Workers(enum.StrEnum):
    """Whether tasks can be executed while a phase runs."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of a cell: bring workers up or down, send a load, then wait.

    `wait` says when the phase is over: `drain` (every task sent so far has ended), `queued` (the load
    has been accepted) or `hold` (after `hold_s` seconds). `memory` switches on the costlier memory
    sampling every `sample_s` seconds; the edges of every phase are always sampled for CPU.
    `ready` asks for canaries after workers have come up; without them the phase's own tasks are the
    first to run. With `every_s` above 0 the system is told at its begin to run `every_work` of its own
    accord, once every so many seconds; with `wall_clock`, it is due when the wall clock shows a multiple,
    and with `cron` the library is told so by a cron expression. A run that begins up to `early_s` before
    its tick is due belongs to that tick.
    Of what keeps that schedule there are `replicas`, each told the same.
    From the first `supervised` phase of a cell on, what exits is started again, and a task that the library
    refuses, or that does not end `patience_s` after the last sign of life, is counted and no error. `faults`
    are done to the system while such a phase runs. `look_s` is how often the harness looks at it.
    """

    name: str
    load: Load | None = None
    workers: Workers = Workers.UP
    wait: str = "drain"
    hold_s: float = 0.0
    limit_s: float = 120.0
    memory: bool = False
    sample_s: float = 0.25
    ready: bool = True
    every_s: float = 0.0
    every_work: str = "noop"
    wall_clock: bool = False
    cron: str = ""
    early_s: float = 0.0
    replicas: int = 1
    supervised: bool = False
    faults: tuple[Fault, ...] = ()
    patience_s: float = 0.0
    look_s: float = 0.02


# --- systems, cells, metrics ------------------------------------------------------------------------


class Role(enum.StrEnum):
    """What a process is for. The survey counts memory and processes by these."""

    CLIENT = "client"
    WORKER = "worker"
    SCHEDULER = "scheduler"
    AGENT = "agent"
    DAEMON = "daemon"
    SERVER = "server"
    WEBSERVER = "webserver"
    DAG_PROCESSOR = "dag-processor"
    CODE_SERVER = "code-server"
    BROKER = "broker"
    DATABASE = "database"
    HARNESS = "harness"  # ours (the io server): never counted into a figure


@dataclass(frozen=True)
class Changed:
    """A setting that differs from the vendor's default: its value here, why, and the vendor's page."""

    value: str
    why: str
    link: str


@dataclass(frozen=True)
class Parity:
    """How a variant does one thing that decides what its figures mean, and the vendor's page on it."""

    words: str
    link: str


@dataclass(frozen=True)
class Promise:
    """What the vendor says becomes of the tasks that a fault strikes, and the page that says so.

    `kind` is one of `PROMISES`; `within_s` is how long it may take by the constants in force, 0 for at once.
    """

    kind: str
    words: str
    within_s: float
    link: str


PROMISES: Final[Mapping[str, str]] = {
    "redelivered": "each runs again",
    "repeated": "each runs again, some although they had ended",
    "lost": "some may never run; none runs twice, but where each is to run at least once",
    "failed": "each is marked failed, none runs again",
    "refused": "the submit call says so",
    "kept": "nothing happens to them",
}


@dataclass(frozen=True)
class Traced:
    """Why a promise is broken, seen with the library alone: in words, with an issue or its source as link."""

    words: str
    link: str


@dataclass(frozen=True)
class Scaled:
    """A constant of the library, made shorter where a drain would have to outlast it: value and words."""

    value: Any
    words: str
    link: str


PARITY: Final[Mapping[str, str]] = {
    "slots": "what a slot is",
    "runs_in": "what a task runs in",
    "acknowledgement": "when a task counts as taken",
    "persistence": "what outlives a restart",
    "results": "what is kept of a result",
    "prefetch": "tasks taken in advance",
    "polling": "how work is found",
}
"""What two variants must be compared by before their figures are."""


@dataclass(frozen=True)
class Variant:
    """One configuration of a system, as its adapter's header declares it.

    `batch`: many tasks go into one run (the adapter is a `Batch`). `heavy`: it takes long to set up, or
    reaches a few tasks a second. The bodies of canaries sleep `canary_ms`, long enough for as many to
    overlap as there are slots; with more than two slots, longer. With `every_s` above 0, the periods of its
    schedules are multiples of that, counted by the wall clock; they are asked for none shorter than
    `shortest_s`, and may run up to `early_s` before they are due. `promises` are by fault, a key of
    `FAULTS`; `scaled` are settings that take the place of others where faults are done.
    """

    name: str
    summary: str = ""
    services: tuple[str, ...] = ()
    guarantee: str = "none"
    source: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_slots: int | None = None
    queue_limit: int | None = None
    settle_s: float = 20.0
    start_s: float = 60.0
    batch: bool = False
    heavy: bool = False
    canary_ms: int = 20
    every_s: float = 0.0
    shortest_s: float = 0.0
    early_s: float = 0.0
    parity: Mapping[str, Parity] = field(default_factory=dict)
    changed: Mapping[str, Changed] = field(default_factory=dict)
    promises: Mapping[str, Promise] = field(default_factory=dict)
    scaled: Mapping[str, Scaled] = field(default_factory=dict)
    traced: Mapping[str, Traced] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """One adapter file, as its header declares it. `path` is the file, `lock` its lock file or None.

    `default` are the variants that are measured when no system is named; it may be empty.
    """

    name: str
    title: str
    family: str
    homepage: str
    capabilities: frozenset[str]
    requires_python: str
    dependencies: tuple[str, ...]
    default: tuple[str, ...]
    variants: Mapping[str, Variant]
    path: str
    lock: str | None

    @property
    def takes_tasks(self) -> bool:
        """Whether it can be handed a task at all, to run now or later."""
        return not self.capabilities.isdisjoint(("enqueue", "delay"))


class Status(enum.StrEnum):
    """How a cell ended."""

    OK = "ok"
    TIMEOUT = "timeout"
    ERROR = "error"
    UNSUPPORTED = "unsupported"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Cell:
    """The unit of measurement: system, variant, scenario, parameters, trial (from 1)."""

    system: str
    variant: str
    scenario: str
    params: Mapping[str, Any]
    trial: int

    @property
    def params_text(self) -> str:
        """Parameters as `key=value` pairs in key order, as they stand in `summary.csv`."""
        return " ".join(f"{key}={self.params[key]}" for key in sorted(self.params))

    @property
    def id(self) -> str:
        """A name that is unique in a run and safe as a folder name."""
        words = [self.system, self.variant, self.scenario, *self.params_text.split(), f"t{self.trial}"]
        return ".".join(word.replace("/", "_").replace(":", "_") for word in words if word)


@dataclass(frozen=True)
class Metric:
    """One figure of one cell. `low`/`high` are its 95 % interval within the trial, where it has one."""

    name: str
    unit: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None
    note: str = ""

    def noted(self, words: str) -> Metric:
        """The same with another remark; remarks are parted by `; `."""
        return replace(self, note="; ".join(filter(None, (self.note, words))))


SUMMARY_COLUMNS: Final = (
    "run_id", "system", "variant", "scenario", "params", "trial", "metric", "unit",
    "value", "ci_low", "ci_high", "n", "status", "reason",
)  # fmt: skip
