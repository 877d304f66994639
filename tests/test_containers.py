"""Services in containers of a real Docker engine: found, started, sampled, and taken away whatever happens.

Needs an engine with the images of docker/images.toml, or the stand-ins that docker/offline/build makes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import cgroups, harness, services
from bench.errors import ProcessDied, Unsupported, UsageError
from bench.model import Arrival, Load, Metric, Phase, Role, Status, Variant
from bench.scenario import History, Phases, Scenario
from bench.services import Limits, Options, Provision, netem, options
from bench.services import redis as redis_service
from bench.services.contract import Recipe
from tests.conftest import ROOT, Command, OneCell, docker, ours

DEADLINE_S = 60
IMAGES = tomllib.loads((ROOT / "docker" / "images.toml").read_text())
COMPOSE = (ROOT / "docker" / "compose.yaml").read_text()
NOWHERE = "unix:///nonexistent/docker.sock"


@pytest.fixture
def stranger(engine: None) -> Iterator[str]:
    """A container of somebody else's."""
    name = f"stranger-{os.getpid()}-{time.monotonic_ns()}"
    docker("run", "-d", "--name", name, IMAGES["redis"]["image"])
    yield name
    docker("rm", "-f", "-v", name)


def until(done: Any, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


class Steps(Scenario):
    """A load at a rate, with the samples of its resources; `between` is called when it has begun."""

    title = "steps"
    parameters = {}
    profiles = {}

    def __init__(self, between: Any = lambda: None, tasks: int = 20, rate_hz: float = 20.0) -> None:
        self.between, self.tasks, self.rate_hz = between, tasks, rate_hz

    def seconds(self, params: Any) -> float:
        return 3

    def phases(self, params: Any, variant: Variant) -> Phases:
        yield Phase("idle", wait="hold", hold_s=0.5, memory=True)
        self.between()
        yield Phase("load", Load(self.tasks, Arrival.CONSTANT, self.rate_hz), memory=True, limit_s=20)

    def metrics(self, history: History, params: Any) -> Iterator[Metric]:
        samples = history.samples("idle")
        broker = samples[samples["role"] == Role.BROKER]
        yield Metric("idle_rss.broker", "MB", float(broker["rss_bytes"].median()) / 1e6, len(broker))
        yield Metric("processes.broker", "count", float(broker["processes"].median()), len(broker))
        begin, end, _ = history.edges("load")
        yield Metric("cpu_used.broker", "ms", float((end - begin)[Role.BROKER]) / 1e6, 1)


def in_containers(one_cell: OneCell, **held: Any) -> Provision:
    return Provision("containers", Options(**held), one_cell.home.name)


# --- a cell ---------------------------------------------------------------------------------------------


def test_a_cell_runs_with_its_broker_in_a_container(engine: None, one_cell: OneCell) -> None:
    result = one_cell("rq:redis", Steps(), provision=in_containers(one_cell))
    assert (result.status, result.reason) == (Status.OK, "")
    about = result.details["services"]["redis"]
    assert about["provider"] == "container"
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"])  # what the server says, not the tag
    assert about["image"].startswith(IMAGES["redis"]["image"])
    figures = {metric.name: metric for metric in result.metrics}
    assert 1 < figures["idle_rss.broker"].value < 500
    assert figures["processes.broker"].value >= 1
    assert figures["cpu_used.broker"].value > 0
    stand_in = bool(about["stand_in"])
    for metric in result.metrics:
        assert ("redis came from a stand-in image" in metric.note) is stand_in
    assert result.details["cpu_ns"] > 0
    assert "left_behind" not in result.details
    log = one_cell.folder / "logs" / "broker-0.log"
    assert "Ready to accept connections" in log.read_text()


def test_the_engines_own_work_is_not_taken_for_a_disturbance(
    engine: None, one_cell: OneCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.services import engine as docker_engine

    assert docker_engine.cpu_ns() > 0
    worked = iter([10**9, 10**12])
    monkeypatch.setattr(docker_engine, "cpu_ns", lambda: next(worked))
    result = one_cell("rq:redis", Steps(), provision=in_containers(one_cell))
    assert result.status is Status.OK
    assert result.details["cpu_ns"] > 10**12 - 10**9
    roles = result.resources.groupby("role")["cpu_ns"].max()
    assert roles.sum() < 10**12 - 10**9  # and it is in no figure


def test_no_password_stands_in_a_log_a_process_list_or_the_record(
    engine: None, one_cell: OneCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "correct-horse-battery"
    monkeypatch.setattr(redis_service, "password", lambda: secret)
    seen = []

    def look() -> None:
        seen.append(subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True).stdout)

    result = one_cell("celery:redis", Steps(look), provision=in_containers(one_cell))
    assert result.status is Status.OK, result.reason
    assert "redis-server" in seen[0]
    assert secret not in seen[0]
    assert secret not in str(result.details)
    for log in (one_cell.folder / "logs").iterdir():
        assert secret not in log.read_text(errors="replace"), log.name


def test_a_container_is_held_to_what_is_asked(engine: None, one_cell: OneCell) -> None:
    seen = []

    def look() -> None:
        (name,) = [name for name in ours() if one_cell.home.name in name]
        seen.append(docker("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", name))

    held = in_containers(one_cell, limits={"redis": Limits("64m", 0.5)})
    result = one_cell("rq:redis", Steps(look), provision=held)
    assert (result.status, result.reason) == (Status.OK, "")
    assert seen == [f"{64 * 2**20} {500_000_000}"]
    assert all("redis was held to memory 64m, 0.5 CPUs" in metric.note for metric in result.metrics)


def test_a_delay_that_cannot_be_had_is_unsupported_and_one_that_can_is_carried(
    engine: None, one_cell: OneCell
) -> None:
    result = one_cell("rq:redis", Steps(), provision=in_containers(one_cell, rtt_ms=5.0))
    if result.status is Status.UNSUPPORTED:  # a kernel without netem
        assert result.reason.startswith("no network delay can be set here (")
    else:
        assert (result.status, result.reason) == (Status.OK, "")
        assert all("5 ms of network delay to redis" in metric.note for metric in result.metrics)


def test_a_port_that_is_taken_is_tried_again_on_another(
    engine: None, one_cell: OneCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = redis_service.free_ports
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([(taken.getsockname()[1],)])
        monkeypatch.setattr(redis_service, "free_ports", lambda n: next(ports, None) or real(n))
        result = one_cell("rq:redis", Steps(), provision=in_containers(one_cell))
    assert (result.status, result.reason) == (Status.OK, "")
    assert next(ports, None) is None


def test_a_container_that_exits_at_once_is_one_line_with_its_last_words(
    engine: None, one_cell: OneCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = redis_service.contained

    def broken() -> services.ServiceSpec:
        spec = real()
        assert spec.recipe is not None
        return dataclasses.replace(
            spec, recipe=dataclasses.replace(spec.recipe, command=("redis-server", "/none"))
        )

    changed = services._SERVICES["redis"]._replace(contained=broken)
    monkeypatch.setattr(services, "_SERVICES", {**services._SERVICES, "redis": changed})
    result = one_cell("rq:redis", Steps(), provision=in_containers(one_cell))
    assert result.status is Status.ERROR
    assert re.match(r".*exited with status 1; its last lines: .*config file", result.reason), result.reason
    assert "\n" not in result.reason


def test_a_container_that_is_killed_in_mid_run_ends_its_cell_only(engine: None, one_cell: OneCell) -> None:
    def kill() -> None:
        (name,) = [name for name in ours() if one_cell.home.name in name]
        docker("kill", name)

    result = one_cell("rq:redis", Steps(kill), provision=in_containers(one_cell))
    assert result.status is Status.ERROR
    assert "broker exited with status 137" in result.reason
    one_cell.folder = one_cell.folder.with_name("next")
    assert one_cell("rq:redis", Steps(), provision=in_containers(one_cell)).status is Status.OK


def test_an_engine_that_goes_away_in_mid_run_is_an_error_and_not_unsupported(
    engine: None, one_cell: OneCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    result = one_cell("rq:redis", Steps(), provision=in_containers(one_cell))
    assert result.status is Status.ERROR
    assert result.reason == "no Docker engine answers: start it, or use --services embedded"


def test_an_engine_that_hides_its_processes_is_not_used(
    engine: None, one_cell: OneCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be missing from every figure."""
    from bench.services import engine as docker_engine

    monkeypatch.setattr(cgroups, "holding", lambda pid, name: None)
    result = one_cell("rq:redis", Steps(), provision=in_containers(one_cell))
    assert result.status is Status.ERROR
    assert "cannot be seen from here" in result.reason
    monkeypatch.setattr(docker_engine, "_is_here", lambda: False)
    choice = services.choose("auto", ["redis"], print)
    assert choice.provider == "embedded"
    assert "cannot be seen from here" in choice.words
    with pytest.raises(Unsupported, match="cannot be seen from here"):
        services.choose("containers", ["redis"], print)


# --- images ---------------------------------------------------------------------------------------------


@pytest.fixture
def tagged(engine: None) -> Iterator[str]:
    """A tag for an image of a test's own."""
    tag = f"schedbench-test:{os.getpid()}"
    yield tag
    subprocess.run(["docker", "rmi", "-f", tag], capture_output=True, check=False)


def imported(tag: str, *changes: str) -> None:
    words = [word for change in changes for word in ("--change", change)]
    empty = subprocess.run(["tar", "-c", "--files-from", "/dev/null"], capture_output=True, check=True).stdout
    subprocess.run(["docker", "import", *words, "-", tag], input=empty, capture_output=True, check=True)


def test_an_image_is_taken_by_its_digest_or_as_a_stand_in_that_says_so(
    tagged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.services import engine as docker_engine

    monkeypatch.setattr(
        docker_engine, "pinned", lambda: {"it": {"image": tagged, "digest": "sha256:" + "0" * 64}}
    )
    with pytest.raises(Unsupported, match=rf"no image {tagged} here: `docker pull {tagged}@sha256:0+`"):
        docker_engine.find("it")
    imported(tagged)
    with pytest.raises(Unsupported, match=f"the image {tagged} here is another one than docker/images.toml"):
        docker_engine.find("it")
    with pytest.raises(Unsupported, match="another one"):  # it is not fetched over what is there
        docker_engine.fetch("it", print)
    imported(tagged, "LABEL schedbench.stand-in=something")
    assert docker_engine.find("it").words == f"{tagged} (stand-in: something)"


def test_an_image_that_cannot_be_pulled_is_one_line(engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.services import engine as docker_engine

    missing = {"image": "127.0.0.1:1/none:1", "digest": "sha256:" + "0" * 64}
    monkeypatch.setattr(docker_engine, "pinned", lambda: {"it": missing})
    said: list[str] = []
    with pytest.raises(Unsupported, match=r"^no image 127.0.0.1:1/none:1 here: .*\(pulling it failed: .*\)$"):
        docker_engine.fetch("it", said.append)
    assert said == ["pulling 127.0.0.1:1/none:1"]


def test_every_image_is_pinned_and_compose_has_the_same_ones() -> None:
    pins = {f"{pin['image']}@{pin['digest']}" for pin in IMAGES.values()}
    assert all(re.fullmatch(r"[a-z/-]+:[0-9.]+(-slim)?@sha256:[0-9a-f]{64}", pin) for pin in pins)
    in_compose = set(re.findall(r"image: (\S+)", COMPOSE))
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    elsewhere = {pin for pin in pins if pin.startswith(("temporalio/temporal:", "debian:"))}
    assert in_compose == pins - elsewhere
    assert re.findall(r"FROM (\S+)", dockerfile) == [pin for pin in elsewhere if pin.startswith("debian:")]
    for ports in re.findall(r"ports: \[(.*)\]", COMPOSE):
        assert all(port.strip('" ').startswith("127.0.0.1:") for port in ports.split(","))


# --- which provider -------------------------------------------------------------------------------------


def test_auto_says_why_it_takes_no_containers(schedbench: Command) -> None:
    words = ("--scenario", "startup", "--trials", "1", "--services", "auto")
    done = schedbench("run", "rq", *words, DOCKER_HOST=NOWHERE)
    assert done.returncode == 0, done.stderr
    assert "services: embedded, not in containers: no Docker engine answers" in done.stdout


def test_containers_without_an_engine_are_one_clear_line(schedbench: Command) -> None:
    done = schedbench("run", "rq", "--services", "containers", DOCKER_HOST=NOWHERE)
    assert done.returncode == 1
    assert "no Docker engine answers: start it, or use --services embedded" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_engine_that_is_closed_to_this_user_says_so(engine: None) -> None:
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        pytest.skip("needs root, to be somebody else")
    script = "from bench.services import engine; engine.version()"
    done = subprocess.run(
        [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search",
         "--ambient-caps=+dac_read_search", "--securebits=+no_setuid_fixup", sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "closed to this user: add them to the group docker" in done.stderr, done.stderr


def test_a_run_in_containers_says_so_and_carries_it(engine: None, schedbench: Command) -> None:
    done = schedbench("run", "rq", "--scenario", "startup", "--trials", "1", "--services", "containers")
    assert done.returncode == 0, done.stderr
    assert "services: in containers of Docker" in done.stdout
    assert IMAGES["redis"]["image"] in done.stdout
    report = schedbench("report", "--format", "terminal")
    assert report.returncode == 0, report.stderr
    assert "redis" in report.stdout
    assert "container" in report.stdout


@pytest.mark.parametrize("word", ["net.rtt_ms=2", "services.redis.memory=256m"])
def test_what_only_containers_can_do_is_a_usage_error_elsewhere(schedbench: Command, word: str) -> None:
    done = schedbench("run", "rq", "--set", word, "--services", "embedded")
    assert done.returncode == 2
    assert f"--set {word.partition('=')[0]} needs --services containers" in done.stderr


def test_options_are_told_from_parameters() -> None:
    words = ["rate=2", "services.redis.memory=256m", "services.redis.cpus=0.5", "net.rtt_ms=2"]
    found, rest = options.parse(words, services.IMAGES)
    assert rest == ("rate=2",)
    assert found == Options({"redis": Limits("256m", 0.5)}, 2.0, "services.redis.memory")
    assert bool(found)
    assert not Options()
    assert Limits("256m", 0.5).words == "memory 256m, 0.5 CPUs"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("net.rtt_ms", "give net.rtt_ms=VALUE"),
        ("net.rtt_ms=fast", "not a number"),
        ("net.rtt_ms=-1", "must be above 0"),
        ("net.rtt_ms=inf", "must be above 0"),
        ("net.rtt_ms=101", "at most 100"),
        ("net.loss=1", "unknown option 'net.loss'"),
        ("services.redis.colour=1", "unknown option 'services.redis.colour'"),
        ("services.reddis.memory=1g", "did you mean 'redis'?"),
        ("services.redis.memory=much", "give a size such as 256m or 1g"),
        ("services.redis.memory=0", "give a size such as 256m or 1g"),
        ("services.redis.cpus=0", "must be above 0"),
    ],
)
def test_an_option_that_is_none_is_a_usage_error(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        options.parse([word], services.IMAGES)


def test_a_delay_without_its_tools_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Unsupported, match="needs nsenter and tc: install util-linux and iproute2"):
        netem.delay(os.getpid(), 1.0)


# --- what is left -----------------------------------------------------------------------------------------


def test_after_sigkill_nothing_survives_the_next_start(
    stranger: str, schedbench: Command, one_cell: OneCell
) -> None:
    """Its own go; those of others, and of a harness that is alive, stay."""
    from bench.services import containers

    alive = f"alive-{os.getpid()}"
    labels = {containers.OWNER_LABEL: one_cell.home.name, containers.WHERE_LABEL: harness.here()}
    words = [word for name, value in labels.items() for word in ("--label", f"{name}={value}")]
    docker("run", "-d", "--name", alive, *words, IMAGES["redis"]["image"])
    try:
        before = ours()
        started = schedbench.start("run", "rq", "--scenario", "latency", "--services", "containers")
        try:
            until(lambda: ours() - before, "a container")
        finally:
            started.send_signal(signal.SIGKILL)
            started.communicate()
        (left,) = ours() - before
        done = schedbench("run", "reference", "--scenario", "startup", "--trials", "1")
        assert done.returncode == 0, done.stderr
        assert "removed 1 containers left by a run that was killed" in done.stderr
        assert left not in ours()
        assert alive in ours()
        assert docker("inspect", "-f", "{{.State.Running}}", stranger) == "true"
        assert containers.sweep(one_cell.home.name) == [alive]
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            docker("rm", "-f", "-v", alive)


def test_after_ctrl_c_nothing_is_left(engine: None, schedbench: Command) -> None:
    before = ours()
    started = schedbench.start("run", "rq", "--scenario", "latency", "--services", "containers")
    until(lambda: ours() - before, "a container")
    started.send_signal(signal.SIGINT)
    output, _ = started.communicate(timeout=DEADLINE_S)
    assert started.returncode == 130, output
    assert ours() == before


def test_a_container_that_never_was_can_be_removed(engine: None, tmp_path: Path) -> None:
    """A Ctrl-C may come before the engine has answered."""
    from bench.services.containers import Container

    made = Container(
        "broker",
        Recipe("redis", {}),
        f"schedbench-none-{os.getpid()}",
        "1-1",
        tmp_path / "log",
        Limits(),
        0.0,
    )
    made.remove()
    assert made.pids() == []
    assert made.cpu_ns() == 0
    assert not made.ended()


def test_an_engine_that_refuses_to_start_it_is_one_line(engine: None, tmp_path: Path) -> None:
    from bench.services.containers import Container

    limits = Limits("1b")  # the least that it takes is 6 MB
    made = Container(
        "broker", Recipe("redis", {}), f"schedbench-bad-{os.getpid()}", "1-1", tmp_path / "log", limits, 0.0
    )
    with pytest.raises(ProcessDied, match=r"^the container of the broker cannot be started: .*6MB"):
        made.start()
    made.remove()
