# SPDX-License-Identifier: Apache-2.0
"""Limits and the commands that show and change them, where v2 is all there is.

The same tests as tests/system has, on a kernel with every v2 controller; and what only v2 can do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from container_cgroup import ContainerCgroup, is_v2, resources
from mountinfo import mount_at
from support import Bundle, Host, Runtime, wait_for
from system import (
    test_cgroup_cycles,
    test_device_access,
    test_events,
    test_exec_cgroup,
    test_memory_floor,
    test_pause,
    test_ps,
    test_resources_bad,
    test_resources_behaviour,
    test_resources_table,
    test_update,
)
from system.test_resources_behaviour import HOG, LIMIT, SIGKILLED

from conformance import resources as conformance

pytestmark = pytest.mark.vm

disk = test_resources_behaviour.disk  # the fixtures that they use
lane = test_device_access.lane
container = test_update.container
limits = test_update.limits
name = test_exec_cgroup.name
for module in (test_cgroup_cycles, test_device_access, test_events, test_exec_cgroup, test_memory_floor, test_pause,
               test_ps, test_resources_bad, test_resources_behaviour, test_resources_table, test_update):
    globals().update({key: test for key, test in vars(module).items()
                      if key.startswith("test_") and "_on_v1_" not in key and not key.startswith("test_v1_")})


@pytest.fixture
def found(runtime_path: str, rdma: str) -> list[dict[str, Any]]:
    return conformance.table([runtime_path, "runc"])


@pytest.fixture(autouse=True)
def v2_alone() -> None:
    assert is_v2()


def test_oom_group_through_unified_kills_all(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """cgroup-v2.rst, memory.oom.group: all die or none; the control loses the hog alone."""
    script = f"{HOG}; echo the init lives"
    memory = {"limit": LIMIT, "swap": LIMIT}
    assert runtime.run(resources(bundle, memory=memory), script).lines == ["the init lives"]
    result = runtime.run(resources(bundle, memory=memory, unified={"memory.oom.group": "1"}), script)
    assert result.code == SIGKILLED and result.lines == [], result


def test_unified_is_passed_through(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config-linux.md, Unified: as given, and over what the typed fields say."""
    resources(bundle, pids={"limit": 50}, memory={"limit": 64 << 20},
              unified={"pids.max": "44", "memory.high": "50331648", "memory.swap.max": "1048576"})
    container = runtime.create(bundle)
    cgroup = ContainerCgroup(runtime.state(container)["pid"])
    assert cgroup.file("", "pids.max").read_text() == "44\n"
    assert cgroup.file("", "memory.high").read_text() == "50331648\n"
    assert cgroup.file("", "memory.swap.max").read_text() == "1048576\n"


def test_memory_high_holds_a_hog_back(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """A limit that throttles and doesn't kill; the kernel counts how often."""
    resources(bundle, unified={"memory.high": str(4 << 20)})
    container = runtime.create(bundle.args("dd if=/dev/zero of=/dev/null bs=16M count=1 2>/dev/null; sleep 100"))
    cgroup = ContainerCgroup(runtime.state(container)["pid"])
    assert runtime("start", container).code == 0
    events = cgroup.file("", "memory.events")

    def high() -> int:
        return int(dict(line.split() for line in events.read_text().splitlines())["high"])

    wait_for(lambda: high() > 0, "the hog to be held back")
    assert cgroup.oom_kills() == 0


@pytest.mark.vm_short
@pytest.mark.parametrize("namespace", [False, True], ids=["host's", "own"])
def test_the_hosts_cgroups_keep_their_options(runtime: Runtime, bundle: Bundle, host: Host, namespace: bool) -> None:
    """cgroup-v2.rst, Mounting: whoever mounts cgroup2 in the first cgroup namespace sets them for all; runc does
    (its issue 5258), and no container is kept from its own limits any more."""
    bundle.without("cgroup")
    if namespace:
        bundle.namespace("cgroup")
    result = runtime.run(bundle, "cat /proc/self/mountinfo; mkdir /sys/fs/cgroup/x")
    assert mount_at(result.out, "/sys/fs/cgroup").fstype == "cgroup2"
    assert result.errors == ["mkdir: can't create directory '/sys/fs/cgroup/x': Read-only file system"]
    assert mount_at(Path("/proc/self/mountinfo").read_text(), "/sys/fs/cgroup").data >= {"nsdelegate",
                                                                                         "memory_recursiveprot"}
