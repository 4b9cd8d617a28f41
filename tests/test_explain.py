# SPDX-License-Identifier: Apache-2.0
"""`pyrunc explain` tells what create would do, each step with its pointer, and does none of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import PYRUNC, Bundle, Host, Result, Runtime

NOBODY = 65534
# Reading every path is what the tests' own directories need, which are root's alone; it is no other power.
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
             *(f"--{kind}=-all,+dac_read_search" for kind in ("bounding-set", "inh-caps", "ambient-caps"))]
# Calls that change something; explain makes none of them.
CHANGES = ("mount,umount2,move_mount,open_tree,fsopen,fsconfig,fsmount,mount_setattr,pivot_root,chroot,unshare,setns,"
           "clone,clone3,fork,vfork,mkdir,mkdirat,mknod,mknodat,unlink,unlinkat,rmdir,rename,renameat,renameat2,symlink,"
           "symlinkat,link,linkat,chmod,fchmod,fchmodat,chown,fchown,fchownat,truncate,ftruncate,sethostname,"
           "setdomainname,capset,setuid,setresuid,setgid,setresgid,setgroups")


def explain(bundle: Bundle, *before: str) -> Result:
    bundle.save()
    done = subprocess.run([*before, PYRUNC, "explain", "--bundle", str(bundle.path)], capture_output=True, text=True,
                          timeout=60)
    return Result(done.returncode, done.stdout, done.stderr)


def steps(result: Result) -> list[tuple[str, str]]:
    """(pointer, text) of each line."""
    assert (result.code, result.err) == (0, "")
    found = []
    for line in result.lines:
        pointer, _, text = (line if line.startswith("/") else " " + line).partition(" ")
        found.append((pointer.strip(), text.strip()))
    return found


def at(config: dict[str, Any], pointer: str) -> Any:
    """What the JSON pointer names; raises where there is nothing."""
    value: Any = config
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


@pytest.fixture
def full(bundle: Bundle) -> Bundle:
    """A configuration with something of everything."""
    bundle.linux.update({
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "devices": [{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 7}],
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "rootfsPropagation": "private",
        "cgroupsPath": "/a/b",
        "personality": {"domain": "LINUX"},
        "resources": {"pids": {"limit": 5}},
        "netDevices": {"eth0": {"name": "net%d"}},
        "intelRdt": {"closID": "gold", "schemata": ["L3:0=f"], "enableMonitoring": True},
    })
    bundle.namespace("user").namespace("cgroup").namespace("time").namespace("network", "/proc/self/ns/net")
    bundle.linux["sysctl"] = {"kernel.msgmax": "8192"}
    bundle.config["root"]["readonly"] = True
    bundle.config["domainname"] = "example"
    bundle.mount("/etc/hostname", "/etc/hostname", options=["rbind", "ro", "rnosuid"])
    bundle.mount("/srv", "/srv", options=["rbind", "ridmap"])
    bundle.process.update({"noNewPrivileges": True, "oomScoreAdj": 100, "cwd": "/tmp",
                           "user": {"uid": 5, "gid": 6, "additionalGids": [7, 8], "umask": 0o77},
                           "scheduler": {"policy": "SCHED_BATCH", "nice": 3},
                           "ioPriority": {"class": "IOPRIO_CLASS_IDLE"}})
    kinds = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    bundle.config["hooks"] = {kind: [{"path": f"/usr/bin/{kind}"}] for kind in kinds}
    return bundle


def test_each_step_is_told_with_its_pointer(full: Bundle, host: Host) -> None:
    found = steps(explain(full))
    config = json.loads((full.path / "config.json").read_text())
    for index, namespace in enumerate(config["linux"]["namespaces"]):
        text = dict(found)[f"/linux/namespaces/{index}"]
        assert namespace["type"] in text and namespace.get("path", "new ") in text
    for index, mount in enumerate(config["mounts"]):
        text = dict(found)[f"/mounts/{index}"]
        assert mount["destination"] in text
        assert all(option in text for option in mount.get("options", ()) if option not in ("bind", "rbind")), text
    for kind in ("maskedPaths", "readonlyPaths"):
        for index, path in enumerate(config["linux"][kind]):
            assert dict(found)[f"/linux/{kind}/{index}"].endswith(f" {path}")
    assert [text for pointer, text in found if pointer == "/linux/devices/0"] == [
        "device /dev/fuse c 10:229 mode 0600 owner 7:0"]
    assert sum(text.startswith("device /dev/null c 1:3") for _, text in found) == 1
    for pointer, text in {
        "/hostname": "hostname ", "/domainname": "domainname example", "/root/readonly": "read-only",
        "/root/path": f"root {full.rootfs}, propagation private",
        "/linux/sysctl/kernel.msgmax": "sysctl kernel.msgmax = 8192",
        "/linux/uidMappings/0": "0 in the container is 100000 here, 65536 ids",
        "/linux/cgroupsPath": "/a/b", "/linux/personality": "LINUX",
        "/linux/netDevices/eth0": "network device eth0 as net%d",
        "/linux/intelRdt": "resctrl group gold, L3:0=f, monitored",
        "/linux/resources/pids/limit": "cgroup limit pids.limit = ",
        "/process/oomScoreAdj": "100", "/process/scheduler": "SCHED_BATCH", "/process/ioPriority": "IDLE",
        "/process/user": "uid 5, gid 6, groups [7, 8], umask 077", "/process/cwd": "/tmp",
        "/process/noNewPrivileges": "no new privileges", "/process/args": "execve ['true']",
        "/process/rlimits/0": "RLIMIT_NOFILE",
    }.items():
        assert text in dict(found)[pointer], pointer
    for kind in config["hooks"]:
        assert dict(found)[f"/hooks/{kind}/0"] == f"{kind} hook /usr/bin/{kind}"
    for name, listed in config["process"]["capabilities"].items():
        assert all(cap in dict(found)[f"/process/capabilities/{name}"] for cap in listed)


def test_every_pointer_is_one(full: Bundle) -> None:
    """It names something that is in config.json, or a default that would be there."""
    defaults = {"/linux/devices", "/process/capabilities/inheritable", "/process/capabilities/ambient"}
    for pointer, _ in steps(explain(full)):
        if pointer and pointer not in defaults:
            at(full.config, pointer)


def test_the_steps_are_in_the_order_of_doing(full: Bundle) -> None:
    pointers = [pointer for pointer, _ in steps(explain(full))]
    order = ["/linux/cgroupsPath", "/linux/namespaces/0", "/root/path", "/mounts/0", "/mounts/1", "/hooks/prestart/0",
             "/hooks/createRuntime/0", "/hooks/createContainer/0", "", "/root/readonly", "/linux/maskedPaths/0",
             "/process/user", "/process/capabilities/bounding", "/process/args", "/hooks/startContainer/0",
             "/hooks/poststart/0", "/hooks/poststop/0"]
    places = [pointers.index(pointer) for pointer in order]
    assert places == sorted(places)


def test_it_changes_nothing(full: Bundle, host: Host, tmp_path: Path) -> None:
    """Not one call that changes something; the control is a command that does."""
    trace = tmp_path / "trace"
    for path in full.path.rglob("*"):
        os.utime(path, ns=(1, 1), follow_symlinks=False)
    before = {path: path.lstat().st_mtime_ns for path in full.path.rglob("*") if path.name != "config.json"}
    result = explain(full, "strace", "-f", "-qq", "-e", f"trace={CHANGES}", "-o", str(trace))
    assert result.code == 0, result
    assert trace.read_text() == ""
    after = {path: path.lstat().st_mtime_ns for path in full.path.rglob("*") if path.name != "config.json"}
    assert after == before and set(before.values()) == {1}
    made = tmp_path / "made"
    subprocess.run(["strace", "-f", "-qq", "-e", f"trace={CHANGES}", "-o", trace, "mkdir", made], check=True)
    assert "mkdir" in trace.read_text()


def test_an_ordinary_user_may_ask(full: Bundle) -> None:
    """Planning needs no privilege."""
    assert subprocess.run([*AS_NOBODY, "id", "-u"], capture_output=True, text=True).stdout == f"{NOBODY}\n"
    found = steps(explain(full, *AS_NOBODY))
    assert dict(found)["/mounts/0"] == "proc on /proc"
    wanted = dict(steps(explain(full)))
    assert {pointer for pointer, _ in found} == set(wanted)


def test_how_the_root_is_entered(bundle: Bundle) -> None:
    assert ("", "pivot_root") in steps(explain(bundle))
    bundle.without("mount")
    for key in ("maskedPaths", "readonlyPaths"):
        bundle.linux.pop(key)
    texts = [text for _, text in steps(explain(bundle))]
    assert "pivot_root" not in texts and any(text.startswith("chroot") for text in texts)


@pytest.mark.parametrize(("change", "expected"), [
    ({"hostname": 5}, "/hostname: expected a string"),
    ({"root": {"path": "absent"}}, "/root/path"),
    ({"mounts": [{"destination": "/x", "type": "tmpfs", "options": ["=1"]}]}, "/mounts/0/options/0"),
    ({"linux": {"namespaces": [{"type": "mount"}, {"type": "mount"}]}}, "/linux/namespaces/1"),
    ({"hostname": "", "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}}},
     "/linux/seccomp: SCMP_ACT_ERRNO for execve"),
])
def test_it_refuses_what_create_refuses(bundle: Bundle, runtime: Runtime, host: Host, change: dict[str, Any],
                                        expected: str) -> None:
    bundle.config.update(change)
    refused = explain(bundle)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(f"pyrunc: explain: {expected}") and refused.err.count("\n") == 1
    created = runtime("create", "--bundle", bundle.path, "x")
    assert created.err.partition("x: ")[2] == refused.err.partition("explain: ")[2]


def test_debug_prints_the_same_plan_at_create(bundle: Bundle, runtime: Runtime, host: Host, tmp_path: Path) -> None:
    bundle.args("true").save()
    container = runtime.new_id()
    log = tmp_path / "log"
    done = runtime("--debug", "--log", log, "--log-format", "json", "create", "--bundle", bundle.path, container)
    assert done.code == 0, done
    messages = [json.loads(line)["msg"] for line in log.read_text().splitlines()]
    for line in explain(bundle).lines:
        assert line.replace("/ID", f"/{container}") in messages
    assert any(message.startswith("init is process ") for message in messages)


def test_without_debug_create_says_nothing(bundle: Bundle, runtime: Runtime, host: Host, tmp_path: Path) -> None:
    bundle.args("true").save()
    log = tmp_path / "log"
    done = runtime("--log", log, "run", "--bundle", bundle.path, runtime.new_id())
    assert (done.code, done.err, log.read_text()) == (0, "", "")
