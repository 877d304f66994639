"""The command line: arguments in, exit codes out. Nothing else in the harness prints.

Exit codes: 0 fine; 1 a cell failed or the disk did not take the results; 2 a usage error; 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import __version__, discovery, environments, harness, machine, selftest, services, session, store
from bench import calibration as calibrating
from bench.errors import SchedbenchError, UsageError, unknown
from bench.model import Cell, Status, System, Variant
from bench.parity import parity_table
from bench.progress import StepProgress
from bench.runner import Result

RESULTS = Path("results")
FORMATS = ("terminal", "markdown", "html", "csv")
GOOD = {Status.OK, Status.UNSUPPORTED}
STYLES = {
    Status.OK: "green",
    Status.TIMEOUT: "red",
    Status.ERROR: "red",
    Status.UNSUPPORTED: "yellow",
    Status.INTERRUPTED: "yellow",
}
CALIBRATION, CALIBRATION_S = "calibration", 25.0
AA, AA_S = "A/A", 170.0

PLAIN_WIDTH = 140
"""Columns where the output goes to a file or a pipe that does not say."""


def _console(*, stderr: bool = False) -> Console:
    found = Console(stderr=stderr)
    plain = not found.is_terminal and "COLUMNS" not in os.environ
    return Console(stderr=stderr, width=PLAIN_WIDTH) if plain else found


console = _console()
errors = _console(stderr=True)


class _Commands(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown("command", args[0], [name for name, one in self.commands.items() if not one.hidden])
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="schedbench")
def cli() -> None:
    """Measure what Python schedulers, task queues and orchestrators cost and promise on this machine.

    \b
    A first session:
      schedbench doctor                  what this machine can run, and how noisy it is
      schedbench run celery rq           measure two systems (quick profile: a few minutes)
      schedbench report                  tables beside the published figures, charts, one HTML page
    """  # noqa: D301 - click wants the backspace itself


@cli.command("list")
@click.argument("systems", nargs=-1, metavar="[SYSTEM[:VARIANT] ...]")
@click.option(
    "--parity",
    "side_by_side",
    is_flag=True,
    help="What is compared with what, and every setting that differs from the vendor's default.",
)
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON document, parity included.")
def list_(systems: tuple[str, ...], side_by_side: bool, as_json: bool) -> None:
    """Show systems and variants, what is available here and why not, and the scenarios.

    SYSTEM is a name or the path of an adapter file, with :VARIANT for one configuration; without any, all
    are shown. With --parity: what a slot is in each variant, in what a task runs, when it counts as taken,
    what outlives a restart, what is kept of results, what is taken in advance and how work is found, each
    with the vendor's page.

    \b
    Examples:
      schedbench list --parity celery rq
      schedbench list --parity dramatiq:redis dramatiq:rabbitmq
    """  # noqa: D301
    chosen = _listed(systems)
    if side_by_side and not as_json:
        _parity(chosen if systems else [pair for pair in chosen if pair[0].family != "floor"])
        return
    scenarios = {} if systems else discovery.scenarios()
    rows = [
        {
            "system": system.name,
            "title": system.title,
            "family": system.family,
            "variant": variant.name,
            "default": variant.name in system.default,
            "guarantee": variant.guarantee,
            "source": variant.source,
            "services": list(variant.services),
            "summary": variant.summary,
            "parity": {key: dataclasses.asdict(fact) for key, fact in variant.parity.items()},
            "changed": {key: dataclasses.asdict(fact) for key, fact in variant.changed.items()},
            **_available(system.lock is not None or not system.dependencies, variant.services),
        }
        for system, variant in chosen
    ]
    if as_json:
        described = {
            name: {
                "title": scenario.title,
                "parameters": {
                    key: {"default": parameter.default, "help": parameter.help}
                    for key, parameter in scenario.parameters.items()
                },
            }
            for name, scenario in scenarios.items()
        }
        click.echo(json.dumps({"systems": rows, "scenarios": described}, indent=1))
        return
    table = Table(
        "system:variant", "family", "guarantee", "here", "what it is", title="Systems (* measured by default)"
    )
    for row in rows:
        star = " *" if row["default"] else ""
        here = "[green]yes[/]" if row["available"] else f"[yellow]no: {escape(row['reason'])}[/]"
        name = f"[bold]{row['system']}[/]:{row['variant']}{star}"
        table.add_row(name, row["family"], row["guarantee"], here, escape(row["summary"]))
    console.print(table)
    if scenarios:
        table = Table(
            "scenario", "parameter", "default", "meaning", title="Scenarios (change a parameter with --set)"
        )
        for name, scenario in scenarios.items():
            table.add_row(f"[bold]{name}[/]", "", "", escape(scenario.title))
            for key, parameter in scenario.parameters.items():
                table.add_row("", key, str(parameter.default), escape(parameter.help))
        console.print(table)
    words = " ".join(systems) or "celery rq"
    console.print(f"what is compared with what: schedbench list --parity {words}", highlight=False)


def _listed(words: tuple[str, ...]) -> list[tuple[System, Variant]]:
    """The named systems with all their variants, or the named variants; without any word, everything."""
    known = discovery.systems()
    whole = [word if ":" in word else f"{word}:all" for word in words or known]
    return discovery.select(whole, known)


def _parity(chosen: list[tuple[System, Variant]]) -> None:
    """The chosen variants, system by system."""
    by_path: dict[str, list[tuple[System, Variant]]] = {}
    for system, variant in chosen:
        by_path.setdefault(system.path, []).append((system, variant))
    for own in by_path.values():
        table, links = parity_table(own[0][0], [variant for _, variant in own])
        console.print(table)
        for link in links:
            console.print(f"  {escape(link)}", style="dim", highlight=False, soft_wrap=True)
        console.print()


def _available(locked: bool, needed: tuple[str, ...]) -> dict[str, Any]:
    missing = [reason for name in needed for fine, reason in [services.available(name)] if not fine]
    if not locked:
        missing.append("no lock: `nox -s lock`")
    return {"available": not missing, "reason": "; ".join(missing)}


@cli.command()
@click.option(
    "--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="Where runs go."
)
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON document.")
def doctor(results: Path, as_json: bool) -> None:
    """Say what this machine can run, how noisy it is, and what to install or change."""
    killed = harness.sweep()
    checks = machine.checks(results)
    for name in services.EMBEDDED:
        fine, found = services.available(name)
        checks.append(machine.Check(name, "ok" if fine else "missing", found))
    checks += [
        machine.Check(name, "ok" if fine else "note", found) for name, fine, found in services.beside()
    ]
    if killed:
        checks.append(
            machine.Check("left-overs", "note", f"ended {len(killed)} processes of a run that was killed")
        )
    if as_json:
        click.echo(json.dumps([check.__dict__ for check in checks], indent=1))
        return
    styles = {"ok": "green", "note": "yellow", "missing": "red"}
    table = Table("", "check", "found", "advice", title="This machine")
    for check in checks:
        state = f"[{styles[check.state]}]{check.state}[/]"
        table.add_row(state, check.name, escape(check.found), escape(check.advice))
    console.print(table)


@cli.command()
@click.argument("systems", nargs=-1, metavar="[SYSTEM[:VARIANT] ...]")
@click.option(
    "--scenario", "scenarios", multiple=True, help="Measure only this; may be given again.  [default: all]"
)
@click.option(
    "--profile", default="quick", show_default=True, help="quick, standard (6 trials) or full (10 trials)."
)
@click.option("--trials", type=int, help="Trials of every cell.  [default: the profile's]")
@click.option("--seed", type=int, default=1, show_default=True, help="Order of the cells, and arrivals.")
@click.option("--slots", type=int, help="Tasks that may run at once, the same for all.  [default: cores]")
@click.option(
    "--services",
    "provider",
    default="auto",
    show_default=True,
    help="Where brokers and databases come from: embedded (servers of wheels and of this machine), "
    "containers (pinned images), external (addresses in the environment), or auto: containers where a Docker "
    "engine has the images, else embedded.",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter, e.g. latency.rate=20, or 20,50 for both; in containers also "
    "services.redis.memory=256m, services.redis.cpus=0.5 and net.rtt_ms=2.",
)
@click.option(
    "--calibration/--no-calibration",
    default=True,
    help="Measure timers, floors and the harness's own cost first (25 s); without, little is ranked.",
)
@click.option("--resume", metavar="RUN", help="Take up this run (id or path, or `latest`) where it stopped.")
@click.option(
    "--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="Where runs go."
)
def run(
    systems: tuple[str, ...],
    scenarios: tuple[str, ...],
    profile: str,
    trials: int | None,
    seed: int,
    slots: int | None,
    provider: str,
    sets: tuple[str, ...],
    calibration: bool,
    resume: str | None,
    results: Path,
) -> None:
    """Measure systems and keep everything that was recorded.

    SYSTEM is a name from `schedbench list`, with :VARIANT for one configuration or :all for every one,
    or the path of an adapter file. Without any, the default variants of all systems are measured.

    \b
    Examples:
      schedbench run celery:redis dramatiq --scenario throughput --trials 6
      schedbench run rq --scenario latency --set rate=20 --set arrival=constant
      schedbench run ./my_adapter.py
      schedbench run celery --services containers --set services.redis.memory=256m
      SCHEDBENCH_REDIS_URL=redis://HOST/15 schedbench run rq --services external
      schedbench run --resume latest
    """  # noqa: D301
    asked = session.Request(
        systems,
        scenarios,
        profile,
        trials,
        seed,
        slots if slots is not None else machine.usable_cores(),
        provider,
        sets,
        calibration,
    )
    target: store.Store | None = None
    if resume:
        changed = systems or scenarios or sets or trials or slots or provider != "auto"
        if changed:
            raise UsageError("--resume takes up a run as it was asked for: give it no systems or options")
        target = store.open_store(results, store.latest(results) if resume == "latest" else resume)
        asked = session.requested(target)
        asked = dataclasses.replace(asked, calibrate=asked.calibrate and calibration)
        if asked.services == "auto":  # of a run before there was a choice
            asked = dataclasses.replace(asked, services="embedded")
    plan = session.plan(asked)
    needed = plan.services
    if needed and asked.calibrate and asked.services in ("auto", "containers"):
        needed = list(dict.fromkeys([*needed, "redis"]))  # of a floor
    choice = services.choose(asked.services, needed, _dim)
    if choice.words:
        console.print(f"services: {choice.words}", highlight=False)
    services.check(choice.provider, plan.options)
    plan = dataclasses.replace(plan, request=dataclasses.replace(asked, services=choice.provider))
    _prepare()
    if target is None:
        target = session.begin(plan, results)
    already = target.done()
    todo = [cell for cell in plan.cells if cell.id not in already]
    estimates = {cell.id: plan.seconds(cell) for cell in todo}
    if asked.calibrate and not session.calibrated(target):
        estimates[CALIBRATION] = CALIBRATION_S
    kinds = {cell.id: f"{cell.system}:{cell.variant} {cell.scenario}" for cell in todo}
    with StepProgress(console, estimates, kinds) as progress:
        console.print(
            f"run [bold]{target.run_id}[/]: {len(todo)} cells of {len({c.system for c in todo})} systems, "
            f"{asked.slots} slots, about {progress.left()} once the environments are built",
            highlight=False,
        )
        headlines = {name: scenario.headline for name, scenario in plan.scenarios.items()}
        ended = session.run(plan, target, _Shown(progress, headlines))
    _closing(target, ended)
    if ended[Status.INTERRUPTED]:
        sys.exit(130)
    if any(status not in GOOD for status in ended):
        sys.exit(1)


def _prepare() -> None:
    """Before anything is spawned: how a stop is taken, what earlier runs left, who else is measuring."""
    for signum in harness.STOP_SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup
            signal.signal(signum, _interrupt)
    if killed := harness.sweep():
        errors.print(f"ended {len(killed)} processes left by a run that was killed")
    if removed := services.sweep():
        errors.print(f"removed {len(removed)} containers left by a run that was killed")
    if others := harness.others():
        errors.print(
            f"[yellow]another schedbench is running (pid {others[0]}): the two disturb each other[/]"
        )


def _dim(text: str) -> None:
    console.print(escape(text), highlight=False, style="dim")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Stop once; whoever asks again is already being served, and must not cut the cleaning up short."""
    del signum, frame
    for each in harness.STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


