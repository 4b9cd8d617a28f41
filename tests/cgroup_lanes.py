# SPDX-License-Identifier: Apache-2.0
"""Lanes for the tests of cgroups: the same scenario in each of the three set-ups of a host.

A lane is a process in a mount namespace of its own where /sys/fs/cgroup is v2 alone (unified), v1
alone (legacy), or as a hybrid machine has it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc import cgroup
from pyrunc.cgroup import Cgroup
from pyrunc.linux import process as kernel

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
    # Cgroups of others may go while it looks, also between what -ignore_readdir_race covers.
    found = subprocess.run(["find", str(ROOT), "-ignore_readdir_race", "-maxdepth", "3", "-name",
                            f"pyrunc-test-{pid}*"], capture_output=True, text=True, check=False)
    left = found.stdout + "".join(line for line in found.stderr.splitlines() if "No such file" not in line)
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


def lane_name() -> str:
    """The path of the lane's own cgroup."""
    return NAME


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
