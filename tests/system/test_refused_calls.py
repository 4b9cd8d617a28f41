# SPDX-License-Identifier: Apache-2.0
"""A system call that the kernel refuses: the command fails in one line that says what it was doing, or does without.

Nothing is left, nothing is half done, and the next command on the same container works.  strace(1) is the kernel
that refuses.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from support import Bundle, Host, Result, Runtime, wait_for


def refused(runtime: Runtime, call: str, error: str, *words: str | Path, when: str = "1+", path: str | Path = "",
            where: Path, follow: bool = False) -> Result:
    """The command, each of whose calls (or one that `when` counts, of those with that path) ends in `error`.

    `follow`: its children's too; who lives on keeps strace.
    """
    only = [*(["-f"] if follow else []), *(["-P", str(path)] if path else [])]
    with open(where / "out", "w+") as out, open(where / "err", "w+") as err:
        done = subprocess.run(["strace", "-o", where / "trace", *only, "-e", f"trace={call}", "-e",
                               f"inject={call}:error={error}:when={when}", *runtime.command(*words)],
                              stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=60)
        out.seek(0)
        err.seek(0)
        assert "(INJECTED)" in (where / "trace").read_text()
        return Result(done.returncode, out.read(), err.read())


@pytest.fixture
def running(runtime: Runtime, bundle: Bundle) -> str:
    container = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", container).code == 0
    return container


@pytest.mark.parametrize("error", ["ENFILE", "ENOMEM"])
def test_who_can_not_be_asked_for_is_not_taken_for_dead(runtime: Runtime, running: str, tmp_path: Path,
                                                         error: str) -> None:
    """With the system's table of open files full, `delete` took a running container for a stopped one."""
    pid = runtime.state(running)["pid"]
    stat = f"/proc/{pid}/stat"
    for words in (("delete", running), ("state", running), ("update", "--pids-limit", "9", running)):
        result = refused(runtime, "openat", error, *words, path=stat, where=tmp_path)
        assert (result.code, len(result.errors)) == (1, 1), result
        assert f"ask whether process {pid} is alive" in result.err and error in result.err
    assert runtime.state(running)["status"] == "running"


def test_a_claim_that_fails_leaves_the_id(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """The directory was made, and could then not be opened: the id was taken for good."""
    container = runtime.new_id()
    bundle.save()
    directory = runtime.root / container
    runtime.root.mkdir(exist_ok=True)
    result = refused(runtime, "openat", "EMFILE", "create", "--bundle", bundle.path, container, path=directory,
                     where=tmp_path)
    assert (result.code, result.errors) == (1, [f"pyrunc: create {container}: open the state directory {directory}: "
                                                "openat: too many open files (EMFILE)"])
    assert not directory.exists()
    assert runtime.create(bundle, container_id=container) == container
    assert runtime("delete", "--force", container).code == 0


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_update_without_room_for_the_state_changes_nothing(runtime: Runtime, running: str, tmp_path: Path,
                                                           error: str) -> None:
    """All of it or none: the limits were changed before it was found that they can't be written down."""
    limit = _pids_max(running)
    before = limit.read_text()
    for call, path in (("write", runtime.root / running / ".state.json.new"), ("fsync", "")):
        result = refused(runtime, call, error, "update", "--pids-limit", "77", running, path=path, where=tmp_path)
        assert (result.code, len(result.errors)) == (1, 1), result
        assert limit.read_text() == before and "state.json" in result.err
        assert ".state.json.new" not in os.listdir(runtime.root / running)
    assert runtime("update", "--pids-limit", "77", running).code == 0
    assert limit.read_text() == "77\n"


def _pids_max(container: str) -> Path:
    found = [*Path("/sys/fs/cgroup").glob(f"pids/**/{container}/pids.max"),
             *Path("/sys/fs/cgroup").glob(f"{container}/pids.max")]
    assert found, "this machine has no pids controller"
    return found[0]


def test_a_start_that_can_not_begin_can_be_repeated(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    container = runtime.create(bundle.args("sleep", "100"))
    result = refused(runtime, "pidfd_open", "EMFILE", "start", container, where=tmp_path)
    assert (result.code, result.errors) == (1, [
        f"pyrunc: start {container}: open what the container's init waits for: too many open files (EMFILE)"])
    assert runtime.state(container)["status"] == "created"
    assert runtime("start", container).code == 0
    assert runtime.state(container)["status"] == "running"


def test_a_start_that_fails_half_way_leaves_nobody_running(runtime: Runtime, bundle: Bundle, host: Host,
                                                           tmp_path: Path) -> None:
    """The init was let go; that it became the program could not be seen."""
    container = runtime.create(bundle.args("sleep", "100"))
    pid = runtime.state(container)["pid"]
    result = refused(runtime, "poll", "ENOMEM", "start", container, where=tmp_path)
    assert (result.code, len(result.errors)) == (1, 1) and "start the container: cannot allocate memory" in result.err
    assert runtime("state", container).code == 1
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text(),
             "the init to be gone")


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "E2BIG", "EAGAIN"])
def test_clone3_refused(runtime: Runtime, bundle: Bundle, tmp_path: Path, error: str) -> None:
    """By a seccomp filter around us, an old kernel, a limit of the cgroup: nobody need be born in it."""
    assert " - cgroup2 " in Path("/proc/self/mountinfo").read_text(), "this machine has no cgroup v2 to be born in"
    container = runtime.new_id()
    bundle.args("sleep", "100").save()
    result = refused(runtime, "clone3", error, "create", "--bundle", bundle.path, container, where=tmp_path,
                     when="1" if error in ("E2BIG", "EAGAIN") else "1+")
    assert (result.code, result.err) == (0, "")
    pid = runtime.state(container)["pid"]
    assert container in Path(f"/proc/{pid}/cgroup").read_text().partition("0::")[2]


