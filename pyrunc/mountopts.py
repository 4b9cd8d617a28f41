# SPDX-License-Identifier: Apache-2.0
"""The options of a mount (config.md, Linux mount options), parsed into what the kernel takes.

Each option is a bit of the mount (MOUNT_ATTR_*), a bit of the superblock (handed to fsconfig by
name), a propagation, a way of mounting, or, when nobody knows it, data for the file system.
"""

from __future__ import annotations

from .errors import ConfigError
from .linux import mount as k

# option -> (attributes to set, attributes to clear); the r-form works on the whole tree.
_ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (k.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, k.MOUNT_ATTR_RDONLY),
    "nosuid": (k.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, k.MOUNT_ATTR_NOSUID),
    "nodev": (k.MOUNT_ATTR_NODEV, 0),
    "dev": (0, k.MOUNT_ATTR_NODEV),
    "noexec": (k.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, k.MOUNT_ATTR_NOEXEC),
    "nodiratime": (k.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, k.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (k.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, k.MOUNT_ATTR_NOSYMFOLLOW),
    # The access-time modes are one field of the attributes: clear all of it, set one value.
    "noatime": (k.MOUNT_ATTR_NOATIME, k.MOUNT_ATTR__ATIME),
    "relatime": (k.MOUNT_ATTR_RELATIME, k.MOUNT_ATTR__ATIME),
    "strictatime": (k.MOUNT_ATTR_STRICTATIME, k.MOUNT_ATTR__ATIME),
    "atime": (k.MOUNT_ATTR_RELATIME, k.MOUNT_ATTR__ATIME),
    "norelatime": (0, 0),  # relatime is the kernel's default: mount(8) changes nothing either
    "nostrictatime": (k.MOUNT_ATTR_RELATIME, k.MOUNT_ATTR__ATIME),
}
_RECURSIVE = {"r" + name: value for name, value in _ATTRIBUTES.items()}

# option -> the fsconfig flag that it is, "" where the default is asked for, and its MS_* bit for mount(2).
_SUPERBLOCK: dict[str, tuple[str, int]] = {
    "sync": ("sync", k.MS_SYNCHRONOUS),
    "async": ("async", 0),
    "dirsync": ("dirsync", k.MS_DIRSYNC),
    "lazytime": ("lazytime", k.MS_LAZYTIME),
    "nolazytime": ("nolazytime", 0),
    "mand": ("mand", k.MS_MANDLOCK),
    "nomand": ("nomand", 0),
    "iversion": ("iversion", k.MS_I_VERSION),
    "noiversion": ("", 0),
    "silent": ("silent", k.MS_SILENT),
    "loud": ("", 0),
    "defaults": ("", 0),
}

PROPAGATION: dict[str, tuple[int, bool]] = {
    "private": (k.MS_PRIVATE, False),
    "shared": (k.MS_SHARED, False),
    "slave": (k.MS_SLAVE, False),
    "unbindable": (k.MS_UNBINDABLE, False),
    "rprivate": (k.MS_PRIVATE, True),
    "rshared": (k.MS_SHARED, True),
    "rslave": (k.MS_SLAVE, True),
    "runbindable": (k.MS_UNBINDABLE, True),
}

_WAYS = ("bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap")

KNOWN_OPTIONS: tuple[str, ...] = tuple(sorted({*_ATTRIBUTES, *_RECURSIVE, *_SUPERBLOCK, *PROPAGATION, *_WAYS}))

_OLD_FLAGS = (
    (k.MOUNT_ATTR_RDONLY, k.MS_RDONLY),
    (k.MOUNT_ATTR_NOSUID, k.MS_NOSUID),
    (k.MOUNT_ATTR_NODEV, k.MS_NODEV),
    (k.MOUNT_ATTR_NOEXEC, k.MS_NOEXEC),
    (k.MOUNT_ATTR_NODIRATIME, k.MS_NODIRATIME),
    (k.MOUNT_ATTR_NOSYMFOLLOW, k.MS_NOSYMFOLLOW),
)


