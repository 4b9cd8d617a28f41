# SPDX-License-Identifier: Apache-2.0
"""A root file system as a tar archive."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import trees
from .tarwriter import TarWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from .idmap import Ownership


def export(root: str, sink: Callable[[bytes], object], ownership: Ownership, epoch: int | None,
           warn: Callable[[str], None]) -> None:
    """All below `root`, in the order of names: the same tree is the same archive."""
    writer = TarWriter(sink, epoch)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path, directory, name, info in trees.walk(fd):
            if not writer.file(path, directory, name, info, ownership):
                warn(f"/{os.fsdecode(path)} left out: a socket")
    finally:
        os.close(fd)
    writer.finish()
