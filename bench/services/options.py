"""What services in containers are held to: `services.redis.memory=256m`, `...cpus=1`, `net.rtt_ms=2`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from bench.errors import UsageError, unknown

PREFIXES: Final = ("services.", "net.")
MOST_RTT_MS: Final = 100
SIZE: Final = re.compile(r"[1-9][0-9]*[bkmg]?")
"""As the Docker engine takes it: a whole number of bytes, KiB, MiB or GiB."""


@dataclass(frozen=True)
class Limits:
    """Of one container: memory as text (`256m`), CPUs as a number; none where empty or 0."""

    memory: str = ""
    cpus: float = 0.0

    @property
    def words(self) -> str:
        """Such as `memory 256m, 0.5 CPUs`."""
        told = [f"memory {self.memory}"] if self.memory else []
        return ", ".join(told + ([f"{self.cpus:g} CPUs"] if self.cpus else []))


@dataclass(frozen=True)
class Options:
    """Limits by service, and the delay that its network adds to every round trip."""

    limits: Mapping[str, Limits] = field(default_factory=dict)
    rtt_ms: float = 0.0
    first: str = ""
    """The first that was given, for a message."""

    def __bool__(self) -> bool:
        return bool(self.limits or self.rtt_ms)


def parse(words: Iterable[str], services: Iterable[str]) -> tuple[Options, tuple[str, ...]]:
    """The options among `--set` words, and the words that are none.

    Raises:
        UsageError: an unknown service or option, or a value that is none.
    """
    options, rest = Options(), []
    for word in words:
        if not word.startswith(PREFIXES):
            rest.append(word)
            continue
        key, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"--set {word!r}: give {key}=VALUE")
        options = replace(_with(options, key, text, list(services)), first=options.first or key)
    return options, tuple(rest)


def _with(options: Options, key: str, text: str, services: list[str]) -> Options:
    if key == "net.rtt_ms":
        rtt_ms = _number(key, text)
        if rtt_ms > MOST_RTT_MS:
            raise UsageError(f"--set {key}={text}: at most {MOST_RTT_MS}, or no service would look ready")
        return replace(options, rtt_ms=rtt_ms)
    place, _, what = key.rpartition(".")
    if place == "net" or what not in ("memory", "cpus"):
        raise unknown("option", key, ["net.rtt_ms", "services.NAME.cpus", "services.NAME.memory"])
    name = place.removeprefix("services.")
    if name not in services:
        raise unknown("service", name, services)
    limits = options.limits.get(name, Limits())
    if what == "cpus":
        limits = replace(limits, cpus=_number(key, text))
    elif SIZE.fullmatch(text):
        limits = replace(limits, memory=text)
    else:
        raise UsageError(f"--set {key}={text}: give a size such as 256m or 1g")
    return replace(options, limits={**options.limits, name: limits})


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(f"--set {key}={text}: not a number") from error
    if not 0 < value < math.inf:
        raise UsageError(f"--set {key}={text}: must be above 0")
    return value
