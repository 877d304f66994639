"""The small cells of a calibration: what the floors do, and what sampling costs them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from bench import discovery, environments
from bench.errors import CellError, Unsupported
from bench.harness import Home
from bench.model import Cell, Load, Metric, Phase, Status, System, Variant
from bench.runner import run_cell
from bench.scenario import History, Phases, Scenario, rate_hz
from bench.services import Provision
from scenarios.latency import Latency
from scenarios.throughput import Throughput

METRICS: Final = {
    "throughput": "tasks/s",
    "submit_rate": "tasks/s",
    "dispatch_latency_p50": "ms",
    "dispatch_latency_p95": "ms",
}
"""The figures of a floor and their units, defined and named as in the scenarios they come from."""

DRAINED: Final = {"tasks": 5000}
PACED: Final = {"rate": 200.0, "tasks": 100, "warmup_s": 0.1}

PAIRS, PAIR = 6, "pair "
BURST: Final = Load(1000, work="cpu:0.2")
"""About 0.2 s of work. With the looks at its edges it is sampled more often than in the scenario `memory`."""

Figures = Mapping[str, Metric]
"""The metrics of one cell by name."""

Say = Callable[[str], None]


class Floor(Scenario):
    """A drain and a paced load in one cell."""

    title = "What a floor does"
    parameters: ClassVar = {}
    profiles: ClassVar = {}
    drain, paced = Throughput(), Latency()

    def seconds(self, params: Mapping[str, Any]) -> float:
        """The paced part: a drain takes no time to speak of."""
        return self.paced.seconds(self.paced.values(PACED))

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        """Those of both."""
        yield from self.drain.phases(self.drain.values(DRAINED), variant)
        yield from self.paced.phases(self.paced.values(PACED), variant)

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        """Those of both."""
        yield from self.drain.metrics(history, self.drain.values(DRAINED))
        yield from self.paced.metrics(history, self.paced.values(PACED))


class Sampled(Scenario):
    """Equal bursts in pairs, one with the memory sampled and one without, the first of them by turns."""

    title = "What sampling costs"
    parameters: ClassVar = {}
    profiles: ClassVar = {}

    def seconds(self, params: Mapping[str, Any]) -> float:
        """Roughly."""
        return 4.0

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        """Two in each pair."""
        for pair in range(PAIRS):
            for word in ("on", "off") if pair % 2 else ("off", "on"):
                yield Phase(f"{word} {pair}", BURST, memory=word == "on")

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        """The ratio of throughput with sampling to that without, `pair 0` and on."""
        for pair in range(PAIRS):
            (on, n), (off, _) = (rate_hz(history.of(f"{word} {pair}")) for word in ("on", "off"))
            yield Metric(f"{PAIR}{pair}", "ratio", on / off, n)


@dataclass(frozen=True)
class Cells:
    """Runs such cells. `folder` takes their ledgers and logs; what failed leaves them there."""

    home: Home
    folder: Path
    say: Say
    slots: int
    seed: int
    provision: Provision = field(default_factory=Provision)

    def run(self, system: System, scenario: Scenario, trial: int = 1) -> Figures:
        """The figures of one cell of a system's default variant.

        Raises:
            CellError: it did not end well.
            EnvironmentBuildError: there is no environment for it.
            KeyboardInterrupt: the user interrupted it.
        """
        cell = Cell(system.name, system.default[0], "calibration", {}, trial)
        folder = self.folder / cell.id
        shutil.rmtree(folder, ignore_errors=True)  # what an attempt that failed left behind
        environment = environments.ensure(system, self.say)
        result = run_cell(
            cell,
            system,
            scenario,
            environment,
            self.home,
            folder,
            self.slots,
            _silent,
            seed=self.seed,
            provision=self.provision,
        )
        if result.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
        if result.status is not Status.OK:
            raise CellError(f"{system.name} ended as {result.status.value}: {result.reason}")
        shutil.rmtree(folder)
        return {metric.name: metric for metric in result.metrics}

    def floor(self, name: str, trials: int) -> list[Figures]:
        """The figures of so many trials of a floor.

        Raises:
            Unsupported: a service that it needs is not here.
            CellError, EnvironmentBuildError, KeyboardInterrupt: as `run`.
        """
        system = discovery.systems()[name]
        for service in system.variants[system.default[0]].services:
            here, why = self.provision.available(service)
            if not here:
                raise Unsupported(why)
        return [self.run(system, Floor(), trial) for trial in range(1, trials + 1)]

    def twins(self, trials: int, where: str = "") -> tuple[list[Figures], list[Figures]]:
        """The figures of the reference adapter under two names, each trial of both in a random order.

        Raises:
            CellError, EnvironmentBuildError, KeyboardInterrupt: as `run`.
        """
        twin = self.folder / "reference_twin.py"
        shutil.copyfile(discovery.folder_of("adapters") / "reference.py", twin)
        chosen = discovery.select(["reference", str(twin)], discovery.systems())
        found: dict[str, list[Figures]] = {system.name: [] for system, _ in chosen}
        order = random.Random(self.seed)
        for trial in range(1, trials + 1):
            self.say(f"A/A: {where}trial {trial} of {trials}")
            for system, _ in order.sample(chosen, len(chosen)):
                found[system.name].append(self.run(system, Floor(), trial))
        a, b = found.values()
        return a, b


def _silent(_: str) -> None:
    """Nobody watches the phases of these cells."""
