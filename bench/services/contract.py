"""What a service is to a cell: a process, a container or a part of somebody else's server; its address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.model import Role


def nothing() -> None:
    """What there is to undo where nothing was made."""


@dataclass(frozen=True)
class Recipe:
    """A service in a container, beside what its image does by itself.

    `image` is its name in `docker/images.toml`. `ports` maps those that it serves on inside to free ones of
    127.0.0.1. `files` are put inside by their path there, readable by everybody in there; they may hold
    secrets, the rest never does.
    """

    image: str
    ports: Mapping[int, int]
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class ServiceSpec:
    """How to start a service that is all a cell's own, and how to reach it.

    `address` is what `Context.services` gives to adapters (`url`, `host`, `port`); it and `env`, which the
    process gets beside what the cell's processes get, may hold secrets, `argv` and `repr` never do; the
    `secret` itself is for striking it out of logs. With a `recipe` it runs in a container; with neither that
    nor an `argv` there is nothing to start: the adapter does, or it is somebody else's, and `drop` takes away
    again what was made there. `provider` says whose server it is: `embedded` (from a wheel), `path` (this
    machine's own), `container` or `external`. `ready` tries once, for a moment, whether the service answers,
    and never raises. `ask_version`, where only the server knows its version, is for a ready one.
    """

    name: str
    role: Role
    argv: tuple[str, ...]
    address: Mapping[str, str | int] = field(repr=False)
    version: str
    provider: str
    ready: Callable[[], bool] = field(repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str = field(default="", repr=False)
    recipe: Recipe | None = None
    drop: Callable[[], None] = field(default=nothing, repr=False)
    ask_version: Callable[[], str] | None = field(default=None, repr=False)
