# SPDX-License-Identifier: Apache-2.0
"""The systemd driver: a container's cgroup is that of a transient unit (systemd: Control Group APIs and Delegation).

`Unit` says which unit, and where its cgroup is; `SystemdCgroup` has systemd make it with the container's
init in it, tells it the limits, and has it removed.  The files of the cgroup are written as ever: the
unit is delegated.  Nothing here is imported without --systemd-cgroup; D-Bus is only where it is spoken.
"""

from __future__ import annotations

import os
import time

from . import cgroupfs, cgroupv1, cgroupv2
from .cgroup import MOUNT_POINT, POINTER, Cgroup, cannot_remove, mode
from .errors import ConfigError, ContainerError, PyruncError, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any

    from .device_rules import Rules
    from .limits import Write
    from .spec.types import Config
    from .systemd_properties import Property


_PREFIX = "runc"  # what names a unit where cgroupsPath doesn't: clients look for runc-ID.scope
_SLICES = {False: "system.slice", True: "user.slice"}
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.\\@-")
_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "io", "blkio", "memory", "devices", "pids")
_MAX_NAME = 255  # UNIT_NAME_MAX, systemd.unit(5)


def is_users(rootless: bool | None = None) -> bool:
    """Whether the unit is the user manager's: `rootless` as --rootless has it, None for auto.

    Root of a user namespace asks the user's manager too, unless it is one that a systemd of its own runs in.
    """
    if rootless is not None:
        return rootless
    if os.geteuid() != 0:
        return True
    try:
        first, own = os.stat("/proc/1/ns/user"), os.stat("/proc/self/ns/user")
    except OSError:
        return True  # not ours to look at
    return (first.st_dev, first.st_ino) != (own.st_dev, own.st_ino)


def expand_slice(name: str) -> str:
    """Where a slice is: `a-b.slice` at /a.slice/a-b.slice, and `-.slice`, the root, at "".  Raises ConfigError."""
    stem = name.removesuffix(".slice")
    parts = stem.split("-")
    if stem == "-":
        return ""
    if stem == name or not all(parts) or not _is_name(stem) or len(name) > _MAX_NAME:
        raise ConfigError(POINTER, f"invalid slice name: {name[:80]!a}", hint="as in system.slice, or a-b.slice, "
                                                                              "which is below a.slice")
    return "".join("/" + _directory(f"{'-'.join(parts[:count])}.slice") for count in range(1, len(parts) + 1))


def _is_name(text: str) -> bool:
    return bool(text) and not set(text) - _LETTERS


def _directory(name: str) -> str:
    """The cgroup of a unit: one that could be taken for a file of the kernel has _ before it."""
    stem = name.rpartition(".")[0]
    return "_" + name if name[0] in "._" or stem in _CONTROLLERS or name.startswith("cgroup.") else name


