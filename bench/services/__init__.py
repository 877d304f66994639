"""Services: what a system under test needs beside its own processes, described but not started.

Who provides them is chosen once for a run (`Provision`): servers of wheels and of this machine, containers,
or parts of servers that are there already. The runner starts what is described here like any other process of
a cell, so that it is sampled and ended with the rest, and waits until `ready()`.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from bench.errors import CellError, Unsupported, UsageError, unknown
from bench.services import cron, external, postgresql, rabbitmq, redis, temporal
from bench.services.contract import ServiceSpec
from bench.services.embedded import Server
from bench.services.options import Limits, Options

__all__ = [
    "EMBEDDED",
    "IMAGES",
    "NAMES",
    "PROVIDERS",
    "Limits",
    "Options",
    "Provision",
    "ServiceSpec",
    "available",
    "beside",
    "check",
    "choose",
    "port_taken",
    "prepare",
    "sweep",
]

PROVIDERS: Final = ("auto", "embedded", "containers", "external")


class _Elsewhere(Protocol):
    def __call__(self, name: str, *, claim: bool = True) -> ServiceSpec: ...


class _Service(NamedTuple):
    """`server` finds what `embedded` would start, without starting it; `image` is what `contained` runs."""

    server: Callable[[], Server] | None = None
    embedded: Callable[[Path], ServiceSpec] | None = None
    image: str = ""
    contained: Callable[[], ServiceSpec] | None = None
    external: _Elsewhere | None = None


_SERVICES: Final[Mapping[str, _Service]] = {
    "redis": _Service(redis.server, redis.embedded, "redis", redis.contained, redis.external),
    "postgresql": _Service(
        postgresql.server, postgresql.embedded, "postgresql", postgresql.contained, postgresql.external
    ),
    "postgresql-contrib": _Service(
        postgresql.server_with_contrib,
        postgresql.embedded_with_contrib,
        "postgresql",
        functools.partial(postgresql.contained, "postgresql-contrib"),  # the image has all modules
        postgresql.external,
    ),
    "rabbitmq": _Service(
        rabbitmq.server, rabbitmq.embedded, "rabbitmq", rabbitmq.contained, rabbitmq.external
    ),
    "temporal": _Service(temporal.server, temporal.in_memory, "temporal", temporal.contained_in_memory),
    "temporal-sqlite": _Service(temporal.server, temporal.on_file, "temporal", temporal.contained_on_file),
    "temporal-external": _Service(external=temporal.external),
    "cron": _Service(cron.server, cron.prepare),
}

NAMES: Final = tuple(_SERVICES)
IMAGES: Final = tuple(dict.fromkeys(service.image for service in _SERVICES.values() if service.image))
"""What containers are made from; limits are given by these names."""

EMBEDDED: Final = tuple(name for name, service in _SERVICES.items() if service.embedded)
"""Those that can be a process of the cell."""


@dataclass(frozen=True)
class Provision:
    """Who provides the services of a run, `embedded`, `containers` or `external`, and how they are held down.

    `owner` is the name of the harness (`Home.name`), after which it calls what it makes elsewhere.
    """

    provider: str = "embedded"
    options: Options = field(default_factory=Options)
    owner: str = "0-0"
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    def prepare(self, name: str, folder: Path) -> ServiceSpec:
        """Choose a free port and a password, and write what the service needs into `folder`.

        Another process may take the port before the service does. The service then exits, `port_taken` of
        its log is true, and calling this again, with the same folder, is the remedy. What is external is
        made here, and `drop()` takes it away again.

        Raises:
            UsageError: no service of that name.
            Unsupported: it cannot be had from this provider; says what to do.
            CellError: its data folder cannot be made, or a server elsewhere has gone.
        """
        service, provider = _known(name), self._of(name)
        if provider == "external" and service.external is not None:
            try:
                return service.external(external.own_name(self.owner, next(self._numbers)))
            except Unsupported as error:
                if self.provider == "external":  # it could be used when the run began
                    raise CellError(str(error)) from error
                raise
        if provider == "containers" and service.contained is not None:
            return service.contained()
        if provider == "embedded" and service.embedded is not None:
            return service.embedded(folder)
        raise Unsupported(_not_from(name, provider))

    def available(self, name: str) -> tuple[bool, str]:
        """Whether a service can be had from this provider: its version and whose it is, or what to do.

        Raises:
            UsageError: no service of that name.
        """
        service, provider = _known(name), self._of(name)
        try:
            if provider == "external" and service.external is not None:
                return True, f"{service.external('', claim=False).version} (external)"
            if provider == "containers" and service.contained is not None:
                from bench.services import engine  # loads the Docker SDK: only where containers are meant

                return True, engine.find(service.image).words
            if provider == "embedded" and service.server is not None:
                found = service.server()
                return True, f"{found.version} ({found.provider})"
        except Unsupported as error:
            return False, str(error)
        return False, _not_from(name, provider)

    def _of(self, name: str) -> str:
        """A service that only one provider has is from that one, whatever was chosen for the others."""
        service = _known(name)
        if not (service.contained or service.external):
            return "embedded"
        return self.provider if service.embedded or service.contained else "external"


def _not_from(name: str, provider: str) -> str:
    if provider == "external" and name.startswith("temporal"):
        return f"{name} is a development server: one that is already running is measured as temporal:external"
    return f"{name} cannot be had with --services {provider}"


def prepare(name: str, folder: Path) -> ServiceSpec:
    """Describe a service, embedded: as `Provision.prepare`."""
    return Provision().prepare(name, folder)


def available(name: str) -> tuple[bool, str]:
    """Whether a service can run here, embedded: as `Provision.available`."""
    return Provision().available(name)


@dataclass(frozen=True)
class Choice:
    """The provider that was chosen, and in words what and why."""

    provider: str
    words: str


def choose(asked: str, needed: Iterable[str], say: Callable[[str], None]) -> Choice:
    """The provider for a run that needs these services.

    `auto` takes containers where a Docker engine answers and has every image that is needed, and embedded
    servers else. `containers` fetches the images that are not here; `external` asks every server.

    Raises:
        UsageError: no such provider.
        Unsupported: containers were asked for, and there is no engine, or an image cannot be had; or a
            server elsewhere that is needed cannot be used.
    """
    if asked not in PROVIDERS:
        raise unknown("provider of services", asked, PROVIDERS)
    needed = list(needed)
    images = sorted({service.image for name in needed if (service := _known(name)).image})
    if asked == "external" and needed:
        return Choice("external", _of_others(needed))
    if asked in ("embedded", "external") or not images:
        return Choice("embedded" if asked == "auto" else asked, "")
    from bench.services import engine

    try:
        version = engine.version()
        found = [engine.find(image) if asked == "auto" else engine.fetch(image, say) for image in images]
    except Unsupported as error:
        if asked == "containers":
            raise
        return Choice("embedded", f"embedded, not in containers: {error}")
    told = ", ".join(image.words for image in found)
    return Choice("containers", f"in containers of Docker {version}: {told}")


def _of_others(needed: Iterable[str]) -> str:
    """What was found of the servers elsewhere, those left out that nobody else can have.

    Raises:
        Unsupported: one cannot be used.
    """
    asked = {name: Provision("external").available(name) for name in needed if _known(name).external}
    if failed := [found for fine, found in asked.values() if not fine]:
        raise Unsupported("; ".join(dict.fromkeys(failed)))
    return ", ".join(f"{name} {found}" for name, (_, found) in asked.items())


def beside() -> Iterator[tuple[str, bool, str]]:
    """What else than embedded services could be had here: `(what, whether, what was found or to be done)`."""
    from bench.services import engine

    try:
        yield "Docker engine", True, engine.version()
        for image in IMAGES:
            fine, found = Provision("containers").available(image)
            yield f"image of {image}", fine, found
    except Unsupported as error:
        yield "Docker engine", False, str(error)
    for name in ("redis", "postgresql", "rabbitmq", "temporal-external"):
        fine, found = Provision("external").available(name)
        yield f"{name.removesuffix('-external')} elsewhere", fine, found


def sweep(own: str = "") -> list[str]:
    """Remove the containers that killed harnesses left, and those of `own`; their names.

    Nothing where no Docker engine answers.
    """
    from bench.services import containers

    try:
        return containers.sweep(own)
    except Unsupported:
        return []


def check(provider: str, options: Options) -> None:
    """Raise UsageError for what can only be had in containers, and is asked of another provider."""
    if provider != "containers" and options:
        raise UsageError(f"--set {options.first} needs --services containers: these services are {provider}")


def port_taken(log: str) -> bool:
    """Whether the log of a service that has exited says that its port was in use.

    In the system's words, with or without a capital (all but Erlang), by the error's name (Erlang), or as the
    Docker engine puts it.
    """
    said = log.lower()
    words = (os.strerror(errno.EADDRINUSE).lower(), "eaddrinuse", "port is already allocated")
    return any(one in said for one in words)


def _known(name: str) -> _Service:
    if name not in _SERVICES:
        raise unknown("service", name, NAMES)
    return _SERVICES[name]
