"""What the user asked for, and what it comes to: the systems, the scenarios and the cells of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import discovery, machine, matrix, services, store
from bench.errors import StoreError, UsageError, unknown
from bench.model import Cell, System
from bench.scenario import Scenario
from bench.services import options

OVERHEAD_S, HEAVY_S = 1.0, 30.0
"""First guesses at what a cell takes beside its phases; the progress line learns the rest."""


@dataclass(frozen=True)
class Request:
    """What the user asked for; stands in `run.json`, so that a run can be taken up again."""

    systems: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    profile: str = "quick"
    trials: int | None = None
    seed: int = 1
    slots: int = field(default_factory=machine.usable_cores)
    services: str = "auto"
    sets: tuple[str, ...] = ()
    calibrate: bool = True


@dataclass(frozen=True)
class Plan:
    """A request made concrete: the systems and scenarios it names, and its cells in order."""

    request: Request
    systems: Mapping[str, System]
    scenarios: Mapping[str, Scenario]
    cells: Sequence[Cell]
    options: options.Options = field(default_factory=options.Options)

    @property
    def services(self) -> list[str]:
        """The services that its cells need, each once."""
        needed = {(cell.system, cell.variant): None for cell in self.cells}
        every = [self.systems[system].variants[variant].services for system, variant in needed]
        return list({name: None for names in every for name in names})

    def seconds(self, cell: Cell) -> float:
        """An estimate of how long a cell takes."""
        scenario, system = self.scenarios[cell.scenario], self.systems[cell.system]
        variant, params = system.variants[cell.variant], scenario.values(cell.params)
        if scenario.why_not(system, variant, params):
            return 0.0
        return (HEAVY_S if variant.heavy else OVERHEAD_S) + scenario.seconds(params)


def plan(request: Request) -> Plan:
    """Look everything up before anything starts.

    Raises:
        UsageError: an unknown system, variant, scenario, profile or parameter.
    """
    if request.profile not in matrix.PROFILES:
        raise unknown("profile", request.profile, matrix.PROFILES)
    if request.slots < 1:
        raise UsageError(f"--slots {request.slots}: must be at least 1")
    if request.trials is not None and request.trials < 1:
        raise UsageError(f"--trials {request.trials}: must be at least 1")
    chosen = discovery.select(request.systems, discovery.systems())
    for system, _ in chosen:
        for other, _ in chosen:
            if other.name == system.name and other.path != system.path:
                raise UsageError(
                    f"two systems are called {system.name!r}: rename {other.path} or {system.path}"
                )
    known = discovery.scenarios()
    for name in request.scenarios:
        if name not in known:
            raise unknown("scenario", name, known)
    unasked = [name for name, scenario in known.items() if request.profile in scenario.unasked]
    scenarios = {name: known[name] for name in request.scenarios or unasked}
    held, sets = options.parse(request.sets, services.IMAGES)
    cells = matrix.expand(
        chosen,
        scenarios,
        profile=request.profile,
        trials=request.trials,
        seed=request.seed,
        sets=matrix.overrides(sets, scenarios),
        named=bool(request.scenarios),
    )
    return Plan(request, {system.name: system for system, _ in chosen}, scenarios, cells, held)


def requested(target: store.Store) -> Request:
    """The request of an earlier run, for `--resume`.

    Raises:
        StoreError: the run does not say.
    """
    try:
        words: dict[str, Any] = dict(target.info["request"])
        lists = {name: tuple(words[name]) for name in ("systems", "scenarios", "sets")}
        return Request(**{**words, **lists})
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"{target.path}/run.json has no complete request ({error}): start a new run"
        ) from error
