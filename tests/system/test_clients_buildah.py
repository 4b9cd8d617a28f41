# SPDX-License-Identifier: Apache-2.0
"""Buildah above the runtime: the short form of its lane."""

from __future__ import annotations

from pathlib import Path

from client_lanes import assert_lane_passes


def test_buildah(runtime_path: str, tmp_path: Path) -> None:
    assert_lane_passes("buildah", runtime_path, tmp_path, "run", "bud: RUN steps, shell and exec form",
                       "ordinary user: run")
