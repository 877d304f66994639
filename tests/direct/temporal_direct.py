# /// script
# requires-python = ">=3.11"
# dependencies = ["temporalio~=1.35"]
# ///
"""Temporal used directly: `temporal_direct.py HOST:PORT SLOTS N workflows|activities [unsandboxed]`.

One worker with SLOTS threads. The N tasks are a workflow each, or the activities of one; those that are paced
are a workflow each.
"""

import asyncio
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

with workflow.unsafe.imports_passed_through():
    from tests import direct

MODULE = "tests.direct.temporal_direct"
PACED_N, GAP_NS = 200, 103_000_000
"""Not the 50 tasks/s of the other scripts: the development server does not keep up with these. Nor a multiple
of 50 ms: it looks for work to hand out 20 times a second, so that all tasks would wait equally long."""


@activity.defn
def body(submitted_ns: int) -> None:
    direct.stamp(submitted_ns)


@workflow.defn
class Tasks:
    @workflow.run
    async def run(self, submitted: list[int]) -> None:
        limit = timedelta(seconds=60)
        bodies = [workflow.execute_activity(body, ns, start_to_close_timeout=limit) for ns in submitted]
        await asyncio.gather(*bodies)


async def work(slots: int, sandbox: bool) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Worker(
        await Client.connect(direct.url()),
        task_queue=MODULE,
        workflows=[Tasks],
        activities=[body],
        activity_executor=ThreadPoolExecutor(slots),
        max_concurrent_activities=slots,
        workflow_runner=SandboxedWorkflowRunner() if sandbox else UnsandboxedWorkflowRunner(),
    ):
        await stop.wait()


def main() -> None:
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(Client.connect(direct.url()))
    first = int(sys.argv[3]) if sys.argv[4] == "activities" else 1  # of how many the first workflow is
    waiting: list[int] = []

    def submit(submitted_ns: int) -> None:
        nonlocal first
        waiting.append(submitted_ns)
        if len(waiting) < first:
            return
        started = client.start_workflow(Tasks.run, waiting, id=f"direct-{submitted_ns}", task_queue=MODULE)
        loop.run_until_complete(started)
        waiting.clear()
        first = 1

    direct.PACED_N, direct.GAP_NS = PACED_N, GAP_NS
    direct.measure(submit, "-m", MODULE, "worker", sys.argv[2], *sys.argv[5:])


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.run(work(int(sys.argv[2]), sandbox=len(sys.argv) == 3))
    else:
        main()
