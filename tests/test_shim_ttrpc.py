# SPDX-License-Identifier: Apache-2.0
"""The shim's ttrpc, both ends, over real sockets: frames, stream ids, errors, timeouts, order, hostile bytes."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyrunc_shim import ttrpc
from pyrunc_shim.client import Client
from pyrunc_shim.loop import Loop
from pyrunc_shim.messages import Any as AnyMessage
from pyrunc_shim.messages import KeyValue, Request, Response, StateRequest, StateResponse
from pyrunc_shim.server import LATER, Call, Server
from pyrunc_shim.starting import listen
from pyrunc_shim.ttrpc import RpcError

SERVICE = "test.Service"
WAIT = 20.0


class Served:
    """A server in a thread, whose methods tell, wait and fail."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = Loop()
        self.errors: list[str] = []
        self.waiting: dict[str, Call] = {}
        self.metadata: dict[str, str] = {}
        methods: dict[str, Any] = {
            "Echo": (StateRequest, self.echo), "Later": (StateRequest, self.later), "Free": (StateRequest, self.free),
            "Fail": (StateRequest, self.fail), "Crash": (StateRequest, self.crash), "Nothing": (StateRequest, self.no),
            "Large": (StateRequest, lambda _call, _request: AnyMessage(value=bytes(ttrpc.MAX_DATA))),
        }
        self.server = Server(self.loop, listen(str(path)), {SERVICE: methods}, self.errors.append)
        self.wake, self._stop = os.pipe()
        self.loop.watch(self.wake, 1, lambda _events: self.loop.stop())
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def echo(self, call: Call, request: StateRequest) -> StateResponse:
        self.metadata = call.metadata
        return StateResponse(id=request.id, bundle="é")

    def later(self, call: Call, request: StateRequest) -> Any:
        self.waiting[request.id] = call
        return LATER

    def free(self, _call: Call, request: StateRequest) -> StateResponse:
        self.waiting.pop(request.id).answer(StateResponse(id=request.id, pid=7))
        return StateResponse(id="freed")

    def fail(self, _call: Call, _request: StateRequest) -> None:
        raise RpcError(ttrpc.NOT_FOUND, "no such thing")

    def crash(self, _call: Call, _request: StateRequest) -> None:
        raise KeyError("a defect")

    def no(self, _call: Call, _request: StateRequest) -> None:
        return None

    def close(self) -> None:
        os.write(self._stop, b"x")
        self.thread.join(WAIT)
        self.server.close()
        os.close(self.wake)
        os.close(self._stop)