class Unit:
    """A transient unit: a scope in `slice`, or (its name says so) a slice itself.

    `user`: the user manager's, below whose own cgroup, `base`, it is.
    """

    __slots__ = ("base", "description", "name", "slice", "user")

    def __init__(self, name: str, slice: str, user: bool, base: str = "", description: str = "") -> None:
        self.name = name
        self.slice = slice
        self.user = user
        self.base = base
        self.description = description

    @classmethod
    def parse(cls, cgroups_path: str | None, container_id: str, user: bool) -> Unit:
        """The unit that cgroupsPath, `slice:prefix:name`, names: prefix-name.scope.  Raises ConfigError."""
        parts = cgroups_path.split(":") if cgroups_path else ["", _PREFIX, container_id]
        if len(parts) != 3:
            raise ConfigError(POINTER, f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
                                       f"got {cgroups_path!a} instead", hint="or leave out --systemd-cgroup")
        slice, prefix, name = parts
        slice = slice or _SLICES[user]
        above = expand_slice(slice)
        if name.endswith(".slice"):
            if expand_slice(name).rpartition("/")[0] != above:
                raise ConfigError(POINTER, f"the slice {name[:80]!a} isn't one of {slice}",
                                  hint="its name has to begin with that of the slice above it and -")
        else:
            name = f"{prefix}-{name}.scope"
        if not _is_name(name) or len(name) > _MAX_NAME:
            raise ConfigError(POINTER if cgroups_path else "", f"{name[:80]!a} can't be the name of a systemd unit",
                              hint="it has letters, digits and :-_.\\@, and is 255 long at most")
        return cls(name, slice, user, description=f"libcontainer container {parts[2]}")

    def to_data(self) -> dict[str, Any]:
        """For state.json."""
        return {"name": self.name, "slice": self.slice, "user": self.user, "base": self.base}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Unit:
        """What `to_data` described."""
        return cls(data["name"], data["slice"], bool(data["user"]), data["base"])

    @property
    def is_slice(self) -> bool:
        return self.name.endswith(".slice")

    def cgroup_path(self) -> str:
        """Where its cgroup is in each hierarchy: /system.slice/runc-x.scope.

        Of a user's unit that is known once `Manager.locate` has asked.
        """
        return f"{self.base}{expand_slice(self.slice)}/{_directory(self.name)}"

    def object_path(self) -> str:
        """Its D-Bus object: what isn't a letter, or a digit that isn't the first, is in hexadecimal."""
        escaped = "".join(character if character.isascii() and (character.isalpha() or (character.isdigit() and at))
                          else f"_{ord(character):02x}" for at, character in enumerate(self.name))
        return f"/org/freedesktop/systemd1/unit/{escaped}"

    def __repr__(self) -> str:
        return f"<{self.name} in {self.slice}{' of the user' if self.user else ''}>"


def plan(cgroups_path: str | None, container_id: str, config: Config, rootless: bool | None) -> SystemdCgroup:
    """cgroup.plan, with systemd.  Of a user's unit the user's systemd is asked where it will be."""
    from . import systemd_bus, systemd_properties
    from .systemd_manager import Manager

    systemd_bus.require_booted()
    unit = Unit.parse(cgroups_path, container_id, is_users(rootless))
    how = mode()
    if unit.user and how != "unified":
        raise ConfigError(POINTER, "the user's systemd has no cgroups to give on a host with cgroup v1",
                          hint="leave out --systemd-cgroup")
    resources = (config.get("linux") or {}).get("resources") or {}
    properties = systemd_properties.annotated(config.get("annotations") or {})
    if unit.user:
        with Manager(True) as manager:
            manager.locate(unit)
    path = unit.cgroup_path()
    try:
        if how == "unified":
            paths = {"": MOUNT_POINT + path}
        else:
            found = cgroupv1.own_hierarchies(how == "hybrid", cgroupfs.read("/proc/self/cgroup"))
            paths = {controller: hierarchy.path(path) for controller, hierarchy in found.items()}
    except OSError as error:
        raise kernel_error("find the cgroups of this process", error) from None
    cgroup = SystemdCgroup(how, paths, unit)
    cgroup.pointer = POINTER if cgroups_path else ""
    cgroup.begin(properties, resources.get("unified") or {})
    return cgroup


