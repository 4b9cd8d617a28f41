# SPDX-License-Identifier: Apache-2.0
"""Clients' checkpoints: those checks of the lanes that take a kernel criu works on."""

from __future__ import annotations

from pathlib import Path

import pytest
from client_lanes import run_lane

pytestmark = pytest.mark.vm


@pytest.mark.parametrize(("lane", "checks"), [("podman", 3), ("containerd", 3), ("containerd-native", 1)])
def test_checkpoints(lane: str, checks: int, runtime_path: str, tmp_path: Path) -> None:
    """Made and restored by the client; a counter that goes on counting is the proof."""
    status, rows, said = run_lane(lane, runtime_path, tmp_path, "--only", "^checkpoint")
    wrong = [f"{row['check']}: expected {row['expected']!r}, seen {row['seen']!r}" for row in rows if not row["passed"]]
    assert len(rows) == checks and not wrong, "\n".join(wrong)
    assert status == 0, said
