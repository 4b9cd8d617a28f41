# SPDX-License-Identifier: Apache-2.0
"""Roots whose files have other owners than on disk: the options uidmap and gidmap of containerd's snapshotters.

containerd 2 gives them for a pod with a user namespace, where it would have to copy an image otherwise.  Of
overlay the lower layers are mapped, before it is mounted; of everything else the mount is.
"""

from __future__ import annotations

import os

from pyrunc import idmap
from pyrunc.errors import UsageError
from pyrunc.linux import mount as k
from pyrunc.linux.fs import AT_FDCWD
from pyrunc.rootfs import open_proc

from .rootfs import LAYERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import IDMapping

_OPTIONS = {"uidmap": "uidMappings", "gidmap": "gidMappings"}


def split(options: list[str]) -> tuple[list[str], dict[str, list[IDMapping]]]:
    """(the other options, the mappings; none unless both are given).  Raises UsageError."""
    rest, found = [], {}
    for option in options:
        name, equals, value = option.partition("=")
        if equals and name in _OPTIONS:
            found[_OPTIONS[name]] = [_mapping(text) for text in value.split(",")]
        else:
            rest.append(option)
    return rest, found if len(found) == len(_OPTIONS) else {}


def _mapping(text: str) -> IDMapping:
    """`0:100000:65536`: on disk, on the host, how many."""
    numbers = text.split(":")
    if len(numbers) != 3 or not all(number.isascii() and number.isdecimal() for number in numbers):
        raise UsageError(f"the ids of a snapshot are mapped by {text!r}, which is not of the form 0:100000:65536")
    return {"containerID": int(numbers[0]), "hostID": int(numbers[1]), "size": int(numbers[2])}


def remap(path: str, target: str, mappings: dict[str, list[IDMapping]], attributes: int = 0, *,
          name: str = "") -> None:
    """Mount what is at `path` on `target`, with its ids mapped; it is called `name`.  Raises PyruncError, OSError."""
    proc = open_proc()
    try:
        namespace = idmap.user_namespace(mappings, "", proc)
    finally:
        os.close(proc)
    try:
        tree = k.open_tree(AT_FDCWD, path)
        try:
            idmap.apply(tree, idmap.IDMap(mappings, "", False), namespace, name or path, name or path, "")
            k.mount_setattr(tree, set_=attributes, propagation=k.MS_PRIVATE)
            place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                k.move_mount(tree, place)
            finally:
                os.close(place)
        finally:
            os.close(tree)
    finally:
        os.close(namespace)


class Layers:
    """The lower layers of an overlay, mapped: `options` name them below the bundle, which is made the directory.

    Overlay has mounts of its own of them once it is mounted, and these go again.
    """

    __slots__ = ("_place", "options")

    def __init__(self, bundle: str, options: list[str], mappings: dict[str, list[IDMapping]]) -> None:
        lower = next((option for option in options if option.startswith("lowerdir=")), "")
        paths = lower.removeprefix("lowerdir=").split(":")
        common = os.path.commonpath(paths) if lower else ""
        if not common.startswith("/") or common == "/" or "\\" in lower:
            raise UsageError(f"the layers of an overlay whose ids are mapped are {lower!r}: nothing common to map")
        self._place = f"{bundle}/{LAYERS}"
        self.options = [option for option in options if option != lower]
        self.options.append("lowerdir=" + ":".join(f"{LAYERS}/{os.path.relpath(path, common)}" for path in paths))
        os.makedirs(self._place, mode=0o700, exist_ok=True)
        try:
            remap(common, self._place, mappings, k.MOUNT_ATTR_RDONLY)
        except BaseException:
            os.rmdir(self._place)
            raise
        os.chdir(bundle)

    def close(self) -> None:
        k.umount(self._place, k.MNT_DETACH | k.UMOUNT_NOFOLLOW)
        os.rmdir(self._place)
