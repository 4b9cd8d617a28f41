# SPDX-License-Identifier: Apache-2.0
"""The container's terminal, on the container side: a pty of its own devpts, its master sent out.

The console-socket protocol is runc's: one byte of data and the master's descriptor, sent over a
connected AF_UNIX stream socket (SCM_RIGHTS).
"""

from __future__ import annotations

import errno
import fcntl
import os
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket
from _struct import pack

from .errors import PyruncError, kernel_error
from .linux import mount as k
from .linux.fs import DEVPTS_SUPER_MAGIC, O_PATH, fstatfs_type
from .paths import make_file, open_in_root, proc_reopen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .rootfs import RootFs

_LONGEST_ADDRESS = 107  # bytes of a path that AF_UNIX takes (unix(7))

TIOCSCTTY = 0x540E
TIOCSWINSZ = 0x5414
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441


def connect(path: str, what: str = "console socket") -> int:
    """Connect to the socket that waits for the terminal, or for `what`.  Raises KernelError."""
    connection = socket(AF_UNIX, SOCK_STREAM)
    directory = -1
    try:
        address = path
        if len(os.fsencode(path)) > _LONGEST_ADDRESS:
            head, slash, name = path.rpartition("/")
            directory = os.open(head + slash or ".", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            address = f"/proc/self/fd/{directory}/{name}"
        connection.connect(address)
    except OSError as error:
        connection.close()
        hint = "the caller has to listen on it first" if error.errno in (errno.ENOENT, errno.ECONNREFUSED) else ""
        raise kernel_error(f"{what} {path}", error, syscall="connect", hint=hint) from None
    finally:
        if directory >= 0:
            os.close(directory)
    return connection.detach()


def send_descriptor(socket_fd: int, fd: int, name: str) -> None:
    """Send `fd` with `name` as the data.  Raises OSError."""
    connection = socket(fileno=socket_fd)
    try:
        connection.sendmsg([name.encode()], [(SOL_SOCKET, SCM_RIGHTS, pack("=i", fd))])
    finally:
        connection.detach()


def set_up(root: RootFs, socket_fd: int, size: tuple[int, int] | None, uid: int, *, bind: bool = True) -> None:
    """Open a pty, send its master, make the other end stdin, stdout, stderr and, with `bind`, /dev/console.

    `size` is (rows, columns).  Raises PyruncError.
    """
    try:
        # Through our own devpts, verified: an image could have anything at /dev/ptmx or /dev/pts/N,
        # and exchange it (CVE-2025-52565).  The peer comes from the master, not from a path.
        place = open_in_root(root.fd, "dev/pts/ptmx", follow=False)
        if fstatfs_type(place) != DEVPTS_SUPER_MAGIC:
            raise PyruncError("/dev/pts in the container is not a devpts", pointer="/process/terminal")
        master = proc_reopen(root.proc_self, place, os.O_RDWR | os.O_NOCTTY)
        os.close(place)
    except FileNotFoundError:
        raise PyruncError("a terminal needs a devpts mounted on /dev/pts", pointer="/process/terminal",
                          hint="add it to mounts") from None
    except OSError as error:
        raise kernel_error("open a terminal", error, pointer="/process/terminal") from None
    try:
        fcntl.ioctl(master, TIOCSPTLCK, pack("=i", 0))
        peer = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | 0o100000)
        if size is not None:
            fcntl.ioctl(master, TIOCSWINSZ, pack("=HHHH", size[0], size[1], 0, 0))
        os.fchown(peer, uid, -1)
        send_descriptor(socket_fd, master, "/dev/pts/ptmx")
        os.close(master)
        if bind:
            _bind_console(root, peer)
        for fd in (0, 1, 2):
            os.dup2(peer, fd)
        if peer > 2:
            os.close(peer)
    except OSError as error:
        raise kernel_error("set up the terminal", error, pointer="/process/terminal") from None


def take_control() -> None:
    """Make the terminal on stdin the controlling one of the session that the caller leads.  Raises KernelError."""
    try:
        fcntl.ioctl(0, TIOCSCTTY, 0)
    except OSError as error:
        raise kernel_error("set up the terminal", error, pointer="/process/terminal") from None


def _bind_console(root: RootFs, peer: int) -> None:
    target = make_file(root.fd, "dev/console", 0o620)
    try:
        tree = k.open_tree(peer)
        k.move_mount(tree, target)
        os.close(tree)
    finally:
        os.close(target)
