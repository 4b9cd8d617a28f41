# SPDX-License-Identifier: Apache-2.0
"""What is wrong in config.json is told in one line: the JSON pointer, the cause; and nothing is left behind.

Each case is the default configuration with some values put in; the runtime is asked to create it
(or to run it, where only execve(2) or a later hook can tell), once plainly and once with --log.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import Bundle, Host, Runtime

ABSENT: Any = object()
PROC = {"destination": "/proc", "type": "proc", "source": "proc"}
TMPFS = {"destination": "/m", "type": "tmpfs", "source": "tmpfs"}
BIND = {"destination": "/m", "source": "/etc", "options": ["bind"]}
USER = {"type": "user"}
IDS = [{"containerID": 0, "hostID": 0, "size": 1}]
HOOK = {"path": "/bin/sh", "args": ["sh", "-c", "echo no money >&2; exit 3"]}
FIFO = {"policy": "SCHED_FIFO", "priority": 0}
NULL = {"type": "c", "path": "/dev/null", "major": 1, "minor": 3}
RES = "/linux/resources"

#: What is put where (a JSON pointer; "-" appends, as in JSON patch), what the line has to say.
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    # The schema: absent, of a wrong type, not among the known
    "no version": ({"/ociVersion": ABSENT}, ["/ociVersion: is missing but required"]),
    "no root": ({"/root": ABSENT}, ["/root: is missing but required"]),
    "no root path": ({"/root": {"readonly": True}}, ["/root/path: is missing but required"]),
    "misspelt member": ({"/root": {"pth": "rootfs"}}, ["/root/path: is missing", 'is "pth" a misspelling?']),
    "cwd missing": ({"/process/cwd": ABSENT}, ["/process/cwd: is missing but required"]),
    "args a string": ({"/process/args": "true"}, ["/process/args: expected an array, found the string"]),
    "arg a number": ({"/process/args": ["sleep", 1]}, ["/process/args/1: expected a string, found the number 1"]),
    "terminal a string": ({"/process/terminal": "no"}, ["/process/terminal: expected true or false"]),
    "uid negative": ({"/process/user/uid": -1}, ["/process/user/uid: expected an integer from 0 to 4294967295"]),
    "uid a fraction": ({"/process/user/uid": 1.5}, ["/process/user/uid: expected an integer", "1.5"]),
    "uid too large": ({"/process/user/uid": 2**32}, ["/process/user/uid: expected an integer from 0"]),
    "mounts an object": ({"/mounts": {}}, ["/mounts: expected an array, found an object"]),
    "mount without destination": ({"/mounts": [{"type": "tmpfs"}]}, ["/mounts/0/destination: is missing"]),
    "annotation a number": ({"/annotations": {"a/b": 1}}, ["/annotations/a~1b: expected a string"]),
    "namespace unknown": ({"/linux/namespaces/-": {"type": "netwrk"}}, ["is not one of", 'did you mean "network"?']),
    "propagation unknown": ({"/linux/rootfsPropagation": "shard"}, ["/linux/rootfsPropagation", '"shared"?']),
    "policy unknown": ({"/process/scheduler": {"policy": "SCHED_FIF"}}, ["/process/scheduler/policy", "SCHED_FIFO"]),
    "personality unknown": ({"/linux/personality": {"domain": "linux"}}, ["/linux/personality/domain", '"LINUX"?']),
    "two mistakes": ({"/process/terminal": 1, "/process/cwd": 1}, ["/process/cwd: ", "and 1 other mistake"]),
    "NUL in a path": ({"/process/cwd": "/a\0b"}, ["/process/cwd: holds a NUL character"]),
    "half a character": ({"/process/cwd": "/\ud800"}, ["/process/cwd: \\ud800 is half a surrogate pair"]),
    "oom score": ({"/process/oomScoreAdj": 1001}, ["/process/oomScoreAdj: expected an integer from -1000 to 1000"]),

    # What ties one member to another
    "version words": ({"/ociVersion": "latest"}, ['/ociVersion: "latest" is not a version of the form 1.3.0']),
    "version 2": ({"/ociVersion": "2.0.0"}, ["/ociVersion: version 2.0.0 is not supported"]),
    "root path empty": ({"/root/path": ""}, ["/root/path: is empty"]),
    "rootfs missing": ({"/root/path": "nowhere"}, ["/root/path: rootfs ", "nowhere does not exist"]),
    "rootfs a file": ({"/root/path": "config.json"}, ["/root/path: rootfs ", "is not a directory"]),
    "args empty": ({"/process/args": []}, ["/process/args: "]),
    "args missing": ({"/process/args": ABSENT}, ["/process/args: is empty: the program to run is missing"]),
    "cwd relative": ({"/process/cwd": "tmp"}, ['/process/cwd: "tmp" is not an absolute path']),
    "env without =": ({"/process/env/-": "SECRET"}, ["/process/env/2: is not of the form NAME=value"]),
    "rlimit twice": ({"/process/rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}] * 2},
                     ["/process/rlimits/1/type: RLIMIT_CORE is already set by /process/rlimits/0"]),
    "rlimit soft over hard": ({"/process/rlimits": [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]},
                              ["/process/rlimits/0/soft: 2 is above the hard limit 1"]),
    "FIFO priority": ({"/process/scheduler": FIFO}, ["/process/scheduler/priority: 0 is not from 1 to 99"]),
    "priority without RT": ({"/process/scheduler": {"policy": "SCHED_BATCH", "priority": 2}},
                            ["/process/scheduler/priority: goes with SCHED_FIFO and SCHED_RR"]),
    "deadline order": ({"/process/scheduler": {"policy": "SCHED_DEADLINE", "runtime": 9, "deadline": 8}},
                       ["/process/scheduler: SCHED_DEADLINE needs 0 < runtime"]),
    "runtime without deadline": ({"/process/scheduler": {"policy": "SCHED_OTHER", "runtime": 9}},
                                 ["/process/scheduler/runtime: goes with SCHED_DEADLINE"]),
    "affinity": ({"/process/execCPUAffinity": {"initial": "3-1"}}, ["/process/execCPUAffinity/initial", "0-3,7"]),
    "console size": ({"/process/terminal": True, "/process/consoleSize": {"height": 70000, "width": 1}},
                     ["/process/consoleSize/height: 70000 is more than 65535"]),
    "hostname without uts": ({"/linux/namespaces": [{"type": "mount"}]},
                             ["/hostname: can't be set without a uts namespace"]),
    "hostname long": ({"/hostname": "h" * 65}, ["/hostname: is longer than the 64 bytes"]),
    "domainname long": ({"/domainname": "d" * 65}, ["/domainname: is longer than the 64 bytes"]),
    "annotation key empty": ({"/annotations": {"": "x"}}, ["/annotations: a key is empty"]),
    "hook relative": ({"/hooks": {"poststop": [{"path": "sh"}]}}, ['/hooks/poststop/0/path: "sh" is not an absolute']),
    "namespace twice": ({"/linux/namespaces": [{"type": "uts"}, {"type": "uts"}]},
                        ["/linux/namespaces/1/type: uts is already given by /linux/namespaces/0"]),
    "namespace relative": ({"/linux/namespaces/0": {"type": "pid", "path": "proc/self/ns/pid"}},
                           ["/linux/namespaces/0/path", "is not an absolute path"]),
    "mappings without user": ({"/linux/uidMappings": IDS}, ["/linux/uidMappings: needs a user namespace"]),
    "user without mappings": ({"/linux/namespaces/-": USER}, ["/linux/uidMappings: is missing"]),
    "mapping of nothing": ({"/linux/namespaces/-": USER, "/linux/uidMappings": [{**IDS[0], "size": 0}]},
                           ["/linux/uidMappings/0/size: a mapping of no ids"]),
    "mappings overlap": ({"/linux/namespaces/-": USER, "/linux/uidMappings": IDS * 2},
                         ["/linux/uidMappings/1/containerID: overlaps with /linux/uidMappings/0"]),
    "mapping past 32 bits": ({"/linux/namespaces/-": USER, "/linux/uidMappings": [{**IDS[0], "size": 2**32 - 1,
                                                                                   "hostID": 1}]},
                             ["/linux/uidMappings/0/hostID: ", "beyond 4294967294"]),
    "offsets without time": ({"/linux/timeOffsets": {"monotonic": {"secs": 1}}}, ["/linux/timeOffsets: needs a time"]),
    "clock unknown": ({"/linux/namespaces/-": {"type": "time"}, "/linux/timeOffsets": {"wall": {"secs": 1}}},
                      ["/linux/timeOffsets/wall: "]),
    "sysctl of the host": ({"/linux/sysctl": {"kernel.panic": "1"}}, ["/linux/sysctl/kernel.panic: is not kept per"]),
    "sysctl without network": ({"/linux/namespaces": [{"type": "mount"}, {"type": "uts"}],
                                "/linux/sysctl": {"net.ipv4.ip_forward": "1"}},
                               ["/linux/sysctl/net.ipv4.ip_forward: needs a network namespace"]),
    "sysctl of the host's network": ({"/linux/namespaces/1": {"type": "network", "path": "/proc/self/ns/net"},
                                      "/linux/sysctl": {"net/ipv4/ip_forward": "lots"}},
                                     ["/linux/sysctl/net~1ipv4~1ip_forward: would change the host's: /proc/self"]),
    "sysctl climbing": ({"/linux/sysctl": {"net/../kernel/panic": "1"}}, ["/linux/sysctl/net~1..~1kernel~1panic: "]),
    "sysctl hostname": ({"/linux/sysctl": {"kernel.hostname": "x"}}, ["set /hostname instead"]),
    "masked relative": ({"/linux/maskedPaths": ["proc"]}, ['/linux/maskedPaths/0: "proc" is not an absolute path']),
    "readonly without mount": ({"/linux/namespaces": [{"type": "uts"}], "/linux/maskedPaths": []},
                               ["/linux/readonlyPaths: needs a mount namespace"]),
    "cgroup climbing": ({"/linux/cgroupsPath": "/a/../../b"}, ["/linux/cgroupsPath: ", "climbs out"]),
    "cgroup root": ({"/linux/cgroupsPath": "/"}, ["/linux/cgroupsPath: ", "names no cgroup"]),
    "device relative": ({"/linux/devices": [{**NULL, "path": "null"}]}, ["/linux/devices/0/path", "not an absolute"]),
    "device without numbers": ({"/linux/devices": [{"type": "c", "path": "/dev/x"}]}, ["/linux/devices/0/major: "]),
    "device number": ({"/linux/devices": [{**NULL, "minor": 2**20}]}, ["/linux/devices/0/minor: 1048576 is not from"]),
    "device twice": ({"/linux/devices": [NULL, {**NULL, "minor": 5}]}, ["/linux/devices/1/path: ", "/linux/devices/0"]),
    "device access": ({RES: {"devices": [{"allow": True, "access": "rx"}]}}, [RES + '/devices/0/access: "rx"']),
    "unified climbing": ({RES: {"unified": {"../x": "1"}}}, [RES + "/unified/..~1x: is not the name"]),
    "rdma device": ({RES: {"rdma": {"": {"hcaHandles": 1}}}}, [RES + "/rdma/: is not the name"]),
    "page size": ({RES: {"hugepageLimits": [{"pageSize": "2M", "limit": 1}]}},
                  [RES + '/hugepageLimits/0/pageSize: "2M"']),
    "cpus": ({RES: {"cpu": {"cpus": "a"}}}, [RES + '/cpu/cpus: "a" is not a list of CPUs']),
    "burst": ({RES: {"cpu": {"quota": 1000, "burst": 2000}}}, [RES + "/cpu/burst: 2000 is larger than the quota"]),
    "net priority": ({RES: {"network": {"priorities": [{"name": "a/b", "priority": 1}]}}},
                     [RES + "/network/priorities/0/name: "]),
    "weight device": ({RES: {"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}},
                      [RES + "/blockIO/weightDevice/0: has neither weight nor leafWeight"]),
    "policy without nodes": ({"/linux/memoryPolicy": {"mode": "MPOL_BIND"}}, ["/linux/memoryPolicy/nodes: is missing"]),

    # What this version can't do is refused, not ignored
    "seccomp": ({"/linux/seccomp": {"defaultAction": "SCMP_ACT_NOTIFY"}}, ["/linux/seccomp"]),
    "mount label": ({"/linux/mountLabel": "system_u:object_r:x"}, ["/linux/mountLabel: "]),
    "apparmor": ({"/process/apparmorProfile": "no-such-profile"}, ["/process/apparmorProfile: "]),
    "selinux": ({"/process/selinuxLabel": "no_u:no_r:no_t"}, ["/process/selinuxLabel: "]),
    "net device": ({"/linux/netDevices": {"nosuch0": {}}}, ["/linux/netDevices"]),

    # What only the kernel can tell
    "bind source missing": ({"/mounts": [{**BIND, "source": "/no/such"}]},
                            ["/mounts/0: bind source /no/such: ", "no such file or directory (ENOENT)"]),
    "bind without source": ({"/mounts": [{"destination": "/m", "options": ["bind"]}]}, ["/mounts/0: ", "source"]),
    "mount without type": ({"/mounts": [{"destination": "/m"}]}, ["/mounts/0: a mount needs a type"]),
    "file system unknown": ({"/mounts": [PROC, {**TMPFS, "type": "nosuchfs"}]},
                            ["/mounts/1: nosuchfs on /m", "the kernel knows no file system nosuchfs"]),
    "option value": ({"/mounts": [{**TMPFS, "options": ["size=lots"]}]}, ["/mounts/0: ", "Bad value for 'size'"]),
    "option unknown": ({"/mounts": [{**TMPFS, "options": ["colour=red"]}]}, ["/mounts/0: ", "colour"]),
    "remount of no mount": ({"/mounts": [{**TMPFS, "destination": "/mnt", "options": ["remount", "size=1m"]}]},
                            ["/mounts/0: remount /mnt", "(EINVAL)"]),
    "tmpfs on a file": ({"/mounts": [{**TMPFS, "destination": "/etc/passwd"}]}, ["/mounts/0: ", "/etc/passwd"]),
    "directory on a file": ({"/mounts": [{**BIND, "destination": "/etc/passwd"}]}, ["/mounts/0: ", "/etc/passwd"]),
    "file on a directory": ({"/mounts": [{**BIND, "source": "/etc/passwd", "destination": "/mnt"}]},
                            ["/mounts/0: ", "/mnt"]),
    "below a file": ({"/mounts": [{**TMPFS, "destination": "/etc/passwd/m"}]}, ["/mounts/0: ", "/etc/passwd/m"]),
    "on the root": ({"/mounts": [{**TMPFS, "destination": "/"}]}, ["/mounts/0: "]),
    "bind over /proc": ({"/mounts": [PROC, {**BIND, "destination": "/proc"}]}, ["/mounts/1: ", "/proc"]),
    "bind below /proc": ({"/mounts": [PROC, {**BIND, "destination": "/proc/sys"}]}, ["/mounts/1: ", "/proc/sys"]),
    "namespace missing": ({"/linux/namespaces/0": {"type": "pid", "path": "/no/such"}},
                          ["/linux/namespaces/0/path: open /no/such", "(ENOENT)"]),
    "namespace of another type": ({"/linux/namespaces/0": {"type": "network", "path": "/proc/self/ns/mnt"},
                                   "/linux/namespaces/1": {"type": "pid"}},
                                  ["/linux/namespaces/0/path: /proc/self/ns/mnt is a mnt namespace, not net"]),
    "namespace a file": ({"/linux/namespaces/0": {"type": "pid", "path": "/etc/passwd"}},
                         ["/linux/namespaces/0/path: /etc/passwd is not a namespace", "give the path of"]),
    "sysctl value": ({"/linux/sysctl": {"net.ipv4.ip_forward": "lots"}},
                     ['/linux/sysctl/net.ipv4.ip_forward: sysctl net.ipv4.ip_forward="lots"', "(EINVAL)"]),
    "sysctl missing": ({"/linux/sysctl": {"net.no.such": "1"}}, ["/linux/sysctl/net.no.such: ", "(ENOENT)"]),
    "rlimit over the kernel's": ({"/process/rlimits": [{"type": "RLIMIT_NOFILE", "soft": 2**31, "hard": 2**31}]},
                                 ["/process/rlimits/0: RLIMIT_NOFILE", "(EPERM)"]),
    "device in a file's place": ({"/linux/devices": [{**NULL, "path": "/etc/passwd"}]},
                                 ["/linux/devices/0", "/etc/passwd"]),
    "policy the kernel lacks": ({"/process/scheduler": {"policy": "SCHED_ISO"}}, ["/process/scheduler: ", "(EINVAL)"]),
    "node missing": ({"/linux/memoryPolicy": {"mode": "MPOL_BIND", "nodes": "900"}}, ["/linux/memoryPolicy: "]),
    "clock below zero": ({"/linux/namespaces/-": {"type": "time"},
                          "/linux/timeOffsets": {"boottime": {"secs": -10**9}}},
                         ["/linux/timeOffsets: ", "(ERANGE)", "below zero"]),
    "uid without mapping": ({"/linux/namespaces/-": USER, "/linux/uidMappings": IDS, "/linux/gidMappings": IDS,
                             "/mounts": [], "/process/user/uid": 7}, ["/process/user/uid: uid 7", "(EINVAL)"]),
    "gid without mapping": ({"/linux/namespaces/-": USER, "/linux/uidMappings": IDS, "/linux/gidMappings": IDS,
                             "/mounts": [], "/process/user/gid": 7}, ["/process/user/gid: gid 7", "(EINVAL)"]),

    # The program
    "program missing": ({"/process/args": ["/no/such"]}, ['/process/args/0: exec: "/no/such": ', "(ENOENT)"]),
    "program not on the PATH": ({"/process/args": ["nosuch"]},
                                ['exec: "nosuch": executable file not found in $PATH', "PATH is /usr"]),
    "program not executable": ({"/process/args": ["/etc/passwd"]}, ['exec: "/etc/passwd": permission denied (EACCES)']),
    "program a directory": ({"/process/args": ["/etc"]},
                            ['exec: "/etc": permission denied (EACCES) (it is a directory)']),
    "without PATH": ({"/process/args": ["nosuch"], "/process/env": ["A=b"]}, ["PATH is /bin:/usr/bin"]),
    "program of another machine": ({"/process/args": ["/bin/text"]}, ['exec: "/bin/text": exec format error', "#!"]),
    "interpreter missing": ({"/process/args": ["/bin/lost"]}, ['exec: "/bin/lost": no such file', "the interpreter"]),
    "cwd a file": ({"/process/cwd": "/etc/passwd"}, ["/process/cwd: enter the working directory", "(ENOTDIR)"]),

    # Hooks (config.md: a hook that fails stops the container)
    "hook missing": ({"/hooks": {"prestart": [{"path": "/no/such"}]}}, ["/hooks/prestart/0", "/no/such", "(ENOENT)"]),
    "hook not executable": ({"/hooks": {"createRuntime": [{"path": "/etc/passwd"}]}},
                            ["/hooks/createRuntime/0", "/etc/passwd", "(EACCES)"]),
    "hook fails": ({"/hooks": {"prestart": [HOOK]}}, ["/hooks/prestart/0: ", "exit status 3", "no money"]),
    "second hook fails": ({"/hooks": {"createRuntime": [{"path": "/bin/true"}, HOOK]}},
                          ["/hooks/createRuntime/1: ", "exit status 3", "no money"]),
    "hook killed": ({"/hooks": {"prestart": [{**HOOK, "args": ["sh", "-c", "kill -TERM $$"]}]}},
                    ["/hooks/prestart/0: ", "killed by SIGTERM"]),
    "hook too slow": ({"/hooks": {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "9"], "timeout": 1}]}},
                      ["/hooks/createRuntime/0: ", "timed out after 1 s"]),
    "createContainer hook fails": ({"/hooks": {"createContainer": [HOOK]}}, ["/hooks/createContainer/0: ", "no money"]),
    "startContainer hook fails": ({"/hooks": {"startContainer": [HOOK]}}, ["/hooks/startContainer/0: ", "no money"]),
    "poststart hook fails": ({"/hooks": {"poststart": [HOOK]}}, ["/hooks/poststart/0: ", "no money"]),
}
#: Those that only show when the program is started.
AT_START = ("program of another machine", "interpreter missing", "startContainer hook fails", "poststart hook fails")


def put(config: dict[str, Any], pointer: str, value: Any) -> None:
    """Set (ABSENT: remove) what `pointer` names; "-" appends to an array."""
    *parts, last = pointer.split("/")[1:]
    where: Any = config
    for part in parts:
        where = where[int(part)] if isinstance(where, list) else where[part]
    if isinstance(where, list) and last == "-":
        where.append(value)
    elif isinstance(where, list):
        where[int(last)] = value
    elif value is ABSENT:
        del where[last]
    else:
        where[last] = value


def furnish(rootfs: Path) -> None:
    """What some cases need in the root."""
    for name, text in {"bin/text": "words\0\1\2", "bin/lost": "#!/no/such/sh\n"}.items():
        (rootfs / name).write_text(text)
        (rootfs / name).chmod(0o755)


@pytest.mark.parametrize("name", CASES)
def test_one_line_says_what_is_wrong(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path, name: str) -> None:
    changes, expected = CASES[name]
    furnish(bundle.rootfs)
    for pointer, value in changes.items():
        put(bundle.config, pointer, value)
    bundle.save()
    command = "run" if name in AT_START else "create"
    container = runtime.new_id()
    plain = runtime(command, "--bundle", bundle.path, container)
    assert plain.code == 1, plain
    assert len(plain.errors) == 1, plain
    assert plain.err.startswith(f"pyrunc: {command} {container}: "), plain
    assert "Traceback" not in plain.err and "internal error" not in plain.err
    for text in expected:
        assert text in plain.err, plain
    # Clients read the last line of the log.
    log = tmp_path / "log"
    logged = runtime("--log", log, "--log-format", "json", command, "--bundle", bundle.path, container)
    last = json.loads(log.read_text().splitlines()[-1])
    assert (logged.code, last["level"]) == (1, "error")
    assert f"pyrunc: {last['msg']}" == plain.errors[0] == logged.errors[0]
    host.assert_unchanged()
    runtime.ids.clear()  # nothing is left to clean up


def test_the_control(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """The configuration that all of the above begin with is fine."""
    furnish(bundle.rootfs)
    done = runtime("--log", tmp_path / "log", "run", "--bundle", bundle.save(), runtime.new_id())
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "log").read_text() == ""


RUNC_REFUSES = ("rootfs missing", "hostname without uts", "namespace of another type", "sysctl of the host",
                "sysctl of the host's network", "bind source missing", "file system unknown", "bind over /proc",
                "program missing", "program a directory", "hook fails", "cwd a file")


@pytest.mark.parametrize("other", ["runc"])
@pytest.mark.parametrize("name", RUNC_REFUSES)
def test_runc_refuses_it_too(make_runtime: Any, bundle: Bundle, name: str, other: str) -> None:
    runc = make_runtime(other)
    for pointer, value in CASES[name][0].items():
        put(bundle.config, pointer, value)
    refused = runc.run(bundle)
    assert refused.code == 1 and refused.err, refused
