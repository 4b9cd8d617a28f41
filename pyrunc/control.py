# SPDX-License-Identifier: Apache-2.0
"""What is done to a container that runs: pause, resume, update, and who is in it.

Apart from lifecycle.py, because none of it is on the way of a container's start.
"""

from __future__ import annotations

from .errors import ConfigError, ContainerError
from .spec.load import dump, load_config
from .state import START, STATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .cgroup import Cgroup
    from .lifecycle import Container
    from .spec.types import IntelRdt, Resources

#: Where in state.json the resources are that `update` has left; config.json stays as it was at create.
RESOURCES = "resources"

_RUNNING = ("created", "running", "paused")
# A number 0 and an empty string here mean "not given", as they do to runc: clients write whole structures.
_ZERO_IS_ABSENT = {
    "memory": ("limit", "reservation", "swap"),
    "cpu": ("shares", "quota", "period", "realtimePeriod", "realtimeRuntime", "cpus", "mems"),
    "blockIO": ("weight", "leafWeight"),
}
# What the kernel takes together: when one is given, the others go with it as they are.
_TOGETHER = (
    ("memory", ("limit", "swap")),
    ("cpu", ("quota", "period")),
    ("cpu", ("realtimePeriod", "realtimeRuntime")),
    ("blockIO", ("weight", "weightDevice")),  # BFQ forgets the weights of single devices when it gets the other
)
#: Lists of which each entry is known by some of its members; a new entry takes the place of the old one.
_LISTS = {
    "weightDevice": ("major", "minor"),
    "throttleReadBpsDevice": ("major", "minor"),
    "throttleWriteBpsDevice": ("major", "minor"),
    "throttleReadIOPSDevice": ("major", "minor"),
    "throttleWriteIOPSDevice": ("major", "minor"),
    "hugepageLimits": ("pageSize",),
    "priorities": ("name",),
}


def pause(container: Container) -> None:
    """Freeze every process of the container.  Raises ContainerError in runc's words."""
    def freeze() -> None:
        status = container.status()
        if status not in ("created", "running"):
            raise ContainerError("container not running", hint="it is paused already" if status == "paused" else "")
        _cgroup(container, "can't be paused").freeze()
    _locked(container, freeze)


def resume(container: Container) -> None:
    """Let a paused container run again.  Raises ContainerError in runc's words."""
    def thaw() -> None:
        if container.status() != "paused":
            raise ContainerError("container not paused")
        _cgroup(container, "can't be resumed").thaw()
    _locked(container, thaw)


def pids(container: Container) -> list[int]:
    """The processes of the container, those in cgroups it made below its own as well, in ascending order."""
    # 0 stands for one of a pid namespace that ours doesn't show: it has no number here.
    return [pid for pid in _cgroup(container, "can't tell its processes").pids() if pid]


def update(container: Container, resources: Resources, rdt: IntelRdt | None = None) -> None:
    """Change what `resources` and `rdt` give of the container's limits: all of it, or none.

    A member that is left out keeps its value; so does a limit of 0 where the kernel has no such
    thing.  Device rules aren't changed (runc doesn't either).  What holds from then on is kept in
    the container's state.  Raises ConfigError, KernelError, ContainerError "container not running".
    """
    given = checked(resources)
    if "kernel" in given.get("memory", {}):
        container.report("warning", "Kernel memory settings are ignored and will be removed")
    given = _without_absent(given)

    def change() -> None:
        if container.status() not in _RUNNING:
            raise ContainerError("container not running")
        take_back = _update_rdt(container, rdt) if rdt else None
        try:
            if given or not rdt:
                _update_cgroup(container, given)
            else:
                container.directory.write_state(container.data or {}, durable=True)
        except BaseException:
            if take_back is not None:
                take_back()
            raise
    _locked(container, change)


def _update_cgroup(container: Container, given: Resources) -> None:
    cgroup = _cgroup(container, "has no limits to update")
    merged = merge(current(container), given)
    container.data = {**(container.data or {}), RESOURCES: merged}
    container.data.pop(START, None)  # with limits that `start` has to look at, maybe
    # What there may be no room for comes first: once the limits hold, they hold.
    container.directory.prepare_state(container.data)
    try:
        cgroup.apply(to_apply(merged, given), container.config,
                     lambda message: container.report("warning", message), update=True)
    except BaseException:
        container.directory.discard(STATE)
        raise
    container.directory.commit(STATE)


