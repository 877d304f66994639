"""Calibration: what the clock, the probe, the sampler and the floors cost here, measured with every run.

And A/A: the reference adapter under two names, between which nothing may differ. A part that fails gives
its rows without a value and with the reason; only Ctrl-C ends a calibration.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench import comparison, costs, discovery, harness, machine, stats
from bench.errors import SchedbenchError
from bench.floors import METRICS, PAIR, Cells, Figures, Sampled, Say
from bench.harness import Home
from bench.services import Provision
from bench.summary import is_invalid

SYSTEM: Final = "reference"

AA_TRIALS: Final = 5
"""The fewest with which the rank test can tell a lone difference of four: 2 / C(10, 5) * 4 < 0.05."""

BIG_AA_TRIALS: Final = 6
FLOOR_TRIALS: Final = 3
P99_WANTS: Final = 10_000

Row = dict[str, Any]

TIMER: Final = {"clock_step": "ns", "clock_read": "ns", "sleep_late_p50": "µs", "sleep_late_p99": "µs"}
PROBE: Final = {"cost_per_task": "µs"}
SAMPLER: Final = {"throughput_on_off": "ratio"}
LOOK: Final = {"look_with_memory": "ms"}


def measure(
    home: Home,
    folder: Path,
    say: Say,
    *,
    slots: int | None = None,
    seed: int = 1,
    provision: Provision | None = None,
) -> dict[str, Any]:
    """Calibrate, in about 20 s: the `calibration` of `run.json`.

    Returns `seconds`; `rows`, each with `name`, `metric`, `unit`, `value`, `low`, `high`, `n` and `note`
    (`value` is None where it could not be measured, and `note` says why); `aa`, with `system`, `trials`,
    `comparisons`, `different` and `n`. `folder` is for ledgers and logs; what failed leaves them there.
    `say` hears of every step. The floors have `slots`, by default as many as there are cores, and a broker of
    `provision`, as the run has.

    Raises:
        KeyboardInterrupt: the user's; nothing is left running.
    """
    began_s = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    cells = Cells(home, folder, say, slots or machine.usable_cores(), seed, provision or Provision())
    compared: list[Row] = []

    def floor() -> list[Row]:
        a, b = cells.twins(AA_TRIALS)
        compared.extend(_compared(a, b, seed))
        return _over_trials(SYSTEM, [*a, *b])

    parts: Sequence[tuple[str, Mapping[str, str], Callable[[], list[Row]]]] = (
        ("timer", TIMER, _timer),
        ("probe", PROBE, lambda: _probe(folder)),
        ("sampler", SAMPLER, lambda: _sampler(cells)),
        ("sampler", LOOK, lambda: _look(cells)),
        (SYSTEM, METRICS, floor),
        *((name, METRICS, _floor(cells, name)) for name in ("floor_pipe", "floor_redis")),
    )
    rows: list[Row] = []
    for name, metrics, part in parts:
        say(name.replace("_", " "))
        rows += _attempt(name, metrics, part, folder)
    if harness.others():
        rows = [{**row, "note": _joined([row["note"], "another schedbench was running"])} for row in rows]
    return {"seconds": round(time.monotonic() - began_s, 1), "rows": rows, "aa": _aa(AA_TRIALS, compared)}


def aa(
    home: Home,
    folder: Path,
    say: Say,
    comparisons: int = 40,
    *,
    trials: int = BIG_AA_TRIALS,
    slots: int | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """One system under two names, in at least so many comparisons; about a second for each trial and name.

    Each comparison is between fresh groups of trials; those of one pair of groups are a family, as they
    are in the calibration of a run. Returns what `measure` gives as `aa`, each comparison with its `pair`
    (from 1), and the `share` called different with its exact interval `low` to `high`, `uncorrected` (how
    many the rank test alone would have called so) and `seconds`.

    Raises:
        CellError: a cell did not end well.
        EnvironmentBuildError: the adapter has no environment.
        KeyboardInterrupt: the user's.
    """
    began_s = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Row] = []
    pairs = -(-comparisons // len(METRICS))
    for pair in range(1, pairs + 1):
        cells = Cells(home, folder, say, slots or machine.usable_cores(), seed + pair)
        a, b = cells.twins(trials, f"pair {pair} of {pairs}, ")
        found += [{"pair": pair, **row} for row in _compared(a, b, cells.seed)]
    made = _aa(trials, found)
    share = stats.proportion_interval(made["different"], made["n"])
    return made | {
        "share": share.value,
        "low": share.low,
        "high": share.high,
        "uncorrected": sum(row["p"] <= 1 - comparison.CONFIDENCE for row in found),
        "seconds": round(time.monotonic() - began_s, 1),
    }


# --- parts ------------------------------------------------------------------------------------------


def _attempt(name: str, metrics: Mapping[str, str], part: Callable[[], list[Row]], folder: Path) -> list[Row]:
    """The rows of one part; without values, and with the reason, if it cannot be measured."""
    try:
        return part()
    except (SchedbenchError, OSError) as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - a bug of ours in here must not cost the run
        log = folder / f"{name}.log"
        log.write_text(traceback.format_exc(), encoding="utf-8")
        reason = f"schedbench itself failed: {type(error).__name__}: {error}; see {log.name}"
    return [_row(name, metric, unit, None, reason) for metric, unit in metrics.items()]


def _timer() -> list[Row]:
    figures = costs.timer()
    few = f"n < {P99_WANTS}"
    return [
        _row("timer", metric, unit, figures[metric], few if metric.endswith("p99") else "")
        for metric, unit in TIMER.items()
    ]


def _probe(folder: Path) -> list[Row]:
    return [_row("probe", *one, costs.probe(folder)) for one in PROBE.items()]


def _sampler(cells: Cells) -> list[Row]:
    found = cells.run(discovery.systems()[SYSTEM], Sampled())
    figure = stats.median_interval([one.value for name, one in found.items() if name.startswith(PAIR)])
    return [_row("sampler", *one, figure) for one in SAMPLER.items()]


def _look(cells: Cells) -> list[Row]:
    figure, processes = costs.look(cells, discovery.systems()[SYSTEM])
    return [_row("sampler", *one, figure, f"at a cell of {processes} process") for one in LOOK.items()]


def _floor(cells: Cells, name: str) -> Callable[[], list[Row]]:
    return lambda: _over_trials(name, cells.floor(name, FLOOR_TRIALS))


# --- rows -------------------------------------------------------------------------------------------


def _over_trials(name: str, trials: Sequence[Figures]) -> list[Row]:
    """The median of each of a floor's figures over its valid trials, with the remarks of any of them."""
    rows = []
    for metric, unit in METRICS.items():
        valid = [trial[metric] for trial in trials if not is_invalid(trial[metric].note)]
        used = valid or [trial[metric] for trial in trials]
        figure = stats.median_interval([one.value for one in used])
        notes = [one.note for one in used]
        if len(used) < len(trials):
            notes.append(f"{len(trials) - len(used)} of {len(trials)} trials left out as invalid")
        if figure.coverage < comparison.CONFIDENCE:
            notes.append(f"interval of {figure.n} trials covers {figure.coverage:.0%}")
        rows.append(_row(name, metric, unit, figure, *notes))
    return rows


