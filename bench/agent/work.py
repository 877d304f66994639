"""What a task does between its two stamps: nothing, sleep, a round trip, a burn, or raise."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable

IO_VARIABLE = "SCHEDBENCH_IO_PORT"
IO_REQUEST = struct.Struct("<II")
"""To the io server: delay in ms, bytes wanted back."""


class PlannedFailure(Exception):
    """Raised by the work kind `raise`."""


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


def body_s(work: str) -> float:
    """How long a body of this work runs at least, in s."""
    _, *numbers = work.split(":")
    return float(numbers[0]) / 1000 if numbers else 0.0


def perform(work: str) -> int:
    """Do the work named by `kind[:number[:number]]`; returns CPU time burned on purpose, in ns.

    Raises:
        ValueError: unknown kind of work.
        PlannedFailure: the work is `raise`.
    """
    name, *numbers = work.split(":")
    kind = KINDS.get(name)
    if kind is None:
        raise ValueError(f"unknown work {name!r}: valid: {', '.join(KINDS)}")
    return kind(*(float(number) for number in numbers))
