# SPDX-License-Identifier: Apache-2.0
"""`tmpcopyup`: what the image has below a tmpfs's mount point is copied into the new tmpfs."""

from __future__ import annotations

import os
import stat

_CHUNK = 1 << 20


def copy_tree(source: int, target: int) -> None:
    """Copy the contents of the directory `source` into the directory `target` (descriptors).

    Modes, owners, times, links, device nodes and extended attributes are kept; other file systems
    below are not entered.  No link is followed.  Raises OSError.
    """
    _copy_directory(source, target, os.fstat(source).st_dev)


def _copy_directory(source: int, target: int, device: int) -> None:
    with os.scandir(source) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        info = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
            continue
        if stat.S_ISDIR(info.st_mode):
            _copy_subdirectory(source, target, name, info, device)
        elif stat.S_ISREG(info.st_mode):
            _copy_file(source, target, name, info)
        else:
            os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
            os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
            os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_subdirectory(source: int, target: int, name: str, info: os.stat_result, device: int) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    below = os.open(name, flags, dir_fd=source)
    try:
        os.mkdir(name, 0o700, dir_fd=target)
        made = os.open(name, flags, dir_fd=target)
        try:
            if os.fstat(below).st_dev == device:
                _copy_directory(below, made, device)
            _copy_attributes(below, made, info)
        finally:
            os.close(made)
    finally:
        os.close(below)


def _copy_file(source: int, target: int, name: str, info: os.stat_result) -> None:
    from_fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=source)
    try:
        to_fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                        dir_fd=target)
        try:
            while os.sendfile(to_fd, from_fd, None, _CHUNK):
                pass
            _copy_attributes(from_fd, to_fd, info)
        finally:
            os.close(to_fd)
    finally:
        os.close(from_fd)


def _copy_attributes(source: int, target: int, info: os.stat_result) -> None:
    os.fchown(target, info.st_uid, info.st_gid)
    # After chown: it clears the setuid bits and security.capability.
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    for name in os.listxattr(source):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError:  # tmpfs knows few kinds
            continue
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
