# /// script
# requires-python = ">=3.11"
# dependencies = ["dramatiq[redis]~=2.2"]
# ///
"""Dramatiq used directly: SLOTS processes of one thread each, default middleware."""

import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.direct import measure, stamp, url

MODULE = "tests.direct.dramatiq_direct"
dramatiq.set_broker(RedisBroker(url=url()))


@dramatiq.actor
def body(submitted_ns: int) -> None:
    stamp(submitted_ns)


if __name__ == "__main__":
    measure(body.send, "-m", "dramatiq", MODULE, "--processes", sys.argv[2], "--threads", "1")
