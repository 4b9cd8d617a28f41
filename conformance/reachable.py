# SPDX-License-Identifier: Apache-2.0
"""Programs in a directory that is root's alone, as /root is: ordinary users have to find them all the same."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

_ALL = 0o001  # may go through


def closed(path: Path) -> list[Path]:
    """The directories above `path` that not everybody may go through, the highest first."""
    return [parent for parent in reversed(path.parents) if not parent.stat().st_mode & _ALL]


def open_up(path: Path) -> None:
    """Let everybody through to `path`, in the caller's mount namespace, which has to be its own.

    In place of such a directory there is a file system with all the entries bound into it: their own modes hold
    as before, and the host's directory is not touched.
    """
    for parent in closed(path):
        with tempfile.TemporaryDirectory() as aside:
            _mount("--rbind", parent, aside)
            try:
                _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", parent)
                for entry in os.scandir(aside):
                    _bind(entry, parent / entry.name)
            finally:
                subprocess.run(["umount", "--lazy", aside], check=True)


def _bind(entry: os.DirEntry[str], place: Path) -> None:
    if entry.is_symlink():
        place.symlink_to(os.readlink(entry))
        return
    if entry.is_dir():
        place.mkdir()
    else:
        place.touch()
    _mount("--rbind", entry.path, place)


def _mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)
