"""What `schedbench list --parity` shows of a system: how its variants do what decides what figures mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.markup import escape
from rich.table import Table

from bench.model import PARITY, System, Variant

ALL, OTHERS = "all", "the others"
NOT_DECLARED = "not declared"

Facts = Mapping[str, tuple[str, str]]
"""By variant: words, and the vendor's page on them."""


@dataclass
class Links:
    """The vendor's pages of one system, numbered in the order in which they are first needed."""

    found: list[str] = field(default_factory=list)

    def noted(self, words: str, pages: Sequence[str]) -> str:
        """The words as markup, with the numbers of their pages behind them."""
        for page in pages:
            if page not in self.found:
                self.found.append(page)
        numbers = ",".join(f"{self.found.index(page) + 1}" for page in pages)
        return f"{escape(words)} [dim]\\[{numbers}][/]" if numbers else escape(words)


def parity_table(system: System, variants: Sequence[Variant]) -> tuple[Table, list[str]]:
    """A system's variants side by side, and the links whose numbers stand in the table.

    What is the same for several of `variants` is said once.
    """
    links = Links()
    title = f"[bold]{escape(system.title)}[/] ({system.family})"
    table = Table("", "variant", "how", title=title, title_justify="left", title_style="")
    guarantees = {variant.name: (variant.guarantee, variant.source) for variant in variants}
    _rows(table, "delivery guarantee", guarantees, variants, links)
    for key, words in PARITY.items():
        told = {variant.name: variant.parity.get(key) for variant in variants}
        facts = {name: (one.words, one.link) if one else (NOT_DECLARED, "") for name, one in told.items()}
        _rows(table, words, facts, variants, links)
    table.add_section()
    table.add_row(*(f"[bold]{words}[/]" for words in ("not the vendor's default", "variant", "value: why")))
    for key in dict.fromkeys(key for variant in variants for key in variant.changed):
        own = {variant.name: variant.changed[key] for variant in variants if key in variant.changed}
        changes = {name: (f"{one.value}: {one.why}", one.link) for name, one in own.items()}
        _rows(table, escape(key), changes, variants, links)
    if not any(variant.changed for variant in variants):
        table.add_row("none", ALL, "")
    return table, [f"[{place}] {link}" for place, link in enumerate(links.found, start=1)]


def _rows(table: Table, head: str, facts: Facts, variants: Sequence[Variant], links: Links) -> None:
    for names, words, pages in _grouped(facts, len(variants)):
        table.add_row(head, names, links.noted(words, pages))
        head = ""


def _grouped(facts: Facts, n: int) -> Iterator[tuple[str, str, list[str]]]:
    """The names of the variants that the same words are true of, the words, and their pages.

    Of all `n` variants, more than half are `the others`, and come last.
    """
    groups: dict[str, list[str]] = {}
    for name, (words, _) in facts.items():
        groups.setdefault(words, []).append(name)
    most = len(facts) == n and next((words for words, names in groups.items() if 2 * len(names) > n > 2), "")
    for words, names in sorted(groups.items(), key=lambda group: group[0] == most):
        pages = list(dict.fromkeys(page for name in names if (page := facts[name][1])))
        others = OTHERS if words == most else ", ".join(names)
        yield ALL if len(names) == n else others, words, pages
