"""A service of a cell in a container, by testcontainers, and a sweep of what was left.

Every container carries the name of its harness as a label; those of harnesses that are no longer alive are
removed at the next start. testcontainers' own reaper is not used: it is one more image and wants the engine's
socket, and the labels are needed anyway where it cannot run.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
from docker.errors import NotFound
from testcontainers.core.container import DockerContainer

from bench import cgroups
from bench.errors import CellError, ProcessDied, Unsupported
from bench.harness import alive, here, started
from bench.processes import last_lines
from bench.services import engine, netem
from bench.services.contract import Recipe
from bench.services.embedded import HOST
from bench.services.options import Limits

OWNER_LABEL: Final = "schedbench.harness"
WHERE_LABEL: Final = "schedbench.where"


class Container:
    """A service of a cell in a container. To the cell it is like one of its processes.

    The process that the engine runs for each published port is counted with it.
    """

    def __init__(
        self, role: str, recipe: Recipe, name: str, owner: str, log: Path, limits: Limits, rtt_ms: float
    ) -> None:
        self.role, self.log, self.stopping = role, log, False
        self.image = engine.find(recipe.image)
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
            CellError: its processes cannot be seen from here.
            Unsupported: no network delay can be set here.
        """
        recipe = self._recipe
        try:
            made = DockerContainer(self.image.id, docker_client_kw={"timeout": engine.LIMIT_S})
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
        except engine.FAILURES as error:
            self.log.write_text(engine.said(error) + "\n")
            raise ProcessDied(
                f"the container of the {self.role} cannot be started: {engine.said(error)}"
            ) from error
        self._pid = int(state["Pid"])
        if not self._pid:
            raise ProcessDied(self.epitaph(f"the container of the {self.role}"))
        identity = made.get_container_id()
        self._group = cgroups.holding(self._pid, identity)
        if self._group is None:
            if self.ended():
                raise ProcessDied(self.epitaph(f"the container of the {self.role}"))
            raise CellError("the processes of this Docker engine's containers cannot be seen from here")
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
        """The end of its log, on one line."""
        self._save_log()
        return last_lines(self.log) if self.log.exists() else ""

    def epitaph(self, name: str) -> str:
        """How it ended, and what it said last."""
        status = "a status that the engine does not tell"
        with contextlib.suppress(*engine.FAILURES, RuntimeError):
            if self._docker is not None:
                wrapped = self._docker.get_wrapped_container()
                wrapped.reload()
                state = wrapped.attrs["State"]
                status = f"status {state['ExitCode']}" + (", out of memory" if state["OOMKilled"] else "")
        return f"{name} exited with {status}; its last lines: {self.last_lines() or '(none)'}"

    def _save_log(self) -> None:
        """Keep what the container said; a full disk must not keep it from being removed."""
        with contextlib.suppress(*engine.FAILURES, RuntimeError):
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
            with engine.session() as client, contextlib.suppress(NotFound):
                client.containers.get(self._name).remove(force=True, v=True)
        except Unsupported as error:
            raise CellError(f"the container {self._name} was left: {error}") from error
        finally:
            if self._docker is not None:
                self._docker.get_docker_client().client.close()


def _proxies(ports: Iterable[int]) -> Iterator[psutil.Process]:
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
    labelled: dict[str, Any] = {"label": [OWNER_LABEL, WHERE_LABEL]}
    with engine.session() as client:
        for found in client.containers.list(all=True, ignore_removed=True, filters=labelled):
            owner, is_here = found.labels[OWNER_LABEL], found.labels[WHERE_LABEL] == here()
            if owner == own or (not alive(owner) if is_here else found.status == "exited"):
                with contextlib.suppress(NotFound):  # another harness that starts now was faster
                    found.remove(force=True, v=True)
                    removed.append(str(found.name))
    return removed
