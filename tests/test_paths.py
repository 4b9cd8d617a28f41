# SPDX-License-Identifier: Apache-2.0
"""paths.py: below a root that is not trusted, nothing that is opened or made is outside of it.

Each root here has a link to every kind of outside; `outside` must look as before after each test.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyrunc.paths import clean, is_directory, make_directory, make_file, open_in_root, proc_reopen

AT_FDCWD = -100
RENAME_EXCHANGE = 2


class Root:
    """A directory that plays the container's root, with `outside` beside it."""

    def __init__(self, base: Path) -> None:
        self.path = base / "root"
        self.outside = base / "outside"
        for directory in (self.path, self.outside):
            directory.mkdir()
        (self.outside / "secret").write_text("host")
        self.fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY)

    def link(self, name: str, target: str | Path) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    def where(self, fd: int) -> str:
        """The path of `fd` below the root; closes it."""
        name = os.readlink(f"/proc/self/fd/{fd}")
        os.close(fd)
        assert name == str(self.path) or name.startswith(f"{self.path}/"), f"{name} is outside of the root"
        return name.removeprefix(str(self.path))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    root = Root(tmp_path)
    opened = len(os.listdir("/proc/self/fd"))
    yield root
    assert len(os.listdir("/proc/self/fd")) == opened, "a descriptor was left open"
    os.close(root.fd)
    assert [path.name for path in root.outside.rglob("*")] == ["secret"]
    assert (root.outside / "secret").read_text() == "host"


