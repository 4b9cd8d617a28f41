# SPDX-License-Identifier: Apache-2.0
"""cgroup v1: one hierarchy a controller (kernel: admin-guide/cgroup-v1), found where it is mounted.

On a hybrid machine the v2 hierarchy, under the controller name "", is one more of them.
"""

from __future__ import annotations

import errno
import os
import time

from . import cgroupfs
from .cgroupfs import GONE
from .errors import ConfigError, ContainerError, kernel_error, reference_token
from .limits import POINTER, Write, keyed
from .linux import fs
from .paths import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .spec.types import CPU, BlockIO, HugepageLimit, Memory, Network, Pids, Rdma, Resources

MOUNT_POINT = "/sys/fs/cgroup"
UNIFIED = "/sys/fs/cgroup/unified"  # where systemd's hybrid set-up has the v2 hierarchy
SYSTEMD = "name=systemd"  # the one named hierarchy that processes are kept in

_FREEZE_SECONDS = 2.0
_HUGEPAGES = "/sys/kernel/mm/hugepages"
_UNLIMITED = 1 << 62  # memory.limit_in_bytes without a limit is all of the page counter, just below 2^63
_SHARES = (2, 262144)  # kernel/sched: MIN_SHARES and MAX_SHARES, to which cpu.shares is silently clipped
_RT_HINT = "the parent cgroup's cpu.rt_runtime_us has to leave as much, and is 0 where nobody has set it"


class Hierarchy:
    """A mounted hierarchy: `root` is the cgroup that shows at `mount_point`, `own` the one we are in."""

    __slots__ = ("mount_point", "own", "root")

    def __init__(self, mount_point: str, root: str, own: str) -> None:
        self.mount_point = mount_point
        self.root = root
        self.own = own

    def path(self, cgroups_path: str) -> str:
        """The directory for a (cleaned) cgroupsPath: from the mount point if absolute, else from our own."""
        if cgroups_path.startswith("/"):
            return self.mount_point + cgroups_path
        own = self.own
        if self.root != "/":
            # Bind-mounted into a container: /proc/self/cgroup has the whole path, the mount only its end.
            inside = own == self.root or own.startswith(self.root + "/")
            own = own[len(self.root) :] if inside else ""
        parts = [part for part in own.split("/") if part]
        # Outside of what a cgroup namespace shows, the path climbs (cgroup_namespaces(7)).
        base = "" if ".." in parts else "".join("/" + part for part in parts)
        return f"{self.mount_point}{base}/{cgroups_path}"


def hierarchies(hybrid: bool, mountinfo: str, own_cgroups: str) -> dict[str, Hierarchy]:
    """The mounted hierarchies by controller, from /proc/self/mountinfo and /proc/self/cgroup (proc(5))."""
    mounts = _mounts(mountinfo)
    found: dict[str, Hierarchy] = {}
    for line in own_cgroups.splitlines():
        _, controllers, own = line.split(":", 2)
        for controller in controllers.split(","):
            if controller.startswith("name=") and controller != SYSTEMD:
                continue
            if not controller:
                if hybrid:
                    found[""] = Hierarchy(UNIFIED, "/", own)
            elif controller in mounts:
                found[controller] = Hierarchy(*mounts[controller], own)
    return found


def own_hierarchies(hybrid: bool, own_cgroups: str) -> dict[str, Hierarchy]:
    """Those that this process can reach: another mount may cover one's place.  Raises OSError."""
    found = hierarchies(hybrid, cgroupfs.read("/proc/self/mountinfo"), own_cgroups)
    return {controller: hierarchy for controller, hierarchy in found.items()
            if not controller or _is_there(hierarchy.mount_point)}


def _is_there(place: str) -> bool:
    try:
        return fs.statfs_type(place) == fs.CGROUP_SUPER_MAGIC
    except OSError:
        return False


