# SPDX-License-Identifier: Apache-2.0
"""Where a process of exec goes: into the container's cgroup, or one below it."""

from __future__ import annotations

import errno

from . import cgroupfs, cgroupv1, cgroupv2
from .errors import ContainerError, KernelError, UsageError, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from .cgroup import Cgroup


def parse(words: Iterable[str]) -> dict[str, str]:
    """--cgroup's arguments, PATH (v2) or CONTROLLER[,CONTROLLER...]:PATH (v1), by controller.  Raises UsageError."""
    words = list(words)
    found: dict[str, str] = {}
    for word in words:
        names, colon, path = word.partition(":")
        if not colon:
            if len(words) > 1:
                raise UsageError(f"invalid --cgroup argument: {word} (missing <controller>: prefix)")
            names, path = "", word
        for name in names.split(","):
            if colon and not name:
                raise UsageError(f"invalid --cgroup argument: {word} (empty <controller> prefix)")
            if name in found:
                raise UsageError(f"invalid --cgroup argument(s): controller {name} specified multiple times")
            found[name] = path
    return found


def join(cgroup: Cgroup, pid: int, init: int, below: Mapping[str, str], but: Collection[str] = ()) -> None:
    """Put process `pid` into the container's cgroup, or those that `below` names; in those of `but` it is already.

    A container that was given its cgroup on v2 may have passed controllers on, and then nobody may be
    in it: the process goes where the container's `init` is.  Raises KernelError, ContainerError, UsageError.
    """
    if below:
        _join_below(cgroup, pid, below)
        return
    try:
        cgroup.add(pid, but)
    except KernelError as error:
        if cgroup.mode != "unified" or error.errno not in (errno.EBUSY, errno.EOPNOTSUPP):
            raise
        path = _of_init(cgroup, init)
        if not path:
            raise
        _write(path, pid)


def leave(cgroup: Cgroup, pid: int, *, whole: bool) -> bool:
    """Take process `pid` out of the container's cgroup as far as that limits processes; whether that was done.

    On v2 there is but one cgroup to leave, which `whole` allows.
    """
    try:
        own = cgroupfs.read("/proc/self/cgroup")
        if "pids" in cgroup.paths:
            found = cgroupv1.own_hierarchies(cgroup.mode == "hybrid", own)
            path = found["pids"].path("")
        elif cgroup.mode == "unified" and whole:
            path = cgroupv2.own(own)
        else:
            return False
        cgroupfs.write(f"{path}/cgroup.procs".replace("//", "/"), str(pid))
    except (OSError, KeyError):
        return False
    return True


def _of_init(cgroup: Cgroup, init: int) -> str:
    """The v2 cgroup of the init, "" if it isn't one below the container's."""
    try:
        text = cgroupfs.read(f"/proc/{init}/cgroup")
    except OSError:
        return ""
    own = cgroup.paths[""]
    for line in text.splitlines():
        if line.startswith("0::"):
            path = "/sys/fs/cgroup" + line[3:]
            return path if path.startswith(own + "/") else ""
    return ""


def _join_below(cgroup: Cgroup, pid: int, below: Mapping[str, str]) -> None:
    """`below` has a path by controller, or one for all of them under "" (v2's only, or the same in every hierarchy)."""
    for name, sub in below.items():
        if name and cgroup.mode == "unified":
            raise UsageError(f"--cgroup {name}:{sub}: cgroup v2 has no controllers to name here",
                             hint="give the path alone")
        if name and name not in cgroup.paths:
            raise ContainerError(f"--cgroup {name}:{sub}: the container has no cgroup of that controller",
                                 hint=f"it has {', '.join(sorted(filter(None, cgroup.paths)))}")
    targets = {}
    for name, path in cgroup.paths.items():
        sub = below.get("", below.get(name, ""))
        targets[f"{path}/{_relative(sub)}".rstrip("/")] = path
    for target, path in targets.items():
        if path not in cgroup.skipped:
            _write(target, pid)


def _relative(path: str) -> str:
    """`path` without a way out of the container's cgroup."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UsageError(f"--cgroup {path}: is not below the container's cgroup")
    return "/".join(parts)


def _write(directory: str, pid: int) -> None:
    try:
        cgroupfs.write(f"{directory}/cgroup.procs", str(pid))
    except OSError as error:
        hint = "it has to be there already" if error.errno == errno.ENOENT else ""
        raise kernel_error(f"put process {pid} into the cgroup {directory}", error, syscall="write",
                           hint=hint) from None
