# SPDX-License-Identifier: Apache-2.0
"""The wire format of protobuf, for the messages that tools/generate_messages.py makes classes of.

protobuf.dev/programming-guides/encoding, proto3: values at their default aren't written, repeated
numbers are packed, unknown fields are skipped, and of a field that comes twice the last one counts
(a message's are merged).  protobuf's own package costs more to import than the shim to start.
"""

from __future__ import annotations

from _struct import pack, unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self

STRING, BYTES, BOOL, INT32, INT64, UINT32, UINT64, DOUBLE, MESSAGE, MAP = range(10)

_VARINT, _FIXED64, _LENGTH, _GROUP, _GROUP_END, _FIXED32 = range(6)
_WIRE_TYPES = {STRING: _LENGTH, BYTES: _LENGTH, BOOL: _VARINT, INT32: _VARINT, INT64: _VARINT, UINT32: _VARINT,
               UINT64: _VARINT, DOUBLE: _FIXED64, MESSAGE: _LENGTH, MAP: _LENGTH}
_DEFAULTS: dict[int, Any] = {STRING: "", BYTES: b"", BOOL: False, DOUBLE: 0.0, MESSAGE: None}
_RANGES = {INT32: (-(1 << 31), 1 << 31), INT64: (-(1 << 63), 1 << 63), UINT32: (0, 1 << 32), UINT64: (0, 1 << 64)}
_MAX_DEPTH = 100  # as protobuf's own decoders
_MAX_FIELD = (1 << 29) - 1


class DecodeError(ValueError):
    """The bytes are not such a message."""


class Message:
    """A message: a member for each field of FIELDS, number -> (name, kind, repeated, class of a message)."""

    __slots__ = ()
    FIELDS: ClassVar[dict[int, tuple[str, int, bool, Any]]] = {}

    def __init__(self, **values: Any) -> None:
        for name, kind, repeated, _ in self.FIELDS.values():
            if name in values:
                value = values.pop(name)
            elif repeated:
                value = []
            else:
                value = {} if kind == MAP else _DEFAULTS.get(kind, 0)
            setattr(self, name, value)
        if values:
            raise TypeError(f"{type(self).__name__} has no {', '.join(values)}")

    def encode(self) -> bytes:
        """The message's bytes.  Raises ValueError for a number out of range."""
        out = bytearray()
        for number, (name, kind, repeated, _) in self.FIELDS.items():
            value = getattr(self, name)
            if kind == MAP:
                for key, item in value.items():
                    entry = bytearray()
                    _write(entry, 1, STRING, key)
                    _write(entry, 2, STRING, item)
                    _write_bytes(out, number, entry)
            elif not repeated:
                if value or (kind == MESSAGE and value is not None):
                    _write(out, number, kind, value)
            elif not value:
                continue
            elif _WIRE_TYPES[kind] == _LENGTH:
                for item in value:
                    _write(out, number, kind, item)
            else:
                packed = bytearray()
                for item in value:
                    _write_number(packed, kind, item)
                _write_bytes(out, number, packed)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """The message that the bytes hold.  Raises DecodeError."""
        message = cls()
        message._merge(memoryview(data), 0)
        return message

    def _merge(self, data: memoryview, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise DecodeError("too deeply nested")
        at, end = 0, len(data)
        while at < end:
            key, at = _read_varint(data, at)
            number, wire = key >> 3, key & 7
            if not 0 < number <= _MAX_FIELD:
                raise DecodeError(f"field number {number}")
            field = self.FIELDS.get(number)
            if field is None:
                at = _skip(data, at, wire, number, depth)
                continue
            name, kind, repeated, cls = field
            if wire == _WIRE_TYPES[kind]:
                value, at = _read(data, at, kind)
                if kind == MESSAGE:
                    old = None if repeated else getattr(self, name)
                    message = old if old is not None else cls()
                    message._merge(value, depth + 1)
                    value = message
                elif kind == MAP:
                    entry = _Entry()
                    entry._merge(value, depth + 1)
                    getattr(self, name)[entry.key] = entry.value
                    continue
                if repeated:
                    getattr(self, name).append(value)
                else:
                    setattr(self, name, value)
            elif repeated and wire == _LENGTH:
                packed, at = _read(data, at, MESSAGE)
                position = 0
                while position < len(packed):
                    value, position = _read(packed, position, kind)
                    getattr(self, name).append(value)
            else:  # of another type than ours: a field that we don't know
                at = _skip(data, at, wire, number, depth)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and all(
            getattr(self, name) == getattr(other, name) for name, *_ in self.FIELDS.values())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        values = ((name, getattr(self, name)) for name, *_ in self.FIELDS.values())
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in values if value)})"


