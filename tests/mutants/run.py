"""Mutation testing of the pure core: how many planted bugs the tests notice, file by file.

    nox -s mutants [-- MUTANT ...]

mutmut (settings: `[tool.mutmut]` in pyproject.toml) plants one small bug after the other in a copy of the
checkout, in `mutants/`, and runs the tests that reach it. Fails when a file stays below 85 %, or when a bug
that no test noticed is not explained in `survivors.md`. With names (`bench.stats.*` and the like) only those
are tried again, on what stands in `mutants/` from before.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

LEAST = 0.85
NOTICED = {"killed", "timeout", "segfault", "caught by type check"}
COPY = Path("mutants")
LOG = COPY / "mutmut.log"
EXPLAINED = Path(__file__).parent / "survivors.md"


@dataclass(frozen=True)
class Mutant:
    """One planted bug: its name for mutmut, the file and function it is in, and what became of it."""

    name: str
    file: str
    function: str
    status: str


def mutants() -> Iterator[Mutant]:
    """Every mutant and its status, as mutmut knows them."""
    for line in told_by("results", "--all", "true").splitlines():
        name, separator, status = line.strip().rpartition(": ")
        if separator:
            module, _, mangled = name.rpartition(".")
            function = mangled.rpartition("__mutmut_")[0].removeprefix("x_").removeprefix("xǁ")
            yield Mutant(name, module.replace(".", "/") + ".py", function.replace("ǁ", "."), status)


def change(mutant: Mutant) -> str:
    """What was planted: the new code on one line, or `without` the code that was taken out."""
    lines = told_by("show", mutant.name).splitlines()
    lines = [line for line in lines if not line.startswith(("---", "+++"))]
    old, new = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    fresh = [line for line in new if line not in old]
    return " ".join(fresh) or "without " + " ".join(line for line in old if line not in new)


def explained() -> dict[tuple[str, str], list[str]]:
    """The changes that `survivors.md` explains, by file and function; `any` stands for all of a function."""
    found: dict[tuple[str, str], list[str]] = {}
    file = function = ""
    for line in EXPLAINED.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            file = line[3:].strip()
        elif line.startswith("### "):
            function = line[4:].strip()
        elif line.startswith("- `"):
            found.setdefault((file, function), []).extend(re.findall(r"`([^`]+)`(?=[,:])", line))
    return found


def told_by(*words: str) -> str:
    """What a command of mutmut prints."""
    return subprocess.run(["mutmut", *words], check=True, capture_output=True, text=True).stdout


def tried(names: Sequence[str]) -> None:
    """Have mutmut try mutants: all of them, or those with these names."""
    if not names:
        shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(exist_ok=True)
    workers = max(1, (os.cpu_count() or 2) // 2)
    print(f"mutmut is at work with {workers} of {os.cpu_count()} cores; see {LOG}", flush=True)
    with LOG.open("w", encoding="utf-8") as log:
        words = ["mutmut", "run", "--max-children", str(workers), *names]
        ended = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False)
    if ended.returncode:
        raise SystemExit("\n".join([*LOG.read_text(encoding="utf-8").splitlines()[-30:], "mutmut failed"]))


def main(names: Sequence[str]) -> None:
    """Try mutants, then show the score of each file and what no test noticed."""
    os.nice(19)
    tried(names)
    every = list(mutants())
    survivors = [mutant for mutant in every if mutant.status not in NOTICED]
    bad = []
    for file in sorted({mutant.file for mutant in every}):
        own = [mutant for mutant in every if mutant.file == file]
        noticed = len(own) - sum(mutant.file == file for mutant in survivors)
        enough = noticed >= LEAST * len(own)
        print(f"{file:28} {noticed:5} of {len(own):5} noticed {100 * noticed / len(own):6.1f} %")
        bad += [] if enough else [f"{file} is below {LEAST:.0%}"]
    reasons = explained()
    used: set[tuple[str, str, str]] = set()
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2)) as pool:
        for mutant, what in zip(survivors, pool.map(change, survivors), strict=True):
            known = reasons.get((mutant.file, mutant.function), [])
            word = what if what in known else "any" if "any" in known else ""
            used.add((mutant.file, mutant.function, word))
            if not word:
                print(f"\n{mutant.name} ({mutant.status})\n    {what}")
                bad.append(
                    f"{EXPLAINED.name} does not explain a survivor in {mutant.file}, {mutant.function}"
                )
    if not names:
        for (file, function), changes in reasons.items():
            for what in changes:
                if (file, function, what) not in used:
                    print(f"explained, but no survivor any more: {file}, {function}: {what}")
    print(f"\n{len(every) - len(survivors)} of {len(every)} noticed, {len(survivors)} survivors")
    if bad:
        raise SystemExit("\n".join(dict.fromkeys(bad)))


if __name__ == "__main__":
    main(sys.argv[1:])
