# SPDX-License-Identifier: Apache-2.0
"""An ordinary user's containers: with and without ids of others (subuid(5)), with and without a cgroup of its own."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from ordinary import FIRST, HOME, UID, User
from seccomp_agents import Agent
from seccomp_probe import allowing, rule
from support import Host, Result, make_rootfs

CGROUPS = pytest.mark.parametrize("cgroups", ["host", "v2", "delegated"])
EDIT = """$P spec --rootless; /usr/bin/python3 -I - <<'END'
import json
c = json.load(open("config.json"))
c["process"]["terminal"] = False
c["process"]["args"] = ["sh", "-c", {program!r}]
c["root"]["readonly"] = False
{code}
json.dump(c, open("config.json", "w"))
END
"""


def spec(code: str = "", program: str = "exec sleep 1000") -> str:
    """Shell that writes the rootless default, with a program of the test's and what `code` changes of it."""
    return EDIT.format(program=program, code=code)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory for the user, with a rootfs."""
    make_rootfs(tmp_path / "home/rootfs")
    return tmp_path / "home"


def both(granted: int) -> str:
    maps = [{"containerID": 0, "hostID": UID, "size": 1}, {"containerID": 1, "hostID": FIRST, "size": granted}]
    return f'c["linux"]["uidMappings"] = c["linux"]["gidMappings"] = {json.dumps(maps)}'


@CGROUPS
@pytest.mark.parametrize("granted", [0, 1000])
def test_the_whole_life_of_a_container(home: Path, host: Host, cgroups: str, granted: int) -> None:
    result = User(home, granted, cgroups).run(spec(both(granted) if granted else "") + """
        $P create --pid-file pid web; $P state web | grep status; $P start web; $P state web | grep status
        $P exec web sh -c 'id -u; id -g; hostname; cat /proc/1/comm'
        $P exec -t web sh -c 'tty; stat -c %u /dev/pts/0'
        $P exec --env A=b --cwd /tmp web sh -c 'echo $A; pwd'
        $P list -q; cat /proc/$(cat pid)/uid_map
        $P kill web KILL; while $P state web | grep -q running; do sleep 0.05; done
        $P delete web; $P list -q; find run; echo end""")
    assert (result.code, result.err) == (0, ""), result
    lines = [" ".join(line.split()).strip('",') for line in result.lines]
    assert lines[:2] == ['status": "created', 'status": "running']
    assert lines[2:6] == ["0", "0", "pyrunc", "sleep"]
    assert lines[6:10] == ["/dev/pts/0", "0", "b", "/tmp"]
    maps = [f"0 {UID} 1", *([f"1 {FIRST} {granted}"] if granted else [])]
    assert lines[10:] == ["web", *maps, "run", "run/pyrunc", "end"]


@pytest.mark.parametrize("granted", [0, 1000])
def test_exec_as_another_user(home: Path, host: Host, granted: int) -> None:
    """With sub-ids there are others; without, the error says that there is no such id."""
    (home / "rootfs/tmp").chmod(0o1777)
    result = User(home, granted).run(spec(both(granted) if granted else "") + """
        $P run -d web; $P exec --user 5:7 web sh -c 'id -u; id -g; touch /tmp/made' || echo failed
        $P delete --force web""")
    if granted:
        assert result.lines == ["5", "7"], result
        made = (home / "rootfs/tmp/made").stat()
        assert (made.st_uid, made.st_gid) == (FIRST + 4, FIRST + 6)
    else:
        assert result.lines == ["failed"]
        (line,) = result.errors
        assert "/process/user" in line and "not mapped" in line, line


def test_a_user_is_root_in_its_own_container(home: Path, host: Host) -> None:
    """What root makes inside is the user's outside."""
    (home / "rootfs/tmp").chmod(0o1777)
    result = User(home).run(spec(program="id -u; id -g; touch /tmp/made; hostname; wc -c </dev/null") + "$P run web")
    assert result.lines == ["0", "0", "pyrunc", "0"], result
    assert (home / "rootfs/tmp/made").stat().st_uid == UID


