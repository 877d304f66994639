"""What vendors promise when something goes wrong: headers that say it, and verdicts on what was seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import discovery
from bench.errors import UsageError
from bench.model import FAULTS, PROMISES, Promise
from reports.faults import Seen
from reports.measured import Subject

LINK = "https://example.org/"
CLEAN = {"fault_lost": 0, "fault_duplicated": 0, "fault_failed": 0, "special_refused": 0}


def seen(guarantee: str, fault: str, kind: str = "", trials: int = 1, **counts: int) -> str:
    """The verdict on these counts."""
    subject = Subject("any", "thing", "Any", "task queue", guarantee, True, False)
    promise = Promise(kind, "", 0, LINK) if kind else None
    return Seen(subject, fault, promise, trials, {**CLEAN, **counts}).verdict


@pytest.mark.parametrize(
    ("guarantee", "fault", "kind", "counts", "verdict"),
    [
        ("none", "worker", "", {"fault_lost": 3}, "no promise"),
        ("at-most-once", "worker", "", {"fault_lost": 3}, "kept"),
        ("at-most-once", "worker", "", {"fault_duplicated": 1}, "broken"),
        ("at-least-once", "worker", "", {"fault_lost": 1}, "broken"),
        ("at-least-once", "worker", "", {"fault_duplicated": 1}, "kept"),
        ("exactly-once", "worker", "", {"fault_duplicated": 1}, "broken"),
        ("exactly-once", "worker", "", {}, "kept"),
        ("at-most-once", "pool", "", {"fault_lost": 1}, "broken"),  # nothing crashed
        ("at-least-once", "flood", "", {"fault_duplicated": 1}, "broken"),
        ("at-most-once", "worker", "redelivered", {"fault_lost": 1}, "broken"),  # more than its guarantee
        ("at-least-once", "worker", "lost", {"fault_lost": 1}, "kept"),
        ("none", "worker", "lost", {"fault_lost": 1}, "kept"),
        ("none", "worker", "failed", {"fault_duplicated": 1}, "broken"),
        ("none", "worker-pause", "kept", {"fault_lost": 1}, "broken"),
        ("none", "unserialisable", "refused", {"special_refused": 1}, "kept"),
        ("none", "unserialisable", "refused", {"special_attempts": 1}, "broken"),
        ("none", "unserialisable", "lost", {}, "kept"),
        ("none", "unserialisable", "kept", {"special_attempts": 1}, "kept"),
        ("at-most-once", "raise", "failed", {"special_attempts": 1}, "kept"),
        ("at-most-once", "raise", "failed", {"special_attempts": 2}, "broken"),
        ("at-least-once", "raise", "redelivered", {"special_attempts": 2}, "kept"),
        ("at-least-once", "raise", "redelivered", {"special_attempts": 1}, "broken"),
        ("at-most-once", "poison", "failed", {"special_attempts": 1}, "kept"),
        ("at-least-once", "poison", "redelivered", {"special_attempts": 9, "fault_lost": 1}, "broken"),
    ],
)
def test_a_verdict_rests_on_what_the_vendor_says_or_on_the_guarantee(
    guarantee: str, fault: str, kind: str, counts: dict[str, int], verdict: str
) -> None:
    assert seen(guarantee, fault, kind, **counts) == verdict


def test_what_ran_in_no_trial_has_no_verdict() -> None:
    assert seen("at-most-once", "worker", trials=0) == ""


def test_one_loss_in_ten_trials_is_a_loss() -> None:
    assert seen("at-least-once", "worker", trials=10, fault_lost=1) == "broken"


def test_every_adapter_that_is_measured_says_what_its_vendor_promises() -> None:
    for system in discovery.systems().values():
        if system.family in ("floor", "pattern"):
            continue
        for variant in system.variants.values():
            assert {"worker", "raise", "poison"} - variant.promises.keys() <= (
                {"worker"} if system.name == "dagster" else set()  # its documentation is silent
            ), f"{system.name}:{variant.name}"


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


def test_the_words_of_promises_are_those_that_verdicts_know() -> None:
    assert set(PROMISES) == {"redelivered", "lost", "failed", "refused", "kept"}
    for kind in PROMISES:
        for fault in FAULTS:
            assert seen("none", fault, kind) in ("kept", "broken", "no promise")