def _mounts(mountinfo: str) -> dict[str, tuple[str, str]]:
    """(mount point, root) of each controller: below /sys/fs/cgroup if there is a choice, else the first."""
    found: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        mount, separator, rest = line.partition(" - cgroup ")
        if not separator:
            continue
        fields = mount.split(" ")
        place = (unescape(fields[4]), unescape(fields[3]))
        usual = place[0].startswith(MOUNT_POINT + "/")
        for option in rest.split(" ")[-1].split(","):
            if option not in found or (usual and not found[option][0].startswith(MOUNT_POINT + "/")):
                found[option] = place
    return found


def fill_cpuset(path: str) -> None:
    """Give a cpuset and its ancestors the cpus and memory nodes of their parents where they have none.

    A new cpuset is empty, and no process can join it then (admin-guide/cgroup-v1/cpusets.rst, 1.5).
    """
    chain: list[tuple[str, list[str]]] = []
    try:
        while empty := [name for name in ("cpuset.cpus", "cpuset.mems") if not _content(path, name)]:
            chain.append((path, empty))
            path = os.path.dirname(path)
    except FileNotFoundError:
        pass  # above the hierarchy's root
    except OSError as error:
        raise kernel_error(f"read the cpus and memory nodes of {path}", error) from None
    for path, empty in reversed(chain):
        parent = os.path.dirname(path)
        try:
            for name in empty:
                cgroupfs.write(f"{path}/{name}", _content(parent, name))
        except OSError as error:
            raise kernel_error(f"give {path} its parent's cpus and memory nodes", error) from None


def _content(directory: str, name: str) -> str:
    return cgroupfs.read(f"{directory}/{name}").strip()


def frozen(path: str) -> bool:
    """Whether the cgroup of the freezer hierarchy is frozen or being so, by itself or by an ancestor."""
    try:
        return _content(path, "freezer.state") != "THAWED"
    except OSError as error:
        if error.errno in GONE:
            return False
        raise


def freeze(path: str, seconds: float = _FREEZE_SECONDS) -> None:
    """Freeze the cgroup of the freezer hierarchy; thawed again, with a ContainerError, when it doesn't work.

    A process that forks fast, or stands in a system call that can't be interrupted, holds the state
    at FREEZING: writing again and thawing between times help (freezer-subsystem.rst).
    """
    file = f"{path}/freezer.state"
    deadline = time.monotonic() + seconds
    tries = 0
    while True:
        cgroupfs.write(file, "FROZEN")
        if cgroupfs.read(file).strip() == "FROZEN":
            return
        tries += 1
        if time.monotonic() > deadline:
            cgroupfs.write(file, "THAWED")
            raise ContainerError(f"cgroup {path} can't be frozen within {seconds:g} s")
        if tries % 25 == 0:
            cgroupfs.write(file, "THAWED")
        time.sleep(0.001)


def thaw(path: str, recursive: bool = False) -> None:
    """Thaw the cgroup; with `recursive`, also those below it that were frozen by themselves."""
    if not recursive:
        cgroupfs.write(f"{path}/freezer.state", "THAWED")
        return
    top = cgroupfs.open_directory(path)
    try:
        for fd in cgroupfs.walk(top):
            try:
                cgroupfs.write("freezer.state", "THAWED", fd)
            except OSError as error:
                if error.errno not in (*GONE, errno.EACCES):
                    raise
    finally:
        os.close(top)


# linux.resources as writes.  As everywhere in the spec's Go types, 0 is "not given" where 0 means nothing.


def limits(resources: Resources, directories: Mapping[str, str], warn: Callable[[str], None]) -> list[Write]:
    """The writes, in order, that apply `resources` but its device rules; `directories` by controller.

    Reads the cgroup's files, because the kernel takes some pairs in one order only, which depends on
    what they hold; writes nothing.  Raises ConfigError.
    """
    if resources.get("unified"):
        raise ConfigError(f"{POINTER}/unified", "invalid configuration: cannot use unified on cgroup v1",
                          hint="it names files of cgroup v2; use the fields beside it")
    writes: list[Write] = []
    if cpu := resources.get("cpu"):
        directory = directories.get("cpu", "")
        writes += _shares(cpu, directory) + _bandwidth(cpu, directory) + _realtime(cpu, directory)
        writes += _cpuset(cpu, directories.get("cpuset", ""))
    if memory := resources.get("memory"):
        writes += _memory(memory, directories.get("memory", ""), warn)
    if pids := resources.get("pids"):
        writes += _pids(pids)
    if block := resources.get("blockIO"):
        writes += _block(block, directories.get("blkio", ""))
    writes += _hugepages(resources.get("hugepageLimits") or [], directories)
    if network := resources.get("network"):
        writes += _network(network)
    return writes + _rdma(resources.get("rdma") or {}, directories)


