# SPDX-License-Identifier: Apache-2.0
"""Where a container's cgroup is: cgroupsPath against the mounts and our own cgroup (config-linux.md, Cgroups Path)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pyrunc import cgroup, cgroupv2
from pyrunc.cgroup import Cgroup
from pyrunc.cgroupv1 import hierarchies
from pyrunc.errors import ConfigError

MOUNTS = """\
24 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 23 0:33 / /mnt/a\\040b\\134 rw,relatime - cgroup cgroup rw,pids
37 23 0:34 / /elsewhere/freezer rw,relatime - cgroup cgroup rw,freezer
38 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:39 / /sys/fs/cgroup/openrc rw,relatime - cgroup cgroup rw,name=openrc
42 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
OWN = """\
9:name=openrc:/x
8:name=systemd:/user.slice/u:1
7:pids:/
6:freezer:/../outside
5:devices:/not/mounted
4:memory:/docker/abc/inner
1:cpu,cpuacct:/a/b
0::/v2
"""


def paths(text: str, *, hybrid: bool = False, own: str = OWN) -> dict[str, str]:
    return {name: h.path(text) for name, h in hierarchies(hybrid, MOUNTS, own).items()}


def test_v1_absolute_counts_from_the_mount_points() -> None:
    assert paths("/x/y") == {
        "name=systemd": "/sys/fs/cgroup/systemd/x/y",
        "pids": "/mnt/a b\\/x/y",
        "freezer": "/sys/fs/cgroup/freezer/x/y",  # of two mounts the usual one
        "memory": "/sys/fs/cgroup/memory/x/y",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct/x/y",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/x/y",
    }


def test_v1_relative_counts_from_our_own_cgroup() -> None:
    assert paths("x") == {
        "name=systemd": "/sys/fs/cgroup/systemd/user.slice/u:1/x",
        "pids": "/mnt/a b\\/x",
        "freezer": "/sys/fs/cgroup/freezer/x",  # ours is out of sight: from the mount point
        "memory": "/sys/fs/cgroup/memory/inner/x",  # the mount shows but the inner part
        "cpu": "/sys/fs/cgroup/cpu,cpuacct/a/b/x",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/a/b/x",
    }


def test_v1_a_name_that_only_begins_alike_is_not_inside_the_mount() -> None:
    assert paths("x", own="4:memory:/docker/abcd/e\n") == {"memory": "/sys/fs/cgroup/memory/x"}


def test_hybrid_has_the_v2_hierarchy_too() -> None:
    assert paths("x", hybrid=True)[""] == "/sys/fs/cgroup/unified/v2/x"
    assert paths("/x", hybrid=True)[""] == "/sys/fs/cgroup/unified/x"
    assert "" not in paths("/x")


@pytest.mark.parametrize(("text", "own", "expected"), [
    ("/x/y", "0::/a/b\n", "/sys/fs/cgroup/x/y"),
    # Beside our own: below it there could be no controllers, since it holds us.
    ("x", "0::/a/b\n", "/sys/fs/cgroup/a/x"),
    ("x", "0::/\n", "/sys/fs/cgroup/x"),
    ("x", "1:cpu:/c\n0::/a/b/c\n", "/sys/fs/cgroup/a/b/x"),
    ("x", "0::/../../a/b\n", "/sys/fs/cgroup/x"),
])
def test_v2(text: str, own: str, expected: str) -> None:
    assert cgroupv2.path(text, own) == expected


@pytest.mark.parametrize(("given", "expected"), [
    ("/h4/a", "/h4/a"), ("/h4//a/./b/", "/h4/a/b"), ("/../../h4", "/h4"), ("/h4/../../../a", "/a"),
])
def test_absolute_is_cleaned_and_can_not_escape(given: str, expected: str) -> None:
    planned = cgroup.plan(given, "id")
    assert planned.paths["cpu"] == "/sys/fs/cgroup/cpu" + expected


def test_relative_can_not_escape() -> None:
    assert cgroup.plan("../../../a/../b", "id").paths == cgroup.plan("b", "id").paths


def test_absent_is_the_id() -> None:
    assert cgroup.plan(None, "web").paths == cgroup.plan("", "web").paths == cgroup.plan("web", "x").paths


@pytest.mark.parametrize("given", ["/", ".", "..", "/..", "a/.."])
def test_no_cgroup_left_to_make(given: str) -> None:
    with pytest.raises(ConfigError) as info:
        cgroup.plan(given, "id")
    assert info.value.pointer == "/linux/cgroupsPath"


def test_planning_makes_nothing() -> None:
    planned = cgroup.plan("/pyrunc-test-plan/x", "id")
    assert planned.given == [] and not any(os.path.exists(path) for path in planned.directories())


def test_data_there_and_back() -> None:
    planned = cgroup.plan("/pyrunc-test-plan/x", "id")
    planned.given = ["/a"]
    planned.skipped = ["/b"]
    planned.claimed = True
    again = Cgroup.from_data(json.loads(json.dumps(planned.to_data())))
    assert again.to_data() == planned.to_data()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle")
    (path / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", path / "rootfs/bin/busybox")
    subprocess.run(["runc", "spec"], cwd=path, check=True)
    return path


@pytest.mark.parametrize("given", [
    None, "/pyrunc-test-a/b", "pyrunc-test-r/x", "../../pyrunc-test-up", "/../pyrunc-test-abs", "/pyrunc-test-s//./t/",
])
def test_same_place_as_runc(bundle: Path, tmp_path: Path, given: str | None) -> None:
    """The control of all of the above: what runc makes of it on this machine."""
    container = f"pyrunc-test-{os.getpid()}"
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/busybox", "sleep", "60"]}
    if given is not None:
        config["linux"]["cgroupsPath"] = given
    (bundle / "config.json").write_text(json.dumps(config))
    planned = cgroup.plan(given, container)
    runc = ["runc", "--root", str(tmp_path / "state")]
    subprocess.run([*runc, "run", "-d", "--bundle", str(bundle), container], check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        state = json.loads(subprocess.run([*runc, "state", container], check=True, capture_output=True).stdout)
        found = Path(f"/proc/{state['pid']}/cgroup").read_text()
    finally:
        subprocess.run([*runc, "delete", "--force", container], check=True)
        for path in planned.directories():  # runc leaves the parents, as we do
            parent = os.path.dirname(path)
            if "pyrunc-test" in os.path.basename(parent):
                os.rmdir(parent)
    theirs = {name: h.mount_point + h.own for name, h in hierarchies(
        planned.mode == "hybrid", Path("/proc/self/mountinfo").read_text(), found).items()}
    assert theirs == planned.paths
