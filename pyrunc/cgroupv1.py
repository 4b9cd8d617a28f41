# SPDX-License-Identifier: Apache-2.0
"""cgroup v1: one hierarchy a controller (kernel: admin-guide/cgroup-v1), found where it is mounted.

On a hybrid machine the v2 hierarchy, under the controller name "", is one more of them.
"""

from __future__ import annotations

import errno
import os
import time

from . import cgroupfs
from .cgroupfs import GONE
from .errors import ContainerError, kernel_error

MOUNT_POINT = "/sys/fs/cgroup"
UNIFIED = "/sys/fs/cgroup/unified"  # where systemd's hybrid set-up has the v2 hierarchy
SYSTEMD = "name=systemd"  # the one named hierarchy that processes are kept in

_FREEZE_SECONDS = 2.0


class Hierarchy:
    """A mounted hierarchy: `root` is the cgroup that shows at `mount_point`, `own` the one we are in."""

    __slots__ = ("mount_point", "own", "root")

    def __init__(self, mount_point: str, root: str, own: str) -> None:
        self.mount_point = mount_point
        self.root = root
        self.own = own

    def path(self, cgroups_path: str) -> str:
        """The directory for a (cleaned) cgroupsPath: from the mount point if absolute, else from our own."""
        if cgroups_path.startswith("/"):
            return self.mount_point + cgroups_path
        own = self.own
        if self.root != "/":
            # Bind-mounted into a container: /proc/self/cgroup has the whole path, the mount only its end.
            inside = own == self.root or own.startswith(self.root + "/")
            own = own[len(self.root) :] if inside else ""
        parts = [part for part in own.split("/") if part]
        # Outside of what a cgroup namespace shows, the path climbs (cgroup_namespaces(7)).
        base = "" if ".." in parts else "".join("/" + part for part in parts)
        return f"{self.mount_point}{base}/{cgroups_path}"


def hierarchies(hybrid: bool, mountinfo: str, own_cgroups: str) -> dict[str, Hierarchy]:
    """The mounted hierarchies by controller, from /proc/self/mountinfo and /proc/self/cgroup (proc(5))."""
    mounts = _mounts(mountinfo)
    found: dict[str, Hierarchy] = {}
    for line in own_cgroups.splitlines():
        _, controllers, own = line.split(":", 2)
        for controller in controllers.split(","):
            if controller.startswith("name=") and controller != SYSTEMD:
                continue
            if not controller:
                if hybrid:
                    found[""] = Hierarchy(UNIFIED, "/", own)
            elif controller in mounts:
                found[controller] = Hierarchy(*mounts[controller], own)
    return found


def _mounts(mountinfo: str) -> dict[str, tuple[str, str]]:
    """(mount point, root) of each controller: below /sys/fs/cgroup if there is a choice, else the first."""
    found: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        mount, separator, rest = line.partition(" - cgroup ")
        if not separator:
            continue
        fields = mount.split(" ")
        place = (_unescape(fields[4]), _unescape(fields[3]))
        usual = place[0].startswith(MOUNT_POINT + "/")
        for option in rest.split(" ")[-1].split(","):
            if option not in found or (usual and not found[option][0].startswith(MOUNT_POINT + "/")):
                found[option] = place
    return found


def _unescape(text: str) -> str:
    """proc(5): space, tab, newline and backslash stand as three octal digits."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def fill_cpuset(path: str) -> None:
    """Give a cpuset and its ancestors the cpus and memory nodes of their parents where they have none.

    A new cpuset is empty, and no process can join it then (admin-guide/cgroup-v1/cpusets.rst, 1.5).
    """
    chain: list[tuple[str, list[str]]] = []
    try:
        while empty := [name for name in ("cpuset.cpus", "cpuset.mems") if not _content(path, name)]:
            chain.append((path, empty))
            path = os.path.dirname(path)
    except FileNotFoundError:
        pass  # above the hierarchy's root
    for path, empty in reversed(chain):
        parent = os.path.dirname(path)
        try:
            for name in empty:
                cgroupfs.write(f"{path}/{name}", _content(parent, name))
        except OSError as error:
            raise kernel_error(f"give {path} its parent's cpus and memory nodes", error) from None


def _content(directory: str, name: str) -> str:
    return cgroupfs.read(f"{directory}/{name}").strip()


def frozen(path: str) -> bool:
    """Whether the cgroup of the freezer hierarchy is frozen or being so, by itself or by an ancestor."""
    try:
        return _content(path, "freezer.state") != "THAWED"
    except OSError as error:
        if error.errno in GONE:
            return False
        raise


def freeze(path: str, seconds: float = _FREEZE_SECONDS) -> None:
    """Freeze the cgroup of the freezer hierarchy; thawed again, with a ContainerError, when it doesn't work.

    A process that forks fast, or stands in a system call that can't be interrupted, holds the state
    at FREEZING: writing again and thawing between times help (freezer-subsystem.rst).
    """
    file = f"{path}/freezer.state"
    deadline = time.monotonic() + seconds
    tries = 0
    while True:
        cgroupfs.write(file, "FROZEN")
        if cgroupfs.read(file).strip() == "FROZEN":
            return
        tries += 1
        if time.monotonic() > deadline:
            cgroupfs.write(file, "THAWED")
            raise ContainerError(f"cgroup {path} can't be frozen within {seconds:g} s")
        if tries % 25 == 0:
            cgroupfs.write(file, "THAWED")
        time.sleep(0.001)


def thaw(path: str, recursive: bool = False) -> None:
    """Thaw the cgroup; with `recursive`, also those below it that were frozen by themselves."""
    if not recursive:
        cgroupfs.write(f"{path}/freezer.state", "THAWED")
        return
    top = cgroupfs.open_directory(path)
    try:
        for fd in cgroupfs.walk(top):
            try:
                cgroupfs.write("freezer.state", "THAWED", fd)
            except OSError as error:
                if error.errno not in (*GONE, errno.EACCES):
                    raise
    finally:
        os.close(top)
