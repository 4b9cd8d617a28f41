# SPDX-License-Identifier: Apache-2.0
"""What a caller gives besides arguments, and gets besides an exit code: descriptors, pid files, pidfds."""

from __future__ import annotations

import os

from .console import connect, send_descriptor
from .errors import UsageError, kernel_error
from .paths import create_anew


def preserved(count: int, listen: int = 0) -> list[int]:
    """The descriptors 3… of $LISTEN_FDS, and of --preserve-fds after those.

    Those of $LISTEN_FDS have to be open, and the last of --preserve-fds.  Before that one there may be holes, which
    stay holes: Podman's --preserve-fd 5,7 comes as --preserve-fds 5.  Raises UsageError.
    """
    fds = range(3, 3 + listen + count)  # not a list yet: it may be said to be of any length
    for fd in fds[:listen] if fds and _given(fds[-1]) else fds:
        if not _given(fd):
            what = f"LISTEN_FDS={listen}" if fd < 3 + listen else f"--preserve-fds {count}"
            raise UsageError(f"{what}: descriptor {fd} is not open")
    return [fd for fd in fds if _given(fd)]


def _given(fd: int) -> bool:
    """Whether it is the caller's: one that is closed on execve was opened by us, the log perhaps."""
    try:
        return os.get_inheritable(fd)
    except (OSError, OverflowError):
        return False


def standard_streams() -> list[str]:
    """What the container's standard streams are: criu can restore one from outside only if it is told then."""
    found = []
    for fd in range(3):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            found.append("/dev/null")
    return found


def write_pid_file(path: str, pid: int) -> None:
    """The process's pid, there completely or not at all; nothing if `path` is empty.  Raises KernelError."""
    if not path:
        return
    head, _, name = path.rpartition("/")
    temporary = f"{head}/.{name}" if head else f".{name}"
    try:
        fd = create_anew(temporary, 0o644)
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        remove(temporary)
        raise kernel_error(f"write the pid file {path}", error) from None


def remove(path: str) -> None:
    """Take a file away, as far as that can be done."""
    try:
        os.unlink(path)
    except OSError:
        pass  # somebody else's by now, or nobody's


def connect_pidfd_socket(path: str) -> int:
    """Connect to the socket that waits for the pidfd, -1 if `path` is empty.  Raises KernelError."""
    return connect(path, "pidfd socket") if path else -1


def send_pidfd(socket_fd: int, pid: int, name: str) -> None:
    """Send a pidfd of `pid` (pidfd_open(2)) as --pidfd-socket wants it; nothing if `socket_fd` is -1.

    `name`, the data beside it, is runc's: standard for an init, setns for a process of exec.
    """
    if socket_fd < 0:
        return
    try:
        pidfd = os.pidfd_open(pid)
        try:
            send_descriptor(socket_fd, pidfd, name)
        finally:
            os.close(pidfd)
    except OSError as error:
        raise kernel_error("send the pidfd", error) from None
