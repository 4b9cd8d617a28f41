# SPDX-License-Identifier: Apache-2.0
"""The container's root: attached, entered, masked (config.md, Root; config-linux.md, Rootfs Mount Propagation).

`RootFs` is the descriptor everything below the root is resolved from; mounts.py and devices.py
fill it.  All of this runs on the container side, before and after pivot_root.
"""

from __future__ import annotations

import os
import stat

from .errors import ConfigError, PyruncError, kernel_error
from .linux import mount as k
from .linux.fs import (
    AT_FDCWD,
    O_PATH,
    PROC_SUPER_MAGIC,
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    fstatfs_type,
    openat2,
)
from .linux.process import CLONE_NEWNS, in_user_namespace
from .mountopts import PROPAGATION
from .paths import clean, is_directory, make_directory, make_file, open_in_root, unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cgroup import Cgroup
    from .spec.types import Config

# What an image or a volume may put over a part of /proc (the list lxcfs and its like need); anything
# else there would fool what the runtime writes below /proc (CVE-2019-16884).
_PROC_ALLOWED = frozenset((
    "proc/cpuinfo", "proc/diskstats", "proc/meminfo", "proc/stat", "proc/swaps", "proc/uptime", "proc/loadavg",
    "proc/slabinfo", "proc/net/dev", "proc/sys/kernel/ns_last_pid", "proc/sys/crypto/fips_enabled",
))


class RootFs:
    """The container's root while it is being built.

    `fd` is the mount of the root; `proc_self` the process's own directory in the host's procfs;
    `private` says that the mount namespace is the container's own; `sources` are the bind sources
    that only the parent could open (index of the mount -> descriptor).
    """

    __slots__ = ("cgroup", "cgroup_namespace", "deferred", "fd", "hierarchies", "mount_label", "path", "private",
                 "proc_self", "sources", "user_namespace")

    def __init__(self, fd: int, path: str, proc_self: int, *, private: bool, user_namespace: bool,
                 cgroup_namespace: bool, cgroup: Cgroup | None, sources: dict[int, int], mount_label: str = "") -> None:
        self.fd = fd
        self.path = path
        self.proc_self = proc_self
        self.private = private
        self.user_namespace = user_namespace
        self.cgroup_namespace = cgroup_namespace
        self.cgroup = cgroup
        self.sources = sources
        self.mount_label = mount_label  # SELinux's, for what has no files of its own
        self.hierarchies: dict[str, tuple[list[str], str]] | None = None  # cgroup_mounts.mounted, once it was asked for
        # Mounts that become read-only when everything below them has been made: (mount, pointer).
        self.deferred: list[tuple[int, str]] = []

    def in_user_namespace(self) -> bool:
        """Whether mounts are made in a user namespace: the container's, or one that the runtime is in (rootlesskit)."""
        return self.user_namespace or in_user_namespace()

    def make_target(self, unsafe_target: str, *, directory: bool, pointer: str, follow: bool = True,
                    procfs: bool = False) -> int:
        """Open the mount point `unsafe_target` (made if missing) below the root; an O_PATH descriptor.

        `procfs` says that what is to be mounted is a procfs, the only thing that may go on /proc.
        Raises ConfigError and KernelError with `pointer`.
        """
        target = clean(unsafe_target)
        _check_proc(target, pointer, procfs)
        try:
            fd = make_directory(self.fd, target, follow=follow) if directory else make_file(self.fd, target)
        except OSError as error:
            hint = ""
            if error.errno == 40 and not follow:
                hint = "a link in the image can't stand where this file system is mounted"
            if error.errno == 20 and directory and self._is_file(target):
                raise _kinds_differ(pointer, target, source_is_directory=True) from None
            raise kernel_error(f"mount point /{target}", error, pointer=pointer, hint=hint) from None
        if is_directory(fd) != directory:
            os.close(fd)
            raise _kinds_differ(pointer, target, source_is_directory=directory)
        # The text may be harmless and the place not: a link can lead below /proc all the same.
        if not procfs and target not in _PROC_ALLOWED and fstatfs_type(fd) == PROC_SUPER_MAGIC:
            os.close(fd)
            raise ConfigError(pointer, f"/{target} leads into /proc, where this can't be mounted")
        return fd

    def _is_file(self, target: str) -> bool:
        try:
            fd = self.open(target)
        except OSError:
            return False
        os.close(fd)
        return True  # or O_DIRECTORY would not have failed

    def open(self, unsafe_path: str, flags: int = O_PATH) -> int:
        """Open `unsafe_path` below the root.  Raises OSError."""
        return open_in_root(self.fd, clean(unsafe_path), flags)


