# SPDX-License-Identifier: Apache-2.0
"""containerd with pyrunc's own shim, which runs containers by itself; the runtime says where it is installed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from conformance import snippets
from conformance.checks import Table, wait_for
from conformance.errors import Unavailable
from conformance.lanes import containerd
from conformance.lanes.containerd import IMAGE
from conformance.sandbox import Room

SHIM = "containerd-shim-pyrunc-v1"  # what containerd looks for when it is asked for io.containerd.pyrunc.v1


class Native(containerd.Containerd):
    shim = "io.containerd.pyrunc.v1"

    def __init__(self, room: Room, runtime: str) -> None:
        if not os.access(Path(runtime).with_name(SHIM), os.X_OK):
            raise Unavailable(f"the shim io.containerd.pyrunc.v1 is not installed: no {SHIM} beside {runtime}")
        super().__init__(room, runtime)

    def start(self) -> None:
        self.environment["PATH"] = f"{os.path.dirname(self.runtime)}:{self.environment['PATH']}"
        super().start()

    def documented(self) -> list[str]:
        return [block.replace(f"{snippets.DIRECTORY}/{SHIM}", str(Path(self.runtime).with_name(SHIM)))
                for block in snippets.blocks("The shim for containerd", "shim.md")]

    def named(self, *options: str) -> list[str]:
        return ["--runtime", self.shim, *options]

    def table(self) -> Table[Any]:
        return Table(self.common(), TABLE)


def make(room: Room, runtime: str, suite: str) -> Native:
    return Native(room, runtime)


TABLE: Table[containerd.Containerd] = Table()
check = TABLE.check


@check("restart of containerd: containers go on, output and exit status intact", "one two|5", short=True)
def _(lane: containerd.Containerd) -> str:
    where = lane.directory()
    name = lane.name()
    lane("run", "-d", *lane.named(), "--mount", f"type=bind,src={where},dst=/v,options=rbind:rw", "--log-uri",
         f"file://{where}/log", IMAGE, name, "sh", "-c",
         "echo -n 'one '; while [ ! -e /v/go ]; do sleep 0.05; done; echo two; exit 5")
    lane.process.send_signal(signal.SIGKILL)
    lane.process.wait()
    (where / "go").touch()
    wait_for(lambda: lane.command("pgrep", "-f", "/v/go").code == 1, "the container to end")
    lane.serve()
    wait_for(lambda: lane.status(name) == "STOPPED", "the container to end")
    done = lane.do("task", "delete", name)
    lane("container", "delete", name)
    return f"{(where / 'log').read_text().strip()}|{done.code or done.err.rpartition('code ')[2].rstrip(chr(34))}"


@check("no shim is left when its container is deleted", "0")
def _(lane: containerd.Containerd) -> str:
    with lane.container() as name:
        pid = lane.shim_of(name)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the shim to end")
    # One that had something to tell while containerd was away may still be about to try again.
    wait_for(lambda: not any(entry.is_socket() for entry in Path("/run/containerd/s").iterdir()),
             "the other shims to end")
    return "0"


@check("twenty containers at once", "20 20")
def _(lane: containerd.Containerd) -> str:
    names = [lane.name() for _ in range(20)]
    for name in names:
        lane("run", "-d", *lane.named(), IMAGE, name, "sleep", "1000")
    running = sum(lane.status(name) == "RUNNING" for name in names)
    for name in names:
        lane.remove(name)
    gone = sum(not lane.status(name) for name in names)
    return f"{running} {gone}"


@check("CRI: restart of containerd: a pod goes on, the exit code of what ended meanwhile is known",
       f"{SHIM}: 5, 1 hello")
def _(lane: containerd.Containerd) -> str:
    where = lane.directory()
    with lane.cri.pod() as pod:
        ends = pod.container("sh", "-c", "while [ ! -e /v/go ]; do sleep 0.05; done; exit 5",
                             mounts=[{1: "/v", 2: str(where)}])
        stays = pod.container()
        pid = int(lane.must("pgrep", "-f", "/v/go").split()[0])
        lane.process.send_signal(signal.SIGKILL)
        lane.process.wait()
        (where / "go").touch()
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the container to end")
        lane.serve()
        lane.cri.wait()
        program = Path(f"/proc/{lane.shim_of(pod.id)}/cmdline").read_text().split("\0")[0]
        return f"{os.path.basename(program)}: {ends.wait()}, {stays.state()} {stays.sh('echo hello')}"


@check("CRI: a pod's shim is killed: nothing is left of its containers, another pod can be made",
       "exited, nothing, again")
def _(lane: containerd.Containerd) -> str:
    with lane.cri.pod() as pod:
        containers = [pod.container("sleep", "4712"), pod.container("sleep", "4713")]
        os.kill(lane.shim_of(pod.id), signal.SIGKILL)
        for container in containers:
            container.wait()
        wait_for(lambda: lane.command("pgrep", "-f", "sleep 471[23]").code == 1, "the processes to die")
        names = " -o ".join(f"-name *{name}*" for name in (pod.id, *(container.id for container in containers))).split()
        wait_for(lambda: not lane.must("find", "/sys/fs/cgroup", "-type", "d", *names), "the cgroups' end")
        left = lane.must("find", "/run/containerd/pyrunc", *names) or "nothing"
    with lane.cri.pod() as pod:
        return f"exited, {left}, {pod.container().sh('echo again')}"
