# SPDX-License-Identifier: Apache-2.0
"""The cache of compiled filters: what is believed, what is not, and how much is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyrunc import seccomp_cache as cache
from pyrunc.seccomp import Filter

PROGRAM = bytes(range(200, 240))
WARNINGS = [("warning", "a name nobody knows: \u2713")]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libseccomp.so.2.5.4"
    path.write_bytes(b"a library")
    return path


@pytest.fixture
def directory(tmp_path: Path) -> int:
    return cache.open_below(str(tmp_path))


def kept(directory: int, name: str, library: Path) -> bytes:
    """Write an entry; what the file holds."""
    cache.write(directory, name, cache.Entry("2.5.4", str(library), PROGRAM, WARNINGS))
    fd = os.open(name, os.O_RDONLY, dir_fd=directory)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def put(directory: int, name: str, data: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=directory)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def test_what_is_written_is_read(directory: int, library: Path, tmp_path: Path) -> None:
    kept(directory, "name", library)
    entry = cache.read(directory, "name")
    assert entry is not None
    assert (entry.program, entry.library, entry.path) == (PROGRAM, "2.5.4", str(library))
    assert [tuple(warning) for warning in entry.warnings] == WARNINGS
    place = tmp_path / "pyrunc-seccomp"
    assert (place.stat().st_mode & 0o777, (place / "name").stat().st_mode & 0o777) == (0o700, 0o600)
    assert cache.read(directory, "another") is None


def test_every_byte_counts(directory: int, library: Path) -> None:
    """A file with any one byte changed, cut anywhere or longer than it should be is none."""
    data = kept(directory, "name", library)
    for place in range(len(data)):
        put(directory, "name", data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1:])
        assert cache.read(directory, "name") is None, place
    for length in (*range(0, len(data), 7), len(data) - 1):
        put(directory, "name", data[:length])
        assert cache.read(directory, "name") is None, length
    put(directory, "name", data + b"\0")
    assert cache.read(directory, "name") is None
    put(directory, "name", data)  # the control
    assert cache.read(directory, "name") is not None


def test_another_library(directory: int, library: Path) -> None:
    """An update of libseccomp in place makes every entry of the old one stale."""
    kept(directory, "name", library)
    library.write_bytes(b"a newer library")
    assert cache.read(directory, "name") is None
    kept(directory, "name", library)
    library.unlink()
    assert cache.read(directory, "name") is None


def test_links_and_other_kinds_of_files(directory: int, library: Path, tmp_path: Path) -> None:
    data = kept(directory, "name", library)
    (tmp_path / "elsewhere").write_bytes(data)
    os.symlink(tmp_path / "elsewhere", "link", dir_fd=directory)
    os.mkfifo("fifo", dir_fd=directory)
    os.mkdir("folder", dir_fd=directory)
    assert [cache.read(directory, name) for name in ("link", "fifo", "folder")] == [None] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_what_belongs_to_others(directory: int, library: Path, tmp_path: Path) -> None:
    """A directory that others may write to, or that is another's, is no place; a file of another's is no entry."""
    kept(directory, "name", library)
    place = tmp_path / "pyrunc-seccomp"
    os.chown(place / "name", 65534, -1)
    assert cache.read(directory, "name") is None
    for mode in (0o770, 0o701, 0o755):
        place.chmod(mode)
        assert cache.open_below(str(tmp_path)) == -1
    place.chmod(0o700)
    os.chown(place, 65534, -1)
    assert cache.open_below(str(tmp_path)) == -1
    os.chown(place, 0, -1)
    assert cache.open_below(str(tmp_path)) >= 0  # the control


def test_a_directory_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(0o700)
    (tmp_path / "pyrunc-seccomp").symlink_to(tmp_path / "target")
    assert cache.open_below(str(tmp_path)) == -1
    assert cache.open_below(str(tmp_path / "missing")) == -1


def test_it_is_bounded(directory: int, library: Path) -> None:
    """The oldest go; what a killed writer left goes with them."""
    put(directory, ".left.1", b"half")
    os.utime(".left.1", (1, 1), dir_fd=directory)
    for number in range(70):
        kept(directory, f"name{number}", library)
        os.utime(f"name{number}", (1000 + number, 1000 + number), dir_fd=directory)
    names = os.listdir(directory)
    assert len(names) == 64 and ".left.1" not in names
    assert {f"name{number}" for number in range(6, 70)} == set(names)


def test_nothing_of_the_key_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile, the kernel, the machine and the format each make another entry."""
    names = {cache.key(b"one"), cache.key(b"two")}
    system = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*system[:2], "9.9.9", *system[3:])))
    names.add(cache.key(b"one"))
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*system[:4], "mips")))
    names.add(cache.key(b"one"))
    monkeypatch.undo()
    monkeypatch.setattr(cache, "FORMAT", 99)
    names.add(cache.key(b"one"))
    assert len(names) == 5 and all(len(name) == 64 for name in names)


def test_a_filter_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again when its entry is spoilt, which is then written anew; without a place it is compiled each time."""
    monkeypatch.setattr(cache, "open_directory", lambda: cache.open_below(str(tmp_path)))
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["uname"], "action": "SCMP_ACT_ERRNO"}]}

    def compiled() -> tuple[bytes, int]:
        found = Filter(profile)  # type: ignore[arg-type]
        found.prepare()
        (entry,) = (tmp_path / "pyrunc-seccomp").iterdir()
        return found.program, entry.stat().st_ino

    first = compiled()
    assert compiled() == first
    (entry,) = (tmp_path / "pyrunc-seccomp").iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] + b"\xff")
    again = compiled()
    assert again[0] == first[0] and entry.read_bytes() == whole
    monkeypatch.setattr(cache, "open_directory", lambda: -1)
    assert compiled()[0] == first[0]
