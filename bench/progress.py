"""The live line of a run: which cell, which phase, how far, how long; plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from bench.model import Cell, Metric, Status

REFRESH_S = 0.2
HEADLINES = (
    "throughput",
    "dispatch_latency_p95",
    "idle_pss.total",
    "cpu_efficiency",
    "startup",
)
"""The one figure of a cell that its line shows, the first of these that it has."""

STYLES: Mapping[Status, str] = {
    Status.OK: "green",
    Status.TIMEOUT: "red",
    Status.ERROR: "red",
    Status.UNSUPPORTED: "yellow",
    Status.INTERRUPTED: "yellow",
}


class _Remaining(ProgressColumn):
    def __init__(self, run: RunProgress) -> None:
        super().__init__()
        self.run = run

    def render(self, task: Task) -> Text:
        return Text(f"about {clock(self.run.left_s())} left", style="cyan")


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


class RunProgress:
    """Progress over cells, each weighted by its estimate; the pace is learnt from the cells that are done."""

    def __init__(self, console: Console, estimates_s: Mapping[str, float]) -> None:
        self.console = console
        self.estimates_s = dict(estimates_s)
        self.total = len(estimates_s)
        self.done = 0
        self._estimated_s = self._spent_s = 0.0
        self._cell = ""
        self._cell_began_s = time.monotonic()
        self._doing = ""
        self._refreshed_s = 0.0
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            _Remaining(self),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._line = self.bar.add_task("starting", total=self.total)

    def __enter__(self) -> RunProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def left_s(self) -> float:
        """Estimated seconds until the last cell is done."""
        pace = self._spent_s / self._estimated_s if self._estimated_s else 1.0
        waiting = pace * sum(self.estimates_s.values())
        return max(0.0, waiting - (time.monotonic() - self._cell_began_s if self._cell else 0.0))

    def left(self) -> str:
        """`left_s` as a clock."""
        return clock(self.left_s())

    def begin(self, cell: Cell) -> None:
        """A cell begins."""
        self._cell, self._cell_began_s = cell.id, time.monotonic()
        self._where = f"{cell.system}:{cell.variant} {cell.scenario} {cell.params_text} trial {cell.trial}"
        self.doing("preparing")

    def doing(self, phase: str) -> None:
        """The cell is in another phase, or (with an empty text) still in the same one."""
        self._doing = phase or self._doing
        now_s = time.monotonic()
        if phase or now_s - self._refreshed_s > REFRESH_S:
            self._refreshed_s = now_s
            self.bar.update(self._line, description=f"{escape(self._where)} [dim]{escape(self._doing)}[/dim]")
            self.bar.refresh()

    def end(self, cell: Cell, status: Status, reason: str, metrics: list[Metric]) -> None:
        """A cell is done: one line that stays."""
        estimate_s = self.estimates_s.pop(cell.id, 0.0)
        self._estimated_s += estimate_s
        self._spent_s += time.monotonic() - self._cell_began_s
        self.done += 1
        self._cell = ""
        by_name = {metric.name: metric for metric in metrics}
        shown = next((by_name[name] for name in HEADLINES if name in by_name), None)
        figure = f"{shown.name} {shown.value:.4g} {shown.unit}" if shown and not reason else ""
        if shown and shown.note:
            figure += f" ({shown.note})"
        self.console.print(
            f"[{STYLES[status]}]{status.value:>11}[/] {self.done:>3}/{self.total} "
            f"{escape(self._where)}  [bold]{escape(figure or reason)}[/] "
            f"[dim]{clock(self.left_s())} left[/dim]",
            highlight=False,
            soft_wrap=True,
        )
        self.bar.update(self._line, completed=self.done)
        self.bar.refresh()
