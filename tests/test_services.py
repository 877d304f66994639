"""Real services, started as described: on loopback, for their password only, safe where a port is taken."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from bench import services
from bench.environments import CACHE_VARIABLE
from bench.errors import CellError, Unsupported, UsageError
from bench.model import Role
from bench.services import ServiceSpec, embedded, postgresql, rabbitmq, redis, temporal

DEADLINE_S = 30
LOOPBACK = "127.0.0.1"

ROLES = {
    "redis": Role.BROKER,
    "postgresql": Role.DATABASE,
    "rabbitmq": Role.BROKER,
    "temporal": Role.SERVER,
    "temporal-sqlite": Role.SERVER,
}
OWN = [pytest.param(name, id=name) for name in ROLES]
WITH_PASSWORD = [name for name in ROLES if not name.startswith("temporal")]


@contextmanager
def started(spec: ServiceSpec, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    environ = {**os.environ, **spec.env}
    with (
        log.open("wb") as output,
        subprocess.Popen(spec.argv, stdout=output, stderr=output, env=environ, cwd=log.parent) as process,
    ):
        try:
            yield process
        finally:
            for one in tree(process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


def tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def until_ready(spec: ServiceSpec) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not spec.ready():
        assert time.monotonic() < deadline, f"{spec.name} did not become ready"
        time.sleep(0.01)


def prepare(name: str, folder: Path) -> ServiceSpec:
    """Where a service cannot be had from a wheel, its absence is no failure."""
    if name in ("rabbitmq", "postgresql-contrib") and not services.available(name)[0]:
        pytest.skip(services.available(name)[1])
    return services.prepare(name, folder)


def ask(spec: ServiceSpec, *lines: str) -> list[str]:
    """Send inline commands to Redis; one reply line for each."""
    with socket.create_connection((LOOPBACK, int(spec.address["port"])), timeout=5) as peer:
        peer.sendall("".join(line + "\r\n" for line in lines).encode())
        with peer.makefile("r", encoding="utf-8", newline="\r\n") as replies:
            return [replies.readline().strip() for _ in lines]


def sql(spec: ServiceSpec, query: str, secret: str) -> str:
    """What PostgreSQL answers, or the error."""
    psql = postgresql.server().path.resolve().with_name("psql")
    host, port, user, database = (str(spec.address[key]) for key in ("host", "port", "user", "database"))
    done = subprocess.run(
        [psql, "-h", host, "-p", port, "-U", user, "-d", database, "-w", "-A", "-t", "-c", query],
        env={**os.environ, "PGPASSWORD": secret},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    return (done.stdout or done.stderr).strip()


def password(spec: ServiceSpec) -> str:
    return urlsplit(str(spec.address["url"])).password or ""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def only_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let nothing be found but the programs in `folder`, and what PostgreSQL needs to run as root."""
    setpriv = shutil.which("setpriv")
    monkeypatch.setenv("PATH", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    if setpriv is not None and not (folder / "setpriv").exists():
        (folder / "setpriv").symlink_to(setpriv)


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN)
def test_a_service_serves_on_loopback_and_is_ready_once_it_does(name: str, tmp_path: Path) -> None:
    spec = prepare(name, tmp_path / name)
    assert not spec.ready()
    assert (spec.name, spec.role, spec.address["host"]) == (name, ROLES[name], LOOPBACK)
    assert (True, f"{spec.version} ({spec.provider})") == services.available(name)
    with started(spec, tmp_path / "log") as process:
        until_ready(spec)
        connections = [one for member in tree(process) for one in member.net_connections("inet")]
        assert {one.laddr.ip for one in connections} == {LOOPBACK}
        assert {one.raddr.ip for one in connections if one.raddr} <= {LOOPBACK}
        assert spec.address["port"] in {one.laddr.port for one in connections if one.status == "LISTEN"}
    assert not spec.ready()


@pytest.mark.parametrize("name", WITH_PASSWORD)
def test_the_password_is_neither_in_argv_nor_in_the_repr_nor_readable_by_others(
    name: str, tmp_path: Path
) -> None:
    spec = prepare(name, tmp_path / name)
    assert len(password(spec)) >= 20
    assert password(spec) not in " ".join(spec.argv) + repr(spec)
    assert password(spec) != password(prepare(name, tmp_path / name))
    for path in (tmp_path / name).iterdir():
        open_to_others = stat.S_IMODE(path.stat().st_mode) & 0o077
        assert not open_to_others, path


@pytest.mark.parametrize("name", OWN)
def test_another_server_on_the_port_is_not_ready_and_the_next_try_serves(name: str, tmp_path: Path) -> None:
    first, log = prepare(name, tmp_path / name), tmp_path / "log"
    with socket.create_server((LOOPBACK, int(first.address["port"]))):
        assert not first.ready()  # accepts, and says nothing
        with started(first, log) as process:
            process.wait(DEADLINE_S)
        assert not first.ready()
    assert services.port_taken(log.read_text())
    second = services.prepare(name, tmp_path / name)
    assert second.address["port"] != first.address["port"]
    with started(second, log):
        until_ready(second)
        assert not services.port_taken(log.read_text())


