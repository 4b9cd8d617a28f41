# SPDX-License-Identifier: Apache-2.0
"""The process that `start` leaves behind, and the shims that are forked from it (pyrunc_shim/template.py)."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import shim_client
from shim_client import NAMESPACE, SHIM, Events, Shim, descriptors, program
from support import wait_for

from .test_shim import Box, box, events, gone

__all__ = ["box", "events"]

TEMPLATES = Path("/run/containerd/pyrunc-shim")

pytestmark = pytest.mark.skipif(SHIM.read_bytes()[:4] != b"\x7fELF", reason="the launcher is a script here")


def program_of(pid: int) -> int:
    """The inode of the sealed copy that it runs: of shims that come of one template the same."""
    return os.stat(f"/proc/{pid}/exe").st_ino


def template() -> int:
    """The pid of one that answers; 0 if there is none."""
    for path in TEMPLATES.iterdir() if TEMPLATES.exists() else ():
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                try:
                    connection.connect(str(path))
                except OSError:
                    continue
                pid = int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
                if pid:
                    return pid
    return 0


@pytest.fixture
def first(box: Box) -> int:
    """The program of the shims that the template makes, which is there."""
    bundle = box.make_bundle("first").args("true")
    bundle.save()
    pid = box.launch("first", bundle.path).pid()
    wait_for(lambda: bool(template()), "the template to be ready")
    return program_of(pid)


def named(word: str) -> set[int]:
    """Processes of the shim's program with that argument."""
    found = set()
    for entry in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_text().split("\0")
        except OSError:  # no process, or gone meanwhile
            continue
        if words[0] == str(SHIM) and word in words:
            found.add(int(entry))
    return found


def next_shim(box: Box, name: str = "next") -> Shim:
    bundle = box.make_bundle(name).args("sleep 1000")
    bundle.save()
    return box.launch(name, bundle.path)


def test_a_shim_of_the_template_is_its_own(box: Box, first: int, tmp_path: Path) -> None:
    """Command line, session, descriptors, environment, log: as if it had been started."""
    other = Events(tmp_path / "other")
    bundle = box.make_bundle("next").args("exit 3")
    bundle.save()
    box.events, kept = other, box.events
    try:
        shim = box.launch("next", bundle.path)
        shim.create("next", bundle.path, box.root)
        shim.start("next")
        assert shim.wait("next") == 3
        assert other.wait("next", "exit").exit_status == 3  # TTRPC_ADDRESS is its own
        assert kept.topics("next") == []
    finally:
        box.events = kept
        other.close()
    pid = shim.pid()
    assert program_of(pid) == first
    words = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    assert words == [str(SHIM), "-namespace", NAMESPACE, "-address", f"{other.path}.grpc", "-publish-binary",
                     "/bin/false", "-id", "next", "-debug", "start"]
    assert os.getpgid(pid) == pid and os.getsid(pid) == os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == str(bundle.path)
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1)] == ["/dev/null", "/dev/null"]
    assert os.readlink(f"/proc/{pid}/fd/2") == str(bundle.path / "log")
    opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert not [name for name in opened if str(TEMPLATES) in name]
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == \
        int(Path(f"/proc/{template()}/oom_score_adj").read_text()) + 1


def test_it_keeps_nothing_of_the_shims(box: Box, first: int) -> None:
    """Neither descriptors nor children."""
    parent = template()
    shims = [next_shim(box, f"c{number}") for number in range(5)]
    assert {program_of(shim.pid()) for shim in shims} == {first}
    # Standard streams, lock, socket; and for a moment a connection, as that of `template`.
    wait_for(lambda: descriptors(parent) == 5, "the template to let go of what it was given")
    pid = shims[0].pid()
    os.kill(pid, 9)
    wait_for(lambda: gone(pid), "the shim to be gone, and no zombie")


def test_errors_are_those_of_start(box: Box, first: int) -> None:
    bundle = box.make_bundle("c1")
    bundle.save()
    (bundle.path / "config.json").unlink()
    done = program(bundle.path, "c1", box.events, "start")
    assert done.returncode == 1 and done.stdout == b""
    assert done.stderr.startswith(b"containerd-shim-pyrunc-v1: ") and b"config.json" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_group_has_one_shim_through_the_template_too(box: Box, first: int) -> None:
    shims = []
    for name in ("pod", "one"):
        bundle = box.make_bundle(name).args("true")
        bundle.config["annotations"] = {"io.kubernetes.cri.sandbox-id": "pod"}
        bundle.save()
        shims.append(box.launch(name, bundle.path))
    assert shims[0].address == shims[1].address and shims[0].pid() == shims[1].pid()


