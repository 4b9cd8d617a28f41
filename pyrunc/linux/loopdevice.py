# SPDX-License-Identifier: Apache-2.0
"""Loop devices: block devices whose blocks are a file's (loop(4))."""

from __future__ import annotations

import errno
import fcntl
import os
from _struct import pack

LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16
#: struct loop_config: descriptor, block size, struct loop_info64, reserved.
CONFIG = "=II5Q4I64s64s32s2Q64x"

_TRIES = 100


def attach(path: str, *, read_only: bool = False, direct: bool = False) -> tuple[int, str]:
    """(descriptor, path) of a device with the file's blocks.  LOOP_CONFIGURE, Linux 5.8.

    It is free again when nobody has it open or mounted any more.
    """
    mode = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
    flags = LO_FLAGS_AUTOCLEAR | (LO_FLAGS_READ_ONLY if read_only else 0) | (LO_FLAGS_DIRECT_IO if direct else 0)
    file = os.open(path, mode)
    try:
        config = pack(CONFIG, file, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, os.fsencode(path)[:63], b"", b"", 0, 0)
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_TRIES):
                place = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
                device = os.open(place, mode)
                try:
                    fcntl.ioctl(device, LOOP_CONFIGURE, config)
                    return device, place
                except OSError as error:
                    os.close(device)
                    if error.errno != errno.EBUSY:  # somebody else was quicker
                        raise
        finally:
            os.close(control)
    finally:
        os.close(file)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), "/dev/loop-control")
