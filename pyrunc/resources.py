# SPDX-License-Identifier: Apache-2.0
"""linux.resources applied to a container's cgroup: the limits of its version, and the device rules.

Apart from cgroup.py, because only create and update need it.
"""

from __future__ import annotations

import errno
import os

from . import cgroupfs, cgroupv1, cgroupv2, device_rules, limits
from .errors import ConfigError, ContainerError, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .cgroup import Cgroup
    from .spec.types import Config, DeviceRule, Resources


def apply(cgroup: Cgroup, resources: Resources, config: Config, warn: Callable[[str], None], *, update: bool) -> None:
    """Cgroup.apply."""
    resources = as_meant(resources, config["ociVersion"])
    directories = {name: path for name, path in cgroup.paths.items() if path not in cgroup.skipped}
    if cgroup.mode == "unified":
        writes = cgroupv2.limits(resources, directories.get("", ""), warn)
    else:
        writes = cgroupv1.limits(resources, directories, warn)
    _refuse_skipped(cgroup, writes)
    rules = None
    if not update or "devices" in resources:
        nodes = (config.get("linux") or {}).get("devices") or []
        rules = device_rules.effective(resources.get("devices") or [], nodes)
    writes, untell = cgroup.announce(writes, rules, undo=update)
    put_back = [untell]
    try:
        if rules is not None:
            given = resources.get("devices") or []
            put_back.append(_restrict_devices(cgroup.mode, directories, rules, given, warn))
        limits.apply(writes, directories, undo=update)
    except BaseException:
        if update:
            for undo in reversed(put_back):
                if undo is not None:
                    undo()
        raise


def as_meant(resources: Resources, version: str) -> Resources:
    """What they mean in a configuration of that ociVersion.

    Before 1.3.0 no processes at all (`pids.limit` 0) stood for any number; who writes an older version may mean that,
    Podman up to 5.4 for one, by `--pids-limit -1` (runtime-spec's pull request 1279).
    """
    major, minor = version.split(".")[:2]
    if (resources.get("pids") or {}).get("limit") == 0 and (int(major), int(minor)) < (1, 3):
        resources = {**resources, "pids": {"limit": -1}}
    return resources


def _restrict_devices(mode: str, directories: Mapping[str, str], rules: device_rules.Rules, given: list[DeviceRule],
                      warn: Callable[[str], None]) -> Callable[[], None] | None:
    """Enforce the device rules, which are those `given` and our own; what brings the former ones back."""
    directory = directories.get("" if mode == "unified" else "devices")
    if directory is None:
        from . import cgroupless

        if given:
            cgroupless.warn_of_devices(warn)
        return None
    if mode == "unified":
        from . import devices_bpf

        # An ordinary user can make no node, and opens what its uid may open: that devices at large aren't denied is no
        # news to it.  Every client's rules begin with that (Buildah shows a warning at each RUN).
        named = any(not rule["allow"] and _names_devices(rule) for rule in given)
        return devices_bpf.attach(directory, rules, warn if named else lambda _: None)
    before = device_rules.current(directory)
    try:
        limits.apply(device_rules.v1_writes(rules, before), directories)
    except BaseException:
        device_rules.restore(directory, before)
        raise
    return lambda: device_rules.restore(directory, before)


def _names_devices(rule: DeviceRule) -> bool:
    """Whether it is for some devices, and not for all that there are."""
    return max(rule.get("major", device_rules.ANY), rule.get("minor", device_rules.ANY)) != device_rules.ANY


def _refuse_skipped(cgroup: Cgroup, writes: list[limits.Write]) -> None:
    """A limit that nobody enforces must not be believed in (an ordinary user's cgroup may be missing)."""
    for write in writes:
        path = cgroup.paths.get(write.controller, "")
        if path in cgroup.skipped and not write.optional:
            from . import cgroupless

            raise ConfigError(write.pointer, f"can't be limited: the container is not in the cgroup {path}",
                              hint=cgroupless.hint())


_DELEGATE = "/sys/kernel/cgroup/delegate"
_DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")  # where the kernel has no such list


def delegate(cgroup: Cgroup, config: Config) -> None:
    """Chown a v2 cgroup and the files the kernel lists to the container's user.

    Only if the container has a cgroup namespace of its own and the cgroups mounted for writing, as
    config-linux.md, Cgroup ownership, demands (cgroup-v2.rst, Delegation).  Raises KernelError.
    """
    if cgroup.mode != "unified" or not _is_delegated(config):
        return
    uid = _host_uid(config)
    for path in cgroup.directories():
        try:
            names = cgroupfs.read(_DELEGATE).split()
        except OSError:
            names = list(_DELEGATED)
        try:
            fd = cgroupfs.open_directory(path)
            try:
                os.chown(fd, uid, -1)
                for name in names:
                    _chown(name, uid, fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise kernel_error(f"give the cgroup {path} to user {uid}", error, syscall="fchownat",
                               pointer="/linux/cgroupsPath") from None


def _chown(name: str, uid: int, dir_fd: int) -> None:
    try:
        os.chown(name, uid, -1, dir_fd=dir_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOENT:  # the list has the files of every controller
            raise


def _is_delegated(config: Config) -> bool:
    namespaces = (config.get("linux") or {}).get("namespaces") or []
    if not any(entry["type"] == "cgroup" and not entry.get("path") for entry in namespaces):
        return False
    mounts = [mount for mount in config.get("mounts") or []
              if mount.get("type") in ("cgroup", "cgroup2") and mount["destination"].rstrip("/") == "/sys/fs/cgroup"]
    if not mounts:
        return False
    read_only = False
    for option in mounts[-1].get("options") or []:
        read_only = option == "ro" or (read_only and option != "rw")
    return not read_only


def _host_uid(config: Config) -> int:
    """The container's uid as the host numbers it."""
    process = config.get("process")
    uid = (process.get("user") or {}).get("uid") or 0 if process else 0
    for entry in (config.get("linux") or {}).get("uidMappings") or []:
        if entry["containerID"] <= uid < entry["containerID"] + entry["size"]:
            return entry["hostID"] + uid - entry["containerID"]
    return uid


def out_of_memory(config: Config) -> ContainerError:
    """What is said of an init that the kernel has killed to keep the memory limit."""
    memory = ((config.get("linux") or {}).get("resources") or {}).get("memory") or {}
    limit = memory.get("limit")
    if not limit or limit < 0:
        return ContainerError("the container's init was killed: out of memory")
    return ContainerError(f"the container's init was killed: out of memory with a limit of {limit} bytes",
                          pointer="/linux/resources/memory/limit", hint="the program needs more to start")
