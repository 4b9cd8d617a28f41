# SPDX-License-Identifier: Apache-2.0
"""Mounts of type `cgroup`: what a container sees at /sys/fs/cgroup.

On a v2 host that is cgroup2; on v1 and hybrid hosts a tmpfs with a directory a hierarchy, as the
host has it.  With a cgroup namespace the file systems are mounted and the kernel shows them from
the container's own cgroup down; without one the container's own directories are bound.
"""

from __future__ import annotations

import os

from .linux import mount as k
from .linux.fs import AT_FDCWD, O_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .mountopts import MountOptions
    from .rootfs import RootFs


def mount_cgroup(root: RootFs, target: int, options: MountOptions, fstype: str) -> int:
    """Mount the cgroup view on `target`; the mount's descriptor.  Raises OSError."""
    unified = root.cgroup is None or root.cgroup.mode == "unified" or fstype == "cgroup2"
    if unified:
        return _mount_v2(root, target, options)
    return _mount_v1(root, target, options)


def _mount_v2(root: RootFs, target: int, options: MountOptions) -> int:
    try:
        tree = _new_mount("cgroup2", "cgroup2", options.set, options.data)
    except OSError as error:
        # EPERM: a user namespace without a cgroup namespace; EBUSY: cgroup v1 has the controllers.
        if error.errno not in (1, 16) or root.cgroup is None:
            raise
        source = root.cgroup.paths.get("", "/sys/fs/cgroup")
        tree = k.open_tree(AT_FDCWD, source)
        k.mount_setattr(tree, set_=options.set, clear=options.clear)
    k.move_mount(tree, target)
    return tree


def _new_mount(fstype: str, source: str, attributes: int, data: list[tuple[str, str | None]]) -> int:
    fs = k.fsopen(fstype)
    try:
        k.fsconfig_string(fs, "source", source)
        for key, value in data:
            if value is None:
                k.fsconfig_flag(fs, key)
            else:
                k.fsconfig_string(fs, key, value)
        k.fsconfig_create(fs)
        return k.fsmount(fs, attributes)
    finally:
        os.close(fs)


class Hierarchy:
    """A mounted hierarchy of the host: the name of its directory, its controllers, where it is mounted."""

    __slots__ = ("controllers", "mount_point", "name")

    def __init__(self, name: str, mount_point: str, controllers: list[str]) -> None:
        self.name = name
        self.mount_point = mount_point
        self.controllers = controllers


def hierarchies(mountinfo: str) -> list[Hierarchy]:
    """The v1 hierarchies of a mountinfo text, each once (proc_pid_mountinfo(5))."""
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fstype, _, rest = right.partition(" ")
        if fstype != "cgroup":
            continue
        mount_point = left.split(" ")[4]
        controllers = [option for option in rest.split(" ")[-1].split(",")
                       if option not in ("rw", "ro", "xattr", "clone_children", "noprefix")
                       and not option.startswith("release_agent=")]
        found.setdefault(",".join(controllers), Hierarchy(mount_point.rpartition("/")[2], mount_point, controllers))
    return list(found.values())


def _mount_v1(root: RootFs, target: int, options: MountOptions) -> int:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        found = hierarchies(file.read())
    attributes = options.set & ~k.MOUNT_ATTR_RDONLY
    tmpfs = _new_mount("tmpfs", "tmpfs", attributes, [("mode", "755")])
    k.move_mount(tmpfs, target)
    for hierarchy in found:
        os.mkdir(hierarchy.name, 0o755, dir_fd=tmpfs)
        below = os.open(hierarchy.name, O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tmpfs)
        try:
            tree = _hierarchy_tree(root, hierarchy, options)
            if tree >= 0:
                k.move_mount(tree, below)
                os.close(tree)
        finally:
            os.close(below)
        if "," in hierarchy.name:  # cpu,cpuacct: each controller by its own name too
            for controller in hierarchy.controllers:
                os.symlink(hierarchy.name, controller, dir_fd=tmpfs)
    if options.read_only:
        k.mount_setattr(tmpfs, set_=k.MOUNT_ATTR_RDONLY)
    return tmpfs


def _hierarchy_tree(root: RootFs, hierarchy: Hierarchy, options: MountOptions) -> int:
    if root.cgroup_namespace:
        data: list[tuple[str, str | None]] = []
        for controller in hierarchy.controllers:
            name = controller.removeprefix("name=")
            data.append((controller, None) if name == controller else ("name", name))
        return _new_mount("cgroup", "cgroup", options.set, data)
    paths = root.cgroup.paths if root.cgroup is not None else {}
    for controller in hierarchy.controllers:
        own = paths.get(controller)
        if own is not None:
            tree = k.open_tree(AT_FDCWD, own)
            k.mount_setattr(tree, set_=options.set, clear=options.clear)
            return tree
    return -1
