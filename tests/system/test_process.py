# SPDX-License-Identifier: Apache-2.0
"""config.md, Process: who the program is: user, groups, umask, directory, arguments, environment, capabilities."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Bundle, Host, Result, Runtime

CAPABILITIES = ("bounding", "effective", "inheritable", "permitted", "ambient")
CHOWN, KILL, NET_BIND_SERVICE, SYS_BOOT = 0, 5, 10, 22


def status(runtime: Runtime, bundle: Bundle, **kwargs: Any) -> dict[str, str]:
    """/proc/self/status as the container's program has it, it being `cat` itself."""
    result = runtime.run(bundle.args("cat", "/proc/self/status"), **kwargs)
    assert result.code == 0, result
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in result.lines}


def last_line(result: Result) -> str:
    assert result.errors, result
    return result.errors[-1]


# User, groups, umask

@pytest.mark.parametrize(("user", "uids", "gids", "groups"), [
    ({"uid": 0, "gid": 0}, "0", "0", ""),
    ({"uid": 1000, "gid": 1001}, "1000", "1001", ""),
    ({"uid": 1000, "gid": 1001, "additionalGids": []}, "1000", "1001", ""),
    ({"uid": 1000, "gid": 1001, "additionalGids": [7, 5, 4294967294]}, "1000", "1001", "5 7 4294967294"),
    ({"uid": 4294967294, "gid": 0, "additionalGids": [0]}, "4294967294", "0", "0"),
])
def test_user_and_exactly_these_groups(runtime: Runtime, bundle: Bundle, host: Host, user: dict[str, Any], uids: str,
                                       gids: str, groups: str) -> None:
    """Real, effective, saved and file system ids; the caller's own groups are not kept."""
    bundle.process["user"] = user
    seen = status(runtime, bundle, extra_groups=[27, 100])
    assert seen["Uid"].split() == [uids] * 4
    assert seen["Gid"].split() == [gids] * 4
    assert seen["Groups"] == groups


@pytest.mark.parametrize(("value", "groups"), [("1", "27 100"), ("0", "5")])
def test_the_callers_groups_are_kept_where_that_is_asked_for(runtime: Runtime, bundle: Bundle, host: Host, value: str,
                                                             groups: str) -> None:
    """crun's annotation, Podman's `--group-add keep-groups`: no setgroups(2), not for config.json's groups either."""
    bundle.config["annotations"] = {"run.oci.keep_original_groups": value}
    bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5]}
    assert status(runtime, bundle, extra_groups=[27, 100])["Groups"] == groups


@pytest.mark.parametrize(("umask", "seen"), [(None, "0022"), (0, "0000"), (0o27, "0027"), (0o777, "0777")])
def test_umask(runtime: Runtime, bundle: Bundle, host: Host, umask: int | None, seen: str) -> None:
    """`user.umask`; by default 0022, whatever the caller's is."""
    bundle.process["user"] = {"uid": 0, "gid": 0} | ({} if umask is None else {"umask": umask})
    assert runtime.run(bundle, "umask", umask=0o007).lines == [seen]


# HOME

def home(runtime: Runtime, bundle: Bundle, uid: int) -> str:
    bundle.process["user"] = {"uid": uid, "gid": 0}
    result = runtime.run(bundle, "echo $HOME")
    assert result.code == 0, result
    return result.lines[0]


