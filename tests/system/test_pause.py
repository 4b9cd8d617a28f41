# SPDX-License-Identifier: Apache-2.0
"""pause and resume: nothing of the container runs in between, and its status says so."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from support import Bundle, Host, Runtime, wait_for

COUNT = "i=0; while :; do i=$((i + 1)); echo $i > /count; done"


def running(runtime: Runtime, bundle: Bundle, script: str = COUNT) -> str:
    container = runtime.create(bundle.args(script))
    assert runtime("start", container).code == 0
    return container


def test_a_paused_container_does_nothing(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Two processes that count stand still, go on after resume; twice, to see that it can be done again."""
    container = running(runtime, bundle, COUNT + " & " + COUNT.replace("/count", "/other"))
    counts = [bundle.rootfs / "count", bundle.rootfs / "other"]
    for _ in range(2):
        before = [path.read_text() if path.exists() else "" for path in counts]
        wait_for(lambda old=before: all(path.exists() and path.read_text() not in ("", past)
                                        for path, past in zip(counts, old, strict=True)), "the counters to go on")
        result = runtime("pause", container)
        assert (result.code, result.out, result.err) == (0, "", "")
        assert runtime.state(container)["status"] == "paused"
        still = [path.read_text() for path in counts]
        time.sleep(0.3)
        assert [path.read_text() for path in counts] == still
        result = runtime("resume", container)
        assert (result.code, result.out, result.err) == (0, "", "")
        assert runtime.state(container)["status"] == "running"


def test_a_created_container_can_be_paused(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.create(bundle.args("sleep 100"))
    assert runtime("pause", container).code == 0
    assert runtime.state(container)["status"] == "paused"
    refused = runtime("start", container)
    assert refused.code == 1 and "cannot start a container in the paused state" in refused.err
    assert runtime("resume", container).code == 0
    assert runtime.state(container)["status"] == "created"
    assert runtime("start", container).code == 0
    assert runtime.state(container)["status"] == "running"


def test_wrong_states_in_runcs_words(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Clients match `container not running` and `container not paused`."""
    container = running(runtime, bundle)
    assert runtime("resume", container).errors == [f"pyrunc: resume {container}: container not paused"]
    assert runtime("pause", container).code == 0
    again = runtime("pause", container)
    assert again.code == 1
    assert again.errors == [f"pyrunc: pause {container}: container not running (it is paused already)"]
    assert runtime("kill", container, "KILL").code == 0
    runtime.wait(container)
    assert runtime("pause", container).errors == [f"pyrunc: pause {container}: container not running"]
    assert runtime("resume", container).errors == [f"pyrunc: resume {container}: container not paused"]
    assert runtime("pause", "none").errors == ["pyrunc: pause none: container does not exist"]


def test_a_paused_container_can_be_deleted(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = running(runtime, bundle)
    pid = runtime.state(container)["pid"]
    assert runtime("pause", container).code == 0
    assert runtime("delete", container).code == 1
    assert Path(f"/proc/{pid}").exists()
    assert runtime("delete", "--force", container).code == 0


def test_signals_for_everyone_do_not_undo_a_pause(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """`kill --all` freezes the processes for a moment, and thaws them: not those that somebody pauses meanwhile.

    Nor is that moment one in which nobody can enter.
    """
    container = running(runtime, bundle, "trap : CONT; while :; do sleep 100 & wait; done")
    for _ in range(8):
        kills = [subprocess.Popen(runtime.command("kill", "--all", container, "CONT")) for _ in range(3)]
        entered = runtime("exec", container, "true")
        assert (entered.code, entered.err) == (0, "")
        kills += [subprocess.Popen(runtime.command("kill", "--all", container, "CONT")) for _ in range(3)]
        paused = runtime("pause", container)
        assert (paused.code, paused.err) == (0, "")
        assert [kill.wait(30) for kill in kills] == [0] * 6
        assert runtime.state(container)["status"] == "paused"
        assert runtime("resume", container).code == 0
    assert runtime("delete", "--force", container).code == 0
