# SPDX-License-Identifier: Apache-2.0
"""A process's standard streams: containerd's fifos, files, loggers, or a terminal.

A path is a fifo (or a plain file) that containerd or its client has made; `file:` names a file, and
`binary:` a program that reads the output.  Empty is /dev/null.
"""

from __future__ import annotations

import array
import fcntl
import os
import stat
from _socket import AF_UNIX, CMSG_LEN, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket, socketpair
from _struct import pack

from pyrunc.errors import PyruncError, UsageError, kernel_error

from . import logger
from .loop import IN
from .relay import Relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .loop import Loop

_TIOCSWINSZ = 0x5414


class Streams:
    """What a request says of them."""

    __slots__ = ("stderr", "stdin", "stdout", "terminal")

    def __init__(self, stdin: str, stdout: str, stderr: str, terminal: bool) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = "" if terminal else stderr
        self.terminal = terminal


class Stdio:
    """The streams of one process: `open`, then the process takes `child` (or `console`), then `started`."""

    __slots__ = ("_fds", "_finished", "_input", "_keeps_stdin", "_loop", "_master", "_relays", "_socket", "_theirs",
                 "_waiters", "child", "console", "streams")

    def __init__(self, loop: Loop, streams: Streams) -> None:
        self._loop = loop
        self.streams = streams
        self.child: tuple[int, int, int] | None = None
        self.console = -1  # for a terminal: the socket that its master is to be sent over
        self._socket: socket | None = None
        self._master = -1
        self._keeps_stdin = -1  # a writer of the fifo, so that it doesn't end before CloseIO
        self._input: Relay | None = None
        self._relays: list[Relay] = []
        self._fds: set[int] = set()
        self._theirs: list[int] = []
        self._finished = False
        self._waiters: list[Callable[[], object]] = []

    # Before the process

    def open(self, container: str, namespace: str, ready: Callable[[PyruncError | None], object]) -> None:
        """Open them all; `ready` is called when a process may be started, perhaps at once."""
        try:
            if self.streams.terminal:
                ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
                self._socket = ours
                self.console = theirs.detach()
                self._theirs.append(self.console)
                ready(None)
                return
            out_scheme = _scheme(self.streams.stdout)[0]
            if out_scheme in logger.SCHEMES:
                self._open_logger(container, namespace, ready)
                return
            stdin = self._open_stdin()
            stdout = self._open_output(self.streams.stdout)
            stderr = stdout if self.streams.stderr == self.streams.stdout and self._is_file(stdout) else \
                self._open_output(self.streams.stderr)
            self.child = (stdin, stdout, stderr)
        except OSError as error:
            self.close()
            ready(kernel_error("open the container's streams", error))
        except PyruncError as error:
            self.close()
            ready(error)
        else:
            ready(None)

    @staticmethod
    def _is_file(fd: int) -> bool:
        return stat.S_ISREG(os.fstat(fd).st_mode)

    def _open_logger(self, container: str, namespace: str, ready: Callable[[PyruncError | None], object]) -> None:
        out, out_theirs = os.pipe2(os.O_CLOEXEC)
        err, err_theirs = os.pipe2(os.O_CLOEXEC)
        self._theirs += [out_theirs, err_theirs]
        try:
            logger.start(self._loop, self.streams.stdout, container, namespace, (out, err), ready)
        finally:
            os.close(out)
            os.close(err)
        self.child = (self._open_stdin(), out_theirs, err_theirs)

    def _mine(self, fd: int) -> int:
        self._fds.add(fd)
        return fd

    def _close(self, *fds: int) -> None:
        for fd in fds:
            if fd in self._fds:
                self._fds.discard(fd)
                os.close(fd)

    def _null(self) -> int:
        fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._theirs.append(fd)
        return fd

    def _open_stdin(self) -> int:
        """The process's end."""
        if not self.streams.stdin:
            return self._null()
        fifo = self._open_fifo_input()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self._theirs.append(reader)
        os.set_blocking(writer, False)
        self._mine(writer)
        self._input = Relay(self._loop, fifo, writer, lambda: self._close(writer), splices=True)
        return reader

    def _open_fifo_input(self) -> int:
        path = self.streams.stdin
        fifo = self._mine(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        if stat.S_ISFIFO(os.fstat(fifo).st_mode):
            self._keeps_stdin = self._mine(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        return fifo

    def _open_output(self, uri: str) -> int:
        """The process's end of an output."""
        if not uri:
            return self._null()
        sink, spare = self._open_sink(uri)
        if spare < 0:  # a file: nothing to relay
            self._fds.discard(sink)
            self._theirs.append(sink)
            return sink
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self._theirs.append(writer)
        os.set_blocking(reader, False)
        self._mine(reader)
        self._relay(reader, sink, spare, splices=True)
        return writer

    def _open_sink(self, uri: str) -> tuple[int, int]:
        """(where to write, and for a fifo its other end, held so that a reader may come and go)."""
        scheme, path = _scheme(uri)
        if scheme == "file":
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            return self._mine(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)), -1
        if scheme not in ("", "fifo"):
            raise UsageError(f"unknown STDIO scheme {scheme}")
        if not stat.S_ISFIFO(os.stat(path).st_mode):
            return self._mine(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY)), -1
        # The reader first: without one the writer's open would fail.
        spare = self._mine(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        return self._mine(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)), spare

    def _relay(self, source: int, sink: int, spare: int, *, splices: bool) -> None:
        def closed() -> None:
            self._close(source, sink, spare)
            self._look()

        self._relays.append(Relay(self._loop, source, sink, closed, splices=splices))

    # With the process

    def started(self) -> None:
        """The process has its ends, or there will be none: let go of ours."""
        for fd in self._theirs:
            os.close(fd)
        self._theirs.clear()
        self.child, self.console = None, -1

    def take_terminal(self, done: Callable[[PyruncError | None], object]) -> None:
        """Wait for the terminal's master, and relay it; at once if there is no terminal."""
        connection = self._socket
        if connection is None:
            done(None)
            return

        def ready(_events: int) -> None:
            self._loop.forget(connection.fileno())
            try:
                self._master = self._mine(_receive(connection))
                self._relay_terminal()
            except OSError as error:
                done(kernel_error("set up the terminal", error))
            except PyruncError as error:
                done(error)
            else:
                done(None)
            finally:
                connection.close()
                self._socket = None

        self._loop.watch(connection.fileno(), IN, ready)

    def _relay_terminal(self) -> None:
        os.set_blocking(self._master, False)
        if self.streams.stdout:
            sink, spare = self._open_sink(self.streams.stdout)
        else:
            sink, spare = self._mine(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)), -1
        self._relay(self._master, sink, spare, splices=False)
        if self.streams.stdin:
            # A descriptor of its own: one can be watched once only.
            copy = self._mine(os.dup(self._master))
            self._input = Relay(self._loop, self._open_fifo_input(), copy, lambda: self._close(copy), splices=False)

    def resize(self, width: int, height: int) -> None:
        """The terminal's size, in characters; nothing without a terminal."""
        if self._master in self._fds:
            fcntl.ioctl(self._master, _TIOCSWINSZ, pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0))

    def close_stdin(self) -> None:
        """What was written is still read; then the process sees the end."""
        self._close(self._keeps_stdin)
        self._keeps_stdin = -1

    def drained(self, seconds: float, done: Callable[[], object]) -> None:
        """Call `done` when all output has been handed on, at the latest in so many seconds."""
        self._finished = True
        called = False

        def once() -> None:
            nonlocal called
            if not called:
                called = True
                timer.cancel()
                done()

        timer = self._loop.later(seconds, once)
        self._waiters.append(once)
        self._look()

    def _look(self) -> None:
        if self._finished and all(relay.done for relay in self._relays):
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter()

    def close(self) -> None:
        """All of it."""
        for relay in (*self._relays, *([self._input] if self._input else ())):
            relay.stop()
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self.started()
        self._close(*list(self._fds))


def _scheme(uri: str) -> tuple[str, str]:
    """(scheme, path) of `scheme://path?query`, ("", path) of a path."""
    scheme, colon, rest = uri.partition("://")
    return (scheme, rest.partition("?")[0]) if colon else ("", uri)


def _receive(connection: socket) -> int:
    """The descriptor that was sent."""
    _, ancillary, _, _ = connection.recvmsg(4096, CMSG_LEN(4), MSG_CMSG_CLOEXEC)
    received = array.array("i")
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    if not received:
        raise PyruncError("the container's terminal did not arrive")
    return received[0]
