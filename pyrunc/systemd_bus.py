# SPDX-License-Identifier: Apache-2.0
"""A connection to a systemd manager (D-Bus Specification; org.freedesktop.systemd1(5)).

Messages are jeepney's, the socket is ours: each wait has an end, the handshake names no uid (so it
works in a user namespace, where ours isn't the one that the other side sees), and root talks to
systemd itself, so that a bus that is overloaded or restarted holds no container up.
"""

from __future__ import annotations

import os
import socket
import time

from .errors import ContainerError, PyruncError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from jeepney import Message

BOOTED = "/run/systemd/system"  # sd_booted(3)
NAME = "org.freedesktop.systemd1"
OBJECT = "/org/freedesktop/systemd1"
MANAGER = f"{NAME}.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"

_PRIVATE = "/run/systemd/private"
_SYSTEM = "/run/dbus/system_bus_socket"
_CONNECT_SECONDS = 15.0  # a busy bus lets nobody in for a while


class BusError(PyruncError):
    """What systemd, or the bus, answered instead: `name` is the D-Bus error's."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class Disconnected(PyruncError):
    """The connection is gone."""


class TimedOut(PyruncError):
    """Nothing came in time."""


def addresses(user: bool) -> list[tuple[str, bool]]:
    """The sockets to try, and whether a bus is behind them (or else systemd itself)."""
    found: list[tuple[str, bool]] = []
    if address := os.environ.get("DBUS_SESSION_BUS_ADDRESS" if user else "DBUS_SYSTEM_BUS_ADDRESS"):
        found += [(path, True) for path in parse_address(address)]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if user and runtime:
        found += [(f"{runtime}/bus", True), (f"{runtime}/systemd/private", False)]
    elif not user:
        found += [(_PRIVATE, False)] if os.geteuid() == 0 else []
        found.append((_SYSTEM, True))
    return list(dict.fromkeys(found))


def parse_address(text: str) -> list[str]:
    """The Unix sockets of a D-Bus address (`unix:path=/run/x;...`), an abstract one with NUL before it."""
    found: list[str] = []
    for entry in text.split(";"):
        transport, _, rest = entry.partition(":")
        if transport != "unix":
            continue
        for pair in rest.split(","):
            key, _, value = pair.partition("=")
            if key in ("path", "abstract"):
                head, *escaped = value.split("%")
                try:
                    raw = os.fsencode(head) + b"".join(bytes.fromhex(part[:2]) + os.fsencode(part[2:])
                                                       for part in escaped)
                except ValueError:
                    continue
                found.append(("\0" if key == "abstract" else "") + os.fsdecode(raw))
    return found


def require_booted() -> None:
    """Raises PyruncError where systemd isn't PID 1 (sd_booted(3))."""
    if not os.path.isdir(BOOTED):
        raise PyruncError(f"systemd isn't running here (no {BOOTED})", hint="leave out --systemd-cgroup")


def connect(user: bool, seconds: float = _CONNECT_SECONDS) -> Bus:
    """A connection to the system's manager or the user's own.  Raises PyruncError."""
    require_booted()
    try:
        import jeepney  # noqa: F401
    except ImportError:
        raise PyruncError("--systemd-cgroup needs the Python package jeepney", hint="pip install jeepney") from None
    tried = []
    for path, is_bus in addresses(user):
        try:
            return Bus(path, is_bus, seconds)
        except (OSError, PyruncError) as error:
            tried.append(f"{path}: {error.strerror or error if isinstance(error, OSError) else error}")
    whose = "the user's systemd" if user else "systemd"
    hint = ""
    if user:
        hint = ("a user has one after a login, with a session bus (Debian's dbus-user-session); "
                "XDG_RUNTIME_DIR or DBUS_SESSION_BUS_ADDRESS tells where; or leave out --systemd-cgroup")
        if not tried:
            tried.append("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set")
    raise PyruncError(f"{whose} can't be reached: {'; '.join(tried)}", hint=hint)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimedOut("no answer in time")
    return left


