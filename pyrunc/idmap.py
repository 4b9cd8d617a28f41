# SPDX-License-Identifier: Apache-2.0
"""Mounts whose files have other owners inside than on disk (config.md, Mounts, uidMappings; mount_setattr(2)).

The mapping is that of a user namespace, which nobody needs to live in: a process makes it, the mount
holds it.  Both are done by the runtime, who has power over the source's file system, on a detached
copy of the mount that the init is handed.
"""

from __future__ import annotations

import errno
import os

from .channel import pair
from .errors import ConfigError, KernelError, PyruncError, kernel_error
from .linux import mount as k
from .linux.fs import mount_id
from .linux.process import CLONE_NEWUSER
from .linux.syscall import clone3
from .namespaces import write_id_maps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .mountopts import MountOptions
    from .namespaces import NamespacePlan
    from .spec.types import IDMapping, Mount

_MEMBERS = ("uidMappings", "gidMappings")


class IDMap:
    """The ids of one mount: containerID is the one on disk, hostID the one it becomes on the host.

    `mappings` has uidMappings and gidMappings and stands at `pointer`; None means those of a user
    namespace that the container joins.
    """

    __slots__ = ("mappings", "pointer", "recursive")

    def __init__(self, mappings: Mapping[str, Any] | None, pointer: str, recursive: bool) -> None:
        self.mappings = mappings
        self.pointer = pointer
        self.recursive = recursive

    def describe(self) -> str:
        if self.mappings is None:
            return "ids as in the user namespace"
        return ", ".join(f"{member[0]}ids " + " ".join(f"{m['containerID']}->{m['hostID']}+{m['size']}"
                                                       for m in self.mappings[member]) for member in _MEMBERS)


def plan(entry: Mount, options: MountOptions, linux: Mapping[str, Any], pointer: str) -> IDMap:
    """The mapping of a mount that has some, or one of the options idmap and ridmap.  Raises ConfigError.

    Its own mappings come first, then those that crun's `idmap=uids=…;gids=…` gives, then the container's.
    """
    recursive = options.idmap == "ridmap"
    if entry.get("uidMappings"):
        return IDMap(entry, pointer, recursive)
    if options.idmap_text:
        return IDMap(parse(options.idmap_text, linux, pointer), pointer, recursive)
    for namespace in linux.get("namespaces") or ():
        if namespace["type"] == "user":
            return IDMap(None if namespace.get("path") else linux, "/linux", recursive)
    raise ConfigError(pointer, f"{options.idmap} needs uidMappings and gidMappings, or a user namespace to take "
                               "them from")


def parse(text: str, linux: Mapping[str, Any], pointer: str) -> dict[str, list[IDMapping]]:
    """crun's `uids=0-1000-10#…;gids=@0-0-10`: on disk, on the host (after an @: in the container), how many.

    Raises ConfigError.
    """
    found: dict[str, list[IDMapping]] = {}
    for part in text.split(";"):
        kind, _, ranges = part.partition("=")
        member = {"uids": "uidMappings", "gids": "gidMappings"}.get(kind)
        if member is None or member in found:
            raise ConfigError(pointer, f'"{text}" is not of the form uids=0-1000-10;gids=0-1000-10')
        found[member] = []
        for one in ranges.split("#"):
            numbers = one.removeprefix("@").split("-")
            if len(numbers) != 3 or not all(n.isascii() and n.isdecimal() and len(n) <= 10 for n in numbers):
                raise ConfigError(pointer, f'"{one}" in the option is not of the form 0-1000-10')
            inside, outside, size = map(int, numbers)
            if one.startswith("@"):
                outside = _on_host(outside, size, linux.get(member) or [], one, pointer)
            found[member].append({"containerID": inside, "hostID": outside, "size": size})
    if len(found) != len(_MEMBERS):
        raise ConfigError(pointer, f'"{text}" has to give uids and gids')
    from .spec.check import check_id_mappings

    for member, mappings in found.items():
        check_id_mappings(f"{pointer}/{member}", mappings)
    return found