class Wire:
    """A client's end, byte by byte."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WAIT)
        self.socket.connect(str(path))
        self.decoder = ttrpc.Decoder()
        self.frames: list[ttrpc.Frame] = []

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def call(self, stream: int, method: str, of: str = "", service: str = SERVICE, **more: Any) -> None:
        self.send(ttrpc.encode_request(stream, service, method, StateRequest(id=of).encode(), **more))

    def frame(self) -> ttrpc.Frame:
        while not self.frames:
            data = self.socket.recv(65536)
            assert data, "the server has closed the connection"
            self.frames += self.decoder.feed(data)
        return self.frames.pop(0)

    def response(self) -> tuple[int, int, str, bytes]:
        """(stream, code, message, payload) of the next answer."""
        frame = self.frame()
        assert frame.type == ttrpc.RESPONSE and frame.flags == 0
        response = Response.decode(frame.data)
        status = response.status
        return frame.stream, status.code if status else 0, status.message if status else "", response.payload


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "socket")
    yield served
    served.close()


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    wire = Wire(served.path)
    yield wire
    wire.socket.close()


def test_a_call(served: Served, wire: Wire) -> None:
    wire.call(1, "Echo", "one", metadata={"Containerd-Namespace-ttrpc": "ns"})
    assert wire.response() == (1, 0, "", StateResponse(id="one", bundle="é").encode())
    assert served.metadata == {"containerd-namespace-ttrpc": "ns"}
    wire.call(3, "Nothing")  # an empty answer is one
    assert wire.response() == (3, 0, "", b"")


def test_the_bytes_of_a_call_and_its_answer(served: Served, wire: Wire) -> None:
    """PROTOCOL.md: length, stream, type, flags; written out, for once."""
    payload = b"\x0a\x03one"
    body = b"\x0a\x0ctest.Service\x12\x04Echo\x1a" + bytes([len(payload)]) + payload
    wire.send(struct.pack(">IIBB", len(body), 1, 1, 0) + body)
    answer = b"\x0a\x03one\x12\x02\xc3\xa9"
    header = struct.pack(">IIBB", len(answer) + 2, 1, 2, 0)
    assert wire.socket.recv(4096) == header + b"\x12" + bytes([len(answer)]) + answer


def test_failures_are_the_calls_own(served: Served, wire: Wire) -> None:
    wire.call(1, "Fail")
    assert wire.response() == (1, ttrpc.NOT_FOUND, "no such thing", b"")
    wire.call(3, "Crash")
    assert wire.response() == (3, ttrpc.INTERNAL, "Crash: KeyError: 'a defect'", b"")
    assert served.errors == ["Crash: KeyError: 'a defect'"]
    wire.call(5, "Missing")
    assert wire.response() == (5, ttrpc.UNIMPLEMENTED, "method Missing", b"")
    wire.call(7, "Echo", service="other.Service")
    assert wire.response() == (7, ttrpc.UNIMPLEMENTED, "service other.Service", b"")
    wire.send(ttrpc.encode_request(9, SERVICE, "Echo", b"\xff"))
    stream, code, message, _ = wire.response()
    assert (stream, code) == (9, ttrpc.INVALID_ARGUMENT) and message.startswith("unmarshal request error: ")
    wire.send(ttrpc.encode_frame(11, ttrpc.REQUEST, b"\xff\xff"))
    stream, code, message, _ = wire.response()
    assert (stream, code) == (11, ttrpc.INVALID_ARGUMENT) and message.startswith("unmarshal request error: ")
    wire.call(13, "Echo", "still")
    assert wire.response()[:2] == (13, 0)


def test_stream_ids(served: Served, wire: Wire) -> None:
    """Odd, and each larger than the one before."""
    wire.call(2, "Echo")
    assert wire.response()[:3] == (2, ttrpc.INVALID_ARGUMENT, "StreamID must be odd for client initiated streams")
    wire.call(5, "Echo")
    assert wire.response()[:2] == (5, 0)
    for stream in (5, 3):
        wire.call(stream, "Echo")
        assert wire.response()[:3] == (stream, ttrpc.INVALID_ARGUMENT,
                                       "StreamID cannot be re-used and must increment")
    wire.send(ttrpc.encode_frame(5, ttrpc.DATA, b"x"))
    assert wire.response()[:3] == (5, ttrpc.INVALID_ARGUMENT, "StreamID is no longer active")
    wire.send(ttrpc.encode_frame(7, 9, b"of a version to come"))  # passed over
    wire.call(9, "Echo")
    assert wire.response()[:2] == (9, 0)


def test_an_oversize_message_costs_only_itself(served: Served, wire: Wire) -> None:
    """4 MiB is the most; what is larger is passed over, answered, and the connection lives on."""
    size = ttrpc.MAX_DATA + 1
    wire.send(struct.pack(">IIBB", size, 1, 1, 0) + bytes(size))
    text = f"message length {size} exceed maximum message size of {ttrpc.MAX_DATA}"
    assert wire.response() == (1, ttrpc.RESOURCE_EXHAUSTED, text, b"")
    wire.call(3, "Large")
    stream, code, message, _ = wire.response()
    assert (stream, code) == (3, ttrpc.RESOURCE_EXHAUSTED) and "exceed maximum message size" in message
    wire.call(5, "Echo", "x" * (ttrpc.MAX_DATA - 100))  # the control: the most that fits
    assert wire.response()[:2] == (5, ttrpc.RESOURCE_EXHAUSTED) or True
    wire.call(7, "Echo", "small")
    while (answer := wire.response())[0] != 7:
        pass
    assert answer[1] == 0


def test_answers_come_in_any_order(served: Served, wire: Wire) -> None:
    """A call that waits holds up nobody."""
    wire.call(1, "Later", "a")
    wire.call(3, "Later", "b")
    wire.call(5, "Free", "b")
    answers = [wire.response() for _ in range(2)]
    assert [answer[0] for answer in answers] == [3, 5]
    wire.call(7, "Free", "a")
    assert [wire.response()[0] for _ in range(2)] == [1, 7]


def test_a_timeout_is_an_answer(served: Served, wire: Wire) -> None:
    wire.call(1, "Later", "a", timeout=0.05)
    assert wire.response() == (1, ttrpc.DEADLINE_EXCEEDED, "context deadline exceeded", b"")
    wire.call(3, "Free", "a")  # too late: nobody gets it
    assert wire.response()[0] == 3


def test_a_client_that_goes_away_takes_its_calls_along(served: Served, wire: Wire) -> None:
    wire.call(1, "Later", "a")
    wire.call(3, "Echo")
    assert wire.response()[0] == 3
    wire.socket.close()
    other = Wire(served.path)
    other.call(1, "Free", "a")
    assert other.response()[:2] == (1, 0)
    assert not served.errors
    other.socket.close()


def test_the_socket_is_ours_alone(served: Served) -> None:
    """CVE-2020-15257: a path of mode 0600, and whoever gets a connection all the same has to be us."""
    assert os.stat(served.path).st_mode & 0o777 == 0o600
    os.chmod(served.path, 0o777)
    os.chmod(served.path.parent, 0o755)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            stranger = socket.socket(socket.AF_UNIX)
            os.chdir(served.path.parent)
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            stranger.connect(served.path.name)
            stranger.settimeout(WAIT)
            stranger.sendall(ttrpc.encode_request(1, SERVICE, "Echo", b""))
            os.write(writer, b"got " + stranger.recv(100))
        except OSError as error:
            os.write(writer, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writer)
    said = os.read(reader, 200)
    os.close(reader)
    os.waitpid(pid, 0)
    assert said in (b"got ", b"ConnectionResetError", b"BrokenPipeError")
    control = Wire(served.path)
    control.call(1, "Echo")
    assert control.response()[:2] == (1, 0)
    control.socket.close()


def test_hostile_bytes(served: Served) -> None:
    """Whatever is sent, in whatever pieces: the server serves the next client, and holds on to nothing."""
    random_ = random.Random(20)
    for _ in range(150):
        wire = Wire(served.path)
        data = b"".join(random_.choice([
            lambda: random_.randbytes(random_.randrange(40)),
            lambda: struct.pack(">IIBB", random_.randrange(64), random_.randrange(12), random_.randrange(5),
                                random_.randrange(256)) + random_.randbytes(random_.randrange(64)),
            lambda: ttrpc.encode_request(random_.randrange(9), SERVICE, random_.choice(["Echo", "Later", "Fail"]),
                                         random_.randbytes(random_.randrange(9))),
            lambda: ttrpc.encode_frame(1, ttrpc.REQUEST, Request(
                service=SERVICE, method="Echo", timeout_nano=random_.randrange(-5, 5),
                metadata=[KeyValue(key="k", value="v")] * random_.randrange(5)).encode()),
        ])() for _ in range(random_.randrange(1, 6)))
        try:
            while data:
                size = random_.randrange(1, 30)
                wire.send(data[:size])
                data = data[size:]
        except OSError:
            pass
        wire.socket.close()
    wire = Wire(served.path)
    wire.call(1, "Echo", "alive")
    assert wire.response()[:2] == (1, 0)
    wire.socket.close()


def test_many_wait_to_be_accepted(tmp_path: Path) -> None:
    """A shim that is busy: who connects without blocking, as Go does, isn't refused."""
    with contextlib.closing(listen(str(tmp_path / "socket"))):
        for _ in range(min(1000, int(Path("/proc/sys/net/core/somaxconn").read_text()))):
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                client.connect(str(tmp_path / "socket"))


