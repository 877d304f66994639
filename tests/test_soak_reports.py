"""What the report says of soaks, on made-up figures that are written through the store."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from bench import stats
from bench.model import Cell, Metric, Status
from bench.store import Run, create, read_run
from reports import soaks
from reports.charts import charts
from reports.render import report
from reports.survey import sections
from reports.tables import Table

DAY, PART = {"duration": "24h"}, {"duration": "60s"}
TITLES = {"celery": "Celery", "prefect": "Prefect", "rq": "RQ", "reference": "Reference queue"}


def _soak(ok: int, n: int, ran: str, **counts: float) -> list[Metric]:
    found = stats.proportion_interval(ok, n)
    assert found.low is not None
    assert found.high is not None
    rate = Metric("success_rate", "%", 100 * found.value, n, 100 * found.low, 100 * found.high, ran)
    parts = [
        metric
        for part in range(1, 25)
        for metric in (
            Metric(f"dispatch_latency_part{part:02}of24_p95", "ms", 3.0 + part / 10, 1000, 2.0, 6.0),
            Metric(f"loaded_pss_part{part:02}of24.worker", "MB", 50.0 + part, 400),
            Metric(f"loaded_pss_part{part:02}of24.total", "MB", 80.0 + part, 400),
        )
    ]
    return [
        rate,
        *(Metric(name, "count", value, n) for name, value in counts.items()),
        Metric("growth_pss_per_hour.total", "MB", 1.0, 1000, 0.5, 1.5),
        *parts,
    ]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    systems = {
        name: {
            "title": title,
            "family": "floor" if name == "reference" else "task queue",
            "homepage": "https://example.org",
            "variants": {"v": {"guarantee": "none" if name == "reference" else "at-most-once"}},
            "default": ["v"],
            "packages": {},
        }
        for name, title in TITLES.items()
    }
    made = create(
        tmp_path / "results", {"systems": systems, "machine": {"cores": 2}, "trials": 1, "slots": 2}
    )

    def write(system: str, params: Mapping[str, str], metrics: list[Metric], reason: str = "") -> None:
        status = Status.UNSUPPORTED if reason else Status.OK
        made.write_cell(Cell(system, "v", "soak", params, 1), status, reason, metrics, {})

    write("celery", DAY, _soak(23_950, 24_000, "24 h", incidents=3, tasks_failed=48, tasks_lost=2))
    write("reference", DAY, _soak(24_000, 24_000, "24 h", incidents=0, tasks_ok=24_000))
    write("celery", PART, _soak(17, 17, "60 s, not 24 h", incidents=0))
    write(
        "rq", PART, _soak(16, 16, "60 s, not 24 h", tasks_failed=1, tasks_failed_as_asked=1, tasks_cut_off=2)
    )
    write("prefect", DAY, [], "its tasks are handed over in batches")
    made.write_summary()
    return read_run(made.path)


def _rows(table: Table) -> dict[str, dict[str, str]]:
    """Entries by heading, of each row by its group, system and published figure."""
    heads = [column.label for column in table.columns]
    return {
        f"{group.title.partition(' at ')[0]} {row[0].text}": {
            head: " ".join(filter(None, (entry.text, entry.sub)))
            for head, entry in zip(heads, row, strict=True)
        }
        for group in table.groups
        for row in group.rows
    }


def test_only_a_whole_day_is_held_against_the_published_day(run: Run) -> None:
    rows = _rows(soaks.table(run))
    assert rows["24h Celery"]["Published, %"] == rows["60s Celery"]["Published, %"] == "99.8"
    assert rows["24h Celery"]["Verdict"] == "within"
    assert rows["60s Celery"]["Verdict"] == "not comparable 60 s, not 24 h"
    assert rows["60s Celery"]["Ran"] == "60 s, not 24 h"
    assert rows["24h Prefect"]["Verdict"] == "not comparable here its tasks are handed over in batches"
    assert rows["60s RQ"]["Published, %"] == soaks.NONE
    assert rows["Published, not measured in this run Airflow"]["Published, %"] == "98.7"


def test_a_rate_keeps_its_digits_its_interval_and_what_went_wrong(run: Run) -> None:
    rows = _rows(soaks.table(run))
    celery, floor = rows["24h Celery"], rows["24h Reference queue"]
    assert celery["Success, %"] == "99.791"
    assert celery["Interval"] == "99.725\N{EN DASH}99.846"
    assert (celery["n"], celery["Incidents"], celery["Failed"], celery["Lost"]) == ("24000", "3", "48", "2")
    assert floor["Interval"] == "99.984\N{EN DASH}100"
    assert (rows["60s RQ"]["Failed"], rows["60s RQ"]["Failed as asked"]) == ("0", "1")
    assert rows["60s RQ"]["Cut off"] == "2"


def test_tables_of_the_survey_are_shown_only_where_this_run_asked_for_them(run: Run, tmp_path: Path) -> None:
    report(run.path, {"csv"}, tmp_path, Console(file=io.StringIO()))
    shown = {file.stem for file in (tmp_path / "tables").iterdir()}
    assert "soak" in shown
    assert not shown & {section.key for section in sections(run)}


@pytest.mark.parametrize(
    ("value", "down", "up"),
    [
        (100.0, "100", "100"),
        (99.99999, "99.999", "100"),
        (99.9875, "99.987", "99.988"),
        (98.7, "98.7", "98.7"),
    ],
)
def test_nothing_is_rounded_to_a_hundred(value: float, down: str, up: str) -> None:
    assert (soaks.percent(value), soaks.percent(value, up=True)) == (down, up)


def test_a_rate_outside_the_published_digit_is_above_or_below(run: Run) -> None:
    rows = soaks.measured(run)
    own = {row.metric: row for row in rows if row.subject.system == "reference"}
    (figure,) = (figure for figure in soaks.published.load() if figure.id == "s3-soak-celery")
    assert str(soaks.judge(own, figure)) == "above"


def test_charts_are_drawn_over_time(run: Run, tmp_path: Path) -> None:
    drawn = {chart.name: chart for chart in charts(run, sections(run), tmp_path / "charts")}
    assert {"soak-latency", "soak-memory"} <= drawn.keys()
    assert all(drawn[name].png.stat().st_size > 10_000 for name in ("soak-latency", "soak-memory"))
    assert drawn["soak-latency"].title == "Latency over a soak"


def test_a_report_has_the_table_with_its_charts_above_it(run: Run, tmp_path: Path) -> None:
    report(run.path, {"markdown"}, tmp_path / "out", Console(quiet=True))
    text = (tmp_path / "out" / "report.md").read_text()
    place = [
        text.index(words) for words in ("## A day's load", "soak-latency.svg", "soak-memory.svg", "99.791")
    ]
    assert place == sorted(place)
    fates = text.partition("## What became of every task")[2]
    assert "Celery" not in fates.partition("##")[0]
