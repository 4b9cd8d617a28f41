# SPDX-License-Identifier: Apache-2.0
"""System call numbers (the kernel's arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).

Calls added since Linux 5.1 have one number on every architecture; older ones differ.
"""

from __future__ import annotations

import os

_COMMON = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "set_mempolicy_home_node": 450,
}

TABLES: dict[str, dict[str, int]] = {
    "x86_64": {
        **_COMMON,
        "rt_sigaction": 13,
        "rt_sigprocmask": 14,
        "socketpair": 53,
        "capget": 125,
        "capset": 126,
        "personality": 135,
        "statfs": 137,
        "fstatfs": 138,
        "pivot_root": 155,
        "prctl": 157,
        "setrlimit": 160,
        "mount": 165,
        "umount2": 166,
        "sethostname": 170,
        "setdomainname": 171,
        "gettid": 186,
        "set_mempolicy": 238,
        "add_key": 248,
        "keyctl": 250,
        "ioprio_set": 251,
        "ioprio_get": 252,
        "unshare": 272,
        "prlimit64": 302,
        "syncfs": 306,
        "setns": 308,
        "sched_setattr": 314,
        "sched_getattr": 315,
        "seccomp": 317,
        "bpf": 321,
    },
    "aarch64": {
        **_COMMON,
        "ioprio_set": 30,
        "ioprio_get": 31,
        "umount2": 39,
        "mount": 40,
        "pivot_root": 41,
        "statfs": 43,
        "fstatfs": 44,
        "capget": 90,
        "capset": 91,
        "personality": 92,
        "unshare": 97,
        "rt_sigaction": 134,
        "rt_sigprocmask": 135,
        "sethostname": 161,
        "setdomainname": 162,
        "setrlimit": 164,
        "prctl": 167,
        "gettid": 178,
        "socketpair": 199,
        "add_key": 217,
        "keyctl": 219,
        "set_mempolicy": 237,
        "prlimit64": 261,
        "syncfs": 267,
        "setns": 268,
        "sched_setattr": 274,
        "sched_getattr": 275,
        "seccomp": 277,
        "bpf": 280,
    },
}

MACHINE = os.uname().machine
NR = TABLES.get(MACHINE, {})
