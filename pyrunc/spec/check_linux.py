# SPDX-License-Identifier: Apache-2.0
"""The rules of /linux in config.json that a schema can't state (see pyrunc.spec.check)."""

from __future__ import annotations

from pyrunc.errors import ConfigError, reference_token
from pyrunc.spec.check import check_id, check_id_mappings, check_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import (
        Device,
        DeviceRule,
        IntelRdt,
        Linux,
        MemoryPolicy,
        Namespace,
        NetDevice,
        Resources,
        Seccomp,
    )

#: The kernel's dev_t: twelve bits of major number, twenty of minor.
MAJOR_MAX, MINOR_MAX = 0xFFF, 0xFFFFF
#: IFNAMSIZ less its NUL.
INTERFACE_NAME_MAX = 15
#: The kernel's MAX_ERRNO.
ERRNO_MAX = 4095


def check_linux(linux: Linux) -> dict[str, str]:
    """Raise ConfigError unless `linux` makes sense.

    The result has a key for each namespace the container doesn't share with the runtime; its
    value is the path of the one to join, "" for a new one.
    """
    namespaces = check_namespaces(linux.get("namespaces", []))
    _check_user_namespace(linux, namespaces)
    _check_time_offsets(linux, namespaces)
    if linux.get("sysctl"):
        from pyrunc.spec.sysctl import check_sysctls

        check_sysctls(linux["sysctl"], namespaces)
    _check_paths(linux, namespaces)
    check_cgroups_path(linux.get("cgroupsPath", ""))
    _check_devices(linux.get("devices", []))
    if "resources" in linux:
        check_resources(linux["resources"])
    if linux.get("netDevices"):
        _check_net_devices(linux["netDevices"], namespaces)
    if "seccomp" in linux:
        _check_seccomp(linux["seccomp"])
    if "intelRdt" in linux:
        check_intel_rdt(linux["intelRdt"])
    if "memoryPolicy" in linux:
        _check_memory_policy(linux["memoryPolicy"])
    return namespaces


def check_namespaces(entries: list[Namespace]) -> dict[str, str]:
    """config-linux.md, Namespaces: no type twice, paths absolute."""
    namespaces: dict[str, str] = {}
    for index, entry in enumerate(entries):
        kind, path = entry["type"], entry.get("path", "")
        if kind in namespaces:
            first = [other["type"] for other in entries].index(kind)
            raise ConfigError(f"/linux/namespaces/{index}/type",
                              f"{kind} is already given by /linux/namespaces/{first}")
        if path and not path.startswith("/"):
            raise ConfigError(f"/linux/namespaces/{index}/path", f'"{path}" is not an absolute path')
        namespaces[kind] = path
    return namespaces


def _check_user_namespace(linux: Linux, namespaces: dict[str, str]) -> None:
    """A new user namespace needs mappings, and mappings need one.

    A joined one has its own; containerd and CRI-O repeat those in the file, so that is let pass.
    """
    for member in ("uidMappings", "gidMappings"):
        pointer = "/linux/" + member
        mappings = linux.get(member, [])
        assert isinstance(mappings, list)
        if mappings and "user" not in namespaces:
            raise ConfigError(pointer, "needs a user namespace in /linux/namespaces")
        if not mappings and namespaces.get("user") == "":
            raise ConfigError(pointer, "is missing: a new user namespace needs it")
        check_id_mappings(pointer, mappings)


def _check_time_offsets(linux: Linux, namespaces: dict[str, str]) -> None:
    """time_namespaces(7): offsets can be set while no process has entered the namespace yet."""
    offsets = linux.get("timeOffsets")
    if not offsets:
        return
    if "time" not in namespaces:
        raise ConfigError("/linux/timeOffsets", "needs a time namespace in /linux/namespaces")
    if namespaces["time"]:
        raise ConfigError("/linux/timeOffsets", "can't be set for a time namespace that is joined by path")
    for clock in offsets:
        if clock not in ("monotonic", "boottime"):
            raise ConfigError("/linux/timeOffsets/" + reference_token(clock),
                              "is neither of the clocks monotonic and boottime")


def _check_paths(linux: Linux, namespaces: dict[str, str]) -> None:
    for member in ("maskedPaths", "readonlyPaths"):
        paths = linux.get(member, [])
        assert isinstance(paths, list)
        if paths and "mount" not in namespaces:
            raise ConfigError("/linux/" + member, "needs a mount namespace in /linux/namespaces")
        for index, path in enumerate(paths):
            if not path.startswith("/"):
                raise ConfigError(f"/linux/{member}/{index}", f'"{path}" is not an absolute path')


def check_cgroups_path(path: str) -> None:
    """config-linux.md, Cgroups Path: it may not climb above the place it is relative to."""
    depth = 0
    for part in path.split("/"):
        if part == "..":
            depth -= 1
            if depth < 0:
                raise ConfigError("/linux/cgroupsPath", f'"{path}" climbs out of the cgroup hierarchy')
        elif part not in ("", "."):
            depth += 1
    if "\n" in path:
        raise ConfigError("/linux/cgroupsPath", "holds a newline")  # cgroup_mkdir() refuses it


