# SPDX-License-Identifier: Apache-2.0
"""config.json's mounts as a list of steps: planned, printable, then applied in order (config.md, Mounts)."""

from __future__ import annotations

import errno
import os

from .cgroup_mounts import mount_cgroup
from .copyup import copy_tree
from .errors import ConfigError, KernelError, kernel_error
from .linux import mount as k
from .linux.fs import AT_FDCWD, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs_type
from .mountopts import MountOptions, parse
from .paths import clean, is_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .idmap import IDMap
    from .rootfs import RootFs
    from .spec.types import Config

# The kernel copies an fsconfig string of at most 255 bytes (overlay's lowerdir can be longer).
_FSCONFIG_MAX = 255


class MountStep:
    """One entry of `mounts`; `pointer` is where it stands in config.json."""

    __slots__ = ("fstype", "idmap", "index", "options", "pointer", "source", "unsafe_target")

    def __init__(self, index: int, source: str, unsafe_target: str, fstype: str, options: MountOptions) -> None:
        self.index = index
        self.pointer = f"/mounts/{index}"
        self.source = source
        self.unsafe_target = unsafe_target
        self.fstype = fstype
        self.options = options
        self.idmap: IDMap | None = None

    def describe(self) -> str:
        raise NotImplementedError

    def apply(self, root: RootFs) -> None:
        raise NotImplementedError

    def warning(self) -> str:
        """What of it comes to nothing, "" for nothing."""
        return ""

    def _names(self) -> str:
        return f" ({','.join(self.options.names)})" if self.options.names else ""

    def _finish(self, mount_fd: int) -> None:
        """Recursive attributes, then the propagation, in the order of the options."""
        options = self.options
        if options.recursive_set or options.recursive_clear:
            k.mount_setattr(mount_fd, set_=options.recursive_set, clear=options.recursive_clear, recursive=True)
        for kind, recursive in options.propagation:
            k.mount_setattr(mount_fd, propagation=kind, recursive=recursive)


