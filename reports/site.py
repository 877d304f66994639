"""One self-contained HTML page of a run: inline charts and style, nothing is fetched from anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import jinja2
from markupsafe import Markup, escape

from bench.store import Run, on_disk
from reports import look, provenance
from reports.look import Chart
from reports.marks import ABOUT, DAGGER
from reports.tables import Table
from reports.texts import HOW_TO_READ

CHARTS_OF: Final = {
    "throughput": ("throughput",),
    "memory": ("memory",),
    "latency": ("latency", "latency-distribution"),
    "cpu": ("cpu",),
    "startup": ("startup",),
    "capacity": ("latency-load", "latency-load-distribution"),
    "soak": ("soak-latency", "soak-memory"),
    "knees": ("concurrency", "concurrency-latency"),
    "concurrency": ("concurrency-slots",),
    "slots-memory": ("memory-slots",),
}
"""Which charts stand above which table."""

_INKS: Final = {
    look.INK: "var(--ink)",
    look.MUTED: "var(--muted)",
    look.GRID: "var(--grid)",
    look.PAPER: "var(--paper)",
    look.BAND: "var(--band)",
}


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
        subtitle=provenance.subtitle(run),
        facts=provenance.facts(run),
        packages=provenance.packages(run),
        warnings=provenance.warnings(run),
        trust=provenance.trust(run),
        how_to_read=HOW_TO_READ,
        about_sign=ABOUT,
        dagger_sign=DAGGER,
        survey=survey,
        further=further,
        charts=drawn,
        links=links,
    )


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
