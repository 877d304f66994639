"""A run in every format: tables in the terminal, Markdown, CSV, charts, and one HTML page."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from bench.store import Run, on_disk, read_run
from reports.charts import charts
from reports.further import further_tables
from reports.look import Chart
from reports.marks import ABOUT, DAGGER, marked
from reports.provenance import facts, subtitle, trust, warnings
from reports.site import CHARTS_OF, page
from reports.survey import sections
from reports.surveytables import survey_table
from reports.tables import Column, Entry, Table, plain
from reports.texts import HOW_TO_READ

TONES = {"below": "yellow", "within": "green", "above": "yellow", "unclear": "dim", "absent": "dim"}

SHORT = (
    "soak", "faults-processes", "faults-services", "faults-tasks", "periodic", "replicas", "knees",
    "fates", "ticks", "failures", "calibration",
)  # fmt: skip
"""Of the further tables, those that the terminal shows; the others are in every file."""


def report(run_path: Path, formats: set[str], out: Path, console: Console) -> list[Path]:
    """Write a run in `formats` (`terminal`, `markdown`, `csv`, `html`) to `out`; returns the files written.

    `terminal` prints to `console`. Charts are drawn for `markdown` and `html`.

    Raises:
        StoreError: the run cannot be read, or `out` cannot be written.
    """
    run = read_run(run_path)
    found = sections(run)
    survey = [survey_table(section) for section in found if section.asked]
    further = further_tables(run)
    written: list[Path] = []
    if "terminal" in formats:
        _print(run, [*survey, *(table for table in further if table.key in SHORT)], console)
    if "csv" in formats:
        tables = [*survey, *further, _about(run)]
        written += [_write(out / "tables" / f"{table.key}.csv", _csv(table)) for table in tables]
    if formats & {"markdown", "html"}:
        drawn = charts(run, found, out / "charts")
        written += [file for chart in drawn for file in (chart.svg, chart.png)]
        if "markdown" in formats:
            written.append(_write(out / "report.md", _markdown(run, [*survey, *further], drawn)))
        if "html" in formats:
            html = page(run, survey, further, drawn, _links(run, out, written))
            written.append(_write(out / "report.html", html))
    return written


def excerpt(run: Run, key: str) -> str:
    """One table of a run as Markdown: of the survey (`throughput`) or another (`faults-processes`)."""
    survey = (survey_table(section) for section in sections(run))
    table = next(table for table in (*survey, *further_tables(run)) if table.key == key)
    head = f"{table.title} of {subtitle(run)}. {table.lead}"
    return "\n".join([head, "", *_markdown_table(table)])


def _links(run: Run, out: Path, written: Iterable[Path]) -> dict[str, str]:
    """The raw data of the run, by its path relative to the page."""
    files = ["summary.csv", "run.json", "cells"]
    links = {name: os.path.relpath(run.path / name, out) for name in files if (run.path / name).exists()}
    folders = {file.parent.name for file in written}
    shown = {"tables as CSV": "tables", "charts": "charts"}
    return {**links, **{words: name for words, name in shown.items() if name in folders}}


def _write(file: Path, text: str) -> Path:
    with on_disk(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="")
    return file


# --- terminal ---------------------------------------------------------------------------------------


def _print(run: Run, tables: Iterable[Table], console: Console) -> None:
    console.print(Text(f"Run {run.info['run_id']}", style="bold"), Text(subtitle(run), style="dim"))
    for warning in warnings(run):
        console.print(Text(warning, style="bold red"))
    for fact in trust(run):
        console.print(Text(f"{fact.name}: ", style="dim"), Text(fact.text), sep="")
    for table in tables:
        console.print()
        console.print(Text(table.title, style="bold"))
        console.print(Text(table.lead, style="dim"))
        if table.columns:
            console.print(_rich(table))
        for sign in table.legend:
            console.print(Text(f"  {sign}", style="dim"))
        for place, note in enumerate(table.notes, start=1):
            console.print(Text(f"  [{place}] {note}", style="dim"))
    console.print()
    for fact in facts(run):
        console.print(Text(f"{fact.name}: ", style="dim"), Text(fact.text), sep="")


def _rich(table: Table) -> RichTable:
    shown = RichTable(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in table.columns:
        shown.add_column(column.label, justify="right" if column.numeric else "left", overflow="fold")
    for group in table.groups:
        if group.title:
            shown.add_row(*[""] * len(table.columns))
            shown.add_row("", Text(group.title, style="italic"), *[""] * (len(table.columns) - 2))
        for row in group.rows:
            shown.add_row(*(_rich_entry(entry) for entry in row))
    return shown


def _rich_entry(entry: Entry) -> Text:
    text = Text(f"{ABOUT} " if entry.about else "", style="dim")
    text.append(entry.text, style=TONES.get(entry.tone, "default"))
    text.append(f" {DAGGER}" if entry.dagger else "", style="bold yellow")
    if entry.notes:
        text.append(f" [{','.join(map(str, entry.notes))}]", style="dim")
    if entry.sub:
        text.append(f" ({entry.sub})", style="dim")
    return text


# --- files ------------------------------------------------------------------------------------------


def _about(run: Run) -> Table:
    """What the other formats say above and below their tables."""
    lines = [("Warning", warning) for warning in warnings(run)]
    lines += [(fact.name, fact.text) for fact in (*trust(run), *facts(run))]
    return plain("run", "", "", ("fact", "text"), ({"fact": name, "text": words} for name, words in lines))


def _csv(table: Table) -> str:
    text = io.StringIO()
    names = list(table.records[0]) if table.records else [column.label for column in table.columns]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: "" if value is None else value for key, value in row.items()} for row in table.records
    )
    return text.getvalue()


def _markdown(run: Run, tables: Iterable[Table], drawn: Sequence[Chart]) -> str:
    lines = [f"# schedbench run {run.info['run_id']}", "", subtitle(run), ""]
    lines += [f"> **{warning}**\n" for warning in warnings(run)]
    lines += [*(f"- {fact.name}: {fact.text}" for fact in trust(run)), ""]
    lines += ["## How to read", "", *(f"- {words}" for words in HOW_TO_READ), ""]
    by_name = {chart.name: chart for chart in drawn}
    for table in tables:
        lines += [f"## {table.title}", "", table.lead, ""]
        for name in CHARTS_OF.get(table.key, ()):
            if name in by_name:
                lines += [f"![{by_name[name].alt}](charts/{name}.svg)", ""]
        shown = _markdown_table(table)
        if table.folded:
            shown = ["<details>", f"<summary>{table.folded}</summary>", "", *shown, "</details>", ""]
        lines += shown
    lines += ["## How this run was made", "", *(f"- {fact.name}: {fact.text}" for fact in facts(run)), ""]
    return "\n".join(lines)


def _markdown_table(table: Table) -> list[str]:
    if not table.columns:
        return []
    lines = [_markdown_row(column.label for column in table.columns)]
    lines += [_markdown_row(_rule(column) for column in table.columns)]
    for group in table.groups:
        if group.title:
            lines.append(_markdown_row(["", f"**{group.title}**", *[""] * (len(table.columns) - 2)]))
        lines += [_markdown_row(_markdown_entry(entry) for entry in row) for row in group.rows]
    lines.append("")
    for sign in table.legend:
        lines += [sign, ""]
    lines += [f"{place}. {note}" for place, note in enumerate(table.notes, start=1)]
    return [*lines, ""] if table.notes else lines


def _rule(column: Column) -> str:
    return "---:" if column.numeric else "---"


def _markdown_row(entries: Iterable[str]) -> str:
    return f"| {' | '.join(entry.replace('|', '/') for entry in entries)} |"


def _markdown_entry(entry: Entry) -> str:
    notes = f" <sup>{','.join(map(str, entry.notes))}</sup>" if entry.notes else ""
    text = f"[{entry.text}]({entry.link})" if entry.link else entry.text
    return f"{marked(text, entry.marks)}{f' ({entry.sub})' if entry.sub else ''}{notes}"
