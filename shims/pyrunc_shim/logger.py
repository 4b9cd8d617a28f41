# SPDX-License-Identifier: Apache-2.0
"""Programs that read a container's output: `binary:///path/to/program?key=value`.

The program has the output on descriptor 3, the errors on 4, and says on 5 that it is ready: by closing
it, or with the scheme `binary-v2` by writing a byte.  It ends when the output does.
"""

from __future__ import annotations

import errno
import os
from fcntl import F_DUPFD_CLOEXEC, fcntl

from pyrunc.errors import PyruncError, kernel_error

from .loop import IN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .loop import Loop

SCHEMES = ("binary", "binary-v2")
_READY_SECONDS = 30.0


def command(uri: str) -> tuple[str, list[str]]:
    """(scheme, argv) of the URI: its path, then the keys of its query, each with its first value."""
    scheme, _, rest = uri.partition("://")
    path, _, query = rest.partition("?")
    arguments: dict[str, str] = {}
    for pair in query.split("&"):
        key, equals, value = pair.partition("=")
        if key or equals:
            arguments.setdefault(_unquote(key), _unquote(value))
    argv = [_unquote(path)]
    for key, value in arguments.items():
        argv += [key, value] if value else [key]
    return scheme, argv


def _unquote(text: str) -> str:
    head, *escaped = text.replace("+", " ").split("%")
    out = head.encode()
    for part in escaped:
        try:
            out += bytes.fromhex(part[:2]) + part[2:].encode()
        except ValueError:
            out += b"%" + part.encode()
    return os.fsdecode(out)


def start(loop: Loop, uri: str, container: str, namespace: str, outputs: tuple[int, int],
          ready: Callable[[PyruncError | None], object]) -> None:
    """Start the program; `ready` is called when it is, or with why it isn't.  Raises KernelError."""
    scheme, argv = command(uri)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reader, False)
    # Out of the way of 3, 4 and 5, onto which they go.
    high = [fcntl(fd, F_DUPFD_CLOEXEC, 10) for fd in (*outputs, writer)]
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
    actions += [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(high, 3)]
    try:
        os.posix_spawn(argv[0], argv, {"CONTAINER_ID": container, "CONTAINER_NAMESPACE": namespace},
                       file_actions=actions, setsigdef=range(1, 32))
    except OSError as error:
        os.close(reader)
        raise kernel_error(f"start the logger {argv[0]}", error) from None
    finally:
        for fd in (*high, writer, null):
            os.close(fd)

    def finish(error: PyruncError | None) -> None:
        timer.cancel()
        loop.forget(reader)
        os.close(reader)
        ready(error)

    def told(_events: int) -> None:
        try:
            byte = os.read(reader, 1)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return
            byte = b""
        late = scheme == "binary-v2" and not byte
        finish(PyruncError(f"the logger {argv[0]} ended before it was ready") if late else None)

    late = PyruncError(f"the logger {argv[0]} wasn't ready in {_READY_SECONDS:g} s")
    timer = loop.later(_READY_SECONDS, lambda: finish(late))
    loop.watch(reader, IN, told)
