# SPDX-License-Identifier: Apache-2.0
"""The seccomp profile that container engines give a container by default, as data of our own.

A list of what is allowed; everything else fails with EPERM.  Left out is what programs in a container
have no business with: calls that load code into the kernel, mount, trace, name or reach other
namespaces, keep keys that no namespace divides, set clocks, or have been a way out before
(io_uring, userfaultfd, AF_ALG and AF_VSOCK sockets).  Some of it comes back with the capability that
the kernel asks for anyway.

A filter sees no memory.  An i386 program, or an x86_64 one that acts as one, reaches every family by
socketcall(2), whose arguments are there; to forbid that would leave 32 bit programs of older C libraries
without a network.  An AppArmor or SELinux policy can tell (`deny network alg`).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyrunc.spec.types import Seccomp, SeccompArg, SeccompSyscall

_ALLOWED = {
    "processes": """
        waiting_for_them:   wait4 waitid waitpid
        start_and_end:      execve execveat exit exit_group fork vfork kill tgkill tkill pidfd_open pidfd_send_signal
        identity:           getpid getppid gettid getpgid getpgrp getsid setpgid setsid set_tid_address
        users:              getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getgroups getgroups32
                            getresuid getresuid32 getresgid getresgid32 setuid setuid32 setgid setgid32 setgroups
                            setgroups32 setreuid setreuid32 setregid setregid32 setresuid setresuid32 setresgid
                            setresgid32 setfsuid setfsuid32 setfsgid setfsgid32
        privileges:         capget capset prctl seccomp landlock_create_ruleset landlock_add_rule
                            landlock_restrict_self
        limits_and_usage:   getrlimit setrlimit ugetrlimit prlimit64 getrusage times sysinfo uname
        scheduling:         getpriority setpriority ioprio_get ioprio_set sched_getaffinity sched_setaffinity
                            sched_getattr sched_setattr sched_getparam sched_setparam sched_getscheduler
                            sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval
                            sched_rr_get_interval_time64 sched_yield getcpu
        looking_at_own:       process_vm_readv process_vm_writev ptrace process_mrelease
    """,
    "memory": """
        maps:               brk mmap mmap2 mremap munmap mprotect madvise mincore msync remap_file_pages mseal
                            map_shadow_stack membarrier
        locks_and_keys:     mlock mlock2 mlockall munlock munlockall pkey_alloc pkey_free pkey_mprotect
        anonymous_files:    memfd_create memfd_secret
    """,
    "threads": """
        futexes:            futex futex_time64 futex_wait futex_wake futex_waitv futex_requeue get_robust_list
                            set_robust_list rseq
        local_storage:      get_thread_area set_thread_area
    """,
    "signals": """
        handlers:           rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
                            rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn
                            pause restart_syscall signalfd signalfd4
    """,
    "time": """
        clocks:             clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
                            clock_nanosleep_time64 gettimeofday time nanosleep
        looking_at_it:      adjtimex clock_adjtime clock_adjtime64
        timers:             alarm getitimer setitimer timer_create timer_delete timer_getoverrun timer_gettime
                            timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
                            timerfd_gettime64 timerfd_settime timerfd_settime64
    """,
    "files": """
        opening:            open openat openat2 creat close close_range dup dup2 dup3 fcntl fcntl64 ioctl flock
        reading:            read readv pread64 preadv preadv2 readahead lseek _llseek getdents getdents64
        writing:            write writev pwrite64 pwritev pwritev2 truncate truncate64 ftruncate ftruncate64 fallocate
                            fsync fdatasync sync syncfs sync_file_range fadvise64 fadvise64_64 cachestat
        between_files:      copy_file_range sendfile sendfile64 splice tee vmsplice
        looking_at_them:    access faccessat faccessat2 stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat
                            statx statfs statfs64 fstatfs fstatfs64 readlink readlinkat getcwd name_to_handle_at
        changing_them:      chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32 umask
                            utime utimes utimensat utimensat_time64 futimesat
        names:              link linkat symlink symlinkat unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir
                            mknod mknodat chdir fchdir
        attributes:         getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr
                            llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
    """,
    "waiting": """
        for_descriptors:    poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create
                            epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
                            eventfd eventfd2 pipe pipe2
        for_changes:        inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark
        asynchronous:       io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64
    """,
    "communication": """
        sockets:            socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt
                            setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64
        system_v:           ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat
                            shmctl shmdt shmget
        posix_queues:       mq_open mq_unlink mq_notify mq_getsetattr mq_timedreceive mq_timedreceive_time64
                            mq_timedsend mq_timedsend_time64
    """,
    "random numbers": "source: getrandom",
}

#: By machine: its architectures (a 64 bit kernel runs 32 bit programs), and calls that only it has.
_MACHINES = {
    "x86_64": (("X86_64", "X86", "X32"), "arch_prctl modify_ldt"),
    "aarch64": (("AARCH64", "ARM"),
                "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
    "riscv64": (("RISCV64",), "riscv_flush_icache riscv_hwprobe"),
    "ppc64le": (("PPC64LE",), "sync_file_range2 swapcontext"),
    "s390x": (("S390X", "S390"), "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
}

_BY_CAPABILITY = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYSLOG": "syslog",
    "CAP_SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr "
                     "move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog "
                     "umount umount2 unshare",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}

_AF_ALG = 38
_AF_VSOCK = 40
#: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NEW_NAMESPACES = 0x7E020000
#: personality(2): PER_LINUX, PER_LINUX32, both with UNAME26 too; 0xffffffff only asks.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_EPERM, _ENOSYS = 1, 38


def default_seccomp(capabilities: Iterable[str], machine: str) -> Seccomp:
    """A linux.seccomp for a container with these `capabilities` on this `machine` (uname -m)."""
    held = set(capabilities)
    architectures, own = _MACHINES.get(machine, ((), ""))
    names = {word for text in _ALLOWED.values() for word in text.split() if not word.endswith(":")}
    names.update(own.split())
    for capability, allowed in _BY_CAPABILITY.items():
        if capability in held:
            names.update(allowed.split())
    rules: list[SeccompSyscall] = [{"names": sorted(names), "action": "SCMP_ACT_ALLOW"}]
    # Conditions on one argument are alternatives, so "neither 38 nor 40" has to be three ranges.
    for operator, family in (("LT", _AF_ALG), ("EQ", _AF_ALG + 1), ("GT", _AF_VSOCK)):
        rules.append(_allow("socket", 0, operator, family))
    for persona in _PERSONALITIES:
        rules.append(_allow("personality", 0, "EQ", persona))
    if "CAP_SYS_ADMIN" not in held:
        flags = 1 if machine.startswith("s390") else 0  # clone(2): the stack comes first there
        rules.append(_allow("clone", flags, "MASKED_EQ", _NEW_NAMESPACES, 0))
        # Its flags are in memory, where a filter can't look; on ENOSYS a C library takes clone.
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    profile: Seccomp = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": _EPERM}
    if architectures:
        profile["architectures"] = [f"SCMP_ARCH_{name}" for name in architectures]
    profile["syscalls"] = rules
    return profile


def _allow(name: str, index: int, operator: str, value: int, second: int | None = None) -> SeccompSyscall:
    condition: SeccompArg = {"index": index, "value": value, "op": f"SCMP_CMP_{operator}"}
    if second is not None:
        condition["valueTwo"] = second
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [condition]}