@pytest.mark.parametrize(("granted", "expected"), [(0, "deny"), (1000, "allow")])
def test_a_user_can_not_give_up_groups(home: Path, host: Host, granted: int, expected: str) -> None:
    """CVE-2014-8989: where a group is denied something, leaving it would gain that; granted ids may leave."""
    result = User(home, granted).run(spec(both(granted) if granted else "", "cat /proc/self/setgroups") + "$P run web")
    assert result.lines == [expected], result


def test_granted_ids_are_mapped(home: Path, host: Host) -> None:
    """A process of another id than root inside, with groups; on the host what it makes is the granted id's."""
    (home / "rootfs/tmp").chmod(0o1777)
    user = 'c["process"]["user"] = {"uid": 5, "gid": 7, "additionalGids": [9]}'
    result = User(home, 1000).run(spec(both(1000) + f"; {user}", program="id -u; id -G; touch /tmp/made")
                                  + "$P run web")
    assert result.lines == ["5", "7 9"], result
    made = (home / "rootfs/tmp/made").stat()
    assert (made.st_uid, made.st_gid) == (FIRST + 4, FIRST + 6)


def test_ids_that_were_not_granted_are_refused(home: Path, host: Host) -> None:
    result = User(home, 10).run(spec(both(1000), program="true") + "$P run web")
    assert result.code == 1
    line = result.errors[-1]
    assert "newuidmap" in line and "/linux/uidMappings" in line and "/etc/subuid" in line


def test_without_a_user_namespace_the_remedy_is_named(home: Path, host: Host) -> None:
    result = User(home).run("$P spec; sed -i 's/\"terminal\": true/\"terminal\": false/' config.json; $P run web")
    assert result.code == 1
    *warnings, line = result.errors
    assert all("can't be granted" in warning for warning in warnings)  # an ordinary user has no capabilities
    assert "user namespace" in line and "EPERM" in line, line


def test_a_filter_and_an_agent(home: Path, host: Host) -> None:
    """The user's runtime loads a filter, keeps it compiled where only the user can write, and fetches its listener."""
    user = User(home)
    agent = Agent(home / "run", {63: (0, 13, False)})
    try:
        agent.path.chmod(0o777)
        profile = allowing(rule("chmod fchmodat fchmodat2", errnoRet=99), rule("uname", "NOTIFY"),
                           listenerPath=f"{HOME}/run/{agent.path.name}")
        (home / "profile").write_text(json.dumps(profile))
        program = "grep -e CapPrm -e CapEff -e Seccomp: /proc/self/status; chmod 700 /tmp; uname"
        result = user.run(spec('c["linux"]["seccomp"] = json.load(open("profile"))', program=program)
                          + "$P run web 2>&1; $P run web 2>&1")
        assert result.lines[3:5] == ["chmod: /tmp: Cannot assign requested address", ""], result
        assert set(agent.seen) == {63}  # and busybox, refused, prints an empty line for the system's name
        assert result.lines[2] == "Seccomp:\t2"
        assert result.lines[:5] == result.lines[5:]
        assert [state["state"]["id"] for state in agent.states] == [user.id] * 2
    finally:
        agent.close()
    kept = home / "run/pyrunc-seccomp"
    assert (kept.stat().st_mode & 0o777, kept.stat().st_uid) == (0o700, UID)


def test_commands_that_need_a_cgroup(home: Path, host: Host) -> None:
    """Without one they can't do their work: one line says so, and what would help."""
    result = User(home).run(spec() + """
        $P run -d web
        for command in "pause web" "ps web" "update --pids-limit 5 web" "events --stats web"; do
            $P $command && echo wrong; done
        $P state web | grep status; $P delete --force web""")
    assert result.lines == ['  "status": "running",'], result
    assert len(result.errors) == 4
    for line, command in zip(result.errors, ("pause", "ps", "update", "events"), strict=True):
        assert line.startswith(f"pyrunc: {command} web: the container has no cgroup"), line
    assert all("delegated" in line for line in result.errors[:3])


