"""The tables of the survey (S2), measured again: which measured figure stands beside which published one.

Each table has one condition, so that its lines can be ranked; what was measured under other conditions
stands in the further tables of `reports.tables`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.store import Run
from reports import calibration, published
from reports.lines import Line, Section, condition
from reports.measured import Measured, Params, Subject, measured, subjects
from reports.published import Figure, Verdict, Word
from reports.ranking import Calibrated, Cost, ranked
from reports.texts import TITLES


@dataclass(frozen=True)
class Question:
    """How a section is filled.

    `wanted` picks the condition to show, `other` says why it is another one than the survey's (empty when
    it is the same), `cost` puts a figure on the scale on which a floor adds up: tasks/s become ms per task.
    `instead` picks conditions whose figure is shown of a variant that could not be asked the chosen one.
    """

    key: str
    title: str
    table: str
    scenario: str
    metric: str
    higher_is_better: bool | None
    wanted: Callable[[Params], bool]
    other: Callable[[Params], str] = lambda params: ""
    cost: Cost = float
    instead: Callable[[Params], bool] = lambda params: False


def _survey_drain(params: Params) -> bool:
    plain = params.get("work", "noop") == "noop" and not params.get("payload")
    return plain and not params.get("seconds") and params.get("tasks", SURVEY_TASKS) == SURVEY_TASKS


def _usual_memory(params: Params) -> bool:
    return not params.get("slots") and not params.get("queued")


QUESTIONS: Final = (
    Question(
        "throughput", "Throughput", "S2 throughput", "throughput", "throughput", True,
        wanted=_survey_drain,
        other=lambda params: "" if _survey_drain(params) else "the survey drained 1000 no-op tasks",
        cost=lambda rate: 1e3 / rate if rate > 0 else float("inf"),
    ),
    Question(
        "latency", "P95 dispatch latency", "S2 dispatch latency", "latency", "dispatch_latency_p95", False,
        wanted=lambda params: bool(params.get("rate")) and params.get("work", "noop") == "noop",
        other=lambda params: "" if params.get("work", "noop") == "noop" else "measured with other work",
        instead=lambda params: not params.get("rate") and params.get("work", "noop") == "noop",
    ),
    Question(
        "cpu", "CPU efficiency", "S2 CPU efficiency", "cpu", "cpu_efficiency", True,
        wanted=lambda params: params.get("work_ms", 10.0) == 10,
        other=lambda params: "" if params.get("work_ms", 10.0) == 10 else "measured with another task length",
    ),
    Question(
        "components", "Processes and services", "S2 infrastructure", "memory", "components", None,
        wanted=_usual_memory,
    ),
)  # fmt: skip
MEMORY_TABLE: Final = "S2 idle memory"
SURVEY_TASKS: Final = 1000
USUAL_LOAD: Final = 0.5
"""The share of capacity that stands in for a rate that is above it: that of the quick profile."""


def sections(run: Run) -> list[Section]:
    """The five tables of the survey, in its order."""
    rows, about, figures = measured(run), subjects(run), published.load()
    asked = {
        question.key: _section(question, rows, about, figures, calibration.floors(run, question.metric))
        for question in QUESTIONS
    }
    memory = _memory(rows, about, figures)
    return [asked["throughput"], memory, asked["latency"], asked["cpu"], asked["components"]]


def choose(rows: Iterable[Measured], scenario: str, wanted: Callable[[Params], bool]) -> str:
    """The condition that most systems share, of those that are `wanted` where there are any.

    A tie goes to Poisson arrivals, then to the lower rate.
    """
    counts = Counter(row.params_text for row in {(r.subject.key, r.params_text): r for r in rows}.values())
    params = {row.params_text: row.params for row in rows if row.scenario == scenario}
    fitting = [text for text in params if wanted(params[text])] or list(params)

    def order(text: str) -> tuple[int, bool, float, str]:
        spread = params[text].get("arrival", "poisson") != "poisson"
        return -counts[text], spread, float(params[text].get("rate", 0)), text

    return min(fitting, key=order, default="")


def _section(
    question: Question,
    rows: Sequence[Measured],
    about: Mapping[tuple[str, str], Subject],
    figures: Sequence[Figure],
    calibrated: Calibrated,
) -> Section:
    own = [row for row in rows if row.scenario == question.scenario and row.metric in (question.metric, "")]
    text = choose(own, question.scenario, question.wanted)
    shown = [row for row in own if row.params_text == text]
    params = shown[0].params if shown else {}
    same = (row for row in rows if row.scenario == question.scenario and row.params_text == text)
    processes = {row.subject.key: row for row in same if row.metric == "processes.total"}
    lines = []
    told = [_or_instead(row, question, own) for row in shown]
    for row in told:
        figure = published.find(figures, question.table, row.subject, question.metric)
        verdict = _judged(row, figure, question.other(params))
        if figure and verdict.told:
            verdict = verdict.reserved(*_reservations(question, row))
        counted = processes.get(row.subject.key) if question.key == "components" else None
        beside = {"processes": counted} if counted else {}
        lines.append(dataclasses.replace(_line(row, "", figure, verdict), beside=beside))
    lines += _unmeasured(question.table, lines, figures, about)
    unit = next((row.unit for row in told if row.unit), "")
    words = condition(question.scenario, params) if shown else "not measured in this run"
    if told != shown:
        words += ", or a share of the capacity of a variant that does not reach it"
    return Section(
        question.key,
        question.title,
        unit,
        question.higher_is_better,
        words,
        text,
        ranked(lines, question.higher_is_better, question.cost, calibrated),
    )


def _or_instead(row: Measured, question: Question, own: Sequence[Measured]) -> Measured:
    """A figure, or what was measured of its variant at a share of its capacity where it cannot be asked."""
    found = [
        other
        for other in own
        if other.subject == row.subject and other.interval and question.instead(other.params)
    ]
    if not row.unsupported or not found:
        return row
    best = min(
        found,
        key=lambda other: (
            abs(float(other.params.get("load", 0)) - USUAL_LOAD),
            other.params.get("arrival", "poisson") != "poisson",
        ),
    )
    load = float(best.params.get("load", 0))
    why = row.reason.partition(": ")[0]
    return dataclasses.replace(best, reason=_join(best.reason, f"offered {load:.0%} of its capacity: {why}"))


def _judged(row: Measured, figure: Figure | None, other: str = "") -> Verdict:
    if row.unsupported:
        return Verdict(Word.NOT_HERE, row.reason)
    return published.judge(figure, row.interval, row.reason, other)


def _reservations(question: Question, row: Measured) -> list[str]:
    """In what the condition of a figure is not quite the survey's."""
    if question.key == "throughput" and row.tasks not in ("", f"{SURVEY_TASKS}"):
        return [f"a drain of {row.tasks} tasks, not {SURVEY_TASKS}"]
    if question.key == "cpu":
        bound = "at most this share, all CPU is a lower bound" if "lower bound" in row.reason else ""
        return ["the survey gives no task length", bound]
    return []


