"""A network that has nothing but loopback, entered by this process and left again: what tries to leave shows.

Linux and root only. Environments must be built before: nothing can be fetched in there.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
LISTEN, UDP_BOUND = "0A", "07"
LOOK_S = 0.05
MOMENT_S = {"tcp": 0.0, "udp": 4.0}
"""A datagram socket that is open to others for no longer serves nobody: RabbitMQ opens one while it starts,
for a logger that is not used."""

# Sources: man 2 unshare, man 2 setns, man 7 netdevice, proc(5) for net/tcp and net/snmp


@dataclass
class Seen:
    """What was seen of the processes in there: attempts to send elsewhere, and sockets open to others."""

    sent_elsewhere: int = 0
    asked_names: list[bytes] = field(default_factory=list)
    open_to_others: set[tuple[str, str, int]] = field(default_factory=set)


@contextlib.contextmanager
def loopback_only() -> Iterator[Seen | None]:
    """Run the block, and all that it starts, with loopback as the only network; None where that cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/self/ns/net", os.O_RDONLY) if Path("/proc/self/ns/net").exists() else -1
    try:
        if before < 0 or libc.unshare(CLONE_NEWNET) != 0:
            yield None
            return
        try:
            yield from _watched()
        finally:
            assert libc.setns(before, CLONE_NEWNET) == 0
    finally:
        if before >= 0:
            os.close(before)


def _watched() -> Iterator[Seen]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    seen, over = Seen(), threading.Event()
    with contextlib.ExitStack() as held:
        servers = [held.enter_context(_name_server(address)) for address in _local_name_servers()]
        watcher = threading.Thread(target=_watch, args=(seen, over))
        watcher.start()
        try:
            yield seen
        finally:
            over.set()
            watcher.join()
        for server in servers:
            with contextlib.suppress(BlockingIOError):
                while True:
                    seen.asked_names.append(server.recv(512))
    seen.sent_elsewhere = _no_routes()


def _local_name_servers() -> list[str]:
    """Those of the machine that loopback reaches: what they are asked for would go on from there."""
    text = Path("/etc/resolv.conf").read_text() if Path("/etc/resolv.conf").exists() else ""
    found = re.findall(r"(?m)^nameserver\s+([0-9.]+)", text) or ["127.0.0.1"]
    return [address for address in found if ipaddress.ip_address(address).is_loopback]


def _name_server(address: str) -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setblocking(False)
    server.bind((address, 53))
    return server


def _watch(seen: Seen, over: threading.Event) -> None:
    since_s: dict[tuple[str, str, int], float] = {}
    while not over.wait(LOOK_S):
        for name, state in (("tcp", LISTEN), ("tcp6", LISTEN), ("udp", UDP_BOUND), ("udp6", UDP_BOUND)):
            for line in Path("/proc/thread-self/net", name).read_text().splitlines()[1:]:
                _, local, _, its_state = line.split()[:4]
                address, _, port = local.partition(":")
                if its_state == state and not _is_loopback(address):
                    found = (name, address, int(port, 16))
                    if time.monotonic() - since_s.setdefault(found, time.monotonic()) > MOMENT_S[name[:3]]:
                        seen.open_to_others.add(found)


def _is_loopback(text: str) -> bool:
    """Of an address as the kernel prints it: words of 32 bits in the order of the machine, in hexadecimal."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    found = ipaddress.ip_address(b"".join(struct.pack("=I", word) for word in words))
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def _no_routes() -> int:
    """How often something was to be sent where there is no route, since this network was made."""
    names, values = (
        line.split()
        for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()
        if line.startswith("Ip:")
    )
    v4 = int(values[names.index("OutNoRoutes")])
    v6 = Path("/proc/thread-self/net/snmp6")
    found = re.search(r"Ip6OutNoRoutes\s+(\d+)", v6.read_text()) if v6.exists() else None
    return v4 + (int(found[1]) if found else 0)