def test_commands_in_a_delegated_cgroup(home: Path, host: Host) -> None:
    """The user's own sub-tree: the container has a cgroup in it, can be frozen, listed, and killed whole."""
    result = User(home, cgroups="delegated").run(spec() + """
        $P run -d --pid-file pid web; sed -n 's/^0:://p' /proc/$(cat pid)/cgroup | sed 's/test-[0-9]*/test/'
        $P exec -d web sleep 1000; $P ps --format json web | tr , '\\n' | wc -l
        $P pause web; $P state web | grep status
        $P resume web; $P state web | grep status; $P update --pids-limit 5 web || echo refused
        $P delete --force web; ls /sys/fs/cgroup/pyrunc-test-* | grep web || echo gone""")
    assert [line.strip(' ,"') for line in result.lines] == [
        "/pyrunc-test/web", "2", 'status": "paused', 'status": "running', "refused", "gone"], result
    (line,) = result.errors  # the kernel has the controller elsewhere, and nobody else gave it to the user
    assert "/linux/resources/pids/limit" in line, line


def test_a_limit_that_can_not_be_set_is_an_error(home: Path, host: Host) -> None:
    """Asked for in config.json it is never left out in silence."""
    for cgroups in ("host", "delegated"):
        place = home if cgroups == "host" else home.rename(home.with_name("second"))
        result = User(place, cgroups=cgroups).run(spec('c["linux"]["resources"] = {"pids": {"limit": 5}}')
                                                  + "$P run web; $P list -q; echo $(ls run/pyrunc)")
        assert result.lines == [""], (cgroups, result)
        assert "/linux/resources/pids/limit" in result.errors[-1], result
        (place / "run").joinpath("pyrunc").rmdir()
        (place / "run").rmdir()


def test_where_the_state_is(home: Path, host: Host) -> None:
    """$XDG_RUNTIME_DIR/pyrunc, sticky so that nobody tidies it away; or --root, 0700."""
    user = User(home)
    result = user.run(spec(program="true") + """
        $P run web; stat -c %a run/pyrunc
        unset XDG_RUNTIME_DIR; $P --root $PWD/elsewhere run web; ls -d elsewhere
        $P features | grep -c ociVersionMax; rm config.json; $P spec""")
    assert (result.lines, result.err) == (["1700", "elsewhere", "1"], ""), result
    assert stat.S_IMODE((home / "elsewhere").stat().st_mode) == 0o700


def test_rootless_says_whether_cgroups_may_be_missed(home: Path, host: Host) -> None:
    """--rootless false: not being allowed to make one is an error; true and auto: the user goes without."""
    result = User(home, cgroups="v2").run(spec(program="echo ran") + """
        $P --rootless true run a; $P --rootless auto run b; $P --rootless false run c || echo failed; ls run/pyrunc""")
    assert result.lines == ["ran", "ran", "failed"], result
    (line,) = result.errors
    assert "make the cgroup /sys/fs/cgroup" in line and "permission denied (EACCES)" in line, line


@CGROUPS
def test_a_cgroup_that_is_named_is_wanted(home: Path, host: Host, cgroups: str) -> None:
    """config-linux.md, Cgroups Path: where the container has to be, unless its user says that it may go without."""
    result = User(home, cgroups=cgroups).run(spec('c["linux"]["cgroupsPath"] = "/nobodys/web"', "echo ran") + """
        $P run web || echo failed; ls run/pyrunc; $P --rootless true run web""")
    assert result.lines == ["failed", "ran"], result
    (line,) = result.errors
    assert line.startswith("pyrunc: run web: /linux/cgroupsPath: make the cgroup /sys/fs/cgroup/"), line
    assert "permission denied (EACCES) (--rootless true goes without)" in line, line


