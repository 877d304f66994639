"""The matrix: every cell once, trials as blocks, the same order for the same seed, typed `--set` values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import discovery, matrix
from bench.errors import UsageError
from bench.model import Cell
from bench.scenario import Grid, Scenario

SYSTEMS = discovery.select(["reference", "floor_pipe", "rq:all"], discovery.systems())
SCENARIOS = discovery.scenarios()


def cells(
    profile: str = "standard", trials: int | None = 3, seed: int = 1, sets: Sequence[str] = ()
) -> list[Cell]:
    return matrix.expand(
        SYSTEMS,
        SCENARIOS,
        profile=profile,
        trials=trials,
        seed=seed,
        sets=matrix.overrides(sets, SCENARIOS),
    )


@given(seed=st.integers())
def test_same_seed_same_order(seed: int) -> None:
    assert cells(seed=seed) == cells(seed=seed)


def test_other_seed_other_order_of_the_same_cells() -> None:
    first, second = cells(seed=1), cells(seed=2)
    assert first != second
    assert sorted(cell.id for cell in first) == sorted(cell.id for cell in second)


def test_order_does_not_depend_on_the_order_asked_for() -> None:
    backwards = matrix.expand(
        SYSTEMS[::-1],
        dict(reversed(SCENARIOS.items())),
        profile="standard",
        trials=3,
        seed=1,
        sets=matrix.overrides([], SCENARIOS),
    )
    assert backwards == cells()


def test_trials_are_blocks() -> None:
    assert [trial for trial, _ in groupby(cells(), key=lambda cell: cell.trial)] == [1, 2, 3]


def test_systems_are_interleaved_within_a_trial() -> None:
    stretches = [name for name, _ in groupby(cells(trials=1), key=lambda cell: cell.system)]
    assert len(stretches) > len(set(stretches))


@pytest.mark.parametrize("profile", matrix.PROFILES)
def test_every_cell_once(profile: str) -> None:
    """Each configuration of the profile, for each variant and trial, and nothing twice."""
    made = cells(profile, trials=2)
    expected = [
        (system.name, variant.name, name, str(sorted(scenario.values(params).items())), trial)
        for name, scenario in SCENARIOS.items()
        for grid in scenario.profiles[profile]
        for params in grid.params
        for system, variant in SYSTEMS
        for trial in (1, 2)
    ]
    found = [
        (
            cell.system,
            cell.variant,
            cell.scenario,
            str(sorted(SCENARIOS[cell.scenario].values(cell.params).items())),
            cell.trial,
        )
        for cell in made
    ]
    assert sorted(found) == sorted(set(expected))


@pytest.mark.parametrize("profile", matrix.PROFILES)
def test_ids_are_unique_and_safe_as_folder_names(profile: str) -> None:
    ids = [cell.id for cell in cells(profile, sets=["work=io:5:1024"])]
    assert len(set(ids)) == len(ids)
    for name in ids:
        assert not set(name) & set("/\\: \0")
        assert not name.startswith(".")
        assert len(name) < 200


def test_trials_of_the_profile_count_where_none_are_asked_for() -> None:
    class Twice(Scenario):
        title = "two grids"
        parameters = SCENARIOS["throughput"].parameters
        profiles = {"quick": (Grid(2, ({"tasks": 5},)), Grid(1, ({"tasks": 7},)))}

        def seconds(self, params: Any) -> float:
            raise NotImplementedError

        phases = metrics = seconds  # type: ignore[assignment]

    made = matrix.expand(SYSTEMS[:1], {"twice": Twice()}, profile="quick", trials=None, seed=1, sets={})
    assert sorted((cell.params["tasks"], cell.trial) for cell in made) == [(5, 1), (5, 2), (7, 1)]


def test_what_set_makes_equal_is_measured_once() -> None:
    """Two entries of a profile that differ only in what `--set` fixes are one configuration."""
    several = {cell.params_text for cell in cells("quick", trials=1) if cell.scenario == "throughput"}
    same = cells("quick", trials=1, sets=["throughput.seconds=0", "throughput.tasks=9"])
    assert len(several) > 1
    assert len([cell for cell in same if cell.scenario == "throughput"]) == len(SYSTEMS)


# --- --set ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "scenario", "name", "value"),
    [
        ("latency.tasks=20", "latency", "tasks", 20),
        ("latency.rate=20", "latency", "rate", 20.0),
        ("latency.rate=1e3", "latency", "rate", 1000.0),
        ("latency.arrival=constant", "latency", "arrival", "constant"),
        ("throughput.work=io:5:1024", "throughput", "work", "io:5:1024"),
        ("throughput.seconds=0", "throughput", "seconds", 0.0),
        ("start=cold", "startup", "start", "cold"),
    ],
)
def test_values_have_the_type_of_the_default(word: str, scenario: str, name: str, value: object) -> None:
    found = matrix.overrides([word], SCENARIOS)[scenario][name]
    assert (found, type(found)) == (value, type(value))


def test_a_bare_parameter_goes_to_every_scenario_that_has_it() -> None:
    found = matrix.overrides(["tasks=7"], SCENARIOS)
    having = {name for name, scenario in SCENARIOS.items() if "tasks" in scenario.parameters}
    assert len(having) > 1
    assert {name for name, values in found.items() if values} == having


def test_the_last_word_counts() -> None:
    assert matrix.overrides(["tasks=7", "latency.tasks=8"], SCENARIOS)["latency"] == {"tasks": 8}


@pytest.mark.parametrize(
    "word",
    ["tasks", "=5", "tasks=", "tasks=1.5", "rate=inf", "rate=-1", "nope=1", "latency.payload=1", "a.b.c=1"],
)
def test_bad_words(word: str) -> None:
    with pytest.raises(UsageError):
        matrix.overrides([word], SCENARIOS)
