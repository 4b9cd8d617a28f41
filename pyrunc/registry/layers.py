# SPDX-License-Identifier: Apache-2.0
"""Unpacked layers, each kept once and shared by all that is made of it.

    STORE/layers/CHAIN/layer.json    what it is; written last, so what has one is whole
    STORE/layers/CHAIN/diff/         the layer as overlayfs wants it: its own files, whiteouts, opaque directories
    STORE/layers/new-CHAIN/          being unpacked, by whoever holds the flock on it

CHAIN is the hexadecimal part of the layer's chain id: what a layer holds depends on those below it
where it says nothing of a directory's attributes, or links to a file of theirs.

Files of a layer are not synced one by one, since they can be made again.  Until the disk has them
layer.json names the boot they were written in; after a crash of the machine they are unpacked anew.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, final

from pyrunc.errors import ImageError
from pyrunc.linux.fs import O_PATH, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2, syncfs

from . import trees
from .attributes import OPAQUE_XATTR
from .store import wait_for_lock

if TYPE_CHECKING:
    from .extract import Extractor
    from .store import Store

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WAIT = 3600.0  # seconds for another process to have unpacked the same layer
_WRITTEN_BACK = 90.0  # seconds after which the kernel has written most of it, and a sync is cheap


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


@final
class Layers:
    """The unpacked layers of a store."""

    def __init__(self, store: Store) -> None:
        self.path = store.layers

    def directory(self, chain_id: str) -> str:
        return f"{self.path}/{chain_id.partition(':')[2]}"

    def diff(self, chain_id: str) -> str:
        return f"{self.directory(chain_id)}/diff"

    def ready(self, chain_id: str) -> bool:
        """Whether the layer is there and whole; one that a crash may have damaged is removed."""
        name = f"{self.directory(chain_id)}/layer.json"
        try:
            with open(name) as file:
                value = json.loads(file.read(65536))
        except FileNotFoundError:
            return False
        except ValueError:
            value = {"boot": "damaged"}
        if not value.get("boot"):
            return True
        if value["boot"] != _boot():
            trees.remove(self.directory(chain_id))
            return False
        if time.time() - float(value.get("time", 0)) > _WRITTEN_BACK:
            self.sync([chain_id])
        return True

    def sync(self, chain_ids: list[str]) -> None:
        """Make them survive a crash of the machine."""
        fd = os.open(self.path, _DIRECTORY)
        try:
            syncfs(fd)
        finally:
            os.close(fd)
        for chain_id in chain_ids:
            self._describe(self.directory(chain_id), chain_id, "")

    @staticmethod
    def _describe(directory: str, chain_id: str, boot: str) -> None:
        temporary = f"{directory}/layer.json.new"
        with open(temporary, "w") as file:
            json.dump({"chain_id": chain_id, "boot": boot, "time": int(time.time())}, file)
            file.flush()
            if not boot:
                os.fsync(file.fileno())
        os.rename(temporary, f"{directory}/layer.json")

    def begin(self, chain_id: str) -> NewLayer | None:
        """A directory to unpack the layer into; None when it is there by now, another process having made it."""
        path = f"{self.path}/new-{chain_id.partition(':')[2]}"
        while True:
            if self.ready(chain_id):
                return None
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            try:
                fd = os.open(path, _DIRECTORY)
            except FileNotFoundError:
                continue
            try:
                wait_for_lock(fd, fcntl.LOCK_EX, _WAIT, "another pyrunc is unpacking the same layer")
                there = os.stat(path).st_ino == os.fstat(fd).st_ino
            except FileNotFoundError:
                there = False
            except BaseException:
                os.close(fd)
                raise
            if there:
                for child in os.listdir(fd):  # of a process that was killed
                    trees.remove(f"{path}/{child}")
                os.mkdir("diff", 0o755, dir_fd=fd)
                return NewLayer(self, chain_id, path, fd)
            os.close(fd)


@final
class NewLayer:
    """A layer being unpacked; `finish` puts it into its place, `abandon` removes it."""

    def __init__(self, layers: Layers, chain_id: str, path: str, fd: int) -> None:
        self._layers = layers
        self.chain_id = chain_id
        self.path = path
        self._fd = fd
        self.root = os.open("diff", _DIRECTORY, dir_fd=fd)
        self.extractor: Extractor | None = None

    def finish(self, lower: list[str]) -> None:
        """Take from the layers below (their chain ids, base first) what this one leaves to them; then it is whole."""
        extractor = self.extractor
        if extractor is not None and (extractor.implied or extractor.links or extractor.whited or lower):
            below = [os.open(self._layers.diff(chain_id), _DIRECTORY) for chain_id in reversed(lower)]
            try:
                implied = set(extractor.implied)
                for path, target in extractor.links:
                    self._link(path, target, below, extractor.what, implied)
                self._drop_whiteouts(extractor.whited, below)
                if extractor.opaque_root:
                    self._hide_all(extractor, below)
                for path in implied:
                    self._inherit(path, below)
                if extractor.has_root:
                    os.utime(self.root, ns=(extractor.root_time, extractor.root_time))
                elif below:
                    trees.copy_attributes(below[0], self.root)
            finally:
                for fd in below:
                    os.close(fd)
        self._layers._describe(self.path, self.chain_id, _boot())
        os.rename(self.path, self._layers.directory(self.chain_id))
        self._close()

    def restart(self) -> None:
        """Empty, as if nothing had been unpacked."""
        if os.listdir(self.root):
            os.close(self.root)
            trees.remove(f"{self.path}/diff")
            os.mkdir("diff", 0o755, dir_fd=self._fd)
            self.root = os.open("diff", _DIRECTORY, dir_fd=self._fd)

    def abandon(self) -> None:
        """Remove it, unless it is finished."""
        self._close(remove=True)

    def _close(self, remove: bool = False) -> None:
        if self._fd < 0:
            return
        os.close(self.root)
        if remove:
            trees.remove(self.path)
        os.close(self._fd)
        self._fd = -1

    def _drop_whiteouts(self, whited: set[bytes], below: list[int]) -> None:
        """Those in a directory that overlayfs merges with none: it would list them, and nobody could look at them."""
        merged: dict[bytes, bool] = {b"": True}
        for path in whited:
            head, _, name = path.rpartition(b"/")
            if head not in merged:
                found = -1 if _hides(self.root, head.split(b"/")) else _find(head, below, _DIRECTORY)
                merged[head] = found >= 0
                if found >= 0:
                    os.close(found)
            if merged[head]:
                continue
            try:
                parent = self._parent_of(path)
            except OSError:
                continue  # replaced since
            try:
                info, times = os.stat(name, dir_fd=parent, follow_symlinks=False), os.fstat(parent)
                if stat.S_ISCHR(info.st_mode) and not info.st_rdev:
                    os.unlink(name, dir_fd=parent)
                    os.utime(parent, ns=(times.st_atime_ns, times.st_mtime_ns))
            except FileNotFoundError:
                pass
            finally:
                os.close(parent)

    @staticmethod
    def _hide_all(extractor: Extractor, below: list[int]) -> None:
        for layer in below:
            for name in os.listdir(layer):
                extractor.hide(os.fsencode(name))

    def _inherit(self, path: bytes, below: list[int]) -> None:
        """A directory no entry described: its attributes are those it has in the layers below."""
        try:
            own = openat2(self.root, os.fsdecode(path), _DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except OSError:
            return  # replaced since, or made through a link of this layer
        try:
            hidden = _hides(self.root, path.split(b"/")[:-1])
            found = -1 if hidden else _find(path, below, _DIRECTORY)
            if found >= 0:
                trees.copy_attributes(found, own)
                os.close(found)
        finally:
            os.close(own)

    def _link(self, path: bytes, target: bytes, below: list[int], what: str, implied: set[bytes]) -> None:
        """A hard link to a file of a lower layer: copied up, as overlayfs would, and linked."""
        shown = path[:200].decode("utf-8", "backslashreplace")
        parent = self._parent_of(path)
        times = os.fstat(parent)
        try:
            holder = self._copy_up_parents(target, implied)
        except OSError:
            os.close(parent)
            raise ImageError(f"{what}: {shown}: a hard link to what isn't there") from None
        name = target.rpartition(b"/")[2]
        try:
            own = path.rpartition(b"/")[2]
            try:
                info = os.stat(name, dir_fd=holder, follow_symlinks=False)
            except FileNotFoundError:
                self._copy_up(target, name, holder, below, what, shown)
                info = os.stat(name, dir_fd=holder, follow_symlinks=False)
            if stat.S_ISCHR(info.st_mode) and not info.st_rdev:  # the layer takes away the name that it links to
                self._copy_up(target, own, parent, below, what, shown)
            else:
                os.link(name, own, src_dir_fd=holder, dst_dir_fd=parent, follow_symlinks=False)
            os.utime(parent, ns=(times.st_atime_ns, times.st_mtime_ns))
        finally:
            os.close(parent)
            os.close(holder)

    def _parent_of(self, path: bytes) -> int:
        head = path.rpartition(b"/")[0]
        return openat2(self.root, os.fsdecode(head) or ".", _DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)

    def _copy_up_parents(self, path: bytes, implied: set[bytes]) -> int:
        current = os.dup(self.root)
        done = b""
        for part in path.split(b"/")[:-1]:
            done = done + b"/" + part if done else part
            try:
                os.mkdir(part, 0o755, dir_fd=current)
                implied.add(done)
            except FileExistsError:
                pass
            following = os.open(part, _DIRECTORY, dir_fd=current)
            os.close(current)
            current = following
        return current

    def _copy_up(self, path: bytes, name: bytes, holder: int, below: list[int], what: str, shown: str) -> None:
        source = _find(path, below, O_PATH | os.O_NOFOLLOW)
        if source < 0:
            raise ImageError(f"{what}: {shown}: a hard link to what isn't there")
        try:
            info = os.fstat(source)
            if stat.S_ISDIR(info.st_mode):
                raise ImageError(f"{what}: {shown}: a hard link to a directory of a lower layer")
            if stat.S_ISCHR(info.st_mode) and not info.st_rdev:
                raise ImageError(f"{what}: {shown}: a hard link to what isn't there")
            trees.copy_node(source, holder, name)
        finally:
            os.close(source)


def _find(path: bytes, below: list[int], flags: int) -> int:
    """`path` in the topmost of the layers `below` that has it; -1 when it is in none, or hidden."""
    parts = path.split(b"/")
    for layer in below:
        try:
            return openat2(layer, os.fsdecode(path), flags, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                raise
        if _hides(layer, parts):
            return -1
    return -1


def _hides(layer: int, parts: list[bytes]) -> bool:
    """Whether the layer has something at the path, or above it, that covers what lower layers have there."""
    current = os.dup(layer)
    try:
        for part in parts:
            try:
                following = os.open(part, _DIRECTORY, dir_fd=current)
            except FileNotFoundError:
                return _is_opaque(current)
            except OSError:
                return True  # a whiteout, or no directory
            os.close(current)
            current = following
            if _is_opaque(current):
                return True
        return False
    finally:
        os.close(current)


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE_XATTR) == b"y"
    except OSError:
        return False
