# SPDX-License-Identifier: Apache-2.0
"""CVE-2019-5736 and its like: a container that overwrites the runtime, or looks into it, while it enters.

Nothing inside may open the host's interpreter, libraries or launcher for writing through any link of
/proc: not of a process that creates or joins, not in a shared pid namespace, not later.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import Attack, checksums, host_programs
from snooping import SEALED, Snooped, call, prepare, snooping
from support import Bundle, Host, Runtime, wait_for

#: The interpreter runs as it is, from a file of the host's: without the launcher there is no seal.
UNSEALED = ""
DUMPABLE = """
from pyrunc.linux import process as k
plain = k.prctl
k.prctl = lambda option, *rest: 0 if option == k.PR_SET_DUMPABLE else plain(option, *rest)
"""
POWERFUL = ("CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH")
TRIES = 12


def tries(long: bool) -> int:
    return 1000 if long else TRIES


@pytest.mark.attack("CVE-2019-5736", "the container's program is /proc/self/exe, or a script that names it")
def test_cve_2019_5736_the_runtime_is_not_its_own_program(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                          attacker: Path) -> None:
    before = checksums(runtime)
    prepare(bundle, attacker)
    (bundle.rootfs / "bin" / "self").symlink_to("/proc/self/exe")
    script = bundle.rootfs / "bin" / "script"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    sleeper = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", sleeper).code == 0
    reached = False
    for program in ("/proc/self/exe", "/bin/self", "/bin/script"):
        bundle.process["args"] = [program, "--version"]
        for result in (runtime.run(bundle), runtime("exec", sleeper, program, "--version")):
            # The copy in memory starts there, and finds no libpython.
            assert result.code != 0, result
            reached = reached or "spec: 1" in result.out
    attack.on(runtime, reached or checksums(runtime) != before)
    # A program that enters as it is runs there, as the host's file that it is.
    pid = str(runtime.state(sleeper)["pid"])
    own = f"{attacker.stat().st_dev}:{attacker.stat().st_ino}\n"
    entered = [subprocess.run([attacker, "enter", pid, program, "self"], capture_output=True, text=True).stdout
               for program in ("/proc/self/exe", "/bin/self", "/bin/attacker")]
    assert entered[2] and entered[2] != own  # the control: the image's copy
    attack.on("a program that just joins the namespaces", entered[:2] == [own, own])


def until_written(victim: Runtime, bundle: Bundle, act: Callable[[str], object], files: set[Path], count: int) -> bool:
    """Whether the attacker could open one of `files` for writing while `act` was done `count` times."""
    with snooping(victim, bundle) as attack:
        for _ in range(count):
            act(attack.container)
            if attack.look().writable_of(files):
                break
    assert attack.found.runtime_was_seen(), attack.found.seen
    return bool(attack.found.writable_of(files))


def copy_of_python(victim: Runtime) -> set[Path]:
    """The file that a weakened runtime runs from."""
    return {Path(victim.path).parent / "python"}


def visit(victim: Runtime) -> Callable[[str], object]:
    return lambda container: call(victim, "exec", container, "/bin/attacker", "socket", "1")


@pytest.mark.attack("CVE-2019-5736", "a loop inside opens /proc/PID/exe, map_files and fd of what exec brings in, "
                                     "and writes to them later")
@pytest.mark.parametrize("capabilities", [(), POWERFUL], ids=["default", "CAP_SYS_PTRACE"])
def test_cve_2019_5736_exec_into_a_hostile_container(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                     runc: Runtime, weakened: Callable[[str], Runtime],
                                                     attacker: Path, long: bool,
                                                     capabilities: tuple[str, ...]) -> None:
    before = checksums(runtime)
    prepare(bundle, attacker, *capabilities)
    with snooping(runtime, bundle) as attempt:
        for number in range(tries(long)):
            program = ("/bin/attacker", "socket", "1") if number % 2 else ("/proc/self/exe",)
            runtime("exec", attempt.container, *program)
    found = attempt.found
    assert found.runtime_was_seen()
    attack.on(runtime, bool(found.writable_of(host_programs(runtime))) or checksums(runtime) != before)
    assert found.opened_of_the_runtime("map_files") == []  # the host's libpython among them
    exes = found.opened_of_the_runtime("exe")
    # By then the link may name what was executed meanwhile; the file that was opened is the copy still.
    assert all(line.split()[3] == str(SEALED) for line in exes), exes
    # The control: with the capability the sealed copy is what it gets, without it nothing.
    assert exes if capabilities else ("exe", "memfd:pyrunc", "13") in found.refused
    attack.on(runc, until_written(runc, bundle, visit(runc), {Path(runc.path)}, TRIES))
    victim = weakened(UNSEALED if capabilities else DUMPABLE)
    attack.on("pyrunc without the seal" + ("" if capabilities else ", dumpable"),
              until_written(victim, bundle, visit(victim), copy_of_python(victim), 300))


@pytest.mark.attack("CVE-2019-5736", "the same with the host's pid namespace, or another container's, while containers "
                                     "are created")
@pytest.mark.parametrize(("whose", "capabilities"), [("host", ()), ("other", ()), ("other", POWERFUL)],
                         ids=["host", "other", "other, CAP_SYS_PTRACE"])
def test_cve_2019_5736_shared_pid_namespaces(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                             runc: Runtime, weakened: Callable[[str], Runtime], attacker: Path,
                                             long: bool, whose: str, capabilities: tuple[str, ...]) -> None:
    before = checksums(runtime)
    prepare(bundle, attacker, *capabilities)
    if whose == "host":
        bundle.without("pid")
    other = Bundle(bundle.path, copy.deepcopy(bundle.config)).args("/bin/attacker", "socket", "1")

    def create(victim: Runtime, container: str) -> None:
        if whose == "other":
            other.namespace("pid", f"/proc/{victim.state(container)['pid']}/ns/pid")
        other.save()
        guest = victim.new_id()
        call(victim, "create", "--bundle", other.path, guest)
        call(victim, "start", guest)
        call(victim, "delete", "--force", guest)
        call(victim, "exec", container, "/bin/attacker", "socket", "1")

    with snooping(runtime, bundle) as attempt:
        for _ in range(250 if long else 6):
            create(runtime, attempt.container)
    assert attempt.found.runtime_was_seen()
    assert capabilities or attempt.found.opened_of_the_runtime() == []
    attack.on(runtime, bool(attempt.found.writable_of(host_programs(runtime))) or checksums(runtime) != before)
    attack.on(runc, until_written(runc, bundle, lambda container: create(runc, container), {Path(runc.path)}, 6))
    victim = weakened(UNSEALED if capabilities else DUMPABLE)
    attack.on("pyrunc without the seal" + ("" if capabilities else ", dumpable"),
              until_written(victim, bundle, lambda container: create(victim, container), copy_of_python(victim), 100))


@pytest.mark.attack("CVE-2016-9962", "a process inside traces the one that exec brings in, or takes its descriptors")
@pytest.mark.parametrize("kind", ["default", "user namespace, CAP_SYS_PTRACE"])
def test_cve_2016_9962_exec_cannot_be_traced(runtime: Runtime, make_bundle: Callable[[str], Bundle], host: Host,
                                             attack: Attack, runc: Runtime, weakened: Callable[[str], Runtime],
                                             attacker: Path, tmp_path: Path, long: bool, kind: str) -> None:
    """Not by root inside with the default capabilities, nor with all of them in a user namespace.

    Descriptors, memory, environment, tracing: the host's are behind each.
    """
    bundle = prepare(make_bundle("bundle"), attacker, *(() if kind == "default" else ("CAP_SYS_PTRACE",)))
    if kind != "default":
        in_a_user_namespace(bundle, tmp_path)

    def opened(victim: Runtime, bundle: Bundle, count: int) -> bool:
        with snooping(victim, bundle) as attempt:
            for _ in range(count):
                call(victim, "exec", attempt.container, "/bin/attacker", "socket", "1")
                if attempt.look().opened_of_the_runtime():
                    break
        assert attempt.found.runtime_was_seen()
        if victim is runtime:
            assert {("ptrace", "memfd:pyrunc", "1"), ("fd", "memfd:pyrunc", "13")} <= attempt.found.refused
        return bool(attempt.found.opened_of_the_runtime())

    attack.on(runtime, opened(runtime, bundle, tries(long)))
    reachable(tmp_path)
    attack.on(runc, opened(runc, bundle, TRIES))
    if kind == "default":
        attack.on("pyrunc that stays dumpable", opened(weakened(DUMPABLE), bundle, 300))
    else:
        # What the user namespace keeps it from: tracing whoever enters.  What it gains by that is in the next test.
        plain = prepare(make_bundle("plain"), attacker, "CAP_SYS_PTRACE")
        attack.on("a container without a user namespace", opened(weakened(UNSEALED), plain, TRIES))


#: The process is among the container's while it still has all the runtime has, as with runc.
DROPS_INSIDE = """
from pyrunc.process import ProcessPlan
drop, limit = ProcessPlan.drop_privileges, ProcessPlan.apply_limits
def drop_and_limit(self):
    drop(self)
    limit(self)
