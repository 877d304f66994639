"""The reports, on a run of made-up figures that is written through the store. Nothing here was measured."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bench import discovery, ledger
from bench.errors import StoreError
from bench.model import PARITY, Cell, Kind, Metric, Role, Status
from bench.stats import Interval
from bench.store import EVENT_COLUMNS, Store, create, read_run
from reports import calibration, look, marks, published, schedules, survey
from reports.further import further_tables
from reports.latencies import by_variant
from reports.lines import Line, Section
from reports.marks import ABOUT, DAGGER, Mark
from reports.measured import Subject
from reports.provenance import trust, warnings
from reports.published import Verdict, Word
from reports.ranking import AT_FLOOR, NO_FLOOR, ranked
from reports.render import excerpt, report
from reports.survey import sections
from reports.surveytables import survey_table
from reports.tables import NONE, Entry, Table, number


@dataclass(frozen=True)
class Fake:
    system: str
    variant: str
    title: str
    family: str
    guarantee: str
    rate: float
    latency_ms: float
    efficiency: float
    memory_mb: tuple[float, ...]

    @property
    def in_process(self) -> bool:
        return len(self.memory_mb) == 1

    @property
    def memory(self) -> dict[str, float]:
        return dict(zip(STACK, self.memory_mb, strict=False))


PAGE = "https://example.org/docs"
STACK = ("client", "worker", "broker")
FAKES = (
    Fake("apscheduler", "thread-pool", "APScheduler", "timer", "none", 11_800, 0.4, 91, (41,)),
    Fake("apscheduler", "process-pool", "APScheduler", "timer", "none", 3_100, 1.1, 84, (96,)),
    Fake("schedule", "poll-1s", "schedule", "timer", "none", 90_000, 950, 97, (22,)),
    Fake("schedule", "tight", "schedule", "timer", "none", 130_000, 0.05, 40, (22,)),
    Fake("celery", "redis", "Celery", "task queue", "at-most-once", 980, 3.1, 82, (48, 120, 9)),
    Fake("dramatiq", "redis", "Dramatiq", "task queue", "at-least-once", 3_300, 18, 79, (30, 90, 9)),
    Fake("rq", "redis", "RQ", "task queue", "at-least-once", 80, 13, 51, (31, 38, 9)),
    Fake("rq", "redis-simple", "RQ", "task queue", "at-least-once", 84, 6, 77, (31, 36, 9)),
    Fake("reference", "threads", "Reference queue", "floor", "none", 190_000, 0.08, 99, (18,)),
    Fake("floor_redis", "redis", "Raw Redis", "floor", "at-most-once", 21_000, 0.2, 98, (22, 25, 9)),
)
DEFAULTS = {
    "schedule": ["poll-1s", "tight"],
    "apscheduler": ["thread-pool", "process-pool"],
    "rq": ["redis"],
}


def info(fakes: tuple[Fake, ...] = FAKES) -> dict[str, Any]:
    systems: dict[str, Any] = {}
    for fake in fakes:
        about = systems.setdefault(
            fake.system,
            {
                "title": fake.title,
                "family": fake.family,
                "homepage": f"https://example.org/{fake.system}",
                "variants": {},
                "default": DEFAULTS.get(fake.system, [fake.variant]),
                "packages": {fake.system: "0.0"},
            },
        )
        about["variants"][fake.variant] = {
            "summary": "made up",
            "guarantee": fake.guarantee,
            "source": f"https://example.org/{fake.system}/{fake.variant}",
            "services": [] if fake.in_process else ["redis"],
            "settle_s": 10.0 if fake.system == "celery" else 3.0,
            "parity": {key: {"words": f"{fake.system} {key}", "link": f"{PAGE}#{key}"} for key in PARITY},
            "changed": {
                "--concurrency": {"value": "slots", "why": "the same for all", "link": f"{PAGE}#c"},
                f"only-{fake.variant}": {"value": "on", "why": "what it costs", "link": f"{PAGE}#o"},
            },
        }
    return {
        "command": "schedbench run --seed 7",
        "schedbench": "0.0",
        "profile": "made-up",
        "seed": 7,
        "slots": 2,
        "trials": 6,
        "machine": {
            "cpu": "Imaginary CPU",
            "cores": 2,
            "memory_bytes": 2**34,
            "kernel": "0",
            "python": "3.11",
        },
        "services": {"redis": {"version": "0.0", "provider": "embedded"}},
        "systems": systems,
        "cells_planned": 100,
        "cells_done": 99,
        "wall_s": 200.0,
        "measuring_s": 150.0,
        "interrupted": False,
    }


def events(fake: Fake, trial: int, n: int, warmup_n: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng([trial, int(fake.rate)])
    first = 1 << 32
    due_ns = np.arange(n + warmup_n) * 10_000_000
    late_ns = (rng.lognormal(np.log(fake.latency_ms / 2), 0.45, n + warmup_n) * 1e6).astype(np.int64)
    late_ns[:warmup_n] = 3_600_000_000_000  # would be seen at once if the warm-up were counted
    rows = []
    for i in range(n + warmup_n):
        rows.append((first | i, due_ns[i] + 1000, due_ns[i], 1, 0, Kind.SUBMIT, 0))
        rows.append((first | i, due_ns[i] + late_ns[i], 0, 2, 0, Kind.START, 0))
    return np.array(rows, dtype=[(name, "<i8") for name in EVENT_COLUMNS])


def fates(n: int, **other: int) -> Iterator[Metric]:
    counts = {
        "ok": n - sum(other.values()),
        "late": 0,
        "failed": 0,
        "lost": 0,
        "duplicated": 0,
        "refused": 0,
        "unexpected": 0,
        **other,
    }
    for name, count in counts.items():
        yield Metric(f"tasks_{name}", "count", count, n)
    yield Metric("negative_latencies", "count", 0, n)


def around(value: float, trial: int) -> float:
    """Six made-up trials, a few per cent apart."""
    return value * (1 + 0.012 * (trial * 5 % 7 - 3))


def quantile(percent: int, value: float, n: int, note: str = "") -> Metric:
    few = "" if n >= {50: 100, 95: 1000, 99: 10_000}[percent] else f"n < {1000 if percent == 95 else 10_000}"
    marks = "; ".join(part for part in (note, few) if part)
    return Metric(f"dispatch_latency_p{percent}", "ms", value, n, value * 0.97, value * 1.04, marks)


def fabricate(results: Path, fakes: tuple[Fake, ...] = FAKES, trials: int = 6) -> Store:
    """Write a run of made-up figures, with failures, partial trials, marks and raw latency events."""
    store = create(results, info(fakes))
    for fake in fakes:
        for trial in range(1, trials + 1):
            for cell, metrics, raw in cells(fake, trial):
                store.cell_folder(cell)
                broken = (fake.system, cell.scenario) == ("dramatiq", "throughput") and trial in (2, 5)
                if broken:
                    store.write_cell(
                        cell, Status.TIMEOUT, "drain not over after 120 s", list(fates(1000, lost=3)), {}
                    )
                elif (fake.variant, cell.scenario) == ("redis-simple", "memory"):
                    store.write_cell(cell, Status.ERROR, "worker exited with code 1", [], {})
                else:
                    tasks = None if raw is None else ledger.per_task(raw.astype(ledger.EVENT))
                    store.write_cell(cell, Status.OK, "", metrics, {}, raw, tasks)
    store.write_summary()
    return store


def cells(fake: Fake, trial: int) -> Iterator[tuple[Cell, list[Metric], np.ndarray[Any, Any] | None]]:
    def cell(scenario: str, **params: Any) -> Cell:
        return Cell(fake.system, fake.variant, scenario, params, trial)

    for params in ({"tasks": 1000}, {"seconds": 5.0}):
        rate = Metric("throughput", "tasks/s", around(fake.rate, trial), 1000)
        submit = Metric("submit_rate", "tasks/s", around(fake.rate * 2, trial), 1000)
        yield cell("throughput", **params), [*fates(1000), rate, submit], None
    for params in ({"rate": 100.0}, {"rate": 50.0, "arrival": "constant"}, {"load": 0.5}):
        late = around(fake.latency_ms, trial)
        fell_behind = fake.system == "dramatiq" and "load" in params
        note = "invalid: generator fell behind (P99 lag 4.0 ms)" if fell_behind else ""
        n = 400 if fake.system == "rq" else 1000
        metrics = [
            *fates(n),
            quantile(50, late / 2, n, note),
            quantile(95, late, n, note),
            quantile(99, late * 1.5, n, note),
            Metric("dispatch_latency_max", "ms", late * 3, n),
            Metric("generator_lag_p99", "ms", 0.1, n),
            Metric("offered_rate", "tasks/s", 100, n),
        ]
        yield (
            cell("latency", **params),
            metrics,
            events(fake, trial, n, 20) if params == {"rate": 100.0} else None,
        )
    memory = []
    for role, size in {**fake.memory, "total": sum(fake.memory.values())}.items():
        memory += [
            Metric(f"idle_pss.{role}", "MB", around(size, trial), 8),
            Metric(f"idle_rss.{role}", "MB", around(size * 1.4, trial), 8),
            Metric(
                f"processes.{role}", "count", {"worker": 3, "total": len(fake.memory) + 2}.get(role, 1), 8
            ),
        ]
    memory += [Metric("loaded_pss.total", "MB", around(sum(fake.memory.values()) * 1.2, trial), 8)]
    memory += [Metric("components", "count", len(fake.memory), len(fake.memory))]
    yield cell("memory", idle_s=2.0), [*fates(200), *memory], None
    for ms, share in ((1.0, 0.6), (10.0, 1.0), (50.0, 1.05)):
        value = min(99.5, around(fake.efficiency * share, trial))
        note = "lower bound: no control groups here"
        metrics = [
            Metric("cpu_efficiency", "%", value, 300, note=note),
            Metric("cpu_per_task.total", "ms", ms * 100 / value, 300, note=note),
            Metric("idle_cpu.total", "ms/s", around(1.5, trial), 1, note=note),
        ]
        yield cell("cpu", work_ms=ms), [*fates(300), *metrics], None
    for start, factor in (("cold", 3.0), ("warm", 1.0)):
        seconds = around(0.2 + fake.latency_ms / 40, trial) * factor
        yield cell("startup", start=start), [*fates(1), Metric("startup", "s", seconds, 1)], None


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricate(tmp_path_factory.mktemp("run")).path


@pytest.fixture(scope="module")
def written(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    report(made_up, {"markdown", "csv", "html"}, out, Console(file=io.StringIO()))
    return out


@pytest.fixture(scope="module")
def found(made_up: Path) -> dict[str, Section]:
    return {section.key: section for section in sections(read_run(made_up))}


def line(section: Section, system: str, variant: str, part: str = "") -> Line:
    [one] = [x for x in section.lines if (*x.subject.key, x.part) == (system, variant, part)]
    return one


# --- verdicts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "value", "ends", "reason", "expected"),
    [
        (850, 1200, 900, (880, 920), "", "within"),
        (850, 1200, 850, (None, None), "", "within"),
        (850, 1200, 700, (650, 760), "", "below"),
        (850, 1200, 1500, (1400, 1600), "", "above"),
        (850, 1200, 840, (800, 860), "", "within (its interval reaches the range)"),
        (850, 1200, 1210, (1190, 1300), "", "within (its interval reaches the range)"),
        (850, 1200, 840, (None, None), "", "not comparable (one trial has no interval)"),
        (None, 5, 0.4, (0.3, 0.5), "", "within"),
        (None, 5, 7, (6, 8), "", "above"),
        (3, None, 3, (3, 3), "", "within"),
        (3, None, 100, (90, 110), "", "within"),
        (3, None, 1, (1, 1), "", "below"),
        (None, None, 5, (4, 6), "", "not comparable (the survey gives no number)"),
        (850, 1200, 900, (1, 2), "invalid: too late", "not comparable (invalid: too late)"),
        (850, 1200, 900, (1, 2), "1 trial; n < 1000", "not comparable (n < 1000)"),
        (850, 1200, 900, (880, 920), "1 trial", "within"),
        (850, 1200, 900, (880, 920), "lower bound: no control groups here", "within"),
        (1, 9, 5, (4, 6), "11 of 1000 tasks did not end", "not comparable (11 of 1000 tasks did not end)"),
        (1, 9, 5, (4, 6), "10 of 1000 tasks did not end", "within"),
        (1, 9, 5, (4, 6), "1 of 3 trials failed: x", "not comparable (1 of 3 trials failed: x)"),
    ],
)  # fmt: skip
def test_verdict(
    low: float | None, high: float | None, value: float, ends: Any, reason: str, expected: str
) -> None:
    assert str(published.verdict(low, high, Interval(value, *ends, 6, 0.95), reason)) == expected


def test_a_figure_that_was_not_measured_has_the_reason_as_its_verdict() -> None:
    assert str(published.verdict(1, 2, None, "timeout: slow")) == "not comparable (timeout: slow)"


@pytest.mark.parametrize(
    ("value", "word"), [(7.2, "within"), (8.8, "within"), (7.19, "below"), (8.81, "above")]
)
def test_a_single_published_number_stands_for_itself_ten_per_cent_either_way(value: float, word: str) -> None:
    [figure] = [figure for figure in published.load() if figure.id == "s2-memory-schedule-process"]
    assert figure.text == "8"
    assert str(published.judge(figure, Interval(value, value, value, 6, 0.95), "")) == word


@pytest.mark.parametrize(
    ("id_", "text"),
    [
        ("s2-throughput-celery-redis", "850\N{EN DASH}1,200"),
        ("s2-throughput-schedule", "no number"),
        ("s2-latency-apscheduler", "≤ 5"),
        ("s2-infra-celery", "≥ 3"),
    ],
)
def test_a_published_range_is_shown_as_it_was_published(id_: str, text: str) -> None:
    assert [figure.text for figure in published.load() if figure.id == id_] == [text]


# --- what stands beside what ----------------------------------------------------------------------------


def test_a_figure_with_a_variant_is_held_against_that_variant(found: dict[str, Section]) -> None:
    throughput = found["throughput"]
    for variant in ("thread-pool", "process-pool"):
        own = line(throughput, "apscheduler", variant).published
        assert own is not None
        assert own.id == f"s2-throughput-apscheduler-{variant}"
    assert str(line(throughput, "celery", "redis").verdict) == "within"


def test_a_figure_without_a_variant_is_held_against_every_default_variant(found: dict[str, Section]) -> None:
    latency = found["latency"]
    assert (
        line(latency, "apscheduler", "thread-pool").published
        == line(latency, "apscheduler", "process-pool").published
    )
    assert str(line(latency, "schedule", "tight").verdict) == "within"
    assert str(line(latency, "schedule", "poll-1s").verdict) == "above"


def test_systems_that_the_survey_leaves_out_have_no_verdict(found: dict[str, Section]) -> None:
    assert str(line(found["throughput"], "dramatiq", "redis").verdict) == ""


def test_published_systems_that_were_not_measured_are_listed_without_a_figure(
    found: dict[str, Section],
) -> None:
    rabbit = line(found["throughput"], "celery", "rabbitmq")
    assert (rabbit.interval, str(rabbit.verdict)) == (None, "not measured")
    for key in ("throughput", "latency", "cpu", "components"):
        missing = {x.subject.system for x in found[key].lines if x.verdict.word is Word.NOT_MEASURED}
        assert {"airflow", "dagster", "prefect", "temporal"} <= missing


def test_memory_holds_rss_against_rss_and_says_over_how_many_processes(found: dict[str, Section]) -> None:
    memory = found["memory"]
    worker = line(memory, "celery", "redis", "worker")
    assert worker.interval is not None
    rss = worker.beside["rss"].interval
    assert rss is not None
    assert rss.value > worker.interval.value
    assert str(worker.verdict) == "above (RSS summed over 3 processes)"
    assert str(line(memory, "celery", "redis", "broker").verdict) == "below"
    assert str(line(memory, "schedule", "tight", "client").verdict) == "above"


def test_cpu_is_compared_at_ten_ms_with_the_reservation_that_the_survey_gives_no_length(
    found: dict[str, Section],
) -> None:
    assert found["cpu"].condition == "10 ms of work"
    assert "the survey gives no task length" in str(line(found["cpu"], "celery", "redis").verdict)


def test_another_condition_than_the_surveys_is_not_comparable(tmp_path: Path) -> None:
    store = create(tmp_path, info())
    cell = Cell("celery", "redis", "throughput", {"tasks": 5000}, 1)
    store.write_cell(cell, Status.OK, "", [Metric("throughput", "tasks/s", 1000, 5000)], {})
    section = sections(read_run(store.path))[0]
    verdict = str(line(section, "celery", "redis").verdict)
    assert verdict == "not comparable (the survey drained 1000 no-op tasks)"


# --- what cannot stand beside what ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "variant", "called"),
    [
        ("temporal", "memory", "local"),
        ("temporal", "memory-activities", "local"),
        ("temporal", "sqlite", "local"),
        ("temporal", "external", "cluster"),
        ("prefect", "sqlite", "local"),
        ("prefect", "postgresql-tasks", "local"),
        ("prefect", "background", "local"),
        ("celery", "rabbitmq", "rabbitmq"),
        ("celery", "redis-threads", ""),
        ("apscheduler", "process-pool", "process-pool"),
        ("apscheduler", "process-pool-sqlite", ""),
    ],
)
def test_a_variant_stands_beside_what_the_survey_calls_by_another_name(
    system: str, variant: str, called: str
) -> None:
    subject = Subject(system, variant, system, "", "none", False, False)
    own = published.find(published.load(), "S2 throughput", subject, "throughput")
    assert (own.variant if own else "") == called


def test_every_published_variant_of_a_system_that_ships_can_be_measured_or_says_why_not() -> None:
    systems = discovery.systems()
    tables = {question.table for question in survey.QUESTIONS} | {survey.MEMORY_TABLE}
    asked = [figure for figure in published.load() if figure.table in tables and figure.system in systems]
    assert len(asked) > 30
    for figure in asked:
        system = systems[figure.system]
        known = [
            Subject(system.name, name, system.title, "", "none", name in system.default, False)
            for name in system.variants
        ]
        beside = any(published.concerns(figure, subject) for subject in known)
        assert beside or published.unmeasured(figure).why, figure.id


def test_what_one_machine_cannot_be_is_not_comparable_here_and_says_why(found: dict[str, Section]) -> None:
    cluster = line(found["throughput"], "temporal", "cluster")
    assert str(cluster.verdict).startswith("not comparable here (a cluster of several machines")
    assert (
        str(line(found["throughput"], "prefect", "cloud").verdict) == "not comparable here (a hosted service)"
    )
    server = line(found["memory"], "temporal", "cluster", "server")
    assert (server.verdict.word, server.asked, server.group) == (Word.NOT_HERE, False, "not measured")
    assert str(line(found["throughput"], "temporal", "local").verdict) == "not measured"


def orchestrated(results: Path, **variants: list[tuple[str, dict[str, Any], list[Metric] | str]]) -> Path:
    """A run of Temporal, one trial: by variant its scenarios, params, and figures or why it was not asked."""
    about = {
        "title": "Temporal",
        "family": "orchestrator",
        "default": list(variants),
        "variants": {
            name: {"guarantee": "at-least-once", "services": ["temporal"] if name == "memory" else []}
            for name in variants
        },
    }
    store = create(results, {**info(()), "systems": {"temporal": about}})
    for name, own in variants.items():
        for scenario, params, outcome in own:
            for trial in (1, 2):
                cell = Cell("temporal", name, scenario, params, trial)
                if isinstance(outcome, str):
                    words = outcome.format(trial)
                    store.write_cell(cell, Status.UNSUPPORTED, words, [], {})
                else:
                    store.write_cell(cell, Status.OK, "", outcome, {})
    store.write_summary()
    return store.path


def rate(value: float, n: int = 1000) -> list[Metric]:
    return [*fates(n), Metric("throughput", "tasks/s", value, n)]


def test_a_verdict_on_a_drain_of_other_than_a_thousand_tasks_says_so(tmp_path: Path) -> None:
    drain: dict[str, Any] = {"tasks": 1000}
    path = orchestrated(
        tmp_path,
        memory=[("throughput", drain, rate(3, 60))],
        sqlite=[("throughput", drain, rate(600))],
        external=[("throughput", drain, rate(3000))],
    )
    section = sections(read_run(path))[0]
    said = {x.subject.variant: str(x.verdict) for x in section.lines if x.asked}
    assert said == {
        "memory": "below (a drain of 60 tasks, not 1000)",
        "sqlite": "within",
        "external": "within (provided that a cluster answers at the address)",
    }
    assert [x.published.id for x in section.lines if x.published and x.asked] == [
        "s2-throughput-temporal-cluster", "s2-throughput-temporal-local", "s2-throughput-temporal-local",
    ]  # fmt: skip


BATCHES = "its tasks are handed over in batches"


def test_what_could_not_be_asked_is_no_failure_and_says_why_once(tmp_path: Path) -> None:
    path = orchestrated(
        tmp_path,
        memory=[("memory", {}, [Metric("idle_rss.worker", "MB", 300, 8)])],
        activities=[("memory", {}, BATCHES), ("throughput", {"tasks": 1000}, rate(600))],
    )
    found = {section.key: section for section in sections(read_run(path))}
    asked = line(found["memory"], "temporal", "activities")
    assert (asked.interval, asked.reason, asked.status) == (None, BATCHES, "unsupported")
    assert str(asked.verdict) == f"not comparable here ({BATCHES})"
    assert asked.group == "at-least-once"
    shown = survey_table(found["memory"])
    assert shown.notes.count(BATCHES) == 1
    [entry] = [row[-1] for group in shown.groups for row in group.rows if row[2].text == "activities"]
    assert (entry.text, entry.sub) == ("not comparable here", "")
    tables = {table.key: table for table in further_tables(read_run(path))}
    assert "failures" not in tables
    [record] = tables["unsupported"].records
    names = ("system", "variant", "scenario", "trials", "reason")
    assert [record[name] for name in names] == ["temporal", "activities", "memory", 2, BATCHES]
    [fate] = tables["fates"].records
    assert (fate["variant"], fate["trials_ok"]) == ("activities", "2 of 2")


ABOVE = "50 tasks/s are above its capacity ({} tasks/s in a burst of this cell): latency would tell nothing"


def latency(ms: float) -> list[Metric]:
    return [Metric("dispatch_latency_p95", "ms", ms, 1000)]


def test_a_rate_that_a_variant_does_not_reach_gives_way_to_a_share_of_its_capacity(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"rate": 50.0}
    path = orchestrated(
        tmp_path,
        memory=[("latency", asked, latency(64)), ("latency", {"load": 0.5}, latency(90))],
        sqlite=[
            ("latency", asked, ABOVE),
            ("latency", {"load": 0.9}, latency(900)),
            ("latency", {"load": 0.5}, latency(300)),
            ("latency", {"load": 0.5, "arrival": "constant"}, latency(200)),
        ],
        external=[("latency", asked, ABOVE)],
    )
    section = next(section for section in sections(read_run(path)) if section.key == "latency")
    assert section.unit == "ms"
    values = {x.subject.variant: x.interval.value if x.interval else None for x in section.lines if x.asked}
    assert values == {"memory": 64, "sqlite": 300, "external": None}
    own = line(section, "temporal", "sqlite")
    assert own.reason.endswith("; offered 50% of its capacity: " + ABOVE.partition(":")[0].format(1))
    assert (own.rank, own.unranked) == ("", "a lower load than the others")
    assert own.verdict.word is Word.WITHIN
    assert "a share of the capacity" in section.condition
    assert line(section, "temporal", "external").verdict.word is Word.NOT_HERE


def test_what_must_be_there_before_is_beside_startup(tmp_path: Path) -> None:
    def took(**steps: float) -> list[tuple[str, dict[str, Any], list[Metric] | str]]:
        before = [Metric(f"set_up.{step}", "s", seconds, 1) for step, seconds in steps.items()]
        return [("startup", {"start": "warm"}, [*fates(1), Metric("startup", "s", 2.0, 1), *before])]

    path = orchestrated(tmp_path, memory=took(services=0.4), sqlite=took(migration=9.0, servers=5.0))
    [table] = [table for table in further_tables(read_run(path)) if table.key == "startup"]
    heads = [column.label for column in table.columns]
    assert heads[2:] == ["Startup, s", "Services, s", "Migration, s", "Servers, s", "n"]
    rows = {row[1].text: [entry.text for entry in row[2:-1]] for group in table.groups for row in group.rows}
    assert rows == {"memory": ["2.00", "0.400", NONE, NONE], "sqlite": ["2.00", NONE, "9.00", "5.00"]}


def test_every_role_and_every_system_that_ships_has_a_colour_of_its_own() -> None:
    assert set(look.ROLES) == set(Role) - {Role.HARNESS}
    assert len(set(look.ROLES.values())) == len(look.ROLES)
    systems = [system for system in discovery.systems().values() if system.family != "floor"]
    assert len(set(look.PALETTE)) == len(look.PALETTE) >= len(systems)


# --- what is compared with what ---------------------------------------------------------------------------


def test_parity_has_a_row_for_every_variant_that_is_no_floor_with_its_guarantee_and_links(
    made_up: Path,
) -> None:
    [table] = [table for table in all_tables(made_up) if table.key == "parity"]
    systems = {fake.system: fake.family for fake in FAKES}
    own = [fake for fake in FAKES if systems[fake.system] != "floor"]
    assert [record["variant"] for record in table.records] == [fake.variant for fake in own]
    assert [group.title for group in table.groups] == ["Timers", "Task queues"]
    assert len(table.columns) == 3 + len(PARITY)
    for fake, record in zip(own, table.records, strict=True):
        assert (record["system"], record["guarantee"]) == (fake.system, fake.guarantee)
        assert record["guarantee_link"] == f"https://example.org/{fake.system}/{fake.variant}"
        for key in PARITY:
            assert (record[key], record[f"{key}_link"]) == (f"{fake.system} {key}", f"{PAGE}#{key}")
    rows = {tuple(entry.text for entry in row[:2]): row for group in table.groups for row in group.rows}
    assert ("APScheduler", "thread-pool") in rows
    assert {entry.tone for entry in rows["APScheduler", "thread-pool"][2:]} == {""}
    assert {entry.tone for entry in rows["", "process-pool"][2:]} == {"repeated"}


def test_settings_are_told_once_with_the_variants_that_have_them(made_up: Path) -> None:
    [table] = [table for table in all_tables(made_up) if table.key == "changed"]
    rows = [[entry.text for entry in row] for group in table.groups for row in group.rows]
    assert rows[:3] == [
        ["APScheduler", "--concurrency", "slots", "the same for all", "all"],
        ["", "only-thread-pool", "on", "what it costs", "thread-pool"],
        ["", "only-process-pool", "on", "what it costs", "process-pool"],
    ]
    assert len(table.records) == 2 * sum(fake.family != "floor" for fake in FAKES)
    assert set(table.records[0]) == {"system", "variant", "setting", "value", "why", "link"}


def test_parity_and_settings_are_folded_in_the_page_and_lead_to_the_vendor_in_every_file(
    written: Path,
) -> None:
    page, markdown = (written / "report.html").read_text(), (written / "report.md").read_text()
    with (written / "tables" / "parity.csv").open(newline="") as lines:
        assert next(iter(csv.DictReader(lines)))["slots_link"] == f"{PAGE}#slots"
    for key, words, link in (
        ("parity", "celery slots", f"{PAGE}#slots"),
        ("parity", "at-most-once", "https://example.org/celery/redis"),
        ("changed", "only-redis", f"{PAGE}#o"),
    ):
        section = page.partition(f'<section id="{key}">')[2].partition("</section>")[0]
        assert section.index("<details") < section.index("<table") < section.index("</details>")
        assert f'<a href="{link}">{words}</a>' in section
        assert f"[{words}]({link})" in markdown
    assert markdown.count("<details>") == markdown.count("</details>") == 2


def test_a_run_that_did_not_record_parity_says_nothing_of_it(tmp_path: Path) -> None:
    store = fabricate(tmp_path, FAKES[4:6], trials=1)
    systems = store.info["systems"]
    for about in systems.values():
        for declared in about["variants"].values():
            del declared["parity"], declared["changed"]
    store.update_run(systems=systems)
    assert not {"parity", "changed"} & {table.key for table in further_tables(read_run(store.path))}


def test_what_one_variant_did_not_record_is_told_and_only_addresses_become_links(tmp_path: Path) -> None:
    store = fabricate(tmp_path, FAKES[4:6], trials=1)
    systems = store.info["systems"]
    del systems["celery"]["variants"]["redis"]["parity"]["slots"]
    systems["celery"]["variants"]["redis"]["source"] = "javascript:alert(1)"
    systems["dramatiq"]["variants"]["redis"]["changed"] = {}
    store.update_run(systems=systems)
    tables = {table.key: table for table in further_tables(read_run(store.path))}
    [celery] = [record for record in tables["parity"].records if record["system"] == "celery"]
    assert (celery["slots"], celery["slots_link"], celery["guarantee_link"]) == ("not recorded", "", "")
    rows = [row for group in tables["changed"].groups for row in group.rows if row[0].text == "Dramatiq"]
    assert [entry.text for entry in rows[0]] == ["Dramatiq", "none", NONE, NONE, "all"]
    report(store.path, {"html"}, tmp_path / "out", Console(file=io.StringIO()))
    assert "javascript" not in (tmp_path / "out" / "report.html").read_text()


# --- failures, ranks ------------------------------------------------------------------------------------


def test_a_partial_figure_says_what_is_missing(found: dict[str, Section]) -> None:
    partial = line(found["throughput"], "dramatiq", "redis")
    assert (partial.trials, partial.status) == (4, "partial")
    assert partial.reason.startswith("2 of 6 trials failed: timeout: drain not over after 120 s")


def test_a_system_that_failed_every_time_is_a_line_without_a_figure(found: dict[str, Section]) -> None:
    failed = line(found["memory"], "rq", "redis-simple")
    assert (failed.interval, failed.reason) == (
        None,
        "6 of 6 trials failed: error: worker exited with code 1",
    )


def test_lost_tasks_of_failed_trials_are_counted(made_up: Path) -> None:
    fate = next(table for table in further_tables(read_run(made_up)) if table.key == "fates")
    lost = {(row["system"], row["variant"]): row["lost"] for row in fate.records}
    assert lost["Dramatiq", "redis"] == 12
    assert sum(lost.values()) == 12


def test_failed_trials_are_listed_one_by_one(made_up: Path) -> None:
    failed = next(table for table in further_tables(read_run(made_up)) if table.key == "failures")
    assert len(failed.records) == 4 + 6


def test_only_systems_that_promise_the_same_are_ranked_together(found: dict[str, Section]) -> None:
    ranks = {(x.group, *x.subject.key): x.rank for x in found["throughput"].lines if x.asked}
    assert ranks == {
        ("at-least-once", "dramatiq", "redis"): "",  # some of its trials failed
        ("at-least-once", "rq", "redis-simple"): "1\N{EN DASH}3",
        ("at-least-once", "rq", "redis"): "1\N{EN DASH}3",
        ("at-most-once", "celery", "redis"): "1",
        ("none", "schedule", "tight"): "1",
        ("none", "schedule", "poll-1s"): "2",
        ("none", "apscheduler", "thread-pool"): "3",
        ("none", "apscheduler", "process-pool"): "4",
        ("floor", "reference", "threads"): "",
        ("floor", "floor_redis", "redis"): "",
    }


def one(name: str, value: float, half: float, family: str = "timer", in_process: bool = True) -> Line:
    subject = Subject(name, "v", name, family, "none", True, in_process)
    ends = Interval(value, value - half, value + half, 6, 0.95)
    return Line(subject, "", "ms", ends, 6, "1000", "", "ok", None, Verdict(Word.NOTHING))


def ranks(lines: list[Line], **more: Any) -> list[tuple[str, str]]:
    """Rank and the reason for none, of the systems in order."""
    return [(x.rank, x.unranked) for x in ranked(lines, False, **more) if not x.subject.floor]


def test_what_differs_by_less_than_the_floors_interval_shares_its_places() -> None:
    near = [one("a", 10.0, 0.1), one("b", 10.5, 0.1)]
    assert ranks([*near, one("f", 1.0, 0.1, "floor")]) == [("1", ""), ("2", "")]
    assert ranks([*near, one("f", 1.0, 0.4, "floor")]) == [("1\N{EN DASH}2", "")] * 2


def test_to_be_alike_is_not_transitive_and_no_rank_says_so() -> None:
    chain = [one("a", 10.0, 1.0), one("b", 11.5, 1.0), one("c", 13.0, 1.0), one("f", 1.0, 0.1, "floor")]
    assert [rank for rank, _ in ranks(chain)] == ["1\N{EN DASH}2", "1\N{EN DASH}3", "2\N{EN DASH}3"]


def test_what_is_no_further_from_the_floor_than_its_interval_is_not_ranked() -> None:
    lines = [one("a", 1.2, 0.01), one("b", 1.5, 0.01), one("f", 1.0, 0.1, "floor")]
    assert ranks(lines) == [("", AT_FLOOR), ("2", "")]
    other_kind = [*lines[:2], one("f", 1.0, 0.1, "floor", in_process=False)]
    assert ranks(other_kind) == [("", NO_FLOOR)] * 2


def test_without_floors_of_its_own_a_table_takes_those_of_the_calibration() -> None:
    lines = [one("a", 1.2, 0.01), one("b", 1.5, 0.01)]
    calibrated = {True: [Interval(1.0, 0.9, 1.1, 3, 0.75)]}
    assert ranks(lines) == [("", NO_FLOOR)] * 2
    assert ranks(lines, calibrated=calibrated) == [("", AT_FLOOR), ("2", "")]


def test_a_floor_that_is_invalid_decides_nothing() -> None:
    broken = dataclasses.replace(one("f", 1.2, 0.4, "floor"), reason="invalid: the wall clock was set")
    assert ranks([one("a", 1.2, 0.01), broken]) == [("", NO_FLOOR)]


def test_a_single_trial_has_no_rank(tmp_path: Path) -> None:
    run = read_run(fabricate(tmp_path, FAKES[:3], trials=1).path)
    assert {x.rank for section in sections(run) for x in section.lines} == {""}


def test_too_few_samples_are_marked_not_ranked_and_not_compared(found: dict[str, Section]) -> None:
    rq = line(found["latency"], "rq", "redis")
    assert (rq.rank, rq.reason) == ("", "n < 1000")


# --- formats --------------------------------------------------------------------------------------------


def test_the_terminal_shows_the_five_tables_of_the_survey_and_how_the_run_was_made(made_up: Path) -> None:
    text = io.StringIO()
    report(made_up, {"terminal"}, made_up / "unused", Console(file=text, width=200))
    shown = text.getvalue()
    for title in (
        "Throughput",
        "Idle memory",
        "P95 dispatch latency",
        "CPU efficiency",
        "Processes and services",
    ):
        assert f"\n{title}\n" in shown
    assert "75 % of it measuring" in shown
    assert not (made_up / "unused").exists()


def test_every_format_is_byte_identical_when_written_again(
    made_up: Path, written: Path, tmp_path: Path
) -> None:
    report(made_up, {"markdown", "csv", "html"}, tmp_path / "a" / "b", Console(file=io.StringIO()))
    first = {file.relative_to(written): file for file in written.rglob("*") if file.is_file()}
    again = {
        file.relative_to(tmp_path / "a" / "b"): file
        for file in (tmp_path / "a" / "b").rglob("*")
        if file.is_file()
    }
    assert first.keys() == again.keys()
    for name in first.keys() - {Path("report.html")}:
        assert first[name].read_bytes() == again[name].read_bytes(), name
    links = re.compile(rb'href="[^"#:]*"')  # those to the raw data depend on where the page lies
    pages = [links.sub(b"", files[Path("report.html")].read_bytes()) for files in (first, again)]
    assert pages[0] == pages[1]


def test_the_tables_as_csv_hold_the_figures_of_the_summary_unrounded(made_up: Path, written: Path) -> None:
    summary = read_run(made_up).summary
    with (written / "tables" / "throughput.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["value"]]
    assert len(rows) == len(FAKES)
    for row in rows:
        kept = (
            (summary["system"] == row["system"]) & (summary["variant"] == row["variant"])
            & (summary["metric"] == "throughput") & (summary["params"] == "tasks=1000")
            & (summary["trial"] == "")
        )  # fmt: skip
        assert float(row["value"]) == float(summary[kept]["value"].iloc[0])


class Page(HTMLParser):
    """What a page would load, and its ids and the anchors that point at them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "xlink:href") and (value or "").startswith("#"):
                self.anchors.append((value or "")[1:])
            elif name in ("src", "srcset", "action", "data", "poster", "href", "xlink:href") and tag != "a":
                self.loads.append(value or "")


