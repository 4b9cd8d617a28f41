# SPDX-License-Identifier: Apache-2.0
"""linux.resources as data: the writes that apply it, and their execution.

cgroupv1.py and cgroupv2.py turn a configuration into a list of `Write`; `apply` carries the list
out, and takes it back when the kernel rejects one of them.
"""

from __future__ import annotations

import errno
import os

from . import cgroupfs
from .errors import ConfigError, KernelError, PyruncError, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .spec.types import Config

POINTER = "/linux/resources"
_SMALL_MEMORY = 32 << 20  # bytes


def has_small_memory(config: Config) -> bool:
    """Whether a process of ours must be in the cgroup for as short as can be.

    What it takes there, an interpreter's worth of copied pages, is charged to the container.  Above that limit
    it comes early.
    """
    memory = ((config.get("linux") or {}).get("resources") or {}).get("memory") or {}
    return 0 < (memory.get("limit") or -1) < _SMALL_MEMORY


class Write:
    """One write(2) to a file of the cgroup: `value` to `file`, of `controller` ("" all of v2's).

    `pointer` is the field of config.json that it comes from.  `undo` makes, of what the file held
    before, the values that bring it back, in order (a file of keyed lines needs one write a line);
    None where nothing can (a trigger).  `hint` goes into the error if the kernel rejects it.
    `optional`: a kernel without the file isn't an error.
    """

    __slots__ = ("controller", "file", "hint", "optional", "pointer", "undo", "value")

    def __init__(self, controller: str, file: str, value: str, pointer: str, *, hint: str = "",
                 optional: bool = False, undo: Callable[[str], list[str]] | None = None) -> None:
        self.controller = controller
        self.file = file
        self.value = value
        self.pointer = pointer
        self.hint = hint
        self.optional = optional
        self.undo = undo or whole

    def describe(self) -> str:
        return f"write {self.value!r} to {self.file}"

    def __repr__(self) -> str:
        return f"<{self.pointer}: {self.file} = {self.value!r}>"


def whole(before: str) -> list[str]:
    """The undo of a file that holds one value."""
    return [before.strip() or "\n"]  # write(2) of nothing at all would change nothing


def keyed(key: str, absent: str) -> Callable[[str], list[str]]:
    """The undo of one line of a file with a line a key: the line as it was, or `key absent`."""
    def undo(before: str) -> list[str]:
        for line in before.splitlines():
            if line.split(" ", 1)[0] == key:
                return [line.strip()]
        return [f"{key} {absent}"]
    return undo


def apply(writes: Sequence[Write], directories: Mapping[str, str], *, undo: bool = False) -> None:
    """Carry out `writes`, in order, in the cgroup whose directory by controller is `directories`.

    With `undo` all of it or nothing: when one is rejected, those before it are taken back in
    reverse.  Without, the caller removes the cgroup anyway.  Raises ConfigError for a controller
    or file that isn't there, KernelError for a value that the kernel rejects.
    """
    done: list[tuple[Write, str, str]] = []
    try:
        for write in writes:
            directory = directories.get(write.controller)
            if directory is None:
                if write.optional:
                    continue
                raise ConfigError(write.pointer, f"this host has no {write.controller} cgroup controller")
            path = f"{directory}/{write.file}"
            before = _before(path) if undo else ""
            if _write(write, path):
                done.append((write, path, before))
    except PyruncError:
        for write, path, before in reversed(done):
            for value in write.undo(before):
                try:
                    cgroupfs.write(path, value)
                except OSError:
                    continue  # the error that is raised is the first one
        raise


def _before(path: str) -> str:
    try:
        return cgroupfs.read(path)
    except OSError:
        return ""


def _lacks_controller(path: str) -> bool:
    """Whether a v2 cgroup hasn't the controller of that file."""
    directory, name = os.path.split(path)
    available = f"{directory}/cgroup.controllers"
    return os.path.exists(available) and name.partition(".")[0] not in _before(available).split()


def _write(write: Write, path: str) -> bool:
    """Whether it was written (an optional file may be missing)."""
    try:
        cgroupfs.write(path, write.value)
    except FileNotFoundError:
        if write.optional:
            return False
        if not os.path.isdir(os.path.dirname(path)):
            raise KernelError(f"the cgroup {os.path.dirname(path)} is gone", pointer=write.pointer,
                              errno=errno.ENOENT) from None
        hint = "" if _lacks_controller(path) else write.hint
        raise ConfigError(write.pointer, f"this kernel's cgroup has no {write.file}",
                          hint=hint or "the controller isn't available here") from None
    except OSError as error:
        raise kernel_error(f"{write.describe()} in {os.path.dirname(path)}", error, syscall="write",
                           pointer=write.pointer, hint=write.hint) from None
    return True
