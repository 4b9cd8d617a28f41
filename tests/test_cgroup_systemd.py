# SPDX-License-Identifier: Apache-2.0
"""The systemd driver without a systemd: names and paths, properties, annotations, and a manager that misbehaves.

With a real one: tests/vm/test_systemd_vm.py.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jeepney import Header, HeaderFields, Message, MessageType, Parser, new_error, new_method_return
from jeepney.low_level import Endianness

from pyrunc import cgroupv1, cgroupv2, gvariant, systemd_bus
from pyrunc.cgroup_systemd import Unit, expand_slice
from pyrunc.device_rules import ALL, ANY, MKNOD, READ, Rule, Rules
from pyrunc.errors import ConfigError, ContainerError, PyruncError
from pyrunc.limits import Write
from pyrunc.spec.types import Resources
from pyrunc.systemd_manager import Manager
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
    ({"unified": {"io.weight": "default 300\n8:0 5"}}, {"IOWeight": 300}, ["io.weight default 300", "io.weight 8:0 5"]),
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


# GVariant text

@pytest.mark.parametrize(("text", "value"), [
    ("true", ("b", True)), ("5", ("i", 5)), ("0x1F", ("i", 31)), ("-017", ("i", -15)), ("1e3", ("d", 1000.0)),
    (".5", ("d", 0.5)), ("uint16 7", ("q", 7)), ("double 7", ("d", 7.0)), ("byte 0xff", ("y", 255)),
    (r"'a\'\n\u00e9\U0001F600'", ("s", "a'\né😀")), ('"it\'s"', ("s", "it's")),
    ("objectpath '/a/b_1'", ("o", "/a/b_1")), ("signature 'a{sv}'", ("g", "a{sv}")),
    (r"b'a\001\x'".replace(r"\x", r"\\"), ("ay", b"a\1\\\0")),
    ("@as []", ("as", [])), ("['a', 'b']", ("as", ["a", "b"])),
    ("[1, 2.5]", ("ad", [1.0, 2.5])), ("[1, uint64 2]", ("at", [1, 2])), ("@a(st) [('x', 1)]", ("a(st)", [("x", 1)])),
    ("{'a': <1>, 'b': <'x'>}", ("a{sv}", {"a": ("i", 1), "b": ("s", "x")})), ("(1, 'a')", ("(is)", (1, "a"))),
    ("(1,)", ("(i)", (1,))), ("<<5>>", ("v", ("v", ("i", 5)))), ("@a{sas} {}", ("a{sas}", {})),
    (" [ [ 1 ] , [ 2 ] ] ", ("aai", [[1], [2]])),
])
def test_gvariant(text: str, value: object) -> None:
    assert gvariant.parse(text) == value


@pytest.mark.parametrize("text", [
    "", " ", "[]", "{}", "nothing", "just 5", "handle 1", "5 6", "1x", "--1", "uint64 -1", "byte 256", "2147483648",
    "08", "1e999", "double 0x" + "f" * 400, "uint32 1.0", "'a", "'\\q'",
    r"'\u00'", r"'\u0000'", r"'\ud800'", r"'\U00110000'",
    "@a 5", "@a{vs} {}", "@ii 5", "@", "@s", "(1)", "()", "(1,2", "[1,]", "[1 2]", "{1}", "{1:2,}", "{[1]: 2}", "<5",
    "<>", "['a', 1]", "[true, 1]", "objectpath 'a'", "objectpath '/a/'", "signature 'z'", "true1", "True", "int32",
    "b5", "[" * 100, "<" * 100, "@" + "a" * 300 + "s []", "1" * 5000, "9" * 70000, "[uint64 1, int32 2]",
    "@(ii) (1, 2, 3)",
])
def test_gvariant_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\(at character \d+\)$|is longer than"):
        gvariant.parse(text)


@given(st.text(alphabet="[](){}<>@,:'\"\\ 012x.-aisbyvtunelfrdo\n\0é", max_size=40) | st.text(max_size=20))
def test_gvariant_of_anything(text: str) -> None:
    """It is refused in one way, or D-Bus can carry it."""
    try:
        signature, value = gvariant.parse(text)
    except ValueError:
        return
    carried(signature, value)


CODES = {"y": 8, "q": 16, "u": 32, "t": 64}
LEAVES = st.one_of(
    st.booleans().map(lambda value: ("b", value, "true" if value else "false")),
    st.text(st.characters(exclude_characters="\0\\'", exclude_categories=["Cs"]), max_size=8).map(
        lambda value: ("s", value, f"'{value}'")),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: ("d", value, f"double {value!r}")),
    *(st.integers(0, 2**bits - 1).map(lambda value, code=code: (
        code, value, f"{ {'y': 'byte', 'q': 'uint16', 'u': 'uint32', 't': 'uint64'}[code] } {value}"))
      for code, bits in CODES.items()),
)


def nested(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        values.map(lambda value: ("v", (value[0], value[1]), f"<{value[2]}>")),
        st.lists(values, min_size=1, max_size=3).map(lambda items: (
            f"({''.join(item[0] for item in items)})", tuple(item[1] for item in items),
            f"({', '.join(item[2] for item in items)}{',' if len(items) == 1 else ''})")),
        values.flatmap(lambda value: st.integers(1, 3).map(lambda count: (
            f"a{value[0]}", [value[1]] * count, f"[{', '.join([value[2]] * count)}]"))),
    )


@given(st.recursive(LEAVES, nested, max_leaves=8))
def test_gvariant_as_written(written: tuple[str, Any, str]) -> None:
    signature, value, text = written
    assert gvariant.parse(text) == (signature, value)
    carried(signature, value)


def carried(signature: str, value: object) -> None:
    """jeepney, on the way there and back, has the same."""
    header = Header(Endianness.little, MessageType.method_call, 0, 1, -1, 1,
                    {HeaderFields.path: "/", HeaderFields.member: "M", HeaderFields.signature: "v"})
    parser = Parser()
    (message,) = parser.feed(Message(header, ((signature, value),)).serialise())
    assert message.body[0][0] == signature
    assert as_lists(message.body[0][1]) == as_lists(value)


def as_lists(value: object) -> object:
    """The value with a list for bytes, at any depth: jeepney gives back bytes for a list of them."""
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, bytes)):
        return [as_lists(item) for item in value]
    return value


# The connection

@pytest.mark.parametrize(("address", "paths"), [
    ("unix:path=/run/x", ["/run/x"]), ("unix:path=/a%20b,guid=1;unix:abstract=c", ["/a b", "\0c"]),
    ("tcp:host=x;unix:path=/y", ["/y"]), ("", []), ("unixexec:path=/bin/x", []), ("unix:path=/%zz", []),
])
def test_addresses(address: str, paths: list[str]) -> None:
    assert systemd_bus.parse_address(address) == paths


def test_where_managers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/s")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/r")
    assert systemd_bus.addresses(True) == [("/s", True), ("/r/bus", True), ("/r/systemd/private", False)]
    assert systemd_bus.addresses(False) == [("/run/systemd/private", False), ("/run/dbus/system_bus_socket", True)]


@pytest.mark.skipif(os.path.isdir(systemd_bus.BOOTED), reason="systemd runs here")
def test_no_systemd() -> None:
    with pytest.raises(PyruncError) as caught:
        Manager(False).locate(Unit.parse(None, "x", True))
    assert str(caught.value) == ("systemd isn't running here (no /run/systemd/system) (leave out --systemd-cgroup)")


def test_jeepney_is_loaded_with_the_connection_alone() -> None:
    """All that is only about names needs no D-Bus."""
    script = "import sys; from pyrunc import cgroup_systemd as c; c.Unit.parse(None, 'x', False); " \
             "print(sorted({'jeepney', 're', 'socket', 'typing'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class Fake:
    """A systemd on a socket of its own, which does what a test says: `answers` by method."""

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, Callable[[Fake, Message], None]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.handshakes = [[b"DATA\r\n", b"OK 123\r\n"]]  # a connection each, the last for all further ones
        self.said: list[bytes] = []
        self.connections = 0
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.peer: socket.socket
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # ends accept
        self.thread.join()
        self.listener.close()

    def _serve(self) -> None:
        while True:
            try:
                self.peer, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            with self.peer, self.peer.makefile("rb") as lines, contextlib.suppress(OSError):
                self._talk(lines)

    def _talk(self, lines: io.BufferedReader) -> None:
        # Like sd-bus, which forgets what it has read together with BEGIN: who waits for an answer to it is told none.
        said = self.peer.recv(65536)
        self.said.append(said)
        answers = self.handshakes.pop(0) if len(self.handshakes) > 1 else self.handshakes[0]
        for answer in answers:
            self.peer.sendall(answer)
        if not said.endswith(b"\r\nBEGIN\r\n"):
            self.said.append(self.peer.recv(65536))
        parser = Parser()
        while data := lines.read1(65536):
            for message in parser.feed(data):
                method = message.header.fields[HeaderFields.member]
                self.calls.append((method, message.body))
                self.answers.get(method, Fake.nothing)(self, message)

    def nothing(self, message: Message) -> None:
        self.reply(message)

    def reply(self, message: Message, signature: str = "", *body: object) -> None:
        self.peer.sendall(new_method_return(message, signature or None, body).serialise(serial=1))

    def error(self, message: Message, name: str, text: str) -> None:
        self.peer.sendall(new_error(message, name, "s", (text,)).serialise(serial=1))

    def job_removed(self, job: str, result: str) -> None:
        header = Header(Endianness.little, MessageType.signal, 0, 1, -1, 1, {
            HeaderFields.path: systemd_bus.OBJECT, HeaderFields.interface: systemd_bus.MANAGER,
            HeaderFields.member: "JobRemoved", HeaderFields.signature: "uoss"})
        self.peer.sendall(Message(header, (1, job, "some.unit", result)).serialise(serial=1))

    def hang_up(self, message: Message) -> None:
        self.peer.shutdown(socket.SHUT_RDWR)


def started(result: str = "done", before: bool = False) -> Callable[[Fake, Message], None]:
    def answer(fake: Fake, message: Message) -> None:
        if before:
            fake.job_removed("/job/7", result)
        fake.job_removed("/job/6", "failed")  # somebody else's
        fake.reply(message, "o", "/job/7")
        if not before:
            fake.job_removed("/job/7", result)
    return answer


def refused(name: str, text: str) -> Callable[[Fake, Message], None]:
    return lambda fake, message: fake.error(message, name, text)


def in_turn(*answers: Callable[[Fake, Message], None]) -> Callable[[Fake, Message], None]:
    left = list(answers)
    return lambda fake, message: (left.pop(0) if len(left) > 1 else left[0])(fake, message)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    fake = Fake(tmp_path / "private")
    monkeypatch.setattr(systemd_bus, "BOOTED", str(tmp_path))
    monkeypatch.setattr(systemd_bus, "addresses", lambda user: [(str(fake.path), False)])
    yield fake
    fake.close()


UNIT = Unit.parse("a.slice:p:n", "x", False)


def start(seconds: float = 10, **given: Any) -> None:
    with Manager(False) as manager:
        manager.start(UNIT, [7], mode="unified", seconds=seconds, **given)


@pytest.mark.parametrize("before", [False, True], ids=["signal after the reply", "signal before the reply"])
def test_start(fake: Fake, before: bool) -> None:
    fake.answers["StartTransientUnit"] = started(before=before)
    start(properties=[*annotated({P + "TimeoutStopSec": "1"}), ("TasksMax", ("t", 5))])
    assert fake.said == [b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"]
    ((method, (name, mode, properties, others)),) = fake.calls
    assert (method, name, mode, others) == ("StartTransientUnit", "p-n.scope", "replace", [])
    assert properties == [
        ("Description", ("s", "libcontainer container n")), ("Slice", ("s", "a.slice")), ("Delegate", ("b", True)),
        ("PIDs", ("au", [7])), ("MemoryAccounting", ("b", True)), ("CPUAccounting", ("b", True)),
        ("IOAccounting", ("b", True)), ("TasksAccounting", ("b", True)), ("DefaultDependencies", ("b", False)),
        ("TimeoutStopUSec", ("t", 1000000)), ("TasksMax", ("t", 5))]


def test_start_on_v1(fake: Fake) -> None:
    fake.answers["StartTransientUnit"] = started()
    with Manager(False) as manager:
        manager.start(UNIT, [7], mode="hybrid")
    assert ("BlockIOAccounting", ("b", True)) in fake.calls[0][1][2]


def test_an_old_bus_wants_the_uid(fake: Fake) -> None:
    """In a connection of its own: it has closed the first one, or will do."""
    fake.handshakes = [[b"REJECTED EXTERNAL\r\n"], [b"OK 1\r\n"]]
    fake.answers["StartTransientUnit"] = started()
    start()
    uid = str(os.geteuid()).encode().hex().encode()
    assert fake.said[1:] == [b"\0AUTH EXTERNAL %b\r\nBEGIN\r\n" % uid]


@pytest.mark.parametrize(("answers", "message"), [
    ([b"REJECTED\r\n"], "it was rejected"), ([b"DATA\r\n", b"REJECTED\r\n"], "it was rejected"),
    ([b"ERROR what\r\n"], "'ERROR what'"), ([b"DATA\r\n", b"DATA\r\n"], "'DATA'"),
])
def test_a_handshake_that_fails(fake: Fake, answers: list[bytes], message: str) -> None:
    fake.handshakes = [answers]
    with pytest.raises(PyruncError, match=f"systemd can't be reached: .*private: authentication failed: {message}"):
        start()


@pytest.mark.parametrize("result", ["failed", "timeout", "canceled"])
def test_a_job_that_fails_is_taken_back(fake: Fake, result: str) -> None:
    fake.answers["StartTransientUnit"] = started(result)
    with pytest.raises(ContainerError) as caught:
        start()
    assert str(caught.value) == (f"systemd can't make p-n.scope: its job's result is '{result}' "
                                 "(see: journalctl -u p-n.scope)")
    assert [name for name, _ in fake.calls] == ["StartTransientUnit", "StopUnit", "ResetFailedUnit"]


def test_a_job_without_an_end(fake: Fake) -> None:
    fake.answers["StartTransientUnit"] = lambda fake, message: fake.reply(message, "o", "/job/7")
    begun = time.monotonic()
    with pytest.raises(ContainerError, match=r"systemd can't make p-n.scope: it didn't answer within 0.5 s"):
        start(0.5)
    assert 0.4 < time.monotonic() - begun < 3
    assert [name for name, _ in fake.calls] == ["StartTransientUnit", "StopUnit", "ResetFailedUnit"]


def test_no_answer_at_all(fake: Fake) -> None:
    """Other messages don't put the end off."""
    def chatter(fake: Fake, message: Message) -> None:
        for number in range(100):
            fake.job_removed(f"/job/{number}", "done")
            time.sleep(0.02)
    fake.answers["StartTransientUnit"] = chatter
    begun = time.monotonic()
    with pytest.raises(ContainerError, match=r"systemd can't make p-n.scope: it didn't answer within 0.5 s"):
        start(0.5)
    assert time.monotonic() - begun < 4


