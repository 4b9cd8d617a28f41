# SPDX-License-Identifier: Apache-2.0
"""A layer's entries onto a file system, below one directory and nowhere else.

Two ways: `merge` applies a layer to the tree of those below it, removing what whiteouts name; `overlay`
writes it into a directory of its own, for overlayfs, with whiteouts as overlayfs has them.

Every entry is made in its parent's descriptor.  A parent is walked to component by component; a
link in the way is followed only if this layer made it, and then by the kernel within the root
(openat2, RESOLVE_IN_ROOT); one of a lower layer gives way to a directory, as in docker and podman.
Nothing is opened, changed or followed through a link, and nothing that exists is written to.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, final

from pyrunc.errors import ImageError
from pyrunc.linux.fs import (
    O_PATH,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)

from . import attributes
from .tarstream import CHARACTER, DEVICE, DIRECTORY, FIFO, LINK, REGULAR, SYMLINK
from .trees import open_own, remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from .idmap import Ownership
    from .tarstream import Entry, TarReader

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."  # its own bookkeeping, which docker wrote into layers once
_AUFS_LINKED = b".wh..wh.plnk"  # and what files with several names are linked to
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 512
_CACHED = 32  # directories kept open
_IMPLIED_MODE = 0o755


@final
class Extractor:
    """Extracts layers below `root` (a descriptor of a directory)."""

    def __init__(self, root: int, ownership: Ownership, what: str, *, overlay: bool = False,
                 warn: Callable[[str], None] = lambda text: None) -> None:
        self.root = root
        self.ownership = ownership
        self.what = what
        self.overlay = overlay
        self.warn = warn
        self._open: dict[bytes, int] = {}
        self._stale: list[int] = []  # closed with the next entry: this one may still use them
        #: What this layer has made (merge only): whiteouts don't reach it.
        self._made: set[bytes] = set()
        #: Ancestors of what it has made.
        self._holding: set[bytes] = set()
        #: Directories whose times and mode are set when all is in them: path -> (access, modification, mode or -1).
        self._late: dict[bytes, tuple[int, int, int]] = {}
        #: Overlay only: what whiteouts name.
        self.whited: set[bytes] = set()
        self._linked = False  # there is AUFS's directory of files with several names
        #: Overlay only: directories no entry describes, and links to files of lower layers.
        self.implied: list[bytes] = []
        self.links: list[tuple[bytes, bytes]] = []
        self.has_root = False
        self.root_time = 0
        self.opaque_root = False
        self.left_out = 0

    def close(self) -> None:
        self._set_aside()
        self._close_stale()

    def _set_aside(self) -> None:
        self._stale += self._open.values()
        self._open.clear()

    def _close_stale(self) -> None:
        while self._stale:
            os.close(self._stale.pop())

    # The whole layer

    def extract(self, reader: TarReader) -> None:
        """All entries, and then the times and modes of directories."""
        if not self.overlay:
            self._keep_times(self.root, b"", stat.S_IMODE(os.fstat(self.root).st_mode))
        try:
            for entry in reader:
                self._close_stale()
                try:
                    self._entry(entry, reader)
                except OSError as error:
                    # ENOSPC is the host's, all else is what the archive asks for.
                    raise ImageError(f"{self.what}: {_shown(entry.name)}: {os.strerror(error.errno or 0)}",
                                     hint="there is no space left" if error.errno == errno.ENOSPC else "") from None
            if self._linked:
                self._remove(self.root, _AUFS_LINKED, _AUFS_LINKED)
            self._finish_directories()
        finally:
            self.close()
            self._made.clear()
            self._holding.clear()
        if self.left_out:
            self.warn(f"{self.what}: {self.left_out} devices left out: only root makes them")

    def _finish_directories(self) -> None:
        for path in sorted(self._late, reverse=True):  # children before their parents
            accessed, modified, mode = self._late[path]
            try:
                fd = openat2(self.root, os.fsdecode(path) or ".", _DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
            except OSError:
                continue  # replaced by a later entry
            try:
                if mode >= 0:
                    os.fchmod(fd, mode)
                os.utime(fd, ns=(accessed, modified))
            finally:
                os.close(fd)
        self._late.clear()

    def _entry(self, entry: Entry, reader: TarReader) -> None:
        parts = self._split(entry.name)
        if not parts:
            self._root_entry(entry)
            return
        path = b"/".join(parts)
        name = parts[-1]
        if parts[0].startswith(_AUFS) and path != OPAQUE:
            if parts[0] != _AUFS_LINKED or entry.type != REGULAR or len(parts) != 2:
                return
            self._linked = True
        elif name.startswith(WHITEOUT):
            self._whiteout(parts[:-1], name)
            return
        parent = self._directory(parts[:-1])
        if entry.type == DIRECTORY:
            self._make_directory(parent, name, path, entry)
        elif entry.type == LINK:
            self._make_link(parent, name, path, entry)
        else:
            self._remove(parent, name, path)
            if entry.type == REGULAR:
                self._make_file(parent, name, entry, reader)
            elif entry.type == SYMLINK:
                if not entry.link:
                    raise self._bad(entry, "a symbolic link to nothing")
                os.symlink(entry.link, name, dir_fd=parent)
                attributes.apply_at(parent, name, entry, self.ownership)
            elif not self._make_special(parent, name, entry):
                self.left_out += 1
                return
        self._note(path)

    def _note(self, path: bytes) -> None:
        if self.overlay:
            return
        self._made.add(path)
        while path:
            path = path.rpartition(b"/")[0]
            if path in self._holding:
                return
            self._holding.add(path)

    def _split(self, name: bytes, what: str = "its name") -> list[bytes]:
        """The components of a name in the archive, relative to the root whatever it begins with."""
        parts = [part for part in name.split(b"/") if part and part != b"."]
        if b".." in parts:
            raise ImageError(f"{self.what}: {_shown(name)}: {what} leads out of its directory (..)")
        if len(parts) > _MAX_DEPTH:
            raise ImageError(f"{self.what}: {_shown(name)}: nested deeper than {_MAX_DEPTH} directories")
        return parts

    def _bad(self, entry: Entry, why: str) -> ImageError:
        return ImageError(f"{self.what}: {_shown(entry.name)}: {why}")

    # Where an entry goes

    def _directory(self, parts: list[bytes]) -> int:
        """A descriptor of the directory, made where it is missing; it stays ours."""
        if not parts:
            return self.root
        path = b"/".join(parts)
        fd = self._open.get(path)
        if fd is not None:
            return fd
        current = self.root
        for length in range(1, len(parts) + 1):
            prefix = b"/".join(parts[:length])
            following = self._open.get(prefix)
            if following is None:
                following = self._step(current, parts[length - 1], prefix)
                if len(self._open) >= _CACHED:
                    self._forget_one()
                self._open[prefix] = following
            current = following
        return current

    def _forget_one(self) -> None:
        self._stale.append(self._open.pop(next(iter(self._open))))

    def _step(self, parent: int, name: bytes, path: bytes) -> int:
        """The directory `name` in `parent`: there, made here, or where a link of this layer leads."""
        if name.startswith(WHITEOUT) and path != _AUFS_LINKED:
            raise ImageError(f"{self.what}: {_shown(path)}: a whiteout with something in it")
        for _ in range(8):
            try:
                mode = stat.S_IMODE(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode) \
                    if self.ownership.squash else 0
                fd = self._open_directory(parent, name)
            except FileNotFoundError:
                os.mkdir(name, _IMPLIED_MODE, dir_fd=parent)
                self._imply(parent, name, path)
                continue
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                if path in self.whited and self._is_whiteout(parent, name):
                    os.unlink(name, dir_fd=parent)
                    continue
                if self.overlay or path in self._made:
                    return self._follow(path)
                self._remove(parent, name, path)
                continue
            if not self.overlay and path not in self._made:
                self._keep_times(fd, path, mode)
            return fd
        raise ImageError(f"{self.what}: {_shown(path)}: it keeps changing while it is being unpacked")

    def _open_directory(self, parent: int, name: bytes) -> int:
        """With `squash` one that shuts out its owner too, who has all rights to it from then on."""
        return open_own(parent, name) if self.ownership.squash else os.open(name, _DIRECTORY, dir_fd=parent)

    def _keep_times(self, fd: int, path: bytes, mode: int) -> None:
        """What is put into it must not change a lower layer's directory; an ordinary user may need rights for it."""
        if path not in self._late:
            info = os.fstat(fd)
            shut = self.ownership.squash and mode & 0o700 != 0o700
            if shut:
                os.fchmod(fd, mode | 0o700)
            self._late[path] = (info.st_atime_ns, info.st_mtime_ns, mode if shut else -1)

    @staticmethod
    def _is_whiteout(parent: int, name: bytes) -> bool:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0

    def _follow(self, path: bytes) -> int:
        try:
            return openat2(self.root, os.fsdecode(path), os.O_RDONLY | os.O_DIRECTORY,
                           RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            raise ImageError(f"{self.what}: {_shown(path)}: it is no directory, but something is to be put into it "
                             f"({os.strerror(error.errno or 0).lower()})") from None

    def _imply(self, parent: int, name: bytes, path: bytes) -> None:
        """A directory made because something lies in it: root's, until an entry or a lower layer says otherwise."""
        if not self.ownership.squash:
            os.chown(name, *self.ownership.to_host(0, 0), dir_fd=parent, follow_symlinks=False)
        self._late[path] = (0, 0, _IMPLIED_MODE)
        if self.overlay:
            if path in self.whited:
                self._make_opaque(parent, name)
            else:
                self.implied.append(path)
        self._note(path)

    def _remove(self, parent: int, name: bytes, path: bytes) -> None:
        """Whatever is there, with all that is in it."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            self._forget(path)
            remove_tree(parent, name)
        if not self.overlay:
            self._made.discard(path)

    def _forget(self, path: bytes) -> None:
        """The directory at `path` is going: nothing may be put into it any more."""
        # A link of this layer may have led into it by another name: all are looked up again.
        self._set_aside()
        below = path + b"/"
        for known in [known for known in self._late if known == path or known.startswith(below)]:
            del self._late[known]
        self.implied = [known for known in self.implied if known != path and not known.startswith(below)]
        self.links = [link for link in self.links if not link[0].startswith(below)]
        if not self.overlay:
            self._made = {known for known in self._made if known != path and not known.startswith(below)}

    # Kinds of entries

    def _root_entry(self, entry: Entry) -> None:
        # CVE-2021-29136: the root itself replaced by a link.
        if entry.type != DIRECTORY:
            raise self._bad(entry, "the root of the layer is not a directory")
        attributes.apply(self.root, entry, self.ownership, late=True)
        self._late[b""] = (entry.mtime, entry.mtime, entry.mode)
        self.has_root = True
        self.root_time = entry.mtime

    def _make_directory(self, parent: int, name: bytes, path: bytes, entry: Entry) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o700, dir_fd=parent)
            elif self.overlay and path in self.implied:
                self.implied.remove(path)
        fd = self._open.get(path)
        mine = fd is None
        if fd is None:
            fd = self._open_directory(parent, name)
        try:
            if self.ownership.squash:
                os.fchmod(fd, 0o700)  # until all is in it
            attributes.clear_xattrs(fd)
            attributes.apply(fd, entry, self.ownership, late=True)
            if self.overlay and path in self.whited:
                os.setxattr(fd, attributes.OPAQUE_XATTR, b"y")
        finally:
            if mine:
                os.close(fd)
        self._late[path] = (entry.mtime, entry.mtime, entry.mode)

    def _make_link(self, parent: int, name: bytes, path: bytes, entry: Entry) -> None:
        parts = self._split(entry.link, "what it is linked to")
        if not parts:
            raise self._bad(entry, "a hard link to the root")
        target = b"/".join(parts)
        if target == path:
            return
        try:
            source = self._existing(parts[:-1])
        except OSError:
            source = -1
        try:
            if source >= 0:
                info = os.stat(parts[-1], dir_fd=source, follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    raise self._bad(entry, f"a hard link to a directory, {_shown(target)}")
                if self.overlay and self._is_whiteout(source, parts[-1]):
                    raise self._bad(entry, f"a hard link to {_shown(target)}, which isn't there")
                self._remove(parent, name, path)
                os.link(parts[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
                return
        except FileNotFoundError:
            pass
        finally:
            if source >= 0 and source != self.root:
                os.close(source)
        if not self.overlay:
            raise self._bad(entry, f"a hard link to {_shown(target)}, which isn't there")
        self._remove(parent, name, path)
        self.links.append((path, target))

    def _existing(self, parts: list[bytes]) -> int:
        """A descriptor, the caller's unless it is the root, of a directory that has to be there."""
        if not parts:
            return self.root
        path = b"/".join(parts)
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
        return openat2(self.root, os.fsdecode(path), O_PATH | os.O_DIRECTORY, resolve)

    def _make_file(self, parent: int, name: bytes, entry: Entry, reader: TarReader) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            if entry.sparse is None:
                for piece in reader.data():
                    _write_all(fd, piece)
            else:
                self._write_sparse(fd, entry, reader)
            attributes.apply(fd, entry, self.ownership)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    @staticmethod
    def _write_sparse(fd: int, entry: Entry, reader: TarReader) -> None:
        os.ftruncate(fd, entry.size)
        pieces = reader.data()
        rest = memoryview(b"")
        for offset, length in entry.sparse or ():
            os.lseek(fd, offset, os.SEEK_SET)
            while length:
                if not rest:
                    rest = next(pieces)
                _write_all(fd, rest[:length])
                taken = min(length, len(rest))
                length -= taken
                rest = rest[taken:]

    def _make_special(self, parent: int, name: bytes, entry: Entry) -> bool:
        """A device or a fifo; False where only root could make it."""
        if entry.type == FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        else:
            if entry.type == CHARACTER and entry.major == entry.minor == 0:
                raise self._bad(entry, "the device 0:0, which is a whiteout of overlayfs")
            kind = {CHARACTER: stat.S_IFCHR, DEVICE: stat.S_IFBLK}[entry.type]
            try:
                os.mknod(name, 0o600 | kind, os.makedev(entry.major, entry.minor), dir_fd=parent)
            except PermissionError:
                return False
        attributes.apply_at(parent, name, entry, self.ownership)
        return True

    # Whiteouts

    def _whiteout(self, parts: list[bytes], name: bytes) -> None:
        hidden = name[len(WHITEOUT):]
        if name == OPAQUE:
            self._opaque(parts)
            return
        if name.startswith(_AUFS):
            return
        if hidden in (b"", b".", b".."):
            raise ImageError(f"{self.what}: {_shown(b'/'.join((*parts, name)))}: a whiteout of nothing")
        path = b"/".join((*parts, hidden))
        parent = self._directory(parts)
        if not self.overlay:
            self._remove_unmade(parent, hidden, path)
            return
        self.whited.add(path)
        try:
            info = os.stat(hidden, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
            return
        if stat.S_ISDIR(info.st_mode):  # of this layer: it stays, without what lies below it
            self._make_opaque(parent, hidden)

    def _opaque(self, parts: list[bytes]) -> None:
        parent = self._directory(parts)
        if self.overlay:
            if parts:
                os.setxattr(parent, attributes.OPAQUE_XATTR, b"y")
            else:
                self.opaque_root = True  # overlayfs doesn't look for it there
            return
        prefix = b"/".join(parts)
        for child in os.listdir(parent):
            name = os.fsencode(child)
            self._remove_unmade(parent, name, prefix + b"/" + name if prefix else name)

    def _remove_unmade(self, parent: int, name: bytes, path: bytes) -> None:
        """Remove what lower layers have at `path`, and keep what this one has made."""
        below = path + b"/"
        if path not in self._made and path not in self._holding:
            self._remove(parent, name, path)
            return
        try:
            fd = self._open_directory(parent, name)
        except OSError:
            return
        try:
            for child in os.listdir(fd):
                inner = os.fsencode(child)
                self._remove_unmade(fd, inner, below + inner)
        finally:
            os.close(fd)

    @staticmethod
    def _make_opaque(parent: int, name: bytes) -> None:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            os.setxattr(fd, attributes.OPAQUE_XATTR, b"y")
        finally:
            os.close(fd)

    def hide(self, name: bytes) -> None:
        """Overlay only: what lower layers have as `name` in the root is hidden; what this one has stays."""
        self._whiteout([], WHITEOUT + name)
        self.close()


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data):]


def _shown(name: bytes) -> str:
    return name[:200].decode("utf-8", "backslashreplace") or "/"
