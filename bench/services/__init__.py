"""Services: what a system under test needs beside its own processes, described but not started.

The runner starts what is described here like any other process of a cell, so that it is sampled and
ended with the rest, and waits until `ready()`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bench.errors import Unsupported, unknown
from bench.services import cron, postgresql, rabbitmq, redis, temporal
from bench.services.embedded import Server, ServiceSpec

__all__ = ["NAMES", "ServiceSpec", "available", "port_taken", "prepare"]


class _Service(NamedTuple):
    """`server` finds what `prepare` would start, without starting anything."""

    server: Callable[[], Server]
    prepare: Callable[[Path], ServiceSpec]


_SERVICES: Final[Mapping[str, _Service]] = {
    "redis": _Service(redis.server, redis.prepare),
    "postgresql": _Service(postgresql.server, postgresql.prepare),
    "postgresql-contrib": _Service(postgresql.server_with_contrib, postgresql.prepare_with_contrib),
    "rabbitmq": _Service(rabbitmq.server, rabbitmq.prepare),
    "temporal": _Service(temporal.server, temporal.in_memory),
    "temporal-sqlite": _Service(temporal.server, temporal.on_file),
    "temporal-external": _Service(temporal.external_server, temporal.external),
    "cron": _Service(cron.server, cron.prepare),
}

NAMES: Final = tuple(_SERVICES)


def prepare(name: str, folder: Path) -> ServiceSpec:
    """Choose a free port and a password, and write what the service needs into `folder`.

    Another process may take the port before the service does. The service then exits, `port_taken` of
    its log is true, and calling this again, with the same folder, is the remedy.

    Raises:
        UsageError: no service of that name.
        Unsupported: it is not installed here; says what to install.
        CellError: its data folder cannot be made.
    """
    return _known(name).prepare(folder)


def available(name: str) -> tuple[bool, str]:
    """Whether a service can run here: its version and provider, or what to install.

    Raises:
        UsageError: no service of that name.
    """
    try:
        server = _known(name).server()
    except Unsupported as error:
        return False, str(error)
    return True, f"{server.version} ({server.provider})"


def port_taken(log: str) -> bool:
    """Whether the log of a service that has exited says that its port was in use.

    In the system's words, with or without a capital (all but Erlang), or by the error's name (Erlang).
    """
    return any(words in log.lower() for words in (os.strerror(errno.EADDRINUSE).lower(), "eaddrinuse"))


def _known(name: str) -> _Service:
    if name not in _SERVICES:
        raise unknown("service", name, NAMES)
    return _SERVICES[name]
