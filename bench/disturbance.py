"""Was the machine itself while a cell ran? A fixed piece of work beside every cell, and whose the CPU was.

Two questions that a cell's own figures have no part in: does the same work take as long as ever, and did
others (neighbours on the host, other processes here) take CPU that the cell could have used?

The limits stand against what a shared virtual machine with two cores showed over six minutes in which
nothing else ran on it. The burn stayed within 3 % of the baseline for eight seconds in ten; for most of the
rest it took 1.3 to 1.45 times as long, for seconds on end, while nothing was stolen: neighbours of the host,
whom nobody there gets rid of. More than 1.5 times, in three tries: 1 second of 205. With a busy process for
every core it took 1.7 to 1.8 times as long, with two 2 to 3 times. Others used 0 to 0.06 cores (kernel
threads that work for the cell are among them), and 0.0 % was stolen.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench import kernel
from bench.cputime import Moment, shares, usable_cpus

BURN_LIMIT: Final = 1.5
"""A cell is disturbed when a burn beside it took more than so many times the run's baseline."""

STOLEN_LIMIT: Final = 0.02
"""... or when the host gave more than this share of the CPU time to others,"""

OTHERS_LIMIT: Final = 0.1
"""... or when other processes here used more than this share of the CPUs."""

CHUNKS: Final = 10
BLOCK: Final = bytes(range(256)) * 128
BLOCKS: Final = 52
"""A burn is 10 chunks of 1.7 MB: 18 ms on a core of 2.6 GHz. Hashing, because it needs no memory of its own:
loops of Python objects took up to 1.5 times as long after other code had used the allocator."""

TRIES: Final = 3
PAUSE_S: Final = 0.1
"""A slow burn is done so often, and the fastest counts: processes that die slowly are no disturbance, nor is
what lasts for a tenth of a second."""

SETTLE: Final = 20
"""Burns before the first cell, so that there is a baseline to compare it with."""

BASELINE_QUANTILE: Final = 0.1


def burn_ns() -> float:
    """Do the fixed work; the mean time of a chunk in ns, without the slowest (one preemption is no news)."""
    spans = []
    for _ in range(CHUNKS):
        began_ns = time.perf_counter_ns()
        digest = hashlib.blake2b()
        for _ in range(BLOCKS):
            digest.update(BLOCK)
        spans.append(time.perf_counter_ns() - began_ns)
    return statistics.fmean(sorted(spans)[:-1])


# --- the judgement ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disturbance:
    """How the machine was around and during one cell; stands in `cell.json` under `disturbance`.

    `burn_ratio` is the slower of the burns before and after, in units of the baseline (`baseline_ns` for a
    chunk). `words` say what disturbed; empty: nothing.
    """

    burn_ratio: float
    stolen_share: float | None
    others_cores: float | None
    baseline_ns: float
    words: str = ""


def judge(burn_ratio: float, stolen_share: float | None, others_cores: float | None, cores: int) -> str:
    """What disturbed, in words; nothing when every limit is kept."""
    found = []
    if burn_ratio > BURN_LIMIT:
        found.append(f"a fixed burn took {burn_ratio:.1f}x its usual time")
    if stolen_share is not None and stolen_share > STOLEN_LIMIT:
        found.append(f"the host took {stolen_share:.0%} of the CPU time")
    if others_cores is not None and others_cores / cores > OTHERS_LIMIT:
        found.append(f"other processes used {others_cores:.1f} of {cores} cores")
    return ", ".join(found)


@dataclass(frozen=True)
class Before:
    """What `Watch.begin` saw."""

    burn_ns: float
    moment: Moment


