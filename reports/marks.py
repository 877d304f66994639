"""What the remarks on a figure say of its quality, in short words: the one place where that is decided.

Tables, CSV files and charts all ask here, so that a figure carries the same marks in every output.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from typing import Final

from bench.summary import DISTURBED, INVALID


class Mark(enum.StrEnum):
    """A doubt about a figure, the gravest first; the value is the word in CSV files."""

    INVALID = INVALID
    PARTIAL = "partial"
    FEW = "few"
    DISTURBED = "disturbed"
    SHARED = "shared machine"
    LATE = "late generator"
    BOUND = "lower bound"
    UPPER = "upper bound"
    ONE_TRIAL = "one trial"
    FEW_TRIALS = "few trials"


DAGGER: Final = "\N{DAGGER}"
ABOUT: Final = "\N{ALMOST EQUAL TO}"

FIRST_LOOK: Final = frozenset({Mark.ONE_TRIAL, Mark.FEW_TRIALS})
"""What every run of few trials has on every figure: shown by `ABOUT`, all others by `DAGGER`."""

MEANINGS: Final = {
    Mark.INVALID: "a check of the measurement failed, such as a generator that fell behind",
    Mark.PARTIAL: "trials or tasks are missing from it",
    Mark.FEW: "too few samples",
    Mark.DISTURBED: "something else used the machine",
    Mark.SHARED: "another schedbench was running",
    Mark.LATE: "tasks were not sent as planned",
    Mark.BOUND: "rests on a lower bound",
    Mark.UPPER: "an upper bound, not an estimate",
    Mark.ONE_TRIAL: "one trial",
    Mark.FEW_TRIALS: "two to five trials",
}

MOST_MISSING: Final = 0.01
"""Above this share of tasks that never ran, a rate or a latency speaks of the survivors only."""

_PATTERNS: Final = {
    Mark.INVALID: re.compile(rf"{INVALID}\b"),
    Mark.PARTIAL: re.compile(r"\d+ of \d+ (trials (failed|left out)|tasks|ticks never ran)\b"),
    Mark.FEW: re.compile(r"n < \d+"),
    Mark.DISTURBED: re.compile(rf"{DISTURBED}\b"),
    Mark.SHARED: re.compile(r"another schedbench\b"),
    Mark.LATE: re.compile(r"generator fell behind\b|the client could offer\b"),
    Mark.BOUND: re.compile(r".*\blower bound\b|its last process joined\b"),
    Mark.UPPER: re.compile(r".*\bupper bound\b"),
    Mark.ONE_TRIAL: re.compile(r"1 trial\b"),
    Mark.FEW_TRIALS: re.compile(r"interval of \d+ trials covers\b"),
}
_MISSING: Final = re.compile(r"(\d+) of (\d+) (?:tasks|ticks never ran)\b")
_FAILED: Final = re.compile(r"\d+ of \d+ trials failed\b")
_LEFT_OUT: Final = re.compile(r"(\d+) of (\d+) trials left out\b")
_SOME_TRIALS: Final = re.compile(r" \((\d+) of (\d+) trials\)$")


def remarks(reason: str) -> list[str]:
    """The remarks of a figure, which `summary.csv` parts by `; `."""
    return [remark for remark in reason.split("; ") if remark]


def mark_of(remark: str) -> Mark | None:
    """The mark of one remark; None for one that says nothing about quality."""
    return next((mark for mark, pattern in _PATTERNS.items() if pattern.match(remark)), None)


def marks(reason: str) -> tuple[Mark, ...]:
    """The marks of a figure by its remarks, the gravest first, each once."""
    found = {mark_of(remark) for remark in remarks(reason)}
    return tuple(mark for mark in Mark if mark in found)


def words(*reasons: str) -> str:
    """The marks of a row's figures as they stand in the column `marks` of a CSV file, parted by `; `."""
    return "; ".join(marks("; ".join(reasons)))


def grave(reason: str) -> bool:
    """Whether a figure has a mark beside that of few trials: charts draw it hollow or hatched."""
    return not FIRST_LOOK.issuperset(marks(reason))


def about(found: Iterable[Mark]) -> bool:
    """Whether `ABOUT` stands before a figure with these marks."""
    return not FIRST_LOOK.isdisjoint(found)


def dagger(found: Iterable[Mark]) -> bool:
    """Whether `DAGGER` stands behind a figure with these marks."""
    return not FIRST_LOOK.issuperset(found)


def marked(text: str, found: Iterable[Mark]) -> str:
    """A figure as text with its marks around it."""
    kept = tuple(found)
    return f"{ABOUT} " * about(kept) + text + f" {DAGGER}" * dagger(kept)


def unfit(reason: str) -> str:
    """The first remark that makes a figure unfit for a rank or a comparison, or an empty string.

    A disturbed or shared machine does so when half of the trials or more had it: of fewer, the interval
    over the trials shows what it did. So do trials that were left out: what is left of them is a choice.
    """
    for remark in remarks(reason):
        mark, missing = mark_of(remark), _MISSING.match(remark)
        if mark in (Mark.INVALID, Mark.FEW) or _FAILED.match(remark):
            return remark
        left_out = _LEFT_OUT.match(remark)
        if left_out and 2 * int(left_out[1]) >= int(left_out[2]):
            return remark
        if missing and int(missing[1]) > MOST_MISSING * int(missing[2]):
            return remark
        some = _SOME_TRIALS.search(remark)
        if mark in (Mark.DISTURBED, Mark.SHARED) and not (some and 2 * int(some[1]) < int(some[2])):
            return remark
    return ""


def legend(reasons: Iterable[str]) -> tuple[str, ...]:
    """What the signs of a table mean, for those that its figures have, by their remarks."""
    all_remarks = list(dict.fromkeys(remark for reason in reasons for remark in remarks(reason)))
    found = marks("; ".join(all_remarks))
    lines = []
    if dagger(found):
        means = "; ".join(f"{mark}: {MEANINGS[mark]}" for mark in found if mark not in FIRST_LOOK)
        lines.append(f"{DAGGER} read the remark. {means}.")
    if about(found):
        own = [remark for remark in all_remarks if mark_of(remark) in FIRST_LOOK]
        lines.append(f"{ABOUT} fewer than six trials, a first look: {'; '.join(own)}.")
    return tuple(lines)


def named(figures: Sequence[tuple[str, str]], drawn: str) -> list[str]:
    """The same for a chart, which has no footnotes: each doubt with the names of the figures that have it.

    `figures` are names and reasons, `drawn` says how a figure with a dagger looks (`hollow`, `hatched`).
    """
    found = marks("; ".join(reason for _, reason in figures))
    doubts = []
    for mark in (mark for mark in found if mark not in FIRST_LOOK):
        names = dict.fromkeys(name for name, reason in figures if mark in marks(reason))
        everything = len(figures) > 1 and all(mark in marks(reason) for _, reason in figures)
        doubts.append(f"{MEANINGS[mark]} ({'all' if everything else ', '.join(names)})")
    looks = [MEANINGS[mark] for mark in found if mark in FIRST_LOOK]
    lines = [f"{DAGGER} {drawn}: {'; '.join(doubts)}"] if doubts else []
    return [*lines, *([f"{ABOUT} first look: {', or '.join(looks)}"] if looks else [])]
