"""Trying lies: write the liar and its honest twin, run one cell of each, judge, and keep a record."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench import __version__, discovery, environments
from bench.errors import SchedbenchError
from bench.harness import Home
from bench.model import Cell, Status
from bench.runner import Result, run_cell
from bench.selftest.judges import JUDGES, Evidence
from bench.selftest.lies import LIES, Changes, Lie

SLOTS: Final = 2
RECORD: Final = "selftest.json"
AA_SHARE: Final = 0.05


@dataclass(frozen=True)
class Finding:
    """How one lie fared. `evidence` is None where a cell did not end well; `reason` then says why."""

    lie: Lie
    evidence: Evidence | None
    reason: str = ""

    @property
    def good(self) -> bool:
        """Whether the lie was found."""
        return self.evidence is not None and self.evidence.good


def run(
    home: Home,
    lies: Sequence[Lie] = LIES,
    *,
    begin: Callable[[Lie], None] = lambda _: None,
    doing: Callable[[str], None] = lambda _: None,
) -> Iterable[Finding]:
    """Try the lies one after another and yield what came of each."""
    known: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(dir=home.folder, prefix="selftest-") as name:
        folder = Path(name)
        for number, lie in enumerate(lies):
            begin(lie)
            twin = json.dumps([lie.honest, lie.scenario, lie.params])
            if twin not in known:
                known[twin] = _cell(home, folder, f"honest{number}", lie, lie.honest, doing)
            honest = known[twin]
            liar = _cell(home, folder, f"liar{number}", lie, lie.changes, doing)
            bad = [one for one in (honest, liar) if one.status is not Status.OK]
            if bad:
                yield Finding(lie, None, f"{bad[0].status.value}: {bad[0].reason}")
            else:
                yield Finding(lie, JUDGES[lie.name](liar, honest))


def seconds(lie: Lie) -> float:
    """Roughly how long a lie and its twin take."""
    scenario = discovery.scenarios()[lie.scenario]
    return 2 * (scenario.seconds(scenario.values(lie.params)) + 0.5)


def planted(changes: Changes) -> str:
    """The text of the reference adapter with `changes` made.

    Raises:
        SchedbenchError: a text that is to be changed does not occur exactly once.
    """
    text = (discovery.folder_of("adapters") / "reference.py").read_text(encoding="utf-8")
    for old, new in changes:
        if text.count(old) != 1:
            raise SchedbenchError(f"adapters/reference.py has changed: the selftest looks for {old!r} in it")
        text = text.replace(old, new)
    return text


def _cell(
    home: Home, folder: Path, name: str, lie: Lie, changes: Changes, doing: Callable[[str], None]
) -> Result:
    """One cell of the reference adapter with changes."""
    path = folder / name / "reference.py"  # of the same name: in the same environment
    path.parent.mkdir()
    path.write_text(planted(changes), encoding="utf-8")
    system = discovery.load(path)
    (variant,) = system.default
    scenario = discovery.scenarios()[lie.scenario]
    cell = Cell(system.name, variant, lie.scenario, lie.params, 1)
    environment = environments.ensure(system)
    result = run_cell(cell, system, scenario, environment, home, path.parent / "cell", SLOTS, doing)
    if result.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return result


# --- the record of this machine ---------------------------------------------------------------------


def no_difference(aa: Mapping[str, Any]) -> bool:
    """Whether at most 5 % of the comparisons of an A/A were called different."""
    return bool(aa["share"] <= AA_SHARE)


def record(findings: Iterable[Finding], aa: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How a selftest went, as JSON; `aa` is `calibration.aa`'s."""
    rows = [
        {
            "lie": finding.lie.name,
            "found": finding.good,
            "reason": finding.reason,
            "evidence": asdict(finding.evidence) if finding.evidence else None,
        }
        for finding in findings
    ]
    good = all(row["found"] for row in rows) and (aa is None or no_difference(aa))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    short = (
        {"date": now} | {key: aa[key] for key in ("share", "low", "high", "different", "n")} if aa else None
    )
    return {
        "date": now,
        "outcome": "passed" if good else "failed",
        "found": sum(bool(row["found"]) for row in rows),
        "of": len(rows),
        "schedbench": __version__,
        "aa": short,
        "lies": rows,
    }


def save(found: Mapping[str, Any]) -> None:
    """Keep the outcome of a whole selftest as that of this machine; without an A/A, with the last one."""
    found = {**found, "aa": found["aa"] or (last() or {}).get("aa")}
    folder = environments.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def outcome() -> dict[str, Any] | None:
    """The last selftest of this machine in short, as it stands in `run.json`: without its single lies."""
    found = last()
    return {key: value for key, value in found.items() if key != "lies"} if found else None


def last() -> Mapping[str, Any] | None:
    """The last selftest of this machine and user, or None."""
    try:
        found: Mapping[str, Any] = json.loads((environments.cache_folder() / RECORD).read_text())
    except (OSError, ValueError):
        return None
    return found