def test_home_is_that_of_the_containers_passwd(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    assert home(runtime, bundle, 0) == "/root"
    assert home(runtime, bundle, 1000) == "/home/alice"
    assert home(runtime, bundle, 12345) == "/"
    bundle.process["env"].append("HOME=/given")
    assert home(runtime, bundle, 1000) == "/given"


def test_home_through_a_link_stays_below_the_root(runtime: Runtime, bundle: Bundle, host: Host,
                                                  tmp_path: Path) -> None:
    outside = tmp_path / "passwd"
    outside.write_text("evil:x:0:0::/outside:/bin/sh\n")
    passwd = bundle.rootfs / "etc" / "passwd"
    passwd.unlink()
    passwd.symlink_to(outside)  # below the root there is no such file
    assert home(runtime, bundle, 0) == "/"
    (bundle.rootfs / "etc" / "real").write_text("root:x:0:0::/inside:/bin/sh\n")
    passwd.unlink()
    passwd.symlink_to("/etc/real")
    assert home(runtime, bundle, 0) == "/inside"


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "garbage", "missing"])
def test_home_of_an_odd_passwd(runtime: Runtime, bundle: Bundle, host: Host, kind: str) -> None:
    """Neither does a fifo hold us up, nor a device that never ends."""
    passwd = bundle.rootfs / "etc" / "passwd"
    passwd.unlink()
    if kind == "fifo":
        os.mkfifo(passwd)
    elif kind == "directory":
        passwd.mkdir()
    elif kind == "device":
        os.mknod(passwd, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    elif kind == "garbage":
        passwd.write_bytes(b"\xff\0:::::\n0:0\n:x:0:0\n\nroot:x:00:0::/no:\n")
    assert home(runtime, bundle, 0) == "/"


# The working directory

def test_cwd_is_made_where_it_is_missing(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.process["cwd"] = "/srv/a/b"
    assert runtime.run(bundle, "pwd; stat -c '%u %a' . ..").lines == ["/srv/a/b", "0 755", "0 755"]
    assert (bundle.rootfs / "srv/a/b").is_dir()


def test_cwd_through_a_link_is_the_containers(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    (bundle.rootfs / "link").symlink_to(tmp_path)
    bundle.process["cwd"] = "/link"
    before = sorted(os.listdir(tmp_path))
    result = runtime.run(bundle, "ls -a .")
    if result.code == 0:
        assert result.lines == [".", ".."]  # made below the root, empty; the host's has the bundle
    else:
        assert "/process/cwd" in last_line(result)
    assert sorted(os.listdir(tmp_path)) == before


def test_cwd_that_only_the_user_may_enter(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """As root without any capability it can't be entered, as its owner it can."""
    own = bundle.rootfs / "own"
    own.mkdir(mode=0o700)
    os.chown(own, 1000, 1000)
    bundle.process["cwd"] = "/own"
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert runtime.run(bundle, "pwd; stat -c %u .").lines == ["/own", "1000"]


def test_cwd_is_a_file(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.process["cwd"] = "/etc/passwd"
    result = runtime.run(bundle, "pwd")
    assert result.code == 1 and result.out == ""
    assert "/process/cwd" in last_line(result) and "ENOTDIR" in last_line(result)


@pytest.mark.parametrize("number", range(3, 12))
def test_cwd_can_not_be_a_descriptor_of_the_hosts(runtime: Runtime, bundle: Bundle, host: Host, number: int) -> None:
    """CVE-2024-21626: /proc/self/fd/N of the runtime led out of the root."""
    bundle.process["cwd"] = f"/proc/self/fd/{number}"
    result = runtime.run(bundle, "pwd; ls -a /proc/self/cwd/../../..")
    assert result.code == 1 and result.out == "", result
    assert "/process/cwd" in last_line(result)


# Arguments and environment

def test_args_are_passed_as_they_are(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    odd = ["", " ", "a b", "\n", "\t'\"\\$(x)`", "é", "\u2603", "\U0001f980", "-", "--", "%s", "\x7f\x01"]
    args = ["sh", "-c", "cat /proc/$$/cmdline; true", *odd]
    assert runtime.run(bundle.args(*args)).out.split("\0") == [*args, ""]


def test_argv_0_is_as_given(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The program is looked for on the container's PATH; what it is called stays."""
    assert runtime.run(bundle.args("cat", "/proc/self/cmdline")).out == "cat\0/proc/self/cmdline\0"
    assert runtime.run(bundle.args("/bin/cat", "/proc/self/cmdline")).out == "/bin/cat\0/proc/self/cmdline\0"


def environment(runtime: Runtime, bundle: Bundle) -> list[str]:
    result = runtime.run(bundle.args("/bin/cat", "/proc/self/environ"), env={**os.environ, "LEAK": "of the caller"})
    assert result.code == 0, result
    return result.out.rstrip("\0").split("\0")


def test_env_is_exactly_this(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """In its order, and HOME; nothing of the caller's."""
    env = ["Z=1", "PATH=/bin", "A=x=y", "EMPTY=", "lower case=ok", "N=line\nbreak", "U=é\u2603"]
    bundle.process["env"] = env
    assert environment(runtime, bundle) == [*env, "HOME=/root"]


def test_env_given_twice_is_the_last(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.process["env"] = ["HOME=/h", "A=1", "B=2", "A=3"]
    assert sorted(environment(runtime, bundle)) == ["A=3", "B=2", "HOME=/h"]


@pytest.mark.parametrize("entry", ["NOVALUE", "=x", ""])
def test_env_that_is_no_variable(runtime: Runtime, bundle: Bundle, host: Host, entry: str) -> None:
    """It is told when the container is created, with its place."""
    bundle.process["env"] = ["A=1", entry]
    result = runtime.run(bundle, "env")
    assert result.code == 1 and result.out == "", result
    assert len(result.errors) == 1 and "/process/env/1" in result.err


@pytest.mark.parametrize(("program", "text"), [
    ("nothing", 'exec: "nothing": executable file not found in $PATH'),
    ("/bin/nothing", 'exec: "/bin/nothing"'),
    ("/etc/passwd", "EACCES"),
    ("/etc", "EACCES) (it is a directory"),
])
def test_a_program_that_can_not_be_run_fails_create(runtime: Runtime, bundle: Bundle, host: Host, program: str,
                                                    text: str) -> None:
    result = runtime.run(bundle.args(program, "x"))
    assert result.code == 1 and len(result.errors) == 1, result
    assert text in result.err and "/process/args/0" in result.err
    assert os.listdir(runtime.root) == []


def test_a_program_is_looked_for_as_the_user(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The first that may be executed wins, as with execvp(3)."""
    first = bundle.rootfs / "first"
    first.mkdir()
    shutil.copy2(bundle.rootfs / "bin/busybox", first / "id")
    os.chmod(first / "id", 0o700)
    bundle.process["env"] = ["PATH=/first:/bin"]
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert runtime.run(bundle.args("id", "-u")).lines == ["1000"]
    os.chmod(first / "id", 0)
    bundle.process["env"] = ["PATH=/first"]
    assert "EACCES" in last_line(runtime.run(bundle.args("id", "-u")))


# Capabilities

def masks(seen: dict[str, str]) -> dict[str, int]:
    """The five sets of /proc/self/status, under the names of config.json."""
    keys = {"bounding": "CapBnd", "effective": "CapEff", "inheritable": "CapInh", "permitted": "CapPrm",
            "ambient": "CapAmb"}
    return {name: int(seen[key], 16) for name, key in keys.items()}


def test_no_capabilities_means_none(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    for capabilities in (None, {}):
        bundle.process["capabilities"] = capabilities
        if capabilities is None:
            del bundle.process["capabilities"]
        assert set(masks(status(runtime, bundle)).values()) == {0}


def test_the_five_sets_of_root(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """execve(2) gives root's program all of inheritable and bounding (capabilities(7))."""
    bundle.process["capabilities"] = {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"],
                                      "permitted": ["CAP_CHOWN", "CAP_KILL"], "inheritable": ["CAP_KILL"]}
    both = 1 << CHOWN | 1 << KILL
    assert masks(status(runtime, bundle)) == {"bounding": both, "effective": both, "permitted": both,
                                              "inheritable": 1 << KILL, "ambient": 0}


def test_the_five_sets_of_a_user(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Without ambient capabilities a user's program has none."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    names = ["CAP_CHOWN", "CAP_KILL"]
    bundle.process["capabilities"] = {"bounding": names, "effective": names, "permitted": names, "inheritable": names}
    both = 1 << CHOWN | 1 << KILL
    assert masks(status(runtime, bundle)) == {"bounding": both, "effective": 0, "permitted": 0, "inheritable": both,
                                              "ambient": 0}


def test_ambient_capabilities_reach_a_users_program(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    names = ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]
    bundle.process["capabilities"] = dict.fromkeys(CAPABILITIES, names) | {"ambient": ["CAP_NET_BIND_SERVICE"]}
    both, bind = 1 << CHOWN | 1 << NET_BIND_SERVICE, 1 << NET_BIND_SERVICE
    assert masks(status(runtime, bundle)) == {"bounding": both, "effective": bind, "permitted": bind,
                                              "inheritable": both, "ambient": bind}


def test_root_has_no_warning_of_ambient_capabilities(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """`runc spec` asks for three that aren't inheritable, and runc runs that without a word."""
    bundle.process["capabilities"]["ambient"] = ["CAP_KILL"]
    bundle.process["capabilities"]["inheritable"] = []
    result = runtime.run(bundle, "grep CapAmb /proc/self/status")
    assert result.code == 0 and int(result.out.split()[1], 16) == 0 and result.err == "", result


def test_an_unknown_capability_is_a_warning(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config.md: what can't be mapped to the kernel must not be an error, but a warning."""
    for name in CAPABILITIES[:-1]:
        bundle.process["capabilities"][name] = ["CAP_KILL", "CAP_TIME_TRAVEL"]
    bundle.process["capabilities"]["ambient"] = []
    result = runtime.run(bundle, "grep CapEff /proc/self/status")
    assert result.code == 0 and int(result.out.split()[1], 16) == 1 << KILL, result
    warned = [line for line in result.errors if "CAP_TIME_TRAVEL" in line]
    assert len(warned) == 4 and all("warn" in line for line in warned)
    assert any("/process/capabilities/bounding" in line for line in warned)


def test_a_capability_we_lack_is_a_warning(runtime: Runtime, bundle: Bundle, host: Host,
                                           make_runtime: Callable[[str], Runtime], tmp_path: Path) -> None:
    """config.md: what can't be granted must not be an error, but a warning; the control has it granted."""
    lacking = tmp_path / runtime.name
    lacking.write_text(f'#!/bin/sh\nexec setpriv --bounding-set -sys_boot {runtime.path} "$@"\n')
    lacking.chmod(0o755)
    for name in CAPABILITIES:
        bundle.process["capabilities"][name] = ["CAP_KILL", "CAP_SYS_BOOT"]
    script = "grep -E 'Cap(Bnd|Eff)' /proc/self/status"
    control = runtime.run(bundle, script)
    assert [int(line.split()[1], 16) for line in control.lines] == [1 << KILL | 1 << SYS_BOOT] * 2
    assert "CAP_SYS_BOOT" not in control.err
    result = make_runtime(str(lacking)).run(bundle, script)
    assert result.code == 0, result
    assert [int(line.split()[1], 16) for line in result.lines] == [1 << KILL] * 2
    assert len([line for line in result.errors if "CAP_SYS_BOOT" in line and "warn" in line]) == 5


def test_exec_warns_of_what_create_has_not_told(runtime: Runtime, bundle: Bundle,
                                                host: Host, make_runtime: Callable[[str], Runtime],
                                                tmp_path: Path) -> None:
    """Its stderr is the program's: a privileged pod's probe would have the same warnings in its output each time."""
    lacking = tmp_path / runtime.name
    lacking.write_text(f'#!/bin/sh\nexec setpriv --bounding-set -sys_boot {runtime.path} "$@"\n')
    lacking.chmod(0o755)
    for name in CAPABILITIES:
        bundle.process["capabilities"][name] = ["CAP_SYS_BOOT"]
    poor = make_runtime(str(lacking))
    container = poor.create(bundle.args("sleep", "1000"))
    poor("start", container)
    process = tmp_path / "process.json"
    process.write_text(json.dumps({**bundle.process, "args": ["true"]}))
    for words in ([container, "true"], ["--process", str(process), container]):
        result = poor("exec", *words)
        assert (result.code, result.out, result.err) == (0, "", ""), words
    result = poor("exec", "--cap", "CAP_TIME_TRAVEL", container, "true")
    assert result.code == 0 and "'CAP_TIME_TRAVEL' is unknown" in result.err
    assert poor("delete", "--force", container).code == 0


@pytest.mark.parametrize("wanted", [True, False])
def test_no_new_privileges(runtime: Runtime, bundle: Bundle, host: Host, wanted: bool) -> None:
    bundle.process["noNewPrivileges"] = wanted
    assert status(runtime, bundle)["NoNewPrivs"] == str(int(wanted))


def test_clamped_utilisation(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """SCHED_FLAG_UTIL_CLAMP_*: the kernel takes it, or has no such thing (EOPNOTSUPP), but knows what is asked."""
    bundle.process["scheduler"] = {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_UTIL_CLAMP_MIN"]}
    result = runtime.run(bundle, "echo ran")
    refused = "/process/scheduler: scheduler SCHED_OTHER: sched_setattr: operation not supported ("
    assert result.out == "ran\n" or (result.code == 1 and refused in result.err), result
