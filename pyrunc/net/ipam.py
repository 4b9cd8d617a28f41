# SPDX-License-Identifier: Apache-2.0
"""Which addresses of a network are taken, and which free one is next: that which has been free the longest.

A file of a network's family has a word of eight bytes for each address: the first a counter, then, by the address's
offset in the subnet, 0 for one that was never used, all ones for one that is taken, else the counter's value when it
was given back.  So taking and giving back are one write each, which a crash can't tear, and the choice is one pass
over the words.  Of a subnet with more than 65,536 addresses the first so many are used.  The lock is the store's.
"""

from __future__ import annotations

import os
from _struct import pack, unpack

from pyrunc.errors import NetworkError, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from .model import Subnet

MAX_ADDRESSES = 1 << 16
_WORD = 8
_TAKEN = 0xFFFFFFFFFFFFFFFF


class Leases:
    """The addresses of `subnet`, but for those `reserved`; the file at `path` is made if it isn't there."""

    __slots__ = ("_fd", "_first", "_last", "_reserved", "subnet")

    def __init__(self, path: str, subnet: Subnet, reserved: Collection[str] = ()) -> None:
        self.subnet = subnet
        first, last = subnet.usable()
        self._first = max(first, 1) if subnet.size > 2 else first
        self._last = min(last, MAX_ADDRESSES - 1)
        self._reserved = {subnet.offset(address) for address in reserved if address in subnet}
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise kernel_error(f"the leases of {subnet}", error, syscall="openat") from None

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Leases:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def choose(self) -> str:
        """The free address that nobody has had for the longest time.  Raises NetworkError when none is free."""
        words = self._words()
        view = memoryview(words).cast("Q")
        taken = _TAKEN
        for offset in self._reserved:
            if self._first <= offset < len(view) - 1 + self._first:
                view[offset - self._first + 1] = taken
        best = min(view[1:], default=taken)
        if best == 0:
            offset = _index(view, 0) + self._first - 1
        else:
            fresh = len(view) - 1 + self._first
            while fresh in self._reserved:
                fresh += 1
            if fresh <= self._last:
                offset = fresh  # beyond the file's end: never used
            elif best == taken:
                raise NetworkError(f"no address of {self.subnet} is free",
                                   hint="`pyrunc net prune` takes back those of containers that are gone")
            else:
                offset = _index(view, best) + self._first - 1
        return self.subnet.address(offset)

    def check(self, address: str) -> None:
        """Whether it may be taken.  Raises NetworkError when not, UsageError when it isn't in the subnet."""
        offset = self.subnet.offset(address)
        first, last = self.subnet.usable()
        if not first <= offset <= last or offset in self._reserved:
            raise NetworkError(f"{address} is not for containers: it is the gateway's, or the subnet's own")
        if offset > self._last:
            raise NetworkError(f"{address} is not among the first {MAX_ADDRESSES} addresses of {self.subnet}")
        if self._get(offset) == _TAKEN:
            raise NetworkError(f"{address} is taken", hint="`pyrunc net inspect` shows by whom")

    def take(self, address: str) -> None:
        """Mark it as taken."""
        self._put(self.subnet.offset(address), _TAKEN)

    def release(self, address: str) -> None:
        """Give it back; no harm if it isn't taken."""
        offset = self.subnet.offset(address)
        if offset < self._first or offset > self._last or self._get(offset) != _TAKEN:
            return
        (count,) = unpack("=Q", os.pread(self._fd, _WORD, 0) or bytes(_WORD))
        os.pwrite(self._fd, pack("=Q", count + 1), 0)
        self._put(offset, count + 1)

    def taken(self) -> list[str]:
        """Every address that is taken."""
        view = memoryview(self._words()).cast("Q")
        return [self.subnet.address(at - 1 + self._first) for at in range(1, len(view)) if view[at] == _TAKEN]

    def _words(self) -> bytearray:
        """The file, whole words of it, the counter too."""
        size = os.fstat(self._fd).st_size
        words = bytearray(os.pread(self._fd, size - size % _WORD, 0))
        return words or bytearray(_WORD)

    def _get(self, offset: int) -> int:
        found = os.pread(self._fd, _WORD, self._place(offset))
        return int(unpack("=Q", found)[0]) if len(found) == _WORD else 0

    def _put(self, offset: int, value: int) -> None:
        os.pwrite(self._fd, pack("=Q", value), self._place(offset))

    def _place(self, offset: int) -> int:
        return (offset - self._first + 1) * _WORD


def _index(view: memoryview, value: int) -> int:
    """Where the first word of that value is, the counter apart."""
    return view.tolist().index(value, 1)
