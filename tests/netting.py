# SPDX-License-Identifier: Apache-2.0
"""What the tests of `pyrunc net` share: attaching a lab's containers, and what is to be as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from netlab import Lab, Node


def attach(lab: Lab, node: Node, network: str, *words: str) -> dict[str, Any]:
    """`pyrunc net attach` of the node, under its name; what it printed."""
    made: dict[str, Any] = json.loads(lab.pyrunc("net", "attach", node.name, network, "--netns", node.path, *words,
                                                 "--format", "json"))
    return made


def detach(lab: Lab, node: Node, network: str) -> None:
    assert lab.pyrunc("net", "detach", node.name, network) == ""


def ip(made: dict[str, Any], family: int = 4) -> str:
    """The address of an attachment."""
    (found,) = [address.partition("/")[0] for address in made["addresses"] if (":" in address) == (family == 6)]
    return str(found)


def gateway(made: dict[str, Any], family: int = 4) -> str:
    (found,) = [address for address in made["gateways"] if (":" in address) == (family == 6)]
    return str(found)


def left(lab: Lab) -> dict[str, Any]:
    """What an attachment that has gone could have left on the router: links, rules, routes, files, addresses taken."""
    files = sorted(str(path.relative_to(lab.net_root)) for path in lab.net_root.rglob("*"))
    taken = {path.name: taken_words(path) for path in (lab.net_root / "leases").iterdir()}
    hosts = {path.name: [line for line in path.read_text().splitlines() if not line.startswith("#")]
             for path in (lab.net_root / "hosts").glob("net-*")}
    return {**lab.router.look(), "files": files, "leases": taken, "hosts": hosts}


def taken_words(path: Path) -> int:
    """How many addresses a file of leases says are taken."""
    data = path.read_bytes()
    return sum(data[at:at + 8] == b"\xff" * 8 for at in range(8, len(data), 8))
