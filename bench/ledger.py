"""The ledger: recorded events become one history, one row per task and one fate per task.

Pure functions over the files that the probes wrote. Times are CLOCK_MONOTONIC in ns; two clock domains
are never compared.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.model import PHASE_SHIFT, RECORD, Fate, Kind

Records = npt.NDArray[np.void]
"""A one-dimensional array of dtype `EVENT`."""

Frame = pd.DataFrame
"""What `per_task` makes; an alias for those that only pass it on."""

EVENT: Final = np.dtype(
    [
        ("task", "<u8"), ("t_ns", "<i8"), ("aux", "<i8"),
        ("pid", "<u4"), ("run", "<u2"), ("kind", "u1"), ("domain", "u1"),
    ]
)  # fmt: skip
"""The layout of `bench.model.RECORD`."""

SUFFIX: Final = ".events"

COMPACTED: Final = f"0-compacted{SUFFIX}"
"""The file that the records of many are put together in. A process has no number 0."""

# --- reading ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Events:
    """All events of a folder, in no particular order, and what could not be read.

    `torn_bytes` counts incomplete last records, `unknown` whole records that no probe writes (left out of
    `records`), `unreadable` files that could not be opened. Anything but 0 in the last two is a fault of
    the measurement.
    """

    records: Records
    torn_bytes: int
    files: int
    unknown: int = 0
    unreadable: int = 0


def read(*folders: Path) -> Events:
    """All whole records of all ledger files in these folders.

    A crash while files were put together (`compact`) leaves records twice: equal ones are one.
    """
    found = [_read(folder) for folder in folders]
    return Events(
        joined([events.records for events in found]),
        sum(events.torn_bytes for events in found),
        sum(events.files for events in found),
        sum(events.unknown for events in found),
        sum(events.unreadable for events in found),
    )


def _read(folder: Path) -> Events:
    parts: list[Records] = []
    torn = unknown = unreadable = 0
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            data = path.read_bytes()
        except OSError:
            unreadable += 1
            continue
        part, strangers = decode(data)
        parts.append(part)
        torn += len(data) % RECORD.size
        unknown += strangers
    records = joined(parts)
    if (folder / COMPACTED).exists():
        records = np.unique(records)
    return Events(records, torn, len(parts) + unreadable, unknown, unreadable)


def compact(folder: Path, names: Iterable[str]) -> None:
    """Put these files into one, which is written in full and then renamed.

    They are of processes that are gone, and of whole records. What was put together before is taken along.
    A crash leaves what there was, or both, of which `read` makes one.
    """
    whole, fresh = folder / COMPACTED, folder / f"{COMPACTED}.new"
    parts = [folder / name for name in names]
    with fresh.open("wb") as out:
        for path in (*([whole] if whole.exists() else []), *parts):
            with path.open("rb") as part:
                shutil.copyfileobj(part, out)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(whole)
    at = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(at)
    finally:
        os.close(at)
    for path in parts:
        path.unlink()


def decode(data: bytes) -> tuple[Records, int]:
    """The whole records in `data`, and how many others there were that no probe writes.

    Those are of an unknown kind, or have a negative time or figure: damaged, or wrapped at 64 bits. Without
    them, the difference of two times cannot wrap.
    """
    records = np.frombuffer(data, EVENT, count=len(data) // RECORD.size)
    known = (records["kind"] >= min(Kind)) & (records["kind"] <= max(Kind))
    known &= (records["t_ns"] >= 0) & (records["aux"] >= 0)
    unknown = len(records) - int(np.count_nonzero(known))
    return (records[known] if unknown else records), unknown


def joined(parts: list[Records]) -> Records:
    """All records of several reads, in that order."""
    return np.concatenate(parts) if parts else np.empty(0, EVENT)


# --- one row per task -------------------------------------------------------------------------------


def per_task(records: Records) -> pd.DataFrame:
    """One row per task id (index `task`, ascending); the order of `records` does not matter.

    Columns:
        phase, index: the two halves of the task id.
        due_ns, submit_ns, accepted_ns, start_ns, end_ns, fail_ns: first event of that kind, nullable
            Int64, `<NA>` where there is none. `due_ns` comes from the first SUBMIT.
        submits, accepted, refused, starts, ends, fails: how many events of that kind.
        pid, payload_bytes: of the first START (`<NA>` without one). burned_ns: of the first END.
        domain: the clock domain of its events, the lowest where there are several.
        mixed_domains: events of this task come from several clock domains; see `between_ns`.
        repeated: the body ran again although the attempt before it had neither failed nor vanished.

    A START is a retry, and not a repeat, when the attempt before it had failed by then or never came
    to an end (its process was killed). Attempts of different clock domains have no order: there, only
    two good ends make a repeat. Of several events in the same nanosecond the smallest values are kept.
    """
    tasks, row = np.unique(records["task"], return_inverse=True)
    n = len(tasks)
    columns: dict[str, npt.NDArray[np.generic] | pd.api.extensions.ExtensionArray] = {
        "phase": (tasks >> PHASE_SHIFT).astype(np.int64),
        "index": (tasks & 0xFFFFFFFF).astype(np.int64),
    }
    submit, submits = _first(records, row, n, Kind.SUBMIT, "aux")
    accept, accepted = _first(records, row, n, Kind.ACCEPTED)
    start, starts = _first(records, row, n, Kind.START, "pid", "aux")
    end, ends = _first(records, row, n, Kind.END, "aux")
    fail, fails = _first(records, row, n, Kind.FAIL)
    refused = np.bincount(row[records["kind"] == Kind.REFUSED], minlength=n)
    for name, (values, count) in {
        "due_ns": (submit["aux"], submits),
        "submit_ns": (submit["t_ns"], submits),
        "accepted_ns": (accept["t_ns"], accepted),
        "start_ns": (start["t_ns"], starts),
        "end_ns": (end["t_ns"], ends),
        "fail_ns": (fail["t_ns"], fails),
        "pid": (start["pid"], starts),
        "payload_bytes": (start["aux"], starts),
        "burned_ns": (end["aux"], ends),
    }.items():
        columns[name] = pd.arrays.IntegerArray(values, count == 0)
    columns |= {"submits": submits, "accepted": accepted, "refused": refused}
    columns |= {"starts": starts, "ends": ends, "fails": fails}
    low, high = _domains(records["domain"], row, n)
    columns |= {"domain": low.astype(np.int64), "mixed_domains": low < high}
    columns["repeated"] = (ends > 1) | _restarted(records, row, starts)
    return pd.DataFrame(columns, index=pd.Index(tasks, name="task"))


def of_phase(records: Records, phase: int) -> Records:
    """The events of the tasks of a phase, those of its schedule left out."""
    own: Records = records[records["task"] >> PHASE_SHIFT == phase]
    return own


def next_index(records: Records, phase: int) -> int:
    """The index of the first task of a phase that comes after all that were submitted."""
    own = of_phase(records, phase)
    sent = own["task"][own["kind"] == Kind.SUBMIT] & 0xFFFFFFFF
    return int(sent.max()) + 1 if len(sent) else 0


def _first(
    records: Records, row: npt.NDArray[np.intp], n: int, kind: Kind, *fields: str
) -> tuple[dict[str, npt.NDArray[np.int64]], npt.NDArray[np.intp]]:
    """`t_ns` and `fields` of the first event of a kind in each of `n` rows, and how many there are."""
    mask = records["kind"] == kind
    at, t_ns = row[mask], records["t_ns"][mask]
    far = np.iinfo(np.int64).max
    first = {"t_ns": np.full(n, far)}
    np.minimum.at(first["t_ns"], at, t_ns)
    is_first = t_ns == first["t_ns"][at]
    for name in fields:
        first[name] = np.full(n, far)
        np.minimum.at(first[name], at[is_first], records[name][mask][is_first].astype(np.int64))
    return first, np.bincount(at, minlength=n)


def _domains(
    domain: npt.NDArray[np.uint8], row: npt.NDArray[np.intp], n: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The lowest and the highest clock domain of each row's events."""
    low, high = np.full(n, 255, np.uint8), np.zeros(n, np.uint8)
    np.minimum.at(low, row, domain)
    np.maximum.at(high, row, domain)
    return low, high


