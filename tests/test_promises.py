"""What vendors promise when something goes wrong: headers that say it, and verdicts on what was seen."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bench import discovery
from bench.errors import UsageError
from bench.model import FAULTS, PROMISES, Cell, Metric, Promise, Status
from bench.store import create, read_run
from reports.faults import ALLOWED, FEW, PARTS, SHORT, Seen, Trial, _part, tables
from reports.marks import Mark
from reports.measured import Subject
from reports.render import excerpt, report

LINK = "https://example.org/"
CLEAN = {"struck": 1, "fault_lost": 0, "fault_duplicated": 0, "fault_rerun": 0, "fault_failed": 0}


def seen(
    guarantee: str, fault: str, kind: str, *trials: dict[str, int], failed: dict[str, str] | None = None
) -> Seen:
    """What trials with these counts, beside clean ones, are to the report."""
    subject = Subject("any", "thing", "Any", "task queue", guarantee, True, False)
    promise = Promise(kind, "", 0, LINK) if kind else None
    found = {str(number): Trial({**CLEAN, **counts}) for number, counts in enumerate(trials, 1)}
    return Seen(subject, fault, promise, found, failed or {})


@pytest.mark.parametrize(
    ("guarantee", "fault", "kind", "counts", "verdict"),
    [
        ("none", "worker", "", {"fault_lost": 3}, "no promise"),
        ("at-most-once", "worker", "", {"fault_lost": 3}, "kept"),
        ("at-most-once", "worker", "", {"fault_duplicated": 1}, "broken"),
        ("at-most-once", "worker", "", {"fault_rerun": 1}, "broken"),  # it had begun, and began again
        ("at-least-once", "worker", "", {"fault_lost": 1}, "broken"),
        ("at-least-once", "worker", "", {"fault_failed": 1}, "broken"),  # interrupted, and never run again
        ("at-least-once", "worker", "", {"fault_duplicated": 1, "fault_rerun": 1}, "kept"),
        ("at-least-once", "clock-ahead", "", {"fault_duplicated": 1}, "kept"),
        ("exactly-once", "worker", "", {"fault_duplicated": 1}, "broken"),
        ("exactly-once", "worker", "", {"fault_rerun": 1}, "kept"),
        ("at-most-once", "worker", "", {"struck": 0}, "not struck"),
        ("at-least-once", "flood", "", {"struck": 0}, "kept"),  # there is nothing to strike
        ("at-most-once", "worker", "redelivered", {"fault_lost": 1}, "broken"),  # more than its guarantee
        ("at-least-once", "worker", "lost", {"fault_lost": 1}, "kept"),
        ("none", "worker", "lost", {"fault_lost": 1}, "kept"),
        ("none", "task-process", "failed", {"fault_rerun": 1}, "broken"),
        ("none", "worker-pause", "kept", {"fault_lost": 1}, "broken"),
        ("none", "worker-pause", "kept", {"fault_rerun": 1}, "broken"),
        ("none", "unserialisable", "refused", {"special_refused": 1}, "kept"),
        ("none", "unserialisable", "refused", {"special_attempts": 1}, "broken"),
        ("none", "unserialisable", "lost", {}, "kept"),
        ("none", "unserialisable", "lost", {"special_attempts": 1}, "broken"),
        ("none", "unserialisable", "kept", {"special_attempts": 1}, "kept"),
        ("at-most-once", "raise", "failed", {"special_attempts": 1}, "kept"),
        ("at-most-once", "raise", "failed", {"special_attempts": 2}, "broken"),
        ("at-most-once", "raise", "failed", {"special_attempts": 1, "fault_rerun": 1}, "broken"),
        ("at-least-once", "raise", "redelivered", {"special_attempts": 2}, "kept"),
        ("at-least-once", "raise", "redelivered", {"special_attempts": 1}, "broken"),
        ("none", "poison", "lost", {"special_attempts": 1, "fault_lost": 4}, "kept"),
        ("at-least-once", "poison", "redelivered", {"special_attempts": 6, "fault_lost": 1}, "broken"),
    ],
)
def test_a_verdict_rests_on_what_the_vendor_says_or_on_the_guarantee(
    guarantee: str, fault: str, kind: str, counts: dict[str, int], verdict: str
) -> None:
    assert seen(guarantee, fault, kind, counts).verdict == verdict


def test_what_ended_ok_in_no_trial_has_no_verdict() -> None:
    assert seen("at-most-once", "worker", "").verdict == ""


def test_one_loss_in_ten_trials_is_a_loss_and_is_named() -> None:
    found = seen("at-least-once", "worker", "", *[{}] * 9, {"fault_lost": 1})
    found.trials["10"].ids["fault_lost"] = "tasks 17"
    assert found.verdict == "broken"
    assert (found.count("fault_lost"), found.ids("fault_lost")) == (1, "trial 10: tasks 17")


def test_what_one_trial_does_too_often_does_not_make_up_for_another() -> None:
    poison = [{"special_attempts": attempts} for attempts in (6, 1)]
    assert seen("none", "poison", "redelivered", *poison).verdict == "broken"
    raising = [{"special_attempts": attempts} for attempts in (2, 0)]
    assert seen("none", "raise", "failed", *raising).verdict == "broken"


def test_a_trial_that_did_not_end_ok_leaves_no_promise_kept() -> None:
    found = seen("at-most-once", "broker", "", {}, {}, failed={"3": "60 s passed"})
    assert (found.verdict, found.trials_text) == ("unclear", "2 of 3")
    assert seen("at-least-once", "broker", "", {"fault_lost": 1}, failed={"2": ""}).verdict == "broken"


def test_a_figure_of_few_tasks_says_of_how_many() -> None:
    found = seen("none", "worker", "", {}, {})
    for trial, n in zip(found.trials.values(), (20, 4), strict=True):
        trial.tasks["throughput_after"] = n
    assert (found.few("throughput_after"), found.few("standstill")) == ("4 tasks", "")
    found.trials["2"].tasks["throughput_after"] = FEW
    assert found.few("throughput_after") == ""


def test_one_trial_that_struck_something_is_a_test() -> None:
    assert seen("at-most-once", "broker", "", {"struck": 0}, {}).verdict == "kept"


def test_every_adapter_that_is_measured_says_what_its_vendor_promises() -> None:
    for system in discovery.systems().values():
        if system.family in ("floor", "pattern"):
            continue
        for variant in system.variants.values():
            missing = {"worker", "raise", "poison"} - variant.promises.keys()
            assert not missing, f"{system.name}:{variant.name}"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('worker = ["gone", "words", 1, "https://example.org"]', "unknown promise 'gone'"),
        ('lightning = ["lost", "words", 1, "https://example.org"]', "unknown fault 'lightning'"),
        ('worker = ["lost", "words", "soon", "https://example.org"]', "must be [kind, words, seconds, link]"),
        ('worker = ["lost", "words", 1, "example.org"]', "must be [kind, words, seconds, link]"),
    ],
)
def test_a_promise_that_says_nothing_is_refused(tmp_path: Path, line: str, words: str) -> None:
    text = (Path(__file__).parent / "example_adapter.py").read_text()
    table = f"# [tool.schedbench.promises]\n# {line}\n#\n"
    path = tmp_path / "spool.py"
    path.write_text(
        text.replace("# [tool.schedbench.variants.poll]", table + "# [tool.schedbench.variants.poll]")
    )
    with pytest.raises(UsageError) as caught:
        discovery.load(path)
    assert words in str(caught.value)


def test_words_of_a_shorter_constant_are_one_remark(tmp_path: Path) -> None:
    text = (Path(__file__).parent / "example_adapter.py").read_text()
    table = f'# [tool.schedbench.scaled]\n# timeout = [1, "1 s; not 60 s", "{LINK}"]\n#\n'
    path = tmp_path / "spool.py"
    path.write_text(
        text.replace("# [tool.schedbench.variants.poll]", table + "# [tool.schedbench.variants.poll]")
    )
    with pytest.raises(UsageError, match="words without '; '"):
        discovery.load(path)


def test_every_fault_stands_in_one_matrix() -> None:
    parts = {fault: _part(fault) for fault in FAULTS}
    assert {parts[fault] for fault in ("worker", "task-process", "server-pause")} == {"processes"}
    assert {parts[fault] for fault in ("broker", "database-kill", "cut", "clock-back")} == {"services"}
    assert {parts[fault] for fault in ("raise", "poison", "flood")} == {"tasks"}
    assert set(parts.values()) == PARTS.keys()


def test_verdicts_know_every_promise_and_guarantee() -> None:
    assert ALLOWED.keys() == SHORT.keys() == {*PROMISES, *discovery.GUARANTEES}


def test_figures_have_the_interval_over_the_trials_and_everything_its_doubts(tmp_path: Path) -> None:
    systems = {
        "rq": {"title": "RQ", "variants": {"redis": {"guarantee": "at-most-once"}}, "default": ["redis"]}
    }
    made = create(tmp_path / "results", {"systems": systems, "trials": 3, "slots": 2})
    shorter = "visibility is 10 s, not 3600 s"
    for trial, (lost, standstill) in enumerate(((0, 2.0), (1, 4.0), (0, 3.0)), 1):
        note = f"{shorter}; machine disturbed: a burn took twice its time" if trial == 3 else shorter
        metrics = [
            Metric("struck", "count", 1.0, 60, note=f"tasks {trial}; {note}"),
            Metric("fault_lost", "count", float(lost), 60, note=f"tasks 7; {note}" if lost else note),
            Metric("standstill", "s", standstill, 60, note=note),
            Metric("throughput_after", "x", 1.0, 8, note=note),
        ]
        made.write_cell(Cell("rq", "redis", "faults", {"fault": "worker"}, trial), Status.OK, "", metrics, {})
    made.write_summary()

    *matrices, full = tables(read_run(made.path))
    headings = [column.label for column in full.columns]
    row = dict(zip(headings, full.groups[0].rows[0], strict=True))
    assert (row["Struck"].text, row["Lost"].text, row["Lost"].sub) == ("3", "1", "trial 2: tasks 7")
    assert (row["Standstill, s"].text, row["Standstill, s"].sub) == ("3.00", "2.00\N{EN DASH}4.00")
    assert row["Standstill, s"].marks == (Mark.DISTURBED, Mark.FEW_TRIALS)
    assert row["Throughput after"].sub == "1.00\N{EN DASH}1.00; 8 tasks"
    assert (row["Verdict"].text, row["Verdict"].marks) == ("kept", (Mark.DISTURBED,))
    assert [full.notes[number - 1] for number in row["Verdict"].notes] == [
        shorter,
        "machine disturbed (1 of 3 trials)",
    ]
    assert full.records[0]["standstill_ci_high"] == 4.0
    verdict = next(matrix for matrix in matrices if not matrix.empty).groups[0].rows[0][-1]
    assert (verdict.dagger, verdict.about, len(verdict.notes)) == (True, False, 2)

    shown = io.StringIO()  # at the end of a run, the terminal has the verdicts
    report(made.path, {"terminal"}, tmp_path / "report", Console(file=shown, width=120))
    assert "promised and observed" in shown.getvalue()
    assert "kept \N{DAGGER} [1,2] (never twice: 1 lost)" in shown.getvalue()
    assert shorter in excerpt(read_run(made.path), "faults-processes")
