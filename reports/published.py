"""The published figures, and the verdict on each when it is held against a measured one.

Rules of the verdict, the same for every figure:

- A measured figure is *within* when its median lies in the published range, or when its interval reaches
  into it (then the run cannot tell them apart, and the verdict says so). It is *below* or *above* only
  when the whole interval lies outside.
- A figure published as a single number stands for that number ±10 %, because the survey rounds and gives
  no spread. A bound that the survey leaves open is open here.
- A figure that is unfit (`reports.marks`: invalid, of too few samples, of a disturbed machine, of the tasks
  that survived), or was measured under another condition, is *not comparable*.
- What a variant cannot be asked, and what was published of something that one machine cannot be, is *not
  comparable here*.
"""

from __future__ import annotations

import csv
import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.stats import Interval
from reports.marks import unfit
from reports.measured import Subject

FILE: Final = Path(__file__).with_name("published") / "figures.csv"
TOLERANCE: Final = 0.10
"""Half-width given to a figure that was published as one number."""

EVERY_OTHER: Final = "*"

SURVEY_VARIANTS: Final[Mapping[str, Mapping[str, str]]] = {
    "temporal": {"external": "cluster", EVERY_OTHER: "local"},
    "prefect": {EVERY_OTHER: "local"},
}
"""What the survey calls a variant of a system, where it has another name for it than we have."""

NOT_HERE: Final[Mapping[tuple[str, str], str]] = {
    ("temporal", "cluster"): "a cluster of several machines: temporal:external measures one at its address",
    ("prefect", "cloud"): "a hosted service",
}
"""Why the survey's figures of a system and its variant have no counterpart on one machine."""

PROVISOS: Final[Mapping[tuple[str, str], str]] = {
    ("temporal", "cluster"): "provided that a cluster answers at the address",
}
"""What must hold for a verdict on the survey's figures of a system and its variant."""


class Word(enum.StrEnum):
    """What a measured figure is, held against the published one."""

    BELOW = "below"
    WITHIN = "within"
    ABOVE = "above"
    NOT_COMPARABLE = "not comparable"
    NOT_HERE = "not comparable here"
    NOT_MEASURED = "not measured"
    NOTHING = ""  # the survey says nothing about this system


@dataclass(frozen=True)
class Verdict:
    """The word, and why where that is not plain from the numbers."""

    word: Word
    why: str = ""

    def __str__(self) -> str:
        return f"{self.word} ({self.why})" if self.why else str(self.word)

    @property
    def told(self) -> bool:
        """Whether it says how the two compare."""
        return self.word in (Word.BELOW, Word.WITHIN, Word.ABOVE)

    def reserved(self, *words: str) -> Verdict:
        """The same with further reservations."""
        return Verdict(self.word, "; ".join(filter(None, (self.why, *words))))


@dataclass(frozen=True)
class Figure:
    """One published figure. `low` or `high` is None where the survey leaves that side open."""

    id: str
    table: str
    system: str
    variant: str
    metric: str
    unit: str
    low: float | None
    high: float | None
    condition: str
    source: str

    @property
    def text(self) -> str:
        """The range as the survey prints it."""
        low, high = (None if bound is None else f"{bound:,g}" for bound in (self.low, self.high))
        if low is None and high is None:
            return "no number"
        if low is None or high is None:
            return f"≤ {high}" if low is None else f"≥ {low}"
        return low if low == high else f"{low}\N{EN DASH}{high}"

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """The range that a measured figure is held against: a single number gets the tolerance."""
        if self.low is not None and self.low == self.high:
            return self.low * (1 - TOLERANCE), self.low * (1 + TOLERANCE)
        return self.low, self.high


def load(file: Path = FILE) -> list[Figure]:
    """All published figures, in the order of the file."""
    with file.open(encoding="utf-8", newline="") as lines:
        return [_figure(row) for row in csv.DictReader(lines)]


def _figure(row: dict[str, str]) -> Figure:
    bounds = {side: float(row.pop(side) or "nan") for side in ("low", "high")}
    low, high = (None if math.isnan(bounds[side]) else bounds[side] for side in ("low", "high"))
    return Figure(**row, low=low, high=high)


def concerns(figure: Figure, subject: Subject) -> bool:
    """Whether a figure is about a system as it was run.

    A figure with a variant is about every variant that the survey would call so (`SURVEY_VARIANTS`), one
    without about each default variant.
    """
    if figure.system != subject.system:
        return False
    names = SURVEY_VARIANTS.get(subject.system, {})
    called = names.get(subject.variant, names.get(EVERY_OTHER, subject.variant))
    return figure.variant == called if figure.variant else subject.default


def find(figures: Iterable[Figure], table: str, subject: Subject, metric: str) -> Figure | None:
    """The figure of a survey table for a subject: that of its variant, else that of its system."""
    found = [
        figure
        for figure in figures
        if figure.table == table
        and concerns(figure, subject)
        and measured_name(figure, subject.in_process) == metric
    ]
    return max(found, key=lambda figure: bool(figure.variant), default=None)


def measured_name(figure: Figure, in_process: bool) -> str:
    """The measured metric that a published one is held against.

    The survey's "process" is the process that runs the tasks: the client of an in-process system, the
    workers of any other.
    """
    own = {
        "idle_rss.process": "idle_rss.client" if in_process else "idle_rss.worker",
        "processes_and_services": "components",
    }
    return own.get(figure.metric, figure.metric)


def verdict(low: float | None, high: float | None, measured: Interval | None, reason: str = "") -> Verdict:
    """Hold a measured figure against the range `low` to `high` in the same unit, either side may be open.

    `reason` holds the remarks on the measured figure, parted by `; `.
    """
    if low is None and high is None:
        return Verdict(Word.NOT_COMPARABLE, "the survey gives no number")
    if measured is None:
        return Verdict(Word.NOT_COMPARABLE, reason or "no figure")
    if unfit(reason):
        return Verdict(Word.NOT_COMPARABLE, unfit(reason))
    inside = (low is None or measured.value >= low) and (high is None or measured.value <= high)
    if measured.low is None and not inside:
        return Verdict(Word.NOT_COMPARABLE, "one trial has no interval")
    bottom = measured.value if measured.low is None else measured.low
    top = measured.value if measured.high is None else measured.high
    under, over = low is not None and measured.value < low, high is not None and measured.value > high
    if under and low is not None:
        return Verdict(Word.WITHIN, "its interval reaches the range") if top >= low else Verdict(Word.BELOW)
    if over and high is not None:
        return (
            Verdict(Word.WITHIN, "its interval reaches the range") if bottom <= high else Verdict(Word.ABOVE)
        )
    return Verdict(Word.WITHIN)


def judge(figure: Figure | None, measured: Interval | None, reason: str, other: str = "") -> Verdict:
    """The verdict on a measured figure; `other` says under which other condition it was measured."""
    if figure is None:
        return Verdict(Word.NOTHING)
    if other and measured is not None:
        return Verdict(Word.NOT_COMPARABLE, other)
    found = verdict(*figure.bounds, measured, reason)
    return found.reserved(PROVISOS.get((figure.system, figure.variant), "") if found.told else "")


def unmeasured(figure: Figure) -> Verdict:
    """The verdict on a published figure that nothing in a run stands beside."""
    why = NOT_HERE.get((figure.system, figure.variant), "")
    return Verdict(Word.NOT_HERE, why) if why else Verdict(Word.NOT_MEASURED)
