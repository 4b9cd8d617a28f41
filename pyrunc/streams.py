# SPDX-License-Identifier: Apache-2.0
"""stdout and stderr of a foreground process, where they are the caller's terminal and its user is another.

The streams are given to the user, who may want to open /dev/stdout again (process.py).  A terminal
can't be: it is that of the caller's session, whose programs would lose it.  So a pipe is put between,
for both streams one, that what is written comes in order.
"""

from __future__ import annotations

import fcntl
import os
import select

from .namespaces import id_map
from .process import own_stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .spec.types import Config, Process

_CHUNK = 4096


class Streams:
    """Our 1 and 2, exchanged for a pipe's end until the process has been forked, and that pipe's other end."""

    __slots__ = ("_saved", "reader", "target")

    def __init__(self, owner: int) -> None:
        """`owner`: the process's user, as we number it."""
        self._saved: dict[int, int] = {}
        self.reader = self.target = -1
        terminals = [fd for fd in (1, 2) if os.isatty(fd) and os.fstat(fd).st_uid != owner]
        if not terminals:
            return
        self.reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)
        try:
            os.fchown(writer, owner, -1)
        except OSError:
            pass  # an ordinary user's: who can't give it away, but is the owner
        for fd in terminals:
            self._saved[fd] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            os.dup2(writer, fd)
        os.close(writer)
        self.target = next(iter(self._saved.values()))

    def give_back(self) -> None:
        """Have our own streams again; the process has its own by now, or there is none."""
        for fd, saved in self._saved.items():
            os.dup2(saved, fd)

    def copy(self) -> bool:
        """Show a chunk of what has come; false when no more will."""
        try:
            data = os.read(self.reader, _CHUNK)
            if not data:
                return False
            while data:
                select.select([], [self.target], [])
                data = data[os.write(self.target, data):]
        except BlockingIOError:
            return True
        except OSError:
            return False  # hung up
        return True

    def finish(self) -> None:
        """Show what is there already; a process that is left behind isn't waited for."""
        while self.reader >= 0 and select.select([self.reader], [], [], 0)[0] and self.copy():
            pass


def give(pid: int, proc: int, uid: int) -> None:
    """Give the standard streams to `uid` of the user namespace that process `pid` is in.

    From in there nobody can whose owner isn't mapped in it (user_namespaces(7)).  `proc` is the host's procfs.
    """
    for inside, outside, count in id_map(proc, f"{pid}/uid_map"):
        if inside <= uid < inside + count:
            for fd in range(3):
                own_stdio(fd, outside + uid - inside)


def owner_of(process: Process, config: Config) -> int:
    """The user of a process in the container, as the host numbers it; -1 where that isn't to be told."""
    uid = (process.get("user") or {}).get("uid") or 0
    linux = config.get("linux") or {}
    spaces = [entry for entry in linux.get("namespaces") or () if entry["type"] == "user"]
    if not spaces:
        return uid
    for mapping in linux.get("uidMappings") or ():
        if mapping["containerID"] <= uid < mapping["containerID"] + mapping["size"]:
            return mapping["hostID"] + uid - mapping["containerID"]
    return -1