def _number(directory: str, name: str, otherwise: int) -> int:
    """What a file of one number holds; `otherwise` where there is none."""
    try:
        return int(_content(directory, name))
    except (OSError, ValueError):
        return otherwise


def _shares(cpu: CPU, directory: str) -> list[Write]:
    """cpu.shares and cpu.idle (sched-design-CFS.rst)."""
    shares, idle = cpu.get("shares"), cpu.get("idle")
    writes: list[Write] = []
    was_idle = bool(_number(directory, "cpu.idle", 0))
    if shares:
        if not _SHARES[0] <= shares <= _SHARES[1]:
            bound, which = (_SHARES[0], "minimum") if shares < _SHARES[0] else (_SHARES[1], "maximum")
            raise ConfigError(f"{POINTER}/cpu/shares", f"{shares}: the {which} allowed cpu-shares is {bound}")
        writes.append(Write("cpu", "cpu.shares", str(shares), f"{POINTER}/cpu/shares",
                            hint="an idle cgroup (cpu.idle) has no shares"))
    elif idle and directory and not was_idle:
        # Leaving idle again resets the shares: what undoes this write is what brings them back.
        writes.append(Write("cpu", "cpu.shares", str(_number(directory, "cpu.shares", 1024)), f"{POINTER}/cpu/idle",
                            optional=True))
    if idle is not None:
        write = Write("cpu", "cpu.idle", str(idle), f"{POINTER}/cpu/idle", hint="0 or 1; since Linux 5.15")
        # The kernel takes no shares for an idle cgroup.
        writes.insert(0 if was_idle else len(writes), write)
    return writes


def _bandwidth(cpu: CPU, directory: str) -> list[Write]:
    """cpu.cfs_quota_us, cpu.cfs_period_us and cpu.cfs_burst_us (sched-bwc.rst).

    The kernel wants burst <= quota, and quota/period within the parent's, after each single write.
    """
    quota, period, burst = cpu.get("quota") or 0, cpu.get("period") or 0, cpu.get("burst")
    pointer = f"{POINTER}/cpu"
    writes: list[Write] = []
    if quota:
        writes.append(Write("cpu", "cpu.cfs_quota_us", str(quota), f"{pointer}/quota",
                            hint="at least 1000, not below the burst, and quota/period not above the parent cgroup's"))
    if period:
        write = Write("cpu", "cpu.cfs_period_us", str(period), f"{pointer}/period",
                      hint="1000 to 1000000, and quota/period not above the parent cgroup's")
        # A longer period goes first, a shorter last: the share of the time is the smaller one in between.
        longer = period >= _number(directory, "cpu.cfs_period_us", 0)
        writes.insert(0 if longer else len(writes), write)
    if burst is not None:
        held = quota or _number(directory, "cpu.cfs_quota_us", -1)
        if 0 <= held < burst:  # without a quota the kernel takes any, for the day there is one
            raise ConfigError(f"{pointer}/burst", f"a burst of {burst} is above the quota of {held}")
        write = Write("cpu", "cpu.cfs_burst_us", str(burst), f"{pointer}/burst", optional=not burst,
                      hint="since Linux 5.14; at most the quota")
        smaller = burst <= _number(directory, "cpu.cfs_burst_us", 0)
        writes.insert(0 if smaller else len(writes), write)
    return writes