class _Entry(Message):
    """What a map<string, string> has on the wire."""

    __slots__ = ("key", "value")
    FIELDS = {1: ("key", STRING, False, None), 2: ("value", STRING, False, None)}  # noqa: RUF012 (as generated)
    key: str
    value: str


def _write(out: bytearray, number: int, kind: int, value: Any) -> None:
    if kind == STRING:
        # What isn't UTF-8, in a path say, gets through as it came, which no decoder need like.
        _write_bytes(out, number, value.encode("utf-8", "surrogateescape"))
    elif kind == BYTES:
        _write_bytes(out, number, value)
    elif kind == MESSAGE:
        _write_bytes(out, number, value.encode())
    else:
        _write_varint(out, number << 3 | _WIRE_TYPES[kind])
        _write_number(out, kind, value)


def _write_bytes(out: bytearray, number: int, value: bytes | bytearray) -> None:
    _write_varint(out, number << 3 | _LENGTH)
    _write_varint(out, len(value))
    out += value


def _write_number(out: bytearray, kind: int, value: Any) -> None:
    if kind == DOUBLE:
        out += pack("<d", value)
        return
    if kind != BOOL:
        low, high = _RANGES[kind]
        if not low <= value < high:
            raise ValueError(f"{value} is out of range")
    _write_varint(out, int(value) & 0xFFFFFFFFFFFFFFFF)


def _write_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _read(data: memoryview, at: int, kind: int) -> tuple[Any, int]:
    """A value and where it ends; of a message and a map's entry its bytes."""
    if kind == DOUBLE:
        if at + 8 > len(data):
            raise DecodeError("cut short")
        return unpack_from("<d", data, at)[0], at + 8
    number, at = _read_varint(data, at)
    if kind == BOOL:
        return bool(number), at
    if kind == UINT64:
        return number, at
    if kind == UINT32:
        return number & 0xFFFFFFFF, at
    if kind == INT64:
        return number - (number >> 63 << 64), at
    if kind == INT32:
        number &= 0xFFFFFFFF
        return number - (number >> 31 << 32), at
    end = at + number
    if end > len(data):
        raise DecodeError("cut short")
    piece = data[at:end]
    if kind == STRING:
        try:
            return str(piece, "utf-8"), end
        except UnicodeDecodeError:
            raise DecodeError("a string that isn't UTF-8") from None
    return (bytes(piece) if kind == BYTES else piece), end


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    try:
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise DecodeError("a number of more than ten bytes")
    except IndexError:
        raise DecodeError("cut short") from None
    return value & 0xFFFFFFFFFFFFFFFF, at


def _skip(data: memoryview, at: int, wire: int, number: int, depth: int) -> int:
    """Past the value of a field that isn't known."""
    if wire == _VARINT:
        return _read_varint(data, at)[1]
    if wire == _GROUP:
        if depth > _MAX_DEPTH:
            raise DecodeError("too deeply nested")
        while True:
            key, at = _read_varint(data, at)
            if key & 7 == _GROUP_END:
                if key >> 3 != number:
                    raise DecodeError("a group that ends as another")
                return at
            at = _skip(data, at, key & 7, key >> 3, depth + 1)
    if wire == _LENGTH:
        length, at = _read_varint(data, at)
        at += length
    elif wire in (_FIXED64, _FIXED32):
        at += 8 if wire == _FIXED64 else 4
    else:
        raise DecodeError(f"wire type {wire}")
    if at > len(data):
        raise DecodeError("cut short")
    return at
