"""What is compared with what: how each variant does what decides what its figures mean, and its settings.

All of it is what the adapters' headers said when the run was made, as `run.json` keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from bench.model import PARITY
from bench.store import Run
from reports.measured import Subject, subjects
from reports.tables import NONE, Column, Entry, Group, Table
from reports.texts import CHANGED_LEAD, CHANGED_TITLE, FAMILY_TITLES, PARITY_LEAD, PARITY_TITLE

NOT_RECORDED: Final = "not recorded"
REPEATED: Final = "repeated"
"""The tone of words that stand in the row above as well."""

Declared = Mapping[str, Any]
"""A variant as its header declared it."""


def tables(run: Run) -> list[Table]:
    """Parity and changed settings of the variants of a run; none of a run that did not record them."""
    declared = _declared(run)
    if not any(own.get("parity") or own.get("changed") for own in declared.values()):
        return []
    return [_parity(declared), _changed(declared)]


def _declared(run: Run) -> dict[Subject, Declared]:
    """The variants of a run that are no floors, by family and title, in the order of their headers."""
    systems = run.info.get("systems", {})
    families = list(FAMILY_TITLES)
    order: list[tuple[tuple[int, str, int], Subject, Declared]] = []
    for (system, variant), subject in subjects(run).items():
        known = systems.get(system, {}).get("variants", {})
        if subject.floor or variant not in known:
            continue
        family = families.index(subject.family) if subject.family in families else len(families)
        order.append(((family, subject.title, list(known).index(variant)), subject, known[variant]))
    return {subject: own for _, subject, own in sorted(order, key=lambda item: item[0])}


def _fact(words: str, link: str) -> Entry:
    """Words with the vendor's page on them; a run's data may name any address, only these become links."""
    return Entry(words, link=link if link.startswith("https://") else "")


def _parity(declared: Mapping[Subject, Declared]) -> Table:
    columns = ("System", "Variant", "Guarantee", *(words.capitalize() for words in PARITY.values()))
    groups: dict[str, list[tuple[Entry, ...]]] = {}
    records = []
    before: tuple[Subject, Sequence[Entry]] | None = None
    for subject, own in declared.items():
        facts = [_fact(subject.guarantee, str(own.get("source", "")))]
        told = own.get("parity") or {}
        facts += [
            _fact(told[key]["words"], told[key]["link"])
            if key in told
            else Entry(NOT_RECORDED, tone="absent")
            for key in PARITY
        ]
        same = before is not None and before[0].system == subject.system
        above = before[1] if before and same else ()
        groups.setdefault(subject.family, []).append(
            (Entry("" if same else subject.title), Entry(subject.variant), *_muted(facts, above))
        )
        before = subject, facts
        records.append(_record(subject, ["guarantee", *PARITY], facts))
    shown = tuple(Group(FAMILY_TITLES.get(family, family), tuple(rows)) for family, rows in groups.items())
    return Table(
        "parity", PARITY_TITLE, PARITY_LEAD, tuple(Column(label) for label in columns), shown, (),
        tuple(records), folded=_count(len(declared), "variant"),
    )  # fmt: skip


def _muted(facts: Sequence[Entry], above: Sequence[Entry]) -> Iterator[Entry]:
    """The same entries, those that repeat the row above as such."""
    for place, fact in enumerate(facts):
        repeated = place < len(above) and fact.text == above[place].text
        yield Entry(fact.text, tone=REPEATED, link=fact.link) if repeated else fact


def _record(subject: Subject, names: Sequence[str], facts: Iterable[Entry]) -> dict[str, Any]:
    found: dict[str, Any] = {"system": subject.system, "variant": subject.variant, "family": subject.family}
    for name, fact in zip(names, facts, strict=True):
        found |= {name: fact.text, f"{name}_link": fact.link}
    return found


def _changed(declared: Mapping[Subject, Declared]) -> Table:
    """One row for each setting and value of a system, with the variants that have it."""
    variants: dict[tuple[str, str], list[str]] = {}
    settings: dict[tuple[str, str], dict[tuple[str, str, str, str], list[str]]] = {}
    records = []
    for subject, own in declared.items():
        system = (subject.family, subject.title)
        variants.setdefault(system, []).append(subject.variant)
        for name, change in (own.get("changed") or {}).items():
            row = (name, str(change["value"]), str(change["why"]), str(change["link"]))
            settings.setdefault(system, {}).setdefault(row, []).append(subject.variant)
            records.append({"system": subject.system, "variant": subject.variant, "setting": name, **change})
    groups: dict[str, list[tuple[Entry, ...]]] = {}
    for system in variants:
        family, title = system
        rows = settings.get(system) or {("none", NONE, NONE, ""): variants[system]}
        for place, (row, names) in enumerate(rows.items()):
            name, value, why, link = row
            whose = "all" if len(names) == len(variants[system]) else ", ".join(names)
            entries = (
                Entry("" if place else title),
                _fact(name, link),
                Entry(value),
                Entry(why),
                Entry(whose),
            )
            groups.setdefault(family, []).append(entries)
    shown = tuple(Group(FAMILY_TITLES.get(family, family), tuple(rows)) for family, rows in groups.items())
    columns = tuple(map(Column, ("System", "Setting", "Here", "Why", "Variants")))
    folded = _count(sum(map(len, settings.values())), "setting")
    return Table("changed", CHANGED_TITLE, CHANGED_LEAD, columns, shown, (), tuple(records), folded=folded)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
