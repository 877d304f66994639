"""Servers that are already there: a cell gets a part of its own, and nothing else there is touched.

The servers are real ones of this machine, started as embedded services and filled with what is not ours.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from bench import services
from bench.errors import Unsupported
from bench.harness import here
from bench.model import Arrival, Load, Metric, Phase, Status, Variant
from bench.scenario import History, Phases, Scenario
from bench.services import Provision, ServiceSpec, embedded, external, postgresql, rabbitmq, temporal
from bench.services import redis as redis_service
from tests.conftest import Command, OneCell
from tests.test_services import started, until_ready

DEAD = f"schedbench_{here()}_999999999_1_7"
"""What a cell of a harness that is no longer alive would have made."""


class Some(Scenario):
    """A few tasks."""

    title = "some"
    parameters = {}
    profiles = {}

    def seconds(self, params: Any) -> float:
        return 1

    def phases(self, params: Any, variant: Variant) -> Phases:
        yield Phase("load", Load(10, Arrival.CONSTANT, 50.0))

    def metrics(self, history: History, params: Any) -> Iterator[Metric]:
        yield Metric("throughput", "tasks/s", 1.0, 1)
        yield Metric("idle_pss.total", "MB", 1.0, 1)


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[ServiceSpec]:
    available, reason = services.available(name)
    if not available:
        pytest.skip(reason)
    spec = Provision().prepare(name, folder / name)
    with started(spec, folder / "log"):
        until_ready(spec)
        yield spec


def ran(one_cell: OneCell, word: str) -> Any:
    result = one_cell(word, Some(), provision=Provision("external", owner=one_cell.home.name))
    assert (result.status, result.reason) == (Status.OK, "")
    assert "left_behind" not in result.details
    (about,) = result.details["services"].values()
    assert about["provider"] == "external"
    notes = {metric.name: metric.note for metric in result.metrics}
    assert "elsewhere and not counted" in notes["idle_pss.total"]
    assert "elsewhere" not in notes["throughput"]
    return result


# --- Redis -----------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceSpec]:
    """A Redis with a password, whose URL is in the environment."""
    with running("redis", tmp_path) as spec:
        monkeypatch.setenv(redis_service.URL_VARIABLE, str(spec.address["url"]).removesuffix("/0") + "/15")
        yield spec


def at(spec: ServiceSpec, number: int) -> redis.Redis:
    return redis.Redis.from_url(str(spec.address["url"]).replace("/0", f"/{number}"), decode_responses=True)


@pytest.mark.parametrize("word", ["celery:redis", "rq:redis", "dramatiq:redis"])
def test_foreign_keys_are_exactly_what_is_there_afterwards(
    server: ServiceSpec, one_cell: OneCell, word: str
) -> None:
    with redis.Redis.from_url(str(server.address["url"])) as first:
        first.mset({"celery": "not ours", "rq:queues": "not ours", "dramatiq:default": "not ours"})
    with at(server, 14) as other:
        other.set("schedbench:claim", "somebody who is called like us")
    before = raw(server)
    ran(one_cell, word)
    assert raw(server) == before


def raw(spec: ServiceSpec) -> dict[int, dict[bytes, bytes]]:
    """Every key of every database, and what it holds."""
    found: dict[int, dict[bytes, bytes]] = {}
    for number in range(16):
        url = str(spec.address["url"]).removesuffix("/0") + f"/{number}"
        with redis.Redis.from_url(url) as client:
            found[number] = {key: client.dump(key) for key in client.scan_iter()}  # type: ignore[misc]
    return found


def test_a_database_that_a_dead_harness_left_is_used_again_and_that_of_a_live_one_is_not(
    server: ServiceSpec, one_cell: OneCell
) -> None:
    first, second = (external.own_name(one_cell.home.name, number) for number in (1, 2))
    with at(server, 15) as client:
        client.mset({"schedbench:claim": DEAD, "left": "behind"})
        assert redis_service.external("", claim=False).version == server.version
        assert client.dbsize() == 2  # looking leaves everything as it is
        spec = redis_service.external(first)
        assert spec.ready()
        assert client.keys() == ["schedbench:claim"]
        with pytest.raises(Unsupported, match=r"database 15 of .* holds keys of others"):
            redis_service.external(second)
        client.set("schedbench:claim", "taken over by another")
        spec.drop()
        assert client.dbsize() == 1
        client.set("schedbench:claim", first)
        spec.drop()
        assert client.dbsize() == 0


def test_a_claim_is_lost_to_whoever_was_faster(
    server: ServiceSpec, one_cell: OneCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another harness takes the database between the look and the claim: nothing of its is touched."""
    real = redis_service._free

    def slow(peer: redis.Redis) -> bool:
        free = real(peer)
        with at(server, 15) as other:
            other.mset({"schedbench:claim": "the faster one", "its": "data"})
        return free

    monkeypatch.setattr(redis_service, "_free", slow)
    with pytest.raises(Unsupported, match="holds keys of others"):
        redis_service.external(external.own_name(one_cell.home.name, 1))
    with at(server, 15) as client:
        assert client.mget("schedbench:claim", "its") == ["the faster one", "data"]


