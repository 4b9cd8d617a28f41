# SPDX-License-Identifier: Apache-2.0
"""Where a lane lives: namespaces and cgroups of its own, of which nothing is left when it ends.

The lane's process is forked into new mount, network, pid, IPC, UTS and cgroup namespaces.  When it ends the kernel
kills what it has started.  Its scratch directory, /run and the stores of the engines are tmpfs that vanish with
the mount namespace; users and their sub-ids are in files bound over those of the host.  Its cgroups are below one
that is made for it in every hierarchy, and that is what it sees as /sys/fs/cgroup.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance import reachable
from conformance.errors import Unavailable

CGROUPS = Path("/sys/fs/cgroup")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES = ("--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup")
# Hidden from the lane, where the host has them.
COVERED = ("/run", "/var/lib/containers", "/var/lib/docker", "/var/lib/containerd", "/var/lib/cni",
           "/var/cache/containers",
           "/var/tmp", "/opt/containerd")
USER = "conformance"  # the ordinary user, in the lane only
USER_ID = 61234
CONTAINERS_ID = 61236  # newer ones of shadow's libsubid have ranges for users that exist only
TEAM_ID = 61235  # a group that the user is in
SUB_IDS = 600000
LAYOUTS = ("v1", "hybrid", "v2")


def layout() -> str:
    """What the lane sees unless told: what the host has, but v1 alone where that is hybrid, as crun refuses such."""
    return "v1" if any(controllers for controllers, _ in _own_cgroups() if controllers) else "v2"


def _own_cgroups() -> list[tuple[str, Path]]:
    """(controllers, directory) of each hierarchy that is mounted; controllers is "" for v2."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields, kind, options = before.split(), after.split()[0], after.split()[-1].split(",")
        if kind not in ("cgroup", "cgroup2") or not fields[4].startswith(str(CGROUPS)):
            continue
        for controllers, path in own.items():
            if (kind == "cgroup2") == (controllers == "") and set(filter(None, controllers.split(","))) <= set(options):
                relative = os.path.relpath(path, fields[3])
                found.append((controllers, Path(fields[4], "" if relative.startswith("..") else relative)))
    return found


# Outside

def place() -> str:
    """Where scratch directories are made: not below what is hidden from the lane (as TMPDIR is in conformance/vm)."""
    directory = tempfile.gettempdir()
    return "/tmp" if any((directory + "/").startswith(path + "/") for path in COVERED) else directory


def run(words: Sequence[str], report: Callable[[dict[str, Any]], object], how: str) -> int:
    """Run `python -m conformance.sandbox WORDS` inside; each line it writes to its channel is given to `report`."""
    if os.geteuid() != 0:
        raise Unavailable("lanes need root")
    scratch = tempfile.mkdtemp(prefix="conformance-", dir=place())
    name = os.path.basename(scratch)
    report({"sandbox": name})
    cgroups = [Cgroup(controllers, directory, name) for controllers, directory in _own_cgroups()]
    null = os.stat(os.devnull)
    try:
        for cgroup in cgroups:
            cgroup.make()
        return _run(words, report, how, scratch, cgroups)
    finally:
        os.chown(os.devnull, null.st_uid, null.st_gid)  # crun 1.8.1 gives it to a user namespace's root
        for cgroup in cgroups:
            cgroup.remove()
        os.rmdir(scratch)


