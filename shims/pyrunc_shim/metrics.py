# SPDX-License-Identifier: Apache-2.0
"""What a container uses, as containerd's metrics have it: io.containerd.cgroups.v1 and v2."""

from __future__ import annotations

from pyrunc import stats_v1, stats_v2
from pyrunc.errors import ContainerError, kernel_error
from pyrunc.stats import MAX, huge_page_sizes, number, table, text

from . import metrics_v1 as v1
from . import metrics_v2 as v2
from .messages import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyrunc.cgroup import Cgroup
    from pyrunc.stats import Reading

# What memory.stat calls otherwise than the message does.
_STAT_NAMES = {"pgpgin": "pg_pg_in", "pgpgout": "pg_pg_out", "pgfault": "pg_fault", "pgmajfault": "pg_maj_fault",
               "total_pgpgin": "total_pg_pg_in", "total_pgpgout": "total_pg_pg_out",
               "total_pgfault": "total_pg_fault", "total_pgmajfault": "total_pg_maj_fault",
               "hierarchical_memsw_limit": "hierarchical_swap_limit"}
_BLKIO_NAMES = {"ioServiceBytesRecursive": "io_service_bytes_recursive", "ioServicedRecursive": "io_serviced_recursive",
                "ioQueueRecursive": "io_queued_recursive", "ioServiceTimeRecursive": "io_service_time_recursive",
                "ioWaitTimeRecursive": "io_wait_time_recursive", "ioMergedRecursive": "io_merged_recursive",
                "ioTimeRecursive": "io_time_recursive", "sectorsRecursive": "sectors_recursive"}
_IO_NAMES = {"rbytes": "rbytes", "wbytes": "wbytes", "rios": "rios", "wios": "wios"}


def metrics(cgroup: Cgroup | None) -> Any:
    """The metrics of what is in the cgroup.  Raises ContainerError without one, KernelError."""
    if cgroup is None or not cgroup.directories():
        raise ContainerError("the container has no cgroup, so nobody counts what it uses")
    directories = {name: path for name, path in cgroup.paths.items() if path not in cgroup.skipped}
    try:
        if cgroup.mode == "unified":
            return Any(type_url="io.containerd.cgroups.v2.Metrics", value=_v2(directories[""]).encode())
        return Any(type_url="io.containerd.cgroups.v1.Metrics", value=_v1(directories).encode())
    except OSError as error:
        raise kernel_error("read what the container uses", error) from None


def _v1(directories: Mapping[str, str]) -> v1.Metrics:
    reading = stats_v1.read(directories)
    found = v1.Metrics()
    found.hugetlb = [v1.HugetlbStat(usage=entry.get("usage", 0), max=entry.get("max", 0),
                                    failcnt=entry.get("failcnt", 0), pagesize=size)
                     for size, entry in sorted(reading.hugetlb.items())]
    if reading.pids:
        found.pids = v1.PidsStat(**reading.pids)
    if reading.cpu:
        found.cpu = v1.CPUStat(
            usage=v1.CPUUsage(total=reading.cpu["total"], kernel=reading.cpu["kernel"], user=reading.cpu["user"],
                              per_cpu=reading.cpu["percpu"]),
            throttling=v1.Throttle(periods=reading.throttling.get("periods", 0),
                                   throttled_periods=reading.throttling.get("throttledPeriods", 0),
                                   throttled_time=reading.throttling.get("throttledTime", 0)))
    if reading.raw:
        found.memory = _memory_v1(reading)
        control = table(text(directories["memory"], "memory.oom_control"))
        found.memory_oom_control = v1.MemoryOomControl(oom_kill_disable=control.get("oom_kill_disable", 0),
                                                       under_oom=control.get("under_oom", 0),
                                                       oom_kill=control.get("oom_kill", 0))
    if "blkio" in directories:  # without any I/O too: there are clients that look into it unasked, as nerdctl does
        found.blkio = v1.BlkIOStat(**{
            _BLKIO_NAMES[name]: [v1.BlkIOEntry(op=entry["op"], major=entry["major"], minor=entry["minor"],
                                               value=entry["value"]) for entry in entries]
            for name, entries in reading.blkio.items()})
    return found


