# SPDX-License-Identifier: Apache-2.0
"""Hooks as programs: what they get, how they fail, what they can't do to us (config.md, Hooks)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from pyrunc.errors import HookError
from pyrunc.hooks import CAPTURE_LIMIT, run_hooks, run_hooks_warn

POINTER = "/hooks/createRuntime"
STATE = {"ociVersion": "1.3.0", "id": "web", "status": "creating", "pid": 7, "annotations": {"é": "\n"}}


def sh(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def run(*hooks: dict[str, Any], **options: Any) -> None:
    options.setdefault("state", STATE)
    run_hooks("createRuntime", hooks, pointer=POINTER, **options)


def failure(*hooks: dict[str, Any], **options: Any) -> HookError:
    with pytest.raises(HookError) as info:
        run(*hooks, **options)
    return info.value


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    """No descriptor and no child (zombies included) stays behind, whatever happened."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


# What a hook gets

def test_state_is_one_json_document_on_stdin(tmp_path: Path) -> None:
    run(sh(f"cat > {tmp_path}/state"))
    assert json.loads((tmp_path / "state").read_bytes()) == STATE


@pytest.mark.parametrize("size", [0, CAPTURE_LIMIT - 100, CAPTURE_LIMIT + 1, 1 << 20, 3_000_000])
def test_state_of_any_size(tmp_path: Path, size: int) -> None:
    state = {"id": "x" * size}
    run(sh(f"sleep 0.05; cat > {tmp_path}/state"), state=state)
    assert json.loads((tmp_path / "state").read_bytes()) == state


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_state_need_not_be_read(size: int) -> None:
    state = {"id": "x" * size}
    run({"path": "/bin/true"}, sh("exec <&-; sleep 0.05"), sh("head -c 1 >/dev/null"), state=state)


def test_each_hook_gets_the_state_anew(tmp_path: Path) -> None:
    run(sh(f"cat > {tmp_path}/1"), sh(f"cat > {tmp_path}/2"))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes() != b""


def test_no_sigpipe_where_its_default_kills(tmp_path: Path) -> None:
    """An embedded interpreter need not ignore SIGPIPE."""
    old = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        run(sh("exec <&- >&- 2>&-"), state={"id": "x" * 3_000_000})
    finally:
        signal.signal(signal.SIGPIPE, old)


def test_args_are_as_given_and_default_to_the_path(tmp_path: Path) -> None:
    script = tmp_path / "hook"
    script.write_text(f"#!/bin/sh\nprintf '%s|' \"$0\" \"$@\" >> {tmp_path}/out\n")
    script.chmod(0o755)
    path = str(script)
    run({"path": path}, {"path": path, "args": []}, {"path": path, "args": ["zero", "a b", ""]})
    assert (tmp_path / "out").read_text() == f"{script}|{script}|{script}|a b||"
    error = failure({"path": "/bin/sh", "args": ["zero", "-c", "echo $0; exit 1"]})
    assert "exit status 1: zero" in str(error)


@pytest.mark.parametrize(("hook", "default", "expected"), [
    ({}, [], ""),
    ({}, ["A=container"], "A=container"),
    ({"env": ["B=hook"]}, ["A=container"], "B=hook"),
    ({"env": []}, ["A=container"], ""),
    ({"env": ["A=1", "B= x=y ", "A=2"]}, [], "A=2 B= x=y"),
])
def test_env_is_exactly_the_configured_one(
    monkeypatch: pytest.MonkeyPatch, hook: dict[str, Any], default: list[str], expected: str
) -> None:
    monkeypatch.setenv("OURS", "never")
    program = 'print STDERR "$_=$ENV{$_} " for sort keys %ENV; exit 1'
    error = failure({"path": "/usr/bin/perl", "args": ["perl", "-e", program], **hook}, env_default=default)
    assert error.message == f"hook /usr/bin/perl: exit status 1: {expected}".removesuffix(": ")


def test_cwd(tmp_path: Path) -> None:
    assert failure(sh("pwd; exit 1"), cwd=str(tmp_path)).message.endswith(f": {tmp_path}")
    assert failure(sh("pwd; exit 1")).message.endswith(f": {os.getcwd()}")


def test_only_the_three_descriptors() -> None:
    leak = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(leak, True)
    high = os.dup2(leak, 900)
    try:
        script = "i=0; while [ $i -lt 1000 ]; do [ -e /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done; exit 1"
        assert failure(sh(script)).message == "hook /bin/sh: exit status 1: 0 1 2"
    finally:
        os.close(leak)
        os.close(high)


