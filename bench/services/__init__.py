"""Services: what a system under test needs beside its own processes, described but not started.

The runner starts what is described here like any other process of a cell, so that it is sampled and
ended with the rest, and waits until `ready()`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.errors import Unsupported, unknown
from bench.model import Role

NAMES: Final = ("redis",)


@dataclass(frozen=True)
class ServiceSpec:
    """How to start a service that is all a cell's own, and how to reach it.

    `address` is what `Context.services` gives to adapters (`url`, `host`, `port`); it holds the password,
    `argv` and `repr` never do. `provider` says whose server it is: `embedded` (from a wheel) or `path`
    (this machine's own). `ready` tries once, for about a second at most, whether the service answers, and
    never raises.
    """

    name: str
    role: Role
    argv: tuple[str, ...]
    address: Mapping[str, str | int] = field(repr=False)
    version: str
    provider: str
    ready: Callable[[], bool] = field(repr=False)


def prepare(name: str, folder: Path) -> ServiceSpec:
    """Choose a free port and a password, and write the service's configuration into `folder`.

    Another process may take the port before the service does. The service then exits, `port_taken` of
    its log is true, and calling this again, with the same folder, is the remedy.

    Raises:
        UsageError: no service of that name.
        Unsupported: it is not installed here; says what to install.
    """
    _known(name)
    from bench.services import embedded  # a provider builds on this module

    return embedded.redis(folder)


def available(name: str) -> tuple[bool, str]:
    """Whether a service can run here: its version and provider, or what to install.

    Raises:
        UsageError: no service of that name.
    """
    _known(name)
    from bench.services import embedded

    try:
        server = embedded.redis_server()
    except Unsupported as error:
        return False, str(error)
    return True, f"{server.version} ({server.provider})"


def port_taken(log: str) -> bool:
    """Whether the log of a service that has exited says that its port was in use."""
    return os.strerror(errno.EADDRINUSE) in log


def _known(name: str) -> None:
    if name not in NAMES:
        raise unknown("service", name, NAMES)
