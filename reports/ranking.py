"""The order of a table's lines, and the rank of each among the systems that promise the same.

A rank is a range of places: the second, or anything from the first to the third. It counts the systems
that are surely better and those that are surely worse. To be alike is not transitive (A like B and
B like C, and yet A better than C), so a common place for all that are alike would say what was not seen.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from bench.stats import Interval
from reports.lines import GUARANTEES, Line
from reports.marks import Mark, mark_of, marks, unfit

GROUPS: Final = (*GUARANTEES, "floor", "not measured")
UNRANKED: Final = ("floor", "not measured")
"""Groups that are in no ranking."""

NO_FLOOR: Final = "no floor in this run"
AT_FLOOR: Final = "within the floor's own spread"

Cost = Callable[[float], float]
Calibrated = Mapping[bool, Sequence[Interval]]
"""Floors that were measured beside the cells, for systems in one process (True) and over several."""


@dataclasses.dataclass(frozen=True)
class Floor:
    """The floors of one kind on the scale of a cost: their figures and the width of the widest interval."""

    costs: tuple[float, ...]
    width: float


@dataclasses.dataclass(frozen=True)
class Scale:
    """What tells two figures of one table apart."""

    higher_is_better: bool
    cost: Cost
    floors: Mapping[bool, Floor]

    def better(self, one: Line, other: Line) -> bool:
        """Whether one line is surely better: intervals apart, by more than a floor's interval.

        Transitive, because the gap that is asked for is the wider one of the kinds of both.
        """
        a, b = _ends(one), _ends(other)
        if a is None or b is None or one.interval is None or other.interval is None:
            return False
        apart = a[0] > b[1] if self.higher_is_better else a[1] < b[0]
        width = max(self.floors[line.subject.in_process].width for line in (one, other))
        return apart and abs(self.cost(one.interval.value) - self.cost(other.interval.value)) >= width

    def why_not(self, line: Line) -> str:
        """Why a line has no rank, or an empty string; the reason `AT_FLOOR` still holds a place."""
        if line.interval is None:
            return "no figure"
        if remark := unfit(line.reason):
            return str(mark_of(remark) or Mark.PARTIAL)
        if line.trials < 2:
            return str(Mark.ONE_TRIAL)
        if _ends(line) is None:
            return "no interval"
        if "of its capacity" in line.reason:
            return "a lower load than the others"
        floor = self.floors.get(line.subject.in_process)
        if floor is None:
            return NO_FLOOR
        at = self.cost(line.interval.value)
        return AT_FLOOR if any(abs(at - cost) <= floor.width for cost in floor.costs) else ""


def ranked(
    lines: Sequence[Line],
    higher_is_better: bool | None,
    cost: Cost = float,
    calibrated: Calibrated | None = None,
) -> tuple[Line, ...]:
    """Lines by group, best first, with a rank within the group (None: nothing is better).

    A figure that is unfit, of one trial or without an interval has no rank; nor has one that differs from a
    floor of its kind (in one process, or over several) by no more than that floor's interval on the scale of
    `cost`: the harness itself cannot tell it from nothing. The floors are those of the table, where it has
    any of a kind, else those that were `calibrated`.
    """
    floors = {kind: _floor(lines, kind, cost, calibrated or {}) for kind in (True, False)}
    known = {kind: floor for kind, floor in floors.items() if floor}
    scale = Scale(bool(higher_is_better), cost, known)
    out: list[Line] = []
    for group in sorted({line.group for line in lines}, key=_place):
        members = [line for line in lines if line.group == group]
        best = sorted(members, key=lambda line: _order(line, members, scale.higher_is_better))
        out += best if higher_is_better is None or group in UNRANKED else _with_ranks(best, scale)
    return tuple(out)


def _with_ranks(best: Sequence[Line], scale: Scale) -> list[Line]:
    whys = [scale.why_not(line) if line.whole else "" for line in best]
    placed = [line for line, why in zip(best, whys, strict=True) if line.whole and why in ("", AT_FLOOR)]
    # What is measured and not fit for a rank may stand anywhere.
    unplaced = sum(line.whole and line.interval is not None for line in best) - len(placed)
    out = []
    for line, why in zip(best, whys, strict=True):
        rank = _range(line, placed, unplaced, scale) if line.whole and not why else ""
        out.append(dataclasses.replace(line, rank=rank, unranked=why))
    return out


def _range(line: Line, placed: Sequence[Line], unplaced: int, scale: Scale) -> str:
    first = 1 + sum(scale.better(other, line) for other in placed)
    last = len(placed) + unplaced - sum(scale.better(line, other) for other in placed)
    return f"{first}" if first == last else f"{first}\N{EN DASH}{last}"


def _ends(line: Line) -> tuple[float, float] | None:
    interval = line.interval
    if interval is None or interval.low is None or interval.high is None:
        return None
    return interval.low, interval.high


def _floor(lines: Iterable[Line], in_process: bool, cost: Cost, calibrated: Calibrated) -> Floor | None:
    own = [
        line.interval
        for line in lines
        if line.subject.floor and line.whole and line.subject.in_process is in_process
        if line.interval and Mark.INVALID not in marks(line.reason)
    ]
    for intervals in (own, calibrated.get(in_process, ())):
        ends = [(i.value, i.low, i.high) for i in intervals if i.low is not None and i.high is not None]
        costs = [(cost(value), abs(cost(high) - cost(low))) for value, low, high in ends]
        finite = [pair for pair in costs if all(map(math.isfinite, pair))]
        if finite:
            return Floor(tuple(at for at, _ in finite), max(width for _, width in finite))
    return None


def _place(group: str) -> tuple[int, str]:
    return (GROUPS.index(group) if group in GROUPS else len(GUARANTEES) - 1), group


def _order(
    line: Line, members: Iterable[Line], higher_is_better: bool
) -> tuple[bool, float, str, str, bool, str]:
    """Best first; the roles of one system stay together behind its total."""
    same = (other for other in members if other.subject.key == line.subject.key and other.whole)
    lead = line if line.whole else next(same, line)
    value = lead.interval.value if lead.interval else 0.0
    subject = line.subject
    distance = -value if higher_is_better else value
    return lead.interval is None, distance, subject.title, subject.variant, not line.whole, line.part
