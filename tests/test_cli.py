"""The command line, as a user calls it: what each command prints, writes and returns."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from bench import __version__, cli, discovery, progress, session
from bench.model import PARITY, SUMMARY_COLUMNS, Fate
from bench.sampler import COLUMNS
from bench.store import EVENT_COLUMNS
from tests.conftest import ROOT, Command

COMMANDS = ("list", "doctor", "run", "report", "selftest", "build")

TINY = {
    "tasks": 30,
    "seconds": 0,
    "rate": 200,
    "warmup_s": 0.1,
    "work_ms": 1,
    "burn_s": 0.05,
    "idle_s": 0.3,
    "every_s": 0.2,
    "ticks": 2,
    "steps": 1,
    "step_s": 0.3,
    "most_s": 0.3,
    "jobs": 10,
    "rest_s": 0.0,
}
"""Values with which every scenario is over in a moment."""

ONLY: dict[str, dict[str, object]] = {
    "faults": {"fault": "flood", "load_s": 1, "work": "sleep:20"},
    "latency": {"load": 0},
    "soak": {"duration": "2s", "per_hour": 36_000},
}

WITHOUT_TASKS = {"periodic", "replicas"}
"""Scenarios in which the system runs something of its own accord."""


def in_this_process(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    """The exit code of a command that only prints."""
    monkeypatch.setattr(sys, "argv", ["schedbench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert not in_this_process(monkeypatch, *filter(None, [command]), "--help")
    output, errors = capsys.readouterr()
    assert output.startswith("Usage:")
    assert errors == ""
    if not command:
        assert all(f"\n  {name} " in output for name in COMMANDS)


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert not in_this_process(monkeypatch, "--version")
    assert capsys.readouterr().out.split()[-1] == __version__


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What stands on standard error, but for the remark that another harness runs on this machine."""
    return [line for line in done.stderr.splitlines() if not line.startswith("another schedbench")]


def test_list_names_everything_there_is(schedbench: Command) -> None:
    text = schedbench("list")
    data = schedbench("list", "--json")
    assert (text.returncode, complaints(text), data.returncode, complaints(data)) == (0, [], 0, [])
    shown = json.loads(data.stdout)
    expected = {
        (system.name, variant.name): variant.name in system.default
        for system in discovery.systems().values()
        for variant in system.variants.values()
    }
    assert {(row["system"], row["variant"]): row["default"] for row in shown["systems"]} == expected
    for row in shown["systems"]:
        assert f"{row['system']}:{row['variant']}" in text.stdout
        assert row["available"] or row["reason"]
        assert row["guarantee"]
    scenarios = discovery.scenarios()
    assert set(shown["scenarios"]) == set(scenarios)
    for name, described in shown["scenarios"].items():
        assert name in text.stdout
        assert set(described["parameters"]) == set(scenarios[name].parameters)


def test_list_teaches_parity(schedbench: Command) -> None:
    assert schedbench("list").stdout.splitlines()[-1].endswith("schedbench list --parity celery rq")
    some = schedbench("list", "celery:redis", "rq").stdout
    assert some.splitlines()[-1].endswith("schedbench list --parity celery:redis rq")
    assert "celery:rabbitmq" not in some
    assert "rq:redis-simple" in some
    assert "--parity" in schedbench("list", "--help").stdout


def test_list_json_has_parity_and_changed_settings(schedbench: Command) -> None:
    shown = json.loads(schedbench("list", "--json", "dramatiq").stdout)["systems"]
    own = discovery.systems()["dramatiq"].variants
    assert [row["variant"] for row in shown] == list(own)
    for row in shown:
        variant = own[row["variant"]]
        assert {key: one["link"] for key, one in row["parity"].items()} == {
            key: one.link for key, one in variant.parity.items()
        }
        assert {key: one["value"] for key, one in row["changed"].items()} == {
            key: one.value for key, one in variant.changed.items()
        }


def rows_of(text: str, system: str) -> list[list[str]]:
    """The rows of a system's table in `list --parity`, and below them its links."""
    own = text.partition(f"{system} (")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in own.splitlines() if "│" in line]


def test_parity_says_each_fact_once_with_its_variants_and_the_vendor_s_page(schedbench: Command) -> None:
    done = schedbench("list", "--parity", "rq", "schedule")
    assert (done.returncode, complaints(done)) == (0, [])
    text = done.stdout
    rows = rows_of(text, "RQ")
    variants = discovery.systems()["rq"].variants
    for key, words in PARITY.items():
        fact = variants["redis"].parity[key]
        [row] = [row for row in rows if row[2].startswith(f"{fact.words} [")]
        assert row[0] == words
        assert row[1] == ("redis" if key == "runs_in" else "all")
        number = row[2].rpartition(" ")[2]
        assert f"\n  {number} {fact.link}\n" in text
    simple = variants["redis-simple"]
    assert ["", "redis-simple"] in [
        row[:2] for row in rows if row[2].startswith(simple.parity["runs_in"].words)
    ]
    change = simple.changed["--worker-class"]
    [row] = [row for row in rows if row[0] == "--worker-class"]
    assert row[1] == "redis-simple"
    assert row[2].startswith(f"{change.value}: {change.why} [")
    guarantee = next(row for row in rows_of(text, "schedule") if row[0] == "delivery guarantee")
    assert guarantee[1:] == ["all", "none [1,2,3]"]


