# SPDX-License-Identifier: Apache-2.0
"""Commands at the same time: an id has one owner, each change happens once, nothing is left over."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from support import Bundle, Host, Result, Runtime, wait_for

from pyrunc.errors import ContainerError
from pyrunc.state import StateDir

Commands = list[tuple[str | Path, ...]]


def together(runtime: Runtime, commands: Commands, timeout: float = 60.0) -> list[Result]:
    """Start all `commands`, then wait for all of them."""
    place = runtime.root.parent
    started = []
    for index, words in enumerate(commands):
        err = open(place / f"err-{index}", "w+b")
        started.append((subprocess.Popen(runtime.command(*words), stdin=subprocess.DEVNULL,
                                         stdout=subprocess.DEVNULL, stderr=err), err))
    results = []
    for process, err in started:
        code = process.wait(timeout)
        with err:
            err.seek(0)
            results.append(Result(code, "", err.read().decode()))
    return results


def test_one_of_twenty_creates_gets_the_id(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """runtime.md, State: the id must be unique across all containers on this host."""
    container = runtime.new_id()
    results = together(runtime, [("create", "--bundle", bundle.save(), container)] * 20)
    losers = [result for result in results if result.code]
    assert len(losers) == 19
    assert {result.err for result in losers} == {
        f"pyrunc: create {container}: container with given ID already exists\n"}
    assert runtime.state(container)["status"] == "created"
    assert runtime("start", container).code == 0
    runtime.wait(container)
    assert runtime("delete", container).code == 0


def test_a_hundred_containers_in_batches(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.args("sleep", "100").save()
    for _ in range(10):
        ids = [runtime.new_id() for _ in range(10)]
        for step in (("create", "--bundle", bundle.path), ("start",), ("kill",)):
            words = [(*step, name, *(("KILL",) if step == ("kill",) else ())) for name in ids]
            failed = [result for result in together(runtime, words) if result.code or result.err]
            assert not failed, (step, failed)
        for name in ids:
            runtime.wait(name)
        assert not [result for result in together(runtime, [("delete", name) for name in ids]) if result.code]
    assert os.listdir(runtime.root) == []
    runtime.ids.clear()


def test_one_of_ten_starts_starts(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    output = tmp_path / "output"
    container = runtime.create(bundle.args("echo started; exec sleep 100"), output=output)
    results = together(runtime, [("start", container)] * 10)
    assert sorted(result.code for result in results) == [0] + [1] * 9
    assert {result.err for result in results if result.code} == {
        f"pyrunc: start {container}: cannot start an already running container\n"}
    wait_for(lambda: output.read_text() == "started\n", "the program")
    assert runtime.state(container)["status"] == "running"


def test_one_of_ten_deletes_deletes(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """The poststop hook runs once, however many ask."""
    marks = tmp_path / "marks"
    bundle.config["hooks"] = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo deleted >> {marks}"]}]}
    container = runtime.create(bundle)
    runtime("kill", container, "KILL")
    runtime.wait(container)
    results = together(runtime, [("delete", container)] * 10)
    assert sorted(result.code for result in results) == [0] + [1] * 9
    assert {result.err for result in results if result.code} == {
        f"pyrunc: delete {container}: container does not exist\n"}
    assert marks.read_text() == "deleted\n"


def test_deletes_by_force_all_succeed(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    bundle.config["hooks"] = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo deleted >> {marks}"]}]}
    container = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", container).code == 0
    results = together(runtime, [("delete", "--force", container)] * 10)
    assert [(result.code, result.err) for result in results] == [(0, "")] * 10
    assert marks.read_text() == "deleted\n"


def test_kill_races_exit(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """A kill finds the process or says that there is none: never another error, never another process."""
    for delay in range(6):
        container = runtime.create(bundle.args(f"usleep {delay * 4000}"))
        assert runtime("start", container).code == 0
        for result in together(runtime, [("kill", container, "TERM")] * 4):
            assert (result.code, result.err) in (
                (0, ""), (1, f"pyrunc: kill {container}: container not running\n")), result
        runtime("kill", container, "KILL")
        runtime.wait(container)
        assert runtime("delete", container).code == 0


def test_create_races_delete(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Whoever comes first, the id is whole afterwards: created, or free for the next create."""
    bundle.save()
    for _ in range(5):
        container = runtime.new_id()
        created, deleted = together(runtime, [("create", "--bundle", bundle.path, container),
                                              ("delete", "--force", container)])
        assert deleted.code == 0, deleted
        assert created.code == 0 or created.errors, created
        if container in os.listdir(runtime.root):
            assert created.code == 0 and runtime.state(container)["status"] == "created"
        assert runtime("delete", "--force", container).code == 0
        assert container not in os.listdir(runtime.root)


