"""Tables as every format shows them: headings, groups, entries as text, footnotes; raw records for CSV.

A figure is rounded to three digits here and nowhere else; the records keep what `summary.csv` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.stats import Interval
from reports.lines import Line, Section
from reports.measured import Subject
from reports.published import Word
from reports.texts import GROUP_TITLES, LEADS

DASH: Final = "\N{EN DASH}"
TIMES: Final = "\N{MULTIPLICATION SIGN}"
NONE: Final = "\N{EM DASH}"


@dataclass(frozen=True)
class Entry:
    """One field of a table: its text, a smaller remark under it, and the numbers of its footnotes."""

    text: str
    sub: str = ""
    notes: tuple[int, ...] = ()
    tone: str = ""


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
    """A table in every format. `records` are its rows with raw numbers, `notes` its footnotes from 1."""

    key: str
    title: str
    lead: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()
    records: tuple[Mapping[str, Any], ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is no row."""
        return not any(group.rows for group in self.groups)


@dataclass
class Footnotes:
    """Remarks, numbered in the order in which they first occur."""

    texts: list[str] = field(default_factory=list)

    def of(self, reason: str) -> tuple[int, ...]:
        """The numbers of the remarks in `reason`, which are parted by `; `."""
        numbers = []
        for text in filter(None, reason.split("; ")):
            if text not in self.texts:
                self.texts.append(text)
            numbers.append(self.texts.index(text) + 1)
        return tuple(numbers)


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


def _verdict_entry(line: Line) -> Entry:
    """The verdict, with the reason under it."""
    word = line.verdict.word
    tone = {Word.NOT_COMPARABLE: "unclear", Word.NOT_MEASURED: "absent", Word.NOTHING: "absent"}
    return Entry(str(word) or NONE, line.verdict.why, tone=tone.get(word, str(word)))


def survey_table(section: Section) -> Table:
    """A table of the survey, with what was measured here beside it."""
    memory, ranks = section.key == "memory", section.higher_is_better is not None
    counted = memory or section.key == "components"
    unit = f", {section.unit}" if section.unit else ""
    optional = [
        (ranks, Column("Rank")),
        (True, Column("System")),
        (True, Column("Variant")),
        (memory, Column("Role")),
        (True, Column(("PSS" if memory else "Measured") + unit, True)),
        (True, Column("Interval", True)),
        (memory, Column("RSS, MB", True)),
        (counted, Column("Processes", True)),
        (True, Column("n", True)),
        (True, Column("Published RSS" if memory else "Published", True)),
        (True, Column("Verdict")),
    ]
    shown = [wanted for wanted, _ in optional]
    notes = Footnotes()
    groups = []
    for name in dict.fromkeys(line.group for line in section.lines):
        rows = []
        before: Subject | None = None
        for line in (line for line in section.lines if line.group == name):
            entries = _entries(line, notes, repeated=line.subject == before)
            rows.append(tuple(entry for entry, wanted in zip(entries, shown, strict=True) if wanted))
            before = line.subject
        groups.append(Group(GROUP_TITLES.get(name, name), tuple(rows)))
    better = {True: " Higher is better.", False: " Lower is better.", None: ""}[section.higher_is_better]
    lead = f"{LEADS[section.key]}{better} Condition: {section.condition}."
    columns = tuple(column for wanted, column in optional if wanted)
    records = tuple(_record(section, line) for line in section.lines)
    return Table(section.key, section.title, lead, columns, tuple(groups), tuple(notes.texts), records)


def _entries(line: Line, notes: Footnotes, repeated: bool) -> list[Entry]:
    """Every possible entry of a line, in the order of the columns of `survey_table`."""
    subject = line.subject
    return [
        Entry(line.rank),
        Entry("" if repeated else subject.title),
        Entry("" if repeated else subject.variant or NONE),
        Entry(line.part or NONE),
        Entry(value_text(line.interval, line.unit), notes=notes.of(line.reason)),
        Entry(interval_text(line.interval, line.unit)),
        Entry(value_text(line.beside.get("rss"))),
        Entry(value_text(line.beside.get("processes"), "count")),
        Entry(counts_text(line.trials, line.tasks)),
        Entry(line.published.text if line.published else NONE),
        _verdict_entry(line),
    ]


def _record(section: Section, line: Line) -> dict[str, Any]:
    interval, figure, rss = line.interval, line.published, line.beside.get("rss")
    processes = line.beside.get("processes")
    return {
        "system": line.subject.system,
        "variant": line.subject.variant,
        "guarantee": line.subject.guarantee if line.group != "not measured" else "",
        "condition": section.condition,
        "role": line.part,
        "rank": line.rank,
        "value": interval.value if interval else None,
        "unit": line.unit,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "rss": rss.value if rss else None,
        "processes": processes.value if processes else None,
        "trials": line.trials,
        "tasks": line.tasks,
        "published": figure.id if figure else "",
        "published_low": figure.low if figure else None,
        "published_high": figure.high if figure else None,
        "verdict": str(line.verdict.word),
        "why": line.verdict.why,
        "status": line.status,
        "reason": line.reason,
    }


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
