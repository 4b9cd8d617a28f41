# SPDX-License-Identifier: Apache-2.0
"""events: the stats as runc prints them, and each time the container runs out of memory, before its end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Bundle, Host, Runtime, wait_for

LIMITS: dict[str, Any] = {"memory": {"limit": 96 << 20}, "pids": {"limit": 33},
                          "cpu": {"quota": 80000, "period": 100000, "cpus": "0"}}
# What runc 1.1.5 always prints and its later versions leave out when nothing is in it.
EMPTY = [{}, {"limit": 0, "failcnt": 0}]
BUSY = "i=0; while [ $i -lt 40000 ]; do i=$((i + 1)); done; dd if=/dev/zero of=/tmp/f bs=1M count=8 2>/dev/null; echo"


def limit(bundle: Bundle, resources: dict[str, Any] = LIMITS) -> Bundle:
    bundle.linux["resources"] = {**bundle.linux.get("resources", {}), **resources}
    return bundle


def follow(runtime: Runtime, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(runtime.command("events", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def wait_until_it_watches(watcher: subprocess.Popen[str]) -> None:
    """It has the container's init in its poll, which it takes there last."""
    def polls() -> bool:
        links = []
        for fd in Path(f"/proc/{watcher.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(os.readlink(fd))
        return any("pidfd" in link for link in links) and any("memory." in link for link in links)

    wait_for(lambda: watcher.poll() is not None or polls(), "events to watch")


#: What runc has on v2 since 1.2 and 1.3.
LATER = ("/memory/usage/max", "/cpu/psi", "/memory/psi")


def keys(value: Any, place: str = "") -> set[str]:
    """The path of every member but those of the raw memory counters; an empty one is none."""
    found: set[str] = set()
    if isinstance(value, dict):
        for key, item in value.items():
            if item not in EMPTY:
                found |= {f"{place}/{key}"} | (set() if key == "raw" else keys(item, f"{place}/{key}"))
    return found


def test_stats_beside_runcs(runtime: Runtime, bundle: Bundle, host: Host, make_runtime: Callable[[str], Runtime],
                            make_bundle: Callable[[str], Bundle]) -> None:
    """The same members, the same limits, and much the same use."""
    seen = []
    for each, place in ((runtime, bundle), (make_runtime("runc"), make_bundle("other"))):
        container = each.create(limit(place).args(BUSY + "; mkfifo /tmp/p; touch /done; read x < /tmp/p"))
        assert each("start", container).code == 0
        wait_for((place.rootfs / "done").exists, "the work to be done", timeout=120)
        result = each("events", "--stats", container)
        assert result.code == 0 and len(result.lines) == 1, result
        event = json.loads(result.out)
        assert (event["type"], event["id"]) == ("stats", container)
        seen.append(event["data"])
        each.clean_up()
    ours, runcs = seen
    assert list(ours) == list(runcs)
    later = {key for key in keys(ours) if key.startswith(LATER)}
    same = {key for key in keys(ours) ^ keys(runcs) if not key.startswith(("/blkio", "/cpu/throttling"))} - later
    assert same <= {"/memory/kernel/usage", "/memory/kernel/max", "/memory/kernel"}, same
    for path in (("memory", "usage", "limit"), ("pids", "limit"), ("cpuset", "cpus"), ("cpuset", "mems"),
                 ("pids", "current"), ("cpuset", "sched_relax_domain_level"), ("cpuset", "sched_load_balance")):
        one, two = ours, runcs
        for name in path:
            one, two = one.get(name), two.get(name)  # neither tells of v2's cpusets
        assert one == two, path
    assert ours["memory"]["usage"]["limit"] == 96 << 20 and ours["pids"]["limit"] == 33
    assert set(ours["memory"]["raw"]) == set(runcs["memory"]["raw"])
    assert len({len(data["cpu"]["usage"].get("percpu") or ()) for data in seen}) == 1  # v2 doesn't tell
    total = [data["cpu"]["usage"]["total"] for data in seen]
    assert 1 / 4 < total[0] / total[1] < 4
    assert abs(ours["memory"]["usage"]["usage"] - runcs["memory"]["usage"]["usage"]) < 8 << 20


def test_stats_every_interval(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.create(bundle.args("mkfifo /p; read x < /p"))
    assert runtime("start", container).code == 0
    watcher = follow(runtime, "--interval", "150ms", container)
    assert watcher.stdout and watcher.stderr
    lines = [watcher.stdout.readline() for _ in range(3)]
    wait_for((bundle.rootfs / "p").exists, "the container to wait")
    (bundle.rootfs / "p").write_text("on\n")
    out, err = watcher.communicate(timeout=60)
    assert (watcher.returncode, err) == (0, "")  # it ended with the container, which is not deleted yet
    events = [json.loads(line) for line in [*lines, *out.splitlines()]]
    assert {event["type"] for event in events} == {"stats"}
    used = [event["data"]["cpu"]["usage"]["total"] for event in events]
    assert used == sorted(used)
    assert all(event["data"]["pids"]["current"] == 1 for event in events[:3])


HOG = "exec tail -c 200m /dev/zero"


@pytest.mark.parametrize("script", [HOG, "tail -c 200m /dev/zero; true"], ids=["the init dies", "a child dies"])
def test_out_of_memory_is_told_before_the_end(runtime: Runtime, bundle: Bundle, host: Host, script: str) -> None:
    container = runtime.create(limit(bundle, {"memory": {"limit": 24 << 20}}).args(script))
    watcher = follow(runtime, "--interval", "1h", container)
    wait_until_it_watches(watcher)
    assert runtime("start", container).code == 0
    out, err = watcher.communicate(timeout=60)
    assert (watcher.returncode, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [{"type": "oom", "id": container}]


def test_out_of_memory_and_gone_at_once(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """`run` deletes the container as soon as it ends: the event isn't lost with its cgroup."""
    limit(bundle, {"memory": {"limit": 24 << 20}}).args("read x; " + HOG).save()
    container = runtime.new_id()
    run = subprocess.Popen(runtime.command("run", "--bundle", bundle.path, container), stdin=subprocess.PIPE,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: '"running"' in runtime("state", container).out, "it to run")
    watcher = follow(runtime, "--interval", "1h", container)
    wait_until_it_watches(watcher)
    run.communicate(b"\n", timeout=60)
    out, err = watcher.communicate(timeout=60)
    assert (watcher.returncode, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [{"type": "oom", "id": container}]


def test_a_killed_container_is_not_out_of_memory(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The control; with an interval that is more milliseconds than poll(2) takes."""
    container = runtime.create(limit(bundle).args("sleep 100"))
    assert runtime("start", container).code == 0
    watcher = follow(runtime, "--interval", "1000h", container)
    wait_until_it_watches(watcher)
    assert watcher.poll() is None
    assert runtime("delete", "--force", container).code == 0
    out, err = watcher.communicate(timeout=60)
    assert (watcher.returncode, out, err) == (0, "", "")


def test_it_ends_with_the_last_process(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Without a pid namespace the init's end isn't the container's processes'."""
    container = runtime.create(bundle.without("pid").args("mkfifo /p; (read x < /p) & exec true"))
    watcher = follow(runtime, "--interval", "1h", container)
    wait_until_it_watches(watcher)
    assert runtime("start", container).code == 0
    runtime.wait(container)
    time.sleep(0.5)  # the control: it would have ended by now
    assert watcher.poll() is None
    (bundle.rootfs / "p").write_text("on\n")
    assert watcher.wait(timeout=60) == 0
    watcher.communicate()


def test_the_reader_may_go(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.create(bundle.args("sleep 100"))
    done = subprocess.run(["sh", "-c", '"$@" | head -n 1', "_", *runtime.command("events", "--interval", "50ms",
                                                                                 container)],
                          capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["type"] == "stats" and done.stderr == ""


@pytest.mark.parametrize(("words", "expected"), [
    (("--interval", "0", "web"), "duration interval must be greater than 0"),
    (("--interval", "-5s", "web"), "duration interval must be greater than 0"),
    (("--interval", "5", "web"), 'takes a duration such as 5s or 1m30s, not "5"'),
    (("web",), "container does not exist"),
])
def test_mistakes_of_events(runtime: Runtime, words: tuple[str, ...], expected: str) -> None:
    result = runtime("events", *words)
    assert result.code == 1 and len(result.errors) == 1 and expected in result.err


def test_a_stopped_container(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.create(bundle.args("true"))
    assert runtime("start", container).code == 0
    runtime.wait(container)
    for words in ((), ("--stats",)):
        result = runtime("events", *words, container)
        assert result.code == 1
        assert result.errors == [f"pyrunc: events {container}: container with id {container} is not running"]
    assert Path(runtime.root / container).exists()