def test_the_page_loads_nothing_from_anywhere(written: Path) -> None:
    text = (written / "report.html").read_text()
    assert Page(text).loads == ["data:,"]
    assert not re.search(r"@import|url\((?!#)|<script|<iframe|xmlns", text)
    outside = re.findall(r'(\S+?)="?https?://', text)
    assert set(outside) == {"href"}


def test_every_link_inside_the_page_arrives_and_no_id_is_given_twice(written: Path) -> None:
    page = Page((written / "report.html").read_text())
    assert len(page.ids) == len(set(page.ids))
    assert set(page.anchors) <= set(page.ids)


def test_links_to_the_raw_data_are_relative_and_arrive(made_up: Path, tmp_path: Path) -> None:
    out = made_up / "report"
    report(made_up, {"html", "csv"}, out, Console(file=io.StringIO()))
    links = set(re.findall(r'<a href="([^"#:]+)"', (out / "report.html").read_text()))
    assert {"../summary.csv", "../run.json", "../cells", "tables", "charts"} <= links
    assert all((out / link).exists() for link in links)


def test_every_chart_is_there_as_svg_and_png_and_in_the_page(written: Path) -> None:
    names = {"throughput", "memory", "latency", "latency-distribution", "cpu", "startup"}
    assert {file.name for file in (written / "charts").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "png")
    }
    page = (written / "report.html").read_text()
    assert page.count("<svg") == len(names)
    assert page.count('role="img"') == len(names)


