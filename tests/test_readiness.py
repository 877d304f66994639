"""Whether a server answers: real sockets on 127.0.0.1, one question at a time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bench import readiness
from bench.errors import AdapterError


@contextlib.contextmanager
def listening() -> Iterator[tuple[socket.socket, int]]:
    """A socket that takes connections and says nothing, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, server.getsockname()[1]


@contextlib.contextmanager
def serving(status: int) -> Iterator[tuple[int, list[str]]]:
    """An HTTP server that always answers with this status: its port, and the paths it was asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port, paths
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "ready"), [(200, True), (204, True), (299, True), (302, False), (404, False), (503, False)]
)
def test_http_is_ready_when_it_answers_with_success(status: int, ready: bool) -> None:
    with serving(status) as (port, paths):
        assert readiness.answers(f"http://127.0.0.1:{port}/api/health") is ready
        assert paths == ["/api/health"]


def test_a_query_is_part_of_what_is_asked() -> None:
    with serving(200) as (port, paths):
        for path in ("", "/", "/a?b=1&c"):
            readiness.answers(f"http://127.0.0.1:{port}{path}")
        assert paths == ["/", "/", "/a?b=1&c"]


def test_tcp_is_ready_when_it_takes_a_connection() -> None:
    with listening() as (_, port):
        assert readiness.answers(f"tcp://127.0.0.1:{port}")
    assert not readiness.answers(f"tcp://127.0.0.1:{port}")


def test_nobody_there_is_not_ready() -> None:
    with listening() as (_, port):
        pass
    for scheme in ("http", "tcp"):
        assert not readiness.answers(f"{scheme}://127.0.0.1:{port}/")


def test_a_server_that_says_nothing_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PROBE_LIMIT_S", 0.05)
    with listening() as (_, port):
        assert not readiness.answers(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("said", [b"", b"220 smtp.example.org ESMTP\r\n", b"HTTP/1.1 two hundred\r\n\r\n"])
def test_what_speaks_no_http_is_not_ready(said: bytes) -> None:
    with listening() as (server, port):

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        assert not readiness.answers(f"http://127.0.0.1:{port}/")
        thread.join()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:80",
        "http://127.0.0.1/",
        "https://127.0.0.1:80/",
        "tcp://:80",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:PORT/",
        "udp://127.0.0.1:80",
        "ready",
    ],
)
def test_another_kind_of_address_is_the_adapter_s_fault(address: str) -> None:
    with pytest.raises(AdapterError) as caught:
        readiness.answers(address)
    assert str(caught.value) == f"cannot ask {address!r}: give http://HOST:PORT/PATH or tcp://HOST:PORT"