def _restarted(
    records: Records, row: npt.NDArray[np.intp], starts: npt.NDArray[np.intp]
) -> npt.NDArray[np.bool_]:
    """Rows in which an attempt began although the one before it had neither failed nor vanished."""
    several = (starts > 1)[row]
    events, row, outcome, outcome_ns = _attempts(records[several], row[several])
    # Each attempt but the last must have vanished or failed in time.
    next_start_ns = np.append(events["t_ns"][1:], 0)
    standing = (outcome == Kind.END) | ((outcome == Kind.FAIL) & (outcome_ns > next_start_ns))
    restarted = np.zeros(len(starts), np.bool_)
    restarted[row[standing & _follows(row, events["domain"])]] = True
    return restarted


def _attempts(
    records: Records, row: npt.NDArray[np.intp]
) -> tuple[Records, npt.NDArray[np.intp], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Every START, by row, clock domain and time: its row, and the kind (0: none) and time of its outcome."""
    of_body = np.isin(records["kind"], (Kind.START, Kind.END, Kind.FAIL))
    events, row = records[of_body], row[of_body]
    # (row, domain, pid, run) is one execution; its START is followed by its END or FAIL, if any.
    order = np.lexsort((events["kind"], events["t_ns"], events["run"], events["pid"], events["domain"], row))
    events, row = events[order], row[order]
    same = _follows(row, events["domain"], events["pid"], events["run"])
    outcome = np.where(same, np.append(events["kind"][1:], 0), 0)
    outcome_ns = np.append(events["t_ns"][1:], 0)
    begun = np.flatnonzero(events["kind"] == Kind.START)
    order = begun[np.lexsort((events["t_ns"][begun], events["domain"][begun], row[begun]))]
    return events[order], row[order], outcome[order], outcome_ns[order]


def runs(records: Records) -> pd.DataFrame:
    """Every run of the body of one schedule, by its start.

    Columns: `start_ns`; `end_ns`, when it ended or failed, `<NA>` where it did neither; `pid`.
    """
    begun, _, outcome, outcome_ns = _attempts(records, np.zeros(len(records), np.intp))
    end_ns = pd.arrays.IntegerArray(outcome_ns, ~np.isin(outcome, (Kind.END, Kind.FAIL)))
    return pd.DataFrame({"start_ns": begun["t_ns"], "end_ns": end_ns, "pid": begun["pid"]})


def running(records: Records) -> list[int]:
    """Processes in which a task body has begun and not come to an end, the latest at the end."""
    runs, _, outcome, _ = _attempts(records, np.zeros(len(records), np.intp))
    # One row for all: what is the same execution is told by process and number.
    return [int(pid) for pid in runs["pid"][outcome == 0]]


# --- one row per tick -------------------------------------------------------------------------------

EARLY_NS: Final = 5_000_000
"""A run that begins so little before its tick belongs to it: libraries wait on another clock than ours."""


def ticks(records: Records, every_ns: int, until_ns: int, early_ns: int = 0) -> pd.DataFrame:
    """One row per turn of one schedule, from the `due_ns` of its SUBMIT to `until_ns`.

    Without a SUBMIT, a process of its own keeps the schedule: then the turns begin with its first run, and
    are laid so that no run is early.

    A turn lasts from its due time to the next one, or from `early_ns` before it, if that is more than
    `EARLY_NS`. Columns: `due_ns`; `planned`, False for turns before
    the first that was due, which stand here only where something ran in them; `start_ns` of the first run
    in it, nullable; `starts`, 0 for a tick that was skipped; `overlapped`, whether one of its runs began
    before an earlier run of the same schedule had ended. A run that has not ended overlaps all later ones.

    Raises:
        ValueError: `records` has neither a SUBMIT nor a START, or is of several clock domains.
    """
    if not np.isin(records["kind"], (Kind.SUBMIT, Kind.START)).any():
        raise ValueError("the schedule never ticked")
    if len(np.unique(records["domain"])) > 1:
        raise ValueError("the schedule was kept by several clocks: when its ticks were due is not known")
    told = records["aux"][records["kind"] == Kind.SUBMIT]
    first_due_ns = int(told.min()) if len(told) else _beat_ns(records, every_ns)
    runs, _, outcome, outcome_ns = _attempts(records, np.zeros(len(records), np.intp))
    ended = (outcome == Kind.END) | (outcome == Kind.FAIL)
    end_ns = np.where(ended, outcome_ns, np.iinfo(np.int64).max)
    busy_until_ns = np.append(np.iinfo(np.int64).min, np.maximum.accumulate(end_ns))[: len(runs)]
    turn = (runs["t_ns"] + max(EARLY_NS, early_ns) - first_due_ns) // every_ns
    found = pd.DataFrame(
        {"turn": turn, "start_ns": runs["t_ns"], "overlapped": runs["t_ns"] < busy_until_ns}
    ).groupby("turn")
    planned_n = max(0, -((first_due_ns - until_ns) // every_ns))
    turns = pd.Index(np.union1d(turn[turn < 0], np.arange(planned_n)), name="turn")
    frame = pd.DataFrame({"due_ns": first_due_ns + turns.to_numpy() * every_ns, "planned": turns >= 0}, turns)
    frame["start_ns"] = found["start_ns"].min().astype("Int64").reindex(turns)
    frame["starts"] = found.size().reindex(turns, fill_value=0)
    frame["overlapped"] = found["overlapped"].any().reindex(turns, fill_value=False)
    return frame


def _beat_ns(records: Records, every_ns: int) -> int:
    """When the first run was due, by the run that was the least late.

    How late each is goes on from the one before: what counts from its last run loses a little with each, and
    may be more than half a period behind in the end. The first run itself was late by half a period at most.
    """
    starts = np.sort(records["t_ns"][records["kind"] == Kind.START])
    since_ns = int(np.unwrap(starts - starts[0], period=every_ns).min())
    return int(starts[0]) + max(since_ns, -every_ns // 2)


def _follows(*keys: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Whether the next element has the same keys; False for the last."""
    same = np.zeros(len(keys[0]), np.bool_)
    same[:-1] = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    return same


# --- judgements -------------------------------------------------------------------------------------


def between_ns(frame: pd.DataFrame, earlier: str, later: str) -> pd.Series[int]:
    """`later - earlier`, two time columns of the `per_task` frame, as nullable Int64.

    `<NA>` where either is missing, and for every task with events of several clock domains.
    """
    difference = frame[later] - frame[earlier]
    return difference.mask(frame["mixed_domains"])


def negative(frame: pd.DataFrame) -> int:
    """Tasks that started before they were due or submitted: a fault of the measurement, never dropped."""
    early = (between_ns(frame, "due_ns", "start_ns") < 0) | (between_ns(frame, "submit_ns", "start_ns") < 0)
    return int(early.fillna(False).sum())


def fates(frame: pd.DataFrame, deadline_s: float, *, segment: int = 0, retries: int = 0) -> pd.Series[str]:
    """The fate of every task of the `per_task` frame: categorical of all `Fate` values, one per row.

    `segment` is the clock domain of the last segment of a cell that was resumed; those before it were cut
    off. `retries` is how often a task that fails is run again.

    The first that holds:
        unexpected: there is no SUBMIT of this id.
        duplicated: it was `repeated` (see `per_task`). Retries after a failure or a kill do not count.
        late: it ended, and its first START came more than `deadline_s` after it was due. A task whose
            START is missing counts from its END; one of several clock domains is never late.
        ok: it ended.
        cut_off: it was sent in a segment that was cut off, and was not over: it had failed at most so often
            that it would have been run again.
        failed: it failed, and never ended well.
        lost: it was accepted or had started, and neither ended nor failed.
        refused: none of these; the library never accepted it, and it never ran.
    """
    begun_ns = frame["start_ns"].fillna(frame["end_ns"])
    waited_ns = between_ns(frame.assign(begun_ns=begun_ns), "due_ns", "begun_ns")
    late = (waited_ns > deadline_s * 1e9).fillna(False).to_numpy(bool)
    ended = (frame["ends"] > 0).to_numpy()
    cut = (frame["domain"] < segment) & (frame["fails"] <= retries)
    cut &= frame["refused"] == 0
    rules = {
        Fate.UNEXPECTED: frame["submits"] == 0,
        Fate.DUPLICATED: frame["repeated"],
        Fate.LATE: ended & late,
        Fate.OK: ended,
        Fate.CUT_OFF: cut,
        Fate.FAILED: frame["fails"] > 0,
        Fate.LOST: (frame["accepted"] > 0) | (frame["starts"] > 0),
    }
    names = [fate.value for fate in Fate]
    codes = np.select(
        [np.asarray(rule, np.bool_) for rule in rules.values()],
        [names.index(fate) for fate in rules],
        default=names.index(Fate.REFUSED),
    )
    return pd.Series(pd.Categorical.from_codes(codes, pd.Index(names)), index=frame.index, name="fate")


def at_once(records: Records) -> int:
    """The most task bodies that ran at the same moment."""
    events = records[np.isin(records["kind"], (Kind.START, Kind.END, Kind.FAIL))]
    # Ends before starts of the same nanosecond: those two did not overlap.
    order = np.lexsort((events["kind"] == Kind.START, events["t_ns"]))
    steps = np.where(events["kind"][order] == Kind.START, 1, -1)
    return int(np.cumsum(steps).max(initial=0))
