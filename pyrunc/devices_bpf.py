# SPDX-License-Identifier: Apache-2.0
"""Device rules in cgroup v2: a BPF_PROG_TYPE_CGROUP_DEVICE program attached to the cgroup.

The kernel asks it at each open and mknod of a device (cgroup-v2.rst, Device controller).
"""

from __future__ import annotations

import errno
import os
from _struct import Struct

from . import cgroupfs
from .device_rules import ALL, ANY, POINTER, Rules, enforceable
from .errors import kernel_error
from .linux import bpf
from .linux.process import prlimit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "pyrunc_devices"  # as bpftool shows it, and how an update knows the program it replaces
LICENSE = "Apache-2.0"
_LOG_SIZE = 8192
_RLIMIT_MEMLOCK = 8

# One instruction (instruction-set.rst): opcode, destination | source << 4, jump offset, constant.
_instruction = Struct("=BBhi").pack
_LOAD = 0x61  # LDX MEM W
_MOVE, _MOVE_REGISTER, _MOVE32_REGISTER = 0xB7, 0xBF, 0xBC
_AND, _XOR, _SHIFT_RIGHT = 0x54, 0xA4, 0x74
_JUMP, _JUMP_UNLESS_EQUAL, _JUMP_IF_SET, _EXIT = 0x05, 0x55, 0x45, 0x95

# r1 points to struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor.
_TYPE, _ACCESS, _MAJOR, _MINOR, _SCRATCH = 2, 3, 4, 5, 6
_TYPES = {"b": 1, "c": 2}
_PROLOGUE = b"".join((
    _instruction(_LOAD, _TYPE | 1 << 4, 0, 0),
    _instruction(_MOVE_REGISTER, _ACCESS | _TYPE << 4, 0, 0),
    _instruction(_AND, _TYPE, 0, 0xFFFF),
    _instruction(_SHIFT_RIGHT, _ACCESS, 0, 16),
    _instruction(_LOAD, _MAJOR | 1 << 4, 4, 0),
    _instruction(_LOAD, _MINOR | 1 << 4, 8, 0),
))
_VERDICT = {verdict: _instruction(_MOVE, 0, 0, int(verdict)) + _instruction(_EXIT, 0, 0, 0)
            for verdict in (False, True)}
_MAX_MAJOR, _MAX_MINOR = 2**12 - 1, 2**20 - 1  # of the kernel's dev_t: a rule beyond never matches


def program(rules: Rules) -> bytes:
    """The instructions that decide as `rules` say.

    From the last rule to the first, r3 holds the access that no rule has allowed yet: a deny of any
    of it ends the search, an allow takes its bits away, and none left ends it too.

    Numbers are compared by way of an exclusive or: from a plain comparison the verifier would know
    them on one of two paths, and follow all the paths that differ in that (the square of the rules).
    """
    pieces = [_PROLOGUE]
    for rule in reversed(rules.rules):
        if rule.major > _MAX_MAJOR or rule.minor > _MAX_MINOR:
            continue
        body = _verdict(rule.allow, rule.access)
        left = len(body) // 8
        tests = []
        # Backwards, as the jumps lead past what follows.
        for register, value in ((_MINOR, rule.minor), (_MAJOR, rule.major)):
            if value != ANY:
                tests.append(_instruction(_MOVE32_REGISTER, _SCRATCH | register << 4, 0, 0)
                             + _instruction(_XOR, _SCRATCH, 0, value)
                             + _instruction(_JUMP_UNLESS_EQUAL, _SCRATCH, left, 0))
                left += 3
        if rule.type != "a":
            tests.append(_instruction(_JUMP_UNLESS_EQUAL, _TYPE, left, _TYPES[rule.type]))
        pieces += reversed(tests)
        pieces.append(body)
    pieces.append(_VERDICT[rules.default])
    return b"".join(pieces)


def _verdict(allow: bool, access: int) -> bytes:
    """What is done with a device that a rule is about."""
    if access == ALL:
        return _VERDICT[allow]
    if allow:
        return (_instruction(_AND, _ACCESS, 0, ALL & ~access)
                + _instruction(_JUMP_UNLESS_EQUAL, _ACCESS, 2, 0) + _VERDICT[True])
    return _instruction(_JUMP_IF_SET, _ACCESS, 1, access) + _instruction(_JUMP, 0, 2, 0) + _VERDICT[False]


