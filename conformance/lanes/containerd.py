# SPDX-License-Identifier: Apache-2.0
"""containerd with its own shim, which calls the runtime by BinaryName: ctr, and CRI as a kubelet speaks it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conformance import image, snippets
from conformance.checks import Table, wait_for
from conformance.errors import Failed
from conformance.lanes.base import Done, output
from conformance.lanes.cri import Cri, CriLane, Pod
from conformance.sandbox import SUB_IDS, Room

IMAGE = image.NAME
PLACES = """\
root = "{place}/root"
state = "{place}/state"
[grpc]
  address = "{place}/socket"
[plugins."io.containerd.internal.v1.opt"]
  path = "{place}/opt"
"""
# By the version of the configuration file; containerd 2 has 3, and 2.3 takes it still.
CRI = {2: """\
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{place}/plugins"
    conf_dir = "{place}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "{handler}"
""", 3: """\
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{image}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dir = "{place}/plugins"
    conf_dir = "{place}/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "{handler}"
"""}
NETWORK = """\
{"cniVersion": "0.4.0", "name": "lane", "plugins": [{"type": "bridge", "bridge": "lane0", "isGateway": true,
 "ipMasq": false, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.78.0.0/24"}]],
 "routes": [{"dst": "0.0.0.0/0"}]}}]}
"""


class Containerd(CriLane):
    needs: tuple[str, ...] = ("containerd", "ctr", "containerd-shim-runc-v2", "curl")
    shim = snippets.SHIM

    def start(self) -> None:
        self.place = self.scratch / "containerd"
        for path in (self.place, self.place / "cni", self.place / "plugins", self.place / "bin"):
            path.mkdir()
        for plugin in Path("/usr/lib/cni").iterdir():
            (self.place / "plugins" / plugin.name).symlink_to(plugin)
        release = re.search(r" v?(\d+)\.\d", self.must("containerd", "--version"))
        self.release = int(release[1]) if release else 1
        (self.place / "config.toml").write_text(self.configuration())
        (self.place / "cni/lane.conflist").write_text(NETWORK)
        # ctr has no way to name the runtime with some of its options: there it is `runc` of the daemon's PATH.
        (self.place / "bin/runc").symlink_to(self.runtime)
        # Of cgroups v1, for one: ctr 2 tells them where the container's output goes.
        self.environment["CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS"] = "1"
        self.environment["PATH"] = f"{self.place}/bin:{self.environment['PATH']}"
        self.words = ["ctr", "-a", str(self.place / "socket")]
        self.cri = Cri(self, self.place / "socket", snippets.handler())
        self.serve()
        archive = self.scratch / "busybox.tar"
        image.write(archive, Cmd=["sleep", "100000"])
        for namespace in ("default", "k8s.io"):
            self("-n", namespace, "images", "import", archive)

    def documented(self) -> list[str]:
        """The files that the documents have for containerd 1 and 2."""
        return [block.replace(snippets.RUNTIME, self.runtime) for block in snippets.blocks("containerd")]

    def configuration(self) -> str:
        """The file that the documents have for this containerd, with the lane's places."""
        version = 2 if self.release < 2 else 3
        first, _, tables = self.documented()[version - 2].partition("\n")
        if first != f"version = {version}":
            raise Failed(f"where a file of version {version} should begin the documents have {first!r}")
        ours = (PLACES + CRI[version]).format(place=self.place, handler=snippets.NAME, image=IMAGE)
        return f"{first}\n{ours}{tables}"

    def serve(self) -> None:
        self.process = self.daemon(["containerd", "-c", self.place / "config.toml"], self.place / "log",
                                   self.place / "socket")
        wait_for(lambda: self.do("version").code == 0, "containerd to answer")

    def runtime_of(self, pod: Pod) -> object:
        return json.loads(self("-n", "k8s.io", "containers", "info", pod.id))["Runtime"]

    def uses(self, network: str) -> bool:
        return f'"Name":"{network}"'.encode() in b"".join(self.cri.call("Status", {1: 1})[2])

    def do(self, *words: str | Path) -> Done:
        return self.command(*self.words, *words)

    def __call__(self, *words: str | Path) -> str:
        return output(self.do(*words), words)

    def named(self, *options: str) -> list[str]:
        """Options that choose the runtime, where ctr takes them."""
        return ["--runtime", self.shim, "--runc-binary", self.runtime, *options]

    def run(self, *words: str | Path) -> Done:
        """`ctr run --rm`; options come before IMAGE among the words."""
        options, command = words[:words.index(IMAGE)], words[words.index(IMAGE) + 1:]
        return self.do("run", "--rm", *self.named(), *options, IMAGE, self.name(), *command)

    def printed(self, *words: str | Path) -> str:
        """What a program prints that `run` runs; a second time where nothing has come.

        ctr may end before it has read what the container wrote, whatever the runtime: docs/conformance.md.
        """
        return output(self.run(*words), ("run",)) or output(self.run(*words), ("run",))

    @contextmanager
    def container(self, *options: str, command: tuple[str, ...] = ("sleep", "1000")) -> Iterator[str]:
        name = self.name()
        self("run", "-d", *self.named(), *options, IMAGE, name, *command)
        yield name
        self.remove(name)

    def remove(self, name: str) -> None:
        self.do("task", "kill", "-s", "SIGKILL", "-a", name)
        wait_for(lambda: self.do("task", "delete", "-f", name).code == 0 or not self.status(name),
                 f"the task {name} to end")
        self("container", "delete", name)

    def clean(self) -> None:
        self.cri.clean()
        for name in self("containers", "ls", "-q").split():
            self.remove(name)

    def status(self, name: str) -> str:
        """The task's, "" when there is none."""
        for line in self("task", "ls").splitlines()[1:]:
            fields = line.split()
            if fields[0] == name:
                return fields[2]
        return ""

    def exec(self, name: str, *command: str) -> Done:
        return self.do("task", "exec", "--exec-id", self.name("exec"), name, *command)

    def sh(self, name: str, script: str) -> str:
        return output(self.exec(name, "sh", "-c", script), (script,))

    def shim_of(self, name: str) -> int:
        """The pid of a container's shim."""
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"containerd-shim" in words[0] and name.encode() in words:
                    return int(entry)
        return 0

    @contextmanager
    def events(self) -> Iterator[Path]:
        """A file that events are written to meanwhile."""
        path = self.scratch / self.name("events")
        with open(path, "wb") as file:
            process = subprocess.Popen([*self.words, "events"], stdout=file, stderr=file, env=self.environment)
        try:
            with self.container():  # proves that it listens
                wait_for(lambda: "/tasks/start" in path.read_text(), "events to come")
            wait_for(lambda: "/containers/delete" in path.read_text(), "the last of them")
            path.write_text("")
            os.truncate(path, 0)
            yield path
        finally:
            process.kill()
            process.wait()

    def table(self) -> Table[Any]:
        from conformance.lanes import checkpoint_checks

        return Table(self.common(), *([checkpoint_checks.RUNC_SHIM] if checkpoint_checks.possible() else []))

    def common(self) -> Table[Containerd]:
        """What every shim can be asked for."""
        from conformance.lanes import checkpoint_checks, cri_checks

        tells = self.release < 2 or self.shim != snippets.SHIM
        return Table(TABLE, *([DELETION] if tells else []), cri_checks.TABLE,
                     *([cri_checks.NEWER] if self.release >= 2 else []),
                     *([checkpoint_checks.CONTAINERD] if checkpoint_checks.possible() else []))


