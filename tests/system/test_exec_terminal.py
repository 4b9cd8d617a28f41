# SPDX-License-Identifier: Apache-2.0
"""Terminals and streams of exec, and what `run` and `exec` have in common in the foreground."""

from __future__ import annotations

import hashlib
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import Bundle, Host, Runtime, wait_for
from terminals import Listener, Tty, read_all

MEGABYTES = 100


@pytest.fixture
def container(runtime: Runtime, bundle: Bundle, host: Host) -> str:
    """A container that sleeps."""
    container = runtime.create(bundle.args("sleep", "1000"))
    assert runtime("start", container).code == 0
    return container


@pytest.fixture
def on_tty(runtime: Runtime, host: Host) -> Iterator[Callable[..., Tty]]:
    """A function that runs a command of the runtime on a terminal."""
    opened: list[Tty] = []

    def run(*words: str, **kwargs: int) -> Tty:
        opened.append(Tty(runtime.command(*words), **kwargs))
        return opened[-1]

    yield run
    for tty in opened:
        tty.close()


# exec --tty

def test_exec_has_a_terminal_of_its_own(on_tty: Callable[..., Tty], container: str) -> None:
    """stdin, stdout, stderr and the controlling terminal; the size is ours, at the start and when it changes."""
    script = ("for n in 0 1 2; do test -t $n && echo tty $n; done; tty; echo ok > /dev/tty; stty size; "
              "trap 'stty size; exit 9' WINCH; echo ready; while :; do sleep 0.05; done")
    tty = on_tty("exec", "--tty", container, "sh", "-c", script, rows=33, columns=111)
    tty.expect("ready")
    assert tty.is_raw()
    tty.resize(44, 155)
    assert tty.wait() == 9
    lines = tty.seen.decode().splitlines()
    assert lines[:5] == ["tty 0", "tty 1", "tty 2", "/dev/pts/0", "ok"] and lines[5] == "33 111"
    assert "44 155" in lines
    assert tty.restored()


def test_the_containers_console_is_left_alone(on_tty: Callable[..., Tty], runtime: Runtime, bundle: Bundle) -> None:
    """/dev/console is the terminal of the container's own program, also for a process of exec."""
    bundle.process["terminal"] = True
    bundle.args("trap '' HUP; sleep 1000").save()
    first = on_tty("run", "--bundle", str(bundle.path), runtime.new_id())
    wait_for(lambda: runtime("state", runtime.ids[-1]).code == 0
             and runtime.state(runtime.ids[-1])["status"] == "running", "the container")
    second = on_tty("exec", "-t", runtime.ids[-1], "sh", "-c", "tty; echo to the console > /dev/console")
    assert second.wait() == 0
    assert second.seen == b"/dev/pts/1\r\n"
    first.expect("to the console")
    assert runtime("kill", runtime.ids[-1], "KILL").code == 0
    assert first.wait() == 137


