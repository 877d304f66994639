"""What there is to measure: adapters and scenarios by file name.

An adapter's header (inline script metadata, PEP 723) is read as text. No adapter is ever imported here:
its dependencies exist only in its own environment.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from bench.errors import UsageError, unknown
from bench.model import FAULTS, PARITY, PROMISES, Changed, Parity, Promise, Scaled, System, Traced, Variant

if TYPE_CHECKING:
    from bench.scenario import Scenario

FAMILIES: Final = ("timer", "task queue", "orchestrator", "floor", "pattern")
GUARANTEES: Final = ("none", "at-most-once", "at-least-once", "exactly-once")

_BLOCK: Final = re.compile(r"(?m)^# /// script$\s(?P<content>(?:^#(?:| .*)$\s)+)^# ///$")
_VARIANT_NAME: Final = re.compile(
    r"(?!all$)[A-Za-z0-9][A-Za-z0-9-]*"
)  # `SYSTEM:VARIANT`, and a folder's name
_SCRIPT_KEYS: Final[Mapping[str, type]] = {"requires-python": str, "dependencies": list, "tool": dict}
_SYSTEM_KEYS: Final[Mapping[str, type]] = {
    "title": str, "family": str, "homepage": str, "capabilities": list, "default": list, "variants": dict,
    "parity": dict, "changed": dict, "promises": dict, "scaled": dict, "traced": dict,
}  # fmt: skip
_VARIANT_KEYS: Final[Mapping[str, type]] = {
    "summary": str, "services": list, "guarantee": str, "source": str, "settings": dict,
    "max_slots": int, "queue_limit": int, "settle_s": float, "start_s": float,
    "batch": bool, "heavy": bool, "canary_ms": int,
    "every_s": float, "shortest_s": float, "early_s": float,
    "parity": dict, "changed": dict, "promises": dict, "scaled": dict, "traced": dict,
}  # fmt: skip

_SHARED: Final = ("parity", "changed", "promises", "scaled", "traced")
"""Tables of a system that hold for each of its variants, which may say otherwise key by key."""


def folder_of(package: str) -> Path:
    """Where a package of this distribution lies, in a checkout or a wheel, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"the package {package!r} is not installed: reinstall schedbench")
    return Path(next(iter(spec.submodule_search_locations)))


# --- systems --------------------------------------------------------------------------------------


def systems(folder: Path | None = None) -> dict[str, System]:
    """Every adapter in `folder` (default: those that come with schedbench), by name, in name order.

    Raises:
        UsageError: a header is missing or not valid; names the file, the key and the nearest valid one.
    """
    paths = sorted((folder or folder_of("adapters")).glob("*.py"))
    return {path.stem: load(path) for path in paths if not path.stem.startswith("_")}


