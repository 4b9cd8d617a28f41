# SPDX-License-Identifier: Apache-2.0
"""Pieces of bytes from one thread to another, a few at a time."""

from __future__ import annotations

import threading
from collections import deque
from typing import final

_DEPTH = 4


class Abandoned(Exception):
    """The other side is gone; what went wrong there is told there."""


@final
class Pipe:
    """A bounded queue that reads like a file."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._broken = False

    def write(self, data: bytes) -> None:
        """Raises Abandoned when nobody reads any more."""
        with self._changed:
            while len(self._pieces) >= _DEPTH and not self._broken:
                self._changed.wait()
            if self._broken:
                raise Abandoned
            self._pieces.append(data)
            self._changed.notify_all()

    def read(self, size: int = -1, /) -> bytes:
        """The next piece, cut to `size`; b"" at the end.  Raises Abandoned when the writer broke off."""
        with self._changed:
            while not self._pieces and not self._ended and not self._broken:
                self._changed.wait()
            if self._broken:
                raise Abandoned
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            if 0 <= size < len(piece):
                self._pieces.appendleft(piece[size:])
                piece = piece[:size]
            self._changed.notify_all()
            return piece

    def end(self) -> None:
        """Nothing more comes."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Wake the other side, which gets Abandoned."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()
