"""A new system is one new file: the example adapter, in a folder of its own, runs with no other change."""

from __future__ import annotations

import csv
import json
import shutil

from bench.model import SUMMARY_COLUMNS
from tests.conftest import ROOT, Command

EXAMPLE = ROOT / "tests" / "example_adapter.py"


def test_a_new_file_is_a_new_system(schedbench: Command) -> None:
    shutil.copy(EXAMPLE, schedbench.folder / "my_queue.py")
    tiny = ("--set", "tasks=50", "--set", "seconds=0", "--set", "rate=200", "--set", "warmup_s=0")
    scenarios = ("--scenario", "throughput", "--scenario", "latency", "--scenario", "startup")
    done = schedbench("run", "./my_queue.py", "--trials", "1", *scenarios, *tiny)
    assert done.returncode == 0, done.stdout + done.stderr

    (run,) = (schedbench.folder / "results").iterdir()
    cells = [json.loads(file.read_text()) for file in run.glob("cells/*/cell.json")]
    assert {cell["cell"]["system"] for cell in cells} == {"my_queue"}
    assert {cell["status"] for cell in cells} == {"ok"}
    assert {cell["cell"]["scenario"] for cell in cells} == {"throughput", "latency", "startup"}
    for cell in cells:
        fates = {metric["name"]: metric["value"] for metric in cell["metrics"]}
        submitted = 1 if cell["cell"]["scenario"] == "startup" else 50
        assert fates["tasks_ok"] >= submitted
        bad = ("late", "failed", "lost", "duplicated", "refused", "unexpected")
        assert sum(fates[f"tasks_{fate}"] for fate in bad) == 0
    with (run / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == SUMMARY_COLUMNS
    assert {"throughput", "dispatch_latency_p95", "startup"} <= {row["metric"] for row in rows}

    shown = schedbench("report", "--format", "terminal")
    assert shown.returncode == 0, shown.stderr
    assert "Spool folder" in shown.stdout or "my_queue" in shown.stdout


def test_the_example_is_as_short_as_it_is_said_to_be() -> None:
    """CONTRIBUTING promises an adapter of some 40 lines of code below its header."""
    _, _, body = EXAMPLE.read_text().partition('# ///\n"""')
    assert len([line for line in body.splitlines() if line.strip()]) <= 45
