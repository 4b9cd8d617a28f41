# SPDX-License-Identifier: Apache-2.0
"""linux.seccomp in force: each action, operator, flag and architecture, when the filter is loaded, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from seccomp_probe import BASIC, allowing, denying, install, probe, rule, seen
from support import Bundle, Host, Runtime, runc_version

from pyrunc.linux.process import PR_SET_CHILD_SUBREAPER, prctl

UNAME, SYSINFO, GETRUSAGE = "63:0", "99:0", "98:0:1"


BAD = 1  # a bad address: whatever gets through fails with EFAULT
ACTIONS = [
    ("uname", f"63:{BAD}", rule("uname"), "EPERM"),
    ("sysinfo", f"99:{BAD}", rule("sysinfo", errnoRet=99), "EADDRNOTAVAIL"),
    ("getrusage", f"98:0:{BAD}", rule("getrusage", errnoRet=0), "ok 0"),
    ("getitimer", f"36:0:{BAD}", rule("getitimer", "KILL"), "signal 31"),
    ("gettimeofday", f"96:{BAD}:0", rule("gettimeofday", "KILL_THREAD"), "signal 31"),
    ("clock_getres", f"229:0:{BAD}", rule("clock_getres", "KILL_PROCESS"), "signal 31"),
    ("sched_rr_get_interval", f"148:0:{BAD}", rule("sched_rr_get_interval", "TRAP"), "signal 31"),
    ("pipe", f"22:{BAD}", rule("pipe", "TRACE"), "ENOSYS"),  # nobody traces
    ("pipe2", f"293:{BAD}:0", rule("pipe2", "LOG"), "EFAULT"),
    ("stat", f"4:{BAD}:{BAD}", rule("stat", "ALLOW"), "EFAULT"),
    ("rmdir", f"84:{BAD}", None, "EFAULT"),
]


def test_actions(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle, host: Host) -> None:
    """config-linux.md, Seccomp: each action, on a call of its own; as under runc."""
    profile = allowing(*(call_rule for _, _, call_rule, _ in ACTIONS if call_rule))
    calls = [call for _, call, _, _ in ACTIONS]
    expected = [(name, what) for name, _, _, what in ACTIONS]
    for one in (runtime, make_runtime("runc")):
        assert list(zip([name for name, *_ in ACTIONS], probe(one, bundle, profile, *calls), strict=True)) == expected
    assert probe(runtime, bundle, None, *calls) == ["EFAULT"] * len(calls)  # the control


@pytest.mark.parametrize(("default", "expected"), [
    ({"defaultAction": "SCMP_ACT_ERRNO"}, "EPERM"),
    ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99}, "EADDRNOTAVAIL"),
    ({"defaultAction": "SCMP_ACT_KILL"}, "signal 31"),
    ({"defaultAction": "SCMP_ACT_KILL_PROCESS"}, "signal 31"),
    ({"defaultAction": "SCMP_ACT_TRAP"}, "signal 31"),
    ({"defaultAction": "SCMP_ACT_TRACE"}, "ENOSYS"),
    ({"defaultAction": "SCMP_ACT_LOG"}, "EFAULT"),
], ids=lambda value: value["defaultAction"] if isinstance(value, dict) else "")
def test_default_actions(runtime: Runtime, bundle: Bundle, host: Host, default: dict[str, Any], expected: str) -> None:
    """defaultAction and defaultErrnoRet are for whatever no rule names."""
    profile = denying("ERRNO", rule("sysinfo", "ALLOW")) | default
    assert probe(runtime, bundle, profile, UNAME, SYSINFO) == [expected, "EFAULT"]


FD = 12345  # never open: whatever gets through fails with EBADF
BIG = 1 << 40
#: A call that takes a descriptor, conditions for it, and arguments with which they hold or not.
CONDITIONS: list[tuple[str, int, list[tuple[Any, ...]], dict[str, bool]]] = [
    ("dup", 32, [(0, "EQ", FD)], {f"{FD}": True, f"{FD + 1}": False}),
    ("fsync", 74, [(0, "NE", FD)], {f"{FD}": False, f"{FD + 1}": True}),
    ("fdatasync", 75, [(0, "LT", FD)], {f"{FD - 1}": True, f"{FD}": False, f"{FD + 1}": False}),
    ("fchdir", 81, [(0, "LE", FD)], {f"{FD - 1}": True, f"{FD}": True, f"{FD + 1}": False}),
    ("syncfs", 306, [(0, "GE", FD)], {f"{FD - 1}": False, f"{FD}": True, f"{FD + 1}": True}),
    ("fchmod", 91, [(0, "GT", FD)], {f"{FD - 1}": False, f"{FD}": False, f"{FD + 1}": True}),
    ("lseek", 8, [(0, "MASKED_EQ", 0xFF00, 0x1200)], {f"{0x1234}": True, f"{0x991200}": True, f"{0x1334}": False}),
    # 64 bits of each argument, though the calls look at 32 of them.
    ("ftruncate", 77, [(0, "GE", BIG)], {f"{BIG}": True, f"{BIG + FD}": True, f"{BIG - 1}": False, f"{FD}": False}),
    ("flock", 73, [(0, "EQ", 2**64 - 1)], {f"{2**64 - 1}:1": True, f"{2**32 - 1}:1": False}),
    # A second value is MASKED_EQ's alone.
    ("fstat", 5, [(0, "EQ", FD, 7)], {f"{FD}": True, "777": False}),
    # Conditions on different arguments are all to hold; with two on one argument any suffices.
    ("fchown", 93, [(0, "EQ", FD), (1, "EQ", 5)], {f"{FD}:5": True, f"{FD}:6": False, "999:5": False}),
    ("fstatfs", 138, [(0, "EQ", FD), (0, "EQ", FD + 1)], {f"{FD}": True, f"{FD + 1}": True, f"{FD + 2}": False}),
    ("getdents", 78, [(0, "EQ", FD), (0, "EQ", FD + 1), (1, "EQ", 5)],
     {f"{FD}:6": True, "9999:5": True, "9999:6": False}),
    ("fadvise64", 221, [(5, "EQ", 3)], {f"{FD}:0:0:0:0:3": True, f"{FD}:0:0:0:0:4": False}),
]


def test_conditions(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle, host: Host) -> None:
    """Each operator, and conditions together, as config-linux.md has them and runc treats them."""
    profile = allowing(*(rule(name, "ERRNO", *arguments, errnoRet=99) for name, _, arguments, _ in CONDITIONS))
    table = [(name, f"{number}:{call}", "EADDRNOTAVAIL" if holds else "EBADF")
             for name, number, _, calls in CONDITIONS for call, holds in calls.items()]
    for one in (runtime, make_runtime("runc")):
        found = probe(one, bundle, profile, *(call for _, call, _ in table))
        assert [(name, call, line) for (name, call, _), line in zip(table, found, strict=True)] == table


def test_rules_that_say_what_the_default_says(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """They are skipped: libseccomp would refuse them."""
    profile = denying("ERRNO", rule("uname"), rule("sysinfo", errnoRet=1), rule("getrusage", errnoRet=99))
    assert probe(runtime, bundle, profile, UNAME, SYSINFO, GETRUSAGE) == ["EPERM", "EPERM", "EADDRNOTAVAIL"]


# Calls newer than the profile

FAR = "600"  # the newest one of the profile is 334, rseq
OLD = "99:1"  # sysinfo
NO_ARCHITECTURES: dict[str, Any] = {"architectures": []}  # since 1.1.13 runc counts on the machine's own


@pytest.mark.parametrize(("members", "expected"), [
    ({}, ["EPERM", "ENOSYS", "ENOSYS"]),
    ({"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]}, ["EPERM", "ENOSYS", "ENOSYS"]),
    (NO_ARCHITECTURES, ["EPERM", "ENOSYS", "ENOSYS"]),
    ({"defaultErrnoRet": 99}, ["EADDRNOTAVAIL", "ENOSYS", "ENOSYS"]),
    ({"defaultErrnoRet": 38}, ["ENOSYS", "ENOSYS", "ENOSYS"]),
    ({"defaultAction": "SCMP_ACT_KILL"}, ["signal 31", "ENOSYS", "ENOSYS"]),
    ({"defaultAction": "SCMP_ACT_KILL_PROCESS"}, ["signal 31", "ENOSYS", "ENOSYS"]),
    ({"defaultAction": "SCMP_ACT_TRAP"}, ["signal 31", "ENOSYS", "ENOSYS"]),
    # A tracer, a log and a list of what is forbidden let new calls through to the kernel.
    ({"defaultAction": "SCMP_ACT_TRACE"}, ["ENOSYS", "ENOSYS", "ENOSYS"]),
    ({"defaultAction": "SCMP_ACT_LOG"}, ["EFAULT", "EINVAL", "ENOSYS"]),
    ({"defaultAction": "SCMP_ACT_ALLOW"}, ["EFAULT", "EINVAL", "ENOSYS"]),
], ids=str)
def test_newer_calls(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle, host: Host,
                     members: dict[str, Any], expected: list[str]) -> None:
    """As runc: a call above the newest one that the profile names for its architecture fails with ENOSYS.

    Only where the default is to forbid; the number is counted on the architectures the profile lists.
    """
    profile = denying(names=BASIC.replace("faccessat2", "")) | members
    # 435 is clone3, which of an unknown size fails with EINVAL.
    calls = (OLD, "435:0:0", FAR)
    found = probe(runtime, bundle, profile, *calls)
    if runc_version() >= (1, 1, 13) or members != NO_ARCHITECTURES:
        assert found == probe(make_runtime("runc"), bundle, profile, *calls)
    assert found == expected


# Architectures

X32 = 1 << 30


@pytest.mark.parametrize("architectures", [
    None, ["X86_64"], ["X86_64", "X86"], ["X86_64", "X86", "X32"], ["X86"],
], ids=str)
def test_architectures(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle, host: Host,
                       architectures: list[str] | None) -> None:
    """The rules are for the native and the listed architectures, with each one's numbers; others are killed.

    i111 and i20 are ustat and getpid for an i386 program, 63 and 39 uname and getpid for a native one.
    """
    profile = allowing(rule("uname", errnoRet=99))
    if architectures is not None:
        profile["architectures"] = [f"SCMP_ARCH_{name}" for name in architectures]
    calls = ("63:0", "i122:0", "i20", f"{X32 | 63}:0", f"{X32 | 39}")
    found = probe(runtime, bundle, profile, *calls)
    listed = architectures or []
    assert found[0] == "EADDRNOTAVAIL"
    assert found[1] == ("EADDRNOTAVAIL" if "X86" in listed else "signal 31")
    assert found[2].startswith("ok ") == ("X86" in listed) and (found[2] == "signal 31") == ("X86" not in listed)
    assert found[3] == ("EADDRNOTAVAIL" if "X32" in listed else "signal 31")
    assert (found[4] == "signal 31") == ("X32" not in listed)
    beside = probe(make_runtime("runc"), bundle, profile, *calls)
    assert [line.split()[0] for line in found] == [line.split()[0] for line in beside]  # the pids may differ


@pytest.mark.parametrize("call", ["i600", f"{X32 | 600}", "i128:0:0:0", f"{X32 | 175}:0:0:0"])
def test_newer_calls_of_other_architectures(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle,
                                            host: Host, call: str) -> None:
    """i386 and x32 calls above that architecture's newest; i128 and x32's 175 are init_module, which is older."""
    profile = denying() | {"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]}
    found = probe(runtime, bundle, profile, call)
    assert found == (["ENOSYS"] if "600" in call or str(X32 | 600) in call else ["EPERM"])
    assert found == probe(make_runtime("runc"), bundle, profile, call)


# Flags


@pytest.mark.parametrize(("members", "mitigated"), [
    ({}, False), ({"flags": []}, True), ({"flags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}, False),
    ({"flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]}, True),
    ({"flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}, True),
], ids=str)
def test_flags(runtime: Runtime, bundle: Bundle, host: Host, members: dict[str, Any], mitigated: bool) -> None:
    """Without flags SPEC_ALLOW is set, as by runc; an empty list is no flag.

    seccomp(2): without that flag the filter switches the mitigation of Speculative Store Bypass on, where the
    kernel does so by default (spec_store_bypass_disable=seccomp) or the flag wasn't given and PR_SET_SPECULATION_CTRL
    is prctl; what can be seen on every machine is the call itself.
    """
    trace = bundle.path / "trace"
    bundle.linux["seccomp"] = allowing(rule("uname"), **members)
    bundle.args("true").save()
    done = subprocess.run(["strace", "-f", "-e", "trace=seccomp", "-o", trace, *runtime.command("run", "--bundle",
                           bundle.path, runtime.new_id())], capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done
    loads = [line for line in trace.read_text().splitlines()
             if "SECCOMP_SET_MODE_FILTER" in line and "NULL" not in line]
    assert len(loads) == 1 and loads[0].endswith("= 0"), loads
    assert ("SECCOMP_FILTER_FLAG_SPEC_ALLOW" in loads[0]) != mitigated
    assert ("SECCOMP_FILTER_FLAG_LOG" in loads[0]) == ("SECCOMP_FILTER_FLAG_LOG" in members.get("flags", []))


# Names


def test_unknown_names(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """A call nobody knows is passed over; that it is not forbidden then is a warning, that it is not allowed is not."""
    bundle.linux["seccomp"] = allowing(rule("uname no_such_call"))
    for _ in range(2):  # compiled, and from the cache
        result = runtime.run(install(bundle).args("/probe", UNAME))
        assert result.lines == ["errno 1"]
        assert len(result.errors) == 1
        assert "warning: /linux/seccomp/syscalls/0/names/1: libseccomp " in result.err
        assert result.err.endswith(' knows no call "no_such_call": ignored\n')
    bundle.linux["seccomp"] = denying("ERRNO", rule("uname no_such_call", "ALLOW"))
    result = runtime.run(bundle)
    assert (result.lines, result.err) == (["errno 14"], "")
    told = runtime("--debug", "run", "--bundle", bundle.save(), runtime.new_id())
    assert 'debug: /linux/seccomp/syscalls/1/names/1: libseccomp' in told.err


# When it is loaded

#: What the probe needs itself: a static program's start, its children, its output.
PROGRAM = ("execve exit_group write mmap brk arch_prctl set_tid_address set_robust_list rseq prlimit64 readlink "
           "readlinkat getrandom mprotect newfstatat fstat clone wait4")


@pytest.mark.parametrize("process", [
    {"noNewPrivileges": True}, {"noNewPrivileges": False},
    {"noNewPrivileges": False, "user": {"uid": 1000, "gid": 1000}},
    {"noNewPrivileges": True, "user": {"uid": 1000, "gid": 1000, "additionalGids": [7]}},
], ids=str)
def test_only_execve_has_to_be_allowed(runtime: Runtime, bundle: Bundle, host: Host, process: dict[str, Any]) -> None:
    """The filter is the last thing but execve: of what the runtime does before, no call needs to be allowed.

    runc's own set-up runs under the filter, and needs more: capset, setuid, getcwd, openat, futex and others.
    """
    bundle.process.update(process)
    profile = denying("KILL", names=PROGRAM)
    bundle.linux["seccomp"] = profile
    container = runtime.create(install(bundle).args("/probe", "79:0:0", SYSINFO), output=bundle.path / "out")
    assert runtime("start", container).code == 0
    runtime.wait(container)
    assert (bundle.path / "out").read_text().splitlines() == ["signal 31", "signal 31"]


@pytest.mark.parametrize("user", [0, 1000])
@pytest.mark.parametrize("given", [True, False], ids=["has CAP_SYS_ADMIN", "has not"])
def test_capabilities_are_as_configured(runtime: Runtime, bundle: Bundle, host: Host, user: int, given: bool) -> None:
    """CAP_SYS_ADMIN, which loading the filter takes, is in no set of the program's unless it was asked for."""
    bundle.process["user"] = {"uid": user, "gid": user}
    bundle.process["noNewPrivileges"] = False
    names = ["CAP_KILL", *(["CAP_SYS_ADMIN"] if given else [])]
    bundle.process["capabilities"] = dict.fromkeys(
        ("bounding", "permitted", "effective", "inheritable", "ambient"), names)
    seen_sets = {}
    for profile in (None, allowing(rule("uname"))):
        bundle.linux.pop("seccomp", None)
        if profile:
            bundle.linux["seccomp"] = profile
        result = runtime.run(bundle, "grep -E 'Cap|Seccomp:' /proc/self/status")
        seen_sets[bool(profile)] = result.lines
    assert seen_sets[True][:5] == seen_sets[False][:5]
    assert int(seen_sets[True][1].split()[1], 16) == (1 << 5 | (1 << 21 if given else 0))
    assert [lines[5] for lines in seen_sets.values()] == ["Seccomp:\t0", "Seccomp:\t2"]


