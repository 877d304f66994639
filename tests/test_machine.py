"""What is read of a machine, on made-up trees of files, and what `doctor` advises."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench import kernel, machine
from bench.advice import judged

V2 = "cgroup2 cgroup2 rw,nsdelegate"


def tree(root: Path, **files: str) -> Path:
    """A root folder with these files; `__` in a name stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def grouped(root: Path, own: str, *mounts: str) -> Path:
    """A root folder of a process in these control groups; a mount is `SHOWN POINT KIND SOURCE OPTIONS`."""
    lines = []
    for mount in mounts:
        shown, point, rest = mount.split(" ", 2)
        lines.append(f"31 23 0:28 {shown} {point} rw,relatime shared:9 - {rest}")
    return tree(root, proc__self__cgroup=own, proc__self__mountinfo="\n".join(lines))


def limit(root: Path, group: str, **files: str) -> None:
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / group / name.replace("_", ".", 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


# --- control groups -------------------------------------------------------------------------------------


def test_a_container_with_half_a_cpu_says_so(tmp_path: Path) -> None:
    grouped(tmp_path, "0::/", f"/ /sys/fs/cgroup {V2}")
    limit(tmp_path, "", cpu_max="50000 100000", memory_max=str(2**29))
    assert kernel.limits(tmp_path) == kernel.Limits(0.5, 2**29)
    (check,) = [check for check in judged(known(quota_cores=0.5)) if check.name == "CPU quota"]
    assert (check.state, check.found) == ("note", "0.5 CPUs of 4 that can be seen")
    assert check.advice


def test_the_tightest_limit_among_a_group_and_its_parents_counts(tmp_path: Path) -> None:
    grouped(tmp_path, "0::/user.slice/user-7.slice/job", f"/ /sys/fs/cgroup {V2}")
    limit(tmp_path, "user.slice", cpu_max="150000 100000", memory_max="max")
    limit(tmp_path, "user.slice/user-7.slice", cpu_max="max 100000", memory_max=str(2**32))
    limit(tmp_path, "user.slice/user-7.slice/job", cpu_max="400000 100000", memory_max=str(2**33))
    limit(tmp_path, "user.slice/user-8.slice", cpu_max="10000 100000", memory_max="4096")
    assert kernel.limits(tmp_path) == kernel.Limits(1.5, 2**32)


def test_limits_of_version_1_are_read_from_the_hierarchy_of_each_controller(tmp_path: Path) -> None:
    grouped(
        tmp_path,
        "5:memory:/job\n4:cpuset:/\n3:cpu,cpuacct:/job\n1:name=systemd:/\n0::/",
        "/ /sys/fs/cgroup/cpu,cpuacct cgroup cgroup rw,cpu,cpuacct",
        "/ /sys/fs/cgroup/memory cgroup cgroup rw,memory",
        "/ /sys/fs/cgroup/unified cgroup2 cgroup2 rw",
        "/ /proc proc proc rw",
    )
    limit(tmp_path, "cpu,cpuacct/job", cpu_cfs_quota_us="250000", cpu_cfs_period_us="100000")
    limit(tmp_path, "memory/job", memory_limit_in_bytes=str(3 * 2**30))
    limit(tmp_path, "memory", memory_limit_in_bytes="9223372036854771712")
    assert kernel.limits(tmp_path) == kernel.Limits(2.5, 3 * 2**30)


def test_a_container_that_sees_its_own_group_as_the_root_of_the_mount(tmp_path: Path) -> None:
    grouped(
        tmp_path,
        "2:cpu:/docker/f00\n1:memory:/docker/f00\n0::/../other",
        "/docker/f00 /sys/fs/cgroup/cpu cgroup cgroup rw,cpu",
        "/docker/f00 /sys/fs/cgroup/memory cgroup cgroup rw,memory",
    )
    limit(tmp_path, "cpu", cpu_cfs_quota_us="50000", cpu_cfs_period_us="100000")
    limit(tmp_path, "memory", memory_limit_in_bytes="1048576")
    assert kernel.limits(tmp_path) == kernel.Limits(0.5, 2**20)


def test_a_group_without_limits_has_none(tmp_path: Path) -> None:
    grouped(tmp_path, "2:cpu:/\n0::/", "/ /sys/fs/cgroup/cpu cgroup cgroup rw,cpu")
    limit(tmp_path, "cpu", cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
    assert kernel.limits(tmp_path) == kernel.Limits(None, None)
    assert not [check for check in judged(known()) if check.name in ("CPU quota", "memory limit", "swap")]


# --- processor and clocks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "turbo"),
    [
        ({"intel_pstate__no_turbo": "0"}, True),
        ({"intel_pstate__no_turbo": "1", "cpufreq__boost": "1"}, False),
        ({"cpufreq__boost": "1"}, True),
        ({"cpufreq__boost": "0"}, False),
        ({}, None),
    ],
)
def test_turbo_of_either_driver(tmp_path: Path, files: dict[str, str], turbo: bool | None) -> None:
    tree(tmp_path, **{f"sys__devices__system__cpu__{name}": text for name, text in files.items()})
    assert kernel.turbo(tmp_path) is turbo


@pytest.mark.parametrize(
    ("flags", "files", "found"),
    [
        ("fpu hypervisor sse", {}, "virtual machine"),
        ("fpu hypervisor", {"sys__class__dmi__id__sys_vendor": "QEMU"}, "virtual machine QEMU"),
        ("fpu", {"sys__class__dmi__id__sys_vendor": "LENOVO"}, "LENOVO"),
        ("fpu", {}, "none seen"),
        ("fpu hypervisor", {".dockerenv": ""}, "container"),
    ],
)
def test_virtualisation(tmp_path: Path, flags: str, files: dict[str, str], found: str) -> None:
    tree(tmp_path, proc__cpuinfo=f"model name\t: A CPU: fast\nflags\t\t: {flags}", **files)
    assert kernel.virtualisation(tmp_path) == found
    assert kernel.cpu_name(tmp_path) == "A CPU: fast"


def test_the_small_facts(tmp_path: Path) -> None:
    tree(
        tmp_path,
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="powersave",
        sys__devices__system__cpu__smt__active="1",
        sys__devices__system__clocksource__clocksource0__current_clocksource="hpet",
        proc__self__timerslack_ns="50000",
    )
    seen = kernel.governor(tmp_path), kernel.smt(tmp_path), kernel.clock_source(tmp_path)
    assert (*seen, kernel.timer_slack_ns(tmp_path)) == ("powersave", True, "hpet", 50_000)


def test_nothing_is_made_up_where_the_kernel_says_nothing(tmp_path: Path) -> None:
    seen = kernel.governor(tmp_path), kernel.clock_source(tmp_path), kernel.cpu_name(tmp_path)
    assert seen == ("", "", "")
    assert (kernel.turbo(tmp_path), kernel.smt(tmp_path), kernel.timer_slack_ns(tmp_path)) == (None, None, 0)
    assert kernel.virtualisation(tmp_path) == "none seen"
    assert kernel.limits(tmp_path) == kernel.Limits(None, None)


def test_facts_of_this_machine() -> None:
    found = machine.facts()
    assert found["cores"] >= found["usable_cores"] >= 1
    assert found["usable_cores"] == len(os.sched_getaffinity(0))
    assert found["memory_bytes"] > (found["memory_limit_bytes"] or 0)
    assert found["quota_cores"] is None or found["quota_cores"] > 0
    assert 0 <= found["stolen_since_boot"] < 1
    assert {"cpu", "kernel", "python", "governor", "load", "pss", "cpu_source"} <= set(found)


# --- advice ----------------------------------------------------------------------------------------------


def known(**changes: Any) -> dict[str, Any]:
    """A machine of which nothing bad is known."""
    perfect = {
        "cpu": "A CPU",
        "cores": 4,
        "usable_cores": 4,
        "memory_bytes": 2**34,
        "python": "3.11.7",
        "virtualisation": "none seen",
        "governor": "performance",
        "turbo": False,
        "smt": False,
        "quota_cores": None,
        "memory_limit_bytes": None,
        "swap_used_bytes": 0,
        "stolen_since_boot": 0.0,
        "clock_source": "tsc",
        "timer_slack_ns": 50_000,
        "load": [0.1, 0.1, 0.1],
        "pss": True,
        "cpu_source": "cgroup2",
        "burn_spread": 0.02,
        "stolen_share": 0.0,
        "timer_ns": 30,
        "sleep_ns": 60_000,
    }
    assert set(changes) <= set(perfect)
    return {**perfect, **changes}


def test_a_perfect_machine_gets_no_advice() -> None:
    assert {check.state for check in judged(known())} == {"ok"}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cores", {"usable_cores": 1}),
        ("CPU quota", {"quota_cores": 3.5}),
        ("load", {"load": [2.1, 0, 0]}),
        ("noise", {"burn_spread": 0.3}),
        ("noise", {"stolen_share": 0.05}),
        ("timers", {"sleep_ns": 4_000_000}),
        ("clock source", {"clock_source": "hpet"}),
        ("governor", {"governor": "powersave"}),
        ("turbo", {"turbo": True}),
        ("SMT", {"smt": True}),
        ("virtualisation", {"virtualisation": "virtual machine QEMU"}),
        ("memory", {"pss": False}),
        ("memory limit", {"memory_limit_bytes": 2**29}),
        ("swap", {"swap_used_bytes": 2**30}),
        ("CPU accounting", {"cpu_source": "psutil"}),
    ],
)
def test_each_shortcoming_gets_its_advice_and_nothing_else_does(name: str, changes: dict[str, Any]) -> None:
    noted = [check for check in judged(known(**changes)) if check.state == "note"]
    assert [check.name for check in noted] == [name]
    assert noted[0].advice
