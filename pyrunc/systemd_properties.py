# SPDX-License-Identifier: Apache-2.0
"""linux.resources and annotations as properties of a systemd unit.

Their names over D-Bus are those of systemd.resource-control(5) but for a few (org.freedesktop.systemd1(5)).
The limits are made from the writes that cgroupv1.py and cgroupv2.py have made of linux.resources, so
that a limit has one conversion: what systemd is told is what goes into the file.  systemd has to know
it, or it would write its own values over ours whenever it goes over the unit again.
"""

from __future__ import annotations

import re

from . import cgroupfs
from .device_rules import ANY, Rules, text
from .errors import ConfigError, reference_token
from .limits import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    #: As D-Bus takes it: the name, and the variant's signature and value.
    Property = tuple[str, tuple[str, Any]]

INFINITY = 2**64 - 1
ANNOTATION = "org.systemd.property."

_QUOTA_STEP = 10000  # systemd keeps a quota in whole percents of a cpu
_DEFAULT_PERIOD = 100000
_MIN_QUOTA = 1000  # the kernel's
_MAX_CPUS = 1 << 16
_BFQ_DEFAULT = 100

# Since which systemd.
_PERIODS, _DEVICE_NUMBERS, _CPUSETS, _IDLE, _OOM_POLICY = 242, 240, 244, 252, 253

_BYTES = {"memory.max": "MemoryMax", "memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin",
          "memory.swap.max": "MemorySwapMax", "memory.limit_in_bytes": "MemoryLimit"}
_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}


# Limits

def settle(writes: Iterable[Write], directories: Mapping[str, str]) -> list[Write]:
    """`writes` as they agree with systemd: a quota rounded up to its steps, no weight beside cpu.idle.

    systemd has one number for weight and idle, and the kernel takes no weight of an idle cgroup.
    """
    writes = list(writes)
    idle = _last(writes, "cpu.idle") == "1"
    settled = []
    for write in writes:
        value = write.value
        if write.file == "cpu.max":
            quota, period = _max(write)
            value = f"{_round(quota, period) if quota > 0 else 'max'} {period}"
        elif write.file == "cpu.cfs_quota_us":
            quota, period = _v1_bandwidth(writes, directories)
            value = str(_round(quota, period))
        elif idle and write.file == "cpu.weight":
            continue
        settled.append(write if value == write.value else _with(write, value))
    return settled


def _with(write: Write, value: str) -> Write:
    return Write(write.controller, write.file, value, write.pointer, hint=write.hint, optional=write.optional,
                 undo=write.undo)


def limits(writes: Iterable[Write], directories: Mapping[str, str], version: int) -> list[Property]:
    """The properties of `writes` (settled or not); what systemd has none for stays a matter of the file.

    `directories` are the unit's by controller ("" is v2's), `version` is systemd's.  Raises ConfigError.
    """
    writes = list(writes)
    found: dict[str, tuple[str, Any]] = {}
    for write in writes:
        value = write.value.strip()
        if write.file in _BYTES:
            found[_BYTES[write.file]] = "t", INFINITY if value == "-1" else _count(write)
        elif write.file == "pids.max":
            found["TasksMax"] = "t", _count(write) or 1  # systemd takes no 0
        elif write.file in _SETS and version >= _CPUSETS:
            found[_SETS[write.file]] = "ay", cpu_mask(value, write.pointer)
        elif write.file == "cpu.shares" and not write.pointer.endswith("/idle"):
            found["CPUShares"] = "t", _count(write)
        elif write.file in ("blkio.weight", "blkio.bfq.weight"):
            found["BlockIOWeight"] = "t", _count(write)
        elif write.file in ("io.weight", "io.bfq.weight"):
            _io_weight(found, write)
        elif write.file == "cpu.max":
            _bandwidth(found, *_max(write), version)
        elif write.file in ("cpu.cfs_quota_us", "cpu.cfs_period_us"):
            _bandwidth(found, *_v1_bandwidth(writes, directories), version)
    _weight(found, writes, directories, version)
    return list(found.items())


