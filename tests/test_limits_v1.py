# SPDX-License-Identifier: Apache-2.0
"""config-linux.md, Control groups, on cgroup v1: what each field of linux.resources writes, and in which order.

On the hierarchies of this machine: as they are (hybrid), and without the v2 one among them (legacy).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cgroup_lanes import lanes, made, spawn

from pyrunc import limits
from pyrunc.cgroup import Cgroup
from pyrunc.cgroupv1 import limits as plan
from pyrunc.errors import ConfigError, KernelError, PyruncError

MiB = 1 << 20
UNLIMITED = "9223372036854771712"
ABSENT = "250:7"  # a block device that no driver has


def loop() -> tuple[int, int]:
    number = os.stat("/dev/loop0").st_rdev
    return os.major(number), os.minor(number)


def planned(cg: Cgroup, resources: Any) -> list[limits.Write]:
    def unexpected(warning: str) -> None:
        raise AssertionError(warning)

    return plan(resources, cg.paths, unexpected)


def apply(cg: Cgroup, resources: Any, undo: bool = False) -> None:
    limits.apply(planned(cg, resources), cg.paths, undo=undo)


def content(cg: Cgroup, *files: str) -> list[str]:
    """CONTROLLER.FILE of each."""
    return [(Path(cg.paths[file.split(".")[0]]) / file).read_text().strip() for file in files]


def everything(cg: Cgroup) -> dict[str, str]:
    """Each limit of the cgroup."""
    found = {}
    for controller in ("cpu", "cpuset", "memory", "pids", "blkio"):
        for path in Path(cg.paths[controller]).iterdir():
            last = path.name.split(".")[-1]
            if path.name in ("cpuset.cpus", "cpuset.mems", "memory.oom_control", "memory.swappiness") or last in (
                    "max", "limit_in_bytes", "soft_limit_in_bytes", "shares", "idle", "weight") or last.endswith(
                    ("_us", "_device")):
                found[path.name] = path.read_text()
    return found


def refused(cg: Cgroup, resources: Any, kind: type[PyruncError] = ConfigError) -> str:
    """The error's text; what it left must be what was there."""
    before = everything(cg)
    with pytest.raises(kind) as caught:
        apply(cg, resources, undo=True)
    after = everything(cg)
    assert after == before, {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    return str(caught.value)


#: linux.resources, a file, what it then holds.
WRITTEN: list[tuple[dict[str, Any], str, str]] = [
    ({"cpu": {"shares": 512}}, "cpu.shares", "512"),
    ({"cpu": {"shares": 2}}, "cpu.shares", "2"),
    ({"cpu": {"shares": 262144}}, "cpu.shares", "262144"),
    ({"cpu": {"quota": 20000}}, "cpu.cfs_quota_us", "20000"),
    ({"cpu": {"quota": -1}}, "cpu.cfs_quota_us", "-1"),
    ({"cpu": {"period": 50000}}, "cpu.cfs_period_us", "50000"),
    ({"cpu": {"quota": 20000, "burst": 10000}}, "cpu.cfs_burst_us", "10000"),
    ({"cpu": {"idle": 1}}, "cpu.idle", "1"),
    ({"cpu": {"shares": 300, "idle": 1}}, "cpu.idle", "1"),
    ({"cpu": {"realtimePeriod": 500000}}, "cpu.rt_period_us", "500000"),
    ({"cpu": {"cpus": "0"}}, "cpuset.cpus", "0"),
    ({"cpu": {"cpus": "0-1"}}, "cpuset.cpus", "0-1"),
    ({"cpu": {"mems": "0"}}, "cpuset.mems", "0"),
    ({"memory": {"limit": 64 * MiB}}, "memory.limit_in_bytes", str(64 * MiB)),
    ({"memory": {"limit": 64 * MiB}}, "memory.memsw.limit_in_bytes", UNLIMITED),
    ({"memory": {"limit": 64 * MiB, "swap": 96 * MiB}}, "memory.memsw.limit_in_bytes", str(96 * MiB)),
    ({"memory": {"limit": 64 * MiB, "swap": -1}}, "memory.memsw.limit_in_bytes", UNLIMITED),
    ({"memory": {"limit": 64 * MiB, "swap": 64 * MiB}}, "memory.limit_in_bytes", str(64 * MiB)),
    ({"memory": {"reservation": 32 * MiB}}, "memory.soft_limit_in_bytes", str(32 * MiB)),
    ({"memory": {"swappiness": 0}}, "memory.swappiness", "0"),
    ({"memory": {"swappiness": 100}}, "memory.swappiness", "100"),
    ({"memory": {"disableOOMKiller": True}}, "memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 0"),
    ({"memory": {"limit": 64 * MiB, "checkBeforeUpdate": True, "useHierarchy": False}}, "memory.limit_in_bytes",
     str(64 * MiB)),
    ({"pids": {"limit": 7}}, "pids.max", "7"),
    ({"pids": {"limit": 0}}, "pids.max", "1"),
    ({"pids": {"limit": -1}}, "pids.max", "max"),
    ({"blockIO": {"weight": 10}}, "blkio.bfq.weight", "10"),
    ({"blockIO": {"weight": 1000}}, "blkio.bfq.weight", "1000"),
]


@lanes("hybrid", "legacy")
def test_each_field_is_in_its_file() -> None:
    for number, (resources, file, value) in enumerate(WRITTEN):
        with made(f"-{number}") as cg:
            apply(cg, resources)
            assert content(cg, file) == [value], resources


@lanes("hybrid", "legacy")
def test_throttles() -> None:
    major, minor = loop()
    for field, file in (("throttleReadBpsDevice", "read_bps"), ("throttleWriteBpsDevice", "write_bps"),
                        ("throttleReadIOPSDevice", "read_iops"), ("throttleWriteIOPSDevice", "write_iops")):
        with made() as cg:
            entry = {"major": major, "minor": minor, "rate": 1234567}
            apply(cg, {"blockIO": {field: [entry]}})
            name = f"blkio.throttle.{file}_device"
            assert content(cg, name) == [f"{major}:{minor} 1234567"]
            wrong = {"major": 250, "minor": 7, "rate": 1}
            text = refused(cg, {"blockIO": {field: [{**entry, "rate": 5}, wrong]}}, KernelError)
            assert f"/linux/resources/blockIO/{field}/1" in text and ABSENT in text
            apply(cg, {"blockIO": {field: [{**entry, "rate": 0}]}})
            assert content(cg, name) == [""]  # no limit


@lanes("hybrid", "legacy")
def test_zero_and_null_are_not_given() -> None:
    with made() as cg:
        before = everything(cg)
        for nothing in (0, None):
            resources = {
                "cpu": {"shares": nothing, "quota": nothing, "period": nothing, "realtimePeriod": nothing,
                        "realtimeRuntime": nothing, "burst": None, "idle": None, "cpus": "", "mems": None},
                "memory": {"limit": nothing, "swap": nothing, "reservation": nothing, "kernel": nothing,
                           "kernelTCP": nothing, "swappiness": None, "disableOOMKiller": False},
                "pids": {"limit": None}, "blockIO": {"weight": nothing, "leafWeight": nothing, "weightDevice": None},
                "network": {"classID": nothing, "priorities": None}, "hugepageLimits": None, "rdma": None,
                "unified": {}}
            assert planned(cg, resources) == []
        assert planned(cg, dict.fromkeys(("cpu", "memory", "pids", "blockIO", "network"))) == []
        assert everything(cg) == before


@lanes("hybrid", "legacy")
def test_memory_and_swap_up_and_down() -> None:
    """memory <= memory+swap holds after each single write, so the order is the direction's."""
    with made() as cg:
        files = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        for limit, swap in ((64, 96), (128, 128), (32, 32), (48, 256), (200, 220), (32, 200), (-1, 0), (64, 64),
                            (-1, -1), (16, 16)):
            apply(cg, {"memory": {"limit": limit * (MiB if limit > 0 else 1), "swap": swap * (MiB if swap > 0 else 1)}})
            assert content(cg, *files) == [str(n * MiB) if n > 0 else UNLIMITED for n in (limit, swap)], (limit, swap)
        apply(cg, {"memory": {"swap": 32 * MiB}})  # an update of the swap alone
        assert content(cg, *files) == [str(16 * MiB), str(32 * MiB)]
        text = refused(cg, {"memory": {"limit": 64 * MiB}}, KernelError)
        assert "/memory/limit" in text and "EINVAL" in text and f"memory+swap limit: {32 * MiB}" in text
        assert f"limit, {16 * MiB}" in refused(cg, {"memory": {"swap": 8 * MiB}})


@lanes("hybrid", "legacy")
def test_quota_period_and_burst_up_and_down() -> None:
    """Below a parent with a share of its own, each single write has to stay within that share."""
    with made() as up, made("/leaf") as cg:
        apply(up, {"cpu": {"quota": 50000, "period": 100000}})
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us")
        for values in ((50000, 100000, 0), (5000, 10000, 5000), (100000, 200000, 100000), (10000, 20000, 0),
                       (1000, 1000000, 1000), (500, 1000, 0), (20000, 40000, 20000), (2000, 8000, 1500)):
            wanted = dict(zip(("quota", "period", "burst"), values, strict=True))
            if values[0] < 1000:
                assert "/cpu/quota" in refused(cg, {"cpu": wanted}, KernelError)
                continue
            apply(cg, {"cpu": wanted})
            assert content(cg, *files) == [str(value) for value in values]
        apply(cg, {"cpu": {"period": 16000}})
        assert content(cg, *files) == ["2000", "16000", "1500"]
        apply(cg, {"cpu": {"burst": 2000}})
        text = refused(cg, {"cpu": {"period": 2000}}, KernelError)
        assert "/cpu/period" in text and "parent" in text
        assert "/cpu/quota" in refused(cg, {"cpu": {"quota": 1500}}, KernelError)  # below the burst
        apply(cg, {"cpu": {"quota": -1, "burst": 0}})


@lanes("hybrid", "legacy")
def test_idle_and_shares() -> None:
    with made() as cg:
        apply(cg, {"cpu": {"shares": 300}})
        late = {"pids": {"limit": 1 << 40}}
        assert "/pids/limit" in refused(cg, {"cpu": {"idle": 1}, **late}, KernelError)  # undone: 300 shares again
        apply(cg, {"cpu": {"idle": 1}})
        text = refused(cg, {"cpu": {"shares": 400}}, KernelError)
        assert "/cpu/shares" in text and "idle" in text
        refused(cg, {"cpu": {"shares": 400, "idle": 0}, **late}, KernelError)
        apply(cg, {"cpu": {"shares": 400, "idle": 0}})
        assert content(cg, "cpu.idle", "cpu.shares") == ["0", "400"]


@lanes("hybrid", "legacy")
def test_realtime_needs_the_parents_budget() -> None:
    with made() as up, made("/leaf") as cg:
        text = refused(cg, {"cpu": {"realtimeRuntime": 2000}}, KernelError)
        assert "/cpu/realtimeRuntime" in text and "EINVAL" in text and "parent cgroup's cpu.rt_runtime_us" in text
        apply(up, {"cpu": {"realtimeRuntime": 1000, "realtimePeriod": 100000}})
        for runtime, period in ((1000, 100000), (2000, 200000), (100, 10000), (200, 1000000)):
            apply(cg, {"cpu": {"realtimeRuntime": runtime, "realtimePeriod": period}})
            assert content(cg, "cpu.rt_runtime_us", "cpu.rt_period_us") == [str(runtime), str(period)]
        text = refused(cg, {"cpu": {"realtimeRuntime": 1001, "realtimePeriod": 1000}})
        assert "/cpu/realtimeRuntime: 1001 is more than the period, 1000" in text
        (Path(cg.paths["cpu"]) / "cpu.rt_runtime_us").write_text("0")


ALL = {"cpu": {"shares": 77, "quota": 50000, "period": 60000, "burst": 10, "cpus": "0", "mems": "0", "idle": 0},
       "memory": {"limit": 64 * MiB, "swap": 65 * MiB, "reservation": MiB, "swappiness": 3, "disableOOMKiller": True},
       "pids": {"limit": 9}, "blockIO": {"weight": 55}}


@lanes("hybrid", "legacy")
def test_all_or_nothing() -> None:
    """A value rejected late takes back what was written before it, from the defaults and from other limits."""
    def wrong() -> dict[str, Any]:
        major, minor = loop()
        return {**ALL, "blockIO": {"weight": 55, "throttleReadBpsDevice": [
            {"major": major, "minor": minor, "rate": 9}, {"major": 250, "minor": 7, "rate": 9}]}}

    with made() as cg:
        first = everything(cg)
        assert ABSENT in refused(cg, wrong(), KernelError)
        apply(cg, {"cpu": {"shares": 99, "quota": 9000, "period": 9000, "burst": 9000, "cpus": "1"},
                   "memory": {"limit": 32 * MiB, "swap": 32 * MiB, "swappiness": 9}, "pids": {"limit": 3},
                   "blockIO": {"weight": 77}})
        assert ABSENT in refused(cg, wrong(), KernelError)
        apply(cg, ALL)
        assert {name for name, value in everything(cg).items() if value != first[name]} >= {
            "cpu.shares", "cpu.cfs_quota_us", "cpuset.cpus", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes",
            "memory.oom_control", "pids.max", "blkio.bfq.weight"}


#: linux.resources, the pointer, what is said.
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"cpu": {"shares": 1}}, "/cpu/shares", "the minimum allowed cpu-shares is 2"),
    ({"cpu": {"shares": 262145}}, "/cpu/shares", "the maximum allowed cpu-shares is 262144"),
    ({"cpu": {"shares": -1}}, "/cpu/shares", "the minimum allowed"),
    ({"cpu": {"quota": 5000, "burst": 5001}}, "/cpu/burst", "above the quota of 5000"),
    ({"memory": {"swap": 64 * MiB}}, "/memory/swap", "unable to set swap limit without memory limit"),
    ({"memory": {"limit": -1, "swap": 64 * MiB}}, "/memory/swap", "without memory limit"),
    ({"memory": {"limit": 64 * MiB, "swap": 63 * MiB}}, "/memory/swap", "should be >= memory limit"),
    ({"memory": {"limit": -2}}, "/memory/limit", "-1 is unlimited"),
    ({"memory": {"swappiness": 101}}, "/memory/swappiness", "valid range is 0-100"),
    ({"blockIO": {"weight": 9}}, "/blockIO/weight", "10 to 1000"),
    ({"blockIO": {"weightDevice": [{"major": 7, "minor": 0, "weight": 1001}]}}, "/blockIO/weightDevice/0/weight",
     "10 to 1000"),
    ({"blockIO": {"leafWeight": 100}}, "/blockIO/leafWeight", "no blkio.leaf_weight"),
    ({"blockIO": {"weightDevice": [{"major": 7, "minor": 0, "leafWeight": 100}]}},
     "/blockIO/weightDevice/0/leafWeight", "no blkio.leaf_weight_device"),
    *(({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}, {"pageSize": size, "limit": 0}]},
       "/hugepageLimits/1/pageSize", "one of 2MB, 1GB") for size in ("3MB", "2XB", "../2MB", "2mb", "")),
    ({"network": {"classID": 5}}, "/network/classID", "no net_cls cgroup controller"),
    ({"network": {"priorities": [{"name": "lo", "priority": 1}]}}, "/network/priorities/0",
     "no net_prio cgroup controller"),
    ({"rdma": {"a/b~c": {"hcaHandles": 1}}}, "/rdma/a~1b~0c", "no rdma cgroup controller"),
    ({"unified": {"memory.high": "1"}}, "/unified", "cannot use unified on cgroup v1"),
]