class FilesystemMount(MountStep):
    """A new mount of a file system: proc, sysfs, tmpfs, devpts, mqueue, overlay, …"""

    __slots__ = ()

    def describe(self) -> str:
        return f"{self.fstype} on {self.unsafe_target}{self._names()}"

    def apply(self, root: RootFs) -> None:
        # A link in the image must not choose where /proc or /sys lands (CVE-2019-19921, CVE-2023-27561).
        strict = self.fstype in ("proc", "sysfs")
        made = self.fstype == "tmpfs" and not self._exists(root)
        target = root.make_target(self.unsafe_target, directory=True, pointer=self.pointer, follow=not strict,
                                  procfs=self.fstype == "proc")
        try:
            try:
                mount_fd = self._mount(root, target, made)
            except PermissionError:
                if self.fstype != "sysfs" or not root.in_user_namespace():
                    raise
                mount_fd = self._bind_sys(target)
            self._finish(mount_fd)
            if self._defer_read_only():
                root.deferred.append((mount_fd, self.pointer))
            else:
                os.close(mount_fd)
        except OSError as error:
            raise kernel_error(self.describe(), error, pointer=self.pointer, hint=self._hint(root, error)) from None
        finally:
            os.close(target)

    def _bind_sys(self, target: int) -> int:
        """The runtime's own /sys, read-only: sysfs belongs to a network namespace that the container doesn't own.

        With all that is mounted below: it may not be uncovered in a user namespace.
        """
        tree = k.open_tree(AT_FDCWD, "/sys", recursive=True)
        try:
            if fstatfs_type(tree) != SYSFS_MAGIC:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            k.mount_setattr(tree, set_=self.options.set | k.MOUNT_ATTR_RDONLY, recursive=True)
            k.move_mount(tree, target)
        except BaseException:
            os.close(tree)
            raise
        return tree

    def _hint(self, root: RootFs, error: OSError) -> str:
        if error.errno == 19:
            return f"the kernel knows no file system {self.fstype}"
        if error.errno == 1 and root.in_user_namespace():
            return {
                "sysfs": "a user namespace can mount sysfs only with a network namespace of its own",
                "mqueue": "a user namespace can mount mqueue only with an ipc namespace of its own",
                "proc": "a user namespace can mount proc only with a pid namespace of its own, "
                        "and where the host's /proc is not partly covered",
            }.get(self.fstype, "")
        return ""

    def _defer_read_only(self) -> bool:
        # Mount points and devices below still have to be made.
        return self.fstype == "tmpfs" and self.options.read_only

    def _exists(self, root: RootFs) -> bool:
        try:
            os.close(root.open(self.unsafe_target))
        except OSError:
            return False
        return True

    def _mount(self, root: RootFs, target: int, made: bool) -> int:
        if any(len(value or "") > _FSCONFIG_MAX for _, value in self.options.data):
            return self._mount_old(root, target)
        fs_fd = k.fsopen(self.fstype)
        try:
            mount_fd = self._configure(fs_fd)
        finally:
            os.close(fs_fd)
        if self.fstype == "tmpfs":
            self._fill_tmpfs(mount_fd, target, made)
        elif self.fstype == "mqueue" and root.mount_label:
            _label(mount_fd, root.mount_label)  # which takes no context
        k.move_mount(mount_fd, target)
        return mount_fd

    def _configure(self, fs_fd: int) -> int:
        options = self.options
        try:
            k.fsconfig_string(fs_fd, "source", self.source or self.fstype)
            if options.read_only and not self._defer_read_only():
                k.fsconfig_flag(fs_fd, "ro")
            for flag in options.superblock:
                self._superblock_flag(fs_fd, flag)
            for key, value in options.data:
                if value is None:
                    k.fsconfig_flag(fs_fd, key)
                else:
                    k.fsconfig_string(fs_fd, key, value)
            k.fsconfig_create(fs_fd)
        except OSError as error:
            said = "; ".join(k.fs_messages(fs_fd))
            if said:  # the file system's own words name the option
                raise KernelError(f"{self.describe()}: {said}", pointer=self.pointer, errno=error.errno or 0) from None
            raise
        attributes = options.set
        if self._defer_read_only():
            attributes &= ~k.MOUNT_ATTR_RDONLY
        return k.fsmount(fs_fd, attributes)

    def _superblock_flag(self, fs_fd: int, flag: str) -> None:
        try:
            k.fsconfig_flag(fs_fd, flag)
        except OSError:
            # What is the default anyway may be unknown to fsconfig (`async`, `nolazytime`); `iversion`,
            # `silent` and `mand` (gone since Linux 5.15) have no effect a container could see.
            if flag in ("sync", "dirsync", "lazytime"):
                raise
            k.fs_messages(fs_fd)

    def _fill_tmpfs(self, mount_fd: int, target: int, made: bool) -> None:
        """The mode of the directory underneath unless `mode=` was given, and with tmpcopyup its contents."""
        # What is underneath was made for this mount: its mode is nobody's wish, the kernel's 1777 holds.
        if self.options.data_value("mode") is None and not made:
            os.chmod(".", os.fstat(target).st_mode & 0o7777, dir_fd=mount_fd)
        if self.options.tmpcopyup:
            source = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
            try:
                copy_tree(source, mount_fd)
            finally:
                os.close(source)

    def _mount_old(self, root: RootFs, target: int) -> int:
        """mount(2), for options too long for fsconfig; the target is the working directory, not a path."""
        os.fchdir(target)
        k.mount(self.source or self.fstype, ".", self.fstype, self.options.old_flags(), self.options.data_string())
        os.chdir("/")
        return root.open(self.unsafe_target)


def _label(mount_fd: int, label: str) -> None:
    """Give the root of a mount an SELinux label."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount_fd)
    try:
        os.setxattr(fd, "security.selinux", label.encode())
    finally:
        os.close(fd)


class BindMount(MountStep):
    """A bind of `source` (absolute, or relative to the bundle) onto `unsafe_target` below the root."""

    __slots__ = ()

    def describe(self) -> str:
        ids = f", {self.idmap.describe()}" if self.idmap else ""
        return f"bind {self.source} on {self.unsafe_target}{self._names()}{ids}"

    def warning(self) -> str:
        if not self.options.data:
            return ""
        return f"{self.pointer}/options: {self.options.data_string()}: a bind mount has no options of a file system, " \
            "but its source's; left out"

    def open_tree(self) -> int:
        """A detached copy of the source's mount (tree).  Raises KernelError naming the source."""
        try:
            return k.open_tree(AT_FDCWD, self.source, recursive=self.options.recursive)
        except OSError as error:
            hint = ""
            if self.idmap is not None and error.errno == 1:
                hint = "mapping the ids of a mount needs CAP_SYS_ADMIN outside of the container"
            raise kernel_error(f"bind source {self.source}", error, pointer=self.pointer, hint=hint) from None

    def apply(self, root: RootFs) -> None:
        tree = root.sources.pop(self.index, -1)
        if tree < 0:
            tree = self.open_tree()
        try:
            target = root.make_target(self.unsafe_target, directory=is_directory(tree), pointer=self.pointer,
                                      procfs=_is_procfs_root(tree))
            try:
                options = self.options
                # The kernel ignores every flag but MS_REC on a bind; attributes need a call of their own,
                # and made here the mount is never seen without them.
                if options.set or options.clear:
                    k.mount_setattr(tree, set_=options.set, clear=options.clear)
                k.move_mount(tree, target)
                self._finish(tree)
            finally:
                os.close(target)
        except OSError as error:
            hint = ""
            if error.errno == 1 and root.in_user_namespace():
                hint = "the source's mount has flags (nosuid, nodev, noexec, ro) locked that the options would clear"
            raise kernel_error(self.describe(), error, pointer=self.pointer, hint=hint) from None
        finally:
            os.close(tree)


