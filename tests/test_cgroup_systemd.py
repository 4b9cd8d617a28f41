# SPDX-License-Identifier: Apache-2.0
"""The systemd driver without a systemd: names and paths, properties, annotations.

With a real one: tests/vm/test_systemd_vm.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrunc import cgroupv1, cgroupv2
from pyrunc.cgroup_systemd import SystemdCgroup, Unit, expand_slice
from pyrunc.device_rules import ALL, ANY, MKNOD, READ, Rule, Rules
from pyrunc.errors import ConfigError
from pyrunc.limits import Write
from pyrunc.spec.types import Resources
from pyrunc.systemd_properties import INFINITY, annotated, cpu_mask, devices, limits, oom_policy, settle

# Names and paths


@pytest.mark.parametrize(("slice", "path"), [
    ("-.slice", ""), ("system.slice", "/system.slice"), ("a-b.slice", "/a.slice/a-b.slice"),
    ("kubepods-besteffort-pod1_2.slice",
     "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice"),
    ("memory-a.slice", "/_memory.slice/memory-a.slice"), ("_a.slice", "/__a.slice"),
])
def test_slices(slice: str, path: str) -> None:
    assert expand_slice(slice) == path


@pytest.mark.parametrize("slice", [".slice", "a", "a.scope", "-a.slice", "a-.slice", "a--b.slice", "--.slice",
                                   "a/b.slice", "../a.slice", "a b.slice", "é.slice", "a.slice\n",
                                   "a" * 250 + ".slice"])
def test_no_slices(slice: str) -> None:
    with pytest.raises(ConfigError, match="/linux/cgroupsPath: invalid slice name"):
        expand_slice(slice)
    with pytest.raises(ConfigError, match="/linux/cgroupsPath: invalid slice name"):
        Unit.parse(f"{slice}:runc:x", "x", False)


@pytest.mark.parametrize(("path", "user", "unit", "place"), [
    (None, False, "runc-id.scope", "/system.slice/runc-id.scope"),
    ("", True, "runc-id.scope", "/user.slice/runc-id.scope"),
    ("::n", False, "-n.scope", "/system.slice/-n.scope"),
    ("machine.slice:libpod:1234", False, "libpod-1234.scope", "/machine.slice/libpod-1234.scope"),
    ("a-b.slice:cri:x", False, "cri-x.scope", "/a.slice/a-b.slice/cri-x.scope"),
    ("-.slice::kubepods.slice", False, "kubepods.slice", "/kubepods.slice"),
    ("a.slice:ignored:a-b.slice", False, "a-b.slice", "/a.slice/a-b.slice"),
])
def test_units(path: str | None, user: bool, unit: str, place: str) -> None:
    found = Unit.parse(path, "id", user)
    assert (found.name, found.cgroup_path(), found.user) == (unit, place, user)
    again = Unit.from_data(found.to_data())
    assert (again.name, again.cgroup_path(), again.user) == (unit, place, user)


def test_a_users_unit_is_below_its_manager() -> None:
    unit = Unit.parse("a-b.slice:p:n", "x", True)
    unit.base = "/user.slice/user-7.slice/user@7.service"
    assert Unit.from_data(unit.to_data()).cgroup_path() == f"{unit.base}/a.slice/a-b.slice/p-n.scope"


@pytest.mark.parametrize(("path", "message"), [
    ("/a/b", 'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got \'/a/b\' instead'),
    ("a.slice:b", 'expected cgroupsPath to be of format "slice:prefix:name"'),
    ("a.slice:b:c:d", 'expected cgroupsPath to be of format "slice:prefix:name"'),
    ("a.slice:b:../c", "'b-../c.scope' can't be the name of a systemd unit"),
    ("a.slice:b:c+d", "'b-c+d.scope' can't be the name of a systemd unit"),
    ("a.slice:b:" + "c" * 250, "can't be the name of a systemd unit"),
    ("a.slice::b.slice", "the slice 'b.slice' isn't one of a.slice"),
    ("a.slice::a-b-c.slice", "the slice 'a-b-c.slice' isn't one of a.slice"),
])
def test_no_units(path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Unit.parse(path, "x", False)
    assert caught.value.pointer == "/linux/cgroupsPath" and message in caught.value.message, caught.value


def test_object_paths() -> None:
    """org.freedesktop.systemd1(5): bytes that D-Bus has no place for in hexadecimal."""
    assert Unit.parse("a.slice:9p:x_é".replace("é", "@1"), "x", False).object_path() == (
        "/org/freedesktop/systemd1/unit/_39p_2dx_5f_401_2escope")


# Limits

V1 = {"cpu": "", "memory": "", "pids": "", "blkio": "", "cpuset": "", "devices": ""}


def made(resources: Resources, directories: dict[str, str], version: int = 252) -> tuple[dict[str, Any], list[str]]:
    """The properties, and the settled writes."""
    if "" in directories:
        writes = cgroupv2.limits(resources, directories[""], pytest.fail)
    else:
        writes = cgroupv1.limits(resources, directories, pytest.fail)
    writes = settle(writes, directories)
    return ({name: value for name, (_, value) in limits(writes, directories, version)},
            [f"{write.file} {write.value}" for write in writes])


V2_TABLE: list[tuple[Resources, dict[str, Any], list[str]]] = [
    ({"memory": {"limit": 100, "reservation": 50, "swap": 150}},
     {"MemoryMax": 100, "MemoryLow": 50, "MemorySwapMax": 50},
     ["memory.swap.max 50", "memory.max 100", "memory.low 50"]),
    ({"memory": {"limit": -1}}, {"MemoryMax": INFINITY, "MemorySwapMax": INFINITY},
     ["memory.swap.max max", "memory.max max"]),
    ({"cpu": {"shares": 1024}}, {"CPUWeight": 100}, ["cpu.weight 100"]),
    ({"cpu": {"shares": 1024, "idle": 1}}, {"CPUWeight": 0}, ["cpu.idle 1"]),
    ({"cpu": {"idle": 0}}, {}, ["cpu.idle 0"]),
    ({"cpu": {"quota": 50000}}, {"CPUQuotaPerSecUSec": 500000, "CPUQuotaPeriodUSec": 100000}, ["cpu.max 50000 100000"]),
    ({"cpu": {"quota": 10001, "period": 100000}}, {"CPUQuotaPerSecUSec": 110000, "CPUQuotaPeriodUSec": 100000},
     ["cpu.max 11000 100000"]),
    ({"cpu": {"quota": 1001, "period": 33333}}, {"CPUQuotaPerSecUSec": 40000, "CPUQuotaPeriodUSec": 33333},
     ["cpu.max 1333 33333"]),
    ({"cpu": {"quota": 500}}, {"CPUQuotaPerSecUSec": 10000, "CPUQuotaPeriodUSec": 100000}, ["cpu.max 500 100000"]),
    ({"cpu": {"quota": -1, "period": 50000}}, {"CPUQuotaPerSecUSec": INFINITY, "CPUQuotaPeriodUSec": 50000},
     ["cpu.max max 50000"]),
    ({"cpu": {"quota": 2**62, "period": 1000}},
     {"CPUQuotaPerSecUSec": INFINITY - 1, "CPUQuotaPeriodUSec": 1000}, [f"cpu.max {2**62} 1000"]),
    ({"cpu": {"cpus": "0-1,9", "mems": "0"}}, {"AllowedCPUs": b"\x03\x02", "AllowedMemoryNodes": b"\x01"},
     ["cpuset.cpus 0-1,9", "cpuset.mems 0"]),
    ({"pids": {"limit": -1}}, {"TasksMax": INFINITY}, ["pids.max max"]),
    ({"pids": {"limit": 0}}, {"TasksMax": 1}, ["pids.max 1"]),
    ({"unified": {"cpu.max": " max", "memory.high": "7 ", "pids.max": "0", "misc.max": "x 1"}},
     {"CPUQuotaPerSecUSec": INFINITY, "CPUQuotaPeriodUSec": 100000, "MemoryHigh": 7, "TasksMax": 1},
     ["cpu.max max 100000", "memory.high 7 ", "pids.max 0", "misc.max x 1"]),
    ({"unified": {"cpu.idle": "1", "cpu.weight": "50"}}, {"CPUWeight": 0}, ["cpu.idle 1"]),
    ({"pids": {"limit": 9}, "unified": {"pids.max": "8"}}, {"TasksMax": 8}, ["pids.max 9", "pids.max 8"]),
    ({"unified": {"io.weight": "default 300\n8:0 5"}}, {"IOWeight": 300, "IODeviceWeight": [("/dev/block/8:0", 5)]},
     ["io.weight default 300", "io.weight 8:0 5"]),
    ({"rdma": {"mlx": {"hcaHandles": 3}}}, {}, ["rdma.max mlx hca_handle=3"]),
]


@pytest.mark.parametrize(("resources", "properties", "files"), V2_TABLE)
def test_limits_on_v2(tmp_path: Path, resources: Resources, properties: dict[str, Any], files: list[str]) -> None:
    assert made(resources, {"": str(tmp_path)}) == (properties, files)


V1_TABLE: list[tuple[Resources, dict[str, Any]]] = [
    ({"memory": {"limit": 1 << 20}}, {"MemoryLimit": 1 << 20}),
    ({"cpu": {"shares": 700}}, {"CPUShares": 700}),
    ({"cpu": {"quota": 20500, "period": 50000}}, {"CPUQuotaPerSecUSec": 410000, "CPUQuotaPeriodUSec": 50000}),
    ({"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": INFINITY, "CPUQuotaPeriodUSec": 100000}),
    ({"pids": {"limit": 5}}, {"TasksMax": 5}),
    ({"cpu": {"cpus": "3"}}, {"AllowedCPUs": b"\x08"}),
]


@pytest.mark.parametrize(("resources", "properties"), V1_TABLE)
def test_limits_on_v1(tmp_path: Path, resources: Resources, properties: dict[str, Any]) -> None:
    assert made(resources, {name: str(tmp_path) for name in V1})[0] == properties


def test_half_of_a_bandwidth_on_v1(tmp_path: Path) -> None:
    """There the other half is what its file has."""
    (tmp_path / "cpu.cfs_period_us").write_text("20000\n")
    (tmp_path / "cpu.cfs_quota_us").write_text("5000\n")
    directories = {name: str(tmp_path) for name in V1}
    found, files = made({"cpu": {"quota": 5050}}, directories)
    assert found == {"CPUQuotaPerSecUSec": 260000, "CPUQuotaPeriodUSec": 20000}
    assert files == ["cpu.cfs_quota_us 5200"]
    assert made({"cpu": {"period": 10000}}, directories)[0] == {"CPUQuotaPerSecUSec": 500000,
                                                                "CPUQuotaPeriodUSec": 10000}


def test_kills_in_a_cgroup_that_systemd_has_removed(tmp_path: Path) -> None:
    """Its slice has counted them, and others before."""
    (tmp_path / "x.scope").mkdir()
    (tmp_path / "x.scope/memory.events").write_text("oom 0\noom_kill 0\n")
    (tmp_path / "memory.events").write_text("oom 3\noom_kill 3\n")
    cgroup = SystemdCgroup("unified", {"": str(tmp_path / "x.scope")}, Unit("x.scope", "a.slice", False))
    (tmp_path / "memory.events").write_text("oom 4\noom_kill 4\n")
    assert cgroup.oom_kills() == 0
    cgroup._killed_before = 3
    assert cgroup.oom_kills() == 0  # somebody else's: ours is there
    (tmp_path / "x.scope/memory.events").unlink()
    (tmp_path / "x.scope").rmdir()
    assert cgroup.oom_kills() == 1


def test_weights_of_bfq(tmp_path: Path) -> None:
    """systemd is told those of which it makes BFQ's: it has one number for both files."""
    (tmp_path / "io.bfq.weight").write_text("default 100\n")
    for weight, told in ((10, 10), (100, 100), (300, 2300), (1000, 10000)):
        block: Resources = {"blockIO": {"weight": weight, "weightDevice": [{"major": 8, "minor": 0, "weight": weight}]}}
        assert made(block, {"": str(tmp_path)}) == (
            {"IOWeight": told, "IODeviceWeight": [("/dev/block/8:0", told)]},
            [f"io.bfq.weight {weight}", f"io.bfq.weight 8:0 {weight}"])


