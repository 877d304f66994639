"""The matrix: which cells a run has, and in which order. Trials are blocks; inside, the order is shuffled."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.errors import UsageError, unknown
from bench.model import Cell, System, Variant
from bench.scenario import Parameter, Scenario

PROFILES = ("quick", "standard", "full")


def overrides(words: Iterable[str], scenarios: Mapping[str, Scenario]) -> dict[str, dict[str, Any]]:
    """`--set` words, `PARAMETER=VALUE` or `SCENARIO.PARAMETER=VALUE`, as values by scenario and parameter.

    A bare parameter applies to every scenario that has it.

    Raises:
        UsageError: not of that form, an unknown scenario or parameter, or a value of the wrong type.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in scenarios}
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
            valid = {f"{owner}.{known}" for owner in owners for known in scenarios[owner].parameters}
            raise unknown("parameter", key, valid)
        for owner in having:
            found[owner][name] = _typed(key, text, scenarios[owner].parameters[name])
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
    if parameter.choices and value not in parameter.choices:
        raise unknown(f"value of {key}", str(text), map(str, parameter.choices))
    return value


_TYPES: Mapping[type, str] = {int: "a whole number", float: "a number", str: "a text"}


def expand(
    variants: Sequence[tuple[System, Variant]],
    scenarios: Mapping[str, Scenario],
    *,
    profile: str,
    trials: int | None,
    seed: int,
    sets: Mapping[str, Mapping[str, Any]],
) -> list[Cell]:
    """Every cell of a run, in the order in which to run them: the same for the same arguments.

    Each trial of everything comes before the next trial of anything, so that a slow hour of the
    machine falls on all systems alike; within a trial the order is random by `seed`.
    """
    blocks: dict[int, dict[str, Cell]] = {}
    for name, scenario in scenarios.items():
        grid = scenario.profiles[profile]
        defaults = {key: parameter.default for key, parameter in scenario.parameters.items()}
        for params in grid.params:
            for system, variant in variants:
                for trial in range(1, (trials or grid.trials) + 1):
                    values = {**defaults, **params, **sets.get(name, {})}
                    own = {
                        key: value for key, value in values.items() if value != defaults[key] or key in params
                    }
                    cell = Cell(system.name, variant.name, name, own, trial)
                    blocks.setdefault(trial, {})[cell.id] = cell
    rng = random.Random(seed)
    cells: list[Cell] = []
    for trial in sorted(blocks):
        block = [blocks[trial][key] for key in sorted(blocks[trial])]
        rng.shuffle(block)
        cells += block
    return cells