def _is_procfs_root(fd: int) -> bool:
    """Whether `fd` is the root of a procfs, whose inode is 1: a directory below one is no /proc."""
    return fstatfs_type(fd) == PROC_SUPER_MAGIC and os.fstat(fd).st_ino == 1


class Remount(MountStep):
    """`remount`: new options for what is mounted at the destination already."""

    __slots__ = ()

    def describe(self) -> str:
        return f"remount {self.unsafe_target}{self._names()}"

    def apply(self, root: RootFs) -> None:
        options = self.options
        try:
            target = root.open(self.unsafe_target)
            try:
                if not options.bind and (options.data or options.superblock_flags):
                    os.fchdir(root.proc_self)  # a file can't be the working directory, its link in /proc serves both
                    k.mount(None, f"fd/{target}", None, k.MS_REMOUNT | options.old_flags(), options.data_string())
                    os.chdir("/")
                elif options.set or options.clear:
                    k.mount_setattr(target, set_=options.set, clear=options.clear)
                self._finish(target)
            finally:
                os.close(target)
        except OSError as error:
            raise kernel_error(self.describe(), error, pointer=self.pointer) from None


class CgroupMount(MountStep):
    """`cgroup`: the container's view of its control groups, v1 or v2 as the host has them."""

    __slots__ = ()

    def describe(self) -> str:
        return f"cgroup on {self.unsafe_target}{self._names()}"

    def apply(self, root: RootFs) -> None:
        target = root.make_target(self.unsafe_target, directory=True, pointer=self.pointer)
        try:
            mount_fd = mount_cgroup(root, target, self.options, self.fstype)
            try:
                self._finish(mount_fd)
            finally:
                os.close(mount_fd)
        except OSError as error:
            hint = ""
            if error.errno == 1 and root.in_user_namespace():
                hint = "a user namespace without its own cgroup namespace cannot mount cgroup"
            raise kernel_error(self.describe(), error, pointer=self.pointer, hint=hint) from None
        finally:
            os.close(target)


def plan(config: Config, bundle: str) -> list[MountStep]:
    """The steps for `mounts`, in the listed order.  Raises ConfigError."""
    steps: list[MountStep] = []
    linux = config.get("linux") or {}
    label = labelled_by = ""
    if linux.get("mountLabel"):
        from . import lsm

        label, labelled_by = lsm.mount_label(linux), lsm.context_option(config.get("annotations") or {})
    for index, entry in enumerate(config.get("mounts") or ()):
        pointer = f"/mounts/{index}"
        options = parse(list(entry.get("options") or ()), pointer)
        fstype = entry.get("type") or ""
        source = entry.get("source") or ""
        target = "/" + clean(entry["destination"])
        kind: type[MountStep] = FilesystemMount
        if options.remount:
            kind = Remount
        elif options.bind or fstype == "bind":
            if not source:
                raise ConfigError(pointer, "a bind mount needs a source")
            source = source if source.startswith("/") else os.path.join(bundle, source)
            kind = BindMount
        elif fstype in ("cgroup", "cgroup2"):
            kind = CgroupMount
        elif fstype in ("", "none"):
            raise ConfigError(pointer, "a mount needs a type, or bind or rbind among its options")
        if options.tmpcopyup and (kind is not FilesystemMount or fstype != "tmpfs"):
            raise ConfigError(pointer, "tmpcopyup works only for a tmpfs")
        step = kind(index, source, target, fstype, options)
        if options.idmap or entry.get("uidMappings"):
            if kind is not BindMount:
                raise ConfigError(pointer, "only a bind mount can have its ids mapped")
            from . import idmap

            step.idmap = idmap.plan(entry, options, linux, pointer)
        if label and kind is FilesystemMount and lsm.takes_context(fstype) and options.data_value(labelled_by) is None:
            options.data.append((labelled_by, label))
        steps.append(step)
    return steps