def _check_devices(devices: list[Device]) -> None:
    """config-linux.md, Devices: type, path, numbers; one path is one device."""
    seen: dict[str, tuple[int, tuple[str, int, int]]] = {}
    for index, device in enumerate(devices):
        pointer = f"/linux/devices/{index}"
        path = device["path"]
        if not path.startswith("/"):
            raise ConfigError(pointer + "/path", f'"{path}" is not an absolute path')
        check_id(pointer + "/uid", device.get("uid"))
        check_id(pointer + "/gid", device.get("gid"))
        if device["type"] != "p":
            _check_number(pointer, "major", device.get("major"), MAJOR_MAX)
            _check_number(pointer, "minor", device.get("minor"), MINOR_MAX)
        kind = "c" if device["type"] == "u" else str(device["type"])
        what = (kind, device.get("major", 0), device.get("minor", 0))
        first = seen.setdefault(path, (index, what))
        if first[1] != what:
            raise ConfigError(pointer + "/path",
                              f"{path} is already another device by /linux/devices/{first[0]}")


def _check_number(pointer: str, member: str, number: int | None, highest: int) -> None:
    if number is None:
        raise ConfigError(f"{pointer}/{member}", "is missing: a device node needs it")
    if not 0 <= number <= highest:
        raise ConfigError(f"{pointer}/{member}", f"{number} is not from 0 to {highest}")


def check_resources(resources: Resources, pointer: str = "/linux/resources") -> None:
    """config-linux.md, Control groups; also for what the update command is given."""
    for index, rule in enumerate(resources.get("devices", [])):
        _check_device_rule(f"{pointer}/devices/{index}", rule)
    for name in resources.get("unified", {}):
        # Each is the name of a file in the cgroup's directory.
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ConfigError(f"{pointer}/unified/{reference_token(name)}", "is not the name of a cgroup file")
    for device in resources.get("rdma", {}):
        if not device or device.split() != [device]:
            raise ConfigError(f"{pointer}/rdma/{reference_token(device)}", "is not the name of an RDMA device")
    for index, limit in enumerate(resources.get("hugepageLimits", [])):
        _check_page_size(f"{pointer}/hugepageLimits/{index}/pageSize", limit["pageSize"])
    cpu = resources.get("cpu", {})
    check_list(pointer + "/cpu/cpus", cpu.get("cpus", "").strip(), "CPUs", strides=True)
    check_list(pointer + "/cpu/mems", cpu.get("mems", "").strip(), "nodes", strides=True)
    quota = cpu.get("quota", 0)
    if 0 < quota < cpu.get("burst", 0):
        raise ConfigError(pointer + "/cpu/burst", f"{cpu['burst']} is larger than the quota {quota}")
    for index, priority in enumerate(resources.get("network", {}).get("priorities", [])):
        if not _is_interface_name(priority["name"]):
            raise ConfigError(f"{pointer}/network/priorities/{index}/name",
                              f'"{priority["name"]}" is not the name of a network device')
    for index, weight in enumerate(resources.get("blockIO", {}).get("weightDevice", [])):
        if "weight" not in weight and "leafWeight" not in weight:
            raise ConfigError(f"{pointer}/blockIO/weightDevice/{index}", "has neither weight nor leafWeight")


def _check_device_rule(pointer: str, rule: DeviceRule) -> None:
    access = rule.get("access")
    if access is not None and (not access or access.strip("rwm")):
        raise ConfigError(pointer + "/access", f'"{access}" is not made of r, w and m')
    for member in ("major", "minor"):
        number = rule.get(member, -1)  # -1 is what runc's users write for any
        if isinstance(number, int) and not -1 <= number <= 0xFFFFFFFF:
            raise ConfigError(f"{pointer}/{member}", f"{number} is not a device number")


def _check_page_size(pointer: str, size: str) -> None:
    number, unit = size[:-2], size[-2:]
    if unit not in ("KB", "MB", "GB") or not (number.isascii() and number.isdigit()) or number[0] == "0":
        raise ConfigError(pointer, f'"{size}" is not a page size such as 64KB, 2MB or 1GB')


def _check_net_devices(devices: dict[str, NetDevice], namespaces: dict[str, str]) -> None:
    """config-linux.md, Network Devices."""
    if "network" not in namespaces:
        raise ConfigError("/linux/netDevices", "needs a network namespace in /linux/namespaces")
    targets: dict[str, str] = {}
    for name, device in devices.items():
        pointer = "/linux/netDevices/" + reference_token(name)
        if not _is_interface_name(name) or "%" in name:
            raise ConfigError(pointer, f'"{name}" is not the name of a network device')
        target = device.get("name") or name
        if not _is_interface_name(target):
            raise ConfigError(pointer + "/name", f'"{target}" is not the name of a network device')
        if "%" in target:
            if target.count("%") != 1 or "%d" not in target:
                raise ConfigError(pointer + "/name", f'"{target}" has a % that is not one %d')
        elif target in targets:
            raise ConfigError(pointer + "/name",
                              f"{target} is already the name of /linux/netDevices/{targets[target]}")
        targets[target] = reference_token(name)


