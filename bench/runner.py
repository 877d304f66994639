"""One cell, start to finish: stack up, phases, history, figures. Knows no system and no scenario."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import checkpoint, ledger
from bench.agent.work import body_s
from bench.environments import Environment
from bench.errors import CellError, CellTimeout, SchedbenchError, Unsupported
from bench.harness import Home
from bench.model import SCHEDULE, Arrival, Cell, Load, Metric, Phase, Status, System, Workers
from bench.sampler import read_samples
from bench.scenario import History, Scenario, Seen
from bench.services import Provision
from bench.stack import Progress, Stack

SETTLE_S = 0.1
TRIAL_SEED = 1_000_003
"""Arrivals differ between trials, and are the same for every system in one trial."""

RESOURCES = (
    "idle_",
    "loaded_",
    "peak_",
    "growth_",
    "pss_per_",
    "cpu_",
    "processes.",
    "components",
    "set_up.services",
)
"""How the names of metrics begin that sum over the processes of a cell, or tell of their start."""

WALL_STEP_S = 0.1
"""Many timers wait on the wall clock: a cell in which it was set by more than this tells nothing."""


def wall_clock_ns() -> int:
    """How far the wall clock is ahead of CLOCK_MONOTONIC: constant until somebody sets it."""
    return time.time_ns() - time.monotonic_ns()


@dataclass
class Result:
    """What a cell left behind. `figures` computes the metrics from what was recorded, once more."""

    status: Status
    reason: str
    metrics: list[Metric] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    events: np.ndarray | None = None
    tasks: ledger.Frame | None = None
    resources: ledger.Frame | None = None
    figures: Callable[[], Iterator[Metric]] | None = None


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
    provision: Provision | None = None,
) -> Result:
    """Run one cell; never raises for what a system or adapter does, nor for the user's Ctrl-C.

    `folder` is the cell's place in the store: the ledger and the logs go there as they are written. Where it
    holds a checkpoint of a resumable cell, that goes on. Without a `provision` its services are embedded.
    """
    variant, params = system.variants[cell.variant], scenario.values(cell.params)
    if missing := scenario.why_not(system, variant, params):
        return Result(Status.UNSUPPORTED, missing)
    provision = provision or Provision(owner=home.name)
    if scenario.scaled:
        scaled = {key: constant.value for key, constant in variant.scaled.items()}
        variant = replace(variant, settings={**variant.settings, **scaled})
    try:
        segment = checkpoint.take_up(folder) if scenario.resumable else checkpoint.Segment(folder)
    except SchedbenchError as error:
        return Result(Status.ERROR, str(error))
    slots = scenario.slots(params, slots)
    stack = Stack(system, variant, environment, home, folder, slots, progress, provision, segment.number)
    play = _Play(stack, scenario, params, seed + cell.trial * TRIAL_SEED, segment)
    status, reason = Status.OK, ""
    try:
        stack.open(
            io=scenario.io(params),
            cold=scenario.cold(params),
            relay=scenario.relay(params),
            clock=scenario.clock(params),
        )
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
    return play.result(status, stack.services.without_secrets(reason))


class _Play:
    """A scenario on a stack: its phases, and what was recorded of them."""

    def __init__(
        self,
        stack: Stack,
        scenario: Scenario,
        params: dict[str, Any],
        seed: int,
        segment: checkpoint.Segment,
    ) -> None:
        self.stack, self.scenario, self.params, self.seed = stack, scenario, params, seed
        self.segment = segment
        self.phases: dict[int, Phase] = {}
        self.undrained: dict[int, int] = {}
        self.spawned_ns: dict[str, int] = {}
        self.claims: dict[int, bool] | None = None
        self.body_s = 0.0
        self.measuring_s = 0.0
        self.wall_clock_ns = wall_clock_ns()

    def scenario_through(self) -> None:
        """Every phase the scenario yields, each answered with what tells its tasks."""
        variant = replace(self.stack.variant, max_slots=self.stack.slots)
        steps = self.scenario.phases(self.params, variant)
        seen: Seen | None = None
        while True:
            try:
                phase = next(steps) if seen is None else steps.send(seen)
            except StopIteration:
                break
            number = len(self.phases) + 1
            self._phase(number, phase)
            seen = functools.partial(self._seen, number)
        time.sleep(SETTLE_S)  # a duplicate of the last task would show up now
        try:
            self.claims = self.stack.claims()
        except CellError as error:  # what the library says is beside the point of a cell
            self.stack.details["claims_failed"] = str(error)

    def _seen(self, number: int) -> ledger.Frame:
        """The tasks of a phase so far."""
        return ledger.per_task(ledger.of_phase(ledger.read(self.stack.ledger).records, number))

    def result(self, status: Status, reason: str) -> Result:
        """The history, and the figures computed from it."""
        struck_out = self.stack.services.without_secrets(json.dumps(self.stack.details))
        details = {**json.loads(struck_out), "measuring_s": self.measuring_s}
        found = ledger.read(*self.segment.ledgers)
        is_scheduled = found.records["task"] >= SCHEDULE
        tasks = ledger.per_task(found.records[~is_scheduled])
        faults = {
            "torn bytes": found.torn_bytes,
            "records of an unknown kind": found.unknown,
            "unreadable files": found.unreadable,
            # Every segment has the same canaries.
            "tasks of several clocks": int(tasks["mixed_domains"][tasks["phase"] > 0].sum()),
        }
        if seen := {name: count for name, count in faults.items() if count}:
            details["ledger_faults"] = seen
            # A torn tail is what a killed writer leaves; anything else cannot be explained.
            if status is Status.OK and seen.keys() != {"torn bytes"}:
                status, reason = Status.ERROR, f"the ledger is damaged: {seen}; nothing is computed from it"
        resources = read_samples(self.segment.ledgers)
        remarks = [*self._remarks(details)]
        metrics: list[Metric] = []
        figures: Callable[[], Iterator[Metric]] | None = None
        if status is Status.OK:
            cpu_source = str(details["cpu_source"])
            history = History(
                tasks,
                resources,
                self.phases,
                self.spawned_ns,
                self.stack.ahead,
                cpu_source,
                found.records[is_scheduled],
                self.claims,
                self.stack.seconds,
                faults=details.get("faults", ()),
                restarts=details.get("restarts", ()),
                segment=self.segment.number,
                slots=self.stack.slots,
            )
            figures = functools.partial(self._figures, history, remarks)
            try:
                metrics.extend(figures())
            except CellError as error:
                status, reason = Status.ERROR, str(error)
        return Result(status, reason, metrics, details, found.records, tasks, resources, figures)

    def _figures(self, history: History, remarks: Sequence[tuple[str, str]]) -> Iterator[Metric]:
        """What the scenario makes of a history, with `remarks` on all of it or on what processes use."""
        for metric in self._measured(history):
            own = metric
            for said_of, words in remarks:
                if said_of == "all" or metric.name.startswith(RESOURCES):
                    own = own.noted(words)
            yield own

    def _measured(self, history: History) -> Iterator[Metric]:
        yield from history.fates(self.scenario.deadline_s)
        if not all(fault["done_ns"] for fault in history.faults):
            raise CellError("a fault was never done: no task ran when it was due, or later")
        yield from self.scenario.metrics(history, self.params)

    def _remarks(self, details: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """What is to be said of a cell: of `all` its figures, or of what its processes use."""
        if words := self.scenario.remark(self.params):
            yield "all", words
        for what in self._clock_faults(details):
            yield "all", f"invalid: {what}"
        if self.scenario.scaled:
            for key, constant in self.stack.variant.scaled.items():
                yield "all", f"{key} is {constant.words}"
        yield from self.stack.services.remarks()

    def _clock_faults(self, details: dict[str, Any]) -> Iterator[str]:
        """What is wrong with the clocks of this cell, in words; in numbers it goes to `details`."""
        if self.stack.tail.clock_off_ns:
            low_s, high_s = details["clock_off_s"] = [ns / 1e9 for ns in self.stack.tail.clock_off_ns]
            yield f"the clock of a process was off by {low_s:.2f} to {high_s:.2f} s"
        stepped_s = (wall_clock_ns() - self.wall_clock_ns) / 1e9
        if abs(stepped_s) > WALL_STEP_S:
            details["wall_clock_step_s"] = stepped_s
            yield f"the wall clock was set by {stepped_s:.2f} s"

    def _phase(self, number: int, phase: Phase) -> None:
        stack = self.stack
        self.phases[number] = phase
        stack.look_s = phase.look_s
        stack.progress(phase.name)
        up = phase.workers is Workers.UP
        stack.bring(up=up, ready=phase.ready, cold=self.scenario.cold(self.params))
        self.spawned_ns[phase.name] = stack.spawned_ns
        began_s = time.monotonic()
        stack.sampler.begin(phase)
        if phase.every_s:
            stack.register(number, phase)
        if phase.supervised:
            stack.supervise()
            stack.strike(number, phase.faults)
        last_due_ns = self._send(number, phase, phase.load) if phase.load else 0
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

    def _send(self, number: int, phase: Phase, asked: Load) -> int:
        """Have the client send a load, or what is left of one that was cut off; returns the last due time."""
        stack = self.stack
        load = stack.asked(replace(asked, seed=asked.seed + self.seed))
        self.phases[number] = replace(phase, load=load)
        stack.tail.allow(number, load.retries)
        skip = since_ns = 0
        if self.scenario.resumable:
            skip, since_ns = self._sent_before(number), self.segment.position_ns
            self._save()
            stack.minutely = self._save
        answer = stack.play(
            number,
            load,
            phase.limit_s + (load.n / load.rate_hz if load.arrival is not Arrival.BURST else 0.0),
            skip=skip,
            since_ns=since_ns,
        )
        self.undrained[number] = answer["sent"]
        words = (load.work, *(word for word, _ in load.mix), *(word for _, word in load.special))
        self.body_s = max(self.body_s, *map(body_s, words))
        return int(answer["last_due_ns"])

    def _sent_before(self, number: int) -> int:
        """How many tasks of a phase need not be looked at again: those up to the last that was sent."""
        return ledger.next_index(ledger.read(*self.segment.past).records, number)

    def _save(self) -> None:
        """Keep what is known so far, and the ledger small."""
        self.segment = self.segment.saved()
        self.stack.tail.compact()

    def _drain(self, phase: Phase, last_due_ns: int) -> None:
        """Wait until every task sent since the last drain has ended, or the system was silent for too long.

        Too long is the variant's settle time and the longest body, or its start time while nothing has
        happened since the workers came up; the phase's patience, where that is longer. Before the last task
        is due, nothing is too long.

        Raises:
            CellTimeout: nothing ran at all, a body never ended, or the limit passed.
        """
        stack, variant = self.stack, self.stack.variant
        deadline_s = time.monotonic() + phase.limit_s
        waited, self.undrained = self.undrained, {}
        sent, newest_ns, moved_s = sum(waited.values()), -1, 0.0
        while (over := sum(map(stack.tail.over, waited))) < sent or stack.struck:
            if stack.tail.last_ns != newest_ns or stack.struck:
                newest_ns, moved_s = stack.tail.last_ns, max(time.monotonic(), last_due_ns / 1e9)
            patience_s = variant.start_s if newest_ns < stack.up_ns else variant.settle_s + self.body_s
            patience_s = max(patience_s, phase.patience_s)
            silent = time.monotonic() - moved_s > patience_s
            if silent or time.monotonic() > deadline_s:
                started = sum(map(stack.tail.started, waited))
                if silent and (phase.supervised or started == over > 0):
                    return  # the rest is lost: its fate says so
                why = f"nothing moved for {patience_s:g} s" if silent else f"{phase.limit_s:g} s passed"
                raise CellTimeout(
                    f"{why} in phase {phase.name!r}: {sent} tasks sent, {started} started, {over} ended"
                    + stack.log_tails()
                )
            stack.look()
