# SPDX-License-Identifier: Apache-2.0
"""checkpoint and restore, where criu works; the proof is a counter that goes on counting."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import subprocess
import termios
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from container_cgroup import ContainerCgroup, resources
from support import Bundle, Host, Runtime, wait_for

from pyrunc.cgroup_mounts import KeptOptions

pytestmark = pytest.mark.vm

#: Numbers in its memory, each written once: a gap or a start from 1 would show.
COUNTER = "i=0; while :; do i=$((i+1)); echo $i >>/count; sleep 0.1; done"


class Counter:
    """What a counting container has written."""

    def __init__(self, bundle: Bundle) -> None:
        self.path = bundle.rootfs / "count"

    def numbers(self) -> list[int]:
        return [int(line) for line in self.path.read_text().split()] if self.path.exists() else []

    def reach(self, more: int = 3) -> int:
        """Wait until it has counted that much further; the last number."""
        target = len(self.numbers()) + more
        wait_for(lambda: len(self.numbers()) >= target, "the counter to go on", 60)
        return self.check()

    def check(self) -> int:
        """Every number once, in order."""
        numbers = self.numbers()
        assert numbers == list(range(1, len(numbers) + 1))
        return len(numbers)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "images"


def start(runtime: Runtime, bundle: Bundle, script: str = COUNTER) -> str:
    container = runtime.create(bundle.args(script))
    result = runtime("start", container)
    assert result.code == 0, result
    return container


def checkpoint(runtime: Runtime, container: str, images: Path, *options: str, **kwargs: object) -> None:
    result = runtime("checkpoint", "--image-path", images, *options, container, timeout=120, **kwargs)
    assert result.code == 0, result


def restore(runtime: Runtime, bundle: Bundle, container: str, images: Path, *options: str, **kwargs: object) -> None:
    runtime.ids.append(container)
    result = runtime("restore", "--detach", "--image-path", images, "--bundle", bundle.path, *options, container,
                     timeout=120, **kwargs)
    assert result.code == 0, result


def is_gone(runtime: Runtime, container: str) -> bool:
    result = runtime("state", container)
    return result.code == 1 and "does not exist" in result.err


def test_a_counter_goes_on_counting(runtime: Runtime, bundle: Bundle, host: Host, images: Path,
                                    tmp_path: Path) -> None:
    """runc-checkpoint(8), runc-restore(8): what was in memory is there again, in a container of the same id."""
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    before = runtime.state(container)
    checkpoint(runtime, container, images)
    assert is_gone(runtime, container)
    stopped = counter.check()
    assert (images / "descriptors.json").exists() and (images / "dump.log").exists()

    restore(runtime, bundle, container, images, "--pid-file", str(tmp_path / "pid"))
    assert counter.reach() > stopped
    after = runtime.state(container)
    assert after["status"] == "running" and after["pid"] == int((tmp_path / "pid").read_text()) != before["pid"]
    assert {**before, "pid": 0, "created": ""} == {**after, "pid": 0, "created": ""}
    inside = runtime("exec", container, "cat", "/proc/1/comm")
    assert inside.lines == ["sh"], inside
    assert runtime("kill", container, "KILL").code == 0
    runtime.wait(container)
    assert runtime("delete", container).code == 0


def test_leave_running_and_restore_into_another_id(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    checkpoint(runtime, container, images, "--leave-running")
    assert runtime.state(container)["status"] == "running"
    counter.reach()
    assert runtime("delete", "--force", container).code == 0
    last = counter.check()
    counter.path.unlink()
    other = runtime.new_id()
    restore(runtime, bundle, other, images, "--manage-cgroups-mode", "ignore")
    wait_for(lambda: len(counter.numbers()) >= 3, "the other to count", 60)
    first = counter.numbers()[0]
    assert 1 < first <= last  # from where the checkpoint was, not from where the first one ended
    assert runtime.state(other)["status"] == "running"
    assert Path(f"/proc/{runtime.state(other)['pid']}/cgroup").read_text().rstrip().endswith(f"/{other}")


def test_pre_dump_and_parent(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """criu.org/Iterative_migration: memory first, and then what has changed since."""
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    checkpoint(runtime, container, tmp_path / "first", "--pre-dump")
    assert runtime.state(container)["status"] == "running"
    counter.reach()
    refused = runtime("restore", "-d", "--bundle", bundle.path, "--image-path", tmp_path / "first", runtime.new_id())
    assert refused.code == 1 and "one of --pre-dump can't be restored" in refused.err
    wrong = runtime("checkpoint", "--image-path", images, "--parent-path", "../nothing", container)
    assert wrong.code == 1 and "--parent-path ../nothing: there is no such directory" in wrong.err
    counter.reach()
    checkpoint(runtime, container, images, "--parent-path", "../first")
    assert (images / "parent").is_symlink()
    restore(runtime, bundle, container, images)
    counter.reach()


def test_in_the_foreground(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    """restore without --detach waits, exits as the container does, and deletes it; so does a run that it ends."""
    counter = Counter(bundle)
    bundle.args(COUNTER).save()
    container = runtime.new_id()
    first = subprocess.Popen(runtime.command("run", "--bundle", bundle.path, container), stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    counter.reach()
    checkpoint(runtime, container, images)
    _, said = first.communicate(timeout=60)
    assert (first.returncode, said) == (137, b"")
    second = subprocess.Popen(runtime.command("restore", "--image-path", images, "--bundle", bundle.path, container),
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    counter.reach()
    assert runtime.state(container)["status"] == "running"
    assert runtime("kill", container, "KILL").code == 0
    _, said = second.communicate(timeout=60)
    assert (second.returncode, said) == (137, b"")
    assert is_gone(runtime, container)


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


def layout(pid: int, masked: set[str]) -> list[tuple[str, str, str]]:
    """Mount point, type and options of every mount; a mask is a null device, whichever file system that is of."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    rows = []
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split()
        kind = ("", "") if fields[4] in masked else (right.split()[0], ",".join(sorted(fields[5].split(","))))
        rows.append((fields[4], *kind))
    return sorted(rows)


