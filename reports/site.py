"""One self-contained HTML page of a run: inline charts and style, nothing is fetched from anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import jinja2
from markupsafe import Markup, escape

from bench.store import Run, on_disk
from reports import look
from reports.look import Chart
from reports.tables import Table
from reports.texts import HOW_TO_READ

CHARTS_OF: Final = {
    "throughput": ("throughput",),
    "memory": ("memory",),
    "latency": ("latency", "latency-distribution"),
    "cpu": ("cpu",),
    "startup": ("startup",),
}
"""Which charts stand above which table."""

_INKS: Final = {
    look.INK: "var(--ink)",
    look.MUTED: "var(--muted)",
    look.GRID: "var(--grid)",
    look.PAPER: "var(--paper)",
    look.BAND: "var(--band)",
}


@dataclass(frozen=True)
class Fact:
    """One line about how the run was made."""

    name: str
    text: str


def page(
    run: Run,
    survey: Sequence[Table],
    further: Sequence[Table],
    charts: Sequence[Chart],
    links: dict[str, str],
) -> str:
    """The page as HTML. `links` maps a link's words to its address relative to the page.

    Raises:
        StoreError: a chart cannot be read back.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    by_name = {chart.name: chart for chart in charts}
    drawn = {
        key: [(by_name[name], _inline(by_name[name])) for name in names if name in by_name]
        for key, names in CHARTS_OF.items()
    }
    return environment.get_template("page.html").render(
        run_id=run.info["run_id"],
        subtitle=subtitle(run),
        facts=facts(run),
        packages=packages(run),
        warnings=warnings(run),
        how_to_read=HOW_TO_READ,
        survey=survey,
        further=further,
        charts=drawn,
        links=links,
    )


def subtitle(run: Run) -> str:
    """The run in one line: when, on what."""
    machine = run.info.get("machine", {})
    words = [str(run.info.get("created", ""))[:10], str(machine.get("cpu", "")), _cores(machine)]
    return " · ".join(word for word in words if word)


def warnings(run: Run) -> list[str]:
    """What a reader must know before any figure."""
    found = []
    planned = run.info.get("cells_planned")
    done = len(run.cells) or run.info.get("cells_done")  # a run that was killed could not count
    if run.info.get("interrupted"):
        found.append(f"This run was cut off: {done} of {planned} cells are done. Complete it with --resume.")
    return found


def facts(run: Run) -> list[Fact]:
    """How the run was made: machine, seed, command, share of time spent measuring."""
    info, machine = run.info, run.info.get("machine", {})
    memory_bytes = machine.get("memory_bytes")
    services = [
        f"{name} {about.get('version', '')} ({about.get('provider', '')})"
        for name, about in info.get("services", {}).items()
    ]
    known = {
        "Command": info.get("command"),
        "Profile": info.get("profile"),
        "Seed": info.get("seed"),
        "Slots": info.get("slots"),
        "Cells": _of(info.get("cells_done"), info.get("cells_planned")),
        "Time": measuring(info),
        "Machine": " · ".join(filter(None, [str(machine.get("cpu", "")), _cores(machine)])),
        "Memory": f"{memory_bytes / 2**30:.0f} GiB" if memory_bytes else None,
        "Virtualisation": machine.get("virtualisation"),
        "Kernel": machine.get("kernel"),
        "Python": machine.get("python"),
        "Services": ", ".join(services),
        "schedbench": info.get("schedbench"),
        "Run": f"{info['run_id']}, begun {info.get('created', '')}",
    }
    return [Fact(name, str(value)) for name, value in known.items() if value not in (None, "")]


def measuring(info: dict[str, Any]) -> str:
    """The wall time and the share of it that was spent measuring."""
    wall_s = float(info.get("wall_s") or 0)
    if not wall_s:
        return "unknown"
    return f"{wall_s:,.0f} s, {100 * float(info.get('measuring_s') or 0) / wall_s:.0f} % of it measuring"


def packages(run: Run) -> list[tuple[str, str, str]]:
    """Title, homepage and main packages with versions of every system in the run."""
    measured = set(run.summary["system"])
    found = []
    for name, about in sorted(run.info.get("systems", {}).items()):
        if name in measured:
            pins = ", ".join(
                f"{package} {version}" for package, version in sorted(about.get("packages", {}).items())
            )
            found.append((str(about.get("title", name)), str(about.get("homepage", "")), pins))
    return found


def _cores(machine: dict[str, Any]) -> str:
    return f"{machine['cores']} cores" if machine.get("cores") else ""


def _of(part: object, whole: object) -> str:
    return f"{part} of {whole}" if part is not None and whole is not None else ""


def _inline(chart: Chart) -> Markup:
    """The SVG as it stands in the page: its own ids, the page's colours, described for screen readers."""
    with on_disk(chart.svg):
        text = chart.svg.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\b(id|xlink:href)="(#?)', rf'\1="\2{chart.name}-', text).replace(
        "url(#", f"url(#{chart.name}-"
    )
    for ink, variable in _INKS.items():
        text = text.replace(ink, variable)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(chart.alt)}"', 1))
