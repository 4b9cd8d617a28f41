# SPDX-License-Identifier: Apache-2.0
"""The caller's side of a foreground container's terminal: raw mode, a relay, the window's size."""

from __future__ import annotations

import array
import fcntl
import os
import select
import termios
from _socket import AF_UNIX, CMSG_LEN, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket, socketpair

from .errors import PyruncError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
else:
    import _signal  # what `signal` wraps; that one costs importing enum

_CHUNK = 65536


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
    """The caller's tty, put in raw mode and restored on every way out."""

    __slots__ = ("_saved", "fd", "master")

    def __init__(self, master: int) -> None:
        self.master = master
        self.fd = 0
        self._saved: list[object] | None = None

    def __enter__(self) -> Terminal:
        try:
            saved = termios.tcgetattr(self.fd)
        except termios.error:
            return self  # stdin is no terminal: relay bytes as they are
        self._saved = list(saved)
        raw = list(saved)
        raw[0] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR
                    | termios.IGNCR | termios.ICRNL | termios.IXON)
        raw[1] &= ~termios.OPOST
        raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        cc = list(raw[6])
        cc[termios.VMIN], cc[termios.VTIME] = 1, 0
        raw[6] = cc
        termios.tcsetattr(self.fd, termios.TCSANOW, raw)
        self.resize()
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            termios.tcsetattr(self.fd, termios.TCSANOW, self._saved)  # type: ignore[arg-type]

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        try:
            size = fcntl.ioctl(self.fd, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
        except OSError:
            return

    def relay(self, wake_fd: int, on_signal: Callable[[bytes], bool]) -> None:
        """Copy both ways until the container's side hangs up, or `on_signal` says to stop.

        `wake_fd` becomes readable when a signal came; its bytes are the signals' numbers.
        """
        poller = select.poll()
        poller.register(self.master, select.POLLIN)
        poller.register(wake_fd, select.POLLIN)
        poller.register(self.fd, select.POLLIN)
        stopping = False
        while True:
            events = poller.poll(0 if stopping else None)
            if stopping and not any(fd == self.master for fd, _ in events):
                return
            for fd, _ in events:
                if fd == wake_fd:
                    received = os.read(wake_fd, 512)
                    if _signal.SIGWINCH in received:
                        self.resize()
                    stopping = on_signal(received) or stopping
                elif fd == self.master:
                    try:
                        data = os.read(self.master, _CHUNK)
                    except OSError:  # EIO: the last user of the other end has closed it
                        data = b""
                    if not data:
                        return
                    _write_all(1, data)
                elif fd == self.fd:
                    data = os.read(self.fd, _CHUNK)
                    if not data:
                        poller.unregister(self.fd)
                        data = b"\x04"  # EOF on our side is ^D on a terminal
                    _write_all(self.master, data)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]
