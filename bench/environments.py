"""One virtual environment per adapter, built by `uv` from the adapter's lock and cached by its hash.

A build holds a file lock, and `uv` inherits it: whoever waits for it may be sure that neither a harness
nor an orphaned `uv` still writes. An environment is complete once its marker, written last, exists.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uv
from packaging.specifiers import SpecifierSet

from bench import discovery
from bench.errors import EnvironmentBuildError, Unsupported
from bench.model import System

CACHE_VARIABLE: Final = "SCHEDBENCH_CACHE"
MARKER: Final = "schedbench.json"
LOWEST_PYTHON: Final = "3.11"

REMEDIES: Final = (
    (
        "network was disabled|Failed to fetch|error sending request",
        "connect this machine to its package index, then try again",
    ),
    ("Hash mismatch", "the index serves other files than the lock names; if you trust it, run `nox -s lock`"),
    ("No solution found", "correct the dependencies in the adapter's header, then run `nox -s lock`"),
    ("", "mend that, then try again"),
)
"""What `uv` may complain of, and what the user can do."""

Log = Callable[[str], None]
_info: Final[Log] = logging.getLogger(__name__).info


@dataclass(frozen=True)
class Environment:
    """An adapter's environment. `packages` maps each distribution in it to its version.

    `seconds` is how long this call took to build it, 0 with `built` false if it was there already.
    `locked` is false where the adapter has no lock that fits its header, so that its packages were
    resolved on this machine.
    """

    python: Path
    packages: dict[str, str]
    seconds: float
    built: bool
    locked: bool


def cache_folder() -> Path:
    """Where environments are kept: `$SCHEDBENCH_CACHE`, else `schedbench` in the user's cache folder."""
    own = os.environ.get(CACHE_VARIABLE)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(own).absolute() if own else root / "schedbench"


def ensure(system: System, log: Log = _info) -> Environment:
    """The adapter's environment, built if it is missing, half-built or for another lock or interpreter.

    Raises:
        Unsupported: the adapter needs another version of Python.
        EnvironmentBuildError: it cannot be built; says why, and what to do.
    """
    version = platform.python_version()
    if not SpecifierSet(system.requires_python).contains(version, prereleases=True):
        raise Unsupported(f"{system.name} needs Python {system.requires_python}, this is {version}")
    try:
        return _ensure(system, log)
    except OSError as error:
        raise EnvironmentBuildError(
            f"cannot build the environment of {system.name}: {error}: free space in {cache_folder()}, "
            f"or set {CACHE_VARIABLE} to a folder that can be written"
        ) from error


def _ensure(system: System, log: Log) -> Environment:
    locked = not system.dependencies or not stale(system)
    lock = _lock_of(system, log) if system.dependencies else None
    interpreter = [sys.version, sys.base_prefix, sys.platform, platform.machine()]
    key = _digest(lock.read_text(encoding="utf-8") if lock else "", *interpreter)
    folder = cache_folder() / "envs" / f"{system.name}-{key}"
    with _exclusive(folder, log) as held:
        packages, seconds = _complete(folder), 0.0
        built = packages is None
        if packages is not None:
            _compare(system, folder, packages)
        else:
            log(f"building the environment of {system.name}")
            began = time.perf_counter()
            packages = _build(system, lock, folder, held)
            seconds = time.perf_counter() - began
    return Environment(_python(folder), packages, seconds, built, locked)


def _build(system: System, lock: Path | None, folder: Path, held: int) -> dict[str, str]:
    if folder.exists():
        shutil.rmtree(folder)
    what = f"build the environment of {system.name}"
    _uv(what, ["venv", "--no-project", "--python", sys.executable, str(folder)], held)
    if lock:
        install = ["pip", "install", "--require-hashes", "--compile-bytecode", "--requirements", str(lock)]
        _uv(what, [*install, "--python", str(_python(folder))], held)
    packages = _installed(folder)
    _write(folder / MARKER, json.dumps({"packages": packages}))
    return packages


def _installed(folder: Path) -> dict[str, str]:
    """The distributions in an environment, with their versions."""
    site = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
    found = importlib.metadata.distributions(path=[site])
    return dict(sorted((item.metadata["Name"], item.version) for item in found))


def _compare(system: System, folder: Path, locked: Mapping[str, str]) -> None:
    """Raise EnvironmentBuildError unless an environment still holds what its lock had put there."""
    installed = _installed(folder)
    for name in sorted(locked.keys() | installed.keys()):
        now, then = installed.get(name, "missing"), locked.get(name, "missing")
        if now != then:
            raise EnvironmentBuildError(
                f"the environment of {system.name} was changed: {name} is {now}, by its lock {then}: "
                f"remove {folder}, and it will be built again"
            )


def _complete(folder: Path) -> dict[str, str] | None:
    """The packages of a complete environment; None if it is missing, half-built, or lost its interpreter."""
    try:
        marker: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return marker["packages"] if _python(folder).exists() else None


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def wheel(lock: Path, python_version: str) -> Path:
    """The folder of one locked wheel that is wanted for the program inside it, fetched once and cached.

    `python_version` is one that the wheel was built for: it need not be this one.

    Raises:
        EnvironmentBuildError: it cannot be fetched, or there is none for this platform.
    """
    name = lock.stem
    folder = cache_folder() / "wheels" / f"{name}-{_digest(lock.read_text(encoding='utf-8'))}"
    with _exclusive(folder, _info) as held:
        if not (folder / MARKER).exists():
            if folder.exists():
                shutil.rmtree(folder)
            only = ["--no-deps", "--only-binary", ":all:", "--python-version", python_version]
            only += ["--python", sys.executable]  # it asks for some interpreter all the same
            locked = ["--require-hashes", "--requirements", str(lock)]
            _uv(f"fetch {name}", ["pip", "install", *only, *locked, "--target", str(folder)], held)
            _write(folder / MARKER, "{}")
    return folder