ProcessPlan.drop_privileges = lambda self: None
ProcessPlan.apply_limits = drop_and_limit
"""
#: The process has CAP_SYS_ADMIN until it has loaded its filter.
CONFINED_LATE = """
from pyrunc.entering import EntryPlan
EntryPlan.confined_early = False
"""
#: What is loaded takes CAP_SYS_ADMIN, which the program doesn't get.
FILTER = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]}


@pytest.mark.attack("ptrace", "a container with CAP_SYS_PTRACE traces the process of exec while it has more than that")
@pytest.mark.parametrize("kind", ["plain", "seccomp", "another user"])
def test_who_may_trace_gains_nothing_by_it(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack, runc: Runtime,
                                           weakened: Callable[[str], Runtime], attacker: Path, long: bool,
                                           kind: str) -> None:
    """Without a user namespace that capability is enough to trace whoever is seen.

    So all that is seen has the program's own ids, capabilities, root and streams, and nothing of the runtime's.
    """
    prepare(bundle, attacker, "CAP_SYS_PTRACE")
    bundle.process["noNewPrivileges"] = False
    if kind == "seccomp":
        bundle.linux["seccomp"] = FILTER
    options = ("--user", "1000:1000") if kind == "another user" else ()

    def gained(victim: Runtime, count: int) -> set[str]:
        """The permitted capabilities of what was traced beyond the container's."""
        with snooping(victim, bundle) as attempt:
            own = int(re.findall(r"CapPrm:\s*(\w+)", Path(f"/proc/{victim.state(attempt.container)['pid']}/status")
                                 .read_text())[0], 16)
            for _ in range(count):
                call(victim, "exec", *options, attempt.container, "/bin/attacker", "socket", "1")
                masks = attempt.look().held_of_the_runtime("CapPrm")
                if victim is not runtime and any(int(mask, 16) & ~own for mask in masks):
                    break
        found.append(attempt.found)
        return {mask for mask in attempt.found.held_of_the_runtime("CapPrm") if int(mask, 16) & ~own}

    found: list[Snooped] = []
    attack.on(runtime, bool(gained(runtime, 1000 if long else 40)))
    held = found[0]
    assert held.held_of_the_runtime("CapPrm"), held.seen  # the control: it was traced while it still was the runtime's
    ids = "1000 1000 1000 1000" if kind == "another user" else "0 0 0 0"
    assert (held.held_of_the_runtime("Uid"), held.held_of_the_runtime("Gid")) == ({ids}, {ids})
    assert held.held_of_the_runtime("root") | held.held_of_the_runtime("cwd") == {"inside"}
    # Streams: what the test has given; the channel and, at its beginning, what says that the other one is alive.
    others = {name for name in held.held_of_the_runtime("fd") if name not in ("socket", "pipe")}
    assert all(name.startswith(("/dev/null", str(runtime.root.parent / "out-"))) for name in others), others
    attack.on(runc, bool(gained(runc, TRIES * 4)))
    attack.on("pyrunc that gives its capabilities up inside",
              bool(gained(weakened(CONFINED_LATE if kind == "seccomp" else DROPS_INSIDE), 300)))


