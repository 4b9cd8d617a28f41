# SPDX-License-Identifier: Apache-2.0
"""What a container has changed of its image: added, changed, deleted; and the layer that says so.

Of an overlay bundle that is what lies in `upper`; of a copy what differs from the record made when it
was unpacked.  Mount points that the runtime made are nobody's change.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING, Any, final

from pyrunc.errors import ImageError
from pyrunc.linux.fs import O_PATH, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from pyrunc.paths import clean

from . import trees
from .attributes import OPAQUE_XATTR
from .extract import WHITEOUT
from .tarstream import REGULAR
from .unpack import SNAPSHOT, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .idmap import Ownership
    from .tarwriter import TarWriter

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_COMPARED = 8  # of a snapshot's line: what a tar archive says of a file
ADDED, CHANGED, DELETED = "A", "C", "D"


@final
class Change:
    """One path, relative to the root."""

    __slots__ = ("kind", "only_time", "path")

    def __init__(self, kind: str, path: bytes, *, only_time: bool = False) -> None:
        self.kind = kind
        self.path = path
        self.only_time = only_time  # a directory of which nothing but its time is another

    def __str__(self) -> str:
        return f"{self.kind} /{os.fsdecode(self.path)}"


@final
class _Lower:
    """The layers below an upper directory, topmost first, seen as one."""

    def __init__(self, paths: list[str]) -> None:
        self._fds = [os.open(path, _DIRECTORY) for path in paths]

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def look(self, path: bytes) -> os.stat_result | None:
        """lstat of `path`; None when it isn't there."""
        head, _, name = path.rpartition(b"/")
        for layer in self._fds:
            parent, hides = _reach(layer, head)
            if parent < 0:
                if hides:
                    return None
                continue
            try:
                info = os.stat(name, dir_fd=parent, follow_symlinks=False)
                return None if _is_whiteout(info) else info
            except FileNotFoundError:
                if hides:
                    return None
            finally:
                os.close(parent)
        return None

    def children(self, path: bytes) -> set[bytes]:
        """The names in the directory."""
        found: set[bytes] = set()
        gone: set[bytes] = set()
        for layer in self._fds:
            fd, hides = _reach(layer, path)
            if fd >= 0:
                try:
                    for child in map(os.fsencode, os.listdir(fd)):
                        if _is_whiteout(os.stat(child, dir_fd=fd, follow_symlinks=False)):
                            gone.add(child)
                        elif child not in gone:
                            found.add(child)
                finally:
                    os.close(fd)
            if hides:
                break
        return found


def _reach(layer: int, path: bytes) -> tuple[int, bool]:
    """A descriptor of the directory `path` of a layer (-1: it has none), and whether lower ones can't be seen there."""
    current = os.open(".", _DIRECTORY, dir_fd=layer)
    hides = False
    for part in path.split(b"/") if path else ():
        try:
            following = os.open(part, _DIRECTORY, dir_fd=current)
        except OSError as error:
            os.close(current)
            if error.errno == errno.ENOENT:
                return -1, hides
            return -1, True  # a whiteout, or no directory
        os.close(current)
        current = following
        hides = hides or _opaque(current)
    return current, hides


def _opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE_XATTR) == b"y"
    except OSError:
        return False


def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


