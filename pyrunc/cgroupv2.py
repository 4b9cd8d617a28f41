# SPDX-License-Identifier: Apache-2.0
"""cgroup v2: the one hierarchy (kernel: admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import errno
import math
import os
import time

from . import cgroupfs
from .cgroupfs import GONE
from .errors import ConfigError, ContainerError, errno_text, reference_token
from .limits import POINTER, Write, keyed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .spec.types import CPU, BlockIO, Memory, Resources

MOUNT_POINT = "/sys/fs/cgroup"

_HUGEPAGES = "/sys/kernel/mm/hugepages"

_FREEZE_SECONDS = 2.0
# Above the part of the tree that was delegated to us nothing can be changed, nor need be.
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)


def path(cgroups_path: str, own_cgroups: str) -> str:
    """The directory for a (cleaned) cgroupsPath: absolute from the mount point, relative beside our own.

    Beside and not below: our own cgroup holds processes, us at least, so its controllers can't be
    passed on (cgroup-v2.rst, No Internal Process Constraint).  runc does the same.
    """
    if cgroups_path.startswith("/"):
        return MOUNT_POINT + cgroups_path
    own = ""
    for line in own_cgroups.splitlines():
        if line.startswith("0::"):
            own = line[3:]
    parts = [part for part in own.split("/") if part][:-1]
    # Outside of what a cgroup namespace shows, the path climbs (cgroup_namespaces(7)).
    base = "" if ".." in parts else "".join("/" + part for part in parts)
    return f"{MOUNT_POINT}{base}/{cgroups_path}"


def own(own_cgroups: str) -> str:
    """The directory of our own cgroup; the topmost one that is seen where that is outside of it."""
    for line in own_cgroups.splitlines():
        if line.startswith("0::/") and ".." not in line.split("/"):
            return (MOUNT_POINT + line[3:]).rstrip("/")
    return MOUNT_POINT


def enable_controllers(leaf: str) -> list[str]:
    """Pass each available controller down to `leaf`; what can't be passed is told as warnings.

    Not an error: without limits no controller is needed, and a limit without its file is one.
    """
    warnings: list[str] = []
    level = MOUNT_POINT
    # A cgroup's own controllers are enabled by its parent's subtree_control: the leaf itself is left out.
    for name in leaf[len(MOUNT_POINT) + 1 :].split("/"):
        warnings += _enable(level)
        level += "/" + name
    return warnings


def make_threaded(leaf: str) -> None:
    """Have `leaf` hold processes although a cgroup above it is threaded: below such a one all have to be.

    It has the controllers cpu, cpuset, perf_event and pids then.  Raises OSError.
    """
    level = MOUNT_POINT
    for name in leaf[len(MOUNT_POINT) + 1 :].split("/"):
        level += "/" + name
        try:
            kind = cgroupfs.read(f"{level}/cgroup.type").strip()
        except PermissionError:
            continue
        if kind == "domain invalid":
            cgroupfs.write(f"{level}/cgroup.type", "threaded")


def _enable(directory: str) -> list[str]:
    try:
        enabled = cgroupfs.read(f"{directory}/cgroup.subtree_control").split()
        available = cgroupfs.read(f"{directory}/cgroup.controllers").split()
    except OSError as error:
        return [f"cgroup {directory}: {errno_text(error.errno or 0)}"]
    missing = ["+" + name for name in available if name not in enabled]
    if not missing or _pass_on(directory, " ".join(missing)) == 0:
        return []
    warnings: list[str] = []
    for name in missing:  # together they fail together
        number = _pass_on(directory, name)
        if number not in (0, *_NOT_OURS):
            text = f"cgroup {directory}: controller {name[1:]} can't be passed on: {errno_text(number)}"
            if number == errno.EBUSY:
                text += " (a cgroup that holds processes can't pass controllers on)"
            warnings.append(text)
    return warnings


def _pass_on(directory: str, controllers: str) -> int:
    """Write to cgroup.subtree_control: 0, or the errno."""
    try:
        cgroupfs.write(f"{directory}/cgroup.subtree_control", controllers)
    except OSError as error:
        return error.errno or 0
    return 0


def kill(directory: str) -> bool:
    """Kill all processes in and below the cgroup, however fast they fork; False where that can't be done.

    cgroup.kill: Linux 5.14, and not in the root.
    """
    try:
        cgroupfs.write(f"{directory}/cgroup.kill", "1")
    except OSError as error:
        if error.errno in (*GONE, errno.EACCES, errno.EOPNOTSUPP):
            return False
        raise
    return True


def frozen(directory: str) -> bool:
    """Whether the cgroup is frozen or being so, by itself or by an ancestor."""
    return _flag(directory, "cgroup.freeze") or _frozen_event(directory)


def _flag(directory: str, name: str) -> bool:
    try:
        return cgroupfs.read(f"{directory}/{name}").strip() == "1"
    except OSError as error:
        if error.errno in GONE:
            return False
        raise


def _frozen_event(directory: str) -> bool:
    try:
        return "frozen 1" in cgroupfs.read(f"{directory}/cgroup.events").splitlines()
    except OSError as error:
        if error.errno in GONE:
            return False
        raise


def freeze(directory: str, seconds: float = _FREEZE_SECONDS) -> None:
    """Freeze the cgroup and wait until it is; thawed again, with a ContainerError, when it doesn't work."""
    cgroupfs.write(f"{directory}/cgroup.freeze", "1")
    deadline = time.monotonic() + seconds
    pause = 0.0002
    while not _frozen_event(directory):
        if time.monotonic() > deadline:
            thaw(directory)
            raise ContainerError(f"cgroup {directory} can't be frozen within {seconds:g} s")
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def thaw(directory: str) -> None:
    """Thaw the cgroup."""
    cgroupfs.write(f"{directory}/cgroup.freeze", "0")


