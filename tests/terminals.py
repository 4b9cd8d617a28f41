# SPDX-License-Identifier: Apache-2.0
"""Terminals for tests: one as an emulator gives it to a command, and who waits at a console socket."""

from __future__ import annotations

import array
import fcntl
import os
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path


class Tty:
    """A terminal of ours and a command on it that leads its session, as under a terminal emulator."""

    def __init__(self, command: list[str], rows: int = 24, columns: int = 80) -> None:
        self.master, self.slave = os.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.process = subprocess.Popen(command, stdin=self.slave, stdout=self.slave, stderr=self.slave,
                                        start_new_session=True, preexec_fn=self._control)

    def _control(self) -> None:
        # As a login shell has them, also where the tests are run in the background of one.
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str, after: str = "") -> None:
        """Read until `text` has come, somewhere after the first `after`."""
        deadline = time.monotonic() + 20
        wanted = re.compile(re.escape(after.encode()) + b".*" + re.escape(text.encode()), re.DOTALL)
        while not wanted.search(self.seen):
            assert time.monotonic() < deadline, f"{text!r} not in {self.seen!r}"
            self.read(0.2)

    def read(self, timeout: float) -> None:
        if select.select([self.master], [], [], timeout)[0]:
            self.seen += os.read(self.master, 65536)

    def wait(self) -> int:
        """The command's exit code, with all it has said read."""
        deadline = time.monotonic() + 20
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"still running after {self.seen!r}"
            self.read(0.02)
        self.read(0)
        return code

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


class Listener:
    """Who waits for the terminal, as conmon or a shim does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(1)
        self.socket.settimeout(20)

    def receive(self) -> tuple[bytes, list[int]]:
        connection, _ = self.socket.accept()
        with connection:
            data, ancillary, _, _ = connection.recvmsg(256, socket.CMSG_LEN(64))
            connection.settimeout(20)
            assert connection.recv(1) == b""  # the end: nobody keeps the connection, a created container's init neither
        fds = array.array("i")
        for _, _, raw in ancillary:
            fds.frombytes(raw)
        return data, list(fds)


def read_all(master: int) -> bytes:
    """What comes until the other end is closed."""
    seen = b""
    try:
        while select.select([master], [], [], 20)[0] and (data := os.read(master, 65536)):
            seen += data
    except OSError:
        pass  # EIO: hung up
    return seen
