"""One run, from the request to the summary: environments, then every cell of the matrix, saved one by one."""

from __future__ import annotations

import platform
import shlex
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import (
    __version__,
    attempts,
    calibration,
    disturbance,
    environments,
    harness,
    machine,
    selftest,
    services,
    store,
)
from bench.environments import Environment
from bench.errors import EnvironmentBuildError, SchedbenchError, StoreError, Unsupported
from bench.model import Cell, Metric, Status, System
from bench.request import Plan, Request, plan, requested
from bench.runner import Result, run_cell
from bench.services import Provision
from bench.summary import DISTURBED, cell_of

__all__ = ["Plan", "Request", "Watcher", "begin", "plan", "requested", "run"]

MEASURED = {Status.OK, Status.TIMEOUT, Status.ERROR}
"""How a cell ends of which it matters whether the machine was disturbed."""


class Watcher:
    """What a session tells whoever watches it. This one says nothing; the command line shows progress."""

    def say(self, text: str) -> None:
        """A fact that stays."""

    def begin_calibration(self) -> None:
        """The calibration begins."""

    def end_calibration(self, found: Mapping[str, Any]) -> None:
        """The calibration is done and saved."""

    def begin(self, cell: Cell) -> None:
        """A cell begins."""

    def doing(self, phase: str) -> None:
        """The cell is in another phase, or (empty) still in the same."""

    def end(self, cell: Cell, result: Result) -> None:
        """A cell is done and saved."""


def run(the_plan: Plan, target: store.Store, watcher: Watcher) -> Counter[Status]:
    """Run every cell that is not done yet, then again those that a disturbed machine spoilt.

    Returns how many cells of this session ended in each way. Ctrl-C ends the cell that runs, keeps what
    was measured, and shows up as `interrupted`.

    Raises:
        StoreError: the disk does not take the results, what was written before is kept; or another
            process is writing this run.
    """
    with attempts.exclusive(target):
        already = target.done()
        todo = [cell for cell in the_plan.cells if cell.id not in already]
        session = _Session(the_plan, target, watcher)
        try:
            session.build(todo)
            session.calibrate()
            session.measure(todo)
            session.measure_again()
        except KeyboardInterrupt:
            session.interrupted = True
        finally:
            session.close()
        ended = Counter(session.ended.values())
        if session.interrupted:
            ended[Status.INTERRUPTED] = max(1, ended[Status.INTERRUPTED])
        return ended


def calibrated(target: store.Store) -> bool:
    """Whether a run has its calibration, or can have none any more: its cells came without."""
    return bool(target.info.get("calibration") or target.done())


