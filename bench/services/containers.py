"""Services in containers, by testcontainers: images, one container of a cell, and a sweep of what was left.

Only here is the Docker engine spoken to. Every container carries the name of its harness as a label; those of
harnesses that are no longer alive are removed at the next start. testcontainers' own reaper is not used: it
is one more image and wants the engine's socket, and the labels are needed anyway where it cannot run.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import socket
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import docker
import psutil
import requests
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from bench import cgroups
from bench.errors import CellError, ProcessDied, Unsupported
from bench.harness import alive, here, started
from bench.services import netem
from bench.services.contract import Recipe
from bench.services.embedded import HOST
from bench.services.options import Limits

ENGINE_LIMIT_S: Final = 10
PULL_LIMIT_S: Final = 600
LOG_LINES: Final = 5
LOG_CHARACTERS: Final = 500

OWNER_LABEL: Final = "schedbench.harness"
WHERE_LABEL: Final = "schedbench.where"
STAND_IN_LABEL: Final = "schedbench.stand-in"
"""Of an image that docker/offline built: what it really has inside."""

UNREACHABLE: Final = (DockerException, requests.RequestException)
"""All that a call to the engine raises: it is not there, closed to this user, or refuses."""

testcontainers_config.ryuk_disabled = True


# --- images -----------------------------------------------------------------------------------------------


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


def engine() -> str:
    """The version of the Docker engine.

    Raises:
        Unsupported: none answers, or it is closed to this user; says what to do.
    """
    with _client() as client:
        return str(client.version()["Version"])


def find(name: str) -> Image:
    """The image of that name in `docker/images.toml`, if the engine has it.

    Raises:
        Unsupported: there is no engine, the image is not here, or another lies under its tag.
    """
    tag, digest = pinned()[name]["image"], pinned()[name]["digest"]
    reference = f"{tag}@{digest}"
    with _client() as client:
        with contextlib.suppress(ImageNotFound):
            return Image(reference, _id(client.images.get(f"{tag.partition(':')[0]}@{digest}")))
        try:
            found = client.images.get(tag)
        except ImageNotFound as error:
            raise Unsupported(
                f"no image {tag} here: `docker pull {reference}`, or without a registry docker/offline/build"
            ) from error
        if stand_in := (found.labels or {}).get(STAND_IN_LABEL):
            return Image(tag, _id(found), str(stand_in))
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
    except Unsupported as missing:
        tag, digest = pinned()[name]["image"], pinned()[name]["digest"]
        if not str(missing).startswith("no image"):
            raise
        say(f"pulling {tag}")
        try:
            with _client(PULL_LIMIT_S) as client:
                client.images.pull(tag.partition(":")[0], tag=digest)
        except (Unsupported, NotFound) as error:
            raise Unsupported(f"{missing} (pulling it failed: {_said(error)})") from error
        return find(name)


def _id(image: Any) -> str:
    return str(image.id)


@contextlib.contextmanager
def _client(limit_s: int = ENGINE_LIMIT_S) -> Iterator[docker.DockerClient]:
    """A session with the engine.

    Raises:
        Unsupported: what the engine, or the lack of one, says.
    """
    try:
        _knock()
        with contextlib.closing(docker.from_env(timeout=limit_s)) as client:
            yield client
    except NotFound:
        raise
    except (OSError, *UNREACHABLE) as error:
        raise Unsupported(_no_engine(error)) from error


def _knock() -> None:
    """Raise OSError if nobody answers at the engine's socket: its client would leak one of its own."""
    scheme, _, path = os.environ.get("DOCKER_HOST", DEFAULT_UNIX_SOCKET).partition("://")
    if scheme in ("unix", "http+unix"):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(ENGINE_LIMIT_S)
            peer.connect(path)


def _no_engine(error: Exception) -> str:
    said = _said(error)
    if "Permission denied" in said or "PermissionError" in said:
        return "the Docker engine is closed to this user: add them to the group docker, or run as root"
    if isinstance(error, APIError):
        return f"the Docker engine refuses: {said}"
    return "no Docker engine answers: start it, or use --services embedded"


def _said(error: Exception) -> str:
    told = getattr(error, "explanation", None) or str(error) or type(error).__name__
    return " ".join(str(told).split())[:LOG_CHARACTERS]


# --- a container of a cell ----------------------------------------------------------------------------------


