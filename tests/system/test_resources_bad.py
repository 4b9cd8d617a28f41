# SPDX-License-Identifier: Apache-2.0
"""config-linux.md, Control groups: a limit that can't be kept is told in one line with its pointer; nothing is left."""

from __future__ import annotations

from typing import Any

import pytest
from container_cgroup import is_v2, resources
from support import Bundle, Host, Runtime

MiB = 1 << 20
ABSENT = {"major": 250, "minor": 7}  # a block device that no driver has


def throttle(name: str, **device: Any) -> dict[str, Any]:
    return {"blockIO": {name: [{"major": 7, "minor": 0, "rate": 1000}, {**ABSENT, **device}]}}


def unified(key: str, value: str = "1") -> dict[str, Any]:
    return {"unified": {key: value}}


def rule(**rest: Any) -> dict[str, Any]:
    return {"devices": [{"allow": False, "access": "rwm"}, rest]}


#: linux.resources as given, the pointer that the line has to have, what it has to say besides.
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "shares negative": ({"cpu": {"shares": -1}}, "/cpu/shares", "-1"),
    "shares a word": ({"cpu": {"shares": "many"}}, "/cpu/shares", "many"),
    "quota tiny": ({"cpu": {"quota": 10, "period": 100000}}, "/cpu/quota", ""),
    "period huge": ({"cpu": {"period": 10**9}}, "/cpu/period", ""),
    "burst over quota": ({"cpu": {"quota": 50000, "period": 100000, "burst": 60000}}, "/cpu/burst", ""),
    "idle 2": ({"cpu": {"idle": 2}}, "/cpu/idle", ""),
    "cpus beyond": ({"cpu": {"cpus": "0-99999"}}, "/cpu/cpus", "0-99999"),
    "cpus words": ({"cpu": {"cpus": "a-b"}}, "/cpu/cpus", "a-b"),
    "cpus with a gap": ({"cpu": {"cpus": "1,,2"}}, "/cpu/cpus", "1,,2"),
    "cpus backwards": ({"cpu": {"cpus": "1-0"}}, "/cpu/cpus", "1-0"),
    "cpus of no group": ({"cpu": {"cpus": "0-1:2/1"}}, "/cpu/cpus", "0-1:2/1"),
    "cpus of two lines": ({"cpu": {"cpus": "0\n1"}}, "/cpu/cpus", ""),
    "mems absent": ({"cpu": {"mems": "0-77"}}, "/cpu/mems", "0-77"),
    "memory words": ({"memory": {"limit": "64M"}}, "/memory/limit", "64M"),
    "swap below memory": ({"memory": {"limit": 64 * MiB, "swap": 32 * MiB}}, "/memory/swap", ""),
    "swap alone": ({"memory": {"swap": 64 * MiB}}, "/memory/swap", ""),
    "hugepage nonsense": ({"hugepageLimits": [{"pageSize": "2XB", "limit": 0}]}, "/hugepageLimits/0/pageSize", "2XB"),
    "hugepage of another size": ({"hugepageLimits": [{"pageSize": "3MB", "limit": 0}]},
                                 "/hugepageLimits/0", "3MB"),
    "hugepage with a path": ({"hugepageLimits": [{"pageSize": "../2MB", "limit": 0}]},
                             "/hugepageLimits/0/pageSize", "../2MB"),
    "pids words": ({"pids": {"limit": "few"}}, "/pids/limit", "few"),
    "pids a fraction": ({"pids": {"limit": 1.5}}, "/pids/limit", "1.5"),
    "pids beyond": ({"pids": {"limit": 2**70}}, "/pids/limit", str(2**70)),
    "weight below": ({"blockIO": {"weight": 9}}, "/blockIO/weight", "9"),
    "weight above": ({"blockIO": {"weight": 1001}}, "/blockIO/weight", "1001"),
    **{f"{name} of no device": (throttle(name, rate=1000), f"/blockIO/{name}", "250:7")
       for name in ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice",
                    "throttleWriteIOPSDevice")},
    "throttle negative": (throttle("throttleReadBpsDevice", rate=-5), "/blockIO/throttleReadBpsDevice/1/rate", "-5"),
    "unified with a slash": (unified("memory/../../x"), "/unified", ""),
    "unified upwards": (unified("../cgroup.procs"), "/unified", ""),
    "unified absolute": (unified("/etc/passwd"), "/unified", ""),
    "unified unknown": (unified("nosuch.max"), "/unified", ""),
    "unified empty": (unified(""), "/unified", ""),
    "unified dots": (unified(".."), "/unified", ""),
    "unified value": (unified("pids.max", "few"), "/unified", ""),
    "rdma of no device": ({"rdma": {"mlx9_9": {"hcaHandles": 2}}}, "/rdma/mlx9_9", ""),
    "rule of a bad type": (rule(allow=True, type="x", access="r"), "/devices/1/type", "x"),
    "rule of bad access": (rule(allow=True, type="c", access="rwz"), "/devices/1/access", "rwz"),
    "rule without allow": (rule(type="c", access="r"), "/devices/1/allow", ""),
    "rule of minus two": (rule(allow=True, type="c", major=-2, access="r"), "/devices/1/major", "-2"),
}
V1_CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "weight of no device": ({"blockIO": {"weightDevice": [{**ABSENT, "weight": 100}]}}, "/blockIO/weightDevice/0", ""),
    "rt without a budget": ({"cpu": {"realtimeRuntime": 999_999_999}}, "/cpu/realtimeRuntime", ""),
    "rt above its period": ({"cpu": {"realtimePeriod": 1000, "realtimeRuntime": 1001}}, "/cpu/realtimeRuntime", ""),
    "swappiness": ({"memory": {"swappiness": 500}}, "/memory/swappiness", "500"),
    "any unified": (unified("memory.high"), "/unified", ""),
}


