# SPDX-License-Identifier: Apache-2.0
"""The shim's streams: fifos whose readers are slow, late or gone, files, loggers, terminals; much of it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from pyrunc_shim import logger
from pyrunc_shim import messages as m
from pyrunc_shim.ttrpc import RpcError
from shim_client import fifos, read_all
from support import wait_for

from .test_shim import Box, box, events, process

__all__ = ["box", "events"]

CAT = "cat"
MEBIBYTE = 1 << 20


def resident(pid: int) -> int:
    """KiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4


def test_much_through_every_stream(box: Box, long: bool) -> None:
    """In and out unharmed, and the shim doesn't grow: between pipes the kernel moves the bytes."""
    size = (1024 if long else 24) * MEBIBYTE
    streams = fifos(box.tmp_path)
    shim = box.run("c1", CAT, **streams)
    pid = shim.pid()
    box.settle("c1")
    before = resident(pid)
    counted: list[int] = []

    def count() -> None:
        total = 0
        with open(streams["stdout"], "rb", buffering=0) as file:
            while piece := file.read(65536):
                assert not piece.strip(b"z")
                total += len(piece)
        counted.append(total)

    reader = threading.Thread(target=count)
    reader.start()
    with open(streams["stdin"], "wb", buffering=0) as stdin:
        for _ in range(size // MEBIBYTE):
            stdin.write(b"z" * MEBIBYTE)
        stdin.flush()
        shim.do("CloseIO", m.CloseIORequest(id="c1", stdin=True))
    assert shim.wait("c1") == 0
    assert resident(pid) - before < 1024
    shim.delete("c1")
    reader.join(60)
    assert counted == [size]


def test_stdin_ends_with_close_io_and_not_with_the_client(box: Box) -> None:
    """A client may come back (attach); CloseIO says that none will."""
    streams = fifos(box.tmp_path, ("stdin", "stdout"))
    output: list[bytes] = []
    reader = read_all(streams["stdout"], output)
    shim = box.run("c1", CAT, **streams)
    for words in (b"one ", b"two "):
        with open(streams["stdin"], "wb") as stdin:
            stdin.write(words)
    time.sleep(0.3)
    assert shim.state("c1").status == m.RUNNING
    shim.do("CloseIO", m.CloseIORequest(id="c1", stdin=True))
    assert shim.wait("c1") == 0
    shim.delete("c1")
    reader.join(20)
    assert output == [b"one two "]


def test_a_reader_that_does_not_read_stalls_its_own_stream_only(box: Box) -> None:
    """Neither the other stream, nor another process, nor a call waits for it."""
    streams = fifos(box.tmp_path, ("stdout", "stderr"))
    stalled = os.open(streams["stdout"], os.O_RDONLY | os.O_NONBLOCK)
    errors: list[bytes] = []
    reader = read_all(streams["stderr"], errors)
    shim = box.run("c1", "dd if=/dev/zero bs=1M count=3 2>/dev/null & echo told >&2; exec 2>&-; wait", **streams)
    reader.join(20)
    assert errors == [b"told\n"]
    other = fifos(_made(box.tmp_path / "other"), ("stdout",))
    output: list[bytes] = []
    reader = read_all(other["stdout"], output)
    shim.exec("c1", "e1", process("echo through"), **other)
    shim.start("c1", "e1")
    assert shim.wait("c1", "e1") == 0
    shim.delete("c1", "e1")
    reader.join(20)
    assert output == [b"through\n"]
    assert shim.state("c1").status == m.RUNNING  # dd waits still
    total = 0
    os.set_blocking(stalled, True)
    while total < 3 * MEBIBYTE:
        total += len(os.read(stalled, 65536))
    assert shim.wait("c1") == 0
    os.close(stalled)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_a_reader_that_goes_away(box: Box) -> None:
    """Its program gets no EPIPE, and the next reader goes on where it has left off."""
    streams = fifos(box.tmp_path, ("stdin", "stdout"))
    reader = os.open(streams["stdout"], os.O_RDONLY | os.O_NONBLOCK)
    shim = box.run("c1", "while read line; do echo $line || exit 99; done", **streams)
    stdin = os.open(streams["stdin"], os.O_WRONLY)
    os.write(stdin, b"first\n")
    wait_for(lambda: _read(reader) == b"first\n", "the first line")
    os.close(reader)
    os.write(stdin, b"second\n")
    time.sleep(0.3)
    assert shim.state("c1").status == m.RUNNING
    output: list[bytes] = []
    thread = read_all(streams["stdout"], output)
    os.close(stdin)
    shim.do("CloseIO", m.CloseIORequest(id="c1", stdin=True))
    assert shim.wait("c1") == 0
    shim.delete("c1")
    thread.join(20)
    assert output == [b"second\n"]


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except BlockingIOError:
        return b""


def test_another_containers_stdin_sees_its_end(box: Box) -> None:
    """A worker that is forked meanwhile, for a start that takes its time, holds no stream of anybody else's."""
    streams = fifos(box.tmp_path)
    output: list[bytes] = []
    reader = read_all(streams["stdout"], output)
    group = box.make_bundle("group").args(CAT)
    group.save()
    shim = box.launch("group", group.path)
    shim.create("c1", group.path, box.root, **streams)
    slow = box.make_bundle("slow").args("sleep 1000")
    slow.config["hooks"] = {"poststart": [{"path": "/bin/sleep", "args": ["sleep", "3"]}]}
    slow.save()
    shim.create("slow", slow.path, box.root)
    shim.start("c1")
    began = time.monotonic()
    starting = shim.send("Start", m.StartRequest(id="slow"))
    with open(streams["stdin"], "wb") as stdin:
        stdin.write(b"all of it")
    shim.do("CloseIO", m.CloseIORequest(id="c1", stdin=True))
    assert shim.wait("c1") == 0
    took = time.monotonic() - began
    shim.receive(starting, m.StartResponse)
    assert took < time.monotonic() - began  # the slow start was still on its way
    shim.delete("c1")
    reader.join(20)
    assert output == [b"all of it"]
    shim.kill("slow")
    shim.wait("slow")
    shim.delete("slow")


def test_files(box: Box) -> None:
    """`file:` makes and appends to a file; one for both keeps the order; a plain path has to be there."""
    log = box.tmp_path / "logs" / "both"
    plain = box.tmp_path / "plain"
    plain.write_text("before\n")
    shim = box.run("c1", "echo out; echo err >&2; echo out again", stdout=f"file://{log}", stderr=f"file://{log}")
    assert shim.wait("c1") == 0
    assert log.read_text() == "out\nerr\nout again\n"
    other = box.run("c2", "echo out; sleep 1000", stdout=str(plain))
    wait_for(lambda: plain.read_text() == "before\nout\n", "the file")
    other.kill("c2")
    assert other.wait("c2") == 137


LOGGER = """\
#!/bin/sh
echo "$CONTAINER_ID $CONTAINER_NAMESPACE $*" >{out}
env >>{out}
exec 5>&-
{{ cat <&3; echo --; cat <&4; }} >>{out}
echo end >>{out}
"""


def test_a_binary_logger(box: Box) -> None:
    """`binary:` runs a program that reads both streams, with the container's name and nothing else around it."""
    out = box.tmp_path / "logged"
    script = box.tmp_path / "logger"
    script.write_text(LOGGER.format(out=out))
    script.chmod(0o755)
    shim = box.run("c1", "echo out; echo err >&2", stdout=f"binary://{script}?key=a%20value&flag", stderr="")
    assert shim.wait("c1") == 0
    shim.delete("c1")
    wait_for(lambda: out.exists() and out.read_text().endswith("end\n"), "the logger to end")
    first, *middle, separator, err, end = out.read_text().splitlines()
    assert first == "c1 shim-tests key a value flag"
    assert (middle[-1], separator, err, end) == ("out", "--", "err", "end")
    names = {line.partition("=")[0] for line in middle[:-1]}
    assert names <= {"CONTAINER_ID", "CONTAINER_NAMESPACE", "PWD", "OLDPWD", "SHLVL", "_"}


def test_a_logger_that_is_not_there_or_never_ready(box: Box) -> None:
    bundle = box.make_bundle("c1").args("true")
    bundle.save()
    shim = box.launch("c1", bundle.path)
    with pytest.raises(RpcError, match=r"start the logger /nonexistent/logger: .*no such file"):
        shim.create("c1", bundle.path, box.root, stdout="binary:///nonexistent/logger")
    with pytest.raises(RpcError, match="the logger /bin/true ended before it was ready"):
        shim.create("c1", bundle.path, box.root, stdout="binary-v2:///bin/true")
    shim.create("c1", bundle.path, box.root, stdout="binary:///bin/true")  # with the old scheme its end is the sign


@pytest.mark.parametrize(("uri", "expected"), [
    ("binary:///bin/x", ("binary", ["/bin/x"])),
    ("binary:///bin/x?a=b&c=d&a=e", ("binary", ["/bin/x", "a", "b", "c", "d"])),
    ("binary-v2:///a%20b?k%3D=v+w&flag&&e=", ("binary-v2", ["/a b", "k=", "v w", "flag", "e"])),
    ("binary:///x?bad=%zz", ("binary", ["/x", "bad", "%zz"])),
])
def test_a_loggers_command(uri: str, expected: tuple[str, list[str]]) -> None:
    """The URI's path, then its query's keys, each with its first value."""
    assert logger.command(uri) == expected


def test_a_terminal(box: Box) -> None:
    """The container's own; resized, typed into, and its output in the fifo."""
    streams = fifos(box.tmp_path, ("stdin", "stdout"))

    def terminal(bundle: object) -> None:
        bundle.process["terminal"] = True  # type: ignore[attr-defined]

    output: list[bytes] = []
    reader = read_all(streams["stdout"], output)
    shim = box.run("c1", "tty; read line; stty size; echo got $line", terminal, terminal=True, **streams)
    assert shim.state("c1").terminal
    shim.do("ResizePty", m.ResizePtyRequest(id="c1", width=91, height=37))
    with open(streams["stdin"], "wb") as stdin:
        stdin.write(b"typed\n")
    assert shim.wait("c1") == 0
    shim.delete("c1")
    reader.join(20)
    lines = output[0].decode().split("\r\n")
    assert sorted(lines[:2]) == ["/dev/pts/0", "typed"]  # the echo may be first
    assert lines[2:] == ["37 91", "got typed", ""]


def test_a_terminal_of_an_exec(box: Box) -> None:
    streams = fifos(box.tmp_path, ("stdout",))
    output: list[bytes] = []
    reader = read_all(streams["stdout"], output)
    shim = box.run("c1", "sleep 1000")
    shim.exec("c1", "e1", process("tty; test -t 0 && test -t 2 && echo all", terminal=True), **streams)
    shim.do("ResizePty", m.ResizePtyRequest(id="c1", exec_id="e1", width=5, height=5))  # too early, and fine
    shim.start("c1", "e1")
    assert shim.wait("c1", "e1") == 0
    shim.delete("c1", "e1")
    reader.join(20)
    assert output == [b"/dev/pts/0\r\nall\r\n"]
