# SPDX-License-Identifier: Apache-2.0
"""What docs/integrations.md (and docs/shim.md) tell users to write into files, so that a lane can do as it says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from conformance.errors import Failed

DOCUMENTS = Path(__file__).resolve().parents[1] / "docs"
DIRECTORY = "/usr/local/bin"  # of the programs there, and exchanged for that of those that are tested
RUNTIME = f"{DIRECTORY}/pyrunc"
SHIM = "io.containerd.runc.v2"  # containerd's own
NAME = "pyrunc"  # what all of them call the runtime


def blocks(heading: str, document: str = "integrations.md") -> list[str]:
    """The blocks of a section as they are; those of a document's beginning are below its title."""
    text = (DOCUMENTS / document).read_text()
    section = text.split(f"# {heading}\n", 1)[1].split("\n## ")[0]
    return [f"{block}\n" for block in re.findall(r"\n```\w+\n(.*?)\n```\n", section, re.DOTALL)]


def snippet(heading: str, runtime: str) -> str:
    """The first block of a section, for that runtime."""
    return blocks(heading)[0].replace(RUNTIME, runtime)


def handler() -> str:
    """That of the RuntimeClass in docs/integrations.md."""
    lines = snippet("Kubernetes", "").splitlines()
    return next(line.split()[1] for line in lines if line.startswith("handler:"))


def network(store: Path) -> str:
    """The network of pyrunc-cni, kept in the lane: Podman's clean-up, which conmon starts, has no environment."""
    data = json.loads(blocks("pyrunc-cni")[0])
    data["plugins"][0]["dataDir"] = str(store)
    return json.dumps(data)


def plugin(runtime: str) -> Path:
    """pyrunc-cni: beside the runtime, or beside the Python that runs this, where the runtime is another's."""
    beside = [Path(program).parent / "pyrunc-cni" for program in (runtime, sys.executable)]
    found = [path for path in beside if path.exists()]
    if not found:
        raise Failed(f"there is no {' and no '.join(map(str, beside))}")
    return found[0]