def _last(writes: list[Write], file: str) -> str:
    return next((write.value.strip() for write in reversed(writes) if write.file == file), "")


def _count(write: Write) -> int:
    """A whole number, or `max`."""
    value = write.value.strip()
    if value == "max":
        return INFINITY
    if not (value.isascii() and value.isdigit() and int(value[:40]) < INFINITY):
        raise ConfigError(write.pointer, f"{value[:60]!a} is no number that {write.file} takes",
                          hint="a whole number, or max")
    return int(value)


def _io_weight(found: dict[str, tuple[str, Any]], write: Write) -> None:
    """IOWeight, or one of IODeviceWeight's: systemd writes both files from them, and BFQ forgets a device's weight
    whenever the other is written."""
    device, _, number = write.value.strip().rpartition(" ")
    if not (number.isascii() and number.isdigit() and len(number) < 6 and int(number)):
        return
    weight = int(number)
    if write.file == "io.bfq.weight" and weight > _BFQ_DEFAULT:
        # What becomes that with systemd's BFQ_WEIGHT, which maps 100 to 10000 onto 100 to 1000.
        weight = _BFQ_DEFAULT + (weight - _BFQ_DEFAULT) * 11
    if device in ("", "default"):
        found["IOWeight"] = "t", weight
    else:
        found.setdefault("IODeviceWeight", ("a(st)", []))[1].append((f"/dev/block/{device}", weight))


def _weight(found: dict[str, tuple[str, Any]], writes: list[Write], directories: Mapping[str, str],
            version: int) -> None:
    """CPUWeight, where 0 is idle and infinity not to have one."""
    writes = [write for write in writes if not write.controller]  # v1 has no such property
    weights = [write for write in writes if write.file == "cpu.weight"]
    idle = _last(writes, "cpu.idle")
    if idle == "1" and version >= _IDLE:
        found["CPUWeight"] = "t", 0
    elif weights:
        found["CPUWeight"] = "t", _count(weights[-1])
    elif idle == "0" and _number(directories.get("", ""), "cpu.idle"):
        found["CPUWeight"] = "t", INFINITY


def _max(write: Write) -> tuple[int, int]:
    """(quota, period) of a value of cpu.max; the quota -1 where there is none."""
    words = write.value.split()
    numbers = words[1:] if words[:1] == ["max"] else words
    if len(words) not in (1, 2) or not all(word.isascii() and word.isdigit() and 0 < int(word[:40]) < INFINITY
                                           for word in numbers):
        raise ConfigError(write.pointer, f"{write.value[:60]!a} is nothing that cpu.max takes", hint="QUOTA PERIOD")
    return -1 if words[0] == "max" else int(words[0]), int(words[1]) if len(words) == 2 else _DEFAULT_PERIOD


def _v1_bandwidth(writes: list[Write], directories: Mapping[str, str]) -> tuple[int, int]:
    """(quota, period) as they will be: v1 has two files, of which one may stay as it is."""
    directory = directories.get("cpu", "")
    quota, period = _last(writes, "cpu.cfs_quota_us"), _last(writes, "cpu.cfs_period_us")
    return (int(quota) if quota else _number(directory, "cpu.cfs_quota_us") or -1,
            int(period) if period else _number(directory, "cpu.cfs_period_us") or _DEFAULT_PERIOD)


def _number(directory: str, name: str) -> int:
    try:
        return int(cgroupfs.read(f"{directory}/{name}"))
    except (OSError, ValueError):
        return 0


def _bandwidth(found: dict[str, tuple[str, Any]], quota: int, period: int, version: int) -> None:
    if version >= _PERIODS:
        found["CPUQuotaPeriodUSec"] = "t", period
    found["CPUQuotaPerSecUSec"] = "t", _per_second(quota, period) if quota > 0 else INFINITY