def make(room: Room, runtime: str, suite: str) -> Containerd:
    return Containerd(room, runtime)


TABLE: Table[Containerd] = Table()
DELETION: Table[Containerd] = Table()  # of which containerd 2's own shim tells two times of three, whatever the runtime
check = TABLE.check


def topics(path: Path, name: str) -> list[str]:
    """The task events of one container, in order."""
    found = []
    for line in path.read_text(errors="replace").replace("\0", "").splitlines():
        words = line.split()
        if f'"{name}"' in line:
            found += [word.removeprefix("/tasks/") for word in words if word.startswith("/tasks/")]
    return found


@check("run", "hello", short=True)
def _(containerd: Containerd) -> str:
    return containerd.printed(IMAGE, "echo", "hello")


@check("run: exit status", "7", short=True)
def _(containerd: Containerd) -> str:
    return str(containerd.run(IMAGE, "sh", "-c", "exit 7").code)


@check("run: no such program", matches=r"1 .*(no such file or directory|executable file not found).*", short=True)
def _(containerd: Containerd) -> str:
    done = containerd.run(IMAGE, "no-such-program")
    return f"{done.code} {done.err.lower()}"


@check("run -t: a terminal", "31 97|got it")
def _(containerd: Containerd) -> str:
    _, shown = containerd.terminal(
        [*containerd.words, "run", "--rm", "-t", *containerd.named(), IMAGE, containerd.name(), "sh", "-c",
         "sleep 1; tty >/dev/null && stty size; read word; echo got $word"], (("31 97", "it\n"),), size=(31, 97))
    lines = shown.splitlines()
    return f"{lines[0]}|{lines[-1]}"


