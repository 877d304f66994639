"""Delay on the network of a container, by the kernel's netem: `tc` in the network namespace of the container.

https://man7.org/linux/man-pages/man8/tc-netem.8.html. It goes away with the container.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import Final

from bench.errors import Unsupported

DEVICE: Final = "eth0"
LIMIT_S: Final = 10
QUEUE_PACKETS: Final = 100_000
"""netem drops what it cannot hold back: more than this many packets in flight."""


def delay(pid: int, rtt_ms: float) -> None:
    """Add `rtt_ms` to every round trip with the container of process `pid`: all of it on the way out.

    Raises:
        Unsupported: `tc` or `nsenter` is missing, this user may not, or the kernel has no netem.
    """
    nsenter, tc = shutil.which("nsenter"), shutil.which("tc")
    if nsenter is None or tc is None:
        raise Unsupported("a network delay needs nsenter and tc: install util-linux and iproute2")
    netem = f"qdisc add dev {DEVICE} root netem delay {rtt_ms}ms limit {QUEUE_PACKETS}"
    command = [nsenter, f"--net=/proc/{pid}/ns/net", tc, *netem.split()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        failed = done.returncode != 0
    except (OSError, subprocess.TimeoutExpired) as error:
        said, failed = str(error), True
    if failed:
        raise Unsupported(
            f"no network delay can be set here ({said}): it needs root, and a kernel with sch_netem"
        )
