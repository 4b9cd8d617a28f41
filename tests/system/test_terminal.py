# SPDX-License-Identifier: Apache-2.0
"""process.terminal on real terminals: `run` relays one, `create` sends it over the console socket."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import Bundle, Host, Runtime, wait_for
from terminals import Listener, Tty, read_all


@pytest.fixture
def on_tty(runtime: Runtime, bundle: Bundle, host: Host) -> Iterator[Callable[..., Tty]]:
    """A function that runs the bundle with the given script on a terminal."""
    opened: list[Tty] = []
    bundle.process["terminal"] = True

    def run(script: str, **kwargs: int) -> Tty:
        bundle.args(script).save()
        tty = Tty(runtime.command("run", "--bundle", bundle.path, runtime.new_id()), **kwargs)
        opened.append(tty)
        return tty

    yield run
    for tty in opened:
        tty.close()


# run

def test_the_three_streams_are_a_terminal(on_tty: Callable[..., Tty]) -> None:
    tty = on_tty("for n in 0 1 2; do test -t $n && echo tty $n; done; tty; exit 7")
    assert tty.wait() == 7
    assert tty.seen.decode().splitlines() == ["tty 0", "tty 1", "tty 2", "/dev/pts/0"]


def test_dev_console_is_the_terminal(on_tty: Callable[..., Tty]) -> None:
    """config-linux.md, /dev/console: set up if terminal is enabled, by bind mounting the pseudoterminal to it."""
    tty = on_tty("echo through > /dev/console; "
                 "test $(stat -c %t:%T /dev/console) = $(stat -c %t:%T /dev/pts/0) && echo same")
    assert tty.wait() == 0
    assert tty.seen.decode().splitlines() == ["through", "same"]


def test_it_is_the_controlling_terminal(on_tty: Callable[..., Tty]) -> None:
    """/dev/tty can be opened, ^C reaches the program, ours is raw so that it does not reach us."""
    tty = on_tty("echo ok > /dev/tty; trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done")
    tty.expect("ready")
    assert b"ok\r\n" in tty.seen
    assert tty.is_raw()
    tty.type("\x03")
    assert tty.wait() == 9
    assert b"interrupted" in tty.seen
    assert tty.restored()


def test_what_is_typed_arrives(on_tty: Callable[..., Tty]) -> None:
    tty = on_tty("echo ready; read line; echo got $line")
    tty.expect("ready")
    tty.type("some words\r")
    assert tty.wait() == 0
    assert b"got some words\r\n" in tty.seen


def test_end_of_file_typed(on_tty: Callable[..., Tty]) -> None:
    tty = on_tty("echo ready; cat; echo end")
    tty.expect("ready")
    tty.type("\x04")
    assert tty.wait() == 0 and b"end\r\n" in tty.seen


def test_all_output_comes_before_the_end(on_tty: Callable[..., Tty]) -> None:
    tty = on_tty("seq 1 20000")
    assert tty.wait() == 0
    while select.select([tty.master], [], [], 0.1)[0]:
        tty.read(0)
    assert tty.seen.decode().split() == [str(number) for number in range(1, 20001)]


def test_window_size_is_passed_on(on_tty: Callable[..., Tty]) -> None:
    """At the start, and with SIGWINCH."""
    tty = on_tty("trap 'stty size; exit 0' WINCH; stty size; while :; do sleep 0.05; done", rows=33, columns=111)
    tty.expect("33 111")
    tty.resize(44, 155)
    assert tty.wait() == 0
    assert b"44 155" in tty.seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_restored_when_a_signal_ends_the_program(on_tty: Callable[..., Tty], number: int) -> None:
    tty = on_tty("trap 'exit 55' TERM HUP; echo ready; while :; do sleep 0.05; done")
    tty.expect("ready")
    assert tty.is_raw()
    tty.process.send_signal(number)
    assert tty.wait() == 55
    assert tty.restored()


def test_restored_when_the_container_is_killed(on_tty: Callable[..., Tty], runtime: Runtime) -> None:
    tty = on_tty("echo ready; sleep 100")
    tty.expect("ready")
    assert runtime("kill", runtime.ids[-1], "KILL").code == 0
    assert tty.wait() == 137
    assert tty.restored()


def test_restored_when_start_fails(on_tty: Callable[..., Tty], bundle: Bundle) -> None:
    bundle.config["hooks"] = {"poststart": [{"path": "/bin/false"}]}
    tty = on_tty("sleep 100")
    assert tty.wait() == 1
    assert b"/hooks/poststart/0" in tty.seen
    assert tty.restored()


def test_a_background_process_does_not_hold_us(on_tty: Callable[..., Tty], bundle: Bundle) -> None:
    """The init's exit ends it, though another process still has the terminal open (no pid namespace)."""
    bundle.without("pid")
    tty = on_tty("trap '' HUP; sleep 60 & echo ready; exit 6")
    assert tty.wait() == 6
    assert tty.restored()


