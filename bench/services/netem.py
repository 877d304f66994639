"""Delay on the network of a container, by the kernel's netem: `tc` in the network namespace of the container.

https://man7.org/linux/man-pages/man8/tc-netem.8.html. It goes away with the container.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import Final

from bench.errors import Unsupported

DEVICE: Final = "eth0"
QUEUE_PACKETS: Final = 100_000
"""netem drops what it cannot hold back: more than this many packets in flight."""


def delay(pid: int, rtt_ms: float) -> None:
    """Add `rtt_ms` to every round trip with the container of process `pid`: all of it on the way out.

    Raises:
        Unsupported: `tc` or `nsenter` is missing, this user may not, or the kernel has no netem.
    """
    tools = [shutil.which("nsenter"), shutil.which("tc")]
    if None in tools:
        raise Unsupported("a network delay needs nsenter and tc: install util-linux and iproute2")
    nsenter, tc = map(str, tools)
    words = [
        "qdisc",
        "add",
        "dev",
        DEVICE,
        "root",
        "netem",
        "delay",
        f"{rtt_ms}ms",
        "limit",
        str(QUEUE_PACKETS),
    ]
    done = subprocess.run(
        [nsenter, f"--net=/proc/{pid}/ns/net", tc, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise Unsupported(
            f"no network delay can be set here ({said}): it needs root, and a kernel with sch_netem"
        )
