# SPDX-License-Identifier: Apache-2.0
"""Inflating layers piece by piece, never more at once than asked for; and deflating new ones.

A fast inflate (isal, Intel's ISA-L) serves where it is installed, else zlib.  What a layer may
inflate to is limited by its size: gzip makes a thousand bytes of one, honest layers hardly ten.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Protocol, final

from pyrunc.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

try:
    from isal import isal_zlib

    _decompressobj: Callable[..., Any] = isal_zlib.decompressobj
except ImportError:
    _decompressobj = zlib.decompressobj

CHUNK = 1 << 20
#: zstd's own limit for a decoder that wasn't told otherwise.
_MAX_WINDOW = 1 << 27
_MAX_MEMORY = 1 << 28  # of xz: four times what its highest level takes
_FREE = 256 << 20  # bytes any layer may inflate to
_RATIO = 128  # and this many for each of its own bytes
BLOCK = 512  # bytes of a tar header, and where it says so
_USTAR = 257
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3


class Source(Protocol):
    """Where compressed bytes come from; b"" at the end."""

    def read(self, size: int = -1, /) -> bytes: ...


@final
class Head:
    """A source whose beginning can be looked at; it may be of unknown length."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._first = b""
        self._count = 0  # of the bytes that were read

    def peek(self, size: int) -> bytes:
        """The first bytes, `size` of them unless there are fewer."""
        while len(self._first) < size:
            piece = self._source.read(1 << 16)
            if not piece:
                break
            self._first += piece
        return self._first

    def read(self, size: int = -1, /) -> bytes:
        if self._first:
            found, self._first = (self._first, b"") if size < 0 else (self._first[:size], self._first[size:])
        else:
            found = self._source.read(size)
        self._count += len(found)
        return found

    def inflated(self, what: str) -> Iterator[bytes]:
        """Its contents, whatever it is compressed with, as far as its length so far allows.  Raises ImageError."""
        produced = 0
        for piece in inflate(self, sniff(self.peek(6)), what, 1 << 62):
            produced += len(piece)
            if produced > limit_for(self._count):
                raise _bomb(what, limit_for(self._count))
            yield piece


def limit_for(compressed_size: int) -> int:
    """The most a layer of that size may inflate to."""
    return _FREE + _RATIO * compressed_size


def _bomb(what: str, limit: int) -> ImageError:
    return ImageError(f"{what}: it inflates to more than {limit} bytes: a decompression bomb?")


def inflate(source: Source, compression: str, what: str, limit: int) -> Iterator[bytes]:
    """The contents of `source` in pieces of at most CHUNK bytes.  Raises ImageError."""
    produced = 0
    pieces = {"": _plain, "gzip": _gunzip, "zstd": _unzstd, "xz": _unxz, "bzip2": _bunzip2}[compression](source, what)
    for piece in pieces:
        produced += len(piece)
        if produced > limit:
            raise _bomb(what, limit)
        yield piece


def inflate_layer(source: Source, called: str, what: str, limit: int) -> Iterator[bytes]:
    """A layer's contents, by what it is: docker, podman and containerd take no media type's word for it either.

    It is still one thing: the diff id says what it holds.
    """
    head = Head(source)
    first = head.peek(BLOCK)
    if first[_USTAR:_USTAR + 5] == b"ustar":
        actual = ""
    elif (found := sniff(first)) in ("gzip", "zstd"):
        actual = found
    else:
        actual = called
    return inflate(head, actual, what, limit)


def sniff(head: bytes) -> str:
    """How what begins with `head` is compressed: what people give, which may be more than layers are."""
    for magic, name in ((_GZIP_MAGIC, "gzip"), (_ZSTD_MAGIC, "zstd"), (b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2")):
        if head.startswith(magic):
            return name
    return ""


def _plain(source: Source, what: str) -> Iterator[bytes]:
    while piece := source.read(CHUNK):
        yield piece


def _gunzip(source: Source, what: str) -> Iterator[bytes]:
    """All members (RFC 1952, 2.2); zeros may follow, as tapes and some tools leave them, nothing else."""
    data = source.read(CHUNK)
    if data[:2] != _GZIP_MAGIC:
        raise ImageError(f"{what}: it should be gzip, but isn't")
    while data:
        stream = _decompressobj(31)
        while True:
            try:
                piece = stream.decompress(data, CHUNK)
            except Exception as error:  # zlib.error, and isal's own of another class
                raise ImageError(f"{what}: not gzip data: {error}") from None
            if piece:
                yield piece
            if stream.eof:
                break
            data = stream.unconsumed_tail
            if not data:
                data = source.read(CHUNK)
                if not data and not piece:
                    raise ImageError(f"{what}: the gzip data is cut off")
        data = stream.unused_data
        if len(data) < 2:
            data += source.read(CHUNK)
        if data[:2] != _GZIP_MAGIC:
            while data:
                if data.strip(b"\0"):
                    raise ImageError(f"{what}: something follows the gzip data")
                data = source.read(CHUNK)


def _unzstd(source: Any, what: str) -> Iterator[bytes]:
    import zstandard

    reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(
        source, read_size=1 << 18, read_across_frames=True, closefd=False)
    try:
        while piece := reader.read(CHUNK):
            yield piece
    except zstandard.ZstdError as error:
        raise ImageError(f"{what}: not zstd data: {error}") from None


def _unxz(source: Source, what: str) -> Iterator[bytes]:
    import lzma

    return _by_pieces(source, what, lambda: lzma.LZMADecompressor(memlimit=_MAX_MEMORY), "xz")


def _bunzip2(source: Source, what: str) -> Iterator[bytes]:
    import bz2

    return _by_pieces(source, what, bz2.BZ2Decompressor, "bzip2")


def _by_pieces(source: Source, what: str, make: Callable[[], Any], name: str) -> Iterator[bytes]:
    """One stream after the other, by an object of the standard library's kind."""
    stream = make()
    data = source.read(CHUNK)
    while data or not stream.needs_input:
        try:
            piece = stream.decompress(data, CHUNK)
        except Exception as error:  # LZMAError, OSError
            raise ImageError(f"{what}: not {name} data: {error}") from None
        if piece:
            yield piece
        data = b""
        if stream.eof:
            data = stream.unused_data or source.read(CHUNK)
            if not data.strip(b"\0"):
                return
            stream = make()
        elif stream.needs_input:
            data = source.read(CHUNK)
            if not data:
                raise ImageError(f"{what}: the {name} data is cut off")


@final
class Deflater:
    """Compresses what is written to it, the same bytes for the same input; `write` goes on to `sink`."""

    def __init__(self, compression: str, sink: Callable[[bytes], Any]) -> None:
        self._sink = sink
        self._stream: Any
        if compression == "gzip":
            # No name and no time in the header: the same content has the same digest.
            self._stream = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
        elif compression == "zstd":
            import zstandard

            self._stream = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
        elif compression == "":
            self._stream = None
        else:
            raise ImageError(f"{compression!a} is not a compression", hint="gzip, zstd or none")

    def write(self, data: bytes | memoryview) -> None:
        piece = self._stream.compress(data) if self._stream is not None else bytes(data)
        if piece:
            self._sink(piece)

    def finish(self) -> None:
        if self._stream is not None:
            self._sink(self._stream.flush())
