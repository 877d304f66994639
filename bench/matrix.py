"""The matrix: which cells a run has, and in which order. Trials are blocks; inside, the order is shuffled."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.agent.work import KINDS
from bench.errors import UsageError, unknown
from bench.model import Cell, System, Variant
from bench.scenario import Parameter, Scenario

PROFILES = ("quick", "standard", "full")


Values = Mapping[str, tuple[Any, ...]]
"""By parameter, the values that take the place of a profile's."""


def overrides(words: Iterable[str], scenarios: Mapping[str, Scenario]) -> Mapping[str, Values]:
    """`--set` words, `PARAMETER=VALUE` or `SCENARIO.PARAMETER=VALUE`, as values by scenario and parameter.

    A bare parameter applies to every scenario that has it. Several values are parted by commas.

    Raises:
        UsageError: not of that form, an unknown scenario or parameter, or a value of the wrong type.
    """
    found: dict[str, dict[str, tuple[Any, ...]]] = {name: {} for name in scenarios}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"--set {word!r}: give PARAMETER=VALUE, for example latency.rate=20")
        place, dot, name = key.rpartition(".")
        if dot and place not in scenarios:
            raise unknown("scenario", place, scenarios)
        owners = [place] if dot else list(scenarios)
        having = [owner for owner in owners if name in scenarios[owner].parameters]
        if not having:
            prefix = f"{place}." if dot else ""
            raise unknown(
                "parameter",
                key,
                {prefix + known for owner in owners for known in scenarios[owner].parameters},
            )
        for owner in having:
            parameter = scenarios[owner].parameters[name]
            found[owner][name] = tuple(_typed(key, part, parameter) for part in text.split(","))
    return found


def _typed(key: str, text: str, parameter: Parameter) -> Any:
    """`text` in the type of the parameter's default."""
    wanted = type(parameter.default)
    try:
        value = wanted(text)
    except ValueError as error:
        raise UsageError(f"--set {key}={text}: not {_TYPES[wanted]} ({parameter.help})") from error
    if isinstance(value, int | float) and not 0 <= value < float("inf"):
        raise UsageError(f"--set {key}={text}: must not be negative or infinite ({parameter.help})")
    if parameter.above_zero and value == 0:
        raise UsageError(f"--set {key}={text}: must be above 0 ({parameter.help})")
    if parameter.choices and value not in parameter.choices:
        raise unknown(f"value of {key}", str(text), map(str, parameter.choices))
    try:
        parameter.check(value)
    except ValueError as error:
        raise UsageError(f"--set {key}={text}: {error} ({parameter.help})") from error
    if key.rpartition(".")[2] == "work":
        _check_work(key, text)
    return value


def _check_work(key: str, text: str) -> None:
    """Raise UsageError unless `text` names a body that a task can have."""
    name, *numbers = text.split(":")
    if name not in KINDS:
        raise unknown(f"work in --set {key}={text}:", name, KINDS)
    wanted = inspect.signature(KINDS[name])
    try:
        values = [float(number) for number in numbers]
        wanted.bind(*values)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"--set {key}={text}: {name} takes {':'.join(wanted.parameters) or 'no number'}"
        ) from error
    if any(not 0 <= value < float("inf") for value in values):
        raise UsageError(f"--set {key}={text}: must not be negative or infinite")


_TYPES: Mapping[type, str] = {int: "a whole number", float: "a number", str: "a text"}


def expand(
    variants: Sequence[tuple[System, Variant]],
    scenarios: Mapping[str, Scenario],
    *,
    profile: str,
    trials: int | None,
    seed: int,
    sets: Mapping[str, Values],
    named: bool = False,
) -> list[Cell]:
    """Every cell of a run, in the order in which to run them: the same for the same arguments.

    Heavy variants have fewer where a profile says so, unless the scenarios were `named`.
    Where `sets` have several values, there is a cell for each. A configuration that several entries of a
    profile come to, with `sets` applied, is measured once.
    Each trial of everything comes before the next trial of anything, so that a slow hour of the
    machine falls on all systems alike; within a trial the order is random by `seed`.
    """
    blocks: dict[int, dict[str, Cell]] = {}
    planned: set[tuple[object, ...]] = set()
    for name, scenario in scenarios.items():
        wanted = [(grid, params) for grid in scenario.profiles[profile] for params in grid.params]
        held = sets.get(name, {})
        chosen = [dict(zip(held, values, strict=True)) for values in itertools.product(*held.values())]
        for (grid, params), instead, (system, variant) in itertools.product(wanted, chosen, variants):
            own = {**params, **instead}
            most = grid.trials if named else grid.fewer(variant)
            for trial in range(1, (trials or most if most else 0) + 1):
                asked = (system.name, variant.name, name, trial, *scenario.values(own).items())
                if asked not in planned:
                    planned.add(asked)
                    cell = Cell(system.name, variant.name, name, own, trial)
                    blocks.setdefault(trial, {})[cell.id] = cell
    rng = random.Random(seed)
    cells: list[Cell] = []
    for trial in sorted(blocks):
        block = [blocks[trial][key] for key in sorted(blocks[trial])]
        rng.shuffle(block)
        cells += block
    return cells
