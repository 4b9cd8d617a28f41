# SPDX-License-Identifier: Apache-2.0
"""Device rules in the real kernel: cgroup v2 programs and v1 lists (cgroup-v2.rst; cgroup-v1/devices.rst)."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cgroup_lanes import lanes, made
from test_device_rules import BITS, naive, reduced, rule

from pyrunc import device_rules, devices_bpf, limits
from pyrunc.cgroup import Cgroup
from pyrunc.device_rules import Rules
from pyrunc.errors import KernelError
from pyrunc.linux import bpf
from pyrunc.linux import process as kernel

R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
NULL, ZERO, FULL, RANDOM, KMSG = (1, 3), (1, 5), (1, 7), (1, 8), (1, 11)


def no_warning(text: str) -> None:
    raise AssertionError(text)


def in_cgroup(cg: Cgroup, work: Callable[[], str]) -> str:
    """What `work` returns in a process of the cgroup."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            cg.add(0)
            os.write(writer, work().encode())
        except BaseException as error:
            os.write(writer, f"failed: {error!r}".encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text


class Nodes:
    """Device nodes of any number, made where nothing forbids it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, numbers: tuple[int, int], kind: int = stat.S_IFCHR) -> str:
        path = f"{self.path}/{kind}-{numbers[0]}-{numbers[1]}"
        with contextlib.suppress(FileExistsError):
            os.mknod(path, kind | 0o600, os.makedev(*numbers))
        return path


def attempt(work: Callable[[], Any]) -> str:
    try:
        result = work()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    if isinstance(result, int):
        os.close(result)
    return "ok"


def opens(cg: Cgroup, *requests: tuple[str, int]) -> list[str]:
    return in_cgroup(cg, lambda: " ".join(attempt(lambda p=path, f=flags: os.open(p, f))  # type: ignore[misc]
                                          for path, flags in requests)).split()


@contextlib.contextmanager
def nodes() -> Any:
    with tempfile.TemporaryDirectory() as path:
        yield Nodes(path)


# Version 2

@lanes("unified")
def test_the_default_list() -> None:
    """The six nodes, ptmx and ttys can be used, nothing else be opened; any node be made."""
    with made() as cg, nodes() as node:
        mem = node(KMSG), R
        assert opens(cg, mem) == ["ok"]  # the control
        devices_bpf.attach(cg.paths[""], device_rules.effective([]), no_warning)
        usable = [(f"/dev/{name}", RW) for name in ("null", "zero", "full", "random", "urandom", "ptmx")]
        assert opens(cg, *usable) == ["ok"] * len(usable)
        assert opens(cg, mem, (node(KMSG), W), (node((7, 0), stat.S_IFBLK), R)) == ["EPERM"] * 3
        made_here = in_cgroup(cg, lambda: " ".join((
            attempt(lambda: os.mknod(f"{node.path}/a", stat.S_IFBLK, os.makedev(8, 0))),
            attempt(lambda: os.mknod(f"{node.path}/b", stat.S_IFCHR, os.makedev(1, 11))))))
        assert made_here == "ok ok"


@lanes("unified")
def test_reading_and_writing_and_making() -> None:
    with made() as cg, nodes() as node:
        path = node(ZERO)
        for access in ("r", "w", "rw", "m", "rm", "rwm"):
            devices_bpf.attach(cg.paths[""], reduced(rule(True, f"c 1:5 {access}")), no_warning)
            expected = ["ok" if set(wanted) <= set(access) else "EPERM" for wanted in ("r", "w", "rw")]
            assert opens(cg, (path, R), (path, W), (path, RW)) == expected, access
            making = in_cgroup(cg, lambda a=access: attempt(  # type: ignore[misc]
                lambda: os.mknod(f"{node.path}/new-{a}", stat.S_IFCHR, os.makedev(*ZERO))))
            assert making == ("ok" if "m" in access else "EPERM")


@lanes("unified")
def test_wildcards_and_the_last_match() -> None:
    with made() as cg, nodes() as node:
        three = [(node(NULL), R), (node(ZERO), R), (node(FULL), R)]
        for rules, expected in (
            ([rule(True, "c 1:* r")], "ok ok ok"),
            ([rule(True, "c 1:* r"), rule(False, "c 1:5 r")], "ok EPERM ok"),
            ([rule(False, "c 1:5 r"), rule(True, "c 1:* r")], "ok ok ok"),
            ([rule(True, "c *:7 r")], "EPERM EPERM ok"),
            ([rule(True, "b *:* rwm")], "EPERM EPERM EPERM"),
            ([rule(True), rule(False, "c 1:3 w")], "ok ok ok"),
            ([rule(True), rule(False, "c 1:3 r")], "EPERM ok ok"),
            ([rule(True), rule(False)], "EPERM EPERM EPERM"),
            ([rule(True, "a 1:3 r")], "ok EPERM EPERM"),
        ):
            devices_bpf.attach(cg.paths[""], reduced(*rules), no_warning)
            assert opens(cg, *three) == expected.split(), rules


@lanes("unified")
def test_a_deny_of_writing_holds_for_both_at_once() -> None:
    """Denied write, an open for reading and writing is denied."""
    with made() as cg, nodes() as node:
        devices_bpf.attach(cg.paths[""], reduced(rule(True), rule(False, "c 1:3 w")), no_warning)
        path = node(NULL)
        assert opens(cg, (path, R), (path, W), (path, RW)) == ["ok", "EPERM", "EPERM"]


@lanes("unified")
def test_random_rules_as_the_kernel_decides_them() -> None:
    """120 lists: the kernel's verdict is that of a plain last match."""
    dice = random.Random(3)

    def any_rule() -> dict[str, Any]:
        entry: dict[str, Any] = {"allow": dice.random() < 0.6}
        for key, values in (("type", "abc"), ("major", (-1, 1, 5)), ("minor", (-1, 3, 5, 7)),
                            ("access", ("r", "w", "rw", "rwm", "m"))):
            if dice.random() < 0.8:
                entry[key] = dice.choice(values)
        return entry

    with made() as cg, nodes() as node:
        requests = [(numbers, node(numbers), flags, bits) for numbers in (NULL, ZERO, FULL, RANDOM)
                    for flags, bits in ((R, BITS["r"]), (W, BITS["w"]), (RW, BITS["r"] | BITS["w"]))]
        seen = set()
        for _ in range(120):
            rules = [any_rule() for _ in range(dice.randrange(7))]
            devices_bpf.attach(cg.paths[""], reduced(*rules), no_warning)
            expected = ["ok" if naive(rules, "c", *numbers, bits) else "EPERM" for numbers, _, _, bits in requests]
            assert opens(cg, *((path, flags) for _, path, flags, _ in requests)) == expected, rules
            seen.add(tuple(expected))
        assert len(seen) > 20


def programs(cg: Cgroup) -> list[int]:
    fd = os.open(cg.paths[""], os.O_RDONLY)
    try:
        return bpf.attached(fd)
    finally:
        os.close(fd)


@lanes("unified")
def test_replacing_leaves_no_gap() -> None:
    """A process that goes on opening what both allow, and what both deny, never sees otherwise."""
    with made() as cg, nodes() as node:
        null, mem = node(NULL), node(KMSG)
        devices_bpf.attach(cg.paths[""], device_rules.effective([]), no_warning)
        reader, writer = os.pipe()
        stop, stopper = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(stopper)
            os.set_blocking(stop, False)
            cg.add(0)
            wrong = count = 0
            while True:
                wrong += attempt(lambda: os.open(null, RW)) != "ok"
                wrong += attempt(lambda: os.open(mem, R)) != "EPERM"
                count += 1
                try:
                    if os.read(stop, 1) == b"":
                        break
                except BlockingIOError:
                    continue
            os.write(writer, f"{wrong} {count}".encode())
            os._exit(0)
        os.close(stop)
        time.sleep(0.05)
        for n in range(200):
            devices_bpf.attach(cg.paths[""], device_rules.effective([rule(True, f"b {n}:* rwm")]), no_warning)
            assert len(programs(cg)) == 1
        os.close(stopper)
        misses, opened = map(int, os.read(reader, 100).split())
        os.waitpid(pid, 0)
        assert misses == 0 and opened > 200


@lanes("unified")
def test_undo() -> None:
    """The program that was there, none if there was none."""
    with made() as cg, nodes() as node:
        path = node(KMSG), R
        devices_bpf.attach(cg.paths[""], reduced(), no_warning)()
        assert programs(cg) == [] and opens(cg, path) == ["ok"]
        devices_bpf.attach(cg.paths[""], reduced(), no_warning)
        before = programs(cg)
        for other in (reduced(rule(True, "c 1:11 r")), Rules(True)):
            undo = devices_bpf.attach(cg.paths[""], other, no_warning)
            assert opens(cg, path) == ["ok"] and programs(cg) != before
            undo()
            assert opens(cg, path) == ["EPERM"] and programs(cg) == before
        open_files = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            devices_bpf.attach(cg.paths[""], reduced(), no_warning)
        assert len(os.listdir("/proc/self/fd")) == open_files


@lanes("unified")
def test_programs_of_others_stay() -> None:
    """They can only deny more; several of ours become one."""
    with made() as cg, nodes() as node:
        directory = os.open(cg.paths[""], os.O_RDONLY)
        deny_zero = devices_bpf.program(reduced(rule(True), rule(False, "c 1:5 rwm")))
        theirs = bpf.load_device_program(deny_zero, "GPL", "somebodys")
        bpf.attach(directory, theirs, bpf.F_ALLOW_MULTI)
        (their_id,) = bpf.attached(directory)
        for _ in range(2):
            ours = bpf.load_device_program(devices_bpf.program(reduced()), "GPL", devices_bpf.NAME)
            bpf.attach(directory, ours, bpf.F_ALLOW_MULTI)
        assert len(programs(cg)) == 3
        devices_bpf.attach(cg.paths[""], device_rules.effective([]), no_warning)
        assert len(programs(cg)) == 2 and their_id in programs(cg)
        assert opens(cg, (node(NULL), R), (node(ZERO), R), (node(KMSG), R)) == ["ok", "EPERM", "EPERM"]


@lanes("unified")
def test_no_locked_memory_is_needed() -> None:
    """RLIMIT_MEMLOCK of 0, neither needed nor touched."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]))
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with made() as cg:
        devices_bpf.attach(cg.paths[""], device_rules.effective([]), no_warning)
        assert len(programs(cg)) == 1 and resource.getrlimit(resource.RLIMIT_MEMLOCK) == before


@lanes("unified")
def test_where_it_is_not_allowed() -> None:
    """An ordinary user and the root of a user namespace get a warning; a root who can't, an error."""
    with made() as cg:
        def told(lower: Callable[[], None]) -> str:
            warnings: list[str] = []
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    lower()
                    devices_bpf.attach(cg.paths[""], device_rules.effective([]), warnings.append)()
                    os.write(writer, f"warned {warnings}".encode())
                except KernelError as error:
                    os.write(writer, f"raised {error}".encode())
                finally:
                    os._exit(0)
            os.close(writer)
            os.waitpid(pid, 0)
            with open(reader) as pipe:
                return pipe.read()

        def user_namespace() -> None:
            kernel.unshare(kernel.CLONE_NEWUSER)
            Path("/proc/self/uid_map").write_text("0 0 1")

        expected = 'warned ["/linux/resources/devices: the device rules can\'t be enforced by an ordinary user'
        assert told(user_namespace).startswith(expected)
        assert told(lambda: os.setresuid(65534, 65534, 65534)).startswith(expected)
        assert told(lambda: kernel.capset(0, 0, 0)).startswith("raised /linux/resources/devices: attach the device")
        assert programs(cg) == []


@lanes("unified")
def test_many_rules() -> None:
    """The verifier's work doesn't grow with the square of their number (it has a limit)."""
    with made() as cg, nodes() as node:
        many = [rule(True, f"c {n + 2}:{n} rw") for n in range(2000)] + [rule(True, "c 1:11 r")]
        devices_bpf.attach(cg.paths[""], device_rules.effective(many), no_warning)
        assert opens(cg, (node(KMSG), R), (node(KMSG), RW), (node((1, 1)), R)) == ["ok", "EPERM", "EPERM"]


def test_what_the_verifier_says_is_told() -> None:
    with pytest.raises(KernelError) as caught:
        devices_bpf._load(b"\x95" + bytes(7))  # exit, with r0 never set
    assert "verifier says" in str(caught.value) and caught.value.errno in (errno.EACCES, errno.EINVAL)


# Version 1

def listed(cg: Cgroup) -> set[str]:
    return set(device_rules.current(cg.paths["devices"]).splitlines())


def to(cg: Cgroup, rules: Rules) -> None:
    limits.apply(device_rules.v1_writes(rules, device_rules.current(cg.paths["devices"])), cg.paths)


@lanes("hybrid", "legacy")
def test_v1_transitions() -> None:
    """devices.list reads as wanted after each, and opens behave so."""
    with made() as cg, nodes() as node:
        paths = [(node(numbers), flags) for numbers in (NULL, ZERO, KMSG) for flags in (R, RW)]
        for rules, list_, expected in (
            (reduced(rule(True, "c 1:3 rw"), rule(True, "c 1:11 r")), {"c 1:3 rw", "c 1:11 r"},
             "ok ok EPERM EPERM ok EPERM"),
            (reduced(rule(True, "c 1:3 r"), rule(True, "c 1:5 rw")), {"c 1:3 r", "c 1:5 rw"},
             "ok EPERM ok ok EPERM EPERM"),
            (reduced(rule(True, "c 1:* rw")), {"c 1:* rw"}, "ok ok ok ok ok ok"),
            (reduced(rule(True), rule(False, "c 1:5 w")), {"a *:* rwm"}, "ok ok ok EPERM ok ok"),
            (reduced(rule(True), rule(False, "c 1:11 rwm")), {"a *:* rwm"}, "ok ok ok ok EPERM EPERM"),
            (reduced(), set(), "EPERM EPERM EPERM EPERM EPERM EPERM"),
            (reduced(rule(True)), {"a *:* rwm"}, "ok ok ok ok ok ok"),
        ):
            to(cg, rules)
            assert listed(cg) == list_
            assert opens(cg, *paths) == expected.split(), rules


@lanes("hybrid")
def test_v1_the_default_list_and_back() -> None:
    with made() as cg:
        to(cg, device_rules.effective([rule(False)]))
        before = device_rules.current(cg.paths["devices"])
        assert "c *:* m" in listed(cg) and "c 1:3 rwm" in listed(cg) and len(listed(cg)) == 11
        node: Any = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3}
        to(cg, device_rules.effective([rule(True, "b 7:* rw")], [node]))
        assert "b 7:* rw" in listed(cg) and "c 1:3 rwm" not in listed(cg)
        device_rules.restore(cg.paths["devices"], before)
        assert sorted(device_rules.current(cg.paths["devices"]).splitlines()) == sorted(before.splitlines())


