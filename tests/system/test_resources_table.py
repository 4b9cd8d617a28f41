# SPDX-License-Identifier: Apache-2.0
"""config-linux.md, Control groups: every field's value given and read back, beside runc's in the same run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from container_cgroup import is_v2
from support import Host

sys.path.insert(0, str(Path(__file__).parents[2]))  # conformance is no part of what is installed

from conformance import resources as conformance

SECTIONS = {
    "blockIO": "leafWeight throttleReadBpsDevice throttleReadIOPSDevice throttleWriteBpsDevice throttleWriteIOPSDevice "
               "weight weightDevice",
    "cpu": "burst cpus idle mems period quota realtimePeriod realtimeRuntime shares",
    "memory": "checkBeforeUpdate disableOOMKiller kernel kernelTCP limit reservation swap swappiness useHierarchy",
    "network": "classID priorities",
    "pids": "limit",
}
FIELDS = [f"{section}/{name}" for section, names in SECTIONS.items() for name in names.split()]
FIELDS += ["devices", "hugepageLimits", "rdma", "unified"]


@pytest.fixture
def found(runtime_path: str) -> list[dict[str, Any]]:
    return conformance.table([runtime_path, "runc"])


def test_every_difference_is_explained(runtime_path: str, host: Host, found: list[dict[str, Any]],
                                       record_property: Callable[[str, object], None]) -> None:
    """The whole table; what is wrong with it is shown as it shows itself."""
    text = conformance.render(found, ["pyrunc", "runc"])
    record_property("table", text)
    print("\n" + text)
    assert {row["version"] for row in found} == {"v2" if is_v2() else "v1"}
    unexplained = [row for row in found if not row["explained"]]
    assert not unexplained, conformance.render(unexplained, ["pyrunc", "runc"])
    applied = [row for row in found if not row["values"][0].startswith(("refused", conformance.NOTHING))]
    assert len(applied) >= 30, text  # most are fields that can be given here


def test_every_field_has_a_row() -> None:
    pointers = {row.pointer for row in conformance.rows("7:0")}
    missing = [name for name in FIELDS
               if not any(pointer == f"/{name}" or pointer.startswith(f"/{name}/") for pointer in pointers)]
    assert missing == []


FORGETFUL = """#!/bin/sh
case "$*" in
*create*)
    for word; do [ "$last" = --bundle ] && bundle=$word; last=$word; done
    sed -i 's/"limit": 67108864/"limit": 33554432/' "$bundle/config.json" ;;
esac
exec runc "$@"
"""


def test_an_unexplained_difference_fails(tmp_path: Path) -> None:
    """The control: a runtime that leaves out a limit is found out, and the exit status says so."""
    other = tmp_path / "forgetful"
    other.write_text(FORGETFUL)
    other.chmod(0o755)
    command = [sys.executable, "-m", "conformance.resources", "--only", "/memory/limit"]
    root = Path(__file__).parents[2]
    for second, code in ((str(other), 1), ("runc", 0)):
        done = subprocess.run([*command, "--runtime", "runc", "--runtime", second], cwd=root, capture_output=True,
                              text=True, check=False)
        assert done.returncode == code, done
        assert ("UNEXPLAINED" in done.stdout) == bool(code)