def test_with_stdin_that_is_no_terminal(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.process["terminal"] = True
    bundle.args("test -t 0 && echo terminal; read a; echo $a").save()
    result = runtime("run", "--bundle", bundle.path, runtime.new_id(), stdin="typed\n")
    assert result.code == 0, result
    assert "terminal" in result.lines and "typed" in result.lines


def test_a_users_terminal_belongs_to_the_user(on_tty: Callable[..., Tty], bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    tty = on_tty("stat -c '%u %a' /dev/pts/0; echo again > /dev/pts/0 && echo again > /dev/tty")
    assert tty.wait() == 0
    assert tty.seen.decode().splitlines() == ["1000 620", "again", "again"]


def test_in_tmux(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """As a person sees it, with the shell's line editing."""
    bundle.process["terminal"] = True
    bundle.process["args"] = ["sh"]
    bundle.process["env"].append("PS1=in> ")
    bundle.save()
    server = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]
    command = shlex.join(runtime.command("run", "--bundle", bundle.path, runtime.new_id()))

    def screen() -> str:
        return subprocess.run([*server, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout

    subprocess.run([*server, "new-session", "-d", "-x", "90", "-y", "20", f"{command}; echo code $?; exec sleep 100"],
                   check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    try:
        wait_for(lambda: "in>" in screen(), "the prompt")
        subprocess.run([*server, "send-keys", "echo wrong", "C-u", "stty size", "Enter"], check=True)
        wait_for(lambda: "20 90" in screen(), "the size")
        subprocess.run([*server, "send-keys", "exit 12", "Enter"], check=True)
        wait_for(lambda: "code 12" in screen(), "the end")
        assert "echo wrong" not in re.findall(r"in> *(.*)", screen())
    finally:
        subprocess.run([*server, "kill-server"], check=True)


# create --console-socket

@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(tmp_path / "console")
    yield listener
    listener.socket.close()


def test_console_socket_gets_the_terminal(runtime: Runtime, bundle: Bundle, host: Host, listener: Listener) -> None:
    """One descriptor, the master, with its size as process.consoleSize has it."""
    bundle.process["terminal"] = True
    bundle.process["consoleSize"] = {"height": 31, "width": 99}
    bundle.args("test -t 0 && test -t 1 && test -t 2 && stty size; read line; echo got $line")
    container = runtime.create(bundle, "--console-socket", str(listener.path))
    data, fds = listener.receive()
    assert len(fds) == 1 and os.isatty(fds[0]) and data
    assert runtime("start", container).code == 0
    os.write(fds[0], b"word\n")
    seen = read_all(fds[0]).decode().splitlines()
    os.close(fds[0])
    assert seen[-1] == "got word" and "31 99" in seen
    runtime.wait(container)


def test_console_socket_at_a_long_path(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """Longer than an address of AF_UNIX can be (unix(7)); what isn't there is told with its errno."""
    place = tmp_path / ("long" * 30)
    place.mkdir()
    (tmp_path / "short").symlink_to(place)
    bundle.process["terminal"] = True
    refused = runtime("create", "--bundle", bundle.save(), "--console-socket", place / "socket", runtime.new_id())
    assert refused.code == 1 and "connect: no such file or directory (ENOENT) (the caller" in refused.err
    listener = Listener(tmp_path / "short" / "socket")
    runtime.create(bundle, "--console-socket", str(place / "socket"))
    assert len(listener.receive()[1]) == 1
    listener.socket.close()


def test_run_detached_with_a_console_socket(runtime: Runtime, bundle: Bundle, host: Host, listener: Listener) -> None:
    bundle.process["terminal"] = True
    bundle.args("echo hello; sleep 100").save()
    container = runtime.new_id()
    result = runtime("run", "--detach", "--console-socket", listener.path, "--bundle", bundle.path, container)
    assert result.code == 0, result
    _, (master,) = listener.receive()
    assert runtime.state(container)["status"] == "running"
    assert runtime("delete", "--force", container).code == 0
    assert read_all(master) == b"hello\r\n"
    os.close(master)


@pytest.mark.parametrize(("terminal", "words", "text"), [
    (True, ["create"], "cannot allocate tty if runc will detach without setting console socket"),
    (True, ["run", "--detach"], "cannot allocate tty if runc will detach without setting console socket"),
    (False, ["create", "--console-socket", "SOCKET"],
     "cannot use console socket if runc will not detach or allocate tty"),
    (False, ["run", "--console-socket", "SOCKET"],
     "cannot use console socket if runc will not detach or allocate tty"),
    (True, ["run", "--console-socket", "SOCKET"], "cannot use console socket if runc will not detach or allocate tty"),
    (True, ["create", "--console-socket", "/nowhere/socket"], "console socket /nowhere/socket"),
])
def test_wrong_combinations(runtime: Runtime, bundle: Bundle, host: Host, listener: Listener, terminal: bool,
                            words: list[str], text: str) -> None:
    """runc's words: clients match them."""
    bundle.process["terminal"] = terminal
    bundle.args("true").save()
    given = [str(listener.path) if word == "SOCKET" else word for word in words]
    result = runtime(*given, "--bundle", bundle.path, runtime.new_id())
    assert result.code == 1 and text in result.err, result
    assert len(result.errors) == 1


def test_without_devpts(runtime: Runtime, bundle: Bundle, host: Host, listener: Listener) -> None:
    bundle.config["mounts"] = [mount for mount in bundle.config["mounts"] if mount["destination"] != "/dev/pts"]
    bundle.process["terminal"] = True
    bundle.save()
    result = runtime("create", "--console-socket", listener.path, "--bundle", bundle.path, runtime.new_id())
    assert result.code == 1 and "devpts" in result.err and "/process/terminal" in result.err, result
