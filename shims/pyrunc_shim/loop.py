# SPDX-License-Identifier: Apache-2.0
"""An event loop on epoll(7): descriptors, timers, children.

asyncio would serve, but costs five times the start of the whole shim.  One thread: what takes time is
done in processes (worker.py), and forking is safe only so.
"""

from __future__ import annotations

import heapq
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable

    Ready = Callable[[int], object]
else:
    import _signal  # what `signal` wraps; that one costs importing enum

IN, OUT, ERR, HUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR, select.EPOLLHUP


class Timer:
    """Something to be done later, unless `cancel` comes first."""

    __slots__ = ("action", "due")

    def __init__(self, due: float, action: Callable[[], object]) -> None:
        self.due = due
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        self.action = None

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due


class Loop:
    """`run` calls back until `stop`."""

    __slots__ = ("_epoll", "_handlers", "_signals", "_timers", "_wake", "on_child", "on_error", "running")

    def __init__(self) -> None:
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._handlers: dict[int, Ready] = {}
        self._timers: list[Timer] = []
        self.running = False
        self._signals: dict[int, Callable[[], object]] = {}
        self._wake = (-1, -1)
        self.on_error: Callable[[Exception], object] | None = None  # without one, a defect ends `run`
        self.on_child: Callable[[int, int], object] = lambda _pid, _status: None

    def watch(self, fd: int, events: int, ready: Ready) -> None:
        """Call `ready(events)` when they happen on `fd`; ERR and HUP always count."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = ready

    def forget(self, fd: int) -> None:
        """No more of `fd`; to be called before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, action: Callable[[], object]) -> Timer:
        """Call `action()` in so many seconds."""
        timer = Timer(time.monotonic() + seconds, action)
        heapq.heappush(self._timers, timer)
        return timer

    def signals(self, actions: dict[int, Callable[[], object]]) -> None:
        """Call an action when its signal comes; SIGCHLD's is the loop's own: `on_child(pid, status)`."""
        self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        self._signals = {**actions, _signal.SIGCHLD: self._reap}
        for number in self._signals:
            _signal.signal(number, lambda _number, _frame: None)
        self.watch(self._wake[0], IN, self._signalled)

    def _signalled(self, _events: int) -> None:
        numbers = os.read(self._wake[0], 4096)
        for number in sorted(set(numbers)):
            if number in self._signals:
                self._signals[number]()

    def _reap(self) -> None:
        """Whoever has exited: ours, and what was orphaned in our containers (we are their subreaper)."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self.on_child(pid, status)

    def stop(self) -> None:
        self.running = False

    def run(self) -> None:
        self.running = True
        while True:
            now = time.monotonic()
            while self._timers and (self._timers[0].action is None or self._timers[0].due <= now):
                action = heapq.heappop(self._timers).action
                if action is not None:
                    self._call(action)
            if not self.running:  # an action has stopped it
                return
            wait = max(self._timers[0].due - time.monotonic(), 0.0) if self._timers else -1
            for fd, events in self._epoll.poll(wait):
                handler = self._handlers.get(fd)  # an earlier one may have forgotten it
                if handler is not None:
                    self._call(handler, events)

    def _call(self, action: Callable[..., object], *arguments: int) -> None:
        try:
            action(*arguments)
        except Exception as error:
            if self.on_error is None:
                raise
            self.on_error(error)

    def drop(self) -> None:
        """In a forked child: let go of the loop; its descriptors are closed with all the others."""
        _signal.set_wakeup_fd(-1)
        for number in self._signals:
            _signal.signal(number, _signal.SIG_DFL)
        self._handlers.clear()
        self._timers.clear()
