"""The wall clock of a system's processes, set without touching the machine's: by libfaketime.

https://github.com/wolfcw/libfaketime. It is loaded before everything else into each process, and reads how
far its clock is ahead from a file. CLOCK_MONOTONIC stays what it is: events are stamped by that.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.environments import wheel
from bench.errors import EnvironmentBuildError, Unsupported
from bench.services.embedded import WHEEL_PYTHON

LOCK: Final = Path(__file__).with_name("libfaketime.txt")
INSIDE: Final = "libfaketime/vendor/libfaketime/src/libfaketime.so.1"

PROBE_LIMIT_S: Final = 10
PROBE_AHEAD_S: Final = 3600
PROBE: Final = f"""
import os, sys, threading, time
began = time.monotonic()
time.sleep(0.01)
threading.Event().wait(0.01)
assert 0.02 <= time.monotonic() - began < {PROBE_LIMIT_S}
assert abs(time.time() - float(sys.argv[1]) - {PROBE_AHEAD_S}) < {PROBE_LIMIT_S}
assert abs(time.monotonic() - float(sys.argv[2])) < {PROBE_LIMIT_S}
"""
"""What must hold in a process whose wall clock is ahead: sleeping, waiting, and the other clock."""


def environment(file: Path) -> dict[str, str]:
    """What makes a process read its wall clock through `file`, which says that it is right as yet.

    Raises:
        Unsupported: no libfaketime works here.
    """
    variables = _variables(library(), file)
    set_ahead(file, 0)
    return variables


def set_ahead(file: Path, seconds: int) -> None:
    """Have every process that reads its clock through `file` be so far ahead."""
    fresh = file.with_suffix(".new")
    fresh.write_text(f"{seconds:+d}\n")
    fresh.replace(file)  # whole at every moment: the clock is read all the time


def reaches(pid: int) -> bool:
    """Whether a process has what it needs to read its clock through such a file.

    A static program has not, nor one that was given another environment, nor one that is gone.
    """
    try:
        return str(library()) in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


@functools.cache
def library() -> Path:
    """The libfaketime of the locked wheel.

    Raises:
        Unsupported: it cannot be had, or a process does not work with it.
    """
    try:
        found = (wheel(LOCK, WHEEL_PYTHON) / INSIDE).resolve()  # as the kernel names it
    except (EnvironmentBuildError, OSError) as error:
        raise Unsupported(f"no libfaketime to set a wall clock with: {error}") from error
    if not _works(found):
        raise Unsupported("a process does not run as it should with libfaketime on this machine")
    return found


def _works(found: Path) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clock"
        set_ahead(file, PROBE_AHEAD_S)
        argv = [sys.executable, "-c", PROBE, str(time.time()), str(time.monotonic())]
        try:
            done = subprocess.run(
                argv,
                env={**os.environ, **_variables(found, file)},
                capture_output=True,
                check=False,
                timeout=PROBE_LIMIT_S,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0 and b"LD_PRELOAD" not in done.stderr


def _variables(found: Path, file: Path) -> dict[str, str]:
    return {
        "LD_PRELOAD": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
