# SPDX-License-Identifier: Apache-2.0
"""ttrpc's protocol: frames, requests, responses, status codes; no input or output.

github.com/containerd/ttrpc PROTOCOL.md.  A frame is a header of ten bytes, big-endian (length,
stream id, type, flags), and the data, of 4 MiB at most.  Only unary calls are spoken: a Request and
its Response.
"""

from __future__ import annotations

from _struct import pack, unpack_from

from .messages import KeyValue, Request, Response, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HEADER = 10
MAX_DATA = 4 << 20

REQUEST, RESPONSE, DATA = 1, 2, 3
REMOTE_CLOSED, REMOTE_OPEN, NO_DATA = 1, 2, 4

# google.rpc.Code
CANCELED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED = range(1, 8)
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = range(8, 15)


class RpcError(Exception):
    """A call that failed: what becomes a Response's status, and comes of one."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Frame:
    """One frame; `size` is what its header said, and `data` is empty if that was too much."""

    __slots__ = ("data", "flags", "size", "stream", "type")

    def __init__(self, stream: int, type_: int, flags: int, data: bytes, size: int) -> None:
        self.stream = stream
        self.type = type_
        self.flags = flags
        self.data = data
        self.size = size

    @property
    def oversize(self) -> bool:
        return self.size > MAX_DATA


class Decoder:
    """Makes frames of bytes as they come, in pieces of any size; holds one frame at most."""

    __slots__ = ("_buffer", "_skip")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes.  Of one that is too large the data are passed over."""
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            data = data[passed:]
        self._buffer += data
        while len(self._buffer) >= HEADER:
            size, stream, type_, flags = unpack_from(">IIBB", self._buffer)
            if size > MAX_DATA:
                here = min(size, len(self._buffer) - HEADER)
                del self._buffer[:HEADER + here]
                self._skip = size - here
                yield Frame(stream, type_, flags, b"", size)
                continue
            end = HEADER + size
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER:end])
            del self._buffer[:end]
            yield Frame(stream, type_, flags, body, size)


def encode_frame(stream: int, type_: int, data: bytes, flags: int = 0) -> bytes:
    """A frame's bytes.  Raises RpcError where the data are too large for one."""
    if len(data) > MAX_DATA:
        raise RpcError(RESOURCE_EXHAUSTED, too_large(len(data)))
    return pack(">IIBB", len(data), stream, type_, flags) + data


def too_large(size: int) -> str:
    """The reference's words."""
    return f"message length {size} exceed maximum message size of {MAX_DATA}"


def encode_response(stream: int, payload: bytes) -> bytes:
    """The answer of a call that succeeded; what is too large becomes an error."""
    try:
        return encode_frame(stream, RESPONSE, Response(payload=payload).encode())
    except RpcError as error:
        return encode_error(stream, error)


def encode_error(stream: int, error: RpcError) -> bytes:
    """The answer of a call that failed."""
    message = error.message[:1 << 20]  # no message of ours is longer; somebody else's may be
    return encode_frame(stream, RESPONSE, Response(status=Status(code=error.code, message=message)).encode())


def encode_request(stream: int, service: str, method: str, payload: bytes, *, timeout: float = 0.0,
                   metadata: Mapping[str, str] | None = None) -> bytes:
    """A call; `timeout` in seconds, 0 for none.  Raises RpcError where it is too large."""
    request = Request(service=service, method=method, payload=payload, timeout_nano=int(timeout * 1e9),
                      metadata=[KeyValue(key=key.lower(), value=value) for key, value in (metadata or {}).items()])
    return encode_frame(stream, REQUEST, request.encode())