def test_parity_calls_more_than_half_the_variants_the_others(schedbench: Command) -> None:
    rows = rows_of(schedbench("list", "--parity", "celery").stdout, "Celery")
    place = next(i for i, row in enumerate(rows) if row[0] == PARITY["slots"])
    assert [row[1] for row in rows[place : place + 2]] == ["redis-threads", "the others"]


def test_parity_without_a_name_shows_every_system_and_no_floor(schedbench: Command) -> None:
    shown = schedbench("list", "--parity", COLUMNS=f"{cli.PLAIN_WIDTH}").stdout
    tables = [line for line in shown.splitlines() if not line.startswith("  [")]
    assert max(map(len, tables)) <= cli.PLAIN_WIDTH
    for system in discovery.systems().values():
        assert (f"{system.title} ({system.family})" in shown) is (system.family != "floor"), system.name
    named = schedbench("list", "--parity", "reference").stdout
    assert "Reference queue (floor)" in named
    assert "not declared" in named


def test_parity_of_an_adapter_that_declares_none_says_so(schedbench: Command) -> None:
    done = schedbench("list", "--parity", str(ROOT / "tests" / "example_adapter.py"))
    assert done.returncode == 0
    rows = [row for row in rows_of(done.stdout, "") if row[0] in PARITY.values()]
    assert [row[1:] for row in rows] == [["all", "not declared"]] * len(PARITY)
    assert schedbench("list", "nothing-like-it").returncode == 2


def test_doctor(schedbench: Command) -> None:
    text = schedbench("doctor")
    data = schedbench("doctor", "--json")
    assert (text.returncode, complaints(text), data.returncode, complaints(data)) == (0, [], 0, [])
    checks = {check["name"]: check for check in json.loads(data.stdout)}
    assert {
        "Python",
        "CPU",
        "load",
        "noise",
        "timers",
        "memory",
        "CPU accounting",
        "results",
        "redis",
    } <= set(checks)
    for name, check in checks.items():
        assert name in text.stdout
        assert check["state"] in {"ok", "note", "missing"}
        assert check["found"]
        assert check["state"] != "missing" or check["advice"] or check["found"]
    assert not list(schedbench.folder.iterdir())


def test_a_record_does_not_say_where_it_was_put() -> None:
    words = ["run", "rq", "--results", "/home/me/runs", "--trials", "2", "--results=/mnt/runs"]
    assert session._without_folder(words) == ["run", "rq", "--trials", "2"]


def test_without_a_terminal_a_long_step_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    out, now_s = io.StringIO(), [0.0]
    monkeypatch.setattr("bench.progress.time.monotonic", lambda: now_s[0])
    with progress.StepProgress(Console(file=out, width=200), {"cell": 3600.0}) as steps:
        steps.begin("cell", "celery:redis soak")
        steps.doing("soak")
        for now_s[0] in (300.0, 900.0, 1200.0, 1800.0):
            steps.doing("")
    assert out.getvalue().splitlines() == [
        "      still   0/1 celery:redis soak  soak: 15:00 so far, about 45:00 left",
        "      still   0/1 celery:redis soak  soak: 30:00 so far, about 30:00 left",
    ]


def test_what_is_left_is_told_by_the_pace_of_steps_of_the_same_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr("bench.progress.time.monotonic", lambda: now_s[0])
    estimates = {"fast 1": 30.0, "slow 1": 50.0, "fast 2": 30.0, "slow 2": 50.0, "other": 40.0}
    kinds = {step: step[:4] for step in estimates if step != "other"}
    left_s = []
    with progress.StepProgress(Console(file=io.StringIO()), estimates, kinds) as steps:
        left_s.append(steps.left_s())
        for step, took_s in (("slow 1", 250.0), ("fast 1", 30.0)):
            steps.begin(step, step)
            now_s[0] += took_s
            steps.end(step, "ok", "green", "")
            left_s.append(steps.left_s())
    assert left_s == [200.0, 5 * 150.0, 5 * 50.0 + 30.0 + 280 / 80 * 40.0]


# --- a run from end to end ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every scenario on the reference system, twice."""
    command = Command(tmp_path_factory.mktemp("reference"))
    scenarios = discovery.scenarios()
    sets = [f"{key}={value}" for key, value in TINY.items()]
    sets += [f"{name}.{key}={value}" for name, own in ONLY.items() for key, value in own.items()]
    words = ["run", "reference", "--trials", "2", "--slots", "2", "--seed", "7"]
    for name in scenarios:
        words += ["--scenario", name]
    for word in sets:
        words += ["--set", word]
    done = command(*words)
    assert (done.returncode, complaints(done)) == (0, []), done.stdout + done.stderr
    (run,) = (command.folder / "results").iterdir()
    assert f"schedbench report {run.name}" in done.stdout
    assert done.stdout.count(" ok ") >= 2 * len(scenarios)
    return run


