"""The live line of a long command: which step, how far, how long; plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

REFRESH_S = 0.2

STILL_S = 600.0
"""Without a terminal, a step that goes on for long says so this often."""


class _Remaining(ProgressColumn):
    def __init__(self, steps: StepProgress) -> None:
        super().__init__()
        self.steps = steps

    def render(self, task: Task) -> Text:
        return Text(f"about {self.steps.left()} left", style="cyan")


@dataclass
class _Past:
    """What was estimated of the steps that are done, and what they took."""

    estimated_s: float = 0.0
    spent_s: float = 0.0

    @property
    def pace(self) -> float:
        return self.spent_s / self.estimated_s if self.estimated_s else 0.0


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


class StepProgress:
    """Progress over steps, each weighted by its estimate.

    How far estimates are off is learnt from the steps that are done: from those of the same of `kinds`, or
    from all where none of them is done.
    """

    def __init__(
        self, console: Console, estimates_s: Mapping[str, float], kinds: Mapping[str, str] | None = None
    ) -> None:
        self.console = console
        self.estimates_s = dict(estimates_s)
        self.total = len(estimates_s)
        self.done = 0
        self._kinds = kinds or {}
        self._past = {kind: _Past() for kind in ("", *self._kinds.values())}
        self._step = self._where = self._doing = ""
        self._began_s = self._said_s = time.monotonic()
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

    def __enter__(self) -> StepProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def left_s(self) -> float:
        """Estimated seconds until the last step is done."""
        whole = self._past[""].pace or 1.0
        waiting_s = sum(
            (self._past[self._kinds.get(step, "")].pace or whole) * estimate_s
            for step, estimate_s in self.estimates_s.items()
        )
        return max(0.0, waiting_s - (time.monotonic() - self._began_s if self._step else 0.0))

    def left(self) -> str:
        """`left_s` as a clock."""
        return clock(self.left_s())

    def begin(self, step: str, where: str) -> None:
        """A step begins, one of the keys of the estimates; `where` names it for people."""
        self._step, self._where = step, where
        self._began_s = self._said_s = time.monotonic()
        self.doing("preparing")

    def doing(self, part: str) -> None:
        """The step is in another part, or (with an empty text) still in the same one."""
        self._doing = part or self._doing
        now_s = time.monotonic()
        if part or now_s - self._refreshed_s > REFRESH_S:
            self._refreshed_s = now_s
            self.bar.update(self._line, description=f"{escape(self._where)} [dim]{escape(self._doing)}[/dim]")
            self.bar.refresh()
        if not self.console.is_terminal and now_s - self._said_s > STILL_S:
            self._said_s = now_s
            so_far = f"{self._doing}: {clock(now_s - self._began_s)} so far, about {self.left()} left"
            self._print("still", "dim", f"{escape(self._where)}  [dim]{escape(so_far)}[/dim]")

    def end(self, step: str, word: str, style: str, said: str) -> None:
        """A step is done: one line that stays, with how it ended in a word, and what came of it."""
        estimate_s, took_s = self.estimates_s.pop(step, 0.0), time.monotonic() - self._began_s
        for kind in {"", self._kinds.get(step, "")}:
            self._past[kind].estimated_s += estimate_s
            self._past[kind].spent_s += took_s
        self.done += 1
        self._step = ""
        where = f"{escape(self._where)}  [bold]{escape(said)}[/] [dim]{self.left()} left[/dim]"
        self._print(word, style, where)
        self.bar.update(self._line, completed=self.done)
        self.bar.refresh()

    def _print(self, word: str, style: str, what: str) -> None:
        line = f"[{style}]{word:>11}[/] {self.done:>3}/{self.total} {what}"
        self.console.print(line, highlight=False, soft_wrap=True)