class Bus:
    """One connection.  `removed` has the jobs that are done, by their paths, with their results."""

    __slots__ = ("_parser", "_serial", "_socket", "path", "removed")

    def __init__(self, path: str, is_bus: bool, seconds: float = _CONNECT_SECONDS) -> None:
        """Raises OSError, BusError, Disconnected or TimedOut."""
        from jeepney import Parser

        deadline = time.monotonic() + seconds
        self.path = path
        self._serial = 0
        self._parser = Parser()
        self.removed: dict[str, str] = {}
        self._socket = self._open(path, deadline)
        try:
            if not self._authenticate(b"\r\nDATA", deadline):
                self._socket.close()
                self._socket = self._open(path, deadline)
                if not self._authenticate(b" " + str(os.geteuid()).encode().hex().encode(), deadline):
                    raise Disconnected("authentication failed: it was rejected")
            if is_bus:
                self._say(deadline, "Hello")
                self._say(deadline, "AddMatch", "s", f"type='signal',sender='{NAME}',path='{OBJECT}',"
                                                     f"interface='{MANAGER}',member='JobRemoved'")
                # Only for those who have asked systemd sends signals to the bus.
                self.call("Subscribe", seconds=deadline - time.monotonic())
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    @staticmethod
    def _open(path: str, deadline: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        pause = 0.05
        try:
            while True:
                connection.settimeout(_left(deadline))
                try:
                    connection.connect(path)
                    return connection
                except BlockingIOError:  # its queue is full
                    time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
                    pause *= 2
                except TimeoutError:
                    raise TimedOut("nobody takes the connection") from None
        except BaseException:
            connection.close()
            raise

    def _authenticate(self, identity: bytes, deadline: float) -> bool:
        """SASL EXTERNAL, best without an identity (`DATA` asks for the answer then): whose the socket is the other
        side asks the kernel.  Whether it was accepted (D-Bus Specification, Authentication Protocol).

        All in one write, as libsystemd does it: had systemd yet to read BEGIN, it could read a short first
        message with it, and would look at that only when another comes (sd-bus, bus_socket_read_auth).
        """
        self._send(b"\0AUTH EXTERNAL" + identity + b"\r\nBEGIN\r\n", deadline)
        line = self._line(deadline)
        if line == b"DATA":
            line = self._line(deadline)
        word = line.split(b" ")[0]
        if word not in (b"OK", b"REJECTED"):
            raise Disconnected(f"authentication failed: {line.decode('ascii', 'replace')[:60]!a}")
        return word == b"OK"

    def _line(self, deadline: float) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._receive(deadline, 1)  # what comes after it is the parser's
            if len(line) > 4096:
                raise Disconnected("authentication failed: a line without an end")
        return line[:-2]

    # Bytes

    def _wait_until(self, deadline: float) -> None:
        self._socket.settimeout(_left(deadline))

    def _send(self, data: bytes, deadline: float) -> None:
        self._wait_until(deadline)
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise TimedOut("no answer in time") from None
        except OSError as error:
            raise Disconnected(f"the connection is gone: {error.strerror}") from None

    def _receive(self, deadline: float, size: int = 65536) -> bytes:
        self._wait_until(deadline)
        try:
            data = self._socket.recv(size)
        except TimeoutError:
            raise TimedOut("no answer in time") from None
        except OSError as error:
            raise Disconnected(f"the connection is gone: {error.strerror}") from None
        if not data:
            raise Disconnected("the connection was closed")
        return data

    # Messages

    def call(self, method: str, signature: str = "", *arguments: Any, seconds: float, interface: str = MANAGER,
             path: str = OBJECT) -> tuple[Any, ...]:
        """Call a method of systemd; its answer.  Raises BusError, Disconnected or TimedOut."""
        return self._call(NAME, path, interface, method, signature, arguments, time.monotonic() + seconds)

    def _say(self, deadline: float, method: str, signature: str = "", *arguments: Any) -> None:
        name = "org.freedesktop.DBus"
        self._call(name, "/org/freedesktop/DBus", name, method, signature, arguments, deadline)

    def _call(self, destination: str, path: str, interface: str, method: str, signature: str,
              arguments: tuple[Any, ...], deadline: float) -> tuple[Any, ...]:
        from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call

        address = DBusAddress(path, bus_name=destination, interface=interface)
        self._serial += 1
        serial = self._serial
        self._send(new_method_call(address, method, signature or None, arguments).serialise(serial=serial), deadline)
        while True:
            message = self._next(deadline)
            if message.header.fields.get(HeaderFields.reply_serial) != serial:
                continue
            if message.header.message_type is MessageType.error:
                text = message.body[0] if message.body and isinstance(message.body[0], str) else ""
                name = str(message.header.fields.get(HeaderFields.error_name, ""))
                raise BusError(name, text or name)
            body: tuple[Any, ...] = message.body
            return body

    def _next(self, deadline: float) -> Message:
        """The next message; a job's end is noted on the way."""
        from jeepney import HeaderFields, MessageType

        while (message := self._parser.get_next_message()) is None:
            self._parser.add_data(self._receive(deadline))
        if (message.header.message_type is MessageType.signal
                and message.header.fields.get(HeaderFields.member) == "JobRemoved"
                and message.header.fields.get(HeaderFields.interface) == MANAGER and len(message.body) == 4):
            self.removed[message.body[1]] = message.body[3]
        return message

    def wait_for_job(self, job: str, seconds: float) -> str:
        """Its result: done, canceled, timeout, failed, dependency or skipped.  Raises TimedOut or Disconnected."""
        deadline = time.monotonic() + seconds
        while job not in self.removed:
            self._next(deadline)
        return self.removed.pop(job)

    def property(self, name: str, seconds: float, interface: str = MANAGER, path: str = OBJECT) -> tuple[str, Any]:
        """A property of an object, as (signature, value)."""
        (found,) = self.call("Get", "ss", interface, name, seconds=seconds, interface=PROPERTIES, path=path)
        signature, value = found
        return str(signature), value


def failed(what: str, error: PyruncError) -> ContainerError:
    """The error to tell, of one that came over the bus."""
    return ContainerError(f"{what}: {error.message}", hint=error.hint)