def in_a_user_namespace(bundle: Bundle, tmp_path: Path) -> None:
    """Make the container's root an ordinary user of the host's, and the bundle its own."""
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.namespace("user")
    for path in (bundle.rootfs, *bundle.rootfs.rglob("*")):
        os.lchown(path, 100000, 100000)
    reachable(tmp_path)


def reachable(tmp_path: Path) -> None:
    """Let the container's root come to its bundle; another pytest that begins closes the directory of all of them."""
    for path in (tmp_path, *tmp_path.parents):
        if path != Path("/") and path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o011)


@pytest.mark.attack("CVE-2016-9962", "an ordinary user looks into an init that waits for start")
def test_cve_2016_9962_a_created_init_cannot_be_looked_into(runtime: Runtime, bundle: Bundle, host: Host,
                                                            attack: Attack, runc: Runtime,
                                                            weakened: Callable[[str], Runtime]) -> None:
    uid = 4321
    bundle.process["user"] = {"uid": uid, "gid": uid}
    bundle.process["capabilities"] = {}

    def works(victim: Runtime) -> bool:
        pid = victim.state(victim.create(bundle))["pid"]
        assert f"\nUid:\t{uid}\t" in Path(f"/proc/{pid}/status").read_text()
        looked = subprocess.run(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--bounding-set=-all",
                                 "ls", f"/proc/{pid}/fd"], capture_output=True, text=True)
        return looked.returncode == 0

    attack.on(runtime, works(runtime))
    attack.on(runc, works(runc))
    attack.on("pyrunc that says it is dumpable", works(weakened(
        "from pyrunc.linux import process as k\nplain = k.prctl\n"
        "k.prctl = lambda option, *rest: plain(option, 1) if option == k.PR_SET_DUMPABLE else plain(option, *rest)")))


