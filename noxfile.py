"""Everything a user or maintainer runs: `nox -l` lists it; `nox -s bench -- celery rq` measures those two."""

from __future__ import annotations

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str) -> None:
    """Install schedbench from this checkout, with dependency groups of pyproject.toml."""
    session.install("-e", ".", *nox.project.dependency_groups(PROJECT, *groups))


@nox.session
def bench(session: nox.Session) -> None:
    """Measure every system that can run here (quick profile), then show it beside the published figures."""
    install(session)
    failed = False
    try:
        session.run("schedbench", "run", *session.posargs)
    except CommandFailed:
        failed = True
    session.run("schedbench", "report")
    if failed:
        session.error("some cells did not end well: see the table of cells in the report")


@nox.session
def report(session: nox.Session) -> None:
    """Show a recorded run again (the latest, or `-- RUN`)."""
    install(session)
    session.run("schedbench", "report", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Unit, golden, property, end-to-end and conformance tests; real servers, no Docker."""
    install(session, "tests")
    session.run("pytest", *session.posargs)


@nox.session
def overhead(session: nox.Session) -> None:
    """What the harness itself costs, against floors in the same run. Wants a quiet machine."""
    install(session, "tests")
    session.run("pytest", "tests/overhead", "-s", *session.posargs)


@nox.session
def agree(session: nox.Session) -> None:
    """The harness beside scripts that use each library directly (`-- REPETITIONS SYSTEM ...`; 3, all)."""
    install(session)
    session.run("python", "-m", "tests.direct.agree", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: lint and format."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    install(session, "types")
    session.run("mypy")


@nox.session
def lock(session: nox.Session) -> None:
    """Refresh the lock file of every adapter (`-- NAME ...` for some)."""
    install(session)
    session.run("schedbench", "lock", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """How many planted bugs the tests of the pure core notice, and which not. Takes half an hour."""
    install(session, "tests", "mutants")
    session.run("python", "-m", "tests.mutants.run", *session.posargs)