def test_with_our_own_standard_descriptors_closed(tmp_path: Path) -> None:
    """The pipes' descriptors are then 0 to 3 themselves."""
    script = textwrap.dedent(f"""\
        import os, sys
        os.closerange(0, 10)
        from pyrunc.hooks import run_hooks
        script = "cat > {tmp_path}/in; echo out; echo err >&2; exit 3"
        hook = {{"path": "/bin/sh", "args": ["sh", "-c", script]}}
        try:
            run_hooks("x", [hook], {{"id": "a"}}, pointer="/p")
        except Exception as error:
            fd = os.open({str(tmp_path / "error")!r}, os.O_WRONLY | os.O_CREAT)
            os.write(fd, str(error).encode())
        """)
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "error").read_text() == "/p/0: hook /bin/sh: exit status 3: err"
    assert json.loads((tmp_path / "in").read_text()) == {"id": "a"}


def test_signals_are_default_and_unblocked() -> None:
    old = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        args = ["grep", "-c", "-E", "Sig(Blk|Ign):.*[1-9a-f]", "/proc/self/status"]
        text = failure({"path": "/bin/grep", "args": args}).message
    finally:
        signal.signal(signal.SIGUSR1, old)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    assert text.endswith("exit status 1: 0")  # grep found no line


def test_a_session_of_its_own() -> None:
    text = failure(sh("cut -d' ' -f1,5,6 /proc/$$/stat; exit 1")).message
    pid, group, session = text.rsplit(": ", 1)[1].split()
    assert pid == group == session


# How it fails

