# SPDX-License-Identifier: Apache-2.0
"""Files: openat2 below a root, statfs magic numbers."""

from __future__ import annotations

import os
from _struct import pack, unpack_from

from .syscall import call, path_bytes

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

O_PATH = os.O_PATH
O_CLOEXEC = os.O_CLOEXEC
O_DIRECTORY = os.O_DIRECTORY
O_NOFOLLOW = os.O_NOFOLLOW

AT_EMPTY_PATH = 0x1000
AT_FDCWD = -100

PROC_SUPER_MAGIC = 0x9FA0
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
SYSFS_MAGIC = 0x62656572
DEVPTS_SUPER_MAGIC = 0x1CD1
SELINUX_MAGIC = 0xF97CFF8C

_EAGAIN_TRIES = 128


def openat2(dirfd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path` under `dirfd` with the RESOLVE_* rules of openat2(2) (Linux 5.6); always O_CLOEXEC.

    RESOLVE_IN_ROOT and RESOLVE_BENEATH answer EAGAIN when a rename raced with the walk: tried again.
    """
    how = pack("=QQQ", flags | O_CLOEXEC, mode, resolve)
    raw = path_bytes(path)
    for _ in range(_EAGAIN_TRIES):
        try:
            return call("openat2", dirfd, raw, how, len(how))
        except BlockingIOError as error:
            last = error
    raise last


def statfs_type(path: str) -> int:
    """The magic number of the file system that holds `path`.  statfs(2)."""
    buffer = bytearray(128)
    call("statfs", path_bytes(path), buffer)
    return int(unpack_from("=q", buffer)[0])


def fstatfs_type(fd: int) -> int:
    """The magic number of the file system behind `fd` (O_PATH will do).  fstatfs(2)."""
    buffer = bytearray(128)
    call("fstatfs", fd, buffer)
    return int(unpack_from("=q", buffer)[0])


def socketpair() -> tuple[int, int]:
    """Two connected AF_UNIX sockets that keep message boundaries, close-on-exec.  socketpair(2)."""
    buffer = bytearray(8)
    af_unix, sock_seqpacket_cloexec = 1, 5 | 0o2000000
    call("socketpair", af_unix, sock_seqpacket_cloexec, 0, buffer)
    first, second = unpack_from("=ii", buffer)
    return int(first), int(second)


def syncfs(fd: int) -> None:
    """Write the file system that holds `fd` to disk.  syncfs(2)."""
    call("syncfs", fd)


def mount_id(fdinfo: str, dir_fd: int | None = None) -> int:
    """Which mount a descriptor is in, by its file in /proc/PID/fdinfo (proc_pid_fdinfo(5)).  Raises OSError."""
    fd = os.open(fdinfo, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return int(os.read(fd, 4096).partition(b"mnt_id:")[2].split(None, 1)[0])
    finally:
        os.close(fd)
