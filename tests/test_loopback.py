"""The network without anything but loopback sees what it should, or a system that calls home would pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.loopback import Seen, loopback_only


def seen_of(code: str) -> Seen:
    with loopback_only() as seen:
        if seen is None:
            pytest.skip("a network of its own needs Linux and root")
        subprocess.run(
            [sys.executable, "-c", f"import socket, time; {code}"], stderr=subprocess.DEVNULL, check=False
        )
    return seen


def test_what_keeps_to_loopback_is_not_seen() -> None:
    code = "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    code += "; time.sleep(0.8)"
    assert seen_of(code) == Seen()


@pytest.mark.parametrize("family", ["", ", family=socket.AF_INET6"])
def test_a_server_for_everybody_is_seen(family: str) -> None:
    found = seen_of(f"s = socket.create_server(('', 0){family}); time.sleep(0.8)")
    assert len(found.open_to_others) == 1
    assert found.sent_elsewhere == 0


@pytest.mark.parametrize(("family", "address"), [("INET", "192.0.2.1"), ("INET6", "2001:db8::1")])
@pytest.mark.parametrize("kind", ["STREAM", "DGRAM"])
def test_whatever_is_sent_elsewhere_is_seen(family: str, address: str, kind: str) -> None:
    code = f"socket.socket(socket.AF_{family}, socket.SOCK_{kind}).connect(('{address}', 80))"
    assert seen_of(code).sent_elsewhere == 1


def test_whoever_looks_up_a_name_is_seen() -> None:
    found = seen_of("socket.getaddrinfo('name.invalid', 80)")
    assert found.sent_elsewhere + len(found.asked_names) > 0


def test_this_process_is_back_in_its_own_network() -> None:
    before = network()
    seen_of("pass")
    assert network() == before


def network() -> int:
    return Path("/proc/self/ns/net").stat().st_ino
