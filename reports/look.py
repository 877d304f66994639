"""How every chart looks: colours, sizes, type, and the files it is saved to.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which people with colour-blindness can
tell apart. The same run gives the same bytes: no date, fixed ids.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.model import Role
from bench.store import on_disk
from reports.measured import Subject

INK: Final = "#1b1f24"
MUTED: Final = "#5c6670"
GRID: Final = "#dfe3e8"
PAPER: Final = "#ffffff"
BAND: Final = "#c9d3dd"
"""Each of these five stands in a chart only in its meaning: the HTML page swaps them in the dark."""

FLOOR: Final = "#8b949e"
BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY, INDIGO, WINE = "#e69f00", "#56b4e9", "#5b5ea6", "#9b2335"
OLIVE, BROWN, MINT = "#8a8a1f", "#7a5230", "#66c2a5"
PALETTE: Final = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INDIGO, WINE, OLIVE, BROWN, MINT)

ROLES: Final[Mapping[str, str]] = {
    Role.CLIENT: BLUE,
    Role.WORKER: ORANGE,
    Role.BROKER: VERMILION,
    Role.SCHEDULER: GREEN,
    Role.DATABASE: PURPLE,
    Role.SERVER: SKY,
    Role.WEBSERVER: INDIGO,
    Role.AGENT: WINE,
    Role.DAEMON: FLOOR,
    Role.DAG_PROCESSOR: OLIVE,
    Role.CODE_SERVER: BROWN,
}

STYLE: Final[Any] = {
    "svg.hashsalt": "schedbench",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "legend.frameon": False,
}
PNG_DPI: Final = 160
WIDTH_IN: Final = 8.6
CHARACTER_IN: Final = 0.08
"""Room for one character of a label."""
FOOT_IN: Final = 0.165
"""Height of a line under a chart."""
FOOT_CHARACTERS: Final = 138
INDENT: Final = 3 * "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Chart:
    """A drawn chart and its files. `alt` says in words what it shows."""

    name: str
    title: str
    alt: str
    svg: Path
    png: Path


def colours(subjects: Iterable[Subject]) -> dict[str, str]:
    """One colour for each system, floors grey. It depends on which systems there are, not on their order."""
    found = list(subjects)
    systems = sorted({subject.system for subject in found if not subject.floor})
    own = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(systems)}
    return own | {subject.system: FLOOR for subject in found if subject.floor}


def label(subject: Subject) -> str:
    """A system and its variant, as charts name them."""
    return f"{subject.title} · {subject.variant}"


def figure(height_in: float) -> Figure:
    """An empty drawing of the standard width."""
    return Figure(figsize=(WIDTH_IN, height_in))


def foot(lines: Sequence[str]) -> list[str]:
    """What stands under a chart, such as the legend of `marks.named`, broken into lines of its width."""
    wrap = textwrap.TextWrapper(FOOT_CHARACTERS, subsequent_indent=INDENT, break_on_hyphens=False)
    return [part for line in lines for part in wrap.wrap(line)]


def absent(reasons: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[str]:
    """Lines for a foot: what a chart does not draw, by name, and why."""
    short = [(name, textwrap.shorten(why, 90, placeholder=" …")) for name, why in dict(reasons).items()]
    return [f"no figure: {name} ({why})" for name, why in short]


def foot_in(lines: Sequence[str]) -> float:
    """How much higher a drawing must be for that foot."""
    return FOOT_IN * len(lines) + (0.1 if lines else 0.0)


def write_foot(drawing: Figure, lines: Sequence[str]) -> None:
    """Write the lines of `foot` in the bottom left corner."""
    height_in = float(drawing.get_size_inches()[1])
    for place, line in enumerate(lines, start=1):
        y = (0.08 + FOOT_IN * (len(lines) - place)) / height_in
        drawing.text(0.012, y, line, fontsize=8, color=MUTED)


def head(drawing: Figure, title: str, under: str) -> None:
    """Title and condition in the top left corner, at a fixed distance from the edge."""
    height_in = float(drawing.get_size_inches()[1])
    drawing.text(0.012, 1 - 0.12 / height_in, title, va="top", fontsize=12.5, fontweight="bold")
    drawing.text(0.012, 1 - 0.40 / height_in, under, va="top", fontsize=9, color=MUTED)


def frame(drawing: Figure, left_in: float, right_in: float, top_in: float, bottom_in: float) -> Axes:
    """Axes with margins in inches, a light vertical grid behind everything."""
    width_in, height_in = (float(side) for side in drawing.get_size_inches())
    axes = drawing.add_axes(
        (
            left_in / width_in,
            bottom_in / height_in,
            1 - (left_in + right_in) / width_in,
            1 - (top_in + bottom_in) / height_in,
        )
    )
    axes.set_axisbelow(True)
    axes.grid(True, axis="x", color=GRID, linewidth=0.8)
    return axes


def log_scale(axes: Axes, low: float, high: float, unit: str) -> None:
    """A logarithmic x axis whose ticks are plain numbers, close enough together to read between them."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel(unit)
    decades = math.log10(high / low)
    steps = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def save(drawing: Figure, folder: Path, name: str, title: str, alt: str) -> Chart:
    """Write the chart as SVG and PNG.

    Raises:
        StoreError: the folder cannot be written.
    """
    chart = Chart(name, title, " ".join(alt.split()), folder / f"{name}.svg", folder / f"{name}.png")
    with on_disk(folder), mpl.rc_context(STYLE):
        drawing.savefig(chart.svg, format="svg", metadata={"Date": None, "Creator": None})
        drawing.savefig(chart.png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return chart
