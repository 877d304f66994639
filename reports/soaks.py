"""The survey's S3: success over 24 hours at 1000 tasks an hour, beside what soaks here came to.

A shorter soak, or a compressed one, is shown with how long it really ran and gets no verdict. The survey
gives its rates to a tenth of a percent, so that each stands for itself and half of that to either side.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bench.model import Fate
from bench.store import Run
from reports import marks, published
from reports.lines import GUARANTEES, condition
from reports.measured import Measured, measured, subjects
from reports.published import Figure, Verdict, Word
from reports.tables import DASH, NONE, Column, Entry, Footnotes, Group, Table, interval_text
from reports.texts import GROUP_TITLES, TITLES

TABLE: Final = "S3 24 h success"
RATE: Final = "success_rate"
ROUNDED: Final = 0.05
"""Half of the last digit of the survey's rates, in %."""

LEAD: Final = (
    "The share of tasks that ended well and began within 60 s, of those that were offered and not cut off "
    "with the harness, with its exact 95 % interval. Incidents are groups of tasks that did not, a minute or "
    "more apart. A task that was asked to raise once and was run again by the library is ok when it ended "
    "well. n counts the tasks that were judged. Growth is that of the whole stack's PSS. The load is small."
)
COUNTS: Final[Mapping[str, str]] = {
    **{f"tasks_{fate}": fate.replace("_", " ").capitalize() for fate in Fate if fate is not Fate.OK},
    "tasks_failed_as_asked": "Failed as asked",
    "tasks_not_offered": "Not offered",
}
"""Counts of tasks, each a column where any soak has one."""

_RAN: Final = re.compile(r"[\d.e+]+ (s|min|h)(, not 24 h)?")


def table(run: Run) -> Table:
    """One row per system and condition; without a soak it is empty."""
    rows = [row for row in measured(run) if row.scenario == "soak"]
    figures = [figure for figure in published.load() if figure.table == TABLE]
    found: dict[str, dict[tuple[str, str], dict[str, Measured]]] = {}
    for row in rows:
        found.setdefault(row.params_text, {}).setdefault(row.subject.key, {})[row.metric] = row
    shown = [name for name in COUNTS if any(_count(row) for row in rows if row.metric == name)]
    notes = Footnotes()
    groups, records, used = [], [], set()
    for text in found:
        for guarantee in (*GUARANTEES, "floor"):
            entries = []
            for own in found[text].values():
                first = next(iter(own.values()))
                if ("floor" if first.subject.floor else first.subject.guarantee) != guarantee:
                    continue
                figure = published.find(figures, TABLE, first.subject, RATE)
                verdict = judge(own, figure)
                used.update([figure.id] if figure else [])
                entries.append(_row(own, figure, verdict, shown, notes))
                records.append(_record(own, figure, verdict))
            words = f"{condition('soak', _params(text))} {DASH} {GROUP_TITLES[guarantee].lower()}"
            groups += [Group(words, tuple(entries))] if entries else []
    if rows:
        groups += _unmeasured(run, [figure for figure in figures if figure.id not in used], len(shown))
    columns = (
        *map(Column, ("System", "Variant")),
        *(Column(head, True) for head in ("Success, %", "Interval", "n", "Ran", "Incidents")),
        *(Column(COUNTS[name], True) for name in shown),
        *(Column(head, True) for head in ("P95, ms", "Growth, MB/h", "Published, %")),
        Column("Verdict"),
    )
    title = "A day's load (S3)"
    return Table(
        "soak", title, LEAD, columns, tuple(groups), tuple(notes.texts), tuple(records), notes.legend
    )


def judge(own: Mapping[str, Measured], figure: Figure | None) -> Verdict:
    """The verdict on a soak: only a whole day is held against the survey's."""
    rate = own.get(RATE)
    if figure is None:
        return Verdict(Word.NOTHING)
    if rate is None:
        first = next(iter(own.values()))
        return Verdict(Word.NOT_HERE if first.unsupported else Word.NOT_COMPARABLE, first.reason)
    ran = _ran(rate)
    if rate.interval and ran.endswith("not 24 h"):
        return Verdict(Word.NOT_COMPARABLE, ran)
    low, high = (
        None if bound is None else bound + side * ROUNDED
        for bound, side in ((figure.low, -1), (figure.high, 1))
    )
    return published.verdict(low, high, rate.interval, rate.reason)


def percent(value: float, *, up: bool = False) -> str:
    """A success rate with the digits that a day of tasks can tell apart; not rounded up to 100 by itself."""
    thousandths = math.ceil(value * 1000 - 1e-6) if up else math.floor(value * 1000 + 1e-6)
    return f"{thousandths / 1000:.3f}".rstrip("0").rstrip(".")