def test_leaving_idle(tmp_path: Path) -> None:
    (tmp_path / "cpu.idle").write_text("1\n")
    assert made({"cpu": {"idle": 0}}, {"": str(tmp_path)})[0] == {"CPUWeight": INFINITY}
    assert made({"cpu": {"idle": 0, "shares": 1024}}, {"": str(tmp_path)})[0] == {"CPUWeight": 100}


def test_limits_of_an_old_systemd(tmp_path: Path) -> None:
    """What it doesn't know it isn't told: the files are written all the same."""
    resources: Resources = {"cpu": {"quota": 50000, "cpus": "0", "idle": 1, "shares": 2}}
    found, files = made(resources, {"": str(tmp_path)}, 241)
    assert found == {"CPUQuotaPerSecUSec": 500000}
    assert files == ["cpu.idle 1", "cpu.max 50000 100000", "cpuset.cpus 0"]
    assert oom_policy({"memory.oom.group": "1"}, 252) == []
    assert oom_policy({"memory.oom.group": "1\n"}, 253) == [("OOMPolicy", ("s", "kill"))]
    assert oom_policy({"memory.oom.group": "0"}, 253) == [("OOMPolicy", ("s", "continue"))]
    assert oom_policy({"memory.oom.group": "2"}, 253) == []


