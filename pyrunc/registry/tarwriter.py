# SPDX-License-Identifier: Apache-2.0
"""A writer of tar streams: ustar, with PAX records for what doesn't fit there; the same bytes for the same files."""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING, final

from pyrunc.errors import ImageError

from .tarstream import BLOCK, CHARACTER, DEVICE, DIRECTORY, FIFO, LINK, REGULAR, SYMLINK
from .trees import open_to_read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .idmap import Ownership

_CHUNK = 1 << 20
_OCTAL_8 = 0o7777777
_OCTAL_12 = 0o77777777777
_SECOND = 1_000_000_000
_KINDS = {stat.S_IFREG: REGULAR, stat.S_IFLNK: SYMLINK, stat.S_IFCHR: CHARACTER, stat.S_IFBLK: DEVICE,
          stat.S_IFDIR: DIRECTORY, stat.S_IFIFO: FIFO}


@final
class TarWriter:
    """Writes entries to `sink`; times later than `epoch` (SOURCE_DATE_EPOCH, in seconds) become it."""

    def __init__(self, sink: Callable[[bytes], object], epoch: int | None = None) -> None:
        self._sink = sink
        self._epoch = None if epoch is None else epoch * _SECOND
        self._links: dict[tuple[int, int], bytes] = {}

    def header(self, name: bytes, kind: bytes, *, mode: int = 0o644, uid: int = 0, gid: int = 0, size: int = 0,
               mtime: int = 0, link: bytes = b"", device: int = 0, xattrs: Mapping[str, bytes] | None = None) -> None:
        """An entry's header; `mtime` in nanoseconds.  Its data, of `size` bytes, is written by `data`."""
        if self._epoch is not None:
            mtime = min(mtime, self._epoch)
        records: list[tuple[bytes, bytes]] = []
        if len(name) > 100 or not name.isascii():
            records.append((b"path", name))
        if len(link) > 100 or not link.isascii():
            records.append((b"linkpath", link))
        if mtime % _SECOND or not 0 <= mtime // _SECOND <= _OCTAL_12:
            records.append((b"mtime", _time(mtime)))
        for key, number, limit in ((b"uid", uid, _OCTAL_8), (b"gid", gid, _OCTAL_8), (b"size", size, _OCTAL_12)):
            if number > limit:
                records.append((key, b"%d" % number))
        records += [(b"SCHILY.xattr." + os.fsencode(key), value) for key, value in sorted((xattrs or {}).items())]
        if records:
            data = b"".join(_record(key, value) for key, value in records)
            self._block(b"PaxHeaders/" + name[-80:].lstrip(b"/"), b"x", size=len(data))
            self._sink(data + b"\0" * (-len(data) % BLOCK))
        seconds = mtime // _SECOND
        self._block(name[:100], kind, mode=mode, uid=min(uid, _OCTAL_8), gid=min(gid, _OCTAL_8),
                    size=min(size, _OCTAL_12), mtime=seconds if 0 <= seconds <= _OCTAL_12 else 0, link=link[:100],
                    device=device)

    def _block(self, name: bytes, kind: bytes, *, mode: int = 0o644, uid: int = 0, gid: int = 0, size: int = 0,
               mtime: int = 0, link: bytes = b"", device: int = 0) -> None:
        head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, mtime)
        tail = b"%s%sustar\x0000%s%07o\0%07o\0" % (kind, link.ljust(100, b"\0"), b"\0" * 64, os.major(device),
                                                   os.minor(device))
        tail = tail.ljust(BLOCK - 156, b"\0")
        self._sink(head + b"%06o\0 " % (sum(head) + sum(tail) + 8 * 32) + tail)

    def data(self, fd: int, size: int, what: str) -> None:
        """`size` bytes of the file, padded; zeros when it has become shorter meanwhile is an error."""
        left = size
        while left:
            piece = os.read(fd, min(_CHUNK, left))
            if not piece:
                raise ImageError(f"{what}: it has become shorter while it was read", hint="pause what writes to it")
            self._sink(piece)
            left -= len(piece)
        self._sink(b"\0" * (-size % BLOCK))

    def content(self, name: bytes, content: bytes, mtime: int = 0) -> None:
        """A plain file of that content."""
        self.header(name, REGULAR, size=len(content), mtime=mtime)
        self._sink(content + b"\0" * (-len(content) % BLOCK))

    def file(self, name: bytes, parent: int, entry: bytes, info: os.stat_result, ownership: Ownership) -> bool:
        """The file `entry` of the directory `parent` under `name`, attributes and all; False: tar has no such kind."""
        kind = _KINDS.get(stat.S_IFMT(info.st_mode))
        if kind is None:
            return False
        uid, gid = ownership.to_image(info.st_uid, info.st_gid)
        shown = name + b"/" if kind == DIRECTORY else name
        header = partial(self.header, shown, mode=stat.S_IMODE(info.st_mode), uid=uid, gid=gid, mtime=info.st_mtime_ns)
        if info.st_nlink > 1 and kind != DIRECTORY:
            first = self._links.setdefault((info.st_dev, info.st_ino), name)
            if first != name:
                header(LINK, link=first)
                return True
        xattrs = read_xattrs(parent, entry)
        if kind == REGULAR:
            try:
                fd = open_to_read(parent, entry)
            except OSError as error:
                raise ImageError(f"{os.fsdecode(name)}: {os.strerror(error.errno or 0)}") from None
            try:
                size = os.fstat(fd).st_size
                header(kind, size=size, xattrs=xattrs)
                self.data(fd, size, os.fsdecode(name))
            finally:
                os.close(fd)
        elif kind == SYMLINK:
            header(kind, link=os.readlink(entry, dir_fd=parent), xattrs=xattrs)
        else:
            header(kind, device=info.st_rdev if kind in (CHARACTER, DEVICE) else 0, xattrs=xattrs)
        return True

    def finish(self) -> None:
        """The archive's end: two blocks of zeros."""
        self._sink(b"\0" * (2 * BLOCK))


def read_xattrs(parent: int, entry: bytes) -> dict[str, bytes]:
    """The extended attributes of a file, not followed; without those that mean something to this host alone."""
    fd = os.open(entry, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    path = f"/proc/self/fd/{fd}"
    found = {}
    try:
        for key in os.listxattr(path):
            if not key.startswith(("trusted.overlay.", "user.overlay.", "security.selinux")):
                found[key] = os.getxattr(path, key)
    except OSError:
        pass  # a file system without them
    finally:
        os.close(fd)
    return found


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where the length counts its own digits."""
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    if len(str(total)) != len(str(length)):
        total += 1
    return b"%d %s=%s\n" % (total, key, value)


def _time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, rest = divmod(abs(nanoseconds), _SECOND)
    return sign + (b"%d.%09d" % (seconds, rest)).rstrip(b"0").rstrip(b".")
