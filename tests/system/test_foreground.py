# SPDX-License-Identifier: Apache-2.0
"""`run` as a parent: whom it reaps, what outlives it, what it leaves (runc-run(8))."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support import Bundle, Host, Runtime, wait_for
from terminals import Tty

# A process that outlives its parent, in a container that shares the host's pids: somebody has to adopt it.
ORPHAN = "(sleep 1234 & echo $! > /tmp/orphan); echo ready > /tmp/ready; while test ! -e /tmp/stop; do sleep 0.05; done"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("options", [[], ["--no-subreaper"]], ids=["subreaper", "no subreaper"])
def test_who_adopts_orphans(runtime: Runtime, bundle: Bundle, host: Host, options: list[str]) -> None:
    """pyrunc, as long as it is there (prctl(2), PR_SET_CHILD_SUBREAPER); with --no-subreaper whoever is above it."""
    bundle.without("pid").args(ORPHAN).save()
    words = runtime.command("run", *options, "--bundle", bundle.path, runtime.new_id())
    running = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    wait_for((bundle.rootfs / "tmp/ready").exists, "the orphan")
    orphan = int((bundle.rootfs / "tmp/orphan").read_text())
    wait_for(lambda: parent_of(orphan) != int(runtime.state(runtime.ids[-1])["pid"]), "it to be an orphan")
    assert (parent_of(orphan) == running.pid) == (not options)
    if not options:
        os.kill(orphan, signal.SIGKILL)
        # Reaped, though it is not the program that run waits for.
        wait_for(lambda: not Path(f"/proc/{orphan}").exists(), "it to be reaped")
        assert running.poll() is None
    (bundle.rootfs / "tmp/stop").touch()
    assert running.wait(20) == 0
    wait_for(lambda: not _runs(orphan), "the container's last process to go with it")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_detached_life(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """run --detach returns 0 at once; the container is a child of the nearest subreaper, and all commands know it."""
    bundle.args("trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done").save()
    container = runtime.new_id()
    result = runtime("run", "--detach", "--pid-file", tmp_path / "pid", "--bundle", bundle.path, container)
    assert (result.code, result.err) == (0, "")
    pid = int((tmp_path / "pid").read_text())
    assert runtime.state(container)["pid"] == pid and runtime.state(container)["status"] == "running"
    assert "pyrunc" not in Path(f"/proc/{parent_of(pid)}/comm").read_text()
    assert runtime("exec", container, "sh", "-c", "exit 3").code == 3
    assert runtime("kill", container).code == 0
    runtime.wait(container)
    assert runtime("delete", container).code == 0


def test_keep(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The state and the cgroup stay until delete; without it both go."""
    for options, kept in ((["--keep"], True), ([], False)):
        container = runtime.new_id()
        assert runtime("run", *options, "--bundle", bundle.args("exit 3").save(), container).code == 3
        assert (runtime.root / container).exists() == kept
        cgroups = [path for path, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(path) == container]
        assert bool(cgroups) == kept
        if kept:
            assert runtime.state(container)["status"] == "stopped"
            assert runtime("delete", container).code == 0


def test_a_killed_run_leaves_the_container(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """SIGKILL can't be forwarded: what is left can be stopped and deleted by others."""
    bundle.args("sleep", "1000").save()
    container = runtime.new_id()
    running = subprocess.Popen(runtime.command("run", "--bundle", bundle.path, container), stdin=subprocess.DEVNULL)
    wait_for(lambda: runtime("state", container).code == 0 and runtime.state(container)["status"] == "running",
             "the container")
    running.kill()
    running.wait()
    assert runtime.state(container)["status"] == "running"
    assert runtime("delete", "--force", container).code == 0


# Our terminal as its stdout, without a terminal of its own

@pytest.mark.parametrize("how", ["run", "exec", "run in a user namespace"])
def test_our_terminal_stays_ours(runtime: Runtime, bundle: Bundle, host: Host, how: str) -> None:
    """A user who isn't its owner gets a pipe, which can be opened by name; all that is written comes, in order."""
    script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; echo named > /dev/stdout; test -t 1 || echo pipe"
    script += "; seq 1 3000; exit 3"
    if how == "exec":
        container = runtime.create(bundle.args("sleep", "1000"))
        assert runtime("start", container).code == 0
        words = ["exec", "--user", "1000:1000", container, "sh", "-c", script]
    else:
        bundle.process["user"] = {"uid": 1000, "gid": 1000}
        if how != "run":
            bundle.namespace("user")
            bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [
                {"containerID": 0, "hostID": 0, "size": 1000}, {"containerID": 1000, "hostID": 200000, "size": 10}]
        words = ["run", "--bundle", str(bundle.args(script).save()), runtime.new_id()]
    tty = Tty(runtime.command(*words))
    try:
        before = os.fstat(tty.slave)
        assert tty.wait() == 3
        while b"3000" not in tty.seen:
            tty.read(1)
        after = os.fstat(tty.slave)
        assert (before.st_uid, before.st_mode) == (after.st_uid, after.st_mode)
        lines = tty.seen.decode().split("\r\n")
        assert lines[:8] == ["out 1", "err 1", "out 2", "err 2", "out 3", "err 3", "named", "pipe"]
        assert lines[8:-1] == [str(number) for number in range(1, 3001)]
    finally:
        tty.close()


def test_its_owner_has_it_itself(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The control: nothing is between where nothing has to be."""
    tty = Tty(runtime.command("run", "--bundle", bundle.args("test -t 1 && test -t 2 && echo tty").save(),
                              runtime.new_id()))
    try:
        assert tty.wait() == 0 and tty.seen == b"tty\r\n"
    finally:
        tty.close()


def test_an_error_is_seen_though_a_pipe_was_there(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.process["capabilities"]["bounding"].append("CAP_TIME_TRAVEL")
    tty = Tty(runtime.command("run", "--bundle", bundle.args("no-such-program", "x").save(), runtime.new_id()))
    try:
        assert tty.wait() == 1
        assert b"CAP_TIME_TRAVEL" in tty.seen and b"executable file not found" in tty.seen
    finally:
        tty.close()
