# SPDX-License-Identifier: Apache-2.0
"""A seccomp agent: it takes a listener over its socket and answers what comes from it (seccomp_unotify(2))."""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_RECV, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1

Answer = tuple[int, int, bool]  # value, errno, whether the kernel is to do the call after all
CONTINUE: Answer = (0, 0, True)


class Agent:
    """Serves every listener it is given, in threads; `answers` are by the call's number, others are let through."""

    def __init__(self, place: Path, answers: dict[int, Answer] | None = None, *,
                 given: Callable[[int], None] | None = None, hasty: bool = False) -> None:
        self.path = place / "agent"
        self.answers = answers or {}
        self.given = given  # what to do with a listener instead of serving it
        self.hasty = hasty  # closes the connection with the first that comes, as CRI-O's
        self.states: list[dict[str, Any]] = []
        self.listeners: list[str] = []
        self.seen: list[int] = []
        self.connections = 0
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(self.path))
        self._server.listen()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, what: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=what, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._take, connection)

    def _take(self, connection: socket.socket) -> None:
        fds = array.array("i")
        text = b""
        with connection:
            while True:
                data, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_LEN(4 * fds.itemsize))
                for level, kind, content in ancillary:
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                        fds.frombytes(content)
                text += data
                if not data or self.hasty:
                    break
        if not text:
            return
        self.states.append(json.loads(text))
        assert len(fds) == 1, fds
        self.listeners.append(os.readlink(f"/proc/self/fd/{fds[0]}"))
        if self.given:
            self.given(fds[0])
        else:
            self._serve(fds[0])

    def _serve(self, listener: int) -> None:
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        while True:
            if poller.poll()[0][1] & select.POLLHUP:
                break  # nobody is under the filter any more
            request = bytearray(80)
            try:
                fcntl.ioctl(listener, _RECV, request)
            except FileNotFoundError:
                continue  # whoever asked is gone
            identity, _, _, number = struct.unpack_from("=QIIi", request)
            self.seen.append(number)
            value, error, go_on = self.answers.get(number, CONTINUE)
            try:
                fcntl.ioctl(listener, _SEND, bytearray(struct.pack("=QqiI", identity, value, -error,
                                                                   _CONTINUE if go_on else 0)))
            except FileNotFoundError:
                continue
        os.close(listener)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.path.unlink()
        for thread in self._threads:
            thread.join(timeout=0.2)  # one that serves a container goes on as long as that lives
