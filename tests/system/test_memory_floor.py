# SPDX-License-Identifier: Apache-2.0
"""How little memory a container starts with: what of the runtime itself is charged to memory.limit."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from container_cgroup import ContainerCgroup, is_v2, resources
from support import Bundle, Host, Runtime

MiB, KiB = 1 << 20, 1 << 10
STEPS = [8 * MiB, 4 * MiB, 2 * MiB, MiB, 768 * KiB, 512 * KiB, 384 * KiB, 256 * KiB, 128 * KiB, 64 * KiB]
LIMIT = "/linux/resources/memory/limit"


def limited(bundle: Bundle, limit: int) -> Bundle:
    resources(bundle, memory={"limit": limit, "swap": limit})
    return bundle.args("true")


HOST_ID = 210000


def in_namespaces(bundle: Bundle, which: str) -> Bundle:
    """In a cgroup namespace, or in one that belongs to a user namespace of the container's."""
    if which != "host's cgroup namespace":
        bundle.namespace("cgroup")
    if which == "user and cgroup":
        mapping = [{"containerID": 0, "hostID": HOST_ID, "size": 65536}]
        bundle.namespace("user").linux.update(uidMappings=mapping, gidMappings=mapping)
        for path in (bundle.rootfs, *bundle.rootfs.rglob("*")):
            os.chown(path, HOST_ID, HOST_ID, follow_symlinks=False)
        for above in bundle.path, *bundle.path.parents:
            if above.stat().st_mode & 0o011 != 0o011:  # pytest makes them for their owner alone
                above.chmod(above.stat().st_mode | 0o011)
    return bundle


@pytest.mark.parametrize("limit", STEPS[:4], ids=lambda limit: f"{limit // MiB} MiB")
@pytest.mark.parametrize("namespaces", ["host's cgroup namespace", "cgroup", "user and cgroup"])
def test_true_runs(runtime: Runtime, bundle: Bundle, host: Host, limit: int, namespaces: str) -> None:
    """With that much (and no swap) busybox `true` runs, by `run` and by create and start."""
    result = runtime.run(limited(in_namespaces(bundle, namespaces), limit))
    assert result.code == 0 and result.err == "", result
    container = runtime.create(bundle)
    cgroup = ContainerCgroup(runtime.state(container)["pid"])
    assert int(cgroup.file("memory/memory.limit_in_bytes", "memory.max").read_text()) == limit
    assert runtime("start", container).code == 0
    runtime.wait(container)
    assert cgroup.oom_kills() == 0


@pytest.mark.parametrize("namespaces", ["cgroup", "user and cgroup"])
def test_the_cgroup_namespace_is_the_containers(runtime: Runtime, bundle: Bundle, host: Host, namespaces: str) -> None:
    """Made before the init is in its cgroup, it is rooted there all the same; the control has no tight limit."""
    procs = "/sys/fs/cgroup/" + ("" if is_v2() else "memory/") + "cgroup.procs"
    for limit in (MiB, -1):
        resources(in_namespaces(bundle, namespaces), memory={"limit": limit})
        result = runtime.run(bundle, f"cut -d: -f3 /proc/self/cgroup | sort -u; head -n1 {procs}")
        assert result.code == 0 and result.lines == ["/", "1"], (limit, result)


@pytest.mark.vm_short
def test_a_user_namespace_that_is_joined(runtime: Runtime, bundle: Bundle, make_bundle: Callable[[str], Bundle],
                                         host: Host) -> None:
    """The cgroup namespace belongs to the user namespace of another container then."""
    first = runtime.create(in_namespaces(make_bundle("first"), "user and cgroup").args("sleep 1000"))
    pid = runtime.state(first)["pid"]
    in_namespaces(bundle, "user and cgroup").namespace("user", f"/proc/{pid}/ns/user")
    for name in ("uidMappings", "gidMappings"):
        bundle.linux.pop(name)
    result = runtime.run(limited(bundle, MiB).args("true"))
    assert result.code == 0 and result.err == "", result
    resources(bundle, memory={"limit": 8 * MiB})
    result = runtime.run(bundle, "cut -d: -f3 /proc/self/cgroup | sort -u; readlink /proc/self/ns/user")
    assert result.lines == ["/", os.readlink(f"/proc/{pid}/ns/user")], result
    assert runtime("delete", "--force", first).code == 0


def floor(runtime: Runtime, bundle: Bundle) -> int:
    """The least of the steps with which `true` still runs."""
    found = 0
    for limit in STEPS:
        if runtime.run(limited(bundle, limit)).code != 0:
            break
        found = limit
    return found


def test_the_floor_beside_runcs(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle, host: Host,
                                record_property: Callable[[str, object], None]) -> None:
    """In the same run; pyrunc's is no higher."""
    floors = {each.name: floor(each, bundle) for each in (runtime, make_runtime("runc"))}
    record_property("floors", floors)
    print("\nleast memory.limit that `true` runs with:",
          ", ".join(f"{name} {limit // KiB} KiB" for name, limit in floors.items()))
    assert 0 < floors[runtime.name] <= MiB
    assert floors["runc"] == 0 or floors[runtime.name] <= floors["runc"]


def test_little_is_charged_before_start(runtime: Runtime, bundle: Bundle, host: Host,
                                        record_property: Callable[[str, object], None]) -> None:
    """A created container, whose init waits: what it is charged with."""
    container = runtime.create(limited(bundle, 16 * MiB))
    cgroup = ContainerCgroup(runtime.state(container)["pid"])
    used = int(cgroup.file("memory/memory.usage_in_bytes", "memory.current").read_text())
    record_property("charged", used)
    print(f"\ncharged to a created container: {used // KiB} KiB")
    assert 0 < used < 900 * KiB


# An exec(2) needs more than 16 KiB before it closes what is to be closed, which is when it has succeeded for
# `start`; with 64 KiB one in ten comes as far, and the program is killed, not the init.
@pytest.mark.parametrize("limit", [4 * KiB, 16 * KiB])
def test_an_init_killed_for_memory_is_named(runtime: Runtime, bundle: Bundle, host: Host, limit: int) -> None:
    """The line says so, with the limit; whether create or start met it."""
    limited(bundle, limit).save()
    container = runtime.new_id()
    result = runtime("create", "--bundle", bundle.path, container)
    if result.code == 0:  # it dies when it goes on
        result = runtime("start", container)
    assert result.code == 1 and len(result.errors) == 1, result
    (line,) = result.errors
    assert LIMIT in line and str(limit) in line, line
    assert "out of memory" in line or "usage" in line, line


def test_run_of_an_init_killed_for_memory_is_named(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    limit = 16 * KiB
    result = runtime.run(limited(bundle, limit))
    assert result.code == 1 and len(result.errors) == 1, result
    assert LIMIT in result.err and str(limit) in result.err and "out of memory" in result.err


def test_a_program_killed_for_memory_is_not_the_runtimes_error(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The control: once it runs, its death is its own affair, an exit status."""
    resources(bundle, memory={"limit": 8 * MiB, "swap": 8 * MiB})
    result = runtime.run(bundle.args("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"))
    assert result.code == 137 and "out of memory" not in result.err
