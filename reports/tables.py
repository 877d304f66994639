"""Tables as every format shows them: headings, groups, entries as text, footnotes; raw records for CSV.

A figure is rounded to three digits here and nowhere else; the records keep what `summary.csv` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.stats import Interval
from reports import marks
from reports.marks import Mark
from reports.measured import Measured

DASH: Final = "\N{EN DASH}"
TIMES: Final = "\N{MULTIPLICATION SIGN}"
NONE: Final = "\N{EM DASH}"


@dataclass(frozen=True)
class Entry:
    """One field of a table: its text, a smaller remark under it, its marks, the numbers of its footnotes.

    `link` is the address that the text leads to, in formats that have links.
    """

    text: str
    sub: str = ""
    notes: tuple[int, ...] = ()
    tone: str = ""
    marks: tuple[Mark, ...] = ()
    link: str = ""

    @property
    def about(self) -> bool:
        """Whether the sign of a first look stands before the text."""
        return marks.about(self.marks)

    @property
    def dagger(self) -> bool:
        """Whether the sign of a doubt stands behind the text."""
        return marks.dagger(self.marks)


@dataclass(frozen=True)
class Column:
    """A heading, and whether its entries are numbers."""

    label: str
    numeric: bool = False


@dataclass(frozen=True)
class Group:
    """Rows under one heading; an empty heading for none."""

    title: str
    rows: tuple[tuple[Entry, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table in every format.

    `records` are its rows with raw numbers, `notes` its footnotes from 1, `legend` says what the signs in it
    mean. A table that is `stated` is shown even without a row: its lead then says what is missing. One
    that is `folded` is long and to look things up in: where a page can, it shows these words in its place.
    """

    key: str
    title: str
    lead: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()
    records: tuple[Mapping[str, Any], ...] = ()
    legend: tuple[str, ...] = ()
    stated: bool = False
    folded: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is no row."""
        return not any(group.rows for group in self.groups)


@dataclass
class Footnotes:
    """The remarks on the figures of a table, numbered in the order in which they first occur.

    Remarks on few trials get no number, because in a small run every figure has one: the legend quotes them.
    """

    texts: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def of(self, reason: str) -> tuple[int, ...]:
        """The numbers of the remarks in `reason`, which are parted by `; `."""
        numbers = []
        for text in marks.remarks(reason):
            if marks.mark_of(text) in marks.FIRST_LOOK:
                continue
            if text not in self.texts:
                self.texts.append(text)
            numbers.append(self.texts.index(text) + 1)
        return tuple(numbers)

    def figure(self, interval: Interval | None, reason: str, unit: str = "", sub: str = "") -> Entry:
        """A figure with its marks and the numbers of its remarks; of a missing one, only the numbers.

        A count that was the same in several trials is no first look.
        """
        if interval is None:
            return Entry(NONE, notes=self.of(reason))
        found = marks.marks(reason)
        if unit == "count" and interval.low is not None and interval.low == interval.high:
            found = tuple(mark for mark in found if mark not in marks.FIRST_LOOK)
        self.reasons.append("; ".join(text for text in marks.remarks(reason) if marks.mark_of(text) in found))
        return Entry(value_text(interval, unit), sub, self.of(reason), marks=found)

    def beside(self, row: Measured | None, unit: str = "", sub: str = "") -> Entry:
        """The same of a figure that may not be there at all."""
        return Entry(NONE) if row is None else self.figure(row.interval, row.reason, unit, sub)

    @property
    def legend(self) -> tuple[str, ...]:
        """What the signs at the figures mean."""
        return marks.legend(self.reasons)


def number(value: float) -> str:
    """Three digits, and every digit before the point."""
    if not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    digits = 2 - math.floor(math.log10(abs(rounded)))  # 99.96 became 100
    return f"{rounded:,.{max(0, digits)}f}"


def value_text(interval: Interval | None, unit: str = "") -> str:
    """The figure alone; counts as they are."""
    if interval is None:
        return NONE
    return f"{interval.value:g}" if unit == "count" else number(interval.value)


def interval_text(interval: Interval | None, unit: str = "") -> str:
    """The ends of the interval."""
    if interval is None or interval.low is None or interval.high is None:
        return NONE
    if unit == "count":
        return (
            f"{interval.low:g}"
            if interval.low == interval.high
            else f"{interval.low:g}{DASH}{interval.high:g}"
        )
    return f"{number(interval.low)}{DASH}{number(interval.high)}"


def counts_text(trials: int, tasks: str) -> str:
    """How many trials, times how many observations in each."""
    if not trials:
        return NONE
    return f"{trials} {TIMES} {tasks}" if tasks else f"{trials}"


def plain(
    key: str, title: str, lead: str, labels: Sequence[str], records: Iterable[Mapping[str, Any]]
) -> Table:
    """A table without groups, of records whose keys are in the order of `labels`."""
    kept = tuple(records)
    rows = tuple(tuple(Entry(text(value)) for value in record.values()) for record in kept)
    numeric = [
        bool(kept) and all(isinstance(list(r.values())[i], int) for r in kept) for i in range(len(labels))
    ]
    columns = tuple(Column(label, numeric[i]) for i, label in enumerate(labels))
    return Table(key, title, lead, columns, (Group("", rows),), (), kept)


def text(value: object) -> str:
    """A value of a plain table as text; counts keep every digit."""
    if isinstance(value, int):
        return f"{value:,}"
    return str(value) or NONE
