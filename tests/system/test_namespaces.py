# SPDX-License-Identifier: Apache-2.0
"""config-linux.md, Namespaces: each type new, joined by path, and inherited where it isn't listed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Bundle, Host, Runtime, wait_for

# type -> its name in /proc/PID/ns
TYPES = {"pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "user": "user",
         "cgroup": "cgroup", "time": "time"}
MAPPING = [{"containerID": 0, "hostID": 0, "size": 65536}]
ROOT = [{"containerID": 0, "hostID": 100000, "size": 10}]


def identities(pid: int | str) -> dict[str, str]:
    """The namespaces of a process."""
    return {kind: os.readlink(f"/proc/{pid}/ns/{name}") for kind, name in TYPES.items()}


def pid_of(runtime: Runtime, container: str) -> int:
    return int(runtime.state(container)["pid"])


def kill_and_reap(runtime: Runtime, container: str) -> None:
    """End a container in another's pid namespace.

    That namespace's init can't die before it is reaped, and where the tests are pid 1 that is theirs to do.
    """
    pid = pid_of(runtime, container)
    assert runtime("kill", container, "KILL").code == 0
    runtime.wait(container)
    if os.getpid() == 1:
        os.waitpid(pid, 0)


def mapped(bundle: Bundle, mapping: list[dict[str, int]] | None = None) -> Bundle:
    bundle.namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = mapping or MAPPING
    return bundle


def owned_by(bundle: Bundle, uid: int) -> Bundle:
    """Give the root to the ids of a user namespace, and let them reach it."""
    for path in (bundle.rootfs, *bundle.rootfs.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)
    for path in (bundle.path, *bundle.path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o111)
    return bundle


def everything(bundle: Bundle) -> Bundle:
    for kind in TYPES:
        bundle.namespace(kind)
    return mapped(bundle)


def test_every_type_new(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config-linux.md: without a path a new namespace of that type is made; all eight at once."""
    found = identities(pid_of(runtime, runtime.create(everything(bundle))))
    own = identities("self")
    assert {kind for kind in TYPES if found[kind] != own[kind]} == set(TYPES)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "user"])
def test_one_type_new(runtime: Runtime, bundle: Bundle, host: Host, kind: str) -> None:
    """A type that isn't listed is the runtime's: with only one listed, only that one differs."""
    bundle.linux["namespaces"] = [{"type": kind}]
    bundle.config.pop("hostname")
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    bundle.config["mounts"] = []
    found = identities(pid_of(runtime, runtime.create(bundle)))
    own = identities("self")
    assert {name for name in TYPES if found[name] != own[name]} == {kind}


@pytest.mark.parametrize("kind", TYPES)
def test_join_by_path(runtime: Runtime, make_bundle: Callable[[str], Bundle], host: Host, kind: str) -> None:
    """config-linux.md: with a path, the runtime places the container process in that namespace, and only that."""
    first, second = make_bundle("first"), make_bundle("second")
    container = runtime.create(everything(first))
    theirs = pid_of(runtime, container)
    before = identities(theirs)
    second.namespace(kind, f"/proc/{theirs}/ns/{TYPES[kind]}")
    if kind == "user":  # what it owns has to be joined or made with it
        second.linux["namespaces"].append({"type": "cgroup"})
    if kind in ("mount", "uts"):
        second.config.pop("hostname")
    if kind == "mount":
        second.linux["maskedPaths"] = second.linux["readonlyPaths"] = []
        second.config["root"]["path"] = "/"
        second.config["mounts"] = []
    other = runtime.create(second)
    found = identities(pid_of(runtime, other))
    kill_and_reap(runtime, other)
    assert found[kind] == before[kind]
    assert [name for name in TYPES if name != kind and found[name] == before[name]] == []
    assert identities(theirs) == before
    runtime.clean_up()


