"""The runner's end of the client: one JSON order per line out, one JSON answer per line back."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

from bench.errors import AdapterError, Unsupported


class Link:
    """A pair of sockets; the client inherits the other one's descriptor."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self._unread = b""

    @property
    def descriptor(self) -> int:
        """The descriptor to hand to the client."""
        return self.theirs.fileno()

    def spawned(self) -> None:
        """Close the client's end here, so that its exit is seen as the end of the stream."""
        self.theirs.close()

    def order(self, name: str, wait: Callable[[], None], **details: Any) -> dict[str, Any]:
        """Send an order and wait for its answer; `wait` is called between looks and may raise.

        Raises:
            AdapterError: the client answered that the adapter raised, or closed the link.
            Unsupported: the adapter raised NotImplementedError.
        """
        try:
            self.ours.sendall(json.dumps({"do": name, **details}).encode() + b"\n")
        except OSError as error:
            wait()
            raise AdapterError(f"the client is gone before `{name}`: {error}") from error
        answer = None
        while (answer := self._line()) is None:
            wait()
        result: dict[str, Any] = json.loads(answer)
        if not result.pop("ok"):
            if why := result.get("unsupported"):
                raise Unsupported(why)
            raise AdapterError(f"the adapter raised in `{name}`: {result['error']}")
        return result

    def _line(self) -> bytes | None:
        """The next whole line, or None where there is none yet."""
        if b"\n" not in self._unread:
            try:
                received = self.ours.recv(65536)
            except BlockingIOError:
                return None
            self._unread += received
            if not received and not self._unread:
                return None  # the client has exited: the process check says why
            if b"\n" not in self._unread:
                return None
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def close(self) -> None:
        """Close both ends."""
        self.ours.close()
        self.theirs.close()