class _Shown(session.Watcher):
    """A session watched on the terminal."""

    def __init__(self, progress: StepProgress, headlines: Mapping[str, str]) -> None:
        self.progress, self.headlines = progress, headlines

    def say(self, text: str) -> None:
        self.progress.console.print(escape(text), highlight=False, style="dim")

    def begin_calibration(self) -> None:
        self.progress.begin(CALIBRATION, CALIBRATION)

    def end_calibration(self, found: Mapping[str, Any]) -> None:
        failed = [row["name"] for row in found["rows"] if row["value"] is None]
        aa = found["aa"]
        words = f"A/A: {aa['different']} of {aa['n']} called different"
        words += f"; no figure for {', '.join(dict.fromkeys(failed))}" if failed else ""
        self.progress.end(CALIBRATION, "ok", "green", words)

    def begin(self, cell: Cell) -> None:
        where = f"{cell.system}:{cell.variant} {cell.scenario} {cell.params_text} trial {cell.trial}"
        self.progress.begin(cell.id, where)

    def doing(self, phase: str) -> None:
        self.progress.doing(phase)

    def end(self, cell: Cell, result: Result) -> None:
        headline = self.headlines.get(cell.scenario, "")
        shown = next((metric for metric in result.metrics if metric.name == headline), None)
        figure = f"{shown.name} {shown.value:.4g} {shown.unit}" if shown and not result.reason else ""
        if shown and shown.note:
            figure += f" ({shown.note})"
        self.progress.end(cell.id, result.status.value, STYLES[result.status], figure or result.reason)


