"""Everything that can go wrong on purpose, as one tree. Each message is one line and says what to do.

SchedbenchError
├── UsageError            exit 2: a name or value the user gave is not valid
├── StoreError            results folder missing, not writable, full, or from a newer format
├── EnvironmentBuildError an adapter's locked environment cannot be built
├── Unsupported           this machine or variant cannot run it: a result, not a failure
└── CellError             a cell cannot go on: ends as `error`
    ├── ProcessDied       a worker or server exited; carries its last log lines
    ├── AdapterError      the adapter's own code raised
    └── CellTimeout       a cell ran past its stated limit: ends as `timeout`
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SchedbenchError(Exception):
    """Base of all errors that are shown to the user as one line."""

    exit_code = 1


class UsageError(SchedbenchError):
    """The user asked for something that does not exist."""

    exit_code = 2


class StoreError(SchedbenchError):
    """The results folder cannot be used."""


class EnvironmentBuildError(SchedbenchError):
    """An adapter's environment cannot be built from its lock."""


class Unsupported(SchedbenchError):
    """The cell cannot run here; the reason is the result."""


class CellError(SchedbenchError):
    """The cell cannot go on."""


class ProcessDied(CellError):
    """A process of the system under test exited before it was asked to."""


class AdapterError(CellError):
    """The adapter raised."""


class CellTimeout(CellError):
    """The cell ran past its limit."""


def unknown(what: str, name: str, valid: Iterable[str]) -> UsageError:
    """A usage error for a name that does not exist, with the nearest valid one and all choices."""
    choices = sorted(valid)
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {what} {name!r}: {hint}valid: {', '.join(choices)}")
