# SPDX-License-Identifier: Apache-2.0
"""containerd above the runtime, with its own shim and with pyrunc's: the short forms of the lanes."""

from __future__ import annotations

from pathlib import Path

from client_lanes import assert_lane_passes


def test_containerd(runtime_path: str, tmp_path: Path) -> None:
    assert_lane_passes("containerd", runtime_path, tmp_path, "run", "task exec", "task metrics",
                       "events of a task's life", "CRI: exec", "CRI: limits, then an update of them")


def test_containerd_with_the_shim_of_pyrunc(runtime_path: str, tmp_path: Path) -> None:
    """The same of io.containerd.pyrunc.v1, and that containers live through a restart of containerd."""
    assert_lane_passes("containerd-native", runtime_path, tmp_path, "run", "task exec", "task metrics",
                       "events of a task's life", "CRI: exec", "CRI: limits, then an update of them",
                       "restart of containerd: containers go on, output and exit status intact")
