"""Every adapter and variant keeps the contract. They are found by discovery: a new one is tested as well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import psutil
import pytest

from bench import discovery, environments, ledger, services
from bench.harness import MARKER
from bench.model import Load, Metric, Phase, Status, System, Variant, Workers
from bench.runner import Result
from bench.scenario import History, Phases, Scenario, schedule_of
from bench.services import Provision
from tests.conftest import OneCell
from tests.loopback import Seen, loopback_only

TASKS, HEAVY_TASKS = 20, 1
SLOW_S = 60.0
"""Variants that may take longer to come up, and are no default, are run only with `--all-variants`."""

PAYLOAD_BYTES, PIPE_PAYLOAD_BYTES = 300, 30
GOOD_WORK = ("noop", "sleep:5", "io:5:2000", "cpu:2")


class EveryWork(Scenario):
    """Each kind of work once, then a regular stop."""

    title = "conformance"
    parameters = {}
    profiles = {}

    def __init__(self, payload_bytes: int) -> None:
        self.payload_bytes = payload_bytes

    def seconds(self, params: Mapping[str, Any]) -> float:
        return 1

    def io(self, params: Mapping[str, Any]) -> bool:
        return True

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        n = tasks(variant)
        queued = Load(n, payload_bytes=self.payload_bytes)
        yield Phase("queued", queued, workers=Workers.DOWN, wait="queued")
        yield Phase("drain", ready=False)
        yield Phase("stop in between", workers=Workers.DOWN, wait="queued")
        yield Phase("start again")
        for work in (*GOOD_WORK, "raise"):
            yield Phase(work, Load(n, work=work), wait="queued" if variant.heavy else "drain")
        if variant.heavy:  # one more than may run at once
            load = Load((variant.max_slots or 0) + 1, work=f"sleep:{variant.canary_ms}")
            yield Phase("more than slots", load, wait="queued")
        yield Phase("drain all")
        yield Phase("stop", workers=Workers.DOWN, wait="queued")

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        return ()


def tasks(variant: Variant) -> int:
    """How many of each kind of work."""
    return HEAVY_TASKS if variant.heavy else TASKS


def skip_without_services(variant: Variant) -> None:
    for service in variant.services:
        available, reason = services.available(service)
        if not available:
            pytest.skip(reason)


VARIANTS = [
    pytest.param(f"{system.name}:{variant.name}", variant, id=f"{system.name}:{variant.name}")
    for system in discovery.systems().values()
    if system.takes_tasks
    for variant in system.variants.values()
]


@pytest.mark.parametrize(("word", "variant"), VARIANTS)
def test_conformance(word: str, variant: Variant, one_cell: OneCell, request: pytest.FixtureRequest) -> None:
    default = discovery.systems()[word.partition(":")[0]].default[:1] == (variant.name,)
    if variant.start_s > SLOW_S and not default and not request.config.getoption("--all-variants"):
        pytest.skip("takes long and is no default: nox -s tests -- --all-variants")
    skip_without_services(variant)
    ((system, _),) = discovery.select([word], discovery.systems())
    environments.ensure(system)
    payload_bytes = PIPE_PAYLOAD_BYTES if word.startswith("floor_pipe") else PAYLOAD_BYTES
    external = any(service.endswith("-external") for service in variant.services)
    with nullcontext() if external else loopback_only() as seen:
        result = one_cell(word, EveryWork(payload_bytes))
    conforms(result, variant, payload_bytes)

    # Nothing asked for anything beyond this machine, and nothing could be reached from there.
    assert seen in (None, Seen())
    assert _of_harness(one_cell.home.name) == []


IN_CONTAINERS = [
    pytest.param(f"{system.name}:{variant.name}", variant, id=f"{system.name}:{variant.name}")
    for system in discovery.systems().values()
    for variant in system.variants.values()
    if variant.services and variant.name in system.default and not variant.batch
]


@pytest.mark.parametrize(("word", "variant"), IN_CONTAINERS)
def test_conformance_in_containers(
    word: str, variant: Variant, one_cell: OneCell, engine: None, request: pytest.FixtureRequest
) -> None:
    if variant.start_s > SLOW_S and not request.config.getoption("--all-variants"):
        pytest.skip("takes long: nox -s tests -- --all-variants")
    ((system, _),) = discovery.select([word], discovery.systems())
    environments.ensure(system)
    provision = Provision("containers", owner=one_cell.home.name)
    result = one_cell(word, EveryWork(PAYLOAD_BYTES), provision=provision)
    conforms(result, variant, PAYLOAD_BYTES)
    assert {about["provider"] for about in result.details["services"].values()} == {"container"}
    assert _of_harness(one_cell.home.name) == []


def conforms(result: Result, variant: Variant, payload_bytes: int) -> None:
    """What holds of every adapter and variant, wherever its services run."""
    assert (result.status, result.reason) == (Status.OK, "")
    assert result.tasks is not None

    # Accepted and run exactly once, whatever the work; what raises is seen to fail, and not to end.
    sent, n = result.tasks[result.tasks["phase"] > 0], tasks(variant)
    good, bad = sent[sent["fails"] == 0], sent[sent["fails"] > 0]
    more = result.details["slots"] + 1 if variant.heavy else 0
    assert len(good) == n * (1 + len(GOOD_WORK)) + more
    assert len(bad) == n
    assert (sent["accepted"] == 1).all()
    assert (good["starts"] == 1).all()
    assert (good["ends"] == 1).all()
    assert (bad["ends"] == 0).all()
    assert (ledger.fates(good, math.inf if variant.heavy else 60.0) == "ok").all()
    assert ledger.negative(sent) == 0

    # A library that keeps a status of its tasks says what the ledger says.
    said = {metric.name: metric.value for metric in result.metrics if metric.name.startswith("claims_")}
    assert said.pop("claims_made", 0) in (0, len(sent))
    assert not any(said.values()), said

    # What was sent is what arrived, and what was asked for was done.
    assert (sent[sent["phase"] == 1]["payload_bytes"] == payload_bytes).all()
    burned = good["burned_ns"][good["burned_ns"] > 0]
    assert len(burned) == n
    assert burned.min() >= 2_000_000

    # As many at once as there are slots, no more.
    slots = result.details["slots"]
    assert result.details.get("tasks_at_once", slots) == slots
    assert ledger.at_once(result.events) == slots

    # Stopped when asked, and nothing is left.
    assert not {"killed_at_stop", "close_failed", "left_behind"} & result.details.keys()


class Ticks(Scenario):
    """A schedule, left alone for some ticks."""

    sends = False
    title = "ticks"
    parameters = {}
    profiles = {}

    def __init__(self, every_s: float, turns: float) -> None:
        self.every_s, self.turns = every_s, turns

    def seconds(self, params: Mapping[str, Any]) -> float:
        return self.turns * self.every_s

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        yield Phase("ticks", wait="hold", hold_s=self.seconds(params), **schedule_of(variant, self.every_s))

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        ticks = history.ticks("ticks")
        yield Metric("planned", "count", float(ticks["planned"].sum()), len(ticks))
        yield Metric("starts", "count", float(ticks["starts"].sum()), len(ticks))
        yield Metric("overlapped", "count", float(ticks["overlapped"].sum()), len(ticks))


def ticking(system: System) -> Variant:
    """The first variant that is measured when none is named."""
    return discovery.select([system.name], discovery.systems())[0][1]


def having(capability: str) -> list[Any]:
    """Each system with a capability, and its first default variant."""
    systems = [system for system in discovery.systems().values() if capability in system.capabilities]
    return [pytest.param(system.name, ticking(system), id=system.name) for system in systems]


@pytest.mark.parametrize(("system", "variant"), having("periodic"))
def test_a_schedule_ticks(
    system: str, variant: Variant, one_cell: OneCell, request: pytest.FixtureRequest
) -> None:
    """Once for each tick, give or take the one that a polling loop has not got to.

    A schedule that a process of its own keeps begins to tick only when that has started.
    """
    every_s = variant.every_s or variant.shortest_s or 1.0
    if every_s > 1 and not request.config.getoption("--all-variants"):
        pytest.skip("takes minutes: nox -s tests -- --all-variants")
    skip_without_services(variant)
    ticks, least, most = (Ticks(every_s, 3.5), 2, 3) if every_s > 1 else (Ticks(1.0, 8.2), 3, 8)
    result = one_cell(f"{system}:{variant.name}", ticks)
    assert (result.status, result.reason) == (Status.OK, "")
    found = {metric.name: metric.value for metric in result.metrics}
    assert least <= found["planned"] <= most
    assert found["starts"] in (found["planned"] - 1, found["planned"])
    assert found["overlapped"] == 0


@pytest.mark.parametrize(("system", "variant"), having("cron"))
def test_a_cron_expression_ticks(
    system: str, variant: Variant, one_cell: OneCell, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--all-variants"):
        pytest.skip("takes minutes: nox -s tests -- --all-variants")
    skip_without_services(variant)
    params = {"trigger": "cron", "every_s": 60.0, "ticks": 2}
    result = one_cell(f"{system}:{variant.name}", discovery.scenarios()["periodic"], params=params)
    assert (result.status, result.reason) == (Status.OK, "")
    found = {metric.name: metric.value for metric in result.metrics}
    assert found["ticks_planned"] in (2, 3)  # the first turn may be near or far
    assert found["ticks_skipped"] == found["ticks_repeated"] == 0
    assert found["tick_delay_p50"] >= 0


class Retried(Scenario):
    """Tasks that raise once, and are to be run again."""

    title = "retried"
    parameters = {}
    profiles = {}

    def seconds(self, params: Mapping[str, Any]) -> float:
        return 1

    def phases(self, params: Mapping[str, Any], variant: Variant) -> Phases:
        yield Phase("retried", Load(tasks(variant), work="raise-once", retries=1))

    def metrics(self, history: History, params: Mapping[str, Any]) -> Iterable[Metric]:
        return ()


@pytest.mark.parametrize(
    "word",
    [
        "reference",
        "celery:redis",
        "dramatiq:redis",
        "rq:redis",
        "temporal:memory",
        "temporal:memory-activities",
    ],
)
def test_a_task_that_raises_once_is_run_again_and_ends_well(word: str, one_cell: OneCell) -> None:
    ((system, variant),) = discovery.select([word], discovery.systems())
    assert "retry" in system.capabilities
    skip_without_services(variant)
    result = one_cell(word, Retried())
    assert (result.status, result.reason) == (Status.OK, "")
    assert result.tasks is not None
    sent = result.tasks[result.tasks["phase"] > 0]
    assert len(sent) == tasks(variant)
    for what, times in (("starts", 2), ("fails", 1), ("ends", 1)):
        assert (sent[what] == times).all(), what
    assert (ledger.fates(sent, math.inf) == "ok").all()


def _of_harness(name: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == name:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found
