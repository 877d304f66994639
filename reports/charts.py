"""The charts of a report, drawn from the same lines as its tables; what was not measured is not drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from bench.store import Run, on_disk
from reports import (
    curves,
    footprint,
    kneecharts,
    knees,
    loadcurves,
    look,
    rowcharts,
    slotcharts,
    soakcurves,
)
from reports.lines import Section
from reports.look import Chart
from reports.measured import measured


def charts(run: Run, sections: Sequence[Section], folder: Path) -> list[Chart]:
    """Draw every chart that the run has figures for into `folder`, as SVG and PNG.

    Raises:
        StoreError: the folder cannot be written.
    """
    with on_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    rows = measured(run)
    by_key = {section.key: section for section in sections}
    colours = look.colours([row.subject for row in rows])
    concurrent = knees.curves(run)
    with mpl.rc_context(look.STYLE):
        drawn = [
            rowcharts.dots(by_key["throughput"], colours, folder),
            rowcharts.stack(by_key["memory"], folder),
            rowcharts.dots(by_key["latency"], colours, folder),
            curves.distribution(run, by_key["latency"], colours, folder),
            curves.efficiency(rows, colours, folder),
            rowcharts.startup(rows, colours, folder),
            loadcurves.against_load(rows, colours, folder),
            loadcurves.distributions(run, rows, colours, folder),
            soakcurves.latency(rows, colours, folder),
            soakcurves.memory(rows, folder),
            kneecharts.knees(concurrent, colours, folder),
            kneecharts.latencies(rows, concurrent, colours, folder),
            slotcharts.time_by_slots(rows, colours, folder),
            slotcharts.memory_by_slots(rows, footprint.slopes(run), colours, folder),
        ]
    return [chart for chart in drawn if chart]
