# SPDX-License-Identifier: Apache-2.0
"""create for a threaded program: by a process of our own, since a fork copies only one thread."""

from __future__ import annotations

import os
import sys

from .errors import PyruncError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .creation import CreateOptions
    from .lifecycle import Container, Report


def create_elsewhere(bundle: str, container_id: str, root: str, options: CreateOptions, report: Report) -> Container:
    """`pyrunc create` in a process of its own.  Raises PyruncError with what it said.

    The container's init becomes a child of the nearest subreaper, or of pid 1.
    """
    from .lifecycle import Container

    if options.console_fd >= 0 or options.preserve_fds:
        raise UsageError("descriptors can't be passed to a container from a threaded program",
                         hint="create it from a process of one thread")
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
    words = [sys.executable, "-I", "-S", "-P", "-B", "-X", "utf8", script, "--root", root, "create", "--bundle",
             os.path.abspath(bundle)]
    words += ["--console-socket", options.console_socket] if options.console_socket else []
    words += ["--pid-file", options.pid_file] if options.pid_file else []
    words += [] if options.pivot else ["--no-pivot"]
    words += [] if options.keyring else ["--no-new-keyring"]
    said, writer = os.pipe2(os.O_CLOEXEC)
    try:
        # The container inherits stdout and stdin; stderr it has too, so what comes from the init
        # is told apart by the log, which only the runtime writes.
        words[8:8] = ["--log", f"/proc/self/fd/{writer}"]
        pid = os.posix_spawn(sys.executable, [*words, container_id], dict(os.environ),
                             file_actions=[(os.POSIX_SPAWN_DUP2, writer, writer)])
    finally:
        os.close(writer)
    with os.fdopen(said, encoding="utf-8", errors="replace") as file:
        text = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        last = text.strip().splitlines()[-1:] or [f"pyrunc create exited with status {status}"]
        raise PyruncError(last[0].partition(' msg="')[2].removesuffix('"') or last[0])
    return Container.load(container_id, root, report)
