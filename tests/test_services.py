"""A real Redis, started as it is described: reachable by its password alone, and safe on a taken port."""

from __future__ import annotations

import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench import services
from bench.environments import CACHE_VARIABLE
from bench.errors import Unsupported, UsageError
from bench.model import Role
from bench.services import ServiceSpec, embedded

DEADLINE_S = 20


@contextmanager
def started(spec: ServiceSpec, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output, subprocess.Popen(spec.argv, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.kill()


def until_ready(spec: ServiceSpec) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not spec.ready():
        assert time.monotonic() < deadline, "redis did not become ready"
        time.sleep(0.01)


def ask(spec: ServiceSpec, *lines: str) -> list[str]:
    """Send inline commands; one reply line for each."""
    with socket.create_connection(("127.0.0.1", int(spec.address["port"])), timeout=5) as peer:
        peer.sendall("".join(line + "\r\n" for line in lines).encode())
        with peer.makefile("r", encoding="utf-8", newline="\r\n") as replies:
            return [replies.readline().strip() for _ in lines]


def password(spec: ServiceSpec) -> str:
    return urlsplit(str(spec.address["url"])).password or ""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_redis_serves_on_loopback_in_its_own_folder_for_its_password_only(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" \\ folder'
    spec = services.prepare("redis", folder)
    assert not spec.ready()
    assert (spec.name, spec.role, spec.address["host"]) == ("redis", Role.BROKER, "127.0.0.1")
    url = urlsplit(str(spec.address["url"]))
    assert (url.scheme, url.hostname, url.port, url.path) == (
        "redis",
        "127.0.0.1",
        spec.address["port"],
        "/0",
    )
    with started(spec, tmp_path / "log"):
        until_ready(spec)
        assert ask(spec, "PING")[0].startswith("-NOAUTH")
        assert ask(spec, "AUTH " + password(spec), "SAVE") == ["+OK", "+OK"]
        assert (folder / "dump.rdb").exists()
    assert not spec.ready()


def test_the_password_is_neither_in_argv_nor_in_the_repr_nor_readable_by_others(tmp_path: Path) -> None:
    spec = services.prepare("redis", tmp_path)
    assert len(password(spec)) >= 20
    assert password(spec) not in " ".join(spec.argv) + repr(spec)
    assert password(spec) != password(services.prepare("redis", tmp_path))
    assert stat.S_IMODE((tmp_path / "redis.conf").stat().st_mode) == 0o600


def test_persistence_is_the_vendors_default(tmp_path: Path) -> None:
    spec = services.prepare("redis", tmp_path)
    with started(spec, tmp_path / "log"):
        until_ready(spec)
        with socket.create_connection(("127.0.0.1", int(spec.address["port"])), timeout=5) as peer:
            peer.sendall(
                f"AUTH {password(spec)}\r\nCONFIG GET save\r\nCONFIG GET appendonly\r\nQUIT\r\n".encode()
            )
            replies = b"".join(iter(lambda: peer.recv(4096), b"")).decode().split("\r\n")
    assert "3600 1 300 100 60 10000" in replies
    assert "no" in replies


def test_another_server_on_the_port_is_not_ready_and_the_next_try_serves(tmp_path: Path) -> None:
    first, log = services.prepare("redis", tmp_path / "redis"), tmp_path / "log"
    with socket.create_server(("127.0.0.1", int(first.address["port"]))):
        assert not first.ready()  # accepts, and says nothing
        with started(first, log) as process:
            assert process.wait(DEADLINE_S) != 0
    assert services.port_taken(log.read_text())
    second = services.prepare("redis", tmp_path / "redis")
    with started(second, log):
        until_ready(second)
        assert not services.port_taken(log.read_text())


def test_an_answer_to_another_password_is_not_ready(tmp_path: Path) -> None:
    spec = services.prepare("redis", tmp_path)
    with started(spec, tmp_path / "log"):
        until_ready(spec)
        assert not embedded._redis_answers(int(spec.address["port"]), "another")


def test_the_wheels_redis_serves_unless_a_newer_one_is_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wheel = embedded.redis_server()
    assert wheel.provider == "embedded"
    for version, provider in [("6.0.9", "embedded"), (wheel.version, "embedded"), ("100.10.1", "path")]:
        folder = tmp_path / version
        own = program(folder / "redis-server", f"echo 'Redis server v={version} sha=0:0 bits=64'")
        monkeypatch.setenv("PATH", str(folder))
        server = embedded.redis_server()
        assert server.provider == provider
        assert (server.path == own) == (provider == "path")
    assert services.available("redis") == (True, "100.10.1 (path)")


def test_a_program_that_cannot_run_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "redis-server", "echo v=99.0.0; exit 127")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.redis_server().provider == "embedded"


def test_without_any_server_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PATH": str(tmp_path),
        CACHE_VARIABLE: str(tmp_path / "cache"),
        "UV_CACHE_DIR": str(tmp_path / "uv"),
        "UV_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    able, reason = services.available("redis")
    assert not able
    assert "put one on PATH" in reason
    assert "connect this machine" in reason
    with pytest.raises(Unsupported, match="put one on PATH"):
        services.prepare("redis", tmp_path)


def test_the_wheel_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    first = embedded.redis_server()
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    assert embedded.redis_server() == first


def test_an_unknown_service_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'redis'"):
        services.prepare("rediss", tmp_path)
    with pytest.raises(UsageError, match="valid: redis"):
        services.available("kafka")
