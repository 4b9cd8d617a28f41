# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF012, RUF023, F401
"""Generated from proto/ by tools/generate_messages.py: metrics_v1.proto; do not edit."""

from __future__ import annotations

from .codec import BOOL, BYTES, DOUBLE, INT32, INT64, MAP, MESSAGE, STRING, UINT32, UINT64, Message


class HugetlbStat(Message):
    __slots__ = ("usage", "max", "failcnt", "pagesize")
    FIELDS = {
        1: ("usage", UINT64, False, None),
        2: ("max", UINT64, False, None),
        3: ("failcnt", UINT64, False, None),
        4: ("pagesize", STRING, False, None),
    }
    usage: int
    max: int
    failcnt: int
    pagesize: str


class PidsStat(Message):
    __slots__ = ("current", "limit")
    FIELDS = {
        1: ("current", UINT64, False, None),
        2: ("limit", UINT64, False, None),
    }
    current: int
    limit: int


class CPUUsage(Message):
    __slots__ = ("total", "kernel", "user", "per_cpu")
    FIELDS = {
        1: ("total", UINT64, False, None),
        2: ("kernel", UINT64, False, None),
        3: ("user", UINT64, False, None),
        4: ("per_cpu", UINT64, True, None),
    }
    total: int
    kernel: int
    user: int
    per_cpu: list[int]


class Throttle(Message):
    __slots__ = ("periods", "throttled_periods", "throttled_time")
    FIELDS = {
        1: ("periods", UINT64, False, None),
        2: ("throttled_periods", UINT64, False, None),
        3: ("throttled_time", UINT64, False, None),
    }
    periods: int
    throttled_periods: int
    throttled_time: int


class CPUStat(Message):
    __slots__ = ("usage", "throttling")
    FIELDS = {
        1: ("usage", MESSAGE, False, CPUUsage),
        2: ("throttling", MESSAGE, False, Throttle),
    }
    usage: CPUUsage | None
    throttling: Throttle | None


class MemoryEntry(Message):
    __slots__ = ("limit", "usage", "max", "failcnt")
    FIELDS = {
        1: ("limit", UINT64, False, None),
        2: ("usage", UINT64, False, None),
        3: ("max", UINT64, False, None),
        4: ("failcnt", UINT64, False, None),
    }
    limit: int
    usage: int
    max: int
    failcnt: int


class MemoryStat(Message):
    __slots__ = (
        "cache",
        "rss",
        "rss_huge",
        "mapped_file",
        "dirty",
        "writeback",
        "pg_pg_in",
        "pg_pg_out",
        "pg_fault",
        "pg_maj_fault",
        "inactive_anon",
        "active_anon",
        "inactive_file",
        "active_file",
        "unevictable",
        "hierarchical_memory_limit",
        "hierarchical_swap_limit",
        "total_cache",
        "total_rss",
        "total_rss_huge",
        "total_mapped_file",
        "total_dirty",
        "total_writeback",
        "total_pg_pg_in",
        "total_pg_pg_out",
        "total_pg_fault",
        "total_pg_maj_fault",
        "total_inactive_anon",
        "total_active_anon",
        "total_inactive_file",
        "total_active_file",
        "total_unevictable",
        "usage",
        "swap",
        "kernel",
        "kernel_tcp",
    )
    FIELDS = {
        1: ("cache", UINT64, False, None),
        2: ("rss", UINT64, False, None),
        3: ("rss_huge", UINT64, False, None),
        4: ("mapped_file", UINT64, False, None),
        5: ("dirty", UINT64, False, None),
        6: ("writeback", UINT64, False, None),
        7: ("pg_pg_in", UINT64, False, None),
        8: ("pg_pg_out", UINT64, False, None),
        9: ("pg_fault", UINT64, False, None),
        10: ("pg_maj_fault", UINT64, False, None),
        11: ("inactive_anon", UINT64, False, None),
        12: ("active_anon", UINT64, False, None),
        13: ("inactive_file", UINT64, False, None),
        14: ("active_file", UINT64, False, None),
        15: ("unevictable", UINT64, False, None),
        16: ("hierarchical_memory_limit", UINT64, False, None),
        17: ("hierarchical_swap_limit", UINT64, False, None),
        18: ("total_cache", UINT64, False, None),
        19: ("total_rss", UINT64, False, None),
        20: ("total_rss_huge", UINT64, False, None),
        21: ("total_mapped_file", UINT64, False, None),
        22: ("total_dirty", UINT64, False, None),
        23: ("total_writeback", UINT64, False, None),
        24: ("total_pg_pg_in", UINT64, False, None),
        25: ("total_pg_pg_out", UINT64, False, None),
        26: ("total_pg_fault", UINT64, False, None),
        27: ("total_pg_maj_fault", UINT64, False, None),
        28: ("total_inactive_anon", UINT64, False, None),
        29: ("total_active_anon", UINT64, False, None),
        30: ("total_inactive_file", UINT64, False, None),
        31: ("total_active_file", UINT64, False, None),
        32: ("total_unevictable", UINT64, False, None),
        33: ("usage", MESSAGE, False, MemoryEntry),
        34: ("swap", MESSAGE, False, MemoryEntry),
        35: ("kernel", MESSAGE, False, MemoryEntry),
        36: ("kernel_tcp", MESSAGE, False, MemoryEntry),
    }
    cache: int
    rss: int
    rss_huge: int
    mapped_file: int
    dirty: int
    writeback: int
    pg_pg_in: int
    pg_pg_out: int
    pg_fault: int
    pg_maj_fault: int
    inactive_anon: int
    active_anon: int
    inactive_file: int
    active_file: int
    unevictable: int
    hierarchical_memory_limit: int
    hierarchical_swap_limit: int
    total_cache: int
    total_rss: int
    total_rss_huge: int
    total_mapped_file: int
    total_dirty: int
    total_writeback: int
    total_pg_pg_in: int
    total_pg_pg_out: int
    total_pg_fault: int
    total_pg_maj_fault: int
    total_inactive_anon: int
    total_active_anon: int
    total_inactive_file: int
    total_active_file: int
    total_unevictable: int
    usage: MemoryEntry | None
    swap: MemoryEntry | None
    kernel: MemoryEntry | None
    kernel_tcp: MemoryEntry | None


