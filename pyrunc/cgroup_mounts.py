# SPDX-License-Identifier: Apache-2.0
"""Mounts of type `cgroup`: what a container sees at /sys/fs/cgroup.

On a v2 host that is cgroup2; on v1 and hybrid hosts a tmpfs with a directory a hierarchy, as the
host has it.  With a cgroup namespace the file systems are mounted and the kernel shows them from
the container's own cgroup down; without one the container's own directories are bound.
"""

from __future__ import annotations

import os

from . import cgroupfs, cgroupv1
from .errors import kernel_error
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
    host = _hosts_v2(root, options)
    if host:
        tree = k.open_tree(AT_FDCWD, host)
        shown = options.set
        if root.cgroup is not None and not root.cgroup.directories():
            shown |= k.MOUNT_ATTR_RDONLY  # none of it is the container's
        k.mount_setattr(tree, set_=shown, clear=options.clear & ~shown, propagation=k.MS_PRIVATE)
        k.move_mount(tree, target)
        return tree
    try:
        tree = _new_mount("cgroup2", "cgroup2", options.set, options.data)
    except OSError as error:
        # EPERM: a user namespace without a cgroup namespace; EBUSY: cgroup v1 has the controllers.
        if error.errno not in (1, 16) or root.cgroup is None:
            raise
        own = root.cgroup.paths.get("", "")
        if own and own not in root.cgroup.skipped:
            tree = k.open_tree(AT_FDCWD, own)
            k.mount_setattr(tree, set_=options.set, clear=options.clear)
        else:
            # An ordinary user without a cgroup of its own: the host's view, to be read (CVE-2023-25809).
            tree = k.open_tree(AT_FDCWD, "/sys/fs/cgroup")
            k.mount_setattr(tree, set_=options.set | k.MOUNT_ATTR_RDONLY)
    k.move_mount(tree, target)
    return tree


def _hosts_v2(root: RootFs, options: MountOptions) -> str:
    """Where the host has what the container is to see, "" where that is something else.

    A mount of cgroup2 made in the host's cgroup namespace sets the options of the hierarchy for the whole
    host (cgroup-v2.rst, Mounting), to none unless it repeats them: nsdelegate would be gone.
    """
    if root.cgroup_namespace or root.user_namespace or root.cgroup is None or options.data:
        return ""
    return {"unified": "/sys/fs/cgroup", "hybrid": cgroupv1.UNIFIED}.get(root.cgroup.mode, "")


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


def mounted() -> dict[str, tuple[list[str], str]]:
    """By where the host has a v1 hierarchy mounted: its controllers, and the directory of our own cgroup."""
    found = cgroupv1.own_hierarchies(False, cgroupfs.read("/proc/self/cgroup"))
    by_place: dict[str, tuple[list[str], str]] = {}
    for controller, hierarchy in found.items():
        by_place.setdefault(hierarchy.mount_point, ([], hierarchy.path("").rstrip("/")))[0].append(controller)
    return by_place


def _mount_v1(root: RootFs, target: int, options: MountOptions) -> int:
    attributes = options.set & ~k.MOUNT_ATTR_RDONLY
    data: list[tuple[str, str | None]] = [("mode", "755")]
    if root.mount_label:
        data.append(("context", root.mount_label))
    tmpfs = _new_mount("tmpfs", "tmpfs", attributes, data)
    k.move_mount(tmpfs, target)
    if root.hierarchies is None:
        root.hierarchies = mounted()
    for place, (controllers, current) in root.hierarchies.items():
        name = place.rpartition("/")[2]
        os.mkdir(name, 0o755, dir_fd=tmpfs)
        below = os.open(name, O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tmpfs)
        try:
            tree = _hierarchy_tree(root, controllers, current, options)
            if tree >= 0:
                k.move_mount(tree, below)
                os.close(tree)
        finally:
            os.close(below)
        if "," in name:  # cpu,cpuacct: each controller by its own name too
            for controller in controllers:
                os.symlink(name, controller, dir_fd=tmpfs)
    if options.read_only:
        k.mount_setattr(tmpfs, set_=k.MOUNT_ATTR_RDONLY)
    return tmpfs


def _hierarchy_tree(root: RootFs, controllers: list[str], current: str, options: MountOptions) -> int:
    if root.cgroup_namespace:
        data: list[tuple[str, str | None]] = []
        for controller in controllers:
            name = controller.removeprefix("name=")
            data.append((controller, None) if name == controller else ("name", name))
        return _new_mount("cgroup", "cgroup", options.set, data)
    cgroup = root.cgroup
    if cgroup is None:
        return -1
    for controller in controllers:
        own = cgroup.paths.get(controller)
        if own is not None and own not in cgroup.skipped:
            tree = k.open_tree(AT_FDCWD, own)
            k.mount_setattr(tree, set_=options.set, clear=options.clear)
            return tree
    # Without one of its own the container is in its caller's, whose limits it is under: to be read (CVE-2023-25809).
    tree = k.open_tree(AT_FDCWD, current)
    k.mount_setattr(tree, set_=options.set | k.MOUNT_ATTR_RDONLY)
    return tree


class KeptOptions:
    """The options of the host's cgroup2 hierarchy, put back at the end of a `with`.

    criu mounts cgroup2 for itself, without options, in the host's cgroup namespace: that sets them for the
    whole host (cgroup-v2.rst, Mounting), and nsdelegate is gone.
    """

    __slots__ = ("_before",)

    def __init__(self) -> None:
        self._before = _v2_options()

    def __enter__(self) -> KeptOptions:
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None or _v2_options() == self._before:
            return
        point, flags, options = self._before
        try:
            k.mount(None, point, None, k.MS_REMOUNT | flags, options)
        except OSError as error:
            raise kernel_error(f"give {point} its options {options} back", error) from None


_FLAGS = {"ro": k.MS_RDONLY, "nosuid": k.MS_NOSUID, "nodev": k.MS_NODEV, "noexec": k.MS_NOEXEC,
          "noatime": k.MS_NOATIME, "nodiratime": k.MS_NODIRATIME, "relatime": k.MS_RELATIME}


def _v2_options() -> tuple[str, int, str] | None:
    """(mount point, MS_* flags of the mount, options of the hierarchy) of the host's cgroup2, None if there is none."""
    for line in cgroupfs.read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        point, names = left.split(" ")[4:6]
        fstype, _, options = right.split(" ")[:3]
        if fstype == "cgroup2" and point in ("/sys/fs/cgroup", cgroupv1.UNIFIED):
            flags = sum(_FLAGS.get(name, 0) for name in names.split(","))
            return point, flags, ",".join(name for name in options.split(",") if name not in ("rw", "ro"))
    return None
