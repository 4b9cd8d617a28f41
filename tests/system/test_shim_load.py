# SPDX-License-Identifier: Apache-2.0
"""The shim with much to do: many containers at once, and one after the other."""

from __future__ import annotations

import shutil
from pathlib import Path

from pyrunc_shim import messages as m
from shim_client import descriptors

from .test_shim import Box, box, events

__all__ = ["box", "events"]


def test_many_cycles_leave_a_shim_as_it_was(box: Box, long: bool) -> None:
    """Descriptors and memory stay flat over creates and deletes."""
    bundle = box.make_bundle("group").args("true")
    bundle.save()
    shim = box.launch("group", bundle.path)
    pid = shim.pid()

    def cycle(number: int) -> None:
        container_id = f"c{number}"
        shim.create(container_id, bundle.path, box.root)
        shim.start(container_id)
        shim.wait(container_id)
        shim.delete(container_id)

    def resident() -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4

    box.settle("group")
    for number in range(10):
        cycle(number)
    box.events.wait("c9", "delete")
    before = descriptors(pid), resident()
    count = 1000 if long else 40
    for number in range(10, 10 + count):
        cycle(number)
    box.events.wait(f"c{9 + count}", "delete")
    after = descriptors(pid), resident()
    print(f"{count} cycles: descriptors {before[0]}, then {after[0]}; KiB {before[1]}, then {after[1]}")
    assert after[0] == before[0]
    assert after[1] - before[1] < 2048  # KiB


def test_many_containers_at_once(box: Box, long: bool) -> None:
    """Calls that take long hold up nobody."""
    count = 100 if long else 12
    group = box.make_bundle("group").args("sleep 1000")
    group.config["root"]["path"] = str(group.rootfs)
    group.save()
    shim = box.launch("group", group.path)
    options = m.Any(type_url="containerd.runc.v1.Options", value=m.Options(root=str(box.root)).encode())
    calls = {}
    for number in range(count):
        bundle = box.tmp_path / f"c{number}"
        bundle.mkdir()
        shutil.copy(group.path / "config.json", bundle)
        calls[number] = shim.send("Create", m.CreateTaskRequest(id=f"c{number}", bundle=str(bundle), options=options))
    pids = {shim.receive(stream, m.CreateTaskResponse).pid for stream in calls.values()}
    assert len(pids) == count
    starts = [shim.send("Start", m.StartRequest(id=f"c{number}")) for number in range(count)]
    for stream in starts:
        shim.receive(stream, m.StartResponse)
    for number in range(count):
        shim.kill(f"c{number}")
        assert shim.wait(f"c{number}") == 137
        shim.delete(f"c{number}")
