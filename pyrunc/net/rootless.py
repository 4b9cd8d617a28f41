# SPDX-License-Identifier: Apache-2.0
"""An ordinary user's network: pasta or slirp4netns, a process of the user's that carries packets in and out.

It is started by a poststart hook: before its program runs, a container's process lets nobody look at its namespaces.
"""

from __future__ import annotations

import os
import select

from pyrunc.errors import NetworkError, kernel_error
from pyrunc.paths import make_private
from pyrunc.spec.load import dump
from pyrunc.state import own_in_tmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence

    from .model import Publish
else:
    import _signal  # what `signal` wraps; that one costs importing enum

PROGRAMS = ("pasta", "slirp4netns")
_PLACES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_READY = 20_000  # milliseconds


def is_ordinary() -> bool:
    return os.geteuid() != 0


def find(name: str = "") -> str:
    """The path of the program: `name`, or the first that is installed.  Raises NetworkError."""
    for wanted in (name,) if name else PROGRAMS:
        for place in _PLACES:
            if os.access(f"{place}/{wanted}", os.X_OK):
                return f"{place}/{wanted}"
    raise NetworkError(f"an ordinary user's network needs {name or 'pasta or slirp4netns'}, which is not installed",
                       hint="install the package passt or slirp4netns")


def _record(container: str) -> str:
    """Where the process's pid and start time are kept."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = runtime if runtime.startswith("/") else own_in_tmp(f"/tmp/pyrunc-net-{os.geteuid()}")
    directory = f"{base}/pyrunc-net"
    make_private(directory)
    if os.stat(directory, follow_symlinks=False).st_uid != os.geteuid():
        raise NetworkError(f"{directory} is another user's")
    return f"{directory}/{container}"


def attach(container: str, pid: int, program: str, ports: Sequence[Publish]) -> None:
    """Start the program for the process's namespaces; it has set them up when this returns.  Raises NetworkError."""
    path = find(program)
    record = _record(container)
    start = _pasta if os.path.basename(path) == "pasta" else _slirp
    found = start(path, pid, ports, record)
    with open(record, "w") as file:
        file.write(f"{found} {_start_time(found)}\n")


def detach(container: str) -> None:
    """End it; no harm if it has ended."""
    record = _record(container)
    try:
        with open(record) as file:
            pid, started = map(int, file.read().split())
    except (OSError, ValueError):
        return
    try:
        pidfd = os.pidfd_open(pid)
        try:
            if _start_time(pid) == started:  # else another process's by now
                _signal.pidfd_send_signal(pidfd, _signal.SIGTERM)
        finally:
            os.close(pidfd)
    except OSError:
        pass
    os.unlink(record)


def _start_time(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _pasta(path: str, pid: int, ports: Sequence[Publish], record: str) -> int:
    """It goes into the background by itself, when all is set up."""
    specs: dict[str, list[str]] = {"tcp": [], "udp": []}
    for port in ports:
        if port.protocol not in specs:
            raise NetworkError(f"pasta has no {port.protocol}", hint="tcp and udp")
        if not port.host:
            raise NetworkError(f"port {port.container}: pasta has to be told the port of the host")
        last = port.host + port.count - 1
        host = f"{port.host_ip}/{port.host}" if port.host_ip else f"{port.host}"
        specs[port.protocol].append(f"{host}-{last}:{port.container}-{port.container + port.count - 1}")
    words = [path, "--quiet", "--config-net", "--no-map-gw", "--pid", f"{record}.pid", "-T", "none", "-U", "none"]
    for option, wanted in (("-t", specs["tcp"]), ("-u", specs["udp"])):
        for spec in wanted or ["none"]:
            words += [option, spec]
    status, said = _run([*words, str(pid)])
    if status:
        raise NetworkError(f"pasta: {said or f'exit status {status}'}")
    with open(f"{record}.pid") as file:
        found = int(file.read())
    os.unlink(f"{record}.pid")
    return found


def _run(words: list[str]) -> tuple[int, str]:
    said = os.memfd_create("said", os.MFD_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        spawned = os.posix_spawn(words[0], words, dict(os.environ), file_actions=[
            (os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, said, 1), (os.POSIX_SPAWN_DUP2, said, 2)],
            setsigdef=[_signal.SIGPIPE])  # pasta takes it amiss when that is ignored
        status = os.waitstatus_to_exitcode(os.waitpid(spawned, 0)[1])
        return status, " ".join(os.pread(said, 4096, 0).decode("utf-8", "backslashreplace").split())
    except OSError as error:
        raise kernel_error(f"run {words[0]}", error) from None
    finally:
        os.close(said)
        os.close(null)


def _slirp(path: str, pid: int, ports: Sequence[Publish], record: str) -> int:
    """It stays as our child until we end, and says on a pipe when it is ready; ports are asked for on its socket."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    api = f"{record}.sock"
    words = [path, "--configure", "--enable-ipv6", "--disable-host-loopback", "--mtu=65520", "--ready-fd=3",
             f"--api-socket={api}", "--userns-path", f"/proc/{pid}/ns/user", str(pid), "tap0"]
    try:
        found = os.posix_spawn(path, words, dict(os.environ), setsid=True, setsigdef=[_signal.SIGPIPE], file_actions=[
            *((os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1)), (os.POSIX_SPAWN_DUP2, writer, 3)])
        os.close(writer)
        writer = -1
        poller = select.poll()
        poller.register(reader, select.POLLIN)
        if not poller.poll(_READY) or os.read(reader, 1) != b"1":
            raise NetworkError("slirp4netns did not come up", hint="does it work with `podman --network slirp4netns`?")
        try:
            for port in ports:
                _slirp_port(api, port)
        except BaseException:
            os.kill(found, _signal.SIGTERM)
            raise
        return found
    finally:
        for fd in (reader, writer, null):
            if fd >= 0:
                os.close(fd)


def _slirp_port(api: str, port: Publish) -> None:
    from _socket import AF_UNIX, SOCK_STREAM, socket

    for at in range(port.count):
        asked = socket(AF_UNIX, SOCK_STREAM)
        try:
            asked.connect(api)
            asked.send(dump({"execute": "add_hostfwd", "arguments": {
                "proto": port.protocol, "host_addr": port.host_ip or "0.0.0.0", "host_port": port.host + at,
                "guest_port": port.container + at}}).encode())
            asked.shutdown(1)
            said = asked.recv(4096).decode("utf-8", "replace")
        finally:
            asked.close()
        if '"error"' in said:
            raise NetworkError(f"slirp4netns can't publish port {port.host + at}/{port.protocol}: {said.strip()}")