def _row(name: str, metric: str, unit: str, figure: stats.Interval | None, *notes: str) -> Row:
    """A row of `run.json`."""
    value, low, high, n = (
        (figure.value, figure.low, figure.high, figure.n) if figure else (None, None, None, 0)
    )
    keys = ("name", "metric", "unit", "value", "low", "high", "n", "note")
    return dict(zip(keys, (name, metric, unit, value, low, high, n, _joined(notes)), strict=True))


def _joined(notes: Sequence[str]) -> str:
    """All remarks; of those that differ in their numbers only, the first."""
    remarks = [remark for note in notes for remark in note.split("; ") if remark]
    first = {re.sub(r"[\d.]+", "#", remark): remark for remark in reversed(remarks)}
    return "; ".join(remark for remark in dict.fromkeys(remarks) if remark in first.values())


# --- A/A --------------------------------------------------------------------------------------------


def _compared(a: Sequence[Figures], b: Sequence[Figures], seed: int) -> list[Row]:
    """The comparisons of two groups of trials, one row for each figure.

    Trials that are invalid on their own count: what disturbed them may not make a difference either.
    """
    samples = {
        metric: ([trial[metric].value for trial in a], [trial[metric].value for trial in b])
        for metric in METRICS
    }
    shown = ("a", "b", "ratio", "low", "high", "p", "p_adjusted")
    return [
        {"metric": one.key, "unit": METRICS[one.key]}
        | {name: getattr(one, name) for name in shown}
        | {"word": one.word.value}
        for one in comparison.compare(samples, seed=seed)
    ]


def _aa(trials: int, compared: Sequence[Row]) -> dict[str, Any]:
    different = sum(row["word"] == comparison.Word.DIFFERENT for row in compared)
    return {
        "system": SYSTEM,
        "trials": trials,
        "comparisons": list(compared),
        "different": different,
        "n": len(compared),
    }