def test_state_during_create(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """runtime.md, State: `creating` while it is being created; the pid is not told before it is one."""
    go = tmp_path / "go"
    reached = tmp_path / "reached"
    hook = f"touch {reached}; while [ ! -e {go} ]; do sleep 0.01; done"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]}
    container = runtime.new_id()
    with open(tmp_path / "err", "wb") as err:
        create = subprocess.Popen(runtime.command("create", "--bundle", bundle.save(), container),
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err)
    wait_for(reached.exists, "the hook")
    state = runtime.state(container)
    assert (state["status"], state["pid"]) == ("creating", 0)
    assert runtime("list", "-q").lines == [container]
    killed = runtime("kill", container)
    assert (killed.code, killed.err) == (1, f"pyrunc: kill {container}: container not running\n")
    go.touch()
    assert create.wait(20) == 0, (tmp_path / "err").read_text()
    assert runtime.state(container)["status"] == "created"


def test_a_container_that_is_being_removed_is_none(runtime: Runtime, bundle: Bundle, host: Host,
                                                    tmp_path: Path) -> None:
    """Its files are gone and its directory not quite: it was `creating`, which clients that poll take for an error."""
    container = runtime.create(bundle)
    directory = runtime.root / container
    trace = tmp_path / "trace"
    delete = subprocess.Popen(["strace", "-o", trace, "-P", directory, "-e", "trace=rmdir", "-e",
                               "inject=rmdir:delay_enter=2s", *runtime.command("delete", "--force", container)])
    wait_for(lambda: not directory.exists() or not os.listdir(directory), "the directory to be empty")
    assert directory.exists(), "it was not slowed down"
    state = runtime("state", container)
    assert (state.code, state.err) == (1, f"pyrunc: state {container}: container does not exist\n")
    assert runtime("list", "-q").out == ""
    assert delete.wait(20) == 0


def test_what_half_a_create_has_left_is_deleted_under_its_lock(tmp_path: Path) -> None:
    """To look whether somebody else has the lock gave one's own away."""
    root = str(tmp_path / "root")
    mine = StateDir.claim(root, "half")
    theirs = StateDir.find(root, "half")
    assert not mine.locked() and theirs.locked()
    with pytest.raises(ContainerError, match="another command"):
        theirs.lock(timeout=0.0)
    mine.unlock()
    assert not theirs.locked()
    mine.remove()
    theirs.close()


def test_what_waits_for_a_lock_says_so(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """A start or a delete waits for the create that holds the lock, not for ever; then it says why."""
    go = tmp_path / "go"
    reached = tmp_path / "reached"
    hook = f"touch {reached}; while [ ! -e {go} ]; do sleep 0.01; done"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]}
    container = runtime.new_id()
    create = subprocess.Popen(runtime.command("create", "--bundle", bundle.save(), container),
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(reached.exists, "the hook")
    began = time.monotonic()
    with pytest.raises(ContainerError, match=f"another command works on container {container}"):
        StateDir.find(str(runtime.root), container).lock(timeout=0.3)
    assert 0.3 <= time.monotonic() - began < 5
    start = subprocess.Popen(runtime.command("start", container))
    go.touch()
    assert create.wait(20) == 0
    assert start.wait(20) == 0


def test_two_containers_cannot_share_a_cgroup(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The second create is refused, and the first container lives on: its cgroup is not the second's to clean."""
    bundle.linux["cgroupsPath"] = f"/pyrunc-shared-{os.getpid()}"
    first = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", first).code == 0
    refused = runtime("create", "--bundle", bundle.path, "second")
    assert refused.code == 1 and "/linux/cgroupsPath: cgroup " in refused.err and "is not empty" in refused.err
    assert runtime.state(first)["status"] == "running"
    assert os.listdir(runtime.root) == [first]


def test_two_creates_at_once_do_not_share_a_cgroup(runtime: Runtime, bundle: Bundle) -> None:
    """Both found it empty: one is refused, or each of them; and none ends the other, as the one that failed did."""
    name = f"pyrunc-at-once-{os.getpid()}"
    bundle.linux["cgroupsPath"] = f"/{name}"
    bundle.args("sleep", "100").save()
    try:
        for _ in range(5):
            ids = [runtime.new_id() for _ in range(3)]
            results = together(runtime, [("create", "--bundle", bundle.path, container) for container in ids])
            made = [container for container, result in zip(ids, results, strict=True) if result.code == 0]
            assert len(made) < 2, results
            assert all(len(result.errors) == 1 for result in results if result.code), results
            assert os.listdir(runtime.root) == made
            for container in made:
                assert runtime.state(container)["status"] == "created"
                assert runtime("delete", "--force", container).code == 0
    finally:
        # Who is refused can't remove what another one is in, and that one took it for given.
        for left in [*Path("/sys/fs/cgroup").glob(name), *Path("/sys/fs/cgroup").glob(f"**/{name}")]:
            if left.is_dir():
                left.rmdir()