def test_only_an_empty_database_is_used_and_only_one_that_is_named(
    server: ServiceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at(server, 15) as client:
        client.set("foreign", "1")
    before = raw(server)
    with pytest.raises(Unsupported, match=r"database 15 of .* holds keys of others, and only an"):
        redis_service.external("x")
    assert raw(server) == before
    monkeypatch.setenv(redis_service.URL_VARIABLE, os.environ[redis_service.URL_VARIABLE].removesuffix("/15"))
    with pytest.raises(Unsupported, match="must end with the number of a database that nobody else uses"):
        redis_service.external("x")
    assert raw(server) == before


def test_the_password_is_in_no_message(server: ServiceSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = server.secret
    monkeypatch.setenv(
        redis_service.URL_VARIABLE, f"redis://:{secret}x@127.0.0.1:{server.address['port']}/15"
    )
    with pytest.raises(Unsupported) as caught:
        redis_service.external("x")
    assert secret not in str(caught.value)
    assert "no Redis can be used at $SCHEDBENCH_REDIS_URL" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", r"^set \$SCHEDBENCH_REDIS_URL to redis://USER:PASSWORD@HOST:6379$"),
        ("rediss://h", r"without TLS: it begins with rediss://$"),
        ("somewhere", r"it is no URL$"),
        ("redis://h:port", r"it is no URL$"),
        ("redis://127.0.0.1:1/0", r"^no Redis can be used at \$SCHEDBENCH_REDIS_URL \(.*refused"),
    ],
)
def test_an_address_that_is_none_says_what_to_do(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(redis_service.URL_VARIABLE, url)
    with pytest.raises(Unsupported, match=message):
        redis_service.external("x")


def test_a_run_on_a_server_elsewhere_keeps_its_password_to_itself(
    server: ServiceSpec, schedbench: Command
) -> None:
    done = schedbench(
        "run", "celery:redis", "--scenario", "startup", "--trials", "1", "--services", "external"
    )
    assert done.returncode == 0, done.stderr
    for path in (schedbench.folder / "results").rglob("*"):
        if path.is_file():
            assert server.secret.encode() not in path.read_bytes(), path
    assert server.secret not in done.stdout + done.stderr


def test_a_run_without_an_address_says_what_to_set(schedbench: Command) -> None:
    done = schedbench("run", "rq", "--scenario", "startup", "--trials", "1", "--services", "external")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: set $SCHEDBENCH_REDIS_URL to redis://USER:PASSWORD@HOST:6379"
    assert not (schedbench.folder / "results").exists()


# --- PostgreSQL ------------------------------------------------------------------------------------------


def databases(connection: psycopg.Connection[Any]) -> set[str]:
    return {name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()}


def test_postgresql_gets_a_database_of_its_own_that_goes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_cell: OneCell
) -> None:
    with running("postgresql", tmp_path) as spec:
        monkeypatch.setenv(postgresql.URL_VARIABLE, str(spec.address["url"]))
        with psycopg.connect(str(spec.address["url"]), autocommit=True) as connection:
            connection.execute("CREATE TABLE apscheduler_jobs (theirs text)")
            connection.execute("INSERT INTO apscheduler_jobs VALUES ('not ours')")
            connection.execute("CREATE DATABASE schedbench_theirs")
            before = databases(connection)
            connection.execute(f"CREATE DATABASE {DEAD}")
            ran(one_cell, "apscheduler:thread-pool-postgresql")
            assert databases(connection) == before
            assert connection.execute("SELECT theirs FROM apscheduler_jobs").fetchall() == [("not ours",)]

            connection.execute("CREATE ROLE small LOGIN PASSWORD 'small'")
            url = f"postgresql://small:small@127.0.0.1:{spec.address['port']}/postgres"
            monkeypatch.setenv(postgresql.URL_VARIABLE, url)
            with pytest.raises(Unsupported, match="may not create a database, and only a new one is used"):
                postgresql.external("x")
            monkeypatch.setenv(postgresql.URL_VARIABLE, url + "?sslmode=require")
            with pytest.raises(Unsupported, match="no options after a"):
                postgresql.external("x")
            monkeypatch.setenv(postgresql.URL_VARIABLE, url.replace("small@", "wrong@"))
            with pytest.raises(Unsupported, match="no PostgreSQL can be used at") as caught:
                postgresql.external("x")
            assert "wrong" not in str(caught.value)


