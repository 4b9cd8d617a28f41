# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF012, RUF023, F401
"""Generated from proto/ by tools/generate_messages.py: metrics_v2.proto; do not edit."""

from __future__ import annotations

from .codec import BOOL, BYTES, DOUBLE, INT32, INT64, MAP, MESSAGE, STRING, UINT32, UINT64, Message


class PSIData(Message):
    __slots__ = ("avg10", "avg60", "avg300", "total")
    FIELDS = {
        1: ("avg10", DOUBLE, False, None),
        2: ("avg60", DOUBLE, False, None),
        3: ("avg300", DOUBLE, False, None),
        4: ("total", UINT64, False, None),
    }
    avg10: float
    avg60: float
    avg300: float
    total: int


class PSIStats(Message):
    __slots__ = ("some", "full")
    FIELDS = {
        1: ("some", MESSAGE, False, PSIData),
        2: ("full", MESSAGE, False, PSIData),
    }
    some: PSIData | None
    full: PSIData | None


class PidsStat(Message):
    __slots__ = ("current", "limit")
    FIELDS = {
        1: ("current", UINT64, False, None),
        2: ("limit", UINT64, False, None),
    }
    current: int
    limit: int


class CPUStat(Message):
    __slots__ = (
        "usage_usec",
        "user_usec",
        "system_usec",
        "nr_periods",
        "nr_throttled",
        "throttled_usec",
        "psi",
        "nr_bursts",
        "burst_usec",
    )
    FIELDS = {
        1: ("usage_usec", UINT64, False, None),
        2: ("user_usec", UINT64, False, None),
        3: ("system_usec", UINT64, False, None),
        4: ("nr_periods", UINT64, False, None),
        5: ("nr_throttled", UINT64, False, None),
        6: ("throttled_usec", UINT64, False, None),
        7: ("psi", MESSAGE, False, PSIStats),
        8: ("nr_bursts", UINT64, False, None),
        9: ("burst_usec", UINT64, False, None),
    }
    usage_usec: int
    user_usec: int
    system_usec: int
    nr_periods: int
    nr_throttled: int
    throttled_usec: int
    psi: PSIStats | None
    nr_bursts: int
    burst_usec: int


class MemoryStat(Message):
    __slots__ = (
        "anon",
        "file",
        "kernel_stack",
        "slab",
        "sock",
        "shmem",
        "file_mapped",
        "file_dirty",
        "file_writeback",
        "anon_thp",
        "inactive_anon",
        "active_anon",
        "inactive_file",
        "active_file",
        "unevictable",
        "slab_reclaimable",
        "slab_unreclaimable",
        "pgfault",
        "pgmajfault",
        "workingset_refault",
        "workingset_activate",
        "workingset_nodereclaim",
        "pgrefill",
        "pgscan",
        "pgsteal",
        "pgactivate",
        "pgdeactivate",
        "pglazyfree",
        "pglazyfreed",
        "thp_fault_alloc",
        "thp_collapse_alloc",
        "usage",
        "usage_limit",
        "swap_usage",
        "swap_limit",
        "max_usage",
        "swap_max_usage",
        "psi",
    )
    FIELDS = {
        1: ("anon", UINT64, False, None),
        2: ("file", UINT64, False, None),
        3: ("kernel_stack", UINT64, False, None),
        4: ("slab", UINT64, False, None),
        5: ("sock", UINT64, False, None),
        6: ("shmem", UINT64, False, None),
        7: ("file_mapped", UINT64, False, None),
        8: ("file_dirty", UINT64, False, None),
        9: ("file_writeback", UINT64, False, None),
        10: ("anon_thp", UINT64, False, None),
        11: ("inactive_anon", UINT64, False, None),
        12: ("active_anon", UINT64, False, None),
        13: ("inactive_file", UINT64, False, None),
        14: ("active_file", UINT64, False, None),
        15: ("unevictable", UINT64, False, None),
        16: ("slab_reclaimable", UINT64, False, None),
        17: ("slab_unreclaimable", UINT64, False, None),
        18: ("pgfault", UINT64, False, None),
        19: ("pgmajfault", UINT64, False, None),
        20: ("workingset_refault", UINT64, False, None),
        21: ("workingset_activate", UINT64, False, None),
        22: ("workingset_nodereclaim", UINT64, False, None),
        23: ("pgrefill", UINT64, False, None),
        24: ("pgscan", UINT64, False, None),
        25: ("pgsteal", UINT64, False, None),
        26: ("pgactivate", UINT64, False, None),
        27: ("pgdeactivate", UINT64, False, None),
        28: ("pglazyfree", UINT64, False, None),
        29: ("pglazyfreed", UINT64, False, None),
        30: ("thp_fault_alloc", UINT64, False, None),
        31: ("thp_collapse_alloc", UINT64, False, None),
        32: ("usage", UINT64, False, None),
        33: ("usage_limit", UINT64, False, None),
        34: ("swap_usage", UINT64, False, None),
        35: ("swap_limit", UINT64, False, None),
        36: ("max_usage", UINT64, False, None),
        37: ("swap_max_usage", UINT64, False, None),
        38: ("psi", MESSAGE, False, PSIStats),
    }
    anon: int
    file: int
    kernel_stack: int
    slab: int
    sock: int
    shmem: int
    file_mapped: int
    file_dirty: int
    file_writeback: int
    anon_thp: int
    inactive_anon: int
    active_anon: int
    inactive_file: int
    active_file: int
    unevictable: int
    slab_reclaimable: int
    slab_unreclaimable: int
    pgfault: int
    pgmajfault: int
    workingset_refault: int
    workingset_activate: int
    workingset_nodereclaim: int
    pgrefill: int
    pgscan: int
    pgsteal: int
    pgactivate: int
    pgdeactivate: int
    pglazyfree: int
    pglazyfreed: int
    thp_fault_alloc: int
    thp_collapse_alloc: int
    usage: int
    usage_limit: int
    swap_usage: int
    swap_limit: int
    max_usage: int
    swap_max_usage: int
    psi: PSIStats | None


