# SPDX-License-Identifier: Apache-2.0
"""A container's cgroup, whatever the version (config-linux.md, Control groups).

`plan` decides where it is; `Cgroup` makes it, puts processes in, finds, signals and freezes them,
and removes it.  What differs between the versions is in cgroupv1.py and cgroupv2.py.
"""

from __future__ import annotations

import errno
import os
import time

from . import cgroupfs, cgroupv1, cgroupv2
from .errors import ConfigError, ContainerError, KernelError, PyruncError, kernel_error
from .linux import fs
from .linux.process import in_user_namespace
from .paths import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, Literal

    from .device_rules import Rules
    from .limits import Write
    from .spec.types import Config, Resources

    Mode = Literal["unified", "hybrid", "legacy"]

MOUNT_POINT = "/sys/fs/cgroup"
POINTER = "/linux/cgroupsPath"

_SIGKILL = 9
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_BUSY = (errno.EBUSY, errno.ENOTEMPTY)
_KILL_GRACE = 0.1  # for what cgroup.kill has killed to be gone
_EINVAL_TRIES = 5
_PIDS_SHOWN = 10
_JOIN_HINTS = {
    errno.EBUSY: "it passes controllers on to cgroups below it, so it can't hold processes",
    errno.EOPNOTSUPP: "it is below a threaded one without being threaded itself",
}


def mode() -> Mode:
    """How this machine has its cgroups mounted, judged as runc does: by the file systems at their places."""
    if _type(MOUNT_POINT) == fs.CGROUP2_SUPER_MAGIC:
        return "unified"
    return "hybrid" if _type(cgroupv1.UNIFIED) == fs.CGROUP2_SUPER_MAGIC else "legacy"


def _type(path: str) -> int:
    try:
        return fs.statfs_type(path)
    except OSError:
        return 0


def plan(cgroups_path: str | None, container_id: str, rootless: bool | None = None) -> Cgroup:
    """The cgroup of a container, nothing done yet (with systemd: cgroup_systemd.plan).

    `rootless` says whether it may be gone without where we aren't allowed to make it; None: who we are does.

    An absolute `cgroupsPath` counts from where the hierarchy is mounted; a relative one, and the id
    where none is given, from pyrunc's own cgroup.  `..` leads out of neither.
    """
    path = clean(cgroups_path or container_id)
    if not path:
        raise ConfigError(POINTER, f"{cgroups_path!a} names no cgroup that could be made",
                          hint="a container needs a cgroup of its own")
    if cgroups_path and cgroups_path.startswith("/"):
        path = "/" + path
    how = mode()
    try:
        own = cgroupfs.read("/proc/self/cgroup")
        if how == "unified":
            paths = {"": cgroupv2.path(path, own)}
        else:
            found = cgroupv1.own_hierarchies(how == "hybrid", own)
            paths = {controller: hierarchy.path(path) for controller, hierarchy in found.items()}
    except OSError as error:
        raise kernel_error("find the cgroups of this process", error) from None
    cgroup = Cgroup(how, paths)
    cgroup.rootless = rootless
    cgroup.given = [path for path in cgroup.directories() if os.path.exists(path)]
    cgroup.pointer = POINTER if cgroups_path else ""
    return cgroup


def may_be_denied() -> bool:
    """Whether we are an ordinary user, or root of a user namespace only."""
    return os.geteuid() != 0 or in_user_namespace()


