# SPDX-License-Identifier: Apache-2.0
"""Tar archives for tests, header by header, the odd and the hostile ones too: nothing checks what is asked for."""

from __future__ import annotations

BLOCK = 512


def octal(number: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, number)


def base256(number: int, width: int) -> bytes:
    raw = number.to_bytes(width, "big", signed=True)
    return bytes([raw[0] | 0x80]) + raw[1:]


def pad(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % BLOCK)


def header(name: bytes | str, kind: bytes = b"0", *, size: int | bytes = 0, mode: int | bytes = 0o644,
           uid: int | bytes = 0, gid: int | bytes = 0, mtime: int | bytes = 0, link: bytes | str = b"",
           magic: bytes = b"ustar\x0000", major: int = 0, minor: int = 0, prefix: bytes = b"",
           checksum: int | None = None, tail: bytes | None = None) -> bytes:
    """One block; a number may be given as the bytes of its field."""
    def field(value: int | bytes, width: int) -> bytes:
        return value if isinstance(value, bytes) else octal(value, width)

    name = name.encode() if isinstance(name, str) else name
    link = link.encode() if isinstance(link, str) else link
    head = name.ljust(100, b"\0") + field(mode, 8) + field(uid, 8) + field(gid, 8) + field(size, 12) + field(mtime, 12)
    rest = kind + link.ljust(100, b"\0") + magic + b"".ljust(32, b"\0") + b"".ljust(32, b"\0")
    rest += octal(major, 8) + octal(minor, 8)
    rest += prefix.ljust(155, b"\0") + b"\0" * 12 if tail is None else tail
    total = sum(head) + sum(rest) + 8 * 32 if checksum is None else checksum
    block = head + b"%06o\0 " % total + rest
    assert len(block) == BLOCK, len(block)
    return block


def record(key: bytes, value: bytes) -> bytes:
    """A PAX record, its length in itself."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while length != len(str(length)) + len(body):
        length = len(str(length)) + len(body)
    return b"%d" % length + body


def pax(records: dict[bytes, bytes] | list[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    items = records.items() if isinstance(records, dict) else records
    data = b"".join(record(key, value) for key, value in items)
    return header("pax", kind, size=len(data)) + pad(data)


def file(name: bytes | str, data: bytes = b"", **fields: object) -> bytes:
    return header(name, size=len(data), **fields) + pad(data)  # type: ignore[arg-type]


def directory(name: bytes | str, mode: int = 0o755, **fields: object) -> bytes:
    return header(name, b"5", mode=mode, **fields)  # type: ignore[arg-type]


def symlink(name: bytes | str, target: bytes | str, **fields: object) -> bytes:
    return header(name, b"2", link=target, mode=0o777, **fields)  # type: ignore[arg-type]


def hardlink(name: bytes | str, target: bytes | str, **fields: object) -> bytes:
    return header(name, b"1", link=target, **fields)  # type: ignore[arg-type]


def gnu_long(kind: bytes, text: bytes) -> bytes:
    """././@LongLink: the name (L) or the link (K) of the next entry."""
    data = text + b"\0"
    return header("././@LongLink", kind, size=len(data), magic=b"ustar  \0") + pad(data)


def archive(*members: bytes) -> bytes:
    return b"".join(members) + b"\0" * 1024
