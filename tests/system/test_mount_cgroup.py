# SPDX-License-Identifier: Apache-2.0
"""A mount of type cgroup: what the container sees of its control groups, on v1 or hybrid machines and on v2."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from mountinfo import mount_at, mounts
from support import Bundle, Host, Result, Runtime

POINT = "/sys/fs/cgroup"
#: What must not be possible, and leaves nothing for the next run where it is.
TRY = f"mkdir {POINT}/x && rmdir {POINT}/x && echo made"
UNIFIED = ["unshare", "-m", "--propagation", "private", "sh", "-c",
           'umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"', "_"]


def of_v1() -> dict[str, set[str]]:
    """The v1 hierarchies here: the name of the directory, the controllers."""
    found = [mount for mount in mounts(Path("/proc/self/mountinfo").read_text()) if mount.fstype == "cgroup"]
    return {Path(mount.point).name: mount.data - {"rw", "xattr"} for mount in found}


def run_unified(runtime: Runtime, bundle: Bundle, script: str) -> Result:
    """`run` where only the v2 hierarchy is mounted, and at its place."""
    bundle.args(script).save()
    done = subprocess.run([*UNIFIED, *runtime.command("run", "--bundle", bundle.path, runtime.new_id())],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return Result(done.returncode, done.stdout, done.stderr)


def writable(bundle: Bundle) -> None:
    for mount in bundle.config["mounts"]:
        if mount["type"] == "cgroup":
            mount["options"].remove("ro")


@pytest.mark.parametrize("namespace", [False, True], ids=["host-namespace", "own-namespace"])
def test_v1_shows_the_containers_own(runtime: Runtime, bundle: Bundle, host: Host, namespace: bool) -> None:
    """Each hierarchy of the host by its name, from the container's cgroup down, read-only as asked for."""
    assert of_v1(), "this machine has no cgroup v1"
    if namespace:
        bundle.namespace("cgroup")
    result = runtime.run(bundle, "cat /proc/self/mountinfo; for d in /sys/fs/cgroup/*/; do "
                                 "cat $d/cgroup.procs | tr '\\n' ' '; mkdir $d/x; done; touch /sys/fs/cgroup/x")
    seen = {Path(mount.point).name: mount for mount in mounts(result.out) if mount.fstype == "cgroup"}
    assert set(seen) == set(of_v1())
    for name, mount in seen.items():
        assert of_v1()[name] <= mount.data
        assert mount.options >= {"ro", "nosuid", "noexec", "nodev"}
        assert (mount.root == "/") == namespace
    assert mount_at(result.out, POINT).options >= {"ro", "nosuid", "noexec", "nodev"}
    # pid 1 is in each: these are the container's own cgroups, not the host's.
    assert [line.split()[0] for line in result.lines[-1:]] == ["1"]
    assert result.lines[-1].split().count("1") == len(seen)
    assert result.errors == [f"mkdir: can't create directory '/sys/fs/cgroup/{name}//x': Read-only file system"
                             for name in sorted(seen)] + [f"touch: {POINT}/x: Read-only file system"]


@pytest.mark.parametrize("namespace", [False, True], ids=["host-namespace", "own-namespace"])
def test_v1_writable(runtime: Runtime, bundle: Bundle, host: Host, namespace: bool) -> None:
    """The control for the read-only one; what the container makes there is removed with it."""
    writable(bundle)
    if namespace:
        bundle.namespace("cgroup")
    result = runtime.run(bundle, "mkdir /sys/fs/cgroup/pids/x && echo made; ls /sys/fs/cgroup/pids/x/tasks")
    assert result.lines == ["made", "/sys/fs/cgroup/pids/x/tasks"], result


