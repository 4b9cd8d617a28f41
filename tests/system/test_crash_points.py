# SPDX-License-Identifier: Apache-2.0
"""Whatever command is killed, wherever: `delete --force` leaves the host exactly as it was.

The points are spread evenly over the system calls of create, start, exec, run and delete: strace(1) kills the
command at the one chosen.  Compared are mounts, cgroups, state, namespaces and every process that the command
or the container has begun.
"""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from cgroup_lanes import run_in_lane
from killed import killed_at
from support import Bundle, Host, Runtime, wait_for

COMMANDS = ("create", "start", "exec", "run", "delete")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


def processes(mark: str, container: str) -> list[str]:
    """Those that have the mark in their environment, which a fork keeps, or are in a cgroup of the container's."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                continue  # dead, and for whoever started the tests to wait for
            if mark.encode() in Path(f"/proc/{entry}/environ").read_bytes() or \
                    container in Path(f"/proc/{entry}/cgroup").read_text():
                found.append(f"{entry} {Path(f'/proc/{entry}/cmdline').read_text()!r}")
        except OSError:
            continue
    return found


def namespaces() -> set[str]:
    """All that a process stands in."""
    found = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        for name in NAMESPACES:
            try:
                found.add(os.readlink(f"/proc/{entry}/ns/{name}"))
            except OSError:
                continue
    return found


class Crash:
    """One command on one bundle, killed again and again."""

    def __init__(self, runtime: Runtime, bundle: Bundle, command: str, trace: Path) -> None:
        self.runtime = runtime
        self.bundle = bundle
        self.command = command
        self.trace = trace
        bundle.args("sleep", "100" if command != "run" else "0.05").save()

    def prepare(self, container: str) -> list[str]:
        """Bring the container to where the command is given; its command line."""
        runtime = self.runtime
        if self.command in ("create", "run"):
            return runtime.command(self.command, "--bundle", self.bundle.path, container)
        runtime.create(self.bundle, container_id=container)
        if self.command != "start":
            assert runtime("start", container).code == 0
        words = {"start": ("start", container), "exec": ("exec", container, "sh", "-c", "true"),
                 "delete": ("delete", "--force", container)}[self.command]
        return runtime.command(*words)

    def calls(self) -> list[str]:
        """The system calls of an undisturbed run, from the first that has to do with the container."""
        container = self.runtime.new_id()
        subprocess.run(["strace", "-o", str(self.trace), *self.prepare(container)], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=120)
        assert self.runtime("delete", "--force", container).code == 0
        lines = [line for line in self.trace.read_text().splitlines() if re.match(r"\w+\(", line)]
        first = next(i for i, line in enumerate(lines) if f'"{self.runtime.root}/{container}' in line)
        self.skipped = [line.partition("(")[0] for line in lines[:first]]
        return [line.partition("(")[0] for line in lines[first:-1]]

    def kill_at(self, calls: list[str], index: int) -> bool:
        """Kill it there, clean up, compare; whether it was killed."""
        host = Host(self.runtime.root)
        before = namespaces()
        container = f"crash-{uuid.uuid4().hex[:12]}"
        self.runtime.ids.append(container)
        mark = os.environ["PYRUNC_TEST_CRASH"] = uuid.uuid4().hex
        count = (self.skipped + calls[:index + 1]).count(calls[index])
        killed = True
        try:
            killed_at(self.prepare(container), self.trace, calls[index], count)
        except AssertionError:
            # How often it polls, or what the allocator asks for, may differ from one time to the next.
            assert "exited with 0" in self.trace.read_text(), (calls[index], count)
            killed = False
        finally:
            del os.environ["PYRUNC_TEST_CRASH"]
        where = f"{self.command} killed at {calls[index]} {count} ({index} of {len(calls)})"
        deleted = self.runtime("delete", "--force", container)
        assert (deleted.code, deleted.err) == (0, ""), (where, deleted)
        try:
            wait_for(lambda: not processes(mark, container), "the last of its processes")
            host.assert_unchanged()
            wait_for(lambda: not namespaces() - before, "the last of its namespaces")
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}; {processes(mark, container)}") from None
        return killed

    def spread(self, count: int) -> None:
        calls = self.calls()
        step = max(1, len(calls) // count)
        indices = range(step // 2, len(calls), step)[:count]
        killed = sum(self.kill_at(calls, index) for index in indices)
        assert killed > len(indices) // 2, f"only {killed} of {len(indices)} were killed"


@pytest.mark.parametrize("lane", ["hybrid", "unified"])
@pytest.mark.parametrize("hooks", [False, True], ids=["without hooks", "with hooks"])
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_anywhere(runtime: Runtime, make_bundle: Callable[[str], Bundle], host: Host, tmp_path: Path, long: bool,
                         command: str, hooks: bool, lane: str) -> None:
    bundle = make_bundle("bundle")
    if hooks:
        bundle.config["hooks"] = {kind: [{"path": "/bin/true", "args": ["true"]}] for kind in HOOKS}

    def scenario() -> None:
        Crash(runtime, bundle, command, tmp_path / "trace").spread(40 if long else 4 if lane == "hybrid" else 2)

    if lane == "hybrid":
        scenario()  # the host as it is
    else:
        run_in_lane(lane, scenario, seconds=1800)