def test_without_tty_there_is_none(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """Though the container's own program has one (process.terminal)."""
    bundle.process["terminal"] = True
    listener = Listener(tmp_path / "console")
    container = runtime.create(bundle.args("sleep", "1000"), "--console-socket", str(listener.path))
    _, (master,) = listener.receive()
    result = runtime("exec", container, "sh", "-c", "tty; test -t 1 || echo none")
    assert result.lines == ["not a tty", "none"]
    os.close(master)
    listener.socket.close()


def test_exec_sends_its_terminal_over_a_console_socket(runtime: Runtime, container: str, tmp_path: Path) -> None:
    listener = Listener(tmp_path / "console")
    result = runtime("exec", "--detach", "--tty", "--console-socket", listener.path, container, "sh", "-c",
                     "test -t 0 && echo terminal; read line; echo got $line")
    assert result.code == 0, result
    data, (master,) = listener.receive()
    assert data and os.isatty(master)
    os.write(master, b"word\n")
    seen = read_all(master).decode().splitlines()
    assert seen[0] == "terminal" and seen[-1] == "got word"
    os.close(master)
    listener.socket.close()


def test_a_users_terminal_belongs_to_the_user(on_tty: Callable[..., Tty], container: str) -> None:
    tty = on_tty("exec", "-t", "-u", "1000:1000", container, "sh", "-c", "stat -c %u $(tty); echo in > $(tty)")
    assert tty.wait() == 0
    assert tty.seen.decode().splitlines() == ["1000", "in"]


@pytest.mark.parametrize("how", ["failure", "killed process", "killed container", "signal"])
def test_our_terminal_is_restored(on_tty: Callable[..., Tty], runtime: Runtime, container: str, how: str) -> None:
    """On every way out; the exit code is the one of that way."""
    if how == "failure":
        tty = on_tty("exec", "-t", container, "no-such-program")
        assert tty.wait() == 255
    else:
        script = "trap 'exit 44' TERM; echo ready $$; while :; do sleep 0.05; done"
        tty = on_tty("exec", "-t", container, "sh", "-c", script)
        tty.expect("ready")
        assert tty.is_raw()
        if how == "killed process":
            (pid,) = re.findall(rb"ready (\d+)", tty.seen)
            assert runtime("exec", container, "kill", "-9", pid.decode()).code == 0
        elif how == "killed container":
            runtime("kill", container, "KILL")
        else:
            tty.process.send_signal(signal.SIGTERM)
        assert tty.wait() == (44 if how == "signal" else 137)
    assert tty.restored()


def test_what_is_not_read_does_not_stop_what_is_written(on_tty: Callable[..., Tty], container: str) -> None:
    """A program that writes a lot while a lot is typed: neither side waits for the other for ever."""
    script = "stty raw -echo; echo ready; head -c 2000000 /dev/zero | tr '\\0' x; head -c 20000 | md5sum; exit 3"
    tty = on_tty("exec", "-t", container, "sh", "-c", script)
    tty.expect("ready")
    typist = threading.Thread(target=lambda: [os.write(tty.master, b"y" * 1000) for _ in range(20)])
    typist.start()
    assert tty.wait() == 3
    typist.join()
    while select.select([tty.master], [], [], 0.2)[0]:
        tty.read(0)
    assert tty.seen.count(b"x") == 2000000
    assert hashlib.md5(b"y" * 20000).hexdigest().encode() in tty.seen


def test_a_hang_up(on_tty: Callable[..., Tty], runtime: Runtime, container: str) -> None:
    """The emulator is closed: the program is told, its exit code is still waited for, nothing spins or stays."""
    tty = on_tty("exec", "-t", container, "sh", "-c", "trap 'echo gone > /tmp/hup; exit 5' HUP; echo ready; "
                                                      "while :; do sleep 0.05; done")
    tty.expect("ready")
    os.close(tty.slave)
    os.close(tty.master)
    assert tty.process.wait(20) == 5
    assert runtime("exec", container, "cat", "/tmp/hup").lines == ["gone"]
    tty.master, tty.slave = os.openpty()


def test_output_that_nobody_takes(runtime: Runtime, container: str) -> None:
    """With a closed pipe behind it the program on its terminal goes on; without a terminal it gets SIGPIPE."""
    read, write = os.pipe()
    os.close(read)
    try:
        on_terminal = subprocess.run(runtime.command("exec", "-t", container, "sh", "-c", "seq 1 50000; exit 7"),
                                     stdin=subprocess.DEVNULL, stdout=write, timeout=60)
        plain = subprocess.run(runtime.command("exec", container, "sh", "-c", "cat /dev/zero; exit 7"),
                               stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.DEVNULL, timeout=60)
    finally:
        os.close(write)
    assert on_terminal.returncode == 7
    assert plain.returncode == 7  # the shell's cat was killed, the shell was not


def test_job_control_inside(runtime: Runtime, container: str, tmp_path: Path) -> None:
    """^Z, fg and ^C in a shell of the container, as in any; ours, outside, stops and continues as well."""
    server = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]
    command = shlex.join(runtime.command("exec", "-t", "-e", "PS1=in> ", container, "sh"))

    def screen() -> str:
        return subprocess.run([*server, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout

    def keys(*words: str) -> None:
        subprocess.run([*server, "send-keys", *words], check=True)

    subprocess.run([*server, "new-session", "-d", "-x", "90", "-y", "24", "bash --norc --noprofile"], check=True,
                   env={**os.environ, "LC_ALL": "C.UTF-8"})
    try:
        keys("PS1='out''> '", "Enter")
        wait_for(lambda: "out>" in screen(), "the outer prompt")
        keys(command, "Enter")
        wait_for(lambda: re.search("^in>", screen(), re.M), "the prompt")
        keys("sleep 500", "Enter")
        wait_for(lambda: "sleep 500" in runtime("exec", container, "ps", "-o", "args").lines, "the job to run")
        keys("C-z")
        wait_for(lambda: "Stopped" in screen(), "the job to stop")
        keys("echo still $((40 + 2))", "Enter", "fg", "Enter")
        wait_for(lambda: "still 42" in screen() and screen().rstrip().endswith("\nsleep 500"), "the job in front")
        keys("C-c")
        keys("echo after $((50 + 5))", "Enter")
        wait_for(lambda: "after 55" in screen(), "^C to end the job only")
        # The shell outside stops us, and gives the terminal back, which has to be raw again.
        (pid,) = [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and is_exec(entry, container)]
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: screen().count("out>") > 1, "the outer prompt again")
        keys("fg", "Enter")
        wait_for(lambda: is_raw_tty(pid), "the terminal to be raw")
        keys("echo back $((60 + 6))", "Enter")
        wait_for(lambda: "back 66" in screen(), "the shell after fg")
        prompts = screen().count("out>")
        keys("exit 12", "Enter")
        # What is typed before exec has ended is typed for the program inside, as over ssh.
        wait_for(lambda: screen().count("out>") > prompts, "the outer shell")
        keys("echo code $?", "Enter")
        wait_for(lambda: "code 12" in screen(), "the exit code")
    finally:
        subprocess.run([*server, "kill-server"], check=True)


def is_exec(pid: str, container: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"exec" in words and container.encode() in words and words[0].endswith(b"pyrunc")


def is_raw_tty(pid: int) -> bool:
    fd = os.open(f"/proc/{pid}/fd/0", os.O_RDWR | os.O_NOCTTY)
    try:
        return not termios.tcgetattr(fd)[3] & (termios.ICANON | termios.ECHO)
    finally:
        os.close(fd)


def test_in_the_background_it_waits_for_its_turn(on_tty: Callable[..., Tty], runtime: Runtime,
                                                 container: str) -> None:
    """A job in the background does not make the shell's terminal raw, nor takes what is typed: it stops until fg."""
    command = shlex.join(runtime.command("exec", "-t", container, "sh", "-c", "echo in front; exit 6"))
    tty = Tty(["bash", "--norc", "--noprofile", "-i"])
    try:
        tty.type("PS1='out> '\r")
        tty.expect("out> ")
        tty.type(f"{command} &\r")
        tty.expect("[1]")
        tty.type("sleep 1; jobs\r")
        tty.expect("Stopped")
        assert b"in front\r\n" not in tty.seen
        tty.type("fg\r")
        # What is typed before exec has ended is typed for the program inside, as over ssh.
        tty.expect("out> ", after="in front\r\n")
        tty.type("echo code $?\r")
        tty.expect("code 6")
        tty.type("exit\r")
        tty.wait()
    finally:
        tty.close()


# Streams that are no terminals

def in_front(command: str, script: str, runtime: Runtime, bundle: Bundle) -> list[str]:
    """The words of `run`, or of `exec` in a container that runs, with that script."""
    if command == "run":
        return runtime.command("run", "--bundle", bundle.args(script).save(), runtime.new_id())
    container = runtime.create(bundle.args("sleep", "1000"))
    assert runtime("start", container).code == 0
    return runtime.command("exec", container, "sh", "-c", script)


@pytest.mark.parametrize("command", ["run", "exec"])
def test_a_lot_through_pipes_unharmed(runtime: Runtime, bundle: Bundle, host: Host, command: str) -> None:
    """Both ways at once; the end of what comes in is the end of stdin, while the output is still to come."""
    script = "cat; echo end >&2"
    words = in_front(command, script, runtime, bundle)
    block = os.urandom(1 << 20)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdin and running.stdout and running.stderr

        def feed() -> None:
            assert running.stdin
            for _ in range(MEGABYTES):
                running.stdin.write(block)
            running.stdin.close()

        feeder = threading.Thread(target=feed)
        feeder.start()
        same = [running.stdout.read(1 << 20) == block for _ in range(MEGABYTES)]
        assert all(same) and running.stdout.read() == b""
        feeder.join()
        assert running.wait(20) == 0 and running.stderr.read() == b"end\n"


JOURNAL = """
import os, socket, subprocess, sys
os.makedirs("/run/systemd/journal")
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/systemd/journal/stdout")
listener.listen()
ours = socket.socket(socket.AF_UNIX)
ours.connect("/run/systemd/journal/stdout")
theirs, _ = listener.accept()
code = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=ours, stderr=ours).returncode
ours.close()
print(theirs.makefile().read() + f"exit {code}")
"""


@pytest.mark.parametrize("command", ["run", "exec"])
def test_the_journal_can_be_opened_again(runtime: Runtime, bundle: Bundle, host: Host, command: str) -> None:
    """What a unit has for stdout is a socket, and /dev/stdout none that open(2) takes: so a pipe is between."""
    script = "echo first; echo again >/dev/stdout; echo third >/dev/stderr; exit 3"
    words = in_front(command, script, runtime, bundle)
    shown = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c",
                            'mount -t tmpfs run /run && exec "$@"', "-", sys.executable, "-c", JOURNAL, *words],
                           capture_output=True, text=True, timeout=60)
    assert shown.stdout.splitlines() == ["first", "again", "third", "exit 3"], shown


