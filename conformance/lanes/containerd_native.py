# SPDX-License-Identifier: Apache-2.0
"""containerd with pyrunc's own shim, which runs containers by itself."""

from __future__ import annotations

import shutil

from conformance.checks import Table
from conformance.errors import Unavailable
from conformance.lanes import containerd
from conformance.sandbox import PATH, Room

SHIM = "containerd-shim-pyrunc-v1"  # what containerd looks for when it is asked for io.containerd.pyrunc.v1


class Native(containerd.Containerd):
    shim = "io.containerd.pyrunc.v1"

    def named(self, *options: str) -> list[str]:
        return ["--runtime", self.shim, *options]

    @staticmethod
    def table() -> Table[containerd.Containerd]:
        return containerd.Containerd.table()


def make(room: Room, runtime: str, suite: str) -> Native:
    if not shutil.which(SHIM, path=PATH):
        raise Unavailable(f"the shim io.containerd.pyrunc.v1 is not installed: no {SHIM} in {PATH}")
    return Native(room, runtime)
