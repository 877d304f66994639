"""The lies: faults of known size, each a few changed lines of the reference adapter.

A lie is held against an honest twin, which is the reference adapter itself or, where the lie needs more
of it than it has (forks, a record of its own), the reference adapter with the same change but no fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Changes = tuple[tuple[str, str], ...]
"""Text in `adapters/reference.py` that occurs there once, and what takes its place."""

DRAIN_TASKS: Final = 10_000
ONE_IN: Final = 1000
DELAY_MS: Final = 50.0
STALL_S: Final = 1.4
STALL_TASKS, STALL_HZ = 800, 200.0
STOP_S: Final = 0.4
STEP_S: Final = 1.4
LEAK_BYTES: Final = 1024
SHARED_MB: Final = 20.0
FORKS: Final = 3
BURN_MS: Final = 2.0
RAISING_ONE_IN: Final = 200
CLAIMED_TASKS: Final = 2000
TICKS, FAULTY_TICKS = 10, 2


@dataclass(frozen=True)
class Lie:
    """A fault to plant: in words, as changes, the honest twin's changes, and the cell that must show it."""

    name: str
    planted: str
    changes: Changes
    scenario: str
    params: Mapping[str, Any]
    honest: Changes = ()


_PUT: Final = "        self.queue.put(task)\n"
_RUN: Final = "                run(task.id, task.work, task.payload)\n"
_STATE: Final = "        self.threads: list[threading.Thread] = []\n"
_LOOP: Final = "        while True:\n"
_TICK: Final = "            self.submit(task)\n"
_IMPORT: Final = "import threading\n"
_AGENT: Final = "from bench.agent import Adapter,"
_CLASS: Final = "class Reference(Adapter, InProcess, Periodic):\n"
_START: Final = "    def start(self) -> None:\n"

_DRAIN: Final = {"tasks": DRAIN_TASKS}
# Bursts of fewer tasks than `_at` asks for: the fault must lie in the load that comes after them.
_PACED: Final = {
    "arrival": "constant",
    "rate": STALL_HZ,
    "tasks": STALL_TASKS,
    "warmup_s": 0.0,
    "capacity_tasks": 100,
}
_TICKING: Final = {"every_s": 0.3, "ticks": TICKS}
_COUNTED: Final = (_LOOP, f"        turn = 0\n{_LOOP}            turn += 1\n")


def _last_of(n: int) -> str:
    return f"task.id % {n} == {n - 1}"


def _at(index: int) -> str:
    """True for one task of the load; canaries are of phase 0."""
    return f"task.id % 2**32 == {index} and task.id >> 32"


def _claiming(when_it_fails: bool) -> Changes:
    """A record of which tasks went well, some of which raise."""
    raising = f"'raise' if {_last_of(RAISING_ONE_IN)} and task.id >> 32 else task.work"
    return (
        (_AGENT, f"{_AGENT} Claims,"),
        (_CLASS, _CLASS.replace("Periodic", "Periodic, Claims")),
        (_STATE, _STATE + "        self.said: dict[int, bool] = {}\n"),
        (
            _RUN,
            f"                self.said[task.id] = {when_it_fails}\n"
            f"                run(task.id, {raising}, task.payload)\n"
            "                self.said[task.id] = True\n",
        ),
        (_START, "    def claims(self, ids):\n        return {id: self.said[id] for id in ids}\n\n" + _START),
    )


def _forking(block: str) -> Changes:
    """Children that only wait, forked when `block` is in memory."""
    return (
        (_IMPORT, "import os\nimport signal\n" + _IMPORT),
        (
            _START,
            "    def open(self) -> None:\n"
            f"        self.block = {block}\n"
            f"        for _ in range({FORKS}):\n"
            "            if os.fork() == 0:\n"
            "                signal.pause()\n\n" + _START,
        ),
    )


def _daemon(burn_ms: float) -> Changes:
    """A double-forked child that burns CPU whenever a task is about to run."""
    return (
        (_IMPORT, "import os\n" + _IMPORT),
        (
            _START,
            "    def open(self) -> None:\n"
            "        asked, self.ask = os.pipe()\n"
            "        self.answer, done = os.pipe()\n"
            "        if os.fork() == 0:\n"
            "            os.setsid()\n"
            "            if os.fork() == 0:\n"
            "                while os.read(asked, 1):\n"
            "                    began_ns = time.thread_time_ns()\n"
            f"                    while time.thread_time_ns() - began_ns < {round(burn_ms * 1e6)}:\n"
            "                        pass\n"
            "                    os.write(done, b'.')\n"
            "            os._exit(0)\n"
            "        os.wait()\n\n" + _START,
        ),
        (_RUN, "                os.write(self.ask, b'.')\n                os.read(self.answer, 1)\n" + _RUN),
    )


