# SPDX-License-Identifier: Apache-2.0
"""containerd with pyrunc's shim beside containerd's own with runc and with crun, in one alternating run.

    python -m bench.shim --bin DIRECTORY [--rounds N] [--shims N] [--json FILE]

DIRECTORY has pyrunc's shim.  A containerd of its own (the one in PATH), in namespaces and on tmpfs that vanish
with it.  In each round every contestant, in an order that rotates, runs a container by `ctr run --rm`: wall is
what ctr's caller waits.  `ctr version` is what a call of ctr costs at least.  pyrunc's shims come of a template
that an earlier one has left behind; "cold" is without.  Then each keeps some containers running: memory is the
proportional set size of each one's shim (smaps_rollup), the first alone, and each of all; of the template too.
A contestant that can't run here is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conformance import image

SHIM = "containerd-shim-pyrunc-v1"
COLD = "cold"
CONTESTANTS = {
    "pyrunc": ["--runtime", "io.containerd.pyrunc.v1"],
    COLD: ["--runtime", "io.containerd.pyrunc.v1"],
    "runc": ["--runtime", "io.containerd.runc.v2", "--runc-binary", "runc"],
    "crun": ["--runtime", "io.containerd.runc.v2", "--runc-binary", "crun"],
}
CONFIG = """\
version = 2
root = "{place}/root"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{place}/socket"
[plugins."io.containerd.internal.v1.opt"]
  path = "{place}/opt"
"""
TEMPLATES = Path("/run/containerd/pyrunc-shim")
WARM_UP = 2
FLOOR = "ctr alone"
TEMPLATE = "template"


class Failed(Exception):
    """A command that should not have failed did."""


class Containerd:
    """One that serves below `place`."""

    def __init__(self, place: Path, programs: str) -> None:
        self.place = place
        self.output = place / "output"
        self.environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": "/root"}
        self.words = [shutil.which("ctr") or "ctr", "-a", str(place / "socket")]
        (place / "config.toml").write_text(CONFIG.format(place=place))
        with open(place / "log", "wb") as log:
            self.process = subprocess.Popen(["containerd", "-c", place / "config.toml"], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env=self.environment)
        for _ in range(600):
            try:
                self.run("version")
                break
            except Failed:
                time.sleep(0.1)
        image.write(place / "image.tar")
        self.run("images", "import", str(place / "image.tar"))

    def run(self, *words: str) -> float:
        """Milliseconds of a command of ctr.  Raises Failed."""
        # A file and not a pipe: what it leaves running would hold that.
        files = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
        files += [(os.POSIX_SPAWN_OPEN, fd, str(self.output), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                  for fd in (1, 2)]
        self.output.unlink(missing_ok=True)
        argv = [*self.words, *words]
        started = time.perf_counter()
        pid = os.posix_spawn(argv[0], argv, self.environment, file_actions=files)
        _, status = os.waitpid(pid, 0)
        wall = time.perf_counter() - started
        if status:
            raise Failed(f"{' '.join(words)}: {self.output.read_text(errors='replace').strip()}")
        return wall * 1000

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextmanager
def hidden_template(hide: bool) -> Iterator[None]:
    """No `start` finds the template meanwhile, nor leaves another behind."""
    sockets = [path for path in TEMPLATES.glob("*") if hide and path.is_socket()]
    for path in sockets:
        path.rename(path.with_suffix(".hidden"))
    yield
    for path in sockets:
        path.with_suffix(".hidden").rename(path)


def rounds(containerd: Containerd, count: int) -> dict[str, list[float]]:
    """The milliseconds of each contestant's runs, and of ctr alone."""
    results: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    floor = []
    for number in range(-WARM_UP, count):
        alive = list(results)
        turn = number % len(alive)
        for name in alive[turn:] + alive[:turn]:
            words = ["run", "--rm", *CONTESTANTS[name], image.NAME, f"bench-{name}-{number + WARM_UP}", "true"]
            try:
                with hidden_template(name == COLD):
                    wall = containerd.run(*words)
            except Failed as error:
                print(f"left out: {error}", file=sys.stderr)
                del results[name]
                continue
            if number >= 0:
                results[name].append(wall)
        if not results:
            sys.exit("no runtime works here")
        if number >= 0:
            floor.append(containerd.run("version"))
        else:
            time.sleep(2)  # until there is a template
    return {**results, FLOOR: floor}