class Cgroup:
    """A cgroup in every hierarchy.

    `paths` has the directory by controller ("" the v2 hierarchy), `given` those that were there
    before us and so aren't ours to remove, `skipped` those that we aren't allowed to make (an
    ordinary user's), told in `warnings`.  Once `create` has found the given ones empty they are
    `claimed`: before that, or when it refused them, whoever is in there is none of ours, and isn't
    listed, signalled or frozen (a create that fails, or was killed, is cleaned up by these too).
    """

    __slots__ = ("claimed", "given", "mode", "paths", "pointer", "rootless", "skipped", "warnings")

    made_by_joining = False  # whether it is there only once a process is added

    def __init__(self, mode: Mode, paths: Mapping[str, str]) -> None:
        self.mode = mode
        self.paths = dict(paths)
        self.given: list[str] = []
        self.claimed = False
        self.skipped: list[str] = []
        self.warnings: list[str] = []
        self.pointer = ""
        self.rootless: bool | None = None

    def to_data(self) -> dict[str, Any]:
        """For state.json; to be written before `create`, and again after it."""
        return {"mode": self.mode, "paths": self.paths, "given": self.given, "claimed": self.claimed,
                "skipped": self.skipped}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Cgroup:
        """What `to_data` described."""
        if "unit" in data:
            from .cgroup_systemd import SystemdCgroup

            return SystemdCgroup.from_data(data)
        cgroup = cls(data["mode"], data["paths"])
        cgroup.take_data(data)
        return cgroup

    def take_data(self, data: Mapping[str, Any]) -> None:
        """What became of it since it was planned."""
        self.given = list(data["given"])
        self.claimed = bool(data["claimed"])
        self.skipped = list(data["skipped"])

    def directories(self) -> list[str]:
        """Each directory once: controllers may share a hierarchy."""
        return [path for path in dict.fromkeys(self.paths.values()) if path not in self.skipped]

    def _ours(self) -> list[str]:
        """The directories whose processes are the container's."""
        return [path for path in self.directories() if self.claimed or path not in self.given]

    # Making it, joining it

    def create(self) -> None:
        """Make the cgroup everywhere, or nowhere.

        One that is there already serves if no process is in it, nor below it, and it isn't frozen:
        otherwise it is somebody's, and a ContainerError names it.
        """
        made: list[str] = []
        try:
            for path in self.directories():
                self._create(path, made)
            if self.mode == "unified":
                for path in self.directories():
                    self._prepare_v2(path)
            elif "cpuset" in self.paths and self.paths["cpuset"] not in self.skipped:
                cgroupv1.fill_cpuset(self.paths["cpuset"])
            if self.frozen():
                raise ContainerError(f"cgroup {self.freezer()} is frozen", pointer=self.pointer,
                                     hint="a process put into it would never run")
        except BaseException:
            for path in reversed(made):
                try:
                    os.rmdir(path)
                except OSError:
                    continue
            self.given = self.directories()  # whatever is there now is not ours
            raise
        self.claimed = True

    def _create(self, path: str, made: list[str]) -> None:
        try:
            is_new = cgroupfs.make(path, made)
        except OSError as error:
            if error.errno in _DENIED and self.may_be_missing():
                self.skipped.append(path)
                self.warnings.append(f"cgroup {path} can't be made ({os.strerror(error.errno)}): left out")
                return
            hint = ("--rootless true goes without" if error.errno in _DENIED and may_be_denied() else
                    "as in a container; --cgroup-manager disabled goes without" if error.errno == errno.EROFS else "")
            raise kernel_error(f"make the cgroup {path}", error, syscall="mkdir", pointer=self.pointer, hint=hint) \
                from None
        if is_new:
            self.given = [other for other in self.given if other != path]
        elif pids := cgroupfs.pids_at(path):
            raise self.not_empty(path, pids)
        # What has come since it was planned is another create's, at the same moment: who of them stays has it all.

    def _prepare_v2(self, path: str) -> None:
        try:
            cgroupv2.make_threaded(path)
        except OSError as error:
            raise kernel_error(f"make the cgroup {path} threaded, as one above it is", error, pointer=self.pointer) \
                from None
        self.warnings += cgroupv2.enable_controllers(path)

    def may_be_missing(self) -> bool:
        """Whether an ordinary user, or root of a user namespace only, may be denied a cgroup.

        One that is named in config.json is wanted: to go without is for who says so (config-linux.md, Cgroups Path).
        """
        if self.rootless is None:
            return not self.pointer and may_be_denied()
        return self.rootless

    def not_empty(self, path: str, pids: list[int]) -> ContainerError:
        """That the cgroup is somebody's."""
        return ContainerError(f"cgroup {path} is not empty: {name_pids(pids)}", pointer=self.pointer,
                              hint="each container needs a cgroup of its own")

    def add(self, pid: int, but: Collection[str] = ()) -> None:
        """Put process `pid` into the cgroup; 0 is the calling process itself.  Those of `but` it has joined already."""
        for path in self.directories():
            if path not in but:
                self._add(path, pid)

    def _add(self, path: str, pid: int) -> None:
        for left in reversed(range(_EINVAL_TRIES)):
            try:
                cgroupfs.write(f"{path}/cgroup.procs", str(pid))
                return
            except OSError as error:
                number = error.errno or 0
                # A process that is just being born answers EINVAL for a moment.
                if number == errno.EINVAL and left:
                    time.sleep(0.03)
                    continue
                if number in _DENIED and self.may_be_missing():
                    self.skipped.append(path)
                    self.warnings.append(f"cgroup {path} can't be joined ({os.strerror(number)}): left out")
                    return
                raise kernel_error(f"put process {pid or os.getpid()} into the cgroup {path}", error, syscall="write",
                                   pointer=self.pointer, hint=_JOIN_HINTS.get(number, "")) from None

    def not_born(self, number: int) -> PyruncError | None:
        """That no process can be born in the cgroup, if this errno of clone3(2) says so."""
        if number not in _JOIN_HINTS:
            return None
        return KernelError(f"put the init into the cgroup {self.paths['']}", syscall="clone3", errno=number,
                           pointer=self.pointer, hint=_JOIN_HINTS[number])

    # Its limits

    def apply(self, resources: Resources, config: Config, warn: Callable[[str], None], *,
              update: bool = False) -> None:
        """Write the limits (config-linux.md, Control groups), and the device rules.

        `config` tells the devices the container has, which its rules must allow.  An `update` is all
        or nothing, and leaves the device rules alone unless `resources` has some.  Raises
        ConfigError or KernelError with the pointer of the field.
        """
        from . import resources as applied

        applied.apply(self, resources, config, warn, update=update)

    def announce(self, writes: list[Write], rules: Rules | None, *,
                 undo: bool) -> tuple[list[Write], Callable[[], None] | None]:
        """Tell the limits, and device `rules` if they change, to whoever else writes them: nobody, without systemd.

        The writes as they agree with that, and what takes it back.
        """
        return writes, None

    def delegate(self, config: Config) -> None:
        """Give the cgroup to the container's user, where it gets a view of it that can be written."""
        from . import resources as applied

        applied.delegate(self, config)

    def oom_kills(self) -> int:
        """How many processes the kernel has killed here because memory.limit was reached."""
        name = "" if self.mode == "unified" else "memory"
        file = "memory.events" if self.mode == "unified" else "memory.oom_control"
        try:
            lines = cgroupfs.read(f"{self.paths[name]}/{file}").splitlines()
        except (KeyError, OSError):
            return 0
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    # The processes in it

    def pids(self, recursive: bool = True) -> list[int]:
        """The processes in the cgroup, and with `recursive` below it, in ascending order.

        0 stands for those of another pid namespace.  Asked are the freezer and v2: these two are
        what processes are signalled by.
        """
        ours = self._ours()
        paths = [self.paths[name] for name in ("freezer", "") if name in self.paths]
        return self._pids_at([path for path in paths if path in ours] or ours, recursive)

    def _pids_at(self, paths: list[str], recursive: bool = True) -> list[int]:
        try:
            return sorted({pid for path in paths for pid in cgroupfs.pids_at(path, recursive)})
        except OSError as error:
            raise kernel_error("list the processes of the cgroup", error) from None

    def _everyone(self) -> list[int]:
        return self._pids_at(self._ours())

    def signal_all(self, signo: int, timeout: float = 10.0, *, freeze: bool = True) -> None:
        """Signal every process in the cgroup and below it, those born meanwhile included: it is frozen for that.

        SIGKILL reaches frozen ones too, and returns once they are gone or after `timeout` seconds
        (where the kernel has cgroup.kill for all of them, at once).
        """
        if signo == _SIGKILL:
            self._kill_all(time.monotonic() + timeout)
        else:
            self._signal_once(signo, freeze)

    def _signal_once(self, signo: int, freeze: bool = True) -> None:
        """While frozen they can neither fork nor go, so one pass reaches all."""
        thaw = False
        if freeze and not self.frozen():
            try:
                self.freeze()
                thaw = True
            except PyruncError:
                pass  # unfrozen, then: the second look and SIGKILL's further rounds must do
        try:
            cgroupfs.signal(self._everyone(), signo, self._everyone)
        except OSError as error:
            raise kernel_error("signal the processes of the cgroup", error) from None
        finally:
            if thaw:
                self.thaw()

    def _kill_all(self, deadline: float) -> None:
        try:
            killed = self.paths.get("") in self._ours() and cgroupv2.kill(self.paths[""])
        except OSError as error:
            raise kernel_error("kill the processes of the cgroup", error) from None
        if killed and self.mode == "unified":
            return
        # v1: a frozen process dies only when it is thawed.  And one may have left the v2 hierarchy's
        # cgroup, but not ours in another, so cgroup.kill isn't the end of it.
        self._thaw_tree()
        grace = time.monotonic() + _KILL_GRACE if killed else 0.0
        pause = 0.0005
        own = os.getpid()
        while [pid for pid in self._everyone() if pid not in (0, own)]:
            now = time.monotonic()
            if now >= deadline:
                return
            if now >= grace:
                self._signal_once(_SIGKILL)
                self._thaw_tree()
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    # The freezer

    def freezer(self) -> str:
        """The directory that freezes: v1's freezer where it is mounted (as runc), else v2."""
        for name in ("freezer", ""):
            if name in self.paths and self.paths[name] not in self.skipped:
                return self.paths[name]
        return ""

    def _has_v1_freezer(self) -> bool:
        return "freezer" in self.paths and self.paths["freezer"] not in self.skipped

    def freeze(self) -> None:
        """Stop every process in and below the cgroup where it stands; returns when they have."""
        path = self.freezer()
        if path not in self._ours():
            raise ContainerError("the container has no cgroup that could be frozen")
        if os.getpid() in self.pids():
            raise ContainerError(f"cgroup {path} holds this process: frozen, nobody could thaw it")
        try:
            if self._has_v1_freezer():
                cgroupv1.freeze(path)
            else:
                cgroupv2.freeze(path)
        except OSError as error:
            raise kernel_error(f"freeze the cgroup {path}", error) from None

    def thaw(self) -> None:
        """Let them run again."""
        path = self.freezer()
        if path not in self._ours():
            return
        try:
            if self._has_v1_freezer():
                cgroupv1.thaw(path)
            else:
                cgroupv2.thaw(path)
        except OSError as error:
            if error.errno not in cgroupfs.GONE:
                raise kernel_error(f"thaw the cgroup {path}", error) from None

    def _thaw_tree(self) -> None:
        path = self.paths.get("freezer", "")
        if path in self._ours():
            try:
                cgroupv1.thaw(path, recursive=True)
            except OSError as error:
                if error.errno not in cgroupfs.GONE:
                    raise kernel_error(f"thaw the cgroup {path}", error) from None

    def frozen(self) -> bool:
        """Whether the cgroup is frozen, or about to be."""
        path = self.freezer()
        if not path:
            return False
        try:
            return cgroupv1.frozen(path) if self._has_v1_freezer() else cgroupv2.frozen(path)
        except OSError as error:
            raise kernel_error(f"ask whether the cgroup {path} is frozen", error) from None

    # Removing it

    def destroy(self, timeout: float = 10.0) -> None:
        """Remove what we made, and the cgroups that the container made below it.

        Cgroups that were given to us stay.  A process in its last moments holds its cgroup, so a
        busy one is tried again, for `timeout` seconds in all; then an error names the processes.
        """
        deadline = time.monotonic() + timeout
        failure: PyruncError | None = None
        for path in self.directories():
            if path not in self.given:
                try:
                    _remove(path, deadline)
                except (ContainerError, KernelError) as error:
                    failure = failure or error  # the others still go
        if failure is not None:
            raise failure


