# SPDX-License-Identifier: Apache-2.0
"""Ways into a cgroup that nobody has to move a process through.

Moving another process waits for an RCU grace period, some 10 ms.  A process of one thread that writes 0 to a
v1 cgroup's `tasks` puts itself there without; into v2's it can be born (clone3(2), CLONE_INTO_CGROUP).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cgroup import Cgroup


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
        for fd in (*self.tasks.values(), self.fd):
            if fd >= 0:
                os.close(fd)
        self.tasks = {}
        self.fd = -1
