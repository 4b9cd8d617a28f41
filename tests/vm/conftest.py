# SPDX-License-Identifier: Apache-2.0
"""Tests that run in the guest of a virtual machine; on the host nothing here is collected.

The machine gives PYRUNC_VM (its name), PYRUNC_VM_DISK (a blank disk of 256 MiB) and TMPDIR (a tmpfs,
where pytest puts tmp_path and with it every bundle).  The fixtures are those of tests/conftest.py.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

MACHINE = os.environ.get("PYRUNC_VM", "")
RDMA = "rxe0"  # what the fixture `rdma` makes
MARKERS = {"controllers": "vm", "selinux": "vm_selinux", "systemd": "vm_systemd"}

if not MACHINE:
    collect_ignore_glob = ["*"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What mounts hierarchies of v1 comes last: the kernel gives v2 its controllers back when it likes."""
    items.sort(key=lambda item: "only_v1" in item.name)


@pytest.fixture(autouse=True)
def in_its_machine(request: pytest.FixtureRequest) -> None:
    """A test of the other machine would fail for the wrong reasons, or worse, pass."""
    assert request.node.get_closest_marker(MARKERS[MACHINE]), f"this is no test for the machine {MACHINE}"


@pytest.fixture(scope="session")
def machine() -> str:
    """The name of the machine that this is."""
    return MACHINE


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Where a checkpoint may be put."""
    return tmp_path / "images"


@pytest.fixture(scope="session")
def blank_disk() -> Path:
    """A disk to write to; what it holds is gone after the run."""
    disk = Path(os.environ["PYRUNC_VM_DISK"])
    assert disk.is_block_device()
    return disk


@pytest.fixture(scope="session")
def rdma() -> str:
    """The name of a device of RDMA: in software, over a network interface that goes nowhere; until the machine ends."""
    link = "rdma-test"
    if Path("/sys/class/infiniband", RDMA).exists():  # an earlier session's
        return RDMA
    for command in (["modprobe", "--all", "dummy", "rdma_rxe"], ["ip", "link", "add", link, "type", "dummy"],
                    ["ip", "link", "set", link, "up"], ["rdma", "link", "add", RDMA, "type", "rxe", "netdev", link]):
        subprocess.run(command, check=True)
    return RDMA
