"""RabbitMQ: the server that is installed on this machine. There is no wheel of it.

https://www.rabbitmq.com/docs/configure, https://www.rabbitmq.com/docs/networking
"""

from __future__ import annotations

import functools
import re
import shutil
import socket
import struct
from pathlib import Path
from typing import Final

from bench.errors import Unsupported
from bench.model import Role
from bench.services.embedded import (
    HOST,
    PROBE_LIMIT_S,
    Server,
    ServiceSpec,
    free_ports,
    password,
    write_secret,
)

PACKAGED: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""The script itself, in the packages of Debian and of the vendor: what they put on PATH changes the user."""

USER: Final = "schedbench"

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


def prepare(folder: Path) -> ServiceSpec:
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
    config = write_secret(folder / "rabbitmq.conf", f"default_user = {USER}\ndefault_pass = {secret}\n")
    write_secret(folder / ".erlang.cookie", password())  # Erlang derives its own from the clock
    node = f"schedbench-{port}@localhost"
    return ServiceSpec(
        name="rabbitmq",
        role=Role.BROKER,
        argv=(str(program.path),),
        address={
            "url": f"amqp://{USER}:{secret}@{HOST}:{port}/",
            "host": HOST,
            "port": port,
            "user": USER,
            "password": secret,
        },
        version=program.version,
        provider=program.provider,
        ready=functools.partial(_logs_in, port, secret),
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


def _logs_in(port: int, secret: str) -> bool:
    """Whether the server on `port` takes the password: AMQP 0-9-1 as far as the frame that follows a login.

    https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, 2.2.4 and 4.2.3.
    """
    login = f"\0{USER}\0{secret}".encode()
    arguments = struct.pack("!I6pI", 0, b"PLAIN", len(login)) + login + struct.pack("!6p", b"en_US")
    try:
        with socket.create_connection((HOST, port), timeout=PROBE_LIMIT_S) as peer:
            peer.sendall(b"AMQP" + bytes([0, 0, 9, 1]))
            if _method(peer) != START:
                return False
            peer.sendall(struct.pack("!BHIHH", 1, 0, 4 + len(arguments), *START_OK) + arguments + FRAME_END)
            return _method(peer) == TUNE
    except (OSError, struct.error):  # refused, reset or silent: not ready yet
        return False


def _method(peer: socket.socket) -> tuple[int, int]:
    """The class and method of the next frame."""
    with peer.makefile("rb") as answer:
        _, _, size = struct.unpack("!BHI", answer.read(7))
        method: tuple[int, int] = struct.unpack_from("!HH", answer.read(size + len(FRAME_END)))
        return method
