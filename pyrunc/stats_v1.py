# SPDX-License-Identifier: Apache-2.0
"""A container's use of resources as cgroup v1's files tell it (kernel: admin-guide/cgroup-v1)."""

from __future__ import annotations

from .stats import Reading, huge_page_sizes, number, pids_of, table, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_TICK = 10_000_000  # ns: user space's clock tick, of which cpuacct.stat counts

_BLKIO_ALL = {
    "sectors": "sectorsRecursive", "io_service_time": "ioServiceTimeRecursive", "io_wait_time": "ioWaitTimeRecursive",
    "io_merged": "ioMergedRecursive", "io_queued": "ioQueueRecursive", "time": "ioTimeRecursive",
    "io_serviced": "ioServicedRecursive", "io_service_bytes": "ioServiceBytesRecursive",
}
_BLKIO_TWO = {name: _BLKIO_ALL[name] for name in ("io_serviced", "io_service_bytes")}
#: The first group whose files have something serves: BFQ with its debug files, BFQ, CFQ, the throttle, its own alone.
_BLKIO = (
    ("blkio.bfq.{}_recursive", _BLKIO_ALL),
    ("blkio.bfq.{}_recursive", _BLKIO_TWO),
    ("blkio.{}_recursive", _BLKIO_ALL),
    ("blkio.throttle.{}_recursive", _BLKIO_TWO),
    ("blkio.throttle.{}", _BLKIO_TWO),
)
_CPUSET_NUMBERS = ("cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page",
                   "memory_spread_slab", "memory_pressure", "sched_load_balance")


def read(directories: Mapping[str, str]) -> Reading:
    """What the files of the cgroup say, whose directory by controller is `directories`.  Raises OSError."""
    reading = Reading()
    if "cpuset" in directories:
        _cpuset(directories["cpuset"], reading)
    if "memory" in directories:
        _memory(directories["memory"], reading)
    if "cpu" in directories:
        counts = table(text(directories["cpu"], "cpu.stat"))
        reading.throttling = {"periods": counts.get("nr_periods", 0), "throttledPeriods": counts.get("nr_throttled", 0),
                              "throttledTime": counts.get("throttled_time", 0)}
    if "cpuacct" in directories:
        _cpuacct(directories["cpuacct"], reading)
    if "pids" in directories:
        reading.pids = pids_of(directories["pids"])
    if "blkio" in directories:
        _blkio(directories["blkio"], reading)
    if "hugetlb" in directories:
        _hugetlb(directories["hugetlb"], reading)
    return reading


def _cpuacct(directory: str, reading: Reading) -> None:
    ticks = table(text(directory, "cpuacct.stat"))
    rows = [line.split() for line in (text(directory, "cpuacct.usage_all") or "").splitlines()[1:]]
    reading.cpu = {
        "total": number(directory, "cpuacct.usage") or 0,
        "percpu": [int(value) for value in (text(directory, "cpuacct.usage_percpu") or "").split()],
        "percpu_kernel": [int(row[2]) for row in rows if len(row) > 2],
        "percpu_user": [int(row[1]) for row in rows if len(row) > 2],
        "kernel": ticks.get("system", 0) * _TICK,
        "user": ticks.get("user", 0) * _TICK,
    }


def _cpuset(directory: str, reading: Reading) -> None:
    for name in ("cpus", "mems"):
        reading.cpuset[name] = _numbers(text(directory, f"cpuset.{name}") or "")
    for name in _CPUSET_NUMBERS:
        reading.cpuset[name] = number(directory, f"cpuset.{name}") or 0
    level = text(directory, "cpuset.sched_relax_domain_level")  # -1 is its usual value
    reading.cpuset["sched_relax_domain_level"] = int(level or 0)


def _numbers(listed: str) -> list[int]:
    """cpuset(7), List format: 0-3,7."""
    found: list[int] = []
    for part in listed.strip().split(","):
        first, dash, last = part.partition("-")
        if first:
            found += range(int(first), int(last if dash else first) + 1)
    return found


def _memory(directory: str, reading: Reading) -> None:
    reading.raw = table(text(directory, "memory.stat"))
    for name, prefix in (("usage", "memory"), ("swap", "memory.memsw"), ("kernel", "memory.kmem"),
                         ("kernelTCP", "memory.kmem.tcp")):
        usage = number(directory, f"{prefix}.usage_in_bytes")
        if usage is not None:  # the kernel may be without it, or without its limit
            reading.memory[name] = {
                "usage": usage,
                "max": number(directory, f"{prefix}.max_usage_in_bytes") or 0,
                "failcnt": number(directory, f"{prefix}.failcnt") or 0,
                "limit": number(directory, f"{prefix}.limit_in_bytes") or 0,
            }


def _blkio(directory: str, reading: Reading) -> None:
    for pattern, names in _BLKIO:
        found = {}
        for file, name in names.items():
            entries = _blkio_entries(text(directory, pattern.format(file)) or "")
            if not entries:
                break
            found[name] = entries
        reading.blkio.update(found)
        if found:
            return


def _blkio_entries(content: str) -> list[dict[str, int | str]]:
    """Lines of `8:0 Read 4096` or `8:0 4096`; the one of the total is left out."""
    entries: list[dict[str, int | str]] = []
    for line in content.splitlines():
        device, *rest = line.split()
        major, colon, minor = device.partition(":")
        if colon and rest:
            entries.append({"major": int(major), "minor": int(minor), "op": rest[0] if len(rest) > 1 else "",
                            "value": int(rest[-1])})
    return entries


def _hugetlb(directory: str, reading: Reading) -> None:
    for size in huge_page_sizes():
        for prefix in (f"hugetlb.{size}.rsvd", f"hugetlb.{size}"):
            usage = number(directory, f"{prefix}.usage_in_bytes")
            if usage is not None:
                reading.hugetlb[size] = {"usage": usage, "max": number(directory, f"{prefix}.max_usage_in_bytes") or 0,
                                         "failcnt": number(directory, f"{prefix}.failcnt") or 0}
                break