def _remove(path: str, deadline: float) -> None:
    pause = 0.001
    while True:
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _BUSY:
                raise kernel_error(f"remove the cgroup {path}", error, syscall="rmdir") from None
        if _remove_below(path):
            continue
        if time.monotonic() >= deadline:
            try:
                pids = cgroupfs.pids_at(path)
            except OSError:
                pids = []
            raise cannot_remove(path, pids)
        time.sleep(pause)
        pause = min(pause * 2, 0.1)


def cannot_remove(path: str, pids: list[int]) -> ContainerError:
    """That somebody is still in the cgroup."""
    return ContainerError(f"cgroup {path} can't be removed: {name_pids(pids)}")


def _remove_below(path: str) -> bool:
    """Remove the cgroups below `path`; True if that has left it with none where it had some."""
    try:
        top = cgroupfs.open_directory(path)
    except FileNotFoundError:
        return True
    try:
        had = os.fstat(top).st_nlink > 2
        for _ in cgroupfs.walk(top, removing=True):
            pass
        return had and os.fstat(top).st_nlink <= 2
    except OSError as error:
        if error.errno in cgroupfs.GONE:
            return False
        raise kernel_error(f"remove the cgroups below {path}", error) from None
    finally:
        os.close(top)


def name_pids(pids: list[int]) -> str:
    """`process 7 is in it`, `processes 7, 8 are in it`, with those of other pid namespaces counted."""
    known = [str(pid) for pid in sorted(set(pids)) if pid]
    hidden = pids.count(0)
    if not known and not hidden:
        return "the kernel holds it, though no process is in it"
    shown = ", ".join(known[:_PIDS_SHOWN])
    if len(known) > _PIDS_SHOWN:
        shown += f" and {len(known) - _PIDS_SHOWN} more"
    if hidden:
        shown += (" and " if shown else "") + f"{hidden} of another pid namespace"
    one = len(known) + hidden == 1
    return f"{'process' if one else 'processes'} {shown} {'is' if one else 'are'} in it"