class Watch:
    """The noise of the machine over a run.

    The baseline is a low quantile of all burns so far and never rises, so that a disturbance cannot make
    itself the norm; `baseline_ns` of an earlier session of the same run is taken up.
    """

    def __init__(self, baseline_ns: float | None = None) -> None:
        self.baseline_ns = float("inf") if baseline_ns is None else baseline_ns
        self._usable = usable_cpus()
        # Under a quota the CPUs of /proc/stat are not ours: what others use of them need not be missed.
        self._limited = kernel.limits().cpus is not None
        self._burns: list[float] = []
        for _ in range(SETTLE):
            self._burns.append(burn_ns())
        self._learn()

    def begin(self) -> Before:
        """A cell is about to begin."""
        return Before(self._burn(), Moment.now(self._usable))

    def end(self, before: Before, cell_ns: int | None) -> Disturbance:
        """A cell has ended; `cell_ns` is the exact CPU time of its processes, None where it is not known."""
        moment = Moment.now(self._usable)
        ratio = max(before.burn_ns, self._burn()) / self.baseline_ns
        cores = len(self._usable)
        exact_ns = None if self._limited else cell_ns
        found = shares(before.moment, moment, cores, os.sysconf("SC_CLK_TCK"), exact_ns)
        return Disturbance(
            burn_ratio=round(ratio, 3),
            stolen_share=None if found.stolen is None else round(found.stolen, 4),
            others_cores=None if found.others_cores is None else round(found.others_cores, 3),
            baseline_ns=round(self.baseline_ns),
            words=judge(ratio, found.stolen, found.others_cores, cores),
        )

    def _burn(self) -> float:
        fastest = float("inf")
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_S)
            self._burns.append(burn_ns())
            fastest = min(fastest, self._burns[-1])
            if fastest <= BURN_LIMIT * self.baseline_ns:
                break
        self._learn()
        return fastest

    def _learn(self) -> None:
        low = sorted(self._burns)[int(BASELINE_QUANTILE * len(self._burns))]
        self.baseline_ns = min(self.baseline_ns, low)


def again(found: Mapping[str, Any], baseline_ns: float) -> Disturbance:
    """What `cell.json` says of a cell, held against the baseline as it is known later in the run.

    What disturbs the machine from the first burn on is the norm until it ends.
    """
    ratio = found["burn_ratio"] * found["baseline_ns"] / baseline_ns
    words = judge(ratio, found["stolen_share"], found["others_cores"], len(usable_cpus()))
    return Disturbance(
        round(ratio, 3), found["stolen_share"], found["others_cores"], round(baseline_ns), words
    )


# --- what a run says of it -------------------------------------------------------------------------------


def of_cell(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The disturbances of every attempt at a cell, from its `cell.json`, the first attempt first."""
    details = record["details"]
    attempts = [*details.get("earlier_attempts", ()), details]
    return [attempt["disturbance"] for attempt in attempts if attempt.get("disturbance")]


def baseline_ns(records: Iterable[Mapping[str, Any]]) -> float | None:
    """The baseline of the cells of a run so far, None before the first."""
    return min((found["baseline_ns"] for record in records for found in of_cell(record)), default=None)


def noise(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What `run.json` says under `noise`: how often the machine was disturbed, and how far the burns spread.

    `cells` were judged, `disturbed` of them at their first attempt, `rerun` again, and `still_disturbed`
    is what is left; burns are in units of the baseline, over all attempts.
    """
    judged = [found for record in records if (found := of_cell(record))]
    seen = [one for attempts in judged for one in attempts]
    burns = sorted(one["burn_ratio"] for one in seen)
    return {
        "cells": len(judged),
        "disturbed": sum(bool(attempts[0]["words"]) for attempts in judged),
        "rerun": sum(len(attempts) > 1 for attempts in judged),
        "still_disturbed": sum(bool(attempts[-1]["words"]) for attempts in judged),
        "baseline_ms": min(one["baseline_ns"] for one in seen) * CHUNKS / 1e6 if seen else None,
        "burn_median": statistics.median(burns) if burns else None,
        "burn_p95": burns[int(0.95 * (len(burns) - 1))] if burns else None,
        "burn_worst": burns[-1] if burns else None,
        "stolen_share_worst": _worst(seen, "stolen_share"),
        "others_cores_worst": _worst(seen, "others_cores"),
        "limits": {"burn": BURN_LIMIT, "stolen_share": STOLEN_LIMIT, "others_share": OTHERS_LIMIT},
    }


def _worst(seen: Iterable[Mapping[str, Any]], name: str) -> float | None:
    return max((one[name] for one in seen if one[name] is not None), default=None)