def _memory(
    rows: Sequence[Measured], about: Mapping[tuple[str, str], Subject], figures: Sequence[Figure]
) -> Section:
    """Idle memory by role: PSS as the figure, RSS beside it because that is what the survey gives."""
    own = [row for row in rows if row.scenario == "memory"]
    text = choose(own, "memory", _usual_memory)
    shown = [row for row in own if row.params_text == text]
    by_name = {(row.subject.key, row.metric): row for row in shown}
    lines = [_line(row, "", None, _judged(row, None)) for row in shown if not row.metric]
    roles = Counter(row.subject.key for row in shown if row.metric.startswith("idle_rss."))
    for row in shown:
        kind, _, role = row.metric.partition(".")
        alone = roles[row.subject.key] <= 2  # one role and the total, which then say the same
        if kind != "idle_rss" or (alone and role == "total"):
            continue
        pss = by_name.get((row.subject.key, f"idle_pss.{role}"))
        processes = by_name.get((row.subject.key, f"processes.{role}"))
        figure = published.find(figures, MEMORY_TABLE, row.subject, row.metric)
        verdict = published.judge(figure, row.interval, row.reason)
        count = processes.interval.value if processes and processes.interval else 1
        if figure and count > 1:
            verdict = verdict.reserved(f"RSS summed over {count:.0f} processes")
        main = pss or dataclasses.replace(row, interval=None, reason="no PSS here")
        beside = {"rss": row} | ({"processes": processes} if processes else {})
        lines.append(
            dataclasses.replace(
                _line(main, role, figure, verdict), whole=alone or role == "total", beside=beside
            )
        )
    lines += _unmeasured(MEMORY_TABLE, lines, figures, about)
    words = condition("memory", shown[0].params) if shown else "not measured in this run"
    return Section("memory", "Idle memory", "MB", False, words, text, ranked(lines, False))


def _line(row: Measured, part: str, figure: Figure | None, verdict: Verdict) -> Line:
    return Line(
        row.subject,
        part,
        row.unit,
        row.interval,
        row.trials,
        row.tasks,
        row.reason,
        row.status,
        figure,
        verdict,
    )


def _unmeasured(
    table: str,
    lines: Sequence[Line],
    figures: Sequence[Figure],
    about: Mapping[tuple[str, str], Subject],
) -> list[Line]:
    """The published figures of a table that no line stands beside."""
    used = {line.published.id for line in lines if line.published}
    titles = {subject.system: subject.title for subject in about.values()}
    found = []
    for figure in figures:
        if figure.table != table or figure.id in used:
            continue
        title = titles.get(figure.system) or TITLES.get(figure.system, figure.system)
        subject = Subject(figure.system, figure.variant, title, "", "none", False, False)
        role = figure.metric.partition(".")[2]
        verdict = published.unmeasured(figure)
        found.append(Line(subject, role, figure.unit, None, 0, "", "", "", figure, verdict))
    return found


def _join(*words: str) -> str:
    return "; ".join(word for word in words if word)
