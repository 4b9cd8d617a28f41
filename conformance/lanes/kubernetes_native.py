# SPDX-License-Identifier: Apache-2.0
"""The cluster of the lane kubernetes, with pyrunc's own shim below containerd."""

from __future__ import annotations

from pathlib import Path

from conformance.lanes import containerd_native
from conformance.lanes.kubernetes import Kubernetes
from conformance.sandbox import Room


class Native(Kubernetes, containerd_native.Native):
    """The checks are Kubernetes'; what the shim is and where, containerd_native's."""

    def ours(self, container: str) -> bool:
        tasks = self("-n", "k8s.io", "task", "ls").splitlines()
        pid = next(line.split()[1] for line in tasks if line.startswith(container))
        status = Path(f"/proc/{pid}/status").read_text()
        shim = status.partition("PPid:")[2].split()[0]
        return Path(f"/proc/{shim}/cmdline").read_bytes().split(b"\0")[0].endswith(containerd_native.SHIM.encode())


def make(room: Room, runtime: str, suite: str) -> Native:
    return Native(room, runtime)
