# SPDX-License-Identifier: Apache-2.0
"""A ttrpc client on the loop: calls whose answers come back later."""

from __future__ import annotations

from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, socket

from . import ttrpc
from .codec import DecodeError
from .loop import IN, OUT
from .messages import Response
from .ttrpc import RpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .loop import Loop, Timer

    #: What comes back: the payload, or why there is none.
    Done = Callable[[bytes, RpcError | None], object]

_READ = 65536


class Client:
    """Calls to the server at `address`, which is connected to when there is something to call."""

    __slots__ = ("_address", "_decoder", "_loop", "_next", "_out", "_pending", "_socket")

    def __init__(self, loop: Loop, address: str) -> None:
        self._loop = loop
        self._address = address.removeprefix("unix://")
        self._socket: socket | None = None
        self._decoder = ttrpc.Decoder()
        self._out = bytearray()
        self._next = 1
        self._pending: dict[int, tuple[Done, Timer]] = {}

    def call(self, service: str, method: str, payload: bytes, done: Done, *, timeout: float,
             metadata: Mapping[str, str] | None = None) -> None:
        """Call a method; `done` is called once, at the latest after `timeout` seconds, never from in here."""
        try:
            connection = self._connect()
            stream = self._next
            frame = ttrpc.encode_request(stream, service, method, payload, timeout=timeout, metadata=metadata)
        except OSError as error:
            failure = RpcError(ttrpc.UNAVAILABLE, f"connect to {self._address}: {error.strerror}")
            self._loop.later(0, lambda: done(b"", failure))
            return
        except RpcError as error:
            failure = error
            self._loop.later(0, lambda: done(b"", failure))
            return
        self._next += 2
        late = RpcError(ttrpc.DEADLINE_EXCEEDED, "context deadline exceeded")
        self._pending[stream] = (done, self._loop.later(timeout, lambda: self._finish(stream, b"", late)))
        self._out += frame
        self._loop.watch(connection.fileno(), IN | OUT, self._ready)

    def _connect(self) -> socket:
        if self._socket is None:
            connection = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
            try:
                connection.connect(self._address)
            except OSError:
                connection.close()
                raise
            self._socket = connection
            self._decoder = ttrpc.Decoder()
            self._out.clear()
            self._next = 1
        return self._socket

    def _ready(self, events: int) -> None:
        connection = self._socket
        if connection is None:
            return
        try:
            if events & OUT:
                while self._out:
                    sent = connection.send(self._out)
                    del self._out[:sent]
                self._loop.watch(connection.fileno(), IN, self._ready)
            if not events & ~OUT:
                return
            data = connection.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for frame in self._decoder.feed(data):
            if frame.type == ttrpc.RESPONSE:
                self._response(frame)

    def _response(self, frame: ttrpc.Frame) -> None:
        if frame.oversize:
            self._finish(frame.stream, b"", RpcError(ttrpc.RESOURCE_EXHAUSTED, ttrpc.too_large(frame.size)))
            return
        try:
            response = Response.decode(frame.data)
        except DecodeError as error:
            self._finish(frame.stream, b"", RpcError(ttrpc.INTERNAL, f"unmarshal response error: {error}"))
            return
        status = response.status
        failure = RpcError(status.code, status.message) if status is not None and status.code else None
        self._finish(frame.stream, response.payload, failure)

    def _finish(self, stream: int, payload: bytes, failure: RpcError | None) -> None:
        entry = self._pending.pop(stream, None)
        if entry is not None:
            done, timer = entry
            timer.cancel()
            done(payload, failure)

    def close(self) -> None:
        """Let go of the connection; calls that wait fail."""
        connection, self._socket = self._socket, None
        if connection is not None:
            self._loop.forget(connection.fileno())
            connection.close()
        self._out.clear()
        for stream in list(self._pending):
            self._finish(stream, b"", RpcError(ttrpc.UNAVAILABLE, "ttrpc: closed"))
