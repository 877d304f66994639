"""The harness beside scripts that use each library directly: both columns, and their ratio.

    nox -s agree [-- REPETITIONS]

Each repetition runs the script and the harness in turn, in the same environment, with the same number of
tasks; throughput is a drain, P95 a constant 50 tasks/s. Medians and ranges over the repetitions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench import discovery, environments, services
from bench.environments import Environment
from bench.harness import Home
from bench.model import Cell, Status
from bench.processes import Group
from bench.runner import run_cell

ROOT = Path(__file__).parents[2]
SLOTS = 2
TASKS = {"celery": 3000, "dramatiq": 3000, "rq": 500, "apscheduler": 5000}
CASES = (
    ("celery", "redis", ()),
    ("dramatiq", "redis", ()),
    ("rq", "redis", ()),
    ("apscheduler", "thread-pool", ("thread",)),
    ("apscheduler", "process-pool", ("process",)),
)


@contextmanager
def redis(home: Home, folder: Path) -> Iterator[str]:
    """A Redis of its own for one direct script; gives its URL."""
    group = Group(home, f"direct-{time.monotonic_ns()}")
    try:
        spec = services.prepare("redis", folder)
        group.spawn(spec.role, spec.argv, env=os.environ, cwd=folder, log=folder / "redis.log")
        deadline_s = time.monotonic() + 10
        while not spec.ready():
            if time.monotonic() > deadline_s:
                raise SystemExit(f"redis did not start: see {folder / 'redis.log'}")
            time.sleep(0.02)
        yield str(spec.address["url"])
    finally:
        group.kill()


def direct(system: str, words: tuple[str, ...], environment: Environment, home: Home) -> dict[str, float]:
    """Run the script of a system in its adapter's environment; gives what it printed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        queue = system != "apscheduler"
        with redis(home, folder) as url:
            arguments = [url] if queue else []
            done = subprocess.run(
                [
                    str(environment.python),
                    str(ROOT / "tests" / "direct" / f"{system}_direct.py"),
                    *arguments,
                    str(SLOTS),
                    str(TASKS[system]),
                    *words,
                ],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                cwd=folder,
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
    return dict(json.loads(done.stdout))


def harness(system: str, variant: str, environment: Environment, home: Home) -> dict[str, float]:
    """The same two figures through the whole harness."""
    known, scenarios = discovery.systems()[system], discovery.scenarios()
    asked = {
        "throughput": ("throughput", {"tasks": TASKS[system]}),
        "p95_ms": ("latency", {"arrival": "constant", "rate": 50.0}),
    }
    found = {}
    for name, (scenario, params) in asked.items():
        with tempfile.TemporaryDirectory() as folder:
            cell = Cell(system, variant, scenario, params, 1)
            result = run_cell(
                cell, known, scenarios[scenario], environment, home, Path(folder), SLOTS, lambda _: None
            )
        if result.status is not Status.OK:
            raise SystemExit(f"{cell.id}: {result.reason}")
        wanted = "throughput" if name == "throughput" else "dispatch_latency_p95"
        found[name] = next(metric.value for metric in result.metrics if metric.name == wanted)
    return found


def main(repetitions: int) -> None:
    """Measure and print."""
    home = Home()
    figures: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    try:
        for repetition in range(repetitions):
            for system, variant, words in CASES:
                environment = environments.ensure(discovery.systems()[system])
                for column, measured in (
                    ("direct", direct(system, words, environment, home)),
                    ("harness", harness(system, variant, environment, home)),
                ):
                    for metric in ("throughput", "p95_ms"):
                        figures[system, variant, metric, column].append(measured[metric])
                print(f"repetition {repetition + 1}: {system}:{variant} done", file=sys.stderr)
    finally:
        home.close()
    print("| system | figure | direct | harness | harness / direct |\n|---|---|---:|---:|---:|")
    for system, variant, _ in CASES:
        for metric in ("throughput", "p95_ms"):
            columns = [figures[system, variant, metric, column] for column in ("direct", "harness")]
            shown = [f"{median(one):.4g} ({min(one):.4g}\N{EN DASH}{max(one):.4g})" for one in columns]
            ratio = median(columns[1]) / median(columns[0])
            print(f"| {system}:{variant} | {metric} | {shown[0]} | {shown[1]} | {ratio:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
