# SPDX-License-Identifier: Apache-2.0
"""Many containers made and deleted leave the cgroup trees as they were found, in every hierarchy."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from container_cgroup import ROOT, is_v2, resources
from support import SLOW, Bundle, Host, Runtime

MiB = 1 << 20
#: Cgroups that are gone but for a page of memory charged to them linger until memory is short.
LINGER_PER_CYCLE = 0.1


def tree(prefix: str) -> dict[str, list[str]]:
    """Every directory that is not of somebody else's container, by hierarchy."""
    found: dict[str, list[str]] = {}
    for hierarchy in [ROOT] if is_v2() else [path for path in sorted(ROOT.iterdir()) if path.is_dir()]:
        listed = sorted(path for path, _, _ in os.walk(hierarchy))
        if os.environ.get("PYRUNC_TESTS_SHARE_THE_MACHINE"):
            listed = [path for path in listed if os.path.basename(path).startswith(prefix)]
        found[str(hierarchy)] = listed
    return found


def controls() -> dict[str, str]:
    """What is passed on from the root."""
    return {str(path): path.read_text() for path in ROOT.glob("**/cgroup.subtree_control") if path.parent == ROOT}


def number() -> dict[str, int]:
    """How many cgroups the kernel holds, the dying ones included, by controller (cgroups(7))."""
    lines = Path("/proc/cgroups").read_text().splitlines()[1:]
    found = {line.split()[0]: int(line.split()[2]) for line in lines if line.split()[3] != "0"}
    top = ROOT if is_v2() else ROOT / "unified"
    if (top / "cgroup.stat").exists():
        stat = dict(line.split() for line in (top / "cgroup.stat").read_text().splitlines())
        found["v2"] = int(stat["nr_descendants"]) + int(stat["nr_dying_descendants"])
    return found


def reap() -> None:
    """Orphans come to us where the tests are process 1, and a zombie holds its cgroups."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


@pytest.mark.parametrize("way", ["created", "started", "killed"])
def test_cycles_leave_the_trees_as_found(runtime: Runtime, bundle: Bundle, host: Host, long: bool, way: str,
                                         record_property: Callable[[str, object], None]) -> None:
    """A create and a delete, sixty times (five hundred with --long), absolute and relative paths in turn."""
    cycles = ((500 if long else 60) if way == "created" else (100 if long else 20)) // SLOW
    prefix = f"pyrunc-cycle-{uuid.uuid4().hex[:8]}"
    resources(bundle, memory={"limit": 64 * MiB}, pids={"limit": 50}, cpu={"shares": 200})
    bundle.args("sleep 100" if way == "killed" else "true").save()
    before, passed_on, held = tree(prefix), controls(), number()
    began = time.monotonic()
    for cycle in range(cycles):
        bundle.linux["cgroupsPath"] = f"/{prefix}-{cycle}" if cycle % 2 else f"{prefix}-{cycle}"
        container = runtime.create(bundle)
        if cycle == 0:
            assert tree(prefix) != before  # the control: it can be seen
        if way != "created":
            assert runtime("start", container).code == 0
        if way == "started":
            runtime.wait(container)
        assert runtime("delete", *([] if way == "started" else ["--force"]), container).code == 0
        runtime.ids.clear()
    spent = time.monotonic() - began
    reap()
    assert tree(prefix) == before
    assert list(runtime.root.iterdir()) == []
    if is_v2():
        assert {**passed_on, **controls()} == controls()
    # On a machine that others use too the kernel's numbers are theirs as well.
    bound = cycles * LINGER_PER_CYCLE + 5
    deadline = time.monotonic() + 20
    while (grown := {name: count - held[name] for name, count in number().items() if count - held[name] > bound}):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)  # they are freed a little later, by a worker of the kernel
    record_property("seconds", round(spent, 1))
    record_property("grown", {name: count - held[name] for name, count in number().items()})
    print(f"\n{cycles} cycles ({way}): {spent:.1f} s; more cgroups than before: "
          f"{ {name: count - held[name] for name, count in number().items()} }")
    assert not grown, grown