def _kinds_differ(pointer: str, target: str, *, source_is_directory: bool) -> ConfigError:
    kind, other = ("a directory", "a file") if source_is_directory else ("a file", "a directory")
    return ConfigError(pointer, f"the source is {kind}, but /{target} in the container is {other}")


def _check_proc(target: str, pointer: str, procfs: bool) -> None:
    if target == "":
        raise ConfigError(pointer, "the root of the container can't be a mount's destination")
    if target == "proc" and not procfs:
        raise ConfigError(pointer, "only a procfs can be mounted on /proc")
    if target.startswith("proc/") and target not in _PROC_ALLOWED:
        raise ConfigError(pointer, f"/{target} is inside /proc, where this can't be mounted")


def open_proc() -> int:
    """The host's /proc, verified to be a procfs.  Raises PyruncError.

    Opened by the parent: the container side writes below it, and never below a /proc it can't trust.
    """
    try:
        fd = os.open("/proc", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise kernel_error("/proc", error, syscall="openat", hint="is /proc mounted?") from None
    if fstatfs_type(fd) != PROC_SUPER_MAGIC:
        os.close(fd)
        raise PyruncError("/proc is not a procfs", hint="mount one: mount -t proc proc /proc")
    return fd


def propagation(config: Config) -> tuple[int, bool] | None:
    """(MS_* propagation, recursive) that linux.rootfsPropagation asks for, None where it is unset."""
    linux = config.get("linux") or {}
    name = linux.get("rootfsPropagation") or ""
    return PROPAGATION[name] if name else None


def open_root(rootfs: str) -> int:
    """The root as it is, without a mount of its own; its descriptor.  Raises KernelError."""
    try:
        return os.open(rootfs, O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise kernel_error(f"open the rootfs {rootfs}", error, pointer="/root/path") from None


def attach(rootfs: str, namespaces: int, config: Config) -> int:
    """Make the mount tree independent of the host's, bind the root onto itself; the root's descriptor.

    `namespaces` are the CLONE_NEW* flags of the namespaces made new.  Raises KernelError.
    """
    wanted = propagation(config)
    own = bool(namespaces & CLONE_NEWNS)
    shared = wanted is not None and wanted[0] == k.MS_SHARED
    if own:
        _leave_the_host(rootfs, wanted)
    try:
        tree = k.open_tree(AT_FDCWD, rootfs, recursive=True)
        if shared or not own:
            # Not a peer of the host's mount it was copied from, or what is mounted below goes there too.
            k.mount_setattr(tree, propagation=k.MS_PRIVATE, recursive=True)
        target = os.open(rootfs, O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        k.move_mount(tree, target)
        os.close(target)
        if not own:
            # On a shared parent it became shared again (mount_namespaces(7), shared subtrees).
            k.mount_setattr(tree, propagation=k.MS_PRIVATE, recursive=True)
    except OSError as error:
        hint = ""
        if error.errno == 13:
            hint = "the user namespace's root needs execute permission on every directory above the rootfs"
        raise kernel_error(f"attach the rootfs {rootfs}", error, pointer="/root/path", hint=hint) from None
    return tree


def _leave_the_host(rootfs: str, wanted: tuple[int, bool] | None) -> None:
    """The propagation of the new mount namespace's copy of the host's mounts.  Raises KernelError.

    A slave still sees what the host mounts later, the host sees nothing of ours.  With a shared root
    the mounts stay peers of the host's, so that a bind of a shared one may go on being that.
    """
    kind = k.MS_SLAVE if wanted is None else wanted[0]
    if kind == k.MS_UNBINDABLE:
        kind = k.MS_PRIVATE  # the rootfs has to be bound first
    try:
        k.mount(None, "/", None, kind if wanted == (k.MS_SHARED, False) else kind | k.MS_REC)
        if kind == k.MS_SHARED:
            _make_parent_private(rootfs)
    except OSError as error:
        raise kernel_error("set the propagation of the host's mounts in the container", error,
                           pointer="/linux/rootfsPropagation") from None


def _make_parent_private(rootfs: str) -> None:
    """Make the mount `rootfs` is on private, or our root, mounted there, would appear on the host."""
    path = os.path.realpath(rootfs)
    while True:
        try:
            return k.mount(None, path, None, k.MS_PRIVATE)
        except OSError as error:
            if error.errno != 22 or path == "/":  # EINVAL: not a mount point, look above
                raise
        path = os.path.dirname(path)


def finish_mounts(root: RootFs, config: Config) -> None:
    """The read-only bits that had to wait until everything below was made.  Raises KernelError."""
    for fd, pointer in root.deferred:
        try:
            k.mount_setattr(fd, set_=k.MOUNT_ATTR_RDONLY)
        except OSError as error:
            raise kernel_error("make the mount read-only", error, pointer=pointer) from None
    root.deferred.clear()
    if config["root"].get("readonly"):
        try:
            k.mount_setattr(root.fd, set_=k.MOUNT_ATTR_RDONLY)
        except OSError as error:
            raise kernel_error("make the root read-only", error, pointer="/root/readonly") from None


def set_propagation(root: RootFs, config: Config) -> None:
    """linux.rootfsPropagation, when nothing has to be bound or moved any more.  Raises KernelError."""
    wanted = propagation(config)
    if wanted is None:
        return
    try:
        k.mount_setattr(root.fd, propagation=wanted[0], recursive=wanted[1])
    except OSError as error:
        raise kernel_error("propagation of the root", error, pointer="/linux/rootfsPropagation") from None


def pivot(root: RootFs) -> None:
    """Enter the root with pivot_root(2) and let go of the old one.  Raises KernelError."""
    try:
        old = os.open("/", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fchdir(root.fd)
        # Both arguments the same: the old root lands on top of the new one, no directory is needed
        # (pivot_root(2), NOTES).
        k.pivot_root(".", ".")
        os.fchdir(old)
        # Unmounting must not reach the host through a shared mount.
        k.mount(None, ".", None, k.MS_SLAVE | k.MS_REC)
        k.umount(".", k.MNT_DETACH)
        os.close(old)
        os.chdir("/")
    except OSError as error:
        hint = "the rootfs is on an initramfs: try --no-pivot" if error.errno == 22 else ""
        raise kernel_error(f"pivot_root to {root.path}", error, hint=hint) from None


def move_root(root: RootFs) -> None:
    """Enter the root by moving its mount over / (--no-pivot, for a host that runs from an initramfs).

    What the host has mounted stays below, so its procfs and sysfs are taken away or covered first:
    a full view of them would allow to mount unmasked ones in a nested user namespace.
    """
    try:
        for mount_point, count in _host_proc_and_sys(root.path):
            k.mount(None, mount_point, None, k.MS_SLAVE | k.MS_REC)
            try:
                if not count:
                    raise OSError
                for _ in range(count):
                    k.umount(mount_point, k.MNT_DETACH)
            except OSError:
                k.mount("tmpfs", mount_point, "tmpfs", k.MS_RDONLY)
        k.mount(None, "/", None, k.MS_PRIVATE)
        os.fchdir(root.fd)
        k.mount(".", "/", None, k.MS_MOVE)
        os.chroot(".")
        os.chdir("/")
    except OSError as error:
        raise kernel_error(f"move the root {root.path} to /", error) from None


def _host_proc_and_sys(rootfs: str) -> list[tuple[str, int]]:
    """Where the host has procfs and sysfs, deepest first, and how many on top of each other.

    The count is 0 where one is on a shared mount: to unmount it here would unmount it on the host.
    """
    found: dict[str, int] = {}
    shared = set()
    unsafe = set()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            mount_id, parent, _, _, escaped, _, *propagations = left.split(" ")
            mount_point = unescape(escaped)
            if any(field.startswith("shared:") for field in propagations):
                shared.add(mount_id)
            inside = mount_point == rootfs or mount_point.startswith(rootfs + "/")
            if right.split(" ")[0] in ("proc", "sysfs") and not inside:
                found[mount_point] = found.get(mount_point, 0) + 1
                if parent in shared:
                    unsafe.add(mount_point)
    deepest_first = sorted(found, key=len, reverse=True)
    return [(mount_point, 0 if mount_point in unsafe else found[mount_point]) for mount_point in deepest_first]


def change_root(root: RootFs) -> None:
    """chroot(2), for a container that shares the mount namespace.  Raises KernelError."""
    try:
        os.fchdir(root.fd)
        os.chroot(".")
        os.chdir("/")
    except OSError as error:
        raise kernel_error(f"chroot to {root.path}", error) from None


def _null_tree(root: RootFs) -> int:
    """A detached bind of a /dev/null that is one: an image can have anything by that name (CVE-2025-31133)."""
    fd = root.open("dev/null")
    info = os.fstat(fd)
    if not stat.S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(1, 3):
        os.close(fd)
        raise PyruncError("/dev/null in the container is not the null device",
                          pointer="/linux/maskedPaths", hint="mount a tmpfs on /dev, or repair the image")
    try:
        return k.open_tree(fd)
    finally:
        os.close(fd)


def _mask_directory_tree(root: RootFs) -> int:
    """One empty read-only tmpfs; every masked directory gets a bind of it (a superblock each is slow)."""
    fs = k.fsopen("tmpfs")
    try:
        k.fsconfig_string(fs, "source", "tmpfs")
        if root.mount_label:
            k.fsconfig_string(fs, "context", root.mount_label)
        k.fsconfig_string(fs, "nr_blocks", "1")
        k.fsconfig_string(fs, "nr_inodes", "1")
        k.fsconfig_flag(fs, "ro")
        k.fsconfig_create(fs)
        return k.fsmount(fs, k.MOUNT_ATTR_RDONLY)
    finally:
        os.close(fs)


def mask_paths(root: RootFs, paths: list[str]) -> None:
    """Cover linux.maskedPaths: files with the null device, directories with an empty tmpfs.

    What doesn't exist is passed over.  Raises KernelError.
    """
    tmpfs = null = -1
    for index, path in enumerate(paths):
        pointer = f"/linux/maskedPaths/{index}"
        try:
            target = root.open(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise kernel_error(f"mask {path}", error, pointer=pointer) from None
        try:
            if is_directory(target):
                if tmpfs < 0:
                    tmpfs = _mask_directory_tree(root)
                    k.move_mount(tmpfs, target)
                else:
                    copy = k.open_tree(tmpfs)
                    k.move_mount(copy, target)
                    os.close(copy)
            else:
                if null < 0:
                    null = _null_tree(root)
                    k.move_mount(null, target)
                else:
                    copy = k.open_tree(null)
                    k.move_mount(copy, target)
                    os.close(copy)
        except OSError as error:
            raise kernel_error(f"mask {path}", error, pointer=pointer) from None
        finally:
            os.close(target)
    for fd in (tmpfs, null):
        if fd >= 0:
            os.close(fd)


def readonly_paths(root: RootFs, paths: list[str]) -> None:
    """Make linux.readonlyPaths read-only by a bind onto themselves.  Raises KernelError."""
    for index, path in enumerate(paths):
        pointer = f"/linux/readonlyPaths/{index}"
        try:
            target = root.open(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise kernel_error(f"make {path} read-only", error, pointer=pointer) from None
        try:
            tree = k.open_tree(target, recursive=True)
            k.mount_setattr(tree, set_=k.MOUNT_ATTR_RDONLY, recursive=True)
            k.move_mount(tree, target)
            os.close(tree)
        except OSError as error:
            raise kernel_error(f"make {path} read-only", error, pointer=pointer) from None
        finally:
            os.close(target)


def openat2_proc(proc: int, path: str, flags: int) -> int:
    """Open `path` below our own procfs: no link, no other mount on the way (CVE-2025-52881).  Raises OSError."""
    return openat2(proc, path, flags, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)
