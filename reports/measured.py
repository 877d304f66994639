"""What a run measured, as the reports use it: the aggregate rows of `summary.csv`, typed.

Nothing is computed here that changes a figure; the numbers of tasks come from the trial rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from bench.model import Role, Status
from bench.stats import Interval
from bench.store import Run
from bench.summary import is_invalid

Params = Mapping[str, float | str]
NO_WORKERS: Final = frozenset({Role.CLIENT, Role.BROKER, Role.DATABASE, "total"})
"""A system with no other role runs its tasks in the client: an in-process one."""


@dataclass(frozen=True)
class Subject:
    """A system in one variant, as `run.json` describes it."""

    system: str
    variant: str
    title: str
    family: str
    guarantee: str
    default: bool
    in_process: bool
    services: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """System and variant."""
        return self.system, self.variant

    @property
    def floor(self) -> bool:
        """Whether this is no system but a floor to hold the systems against."""
        return self.family == "floor"


@dataclass(frozen=True)
class Measured:
    """One figure over all trials of one condition.

    `interval` is None when no trial gave a figure. `trials` counts the trials in it, `tasks` the
    observations within each (`1000`, or `950-1000` when they differ). `metric` is empty when no trial of
    the condition ended `ok`.
    """

    subject: Subject
    scenario: str
    params_text: str
    metric: str
    unit: str
    interval: Interval | None
    trials: int
    tasks: str
    status: str
    reason: str

    @property
    def unsupported(self) -> bool:
        """Whether the variant could not be asked this at all; `reason` says why."""
        return self.status == Status.UNSUPPORTED

    @property
    def params(self) -> Params:
        """The parameters, numbers as numbers."""
        return parameters(self.params_text)


def parameters(text: str) -> dict[str, float | str]:
    """`key=value` pairs as they stand in `summary.csv`."""
    found: dict[str, float | str] = {}
    for pair in text.split():
        key, _, value = pair.partition("=")
        try:
            found[key] = float(value)
        except ValueError:
            found[key] = value
    return found


def but(text: str, name: str) -> str:
    """The parameters as they stand in `summary.csv`, without one of them."""
    return " ".join(pair for pair in text.split() if not pair.startswith(f"{name}="))


def subjects(run: Run) -> dict[tuple[str, str], Subject]:
    """Every system and variant of which the summary says anything, even a failure."""
    systems: Mapping[str, Any] = run.info.get("systems", {})
    found = {}
    roles: dict[tuple[str, str], set[str]] = {}
    for row in run.summary[run.summary["metric"].str.startswith("idle_rss.")].to_dict("records"):
        key = (str(row["system"]), str(row["variant"]))
        roles.setdefault(key, set()).add(str(row["metric"]).partition(".")[2])
    pairs = run.summary[["system", "variant"]].drop_duplicates().itertuples(index=False)
    for system, variant in sorted((str(pair.system), str(pair.variant)) for pair in pairs):
        about = systems.get(system, {})
        declared = about.get("variants", {}).get(variant, {})
        found[system, variant] = Subject(
            system,
            variant,
            title=about.get("title", system),
            family=about.get("family", ""),
            guarantee=declared.get("guarantee", "none"),
            default=variant in about.get("default", [variant]),
            in_process=bool(about.get("in_process", roles.get((system, variant), set()) <= NO_WORKERS)),
            services=tuple(declared.get("services", ())),
        )
    return found


def measured(run: Run) -> list[Measured]:
    """All aggregate rows of a run, in the order of `summary.csv`."""
    about = subjects(run)
    trials = run.summary[run.summary["trial"] != ""]
    keys = ["system", "variant", "scenario", "params", "metric"]
    observations = {key: rows["n"].dropna() for key, rows in trials.groupby(keys)}
    whys = _unsupported(trials)
    rows = []
    for row in run.summary[run.summary["trial"] == ""].to_dict("records"):
        key = tuple(str(row[name]) for name in keys)
        rows.append(
            Measured(
                about[key[0], key[1]],
                key[2],
                key[3],
                key[4],
                str(row["unit"]),
                _interval(row),
                int(row["n"]) if not pd.isna(row["n"]) else 0,
                _span(observations.get(key, ())),
                str(row["status"]),
                whys.get(key[:4], "") if row["status"] == Status.UNSUPPORTED else str(row["reason"]),
            )
        )
    return rows


def trials_of(run: Run, scenario: str) -> pd.DataFrame:
    """The rows of single trials of a scenario that ended ok, invalid figures left out."""
    rows = run.summary[(run.summary["scenario"] == scenario) & (run.summary["trial"] != "")]
    valid = [not is_invalid(str(reason)) for reason in rows["reason"]]
    return rows[(rows["status"] == Status.OK.value) & np.array(valid, bool)]


def _unsupported(trials: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """Why a cell could not be asked, as its first trial says: that is no failure, and needs no count."""
    own = trials[(trials["metric"] == "") & (trials["status"] == Status.UNSUPPORTED)]
    rows = own.drop_duplicates(["system", "variant", "scenario", "params"]).to_dict("records")
    return {
        tuple(str(row[name]) for name in ("system", "variant", "scenario", "params")): str(row["reason"])
        for row in rows
    }


def _interval(row: Mapping[Any, Any]) -> Interval | None:
    if pd.isna(row["value"]):
        return None
    bounds = [None if pd.isna(row[name]) else float(row[name]) for name in ("ci_low", "ci_high")]
    trials = int(row["n"])
    # The summary keeps no coverage: what is below 95 % follows from the number of trials.
    coverage = 0.0 if bounds[0] is None else min(0.95, 1 - 2 * 0.5**trials) if trials > 1 else 0.95
    return Interval(float(row["value"]), bounds[0], bounds[1], trials, coverage)


def _span(observations: Iterable[float]) -> str:
    numbers = sorted({int(n) for n in observations})
    if not numbers:
        return ""
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}\N{EN DASH}{numbers[-1]}"
