# SPDX-License-Identifier: Apache-2.0
"""The caller's side of a foreground container's terminal: raw mode, a relay, the window's size."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import termios
from _socket import AF_UNIX, CMSG_LEN, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket, socketpair

from .errors import PyruncError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable, Mapping

    Watched = Mapping[int, Callable[[], bool]]
else:
    import _signal  # what `signal` wraps; that one costs importing enum

# What a pipe that polls as writable takes without blocking (pipe(7), PIPE_BUF); a pty gives no more at once.
_CHUNK = 4096
_EOF = b"\x04"  # ^D
_AGAIN = (errno.EAGAIN, errno.EINTR)


def console_pair() -> tuple[int, int]:
    """(ours, the one for the container's side) of a socket over which the master will come."""
    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
    return ours.detach(), theirs.detach()


def receive_descriptor(socket_fd: int) -> int:
    """The descriptor sent over `socket_fd`.  Raises PyruncError when none came."""
    connection = socket(fileno=socket_fd)
    try:
        _, ancillary, _, _ = connection.recvmsg(4096, CMSG_LEN(4 * 4), MSG_CMSG_CLOEXEC)
    finally:
        connection.detach()
    received = array.array("i")
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    if not received:
        raise PyruncError("the container's terminal did not arrive")
    for extra in received[1:]:
        os.close(extra)
    return received[0]


class Terminal:
    """The caller's tty, put in raw mode and restored on every way out, and the container's terminal's master."""

    __slots__ = ("_saved", "_sized", "master")

    def __init__(self, master: int) -> None:
        self.master = master
        # Ours alone: the container has the other end.  What it doesn't read must not keep us from reading.
        os.set_blocking(master, False)
        # Any of the three tells the window's size; only what is typed has to come raw.
        self._sized = next((fd for fd in (0, 1, 2) if os.isatty(fd)), -1)
        self._saved: list[object] | None = None

    def __enter__(self) -> Terminal:
        try:
            self._saved = list(termios.tcgetattr(0))
        except termios.error:
            pass  # stdin is no terminal: relay bytes as they are
        self.take_over()
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is None:
            return
        # In the background setting a terminal stops who does it, but for those who block the signal (tcsetattr(3)).
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGTTOU,))
        try:
            termios.tcsetattr(0, termios.TCSANOW, self._saved)  # type: ignore[arg-type]
        except termios.error:
            pass  # hung up
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)

    def take_over(self) -> None:
        """Raw mode and the window's size: at the start, and when a shell has had the terminal meanwhile.

        In the background this stops us, as it does any program, until the shell gives the terminal back.
        """
        raw = _raw(self._saved) if self._saved is not None else None
        while raw is not None:
            try:
                termios.tcsetattr(0, termios.TCSANOW, raw)  # type: ignore[arg-type]
                break
            except termios.error as error:
                if error.args[0] != errno.EINTR:  # continued after that stop
                    break  # hung up: reading it will tell
        self.resize()

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        if self._sized < 0:
            return
        try:
            size = fcntl.ioctl(self._sized, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
        except OSError:
            return

    def relay(self, wake_fd: int, on_signal: Callable[[bytes], bool], others: Watched) -> None:
        """Copy both ways until the container's side hangs up, or `on_signal` says to stop and all has been read.

        `wake_fd` becomes readable when a signal came; its bytes are the signals' numbers.  `others` are
        called when their descriptor is readable, for as long as they return true.
        """
        typed = _Flow(0, self.master)
        shown = _Flow(self.master, 1)
        others = dict(others)
        stopping = False
        while True:
            flows = [shown] if stopping else [shown, typed]
            ready = _poll([(wake_fd, select.POLLIN), *((fd, select.POLLIN) for fd in others),
                           *(flow.waits_for() for flow in flows)],
                          0 if stopping and not shown.pending else None)
            if ready.get(wake_fd):
                numbers = os.read(wake_fd, 512)
                if _signal.SIGCONT in numbers:
                    self.take_over()
                elif _signal.SIGWINCH in numbers:
                    self.resize()
                stopping = on_signal(numbers) or stopping
            for fd in [fd for fd in others if ready.get(fd)]:
                if not others[fd]():
                    del others[fd]
            moved = [flow.move(ready) for flow in flows]
            if shown.ended and not shown.pending:
                return
            if stopping and not any(moved) and not shown.pending and not ready.get(wake_fd):
                return
            if typed.ended and not typed.told:
                typed.told = True
                typed.pending += self._end_of_file(typed.last)

    def _end_of_file(self, last: bytes) -> bytes:
        """What tells a program that reads lines from the terminal that no more will come; nothing to one that doesn't.

        The first one after an unfinished line only ends that (termios(3), VEOF).
        """
        try:
            cooked = termios.tcgetattr(self.master)[3] & termios.ICANON
        except termios.error:
            return b""
        return (_EOF if last in (b"", b"\n", b"\r") else _EOF + _EOF) if cooked else b""


class _Flow:
    """Bytes on their way from `source` to `target`: a chunk is read when the one before has been written."""

    __slots__ = ("broken", "ended", "last", "pending", "source", "target", "told")

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.pending = b""
        self.last = b""
        self.ended = False
        self.told = False
        self.broken = False  # nobody takes them any more: what comes is thrown away, and the container lives on

    def waits_for(self) -> tuple[int, int]:
        """The descriptor and the event of poll(2) with which it can go on; none when it has ended."""
        if self.pending:
            return self.target, select.POLLOUT
        return (-1, 0) if self.ended else (self.source, select.POLLIN)

    def move(self, ready: Mapping[int, int]) -> bool:
        """Do what can be done without waiting; whether that was anything."""
        fd, event = self.waits_for()
        if not ready.get(fd, 0) & (event | select.POLLHUP | select.POLLERR | select.POLLNVAL):
            return False
        try:
            if self.pending:
                self.pending = self.pending[os.write(self.target, self.pending):]
            else:
                self._read()
        except OSError as error:
            if error.errno in _AGAIN:
                return False
            if self.pending:
                self.broken, self.pending = True, b""
            else:
                self.ended = True  # EIO: the last user of the other end has closed it, or ours was hung up
        return True

    def _read(self) -> None:
        data = os.read(self.source, _CHUNK)
        self.ended = not data
        self.last = data[-1:] or self.last
        self.pending = b"" if self.broken else data


def _poll(wanted: Iterable[tuple[int, int]], timeout: int | None) -> dict[int, int]:
    """poll(2): what is ready, by descriptor; one may be wanted for two things."""
    events: dict[int, int] = {}
    for fd, event in wanted:
        if fd >= 0:
            events[fd] = events.get(fd, 0) | event
    poller = select.poll()
    for fd, event in events.items():
        poller.register(fd, event)
    return dict(poller.poll(timeout))


def _raw(saved: list[object]) -> list[object]:
    """cfmakeraw(3)."""
    raw = list(saved)
    numbers: list[int] = raw[:4]  # type: ignore[assignment]
    raw[0] = numbers[0] & ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR
                            | termios.IGNCR | termios.ICRNL | termios.IXON)
    raw[1] = numbers[1] & ~termios.OPOST
    raw[2] = numbers[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[3] = numbers[3] & ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    cc = list(raw[6])  # type: ignore[call-overload]
    cc[termios.VMIN], cc[termios.VTIME] = 1, 0
    raw[6] = cc
    return raw
