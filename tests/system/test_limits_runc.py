# SPDX-License-Identifier: Apache-2.0
"""linux.resources on cgroup v1: the same config gives the same files as runc, asked on the spot, makes of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from container_cgroup import ContainerCgroup, is_v2, resources
from support import Bundle, Host, Runtime

MiB = 1 << 20
CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "blkio")
#: What a container does, and not what it is limited to; `tasks` is older for cgroup.procs.
COUNTERS = ("usage", "stat", "failcnt", "current", "events", "peak", "numa_stat", "slabinfo", "tasks", "procs", "local",
            "local_stat", "pressure", "effective", "service_bytes", "serviced", "recursive")


def loop() -> dict[str, int]:
    number = os.stat("/dev/loop0").st_rdev
    return {"major": os.major(number), "minor": os.minor(number)}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "none": dict,
    "shares": lambda: {"cpu": {"shares": 333}},
    "quota": lambda: {"cpu": {"quota": 30000, "period": 50000}},
    "quota alone": lambda: {"cpu": {"quota": 30000}},
    "quota none": lambda: {"cpu": {"quota": -1}},
    "period alone": lambda: {"cpu": {"period": 50000}},
    "zeros": lambda: {"cpu": {"shares": 0, "quota": 0, "period": 0, "realtimeRuntime": 0, "realtimePeriod": 0},
                      "memory": {"limit": 0, "swap": 0, "reservation": 0, "kernel": 0, "kernelTCP": 0},
                      "blockIO": {"weight": 0, "leafWeight": 0}},
    "cpuset": lambda: {"cpu": {"cpus": "1", "mems": "0"}},
    "realtime period": lambda: {"cpu": {"realtimePeriod": 500000}},
    "memory": lambda: {"memory": {"limit": 64 * MiB}},
    "memory and swap": lambda: {"memory": {"limit": 64 * MiB, "swap": 80 * MiB, "reservation": 32 * MiB}},
    "memory, no limit": lambda: {"memory": {"limit": -1}},
    "memory and no swap limit": lambda: {"memory": {"limit": 64 * MiB, "swap": -1}},
    "memory not of whole pages": lambda: {"memory": {"limit": 64 * MiB + 1, "reservation": 32 * MiB + 4097}},
    "reservation, no limit": lambda: {"memory": {"reservation": -1}},
    "swappiness": lambda: {"memory": {"swappiness": 0}},
    "oom killer": lambda: {"memory": {"disableOOMKiller": True, "limit": 64 * MiB}},
    "check": lambda: {"memory": {"limit": 64 * MiB, "checkBeforeUpdate": True, "useHierarchy": True}},
    "pids": lambda: {"pids": {"limit": 23}},
    "pids none": lambda: {"pids": {"limit": -1}},
    "pids zero": lambda: {"pids": {"limit": 0}},
    "weight": lambda: {"blockIO": {"weight": 321}},
    "throttles": lambda: {"blockIO": {name: [{**loop(), "rate": 1000 + index}] for index, name in enumerate((
        "throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice"))}},
    "burst": lambda: {"cpu": {"quota": 30000, "burst": 20000}},
    "burst alone": lambda: {"cpu": {"burst": 5000}},  # means nothing without a quota, but may get one
    "idle": lambda: {"cpu": {"idle": 1}},
}
#: (case, file): what runc 1.1 has there, what we have.
EXPLAINED = {
    # Since 1.3 (opencontainers/cgroups) a limit of 0 is a limit, of what systemd too can express; before, no limit.
    ("pids zero", "pids.max"): ("max", "1"),
    # Fields of runtime-spec 1.1, which runc has carried out since 1.2.
    ("burst", "cpu.cfs_burst_us"): ("0", "20000"),
    ("burst alone", "cpu.cfs_burst_us"): ("0", "5000"),
    ("idle", "cpu.idle"): ("0", "1"),
    ("idle", "cpu.shares"): ("1024", "3"),  # what the kernel shows for an idle one
}


def limits(runtime: Runtime, bundle: Bundle) -> dict[str, str]:
    """Every file of the v1 cgroups of a created container, but for the counters."""
    container = runtime.create(bundle)
    cgroup = ContainerCgroup(runtime.state(container)["pid"])
    found = {}
    for controller in CONTROLLERS:
        for path in cgroup.paths[controller].iterdir():
            words = path.name.split(".")[-1]
            if path.is_file() and path.stat().st_mode & 0o200 and not words.endswith(COUNTERS) \
                    and "usage" not in words and os.access(path, os.R_OK) and path.stat().st_mode & 0o400:
                found[path.name] = path.read_text().strip()
    assert runtime("delete", "--force", container).code == 0
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_same_files_as_runc(runtime: Runtime, bundle: Bundle, host: Host, make_runtime: Callable[[str], Runtime],
                                case: str) -> None:
    if is_v2():
        pytest.skip("files of v1")
    given = CASES[case]()
    resources(bundle, **given).args("sleep", "60")
    bundle.linux.pop("cgroupsPath", None)
    runc = make_runtime("runc")
    ours, theirs = limits(runtime, bundle), limits(runc, bundle)
    assert {"cpu.shares", "cpuset.cpus", "memory.limit_in_bytes", "pids.max", "blkio.throttle.read_bps_device"} \
        <= set(ours)
    differ = {(case, name): (theirs.get(name), ours.get(name)) for name in ours.keys() | theirs.keys()
              if ours.get(name) != theirs.get(name)}
    explained = {key: values for key, values in EXPLAINED.items() if key[0] == case}
    # A newer runc may have come to agree; nothing but what is listed may differ.
    assert differ.items() <= explained.items()
    assert all(ours[name] == values[1] for (_, name), values in explained.items())


#: Given, and whether runc refuses it too.
REFUSED: dict[str, tuple[dict[str, Any], bool]] = {
    "shares too few": ({"cpu": {"shares": 1}}, True),
    "shares too many": ({"cpu": {"shares": 262145}}, True),
    "quota tiny": ({"cpu": {"quota": 10}}, True),
    "period huge": ({"cpu": {"period": 10**9}}, True),
    "swap below memory": ({"memory": {"limit": 64 * MiB, "swap": 32 * MiB}}, True),
    "swap alone": ({"memory": {"swap": 64 * MiB}}, True),
    "cpus nonsense": ({"cpu": {"cpus": "a-b"}}, True),
    "cpus beyond": ({"cpu": {"cpus": "0-9999"}}, True),
    "swappiness": ({"memory": {"swappiness": 101}}, True),
    "no such controller": ({"network": {"classID": 7}}, True),
    "leaf weight": ({"blockIO": {"leafWeight": 100}}, True),
    "throttle of no device": ({"blockIO": {"throttleReadBpsDevice": [{"major": 250, "minor": 7, "rate": 1}]}}, True),
    "unified": ({"unified": {"memory.high": "1"}}, True),
    "rt without a budget": ({"cpu": {"realtimeRuntime": 999_999_999}}, True),
    "cpus with a gap": ({"cpu": {"cpus": "0,,1"}}, False),  # the kernel's parser skips it
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_as_runc_refuses_it(runtime: Runtime, bundle: Bundle, host: Host,
                                    make_runtime: Callable[[str], Runtime], case: str) -> None:
    if is_v2():
        pytest.skip("files of v1")
    given, too = REFUSED[case]
    bundle.linux.pop("cgroupsPath", None)
    resources(bundle, **given).args("true").save()
    runc = make_runtime("runc")
    ours, theirs = (each("create", "--bundle", bundle.path, each.new_id()) for each in (runtime, runc))
    runc.clean_up()
    assert ours.code == 1 and "/linux/resources/" in ours.err, ours
    assert (theirs.code != 0) == too, theirs


def test_huge_pages_on_a_hybrid_host(runtime: Runtime, bundle: Bundle, host: Host,
                                     make_runtime: Callable[[str], Runtime]) -> None:
    """Where v2 has the hugetlb controller runc sees none and refuses the limit; here it holds."""
    if is_v2() or not Path("/sys/fs/cgroup/unified/cgroup.controllers").exists():
        pytest.skip("not a hybrid host")
    if "hugetlb" not in Path("/sys/fs/cgroup/unified/cgroup.subtree_control").read_text().split():
        pytest.skip("its v2 hierarchy has no hugetlb to pass on")
    resources(bundle, hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MiB}]).args("sleep", "60")
    container = runtime.create(bundle)
    pid = runtime.state(container)["pid"]
    (path,) = [line[3:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::")]
    assert Path(f"/sys/fs/cgroup/unified{path}/hugetlb.2MB.max").read_text() == f"{4 * MiB}\n"
    bundle.save()
    runc = make_runtime("runc")
    result = runc("create", "--bundle", bundle.path, runc.new_id())
    assert result.code != 0 and "hugetlb" in result.err, result
