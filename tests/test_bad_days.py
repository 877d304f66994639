"""Bad input and bad days: one clear line, the right exit code, nothing lost and nothing left running.

Misbehaving systems are the example adapter with one line changed. Every test has a temporary folder of
its own, so that harnesses of other tests are never taken for left-overs.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import cgroups, cli, discovery, environments, runner, services, session
from bench.environments import CACHE_VARIABLE
from bench.harness import MARKER
from bench.model import SUMMARY_COLUMNS
from tests.conftest import ROOT, Command, OneCell

EXAMPLE = ROOT / "tests" / "example_adapter.py"
LONG_S = 60
PATIENCE_S = 30.0

THROUGHPUT = ("--trials", "1", "--scenario", "throughput", "--set", "seconds=0", "--set", "tasks=20")
LATENCY = (
    "--trials",
    "1",
    "--scenario",
    "latency",
    "--set",
    "warmup_s=0",
    "--set",
    "rate=100",
    "--set",
    "load=0",
)

SUBMIT = "    def submit(self, task: Task) -> None:\n"
WORK = '    work(context().home / "spool", context().settings["poll_s"])\n'
RUN = "        run(int(path.stem), kind, payload)\n"
SETTLE = "# settle_s = 1\n"
IMPORT = "import contextlib\n"


class Harness(Command):
    """The command line in an empty folder, with a place for temporary files of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.earlier_groups = set(control_groups())
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        self.started.append(super().start(*words))
        return self.started[-1]

    def end(self) -> None:
        """What a test that failed left running must not fail the next one too: end it and what it started."""
        for running in self.started:
            if running.poll() is None:
                running.kill()
                running.wait()
            if running.stdout is not None:
                running.stdout.close()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    @property
    def environ(self) -> dict[str, str]:
        return {**super().environ, "TMPDIR": str(self.temporary)}

    def adapter(self, name: str = "spool", **changes: str) -> str:
        """Write the example adapter as `name`; `changes` maps a constant of this module to its new text."""
        text = EXAMPLE.read_text()
        for constant, new in changes.items():
            old = globals()[constant]
            assert old in text
            text = text.replace(old, new)
        path = self.folder / f"{name}.py"
        path.write_text(text)
        return f"./{path.name}"

    def runs(self) -> list[Path]:
        return sorted(file.parent for file in self.folder.glob("results/*/run.json"))

    def cells(self) -> list[dict[str, Any]]:
        """What `cell.json` says of every cell of the only run."""
        (run,) = self.runs()
        return [json.loads(file.read_text()) for file in sorted(run.glob("cells/*/cell.json"))]

    def only_cell(self) -> dict[str, Any]:
        (cell,) = self.cells()
        return cell

    def summary(self) -> list[dict[str, str]]:
        (run,) = self.runs()
        with (run / "summary.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def left(self) -> list[str]:
        """What harnesses in this folder have left behind: processes, folders, control groups."""
        found = [f"{process.pid} {process.name()}" for process in self.processes()]
        state = self.temporary / f"schedbench-{os.getuid()}"
        names = [folder.name for folder in state.iterdir()] if state.exists() else []
        groups = set(control_groups()) - self.earlier_groups
        return found + names + [name for name in groups if not psutil.pid_exists(int(name.split("-")[1]))]

    def processes(self) -> list[psutil.Process]:
        """Every process below a harness of this folder: marked, or at home in its temporary files."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                marked = MARKER in (environ := process.environ())
                if process.cwd().startswith(str(self.temporary)) or (
                    marked and str(self.temporary) in " ".join(environ.values())
                ):
                    found.append(process)
        return found


def control_groups() -> list[str]:
    """The control groups of all harnesses on this machine."""
    place = cgroups.hierarchy()
    return [group.name for group in place.folder.glob("schedbench-[0-9]*")] if place else []


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    yield made
    try:
        assert made.left() == []
    finally:
        made.end()


def until(true: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline_s, f"{what}: not within {patience_s:g} s"
        time.sleep(0.01)


def one_line(output: str, errors: str) -> str:
    """The only line of standard error; nothing may stand on standard output."""
    assert output == ""
    lines = errors.splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    return lines[0]


Inside = Callable[..., tuple[object, str]]


@pytest.fixture
def inside(harness: Harness, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """The command line in this process, for what ends before anything starts: exit code and error line."""

    def call(*words: str) -> tuple[object, str]:
        monkeypatch.chdir(harness.folder)
        monkeypatch.setattr(sys, "argv", ["schedbench", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, one_line(*capsys.readouterr())

    return call


# --- names and values that do not exist -----------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "refrence"), "did you mean 'reference'?"),
        (("run", "reference:thread"), "did you mean 'threads'?"),
        (("run", "reference", "--scenario", "throughputs"), "did you mean 'throughput'?"),
        (("run", "reference", "--profile", "quik"), "did you mean 'quick'?"),
        (("run", "reference", "--services", "embeded"), "did you mean 'embedded'?"),
        (("run", "reference", "--set", "task=5"), "did you mean 'tasks'?"),
        (("run", "reference", "--set", "latency.rat=5"), "did you mean 'latency.rate'?"),
        (("run", "reference", "--set", "latncy.rate=5"), "did you mean 'latency'?"),
        (("run", "reference", "--set", "arrival=poison"), "did you mean 'poisson'?"),
        (("run", "reference", "--set", "work=slep:5"), "did you mean 'sleep'?"),
        (("run", "reference", "--set", "work=sleep"), "sleep takes ms"),
        (("run", "reference", "--set", "work=sleep:-5"), "must not be negative"),
        (("run", "reference", "--set", "tasks=many"), "not a whole number"),
        (("run", "reference", "--set", "tasks=0"), "must be above 0"),
        (("run", "reference", "--set", "rate=0"), "must be above 0"),
        (("run", "reference", "--set", "rate=nan"), "must not be negative or infinite"),
        (("run", "reference", "--set", "tasks=-1"), "must not be negative"),
        (("run", "reference", "--set", "tasks"), "PARAMETER=VALUE"),
        (("run", "reference", "--trials", "0"), "at least 1"),
        (("run", "reference", "--slots", "0"), "at least 1"),
        (("run", "reference", "--trails", "3"), "--trials"),
        (("run", "./nowhere.py"), "cannot read adapter"),
        (("run", "--resume", "20200101-000000-abcd"), "unknown run"),
        (("run", "reference", "--resume", "latest"), "no systems or options"),
        (("report", "20200101-000000-abcd"), "unknown run"),
        (("report", "--format", "htm"), "did you mean 'html'?"),
        (("reprot",), "report"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_usage_error(harness: Harness, inside: Inside, words: Sequence[str], said: str) -> None:
    code, line = inside(*words)
    assert code == 2
    assert said in line
    assert not (harness.folder / "results").exists()


def test_the_nearest_run_is_named(harness: Harness, inside: Inside) -> None:
    recorded(harness, "20200101-000000-abcd")
    for words in (("report", "20200101-000000-abce"), ("run", "--resume", "20200101-000000-abce")):
        code, line = inside(*words)
        assert code == 2
        assert "did you mean '20200101-000000-abcd'?" in line


def recorded(harness: Harness, run_id: str, **info: Any) -> None:
    """A run that an earlier session has left."""
    folder = harness.folder / "results" / run_id
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"format": 1, "run_id": run_id, **info}))


def test_header_with_an_unknown_key(harness: Harness, inside: Inside) -> None:
    path = Path(harness.folder / harness.adapter())
    path.write_text(path.read_text().replace("# guarantee =", "# garantee ="))
    code, line = inside("run", "./spool.py")
    assert code == 2
    assert "did you mean 'guarantee'?" in line
    assert harness.runs() == []


def test_two_adapters_of_one_name(harness: Harness, inside: Inside) -> None:
    code, line = inside("run", "reference", harness.adapter("reference"))
    assert code == 2
    assert "reference" in line
    assert harness.runs() == []


# --- adapters that misbehave ----------------------------------------------------------------------


FAULTS = {
    "module that does not import": (
        {"IMPORT": "import contextlibb\n"},
        "error",
        "No module named 'contextlibb'",
    ),
    "two adapter classes": (
        {"WORK": WORK + "\n\nclass Second(Spool):\n    pass\n"},
        "error",
        "exactly one Adapter subclass, found 2",
    ),
    "raises in open": (
        {"SUBMIT": '    def open(self) -> None:\n        raise OSError("no way in")\n\n' + SUBMIT},
        "error",
        "raised in `open`: OSError: no way in",
    ),
    "raises in submit": (
        {"SUBMIT": SUBMIT + '        raise OSError("queue is full")\n'},
        "error",
        "submit raised for 20 of 20 tasks: OSError: queue is full",
    ),
    "client dies": (
        {"SUBMIT": SUBMIT + '        print("out of memory", flush=True)\n        os._exit(9)\n'},
        "error",
        "client exited with status 9; its last lines: out of memory",
    ),
    "migration fails": (
        {
            "SUBMIT": "    def migrations(self) -> Sequence[Process]:\n"
            '        return [Process("database", ["/bin/sh", "-c", "echo no such table; exit 3"])]\n\n'
            + SUBMIT
        },
        "error",
        "migration exited with status 3; its last lines: no such table",
    ),
    "server dies at start": (
        {
            "SUBMIT": "    def servers(self) -> Sequence[Process]:\n"
            '        script = "import sys; print(1 / 0)"\n'
            '        return [Process.python("server", "-c", script, ready="http://127.0.0.1:1/")]\n\n'
            + SUBMIT
        },
        "error",
        "ZeroDivisionError: division by zero",
    ),
    "worker dies at start": (
        {"WORK": '    print("looking for the broker")\n    raise SystemExit("no broker at port 1")\n'},
        "error",
        "worker exited with status 1; its last lines: looking for the broker | no broker at port 1",
    ),
    "worker hangs": (
        {
            "WORK": '    print("waiting for a sign", flush=True)\n    time.sleep(3600)\n',
            "SETTLE": SETTLE + "# start_s = 1\n",
        },
        "timeout",
        "in phase 'drain': 20 tasks sent, 0 started, 0 ended; worker: waiting for a sign",
    ),
    "task body hangs": (
        {"RUN": RUN.replace("kind", repr(f"sleep:{LONG_S}000"))},
        "timeout",
        "nothing moved for 1 s in phase 'drain': 20 tasks sent, 2 started, 0 ended",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_misbehaving_adapter(harness: Harness, fault: str) -> None:
    changes, status, said = FAULTS[fault]
    done = harness("run", harness.adapter(**changes), *THROUGHPUT, "--slots", "2")
    assert done.returncode == 1
    assert done.stderr == ""
    cell = harness.only_cell()
    assert cell["status"] == status
    assert said in cell["reason"]
    assert said in done.stdout
    (row,) = [row for row in harness.summary() if row["trial"] and not row["metric"]]
    assert (row["status"], row["reason"]) == (status, cell["reason"])


def test_adapter_that_raises_in_close(harness: Harness) -> None:
    """By then everything is measured: the figures stand, and the failure is on record."""
    close = '    def close(self) -> None:\n        raise OSError("no way out")\n\n'
    assert harness("run", harness.adapter(SUBMIT=close + SUBMIT), *THROUGHPUT).returncode == 0
    cell = harness.only_cell()
    assert cell["status"] == "ok"
    assert "raised in `close`: OSError: no way out" in cell["details"]["close_failed"]


@pytest.mark.parametrize(
    "scenario", [THROUGHPUT, (*LATENCY, "--set", "tasks=20")], ids=["queue", "open loop"]
)
def test_task_body_that_raises_is_a_fate(harness: Harness, scenario: tuple[str, ...]) -> None:
    done = harness("run", "reference", *scenario, "--set", "work=raise")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["metric"]: row for row in harness.summary() if row["trial"]}
    # All that were sent: the bursts that find the capacity of an open loop as well.
    assert float(found["tasks_failed"]["value"]) == float(found["tasks_failed"]["n"]) >= 20
    assert float(found["tasks_ok"]["value"]) == float(found["tasks_lost"]["value"]) == 0


def test_lock_that_cannot_be_installed(harness: Harness) -> None:
    empty = {CACHE_VARIABLE: str(harness.folder / "cache"), "UV_CACHE_DIR": str(harness.folder / "uv")}
    done = harness("run", "rq", "schedule:tight", "reference", *THROUGHPUT, UV_OFFLINE="1", **empty)
    assert done.returncode == 1
    cells = {cell["cell"]["system"]: cell for cell in harness.cells()}
    assert {name: cell["status"] for name, cell in cells.items()} == {
        "rq": "error",
        "schedule": "error",
        "reference": "ok",
    }
    for name in ("rq", "schedule"):
        assert f"cannot build the environment of {name}: " in cells[name]["reason"]
        assert "connect this machine" in cells[name]["reason"]


# --- results folders that do not take the results -------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory at `folder`; skips the test where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "schedbench-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"cannot mount a file system: {error}")
    if done.returncode != 0:
        pytest.skip(f"cannot mount a file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_results_below_a_file(harness: Harness) -> None:
    (harness.folder / "file").write_text("")
    done = harness("run", "reference", *THROUGHPUT, "--results", "file/results")
    assert done.returncode == 1
    assert "check the path given with --results" in one_line(done.stdout, done.stderr)


def test_results_on_a_read_only_file_system(harness: Harness) -> None:
    with mounted(harness.folder / "results", "ro"):
        done = harness("run", "reference", *THROUGHPUT)
        assert done.returncode == 1
        assert "not writable: choose another folder with --results" in one_line(done.stdout, done.stderr)


def test_results_on_a_small_file_system(harness: Harness) -> None:
    with mounted(harness.folder / "results", "size=1m"):
        done = harness("run", "reference", *THROUGHPUT)
        assert done.returncode == 1
        assert "make room" in one_line(done.stdout, done.stderr)
        assert list((harness.folder / "results").iterdir()) == []


def test_disk_that_fills_up_in_the_middle(harness: Harness) -> None:
    """What was measured before is kept, and the run can be completed once there is room."""
    results = harness.folder / "results"
    filler = results / "filler"
    with mounted(results, "size=220m"):
        fill = f"        with open({str(filler)!r}, 'wb') as file:\n"
        fill += "            while True:\n                file.write(bytes(65536))\n"
        words = reference_first(harness, harness.adapter(SUBMIT=SUBMIT + fill), *THROUGHPUT)
        done = harness("run", *words)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "the disk is full: make room, then continue with --resume" in line
        filler.unlink()
        assert [cell["cell"]["system"] for cell in harness.cells()] == ["reference"]
        harness.adapter()
        assert harness("run", "--resume", "latest").returncode == 0
        assert [cell["status"] for cell in harness.cells()] == ["ok", "ok"]


def test_run_of_a_newer_format(harness: Harness, inside: Inside) -> None:
    recorded(harness, "20200101-000000-abcd", format=99)
    for words in (("report",), ("run", "--resume", "20200101-000000-abcd")):
        code, line = inside(*words)
        assert code == 1
        assert "has format 99" in line
        assert "upgrade schedbench" in line


# --- Ctrl-C ---------------------------------------------------------------------------------------


def reference_first(harness: Harness, adapter: str, *options: str) -> list[str]:
    """Words for `run` such that the cell of the reference comes before that of `adapter`."""
    words = ["reference", str(harness.folder / adapter)]
    scenario = options[options.index("--scenario") + 1]
    sets = tuple(value for word, value in itertools.pairwise(options) if word == "--set")
    asked = session.Request(tuple(words), (scenario,), trials=1, sets=sets)
    plans = (session.plan(dataclasses.replace(asked, seed=seed)) for seed in range(100))
    seed = next(plan.request.seed for plan in plans if plan.cells[0].system == "reference")
    return [*words, *options, "--seed", str(seed)]


def flag(harness: Harness) -> str:
    """Python that says: here we are."""
    return f"Path({str(harness.folder / 'flag')!r}).touch()"


def at(phase: str, harness: Harness) -> tuple[dict[str, str], tuple[str, ...]]:
    """Changes to the example adapter, and options, with which a run stands still in a phase."""
    here = flag(harness)
    still = f"{here}; time.sleep({LONG_S})"
    return {
        "workers starting": ({"WORK": f"    {still}\n"}, THROUGHPUT),
        "queueing": ({"SUBMIT": SUBMIT + f"        {still}\n"}, THROUGHPUT),
        "drain": ({"RUN": f"        {here}\n{RUN.replace('kind', repr(f'sleep:{LONG_S}000'))}"}, THROUGHPUT),
        "load": (
            {"SUBMIT": SUBMIT + f"        if task.id >> 32 and task.id & 7 == 7:\n            {here}\n"},
            (*LATENCY, "--set", "tasks=150"),
        ),
        "teardown": (
            {"SUBMIT": f"    def close(self) -> None:\n        {still}\n\n" + SUBMIT},
            THROUGHPUT,
        ),
    }[phase]


@pytest.mark.parametrize(
    ("phase", "signals"),
    [
        ("workers starting", [signal.SIGINT]),
        ("queueing", [signal.SIGTERM]),
        ("drain", [signal.SIGINT, signal.SIGINT]),
        ("load", [signal.SIGINT]),
        ("teardown", [signal.SIGINT] * 20),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)}x{value[0].name}",
)
def test_interrupted(harness: Harness, phase: str, signals: list[signal.Signals]) -> None:
    changes, options = at(phase, harness)
    running = harness.start("run", *reference_first(harness, harness.adapter(**changes), *options))
    until(lambda: (harness.folder / "flag").exists() or running.poll() is not None, phase)
    for signum in signals:
        running.send_signal(signum)
        time.sleep(0.01)
    output, _ = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130, output
    assert "Traceback" not in output
    assert "run --resume" in output
    assert harness.left() == []

    # The earlier cell is kept, this one is marked, and the summary is there.
    cells = {cell["cell"]["system"]: cell["status"] for cell in harness.cells()}
    assert cells == {"reference": "ok", "spool": "interrupted"}
    assert list(harness.summary()[0]) == list(SUMMARY_COLUMNS)
    reference = [row for row in harness.summary() if row["system"] == "reference" and row["trial"]]
    assert {row["status"] for row in reference} == {"ok"}

    # The system mended, the run is completed, and what was measured before is not measured again.
    harness.adapter()
    (run,) = harness.runs()
    kept = next(run.glob("cells/reference.*/cell.json")).read_text()
    assert harness("run", "--resume", run.name).returncode == 0
    assert {cell["status"] for cell in harness.cells()} == {"ok"}
    was, now = json.loads(kept), json.loads(next(run.glob("cells/reference.*/cell.json")).read_text())
    first = now["details"].get("earlier_attempts", [now])[0]  # of a cell that was disturbed
    assert first["began"] == was["began"]


def test_interrupted_while_another_builds(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(harness.folder / "cache"))
    environments.ensure(discovery.systems()["reference"])
    (lock,) = environments.cache_folder().glob("envs/*.lock")
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        running = harness.start("run", "reference", *THROUGHPUT)
        assert running.stdout is not None
        said = itertools.takewhile(lambda line: "waiting for another schedbench" not in line, running.stdout)
        assert "run " in "".join(said)
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130, output
    assert harness.summary() == []
    assert harness("run", "--resume", "latest").returncode == 0
    assert harness.only_cell()["status"] == "ok"


@pytest.mark.parametrize("to_all", [False, True], ids=["kill", "Ctrl-C"])
def test_interrupted_while_building(harness: Harness, monkeypatch: pytest.MonkeyPatch, to_all: bool) -> None:
    """A package whose build never ends; `Ctrl-C` goes to all processes of the terminal, `kill` to one."""
    for name, value in (
        (CACHE_VARIABLE, harness.folder / "cache"),
        ("UV_CACHE_DIR", harness.folder / "uv"),
        ("UV_FIND_LINKS", harness.folder / "packages"),
        ("UV_NO_INDEX", "1"),
    ):
        monkeypatch.setenv(name, str(value))
    flag = harness.folder / "flag"
    sdist(harness.folder / "packages", f"{write_pid(flag)}\nimport time\ntime.sleep({LONG_S})\n")
    path = harness.folder / harness.adapter()
    path.write_text(path.read_text().replace("dependencies = []", 'dependencies = ["endless==1.0"]'))
    running = subprocess.Popen(
        harness.argv(["run", "./spool.py", *THROUGHPUT]),
        cwd=harness.folder,
        env=harness.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    until(lambda: flag.exists() or running.poll() is not None, "building")
    os.kill(-running.pid if to_all else running.pid, signal.SIGINT)
    output, _ = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130, output
    assert "Traceback" not in output
    until(lambda: not alive(int(flag.read_text())), "end of the build")
    harness.adapter()
    assert harness("run", "--resume", "latest").returncode == 0
    assert harness.only_cell()["status"] == "ok"


def sdist(folder: Path, backend: str) -> None:
    """A source distribution `endless` 1.0 that is built by the module `backend`."""
    folder.mkdir()
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    with tarfile.open(folder / "endless-1.0.tar.gz", "w:gz") as archive:
        for name, text in (("pyproject.toml", project), ("backend.py", backend)):
            entry = tarfile.TarInfo(f"endless-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))


def write_pid(path: Path) -> str:
    """Python that adds this process's id to a file, which is there once it is complete."""
    return f"import os; open({str(path)!r}, 'w').write(str(os.getpid()))"


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


# --- SIGKILL --------------------------------------------------------------------------------------

DAEMON = """\
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open({path!r}, "a") as file:
                file.write(f"{{os.getpid()}}\\n")
            os.execve("/bin/sleep", ["sleep", "3600"], {environ})
        os._exit(0)
    os.wait()
"""
"""A worker that starts a daemon the old way: fork, new session, fork."""


def daemons(harness: Harness) -> list[int]:
    path = harness.folder / "daemons"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def with_daemon(harness: Harness, environ: str) -> str:
    return harness.adapter(WORK=DAEMON.format(path=str(harness.folder / "daemons"), environ=environ) + WORK)


@pytest.mark.parametrize("source", ["cgroup2", "cgroup1", "psutil"])
def test_daemon_of_a_worker_ends_with_its_cell(harness: Harness, source: str) -> None:
    """Even one that carries no mark."""
    needs_source(source)
    done = harness("run", with_daemon(harness, "{}"), *THROUGHPUT, **{cgroups.SOURCE_VARIABLE: source})
    assert done.returncode == 0
    details = harness.only_cell()["details"]
    attempts = 1 + len(details.get("earlier_attempts", []))  # of a cell that was disturbed
    assert len(daemons(harness)) == attempts * details["slots"]
    assert [pid for pid in daemons(harness) if alive(pid)] == []


def needs_source(source: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cgroups.SOURCE_VARIABLE, source)
        place = cgroups.hierarchy()
    if source != "psutil" and place is None:
        pytest.skip(f"no writable {source} hierarchy here")


@pytest.mark.parametrize(
    ("source", "environ"), [("cgroup2", "{}"), ("cgroup1", "{}"), ("psutil", "os.environ")]
)
def test_killed_harness_with_a_daemon(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, source: str, environ: str
) -> None:
    """Found by its control group, or else by its mark."""
    needs_source(source)
    monkeypatch.setenv(cgroups.SOURCE_VARIABLE, source)
    adapter = with_daemon(harness, environ)
    running = harness.start("run", adapter, *THROUGHPUT, "--set", f"work=sleep:{LONG_S}000")
    until(lambda: len(daemons(harness)) > 0, "a daemon")
    kill(running)
    assert all(alive(pid) for pid in daemons(harness))
    doctor(harness)
    until(lambda: not any(alive(pid) for pid in daemons(harness)), "end of the daemons", 10)


def test_killed_harness_with_real_workers(harness: Harness) -> None:
    fine, reason = services.available("redis")
    if not fine:
        pytest.skip(reason)
    options = (
        "--scenario",
        "throughput",
        "--set",
        "seconds=0",
        "--set",
        "tasks=30",
        "--set",
        "work=sleep:100",
    )
    running = harness.start("run", "rq:redis", *options, "--trials", "2")
    until(lambda: bool(harness.runs()) and len(harness.cells()) == 1, "the first cell", 120)
    (run,) = harness.runs()
    until(lambda: stamped(run), "the second cell", 120)
    until(lambda: len(harness.processes()) > 5, "workers at work")
    kill(running)
    left = harness.processes()
    assert any(process.name().startswith("redis") for process in left)
    assert len(left) > 2
    doctor(harness)
    until(lambda: harness.left() == [], "end of all processes", 10)
    done = harness("run", "--resume", "latest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 cells of 1 systems" in done.stdout
    assert [cell["status"] for cell in harness.cells()] == ["ok", "ok"]
    info = json.loads((run / "run.json").read_text())
    assert (info["cells_done"], info["cells_planned"], info["interrupted"]) == (2, 2, False)


def stamped(run: Path) -> bool:
    """Whether a cell that has not ended has records in its ledger (one that ends takes its ledger away)."""
    for folder in run.glob("cells/*"):
        if not (folder / "cell.json").exists():
            for file in folder.glob("ledger/*"):
                with contextlib.suppress(FileNotFoundError):
                    if file.stat().st_size:
                        return True
    return False


def kill(running: subprocess.Popen[str]) -> None:
    running.kill()
    running.wait()
    assert running.stdout is not None
    running.stdout.close()


def doctor(harness: Harness) -> None:
    done = harness("doctor", "--json")
    assert done.returncode == 0
    found = {check["name"]: check["found"] for check in json.loads(done.stdout)}
    assert "of a run that was killed" in found["left-overs"]


# --- lesser machines ------------------------------------------------------------------------------


def test_without_control_groups_cpu_is_a_lower_bound(harness: Harness) -> None:
    tiny = ("--set", "work_ms=1", "--set", "burn_s=0.1", "--set", "idle_s=0.2")
    words = ("run", "reference", "--trials", "1", "--scenario", "cpu", *tiny)
    assert harness(*words, **{cgroups.SOURCE_VARIABLE: "psutil"}).returncode == 0
    figures = [row for row in harness.summary() if "cpu" in row["metric"] and row["trial"]]
    assert len(figures) > 3
    assert {row["reason"] for row in figures} != {""}
    assert all("lower bound" in row["reason"] for row in figures)
    assert harness.only_cell()["details"]["cpu_source"] == "psutil"


def test_one_core(harness: Harness) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        done = harness("run", "reference", *THROUGHPUT)
        checks = {check["name"]: check for check in json.loads(harness("doctor", "--json").stdout)}
    finally:
        os.sched_setaffinity(0, before)
    assert done.returncode == 0
    assert checks["cores"]["found"] == "one core"
    (run,) = harness.runs()
    assert json.loads((run / "run.json").read_text())["machine"]["usable_cores"] == 1


def test_a_wall_clock_that_is_set_makes_figures_invalid(
    one_cell: OneCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set by an hour between the begin of the cell and its end; ours, not that of the machine."""
    offsets_ns = iter([0, 3600 * 10**9])
    monkeypatch.setattr(runner, "wall_clock_ns", lambda: next(offsets_ns))
    result = one_cell("reference", discovery.scenarios()["startup"], params={"start": "warm"})
    assert result.status == "ok"
    assert {metric.note for metric in result.metrics} == {"invalid: the wall clock was set by 3600.00 s"}
    assert result.details["wall_clock_step_s"] == 3600