@final
class Changes:
    """The changes of the bundle at `path`; `record` is its image.json."""

    def __init__(self, path: str, record: dict[str, Any], layer_paths: list[str]) -> None:
        self.path = path
        self.overlay = record["backend"] == "overlay"
        self._layer_paths = layer_paths  # topmost first
        self.root = f"{path}/upper" if self.overlay else f"{path}/rootfs"

    def find(self) -> list[Change]:
        """All of them, parents before children."""
        changes = self._of_overlay() if self.overlay else self._of_copy()
        return sorted(self._without_mount_points(changes), key=lambda change: change.path.split(b"/"))

    def _of_overlay(self) -> list[Change]:
        lower = _Lower(self._layer_paths)
        upper = os.open(self.root, _DIRECTORY)
        found: list[Change] = []
        try:
            for path, directory, name, info in trees.walk(upper):
                below = lower.look(path)
                if _is_whiteout(info):
                    if below is not None:
                        found.append(Change(DELETED, path))
                    continue
                if below is None:
                    found.append(Change(ADDED, path))
                    continue
                if not stat.S_ISDIR(info.st_mode) or not _same(info, below):
                    found.append(Change(CHANGED, path, only_time=_same(info, below, time=False)))
                if stat.S_ISDIR(info.st_mode) and stat.S_ISDIR(below.st_mode):
                    fd = os.open(name, _DIRECTORY, dir_fd=directory)
                    try:
                        if _opaque(fd):
                            here = set(map(os.fsencode, os.listdir(fd)))
                            found += [Change(DELETED, path + b"/" + child)
                                      for child in sorted(lower.children(path) - here)]
                    finally:
                        os.close(fd)
        finally:
            lower.close()
            os.close(upper)
        return found

    def _of_copy(self) -> list[Change]:
        before: dict[str, list[Any]] = {}
        name = f"{self.path}/{SNAPSHOT}"
        try:
            with open(name) as file:
                device = json.loads(file.readline())["device"]
                for line in file:
                    entry = json.loads(line)
                    before[entry[0]] = entry
        except (OSError, ValueError, LookupError, TypeError):
            raise ImageError(f"{name} is missing or damaged", hint="without it changes can't be told") from None
        found: list[Change] = []
        root = os.open(self.root, _DIRECTORY)
        try:
            in_place = os.fstat(root).st_dev == device
            seen = set()
            for path, directory, child, info in trees.walk(root):
                text = os.fsdecode(path)
                seen.add(text)
                old = before.get(text)
                new = describe(text, directory, child, info)
                if old is None:
                    found.append(Change(ADDED, path))
                elif old[:_COMPARED] != new[:_COMPARED] or (
                        in_place and old[8] == new[8] and old[9] != new[9] and not stat.S_ISDIR(info.st_mode)):
                    timeless = [(*line[:5], *line[6:_COMPARED]) for line in (old, new)]
                    found.append(Change(CHANGED, path, only_time=stat.S_ISDIR(info.st_mode) and
                                        timeless[0] == timeless[1]))
        finally:
            os.close(root)
        gone = [path for path in before if path not in seen]
        missing = set(gone)
        # What lay in a directory that is gone goes with it; so does what a file has taken the place of.
        for text in gone:
            parent = text.rpartition("/")[0]
            if parent in missing or (parent and not _is_directory(self.root, parent)):
                continue
            found.append(Change(DELETED, os.fsencode(text)))
        return found

    def _without_mount_points(self, changes: Iterable[Change]) -> list[Change]:
        """Leave out the places of mounts, made by the runtime, and the directories made only for them."""
        listed = list(changes)
        points = self._mount_points()
        added = {change.path for change in listed if change.kind == ADDED}
        ours = {path for path in added if any(path == point or path.startswith(point + b"/") for point in points
                                              if point in added)}
        for path in sorted(added, key=len, reverse=True):
            below = path + b"/"
            if path not in ours and any(point.startswith(below) for point in points) and \
                    all(change.path in ours for change in listed if change.path.startswith(below)):
                ours.add(path)
        left = [change for change in listed if change.path not in ours]
        touched = {path.rpartition(b"/")[0] for path in ours} - {change.path.rpartition(b"/")[0] for change in left}
        return [change for change in left if not (change.only_time and change.path in touched)]

    def _mount_points(self) -> list[bytes]:
        try:
            with open(f"{self.path}/config.json") as file:
                mounts = json.load(file).get("mounts") or []
            return [os.fsencode(clean(str(mount["destination"]))) for mount in mounts]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return []

    # The layer

    def write(self, changes: list[Change], writer: TarWriter, ownership: Ownership,
              warn: Callable[[str], None]) -> None:
        """The changes as a layer: whiteouts before their siblings, parents before children (layer.md)."""
        root = os.open(self.root, O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for change in sorted(changes, key=_order):
                head, _, name = change.path.rpartition(b"/")
                if change.kind == DELETED:
                    prefix = head + b"/" if head else b""
                    writer.header(prefix + WHITEOUT + name, REGULAR, mode=0o600)
                    continue
                shown = os.fsdecode(change.path)
                if name.startswith(WHITEOUT):
                    warn(f"/{shown} left out: a layer can't hold a name that begins with .wh.")
                    continue
                parent = openat2(root, os.fsdecode(head) or ".", _DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
                try:
                    info = os.stat(name, dir_fd=parent, follow_symlinks=False)
                    if _is_whiteout(info):  # of a copy, where it hides nothing
                        warn(f"/{shown} left out: the device 0:0, which a layer can't hold")
                        continue
                    if not writer.file(change.path, parent, name, info, ownership):
                        warn(f"/{shown} left out: a socket")
                finally:
                    os.close(parent)
        finally:
            os.close(root)


def _order(change: Change) -> list[tuple[int, bytes]]:
    parts = change.path.split(b"/")
    return [*((1, part) for part in parts[:-1]), (0 if change.kind == DELETED else 1, parts[-1])]


def _same(first: os.stat_result, second: os.stat_result, *, time: bool = True) -> bool:
    """Whether two directories are alike."""
    return (first.st_mode, first.st_uid, first.st_gid) == (second.st_mode, second.st_uid, second.st_gid) and \
        stat.S_ISDIR(first.st_mode) and (not time or first.st_mtime_ns == second.st_mtime_ns)


def _is_directory(root: str, path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(f"{root}/{path}").st_mode)
    except OSError:
        return False
