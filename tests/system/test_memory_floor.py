# SPDX-License-Identifier: Apache-2.0
"""How little memory a container starts with: what of the runtime itself is charged to memory.limit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from container_cgroup import ContainerCgroup, resources
from support import Bundle, Host, Runtime

MiB, KiB = 1 << 20, 1 << 10
STEPS = [8 * MiB, 4 * MiB, 2 * MiB, MiB, 768 * KiB, 512 * KiB, 384 * KiB, 256 * KiB, 128 * KiB, 64 * KiB]
LIMIT = "/linux/resources/memory/limit"


def limited(bundle: Bundle, limit: int) -> Bundle:
    resources(bundle, memory={"limit": limit, "swap": limit})
    return bundle.args("true")


@pytest.mark.parametrize("limit", STEPS[:4], ids=lambda limit: f"{limit // MiB} MiB")
def test_true_runs(runtime: Runtime, bundle: Bundle, host: Host, limit: int) -> None:
    """With that much (and no swap) busybox `true` runs, by `run` and by create and start."""
    result = runtime.run(limited(bundle, limit))
    assert result.code == 0 and result.err == "", result
    container = runtime.create(bundle)
    cgroup = ContainerCgroup(runtime.state(container)["pid"])
    assert int(cgroup.file("memory/memory.limit_in_bytes", "memory.max").read_text()) == limit
    assert runtime("start", container).code == 0
    runtime.wait(container)
    assert cgroup.oom_kills() == 0


def floor(runtime: Runtime, bundle: Bundle) -> int:
    """The least of the steps with which `true` still runs."""
    found = 0
    for limit in STEPS:
        if runtime.run(limited(bundle, limit)).code != 0:
            break
        found = limit
    return found


def test_the_floor_beside_runcs(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle, host: Host,
                                record_property: Callable[[str, object], None]) -> None:
    """In the same run; pyrunc's is no higher."""
    floors = {each.name: floor(each, bundle) for each in (runtime, make_runtime("runc"))}
    record_property("floors", floors)
    print("\nleast memory.limit that `true` runs with:",
          ", ".join(f"{name} {limit // KiB} KiB" for name, limit in floors.items()))
    assert 0 < floors[runtime.name] <= MiB
    assert floors["runc"] == 0 or floors[runtime.name] <= floors["runc"]


def test_little_is_charged_before_start(runtime: Runtime, bundle: Bundle, host: Host,
                                        record_property: Callable[[str, object], None]) -> None:
    """A created container, whose init waits: what it is charged with."""
    container = runtime.create(limited(bundle, 16 * MiB))
    cgroup = ContainerCgroup(runtime.state(container)["pid"])
    used = int(cgroup.file("memory/memory.usage_in_bytes", "memory.current").read_text())
    record_property("charged", used)
    print(f"\ncharged to a created container: {used // KiB} KiB")
    assert 0 < used < 900 * KiB


@pytest.mark.parametrize("limit", [4 * KiB, 64 * KiB])
def test_an_init_killed_for_memory_is_named(runtime: Runtime, bundle: Bundle, host: Host, limit: int) -> None:
    """The line says so, with the limit; whether create or start met it."""
    limited(bundle, limit).save()
    container = runtime.new_id()
    result = runtime("create", "--bundle", bundle.path, container)
    if result.code == 0:  # it dies when it goes on
        result = runtime("start", container)
    assert result.code == 1 and len(result.errors) == 1, result
    (line,) = result.errors
    assert LIMIT in line and str(limit) in line, line
    assert "out of memory" in line or "usage" in line, line


def test_run_of_an_init_killed_for_memory_is_named(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    limit = 64 * KiB
    result = runtime.run(limited(bundle, limit))
    assert result.code == 1 and len(result.errors) == 1, result
    assert LIMIT in result.err and str(limit) in result.err and "out of memory" in result.err


def test_a_program_killed_for_memory_is_not_the_runtimes_error(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The control: once it runs, its death is its own affair, an exit status."""
    resources(bundle, memory={"limit": 8 * MiB, "swap": 8 * MiB})
    result = runtime.run(bundle.args("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"))
    assert result.code == 137 and "out of memory" not in result.err
