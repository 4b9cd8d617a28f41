# SPDX-License-Identifier: Apache-2.0
"""Cgroups on the real kernel: made, joined, killed, frozen, removed, in each of the three set-ups.

A lane is a process in a mount namespace of its own where /sys/fs/cgroup is v2 alone (unified), v1
alone (legacy), or as a hybrid machine has it.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc import cgroup, cgroupfs, cgroupv2
from pyrunc.cgroup import Cgroup
from pyrunc.errors import ContainerError, KernelError
from pyrunc.linux import process as kernel
from pyrunc.linux.syscall import clone3

NAME = ""  # of the lane's cgroup, set in it
ROOT = Path("/sys/fs/cgroup")
LANES = {
    "hybrid": "",
    "legacy": "umount /sys/fs/cgroup/unified",
    "unified": "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup",
    "none": "umount -R /sys/fs/cgroup",
}

Scenario = Callable[[], None]


def run_in_lane(lane: str, scenario: Scenario, seconds: float = 60) -> None:
    """Run `scenario` in a process and mount namespace of its own; its failure is ours."""
    root_control = ROOT / "unified/cgroup.subtree_control"
    passed_on = root_control.read_text().split()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            global NAME
            NAME = f"/pyrunc-test-{os.getpid()}"
            kernel.unshare(kernel.CLONE_NEWNS)
            subprocess.run(["sh", "-ec", f"mount --make-rprivate /; {LANES[lane]}"], check=True)
            assert cgroup.mode() == lane.replace("none", "legacy")
            scenario()
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-60000:])
        os._exit(0)
    os.close(writer)
    text = b""
    with open(reader, "rb", buffering=0) as pipe:
        deadline = time.monotonic() + seconds
        while True:
            ready, _, _ = select.select([pipe], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                os.kill(pid, signal.SIGKILL)
                text = b"the scenario hangs"
                break
            piece = pipe.read(65536)
            if not piece:
                break
            text += piece
    os.waitpid(pid, 0)
    left = subprocess.run(["find", str(ROOT), "-maxdepth", "3", "-name", f"pyrunc-test-{pid}*"],
                          capture_output=True, text=True, check=True).stdout
    for name in set(root_control.read_text().split()) - set(passed_on):
        root_control.write_text(f"-{name}")  # as we found it
    if text or left:
        pytest.fail(text.decode() + left, pytrace=False)


def lanes(*names: str) -> Callable[[Scenario], Callable[[str], None]]:
    """Make a test of a scenario, once for each lane."""
    def decorate(scenario: Scenario) -> Callable[[str], None]:
        @pytest.mark.parametrize("lane", names)
        def test(lane: str) -> None:
            run_in_lane(lane, scenario)
        test.__doc__ = scenario.__doc__
        return test
    return decorate


EVERYWHERE = ("hybrid", "legacy", "unified")


@contextmanager
def made(name: str = "") -> Iterator[Cgroup]:
    """A cgroup of ours, killed and removed in the end whatever happened."""
    cg = cgroup.plan(f"{NAME}{name}", "unused")
    cg.create()
    try:
        yield cg
    finally:
        cg.signal_all(signal.SIGKILL)
        reap(cg)
        cg.destroy()


def reap(cg: Cgroup) -> None:
    def empty() -> bool:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
        return not cg.pids()

    wait_for(empty)


def spawn(cg: Cgroup, *command: str) -> int:
    """A process that joins `cg` and then executes."""
    pid = os.fork()
    if pid == 0:
        try:
            cg.add(0)
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    name = os.path.basename(command[0])
    wait_for(lambda: pid in cg.pids() and Path(f"/proc/{pid}/comm").read_text().strip() == name)
    return pid


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def own_cgroups(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}


# Made, joined, removed

@lanes(*EVERYWHERE)
def test_life() -> None:
    cg = cgroup.plan(f"{NAME}/sub/leaf", "x")
    assert cg.given == []
    cg.create()
    try:
        assert cg.directories() and all(os.path.isdir(path) for path in cg.directories())
        assert cg.pids() == [] and not cg.frozen() and cg.warnings == []
        pid = spawn(cg, "sleep", "60")
        found = own_cgroups(pid)
        assert {found[name] for name in cg.paths} == {f"{NAME}/sub/leaf"}
        cg.signal_all(signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        assert cg.pids() == []
    finally:
        cg.destroy()
        for path in cg.directories():
            assert not os.path.exists(path)
            os.rmdir(os.path.dirname(path))  # the parents stay, as with runc
            os.rmdir(os.path.dirname(os.path.dirname(path)))
    cg.destroy()  # nothing there is nothing to do


@lanes("hybrid", "legacy")
def test_v1_has_every_mounted_controller() -> None:
    mounted = [line.split(":")[1] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    with made() as cg:
        assert sorted(cg.paths) == sorted(name for name in mounted if name or cg.mode == "hybrid")


@lanes("hybrid")
def test_v1_cpuset_has_cpus_at_every_level() -> None:
    top = ROOT / "cpuset"
    outer = top / NAME[1:]
    outer.mkdir()
    try:
        assert (outer / "cpuset.cpus").read_text() == "\n"  # the control: a new one is empty
        with made("/a"):
            for directory in (outer, outer / "a"):
                for file in ("cpuset.cpus", "cpuset.mems"):
                    assert (directory / file).read_text() == (top / file).read_text() != "\n"
    finally:
        for path in cgroup.plan(NAME, "x").directories():
            os.rmdir(path)


@lanes("hybrid")
def test_v1_cpuset_keeps_what_the_parent_was_given() -> None:
    with made() as outer:
        Path(outer.paths["cpuset"], "cpuset.cpus").write_text("0")
        with made("/a") as inner:
            assert Path(inner.paths["cpuset"], "cpuset.cpus").read_text() == "0\n"


@lanes(*EVERYWHERE)
def test_an_empty_cgroup_that_was_there_serves_and_stays() -> None:
    with made() as given:
        cg = cgroup.plan(NAME, "x")
        assert cg.given == cg.directories() == given.directories()
        cg.create()
        pid = spawn(cg, "sleep", "60")
        again = Cgroup.from_data(cg.to_data())
        assert again.pids() == [pid]  # found empty, its processes are ours
        again.signal_all(signal.SIGKILL)
        reap(again)
        again.destroy()
        assert all(os.path.isdir(path) for path in given.directories())


@lanes(*EVERYWHERE)
def test_a_cgroup_with_a_process_in_it_is_refused() -> None:
    with made() as other:
        pid = spawn(other, "sleep", "60")
        cg = cgroup.plan(NAME, "x")
        recorded = cg.to_data()
        with pytest.raises(ContainerError, match=f"{NAME} is not empty: process {pid} is in it") as info:
            cg.create()
        assert info.value.pointer == "/linux/cgroupsPath"
        # A failed create owns nothing, nor does what was recorded before it: cleaning up spares the others.
        for again in (cg, Cgroup.from_data(recorded)):
            with pytest.raises(ContainerError, match="no cgroup that could be frozen"):
                again.freeze()
            assert again.pids() == []
            again.signal_all(signal.SIGTERM)
            again.signal_all(signal.SIGKILL)
            again.destroy()
        time.sleep(0.05)
        assert other.pids() == [pid]


@lanes(*EVERYWHERE)
def test_a_cgroup_with_a_process_below_it_is_refused() -> None:
    with made() as outer:
        with made("/inner") as inner:
            spawn(inner, "sleep", "60")
            with pytest.raises(ContainerError, match="is not empty"):
                cgroup.plan(NAME, "x").create()
        assert all(os.path.isdir(path) for path in outer.directories())


@lanes("hybrid", "legacy")
def test_v1_a_refused_create_takes_back_what_it_made() -> None:
    """Somebody has that place in the last of the hierarchies only."""
    cg = cgroup.plan(f"{NAME}/a/b", "x")
    last = cg.directories()[-1]
    other = Cgroup("legacy", {"one": last})
    other.create()
    spawn(other, "sleep", "60")
    cg = cgroup.plan(f"{NAME}/a/b", "x")
    with pytest.raises(ContainerError, match=f"cgroup {last} is not empty"):
        cg.create()
    assert [path for path in cg.directories() if os.path.exists(path.removesuffix("/a/b"))] == [last]
    cg.destroy()
    assert len(other.pids()) == 1
    other.signal_all(signal.SIGKILL)
    other.destroy()
    os.rmdir(os.path.dirname(last))
    os.rmdir(os.path.dirname(os.path.dirname(last)))


@lanes(*EVERYWHERE)
def test_a_frozen_cgroup_is_refused() -> None:
    with made() as other:
        other.freeze()
        try:
            for name in (NAME, f"{NAME}/below"):
                with pytest.raises(ContainerError, match="is frozen"):
                    cgroup.plan(name, "x").create()
        finally:
            other.thaw()
        assert os.listdir(other.directories()[0])


@lanes(*EVERYWHERE)
def test_half_made_after_a_crash() -> None:
    """What was recorded before create is enough to undo it, however far it came."""
    cg = cgroup.plan(NAME, "x")
    recorded = cg.to_data()
    for path in cg.directories()[: len(cg.directories()) // 2 + 1]:
        os.mkdir(path)
    again = Cgroup.from_data(recorded)
    assert again.pids() == []
    again.signal_all(signal.SIGKILL)
    again.destroy()


@lanes(*EVERYWHERE)
def test_joining_one_that_is_gone_names_it() -> None:
    cg = cgroup.plan(NAME, "x")
    with pytest.raises(KernelError) as info:
        cg.add(os.getpid())
    assert info.value.errno == errno.ENOENT and NAME in info.value.message


@lanes(*EVERYWHERE)
def test_an_ordinary_user_is_not_refused_but_warned() -> None:
    def child() -> None:
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        cg = cgroup.plan(NAME, "x")
        paths = cg.directories()
        cg.create()
        cg.add(0)
        assert cg.skipped == paths and len(cg.warnings) == len(paths)
        assert paths[0] in cg.warnings[0] and "left out" in cg.warnings[0]
        assert cg.pids() == [] and cg.directories() == [] and cg.open_dir() is None and not cg.frozen()
        cg.signal_all(signal.SIGKILL)
        cg.destroy()
        with pytest.raises(ContainerError):
            cg.freeze()

    child()


@lanes("none")
def test_without_any_cgroup_mounted() -> None:
    cg = cgroup.plan(NAME, "x")
    cg.create()
    cg.add(os.getpid())
    cg.signal_all(signal.SIGKILL)
    assert cg.pids() == [] and not cg.frozen()
    cg.destroy()


@lanes("hybrid", "legacy")
def test_v1_gives_no_directory_to_be_born_in() -> None:
    with made() as cg:
        assert cg.open_dir() is None


@lanes("unified")
def test_v2_born_inside() -> None:
    with made() as cg:
        fd = cg.open_dir()
        assert fd is not None
        pid = clone3(0, signal.SIGCHLD, fd)
        if pid == 0:
            os.execvp("sleep", ["sleep", "60"])
        os.close(fd)
        assert cg.pids() == [pid] and own_cgroups(pid)[""] == NAME


@lanes("unified")
def test_v2_controllers_are_passed_down() -> None:
    available = (ROOT / "cgroup.controllers").read_text().split()
    assert available, "this machine has no v2 controller: the test can't tell"
    with made("/a/b") as cg:
        assert Path(cg.paths[""], "cgroup.controllers").read_text().split() == available
        assert Path(cg.paths[""], "cgroup.subtree_control").read_text() == ""
        assert cg.warnings == []
    os.rmdir(f"{ROOT}{NAME}/a")
    os.rmdir(f"{ROOT}{NAME}")


@lanes("unified")
def test_v2_controllers_stop_at_a_cgroup_that_holds_processes() -> None:
    available = (ROOT / "cgroup.controllers").read_text().split()
    with made() as parent:
        spawn(parent, "sleep", "60")
        with made("/a") as cg:
            assert len(cg.warnings) == len(available) > 0
            assert cg.warnings[0].startswith(
                f"cgroup {parent.paths['']}: controller {available[0]} can't be passed on: ")
            assert "(EBUSY) (a cgroup that holds processes" in cg.warnings[0]


# Stubborn trees

STUBBORN = textwrap.dedent("""\
    import os, signal, sys
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    # Each line of processes goes on forking: the child lives, the parent leaves, no pid stays for long.
    for line in range(8):
        if os.fork() == 0:
            os.setsid()
            while True:
                if os.fork():
                    os._exit(0)
    signal.pause()
    """)

NESTED = textwrap.dedent("""\
    import errno, os, signal, sys
    for path in sys.argv[1:]:
        for name in ("a", "b b", "c\\tc"):
            for below in ("", "/d", "/d/e"):
                os.mkdir(f"{path}/{name}{below}")
        if os.fork() == 0:
            try:
                os.write(os.open(f"{path}/a/d/e/cgroup.procs", os.O_WRONLY), b"0")
            except OSError as error:
                assert error.errno == errno.ENOSPC  # a cpuset of v1 without cpus
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.pause()
    os.mkdir(os.fsencode(sys.argv[1]) + b"/\\xff")
    signal.pause()
    """)


def python(cg: Cgroup, script: str, *args: str) -> int:
    return spawn(cg, "/usr/bin/python3", "-ISc", script, *args)


def killed_and_removed(cg: Cgroup) -> None:
    started = time.monotonic()
    cg.signal_all(signal.SIGKILL)
    reap(cg)
    cg.destroy()
    assert time.monotonic() - started < 8
    assert not any(os.path.exists(path) for path in cg.directories())


@lanes(*EVERYWHERE)
def test_processes_that_fork_on_and_ignore_signals() -> None:
    with made() as cg:
        python(cg, STUBBORN)
        wait_for(lambda: len(cg.pids()) > 4)
        cg.signal_all(signal.SIGTERM)
        time.sleep(0.05)
        assert len(cg.pids()) > 4  # the control: they are stubborn
        killed_and_removed(cg)


@lanes(*EVERYWHERE)
def test_sub_cgroups_with_processes_and_odd_names() -> None:
    with made() as cg:
        python(cg, NESTED, *cg.directories())
        wait_for(lambda: os.path.isdir(os.fsencode(cg.directories()[0]) + b"/\xff"))
        expected = 1 + len(cg.directories())
        wait_for(lambda: len({pid for path in cg.directories() for pid in cgroupfs.pids_at(path)}) == expected)
        path = cg.directories()[0]
        assert len(cgroupfs.pids_at(path, recursive=False)) == len(cgroupfs.pids_at(path)) - 1
        killed_and_removed(cg)


@lanes(*EVERYWHERE)
def test_sub_cgroup_that_froze_itself() -> None:
    with made() as cg:
        pid = spawn(cg, "sleep", "60")
        path = cg.paths.get("freezer", cg.paths.get("", ""))
        os.mkdir(f"{path}/sub")
        cgroupfs.write(f"{path}/sub/cgroup.procs", str(pid))
        file, word = ("freezer.state", "FROZEN") if "freezer" in cg.paths else ("cgroup.freeze", "1")
        cgroupfs.write(f"{path}/sub/{file}", word)
        killed_and_removed(cg)


@lanes(*EVERYWHERE)
def test_frozen_stands_still_and_thawed_goes_on() -> None:
    with made() as cg:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        pid = os.fork()
        if pid == 0:
            cg.add(0)
            while True:
                os.write(writer, b"x")
                time.sleep(0.001)
        os.close(writer)

        def ticks() -> int:
            try:
                return len(os.read(reader, 65536))
            except BlockingIOError:
                return 0

        wait_for(ticks)
        cg.freeze()
        assert cg.frozen()
        ticks()
        time.sleep(0.05)
        assert ticks() == 0
        cg.freeze()  # twice is once
        cg.thaw()
        assert not cg.frozen()
        wait_for(ticks)
        cg.freeze()
        cg.signal_all(signal.SIGTERM)
        assert cg.frozen()  # the pause isn't ended by it
        if cg.mode != "unified":  # v2 lets a signal that kills through, v1 keeps it
            time.sleep(0.02)
            assert cg.pids() == [pid]
        cg.thaw()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


@lanes(*EVERYWHERE)
def test_sigkill_reaches_the_frozen() -> None:
    with made() as cg:
        python(cg, STUBBORN)
        wait_for(lambda: len(cg.pids()) > 4)
        cg.freeze()
        killed_and_removed(cg)


@lanes("unified", "legacy")
def test_without_cgroup_kill() -> None:
    """Before Linux 5.14, and on v1, it takes the freezer."""
    cgroupv2.kill = lambda _: False  # type: ignore[assignment]
    with made() as cg:
        python(cg, STUBBORN)
        wait_for(lambda: len(cg.pids()) > 4)
        killed_and_removed(cg)


@lanes("legacy")
def test_without_a_freezer_either() -> None:
    with made() as cg:
        bare = Cgroup("legacy", {"pids": cg.paths["pids"]})
        for _ in range(20):
            spawn(cg, "sleep", "60")
        bare.signal_all(signal.SIGKILL)
        assert cg.pids() == []


@lanes("hybrid")
def test_hybrid_kills_what_left_the_v2_cgroup() -> None:
    with made() as cg:
        pid = spawn(cg, "sleep", "60")
        Path("/sys/fs/cgroup/unified/cgroup.procs").write_text(str(pid))
        killed_and_removed(cg)


@lanes("hybrid")
def test_hybrid_kills_what_left_the_freezer() -> None:
    with made() as cg:
        pid = spawn(cg, "sleep", "60")
        Path("/sys/fs/cgroup/freezer/cgroup.procs").write_text(str(pid))
        killed_and_removed(cg)


@lanes("unified", "legacy")
def test_more_processes_than_descriptors() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
    with made() as cg:
        for _ in range(450):
            if os.fork() == 0:
                cg.add(0)
                signal.pause()
        wait_for(lambda: len(cg.pids()) == 450)
        cg.signal_all(signal.SIGTERM)
        for _ in range(450):
            assert os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]) == -signal.SIGTERM


@lanes("unified", "legacy")
def test_deeper_than_a_path_and_the_stack_can_be() -> None:
    depth = 1300
    assert depth > sys.getrecursionlimit() and depth * 5 > 4096
    with made() as cg:
        top = fd = os.open(cg.directories()[0], os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("deep", dir_fd=fd)
            below = os.open("deep", os.O_RDONLY, dir_fd=fd)
            if fd != top:
                os.close(fd)
            fd = below
        assert cg.pids() == []
        assert sum(1 for _ in cgroupfs.walk(top)) == depth + 1
        os.close(fd)
        os.close(top)
        started = time.monotonic()
        cg.destroy()
        assert time.monotonic() - started < 8


@lanes("unified")
def test_walking_a_tree_that_another_removes() -> None:
    with made() as cg:
        for name in "abcdefgh":
            os.makedirs(f"{cg.paths['']}/{name}/x/y")
        top = cgroupfs.open_directory(cg.paths[""])
        seen = 0
        for _ in cgroupfs.walk(top):
            seen += 1
            if seen == 2:  # y and x of the first are done, or about to be
                subprocess.run(["find", cg.paths[""], "-mindepth", "1", "-type", "d", "-delete"], check=True)
        os.close(top)
        assert seen < 25


# What can't be done is said

@lanes(*EVERYWHERE)
def test_destroy_names_who_is_in_the_way() -> None:
    with made() as cg:
        pid = spawn(cg, "sleep", "60")
        started = time.monotonic()
        with pytest.raises(ContainerError, match=f"cgroup .*{NAME} can't be removed: process {pid} is in it"):
            cg.destroy(timeout=0.3)
        assert 0.3 <= time.monotonic() - started < 3
        assert cg.pids() == [pid]


@lanes(*EVERYWHERE)
def test_destroy_waits_for_the_last_moments() -> None:
    with made() as cg:
        spawn(cg, "sleep", "0.3")
        cg.destroy()
        assert not any(os.path.exists(path) for path in cg.directories())


@lanes(*EVERYWHERE)
def test_we_do_not_freeze_ourselves() -> None:
    with made() as cg:
        spawn(cg, "sleep", "60")
        pid = os.fork()
        if pid == 0:
            cg.add(0)
            try:
                cg.freeze()
            except ContainerError:
                cg.signal_all(signal.SIGTERM)  # works on the others all the same
                os._exit(42)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
        wait_for(lambda: cg.pids() == [])


def test_a_reused_pid_is_not_signalled() -> None:
    """Who isn't found at the second look, after its pidfd was opened, is a stranger."""
    victim = subprocess.Popen(["sleep", "60"])
    try:
        cgroupfs.signal([victim.pid, 0, os.getpid()], signal.SIGKILL, lambda: [0, os.getpid()])
        assert victim.poll() is None
        cgroupfs.signal([victim.pid], signal.SIGKILL, lambda: [victim.pid])  # the control
        assert victim.wait() == -signal.SIGKILL
    finally:
        victim.kill()
        victim.wait()


@pytest.mark.parametrize(("pids", "text"), [
    ([7], "process 7 is in it"), ([8, 7, 7], "processes 7, 8 are in it"),
    ([0], "process 1 of another pid namespace is in it"),
    ([0, 0, 5], "processes 5 and 2 of another pid namespace are in it"),
    (list(range(1, 20)), "processes 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 9 more are in it"),
    ([], "the kernel holds it, though no process is in it"),
])
def test_how_processes_are_named(pids: list[int], text: str) -> None:
    assert cgroup._name_pids(pids) == text