def test_nobody_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue is tried again for a while."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(0)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    for each in waiting:
        each.setblocking(False)
        each.connect_ex(str(tmp_path / "s"))
    monkeypatch.setattr(systemd_bus, "BOOTED", str(tmp_path))
    monkeypatch.setattr(systemd_bus, "addresses", lambda user: [(str(tmp_path / "s"), False)])
    begun = time.monotonic()
    with pytest.raises(PyruncError, match=r"systemd can't be reached: .*/s: (nobody takes the connec|no answer)"):
        start(0.5)
    assert 0.4 < time.monotonic() - begun < 3
    for each in (*waiting, listener):
        each.close()


EXISTS = "org.freedesktop.systemd1.UnitExists"


def test_a_unit_that_has_failed_makes_room(fake: Fake) -> None:
    fake.answers["StartTransientUnit"] = in_turn(refused(EXISTS, "there"), started())
    start()
    assert [(name, body[0]) for name, body in fake.calls] == [
        ("StartTransientUnit", "p-n.scope"), ("ResetFailedUnit", "p-n.scope"), ("StartTransientUnit", "p-n.scope")]


def test_a_unit_that_stays(fake: Fake) -> None:
    fake.answers["StartTransientUnit"] = refused(EXISTS, "Unit p-n.scope already exists.")
    with pytest.raises(ContainerError, match=r"/linux/cgroupsPath: systemd can't make p-n\.scope: there is one"):
        start()
    assert [name for name, _ in fake.calls] == ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]