def test_unified_with_a_namespace(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """cgroup_namespaces(7): rooted in the cgroup of the container's init."""
    bundle.namespace("cgroup")
    result = run_unified(runtime, bundle, "cat /proc/self/cgroup | grep ^0; cat /sys/fs/cgroup/cgroup.procs | head -1;"
                                          f"{TRY}; cat /proc/self/mountinfo")
    assert result.lines[:2] == ["0::/", "1"], result
    assert result.errors == ["mkdir: can't create directory '/sys/fs/cgroup/x': Read-only file system"]
    mount = mount_at(result.out, POINT)
    assert (mount.fstype, mount.root) == ("cgroup2", "/")
    assert mount.options >= {"ro", "nosuid", "noexec", "nodev"}
    writable(bundle)
    result = run_unified(runtime, bundle, "grep ^0: /proc/self/cgroup; mkdir /sys/fs/cgroup/x && "
                                          "ls /sys/fs/cgroup/x/cgroup.procs")
    assert result.lines == ["0::/", "/sys/fs/cgroup/x/cgroup.procs"], result
    assert not any(path.is_dir() for path in (Path(POINT, "x"), Path(POINT, "unified/x")))  # in its own


def test_unified_without_a_namespace(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The hierarchy is the host's then, read-only, and the container's own cgroup is in its place."""
    bundle.config["linux"]["cgroupsPath"] = f"/t3-{os.getpid()}"
    bundle.without("cgroup")
    result = run_unified(runtime, bundle, f"grep ^0: /proc/self/cgroup; cat /proc/self/mountinfo; {TRY}")
    assert result.lines[0] == f"0::/t3-{os.getpid()}", result
    assert mount_at(result.out, POINT).fstype == "cgroup2"
    assert result.errors == ["mkdir: can't create directory '/sys/fs/cgroup/x': Read-only file system"]


@pytest.mark.parametrize("namespace", [False, True], ids=["host-namespace", "own-namespace"])
def test_cgroup2_on_a_hybrid_machine(runtime: Runtime, bundle: Bundle, host: Host, namespace: bool) -> None:
    """A mount of type cgroup2 is that, whatever else there is: all of the host's, or from its own cgroup down."""
    for mount in bundle.config["mounts"]:
        if mount["type"] == "cgroup":
            mount["type"] = mount["source"] = "cgroup2"
    bundle.config["linux"]["cgroupsPath"] = f"/t5-{os.getpid()}"
    if namespace:
        bundle.namespace("cgroup")
    own = "" if namespace else f"/t5-{os.getpid()}"
    result = runtime.run(bundle, f"cat /proc/self/mountinfo; {TRY}; grep ^0: /proc/self/cgroup; "
                                 f"head -n1 {POINT}{own}/cgroup.procs")
    mount = mount_at(result.out, POINT)
    assert (mount.fstype, mount.root) == ("cgroup2", "/")
    assert mount.options >= {"ro", "nosuid", "noexec", "nodev"}
    assert result.lines[-2:] == [f"0::{own or '/'}", "1"], result
    assert result.errors == [f"mkdir: can't create directory '{POINT}/x': Read-only file system"]


# In a user namespace: the kernel shows what the container's own cgroup is, and gives what was delegated to it.

HOST_ID = 210000


def in_user_namespace(bundle: Bundle) -> Bundle:
    bundle.namespace("user")
    mapping = [{"containerID": 0, "hostID": HOST_ID, "size": 65536}]
    bundle.linux.update(uidMappings=mapping, gidMappings=mapping)
    for path in (bundle.rootfs, *bundle.rootfs.rglob("*")):
        os.chown(path, HOST_ID, HOST_ID, follow_symlinks=False)
    for above in bundle.path, *bundle.path.parents:
        if above.stat().st_mode & 0o011 != 0o011:  # pytest makes them for their owner alone
            above.chmod(above.stat().st_mode | 0o011)
    return bundle


@pytest.mark.parametrize("namespace", [False, True], ids=["host-namespace", "own-namespace"])
def test_v1_in_a_user_namespace(runtime: Runtime, bundle: Bundle, host: Host, namespace: bool) -> None:
    """Its own cgroups, which it can't change although they aren't read-only: nothing is delegated on v1."""
    writable(in_user_namespace(bundle))
    if namespace:
        bundle.namespace("cgroup")
    result = runtime.run(bundle, "cat /proc/self/mountinfo; for d in /sys/fs/cgroup/*/; do grep -c ^1$ $d/cgroup.procs;"
                                 "mkdir $d/x; done; echo 1 > /sys/fs/cgroup/pids/pids.max")
    seen = {Path(mount.point).name: mount for mount in mounts(result.out) if mount.fstype == "cgroup"}
    assert set(seen) == set(of_v1()), result
    assert {mount.root == "/" for mount in seen.values()} == {namespace}
    assert result.lines[-len(seen):] == ["1"] * len(seen)
    assert result.errors == [f"mkdir: can't create directory '/sys/fs/cgroup/{name}//x': Permission denied"
                             for name in sorted(seen)] + ["sh: can't create /sys/fs/cgroup/pids/pids.max: "
                                                          "Permission denied"]


DELEGATED = ("mkdir /sys/fs/cgroup/x && echo $$ > /sys/fs/cgroup/x/cgroup.procs && cat /proc/self/cgroup | grep ^0;"
             "echo 5 > /sys/fs/cgroup/cgroup.max.descendants")


@pytest.mark.parametrize("read_only", [True, False], ids=["ro", "rw"])
def test_unified_in_a_user_namespace(runtime: Runtime, bundle: Bundle, host: Host, read_only: bool) -> None:
    """cgroup-v2.rst, Delegation: a writable one is the container's, the limits on itself are not."""
    in_user_namespace(bundle).namespace("cgroup")
    if not read_only:
        writable(bundle)
    result = run_unified(runtime, bundle, DELEGATED)
    if read_only:
        assert result.lines == [] and "Read-only file system" in result.err, result
        return
    assert result.lines == ["0::/x"], result
    assert result.errors == ["sh: can't create /sys/fs/cgroup/cgroup.max.descendants: Permission denied"], result


def test_unified_in_a_user_namespace_that_is_joined(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Whose cgroup it becomes is told by the namespace: config.json has no mappings then."""
    writable(in_user_namespace(bundle).namespace("cgroup"))
    del bundle.linux["uidMappings"], bundle.linux["gidMappings"]
    holder = subprocess.Popen(["unshare", "-U", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{name}").write_text(f"0 {HOST_ID} 65536\n")
        bundle.namespace("user", f"/proc/{holder.pid}/ns/user")
        result = run_unified(runtime, bundle, DELEGATED)
    finally:
        holder.kill()
        holder.communicate()
    assert result.lines == ["0::/x"], result
    assert result.errors == ["sh: can't create /sys/fs/cgroup/cgroup.max.descendants: Permission denied"], result


def test_unified_in_a_user_namespace_with_the_hosts_view(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Without a cgroup namespace the kernel mounts nothing there: the container's own directory is bound."""
    bundle.config["linux"]["cgroupsPath"] = f"/t4-{os.getpid()}"
    writable(in_user_namespace(bundle).without("cgroup"))
    result = run_unified(runtime, bundle, "grep ^0: /proc/self/cgroup; cat /proc/self/mountinfo; "
                                          "cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x")
    assert result.lines[0] == f"0::/t4-{os.getpid()}", result
    assert mount_at(result.out, POINT).root == f"/t4-{os.getpid()}"
    assert "Permission denied" in result.err and "1" in result.lines, result
