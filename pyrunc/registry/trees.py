# SPDX-License-Identifier: Apache-2.0
"""Whole directory trees, by descriptor: removed, copied in part, and walked."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from pyrunc.linux.fs import O_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOVED_UP = 64
_COPY = 1 << 30


def remove_tree(parent: int, name: bytes) -> None:
    """Remove the directory `name` in `parent` with all that is in it; links are removed, not followed.

    However deep it is: what lies deeper than some levels is moved up first.
    """
    top = open_own(parent, name)
    try:
        moved = 0
        while True:
            names = [os.fsencode(child) for child in os.listdir(top)]
            if not names:
                break
            for child in names:
                moved = _empty(top, top, child, 0, moved)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _empty(top: int, parent: int, name: bytes, depth: int, moved: int) -> int:
    """Remove `name`; deep directories end up in `top` as .N, and are removed from there."""
    try:
        os.unlink(name, dir_fd=parent)
        return moved
    except FileNotFoundError:
        return moved
    except IsADirectoryError:
        pass
    except PermissionError:
        os.fchmod(parent, 0o700)
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            return moved
    if depth >= _MOVED_UP:
        while True:
            moved += 1
            try:
                os.rename(name, b".%d" % moved, src_dir_fd=parent, dst_dir_fd=top)
                return moved
            except (NotADirectoryError, OSError) as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
    fd = open_own(parent, name)
    try:
        for child in os.listdir(fd):
            moved = _empty(top, fd, os.fsencode(child), depth + 1, moved)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)
    return moved


def open_own(parent: int, name: bytes) -> int:
    """The directory, and if it is an ordinary user's own that shuts out its owner, with all of the owner's rights."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        fd = os.open(name, O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(os.fstat(fd).st_mode) | 0o700)
        finally:
            os.close(fd)
        return os.open(name, _DIRECTORY, dir_fd=parent)


def open_to_read(parent: int, name: bytes) -> int:
    """A file, and if it is an ordinary user's own that may not be read, that as well.  Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        fd = os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            os.chmod(f"/proc/self/fd/{fd}", mode | 0o400)
            try:
                return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
            finally:
                os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)


def remove(path: str) -> None:
    """The tree at `path`, if it is there."""
    head, _, name = os.path.abspath(path).rpartition("/")
    parent = os.open(head or "/", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.path.lexists(path):
            remove_tree(parent, os.fsencode(name))
    finally:
        os.close(parent)


def walk(fd: int, prefix: bytes = b"") -> Iterator[tuple[bytes, int, bytes, os.stat_result]]:
    """(path, descriptor of its directory, name, lstat) of all below `fd`, parents first, in the order of names.

    The descriptor is good until the next step.
    """
    for child in sorted(os.fsencode(name) for name in os.listdir(fd)):
        info = os.stat(child, dir_fd=fd, follow_symlinks=False)
        path = prefix + b"/" + child if prefix else child
        yield path, fd, child, info
        if stat.S_ISDIR(info.st_mode):
            # An ordinary user's own may shut out its owner, whom root's rights don't help.
            shut = info.st_mode & 0o500 != 0o500 and os.geteuid() == info.st_uid != 0
            inner = open_own(fd, child)
            try:
                if shut:
                    os.fchmod(inner, stat.S_IMODE(info.st_mode) | 0o700)
                yield from walk(inner, path)
            finally:
                if shut:
                    os.fchmod(inner, stat.S_IMODE(info.st_mode))
                os.close(inner)


def copy_attributes(source: int, target: int, *, times: bool = True) -> None:
    """Owner, xattrs, mode and times of one open file or directory to another."""
    info = os.fstat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    for key in os.listxattr(source):
        if not key.startswith("trusted.overlay."):
            os.setxattr(target, key, os.getxattr(source, key))
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    if times:
        os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def copy_contents(source: int, target: int) -> None:
    """The bytes of one open file to another, a clone where the file system can (copy_file_range(2))."""
    while True:
        try:
            if not os.copy_file_range(source, target, _COPY):
                return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            while data := os.read(source, 1 << 20):
                os.write(target, data)
            return


def copy_node(source: int, parent: int, name: bytes) -> None:
    """What `source` (O_PATH) is, no directory, as `name` in `parent`, with its attributes; no device without rights."""
    info = os.fstat(source)
    itself = f"/proc/self/fd/{source}"
    if stat.S_ISREG(info.st_mode):
        original = os.open(itself, os.O_RDONLY | os.O_CLOEXEC)
        copy = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            copy_contents(original, copy)
            copy_attributes(original, copy)
        finally:
            os.close(original)
            os.close(copy)
        return
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(b"", dir_fd=source), name, dir_fd=parent)
    else:
        try:
            os.mknod(name, info.st_mode, info.st_rdev, dir_fd=parent)
        except PermissionError:
            return
    os.chown(name, info.st_uid, info.st_gid, dir_fd=parent, follow_symlinks=False)
    place = os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        made = f"/proc/self/fd/{place}"
        for key in os.listxattr(itself):
            os.setxattr(made, key, os.getxattr(itself, key))
        if not stat.S_ISLNK(info.st_mode):
            os.chmod(made, stat.S_IMODE(info.st_mode))
    finally:
        os.close(place)
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=parent, follow_symlinks=False)


def copy_tree(source: int, target: int) -> None:
    """All below the directory `source` into the directory `target`, which gets its attributes too.

    Links between files are not kept: no file of the copy is one of the original's.
    """
    for child in os.listdir(source):
        name = os.fsencode(child)
        if stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            inner, copy = os.open(name, _DIRECTORY, dir_fd=source), os.open(name, _DIRECTORY, dir_fd=target)
            try:
                copy_tree(inner, copy)
            finally:
                os.close(inner)
                os.close(copy)
            continue
        node = os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            copy_node(node, target, name)
        finally:
            os.close(node)
    copy_attributes(source, target)
