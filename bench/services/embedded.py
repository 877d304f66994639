"""What the services share: where a server program is found, free ports, and files that hold a secret."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.environments import wheel
from bench.errors import EnvironmentBuildError, Unsupported
from bench.model import Role

HOST: Final = "127.0.0.1"
PROBE_LIMIT_S: Final = 0.5

WHEEL_PYTHON: Final = "3.12"
"""A Python that all the wheels were built for. The servers inside them need none."""

EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST_PORT: Final = 10_000


@dataclass(frozen=True)
class ServiceSpec:
    """How to start a service that is all a cell's own, and how to reach it.

    `address` is what `Context.services` gives to adapters (`url`, `host`, `port`); it and `env`, which the
    process gets beside what the cell's processes get, may hold secrets, `argv` and `repr` never do. With an
    empty `argv` there is nothing to start: the service is somebody else's, or the adapter's to start.
    `provider` says whose server it is: `embedded` (from a wheel), `path` (this machine's own) or `external`.
    `ready` tries once, for about a second at most, whether the service answers, and never raises.
    """

    name: str
    role: Role
    argv: tuple[str, ...]
    address: Mapping[str, str | int] = field(repr=False)
    version: str
    provider: str
    ready: Callable[[], bool] = field(repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Server:
    """A server program. `provider` is as in `ServiceSpec`."""

    path: Path
    version: str
    provider: str

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers, for comparison."""
        return tuple(int(number) for number in self.version.split("."))


def newest(program: str, lock: Path | None, inside: str, version: str) -> Server:
    """The newer of two programs: the one at `inside` in the locked wheel, if any, and the one on PATH.

    `version` is a pattern whose group is the version in what `program --version` prints.

    Raises:
        Unsupported: neither is here, or neither can be executed.
    """
    found = []
    why = ""
    try:
        if lock is not None:
            found.append((wheel(lock, WHEEL_PYTHON) / inside, "embedded"))
    except (EnvironmentBuildError, OSError) as error:
        why = f" ({error})"
    if (on_path := shutil.which(program)) is not None:
        found.append((Path(on_path), "path"))
    servers = [
        Server(path, number, provider)
        for path, provider in found
        if (number := _version(path, version)) is not None
    ]
    if not servers:
        raise Unsupported(f"no {program} can run here: put one on PATH{why}")
    return max(servers, key=lambda server: server.release)  # the first of equals: the wheel's


@functools.cache
def _version(path: Path, pattern: str) -> str | None:
    """The version that a program says it has, or None for one that cannot run."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(pattern, done.stdout)
    return match[1] if match and done.returncode == 0 else None


def password() -> str:
    """A random password that needs no quoting in a URL, a shell or a configuration file."""
    return secrets.token_urlsafe(24)


def write_secret(path: Path, text: str) -> Path:
    """Write a file that only this user may read, whatever stood there before; returns its absolute path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path.absolute()


def free_ports(n: int) -> tuple[int, ...]:
    """`n` different ports of 127.0.0.1 that nothing uses now.

    At random from below those that the kernel gives to outgoing connections: any of these could take one
    of its own before the server does. Where there is no room below, the kernel chooses.
    """
    try:
        lowest = int(EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        lowest = 0
    below = range(LOWEST_PORT, lowest)
    # Not the generator that a caller may have seeded: two of them would choose the same.
    tries = random.SystemRandom().sample(below, min(len(below), n + 100))
    with contextlib.ExitStack() as held:  # all at once, so that they differ
        ports: list[int] = []
        while len(ports) < n:
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((HOST, tries.pop() if tries else 0))
                ports.append(probe.getsockname()[1])
    return tuple(ports)
