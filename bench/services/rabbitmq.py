"""RabbitMQ: as it is installed on this machine (there is no wheel of it), in a container, or elsewhere.

https://www.rabbitmq.com/docs/configure, https://www.rabbitmq.com/docs/networking,
https://www.rabbitmq.com/docs/http-api-reference, https://hub.docker.com/_/rabbitmq
"""

from __future__ import annotations

import base64
import functools
import http.client
import json
import os
import re
import shutil
import socket
import struct
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from bench.errors import Unsupported
from bench.model import Role
from bench.services import external as elsewhere
from bench.services.contract import Recipe, ServiceSpec
from bench.services.embedded import (
    HOST,
    PROBE_LIMIT_S,
    Server,
    free_ports,
    password,
    write_secret,
)

PACKAGED: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""The script itself, in the packages of Debian and of the vendor: what they put on PATH changes the user."""

USER: Final = "schedbench"
PORT: Final = 5672
CONFIG: Final = "/etc/rabbitmq/conf.d/90-schedbench.conf"

URL_VARIABLE: Final = "SCHEDBENCH_AMQP_URL"
API_VARIABLE: Final = "SCHEDBENCH_AMQP_API"
API_PORT: Final = 15672

START: Final = (10, 10)
START_OK: Final = (10, 11)
TUNE: Final = (10, 30)
FRAME_END: Final = b"\xce"


def server() -> Server:
    """The `rabbitmq-server` on PATH, else the packaged one; the version is that of its application.

    Raises:
        Unsupported: there is none.
    """
    found = [Path(on_path)] if (on_path := shutil.which("rabbitmq-server")) is not None else []
    for path in [*found, PACKAGED]:
        for application in (path.resolve().parent.parent / "plugins").glob("rabbit-*"):
            if match := re.match(r"rabbit-(\d+(?:\.\d+)*)", application.name):
                return Server(path, match[1], "path")
    raise Unsupported("no rabbitmq-server: install Debian's rabbitmq-server, or put one on PATH")


def embedded(folder: Path) -> ServiceSpec:
    """A RabbitMQ node of its own in `folder`: free ports of 127.0.0.1, random password, no plugins.

    Else the vendor's defaults; no file below `/etc` is read. The node is given its name and the port for
    other nodes on Erlang's command line, so that it never looks for, or starts, the port mapper `epmd`,
    a daemon that would be shared with everything on this machine and outlive the node.

    Raises:
        Unsupported: as `server`.
    """
    program = server()
    (port, nodes_port), secret = free_ports(2), password()
    folder = folder.absolute()
    config = write_secret(folder / "rabbitmq.conf", _login(secret))
    write_secret(folder / ".erlang.cookie", password())  # Erlang derives its own from the clock
    node = f"schedbench-{port}@localhost"
    return ServiceSpec(
        name="rabbitmq",
        role=Role.BROKER,
        argv=(str(program.path),),
        address=_address(HOST, port, USER, secret),
        version=program.version,
        provider=program.provider,
        ready=functools.partial(_logs_in, HOST, port, USER, secret),
        secret=secret,
        env={
            "HOME": str(folder),  # where the cookie is
            "RABBITMQ_NODENAME": node,
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"-sname {node} -start_epmd false -erl_epmd_port {nodes_port} "
                f"-kernel inet_dist_use_interface {{{HOST.replace('.', ',')}}}"
            ),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            # Below are files that do not exist: those of /etc must not be read in their stead.
            "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        },
    )


def contained() -> ServiceSpec:
    """A RabbitMQ node of its own in a container: random password, else what its image does."""
    (port,), secret = free_ports(1), password()
    return ServiceSpec(
        name="rabbitmq",
        role=Role.BROKER,
        argv=(),
        address=_address(HOST, port, USER, secret),
        version="",
        provider="container",
        ready=functools.partial(_logs_in, HOST, port, USER, secret),
        secret=secret,
        recipe=Recipe(image="rabbitmq", ports={PORT: port}, files={CONFIG: _login(secret)}),
        ask_version=functools.partial(_version, HOST, port),
    )


def _login(secret: str) -> str:
    return f"default_user = {USER}\ndefault_pass = {secret}\n"


def _address(host: str, port: int, user: str, secret: str, vhost: str = "") -> dict[str, str | int]:
    login = f"{quote(user, safe='')}:{quote(secret, safe='')}"
    return {
        "url": f"amqp://{login}@{host}:{port}/{quote(vhost, safe='')}",
        "host": host,
        "port": port,
        "user": user,
        "password": secret,
    }


def _version(host: str, port: int) -> str:
    """What the server says of itself, in the first frame that it sends."""
    with socket.create_connection((host, port), timeout=PROBE_LIMIT_S) as peer:
        peer.sendall(b"AMQP" + bytes([0, 0, 9, 1]))
        found = re.search(rb"\x07versionS(.{4})([0-9.]+)", _frame(peer), re.DOTALL)
        return found[2].decode() if found else ""


def _logs_in(host: str, port: int, user: str, secret: str) -> bool:
    """Whether the server takes the password: AMQP 0-9-1 as far as the frame that follows a login.

    https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, 2.2.4 and 4.2.3.
    """
    login = f"\0{user}\0{secret}".encode()
    arguments = struct.pack("!I6pI", 0, b"PLAIN", len(login)) + login + struct.pack("!6p", b"en_US")
    try:
        with socket.create_connection((host, port), timeout=PROBE_LIMIT_S) as peer:
            peer.sendall(b"AMQP" + bytes([0, 0, 9, 1]))
            if _method(_frame(peer)) != START:
                return False
            peer.sendall(struct.pack("!BHIHH", 1, 0, 4 + len(arguments), *START_OK) + arguments + FRAME_END)
            return _method(_frame(peer)) == TUNE
    except (OSError, struct.error):  # refused, reset or silent: not ready yet
        return False


def _frame(peer: socket.socket) -> bytes:
    """The payload of the next frame."""
    with peer.makefile("rb") as answer:
        _, _, size = struct.unpack("!BHI", answer.read(7))
        return answer.read(size + len(FRAME_END))[:size]


def _method(frame: bytes) -> tuple[int, int]:
    """The class and method of a frame."""
    method: tuple[int, int] = struct.unpack_from("!HH", frame)
    return method


# --- a server elsewhere ---------------------------------------------------------------------------------


def external(name: str, *, claim: bool = True) -> ServiceSpec:
    """A new virtual host called `name` on the server at `$SCHEDBENCH_AMQP_URL`; `drop` takes it away again.

    AMQP cannot make one: that goes over the management plugin's HTTP API, at `$SCHEDBENCH_AMQP_API` or port
    15672 of the same host. Those that cells of dead harnesses had made go as well, and nothing else. Without
    `claim` nothing is made.

    Raises:
        Unsupported: no URL is set, nothing answers there, or the user may not make a virtual host.
    """
    parts = urlsplit(elsewhere.url(URL_VARIABLE, "amqp", PORT))
    user, secret = unquote(parts.username or "guest"), unquote(parts.password or "guest")
    host, port = str(parts.hostname), parts.port or PORT
    api = f"http://{host}:{API_PORT}"
    if os.environ.get(API_VARIABLE):
        api = elsewhere.url(API_VARIABLE, "http", API_PORT)
    place = urlsplit(api)

    def call(method: str, path: str, body: object = None) -> Any:
        return _call(str(place.hostname), place.port or API_PORT, user, secret, method, path, body)

    try:
        version = call("GET", "/api/overview")["rabbitmq_version"]
        if "administrator" not in call("GET", "/api/whoami")["tags"]:
            raise Unsupported(
                f"the user of ${URL_VARIABLE} may not make a virtual host, and only a new one is used: "
                "rabbitmqctl set_user_tags USER administrator"
            )
        if claim:
            for left in call("GET", "/api/vhosts?columns=name"):
                if elsewhere.orphaned(left["name"]):
                    call("DELETE", f"/api/vhosts/{left['name']}")
            call("PUT", f"/api/vhosts/{name}", {})
            every = {"configure": ".*", "write": ".*", "read": ".*"}
            try:
                call("PUT", f"/api/permissions/{name}/{quote(user, safe='')}", every)
            except OSError:
                call("DELETE", f"/api/vhosts/{name}")
                raise
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        what = f"RabbitMQ management API at {place.hostname}:{place.port or API_PORT}"
        raise Unsupported(
            elsewhere.no_answer(what, URL_VARIABLE, error, secret)
            + f" or ${API_VARIABLE} (the plugin: rabbitmq-plugins enable rabbitmq_management)"
        ) from error

    def drop() -> None:
        call("DELETE", f"/api/vhosts/{name}")

    return ServiceSpec(
        name="rabbitmq",
        role=Role.BROKER,
        argv=(),
        address=_address(host, port, user, secret, name),
        version=version,
        provider="external",
        ready=functools.partial(_logs_in, host, port, user, secret),
        secret=secret,
        drop=drop,
    )


def _call(host: str, port: int, user: str, secret: str, method: str, path: str, body: object) -> Any:
    """One request to the management API; what it answers, from JSON.

    Raises:
        OSError: it does not answer, or not with success.
    """
    headers = {"Authorization": f"Basic {base64.b64encode(f'{user}:{secret}'.encode()).decode()}"}
    sent = None if body is None else json.dumps(body)
    if sent is not None:
        headers["Content-Type"] = "application/json"
    peer = http.client.HTTPConnection(host, port, timeout=elsewhere.LIMIT_S)
    try:
        peer.request(method, path, sent, headers)
        answer = peer.getresponse()
        text = answer.read()
        if not 200 <= answer.status < 300:
            raise OSError(
                f"{method} {path.partition('?')[0]} was answered with {answer.status} {answer.reason}"
            )
        return json.loads(text) if text else None
    finally:
        peer.close()
