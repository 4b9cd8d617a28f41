# SPDX-License-Identifier: Apache-2.0
"""A container whose program tries everything on each process that it sees appear, and what came of it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import Bundle, Runtime, wait_for

CAPABILITIES = ("bounding", "effective", "permitted")
SEALED = 15  # all the seals of fcntl(2), File Sealing
OF_THE_RUNTIME = ("memfd:pyrunc", "pyrunc", "weakened", "runc", "exe", "python")  # as the kernel cuts names: 15 bytes


class Snooped:
    """What the program wrote."""

    def __init__(self, text: str) -> None:
        lines = [line.split(" ", 2) for line in text.splitlines()]
        self.seen = {rest[0] for what, *rest in lines if what == "seen"}
        # (what, whose, detail): exe, fd, map_files, cwd, root, mem, environ, auxv, ptrace
        self.opened = [(rest[0], *rest[1].split(" ", 1)) for what, *rest in lines if what == "opened"]
        self.refused = {(rest[0], *rest[1].rsplit(" ", 1)) for what, *rest in lines if what == "refused"}
        # (whose, what, value) of processes that were traced: Uid, CapPrm, fd, root...
        self.held = [(rest[0], *" ".join(rest[1].split()).split(" ", 1)) for what, *rest in lines if what == "held"]
        self.writable = [" ".join(rest) for what, *rest in lines if what == "writable"]

    def runtime_was_seen(self) -> bool:
        """The control: it was there to be attacked, under a name of its own."""
        return any(name.startswith(OF_THE_RUNTIME) for name in self.seen)

    def held_of_the_runtime(self, kind: str) -> set[str]:
        """What those had that were traced while they had the runtime's name."""
        return {value.strip() for name, what, value in self.held
                if name.startswith(OF_THE_RUNTIME) and what.rstrip(":") == kind}

    def writable_of(self, files: set[Path]) -> list[str]:
        """The files of the host's that could be opened for writing."""
        identities = {f"{os.stat(path).st_dev}:{os.stat(path).st_ino}" for path in files}
        return [line for line in self.writable if line.split()[0] in identities]

    def opened_of_the_runtime(self, *kinds: str) -> list[str]:
        """What could be opened of a process that had the runtime's name."""
        return [" ".join(entry) for entry in self.opened
                if entry[1].startswith(OF_THE_RUNTIME) and (not kinds or entry[0] in kinds)]


def prepare(bundle: Bundle, attacker: Path, *capabilities: str) -> Bundle:
    """Let the container run the program, with these capabilities besides."""
    shutil.copy(attacker, bundle.rootfs / "bin" / "attacker")
    for kind in CAPABILITIES:
        bundle.process["capabilities"][kind] += capabilities
    return bundle.args("/bin/attacker", "snoop", "/result", "/stop")


class Snooping:
    """The container while it runs."""

    def __init__(self, container: str, result: Path) -> None:
        self.container = container
        self._result = result
        self.found = Snooped("")

    def look(self) -> Snooped:
        """What it has found up to now."""
        self.found = Snooped(self._result.read_text().rpartition("\n")[0])
        return self.found


@contextmanager
def snooping(runtime: Runtime, bundle: Bundle) -> Iterator[Snooping]:
    """The container runs while the block does; what it has found by its end is in `found`."""
    result, stop = bundle.rootfs / "result", bundle.rootfs / "stop"
    for path in (result, stop):
        path.unlink(missing_ok=True)
    container = runtime.create(bundle)
    snooping = Snooping(container, result)
    assert runtime("start", container).code == 0
    wait_for(lambda: result.exists() and result.read_text().startswith("ready"), "the attacker")
    try:
        yield snooping
    finally:
        stop.touch()
        wait_for(lambda: result.read_text().endswith("end\n"), "the attacker's end", 60)
        snooping.look()
        runtime("delete", "--force", container)


def call(runtime: Runtime, *words: str | Path) -> int:
    """A command that an attacker may be in the way of; its exit code, -1 where it could not even be executed."""
    try:
        return runtime(*words).code
    except OSError as error:
        assert error.errno == errno.ETXTBSY  # a program that somebody has open for writing
        return -1
