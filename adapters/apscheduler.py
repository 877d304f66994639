# /// script
# requires-python = ">=3.11"
# dependencies = ["apscheduler~=3.11", "psycopg[binary]~=3.2", "redis>=6", "sqlalchemy~=2.1"]
#
# [tool.schedbench]
# title = "APScheduler"
# family = "timer"
# homepage = "https://apscheduler.readthedocs.io/en/3.x/"
# capabilities = ["enqueue", "delay", "periodic", "cron"]
# default = ["thread-pool", "process-pool"]
#
# [tool.schedbench.parity]
# slots = ["threads of the pool: max_workers", "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"]
# runs_in = ["a thread of the application", "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"]
# acknowledgement = ["when handed to the pool: then it is off the store", "https://apscheduler.readthedocs.io/en/3.x/userguide.html#removing-jobs"]
# persistence = ["nothing: jobs are in memory", "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/memory.html"]
# results = ["none kept: a listener may have them", "https://apscheduler.readthedocs.io/en/3.x/userguide.html#scheduler-events"]
# prefetch = ["all that are due: the pool has a queue without end", "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
# polling = ["sleeps until a job is due, or one is added", "https://apscheduler.readthedocs.io/en/3.x/modules/schedulers/base.html#apscheduler.schedulers.base.BaseScheduler.wakeup"]
#
# [tool.schedbench.changed]
# max_workers = ["slots, not 10", "a slot means the same for every system", "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"]
# paused = ["true until tasks may run", "tasks are queued before anything runs them", "https://apscheduler.readthedocs.io/en/3.x/userguide.html#pausing-resuming-job-processing"]
#
# # The vendor promises nothing. With a database, a job is deleted only after it was handed to the pool, and
# # the pool lives in memory: a crash may lose jobs, or run them again.
#
# [tool.schedbench.promises]
# task-process = ["lost", "the pool breaks: all that was handed to it is lost; a new pool at the next submit", 0, "https://github.com/agronholm/apscheduler/blob/3.11.2/src/apscheduler/executors/pool.py"]
# worker = ["lost", "jobs are in memory: all are gone", 0, "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/memory.html"]
# worker-pause = ["lost", "not run twice; what starts > 1 s late is dropped, silently", 0, "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
# poison = ["lost", "once: kills the application", 0, "https://apscheduler.readthedocs.io/en/3.x/userguide.html"]
# raise = ["lost", "logged, EVENT_JOB_ERROR; not retried, a single job is already off the store", 0, "https://apscheduler.readthedocs.io/en/3.x/userguide.html#scheduler-events"]
# unserialisable = ["refused", "add_job raises: the job is pickled into the store", 0, "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"]
#
# [tool.schedbench.variants.thread-pool]
# summary = "BackgroundScheduler, thread pool, jobs in memory"
# guarantee = "none"
# source = "https://apscheduler.readthedocs.io/en/3.x/userguide.html"
# settings = { pool = "thread" }
# settle_s = 3
# start_s = 10
#
# [tool.schedbench.variants.thread-pool.promises]
# unserialisable = ["kept", "nothing is serialised: it runs", 0, "https://github.com/agronholm/apscheduler/blob/3.11.2/src/apscheduler/executors/pool.py"]
#
# [tool.schedbench.variants.process-pool]
# summary = "BackgroundScheduler, process pool (spawned), jobs in memory"
# guarantee = "none"
# source = "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"
# settings = { pool = "process" }
# settle_s = 3
# start_s = 10
#
# [tool.schedbench.variants.process-pool.parity]
# slots = ["processes of the pool: max_workers", "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"]
# runs_in = ["a process of the pool, spawned", "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"]
#
# [tool.schedbench.variants.process-pool.changed]
# executors = ["ProcessPoolExecutor, not threads", "what processes cost", "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"]
#
# [tool.schedbench.variants.process-pool.promises]
# poison = ["lost", "once: breaks the pool, others in it are lost too", 0, "https://github.com/agronholm/apscheduler/blob/3.11.2/src/apscheduler/executors/pool.py"]
# unserialisable = ["lost", "add_job does not raise; the pool cannot pickle it, logged and lost", 0, "https://github.com/agronholm/apscheduler/blob/3.11.2/src/apscheduler/executors/pool.py"]
#
# [tool.schedbench.variants.thread-pool-sqlite]
# summary = "thread pool, jobs in SQLite"
# guarantee = "none"
# source = "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"
# settings = { pool = "thread", store = "sqlite" }
# settle_s = 3
# start_s = 10
#
# [tool.schedbench.variants.thread-pool-sqlite.parity]
# persistence = ["jobs not yet handed to the pool: a SQLite file", "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"]
#
# [tool.schedbench.variants.thread-pool-sqlite.changed]
# jobstores = ["SQLAlchemyJobStore on SQLite, not memory", "what keeping jobs costs", "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"]
#
# [tool.schedbench.variants.thread-pool-sqlite.promises]
# worker = ["lost", "what was handed to the pool is lost; the rest is dropped as > 1 s late", 1, "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
#
# [tool.schedbench.variants.process-pool-sqlite]
# summary = "process pool (spawned), jobs in SQLite"
# guarantee = "none"
# source = "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"
# settings = { pool = "process", store = "sqlite" }
# settle_s = 3
# start_s = 10
#
# [tool.schedbench.variants.process-pool-sqlite.parity]
# slots = ["processes of the pool: max_workers", "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"]
# runs_in = ["a process of the pool, spawned", "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"]
# persistence = ["jobs not yet handed to the pool: a SQLite file", "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"]
#
# [tool.schedbench.variants.process-pool-sqlite.changed]
# executors = ["ProcessPoolExecutor, not threads", "what processes cost", "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"]
# jobstores = ["SQLAlchemyJobStore on SQLite, not memory", "what keeping jobs costs", "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"]
#
# [tool.schedbench.variants.process-pool-sqlite.promises]
# worker = ["lost", "what was handed to the pool is lost; the rest is dropped as > 1 s late", 1, "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
# poison = ["lost", "once: breaks the pool, others in it are lost too", 0, "https://github.com/agronholm/apscheduler/blob/3.11.2/src/apscheduler/executors/pool.py"]
#
# [tool.schedbench.variants.thread-pool-relaxed]
# summary = "thread pool, jobs in memory, late jobs run instead of being dropped"
# guarantee = "none"
# source = "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"
# settings = { pool = "thread", run_late = true }
# settle_s = 3
# start_s = 10
#
# [tool.schedbench.variants.thread-pool-relaxed.changed]
# misfire_grace_time = ["None, not 1 s", "late jobs run; by default they are dropped", "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
#
# [tool.schedbench.variants.thread-pool-relaxed.promises]
# worker-pause = ["kept", "not run twice; late ones run", 0, "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
# unserialisable = ["kept", "nothing is serialised: it runs", 0, "https://github.com/agronholm/apscheduler/blob/3.11.2/src/apscheduler/executors/pool.py"]
#
# [tool.schedbench.variants.process-pool-relaxed]
# summary = "process pool (spawned), jobs in memory, late jobs run instead of being dropped"
# guarantee = "none"
# source = "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"
# settings = { pool = "process", run_late = true }
# settle_s = 3
# start_s = 10
#
# [tool.schedbench.variants.process-pool-relaxed.parity]
# slots = ["processes of the pool: max_workers", "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"]
# runs_in = ["a process of the pool, spawned", "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"]
#
# [tool.schedbench.variants.process-pool-relaxed.changed]
# executors = ["ProcessPoolExecutor, not threads", "what processes cost", "https://apscheduler.readthedocs.io/en/3.x/modules/executors/pool.html"]
# misfire_grace_time = ["None, not 1 s", "late jobs run; by default they are dropped", "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
#
# [tool.schedbench.variants.process-pool-relaxed.promises]
# worker-pause = ["kept", "not run twice; late ones run", 0, "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
# poison = ["lost", "once: breaks the pool, others in it are lost too", 0, "https://github.com/agronholm/apscheduler/blob/3.11.2/src/apscheduler/executors/pool.py"]
# unserialisable = ["lost", "add_job does not raise; the pool cannot pickle it, logged and lost", 0, "https://github.com/agronholm/apscheduler/blob/3.11.2/src/apscheduler/executors/pool.py"]
#
# [tool.schedbench.variants.thread-pool-sqlite-relaxed]
# summary = "thread pool, jobs in SQLite, late jobs run instead of being dropped"
# guarantee = "none"
# source = "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"
# settings = { pool = "thread", store = "sqlite", run_late = true }
# settle_s = 3
# start_s = 10
#
# [tool.schedbench.variants.thread-pool-sqlite-relaxed.parity]
# persistence = ["jobs not yet handed to the pool: a SQLite file", "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"]
#
# [tool.schedbench.variants.thread-pool-sqlite-relaxed.changed]
# jobstores = ["SQLAlchemyJobStore on SQLite, not memory", "what keeping jobs costs", "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"]
# misfire_grace_time = ["None, not 1 s", "late jobs run; by default they are dropped", "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
#
# [tool.schedbench.variants.thread-pool-sqlite-relaxed.promises]
# worker = ["lost", "what was handed to the pool is lost; the rest runs, late", 1, "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
# worker-pause = ["kept", "not run twice; late ones run", 0, "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
#
# [tool.schedbench.variants.thread-pool-postgresql]
# summary = "thread pool, jobs in PostgreSQL"
# services = ["postgresql"]
# guarantee = "none"
# source = "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"
# settings = { pool = "thread", store = "postgresql" }
# settle_s = 3
# start_s = 10
#
# [tool.schedbench.variants.thread-pool-postgresql.parity]
# persistence = ["jobs not yet handed to the pool: PostgreSQL", "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"]
#
# [tool.schedbench.variants.thread-pool-postgresql.changed]
# jobstores = ["SQLAlchemyJobStore on PostgreSQL, not memory", "what keeping jobs costs", "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"]
#
# [tool.schedbench.variants.thread-pool-postgresql.promises]
# worker = ["lost", "what was handed to the pool is lost; the rest is dropped as > 1 s late", 1, "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
#
# [tool.schedbench.variants.thread-pool-postgresql-relaxed]
# summary = "thread pool, jobs in PostgreSQL, late jobs run instead of being dropped"
# services = ["postgresql"]
# guarantee = "none"
# source = "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"
# settings = { pool = "thread", store = "postgresql", run_late = true }
# settle_s = 3
# start_s = 10
#
# [tool.schedbench.variants.thread-pool-postgresql-relaxed.parity]
# persistence = ["jobs not yet handed to the pool: PostgreSQL", "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"]
#
# [tool.schedbench.variants.thread-pool-postgresql-relaxed.changed]
# jobstores = ["SQLAlchemyJobStore on PostgreSQL, not memory", "what keeping jobs costs", "https://apscheduler.readthedocs.io/en/3.x/modules/jobstores/sqlalchemy.html"]
# misfire_grace_time = ["None, not 1 s", "late jobs run; by default they are dropped", "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
#
# [tool.schedbench.variants.thread-pool-postgresql-relaxed.promises]
# worker = ["lost", "what was handed to the pool is lost; the rest runs, late", 1, "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
# worker-pause = ["kept", "not run twice; late ones run", 0, "https://apscheduler.readthedocs.io/en/3.x/userguide.html#missed-job-executions-and-coalescing"]
#
# [tool.schedbench.variants.thread-pool-redis-lock]
# summary = "thread pool, jobs in memory; a scheduled job runs only where it gets a lock in Redis"
# services = ["redis"]
# guarantee = "none"
# source = "https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/"
# settings = { pool = "thread", lock_s = 1.5 }
# settle_s = 3
# start_s = 10
#
# [tool.schedbench.variants.thread-pool-redis-lock.changed]
# "redis.lock.Lock" = ["around the body of a schedule: 1.5 s, no wait", "the pattern for one job on several machines", "https://redis.readthedocs.io/en/stable/lock.html"]
# ///
"""APScheduler 3: a scheduler thread in the client that hands due jobs to a pool of threads or processes.

A cron expression becomes a trigger by `CronTrigger.from_crontab`
(https://apscheduler.readthedocs.io/en/3.x/modules/triggers/cron.html).

A job store must never be shared between schedulers: https://apscheduler.readthedocs.io/en/3.x/faq.html. The
variant with a lock is a pattern and none of the library's own: schedulers on several machines have the same
job each, and the lock lets one of them run it. It is held for as long as the body runs, at most for `lock_s`.
"""

