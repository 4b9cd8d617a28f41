# SPDX-License-Identifier: Apache-2.0
"""What is said to criu: protobuf's encoding (protobuf.dev/programming-guides/encoding), its answers, its log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrunc import criu
from pyrunc.checkpoint import CheckpointOptions
from pyrunc.errors import PyruncError, UsageError
from pyrunc.paths import unescape


@pytest.mark.parametrize(("fields", "wire"), [
    ([(1, 150)], "089601"),  # the guide's first example
    ([(2, "testing")], "120774657374696e67"),  # its second
    ([(3, ((1, 150),))], "1a03089601"),  # its third
    ([(1, -2)], "08feffffffffffffffff01"),  # a negative int32 takes ten bytes
    ([(1, True), (1, False)], "08010800"),
    ([(25, ((1, ""), (2, "/x")))], "ca01060a0012022f78"),  # an empty string is sent: v2's controller has no name
    ([], ""),
])
def test_encoding(fields: list[tuple[int, criu.Value]], wire: str) -> None:
    assert criu.encode(fields).hex() == wire


@given(st.dictionaries(st.integers(1, 2**29 - 1), st.integers(-(2**31), 2**63 - 1) | st.text("a\u00e9\u20ac")))
def test_what_is_encoded_is_decoded(fields: dict[int, int | str]) -> None:
    message = criu.Message(criu.encode(list(fields.items())))
    for number, value in fields.items():
        assert (message.number(number) if isinstance(value, int) else message.text(number)) == value
    assert message.number(1 if 1 not in fields else 2**29) == 0


def test_unknown_fields_are_passed_over() -> None:
    """A newer criu may say more: of 64 and of 32 bits too."""
    data = b"\x09" + bytes(8) + b"\x15" + bytes(4) + b"\x18\x07"
    assert criu.Message(data).number(3) == 7


@given(st.binary(max_size=40))
def test_garbage_is_refused_or_read(data: bytes) -> None:
    try:
        criu.Message(data)
    except PyruncError as error:
        assert str(error) == "criu sent a malformed message"


@pytest.mark.parametrize("data", ["08", "12 05 61", "0b", "80808080808080808080 01", "12 ffffffffffffffffff01"])
def test_a_cut_or_impossible_message(data: str) -> None:
    with pytest.raises(PyruncError, match="malformed"):
        criu.Message(bytes.fromhex(data))


def test_a_field_of_another_kind() -> None:
    with pytest.raises(PyruncError, match="malformed"):
        criu.Message(criu.encode([(1, "text")])).number(1)
    with pytest.raises(PyruncError, match="malformed"):
        criu.Message(criu.encode([(1, 1)])).text(1)


def test_a_request() -> None:
    """A list is a repeated field; members go by criu's numbers."""
    data = criu.request(criu.DUMP, {"pid": 7, "external": ["a", "b"], "leave_running": False})
    assert data == criu.encode([(1, 1), (2, ((2, 7), (37, "a"), (37, "b"), (3, 0)))])


FAKE = """#!/usr/bin/python3
import os, socket, sys
connection = socket.socket(fileno=int(sys.argv[2]))
request = connection.recv(65536)
{body}
"""


def fake(path: Path, body: str) -> str:
    """A criu of our own."""
    path.write_text(FAKE.format(body=body))
    path.chmod(0o755)
    return str(path)


def test_points_are_told_and_answered(tmp_path: Path) -> None:
    """Each waits for a word; a descriptor may come along; the last answer is the request's."""
    notify = criu.encode([(1, criu.NOTIFY), (2, 1), (5, ((1, "orphan-pts-master"), (2, 42)))])
    answer = criu.encode([(1, criu.RESTORE), (2, 1), (4, ((1, 42),))])
    program = fake(tmp_path / "criu", f"""
reader, writer = os.pipe()
socket.send_fds(connection, [{notify!r}], [writer])
assert connection.recv(100) == {criu.encode([(1, criu.NOTIFY), (3, 1)])!r}
os.close(writer)
assert os.read(reader, 10) == b"here"
connection.send({answer!r})""")
    told = []

    def note(point: str, pid: int, fd: int) -> None:
        told.append((point, pid))
        os.write(fd, b"here")

    with criu.Criu(program) as process:
        got = process.call(criu.request(criu.RESTORE, {}), note)
        assert (got.message(4).number(1), process.finish()) == (42, 0)
    assert told == [("orphan-pts-master", 42)]