def test_a_refusal_is_passed_on(fake: Fake) -> None:
    fake.answers["StartTransientUnit"] = refused("org.freedesktop.DBus.Error.AccessDenied", "Access denied")
    with pytest.raises(ContainerError, match=r"^systemd can't make p-n.scope: Access denied$"):
        start()


def test_a_lost_connection_is_made_anew(fake: Fake) -> None:
    """The first start may have been heard: then the unit with our process is it, and no error."""
    fake.answers["StartTransientUnit"] = in_turn(Fake.hang_up, started())
    fake.answers["GetUnitByPID"] = refused("org.freedesktop.systemd1.NoUnitForPID", "none")
    start()
    assert fake.connections == 2
    fake.answers["StartTransientUnit"] = Fake.hang_up
    fake.answers["GetUnitByPID"] = lambda fake, message: fake.reply(message, "o", UNIT.object_path())
    start()
    assert fake.connections == 4


def test_a_connection_lost_while_the_job_runs(fake: Fake) -> None:
    def answer(fake: Fake, message: Message) -> None:
        fake.reply(message, "o", "/job/7")
        time.sleep(0.1)
        fake.hang_up(message)
    fake.answers["StartTransientUnit"] = answer
    fake.answers["Get"] = in_turn(lambda fake, message: fake.reply(message, "v", ("s", "activating")),
                                  lambda fake, message: fake.reply(message, "v", ("s", "active")))
    start()
    assert [name for name, _ in fake.calls] == ["StartTransientUnit", "Get", "Get"]


