# SPDX-License-Identifier: Apache-2.0
"""The container's /etc/passwd: read below its root, size-limited, never through NSS (which would dlopen)."""

from __future__ import annotations

import os
import stat

from .paths import open_in_root, proc_reopen

_MAX_SIZE = 10 << 20


def home_directory(root_fd: int, proc_self: int, uid: int) -> str:
    """The home directory of `uid`, "/" when there is no such user or the file is not a plain one."""
    try:
        # O_PATH first: opening a device or a fifo can block or have effects.
        place = open_in_root(root_fd, "etc/passwd")
        try:
            if not stat.S_ISREG(os.fstat(place).st_mode):
                return "/"
            fd = proc_reopen(proc_self, place, os.O_RDONLY)
        finally:
            os.close(place)
    except OSError:
        return "/"
    data = b""
    try:
        while len(data) <= _MAX_SIZE:
            chunk = os.read(fd, 65536)
            if not chunk:
                break
            data += chunk
    except OSError:
        return "/"
    finally:
        os.close(fd)
    if len(data) > _MAX_SIZE:
        return "/"
    wanted = str(uid).encode()
    for line in data.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == wanted:
            return fields[5].decode("utf-8", "surrogateescape") or "/"
    return "/"