@lanes("hybrid", "legacy")
def test_refused_with_its_pointer() -> None:
    with made() as cg:
        for resources, pointer, says in REFUSED:
            text = refused(cg, resources)
            assert text.startswith(f"/linux/resources{pointer}: ") and says in text, text
            assert len(text) < 300


@lanes("hybrid", "legacy")
def test_rejected_by_the_kernel() -> None:
    with made() as cg:
        for resources, pointer, name, says in (
            ({"cpu": {"cpus": "0-99999"}}, "/cpu/cpus", "", "the parent cgroup has 0-1"),
            ({"cpu": {"mems": "0-77"}}, "/cpu/mems", "", "the parent cgroup has 0"),
            ({"cpu": {"quota": 10}}, "/cpu/quota", "EINVAL", "at least 1000"),
            ({"cpu": {"period": 10**9}}, "/cpu/period", "EINVAL", "1000 to 1000000"),
            ({"cpu": {"idle": 2}}, "/cpu/idle", "", "0 or 1"),
            ({"pids": {"limit": 1 << 40}}, "/pids/limit", "EINVAL", "at most 4194304"),
            ({"blockIO": {"weightDevice": [{"major": 250, "minor": 7, "weight": 100}]}},
             "/blockIO/weightDevice/0/weight", "", "250:7 100"),
        ):
            text = refused(cg, resources, KernelError)
            assert text.startswith(f"/linux/resources{pointer}: write '") and name in text and says in text, text


