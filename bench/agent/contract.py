"""What an adapter is: the base class, what it may ask for, and what it gives back."""

from __future__ import annotations

import functools
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.model import Schedule, Task

CONTEXT_VARIABLE = "SCHEDBENCH_CONTEXT"


@dataclass(frozen=True)
class Context:
    """What the harness tells an adapter, the same in the client and in every worker.

    `services` maps a service's name to its address (`url`, `host`, `port`, ...), `settings` is the
    table of that name in the variant's header, `home` an empty directory that lasts as long as the cell.
    `ports` are free ports of 127.0.0.1 for the adapter's own servers. With `batch`, tasks are handed over
    many at once.
    """

    variant: str
    slots: int
    home: Path
    services: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    ports: Sequence[int] = ()
    batch: bool = False

    def url(self, service: str) -> str:
        """The URL of a service, for example `redis://127.0.0.1:40123/0`."""
        return str(self.services[service]["url"])

    def to_json(self) -> str:
        """The text that `context()` reads back."""
        return json.dumps({**self.__dict__, "home": str(self.home)})


@functools.cache
def context() -> Context:
    """The context of this process, from the environment.

    Raises:
        RuntimeError: the process was not started by schedbench.
    """
    text = os.environ.get(CONTEXT_VARIABLE)
    if text is None:
        raise RuntimeError(f"{CONTEXT_VARIABLE} is not set: start adapters with `schedbench run`")
    values = json.loads(text)
    return Context(**{**values, "home": Path(values["home"])})


@dataclass(frozen=True)
class Process:
    """A command that must run beside the client. `env` is added to the cell's environment.

    It is ready once `ready` answers: `http://127.0.0.1:PORT/PATH` (2xx) or `tcp://127.0.0.1:PORT`. Without,
    it is ready when it has been spawned.
    """

    role: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: str = ""

    @classmethod
    def python(
        cls, role: str, *arguments: str, env: Mapping[str, str] | None = None, ready: str = ""
    ) -> Process:
        """A process of the adapter's own interpreter: `Process.python("worker", "-m", "celery", ...)`."""
        return cls(role, [sys.executable, *arguments], env or {}, ready)


class Adapter(ABC):
    """One system behind one face. An adapter never reads a clock, paces, retries, sleeps or computes."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def migrations(self) -> Sequence[Process]:
        """Commands that each run to their end, in order, before anything else of the system's starts."""
        return ()

    def servers(self) -> Sequence[Process]:
        """What takes tasks in and runs none: up before `open()`, and for the whole cell."""
        return ()

    def processes(self) -> Sequence[Process]:
        """What runs tasks: workers, schedulers, daemons. None for in-process systems.

        The harness brings them down and up again while tasks are queued, and ends them by role: none may
        have the role of a server or service.
        """
        return ()

    def open(self) -> None:  # noqa: B027 - optional
        """Connect. Called once in the client, with services and servers ready and no worker started."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Hand one task to the library; return when the library has accepted it, raise if it did not."""

    def close(self) -> None:  # noqa: B027 - optional
        """Disconnect. Called once; the harness then ends all processes."""


class InProcess(ABC):
    """For systems that run tasks in the client or in a server: the harness decides when that begins and ends.

    After `open()` the system accepts tasks and runs none; it may be started and stopped repeatedly.
    """

    @abstractmethod
    def start(self) -> None:
        """Begin to run tasks; return at once."""

    @abstractmethod
    def stop(self) -> None:
        """Stop running tasks; return when no task body runs any more."""


class Batch(ABC):
    """For systems that run many tasks as parts of one run (variants with `batch = true`)."""

    @abstractmethod
    def submit_batch(self, tasks: Sequence[Task]) -> None:
        """Hand over tasks as one run; return when the library has accepted it, raise if it did not."""


class Periodic(ABC):
    """For libraries that run a body again and again of their own accord (capability `periodic`)."""

    @abstractmethod
    def register(self, schedule: Schedule) -> Sequence[Process] | None:
        """Have `run(schedule.id, schedule.work)` called every `every_s` seconds, first that long from now.

        Called while tasks can run, at most once in a cell. A system whose schedules are kept by a process
        of their own returns it: the harness starts it, and counts due times from its first tick. Variants
        that count by the wall clock (`every_s` in the header) are asked for no other periods. With the
        capability `cron`, `schedule.cron` may hold a cron expression that takes the place of the period. With
        replicas, each client is told of the same schedule, or the process is started as often.

        Raises:
            NotImplementedError: the library has no such schedule; its text says why.
        """


class Claims(ABC):
    """For libraries that keep a status of every task: it is held against the ledger, never trusted."""

    @abstractmethod
    def claims(self, ids: Sequence[int]) -> Mapping[int, bool]:
        """What the library says of these tasks: True for success, False for failure; leave out the others."""
