"""What a task does between its two stamps: nothing, sleep, a round trip, burn, raise, or end its process."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Callable

IO_VARIABLE = "SCHEDBENCH_IO_PORT"
IO_REQUEST = struct.Struct("<II")
"""To the io server: delay in ms, bytes wanted back."""


LEDGER_VARIABLE = "SCHEDBENCH_LEDGER"
"""The folder of the ledger, and of the marks that tell which tasks have begun before."""


class PlannedFailure(Exception):
    """Raised by the work kinds `raise` and `raise-once`."""


def sleep(ms: float) -> int:
    """Sleep for `ms` milliseconds."""
    time.sleep(ms / 1000)
    return 0


def io(ms: float, size: float = 0) -> int:
    """One real round trip: connect to the io server, wait `ms`, receive `size` bytes (at least 1)."""
    wanted = max(1, int(size))
    with socket.create_connection(("127.0.0.1", int(os.environ[IO_VARIABLE])), timeout=30) as peer:
        peer.sendall(IO_REQUEST.pack(int(ms), wanted))
        while wanted > 0:
            received = len(peer.recv(min(wanted, 65536)))
            if received == 0:
                raise ConnectionError("io server closed the connection early")
            wanted -= received
    return 0


def cpu(ms: float) -> int:
    """Burn `ms` milliseconds of this thread's CPU time; returns the nanoseconds actually burned."""
    began = time.thread_time_ns()
    budget = int(ms * 1e6)
    while (burned := time.thread_time_ns() - began) < budget:
        sum(range(200))
    return burned


def fail() -> int:
    """Raise."""
    raise PlannedFailure("this task was asked to raise")


def noop() -> int:
    """Do nothing."""
    return 0


KINDS: dict[str, Callable[..., int]] = {"noop": noop, "sleep": sleep, "io": io, "cpu": cpu, "raise": fail}


def raise_once(task: int) -> int:
    """Raise the first time this task runs, wherever that is; do nothing from the second on."""
    return fail() if _first(task, "raised") else 0


POISONED = 5
"""So often a poisoned task kills its process: enough to tell a loop, and it ends."""


def poison(task: int) -> int:
    """Kill the process that runs it, the first times; no interpreter survives to say so."""
    if any(_first(task, f"poison-{again}") for again in range(POISONED)):
        os.kill(os.getpid(), signal.SIGKILL)
    return 0


def sleep_once(task: int, ms: float) -> int:
    """Sleep for `ms` milliseconds the first time this task or schedule runs, and do nothing from then on."""
    return sleep(ms) if _first(task, "slept") else 0


def _first(task: int, mark: str) -> bool:
    """Whether nobody has left this mark for this task before, in any process: now it is there."""
    try:
        os.close(os.open(os.path.join(os.environ[LEDGER_VARIABLE], f"{task}.{mark}"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


OF_TASK: dict[str, Callable[..., int]] = {
    "raise-once": raise_once,
    "sleep-once": sleep_once,
    "poison": poison,
}
"""Kinds that scenarios use to see what becomes of a task; they take its id, then their numbers."""


def body_s(work: str) -> float:
    """How long a body of this work runs at least, in s."""
    _, *numbers = work.split(":")
    return float(numbers[0]) / 1000 if numbers else 0.0


def perform(work: str, task: int = 0) -> int:
    """Do the work named by `kind[:number[:number]]` for a task; returns CPU time burned on purpose, in ns.

    Raises:
        ValueError: unknown kind of work.
        PlannedFailure: it was asked for.
    """
    name, *numbers = work.split(":")
    if own := OF_TASK.get(name):
        return own(task, *(float(number) for number in numbers))
    kind = KINDS.get(name)
    if kind is None:
        raise ValueError(f"unknown work {name!r}: valid: {', '.join(KINDS)}")
    return kind(*(float(number) for number in numbers))