def test_a_point_that_fails_makes_criu_give_up(tmp_path: Path) -> None:
    notify = criu.encode([(1, criu.NOTIFY), (2, 1), (5, ((1, "setup-namespaces"), (2, 42)))])
    program = fake(tmp_path / "criu", f"""
connection.send({notify!r})
assert connection.recv(100) == {criu.encode([(1, criu.NOTIFY), (3, 0)])!r}
connection.send({criu.encode([(1, criu.RESTORE), (2, 0)])!r})""")

    def fail(_point: str, _pid: int, _fd: int) -> None:
        raise PyruncError("no")

    with criu.Criu(program) as process, pytest.raises(PyruncError, match=r"^no$"):
        process.call(criu.request(criu.RESTORE, {}), fail)


def test_descriptors_are_where_they_are_said_to_be(tmp_path: Path) -> None:
    """Those of `prepare` first; nothing else is open, whatever numbers they had."""
    program = fake(tmp_path / "criu", """
found = [os.readlink(f"/proc/self/fd/{fd}") for fd in (4, 5)]
left = [fd for fd in range(6, 200) if os.path.exists(f"/proc/self/fd/{fd}")]
os.write(2, f"Error (x): {found} {left}".encode())
sys.exit(3)""")
    first, second = tmp_path / "first", tmp_path / "second"
    with open(first, "w"), open(second, "w") as file:
        process = criu.Criu(program, fds=[file.fileno()], prepare=lambda: [os.open(first, os.O_RDONLY)])
    with process, pytest.raises(PyruncError) as caught:
        process.call(criu.request(criu.VERSION))
    assert str(caught.value) == f"criu ended with exit status 3: Error (x): {[str(first), str(second)]} []"


def test_a_hanging_criu_is_given_up_when_its_process_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu, "_GRACE", 50)
    program = fake(tmp_path / "criu", "import time; time.sleep(1000)")
    child = os.fork()
    if child == 0:
        os._exit(0)
    with criu.Criu(program) as process:
        process.watch(child)
        with pytest.raises(PyruncError, match="doesn't answer"):
            process.call(criu.request(criu.RESTORE, {}))
    os.waitpid(child, 0)


def test_what_cannot_be_executed(tmp_path: Path) -> None:
    program = tmp_path / "criu"
    program.write_text("#!/nowhere\n")
    program.chmod(0o755)
    with pytest.raises(PyruncError) as caught:
        criu.Criu(str(program))
    assert str(caught.value) == f"run {program}: no such file or directory (ENOENT)"


def test_an_error_before_it_is_criu() -> None:
    def prepare() -> list[int]:
        raise UsageError("not like this", hint="like that")

    with pytest.raises(UsageError, match=r"^not like this \(like that\)$"):
        criu.Criu("/bin/true", prepare=prepare)


@pytest.mark.parametrize(("told", "error"), [
    (((1, 3), (2, 17), (4, 1)), ""),
    (((1, 4), (2, 0)), ""),
    (((1, 2), (2, 12)), "checkpoints need criu 3.0 or later, and this is 2.12"),
], ids=["3.17.1", "4.0", "2.12"])
def test_the_version(tmp_path: Path, told: tuple[tuple[int, int], ...], error: str) -> None:
    program = fake(tmp_path / "criu", f"connection.send({criu.encode([(1, criu.VERSION), (2, 1), (10, told)])!r})")
    if error:
        with pytest.raises(PyruncError) as caught:
            criu.version(program)
        assert str(caught.value) == error
    else:
        assert criu.version(program) == {3: 31701, 4: 40000}[told[0][1]]


def test_a_feature_that_is_missing(tmp_path: Path) -> None:
    answer = criu.encode([(1, criu.FEATURE_CHECK), (2, 1), (8, ((1, 1), (2, 0)))])
    program = fake(tmp_path / "criu", f"connection.send({answer!r})")
    criu.need_feature(program, "mem_track", "pre-dumps")
    with pytest.raises(PyruncError, match=r"^criu can't do lazy pages here \(it, or this kernel, lacks lazy_pages\)$"):
        criu.need_feature(program, "lazy_pages", "lazy pages")