def _realtime(cpu: CPU, directory: str) -> list[Write]:
    """cpu.rt_runtime_us and cpu.rt_period_us (sched-rt-group.rst)."""
    runtime, period = cpu.get("realtimeRuntime") or 0, cpu.get("realtimePeriod") or 0
    held = period or _number(directory, "cpu.rt_period_us", runtime)
    if runtime > held:
        raise ConfigError(f"{POINTER}/cpu/realtimeRuntime", f"{runtime} is more than the period, {held}")
    writes: list[Write] = []
    if runtime:
        writes.append(Write("cpu", "cpu.rt_runtime_us", str(runtime), f"{POINTER}/cpu/realtimeRuntime", hint=_RT_HINT))
    if period:
        write = Write("cpu", "cpu.rt_period_us", str(period), f"{POINTER}/cpu/realtimePeriod", hint=_RT_HINT)
        longer = period >= _number(directory, "cpu.rt_period_us", 0)
        writes.insert(0 if longer else len(writes), write)
    return writes


def _cpuset(cpu: CPU, directory: str) -> list[Write]:
    """cpuset.cpus and cpuset.mems (cpusets.rst)."""
    writes: list[Write] = []
    for name, value in (("cpus", cpu.get("cpus")), ("mems", cpu.get("mems"))):
        if value:
            pointer = f"{POINTER}/cpu/{name}"
            try:
                hint = f"the parent cgroup has {_content(os.path.dirname(directory), f'cpuset.{name}') or 'none'}"
            except OSError:
                hint = ""
            writes.append(Write("cpuset", f"cpuset.{name}", value, pointer, hint=hint))
    return writes


_TCP_LIMIT = "memory.kmem.tcp.limit_in_bytes"


def _memory(memory: Memory, directory: str, warn: Callable[[str], None]) -> list[Write]:
    """The memory controller's files (admin-guide/cgroup-v1/memory.rst)."""
    pointer = f"{POINTER}/memory"
    if memory.get("kernel"):
        warn(f"{pointer}/kernel is ignored: kernels have no limit for kernel memory alone")
    writes = _memory_and_swap(memory, directory, pointer)
    if tcp := memory.get("kernelTCP"):
        if os.path.exists(f"{directory}/{_TCP_LIMIT}"):
            writes.append(Write("memory", _TCP_LIMIT, str(tcp), f"{pointer}/kernelTCP"))
        else:
            warn(f"{pointer}/kernelTCP is ignored: this kernel has no limit for it")
    if reservation := memory.get("reservation"):
        writes.append(Write("memory", "memory.soft_limit_in_bytes", str(reservation), f"{pointer}/reservation"))
    if memory.get("disableOOMKiller"):
        writes.append(Write("memory", "memory.oom_control", "1", f"{pointer}/disableOOMKiller", undo=_oom_control))
    swappiness = memory.get("swappiness")
    if swappiness is not None:
        if not 0 <= swappiness <= 100:
            raise ConfigError(f"{pointer}/swappiness", f"invalid memory swappiness value: {swappiness} "
                                                       "(valid range is 0-100)")
        writes.append(Write("memory", "memory.swappiness", str(swappiness), f"{pointer}/swappiness"))
    return writes


def _oom_control(before: str) -> list[str]:
    return ["1" if "oom_kill_disable 1" in before.splitlines() else "0"]


