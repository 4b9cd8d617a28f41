# SPDX-License-Identifier: Apache-2.0
"""The tar reader: every dialect that layers are written in, and no surprise from what is none of them."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tarmaker import (
    archive,
    base256,
    directory,
    file,
    gnu_long,
    hardlink,
    header,
    octal,
    pad,
    pax,
    symlink,
)

from pyrunc.errors import ImageError
from pyrunc.registry import compression
from pyrunc.registry.tarstream import MAX_EXTENDED, Entry, TarReader


def read(data: bytes, piece: int = 10_000) -> list[tuple[Entry, bytes]]:
    """Entries and their data, from pieces of that size."""
    pieces = (data[at:at + piece] for at in range(0, len(data), piece))
    reader = TarReader(pieces, "x")
    return [(entry, b"".join(bytes(part) for part in reader.data())) for entry in reader]


def names(data: bytes) -> list[bytes]:
    return [entry.name for entry, _ in read(data)]


@pytest.mark.parametrize("piece", [1, 511, 512, 513, 1 << 20])
def test_pieces_of_any_size(piece: int) -> None:
    data = archive(directory("d/"), file("d/f", b"x" * 1000), file("empty"), symlink("l", "d/f"), hardlink("h", "d/f"))
    found = read(data, piece)
    assert [(entry.name, entry.type, content) for entry, content in found] == [
        (b"d/", b"5", b""), (b"d/f", b"0", b"x" * 1000), (b"empty", b"0", b""), (b"l", b"2", b""), (b"h", b"1", b"")]
    assert found[3][0].link == b"d/f" == found[4][0].link


def test_data_that_is_not_read_is_passed_over() -> None:
    reader = TarReader(iter([archive(file("a", b"x" * 5000), file("b", b"y"))]), "x")
    assert [entry.name for entry in reader] == [b"a", b"b"]


def test_ustar_prefix_and_gnus_lack_of_one() -> None:
    ustar = header("name", prefix=b"some/where")
    gnu = header("name", magic=b"ustar  \0", prefix=b"12345670123\x0012345670123\0")
    old = header("name", magic=b"\0" * 8)
    assert names(archive(ustar, gnu, old)) == [b"some/where/name", b"name", b"name"]


def test_a_regular_file_whose_name_ends_with_a_slash_is_a_directory() -> None:
    assert read(archive(header("d/", b"\0")))[0][0].type == b"5"


def test_gnu_long_names() -> None:
    long = b"a/" * 400 + b"f"
    found = read(archive(gnu_long(b"L", long), gnu_long(b"K", long + b"x"), symlink("short", "short")))
    assert (found[0][0].name, found[0][0].link) == (long, long + b"x")


def test_pax_records_come_before_the_headers_fields() -> None:
    data = archive(pax({b"path": "n\u00e9\n".encode(), b"linkpath": b"over", b"uid": b"3000000", b"gid": b"4000000",
                        b"mtime": b"1700000000.123456789", b"SCHILY.xattr.user.a": b"b=c\n", b"size": b"3",
                        b"LIBARCHIVE.xattr.user.%41": b"AAE"}),
                   header("name", size=0), pad(b"abc"), file("next"))
    (entry, content), (following, _) = read(data)
    assert (entry.name, entry.link, entry.uid, entry.gid) == ("n\u00e9\n".encode(), b"over", 3000000, 4000000)
    assert entry.mtime == 1700000000_123456789
    assert entry.xattrs == {b"user.a": b"b=c\n", b"user.A": b"\0\1"}
    assert content == b"abc" and following.name == b"next" and following.xattrs == {}


@pytest.mark.parametrize(("text", "nanoseconds"), [
    (b"1", 10**9), (b"1.5", 1500000000), (b"0.0000000019", 1), (b"-1", -10**9), (b"-0.5", -500000000),
    (b"1700000000.", 1700000000 * 10**9),
])
def test_times(text: bytes, nanoseconds: int) -> None:
    assert read(archive(pax({b"mtime": text}), file("f")))[0][0].mtime == nanoseconds


def test_a_global_record_holds_until_another() -> None:
    data = archive(pax({b"uid": b"7", b"comment": b"x"}, b"g"), file("a"), pax({b"uid": b"8"}), file("b"), file("c"))
    assert [entry.uid for entry, _ in read(data)] == [7, 8, 7]


def test_base_256() -> None:
    data = archive(header("f", uid=base256(1 << 21, 8), mtime=base256(-5, 12), size=base256(2, 12)), pad(b"ab"))
    entry, content = read(data)[0]
    assert (entry.uid, entry.mtime, content) == (1 << 21, -5 * 10**9, b"ab")


def test_links_and_directories_have_no_data_whatever_the_header_says() -> None:
    data = archive(hardlink("l", "t", size=1000), directory("d", size=1000), file("f", b"x"))
    assert [(entry.name, content) for entry, content in read(data)] == [(b"l", b""), (b"d", b""), (b"f", b"x")]


def test_the_end() -> None:
    """Two blocks of zeros; some writers leave them out, and the last file's padding; what follows is not looked at."""
    whole = file("a", b"xyz")
    assert names(whole) == [b"a"]
    assert names(whole[:512 + 3]) == [b"a"]
    assert names(archive(whole) + b"garbage" * 1000) == [b"a"]
    assert names(b"") == []


