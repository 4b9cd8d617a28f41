# SPDX-License-Identifier: Apache-2.0
"""The shim itself: a loop, a server, the service, and an end."""

from __future__ import annotations

import gc
import os
import sys

import pyrunc
from pyrunc.linux import process as k

from . import operations, service
from .loop import Loop
from .publisher import Publisher
from .server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from _socket import socket
    from collections.abc import Iterator

    from .arguments import Arguments, Surroundings
else:
    import _signal  # what `signal` wraps; that one costs importing enum

loaded = False  # everything: in the template, and what is forked from it
_FAREWELL_SECONDS = 5.0  # for the last answer and the last events, as the reference
_COLLECT_SECONDS = 30.0
_LOAD_SECONDS = 0.3  # after which a container that ends at once has ended
#: Of commands and of networks, of programs that use the library, of a package without its compiled part; for type
#: checkers; and what reads other files of the package when it is needed.
_OTHERS = {"pyrunc.__main__", "pyrunc._seal", "pyrunc.linux._syscall_ctypes", "pyrunc.delegate", "pyrunc.explain",
           "pyrunc.foreground", "pyrunc.terminal", "pyrunc.linux.conntrack", "pyrunc.linux.nftables",
           "pyrunc.linux.rtnetlink", "pyrunc.spec.types", "pyrunc.spec.explain"}


def modules() -> Iterator[str]:
    """All that a container may ever need."""
    top = os.path.dirname(pyrunc.__file__)
    for package, below in (("pyrunc", top), ("pyrunc.spec", f"{top}/spec"), ("pyrunc.linux", f"{top}/linux")):
        for name in sorted(os.listdir(below)):
            stem, dot, suffix = name.partition(".")
            module = f"{package}.{stem}"
            if (dot, suffix) == (".", "py") and stem != "__init__" and module not in _OTHERS:
                yield module
    yield "pyrunc_shim.metrics"
    yield "pyrunc_shim.idmapped"


def load(names: list[str]) -> None:
    for name in names:
        __import__(name)


def load_later(loop: Loop) -> None:
    """Load the rest when there is time, a module between other things: the package may be upgraded, or go, under us."""
    if loaded:
        return
    names = [name for name in modules() if name not in sys.modules]

    def one() -> None:
        if not names:
            operations.report("debug", "all code is loaded")
            return
        loop.later(0, one)
        load([names.pop()])

    loop.later(_LOAD_SECONDS, one)


def defect(error: Exception) -> None:
    """Told with its place, which is the most that can be done: the containers have nobody but us."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_qualname} line {place.tb_lineno}" if place is not None else "?"
    operations.report("error", f"internal error: {type(error).__name__}: {error} in {where}")


def serve(arguments: Arguments, around: Surroundings, listener: socket, path: str) -> None:
    """Serve on the socket until a Shutdown or a signal."""
    # What is loaded stays, in pages that the workers share.
    gc.freeze()
    operations.debugging = "debug" in arguments.switches
    k.prctl(k.PR_SET_CHILD_SUBREAPER, 1)
    loop = Loop()
    loop.on_error = defect
    publisher = Publisher(loop, around.events, arguments["namespace"],
                          lambda message: operations.report("error", message))

    def shut_down() -> None:
        loop.later(_FAREWELL_SECONDS, loop.stop)
        publisher.when_idle(loop.stop)

    def collect() -> None:
        gc.collect()
        loop.later(_COLLECT_SECONDS, collect)

    tasks = service.Service(loop, publisher, arguments["namespace"], shut_down)
    server = Server(loop, listener, tasks.services(), lambda message: operations.report("error", message))
    loop.signals({_signal.SIGTERM: loop.stop, _signal.SIGINT: loop.stop})
    for number in (_signal.SIGPIPE, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_IGN)
    loop.later(_COLLECT_SECONDS, collect)
    load_later(loop)
    try:
        loop.run()
    finally:
        try:
            os.unlink(path)
        except OSError:
            pass
        server.close()