def _memory_v1(reading: Reading) -> v1.MemoryStat:
    found = v1.MemoryStat()
    members = {name for name, *_ in v1.MemoryStat.FIELDS.values()}
    for key, value in reading.raw.items():
        name = _STAT_NAMES.get(key, key)
        if name in members:
            setattr(found, name, value)
    for key, name in (("usage", "usage"), ("swap", "swap"), ("kernel", "kernel"), ("kernelTCP", "kernel_tcp")):
        if key in reading.memory:
            setattr(found, name, v1.MemoryEntry(**reading.memory[key]))
    return found


def _v2(directory: str) -> v2.Metrics:
    reading = stats_v2.read(directory)
    cpu = table(text(directory, "cpu.stat"))
    found = v2.Metrics()
    found.pids = v2.PidsStat(current=reading.pids.get("current", 0), limit=reading.pids.get("limit", 0))
    found.cpu = v2.CPUStat(**{name: cpu.get(name, 0) for name, kind, _, _ in v2.CPUStat.FIELDS.values()
                              if name != "psi"}, psi=_psi(reading, "cpu"))
    found.memory = _memory_v2(directory, reading)  # there in any case, as with containerd's own shim
    if reading.raw:
        events = table(text(directory, "memory.events"))
        found.memory_events = v2.MemoryEvents(**{name: events.get(name, 0)
                                                 for name, *_ in v2.MemoryEvents.FIELDS.values()})
    found.io = v2.IOStat(usage=_io(directory), psi=_psi(reading, "blkio"))
    found.rdma = _rdma(directory)
    for size in huge_page_sizes():
        current = number(directory, f"hugetlb.{size}.current")
        if current is not None:
            found.hugetlb.append(v2.HugeTlbStat(
                current=current, max=number(directory, f"hugetlb.{size}.max") or 0, pagesize=size,
                failcnt=reading.hugetlb.get(size, {}).get("failcnt", 0)))
    return found


def _memory_v2(directory: str, reading: Reading) -> v2.MemoryStat:
    found = v2.MemoryStat()
    members = {name for name, *_ in v2.MemoryStat.FIELDS.values()}
    for key, value in reading.raw.items():
        # Since 5.9 the first two are counted apart.
        name = {"workingset_refault_file": "workingset_refault", "workingset_activate_file": "workingset_activate",
                }.get(key, key)
        if name in members:
            setattr(found, name, value)
    for file, name in (("memory.current", "usage"), ("memory.max", "usage_limit"), ("memory.peak", "max_usage"),
                       ("memory.swap.current", "swap_usage"), ("memory.swap.max", "swap_limit"),
                       ("memory.swap.peak", "swap_max_usage")):
        content = number(directory, file)
        setattr(found, name, MAX if content is None and name.endswith("limit") else content or 0)
    found.psi = _psi(reading, "memory")
    return found


def _psi(reading: Reading, name: str) -> v2.PSIStats | None:
    pressure = reading.psi.get(name)
    if not pressure:
        return None
    return v2.PSIStats(**{kind: v2.PSIData(avg10=float(times["avg10"]), avg60=float(times["avg60"]),
                                           avg300=float(times["avg300"]), total=int(times["total"]))
                          for kind, times in pressure.items() if kind in ("some", "full")})


def _io(directory: str) -> list[v2.IOEntry]:
    entries = []
    for line in (text(directory, "io.stat") or "").splitlines():
        device, *items = line.split()
        major, _, minor = device.partition(":")
        values = dict(item.split("=", 1) for item in items if "=" in item)
        if major.isdigit() and minor.isdigit():
            entries.append(v2.IOEntry(major=int(major), minor=int(minor),
                                      **{name: int(values.get(key, "0")) for key, name in _IO_NAMES.items()}))
    return entries


def _rdma(directory: str) -> v2.RdmaStat | None:
    found: dict[str, list[v2.RdmaEntry]] = {"current": [], "max": []}
    for file in found:
        for line in (text(directory, f"rdma.{file}") or "").splitlines():
            device, *items = line.split()
            values = dict(item.split("=", 1) for item in items if "=" in item)
            numbers = {name: (1 << 32) - 1 if value == "max" else int(value) for name, value in values.items()}
            found[file].append(v2.RdmaEntry(device=device, hca_handles=numbers.get("hca_handle", 0),
                                            hca_objects=numbers.get("hca_object", 0)))
    if not any(found.values()):
        return None
    return v2.RdmaStat(current=found["current"], limit=found["max"])
