# /// script
# requires-python = ">=3.11"
# dependencies = ["schedule~=1.2"]
#
# [tool.schedbench]
# title = "schedule"
# family = "timer"
# homepage = "https://schedule.readthedocs.io"
# capabilities = ["delay", "periodic"]
# default = ["poll-1s", "idle-seconds"]
#
# [tool.schedbench.parity]
# slots = ["one: due jobs run one after another", "https://schedule.readthedocs.io/en/stable/parallel-execution.html"]
# runs_in = ["the thread that calls run_pending()", "https://schedule.readthedocs.io/en/stable/background-execution.html"]
# acknowledgement = ["when it returns: CancelJob takes it off", "https://schedule.readthedocs.io/en/stable/examples.html#run-a-job-once"]
# persistence = ["nothing: jobs are in memory", "https://schedule.readthedocs.io/en/stable/index.html#when-not-to-use-schedule"]
# results = ["none: what a job returns is dropped", "https://schedule.readthedocs.io/en/stable/reference.html#schedule.Job.run"]
# prefetch = ["none: a job runs where it is found due", "https://schedule.readthedocs.io/en/stable/reference.html#schedule.Scheduler.run_pending"]
# polling = ["once a second, as documented", "https://schedule.readthedocs.io/en/stable/background-execution.html"]
#
# [tool.schedbench.changed]
# "time.sleep" = ["Event.wait, for the same time", "the loop can be stopped at once", "https://schedule.readthedocs.io/en/stable/background-execution.html"]
# exceptions = ["logged by the job, which is then taken off", "else the first one would end the loop", "https://schedule.readthedocs.io/en/stable/exception-handling.html"]
#
# [tool.schedbench.promises]
# worker = ["lost", "jobs are in memory only: all are gone", 0, "https://schedule.readthedocs.io/en/stable/index.html#when-not-to-use-schedule"]
# worker-pause = ["kept", "not run twice: what came due runs once, late", 0, "https://schedule.readthedocs.io/en/stable/reference.html#schedule.Scheduler.run_pending"]
# poison = ["lost", "kills the application, and with it all jobs", 0, "https://schedule.readthedocs.io/en/stable/index.html#when-not-to-use-schedule"]
# raise = ["lost", "`doesn't catch exceptions`: run_pending ends; the adapter catches for single tasks only", 0, "https://schedule.readthedocs.io/en/stable/exception-handling.html"]
# unserialisable = ["kept", "nothing is serialised: it runs in the same process", 0, "https://schedule.readthedocs.io/en/stable/background-execution.html"]
#
# [tool.schedbench.variants.poll-1s]
# summary = "run_pending() once a second in a background thread"
# guarantee = "none"
# source = "https://schedule.readthedocs.io/en/stable/background-execution.html"
# settings = { wait = "second" }
# max_slots = 1
# settle_s = 3
#
# [tool.schedbench.variants.idle-seconds]
# summary = "run_pending(), then sleep for idle_seconds"
# guarantee = "none"
# source = "https://schedule.readthedocs.io/en/stable/examples.html#time-until-the-next-execution"
# settings = { wait = "idle" }
# max_slots = 1
# settle_s = 3
#
# [tool.schedbench.variants.idle-seconds.parity]
# polling = ["sleeps for idle_seconds, until the next job is due", "https://schedule.readthedocs.io/en/stable/examples.html#time-until-the-next-execution"]
#
# [tool.schedbench.variants.idle-seconds.changed]
# "no job left" = ["looks again after 1 s, does not end", "jobs are added later", "https://schedule.readthedocs.io/en/stable/examples.html#time-until-the-next-execution"]
#
# [tool.schedbench.variants.tight]
# summary = "run_pending() in a loop that never sleeps, the least latency at the price of one core"
# guarantee = "none"
# source = "https://schedule.readthedocs.io/en/stable/reference.html#schedule.Scheduler.run_pending"
# settings = { wait = "never" }
# max_slots = 1
# settle_s = 3
#
# [tool.schedbench.variants.tight.parity]
# polling = ["always: the loop never sleeps", "https://schedule.readthedocs.io/en/stable/reference.html#schedule.Scheduler.run_pending"]
#
# [tool.schedbench.variants.tight.changed]
# "time.sleep" = ["left out", "the least latency there is", "https://schedule.readthedocs.io/en/stable/background-execution.html"]
# ///
"""The schedule library: one thread that runs due jobs one after another, looking in one of three rhythms."""

from __future__ import annotations

import logging
import threading

from schedule import CancelJob, Scheduler

from bench.agent import Adapter, Context, InProcess, Periodic, Task, run
from bench.agent import Schedule as Every

POLL_S = 1.0
"""The rhythm of the documented loop."""


def run_once(task_id: int, work: str, payload: str) -> type[CancelJob]:
    """A job that leaves the schedule after its first run.

    An exception would end `run_pending()` and keep the job scheduled: the documentation asks jobs to
    catch it themselves (https://schedule.readthedocs.io/en/stable/exception-handling.html).
    """
    try:
        run(task_id, work, payload)
    except Exception:
        logging.exception("task %d raised", task_id)
    return CancelJob


class Schedule(Adapter, InProcess, Periodic):
    """A `schedule.Scheduler` and the background thread that drives it."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.scheduler = Scheduler()
        self.stopping = threading.Event()
        self.thread = threading.Thread()
        self.wait = context.settings["wait"]

    def submit(self, task: Task) -> None:
        if task.delay_s < 1:
            raise ValueError(f"schedule cannot run a task in less than 1 s, asked for {task.delay_s} s")
        self.scheduler.every(task.delay_s).seconds.do(run_once, task.id, task.work, task.payload)

    def register(self, schedule: Every) -> None:
        if schedule.every_s < 1 or schedule.every_s % 1:
            raise NotImplementedError(f"schedule counts whole seconds, asked for {schedule.every_s} s")
        self.scheduler.every(int(schedule.every_s)).seconds.do(run, schedule.id, schedule.work)

    def start(self) -> None:
        self.stopping.clear()
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Return when all jobs that were due at the last look have run: the library cannot cut them off."""
        self.stopping.set()
        if self.thread.is_alive():
            self.thread.join()

    def loop(self) -> None:
        """The documented loops, but with the event in place of `time.sleep`, so that stop() ends a wait."""
        while not self.stopping.is_set():
            self.scheduler.run_pending()
            if self.wait == "second":
                self.stopping.wait(POLL_S)
            elif self.wait == "idle":
                # None: no job is left, look again later. Negative: the next job is overdue, do not wait.
                idle_s = self.scheduler.idle_seconds
                self.stopping.wait(POLL_S if idle_s is None else max(0.0, idle_s))
