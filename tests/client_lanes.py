# SPDX-License-Identifier: Apache-2.0
"""The lanes of conformance/, run for real with the runtime under test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conformance.sandbox import place

TREE = Path(__file__).resolve().parents[1]
SECONDS = 1800 if os.environ.get("PYRUNC_VM") else 400  # for one lane in its short form, which takes a tenth of that


def run_lane(lane: str, runtime: str, directory: Path, *options: str) -> tuple[int, list[dict[str, Any]], str]:
    """(exit status, rows, stderr) of a lane, which has to leave nothing."""
    file = directory / f"{lane}.json"
    done = subprocess.run([sys.executable, "-m", "conformance", "run", lane, "--runtime", runtime, "--json", str(file),
                           *options], cwd=TREE, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode in (0, 1), done.stderr  # 2: it can't run, and what it takes is installed by the Makefile
    found = json.loads(file.read_text())
    assert remains(found["sandbox"]) == []
    return done.returncode, found["rows"], done.stderr


def assert_lane_passes(lane: str, runtime: str, directory: Path, *wanted: str) -> None:
    """Every check of the short form sees what it expects, those named `wanted` among them."""
    status, rows, said = run_lane(lane, runtime, directory, "--short")
    wrong = [f"{row['check']}: expected {row['expected']!r}, seen {row['seen']!r}" for row in rows if not row["passed"]]
    assert not wrong, "\n".join(wrong)
    assert status == 0, said
    assert [name for name in wanted if name not in {row["check"] for row in rows}] == []


def remains(name: str) -> list[str]:
    """What a lane could leave, all of it named after its sandbox: a directory, cgroups, mounts, processes."""
    found = [str(path) for path in Path(place()).glob(name)]
    found += [path for path, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(path) == name]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and name.encode() in (entry / "cmdline").read_bytes():
                found.append(f"process {entry.name}")
        except OSError:
            continue  # gone meanwhile
    return found + [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line]
