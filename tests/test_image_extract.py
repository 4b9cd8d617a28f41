# SPDX-License-Identifier: Apache-2.0
"""Layers onto a file system: what the image-spec's layer.md says, and nothing outside of the target, whatever is asked.

Each case goes through both ways of extracting, merged into a tree and as an overlayfs layer, and the two
have to look the same in the end.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tarmaker import archive, base256, directory, file, gnu_long, hardlink, header, pad, pax, symlink

from pyrunc.errors import ImageError
from pyrunc.registry import overlay, trees
from pyrunc.registry.extract import Extractor
from pyrunc.registry.idmap import Ownership
from pyrunc.registry.layers import Layers
from pyrunc.registry.store import Store
from pyrunc.registry.tarstream import TarReader
from pyrunc.registry.tarwriter import TarWriter

SECRET = "the host's"


@pytest.fixture(autouse=True)
def own_mounts() -> None:
    """Mounts of these tests are nobody else's."""
    assert os.geteuid() == 0


class Place:
    """Something to unpack into, and beside it what must not change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path / "a" / "root"
        self.root.mkdir(parents=True)
        self.outside = path / "outside"
        self.outside.mkdir()
        (self.outside / "file").write_text(SECRET)
        (path / "a" / "file").write_text(SECRET)
        self.before = self.look_outside()

    def look_outside(self) -> list[tuple[str, int, int, int, int]]:
        found = []
        for path in sorted([*self.path.iterdir(), *(self.path / "a").iterdir(), *self.outside.rglob("*")]):
            if path.name in ("root", "merged", "store"):
                continue
            info = path.lstat()
            found.append((str(path), info.st_mode, info.st_size, info.st_nlink if path.is_file() else 0, info.st_uid))
        return found

    def assert_nothing_outside(self) -> None:
        assert self.look_outside() == self.before
        assert (self.outside / "file").read_text() == SECRET

    def merge(self, *layers: bytes) -> Path:
        """The layers applied one after the other."""
        fd = os.open(self.root, os.O_RDONLY)
        try:
            for layer in layers:
                Extractor(fd, Ownership(), "x").extract(TarReader(iter([layer]), "x"))
        finally:
            os.close(fd)
        return self.root

    def overlaid(self, *layers: bytes) -> Path:
        """The layers as overlayfs shows them; unmounted by the caller (`overlay.unmount`)."""
        unpacked = Layers(Store(str(self.path / "store")))
        chain: list[str] = []
        for layer in layers:
            chain.append("sha256:" + hashlib.sha256(layer + chain[-1].encode() if chain else layer).hexdigest())
            new = unpacked.begin(chain[-1])
            assert new is not None
            try:
                new.extractor = Extractor(new.root, Ownership(), "x", overlay=True)
                new.extractor.extract(TarReader(iter([layer]), "x"))
                new.finish(chain[:-1])
            finally:
                new.abandon()
        merged = self.path / "merged"
        merged.mkdir(exist_ok=True)
        overlay.mount(str(merged), [unpacked.diff(chain_id) for chain_id in reversed(chain)])
        return merged


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """All that an image says of files, by path."""
    links: dict[int, list[str]] = {}
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        info = path.lstat()
        kind = stat.S_IFMT(info.st_mode)
        name = str(path.relative_to(root))
        content: object = ""
        if kind == stat.S_IFREG:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            links.setdefault(info.st_ino, []).append(name)
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            content = info.st_rdev
        xattrs = {key: os.getxattr(path, key, follow_symlinks=False)
                  for key in os.listxattr(path, follow_symlinks=False) if not key.startswith("trusted.overlay.")}
        found[name] = (stat.filemode(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, content,
                       tuple(sorted(xattrs.items())))
    for names in links.values():
        if len(names) > 1:
            for name in names:
                found[name] = (*found[name], names[0])
    return found


def both(place: Place, *layers: bytes) -> dict[str, tuple[object, ...]]:
    """The tree that both ways of extracting agree on."""
    merged = tree(place.merge(*layers))
    overlaid_root = place.overlaid(*layers)
    try:
        overlaid = tree(overlaid_root)
    finally:
        overlay.unmount(str(overlaid_root))
    # Nothing said anything of the root: that of a fresh directory is whatever it is.
    if all(layer[:2] != b"./" for layer in layers):
        merged.pop("."), overlaid.pop(".")
    assert overlaid == merged
    place.assert_nothing_outside()
    return merged


ROOT = directory("./", mtime=100)
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep, version 2


def test_attributes(place: Place) -> None:
    """layer.md, File Attributes: owner, mode with setuid, times to the nanosecond, xattrs and capabilities."""
    found = both(place, archive(
        ROOT, directory("d/", mode=0o1777, uid=3, gid=4, mtime=1000),
        pax({b"mtime": b"1234567890.123456789", b"SCHILY.xattr.user.x": b"\0y",
             b"SCHILY.xattr.security.capability": CAPABILITY}),
        file("d/f", b"content", mode=0o4755, uid=1000, gid=2000),
        symlink("d/l", "/nowhere/at/all", uid=5, gid=6, mtime=7),
        header("d/c", b"3", major=1, minor=3, mode=0o666), header("d/b", b"4", major=259, minor=70000, mode=0o640),
        header("d/p", b"6", mode=0o622, uid=9, mtime=77), hardlink("d/h", "d/f")))
    content = hashlib.sha256(b"content").hexdigest()
    attributes = (("security.capability", CAPABILITY), ("user.x", b"\0y"))
    assert found["d"] == ("drwxrwxrwt", 3, 4, 1000 * 10**9, "", ())
    assert found["d/f"] == ("-rwsr-xr-x", 1000, 2000, 1234567890123456789, content, attributes, "d/f")
    assert found["d/h"] == found["d/f"]
    assert found["d/l"] == ("lrwxrwxrwx", 5, 6, 7 * 10**9, "/nowhere/at/all", ())
    assert found["d/c"][:1] + found["d/c"][4:5] == ("crw-rw-rw-", os.makedev(1, 3))
    assert found["d/b"][:1] + found["d/b"][4:5] == ("brw-r-----", os.makedev(259, 70000))
    assert found["d/p"] == ("prw--w--w-", 9, 0, 77 * 10**9, "", ())
    assert found["."][0] == "drwxr-xr-x" and found["."][3] == 100 * 10**9


def test_modes_do_not_depend_on_the_umask(place: Place) -> None:
    old = os.umask(0o077)
    try:
        found = both(place, archive(file("f", mode=0o666), directory("d/", mode=0o777), header("p", b"6", mode=0o666)))
    finally:
        os.umask(old)
    assert [found[name][0] for name in ("f", "d", "p")] == ["-rw-rw-rw-", "drwxrwxrwx", "prw-rw-rw-"]


def test_a_directory_that_hands_its_group_on_does_not_do_so_here(place: Place) -> None:
    found = both(place, archive(directory("d/", mode=0o2755, gid=7), file("d/f", gid=8), directory("d/e/", gid=9)))
    assert (found["d"][0], found["d/f"][2], found["d/e"][:3]) == ("drwxr-sr-x", 8, ("drwxr-xr-x", 0, 9))


BASE = archive(ROOT, directory("a/", mode=0o700, uid=1, mtime=5), directory("a/b/", mtime=6), file("a/b/bar", b"1"),
               file("a/foo", b"2"), symlink("l", "a"), file("only", b"3"))


@pytest.mark.parametrize(("layer", "left"), [
    (archive(file("a/.wh.foo")), ["a", "a/b", "a/b/bar", "l", "only"]),
    (archive(file("a/.wh.b")), ["a", "a/foo", "l", "only"]),
    (archive(file(".wh.a"), file(".wh.l")), ["only"]),
    (archive(file("a/.wh..wh..opq")), ["a", "l", "only"]),
    (archive(file(".wh..wh..opq")), []),
    (archive(file("a/.wh..wh..opq"), file("a/new")), ["a", "a/new", "l", "only"]),
    (archive(file("a/new"), file("a/.wh..wh..opq")), ["a", "a/new", "l", "only"]),
    (archive(directory("a/b/"), directory("a/b/c/"), file("a/b/c/foo"), file("a/.wh..wh..opq")),
     ["a", "a/b", "a/b/c", "a/b/c/foo", "l", "only"]),
    (archive(file("a/.wh.b"), directory("a/b/"), file("a/b/new")), ["a", "a/b", "a/b/new", "a/foo", "l", "only"]),
    (archive(directory("a/b/"), file("a/b/new"), file("a/.wh.b")), ["a", "a/b", "a/b/new", "a/foo", "l", "only"]),
    (archive(file("a/.wh.b"), file("a/b/new")), ["a", "a/b", "a/b/new", "a/foo", "l", "only"]),
    (archive(file("a/.wh.foo"), file("a/foo", b"new")), ["a", "a/b", "a/b/bar", "a/foo", "l", "only"]),
    (archive(file("a/foo", b"new"), file("a/.wh.foo")), ["a", "a/b", "a/b/bar", "a/foo", "l", "only"]),
    (archive(file(".wh.nothing"), file("a/.wh.none")), ["a", "a/b", "a/b/bar", "a/foo", "l", "only"]),
    (archive(file("missing/.wh..wh..opq")), ["a", "a/b", "a/b/bar", "a/foo", "l", "missing", "only"]),
    (archive(file("a/.wh..wh.plnk"), file(".wh..wh.aufs")), ["a", "a/b", "a/b/bar", "a/foo", "l", "only"]),
    (archive(file("a", b"a file now")), ["a", "l", "only"]),
    (archive(directory("l/"), file("l/x")), ["a", "a/b", "a/b/bar", "a/foo", "l", "l/x", "only"]),
    (archive(file("l/x")), ["a", "a/b", "a/b/bar", "a/foo", "l", "l/x", "only"]),
    (archive(directory("only/"), file("only/x")), ["a", "a/b", "a/b/bar", "a/foo", "l", "only", "only/x"]),
    (archive(file("only/x")), ["a", "a/b", "a/b/bar", "a/foo", "l", "only", "only/x"]),
], ids=range(21))
def test_whiteouts_and_what_changes_its_kind(place: Place, layer: bytes, left: list[str]) -> None:
    """layer.md, Whiteouts (also after what they hide, in the same layer) and Changeset over existing files."""
    found = both(place, BASE, layer)
    assert sorted(set(found) - {"."}) == left
    if "l" in left and str(found["l"][0]).startswith("d"):
        assert found["a/foo"][4] == hashlib.sha256(b"2").hexdigest()


@pytest.mark.parametrize("layers", [
    [archive(directory("d/", mtime=5), file("d/f"), file("d/.wh.x"))],
    [BASE, archive(directory("d/", mtime=5), file("d/f"), file("d/.wh.x"))],
    [BASE, archive(file("new/deep/.wh.x"))],
    [BASE, archive(file("a/foo/.wh.x"))],
    [BASE, archive(directory("a/", mtime=5), file("a/.wh..wh..opq"), file("a/.wh.foo"), file("a/b/.wh.bar"))],
    [BASE, archive(file("a/.wh.b")), archive(file("a/b/.wh.bar"), file("a/b/new"))],
], ids=range(6))
def test_whiteouts_of_nothing(place: Place, layers: list[bytes]) -> None:
    """In a directory that no lower layer has: overlayfs would list them."""
    for name, (mode, *_) in both(place, *layers).items():
        assert not str(mode).startswith("c"), name


def test_over_three_layers(place: Place) -> None:
    found = both(place, BASE, archive(file(".wh.a"), file("only/deep/er", b"x")),
                 archive(directory("a/"), file("a/b", b"again"), file("only/deep/.wh.er")))
    assert sorted(found) == [".", "a", "a/b", "l", "only", "only/deep"]


def test_a_directory_no_layer_entry_describes_stays_as_it_was(place: Place) -> None:
    """What is put into a directory of a lower layer changes neither its owner and mode nor its time."""
    found = both(place, BASE, archive(file("a/b/new"), file("made/on/the/way")))
    assert found["a"][:4] == ("drwx------", 1, 0, 5 * 10**9)
    assert found["a/b"][3] == 6 * 10**9
    assert found["made/on"][:3] == ("drwxr-xr-x", 0, 0)


def test_attributes_of_a_directory_are_replaced(place: Place) -> None:
    """layer.md: if both are directories, the attributes of the entry take their place, xattrs too."""
    first = archive(pax({b"SCHILY.xattr.user.old": b"1"}), directory("d/", mode=0o700), file("d/f"))
    second = archive(pax({b"SCHILY.xattr.user.new": b"2"}), directory("d/", mode=0o750, uid=4, mtime=9))
    assert both(place, first, second)["d"] == ("drwxr-x---", 4, 0, 9 * 10**9, "", (("user.new", b"2"),))


def test_a_hard_link_to_a_file_of_a_lower_layer(place: Place) -> None:
    found = both(place, BASE, archive(hardlink("a/h", "a/foo"), file("x")))
    assert found["a/h"] == found["a/foo"]
    assert found["a"][:4] == ("drwx------", 1, 0, 5 * 10**9)


def test_a_hard_link_to_what_is_no_plain_file_of_a_lower_layer(place: Place) -> None:
    found = both(place, archive(symlink("l", "to"), header("n", b"3", major=1, minor=3, mode=0o620, uid=5, mtime=7),
                                header("p", b"6")),
                 archive(hardlink("l2", "l"), hardlink("n2", "n"), hardlink("p2", "p")))
    assert all(found[f"{name}2"] == found[name] for name in "lnp") and found["n"][:4] == ("crw--w----", 5, 0, 7 * 10**9)


def test_a_hard_link_to_a_name_that_the_layer_takes_away(place: Place) -> None:
    """As umoci has it, which goes by the order in the archive: what was linked before is there."""
    found = both(place, BASE, archive(hardlink("a/h", "a/foo"), file("a/.wh.foo")))
    assert found["a/h"][4] == hashlib.sha256(b"2").hexdigest() and "a/foo" not in found


@pytest.mark.parametrize("way", ["merge", "overlaid"])
def test_a_hard_link_to_what_the_layer_has_taken_away(place: Place, way: str) -> None:
    with pytest.raises(ImageError, match="a hard link to a/foo, which isn't there"):
        getattr(place, way)(BASE, archive(file("a/.wh.foo"), hardlink("a/h", "a/foo")))


def test_what_aufs_left_in_old_layers(place: Place) -> None:
    """Names of its own, and a directory of files with several names, that other entries are links to."""
    layer = archive(directory(".wh..wh.plnk/"), file(".wh..wh.plnk/12.34", b"linked"), directory(".wh..wh.orph/"),
                    file(".wh..wh.orph/5", b"gone"), file(".wh..wh.aufs"), hardlink("a/x", ".wh..wh.plnk/12.34"),
                    hardlink("a/y", ".wh..wh.plnk/12.34"))
    found = both(place, BASE, layer)
    assert sorted(set(found) - {"."}) == ["a", "a/b", "a/b/bar", "a/foo", "a/x", "a/y", "l", "only"]
    assert found["a/x"][4] == hashlib.sha256(b"linked").hexdigest() and found["a/x"] == found["a/y"]


def test_times_far_away(place: Place) -> None:
    """Before 1970, and later than 64 bits of nanoseconds reach: no reason not to have the image."""
    far = 1 << 34
    layer = archive(file("past", mtime=base256(-1000, 12)), file("future", mtime=base256(far, 12)))
    root = place.merge(layer)
    assert (root / "past").stat().st_mtime == -1000
    assert (root / "future").stat().st_mtime > 1 << 33  # as far as the file system can


def test_writing_to_a_name_leaves_its_other_links_alone(place: Place) -> None:
    first = archive(file("f", b"old"), hardlink("h", "f"))
    found = both(place, first, archive(file("f", b"new")))
    assert found["h"][4] == hashlib.sha256(b"old").hexdigest()


def test_names_that_are_odd_but_names(place: Place) -> None:
    names = [b"new\nline", b"\xff\xfe", b"sp ace", b"-rf", b"*", "\u00fc".encode(), b"x" * 255, b"...", b" "]
    members = [file(name) if len(name) < 100 else gnu_long(b"L", name) + file("short") for name in names]
    found = both(place, archive(*members, file("/absolute"), file("./././dot//slash")))
    assert {os.fsdecode(name) for name in names} | {"absolute", "dot/slash"} <= set(found)


def test_duplicates_the_last_one_counts(place: Place) -> None:
    found = both(place, archive(file("f", b"1"), file("f", b"22"), directory("d/"), file("d/x"), file("d", b"file"),
                                symlink("s", "a"), symlink("s", "b")))
    assert found["f"][4] == hashlib.sha256(b"22").hexdigest()
    assert found["d"][0] == "-rw-r--r--" and found["s"][4] == "b"


def test_sparse_files_stay_sparse(place: Place) -> None:
    data = archive(pax({b"GNU.sparse.map": b"%d,512" % (1 << 30), b"GNU.sparse.size": b"%d" % (1 << 31)}),
                   file("s", b"x" * 512))
    root = place.merge(data)
    info = (root / "s").stat()
    assert info.st_size == 1 << 31 and info.st_blocks * 512 < 1 << 20
    with open(root / "s", "rb") as stream:
        stream.seek((1 << 30) - 1)
        assert stream.read(514) == b"\0" + b"x" * 512 + b"\0"


LAYERS_XATTRS = (b"trusted.overlay.opaque", b"trusted.overlay.redirect", b"trusted.overlay.metacopy",
                 b"user.overlay.opaque")


def test_overlayfs_own_xattrs_are_dropped(place: Place) -> None:
    """A layer could show other layers' files with them, or files of the host (redirect, metacopy)."""
    found = both(place, BASE, archive(pax({b"SCHILY.xattr." + key: b"y" for key in LAYERS_XATTRS}), directory("a/"),
                                      pax({b"SCHILY.xattr.trusted.overlay.redirect": b"/outside"}), file("f")))
    assert "a/foo" in found and found["a"][5] == () and found["f"][5] == ()


