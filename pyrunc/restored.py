# SPDX-License-Identifier: Apache-2.0
"""What a restored container is held against before it goes on: the images, which say it all, aren't config.json.

A container can have prepared for its checkpoint: with mount points that it has moved about (CVE-2026-119101's
kind), or with code that criu's own runs into (CVE-2026-18107).
"""

from __future__ import annotations

import os

from .capabilities import NAMES
from .checkpoint import mounts_of
from .errors import PyruncError
from .linux.mount import MOUNT_ATTR_RDONLY
from .mounts import BindMount
from .paths import clean, open_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .capabilities import CapabilitySets
    from .mounts import MountStep


def check_read_only(pid: int, mounts: list[MountStep]) -> None:
    """The flags of mounts are the images': what config.json gives to be read must not be written to.

    Raises PyruncError.
    """
    to_be_read = _only_to_be_read(mounts)
    if not to_be_read:
        return
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _, point in mounts_of(pid):
            try:
                fd = open_in_root(root, clean(point))
            except OSError:
                continue  # covered by another
            try:
                step = to_be_read.get(_identity(os.fstat(fd)))
                if step is not None and not os.fstatvfs(fd).f_flag & os.ST_RDONLY:
                    raise PyruncError(f"criu would restore {step.source} on {point} to be written to",
                                      pointer=step.pointer, hint="the checkpoint says so, config.json doesn't")
            finally:
                os.close(fd)
    finally:
        os.close(root)


def _only_to_be_read(mounts: list[MountStep]) -> dict[tuple[int, int], MountStep]:
    """The sources that are bound read-only and in no other way."""
    found: dict[tuple[int, int], MountStep] = {}
    writable = set()
    for step in mounts:
        if isinstance(step, BindMount):
            try:
                identity = _identity(os.stat(step.source))
            except OSError:
                continue  # criu says so
            if (step.options.set | step.options.recursive_set) & MOUNT_ATTR_RDONLY:
                found[identity] = step
            else:
                writable.add(identity)
    return {identity: step for identity, step in found.items() if identity not in writable}


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def check_capabilities(init: int, allowed: CapabilitySets) -> None:
    """No thread may have a capability that config.json gives none of its processes.  Raises PyruncError.

    (What `exec` brings in with more is no descendant of the init, and not in a checkpoint.)
    """
    most = allowed.bounding | allowed.permitted | allowed.inheritable
    for task in _tasks(init):
        try:
            with open(f"{task}/status", "rb") as file:
                lines = [line.split() for line in file if line.startswith((b"State:", b"Cap"))]
        except OSError:
            continue  # gone
        if lines[0][1] in (b"Z", b"X"):
            continue  # has nothing of its own, and never will
        for name, text in lines[1:]:
            if more := int(text, 16) & ~most:
                known = [capability for number, capability in enumerate(NAMES) if more >> number & 1]
                raise PyruncError(f"criu would restore a process with {', '.join(known) or f'{more:#x}'} "
                                  f"({name.decode()[:-1]})", pointer="/process/capabilities",
                                  hint="the checkpoint says so, config.json doesn't")


def _tasks(init: int) -> Iterator[str]:
    """The directories in procfs of all threads of a process and its descendants."""
    pending = [str(init)]
    while pending:
        pid = pending.pop()
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            yield f"/proc/{pid}/task/{thread}"
            try:
                with open(f"/proc/{pid}/task/{thread}/children") as file:
                    pending += file.read().split()
            except OSError:
                continue
