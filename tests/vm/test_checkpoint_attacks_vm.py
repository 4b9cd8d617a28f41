# SPDX-License-Identifier: Apache-2.0
"""Containers that prepare for being checkpointed, where criu works (CVE-2026-119101 and its kind)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import weaken
from checkpoints import checkpoint, restore, start
from support import Bundle, Host, Runtime, wait_for

pytestmark = pytest.mark.vm

CARELESS = """
from pyrunc import restored
restored.check_read_only = lambda *_: None
"""
WRITER = "while :; do echo seen >>/count; ( echo x >/p/m/written ) 2>/dev/null; sleep 0.1; done"


@pytest.mark.parametrize("moved", [False, True])
def test_what_is_to_be_read_stays_so(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path,
                                     make_runtime: Callable[[str], Runtime], moved: bool) -> None:
    """The container exchanges the directories above two mount points, so that each goes by the other's name.

    criu would mount what is to be read at the name that was the other's, with the flags of the other.
    """
    precious, scratch = tmp_path / "precious", tmp_path / "scratch"
    precious.mkdir()
    scratch.mkdir()
    bundle.mount(precious, "/p/m", options=["bind", "ro"])
    bundle.mount(scratch, "/q/m", options=["bind", "rw"])
    container = start(runtime, bundle, ("mv /p /t; mv /q /p; mv /t /q; " if moved else "") + WRITER)
    count = bundle.rootfs / "count"
    wait_for(lambda: count.exists() and count.read_text().count("seen") > 2, "the container to write", 60)
    assert (scratch / "written").exists() is moved and not (precious / "written").exists()
    checkpoint(runtime, container, images)
    before = len(count.read_text())
    if not moved:  # the control
        restore(runtime, bundle, container, images)
        wait_for(lambda: len(count.read_text()) > before + 10, "it to go on", 60)
        assert not (precious / "written").exists()
        mounts = [line.split() for line in runtime("exec", container, "cat", "/proc/mounts").lines]
        assert {words[1]: words[3][:2] for words in mounts if words[1][2:] == "/m"} == {"/p/m": "ro", "/q/m": "rw"}
        return
    other = runtime.new_id()
    result = runtime("restore", "--detach", "--image-path", images, "--bundle", bundle.path, other, timeout=120)
    assert not (precious / "written").exists()
    assert result.code == 1 and f"criu would restore {precious} on /p/m to be written to" in result.err, result
    assert runtime("state", other).code == 1

    careless = make_runtime(str(weaken(tmp_path / "weakened", CARELESS)))
    restore(careless, bundle, other, images)
    wait_for((precious / "written").exists, "the container to write to what is only to be read", 60)
    careless.clean_up()


def test_who_comes_back_has_no_more_than_config_json_gives(runtime: Runtime, bundle: Bundle, host: Host,
                                                           images: Path) -> None:
    """CVE-2026-18107: a container had criu write other capabilities down than it had."""
    sets = bundle.process["capabilities"]
    plain = copy.deepcopy(sets)
    for kind in ("bounding", "permitted", "effective"):
        sets[kind].append("CAP_SYS_ADMIN")
    container = start(runtime, bundle, "sleep 1000 & sleep 1001")
    # It is no descendant of the init, so criu leaves it out.
    assert runtime("exec", "--detach", "--cap", "CAP_SYS_TIME", container, "sleep", "1002").code == 0
    checkpoint(runtime, container, images, "--leave-running")
    assert runtime("delete", "--force", container).code == 0
    bundle.process["capabilities"] = plain
    bundle.save()
    other = runtime.new_id()
    result = runtime("restore", "--detach", "--image-path", images, "--bundle", bundle.path, other, timeout=120)
    assert result.code == 1 and "criu would restore a process with CAP_SYS_ADMIN (Cap" in result.err, result
    assert runtime("state", other).code == 1

    bundle.process["capabilities"] = sets  # the control
    bundle.save()
    restore(runtime, bundle, container, images)
    assert len([line for line in runtime("exec", container, "ps").lines if "sleep 100" in line]) == 2
