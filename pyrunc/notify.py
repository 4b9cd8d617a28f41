# SPDX-License-Identifier: Apache-2.0
"""sd_notify(3) and socket activation (sd_listen_fds(3)), passed through to a container as runc does.

With $NOTIFY_SOCKET the container gets a socket of its own, ROOT/ID/notify/notify.sock, whose
directory is bound read-only to /run/notify.  What the container says there is nobody's word: only
lines of KINDS are passed on, and no descriptor.
"""

from __future__ import annotations

import os
import select
import time
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_DGRAM, SOL_SOCKET, socket
from _struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .lifecycle import Container
    from .spec.types import Config
    from .state import StateDir

DIRECTORY = "notify"
SOCKET = "notify.sock"
INSIDE = "/run/notify"
KINDS = (b"READY", b"RELOADING", b"STOPPING", b"STATUS", b"ERRNO", b"BUSERROR", b"EXIT_STATUS", b"WATCHDOG",
         b"WATCHDOG_USEC", b"EXTEND_TIMEOUT_USEC", b"MONOTONIC_USEC")

_LARGEST = 65536  # more than systemd takes
_QUEUE = 1024  # more than net.unix.max_dgram_qlen is by default
_PATIENCE = 30.0  # seconds for the host's side to take a message


def prepare(directory: StateDir, config: Config) -> None:
    """Make the directory, and have `config` mount it and name the socket.  Raises OSError."""
    process = config.get("process")
    if process is None:
        return
    os.mkdir(DIRECTORY, 0o755, dir_fd=directory.fd)
    config["mounts"] = [*(config.get("mounts") or ()), {
        "destination": INSIDE, "source": f"{directory.path}/{DIRECTORY}", "type": "bind",
        "options": ["bind", "rprivate", "nosuid", "noexec", "nodev", "ro"]}]
    process["env"] = [*(process.get("env") or ()), f"NOTIFY_SOCKET={INSIDE}/{SOCKET}"]


def listen_fds(environ: Mapping[str, str]) -> tuple[int, str]:
    """How many descriptors, from 3 on, the service manager has passed to this process, and their names."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return 0, ""
    text = environ.get("LISTEN_FDS", "")
    count = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    return count, environ.get("LISTEN_FDNAMES", "") if count else ""


class Relay:
    """The container's socket, and the host's that its messages go to."""

    __slots__ = ("container", "fd", "host", "pid", "ready", "socket")

    def __init__(self, container: Container, host: str, pid: int) -> None:
        """`pid`: the process that the service manager shall watch as the service's.  Raises OSError."""
        self.container = container
        self.host = host
        self.pid = pid
        self.ready = False
        self.socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        place = os.open(DIRECTORY, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                        dir_fd=container.directory.fd)
        try:
            try:
                os.unlink(SOCKET, dir_fd=place)
            except FileNotFoundError:
                pass
            # An address has at most 108 bytes, a path below a state root may have more.
            self.socket.bind(f"/proc/self/fd/{place}/{SOCKET}")
            os.chmod(SOCKET, 0o777, dir_fd=place)  # the container's user may be anybody
        except BaseException:
            self.socket.close()
            raise
        finally:
            os.close(place)
        self.fd = self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def receive(self) -> bool:
        """Pass one message on; always true (there is more to come)."""
        lines = [line for line in self.socket.recv(_LARGEST).split(b"\n") if line.partition(b"=")[0] in KINDS]
        if not lines:
            return True
        if not self.ready and any(line.startswith(b"READY=") for line in lines):
            self.ready = True
            # In the same message: when the service is ready, that is its main process.
            lines.append(b"MAINPID=%d" % self.pid)
        self._send(b"".join(line + b"\n" for line in lines))
        return True

    def finish(self) -> None:
        """Pass on what was said before the container ended."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        for _ in range(_QUEUE):  # who shares its pid namespace may go on for ever
            if not poller.poll(0):
                return
            self.receive()

    def wait(self) -> None:
        """Until the container is ready, and the host's side knows it; or the container has ended."""
        try:
            pidfd = os.pidfd_open(self.container.pid)
        except ProcessLookupError:
            return
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        poller.register(pidfd, select.POLLIN)
        try:
            while not self.ready:
                ready = dict(poller.poll())
                if self.fd in ready:
                    self.receive()
                elif pidfd in ready:
                    return
        finally:
            os.close(pidfd)
        self._barrier()

    def _barrier(self) -> None:
        """Wait until what was sent has been worked off: it is judged by its sender, who must be there until then.

        sd_notify_barrier(3): the other side closes the descriptor it got.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._send(b"BARRIER=1", writer)
        finally:
            os.close(writer)
        poller = select.poll()
        poller.register(reader, 0)
        started = time.monotonic()
        poller.poll(_PATIENCE * 1000)
        os.close(reader)
        if time.monotonic() - started >= _PATIENCE:
            self.container.report("warning", f"{self.host} does not answer BARRIER=1: ignored")

    def _send(self, message: bytes, fd: int = -1) -> None:
        rights = [(SOL_SOCKET, SCM_RIGHTS, pack("=i", fd))] if fd >= 0 else []
        address = "\0" + self.host[1:] if self.host.startswith("@") else self.host
        client = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        try:
            client.settimeout(_PATIENCE)
            client.sendmsg([message], rights, 0, address)
        except OSError as error:
            self.container.report("warning", f"NOTIFY_SOCKET {self.host}: {error.strerror or error}")
        finally:
            client.close()


def relay_for(container: Container, host: str, pid: int) -> Relay | None:
    """The relay of a created container; None where nobody listens, or it was created without one."""
    if not host or container.status() != "created":
        return None
    try:
        return Relay(container, host, pid)
    except FileNotFoundError:
        container.report("debug", "the container was created without NOTIFY_SOCKET: it has none")
    except OSError as error:
        container.report("warning", f"the container's notify socket: {error.strerror}")
    return None


def start(container: Container, host: str) -> None:
    """Container.start; with `host`, the $NOTIFY_SOCKET, it returns when the container is ready or has ended."""
    relay = relay_for(container, host, container.pid)
    try:
        container.start()
        if relay is not None:
            relay.wait()
    finally:
        if relay is not None:
            relay.close()
