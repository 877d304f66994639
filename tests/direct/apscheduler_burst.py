# /// script
# requires-python = ">=3.11"
# dependencies = ["apscheduler~=3.11"]
# ///
"""A burst in APScheduler without schedbench: `apscheduler_burst.py JOBS THREADS|default [relaxed]`.

Jobs of 100 ms, all added at once; prints how many ran and when the last of them began. With the vendor's pool
of ten threads and its grace of one second, about 10 * 1 s / 0.1 s = 100 jobs run, however many were added.
"""

import sys
import time

from apscheduler.schedulers.background import BackgroundScheduler

jobs, threads, *relaxed = sys.argv[1:]
scheduler = BackgroundScheduler(job_defaults={"misfire_grace_time": None} if relaxed else {})
if threads != "default":
    scheduler.add_executor("threadpool", max_workers=int(threads))
starts: list[float] = []


def body() -> None:
    starts.append(time.monotonic())
    time.sleep(0.1)


scheduler.start()
due = time.monotonic()
for _ in range(int(jobs)):
    scheduler.add_job(body)
while scheduler.get_jobs():
    time.sleep(0.01)
scheduler.shutdown()  # waits for the pool
print(f"{len(starts)} of {jobs} ran, the last began after {max(starts) - due:.2f} s")
