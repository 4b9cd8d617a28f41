# SPDX-License-Identifier: Apache-2.0
"""Bytes from one descriptor to another as both are ready, each stream for itself.

Between pipes the kernel moves them (splice(2)): none come through here, and nothing grows.
"""

from __future__ import annotations

import os

from .loop import IN, OUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .loop import Loop

_CHUNK = 1 << 20  # bytes at once between pipes: more than one holds
_BUFFER = 32768
_TURNS = 16  # before another stream has its turn


class Relay:
    """From `source` to `sink`, both in non-blocking mode, until the one ends or the other is closed.

    `closed` is called then, once; whose the descriptors are, closes them.
    """

    __slots__ = ("_buffer", "_closed", "_loop", "_sink", "_source", "_splices", "_waits_for", "done")

    def __init__(self, loop: Loop, source: int, sink: int, closed: Callable[[], object], *, splices: bool) -> None:
        self._loop = loop
        self._source = source
        self._sink = sink
        self._closed = closed
        self._splices = splices
        self._buffer = b""
        self._waits_for = -1
        self.done = False
        self._wait(source, IN)

    def _wait(self, fd: int, events: int) -> None:
        if self._waits_for != fd:
            self._forget()
            self._loop.watch(fd, events, self._ready)
            self._waits_for = fd

    def _forget(self) -> None:
        if self._waits_for >= 0:
            self._loop.forget(self._waits_for)
            self._waits_for = -1

    def _ready(self, _events: int) -> None:
        try:
            for _ in range(_TURNS):
                if not (self._splice() if self._splices else self._copy()):
                    return
        except OSError:  # the other side is gone: EPIPE, and for a terminal EIO
            self.stop()

    def _splice(self) -> bool:
        """Whether to go on at once."""
        try:
            if not os.splice(self._source, self._sink, _CHUNK, flags=os.SPLICE_F_NONBLOCK):
                self.stop()
                return False
        except BlockingIOError:
            # Nothing there, or no room: wait for the other of the two.
            if self._waits_for == self._source:
                self._wait(self._sink, OUT)
            else:
                self._wait(self._source, IN)
            return False
        return True

    def _copy(self) -> bool:
        if not self._buffer:
            try:
                self._buffer = os.read(self._source, _BUFFER)
            except BlockingIOError:
                self._wait(self._source, IN)
                return False
            if not self._buffer:
                self.stop()
                return False
        try:
            self._buffer = self._buffer[os.write(self._sink, self._buffer):]
        except BlockingIOError:
            self._wait(self._sink, OUT)
            return False
        return True

    def stop(self) -> None:
        """No more."""
        if not self.done:
            self.done = True
            self._forget()
            self._closed()