@pytest.mark.parametrize(("key", "value"), [
    ("memory.max", "12x"), ("memory.max", "-5"), ("memory.high", "²"), ("pids.max", ""), ("cpu.weight", "1.5"),
    ("memory.low", "9" * 5000), ("memory.min", str(2**64)), ("cpu.max", ""), ("cpu.max", "1 2 3"),
    ("cpu.max", "100 max"), ("cpu.max", "0"), ("cpu.max", "max 0"), ("cpu.max", "-100 100"),
    ("cpuset.cpus", "x"), ("cpuset.cpus", "3-1"), ("cpuset.cpus", "0-99999999"), ("cpuset.mems", ","),
    ("cpuset.cpus", "0-3:1/2"),
])
def test_unified_values_that_systemd_could_not_be_told(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made({"unified": {key: value}}, {"": str(tmp_path)})
    assert caught.value.pointer == f"/linux/resources/unified/{key}"


@given(st.sets(st.integers(0, 300), min_size=1))
def test_cpu_masks(numbers: set[int]) -> None:
    mask = cpu_mask(",".join(map(str, sorted(numbers, key=hash))), "/p")
    assert {at * 8 + bit for at, byte in enumerate(mask) for bit in range(8) if byte >> bit & 1} == numbers
    assert mask[-1]


@given(st.integers(1000, 10**9), st.integers(1000, 10**6))
def test_quotas_are_rounded_up_by_less_than_a_percent(quota: int, period: int) -> None:
    write = Write("", "cpu.max", f"{quota} {period}", "/p")
    (settled,) = settle([write], {})
    rounded, kept = map(int, settled.value.split())
    told = dict(limits([write], {}, 252))
    assert kept == period and quota <= rounded < quota + period / 100 + 1
    assert told == dict(limits([settled], {}, 252))  # so it stays
    assert told["CPUQuotaPerSecUSec"][1] % 10000 == 0


# Devices

LISTED = Rules(False, [Rule(True, "c", ANY, ANY, MKNOD), Rule(True, "c", 1, 3, ALL), Rule(True, "b", 8, ANY, READ),
                       Rule(True, "c", ANY, 7, READ), Rule(False, "c", 1, 4, ALL)])
EXACT = [("char-*", "m"), ("/dev/char/1:3", "rwm"), ("block-8", "r")]


def told(rules: Rules, unified: bool, version: int = 252) -> tuple[str, list[tuple[str, str]]]:
    properties = devices(rules, unified=unified, version=version)
    assert properties[0] == ("DeviceAllow", ("a(ss)", []))  # it takes away what was there
    return properties[1][1][1], [entry for name, (_, entries) in properties[2:] for entry in entries]


def test_devices() -> None:
    """systemd's list on v2 has at least ours, on v1 at most: v2 asks both, v1 has but one."""
    assert told(LISTED, False) == ("strict", EXACT)
    assert told(LISTED, True) == ("strict", [*EXACT, ("char-*", "r")])
    assert told(LISTED, False, 239) == ("strict", [("char-*", "m")])
    assert told(LISTED, True, 239) == ("strict", [("char-*", "m"), ("char-*", "rwm"), ("block-*", "r"),
                                                  ("char-*", "r")])
    assert told(Rules(False), True) == ("strict", [])
    assert told(Rules(True), True) == told(Rules(True), False) == ("auto", [])
    some = Rules(True, [Rule(False, "c", 1, 5, ALL)])
    assert told(some, True) == ("auto", [])
    assert told(some, False) == ("strict", [])
    both = Rules(False, [Rule(True, "a", 5, 1, READ)])
    assert told(both, False) == ("strict", [("/dev/block/5:1", "r"), ("/dev/char/5:1", "r")])


# Annotations

P = "org.systemd.property."


@pytest.mark.parametrize(("name", "value", "property"), [
    ("TimeoutStopUSec", "uint64 123456789", ("TimeoutStopUSec", ("t", 123456789))),
    ("TimeoutStopSec", "2.5", ("TimeoutStopUSec", ("t", 2500000))),
    ("TimeoutStopSec", "byte 3", ("TimeoutStopUSec", ("t", 3000000))),
    ("RuntimeMaxSec", f"uint64 {INFINITY}", ("RuntimeMaxUSec", ("t", INFINITY))),
    ("CPUQuotaPerSecUSec", "uint64 10000", ("CPUQuotaPerSecUSec", ("t", 10000))),
    ("CollectMode", "'inactive-or-failed'", ("CollectMode", ("s", "inactive-or-failed"))),
    ("After", "['a.service', 'b.service']", ("After", ("as", ["a.service", "b.service"]))),
    ("SendSIGHUP", "true", ("SendSIGHUP", ("b", True))),
])
def test_annotations(name: str, value: str, property: object) -> None:
    assert annotated({"a": "b", P + name: value, "org.systemd.propertyX": "1"}) == [property]


@pytest.mark.parametrize(("name", "value", "message"), [
    ("", "1", "'' is no name of a property"), ("A", "1", "'A' is no name"), ("Timeout1", "1", "'Timeout1' is no name"),
    ("Tasks.Max", "1", "'Tasks.Max' is no name"), ("TasksMax\n", "1", r"'TasksMax\n' is no name"),
    ("TasksMåx", "1", r"'TasksM\xe5x' is no name"),
    ("SuccessAction", "'poweroff-force'", "the property SuccessAction may not be set by an annotation"),
    ("ExecStart", "1", "the property ExecStart may not"),
    ("Wants", "['poweroff.target']", "the property Wants may not"),
    ("JobTimeoutSec", "1", "the property JobTimeoutSec may not"), ("Slice", "'-.slice'", "the property Slice may not"),
    ("DevicePolicy", "'auto'", "the property DevicePolicy may not"),
    ("PIDs", "[uint32 1]", "the property PIDs may not"),
    ("TasksMax", "", "'': a value is missing (at character 1)"),
    ("TasksMax", "5 6", "'5 6': '6' comes after the value"),
    ("TimeoutStopSec", "'5'", "is a time in seconds, so its value is a number"),
    ("TimeoutStopSec", "-1", "-1 is no time in seconds"),
    ("TimeoutStopSec", f"uint64 {INFINITY - 1}", f"{INFINITY - 1} is no time"),
])
def test_annotations_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        annotated({P + name: value})
    assert caught.value.pointer == f"/annotations/{P}{name}" and message in caught.value.message, caught.value
