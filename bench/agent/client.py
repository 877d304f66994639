"""The client: the process that holds an adapter open and plays loads into it, on the runner's orders.

`python -m bench.agent.client MODULE FD` reads one JSON order per line from the socket FD and answers
each with one JSON line, so that nothing a library prints can be taken for an answer.
"""

from __future__ import annotations

import gc
import importlib
import json
import socket
import sys
import traceback
from dataclasses import asdict
from time import monotonic_ns, sleep, time_ns
from typing import Any

from bench.agent import pacer
from bench.agent.contract import Adapter, Batch, Claims, InProcess, Periodic, context
from bench.agent.probe import stamp
from bench.model import Arrival, Kind, Load, Schedule

SOON_NS = 20_000_000_000
"""Until a schedule is known to all that keep it, so long may pass (Airflow loads itself for it, Prefect plans
runs every 5 s and looks for them every 10 s): a turn of the wall clock that is nearer is let pass."""

LEAD_NS = 20_000_000
"""Between building a paced plan and its first due time; a burst is due at once."""


def find(module_name: str) -> type[Adapter]:
    """The one adapter class that a module defines.

    Raises:
        TypeError: the module defines none, or several.
    """
    module = importlib.import_module(module_name)
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Adapter) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise TypeError(f"{module_name} must define exactly one Adapter subclass, found {len(own)}")
    return own[0]


def turn_ns(every_ns: int) -> int:
    """When the wall clock next shows a multiple of `every_ns` since midnight UTC, by CLOCK_MONOTONIC.

    A turn that comes too soon is slept through.
    """
    soon_ns = min(SOON_NS, every_ns // 2)
    while (left_ns := every_ns - time_ns() % every_ns) < soon_ns:
        sleep(left_ns / 1e9)
    return monotonic_ns() + left_ns


class Client:
    """Carries out orders. Every public method is an order; its result becomes the answer."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.sent: list[int] = []

    def declare(self) -> dict[str, Any]:
        """Say what must run before this process can connect."""
        return {
            "migrations": [asdict(process) for process in self.adapter.migrations()],
            "servers": [asdict(process) for process in self.adapter.servers()],
        }

    def open(self) -> dict[str, Any]:
        """Connect, and say what must run beside this process."""
        self.adapter.open()
        return {
            "processes": [asdict(process) for process in self.adapter.processes()],
            "in_process": isinstance(self.adapter, InProcess),
            "claims": isinstance(self.adapter, Claims),
        }

    def start(self) -> dict[str, Any]:
        """Let an in-process system run tasks."""
        if isinstance(self.adapter, InProcess):
            self.adapter.start()
        return {}

    def stop(self) -> dict[str, Any]:
        """Make an in-process system stop running tasks."""
        if isinstance(self.adapter, InProcess):
            self.adapter.stop()
        return {}

    def play(
        self,
        phase: int,
        load: dict[str, Any],
        ahead: bool,
        skip: int = 0,
        since_ns: int = 0,
        begin_ns: int = 0,
    ) -> dict[str, Any]:
        """Send a load without its first `skip` tasks; answers when the last was accepted or refused.

        A load that goes on is `since_ns` old: what should have been sent before is left out as well. It
        begins, or goes on, at `begin_ns` of CLOCK_MONOTONIC, where that is given.
        """
        spec = Load(**{**load, "arrival": Arrival(load["arrival"])})
        plan = [one for one in pacer.tasks(spec, phase, ahead)[skip:] if one[0] >= since_ns]
        gc.collect()
        gc.freeze()  # the plan's own objects must not slow the system's garbage collections
        begin_ns = begin_ns or monotonic_ns() + (0 if spec.arrival is Arrival.BURST else LEAD_NS)
        base_ns = begin_ns - since_ns
        refused, error = self._pace(plan, base_ns)
        if isinstance(self.adapter, Claims):
            self.sent += [task.id for *_, task in plan]
        last_due_ns = base_ns + max((due for _, due, _ in plan), default=since_ns)
        if ahead and plan:  # the library counts the delay from when it was told, which a burst can delay
            last_due_ns = max(last_due_ns, monotonic_ns() + max(task.delay_s for *_, task in plan) * 10**9)
        return {
            "sent": len(plan),
            "refused": refused,
            "error": f"{type(error).__name__}: {error}" if error else "",
            "last_due_ns": last_due_ns,
        }

    def _pace(self, plan: pacer.Plan, base_ns: int) -> tuple[int, BaseException | None]:
        if not context().batch:
            return pacer.pace(plan, base_ns, self.adapter.submit)
        if not isinstance(self.adapter, Batch):
            raise TypeError("this adapter takes no batches: it is not Batch")
        return pacer.pace_batches(plan, base_ns, self.adapter.submit_batch)

    def register(
        self,
        id: int,  # noqa: A002 - as in a task
        every_s: float,
        work: str = "noop",
        wall_clock: bool = False,
        cron: str = "",
    ) -> dict[str, Any]:
        """Have the library run a body every so often; its first tick is due that long from now.

        With `wall_clock`, it is due at the next turn of that. Else, where a process of its own keeps the
        schedule, nothing is stamped: it has yet to start.

        Raises:
            TypeError: the adapter has no schedules.
        """
        if not isinstance(self.adapter, Periodic):
            raise TypeError("this adapter has no schedules: it is not Periodic")
        every_ns = round(every_s * 1e9)
        first_due_ns = turn_ns(every_ns) if wall_clock else monotonic_ns() + every_ns
        keepers = self.adapter.register(Schedule(id, every_s, work, cron)) or ()
        if wall_clock or not keepers:
            stamp(Kind.SUBMIT, id, first_due_ns)
        return {"processes": [asdict(process) for process in keepers]}

    def claims(self) -> dict[str, Any]:
        """What the library says of all tasks that were sent: the ids that succeeded, those that failed."""
        assert isinstance(self.adapter, Claims)
        said = self.adapter.claims(self.sent)
        return {
            "succeeded": [task for task, good in said.items() if good],
            "failed": [task for task, good in said.items() if not good],
        }

    def close(self) -> dict[str, Any]:
        """Disconnect."""
        self.adapter.close()
        return {}


def main(module_name: str, descriptor: int) -> None:
    """Serve orders until `close` or the runner's end of the socket goes away."""
    with socket.socket(fileno=descriptor) as link, link.makefile("rw", encoding="utf-8") as lines:
        client: Client | None = None
        for line in lines:
            order = json.loads(line)
            name = order.pop("do")
            try:
                client = client or Client(find(module_name)(context()))
                answer = {"ok": True, **getattr(client, name)(**order)}
            except NotImplementedError as error:
                answer = {"ok": False, "error": "", "unsupported": str(error)}
            except Exception as error:  # noqa: BLE001 - it is reported to the runner
                traceback.print_exc()
                answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            lines.write(json.dumps(answer) + "\n")
            lines.flush()
            if name == "close":
                return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
