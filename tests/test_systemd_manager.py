# SPDX-License-Identifier: Apache-2.0
"""The connection to systemd: where its managers are, and one that misbehaves."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jeepney import Header, HeaderFields, Message, MessageType, Parser, new_error, new_method_return
from jeepney.low_level import Endianness

from pyrunc import systemd_bus
from pyrunc.cgroup_systemd import Unit
from pyrunc.errors import ContainerError, PyruncError
from pyrunc.systemd_manager import Manager
from pyrunc.systemd_properties import annotated

P = "org.systemd.property."


@pytest.mark.parametrize(("address", "paths"), [
    ("unix:path=/run/x", ["/run/x"]), ("unix:path=/a%20b,guid=1;unix:abstract=c", ["/a b", "\0c"]),
    ("tcp:host=x;unix:path=/y", ["/y"]), ("", []), ("unixexec:path=/bin/x", []), ("unix:path=/%zz", []),
])
def test_addresses(address: str, paths: list[str]) -> None:
    assert systemd_bus.parse_address(address) == paths


def test_where_managers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/s")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/r")
    assert systemd_bus.addresses(True) == [("/s", True), ("/r/bus", True), ("/r/systemd/private", False)]
    assert systemd_bus.addresses(False) == [("/run/systemd/private", False), ("/run/dbus/system_bus_socket", True)]


# Where it does, the machine `systemd` for one, tests/vm/test_systemd_vm.py has the other side.
@pytest.mark.skipif(os.path.isdir(systemd_bus.BOOTED), reason="systemd runs here")
def test_no_systemd() -> None:
    with pytest.raises(PyruncError) as caught:
        Manager(False).locate(Unit.parse(None, "x", True))
    assert str(caught.value) == ("systemd isn't running here (no /run/systemd/system) (leave out --systemd-cgroup)")


def test_jeepney_is_loaded_with_the_connection_alone() -> None:
    """All that is only about names needs no D-Bus."""
    script = "import sys; from pyrunc import cgroup_systemd as c; c.Unit.parse(None, 'x', False); " \
             "print(sorted({'jeepney', 're', 'socket', 'typing'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class Fake:
    """A systemd on a socket of its own, which does what a test says: `answers` by method."""

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, Callable[[Fake, Message], None]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.handshakes = [[b"DATA\r\n", b"OK 123\r\n"]]  # a connection each, the last for all further ones
        self.said: list[bytes] = []
        self.connections = 0
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.peer: socket.socket
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # ends accept
        self.thread.join()
        self.listener.close()

    def _serve(self) -> None:
        while True:
            try:
                self.peer, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            with self.peer, self.peer.makefile("rb") as lines, contextlib.suppress(OSError):
                self._talk(lines)

    def _talk(self, lines: io.BufferedReader) -> None:
        # Like sd-bus, which forgets what it has read together with BEGIN: who waits for an answer to it is told none.
        said = self.peer.recv(65536)
        self.said.append(said)
        answers = self.handshakes.pop(0) if len(self.handshakes) > 1 else self.handshakes[0]
        for answer in answers:
            self.peer.sendall(answer)
        if not said.endswith(b"\r\nBEGIN\r\n"):
            self.said.append(self.peer.recv(65536))
        parser = Parser()
        while data := lines.read1(65536):
            for message in parser.feed(data):
                method = message.header.fields[HeaderFields.member]
                self.calls.append((method, message.body))
                self.answers.get(method, Fake.nothing)(self, message)

    def nothing(self, message: Message) -> None:
        self.reply(message)

    def reply(self, message: Message, signature: str = "", *body: object) -> None:
        self.peer.sendall(new_method_return(message, signature or None, body).serialise(serial=1))

    def error(self, message: Message, name: str, text: str) -> None:
        self.peer.sendall(new_error(message, name, "s", (text,)).serialise(serial=1))

    def job_removed(self, job: str, result: str) -> None:
        header = Header(Endianness.little, MessageType.signal, 0, 1, -1, 1, {
            HeaderFields.path: systemd_bus.OBJECT, HeaderFields.interface: systemd_bus.MANAGER,
            HeaderFields.member: "JobRemoved", HeaderFields.signature: "uoss"})
        self.peer.sendall(Message(header, (1, job, "some.unit", result)).serialise(serial=1))

    def hang_up(self, message: Message) -> None:
        self.peer.shutdown(socket.SHUT_RDWR)


def started(result: str = "done", before: bool = False) -> Callable[[Fake, Message], None]:
    def answer(fake: Fake, message: Message) -> None:
        if before:
            fake.job_removed("/job/7", result)
        fake.job_removed("/job/6", "failed")  # somebody else's
        fake.reply(message, "o", "/job/7")
        if not before:
            fake.job_removed("/job/7", result)
    return answer


def refused(name: str, text: str) -> Callable[[Fake, Message], None]:
    return lambda fake, message: fake.error(message, name, text)


def in_turn(*answers: Callable[[Fake, Message], None]) -> Callable[[Fake, Message], None]:
    left = list(answers)
    return lambda fake, message: (left.pop(0) if len(left) > 1 else left[0])(fake, message)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    fake = Fake(tmp_path / "private")
    monkeypatch.setattr(systemd_bus, "BOOTED", str(tmp_path))
    monkeypatch.setattr(systemd_bus, "addresses", lambda user: [(str(fake.path), False)])
    yield fake
    fake.close()


UNIT = Unit.parse("a.slice:p:n", "x", False)


def start(seconds: float = 10, **given: Any) -> None:
    with Manager(False) as manager:
        manager.start(UNIT, [7], mode="unified", seconds=seconds, **given)


@pytest.mark.parametrize("before", [False, True], ids=["signal after the reply", "signal before the reply"])
def test_start(fake: Fake, before: bool) -> None:
    fake.answers["StartTransientUnit"] = started(before=before)
    start(properties=[*annotated({P + "TimeoutStopSec": "1"}), ("TasksMax", ("t", 5))])
    assert fake.said == [b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"]
    ((method, (name, mode, properties, others)),) = fake.calls
    assert (method, name, mode, others) == ("StartTransientUnit", "p-n.scope", "replace", [])
    assert properties == [
        ("Description", ("s", "libcontainer container n")), ("Slice", ("s", "a.slice")), ("Delegate", ("b", True)),
        ("PIDs", ("au", [7])), ("MemoryAccounting", ("b", True)), ("CPUAccounting", ("b", True)),
        ("IOAccounting", ("b", True)), ("TasksAccounting", ("b", True)), ("DefaultDependencies", ("b", False)),
        ("TimeoutStopUSec", ("t", 1000000)), ("TasksMax", ("t", 5))]


def test_start_on_v1(fake: Fake) -> None:
    fake.answers["StartTransientUnit"] = started()
    with Manager(False) as manager:
        manager.start(UNIT, [7], mode="hybrid")
    assert ("BlockIOAccounting", ("b", True)) in fake.calls[0][1][2]


def test_an_old_bus_wants_the_uid(fake: Fake) -> None:
    """In a connection of its own: it has closed the first one, or will do."""
    fake.handshakes = [[b"REJECTED EXTERNAL\r\n"], [b"OK 1\r\n"]]
    fake.answers["StartTransientUnit"] = started()
    start()
    uid = str(os.geteuid()).encode().hex().encode()
    assert fake.said[1:] == [b"\0AUTH EXTERNAL %b\r\nBEGIN\r\n" % uid]


@pytest.mark.parametrize(("answers", "message"), [
    ([b"REJECTED\r\n"], "it was rejected"), ([b"DATA\r\n", b"REJECTED\r\n"], "it was rejected"),
    ([b"ERROR what\r\n"], "'ERROR what'"), ([b"DATA\r\n", b"DATA\r\n"], "'DATA'"),
])
def test_a_handshake_that_fails(fake: Fake, answers: list[bytes], message: str) -> None:
    fake.handshakes = [answers]
    with pytest.raises(PyruncError, match=f"systemd can't be reached: .*private: authentication failed: {message}"):
        start()


@pytest.mark.parametrize("result", ["failed", "timeout", "canceled"])
def test_a_job_that_fails_is_taken_back(fake: Fake, result: str) -> None:
    fake.answers["StartTransientUnit"] = started(result)
    with pytest.raises(ContainerError) as caught:
        start()
    assert str(caught.value) == (f"systemd can't make p-n.scope: its job's result is '{result}' "
                                 "(see: journalctl -u p-n.scope)")
    assert [name for name, _ in fake.calls] == ["StartTransientUnit", "StopUnit", "ResetFailedUnit"]


def test_a_job_without_an_end(fake: Fake) -> None:
    fake.answers["StartTransientUnit"] = lambda fake, message: fake.reply(message, "o", "/job/7")
    begun = time.monotonic()
    with pytest.raises(ContainerError, match=r"systemd can't make p-n.scope: it didn't answer within 0.5 s"):
        start(0.5)
    assert 0.4 < time.monotonic() - begun < 3
    assert [name for name, _ in fake.calls] == ["StartTransientUnit", "StopUnit", "ResetFailedUnit"]


def test_no_answer_at_all(fake: Fake) -> None:
    """Other messages don't put the end off."""
    def chatter(fake: Fake, message: Message) -> None:
        for number in range(100):
            fake.job_removed(f"/job/{number}", "done")
            time.sleep(0.02)
    fake.answers["StartTransientUnit"] = chatter
    begun = time.monotonic()
    with pytest.raises(ContainerError, match=r"systemd can't make p-n.scope: it didn't answer within 0.5 s"):
        start(0.5)
    assert time.monotonic() - begun < 4