def refuses(number: int, action: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        action()
    assert caught.value.errno == number, errno.errorcode.get(caught.value.errno or 0)


@pytest.mark.parametrize(("path", "expected"), [
    ("/", ""), ("", ""), (".", ""), ("/a/b", "a/b"), ("a//b/", "a/b"), ("/a/./b/.", "a/b"), ("/a/../b", "b"),
    ("/../../etc", "etc"), ("../a", "a"), ("a/b/../../..", ""), ("/...", "..."), ("a/..b", "a/..b"),
])
def test_clean(path: str, expected: str) -> None:
    assert clean(path) == expected


def test_open_finds_what_is_there(root: Root) -> None:
    (root.path / "a/b").mkdir(parents=True)
    (root.path / "a/b/file").write_text("inside")
    for path in ("a/b/file", "/a/b/file", "/a/./b//file", "a/b/../b/file"):
        assert root.where(open_in_root(root.fd, path)) == "/a/b/file"
    assert root.where(open_in_root(root.fd, "/")) == ""
    fd = open_in_root(root.fd, "/a/b/file", os.O_RDONLY)
    assert os.read(fd, 100) == b"inside" and not os.get_inheritable(fd)
    os.close(fd)
    refuses(errno.ENOENT, lambda: open_in_root(root.fd, "/a/none"))
    refuses(errno.ENOTDIR, lambda: open_in_root(root.fd, "/a/b/file/x"))


def test_links_and_dots_stay_below_the_root(root: Root) -> None:
    """An absolute link starts at the root, and `..` of the root is the root."""
    (root.path / "etc").mkdir()
    (root.path / "etc/secret").write_text("inside")
    root.link("absolute", "/etc")
    root.link("up", "../../../../etc")
    root.link("chain", "absolute/../up")
    for path in ("absolute/secret", "up/secret", "chain/secret", "../../etc/secret"):
        assert root.where(open_in_root(root.fd, path)) == "/etc/secret"
    root.link("host", root.outside)
    refuses(errno.ENOENT, lambda: open_in_root(root.fd, "host/secret"))  # no such path in here
    assert (root.path / "host/secret").read_text() == "host"  # the control: an ordinary open goes there


def test_without_follow_no_component_may_be_a_link(root: Root) -> None:
    (root.path / "etc").mkdir()
    root.link("link", "etc")
    assert root.where(open_in_root(root.fd, "etc", follow=False)) == "/etc"
    refuses(errno.ELOOP, lambda: open_in_root(root.fd, "link", follow=False))
    refuses(errno.ELOOP, lambda: open_in_root(root.fd, "link/x", follow=False))
    refuses(errno.ELOOP, lambda: make_directory(root.fd, "link/x", follow=False))


def test_magic_links_are_not_followed(tmp_path: Path) -> None:
    """/proc/PID/root and fd/N lead anywhere; proc itself may be what the root holds."""
    fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    try:
        refuses(errno.ELOOP, lambda: open_in_root(fd, "self/root"))
        refuses(errno.ELOOP, lambda: open_in_root(fd, "self/exe"))
        os.close(open_in_root(fd, "self/status"))  # `self` is an ordinary link
    finally:
        os.close(fd)


def test_link_loops_end(root: Root) -> None:
    root.link("a", "b")
    root.link("b", "a")
    root.link("self", "self/x")
    for path in ("a", "a/x", "self", "self/y"):
        refuses(errno.ELOOP, lambda path=path: open_in_root(root.fd, path))  # type: ignore[misc]
        refuses(errno.ELOOP, lambda path=path: make_directory(root.fd, path))  # type: ignore[misc]
        refuses(errno.ELOOP, lambda path=path: make_file(root.fd, path))  # type: ignore[misc]


def test_a_directory_is_made_with_what_leads_to_it(root: Root) -> None:
    old = os.umask(0)
    try:
        assert root.where(make_directory(root.fd, "/a/./b//c/", 0o751)) == "/a/b/c"
    finally:
        os.umask(old)
    for name in ("a", "a/b", "a/b/c"):
        assert stat.S_IMODE((root.path / name).stat().st_mode) == 0o751
    assert root.where(make_directory(root.fd, "a/b")) == "/a/b"  # again: nothing to do
    assert root.where(make_directory(root.fd, "/")) == ""
    assert root.where(make_directory(root.fd, "a/b/../../d/e")) == "/d/e"
    assert root.where(make_directory(root.fd, "../../f")) == "/f"


def test_only_new_directories_get_the_owner(root: Root) -> None:
    (root.path / "old").mkdir()
    os.close(make_directory(root.fd, "old/new/er", owner=(1000, 1001)))
    owners = [(path.stat().st_uid, path.stat().st_gid) for path in
              (root.path / "old", root.path / "old/new", root.path / "old/new/er")]
    assert owners == [(os.geteuid(), os.getegid()), (1000, 1001), (1000, 1001)]


@pytest.mark.parametrize(("target", "path", "made"), [
    ("/run", "var/run", "/run"), ("/run", "var/run/lock/x", "/run/lock/x"), ("../run", "var/run/x", "/run/x"),
    ("../../../../run", "var/run", "/run"), ("deep/down", "var/run/x", "/var/deep/down/x"),
])
def test_a_link_to_nowhere_has_its_target_made_below_the_root(root: Root, target: str, path: str, made: str) -> None:
    """An image with /var/run -> /run and no /run is common."""
    root.link("var/run", target)
    assert root.where(make_directory(root.fd, path)) == made
    assert (root.path / "var/run").is_symlink()


def test_a_chain_of_links_to_nowhere(root: Root) -> None:
    root.link("a", "/b")
    root.link("b", "c/../d")
    root.link("d", "/e/f")
    assert root.where(make_directory(root.fd, "a/x")) == "/e/f/x"


def test_a_link_out_has_its_target_made_inside(root: Root) -> None:
    root.link("host", root.outside / "new")
    assert root.where(make_directory(root.fd, "host/x")) == f"{root.outside}/new/x"
    assert root.where(make_file(root.fd, "host/file")) == f"{root.outside}/new/file"


def test_a_file_in_the_way(root: Root) -> None:
    (root.path / "file").write_text("")
    refuses(errno.ENOTDIR, lambda: make_directory(root.fd, "file"))
    refuses(errno.ENOTDIR, lambda: make_directory(root.fd, "file/x"))
    refuses(errno.ENOTDIR, lambda: make_file(root.fd, "file/x"))


def test_a_file_is_made_empty_and_an_old_one_left_alone(root: Root) -> None:
    fd = make_file(root.fd, "/new/dir/file", 0o640)
    assert not is_directory(fd)
    assert root.where(fd) == "/new/dir/file"
    assert (root.path / "new/dir/file").read_bytes() == b""
    assert (root.path / "new/dir/file").stat().st_mode & 0o777 == 0o640
    (root.path / "old").write_text("kept")
    assert root.where(make_file(root.fd, "old")) == "/old"
    assert (root.path / "old").read_text() == "kept"
    (root.path / "directory").mkdir()
    fd = make_file(root.fd, "directory")
    assert is_directory(fd)  # the caller decides what that means
    os.close(fd)


def test_a_file_behind_links_to_nowhere(root: Root) -> None:
    root.link("etc/resolv.conf", "../run/systemd/resolv.conf")
    assert root.where(make_file(root.fd, "etc/resolv.conf")) == "/run/systemd/resolv.conf"
    root.link("mtab", "/proc/mounts")
    assert root.where(make_file(root.fd, "/mtab")) == "/proc/mounts"
    root.link("two", "mid")
    root.link("mid", root.outside / "planted")
    assert root.where(make_file(root.fd, "two")) == f"{root.outside}/planted"


def test_special_files_are_not_opened(root: Root) -> None:
    """A fifo must not block us: the descriptors are O_PATH."""
    os.mkfifo(root.path / "fifo")
    assert root.where(make_file(root.fd, "fifo")) == "/fifo"


def test_reopening_goes_through_our_own_proc(root: Root) -> None:
    (root.path / "file").write_text("inside")
    proc_self = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    fd = open_in_root(root.fd, "file")
    again = proc_reopen(proc_self, fd, os.O_RDONLY)
    assert os.read(again, 100) == b"inside" and not os.get_inheritable(again)
    for number in (proc_self, fd, again):
        os.close(number)


def _exchange(first: Path, second: Path, stop: threading.Event) -> None:
    """Swap the two names as fast as possible."""
    libc = ctypes.CDLL(None, use_errno=True)
    one, two = os.fsencode(first), os.fsencode(second)
    while not stop.is_set():
        libc.renameat2(AT_FDCWD, one, AT_FDCWD, two, RENAME_EXCHANGE)


@pytest.mark.parametrize("what", ["open", "directory", "file"])
def test_a_directory_exchanged_for_a_link_meanwhile(root: Root, what: str, long: bool) -> None:
    """CVE-2021-30465, CVE-2024-45310: whatever wins, nothing is opened or made outside."""
    (root.path / "mnt").mkdir()
    (root.path / "mnt/secret").write_text("inside")
    root.link("other", root.outside)
    stop = threading.Event()
    racer = threading.Thread(target=_exchange, args=(root.path / "mnt", root.path / "other", stop))
    racer.start()
    inside = elsewhere = failed = 0
    try:
        for number in range(50000 if long else 2000):
            try:
                if what == "open":
                    name = root.where(open_in_root(root.fd, "mnt/secret"))
                elif what == "directory":
                    name = root.where(make_directory(root.fd, f"mnt/d{number}/e"))
                else:
                    name = root.where(make_file(root.fd, f"mnt/f{number}"))
            except OSError:
                failed += 1
                continue
            if name.startswith(("/mnt/", "/other/")):
                inside += 1
            else:  # the link's target, as the root sees it
                assert name.startswith(f"{root.outside}/"), name
                elsewhere += 1
    finally:
        stop.set()
        racer.join()
    assert inside and (failed or elsewhere), f"no race: {inside} inside, {elsewhere} elsewhere, {failed} failed"