class Undo:
    """Called, it puts back what `attach` has replaced; dropped, it forgets it."""

    __slots__ = ("cgroup", "new", "old")

    def __init__(self, cgroup: int) -> None:
        self.cgroup = cgroup
        self.old: list[int] = []
        self.new = -1

    def __call__(self) -> None:
        """Raises KernelError."""
        try:
            if self.cgroup >= 0:
                old = [self.new] if self.new >= 0 else []
                _exchange(self.cgroup, old, self.old)
        except OSError as error:
            raise kernel_error("put the old device rules back", error, syscall="bpf", pointer=POINTER) from None
        finally:
            self.close()

    def close(self) -> None:
        for fd in (*self.old, self.new, self.cgroup):
            if fd >= 0:
                os.close(fd)
        self.old = []
        self.new = self.cgroup = -1

    def __del__(self) -> None:
        self.close()


def attach(directory: str, rules: Rules, warn: Callable[[str], None]) -> Undo:
    """Enforce `rules` in the v2 cgroup at `directory`, instead of those we have attached before.

    There is no moment without rules: a single program is replaced in one step (Linux 5.6), otherwise
    the new one is there before the old ones go.  Programs of others stay: they can only deny more.
    Where the kernel lets us load none, `warn` is told if it is to be expected (`enforceable`);
    otherwise KernelError is raised.
    """
    undo = Undo(-1)
    try:
        undo.cgroup = cgroupfs.open_directory(directory)
        undo.old = _ours(undo.cgroup)
        if not rules.allows_all:  # without a program all is allowed
            undo.new = _load(program(rules))
        _exchange(undo.cgroup, undo.old, [undo.new] if undo.new >= 0 else [])
    except OSError as error:
        undo.close()
        if not enforceable():
            warn(f"{POINTER}: the device rules can't be enforced by an ordinary user or in a user namespace: "
                 f"{error.strerror or error}")
            return undo
        raise kernel_error(f"attach the device rules to the cgroup {directory}", error, pointer=POINTER,
                           hint=_HINTS.get(error.errno or 0, "")) from None
    return undo


_HINTS = {
    errno.EPERM: "it needs CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN, a kernel that lets it load programs, and no "
                 "device program of another kind above or in the cgroup",
    errno.EINVAL: "the kernel needs CONFIG_CGROUP_BPF",
    errno.ENOSYS: "the kernel needs CONFIG_BPF_SYSCALL",
    errno.E2BIG: "too many rules, or 64 programs are there already",
}


def _exchange(cgroup: int, old: list[int], new: list[int]) -> None:
    """Put the programs `new` in the place of `old`."""
    if len(old) == len(new) == 1:
        try:
            bpf.attach(cgroup, new[0], bpf.F_ALLOW_MULTI | bpf.F_REPLACE, old[0])
            return
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    for done, fd in enumerate(new):
        try:
            bpf.attach(cgroup, fd, bpf.F_ALLOW_MULTI)
        except OSError:
            for other in new[:done]:
                bpf.detach(cgroup, other)
            raise
    for fd in old:
        bpf.detach(cgroup, fd)


def _ours(cgroup: int) -> list[int]:
    """A descriptor of each program of ours that is attached."""
    found: list[int] = []
    try:
        for number in bpf.attached(cgroup):
            try:
                fd = bpf.program_by_id(number)
            except (PermissionError, FileNotFoundError):
                continue  # a security module keeps it from us, so it isn't ours; or it has just gone
            if bpf.program_name(fd) == NAME:
                found.append(fd)
            else:
                os.close(fd)
    except OSError:
        for fd in found:
            os.close(fd)
        raise
    return found


def _load(instructions: bytes) -> int:
    try:
        return bpf.load_device_program(instructions, LICENSE, NAME)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EINVAL):
            return _load_explained(instructions, error)
        if error.errno != errno.EPERM:
            raise
        # Before Linux 5.11 programs count as locked memory.
        try:
            before = prlimit(0, _RLIMIT_MEMLOCK)
            prlimit(0, _RLIMIT_MEMLOCK, (2**64 - 1, 2**64 - 1))
        except OSError:
            raise error from None
    try:
        return bpf.load_device_program(instructions, LICENSE, NAME)
    finally:
        prlimit(0, _RLIMIT_MEMLOCK, before)


def _load_explained(instructions: bytes, error: OSError) -> int:
    """Once more, with what the verifier says."""
    log = bytearray(_LOG_SIZE)
    try:
        return bpf.load_device_program(instructions, LICENSE, NAME, log)
    except OSError:
        lines = bytes(log).split(b"\0", 1)[0].decode("ascii", "replace").strip().splitlines()
        if not lines:
            raise error from None
        raise kernel_error(f"load the device rules: the kernel's verifier says {lines[-1]!a}", error,
                           pointer=POINTER) from None
