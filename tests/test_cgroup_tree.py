# SPDX-License-Identifier: Apache-2.0
"""Cgroups on the real kernel: made, joined, removed, in each of the three set-ups (cgroup_lanes.py)."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cgroup_lanes import EVERYWHERE, ROOT, lane_name, lanes, made, own_cgroups, reap, spawn, wait_for

from pyrunc import cgroup, cgroupfs
from pyrunc.cgroup import Cgroup
from pyrunc.doors import Doors
from pyrunc.errors import ContainerError, KernelError
from pyrunc.linux.syscall import clone3

# Made, joined, removed

@lanes(*EVERYWHERE)
def test_life() -> None:
    cg = cgroup.plan(f"{lane_name()}/sub/leaf", "x")
    assert cg.given == []
    cg.create()
    try:
        assert cg.directories() and all(os.path.isdir(path) for path in cg.directories())
        assert cg.pids() == [] and not cg.frozen() and cg.warnings == []
        pid = spawn(cg, "sleep", "60")
        found = own_cgroups(pid)
        assert {found[name] for name in cg.paths} == {f"{lane_name()}/sub/leaf"}
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
    outer = top / lane_name()[1:]
    outer.mkdir()
    try:
        assert (outer / "cpuset.cpus").read_text() == "\n"  # the control: a new one is empty
        with made("/a"):
            for directory in (outer, outer / "a"):
                for file in ("cpuset.cpus", "cpuset.mems"):
                    assert (directory / file).read_text() == (top / file).read_text() != "\n"
    finally:
        for path in cgroup.plan(lane_name(), "x").directories():
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
        cg = cgroup.plan(lane_name(), "x")
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
        cg = cgroup.plan(lane_name(), "x")
        recorded = cg.to_data()
        with pytest.raises(ContainerError, match=f"{lane_name()} is not empty: process {pid} is in it") as info:
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
                cgroup.plan(lane_name(), "x").create()
        assert all(os.path.isdir(path) for path in outer.directories())


@lanes("hybrid", "legacy")
def test_v1_a_refused_create_takes_back_what_it_made() -> None:
    """Somebody has that place in the last of the hierarchies only."""
    cg = cgroup.plan(f"{lane_name()}/a/b", "x")
    last = cg.directories()[-1]
    other = Cgroup("legacy", {"one": last})
    other.create()
    spawn(other, "sleep", "60")
    cg = cgroup.plan(f"{lane_name()}/a/b", "x")
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
            for name in (lane_name(), f"{lane_name()}/below"):
                with pytest.raises(ContainerError, match="is frozen"):
                    cgroup.plan(name, "x").create()
        finally:
            other.thaw()
        assert os.listdir(other.directories()[0])


@lanes(*EVERYWHERE)
def test_half_made_after_a_crash() -> None:
    """What was recorded before create is enough to undo it, however far it came."""
    cg = cgroup.plan(lane_name(), "x")
    recorded = cg.to_data()
    for path in cg.directories()[: len(cg.directories()) // 2 + 1]:
        os.mkdir(path)
    again = Cgroup.from_data(recorded)
    assert again.pids() == []
    again.signal_all(signal.SIGKILL)
    again.destroy()


@lanes(*EVERYWHERE)
def test_joining_one_that_is_gone_names_it() -> None:
    cg = cgroup.plan(lane_name(), "x")
    with pytest.raises(KernelError) as info:
        cg.add(os.getpid())
    assert info.value.errno == errno.ENOENT and lane_name() in info.value.message


@lanes(*EVERYWHERE)
def test_an_ordinary_user_is_not_refused_but_warned() -> None:
    def child() -> None:
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        with pytest.raises(KernelError, match="--rootless true") as info:
            cgroup.plan(lane_name(), "x").create()  # named, so wanted
        assert info.value.pointer == "/linux/cgroupsPath"
        cg = cgroup.plan(None, lane_name().strip("/"))
        paths = cg.directories()
        cg.create()
        cg.add(0)
        assert cg.skipped == paths and len(cg.warnings) == len(paths)
        assert paths[0] in cg.warnings[0] and "left out" in cg.warnings[0]
        assert cg.pids() == [] and cg.directories() == [] and Doors(cg).fd < 0 and not cg.frozen()
        cg.signal_all(signal.SIGKILL)
        cg.destroy()
        with pytest.raises(ContainerError):
            cg.freeze()

    child()


@lanes("none")
def test_without_any_cgroup_mounted() -> None:
    cg = cgroup.plan(lane_name(), "x")
    cg.create()
    cg.add(os.getpid())
    cg.signal_all(signal.SIGKILL)
    assert cg.pids() == [] and not cg.frozen()
    cg.destroy()


@lanes("legacy")
def test_v1_gives_no_directory_to_be_born_in() -> None:
    with made() as cg:
        doors = Doors(cg)
        assert doors.fd < 0 and sorted(doors.tasks) == sorted(cg.directories())
        doors.close()


@lanes("unified", "hybrid")
def test_v2_born_inside() -> None:
    with made() as cg:
        doors = Doors(cg)
        assert doors.fd >= 0 and doors.path == cg.paths[""]
        pid = clone3(0, signal.SIGCHLD, doors.fd)
        if pid == 0:
            if not all(path in cgroupfs.enter(doors.tasks) for path in cg.directories() if path != doors.path):
                os._exit(1)
            os.execvp("sleep", ["sleep", "60"])
        doors.close()
        wait_for(lambda: cg.pids() == [pid])  # in v1's freezer it is when it has put itself there
        assert cg.pids() == [pid] and own_cgroups(pid)[""] == lane_name()


@lanes("unified")
def test_v2_controllers_are_passed_down() -> None:
    available = (ROOT / "cgroup.controllers").read_text().split()
    assert available, "this machine has no v2 controller: the test can't tell"
    with made("/a/b") as cg:
        assert Path(cg.paths[""], "cgroup.controllers").read_text().split() == available
        assert Path(cg.paths[""], "cgroup.subtree_control").read_text() == ""
        assert cg.warnings == []
    os.rmdir(f"{ROOT}{lane_name()}/a")
    os.rmdir(f"{ROOT}{lane_name()}")


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


# What can't be done is said

@lanes(*EVERYWHERE)
def test_destroy_names_who_is_in_the_way() -> None:
    with made() as cg:
        pid = spawn(cg, "sleep", "60")
        started = time.monotonic()
        with pytest.raises(ContainerError, match=f"cgroup .*{lane_name()} can't be removed: process {pid} is in it"):
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
    assert cgroup.name_pids(pids) == text
