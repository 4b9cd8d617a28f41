# SPDX-License-Identifier: Apache-2.0
"""The shim's Checkpoint, and Create from one, as containerd calls them: paused before, resumed after."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyrunc_shim import messages as m
from pyrunc_shim.ttrpc import RpcError
from shim_client import Events, fifos
from support import Bundle, wait_for

from tests.system.test_shim import Box

pytestmark = pytest.mark.vm
COUNTER = "i=0; while :; do i=$((i+1)); echo $i >>/count; sleep 0.1; done"


@pytest.fixture
def box(tmp_path: Path, make_bundle: Callable[[str], Bundle]) -> Iterator[Box]:
    events = Events(tmp_path / "events")
    box = Box(tmp_path, events, make_bundle)
    yield box
    box.clean_up()
    events.close()


def numbers(bundle: Path) -> list[int]:
    count = bundle / "rootfs" / "count"
    return [int(line) for line in count.read_text().split()] if count.exists() else []


def test_a_counter_goes_on_in_a_container_made_from_a_checkpoint(box: Box) -> None:
    """Every number once: what has counted before goes on counting, in another container, with other streams."""
    streams = fifos(box.tmp_path, ("stdout", "stderr"))
    reader = os.open(streams["stdout"], os.O_RDONLY | os.O_NONBLOCK)
    shim = box.run("c1", COUNTER, **streams)
    bundle = box.created[0][1]
    wait_for(lambda: len(numbers(bundle)) > 3, "the counter")
    images = box.tmp_path / "images"
    shim.do("Pause", m.PauseRequest(id="c1"))
    shim.do("Checkpoint", m.CheckpointTaskRequest(id="c1", path=str(images)))  # it goes on
    shim.do("Resume", m.ResumeRequest(id="c1"))
    before = len(numbers(bundle))
    wait_for(lambda: len(numbers(bundle)) > before + 3, "the counter to go on")
    shim.do("Pause", m.PauseRequest(id="c1"))
    last = box.tmp_path / "last"
    options = m.Any(type_url="containerd.runc.v1.CheckpointOptions", value=m.CheckpointOptions(exit=True).encode())
    shim.do("Checkpoint", m.CheckpointTaskRequest(id="c1", path=str(last), options=options))
    assert shim.wait("c1") == 137
    shim.delete("c1")
    os.close(reader)
    stopped = len(numbers(bundle))
    assert not (bundle / "criu-work").exists()

    others = fifos(_made(box.tmp_path / "others"), ("stdout", "stderr"))
    assert shim.create("c2", bundle, box.root, checkpoint=str(last), **others) == 0
    pid = shim.start("c2")
    assert shim.state("c2").pid == pid and shim.state("c2").status == m.RUNNING
    wait_for(lambda: len(numbers(bundle)) > stopped + 3, "the restored counter")
    shim.kill("c2")
    assert shim.wait("c2") == 137
    shim.delete("c2")
    found = numbers(bundle)
    assert found == list(range(1, len(found) + 1))
    box.events.wait("c2", "delete")
    assert box.events.topics("c2") == ["create", "start", "exit", "delete"]


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_a_checkpoint_that_is_none(box: Box) -> None:
    bundle = box.make_bundle("c1").args("sleep 1000")
    bundle.save()
    shim = box.launch("c1", bundle.path)
    shim.create("c1", bundle.path, box.root, checkpoint=str(box.tmp_path))
    with pytest.raises(RpcError, match=r"OCI runtime restore failed: .*no checkpoint"):
        shim.start("c1")
    shim.delete("c1")
    with pytest.raises(RpcError, match="container not created"):
        shim.state("c1")
