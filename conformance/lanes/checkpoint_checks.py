# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as clients make them and restore from them, where criu can work at all (tests/vm has such a kernel).

What is restored counts on: each number is in a shell variable of the container's, and is written down once.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conformance.checks import Table, wait_for
from conformance.lanes.containerd import Containerd
from conformance.lanes.engine import IMAGE, Engine

COUNTER = "i=0; while :; do i=$((i+1)); echo $i >>/v/count; sleep 0.2; done"


def possible() -> bool:
    """Whether criu gets as far as to ask this kernel for a feature, and the kernel has it."""
    try:
        return subprocess.run(["criu", "check", "--feature", "mem_dirty_track"], capture_output=True,
                              timeout=120).returncode == 0
    except FileNotFoundError:
        return False


class Counter:
    """What the container writes into a directory of the host's."""

    def __init__(self, where: Path) -> None:
        self.path = where / "count"

    def numbers(self) -> list[int]:
        return [int(line) for line in self.path.read_text().split()] if self.path.exists() else []

    def go_on(self) -> int:
        """Wait for three more; how many there are."""
        before = len(self.numbers())
        wait_for(lambda: len(self.numbers()) >= before + 3, f"the counter to go on from {before}")
        return len(self.numbers())

    def verdict(self) -> str:
        found = self.numbers()
        return "each number once" if found == list(range(1, len(found) + 1)) else f"{found}"


PODMAN: Table[Engine] = Table()


@contextmanager
def counting(podman: Engine, script: str = COUNTER) -> Iterator[tuple[str, Counter]]:
    """A container that has begun to count, until the end of the block."""
    where = podman.directory(0o777)
    counter = Counter(where)
    with podman.container("--network", "none", "-v", f"{where}:/v", IMAGE, "sh", "-c", script) as name:
        counter.go_on()
        yield name, counter


@PODMAN.check("checkpoint, restore: a counter goes on", "exited running, each number once", timeout=120)
def _(podman: Engine) -> str:
    with counting(podman) as (name, counter):
        podman("container", "checkpoint", name)
        status = podman.inspect(name, "{{.State.Status}}")
        podman("container", "restore", name)
        counter.go_on()
        return f"{status} {podman.inspect(name, '{{.State.Status}}')}, {counter.verdict()}"


@PODMAN.check("checkpoint --leave-running", "running, each number once", timeout=120)
def _(podman: Engine) -> str:
    with counting(podman) as (name, counter):
        podman("container", "checkpoint", "--leave-running", name)
        counter.go_on()
        return f"{podman.inspect(name, '{{.State.Status}}')}, {counter.verdict()}"


@PODMAN.check("checkpoint --export, restore --import: another container, with what it wrote",
              "kept, each number once", timeout=120)
def _(podman: Engine) -> str:
    archive = podman.directory() / "archive.tar.gz"
    with counting(podman, f"echo kept >/kept; {COUNTER}") as (name, counter):
        podman("container", "checkpoint", "--export", archive, name)
    other = podman.name()
    podman("container", "restore", "--import", archive, "--name", other)
    counter.go_on()
    seen = podman("exec", other, "cat", "/kept")
    podman.remove(other)
    return f"{seen}, {counter.verdict()}"


CONTAINERD: Table[Containerd] = Table()
RUNC_SHIM: Table[Containerd] = Table()  # ctr 1.6 passes on what it is told to shims of io.containerd.runc alone


@RUNC_SHIM.check("checkpoint: task checkpoint, and the task goes on", "pages, RUNNING, each number once", timeout=120)
def _(containerd: Containerd) -> str:
    where, images = containerd.directory(), containerd.directory()
    counter = Counter(where)
    with containerd.container("--mount", f"type=bind,src={where},dst=/v,options=rbind:rw",
                              command=("sh", "-c", COUNTER)) as name:
        counter.go_on()
        containerd("task", "checkpoint", "--image-path", str(images), name)
        counter.go_on()
        pages = "pages" if list(images.glob("pages-*.img")) else "no pages"
        return f"{pages}, {containerd.status(name)}, {counter.verdict()}"


@RUNC_SHIM.check("checkpoint: task checkpoint --exit", "STOPPED", timeout=120)
def _(containerd: Containerd) -> str:
    images = containerd.directory()
    with containerd.container() as name:
        containerd("task", "checkpoint", "--exit", "--image-path", str(images), name)
        wait_for(lambda: containerd.status(name) == "STOPPED", "its end")
        return containerd.status(name)


@CONTAINERD.check("checkpoint: container checkpoint, restore --live: another goes on from there", "kept, goes on",
                  timeout=120)
def _(containerd: Containerd) -> str:
    where = containerd.directory()
    counter = Counter(where)
    reference = f"checkpoint/{containerd.name()}"
    with containerd.container("--mount", f"type=bind,src={where},dst=/v,options=rbind:rw",
                              command=("sh", "-c", f"echo kept >/kept; {COUNTER}")) as name:
        counter.go_on()
        containerd("container", "checkpoint", "--rw", "--image", "--task", name, reference)
        counter.go_on()
    last = len(counter.numbers())
    counter.path.unlink()
    other = containerd.name()
    restore = subprocess.Popen([*containerd.words, "container", "restore", "--rw", "--live", other, reference],
                               env=containerd.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        counter.go_on()
        seen = containerd.sh(other, "cat /kept")
    finally:
        containerd.remove(other)
        restore.kill()
        restore.wait()
    found = counter.numbers()
    on = 1 < found[0] <= last + 1 and found == list(range(found[0], found[0] + len(found)))
    return f"{seen}, {'goes on' if on else found}"
