"""One cell, start to finish: stack up, phases, history, figures. Knows no system and no scenario."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import ledger
from bench.agent.work import body_s
from bench.environments import Environment
from bench.errors import CellTimeout, SchedbenchError, Unsupported
from bench.harness import Home
from bench.model import Arrival, Cell, Load, Metric, Outcome, Phase, Status, System, Workers
from bench.scenario import History, Scenario
from bench.stack import Progress, Stack

SETTLE_S = 0.1
TRIAL_SEED = 1_000_003
"""Arrivals differ between trials, and are the same for every system in one trial."""


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
    """Run one cell; never raises for what a system or adapter does, nor for the user's Ctrl-C.

    `folder` is the cell's place in the store: the ledger and the logs go there as they are written.
    """
    variant, params = system.variants[cell.variant], scenario.values(cell.params)
    if missing := scenario.unsupported(system, variant, params):
        return Result(Status.UNSUPPORTED, missing)
    stack = Stack(system, variant, environment, home, folder, slots, progress)
    play = _Play(stack, scenario, params, seed + cell.trial * TRIAL_SEED)
    status, reason = Status.OK, ""
    try:
        stack.open(io=scenario.io(params), cold=scenario.cold(params))
        play.scenario_through()
        stack.close()
    except KeyboardInterrupt:
        status, reason = Status.INTERRUPTED, "interrupted by the user"
    except Unsupported as error:
        status, reason = Status.UNSUPPORTED, str(error)
    except CellTimeout as error:
        status, reason = Status.TIMEOUT, str(error)
    except SchedbenchError as error:
        status, reason = Status.ERROR, str(error)
    finally:
        stack.tear_down()
    return play.result(status, reason)


class _Play:
    """A scenario on a stack: its phases, and what was recorded of them."""

    def __init__(self, stack: Stack, scenario: Scenario, params: dict[str, Any], seed: int) -> None:
        self.stack, self.scenario, self.params, self.seed = stack, scenario, params, seed
        self.phases: dict[int, Phase] = {}
        self.sent: dict[int, int] = {}
        self.spawned_ns: dict[str, int] = {}
        self.body_s = 0.0
        self.measuring_s = 0.0

    def scenario_through(self) -> None:
        """Every phase the scenario yields, each answered with what came of it."""
        steps = self.scenario.phases(self.params, self.stack.variant)
        outcome: Outcome | None = None
        while True:
            try:
                phase = next(steps) if outcome is None else steps.send(outcome)
            except StopIteration:
                break
            outcome = self._phase(len(self.phases) + 1, phase)
        time.sleep(SETTLE_S)  # a duplicate of the last task would show up now

    def result(self, status: Status, reason: str) -> Result:
        """The history, and the figures computed from it."""
        details = {**self.stack.details, "measuring_s": self.measuring_s}
        found = ledger.read(self.stack.ledger)
        tasks = ledger.per_task(found.records)
        faults = {
            "torn bytes": found.torn_bytes,
            "records of an unknown kind": found.unknown,
            "unreadable files": found.unreadable,
            "tasks of several clocks": int(tasks["mixed_domains"].sum()),
        }
        if seen := {name: count for name, count in faults.items() if count}:
            details["ledger_faults"] = seen
            # A torn tail is what a killed writer leaves; anything else cannot be explained.
            if status is Status.OK and seen.keys() != {"torn bytes"}:
                status, reason = Status.ERROR, f"the ledger is damaged: {seen}; nothing is computed from it"
        resources = self.stack.sampler.frame()
        metrics: list[Metric] = []
        if status is Status.OK:
            cpu_source = str(details["cpu_source"])
            history = History(tasks, resources, self.phases, self.spawned_ns, self.stack.ahead, cpu_source)
            metrics += history.fates(self.scenario.deadline_s)
            metrics += self.scenario.metrics(history, self.params)
        return Result(status, reason, metrics, details, found.records, tasks, resources)

    def _phase(self, number: int, phase: Phase) -> Outcome:
        stack = self.stack
        self.phases[number] = phase
        stack.progress(phase.name)
        up = phase.workers is Workers.UP
        stack.bring(up=up, ready=phase.ready, cold=self.scenario.cold(self.params))
        self.spawned_ns[phase.name] = stack.spawned_ns
        began_s = time.monotonic()
        stack.sampler.begin(phase)
        last_due_ns = self._send(number, phase.load, phase.limit_s) if phase.load else 0
        if stack.ahead and not up:
            stack.until(lambda: time.monotonic_ns() > last_due_ns, phase.limit_s, "waiting for the due time")
        if phase.wait == "drain":
            self._drain(phase, last_due_ns)
        elif phase.wait == "hold":
            over_s = began_s + phase.hold_s
            stack.until(lambda: time.monotonic() >= over_s, phase.hold_s + phase.limit_s, "holding")
        stack.sampler.end(phase)
        self.measuring_s += time.monotonic() - began_s
        stack.tail.poll()
        return stack.tail.outcome(number if phase.load else number - 1)

    def _send(self, number: int, load: Load, limit_s: float) -> int:
        """Have the client send a load; returns the last due time."""
        seconds = load.n / load.rate_hz if load.arrival is not Arrival.BURST else 0.0
        answer = self.stack.play(number, replace(load, seed=load.seed + self.seed), seconds + limit_s)
        self.sent[number] = answer["sent"]
        self.body_s = max(self.body_s, body_s(load.work))
        return int(answer["last_due_ns"])

    def _drain(self, phase: Phase, last_due_ns: int) -> None:
        """Wait until every task sent so far has ended, or the system has been silent for too long.

        Too long is the variant's settle time and the longest body, or its start time while nothing has
        happened since the workers came up. Before the last task is due, nothing is too long.

        Raises:
            CellTimeout: nothing ran at all, a body never ended, or the limit passed.
        """
        stack, variant = self.stack, self.stack.variant
        deadline_s = time.monotonic() + phase.limit_s
        sent, newest_ns, moved_s = sum(self.sent.values()), -1, 0.0
        while (ended := sum(map(stack.tail.ended, self.sent))) < sent:
            if stack.tail.last_ns != newest_ns:
                newest_ns, moved_s = stack.tail.last_ns, max(time.monotonic(), last_due_ns / 1e9)
            patience_s = variant.start_s if newest_ns < stack.up_ns else variant.settle_s + self.body_s
            silent = time.monotonic() - moved_s > patience_s
            if silent or time.monotonic() > deadline_s:
                started = sum(map(stack.tail.started, self.sent))
                if silent and started == ended > 0:
                    return  # what is missing is lost: the fates say so
                why = f"nothing moved for {patience_s:g} s" if silent else f"{phase.limit_s:g} s passed"
                raise CellTimeout(
                    f"{why} in phase {phase.name!r}: {sent} tasks sent, {started} started, {ended} ended"
                    + stack.log_tails()
                )
            stack.look()
