"""Whether a server answers: what a process declares to be ready by, tried once."""

from __future__ import annotations

import http.client
import socket
from urllib.parse import urlsplit, urlunsplit

from bench.errors import AdapterError

PROBE_LIMIT_S = 1.0


def answers(address: str) -> bool:
    """Whether `http://HOST:PORT/PATH` answers with 2xx now, or `tcp://HOST:PORT` takes a connection.

    Raises:
        AdapterError: another kind of address.
    """
    url = urlsplit(address)
    try:
        port = url.port
    except ValueError:
        port = None
    if url.hostname is None or port is None or url.scheme not in ("http", "tcp"):
        raise AdapterError(f"cannot ask {address!r}: give http://HOST:PORT/PATH or tcp://HOST:PORT")
    try:
        if url.scheme == "tcp":
            with socket.create_connection((url.hostname, port), PROBE_LIMIT_S):
                return True
        peer = http.client.HTTPConnection(url.hostname, port, timeout=PROBE_LIMIT_S)
        try:
            peer.request("GET", urlunsplit(("", "", url.path or "/", url.query, "")))
            return 200 <= peer.getresponse().status < 300
        finally:
            peer.close()
    except (OSError, http.client.HTTPException):  # not there yet, or busy: the runner goes on asking
        return False
