"""Facts about the selftest: every lie is found, and no longer once the check that finds it is taken away."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from click.testing import CliRunner

from bench import ledger, sampler, selftest
from bench.cli import cli
from bench.environments import CACHE_VARIABLE
from bench.errors import SchedbenchError
from bench.harness import Home
from bench.model import Metric
from bench.processes import Group
from bench.runner import Result
from bench.sampler import Memory
from bench.scenario import History
from bench.selftest import Evidence, Span, judges, lies, trial
from bench.stack import Stack
from bench.tail import Tail
from scenarios import latency, memory
from tests.conftest import Command

NAMES = [lie.name for lie in selftest.LIES]

Tried = dict[str, tuple[Result, Result]]
"""The liar's cell and the honest twin's, by the name of the lie."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """What one whole selftest answered, kept and recorded."""

    code: int
    outcome: dict[str, Any]
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    tried: Tried


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The command, with what it judges kept: most checks can be taken away from a recording."""
    tried: Tried = {}

    def keeping(name: str, judge: judges.Judge) -> judges.Judge:
        def kept(liar: Result, honest: Result) -> Evidence:
            tried[name] = liar, honest
            return judge(liar, honest)

        return kept

    kept = {name: keeping(name, judge) for name, judge in judges.JUDGES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        patch.setattr(trial, "JUDGES", kept)
        before = selftest.last()
        done = CliRunner().invoke(cli, ["selftest", "--json"])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Whole(done.exit_code, json.loads(done.stdout), before, selftest.last(), tried)


def test_every_lie_is_found(whole: Whole) -> None:
    """The command, and the record that it leaves."""
    missed = [row for row in whole.outcome["lies"] if not row["found"]]
    assert missed == []
    assert (whole.code, whole.outcome["outcome"]) == (0, "passed")
    assert [row["lie"] for row in whole.outcome["lies"]] == NAMES
    assert (whole.before, whole.after) == (None, whole.outcome)


# --- without the check ----------------------------------------------------------------------------------


def fates_without(fate: str) -> Callable[..., pd.Series[str]]:
    """All fates but this one, which counts as ok."""
    whole = ledger.fates

    def fates(frame: pd.DataFrame, deadline_s: float, **more: int) -> pd.Series[str]:
        return whole(frame, deadline_s, **more).replace(fate, "ok")

    return fates


def fates_by_totals(frame: pd.DataFrame, deadline_s: float, **more: int) -> pd.Series[str]:
    """As if tasks were counted and not told apart: as many runs as tasks, so all is well."""
    del deadline_s, more
    assert int(frame["starts"].sum()) == len(frame)
    return pd.Series("ok", index=frame.index)


def history_with(**columns: str) -> Callable[[History, str], pd.DataFrame]:
    """The tasks of a phase with times taken from other columns."""
    whole = History.of

    def of(self: History, name: str) -> pd.DataFrame:
        frame = whole(self, name)
        return frame.assign(**{column: frame[other] for column, other in columns.items()})

    return of


def ticks_with(**columns: object) -> Callable[..., pd.DataFrame]:
    whole = ledger.ticks

    def ticks(*arguments: Any) -> pd.DataFrame:
        return whole(*arguments).assign(**columns)

    return ticks


def rss_for_pss(pid: int) -> Memory | None:
    found = sampler_memory(pid)
    return found and dataclasses.replace(found, pss=found.rss)


sampler_memory = sampler.memory


def only_children(self: Group, members: Mapping[int, str]) -> dict[str, int]:
    """CPU of the processes that were spawned, and of what they have waited for."""
    used: dict[str, int] = {}
    for child in self.children:
        times = psutil.Process(child.popen.pid).cpu_times()
        used[child.role] = used.get(child.role, 0) + round(sum(times[:4]) * 1e9)
    return used


def nothing(*_: object, **__: object) -> None:
    return None


WHILE_IT_RUNS = [
    ("clock ahead", "comparing clocks", Tail, "_compare_clocks", nothing),
    ("clock back", "comparing clocks", Tail, "_compare_clocks", nothing),
    ("shared pages", "PSS", sampler, "memory", rss_for_pss),
    ("hidden CPU", "all descendants", Group, "cpu_ns", only_children),
    ("false success", "asking what the library claims", Stack, "claims", nothing),
]
"""Checks without which other things are recorded: the lie, the check, where it is, what takes its place."""

AFTERWARDS = [
    ("drops", "the fate lost", ledger, "fates", fates_without("lost")),
    ("duplicates", "the fate duplicated", ledger, "fates", fates_without("duplicated")),
    ("drops and duplicates", "counting by id", ledger, "fates", fates_by_totals),
    ("late dispatch", "stamps in the worker", History, "of", history_with(start_ns="accepted_ns")),
    ("stall", "counting from the due time", History, "of", history_with(due_ns="submit_ns")),
    ("stopped generator", "its own lag", latency, "generator_lag_ms", lambda sent, *_: np.zeros(len(sent))),
    ("clock ahead", "the mark on its figures", Metric, "noted", lambda self, _: self),
    ("clock back", "counting negative latencies", ledger, "negative", lambda _: 0),
    ("leak", "the slope of PSS over tasks", memory, "growth", lambda *_: ()),
    ("shared pages", "the flag on RSS", memory, "rss_remark", lambda *_: ""),
    ("skipped tick", "counting ticks without a run", ledger, "ticks", ticks_with(starts=1)),
    ("repeated tick", "counting runs", ledger, "ticks", ticks_with(starts=1)),
    ("overlap", "comparing runs with those before", ledger, "ticks", ticks_with(overlapped=False)),
]
"""Checks of what was recorded, likewise."""


def without(checks: Sequence[tuple[str, str, object, str, object]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("name", "check", "owner", "attribute", "instead"),
        checks,
        ids=[f"{one[0]}: {one[1]}" for one in checks],
    )


@without(WHILE_IT_RUNS)
def test_a_lie_is_missed_without_the_check_for_it(
    name: str,
    check: str,
    owner: object,
    attribute: str,
    instead: object,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, attribute, instead)
    (finding,) = selftest.run(home, [lie for lie in selftest.LIES if lie.name == name])
    assert not finding.good, f"{name} was found without {check}"


@without(AFTERWARDS)
def test_a_recorded_lie_is_missed_without_the_check_for_it(
    name: str,
    check: str,
    owner: object,
    attribute: str,
    instead: object,
    whole: Whole,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert judges.JUDGES[name](*again(whole, name)).good
    monkeypatch.setattr(owner, attribute, instead)
    assert not judges.JUDGES[name](*again(whole, name)).good, f"{name} was found without {check}"


def again(whole: Whole, name: str) -> Iterator[Result]:
    """The liar's cell and the honest one's, with their figures computed once more."""
    for result in whole.tried[name]:
        assert result.figures is not None
        yield dataclasses.replace(result, metrics=[*result.figures()])


def test_no_lie_is_left_without_a_check_that_is_taken_away() -> None:
    assert {one[0] for one in (*WHILE_IT_RUNS, *AFTERWARDS)} == set(NAMES)


# --- judging ----------------------------------------------------------------------------------------------


def test_evidence_needs_the_planted_value_inside_and_the_honest_one_clear_of_it() -> None:
    inside, clear = Span(2.1, 1.9, 2.3), Span(0.0, -0.1, 0.1)
    assert Evidence(2.0, "ms", inside, clear).good
    assert not Evidence(2.5, "ms", inside, clear).good, "the planted value lies outside"
    assert not Evidence(2.0, "ms", inside, inside).good, "the honest twin shows it as well"
    assert not Evidence(2.0, "ms", Span(2.0, -1.0, 5.0), clear).good, "too wide to tell it from nothing"
    assert not Evidence(2.0, "ms", inside, Span(math.nan, math.nan, math.nan)).good, "no honest figure"
    assert not Evidence(2.0, "ms", inside, clear, ("a mark",)).good
    assert not Evidence(2.0, "ms", Span(math.nan, math.nan, math.nan), clear).good


def test_a_difference_is_as_wide_as_both_and_the_resolution() -> None:
    found = judges.difference(Span(10, 9, 12), Span(4, 3, 5), 0.5)
    assert (found.value, found.low, found.high) == (6, 3.5, 9.5)


def test_what_waits_for_a_pause_has_a_known_p99() -> None:
    """Tasks 5 ms apart; all that are due during the pause run at its end."""
    due_ms = 5.0 * np.arange(lies.STALL_TASKS)
    waited_ms = np.where((due_ms >= 1000) & (due_ms < 2400), 2400 - due_ms, 0.0)
    assert np.percentile(waited_ms, 99) == pytest.approx(judges.expected_p99_ms(1.4), abs=6)


def test_a_cell_that_fails_is_a_lie_that_was_not_found(home: Home) -> None:
    broken = dataclasses.replace(
        selftest.LIES[0], changes=(("        self.queue.put(task)\n", "        raise OSError('no')\n"),)
    )
    (finding,) = selftest.run(home, [broken])
    assert not finding.good
    assert "OSError: no" in finding.reason


def test_a_change_must_fit_the_reference_adapter() -> None:
    for lie in selftest.LIES:
        compile(trial.planted(lie.changes), lie.name, "exec")
        compile(trial.planted(lie.honest), lie.name, "exec")
    with pytest.raises(SchedbenchError, match="has changed"):
        trial.planted((("no such line", ""),))
    with pytest.raises(SchedbenchError, match="has changed"):
        trial.planted((("self", ""),))


def test_the_record_keeps_the_last_a_a(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    aa = {"share": 0.1, "low": 0.03, "high": 0.24, "different": 4, "n": 40}
    with_aa = selftest.record([], aa)
    assert with_aa["outcome"] == "failed", "more than 5 % were called different"
    selftest.save(with_aa)
    selftest.save(selftest.record([]))
    kept = selftest.outcome()
    assert kept is not None
    assert kept["outcome"] == "passed"
    assert kept["aa"] == {"date": with_aa["date"], **aa}


def test_an_unknown_lie_is_one_line(schedbench: Command) -> None:
    done = schedbench("selftest", "drop")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "did you mean 'drops'?" in done.stderr
