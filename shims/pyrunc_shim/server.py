# SPDX-License-Identifier: Apache-2.0
"""A ttrpc server on the loop: connections, and the calls that come over them.

Every call runs at once; answers go out as they are ready, in any order.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SO_PEERCRED, SOCK_STREAM, SOL_SOCKET, socket
from _struct import unpack

from . import ttrpc
from .codec import DecodeError
from .loop import IN, OUT
from .messages import Empty, Request
from .ttrpc import RpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .codec import Message
    from .loop import Loop, Timer
    from .ttrpc import Frame

    #: Answers with a message, None for an empty one, or LATER if the call's `answer` or `fail` will be called.
    Handler = Callable[["Call", "Message"], "Message | None"]
    Methods = Mapping[str, tuple[type[Message], Handler]]

_READ = 65536
_MAX_BACKLOG = 16 << 20  # of answers that a client doesn't take; it is cut off then

LATER = Empty()  # not an answer


class Call:
    """A request that is to be answered once: by `answer` or `fail`."""

    __slots__ = ("_connection", "_stream", "_timer", "metadata", "method")

    def __init__(self, connection: Connection, stream: int, method: str, metadata: dict[str, str]) -> None:
        self._connection: Connection | None = connection
        self._stream = stream
        self._timer: Timer | None = None
        self.method = method
        self.metadata = metadata

    def answer(self, message: Message | None = None) -> None:
        """Answer with `message`; without effect when the call has ended."""
        self._send(ttrpc.encode_response(self._stream, message.encode() if message is not None else b""))

    def fail(self, error: RpcError) -> None:
        self._send(ttrpc.encode_error(self._stream, error))

    def _send(self, frame: bytes) -> None:
        connection, self._connection = self._connection, None
        if self._timer is not None:
            self._timer.cancel()
        if connection is not None:
            connection.calls.discard(self)
            connection.send(frame)

    def limit(self, loop: Loop, seconds: float) -> None:
        """Have it fail unless it is answered in time."""
        late = RpcError(ttrpc.DEADLINE_EXCEEDED, "context deadline exceeded")
        self._timer = loop.later(seconds, lambda: self.fail(late))

    def abandon(self) -> None:
        """The client is gone: nobody wants the answer."""
        self._connection = None
        if self._timer is not None:
            self._timer.cancel()

    @property
    def open(self) -> bool:
        return self._connection is not None


class Connection:
    """One client."""

    __slots__ = ("_decoder", "_last", "_out", "_server", "_socket", "calls")

    def __init__(self, server: Server, connection: socket) -> None:
        self._server = server
        self._socket = connection
        self._decoder = ttrpc.Decoder()
        self._out = bytearray()
        self._last = 0
        self.calls: set[Call] = set()
        server.loop.watch(connection.fileno(), IN, self._ready)

    def send(self, frame: bytes) -> None:
        """Send now what goes, the rest when the client takes it."""
        if self._socket.fileno() < 0:
            return
        idle = not self._out
        self._out += frame
        if idle:
            self._flush()
        if len(self._out) > _MAX_BACKLOG:
            self.close()

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._socket.send(self._out)
                del self._out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._server.loop.watch(self._socket.fileno(), IN | (OUT if self._out else 0), self._ready)

    def _ready(self, events: int) -> None:
        if events & OUT:
            self._flush()
        if self._socket.fileno() < 0 or not events & ~OUT:
            return
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for frame in self._decoder.feed(data):
            self._frame(frame)
            if self._socket.fileno() < 0:
                return

    def _frame(self, frame: Frame) -> None:
        try:
            self._checked(frame)
        except RpcError as error:
            self.send(ttrpc.encode_error(frame.stream, error))

    def _checked(self, frame: Frame) -> None:
        if frame.oversize:
            raise RpcError(ttrpc.RESOURCE_EXHAUSTED, ttrpc.too_large(frame.size))
        if not frame.stream % 2:
            raise RpcError(ttrpc.INVALID_ARGUMENT, "StreamID must be odd for client initiated streams")
        if frame.type == ttrpc.DATA:
            raise RpcError(ttrpc.INVALID_ARGUMENT, "StreamID is no longer active")
        if frame.type != ttrpc.REQUEST:
            return  # of a version to come
        if frame.stream <= self._last:
            raise RpcError(ttrpc.INVALID_ARGUMENT, "StreamID cannot be re-used and must increment")
        self._last = frame.stream
        try:
            request = Request.decode(frame.data)
        except DecodeError as error:
            raise RpcError(ttrpc.INVALID_ARGUMENT, f"unmarshal request error: {error}") from None
        self._server.dispatch(self, frame.stream, request)

    def close(self) -> None:
        """Cut the client off; what it has asked for is done all the same, but not answered."""
        fd = self._socket.fileno()
        if fd < 0:
            return
        self._server.loop.forget(fd)
        self._socket.close()
        self._out.clear()
        for call in self.calls:
            call.abandon()
        self.calls.clear()
        self._server.connections.discard(self)


class Server:
    """`services`: by name the methods, each with its request's class and what answers it."""

    __slots__ = ("_listener", "_services", "connections", "loop", "on_error")

    def __init__(self, loop: Loop, listener: socket, services: Mapping[str, Methods],
                 on_error: Callable[[str], object]) -> None:
        self.loop = loop
        self.connections: set[Connection] = set()
        self.on_error = on_error
        self._listener = listener
        self._services = services
        listener.setblocking(False)
        loop.watch(listener.fileno(), IN, self._accept)

    def _accept(self, _events: int) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # what `socket` has around _socket's
        except OSError:  # it has gone again, or we have no descriptor to spare
            return
        connection = socket(AF_UNIX, SOCK_STREAM, 0, fileno=fd)
        connection.setblocking(False)
        # struct ucred, unix(7): only who could do all this without us.
        _, uid, gid = unpack("iII", connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))
        if (uid, gid) != (os.geteuid(), os.getegid()):
            connection.close()
            return
        self.connections.add(Connection(self, connection))

    def dispatch(self, connection: Connection, stream: int, request: Request) -> None:
        """Call the method.  Raises RpcError where there is none."""
        methods = self._services.get(request.service)
        if methods is None:
            raise RpcError(ttrpc.UNIMPLEMENTED, f"service {request.service}")
        entry = methods.get(request.method)
        if entry is None:
            raise RpcError(ttrpc.UNIMPLEMENTED, f"method {request.method}")
        cls, handler = entry
        try:
            message = cls.decode(request.payload)
        except DecodeError as error:
            raise RpcError(ttrpc.INVALID_ARGUMENT, f"unmarshal request error: {error}") from None
        call = Call(connection, stream, request.method, {pair.key: pair.value for pair in request.metadata})
        connection.calls.add(call)
        if request.timeout_nano > 0:
            call.limit(self.loop, request.timeout_nano / 1e9)
        try:
            result = handler(call, message)
        except RpcError as error:
            call.fail(error)
        except Exception as error:  # a defect must not take the containers' shim down
            self.on_error(f"{request.method}: {type(error).__name__}: {error}")
            call.fail(RpcError(ttrpc.INTERNAL, f"{request.method}: {type(error).__name__}: {error}"))
        else:
            if result is not LATER:
                call.answer(result)

    def close(self) -> None:
        """No more clients."""
        self.loop.forget(self._listener.fileno())
        self._listener.close()
        for connection in list(self.connections):
            connection.close()