class _Session:
    """A run that goes on: what its cells share, and how each of those that it ran ended."""

    def __init__(self, the_plan: Plan, target: store.Store, watcher: Watcher) -> None:
        self.plan, self.target, self.watcher = the_plan, target, watcher
        self.ended: dict[str, Status] = {}
        self.interrupted = False
        self._home = harness.Home()
        self._provision = Provision(the_plan.request.services, the_plan.options, self._home.name)
        self._built: dict[str, Environment | SchedbenchError] = {}
        self._watch: disturbance.Watch | None = None

    def build(self, cells: Sequence[Cell]) -> None:
        """Make the environments that the cells need.

        Raises:
            StoreError: one has other packages than earlier in this run.
        """
        began_s = time.monotonic()
        for name in {cell.system: None for cell in cells if cell.system not in self._built}:
            self._built[name] = _environment(self.plan.systems[name], self.watcher.say)
        systems = merged(self.target.info.get("systems", {}), _systems(self.plan, self._built))
        build_s = round(self.target.info.get("build_s", 0.0) + time.monotonic() - began_s, 1)
        self.target.update_run(systems=systems, build_s=build_s, interrupted=True)

    def calibrate(self) -> None:
        """Once in a run: what the harness costs and how fine it can tell, here and now."""
        if not self.plan.request.calibrate or calibrated(self.target):
            return
        request = self.plan.request
        self.watcher.begin_calibration()
        watch = self._watching()
        before = watch.begin()
        folder = self.target.path / "calibration"
        found = calibration.measure(
            self._home,
            folder,
            self.watcher.doing,
            slots=request.slots,
            seed=request.seed,
            provision=self._provision,
        )
        if all(row["value"] is not None for row in found["rows"]):
            shutil.rmtree(folder)  # otherwise it tells what went wrong
        if words := watch.end(before, None).words:
            remark = f"{DISTURBED}: {words}"
            for row in found["rows"]:
                row["note"] = "; ".join(filter(None, (row["note"], remark)))
        self.target.update_run(calibration=found)
        self.watcher.end_calibration(found)

    def measure(self, cells: Sequence[Cell]) -> None:
        """Run cells for the first time, up to the first that the user interrupts."""
        for cell in cells:
            self.watcher.begin(cell)
            result = self._attempt(cell)
            self.watcher.end(cell, result)
            if self.interrupted:
                break

    def measure_again(self) -> None:
        """Run those again during which the machine was disturbed: now, because disturbances pass."""
        self._judge_again()
        records = {cell_of(record).id: record for record in store.read_cells(self.target.path)}
        timed = [cell for cell in self.plan.cells if self.plan.scenarios[cell.scenario].again]
        spoilt = attempts.due(records.values(), timed, self.plan.seconds)
        if self.interrupted or not spoilt:
            return
        self.build(spoilt)
        for cell in spoilt:
            if not isinstance(self._built[cell.system], Environment):
                continue  # what there is, is better than the message of an installer
            earlier = attempts.earlier(records[cell.id])
            self.watcher.say(f"again: {cell.id} (machine disturbed: {earlier['disturbance']['words']})")
            self.watcher.begin(cell)
            with attempts.second(self.target, cell):
                result = self._attempt(cell, earlier)
            if self.interrupted:
                break
            words = result.details.get("disturbance", {}).get("words")
            self.watcher.say(f"  {result.status}, {f'disturbed again: {words}' if words else 'undisturbed'}")

    def close(self) -> None:
        """End what is left running, and write what `run.json` says of all cells, and the summary."""
        with harness.deferred_signals():
            if self.plan.request.services == "containers":
                services.sweep(self._home.name)
            self._home.close()
        self._judge_again()
        records = store.read_cells(self.target.path)
        described = self.target.info.get("systems", {})
        for record in records:
            if "in_process" in record["details"]:
                described[record["cell"]["system"]]["in_process"] = record["details"]["in_process"]
        self.target.update_run(
            systems=described,
            interrupted=self.interrupted or sys.exc_info()[0] is not None,
            cells_done=len(self.target.done()),
            wall_s=round(sum(record["seconds"] for record in records), 1),
            measuring_s=round(sum(record["details"].get("measuring_s", 0.0) for record in records), 1),
            services={
                name: served
                for record in records
                for name, served in record["details"].get("services", {}).items()
            },
            noise=disturbance.noise(records),
        )
        self.target.write_summary()

    def _attempt(self, cell: Cell, earlier: Mapping[str, Any] | None = None) -> Result:
        """Run a cell and write it; a second attempt that the user interrupts is not written."""
        watch = self._watching()
        before = watch.begin()
        environment = self._built[cell.system]
        result = _cell(
            cell, self.plan, environment, self._home, self.target, self.watcher.doing, self._provision
        )
        with harness.deferred_signals():
            if result.status in MEASURED and isinstance(environment, Environment):
                found = watch.end(before, _whole_cpu_ns(result.details))
                result.details["disturbance"] = asdict(found)
                if found.words:
                    remark = f"{DISTURBED}: {found.words}"
                    result.metrics = [metric.noted(remark) for metric in result.metrics]
            self.interrupted |= result.status is Status.INTERRUPTED
            if earlier:
                result.details["earlier_attempts"] = [earlier]
            if not (earlier and self.interrupted):
                goes_on = result.status is Status.INTERRUPTED and self.plan.scenarios[cell.scenario].resumable
                self.target.write_cell(
                    cell,
                    result.status,
                    result.reason,
                    result.metrics,
                    result.details,
                    # Of a cell that can be resumed, the ledger stays.
                    *((None,) * 3 if goes_on else (result.events, result.tasks, result.resources)),
                )
                self.ended[cell.id] = result.status
        return result

    def _watching(self) -> disturbance.Watch:
        self._watch = self._watch or disturbance.Watch(self._baseline_ns())
        return self._watch

    def _judge_again(self) -> None:
        """Mark the cells that only the baseline of the whole run shows to have been disturbed."""
        if self._watch is None:
            return
        for record in store.read_cells(self.target.path):
            found = record["details"].get("disturbance")
            if not found or found["words"]:
                continue
            now = disturbance.again(found, self._watch.baseline_ns)
            if now.words:
                record["details"]["disturbance"] = asdict(now)
                metrics = [
                    Metric(**metric).noted(f"{DISTURBED}: {now.words}") for metric in record["metrics"]
                ]
                self.target.rewrite({**record, "metrics": [asdict(metric) for metric in metrics]})

    def _baseline_ns(self) -> float | None:
        """That of the cells so far; another Python may hash at another speed."""
        if self.target.info["machine"]["python"] != platform.python_version():
            return None
        return disturbance.baseline_ns(store.read_cells(self.target.path))