def expect_error(place: Place, why: str, *layers: bytes) -> None:
    with pytest.raises(ImageError, match=why):
        place.merge(*layers)
    with pytest.raises(ImageError, match=why):
        overlay.unmount(str(place.overlaid(*layers)))
    place.assert_nothing_outside()


HOSTILE: dict[str, tuple[str, tuple[bytes, ...]]] = {
    "CVE-2021-29136 the root is a link": ("not a directory", (archive(symlink("./", "/outside")),)),
    "the root is a link, by another name": ("not a directory", (archive(symlink("/", "../../outside")),)),
    "the root is a link, dot": ("not a directory", (archive(symlink(".", "../../outside")),)),
    "the root is a file": ("not a directory", (archive(file(".")),)),
    "the root is a hard link": ("not a directory", (archive(hardlink(".", "f")),)),
    "dots in a name": (r"\.\.", (archive(file("../file", b"x")),)),
    "dots within a name": (r"\.\.", (archive(directory("a/"), file("a/../../file", b"x")),)),
    "dots after a link": (r"\.\.", (archive(symlink("l", "/"), file("l/../file", b"x")),)),
    "dots by a PAX path": (r"\.\.", (archive(pax({b"path": b"../file"}), file("ok", b"x")),)),
    "dots by a GNU long name": (r"\.\.", (archive(gnu_long(b"L", b"x/" * 60 + b"../" * 62 + b"file"), file("ok")),)),
    "dots by a ustar prefix": (r"\.\.", (archive(header("file", prefix=b"../..")),)),
    "dots in a sparse name": (r"\.\.", (archive(pax({b"GNU.sparse.name": b"../file", b"GNU.sparse.map": b"0,1",
                                                    b"GNU.sparse.size": b"1"}), file("f", b"x")),)),
    "dots in a whiteout's directory": (r"\.\.", (archive(file("../.wh.file")),)),
    "a whiteout of the parent": ("whiteout of nothing", (archive(file("d/.wh...")),)),
    "a whiteout of itself": ("whiteout of nothing", (archive(file("d/.wh..")),)),
    "a whiteout of nothing": ("whiteout of nothing", (archive(file(".wh.")),)),
    "something in a whiteout": ("a whiteout with something in it", (archive(directory(".wh.x/y/"), file(".wh.x/y")),)),
    "a hard link out by dots": (r"\.\.", (archive(hardlink("h", "../file")),)),
    "a hard link out, PAX": (r"\.\.", (archive(pax({b"linkpath": b"../../outside/file"}), hardlink("h", "x")),)),
    "a hard link to an absolute path": ("isn't there", (archive(hardlink("h", "/outside/file")),)),
    "CVE-2021-32760 a hard link through a link": (
        "isn't there", (archive(symlink("l", "../../outside"), hardlink("h", "l/file"), file("h", mode=0o777)),)),
    "a hard link to nothing": ("isn't there", (archive(hardlink("h", "nothing")),)),
    "a hard link to a directory": ("directory", (archive(directory("d/"), hardlink("h", "d")),)),
    "a hard link to the root": ("to the root", (archive(hardlink("h", "/")),)),
    "a link to nothing at all": ("to nothing", (archive(symlink("l", "")),)),
    "something in a file": ("is no directory", (archive(file("f"), file("f/g")),)),
    "something in a link to a file": ("is no directory", (archive(file("f"), symlink("l", "f"), file("l/g")),)),
    "a ring of links": ("is no directory", (archive(symlink("a", "b"), symlink("b", "a"), file("a/f")),)),
    "a device that is a whiteout": ("0:0", (archive(header("w", b"3")),)),
    "a name too long for the kernel": ("too long", (archive(gnu_long(b"L", b"x" * 256), file("f")),)),
    "too deep": ("nested deeper", (archive(gnu_long(b"L", b"d/" * 600 + b"f"), file("f")),)),
    "a negative size": ("impossible size", (archive(header("f", size=base256(-5, 12))),)),
    "a huge size": ("cut off", (archive(header("f", size=base256(1 << 40, 12)), pad(b"x")),)),
    "a sparse file larger than any": ("doesn't fit its size", (archive(pax({
        b"GNU.sparse.map": b"0,1", b"GNU.sparse.size": b"%d" % (1 << 63)}), file("f", b"x")),)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(place: Place, name: str) -> None:
    why, layers = HOSTILE[name]
    expect_error(place, why, *layers)


def test_a_huge_sparse_file(place: Place) -> None:
    """One error where the file system has none so large; tmpfs has them of any size, and of this one nothing."""
    layer = archive(pax({b"GNU.sparse.map": b"0,1", b"GNU.sparse.size": b"%d" % (1 << 62)}), file("f", b"x"))
    try:
        root = place.merge(layer)
    except ImageError as error:
        assert re.search("[Ff]ile too large|Invalid", str(error)), error
    else:
        assert (root / "f").stat().st_blocks <= 8
    place.assert_nothing_outside()


CONFINED: dict[str, tuple[tuple[bytes, ...], str]] = {
    # What is asked for happens, but inside; the path is where the file is found.
    "CVE-2014-9356 through an absolute link": ((archive(directory("outside/"), symlink("l", "/outside"),
                                                        file("l/file", b"x")),), "outside/file"),
    "CVE-2026-17106 through dots in a link": ((archive(directory("outside/"), symlink("l", "../../../../outside"),
                                                       file("l/file", b"x")),), "outside/file"),
    "a link that becomes a file": ((archive(symlink("f", "../../outside/file"), file("f", b"x")),), "f"),
    "a directory that becomes a link": ((archive(directory("outside/"), directory("d/"), file("d/a"),
                                                 symlink("d", "/outside"), file("d/file", b"x")),), "outside/file"),
    "a link of a lower layer": ((archive(symlink("l", "/outside")), archive(file("l/file", b"x"))), "l/file"),
    "dots in a link of a lower layer": ((archive(symlink("l", "../../outside")), archive(file("l/file", b"x"))),
                                        "l/file"),
    "a hard link to a link, then written": ((archive(symlink("l", "../../outside/file"), hardlink("h", "l"),
                                                     file("h", b"x")),), "h"),
}


@pytest.mark.parametrize("name", CONFINED)
def test_hostile_archives_are_confined(place: Place, name: str) -> None:
    layers, where = CONFINED[name]
    found = both(place, *layers)
    assert found[where][4] == hashlib.sha256(b"x").hexdigest()


def test_a_tree_that_is_changed_meanwhile(place: Place) -> None:
    """CVE-2025-47290: directories are exchanged for links to the outside again and again while it is unpacked."""
    for number in range(3):
        (place.root / f"d{number}").mkdir()
        (place.root / f"s{number}").symlink_to("../../outside")
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            for number in range(3):
                subprocess_free_exchange(place.root, f"d{number}", f"s{number}")

    attacker = threading.Thread(target=exchange)
    attacker.start()
    try:
        for _ in range(40):
            data = archive(*[file(f"d{number}/f{count}", b"x") for count in range(20) for number in range(3)])
            try:
                place.merge(data)
            except ImageError:
                continue  # refusing is as good
    finally:
        stop.set()
        attacker.join()
    place.assert_nothing_outside()


def subprocess_free_exchange(root: Path, first: str, second: str) -> None:
    """Swap two names in three steps; a moment's absence is part of the attack."""
    try:
        os.rename(root / first, root / "swap")
        os.rename(root / second, root / first)
        os.rename(root / "swap", root / second)
    except OSError:
        return


def test_the_control_an_extractor_that_follows_links_is_found_out(place: Place) -> None:
    """GNU tar, told to follow links, does what must not be done; the comparison tells."""
    (place.path / "x.tar").write_bytes(archive(symlink("l", "../../outside"), file("l/file", b"overwritten")))
    subprocess.run(["tar", "-xPf", place.path / "x.tar", "-C", place.root, "--keep-directory-symlink"], check=False,
                   capture_output=True)
    (place.path / "x.tar").unlink()
    if (place.outside / "file").read_text() == SECRET:
        (place.root / "l" / "file").write_text("overwritten")
    with pytest.raises(AssertionError):
        place.assert_nothing_outside()


@pytest.mark.parametrize("script", ["unpigz", "xz", "zstd", "gzip"])
def test_nothing_of_the_image_is_run(place: Place, script: str) -> None:
    """CVE-2019-14271, CVE-2018-15664: decompressors and libraries named in the image stay files."""
    layer = archive(file(f"bin/{script}", b"#!/bin/sh\ntouch /outside/run\n", mode=0o755))
    both(place, layer, archive(file("x")))


def test_ownership_is_shifted(place: Place) -> None:
    fd = os.open(place.root, os.O_RDONLY)
    try:
        mapped = Ownership(((0, 100000, 65536),), ((0, 200000, 65536),))
        Extractor(fd, mapped, "x").extract(TarReader(iter([archive(file("f", uid=7, gid=8), directory("a/b/"))]), "x"))
        with pytest.raises(ImageError, match="uid 70000 is in no mapping"):
            Extractor(fd, mapped, "x").extract(TarReader(iter([archive(file("g", uid=70000))]), "x"))
    finally:
        os.close(fd)
    info = (place.root / "f").stat()
    assert (info.st_uid, info.st_gid) == (100007, 200008)
    assert (place.root / "a").stat().st_uid == 100000


@pytest.fixture
def as_user() -> Callable[[Callable[[], None]], int]:
    """Runs a function as an ordinary user, in a process of its own; its exit status."""
    def run(function: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups([])
                os.setresgid(12345, 12345, 12345)
                os.setresuid(12345, 12345, 12345)
                function()
                os._exit(0)
            except BaseException as error:
                os.write(2, repr(error).encode())
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return run


def test_an_ordinary_user_owns_everything(place: Place, as_user: Callable[[Callable[[], None]], int]) -> None:
    """Without root: owners are the user's, devices are left out, a directory without rights is filled all the same."""
    for path in (place.root, place.root.parent, place.path, *place.path.parents):
        if str(path) not in ("/", "/tmp"):
            os.chmod(path, 0o777)
    warned = place.path / "outside" / "warned"
    layer = archive(directory("d/", mode=0o500, uid=7), file("d/f", b"x", uid=8, mode=0o000),
                    header("c", b"3", major=1, minor=3), pax({b"SCHILY.xattr.security.capability": CAPABILITY}),
                    file("cap"), file("d/.wh.none"))
    os.chown(place.root, 12345, 12345)
    os.chmod(place.outside, 0o777)

    def unpack() -> None:
        fd = os.open(place.root, os.O_RDONLY)
        Extractor(fd, Ownership(squash=True), "x", warn=lambda text: warned.write_text(text) and None).extract(
            TarReader(iter([layer]), "x"))

    assert as_user(unpack) == 0
    assert {path.name: path.lstat().st_uid for path in place.root.rglob("*")} == {"d": 12345, "f": 12345, "cap": 12345}
    assert stat.S_IMODE((place.root / "d").stat().st_mode) == 0o500
    assert warned.read_text() == "x: 1 devices left out: only root makes them"


def test_an_ordinary_user_and_directories_that_shut_it_out(place: Place,
                                                           as_user: Callable[[Callable[[], None]], int]) -> None:
    """Root's rights would not be needed for those of its own: layers go on in them, they are walked and removed."""
    for path in (place.root, place.root.parent, place.path, *place.path.parents):
        if str(path) not in ("/", "/tmp"):
            os.chmod(path, 0o777)
    os.chown(place.root, 12345, 12345)
    base = archive(directory("./", mode=0o555), directory("r/", mode=0o555, mtime=5), file("r/f"),
                   directory("closed/", mode=0o000), file("closed/f", b"1"), directory("gone/", mode=0o444),
                   file("gone/f"), directory("other/", mode=0o100), file("other/f"))
    above = archive(file("r/new", b"data", mode=0), file("closed/.wh.f"), file("closed/in", b"2"), file(".wh.gone"),
                    file("top"), directory("other/", mode=0o400), file("other/new"))
    seen = place.path / "seen"

    def unpack() -> None:
        fd = os.open(place.root, os.O_RDONLY)
        for layer in (base, above):
            Extractor(fd, Ownership(squash=True), "x").extract(TarReader(iter([layer]), "x"))
        written: list[bytes] = []
        writer = TarWriter(written.append)
        for path, parent, name, info in trees.walk(fd):
            assert writer.file(path, parent, name, info, Ownership(squash=True))
        assert b"data" in b"".join(written)
        seen.write_text(" ".join(os.fsdecode(path) for path, *_ in trees.walk(fd)))

    assert as_user(unpack) == 0
    assert seen.read_text() == "closed closed/in other other/f other/new r r/f r/new top"
    assert {name: stat.S_IMODE((place.root / name).stat().st_mode) for name in ("", "r", "closed", "other")} == {
        "": 0o555, "r": 0o555, "closed": 0, "other": 0o400}
    assert (place.root / "r").stat().st_mtime == 5 and stat.S_IMODE((place.root / "r/new").stat().st_mode) == 0
    assert as_user(lambda: trees.remove(str(place.root))) == 0 and not place.root.exists()