@lanes("hybrid", "legacy")
def test_memory_in_use() -> None:
    """What is in use and can't be reclaimed is told; with checkBeforeUpdate the kernel isn't even asked."""
    with made() as cg:
        spawn(cg, "tail", "-c", str(8 * MiB), "/dev/zero")  # keeps the end of what has none in its memory
        usage = Path(cg.paths["memory"]) / "memory.usage_in_bytes"
        for _ in range(10000):
            if int(usage.read_text()) > 8 * MiB:
                break
        text = refused(cg, {"memory": {"limit": 4096, "checkBeforeUpdate": True}})
        assert "/memory/limit: rejecting memory limit 4096 <= usage " in text
        text = refused(cg, {"memory": {"limit": 4096, "swap": 8192, "checkBeforeUpdate": True}})
        assert "/memory/swap: rejecting memory+swap limit 8192 <= usage " in text
        text = refused(cg, {"memory": {"limit": 4096}}, KernelError)
        assert "EBUSY" in text and "current usage: " in text and "peak usage: " in text


@lanes("hybrid", "legacy")
def test_ignored_with_a_warning() -> None:
    with made() as cg:
        warnings: list[str] = []
        resources: Any = {"memory": {"kernel": MiB}}
        assert plan(resources, cg.paths, warnings.append) == []
        assert [warning.split(" is ignored")[0] for warning in warnings] == ["/linux/resources/memory/kernel"]


