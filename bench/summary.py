"""The summary: finished cells in, tidy rows out, one per metric and trial, and one over all trials."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from bench.model import SUMMARY_COLUMNS, Cell, Status
from bench.stats import median_interval

REASON_CHARACTERS: Final = 160
"""What an aggregate quotes of a trial's reason."""

SUMMED: Final = ("tasks_", "claims_", "ticks_", "negative_latencies")
"""Metrics that begin so are counts of tasks: over trials they add up."""

INVALID: Final = "invalid"
"""A metric with a remark that begins with this word is kept as a trial and left out of the aggregate.
Remarks in a metric's note are parted by `; `."""

DISTURBED: Final = "machine disturbed"
"""How the remark of a trial begins during which something else used the machine; the reason follows."""


def cell_of(record: Mapping[str, Any]) -> Cell:
    """The cell that a parsed `cell.json` is about."""
    return Cell(**record["cell"])


def summary_rows(run_id: str, cells: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All rows of `summary.csv`: those of each trial, then the aggregates over its trials.

    A trial that failed has a row without a metric; what it did measure is kept in rows of its own
    status. Aggregates hold the trials that ended `ok` and say in `reason` which ones are missing.
    """
    groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for record in cells:
        cell = cell_of(record)
        groups.setdefault((cell.system, cell.variant, cell.scenario, cell.params_text), []).append(record)
    rows: list[dict[str, Any]] = []
    for names, members in sorted(groups.items()):
        head = dict(zip(("run_id", "system", "variant", "scenario", "params"), (run_id, *names), strict=True))
        members.sort(key=lambda record: int(record["cell"]["trial"]))
        rows += [{**head, **row} for record in members for row in _trial_rows(record)]
        rows += [{**head, **row} for row in _aggregate_rows(members)]
    return rows


def _trial_rows(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    trial, status, reason = record["cell"]["trial"], record["status"], record["reason"]
    if status != Status.OK.value:
        yield _row(trial=trial, status=status, reason=reason or status)
    for metric in record["metrics"]:
        yield _row(
            trial=trial,
            metric=metric["name"],
            unit=metric["unit"],
            value=metric["value"],
            ci_low=metric["low"],
            ci_high=metric["high"],
            n=metric["n"],
            status=status,
            reason=metric["note"],
        )


def _aggregate_rows(members: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    good = [record for record in members if record["status"] == Status.OK.value]
    bad = [record for record in members if record["status"] != Status.OK.value]
    missing = _count(len(bad), len(members), "failed", [f"{r['status']}: {r['reason']}" for r in bad])
    if bad and not good:
        status = Counter(record["status"] for record in bad).most_common(1)[0][0]
        yield _row(n=0, status=status, reason=missing)
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for record in good:
        for metric in record["metrics"]:
            by_name.setdefault(metric["name"], []).append(metric)
    for name, metrics in by_name.items():
        yield _aggregate(name, metrics, missing)


def _aggregate(name: str, metrics: Sequence[Mapping[str, Any]], missing: str) -> dict[str, Any]:
    """One figure over the trials: the median, of counts of tasks the sum, of a maximum the maximum.

    An invalid trial counts only where no trial is valid.
    """
    valid = [metric for metric in metrics if not is_invalid(metric["note"]) and metric["value"] is not None]
    used = valid or metrics
    invalid = len(metrics) - len(used)
    remarks = Counter(remark for metric in used for remark in _remarks(metric["note"], len(used)))
    words = [missing] if missing else []
    if invalid:
        left_out = [metric["note"] or "no value" for metric in metrics if metric not in used]
        words.append(_count(invalid, len(metrics), "left out", left_out))
    for remark, times in remarks.items():
        words.append(remark if times == len(used) else f"{remark} ({times} of {len(used)} trials)")
    low, high = used[0]["low"], used[0]["high"]
    values = [metric["value"] for metric in used if metric["value"] is not None]
    value = values[0] if values else None
    if name.startswith(SUMMED):
        value, low, high = sum(values), None, None
    elif name.endswith("_max") and values:
        value, low, high = max(values), None, None
        words += ["1 trial"] if len(values) == 1 else []
    elif len(values) == 1:
        words.append("1 trial" if low is None else "1 trial, the interval is within it")
    elif values:
        interval = median_interval(values)
        value, low, high = interval.value, interval.low, interval.high
        if low is not None and interval.coverage < 0.95:
            words.append(f"interval of {len(values)} trials covers {100 * interval.coverage:.0f} %")
    status = "partial" if missing or invalid or not valid else Status.OK.value
    return _row(
        metric=name,
        unit=metrics[0]["unit"],
        value=value,
        ci_low=low,
        ci_high=high,
        n=len(used),
        status=status,
        reason="; ".join(words),
    )


def _remarks(note: str, trials: int) -> dict[str, None]:
    """The remarks in a note, each once; of several trials, without what is each one's own."""
    found = [remark for remark in note.split("; ") if remark]
    if trials > 1:
        found = [DISTURBED if remark.startswith(f"{DISTURBED}: ") else remark for remark in found]
        found = [re.sub(r" \(P99 lag [\d.]+ ms\)$|, after \d+% of the time$", "", remark) for remark in found]
    return dict.fromkeys(found)


def is_invalid(note: str) -> bool:
    """Whether one of the remarks in a metric's note says that the figure is not to be used."""
    return any(remark.startswith(INVALID) for remark in note.split("; "))


def _count(part: int, whole: int, verb: str, reasons: Iterable[str]) -> str:
    """One remark on trials that are missing; the whole of each reason stands in the row of its trial."""
    first = dict.fromkeys(reason.replace("; ", ", ")[:REASON_CHARACTERS] for reason in reasons)
    return f"{part} of {whole} trials {verb}: {', '.join(first)}" if part else ""


def _row(**fields: Any) -> dict[str, Any]:
    """A row of `summary.csv`. Its reason is on one line: a lone carriage return breaks a CSV."""
    given = {key: "" if value is None else value for key, value in fields.items()}
    given["reason"] = " ".join(str(given["reason"]).split())
    return {**dict.fromkeys(SUMMARY_COLUMNS[5:], ""), **given}