# --- locks ----------------------------------------------------------------------------------------


def write_lock(system: System) -> Path | None:
    """Resolve the newest packages that the header allows into `locks/<name>.txt` beside the adapter.

    Returns None for an adapter without dependencies: it needs no lock.

    Raises:
        EnvironmentBuildError: they cannot be resolved, or only from an address that no lock may name.
    """
    if not system.dependencies:
        return None
    path = Path(system.path).parent / "locks" / f"{system.name}.txt"
    text = _compile(system)
    path.parent.mkdir(exist_ok=True)
    _write(path, text)
    return path


def stale(system: System) -> bool:
    """Whether the adapter's lock is missing or was made for other dependencies than the header names."""
    if not system.dependencies:
        return False
    if system.lock is None:
        return True
    with Path(system.lock).open(encoding="utf-8") as file:
        return file.readline() != _first_line(system)


def _lock_of(system: System, log: Log) -> Path:
    if system.lock is not None and not stale(system):
        return Path(system.lock)
    path = cache_folder() / "locks" / f"{system.name}-{_digest(*system.dependencies)}.txt"
    with _exclusive(path, log) as held:
        if not path.exists():
            why = "has no lock" if system.lock is None else "has a lock that does not fit its header"
            log(f"{system.name} {why}: resolving its dependencies here")
            _write(path, _compile(system, held))
    return path


def _first_line(system: System) -> str:
    return f"# Refreshed with `nox -s lock`, never by hand. Dependencies: {_digest(*system.dependencies)}\n"


def _compile(system: System, held: int | None = None) -> str:
    options = [
        "--universal",
        "--generate-hashes",
        "--python-version",
        LOWEST_PYTHON,
        "--no-header",
        "--quiet",
    ]
    command = ["pip", "compile", *options, "--python", sys.executable, "-"]
    text = _uv(f"lock {system.name}", command, held, stdin="\n".join(system.dependencies))
    if "://" in text:
        raise EnvironmentBuildError(
            f"cannot lock {system.name}: the lock would name an address; depend on released packages only"
        )
    return _first_line(system) + text


# --- bundle ---------------------------------------------------------------------------------------


def bundle(system: System, folder: Path) -> Path:
    """Fill `folder` with all that an adapter's environment gets from us, compiled; returns `folder`.

    That is the agent, the model and this one adapter: whatever else leaked in would change the figures.
    """
    bench, adapters = discovery.folder_of("bench"), discovery.folder_of("adapters")
    files = {Path("bench") / path.relative_to(bench): path for path in sorted(bench.glob("agent/*.py"))}
    files |= {Path("bench") / name: bench / name for name in ("__init__.py", "model.py")}
    files[Path("adapters/__init__.py")] = adapters / "__init__.py"
    files[Path("adapters") / f"{system.name}.py"] = Path(system.path)
    for target, source in files.items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / target)
    # Its own interpreter is this one. A syntax error is left for the client to raise, with its place.
    compileall.compile_dir(folder, quiet=2)
    return folder


# --- uv and files ---------------------------------------------------------------------------------


def _uv(what: str, arguments: Sequence[str], held: int | None, stdin: str = "") -> str:
    """Run `uv` from the cache folder, where no project's settings apply; returns its standard output."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            [uv.find_uv_bin(), "--no-progress", "--color", "never", "--no-python-downloads", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=cache_folder(),
            pass_fds=() if held is None else (held,),
        )
    except FileNotFoundError as error:
        raise EnvironmentBuildError(f"cannot {what}: no `uv` here: reinstall schedbench") from error
    if done.returncode != 0:
        raise EnvironmentBuildError(f"cannot {what}: {_essence(done.stderr)}")
    return done.stdout


def _essence(stderr: str) -> str:
    """What `uv` says went wrong, on one line, and what to do about it."""
    said = re.split(r"^error: |^\s+\u00d7 ", stderr, maxsplit=1, flags=re.MULTILINE)[-1]
    said = re.split(r"\n\s*\n|\n\s*hint:", said)[0]
    said = re.sub(r"\s*(\n\s*(cause:|Caused by:)|[├╰]─▶)\s*", ": ", said)
    # Of a package that only some Pythons need, it does not say that the network is what is missing.
    offline = "network was disabled" if os.environ.get("UV_OFFLINE") else ""
    remedy = next(remedy for symptom, remedy in REMEDIES if re.search(symptom, stderr + offline))
    return f"{textwrap.shorten(said, 300).rstrip('.')}: {remedy}"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    """Write a file so that it is whole or not there."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


@contextlib.contextmanager
def _exclusive(path: Path, log: Log) -> Iterator[int]:
    """Hold the lock file of `path`. The kernel releases it when the last process that holds it has ended."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"waiting for another schedbench that builds {path.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