def test_nobody_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue is tried again for a while."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(0)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    for each in waiting:
        each.setblocking(False)
        each.connect_ex(str(tmp_path / "s"))
    monkeypatch.setattr(systemd_bus, "BOOTED", str(tmp_path))
    monkeypatch.setattr(systemd_bus, "addresses", lambda user: [(str(tmp_path / "s"), False)])
    begun = time.monotonic()
    with pytest.raises(PyruncError, match=r"systemd can't be reached: .*/s: (nobody takes the connec|no answer)"):
        start(0.5)
    assert 0.4 < time.monotonic() - begun < 3
    for each in (*waiting, listener):
        each.close()


EXISTS = "org.freedesktop.systemd1.UnitExists"


def test_a_unit_that_has_failed_makes_room(fake: Fake) -> None:
    fake.answers["StartTransientUnit"] = in_turn(refused(EXISTS, "there"), started())
    start()
    assert [(name, body[0]) for name, body in fake.calls] == [
        ("StartTransientUnit", "p-n.scope"), ("ResetFailedUnit", "p-n.scope"), ("StartTransientUnit", "p-n.scope")]


def test_a_unit_that_stays(fake: Fake) -> None:
    fake.answers["StartTransientUnit"] = refused(EXISTS, "Unit p-n.scope already exists.")
    with pytest.raises(ContainerError, match=r"/linux/cgroupsPath: systemd can't make p-n\.scope: there is one"):
        start()
    assert [name for name, _ in fake.calls] == ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]


