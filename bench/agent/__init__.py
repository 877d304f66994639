"""The agent: the only code of ours that runs inside an adapter's environment. Standard library only."""

from bench.agent.contract import Adapter, Batch, Claims, Context, InProcess, Periodic, Process, context
from bench.agent.probe import run
from bench.model import Schedule, Task

__all__ = [
    "Adapter", "Batch", "Claims", "Context", "InProcess", "Periodic", "Process", "Schedule", "Task",
    "context", "run",
]  # fmt: skip
