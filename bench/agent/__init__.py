"""The agent: the only code of ours that runs inside an adapter's environment. Standard library only."""

from bench.agent.contract import Adapter, Context, InProcess, Process, context
from bench.agent.probe import run
from bench.model import Task

__all__ = ["Adapter", "Context", "InProcess", "Process", "Task", "context", "run"]