def test_nothing_stays_in_a_mount_namespace_that_was_joined(runtime: Runtime, make_bundle: Callable[[str], Bundle],
                                                            host: Host) -> None:
    """Each container bound the root onto itself, with all that is mounted below, and left that behind."""
    first, second = make_bundle("first"), make_bundle("second")
    theirs = pid_of(runtime, runtime.create(first))
    before = Path(f"/proc/{theirs}/mountinfo").read_text()
    second.linux["namespaces"] = [{"type": "pid"}, {"type": "mount", "path": f"/proc/{theirs}/ns/mnt"}]
    second.linux.update(maskedPaths=[], readonlyPaths=[])
    second.config.update(mounts=[], root={"path": "/"})
    second.config.pop("hostname")
    result = runtime.run(second, "ls -d /bin /proc/1")  # the other one's /proc
    assert result.lines == ["/bin", "/proc/1"], result
    assert Path(f"/proc/{theirs}/mountinfo").read_text() == before
    runtime.clean_up()


def test_the_runtimes_own_uts_namespace_by_path(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config.md, Hostname: the container's UTS namespace may be the runtime's; it has been asked for by name."""
    bundle.namespace("uts", "/proc/self/ns/uts").config["hostname"] = os.uname().nodename  # what it is already
    result = runtime.run(bundle, "hostname; readlink /proc/self/ns/uts")
    assert result.lines == [os.uname().nodename, os.readlink("/proc/self/ns/uts")], result


def test_join_all_of_another_container(runtime: Runtime, make_bundle: Callable[[str], Bundle], host: Host,
                                       tmp_path: Path) -> None:
    """Everything but the mount namespace, as a pod's second container; it sees the first one's processes."""
    first, second = make_bundle("first"), make_bundle("second")
    container = runtime.create(everything(first).args("sleep", "1234"))
    assert runtime("start", container).code == 0
    theirs = pid_of(runtime, container)
    for kind, name in TYPES.items():
        if kind != "mount":
            second.namespace(kind, f"/proc/{theirs}/ns/{name}")
    second.config.pop("hostname")
    result = runtime.run(second, "hostname; ps -o pid,args | grep '[ ]1 sleep'; readlink /proc/self/ns/pid; id -u")
    assert result.lines == [first.config["hostname"], "    1 sleep 1234", identities(theirs)["pid"], "0"], result
    assert runtime.state(container)["status"] == "running"
    runtime.clean_up()


def test_join_a_pid_namespace(runtime: Runtime, make_bundle: Callable[[str], Bundle], host: Host) -> None:
    """pid_namespaces(7): it takes effect in the child; the second container isn't pid 1 and dies alone."""
    first, second = make_bundle("first"), make_bundle("second")
    container = runtime.create(first.args("sleep", "100"))
    runtime("start", container)
    theirs = pid_of(runtime, container)
    second.namespace("pid", f"/proc/{theirs}/ns/pid").args("sleep", "100")
    other = runtime.create(second)
    pid = pid_of(runtime, other)
    status = Path(f"/proc/{pid}/status").read_text()
    (nspid,) = [line.split() for line in status.splitlines() if line.startswith("NSpid:")]
    assert nspid[1] == str(pid) and int(nspid[-1]) > 1
    assert runtime("start", other).code == 0
    kill_and_reap(runtime, other)
    assert runtime("delete", other).code == 0
    assert runtime.state(container)["status"] == "running"


def test_join_a_network_namespace_that_has_no_process(runtime: Runtime, bundle: Bundle, host: Host,
                                                      tmp_path: Path) -> None:
    """A bind of a namespace file, as `ip netns add` makes; what is in it is there, and stays after delete."""
    path = tmp_path / "net"
    path.touch()
    subprocess.run(["unshare", f"--net={path}", "ip", "link", "set", "lo", "up"], check=True)
    try:
        inode = path.stat().st_ino
        bundle.namespace("network", str(path))
        result = runtime.run(bundle, "stat -L -c %i /proc/self/ns/net; ip -o link | wc -l")
        assert result.lines[0] == str(inode)
        assert path.stat().st_ino == inode
    finally:
        subprocess.run(["umount", path], check=True)


def test_loopback_is_up_in_a_new_network_namespace(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    result = runtime.run(bundle, "ip -o link; ip -o addr show lo")
    assert len([line for line in result.lines if ": lo:" in line]) == 1 and "LOOPBACK,UP" in result.out
    assert "127.0.0.1/8" in result.out


@pytest.mark.parametrize("kind", ["net", "mnt"])
def test_a_path_of_the_wrong_type_is_an_error(runtime: Runtime, bundle: Bundle, host: Host, kind: str) -> None:
    """config-linux.md: the runtime MUST generate an error if the path isn't associated with that type."""
    bundle.namespace("ipc", f"/proc/self/ns/{kind}")
    result = runtime.run(bundle, "true")
    assert result.code == 1
    if runtime.name == "pyrunc":
        assert f"/proc/self/ns/{kind} is a {kind} namespace, not ipc" in result.err
        assert "/linux/namespaces/4/path" in result.err


@pytest.mark.parametrize("path", ["/dev/null", "/nowhere", "/proc"])
def test_a_path_that_is_no_namespace_is_an_error(runtime: Runtime, bundle: Bundle, host: Host, path: str) -> None:
    bundle.namespace("ipc", path)
    result = runtime.run(bundle, "true")
    assert result.code == 1 and path in result.err


def test_hostname_and_domainname(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config.md: as seen by processes inside the container; the host's is as it was."""
    before = os.uname().nodename
    bundle.config["hostname"] = "a-host"
    bundle.config["domainname"] = "a.domain"
    result = runtime.run(bundle, "hostname; cat /proc/sys/kernel/domainname")
    assert result.lines[0] == "a-host"
    if runtime.name != "runc":  # 1.1 doesn't know the field
        assert result.lines[1] == "a.domain"
    assert os.uname().nodename == before


def test_time_offsets(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config-linux.md, timeOffsets: added to the clocks, seen by the program and what it starts."""
    bundle.namespace("time")
    day = 86400
    bundle.linux["timeOffsets"] = {"boottime": {"secs": 10 * day, "nanosecs": 5},
                                   "monotonic": {"secs": 3 * day, "nanosecs": 7}}
    result = runtime.run(bundle, "cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime; sh -c 'cut -d. -f1 "
                                 "/proc/uptime'")
    offsets = [line.split() for line in result.lines[:2]]
    assert offsets == [["monotonic", str(3 * day), "7"], ["boottime", str(10 * day), "5"]]
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    for seen in result.lines[2:]:
        assert abs(int(seen) - 10 * day - now) < 60


@pytest.mark.parametrize("joined", [False, True], ids=["new", "joined"])
def test_time_offsets_in_a_user_namespace(runtime: Runtime, make_bundle: Callable[[str], Bundle], host: Host,
                                          joined: bool) -> None:
    """As its root we are nobody that the host lets write to the file; who made the namespace may."""
    first, second = (mapped(owned_by(make_bundle(name), 100000), [{"containerID": 0, "hostID": 100000, "size": 65536}])
                     for name in ("first", "second"))
    if joined:
        theirs = pid_of(runtime, runtime.create(first))
        second.linux["namespaces"] = [entry for entry in second.linux["namespaces"] if entry["type"] != "user"]
        second.namespace("user", f"/proc/{theirs}/ns/user").namespace("cgroup")
    second.namespace("time").linux["timeOffsets"] = {"monotonic": {"secs": 77}}
    result = runtime.run(second, "cat /proc/self/timens_offsets")
    assert result.lines[0].split() == ["monotonic", "77", "0"], result
    runtime.clean_up()


def test_time_offsets_below_zero_are_named(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.namespace("time")
    bundle.linux["timeOffsets"] = {"boottime": {"secs": -(10**9)}}
    result = runtime.run(bundle, "true")
    assert result.code == 1
    if runtime.name == "pyrunc":
        assert "/linux/timeOffsets" in result.err and "below zero" in result.err


def test_a_cgroup_namespace_is_rooted_at_the_containers_cgroup(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """cgroup_namespaces(7): every line of /proc/self/cgroup ends in `/`; without one, in the container's path."""
    script = "cut -d: -f2- /proc/self/cgroup"
    container = runtime.new_id()
    bundle.args(script).save()
    without = runtime("run", "--bundle", bundle.path, container)
    bundle.namespace("cgroup").save()
    inside = runtime("run", "--bundle", bundle.path, container)
    own = [line for line in inside.lines if line.split(":")[0] not in ("", "hugetlb")]
    assert own and all(line.endswith(":/") for line in own), inside
    assert any(line.endswith(f"/{container}") for line in without.lines)
    assert not any(container in line for line in inside.lines)


def test_a_user_namespace_maps_ids(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config-linux.md, User namespace mappings: root inside is the host id outside, for processes and files."""
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    owned_by(mapped(bundle, mapping), 100000)
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind].append("CAP_CHOWN")
    container = runtime.create(bundle.args("touch /made; chown 5:6 /made; echo $(id -u) $(id -g); sleep 100"))
    assert runtime("start", container).code == 0
    pid = pid_of(runtime, container)
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "100000", "65536"]
    assert Path(f"/proc/{pid}/gid_map").read_text().split() == ["0", "100000", "65536"]
    status = Path(f"/proc/{pid}/status").read_text()
    for kind in ("Uid", "Gid"):
        assert f"\n{kind}:" + "\t100000" * 4 + "\n" in status
    made = bundle.rootfs / "made"
    wait_for(lambda: made.exists() and made.stat().st_uid == 100005, "the file to have its owner")
    assert made.stat().st_gid == 100006
    runtime.clean_up()


@pytest.mark.parametrize("more", [[], ["time"]])
def test_limits_of_a_user_namespace(runtime: Runtime, bundle: Bundle, host: Host, more: list[str]) -> None:
    """The sysctls user.*, which the kernel keeps for each (namespaces(7)): what may be made in there."""
    owned_by(mapped(bundle, [{"containerID": 0, "hostID": 100000, "size": 1000}]), 100000)
    for kind in more:
        bundle.namespace(kind)
    bundle.linux["sysctl"] = {"user.max_uts_namespaces": "1"}
    before = Path("/proc/sys/user/max_uts_namespaces").read_text()
    for kind in ("bounding", "permitted", "effective"):
        bundle.process["capabilities"][kind].append("CAP_SYS_ADMIN")
    result = runtime.run(bundle, "cat /proc/sys/user/max_uts_namespaces; unshare -u unshare -u true")
    assert result.lines == ["1"] and "No space left on device" in result.err, result
    assert Path("/proc/sys/user/max_uts_namespaces").read_text() == before


@pytest.mark.parametrize("more", [[], ["time"]])  # a time namespace: by a process that stands between
@pytest.mark.parametrize("keep", [True, False])
def test_the_callers_groups_in_a_user_namespace(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                                keep: bool, more: list[str]) -> None:
    """What they may open, though they are nobody's in there; only where the annotation asks for it (Podman)."""
    group = 4711
    owned_by(mapped(bundle, [{"containerID": 0, "hostID": 100000, "size": 1000}]), 100000)
    for kind in more:
        bundle.namespace(kind)
    file = tmp_path / "theirs"
    file.write_text("of the group\n")
    file.chmod(0o640)
    os.chown(file, 0, group)
    bundle.mount(file, "/theirs")
    bundle.config["annotations"] = {"run.oci.keep_original_groups": "1"} if keep else {}
    bundle.args("sleep", "100").save()
    container = runtime.new_id()
    created = runtime("create", "--bundle", bundle.path, container, extra_groups=[group])
    assert created.code == 0, created
    assert runtime("start", container).code == 0
    result = runtime("exec", container, "cat", "/theirs", extra_groups=[group])
    if keep:
        assert result.lines == ["of the group"], result
    else:
        assert result.code == 1 and "Permission denied" in result.err, result


def test_dev_and_the_streams_belong_to_the_container(runtime: Runtime, bundle: Bundle, host: Host,
                                                     tmp_path: Path) -> None:
    """What the runtime makes below /dev is its root's, a file given as a stream its user's; not nobody's."""
    owned_by(mapped(bundle, [{"containerID": 0, "hostID": 100000, "size": 65536}]), 100000)
    bundle.process["user"] = {"uid": 7, "gid": 8}
    places = ("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd/1")
    bundle.args(f"stat -L -c '%n %u' {' '.join(places)}; echo again >>/dev/stdout").save()
    output = tmp_path / "out"
    with open(output, "ab") as file:
        os.fchmod(file.fileno(), 0o600)
        done = subprocess.run(runtime.command("run", "--bundle", bundle.path, runtime.new_id()), stdout=file,
                              stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert output.read_text().splitlines() == [*(f"{place} 0" for place in places[:-1]), "/dev/fd/1 7", "again"]
    assert output.stat().st_uid == 100007
    container = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", container).code == 0
    with open(tmp_path / "other", "ab") as file:
        subprocess.run(runtime.command("exec", "--user", "9:9", container, "sh", "-c", "echo exec >>/dev/stdout"),
                       stdout=file, stdin=subprocess.DEVNULL, timeout=60, check=True)
    assert ((tmp_path / "other").read_text(), (tmp_path / "other").stat().st_uid) == ("exec\n", 100009)


def test_multiple_mappings(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    mapping = [{"containerID": 0, "hostID": 100000, "size": 10}, {"containerID": 1000, "hostID": 200000, "size": 5},
               {"containerID": 65534, "hostID": 300000, "size": 1}]
    owned_by(mapped(bundle, mapping), 100000)
    bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [65534]}
    pid = pid_of(runtime, runtime.create(bundle))
    for name in ("uid_map", "gid_map"):
        assert [[int(number) for number in line.split()] for line in
                Path(f"/proc/{pid}/{name}").read_text().splitlines()] == [
            [entry["containerID"], entry["hostID"], entry["size"]] for entry in mapping]
    result = runtime.run(bundle, "id -u; id -G")
    assert result.lines == ["1000", "1001 65534"], result


def test_ids_of_a_joined_user_namespace(runtime: Runtime, make_bundle: Callable[[str], Bundle], host: Host) -> None:
    """It has its own: config.json needs none, may repeat them in any form (containerd does), and not contradict."""
    first, second = make_bundle("first"), make_bundle("second")
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    owned_by(mapped(first, mapping), 100000)
    owned_by(second, 100000)
    theirs = pid_of(runtime, runtime.create(first))
    second.namespace("user", f"/proc/{theirs}/ns/user").namespace("cgroup")
    second.process["user"] = {"uid": 7, "gid": 8}
    script = "id -u; cat /proc/self/uid_map"
    same = [{"containerID": 100, "hostID": 100100, "size": 65436}, {"containerID": 0, "hostID": 100000, "size": 100}]
    for given in (None, mapping, same):
        if given:
            second.linux["uidMappings"] = second.linux["gidMappings"] = given
        result = runtime.run(second, script)
        assert [line.split() for line in result.lines] == [["7"], ["0", "100000", "65536"]], (given, result)
    second.linux["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    result = runtime.run(second, script)
    assert result.code == 1 and result.out == ""
    if runtime.name == "pyrunc":
        assert "/linux/gidMappings" in result.err and "0 100000 65536" in result.err
    runtime.clean_up()


def test_a_user_id_without_a_mapping_is_an_error(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    owned_by(mapped(bundle, ROOT), 100000)
    bundle.process["user"] = {"uid": 10, "gid": 0}
    result = runtime.run(bundle, "true")
    assert result.code == 1
    if runtime.name == "pyrunc":
        assert "/process/user" in result.err


@pytest.mark.parametrize("more", [[], ["time"]], ids=["at once", "by a process between"])
def test_a_user_namespace_without_a_root(runtime: Runtime, bundle: Bundle, host: Host, more: list[str]) -> None:
    """The container is made by its root: without one the error says what is missing."""
    owned_by(mapped(bundle, [{"containerID": 1000, "hostID": 101000, "size": 10}]), 101000)
    for kind in more:
        bundle.namespace(kind)
    result = runtime.run(bundle, "true")
    assert result.code == 1
    if runtime.name == "pyrunc":
        assert ": /linux/gidMappings: take gid 0 of the user namespace: invalid argument (EINVAL) (it has to be " \
            in result.err


def test_mounts_in_a_user_namespace(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """All of the default's mounts, and a bind from a place that only the real root can reach."""
    secret = tmp_path / "closed" / "data"
    secret.mkdir(parents=True)
    (secret / "file").write_text("found\n")
    secret.parent.chmod(0o700)
    owned_by(mapped(bundle, [{"containerID": 0, "hostID": 100000, "size": 65536}]), 100000)
    bundle.namespace("cgroup").mount(secret, "/data", options=["rbind", "ro"])
    result = runtime.run(bundle, "cat /data/file; touch /data/x; grep -c . /proc/self/mountinfo; touch /dev/shm/x")
    assert result.lines[0] == "found"
    assert result.errors == ["touch: /data/x: Read-only file system"]
    result = runtime.run(bundle, "mount -t tmpfs x /tmp; echo 1 >/proc/sys/kernel/shmmni")
    assert len(result.errors) == 2