# linux.resources as writes.  As everywhere in the spec's Go types, 0 is "not given" where 0 means nothing.

_PERIOD = 100000  # microseconds: what cpu.max has where nobody has set it
_THROTTLES = ("throttleReadBpsDevice", "rbps"), ("throttleWriteBpsDevice", "wbps"), \
    ("throttleReadIOPSDevice", "riops"), ("throttleWriteIOPSDevice", "wiops")
_NO_THROTTLE = "rbps=max wbps=max riops=max wiops=max"
_NO_RDMA = "hca_handle=max hca_object=max"
# What a line of a keyed file is when its key isn't there.
_ABSENT = {"io.max": _NO_THROTTLE, "rdma.max": _NO_RDMA, "io.latency": "target=0", "misc.max": "max",
           "io.weight": "default", "io.bfq.weight": "default"}


def limits(resources: Resources, directory: str, warn: Callable[[str], None]) -> list[Write]:
    """The writes, in order, that apply `resources` but its device rules to the cgroup at `directory`.

    Reads the cgroup's files, because the kernel takes some pairs in one order only, which depends on
    what they hold; writes nothing.  Raises ConfigError.
    """
    _warn_of_v1(resources, warn)
    writes: list[Write] = []
    if cpu := resources.get("cpu"):
        writes += _weight(cpu, directory) + _bandwidth(cpu, directory)
        for name, value in (("cpus", cpu.get("cpus")), ("mems", cpu.get("mems"))):
            if value:
                writes.append(_write(f"cpuset.{name}", value, f"cpu/{name}", hint=_available(directory, name)))
    if memory := resources.get("memory"):
        writes += _memory(memory, directory)
    limit = (resources.get("pids") or {}).get("limit")
    if limit is not None:
        # 0, which systemd can't express, is as good as 1: the init is there.
        writes.append(_write("pids.max", "max" if limit < 0 else str(limit or 1), "pids/limit"))
    if block := resources.get("blockIO"):
        writes += _io(block, directory, warn)
    for index, entry in enumerate(resources.get("hugepageLimits") or []):
        size = check_page_size(entry["pageSize"], f"{POINTER}/hugepageLimits/{index}/pageSize")
        for file in (f"hugetlb.{size}.max", f"hugetlb.{size}.rsvd.max"):
            writes.append(_write(file, str(entry["limit"]), f"hugepageLimits/{index}/limit", optional=".rsvd." in file))
    for device, counts in (resources.get("rdma") or {}).items():
        value = device
        for key, count in (("hca_handle", counts.get("hcaHandles")), ("hca_object", counts.get("hcaObjects"))):
            if count is not None:
                value += f" {key}={count}"
        writes.append(_write("rdma.max", value, f"rdma/{reference_token(device)}", undo=keyed(device, _NO_RDMA)))
    return writes + _unified(resources.get("unified") or {}, directory)


def _write(file: str, value: str, field: str, *, hint: str = "", optional: bool = False,
           undo: Callable[[str], list[str]] | None = None) -> Write:
    return Write("", file, value, f"{POINTER}/{field}", hint=hint, optional=optional, undo=undo)


