# SPDX-License-Identifier: Apache-2.0
"""CRIU, which takes a process tree to files and back: `criu swrk`, spoken to as its images/rpc.proto says.

Requests and answers are protobuf messages, one a packet, on a socketpair.  Between the request and
its answer criu tells at what point it is, and waits for a word each time (`Notify`).
"""

from __future__ import annotations

import os
import select
from _socket import MSG_CMSG_CLOEXEC, SCM_RIGHTS, SHUT_WR, SOL_SOCKET, socket
from _struct import calcsize, iter_unpack, pack
from fcntl import F_DUPFD_CLOEXEC, fcntl

from .errors import PyruncError, UsageError, from_data, kernel_error
from .linux.fs import socketpair
from .linux.process import close_from, reset_signals
from .spec.load import dump, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import NoReturn

    #: A varint (a bool too), text, or a message within the message: its fields.
    Value = int | str | tuple[tuple[int, int | str], ...]
    #: Called with the point's name, the pid it is about (0: none), and a descriptor that came along (-1: none).
    Notify = Callable[[str, int, int], None]

# criu_req_type
DUMP = 1
RESTORE = 2
PRE_DUMP = 4
NOTIFY = 6
FEATURE_CHECK = 9
VERSION = 10

#: The members of criu_opts that are used, and their numbers.
OPTIONS = {
    "images_dir_fd": 1, "pid": 2, "leave_running": 3, "ext_unix_sk": 4, "tcp_established": 5, "evasive_devices": 6,
    "shell_job": 7, "file_locks": 8, "log_level": 9, "log_file": 10, "ps": 11, "notify_scripts": 12, "root": 13,
    "parent_img": 14, "track_mem": 15, "auto_dedup": 16, "work_dir_fd": 17, "link_remap": 18, "ext_mnt": 23,
    "manage_cgroups": 24, "cg_root": 25, "rst_sibling": 26, "inherit_fd": 27, "manage_cgroups_mode": 34,
    "external": 37, "empty_ns": 38, "join_ns": 39, "freeze_cgroup": 44, "tcp_skip_in_flight": 46, "lazy_pages": 48,
    "orphan_pts_master": 50, "config_file": 51, "lsm_profile": 53, "lsm_mount_context": 63,
}
#: criu_features.
FEATURES = {"mem_track": 1, "lazy_pages": 2}
#: criu_cg_mode; "" is criu's own default.
CGROUP_MODES = {"ignore": 0, "soft": 3, "full": 4, "strict": 5, "": 6}

LOG_LEVEL = 4  # everything: it is read only when something fails
FIRST_FD = 4  # what is handed to criu comes after its standard streams and the socket
_SOCKET = 3
_READY = b"ready"
_MAX_ANSWER = 1 << 20
_OLDEST = 30000  # 3.0, the first that tells its version this way
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OUT_OF_THE_WAY = 64  # above the numbers that the child arranges
_LOG_TAIL = 1 << 20
_ERRORS_SHOWN = 3
_GRACE = 10000  # milliseconds


# The wire: protobuf's encoding, of the three wire types that these messages have.


