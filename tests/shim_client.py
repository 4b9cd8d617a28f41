# SPDX-License-Identifier: Apache-2.0
"""containerd's side of the shim, for tests at the level of the protocol: it starts shims, calls them, takes events."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pyrunc_shim import messages as m
from pyrunc_shim import ttrpc
from pyrunc_shim.codec import Message
from pyrunc_shim.messages import Request, Response
from pyrunc_shim.ttrpc import RpcError

SHIM = Path(sys.prefix) / "bin" / "containerd-shim-pyrunc-v1"
NAMESPACE = "shim-tests"
WAIT = 60.0
SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Process"

M = TypeVar("M", bound=Message)


class Events:
    """A server that takes what shims forward; `seen` has (topic, event) in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[tuple[str, Message]] = []
        self.namespaces: set[str] = set()
        self.refuse = 0  # so many calls are answered with an error first
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._forwarded(connection)
            except OSError:  # its shim was killed
                pass

    def _forwarded(self, connection: socket.socket) -> None:
        decoder = ttrpc.Decoder()
        while data := connection.recv(65536):
            for frame in decoder.feed(data):
                request = Request.decode(frame.data)
                assert (request.service, request.method) == ("containerd.services.events.ttrpc.v1.Events", "Forward")
                if self.refuse:
                    self.refuse -= 1
                    connection.sendall(ttrpc.encode_error(frame.stream, RpcError(ttrpc.UNAVAILABLE, "not now")))
                    continue
                envelope = m.ForwardRequest.decode(request.payload).envelope
                assert envelope is not None and envelope.event is not None
                self.namespaces |= {envelope.namespace, *(pair.value for pair in request.metadata)}
                name = envelope.event.type_url.removeprefix("containerd.events.")
                self.seen.append((envelope.topic, getattr(m, name).decode(envelope.event.value)))
                connection.sendall(ttrpc.encode_response(frame.stream, b""))

    def topics(self, container_id: str) -> list[str]:
        """The topics of a container's events, in order, without the `/tasks/` before them."""
        return [topic.removeprefix("/tasks/") for topic, event in list(self.seen)
                if event.container_id == container_id]  # type: ignore[attr-defined]

    def wait(self, container_id: str, topic: str, count: int = 1) -> Any:
        """The last of `count` events of that topic."""
        deadline = time.monotonic() + WAIT
        while True:
            found = [event for name, event in list(self.seen) if name == f"/tasks/{topic}"
                     and event.container_id == container_id]  # type: ignore[attr-defined]
            if len(found) >= count:
                return found[count - 1]
            assert time.monotonic() < deadline, (topic, self.topics(container_id))
            time.sleep(0.01)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Shim:
    """One that was started, and a connection to it."""

    def __init__(self, address: str, service: str = "containerd.task.v2.Task") -> None:
        self.address = address
        self.service = service
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(WAIT)
        self._socket.connect(address.removeprefix("unix://"))
        self._decoder = ttrpc.Decoder()
        self._stream = 1
        self._answers: dict[int, Response] = {}
        self.order: list[int] = []  # in which they came

    def send(self, method: str, request: Message, timeout: float = 0) -> int:
        """Call without waiting; the number to `receive` with."""
        stream = self._stream
        self._stream += 2
        self._socket.sendall(ttrpc.encode_request(stream, self.service, method, request.encode(), timeout=timeout))
        return stream

    def receive(self, stream: int, cls: type[M]) -> M:
        """The answer.  Raises RpcError."""
        while stream not in self._answers:
            self._read()
        answer = self._answers.pop(stream)
        if answer.status is not None and answer.status.code:
            raise RpcError(answer.status.code, answer.status.message)
        return cls.decode(answer.payload)

    def next_answer(self) -> int:
        """The number of the call that is answered next, of all that `order` doesn't hold any more."""
        while not self.order:
            self._read()
        return self.order.pop(0)

    def _read(self) -> None:
        data = self._socket.recv(65536)
        assert data, "the shim has closed the connection"
        for frame in self._decoder.feed(data):
            self._answers[frame.stream] = Response.decode(frame.data)
            self.order.append(frame.stream)

    def call(self, method: str, request: Message, cls: type[M]) -> M:
        return self.receive(self.send(method, request), cls)

    def do(self, method: str, request: Message) -> None:
        """A call whose answer is empty."""
        assert self.call(method, request, m.Empty) == m.Empty()

    # What tests do most

    def create(self, container_id: str, bundle: Path, root: Path, **more: Any) -> int:
        options = m.Options(root=str(root), **more.pop("options", {}))
        request = m.CreateTaskRequest(id=container_id, bundle=str(bundle), options=m.Any(
            type_url="containerd.runc.v1.Options", value=options.encode()), **more)
        return self.call("Create", request, m.CreateTaskResponse).pid

    def start(self, container_id: str, exec_id: str = "") -> int:
        return self.call("Start", m.StartRequest(id=container_id, exec_id=exec_id), m.StartResponse).pid

    def exec(self, container_id: str, exec_id: str, process: dict[str, Any], **more: Any) -> None:
        self.do("Exec", m.ExecProcessRequest(id=container_id, exec_id=exec_id, terminal=bool(process.get("terminal")),
                                             spec=m.Any(type_url=SPEC, value=json.dumps(process).encode()), **more))

    def wait(self, container_id: str, exec_id: str = "") -> int:
        return self.call("Wait", m.WaitRequest(id=container_id, exec_id=exec_id), m.WaitResponse).exit_status

    def state(self, container_id: str, exec_id: str = "") -> m.StateResponse:
        return self.call("State", m.StateRequest(id=container_id, exec_id=exec_id), m.StateResponse)

    def kill(self, container_id: str, signal: int = 9, **more: Any) -> None:
        self.do("Kill", m.KillRequest(id=container_id, signal=signal, **more))

    def delete(self, container_id: str, exec_id: str = "") -> m.DeleteResponse:
        return self.call("Delete", m.DeleteRequest(id=container_id, exec_id=exec_id), m.DeleteResponse)

    def pid(self) -> int:
        """The shim's own."""
        return self.call("Connect", m.ConnectRequest(), m.ConnectResponse).shim_pid

    def close(self) -> None:
        self._socket.close()