def _whole_cpu_ns(details: Mapping[str, Any]) -> int | None:
    """The CPU time of a cell, None where a server elsewhere may have used more of it on this machine."""
    served = details.get("services", {}).values()
    return None if any(about["provider"] == "external" for about in served) else details.get("cpu_ns")


def begin(the_plan: Plan, results: Path) -> store.Store:
    """Make the folder of a new run, with everything that is known before it starts."""
    return store.create(
        results,
        {
            "command": shlex.join(["schedbench", *_without_folder(sys.argv[1:])]),
            "schedbench": __version__,
            "request": asdict(the_plan.request),
            "profile": the_plan.request.profile,
            "seed": the_plan.request.seed,
            "slots": the_plan.request.slots,
            "trials": the_plan.request.trials,
            "machine": machine.facts(),
            "selftest": selftest.outcome(),
            "cells_planned": len(the_plan.cells),
            "cells_done": 0,
            "interrupted": True,
        },
    )


def _without_folder(words: Sequence[str]) -> list[str]:
    """The arguments without `--results`: where a run was put is of one machine, and records are published."""
    kept, rest = [], iter(words)
    for word in rest:
        if word == "--results":
            next(rest, None)
        elif not word.startswith("--results="):
            kept.append(word)
    return kept


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
    provision: Provision,
) -> Result:
    """Run a cell; whatever goes wrong in it becomes its result, so that the matrix goes on."""
    system, scenario = the_plan.systems[cell.system], the_plan.scenarios[cell.scenario]
    folder = target.cell_folder(cell, keep=scenario.resumable)
    if isinstance(environment, SchedbenchError):
        missing = isinstance(environment, Unsupported)
        return Result(Status.UNSUPPORTED if missing else Status.ERROR, str(environment))
    beside = harness.others()

    def told(phase: str) -> None:
        doing(phase)
        if phase:
            beside.extend(harness.others())

    try:
        request = the_plan.request
        result = run_cell(
            cell,
            system,
            scenario,
            environment,
            home,
            folder,
            request.slots,
            told,
            seed=request.seed,
            provision=provision,
        )
    except Exception as error:  # noqa: BLE001 - a bug of ours in one cell must not cost the others
        (folder / "logs" / "harness.log").write_text(traceback.format_exc())
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = (
            f"schedbench itself failed: {type(error).__name__}: {error} ({where.name}); see logs/harness.log"
        )
        return Result(Status.ERROR, reason)
    if beside or harness.others():
        result.metrics = [metric.noted("another schedbench was running") for metric in result.metrics]
    return result


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


def merged(
    earlier: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What `run.json` says of the systems of a run that goes on: as they are now, with those from earlier.

    Raises:
        StoreError: a system has other packages now; one that could not be built, then or now, has none.
    """
    found = {name: dict(described) for name, described in {**earlier, **now}.items()}
    for name in earlier.keys() & now.keys():
        before, after = earlier[name]["packages"], now[name]["packages"]
        if before and after and before != after:
            raise StoreError(f"{name} has other packages now than when this run began: start a new run")
        found[name]["packages"] = after or before
    return found