def encode(fields: Iterable[tuple[int, Value]]) -> bytes:
    """The message of these (number, value) pairs; a repeated field is several of them."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            # A negative int32 or enum is sign-extended to 64 bits.
            parts += [_varint(number << 3), _varint(int(value) & 0xFFFFFFFFFFFFFFFF)]
        else:
            data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else encode(value)
            parts += [_varint(number << 3 | 2), _varint(len(data)), data]
    return b"".join(parts)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Message:
    """A decoded message; of a field that comes several times the last one counts, as protobuf has it."""

    __slots__ = ("fields",)

    def __init__(self, data: bytes) -> None:
        """Raises PyruncError if `data` is no message."""
        self.fields: dict[int, int | bytes] = {}
        position = 0
        while position < len(data):
            key, position = _read_varint(data, position)
            if key & 7 == 0:
                self.fields[key >> 3], position = _read_varint(data, position)
                continue
            size = {1: 8, 5: 4}.get(key & 7)
            if key & 7 == 2:
                size, position = _read_varint(data, position)
            if size is None or position + size > len(data):
                raise _malformed()
            self.fields[key >> 3] = data[position : position + size]
            position += size

    def number(self, field: int) -> int:
        """An int32, uint32, enum or bool; 0 if it isn't there."""
        value = self.fields.get(field, 0)
        if not isinstance(value, int):
            raise _malformed()
        return value - (1 << 64) if value >> 63 else value

    def bytes(self, field: int) -> bytes:
        value = self.fields.get(field, b"")
        if isinstance(value, int):
            raise _malformed()
        return value

    def text(self, field: int) -> str:
        return self.bytes(field).decode("utf-8", "surrogateescape")

    def message(self, field: int) -> Message:
        return Message(self.bytes(field))


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
    raise _malformed()


def _malformed() -> PyruncError:
    return PyruncError("criu sent a malformed message")


def request(kind: int, options: Mapping[str, Value | list[Value]] | None = None) -> bytes:
    """A criu_req of that type with these options; a list is a repeated field."""
    fields: list[tuple[int, Value]] = [(1, kind)]
    data = encode(fields)
    if options is not None:
        members: list[tuple[int, Value]] = []
        for name, value in options.items():
            for item in value if isinstance(value, list) else [value]:
                members.append((OPTIONS[name], item))
        inner = encode(members)
        data += _varint(2 << 3 | 2) + _varint(len(inner)) + inner
    return data


# The program


def find(path: str = "") -> str:
    """criu's program: `path`, else what PATH has (or where it is installed).  Raises PyruncError."""
    if path:
        if not os.access(path, os.X_OK) or os.path.isdir(path):
            raise UsageError(f"--criu {path}: no such program")
        return os.path.abspath(path)
    # A caller may have no PATH, or one without the administrator's programs.
    for directory in (os.environ.get("PATH", "") + ":" + _PATH).split(":"):
        candidate = f"{directory}/criu"
        if directory.startswith("/") and os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
    raise PyruncError("criu is not installed", hint="install the package criu, or give its place with --criu")


