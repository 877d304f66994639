# /// script
# requires-python = ">=3.11"
# dependencies = ["rq~=2.12"]
# ///
"""RQ used directly: SLOTS forking workers, which read this module as their configuration."""

import sys
from functools import partial

from redis import Redis
from rq import Queue

from tests.direct import measure, stamp, url

MODULE = "tests.direct.rq_direct"  # not NAME: in a configuration module that names the worker
REDIS_URL = url()


def body(submitted_ns: int) -> None:
    stamp(submitted_ns)


if __name__ == "__main__":
    queue = Queue(connection=Redis.from_url(REDIS_URL))
    submit = partial(queue.enqueue, f"{MODULE}.body")  # by name: RQ takes no function of __main__
    measure(submit, "-m", "rq.cli", "worker", "--config", MODULE, workers=int(sys.argv[2]))