def test_start_hooks_are_confined(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Programs of startContainer hooks are the image's: the filter is loaded before them."""
    script = "grep Seccomp: /proc/self/status >/mnt/seen; chmod 700 /mnt 2>>/mnt/seen"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script]}
    bundle.config["hooks"] = {"startContainer": [hook]}
    place = bundle.path / "place"
    place.mkdir()
    bundle.mount(place, "/mnt")
    bundle.linux["seccomp"] = allowing(rule("chmod fchmodat fchmodat2"))
    result = runtime.run(bundle, "echo ran")
    assert (place / "seen").read_text() == "Seccomp:\t2\nchmod: /mnt: Operation not permitted\n", result


def test_with_a_user_namespace(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """There the init's CAP_SYS_ADMIN is the namespace's, which is enough."""
    bundle.namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 70000}]
    bundle.process["noNewPrivileges"] = False
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert probe(runtime, bundle, allowing(rule("uname", errnoRet=99)), UNAME) == ["EADDRNOTAVAIL"]


# exec


@pytest.mark.parametrize("flag", [True, False], ids=["no new privileges", "new privileges"])
def test_exec_is_confined_too(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle, host: Host,
                              flag: bool) -> None:
    """The container's filter is for every process of it: a program of exec's has it from its first instruction."""
    bundle.process["noNewPrivileges"] = flag
    bundle.linux["seccomp"] = allowing(rule("uname", errnoRet=99), rule("sysinfo", "KILL"))
    install(bundle).args("sleep", "100")
    for one in (runtime, make_runtime("runc")):
        container = one.create(bundle)
        assert one("start", container).code == 0
        found = seen(one("exec", container, "/probe", UNAME, SYSINFO, GETRUSAGE))
        assert found == ["EADDRNOTAVAIL", "signal 31", "EFAULT"]
        status = one("exec", "--user", "1000:1000", container, "grep", "-E", "Seccomp:|CapPrm", "/proc/self/status")
        assert status.lines == ["CapPrm:\t0000000000000000", "Seccomp:\t2"], status
        assert one("delete", "--force", container).code == 0


