"""The tables of the survey: each line of a section as text, with its marks, and as a raw record."""

from __future__ import annotations

from typing import Any, Final

from reports import marks
from reports.lines import Line, Section
from reports.measured import Measured, Subject
from reports.published import Word
from reports.ranking import AT_FLOOR
from reports.tables import NONE, Column, Entry, Footnotes, Group, Table, counts_text, interval_text
from reports.texts import GROUP_TITLES, LEADS

AT_FLOOR_WORDS: Final = "at the floor"


def _verdict_entry(line: Line) -> Entry:
    """The verdict, with the reason under it; of a missing figure the footnote says why."""
    word = line.verdict.word
    tone = str(word) if line.verdict.told else "unclear" if word is Word.NOT_COMPARABLE else "absent"
    noted = word is Word.NOT_HERE and line.asked
    return Entry(str(word) or NONE, "" if noted else line.verdict.why, tone=tone)


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
    legend = (*notes.legend, *_unranked(section))
    return Table(
        section.key, section.title, lead, columns, tuple(groups), tuple(notes.texts), records, legend
    )


def _unranked(section: Section) -> tuple[str, ...]:
    """Why some lines have no rank, each reason once."""
    whys = list(dict.fromkeys(line.unranked for line in section.lines if line.unranked and line.interval))
    others = "; ".join(why for why in whys if why != AT_FLOOR)
    floor = [f"{AT_FLOOR_WORDS}: not ranked, {AT_FLOOR}."] if AT_FLOOR in whys else []
    return (*floor, *([f"{NONE} not ranked: {others}."] if others else []))


def _rank_entry(line: Line) -> Entry:
    if line.unranked == AT_FLOOR:
        return Entry(AT_FLOOR_WORDS, tone="absent")
    first_look = [mark for mark in marks.marks(line.reason) if mark in marks.FIRST_LOOK]
    return Entry(NONE) if line.unranked else Entry(line.rank, marks=tuple(first_look if line.rank else ()))


def _entries(line: Line, notes: Footnotes, repeated: bool) -> list[Entry]:
    """Every possible entry of a line, in the order of the columns of `survey_table`."""
    subject = line.subject
    return [
        _rank_entry(line),
        Entry("" if repeated else subject.title),
        Entry("" if repeated else subject.variant or NONE),
        Entry(line.part or NONE),
        notes.figure(line.interval, line.reason, line.unit),
        Entry(interval_text(line.interval, line.unit)),
        notes.beside(line.beside.get("rss")),
        notes.beside(line.beside.get("processes"), "count"),
        Entry(counts_text(line.trials, line.tasks)),
        Entry(line.published.text if line.published else NONE),
        _verdict_entry(line),
    ]


def _record(section: Section, line: Line) -> dict[str, Any]:
    interval, figure = line.interval, line.published
    rss, processes = (_value(line.beside.get(name)) for name in ("rss", "processes"))
    reasons = [line.reason, *(row.reason for row in line.beside.values())]
    return {
        "system": line.subject.system,
        "variant": line.subject.variant,
        "guarantee": line.subject.guarantee if line.group != "not measured" else "",
        "condition": section.condition,
        "role": line.part,
        "rank": line.rank,
        "unranked": line.unranked,
        "value": interval.value if interval else None,
        "unit": line.unit,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "rss": rss,
        "processes": processes,
        "trials": line.trials,
        "tasks": line.tasks,
        "published": figure.id if figure else "",
        "published_low": figure.low if figure else None,
        "published_high": figure.high if figure else None,
        "verdict": str(line.verdict.word),
        "why": line.verdict.why,
        "status": line.status,
        "marks": marks.words(*reasons),
        "reason": "; ".join(dict.fromkeys(filter(None, marks.remarks("; ".join(reasons))))),
    }


def _value(row: Measured | None) -> float | None:
    return row.interval.value if row and row.interval else None
