# SPDX-License-Identifier: Apache-2.0
"""What the command line, or who uses the library, adds to a bundle and to the process of an exec."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class CreateOptions:
    """What the command line adds to a bundle."""

    __slots__ = ("cgroup_manager", "console_fd", "console_socket", "keyring", "listen_fds", "listen_names",
                 "notify_socket", "pid_file", "pidfd_socket", "pivot", "preserve_fds", "rootless")

    def __init__(self, *, console_socket: str = "", pid_file: str = "", pidfd_socket: str = "", pivot: bool = True,
                 keyring: bool = True, preserve_fds: int = 0, cgroup_manager: str = "cgroupfs", console_fd: int = -1,
                 rootless: bool | None = None, notify_socket: str = "", listen_fds: int = 0,
                 listen_names: str = "") -> None:
        self.console_socket = console_socket
        self.pidfd_socket = pidfd_socket
        self.pid_file = pid_file
        self.pivot = pivot
        self.keyring = keyring
        self.preserve_fds = preserve_fds
        self.cgroup_manager = cgroup_manager  # cgroupfs, systemd, or disabled: no cgroup is made, and none joined
        self.notify_socket = notify_socket  # $NOTIFY_SOCKET: the container gets one of its own then
        self.listen_fds = listen_fds  # from 3 on, before those of preserve_fds; $LISTEN_FDS
        self.listen_names = listen_names
        # Whether a cgroup may be missed, and the user's systemd is the one to ask; None: depends on who we are.
        self.rootless = rootless
        # For a caller that relays a terminal itself: a socket over which the master is sent.
        self.console_fd = console_fd


class ExecOptions:
    """What the command line adds to the process.

    `sub_cgroups`: by controller ("" on v2) a cgroup below the container's, to be joined in its place.
    `watched`: a descriptor, and what is called when it is readable while the process is waited for; what
    that raises ends it.
    """

    __slots__ = ("console_fd", "console_socket", "ignore_paused", "pid_file", "pidfd_socket", "preserve_fds",
                 "sub_cgroups", "watched")

    def __init__(self, *, console_socket: str = "", pid_file: str = "", pidfd_socket: str = "", preserve_fds: int = 0,
                 sub_cgroups: dict[str, str] | None = None, ignore_paused: bool = False, console_fd: int = -1) -> None:
        self.console_socket = console_socket
        self.pid_file = pid_file
        self.pidfd_socket = pidfd_socket
        self.preserve_fds = preserve_fds
        self.sub_cgroups = sub_cgroups or {}
        self.ignore_paused = ignore_paused
        self.console_fd = console_fd  # for a caller that relays a terminal itself: a socket for the master
        self.watched: tuple[int, Callable[[], None]] | None = None
