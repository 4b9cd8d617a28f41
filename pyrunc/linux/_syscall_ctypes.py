# SPDX-License-Identifier: Apache-2.0
"""The functions of `_syscall.c` through ctypes, for an installation built without a compiler.

Same names, arguments and errors; 3 ms dearer to import.
"""

from __future__ import annotations

import ctypes
import errno
import os
from _struct import pack

MAX_ARGS = 6
NR_CLONE3 = 435  # calls added since Linux 5.1 have one number on every architecture
NR_CLONE = {"x86_64": 56, "aarch64": 220}

CLONE_INTO_CGROUP = 0x200000000
CLONE_CSIGNAL = 0xFF
# As in _syscall.c: NEWTIME PTRACE PARENT NEWNS UNTRACED NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET IO
# CLEAR_SIGHAND INTO_CGROUP.
FORK_LIKE_FLAGS = 0x80 | 0x2000 | 0x8000 | 0x20000 | 0x800000 | 0xFE000000 | 0x100000000 | CLONE_INTO_CGROUP

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
# PyDLL keeps the GIL: were it released over a clone, the child could find it held by a thread it
# doesn't have.
_syscall_with_gil = ctypes.PyDLL(None, use_errno=True).syscall
_syscall_with_gil.restype = ctypes.c_long


def syscall(nr: int, /, *args: int | bytes | bytearray | memoryview | None) -> int:
    """Do system call `nr` with up to six arguments (syscall(2)); see `_syscall.c`."""
    if len(args) > MAX_ARGS:
        raise TypeError(f"syscall takes a number and up to {MAX_ARGS} arguments")
    held: list[object] = []  # keeps what the addresses point to
    values = [_argument(arg, held) for arg in args]
    values += [ctypes.c_ulong(0)] * (MAX_ARGS - len(values))
    ctypes.set_errno(0)
    result: int = _syscall(ctypes.c_long(nr), *values)
    if result == -1:
        raise _os_error()
    return result


def _argument(arg: int | bytes | bytearray | memoryview | None, held: list[object]) -> ctypes.c_ulong:
    if arg is None:
        return ctypes.c_ulong(0)
    if isinstance(arg, int):
        return ctypes.c_ulong(arg & 0xFFFFFFFFFFFFFFFF)
    view = memoryview(arg).cast("B")
    if view.readonly or not len(view):
        # ctypes gives no address of read-only memory but that of a bytes object (and of an empty
        # buffer any address will do).
        data = arg if isinstance(arg, bytes) else bytes(view)
        pointer = ctypes.c_char_p(data)
        held += (data, pointer)
        return ctypes.c_ulong(ctypes.cast(pointer, ctypes.c_void_p).value or 0)
    array = (ctypes.c_char * len(view)).from_buffer(view)
    held.append(array)
    return ctypes.c_ulong(ctypes.addressof(array))


def address(buffer: bytes | bytearray, /) -> int:
    """Where the contents of `buffer` are; see `_syscall.c`."""
    if isinstance(buffer, bytearray):
        return ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if buffer else 0
    if not isinstance(buffer, bytes):
        raise TypeError("address takes bytes or a bytearray")
    return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0


def clone3(flags: int, exit_signal: int, cgroup_fd: int = -1, /) -> int:
    """Fork with clone3(2): the pid in the parent, 0 in the child; see `_syscall.c`."""
    if flags & ~FORK_LIKE_FLAGS or not 0 <= exit_signal <= 64:
        raise ValueError("not the arguments of a fork")
    # struct clone_args: the first eight fields are Linux 5.3's, `cgroup` Linux 5.7's.
    words = [flags, 0, 0, 0, exit_signal, 0, 0, 0]
    if cgroup_fd >= 0:
        words[0] |= CLONE_INTO_CGROUP
        words += [0, 0, cgroup_fd]
    arguments = pack(f"={len(words)}Q", *words)
    clone = NR_CLONE.get(os.uname().machine)
    first = (ctypes.c_long(NR_CLONE3), ctypes.c_char_p(arguments), ctypes.c_ulong(len(arguments)))
    # clone(2) has no place for CLONE_NEWTIME (its low byte is the signal) nor for flags above 32 bits.
    legacy = clone is not None and cgroup_fd < 0 and not flags & (CLONE_CSIGNAL | ~0xFFFFFFFF)
    zeros = [ctypes.c_ulong(0)] * 4
    second = (ctypes.c_long(clone or 0), ctypes.c_ulong(flags | exit_signal), *zeros)

    ctypes.set_errno(0)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = _syscall_with_gil(*first)
    if pid == -1 and legacy and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
        pid = _syscall_with_gil(*second)
    number = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid == -1:
        raise OSError(number, os.strerror(number))
    return pid


def _os_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