class BlkIOEntry(Message):
    __slots__ = ("op", "device", "major", "minor", "value")
    FIELDS = {
        1: ("op", STRING, False, None),
        2: ("device", STRING, False, None),
        3: ("major", UINT64, False, None),
        4: ("minor", UINT64, False, None),
        5: ("value", UINT64, False, None),
    }
    op: str
    device: str
    major: int
    minor: int
    value: int


class BlkIOStat(Message):
    __slots__ = (
        "io_service_bytes_recursive",
        "io_serviced_recursive",
        "io_queued_recursive",
        "io_service_time_recursive",
        "io_wait_time_recursive",
        "io_merged_recursive",
        "io_time_recursive",
        "sectors_recursive",
    )
    FIELDS = {
        1: ("io_service_bytes_recursive", MESSAGE, True, BlkIOEntry),
        2: ("io_serviced_recursive", MESSAGE, True, BlkIOEntry),
        3: ("io_queued_recursive", MESSAGE, True, BlkIOEntry),
        4: ("io_service_time_recursive", MESSAGE, True, BlkIOEntry),
        5: ("io_wait_time_recursive", MESSAGE, True, BlkIOEntry),
        6: ("io_merged_recursive", MESSAGE, True, BlkIOEntry),
        7: ("io_time_recursive", MESSAGE, True, BlkIOEntry),
        8: ("sectors_recursive", MESSAGE, True, BlkIOEntry),
    }
    io_service_bytes_recursive: list[BlkIOEntry]
    io_serviced_recursive: list[BlkIOEntry]
    io_queued_recursive: list[BlkIOEntry]
    io_service_time_recursive: list[BlkIOEntry]
    io_wait_time_recursive: list[BlkIOEntry]
    io_merged_recursive: list[BlkIOEntry]
    io_time_recursive: list[BlkIOEntry]
    sectors_recursive: list[BlkIOEntry]


class MemoryOomControl(Message):
    __slots__ = ("oom_kill_disable", "under_oom", "oom_kill")
    FIELDS = {
        1: ("oom_kill_disable", UINT64, False, None),
        2: ("under_oom", UINT64, False, None),
        3: ("oom_kill", UINT64, False, None),
    }
    oom_kill_disable: int
    under_oom: int
    oom_kill: int


class Metrics(Message):
    __slots__ = ("hugetlb", "pids", "cpu", "memory", "blkio", "memory_oom_control")
    FIELDS = {
        1: ("hugetlb", MESSAGE, True, HugetlbStat),
        2: ("pids", MESSAGE, False, PidsStat),
        3: ("cpu", MESSAGE, False, CPUStat),
        4: ("memory", MESSAGE, False, MemoryStat),
        5: ("blkio", MESSAGE, False, BlkIOStat),
        9: ("memory_oom_control", MESSAGE, False, MemoryOomControl),
    }
    hugetlb: list[HugetlbStat]
    pids: PidsStat | None
    cpu: CPUStat | None
    memory: MemoryStat | None
    blkio: BlkIOStat | None
    memory_oom_control: MemoryOomControl | None
