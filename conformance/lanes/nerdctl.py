# SPDX-License-Identifier: Apache-2.0
"""nerdctl above containerd 2, with containerd's own shim: what it has in common with Docker and Podman."""

from __future__ import annotations

import shutil
from pathlib import Path

from conformance import image
from conformance.checks import Table, wait_for
from conformance.lanes import engine, engine_options
from conformance.lanes.base import Done
from conformance.lanes.engine import Engine
from conformance.sandbox import Room

#: What nerdctl 2.3.5 does otherwise, whatever the runtime.
OTHERWISE = (
    "run -i: standard input and its end", "run: a megabyte through a pipe",  # they don't end
    # Its exit code is 1, whatever the reason and the program's.
    "run: no such program", "run: a program that may not be executed", "run: a directory as the program",
    "exec: exit status", "exec -it: a terminal", "exec: a program that may not be executed",
    "--device-cgroup-rule", "--memory: out of memory",  # it has no such option, and doesn't tell
    "diff",  # it doesn't tell of the directories
    "--pid host, --ipc host, --uts host",  # it binds the host's /dev/mqueue, which may not be there
)


class Nerdctl(Engine):
    exec_missing = "1"
    needs = ("nerdctl", "containerd", "containerd-shim-runc-v2", "iptables", "tini-static")

    def start(self) -> None:
        place = self.scratch / "containerd"
        place.mkdir()
        (place / "config.toml").write_text(f"""version = 3
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"]
[grpc]
  address = "{place}/socket"
[plugins."io.containerd.internal.v1.opt"]
  path = "{place}/opt"
""")
        (place / "bin").mkdir()
        # The container has no loader for another.
        (place / "bin/tini").symlink_to(shutil.which("tini-static", path=self.environment["PATH"]) or "")
        self.environment["PATH"] = f"{place}/bin:{self.environment['PATH']}"
        self.environment["CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS"] = "1"
        self.daemon(["containerd", "-c", place / "config.toml"], place / "log", place / "socket")
        self.words = ["nerdctl", "--address", place / "socket", "--data-root", self.scratch / "nerdctl",
                      "--cni-path", "/usr/lib/cni", "--cni-netconfpath", self.scratch / "networks",
                      "--cgroup-manager", "cgroupfs"]
        wait_for(lambda: self.do("version").code == 0, "containerd to answer")
        archive = self.scratch / "busybox.tar"
        image.write(archive)
        self("load", "-i", archive)

    def do(self, *words: str | Path, input: str = "") -> Done:
        done = super().do(*self.with_runtime(words), input=input)
        # It forwards signals to a container that is gone, and says so.
        lines = [line for line in done.err.splitlines() if "forward signal child exited" not in line]
        return Done(done.code, done.out, "\n".join(lines))

    def run(self, *words: str | Path, input: str = "") -> str:
        """A second time where nothing has come: it may end before it has read all, as ctr (docs/conformance.md)."""
        return super().run(*words, input=input) or super().run(*words, input=input)

    def talk(self, *words: str | Path, answer: tuple[tuple[str, str], ...]) -> tuple[int, str]:
        return super().talk(*self.with_runtime(words), answer=answer)

    def probe(self, name: str) -> None:
        # It leaves that to systemd's timers, as Podman does.
        self.do("container", "healthcheck", name)

    def with_runtime(self, words: tuple[str | Path, ...]) -> tuple[str | Path, ...]:
        """nerdctl is told for each container."""
        return (words[0], "--runtime", self.runtime, *words[1:]) if words[0] in ("run", "create") else words

    @staticmethod
    def table() -> Table[Engine]:
        table = Table(engine.TABLE, engine_options.TABLE)
        table.checks = [check for check in table.checks if check.name not in OTHERWISE]
        return table


def make(room: Room, runtime: str, suite: str) -> Nerdctl:
    return Nerdctl(room, runtime)
