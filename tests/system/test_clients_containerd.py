# SPDX-License-Identifier: Apache-2.0
"""containerd and its own shim above the runtime: the short form of its lane."""

from __future__ import annotations

from pathlib import Path

from client_lanes import assert_lane_passes


def test_containerd(runtime_path: str, tmp_path: Path) -> None:
    assert_lane_passes("containerd", runtime_path, tmp_path, "run", "task exec", "task metrics",
                       "events of a task's life", "CRI: exec", "CRI: limits, then an update of them")
