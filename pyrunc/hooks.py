# SPDX-License-Identifier: Apache-2.0
"""Hooks: programs of the user's run at points of the lifecycle (config.md, POSIX-platform Hooks).

Each gets the state on stdin, its own session, exactly the environment configured, and no descriptor
of ours.  createContainer and startContainer hooks are run by the container's init, after it has
entered the container's namespaces: nothing is imported or opened here at call time but the hook,
and no procfs is asked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time

from .errors import HookError
from .linux.process import close_from, reset_signals
from .signals import signal_name
from .spec.load import dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn

    from .spec.types import Config, Hook
else:
    import _signal  # what `signal` wraps; that one costs importing enum

CAPTURE_LIMIT = 64 * 1024  # what is kept, the end of it, of a hook's output
_DRAIN_LIMIT = 1024 * 1024  # read at most after the hook's exit: a daemon of its may never stop writing

_MFD_CLOEXEC = 1
_MFD_NOEXEC_SEAL = 8
_FIRST_FREE_FD = 4  # in the child: 0, 1, 2 and the pipe that reports a failing execve


def hooks_of(config: Config, kind: str) -> list[Hook]:
    """The hooks of `kind` in config.json, none if there are none."""
    hooks: Mapping[str, Any] = config.get("hooks") or {}
    return list(hooks.get(kind) or ())


def run_hooks(
    kind: str,
    hooks: Sequence[Hook],
    state: Mapping[str, object],
    *,
    pointer: str,
    cwd: str | None = None,
    env_default: Sequence[str] = (),
    report: Callable[[str], None] | None = None,
) -> None:
    """Run `hooks` in order; the first that fails ends it with a HookError.

    `kind` is `createRuntime` and so on, `pointer` that of the list in config.json, `state` what the
    hook reads (runtime.md, State), `cwd` where it starts (by default where we are), `env_default`
    the environment of a hook that has no `env`.
    """
    document = _document(state) if hooks else b""
    for index, hook in enumerate(hooks):
        if report is not None:
            report(f"{kind} hook {hook['path']}")
        _run(hook, document, f"{pointer}/{index}", cwd, env_default)


def run_hooks_warn(
    kind: str,
    hooks: Sequence[Hook],
    state: Mapping[str, object],
    *,
    pointer: str,
    cwd: str | None = None,
    report: Callable[[str], None] | None = None,
) -> list[str]:
    """Run all `hooks`, whatever fails; the failures as warnings (runtime.md, Lifecycle, 13: poststop).

    Where `cwd` is gone, which one of the hooks may have seen to, they start in /.
    """
    warnings: list[str] = []
    document = _document(state) if hooks else b""
    for index, hook in enumerate(hooks):
        if report is not None:
            report(f"{kind} hook {hook['path']}")
        try:
            there = cwd if cwd is None or os.path.isdir(cwd) else "/"
            _run(hook, document, f"{pointer}/{index}", there)
        except HookError as error:
            warnings.append(str(error))
    return warnings


def _document(state: Mapping[str, object]) -> bytes:
    return dump(state).encode("utf-8", "surrogateescape")


class _Program:
    """What execve(2) is given, encoded before the fork: the child has nobody to complain to."""

    __slots__ = ("args", "cwd", "env", "path")

    def __init__(self, hook: Hook, pointer: str, cwd: str | None, env_default: Sequence[str]) -> None:
        own = hook.get("env")
        env = own if own is not None else env_default
        self.path = _bytes(hook["path"], f"{pointer}/path")
        self.args = [_bytes(text, f"{pointer}/args/{i}") for i, text in enumerate(hook.get("args") or ())]
        self.args = self.args or [self.path]
        self.env: dict[bytes, bytes] = {}
        for i, text in enumerate(env):
            # Given twice, the last one counts, as with runc.
            name, equals, value = _bytes(text, f"{pointer}/env/{i}").partition(b"=")
            if not name or not equals:
                raise HookError(f"{text!a} is not NAME=VALUE", pointer=f"{pointer}/env/{i}")
            self.env[name] = value
        self.cwd = None if cwd is None else os.fsencode(cwd)


def _bytes(text: str, pointer: str) -> bytes:
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise HookError(f"{text!a} can't be encoded", pointer=pointer) from None
    if b"\0" in raw:
        raise HookError(f"{text!a} holds a NUL", pointer=pointer)
    return raw


class _Capture:
    """The end of what a hook wrote to one of its outputs."""

    __slots__ = ("data", "fd")

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.data = b""

    def read(self) -> int:
        """Take what is there now: the number of bytes."""
        try:
            piece = os.read(self.fd, CAPTURE_LIMIT)
        except BlockingIOError:
            return 0
        self.data = (self.data + piece)[-CAPTURE_LIMIT:]
        return len(piece)

    def drain(self) -> None:
        """Take what is left after the hook's exit, without waiting for those that still hold the pipe."""
        left = _DRAIN_LIMIT
        while left > 0 and (count := self.read()) > 0:
            left -= count

    def line(self) -> str:
        """All of it on one line that can't harm a terminal."""
        text = " ".join(self.data.decode("utf-8", "backslashreplace").split())
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _run(hook: Hook, document: bytes, pointer: str, cwd: str | None, env_default: Sequence[str] = ()) -> None:
    program = _Program(hook, pointer, cwd, env_default)
    fds: list[int] = []
    try:
        try:
            stdin = _stdin(document, fds)
            readers, writers = zip(_pipe(fds), _pipe(fds), _pipe(fds), strict=True)
            out, err, failure = captures = [_Capture(fd) for fd in readers]
            timeout = hook.get("timeout")
            deadline = None if timeout is None else time.monotonic() + timeout
            pid = os.fork()
        except OSError as error:
            raise HookError(f"hook {hook['path']}: can't be started", pointer=pointer,
                            errno=error.errno or 0) from None
        if pid == 0:
            _child(program, stdin, *writers)
        status = _wait(pid, captures, deadline)
    finally:
        for fd in fds:
            os.close(fd)
    if failure.data:
        raise _not_started(hook, pointer, failure.data, cwd)
    if status is None:
        raise _failed(hook, pointer, f"hook timed out after {timeout} s", out, err)
    if status != 0:
        what = f"exit status {status}" if status > 0 else f"killed by {signal_name(-status)}"
        raise _failed(hook, pointer, what, out, err)