from __future__ import annotations

from functools import cache
from time import sleep
from typing import Any

from apscheduler.executors.pool import ProcessPoolExecutor, ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from bench.agent import Adapter, Context, InProcess, Periodic, Schedule, Task, context, run

POOLS = {"thread": ThreadPoolExecutor, "process": ProcessPoolExecutor}


@cache
def redis() -> Any:
    """The connections of this process."""
    from redis import Redis  # only here: the other variants do not need it

    return Redis.from_url(context().url("redis"))


def run_locked(task: int, work: str) -> None:
    """Run the body if nobody else does: https://redis.readthedocs.io/en/stable/lock.html."""
    lock = redis().lock(f"schedule-{task}", timeout=context().settings["lock_s"], blocking=False)
    if lock.acquire():
        try:
            run(task, work)
        finally:
            lock.release()


class APScheduler(Adapter, InProcess, Periodic):
    """A `BackgroundScheduler` that is paused whenever the harness wants no task to run."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        settings = context.settings
        self.executor = POOLS[settings["pool"]](max_workers=context.slots)
        store = settings.get("store")
        self.scheduler = BackgroundScheduler(
            executors={"default": self.executor},
            jobstores={"default": {"type": "sqlalchemy", "url": self.database(store)}} if store else {},
            # By default a job that starts more than 1 s after its run time is dropped.
            job_defaults={"misfire_grace_time": None} if settings.get("run_late") else {},
        )

    def database(self, store: str) -> str:
        """The address of a job store, as SQLAlchemy wants it."""
        if store == "sqlite":
            return f"sqlite:///{self.context.home / 'jobs.sqlite'}"
        return self.context.url(store).replace("postgresql:", "postgresql+psycopg:", 1)

    def open(self) -> None:
        self.scheduler.start(paused=True)

    def submit(self, task: Task) -> None:
        self.scheduler.add_job(run, args=(task.id, task.work, task.payload))  # no trigger: run now

    def register(self, schedule: Schedule) -> None:
        # A job that outlives its process has a name, or there is one more of it after each start:
        # https://apscheduler.readthedocs.io/en/3.x/userguide.html#adding-jobs
        name, args = str(schedule.id), (schedule.id, schedule.work)
        body = run_locked if "lock_s" in self.context.settings else run
        every = IntervalTrigger(seconds=schedule.every_s)
        trigger = CronTrigger.from_crontab(schedule.cron) if schedule.cron else every
        self.scheduler.add_job(body, trigger, args=args, id=name, replace_existing=True)

    def start(self) -> None:
        self.scheduler.resume()

    def stop(self) -> None:
        """Pause, then wait: what the scheduler already handed to the pool runs on, however much it is.

        The pool is kept, because new processes take longer to come up than the misfire grace time.
        """
        self.scheduler.pause()
        quiet = 0
        while quiet < 2:  # twice, for a scheduler thread that had looked at its state just before the pause
            self.scheduler.get_job("")  # waits for the lock that a round of hand-overs holds
            # The pool's own count of runs in flight per job; not events, for a broken pool sends none. A job
            # that ends before the pool has counted it leaves a 0 behind: the key alone says nothing.
            in_flight = any(list(self.executor._instances.values()))
            quiet = 0 if in_flight else quiet + 1
            sleep(0.01)

    def close(self) -> None:
        self.scheduler.shutdown()
