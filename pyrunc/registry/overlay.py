# SPDX-License-Identifier: Apache-2.0
"""overlayfs: many lower directories seen as one, with or without a place for changes on top."""

from __future__ import annotations

import errno
import os

from pyrunc.errors import kernel_error
from pyrunc.linux import mount as k
from pyrunc.linux.fs import O_PATH

_MAX_OPTION = 255  # bytes, fsconfig(2)
_DIRECTORY = O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# Image layers must not be able to point out of themselves, whatever xattrs they carry.
_OPTIONS = ("redirect_dir=nofollow", "metacopy=off", "index=off")


def mount(target: str, lower: list[str], upper: str = "", work: str = "") -> None:
    """Mount `lower` (topmost first) on `target`; without `upper` read-only.  Raises KernelError."""
    if len(lower) == 1 and not upper:
        _bind_read_only(lower[0], target)
        return
    try:
        fd = _new_api(lower, upper, work)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise kernel_error(f"mount the layers on {target}", error) from None
        _old_api(target, lower, upper, work)
        return
    place = os.open(target, _DIRECTORY)
    try:
        k.move_mount(fd, place)
    except OSError as error:
        raise kernel_error(f"mount the layers on {target}", error) from None
    finally:
        os.close(place)
        os.close(fd)


def _new_api(lower: list[str], upper: str, work: str) -> int:
    """By fsopen(2), a layer at a time (`lowerdir+`, Linux 6.7): no limit on the length of all together."""
    if any(len(path.encode()) > _MAX_OPTION for path in (*lower, upper, work)):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    fs = k.fsopen("overlay")
    try:
        k.fsconfig_string(fs, "source", "pyrunc")
        for path in lower:
            k.fsconfig_string(fs, "lowerdir+", path)
        if upper:
            k.fsconfig_string(fs, "upperdir", upper)
            k.fsconfig_string(fs, "workdir", work)
        for option in _OPTIONS:
            name, _, value = option.partition("=")
            k.fsconfig_string(fs, name, value)
        k.fsconfig_create(fs)
        return k.fsmount(fs, 0 if upper else k.MOUNT_ATTR_RDONLY)
    finally:
        os.close(fs)


def _old_api(target: str, lower: list[str], upper: str, work: str) -> None:
    """By mount(2), whose options have to fit a page: directories are named by descriptors."""
    fds = [os.open(path, _DIRECTORY) for path in lower]
    try:
        options = "lowerdir=" + ":".join(f"/proc/self/fd/{fd}" for fd in fds)
        if upper:
            options += f",upperdir={_quoted(upper)},workdir={_quoted(work)}"
        k.mount("pyrunc", target, "overlay", 0 if upper else k.MS_RDONLY, ",".join((options, *_OPTIONS)))
    except OSError as error:
        raise kernel_error(f"mount the layers on {target}", error) from None
    finally:
        for fd in fds:
            os.close(fd)


def _quoted(path: str) -> str:
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def _bind_read_only(source: str, target: str) -> None:
    place = os.open(target, _DIRECTORY)
    try:
        tree = k.open_tree(-100, source)
        try:
            k.mount_setattr(tree, set_=k.MOUNT_ATTR_RDONLY)
            k.move_mount(tree, place)
        finally:
            os.close(tree)
    except OSError as error:
        raise kernel_error(f"mount the layers on {target}", error) from None
    finally:
        os.close(place)


def unmount(target: str) -> bool:
    """Take the mount away; whether there was one.  Raises KernelError, as when it is in use."""
    try:
        k.umount(target)
        return True
    except OSError as error:
        # Who may not unmount isn't told whether there is a mount.
        if error.errno in (errno.EINVAL, errno.ENOENT) or (error.errno == errno.EPERM and not os.path.ismount(target)):
            return False
        hint = "something in it is still in use" if error.errno == errno.EBUSY else ""
        raise kernel_error(f"unmount {target}", error, hint=hint) from None


def usable() -> bool:
    """Whether this process may mount overlayfs."""
    if os.geteuid() != 0:
        return False
    try:
        fd = k.fsopen("overlay")
    except OSError:
        return False
    os.close(fd)
    return True
