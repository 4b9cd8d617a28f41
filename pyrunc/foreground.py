# SPDX-License-Identifier: Apache-2.0
"""`run` and `exec` in the foreground: wait, relay a terminal and signals; the exit code is the program's.

Unlike the rest of the library this takes over the process: it handles its signals and reaps its
children, as a command may.
"""

from __future__ import annotations

import os
import select

from .errors import ContainerError, PyruncError, UsageError
from .lifecycle import Container
from .linux import process as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable

    from .creation import CreateOptions
    from .execution import ExecOptions
    from .lifecycle import Report
    from .spec.types import Process
else:
    import _signal  # what `signal` wraps; that one costs importing enum

_NOT_FORWARDED = frozenset((_signal.SIGCHLD, _signal.SIGKILL, _signal.SIGSTOP, _signal.SIGURG, _signal.SIGWINCH,
                            32, 33))


def run(bundle: str, container_id: str, root: str, options: Callable[[int], CreateOptions], *, detach: bool,
        keep: bool, subreaper: bool, console_socket: str, report: Report) -> int:
    """Run a container; its exit code (128 + the signal that ended it), 0 with `detach`."""
    if console_socket and not detach:
        # runc's words; clients match them.
        raise UsageError("cannot use console socket if runc will not detach or allocate tty",
                         hint="add --detach, or leave out --console-socket")
    if subreaper and not detach:
        # What the container leaves behind comes to us to be reaped, not to the host's init.
        k.prctl(k.PR_SET_CHILD_SUBREAPER, 1)
    ours = theirs = -1
    if not detach and _wants_terminal(bundle):
        from .terminal import console_pair

        ours, theirs = console_pair()
    signals = Signals() if not detach else None
    container = Container.create(bundle, container_id, root, options(theirs), report)
    if theirs >= 0:
        os.close(theirs)
    # A failed start has deleted the container already.
    if signals is None:
        container.start()
        return 0
    pid = container.pid
    try:
        if ours >= 0:
            status = _relay(pid, ours, signals, container.start)
        else:
            container.start()
            status = signals.wait(pid)
    finally:
        signals.restore()
    if not keep:
        container.delete(force=True)
    return status


def execute(container: Container, wanted: Process, options: Callable[[int], ExecOptions], *, detach: bool,
            console_socket: str) -> int:
    """exec: start the process in the container; its exit code (128 + the signal that ended it), 0 with `detach`."""
    from . import execution

    if console_socket and not detach:
        raise UsageError("cannot use console socket if runc will not detach or allocate tty",
                         hint="add --detach, or leave out --console-socket")
    ours = theirs = -1
    if not detach and wanted.get("terminal"):
        from .terminal import console_pair

        ours, theirs = console_pair()
    signals = Signals() if not detach else None
    try:
        pid = execution.start(container, wanted, options(theirs))
        if theirs >= 0:
            os.close(theirs)
        if signals is None:
            return 0
        return _relay(pid, ours, signals) if ours >= 0 else signals.wait(pid)
    finally:
        if signals is not None:
            signals.restore()


def _wants_terminal(bundle: str) -> bool:
    """Whether process.terminal is set; a bundle that can't be read is left to create, which says why."""
    from . import bundle as bundles

    try:
        process = bundles.load(bundle).config.get("process")
        return process is not None and bool(process.get("terminal"))
    except PyruncError:
        return False


def _relay(pid: int, socket_fd: int, signals: Signals, start: Callable[[], None] | None = None) -> int:
    """Between our terminal and that of `pid`, whose master comes over the socket, until it ends; its exit code."""
    from .terminal import Terminal, receive_descriptor

    master = receive_descriptor(socket_fd)
    os.close(socket_fd)
    with Terminal(master) as terminal:
        if start is not None:
            start()

        def handle(numbers: bytes) -> bool:
            signals.handle(pid, numbers)
            return signals.status is not None

        terminal.relay(signals.fd, handle)
        return signals.wait(pid)


class Signals:
    """Our signals as bytes on a descriptor, forwarded to the init; its exit status when it is reaped."""

    __slots__ = ("_mask", "_saved", "_write", "fd", "status")

    def __init__(self) -> None:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.status: int | None = None
        self._saved = {}
        _signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in range(1, 65):
            if number in (_signal.SIGKILL, _signal.SIGSTOP, 32, 33):
                continue
            # Python ignores SIGPIPE; a write error is told as one.
            if number != _signal.SIGPIPE:
                self._saved[number] = _signal.signal(number, _noted)
        # A caller may have had some blocked; without SIGCHLD we would wait for ever.
        self._mask = _signal.pthread_sigmask(_signal.SIG_SETMASK, ())

    def restore(self) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)
        _signal.set_wakeup_fd(-1)
        for number, handler in self._saved.items():
            _signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._write)

    def handle(self, pid: int, numbers: bytes) -> None:
        """Forward what arrived; reap whatever has exited."""
        for number in numbers:
            if number in _NOT_FORWARDED:
                continue
            try:
                if self.status is None:  # not reaped: the pid is still the init's
                    os.kill(pid, number)
            except ProcessLookupError:
                pass
        self.reap(pid)

    def reap(self, pid: int) -> None:
        while True:
            try:
                reaped, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                if self.status is None:
                    raise ContainerError("the container's init was reaped by somebody else") from None
                return
            if reaped == 0:
                return
            if reaped == pid:
                code = os.waitstatus_to_exitcode(status)
                self.status = 128 - code if code < 0 else code

    def wait(self, pid: int) -> int:
        """Until the init has exited; its exit code."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        self.reap(pid)
        while self.status is None:
            poller.poll()
            self.handle(pid, os.read(self.fd, 512))
        return self.status


def _noted(_number: int, _frame: object) -> None:
    """The number is on the wake-up descriptor already."""
