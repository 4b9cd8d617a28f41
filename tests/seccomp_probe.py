# SPDX-License-Identifier: Apache-2.0
"""A program that does system calls and says what came of each; profiles to run it under.

    probe 39 41:38:3 i20 …      number and arguments, all decimal; a line each: ok VALUE, an errno's name, or signal N

With an i before it the call is done as an i386 program does it (int $0x80), three arguments at most.

Each call is done by a child, which a filter may kill.  Static: it needs no library, and few calls of its own.
"""

from __future__ import annotations

import atexit
import errno
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from support import Bundle, Result, Runtime

SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **words) {
    /* Shared, so that a child says its result without a call that the filter could forbid. */
    volatile long *said = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 1; i < count; i++) {
        long call[7] = {0};
        int old = *words[i] == 'i';
        char *word = words[i] + old;
        for (int n = 0; n < 7 && *word; n++) {
            call[n] = (long)strtoull(word, &word, 10);
            if (*word == ':') word++;
        }
        said[0] = said[1] = said[2] = 0;
        pid_t child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); /* fork(3) has more calls with each glibc */
        if (child == 0) {
            errno = 0;
            if (old) {
                long value;
                __asm__ volatile("int $0x80" : "=a"(value) : "a"(call[0]), "b"(call[1]), "c"(call[2]), "d"(call[3])
                                 : "memory", "r8", "r9", "r10", "r11");
                said[1] = (int)value < 0 && (int)value > -4096 ? -(int)value : 0;
                said[0] = said[1] ? -1 : value;
                said[2] = 1;
                _exit(0);
            }
            said[0] = syscall(call[0], call[1], call[2], call[3], call[4], call[5], call[6]);
            said[1] = errno;
            said[2] = 1;
            _exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        if (WIFSIGNALED(status) && !said[2]) printf("signal %d\n", WTERMSIG(status));
        else if (said[0] == -1) printf("errno %ld\n", said[1]);
        else printf("ok %ld\n", said[0]);
    }
    fflush(stdout);
    return 0;
}
"""


@functools.cache
def _built() -> Path:
    place = Path(tempfile.mkdtemp(prefix="pyrunc-probe-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    (place / "probe.c").write_text(SOURCE)
    subprocess.run(["gcc", "-static", "-O1", "-o", place / "probe", place / "probe.c"], check=True)
    return place / "probe"


def install(bundle: Bundle) -> Bundle:
    """Put the program into the bundle as /probe."""
    (bundle.rootfs / "probe").write_bytes(_built().read_bytes())
    (bundle.rootfs / "probe").chmod(0o755)
    return bundle


def seen(result: Result) -> list[str]:
    """The lines of the program, errors by name."""
    assert result.code == 0, result
    return [errno.errorcode.get(int(line.split()[1]), line) if line.startswith("errno ") else line
            for line in result.lines]


def probe(runtime: Runtime, bundle: Bundle, profile: dict[str, Any] | None, *calls: str) -> list[str]:
    """Run the program under the profile."""
    install(bundle)
    if profile is None:
        bundle.linux.pop("seccomp", None)
    else:
        bundle.linux["seccomp"] = profile
    return seen(runtime.run(bundle.args("/probe", *calls)))


def allowing(*syscalls: dict[str, Any], **members: Any) -> dict[str, Any]:
    """A profile that allows everything but for the rules."""
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": list(syscalls), **members}


def rule(names: str, action: str = "ERRNO", *arguments: tuple[Any, ...], **members: Any) -> dict[str, Any]:
    """A rule; an argument is (index, operator, value) or (index, operator, value, valueTwo)."""
    found: dict[str, Any] = {"names": names.split(), "action": f"SCMP_ACT_{action}", **members}
    if arguments:
        found["args"] = [{"index": one[0], "op": f"SCMP_CMP_{one[1]}", "value": one[2],
                          **({"valueTwo": one[3]} if len(one) > 3 else {})} for one in arguments]
    return found


#: What a static program and the runtimes need.
BASIC = ("execve exit exit_group write read close mmap munmap brk arch_prctl set_tid_address set_robust_list rseq "
         "prlimit64 readlink readlinkat getrandom mprotect newfstatat fstat clone fork wait4 futex rt_sigreturn "
         "rt_sigaction rt_sigprocmask openat fcntl capset capget prctl setgroups setuid setgid setresuid setresgid "
         "chdir getcwd nanosleep clock_nanosleep sched_yield sigaltstack getppid getpid gettid tgkill epoll_ctl "
         "epoll_pwait faccessat faccessat2 pread64 madvise umask lseek fstatfs getdents64 getuid getgid "
         "geteuid getegid")


def denying(default: str = "ERRNO", *syscalls: dict[str, Any], names: str = BASIC, **members: Any) -> dict[str, Any]:
    """A profile that forbids everything but the calls that are needed and the rules."""
    return {"defaultAction": f"SCMP_ACT_{default}", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [rule(names, "ALLOW"), *syscalls], **members}