def _update_rdt(container: Container, schemas: IntelRdt) -> Callable[[], None]:
    from . import rdt

    data = container.data or {}
    groups = rdt.Rdt.from_data(data["rdt"]) if data.get("rdt") else None
    groups, take_back = rdt.update(groups, container.id, container.pids() or [container.pid], schemas)
    container.data = {**data, "rdt": groups.to_data()}
    return take_back


def current(container: Container) -> Resources:
    """linux.resources as they are in force: what the last update left, else config.json's."""
    kept = (container.data or {}).get(RESOURCES)
    return kept if kept is not None else (container.config.get("linux") or {}).get("resources") or {}


def checked(resources: Any) -> Resources:
    """`resources`, held against the schema and rules of config.json.  Raises ConfigError with the pointer."""
    if not isinstance(resources, dict):
        raise ConfigError("/linux/resources", "is not an object")
    whole = {"ociVersion": "1.0.0", "root": {"path": "rootfs"}, "linux": {"resources": resources}}
    result: Resources = load_config(dump(whole).encode(), "resources")["linux"]["resources"]
    return result


def _without_absent(given: Any) -> Resources:
    """Without the members that say nothing, and those that an update leaves alone."""
    kept: Any = {}
    for section, value in given.items():
        if section == "devices":
            continue
        if isinstance(value, dict):
            absent = _ZERO_IS_ABSENT.get(section, ())
            value = {key: item for key, item in value.items()
                     if not (key in absent and not item) and not (section == "memory" and key.startswith("kernel"))}
        if value:
            kept[section] = value
    result: Resources = kept
    return result


def merge(before: Resources, given: Resources) -> Resources:
    """`before` with what `given` has in its place."""
    merged: Any = _join(before, given)
    memory = given.get("memory", {})
    if memory.get("limit") == -1 and "swap" not in memory:
        merged["memory"].pop("swap", None)  # there is no swap limit without a memory limit
    result: Resources = merged
    return result


def _join(before: Any, given: Any) -> Any:
    joined = dict(before)
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(joined.get(key), dict):
            joined[key] = _join(joined[key], value)
        elif key in _LISTS and joined.get(key):
            joined[key] = _join_list(joined[key], value, _LISTS[key])
        else:
            joined[key] = value
    return joined


def _join_list(before: list[Any], given: list[Any], names: tuple[str, ...]) -> list[Any]:
    joined = {tuple(entry.get(name) for name in names): entry for entry in before}
    for entry in given:
        key = tuple(entry.get(name) for name in names)
        joined[key] = {**joined.get(key, {}), **entry}
    return list(joined.values())


def to_apply(merged: Resources, given: Resources) -> Resources:
    """What has to be written: what is given, and what goes with it.

    The rest is left as it is, for others may have set it since (a kubelet does), and the kernel
    refuses some of it the second time (cpu.weight of a cgroup that is idle).
    """
    values: Any = {section: dict(value) if isinstance(value, dict) else value for section, value in given.items()}
    now: Any = merged
    for section, names in _TOGETHER:
        if any(name in values.get(section, {}) for name in names):
            values[section].update({name: now[section][name] for name in names if name in now[section]})
    if "memory" in values and "checkBeforeUpdate" in now["memory"]:
        values["memory"]["checkBeforeUpdate"] = now["memory"]["checkBeforeUpdate"]
    result: Resources = values
    return result


def _cgroup(container: Container, otherwise: str) -> Cgroup:
    cgroup = container.cgroup
    if cgroup is None or not cgroup.directories():
        from . import cgroupless

        raise ContainerError(f"the container has no cgroup, so it {otherwise}", hint=cgroupless.hint())
    return cgroup


def _locked(container: Container, action: Callable[[], None]) -> None:
    container.directory.lock()
    try:
        container.refresh()
        action()
    finally:
        container.directory.unlock()
