"""schedbench: what each Python scheduler, task queue and orchestrator costs and promises."""

__version__ = "0.1.0"
