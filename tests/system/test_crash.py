# SPDX-License-Identifier: Apache-2.0
"""A command that is killed at any point leaves something `delete` can undo, and no process behind.

The points are system calls: strace(1) kills the command as it enters the chosen one, with the calls
before it done.  Hooks that block are the other way to stop it at a known place.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from killed import killed_at
from support import Bundle, Host, Runtime, wait_for

#: (system call, which one of its calls): the claim, a cgroup, config.json, state.json four times, the fifo, ...
POINTS = [("mkdir", 2), ("mkdir", 3), ("mkdir", 6), ("renameat", 1), ("renameat", 2), ("renameat", 3),
          ("renameat", 4), ("mknodat", 1), ("fchmodat", 1), ("socketpair", 1), ("clone3", 1), ("fsync", 1),
          ("fsync", 2)]


def leftovers(container: str) -> list[str]:
    """The living processes in a cgroup of the container's name; who is dead and not waited for is gone enough."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            dead = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            if not dead and container in Path(f"/proc/{entry}/cgroup").read_text():
                found.append(entry)
        except OSError:
            continue
    return found


def check_cleaned(runtime: Runtime, host: Host, container: str, *options: str) -> None:
    """What is left of the container is `stopped`, nobody lives in it, and `delete` removes it."""
    if container in os.listdir(runtime.root):
        wait_for(lambda: runtime.state(container)["status"] in ("stopped", "created"), "the status to be known")
        wait_for(lambda: not host_processes(host), "the init to follow its creator")
        state = runtime.state(container)
        assert (state["status"], state["pid"]) == ("stopped", 0)
        deleted = runtime("delete", *options, container)
        assert (deleted.code, deleted.err) == (0, ""), deleted
    assert runtime("state", container).code == 1
    host.assert_unchanged()
    assert leftovers(container) == []
    again = runtime("create", "--bundle", runtime.root.parent.parent / "bundle", container)
    assert (again.code, again.err) == (0, ""), again  # the id, the cgroup: all free again
    assert runtime("delete", "--force", container).code == 0


def host_processes(host: Host) -> list[str]:
    return [line for line in host.look()["processes"] if line not in host.before["processes"]]


@pytest.mark.parametrize("options", [(), ("--force",)], ids=["delete", "delete --force"])
@pytest.mark.parametrize(("call", "count"), POINTS, ids=[f"{call} {count}" for call, count in POINTS])
def test_create_killed_at(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path, call: str, count: int,
                          options: tuple[str, ...]) -> None:
    container = runtime.new_id()
    bundle.args("sleep", "100").save()
    killed_at(runtime.command("create", "--bundle", bundle.path, container), tmp_path / "trace", call, count)
    check_cleaned(runtime, host, container, *options)


def _hook(reached: Path, go: Path) -> dict[str, object]:
    script = f"echo $$ > {reached}.new; mv {reached}.new {reached}; while [ ! -e {go} ]; do sleep 0.01; done"
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
@pytest.mark.parametrize("options", [(), ("--force",)], ids=["delete", "delete --force"])
def test_create_killed_in_a_hook(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path, kind: str,
                                 options: tuple[str, ...]) -> None:
    """The init does not survive its creator; a hook of the container's goes with its cgroup."""
    reached, go = tmp_path / "reached", tmp_path / "go"
    bundle.config["hooks"] = {kind: [_hook(reached, go)]}
    container = runtime.new_id()
    create = subprocess.Popen(runtime.command("create", "--bundle", bundle.save(), container),
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(reached.exists, "the hook")
    hook = int(reached.read_text())
    assert runtime.state(container)["status"] == "creating"
    assert leftovers(container) != []  # the control: there is an init
    create.kill()
    create.wait()
    assert runtime.state(container)["status"] == "stopped"
    if kind == "createContainer":  # the init waits for its hook; delete ends both
        assert len(leftovers(container)) > 1
        assert runtime("delete", *options, container).code == 0
        wait_for(lambda: not leftovers(container), "the hook to be killed")
    else:  # a hook of the host's is nobody's to kill: it is in no cgroup of the container's
        wait_for(lambda: not leftovers(container), "the init to follow its creator")
        assert runtime("delete", *options, container).code == 0
        os.kill(hook, 0)
    go.touch()
    assert runtime("state", container).code == 1
    host.assert_unchanged()


def test_start_killed_before_the_init_goes_on(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """init.py: `start` takes the fifo away first; if it dies before that, the program does not run."""
    ran = tmp_path / "ran"
    bundle.args("echo ran").save()
    container = runtime.create(bundle, output=ran)
    trace = tmp_path / "trace"
    killed_at(runtime.command("start", container), trace, "unlinkat", 1, ":error=EIO")
    assert "exec.fifo" in trace.read_text()
    runtime.wait(container)
    assert ran.read_text() == ""
    assert runtime("start", container).err.endswith("cannot start a container that has stopped\n")
    assert runtime("delete", container).code == 0


def test_start_killed_in_a_hook_of_the_container(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """Once the fifo is gone the init goes on without `start`: the container is running, and runs."""
    shared = tmp_path / "shared"
    shared.mkdir()
    bundle.mount(shared, "/mnt")
    script = "echo > /mnt/reached; while [ ! -e /mnt/go ]; do sleep 0.01; done"
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script],
                                                  "env": ["PATH=/bin"]}]}
    container = runtime.create(bundle.args("echo ran > /mnt/ran; exec sleep 100"))
    start = subprocess.Popen(runtime.command("start", container))
    wait_for((shared / "reached").exists, "the hook")
    assert runtime.state(container)["status"] == "running"
    start.kill()
    start.wait()
    assert runtime.state(container)["status"] == "running"
    assert not (shared / "ran").exists()
    (shared / "go").touch()
    wait_for((shared / "ran").exists, "the program")
    assert runtime.state(container)["status"] == "running"
    assert runtime("kill", container, "KILL").code == 0
    runtime.wait(container)
    assert runtime("delete", container).code == 0


def test_delete_killed_half_way_can_be_repeated(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    for call, count in (("rmdir", 1), ("rmdir", 4), ("unlinkat", 1), ("unlinkat", 2)):
        container = runtime.create(bundle)
        assert runtime("kill", container, "KILL").code == 0
        runtime.wait(container)
        killed_at(runtime.command("delete", container), tmp_path / "trace", call, count)
        assert runtime.state(container)["status"] == "stopped"
        assert runtime("delete", container).code == 0
        host.assert_unchanged()


def test_a_crash_does_not_reach_a_cgroup_that_was_not_taken_yet(runtime: Runtime, bundle: Bundle, host: Host,
                                                                tmp_path: Path) -> None:
    """Killed before it had found the cgroup in use, create has written its path: delete must not kill who is there."""
    bundle.linux["cgroupsPath"] = f"/pyrunc-taken-{os.getpid()}"
    first = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", first).code == 0
    second = runtime.new_id()
    killed_at(runtime.command("create", "--bundle", bundle.path, second), tmp_path / "trace", "mkdir", 2)
    assert runtime("delete", "--force", second).code == 0
    assert runtime.state(first)["status"] == "running"


def test_half_written_state(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """What a crash in the middle of a write would leave, were it not renamed: told in one line, removable."""
    container = runtime.create(bundle)
    runtime("kill", container, "KILL")
    runtime.wait(container)
    path = runtime.root / container / "state.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    told = runtime("state", container)
    assert told.code == 1 and len(told.errors) == 1 and "state.json: invalid JSON" in told.err
    assert runtime("list").code == 0
    path.write_text(whole)
    assert runtime("delete", container).code == 0
