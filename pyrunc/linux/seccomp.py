# SPDX-License-Identifier: Apache-2.0
"""seccomp(2), and pidfd_getfd(2), by which its listener is fetched."""

from __future__ import annotations

from _struct import pack

from .syscall import address, call

FLAG_TSYNC = 0x01
FLAG_LOG = 0x02
FLAG_SPEC_ALLOW = 0x04
FLAG_NEW_LISTENER = 0x08
FLAG_WAIT_KILLABLE_RECV = 0x20

RET_KILL_PROCESS = 0x80000000
RET_KILL_THREAD = 0x00000000
RET_TRAP = 0x00030000
RET_ERRNO = 0x00050000
RET_USER_NOTIF = 0x7FC00000
RET_TRACE = 0x7FF00000
RET_LOG = 0x7FFC0000
RET_ALLOW = 0x7FFF0000

INSTRUCTION = 8  # bytes: struct sock_filter
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

_SET_MODE_FILTER = 1
_GET_ACTION_AVAIL = 2
_EFAULT = 14


def set_filter(program: bytes, flags: int) -> int:
    """Filter this thread's system calls with a classic BPF `program`, for good.

    The listener's descriptor (close-on-exec) with FLAG_NEW_LISTENER.  EACCES: neither no_new_privs is
    set nor CAP_SYS_ADMIN there.
    """
    fprog = pack("=H6xQ", len(program) // INSTRUCTION, address(program))  # struct sock_fprog
    return call("seccomp", _SET_MODE_FILTER, flags, fprog)


def flag_known(flag: int) -> bool:
    """Whether the kernel knows the flag: then it goes on to read the program, which is missing."""
    if flag == FLAG_WAIT_KILLABLE_RECV:
        flag |= FLAG_NEW_LISTENER  # which it goes with
    try:
        call("seccomp", _SET_MODE_FILTER, flag, None)
    except OSError as error:
        return error.errno == _EFAULT
    return False


def action_known(action: int) -> bool:
    """Whether the kernel knows the SECCOMP_RET_* (Linux 4.14)."""
    try:
        call("seccomp", _GET_ACTION_AVAIL, 0, pack("=I", action))
    except OSError:
        return False
    return True


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of the process's descriptor `fd`, close-on-exec.  pidfd_getfd(2), Linux 5.6."""
    return call("pidfd_getfd", pidfd, fd, 0)
