# SPDX-License-Identifier: Apache-2.0
"""Compiled seccomp filters, kept: a file each, in a directory that nobody else can write to.

A filter from here confines a container, so nothing is believed: the directory's owner and mode are
checked by its descriptor, a file's length and SHA-256 by its header, and that the library it was made
by is still the same.  A file that is wrong in any way is as good as missing, and written anew.
"""

from __future__ import annotations

import os
import stat
from _struct import pack, unpack_from

from .errors import PyruncError
from .spec.load import dump, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    def sha256(data: bytes) -> Any: ...
else:
    try:
        from _sha256 import sha256  # hashlib costs 2 ms
    except ImportError:
        try:
            from _sha2 import sha256  # Python 3.12
        except ImportError:
            from hashlib import sha256

FORMAT = 2  # of an entry, and of what is made of a profile
_MAGIC = b"pyrunc seccomp\0\0"
_HEADER = len(_MAGIC) + 32 + 8
_MAX_SIZE = 1 << 20
_MAX_ENTRIES = 64
_NAME = "pyrunc-seccomp"


class Entry:
    """A compiled `program`, what is to be told of it, and the library that made it."""

    __slots__ = ("library", "path", "program", "warnings")

    def __init__(self, library: str, path: str, program: bytes, warnings: list[tuple[str, str]]) -> None:
        self.library = library
        self.path = path
        self.program = program
        self.warnings = warnings


def key(profile: bytes) -> str:
    """The name of the entry for a profile: its content, and what else the program depends on.

    But for the library: which one it would be isn't known before it is loaded.  That is in the entry.
    """
    system = os.uname()
    return str(sha256(f"{FORMAT} {system.release} {system.machine} ".encode() + profile).hexdigest())


def open_directory() -> int:
    """The cache's directory, made if missing; -1 where there is no place for one."""
    parents = ["/run"] if os.geteuid() == 0 else []
    parents += [os.environ.get(name, "") for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME")]
    for parent in parents:
        if parent.startswith("/"):
            fd = open_below(parent)
            if fd >= 0:
                return fd
    return -1


def open_below(parent: str) -> int:
    """The directory in `parent`, if it is ours alone; else -1."""
    path = f"{parent}/{_NAME}"
    try:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    info = os.fstat(fd)
    if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077:
        os.close(fd)
        return -1
    return fd


def read(directory: int, name: str) -> Entry | None:
    """The entry `name`, if it is there and whole."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or not _HEADER < info.st_size <= _MAX_SIZE:
            return None
        data = os.read(fd, _MAX_SIZE)
        return _unpack(data) if len(data) == info.st_size else None
    except (OSError, PyruncError, KeyError, TypeError, ValueError):
        return None
    finally:
        os.close(fd)


def _unpack(data: bytes) -> Entry | None:
    body = data[_HEADER - 8:]
    if not data.startswith(_MAGIC) or sha256(body).digest() != data[len(_MAGIC):_HEADER - 8]:
        return None
    about_size, program_size = unpack_from("=II", body)
    if len(body) != 8 + about_size + program_size:
        return None
    about = parse(body[8:8 + about_size], "a cached seccomp filter")
    if about["library"] != _library(about["version"], about["path"]):
        return None
    return Entry(about["version"], about["path"], body[8 + about_size:], about["warnings"])


def _pack(entry: Entry) -> bytes:
    about = dump({"version": entry.library, "path": entry.path, "library": _library(entry.library, entry.path),
                  "warnings": entry.warnings}).encode("utf-8", "surrogatepass")
    body = pack("=II", len(about), len(entry.program)) + about + entry.program
    return bytes(_MAGIC + sha256(body).digest() + body)


def _library(version: str, path: str) -> list[Any]:
    """What tells one file of the library from another."""
    info = os.stat(path)
    return [version, info.st_size, info.st_mtime_ns, info.st_ino]


def write(directory: int, name: str, entry: Entry) -> None:
    """Keep the entry, as far as possible; a cache that can't be written to is none."""
    temporary = f".{name}.{os.getpid()}"
    try:
        data = _pack(entry)
        _make_room(directory)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600,
                     dir_fd=directory)
        try:
            written = os.write(fd, data)
        finally:
            os.close(fd)
        if written == len(data) <= _MAX_SIZE:
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        else:
            os.unlink(temporary, dir_fd=directory)
    except OSError:
        try:
            os.unlink(temporary, dir_fd=directory)
        except OSError:
            pass


def _make_room(directory: int) -> None:
    """Remove the oldest entries, one more than would be too many, and what a killed writer left."""
    names = os.listdir(directory)
    if len(names) < _MAX_ENTRIES:
        return
    ages = []
    for name in names:
        try:
            ages.append((os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime_ns, name))
        except OSError:
            pass  # another one was quicker
    for _, name in sorted(ages)[:len(names) - _MAX_ENTRIES + 1]:
        try:
            os.unlink(name, dir_fd=directory)
        except OSError:
            pass