def test_the_first_failure_ends_it(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    error = failure(sh(f"echo 1 >> {ran}"), sh(f"echo 2 >> {ran}; exit 5"), sh(f"echo 3 >> {ran}"))
    assert (tmp_path / "ran").read_text() == "1\n2\n"
    assert str(error) == f"{POINTER}/1: hook /bin/sh: exit status 5"


def test_stderr_is_shown_on_one_line() -> None:
    assert str(failure(sh("echo no; echo one >&2; printf 'two\\033[31m \\303\\251 \\377' >&2; exit 1"))) == (
        f"{POINTER}/0: hook /bin/sh: exit status 1: one two\\x1b[31m é \\xff")


def test_stdout_is_shown_for_want_of_stderr() -> None:
    assert failure(sh("echo out; exit 1")).message == "hook /bin/sh: exit status 1: out"


def test_output_of_a_hook_that_succeeds_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    run(sh("echo out; echo err >&2"))
    assert capfd.readouterr() == ("", "")


def test_output_is_kept_to_its_end() -> None:
    script = "head -c 3000000 /dev/zero | tr '\\0' a >&2; head -c 3000000 /dev/zero; echo end >&2; exit 1"
    message = failure(sh(script)).message
    assert message.endswith("aaaend")
    assert len(message) < CAPTURE_LIMIT + 100


def test_a_signal_is_named() -> None:
    assert failure(sh("kill -SEGV $$")).message == "hook /bin/sh: killed by SIGSEGV"


def test_missing_program() -> None:
    error = failure({"path": "/no/such"})
    assert (error.errno, error.syscall, error.pointer) == (errno.ENOENT, "execve", f"{POINTER}/0")
    assert str(error).startswith(f"{POINTER}/0: hook /no/such: execve: no such file or directory (ENOENT)")


@pytest.mark.parametrize(("content", "mode", "number"), [
    ("#!/bin/sh\n", 0o644, errno.EACCES),
    ("#!/no/interpreter\n", 0o755, errno.ENOENT),
    ("no program\n", 0o755, errno.ENOEXEC),
])
def test_not_a_program(tmp_path: Path, content: str, mode: int, number: int) -> None:
    script = tmp_path / "hook"
    script.write_text(content)
    script.chmod(mode)
    error = failure({"path": str(script)})
    assert error.errno == number and str(script) in str(error)


def test_missing_cwd() -> None:
    error = failure({"path": "/bin/true"}, cwd="/no/such")
    assert str(error) == (f"{POINTER}/0: hook /bin/true: chdir: no such file or directory (ENOENT) "
                          "(its working directory is /no/such)")


@pytest.mark.parametrize(("hook", "pointer"), [
    ({"path": "/bin/true\0"}, "0/path"),
    ({"path": "/bin/true", "args": ["a", "\ud800"]}, "0/args/1"),
    ({"path": "/bin/true", "env": ["A=1", "B"]}, "0/env/1"),
    ({"path": "/bin/true", "env": ["=x"]}, "0/env/0"),
    ({"path": "/bin/true", "env": ["A=\0"]}, "0/env/0"),
])
def test_what_execve_can_not_take(hook: dict[str, Any], pointer: str) -> None:
    assert failure(hook).pointer == f"{POINTER}/{pointer}"


def test_no_descriptors_left_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe2(_: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "pipe2", pipe2)
    assert failure({"path": "/bin/true"}).errno == errno.EMFILE


def test_ignored_sigchld_is_an_error_not_a_success() -> None:
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert "SIGCHLD" in str(failure({"path": "/bin/true"}))
    finally:
        signal.signal(signal.SIGCHLD, old)


# Time

def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_timeout_kills_the_hook_and_its_group(tmp_path: Path) -> None:
    started = time.monotonic()
    script = f"trap '' TERM INT; sleep 60 & echo $! > {tmp_path}/pid; echo said >&2; wait"
    error = failure(sh(script, timeout=1))
    assert 1 <= time.monotonic() - started < 5
    assert str(error) == f"{POINTER}/0: hook /bin/sh: hook timed out after 1 s: said"
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def test_timeout_of_one_that_fills_its_pipe() -> None:
    assert "timed out" in failure({"path": "/usr/bin/yes", "timeout": 1}).message


def test_timeout_not_reached() -> None:
    run({"path": "/bin/true", "timeout": 10**15})


def test_a_daemon_that_holds_the_pipes_does_not_hold_us(tmp_path: Path) -> None:
    started = time.monotonic()
    pid = tmp_path / "pid"
    run(sh(f"setsid sh -c 'echo $$ > {pid}; exec sleep 60' & while ! [ -s {pid} ]; do :; done"))
    assert time.monotonic() - started < 10
    daemon = int((tmp_path / "pid").read_text())
    assert alive(daemon)
    os.kill(daemon, signal.SIGKILL)


def test_a_daemon_that_never_stops_writing(tmp_path: Path) -> None:
    started = time.monotonic()
    error = failure(sh(f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec yes >&2' & "
                       f"while ! [ -s {tmp_path}/pid ]; do :; done; sleep 0.1; exit 1"))
    with contextlib.suppress(ProcessLookupError):  # SIGPIPE was quicker
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert time.monotonic() - started < 10
    assert error.message.startswith("hook /bin/sh: exit status 1: ")


# Around it

def test_report(tmp_path: Path) -> None:
    lines: list[str] = []
    run({"path": "/bin/true"}, sh(":"), report=lines.append)
    assert lines == ["createRuntime hook /bin/true", "createRuntime hook /bin/sh"]


def test_warnings_and_all_run(tmp_path: Path) -> None:
    """runtime.md, Lifecycle: a failing poststop hook is a warning, and the rest still run."""
    hooks = [sh(f"echo 1 >> {tmp_path}/ran; exit 1"), {"path": "/no/such"}, sh(f"echo 3 >> {tmp_path}/ran")]
    warnings = run_hooks_warn("poststop", hooks, STATE, pointer="/hooks/poststop")
    assert (tmp_path / "ran").read_text() == "1\n3\n"
    assert warnings[0] == "/hooks/poststop/0: hook /bin/sh: exit status 1"
    assert len(warnings) == 2 and warnings[1].startswith("/hooks/poststop/1: hook /no/such: execve: ")


def test_inside_a_bare_root_as_pid_1(tmp_path: Path) -> None:
    """The container's init runs hooks without procfs, library or dumpability, as pid 1 with strays to reap.

    The root holds busybox alone, so an import or an open by path at call time would fail.
    """
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").write_bytes(Path("/bin/busybox").read_bytes())
    (tmp_path / "bin/sh").chmod(0o755)
    script = textwrap.dedent(f"""\
        import os, sys
        from pyrunc.errors import PyruncError
        from pyrunc.hooks import run_hooks
        from pyrunc.linux import process
        process.unshare(process.CLONE_NEWPID | process.CLONE_NEWNS)
        pid = os.fork()
        if pid:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os.chroot({str(tmp_path)!r})
        os.chdir("/")
        process.prctl(process.PR_SET_DUMPABLE, 0)
        stray = os.fork()
        if not stray:
            os._exit(0)
        loaded = set(sys.modules)
        def sh(script, **more):
            return {{"path": "/bin/sh", "args": ["sh", "-c", script], **more}}
        text = ""
        for hook in (sh("(: &); exit 0"), sh("read a; echo $a $PPID $(pwd); exit 4"), {{"path": "/nope"}},
                     sh("while :; do :; done", timeout=1)):
            try:
                run_hooks("startContainer", [hook], {{"id": "a"}}, pointer="/hooks/startContainer", cwd="/")
            except PyruncError as error:
                text += str(error) + chr(10)
        os.write(1, (text + repr(sorted(set(sys.modules) - loaded))).encode())
        os._exit(0)
        """)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert result.stderr == ""
    pointer = "/hooks/startContainer/0: hook"
    lines = result.stdout.splitlines()
    assert lines[0] == f'{pointer} /bin/sh: exit status 4: {{"id":"a"}} 1 /'
    assert lines[1].startswith(f"{pointer} /nope: execve: no such file or directory (ENOENT)")
    assert lines[2:] == [f"{pointer} /bin/sh: hook timed out after 1 s", "[]"]
