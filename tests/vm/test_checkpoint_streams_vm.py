# SPDX-License-Identifier: Apache-2.0
"""checkpoint and restore: where the container's standard streams lead, and its terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import subprocess
import termios
from array import array
from pathlib import Path

import pytest
from checkpoints import checkpoint, is_gone, restore
from support import Bundle, Host, Runtime, wait_for

pytestmark = pytest.mark.vm


def test_standard_streams(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """Pipes are those of the one who restores, and so is a file of the host's (which runc can't do)."""
    script = "i=0; while :; do i=$((i+1)); echo $i; echo e$i >&2; sleep 0.1; done"
    container = runtime.new_id()
    bundle.args(script).save()

    def begin(words: list[str], log: Path) -> int:
        reader, writer = os.pipe()
        with open(log, "ab") as file:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=writer, stderr=file, timeout=120)
        os.close(writer)
        assert done.returncode == 0, log.read_text()
        return reader

    reader = begin(runtime.command("run", "--detach", "--bundle", bundle.path, container), tmp_path / "log")
    assert os.read(reader, 2) == b"1\n"
    checkpoint(runtime, container, images)
    told = json.loads((images / "descriptors.json").read_text())
    assert told[0] == "/dev/null" and told[1].startswith("pipe:[") and told[2].startswith("file[")
    early = []
    while piece := os.read(reader, 4096):
        early.append(piece)
    os.close(reader)
    last = int(b"".join(early).split()[-1]) if early else 1
    other = begin(runtime.command("restore", "--detach", "--image-path", images, "--bundle", bundle.path, container),
                  tmp_path / "other")
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(other, 1)
    os.close(other)
    assert int(line) in (last, last + 1)
    wait_for(lambda: (tmp_path / "other").read_text().count("e") > 2, "the other log", 60)
    firsts = (tmp_path / "log").read_text().split(), (tmp_path / "other").read_text().split()
    assert firsts[0][0] == "e1" and int(firsts[1][0][1:]) >= int(firsts[0][-1][1:])


class Console:
    """A listener for the terminal's master, and what is said on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(1)
        self.master = -1
        self.text = b""

    def accept(self) -> None:
        self.socket.settimeout(60)
        connection, _ = self.socket.accept()
        self.socket.close()
        _, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_LEN(4))
        fds = array("i")
        fds.frombytes(ancillary[0][2])
        self.master = fds[0]
        connection.close()

    def read_until(self, text: bytes) -> bytes:
        while text not in self.text:
            assert select.select([self.master], [], [], 60)[0], self.text
            self.text += os.read(self.master, 4096)
        return self.text


