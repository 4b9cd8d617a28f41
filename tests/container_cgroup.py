# SPDX-License-Identifier: Apache-2.0
"""A container's cgroup read from the outside, with the same words on a v1 (or hybrid) and on a v2 host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support import Bundle

ROOT = Path("/sys/fs/cgroup")


def is_v2() -> bool:
    """Whether v2 is all this host has."""
    return (ROOT / "cgroup.controllers").exists()


class ContainerCgroup:
    """The cgroup that process `pid` is in, as it was when this was made."""

    def __init__(self, pid: int) -> None:
        self.paths: dict[str, Path] = {}
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                self.paths[controller] = ROOT / controller.removeprefix("name=") / path.lstrip("/")

    def file(self, v1: str, v2: str) -> Path:
        """A file of the cgroup: `v1` is CONTROLLER/FILE."""
        if is_v2():
            return self.paths[""] / v2
        controller, name = v1.split("/")
        return self.paths[controller] / name

    def cpu_seconds(self) -> float:
        """The processor time that it has used."""
        if is_v2():
            return int(words(self.file("", "cpu.stat"))["usage_usec"]) / 1e6
        return int(self.file("cpuacct/cpuacct.usage", "").read_text()) / 1e9

    def throttled(self) -> int:
        """In how many periods the quota stopped it."""
        return int(words(self.file("cpu/cpu.stat", "cpu.stat"))["nr_throttled"])

    def oom_kills(self) -> int:
        return int(words(self.file("memory/memory.oom_control", "memory.events"))["oom_kill"])

    def pids_current(self) -> int:
        return int(self.file("pids/pids.current", "pids.current").read_text())

    def pids_refused(self) -> int:
        """How many forks the limit refused."""
        return int(words(self.file("pids/pids.events", "pids.events"))["max"])


def words(path: Path) -> dict[str, str]:
    """A file with a name and a value a line."""
    return dict(line.split(" ", 1) for line in path.read_text().splitlines())


def resources(bundle: Bundle, **values: Any) -> Bundle:
    """Put these, and nothing else, into linux.resources; device rules stay as they are unless given."""
    devices = bundle.linux.get("resources", {}).get("devices")
    bundle.linux["resources"] = {**({"devices": devices} if devices else {}), **values}
    return bundle
