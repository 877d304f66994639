"""Adapters and scenarios are found by file name, and a wrong header is named exactly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import discovery
from bench.errors import UsageError
from bench.model import PARITY, Changed, Parity, Variant

ROOT = Path(__file__).parents[1]

HEADER = """\
# /// script
# requires-python = ">=3.11"
# dependencies = ["rq~=2.0"]
#
# [tool.schedbench]
# title = "Mine"
# family = "task queue"
# homepage = "https://example.org/"
# capabilities = ["enqueue", "retry"]
# default = ["plain"]
#
# [tool.schedbench.variants.plain]
# summary = "as it comes"
# services = ["redis"]
# guarantee = "at-least-once"
# source = "https://example.org/guarantees"
# settings = { threads = 2 }
# max_slots = 8
# settle_s = 2
#
# [tool.schedbench.variants.fast]
# guarantee = "none"
# ///
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two", "_private"):
        (tmp_path / f"{name}.py").write_text(HEADER + "import a_module_that_does_not_exist\n")
    return tmp_path


def test_a_header_becomes_a_system(folder: Path) -> None:
    system = discovery.load(folder / "one.py")
    assert (system.name, system.title, system.family) == ("one", "Mine", "task queue")
    assert system.capabilities == {"enqueue", "retry"}
    assert system.dependencies == ("rq~=2.0",)
    assert system.requires_python == ">=3.11"
    assert system.default == ("plain",)
    assert system.path == str(folder / "one.py")
    assert list(system.variants) == ["plain", "fast"]
    plain = system.variants["plain"]
    assert (plain.name, plain.services, plain.guarantee) == ("plain", ("redis",), "at-least-once")
    assert (plain.settings, plain.max_slots, plain.queue_limit, plain.settle_s) == (
        {"threads": 2},
        8,
        None,
        2,
    )


def test_a_variant_says_whether_it_is_heavy_and_takes_batches(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        HEADER.replace(
            "# max_slots = 8", "# batch = true\n# heavy = true\n# canary_ms = 1000\n# start_s = 240"
        )
    )
    plain, fast = discovery.load(path).variants.values()
    assert (plain.batch, plain.heavy, plain.canary_ms, plain.start_s) == (True, True, 1000, 240)
    assert (fast.batch, fast.heavy, fast.canary_ms, fast.start_s) == (False, False, 20, 60)
    assert (dict(fast.parity), dict(fast.changed)) == ({}, {})


def test_without_a_default_the_first_variant_is_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEADER.replace('# default = ["plain"]\n', ""))
    assert discovery.load(path).default == ("plain",)


def test_a_system_without_a_default_is_measured_only_when_it_is_named(folder: Path) -> None:
    (folder / "two.py").write_text(HEADER.replace('default = ["plain"]', "default = []"))
    assert chosen([], folder) == ["one:plain"]
    assert chosen(["two"], folder) == ["two:plain"]
    assert chosen(["two:all"], folder) == ["two:plain", "two:fast"]