@lanes("hybrid")
def test_v1_what_the_parent_denies() -> None:
    """The kernel refuses to give what the cgroup above hasn't, and the error says so."""
    with made("-parent") as parent, made("-parent/child") as child:
        to(child, reduced(rule(True, "c 1:3 rw")))
        with pytest.raises(KernelError, match="cgroups below it"):
            to(parent, reduced(rule(True, "c 1:3 rw")))
    with made("-parent") as parent:
        to(parent, reduced(rule(True, "c 1:3 rw")))
        with made("-parent/child") as child:
            to(child, reduced(rule(True, "c 1:3 r")))
            with pytest.raises(KernelError, match=r"c 1:5 r.*the one above it denies"):
                to(child, reduced(rule(True, "c 1:5 r")))


@lanes("hybrid")
def test_v1_no_gap_when_a_list_changes() -> None:
    with made() as cg, nodes() as node:
        null = node(NULL)
        to(cg, reduced(rule(True, "c 1:3 rw")))
        stop, stopper = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(stopper)
            os.set_blocking(stop, False)
            cg.add(0)
            wrong = 0
            for _ in range(10**7):
                wrong += attempt(lambda: os.open(null, RW)) != "ok"
                with contextlib.suppress(BlockingIOError):
                    if os.read(stop, 1) == b"":
                        break
            os._exit(min(wrong, 100))
        os.close(stop)
        time.sleep(0.05)
        for n in range(200):
            to(cg, reduced(rule(True, ("c 1:* rw", "c 1:3 rwm", "c *:3 rw", "c 1:3 rw")[n % 4])))
        os.close(stopper)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
