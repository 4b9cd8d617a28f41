# SPDX-License-Identifier: Apache-2.0
"""`run` and `exec` in the foreground: wait, relay a terminal and signals; the exit code is the program's.

Unlike the rest of the library this takes over the process: it handles its signals and reaps its
children, as a command may.
"""

from __future__ import annotations

import os
import select

from .errors import ContainerError, ContainerNotFound, PyruncError, UsageError
from .lifecycle import Container
from .linux import process as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable

    from .lifecycle import Report
    from .options import CreateOptions, ExecOptions
    from .restore import RestoreOptions
    from .spec.types import Config, Process
    from .streams import Streams
    from .terminal import Watched
else:
    import _signal  # what `signal` wraps; that one costs importing enum

# What a shell does with jobs in the background is done to us; glibc keeps 32 and 33.
_UNHANDLED = frozenset((_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGTTIN, _signal.SIGTTOU, 32, 33))
_NOT_FORWARDED = frozenset((_signal.SIGCHLD, _signal.SIGURG, _signal.SIGWINCH))
_GIVE_UP = frozenset((_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM))


class GivenUp(BaseException):
    """A signal that ends programs came before there was one to forward it to."""

    def __init__(self, number: int) -> None:
        self.number = number


def run(bundle: str, container_id: str, root: str, options: Callable[[int], CreateOptions], *, detach: bool,
        keep: bool, subreaper: bool, console_socket: str, notify_socket: str, report: Report) -> int:
    """Run a container; its exit code (128 + the signal that ended it), 0 with `detach`."""
    _check_console(console_socket, detach)
    if subreaper and not detach:
        # What the container leaves behind comes to us to be reaped, not to the host's init.
        k.prctl(k.PR_SET_CHILD_SUBREAPER, 1)
    ours = theirs = -1
    streams = None
    config = None if detach else _config_of(bundle)
    process = config.get("process") if config is not None else None
    if config is not None and process is not None:
        if process.get("terminal"):
            from .terminal import console_pair

            ours, theirs = console_pair()
        else:
            streams = _streams(process, config)
    signals = Signals() if not detach else None
    try:
        container = Container.create(bundle, container_id, root, options(theirs), report)
    finally:
        _give_back(streams)
    if theirs >= 0:
        os.close(theirs)
    # A failed start has deleted the container already.
    if signals is None:
        if notify_socket:
            from . import notify

            notify.start(container, notify_socket)
        else:
            container.start()
        return 0
    try:
        others: dict[int, Callable[[], bool]] = {}
        relay = None
        if notify_socket:
            from .notify import relay_for

            # We are the service's main process: it lives as long as we do.
            relay = relay_for(container, notify_socket, os.getpid())
        if relay is not None:
            others[relay.fd] = relay.receive
        if streams is not None:
            others.update(streams.watched())
        status = _attend(container.pid, ours, signals, others, container.start)
        if relay is not None:
            relay.finish()
    except BaseException:
        _abandon(container)
        raise
    finally:
        if streams is not None:
            streams.finish()
        signals.restore()
    if not keep:
        _delete(container)
    return status


def restore(bundle: str, container_id: str, root: str, options: Callable[[int], CreateOptions],
            images: RestoreOptions, *, detach: bool, subreaper: bool, console_socket: str, report: Report) -> int:
    """Restore a container, which runs then, and go on as `run` does."""
    from . import restore as restoring

    _check_console(console_socket, detach)
    if detach:
        restoring.restore(bundle, container_id, root, options(-1), images, report)
        return 0
    if subreaper:
        k.prctl(k.PR_SET_CHILD_SUBREAPER, 1)
    config = _config_of(bundle)
    process = config.get("process") if config is not None else None
    ours = theirs = -1
    streams = None
    if config is not None and process is not None:
        if process.get("terminal"):
            from .terminal import console_pair

            ours, theirs = console_pair()
        else:
            streams = _streams(process, config)
    signals = Signals()
    try:
        container = restoring.restore(bundle, container_id, root, options(theirs), images, report)
    finally:
        _give_back(streams)
    if theirs >= 0:
        os.close(theirs)
    try:
        status = _attend(container.pid, ours, signals, streams.watched() if streams is not None else {})
    except BaseException:
        _abandon(container)
        raise
    finally:
        if streams is not None:
            streams.finish()
        signals.restore()
    _delete(container)
    return status


def _delete(container: Container) -> None:
    try:
        container.delete(force=True)
    except ContainerNotFound:
        pass  # a checkpoint has ended and deleted it


def execute(container: Container, wanted: Process, options: Callable[[int], ExecOptions], *, detach: bool,
            console_socket: str) -> int:
    """exec: start the process in the container; its exit code (128 + the signal that ended it), 0 with `detach`."""
    from . import execution

    _check_console(console_socket, detach)
    ours = theirs = -1
    streams = None
    if not detach and wanted.get("terminal"):
        from .terminal import console_pair

        ours, theirs = console_pair()
    elif not detach:
        streams = _streams(wanted, container.config)
    signals = Signals() if not detach else None
    pid = 0
    try:
        how = options(theirs)
        if signals is not None:
            how.watched = (signals.fd, signals.look)
        try:
            pid = execution.start(container, wanted, how)
        except GivenUp as given_up:
            return 128 + given_up.number
        finally:
            _give_back(streams)
        if signals is not None:
            signals.put_back()
        if theirs >= 0:
            os.close(theirs)
        others = streams.watched() if streams is not None else {}
        return 0 if signals is None else _attend(pid, ours, signals, others)
    except BaseException:
        if pid and signals is not None and signals.status is None:
            os.kill(pid, _signal.SIGKILL)  # not reaped: the pid is its own
        raise
    finally:
        if streams is not None:
            streams.finish()
        if signals is not None:
            signals.restore()


