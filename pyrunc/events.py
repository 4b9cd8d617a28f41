# SPDX-License-Identifier: Apache-2.0
"""What happens to a container: memory it ran out of, and what it uses, every so often.

Events are what `runc events` prints: {"type": "oom", "id": ...} and {"type": "stats", "id": ..., "data": ...}.
"""

from __future__ import annotations

import os
import select
import time

from . import cgroupfs
from .errors import ContainerError, PyruncError, kernel_error
from .state import OOM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .cgroup import Cgroup
    from .lifecycle import Container
    from .state import StateDir

_LONGEST = 3600.0  # seconds that poll(2), which takes an int of milliseconds, is told to wait
_LINGER = 0.05  # seconds between looks at who is left once the init is gone


def follow(container: Container, interval: float) -> Iterator[dict[str, Any]]:
    """The container's events as they happen, with its stats every `interval` seconds.

    Ends when the container has stopped and nobody is left in its cgroup.  Out of memory is told
    before that end, however fast the container dies of it.
    """
    watch = open_oom(container)
    try:
        yield from _follow(container, interval, watch)
    finally:
        if watch is not None:
            watch.close()


def stats_event(container: Container) -> dict[str, Any]:
    """One stats event."""
    return {"type": "stats", "id": container.id, "data": container.stats()}


def check_alive(container: Container) -> None:
    """Raise ContainerError unless there is a container to watch."""
    if container.status() in ("stopped", "creating"):
        raise ContainerError(f"container with id {container.id} is not running")


def _follow(container: Container, interval: float, watch: OomV1 | OomV2 | None) -> Iterator[dict[str, Any]]:
    poller = select.poll()
    if watch is not None:
        poller.register(watch.fd, watch.mask)
    init = _open_init(container)
    if init is not None:
        poller.register(init, select.POLLIN)
    try:
        due = time.monotonic() + interval
        while True:
            patience = min(max(due - time.monotonic(), 0.0), _LONGEST)
            ready = dict(poller.poll((patience if init is not None else min(patience, _LINGER)) * 1000))
            if watch is not None and watch.happened():
                yield {"type": "oom", "id": container.id}
            if init is not None and init in ready:
                poller.unregister(init)
                os.close(init)
                init = None
            if init is None and not _populated(container.cgroup):
                if watch is not None and watch.happened():  # since the look above, but before its end
                    yield {"type": "oom", "id": container.id}
                return
            if watch is not None and watch.gone:
                poller.unregister(watch.fd)
                watch.close()
                watch = None
            if time.monotonic() >= due:
                due = time.monotonic() + interval
                try:
                    yield stats_event(container)
                except PyruncError as error:
                    container.report("error", str(error))
    finally:
        if init is not None:
            os.close(init)


def _open_init(container: Container) -> int | None:
    try:
        pidfd = os.pidfd_open(container.pid)
    except ProcessLookupError:
        return None
    if container.alive():  # else the number is somebody else's by now
        return pidfd
    os.close(pidfd)
    return None


def _populated(cgroup: Cgroup | None) -> bool:
    try:
        return cgroup is not None and bool(cgroup.pids())
    except PyruncError:
        return False


# Out of memory

def open_oom(container: Container) -> OomV1 | OomV2 | None:
    """What tells that the container runs out of memory from now on; None, with a warning, where nothing can."""
    cgroup = container.cgroup
    name = "" if cgroup is not None and cgroup.mode == "unified" else "memory"
    if cgroup is None or name not in cgroup.paths or cgroup.paths[name] in cgroup.skipped:
        container.report("warning", "no OOM events: the container has no memory cgroup")
        return None
    try:
        return OomV1(cgroup) if name else OomV2(cgroup, container.directory)
    except FileNotFoundError:
        container.report("warning", "no OOM events: the memory controller isn't enabled for the container's cgroup")
        return None
    except OSError as error:
        raise kernel_error("watch for the container running out of memory", error) from None


class OomV2:
    """memory.events of cgroup v2: poll(2) tells a change with POLLPRI, `oom_kill` counts (cgroup-v2.rst).

    The counter covers the cgroups below as well, and is read before anything else: a kill between
    that and the first poll is a change.  It can't be read any more once the cgroup is removed, which
    may be before we come to it: who removes it leaves the last count in the file `oom`.
    """

    mask = select.POLLPRI

    __slots__ = ("_last", "fd", "gone", "seen")

    def __init__(self, cgroup: Cgroup, directory: StateDir) -> None:
        self.fd = os.open(f"{cgroup.paths['']}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        self.gone = False
        self._last = -1
        try:
            self.seen = self._count()
            self._last = os.open(OOM, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                                 dir_fd=directory.fd)
        except OSError:
            self.close()
            raise

    def _count(self) -> int:
        # From the start on the same descriptor: only such a read makes the next change be told.
        content = os.pread(self.fd, 4096, 0).decode()
        return sum(int(line.split()[1]) for line in content.splitlines() if line.startswith("oom_kill "))

    def happened(self) -> bool:
        """Whether a process was killed since this was asked last."""
        try:
            count = self._count()
        except OSError as error:
            if error.errno not in cgroupfs.GONE:
                raise
            self.gone = True
            count = int(os.pread(self._last, 32, 0) or self.seen)
        new = count > self.seen
        self.seen = count
        return new

    def close(self) -> None:
        for fd in (self.fd, self._last):
            if fd >= 0:
                os.close(fd)
        self.fd = self._last = -1


class OomV1:
    """memory.oom_control of cgroup v1: an eventfd is told (admin-guide/cgroup-v1/memory.rst, OOM Control).

    It is told that the limit was hit, also where nobody is killed (disableOOMKiller); a kill in a
    cgroup below, at a limit of its own, shows in no counter here and is nobody's event.
    """

    mask = select.POLLIN

    __slots__ = ("_cgroup", "_control", "_path", "_told", "fd", "gone", "seen")

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        self._path = cgroup.paths["memory"]
        self.gone = False
        self._told = False
        self.seen = cgroup.oom_kills()
        self._control = os.open(f"{self._path}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        self.fd = -1
        try:
            self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            cgroupfs.write(f"{self._path}/cgroup.event_control", f"{self.fd} {self._control}")
        except OSError:
            self.close()
            raise

    def happened(self) -> bool:
        """Whether it ran out of memory since this was asked last."""
        try:
            told = os.eventfd_read(self.fd)
        except BlockingIOError:
            told = 0
        if not os.path.exists(f"{self._path}/memory.oom_control"):
            # Its removal is told by the eventfd, too: one more than what happened.
            self.gone = True
            return told > 1
        count = self._cgroup.oom_kills()
        # A kill follows the hit that was told: one event, not two.
        new = told > 0 or (count > self.seen and not self._told)
        self._told = told > 0 or (self._told and count == self.seen)
        if count > self.seen:
            self._told = False
        self.seen = count
        return new

    def close(self) -> None:
        for fd in (self.fd, self._control):
            if fd >= 0:
                os.close(fd)
        self.fd = self._control = -1