def shims(name: str) -> set[int]:
    """The pids of the shims of the containers whose names begin so."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # gone meanwhile
            if b"containerd-shim" in words[0] and any(word.startswith(name.encode()) for word in words[1:]):
                found.add(int(entry))
    return found


def proportional(pid: int) -> float:
    """Mebibytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise Failed(f"no Pss of {pid}")


def memory(containerd: Containerd, name: str, count: int) -> dict[str, list[float]]:
    """Of the first shim, alone; then of each of `count`.  The same of the template, if there is one."""
    names = [f"memory-{name}-{number}" for number in range(count)]
    found: dict[str, list[float]] = {name: [], TEMPLATE: []}
    for number, container in enumerate(names, 1):
        containerd.run("run", "-d", *CONTESTANTS[name], image.NAME, container, "sleep", "1000")
        if number in (1, count):
            time.sleep(2)  # until they have come to rest
            found[name] += map(proportional, shims(f"memory-{name}-"))
            found[TEMPLATE] += map(proportional, shims("template") if name == "pyrunc" else ())
    for container in names:
        containerd.run("tasks", "kill", "-s", "KILL", container)
    for container in names:
        for _ in range(100):
            try:
                containerd.run("tasks", "delete", container)
            except Failed as error:  # it exits with the container's status
                if "must be stopped" in str(error):
                    time.sleep(0.1)
                    continue
            break
        containerd.run("containers", "delete", container)
    return {name: sizes for name, sizes in found.items() if sizes}


def cgroups() -> list[Path]:
    """Those that containerd has its namespace's containers below, on v1 and on v2."""
    return [path for pattern in ("*/default", "default") for path in Path("/sys/fs/cgroup").glob(pattern)]


def inside(options: argparse.Namespace) -> None:
    """In the namespaces."""
    with tempfile.TemporaryDirectory(prefix="pyrunc-bench-") as directory:
        mounts = [["mount", "-t", "tmpfs", "tmpfs", directory], ["mount", "-t", "tmpfs", "tmpfs", "/run/containerd"]]
        if os.path.ismount("/sys/fs/cgroup/unified"):
            mounts.append(["umount", "/sys/fs/cgroup/unified"])  # beside v1, crun refuses it
        os.makedirs("/run/containerd", exist_ok=True)
        for mount in mounts:
            subprocess.run(mount, check=True)
        before = set(cgroups())
        containerd = Containerd(Path(directory), os.path.abspath(options.bin))
        try:
            times = rounds(containerd, options.rounds)
            sizes: dict[str, list[float]] = {}
            for name in times:
                if name not in (COLD, FLOOR):
                    sizes.update(memory(containerd, name, options.shims))
        finally:
            containerd.stop()
            for path in set(cgroups()) - before:
                path.rmdir()
        print(table(times, sizes, options))
        if options.json:
            options.json.write_text(json.dumps({"milliseconds": times, "mebibytes": sizes}) + "\n")
        subprocess.run(["umount", "--lazy", directory], check=True)


def table(times: dict[str, list[float]], sizes: dict[str, list[float]], options: argparse.Namespace) -> str:
    """Medians, and how they compare with runc's."""
    base = statistics.median(times.get("runc") or next(iter(times.values())))
    lines = [f"{options.rounds} rounds of ctr run --rm; memory of a shim alone, and of one among {options.shims}",
             f"{'':10} {'wall ms':>8} {'min':>7} {'x runc':>7} {'PSS MiB':>8} {'of many':>8}"]
    for name in dict.fromkeys([*times, *sizes]):
        line = f"{name:10} {'':24}"
        if walls := times.get(name):
            line = f"{name:10} {statistics.median(walls):8.1f} {min(walls):7.1f} {statistics.median(walls) / base:7.2f}"
        if name in sizes:
            line += f" {sizes[name][0]:8.1f} {statistics.median(sizes[name][1:]):8.1f}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bin", required=True, help=f"where {SHIM} is")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--shims", type=int, default=10, help="running at once, for the memory")
    parser.add_argument("--json", type=Path, help="also write all samples to this file")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1 or options.shims < 2:
        parser.error("--rounds: at least 1; --shims: at least 2")
    if not os.access(f"{options.bin}/{SHIM}", os.X_OK):
        parser.error(f"no {SHIM} in {options.bin}")
    if options.inside:
        inside(options)
        return
    os.execvp("unshare", ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
                          "--mount-proc", sys.executable, "-m", "bench.shim", *sys.argv[1:], "--inside"])


if __name__ == "__main__":
    main()
