# SPDX-License-Identifier: Apache-2.0
"""Service managers: sd_notify(3) from inside a container, and sockets passed in (sd_listen_fds(3))."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import Bundle, Host, Runtime, wait_for
from terminals import Tty

# busybox has no program that sends a datagram to a socket; this one has.
SEND = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    strcpy(address.sun_path, getenv("NOTIFY_SOCKET"));
    for (int i = 1; i < argc; i++)
        if (sendto(fd, argv[i], strlen(argv[i]), 0, (void *)&address, sizeof address) < 0)
            return perror("sendto"), 1;
    return 0;
}
"""


@pytest.fixture(scope="session")
def send(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("send") / "send"
    path.with_suffix(".c").write_text(SEND)
    subprocess.run(["cc", "-static", "-o", path, path.with_suffix(".c")], check=True)
    return path


class Manager:
    """The host's side, as systemd has it: takes messages, and closes the descriptor of a barrier."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.messages: list[list[str]] = []
        self.barriers = 0
        self.stopped, self.stop = os.pipe()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while self.socket in select.select([self.socket, self.stopped], [], [])[0]:
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, 4)
            if data == b"BARRIER=1":
                self.barriers += len(fds)
            else:
                self.messages.append(data.decode().split())
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        os.close(self.stop)
        self.thread.join()
        self.socket.close()
        os.close(self.stopped)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "NOTIFY_SOCKET": self.address}


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = str(tmp_path / "host.sock")
    manager = Manager(name if request.param == "path" else f"@{name}")
    yield manager
    manager.close()


@pytest.fixture
def service(bundle: Bundle, send: Path, host: Host) -> Callable[..., Bundle]:
    """A function that makes the bundle's program send messages to $NOTIFY_SOCKET, and go on."""
    target = bundle.rootfs / "bin" / "send"
    target.write_bytes(send.read_bytes())
    target.chmod(0o755)

    def make(*messages: str, then: str = "exec sleep 1000") -> Bundle:
        words = " ".join(f"'{message}'" for message in messages)
        return bundle.args(f"echo $NOTIFY_SOCKET; send {words} || exit 3; {then}")

    return make


def init_of(runtime: Runtime, container: str) -> int:
    return int(runtime.state(container)["pid"])


def test_run_detached_returns_when_the_service_is_ready(runtime: Runtime, manager: Manager,
                                                        service: Callable[..., Bundle]) -> None:
    """READY=1 is forwarded, and with it the init as the main process; what was sent has been worked off then."""
    bundle = service("STATUS=starting", "READY=1")
    container = runtime.new_id()
    result = runtime("run", "--detach", "--bundle", bundle.save(), container, env=manager.environment())
    assert result.code == 0 and result.lines == ["/run/notify/notify.sock"]
    assert manager.messages[-1] == ["READY=1", f"MAINPID={init_of(runtime, container)}"]
    assert manager.barriers == 1


def test_start_returns_when_the_service_is_ready(runtime: Runtime, manager: Manager, bundle: Bundle,
                                                 service: Callable[..., Bundle]) -> None:
    """create has the socket made, start, with its own $NOTIFY_SOCKET, listens on it."""
    service("READY=1", then="echo done > /tmp/done; exec sleep 1000")
    container = runtime.new_id()
    assert runtime("create", "--bundle", bundle.save(), container, env=manager.environment()).code == 0
    assert runtime("start", container, env=manager.environment()).code == 0
    assert manager.messages == [["READY=1", f"MAINPID={init_of(runtime, container)}"]]
    assert (manager.barriers, runtime.state(container)["status"]) == (1, "running")


def test_in_the_foreground_we_are_the_main_process(runtime: Runtime, manager: Manager,
                                                   service: Callable[..., Bundle]) -> None:
    """Later messages are forwarded too, while the program runs."""
    bundle = service("READY=1", "STATUS=one", "WATCHDOG=1\nSTATUS=two", then="while test ! -e /tmp/stop; do sleep 0.1; "
                     "done; exit 5")
    words = runtime.command("run", "--bundle", bundle.save(), runtime.new_id())
    running = subprocess.Popen(words, env=manager.environment(), stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    wait_for(lambda: len(manager.messages) == 3, "three messages")
    assert manager.messages == [["READY=1", f"MAINPID={running.pid}"], ["STATUS=one"], ["WATCHDOG=1", "STATUS=two"]]
    (bundle.rootfs / "tmp" / "stop").touch()
    assert running.wait(20) == 5
    assert manager.barriers == 0  # it is there as long as anybody asks


@pytest.mark.parametrize("terminal", [False, True])
def test_the_last_words_of_a_service(runtime: Runtime, manager: Manager, service: Callable[..., Bundle],
                                     terminal: bool) -> None:
    """What was said before the program ended is passed on, however soon that was."""
    words = [["READY=1"], *([f"STATUS={number}"] for number in range(50)), ["STOPPING=1"]]
    bundle = service(*(word for (word,) in words), then="exit 5")
    bundle.process["terminal"] = terminal
    tty = Tty(["env", f"NOTIFY_SOCKET={manager.address}",
               *runtime.command("run", "--bundle", bundle.save(), runtime.new_id())])
    assert tty.wait() == 5
    tty.close()
    wait_for(lambda: manager.messages[-1:] == [["STOPPING=1"]], "the last message")
    assert [message[:1] for message in manager.messages] == words


def test_what_a_container_may_not_say(runtime: Runtime, manager: Manager, service: Callable[..., Bundle]) -> None:
    """Which process is the service's, and what systemd is to store, is not the container's word."""
    bundle = service("MAINPID=1", "FDSTORE=1", "FDPOLL=0\nREADY=1\nMAINPID=1\nNOTIFYACCESS=all")
    container = runtime.new_id()
    result = runtime("run", "--detach", "--bundle", bundle.save(), container, env=manager.environment())
    assert result.code == 0
    assert manager.messages == [["READY=1", f"MAINPID={init_of(runtime, container)}"]]


def test_a_service_that_ends_before_it_is_ready(runtime: Runtime, manager: Manager,
                                                service: Callable[..., Bundle]) -> None:
    bundle = service("STATUS=broken", then="exit 1")
    result = runtime("run", "--detach", "--bundle", bundle.save(), runtime.new_id(), env=manager.environment())
    assert result.code == 0, result
    assert all(not message[0].startswith("READY") for message in manager.messages) and manager.barriers == 0


@pytest.mark.parametrize("namespace", ["plain", "user"])
def test_what_the_container_sees(runtime: Runtime, manager: Manager, bundle: Bundle, service: Callable[..., Bundle],
                                 namespace: str) -> None:
    """A read-only directory with the one socket, writable by any user; gone with the container."""
    service("READY=1", then="grep ' /run/notify ' /proc/self/mountinfo; ls -l /run/notify; touch /run/notify/x; exit 0")
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.config["root"]["readonly"] = True
    if namespace == "user":
        bundle.namespace("user")
        bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 5000}]
    result = runtime("run", "--bundle", bundle.save(), runtime.new_id(), env=manager.environment())
    assert result.code == 0, result
    options = result.lines[1].split()[5]
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(options.split(","))
    assert [line.split()[-1] for line in result.lines[3:]] == ["notify.sock"] and "srwxrwxrwx" in result.out
    assert "Read-only file system" in result.err
    wait_for(lambda: len(manager.messages) == 1, "the message")
    assert not (runtime.root / runtime.ids[-1]).exists()