@check("run: environment, directory", "b /tmp")
def _(containerd: Containerd) -> str:
    return containerd.printed("--env", "A=b", "--cwd", "/tmp", IMAGE, "sh", "-c", "echo $A $PWD")


@check("run --read-only, --mount", "ro|from outside", short=True)
def _(containerd: Containerd) -> str:
    where = containerd.directory()
    (where / "a").write_text("from outside")
    return containerd.printed("--read-only", "--mount", f"type=bind,src={where},dst=/v,options=rbind:ro", IMAGE, "sh",
                              "-c", "touch /x 2>/dev/null || echo -n 'ro|'; cat /v/a")


@check("run --memory-limit, --cpus", "67108864 50000", short=True)
def _(containerd: Containerd) -> str:
    with containerd.container("--memory-limit", "67108864", "--cpus", "0.5") as name:
        pid = containerd("task", "ls").split(name)[1].split()[0]
        where = {controllers: path for _, controllers, path in
                 (line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())}
        if "memory" in where:
            files = [f"memory{where['memory']}/memory.limit_in_bytes", f"cpu{where['cpu']}/cpu.cfs_quota_us"]
        else:
            files = [f"{where['']}/memory.max".lstrip("/"), f"{where['']}/cpu.max".lstrip("/")]
        return " ".join(Path("/sys/fs/cgroup", file).read_text().split()[0] for file in files)


@check("run --seccomp", "2")
def _(containerd: Containerd) -> str:
    return containerd.printed("--seccomp", IMAGE, "sh", "-c", "grep Seccomp: /proc/self/status | cut -f 2")


@check("run --cap-add", "0 1")
def _(containerd: Containerd) -> str:
    seen = []
    for options in ((), ("--cap-add", "CAP_SYS_ADMIN")):
        shown = containerd.printed(*options, IMAGE, "sh", "-c", "grep CapEff /proc/self/status | cut -f 2")
        seen.append(str(int(shown, 16) >> 21 & 1))
    return " ".join(seen)


@check("run --device", "opens")
def _(containerd: Containerd) -> str:
    return containerd.printed("--device", "/dev/fuse", IMAGE, "sh", "-c", "( : <>/dev/fuse ) && echo opens")


@check("run: a user namespace (--uidmap, --gidmap)", f"0 {SUB_IDS} 65536", short=True)
def _(containerd: Containerd) -> str:
    words = ("run", "--rm", "--uidmap", f"0:{SUB_IDS}:65536", "--gidmap", f"0:{SUB_IDS}:65536", IMAGE)
    program = ("cat", "/proc/self/uid_map")
    shown = containerd(*words, containerd.name(), *program) or containerd(*words, containerd.name(), *program)
    return " ".join(shown.split())


@check("container create, task start", "created, then started")
def _(containerd: Containerd) -> str:
    name = containerd.name()
    containerd("container", "create", IMAGE, name, "echo", "created, then started")
    seen = containerd("task", "start", name)
    containerd.do("task", "delete", name)
    containerd("container", "delete", name)
    return seen


@check("run -d: status, then exit status", "RUNNING STOPPED", short=True)
def _(containerd: Containerd) -> str:
    with containerd.container() as name:
        first = containerd.status(name)
        containerd("task", "kill", "-s", "SIGKILL", name)
        wait_for(lambda: containerd.status(name) == "STOPPED", "its end")
        return f"{first} {containerd.status(name)}"


@check("task exec", "hello from 1, exit 9", short=True)
def _(containerd: Containerd) -> str:
    with containerd.container() as name:
        done = containerd.exec(name, "sh", "-c",
                               "echo hello from $(tr '\\0' ' ' </proc/1/cmdline | grep -c sleep); exit 9")
        return f"{done.out}, exit {done.code}"


@check("task exec: no such program", matches=r"1 .*(no such file or directory|executable file not found).*")
def _(containerd: Containerd) -> str:
    with containerd.container() as name:
        done = containerd.exec(name, "no-such-program")
        return f"{done.code} {done.err.lower()}"


@check("task exec -t: a terminal", "31 97")
def _(containerd: Containerd) -> str:
    with containerd.container() as name:
        _, shown = containerd.terminal([*containerd.words, "task", "exec", "-t", "--exec-id", "term", name, "sh", "-c",
                                        "sleep 1; stty size"], (), size=(31, 97))
        return shown.strip()


