"""What several tests share: a harness home, and running one cell for real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bench import discovery, environments
from bench.errors import Unsupported
from bench.harness import Home
from bench.model import Cell
from bench.runner import Result, run_cell
from bench.scenario import Scenario
from bench.services import Provision

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-variants", action="store_true", help="conformance of slow variants too that are no default"
    )


@pytest.fixture
def home() -> Iterator[Home]:
    """A harness that cleans up after itself."""
    made = Home()
    yield made
    made.close()


class OneCell:
    """Runs one cell of a system for a scenario given as an object."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.home = home
        self.folder = folder

    def __call__(
        self,
        word: str,
        scenario: Scenario,
        *,
        slots: int = 2,
        params: dict[str, object] | None = None,
        provision: Provision | None = None,
    ) -> Result:
        ((system, variant),) = discovery.select([word], discovery.systems())
        cell = Cell(system.name, variant.name, "test", params or {}, 1)
        environment = environments.ensure(system)
        return run_cell(
            cell,
            system,
            scenario,
            environment,
            self.home,
            self.folder,
            slots,
            lambda _: None,
            provision=provision,
        )


@pytest.fixture
def one_cell(home: Home, tmp_path: Path) -> OneCell:
    """`one_cell("celery:redis", scenario)` runs it and returns its result."""
    return OneCell(home, tmp_path / "cell")


class Command:
    """The command line, as a user calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def argv(self, words: Sequence[str]) -> list[str]:
        """Runs are not calibrated unless asked to, which takes half a minute each, and need no containers."""
        before = ["--no-calibration"] if words[:1] == ("run",) else []
        after = ["--services", "embedded"] if before and not {"--services", "--resume"} & set(words) else []
        return [sys.executable, "-m", "bench.cli", *words[:1], *before, *words[1:], *after]

    def __call__(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(words),
            cwd=self.folder,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(words),
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def schedbench(tmp_path: Path) -> Command:
    """`schedbench("run", "rq")` in an empty folder."""
    return Command(tmp_path)


IN_CONTAINERS = ("redis", "postgresql", "rabbitmq", "temporal")


def docker(*words: str) -> str:
    """What the Docker engine's own command answers."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def ours() -> set[str]:
    """The names of all containers that a schedbench started."""
    return set(docker("ps", "-a", "--filter", "label=schedbench.harness", "--format", "{{.Names}}").split())


@pytest.fixture
def engine() -> Iterator[None]:
    """A Docker engine that has all images; afterwards no more containers of ours than before."""
    from bench.services import engine as docker_engine

    try:
        for name in IN_CONTAINERS:
            docker_engine.find(name)
    except Unsupported as error:
        pytest.skip(str(error))
    before = ours()
    yield
    assert ours() <= before