def _stdin(document: bytes, fds: list[int]) -> int:
    """A descriptor to read `document` from, filled already.

    A hook need not read it, nor all of it: written whole before the fork there is no SIGPIPE to
    fear and nobody to wait for.  What is too much for a pipe (pipe(7): 64 KiB, less for a user
    with many pipes, more on request) goes into a memfd.
    """
    reader, writer = _pipe(fds)
    try:
        if len(document) > CAPTURE_LIMIT:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, len(document))
        os.set_blocking(writer, False)
        if os.write(writer, document) == len(document):
            return reader
    except OSError:
        pass  # no larger pipe for us
    finally:
        os.close(writer)
        fds.remove(writer)
    try:
        memory = os.memfd_create("state", _MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        memory = os.memfd_create("state", _MFD_CLOEXEC)  # before Linux 6.3
    fds.append(memory)
    rest = memoryview(document)
    while rest:
        rest = rest[os.write(memory, rest):]
    os.lseek(memory, 0, os.SEEK_SET)
    return memory


def _pipe(fds: list[int]) -> tuple[int, int]:
    ends = os.pipe2(os.O_CLOEXEC)
    fds.extend(ends)
    return ends


def _child(program: _Program, stdin: int, stdout: int, stderr: int, failure: int) -> NoReturn:
    """The forked child up to execve; what fails is written to `failure` as `ERRNO CALL`."""
    call = "setsid"
    try:
        os.setsid()  # a group of its own, to be killed with all it started
        # First out of the way of 0 to 3: any of ours may be there if the caller had those closed.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (stdin, stdout, stderr, failure)]
        failure = high[3]
        call = "dup2"
        for target, fd in enumerate(high[:3]):
            os.dup2(fd, target)
        failure = os.dup2(high[3], 3, inheritable=False)
        call = "close_range"
        close_from(_FIRST_FREE_FD)
        reset_signals()
        if program.cwd is not None:
            call = "chdir"
            os.chdir(program.cwd)
        call = "execve"
        os.execve(program.path, program.args, program.env)
    except OSError as error:
        os.write(failure, f"{error.errno} {call}".encode())
    except BaseException:
        os.write(failure, f"0 {call}".encode())
    finally:
        os._exit(127)


def _wait(pid: int, captures: list[_Capture], deadline: float | None) -> int | None:
    """Read the outputs until the hook has exited: its exit code (negative: a signal), None past `deadline`.

    The hook's exit ends it, not the end of the outputs: a daemon it left behind may hold those open.
    """
    pidfd = -1
    done = False
    try:
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        by_fd = {capture.fd: capture for capture in captures}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        while not done:
            wait = None
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                # Rounded up, not to spin through the last millisecond; poll(2) takes an int.
                wait = int(min(left, 3600) * 1000) + 1
            for fd, _ in poll.poll(wait):
                if fd == pidfd:
                    done = True
                else:
                    by_fd[fd].read()
    finally:
        if not done:
            _kill(pid)
        if pidfd >= 0:
            os.close(pidfd)
        status = _reap(pid)
    for capture in captures:
        capture.drain()
    return status if done else None


def _kill(pid: int) -> None:
    """Kill the hook and what is still in its process group (it can't be reused: `pid` isn't reaped yet)."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, _signal.SIGKILL)
        except ProcessLookupError:
            pass  # not yet a group leader


def _reap(pid: int) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        # The caller ignores SIGCHLD, so the kernel has reaped it (wait(2), NOTES).
        raise HookError("a hook's exit status is lost", hint="SIGCHLD must not be ignored") from None


def _failed(hook: Hook, pointer: str, what: str, out: _Capture, err: _Capture) -> HookError:
    said = err.line() or out.line()
    return HookError(f"hook {hook['path']}: {what}" + (f": {said}" if said else ""), pointer=pointer)


def _not_started(hook: Hook, pointer: str, data: bytes, cwd: str | None) -> HookError:
    number, _, call = data.decode("ascii", "replace").partition(" ")
    hint = ""
    if call == "execve" and number == str(errno.ENOENT):
        hint = "or the interpreter or loader that it names is missing"
    elif call == "execve" and number == str(errno.ENOEXEC):
        hint = "a script must name its interpreter in a first line that starts with #!"
    elif call == "chdir":
        hint = f"its working directory is {cwd}"
    return HookError(f"hook {hook['path']}", pointer=pointer, syscall=call, errno=int(number), hint=hint)
