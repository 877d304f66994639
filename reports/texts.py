"""The words of the reports: what each table says about itself, and how to read it. No figure stands here."""

from __future__ import annotations

from typing import Final

from reports.marks import ABOUT, DAGGER
from reports.published import TOLERANCE

GROUP_TITLES: Final = {
    "exactly-once": "Exactly once",
    "at-least-once": "At least once",
    "at-most-once": "At most once",
    "none": "In memory, no promise",
    "floor": "Floors",
    "not measured": "Published, not measured in this run",
}
"""Headings by what a vendor promises; only systems that promise the same are ranked together."""

TITLES: Final = {
    "reference": "Reference queue",
    "floor_pipe": "Bare pipe",
    "floor_redis": "Raw Redis list",
    "airflow": "Airflow",
    "apscheduler": "APScheduler",
    "celery": "Celery",
    "dagster": "Dagster",
    "prefect": "Prefect",
    "temporal": "Temporal",
}
"""Names of the floors and of the survey's systems, for those that a run does not name."""

FAMILY_TITLES: Final = {
    "timer": "Timers",
    "task queue": "Task queues",
    "pattern": "Patterns",
    "orchestrator": "Orchestrators",
}
"""Headings by what kind of system it is, in the order in which they are shown."""

PARITY_TITLE: Final = "What is compared with what"
PARITY_LEAD: Final = (
    "How each variant does what decides what its figures mean, as its vendor describes it: every entry leads "
    "to the page. A rate or a latency of two variants compares these, not only two names. Grey: as in the "
    "row above."
)
CHANGED_TITLE: Final = "Settings that differ from the vendors' defaults"
CHANGED_LEAD: Final = (
    "Everything else is as the vendor ships it. The settings lead to the vendor's page. Services are the "
    "harness's own, fresh in every cell, on a free port of 127.0.0.1."
)

GROUP_NAMES: Final = {
    "exactly-once": "exactly once",
    "at-least-once": "at least once",
    "at-most-once": "at most once",
    "none": "in memory",
    "floor": "floors",
    "systems": "systems",
}
"""The same in charts."""

LEADS: Final = {
    "throughput": "Tasks per second while a full queue drains, from the first start to the last end.",
    "memory": "Memory of the whole stack at rest, broker included. PSS shares out the pages that processes "
    "have in common; RSS counts them once in every process and is an upper bound. The survey gives RSS, so "
    "the verdict is on RSS. The client's share includes the measuring agent.",
    "latency": "From the moment a task is due to the moment its body starts; 95 of 100 tasks start sooner. "
    "Arrivals do not wait for completions.",
    "cpu": "CPU time of the tasks' own work, as a share of all CPU time that the whole stack used while they "
    "ran. The survey does not say how long its tasks were; tasks of 10 ms are compared.",
    "components": "The client, every kind of process that is declared beside it, and services. OS processes "
    "are counted apart. The survey counts a minimum production setup.",
}

HOW_TO_READ: Final = (
    "A figure is the median over trials; every trial had fresh services, databases and processes. The "
    "interval holds the median with 95 % probability.",
    f"{DAGGER} behind a figure is a doubt about it: read the remark whose number stands beside it. Charts "
    "draw such a figure hollow or hatched. In the CSV files the column marks says which doubt.",
    f"{ABOUT} before a figure: it is from fewer than six trials, so its interval covers less than 95 %, or "
    "lies within a single trial. In a quick run that is every figure; it is a first look.",
    "n is the number of trials, times the tasks or samples in each.",
    "A slot is not the same thing in two systems, nor does a task count as taken at the same moment: "
    f"{PARITY_TITLE} (in runs that recorded it) and schedbench list --parity say it of every variant, with "
    "the vendors' pages.",
    "Systems are ranked only among those that promise the same. A rank is the range of places that the "
    "intervals leave open: 1\N{EN DASH}2 is first or second. Two are told apart when their intervals do not "
    "overlap and they differ by at least the floor's interval. A single trial gives no rank.",
    "Floors are no schedulers: they show what the harness itself, a pipe or a bare broker can do. A figure "
    "that is no further from a floor than that floor's interval is not ranked: it is at the floor.",
    "The verdict holds the measured figure against the published range: below, within, above, or not "
    f"comparable and why. A single published number stands for itself \N{PLUS-MINUS SIGN}"
    f"{100 * TOLERANCE:.0f} %. Below and above are said only where the whole interval lies outside.",
    "A trial that failed is listed with its reason and is in no median. What became of each task is counted "
    "by its id, so that a duplicate cannot hide a loss.",
)
