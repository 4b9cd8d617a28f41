# SPDX-License-Identifier: Apache-2.0
"""config.md, Process: what the kernel keeps for a program: limits, scheduling, keyring, signals, descriptors."""

from __future__ import annotations

import os
import platform
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import GLIBCS_OWN, Bundle, Host, Result, Runtime

from pyrunc.linux.syscall import call

PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct attr { unsigned size, policy; unsigned long long flags; int nice; unsigned priority;
              unsigned long long runtime, deadline, period; unsigned min, max; };

int main(int argc, char **argv)
{
    if (argc < 2) return 2;
    if (!strcmp(argv[1], "sched")) {
        struct attr a = {0};
        if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0)) return 1;
        printf("%u %d %u %llu ", a.policy, a.nice, a.priority, a.flags);
        printf("%llu %llu %llu\n", a.runtime, a.deadline, a.period);
    } else if (!strcmp(argv[1], "io")) {
        printf("%d\n", (int)syscall(SYS_ioprio_get, 1, 0));
    } else if (!strcmp(argv[1], "memory")) {
        int mode = -1;
        unsigned long nodes[16] = {0};
        if (syscall(SYS_get_mempolicy, &mode, nodes, 1024, 0, 0)) return 1;
        printf("%#x %#lx\n", mode, nodes[0]);
    } else if (!strcmp(argv[1], "keyring")) {
        char text[256];
        long key = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, -3, 0);
        if (key < 0 || syscall(SYS_keyctl, KEYCTL_DESCRIBE, key, text, sizeof text) < 0) return 1;
        puts(text);
    } else if (!strcmp(argv[1], "fds")) {
        for (int fd = 0; fd < 4096; fd++) {
            char name[32], path[4096];
            if (fcntl(fd, F_GETFD) < 0) continue;
            snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
            long n = readlink(name, path, sizeof path - 1);
            path[n < 0 ? 0 : n] = 0;
            dprintf(argc > 2 ? open(argv[2], O_WRONLY | O_APPEND | O_CREAT, 0666) : 1, "%d %s\n", fd, path);
            if (argc > 2) closefrom(4000);
        }
    }
    return 0;
}
"""

# Lower than what root has anywhere; RTPRIO and NICE can't be raised without CAP_SYS_RESOURCE, but be shown as 0.
LIMITS = {
    "RLIMIT_CPU": ("Max cpu time", 1111), "RLIMIT_FSIZE": ("Max file size", 1 << 30),
    "RLIMIT_DATA": ("Max data size", 3 << 30), "RLIMIT_STACK": ("Max stack size", 7 << 20),
    "RLIMIT_CORE": ("Max core file size", 4096), "RLIMIT_RSS": ("Max resident set", 5 << 30),
    "RLIMIT_NPROC": ("Max processes", 2222), "RLIMIT_NOFILE": ("Max open files", 333),
    "RLIMIT_MEMLOCK": ("Max locked memory", 8192), "RLIMIT_AS": ("Max address space", 6 << 30),
    "RLIMIT_LOCKS": ("Max file locks", 44), "RLIMIT_SIGPENDING": ("Max pending signals", 555),
    "RLIMIT_MSGQUEUE": ("Max msgqueue size", 6666), "RLIMIT_NICE": ("Max nice priority", 0),
    "RLIMIT_RTPRIO": ("Max realtime priority", 0), "RLIMIT_RTTIME": ("Max realtime timeout", 777777),
}


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static program that prints what the kernel answers."""
    path = tmp_path_factory.mktemp("probe")
    (path / "probe.c").write_text(PROBE)
    subprocess.run(["cc", "-O1", "-static", "-o", path / "probe", path / "probe.c"], check=True)
    return path / "probe"


def ask(runtime: Runtime, bundle: Bundle, probe: Path, *words: str) -> Result:
    bundle.mount(probe, "/probe", options=["bind", "ro"])
    result = runtime.run(bundle.args("/probe", *words))
    bundle.config["mounts"].pop()
    return result


def through_shell(runtime: Runtime, bundle: Bundle, prefix: str, *options: str) -> Result:
    """`run`, started by a shell that has executed `prefix` in its own process before."""
    bundle.save()
    command = runtime.command("run", *options, "--bundle", bundle.path, runtime.new_id())
    done = subprocess.run(["bash", "-c", f'{prefix}\nexec "$@"', "bash", *command], capture_output=True, text=True,
                          timeout=60)
    return Result(done.returncode, done.stdout, done.stderr)


# Limits

