"""Process trees: roles, what is counted, and that nothing outlives its group or its harness."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bench import cgroups, harness, sampler
from bench.errors import ProcessDied
from bench.harness import MARKER, Home
from bench.processes import Child, Group

SOURCES = ("cgroup2", "cgroup1", "psutil")
BURN_S = 0.4

BURN = f"""
import os, time
def burn():
    while time.process_time() < {BURN_S}: pass
"""
IN_A_CHILD = BURN + "if os.fork() == 0: burn(); os._exit(0)\nos.wait()\n"
IN_A_DAEMON = (
    BURN
    + "if os.fork() == 0:\n    os.setsid()\n"
    + "    if os.fork() == 0:\n        burn(); open('done', 'w').close(); time.sleep(60)\n"
    + "    os._exit(0)\nos.wait()\n"
)
READY = "open('ready', 'w').close(); time.sleep(60)\n"


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to know and account processes, where this machine has it."""
    monkeypatch.setenv(cgroups.SOURCE_VARIABLE, request.param)
    if request.param != "psutil" and cgroups.hierarchy() is None:
        pytest.skip(f"no writable {request.param} hierarchy here")
    return str(request.param)


class Trees:
    """A group whose processes are given as Python text and live in a folder of their own."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.home = home
        self.folder = folder
        self.group = Group(home, str(time.monotonic_ns()))

    def spawn(self, text: str, role: str = "worker", *, env: dict[str, str] | None = None) -> Child:
        return self.group.spawn(
            role,
            [sys.executable, "-c", "import os, signal, sys, time\n" + text],
            env=os.environ if env is None else env,
            cwd=self.folder,
            log=self.folder / f"{role}.log",
        )

    def wait(self, name: str) -> None:
        until((self.folder / name).exists, name)


@pytest.fixture
def trees(source: str, home: Home, tmp_path: Path) -> Iterator[Trees]:
    made = Trees(home, tmp_path)
    yield made
    made.group.kill()


def until(true: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.005)


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def pid_in(path: Path) -> int:
    """A process id that a process is about to write."""
    until(lambda: path.exists() and path.read_text().endswith("\n"), path.name)
    return int(path.read_text())


# --- who belongs to it ----------------------------------------------------------------------------


def test_descendants_have_the_role_of_their_ancestor(trees: Trees) -> None:
    trees.spawn("os.fork(); " + READY, "worker")
    trees.spawn(READY, "scheduler")
    until(lambda: sorted(trees.group.members().values()) == ["scheduler", "worker", "worker"], "members")


def test_a_double_forked_process_belongs_to_it(trees: Trees) -> None:
    child = trees.spawn(
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        open('pid', 'w').write(f'{os.getpid()}\\n')\n        time.sleep(60)\n    os._exit(0)\n"
        "time.sleep(60)\n"
    )
    daemon = pid_in(trees.folder / "pid")
    assert trees.group.members() == {child.popen.pid: "worker", daemon: "worker"}


def test_other_peoples_processes_do_not_belong_to_it(source: str, home: Home, tmp_path: Path) -> None:
    with sleeping() as stranger:
        trees = Trees(home, tmp_path)
        child = trees.spawn(READY)
        assert trees.group.members() == {child.popen.pid: "worker"}
        trees.group.kill()
        assert stranger.poll() is None


@contextlib.contextmanager
def sleeping(**environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else."""
    with subprocess.Popen(["sleep", "60"], env={**os.environ, **environ}) as process:
        try:
            yield process
        finally:
            process.kill()


# --- dying ----------------------------------------------------------------------------------------


def test_an_unexpected_exit_is_told_with_status_and_log(trees: Trees) -> None:
    child = trees.spawn("print('\\x1b[31mone\\x1b[0m'); print(); print('two', file=sys.stderr); sys.exit(3)")
    child.popen.wait(20)
    with pytest.raises(ProcessDied, match=r"^worker exited with status 3; its last lines: .*one"):
        trees.group.check()
    assert sorted(child.last_lines().split(" | ")) == ["one", "two"]