class SystemdCgroup(Cgroup):
    """The cgroup of a unit.  It is there, and ours, once the first process is added: a unit needs one to begin with."""

    __slots__ = ("_killed_before", "_properties", "_unified", "unit")

    made_by_joining = True

    def __init__(self, mode: Any, paths: Mapping[str, str], unit: Unit) -> None:
        super().__init__(mode, paths)
        self.unit = unit
        self._properties: list[Property] = []
        self._unified: Mapping[str, str] = {}
        self._killed_before = -1  # in the slice, and known only while a limit is being set

    def begin(self, properties: list[Property], unified: Mapping[str, str]) -> None:
        """What the unit begins with: properties, and of linux.resources.unified what can't be told later."""
        self._properties = properties
        self._unified = unified

    def to_data(self) -> dict[str, Any]:
        return {**super().to_data(), "unit": self.unit.to_data()}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> SystemdCgroup:
        cgroup = cls(data["mode"], data["paths"], Unit.from_data(data["unit"]))
        cgroup.take_data(data)
        return cgroup

    def _ours(self) -> list[str]:
        return self.directories() if self.claimed else []

    # Making it, joining it

    def create(self) -> None:
        """Nothing is made yet, but what is there already must be of nobody."""
        for path in self.directories():
            try:
                pids = cgroupfs.pids_at(path)
            except OSError as error:
                raise kernel_error(f"list the processes of {path}", error) from None
            if pids:
                raise self.not_empty(path, pids)
        if self.frozen():
            raise ContainerError(f"cgroup {self.freezer()} is frozen", pointer=self.pointer,
                                 hint="a process put into it would never run")

    def add(self, pid: int, but: Collection[str] = ()) -> None:
        if not self.claimed:
            self._start(pid or os.getpid())
            return
        super().add(pid, but)

    def _start(self, pid: int) -> None:
        from .systemd_manager import Manager

        with Manager(self.unit.user) as manager:
            manager.start(self.unit, [pid], mode=self.mode, unified=self._unified, properties=self._properties)
        self.claimed = True
        for path in self.directories():
            # systemd makes the cgroup where it has a controller for the unit; the others are as it doesn't know them.
            try:
                cgroupfs.make(path, [])
            except OSError as error:
                raise kernel_error(f"make the cgroup {path}", error, syscall="mkdir", pointer=self.pointer) from None
        if self.mode == "unified":
            for path in self.directories():
                self.warnings += cgroupv2.enable_controllers(path)
        elif "cpuset" in self.paths:
            cgroupv1.fill_cpuset(self.paths["cpuset"])
        if self.mode != "unified" or self.unit.is_slice:
            super().add(pid)

    def _add(self, path: str, pid: int) -> None:
        """An ordinary user may move a process only within what is delegated to it; systemd moves any of the user's."""
        try:
            cgroupfs.write(f"{path}/cgroup.procs", str(pid))
        except PermissionError:
            if self.mode != "unified":
                super()._add(path, pid)
                return
            from .systemd_manager import Manager

            with Manager(self.unit.user) as manager:
                manager.attach(self.unit, pid or os.getpid())
        except OSError:
            super()._add(path, pid)

    # Its limits

    def announce(self, writes: list[Write], rules: Rules | None, *,
                 undo: bool) -> tuple[list[Write], Callable[[], None] | None]:
        """Tell systemd the limits, or it would write its own over ours the next time it goes over the unit."""
        from .systemd_manager import Manager
        from .systemd_properties import settle

        directories = {name: path for name, path in self.paths.items() if path not in self.skipped}
        writes = settle(writes, directories)
        self._killed_before = self._killed_in_slice()
        with Manager(self.unit.user) as manager:
            properties = manager.limits(writes, directories)
            if rules is not None:
                properties += manager.devices(rules, self.mode)
            return writes, manager.set(self.unit, properties, undo=undo)

    def oom_kills(self) -> int:
        """As every cgroup's.  systemd removes one whose last process was killed: then its slice knows, which counts
        what happens below it (memory.events, cgroup-v2.rst)."""
        count = super().oom_kills()
        if count or self._killed_before < 0 or os.path.exists(self.paths.get("", "/")):
            return count
        return max(0, self._killed_in_slice() - self._killed_before)

    def _killed_in_slice(self) -> int:
        if self.mode != "unified":
            return 0
        return Cgroup(self.mode, {"": os.path.dirname(self.paths[""])}).oom_kills()

    # Removing it

    def destroy(self, timeout: float = 10.0) -> None:
        """Have systemd stop the unit, once it is empty (it would give the processes 90 s), and remove the rest."""
        if not self.claimed:
            return
        from .systemd_manager import Manager

        deadline = time.monotonic() + timeout
        pause = 0.001
        while pids := self._everyone():
            if time.monotonic() >= deadline:
                raise cannot_remove(self.directories()[0], pids)
            time.sleep(pause)
            pause = min(pause * 2, 0.1)
        failure: PyruncError | None = None
        try:
            with Manager(self.unit.user) as manager:
                manager.stop(self.unit)
        except PyruncError as error:
            failure = error
        super().destroy(max(0.0, deadline - time.monotonic()))
        if failure is not None and any(os.path.exists(path) for path in self.directories()):
            raise failure  # else systemd, when it is back, finds the unit's cgroup gone, and so the unit