def _per_second(quota: int, period: int) -> int:
    """Microseconds of a second, a whole percent: rounded up, or what is below couldn't get what it was promised."""
    return min(-(-(quota * 1000000 // period) // _QUOTA_STEP) * _QUOTA_STEP, INFINITY - 1)


def _round(quota: int, period: int) -> int:
    """The quota that systemd will make of it; one that the kernel doesn't take stays, for the kernel to say so."""
    if quota < _MIN_QUOTA:
        return quota
    return max(quota, _per_second(quota, period) * period // 1000000)


def cpu_mask(ranges: str, pointer: str) -> bytes:
    """`0-3,8` as bits, the lowest first, as AllowedCPUs and AllowedMemoryNodes take them.  Raises ConfigError."""
    mask = 0
    for part in (part.strip() for part in ranges.split(",")):
        if not part:
            continue
        found = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part, re.ASCII)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < _MAX_CPUS:
            raise ConfigError(pointer, f"{part[:60]!a} is no cpu or memory node, or range of them", hint="as in 0-3,8")
        mask |= (1 << last + 1) - (1 << first)
    if not mask:
        raise ConfigError(pointer, f"{ranges[:60]!a} names none", hint="as in 0-3,8")
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def oom_policy(unified: Mapping[str, str], version: int) -> list[Property]:
    """memory.oom.group, which is systemd's to write: at the start, as it can't be told later."""
    policy = {"0": "continue", "1": "kill"}.get(unified.get("memory.oom.group", "").strip())
    return [("OOMPolicy", ("s", policy))] if policy and version >= _OOM_POLICY else []


# Devices

def devices(rules: Rules, *, unified: bool, version: int) -> list[Property]:
    """DevicePolicy and DeviceAllow.

    systemd knows lists of what is allowed, each kind of device by number or all of them.  What it
    can't say the rules of our own enforce.  On v2 (`unified`) these and systemd's both have to allow
    an access, so systemd's may allow more, and never less.  On v1 there is one list, of whoever
    wrote last: there systemd's may allow less, and never more, and ours follows.
    """
    entries = None if rules.default else [entry for rule in rules.rules if rule.allow
                                          for entry in _entries(rule.type, rule.major, rule.minor, rule.access,
                                                                unified, version)]
    if entries is None and not unified and not rules.allows_all:
        entries = []
    # An empty list takes away what the unit has: a list is otherwise added to it.
    properties: list[Property] = [("DeviceAllow", ("a(ss)", [])),
                                  ("DevicePolicy", ("s", "auto" if entries is None else "strict"))]
    return [*properties, ("DeviceAllow", ("a(ss)", entries))] if entries else properties


def _entries(kind: str, major: int, minor: int, access: int, unified: bool, version: int) -> list[tuple[str, str]]:
    permissions = text((kind, major, minor), access).split()[-1]
    if kind == "a":
        return [entry for each in "bc" for entry in _entries(each, major, minor, access, unified, version)]
    name = {"b": "block", "c": "char"}[kind]
    if major == ANY:
        return [(f"{name}-*", permissions)] if minor == ANY or unified else []
    if version < _DEVICE_NUMBERS:  # it looks the numbers up, and leaves out what isn't there
        return [(f"{name}-*", permissions)] if unified else []
    return [(f"{name}-{major}" if minor == ANY else f"/dev/{name}/{major}:{minor}", permissions)]


# Annotations

# What an annotation may set: what concerns the unit itself, its processes and its cgroup.  An engine
# may let a stranger choose annotations, and there are properties that restart the host (SuccessAction),
# or start, stop or stand for other units (CVE-2024-3154).
_ALLOWED = frozenset((
    *("Description", "Documentation", "CollectMode", "DefaultDependencies", "IgnoreOnIsolate", "RefuseManualStop"),
    *("After", "Before", "PartOf"),  # not Wants or Requires: `poweroff.target`
    *("TimeoutStopUSec", "RuntimeMaxUSec", "RuntimeRandomizedExtraUSec", "KillMode", "KillSignal",
      "RestartKillSignal", "FinalKillSignal", "WatchdogSignal", "SendSIGKILL", "SendSIGHUP", "OOMPolicy"),
    *("CPUAccounting", "CPUWeight", "StartupCPUWeight", "CPUShares", "StartupCPUShares", "CPUQuotaPerSecUSec",
      "CPUQuotaPeriodUSec", "AllowedCPUs", "StartupAllowedCPUs", "AllowedMemoryNodes", "StartupAllowedMemoryNodes"),
    *("MemoryAccounting", "MemoryMin", "MemoryLow", "StartupMemoryLow", "MemoryHigh", "StartupMemoryHigh", "MemoryMax",
      "StartupMemoryMax", "MemorySwapMax", "StartupMemorySwapMax", "MemoryZSwapMax", "StartupMemoryZSwapMax",
      "MemoryZSwapWriteback", "MemoryLimit", "DefaultMemoryMin", "DefaultMemoryLow", "TasksAccounting", "TasksMax"),
    *("IOAccounting", "IOWeight", "StartupIOWeight", "IODeviceWeight", "IOReadBandwidthMax", "IOWriteBandwidthMax",
      "IOReadIOPSMax", "IOWriteIOPSMax", "IODeviceLatencyTargetUSec", "BlockIOAccounting", "BlockIOWeight",
      "StartupBlockIOWeight", "BlockIODeviceWeight", "BlockIOReadBandwidth", "BlockIOWriteBandwidth"),
    *("IPAccounting", "IPAddressAllow", "IPAddressDeny", "SocketBindAllow", "SocketBindDeny",
      "RestrictNetworkInterfaces"),
    *("ManagedOOMSwap", "ManagedOOMMemoryPressure", "ManagedOOMMemoryPressureLimit",
      "ManagedOOMMemoryPressureDurationUSec", "ManagedOOMPreference", "MemoryPressureWatch",
      "MemoryPressureThresholdUSec"),
))
_INTEGERS = "ynqiuxt"


def annotated(annotations: Mapping[str, str]) -> list[Property]:
    """The properties that `org.systemd.property.NAME` annotations ask for.  Raises ConfigError.

    As with runc a NAME that ends in Sec gets its seconds as microseconds, by the name in USec.
    """
    properties: list[Property] = []
    for key, value in annotations.items():
        if not key.startswith(ANNOTATION):
            continue
        pointer = "/annotations/" + reference_token(key)
        name = key[len(ANNOTATION) :]
        if not re.fullmatch("[A-Za-z]{3,}", name):
            raise ConfigError(pointer, f"{name[:60]!a} is no name of a property", hint="three letters or more")
        seconds = re.fullmatch("([A-Za-z]*[a-z])Sec", name)
        known = seconds[1] + "USec" if seconds else name
        if known not in _ALLOWED:
            raise ConfigError(pointer, f"the property {name} may not be set by an annotation",
                              hint="only the unit's own limits, times, signals and order may")
        from .gvariant import parse

        try:
            variant = parse(value)
        except ValueError as error:
            raise ConfigError(pointer, f"{value[:60]!a}: {error}", hint="the value is GVariant text: uint64 5, "
                                                                        "true, 'text'") from None
        properties.append((known, _microseconds(variant, pointer) if seconds else variant))
    return properties


def _microseconds(variant: tuple[str, Any], pointer: str) -> tuple[str, Any]:
    kind, value = variant
    if kind not in _INTEGERS and kind != "d":
        raise ConfigError(pointer, "is a time in seconds, so its value is a number")
    number = INFINITY if (kind, value) == ("t", INFINITY) else int(value * 1000000)
    if not 0 <= number <= INFINITY:
        raise ConfigError(pointer, f"{value} is no time in seconds")
    return "t", number
