# SPDX-License-Identifier: Apache-2.0
"""CRI-O, which has conmon call the runtime: pods and containers as a kubelet has them made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from conformance import image, snippets
from conformance.checks import Table
from conformance.errors import Failed
from conformance.lanes.containerd import NETWORK
from conformance.lanes.cri import CONTAINER, Container, Cri, CriLane, Pod, decode, text
from conformance.sandbox import Room

ROOT = "/run/pyrunc"  # what the documents have for the runtime's state
PIDS = 300
CAP_SYS_RESOURCE = 24
# Whatever is not of the runtime.  The pause image is the lane's, and its own command is run.
PLACES = """\
[crio]
root = "{place}/root"
runroot = "{place}/runroot"
storage_driver = "overlay"
log_dir = "{place}/log"
version_file = "{place}/version"
clean_shutdown_file = "{place}/clean.shutdown"
[crio.api]
listen = "{place}/socket"
[crio.image]
pause_image = "{image}"
pause_command = ""
[crio.network]
network_dir = "{place}/cni"
plugin_dirs = ["{place}/plugins"]
[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
container_exits_dir = "{place}/exits"
container_attach_socket_dir = "{place}/attach"
namespaces_dir = "{place}/namespaces"
hooks_dir = ["{place}/hooks"]
irqbalance_config_restore_file = "disable"
pids_limit = {pids}
[crio.runtime.workloads.lane]
activation_annotation = "lane"
allowed_annotations = ["seccomp-notifier-action.crio.io"]
"""


class Impatient(Cri):
    """Nobody waits for a container that lets SIGTERM pass: a pod's end gives each ten seconds."""

    def remove(self, pod_id: str) -> None:
        for item in self.call("ListContainers", {1: {3: pod_id}}).get(1, []):
            self.call("StopContainer", {1: text(decode(item), 1), 2: 0})
        super().remove(pod_id)


class Crio(CriLane):
    node = "10.77.0.1"  # CRI-O publishes ports by itself, and not on loopback
    needs = ("crio", "pinns", "conmon", "curl", "skopeo")

    def start(self) -> None:
        # Socket names are short.
        self.place = Path("/run/lane")
        for path in (self.place, self.place / "cni", self.place / "plugins", self.place / "conf", self.place / "hooks"):
            path.mkdir()
        for plugin in Path("/usr/lib/cni").iterdir():
            (self.place / "plugins" / plugin.name).symlink_to(plugin)
        (self.place / "cni/lane.conflist").write_text(NETWORK)
        (self.place / "crio.conf").write_text(PLACES.format(place=self.place, image=image.NAME, pids=PIDS))
        (self.place / "conf/10-pyrunc.conf").write_text(snippets.snippet("CRI-O", self.runtime))
        self.hooked = self.scratch / "hooked"
        (self.place / "hooks/lane.json").write_text(json.dumps({
            "version": "1.0.0", "when": {"annotations": {"^hooked$": "^yes$"}}, "stages": ["prestart", "poststop"],
            "hook": {"path": "/bin/sh", "args": ["sh", "-c", f"tr -d '\\n' >>{self.hooked}; echo >>{self.hooked}"]}}))
        self.cri = Impatient(self, self.place / "socket", snippets.handler(), CONTAINER)
        self.serve()
        archive = self.scratch / "busybox.tar"
        image.write(archive, Cmd=["sleep", "100000"])
        store = f"overlay@{self.place}/root+{self.place}/runroot"
        self.must("skopeo", "copy", f"docker-archive:{archive}", f"containers-storage:[{store}]{image.NAME}")

    def serve(self) -> None:
        self.process = self.daemon(["crio", "--config", self.place / "crio.conf", "--config-dir", self.place / "conf"],
                                   self.place / "output", self.place / "socket")
        self.cri.wait()

    def clean(self) -> None:
        self.cri.clean()

    def runtime_of(self, pod: Pod) -> object:
        """What conmon was told."""
        container = pod.container()
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = file.read_text().split("\0")
            except OSError:
                continue
            if words[0].endswith("conmon") and container.id in words:
                return words[words.index("-r") + 1], words[words.index("--runtime-arg") + 1]
        raise Failed(f"no conmon has {container.id}")

    def uses(self, network: str) -> bool:
        said = re.findall(r"Updated default CNI network name to (\S*?)\"", (self.place / "output").read_text())
        return bool(said) and said[-1] == network

    def get(self, path: str) -> str:
        """From the interface of its own that CRI-O has on the same socket.  Raises Failed."""
        return self.must("curl", "-sS", "--fail-with-body", "--unix-socket", self.socket, f"http://localhost{path}")

    @property
    def socket(self) -> Path:
        return self.cri.socket

    def told(self, container: Container) -> dict[str, Any]:
        """What the runtime itself says of a container."""
        state: dict[str, Any] = json.loads(self.must(self.runtime, "--root", ROOT, "state", container.id))
        return state

    def table(self) -> Table[Crio]:
        from conformance.lanes import cri_checks, crio_checks

        return Table(cri_checks.TABLE, cri_checks.NEWER, crio_checks.TABLE,
                     *([crio_checks.PAUSE] if privileged() else []))


def privileged() -> bool:
    """Whether OOM scores can be lowered: CRI-O gives pause containers -998, whatever its configuration."""
    found = re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> CAP_SYS_RESOURCE & 1)


def make(room: Room, runtime: str, suite: str) -> Crio:
    return Crio(room, runtime)