def _run(words: Sequence[str], report: Callable[[dict[str, Any]], object], how: str, scratch: str,
         cgroups: list[Cgroup]) -> int:
    reader, writer = os.pipe()
    join = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ >"$1" || exit; shift; n=$((n-1)); done; exec "$@"'
    files = [str(cgroup.directory / "cgroup.procs") for cgroup in cgroups]
    inside = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--propagation", "private", "--mount-proc",
              sys.executable, "-m", "conformance.sandbox", scratch, how, str(writer), *words]
    top = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "sh", "-c", join, "sh", str(len(files)), *files,
                                *inside], pass_fds=[writer], stdin=subprocess.DEVNULL,
                               env={**os.environ, "PYTHONPATH": str(top)})
    os.close(writer)
    old = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with open(reader) as lines:
            for line in lines:
                if line == "\n":  # it is inside: with processes in it a v2 cgroup gives its children no controllers
                    for cgroup in cgroups:
                        cgroup.put_back(process.pid)
                else:
                    report(json.loads(line))
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, old)
        process.kill()
        while process.poll() is None:
            for cgroup in cgroups:
                cgroup.thaw()  # what v1's freezer holds can't even be killed
            time.sleep(0.05)


class Cgroup:
    """The lane's cgroup in one hierarchy."""

    def __init__(self, controllers: str, parent: Path, name: str) -> None:
        self.controllers = controllers
        self.parent = parent
        self.directory = parent / name
        self.enabled: list[str] = []

    def make(self) -> None:
        if not self.controllers:
            here = (self.parent / "cgroup.controllers").read_text().split()
            passed_on = (self.parent / "cgroup.subtree_control").read_text().split()
            for name in set(here) - set(passed_on):
                try:
                    (self.parent / "cgroup.subtree_control").write_text(f"+{name}")
                    self.enabled.append(name)
                except OSError:
                    pass  # the lane does without
        self.directory.mkdir()
        if "cpuset" in self.controllers.split(","):
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not (self.directory / name).read_text().strip():
                    (self.directory / name).write_text((self.parent / name).read_text())

    def put_back(self, pid: int) -> None:
        (self.parent / "cgroup.procs").write_text(str(pid))

    def thaw(self) -> None:
        for path, _, files in os.walk(self.directory):
            try:
                if "freezer.state" in files:
                    Path(path, "freezer.state").write_text("THAWED")
            except OSError:
                pass  # gone meanwhile

    def remove(self) -> None:
        """Everything in it has been killed; the kernel may need a moment to see that it is empty."""
        deadline = time.monotonic() + 20
        while self.directory.exists():
            for path, _, _ in os.walk(self.directory, topdown=False):
                try:
                    os.rmdir(path)
                except OSError:
                    if time.monotonic() > deadline:
                        raise
            time.sleep(0.01)
        for name in self.enabled:
            (self.parent / "cgroup.subtree_control").write_text(f"-{name}")


# Inside

class Room:
    """What a lane gets: its scratch directory, an environment, commands that are run in it."""

    def __init__(self, scratch: Path, how: str) -> None:
        self.scratch = scratch
        self.cgroups = how
        self.environment = {"PATH": PATH, "HOME": str(scratch / "home"), "LANG": "C.UTF-8",
                            "TMPDIR": str(scratch / "tmp"),
                            "XDG_RUNTIME_DIR": str(scratch / "xdg")}
        for name in ("home", "tmp", "xdg"):
            (scratch / name).mkdir(exist_ok=True)
        (scratch / "tmp").chmod(0o1777)

    def controllers(self) -> set[str]:
        """Those that the lane's cgroups have."""
        if self.cgroups == "v2":
            return set((CGROUPS / "cgroup.controllers").read_text().split())
        return {name for line in Path("/proc/self/cgroup").read_text().splitlines()
                for name in line.split(":")[1].split(",") if name and "=" not in name}


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise Unavailable(f"mount {' '.join(words)}: {done.stderr.strip()}")


