# SPDX-License-Identifier: Apache-2.0
"""Ways into a cgroup that nobody has to move a process through.

Moving another process waits for an RCU grace period, some 10 ms.  A process of one thread that writes 0 to a
v1 cgroup's `tasks` puts itself there without; into v2's it can be born (clone3(2), CLONE_INTO_CGROUP).
"""

from __future__ import annotations

import os

from . import cgroupfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cgroup import Cgroup

_SIGKILL = 1 << 8  # in a set of signals


class Doors:
    """What of a cgroup was open: `tasks` by directory (cgroupfs.enter), and `fd` of v2's directory, `path`; or -1.

    A cgroup that isn't there yet has none, and None stands for one.  What can't be opened is left to
    Cgroup.add, which says why.
    """

    __slots__ = ("fd", "path", "tasks")

    def __init__(self, cgroup: Cgroup | None) -> None:
        self.tasks: dict[str, int] = {}
        self.fd = -1
        self.path = ""
        if cgroup is None or not cgroup.claimed:
            return
        for controller, path in cgroup.paths.items():
            if path in cgroup.skipped or path in self.tasks:
                continue
            try:
                if controller:
                    self.tasks[path] = os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC)
                # Beside v1 it is no error to be denied it, which at birth it would be.
                elif cgroup.mode == "unified" or not cgroup.may_be_missing():
                    self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                    self.path = path
            except OSError:
                continue

    def close(self) -> None:
        for fd in self.tasks.values():
            os.close(fd)
        self.tasks = {}
        self.shut()

    def shut(self) -> None:
        """Let nobody be born there."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
        self.path = ""


def killed_at_birth(pid: int, proc: int) -> bool:
    """Whether the kernel has killed a process for having been born in its cgroup.

    Since Linux 6.14, and in stable ones before, it holds how often the cgroup was killed (cgroup.kill) against how
    often the one of the process's parent was: a cgroup that is used again after that lets nobody be born in it.
    """
    try:
        pending = cgroupfs.read(f"{pid}/status", proc).partition("\nShdPnd:\t")[2]
    except OSError:
        return False
    # There before clone3(2) returns, and until the process is waited for.
    return bool(int(pending[:16] or "0", 16) & _SIGKILL)