def _closing(target: store.Store, ended: dict[Status, int]) -> None:
    """How the run ended, where its data is, and what to do next."""
    words = ", ".join(f"{count} {status.value}" for status, count in sorted(ended.items()))
    wall_s, measuring_s = float(target.info["wall_s"]), float(target.info["measuring_s"])
    share = measuring_s / wall_s if wall_s else 0.0
    console.print(
        f"{words or 'nothing left to do'}; {share:.0%} of {wall_s:.0f} s spent measuring", highlight=False
    )
    console.print(f"data: {target.path}", highlight=False, soft_wrap=True)
    if ended.get(Status.INTERRUPTED):
        console.print(f"go on: schedbench run --resume {target.run_id}", highlight=False, soft_wrap=True)
    else:
        console.print(f"next: schedbench report {target.run_id}", highlight=False, soft_wrap=True)


@cli.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option(
    "--format",
    "formats",
    multiple=True,
    help="terminal, markdown, html or csv; may be given again.  [default: all]",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where files go.  [default: report/ in the run's folder]"
)
@click.option(
    "--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="Where runs are."
)
def report(run_id: str | None, formats: tuple[str, ...], out: Path | None, results: Path) -> None:
    """Show a run beside the published figures: tables here, and Markdown, CSV, charts and one HTML page.

    RUN is a run's id or path; without it, the latest run is taken.
    """
    from reports.render import report as render  # matplotlib takes a second to load: only here

    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    path = store.resolve(results, run_id) if run_id else store.latest(results)
    written = render(path, set(formats or FORMATS), out or path / "report", console)
    for file in written:
        if file.suffix in (".html", ".md"):
            console.print(f"wrote {file}", highlight=False, soft_wrap=True)


@cli.command("selftest")
@click.argument("lies", nargs=-1, metavar="[LIE ...]")
@click.option("--aa", is_flag=True, help="Then one system under two names, in 40 comparisons (3 minutes).")
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON document.")
def selftest_(lies: tuple[str, ...], aa: bool, as_json: bool) -> None:
    """Plant known faults in the reference adapter, and check that each one is found.

    About a minute and a half. Every fault has a known size, which must lie inside the interval of what is
    found; an honest twin goes through the same, and there nothing may be found. The outcome is kept, and
    every run made on this machine shows it. LIE is the name of one fault; without any, all are planted.

    Exit code: 0 every fault was found, and no more than 5 % of the A/A comparisons were called different;
    1 otherwise: do not trust this machine's figures.
    """
    known = {lie.name: lie for lie in selftest.LIES}
    for name in lies:
        if name not in known:
            raise unknown("lie", name, known)
    chosen = [known[name] for name in lies or known]
    _prepare()
    findings: list[selftest.Finding] = []
    home = harness.Home()
    shown = errors if as_json else console
    estimates = {lie.name: selftest.seconds(lie) for lie in chosen} | ({AA: AA_S} if aa else {})
    compared: dict[str, Any] | None = None
    try:
        with StepProgress(shown, estimates) as progress:
            for finding in selftest.run(
                home, chosen, begin=lambda lie: progress.begin(lie.name, lie.planted), doing=progress.doing
            ):
                findings.append(finding)
                word, style = ("found", "green") if finding.good else ("MISSED", "red")
                progress.end(finding.lie.name, word, style, _found(finding))
            if aa:
                progress.begin(AA, "one system under two names")
                compared = calibrating.aa(home, home.folder / "aa", progress.doing)
                good = selftest.no_difference(compared)
                word, style = ("passed", "green") if good else ("FAILED", "red")
                progress.end(AA, word, style, _compared(compared))
    finally:
        with harness.deferred_signals():
            home.close()
    record = selftest.record(findings, compared)
    if not lies:
        selftest.save(record)
    if as_json:
        click.echo(json.dumps(record, indent=1))
    else:
        _selftest_table(findings)
    if record["outcome"] != "passed":
        sys.exit(1)


def _compared(found: Mapping[str, Any]) -> str:
    """The big A/A in one line."""
    ends = f"{found['low']:.1%} to {found['high']:.1%}"
    return f"{found['different']} of {found['n']} comparisons called different: {found['share']:.1%} ({ends})"


def _found(finding: selftest.Finding) -> str:
    """What was found of a lie, in one line."""
    evidence = finding.evidence
    if evidence is None:
        return finding.reason
    words = [f"{evidence.found} {evidence.unit}", *(f"missing: {one}" for one in evidence.missing)]
    return "; ".join(words)


def _selftest_table(findings: list[selftest.Finding]) -> None:
    table = Table(
        "", "fault", "planted", "found (interval)", "honest twin", "unit", title="Selftest: known faults"
    )
    for finding in findings:
        state = "[green]found[/]" if finding.good else "[red]MISSED[/]"
        evidence = finding.evidence
        cells = (
            [f"{evidence.planted:.4g}", f"{evidence.found}", f"{evidence.honest}", evidence.unit]
            if evidence
            else ["", "", "", ""]
        )
        table.add_row(state, escape(finding.lie.planted), *cells)
        for words in evidence.missing if evidence else (finding.reason,):
            table.add_row("", f"[red]missing: {escape(words)}[/]", *[""] * 4)
    console.print(table)
    found = sum(finding.good for finding in findings)
    console.print(f"{found} of {len(findings)} faults found", highlight=False)


@cli.command()
@click.argument("systems", nargs=-1, metavar="[SYSTEM ...]")
def build(systems: tuple[str, ...]) -> None:
    """Build the environments of systems and fetch the servers of wheels, so that a run needs no network.

    `run` does this by itself; without any SYSTEM, all are built.
    """
    chosen = _listed(systems)
    for system in {system.path: system for system, _ in chosen}.values():
        environments.ensure(system, _dim)
    for name in {name: None for _, variant in chosen for name in variant.services}:
        fine, found = services.available(name)
        console.print(f"{name}: {found if fine else f'not here: {found}'}", highlight=False)


@cli.command(hidden=True)
@click.argument("names", metavar="[SYSTEM ...]", nargs=-1)
def lock(names: tuple[str, ...]) -> None:
    """Refresh the lock file of every adapter, or of some (for maintainers: `nox -s lock -- SYSTEM`)."""
    systems = discovery.systems()
    for name in names or systems:
        if name not in systems:
            raise unknown("system", name, systems)
        system = systems[name]
        if system.dependencies:
            console.print(f"locked {environments.write_lock(system)}", highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point of the console script: every expected error is one line and an exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.UsageError as error:
        errors.print(f"error: {escape(error.format_message())}", highlight=False, soft_wrap=True)
        code = 2
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = 130
    except SchedbenchError as error:
        errors.print(f"error: {escape(str(error))}", highlight=False, soft_wrap=True)
        code = error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