def _check_console(console_socket: str, detach: bool) -> None:
    if console_socket and not detach:
        # runc's words; clients match them.
        raise UsageError("cannot use console socket if runc will not detach or allocate tty",
                         hint="add --detach, or leave out --console-socket")


def _abandon(container: Container) -> None:
    """Nobody attends to it any more: away with it, where a failed start has not done that already."""
    if container.directory.fd >= 0:
        try:
            container.delete(force=True)
        except PyruncError as error:
            container.report("warning", f"cleaning up: {error}")


def _config_of(bundle: str) -> Config | None:
    """Its configuration; a bundle that can't be read is left to create, which says why."""
    from . import bundle as bundles

    try:
        return bundles.load(bundle).config
    except PyruncError:
        return None


def _streams(process: Process, config: Config) -> Streams | None:
    """What stands between the process and our terminal, or the journal, where it has to (streams.py)."""
    if not any(map(_may_be_relayed, (1, 2))):
        return None
    from .streams import Streams, owner_of

    streams = Streams(owner_of(process, config))
    return streams if streams.pipes else None


def _may_be_relayed(fd: int) -> bool:
    """A terminal or a socket."""
    try:
        return os.isatty(fd) or os.fstat(fd).st_mode & 0o170000 == 0o140000
    except OSError:
        return False  # closed


def _give_back(streams: Streams | None) -> None:
    if streams is not None:
        streams.give_back()
        streams.finish()  # our own warnings, for now


def _attend(pid: int, socket_fd: int, signals: Signals, others: Watched,
            start: Callable[[], None] | None = None) -> int:
    """Forward signals to `pid` until it ends; its exit code.

    Where there is a socket its terminal's master comes over it, and is relayed to ours.  `others`: what
    is to be called when a descriptor is readable, for as long as that returns true.
    """
    if socket_fd < 0:
        if start is not None:
            start()
        return signals.wait(pid, others)
    from .terminal import Terminal, receive_descriptor

    master = receive_descriptor(socket_fd)
    os.close(socket_fd)
    with Terminal(master) as terminal:
        if start is not None:
            start()

        def handle(numbers: bytes) -> bool:
            signals.handle(pid, numbers)
            return signals.status is not None

        terminal.relay(signals.fd, handle, others)
        return signals.wait(pid, others)


class Signals:
    """Our signals as bytes on a descriptor, forwarded to the init; its exit status when it is reaped."""

    __slots__ = ("_early", "_mask", "_saved", "_write", "fd", "status")

    def __init__(self) -> None:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.status: int | None = None
        self._early = b""
        self._saved = {}
        _signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in range(1, 65):
            if number in _UNHANDLED:
                continue
            # Python ignores SIGPIPE; a write error is told as one.
            if number != _signal.SIGPIPE:
                self._saved[number] = _signal.signal(number, _noted)
        # A caller may have had some blocked; without SIGCHLD we would wait for ever.
        self._mask = _signal.pthread_sigmask(_signal.SIG_SETMASK, ())

    def restore(self) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)
        _signal.set_wakeup_fd(-1)
        for number, handler in self._saved.items():
            _signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._write)

    def look(self) -> None:
        """What has arrived, before there is a process to forward it to.  Raises GivenUp for what ends one."""
        numbers = os.read(self.fd, 512)
        for number in numbers:
            if number in _GIVE_UP:
                raise GivenUp(number)
        self._early = (self._early + numbers)[-512:]

    def put_back(self) -> None:
        """What has been looked at is to be handled now."""
        if self._early:
            os.write(self._write, self._early)

    def handle(self, pid: int, numbers: bytes) -> None:
        """Forward what arrived; reap whatever has exited."""
        for number in numbers:
            if number in _NOT_FORWARDED:
                continue
            try:
                if self.status is None:  # not reaped: the pid is still the init's
                    os.kill(pid, number)
            except ProcessLookupError:
                pass
        self.reap(pid)

    def reap(self, pid: int) -> None:
        while True:
            try:
                reaped, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                if self.status is None:
                    raise ContainerError("the container's init was reaped by somebody else") from None
                return
            if reaped == 0:
                return
            if reaped == pid:
                code = os.waitstatus_to_exitcode(status)
                self.status = 128 - code if code < 0 else code

    def wait(self, pid: int, others: Watched) -> int:
        """Until the init has exited; its exit code."""
        poller = select.poll()
        for fd in (self.fd, *others):
            poller.register(fd, select.POLLIN)
        self.reap(pid)
        while self.status is None:
            for fd, _ in poller.poll():
                if fd == self.fd:
                    self.handle(pid, os.read(self.fd, 512))
                elif not others[fd]():
                    poller.unregister(fd)
        return self.status


def _noted(_number: int, _frame: object) -> None:
    """The number is on the wake-up descriptor already."""