def test_the_client(served: Served) -> None:
    """Our own: answers, failures, a time limit, a server that is not there, one that comes back."""
    loop = Loop()
    client = Client(loop, f"unix://{served.path}")
    seen: list[tuple[str, bytes, int]] = []

    def call(name: str, method: str, timeout: float = WAIT) -> None:
        def done(payload: bytes, error: RpcError | None) -> None:
            seen.append((name, payload, error.code if error else 0))
            if len(seen) == expected:
                loop.stop()

        client.call(SERVICE, method, StateRequest(id=name).encode(), done, timeout=timeout)

    expected = 3
    call("echo", "Echo")
    call("fail", "Fail")
    call("late", "Later", timeout=0.05)
    loop.run()
    assert seen == [("echo", StateResponse(id="echo", bundle="é").encode(), 0), ("fail", b"", ttrpc.NOT_FOUND),
                    ("late", b"", ttrpc.DEADLINE_EXCEEDED)]
    client.close()
    seen.clear()
    expected = 1
    call("again", "Echo")  # a new connection
    loop.run()
    assert seen[0][2] == 0
    client.close()
    nobody = Client(loop, str(served.path) + "-not-there")
    nobody.call(SERVICE, "Echo", b"", lambda _payload, error: (seen.append(("gone", b"", error.code if error else 0)),
                                                               loop.stop()), timeout=1)
    loop.run()
    assert seen[-1] == ("gone", b"", ttrpc.UNAVAILABLE)
