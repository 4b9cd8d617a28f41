# SPDX-License-Identifier: Apache-2.0
"""cgroup v2: the one hierarchy (kernel: admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import errno
import os
import time

from . import cgroupfs
from .cgroupfs import GONE
from .errors import ContainerError, errno_text

MOUNT_POINT = "/sys/fs/cgroup"

_FREEZE_SECONDS = 2.0
# Above the part of the tree that was delegated to us nothing can be changed, nor need be.
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)


def path(cgroups_path: str, own_cgroups: str) -> str:
    """The directory for a (cleaned) cgroupsPath: absolute from the mount point, relative beside our own.

    Beside and not below: our own cgroup holds processes, us at least, so its controllers can't be
    passed on (cgroup-v2.rst, No Internal Process Constraint).  runc does the same.
    """
    if cgroups_path.startswith("/"):
        return MOUNT_POINT + cgroups_path
    own = ""
    for line in own_cgroups.splitlines():
        if line.startswith("0::"):
            own = line[3:]
    parts = [part for part in own.split("/") if part][:-1]
    # Outside of what a cgroup namespace shows, the path climbs (cgroup_namespaces(7)).
    base = "" if ".." in parts else "".join("/" + part for part in parts)
    return f"{MOUNT_POINT}{base}/{cgroups_path}"


def enable_controllers(leaf: str) -> list[str]:
    """Pass each available controller down to `leaf`; what can't be passed is told as warnings.

    Not an error: without limits no controller is needed, and a limit without its file is one.
    """
    warnings: list[str] = []
    level = MOUNT_POINT
    # A cgroup's own controllers are enabled by its parent's subtree_control: the leaf itself is left out.
    for name in leaf[len(MOUNT_POINT) + 1 :].split("/"):
        warnings += _enable(level)
        level += "/" + name
    return warnings


def _enable(directory: str) -> list[str]:
    try:
        enabled = cgroupfs.read(f"{directory}/cgroup.subtree_control").split()
        available = cgroupfs.read(f"{directory}/cgroup.controllers").split()
    except OSError as error:
        return [f"cgroup {directory}: {errno_text(error.errno or 0)}"]
    missing = ["+" + name for name in available if name not in enabled]
    if not missing or _pass_on(directory, " ".join(missing)) == 0:
        return []
    warnings: list[str] = []
    for name in missing:  # together they fail together
        number = _pass_on(directory, name)
        if number not in (0, *_NOT_OURS):
            text = f"cgroup {directory}: controller {name[1:]} can't be passed on: {errno_text(number)}"
            if number == errno.EBUSY:
                text += " (a cgroup that holds processes can't pass controllers on)"
            warnings.append(text)
    return warnings


def _pass_on(directory: str, controllers: str) -> int:
    """Write to cgroup.subtree_control: 0, or the errno."""
    try:
        cgroupfs.write(f"{directory}/cgroup.subtree_control", controllers)
    except OSError as error:
        return error.errno or 0
    return 0


def kill(directory: str) -> bool:
    """Kill all processes in and below the cgroup, however fast they fork; False where that can't be done.

    cgroup.kill: Linux 5.14, and not in the root.
    """
    try:
        cgroupfs.write(f"{directory}/cgroup.kill", "1")
    except OSError as error:
        if error.errno in (*GONE, errno.EACCES, errno.EOPNOTSUPP):
            return False
        raise
    return True


def frozen(directory: str) -> bool:
    """Whether the cgroup is frozen or being so, by itself or by an ancestor."""
    return _flag(directory, "cgroup.freeze") or _frozen_event(directory)


def _flag(directory: str, name: str) -> bool:
    try:
        return cgroupfs.read(f"{directory}/{name}").strip() == "1"
    except OSError as error:
        if error.errno in GONE:
            return False
        raise


def _frozen_event(directory: str) -> bool:
    try:
        return "frozen 1" in cgroupfs.read(f"{directory}/cgroup.events").splitlines()
    except OSError as error:
        if error.errno in GONE:
            return False
        raise


def freeze(directory: str, seconds: float = _FREEZE_SECONDS) -> None:
    """Freeze the cgroup and wait until it is; thawed again, with a ContainerError, when it doesn't work."""
    cgroupfs.write(f"{directory}/cgroup.freeze", "1")
    deadline = time.monotonic() + seconds
    pause = 0.0002
    while not _frozen_event(directory):
        if time.monotonic() > deadline:
            thaw(directory)
            raise ContainerError(f"cgroup {directory} can't be frozen within {seconds:g} s")
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def thaw(directory: str) -> None:
    """Thaw the cgroup."""
    cgroupfs.write(f"{directory}/cgroup.freeze", "0")


def descriptor(directory: str) -> int:
    """An O_PATH descriptor of the cgroup, for clone3(2)'s CLONE_INTO_CGROUP."""
    return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
