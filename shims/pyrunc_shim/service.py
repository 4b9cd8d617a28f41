# SPDX-License-Identifier: Apache-2.0
"""The Task service: containerd.task.v2.Task and v3, whose methods are the same (shim.proto).

Behaviour and status codes are those of containerd-shim-runc-v2.
"""

from __future__ import annotations

import errno
import os

from pyrunc._version import __version__
from pyrunc.errors import ContainerError, ContainerNotFound, PyruncError
from pyrunc.lifecycle import Container
from pyrunc.state import check_id

from . import messages as m
from . import operations, options, ttrpc
from .codec import DecodeError
from .exits import Exits
from .server import LATER
from .stdio import Stdio, Streams
from .task import Process, Task
from .ttrpc import RpcError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .codec import Message
    from .loop import Loop
    from .publisher import Publisher
    from .server import Call, Methods

NAMES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
_DRAIN_SECONDS = 10.0  # for output that is on its way when a process is deleted, as the reference


def _failure(error: PyruncError, what: str = "", code: int = ttrpc.UNKNOWN) -> RpcError:
    if isinstance(error, ContainerNotFound):
        code = ttrpc.NOT_FOUND
    elif str(error).startswith("container not running"):
        return RpcError(ttrpc.NOT_FOUND, "process already finished")
    return RpcError(code, f"{what}: {error}" if what else str(error))


