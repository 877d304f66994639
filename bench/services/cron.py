"""cron: Debian's daemon, in a mount namespace where it sees a cell's crontabs and none of the machine's.

https://manpages.debian.org/bookworm/cron/cron.8.en.html, man 1 unshare, man 8 mount
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final

from bench.errors import Unsupported
from bench.model import Role
from bench.services.contract import ServiceSpec
from bench.services.embedded import Server

PACKAGED: Final = Path("/usr/sbin/cron")
CRONTABS: Final = "etc/cron.d"
FOLDERS: Final = (CRONTABS, "var/spool/cron/crontabs", "run")
LIMIT_S: Final = 10

START: Final = """\
exec unshare --mount /bin/sh -e -c '
cd "$0"
for place in /etc/cron.d /etc/crontab /var/spool/cron /run; do
    [ ! -e "$place" ] || mount --bind ".$place" "$place"
done
exec "$1" -f
' {folder} {program}
"""
"""All that the daemon reads, and `/run` for the file by which two of them keep from running. The mounts are
seen by the daemon and its jobs alone, and gone with them."""


def server() -> Server:
    """The `cron` on PATH, else the packaged one; the version is that of Debian's package.

    Raises:
        Unsupported: there is none, or it could not be kept apart from the machine's own.
    """
    path = Path(shutil.which("cron") or PACKAGED)
    if not path.exists():
        raise Unsupported("no cron daemon: install Debian's cron; and it needs root")
    if why := _failure("unshare", "--mount", "mount", "--bind", "/run", "/run"):
        raise Unsupported(f"the cron daemon needs root, and a mount namespace of its own: {why}")
    return Server(path, _version(), "path")


def prepare(folder: Path) -> ServiceSpec:
    """A daemon of its own in `folder`, for the adapter to start once its crontab is there.

    It notices a crontab that comes later only by a change of its folder's time, in whole seconds, and not
    before the next minute. The address is `start`, a script for `/bin/sh`, and `crontabs`, the folder that
    the daemon sees as `/etc/cron.d`.

    Raises:
        Unsupported: as `server`.
    """
    program = server()
    folder = folder.absolute()
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "etc" / "crontab").touch(mode=0o600)
    start = folder / "start"
    start.write_text(
        START.format(folder=shlex.quote(str(folder)), program=shlex.quote(str(program.path))),
        encoding="utf-8",
    )
    return ServiceSpec(
        name="cron",
        role=Role.SCHEDULER,
        argv=(),
        address={"start": str(start), "crontabs": str(folder / CRONTABS)},
        version=program.version,
        provider=program.provider,
        ready=lambda: True,
    )


def _failure(*command: str) -> str:
    """What a command says when it fails; empty when it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"status {done.returncode}"


def _version() -> str:
    """The daemon itself does not tell."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", "cron"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout if done.returncode == 0 else "unknown"
