# SPDX-License-Identifier: Apache-2.0
"""SCMP_ACT_NOTIFY, the runtime's side: the listener goes to the agent (config-linux.md, containerProcessState).

By the parent, which no filter holds: a call that the agent has to answer for can't keep the listener
from it.  The process sends a number with write(2); the descriptor is fetched with pidfd_getfd(2).
"""

from __future__ import annotations

import os
from _socket import SCM_RIGHTS, SOL_SOCKET, socket
from _struct import pack

from ._version import OCI_VERSION
from .console import connect
from .errors import KernelError, PyruncError, kernel_error
from .linux.seccomp import pidfd_getfd
from .spec.load import dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .channel import Channel
    from .seccomp import Filter

_POINTER = "/linux/seccomp/listenerPath"
_LISTENER = "anon_inode:seccomp notify"


class Agent:
    """A connection to the agent, made before anything else is: one that isn't there is found out early."""

    __slots__ = ("_fd", "metadata", "path")

    def __init__(self, filter_: Filter) -> None:
        self.path = filter_.path
        self.metadata = filter_.metadata
        try:
            self._fd = connect(self.path, "seccomp agent")
        except KernelError as error:
            error.pointer = _POINTER
            raise

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def serve(self, channel: Channel, pid: int, state: dict[str, Any]) -> None:
        """Wait until process `pid` has loaded its filter, and hand the listener over.  Raises PyruncError, EOFError."""
        number = channel.expect("seccomp")["fd"]
        try:
            pidfd = os.pidfd_open(pid)
            try:
                listener = pidfd_getfd(pidfd, int(number))
            finally:
                os.close(pidfd)
        except OSError as error:
            raise kernel_error("fetch the listener of the seccomp filter", error, pointer="/linux/seccomp",
                               hint="pidfd_getfd(2) needs Linux 5.6, and the right to trace the process") from None
        try:
            if os.readlink(f"/proc/self/fd/{listener}") != _LISTENER:
                raise PyruncError("the process sent something else than a listener", pointer="/linux/seccomp")
            self._send(listener, pid, state)
        finally:
            # With a copy here the filter would go on waiting for an agent that has died.
            os.close(listener)
            self.close()
        channel.send("taken")

    def _send(self, listener: int, pid: int, state: dict[str, Any]) -> None:
        data = dump({"ociVersion": OCI_VERSION, "fds": ["seccompFd"], "pid": pid, "metadata": self.metadata,
                     "state": state}).encode("utf-8", "surrogatepass")
        connection = socket(fileno=self._fd)
        try:
            sent = connection.sendmsg([data], [(SOL_SOCKET, SCM_RIGHTS, pack("=i", listener))])
            # With nothing left that would still be a call, and EPIPE from an agent that has all and has hung up.
            if sent < len(data):
                connection.sendall(data[sent:])
        except OSError as error:
            raise kernel_error(f"seccomp agent {self.path}", error, syscall="sendmsg", pointer=_POINTER) from None
        finally:
            connection.detach()

