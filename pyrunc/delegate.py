# SPDX-License-Identifier: Apache-2.0
"""create for a threaded program: by a process of our own, since a fork copies only one thread.

What it reports, and the error it ends with, come back over a pipe, a JSON document a line.
"""

from __future__ import annotations

import os
import sys

from .__main__ import ISOLATED, MISLEADING
from .errors import PyruncError, UsageError, from_data
from .spec.load import dump, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .creation import CreateOptions
    from .lifecycle import Container, Report

# At the end of the path: nothing beside the package can shadow the standard library.
_SCRIPT = "import sys; sys.path.append(sys.argv[1]); from pyrunc.delegate import main; main(*sys.argv[2:])"
_PASSED = ("console_socket", "pid_file", "pidfd_socket", "pivot", "keyring", "rootless", "systemd_cgroup")


def create_elsewhere(bundle: str, container_id: str, root: str, options: CreateOptions, report: Report) -> Container:
    """Container.create in a process of its own.  Raises the PyruncError it ended with.

    The container's init becomes a child of the nearest subreaper, or of pid 1.
    """
    from .lifecycle import Container

    if options.console_fd >= 0 or options.preserve_fds:
        raise UsageError("descriptors can't be passed to a container from a threaded program",
                         hint="create it from a process of one thread")
    order = dump({"bundle": os.path.abspath(bundle), "id": container_id, "root": os.path.abspath(root),
                  "options": {name: getattr(options, name) for name in _PASSED}})
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    env = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    said, writer = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(said, "rb") as file:
        try:
            words = [sys.executable, *ISOLATED, "-c", _SCRIPT, package, str(writer), order]
            # A descriptor duplicated to itself is one that execve keeps open.
            pid = os.posix_spawn(sys.executable, words, env, file_actions=[(os.POSIX_SPAWN_DUP2, writer, writer)])
        finally:
            os.close(writer)
        failure: PyruncError | None = None
        try:
            for line in file:
                message = parse(line, "what create said")
                if isinstance(message, dict):
                    failure = from_data(message)
                elif isinstance(message, list):
                    report(str(message[0]), str(message[1]))
        finally:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if failure is not None:
        raise failure
    if status:
        raise PyruncError(f"the process that creates the container ended with status {status}")
    return Container.load(container_id, root, report)


def main(writer: str, order: str) -> NoReturn:
    """The other process: do what `order` says, tell `writer`, leave."""
    from ._seal import ensure_sealed

    fd = int(writer)

    def say(message: object) -> None:
        os.write(fd, dump(message).encode("utf-8", "surrogatepass") + b"\n")

    status = 1
    try:
        ensure_sealed(["create"])
        os.set_inheritable(fd, False)
        from .creation import CreateOptions, create

        wanted = parse(order.encode("utf-8", "surrogateescape"), "the order")
        assert isinstance(wanted, dict)
        create(wanted["bundle"], wanted["id"], wanted["root"], CreateOptions(**wanted["options"]),
               lambda level, text: say([level, text]))
        status = 0
    except PyruncError as error:
        say(error.to_data())
    except OSError as error:
        say(PyruncError(f"create: {error}").to_data())
    finally:
        os._exit(status)
