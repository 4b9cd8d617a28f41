# SPDX-License-Identifier: Apache-2.0
"""A container's use of resources as cgroup v2's files tell it (kernel: admin-guide/cgroup-v2.rst).

The shape is that of v1's, so what v2 counts otherwise is converted: swap includes memory, I/O is in
tables by operation.
"""

from __future__ import annotations

from .stats import MAX, Reading, huge_page_sizes, number, pids_of, table, text

_IO = {"rbytes": ("ioServiceBytesRecursive", "Read"), "wbytes": ("ioServiceBytesRecursive", "Write"),
       "rios": ("ioServicedRecursive", "Read"), "wios": ("ioServicedRecursive", "Write")}
_PRESSURE = (("cpu", "cpu.pressure"), ("memory", "memory.pressure"), ("blkio", "io.pressure"))


def read(directory: str) -> Reading:
    """What the files of the cgroup say; of a controller that isn't enabled there are none.  Raises OSError."""
    reading = Reading()
    _cpu(directory, reading)
    _memory(directory, reading)
    _io(directory, reading)
    reading.pids = pids_of(directory)
    if number(directory, "pids.current") is None:
        reading.pids["current"] = len((text(directory, "cgroup.procs") or "").split())
    for size in huge_page_sizes():
        usage = number(directory, f"hugetlb.{size}.rsvd.current")
        if usage is None:
            usage = number(directory, f"hugetlb.{size}.current")
        if usage is not None:
            events = table(text(directory, f"hugetlb.{size}.events"))
            reading.hugetlb[size] = {"usage": usage, "failcnt": events.get("max", 0)}
    for name, file in _PRESSURE:
        _pressure(directory, name, file, reading)
    return reading


def _cpu(directory: str, reading: Reading) -> None:
    counts = table(text(directory, "cpu.stat"))
    reading.cpu = {"total": counts.get("usage_usec", 0) * 1000, "kernel": counts.get("system_usec", 0) * 1000,
                   "user": counts.get("user_usec", 0) * 1000}
    reading.throttling = {"periods": counts.get("nr_periods", 0), "throttledPeriods": counts.get("nr_throttled", 0),
                          "throttledTime": counts.get("throttled_usec", 0) * 1000}


def _memory(directory: str, reading: Reading) -> None:
    reading.raw = table(text(directory, "memory.stat"))
    usage = number(directory, "memory.current")
    if usage is None:
        return
    limit = number(directory, "memory.max") or 0
    reading.memory["usage"] = {"usage": usage, "limit": limit, "max": number(directory, "memory.peak") or 0}
    swap, swap_limit = number(directory, "memory.swap.current"), number(directory, "memory.swap.max") or 0
    if swap is None:  # a kernel that doesn't count swap
        swap = swap_limit = 0
    # Both may be `max`: runc adds up what fits into 64 bits, and so do we.
    together = MAX if swap_limit == MAX else (swap_limit + limit) & MAX
    reading.memory["swap"] = {"usage": swap + usage, "limit": together}


def _io(directory: str, reading: Reading) -> None:
    for line in (text(directory, "io.stat") or "").splitlines():
        device, *items = line.split()
        major, _, minor = device.partition(":")
        for item in items:
            key, _, value = item.partition("=")
            if key in _IO and major.isdigit() and minor.isdigit():
                name, operation = _IO[key]
                reading.blkio.setdefault(name, []).append(
                    {"major": int(major), "minor": int(minor), "op": operation, "value": int(value)})


def _pressure(directory: str, name: str, file: str, reading: Reading) -> None:
    """accounting/psi.rst: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`."""
    import errno

    try:
        content = text(directory, file)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # the kernel has it, but was booted without
            return
        raise
    if content is None:
        return
    reading.psi[name] = {}
    for line in content.splitlines():
        kind, *items = line.split()
        reading.psi[name][kind] = {key: _short(float(value)) for key, _, value in
                                   (item.partition("=") for item in items)}


def _short(value: float) -> float:
    return int(value) if value.is_integer() else value  # 0, as Go writes it, not 0.0