def test_mounts(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """Directories and files from outside, through a link of the image too, masks, and what is read-only."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("from outside")
    (bundle.rootfs / "real").mkdir()
    (bundle.rootfs / "link").symlink_to("real")
    bundle.mount(outside, "/data", options=["rbind", "rw"])
    bundle.mount(outside / "file", "/etc/one", options=["bind", "ro"])
    bundle.mount(outside, "/link/below", options=["bind"])
    bundle.mount(outside, "/dev/shm/deep", options=["bind"])
    counter = Counter(bundle)
    container = start(runtime, bundle, "echo kept >/dev/shm/tmpfs; " + COUNTER)
    counter.reach()
    masked = {path for path in bundle.linux["maskedPaths"] if os.path.isfile(path)}
    before = layout(runtime.state(container)["pid"], masked)
    assert masked and {"/data", "/etc/one", "/real/below", "/dev/shm/deep", *masked} <= {row[0] for row in before}
    checkpoint(runtime, container, images)
    # Mount points that create has made in the image, and somebody has removed since.
    (bundle.rootfs / "data").rmdir()
    restore(runtime, bundle, container, images)
    counter.reach()
    assert layout(runtime.state(container)["pid"], masked) == before
    result = runtime("exec", container, "sh", "-c",
                     "cat /data/file /etc/one /link/below/file /dev/shm/deep/file /dev/shm/tmpfs; echo new >/data/new; "
                     f"echo >/etc/one; cat {' '.join(masked)}; echo >/proc/sys/kernel/hostname")
    assert result.out == "from outside" * 4 + "kept\n", result
    assert len([line for line in result.errors if "Read-only file system" in line]) == 2, result
    assert (outside / "new").read_text() == "new\n"


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


def test_tcp_established_inside(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    """A connection within the container's own network namespace; without the option criu refuses."""
    script = ("(while :; do sleep 0.2; echo tick; done) | nc -l -p 7000 >/dev/null & "
              "until netstat -ltn | grep -q :7000; do sleep 0.1; done; sleep 1000 | nc 127.0.0.1 7000 >>/count")
    container = start(runtime, bundle, script)
    ticks = bundle.rootfs / "count"
    wait_for(lambda: ticks.exists() and ticks.read_text().count("tick") > 2, "the connection", 60)
    refused = runtime("checkpoint", "--image-path", images, container, timeout=120)
    assert refused.code == 1 and "established" in refused.err.lower(), refused
    assert runtime.state(container)["status"] == "running"
    count = ticks.read_text().count("tick")
    wait_for(lambda: ticks.read_text().count("tick") > count, "the connection to go on", 60)
    checkpoint(runtime, container, images, "--tcp-established")
    count = ticks.read_text().count("tick")
    restore(runtime, bundle, container, images, "--tcp-established")
    wait_for(lambda: ticks.read_text().count("tick") > count + 2, "the connection to be restored", 60)
    assert "LOOPBACK,UP" in runtime("exec", container, "ip", "link", "show", "lo").out


LISTENER = r"""
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(7000) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(fd, (void *)&at, sizeof at) || listen(fd, 8))
		return 1;
	for (;;)
		pause();
}
"""


def test_connections_in_flight(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    """criu.org/CLI/opt/--skip-in-flight: those that nobody has accepted yet are left out."""
    compile_program(LISTENER, bundle.rootfs / "bin" / "listener")
    bundle.process["args"] = ["listener"]
    container = runtime.create(bundle)
    assert runtime("start", container).code == 0
    within = ["nsenter", f"--net=/proc/{runtime.state(container)['pid']}/ns/net"]
    wait_for(lambda: b":7000" in subprocess.run([*within, "ss", "-ltnH"], capture_output=True).stdout, "it to listen",
             60)
    client = subprocess.Popen([*within, "busybox", "nc", "127.0.0.1", "7000"], stdin=subprocess.PIPE)
    try:
        wait_for(lambda: b"ESTAB" in subprocess.run([*within, "ss", "-tnH"], capture_output=True).stdout,
                 "the connection", 60)
        refused = runtime("checkpoint", "--image-path", images, container, timeout=120)
        assert refused.code == 1 and "In-flight connection" in refused.err, refused
        checkpoint(runtime, container, images, "--tcp-skip-in-flight")
    finally:
        client.kill()
        client.communicate(timeout=60)
    restore(runtime, bundle, container, images)
    assert ":7000" in runtime("exec", container, "netstat", "-ltn").out


def test_in_a_network_namespace_from_outside(runtime: Runtime, bundle: Bundle, host: Host, images: Path,
                                             tmp_path: Path) -> None:
    """What another has made is neither written down nor restored, but joined, with what is connected there."""
    place = tmp_path / "net"
    place.touch()
    subprocess.run(["unshare", f"--net={place}", "ip", "link", "set", "lo", "up"], check=True)
    within = ["nsenter", f"--net={place}"]
    try:
        bundle.namespace("network", str(place))
        container = start(runtime, bundle, "(while :; do sleep 0.2; echo tick; done) | nc -l -p 7000 >/dev/null")
        said = tmp_path / "said"
        wait_for(lambda: b":7000" in subprocess.run([*within, "ss", "-ltnH"], capture_output=True).stdout,
                 "the listener", 60)
        with open(said, "wb") as file:
            client = subprocess.Popen([*within, "busybox", "nc", "127.0.0.1", "7000"], stdin=subprocess.PIPE,
                                      stdout=file)
        wait_for(lambda: said.read_text().count("tick") > 2, "the connection", 60)
        checkpoint(runtime, container, images, "--tcp-established")
        count = said.read_text().count("tick")
        restore(runtime, bundle, container, images, "--tcp-established")
        # criu 3.17 on iptables-nft fails to take back what it has locked the namespace with, under runc as well.
        for tool in ("iptables", "ip6tables"):
            subprocess.run([*within, tool, "--flush"], check=True)
        wait_for(lambda: said.read_text().count("tick") > count + 2, "the connection to go on", 60)
        pid = runtime.state(container)["pid"]
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(place).st_ino
        assert runtime("delete", "--force", container).code == 0
        client.communicate(timeout=60)
    finally:
        subprocess.run(["umount", place], check=True)


LOCKED = r"""
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	int fd = open(argv[1], O_RDWR | O_CREAT, 0600);
	if (flock(fd, LOCK_EX | LOCK_NB))
		return 1;
	return execvp(argv[2], argv + 2);
}
"""


def compile_program(source: str, program: Path) -> None:
    subprocess.run(["gcc", "-static", "-x", "c", "-o", program, "-"], input=source, text=True, check=True)


def test_file_locks(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    """criu.org/CLI/opt/--file-locks: refused without, and with it held again."""
    counter = Counter(bundle)
    compile_program(LOCKED, bundle.rootfs / "bin" / "locked")
    container = start(runtime, bundle, f"exec locked /lock sh -c '{COUNTER}'")
    counter.reach()
    attempt = ("exec", container, "locked", "/lock", "echo", "free")
    assert runtime(*attempt).out == ""
    refused = runtime("checkpoint", "--image-path", images, container, timeout=120)
    assert refused.code == 1 and "lock" in refused.err and str(images / "dump.log") in refused.err, refused
    checkpoint(runtime, container, images, "--file-locks")
    restore(runtime, bundle, container, images, "--file-locks")
    counter.reach()
    assert runtime(*attempt).out == ""
    assert runtime("exec", container, "locked", "/other", "echo", "free").out == "free\n"


def test_a_deleted_file_in_use(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    """criu.org/CLI/opt/--link-remap: one that has another name still, which criu doesn't know."""
    counter = Counter(bundle)
    container = start(runtime, bundle, f"echo kept >/file; ln /file /other; exec 3</file; rm /file; {COUNTER}")
    counter.reach()
    refused = runtime("checkpoint", "--image-path", images, container, timeout=120)
    assert refused.code == 1 and "link-remap" in refused.err, refused
    checkpoint(runtime, container, images, "--link-remap")
    restore(runtime, bundle, container, images)
    counter.reach()
    pid = runtime.state(container)["pid"]
    assert os.stat(f"/proc/{pid}/fd/3").st_ino == (bundle.rootfs / "other").stat().st_ino


def test_auto_dedup(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """criu.org/Memory_images_deduplication: the parent's images lose the pages that newer ones have."""
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    first = tmp_path / "first"
    checkpoint(runtime, container, first, "--pre-dump")
    pages = first / "pages-1.img"
    before = pages.stat().st_blocks
    counter.reach()
    checkpoint(runtime, container, images, "--parent-path", "../first", "--auto-dedup")
    assert pages.stat().st_blocks < before
    restore(runtime, bundle, container, images, "--auto-dedup")
    counter.reach()


SENDER = r"""
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	struct sockaddr_un to = { AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	char text[32];
	strcpy(to.sun_path, argv[1]);
	if (connect(fd, (void *)&to, sizeof to))
		return 1;
	for (int i = 1;; i++) {
		send(fd, text, sprintf(text, "%d", i), 0);
		usleep(100000);
	}
}
"""


def test_unix_sockets_to_the_outside(runtime: Runtime, bundle: Bundle, host: Host, images: Path,
                                     tmp_path: Path) -> None:
    """criu.org/CLI/opt/--ext-unix-sk: a connected datagram socket, as syslog(3) has one."""
    compile_program(SENDER, bundle.rootfs / "bin" / "sender")
    bundle.without("network")  # criu looks for the other end in the same network namespace
    (tmp_path / "out").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(60)
        listener.bind(str(tmp_path / "out" / "socket"))
        # criu connects it again by the name that the other end was bound to.
        bundle.mount(tmp_path / "out", str(tmp_path / "out"), options=["bind"])
        bundle.process["args"] = ["sender", str(tmp_path / "out" / "socket")]
        container = runtime.create(bundle)
        assert runtime("start", container).code == 0
        assert listener.recv(100) == b"1"
        refused = runtime("checkpoint", "--image-path", images, container, timeout=120)
        assert refused.code == 1 and "External socket is used" in refused.err, refused
        checkpoint(runtime, container, images, "--ext-unix-sk")
        listener.setblocking(False)
        last = 1
        try:
            while True:
                last = int(listener.recv(100))
        except BlockingIOError:
            pass
        listener.settimeout(60)
        restore(runtime, bundle, container, images, "--ext-unix-sk")
        assert int(listener.recv(100)) == last + 1


def test_lazy_pages(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """criu.org/Lazy_migration: the copy runs before its memory is there."""
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    ready, writer = os.pipe()
    server = subprocess.Popen(
        runtime.command("checkpoint", "--lazy-pages", "--page-server", "127.0.0.1:27277", "--status-fd", str(writer),
                        "--image-path", images, container), pass_fds=(writer,), stderr=subprocess.PIPE, text=True)
    os.close(writer)
    told = os.read(ready, 1)
    os.close(ready)
    if told != b"\0":
        pytest.fail(str(server.communicate(timeout=60)))
    stopped = counter.check()
    work = tmp_path / "work"
    work.mkdir()
    daemon = subprocess.Popen(["criu", "lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", "27277",
                               "-D", images, "-W", work, "-o", "lazy.log"])
    wait_for(lambda: (work / "lazy-pages.socket").exists(), "criu lazy-pages", 60)
    other = runtime.new_id()
    restore(runtime, bundle, other, images, "--lazy-pages", "--work-path", str(work), "--manage-cgroups-mode", "ignore")
    assert counter.reach() > stopped
    _, said = server.communicate(timeout=120)
    assert (server.returncode, said, daemon.wait(60)) == (0, "", 0)
    assert is_gone(runtime, container)
    counter.reach()


@pytest.mark.parametrize("reverse", [False, True], ids=["pyrunc then runc", "runc then pyrunc"])
def test_images_are_interchangeable(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle,
                                    host: Host, images: Path, tmp_path: Path, reverse: bool) -> None:
    """What one writes the other restores: binds, masks, pipes."""
    (tmp_path / "outside").mkdir()
    bundle.mount(tmp_path / "outside", "/data", options=["bind", "rw"])
    bundle.process["args"] = ["sh", "-c", COUNTER]
    bundle.save()
    counter = Counter(bundle)
    first, second = runtime, make_runtime("runc")
    if reverse:
        first, second = second, first
    container = first.new_id()
    begun = subprocess.run(first.command("run", "--detach", "--bundle", bundle.path, container),
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    assert begun.returncode == 0
    counter.reach()
    with KeptOptions():  # runc's criu takes the hierarchy's options away
        checkpoint(first, container, images)
        second.ids.append(container)
        done = subprocess.run(second.command("restore", "--detach", "--image-path", images, "--bundle", bundle.path,
                                             container), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 0, done
    counter.reach()
    assert second.state(container)["status"] == "running"
    second.clean_up()


def test_hooks(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """As with runc: prestart and createRuntime run on restore, in the restored namespaces, and none of the others."""
    log = tmp_path / "hooks"

    def hook(kind: str) -> list[dict[str, object]]:
        script = f'echo {kind} $(cat | sed \'s/.*"pid": *\\([0-9]*\\).*/\\1/\') >>{log}'
        return [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]

    bundle.config["hooks"] = {kind: hook(kind) for kind in ("prestart", "createRuntime", "poststart", "poststop")}
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    checkpoint(runtime, container, images)
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["prestart", "createRuntime", "poststart",
                                                                          "poststop"]
    log.unlink()
    restore(runtime, bundle, container, images)
    pid = runtime.state(container)["pid"]
    assert log.read_text().splitlines() == [f"prestart {pid}", f"createRuntime {pid}"]
    counter.reach()
    checkpoint(runtime, container, images)
    bundle.config["hooks"]["createRuntime"] = [{"path": "/bin/false"}]
    bundle.save()
    last = counter.check()
    log.unlink()
    failed = runtime("restore", "--detach", "--image-path", images, "--bundle", bundle.path, container, timeout=120)
    assert failed.code == 1 and "/hooks/createRuntime/0" in failed.err, failed
    assert is_gone(runtime, container) and counter.check() == last
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["prestart", "poststop"]
    del bundle.config["hooks"]
    bundle.save()
    restore(runtime, bundle, container, images)
    assert counter.reach() > last


def test_limits(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    """Those of config.json hold in the restored container, and its device rules."""
    resources(bundle, pids={"limit": 50}, memory={"limit": 64 << 20})
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    checkpoint(runtime, container, images)
    resources(bundle, pids={"limit": 60}, memory={"limit": 48 << 20}).save()
    restore(runtime, bundle, container, images)
    cgroup = ContainerCgroup(runtime.state(container)["pid"])
    assert cgroup.file("pids/pids.max", "pids.max").read_text() == "60\n"
    assert cgroup.file("memory/memory.limit_in_bytes", "memory.max").read_text() == f"{48 << 20}\n"
    denied = runtime("exec", container, "sh", "-c", "mknod /kmsg c 1 11; cat /kmsg")
    assert "Operation not permitted" in denied.err, denied
    counter.reach()


def test_as_containerd_calls_it(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """Its stock shim pauses first, and resumes afterwards; it writes -no-subreaper."""
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    json_log = ("--log", str(tmp_path / "log.json"), "--log-format", "json")
    work = str(tmp_path / "work")
    for options in (("--leave-running",), ()):
        assert runtime("pause", container).code == 0
        done = runtime(*json_log, "checkpoint", "--image-path", images, "--work-path", work, "--file-locks", *options,
                       container, timeout=120)
        assert done.code == 0, done
        runtime("resume", container)
        if options:
            counter.reach()
    assert is_gone(runtime, container)
    last = counter.check()
    pid_file = tmp_path / "init.pid"
    runtime.ids.append(container)
    done = runtime(*json_log, "restore", "--image-path", images, "--work-path", work, "--detach", "--pid-file",
                   str(pid_file), "-no-subreaper", "--bundle", bundle.path, container, timeout=120)
    assert done.code == 0, done
    assert int(pid_file.read_text()) == runtime.state(container)["pid"]
    assert counter.reach() > last
    assert (tmp_path / "work" / "restore.log").exists()


def test_as_podman_calls_it(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """With no PATH in the environment, and an option twice."""
    probe = runtime("checkpoint", "--help", env={})
    assert probe.code == 0 and "--image-path" in probe.out
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    done = runtime("checkpoint", "--image-path", images, "--work-path", tmp_path, "--leave-running", "--leave-running",
                   container, env={}, timeout=120)
    assert done.code == 0, done
    counter.reach()
    assert runtime("delete", "--force", container).code == 0
    runtime.ids.append(container)
    done = runtime("restore", "--bundle", bundle.path, "--pid-file", tmp_path / "pid", "--detach", "--image-path",
                   images, "--work-path", tmp_path, container, env={}, timeout=120)
    assert done.code == 0, done
    wait_for(lambda: runtime.state(container)["status"] == "running", "it to run")


def test_what_cannot_be(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """One clear line, exit 1; a container that could not be written down runs on."""
    counter = Counter(bundle)
    container = runtime.create(bundle.args(COUNTER))
    early = runtime("checkpoint", "--image-path", images, container)
    assert early.code == 1 and "Container cannot be checkpointed in created state" in early.err
    assert runtime("start", container).code == 0
    counter.reach()
    checkpoint(runtime, container, images, "--leave-running")
    taken = runtime("restore", "--detach", "--image-path", images, "--bundle", bundle.path, container)
    assert taken.code == 1 and "container with given ID already exists" in taken.err
    assert runtime("kill", container, "KILL").code == 0
    runtime.wait(container)
    late = runtime("checkpoint", "--image-path", images, container)
    assert late.code == 1 and "Container cannot be checkpointed in stopped state" in late.err
    assert runtime("delete", container).code == 0

    (images / "pagemap-1.img").unlink()
    broken = runtime("restore", "--detach", "--image-path", images, "--bundle", bundle.path, container, timeout=120)
    assert broken.code == 1 and len(broken.errors) == 1, broken
    assert "criu can't restore the container: Error (" in broken.err and str(images / "restore.log") in broken.err
    assert is_gone(runtime, container)
