# SPDX-License-Identifier: Apache-2.0
"""stdout and stderr of a foreground process, where they are the caller's terminal, or the journal.

The streams are given to the process's user, who may want to open /dev/stdout again (process.py).
Another's terminal can't be: it is that of the caller's session, whose programs would lose it.  So a
pipe is put between, for both streams one, that what is written comes in order.

Nor can the journal's socket, which nobody can open (ENXIO); and journald has what comes over it belong to
the unit that its writer is in, which isn't the one that the runtime was started by (systemd-journald.service(8)).
"""

from __future__ import annotations

import fcntl
import os
import select
from _socket import socket

from .namespaces import id_map
from .process import own_stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .spec.types import Config, Process

_CHUNK = 4096


class Pipe:
    """What is between a process and one of our streams."""

    __slots__ = ("reader", "target")

    def __init__(self, reader: int, target: int) -> None:
        self.reader = reader
        self.target = target

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


class Streams:
    """Our 1 and 2, exchanged for pipes' ends until the process has been forked, and those pipes' other ends."""

    __slots__ = ("_saved", "pipes")

    def __init__(self, owner: int) -> None:
        """`owner`: the process's user, as we number it."""
        self._saved: dict[int, int] = {}
        self.pipes: list[Pipe] = []
        self._put_between([fd for fd in (1, 2) if os.isatty(fd) and os.fstat(fd).st_uid != owner], owner)
        journals: dict[int, list[int]] = {}
        for fd in (1, 2):
            if _is_journal(fd):
                journals.setdefault(os.fstat(fd).st_ino, []).append(fd)
        for fds in journals.values():
            self._put_between(fds, owner)

    def _put_between(self, fds: list[int], owner: int) -> None:
        if not fds:
            return
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        try:
            os.fchown(writer, owner, -1)
        except OSError:
            pass  # an ordinary user's: who can't give it away, but is the owner
        for fd in fds:
            self._saved[fd] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            os.dup2(writer, fd)
        os.close(writer)
        self.pipes.append(Pipe(reader, self._saved[fds[0]]))

    def give_back(self) -> None:
        """Have our own streams again; the process has its own by now, or there is none."""
        for fd, saved in self._saved.items():
            os.dup2(saved, fd)

    def watched(self) -> dict[int, Callable[[], bool]]:
        """What is to be called when which descriptor is readable."""
        return {pipe.reader: pipe.copy for pipe in self.pipes}

    def finish(self) -> None:
        """Show what is there already; a process that is left behind isn't waited for."""
        for pipe in self.pipes:
            while select.select([pipe.reader], [], [], 0)[0] and pipe.copy():
                pass


def _is_journal(fd: int) -> bool:
    """Whether it leads to journald, or to one of a namespace (LogNamespace=)."""
    try:
        if os.fstat(fd).st_mode & 0o170000 != 0o140000:
            return False
        connection = socket(fileno=fd)
    except OSError:
        return False
    try:
        peer = connection.getpeername()
    except OSError:
        return False
    finally:
        connection.detach()
    return isinstance(peer, str) and peer.startswith("/run/systemd/journal") and peer.endswith("/stdout")


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
