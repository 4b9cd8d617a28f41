# SPDX-License-Identifier: Apache-2.0
"""Capabilities: names to masks, what can be granted, and the calls that set them (capabilities(7)).

A mask is an int with bit N set for capability number N.
"""

from __future__ import annotations

import errno
import os

from .errors import kernel_error
from .linux import process as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# linux/capability.h, in the order of their numbers.
_IN_ORDER = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
NAMES = tuple("CAP_" + name for name in _IN_ORDER.split())
_NUMBERS = {name: number for number, name in enumerate(NAMES)}

SYS_ADMIN = 1 << _NUMBERS["CAP_SYS_ADMIN"]
SYS_PTRACE = 1 << _NUMBERS["CAP_SYS_PTRACE"]
_SETPCAP = 1 << _NUMBERS["CAP_SETPCAP"]
_POINTER = "/process/capabilities"
_MASK_BITS = 64  # capget(2), version 3


class CapabilitySets:
    """The five sets of a thread, as masks."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted")

    def __init__(
        self, effective: int = 0, permitted: int = 0, inheritable: int = 0, bounding: int = 0,
        ambient: int = 0,
    ) -> None:
        self.effective = effective
        self.permitted = permitted
        self.inheritable = inheritable
        self.bounding = bounding
        self.ambient = ambient

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CapabilitySets):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        masks = ", ".join(f"{name}={getattr(self, name):#x}" for name in self.__slots__)
        return f"CapabilitySets({masks})"


_last_cap = -1


def last_cap() -> int:
    """The number of the last capability this kernel knows."""
    global _last_cap
    if _last_cap < 0:
        try:
            fd = os.open("/proc/sys/kernel/cap_last_cap", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _last_cap = int(os.read(fd, 16))
            finally:
                os.close(fd)
        except (OSError, ValueError):  # no procfs here: ask the kernel number by number
            _last_cap = _probe(kernel.PR_CAPBSET_READ)[1]
    return _last_cap


def known() -> list[str]:
    """The names that both this module and this kernel know (features.md, Capabilities)."""
    return list(NAMES[: last_cap() + 1])


def names(mask: int) -> list[str]:
    """The names of the capabilities in `mask`, by number where there is no name."""
    return [
        NAMES[number] if number < len(NAMES) else f"CAP_{number}"
        for number in range(mask.bit_length())
        if mask >> number & 1
    ]


def parse_set(names: Sequence[str]) -> tuple[int, list[str]]:
    """The mask of `names`, and those that neither the table nor this kernel knows."""
    mask = 0
    unknown: list[str] = []
    last = last_cap()
    for name in names:
        number = _NUMBERS.get(name, _MASK_BITS)
        if number <= last:
            mask |= 1 << number
        elif name not in unknown:
            unknown.append(name)
    return mask, unknown


def from_config(
    config_caps: Mapping[str, Sequence[str] | None] | None, granted_permitted: int, granted_bounding: int,
    uid: int = -1,
) -> tuple[CapabilitySets, list[str]]:
    """The sets of `process.capabilities` as far as they can be granted; a warning for each set that can't be whole.

    config.md, Linux Process: what can't be mapped to the kernel or be granted is a warning, not an
    error.  No `capabilities` means none.  `granted_*` are the masks the runtime itself holds.  With `uid` 0
    nothing is said of ambient ones that aren't inheritable, which many callers ask for (`runc spec`, Buildah):
    what execve(2) gives root doesn't depend on them (capabilities(7)).
    """
    config_caps = config_caps or {}
    warnings: list[str] = []

    def wanted(which: str, limit: int, why: str) -> int:
        mask, unknown = parse_set(config_caps.get(which) or ())
        for name in unknown:
            warnings.append(f"{_POINTER}/{which}: {name!a} is unknown to this kernel: ignored")
        if refused := names(mask & ~limit):
            warnings.append(f"{_POINTER}/{which}: {', '.join(refused)} can't be granted ({why}): ignored")
        return mask & limit

    sets = CapabilitySets()
    sets.bounding = wanted("bounding", granted_bounding, "not in the runtime's own bounding set")
    sets.permitted = wanted("permitted", granted_permitted, "the runtime doesn't have it")
    # capset(2): nothing joins the inheritable set that the bounding set lacks, and without
    # CAP_SETPCAP nothing that the permitted set lacks.
    inheritable = sets.bounding if granted_permitted & _SETPCAP else sets.bounding & granted_permitted
    sets.inheritable = wanted("inheritable", inheritable, "not in the bounding set")
    sets.effective = wanted("effective", sets.permitted, "not permitted")
    if uid == 0:
        sets.ambient = wanted("ambient", sets.permitted, "not permitted") & sets.inheritable
    else:
        sets.ambient = wanted("ambient", sets.permitted & sets.inheritable, "not both permitted and inheritable")
    return sets, warnings


def apply_bounding(mask: int) -> None:
    """Drop from the bounding set all that `mask` lacks; what is gone already stays gone."""
    held, last = _probe(kernel.PR_CAPBSET_READ)
    for number in range(last + 1):
        # Dropping demands CAP_SETPCAP even of what isn't there: ask for no more than needed.
        if held >> number & 1 and not mask >> number & 1:
            try:
                kernel.prctl(kernel.PR_CAPBSET_DROP, number)
            except OSError as error:
                name = names(1 << number)[0]
                raise kernel_error(f"drop {name} from the bounding set", error, syscall="prctl",
                                   pointer=f"{_POINTER}/bounding") from None


def apply(sets: CapabilitySets, keep: int = 0) -> None:
    """Set the thread's effective, permitted, inheritable and ambient sets.

    `keep` stays permitted as well, where it is: until execve(2), which makes the set anew.
    """
    _, permitted, inheritable = kernel.capget()
    try:
        if sets.inheritable & ~inheritable:
            # setuid(2) away from root empties the effective set, and CAP_SETPCAP with it, which the
            # next call needs.
            kernel.capset(permitted, permitted, inheritable)
        kernel.capset(sets.effective, sets.permitted | permitted & keep, sets.inheritable)
    except OSError as error:
        raise kernel_error("set the capabilities", error, syscall="capset", pointer=_POINTER) from None
    _apply_ambient(sets.ambient)


def reduce(sets: CapabilitySets) -> None:
    """Give up what `apply` was told to keep, by one call.  Raises OSError."""
    kernel.capset(sets.effective, sets.permitted, sets.inheritable)


def raise_effective(mask: int) -> None:
    """Make what is permitted of `mask` effective too.  Raises OSError."""
    effective, permitted, inheritable = kernel.capget()
    if permitted & mask & ~effective:
        kernel.capset(effective | permitted & mask, permitted, inheritable)


def _apply_ambient(mask: int) -> None:
    try:
        kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
        for number in range(mask.bit_length()):
            if mask >> number & 1:
                kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_RAISE, number)
    except OSError as error:
        raise kernel_error("set the ambient capabilities", error, syscall="prctl",
                           pointer=f"{_POINTER}/ambient") from None


def current() -> CapabilitySets:
    """The calling thread's five sets."""
    effective, permitted, inheritable = kernel.capget()
    return CapabilitySets(effective, permitted, inheritable, _probe(kernel.PR_CAPBSET_READ)[0],
                          _probe(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_IS_SET)[0])


def _probe(option: int, question: int | None = None) -> tuple[int, int]:
    """The mask a prctl(2) answers bit by bit, and the last number it knows.

    It answers EINVAL beyond the last capability, so no procfs is needed: this also runs inside.
    """
    mask = 0
    for number in range(_MASK_BITS):
        try:
            args = (number,) if question is None else (question, number)
            bit = kernel.prctl(option, *args)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return mask, number - 1
        mask |= bit << number
    return mask, _MASK_BITS - 1