def furnish(scratch: Path, how: str) -> None:
    """Make the mounts that the lane sees."""
    _mount("-t", "tmpfs", "-o", "mode=755", "conformance", str(scratch))
    _mount("--rbind", "/sys", _made(scratch / "sys"))
    # Not over it: Podman unmounts what mountinfo shows below /sys/kernel, covered or not.
    subprocess.run(["umount", "--recursive", "--lazy", "/sys"], check=True)
    _mount("-t", "sysfs", "sysfs", "/sys")
    for name in ("kernel/security", "fs/selinux"):
        if os.path.ismount(scratch / "sys" / name):
            _mount("--bind", str(scratch / "sys" / name), f"/sys/{name}")
    _mount_cgroups(how)
    subprocess.run(["umount", "-R", str(scratch / "sys")], check=True)
    for path in COVERED:
        if os.path.isdir(path):
            _mount("-t", "tmpfs", "-o", "mode=1777" if path == "/var/tmp" else "mode=755", "conformance", path)
    for name, line in (("passwd", f"{USER}:x:{USER_ID}:{USER_ID}::/nonexistent:/bin/sh\n"
                                  f"containers:x:{CONTAINERS_ID}:{CONTAINERS_ID}::/nonexistent:/bin/sh"),
                       ("group", f"{USER}:x:{USER_ID}:\n{USER}-team:x:{TEAM_ID}:{USER}"),
                       ("subuid", f"{USER}:{SUB_IDS}:65536"), ("subgid", f"{USER}:{SUB_IDS}:65536")):
        original = Path("/etc", name)
        text = original.read_text() if original.exists() else ""
        mine = scratch / name
        # Others' ranges would overlap with it for all we know.
        mine.write_text((text if name in ("passwd", "group") else f"containers:{SUB_IDS + 65536}:655360\n")
                        + line + "\n")
        if original.exists():
            _mount("--bind", str(mine), str(original))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["hostname", "conformance"], check=True)


def _made(path: Path) -> str:
    path.mkdir(parents=True, exist_ok=True)
    return str(path)


def _mount_cgroups(how: str) -> None:
    if how == "v2":
        _mount("-t", "cgroup2", "cgroup2", str(CGROUPS))
        _delegate()
        return
    _mount("-t", "tmpfs", "-o", "mode=755", "cgroup", str(CGROUPS))
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, _ = line.split(":", 2)
        if controllers:
            place = CGROUPS / controllers.removeprefix("name=")
            _mount("-t", "cgroup", "-o", ("none," if "=" in controllers else "") + controllers, "cgroup", _made(place))
            for name in controllers.split(",") if "," in controllers else ():
                (CGROUPS / name).symlink_to(place.name)
        elif how == "hybrid":
            _mount("-t", "cgroup2", "cgroup2", _made(CGROUPS / "unified"))


def _delegate() -> None:
    """Give v2's controllers on: processes go into a leaf first."""
    leaf = CGROUPS / "lane"
    leaf.mkdir()
    deadline = time.monotonic() + 20
    while True:
        for pid in (CGROUPS / "cgroup.procs").read_text().split():
            if pid != "0":
                (leaf / "cgroup.procs").write_text(pid)
        try:
            for name in (CGROUPS / "cgroup.controllers").read_text().split():
                (CGROUPS / "cgroup.subtree_control").write_text(f"+{name}")
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _reap(worker: int) -> int:
    """As pid 1: until the worker ends; what is orphaned is ours to wait for."""
    while True:
        pid, status = os.wait()
        if pid == worker:
            return os.waitstatus_to_exitcode(status)


def main(arguments: Sequence[str]) -> int:
    scratch, how, channel, *words = arguments
    with open(int(channel), "w", buffering=1) as lines:
        os.set_inheritable(lines.fileno(), False)
        worker = os.fork()
        if worker:
            lines.close()
            return _reap(worker) & 0xFF
        print(file=lines)

        def report(row: Mapping[str, Any]) -> None:
            print(json.dumps(row), file=lines)

        from conformance import lanes  # imports are in vain where the sandbox can't be had

        try:
            furnish(Path(scratch), how)
            reachable.open_up(Path(words[1]))
            status = lanes.main(Room(Path(scratch), how), words, report)
        except Unavailable as error:
            report({"unavailable": str(error)})
            status = 2
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
