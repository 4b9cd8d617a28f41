# SPDX-License-Identifier: Apache-2.0
"""linux.resources as writes to a v2 cgroup: values, order, what is refused.  What the kernel says: tests/vm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cgroup_lanes import lanes, made

from pyrunc import cgroupfs, cgroupv2, control, limits
from pyrunc.errors import ConfigError, PyruncError

RES = "/linux/resources"
MiB = 1 << 20


def written(resources: Any, directory: Path | str = "/nonexistent", warned: list[str] | None = None) -> list[str]:
    """The writes, `FILE=VALUE` each."""
    found = cgroupv2.limits(resources, str(directory), (warned if warned is not None else []).append)
    return [f"{write.file}={write.value}" for write in found]


@pytest.mark.parametrize(("shares", "weight"), [
    (1, 1), (2, 1), (3, 2), (102, 17), (512, 59), (1024, 100), (2048, 174), (10240, 639), (262144, 10000),
    (300000, 10000),
])
def test_shares_to_weight(shares: int, weight: int) -> None:
    assert cgroupv2.shares_to_weight(shares) == weight


def test_shares_keep_their_order() -> None:
    weights = [cgroupv2.shares_to_weight(shares) for shares in range(0, 262145, 97)]
    assert weights == sorted(weights) and min(weights) >= 1 and max(weights) <= 10000


@pytest.mark.parametrize(("weight", "io"), [(10, 1), (11, 11), (500, 4950), (999, 9989), (1000, 10000)])
def test_io_weight(weight: int, io: int) -> None:
    assert cgroupv2.io_weight(weight) == io


@pytest.mark.parametrize(("resources", "expected"), [
    ({}, []),
    ({"cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""}}, []),
    ({"cpu": {"shares": 1024}}, ["cpu.weight=100"]),
    ({"cpu": {"quota": 50000, "period": 200000}}, ["cpu.max=50000 200000"]),
    ({"cpu": {"quota": 50000}}, ["cpu.max=50000 100000"]),
    ({"cpu": {"period": 50000}}, ["cpu.max=max 50000"]),
    ({"cpu": {"quota": -1}}, ["cpu.max=max 100000"]),
    ({"cpu": {"idle": 1, "shares": 512}}, ["cpu.weight=59", "cpu.idle=1"]),
    ({"cpu": {"cpus": "0-1", "mems": "0"}}, ["cpuset.cpus=0-1", "cpuset.mems=0"]),
    ({"memory": {"limit": 64 * MiB}}, [f"memory.max={64 * MiB}"]),
    ({"memory": {"limit": -1}}, ["memory.swap.max=max", "memory.max=max"]),
    ({"memory": {"limit": 64 * MiB, "swap": 96 * MiB}}, [f"memory.swap.max={32 * MiB}", f"memory.max={64 * MiB}"]),
    ({"memory": {"limit": 64 * MiB, "swap": 64 * MiB}}, ["memory.swap.max=0", f"memory.max={64 * MiB}"]),
    ({"memory": {"limit": 64 * MiB, "swap": -1}}, ["memory.swap.max=max", f"memory.max={64 * MiB}"]),
    ({"memory": {"reservation": 7}}, ["memory.low=7"]),
    ({"pids": {"limit": 5}}, ["pids.max=5"]),
    ({"pids": {"limit": -1}}, ["pids.max=max"]),
    ({"pids": {"limit": 0}}, ["pids.max=1"]),
    ({"pids": {}}, []),
    ({"blockIO": {"weight": 500}}, ["io.weight=4950"]),
    ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}],
                  "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]}},
     ["io.max=8:0 rbps=5", "io.max=8:16 wiops=max"]),
    ({"rdma": {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 4}}}, ["rdma.max=mlx5_0 hca_handle=3 hca_object=4"]),
    ({"unified": {"io.max": "8:0 rbps=1\n8:16 wbps=2", "cgroup.max.depth": "4"}},
     ["io.max=8:0 rbps=1", "io.max=8:16 wbps=2", "cgroup.max.depth=4"]),
    # What names the file itself comes last, and so holds.
    ({"unified": {"pids.max": "9"}, "pids": {"limit": 5}}, ["pids.max=5", "pids.max=9"]),
])
def test_values(resources: Any, expected: list[str]) -> None:
    assert written(resources) == expected


@pytest.mark.parametrize(("files", "cpu", "expected"), [
    # The kernel takes no weight for an idle cgroup.
    ({"cpu.idle": "1\n"}, {"idle": 0, "shares": 1024}, ["cpu.idle=0", "cpu.weight=100"]),
    ({"cpu.idle": "0\n"}, {"idle": 1, "shares": 1024}, ["cpu.weight=100", "cpu.idle=1"]),
    # burst <= quota holds after each write.
    ({"cpu.max.burst": "0\n"}, {"quota": 90000, "burst": 80000}, ["cpu.max=90000 100000", "cpu.max.burst=80000"]),
    ({"cpu.max.burst": "80000\n"}, {"quota": 9000, "burst": 8000}, ["cpu.max.burst=8000", "cpu.max=9000 100000"]),
])
def test_order(tmp_path: Path, files: dict[str, str], cpu: Any, expected: list[str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert written({"cpu": cpu}, tmp_path) == expected


def test_bfq_where_it_is_the_scheduler(tmp_path: Path) -> None:
    (tmp_path / "io.bfq.weight").write_text("default 100\n")
    block = {"weight": 300, "weightDevice": [{"major": 8, "minor": 0, "weight": 20}]}
    assert written({"blockIO": block}, tmp_path) == ["io.bfq.weight=300", "io.bfq.weight=8:0 20"]
    # A new weight for all takes those of single devices away (on the kernel: tests/vm/test_fields_vm.py).
    given: Any = {"blockIO": {"weight": 200}}
    merged = control.merge({"blockIO": {**block}}, given)  # type: ignore[typeddict-item]
    assert control.to_apply(merged, given)["blockIO"] == {"weight": 200, "weightDevice": block["weightDevice"]}
    (first, _) = cgroupv2.limits({"blockIO": block}, str(tmp_path), lambda _: None)  # type: ignore[typeddict-item]
    assert first.undo("default 100\n8:0 20\n") == ["default 100", "8:0 20"]


@pytest.mark.parametrize(("resources", "pointer", "text"), [
    ({"memory": {"swap": 5}}, "/memory/swap", "without memory limit"),
    ({"memory": {"limit": 9, "swap": 5}}, "/memory/swap", "memory+swap limit should be >= memory limit"),
    ({"memory": {"limit": -2}}, "/memory/limit", "-2 is no limit"),
    ({"blockIO": {"weight": 9}}, "/blockIO/weight", "10 to 1000"),
    ({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}, "/hugepageLimits/0/pageSize", "'3MB'"),
    ({"unified": {"a/b.c": "1"}}, "/unified/a~1b.c", "no slashes"),
    ({"unified": {"memory": "1"}}, "/unified/memory", "CONTROLLER.PARAMETER"),
])
def test_refused(resources: Any, pointer: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        written(resources)
    assert caught.value.pointer == RES + pointer and text in caught.value.message


def test_check_before_update(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("5000\n")
    with pytest.raises(ConfigError, match="rejecting memory limit 4096 <= usage 5000"):
        written({"memory": {"limit": 4096, "checkBeforeUpdate": True}}, tmp_path)
    assert written({"memory": {"limit": 4096}}, tmp_path) == ["memory.max=4096"]
    assert written({"memory": {"limit": 8192, "checkBeforeUpdate": True}}, tmp_path) == ["memory.max=8192"]


def test_what_only_v1_has_is_told() -> None:
    warned: list[str] = []
    assert written({
        "cpu": {"realtimeRuntime": 1, "realtimePeriod": 2},
        "memory": {"kernel": 1, "kernelTCP": 1, "swappiness": 0, "disableOOMKiller": True},
        "blockIO": {"leafWeight": 10}, "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
    }, warned=warned) == []
    assert [line.split()[0].removeprefix(RES) for line in warned] == [
        "/cpu/realtimeRuntime", "/cpu/realtimePeriod", "/memory/kernel", "/memory/kernelTCP", "/memory/swappiness",
        "/memory/disableOOMKiller", "/blockIO/leafWeight", "/network/classID", "/network/priorities"]


@pytest.mark.parametrize(("name", "before", "line", "back"), [
    ("io.max", "8:0 rbps=9 wbps=max riops=max wiops=max\n", "8:0 rbps=1", ["8:0 rbps=9 wbps=max riops=max wiops=max"]),
    ("io.max", "", "8:0 rbps=1", ["8:0 rbps=max wbps=max riops=max wiops=max"]),
    ("cpuset.cpus", "\n", "0", ["\n"]),
    ("memory.high", "max\n", "5", ["max"]),
])
def test_undo(name: str, before: str, line: str, back: list[str]) -> None:
    (write,) = cgroupv2.limits({"unified": {name: line}}, "/nonexistent", lambda _: None)
    assert write.undo(before) == back


@lanes("unified")
def test_on_the_kernel() -> None:
    """A controller that a v2 host has everywhere it can be had without a machine of its own."""
    with made() as cg:
        path = cg.paths[""]
        config: Any = {"ociVersion": "1.3.0"}
        cg.apply({"hugepageLimits": [{"pageSize": "2MB", "limit": 8 * MiB}]}, config, lambda _: None)
        for name in ("hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"):
            assert cgroupfs.read(f"{path}/{name}") == f"{8 * MiB}\n"
        # All or nothing: what went before the one that is rejected is taken back.
        found = cgroupv2.limits({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MiB}],
                                 "unified": {"cgroup.max.depth": "3", "hugetlb.2MB.max": "x"}}, path, lambda _: None)
        with pytest.raises(PyruncError) as caught:
            limits.apply(found, cg.paths, undo=True)
        assert caught.value.pointer == f"{RES}/unified/hugetlb.2MB.max" and caught.value.errno == 22
        for name in ("hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"):
            assert cgroupfs.read(f"{path}/{name}") == f"{8 * MiB}\n"
        assert cgroupfs.read(f"{path}/cgroup.max.depth") == "max\n"
        with pytest.raises(ConfigError, match="has no nope") as missing:
            cg.apply({"unified": {"nope.max": "1"}}, config, lambda _: None)
        assert missing.value.pointer == f"{RES}/unified/nope.max"
