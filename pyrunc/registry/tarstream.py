# SPDX-License-Identifier: Apache-2.0
"""A reader of tar streams: ustar, GNU (long names, sparse files, base-256 numbers) and PAX.

It reads forward only, from pieces as they come, believes no number before it has been checked, and
touches no file system.  tar(5) of libarchive, GNU tar's "Basic Tar Format", POSIX pax, "ustar" and
"pax Interchange Format".
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, final
from urllib.parse import unquote_to_bytes

from pyrunc.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
REGULAR, LINK, SYMLINK, CHARACTER, DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_HEADERS_ONLY = (LINK, SYMLINK, CHARACTER, DEVICE, DIRECTORY, FIFO)
_CONTIGUOUS, _SPARSE, _LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"7", b"S", b"L", b"K", b"x", b"g"
_IGNORED = (b"V", b"M", b"N")  # volume labels, continuations, old long names of GNU tar

MAX_EXTENDED = 1 << 20  # bytes of a PAX header or a long name
MAX_ENTRIES = 4_000_000
_MAX_SPARSE = 1 << 20  # pieces of a sparse file
_MAX_SIZE = 1 << 62
_MAX_NAME = 4096
_MAX_DIGITS = 20
_SECOND = 1_000_000_000
_MAX_TIME = (1 << 62) * _SECOND  # seconds that the kernel's time_t holds; a file system keeps what it can of them


@final
class Entry:
    """One member: its header as it counts, all extensions applied."""

    __slots__ = ("gid", "link", "major", "minor", "mode", "mtime", "name", "size", "sparse", "type", "uid", "xattrs")

    def __init__(self) -> None:
        self.name = b""
        self.type = REGULAR
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.size = 0  # of the file; what is stored of a sparse one is the sum of its pieces
        self.mtime = 0  # nanoseconds
        self.link = b""
        self.major = 0
        self.minor = 0
        self.xattrs: dict[bytes, bytes] = {}
        self.sparse: list[tuple[int, int]] | None = None  # (offset, length), in order


@final
class TarReader:
    """Entries of the tar stream that `pieces` make up; `what` names it in errors."""

    def __init__(self, pieces: Iterator[bytes], what: str) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")
        self._at = 0
        self._left = 0  # data of the current entry that hasn't been read
        self._padding = 0
        self.what = what
        self._global: dict[bytes, bytes] = {}

    # Bytes

    def _fill(self) -> bool:
        """The next piece; False at the end."""
        for piece in self._pieces:
            if piece:
                self._piece = memoryview(piece)
                self._at = 0
                return True
        return False

    def _exactly(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end of the stream."""
        end = self._at + size
        if end <= len(self._piece):
            found = bytes(self._piece[self._at:end])
            self._at = end
            return found
        parts = []
        while size:
            if self._at == len(self._piece) and not self._fill():
                break
            part = self._piece[self._at:self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(bytes(part))
        return b"".join(parts)

    def data(self) -> Iterator[memoryview]:
        """The stored bytes of the current entry."""
        while self._left:
            if self._at == len(self._piece) and not self._fill():
                raise self._bad("the archive is cut off")
            part = self._piece[self._at:self._at + self._left]
            self._at += len(part)
            self._left -= len(part)
            yield part

    def _skip(self) -> None:
        for _ in self.data():
            pass
        self._exactly(self._padding)  # umoci leaves out that of the last entry
        self._padding = 0

    def drain(self) -> None:
        """Read what follows the archive, which belongs to the layer's digest."""
        self._left = self._padding = 0
        while self._fill():
            pass

    # Entries

    def __iter__(self) -> Iterator[Entry]:
        for count in range(MAX_ENTRIES + 1):
            if count == MAX_ENTRIES:
                raise self._bad(f"more than {MAX_ENTRIES} entries")
            self._skip()
            entry = self._next()
            if entry is None:
                self.drain()
                return
            yield entry

    def _next(self) -> Entry | None:
        """The next entry, extensions applied; None at the end of the archive."""
        records: dict[bytes, bytes] = {}
        pieces: list[tuple[int, int]] | None = None
        long_name = long_link = None
        while True:
            block = self._header_block()
            if block is None:
                if records or long_name is not None or long_link is not None:
                    raise self._bad("an extended header at the end, of nothing")
                return None
            kind = block[156:157]
            size = self._number(block[124:136], "size")
            if not 0 <= size <= _MAX_SIZE:
                raise self._bad(f"an impossible size, {size}")
            if kind in (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
                if size > MAX_EXTENDED:
                    raise self._bad(f"an extended header of {size} bytes")
                content = self._exactly(size)
                if len(content) != size or len(self._exactly(-size % BLOCK)) != -size % BLOCK:
                    raise self._bad("the archive is cut off")
                if kind == _LONG_NAME:
                    long_name = content.partition(b"\0")[0]
                elif kind == _LONG_LINK:
                    long_link = content.partition(b"\0")[0]
                elif kind == _PAX_GLOBAL:
                    self._global.update(self._pax(content)[0])
                else:
                    records, pieces = self._pax(content)
                continue
            if kind in _IGNORED:
                self._left, self._padding = size, -size % BLOCK
                self._skip()
                continue
            return self._entry(block, kind, size, {**self._global, **records} if self._global else records, pieces,
                               long_name, long_link)

    def _header_block(self) -> bytes | None:
        """The next header, its checksum right; None at the archive's end, which is two blocks of zeros."""
        block = self._exactly(BLOCK)
        if not block:
            return None  # some writers leave the zeros out
        if len(block) < BLOCK:
            raise self._bad("the archive is cut off")
        if not block.strip(b"\0"):
            return None
        stored = self._number(block[148:156], "checksum")
        total = sum(block) - sum(block[148:156]) + 8 * 32
        if stored != total:
            # Ancient writers added signed bytes.
            signed = total - 256 * sum(1 for byte in block[:148] + block[156:] if byte > 127)
            if stored != signed:
                raise self._bad("a header whose checksum is wrong")
        return block

    def _entry(self, block: bytes, kind: bytes, size: int, records: dict[bytes, bytes],
               pieces: list[tuple[int, int]] | None, long_name: bytes | None, long_link: bytes | None) -> Entry:
        entry = Entry()
        entry.name = block[:100].partition(b"\0")[0]
        entry.link = block[157:257].partition(b"\0")[0]
        magic = block[257:263]
        if magic == b"ustar\0":
            prefix = block[345:500].partition(b"\0")[0]
            if prefix:
                entry.name = prefix + b"/" + entry.name
        entry.mode = self._number(block[100:108], "mode") & 0o7777
        entry.uid = self._number(block[108:116], "uid")
        entry.gid = self._number(block[116:124], "gid")
        entry.mtime = self._number(block[136:148], "mtime") * _SECOND
        if kind in (CHARACTER, DEVICE):
            entry.major = self._number(block[329:337], "major")
            entry.minor = self._number(block[337:345], "minor")
        if long_name is not None:
            entry.name = long_name
        if long_link is not None:
            entry.link = long_link
        entry.type = REGULAR if kind in (b"\0", _CONTIGUOUS, _SPARSE) else kind
        if records:
            size = self._apply(entry, records, size)
        if entry.type == REGULAR and entry.name.endswith(b"/") and kind in (b"\0", REGULAR):
            entry.type = DIRECTORY  # as tar before ustar wrote them
        if entry.type not in (REGULAR, *_HEADERS_ONLY):
            raise self._bad(f"an entry of unknown type {kind!a}", entry)
        # Whatever a header says, these have no data (the size of a link is that of its target).
        stored = 0 if entry.type in _HEADERS_ONLY else size
        entry.size = stored
        self._left, self._padding = stored, -stored % BLOCK
        if kind == _SPARSE:
            self._old_sparse(entry, block)
        elif entry.type == REGULAR and (pieces is not None or any(key.startswith(b"GNU.sparse.") for key in records)):
            self._pax_sparse(entry, records, pieces)
        self._check(entry)
        return entry

    def _check(self, entry: Entry) -> None:
        for text in (entry.name, entry.link):
            if b"\0" in text:
                raise self._bad("a name with a NUL in it", entry)
            if len(text) > _MAX_NAME:
                raise self._bad(f"a name of {len(text)} bytes", entry)
        for number in (entry.uid, entry.gid):
            if not 0 <= number < 0xFFFFFFFF:
                raise self._bad(f"an impossible owner, {number}", entry)
        if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
            raise self._bad(f"an impossible device, {entry.major}:{entry.minor}", entry)
        if not -_MAX_TIME < entry.mtime < _MAX_TIME:
            raise self._bad("an impossible time", entry)

    # Numbers and records

    def _number(self, field: bytes, what: str) -> int:
        """Octal digits, or base 256 where the first bit is set."""
        if field[0] & 0x80:
            return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big") if field[0] != 0xFF else \
                int.from_bytes(field, "big", signed=True)
        text = field.partition(b"\0")[0].strip(b" ")
        if not text:
            return 0
        if text.translate(None, b"01234567"):
            raise self._bad(f"{what} is {text[:20]!a}, no octal number")
        return int(text, 8)

    def _decimal(self, text: bytes, what: str) -> int:
        if not text.isdigit() or len(text) > _MAX_DIGITS:
            raise self._bad(f"{what} is {text[:20]!a}, no number")
        return int(text)

    def _pax(self, content: bytes) -> tuple[dict[bytes, bytes], list[tuple[int, int]] | None]:
        """The records `LENGTH KEY=VALUE\\n`; and the pieces of a sparse file, whose keys repeat (version 0.0)."""
        records: dict[bytes, bytes] = {}
        offsets: list[int] = []
        lengths: list[int] = []
        position = 0
        while position < len(content):
            space = content.find(b" ", position, position + _MAX_DIGITS)
            if space < 0:
                raise self._bad("a PAX record without a length")
            length = self._decimal(content[position:space], "the length of a PAX record")
            end = position + length
            if end > len(content) or end <= space + 1 or content[end - 1:end] != b"\n":
                raise self._bad("a PAX record of a wrong length")
            key, equals, value = content[space + 1:end - 1].partition(b"=")
            if not equals or not key:
                raise self._bad("a PAX record without a key")
            if key == b"GNU.sparse.offset":
                offsets.append(self._decimal(value, "GNU.sparse.offset"))
            elif key == b"GNU.sparse.numbytes":
                lengths.append(self._decimal(value, "GNU.sparse.numbytes"))
            records[key] = value
            position = end
        if offsets or lengths:
            if len(offsets) != len(lengths) or len(offsets) > _MAX_SPARSE:
                raise self._bad("a sparse file whose map is broken")
            return records, list(zip(offsets, lengths, strict=True))
        return records, None

    def _apply(self, entry: Entry, records: dict[bytes, bytes], size: int) -> int:
        """PAX records over the header's fields; the size of the data."""
        for key, value in records.items():
            if key.startswith(b"SCHILY.xattr."):
                entry.xattrs[key[13:]] = value
            elif key.startswith(b"LIBARCHIVE.xattr."):
                name = unquote_to_bytes(key[17:])
                try:
                    entry.xattrs.setdefault(name, base64.b64decode(value + b"=" * (-len(value) % 4), validate=True))
                except binascii.Error:
                    raise self._bad("an extended attribute that isn't base64", entry) from None
            elif not value:
                continue  # takes a global record back
            elif key == b"path":
                entry.name = value
            elif key == b"linkpath":
                entry.link = value
            elif key == b"size":
                size = self._decimal(value, "size")
                if size > _MAX_SIZE:
                    raise self._bad(f"an impossible size, {size}", entry)
            elif key == b"uid":
                entry.uid = self._decimal(value, "uid")
            elif key == b"gid":
                entry.gid = self._decimal(value, "gid")
            elif key == b"mtime":
                entry.mtime = self._time(value)
        return size

    def _time(self, text: bytes) -> int:
        """Seconds with a fraction, as nanoseconds, rounded down."""
        negative = text.startswith(b"-")
        whole, _, fraction = text.removeprefix(b"-").partition(b".")
        if fraction and not fraction.isdigit():
            raise self._bad(f"a time of {text[:20]!a}")
        seconds = self._decimal(whole or b"0", "mtime")
        nanoseconds = int(fraction[:9].ljust(9, b"0"))
        total = seconds * _SECOND + nanoseconds
        return -total if negative else total

    # Sparse files

    def _old_sparse(self, entry: Entry, block: bytes) -> None:
        """GNU's own: four pieces in the header, more in blocks that follow it."""
        table = self._pieces_of(block[386:482])
        more = block[482]
        while more:
            extension = self._exactly(BLOCK)
            if len(extension) < BLOCK:
                raise self._bad("the archive is cut off")
            table += self._pieces_of(extension[:504])
            more = extension[504]
            if len(table) > _MAX_SPARSE:
                raise self._bad("a sparse file of too many pieces", entry)
        self._make_sparse(entry, table, self._number(block[483:495], "real size"))

    def _pieces_of(self, data: bytes) -> list[tuple[int, int]]:
        found = []
        for at in range(0, len(data), 24):
            if not data[at:at + 24].strip(b"\0 "):
                break
            found.append((self._number(data[at:at + 12], "offset"), self._number(data[at + 12:at + 24], "length")))
        return found

    def _pax_sparse(self, entry: Entry, records: dict[bytes, bytes], pieces: list[tuple[int, int]] | None) -> None:
        """GNU.sparse, versions 0.0 (repeated keys), 0.1 (a list) and 1.0 (a map before the data)."""
        if b"GNU.sparse.name" in records:
            entry.name = records[b"GNU.sparse.name"]
        real = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size"))
        if records.get(b"GNU.sparse.major") == b"1":
            pieces = self._sparse_map()
        elif b"GNU.sparse.map" in records:
            numbers = [self._decimal(item, "GNU.sparse.map") for item in records[b"GNU.sparse.map"].split(b",")]
            if len(numbers) % 2 or len(numbers) > 2 * _MAX_SPARSE:
                raise self._bad("a sparse file whose map is broken", entry)
            pieces = list(zip(numbers[::2], numbers[1::2], strict=True))
        if pieces is None:
            return  # only its name, or a version of which nothing is known
        self._make_sparse(entry, pieces, self._decimal(real, "GNU.sparse.realsize") if real else entry.size)

    def _sparse_map(self) -> list[tuple[int, int]]:
        """Decimal lines at the start of the data, padded to a block."""
        lines: list[bytes] = []
        rest = b""
        wanted = 1
        while len(lines) < wanted:
            if self._left < BLOCK:
                raise self._bad("a sparse file whose map is cut off")
            block = self._exactly(BLOCK)
            if len(block) < BLOCK:
                raise self._bad("the archive is cut off")
            self._left -= BLOCK
            *found, rest = (rest + block).split(b"\n")
            lines += found
            if lines and wanted == 1:
                count = self._decimal(lines[0], "the number of pieces")
                if count > _MAX_SPARSE:
                    raise self._bad("a sparse file of too many pieces")
                wanted = 1 + 2 * count
        numbers = [self._decimal(line, "a piece") for line in lines[1:wanted]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _make_sparse(self, entry: Entry, pieces: list[tuple[int, int]], real: int) -> None:
        """Check that the pieces are in order, don't overlap, fit, and are what is stored."""
        position = total = 0
        for offset, length in pieces:
            if offset < position or length < 0:
                raise self._bad("a sparse file whose pieces overlap", entry)
            position = offset + length
            total += length
        if position > real or real > _MAX_SIZE or total != self._left:
            raise self._bad("a sparse file whose map doesn't fit its size", entry)
        entry.size = real
        entry.sparse = [piece for piece in pieces if piece[1]]

    def _bad(self, what: str, entry: Entry | None = None) -> ImageError:
        about = f" ({entry.name[:200].decode('utf-8', 'backslashreplace')})" if entry and entry.name else ""
        return ImageError(f"{self.what}: not a tar archive that can be unpacked: {what}{about}")
