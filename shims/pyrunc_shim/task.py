# SPDX-License-Identifier: Apache-2.0
"""A container and its processes as the Task service sees them: what is known of each, and what became of it."""

from __future__ import annotations

from . import ttrpc
from .messages import CREATED, PAUSED, RUNNING, STOPPED, StateResponse, Timestamp, WaitResponse
from .publisher import now
from .ttrpc import RpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.events import OomV1, OomV2
    from pyrunc.lifecycle import Container

    from .messages import Options
    from .server import Call
    from .stdio import Stdio


class Process:
    """The container's init (its `exec_id` is empty) or a process of Exec.

    An exit that comes in before the start has been told is kept in `exit`, and told after it.
    """

    __slots__ = ("exec_id", "exit", "pid", "published", "spec", "starting", "status", "stdio", "waiters")

    def __init__(self, exec_id: str, stdio: Stdio, spec: bytes = b"") -> None:
        self.exec_id = exec_id
        self.stdio = stdio
        self.spec = spec
        self.pid = 0
        self.status = CREATED
        self.starting = False
        self.exit: tuple[int, Timestamp] | None = None
        self.published = False
        self.waiters: list[Call] = []

    @property
    def running(self) -> bool:
        return bool(self.pid) and self.exit is None

    def wait_response(self) -> WaitResponse:
        code, when = self.exit or (0, now())
        return WaitResponse(exit_status=code, exited_at=when)

    def stopped(self) -> None:
        """Its exit has been told: whoever waits for it is answered."""
        self.status = STOPPED
        self.published = True
        waiters, self.waiters = self.waiters, []
        for call in waiters:
            call.answer(self.wait_response())

    def state(self, container_id: str, bundle: str) -> StateResponse:
        streams = self.stdio.streams
        code, when = self.exit if self.exit is not None and self.published else (0, None)
        return StateResponse(id=container_id, bundle=bundle, pid=self.pid, status=self.status, stdin=streams.stdin,
                             stdout=streams.stdout, stderr=streams.stderr, terminal=streams.terminal,
                             exit_status=code, exited_at=when or Timestamp(), exec_id=self.exec_id)


class Task:
    """A container."""

    __slots__ = ("bundle", "checkpoint", "container", "created", "execs", "id", "init", "kills", "oom", "options",
                 "own_pids", "root")

    def __init__(self, task_id: str, bundle: str, root: str, options: Options, init: Process) -> None:
        self.id = task_id
        self.bundle = bundle
        self.root = root
        self.options = options
        self.init = init
        self.execs: dict[str, Process] = {}
        self.container: Container | None = None  # there once it is created
        self.oom: OomV1 | OomV2 | None = None
        self.created = False
        self.checkpoint = ""  # where it is restored from when it is started
        self.kills = 0  # that are on their way
        self.own_pids = True  # whether all its processes die with its init

    def process(self, exec_id: str) -> Process:
        """The init or a process of Exec.  Raises RpcError."""
        if not exec_id:
            return self.init
        process = self.execs.get(exec_id)
        if process is None:
            raise RpcError(ttrpc.NOT_FOUND, f"process does not exist {exec_id}")
        return process

    def running_execs(self) -> list[Process]:
        return [process for process in self.execs.values() if process.running]

    def require_running(self) -> None:
        """Raises RpcError unless the init runs."""
        if self.init.status not in (RUNNING, PAUSED):
            raise RpcError(ttrpc.FAILED_PRECONDITION, f"container {self.id} init process is not running")

    def close(self) -> None:
        """Let go of everything that is open for it."""
        for process in (self.init, *self.execs.values()):
            process.stdio.close()
        if self.oom is not None:
            self.oom.close()
            self.oom = None
        if self.container is not None:
            self.container.close()
            self.container = None
