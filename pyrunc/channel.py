# SPDX-License-Identifier: Apache-2.0
"""The wire between the runtime and the container's init: JSON messages over a socketpair.

The socket keeps message boundaries, so a message is a packet.  Nothing in a packet is trusted to be
small or well-formed: past the fork the other end is a process that has entered a container.
"""

from __future__ import annotations

import os
import select
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, SCM_CREDENTIALS, SCM_RIGHTS, SO_PASSCRED, SOL_SOCKET, socket
from _struct import unpack

from .errors import PyruncError, from_data
from .linux.fs import socketpair
from .spec.load import dump, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_MESSAGE = 65536
_MAX_TEXT = 16384  # bytes as JSON, where a character can be twelve; three such texts make a message


class Unheard(EOFError):
    """The other end is gone, and what was sent last had not been read."""


class Channel:
    """One end of the wire."""

    __slots__ = ("fd", "watched")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        # What is called whenever this descriptor is readable while a message is waited for; it may raise.
        self.watched: tuple[int, Callable[[], None]] | None = None

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message.  Raises BrokenPipeError when the other end is gone."""
        os.write(self.fd, dump({"kind": kind, **fields}).encode("utf-8", "surrogatepass"))

    def send_error(self, error: PyruncError) -> None:
        """Send an error, cut to fit."""
        data = error.to_data()
        for key in ("message", "pointer", "hint"):
            data[key] = _cut(data[key])
        self.send("error", error=data)

    def receive(self) -> dict[str, Any]:
        """The next message.  Raises EOFError when the other end is gone, the error when it sent one."""
        self._wait()
        try:
            packet = os.read(self.fd, MAX_MESSAGE)
        except ConnectionResetError:
            raise Unheard from None
        return _message(packet)

    def _wait(self) -> None:
        """Until there is something to receive, where something else is to be watched meanwhile."""
        if self.watched is None:
            return
        other, called = self.watched
        poller = select.poll()
        for fd in (self.fd, other):
            poller.register(fd, select.POLLIN)
        while all(fd != self.fd for fd, _ in poller.poll()):
            called()

    def ask_for_senders(self) -> None:
        """Have the kernel say of each message that is sent to this end from here on who sent it (unix(7))."""
        connection = socket(fileno=self.fd)
        try:
            connection.setsockopt(SOL_SOCKET, SO_PASSCRED, 1)
        finally:
            connection.detach()

    def receive_from(self, pid: int) -> dict[str, Any]:
        """The next message, which has to be from process `pid`: its descriptor may have got into other hands."""
        self._wait()
        connection = socket(fileno=self.fd)
        try:
            packet, ancillary, _, _ = connection.recvmsg(MAX_MESSAGE, CMSG_SPACE(12), MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            raise Unheard from None
        finally:
            connection.detach()
        senders = [unpack("=iII", content)[0] for level, kind, content in ancillary
                   if (level, kind) == (SOL_SOCKET, SCM_CREDENTIALS)]
        if packet and senders != [pid]:
            raise PyruncError("a message from another process than the one that enters the container")
        return _message(packet)

    def expect(self, kind: str) -> dict[str, Any]:
        """The next message, which has to be a `kind`."""
        message = self.receive()
        if message.get("kind") != kind:
            raise PyruncError(f"expected the message {kind}, got {message.get('kind')}")
        return message

    def last_words(self) -> PyruncError | None:
        """The error that the other end sent before it went, if any: who is sending meanwhile hears of the end first."""
        while True:
            try:
                self.receive()
            except Unheard:
                continue  # told once; what was sent comes after it
            except EOFError:
                return None
            except PyruncError as error:
                return error

    def receive_descriptor(self) -> int:
        """A descriptor, which comes in a packet of its own.  Raises EOFError when the other end is gone."""
        connection = socket(fileno=self.fd)
        try:
            data, ancillary, _, _ = connection.recvmsg(_MAX_TEXT, CMSG_SPACE(4), MSG_CMSG_CLOEXEC)
        finally:
            connection.detach()
        if not data:
            raise EOFError
        for level, kind, content in ancillary:
            if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
                fd: int = unpack("=i", content)[0]
                return fd
        raise PyruncError("expected a descriptor")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _message(packet: bytes) -> dict[str, Any]:
    if not packet:
        raise EOFError
    message = parse(packet, "message")
    if not isinstance(message, dict):
        raise PyruncError("malformed message from the container's init")
    if message.get("kind") == "error":
        raise from_data(message["error"])
    return message


def _cut(text: str) -> str:
    text = text[:_MAX_TEXT]
    while len(dump(text)) > _MAX_TEXT:
        text = text[:len(text) // 2]
    return text


def pair() -> tuple[Channel, Channel]:
    """Two connected ends.  Raises OSError."""
    first, second = socketpair()
    return Channel(first), Channel(second)