class Criu:
    """One `criu swrk`, which serves one request.

    `fds` become its descriptors from FIRST_FD on, after those that `prepare` returns, which runs in the
    process before it becomes criu; what it raises is raised here.  `stdin` is its standard input.
    """

    __slots__ = ("_said", "_socket", "_watched", "pid")

    def __init__(self, program: str, *, fds: Sequence[int] = (), stdin: int = -1,
                 prepare: Callable[[], Sequence[int]] | None = None) -> None:
        self.pid = 0
        self._socket: socket | None = None
        self._watched = -1
        self._said = os.memfd_create("criu", os.MFD_CLOEXEC)  # what it writes before it has its log
        ours, theirs = socketpair()
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            streams = [null if stdin < 0 else stdin, self._said, self._said]
            try:
                self.pid = os.fork()
            except OSError as error:
                raise kernel_error("fork", error) from None
            if self.pid == 0:
                _become_criu(program, streams, fds, theirs, prepare)
            os.close(theirs)
            theirs = -1
            self._await(ours)
        except BaseException:
            self.close()
            raise
        finally:
            for fd in (ours, theirs, null):
                if fd >= 0:
                    os.close(fd)

    def _await(self, control: int) -> None:
        """Take the socket that the process has made, and wait for its execve."""
        connection = socket(fileno=os.dup(control))
        try:
            while True:
                data, fds = _receive(connection)
                for fd in fds:
                    self._socket = socket(fileno=fd)
                if not data:
                    break
                if data != _READY:
                    error = parse(data, "what the process said")
                    raise from_data(error if isinstance(error, dict) else {})
        finally:
            connection.close()
        if self._socket is None:
            raise PyruncError(f"the process that becomes criu ended with {_how(self.wait())}")

    def call(self, message: bytes, notify: Notify | None = None) -> Message:
        """Send the request and answer what comes until its answer comes (success or not).

        An exception of `notify` makes criu give up, and is raised when it has.  Raises PyruncError
        when criu ends without an answer.
        """
        failure: Exception | None = None
        connection = self._socket
        assert connection is not None
        try:
            connection.send(message)
            while True:
                self._wait_for_word(connection)
                data, fds = _receive(connection)
                if not data:
                    raise EOFError
                answer = Message(data)
                if answer.number(1) != NOTIFY:
                    break
                point = answer.message(5)
                try:
                    if notify is not None and failure is None:
                        notify(point.text(1), point.number(2), fds[0] if fds else -1)
                except (PyruncError, OSError) as error:
                    failure = error
                finally:
                    for fd in fds:
                        os.close(fd)
                connection.send(encode([(1, NOTIFY), (3, failure is None)]))
        except (BrokenPipeError, ConnectionResetError, EOFError):
            status = self.wait()
            raise failure or PyruncError(f"criu ended with {_how(status)}{self._last_words()}") from None
        if failure is not None:
            raise failure
        return answer

    def watch(self, pid: int) -> None:
        """Take it that criu fails if `pid`, which it is restoring, ends: it may not find its own way out then."""
        if self._watched >= 0:
            os.close(self._watched)
        self._watched = os.pidfd_open(pid)

    def _wait_for_word(self, connection: socket) -> None:
        poller = select.poll()
        poller.register(connection, select.POLLIN)
        if self._watched >= 0:
            poller.register(self._watched, select.POLLIN)
        ready = [fd for fd, _ in poller.poll()]
        if connection.fileno() in ready:
            return
        poller.unregister(self._watched)
        if not poller.poll(_GRACE):
            raise PyruncError("criu doesn't answer, although the process that it restores has ended")

    def finish(self) -> int:
        """Tell it that nothing more comes, and wait; its exit status as os.waitstatus_to_exitcode has it."""
        try:
            if self._socket is not None:
                self._socket.shutdown(SHUT_WR)
        except OSError:
            pass  # it has gone already
        return self.wait()

    def wait(self) -> int:
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 0

    def _last_words(self) -> str:
        os.lseek(self._said, 0, os.SEEK_SET)
        found = errors_in(os.read(self._said, _LOG_TAIL).decode("utf-8", "replace"))
        return f": {found}" if found else ""

    def close(self) -> None:
        """End it if it is still there."""
        if self._socket is not None:
            self._socket.close()
        if self.pid:
            try:
                os.kill(self.pid, 9)  # our child, not waited for yet: the pid is its own
            except ProcessLookupError:
                pass
            self.wait()
        if self._watched >= 0:
            os.close(self._watched)
            self._watched = -1
        if self._said >= 0:
            os.close(self._said)
            self._said = -1

    def __enter__(self) -> Criu:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _become_criu(program: str, streams: Sequence[int], fds: Sequence[int], control: int,
                 prepare: Callable[[], Sequence[int]] | None) -> NoReturn:
    """In the child: `streams`, criu's socket and the descriptors become 0, 1, 2, …; an error goes to `control`.

    criu looks for descriptors named in a request in the process that has made its socket: made here,
    they are its own, and of its mount namespace.
    """
    try:
        first = list(prepare()) if prepare is not None else []
        ours, theirs = socketpair()
        high = [fcntl(fd, F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for fd in (*streams, theirs, *first, *fds, control, ours)]
        ours, control = high.pop(), high.pop()
        for target, fd in enumerate(high):
            os.dup2(fd, target)
        control = os.dup2(control, len(high), inheritable=False)
        connection = socket(fileno=control)
        connection.sendmsg([_READY], [(SOL_SOCKET, SCM_RIGHTS, pack("=i", ours))])
        close_from(len(high) + 1)
        reset_signals()
        # It runs tar, iptables and the like.
        os.execve(program, ["criu", "swrk", str(_SOCKET)], {"PATH": _PATH, **os.environ})
    except PyruncError as error:
        _tell(control, error)
    except OSError as error:
        _tell(control, kernel_error(f"run {program}", error))
    except BaseException as error:
        _tell(control, PyruncError(f"run {program}: {type(error).__name__}: {error}"))
    finally:
        os._exit(127)


def _tell(fd: int, error: PyruncError) -> None:
    os.write(fd, dump(error.to_data()).encode("utf-8", "surrogatepass"))


def _receive(connection: socket) -> tuple[bytes, list[int]]:
    """A packet, and the descriptors that came with it; b"" at the end."""
    data, ancillary, _, _ = connection.recvmsg(_MAX_ANSWER, 64, MSG_CMSG_CLOEXEC)
    size = calcsize("=i")
    return data, [fd for level, kind, packed in ancillary if level == SOL_SOCKET and kind == SCM_RIGHTS
                  for (fd,) in iter_unpack("=i", packed[: len(packed) // size * size])]


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


# What it can do


def version(program: str) -> int:
    """MMmmpp, as in 31701 for 3.17.1.  Raises PyruncError when it is too old or doesn't run here."""
    with Criu(program) as criu:
        answer = criu.call(request(VERSION))
        criu.finish()
    told = answer.message(10)
    if not answer.number(2) or not told.number(1):
        raise PyruncError(f"{program} doesn't tell its version", hint="criu 3.0 or later is needed")
    found = told.number(1) * 10000 + told.number(2) * 100 + told.number(4)
    need(found, _OLDEST, "checkpoints")
    return found


def need(found: int, wanted: int, what: str) -> None:
    """Raises PyruncError if criu is older than `wanted`."""
    if found < wanted:
        raise PyruncError(f"{what} need criu {_dotted(wanted)} or later, and this is {_dotted(found)}")


def _dotted(number: int) -> str:
    major, minor, patch = number // 10000, number // 100 % 100, number % 100
    return f"{major}.{minor}" + (f".{patch}" if patch else "")


def need_feature(program: str, feature: str, what: str) -> None:
    """Raises PyruncError if criu, or the kernel it runs on, lacks a feature of FEATURES."""
    with Criu(program) as criu:
        answer = criu.call(encode([(1, FEATURE_CHECK), (5, ((FEATURES[feature], 1),))]))
        criu.finish()
    if not answer.number(2) or not answer.message(8).number(FEATURES[feature]):
        raise PyruncError(f"criu can't do {what} here", hint=f"it, or this kernel, lacks {feature}")


def knows_labels(images: str) -> bool:
    """Whether the criu that wrote these images knew of a security module (inventory.img, lsmtype)."""
    try:
        with open(f"{images}/inventory.img", "rb") as file:
            data = file.read(_MAX_ANSWER)
    except OSError as error:
        raise kernel_error(f"read {images}/inventory.img", error) from None
    # Two magic numbers and the message's size, of four bytes each (criu.org/Images).
    return Message(data[12:]).number(6) != 0


# What went wrong


def failed(what: str, directory: str, log: str, answer: Message | None = None) -> PyruncError:
    """That criu has failed: the lines of its log that say why, and where the log is."""
    path = f"{directory}/{log}"
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LOG_TAIL))
            said = errors_in(file.read().decode("utf-8", "replace"))
    except OSError:
        said = ""
    said = said or (answer.text(9).strip() if answer else "")
    number = answer.number(7) if answer else 0
    return PyruncError(f"criu can't {what}" + (f": {said}" if said else ""),
                       errno=number if number > 0 and not said else 0, hint=f"criu's log: {path}")


def errors_in(text: str) -> str:
    """The last errors in a log of criu's: the last alone often tells only that it gives up."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        _, mark, rest = line.partition("Error (")
        if mark:
            found.pop(rest.strip(), None)
            found[rest.strip()] = None
    return "; ".join("Error (" + line for line in list(found)[-_ERRORS_SHOWN:])
