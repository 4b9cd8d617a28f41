# SPDX-License-Identifier: Apache-2.0
"""The file system side of cgroups, the same in both versions: files, trees, the processes in them.

A container may have made sub-cgroups of any name, number and depth in its cgroup, and may go on
making them.  They are reached by descriptor only, one open at a time, and never by recursion.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
else:
    import _signal  # what `signal` wraps; that one costs importing enum

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Gone, or going: a cgroup that is being removed answers ENODEV to reads of its files.
GONE = (errno.ENOENT, errno.ENODEV)
_BATCH = 200  # of pidfds open at once


def open_directory(path: str) -> int:
    """A readable descriptor of the cgroup at `path`."""
    return os.open(path, _DIRECTORY)


def read(name: str, dir_fd: int | None = None) -> str:
    """All of a cgroup's (or procfs) file."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        pieces = []
        while piece := os.read(fd, 65536):
            pieces.append(piece)
    finally:
        os.close(fd)
    return b"".join(pieces).decode("utf-8", "surrogateescape")


def write(name: str, text: str, dir_fd: int | None = None) -> None:
    """Write `text` to a cgroup's file in the single write(2) that the kernel takes as one order."""
    # Without O_CREAT: what isn't a cgroup file must not become one (an unmounted /sys/fs/cgroup is a tmpfs).
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.write(fd, text.encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)


def enter(tasks: Mapping[str, int]) -> list[str]:
    """Put the calling process, of one thread, into cgroups of v1 whose `tasks` were opened; those it is in now."""
    entered = []
    for path, fd in tasks.items():
        try:
            os.write(fd, b"0")
            entered.append(path)
        except OSError:
            continue
    return entered


def make(path: str, made: list[str]) -> bool:
    """mkdir(2) `path` and the parents it lacks, noting each in `made`; False if `path` was there."""
    missing = [path]
    while missing:
        try:
            os.mkdir(missing[-1], 0o755)
        except FileNotFoundError:
            parent = os.path.dirname(missing[-1])
            if parent == missing[-1]:
                raise
            missing.append(parent)
        except FileExistsError:
            if missing.pop() == path:
                return False
        else:
            made.append(missing.pop())
    return True


def walk(top: int, removing: bool = False) -> Iterator[int]:
    """A descriptor of each cgroup below `top`, children before their parents, and of `top` itself last.

    With `removing`, each cgroup below `top` is removed once its turn is over, if that can be done.
    Each descriptor is good for its turn only.  Cgroups that vanish meanwhile are passed over.
    """
    fd = os.dup(top)
    try:
        names: list[str] = []
        pending = [_children(fd)]
        while True:
            if pending[-1]:
                name = pending[-1].pop()
                try:
                    child = os.open(name, _DIRECTORY, dir_fd=fd)
                except OSError as error:
                    if error.errno in GONE:
                        continue
                    raise
                os.close(fd)
                fd = child
                names.append(name)
                pending.append(_children(fd))
                continue
            yield fd
            if not names:
                return
            # A cgroup can't be moved to another parent, so `..` is where we came from.
            parent = os.open("..", _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = parent
            pending.pop()
            name = names.pop()
            if removing:
                try:
                    os.rmdir(name, dir_fd=fd)
                except OSError as error:
                    if error.errno not in (*GONE, errno.EBUSY, errno.ENOTEMPTY):
                        raise
    finally:
        os.close(fd)


def _children(fd: int) -> list[str]:
    # kernfs counts sub-directories in the link count, which spares a look at some 50 files.
    if os.fstat(fd).st_nlink <= 2:
        return []
    with os.scandir(fd) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def pids_in(fd: int) -> list[int]:
    """The processes in one cgroup; 0 for one that our pid namespace doesn't show."""
    try:
        return [int(line) for line in read("cgroup.procs", fd).split()]
    except OSError as error:
        if error.errno in GONE:
            return []
        if error.errno == errno.EOPNOTSUPP:
            return _pids_of_threads(fd)
        raise


def _pids_of_threads(fd: int) -> list[int]:
    """The processes with threads in a threaded cgroup: its domain lists them, and that may lie above ours."""
    try:
        threads = read("cgroup.threads", fd).split()
    except OSError as error:
        if error.errno in (*GONE, errno.EOPNOTSUPP):  # a domain below a threaded one: nobody can be in it
            return []
        raise
    found: set[int] = set()
    for thread in threads:
        try:
            status = read(f"/proc/{thread}/status") if thread != "0" else "Tgid: 0"
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.update(int(line.split()[1]) for line in status.splitlines() if line.startswith("Tgid:"))
    return sorted(found)


def pids_at(path: str, recursive: bool = True) -> list[int]:
    """The processes in the cgroup at `path`, and those below it; none when it doesn't exist."""
    try:
        top = open_directory(path)
    except OSError as error:
        if error.errno in GONE:
            return []
        raise
    try:
        if not recursive:
            return pids_in(top)
        return [pid for fd in walk(top) for pid in pids_in(fd)]
    finally:
        os.close(top)


def signal(pids: Sequence[int], signo: int, look_again: Callable[[], Iterable[int]]) -> None:
    """Signal each of `pids` that `look_again` still finds (but never ourselves).

    Each is held by a pidfd before that second look, so a number that was reused before it, or is
    after it, can't hit a stranger.
    """
    own = os.getpid()
    for start in range(0, len(pids), _BATCH):
        held: list[tuple[int, int]] = []
        try:
            for pid in pids[start : start + _BATCH]:
                if pid not in (0, own):
                    try:
                        held.append((pid, os.pidfd_open(pid)))
                    except OSError as error:
                        # EINVAL: its leader has been reaped but for a thread that took its place.
                        if error.errno not in (errno.ESRCH, errno.EINVAL):
                            raise
            members = set(look_again())
            for pid, pidfd in held:
                if pid in members:
                    try:
                        _signal.pidfd_send_signal(pidfd, signo)
                    except ProcessLookupError:
                        continue
        finally:
            for _, pidfd in held:
                os.close(pidfd)