@pytest.mark.parametrize("name", OWN)
def test_without_any_server_it_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in {
        CACHE_VARIABLE: str(tmp_path / "cache"),
        "UV_CACHE_DIR": str(tmp_path / "uv"),
        "UV_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(rabbitmq, "PACKAGED", tmp_path / "rabbitmq-server")
    only_on_path(monkeypatch, tmp_path / "bin")
    able, reason = services.available(name)
    assert not able
    assert "put one on PATH" in reason
    assert ("install" if name == "rabbitmq" else "connect this machine") in reason
    with pytest.raises(Unsupported, match="put one on PATH"):
        services.prepare(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "command", "says"),
    [
        ("redis", "redis-server", "Redis server v={} sha=0:0 bits=64"),
        ("postgresql", "postgres", "postgres (PostgreSQL) {} (Debian {}-1)"),
        ("temporal", "temporal", "temporal version 9.9.9 (Server {}, UI 2.54.1)"),
    ],
)
def test_the_wheels_server_serves_unless_a_newer_one_is_on_path(
    name: str, command: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = {"redis": redis.server, "postgresql": postgresql.server, "temporal": temporal.server}[name]
    only_on_path(monkeypatch, tmp_path / "empty")
    wheel = find()
    assert wheel.provider == "embedded"
    for version, provider in [("0.9", "embedded"), (wheel.version, "embedded"), ("100.10.1", "path")]:
        folder = tmp_path / version
        own = program(folder / command, f"echo '{says.format(version, version)}'")
        only_on_path(monkeypatch, folder)
        server = find()
        assert server.provider == provider
        assert (server.path == own) == (provider == "path")
    assert services.available(name) == (True, "100.10.1 (path)")


def test_a_program_that_cannot_run_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "redis-server", "echo v=99.0.0; exit 127")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert redis.server().provider == "embedded"


def test_the_wheel_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    first = redis.server()
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    assert redis.server() == first


def test_a_postgresql_without_its_contrib_modules_is_no_server_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin" / "postgres", "echo 'postgres (PostgreSQL) 99.1'")
    share = tmp_path / "share" / "extension"
    share.mkdir(parents=True)
    program(tmp_path / "bin" / "pg_config", f"echo {share.parent}")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert not services.available("postgresql-contrib")[0]
    (share / "pg_trgm.control").touch()
    assert services.available("postgresql-contrib") == (True, "99.1 (path)")


def test_an_unknown_service_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'redis'"):
        services.prepare("rediss", tmp_path)
    with pytest.raises(UsageError, match="valid: cron, postgresql, postgresql-contrib, rabbitmq, redis"):
        services.available("kafka")


# --- ports ----------------------------------------------------------------------------------------


def test_free_ports_differ_and_are_none_that_an_outgoing_connection_may_take() -> None:
    ports = embedded.free_ports(20)
    assert len(set(ports)) == 20
    if sys.platform.startswith("linux"):
        lowest = int(embedded.EPHEMERAL.read_text().split()[0])
        assert all(embedded.LOWEST_PORT <= port < lowest for port in ports)


