"""Who may import whom (the rules of the architecture), read from the source of every module."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("bench", "adapters", "scenarios", "reports")
MODULES = sorted(path.relative_to(ROOT).as_posix() for name in OURS for path in (ROOT / name).rglob("*.py"))


class Rule(NamedTuple):
    where: str  # a file, or a folder with its slash
    ours: tuple[str, ...]  # what of ours it may import
    others: tuple[str, ...] | None  # what it may import beyond the standard library; None: anything


RULES = [
    Rule("bench/model.py", (), ()),
    Rule("bench/errors.py", (), ()),
    Rule("bench/agent/", ("bench.model", "bench.agent"), ()),
    Rule("adapters/", ("bench.agent",), None),
    Rule("scenarios/", ("bench.model", "bench.openloop", "bench.scenario"), ("numpy", "pandas")),
    Rule(
        "reports/",
        ("bench.model", "bench.errors", "bench.store", "bench.stats", "bench.summary", "reports"),
        None,
    ),
    Rule("bench/", ("bench", "scenarios", "reports"), None),
]
"""The first rule that fits a module holds. No rule but its own lets anything import `adapters`."""

FRAMES = ("ledger", "store", "scenario", "sampler")  # where data frames are built
ONLY_IN = {
    "pandas": ("reports/", "scenarios/", *(f"bench/{name}.py" for name in FRAMES)),
    "matplotlib": ("reports/",),
    "testcontainers": ("bench/services/containers.py", "bench/services/engine.py"),
    "docker": ("bench/services/containers.py", "bench/services/engine.py"),
}


def imported(module: str, source: str) -> set[str]:
    """Dotted names that a module imports, `from a import b` as `a.b`, relative ones resolved."""
    package = module.removesuffix(".py").split("/")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


def below(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)


def violations(module: str, source: str) -> set[str]:
    """What a module imports and may not."""
    rule = next(rule for rule in RULES if module == rule.where or module.startswith(rule.where))
    bad = set()
    for name in imported(module, source):
        top = name.partition(".")[0]
        if top in OURS:
            allowed = below(name, rule.ours)
        elif top in sys.stdlib_module_names:
            allowed = True
        else:
            places = ONLY_IN.get(top)
            allowed = rule.others is None or top in rule.others
            allowed &= places is None or module.startswith(places)
        if not allowed:
            bad.add(name)
    return bad


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_it_may(module: str) -> None:
    assert violations(module, (ROOT / module).read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("bench/model.py", "from bench import errors", "bench.errors"),
        ("bench/errors.py", "import rich", "rich"),
        ("bench/agent/probe.py", "from bench.errors import UsageError", "bench.errors.UsageError"),
        ("bench/agent/probe.py", "from ..errors import UsageError", "bench.errors.UsageError"),
        ("bench/agent/pacer.py", "import psutil", "psutil"),
        ("adapters/celery.py", "from bench.model import Task", "bench.model.Task"),
        ("adapters/celery.py", "from adapters import rq", "adapters.rq"),
        ("adapters/celery.py", "from . import rq", "adapters.rq"),
        ("scenarios/cpu.py", "import adapters.celery", "adapters.celery"),
        ("scenarios/cpu.py", "from bench.runner import run", "bench.runner.run"),
        ("scenarios/cpu.py", "import matplotlib.pyplot", "matplotlib.pyplot"),
        ("reports/tables.py", "from bench.runner import run", "bench.runner.run"),
        ("reports/tables.py", "import scenarios", "scenarios"),
        ("bench/runner.py", "def f():\n    import adapters.celery", "adapters.celery"),
        ("bench/runner.py", "import pandas as pd", "pandas"),
        ("bench/ledger.py", "import matplotlib", "matplotlib"),
        ("bench/services/embedded.py", "import testcontainers.redis", "testcontainers.redis"),
    ],
)
def test_the_check_finds_what_is_not_allowed(module: str, source: str, bad: str) -> None:
    assert violations(module, source) == {bad}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bench/agent/client.py", "import json\nfrom bench.agent import pacer\nfrom bench.model import Load"),
        ("adapters/celery.py", "from celery import Celery\nfrom bench.agent import Adapter"),
        ("scenarios/cpu.py", "import pandas as pd\nfrom bench.scenario import Scenario"),
        ("reports/charts.py", "import matplotlib\nfrom bench.store import read\nfrom reports import tables"),
        ("bench/cli.py", "from bench import runner\nfrom reports import terminal"),
    ],
)
def test_the_check_lets_pass_what_is_allowed(module: str, source: str) -> None:
    assert violations(module, source) == set()
