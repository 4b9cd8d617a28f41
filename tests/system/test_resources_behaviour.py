# SPDX-License-Identifier: Apache-2.0
"""config-linux.md, Control groups: limits proven by what they do to a container, not by their files.

The same tests hold on v1, hybrid and v2; each has its control, without the limit.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_cgroup import ContainerCgroup, is_v2, resources
from support import WAIT, Bundle, Host, Runtime, wait_for

MiB = 1 << 20
LIMIT = 32 * MiB
HOG = "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null"
SIGKILLED = 128 + 9


def start(runtime: Runtime, bundle: Bundle, script: str, output: Path | None = None) -> tuple[str, ContainerCgroup]:
    """A started container and its cgroup."""
    container = runtime.create(bundle.args(script), output=output)
    cgroup = ContainerCgroup(runtime.state(container)["pid"])
    result = runtime("start", container)
    assert result.code == 0, result
    return container, cgroup


# Memory

def test_a_memory_hog_is_killed(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """memory.limit, with swap none; the control needs as much and has no limit."""
    assert runtime.run(resources(bundle), HOG).code == 0
    resources(bundle, memory={"limit": LIMIT, "swap": LIMIT})
    result = runtime.run(bundle.args(*HOG.partition(" 2>")[0].split()))
    assert result.code == SIGKILLED, result
    result = runtime.run(bundle, f"{HOG}; echo $?; echo the init lives")
    assert result.lines == [str(SIGKILLED), "the init lives"], result


def test_less_than_the_limit_is_not_killed(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    resources(bundle, memory={"limit": 64 * MiB, "swap": 64 * MiB})
    assert runtime.run(bundle, HOG.replace("200M", "32M")).code == 0


class Events:
    """`events ID` while it runs: its lines so far."""

    def __init__(self, runtime: Runtime, container: str, output: Path) -> None:
        self.output = output
        with open(output, "wb") as file, open(f"{output}-err", "wb") as errors:
            self.process = subprocess.Popen(runtime.command("events", "--interval", "1s", container), stdout=file,
                                            stderr=errors, stdin=subprocess.DEVNULL)

    def types(self) -> list[str]:
        """Of each whole line, its type."""
        whole = self.output.read_text().rpartition("\n")[0]
        return [json.loads(line)["type"] for line in whole.splitlines()]

    def listening(self) -> bool:
        """It has told the first figures, or ended."""
        return bool(self.types()) or self.process.poll() is not None

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.mark.vm_short
def test_events_tell_of_the_kill_before_the_exit(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """The event is there while the container still runs; without its cgroup `events` ends."""
    resources(bundle, memory={"limit": LIMIT, "swap": LIMIT})
    container, cgroup = start(runtime, bundle, f"while ! [ -e /go ]; do sleep 0.1; done; {HOG}; "
                                               "while ! [ -e /end ]; do sleep 0.1; done")
    events = Events(runtime, container, tmp_path / "events")
    try:
        wait_for(events.listening, "events to begin")
        assert "oom" not in events.types()  # the control
        (bundle.rootfs / "go").touch()
        wait_for(lambda: "oom" in events.types(), "the oom event")
        assert runtime.state(container)["status"] == "running"
        assert cgroup.oom_kills() == 1
        line = next(line for line in events.output.read_text().splitlines() if json.loads(line)["type"] == "oom")
        assert json.loads(line) == {"type": "oom", "id": container}
        (bundle.rootfs / "end").touch()
        runtime.wait(container)
        assert runtime("delete", container).code == 0
        wait_for(lambda: events.process.poll() is not None, "events to end with the container")
        assert events.process.returncode == 0 and events.types().count("oom") == 1
    finally:
        events.end()


def test_events_tell_of_the_inits_own_kill(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """Init itself is the hog: the event is told although the container is gone at the same moment."""
    resources(bundle, memory={"limit": LIMIT, "swap": LIMIT})
    container, _ = start(runtime, bundle, f"while ! [ -e /go ]; do sleep 0.1; done; exec {HOG}")
    events = Events(runtime, container, tmp_path / "events")
    try:
        wait_for(events.listening, "events to begin")
        (bundle.rootfs / "go").touch()
        wait_for(lambda: "oom" in events.types(), "the oom event")
        runtime.wait(container)
        assert runtime("delete", container).code == 0
        wait_for(lambda: events.process.poll() is not None, "events to end with the container")
        assert events.process.returncode == 0
    finally:
        events.end()


# CPU

SPIN = "while :; do :; done & while :; do :; done"
WINDOW = 2.0
FIRST = {"shares": 262144}  # so that it gets what its quota leaves it on a busy machine too


def rate(cgroup: ContainerCgroup) -> float:
    """Processors used, on average over the window."""
    began, used = time.monotonic(), cgroup.cpu_seconds()
    time.sleep(WINDOW)
    return (cgroup.cpu_seconds() - used) / (time.monotonic() - began)


@pytest.mark.parametrize(("quota", "period"), [(50000, 100000), (10000, 20000)])
def test_a_cpu_hog_is_held_to_its_quota(runtime: Runtime, bundle: Bundle, host: Host, quota: int, period: int) -> None:
    """cpu.quota / cpu.period, within 15 %: never more; it may get less for a while."""
    wanted = quota / period
    container, cgroup = start(runtime, resources(bundle, cpu={**FIRST, "quota": quota, "period": period}), SPIN)
    try:
        seen = []
        while not seen or (seen[-1] < wanted * 0.85 and len(seen) < 5):
            seen.append(rate(cgroup))
        assert max(seen) < wanted * 1.15, seen
        assert max(seen) > wanted * 0.85, seen
        assert cgroup.throttled() > 0
    finally:
        runtime("delete", "--force", container)


def test_without_a_quota_it_takes_more(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The control."""
    container, cgroup = start(runtime, resources(bundle, cpu=FIRST), SPIN)
    try:
        seen = [rate(cgroup)]
        while seen[-1] < 0.6 and len(seen) < 5:
            seen.append(rate(cgroup))
        assert max(seen) > 0.6, seen
        assert cgroup.throttled() == 0
    finally:
        runtime("delete", "--force", container)