def _warn_of_v1(resources: Resources, warn: Callable[[str], None]) -> None:
    """Name what only v1 has: it can't be kept here, and engines give some of it everywhere."""
    cpu, memory = resources.get("cpu") or {}, resources.get("memory") or {}
    block, network = resources.get("blockIO") or {}, resources.get("network") or {}
    leaf = block.get("leafWeight") or any(entry.get("leafWeight") for entry in block.get("weightDevice") or [])
    for field, given in (
        ("cpu/realtimeRuntime", cpu.get("realtimeRuntime")), ("cpu/realtimePeriod", cpu.get("realtimePeriod")),
        ("memory/kernel", memory.get("kernel")), ("memory/kernelTCP", memory.get("kernelTCP")),
        ("memory/swappiness", memory.get("swappiness") is not None),
        ("memory/disableOOMKiller", memory.get("disableOOMKiller")), ("blockIO/leafWeight", leaf),
        ("network/classID", network.get("classID")), ("network/priorities", network.get("priorities")),
    ):
        if given:
            warn(f"{POINTER}/{field} is ignored: cgroup v2 has no such limit")


def shares_to_weight(shares: int) -> int:
    """cpu.weight for cpu.shares: a curve through (2, 1), (1024, 100) and (262144, 10000), as in runc since 2025."""
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def io_weight(weight: int) -> int:
    """io.weight, 1 to 10000, for blockIO.weight, 10 to 1000: linear."""
    return 1 + (weight - 10) * 9999 // 990


def _weight(cpu: CPU, directory: str) -> list[Write]:
    shares, idle = cpu.get("shares"), cpu.get("idle")
    writes: list[Write] = []
    if shares:
        writes.append(_write("cpu.weight", str(shares_to_weight(shares)), "cpu/shares",
                             hint="an idle cgroup (cpu.idle) has no weight"))
    if idle is not None:
        write = _write("cpu.idle", str(idle), "cpu/idle", hint="0 or 1; since Linux 5.15")
        # The kernel takes no weight for an idle cgroup.
        writes.insert(0 if _text(directory, "cpu.idle") == "1" else len(writes), write)
    return writes


def _bandwidth(cpu: CPU, directory: str) -> list[Write]:
    """cpu.max and cpu.max.burst, of which the kernel wants burst <= quota after each single write."""
    quota, period, burst = cpu.get("quota") or 0, cpu.get("period") or 0, cpu.get("burst")
    writes: list[Write] = []
    if quota or period:
        hint = "the quota is at least 1000 and not below the burst, the period 1000 to 1000000"
        writes.append(_write("cpu.max", f"{quota if quota > 0 else 'max'} {period or _PERIOD}",
                             "cpu/quota" if quota else "cpu/period", hint=hint))
    if burst is not None:
        write = _write("cpu.max.burst", str(burst), "cpu/burst", optional=not burst,
                       hint="since Linux 5.14; at most the quota")
        now = _text(directory, "cpu.max.burst")
        writes.insert(0 if now.isdigit() and burst <= int(now) else len(writes), write)
    return writes


def _available(directory: str, name: str) -> str:
    return f"the parent cgroup has {_text(os.path.dirname(directory), f'cpuset.{name}.effective') or 'none'}"


def _text(directory: str, name: str) -> str:
    """What a file holds, "" where there is none."""
    try:
        return cgroupfs.read(f"{directory}/{name}").strip()
    except OSError:
        return ""


def _memory(memory: Memory, directory: str) -> list[Write]:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    for name, value in (("limit", limit), ("swap", swap)):
        if value < -1:
            raise ConfigError(f"{POINTER}/memory/{name}", f"{value} is no limit", hint="-1 is unlimited")
    if memory.get("checkBeforeUpdate"):
        _check_usage(limit, swap, directory)
    writes: list[Write] = []
    alone = _swap_alone(limit, swap)
    if alone:
        # A kernel that doesn't account for swap keeps "none" and "any amount" alike.
        writes.append(_write("memory.swap.max", alone, "memory/swap" if swap else "memory/limit",
                             optional=alone in ("max", "0"), hint="the kernel has no swap accounting"))
    if limit:
        writes.append(_write("memory.max", "max" if limit == -1 else str(limit), "memory/limit"))
    if reservation := memory.get("reservation"):
        writes.append(_write("memory.low", "max" if reservation == -1 else str(reservation), "memory/reservation"))
    return writes


def _swap_alone(limit: int, swap: int) -> str:
    """memory.swap.max, which counts swap alone, from v1's limit of both together; "" is to leave it."""
    pointer = f"{POINTER}/memory/swap"
    if swap == 0:
        return "max" if limit == -1 else ""
    if swap == -1:
        return "max"
    if limit in (0, -1):
        raise ConfigError(pointer, "unable to set swap limit without memory limit")
    if swap < limit:
        raise ConfigError(pointer, f"{swap}: memory+swap limit should be >= memory limit, {limit}")
    return str(swap - limit)


