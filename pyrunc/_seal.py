# SPDX-License-Identifier: Apache-2.0
"""Run from a sealed copy of the interpreter: the wrapper's part of what launcher/pyrunc.c does.

A process of ours that is seen inside a container shows its program as /proc/PID/exe, which a
privileged process there can open for writing once we are done (CVE-2019-5736): the host's python3
must not be what it finds.  memfd_create(2), fcntl(2) "File Sealing", execveat(2).
"""

from __future__ import annotations

import os
import sys
from errno import EFBIG
from fcntl import F_ADD_SEALS, F_GET_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl

from pyrunc.errors import KernelError

ALL_SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE
MFD_EXEC = 0x10  # Linux 6.3
UNLINKED_COPY_MODE = 0o510  # a mode that no installed interpreter has
DIRECTORIES = ("/run", "/dev/shm", "/tmp")  # for the copy without a name

# The launcher's tables; a test compares them.
VALUE_OPTIONS = ("--root", "--log", "--log-format", "--log-level", "--rootless", "--cgroup-manager", "--criu")
PLAIN_OPTIONS = ("--debug", "--systemd-cgroup", "--version", "-v", "-V", "--help", "-h")
OUTSIDE_COMMANDS = (
    "state", "start", "kill", "delete", "list", "ps", "pause", "resume", "update", "events",
    "spec", "features", "explain", "net", "help",
)  # fmt: skip


def enters_container(argv: list[str]) -> bool:
    """Whether the command of this command line may enter a container; true when in doubt."""
    words = iter(argv)
    for word in words:
        if not word.startswith("-"):
            return word not in OUTSIDE_COMMANDS
        if word.startswith("--") and "=" in word:
            continue
        if word in VALUE_OPTIONS:
            next(words, None)
        elif word not in PLAIN_OPTIONS:
            return True
    return False


def is_sealed() -> bool:
    """Whether this process runs from a copy that `ensure_sealed` (or the launcher) made."""
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        st = os.fstat(fd)
        if st.st_nlink == 0 and st.st_mode & 0o7777 == UNLINKED_COPY_MODE:
            return True
        return fcntl(fd, F_GET_SEALS) & ALL_SEALS == ALL_SEALS
    except OSError:  # EINVAL: neither a memfd nor on a tmpfs
        return False
    finally:
        os.close(fd)


def ensure_sealed(argv: list[str]) -> None:
    """Restart the interpreter from a sealed copy where the command line asks for one."""
    if not enters_container(argv) or is_sealed():
        return
    first: OSError | None = None
    # An absolute argv[0] is where the copy finds its standard library.
    arguments = [sys.executable, *sys.orig_argv[1:]]
    for directory in (None, *DIRECTORIES):
        try:
            os.execve(_copy(directory), arguments, os.environ)
        except OSError as error:
            first = first or error
    raise KernelError(
        "cannot run from a sealed copy of the interpreter", errno=first.errno or 0 if first else 0,
        hint="raise the limit on the size of files: ulimit -f" if first and first.errno == EFBIG else
        "allow executable memfds with sysctl vm.memfd_noexec=0, "
        "or mount /run, /dev/shm or /tmp without noexec",
    )  # fmt: skip


def _copy(directory: str | None) -> int:
    """The interpreter's program copied to a memfd, or to a nameless file in `directory`."""
    source = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if directory is None:
            return _sealed_memfd(source)
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o700)
        try:
            _fill(fd, source)
            os.fchmod(fd, UNLINKED_COPY_MODE)
            # What is open for writing can't be executed (ETXTBSY).
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(fd)
    finally:
        os.close(source)


def _sealed_memfd(source: int) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("pyrunc", flags | MFD_EXEC)
    except OSError:  # before Linux 6.3, when every memfd was executable
        fd = os.memfd_create("pyrunc", flags)
    try:
        _fill(fd, source)
        os.fchmod(fd, 0o500)
        fcntl(fd, F_ADD_SEALS, ALL_SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def _fill(target: int, source: int) -> None:
    size = os.fstat(source).st_size
    done = 0
    while done < size:
        sent = os.sendfile(target, source, done, size - done)
        if not sent:
            break
        done += sent
