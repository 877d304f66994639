"""Locked environments, built by the real `uv` from packages made here, through every way it can fail."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import discovery, environments
from bench.environments import MARKER, Environment
from bench.errors import EnvironmentBuildError, Unsupported
from bench.model import System

ROOT = Path(__file__).parents[1]
DEADLINE_S = 60

ENSURE = """
import sys
from pathlib import Path
from bench import discovery, environments
environment = environments.ensure(discovery.load(Path(sys.argv[1])), lambda line: print(line, flush=True))
print(f"built={environment.built} packages={environment.packages}")
"""

BACKEND = f"""
import os, shutil, time
from pathlib import Path

def build_wheel(folder, config_settings=None, metadata_directory=None):
    Path(os.environ["STARTED"]).touch()
    deadline = time.monotonic() + {DEADLINE_S}
    while not Path(os.environ["GATE"]).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return Path(shutil.copy(os.environ["WHEEL"], folder)).name
"""


def metadata(name: str) -> str:
    return f"Metadata-Version: 2.2\nName: {name}\nVersion: 1.0\n"


def wheel(folder: Path, name: str, content: str = "") -> Path:
    """A minimal wheel of version 1.0."""
    info = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", content)
        file.writestr(f"{info}/METADATA", metadata(name))
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        names = [f"{name}.py", *(f"{info}/{member}" for member in ("METADATA", "WHEEL", "RECORD"))]
        file.writestr(f"{info}/RECORD", "".join(f"{member},,\n" for member in names))
    return path


def slow_package(folder: Path) -> None:
    """A source package whose build says that it has started and goes on when a gate is opened."""
    members = {
        "pyproject.toml": (
            '[project]\nname = "slow"\nversion = "1.0"\n'
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        ),
        "backend.py": BACKEND,
        "PKG-INFO": metadata("slow"),
    }
    with tarfile.open(folder / "slow-1.0.tar.gz", "w:gz") as file:
        for name, text in members.items():
            member = tarfile.TarInfo(f"slow-1.0/{name}")
            member.size = len(text.encode())
            file.addfile(member, io.BytesIO(text.encode()))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCHEDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages, `alpha` in it, that is all `uv` can see."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "alpha")
    settings = tmp_path / "uv.toml"
    settings.write_text(f"no-index = true\nfind-links = [{json.dumps(str(folder))}]\n")
    monkeypatch.setenv("UV_CONFIG_FILE", str(settings))
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., System]:
    def write(*dependencies: str, python: str = ">=3.11") -> System:
        header = [
            "/// script", f"requires-python = {python!r}", f"dependencies = {json.dumps(dependencies)}",
            "[tool.schedbench]", 'title = "Mine"', 'family = "timer"', 'homepage = ""', "capabilities = []",
            "[tool.schedbench.variants.plain]", 'guarantee = "none"', "///",
        ]  # fmt: skip
        path = tmp_path / "adapters" / "mine.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"# {line}\n" for line in header))
        return discovery.load(path)

    return write


def locked(system: System) -> System:
    environments.write_lock(system)
    return discovery.load(Path(system.path))


def folder_of(environment: Environment) -> Path:
    return environment.python.parents[1]


def message(system: System) -> str:
    """The one line with which building the environment fails; no environment is left complete."""
    with pytest.raises(EnvironmentBuildError) as caught:
        environments.ensure(system)
    assert "\n" not in str(caught.value)
    assert not list(environments.cache_folder().glob(f"envs/*/{MARKER}"))
    return str(caught.value)


# --- building -------------------------------------------------------------------------------------


def test_an_environment_holds_what_the_lock_names_and_nothing_else(
    index: Path, adapter: Callable[..., System]
) -> None:
    wheel(index, "beta")
    environment = environments.ensure(locked(adapter("alpha")))
    assert (environment.packages, environment.built, environment.locked) == ({"alpha": "1.0"}, True, True)
    assert list(folder_of(environment).rglob("alpha.*.pyc")), "not compiled: the first start would pay for it"
    code = "import alpha, importlib.util as u; print([m for m in ('beta', 'pip', 'numpy') if u.find_spec(m)])"
    done = subprocess.run([environment.python, "-Ic", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_complete_environment_is_used_again(index: Path, adapter: Callable[..., System]) -> None:
    first, second = (environments.ensure(locked(adapter("alpha"))) for _ in range(2))
    assert (second.python, second.packages) == (first.python, first.packages)
    assert (second.built, second.seconds) == (False, 0.0)


def test_another_lock_is_another_environment(index: Path, adapter: Callable[..., System]) -> None:
    wheel(index, "beta")
    first = environments.ensure(locked(adapter("alpha")))
    second = environments.ensure(locked(adapter("alpha", "beta")))
    assert first.python != second.python
    assert second.packages == {"alpha": "1.0", "beta": "1.0"}


def test_an_adapter_without_dependencies_gets_an_empty_environment_and_no_lock(
    cache: Path, adapter: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    system = adapter()
    environment = environments.ensure(system)
    assert (environment.packages, environment.locked) == ({}, True)
    assert environments.write_lock(system) is None
    assert not environments.stale(system)


def remove_marker(folder: Path) -> None:
    (folder / MARKER).unlink()


def cut_marker(folder: Path) -> None:
    (folder / MARKER).write_text('{"packa')


def lose_interpreter(folder: Path) -> None:
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to(folder / "gone")


@pytest.mark.parametrize("damage", [remove_marker, cut_marker, lose_interpreter])
def test_a_half_built_environment_is_built_anew(
    index: Path, adapter: Callable[..., System], damage: Callable[[Path], None]
) -> None:
    system = locked(adapter("alpha"))
    folder = folder_of(environments.ensure(system))
    (folder / "left over").touch()
    damage(folder)
    again = environments.ensure(system)
    assert (folder_of(again), again.built, again.packages) == (folder, True, {"alpha": "1.0"})
    assert not (folder / "left over").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found.rename(found.with_name("alpha-2.0.dist-info")), "alpha is 2.0, by its lock 1.0"),
        (lambda found: shutil.rmtree(found), "alpha is missing, by its lock 1.0"),
        (
            lambda found: shutil.copytree(found, found.with_name("beta-3.0.dist-info")),
            "beta is 3.0, by its lock missing",
        ),
    ],
    ids=["other", "missing", "more"],
)
def test_a_version_that_is_not_the_locked_one_is_one_clear_error(
    index: Path, adapter: Callable[..., System], change: Callable[[Path], None], words: str
) -> None:
    system = locked(adapter("alpha"))
    folder = folder_of(environments.ensure(system))
    (found,) = folder.rglob("alpha-1.0.dist-info")
    change(found)
    for metadata in folder.rglob("*.dist-info/METADATA"):
        name, version = metadata.parent.name.removesuffix(".dist-info").split("-")
        metadata.unlink()  # it may be a hard link into the cache of uv
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    with pytest.raises(EnvironmentBuildError) as caught:
        environments.ensure(system)
    assert words in str(caught.value)
    assert f"remove {folder}" in str(caught.value)
    shutil.rmtree(folder)
    assert environments.ensure(system).packages == {"alpha": "1.0"}


# --- several harnesses, and ends in the middle ------------------------------------------------------


@pytest.fixture
def harness() -> Iterator[Callable[[System, Path], subprocess.Popen[bytes]]]:
    """Starts processes that each ensure one environment, their output in a file; ends them."""
    running: list[subprocess.Popen[bytes]] = []

    def start(system: System, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            command = [sys.executable, "-c", ENSURE, system.path]
            running.append(
                subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
            )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def slow(
    tmp_path: Path, index: Path, adapter: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> Iterator[System]:
    """A system whose build stops in the middle until the file `gate` exists."""
    slow_package(index)
    monkeypatch.setenv("WHEEL", str(wheel(tmp_path, "slow")))
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    yield locked(adapter("slow"))
    (tmp_path / "gate").touch()


def test_two_harnesses_at_once_build_once(
    tmp_path: Path,
    slow: System,
    harness: Callable[[System, Path], subprocess.Popen[bytes]],
) -> None:
    logs = [tmp_path / "log 1", tmp_path / "log 2"]
    both = [harness(slow, log) for log in logs]
    until(lambda: any("waiting for another" in log.read_text() for log in logs), "nobody waits")
    until((tmp_path / "started").exists, "the build did not start")
    (tmp_path / "gate").touch()
    assert [process.wait(DEADLINE_S) for process in both] == [0, 0]
    ends = sorted(log.read_text().splitlines()[-1] for log in logs)
    assert ends == [f"built={built} packages={{'slow': '1.0'}}" for built in (False, True)]


def test_who_comes_after_a_killed_harness_waits_for_its_uv_and_builds_anew(
    tmp_path: Path, slow: System, harness: Callable[[System, Path], subprocess.Popen[bytes]]
) -> None:
    killed = harness(slow, tmp_path / "log 1")
    until((tmp_path / "started").exists, "the build did not start")
    killed.kill()  # the harness alone: its uv goes on writing
    killed.wait()
    second = harness(slow, tmp_path / "log 2")
    until(lambda: "waiting for another" in (tmp_path / "log 2").read_text(), "it did not wait")
    assert second.poll() is None
    (tmp_path / "gate").touch()
    assert second.wait(DEADLINE_S) == 0
    assert "built=True packages={'slow': '1.0'}" in (tmp_path / "log 2").read_text()


def test_ctrl_c_leaves_nothing_that_looks_complete(
    tmp_path: Path, cache: Path, slow: System, harness: Callable[[System, Path], subprocess.Popen[bytes]]
) -> None:
    interrupted = harness(slow, tmp_path / "log")
    until((tmp_path / "started").exists, "the build did not start")
    os.killpg(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(DEADLINE_S) != 0
    assert len(list(cache.glob("envs/mine-*/bin/python"))) == 1
    assert not list(cache.glob(f"envs/*/{MARKER}"))
    (tmp_path / "gate").touch()
    environment = environments.ensure(slow)
    assert (environment.built, environment.packages) == (True, {"slow": "1.0"})


# --- failures -------------------------------------------------------------------------------------


def test_offline_is_one_line_that_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    text = message(discovery.systems()["rq"])
    assert text.startswith("cannot build the environment of rq: ")
    assert text.endswith("connect this machine to its package index, then try again")


def test_no_route_to_the_index_is_one_line_too(
    cache: Path, adapter: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    assert "connect this machine to its package index" in message(adapter("alpha"))


def test_a_file_that_is_not_the_locked_one_is_refused(
    tmp_path: Path, index: Path, adapter: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = locked(adapter("alpha"))
    wheel(index, "alpha", "evil = True")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "another uv"))
    text = message(system)
    assert "ash mismatch" in text
    assert "other files than the lock names" in text


def test_a_lock_entry_without_a_hash_is_refused(index: Path, adapter: Callable[..., System]) -> None:
    wheel(index, "beta")
    system = locked(adapter("alpha"))
    with (index.parent / "adapters" / "locks" / "mine.txt").open("a") as file:
        file.write("beta==1.0\n")
    assert "beta==1.0" in message(system)


def test_a_version_that_does_not_exist_is_a_fault_of_the_header(
    index: Path, adapter: Callable[..., System]
) -> None:
    text = message(adapter("alpha>=9"))
    assert text.startswith("cannot lock mine: ")
    assert "alpha" in text
    assert "correct the dependencies in the adapter's header" in text


def test_a_cache_that_cannot_be_written_names_the_variable(
    tmp_path: Path, adapter: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCHEDBENCH_CACHE", str(tmp_path / "file"))
    assert "set SCHEDBENCH_CACHE" in message(adapter())


def test_another_python_is_unsupported_and_not_an_error(cache: Path, adapter: Callable[..., System]) -> None:
    with pytest.raises(Unsupported, match=r"mine needs Python >=3\.99"):
        environments.ensure(adapter(python=">=3.99"))


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SCHEDBENCH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert environments.cache_folder() == tmp_path / ".cache" / "schedbench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert environments.cache_folder() == tmp_path / "xdg" / "schedbench"
    monkeypatch.setenv("SCHEDBENCH_CACHE", str(tmp_path / "own"))
    assert environments.cache_folder() == tmp_path / "own"


# --- locks ----------------------------------------------------------------------------------------


def test_a_lock_pins_with_hashes_and_names_no_address_and_no_path(
    tmp_path: Path, index: Path, adapter: Callable[..., System]
) -> None:
    path = environments.write_lock(adapter("alpha"))
    assert path == tmp_path / "adapters" / "locks" / "mine.txt"
    text = path.read_text()
    assert "nox -s lock" in text.splitlines()[0]
    assert re.search(r"^alpha==1\.0 \\\n    --hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert "://" not in text
    assert str(tmp_path) not in text


def test_a_direct_address_is_never_locked(index: Path, adapter: Callable[..., System]) -> None:
    system = adapter(f"alpha @ {(index / 'alpha-1.0-py3-none-any.whl').as_uri()}")
    with pytest.raises(EnvironmentBuildError, match="would name an address"):
        environments.write_lock(system)
    assert not (Path(system.path).parent / "locks").exists()


def test_a_lock_is_stale_when_the_header_asks_for_something_else(
    index: Path, adapter: Callable[..., System]
) -> None:
    assert environments.stale(adapter("alpha"))
    assert not environments.stale(locked(adapter("alpha")))
    assert environments.stale(adapter("alpha>=1"))
    assert not environments.stale(locked(adapter("alpha>=1")))


def test_without_a_fitting_lock_dependencies_are_resolved_here_and_it_says_so(
    index: Path, adapter: Callable[..., System]
) -> None:
    said: list[str] = []
    unlocked = environments.ensure(adapter("alpha"), said.append)
    assert (unlocked.locked, unlocked.packages) == (False, {"alpha": "1.0"})
    assert "mine has no lock: resolving its dependencies here" in said
    locked(adapter("alpha"))
    outdated = environments.ensure(adapter("alpha>=1"), said.append)
    assert not outdated.locked
    assert "mine has a lock that does not fit its header: resolving its dependencies here" in said


@pytest.mark.parametrize("name", [path.name for path in sorted(ROOT.glob("adapters/[!_]*.py"))])
def test_every_adapter_that_comes_with_schedbench_has_a_fitting_lock(name: str) -> None:
    system = discovery.load(ROOT / "adapters" / name)
    assert not environments.stale(system)
    assert (system.lock is not None) == bool(system.dependencies)
    if system.lock is not None:
        text = Path(system.lock).read_text()
        assert "://" not in text
        pins = re.findall(r"^[^\s#].*(?:\n {4}--hash=.*)*", text, re.MULTILINE)
        assert pins
        assert all("==" in pin and "--hash=sha256:" in pin for pin in pins)


# --- bundle ---------------------------------------------------------------------------------------


def test_the_bundle_is_the_agent_the_model_and_one_adapter(tmp_path: Path, cache: Path) -> None:
    system = discovery.systems()["reference"]
    folder = environments.bundle(system, tmp_path / "bundle")
    agent = {f"bench/agent/{path.name}" for path in (ROOT / "bench" / "agent").glob("*.py")}
    expected = agent | {
        "bench/__init__.py",
        "bench/model.py",
        "adapters/__init__.py",
        "adapters/reference.py",
    }
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert {path.as_posix() for path in files if path.suffix == ".py"} == expected
    compiled = {path for path in files if path.suffix == ".pyc"}
    assert len(compiled) == len(expected)
    assert len(files) == 2 * len(expected)


def test_an_adapter_and_its_client_can_be_imported_from_the_bundle_alone(tmp_path: Path, cache: Path) -> None:
    system = discovery.systems()["reference"]
    folder = environments.bundle(system, tmp_path / "bundle")
    before = sorted(folder.rglob("*"))
    code = "import bench.agent.client as c, adapters.reference as r; print(c.find(r.__name__).__name__)"
    python = environments.ensure(system).python
    done = subprocess.run(
        [python, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "Reference"
    assert sorted(folder.rglob("*")) == before, "bytecode was missing or of another interpreter"


def test_an_adapter_from_elsewhere_is_bundled_under_its_own_name(
    tmp_path: Path, adapter: Callable[..., System]
) -> None:
    system = adapter()
    folder = environments.bundle(system, tmp_path / "bundle")
    assert sorted(path.name for path in (folder / "adapters").glob("*.py")) == ["__init__.py", "mine.py"]
    assert (folder / "adapters" / "mine.py").read_text() == Path(system.path).read_text()