def _memory_and_swap(memory: Memory, directory: str, pointer: str) -> list[Write]:
    """The limit of memory, and that of memory and swap together, which the kernel never lets be the smaller."""
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    for name, value in (("limit", limit), ("swap", swap)):
        if value < -1:
            raise ConfigError(f"{pointer}/{name}", f"{value} is no limit", hint="-1 is unlimited")
    if limit == -1 and not swap:
        swap = -1  # memory without a limit below a limit of both is what the kernel rejects
    if not limit and not swap:
        return []
    now = _number(directory, "memory.limit_in_bytes", _UNLIMITED)
    if swap > 0:
        if (limit or now) >= _UNLIMITED or limit == -1:
            raise ConfigError(f"{pointer}/swap", "unable to set swap limit without memory limit")
        if swap < (limit or now):
            raise ConfigError(f"{pointer}/swap", f"{swap}: memory+swap limit should be >= memory limit, "
                                                 f"{limit or now}")
    if memory.get("checkBeforeUpdate"):
        _check_usage(limit, swap, directory, pointer)
    writes: list[Write] = []
    if limit:
        writes.append(Write("memory", "memory.limit_in_bytes", str(limit), f"{pointer}/limit",
                            hint=_usage_hint(directory)))
    if swap:
        write = Write("memory", "memory.memsw.limit_in_bytes", str(swap),
                      f"{pointer}/swap" if memory.get("swap") else f"{pointer}/limit", optional=swap == -1,
                      hint="it counts memory and swap; kernels older than 5.8 want swapaccount=1 to have it")
        writes.insert(0 if swap == -1 or now < swap else len(writes), write)
    return writes


def _check_usage(limit: int, swap: int, directory: str, pointer: str) -> None:
    """config-linux.md, Memory: with checkBeforeUpdate a limit below the usage is refused, not enforced by killing."""
    usage = _number(directory, "memory.usage_in_bytes", 0)
    both = _number(directory, "memory.memsw.usage_in_bytes", usage)
    if swap > 0 and swap <= both:
        raise ConfigError(f"{pointer}/swap", f"rejecting memory+swap limit {swap} <= usage {both}")
    if limit > 0 and limit <= usage:
        raise ConfigError(f"{pointer}/limit", f"rejecting memory limit {limit} <= usage {usage}")


def _usage_hint(directory: str) -> str:
    """What explains EBUSY (in use, and can't be reclaimed) and EINVAL (above the limit of memory and swap)."""
    parts = []
    for what, name in (("current usage", "memory.usage_in_bytes"), ("peak usage", "memory.max_usage_in_bytes"),
                       ("memory+swap limit", "memory.memsw.limit_in_bytes")):
        value = _number(directory, name, -1)
        if 0 <= value < _UNLIMITED:
            parts.append(f"{what}: {value}")
    return ", ".join(parts)


def _pids(pids: Pids) -> list[Write]:
    """pids.max (pids.rst): negative is no limit; 0, which systemd can't express, is as good as 1."""
    limit = pids.get("limit")
    if limit is None:
        return []
    value = "max" if limit < 0 else str(limit or 1)
    return [Write("pids", "pids.max", value, f"{POINTER}/pids/limit", hint="at most 4194304; -1 is unlimited")]


def _block(block: BlockIO, directory: str) -> list[Write]:
    """Weights of CFQ (until Linux 4.20) or BFQ, and throttling (blkio-controller.rst)."""
    pointer = f"{POINTER}/blockIO"
    kind = "blkio" if os.path.exists(f"{directory}/blkio.weight") else "blkio.bfq"
    hint = "the kernel has no I/O scheduler with weights for groups"
    writes: list[Write] = []

    def weight(value: int | None, file: str, at: str, device: str = "") -> None:
        if not value:
            return
        if not 10 <= value <= 1000:
            raise ConfigError(at, f"{value} is not a weight, which is 10 to 1000")
        if device:
            writes.append(Write("blkio", file, f"{device} {value}", at, hint=hint, undo=keyed(device, "default")))
        else:
            writes.append(Write("blkio", file, str(value), at, hint=hint))

    weight(block.get("weight"), f"{kind}.weight", f"{pointer}/weight")
    weight(block.get("leafWeight"), "blkio.leaf_weight", f"{pointer}/leafWeight")
    for index, entry in enumerate(block.get("weightDevice") or []):
        device = f"{entry['major']}:{entry['minor']}"
        at = f"{pointer}/weightDevice/{index}"
        weight(entry.get("weight"), f"{kind}.weight_device", f"{at}/weight", device)
        weight(entry.get("leafWeight"), "blkio.leaf_weight_device", f"{at}/leafWeight", device)
    for name, file, throttles in (
        ("throttleReadBpsDevice", "read_bps", block.get("throttleReadBpsDevice")),
        ("throttleWriteBpsDevice", "write_bps", block.get("throttleWriteBpsDevice")),
        ("throttleReadIOPSDevice", "read_iops", block.get("throttleReadIOPSDevice")),
        ("throttleWriteIOPSDevice", "write_iops", block.get("throttleWriteIOPSDevice")),
    ):
        for index, throttle in enumerate(throttles or []):
            device = f"{throttle['major']}:{throttle['minor']}"
            writes.append(Write("blkio", f"blkio.throttle.{file}_device", f"{device} {throttle.get('rate') or 0}",
                                f"{pointer}/{name}/{index}", undo=keyed(device, "0"),
                                hint=f"{device} has to be a whole block device of this host"))
    return writes