def cells(run: Path) -> dict[str, dict[str, Any]]:
    return {file.parent.name: json.loads(file.read_text()) for file in run.glob("cells/*/cell.json")}


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_of_a_run(reference: Path) -> None:
    assert {path.name for path in reference.iterdir()} == {"run.json", "cells", "summary.csv"}
    folders = list((reference / "cells").iterdir())
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {
            "cell.json",
            "events.parquet",
            "tasks.parquet",
            "resources.parquet",
            "logs",
        }
    assert {cell["cell"]["scenario"] for cell in cells(reference).values()} == set(discovery.scenarios())


def test_run_json(reference: Path) -> None:
    info = json.loads((reference / "run.json").read_text())
    assert info["format"] == 1
    assert info["run_id"] == reference.name
    assert info["command"].startswith("schedbench run --no-calibration reference --trials 2")
    assert (info["seed"], info["slots"], info["trials"]) == (7, 2, 2)
    assert info["cells_done"] == info["cells_planned"] == len(cells(reference))
    assert info["interrupted"] is False
    assert {"cpu", "cores", "memory_bytes", "kernel", "python"} <= set(info["machine"])
    assert set(info["systems"]) == {"reference"}


def test_cells(reference: Path) -> None:
    for name, record in cells(reference).items():
        if record["cell"]["scenario"] in WITHOUT_TASKS:
            continue
        assert (record["format"], record["status"], record["reason"]) == (1, "ok", ""), name
        metrics = {metric["name"]: metric for metric in record["metrics"]}
        submitted = metrics["tasks_ok"]["n"]
        assert metrics["tasks_ok"]["value"] == submitted > 0
        assert (
            sum(metrics[f"tasks_{fate}"]["value"] for fate in Fate if fate is not Fate.CUT_OFF) == submitted
        )
        assert metrics["negative_latencies"]["value"] == 0


def test_recorded_tables(reference: Path) -> None:
    for folder in (reference / "cells").iterdir():
        assert tuple(pq.read_schema(folder / "events.parquet").names) == EVENT_COLUMNS
        assert tuple(pq.read_schema(folder / "resources.parquet").names) == COLUMNS
        tasks = pq.read_table(folder / "tasks.parquet").to_pandas()
        measured = tasks[tasks["phase"] > 0]
        assert len(measured) > 0 or folder.name.split(".")[2] in WITHOUT_TASKS
        assert (measured["ends"] == 1).all()


def test_summary(reference: Path) -> None:
    found = rows(reference)
    assert tuple(found[0]) == SUMMARY_COLUMNS
    assert {row["run_id"] for row in found} == {reference.name}
    assert {row["trial"] for row in found} == {"1", "2", ""}
    headlines = {
        "throughput",
        "dispatch_latency_p95",
        "idle_pss.total",
        "cpu_efficiency",
        "startup",
        "submit_rate",
    }
    assert headlines <= {row["metric"] for row in found}
    keys = [(row["scenario"], row["params"], row["trial"], row["metric"]) for row in found]
    assert len(set(keys)) == len(keys)
    for scenario, params, trial, metric in keys:
        # Shares of a rate are offered only in a trial that found a rate: one step may find none.
        if not trial and not (scenario == "capacity" and "_at" in metric):
            assert (scenario, params, "1", metric) in keys
            assert (scenario, params, "2", metric) in keys


def test_nothing_is_left_to_do(reference: Path) -> None:
    before = (reference / "summary.csv").read_text()
    done = Command(reference.parent.parent)("run", "--resume", "latest")
    assert done.returncode == 0
    assert "nothing left to do" in done.stdout
    assert (reference / "summary.csv").read_text() == before


def test_report(reference: Path, tmp_path: Path) -> None:
    done = Command(reference.parent.parent)("report", "--out", str(tmp_path / "out"))
    assert (done.returncode, complaints(done)) == (0, [])
    assert "Reference queue" in done.stdout or "reference" in done.stdout
    suffixes = {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {".html", ".md", ".csv", ".svg", ".png"} <= suffixes


@pytest.mark.parametrize("format_", ["terminal", "markdown"])
def test_report_of_a_run_given_by_its_path(reference: Path, tmp_path: Path, format_: str) -> None:
    done = Command(tmp_path)("report", str(reference), "--format", format_, "--out", str(tmp_path / "out"))
    assert (done.returncode, complaints(done)) == (0, [])
    assert list((tmp_path / "out").rglob("*.html")) == []


def test_results_folder_may_be_relative_or_absolute(schedbench: Command, tmp_path: Path) -> None:
    words = ("run", "reference", "--trials", "1", "--scenario", "startup", "--results")
    for folder in ("some/where", str(tmp_path / "else")):
        assert schedbench(*words, folder).returncode == 0
        (run,) = (tmp_path / folder).iterdir()
        assert {cell["status"] for cell in cells(run).values()} == {"ok"}
