"""The selftest: plants known faults in the reference adapter and checks that the harness finds each one."""

from bench.selftest.judges import Evidence, Span
from bench.selftest.lies import LIES, Lie
from bench.selftest.trial import Finding, last, no_difference, outcome, record, run, save, seconds

__all__ = [
    "LIES", "Evidence", "Finding", "Lie", "Span",
    "last", "no_difference", "outcome", "record", "run", "save", "seconds",
]  # fmt: skip