def sparse_old(pieces: list[tuple[int, int]], real: int, data: bytes) -> bytes:
    """GNU's own: four in the header, the rest in blocks of 21."""
    def table(items: list[tuple[int, int]]) -> bytes:
        return b"".join(octal(offset, 12) + octal(length, 12) for offset, length in items)

    first, rest = pieces[:4], pieces[4:]
    tail = b"\0" * 41 + table(first).ljust(96, b"\0") + (b"\1" if rest else b"\0") + octal(real, 12) + b"\0" * 17
    blocks = b""
    while rest:
        now, rest = rest[:21], rest[21:]
        blocks += table(now).ljust(504, b"\0") + (b"\1" if rest else b"\0") + b"\0" * 7
    return header("s", b"S", size=len(data), magic=b"ustar  \0", tail=tail) + blocks + pad(data)


PIECES = [(number * 4096, 512) for number in range(30)]


@pytest.mark.parametrize("dialect", ["old", "0.0", "0.1", "1.0"])
def test_sparse_files(dialect: str) -> None:
    stored = b"".join(bytes([65 + number]) * 512 for number in range(30))
    real = 200_000
    if dialect == "old":
        member = sparse_old(PIECES, real, stored)
    elif dialect == "0.0":
        keys = [(b"GNU.sparse.size", b"%d" % real), (b"GNU.sparse.numblocks", b"30")]
        for offset, length in PIECES:
            keys += [(b"GNU.sparse.offset", b"%d" % offset), (b"GNU.sparse.numbytes", b"%d" % length)]
        member = pax(keys) + file("s", stored)
    elif dialect == "0.1":
        listed = b",".join(b"%d,%d" % piece for piece in PIECES)
        member = pax({b"GNU.sparse.size": b"%d" % real, b"GNU.sparse.map": listed, b"GNU.sparse.name": b"s"})
        member += file("GNUSparseFile.1/s", stored)
    else:
        listed = pad(b"30\n" + b"".join(b"%d\n%d\n" % piece for piece in PIECES))
        member = pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"s",
                      b"GNU.sparse.realsize": b"%d" % real}) + file("GNUSparseFile.1/s", listed + stored)
    (entry, content), (following, _) = read(archive(member, file("next")), 700)
    assert (entry.name, entry.size, entry.sparse, content) == (b"s", real, PIECES, stored)
    assert following.name == b"next"