def test_a_connection_that_stays_lost(fake: Fake) -> None:
    fake.answers["StartTransientUnit"] = fake.answers["GetUnitByPID"] = Fake.hang_up
    begun = time.monotonic()
    with pytest.raises(ContainerError, match=r"systemd can't make p-n\.scope: the connection was closed"):
        start()
    assert time.monotonic() - begun < 5


def test_set_and_undo(fake: Fake) -> None:
    fake.answers["Get"] = lambda fake, message: fake.reply(
        message, "v", {"TasksMax": ("t", 4), "DeviceAllow": ("a(ss)", [("/dev/null", "r")])}[message.body[1]])
    with Manager(False) as manager:
        undo = manager.set(UNIT, [("TasksMax", ("t", 5)), ("DeviceAllow", ("a(ss)", [])),
                                  ("DeviceAllow", ("a(ss)", [("x", "m")]))], undo=True)
        undo()
        manager.set(UNIT, [])
    assert [body for name, body in fake.calls if name == "SetUnitProperties"] == [
        ("p-n.scope", True, [("TasksMax", ("t", 5)), ("DeviceAllow", ("a(ss)", [])),
                             ("DeviceAllow", ("a(ss)", [("x", "m")]))]),
        ("p-n.scope", True, [("TasksMax", ("t", 4)), ("DeviceAllow", ("a(ss)", [])),
                             ("DeviceAllow", ("a(ss)", [("/dev/null", "r")]))])]


def test_stop(fake: Fake) -> None:
    fake.answers["StopUnit"] = started()
    with Manager(False) as manager:
        manager.stop(UNIT)
        assert [name for name, _ in fake.calls] == ["StopUnit", "ResetFailedUnit"]
        fake.answers["StopUnit"] = refused("org.freedesktop.systemd1.NoSuchUnit", "not loaded")
        manager.stop(UNIT)
        fake.answers["StopUnit"] = lambda fake, message: fake.reply(message, "o", "/job/9")
        with pytest.raises(ContainerError, match=r"systemd hasn't stopped p-n.scope within 0.3 s"):
            manager.stop(UNIT, 0.3)


def test_version(fake: Fake) -> None:
    fake.answers["Get"] = lambda fake, message: fake.reply(message, "v", ("s", "v256.4-1~deb13u1"))
    with Manager(False) as manager:
        assert (manager.version, manager.version) == (256, 256)
    assert len(fake.calls) == 1