@lanes("hybrid", "legacy")
def test_memory_of_tcp_buffers() -> None:
    """memory.kmem.tcp.limit_in_bytes, where the kernel has it; a warning where it doesn't."""
    with made() as cg:
        warnings: list[str] = []
        file = Path(cg.paths["memory"], "memory.kmem.tcp.limit_in_bytes")
        writes = plan({"memory": {"kernelTCP": 32 * MiB}}, cg.paths, warnings.append)
        if not file.exists():
            assert writes == [] and "/linux/resources/memory/kernelTCP is ignored" in warnings[0]
            return
        assert [(write.file, write.value, write.pointer) for write in writes] == [
            (file.name, str(32 * MiB), "/linux/resources/memory/kernelTCP")]
        limits.apply(writes, cg.paths)
        assert file.read_text().strip() == str(32 * MiB)


@lanes("hybrid", "legacy")
def test_huge_pages_where_the_controller_is() -> None:
    """A hybrid host may have it on v2; without it, it's an error that names it."""
    resources: Any = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MiB}, {"pageSize": "1GB", "limit": 0}]}
    with made() as cg:
        if Path(cg.paths.get("", "/nowhere"), "hugetlb.2MB.max").exists():
            unified = Path(cg.paths[""])
            apply(cg, resources)
            names = ("hugetlb.2MB.max", "hugetlb.2MB.rsvd.max", "hugetlb.1GB.max")
            assert [(unified / name).read_text().strip() for name in names] == [str(4 * MiB), str(4 * MiB), "0"]
            wrong = {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
                     "blockIO": {"weight": 20}, "rdma": {"mlx": {"hcaHandles": 1}}}
            with pytest.raises(ConfigError, match="/linux/resources/rdma/mlx: this host has no rdma"):
                apply(cg, wrong, undo=True)
            assert (unified / names[0]).read_text().strip() == str(4 * MiB)
        else:
            text = refused(cg, resources)
            assert text == "/linux/resources/hugepageLimits/0: this host has no hugetlb cgroup controller"


