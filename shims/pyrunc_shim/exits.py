# SPDX-License-Identifier: Apache-2.0
"""Whose the exits are that come in, and when they are told: after the start, after running out of memory.

A pid may be reaped before the worker that started the process has told it.
"""

from __future__ import annotations

import os

from pyrunc.events import open_oom

from . import messages as m
from . import operations
from .publisher import now
from .worker import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.errors import PyruncError

    from .loop import Loop
    from .publisher import Publisher
    from .stdio import Stdio
    from .task import Process, Task

_KILL_SECONDS = 10.0  # for the processes of Exec to follow the init


class Exits:
    """The workers, and the processes that they have started."""

    __slots__ = ("_by_pid", "_loop", "_publisher", "_unclaimed", "_workers")

    def __init__(self, loop: Loop, publisher: Publisher) -> None:
        self._loop = loop
        self._publisher = publisher
        self._workers = Workers(loop)
        self._by_pid: dict[int, tuple[Task, Process]] = {}
        # Exits of processes that nobody has told us the pids of yet.
        self._unclaimed: dict[int, tuple[int, m.Timestamp]] = {}
        loop.on_child = self._reaped

    def work(self, work: Callable[[], dict[str, Any] | None], done: Callable[[dict[str, Any], PyruncError | None],
              object], stdio: Stdio | None = None) -> None:
        """In a worker, with the process's streams where it starts one."""
        child = stdio.child if stdio else None
        keep = (stdio.console,) if stdio is not None and stdio.console >= 0 else ()

        def finished(result: dict[str, Any], error: PyruncError | None) -> None:
            try:
                done(result, error)
            finally:
                if not self._workers.busy:
                    self._unclaimed.clear()

        self._workers.start(work, finished, stdio=child, keep=keep)

    def watch_oom(self, task: Task) -> None:
        if task.container is None:
            return
        watch = open_oom(task.container)
        if watch is None:
            return
        task.oom = watch

        def ready(_events: int) -> None:
            self._look_for_oom(task)
            if watch.gone and task.oom is not None:
                self.forget_oom(task)

        self._loop.watch(watch.fd, watch.mask, ready)

    def _look_for_oom(self, task: Task) -> None:
        if task.oom is not None and task.oom.happened():
            self._publisher.publish(m.TaskOOM(container_id=task.id))

    def forget_oom(self, task: Task) -> None:
        if task.oom is not None:
            self._loop.forget(task.oom.fd)
            task.oom.close()
            task.oom = None

    def claim(self, task: Task, process: Process) -> None:
        """From now on the exit of this pid is the process's; it may have come in already."""
        gone = self._unclaimed.pop(process.pid, None)
        if gone is None:
            self._by_pid[process.pid] = (task, process)
        else:
            process.exit = gone

    def _reaped(self, pid: int, status: int) -> None:
        if self._workers.exited(pid):
            return
        code = os.waitstatus_to_exitcode(status)
        gone = (128 - code if code < 0 else code, now())
        entry = self._by_pid.pop(pid, None)
        if entry is not None:
            task, process = entry
            process.exit = gone
            if not process.starting and not (process is task.init and task.kills):
                self.exited(task, process)
        elif self._workers.busy:
            self._unclaimed[pid] = gone

    def told(self, task: Task, process: Process) -> None:
        """The start of the process has been told: its exit may be."""
        process.starting = False
        if process.exit is not None and not (process is task.init and task.kills):
            self.exited(task, process)

    def exited(self, task: Task, process: Process) -> None:
        if process is not task.init:
            self.publish(task, process)
            if task.init.exit is not None and not task.kills and not task.running_execs():
                self.publish(task, task.init)
            return
        if not task.own_pids:  # nobody dies with it
            self.work(lambda: operations.kill(task.id, task.root, 9, True), lambda _result, _error: None)
        if not task.running_execs():
            self.publish(task, process)
            return
        # Theirs is told first; should one not die, it doesn't hold up the init's.
        self._loop.later(_KILL_SECONDS, lambda: self.publish(task, process))

    def publish(self, task: Task, process: Process) -> None:
        if process.published or process.exit is None:
            return
        self._look_for_oom(task)  # which is told before
        code, when = process.exit
        self._publisher.publish(m.TaskExit(container_id=task.id, id=process.exec_id or task.id, pid=process.pid,
                                           exit_status=code, exited_at=when))
        process.stdio.close_stdin()
        process.stopped()