# What is refused


@pytest.mark.parametrize(("profile", "message"), [
    (denying("ERRNO", names=BASIC.replace("execve ", "")),
     "/linux/seccomp: SCMP_ACT_ERRNO for execve, by which the program is started (allow execve)"),
    (allowing(rule("execve", "KILL")),
     "/linux/seccomp: SCMP_ACT_KILL for execve, by which the program is started (allow execve)"),
    (allowing(architectures=["SCMP_ARCH_M68K"]), "/linux/seccomp/architectures/0: libseccomp "),
    (allowing(*(rule("dup", "ERRNO", (0, "MASKED_EQ", 0xFFFF0000FFFF, n << 32 | n), errnoRet=n % 9 + 1)
                for n in range(700))),
     "/linux/seccomp/syscalls: the filter has "),
], ids=["execve not allowed", "execve forbidden", "unknown architecture", "too large"])
def test_what_is_refused(runtime: Runtime, bundle: Bundle, host: Host, profile: dict[str, Any], message: str) -> None:
    """One line with the place in config.json, and nothing is left."""
    bundle.linux["seccomp"] = profile
    result = runtime.run(bundle, "true")
    assert result.code == 1 and len(result.errors) == 1 and message in result.err, result


def test_execve_killed_by_a_condition(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """What can't be foreseen is told by `start`: the init was killed before it became the program.

    As long as its parent has not waited for it; here that is us.
    """
    bundle.linux["seccomp"] = allowing(rule("execve", "KILL_PROCESS", (1, "GT", 0)))
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        container = runtime.create(bundle.args("true"))
        pid = runtime.state(container)["pid"]
        result = runtime("start", container)
        os.waitpid(pid, 0)
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0)
    assert result.code == 1, result
    assert "was killed by its seccomp profile" in result.err and "/linux/seccomp" in result.err, result


