"""The Docker engine of this machine and its images: whether they are here, and how they are fetched."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import struct
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import docker
import psutil
import requests
import urllib3.exceptions
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from testcontainers.core.config import testcontainers_config
from testcontainers.core.docker_client import get_docker_host

from bench.errors import Unsupported

LIMIT_S: Final = 10
PULL_LIMIT_S: Final = 600
CHARACTERS: Final = 500

STAND_IN_LABEL: Final = "schedbench.stand-in"
"""Of an image that docker/offline built: what it really has inside."""

PROCESSES: Final = ("dockerd", "containerd")
"""How the names of the engine's own processes begin."""

FAILURES: Final = (
    OSError,
    DockerException,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
)
"""All that a call to the engine raises: it is not there, closed to this user, goes away, or refuses."""

# testcontainers and the Docker SDK look for the engine in different places: here the first decides for both.
if _host := get_docker_host():
    os.environ["DOCKER_HOST"] = _host
testcontainers_config.ryuk_disabled = True
testcontainers_config.hub_image_name_prefix = ""


class ImageMissing(Unsupported):
    """The engine has no image of that tag: it could be fetched."""


@dataclass(frozen=True)
class Image:
    """An image of this engine. `stand_in` says what it has inside where it is not the vendor's."""

    reference: str
    id: str
    stand_in: str = ""

    @property
    def words(self) -> str:
        """Such as `redis:8.2.1` or `redis:8.2.1 (stand-in: Debian's redis-server)`."""
        tag = self.reference.partition("@")[0]
        return f"{tag} (stand-in: {self.stand_in})" if self.stand_in else tag


@functools.cache
def pinned() -> dict[str, dict[str, str]]:
    """Tag and digest of every image: `docker/images.toml` of a checkout, or as it came with the wheel."""
    checkout = Path(__file__).resolve().parents[2] / "docker" / "images.toml"
    path = checkout if checkout.exists() else Path(__file__).with_name("images.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def version() -> str:
    """The version of the engine.

    Raises:
        Unsupported: none answers, it is closed to this user, or its processes cannot be seen from here.
    """
    with session() as client:
        if not _is_here():
            raise Unsupported(
                "the processes of this Docker engine cannot be seen from here (it is on another machine, or "
                "schedbench is in a container without --pid=host): use --services embedded or external"
            )
        return str(client.version()["Version"])


def cpu_ns() -> int:
    """CPU time in ns that the engine has used so far, with that of its processes that have ended."""
    used_s = 0.0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name().startswith(PROCESSES):
                used_s += sum(process.cpu_times()[:4])
    return round(used_s * 1e9)


def find(name: str) -> Image:
    """The image of that name in `docker/images.toml`, if the engine has it.

    Raises:
        ImageMissing: it is not here.
        Unsupported: there is no engine, or another image lies under its tag.
    """
    tag, digest = pinned()[name]["image"], pinned()[name]["digest"]
    reference = f"{tag}@{digest}"
    with session() as client:
        with contextlib.suppress(ImageNotFound):
            return Image(reference, str(client.images.get(f"{tag.rpartition(':')[0]}@{digest}").id))
        try:
            found = client.images.get(tag)
        except ImageNotFound as error:
            raise ImageMissing(
                f"no image {tag} here: `docker pull {reference}`, or without a registry docker/offline/build"
            ) from error
        if stand_in := (found.labels or {}).get(STAND_IN_LABEL):
            return Image(tag, str(found.id), str(stand_in))
        raise Unsupported(
            f"the image {tag} here is another one than docker/images.toml pins: `docker pull {reference}`"
        )


def fetch(name: str, say: Callable[[str], None]) -> Image:
    """As `find`, from its registry where the engine does not have it.

    Raises:
        Unsupported: it cannot be had.
    """
    try:
        return find(name)
    except ImageMissing as missing:
        tag, digest = pinned()[name]["image"], pinned()[name]["digest"]
        say(f"pulling {tag}")
        try:
            with session(PULL_LIMIT_S) as client:
                # Of what goes wrong once it has begun to answer, the engine tells in its answer.
                lines = client.api.pull(tag.rpartition(":")[0], tag=digest).splitlines()
                failed = [told["error"] for line in lines if "error" in (told := json.loads(line))]
        except (Unsupported, NotFound) as error:
            failed = [said(error)]
        if failed:
            raise Unsupported(f"{missing} (pulling it failed: {failed[0]})") from missing
        return find(name)


@contextlib.contextmanager
def session(limit_s: int = LIMIT_S) -> Iterator[docker.DockerClient]:
    """A client of the engine. What is not found is raised as it is.

    Raises:
        Unsupported: what the engine, or the lack of one, says.
    """
    try:
        _knock()
        with contextlib.closing(docker.from_env(timeout=limit_s)) as client:
            yield client
    except NotFound:
        raise
    except FAILURES as error:
        raise Unsupported(_why(error)) from error


def said(error: Exception) -> str:
    """What the engine says, on one line."""
    told = getattr(error, "explanation", None) or str(error) or type(error).__name__
    return " ".join(str(told).split())[:CHARACTERS]


def _knock() -> int:
    """The pid behind the engine's socket, 0 where it is not in sight.

    Asked before its own client is made, which leaks a socket where nobody answers.

    Raises:
        OSError: nobody answers.
    """
    scheme, _, path = os.environ.get("DOCKER_HOST", DEFAULT_UNIX_SOCKET).partition("://")
    if scheme not in ("unix", "http+unix"):
        return 0
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(LIMIT_S)
        peer.connect(path)
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", credentials)[0]
        return pid


def _is_here() -> bool:
    return _knock() > 0


def _why(error: Exception) -> str:
    words = said(error)
    if isinstance(error, PermissionError) or "Permission denied" in words:
        return "the Docker engine is closed to this user: add them to the group docker, or run as root"
    if isinstance(error, APIError):
        return f"the Docker engine refuses: {words}"
    return "no Docker engine answers: start it, or use --services embedded"
