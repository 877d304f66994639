"""What the probe costs: the body of a task with its two stamps and without them, in turns.

`python -m bench.probe_cost ROUNDS CALLS` prints a JSON list of ns per task, one for each round. It runs
in a process of its own, whose ledger is the folder that the probe's variable names.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from time import monotonic_ns

from bench.agent import probe
from bench.agent.work import perform

Body = Callable[[int], object]

_runs = itertools.count()


def bare(task: int, work: str = "noop", payload: str = "") -> object:
    """What `probe.run` does, without its stamps."""
    return task, len(payload), next(_runs) & 0xFFFF, 0 if work == "noop" else perform(work)


def span_ns(body: Body, calls: int) -> int:
    """How long so many calls take."""
    began_ns = monotonic_ns()
    for task in range(calls):
        body(task)
    return monotonic_ns() - began_ns


def costs_ns(rounds: int, calls: int) -> list[float]:
    """What the stamps cost in ns per task, once a round. The first call, which opens the ledger, is apart."""
    probe.run(0)
    bodies: list[Body] = [probe.run, bare]
    found = []
    for _ in range(rounds):
        bodies.reverse()
        spans = {body: span_ns(body, calls) for body in bodies}
        found.append((spans[probe.run] - spans[bare]) / calls)
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(costs_ns(int(sys.argv[1]), int(sys.argv[2]))))
