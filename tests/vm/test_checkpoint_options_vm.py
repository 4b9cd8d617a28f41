# SPDX-License-Identifier: Apache-2.0
"""checkpoint and restore with criu's options: what criu refuses without them, and does with them."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from checkpoints import COUNTER, Counter, checkpoint, compile_program, is_gone, restore, start
from support import Bundle, Host, Runtime, wait_for

pytestmark = pytest.mark.vm


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