def _on_host(first: int, size: int, mappings: list[IDMapping], text: str, pointer: str) -> int:
    for mapping in mappings:
        offset = first - mapping["containerID"]
        if offset >= 0 and offset + size <= mapping["size"]:
            return mapping["hostID"] + offset
    raise ConfigError(pointer, f"{text}: the ids are not mapped as a whole by the container's user namespace")


class UserNamespaces:
    """The user namespaces of one container's mounts, each made once."""

    __slots__ = ("made", "namespaces", "proc")

    def __init__(self, namespaces: NamespacePlan, proc: int) -> None:
        self.namespaces = namespaces
        self.proc = proc
        self.made: list[tuple[tuple[Any, Any], int]] = []

    def close(self) -> None:
        for _, fd in self.made:
            os.close(fd)
        self.made.clear()

    def get(self, wanted: IDMap) -> int:
        """A descriptor that `close` closes (or the plan).  Raises PyruncError."""
        mappings = wanted.mappings
        if mappings is None:
            for join in self.namespaces.joins:
                if join.flag == CLONE_NEWUSER:
                    return join.fd
            raise ConfigError(wanted.pointer, "the user namespace to take the ids from is the runtime's own")
        key = (mappings["uidMappings"], mappings["gidMappings"])
        for made, fd in self.made:
            if made == key:
                return fd
        fd = user_namespace(mappings, wanted.pointer, self.proc)
        self.made.append((key, fd))
        return fd


def user_namespace(mappings: Mapping[str, Any], pointer: str, proc: int) -> int:
    """A new user namespace with these mappings, which no process stays in.  Raises PyruncError."""
    ours, theirs = pair()
    try:
        pid = clone3(CLONE_NEWUSER)
    except OSError as error:
        raise kernel_error("make a user namespace for the mount", error, pointer=pointer) from None
    if pid == 0:
        try:
            ours.close()
            theirs.receive()  # until the other end is closed
        except EOFError:
            pass
        finally:
            os._exit(0)
    theirs.close()
    try:
        write_id_maps(pid, proc, mappings, pointer)
        return os.open(f"{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    finally:
        ours.close()
        os.waitpid(pid, 0)


def apply(tree: int, wanted: IDMap, user_namespace: int, what: str, source: str, pointer: str) -> None:
    """Give the detached mount (tree) the ids of `user_namespace`.  Raises KernelError, saying why it can't be."""
    try:
        k.mount_setattr(tree, set_=k.MOUNT_ATTR_IDMAP, userns_fd=user_namespace, recursive=wanted.recursive)
    except OSError as error:
        raise _refused(error, wanted, what, source, pointer) from None


def _refused(error: OSError, wanted: IDMap, what: str, source: str, pointer: str) -> PyruncError:
    kind = _filesystem(source)
    hint = ""
    if error.errno == errno.EINVAL and wanted.recursive:
        hint = f"this kernel can't map the ids of {kind}, or of what is mounted below the source"
    elif error.errno == errno.EINVAL:
        hint = f"this kernel can't map the ids of {kind}"
    elif error.errno == errno.EPERM:
        hint = "it needs CAP_SYS_ADMIN where the source's file system was mounted, and a source without mapped ids"
    return KernelError(f"map the ids of {what}", pointer=pointer, syscall="mount_setattr", errno=error.errno or 0,
                       hint=hint)


def _filesystem(path: str) -> str:
    """The type of the file system at `path`, for a message (proc_pid_mountinfo(5))."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            number = str(mount_id(f"/proc/self/fdinfo/{fd}"))
        finally:
            os.close(fd)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            return next(line.partition(" - ")[2].split()[0] for line in lines if line.split()[0] == number)
    except (OSError, StopIteration):
        return "the source's file system"