@pytest.mark.parametrize("command", ["run", "exec"])
def test_streams_that_are_closed(runtime: Runtime, bundle: Bundle, host: Host, command: str) -> None:
    """The program gets /dev/null for them, and not what we opened next."""
    probe = "for fd in 0 1 2; do seen=\"$seen $(readlink /proc/$$/fd/$fd)\"; done; echo $seen > /tmp/seen; exit 4"
    words = in_front(command, probe, runtime, bundle)
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "-", *words], timeout=60)
    assert done.returncode == 4
    assert (bundle.rootfs / "tmp" / "seen").read_text().split() == ["/dev/null"] * 3


def test_signals_reach_the_process(runtime: Runtime, container: str) -> None:
    """All but those that are for us: those that can't be caught, of children, windows and background jobs."""
    wanted = ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CONT", "TSTP", "PWR"]
    traps = " ".join(f"trap 'echo {name}' {name};" for name in wanted)
    script = f"{traps} trap 'exit 8' VTALRM; echo ready; while :; do sleep 0.02; done"
    with subprocess.Popen(runtime.command("exec", container, "sh", "-c", script), stdout=subprocess.PIPE,
                          text=True) as running:
        assert running.stdout and running.stdout.readline() == "ready\n"
        for name in wanted:
            running.send_signal(getattr(signal, f"SIG{name}"))
            assert running.stdout.readline() == name + "\n"
        running.send_signal(signal.SIGVTALRM)
        assert running.wait(20) == 8
