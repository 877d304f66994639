"""The services of one cell: each is started on a free port, says its version, and is taken away again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from bench import services
from bench.errors import CellError, ProcessDied, Unsupported
from bench.harness import deferred_signals
from bench.processes import Child, Group
from bench.services import Provision, ServiceSpec

READY_S = 60.0
ATTEMPTS = 3
"""A port that was free may be taken by the time that the service wants it."""


class Spawn(Protocol):
    """Starts a process of the cell, with more in its environment, and what it prints in a file."""

    def __call__(
        self, role: str, argv: list[str], *, extra: Mapping[str, str] | None, log: Path | None
    ) -> Child:
        """The process."""
        ...


class Serving:
    """What a cell's services are, and what becomes of them.

    `record` is what the cell's record says of each, by name. `until` looks at the cell until something is
    so, or raises after so many seconds.
    """

    def __init__(
        self,
        provision: Provision,
        group: Group,
        folder: Path,
        spawn: Spawn,
        until: Callable[[Callable[[], bool], float, str], None],
        progress: Callable[[str], None],
    ) -> None:
        self.record: dict[str, dict[str, Any]] = {}
        self._provision, self._group, self._folder = provision, group, folder
        self._spawn, self._until, self._progress = spawn, until, progress
        self._made: list[ServiceSpec] = []
        self._engine_ns: int | None = None

    def start(self, name: str, log_of: Callable[[str], Path]) -> dict[str, Any]:
        """Start a service, and again on another port if its was taken meanwhile; its address.

        Raises:
            CellError: it cannot be had, or does not say its version.
            CellTimeout: it is not ready in time.
            ProcessDied: it has exited.
        """
        for attempt in range(1, ATTEMPTS + 1):
            with deferred_signals():  # what is made elsewhere must be known before anything else happens
                service = self._provision.prepare(name, self._folder / name)
                self._made.append(service)
            self._progress(f"starting {name} {service.version}".strip())
            log = log_of(service.role)
            try:
                about = self._serve(service, log)
                self._until(service.ready, READY_S, f"waiting for {name}")
            except ProcessDied:
                taken = log.exists() and services.port_taken(log.read_text(errors="replace"))
                if attempt == ATTEMPTS or not taken:
                    raise
                for one in self._group.everything:
                    one.stopping |= one.log == log
                continue
            self.record[name] = {"version": _version(service), **about}
            return dict(service.address)
        raise AssertionError("unreachable")

    def _serve(self, service: ServiceSpec, log: Path) -> dict[str, Any]:
        """Start the process or the container of a service, if it has one; what the record says of it."""
        about: dict[str, Any] = {"provider": service.provider}
        if service.recipe is not None:
            from bench.services import engine  # loads the Docker SDK: only where containers are meant
            from bench.services.containers import Container

            if self._engine_ns is None:
                self._engine_ns = engine.cpu_ns()
            owner, options = self._provision.owner, self._provision.options
            limits = options.limits.get(service.recipe.image, services.Limits())
            name = f"schedbench-{owner}-{time.monotonic_ns()}"
            try:
                made = Container(service.role, service.recipe, name, owner, log, limits, options.rtt_ms)
            except Unsupported as error:  # it could be had when the run began
                raise CellError(str(error)) from error
            self._group.others.append(made)  # before it is started, or a Ctrl-C would leave it
            made.start()
            about |= {"image": made.image.reference, "stand_in": made.image.stand_in}
            about |= {"limits": limits.words, "rtt_ms": options.rtt_ms}
        elif service.argv:
            self._spawn(service.role, list(service.argv), extra=service.env, log=log)
        return about

    def remarks(self) -> Iterator[tuple[str, str]]:
        """What every figure of the cell should say of its services: `(what it is said of, words)`.

        Said of `all`, or only of the `resources` that processes here use.
        """
        for name, about in self.record.items():
            if about.get("stand_in"):
                yield "all", f"{name} came from a stand-in image"
            if about.get("limits"):
                yield "all", f"{name} was held to {about['limits']}"
            if about.get("rtt_ms"):
                yield "all", f"{about['rtt_ms']:g} ms of network delay to {name}"
            if about["provider"] == "external":
                yield "resources", f"a lower bound of what is used: {name} is elsewhere and not counted"

    def engine_used_ns(self) -> int:
        """What the Docker engine did for this cell: it is no part of a figure, and nobody else's doing."""
        if self._engine_ns is None:
            return 0
        from bench.services import engine

        return max(0, engine.cpu_ns() - self._engine_ns)

    def drop(self) -> list[str]:
        """Take away what was made on servers of others; what is said of that which stays."""
        left = []
        for service in self._made:
            try:
                service.drop()
            except Exception as error:  # noqa: BLE001 - of four client libraries; the rest must be ended too
                left.append(f"{service.name}: {type(error).__name__}: {error}")
        return left

    def without_secrets(self, text: str) -> str:
        """The text with every password of the services struck out."""
        for secret in filter(None, (service.secret for service in self._made)):
            for form in (secret, quote(secret, safe=""), quote(secret)):
                text = text.replace(form, "***")
        return text

    def strike_out(self, logs: Path) -> None:
        """Keep passwords out of the logs: some libraries write the URL that they were given."""
        for log in logs.glob("*.log"):
            text = log.read_text(errors="surrogateescape")
            if (clean := self.without_secrets(text)) != text:
                log.write_text(clean, errors="surrogateescape")


def _version(service: ServiceSpec) -> str:
    if service.ask_version is None:
        return service.version
    try:
        return service.ask_version()
    except Exception as error:
        raise CellError(f"{service.name} did not tell its version: {error}") from error
