"""Periodic: a schedule that runs something every so often; each of its ticks is accounted for.

What is asked:
    accuracy  how far runs are from their due times, and whether that grows; idle, or beside a load
    overlap   what becomes of the ticks that are due while a run takes longer than the period
    down      what comes for the ticks that were due while all that runs tasks was down
    restart   whether the schedule is still there after what keeps it was killed and started anew

A tick is skipped when nothing ran from its due time to the next one's, and runs too often when more than
one run began in that time. Two runs overlap when one begins before the other has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.scenario import (
    BATCHES,
    Arrival,
    CellError,
    Fault,
    Grid,
    History,
    Load,
    Metric,
    Parameter,
    Phase,
    Phases,
    Scenario,
    System,
    Variant,
    Workers,
    bursts,
    capacity_hz,
    cron_of,
    no_schedule,
    quantiles,
    schedule_of,
    stats,
)

BEFORE = 3
"""Ticks that are waited for before something is done to the schedule."""

LONG = 3.5
"""So many periods does the run last during which others are due."""

LEAST_DRIFT = 8
"""A trend is shown of at least so many ticks."""

LEAST_OFF_NS = 50_000_000
"""A run belongs to the rhythm from before where it is no farther from it than this, or than twice the spread
that was seen then."""

BURST_TASKS = 200
MOST_HZ = 500.0
"""The load beside a schedule is found with at most so many tasks, and is no higher."""

SEED = 1


class Periodic(Scenario):
    """Ticks of one schedule."""

    sends = False
    headline = "tick_delay_p95"
    title = "Periodic: skipped, repeated and overlapping ticks of a schedule, and how late they are"
    unasked = frozenset({"standard", "full"})
    parameters = {
        "what": Parameter(
            "accuracy", "what is asked of the schedule", ("accuracy", "overlap", "down", "restart")
        ),
        "trigger": Parameter(
            "interval", "what the library is told: a period, or a cron expression", ("interval", "cron")
        ),
        "every_s": Parameter(1.0, "seconds between two ticks", above_zero=True),
        "ticks": Parameter(20, "ticks to account for in accuracy", above_zero=True),
        "load": Parameter(0.0, "in accuracy, tasks beside it: a share of the capacity that a burst finds"),
        "missed": Parameter(4, "ticks to be down for, and to wait for after that", above_zero=True),
    }
    profiles = {
        "quick": (Grid(1, ({"ticks": 5},)),),
        "standard": (
            Grid(
                6,
                (
                    {},
                    {"load": 0.5},
                    {"what": "overlap"},
                    {"what": "down", "every_s": 5.0},
                    {"what": "restart", "every_s": 5.0},
                ),
                heavy=3,
            ),
        ),
        "full": (
            Grid(
                10,
                (
                    {"ticks": 600},
                    {"ticks": 600, "load": 0.5},
                    {"trigger": "cron", "every_s": 60.0, "ticks": 5},
                    {"what": "overlap"},
                    {"what": "down", "every_s": 5.0},
                    {"what": "restart", "every_s": 5.0},
                ),
            ),
        ),
    }

    def unsupported(self, system: System, variant: Variant, params: Mapping[str, Any]) -> str:
        cron = params["trigger"] == "cron"
        if why := no_schedule(system, variant, params["every_s"], cron=cron):
            return why
        if cron and (params["what"] != "accuracy" or params["load"]):
            return "of a cron expression, accuracy without a load is all that is asked"
        if params["load"] and not system.takes_tasks:
            return "it runs nothing but schedules: there is no load beside them"
        # A cron schedule of a batch variant is that of the other variant.
        return BATCHES if variant.batch and (cron or params["load"]) else ""

    def seconds(self, params: Mapping[str, Any]) -> float:
        ticks = {
            "accuracy": params["ticks"] + 1.5,
            "overlap": LONG + BEFORE + 2.5,
            "down": BEFORE + 2 * params["missed"] + 1.5,
            "restart": BEFORE + params["missed"] + 1.5,
        }[params["what"]]
        return float(ticks * params["every_s"])

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        every_s, what, missed = params["every_s"], params["what"], params["missed"]
        cron = cron_of(every_s) if params["trigger"] == "cron" else ""
        kept = {**schedule_of(variant, every_s, cron), "wait": "hold"}
        before_s, after_s = (BEFORE + 0.5) * every_s, (missed + 1) * every_s
        if what == "accuracy":
            yield from self._accuracy(params, variant, kept)
        elif what == "overlap":
            work = f"sleep-once:{round(1000 * LONG * every_s)}"
            yield Phase("ticks", hold_s=self.seconds(params), every_work=work, **kept)
        elif what == "down":
            yield Phase("ticks", hold_s=before_s, **kept)
            yield Phase("down", workers=Workers.DOWN, wait="hold", hold_s=missed * every_s)
            yield Phase("after", ready=False, wait="hold", hold_s=after_s)
        else:
            yield Phase("ticks", hold_s=before_s, **kept)
            yield Phase(
                "after", wait="hold", hold_s=after_s, supervised=True, faults=(Fault("kill", "keeper"),)
            )

    def _accuracy(self, params: Mapping[str, Any], variant: Variant, kept: Mapping[str, Any]) -> Phases:
        if not params["load"]:
            yield Phase("ticks", hold_s=self.seconds(params), **kept)
            return
        most_hz = capacity_hz((yield from bursts(variant, "noop", BURST_TASKS)))
        rate_hz = min(MOST_HZ, params["load"] * most_hz)
        n = max(1, round(rate_hz * self.seconds(params)))
        yield Phase("ticks", Load(n, Arrival.POISSON, rate_hz), hold_s=self.seconds(params), **kept)
        yield Phase("rest of the load")

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        if params["what"] == "overlap":
            yield from _overlap(history)
        elif params["what"] == "accuracy":
            yield from _accuracy(history, params)
        else:
            yield from _after(history, params["what"])


def _accuracy(history: History, params: Mapping[str, Any]) -> Iterator[Metric]:
    ticks = history.ticks("ticks")
    planned = ticks[ticks["planned"]]
    n = len(planned)
    ran = planned.dropna(subset=["start_ns"])
    yield Metric("ticks_planned", "count", float(n), n)
    yield Metric("ticks_skipped", "count", float((planned["starts"] == 0).sum()), n)
    extra = int(ticks["starts"].sum()) - len(ran)
    yield Metric("ticks_repeated", "count", float(extra), n)
    yield Metric("ticks_overlapped", "count", float(ticks["overlapped"].sum()), n)
    start_ns, due_ns = ran["start_ns"].to_numpy(np.int64), ran["due_ns"].to_numpy(np.int64)
    delay_ms = (start_ns - due_ns) / 1e6
    phase = history.phases[history.number("ticks")]
    note = "" if history.told("ticks") else "due times are counted from its least late tick"
    if phase.wall_clock:
        note = f"due when the wall clock shows a multiple of {params['every_s']:g} s"
    early, words = int((delay_ms < 0).sum()), ""
    if early and phase.early_s:
        words = f"{early} of {n} began early, by up to {-delay_ms.min():.0f} ms"
    never = f"{n - len(ran)} of {n} ticks never ran" if len(ran) < n else ""
    for metric in quantiles("tick_delay", delay_ms, note):
        yield metric.noted(words).noted(never)
    if params["load"]:
        assert phase.load is not None
        yield Metric("offered_rate", "tasks/s", phase.load.rate_hz, phase.load.n)
    if len(ran) < LEAST_DRIFT:
        return
    minutes = (due_ns - due_ns[0]) / 6e10
    drift = stats.slope_interval(minutes, delay_ms, SEED)
    seen = f"seen over {minutes[-1] * 60:.0f} s"
    yield Metric("tick_drift_per_minute", "ms", drift.value, drift.n, drift.low, drift.high, seen)
    neighbours = np.diff(ran.index.to_numpy(np.int64)) == 1
    off_ms = np.abs(np.diff(start_ns)[neighbours] / 1e6 - 1000 * params["every_s"])
    yield from (one for one in quantiles("tick_jitter", off_ms) if one.name == "tick_jitter_p95")


def _overlap(history: History) -> Iterator[Metric]:
    """What became of the ticks that came while the first run was going on.

    They come in the rhythm of that run: a schedule that is always late is late for these, too.
    """
    every_ns = round(history.phases[history.number("ticks")].every_s * 1e9)
    runs = history.runs("ticks")
    if not len(runs) or pd.isna(runs["end_ns"].iloc[0]):
        raise CellError("the run that was to last long never began, or did not end")
    first = runs.iloc[0]
    begin_ns, end_ns = int(first["start_ns"]), int(first["end_ns"])
    start_ns = runs["start_ns"].to_numpy(np.int64)
    beside = int(((start_ns > begin_ns) & (start_ns < end_ns)).sum())
    meanwhile = max(beside, (end_ns - begin_ns - 1) // every_ns)
    made = made_up(start_ns[start_ns >= end_ns], begin_ns, every_ns, end_ns, every_ns // 4)
    queued = min(made, max(0, meanwhile - beside))
    yield Metric("overlap_due", "count", float(meanwhile), meanwhile)
    yield Metric("overlap_beside", "count", float(beside), meanwhile)
    yield Metric("overlap_queued", "count", float(queued), meanwhile)
    yield Metric("overlap_skipped", "count", float(max(0, meanwhile - beside - queued)), meanwhile)
    yield Metric("runs_at_once_max", "count", float(history.at_once("ticks")), len(runs))


def _after(history: History, what: str) -> Iterator[Metric]:
    """What came for the ticks that were due while the schedule was down, and until it ran again."""
    every_ns = round(history.phases[history.number("ticks")].every_s * 1e9)
    if what == "down":
        # What keeps it is told to stop when the first phase ends, and may take its time.
        down_ns, up_ns = history.edge_ns("ticks", "end"), history.edge_ns("down", "end")
        since_ns = up_ns
    else:
        if not history.restarts:
            raise CellError("what keeps the schedule was not started again in time")
        down_ns, up_ns = (int(history.restarts[0][name]) for name in ("ended_ns", "again_ns"))
        since_ns = down_ns  # a client runs what is due while it starts
    ticks, start_ns = history.ticks("ticks"), history.runs("ticks")["start_ns"].to_numpy(np.int64)
    due_ns, ran = int(ticks["due_ns"].iloc[0]), ticks.dropna(subset=["start_ns"])
    late_ns = (ran["start_ns"] - ran["due_ns"]).to_numpy(np.int64)
    if not len(late_ns):
        raise CellError("the schedule did not run before anything was done to it")
    beat_ns = due_ns + int(np.median(late_ns))
    off_ns = min(every_ns // 4, max(LEAST_OFF_NS, 2 * int(np.ptp(late_ns))))
    after_ns = start_ns[start_ns >= since_ns]
    until_ns = int(after_ns[0]) - off_ns if len(after_ns) else up_ns
    stopping = int(((start_ns > down_ns) & (start_ns < since_ns)).sum())
    missed = max(0, (until_ns - beat_ns) // every_ns - (down_ns - beat_ns) // every_ns - stopping)
    yield Metric("missed_ticks", "count", float(missed), missed)
    yield Metric("runs_after", "count", float(len(after_ns)), len(after_ns))
    if not len(after_ns):
        return
    yield Metric("first_run_after", "s", float(after_ns[0] - since_ns) / 1e9, 1)
    came = made_up(after_ns, beat_ns, every_ns, up_ns, off_ns)
    yield Metric("runs_made_up", "count", float(came), missed)
    yield Metric("rhythm_moved", "ms", abs(_off_ns(int(after_ns[-1]), beat_ns, every_ns)) / 1e6, 1)


def made_up(start_ns: npt.NDArray[np.int64], beat_ns: int, every_ns: int, up_ns: int, off_ns: int) -> int:
    """How many of these runs came for ticks that were due before `up_ns`, and not for ones after.

    The runs are in order, and all began after `up_ns`; `beat_ns` is when one usually began before. The last
    run tells the rhythm they have come to: the one from before, give or take `off_ns`, or another that began
    with the first run. A run in that rhythm came for a tick of its own. The first run of another rhythm did,
    too, where it came a whole period after `up_ns`: else it came at once, for what had been missed.
    """
    if not len(start_ns):
        return 0
    first_ns, last_ns = int(start_ns[0]), int(start_ns[-1])
    if abs(_off_ns(last_ns, beat_ns, every_ns)) <= off_ns:
        in_rhythm = abs(_off_ns(first_ns, beat_ns, every_ns)) <= off_ns
    else:
        in_rhythm = first_ns >= up_ns + every_ns - off_ns
        beat_ns = last_ns
    later = (last_ns + off_ns - beat_ns) // every_ns - (first_ns + off_ns - beat_ns) // every_ns
    return max(0, len(start_ns) - later - in_rhythm)


def _off_ns(at_ns: int, beat_ns: int, every_ns: int) -> int:
    """How long after the nearest beat of a rhythm, or before it, a moment is."""
    return (at_ns - beat_ns + every_ns // 2) % every_ns - every_ns // 2