LIES: Final = (
    Lie(
        "drops",
        f"drops 1 task in {ONE_IN}",
        ((_PUT, f"        if not {_last_of(ONE_IN)}:\n    {_PUT}"),),
        "throughput",
        _DRAIN,
    ),
    Lie(
        "duplicates",
        f"runs 1 task in {ONE_IN} twice",
        ((_PUT, f"{_PUT}        if {_last_of(ONE_IN)}:\n    {_PUT}"),),
        "throughput",
        _DRAIN,
    ),
    Lie(
        "drops and duplicates",
        f"drops 1 task in {ONE_IN} and runs another twice",
        (
            (
                _PUT,
                f"        for _ in range({{999: 0, 499: 2}}.get(task.id % {ONE_IN}, 1)):\n    {_PUT}",
            ),
        ),
        "throughput",
        _DRAIN,
    ),
    Lie(
        "late dispatch",
        f"starts every task {DELAY_MS:g} ms late",
        (
            (_STATE, _STATE + "        self.released_s: dict[int, float] = {}\n"),
            (_PUT, f"        self.released_s[task.id] = time.monotonic() + {DELAY_MS / 1000}\n" + _PUT),
            (
                _RUN,
                "                time.sleep(max(0.0, self.released_s[task.id] - time.monotonic()))\n" + _RUN,
            ),
        ),
        "latency",
        _PACED,
    ),
    Lie(
        "stall",
        f"blocks the submitter once for {STALL_S:g} s",
        ((_PUT, f"{_PUT}        if {_at(200)}:\n            time.sleep({STALL_S})\n"),),
        "latency",
        _PACED,
    ),
    Lie(
        "stopped generator",
        f"stops the generator once for {STOP_S:g} s",
        (
            (_IMPORT, "import os\nimport signal\n" + _IMPORT),
            (
                _START,
                "    def open(self) -> None:\n"
                "        heard, self.bell = os.pipe()\n"
                "        if os.fork() == 0:\n"
                "            os.close(self.bell)\n"
                "            if os.read(heard, 1):\n"
                # Until the generator waits for its next task: in a submit call it would be the system's stop.
                f"                time.sleep({0.5 / STALL_HZ})\n"
                "                os.kill(os.getppid(), signal.SIGSTOP)\n"
                f"                time.sleep({STOP_S})\n"
                "                os.kill(os.getppid(), signal.SIGCONT)\n"
                "            os._exit(0)\n\n" + _START,
            ),
            (_PUT, f"{_PUT}        if {_at(200)}:\n            os.write(self.bell, b'.')\n"),
        ),
        "latency",
        _PACED,
    ),
    *(
        Lie(
            f"clock {where}",
            f"sets its clock {abs(step_s):g} s {where}",
            (
                (
                    "from bench.agent import Adapter,",
                    "from bench.agent import probe\nfrom bench.agent import Adapter,",
                ),
                (
                    _PUT,
                    f"{_PUT}        if {_at(200)}:\n"
                    f"            probe.monotonic_ns = lambda: time.monotonic_ns() + {round(step_s * 1e9)}\n",
                ),
            ),
            "latency",
            {**_PACED, "tasks": 400},
        )
        for where, step_s in (("ahead", STEP_S), ("back", -STEP_S))
    ),
    Lie(
        "leak",
        f"keeps {LEAK_BYTES} bytes of every task",
        (
            (_STATE, _STATE + "        self.kept = bytearray()\n"),
            (_RUN, f"{_RUN}                self.kept += bytes({LEAK_BYTES})\n"),
        ),
        "memory",
        {"idle_s": 0.0, "tasks": 10_000, "rate": 2000.0},
    ),
    Lie(
        "shared pages",
        f"shares {SHARED_MB:g} MB among {FORKS + 1} processes",
        _forking(f"bytearray(b'x') * {round(SHARED_MB * 1e6)}"),
        "memory",
        {"idle_s": 1.0, "tasks": 50, "rate": 200.0},
        honest=_forking("None"),
    ),
    Lie(
        "hidden CPU",
        f"burns {BURN_MS:g} ms a task in a double-forked child",
        _daemon(BURN_MS),
        "cpu",
        {"work_ms": 2.0, "burn_s": 2.4, "idle_s": 0.5},
        honest=_daemon(0.0),
    ),
    Lie(
        "false success",
        f"calls 1 failed task in {RAISING_ONE_IN} a success",
        _claiming(when_it_fails=True),
        "throughput",
        {"tasks": CLAIMED_TASKS},
        honest=_claiming(when_it_fails=False),
    ),
    Lie(
        "skipped tick",
        f"skips {FAULTY_TICKS} of {TICKS} ticks",
        (_COUNTED, (_TICK, f"            if turn % 5:\n    {_TICK}")),
        "periodic",
        _TICKING,
    ),
    Lie(
        "repeated tick",
        f"runs {FAULTY_TICKS} of {TICKS} ticks twice",
        (_COUNTED, (_TICK, f"{_TICK}            if turn % 5 == 0:\n    {_TICK}")),
        "periodic",
        _TICKING,
    ),
    Lie(
        "overlap",
        f"has {FAULTY_TICKS} of {TICKS} runs begin during another",
        (
            _COUNTED,
            (_TICK, "            self.submit(Task(task.id, 'sleep:450') if turn % 5 == 2 else task)\n"),
        ),
        "periodic",
        _TICKING,
    ),
)
"""Every lie. The sizes are those that the judgements expect."""
