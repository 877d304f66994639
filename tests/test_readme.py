"""The README keeps its word: its commands run, and its table is the one of the committed run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bench.store import read_run
from reports.render import excerpt
from tests.conftest import ROOT, Command

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- commands[^>]*-->\n)?```sh\n(.*?)```", README, flags=re.DOTALL)
SETUP = [block for marked, block in BLOCKS if not marked]
COMMANDS = "".join(block for marked, block in BLOCKS if marked).splitlines()


def test_there_are_exactly_two_set_up_commands() -> None:
    sessions = [re.findall(r"nox -s (\w+)", block) for block in SETUP]
    assert sessions == [["bench"], ["tests"]]
    assert all(len(block.strip().splitlines()) == 1 for block in SETUP)


def test_every_other_command_works(schedbench: Command) -> None:
    assert len(COMMANDS) >= 5
    for line in COMMANDS:
        program, *words = shlex.split(line)
        assert program == "schedbench"
        done = schedbench(*words)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"


def test_the_ci_script_calls_the_second_one() -> None:
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


EXCERPTS = re.findall(r"<!-- ([\w-]+):([\w-]+) -->", README)


def test_every_excerpt_is_looked_at() -> None:
    assert len(EXCERPTS) == README.count("\n<!-- /") >= 1


@pytest.mark.parametrize(("run", "key"), EXCERPTS)
def test_its_tables_are_those_of_a_committed_run(run: str, key: str) -> None:
    shown = README.split(f"<!-- {run}:{key} -->\n")[1].split(f"<!-- /{run}:{key} -->")[0]
    assert shown == excerpt(read_run(ROOT / "results" / run), key)


def test_the_example_in_contributing_is_the_file_that_is_tested() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = text.split("<!-- example: tests/example_adapter.py -->\n```python\n")[1].split("```")[0]
    assert shown == (ROOT / "tests" / "example_adapter.py").read_text(encoding="utf-8")


def test_every_link_into_the_tree_leads_somewhere() -> None:
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/README.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert Path(page.parent, target).exists(), f"{page.name}: {target}"