class Container:
    """A service of a cell in a container. To the cell it is like one of its processes.

    The process that the engine runs for each published port is counted with it.
    """

    def __init__(
        self, role: str, recipe: Recipe, name: str, owner: str, log: Path, limits: Limits, rtt_ms: float
    ) -> None:
        self.role, self.log, self.stopping = role, log, False
        self.image = find(recipe.image)
        self._recipe, self._name, self._limits, self._rtt_ms = recipe, name, limits, rtt_ms
        self._labels = {OWNER_LABEL: owner, WHERE_LABEL: here()}
        self._docker: DockerContainer | None = None
        self._pid = 0
        self._group: cgroups.Group | None = None
        self._proxies: dict[psutil.Process, int] = {}
        self._used_ns = 0

    def start(self) -> None:
        """Create it, put its files inside, start it, and find its processes.

        Raises:
            ProcessDied: it cannot be started, or ended at once.
            Unsupported: its processes cannot be seen from here.
        """
        recipe = self._recipe
        try:
            made = DockerContainer(self.image.id, docker_client_kw={"timeout": ENGINE_LIMIT_S})
            self._docker = made
            made.with_name(self._name).with_envs(**recipe.env)
            if recipe.command:
                made.with_command(list(recipe.command))
            for path, text in recipe.files.items():
                made.with_copy_into_container(text.encode(), path, 0o644)
            for inside, outside in recipe.ports.items():
                made.ports[f"{inside}/tcp"] = (HOST, outside)  # type: ignore[assignment]  # docker takes a pair
            made.with_kwargs(labels=self._labels, **self._held_down())
            made.start()
            state = made.get_wrapped_container().attrs["State"]
            if not state.get("Pid"):
                made.reload()
                state = made.get_wrapped_container().attrs["State"]
        except UNREACHABLE as error:
            self.log.write_text(_said(error) + "\n")
            raise ProcessDied(
                f"the container of the {self.role} cannot be started: {_said(error)}"
            ) from error
        self._pid = int(state["Pid"])
        if not self._pid:
            raise ProcessDied(self.epitaph(f"the container of the {self.role}"))
        identity = made.get_container_id()
        self._group = cgroups.holding(self._pid, identity)
        if self._group is None:
            if self.ended():
                raise ProcessDied(self.epitaph(f"the container of the {self.role}"))
            raise Unsupported(
                "the processes of this engine's containers cannot be seen from here (an engine elsewhere, or "
                "schedbench itself in a container without --pid=host): use --services external or embedded"
            )
        self._proxies = dict.fromkeys(_proxies(recipe.ports.values()), 0)
        if self._rtt_ms:
            netem.delay(self._pid, self._rtt_ms)

    def _held_down(self) -> dict[str, Any]:
        held: dict[str, Any] = {}
        if self._limits.memory:  # with no swap beside it: what is swapped out is missing from every figure
            held |= {"mem_limit": self._limits.memory, "memswap_limit": self._limits.memory}
        if self._limits.cpus:
            held["nano_cpus"] = int(self._limits.cpus * 1e9)
        return held

    # -- looking

    def pids(self) -> list[int]:
        """Its processes now, as this machine numbers them, and those that serve its ports."""
        if self._group is None:
            return []
        return self._group.pids() + [proxy.pid for proxy in self._proxies if proxy.is_running()]

    def cpu_ns(self) -> int:
        """CPU time that it has used, in ns."""
        if self._group is not None:
            own_ns = 0
            with contextlib.suppress(OSError):  # it has ended, and its group is gone
                own_ns = self._group.cpu_ns()
            for proxy in self._proxies:
                with contextlib.suppress(psutil.Error):
                    self._proxies[proxy] = round(sum(proxy.cpu_times()[:2]) * 1e9)
            self._used_ns = max(self._used_ns, own_ns + sum(self._proxies.values()))
        return self._used_ns

    def ended(self) -> bool:
        """Whether its first process has exited."""
        return self._pid > 0 and not started(self._pid)

    def last_lines(self) -> str:
        """The end of its log, on one line, without its password."""
        self._save_log()
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
        lines = [line.strip() for line in plain.splitlines() if line.strip()]
        return " | ".join(lines[-LOG_LINES:])[-LOG_CHARACTERS:]

    def epitaph(self, name: str) -> str:
        """How it ended, and what it said last."""
        status = "a status that the engine does not tell"
        with contextlib.suppress(*UNREACHABLE, RuntimeError):
            if self._docker is not None:
                wrapped = self._docker.get_wrapped_container()
                wrapped.reload()
                state = wrapped.attrs["State"]
                status = f"status {state['ExitCode']}" + (", out of memory" if state["OOMKilled"] else "")
        return f"{name} exited with {status}; its last lines: {self.last_lines() or '(none)'}"

    def _save_log(self) -> None:
        with contextlib.suppress(*UNREACHABLE, RuntimeError):
            if self._docker is not None:
                self.log.write_bytes(self._docker.get_wrapped_container().logs())

    # -- ending

    def remove(self) -> None:
        """Keep its log, then end it and take it away with its disk, by name where it never got so far.

        Raises:
            CellError: the engine does not do it; the next start of schedbench tries again.
        """
        self._save_log()
        try:
            with _client() as client, contextlib.suppress(NotFound):
                client.containers.get(self._name).remove(force=True, v=True)
        except Unsupported as error:
            raise CellError(f"the container {self._name} was left: {error}") from error
        finally:
            if self._docker is not None:
                self._docker.get_docker_client().client.close()


def _proxies(ports: Any) -> Iterator[psutil.Process]:
    """The engine's processes that pass on what comes in at these ports; it may have none."""
    wanted = {str(port) for port in ports}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            its = dict(itertools.pairwise(words)).get("-host-port")
            if words and words[0].endswith("docker-proxy") and its in wanted:
                yield process


# --- what was left ------------------------------------------------------------------------------------------


def sweep(own: str = "") -> list[str]:
    """Remove the containers of harnesses that are no longer alive, and those of `own`; their names.

    Whether a harness of another place is alive is not known: of those, what has exited goes (this machine may
    have been started anew), and what runs stays.

    Raises:
        Unsupported: no engine answers.
    """
    removed = []
    with _client() as client:
        for found in client.containers.list(all=True, filters={"label": [OWNER_LABEL, WHERE_LABEL]}):
            owner, is_here = found.labels[OWNER_LABEL], found.labels[WHERE_LABEL] == here()
            if owner == own or (not alive(owner) if is_here else found.status == "exited"):
                with contextlib.suppress(NotFound):  # another harness that starts now was faster
                    found.remove(force=True, v=True)
                    removed.append(str(found.name))
    return removed
