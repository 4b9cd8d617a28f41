# SPDX-License-Identifier: Apache-2.0
"""Podman above the runtime: the short form of its lane, and that the lane can tell."""

from __future__ import annotations

from pathlib import Path

from client_lanes import assert_lane_passes, run_lane


def test_podman(runtime_path: str, tmp_path: Path) -> None:
    assert_lane_passes("podman", runtime_path, tmp_path, "run", "exec -it: a terminal", "pause: nothing runs; unpause: "
                       "it goes on", "pod: network, IPC and host name are shared", "--uidmap, --gidmap",
                       "seccomp: the default profile is a filter", "ordinary user: run -d, exec, logs, kill")


def test_a_runtime_that_does_nothing_fails(tmp_path: Path) -> None:
    """The control: each check is told apart, the lane goes on after a failure and leaves nothing."""
    status, rows, said = run_lane("podman", "/bin/false", tmp_path, "--only", "^(run|exec)$")
    assert status == 1, said
    assert [(row["check"], row["passed"]) for row in rows] == [("run", False), ("exec", False)]