def test_a_refusal_is_passed_on(fake: Fake) -> None:
    fake.answers["StartTransientUnit"] = refused("org.freedesktop.DBus.Error.AccessDenied", "Access denied")
    with pytest.raises(ContainerError, match=r"^systemd can't make p-n.scope: Access denied$"):
        start()


def test_a_lost_connection_is_made_anew(fake: Fake) -> None:
    """The first start may have been heard: then the unit with our process is it, and no error."""
    fake.answers["StartTransientUnit"] = in_turn(Fake.hang_up, started())
    fake.answers["GetUnitByPID"] = refused("org.freedesktop.systemd1.NoUnitForPID", "none")
    start()
    assert fake.connections == 2
    fake.answers["StartTransientUnit"] = Fake.hang_up
    fake.answers["GetUnitByPID"] = lambda fake, message: fake.reply(message, "o", UNIT.object_path())
    start()
    assert fake.connections == 4


def test_a_connection_lost_while_the_job_runs(fake: Fake) -> None:
    def answer(fake: Fake, message: Message) -> None:
        fake.reply(message, "o", "/job/7")
        time.sleep(0.1)
        fake.hang_up(message)
    fake.answers["StartTransientUnit"] = answer
    fake.answers["Get"] = in_turn(lambda fake, message: fake.reply(message, "v", ("s", "activating")),
                                  lambda fake, message: fake.reply(message, "v", ("s", "active")))
    start()
    assert [name for name, _ in fake.calls] == ["StartTransientUnit", "Get", "Get"]


