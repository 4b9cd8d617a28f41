# SPDX-License-Identifier: Apache-2.0
"""Cgroups whose processes resist: they ignore signals, fork on, freeze, hide below (cgroup_lanes.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from cgroup_lanes import EVERYWHERE, lane_name, lanes, made, reap, spawn, wait_for

from pyrunc import cgroup, cgroupfs, cgroupv2
from pyrunc.cgroup import Cgroup
from pyrunc.errors import ContainerError

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
        # The child moves down on its own time.
        wait_for(lambda: len(cgroupfs.pids_at(path, recursive=False)) == len(cgroupfs.pids_at(path)) - 1)
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


THREADS = textwrap.dedent("""\
    import _thread, os, signal, sys, time
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # The process stands in the threads' domain, a thread of its each in two threaded cgroups below.
    def move(name):
        with open(f"{sys.argv[1]}/{name}/cgroup.threads", "w") as file:
            file.write(str(_thread.get_native_id()))
        time.sleep(100)
    for name in "a", "b":
        os.mkdir(f"{sys.argv[1]}/{name}")
        with open(f"{sys.argv[1]}/{name}/cgroup.type", "w") as file:
            file.write("threaded")
        _thread.start_new_thread(move, (name,))
    time.sleep(100)
    """)


def threads_in(path: str) -> int:
    try:
        return len(cgroupfs.read(f"{path}/cgroup.threads").split())
    except OSError:
        return 0


@lanes("unified")
def test_threaded_cgroups_below() -> None:
    """cgroup-v2.rst, Threads: their cgroup.procs can't be read; the process is its domain's, once."""
    with made() as cg:
        path = cg.paths[""]
        pid = python(cg, THREADS, path)
        wait_for(lambda: threads_in(f"{path}/a") == threads_in(f"{path}/b") == 1)
        assert cgroupfs.read(f"{path}/cgroup.type") == "domain threaded\n"
        assert cg.pids() == [pid]
        cg.freeze()
        assert cg.frozen()
        cg.thaw()
        killed_and_removed(cg)


@lanes("unified")
def test_a_threaded_cgroup_given_or_above() -> None:
    """As runc: the container's is threaded then too, where that can be; cgroup.procs and cgroup.kill are of no use
    there, and the domain, which lists its processes, isn't the container's."""
    given = Path("/sys/fs/cgroup", lane_name()[1:])
    given.mkdir()
    try:
        (given / "cgroup.type").write_text("threaded")
        for name in (lane_name(), f"{lane_name()}/below/it"):
            cg = cgroup.plan(name, "unused")
            cg.create()
            assert Path(cg.paths[""], "cgroup.type").read_text() == "threaded\n"
            pids = sorted([spawn(cg, "sleep", "60"), python(cg, "import _thread, time, signal\n"
                                                                "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                                                                "_thread.start_new_thread(time.sleep, (60,))\n"
                                                                "time.sleep(60)")])
            wait_for(lambda cg=cg: threads_in(cg.paths[""]) == 3)
            assert not cgroupv2.kill(cg.paths[""])  # the control: the kernel has no short way here
            assert cg.pids() == pids
            other = cgroup.plan(name, "unused")
            with pytest.raises(ContainerError, match=f"is not empty: processes {pids[0]}, {pids[1]} are in it"):
                other.create()
            cg.freeze()
            assert cg.frozen()
            cg.signal_all(signal.SIGTERM)
            cg.thaw()
            wait_for(lambda pids=pids: os.waitpid(-1, os.WNOHANG)[0] == pids[0])
            assert cg.pids() == pids[1:]
            cg.signal_all(signal.SIGKILL)
            reap(cg)
            cg.destroy()
            assert given.exists() and cg.pids() == []
        (given / "below").rmdir()
    finally:
        given.rmdir()


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