def _params(text: str) -> dict[str, Any]:
    return dict(pair.split("=", 1) for pair in text.split())


def _ran(row: Measured | None) -> str:
    """How long the load ran, as the figure itself says it."""
    words = [remark for remark in marks.remarks(row.reason) if _RAN.fullmatch(remark)] if row else []
    return words[0] if words else ""


def _count(row: Measured | None) -> int:
    return int(row.interval.value) if row and row.interval else 0


def _counts(own: Mapping[str, Measured]) -> dict[str, int]:
    """The counts of a soak by their name: those that failed as asked did not fail otherwise."""
    found = {name: _count(own.get(name)) for name in ("tasks_ok", *COUNTS)}
    found["tasks_failed"] -= found["tasks_failed_as_asked"]
    return found


def _with_ends(row: Measured | None, notes: Footnotes) -> Entry:
    ends = interval_text(row.interval) if row else NONE
    return notes.beside(row, sub="" if ends == NONE else ends)


def _row(
    own: Mapping[str, Measured],
    figure: Figure | None,
    verdict: Verdict,
    shown: Sequence[str],
    notes: Footnotes,
) -> tuple[Entry, ...]:
    first, rate = next(iter(own.values())), own.get(RATE)
    interval = rate.interval if rate else None
    entry = notes.figure(interval, _without_ran(rate or first))
    ends = NONE
    if interval and interval.low is not None and interval.high is not None:
        ends = f"{percent(interval.low)}{DASH}{percent(interval.high, up=True)}"
    told = str(verdict.word) if verdict.told else "unclear"
    return (
        Entry(first.subject.title),
        Entry(first.subject.variant),
        dataclasses.replace(entry, text=percent(interval.value)) if interval else entry,
        Entry(ends),
        Entry(rate.tasks if rate else NONE),
        Entry(_ran(rate) or NONE),
        notes.beside(own.get("incidents"), "count"),
        *(Entry(f"{_counts(own)[name]:,}" if rate else NONE) for name in shown),
        _with_ends(own.get("dispatch_latency_p95"), notes),
        _with_ends(own.get("growth_pss_per_hour.total"), notes),
        Entry(figure.text if figure else NONE),
        Entry(str(verdict.word) or NONE, verdict.why, tone=told),
    )


def _without_ran(row: Measured) -> str:
    """The remarks on a figure without how long it ran, which has a column."""
    return "; ".join(remark for remark in marks.remarks(row.reason) if not _RAN.fullmatch(remark))


def _record(own: Mapping[str, Measured], figure: Figure | None, verdict: Verdict) -> dict[str, Any]:
    first, rate = next(iter(own.values())), own.get(RATE)
    interval = rate.interval if rate else None
    ran = own.get("ran")
    return {
        "system": first.subject.system,
        "variant": first.subject.variant,
        "guarantee": first.subject.guarantee,
        "condition": condition("soak", first.params),
        "success_rate": interval.value if interval else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "tasks": rate.tasks if rate else "",
        "trials": rate.trials if rate else 0,
        "ran_s": ran.interval.value if ran and ran.interval else None,
        "ran": _ran(rate),
        "incidents": _count(own.get("incidents")) if rate else None,
        **(_counts(own) if rate else dict.fromkeys(("tasks_ok", *COUNTS))),
        "dispatch_latency_p95_ms": _value(own, "dispatch_latency_p95"),
        "growth_pss_mb_per_hour": _value(own, "growth_pss_per_hour.total"),
        "published": figure.id if figure else "",
        "published_low": figure.low if figure else None,
        "published_high": figure.high if figure else None,
        "verdict": str(verdict.word),
        "why": verdict.why,
        "status": first.status,
        "marks": marks.words(rate.reason if rate else ""),
        "reason": (rate or first).reason,
    }


def _value(own: Mapping[str, Measured], name: str) -> float | None:
    row = own.get(name)
    return row.interval.value if row and row.interval else None


def _unmeasured(run: Run, figures: Sequence[Figure], counts: int) -> Iterator[Group]:
    """The published figures that no soak stands beside."""
    titles = {subject.system: subject.title for subject in subjects(run).values()}
    rows = []
    for figure in figures:
        title = titles.get(figure.system) or TITLES.get(figure.system, figure.system)
        empty = [Entry(NONE)] * (8 + counts)
        word = Entry(str(Word.NOT_MEASURED), tone="absent")
        rows.append((Entry(title), *empty, Entry(figure.text), word))
    if rows:
        yield Group(GROUP_TITLES["not measured"], tuple(rows))