def _is_interface_name(name: str) -> bool:
    """dev_valid_name() in the kernel's net/core/dev.c."""
    if name in (".", "..") or name.split() != [name] or "/" in name or ":" in name or "\0" in name:
        return False
    return len(name.encode("utf-8")) <= INTERFACE_NAME_MAX


def _check_seccomp(seccomp: Seccomp) -> None:
    """config-linux.md, Seccomp."""
    pointer = "/linux/seccomp"
    if seccomp.get("listenerMetadata") and not seccomp.get("listenerPath"):
        raise ConfigError(pointer + "/listenerMetadata", "goes with listenerPath, which is missing")
    default = seccomp["defaultAction"]
    if default == "SCMP_ACT_NOTIFY":
        # Every system call would wait, also those that hand the listener over.
        raise ConfigError(pointer + "/defaultAction", "SCMP_ACT_NOTIFY can't be the default")
    _check_errno_ret(pointer + "/defaultErrnoRet", default, seccomp.get("defaultErrnoRet"))
    for index, rule in enumerate(seccomp.get("syscalls", [])):
        here = f"{pointer}/syscalls/{index}"
        _check_errno_ret(here + "/errnoRet", rule["action"], rule.get("errnoRet"))
        notify = rule["action"] == "SCMP_ACT_NOTIFY"
        for number, name in enumerate(rule["names"]):
            if not name or name.strip() != name or "\0" in name:
                raise ConfigError(f"{here}/names/{number}", f'"{name}" is not the name of a system call')
            if name == "write" and notify:
                raise ConfigError(f"{here}/names/{number}",
                                  "write can't wait for the listener: it is needed to reach it")
        if notify and not seccomp.get("listenerPath"):
            raise ConfigError(pointer + "/listenerPath", f"is missing: the action of {here} needs it")


def _check_errno_ret(pointer: str, action: str, number: int | None) -> None:
    """seccomp(2): 16 bits of data, of which an error number uses twelve."""
    if number is None:
        return
    highest = {"SCMP_ACT_ERRNO": ERRNO_MAX, "SCMP_ACT_TRACE": 0xFFFF}.get(action)
    if highest is None:
        raise ConfigError(pointer, f"does not go with {action}")
    if not 0 <= number <= highest:
        raise ConfigError(pointer, f"{number} is not from 0 to {highest}")


def check_intel_rdt(rdt: IntelRdt) -> None:
    """config-linux.md, IntelRdt: what is written to resctrl is one line each."""
    pointer = "/linux/intelRdt"
    group = rdt.get("closID", "")
    if group in (".", "..") or "\n" in group or ("/" in group and group != "/"):
        raise ConfigError(pointer + "/closID", f'"{group}" is not the name of a resctrl group')
    bandwidth = rdt.get("memBwSchema", "")
    if bandwidth and not bandwidth.startswith("MB:"):
        raise ConfigError(pointer + "/memBwSchema", "does not start with MB:")
    for member, text in (("memBwSchema", bandwidth), ("l3CacheSchema", rdt.get("l3CacheSchema", ""))):
        if "\n" in text:
            raise ConfigError(f"{pointer}/{member}", "holds a newline")
    for index, line in enumerate(rdt.get("schemata", [])):
        if "\n" in line:
            raise ConfigError(f"{pointer}/schemata/{index}", "holds a newline")


def _check_memory_policy(policy: MemoryPolicy) -> None:
    """set_mempolicy(2), Errors: EINVAL for modes, nodes and flags that don't go together."""
    pointer = "/linux/memoryPolicy"
    mode, nodes, flags = policy["mode"], policy.get("nodes", ""), policy.get("flags", [])
    check_list(pointer + "/nodes", nodes, "nodes")
    if mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        if nodes:
            raise ConfigError(pointer + "/nodes", f"{mode} takes no nodes")
    elif not nodes and mode != "MPOL_PREFERRED":
        raise ConfigError(pointer + "/nodes", f"is missing: {mode} needs nodes")
    if "MPOL_F_STATIC_NODES" in flags and "MPOL_F_RELATIVE_NODES" in flags:
        raise ConfigError(pointer + "/flags",
                          "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other")
    for index, flag in enumerate(flags):
        if flag == "MPOL_F_NUMA_BALANCING":
            if mode not in ("MPOL_BIND", "MPOL_PREFERRED_MANY"):
                raise ConfigError(f"{pointer}/flags/{index}", f"{flag} does not go with {mode}")
        elif not nodes:
            raise ConfigError(f"{pointer}/flags/{index}", f"{flag} needs nodes")
