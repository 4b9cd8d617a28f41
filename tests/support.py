# SPDX-License-Identifier: Apache-2.0
"""What tests share: a runtime to drive, bundles to drive it with, a view of the host to compare."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import machines

BUSYBOX = "/bin/busybox"
PYRUNC = str(Path(sys.prefix) / "bin" / "pyrunc")
GLIBCS_OWN = (32, 33)  # the signals that glibc keeps to itself, and hides from its signal calls
SLOW = 10 if os.environ.get("PYRUNC_VM") else 1  # an emulated machine, whose processors others use as well
AT_FIRST = os.readlink("/proc/self/ns/mnt")  # pytest may go on in a mount namespace of its own: conftest.py
WAIT = 20.0 * SLOW  # seconds for something that happens at once


def runc_version() -> tuple[int, ...]:
    """Of the one in PATH: Debian 12 has 1.1.5, 13 has 1.1.15."""
    found = subprocess.run(["runc", "--version"], capture_output=True, text=True, check=True)
    return tuple(map(int, re.findall(r"\d+", found.stdout)[:3]))


class Result:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def errors(self) -> list[str]:
        return self.err.splitlines()

    def __repr__(self) -> str:
        return f"Result(code={self.code}, out={self.out!r}, err={self.err!r})"


def make_rootfs(path: Path) -> Path:
    """A busybox root."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "mnt"):
        (path / name).mkdir(parents=True, exist_ok=True)
    shutil.copy2(BUSYBOX, path / "bin" / "busybox")
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in listed:
        link = path / "bin" / applet
        if applet != "busybox" and not link.exists():
            link.symlink_to("busybox")
    (path / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
    (path / "etc" / "group").write_text("root:x:0:\nalice:x:1000:\n")
    return path


class Bundle:
    """A bundle directory and the config.json to be; `config` is changed freely, `save` writes it."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.rootfs = path / "rootfs"
        self.config = config

    def save(self) -> Path:
        (self.path / "config.json").write_text(json.dumps(self.config))
        return self.path

    @property
    def process(self) -> dict[str, Any]:
        return self.config["process"]

    @property
    def linux(self) -> dict[str, Any]:
        return self.config["linux"]

    def args(self, *words: str) -> Bundle:
        """The program: one word is a shell script, several are args."""
        self.process["args"] = ["sh", "-c", words[0]] if len(words) == 1 else list(words)
        return self

    def mount(self, source: str | Path, destination: str, *, type: str = "none",
              options: Iterable[str] = ("bind",)) -> Bundle:
        self.config["mounts"].append({"source": str(source), "destination": destination, "type": type,
                                      "options": list(options)})
        return self

    def namespace(self, type: str, path: str | None = None) -> Bundle:
        """Make (or join) the namespace instead of what was there of its type."""
        self.without(type)
        self.linux["namespaces"].append({"type": type, **({"path": path} if path else {})})
        return self

    def without(self, type: str) -> Bundle:
        self.linux["namespaces"] = [ns for ns in self.linux["namespaces"] if ns["type"] != type]
        return self


class Runtime:
    """A runtime's command line, with a state root of its own; `name` is pyrunc, runc or crun."""

    def __init__(self, path: str, root: Path) -> None:
        self.path = path
        self.name = Path(path).name
        self.root = root
        self.ids: list[str] = []

    def command(self, *words: str | Path) -> list[str]:
        return [self.path, "--root", str(self.root), *map(str, words)]

    def __call__(self, *words: str | Path, stdin: str = "", timeout: float = 60.0, **kwargs: Any) -> Result:
        """Any command.  stdout and stderr are files: a container that lives on must not hold a pipe."""
        out = self.root.parent / f"out-{uuid.uuid4().hex}"
        err = out.with_name(out.name + "-err")
        with open(out, "w+b") as out_file, open(err, "w+b") as err_file:
            done = subprocess.run(self.command(*words), stdout=out_file, stderr=err_file, timeout=timeout * SLOW,
                                  input=stdin.encode(), **kwargs)
            result = Result(done.returncode, out.read_text(errors="replace"), err.read_text(errors="replace"))
        out.unlink()
        err.unlink()
        return result

    def new_id(self) -> str:
        container_id = f"t{uuid.uuid4().hex[:12]}"
        self.ids.append(container_id)
        return container_id

    def run(self, bundle: Bundle, script: str = "", *options: str, **kwargs: Any) -> Result:
        """`run` of the bundle, with `script` as its program where given."""
        if script:
            bundle.args(script)
        bundle.save()
        return self("run", *options, "--bundle", bundle.path, self.new_id(), **kwargs)

    def create(self, bundle: Bundle, *options: str, container_id: str = "", output: Path | None = None) -> str:
        """`create`, which has to work; the id.  The container's output goes to `output` where given."""
        bundle.save()
        container_id = container_id or self.new_id()
        self.ids.append(container_id)
        with open(output or os.devnull, "ab") as file, open(f"{self.root}-create-err", "w+b") as err:
            done = subprocess.run(self.command("create", *options, "--bundle", bundle.path, container_id),
                                  stdin=subprocess.DEVNULL, stdout=file, stderr=file if output else err,
                                  timeout=60 * SLOW,
                                  pass_fds=())
            err.seek(0)
            assert done.returncode == 0, err.read().decode() + (output.read_text() if output else "")
        return container_id

    def state(self, container_id: str) -> dict[str, Any]:
        result = self("state", container_id)
        assert result.code == 0, result
        return json.loads(result.out)

    def wait(self, container_id: str, status: str = "stopped") -> None:
        """Until the container has that status."""
        wait_for(lambda: self.state(container_id)["status"] == status, f"{container_id} to be {status}")

    def clean_up(self) -> None:
        for container_id in filter(lambda name: (self.root / name).exists(), self.ids):
            subprocess.run(self.command("delete", "--force", container_id), capture_output=True, timeout=60 * SLOW)


def wait_for(condition: Any, what: str, timeout: float = WAIT) -> None:
    """Poll until `condition()` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        time.sleep(0.01)


class Host:
    """What a runtime could leave behind: mounts, cgroups, processes, network interfaces, state."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # On a machine that other suites use at the same time, only our own cgroups can be compared.
        self.shared = bool(os.environ.get("PYRUNC_TESTS_SHARE_THE_MACHINE"))
        self.before = self.look()

    def look(self) -> dict[str, list[str]]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        mounts = sorted(" ".join([*line.split()[3:6], line.partition(" - ")[2]]) for line in lines)
        own = set(self._state()) if self.shared else set()
        cgroups = sorted(path for path, _, _ in os.walk("/sys/fs/cgroup")
                         if not self.shared or os.path.basename(path) in own)
        return {"mounts": mounts, "cgroups": cgroups, "processes": self._processes(), "state": self._state()}

    def _state(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*")) if self.root.exists() else []

    @staticmethod
    def _processes() -> list[str]:
        """Those that stand in a mount namespace other than ours."""
        own = {AT_FIRST, os.readlink("/proc/self/ns/mnt")}
        found = []
        for entry in os.listdir("/proc"):
            try:
                if not entry.isdigit() or os.readlink(f"/proc/{entry}/ns/mnt") in own:
                    continue
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z" and fields[3] not in machines.SESSIONS:
                    found.append(f"{entry} {Path(f'/proc/{entry}/cmdline').read_text()!r}")
            except OSError:
                continue
        return sorted(found)

    def assert_unchanged(self) -> None:
        """Everything is as it was when this was made; what is still going is given a moment."""
        deadline = time.monotonic() + 5 * SLOW
        while (now := self.look()) != self.before and time.monotonic() < deadline:
            time.sleep(0.05)
        changed = {what: {"gone": sorted(set(self.before[what]) - set(now[what])),
                          "new": sorted(set(now[what]) - set(self.before[what]))}
                   for what in now if now[what] != self.before[what]}
        assert not changed, f"the host has changed: {changed}"


def without_hybrid(words: Sequence[str | Path]) -> list[str | Path]:
    """The command in a mount namespace where a hybrid host has its v1 hierarchies alone: crun 1.8 refuses hybrid."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c",
            'mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec "$@"', "sh", *words]