def test_only_the_last_lines_of_a_long_log(trees: Trees) -> None:
    child = trees.spawn("for i in range(100): print(i)")
    child.popen.wait(20)
    assert child.last_lines() == "95 | 96 | 97 | 98 | 99"


def test_an_exit_that_was_asked_for_is_no_death(trees: Trees) -> None:
    child = trees.spawn(READY)
    trees.wait("ready")
    assert trees.group.stop([child], grace_s=20) == []
    trees.group.check()
    assert child.popen.returncode == -signal.SIGTERM


# --- ending ---------------------------------------------------------------------------------------


def test_stop_leaves_other_roles_alone(trees: Trees) -> None:
    worker, broker = trees.spawn(READY), trees.spawn("time.sleep(60)", "broker")
    trees.wait("ready")
    trees.group.stop([worker], grace_s=20)
    assert trees.group.members() == {broker.popen.pid: "broker"}
    trees.group.check()


def test_stop_kills_what_ignores_sigterm_and_tells(trees: Trees) -> None:
    child = trees.spawn("signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY)
    trees.wait("ready")
    assert trees.group.stop([child], grace_s=0.1) == [child.popen.pid]
    assert child.popen.returncode == -signal.SIGKILL
    assert trees.group.members() == {}


STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open('pid', 'w').write(f'{os.getpid()}\\n')
        os.execve('/bin/sleep', ['sleep', '60'], {})
    os._exit(0)
os.wait()
time.sleep(60)
"""
"""Ignores SIGTERM, and has a daemon without a mark that does so too."""


def test_kill_ends_the_whole_tree(trees: Trees) -> None:
    child = trees.spawn(STUBBORN)
    daemon = pid_in(trees.folder / "pid")
    trees.group.kill()
    assert not alive(child.popen.pid)
    assert not alive(daemon)
    assert trees.group.folder is None or not trees.group.folder.exists()


def test_no_zombies_are_kept(trees: Trees) -> None:
    trees.spawn(STUBBORN)
    daemon = pid_in(trees.folder / "pid")
    trees.group.kill()
    until(lambda: trees.group.members() == {}, "end")
    trees.group.kill()
    assert daemon not in {process.pid for process in psutil.Process().children()}


def test_kill_twice_and_kill_of_nothing(trees: Trees) -> None:
    trees.group.kill()
    trees.group.kill()


# --- counting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [IN_A_CHILD + READY, IN_A_DAEMON + "time.sleep(60)\n"], ids=["child", "daemon"]
)
def test_cpu_of_descendants_is_counted(trees: Trees, source: str, text: str) -> None:
    """Within 10 % and 20 ms of what was burned, by control groups; no more than that otherwise."""
    trees.spawn(BURN.partition("def")[0], "client").popen.wait(20)
    idle_s = trees.group.cpu_ns(trees.group.members())["client"] / 1e9 if source != "psutil" else 0.1
    trees.spawn(text)
    trees.wait("ready" if "ready" in text else "done")
    used_s = trees.group.cpu_ns(trees.group.members())["worker"] / 1e9
    assert used_s <= 1.1 * BURN_S + 0.02 + 2 * idle_s
    if source != "psutil":
        assert used_s >= 0.9 * BURN_S - 0.02


def test_cpu_of_the_dead_is_counted(trees: Trees, source: str) -> None:
    """By control groups even where nobody looked while the process lived."""
    child = trees.spawn(IN_A_CHILD)
    child.popen.wait(20)
    used_ns = trees.group.cpu_ns(trees.group.members())
    if source == "psutil":
        assert used_ns.get("worker", 0) >= 0
    else:
        assert used_ns["worker"] / 1e9 >= 0.9 * BURN_S - 0.02


def test_a_forced_source_is_used(source: str, home: Home) -> None:
    assert home.cpu_source == source


def test_memory_of_a_process() -> None:
    own = sampler.memory(os.getpid())
    assert own is not None
    assert 0 < own.uss <= own.pss <= own.rss


def test_memory_without_pss_is_rss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read_text = Path.read_text

    def refuse(path: Path, *args: object, **options: object) -> str:
        if path.name == "smaps_rollup":
            raise PermissionError(path)
        return read_text(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    own = sampler.memory(os.getpid())
    assert own is not None
    assert math.isnan(own.pss)
    assert math.isnan(own.uss)
    assert own.rss > 2**20


def test_memory_of_a_process_that_is_gone() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert sampler.memory(gone.pid) is None


def test_samples_have_one_row_per_role(trees: Trees, tmp_path: Path) -> None:
    trees.spawn("os.fork(); " + READY)
    trees.spawn("time.sleep(60)", "broker")
    until(lambda: len(trees.group.members()) == 3, "members")
    made = sampler.Sampler(trees.group, tmp_path)
    made.sample("idle", "begin", with_memory=True)
    made.sample("idle", with_memory=False)
    frame = made.frame()
    assert tuple(frame.columns) == sampler.COLUMNS
    assert list(frame["role"]) == ["broker", "worker"] * 2
    assert list(frame["processes"]) == [1, 2] * 2
    assert (frame["pss_bytes"][:2] > 0).all()
    assert frame["pss_bytes"][2:].isna().all()


# --- after a harness that was killed --------------------------------------------------------------


KILLED = """
import os, signal, sys
from pathlib import Path
from bench.harness import Home
from bench.processes import Group
home = Home()
group = Group(home, "cell")
folder = Path(sys.argv[1])
argv = [sys.executable, "-c", sys.argv[2]]
child = group.spawn("worker", argv, env=os.environ, cwd=folder, log=folder / "log")
print(home.name, child.popen.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A state folder of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return harness.state_folder()


@contextlib.contextmanager
def other_harness(folder: Path, text: str) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), "import os, signal, time\n" + text],
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        name, pid = other.stdout.readline().split()
        try:
            yield other, name, int(pid)
        finally:
            other.kill()


