# /// script
# requires-python = ">=3.11"
# dependencies = ["celery[redis]~=5.7"]
# ///
"""Celery used directly: prefork pool of SLOTS children, early acknowledgement, no result backend."""

import sys

from celery import Celery

from tests.direct import measure, stamp, url

MODULE = "tests.direct.celery_direct"
app = Celery(MODULE, broker=url())


@app.task
def body(submitted_ns: int) -> None:
    stamp(submitted_ns)


if __name__ == "__main__":
    measure(body.delay, "-m", "celery", "-A", MODULE, "worker", "--concurrency", sys.argv[2])
