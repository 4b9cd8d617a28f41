# SPDX-License-Identifier: Apache-2.0
"""Descriptors of the host's that stay open in the container, and working directories that lead out through them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attacks import Attack, replace
from support import Bundle, Host, Runtime

#: Nothing is closed, and nobody looks where the working directory is.
LEAKING = """
from pyrunc import process
from pyrunc.linux import process as k
k.close_all_but = lambda keep: None
process._is_below_root = lambda: True
"""


@pytest.fixture
def leaked(tmp_path: Path) -> Iterator[list[int]]:
    """Directories that the runtime's caller has left open."""
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in ("/", "/etc", str(tmp_path), "/sys/fs/cgroup")]
    yield fds
    for fd in fds:
        os.close(fd)


@pytest.mark.attack("CVE-2024-21626", "the working directory is /proc/self/fd/N, a directory of the host's left open")
def test_cve_2024_21626_the_working_directory_is_inside(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                        runc: Runtime, weakened: Callable[[str], Runtime],
                                                        leaked: list[int]) -> None:
    """Neither a descriptor of the runtime's nor one of its caller's leads out, as a cwd or afterwards."""
    secret = Path("/etc/debian_version").read_text()
    script = "cat etc/debian_version ../../../../../../etc/debian_version"

    def works(victim: Runtime, cwd: str, *, refused: bool = False) -> bool:
        bundle.process["cwd"] = cwd
        result = victim.run(bundle, script, pass_fds=leaked)
        assert result.code != 0 or not refused, (cwd, result)
        return secret in result.out

    for number in range(3, 21):
        for cwd in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../.."):
            attack.on(runtime, works(runtime, cwd, refused=True))
    replace(bundle, "work", f"/proc/self/fd/{leaked[0]}")
    attack.on(runtime, works(runtime, "/work"))
    victim = weakened(LEAKING)
    for number in range(3, 21):
        attack.on(runc, works(runc, f"/proc/self/fd/{number}"))
    attack.on("pyrunc that closes nothing", works(victim, f"/proc/self/fd/{leaked[0]}"))
    assert not works(victim, "/")  # the control: it was the descriptor


@pytest.mark.attack("CVE-2024-21626", "the same by exec --cwd")
def test_cve_2024_21626_exec_cwd(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack, runc: Runtime,
                                 weakened: Callable[[str], Runtime], leaked: list[int]) -> None:
    secret = Path("/etc/debian_version").read_text()
    replace(bundle, "work", f"/proc/self/fd/{leaked[0]}")
    script = ("sh", "-c", "cat etc/debian_version ../../../../../../etc/debian_version")

    def started(victim: Runtime) -> str:
        container = victim.create(bundle.args("sleep", "100"))
        assert victim("start", container).code == 0
        return container

    container = started(runtime)
    for cwd in (*(f"/proc/self/fd/{number}" for number in range(3, 21)), "/work", f"/proc/1/fd/{leaked[0]}",
                "/proc/self/cwd/../../.."):
        result = runtime("exec", "--cwd", cwd, container, *script, pass_fds=leaked)
        assert result.code != 0 or cwd.startswith("/proc/self/cwd"), (cwd, result)
        attack.on(runtime, secret in result.out)
    # stdin may be a directory too, and stays open.
    directory = os.open("/", os.O_RDONLY)
    result = subprocess.run(runtime.command("exec", "--cwd", "/proc/self/fd/0", container, *script),
                            stdin=directory, capture_output=True, text=True)
    os.close(directory)
    assert result.returncode == 255 and "is outside of the container's root" in result.stderr
    assert runtime("exec", "--cwd", "/etc", container, "pwd").lines == ["/etc"]  # the control
    container = started(runc)
    for number in range(3, 21):
        result = runc("exec", "--cwd", f"/proc/self/fd/{number}", container, *script, pass_fds=leaked)
        attack.on(runc, secret in result.out)
    victim = weakened(LEAKING)
    container = started(victim)
    result = victim("exec", "--cwd", f"/proc/self/fd/{leaked[0]}", container, *script, pass_fds=leaked)
    attack.on("pyrunc that closes nothing", secret in result.out)


@pytest.mark.attack("descriptors", "descriptors of the caller's, or of the runtime's, are open in the container")
@pytest.mark.parametrize("how", ["run", "exec"])
def test_no_descriptor_of_the_hosts_is_left_open(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                 runc: Runtime, weakened: Callable[[str], Runtime], tmp_path: Path,
                                                 how: str) -> None:
    """Fifty of the caller's, and all of the runtime's own: inside there are 0, 1 and 2."""
    leaked = [os.open(tmp_path, os.O_RDONLY) for _ in range(50)]

    def left(victim: Runtime) -> list[str]:
        if how == "run":
            return victim.run(bundle.args("ls", "/proc/self/fd"), pass_fds=leaked).lines
        container = victim.create(bundle.args("sleep", "100"))
        assert victim("start", container).code == 0
        return victim("exec", container, "ls", "/proc/self/fd", pass_fds=leaked).lines

    # busybox's ls has one open itself: the directory it lists.
    expected = ["0", "1", "2", "3"]
    attack.on(runtime, left(runtime) != expected)
    attack.on(runc, left(runc) != expected)
    attack.on("pyrunc that closes nothing", len(left(weakened(LEAKING))) > 50)
    for fd in leaked:
        os.close(fd)


def test_preserved_descriptors_are_passed_and_no_others(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """--preserve-fds N: 3 … 3+N-1, which the shell puts there."""
    bundle.args("ls", "-l", "/proc/self/fd").save()
    line = " ".join(runtime.command("run", "--preserve-fds", "2", "--bundle", bundle.path, runtime.new_id()))
    done = subprocess.run(["sh", "-c", f"exec 3</etc/passwd 4</etc/group 5</etc/hosts; {line}"], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL)
    links = dict(re.findall(r" (\d+) -> (\S+)", done.stdout))
    assert set(links) == {"0", "1", "2", "3", "4"}, done
    assert (links["3"], links["4"]) == ("/etc/passwd", "/etc/group")
    assert len(done.stdout.splitlines()) == 7, done  # a headline; and ls's own, closed by the time it is looked at