def test_sweep_ends_what_a_dead_harness_left(source: str, state: Path, tmp_path: Path) -> None:
    with other_harness(tmp_path, STUBBORN.replace("{}", "os.environ")) as (other, name, worker):
        daemon = pid_in(tmp_path / "pid")
        other.kill()
        other.wait()
        assert alive(worker)
        assert {worker, daemon} <= set(harness.sweep())
        until(lambda: not alive(worker) and not alive(daemon), "end")
        assert list(state.iterdir()) == []
        place = cgroups.hierarchy()
        assert place is None or list(place.folder.glob(f"schedbench-{name}-*")) == []
        assert harness.sweep() == []


def test_sweep_leaves_live_harnesses_alone(state: Path, tmp_path: Path) -> None:
    with other_harness(tmp_path, READY) as (other, _, worker):
        assert harness.sweep() == []
        assert alive(worker)
        assert harness.others() == [other.pid]
        other.kill()
        other.wait()
        assert harness.others() == []
        assert harness.sweep() == [worker]


def test_sweep_leaves_other_peoples_processes_alone(state: Path, tmp_path: Path) -> None:
    """A process that now has the id of a dead one, a mark of another harness, and folders of strangers."""
    with sleeping(**{MARKER: "1-2"}) as marked, sleeping() as same_id:
        dead = state / "999999999-1"
        dead.mkdir(parents=True)
        (dead / "pids").write_text(f"{same_id.pid} 1\n")
        (state / "somebody-else").mkdir()
        assert harness.sweep() == []
        assert alive(marked.pid)
        assert alive(same_id.pid)
        assert [folder.name for folder in state.iterdir()] == ["somebody-else"]


def test_sweep_knows_a_harness_by_more_than_its_id(state: Path) -> None:
    """This process lives, but a harness with its id and another start time does not."""
    (state / f"{os.getpid()}-1").mkdir(parents=True)
    assert harness.others() == []
    assert harness.sweep() == []
    assert list(state.iterdir()) == []