#: One who is nobody there writes down what he reads of others' command lines.
READER = """
echo >/tmp/reads
while [ ! -e /stop ]; do
    for file in /proc/[0-9]*/cmdline; do
        IFS= read -r line <$file && :
        case "$line" in *secret*|*pyrunc?*) echo "$line" >>/tmp/seen ;; esac
    done
done 2>/dev/null
"""
OPEN_ARGUMENTS = """
from pyrunc.linux import process as k
k.forget_arguments = lambda proc: None
"""


@pytest.mark.attack("command lines", "what `exec --env` was given is read by another user in the container, in /proc")
def test_the_runtimes_arguments_are_not_shown(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                              weakened: Callable[[str], Runtime]) -> None:
    """proc_pid_cmdline(5): readable by all, whatever a process is; the host's paths are in it, too."""
    (bundle.rootfs / "tmp").chmod(0o1777)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    seen = bundle.rootfs / "tmp" / "seen"

    def read(program: Runtime, count: int) -> list[str]:
        seen.unlink(missing_ok=True)
        container = program.create(bundle.args(READER))
        waiting = program("exec", container, "sh", "-c", "tr '\\000' ' ' </proc/1/cmdline")  # an init before start
        assert waiting.code == 0, waiting
        assert program("start", container).code == 0
        wait_for((bundle.rootfs / "tmp" / "reads").exists, "the reader")
        for _ in range(count):
            assert program("exec", "--user", "0", "--env", "A=secret", container, "true").code == 0
        assert program("delete", "--force", container).code == 0
        found = [waiting.out.strip(), *(seen.read_text().splitlines() if seen.exists() else ())]
        return [line for line in found if "secret" in line or str(program.root) in line]

    attack.on(runtime, bool(read(runtime, TRIES)))
    attack.on("pyrunc that leaves them", bool(read(weakened(OPEN_ARGUMENTS), TRIES)))