def test_nobody_at_the_hosts_socket(runtime: Runtime, bundle: Bundle, service: Callable[..., Bundle],
                                    tmp_path: Path) -> None:
    """A warning; the container runs."""
    service("READY=1")
    container = runtime.new_id()
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "nobody")}
    result = runtime("run", "--detach", "--bundle", bundle.save(), container, env=environment)
    assert result.code == 0 and "warning: NOTIFY_SOCKET" in result.err, result
    assert runtime.state(container)["status"] == "running"


def test_start_of_a_container_made_without(runtime: Runtime, manager: Manager, bundle: Bundle, host: Host) -> None:
    """Nobody will tell that it is ready: start returns as ever."""
    container = runtime.create(bundle.args("test -z $NOTIFY_SOCKET && exec sleep 1000"))
    assert runtime("start", container, env=manager.environment()).code == 0
    assert runtime.state(container)["status"] == "running" and manager.messages == []


# Socket activation

LISTENING = r"""echo "$LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES $$"
for fd in 0 1 2 3 4 5 6 7; do test -e /proc/$$/fd/$fd && echo $fd; done; echo first >&3; echo second >&4"""


def activated(runtime: Runtime, bundle: Bundle, tmp_path: Path, *options: str, pid: str = "$$") -> list[str]:
    """`run` as a service manager executes it, with descriptors 3 and 4 to listen on and 5 open besides."""
    script = f'exec 3>>{tmp_path}/3 4>>{tmp_path}/4 5>>{tmp_path}/5; export LISTEN_PID={pid} LISTEN_FDS=2 ' \
             'LISTEN_FDNAMES=web:admin; exec "$@"'
    words = runtime.command("run", *options, "--bundle", bundle.args(LISTENING).save(), runtime.new_id())
    done = subprocess.run(["bash", "-c", script, "-", *words], capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL)
    return done.stdout.split()


def test_sockets_to_listen_on_are_passed(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """From 3 on; the pid is the program's own; --preserve-fds counts from behind them (runc's docs/terminals.md)."""
    assert activated(runtime, bundle, tmp_path) == ["2", "1", "web:admin", "1", "0", "1", "2", "3", "4"]
    assert [(tmp_path / name).read_text() for name in ("3", "4", "5")] == ["first\n", "second\n", ""]
    assert activated(runtime, bundle, tmp_path, "--preserve-fds", "1")[4:] == ["0", "1", "2", "3", "4", "5"]


def test_the_pid_is_right_without_a_pid_namespace(runtime: Runtime, bundle: Bundle, host: Host,
                                                  tmp_path: Path) -> None:
    seen = activated(runtime, bundle.without("pid"), tmp_path)
    assert seen[1] == seen[3] != "1"


def test_sockets_of_another_process_are_not_ours(runtime: Runtime, bundle: Bundle, host: Host,
                                                 tmp_path: Path) -> None:
    """sd_listen_fds(3): LISTEN_PID says for whom they are."""
    seen = activated(runtime, bundle, tmp_path, pid="1")
    assert seen == ["1", "0", "1", "2"]  # of the four words of the first line only the pid is there


def test_a_socket_that_is_not_there(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    words = runtime.command("run", "--bundle", bundle.args("true").save(), runtime.new_id())
    done = subprocess.run(["bash", "-c", 'export LISTEN_PID=$$ LISTEN_FDS=2; exec "$@"', "-", *words],
                          capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and "LISTEN_FDS=2: descriptor 3 is not open" in done.stderr
