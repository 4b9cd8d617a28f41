# SPDX-License-Identifier: Apache-2.0
"""What tests read from mountinfo (proc_pid_mountinfo(5)), and mounts of the host's that they make."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Mount:
    """One line of mountinfo."""

    def __init__(self, line: str) -> None:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        self.root, self.point = fields[3:5]
        self.options = set(fields[5].split(","))
        self.propagation = fields[6:]
        self.fstype, self.source, data = (*right.split(" "), "")[:3]
        self.data = set(data.split(","))

    def __repr__(self) -> str:
        return f"{self.fstype} on {self.point} {sorted(self.options)} {self.propagation} {sorted(self.data)}"

    def propagates(self, kind: str) -> bool:
        """Whether an optional field is `kind` (shared, master, unbindable)."""
        return any(field.partition(":")[0] == kind for field in self.propagation)


def mounts(text: str) -> list[Mount]:
    """The lines of a mountinfo text."""
    return [Mount(line) for line in text.splitlines() if " - " in line]


def mount_at(text: str, point: str) -> Mount:
    """The mount seen at `point`: the last one there."""
    found = [mount for mount in mounts(text) if mount.point == point]
    assert found, f"nothing is mounted on {point}:\n{text}"
    return found[-1]


def of_process(pid: int) -> str:
    """The mountinfo of a process, from outside."""
    return Path(f"/proc/{pid}/mountinfo").read_text()


@contextmanager
def host_mount(path: Path, *options: str, fstype: str = "tmpfs") -> Iterator[Path]:
    """A file system on the host while the block runs; `options` as mount(8) takes them after -o."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", fstype, "t", path, *(["-o", ",".join(options)] if options else [])], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-R", "-l", path], check=True)


@contextmanager
def host_tree(path: Path, *options: str) -> Iterator[Path]:
    """A tmpfs with another one on its `sub`, both with `options`."""
    with host_mount(path):
        (path / "file").write_text("top\n")
        with host_mount(path / "sub"):
            (path / "sub" / "file").write_text("below\n")
            if options:
                for mount in (path, path / "sub"):
                    subprocess.run(["mount", "-o", ",".join(["remount", "bind", *options]), mount], check=True)
            yield path
