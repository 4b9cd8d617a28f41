# SPDX-License-Identifier: Apache-2.0
"""What docs/integrations.md tells users to write into files, so that a lane can do as it says."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "integrations.md"
RUNTIME = "/usr/local/bin/pyrunc"  # there, and exchanged for the one that is tested
SHIM = "io.containerd.runc.v2"  # containerd's own, there
NAME = "pyrunc"  # what all of them call the runtime


def snippet(heading: str, runtime: str) -> str:
    """The first block of a section, for that runtime."""
    section = DOCUMENT.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    block = re.search(r"\n```\w+\n(.*?)\n```\n", section, re.DOTALL)
    assert block is not None, heading
    return block[1].replace(RUNTIME, runtime) + "\n"