def program(bundle: Path, container_id: str, events: Events, *words: str, stdin: bytes = b"",
            ) -> subprocess.CompletedProcess[bytes]:
    """Run the shim's program as containerd does."""
    return subprocess.run(
        [SHIM, "-namespace", NAMESPACE, "-address", str(events.path) + ".grpc", "-publish-binary", "/bin/false",
         "-id", container_id, *words], cwd=bundle, input=stdin, capture_output=True, timeout=WAIT,
        env={"PATH": os.environ["PATH"], "TTRPC_ADDRESS": str(events.path), "GOMAXPROCS": "2"})


def end_templates() -> None:
    """Those that the tests' shims have left behind (template.py), also one that isn't ready yet."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                program, *words = Path(f"/proc/{entry}/cmdline").read_text().split("\0")
                ours = program == str(SHIM) or program.startswith(tempfile.gettempdir())
                if ours and program.endswith(SHIM.name) and words[0] == "template":
                    os.kill(int(entry), 9)
            except (OSError, IndexError):
                continue  # gone meanwhile, or something else


def fifos(directory: Path, names: Iterable[str] = ("stdin", "stdout", "stderr")) -> dict[str, str]:
    """Fifos for a request's streams."""
    made = {name: str(directory / name) for name in names}
    for path in made.values():
        os.mkfifo(path)
    return made


def read_all(path: str, into: list[bytes]) -> threading.Thread:
    """Read a fifo to its end in a thread."""

    def read() -> None:
        with open(path, "rb") as file:
            into.append(file.read())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