def test_text_of_a_run_cannot_become_markup(tmp_path: Path) -> None:
    store = fabricate(tmp_path, FAKES[4:5], trials=1)
    store.update_run(command="schedbench run '<script>alert(1)</script>'")
    report(store.path, {"html"}, tmp_path / "out", Console(file=io.StringIO()))
    assert "<script" not in (tmp_path / "out" / "report.html").read_text()


def test_a_run_that_was_cut_off_says_so_first(tmp_path: Path) -> None:
    store = fabricate(tmp_path, FAKES[4:5], trials=1)
    store.update_run(interrupted=True)
    report(store.path, {"markdown"}, tmp_path / "out", Console(file=io.StringIO()))
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"cut off: {len(read_run(store.path).cells)} of 100 cells" in text.partition("## ")[0]


def test_latencies_come_from_the_tasks_without_warm_up(made_up: Path, found: dict[str, Section]) -> None:
    values = by_variant(read_run(made_up), found["latency"].params_text)
    assert len(values["celery", "redis"]) == 6 * 1000
    assert len(values["rq", "redis"]) == 6 * 400
    assert max(sample.max() for sample in values.values()) < 3_600_000


def test_a_run_of_which_only_the_summary_was_kept_can_be_reported(tmp_path: Path) -> None:
    store = fabricate(tmp_path, FAKES[:5], trials=2)
    shutil.rmtree(store.path / "cells")
    files = report(store.path, {"html", "markdown"}, tmp_path / "out", Console(file=io.StringIO()))
    assert {file.stem for file in files} == {"throughput", "memory", "latency", "cpu", "startup", "report"}


