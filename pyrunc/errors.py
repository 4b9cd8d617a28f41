# SPDX-License-Identifier: Apache-2.0
"""The one exception tree.

    PyruncError
    ├── UsageError        the command line is wrong
    ├── BundleError       the bundle's files are missing or unreadable
    ├── ConfigError       config.json says something that can't be done
    ├── ContainerError    the container is not in the state the operation needs
    │   ├── ContainerExists
    │   └── ContainerNotFound
    ├── KernelError       a system call failed
    ├── HookError         a hook failed
    ├── NetworkError      a network or an attachment is not as the operation needs it
    └── ImageError        an image, a layer or the store is not as it has to be
        └── RegistryError     a registry refused, or could not be reached

Each error says what failed, the JSON pointer in config.json it came from, the system call and
errno, and the remedy where there is one.  All of it is data (`to_data`), because the container
side sends its failures to the runtime over a socket.
"""

from __future__ import annotations

import errno as _errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class PyruncError(Exception):
    """Something pyrunc was asked to do could not be done.

    `message` is what failed in the user's words; `pointer` the JSON pointer in config.json
    (RFC 6901, "" where none applies); `syscall` and `errno` what the kernel answered; `hint` the
    remedy.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, pointer: str = "", syscall: str = "", errno: int = 0, hint: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.pointer = pointer
        self.syscall = syscall
        self.errno = errno
        self.hint = hint

    def __str__(self) -> str:
        parts = [part for part in (self.pointer, self.message, self.syscall) if part]
        if self.errno:
            parts.append(errno_text(self.errno))
        text = ": ".join(parts)
        if self.hint:
            text += f" ({self.hint})"
        return text

    def to_data(self) -> dict[str, Any]:
        """The error as JSON-serialisable data; `from_data` turns it back."""
        return {
            "class": type(self).__name__,
            "message": self.message,
            "pointer": self.pointer,
            "syscall": self.syscall,
            "errno": self.errno,
            "hint": self.hint,
        }


class UsageError(PyruncError):
    """The command line is wrong."""


class BundleError(PyruncError):
    """The bundle's directory or its config.json is missing or unreadable."""


class ConfigError(PyruncError):
    """config.json says something that is invalid or can't be done here."""

    def __init__(
        self, pointer: str, message: str, *, syscall: str = "", errno: int = 0, hint: str = ""
    ) -> None:
        super().__init__(message, pointer=pointer, syscall=syscall, errno=errno, hint=hint)


class ContainerError(PyruncError):
    """The container is not in a state that allows the operation."""


class ContainerExists(ContainerError):
    """The id is taken."""

    def __init__(self, container_id: str = "") -> None:
        # Clients match this string; it is runc's.
        super().__init__("container with given ID already exists")


class ContainerNotFound(ContainerError):
    """No container of that id is below the state root."""

    def __init__(self, container_id: str = "") -> None:
        super().__init__("container does not exist")


class KernelError(PyruncError):
    """A system call failed."""


class HookError(PyruncError):
    """A hook exited non-zero, was killed or timed out."""


class NetworkError(PyruncError):
    """A network, an address or an attachment is not as the operation needs it."""


class ImageError(PyruncError):
    """An image, a layer or the store of images is not as it has to be."""


class RegistryError(ImageError):
    """A registry refused a request (`status`, the HTTP status, is not 0 then) or could not be reached."""

    status = 0

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


def reference_token(key: str) -> str:
    """`key` as a part of a JSON pointer (RFC 6901, 3)."""
    return key.replace("~", "~0").replace("/", "~1")


def errno_text(number: int) -> str:
    """`permission denied (EACCES)`: the words clients look for, then the name to search for."""
    name = _errno.errorcode.get(number, f"errno {number}")
    return f"{os.strerror(number).lower()} ({name})"


def kernel_error(what: str, error: OSError, *, syscall: str = "", pointer: str = "", hint: str = "") -> KernelError:
    """A KernelError from an OSError: `what` was being done when `syscall` failed."""
    # linux/ puts the call's name into OSError.filename's place when there is no path to tell.
    return KernelError(what, pointer=pointer, syscall=syscall or getattr(error, "syscall", ""),
                       errno=error.errno or 0, hint=hint)


def unexplained(error: OSError, where: str = "") -> KernelError:
    """An OSError of which nobody has said what was being done: the file that it names, and what the kernel answered."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    parts = (where, name if error.errno else str(error))
    return kernel_error(": ".join(part for part in parts if part), error)


def attempt(pointer: str, what: str, action: Callable[[], None], hints: Mapping[int, str] | None = None) -> None:
    """Call `action`; an OSError becomes a KernelError, `hints` being the remedy by errno."""
    try:
        action()
    except OSError as error:
        raise kernel_error(what, error, pointer=pointer, hint=(hints or {}).get(error.errno or 0, "")) from None


_CLASSES: dict[str, type[PyruncError]] = {
    cls.__name__: cls
    for cls in (PyruncError, UsageError, BundleError, ConfigError, ContainerError, ContainerExists,
                ContainerNotFound, KernelError, HookError, NetworkError, ImageError, RegistryError)
}


def from_data(data: dict[str, Any]) -> PyruncError:
    """The error that `to_data` described (an unknown class becomes PyruncError)."""
    cls = _CLASSES.get(str(data.get("class")), PyruncError)
    error = cls.__new__(cls)
    PyruncError.__init__(
        error,
        str(data.get("message", "")),
        pointer=str(data.get("pointer", "")),
        syscall=str(data.get("syscall", "")),
        errno=int(data.get("errno", 0)),
        hint=str(data.get("hint", "")),
    )
    return error