@pytest.mark.parametrize("told", ["{} 60999", "0 60999", "", None])
def test_taken_ports_are_left_out_and_without_room_below_the_kernel_chooses(
    told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(embedded, "EPHEMERAL", tmp_path / "range")
        monkeypatch.setattr(embedded, "LOWEST_PORT", port)  # so that `port` is all the room there is
        if told is not None:
            (tmp_path / "range").write_text(told.format(port + 1))
        assert port not in embedded.free_ports(3)


# --- Redis ----------------------------------------------------------------------------------------


def test_redis_keeps_to_its_folder_and_wants_its_password(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" \\ folder'
    spec = services.prepare("redis", folder)
    url = urlsplit(str(spec.address["url"]))
    assert (url.scheme, url.hostname, url.port, url.path) == ("redis", LOOPBACK, spec.address["port"], "/0")
    with started(spec, tmp_path / "log"):
        until_ready(spec)
        assert not redis.answers(LOOPBACK, int(spec.address["port"]), "another")
        assert ask(spec, "PING")[0].startswith("-NOAUTH")
        assert ask(spec, "AUTH " + password(spec), "SAVE") == ["+OK", "+OK"]
        assert (folder / "dump.rdb").exists()


def test_the_persistence_of_redis_is_the_vendors_default(tmp_path: Path) -> None:
    spec = services.prepare("redis", tmp_path)
    with started(spec, tmp_path / "log"):
        until_ready(spec)
        with socket.create_connection((LOOPBACK, int(spec.address["port"])), timeout=5) as peer:
            peer.sendall(
                f"AUTH {password(spec)}\r\nCONFIG GET save\r\nCONFIG GET appendonly\r\nQUIT\r\n".encode()
            )
            replies = b"".join(iter(lambda: peer.recv(4096), b"")).decode().split("\r\n")
    assert "3600 1 300 100 60 10000" in replies
    assert "no" in replies


# --- PostgreSQL -----------------------------------------------------------------------------------


def test_postgresql_wants_its_password_and_changes_no_default_that_a_figure_rests_on(tmp_path: Path) -> None:
    spec = services.prepare("postgresql", tmp_path / "a folder")
    address = spec.address
    assert address["url"] == (
        f"postgresql://{address['user']}:{address['password']}@{LOOPBACK}:{address['port']}/{address['database']}"
    )
    changed = (
        "select name from pg_settings where setting <> boot_val and name not like 'lc\\_%' "
        "and source in ('configuration file', 'command line') and lower(name) not like '%timezone'"
    )
    with started(spec, tmp_path / "log") as process:
        until_ready(spec)
        assert "no password supplied" in sql(spec, "select 1", "")
        assert "password authentication failed" in sql(spec, "select 1", "another")
        assert sql(spec, "show server_version", password(spec)).startswith(spec.version)
        assert sql(spec, "show fsync", password(spec)) == "on"
        assert set(sql(spec, changed, password(spec)).split()) == {
            *("default_text_search_config", "dynamic_shared_memory_type"),
            *("listen_addresses", "port", "unix_socket_directories"),
        }
        assert {member.uids().effective for member in tree(process)} & {0} == set()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux tells of shared memory")
def test_postgresql_that_is_killed_leaves_no_shared_memory(tmp_path: Path) -> None:
    def segments() -> set[str]:
        lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        return {line.split()[1] for line in lines if int(line.split()[4]) == pid}

    spec = services.prepare("postgresql", tmp_path)
    with started(spec, tmp_path / "log") as process:
        pid = process.pid
        until_ready(spec)
        assert len(segments()) == 1
        mapped = {region.path for member in tree(process) for region in member.memory_maps()}
        assert not any(path.startswith("/dev/shm/") for path in mapped)
    deadline = time.monotonic() + DEADLINE_S
    while segments():
        assert time.monotonic() < deadline, "the segment outlived its last user"
        time.sleep(0.01)


def test_an_initdb_that_fails_is_an_error_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin" / "initdb", "echo 'initdb: error: no space left' >&2; exit 3")
    own = program(tmp_path / "bin" / "postgres", "exit 1")
    monkeypatch.setattr(postgresql, "server", lambda: embedded.Server(own, "100.0", "path"))
    with pytest.raises(CellError, match="initdb failed with status 3: initdb: error: no space left"):
        postgresql.embedded(tmp_path / "service")
    assert not (tmp_path / "service" / "password").exists()


def test_root_without_setpriv_is_told_what_postgresql_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    able, reason = services.available("postgresql")
    assert not able
    assert "run as another user, or install setpriv" in reason


# --- RabbitMQ -------------------------------------------------------------------------------------


def test_rabbitmq_wants_its_password_and_starts_no_port_mapper(tmp_path: Path) -> None:
    spec = prepare("rabbitmq", tmp_path / "a folder")
    url = urlsplit(str(spec.address["url"]))
    assert (url.scheme, url.hostname, url.port, url.path) == ("amqp", LOOPBACK, spec.address["port"], "/")
    with started(spec, tmp_path / "log") as process:
        until_ready(spec)
        assert not rabbitmq._logs_in(LOOPBACK, int(spec.address["port"]), rabbitmq.USER, "another")
        assert "epmd" not in {member.name() for member in tree(process)}
        assert "0 plugins started" in (tmp_path / "log").read_text()
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        taken = {**spec.env, "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": nodes_port(spec, other.getsockname()[1])}
        other.listen()
        again = subprocess.run(
            spec.argv, env={**os.environ, **taken}, capture_output=True, text=True, timeout=DEADLINE_S
        )
    assert services.port_taken(again.stdout + again.stderr)


def nodes_port(spec: ServiceSpec, port: int) -> str:
    words = spec.env["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"].split()
    words[words.index("-erl_epmd_port") + 1] = str(port)
    return " ".join(words)


# --- Temporal -------------------------------------------------------------------------------------


def test_temporal_on_a_file_keeps_to_its_folder(tmp_path: Path) -> None:
    spec = services.prepare("temporal-sqlite", tmp_path / "a folder")
    with started(spec, tmp_path / "log"):
        until_ready(spec)
        (database,) = (tmp_path / "a folder").glob("*.sqlite")
        assert database.stat().st_size


@pytest.mark.parametrize("name", ["temporal", "temporal-sqlite"])
def test_temporal_does_not_report_its_version(name: str, tmp_path: Path) -> None:
    assert services.prepare(name, tmp_path).env == {"TEMPORAL_VERSION_CHECK_DISABLED": "1"}
