# SPDX-License-Identifier: Apache-2.0
"""linux.intelRdt: shares of the processors' caches and memory bandwidth (config-linux.md, IntelRdt).

They are directories of the file system resctrl, wherever the host has it mounted (resctrl.rst): a
control group, whose `schemata` say what its tasks get, and below it perhaps a monitoring group.  A
process is put into one by its number; what it starts is born there.
"""

from __future__ import annotations

import errno
import os

from . import cgroupfs
from .errors import ConfigError, PyruncError, kernel_error
from .paths import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from .spec.types import Config, IntelRdt

POINTER = "/linux/intelRdt"
_DECIMAL = ("MB", "SMBA")  # resources whose values are numbers; those of caches are masks, in hexadecimal


def wanted(config: Config) -> IntelRdt | None:
    """What the configuration asks for; not the same as nothing when it is an empty object."""
    return (config.get("linux") or {}).get("intelRdt")


def find_mount(mountinfo: str) -> str:
    """Where resctrl is mounted, "" if it isn't (proc_pid_mountinfo(5))."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("resctrl "):
            return unescape(left.split(" ")[4])
    return ""


def root(pointer: str = POINTER) -> str:
    """Where it is mounted.  Raises ConfigError where it isn't."""
    path = find_mount(cgroupfs.read("/proc/self/mountinfo"))
    if not path:
        raise ConfigError(pointer, "no resctrl file system is mounted",
                          hint="where the processors have Intel RDT: mount -t resctrl resctrl /sys/fs/resctrl")
    return path