def test_huge_pages_network_and_rdma_on_their_v1_hierarchies(tmp_path: Path) -> None:
    """Not mounted here: the writes as data, and what undoes them."""
    directories = {name: str(tmp_path) for name in ("hugetlb", "net_cls", "net_prio", "rdma")}
    resources: Any = {"hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 63}],
                      "network": {"classID": 0x100001, "priorities": [{"name": "lo", "priority": 3}]},
                      "rdma": {"mlx5_0": {"hcaHandles": 0, "hcaObjects": 7}, "mlx5_1": {"hcaObjects": 1}}}
    ignore: Callable[[str], None] = lambda warning: None  # noqa: E731
    writes = plan(resources, directories, ignore)
    assert [(write.controller, write.file, write.value) for write in writes] == [
        ("hugetlb", "hugetlb.2MB.limit_in_bytes", str(1 << 63)),
        ("hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes", str(1 << 63)),
        ("net_cls", "net_cls.classid", "1048577"), ("net_prio", "net_prio.ifpriomap", "lo 3"),
        ("rdma", "rdma.max", "mlx5_0 hca_handle=0 hca_object=7"), ("rdma", "rdma.max", "mlx5_1 hca_object=1")]
    assert [write.file for write in writes if write.optional] == ["hugetlb.2MB.rsvd.limit_in_bytes"]
    assert writes[3].undo("lo 1\neth0 2\n") == ["lo 1"]
    assert writes[4].undo("mlx5_1 hca_handle=1 hca_object=1\n") == ["mlx5_0 hca_handle=max hca_object=max"]


def test_weights_of_cfq_where_it_has_them(tmp_path: Path) -> None:
    """Kernels before 5.0; a directory stands in for its files."""
    (tmp_path / "blkio.weight").touch()
    resources: Any = {"blockIO": {"weight": 500, "leafWeight": 300,
                                  "weightDevice": [{"major": 8, "minor": 0, "weight": 500, "leafWeight": 300}]}}
    writes = plan(resources, {"blkio": str(tmp_path)}, lambda warning: None)
    assert [(write.file, write.value) for write in writes] == [
        ("blkio.weight", "500"), ("blkio.leaf_weight", "300"), ("blkio.weight_device", "8:0 500"),
        ("blkio.leaf_weight_device", "8:0 300")]
    assert writes[2].undo("") == ["8:0 default"]