def test_all_sixteen_rlimits(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Seen in /proc/self/limits: soft and hard, each by its own number."""
    bundle.process["rlimits"] = [{"type": name, "soft": max(value - 1, 0), "hard": value}
                                 for name, (_, value) in LIMITS.items()]
    result = runtime.run(bundle.args("cat", "/proc/self/limits"))
    assert result.code == 0, result
    for title, value in LIMITS.values():
        (line,) = [line for line in result.lines if line.startswith(title)]
        assert line[len(title):].split()[:2] == [str(max(value - 1, 0)), str(value)], line
    assert len(result.lines) == 1 + len(LIMITS)


def test_unlimited_is_the_largest_number(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    assert resource.getrlimit(resource.RLIMIT_CPU)[1] == resource.RLIM_INFINITY
    bundle.process["rlimits"] = [{"type": "RLIMIT_CPU", "soft": 5000, "hard": 2**64 - 1}]
    result = runtime.run(bundle, "grep cpu /proc/self/limits")
    assert result.lines[0].split()[3:5] == ["5000", "unlimited"]


def test_rlimits_not_given_stay(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.process["rlimits"] = []
    own = [line for line in Path("/proc/self/limits").read_text().splitlines() if "Max open files" in line]
    assert [line for line in runtime.run(bundle, "cat /proc/self/limits").lines if "Max open files" in line] == own


@pytest.mark.parametrize(("limit", "pointer"), [
    ({"type": "RLIMIT_NOFILE", "soft": 20, "hard": 10}, "/process/rlimits/0"),
    ({"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}, "/process/rlimits/0/type"),
])
def test_a_limit_that_is_none(runtime: Runtime, bundle: Bundle, host: Host, limit: dict[str, Any],
                              pointer: str) -> None:
    bundle.process["rlimits"] = [limit]
    result = runtime.run(bundle, "true")
    assert result.code == 1 and len(result.errors) == 1 and pointer in result.err, result


def test_oom_score(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.process["oomScoreAdj"] = 345
    assert runtime.run(bundle, "cat /proc/self/oom_score_adj").lines == ["345"]
    del bundle.process["oomScoreAdj"]
    assert runtime.run(bundle, "cat /proc/self/oom_score_adj").out == Path("/proc/self/oom_score_adj").read_text()


# Scheduling and memory

@pytest.mark.parametrize(("wanted", "seen"), [
    (None, "0 {own} 0 0"),
    ({"policy": "SCHED_OTHER", "nice": 7}, "0 7 0 0"),
    ({"policy": "SCHED_BATCH", "nice": -5}, "3 -5 0 0"),
    ({"policy": "SCHED_IDLE"}, "5 {own} 0 0"),
    ({"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"]}, "3 0 0 1"),
])
def test_scheduler(runtime: Runtime, bundle: Bundle, host: Host, probe: Path, wanted: dict[str, Any] | None,
                   seen: str) -> None:
    if wanted is not None:
        bundle.process["scheduler"] = wanted
    result = ask(runtime, bundle, probe, "sched")
    own = os.getpriority(os.PRIO_PROCESS, 0)  # what it leaves alone is the caller's, who may be a nice one
    assert result.code == 0 and " ".join(result.out.split()[:4]) == seen.format(own=own), result


@pytest.mark.parametrize(("wanted", "seen"), [
    ({"policy": "SCHED_FIFO", "priority": 10}, "1 0 10 0"),
    ({"policy": "SCHED_RR", "priority": 99}, "2 0 99 0"),
    ({"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 10_000_000, "period": 20_000_000},
     "6 0 0 0 1000000 10000000 20000000"),
])
def test_real_time_scheduler(runtime: Runtime, bundle: Bundle, host: Host, probe: Path, wanted: dict[str, Any],
                             seen: str) -> None:
    bundle.process["scheduler"] = wanted
    cgroup = Path(f"/sys/fs/cgroup/cpu/{runtime.new_id()}")
    if Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists():  # cgroup v1 wants a budget for FIFO and RR
        cgroup.mkdir()
        (cgroup / "cpu.rt_runtime_us").write_text("10000")
    bundle.linux["cgroupsPath"] = f"/{cgroup.name}"
    try:
        result = ask(runtime, bundle, probe, "sched")
    finally:
        if cgroup.exists():
            cgroup.rmdir()
    assert result.code == 0 and result.out.startswith(seen), result


def test_a_scheduler_the_kernel_refuses(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.process["scheduler"] = {"policy": "SCHED_FIFO", "priority": 100}
    result = runtime.run(bundle, "true")
    assert result.code == 1 and len(result.errors) == 1, result
    assert "/process/scheduler" in result.err


@pytest.mark.parametrize(("wanted", "seen"), [
    ({"class": "IOPRIO_CLASS_BE", "priority": 3}, 2 << 13 | 3),
    ({"class": "IOPRIO_CLASS_RT", "priority": 6}, 1 << 13 | 6),
    ({"class": "IOPRIO_CLASS_IDLE", "priority": 0}, 3 << 13),
])
def test_io_priority(runtime: Runtime, bundle: Bundle, host: Host, probe: Path, wanted: dict[str, Any],
                     seen: int) -> None:
    before = int(ask(runtime, bundle, probe, "io").out)
    bundle.process["ioPriority"] = wanted
    assert int(ask(runtime, bundle, probe, "io").out) == seen != before


@pytest.mark.parametrize(("wanted", "seen"), [
    (None, "0 0"),
    ({"mode": "MPOL_BIND", "nodes": "0"}, "0x2 0x1"),
    ({"mode": "MPOL_INTERLEAVE", "nodes": "0-0", "flags": ["MPOL_F_STATIC_NODES"]}, "0x8003 0x1"),
    ({"mode": "MPOL_LOCAL"}, "0x4 0"),
])
def test_memory_policy(runtime: Runtime, bundle: Bundle, host: Host, probe: Path, wanted: dict[str, Any] | None,
                       seen: str) -> None:
    if wanted is not None:
        bundle.linux["memoryPolicy"] = wanted
    result = ask(runtime, bundle, probe, "memory")
    assert result.code == 0 and result.out.strip() == seen, result


def test_personality(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """personality(2): a program of LINUX32 sees the machine's 32-bit name."""
    assert runtime.run(bundle, "uname -m").lines == [platform.machine()]
    bundle.linux["personality"] = {"domain": "LINUX32"}
    narrow = {"x86_64": "i686", "aarch64": "armv8l"}[platform.machine()]
    assert runtime.run(bundle, "uname -m; cat /proc/self/personality").lines == [narrow, "00000008"]
    bundle.linux["personality"]["flags"] = ["ADDR_NO_RANDOMIZE"]  # the specification knows none yet
    result = runtime.run(bundle, "cat /proc/self/personality")
    assert result.lines == ["00000008"] and "/linux/personality/flags" in result.err and "warning" in result.err


def test_a_session_keyring_of_its_own(runtime: Runtime, bundle: Bundle, host: Host, probe: Path) -> None:
    """Named after the container, searchable by its processes; not there with --no-new-keyring."""
    own = ask(runtime, bundle, probe, "keyring").out.strip()
    kind, uid, _, permissions, name = own.split(";")
    assert (kind, uid, name) == ("keyring", "0", f"_ses.{runtime.ids[-1]}")
    assert int(permissions, 16) & 0x080000
    bundle.mount(probe, "/probe", options=["bind", "ro"]).args("/probe", "keyring")
    kept = runtime.run(bundle, "", "--no-new-keyring")
    assert f"_ses.{runtime.ids[-1]}" not in kept.out


# Signals

def test_signals_are_as_a_program_expects_them(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Nothing ignored, nothing blocked, nothing pending, although the caller had it so."""

    def disturb() -> None:
        for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD, 40):
            signal.signal(number, signal.SIG_IGN)
        for number in GLIBCS_OWN:  # as GNU make does to what it starts
            call("rt_sigaction", number, (1).to_bytes(8, "little") + bytes(24), None, 8)
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, 36))

    result = runtime.run(bundle.args("cat", "/proc/self/status"), restore_signals=False, preexec_fn=disturb)
    assert result.code == 0, result
    seen = {line.split(":")[0]: line.split()[-1] for line in result.lines if line.startswith(("Sig", "Shd"))}
    assert {key: seen[key] for key in ("SigPnd", "SigBlk", "SigIgn", "SigCgt")} == dict.fromkeys(
        ("SigPnd", "SigBlk", "SigIgn", "SigCgt"), "0" * 16)


# Descriptors

FIFTY = 'for n in $(seq 10 59); do eval "exec $n</etc"; done'


@pytest.mark.parametrize("mode", ["run", "create"])
def test_no_descriptor_of_the_callers(runtime: Runtime, bundle: Bundle, host: Host, probe: Path, mode: str,
                                      tmp_path: Path) -> None:
    bundle.mount(probe, "/probe", options=["bind", "ro"]).args("/probe", "fds").save()
    if mode == "run":
        result = through_shell(runtime, bundle, FIFTY)
        assert result.code == 0, result
        seen = result.out
    else:
        container = runtime.new_id()
        output = tmp_path / "out"
        command = runtime.command("create", "--bundle", bundle.path, container)
        with open(output, "wb") as file:
            subprocess.run(["bash", "-c", f'{FIFTY}\nexec "$@"', "bash", *command], stdout=file, check=True, timeout=60,
                           stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert runtime("start", container).code == 0
        runtime.wait(container)
        seen = output.read_text()
    assert [line.split()[0] for line in seen.splitlines()] == ["0", "1", "2"]


@pytest.mark.parametrize(("count", "fds"), [(0, []), (1, ["3"]), (2, ["3", "4"]), (3, ["3", "4", "5"])])
def test_preserve_fds_passes_exactly_these(runtime: Runtime, bundle: Bundle, host: Host, probe: Path, tmp_path: Path,
                                           count: int, fds: list[str]) -> None:
    for name in "3456":
        (tmp_path / f"fd{name}").write_text(name)
    prefix = " ".join(["exec", *(f"{n}<{tmp_path}/fd{n}" for n in "3456")])
    bundle.mount(probe, "/probe", options=["bind", "ro"]).args("/probe", "fds")
    result = through_shell(runtime, bundle, prefix, "--preserve-fds", str(count))
    assert result.code == 0, result
    assert [line.split()[0] for line in result.lines] == ["0", "1", "2", *fds]
    assert [line.rpartition("/")[2] for line in result.lines[3:]] == [f"fd{n}" for n in fds]


def test_preserve_fds_leaves_holes(runtime: Runtime, bundle: Bundle, host: Host, probe: Path, tmp_path: Path) -> None:
    """Podman's --preserve-fd 5,7 comes as --preserve-fds 5: what is ours at 3, 4 and 6 must not be there instead."""
    for name in "58":
        (tmp_path / f"fd{name}").write_text(name)
    bundle.mount(probe, "/probe", options=["bind", "ro"]).args("/probe", "fds")
    opened = f"exec 5<{tmp_path}/fd5 7<&5 8<{tmp_path}/fd8"
    result = through_shell(runtime, bundle, opened, "--preserve-fds", "5")
    assert result.code == 0, result
    assert [line.split()[0] for line in result.lines] == ["0", "1", "2", "5", "7"]
    assert [line.rpartition("/")[2] for line in result.lines[3:]] == ["fd5", "fd5"]


def test_preserve_fds_that_are_not_there(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    result = runtime.run(bundle, "true", "--preserve-fds", "5")
    assert result.code == 1 and "descriptor 3 is not open" in result.err
    result = through_shell(runtime, bundle, "exec 3<&0 4<&0", "--preserve-fds", "3")
    assert result.code == 1 and "--preserve-fds 3: descriptor 5 is not open" in result.err


@pytest.mark.parametrize("closed", ["<&-", ">&- 2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_started_with_standard_descriptors_closed(runtime: Runtime, bundle: Bundle, host: Host, probe: Path,
                                                  tmp_path: Path, closed: str) -> None:
    """No descriptor of ours takes their place: what the program has as 0, 1, 2 is nothing, or /dev/null."""
    (tmp_path / "shared").mkdir()
    bundle.mount(probe, "/probe", options=["bind", "ro"]).mount(tmp_path / "shared", "/mnt")
    bundle.args("/probe", "fds", "/mnt/seen")
    result = through_shell(runtime, bundle, f"exec {closed}")
    assert result.code == 0, result
    seen = dict(line.split(" ", 1) for line in (tmp_path / "shared/seen").read_text().splitlines())
    for number, sign in (("0", "<&-"), ("1", " >&-"), ("2", "2>&-")):
        if sign in " " + closed:
            assert seen.get(number, "/dev/null") in ("/dev/null", "/mnt/seen"), seen


def test_output_to_a_full_device(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The program's error is the program's; that of our own output is ours."""
    bundle.args("echo hello; exit $?").save()
    with open("/dev/full", "wb") as full:
        done = subprocess.run(runtime.command("run", "--bundle", bundle.path, runtime.new_id()), stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == 1 and "No space left" in done.stderr
        container = runtime.create(bundle)
        done = subprocess.run(runtime.command("state", container), stdout=full, stderr=subprocess.PIPE, text=True,
                              timeout=60)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done


def test_stdio_belongs_to_the_user(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """A user may open /dev/stdout again, as programs that log there do; /dev/null stays root's."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.args("echo again >> /dev/stdout; stat -L -c %u /dev/stdin").save()
    output = tmp_path / "out"
    with open(output, "ab") as file:
        os.fchmod(file.fileno(), 0o600)
        done = subprocess.run(runtime.command("run", "--bundle", bundle.path, runtime.new_id()), stdout=file,
                              stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0
    assert output.read_text() == "again\n0\n"
    assert output.stat().st_uid == 1000 and os.stat("/dev/null").st_uid == 0