@pytest.mark.parametrize(("path", "mode", "said"), [
    ("config.json", 0o600, "config.json: permission denied (EACCES)"),
    (".", 0o700, "permission denied (EACCES)"),
    ("rootfs", 0o700, "rootfs"),
])
def test_a_bundle_that_the_user_may_not_read(home: Path, host: Host, path: str, mode: int, said: str) -> None:
    """One clear line, and nothing is left."""
    user = User(home)
    assert user.run(spec(program="true")).code == 0
    bundle = home / "bundle"
    bundle.mkdir()
    for name in ("config.json", "rootfs"):
        (home / name).rename(bundle / name)
    for top in (bundle, *bundle.rglob("*")):
        os.chown(top, 0, 0, follow_symlinks=False)
    bundle.chmod(0o755)
    (bundle / path).chmod(mode)
    result = user.run("$P run --bundle bundle web; find run", own=False)
    (line,) = result.errors
    assert line.startswith("pyrunc: run web: ") and said in line and "EACCES" in line, line
    assert [name for name in result.lines if name not in ("run", "run/pyrunc")] == []


def test_network_devices_need_more(home: Path, host: Host) -> None:
    """The host's devices aren't the user's to move, whatever namespaces it makes."""
    code = 'c["linux"]["namespaces"].append({"type": "network"}); c["linux"]["netDevices"] = {"lo": {"name": "eth0"}}'
    result = User(home).run(spec(code, program="true") + "$P run web; find run")
    (line,) = result.errors
    assert "/linux/netDevices" in line and "EPERM" in line and "CAP_NET_ADMIN" in line, line
    assert result.lines == ["run", "run/pyrunc"]


def mount(destination: str) -> str:
    return f'm = next(m for m in c["mounts"] if m["destination"] == "{destination}")'


SYSFS = mount("/sys") + '; m.update(type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev"])'
LOOK = ("grep ' / /sys ' /proc/self/mountinfo | cut -d' ' -f6; ls -d /sys/kernel; "
        "touch /sys/kernel/x 2>&1; echo 1 2>&1 >/sys/kernel/profiling")


def seen(result: Result) -> list[str]:
    return [line.replace(",relatime", "") for line in result.lines]


def test_sysfs_in_the_host_s_network_namespace(home: Path, host: Host) -> None:
    """sysfs belongs to a network namespace, and the host's isn't the user's: the host's /sys, read-only, stands in."""
    result = User(home).run(spec(SYSFS, program=LOOK) + "$P run web; true")
    assert seen(result)[:2] == ["ro,nosuid,nodev,noexec", "/sys/kernel"], result
    assert "Read-only file system" in result.out


def test_sysfs_in_a_network_namespace_of_its_own(home: Path, host: Host) -> None:
    """The control: there it is a sysfs of the container's own."""
    result = User(home).run(spec(SYSFS + '; c["linux"]["namespaces"].append({"type": "network"})',
                                 program=LOOK + "; ls /sys/class/net") + "$P run web; true")
    assert seen(result)[:2] == ["rw,nosuid,nodev,noexec", "/sys/kernel"], result
    assert result.lines[-1] == "lo"


# In a user namespace that somebody else has made, as rootlesskit does for dockerd, containerd and buildkitd.
WITHIN = "unshare --user --map-root-user --mount $P run web"
NONE_OF_ITS_OWN = ('c["linux"]["namespaces"] = [n for n in c["linux"]["namespaces"] if n["type"] not in ("user", %r)]; '
                   'del c["linux"]["uidMappings"], c["linux"]["gidMappings"]')


def test_sysfs_where_the_runtime_is_in_a_user_namespace(home: Path, host: Host) -> None:
    """The same as where the container has one."""
    result = User(home).run(spec(f'{SYSFS}; {NONE_OF_ITS_OWN % "network"}', program=LOOK) + f"{WITHIN}; true")
    assert seen(result)[:2] == ["ro,nosuid,nodev,noexec", "/sys/kernel"], result
    assert "Read-only file system" in result.out


@pytest.mark.parametrize(("kind", "file_system"), [("ipc", "mqueue"), ("pid", "proc")])
def test_what_a_user_namespace_can_not_mount_has_its_reason(home: Path, host: Host, kind: str,
                                                            file_system: str) -> None:
    result = User(home).run(spec(NONE_OF_ITS_OWN % kind, program="true") + WITHIN)
    (line,) = result.errors
    assert f"can mount {file_system} only with" in line and f"{kind} namespace of its own" in line, line


