"""Whether a server answers: what a process declares to be ready by, tried once."""

from __future__ import annotations

import http.client
import socket
from urllib.parse import urlsplit

PROBE_LIMIT_S = 1.0


def answers(address: str) -> bool:
    """Whether `http://HOST:PORT/PATH` answers with 2xx now, or `tcp://HOST:PORT` takes a connection.

    Raises:
        ValueError: another kind of address.
    """
    url = urlsplit(address)
    if url.hostname is None or url.port is None or url.scheme not in ("http", "tcp"):
        raise ValueError(f"cannot ask {address!r}: give http://HOST:PORT/PATH or tcp://HOST:PORT")
    try:
        if url.scheme == "tcp":
            with socket.create_connection((url.hostname, url.port), PROBE_LIMIT_S):
                return True
        peer = http.client.HTTPConnection(url.hostname, url.port, timeout=PROBE_LIMIT_S)
        try:
            peer.request("GET", url.path or "/")
            return 200 <= peer.getresponse().status < 300
        finally:
            peer.close()
    except (OSError, http.client.HTTPException):  # not there yet, or busy: the runner goes on asking
        return False