class MountOptions:
    """A mount's options: attributes to set and clear, superblock flags, propagation, data."""

    __slots__ = (
        "bind", "clear", "data", "idmap", "idmap_text", "names", "propagation", "recursive", "recursive_clear",
        "recursive_set", "remount", "set", "superblock", "superblock_flags", "tmpcopyup",
    )

    def __init__(self) -> None:
        self.set = 0
        self.clear = 0
        self.recursive_set = 0
        self.recursive_clear = 0
        self.superblock: list[str] = []
        self.superblock_flags = 0
        self.propagation: list[tuple[int, bool]] = []
        self.bind = False
        self.recursive = False
        self.remount = False
        self.tmpcopyup = False
        self.idmap = ""  # "", "idmap" or "ridmap"
        self.idmap_text = ""  # what follows it and =, as crun has it
        self.data: list[tuple[str, str | None]] = []
        self.names: list[str] = []

    @property
    def read_only(self) -> bool:
        return bool(self.set & k.MOUNT_ATTR_RDONLY)

    def old_flags(self) -> int:
        """The MS_* flags mount(2) takes for these attributes."""
        flags = self.superblock_flags
        for attribute, flag in _OLD_FLAGS:
            if self.set & attribute:
                flags |= flag
        atime = self.set & k.MOUNT_ATTR__ATIME
        if self.clear & k.MOUNT_ATTR__ATIME:
            if atime == k.MOUNT_ATTR_NOATIME:
                flags |= k.MS_NOATIME
            elif atime == k.MOUNT_ATTR_STRICTATIME:
                flags |= k.MS_STRICTATIME
            else:
                flags |= k.MS_RELATIME
        return flags

    def data_string(self) -> str | None:
        """The file system's own options, joined as mount(2) takes them."""
        return ",".join(map(_joined, self.data)) or None

    def data_value(self, key: str) -> str | None:
        """The last value given for the file system's option `key`."""
        for name, value in reversed(self.data):
            if name == key:
                return value
        return None


def _joined(option: tuple[str, str | None]) -> str:
    key, value = option
    if value is None:
        return key
    # An SELinux label has commas of its own; fsconfig(2) has no need of quotes, and takes them for a part.
    return f'{key}="{value}"' if key.endswith("context") and "," in value else f"{key}={value}"


def _merge(set_: int, clear: int, option: tuple[int, int]) -> tuple[int, int]:
    """Later options win: what one sets, a later one can clear."""
    add, remove = option
    return (set_ & ~remove) | add, (clear & ~add) | remove


def parse(options: list[str], pointer: str) -> MountOptions:
    """Parse a mount's `options`; `pointer` is the mount's.  Raises ConfigError."""
    result = MountOptions()
    for index, name in enumerate(options):
        result.names.append(name)
        if name in _ATTRIBUTES:
            result.set, result.clear = _merge(result.set, result.clear, _ATTRIBUTES[name])
        elif name in _RECURSIVE:
            result.recursive_set, result.recursive_clear = _merge(
                result.recursive_set, result.recursive_clear, _RECURSIVE[name]
            )
        elif name in _SUPERBLOCK:
            flag, old = _SUPERBLOCK[name]
            if flag:
                result.superblock.append(flag)
            result.superblock_flags |= old
        elif name in PROPAGATION:
            result.propagation.append(PROPAGATION[name])
        elif name in ("bind", "rbind"):
            result.bind = True
            result.recursive = result.recursive or name == "rbind"
        elif name == "remount":
            result.remount = True
        elif name == "tmpcopyup":
            result.tmpcopyup = True
        elif name.partition("=")[0] in ("idmap", "ridmap"):
            result.idmap, _, result.idmap_text = name.partition("=")
        elif name:
            key, equals, value = name.partition("=")
            if not key:
                raise ConfigError(f"{pointer}/options/{index}", f'"{name}" is not a mount option')
            result.data.append((key, value if equals else None))
    return result
