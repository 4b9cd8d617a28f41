# SPDX-License-Identifier: Apache-2.0
"""The primitives below every wrapper: `call(name, *args)`, and `address` for structures that point.

The compiled module saves the 3 ms of CPU that importing ctypes costs; without it ctypes serves.
"""

from __future__ import annotations

from .nr import MACHINE, NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    Arg = int | bytes | bytearray | memoryview | None

try:
    from ._syscall import address as address
    from ._syscall import clone3 as _clone3
    from ._syscall import syscall
except ImportError:
    from ._syscall_ctypes import address as address
    from ._syscall_ctypes import clone3 as _clone3
    from ._syscall_ctypes import syscall


def fail(error: OSError, name: str) -> OSError:
    """`error` with the name of the system call that raised it."""
    # errno subclasses (FileNotFoundError, …) are kept: callers catch them.
    error.syscall = name  # type: ignore[attr-defined]
    return error


def call(name: str, *args: Arg) -> int:
    """Call the system call `name`.  Raises OSError; ENOSYS where this machine has no number for it."""
    number = NR.get(name)
    if number is None:
        raise fail(OSError(38, f"no number for {name} on {MACHINE}"), name)
    try:
        return syscall(number, *args)
    except OSError as error:
        raise fail(error, name) from None


def path_bytes(path: str | bytes) -> bytes:
    """A NUL-terminated path (file names are bytes: surrogateescape, as os.fsencode)."""
    raw = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
    return raw + b"\0"


def clone3(flags: int, exit_signal: int = 17, cgroup_fd: int = -1) -> int:
    """fork(2) with namespaces: 0 in the child, its pid in the parent.  clone3(2), Linux 5.3.

    `exit_signal` is SIGCHLD (17); `cgroup_fd` a cgroup v2 directory to be born in (Linux 5.7).
    """
    try:
        return _clone3(flags, exit_signal, cgroup_fd)
    except OSError as error:
        raise fail(error, "clone3") from None