def test_whether_it_knows_labels(tmp_path: Path) -> None:
    """inventory.img, as criu.org/Images describes it: two numbers, the message's size, the message."""
    for fields, known in (([(1, 2), (6, 0)], False), ([(1, 2), (6, 1)], True), ([(1, 2)], False)):
        message = criu.encode(fields)
        (tmp_path / "inventory.img").write_bytes(bytes(8) + len(message).to_bytes(4, "little") + message)
        assert criu.knows_labels(str(tmp_path)) is known
    (tmp_path / "inventory.img").unlink()
    with pytest.raises(PyruncError, match=r"inventory\.img: .*ENOENT"):
        criu.knows_labels(str(tmp_path))


def test_finding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In PATH, and where it is installed for a caller without PATH; a relative entry is nobody's program."""
    monkeypatch.setattr(criu, "_PATH", str(tmp_path / "sbin"))
    monkeypatch.delenv("PATH")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "criu").write_text("#!/bin/sh\n")
    (tmp_path / "criu").chmod(0o755)
    with pytest.raises(PyruncError) as caught:
        criu.find()
    assert str(caught.value) == "criu is not installed (install the package criu, or give its place with --criu)"
    (tmp_path / "sbin").mkdir()
    (tmp_path / "criu").rename(tmp_path / "sbin" / "criu")
    assert criu.find() == str(tmp_path / "sbin" / "criu")
    with pytest.raises(UsageError, match="no such program"):
        criu.find(str(tmp_path))
    assert criu.find("sbin/criu") == str(tmp_path / "sbin" / "criu")


def test_the_log_tells_why() -> None:
    """The last errors: the very last one tells only that it gives up."""
    log = "\n".join([
        "(00.01) Error (criu/tun.c:85): tun: Unable to create tun", "(00.02) Warn  (criu/x.c:1): no",
        "(00.03)      1: Error (criu/files-reg.c:1710): Can't lookup mount=41", "(00.04) Error (criu/a.c:1): twice",
        "(00.05) Error (criu/cr-dump.c:1635): Dump files failed", "(00.06) Error (criu/cr-dump.c:2053): FAILED."])
    assert criu.errors_in(log) == ("Error (criu/a.c:1): twice; Error (criu/cr-dump.c:1635): Dump files failed; "
                                   "Error (criu/cr-dump.c:2053): FAILED.")
    assert criu.errors_in("(00.01) all is well\n") == ""


def test_a_failure_names_the_log(tmp_path: Path) -> None:
    (tmp_path / "dump.log").write_text("(1) Error (a.c:1): first\n")
    error = criu.failed("dump the container", str(tmp_path), "dump.log")
    assert str(error) == ("criu can't dump the container: Error (a.c:1): first "
                          f"(criu's log: {tmp_path}/dump.log)")


@pytest.mark.parametrize(("options", "message"), [
    ({"parent_path": "/abs"}, "--parent-path must be relative"),
    ({"page_server": "host"}, "--page-server host: is not ADDRESS:PORT"),
    ({"page_server": "h:0"}, "--page-server h:0: is not ADDRESS:PORT"),
    ({"page_server": "h:1_0"}, "--page-server h:1_0: is not ADDRESS:PORT"),
    ({"page_server": ":80"}, "--page-server :80: is not ADDRESS:PORT"),
    ({"cgroups_mode": "hard"}, "--manage-cgroups-mode hard: is soft, full, strict or ignore"),
    ({"empty_ns": ["pid"]}, "--empty-ns pid: only a network namespace can be left empty"),
])
def test_options_that_are_wrong(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        CheckpointOptions(**options)
    assert str(caught.value).startswith(message)


def test_options_that_are_right() -> None:
    assert CheckpointOptions(page_server="[::1]:80").page_server == ("::1", 80)
    assert CheckpointOptions(page_server="h:65535").page_server == ("h", 65535)


def test_every_flag_reaches_criu() -> None:
    """Each under criu's own name, and only where it was given."""
    flags = ("auto_dedup", "ext_unix_sk", "file_locks", "lazy_pages", "shell_job", "tcp_established")
    for flag in flags:
        told = CheckpointOptions(**dict.fromkeys([flag], True)).to_criu({}, "dump.log")
        assert [name for name in flags if told[name]] == [flag]


def test_paths_as_procfs_writes_them() -> None:
    assert unescape(r"/a\040b\134c\012") == "/a b\\c\n"
    assert unescape("/plain") == "/plain"