def _check_usage(limit: int, swap: int, directory: str) -> None:
    """config-linux.md, Memory: with checkBeforeUpdate a limit below the usage is refused, not enforced by killing."""
    usage = int(_text(directory, "memory.current") or 0)
    if 0 < swap <= usage:
        raise ConfigError(f"{POINTER}/memory/swap", f"rejecting memory+swap limit {swap} <= usage {usage}")
    if 0 < limit <= usage:
        raise ConfigError(f"{POINTER}/memory/limit", f"rejecting memory limit {limit} <= usage {usage}")


def _io(block: BlockIO, directory: str, warn: Callable[[str], None]) -> list[Write]:
    """BFQ's weights where that is the scheduler, else io.cost's; throttling by io.max."""
    writes: list[Write] = []
    bfq = _text(directory, "io.bfq.weight")
    if weight := block.get("weight"):
        _check_weight(weight, "blockIO/weight")
        file, value = ("io.bfq.weight", weight) if bfq else ("io.weight", io_weight(weight))
        writes.append(_write(file, str(value), "blockIO/weight", undo=_line_by_line,
                             hint="the kernel has no weights for I/O (BFQ or io.cost)"))
    for index, entry in enumerate(block.get("weightDevice") or []):
        field = f"blockIO/weightDevice/{index}"
        if not (weight := entry.get("weight")):
            continue
        _check_weight(weight, f"{field}/weight")
        if not bfq.startswith("default"):  # since Linux 5.4
            warn(f"{POINTER}/{field}/weight is ignored: the kernel has no weights of single devices (BFQ)")
            continue
        device = f"{entry['major']}:{entry['minor']}"
        writes.append(_write("io.bfq.weight", f"{device} {weight}", f"{field}/weight", undo=keyed(device, "default")))
    for name, key in _THROTTLES:
        throttles: Any = block.get(name) or []
        for index, entry in enumerate(throttles):
            device = f"{entry['major']}:{entry['minor']}"
            writes.append(_write("io.max", f"{device} {key}={entry.get('rate') or 'max'}", f"blockIO/{name}/{index}",
                                 undo=keyed(device, _NO_THROTTLE),
                                 hint=f"{device} has to be a whole block device of this host"))
    return writes


def _check_weight(weight: int, field: str) -> None:
    if not 10 <= weight <= 1000:
        raise ConfigError(f"{POINTER}/{field}", f"{weight} is not a weight, which is 10 to 1000")


def check_page_size(size: str, pointer: str) -> str:
    """`size`, if the kernel has huge pages of it.  Raises ConfigError with those it has."""
    try:
        names = os.listdir(_HUGEPAGES)
    except OSError:
        names = []
    known = []
    for kib in sorted(int(name[len("hugepages-") : -len("kB")]) for name in names):
        known.append(f"{kib >> 20}GB" if kib >= 1 << 20 else f"{kib >> 10}MB" if kib >= 1 << 10 else f"{kib}KB")
    if size not in known:
        raise ConfigError(pointer, f"{size[:60]!r} is no size of huge pages here",
                          hint=f"it is one of {', '.join(known)}" if known else "this kernel has no huge pages")
    return size


def _unified(unified: Mapping[str, str], directory: str) -> list[Write]:
    """The files named by themselves, a write a line: so the kernel takes keyed ones."""
    writes: list[Write] = []
    available = _text(directory, "cgroup.controllers").split()
    for name, value in unified.items():
        pointer = f"unified/{reference_token(name)}"
        if "/" in name:
            raise ConfigError(f"{POINTER}/{pointer}", f"unified resource {name!a} must be a file name (no slashes)")
        controller, dot, _ = name.partition(".")
        if not dot:
            raise ConfigError(f"{POINTER}/{pointer}", f"unified resource {name!a} must be in the form "
                                                      "CONTROLLER.PARAMETER")
        missing = controller != "cgroup" and controller not in available
        hint = f"the controller {controller} is not available" if missing else "as this kernel has it"
        for line in value.splitlines() or [""]:
            key = line.split(" ", 1)[0]
            undo = keyed(key, _ABSENT[name]) if name in _ABSENT else _line_by_line
            writes.append(_write(name, line, pointer, hint=hint, undo=undo))
    return writes


def _line_by_line(before: str) -> list[str]:
    return [line or "\n" for line in before.splitlines()] or ["\n"]
