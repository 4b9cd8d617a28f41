# SPDX-License-Identifier: Apache-2.0
"""The container's root as containerd's snapshotter describes it: a list of mounts, made at BUNDLE/rootfs."""

from __future__ import annotations

import errno
import os

from pyrunc import mountopts, paths
from pyrunc.errors import KernelError, kernel_error
from pyrunc.linux import mount as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .messages import Mount

_MODE = 0o711
_PAGE = 4096  # what mount(2) takes of data
LAYERS = "layers"  # in the bundle: where layers of an image are mounted while the root is (idmapped.py)
_LAYERS = ("lowerdir", "upperdir", "workdir")


def mount(bundle: str, mounts: Iterable[Mount]) -> None:
    """Make the mounts, in order; all of them or, after an error, none.  Changes directory: for a worker.

    Raises KernelError.
    """
    root = f"{bundle}/rootfs"
    mounts = list(mounts)
    if not mounts:
        return
    try:
        os.mkdir(root, _MODE)
    except FileExistsError:
        pass
    try:
        for entry in mounts:
            if any(option.startswith("uidmap=") for option in entry.options):
                _mount_mapped(bundle, entry)
            else:
                _mount(root, entry)
    except BaseException:
        unmount(bundle)
        raise


def _mount(root: str, entry: Mount) -> None:
    words = list(entry.options)
    loops = "loop" in words
    if loops:  # mount(8) has it so, and containerd's snapshotter of images of file systems
        words = [word for word in words if word not in ("loop", "direct-io")]
    options = mountopts.parse(words, "")
    what = f"mount {entry.type} {entry.source} on {root}/{entry.target}".rstrip("/")
    data = options.data_string() or ""
    target = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if paths.clean(entry.target):
            below = paths.make_directory(target, entry.target)
            os.close(target)
            target = below
        place = f"/proc/self/fd/{target}"
        flags = options.old_flags()
        if options.bind:
            k.mount(entry.source, place, None, k.MS_BIND | (k.MS_REC if options.recursive else 0))
            if flags:  # which the kernel passes over in the first call (mount(2))
                made = open_inside(root, entry.target)
                try:
                    k.mount_setattr(made, set_=options.set, clear=options.clear)
                finally:
                    os.close(made)
        elif loops:
            from pyrunc.linux import loopdevice

            device, path = loopdevice.attach(entry.source, read_only=options.read_only,
                                             direct="direct-io" in entry.options)
            try:
                k.mount(path, place, entry.type, flags, data or None)
            finally:
                os.close(device)
        else:
            if len(data) >= _PAGE:
                data = _shorten(data)
            k.mount(entry.source, place, entry.type, flags, data or None)
    except OSError as error:
        raise kernel_error(what, error) from None
    finally:
        os.close(target)


def open_inside(root: str, target: str) -> int:
    """What is mounted there by now, where no link of the image's leads out of the root; an O_PATH descriptor.

    Raises OSError.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if not paths.clean(target):
        return top
    try:
        return paths.open_in_root(top, target)
    finally:
        os.close(top)


def _mount_mapped(bundle: str, entry: Mount) -> None:
    """One whose files have other owners than on disk."""
    from . import idmapped
    from .messages import Mount

    root = f"{bundle}/rootfs"
    options, mappings = idmapped.split(entry.options)
    plain = Mount(type=entry.type, source=entry.source, target=entry.target, options=options)
    if not mappings:
        _mount(root, plain)
        return
    try:
        if entry.type != "overlay":
            _mount(root, plain)
            made = open_inside(root, entry.target)
            try:
                place = f"/proc/self/fd/{made}"
                idmapped.remap(place, place, mappings, name=f"{root}/{entry.target}")
            finally:
                os.close(made)
            return
        layers = idmapped.Layers(bundle, options, mappings)
        try:
            plain.options = layers.options
            _mount(root, plain)
        finally:
            layers.close()
    except OSError as error:
        raise kernel_error(f"map the ids of {entry.type} on {root}", error) from None


def _shorten(data: str) -> str:
    """Overlay's options with relative paths, from the directory that they have in common: become that directory's."""
    pairs = [item.partition("=") for item in data.split(",")]
    directories = [path for name, _, value in pairs if name in _LAYERS for path in value.split(":")]
    if not directories or any(not path.startswith("/") or "\\" in path for path in directories):
        return data
    common = os.path.commonpath(directories)
    os.chdir(common)
    return ",".join(f"{name}{equals}" + (":".join(os.path.relpath(path, common) for path in value.split(":"))
                                         if name in _LAYERS else value) for name, equals, value in pairs)


def unmount(bundle: str) -> None:
    """Take away all that is mounted at BUNDLE/rootfs; nothing there is fine.  Raises KernelError."""
    for place in (f"{bundle}/rootfs", f"{bundle}/{LAYERS}"):
        while True:
            try:
                k.umount(place, k.MNT_DETACH | k.UMOUNT_NOFOLLOW)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOENT):
                    break
                raise _failure(place, error) from None


def _failure(root: str, error: OSError) -> KernelError:
    return kernel_error(f"unmount {root}", error)
