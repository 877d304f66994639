"""The order of a table's lines, and the rank of each among the systems that promise the same."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from reports.lines import GUARANTEES, Line
from reports.published import unfit

GROUPS: Final = (*GUARANTEES, "floor", "not measured")
Cost = Callable[[float], float]


def ranked(lines: Sequence[Line], higher_is_better: bool | None, cost: Cost = float) -> tuple[Line, ...]:
    """Lines by group, best first, with a rank within the group (None: nothing is better).

    Two systems share a rank when their intervals overlap, or when they differ by less than the widest
    interval of a floor of their kind (in one process, or over several) on the scale of `cost`: the harness
    itself cannot tell them apart. A figure that is
    invalid, from too few samples, of one trial or without an interval has no rank.
    """
    widths = {kind: _floor_width(lines, kind, cost) for kind in (True, False)}
    out: list[Line] = []
    for group in sorted({line.group for line in lines}, key=_place):
        members = [line for line in lines if line.group == group]
        best = sorted(members, key=lambda line: _order(line, members, bool(higher_is_better)))
        fixed = higher_is_better is None or group in ("floor", "not measured")
        out += best if fixed else _with_ranks(best, cost, widths)
    return tuple(out)


def _with_ranks(best: Sequence[Line], cost: Cost, widths: Mapping[bool, float]) -> list[Line]:
    ranks: list[list[Line]] = []
    for line in best:
        if not _rankable(line):
            continue
        if ranks and _alike(ranks[-1][0], line, cost, widths):
            ranks[-1].append(line)
        else:
            ranks.append([line])
    words: dict[int, str] = {}
    place = 1
    for tied in ranks:
        words |= {id(line): f"{place}=" if len(tied) > 1 else f"{place}" for line in tied}
        place += len(tied)
    return [dataclasses.replace(line, rank=words.get(id(line), "")) for line in best]


def _rankable(line: Line) -> bool:
    capped = "of its capacity" in line.reason  # under a lower load than the others
    measured = line.whole and line.trials > 1 and _ends(line) is not None
    return measured and not capped and not unfit(line.reason)


def _alike(first: Line, second: Line, cost: Cost, widths: Mapping[bool, float]) -> bool:
    a, b = _ends(first), _ends(second)
    if a is None or b is None or first.interval is None or second.interval is None:
        return False
    overlap = a[0] <= b[1] and b[0] <= a[1]
    width = max(widths[line.subject.in_process] for line in (first, second))
    return overlap or abs(cost(first.interval.value) - cost(second.interval.value)) < width


def _ends(line: Line) -> tuple[float, float] | None:
    interval = line.interval
    if interval is None or interval.low is None or interval.high is None:
        return None
    return interval.low, interval.high


def _floor_width(lines: Iterable[Line], in_process: bool, cost: Cost) -> float:
    floors = (line for line in lines if line.subject.floor and line.whole)
    ends = [_ends(line) for line in floors if line.subject.in_process is in_process]
    widths = [abs(cost(pair[1]) - cost(pair[0])) for pair in ends if pair]
    return max((width for width in widths if math.isfinite(width)), default=0.0)


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
