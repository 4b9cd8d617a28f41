# SPDX-License-Identifier: Apache-2.0
"""A project in a directory that is root's alone, as /root is: tests of ordinary users have to find it all the same."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pyrunc.linux import mount as k
from pyrunc.linux.fs import AT_FDCWD
from pyrunc.linux.process import CLONE_NEWNS
from pyrunc.linux.syscall import call

_ALL = 0o001  # may go through


def open_to_all(path: Path) -> None:
    """In a mount namespace of our own from here on, let everybody through what is above `path`.

    In place of such a directory there is a file system with all its entries bound into it: their own modes
    hold as before, the host's are not touched.
    """
    closed = [parent for parent in reversed(path.parents) if not parent.stat().st_mode & _ALL]
    if closed:
        call("unshare", CLONE_NEWNS)
        k.mount(None, "/", None, k.MS_PRIVATE | k.MS_REC)
    for parent in closed:
        _open(parent)


def _open(parent: Path) -> None:
    entries = [(entry.name, os.readlink(entry)) if entry.is_symlink() else
               (entry.name, k.open_tree(AT_FDCWD, entry.path, recursive=True)) for entry in os.scandir(parent)]
    k.mount("tmpfs", str(parent), "tmpfs", 0, "mode=755")
    for name, what in entries:
        place = parent / name
        if isinstance(what, str):
            place.symlink_to(what)
            continue
        if stat.S_ISDIR(os.fstat(what).st_mode):
            place.mkdir()
        else:
            place.touch()
        target = os.open(place, os.O_PATH)
        k.move_mount(what, target)
        os.close(target)
        os.close(what)
