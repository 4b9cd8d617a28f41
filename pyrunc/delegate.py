# SPDX-License-Identifier: Apache-2.0
"""What a program can't do itself, done by a process of our own.

create, where the program has threads, since a fork copies only one of them; exec, always, since a
process that enters a container where others are must show them a sealed copy as /proc/PID/exe
(CVE-2019-5736).  What it reports, and how it ended, come back over a pipe, a JSON document a line.
"""

from __future__ import annotations

import os
import sys

from .__main__ import ISOLATED, MISLEADING
from .errors import PyruncError, UsageError, from_data
from .spec.load import dump, load_process, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    from .lifecycle import Container, Report
    from .options import CreateOptions, ExecOptions
    from .spec.types import Process

# At the end of the path: nothing beside the package can shadow the standard library.
_SCRIPT = "import sys; sys.path.append(sys.argv[1]); from pyrunc.delegate import main; main(*sys.argv[2:])"
_CREATE = ("console_socket", "pid_file", "pidfd_socket", "pivot", "keyring", "rootless", "cgroup_manager")
_EXEC = ("console_socket", "pid_file", "pidfd_socket", "sub_cgroups", "ignore_paused")


def create_elsewhere(bundle: str, container_id: str, root: str, options: CreateOptions, report: Report) -> Container:
    """Container.create in a process of its own.  Raises the PyruncError it ended with.

    The container's init becomes a child of the nearest subreaper, or of pid 1.
    """
    from .lifecycle import Container

    _refuse_descriptors(options, "from a threaded program")
    _run({"create": container_id, "root": os.path.abspath(root), "bundle": os.path.abspath(bundle),
          "options": {name: getattr(options, name) for name in _CREATE}}, report)
    return Container.load(container_id, root, report)


def exec_in(container: Container, process: Process | Sequence[str], options: ExecOptions | None) -> int:
    """Container.exec.  Raises PyruncError."""
    from .execution import merge
    from .options import ExecOptions

    options = options or ExecOptions()
    _refuse_descriptors(options, "by the library")
    wanted = process if isinstance(process, dict) else merge(container.config, {"args": list(process)})
    # Held against the schema here, so that a mistake is told before anything is begun.
    checked = load_process(dump(wanted).encode("utf-8", "surrogatepass"), "the process")
    answer = _run({"exec": container.id, "root": os.path.dirname(container.directory.path), "process": checked,
                   "options": {name: getattr(options, name) for name in _EXEC}}, container.report)
    return int(answer["pid"])


def _refuse_descriptors(options: CreateOptions | ExecOptions, whence: str) -> None:
    if options.console_fd >= 0 or options.preserve_fds:
        raise UsageError(f"descriptors can't be passed to a container {whence}", hint="run the command `pyrunc`")


def _run(order: Mapping[str, object], report: Report) -> dict[str, Any]:
    """Have it done; what the process said at its end.  Raises the PyruncError it said instead."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    env = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    said, writer = os.pipe2(os.O_CLOEXEC)
    paper = os.memfd_create("order", os.MFD_CLOEXEC)  # an argument has a largest size
    with os.fdopen(said, "rb") as file:
        try:
            with os.fdopen(os.dup(paper), "wb") as sheet:
                sheet.write(dump(order).encode("utf-8", "surrogatepass"))
            words = [sys.executable, *ISOLATED, "-c", _SCRIPT, package, str(writer), str(paper)]
            # A descriptor duplicated to itself is one that execve keeps open.
            pid = os.posix_spawn(sys.executable, words, env, file_actions=[
                (os.POSIX_SPAWN_DUP2, fd, fd) for fd in (writer, paper)])
        finally:
            os.close(writer)
            os.close(paper)
        last: dict[str, Any] = {}
        try:
            for line in file:
                message = parse(line, "what the process said")
                if isinstance(message, dict):
                    last = message
                elif isinstance(message, list):
                    report(str(message[0]), str(message[1]))
                elif isinstance(message, int):
                    try:
                        os.waitpid(message, 0)  # a process that was ours for a moment only
                    except ChildProcessError:
                        pass  # the program reaps all of its children, or has SIGCHLD ignored
        finally:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if "message" in last:
        raise from_data(last)
    if status or not last:
        raise PyruncError(f"the process that serves the library ended with status {status}")
    return last


def main(writer: str, paper: str) -> NoReturn:
    """The other process: do what the order says, tell `writer`, leave."""
    from ._seal import ensure_sealed

    fd = int(writer)

    def say(message: object) -> None:
        os.write(fd, dump(message).encode("utf-8", "surrogatepass") + b"\n")

    def report(level: str, text: str) -> None:
        say([level, text])

    status = 1
    try:
        ensure_sealed(["create"])
        os.set_inheritable(fd, False)
        with os.fdopen(int(paper), "rb") as sheet:
            sheet.seek(0)
            wanted: Any = parse(sheet.read(), "the order")
        if "create" in wanted:
            from .creation import create
            from .options import CreateOptions

            created = create(wanted["bundle"], wanted["create"], wanted["root"], CreateOptions(**wanted["options"]),
                             report)
            say({"pid": created.pid})
        else:
            from .execution import start
            from .lifecycle import Container
            from .options import ExecOptions

            # As a child of the program's, who is to get its exit status.
            pid = start(Container.load(wanted["exec"], wanted["root"], report), wanted["process"],
                        ExecOptions(**wanted["options"]), reap=say)
            say({"pid": pid})
        status = 0
    except PyruncError as error:
        say(error.to_data())
    except OSError as error:
        say(PyruncError(f"{error}").to_data())
    finally:
        os._exit(status)