def load(path: Path) -> System:
    """The system that one adapter file describes, wherever the file lies; its name is the file's stem.

    Raises:
        UsageError: no such file, or as `systems`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read adapter {path}: {error}") from error
    if not path.stem.isidentifier():
        raise UsageError(f"{path}: rename the file, {path.stem!r} is not a valid module name")
    header = _header(path, text)
    top = _Table(f"{path}", header)
    top.check(_SCRIPT_KEYS, required=_SCRIPT_KEYS)
    own = _Table(f"{path} [tool.schedbench]", header["tool"].get("schedbench"))
    own.check(_SYSTEM_KEYS, required=_SYSTEM_KEYS.keys() - {"default", *_SHARED})
    own.one_of("family", FAMILIES)
    declared = own.values["variants"]
    if not declared:
        raise UsageError(f"{own.place}: declare at least one variant, [tool.schedbench.variants.NAME]")
    shared = {key: own.values.get(key, {}) for key in _SHARED}
    variants = {
        name: _variant(f"{path} [tool.schedbench.variants.{name}]", name, declared[name], shared)
        for name in declared
    }
    default = own.strings("default") if "default" in own.values else tuple(variants)[:1]
    for name in default:
        if name not in variants:
            raise UsageError(f"{own.place} default: {unknown('variant', name, variants)}")
    lock = path.parent / "locks" / f"{path.stem}.txt"
    return System(
        name=path.stem,
        title=own.values["title"],
        family=own.values["family"],
        homepage=own.values["homepage"],
        capabilities=frozenset(own.strings("capabilities")),
        requires_python=top.parsed("requires-python", [header["requires-python"]], SpecifierSet)[0],
        dependencies=top.parsed("dependencies", top.strings("dependencies"), Requirement),
        default=default,
        variants=variants,
        path=str(path.absolute()),
        lock=str(lock.absolute()) if lock.exists() else None,
    )


def _header(path: Path, text: str) -> dict[str, Any]:
    blocks = list(_BLOCK.finditer(text))
    if len(blocks) != 1:
        raise UsageError(
            f"{path}: needs one '# /// script' header (PEP 723) closed by '# ///', found {len(blocks)}"
        )
    lines = blocks[0]["content"].splitlines(keepends=True)
    try:
        return tomllib.loads("".join(line[2:] if line.startswith("# ") else line[1:] for line in lines))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: the header is not valid TOML: {error}") from error


def _variant(place: str, name: str, values: object, shared: Mapping[str, Mapping[str, object]]) -> Variant:
    """A variant; what it says of parity and of changed settings goes over what its system says."""
    if not _VARIANT_NAME.fullmatch(name):
        raise UsageError(f"{place}: a variant's name is made of letters, digits and '-', and is not 'all'")
    table = _Table(place, values)
    table.check(_VARIANT_KEYS, required=["guarantee"])
    table.one_of("guarantee", GUARANTEES)
    for key in ("max_slots", "queue_limit", "canary_ms"):
        if table.values.get(key, 1) < 1:
            raise UsageError(f"{place}: {key} must be at least 1, got {table.values[key]}")
    own = {key: {**shared[key], **table.values.get(key, {})} for key in shared}
    for key in own["parity"]:
        if key not in PARITY:
            raise UsageError(f"{place} parity: {unknown('key', key, PARITY)}")
    return Variant(
        name=name,
        **{
            **table.values,
            "services": table.strings("services"),
            "parity": {
                key: Parity(*_texts(f"{place} parity", own["parity"], key, 2)) for key in own["parity"]
            },
            "changed": {
                key: Changed(*_texts(f"{place} changed", own["changed"], key, 3)) for key in own["changed"]
            },
            "promises": {key: _promise(f"{place} promises", own["promises"], key) for key in own["promises"]},
            "scaled": {key: _scaled(f"{place} scaled", own["scaled"], key) for key in own["scaled"]},
            "traced": {key: _traced(f"{place} traced", own["traced"], key) for key in own["traced"]},
        },
    )


def _texts(place: str, table: Mapping[str, object], key: str, n: int) -> list[str]:
    """The `n` texts under `key`, the last of them a link."""
    found = table[key]
    texts = [item for item in found if isinstance(item, str)] if isinstance(found, list) else []
    if texts != found or len(texts) != n or not texts[-1].startswith("https://"):
        raise UsageError(f"{place}: {key} must be a list of {n} texts, the last one a link, got {found!r}")
    return texts


def _promise(place: str, table: Mapping[str, object], key: str) -> Promise:
    match table[key]:
        case [str(kind), str(words), int() | float() as within_s, str(link)] if link.startswith("https://"):
            if key not in FAULTS:
                raise UsageError(f"{place}: {unknown('fault', key, FAULTS)}")
            if kind not in PROMISES:
                raise UsageError(f"{place} {key}: {unknown('promise', kind, PROMISES)}")
            return Promise(kind, words, float(within_s), link)
    raise UsageError(f"{place}: {key} must be [kind, words, seconds, link], got {table[key]!r}")


def _traced(place: str, table: Mapping[str, object], key: str) -> Traced:
    words, link = _texts(place, table, key, 2)
    if key not in FAULTS or "; " in words:
        why = "has '; ' in its words" if key in FAULTS else unknown("fault", key, FAULTS)
        raise UsageError(f"{place} {key}: {why}")
    return Traced(words, link)


def _scaled(place: str, table: Mapping[str, object], key: str) -> Scaled:
    match table[key]:
        case [value, str(words), str(link)] if link.startswith("https://") and "; " not in words:
            return Scaled(value, words, link)
    raise UsageError(f"{place}: {key} must be [value, words without '; ', link], got {table[key]!r}")


@dataclasses.dataclass(frozen=True)
class _Table:
    """One table of a header, with the place that errors name."""

    place: str
    table: object

    @property
    def values(self) -> dict[str, Any]:
        if not isinstance(self.table, dict):
            raise UsageError(f"{self.place}: the table is missing")
        return self.table

    def check(self, keys: Mapping[str, type], required: Iterable[str]) -> None:
        """Raise UsageError unless the table has the required keys, no others than `keys`, and their types."""
        for key, value in self.values.items():
            if key not in keys:
                raise UsageError(f"{self.place}: {unknown('key', key, keys)}")
            wanted = (int, float) if keys[key] is float else keys[key]
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                raise UsageError(f"{self.place}: {key} must be a {keys[key].__name__}, got {value!r}")
        missing = [key for key in keys if key in set(required) - self.values.keys()]
        if missing:
            raise UsageError(f"{self.place}: missing {', '.join(missing)}")

    def one_of(self, key: str, choices: Sequence[str]) -> None:
        """Raise UsageError unless the value is one of `choices`."""
        if self.values[key] not in choices:
            raise UsageError(f"{self.place}: {unknown(key, self.values[key], choices)}")

    def strings(self, key: str) -> tuple[str, ...]:
        """The list of strings under `key`; empty if there is none."""
        found = self.values.get(key, [])
        if not all(isinstance(item, str) for item in found):
            raise UsageError(f"{self.place}: {key} must be a list of strings, got {found!r}")
        return tuple(found)

    def parsed(self, key: str, texts: Sequence[str], parse: type[Requirement] | type[SpecifierSet]) -> Any:
        """`texts`, unchanged, after each was found to be valid."""
        for text in texts:
            try:
                parse(text)
            except (InvalidRequirement, InvalidSpecifier) as error:
                raise UsageError(f"{self.place}: {key}: {' '.join(str(error).split())}") from error
        return tuple(texts)


def select(words: Sequence[str], systems: Mapping[str, System]) -> list[tuple[System, Variant]]:
    """What the user named: SYSTEM, SYSTEM:VARIANT, SYSTEM:all, or the path of an adapter in place of SYSTEM.

    Without words, the default variants of every system; a system that has none is measured when it is named,
    by its first variant. In the order asked for, each once.

    Raises:
        UsageError: an unknown system or variant, or as `load`.
    """
    chosen: dict[tuple[str, str], tuple[System, Variant]] = {}
    for word in words or systems:
        name, _, wanted = (word, "", "") if word.endswith(".py") else word.partition(":")
        if name.endswith(".py"):
            system = load(Path(name))
        elif name in systems:
            system = systems[name]
        else:
            raise unknown("system", name, systems)
        if wanted and wanted != "all" and wanted not in system.variants:
            raise unknown(f"variant of {system.name}", wanted, ["all", *system.variants])
        plain = system.default or tuple(system.variants)[: 1 if words else 0]
        names = {"": plain, "all": tuple(system.variants)}.get(wanted, (wanted,))
        chosen |= {(system.path, name): (system, system.variants[name]) for name in names}
    return list(chosen.values())


# --- scenarios ------------------------------------------------------------------------------------


def scenarios() -> dict[str, Scenario]:
    """Every scenario in scenarios/*.py by file name, in name order.

    Raises:
        UsageError: a module that does not define exactly one scenario.
    """
    from bench.scenario import Scenario  # only here, so that `list` does not wait for pandas

    found: dict[str, Scenario] = {}
    for path in sorted(folder_of("scenarios").glob("*.py")):
        if path.stem.startswith("_"):
            continue
        module = importlib.import_module(f"scenarios.{path.stem}")
        own = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Scenario) and value.__module__ == module.__name__
        ]
        if len(own) != 1:
            raise UsageError(f"{path}: must define exactly one Scenario subclass, found {len(own)}")
        found[path.stem] = own[0]()
    return found