def test_a_system_takes_tasks_if_it_runs_them_now_or_later(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    for words, takes in (('"enqueue", "retry"', True), ('"delay"', True), ('"periodic"', False), ("", False)):
        path.write_text(HEADER.replace('"enqueue", "retry"', words))
        assert discovery.load(path).takes_tasks is takes


def test_a_variant_says_by_what_its_schedules_count(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEADER.replace("# max_slots = 8", "# every_s = 60"))
    plain, fast = discovery.load(path).variants.values()
    assert (plain.every_s, fast.every_s) == (60, 0)


def test_the_lock_lies_beside_the_adapter_in_locks(folder: Path) -> None:
    assert discovery.load(folder / "one.py").lock is None
    (folder / "locks").mkdir()
    (folder / "locks" / "one.txt").touch()
    assert discovery.load(folder / "one.py").lock == str(folder / "locks" / "one.txt")


def test_a_folder_s_adapters_are_found_by_name_and_never_imported(folder: Path) -> None:
    assert list(discovery.systems(folder)) == ["one", "two"]


def test_the_adapters_that_come_with_schedbench_are_valid() -> None:
    found = discovery.systems()
    assert list(found) == sorted(path.stem for path in (ROOT / "adapters").glob("[!_]*.py"))
    assert found["reference"].dependencies == ()


def shipped() -> list[tuple[str, Variant]]:
    """Every variant that comes with schedbench and is no floor, as SYSTEM:VARIANT."""
    return [
        (f"{system.name}:{variant.name}", variant)
        for system in discovery.systems().values()
        for variant in system.variants.values()
        if system.family != "floor"
    ]


def test_every_variant_that_ships_says_what_it_is_compared_by() -> None:
    missing = {name: [key for key in PARITY if key not in variant.parity] for name, variant in shipped()}
    assert not any(missing.values()), {name: keys for name, keys in missing.items() if keys}


def test_every_variant_that_ships_has_a_page_for_what_it_promises_and_changes_at_least_its_slots() -> None:
    for name, variant in shipped():
        assert variant.source.startswith("https://"), name
        assert variant.changed, name


def test_what_headers_say_of_parity_and_settings_fits_into_a_table() -> None:
    for name, variant in shipped():
        words = [fact.words for fact in variant.parity.values()]
        words += [word for change in variant.changed.values() for word in (change.value, change.why)]
        assert [word for word in words if not 0 < len(word) <= 60] == [], name


def test_a_variant_s_parity_and_changes_go_over_those_of_its_system(tmp_path: Path) -> None:
    page = "https://example.org/page"
    tables = f"""\
# [tool.schedbench.parity]
# slots = ["threads", "{page}"]
# polling = ["every second", "{page}"]
#
# [tool.schedbench.changed]
# --threads = ["slots", "the same for all", "{page}"]
#
# [tool.schedbench.variants.fast.parity]
# polling = ["pushed", "{page}#push"]
#
# [tool.schedbench.variants.fast.changed]
# --threads = ["1", "it is fast", "{page}"]
# push = ["true", "what it brings", "{page}"]
# ///
"""
    path = tmp_path / "mine.py"
    path.write_text(HEADER.removesuffix("# ///\n") + tables)
    found = discovery.load(path).variants
    assert found["plain"].parity["polling"] == Parity("every second", page)
    assert found["fast"].parity == {
        "slots": Parity("threads", page),
        "polling": Parity("pushed", f"{page}#push"),
    }
    assert found["plain"].changed == {"--threads": Changed("slots", "the same for all", page)}
    assert found["fast"].changed["--threads"].value == "1"
    assert list(found["fast"].changed) == ["--threads", "push"]


@pytest.mark.parametrize(
    ("table", "line", "words"),
    [
        ("parity", 'slot = ["a", "https://b"]', ["parity", "did you mean 'slots'?"]),
        ("parity", 'slots = ["a"]', ["slots", "list of 2 texts"]),
        ("parity", 'slots = ["a", "b"]', ["slots", "a link"]),
        ("parity", 'slots = ["a", 1]', ["slots", "list of 2 texts"]),
        ("changed", 'x = ["a", "https://b"]', ["x", "list of 3 texts"]),
        ("changed", 'x = ["a", "b", "http://c"]', ["x", "a link"]),
    ],
)
def test_parity_and_changes_want_their_texts_and_a_link(
    tmp_path: Path, table: str, line: str, words: list[str]
) -> None:
    path = tmp_path / "wrong.py"
    for where in ("", "variants.fast."):
        text = f"# [tool.schedbench.{where}{table}]\n# {line}\n# ///\n"
        path.write_text(HEADER.removesuffix("# ///\n") + text)
        with pytest.raises(UsageError) as caught:
            discovery.load(path)
        assert all(word in str(caught.value) for word in [*words, "wrong.py"])


def test_finding_systems_imports_no_adapter_no_scenario_and_no_pandas() -> None:
    code = (
        "import sys; from bench import discovery; discovery.systems();"
        "print([m for m in sys.modules if m.split('.')[0] in ('adapters', 'scenarios', 'pandas')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title =", "titel =", ["[tool.schedbench]", "'titel'", "did you mean 'title'?"]),
        ('# title = "Mine"\n', "", ["[tool.schedbench]", "missing title"]),
        ('# homepage = "https://example.org/"\n', "", ["missing homepage"]),
        ('"Mine"', "3", ["title", "str", "3"]),
        ('"task queue"', '"task-queue"', ["family", "did you mean 'task queue'?"]),
        ('"at-least-once"', '"at-leats-once"', ["variants.plain", "did you mean 'at-least-once'?"]),
        ('# guarantee = "none"\n', "", ["variants.fast", "missing guarantee"]),
        ("# guarantee = \"none\"", "# guarante = \"none\"", ["variants.fast", "did you mean 'guarantee'?"]),
        ('default = ["plain"]', 'default = ["plan"]', ["default", "did you mean 'plain'?"]),
        ('["enqueue", "retry"]', "[1]", ["capabilities", "list of strings"]),
        ("variants.fast]", "variants.all]", ["variants.all", "name"]),
        ('variants.fast]', 'variants."a:b"]', ["variants.a:b", "name"]),
        ("max_slots = 8", "max_slots = 0", ["max_slots", "at least 1"]),
        ("max_slots = 8", "max_slots = true", ["max_slots", "int"]),
        ('settle_s = 2', 'settle_s = "2"', ["settle_s", "float"]),
        ("max_slots = 8", "batch = 1", ["batch must be a bool, got 1"]),
        ("max_slots = 8", 'heavy = "yes"', ["heavy must be a bool, got 'yes'"]),
        ("max_slots = 8", "canary_ms = 1.5", ["canary_ms must be a int, got 1.5"]),
        ("max_slots = 8", "canary_ms = true", ["canary_ms must be a int, got True"]),
        ("max_slots = 8", "canary_ms = 0", ["canary_ms must be at least 1, got 0"]),
        ("max_slots = 8", "canary = 1000", ["did you mean 'canary_ms'?"]),
        ("max_slots = 8", "start_s = true", ["start_s must be a float"]),
        ("max_slots = 8", "parity = []", ["variants.plain", "parity must be a dict"]),
        ("max_slots = 8", 'changed = "none"', ["variants.plain", "changed must be a dict"]),
        ('# default = ["plain"]', "# parity = 1", ["[tool.schedbench]: parity must be a dict"]),
        ("rq~=2.0", "rq~~2.0", ["dependencies", "rq~~2.0"]),
        (">=3.11", "three", ["requires-python", "three"]),
        ("# dependencies", "# dependancies", ["did you mean 'dependencies'?"]),
        ("[tool.schedbench]", "[tool.other]", ["missing title, family, homepage, capabilities"]),
        ('title = "Mine"', "title = ", ["TOML"]),
        ("# ///\n", "", ["# /// script", "found 0"]),
        ("# ///\n", "# ///\n\n" + HEADER, ["found 2"]),
    ],
)  # fmt: skip
def test_a_wrong_header_is_one_line_with_file_key_and_nearest(
    tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    path = tmp_path / "wrong.py"
    assert old in HEADER
    path.write_text(HEADER.replace(old, new))
    with pytest.raises(UsageError) as caught:
        discovery.systems(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for word in ["wrong.py", *words]:
        assert word in message


def test_a_variant_table_without_any_variant_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.py"
    path.write_text(HEADER.partition("# default")[0] + "# variants = {}\n# ///\n")
    with pytest.raises(UsageError, match="at least one variant"):
        discovery.load(path)


def test_a_file_that_is_not_there_or_cannot_be_a_module_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.py"):
        discovery.load(folder / "nowhere.py")
    with pytest.raises(UsageError, match="rename"):
        discovery.load((folder / "one.py").rename(folder / "one-two.py"))


def chosen(words: list[str], folder: Path) -> list[str]:
    pairs = discovery.select(words, discovery.systems(folder))
    return [f"{system.name}:{variant.name}" for system, variant in pairs]


def test_words_select_systems_and_variants_in_order_and_once(folder: Path) -> None:
    assert chosen([], folder) == ["one:plain", "two:plain"]
    assert chosen(["two"], folder) == ["two:plain"]
    assert chosen(["two:fast", "one"], folder) == ["two:fast", "one:plain"]
    assert chosen(["one:all"], folder) == ["one:plain", "one:fast"]
    assert chosen(["one", "one:all", "one:plain"], folder) == ["one:plain", "one:fast"]


def test_a_path_selects_an_adapter_that_lies_anywhere(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("elsewhere") / "mine.py"
    path.write_text(HEADER)
    assert chosen([str(path)], folder) == ["mine:plain"]
    assert chosen([f"{path}:fast"], folder) == ["mine:fast"]
    assert chosen([f"{path}:all"], folder) == ["mine:plain", "mine:fast"]


@pytest.mark.parametrize(
    ("word", "near"),
    [("on", "'one'"), ("one:fats", "'fast'"), ("two:al", "'all'"), ("nowhere.py", "nowhere.py")],
)
def test_an_unknown_word_is_refused_with_the_nearest(folder: Path, word: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        chosen([word], folder)
    assert near in str(caught.value)
    assert caught.value.exit_code == 2


def test_every_scenario_file_gives_one_scenario() -> None:
    from bench.scenario import Scenario

    found = discovery.scenarios()
    assert list(found) == sorted(path.stem for path in (ROOT / "scenarios").glob("[!_]*.py"))
    assert all(isinstance(scenario, Scenario) for scenario in found.values())
