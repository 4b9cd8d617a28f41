# SPDX-License-Identifier: Apache-2.0
"""dockerd above the runtime, as its default one: the short form of its lane."""

from __future__ import annotations

from pathlib import Path

from client_lanes import assert_lane_passes


def test_docker(runtime_path: str, tmp_path: Path) -> None:
    assert_lane_passes("docker", runtime_path, tmp_path, "run", "exec -it: a terminal", "--pids-limit",
                       "build: classic", "build: BuildKit", "swarm: replicas on both nodes, by the runtime")
