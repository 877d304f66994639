"""What vendors promise when something goes wrong: headers that say it, and verdicts on what was seen."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bench import discovery
from bench.errors import UsageError
from bench.model import FAULTS, PROMISES, Cell, Metric, Promise, Status, Traced
from bench.store import Run, create, read_run
from reports.faults import ALLOWED, FEW, PARTS, SHORT, Seen, Trial, _part, tables
from reports.marks import Mark
from reports.measured import Subject
from reports.render import excerpt, report
from reports.tables import Entry

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
        ("at-most-once", "worker", "", {"struck": 0, "fault_lost": 1}, "not struck"),
        ("at-least-once", "worker", "", {"struck": 0, "fault_lost": 1}, "broken"),  # lost all the same
        ("at-least-once", "flood", "", {"struck": 0}, "kept"),  # there is nothing to strike
        ("at-least-once", "flood", "", {"struck": 0, "fault_lost": 1}, "broken"),
        ("at-most-once", "pool", "", {"struck": 0, "fault_duplicated": 1}, "broken"),
        ("at-most-once", "worker", "redelivered", {"fault_lost": 1}, "broken"),  # more than its guarantee
        ("at-most-once", "server", "redelivered", {"fault_rerun": 1}, "kept"),
        ("at-most-once", "server", "redelivered", {"fault_duplicated": 1}, "broken"),  # nobody said: twice
        ("at-least-once", "broker-kill", "lost", {"fault_duplicated": 1}, "kept"),
        ("at-most-once", "broker-kill", "lost", {"fault_duplicated": 1}, "broken"),
        ("at-least-once", "worker-pause", "kept", {"fault_duplicated": 1}, "broken"),
        ("none", "server", "redelivered", {"fault_duplicated": 1}, "kept"),
        ("at-most-once", "cut", "repeated", {"fault_duplicated": 1}, "kept"),
        ("at-least-once", "cut", "redelivered", {"fault_duplicated": 1}, "kept"),
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


def spool_with(folder: Path, table: str, line: str) -> Path:
    """The example adapter with one more line in a table of its header."""
    text = (Path(__file__).parent / "example_adapter.py").read_text()
    path, below = folder / "spool.py", "# [tool.schedbench.variants.poll]"
    path.write_text(text.replace(below, f"# [tool.schedbench.{table}]\n# {line}\n#\n{below}"))
    return path


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
    with pytest.raises(UsageError) as caught:
        discovery.load(spool_with(tmp_path, "promises", line))
    assert words in str(caught.value)


def test_words_of_a_shorter_constant_are_one_remark(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="words without '; '"):
        discovery.load(spool_with(tmp_path, "scaled", f'timeout = [1, "1 s; not 60 s", "{LINK}"]'))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('lightning = ["words", "https://example.org"]', "unknown fault 'lightning'"),
        ('worker = ["words", "example.org"]', "the last one a link"),
        ('worker = ["one; two", "https://example.org"]', "has '; ' in its words"),
    ],
)
def test_a_trace_that_says_nothing_is_refused(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        discovery.load(spool_with(tmp_path, "traced", line))
    assert words in str(caught.value)


def test_scripts_that_a_header_names_as_a_trace_are_there() -> None:
    named = [
        word
        for system in discovery.systems().values()
        for variant in system.variants.values()
        for traced in variant.traced.values()
        for word in traced.words.split()
        if word.startswith("tests/")
    ]
    folder = Path(__file__).parent / "traces"
    assert {Path(word).name for word in named} == {path.name for path in folder.glob("*.py")}


def test_a_broken_promise_says_why_or_that_nobody_knows_yet() -> None:
    found = seen("at-least-once", "worker", "", {"fault_lost": 1})
    assert (found.why, found.why_link) == ("not traced yet", "")
    found.traced = Traced("known", LINK)
    assert (found.why, found.why_link) == ("known", LINK)
    found.trials["1"].counts["fault_lost"] = 0
    assert (found.verdict, found.why, found.why_link) == ("kept", "", "")


def test_every_fault_stands_in_one_matrix() -> None:
    parts = {fault: _part(fault) for fault in FAULTS}
    assert {parts[fault] for fault in ("worker", "task-process", "server-pause")} == {"processes"}
    assert {parts[fault] for fault in ("broker", "database-kill", "cut", "clock-back")} == {"services"}
    assert {parts[fault] for fault in ("raise", "poison", "flood")} == {"tasks"}
    assert set(parts.values()) == PARTS.keys()


def test_verdicts_know_every_promise_and_guarantee() -> None:
    assert ALLOWED.keys() == SHORT.keys() == {*PROMISES, *discovery.GUARANTEES}


SHORTER = "visibility is 10 s, not 3600 s"


class Trials:
    """A run of the fault `worker`, at-most-once, of which trials are written through the store."""

    def __init__(self, folder: Path) -> None:
        about = {"title": "RQ", "variants": {"redis": {"guarantee": "at-most-once"}}, "default": ["redis"]}
        self.made = create(folder / "results", {"systems": {"rq": about}, "trials": 3, "slots": 2})

    def write(
        self,
        trial: int,
        *metrics: Metric,
        note: str = SHORTER,
        status: Status = Status.OK,
        reason: str = "",
        **params: object,
    ) -> None:
        noted = [metric.noted(note) for metric in metrics]
        cell = Cell("rq", "redis", "faults", {"fault": "worker", **params}, trial)
        self.made.write_cell(cell, status, reason, noted, {})

    @property
    def run(self) -> Run:
        self.made.write_summary()
        return read_run(self.made.path)

    def rows(self) -> list[dict[str, Entry]]:
        """The entries of the full table by heading."""
        table = tables(self.run)[-1]
        headings = [column.label for column in table.columns]
        return [dict(zip(headings, row, strict=True)) for group in table.groups for row in group.rows]


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path)


def counted(lost: int = 0) -> tuple[Metric, Metric]:
    named = "tasks 7" if lost else ""
    return Metric("struck", "count", 1.0, 60, note="tasks 3"), Metric(
        "fault_lost", "count", lost, 60, note=named
    )


def test_figures_have_the_interval_over_the_trials_and_everything_its_doubts(
    trials: Trials, tmp_path: Path
) -> None:
    for trial, (lost, standstill) in enumerate(((0, 2.0), (1, 4.0), (0, 3.0)), 1):
        note = f"{SHORTER}; machine disturbed: a burn took twice its time" if trial == 3 else SHORTER
        figures = Metric("standstill", "s", standstill, 60), Metric("throughput_after", "x", 1.0, 8)
        late = [Metric("recovered_after", "s", 5.0, 60, note="a lower bound: not before the load ended")]
        trials.write(trial, *counted(lost), *figures, *late[: trial == 1], note=note)

    (row,) = trials.rows()
    assert (row["Struck"].text, row["Lost"].text, row["Lost"].sub) == ("3", "1", "trial 2: tasks 7")
    assert (row["Standstill, s"].text, row["Standstill, s"].sub) == ("3.00", "2.00\N{EN DASH}4.00")
    assert row["Standstill, s"].marks == (Mark.DISTURBED, Mark.FEW_TRIALS)
    assert (row["Late until, s"].sub, row["Late until, s"].dagger) == ("1 of 3 trials", True)
    assert row["Throughput after"].sub == "1.00\N{EN DASH}1.00; 8 tasks"
    assert (row["Verdict"].text, row["Verdict"].marks) == ("kept", (Mark.DISTURBED,))
    *matrices, full = tables(trials.run)
    notes = [full.notes[number - 1] for number in row["Verdict"].notes]
    assert notes == [SHORTER, "machine disturbed (1 of 3 trials)"]
    (record,) = full.records
    assert (record["standstill_ci_low"], record["standstill_ci_high"]) == (2.0, 4.0)
    assert set(str(record["marks"]).split("; ")) == {"disturbed", "lower bound", "one trial", "few trials"}
    assert str(record["reason"]).count(SHORTER) == 1
    verdict = next(matrix for matrix in matrices if not matrix.empty).groups[0].rows[0][-1]
    assert (verdict.dagger, verdict.about, len(verdict.notes)) == (True, False, 2)

    shown = io.StringIO()  # at the end of a run, the terminal has the verdicts
    report(trials.made.path, {"terminal"}, tmp_path / "report", Console(file=shown, width=140))
    assert "promised and observed" in shown.getvalue()
    assert "kept \N{DAGGER} [1,2] (never twice: 1 lost in 3 trials)" in shown.getvalue()
    assert SHORTER in excerpt(trials.run, "faults-processes")


def test_one_trial_has_the_interval_within_it(trials: Trials) -> None:
    trials.write(1, *counted(), Metric("throughput_after", "x", 0.45, 20, 0.16, 1.2))
    (row,) = trials.rows()
    assert row["Throughput after"].sub == "0.160\N{EN DASH}1.20"
    assert (row["Throughput after"].about, row["Verdict"].about) == (True, False)


def test_a_trial_that_failed_says_why_and_once(trials: Trials) -> None:
    trials.write(1, *counted())
    trials.write(2, *counted(), status=Status.ERROR, reason="a fault was never done: no task ran")
    trials.write(3, *counted(), note="invalid: the clock jumped; " + SHORTER)
    (row,) = trials.rows()
    why = "a fault was never done: no task ran; invalid: the clock jumped"
    assert (row["Verdict"].text, row["Verdict"].sub, row["Trials"].text) == ("unclear", why, "1 of 3")
    full = tables(trials.run)[-1]
    assert [full.notes[number - 1] for number in row["Verdict"].notes] == [SHORTER]


def test_a_fault_that_ended_well_for_nobody_is_shown(trials: Trials) -> None:
    trials.write(1, status=Status.TIMEOUT, reason="60 s passed", note="")
    matrix = next(table for table in tables(trials.run) if table.key == "faults-processes")
    assert [column.label for column in matrix.columns][-1] == "worker"
    assert matrix.groups[0].rows[0][-1].text == "did not end ok"


def test_conditions_of_a_fault_are_told_apart(trials: Trials) -> None:
    """Of the same trial, a loss under one is not made good by the other."""
    for load_s, lost in ((12.0, 1), (6.0, 0)):
        trials.write(1, *counted(lost), Metric("standstill", "s", load_s, 60), load_s=load_s)
    first, second = trials.rows()
    assert [(row["Lost"].text, row["Standstill, s"].text) for row in (first, second)] == [
        ("1", "12.0"),
        ("0", "6.00"),
    ]
    matrix = next(table for table in tables(trials.run) if table.key == "faults-processes")
    assert [row[0].sub for row in matrix.groups[0].rows] == ["redis, load_s=12.0", "redis, load_s=6.0"]
