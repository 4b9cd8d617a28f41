# SPDX-License-Identifier: Apache-2.0
"""pyrunc.spec.check: each rule by a configuration that breaks it and a neighbour that doesn't."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pyrunc.errors import ConfigError
from pyrunc.spec.check import check_bundle, check_process
from pyrunc.spec.check_linux import check_resources
from pyrunc.spec.default import default_config
from pyrunc.spec.load import dump, load_config
from pyrunc.spec.sysctl import sysctl_path

MAP = {"containerID": 0, "hostID": 100000, "size": 65536}
USERNS = {"linux": {"namespaces": [{"type": "user"}], "uidMappings": [MAP], "gidMappings": [MAP]}}


def linux(**members: Any) -> dict[str, Any]:
    return {"linux": members}


def spaces(*kinds: str, **members: Any) -> dict[str, Any]:
    return linux(namespaces=[{"type": kind} for kind in kinds], **members)


def process(**members: Any) -> dict[str, Any]:
    return {"process": {"cwd": "/", "args": ["sh"], **members}}


def scheduler(policy: str, **members: int) -> dict[str, Any]:
    return process(scheduler={"policy": "SCHED_" + policy, **members})


def mapped(*ranges: tuple[int, int, int]) -> dict[str, Any]:
    mappings = [dict(zip(("containerID", "hostID", "size"), numbers, strict=True)) for numbers in ranges]
    return spaces("user", uidMappings=mappings, gidMappings=[MAP])


def device(**members: Any) -> dict[str, Any]:
    return linux(devices=[{"path": "/dev/a", "type": "c", "major": 1, "minor": 3, **members}])


def rule(**members: Any) -> dict[str, Any]:
    return linux(resources={"devices": [{"allow": True, **members}]})


def resources(**members: Any) -> dict[str, Any]:
    return linux(resources=members)


def moved(devices: dict[str, Any]) -> dict[str, Any]:
    return spaces("network", netDevices=devices)


def seccomp(**members: Any) -> dict[str, Any]:
    return linux(seccomp={"defaultAction": "SCMP_ACT_ALLOW", **members})


def call(action: str, name: str = "ptrace", **members: Any) -> dict[str, Any]:
    return seccomp(syscalls=[{"names": [name], "action": "SCMP_ACT_" + action, **members}])


def policy(mode: str, nodes: str = "", *flags: str) -> dict[str, Any]:
    return linux(memoryPolicy={"mode": "MPOL_" + mode, "nodes": nodes,
                               "flags": ["MPOL_F_" + flag for flag in flags]})


def mount(**members: Any) -> dict[str, Any]:
    return {"mounts": [{"destination": "/m", **members}]}


def hook(**members: Any) -> dict[str, Any]:
    return {"hooks": {"poststop": [{"path": "/bin/true", **members}]}}


def checked(members: dict[str, Any]) -> None:
    load_config(dump({"ociVersion": "1.3.0", "root": {"path": "rootfs"}, **members}).encode())


NET = "network"
RULES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # broken, its good neighbour, the start of the error
    ({"ociVersion": "2.0.0"}, {"ociVersion": "1.9.0"}, "/ociVersion: version 2.0.0 is not supported"),
    ({"ociVersion": "0.9.9"}, {"ociVersion": "1.0.0"}, "/ociVersion: version 0.9.9 is not supported"),
    ({"ociVersion": "1.3"}, {"ociVersion": "1.0.2-dev"}, '/ociVersion: "1.3" is not a version'),
    ({"ociVersion": "1.x.0"}, {"ociVersion": "1.1.0-rc.1+dev.2"}, '/ociVersion: "1.x.0" is not a version'),
    ({"ociVersion": "1.03.0"}, {"ociVersion": "1.30.0"}, '/ociVersion: "1.03.0" is not a version'),
    ({"ociVersion": ""}, {"ociVersion": "1.2.1"}, '/ociVersion: "" is not a version'),
    (process(user={"uid": 4294967295}), process(user={"uid": 4294967294}), "/process/user/uid: 4294967295 is no user"),
    (process(user={"gid": 4294967295}), process(user={"gid": 4294967294}), "/process/user/gid: 4294967295 is no user"),
    (process(user={"additionalGids": [7, 4294967295]}), process(user={"additionalGids": [7, 4294967294]}),
     "/process/user/additionalGids/1: 4294967295 is no user"),
    (device(uid=4294967295), device(uid=4294967294), "/linux/devices/0/uid: 4294967295 is no user"),
    ({"root": {"path": ""}}, {"root": {"path": "a/b"}}, "/root/path: is empty"),
    ({"annotations": {"": "a"}}, {"annotations": {"a": ""}}, "/annotations: a key is empty"),
    (mount(destination=""), mount(destination="relative"), "/mounts/0/destination: is empty"),
    (mount(uidMappings=[MAP]), mount(uidMappings=[MAP], gidMappings=[MAP]),
     "/mounts/0/gidMappings: is missing"),
    (mount(gidMappings=[MAP]), mount(options=["bind"]), "/mounts/0/uidMappings: is missing"),
    (mount(options=["ro", "idmap"]), {**mount(options=["ro", "idmap"]), **USERNS},
     "/mounts/0/options/1: idmap needs"),
    (mount(uidMappings=[{**MAP, "size": 0}], gidMappings=[MAP]), mount(uidMappings=[MAP], gidMappings=[MAP]),
     "/mounts/0/uidMappings/0/size: a mapping of no ids"),
    # namespaces
    (spaces("pid", "mount", "pid"), spaces("pid", "mount"),
     "/linux/namespaces/2/type: pid is already given by /linux/namespaces/0"),
    (linux(namespaces=[{"type": "pid", "path": "proc/1/ns/pid"}]),
     linux(namespaces=[{"type": "pid", "path": "/p"}]),
     '/linux/namespaces/0/path: "proc/1/ns/pid" is not an absolute path'),
    ({"hostname": "a"}, {"hostname": "a", **spaces("uts")},
     "/hostname: can't be set without a uts namespace"),
    ({"domainname": "a"}, {"domainname": "a", **linux(namespaces=[{"type": "uts", "path": "/u"}])},
     "/domainname: can't be set without a uts namespace"),
    ({"hostname": "a" * 65, **spaces("uts")}, {"hostname": "a" * 64, **spaces("uts")},
     "/hostname: is longer than"),
    (spaces("user"), USERNS, "/linux/uidMappings: is missing: a new user namespace needs it"),
    (spaces("user", uidMappings=[MAP]), USERNS, "/linux/gidMappings: is missing"),
    (linux(uidMappings=[MAP]), linux(uidMappings=[]), "/linux/uidMappings: needs a user namespace"),
    (mapped((0, 0, 0)), mapped((0, 0, 1)), "/linux/uidMappings/0/size: a mapping of no ids"),
    (mapped((0, 1000, 2), (1, 2000, 1)), mapped((0, 1000, 2), (2, 2000, 1)),
     "/linux/uidMappings/1/containerID: overlaps with /linux/uidMappings/0"),
    (mapped((0, 1001, 1), (1, 1000, 2)), mapped((0, 1002, 1), (1, 1000, 2)),
     "/linux/uidMappings/1/hostID: overlaps with /linux/uidMappings/0"),
    (mapped((1, 0, 2**32 - 1)), mapped((0, 0, 2**32 - 1)),
     "/linux/uidMappings/0/containerID: 1 and 4294967295 ids"),
    (linux(timeOffsets={"boottime": {"secs": 1}}), spaces("time", timeOffsets={"boottime": {"secs": 1}}),
     "/linux/timeOffsets: needs a time namespace"),
    (linux(namespaces=[{"type": "time", "path": "/t"}], timeOffsets={"boottime": {}}),
     linux(namespaces=[{"type": "time", "path": "/t"}]),
     "/linux/timeOffsets: can't be set for a time namespace that"),
    (spaces("time", timeOffsets={"realtime": {"secs": 1}}),
     spaces("time", timeOffsets={"monotonic": {"secs": -1}}),
     "/linux/timeOffsets/realtime: is neither of the clocks"),
    (linux(maskedPaths=["/a"]), spaces("mount", maskedPaths=["/a"]),
     "/linux/maskedPaths: needs a mount namespace"),
    (spaces("mount", maskedPaths=["/a", "b"]), spaces("mount", maskedPaths=["/a", "/b"]),
     '/linux/maskedPaths/1: "b" is not an absolute path'),
    (spaces("mount", readonlyPaths=["a"]), spaces("mount", readonlyPaths=["/a"]),
     '/linux/readonlyPaths/0: "a" is not'),
    (linux(rootfsPropagation="public"), linux(rootfsPropagation="rslave"),
     '/linux/rootfsPropagation: "public" is not'),
    (linux(personality={"domain": "BSD"}), linux(personality={"domain": "LINUX32"}),
     "/linux/personality/domain: "),
    # sysctls
    (spaces("uts", sysctl={"kernel.shmmax": "1"}), spaces("ipc", sysctl={"kernel.shmmax": "1"}),
     "/linux/sysctl/kernel.shmmax: needs an ipc namespace"),
    (spaces("pid", sysctl={"fs.mqueue.msg_max": "1"}), spaces("ipc", sysctl={"fs/mqueue/msg_max": "1"}),
     "/linux/sysctl/fs.mqueue.msg_max: needs an ipc namespace"),
    (spaces("ipc", sysctl={"user.max_net_namespaces": "1"}),
     spaces("user", uidMappings=[MAP], gidMappings=[MAP], sysctl={"user.max_net_namespaces": "1"}),
     "/linux/sysctl/user.max_net_namespaces: needs a user namespace"),
    (spaces("ipc", sysctl={"net/ipv4/ip_forward": "1"}), spaces(NET, sysctl={"net/ipv4/ip_forward": "1"}),
     "/linux/sysctl/net~1ipv4~1ip_forward: needs a network namespace"),
    (spaces(NET, sysctl={"kernel.domainname": "a"}), spaces("uts", sysctl={"kernel.domainname": "a"}),
     "/linux/sysctl/kernel.domainname: needs a uts namespace"),
    (spaces("uts", sysctl={"kernel.hostname": "a"}), {"hostname": "a", **spaces("uts")},
     "/linux/sysctl/kernel.hostname: conflicts with /hostname (set /hostname instead)"),
    (spaces("uts", NET, "ipc", sysctl={"vm.swappiness": "1"}),
     spaces(NET, sysctl={"net.core.somaxconn": "1"}),
     "/linux/sysctl/vm.swappiness: is not kept per namespace"),
    (spaces(NET, sysctl={"net/../kernel/sysrq": "1"}),
     spaces(NET, sysctl={"net.ipv4.conf.eth0/1.forwarding": "1"}),
     "/linux/sysctl/net~1..~1kernel~1sysrq: is not the name of a kernel parameter"),
    (spaces(NET, sysctl={"net.//.kernel": "1"}), spaces(NET, sysctl={"net.a": "1"}),
     "/linux/sysctl/net.~1~1.kernel: is not the name of a kernel parameter"),
    (spaces(NET, sysctl={"": "1"}), spaces(NET, sysctl={}), "/linux/sysctl/: is not the name"),
    # the process
    (process(args=[]), process(args=["a"]), "/process/args: is empty"),
    ({"process": {"cwd": "/"}}, {}, "/process/args: is empty"),
    (process(cwd="tmp"), process(cwd="/tmp"), '/process/cwd: "tmp" is not an absolute path'),
    (process(cwd=""), process(cwd="//"), '/process/cwd: "" is not an absolute path'),
    (process(env=["A=b", "secret"]), process(env=["A=b", "A="]),
     "/process/env/1: is not of the form NAME=value"),
    (process(env=["=a"]), process(env=["a=="]), "/process/env/0: is not of the form NAME=value"),
    (process(env=["A=\0"]), process(env=["A=\n"]), "/process/env/0: holds a NUL"),
    (process(args=["a\0b"]), process(args=["a\nb", ""]), "/process/args/0: holds a NUL"),
    (process(rlimits=[{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}] * 2),
     process(rlimits=[{"type": "RLIMIT_" + name, "soft": 0, "hard": 0} for name in ("CORE", "CPU")]),
     "/process/rlimits/1/type: RLIMIT_CORE is already set by /process/rlimits/0"),
    (process(rlimits=[{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]),
     process(rlimits=[{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}]),
     "/process/rlimits/0/soft: 2 is above the hard"),
    (process(oomScoreAdj=-1001), process(oomScoreAdj=-1000),
     "/process/oomScoreAdj: expected an integer from -1000"),
    (process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 8}),
     process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 7}),
     "/process/ioPriority/priority: expected"),
    (scheduler("FIFO"), scheduler("FIFO", priority=1), "/process/scheduler/priority: 0 is not from 1 to 99"),
    (scheduler("RR", priority=100), scheduler("RR", priority=99),
     "/process/scheduler/priority: 100 is not from 1"),
    (scheduler("OTHER", priority=1), scheduler("OTHER", priority=0),
     "/process/scheduler/priority: goes with SCHED_FIFO"),
    (scheduler("BATCH", nice=20), scheduler("BATCH", nice=19),
     "/process/scheduler/nice: expected an integer from -20"),
    (scheduler("OTHER", runtime=1), scheduler("DEADLINE", runtime=1, deadline=2, period=3),
     "/process/scheduler/runtime: goes with SCHED_DEADLINE"),
    (scheduler("DEADLINE", runtime=3, deadline=2), scheduler("DEADLINE", runtime=2, deadline=2),
     "/process/scheduler: SCHED_DEADLINE needs 0 < runtime"),
    (scheduler("DEADLINE", runtime=1, deadline=3, period=2),
     scheduler("DEADLINE", runtime=1, deadline=2, period=2),
     "/process/scheduler: SCHED_DEADLINE needs"),
    (process(execCPUAffinity={"initial": "3-1"}),
     process(execCPUAffinity={"initial": "1-3", "final": "0-3,7"}),
     '/process/execCPUAffinity/initial: "3-1" is not a list of CPUs'),
    (process(execCPUAffinity={"initial": "0-4000000000"}), process(execCPUAffinity={"initial": "0-8191"}),
     "/process/execCPUAffinity/initial: 4000000000 is above 8191, the highest number of CPUs"),
    (process(execCPUAffinity={"final": "a"}), process(execCPUAffinity={"final": ""}),
     "/process/execCPUAffinity/final: "),
    (process(terminal=True, consoleSize={"width": 65536, "height": 1}),
     process(terminal=False, consoleSize={"width": 65536, "height": 1}),
     "/process/consoleSize/width: 65536 is more"),
    # hooks
    (hook(path="true"), hook(), '/hooks/poststop/0/path: "true" is not an absolute path'),
    (hook(timeout=0), hook(timeout=1), "/hooks/poststop/0/timeout: expected an integer from 1"),
    # devices
    (device(path="dev/a"), device(path="/srv/a"), '/linux/devices/0/path: "dev/a" is not an absolute path'),
    (device(type="d"), device(type="b"), '/linux/devices/0/type: "d" is not one of c, b, u, p'),
    (linux(devices=[{"path": "/a", "type": "c", "minor": 1}]), linux(devices=[{"path": "/a", "type": "p"}]),
     "/linux/devices/0/major: is missing"),
    (linux(devices=[{"path": "/a", "type": "u", "major": 1}]), device(type="u"),
     "/linux/devices/0/minor: is missing"),
    (device(major=4096), device(major=4095), "/linux/devices/0/major: 4096 is not from 0 to 4095"),
    (device(minor=-1), device(minor=0xFFFFF), "/linux/devices/0/minor: -1 is not from 0 to 1048575"),
    (linux(devices=[{"path": "/a", "type": "p"}, {"path": "/a", "type": "c", "major": 1, "minor": 3}]),
     linux(devices=[{"path": "/a", "type": "p"}] * 2),
     "/linux/devices/1/path: /a is already another device by /linux/devices/0"),
    (rule(access=""), rule(), '/linux/resources/devices/0/access: "" is not made of r, w and m'),
    (rule(access="rx"), rule(access="rw"), '/linux/resources/devices/0/access: "rx" is not made of'),
    (rule(major=-2), rule(major=-1), "/linux/resources/devices/0/major: -2 is not a device number"),
    (rule(type="u"), rule(type="a"), '/linux/resources/devices/0/type: "u" is not one of a, c, b'),
    # cgroups
    (linux(cgroupsPath="../a"), linux(cgroupsPath="a/../b"), '/linux/cgroupsPath: "../a" climbs out'),
    (linux(cgroupsPath="/a/../../b"), linux(cgroupsPath="/a/./b"), "/linux/cgroupsPath: "),
    (linux(cgroupsPath="a\0"), linux(cgroupsPath="system.slice:a:b"), "/linux/cgroupsPath: holds a NUL"),
    (linux(cgroupsPath="a\nb"), linux(cgroupsPath=""), "/linux/cgroupsPath: holds a newline"),
    (resources(unified={"../a": "1"}), resources(unified={"memory.high": "1"}),
     "/linux/resources/unified/..~1a: is not the name of a cgroup file"),
    (resources(pids={"limit": "5"}), resources(pids={}), "/linux/resources/pids/limit: expected an integer"),
    (resources(rdma={"a b": {}}), resources(rdma={"mlx5_1": {"hcaHandles": 1}}),
     "/linux/resources/rdma/a b: is not"),
    (resources(hugepageLimits=[{"pageSize": "2MiB", "limit": 1}]),
     resources(hugepageLimits=[{"pageSize": "2MB", "limit": 1}]),
     '/linux/resources/hugepageLimits/0/pageSize: "2MiB"'),
    (resources(hugepageLimits=[{"pageSize": "MB", "limit": 1}]),
     resources(hugepageLimits=[{"pageSize": "1GB", "limit": 0}]),
     '/linux/resources/hugepageLimits/0/pageSize: "MB"'),
    (resources(cpu={"cpus": "0-"}), resources(cpu={"cpus": "0-3,7\n"}),
     '/linux/resources/cpu/cpus: "0-" is not a list'),
    (resources(cpu={"cpus": "0,,1"}), resources(cpu={"cpus": "0-15:1/2,17"}),
     '/linux/resources/cpu/cpus: "0,,1" is not a list of CPUs'),
    (resources(cpu={"mems": "0-3:2/1"}), resources(cpu={"mems": "0-3:1/1"}),
     '/linux/resources/cpu/mems: "0-3:2/1" is not a list of nodes'),
    (resources(cpu={"mems": "0:1/2"}), resources(cpu={"mems": "0-0:1/2"}),
     '/linux/resources/cpu/mems: "0:1/2" is not a list of nodes'),
    (resources(cpu={"mems": "0-3:1/x"}), resources(cpu={"mems": "0-3"}),
     '/linux/resources/cpu/mems: "0-3:1/x" is not a list of nodes'),
    (resources(cpu={"mems": "x"}), resources(cpu={"mems": ""}),
     '/linux/resources/cpu/mems: "x" is not a list of nodes'),
    (resources(cpu={"quota": 5, "burst": 6}), resources(cpu={"quota": -1, "burst": 6}),
     "/linux/resources/cpu/burst: 6 is larger than the quota 5"),
    (resources(network={"priorities": [{"name": "a/b", "priority": 1}]}),
     resources(network={"priorities": [{"name": "eth0", "priority": 1}]}),
     "/linux/resources/network/priorities/0/name"),
    (resources(blockIO={"weightDevice": [{"major": 8, "minor": 0}]}),
     resources(blockIO={"weightDevice": [{"major": 8, "minor": 0, "weight": 9}]}),
     "/linux/resources/blockIO/weightDevice/0: has neither"),
    # network devices
    (linux(netDevices={"eth0": {}}), moved({"eth0": {}}), "/linux/netDevices: needs a network namespace"),
    (moved({"a" * 16: {}}), moved({"a" * 15: {}}), "/linux/netDevices/aaaaaaaaaaaaaaaa: "),
    (moved({"a": {"name": "b/c"}}), moved({"a": {"name": ""}}),
     '/linux/netDevices/a/name: "b/c" is not the name'),
    (moved({"a": {"name": ".."}}), moved({"a": {"name": "..."}}),
     '/linux/netDevices/a/name: ".." is not the name'),
    (moved({"a": {"name": "b c"}}), moved({"a": {"name": "b-c"}}),
     '/linux/netDevices/a/name: "b c" is not the name'),
    (moved({"a": {}, "b": {"name": "a"}}), moved({"a": {"name": "b"}, "b": {"name": "a"}}),
     "/linux/netDevices/b/name: a is already the name of /linux/netDevices/a"),
    (moved({"a": {"name": "e%d%d"}}), moved({"a": {"name": "e%d"}, "b": {"name": "e%d"}}),
     '/linux/netDevices/a/name: "e%d%d" has a % that is not one %d'),
    # seccomp, resctrl, NUMA
    (seccomp(defaultAction="SCMP_ACT_NOTIFY"), seccomp(defaultAction="SCMP_ACT_TRACE"),
     "/linux/seccomp/defaultAction: SCMP_ACT_NOTIFY can't"),
    (seccomp(defaultErrnoRet=1), seccomp(defaultAction="SCMP_ACT_ERRNO", defaultErrnoRet=38),
     "/linux/seccomp/defaultErrnoRet: does not go with SCMP_ACT_ALLOW"),
    (call("KILL", errnoRet=1), call("TRACE", errnoRet=1),
     "/linux/seccomp/syscalls/0/errnoRet: does not go with"),
    (call("ERRNO", errnoRet=4096), call("ERRNO", errnoRet=4095),
     "/linux/seccomp/syscalls/0/errnoRet: 4096 is not from 0"),
    (call("NOTIFY"), seccomp(listenerPath="/s", syscalls=[{"names": ["ptrace"], "action": "SCMP_ACT_NOTIFY"}]),
     "/linux/seccomp/listenerPath: is missing: the action of /linux/seccomp/syscalls/0 needs it"),
    (call("ERRNO", ""), call("ERRNO", "unknown_call"),
     '/linux/seccomp/syscalls/0/names/0: "" is not the name'),
    (call("NOTIFY", "write"), call("ERRNO", "write"), "/linux/seccomp/syscalls/0/names/0: write can't wait"),
    (seccomp(listenerMetadata="a"), seccomp(listenerMetadata="a", listenerPath="/s"),
     "/linux/seccomp/listenerMetadata"),
    (seccomp(syscalls=[{"names": [], "action": "SCMP_ACT_LOG"}]), call("LOG"),
     "/linux/seccomp/syscalls/0/names: expected at least 1 entry"),
    (linux(intelRdt={"closID": "a/b"}), linux(intelRdt={"closID": "/"}),
     '/linux/intelRdt/closID: "a/b" is not'),
    (linux(intelRdt={"closID": ".."}), linux(intelRdt={"closID": "..a"}),
     '/linux/intelRdt/closID: ".." is not'),
    (linux(intelRdt={"memBwSchema": "L3:0"}), linux(intelRdt={"memBwSchema": "MB:0=20"}),
     "/linux/intelRdt/memBwSchema"),
    (linux(intelRdt={"l3CacheSchema": "a\nb"}), linux(intelRdt={"l3CacheSchema": "a"}),
     "/linux/intelRdt/l3CacheSchema"),
    (linux(intelRdt={"schemata": ["a", "b\n"]}), linux(intelRdt={"schemata": ["a"]}),
     "/linux/intelRdt/schemata/1: holds"),
    (policy("DEFAULT", "0"), policy("DEFAULT"), "/linux/memoryPolicy/nodes: MPOL_DEFAULT takes no nodes"),
    (policy("BIND"), policy("BIND", "0-1"), "/linux/memoryPolicy/nodes: is missing: MPOL_BIND needs nodes"),
    (policy("BIND", "a"), policy("PREFERRED"), '/linux/memoryPolicy/nodes: "a" is not a list of nodes'),
    (policy("BIND", "0", "STATIC_NODES", "RELATIVE_NODES"), policy("BIND", "0", "STATIC_NODES"),
     "/linux/memoryPolicy/flags: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude"),
    (policy("INTERLEAVE", "0", "NUMA_BALANCING"), policy("BIND", "0", "NUMA_BALANCING"),
     "/linux/memoryPolicy/flags/0: MPOL_F_NUMA_BALANCING does not go with MPOL_INTERLEAVE"),
    (policy("PREFERRED", "", "STATIC_NODES"), policy("PREFERRED", "0", "STATIC_NODES"),
     "/linux/memoryPolicy/flags/0: MPOL_F_STATIC_NODES needs nodes"),
]


@pytest.mark.parametrize(("broken", "good", "text"), RULES,
                         ids=[f"{i}-{r[2].split(':')[0]}" for i, r in enumerate(RULES)])
def test_a_rule(broken: dict[str, Any], good: dict[str, Any], text: str) -> None:
    checked(good)
    with pytest.raises(ConfigError) as caught:
        checked(broken)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_a_joined_user_namespace_may_repeat_its_mappings() -> None:
    """containerd and CRI-O give both the path and what it maps; runc takes that, so must we."""
    joined = [{"type": "user", "path": "/proc/1/ns/user"}]
    checked(linux(namespaces=joined, uidMappings=[MAP], gidMappings=[MAP]))
    checked(linux(namespaces=joined))


def test_an_unknown_hook_or_affinity_is_an_unknown_property() -> None:
    checked({"hooks": {"preflight": 3}})
    checked(process(execCPUAffinity={"later": 3}))


def test_a_malformed_environment_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        checked(process(env=["hunter2"]))
    assert "hunter2" not in str(caught.value)


def test_the_process_of_exec_has_its_own_pointer() -> None:
    with pytest.raises(ConfigError, match=r"^/args: is empty"):
        check_process({"cwd": "/"}, "")


def test_the_resources_of_update_have_their_own_pointer() -> None:
    with pytest.raises(ConfigError, match=r"^/cpu/cpus: "):
        check_resources({"cpu": {"cpus": "a"}}, "")


@pytest.mark.parametrize(("name", "path"), [
    ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
    ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
    ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
    ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
    ("single", "single"),
    ("", ""), (".", ""), ("/", ""), ("net..a", ""), ("net.//.a", ""), ("/net/a", ""), ("net/./a", ""),
    ("a\nb", ""),
])
def test_a_sysctl_by_either_separator(name: str, path: str) -> None:
    """sysctl(8): the separators, and their exchange inside a name."""
    assert sysctl_path(name) == path


def test_the_rootfs_is_a_directory(tmp_path: Path) -> None:
    """config.md, Root: a directory MUST exist at the path; relative is to the bundle."""
    config = default_config()
    bundle = str(tmp_path)

    def error() -> str:
        with pytest.raises(ConfigError) as caught:
            check_bundle(config, bundle)
        return str(caught.value)

    rootfs = tmp_path / "rootfs"
    assert error() == f"/root/path: rootfs {rootfs} does not exist"
    rootfs.write_text("")
    assert error() == f"/root/path: rootfs {rootfs} is not a directory"
    rootfs.unlink()
    rootfs.symlink_to("loop")
    (tmp_path / "loop").symlink_to("rootfs")
    assert error() == f"/root/path: rootfs {rootfs}: too many levels of symbolic links (ELOOP)"
    rootfs.unlink()
    rootfs.mkdir()
    check_bundle(config, bundle)
    config["root"]["path"] = str(rootfs)
    check_bundle(config, os.sep)


def test_the_spec_example_of_every_section() -> None:
    """A configuration with most sections in use, as a client with all its features would write it."""
    config = json.loads(dump(default_config()))
    config["process"] |= {
        "user": {"uid": 1, "gid": 1, "umask": 63, "additionalGids": [5, 6]},
        "consoleSize": {"height": 25, "width": 80},
        "apparmorProfile": "web", "selinuxLabel": "system_u:system_r:container_t:s0", "oomScoreAdj": 100,
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4},
        "execCPUAffinity": {"initial": "7", "final": "0-3,7"}}
    config["hooks"] = {"prestart": [{"path": "/a", "args": ["a", "b"], "env": ["k=v"], "timeout": 5}],
                       "poststop": []}
    config["annotations"] = {"com.example.k": "v"}
    config["linux"] |= {
        "cgroupsPath": "/pods/a", "rootfsPropagation": "slave",
        "mountLabel": "system_u:object_r:container_file_t:s0",
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "1"}, "personality": {"domain": "LINUX"},
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0,
                     "gid": 0}],
        "netDevices": {"eth0": {"name": "net0"}}, "intelRdt": {"closID": "a", "schemata": ["L3:0=7f0;1=1f"]},
        "memoryPolicy": {"mode": "MPOL_INTERLEAVE", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
                    "architectures": ["SCMP_ARCH_X86_64"],
                    "syscalls": [{"names": ["getcwd", "chmod"], "action": "SCMP_ACT_ALLOW",
                                  "args": [{"index": 0, "value": 2**64 - 1, "op": "SCMP_CMP_NE"}]}]},
        "resources": {"memory": {"limit": 536870912, "swap": -1, "swappiness": 0}, "pids": {"limit": 0},
                      "cpu": {"shares": 1024, "quota": 1000000, "period": 500000, "cpus": "2-3",
                              "mems": "0-7"},
                      "hugepageLimits": [{"pageSize": "2MB", "limit": 9223372036854772000}],
                      "rdma": {"mlx5_1": {"hcaHandles": 3}}, "unified": {"io.max": "259:0 rbps=2097152"}},
    }
    assert load_config(dump(config).encode()) == config


@pytest.mark.parametrize("member", ["cpus", "mems"])
@pytest.mark.parametrize("text", ["a-b", "1,,2", "1-0", "0\n1", "0-", "-1", ",", "0,", "0x1", "1" * 5000, "\u0661",
                                  "0--1", "0-7:", "0-7:1", "0-7:1/", "0-7:0/2", "all:1/2"])
def test_no_list_of_numbers(member: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)^/linux/resources/cpu/{member}: .* is not a list of (CPUs|nodes)"):
        checked(resources(cpu={member: text}))