def test_gnu_tars_own_sparse_files(tmp_path: Path) -> None:
    with open(tmp_path / "s", "wb") as stream:
        stream.seek(1 << 20)
        stream.write(b"middle")
        stream.truncate(3 << 20)
    for form in ("gnu", "posix"):
        data = subprocess.run(["tar", "-cS", f"--format={form}", "-C", tmp_path, "s"], capture_output=True,
                              check=True).stdout
        entry, content = read(data)[0]
        rebuilt = bytearray(entry.size)
        at = 0
        for offset, length in entry.sparse or []:
            rebuilt[offset:offset + length] = content[at:at + length]
            at += length
        assert bytes(rebuilt) == (tmp_path / "s").read_bytes()
        assert len(content) < 1 << 16


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_another_writer_writes(form: int) -> None:
    """The control: Python's own writer, every field."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as writer:
        for number, kind in enumerate((tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE,
                                       tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"d/{'n' * 60}/{number}")
            info.type, info.mode, info.uid, info.gid, info.mtime = kind, 0o4755, 1000 + number, 5, 1234567890
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = "t" * 90
            if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                info.devmajor, info.devminor = 7, 200
            info.size = 700 if kind == tarfile.REGTYPE else 0
            writer.addfile(info, io.BytesIO(b"z" * 700))
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as expected:
        members = expected.getmembers()
    found = read(stream.getvalue())
    assert [(entry.name.decode().rstrip("/"), entry.type, entry.mode, entry.uid, entry.gid, entry.mtime,
             entry.link.decode(), entry.major, entry.minor) for entry, _ in found] == [
        (m.name, m.type, m.mode, m.uid, m.gid, m.mtime * 10**9, m.linkname, m.devmajor, m.devminor) for m in members]


@pytest.mark.parametrize(("data", "why"), [
    (header("f", checksum=1), "checksum"),
    (header("f")[:300], "cut off"),
    (header("f", size=1000) + b"x" * 600, "cut off"),
    (pax({b"path": b"x"})[:700], "cut off"),
    (pax({b"path": b"x"}), "of nothing"),
    (archive(header("f", size=b"99999999999\0")), "no octal number"),
    (archive(header("f", size=base256(-1, 12))), "impossible size"),
    (archive(header("f", size=b"\x80" + b"\xff" * 11)), "impossible size"),
    (archive(header("f", uid=base256(1 << 33, 8))), "impossible owner"),
    (archive(header("f", uid=base256(-1, 8))), "impossible owner"),
    (archive(pax({b"uid": b"4294967295"}), file("f")), "impossible owner"),
    (archive(pax({b"uid": b"-1"}), file("f")), "no number"),
    (archive(pax({b"uid": "\u0661".encode()}), file("f")), "no number"),
    (archive(pax({b"size": b"9" * 30}), file("f")), "no number"),
    (archive(pax({b"size": b"1_0"}), file("f")), "no number"),
    (archive(pax({b"mtime": b"1e9"}), file("f")), "no number"),
    (archive(pax({b"mtime": b"9" * 19}), file("f")), "impossible time"),
    (archive(pax({b"path": b"a\0b"}), file("f")), "NUL"),
    (archive(pax({b"linkpath": b"a\0b"}), symlink("f", "g")), "NUL"),
    (archive(pax({b"path": b"x" * 5000}), file("f")), "a name of 5000 bytes"),
    (archive(gnu_long(b"L", b"x" * 5000), file("f")), "a name of 5000 bytes"),
    (archive(header("pax", b"x", size=MAX_EXTENDED + 1)), "an extended header of"),
    (archive(header("pax", b"x", size=6), pad(b"7 a=b\n")), "wrong length"),
    (archive(header("pax", b"x", size=6), pad(b"0 a=b\n")), "wrong length"),
    (archive(header("pax", b"x", size=6), pad(b"x a=b\n")), "no number"),
    (archive(header("pax", b"x", size=6), pad(b"6 abc\n")), "without a key"),
    (archive(header("pax", b"x", size=6), pad(b"-1 a=b")), "no number"),
    (archive(header("f", b"Z")), "unknown type"),
    (archive(header("f", b"3", major=5000)), "impossible device"),
    (archive(sparse_old([(0, 512), (100, 512)], 5000, b"x" * 1024)), "overlap"),
    (archive(sparse_old([(0, 512)], 100, b"x" * 512)), "doesn't fit"),
    (archive(sparse_old([(0, 512)], 5000, b"x" * 1024)), "doesn't fit"),
    (archive(pax({b"GNU.sparse.map": b"0,1,2", b"GNU.sparse.size": b"5"}), file("f", b"x")), "map is broken"),
    (archive(pax({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"5"}), file("f", b"x")), "map is cut off"),
    (archive(pax({b"GNU.sparse.major": b"1"}), file("f", pad(b"99999999\n"))), "too many pieces"),
    (archive(pax({b"SCHILY.xattr.user.a": b"1", b"LIBARCHIVE.xattr.user.b": b"!"}), file("f")), "base64"),
    (b"this is no archive " * 100, "no octal number|checksum"),
    (b"\xff" * 2048, "checksum|impossible"),
])
def test_what_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        read(data)


def test_a_ring_of_headers_ends() -> None:
    """CVE-2019-20907, CVE-2025-8194: no archive makes the reader go round in circles."""
    started = time.monotonic()
    data = archive(*[pax({b"comment": b""}) for _ in range(2000)], header("f", size=base256(0, 12)))
    assert names(data) == [b"f"]
    assert time.monotonic() - started < 20


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 3000), st.integers(1, 700))
def test_damage_is_an_error_or_an_archive(noise: bytes, at: int, piece: int) -> None:
    """Never another exception, nor more data than there is."""
    data = archive(pax({b"path": b"a" * 200, b"mtime": b"1.5"}), file("f", b"x" * 700),
                   sparse_old([(0, 512)], 9999, b"y" * 512), gnu_long(b"L", b"z" * 300), symlink("l", "t"))
    damaged = data[:at] + noise + data[at + len(noise):]
    try:
        total = sum(len(content) for _, content in read(damaged, piece))
    except ImageError:
        return
    assert total <= len(damaged)


def test_what_an_archive_may_inflate_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what has been read of it: its length isn't known before its end, and then it would be too late."""
    monkeypatch.setattr(compression, "_FREE", 1 << 20)
    good = gzip.compress(bytes(1 << 20))
    assert b"".join(compression.Head(io.BytesIO(good)).inflated("x")) == bytes(1 << 20)
    bad = compression.Head(io.BytesIO(gzip.compress(bytes(1 << 24))))
    with pytest.raises(ImageError, match="a decompression bomb"):
        for _ in bad.inflated("x"):
            pass