def test_a_create_that_fails_late_takes_its_pid_file_away(runtime: Runtime, bundle: Bundle, host: Host,
                                                           tmp_path: Path) -> None:
    """It names a process that is gone; and what it was written to before it got its name goes too."""
    container, pid_file = runtime.new_id(), tmp_path / "pid"
    bundle.save()
    words = ("create", "--bundle", bundle.path, "--pid-file", pid_file, container)
    result = refused(runtime, "write", "ENOSPC", *words, path=tmp_path / ".pid", where=tmp_path)
    assert (result.code, result.errors) == (1, [f"pyrunc: create {container}: write the pid file {pid_file}: no space "
                                                "left on device (ENOSPC)"])
    assert not pid_file.exists() and not (tmp_path / ".pid").exists()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "pidfd"))
    listener.listen()
    with listener:
        result = refused(runtime, "sendmsg", "ENOBUFS", *words[:-1], "--pidfd-socket", tmp_path / "pidfd", container,
                         where=tmp_path)
    assert (result.code, result.errors) == (1, [f"pyrunc: create {container}: send the pidfd: no buffer space "
                                                "available (ENOBUFS)"])
    assert not pid_file.exists()


def test_what_was_said_before_the_end_is_told(runtime: Runtime, running: str, tmp_path: Path) -> None:
    """The runtime was sending at that moment, and told the exit status alone (config.md, execCPUAffinity)."""
    process = tmp_path / "process.json"
    for when in ("initial", "final"):
        process.write_text(json.dumps({"args": ["true"], "cwd": "/", "env": ["PATH=/bin"],
                                       "execCPUAffinity": {when: "8000"}}))
        result = runtime("exec", "--process", process, running)
        assert (result.code, result.errors) == (255, [
            f"pyrunc: exec {running}: /process/execCPUAffinity/{when}: run on CPUs 8000: invalid argument (EINVAL)"])


@pytest.mark.parametrize("what", ["hostname", "domainname"])
def test_what_the_init_was_doing_is_told(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                         what: str) -> None:
    container = runtime.new_id()
    bundle.config[what] = "name"
    words = ("create", "--bundle", bundle.save(), container)
    result = refused(runtime, f"set{what}", "EPERM", *words, where=tmp_path, follow=True)
    assert (result.code, result.errors) == (1, [f"pyrunc: create {container}: /{what}: set the {what}: set{what}: "
                                                "operation not permitted (EPERM)"])


def test_the_error_of_a_call_that_nobody_expected_to_fail(runtime: Runtime, bundle: Bundle, host: Host,
                                                          tmp_path: Path) -> None:
    container = runtime.new_id()
    bundle.save()
    result = refused(runtime, "socketpair", "ENOMEM", "create", "--bundle", bundle.path, container, where=tmp_path)
    assert (result.code, result.errors) == (
        1, [f"pyrunc: create {container}: socketpair: cannot allocate memory (ENOMEM)"])


def test_a_failed_create_cleans_up_with_few_descriptors(runtime: Runtime, bundle: Bundle, host: Host,
                                                        tmp_path: Path) -> None:
    """What it still had open was missing for that; and the error of the cleaning hid the one that mattered."""
    bundle.save()
    seen = set()
    for count in range(7, 12):
        container = runtime.new_id()
        with open(tmp_path / "err", "w+") as err:
            code = subprocess.run(["sh", "-c", f'ulimit -n {count}; exec "$@"', "sh",
                                   *runtime.command("create", "--bundle", bundle.path, container)],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err).returncode
            err.seek(0)
            said = err.read()
        if f"create {container}: " in said:  # else it is Python, or a shell, that could not even start
            seen.add(count)
            assert (code, said.count("\n")) == (1, 1) and not (runtime.root / container).exists(), (count, said)
    assert seen


def test_half_a_configuration_is_none(runtime: Runtime, tmp_path: Path) -> None:
    """`spec` on a full disk: the empty file was there, and the next one refused to write over it."""
    result = refused(runtime, "write", "ENOSPC", "spec", "--bundle", tmp_path, path=tmp_path / "config.json",
                     where=tmp_path)
    assert (result.code, result.errors) == (1, [f"pyrunc: spec: write {tmp_path}/config.json: no space left on device "
                                                "(ENOSPC)"])
    assert not (tmp_path / "config.json").exists()
    assert runtime("spec", "--bundle", tmp_path).code == 0
