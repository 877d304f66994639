"""The probe: the body of every task, and the ledger that says when it ran.

Hot path. One event is one `write()` of 32 bytes to an append-only file of this process alone, so it
survives SIGKILL of the writer and takes no lock that another process could hold.
"""

from __future__ import annotations

import itertools
import os
from time import monotonic_ns

from bench.agent.work import LEDGER_VARIABLE, perform
from bench.model import RECORD, Kind

DOMAIN_VARIABLE = "SCHEDBENCH_CLOCK_DOMAIN"

_pack = RECORD.pack
_write = os.write
_SIZE = RECORD.size
_START, _END, _FAIL = int(Kind.START), int(Kind.END), int(Kind.FAIL)

_file = -1
_pid = 0
_domain = 0
_runs = itertools.count()


def _open() -> None:
    """Open this process's own ledger file (again, after a fork)."""
    global _file, _pid, _domain
    folder = os.environ[LEDGER_VARIABLE]
    _pid = os.getpid()
    _domain = int(os.environ.get(DOMAIN_VARIABLE, "0"))
    path = os.path.join(folder, f"{_pid}-{monotonic_ns()}.events")
    _file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)


def _forget() -> None:
    """In a forked child: the parent's file is not ours."""
    global _file
    if _file >= 0:
        os.close(_file)
        _file = -1


os.register_at_fork(after_in_child=_forget)


def stamp(kind: int, task: int, aux: int = 0, run: int = 0) -> None:
    """Append one event to the ledger. `run` numbers the executions of this process, modulo 65536."""
    now = monotonic_ns()
    if _file < 0:
        _open()
    if _write(_file, _pack(task, now, aux, _pid, run, kind, _domain)) != _SIZE:
        raise OSError("the ledger took only part of a record: is the disk full?")


def run(task: int, work: str = "noop", payload: str = "") -> None:
    """Stamp the start, do the work, stamp the end. This call is the whole body of a task.

    Raises:
        Whatever the work raises, after stamping the failure: the system under test must see it.
    """
    number = next(_runs) & 0xFFFF
    stamp(_START, task, len(payload), number)
    try:
        burned_ns = 0 if work == "noop" else perform(work, task)
    except BaseException:
        stamp(_FAIL, task, 0, number)
        raise
    stamp(_END, task, burned_ns, number)
