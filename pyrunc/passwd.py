# SPDX-License-Identifier: Apache-2.0
"""The container's /etc/passwd: read below its root, size-limited, never through NSS (which would dlopen)."""

from __future__ import annotations

import os
import stat

from .linux.fs import PROC_SUPER_MAGIC, fstatfs_type
from .paths import open_in_root, proc_reopen

_MAX_SIZE = 10 << 20


def read_database(root_fd: int, proc_self: int, unsafe_path: str) -> bytes | None:
    """The file, None when it is not there, not a plain one, or larger than any such file should be."""
    try:
        # O_PATH first: opening a device or a fifo can block or have effects.
        place = open_in_root(root_fd, unsafe_path)
        try:
            # A link to /proc/kmsg is a plain file too, which blocks, and takes what it gives from others.
            if not stat.S_ISREG(os.fstat(place).st_mode) or fstatfs_type(place) == PROC_SUPER_MAGIC:
                return None
            fd = proc_reopen(proc_self, place, os.O_RDONLY | os.O_NONBLOCK)
        finally:
            os.close(place)
    except OSError:
        return None
    data = b""
    try:
        while len(data) <= _MAX_SIZE:
            chunk = os.read(fd, 65536)
            if not chunk:
                return data
            data += chunk
    except OSError:
        pass
    finally:
        os.close(fd)
    return None


def home_directory(root_fd: int, proc_self: int, uid: int) -> str:
    """The home directory of `uid`, "/" when there is no such user or the file is not a plain one."""
    data = read_database(root_fd, proc_self, "etc/passwd")
    wanted = str(uid).encode()
    for line in (data or b"").split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == wanted:
            return fields[5].decode("utf-8", "surrogateescape") or "/"
    return "/"