def _hugepages(limits: list[HugepageLimit], directories: Mapping[str, str]) -> list[Write]:
    """hugetlb.SIZE.limit_in_bytes (hugetlb.rst), or hugetlb.SIZE.max where v2 has the controller."""
    writes: list[Write] = []
    sizes = _page_sizes() if limits else []
    for index, entry in enumerate(limits):
        pointer = f"{POINTER}/hugepageLimits/{index}"
        size = entry["pageSize"]
        if size not in sizes:
            raise ConfigError(f"{pointer}/pageSize", f"{size[:60]!r} is no size of huge pages here",
                              hint=f"it is one of {', '.join(sizes)}" if sizes else "this kernel has no huge pages")
        controller = _holder("hugetlb", f"hugetlb.{size}.max", directories)
        suffix = "limit_in_bytes" if controller else "max"
        for file in (f"hugetlb.{size}.{suffix}", f"hugetlb.{size}.rsvd.{suffix}"):
            writes.append(Write(controller, file, str(entry["limit"]), pointer, optional=".rsvd." in file))
    return writes


def _holder(controller: str, file: str, directories: Mapping[str, str]) -> str:
    """`controller`, or "" where it is the v2 hierarchy that has it and so `file`."""
    if controller not in directories and "" in directories and os.path.exists(f"{directories['']}/{file}"):
        return ""
    return controller


def _page_sizes() -> list[str]:
    """The sizes of huge pages as the controller's files have them in their names."""
    try:
        names = os.listdir(_HUGEPAGES)
    except OSError:
        return []
    sizes = sorted(int(name[len("hugepages-") : -len("kB")]) for name in names)
    return [f"{kib >> 20}GB" if kib >= 1 << 20 else f"{kib >> 10}MB" if kib >= 1 << 10 else f"{kib}KB"
            for kib in sizes]


def _network(network: Network) -> list[Write]:
    """net_cls.classid and net_prio.ifpriomap (net_cls.rst, net_prio.rst)."""
    writes: list[Write] = []
    pointer = f"{POINTER}/network"
    if class_id := network.get("classID"):
        writes.append(Write("net_cls", "net_cls.classid", str(class_id), f"{pointer}/classID"))
    for index, entry in enumerate(network.get("priorities") or []):
        name = entry["name"]
        writes.append(Write("net_prio", "net_prio.ifpriomap", f"{name} {entry['priority']}",
                            f"{pointer}/priorities/{index}", undo=keyed(name, "0"),
                            hint="the interface has to be one of the runtime's network namespace"))
    return writes


def _rdma(devices: Mapping[str, Rdma], directories: Mapping[str, str]) -> list[Write]:
    """rdma.max (rdma.rst), the same file in v2."""
    writes: list[Write] = []
    for device, values in devices.items():
        value = device
        for key, count in (("hca_handle", values.get("hcaHandles")), ("hca_object", values.get("hcaObjects"))):
            if count is not None:
                value += f" {key}={count}"
        pointer = f"{POINTER}/rdma/{reference_token(device)}"
        writes.append(Write(_holder("rdma", "rdma.max", directories), "rdma.max", value, pointer,
                            undo=keyed(device, "hca_handle=max hca_object=max")))
    return writes
