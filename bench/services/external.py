"""What services elsewhere share: their addresses from the environment, and names for what is made there.

What a run makes on a server of somebody else's goes by a name that tells whose it is, so that the next run
can take away what a killed one left, and nothing else.
"""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import urlsplit

from bench.errors import Unsupported
from bench.harness import alive, here

LIMIT_S: Final = 5.0
"""How long a server elsewhere may take to answer."""

PREFIX: Final = "schedbench"
OWN: Final = re.compile(rf"{PREFIX}_([0-9a-z]+)_(\d+)_(\d+)_\d+")
"""Place, pid and start of the harness, and a number: letters that every server takes in a name."""


def own_name(owner: str, number: int) -> str:
    """What a cell's database, virtual host or namespace is called. `owner` is the harness, by `Home.name`."""
    return f"{PREFIX}_{here()}_{owner.replace('-', '_')}_{number}"


def orphaned(name: str) -> bool:
    """Whether something was made by a harness of this place that is no longer alive."""
    match = OWN.fullmatch(name)
    return bool(match and match[1] == here() and not alive(f"{match[2]}-{match[3]}"))


def url(variable: str, scheme: str, port: int) -> str:
    """The URL in an environment variable.

    Raises:
        Unsupported: none is set, or it is not one of that kind; its password is not shown.
    """
    text = os.environ.get(variable, "")
    if not text:
        raise Unsupported(f"set ${variable} to {scheme}://USER:PASSWORD@HOST:{port}")
    try:
        parts = urlsplit(text)
        fine = parts.hostname is not None and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine or parts.scheme != scheme:
        seen = f"it begins with {parts.scheme}://" if fine and parts.scheme else "it is no URL"
        raise Unsupported(f"${variable} must be {scheme}://USER:PASSWORD@HOST:{port}, without TLS: {seen}")
    return text


def no_answer(what: str, variable: str, error: Exception, secret: str) -> str:
    """One line on a server that cannot be used, without its password."""
    said = " ".join(str(error).split()) or type(error).__name__
    if secret:
        said = said.replace(secret, "***")
    return f"no {what} can be used at ${variable} ({said[:200]}): start it, or correct the variable"