def test_held_to_the_cpus_given(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """cpu.cpus: the last one only."""
    last = max(os.sched_getaffinity(0))
    find = "grep Cpus_allowed_list /proc/self/status"
    allowed = runtime.run(resources(bundle, cpu={"cpus": str(last)}), find).out.split()
    assert allowed == ["Cpus_allowed_list:", str(last)]
    assert len(os.sched_getaffinity(0)) == 1 or runtime.run(resources(bundle), find).out.split()[1] != str(last)


# Processes

BOMB = "b() { b & b & b & exec sleep 1000; }; b & exec sleep 1000"
TASKS = 40


def test_a_fork_bomb_stops_at_the_limit(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """pids.limit: never more than it, the kernel counts what it refused, and delete ends it."""
    resources(bundle, pids={"limit": TASKS})
    container, cgroup = start(runtime, bundle, BOMB)
    wait_for(lambda: cgroup.pids_refused() > 0, "forks to be refused")
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert cgroup.pids_current() <= TASKS
    began = time.monotonic()
    assert runtime("delete", "--force", container).code == 0
    assert time.monotonic() - began < WAIT / 2
    assert not any(path.exists() for name, path in cgroup.paths.items() if name in ("", "pids", "memory"))


@pytest.mark.parametrize(("version", "limit"), [("1.0.2-dev", "max"), ("1.2.1", "max"), ("1.3.0", "1")])
def test_no_processes_at_all_once_meant_any_number(runtime: Runtime, bundle: Bundle, host: Host, version: str,
                                                   limit: str) -> None:
    """pids.limit 0, which Podman up to 5.4 writes for `--pids-limit -1`; an update means it as config.json does."""
    bundle.config["ociVersion"] = version
    container = runtime.create(resources(bundle, pids={"limit": 0}).args("sleep", "100"))
    file = ContainerCgroup(int(runtime.state(container)["pid"])).file("pids/pids.max", "pids.max")
    assert file.read_text() == f"{limit}\n"
    assert runtime("update", "--pids-limit", "7", container).code == 0
    assert file.read_text() == "7\n"
    assert runtime("update", "--resources", "-", container, stdin='{"pids": {"limit": 0}}').code == 0
    assert file.read_text() == f"{limit}\n"


def test_a_limit_is_no_hindrance_below_it(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The control: thirty processes at a time are fewer than forty."""
    script = "for n in $(seq 30); do sleep 1 & done; wait; echo all"
    assert runtime.run(resources(bundle, pids={"limit": TASKS}), script).lines == ["all"]
    result = runtime.run(resources(bundle, pids={"limit": 10}), script)
    assert result.lines == [] and "can't fork" in result.err


# Block devices

@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A loop device."""
    if not os.path.exists("/dev/loop-control"):
        subprocess.run(["modprobe", "loop"], check=True)
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(64 * MiB)
    made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    path = Path(made.stdout.strip())
    yield path
    subprocess.run(["losetup", "--detach", path], check=True)


RATE = 2 * MiB
WRITTEN = 6 * MiB


@pytest.mark.parametrize("way", ["read", "write"])
def test_a_disk_hog_is_slowed(runtime: Runtime, bundle: Bundle, host: Host, disk: Path, way: str) -> None:
    """blockIO.throttle*BpsDevice with O_DIRECT: the rate within 30 %, and far beyond it without."""
    status = os.stat(disk)
    node = {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
    bundle.linux["devices"] = [{"type": "b", "path": "/dev/disk", "fileMode": 0o600, **node}]
    bundle.linux["resources"]["devices"] = [{"allow": False, "access": "rwm"},
                                            {"allow": True, "type": "b", "access": "rw", **node}]
    copy = {"write": "dd if=/dev/zero of=/dev/disk oflag=direct", "read": "dd if=/dev/disk of=/dev/null iflag=direct"}
    script = f"{copy[way]} bs=256k count={WRITTEN // (256 << 10)} 2>/dev/null && cut -d' ' -f1 /proc/uptime"
    timed = f"cut -d' ' -f1 /proc/uptime; {script}"

    def seconds() -> float:
        result = runtime.run(bundle, timed)
        assert len(result.lines) == 2, result
        return float(result.lines[1]) - float(result.lines[0])

    wanted = WRITTEN / RATE
    free = seconds()
    name = {"read": "throttleReadBpsDevice", "write": "throttleWriteBpsDevice"}[way]
    resources(bundle, blockIO={name: [{**node, "rate": RATE}]})
    slowed = seconds()
    assert wanted * 0.7 < slowed < wanted * 1.3, (free, slowed)
    assert free < wanted * 0.5, (free, slowed)


# Devices

KMSG = {"type": "c", "major": 1, "minor": 11}  # not among those that every container has


def opened(runtime: Runtime, bundle: Bundle, *rules: dict[str, object]) -> dict[str, str]:
    """What opening devices below these rules gave, by name."""
    bundle.linux["resources"] = {"devices": list(rules)}
    node = bundle.rootfs / "kmsg"
    if not node.exists():
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 11))
    result = runtime.run(bundle, "(: >/kmsg) 2>&1 && echo kmsg: opened; (: >/dev/null) 2>&1 && echo null: opened")
    return {name: line.rpartition(": ")[2] for line in result.lines for name in ("kmsg", "null") if name in line}


DENIED = "Operation not permitted"
DENY_ALL = {"allow": False, "access": "rwm"}


@pytest.mark.vm_short
def test_a_denied_device_cannot_be_opened(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config-linux.md, Allowed Device list: a real node, which opens with the rule and doesn't without."""
    denied = opened(runtime, bundle, DENY_ALL)
    assert denied["kmsg"] == DENIED and denied["null"] == "opened"
    allowed = opened(runtime, bundle, DENY_ALL, {"allow": True, "access": "rw", **KMSG})
    assert allowed["kmsg"] == allowed["null"] == "opened"


@pytest.mark.parametrize(("rules", "kmsg"), [
    ([DENY_ALL, {"allow": True, "access": "r", **KMSG}], DENIED),
    ([DENY_ALL, {"allow": True, "access": "w", **KMSG}], "opened"),
    ([DENY_ALL, {"allow": True, "access": "w", "type": "c", "major": 1}], "opened"),
    ([DENY_ALL, {"allow": True, "access": "w", "type": "b", "major": 1, "minor": 11}], DENIED),
    ([DENY_ALL, {"allow": True, "access": "w", **KMSG}, {"allow": False, "access": "w", **KMSG}], DENIED),
    ([{"allow": True, "access": "rwm"}], "opened"),
    ([{"allow": True, "access": "rwm"}, {"allow": False, "access": "w", **KMSG}], DENIED),
    ([{"allow": True, "access": "rwm"}, DENY_ALL], DENIED),
    ([], DENIED),
], ids=["read only", "write", "any minor", "the block device", "denied again", "all", "all but one", "all, then none",
        "no rules"])
def test_the_last_rule_that_matches_counts(runtime: Runtime, bundle: Bundle, host: Host,
                                           rules: list[dict[str, object]], kmsg: str) -> None:
    """The rules in order, opening for writing."""
    found = opened(runtime, bundle, *rules)
    assert found["kmsg"] == kmsg and found["null"] == "opened", found


def test_the_version_is_the_hosts(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """On v2 the limits are v2's; what both show above isn't an accident of the wrong hierarchy."""
    container = runtime.create(resources(bundle, pids={"limit": 33}))
    cgroup = ContainerCgroup(runtime.state(container)["pid"])
    assert cgroup.file("pids/pids.max", "pids.max").read_text() == "33\n"
    assert (cgroup.paths.keys() == {""}) == is_v2()