def test_without_libseccomp(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """One line with the remedy; a profile that was compiled before needs no library."""
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    hide = "for f in /usr/lib/*/libseccomp.so.2* /lib/*/libseccomp.so.2*; do mount --bind $0 $f; done 2>&1; "
    bundle.linux["seccomp"] = allowing(rule("uname", errnoRet=1 + hash(str(tmp_path)) % 4000))
    bundle.args("true").save()
    words = runtime.command("run", "--bundle", bundle.path, runtime.new_id())
    done = subprocess.run(["unshare", "--mount", "sh", "-c", hide + 'exec "$@"', empty, *words],
                          capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith(
        "/linux/seccomp: libseccomp.so.2 is not installed: a seccomp profile can't be compiled "
        "(install libseccomp (Debian: apt-get install libseccomp2))"), done


# features


def test_features(runtime: Runtime) -> None:
    """features-linux.md, seccomp: what a profile may ask for; beside runc's list, whose library is the same."""
    ours = json.loads(runtime("features").out)
    theirs = json.loads(subprocess.run(["runc", "features"], capture_output=True, check=True).stdout)
    mine, other = ours["linux"]["seccomp"], theirs["linux"]["seccomp"]
    assert mine["enabled"] is True
    assert set(mine["actions"]) == set(other["actions"])
    assert set(mine["operators"]) == set(other["operators"])
    assert set(mine["archs"]) >= set(other["archs"])
    assert set(mine["supportedFlags"]) <= set(mine["knownFlags"])
    assert "SECCOMP_FILTER_FLAG_SPEC_ALLOW" in mine["supportedFlags"]
    key = "io.github.seccomp.libseccomp.version"
    assert ours["annotations"][key] == theirs["annotations"][key]