@check("task kill: a signal that is handled", "caught")
def _(containerd: Containerd) -> str:
    script = "trap 'echo caught >/seen' USR1; echo ready >/ready; while :; do sleep 0.1; done"
    with containerd.container(command=("sh", "-c", script)) as name:
        wait_for(lambda: containerd.exec(name, "test", "-e", "/ready").code == 0, "the trap")
        containerd("task", "kill", "-s", "SIGUSR1", name)
        wait_for(lambda: containerd.exec(name, "test", "-s", "/seen").code == 0, "the signal")
        return containerd.sh(name, "cat /seen")


@check("task pause, resume", "PAUSED RUNNING", short=True)
def _(containerd: Containerd) -> str:
    with containerd.container() as name:
        containerd("task", "pause", name)
        first = containerd.status(name)
        containerd("task", "resume", name)
        return f"{first} {containerd.status(name)}"


@check("task ps: all processes", "3")
def _(containerd: Containerd) -> str:
    with containerd.container(command=("sh", "-c", "sleep 71 & sleep 72 & wait")) as name:
        wait_for(lambda: len(containerd("task", "ps", name).splitlines()) == 4, "the children")
        return str(len(containerd("task", "ps", name).splitlines()) - 1)


@check("task metrics", "memory is used, there are pids, the limit is there", short=True)
def _(containerd: Containerd) -> str:
    with containerd.container("--memory-limit", "67108864") as name:
        lines = containerd("task", "metrics", name).splitlines()
        values = dict(line.split() for line in lines if len(line.split()) == 2)
        used = int(values.get("memory.usage_in_bytes") or values.get("memory.usage") or 0)
        limit = values.get("memory.limit_in_bytes") or values.get("memory.usage_limit")
        pids = int(values["pids.current"])
        return (f"memory is {'used' if used else 'not used'}, there are {'pids' if pids else 'none'}, "
                f"the limit is {'there' if limit in ('67108864', None) else limit}")


@check("events of a task's life", "create start exec-added exec-started exit paused resumed exit", short=True)
def _(containerd: Containerd) -> str:
    with containerd.events() as path:
        with containerd.container() as name:
            containerd.sh(name, "true")
            containerd("task", "pause", name)
            containerd("task", "resume", name)
        wait_for(lambda: topics(path, name).count("exit") == 2, "the last event")
        return " ".join(topic for topic in topics(path, name) if topic != "delete")


@DELETION.check("events: a task is deleted", "exit delete", short=True)
def _(containerd: Containerd) -> str:
    with containerd.events() as path:
        with containerd.container() as name:
            pass
        wait_for(lambda: "delete" in topics(path, name), "the event")
        return " ".join(topics(path, name)[-2:])


@check("events: out of memory", "oom")
def _(containerd: Containerd) -> str:
    with containerd.events() as path, containerd.container("--memory-limit", "33554432", command=(
            "sh", "-c", "(tail /dev/zero); sleep 1000")) as name:
        wait_for(lambda: "oom" in topics(path, name), "the event")
        return "oom"


@check("the shim is killed: the container goes with it", "gone, no process, no cgroup")
def _(containerd: Containerd) -> str:
    name = containerd.name()
    containerd("run", "-d", *containerd.named(), IMAGE, name, "sleep", "4711")
    os.kill(containerd.shim_of(name), signal.SIGKILL)
    wait_for(lambda: containerd.status(name) in ("", "STOPPED", "UNKNOWN"), "containerd to notice")
    wait_for(lambda: containerd.command("pgrep", "-f", "sleep 4711").code == 1, "the process to die")
    wait_for(lambda: not containerd.must("find", "/sys/fs/cgroup", "-type", "d", "-name", name), "the cgroup's end")
    containerd.do("task", "delete", "-f", name)
    containerd("container", "delete", name)
    return "gone, no process, no cgroup"


@check("containerd is restarted: the container lives on", "RUNNING hello")
def _(containerd: Containerd) -> str:
    with containerd.container() as name:
        containerd.process.terminate()
        containerd.process.wait()
        containerd.daemons.remove(containerd.process)
        (containerd.place / "socket").unlink(missing_ok=True)
        containerd.serve()
        return f"{containerd.status(name)} {containerd.sh(name, 'echo hello')}"


@check("nothing is left in the lane's cgroups", "nothing")
def _(containerd: Containerd) -> str:
    with containerd.container() as name:
        pass
    return containerd.must("find", "/sys/fs/cgroup", "-type", "d", "-name", name) or "nothing"