class Rdt:
    """A container's groups.

    `group` is the directory of the control group, `monitoring` that of the monitoring group or "";
    `made` says that we made the control group, `keep` that it stays even so: it has a name of its own.
    """

    __slots__ = ("group", "keep", "made", "monitoring", "top")

    def __init__(self, top: str, group: str, monitoring: str = "", *, made: bool = False, keep: bool = False) -> None:
        self.top = top
        self.group = group
        self.monitoring = monitoring
        self.made = made
        self.keep = keep

    def to_data(self) -> dict[str, Any]:
        """For state.json; to be written before `create`, and again after it."""
        return {name: getattr(self, name) for name in ("top", "group", "monitoring", "made", "keep")}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Rdt:
        return cls(data["top"], data["group"], data["monitoring"], made=data["made"], keep=data["keep"])

    def create(self, rdt: IntelRdt) -> None:
        """Make the groups and say what they get.  Raises PyruncError."""
        lines = schemata(rdt)
        if self.keep and (not self.made or not lines):
            self._check_given(lines)
        elif self.made:
            try:
                os.mkdir(self.group, 0o755)
            except FileExistsError:
                self.made = False  # somebody was quicker
            except OSError as error:
                raise self._error(f"make the resctrl group {self.group}", error, POINTER) from None
        if lines and not (self.keep and not self.made):
            self.write(lines, POINTER)
        if self.monitoring:
            try:
                os.mkdir(self.monitoring, 0o755)
            except OSError as error:
                path, self.monitoring = self.monitoring, ""
                raise self._error(f"make the monitoring group {path}", error,
                                  POINTER + "/enableMonitoring") from None

    def _check_given(self, lines: list[str]) -> None:
        """A group by the name of closID that is there has to have these schemata."""
        if not os.path.isdir(self.group):
            raise ConfigError(POINTER + "/closID", f"the resctrl group {self.group} does not exist",
                              hint="without schemata it has to be made beforehand")
        if lines and (differing := _differing(lines, cgroupfs.read(f"{self.group}/schemata"), self._rounded)):
            raise ConfigError(POINTER + "/closID", f"the resctrl group {self.group} has other schemata than the "
                                                   f"configuration: {differing}")

    def _rounded(self, resource: str, value: int) -> int:
        """A bandwidth as the kernel rounds it, up to its granularity and minimum."""
        if resource not in _DECIMAL:
            return value
        step, lowest = (_number(f"{self.top}/info/{resource}/{name}") for name in ("bandwidth_gran", "min_bandwidth"))
        return max(-(-value // step) * step if step else value, lowest)

    def write(self, lines: list[str], pointer: str) -> None:
        """Write schemata.  Raises KernelError with what the kernel says of them."""
        try:
            cgroupfs.write(f"{self.group}/schemata", "".join(line + "\n" for line in lines))
        except OSError as error:
            raise self._error(f"write {' '.join(lines)} to {self.group}/schemata", error, pointer) from None

    def add(self, tasks: Iterable[int]) -> None:
        """Put tasks into the groups.  Raises KernelError."""
        for task in tasks:
            for path in (self.group, self.monitoring) if self.monitoring else (self.group,):
                try:
                    cgroupfs.write(f"{path}/tasks", str(task))
                except ProcessLookupError:
                    break
                except OSError as error:
                    raise self._error(f"put task {task} into the resctrl group {path}", error, POINTER) from None

    def remove(self, *, everything: bool = False) -> None:
        """Remove what we made; `everything`: a group with a name of its own too, for a create that failed."""
        paths = [self.monitoring] if self.monitoring else []
        if self.made and (everything or not self.keep):
            paths.append(self.group)
        for path in paths:
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise kernel_error(f"remove the resctrl group {path}", error, syscall="rmdir") from None

    def _error(self, what: str, error: OSError, pointer: str) -> PyruncError:
        try:
            said = cgroupfs.read(f"{self.top}/info/last_cmd_status").strip()
        except OSError:
            said = ""
        hint = ""
        if error.errno == errno.ENOSPC:
            hint = "the processors have no more of them"
        return kernel_error(what, error, pointer=pointer, hint=said if said not in ("", "ok") else hint)


def plan(rdt: IntelRdt, container_id: str) -> Rdt:
    """The groups of a container, nothing done yet.  Raises ConfigError."""
    top = root()
    name = rdt.get("closID") or ""
    group = top if name == "/" else f"{top}/{name or container_id}"
    return Rdt(top, group, f"{group}/mon_groups/{container_id}" if _is_monitored(rdt) else "",
               made=not os.path.isdir(group), keep=bool(name))


def describe(rdt: IntelRdt, container_id: str) -> str:
    """What `create` does about it, for `explain`."""
    parts = [f"resctrl group {rdt.get('closID') or container_id}", *schemata(rdt)]
    if _is_monitored(rdt):
        parts.append("monitored")
    return ", ".join(parts)


def _is_monitored(rdt: IntelRdt) -> bool:
    # The last two are what runtime-spec 1.1 to 1.2 had in its place.
    return any(rdt.get(member) for member in ("enableMonitoring", "enableCMT", "enableMBM"))


def schemata(rdt: IntelRdt) -> list[str]:
    """The lines to write, in the order that config-linux.md gives."""
    lines = (rdt.get("l3CacheSchema") or "", rdt.get("memBwSchema") or "", *(rdt.get("schemata") or ()))
    return [line for line in lines if line]


def _differing(lines: list[str], found: str, rounded: Callable[[str, int], int]) -> str:
    """The first of `lines` that the text of a schemata file doesn't agree with, "" if there is none."""
    have = {}
    for line in found.splitlines():
        have.update(_values(line))
    for line in lines:
        for (resource, domain), value in _values(line).items():
            if value is None or have.get((resource, domain)) != rounded(resource, value):
                return line
    return ""


def _values(line: str) -> dict[tuple[str, str], int | None]:
    """`L3:0=ff;1=c0` as numbers by resource and cache; None for what is none."""
    resource, _, rest = line.strip().partition(":")
    values: dict[tuple[str, str], int | None] = {}
    for part in rest.split(";"):
        domain, _, text = part.partition("=")
        try:
            value = int(text.strip(), 10 if resource in _DECIMAL else 16)
        except ValueError:
            value = None
        values[resource, domain.strip().lstrip("0") or "0"] = value
    return values


def _number(path: str) -> int:
    try:
        return int(cgroupfs.read(path))
    except (OSError, ValueError):
        return 0


def update(rdt: Rdt | None, container_id: str, pids: Iterable[int],
           schemas: IntelRdt) -> tuple[Rdt, Callable[[], None]]:
    """Change what a container gets: `schemas` by the names of config.json; who has no group yet gets one.

    The groups, and what takes it all back.  Raises PyruncError.
    """
    lines = schemata(schemas)
    if rdt is None:
        new = plan({}, container_id)
        try:
            new.create(schemas)
            new.add(tasks_of(pids))
        except PyruncError:
            new.remove()
            raise
        return new, new.remove
    old = rdt
    before = [line.strip() for line in cgroupfs.read(f"{old.group}/schemata").splitlines()]
    touched = {line.partition(":")[0] for line in lines}
    old.write(lines, "")
    return old, lambda: old.write([line for line in before if line.partition(":")[0] in touched], "")


def check_available(schemas: Mapping[str, str]) -> None:
    """Raise PyruncError, in runc's words, where the host can't do what `update` is asked for."""
    top = find_mount(cgroupfs.read("/proc/self/mountinfo"))
    for member, resource, words in (("l3CacheSchema", "L3", "Intel RDT/CAT: l3 cache schema is not enabled"),
                                    ("memBwSchema", "MB", "Intel RDT/MBA: memory bandwidth schema is not enabled")):
        if schemas.get(member) and not (top and any(name.startswith(resource) and not name.endswith("_MON")
                                                    for name in os.listdir(f"{top}/info"))):
            raise PyruncError(words, hint="" if top else "no resctrl file system is mounted")


def tasks_of(pids: Iterable[int]) -> list[int]:
    """Every thread of these processes."""
    found: list[int] = []
    for pid in pids:
        try:
            found += map(int, os.listdir(f"/proc/{pid}/task"))
        except OSError:
            continue  # gone
    return found
