# SPDX-License-Identifier: Apache-2.0
"""linux.resources where all controllers are: every field of v2 at once, devices of RDMA, BFQ, and v1's hierarchies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from container_cgroup import ContainerCgroup, resources
from support import Bundle, Host, Runtime, runc_version, wait_for

pytestmark = pytest.mark.vm

MiB = 1 << 20
TREE = Path(__file__).resolve().parents[2]
@pytest.fixture
def bfq(blank_disk: Path) -> Iterator[str]:
    """BFQ schedules the blank disk; its number."""
    subprocess.run(["modprobe", "bfq"], check=True)
    scheduler = Path("/sys/block", blank_disk.name, "queue/scheduler")
    before = scheduler.read_text().partition("[")[2].partition("]")[0]
    scheduler.write_text("bfq")
    yield number_of(blank_disk)
    scheduler.write_text(before)


def number_of(disk: Path) -> str:
    status = os.stat(disk)
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def node(number: str) -> dict[str, int]:
    major, minor = map(int, number.split(":"))
    return {"major": major, "minor": minor}


def created(runtime: Runtime, bundle: Bundle) -> tuple[str, ContainerCgroup]:
    container = runtime.create(bundle)
    return container, ContainerCgroup(runtime.state(container)["pid"])


@pytest.mark.vm_short
def test_every_field_at_once(runtime: Runtime, bundle: Bundle, host: Host, make_runtime: Callable[[str], Runtime],
                             blank_disk: Path, rdma: str) -> None:
    """config-linux.md, Control groups: each in its file; runc has the same where it knows the field."""
    disk = node(number_of(blank_disk))
    rates = {"throttleReadBpsDevice": 1 << 20, "throttleWriteBpsDevice": 2 << 20, "throttleReadIOPSDevice": 300,
             "throttleWriteIOPSDevice": 400}
    resources(
        bundle,
        memory={"limit": 64 * MiB, "swap": 96 * MiB, "reservation": 32 * MiB},
        cpu={"shares": 512, "quota": 50000, "period": 100000, "burst": 20000, "cpus": "0", "mems": "0"},
        pids={"limit": 77},
        blockIO={"weight": 500, **{name: [{**disk, "rate": rate}] for name, rate in rates.items()}},
        hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MiB}],
        rdma={rdma: {"hcaHandles": 2, "hcaObjects": 9}},
        unified={"memory.high": str(48 * MiB), "memory.oom.group": "1", "cgroup.max.depth": "3"},
    )
    number = number_of(blank_disk)
    expected = {
        "memory.max": str(64 * MiB), "memory.swap.max": str(32 * MiB), "memory.low": str(32 * MiB),
        "memory.high": str(48 * MiB), "memory.oom.group": "1", "cpu.weight": "59", "cpu.max": "50000 100000",
        "cpu.max.burst": "20000", "cpu.idle": "0", "cpuset.cpus": "0", "cpuset.mems": "0", "pids.max": "77",
        "io.max": f"{number} rbps=1048576 wbps=2097152 riops=300 wiops=400",
        "hugetlb.2MB.max": str(4 * MiB), "hugetlb.2MB.rsvd.max": str(4 * MiB),
        "rdma.max": f"{rdma} hca_handle=2 hca_object=9", "cgroup.max.depth": "3",
    }
    weight = {"io.weight": "default 4950", "io.bfq.weight": "default 500"}
    # runc's formula before 2025; what it knows since 1.2, and since 1.1.10
    differ = {"cpu.weight": "20", "cpu.max.burst": "0"}
    if runc_version() < (1, 1, 10):
        differ["hugetlb.2MB.rsvd.max"] = "max"
    for each in (runtime, make_runtime("runc")):
        container, cgroup = created(each, bundle)
        own = cgroup.paths[""]
        found = {name: (own / name).read_text().strip() for name in expected}
        assert found == (expected if each is runtime else {**expected, **differ})
        has = {name: text for name, text in weight.items() if (own / name).exists()}
        assert has and {name: (own / name).read_text().strip() for name in has} == has
        assert each("delete", "--force", container).code == 0
    container, cgroup = created(runtime, resources(bundle))  # the control
    unlimited = {name: (cgroup.paths[""] / name).read_text().strip() for name in expected}
    assert not [name for name in expected if unlimited[name] == expected[name] and name != "cpu.idle"]


@pytest.mark.vm_short
def test_pressure_is_told(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """events --stats has the psi of runc since 1.2, whose names are those of the kernel's files."""
    container, cgroup = created(runtime, resources(bundle, cpu={"cpus": "0"}).args("yes >/dev/null & yes >/dev/null"))
    assert runtime("start", container).code == 0
    files = {"cpu": "cpu.pressure", "memory": "memory.pressure", "blkio": "io.pressure"}

    def waited() -> dict[str, set[str]]:
        """Of each the kinds that have come up at all; the others are left out, as runc does."""
        found = {}
        for section, file in files.items():
            lines = (cgroup.paths[""] / file).read_text().splitlines()
            found[section] = {line.split()[0] for line in lines if not line.endswith("total=0")}
        return found

    wait_for(lambda: "some" in waited()["cpu"], "two to want the same processor")
    before = waited()
    data = json.loads(runtime("events", "--stats", container).out)["data"]
    after = waited()
    for section in files:
        assert before[section] <= set(data[section]["psi"]) <= after[section]
        for psi in data[section]["psi"].values():
            assert list(psi) == ["avg10", "avg60", "avg300", "total"]
    total = int((cgroup.paths[""] / "cpu.pressure").read_text().split()[4].removeprefix("total="))
    assert 0 < data["cpu"]["psi"]["some"]["total"] <= total