# --- RabbitMQ --------------------------------------------------------------------------------------------


def test_rabbitmq_gets_a_virtual_host_of_its_own_that_goes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_cell: OneCell
) -> None:
    (api_port,) = embedded.free_ports(1)
    folder = tmp_path / "rabbitmq"
    available, reason = services.available("rabbitmq")
    if not available:
        pytest.skip(reason)
    spec = Provision().prepare("rabbitmq", folder)
    (folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
    with (folder / "rabbitmq.conf").open("a") as config:
        config.write(f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {api_port}\n")
    user, secret = str(spec.address["user"]), spec.secret
    token = b64encode(f"{user}:{secret}".encode()).decode()

    def call(method: str, path: str, body: Any = None) -> Any:
        peer = http.client.HTTPConnection("127.0.0.1", api_port, timeout=10)
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        peer.request(method, path, None if body is None else json.dumps(body), headers)
        text = peer.getresponse().read()
        peer.close()
        return json.loads(text) if text else None

    with started(spec, tmp_path / "log"):
        until_ready(spec)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                call("GET", "/api/overview")
                break
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.1)
        monkeypatch.setenv(rabbitmq.URL_VARIABLE, str(spec.address["url"]))
        monkeypatch.setenv(rabbitmq.API_VARIABLE, f"http://127.0.0.1:{api_port}")
        call("PUT", "/api/vhosts/theirs", {})
        call("PUT", "/api/queues/%2F/celery", {"durable": True})
        before = {vhost["name"] for vhost in call("GET", "/api/vhosts")}
        call("PUT", f"/api/vhosts/{DEAD}", {})
        ran(one_cell, "celery:rabbitmq")
        assert {vhost["name"] for vhost in call("GET", "/api/vhosts")} == before
        assert [queue["name"] for queue in call("GET", "/api/queues")] == ["celery"]

        call("PUT", "/api/users/small", {"password": "small", "tags": "monitoring"})
        small = f"amqp://small:small@127.0.0.1:{spec.address['port']}"
        monkeypatch.setenv(rabbitmq.URL_VARIABLE, small)
        with pytest.raises(Unsupported, match="may not make a virtual host, and only a new one is used"):
            rabbitmq.external("x")
        monkeypatch.setenv(rabbitmq.API_VARIABLE, "https://127.0.0.1")
        with pytest.raises(Unsupported, match="without TLS: it begins with https://"):
            rabbitmq.external("x")
        monkeypatch.setenv(rabbitmq.API_VARIABLE, "http://127.0.0.1:1")
        with pytest.raises(Unsupported, match="rabbitmq-plugins enable rabbitmq_management"):
            rabbitmq.external("x")


# --- Temporal --------------------------------------------------------------------------------------------


def test_temporal_gets_a_namespace_of_its_own_that_goes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_cell: OneCell
) -> None:
    with running("temporal", tmp_path) as spec:
        monkeypatch.setenv(temporal.ADDRESS_VARIABLE, str(spec.address["url"]))
        cli = temporal.server().path

        def namespaces() -> set[str]:
            told = subprocess.run(
                [cli, "operator", "namespace", "list", "--address", str(spec.address["url"]), "-o", "json"],
                capture_output=True, check=True,
            ).stdout  # fmt: skip
            return {one["namespaceInfo"]["name"] for one in json.loads(told)}

        before = namespaces()
        ran(one_cell, "temporal:external")
        assert {name for name in namespaces() if "-deleted-" not in name} == before


def test_a_temporal_that_does_not_answer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(temporal.ADDRESS_VARIABLE, raising=False)
    with pytest.raises(Unsupported, match=r"set \$SCHEDBENCH_TEMPORAL_ADDRESS to HOST:PORT"):
        temporal.external("x")
    monkeypatch.setenv(temporal.ADDRESS_VARIABLE, "127.0.0.1:1")
    with pytest.raises(Unsupported, match=r"no Temporal can be used at \$SCHEDBENCH_TEMPORAL_ADDRESS"):
        temporal.external("x")


def test_a_development_server_is_nobody_elses() -> None:
    with pytest.raises(Unsupported, match="one that is already running is measured as temporal:external"):
        Provision("external").prepare("temporal", Path("unused"))