def test_a_report_that_cannot_be_written_is_one_line_with_advice(made_up: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot use"):
        report(made_up, {"markdown"}, tmp_path / "file" / "out", Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05031, "0.0503"), (9.996, "10.0"), (99.96, "100"), (12.34, "12.3"), (131_072, "131,000")],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


# --- marks --------------------------------------------------------------------------------------------

DISTURBED = "machine disturbed: a fixed burn took 1.9x its usual time"
FELL_BEHIND = "invalid: generator fell behind (P99 lag 4.0 ms)"
DOUBTS = {
    ("rq", "redis"): (DISTURBED, Mark.DISTURBED),
    ("dramatiq", "redis"): (FELL_BEHIND, Mark.INVALID),
    ("apscheduler", "thread-pool"): ("n < 1000", Mark.FEW),
    ("schedule", "tight"): ("another schedbench was running", Mark.SHARED),
}
"""Systems of the made-up run of doubts with the remark on each of their figures, and its mark."""

CLEAN = ("celery", "redis")
ONE_TRIAL = ("apscheduler", "process-pool")


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which four systems have a doubt on every figure, one has one trial, the others are clean."""
    store = create(tmp_path_factory.mktemp("doubts"), info())
    for fake in FAKES:
        key = (fake.system, fake.variant)
        for trial in range(1, 2 if key == ONE_TRIAL else 7):
            for cell, metrics, raw in cells(fake, trial):
                plain = [dataclasses.replace(metric, note="") for metric in metrics]
                noted = [metric.noted(DOUBTS[key][0] if key in DOUBTS else "") for metric in plain]
                tasks = None if raw is None else ledger.per_task(raw.astype(ledger.EVENT))
                store.write_cell(cell, Status.OK, "", noted, {}, raw, tasks)
    store.write_summary()
    return store.path


@pytest.fixture(scope="module")
def doubts_written(doubtful: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("doubts-report")
    with (out / "terminal.txt").open("w", encoding="utf-8") as text:
        report(doubtful, {"terminal", "markdown", "csv", "html"}, out, Console(file=text, width=400))
    return out


@functools.cache
def all_tables(path: Path) -> list[Table]:
    run = read_run(path)
    return [*(survey_table(section) for section in sections(run)), *further_tables(run)]


def figure_tables(path: Path) -> list[Table]:
    """Those that do not only tell how a variant was set up."""
    return [table for table in all_tables(path) if table.key not in ("parity", "changed")]


def rows_of(table: Table, titles: Mapping[str, tuple[str, str]]) -> Iterator[tuple[tuple[str, str], Any]]:
    """The rows of a table that are about a system, with its key; a line of a role follows its system."""
    for group in table.groups:
        key = None
        for row in group.rows:
            texts = [entry.text for entry in row]
            found = [own for own in titles.values() if titles_of(own) <= set(texts)]
            key = found[0] if found else key if "" in texts[1:3] else None
            if key:
                yield key, row


def titles_of(key: tuple[str, str]) -> set[str]:
    [fake] = [fake for fake in FAKES if (fake.system, fake.variant) == key]
    return {fake.title, fake.variant}


FAKE_KEYS = {f"{fake.system} {fake.variant}": (fake.system, fake.variant) for fake in FAKES}


def test_every_doubtful_figure_has_its_sign_in_every_table(doubtful: Path) -> None:
    seen = set()
    for table in figure_tables(doubtful):
        for key, row in rows_of(table, FAKE_KEYS):
            figures = [entry for entry in row if entry.marks]
            if key in DOUBTS and (table.key, DOUBTS[key][1]) != ("fates", Mark.FEW):
                assert any(entry.dagger and entry.notes for entry in row), (table.key, key)
                seen.add((table.key, key))
            elif key == CLEAN:
                assert not figures, table.key
    for key in DOUBTS:
        assert {table for table, own in seen if own == key} >= {
            "throughput", "memory", "latency", "cpu", "components", "latency-all", "throughput-all",
            "memory-all", "cpu-all", "startup",
        }  # fmt: skip


def test_every_figure_of_a_system_of_one_trial_is_a_first_look(doubtful: Path) -> None:
    for table in all_tables(doubtful):
        if table.key in ("throughput", "latency", "cpu", "memory", "startup"):
            [row] = [row for key, row in rows_of(table, FAKE_KEYS) if key == ONE_TRIAL][:1]
            assert any(entry.about for entry in row), table.key
            assert not any(entry.dagger for entry in row), table.key
            assert any(ABOUT in sign for sign in table.legend), table.key


def signs(tables: list[Table]) -> list[str]:
    """Every figure with a dagger, as text."""
    return [
        entry.text for table in tables for group in table.groups for row in group.rows for entry in row
        if entry.dagger
    ]  # fmt: skip


def test_each_format_shows_every_sign_and_says_what_it_means(doubtful: Path, doubts_written: Path) -> None:
    tables = all_tables(doubtful)
    page = (doubts_written / "report.html").read_text()
    assert page.count('<span class="dagger"') == len(signs(tables))
    markdown = (doubts_written / "report.md").read_text()
    table_lines = [text for text in markdown.splitlines() if text.startswith("|")]
    assert sum(text.count(DAGGER) for text in table_lines) == len(signs(tables))
    terminal = (doubts_written / "terminal.txt").read_text(encoding="utf-8")
    for shown in tables:
        for sign in shown.legend:
            assert sign in markdown
            assert sign in page.replace("&#39;", "'")
        if f"\n{shown.title}\n" in terminal:
            own = terminal.partition(f"\n{shown.title}\n")[2].split("\n\n")[0]
            assert own.count(f" {DAGGER}") >= len(signs([shown])), shown.key
            assert all(sign in own for sign in shown.legend)


def test_the_excerpt_for_the_readme_has_the_signs_and_their_meaning(doubtful: Path) -> None:
    run = read_run(doubtful)
    for table in all_tables(doubtful)[:5]:
        text = excerpt(run, table.key)
        lines = [words for words in text.splitlines() if words.startswith("|")]
        assert sum(words.count(DAGGER) for words in lines) == len(signs([table])) > 0
        assert all(sign in text for sign in (*table.legend, *table.notes))


def test_every_csv_table_of_figures_names_the_marks_of_each_row(doubtful: Path, doubts_written: Path) -> None:
    names = {fake.title: fake.system for fake in FAKES}
    for file in sorted(doubts_written / "tables" / f"{table.key}.csv" for table in figure_tables(doubtful)):
        with file.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        for row in rows:
            key = (names.get(row.get("system", ""), row.get("system", "")), row.get("variant", ""))
            if key in DOUBTS and (file.stem, DOUBTS[key][1]) != ("fates", Mark.FEW):
                assert DOUBTS[key][1] in row["marks"].split("; "), (file.name, row)
            elif key == CLEAN:
                assert row["marks"] == "", (file.name, row)


def drawn_texts(chart: Path) -> list[str]:
    """The words in an SVG chart: they are drawn as outlines, and stand beside these as comments."""
    return [words.strip() for words in re.findall(r"<!--(.*?)-->", chart.read_text(), flags=re.DOTALL)]


@pytest.mark.parametrize("name", ["throughput", "memory", "latency", "cpu", "startup"])
def test_every_chart_marks_the_doubtful_figures_and_says_why(doubts_written: Path, name: str) -> None:
    texts = " ".join(drawn_texts(doubts_written / "charts" / f"{name}.svg")).replace("\xa0", " ")
    texts = " ".join(texts.split())
    for key, (_, mark) in DOUBTS.items():
        assert marks.MEANINGS[mark] in texts, key
    assert DAGGER in texts
    assert f"{ABOUT} first look" in texts
    assert (doubts_written / "charts" / f"{name}.png").stat().st_size > 0


@pytest.mark.parametrize("name", ["throughput", "latency"])
def test_a_chart_names_each_doubtful_figure_and_draws_it_with_its_sign(
    doubts_written: Path, name: str
) -> None:
    texts = drawn_texts(doubts_written / "charts" / f"{name}.svg")
    assert sum(text.endswith(DAGGER) for text in texts) == len(DOUBTS)
    legend = " ".join(" ".join(texts).partition(f"{DAGGER} hollow: ")[2].split())
    for fake in FAKES:
        named = re.search(rf"{re.escape(fake.title)} · {fake.variant}[,)]", legend)
        assert bool(named) is ((fake.system, fake.variant) in DOUBTS), fake


def test_a_system_without_a_figure_keeps_its_row_in_a_chart(written: Path) -> None:
    texts = drawn_texts(written / "charts" / "memory.svg")
    assert any(text.startswith("no figure: 6 of 6 trials failed") for text in texts)


def test_a_figure_of_a_disturbed_machine_is_neither_ranked_nor_compared(doubtful: Path) -> None:
    throughput = {section.key: section for section in sections(read_run(doubtful))}["throughput"]
    for key, (remark, mark) in DOUBTS.items():
        own = line(throughput, *key)
        assert (own.rank, own.unranked) == ("", mark)
        assert own.verdict.word is not Word.WITHIN
        assert remark.startswith(published.verdict(1, 1e9, own.interval, own.reason).why)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("", ""),
        ("offered 61.6 tasks/s, 50% of its capacity", ""),
        ("1 trial", "one trial"),
        ("1 trial, the interval is within it", "one trial"),
        ("interval of 3 trials covers 75 %; n < 1000", "few; few trials"),
        ("n < 1000 (1 of 6 trials)", "few"),
        (f"{DISTURBED} (1 of 6 trials); another schedbench was running", "disturbed; shared machine"),
        ("1 of 6 trials left out: invalid: generator fell behind", "partial"),
        ("2 of 6 trials failed: timeout: slow", "partial"),
        ("3 of 1000 tasks never started", "partial"),
        ("CPU used is a lower bound: no control groups here", "lower bound"),
        ("its last process joined late (1 of 3 trials)", "lower bound"),
        (
            "RSS is an upper bound: it counts a page once in each of the processes that share it",
            "upper bound",
        ),
        ("invalid: the wall clock was set by 1.00 s", "invalid"),
    ],
)
def test_a_remark_about_quality_has_its_mark(reason: str, words: str) -> None:
    assert marks.words(reason) == words


@pytest.mark.parametrize(
    ("reason", "unfit"),
    [
        ("machine disturbed (2 of 6 trials)", False),
        ("machine disturbed (3 of 6 trials)", True),
        (DISTURBED, True),
        ("another schedbench was running (3 of 6 trials)", True),
        ("another schedbench was running (2 of 6 trials)", False),
        ("1 of 6 trials left out: invalid: generator fell behind", False),
    ],
)  # fmt: skip
def test_a_disturbance_of_few_trials_does_not_make_a_figure_unfit(reason: str, unfit: bool) -> None:
    assert bool(marks.unfit(reason)) is unfit


def test_marked_text_has_the_signs_around_the_figure() -> None:
    assert marks.marked("12", marks.marks("1 trial; n < 1000")) == f"{ABOUT} 12 {DAGGER}"
    assert marks.marked("12", ()) == "12"


# --- calibration, selftest, disturbances, counts -----------------------------------------------------------


def calibration_row(name: str, metric: str, unit: str, value: float | None, note: str = "") -> dict[str, Any]:
    ends = (None, None) if value is None else (value * 0.9, value * 1.1)
    return {
        "name": name, "metric": metric, "unit": unit, "value": value, "low": ends[0], "high": ends[1],
        "n": 3, "note": note,
    }  # fmt: skip


COMPARED = {
    "metric": "throughput", "unit": "tasks/s", "a": 1000.0, "b": 1010.0, "ratio": 0.99, "low": 0.97,
    "high": 1.01, "p": 0.4, "p_adjusted": 1.0, "word": "same",
}  # fmt: skip
CALIBRATION = {
    "seconds": 21.0,
    "rows": [
        calibration_row("timer", "clock_step", "ns", 30.0),
        calibration_row("probe", "cost_per_task", "µs", 5.4),
        calibration_row("sampler", "throughput_on_off", "ratio", None, "the reference did not start"),
        calibration_row("reference", "throughput", "tasks/s", 190_000.0, "another schedbench was running"),
        calibration_row("floor_redis", "throughput", "tasks/s", 21_000.0),
    ],
    "aa": {
        "system": "reference", "trials": 5, "different": 1, "n": 4,
        "comparisons": [COMPARED] * 3 + [{**COMPARED, "ratio": None, "word": "different"}],
    },
}  # fmt: skip
SELFTEST = {
    "date": "2026-11-19T10:00:00+00:00",
    "outcome": "passed",
    "found": 13,
    "of": 13,
    "schedbench": "0.0",
}
NOISE = {
    "cells": 40, "disturbed": 3, "rerun": 3, "still_disturbed": 1, "baseline_ms": 18.0, "burn_median": 1.01,
    "burn_p95": 1.2, "burn_worst": 1.93, "stolen_share_worst": 0.012, "others_cores_worst": None,
}  # fmt: skip


def in_every_format(path: Path, out: Path) -> dict[str, str]:
    """Every format of a report as text with single spaces, CSV files as one."""
    text = io.StringIO()
    report(path, {"terminal", "markdown", "csv", "html"}, out, Console(file=text, width=400))
    page = re.sub(r"<svg.*?</svg>", "", (out / "report.html").read_text(), flags=re.DOTALL)
    plain = re.sub(r"<[^>]*>", " ", page)
    files = "\n".join(file.read_text() for file in sorted((out / "tables").glob("*.csv")))
    found = {"terminal": text.getvalue(), "markdown": (out / "report.md").read_text(), "html": plain}
    return {name: " ".join(words.split()) for name, words in found.items()} | {"csv": files}


def test_every_format_says_how_the_run_was_calibrated_tested_and_disturbed(tmp_path: Path) -> None:
    store = fabricate(tmp_path, FAKES[4:5], trials=1)
    machine = {**store.info["machine"], "governor": "powersave", "turbo": True, "load": [0.5, 0.25, 0.125]}
    store.update_run(calibration=CALIBRATION, selftest=SELFTEST, noise=NOISE, machine=machine)
    found = in_every_format(store.path, tmp_path / "out")
    csv_text = found.pop("csv")
    for name, text in found.items():
        for words in (
            "passed on 2026-11-19, 13 of 13 known faults found, schedbench 0.0",
            "1 of 4 comparisons called different (25.0 %, interval 0.6\N{EN DASH}80.6 %)",
            "3 of 40 cells disturbed, 3 of them run again, 1 still disturbed",
            "a fixed burn took 1.93 times its usual, 1.2 % of the CPU stolen",
            "Calibration of this run",
            "its stamps on a task",
            "the reference did not start",
            "governor powersave · turbo on · load at the start 0.5 0.25 0.125",
        ):
            assert words in text, (name, words)
        assert re.search(rf"190,000 ?{DAGGER}", text), name
    assert "passed on 2026-11-19, 13 of 13 known faults found" in csv_text
    assert "probe,cost_per_task,µs,5.4" in csv_text
    assert "3,another schedbench was running,shared machine" in csv_text


def test_a_run_without_calibration_and_with_a_failed_selftest_says_so_in_every_format(tmp_path: Path) -> None:
    store = fabricate(tmp_path, FAKES[4:5], trials=1)
    store.update_run(selftest={**SELFTEST, "outcome": "failed", "found": 12, "schedbench": "0.9"})
    found = in_every_format(store.path, tmp_path / "out")
    for name in ("terminal", "markdown", "html"):
        assert "Not calibrated:" in found[name]
        assert "The last selftest of this machine failed: 12 of 13 known faults" in found[name]
        assert "made by schedbench 0.9, this run by 0.0. Repeat it: schedbench selftest." in found[name]
    assert (tmp_path / "out" / "tables" / "calibration.csv").exists()


@pytest.mark.parametrize(
    ("selftest", "said", "warned"),
    [
        (None, "never run on this machine: schedbench selftest", ""),
        (SELFTEST, "passed on 2026-11-19", ""),
        ({**SELFTEST, "outcome": "failed", "found": 12}, "failed on 2026-11-19", "12 of 13 known faults"),
        ({**SELFTEST, "schedbench": "0.9"}, "schedbench 0.9", "made by schedbench 0.9, this run by 0.0"),
    ],
)
def test_the_last_selftest_is_told_and_warned_of(
    tmp_path: Path, selftest: Any, said: str, warned: str
) -> None:
    store = fabricate(tmp_path, FAKES[4:5], trials=1)
    store.update_run(selftest=selftest)
    run = read_run(store.path)
    assert said in {fact.name: fact.text for fact in trust(run)}["Selftest"]
    assert [warned in text for text in warnings(run)] == [True] * bool(warned)
    text = io.StringIO()
    report(store.path, {"terminal"}, tmp_path / "out", Console(file=text, width=400))
    assert said in text.getvalue()
    assert warned in text.getvalue()


def test_floors_of_the_calibration_are_matched_by_kind_and_an_invalid_one_is_left_out(tmp_path: Path) -> None:
    store = fabricate(tmp_path, FAKES[4:5], trials=1)
    invalid = calibration_row("floor_pipe", "throughput", "tasks/s", 1.0, FELL_BEHIND)
    store.update_run(calibration={**CALIBRATION, "rows": [*CALIBRATION["rows"], invalid]})
    floors = calibration.floors(read_run(store.path), "throughput")
    assert {kind: [floor.value for floor in own] for kind, own in floors.items()} == {
        True: [190_000.0],
        False: [21_000.0],
    }
    assert calibration.floors(read_run(store.path), "cpu_efficiency") == {}


def counted(results: Path) -> Path:
    """A run of schedules and of systems that were asked what became of their tasks."""
    store = create(results, info())
    for trial in (1, 2):
        params = {"every_s": 1.0, "ticks": 5}
        ticks = [
            Metric("ticks_planned", "count", 5, 5),
            Metric("ticks_skipped", "count", 1 if trial == 1 else 0, 5),
            Metric("ticks_repeated", "count", 0, 5),
            Metric("ticks_overlapped", "count", 2, 5),
            Metric("tick_delay_p95", "ms", 3.0 + trial, 5, note="n < 1000"),
        ]
        store.write_cell(
            Cell("apscheduler", "thread-pool", "periodic", params, trial), Status.OK, "", ticks, {}
        )
        claims = [
            *fates(100),
            Metric("claims_false_success", "count", 3 if trial == 1 else 0, 100),
            Metric("claims_false_failure", "count", 0, 100),
        ]
        store.write_cell(Cell("rq", "redis", "throughput", {}, trial), Status.OK, "", claims, {})
        note = DISTURBED if trial == 1 else ""
        others = [metric.noted(note) for metric in fates(100)]
        store.write_cell(Cell("celery", "redis", "throughput", {}, trial), Status.OK, "", others, {})
    store.write_summary()
    return store.path


def test_ticks_are_summed_over_the_trials(tmp_path: Path) -> None:
    [table] = [table for table in all_tables(counted(tmp_path)) if table.key == "ticks"]
    [record] = table.records
    names = ("trials", "planned", "skipped", "repeated", "overlapped", "delay_p95_ms", "condition")
    assert [record[name] for name in names] == [2, 10, 1, 0, 4, 4.5, "every 1 s, 5 ticks"]
    assert record["marks"] == "few; few trials"


def test_what_a_library_says_stands_beside_what_was_seen_where_it_was_asked(tmp_path: Path) -> None:
    [table] = [table for table in all_tables(counted(tmp_path)) if table.key == "fates"]
    said = {record["system"]: record["claims_false_success"] for record in table.records}
    assert said == {"RQ": 3, "Celery": None}
    heads = [column.label for column in table.columns]
    assert heads[-2:] == ["Said ok, was not", "Said failed, was ok"]


def test_counts_of_a_disturbed_trial_say_in_how_many(tmp_path: Path) -> None:
    [table] = [table for table in all_tables(counted(tmp_path)) if table.key == "fates"]
    remarks = {record["system"]: (record["marks"], record["reason"]) for record in table.records}
    assert remarks == {"RQ": ("", ""), "Celery": ("disturbed", "machine disturbed in 1 of 2 trials")}


def test_a_run_that_asked_no_library_has_no_column_for_it(made_up: Path) -> None:
    [table] = [table for table in all_tables(made_up) if table.key == "fates"]
    assert "claims_false_success" not in table.records[0]


def test_an_entry_without_marks_has_no_sign() -> None:
    assert not Entry("1").dagger
    assert not Entry("1").about


BACK = [
    Metric("missed_ticks", "count", 4, 4),
    Metric("runs_after", "count", 5, 5),
    Metric("first_run_after", "s", 0.25, 1),
    Metric("runs_made_up", "count", 1, 4),
]
LOST = [Metric("missed_ticks", "count", 1, 1), Metric("runs_after", "count", 0, 0)]
"""What a trial finds of a schedule that comes back, and of one that does not."""


def ticked(results: Path) -> Path:
    """A run that asked one variant everything of a schedule, another one thing, and counted replicas."""
    store = create(results, info())
    idle = [
        Metric("ticks_planned", "count", 20, 20),
        Metric("tick_delay_p95", "ms", 3.0, 20, 1.0, 4.0, "n < 1000"),
        Metric("tick_drift_per_minute", "ms", 12.0, 20, -5.0, 29.0, "seen over 19 s"),
        Metric("tick_jitter_p95", "ms", 1.5, 19, 1.0, 2.0, "n < 1000"),
    ]
    long_run = [
        Metric("overlap_due", "count", 3, 3),
        Metric("overlap_beside", "count", 0, 3),
        Metric("overlap_queued", "count", 1, 3),
        Metric("overlap_skipped", "count", 2, 3),
        Metric("runs_at_once_max", "count", 1, 5),
    ]
    asked = {
        "apscheduler:thread-pool": [
            ({"every_s": 1.0}, idle),
            ({"every_s": 1.0, "load": 0.5}, [Metric("tick_delay_p95", "ms", 7.0, 20, 6.0, 9.0)]),
            ({"every_s": 60.0}, [Metric("tick_delay_p95", "ms", 900.0, 20)]),
            ({"every_s": 60.0, "trigger": "cron"}, [Metric("tick_delay_p95", "ms", 40.0, 5)]),
            ({"every_s": 1.0, "what": "overlap"}, long_run),
            ({"every_s": 5.0, "what": "down"}, BACK),
            ({"every_s": 5.0, "what": "restart"}, LOST),
        ],
        "celery:redis": [({"every_s": 5.0, "what": "restart"}, BACK)],
    }
    for name, conditions in asked.items():
        system, variant = name.split(":")
        for params, metrics in conditions:
            store.write_cell(Cell(system, variant, "periodic", params, 1), Status.OK, "", metrics, {})
    refused = Cell("celery", "redis", "periodic", {"every_s": 1.0, "what": "down"}, 1)
    store.write_cell(refused, Status.UNSUPPORTED, "no such part", [], {})
    for trial, several in ((1, 2), (2, 0)):
        counts = {"planned": 20, "once": 20 - several, "missed": 0, "several": several, "overlapped": several}
        metrics = [Metric(f"ticks_{name}", "count", count, 20) for name, count in counts.items()]
        metrics.append(Metric("runs_at_once_max", "count", 2 if several else 1, 20))
        params = {"replicas": 3, "pause_s": 7.0}
        store.write_cell(
            Cell("apscheduler", "thread-pool", "replicas", params, trial), Status.OK, "", metrics, {}
        )
    store.write_summary()
    return store.path


def test_what_a_schedule_does_stands_in_one_row_and_the_rest_was_not_measured(tmp_path: Path) -> None:
    [table] = [table for table in all_tables(ticked(tmp_path)) if table.key == "periodic"]
    full, part = table.records
    assert (full["system"], full["period"]) == ("apscheduler", "1 s")
    names = ("offset", "loaded", "cron", "drift", "jitter", "overlap", "down", "restart")
    assert {name: full[name] for name in names} == {
        "offset": "3.00",
        "loaded": "7.00",
        "cron": "40.0",
        "drift": "12.0",
        "jitter": "1.50",
        "overlap": "1 run after it, 2 skipped",
        "down": "1 of 4",
        "restart": "no",
    }
    assert (part["system"], part["restart"]) == ("celery", "yes")
    assert {part[name] for name in ("offset", "loaded", "drift", "jitter", "overlap")} == {"not measured"}
    assert part["down"] == "\N{EM DASH}"
    rows = [row for group in table.groups for row in group.rows]
    below = [entry.sub for entry in rows[0]]
    assert "at most 1 at once" in below
    assert "first run after 0.250 s; every 5 s" in below
    assert "no such part" in table.notes


def test_trials_that_differ_on_a_schedule_are_all_told(tmp_path: Path) -> None:
    """The median of what they counted would be one that none of them saw."""
    store = create(tmp_path, info())
    for trial, metrics in enumerate((BACK, BACK, LOST), 1):
        cell = Cell("celery", "redis", "periodic", {"every_s": 5.0, "what": "restart"}, trial)
        store.write_cell(cell, Status.OK, "", metrics, {})
    store.write_summary()
    [table] = [table for table in all_tables(store.path) if table.key == "periodic"]
    [record] = table.records
    assert record["restart"] == "yes in 2, no in 1"
    assert "of 3 trials; first run after 0.250 s" in [entry.sub for entry in table.groups[0].rows[0]]


def test_a_period_that_could_not_be_asked_does_not_hide_one_that_was(tmp_path: Path) -> None:
    store = create(tmp_path, info())
    refused = Cell("celery", "redis", "periodic", {"every_s": 5.0, "what": "restart"}, 1)
    store.write_cell(refused, Status.UNSUPPORTED, "too short", [], {})
    asked = Cell("celery", "redis", "periodic", {"every_s": 10.0, "what": "restart"}, 1)
    store.write_cell(asked, Status.OK, "", BACK, {})
    store.write_summary()
    [table] = [table for table in all_tables(store.path) if table.key == "periodic"]
    [record] = table.records
    assert (record["period"], record["restart"]) == ("10 s", "yes")
    # What nobody was asked has no column.
    assert [column.label for column in table.columns] == ["System", "Variant", "Period", "Survives a kill"]


def test_what_replicas_cannot_be_asked_is_left_out_or_said_once(tmp_path: Path) -> None:
    store = create(tmp_path, info())
    counts = [Metric(f"ticks_{name}", "count", 20, 20) for name in ("planned", "once")]
    for variant, status in (("redis", Status.OK), ("acks-late", Status.UNSUPPORTED)):
        cell = Cell("celery", variant, "replicas", {"replicas": 2}, 1)
        store.write_cell(cell, status, "", counts if status is Status.OK else [], {})
        for pause_s in (5.0, 7.0):
            cell = Cell("celery", variant, "replicas", {"pause_s": pause_s}, 1)
            store.write_cell(cell, Status.UNSUPPORTED, "no lock", [], {})
    store.write_summary()
    [table] = [table for table in all_tables(store.path) if table.key == "replicas"]
    assert [record["variant"] for record in table.records] == ["acks-late", "redis"]


def test_ticks_of_replicas_are_summed_over_the_trials(tmp_path: Path) -> None:
    [table] = [table for table in all_tables(ticked(tmp_path)) if table.key == "replicas"]
    [record] = table.records
    assert (record["replicas"], record["condition"]) == (3, "3 replicas, every 2 s, paused for 7 s")
    names = ("planned", "once", "missed", "several", "overlapped")
    assert [record[f"ticks_{name}"] for name in names] == [40, 38, 0, 2, 2]
    assert record["runs_at_once_max"] == 2
    assert record["share_once"] == "95.0 (83.1\N{EN DASH}99.4)"


@pytest.mark.parametrize(
    ("beside", "queued", "skipped", "words"),
    [
        (3, 0, 0, "all run beside it"),
        (0, 3, 0, "all run after it"),
        (0, 0, 3, "all skipped"),
        (1, 2, 0, "1 run beside it, 2 run after it"),
    ],
)
def test_what_happens_during_a_long_run_in_words(beside: int, queued: int, skipped: int, words: str) -> None:
    found = {"overlap_due": 3, "overlap_beside": beside, "overlap_queued": queued, "overlap_skipped": skipped}
    said = schedules.overlap_words({**found, "runs_at_once_max": 2})
    assert said == (words, "at most 2 at once")


@pytest.mark.parametrize(
    ("made_up", "words"), [(0, "none of 4"), (1, "1 of 4"), (4, "all of 4"), (5, "all of 4")]
)
def test_what_came_for_missed_ticks_in_words(made_up: int, words: str) -> None:
    found = {"missed_ticks": 4, "runs_after": 6, "first_run_after": 1.5, "runs_made_up": made_up}
    assert schedules.made_up_words(found) == (words, "first run after 1.50 s")
    assert schedules.survival_words(found) == ("yes", "first run after 1.50 s")