def test_weights_of_bfq(runtime: Runtime, bundle: Bundle, host: Host, make_runtime: Callable[[str], Runtime],
                        bfq: str) -> None:
    """config-linux.md, Block IO: where BFQ is the scheduler they are its own, single devices' too; as runc has it."""
    resources(bundle, blockIO={"weight": 500, "weightDevice": [{**node(bfq), "weight": 300}]})
    for each in (runtime, make_runtime("runc")):
        _, cgroup = created(each, bundle)
        lines = cgroup.file("", "io.bfq.weight").read_text().splitlines()
        assert lines == ["default 500", f"{bfq} 300"], each.name
        if each is not runtime:
            each.clean_up()
    assert runtime("update", "--blkio-weight", "200", runtime.ids[0]).code == 0
    pid = runtime.state(runtime.ids[0])["pid"]
    assert ContainerCgroup(pid).file("", "io.bfq.weight").read_text().splitlines() == ["default 200", f"{bfq} 300"]


def test_rdma_up_and_down(runtime: Runtime, bundle: Bundle, host: Host, rdma: str) -> None:
    """One of the two, the other stays without limit; an update; a device that isn't there is refused and named."""
    container, cgroup = created(runtime, resources(bundle, rdma={rdma: {"hcaHandles": 5}}))
    file = cgroup.file("", "rdma.max")
    assert file.read_text().split() == [rdma, "hca_handle=5", "hca_object=max"]
    change = json.dumps({"rdma": {rdma: {"hcaObjects": 7}}, "pids": {"limit": 9}})
    assert runtime("update", "--resources", "-", container, stdin=change).code == 0
    assert file.read_text().split() == [rdma, "hca_handle=5", "hca_object=7"]
    change = json.dumps({"pids": {"limit": 10}, "rdma": {rdma: {"hcaObjects": 8}, "none0": {"hcaObjects": 7}}})
    result = runtime("update", "--resources", "-", container, stdin=change)
    assert result.code == 1 and len(result.errors) == 1 and "/linux/resources/rdma/none0" in result.err, result
    assert file.read_text().split() == [rdma, "hca_handle=5", "hca_object=7"]
    assert cgroup.file("", "pids.max").read_text() == "9\n"


# This kernel has v1's hierarchies as well, those that a newer one lacks among them.  Only what the test needs, and
# never memory: a page that an earlier test's container wrote keeps its cgroup, and with it the controller, in v2.

HIERARCHIES = ("devices", "freezer", "hugetlb", "net_cls,net_prio", "rdma")
ON_V1 = f"""
set -e
umount /sys/fs/cgroup
mount -t tmpfs cgroups /sys/fs/cgroup
for names in {' '.join(HIERARCHIES)}; do
    mkdir /sys/fs/cgroup/$names
    mount -t cgroup -o $names cgroup /sys/fs/cgroup/$names
    for name in $(echo $names | tr , ' '); do [ $name = $names ] || ln -s $names /sys/fs/cgroup/$name; done
done
exec "$@"
"""


def test_fields_that_only_v1_has(runtime: Runtime, rdma: str) -> None:
    """The table of conformance.resources for them, beside runc's: network classes and priorities, huge pages, RDMA."""
    root = Path("/sys/fs/cgroup")
    (root / "cgroup.subtree_control").write_text(
        "".join(f"-{name} " for name in (root / "cgroup.subtree_control").read_text().split()) or "\n")
    found: list[dict[str, Any]] = []
    for pointer in ("/network", "/hugepageLimits", "/rdma"):
        done = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", ON_V1, "_", sys.executable,
                               "-m", "conformance.resources", "--json", "--only", pointer,
                               "--runtime", runtime.path, "--runtime", "runc"],
                              cwd=TREE, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        found += json.loads(done.stdout)
    assert {row["version"] for row in found} == {"v1"}
    none = str(((1 << 63) - 1) // (2 * MiB) * (2 * MiB))
    assert {row["file"]: row["values"] for row in found} == {
        "net_cls.classid": ["1048577"] * 2, "net_prio.ifpriomap": ["lo 5"] * 2,
        "hugetlb.2MB.limit_in_bytes": [str(4 * MiB)] * 2,
        "hugetlb.2MB.rsvd.limit_in_bytes": [str(4 * MiB), none if runc_version() < (1, 1, 10) else str(4 * MiB)],
        "rdma.max": [f"{rdma} hca_handle=max hca_object=9"] * 2,  # the last row's
    }
