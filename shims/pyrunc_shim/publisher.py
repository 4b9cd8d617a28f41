# SPDX-License-Identifier: Apache-2.0
"""Events to containerd (containerd.services.events.ttrpc.v1.Events, Forward), in order, each tried a few times."""

from __future__ import annotations

import time

from .client import Client
from .messages import Any, Envelope, ForwardRequest, Timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .codec import Message
    from .loop import Loop
    from .ttrpc import RpcError

_SERVICE = "containerd.services.events.ttrpc.v1.Events"
_TIMEOUT = 5.0  # seconds, as the reference
_TRIES = 5
_MAX_QUEUE = 2048
_TOPICS = {"TaskCreate": "/tasks/create", "TaskStart": "/tasks/start", "TaskExit": "/tasks/exit",
           "TaskDelete": "/tasks/delete", "TaskOOM": "/tasks/oom", "TaskExecAdded": "/tasks/exec-added",
           "TaskExecStarted": "/tasks/exec-started", "TaskPaused": "/tasks/paused", "TaskResumed": "/tasks/resumed",
           "TaskCheckpointed": "/tasks/checkpointed"}
NAMESPACE_HEADER = "containerd-namespace-ttrpc"


def now() -> Timestamp:
    """The time, as protobuf has it."""
    seconds, nanos = divmod(time.time_ns(), 10**9)
    return Timestamp(seconds=seconds, nanos=nanos)


class Publisher:
    """The next event is sent when the one before has been taken, or given up."""

    __slots__ = ("_client", "_idle", "_loop", "_namespace", "_on_error", "_queue", "_sending")

    def __init__(self, loop: Loop, address: str, namespace: str, on_error: Callable[[str], object]) -> None:
        self._loop = loop
        self._client = Client(loop, address)
        self._namespace = namespace
        self._on_error = on_error
        self._queue: list[tuple[bytes, int]] = []
        self._sending = False
        self._idle: list[Callable[[], object]] = []

    def publish(self, event: Message) -> None:
        """Tell containerd, soon."""
        name = type(event).__name__
        envelope = Envelope(timestamp=now(), namespace=self._namespace, topic=_TOPICS[name],
                            event=Any(type_url=f"containerd.events.{name}", value=event.encode()))
        if len(self._queue) >= _MAX_QUEUE:
            self._on_error(f"more than {_MAX_QUEUE} events wait: one of {envelope.topic} is dropped")
            return
        self._queue.append((ForwardRequest(envelope=envelope).encode(), 0))
        self._next()

    def _next(self) -> None:
        if self._sending:
            return
        if not self._queue:
            idle, self._idle = self._idle, []
            for action in idle:
                action()
            return
        self._sending = True
        self._client.call(_SERVICE, "Forward", self._queue[0][0], self._done, timeout=_TIMEOUT,
                          metadata={NAMESPACE_HEADER: self._namespace})

    def _done(self, _payload: bytes, error: RpcError | None) -> None:
        data, tries = self._queue[0]
        tries += 1
        if error is not None and tries < _TRIES:
            self._queue[0] = (data, tries)
            self._loop.later(tries if tries > 1 else 0, self._again)  # the first time the connection may just be old
            return
        if error is not None:
            self._on_error(f"an event is lost: {error.message}")
        del self._queue[0]
        self._again()

    def _again(self) -> None:
        self._sending = False
        self._next()

    def when_idle(self, action: Callable[[], object]) -> None:
        """Call `action()` when all that waits has been sent."""
        self._idle.append(action)
        self._next()

    def close(self) -> None:
        self._client.close()