def test_a_terminal(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """The terminal comes over the new console socket, and is the one that the processes have."""
    bundle.process["terminal"] = True
    script = "i=0; while read -r line; do i=$((i+1)); echo said $i $line; done"
    first = Console(tmp_path / "first")
    container = runtime.create(bundle.args(script), "--console-socket", str(first.path))
    first.accept()
    assert runtime("start", container).code == 0
    os.write(first.master, b"one\n")
    first.read_until(b"said 1 one")
    checkpoint(runtime, container, images)
    os.close(first.master)
    nobody = runtime("restore", "--detach", "--image-path", images, "--bundle", bundle.path, container)
    assert nobody.code == 1 and "cannot allocate tty if runc will detach" in nobody.err
    second = Console(tmp_path / "second")
    restore(runtime, bundle, container, images, "--console-socket", str(second.path))
    second.accept()
    os.write(second.master, b"two\n")
    second.read_until(b"said 2 two")
    os.write(second.master, b"\x03")  # the terminal is the controlling one still: this is SIGINT
    runtime.wait(container)
    os.close(second.master)


def test_a_terminal_in_the_foreground(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    """restore on a tty relays it."""
    bundle.process["terminal"] = True
    bundle.args("i=0; while read -r line; do i=$((i+1)); echo said $i $line; done; exit 9").save()
    container = runtime.new_id()
    said = b""

    def talk(words: list[str], line: bytes, expected: bytes) -> tuple[subprocess.Popen[bytes], int]:
        master, slave = pty.openpty()
        process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        text = b""
        wait_for(lambda: termios.tcgetattr(master)[3] & termios.ECHO == 0, "raw mode", 60)
        os.write(master, line)
        while expected not in text:
            assert select.select([master], [], [], 60)[0], text
            text += os.read(master, 4096)
        return process, master

    first, master = talk(runtime.command("run", "--bundle", str(bundle.path), container), b"one\r", b"said 1 one")
    checkpoint(runtime, container, images)
    assert first.wait(60) == 137, said
    os.close(master)
    second, master = talk(runtime.command("restore", "--image-path", str(images), "--bundle", str(bundle.path),
                                          container), b"two\r", b"said 2 two")
    os.write(master, b"\x04")  # end of file: the loop is over
    assert second.wait(60) == 9
    os.close(master)
    assert is_gone(runtime, container)


def test_streams_in_the_foreground(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    """As with run: what a user's program writes comes to the terminal of who restores, which isn't given away."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.args("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done").save()
    container = runtime.new_id()

    def show(*words: str | Path) -> tuple[subprocess.Popen[bytes], int, list[int]]:
        """On a terminal, until there are two lines: (process, master, the lines' numbers)."""
        master, slave = pty.openpty()
        process = subprocess.Popen(runtime.command(*words, "--bundle", bundle.path, container),
                                   stdin=subprocess.DEVNULL, stdout=slave, stderr=slave)
        text = b""
        while text.count(b"\n") < 2:
            assert select.select([master], [], [], 60)[0], text
            text += os.read(master, 4096)
        assert os.fstat(slave).st_uid == 0
        assert os.readlink(f"/proc/{runtime.state(container)['pid']}/fd/1").startswith("pipe:")
        os.close(slave)
        return process, master, numbers(text)

    def numbers(text: bytes) -> list[int]:
        return [int(line.split()[1]) for line in text[:text.rindex(b"\n")].splitlines()]

    first, master, seen = show("run")
    checkpoint(runtime, container, images)
    assert first.wait(60) == 137
    try:
        while True:
            seen += [int(word) for word in os.read(master, 65536).split() if word.isdigit()]
    except OSError:  # EIO: nobody has the other end any more
        os.close(master)
    second, master, after = show("restore", "--image-path", images)
    # From where it was: the last lines may not have come through the pipe before it was written down.
    assert 1 < after[0] <= seen[-1] + 1 and after == list(range(after[0], after[0] + len(after)))
    assert runtime("kill", container, "KILL").code == 0
    assert second.wait(60) == 137
    os.close(master)
    assert is_gone(runtime, container)


def test_the_callers_terminal(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    """--shell-job: the terminal of who restores takes the place of the one that the container was run from."""
    bundle.args("i=0; while read -r line; do i=$((i+1)); echo said $i $line; done").save()
    container = runtime.new_id()

    def begin(words: list[str]) -> tuple[int, int]:
        """On a terminal as a shell has it, its session's: (its master, its device)."""
        master, slave = pty.openpty()
        subprocess.run(["setsid", "--ctty", "--wait", *words], stdin=slave, stdout=slave, stderr=slave, timeout=600)
        device = os.fstat(slave).st_rdev
        os.close(slave)
        return master, device

    def read_until(master: int, expected: bytes) -> None:
        text = b""
        while expected not in text:
            assert select.select([master], [], [], 60)[0], text
            text += os.read(master, 4096)

    def streams() -> list[int]:
        pid = runtime.state(container)["pid"]
        return [os.stat(f"/proc/{pid}/fd/{fd}").st_rdev for fd in range(3)]

    first, device = begin(runtime.command("run", "--detach", "--bundle", bundle.path, container))
    os.write(first, b"one\n")
    read_until(first, b"said 1 one")
    assert streams() == [device] * 3
    refused = runtime("checkpoint", "--image-path", images, container)
    assert refused.code == 1 and len(refused.errors) == 1, refused
    assert "the container's descriptor 0 is a terminal that isn't its own (--shell-job " in refused.err
    os.write(first, b"two\n")  # it runs on
    read_until(first, b"said 2 two")
    checkpoint(runtime, container, images, "--shell-job")
    assert is_gone(runtime, container)

    words = ["restore", "--detach", "--image-path", str(images), "--bundle", str(bundle.path), container]
    without = runtime(*words)
    assert without.code == 1 and len(without.errors) == 1, without
    assert "descriptor 0 was a terminal that wasn't its own (--shell-job gives it yours)" in without.err
    nowhere = runtime(*words, "--shell-job")
    assert nowhere.code == 1 and "--shell-job: descriptor 0 is no terminal, and the container's was one" in nowhere.err
    assert is_gone(runtime, container)
    second, device = begin(runtime.command(*words, "--shell-job"))
    os.write(second, b"three\n")
    read_until(second, b"said 3 three")
    assert streams() == [device] * 3
    os.close(first)
    os.close(second)