def refused(runtime: Runtime, bundle: Bundle, given: dict[str, Any], pointer: str, says: str) -> None:
    bundle.args("true")
    resources(bundle, **given).save()
    result = runtime("create", "--bundle", bundle.path, runtime.new_id())
    assert result.code == 1 and result.out == "", result
    assert len(result.errors) == 1, result.errors
    (line,) = result.errors
    assert f": /linux/resources{pointer}" in line and says in line, line
    assert "Traceback" not in line and len(line) < 500


@pytest.mark.parametrize("case", CASES)
def test_refused_in_one_line(runtime: Runtime, bundle: Bundle, host: Host, case: str) -> None:
    refused(runtime, bundle, *CASES[case])
    assert list(runtime.root.iterdir()) == []


@pytest.mark.parametrize("case", V1_CASES)
def test_refused_on_v1_in_one_line(runtime: Runtime, bundle: Bundle, host: Host, case: str) -> None:
    if is_v2():
        pytest.skip("fields of v1")
    refused(runtime, bundle, *V1_CASES[case])
    assert list(runtime.root.iterdir()) == []


def test_the_bundle_itself_is_good(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The control: what the cases change is what is refused."""
    good = {"cpu": {"shares": 100, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"},
            "memory": {"limit": 64 * MiB, "swap": 64 * MiB}, "pids": {"limit": 5},
            "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "access": "r"}]}
    assert runtime.run(resources(bundle, **good), "true").code == 0


def test_a_refusal_late_undoes_what_was_done(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """A hook that ran before the last limit was refused doesn't keep the container: nothing is left, and it can
    be created again at once under the same id."""
    container = runtime.new_id()
    for given, code in (({"pids": {"limit": 10}, "blockIO": {"throttleReadBpsDevice": [{**ABSENT, "rate": 1}]}}, 1),
                        ({"pids": {"limit": 10}}, 0)):
        resources(bundle.args("true"), **given).save()
        result = runtime("create", "--bundle", bundle.path, container)
        assert result.code == code, result
