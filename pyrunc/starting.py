# SPDX-License-Identifier: Apache-2.0
"""start: the init, which waits on its fifo, is let go, and becomes the program (runtime.md, Start)."""

from __future__ import annotations

import os
import select

from . import state as states
from .errors import ContainerError, PyruncError, from_data, kernel_error
from .hooks import hooks_of, run_hooks
from .spec.load import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    from .lifecycle import Container

    Released = tuple[int, int, bytes]  # the fifo, a pidfd of the init, the name it had
else:
    import _signal  # what `signal` wraps; that one costs importing enum

_MAX_SAID = 1 << 20  # bytes of an error
_TINY_MEMORY = 1 << 20  # bytes of memory.limit with which execve itself may not come off
_EXECVE_MILLISECONDS = 50  # for it to be killed


def start(container: Container, released: Released | None = None) -> None:
    """Have the init, which waits, execute the program; the caller has the lock.  Raises PyruncError.

    `released`: the launcher has let it go already (launcher/start.c).
    """
    if released is None:
        _check(container)
        released = _release(container)
    try:
        _wait(container, *released)
        run_hooks("poststart", hooks_of(container.config, "poststart"), container.hook_state("running", container.pid),
                  pointer="/hooks/poststart", cwd=(container.data or {}).get("bundle"), report=container.progress)
    except OSError as error:
        failure = kernel_error("start the container", error)
        _abandon(container, failure)
        raise failure from None
    except PyruncError as error:
        _abandon(container, error)
        raise


def _check(container: Container) -> None:
    """That it can be started.  Raises ContainerError."""
    status = container.status()
    if status == "stopped" and (killed := _out_of_memory(container)):
        killed.message = f"cannot start a container that has stopped: {killed.message}"
        raise killed
    if status != "created":
        # runc's words; clients match them.
        raise ContainerError({
            "stopped": "cannot start a container that has stopped",
            "running": "cannot start an already running container",
        }.get(status, f"cannot start a container in the {status} state"))
    if not container.config.get("process"):
        raise ContainerError("cannot start a container without a process", pointer="/process")


def _release(container: Container) -> Released:
    """Open the fifo the init waits on.

    It is taken away before the init goes on (init.py waits for that), so a container never
    runs and is found `created`; if we die before, it doesn't run.
    """
    fds: list[int] = []
    try:
        fds.append(os.pidfd_open(container.pid))
        name = _name_of(container.pid)
        # Last of what may fail for want of descriptors: opened and closed again it ends the init.
        fds.append(os.open(states.FIFO, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC,
                           dir_fd=container.directory.fd))
        os.unlink(states.FIFO, dir_fd=container.directory.fd)
    except OSError as error:
        for fd in fds:
            os.close(fd)
        if isinstance(error, ProcessLookupError):
            died = ContainerError("the container's init has died")
            _abandon(container, died)
            raise died from None
        raise kernel_error("open what the container's init waits for", error) from None
    return fds[1], fds[0], name


def _wait(container: Container, fifo: int, pidfd: int, name: bytes) -> None:
    """Wait for the init's execve or its error."""
    try:
        said = _read_until_closed(fifo, pidfd)
        if said is None or (not said and _died_in_execve(container, pidfd, name)):
            raise _died_before_start(container)
    finally:
        os.close(fifo)
        os.close(pidfd)
    if said:
        error = parse(said, "init's error")
        raise from_data(error if isinstance(error, dict) else {"message": "malformed error"})


def _died_in_execve(container: Container, pidfd: int, name: bytes) -> bool:
    """Whether the init is dead without having become the program, as far as that can be seen.

    A process that is ending and still has the init's name hasn't.  And when memory.limit is tiny the kernel
    may kill it half-way: it has let go of the fifo, but not run one instruction of the program.
    """
    linux = container.config.get("linux") or {}
    if linux.get("seccomp") and states.exit_signal(container.pid) == _signal.SIGSYS and _name_of(container.pid) == name:
        return True
    memory = (linux.get("resources") or {}).get("memory") or {}
    tiny = 0 < (memory.get("limit") or 0) < _TINY_MEMORY
    if not states.is_ending(container.pid) and not (tiny and _is_dead(pidfd, _EXECVE_MILLISECONDS)):
        return False
    return _name_of(container.pid) == name or (tiny and bool(container.cgroup and container.cgroup.oom_kills()))


def _died_before_start(container: Container) -> ContainerError:
    if killed := _out_of_memory(container):
        return killed
    if (container.config.get("linux") or {}).get("seccomp") and states.exit_signal(container.pid) == _signal.SIGSYS:
        return ContainerError("the container's init was killed by its seccomp profile before it became the program",
                              pointer="/linux/seccomp", hint="execve has to be allowed, whatever its arguments")
    return ContainerError("the container's init has died before it was started")


def _out_of_memory(container: Container) -> ContainerError | None:
    """That memory.limit was too low for the init, if it was."""
    if container.cgroup is None or not container.cgroup.oom_kills():
        return None
    from .resources import out_of_memory

    return out_of_memory(container.config)


def _abandon(container: Container, cause: PyruncError) -> None:
    """Stop and destroy after a failed start; a second failure is only told."""
    container.report("debug", f"start failed, stopping the container: {cause}")
    try:
        container.kill_init()
        container.destroy()
    except PyruncError as error:
        container.report("warning", f"cleaning up after a failed start: {error}")


def _read_until_closed(fifo: int, pidfd: int) -> bytes | None:
    """What the init writes until execve (or its exit) closes the fifo; None if it died before it opened it."""
    poller = select.poll()
    poller.register(fifo, select.POLLIN)
    poller.register(pidfd, select.POLLIN)
    said = b""
    opened = False
    while True:
        events = dict(poller.poll())
        if fifo in events:
            opened = True
            chunk = os.read(fifo, 65536) if events[fifo] & select.POLLIN else b""
            if not chunk:
                return said
            said = (said + chunk)[:_MAX_SAID]
        elif pidfd in events:
            return said if opened else None


def _is_dead(pidfd: int, milliseconds: int) -> bool:
    """Whether the process is dead, or dies within that time."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(milliseconds))


def _name_of(pid: int) -> bytes:
    """proc_pid_comm(5), b"" when the process is gone; a zombie still has it."""
    try:
        fd = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 64)
    except OSError:
        return b""
    finally:
        os.close(fd)
