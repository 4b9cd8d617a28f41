# SPDX-License-Identifier: Apache-2.0
"""What takes time is done in a forked process, so that hooks and waits never stall the loop.

The fork has the runtime loaded already: it costs a fraction of the start of a runtime's command.  What
it makes (a container's init, a process of exec) becomes the shim's child when it exits, as the shim is
the subreaper of all below it.
"""

from __future__ import annotations

import os

from pyrunc.errors import PyruncError, from_data
from pyrunc.linux.process import close_all_but
from pyrunc.spec.load import dump, parse

from .loop import IN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .loop import Loop

    #: What the work came to, or why it failed.
    Done = Callable[[dict[str, Any], PyruncError | None], object]

_READ = 65536

log_fd = 2  # the shim's log; in a worker, whose stderr is a container's, another descriptor of it


class Workers:
    """Those on their way; `busy` while there are any."""

    __slots__ = ("_log_fd", "_loop", "_pids", "busy")

    def __init__(self, loop: Loop, log_fd: int = 2) -> None:
        self._loop = loop
        self._log_fd = log_fd
        self._pids: set[int] = set()
        self.busy = 0

    def exited(self, pid: int) -> bool:
        """Whether it was one of them that has been reaped."""
        if pid in self._pids:
            self._pids.discard(pid)
            return True
        return False

    def start(self, work: Callable[[], dict[str, Any] | None], done: Done, *, stdio: tuple[int, int, int] | None = None,
              keep: Iterable[int] = ()) -> None:
        """Have `work()` done in a process; `done` gets what it returns, which must be JSON.

        `stdio` become its standard streams, or else they are /dev/null; of all other descriptors it
        has those of `keep` alone.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError as error:
            os.close(reader)
            os.close(writer)
            failure = PyruncError("fork", errno=error.errno or 0)
            self._loop.later(0, lambda: done({}, failure))
            return
        if not pid:
            self._work(work, writer, stdio, keep)
        os.close(writer)
        self._pids.add(pid)
        self.busy += 1
        os.set_blocking(reader, False)
        answer = bytearray()

        def ready(_events: int) -> None:
            piece = os.read(reader, _READ)
            answer.extend(piece)
            if not piece:
                self._loop.forget(reader)
                os.close(reader)
                self.busy -= 1
                done(*_result(bytes(answer)))

        self._loop.watch(reader, IN, ready)

    def _work(self, work: Callable[[], dict[str, Any] | None], writer: int, stdio: tuple[int, int, int] | None,
              keep: Iterable[int]) -> None:
        """In the process; it doesn't come back."""
        status = 1
        try:
            self._loop.drop()
            global log_fd
            log_fd = os.dup(self._log_fd)
            if stdio is None:
                null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
                stdio = (null, null, null)
            # Aside first: one of them may be 0, 1 or 2.
            for number, fd in enumerate([os.dup(fd) for fd in stdio]):
                os.dup2(fd, number)
            close_all_but({0, 1, 2, writer, log_fd, *keep})
            try:
                result: dict[str, Any] = {"result": work() or {}}
            except PyruncError as error:
                result = {"error": error.to_data()}
            except OSError as error:
                result = {"error": PyruncError(str(error)).to_data()}
            data = dump(result).encode("utf-8", "surrogatepass")
            while data:
                data = data[os.write(writer, data):]
            os.close(writer)  # we have said all: our end, with all this memory, needn't be waited for
            status = 0
        except BaseException as error:
            try:
                os.write(writer, dump({"error": PyruncError(f"{type(error).__name__}: {error}").to_data()}).encode())
            except OSError:
                pass  # the shim is gone
        finally:
            os._exit(status)


def _result(answer: bytes) -> tuple[dict[str, Any], PyruncError | None]:
    if not answer:
        return {}, PyruncError("the process that did this was killed", hint="out of memory?")
    found = parse(answer, "the worker's answer")
    if "error" in found:
        return {}, from_data(found["error"])
    return found["result"], None
