"""The tables of schedules: what each does with its ticks, and what becomes of them where several keep one."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from bench.stats import proportion_interval
from bench.store import Run
from reports import marks
from reports.lines import condition
from reports.measured import Measured, Params, Subject, measured, trials_of
from reports.tables import NONE, Column, Entry, Footnotes, Group, Table, interval_text, number, text

UNMEASURED: Final = "not measured"

PERIODIC_LEAD: Final = (
    "What was seen of one schedule. The offset is from the due time to the start of the body, also beside "
    "an open-loop load of a share of the capacity, and where the library is told by a cron expression, which "
    "has whole minutes; drift is the trend of the offset, and jitter how far the "
    "time between two neighbouring starts is off the period. A long run lasts for three and a half periods: "
    "ticks that are due meanwhile are skipped, or wait, or run beside it. Then everything that runs tasks or "
    "keeps the schedule is stopped in good order for some ticks, servers apart, and started again: runs that "
    "come for ticks of that time are made up for. Last, what keeps the schedule is killed and started again, "
    "and nobody registers the schedule anew."
)
REPLICAS_LEAD: Final = (
    "Several instances keep one schedule, told of it at nearly the same moment; every tick is counted by how "
    "many runs began from its due time to the next one's, without those of the first seconds, in which not "
    "all of them are up. Runs overlap when one begins before another has ended: then nothing keeps two of "
    "them apart. Where one is paused, it is what runs the body, in the middle of it, and its lock runs out "
    "meanwhile. The share of ticks that ran once has an exact 95 % interval."
)

COUNTS: Final = {
    "ticks_planned": "Ticks",
    "ticks_once": "Once",
    "ticks_missed": "Missed",
    "ticks_several": "Several times",
    "ticks_overlapped": "Overlapping",
    "runs_at_once_max": "Most at once",
}

Words = Callable[[Mapping[str, float]], tuple[str, str]]
"""What figures say, and what that rests on."""

Figures = Mapping[str, Measured]
"""The figures of one condition by metric; of one that gave none, the reason stands under the empty name."""


def tables(run: Run) -> list[Table]:
    """What was seen of schedules and of their replicas; a table without a row is empty."""
    rows = measured(run)
    return [_periodic(rows, _trials(run)), _replicas(rows, run.info.get("systems", {}))]


def _trials(run: Run) -> dict[tuple[str, str, str], list[dict[str, float]]]:
    """The figures of each trial of `periodic` that ended ok, by system, variant and parameters as text."""
    rows = trials_of(run, "periodic")
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for (system, variant, params, _), own in rows.groupby(["system", "variant", "params", "trial"]):
        figures = dict(zip(own["metric"], own["value"].astype(float), strict=True))
        found.setdefault((str(system), str(variant), str(params)), []).append(figures)
    return found


def _by_condition(rows: Iterable[Measured], scenario: str) -> dict[Subject, dict[str, dict[str, Measured]]]:
    """The figures of a scenario by system and variant, then by parameters as text, then by metric."""
    found: dict[Subject, dict[str, dict[str, Measured]]] = {}
    for row in rows:
        if row.scenario == scenario:
            found.setdefault(row.subject, {}).setdefault(row.params_text, {})[row.metric] = row
    return dict(sorted(found.items(), key=lambda item: (item[0].floor, item[0].title, item[0].variant)))


# --- one schedule -----------------------------------------------------------------------------------

PERIODIC_HEADS: Final = {
    "offset": Column("P95 offset, ms", True),
    "loaded": Column("P95 offset under load, ms", True),
    "cron": Column("P95 offset by cron expression, ms", True),
    "drift": Column("Drift, ms/min", True),
    "jitter": Column("P95 jitter, ms", True),
    "overlap": Column("During a long run"),
    "down": Column("Made up for after downtime"),
    "restart": Column("Survives a kill"),
}


ASKED: Final = ("idle", "loaded", "cron", "overlap", "down", "restart")


def _periodic(
    rows: Sequence[Measured], trials: Mapping[tuple[str, str, str], Sequence[Mapping[str, float]]]
) -> Table:
    notes, entries, records = Footnotes(), [], []
    for subject, conditions in _by_condition(rows, "periodic").items():
        asked = {what: _first(conditions, what) for what in ASKED}
        period = next((_every(figures) for figures in asked.values() if figures), "")

        def figure(what: str, metric: str) -> Entry:
            return _figure(asked[what], metric, notes, period)  # noqa: B023 - called in this turn only

        def verdict(what: str, metric: str, words: Words) -> Entry:
            figures = asked[what]  # noqa: B023
            text = next(iter(figures.values())).params_text if figures else ""
            own = trials.get((*subject.key, text), ())  # noqa: B023
            return _words(figures, metric, words, own, notes, period)  # noqa: B023

        cells = {
            "offset": figure("idle", "tick_delay_p95"),
            "loaded": figure("loaded", "tick_delay_p95"),
            "cron": figure("cron", "tick_delay_p95"),
            "drift": figure("idle", "tick_drift_per_minute"),
            "jitter": figure("idle", "tick_jitter_p95"),
            "overlap": verdict("overlap", "overlap_due", overlap_words),
            "down": verdict("down", "runs_after", made_up_words),
            "restart": verdict("restart", "runs_after", survival_words),
        }
        entries.append((Entry(subject.title), Entry(subject.variant), Entry(period), *cells.values()))
        own = [row for figures in asked.values() for row in figures.values()]
        doubts = "; ".join(dict.fromkeys(remark for row in own for remark in marks.remarks(row.reason)))
        records.append(
            {
                "system": subject.system,
                "variant": subject.variant,
                "period": period,
                **{name: entry.text for name, entry in cells.items()},
                "marks": marks.words(doubts),
                "reason": doubts,
            }
        )
    shown = [name for name in PERIODIC_HEADS if any(record[name] != UNMEASURED for record in records)]
    kept = [*(True,) * 3, *(name in shown for name in PERIODIC_HEADS)]
    entries = [tuple(itertools.compress(entry, kept)) for entry in entries]
    columns = (*map(Column, ("System", "Variant", "Period")), *(PERIODIC_HEADS[name] for name in shown))
    title, groups = "Schedules: accuracy, long runs, downtime, restarts", (Group("", tuple(entries)),)
    texts, legend = tuple(notes.texts), notes.legend
    return Table("periodic", title, PERIODIC_LEAD, columns, groups, texts, tuple(records), legend)


def _first(conditions: Mapping[str, Figures], what: str) -> Figures:
    """What was asked with the shortest period that gave a figure, or nothing."""
    fitting = [
        figures for figures in conditions.values() if _what(next(iter(figures.values())).params) == what
    ]

    def order(figures: Figures) -> tuple[bool, float]:
        return "" in figures, _period_s(next(iter(figures.values())).params)

    return min(fitting, key=order, default={})


def _what(params: Params) -> str:
    asked = str(params.get("what", "accuracy"))
    if asked == "accuracy":
        if params.get("trigger") == "cron":
            return "cron"
        return "loaded" if params.get("load") else "idle"
    return asked


def _period_s(params: Params) -> float:
    return float(params.get("every_s", 1))


def _every(figures: Figures) -> str:
    return f"{_period_s(next(iter(figures.values())).params):g} s"


def _figure(figures: Figures, metric: str, notes: Footnotes, period: str) -> Entry:
    """A figure; below it its interval, and what was asked where that is not what the row says."""
    row = figures.get(metric)
    if row is None:
        return _unmeasured(figures, notes)
    ends, load = interval_text(row.interval), row.params.get("load")
    below = ("" if ends == NONE else ends, f"{load:g} of capacity" if load else "", _other(figures, period))
    return notes.beside(row, sub="; ".join(filter(None, below)))


def _other(figures: Figures, period: str) -> str:
    """The period, where it is another than that of the row."""
    every = _every(figures)
    return f"every {every}" if every != period else ""


def _unmeasured(figures: Figures, notes: Footnotes) -> Entry:
    """Nothing was asked, or no trial gave a figure: then the reason is a footnote."""
    failed = figures.get("")
    return Entry(NONE, notes=notes.of(failed.reason)) if failed else Entry(UNMEASURED)


def _words(
    figures: Figures,
    metric: str,
    words: Words,
    trials: Sequence[Mapping[str, float]],
    notes: Footnotes,
    period: str,
) -> Entry:
    """What each trial says, with how many say so where they differ; below it, what the trials gave."""
    row = figures.get(metric)
    if row is None or not trials:
        return _unmeasured(figures, notes)
    said = Counter(words(trial)[0] for trial in trials)
    text = next(iter(said)) if len(said) == 1 else ", ".join(f"{one} in {n}" for one, n in said.items())
    below = words({name: value(one) for name, one in figures.items() if name})[1]
    of = f"of {len(trials)} trials" if len(said) > 1 else ""
    notes.reasons.append(row.reason)
    sub = "; ".join(filter(None, (of, below, _other(figures, period))))
    return Entry(text, sub, notes.of(row.reason), marks=marks.marks(row.reason))


def value(row: Measured) -> float:
    """A figure, or 0 where no trial has it."""
    return row.interval.value if row.interval else 0.0


def overlap_words(found: Mapping[str, float]) -> tuple[str, str]:
    """What became of the ticks that were due during a long run."""
    due = round(found["overlap_due"])
    parts = {"beside": "run beside it", "queued": "run after it", "skipped": "skipped"}
    counts = {words: round(found[f"overlap_{name}"]) for name, words in parts.items()}
    most = f"at most {found['runs_at_once_max']:g} at once"
    whole = [words for words, count in counts.items() if count >= due > 0]
    if whole:
        return f"all {whole[0]}", most
    return ", ".join(f"{count} {words}" for words, count in counts.items() if count), most


def made_up_words(found: Mapping[str, float]) -> tuple[str, str]:
    """How many runs came for the ticks that were missed."""
    missed, came = round(found["missed_ticks"]), round(found.get("runs_made_up", 0))
    if not found["runs_after"]:
        return "never ran again", ""
    first = f"first run after {number(found['first_run_after'])} s"
    return ("all" if came >= missed > 1 else {0: "none"}.get(came, f"{came}")) + f" of {missed}", first


def survival_words(found: Mapping[str, float]) -> tuple[str, str]:
    """Whether a schedule ran again after what kept it was killed."""
    if not found["runs_after"]:
        return "no", ""
    return "yes", made_up_words(found)[1]


# --- several that keep one --------------------------------------------------------------------------


def _replicas(rows: Sequence[Measured], systems: Mapping[str, Any]) -> Table:
    notes, entries, records = Footnotes(), [], []
    for subject, conditions in _by_condition(rows, "replicas").items():
        variants = systems.get(subject.system, {}).get("variants", {})
        pattern = variants.get(subject.variant, {}).get("summary", "")
        for figures in _askable(conditions.values()):
            first = next(iter(figures.values()))
            replicas = round(float(first.params.get("replicas", 2)))
            words = condition("replicas", first.params)
            cells = [_count(figures, metric, notes) for metric in COUNTS]
            entries.append(
                (
                    Entry(subject.title),
                    Entry(subject.variant, pattern),
                    Entry(f"{replicas}"),
                    Entry(words.partition(", ")[2]),
                    *cells,
                    Entry(_share(figures)),
                )
            )
            doubts = "; ".join(
                dict.fromkeys(remark for one in figures.values() for remark in marks.remarks(one.reason))
            )
            records.append(
                {
                    "system": subject.system,
                    "variant": subject.variant,
                    "replicas": replicas,
                    "condition": words,
                    **{
                        metric: round(value(figures[metric])) if metric in figures else None
                        for metric in COUNTS
                    },
                    "share_once": _share(figures),
                    "trials": first.trials,
                    "marks": marks.words(doubts),
                    "reason": doubts,
                }
            )
    columns = (
        Column("System"),
        Column("Variant"),
        Column("Replicas", True),
        Column("Schedule"),
        *(Column(head, True) for head in COUNTS.values()),
        Column("Share once, %", True),
    )
    title, groups = "Replicas: one schedule, kept several times", (Group("", tuple(entries)),)
    texts, legend = tuple(notes.texts), notes.legend
    return Table("replicas", title, REPLICAS_LEAD, columns, groups, texts, tuple(records), legend)


def _askable(conditions: Iterable[Figures]) -> list[Figures]:
    """Without the conditions that a variant cannot be asked; one of them where that is all."""
    found = list(conditions)
    return [figures for figures in found if not next(iter(figures.values())).unsupported] or found[:1]


def _count(figures: Figures, metric: str, notes: Footnotes) -> Entry:
    row, first = figures.get(metric), metric == "ticks_planned"
    if row is None:
        return _unmeasured(figures, notes) if first else Entry(NONE)
    if not first:
        return Entry(text(round(value(row))))
    notes.reasons.append(row.reason)
    return Entry(text(round(value(row))), notes=notes.of(row.reason), marks=marks.marks(row.reason))


def _share(figures: Figures) -> str:
    planned, once = (
        round(value(figures[name])) if name in figures else 0 for name in ("ticks_planned", "ticks_once")
    )
    if not planned:
        return NONE
    share = proportion_interval(once, planned)
    low, high = (0.0 if end is None else 100 * end for end in (share.low, share.high))
    return f"{number(100 * share.value)} ({number(low)}\N{EN DASH}{number(high)})"
