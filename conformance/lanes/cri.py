# SPDX-License-Identifier: Apache-2.0
"""The Container Runtime Interface, as a kubelet speaks it: gRPC over a socket, through curl, without the libraries.

A message is a dict from field number to value (k8s.io/cri-api, runtime/v1/api.proto); the numbers used are below.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conformance import image
from conformance.checks import wait_for
from conformance.errors import Failed
from conformance.lanes.base import Lane

Message = dict[int, Any]
CREATED, RUNNING, EXITED = 0, 1, 2
POD, CONTAINER, NAMESPACE_NODE, TARGET = range(4)  # NamespaceMode
UNCONFINED = 1
NODE_NETWORK = {1: NAMESPACE_NODE}


def encode(message: Message) -> bytes:
    """Protocol buffers: ints, text, bytes, messages, and lists of these."""
    made = b""
    for number, value in message.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, int):
                made += _varint(number << 3) + _varint(each & (1 << 64) - 1)
            else:
                data = encode(each) if isinstance(each, dict) else each.encode() if isinstance(each, str) else each
                made += _varint(number << 3 | 2) + _varint(len(data)) + data
    return made


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def decode(data: bytes) -> dict[int, list[Any]]:
    """Field number to its values: ints, and bytes that may be text or a message."""
    found: dict[int, list[Any]] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        size = 8 if key & 7 == 1 else 4 if key & 7 == 5 else varint()
        if key & 7 == 0:
            found.setdefault(key >> 3, []).append(size)
        else:
            found.setdefault(key >> 3, []).append(data[at:at + size])
            at += size
    return found


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def text(message: dict[int, list[Any]], number: int) -> str:
    return message[number][0].decode() if number in message else ""


class CriLane(Lane, ABC):
    """A client that speaks CRI."""

    cri: Cri
    place: Path  # in it `plugins` and `cni`, the directory of networks
    node = "127.0.0.1"  # where the host ports of pods are found

    @abstractmethod
    def runtime_of(self, pod: Pod) -> object:
        """Which runtime a pod has."""

    @abstractmethod
    def uses(self, network: str) -> bool:
        """Whether that is the network of the next pod."""


class Cri:
    """The runtime service behind `socket`; pods are run by `handler`, a RuntimeClass's.

    `pid` is the NamespaceMode for processes of pods that don't choose; a kubelet's is CONTAINER.
    """

    def __init__(self, lane: Lane, socket: Path, handler: str, pid: int = POD) -> None:
        self.lane = lane
        self.socket = socket
        self.handler = handler
        self.pid = pid
        self.logs = lane.scratch / "pods"

    def call(self, method: str, message: Message) -> dict[int, list[Any]]:
        """One call.  Raises Failed with the service's words."""
        request, answer, head = (self.lane.scratch / self.lane.name(kind) for kind in ("request", "answer", "head"))
        data = encode(message)
        request.write_bytes(struct.pack(">BI", 0, len(data)) + data)
        answer.write_bytes(b"")
        self.lane.must("curl", "-sS", "--http2-prior-knowledge", "--unix-socket", self.socket, "-X", "POST",
                       "-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", f"@{request}",
                       "-D", head, "-o", answer, f"http://localhost/runtime.v1.RuntimeService/{method}")
        fields = dict(line.split(": ", 1) for line in head.read_text().splitlines() if ": " in line)
        if fields.get("grpc-status") != "0":
            raise Failed(f"{method}: {fields.get('grpc-message', fields)}")
        return decode(answer.read_bytes()[5:])

    def choose(self, options: Message) -> Message:
        """NamespaceOption, with the default."""
        return {2: self.pid, **options}

    def wait(self) -> None:
        """Until it answers, which takes longer than until its socket is there."""

        def answers() -> bool:
            try:
                self.call("ListPodSandbox", {})
            except Failed:
                return False
            return True

        wait_for(answers, "CRI to be spoken")

    @contextmanager
    def pod(self, security: Message | None = None, ports: list[Message] | None = None,
            more: Message | None = None) -> Iterator[Pod]:
        pod = Pod(self, self.lane.name("pod"), security or {}, ports or [], more or {})
        yield pod
        self.remove(pod.id)

    def remove(self, pod_id: str) -> None:
        self.call("StopPodSandbox", {1: pod_id})
        self.call("RemovePodSandbox", {1: pod_id})

    def clean(self) -> None:
        for item in self.call("ListPodSandbox", {}).get(1, []):
            self.remove(text(decode(item), 1))


class Pod:
    """A pod sandbox."""

    def __init__(self, cri: Cri, name: str, security: Message, ports: list[Message], more: Message) -> None:
        self.cri = cri
        self.config: Message = {
            1: {1: name, 2: f"uid-{name}", 3: "default", 4: 0},  # metadata
            2: "" if NODE_NETWORK.items() <= security.get(1, {}).items() else name,  # hostname
            3: str(cri.logs / name),  # log_directory
            5: ports,  # port_mappings
            8: {2: {**security, 1: cri.choose(security.get(1, {}))}},  # linux.security_context
            **more,
        }
        (cri.logs / name).mkdir(parents=True)
        self.logs = cri.logs / name
        self.id = text(cri.call("RunPodSandbox", {1: self.config, 2: cri.handler}), 1)

    def address(self) -> str:
        status = decode(self.cri.call("PodSandboxStatus", {1: self.id})[1][0])
        return text(decode(status[5][0]), 1)  # network.ip

    def container(self, *command: str, security: Message | None = None, resources: Message | None = None,
                  mounts: list[Message] | None = None, environment: dict[str, str] | None = None,
                  more: Message | None = None, start: bool = True) -> Container:
        name = self.cri.lane.name()
        security = {**(security or {}), 3: self.cri.choose((security or {}).get(3, {}))}
        config: Message = {
            1: {1: name, 2: 0}, 2: {1: image.NAME}, 3: list(command or ("sleep", "1000")),
            6: [{1: key, 2: value} for key, value in (environment or {}).items()], 7: mounts or [],
            11: f"{name}.log", 15: {1: resources or {}, 2: security}, **(more or {}),
        }
        made = self.cri.call("CreateContainer", {1: self.id, 2: config, 3: self.config})
        container = Container(self, name, text(made, 1))
        if start:
            self.cri.call("StartContainer", {1: container.id})
        return container


class Container:
    """A container of a pod."""

    def __init__(self, pod: Pod, name: str, container_id: str) -> None:
        self.pod = pod
        self.name = name
        self.id = container_id

    def exec(self, *command: str, seconds: int = 30) -> tuple[int, str]:
        """(exit code, what it printed)."""
        done = self.pod.cri.call("ExecSync", {1: self.id, 2: list(command), 3: seconds})
        return signed(int(done.get(3, [0])[0])), (text(done, 1) + text(done, 2)).strip()

    def sh(self, script: str) -> str:
        return self.exec("sh", "-c", script)[1]

    def status(self) -> dict[int, list[Any]]:
        return decode(self.pod.cri.call("ContainerStatus", {1: self.id})[1][0])

    def state(self) -> int:
        return int(self.status().get(3, [CREATED])[0])

    def wait(self) -> int:
        """Its exit code."""
        wait_for(lambda: self.state() == EXITED, f"{self.name} to exit")
        return int(self.status().get(7, [0])[0])

    def log(self) -> str:
        """What it has printed."""
        lines = (self.pod.logs / f"{self.name}.log").read_text().splitlines()
        return "\n".join(line.split(" ", 3)[3] for line in lines)