def test_a_connection_that_stays_lost(fake: Fake) -> None:
    fake.answers["StartTransientUnit"] = fake.answers["GetUnitByPID"] = Fake.hang_up
    begun = time.monotonic()
    with pytest.raises(ContainerError, match=r"systemd can't make p-n\.scope: the connection was closed"):
        start()
    assert time.monotonic() - begun < 5


def test_set_and_undo(fake: Fake) -> None:
    """In the order of their names, as systemd reads the drop-ins that they become; lists replace what is there."""
    before = {"TasksMax": ("t", 4), "DeviceAllow": ("a(ss)", [("/dev/null", "r")]), "IODeviceWeight": ("a(st)", [])}
    fake.answers["Get"] = lambda fake, message: fake.reply(message, "v", before[message.body[1]])
    with Manager(False) as manager:
        undo = manager.set(UNIT, [("TasksMax", ("t", 5)), ("IODeviceWeight", ("a(st)", [("/dev/block/8:0", 7)])),
                                  ("DeviceAllow", ("a(ss)", [])), ("DeviceAllow", ("a(ss)", [("x", "m")]))], undo=True)
        undo()
        manager.set(UNIT, [])
    assert [body for name, body in fake.calls if name == "SetUnitProperties"] == [
        ("p-n.scope", True, [("DeviceAllow", ("a(ss)", [])), ("DeviceAllow", ("a(ss)", [("x", "m")])),
                             ("IODeviceWeight", ("a(st)", [("/dev/block/8:0", 7)])), ("TasksMax", ("t", 5))]),
        ("p-n.scope", True, [("DeviceAllow", ("a(ss)", [])), ("DeviceAllow", ("a(ss)", [("/dev/null", "r")])),
                             ("IODeviceWeight", ("a(st)", [])), ("TasksMax", ("t", 4))])]


def test_stop(fake: Fake) -> None:
    fake.answers["StopUnit"] = started()
    with Manager(False) as manager:
        manager.stop(UNIT)
        assert [name for name, _ in fake.calls] == ["StopUnit", "ResetFailedUnit"]
        fake.answers["StopUnit"] = refused("org.freedesktop.systemd1.NoSuchUnit", "not loaded")
        manager.stop(UNIT)
        fake.answers["StopUnit"] = lambda fake, message: fake.reply(message, "o", "/job/9")
        with pytest.raises(ContainerError, match=r"systemd hasn't stopped p-n.scope within 0.3 s"):
            manager.stop(UNIT, 0.3)


def test_version(fake: Fake) -> None:
    fake.answers["Get"] = lambda fake, message: fake.reply(message, "v", ("s", "v256.4-1~deb13u1"))
    with Manager(False) as manager:
        assert (manager.version, manager.version) == (256, 256)
    assert len(fake.calls) == 1
