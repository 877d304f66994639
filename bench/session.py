"""One run, from the request to the summary: environments, then every cell of the matrix, saved one by one."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import __version__, discovery, environments, harness, machine, matrix, store
from bench.environments import Environment
from bench.errors import EnvironmentBuildError, SchedbenchError, StoreError, Unsupported, UsageError, unknown
from bench.model import Cell, Metric, Status, System
from bench.runner import Result, run_cell
from bench.scenario import Scenario

OVERHEAD_S = 3.0
"""A first guess at what a cell takes beside its phases; the progress line learns the rest."""


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


@dataclass(frozen=True)
class Plan:
    """A request made concrete: the systems and scenarios it names, and its cells in order."""

    request: Request
    systems: Mapping[str, System]
    scenarios: Mapping[str, Scenario]
    cells: Sequence[Cell]

    def seconds(self, cell: Cell) -> float:
        """An estimate of how long a cell takes."""
        scenario = self.scenarios[cell.scenario]
        return OVERHEAD_S + scenario.seconds(scenario.values(cell.params))


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
    scenarios = {name: known[name] for name in request.scenarios or known}
    cells = matrix.expand(
        chosen,
        scenarios,
        profile=request.profile,
        trials=request.trials,
        seed=request.seed,
        sets=matrix.overrides(request.sets, scenarios),
    )
    return Plan(request, {system.name: system for system, _ in chosen}, scenarios, cells)


class Watcher:
    """What a session tells whoever watches it. This one says nothing; the command line shows progress."""

    def say(self, text: str) -> None:
        """A fact that stays."""

    def begin(self, cell: Cell) -> None:
        """A cell begins."""

    def doing(self, phase: str) -> None:
        """The cell is in another phase, or (empty) still in the same."""

    def end(self, cell: Cell, result: Result) -> None:
        """A cell is done and saved."""


def run(the_plan: Plan, target: store.Store, watcher: Watcher) -> Counter[Status]:
    """Run every cell that is not done yet; returns how many cells of this run ended in each way.

    Ctrl-C ends the cell that runs, keeps what was measured, and shows up as `interrupted`.

    Raises:
        StoreError: the disk does not take the results; what was written before is kept.
    """
    began_s = time.monotonic()
    home = harness.Home()
    ended: Counter[Status] = Counter()
    already = target.done()
    cells = [cell for cell in the_plan.cells if cell.id not in already]
    built: dict[str, Environment | SchedbenchError] = {}
    interrupted = False
    try:
        for name in {cell.system: None for cell in cells}:
            built[name] = _environment(the_plan.systems[name], watcher.say)
        build_s = time.monotonic() - began_s
        described = _systems(the_plan, built)
        earlier = target.info.get("systems", {})
        for name in described.keys() & earlier.keys():
            if earlier[name]["packages"] != described[name]["packages"]:
                raise StoreError(f"{name} has other packages now than when this run began: start a new run")
        target.update_run(systems={**earlier, **described}, build_s=round(build_s, 1), interrupted=True)
        for cell in cells:
            watcher.begin(cell)
            result = _cell(cell, the_plan, built[cell.system], home, target, watcher.doing)
            with harness.deferred_signals():
                target.write_cell(
                    cell,
                    result.status,
                    result.reason,
                    result.metrics,
                    result.details,
                    result.events,
                    result.tasks,
                    result.resources,
                )
            ended[result.status] += 1
            watcher.end(cell, result)
            if result.status is Status.INTERRUPTED:
                interrupted = True
                break
    except KeyboardInterrupt:
        interrupted = True
        ended[Status.INTERRUPTED] += 1
    finally:
        with harness.deferred_signals():
            home.close()
        records = store.read_cells(target.path)
        described = target.info.get("systems", {})
        for record in records:
            if "in_process" in record["details"]:
                described[record["cell"]["system"]]["in_process"] = record["details"]["in_process"]
        target.update_run(
            systems=described,
            interrupted=interrupted or sys.exc_info()[0] is not None,
            cells_done=len(target.done()),
            wall_s=round(sum(record["seconds"] for record in records), 1),
            measuring_s=round(sum(record["details"].get("measuring_s", 0.0) for record in records), 1),
            services={
                name: served
                for record in records
                for name, served in record["details"].get("services", {}).items()
            },
        )
        target.write_summary()
    return ended


def begin(the_plan: Plan, results: Path) -> store.Store:
    """Make the folder of a new run, with everything that is known before it starts."""
    return store.create(
        results,
        {
            "command": shlex.join(["schedbench", *sys.argv[1:]]),
            "schedbench": __version__,
            "request": asdict(the_plan.request),
            "profile": the_plan.request.profile,
            "seed": the_plan.request.seed,
            "slots": the_plan.request.slots,
            "trials": the_plan.request.trials,
            "machine": machine.facts(),
            "cells_planned": len(the_plan.cells),
            "cells_done": 0,
            "interrupted": True,
        },
    )


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


def _environment(system: System, say: Callable[[str], None]) -> Environment | SchedbenchError:
    try:
        return environments.ensure(system, say)
    except (EnvironmentBuildError, Unsupported) as error:
        return error


def _cell(
    cell: Cell,
    the_plan: Plan,
    environment: Environment | SchedbenchError,
    home: harness.Home,
    target: store.Store,
    doing: Callable[[str], None],
) -> Result:
    """Run a cell; whatever goes wrong in it becomes its result, so that the matrix goes on."""
    folder = target.cell_folder(cell)
    if isinstance(environment, SchedbenchError):
        missing = isinstance(environment, Unsupported)
        return Result(Status.UNSUPPORTED if missing else Status.ERROR, str(environment))
    system, scenario = the_plan.systems[cell.system], the_plan.scenarios[cell.scenario]
    try:
        request = the_plan.request
        result = run_cell(
            cell, system, scenario, environment, home, folder, request.slots, doing, seed=request.seed
        )
    except Exception as error:  # noqa: BLE001 - a bug of ours in one cell must not cost the others
        (folder / "logs" / "harness.log").write_text(traceback.format_exc())
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = (
            f"schedbench itself failed: {type(error).__name__}: {error} ({where.name}); see logs/harness.log"
        )
        return Result(Status.ERROR, reason)
    if harness.others():
        result.metrics = [_noted(metric, "another schedbench was running") for metric in result.metrics]
    return result


def _noted(metric: Metric, words: str) -> Metric:
    return dataclasses.replace(metric, note="; ".join(part for part in (metric.note, words) if part))


def _systems(the_plan: Plan, built: Mapping[str, Environment | SchedbenchError]) -> dict[str, dict[str, Any]]:
    """What `run.json` says of each system: its header, and the packages it ran with."""
    described = {}
    for name, environment in built.items():
        system = the_plan.systems[name]
        packages = environment.packages if isinstance(environment, Environment) else {}
        described[name] = {
            "title": system.title,
            "family": system.family,
            "homepage": system.homepage,
            "default": list(system.default),
            "variants": {key: asdict(variant) for key, variant in system.variants.items()},
            "packages": dict(packages),
        }
    return described
