# SPDX-License-Identifier: Apache-2.0
"""Processes: prctl, capabilities, limits, scheduling, namespaces, keyrings."""

from __future__ import annotations

import fcntl
import os
from _struct import pack, unpack, unpack_from

from .syscall import call, path_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PARENT = 0x8000

NS_GET_NSTYPE = 0xB703

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_IS_SET = 1
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

KEYCTL_SETPERM = 5
KEYCTL_DESCRIBE = 6
KEYCTL_JOIN_SESSION_KEYRING = 1

IOPRIO_WHO_PROCESS = 1
IOPRIO_CLASS_SHIFT = 13

_CAPABILITY_VERSION_3 = 0x20080522


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2)."""
    return call("prctl", option, arg2, arg3, arg4, arg5)


def capget(pid: int = 0) -> tuple[int, int, int]:
    """(effective, permitted, inheritable) masks of `pid` (0: this process).  capget(2)."""
    data = bytearray(24)
    call("capget", pack("=Ii", _CAPABILITY_VERSION_3, pid), data)
    low = unpack_from("=III", data)
    high = unpack_from("=III", data, 12)
    return (low[0] | high[0] << 32, low[1] | high[1] << 32, low[2] | high[2] << 32)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's capability masks.  capset(2)."""
    masks = (effective, permitted, inheritable)
    data = pack("=6I", *(m & 0xFFFFFFFF for m in masks), *(m >> 32 for m in masks))
    call("capset", pack("=Ii", _CAPABILITY_VERSION_3, 0), data)


def unshare(flags: int) -> None:
    """unshare(2)."""
    call("unshare", flags)


def setns(fd: int, nstype: int = 0) -> None:
    """Join the namespace behind `fd`.  setns(2)."""
    call("setns", fd, nstype)


def namespace_type(fd: int) -> int:
    """The CLONE_NEW* constant of the namespace behind `fd`.  ioctl_ns(2), Linux 4.11.  ENOTTY: not one."""
    return fcntl.ioctl(fd, NS_GET_NSTYPE)


def in_user_namespace() -> bool:
    """Whether this process lives in a user namespace below the first one (user_namespaces(7): its map says so)."""
    try:
        fd = os.open("/proc/self/uid_map", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a kernel without, or no procfs to ask
        return False
    try:
        return os.read(fd, 4096).split() != [b"0", b"0", b"4294967295"]
    finally:
        os.close(fd)


def prlimit(pid: int, resource: int, limits: tuple[int, int] | None = None) -> tuple[int, int]:
    """Get, and with `limits` (soft, hard) set, a limit of `pid` (0: this process); returns the old one.

    prlimit(2); 2**64 - 1 is RLIM_INFINITY.
    """
    old = bytearray(16)
    call("prlimit64", pid, resource, None if limits is None else pack("=QQ", *limits), old)
    soft, hard = unpack("=QQ", old)
    return int(soft), int(hard)


def sched_setattr(pid: int, policy: int, flags: int, nice: int, priority: int,
                  runtime: int = 0, deadline: int = 0, period: int = 0) -> None:
    """sched_setattr(2), Linux 3.14; times in nanoseconds."""
    # Its last two numbers, what SCHED_FLAG_UTIL_CLAMP_* clamp to, came with Linux 5.3; zeros an older one passes over.
    attr = pack("=IIQiIQQQII", 56, policy, flags, nice, priority, runtime, deadline, period, 0, 0)
    call("sched_setattr", pid, attr, 0)


def ioprio_set(ioprio_class: int, level: int, pid: int = 0) -> None:
    """ioprio_set(2) for one process."""
    call("ioprio_set", IOPRIO_WHO_PROCESS, pid, ioprio_class << IOPRIO_CLASS_SHIFT | level)


def personality(persona: int) -> None:
    """personality(2)."""
    call("personality", persona)


def set_mempolicy(mode: int, nodes: int, max_node: int) -> None:
    """set_mempolicy(2); `nodes` a mask of NUMA nodes, `max_node` the highest number of bits in it."""
    if max_node == 0:
        call("set_mempolicy", mode, None, 0)
        return
    words = max(1, (max_node + 63) // 64)
    # The kernel reads maxnode - 1 bits (set_mempolicy(2), BUGS).
    call("set_mempolicy", mode, nodes.to_bytes(words * 8, "little"), words * 64 + 1)


def sethostname(name: str) -> None:
    """sethostname(2)."""
    raw = name.encode("utf-8", "surrogateescape")
    call("sethostname", raw, len(raw))


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    raw = name.encode("utf-8", "surrogateescape")
    call("setdomainname", raw, len(raw))


def join_session_keyring(name: str) -> int:
    """Join (or make) the session keyring `name`; its serial.  keyctl(2), KEYCTL_JOIN_SESSION_KEYRING.

    One that is there by that name is joined whoever made it, if it lets us search it.  "" is a new one, without a name.
    """
    return call("keyctl", KEYCTL_JOIN_SESSION_KEYRING, path_bytes(name) if name else 0)


def describe_key(key: int) -> str:
    """`type;uid;gid;perm;description`.  keyctl(2), KEYCTL_DESCRIBE."""
    buffer = bytearray(512)
    length = call("keyctl", KEYCTL_DESCRIBE, key, buffer, len(buffer))
    return bytes(buffer[: min(length, len(buffer))]).rstrip(b"\0").decode("utf-8", "replace")


def set_key_permissions(key: int, permissions: int) -> None:
    """keyctl(2), KEYCTL_SETPERM."""
    call("keyctl", KEYCTL_SETPERM, key, permissions)


def reset_signals() -> None:
    """Default dispositions and an empty mask, just before execve(2), which keeps what is ignored or blocked.

    By the bare calls: glibc hides signals 32 and 33 from its own, and GNU make for one starts its
    children with them ignored.  rt_sigaction(2), rt_sigprocmask(2); all zeros is SIG_DFL.
    """
    default = bytes(32)
    for number in range(1, 65):
        if number not in (9, 19):  # KILL and STOP always are
            call("rt_sigaction", number, default, None, 8)
    call("rt_sigprocmask", 2, bytes(8), None, 8)


def close_from(first: int) -> None:
    """Close every descriptor from `first` up.  close_range(2)."""
    call("close_range", first, 0xFFFFFFFF, 0)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor but `keep`: what the caller had open is none of the container's."""
    previous = -1
    for fd in sorted(keep):
        if fd > previous + 1:
            os.closerange(previous + 1, fd)
        previous = fd
    close_from(previous + 1)


def forget_arguments(proc: int) -> None:
    """Have /proc/PID/cmdline of this process say as little as runc's: who is in the same pid namespace may read it.

    They are in our own memory, which is a copy after a fork (proc_pid_stat(5), 48 and 49; proc_pid_mem(5)).  `proc`
    is the host's procfs.  Nothing is done where it doesn't let us.
    """
    try:
        fd = os.open("self/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            text = os.read(fd, 4096)
        finally:
            os.close(fd)
        start, end = map(int, text[text.rindex(b")") + 2:].split()[45:47])
        fd = os.open("self/mem", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            os.pwrite(fd, b"pyrunc\0init"[:max(end - start - 1, 0)].ljust(end - start, b"\0"), start)
        finally:
            os.close(fd)
    except OSError:
        pass
