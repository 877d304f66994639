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
from bench.model import Cell, Variant
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


def one_scenario(*grids: Grid) -> Scenario:
    """A scenario that is planned and never run."""

    class One(Scenario):
        title = "some grids"
        parameters = SCENARIOS["throughput"].parameters
        profiles = {"quick": grids}

        def seconds(self, params: Any) -> float:
            raise NotImplementedError

        phases = metrics = seconds  # type: ignore[assignment]

    return One()


def test_trials_of_the_profile_count_where_none_are_asked_for() -> None:
    twice = one_scenario(Grid(2, ({"tasks": 5},)), Grid(1, ({"tasks": 7},)))
    made = matrix.expand(SYSTEMS[:1], {"twice": twice}, profile="quick", trials=None, seed=1, sets={})
    assert sorted((cell.params["tasks"], cell.trial) for cell in made) == [(5, 1), (5, 2), (7, 1)]


@pytest.mark.parametrize(
    ("named", "trials", "expected"),
    [
        (False, None, [(5, 1), (9, 1), (9, 2)]),
        (True, None, [(5, 1), (5, 2), (5, 3), (7, 1), (9, 1), (9, 2)]),
        (False, 2, [(5, 1), (5, 2), (9, 1), (9, 2)]),  # what a profile leaves out stays out
        (True, 1, [(5, 1), (7, 1), (9, 1)]),
    ],
)
def test_heavy_variants_have_as_many_trials_as_their_grid_says(
    named: bool, trials: int | None, expected: list[tuple[int, int]]
) -> None:
    scenario = one_scenario(
        Grid(3, ({"tasks": 5},), heavy=1), Grid(1, ({"tasks": 7},), heavy=0), Grid(2, ({"tasks": 9},))
    )
    system = SYSTEMS[0][0]
    heavy, light = Variant("heavy", heavy=True), Variant("light")
    made = matrix.expand(
        [(system, heavy), (system, light)], {"one": scenario}, profile="quick", trials=trials, seed=1,
        sets={}, named=named,
    )  # fmt: skip
    asked = {name: [] for name in ("heavy", "light")}
    for cell in made:
        asked[cell.variant].append((cell.params["tasks"], cell.trial))
    assert sorted(asked["heavy"]) == expected
    whole = [(tasks, trial) for tasks, n in ((5, 3), (7, 1), (9, 2)) for trial in range(1, (trials or n) + 1)]
    assert sorted(asked["light"]) == whole


@pytest.mark.parametrize(
    ("variant", "left_out"),
    [
        (Variant("v"), set()),
        (Variant("v", batch=True), set()),
        (Variant("v", heavy=True), {"capacity", "startup"}),
        (Variant("v", heavy=True, batch=True), {"capacity", "cpu", "memory", "startup"}),
    ],
)
def test_every_scenario_is_asked_of_a_heavy_variant_once_it_is_named(
    variant: Variant, left_out: set[str]
) -> None:
    def scenarios(named: bool) -> set[str]:
        found = matrix.expand(
            [(SYSTEMS[0][0], variant)], SCENARIOS, profile="quick", trials=None, seed=1, sets={}, named=named
        )
        return {cell.scenario for cell in found}

    assert scenarios(named=True) == set(SCENARIOS)
    assert set(SCENARIOS) - scenarios(named=False) == left_out


@pytest.mark.parametrize(
    ("grid", "plain", "heavy", "batch"),
    [
        (Grid(5), 5, 5, 5),
        (Grid(5, heavy=2), 5, 2, 2),
        (Grid(5, heavy=0), 5, 0, 0),
        (Grid(5, heavy=2, batch=0), 5, 2, 0),
        (Grid(5, heavy=2, batch=1), 5, 2, 1),
        (Grid(5, batch=1), 5, 5, 1),
    ],
)
def test_heavy_variants_that_take_batches_may_have_fewer_trials_still(
    grid: Grid, plain: int, heavy: int, batch: int
) -> None:
    assert grid.fewer(Variant("v")) == grid.fewer(Variant("v", batch=True)) == plain
    assert grid.fewer(Variant("v", heavy=True)) == heavy
    assert grid.fewer(Variant("v", heavy=True, batch=True)) == batch


def test_what_set_makes_equal_is_measured_once() -> None:
    """Two entries of a profile that differ only in what `--set` fixes are one configuration."""
    several = {cell.params_text for cell in cells("standard", trials=1) if cell.scenario == "throughput"}
    same = cells("standard", trials=1, sets=["throughput.seconds=0", "throughput.tasks=9"])
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
    (found,) = matrix.overrides([word], SCENARIOS)[scenario][name]
    assert (found, type(found)) == (value, type(value))


def test_a_bare_parameter_goes_to_every_scenario_that_has_it() -> None:
    found = matrix.overrides(["tasks=7"], SCENARIOS)
    having = {name for name, scenario in SCENARIOS.items() if "tasks" in scenario.parameters}
    assert len(having) > 1
    assert {name for name, values in found.items() if values} == having


def test_the_last_word_counts() -> None:
    assert matrix.overrides(["tasks=7", "latency.tasks=8"], SCENARIOS)["latency"] == {"tasks": (8,)}


def test_of_several_values_each_is_measured_with_each() -> None:
    sets = ["latency.rate=10,20", "latency.arrival=constant,poisson,constant", "latency.load=0"]
    asked = [cell for cell in cells(trials=1, sets=sets) if cell.scenario == "latency"]
    own = [cell.params for cell in asked if cell.system == "reference"]
    assert sorted((params["rate"], params["arrival"]) for params in own) == [
        (10.0, "constant"),
        (10.0, "poisson"),
        (20.0, "constant"),
        (20.0, "poisson"),
    ]


@pytest.mark.parametrize(
    "word",
    [
        "tasks",
        "=5",
        "tasks=",
        "tasks=1.5",
        "rate=inf",
        "rate=-1",
        "rate=1,",
        "nope=1",
        "latency.payload=1",
        "a.b.c=1",
    ],
)
def test_bad_words(word: str) -> None:
    with pytest.raises(UsageError):
        matrix.overrides([word], SCENARIOS)
