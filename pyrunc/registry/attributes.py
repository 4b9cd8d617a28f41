# SPDX-License-Identifier: Apache-2.0
"""What an entry of a layer says of a file beside its contents: owner, mode, xattrs, time."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pyrunc.linux.fs import O_PATH

from .tarstream import SYMLINK

if TYPE_CHECKING:
    from .idmap import Ownership
    from .tarstream import Entry

OPAQUE_XATTR = "trusted.overlay.opaque"
#: overlayfs would obey these: a layer could show files of other layers, or of the host (redirect, metacopy).
_FOREIGN = (b"trusted.overlay.", b"user.overlay.")
_NOT_HERE = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EINVAL)


def apply(fd: int, entry: Entry, ownership: Ownership, *, late: bool = False) -> None:
    """Owner, then xattrs (a change of owner drops security.capability), then the mode (and setuid).

    With `late` the mode has to wait: a directory that may not be written to, or hands its group on.
    """
    if not ownership.squash:
        os.fchown(fd, *ownership.to_host(entry.uid, entry.gid))
    for key, value in entry.xattrs.items():
        _set_xattr(fd, key, value)
    if not late:
        os.fchmod(fd, entry.mode)


def apply_at(parent: int, name: bytes, entry: Entry, ownership: Ownership) -> None:
    """The same for what must not be opened: links, devices, fifos."""
    fd = os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        itself = f"/proc/self/fd/{fd}"
        if not ownership.squash:
            os.chown(name, *ownership.to_host(entry.uid, entry.gid), dir_fd=parent, follow_symlinks=False)
        for key, value in entry.xattrs.items():
            _set_xattr(itself, key, value)
        if entry.type != SYMLINK:
            os.chmod(itself, entry.mode)
    finally:
        os.close(fd)
    os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)


def clear_xattrs(fd: int) -> None:
    """The entry's attributes take the place of those that were there (layer.md, Changeset over existing files)."""
    for key in os.listxattr(fd):
        if key != OPAQUE_XATTR and not key.startswith(("security.selinux", "system.")):
            try:
                os.removexattr(fd, key)
            except OSError:
                pass


def _set_xattr(target: int | str, key: bytes, value: bytes) -> None:
    if key.startswith(_FOREIGN) or not key or b"\0" in key:
        return
    try:
        os.setxattr(target, key, value)
    except OSError as error:
        # What this file system or this user can't keep; the rest of the image is worth having.
        if error.errno not in _NOT_HERE:
            raise
