"""The cron daemon of a cell: its own, with its crontab alone, gone with the cell; without one, a reason."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import services
from bench.model import Metric, Phase, Role, Status, Variant
from bench.scenario import History, Phases, Scenario
from bench.services import cron
from tests.conftest import OneCell

DEADLINE_S = 20

here, why = services.available("cron")
needs_cron = pytest.mark.skipif(not here, reason=why)


class Looked(Scenario):
    """A schedule that has no time to tick; `look` is called while it is kept."""

    sends = False
    title = "a look at what keeps a schedule"
    parameters = {}
    profiles = {}

    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look

    def seconds(self, params: Mapping[str, Any]) -> float:
        return 1.0

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        yield Phase("kept", every_s=60.0, wall_clock=True, wait="hold", hold_s=0.1)
        self.look()

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        assert set(history.samples("kept")["role"]) >= {Role.CLIENT, Role.SCHEDULER}
        return ()


def daemons() -> list[psutil.Process]:
    """Those below this process that are up: they have noted their ids where they look for others."""
    found = [one for one in psutil.Process().children(recursive=True) if one.name() == "cron"]
    return [one for one in found if noted(one) == f"{one.pid}"]


def noted(daemon: psutil.Process) -> str:
    path = seen(daemon, "run/crond.pid")
    return path.read_text().strip() if path.exists() else ""


def seen(daemon: psutil.Process, path: str) -> Path:
    """A path as that process sees it."""
    return Path(f"/proc/{daemon.pid}/root", path)


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def of_the_machine() -> list[Any]:
    """What a daemon reads and writes, and all mounts, as this process sees them."""
    folders = [Path("/etc/cron.d"), Path("/var/spool/cron/crontabs")]
    files = [Path("/etc/crontab"), Path("/run/crond.pid"), Path("/run/crond.reboot")]
    listed = [sorted(path.name for path in folder.iterdir()) for folder in folders if folder.exists()]
    texts = [path.read_bytes() if path.exists() else None for path in files]
    return [listed, texts, Path("/proc/self/mountinfo").read_text()]


@contextlib.contextmanager
def another_daemon(folder: Path) -> Iterator[psutil.Process]:
    """One that runs already, of which the cell knows nothing."""
    spec = services.prepare("cron", folder)
    with subprocess.Popen(["/bin/sh", str(spec.address["start"])]) as process:
        try:
            until(lambda: [one.pid for one in daemons()] == [process.pid])
            yield psutil.Process(process.pid)
            assert process.poll() is None
        finally:
            process.kill()


@needs_cron
def test_a_cell_s_daemon_sees_its_crontab_alone_and_leaves_the_machine_and_others_as_they_were(
    one_cell: OneCell, tmp_path: Path
) -> None:
    before = of_the_machine()
    looked: list[psutil.Process] = []

    def look() -> None:
        until(lambda: len(daemons()) == 2)
        (daemon,) = (one for one in daemons() if one != other)
        looked.append(daemon)
        for place in ("etc/cron.d", "etc/crontab", "var/spool/cron", "run"):
            assert not seen(daemon, place).samefile(Path("/", place))
            assert not seen(daemon, place).samefile(seen(other, place))
        assert [path.name for path in seen(daemon, "etc/cron.d").iterdir()] == ["schedbench"]
        assert seen(daemon, "etc/crontab").read_text() == ""
        assert list(seen(daemon, "var/spool/cron/crontabs").iterdir()) == []
        crontab = seen(daemon, "etc/cron.d/schedbench")
        *names, job = crontab.read_text().splitlines()
        assert job.startswith("*/1 * * * * root . ")
        home = next(name.removeprefix("HOME=") for name in names if name.startswith("HOME="))
        for secret in (crontab, Path(home, "environ")):
            assert (secret.stat().st_mode & 0o777, secret.stat().st_uid) == (0o600, 0)
        assert "export SCHEDBENCH_LEDGER=" in Path(home, "environ").read_text()
        assert "SCHEDBENCH" not in job

    with another_daemon(tmp_path / "other") as other:
        result = one_cell("cron", Looked(look))
        assert (result.status, result.reason) == (Status.OK, "")
        assert [one.pid for one in daemons()] == [other.pid]
    assert len(looked) == 1
    assert not looked[0].is_running()
    assert of_the_machine() == before
    assert result.details["services"]["cron"]["provider"] == "path"


def test_without_a_daemon_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cron, "PACKAGED", tmp_path / "cron")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert services.available("cron") == (
        False,
        "no cron daemon: install Debian's cron; and it needs root",
    )


def test_who_may_not_mount_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_cell: OneCell
) -> None:
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho unshare: Operation not permitted >&2; exit 1\n")
    unshare.chmod(0o755)
    (tmp_path / "cron").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    reason = "the cron daemon needs root, and a mount namespace of its own: unshare: Operation not permitted"
    assert services.available("cron") == (False, reason)
    result = one_cell("cron", Looked(lambda: None))
    assert (result.status, result.reason) == (Status.UNSUPPORTED, reason)