def test_a_cgroup_that_is_denied_there_has_the_way_to_go_without(home: Path, host: Host) -> None:
    code = f"""{NONE_OF_ITS_OWN % "user"}; c["linux"]["cgroupsPath"] = "/pyrunc-test/web\""""
    without = WITHIN.replace("run", "--rootless true run")
    result = User(home).run(spec(code, program="echo ran") + f"{WITHIN}; {without}")
    assert result.lines == ["ran"], result
    said = result.errors[0]
    assert "/linux/cgroupsPath" in said and "(--rootless true goes without)" in said, said


def test_what_rootless_podman_asks_for(home: Path, host: Host) -> None:
    """--network host and --pid host: binds of the host's /sys and /proc in the place of mounts."""
    code = "; ".join((
        mount("/sys"),
        'm.update(type="bind", source="/sys", options=["rprivate", "nosuid", "noexec", "nodev", "ro", "rbind"])',
        mount("/proc"), 'm.update(type="bind", source="/proc", options=["rbind", "nosuid", "noexec", "nodev"])',
        'c["linux"]["namespaces"] = [n for n in c["linux"]["namespaces"] if n["type"] not in ("pid", "network")]',
        'c["linux"]["maskedPaths"] = c["linux"]["readonlyPaths"] = []',
        'c["mounts"] = [m for m in c["mounts"] if m["type"] != "mqueue"]'))
    result = User(home).run(spec(code, program="ls -d /sys/kernel; cat /proc/self/comm; ls -d /proc/$PPID; "
                                               "touch /sys/x") + "$P run web; true")
    assert result.lines[0] == "/sys/kernel" and result.lines[1] == "cat", result
    assert any("/sys/x: Read-only file system" in line for line in result.errors)


def test_standard_streams_belong_to_the_container_s_user(home: Path, host: Host) -> None:
    """Who may write to them may reopen them: /dev/stdout of a file of the user's."""
    result = User(home, 1000).run(spec(both(1000) + '; c["process"]["user"] = {"uid": 5, "gid": 5}',
                                       program="echo reopened >>/dev/stdout; stat -L -c %u /dev/stdout >>/dev/stdout")
                                  + "$P run web >out; cat out; stat -c %u out")
    assert result.lines == ["reopened", "5", str(FIRST + 4)], result


def test_devices_are_the_host_s(home: Path, host: Host) -> None:
    """mknod(2) isn't allowed there: binds, with the host's owner and mode left alone."""
    before = os.stat("/dev/null")
    result = User(home).run(spec(program="for d in null zero full random urandom tty; do stat -c %n:%t:%T:%u /dev/$d; "
                                         "done; echo x >/dev/null; head -c 3 /dev/zero | wc -c") + "$P run web")
    assert result.lines == [f"/dev/{name}:{numbers}:65534" for name, numbers in (
        ("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0"),
    )] + ["3"], result
    after = os.stat("/dev/null")
    assert (before.st_mode, before.st_uid) == (after.st_mode, after.st_uid)


def test_device_rules_of_an_ordinary_user(home: Path, host: Host) -> None:
    """They take more than it has: no news where all devices are denied, as clients write it, but where one is."""
    everything = {"allow": False, "access": "rwm"}
    fuse = {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    codes = [f'c["linux"]["resources"] = {{"devices": json.loads({json.dumps(rules)!r})}}' for rules in
             ([everything, {**fuse, "allow": True}], [everything, fuse])]
    result = User(home, cgroups="delegated").run("".join(
        spec(code, program="echo ran") + "$P run web; echo end >&2; rm config.json\n" for code in codes))
    assert result.lines == ["ran", "ran"], result
    assert result.errors[0] == "end" and len(result.errors) == 3, result
    assert "/linux/resources/devices: the device rules can't be enforced by an ordinary user" in result.errors[1]
