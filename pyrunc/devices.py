# SPDX-License-Identifier: Apache-2.0
"""Device nodes and the links in /dev (config-linux.md, Devices and Default Devices)."""

from __future__ import annotations

import os
import stat

from .errors import ConfigError, kernel_error
from .linux import mount as k
from .linux.fs import AT_FDCWD, O_PATH, mount_id
from .paths import clean, make_directory, open_in_root, proc_reopen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .rootfs import RootFs
    from .spec.types import Config

_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}

DEFAULT_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/random", 1, 8),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/zero", 1, 5),
    ("/dev/urandom", 1, 9),
)

LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
)


class DeviceNode:
    """A node to make below the root: a default one, or an entry of linux.devices."""

    __slots__ = ("gid", "kind", "mode", "path", "pointer", "rdev", "uid")

    def __init__(self, path: str, kind: str, rdev: int, mode: int, uid: int, gid: int, pointer: str) -> None:
        self.path = path
        self.kind = kind
        self.rdev = rdev
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.pointer = pointer

    def describe(self) -> str:
        numbers = "" if self.kind == "p" else f" {os.major(self.rdev)}:{os.minor(self.rdev)}"
        return f"device {self.path} {self.kind}{numbers} mode {self.mode:04o} owner {self.uid}:{self.gid}"

    def matches(self, info: os.stat_result) -> bool:
        """Whether an existing file is this device."""
        if stat.S_IFMT(info.st_mode) != _KINDS[self.kind]:
            return False
        return self.kind == "p" or info.st_rdev == self.rdev

    def apply(self, root: RootFs) -> None:
        """Make the node, or bind the host's where mknod(2) is not allowed (a user namespace)."""
        try:
            self._apply(root)
        except OSError as error:
            raise kernel_error(self.describe(), error, pointer=self.pointer) from None

    def _apply(self, root: RootFs) -> None:
        head, _, name = clean(self.path).rpartition("/")
        parent = make_directory(root.fd, head)
        try:
            if root.user_namespace and self.kind != "p":
                self._bind(parent, name)
                return
            try:
                os.mknod(name, self.mode | _KINDS[self.kind], self.rdev, dir_fd=parent)
            except FileExistsError:
                there = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if not self.matches(there):
                    # config-linux.md: "the runtime MUST generate an error".
                    raise ConfigError(self.pointer,
                                      f"{self.path} exists in the rootfs and is not that device") from None
                if _is_mounted(root, parent, name):
                    return  # one of /mounts: the host's own node, which is not ours to change
            except PermissionError:
                self._bind(parent, name)
                return
            os.chown(name, self.uid, self.gid, dir_fd=parent, follow_symlinks=False)
            # chmod by name would follow a link put there meanwhile.
            node = os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            if not self.matches(os.fstat(node)):
                os.close(node)
                raise ConfigError(self.pointer, f"{self.path} was exchanged while it was made")
            os.chmod(f"fd/{node}", self.mode, dir_fd=root.proc_self)
            os.close(node)
        finally:
            os.close(parent)

    def _bind(self, parent: int, name: str) -> None:
        """Bind the host's node of that device."""
        source = self._hosts()
        try:
            try:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC,
                                 0o600, dir_fd=parent))
            except FileExistsError:
                if self.matches(os.stat(name, dir_fd=parent, follow_symlinks=False)):
                    return
            target = os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            k.move_mount(source, target)
            os.close(target)
        finally:
            os.close(source)

    def _hosts(self) -> int:
        """The host's node, a tree to be mounted: what is at the same path, or has the name that the kernel gave it.

        The container's path may be of the user's choice, as in `docker run --device /dev/zero:/dev/source`.
        """
        source = self._tree(self.path)
        if source < 0:
            source = self._tree(_kernel_path(self.kind, self.rdev))
        if source >= 0:
            return source
        raise ConfigError(self.pointer, f"{self.describe()}: the host has no such device, at {self.path} or under "
                                        "the name that the kernel has for it, and the container may not make one")

    def _tree(self, path: str) -> int:
        """A mount of what is there to be attached elsewhere; -1 if it isn't this device."""
        try:
            source = k.open_tree(AT_FDCWD, path) if path else -1
        except FileNotFoundError:
            return -1
        if source >= 0 and not self.matches(os.fstat(source)):
            os.close(source)
            return -1
        return source