CHANGES = [
    ["sh", "-c", "umask 7; exec \"$@\"", "sh"], ["nice", "-n", "3"], ["prlimit", "--nofile=100:100"],
    ["choom", "-n", "77", "--"], ["setpriv", "--no-new-privs"], ["unshare", "--uts"], ["unshare", "--ipc"],
    ["setpriv", "--bounding-set", "-sys_boot"], ["setpriv", "--groups", "5"], ["taskset", "1"], ["setsid", "--wait"],
    ["env", "SCHED_CORE=1"],
]


def test_whoever_is_not_like_it_starts_an_interpreter(box: Box, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shim has the limits, privileges and namespaces of the containerd that wants it."""
    run = subprocess.run
    made_by_it = []
    for number, change in enumerate([["env"], *CHANGES]):
        monkeypatch.setattr(shim_client.subprocess, "run", lambda words, change=change, **more:
                            run([*change, *words], **more))
        name = f"c{number}"
        bundle = box.make_bundle(name).args("true")
        bundle.save()
        done = program(bundle.path, name, box.events, "start")
        if "SCHED_CORE=1" in change and done.returncode:
            continue  # not on this kernel
        assert done.returncode == 0, (change, done)
        shim = Shim(done.stdout.decode())
        box.shims.append(shim)
        box.created.append((name, bundle.path))
        if program_of(shim.pid()) == first:
            made_by_it.append(change)
    assert made_by_it == [["env"]]  # the control, which changes nothing


def installed(place: Path) -> Path:
    """A copy of the shim and its packages: its program."""
    site = next(path for path in SHIM.parents[1].glob("lib/python3*/site-packages"))
    target = place / site.relative_to(SHIM.parents[1])
    target.mkdir(parents=True)
    (place / "bin").mkdir()
    for name in ("pyrunc", "pyrunc_shim"):
        shutil.copytree(site / name, target / name)
    shutil.copy2(SHIM, place / "bin")
    return place / "bin" / SHIM.name


def replace_program(copy: Path) -> None:
    shutil.copy2(copy, copy.with_suffix(".new"))
    os.rename(copy.with_suffix(".new"), copy)


def replace_package(copy: Path) -> None:
    (file,) = copy.parents[1].glob("lib/python3*/site-packages/pyrunc/__init__.py")
    shutil.copy(file, file.with_suffix(".new"))
    os.rename(file.with_suffix(".new"), file)


@pytest.mark.parametrize("upgrade", [replace_program, replace_package])
def test_after_an_upgrade_the_old_code_makes_no_shims(box: Box, tmp_path: Path, upgrade: Callable[[Path], None],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    copy = installed(tmp_path / "installed")
    monkeypatch.setattr(shim_client, "SHIM", copy)
    before = program_of(next_shim(box, "c1").pid())
    wait_for(lambda: bool(template()), "the template to be ready")
    assert program_of(next_shim(box, "c2").pid()) == before
    upgrade(copy)
    assert program_of(next_shim(box, "c3").pid()) != before


def test_one_that_was_killed_or_hangs_is_no_obstacle(box: Box, first: int) -> None:
    pid = template()
    os.kill(pid, 9)
    wait_for(lambda: gone(pid), "the template to be gone")
    after = program_of(next_shim(box, "c1").pid())
    assert after != first
    wait_for(lambda: bool(template()), "the next template")
    assert program_of(next_shim(box, "c2").pid()) == after
    assert len(list(TEMPLATES.glob("*.lock"))) == len([path for path in TEMPLATES.iterdir() if path.is_socket()])


def test_only_one_is_left_behind(box: Box) -> None:
    shims = [next_shim(box, f"c{number}") for number in range(4)]
    wait_for(lambda: bool(template()), "the template to be ready")
    assert named("template") == {template()}
    assert named(NAMESPACE) == {shim.pid() for shim in shims}


def test_it_ends_when_nobody_wants_a_shim_and_leaves_nothing() -> None:
    """In an interpreter of its own, with less patience."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pyrunc_shim import template
template._REST_SECONDS = 0
template._IDLE_SECONDS = 0.2
template._become({place!r} + "/t", template._hold({place!r} + "/t"), template._package())
"""
        assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
        assert os.listdir(place) == []


def test_launcher_and_package_agree() -> None:
    """On the variable, and on how a request is accepted."""
    root = Path(__file__).parents[2]
    launcher = (root / "launcher" / "shim.c").read_text()
    (variable,) = re.findall(r'#define TEMPLATE_VARIABLE "(.*)"', launcher)
    assert f'os.environ.pop("{variable}", "")' in (root / "shims/pyrunc_shim/starting.py").read_text()
    (word,) = re.findall(r'accepted\[\] = "(.*)"', launcher)
    assert f'connection.send(b"{word}")' in (root / "shims/pyrunc_shim/template.py").read_text()
