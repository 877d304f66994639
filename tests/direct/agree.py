"""The harness beside scripts that use each library directly: both columns, and their ratio.

    nox -s agree [-- REPETITIONS [SYSTEM ...]]

Each repetition runs the script and the harness in turn, in the same environment, with the same number of
tasks; throughput is a drain, P95 a constant rate: 50 tasks/s, less where a system does not keep up, or
half of what the drain showed. Medians and ranges over the repetitions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import discovery, environments, services
from bench.environments import Environment
from bench.harness import Home
from bench.model import Cell, Status
from bench.processes import Group
from bench.runner import run_cell

ROOT = Path(__file__).parents[2]
SLOTS = 2


@dataclass(frozen=True)
class Case:
    """One variant, and how its script is called: `[URL of the service] SLOTS TASKS [WORDS]`.

    At `rate_hz` both are paced; 0 stands for half of what the drain showed, and few tasks.
    """

    system: str
    variant: str
    tasks: int
    service: str = ""
    words: tuple[str, ...] = ()
    rate_hz: float = 50.0


CASES = (
    Case("celery", "redis", 3000, "redis"),
    Case("dramatiq", "redis", 3000, "redis"),
    Case("rq", "redis", 500, "redis"),
    Case("apscheduler", "thread-pool", 5000, words=("thread",)),
    Case("apscheduler", "process-pool", 5000, words=("process",)),
    Case("fastapi", "uvicorn", 3000),
    Case("temporal", "memory", 500, "temporal", ("workflows",), 1000 / 103),
    Case("temporal", "memory-activities", 1000, "temporal", ("activities",)),
    Case("prefect", "sqlite", 10, words=("runs",), rate_hz=0),
    Case("prefect", "sqlite-tasks", 1000, words=("tasks",)),
    Case("airflow", "postgresql", 20, "postgresql", rate_hz=0),
    Case("dagster", "postgresql", 10, "postgresql", rate_hz=0),
)
PACED_N = 25


@contextmanager
def started(service: str, home: Home, folder: Path) -> Iterator[list[str]]:
    """A service of its own for one direct script; gives its URL, or nothing where it needs none."""
    if not service:
        yield []
        return
    group = Group(home, f"direct-{time.monotonic_ns()}")
    try:
        spec = services.prepare(service, folder / service)
        environ = {**os.environ, **spec.env}
        group.spawn(spec.role, spec.argv, env=environ, cwd=folder, log=folder / "service.log")
        deadline_s = time.monotonic() + 30
        while not spec.ready():
            if time.monotonic() > deadline_s:
                raise SystemExit(f"{service} did not start: see {folder / 'service.log'}")
            time.sleep(0.02)
        yield [str(spec.address["url"])]
    finally:
        group.kill()


def direct(case: Case, environment: Environment, home: Home) -> dict[str, float]:
    """Run the script of a system in its adapter's environment; gives what it printed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = f"{environment.python.parent}{os.pathsep}{os.environ['PATH']}"
        with started(case.service, home, folder) as url:
            done = subprocess.run(
                [
                    str(environment.python),
                    str(ROOT / "tests" / "direct" / f"{case.system}_direct.py"),
                    *url,
                    str(SLOTS),
                    str(case.tasks),
                    *case.words,
                ],
                env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path},
                cwd=folder,
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
    return dict(json.loads(done.stdout))


def harness(case: Case, reached_hz: float, environment: Environment, home: Home) -> dict[str, float]:
    """The same two figures through the whole harness; without P95 for tasks that come in batches."""
    known, scenarios = discovery.systems()[case.system], discovery.scenarios()
    few = {"rate": reached_hz / 2, "tasks": PACED_N, "warmup_s": 0.0}  # as the script itself
    paced = {"rate": case.rate_hz} if case.rate_hz else few
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "throughput": ("throughput", {"tasks": case.tasks, "most_s": 600.0}),
        "p95_ms": ("latency", {"arrival": "constant", **paced}),
    }
    if known.variants[case.variant].batch:
        del asked["p95_ms"]
    found = {}
    for name, (scenario, params) in asked.items():
        with tempfile.TemporaryDirectory() as folder:
            cell = Cell(case.system, case.variant, scenario, params, 1)
            result = run_cell(
                cell, known, scenarios[scenario], environment, home, Path(folder), SLOTS, lambda _: None
            )
        if result.status is not Status.OK:
            raise SystemExit(f"{cell.id}: {result.reason}")
        wanted = "throughput" if name == "throughput" else "dispatch_latency_p95"
        found[name] = next(metric.value for metric in result.metrics if metric.name == wanted)
    return found


def main(repetitions: int, systems: Sequence[str]) -> None:
    """Measure and print."""
    home = Home()
    figures: dict[tuple[Case, str, str], list[float]] = defaultdict(list)
    cases = [case for case in CASES if not systems or case.system in systems]
    try:
        for repetition in range(repetitions):
            for case in cases:
                environment = environments.ensure(discovery.systems()[case.system])
                by_hand = direct(case, environment, home)
                found = harness(case, by_hand["throughput"], environment, home)
                for column, measured in (("direct", by_hand), ("harness", found)):
                    for metric, value in measured.items():
                        figures[case, metric, column].append(value)
                done = f"repetition {repetition + 1}: {case.system}:{case.variant} done"
                print(done, file=sys.stderr)
    finally:
        home.close()
    print("| system | figure | direct | harness | harness / direct |\n|---|---|---:|---:|---:|")
    for case in cases:
        for metric in ("throughput", "p95_ms"):
            columns = [figures[case, metric, column] for column in ("direct", "harness")]
            if not all(columns):
                continue
            shown = [f"{median(one):.4g} ({min(one):.4g}\N{EN DASH}{max(one):.4g})" for one in columns]
            ratio = median(columns[1]) / median(columns[0])
            print(f"| {case.system}:{case.variant} | {metric} | {shown[0]} | {shown[1]} | {ratio:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2:])
