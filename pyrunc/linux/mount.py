# SPDX-License-Identifier: Apache-2.0
"""Mounts by descriptor: open_tree, move_mount, fsopen, fsmount, mount_setattr; and the old calls."""

from __future__ import annotations

import os
from _struct import pack

from .fs import AT_EMPTY_PATH
from .syscall import call, path_bytes

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1
AT_RECURSIVE = 0x8000

MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000


def open_tree(dirfd: int, path: str = "", *, clone: bool = True, recursive: bool = False) -> int:
    """A detached copy of the mount (tree) at `path`, or of what `dirfd` names when path is "".

    open_tree(2), Linux 5.2.  With `clone` False it is an O_PATH descriptor.
    """
    flags = os.O_CLOEXEC | (OPEN_TREE_CLONE if clone else 0) | (AT_RECURSIVE if recursive else 0)
    return call("open_tree", dirfd, path_bytes(path), flags | (0 if path else AT_EMPTY_PATH))


def move_mount(mount_fd: int, target_fd: int) -> None:
    """Attach the detached mount `mount_fd` on the file or directory `target_fd`.  move_mount(2), Linux 5.2."""
    call("move_mount", mount_fd, b"\0", target_fd, b"\0", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def fsopen(fstype: str) -> int:
    """A context in which a file system of `fstype` is configured.  fsopen(2), Linux 5.2.  ENODEV: unknown type."""
    return call("fsopen", path_bytes(fstype), FSOPEN_CLOEXEC)


def fsconfig_string(fs_fd: int, key: str, value: str) -> None:
    """Set the option `key`=`value` (at most 255 bytes, or the kernel says EINVAL).  fsconfig(2)."""
    call("fsconfig", fs_fd, FSCONFIG_SET_STRING, path_bytes(key), path_bytes(value), 0)


def fsconfig_flag(fs_fd: int, key: str) -> None:
    """Set the option `key`, which has no value.  fsconfig(2)."""
    call("fsconfig", fs_fd, FSCONFIG_SET_FLAG, path_bytes(key), None, 0)


def fsconfig_create(fs_fd: int) -> None:
    """Make (or find) the superblock.  fsconfig(2), FSCONFIG_CMD_CREATE."""
    call("fsconfig", fs_fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsmount(fs_fd: int, attributes: int = 0) -> int:
    """A detached mount of the configured file system with MOUNT_ATTR_* `attributes`.  fsmount(2)."""
    return call("fsmount", fs_fd, FSMOUNT_CLOEXEC, attributes)


def fs_messages(fs_fd: int) -> list[str]:
    """What the file system said about a failed option (`e tmpfs: Bad value for 'size'`), prefix cut off."""
    messages = []
    for _ in range(16):
        try:
            line = os.read(fs_fd, 512)
        except OSError:  # ENODATA: no more
            break
        messages.append(line.decode("utf-8", "replace").strip()[2:])
    return messages


def mount_setattr(fd: int, *, set_: int = 0, clear: int = 0, propagation: int = 0,
                  userns_fd: int = -1, recursive: bool = False) -> None:
    """Change the attributes of the mount behind `fd`.  mount_setattr(2), Linux 5.12.

    EINVAL also when an idmap is asked of a file system without support.
    """
    attr = pack("=QQQQ", set_, clear, propagation, max(userns_fd, 0))
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    call("mount_setattr", fd, b"\0", flags, attr, len(attr))


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    call(
        "mount",
        None if source is None else path_bytes(source),
        path_bytes(target),
        None if fstype is None else path_bytes(fstype),
        flags,
        None if data is None else path_bytes(data),
    )


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    call("umount2", path_bytes(target), flags)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    call("pivot_root", path_bytes(new_root), path_bytes(put_old))