class MemoryEvents(Message):
    __slots__ = ("low", "high", "max", "oom", "oom_kill", "oom_group_kill")
    FIELDS = {
        1: ("low", UINT64, False, None),
        2: ("high", UINT64, False, None),
        3: ("max", UINT64, False, None),
        4: ("oom", UINT64, False, None),
        5: ("oom_kill", UINT64, False, None),
        6: ("oom_group_kill", UINT64, False, None),
    }
    low: int
    high: int
    max: int
    oom: int
    oom_kill: int
    oom_group_kill: int


class RdmaEntry(Message):
    __slots__ = ("device", "hca_handles", "hca_objects")
    FIELDS = {
        1: ("device", STRING, False, None),
        2: ("hca_handles", UINT32, False, None),
        3: ("hca_objects", UINT32, False, None),
    }
    device: str
    hca_handles: int
    hca_objects: int


class RdmaStat(Message):
    __slots__ = ("current", "limit")
    FIELDS = {
        1: ("current", MESSAGE, True, RdmaEntry),
        2: ("limit", MESSAGE, True, RdmaEntry),
    }
    current: list[RdmaEntry]
    limit: list[RdmaEntry]


class IOEntry(Message):
    __slots__ = ("major", "minor", "rbytes", "wbytes", "rios", "wios")
    FIELDS = {
        1: ("major", UINT64, False, None),
        2: ("minor", UINT64, False, None),
        3: ("rbytes", UINT64, False, None),
        4: ("wbytes", UINT64, False, None),
        5: ("rios", UINT64, False, None),
        6: ("wios", UINT64, False, None),
    }
    major: int
    minor: int
    rbytes: int
    wbytes: int
    rios: int
    wios: int


class IOStat(Message):
    __slots__ = ("usage", "psi")
    FIELDS = {
        1: ("usage", MESSAGE, True, IOEntry),
        2: ("psi", MESSAGE, False, PSIStats),
    }
    usage: list[IOEntry]
    psi: PSIStats | None


class HugeTlbStat(Message):
    __slots__ = ("current", "max", "pagesize", "failcnt")
    FIELDS = {
        1: ("current", UINT64, False, None),
        2: ("max", UINT64, False, None),
        3: ("pagesize", STRING, False, None),
        4: ("failcnt", UINT64, False, None),
    }
    current: int
    max: int
    pagesize: str
    failcnt: int


class Metrics(Message):
    __slots__ = ("pids", "cpu", "memory", "rdma", "io", "hugetlb", "memory_events")
    FIELDS = {
        1: ("pids", MESSAGE, False, PidsStat),
        2: ("cpu", MESSAGE, False, CPUStat),
        4: ("memory", MESSAGE, False, MemoryStat),
        5: ("rdma", MESSAGE, False, RdmaStat),
        6: ("io", MESSAGE, False, IOStat),
        7: ("hugetlb", MESSAGE, True, HugeTlbStat),
        8: ("memory_events", MESSAGE, False, MemoryEvents),
    }
    pids: PidsStat | None
    cpu: CPUStat | None
    memory: MemoryStat | None
    rdma: RdmaStat | None
    io: IOStat | None
    hugetlb: list[HugeTlbStat]
    memory_events: MemoryEvents | None