class Service:
    """The containers of this shim, by id."""

    __slots__ = ("_exits", "_loop", "_namespace", "_publisher", "_shut_down", "_tasks")

    def __init__(self, loop: Loop, publisher: Publisher, namespace: str, shut_down: Callable[[], object]) -> None:
        self._loop = loop
        self._publisher = publisher
        self._namespace = namespace
        self._shut_down = shut_down
        self._exits = Exits(loop, publisher)
        self._tasks: dict[str, Task] = {}

    def services(self) -> dict[str, Methods]:
        """For the server."""
        methods: dict[str, Any] = {
            "State": (m.StateRequest, self.state), "Create": (m.CreateTaskRequest, self.create),
            "Start": (m.StartRequest, self.start), "Delete": (m.DeleteRequest, self.delete),
            "Pids": (m.PidsRequest, self.pids), "Pause": (m.PauseRequest, self.pause),
            "Resume": (m.ResumeRequest, self.resume), "Kill": (m.KillRequest, self.kill),
            "Exec": (m.ExecProcessRequest, self.exec), "ResizePty": (m.ResizePtyRequest, self.resize_pty),
            "CloseIO": (m.CloseIORequest, self.close_io), "Update": (m.UpdateTaskRequest, self.update),
            "Checkpoint": (m.CheckpointTaskRequest, self.checkpoint),
            "Wait": (m.WaitRequest, self.wait), "Stats": (m.StatsRequest, self.stats),
            "Connect": (m.ConnectRequest, self.connect), "Shutdown": (m.ShutdownRequest, self.shutdown),
        }
        return {name: methods for name in NAMES}

    # Looking

    def _task(self, task_id: str) -> Task:
        task = self._tasks.get(task_id)
        if task is None or not task.created:
            raise RpcError(ttrpc.NOT_FOUND, "container not created")
        return task

    def state(self, _call: Call, request: m.StateRequest) -> Message:
        task = self._task(request.id)
        return task.process(request.exec_id).state(task.id, task.bundle)

    def wait(self, call: Call, request: m.WaitRequest) -> Message:
        process = self._task(request.id).process(request.exec_id)
        if process.published:
            return process.wait_response()
        process.waiters = [waiter for waiter in process.waiters if waiter.open]
        process.waiters.append(call)
        return LATER

    def connect(self, _call: Call, request: m.ConnectRequest) -> Message:
        task = self._tasks.get(request.id)
        return m.ConnectResponse(shim_pid=os.getpid(), task_pid=task.init.pid if task else 0, version=__version__)

    def pids(self, _call: Call, request: m.PidsRequest) -> Message:
        task = self._task(request.id)
        try:
            pids = task.container.pids() if task.container else []
        except PyruncError as error:
            raise _failure(error) from None
        if not pids and task.init.published:
            # As a zombie until it is deleted.  containerd, when it starts again, takes a task without any (and,
            # up to 2.2, one that answers with an error) for a leaked one, and how it has ended would be lost.
            pids = [task.init.pid]
        execs = {process.pid: process.exec_id for process in task.execs.values() if process.pid}
        return m.PidsResponse(processes=[m.ProcessInfo(pid=pid, info=m.Any(
            type_url="containerd.runc.v1.ProcessDetails",
            value=m.ProcessDetails(exec_id=execs[pid]).encode()) if pid in execs else None) for pid in pids])

    def stats(self, _call: Call, request: m.StatsRequest) -> Message:
        from . import metrics

        task = self._task(request.id)
        try:
            return m.StatsResponse(stats=metrics.metrics(task.container.cgroup if task.container else None))
        except ContainerError as error:  # without a cgroup; containerd 2.3 asks often, and logs every other answer
            raise _failure(error, code=ttrpc.NOT_FOUND) from None
        except PyruncError as error:
            raise _failure(error) from None

    # Create

    def create(self, call: Call, request: m.CreateTaskRequest) -> Message:
        if request.id in self._tasks:
            raise RpcError(ttrpc.ALREADY_EXISTS, f"id {request.id}: already exists")
        try:
            check_id(request.id)
            wanted = options.decode(request.options)
            options.save(request.bundle, wanted)
        except PyruncError as error:
            raise _failure(error, code=ttrpc.INVALID_ARGUMENT) from None
        streams = Streams(request.stdin, request.stdout, request.stderr, request.terminal)
        init = Process("", Stdio(self._loop, streams))
        task = Task(request.id, request.bundle, options.state_root(wanted, self._namespace), wanted, init)
        self._tasks[task.id] = task
        init.starting = True
        stdio = init.stdio

        def fail(error: PyruncError) -> None:
            del self._tasks[task.id]
            task.close()
            call.fail(_failure(error, "OCI runtime create failed"))

        def ready(error: PyruncError | None) -> None:
            if error is not None:
                fail(error)
                return
            if request.checkpoint:
                task.checkpoint = request.checkpoint
                self._exits.work(lambda: operations.mount(task.bundle, request.rootfs), mounted)
                return
            console = stdio.console
            self._exits.work(lambda: operations.create(task.id, task.bundle, task.root, request.rootfs, wanted,
                                                       console), created, stdio)

        def created(result: dict[str, Any], error: PyruncError | None) -> None:
            stdio.started()
            if error is not None:
                fail(error)
                return
            self._made(task, result)
            stdio.take_terminal(finish)

        def mounted(_result: dict[str, Any], error: PyruncError | None) -> None:
            if error is not None:
                fail(error)
            else:
                finish(None)

        def finish(error: PyruncError | None) -> None:
            if error is not None:
                operations.report("error", f"{task.id}: {error}")
            task.created = True
            call.answer(m.CreateTaskResponse(pid=init.pid))
            self._publisher.publish(m.TaskCreate(
                container_id=task.id, bundle=task.bundle, rootfs=request.rootfs, checkpoint=request.checkpoint,
                io=m.TaskIO(stdin=streams.stdin, stdout=streams.stdout, stderr=streams.stderr,
                            terminal=streams.terminal), pid=init.pid))
            self._attend(task)
            self._exits.told(task, init)

        stdio.open(task.id, self._namespace, ready)
        return LATER

    def _made(self, task: Task, result: dict[str, Any]) -> None:
        """The container is there, its init's pid known."""
        task.init.pid = result["pid"]
        task.own_pids = result["own_pids"]
        self._exits.claim(task, task.init)

    def _attend(self, task: Task) -> None:
        """What the answer needn't wait for; the next call of that client finds it done."""
        if not task.init.pid:  # will be restored
            return
        try:
            task.container = Container.load(task.id, task.root, operations.report)
            self._exits.watch_oom(task)
        except PyruncError as failure:
            operations.report("warning", f"{task.id}: {failure}")

    # Start, Exec

    def start(self, call: Call, request: m.StartRequest) -> Message:
        task = self._task(request.id)
        process = task.process(request.exec_id)
        if process.starting or process.status != m.CREATED or (process.exec_id and process.pid):
            raise RpcError(ttrpc.FAILED_PRECONDITION, "cannot start a process that is not in the created state")
        if process.exec_id:
            task.require_running()
            self._start_exec(call, task, process)
            return LATER
        process.starting = True
        if task.checkpoint and not process.pid:
            self._restore(call, task)
            return LATER

        def started(_result: dict[str, Any], error: PyruncError | None) -> None:
            if error is not None:
                call.fail(_failure(error, "OCI runtime start failed"))
            else:
                process.status = m.RUNNING
                call.answer(m.StartResponse(pid=process.pid))
                self._publisher.publish(m.TaskStart(container_id=task.id, pid=process.pid))
            self._exits.told(task, process)

        self._exits.work(lambda: operations.start(task.id, task.root), started)
        return LATER

    def _restore(self, call: Call, task: Task) -> None:
        init, stdio = task.init, task.init.stdio
        console = stdio.console

        def restored(result: dict[str, Any], error: PyruncError | None) -> None:
            stdio.started()
            if error is not None:
                init.starting = False
                call.fail(_failure(error, "OCI runtime restore failed"))
                return
            self._made(task, result)
            stdio.take_terminal(finish)

        def finish(error: PyruncError | None) -> None:
            if error is not None:
                operations.report("error", f"{task.id}: {error}")
            init.status = m.RUNNING
            call.answer(m.StartResponse(pid=init.pid))
            self._publisher.publish(m.TaskStart(container_id=task.id, pid=init.pid))
            self._attend(task)
            self._exits.told(task, init)

        self._exits.work(lambda: operations.restore_container(task.id, task.bundle, task.root, task.checkpoint,
                                                              task.options, console), restored, stdio)

    def exec(self, _call: Call, request: m.ExecProcessRequest) -> Message | None:
        task = self._task(request.id)
        if request.exec_id in task.execs:
            raise RpcError(ttrpc.ALREADY_EXISTS, f"id {request.exec_id}: already exists")
        try:
            check_id(request.exec_id)
        except PyruncError as error:
            raise _failure(error, code=ttrpc.INVALID_ARGUMENT) from None
        if task.init.exit is not None:
            raise RpcError(ttrpc.FAILED_PRECONDITION, "cannot exec in a stopped state")
        if request.spec is None:
            raise RpcError(ttrpc.INVALID_ARGUMENT, "there is no process to run")
        streams = Streams(request.stdin, request.stdout, request.stderr, request.terminal)
        task.execs[request.exec_id] = Process(request.exec_id, Stdio(self._loop, streams), request.spec.value)
        self._publisher.publish(m.TaskExecAdded(container_id=task.id, exec_id=request.exec_id))
        return None

    def _start_exec(self, call: Call, task: Task, process: Process) -> None:
        stdio = process.stdio
        process.starting = True

        def fail(error: PyruncError) -> None:
            process.starting = False
            process.status = m.STOPPED
            stdio.close()
            call.fail(_failure(error, "OCI runtime exec failed"))

        def ready(error: PyruncError | None) -> None:
            if error is not None:
                fail(error)
                return
            console = stdio.console
            self._exits.work(lambda: operations.start_exec(
                task.id, task.root, process.spec, stdio.streams.terminal, f"{task.bundle}/{process.exec_id}.pid",
                console), started, stdio)

        def started(result: dict[str, Any], error: PyruncError | None) -> None:
            stdio.started()
            if error is not None:
                fail(error)
                return
            process.pid = result["pid"]
            self._exits.claim(task, process)
            stdio.take_terminal(finish)

        def finish(error: PyruncError | None) -> None:
            if error is not None:
                operations.report("error", f"{task.id}: {error}")
            process.status = m.RUNNING
            call.answer(m.StartResponse(pid=process.pid))
            self._publisher.publish(m.TaskExecStarted(container_id=task.id, exec_id=process.exec_id, pid=process.pid))
            self._exits.told(task, process)

        stdio.open(task.id, self._namespace, ready)

    # Kill, Delete

    def kill(self, call: Call, request: m.KillRequest) -> Message | None:
        task = self._task(request.id)
        process = task.process(request.exec_id)
        if process.exit is not None:
            raise RpcError(ttrpc.NOT_FOUND, "process already finished")
        if not process.exec_id:
            self._kill_init(call, task, request)
            return LATER
        if not process.pid:
            raise RpcError(ttrpc.FAILED_PRECONDITION, "process not created")
        try:
            os.kill(process.pid, request.signal)  # our child, not reaped yet: the pid is its own
        except OSError as error:
            code = ttrpc.NOT_FOUND if error.errno == errno.ESRCH else ttrpc.UNKNOWN
            raise RpcError(code, f"kill {process.pid}: {error.strerror}") from None
        return None

    def _kill_init(self, call: Call, task: Task, request: m.KillRequest) -> None:
        """Answered before the exit that comes of it is told: on that a client may let go of the connection."""

        def done(_result: dict[str, Any], error: PyruncError | None) -> None:
            if error is not None:
                call.fail(_failure(error))
            else:
                call.answer()
            task.kills -= 1
            if not task.kills and not task.init.starting and task.init.exit is not None:
                self._exits.exited(task, task.init)

        task.kills += 1
        self._exits.work(lambda: operations.kill(task.id, task.root, request.signal, request.all), done)

    def _operate(self, call: Call, work: Callable[[], None], event: Message | None = None,
                 then: Callable[[], object] | None = None) -> None:
        """Do it in a worker, and answer."""

        def done(_result: dict[str, Any], error: PyruncError | None) -> None:
            if error is not None:
                call.fail(_failure(error))
                return
            if then is not None:
                then()
            if event is not None:
                self._publisher.publish(event)
            call.answer()

        self._exits.work(work, done)  # type: ignore[arg-type,unused-ignore]

    def delete(self, call: Call, request: m.DeleteRequest) -> Message:
        task = self._task(request.id)
        process = task.process(request.exec_id)
        if process.starting or (process.status in (m.RUNNING, m.PAUSED) and not process.published):
            raise RpcError(ttrpc.FAILED_PRECONDITION, "cannot delete a running process")
        if not process.exec_id and task.running_execs() and not process.published:
            raise RpcError(ttrpc.FAILED_PRECONDITION, "cannot delete a running process")
        process.stdio.drained(_DRAIN_SECONDS if process.published else 0.0,
                              lambda: self._delete(call, task, process))
        return LATER

    def _delete(self, call: Call, task: Task, process: Process) -> None:
        code, when = process.exit or (0, m.Timestamp())
        answer = m.DeleteResponse(pid=process.pid, exit_status=code, exited_at=when)
        if process.exec_id:
            process.stdio.close()
            task.execs.pop(process.exec_id, None)
            try:
                os.unlink(f"{task.bundle}/{process.exec_id}.pid")
            except OSError:
                pass
            call.answer(answer)
            return

        def deleted(_result: dict[str, Any], error: PyruncError | None) -> None:
            if error is not None:
                call.fail(_failure(error))
                return
            call.answer(answer)
            if process.exit is not None and not process.published:  # deleted before it was started
                self._exits.publish(task, process)
            self._publisher.publish(m.TaskDelete(container_id=task.id, pid=process.pid, exit_status=answer.exit_status,
                                                 exited_at=answer.exited_at, id=task.id))
            self._exits.forget_oom(task)
            self._tasks.pop(task.id, None)
            task.close()

        force = not process.published  # one that was only created
        self._exits.work(lambda: operations.delete(task.id, task.root, task.bundle, force), deleted)

    # The rest

    def pause(self, call: Call, request: m.PauseRequest) -> Message:
        task = self._task(request.id)
        self._operate(call, lambda: operations.pause(task.id, task.root), m.TaskPaused(container_id=task.id),
                      lambda: self._set_status(task, m.PAUSED))
        return LATER

    def resume(self, call: Call, request: m.ResumeRequest) -> Message:
        task = self._task(request.id)
        self._operate(call, lambda: operations.resume(task.id, task.root), m.TaskResumed(container_id=task.id),
                      lambda: self._set_status(task, m.RUNNING))
        return LATER

    @staticmethod
    def _set_status(task: Task, status: int) -> None:
        if task.init.status != m.STOPPED:
            task.init.status = status

    def checkpoint(self, call: Call, request: m.CheckpointTaskRequest) -> Message:
        task = self._task(request.id)
        wanted = m.CheckpointOptions()
        if request.options is not None and request.options.type_url.endswith("containerd.runc.v1.CheckpointOptions"):
            try:
                wanted = m.CheckpointOptions.decode(request.options.value)
            except DecodeError as error:
                raise RpcError(ttrpc.INVALID_ARGUMENT, f"the options are malformed: {error}") from None
        self._operate(call, lambda: operations.checkpoint(task.id, task.root, task.bundle, request.path, wanted))
        return LATER

    def update(self, call: Call, request: m.UpdateTaskRequest) -> Message:
        task = self._task(request.id)
        data = request.resources.value if request.resources else b"{}"
        self._operate(call, lambda: operations.update(task.id, task.root, data))
        return LATER

    def resize_pty(self, _call: Call, request: m.ResizePtyRequest) -> None:
        self._task(request.id).process(request.exec_id).stdio.resize(request.width, request.height)

    def close_io(self, _call: Call, request: m.CloseIORequest) -> None:
        process = self._task(request.id).process(request.exec_id)
        if request.stdin:
            process.stdio.close_stdin()

    def shutdown(self, call: Call, request: m.ShutdownRequest) -> Message:
        call.answer()
        if not self._tasks or request.now:
            self._shut_down()
        return LATER
