# SPDX-License-Identifier: Apache-2.0
"""What a container uses, in the shape of `runc events` (runc's types/events.go), which clients parse.

stats_v1.py and stats_v2.py read the files into a `Reading`; here its values become the members of
that shape, each left out or kept at zero as there.
"""

from __future__ import annotations

from . import cgroupfs
from .errors import ContainerError, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from .cgroup import Cgroup

MAX = (1 << 64) - 1  # how `max` is told

_PSI_TIMES = ("avg10", "avg60", "avg300", "total")
_CPUSET = ("cpus", "cpu_exclusive", "mems", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page",
           "memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level")
_BLKIO = ("ioServiceBytesRecursive", "ioServicedRecursive", "ioQueueRecursive", "ioServiceTimeRecursive",
          "ioWaitTimeRecursive", "ioMergedRecursive", "ioTimeRecursive", "sectorsRecursive")


class Reading:
    """What the cgroup's files said, by the names of the shape; what they don't say is missing."""

    __slots__ = ("blkio", "cpu", "cpuset", "hugetlb", "memory", "pids", "psi", "raw", "throttling")

    def __init__(self) -> None:
        self.cpu: dict[str, Any] = {}
        self.throttling: dict[str, int] = {}
        self.cpuset: dict[str, Any] = {}
        self.memory: dict[str, dict[str, int]] = {}  # usage, swap, kernel, kernelTCP
        self.raw: dict[str, int] = {}
        self.pids: dict[str, int] = {}
        self.blkio: dict[str, list[dict[str, Any]]] = {}
        self.hugetlb: dict[str, dict[str, int]] = {}
        self.psi: dict[str, dict[str, dict[str, float]]] = {}  # cpu, memory, blkio


def stats(cgroup: Cgroup | None, rdt: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `data` of a stats event; `rdt` are the resctrl groups, as the state has them.

    Raises ContainerError without a cgroup, KernelError.
    """
    if cgroup is None or not cgroup.directories():
        raise ContainerError("the container has no cgroup, so nobody counts what it uses")
    directories = {name: path for name, path in cgroup.paths.items() if path not in cgroup.skipped}
    try:
        if cgroup.mode == "unified":
            from . import stats_v2

            reading = stats_v2.read(directories[""])
        else:
            from . import stats_v1

            reading = stats_v1.read(directories)
    except OSError as error:
        raise kernel_error("unable to get container cgroup stats", error) from None
    found = shape(reading)
    if rdt:
        from . import stats_rdt
        from .rdt import Rdt

        found["intel_rdt"] = stats_rdt.stats(Rdt.from_data(rdt))
    return found


def shape(reading: Reading) -> dict[str, Any]:
    """`reading` as runc's types.Stats is written."""
    usage = _members(reading.cpu, ("total", "percpu", "percpu_kernel", "percpu_user", "kernel", "user"),
                     ("kernel", "user"))
    cpu = {
        **({"usage": usage} if any(usage.values()) else {}),
        **_some("throttling", _members(reading.throttling, ("periods", "throttledPeriods", "throttledTime"))),
        **_psi(reading, "cpu"),
    }
    cache = reading.raw.get("cache", reading.raw.get("file", 0))
    memory: dict[str, Any] = {"cache": cache} if cache else {}
    for name in ("usage", "swap", "kernel", "kernelTCP"):
        entry = _members(reading.memory.get(name, {}), ("limit", "usage", "max", "failcnt"), ("limit", "failcnt"))
        if any(entry.values()):
            memory[name] = entry
    memory |= _some("raw", {key: reading.raw[key] for key in sorted(reading.raw)}) | _psi(reading, "memory")
    blkio: dict[str, Any] = {}
    for name in _BLKIO:
        entries = reading.blkio.get(name, ())
        blkio |= _some(name, [_members(entry, ("major", "minor", "op", "value")) for entry in entries])
    return {
        "cpu": cpu,
        "cpuset": _members(reading.cpuset, _CPUSET, _CPUSET, unless=("cpus", "mems")),
        "memory": memory,
        "pids": _members(reading.pids, ("current", "limit")),
        "blkio": blkio | _psi(reading, "blkio"),
        "hugetlb": {size: _members(entry, ("usage", "max", "failcnt"), ("failcnt",))
                    for size, entry in sorted(reading.hugetlb.items())},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _members(values: Mapping[str, Any], names: Iterable[str], kept: Iterable[str] = (), *,
             unless: Iterable[str] = ()) -> dict[str, Any]:
    """The members of `names` in order: those that are zero or empty only if they are `kept`."""
    members: dict[str, Any] = {}
    for name in names:
        if values.get(name) or (name in kept and name not in unless):
            members[name] = values.get(name, 0)
    return members


def _some(name: str, value: Any) -> dict[str, Any]:
    return {name: value} if value else {}


def _psi(reading: Reading, name: str) -> dict[str, Any]:
    pressure = reading.psi.get(name)
    if pressure is None:
        return {}
    return {"psi": {kind: {time: pressure[kind].get(time, 0) for time in _PSI_TIMES}
                    for kind in ("some", "full") if any(pressure.get(kind, {}).values())}}


# Reading files

def text(directory: str, name: str) -> str | None:
    """A file's contents; None without such a file (or without its cgroup)."""
    try:
        return cgroupfs.read(f"{directory}/{name}")
    except OSError as error:
        if error.errno in cgroupfs.GONE:
            return None
        raise


def number(directory: str, name: str) -> int | None:
    """A file's number: `max` is MAX, a negative one 0."""
    content = text(directory, name)
    if content is None:
        return None
    content = content.strip()
    return MAX if content == "max" else max(int(content), 0)


def table(content: str | None) -> dict[str, int]:
    """Lines of a key and a number."""
    return {key: int(value) for key, _, value in (line.partition(" ") for line in (content or "").splitlines())
            if value.isdigit()}


def pids_of(directory: str) -> dict[str, int]:
    """pids.current and pids.max; no limit is 0 here."""
    count, limit = number(directory, "pids.current"), number(directory, "pids.max")
    return {"current": count or 0, "limit": 0 if limit in (None, MAX) else limit or 0}


def huge_page_sizes() -> list[str]:
    """The kernel's, as cgroup files name them: 2MB, 1GB."""
    import os

    try:
        kilobytes = [int(name[len("hugepages-"):-2]) for name in os.listdir("/sys/kernel/mm/hugepages")]
    except OSError:
        return []
    sizes = []
    for size in kilobytes:
        for unit in ("KB", "MB", "GB"):
            if size < 1024 or unit == "GB":
                sizes.append(f"{size}{unit}")
                break
            size //= 1024
    return sizes