def _kernel_path(kind: str, rdev: int) -> str:
    """Where devtmpfs has that device; "" where sysfs knows none."""
    place = f"/sys/dev/{'block' if kind == 'b' else 'char'}/{os.major(rdev)}:{os.minor(rdev)}/uevent"
    try:
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        lines = os.read(fd, 4096).decode(errors="surrogateescape").split("\n")
    finally:
        os.close(fd)
    for line in lines:
        if line.startswith("DEVNAME="):
            return "/dev/" + line.partition("=")[2]
    return ""


def _is_mounted(root: RootFs, parent: int, name: str) -> bool:
    """Whether the node is a mount of its own.  (On an overlay its device number says nothing of that.)"""
    node = os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        here, there = (mount_id(f"fdinfo/{fd}", root.proc_self) for fd in (parent, node))
    finally:
        os.close(node)
    return here != there


def wants_dev(config: Config) -> bool:
    """Whether /dev is ours to fill: not when the host's is bound there (as runc)."""
    for mount in config.get("mounts") or ():
        options = mount.get("options") or ()
        if clean(mount["destination"]) == "dev" and ("bind" in options or "rbind" in options
                                                      or mount.get("type") == "bind"):
            return False
    return True


def plan(config: Config) -> list[DeviceNode]:
    """The nodes to make: the defaults, and linux.devices, which override them by path."""
    if not wants_dev(config):
        return []
    nodes = {
        path: DeviceNode(path, "c", os.makedev(major, minor), 0o666, 0, 0, "/linux/devices")
        for path, major, minor in DEFAULT_DEVICES
    }
    for index, entry in enumerate((config.get("linux") or {}).get("devices") or ()):
        pointer = f"/linux/devices/{index}"
        kind = entry["type"]
        rdev = 0 if kind == "p" else os.makedev(entry["major"], entry["minor"])
        path = "/" + clean(entry["path"])
        mode = entry.get("fileMode")
        nodes[path] = DeviceNode(path, kind, rdev, 0o666 if mode is None else mode & 0o7777,
                                 entry.get("uid") or 0, entry.get("gid") or 0, pointer)
    return list(nodes.values())


def own_null(root: RootFs) -> None:
    """Have standard streams that are the host's /dev/null be the container's, where it has one (as runc).

    Else they hold a file of a mount that isn't in the container, which criu can't write down.
    """
    null = os.makedev(1, 3)
    for fd in (0, 1, 2):
        info = os.fstat(fd)
        if not stat.S_ISCHR(info.st_mode) or info.st_rdev != null:
            continue
        try:
            place = root.open("dev/null")
        except OSError:
            return  # the image has none
        found = os.fstat(place)
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == null:
            try:
                own = proc_reopen(root.proc_self, place, os.O_RDWR)
            except PermissionError:
                pass  # a cgroup above forbids devices, as Podman 4.3's of a pod on v2; this descriptor works
            else:
                os.dup2(own, fd)
                os.close(own)
        os.close(place)


def make_links(root: RootFs) -> None:
    """/dev/fd, /dev/stdin, /dev/stdout, /dev/stderr and /dev/ptmx; what the image has is kept."""
    try:
        dev = make_directory(root.fd, "dev")
        try:
            for target, name in LINKS:
                try:
                    os.symlink(target, name, dir_fd=dev)
                except FileExistsError:
                    pass
            # Debian's /proc/kcore link is runc's too.
            try:
                open_kcore = open_in_root(root.fd, "proc/kcore")
                os.close(open_kcore)
                os.symlink("/proc/kcore", "core", dir_fd=dev)
            except OSError:
                pass
            # /dev/ptmx of the container must be that of its own devpts, not the host's.
            try:
                os.unlink("ptmx", dir_fd=dev)
            except OSError as error:
                if error.errno not in (2, 16):  # missing; a mount point: somebody chose it
                    raise
            try:
                os.symlink("pts/ptmx", "ptmx", dir_fd=dev)
            except FileExistsError:
                pass
        finally:
            os.close(dev)
    except OSError as error:
        raise kernel_error("the links in /dev", error) from None


