# SPDX-License-Identifier: Apache-2.0
"""update: each option's file afterwards, what stays as it was, and all or nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from container_cgroup import is_v2
from support import Bundle, Host, Runtime

from pyrunc.cgroupv2 import shares_to_weight

sys.path.insert(0, str(Path(__file__).parents[2]))  # conformance is no part of what is installed

from conformance.resources import device_programs

ROOT = Path("/sys/fs/cgroup")
START: dict[str, Any] = {
    "memory": {"limit": 64 << 20, "reservation": 32 << 20},
    "cpu": {"shares": 512, "quota": 50000, "period": 100000},
    "pids": {"limit": 50},
}


#: What v1's files are called on v2.
ON_V2 = {"memory.limit_in_bytes": "memory.max", "memory.soft_limit_in_bytes": "memory.low", "cpu.shares": "cpu.weight",
         "cpu.cfs_quota_us": "cpu.max", "cpu.cfs_period_us": "cpu.max", "cpu.cfs_burst_us": "cpu.max.burst"}


def on_v2(expected: dict[str, str]) -> dict[str, str]:
    """Values of v1 as v2 has them: a weight for shares, one file for quota and period."""
    found = {}
    for name, value in expected.items():
        if name == "cpu.shares":
            value = str(shares_to_weight(int(value)))
        elif ON_V2.get(name) == "cpu.max":
            quota, period = expected.get("cpu.cfs_quota_us", "50000"), expected.get("cpu.cfs_period_us", "100000")
            value = f"{'max' if quota == '-1' else quota} {period}"
        elif value == "9223372036854771712":
            value = "max"
        found[ON_V2.get(name, name)] = value
    return found


class Limits:
    """The files of a container's cgroup, by their names on v1 or on v2."""

    def __init__(self, runtime: Runtime, container: str) -> None:
        pid = runtime.state(container)["pid"]
        self.directories = {}
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            self.directories.update({name: ROOT / name / path.lstrip("/") for name in names.split(",")
                                     if name or is_v2()})

    def __getitem__(self, file: str) -> str:
        return (self.directory(file.split(".")[0]) / file).read_text().strip()

    def directory(self, controller: str) -> Path:
        return self.directories["" if is_v2() else controller]

    def all(self) -> dict[str, str]:
        """Every file that says a limit, each readable."""
        found = {}
        for controller in ("memory", "cpu", "cpuset", "pids"):
            for path in self.directory(controller).iterdir():
                if path.name.startswith(controller + ".") and path.stat().st_mode & 0o222:
                    try:
                        found[path.name] = path.read_text()
                    except OSError:
                        continue
        # What is no limit, and changes by itself.
        return {name: text for name, text in found.items() if not name.endswith(
            ("usage_in_bytes", "failcnt", "force_empty", "oom_control", "pressure_level", "peak", "pressure"))}


@pytest.fixture
def container(runtime: Runtime, bundle: Bundle, host: Host) -> str:
    bundle.linux["resources"] = {**bundle.linux.get("resources", {}), **START}
    container = runtime.create(bundle.args("sleep 100"))
    assert runtime("start", container).code == 0
    return container


@pytest.fixture
def limits(runtime: Runtime, container: str) -> Limits:
    return Limits(runtime, container)


MIB = 1 << 20
OPTIONS = {
    "memory": (("--memory", "100m"), {"memory.limit_in_bytes": str(100 * MIB)}),
    "memory in bytes": (("--memory=8388608",), {"memory.limit_in_bytes": "8388608"}),
    "memory of 48.5 MiB": (("--memory", "48.5 MiB"), {"memory.limit_in_bytes": str(97 * MIB // 2)}),
    "memory unlimited": (("--memory", "-1"), {"memory.limit_in_bytes": "9223372036854771712"}),
    "memory-reservation": (("--memory-reservation", "16m"), {"memory.soft_limit_in_bytes": str(16 * MIB)}),
    "cpu-share": (("--cpu-share", "256"), {"cpu.shares": "256"}),
    "cpu-quota": (("--cpu-quota", "20000"), {"cpu.cfs_quota_us": "20000", "cpu.cfs_period_us": "100000"}),
    "cpu-quota unlimited": (("--cpu-quota", "-1"), {"cpu.cfs_quota_us": "-1"}),
    "cpu-period": (("--cpu-period", "200000"), {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "200000"}),
    "both": (("--cpu-period", "50000", "--cpu-quota", "25000"), {"cpu.cfs_quota_us": "25000",
                                                                "cpu.cfs_period_us": "50000"}),
    "period 0 is none": (("--cpu-period", "0"), {"cpu.cfs_period_us": "100000"}),
    "cpu-burst": (("--cpu-burst", "10000"), {"cpu.cfs_burst_us": "10000"}),
    "cpu-idle": (("--cpu-idle", "1"), {"cpu.idle": "1"}),
    "cpuset-cpus": (("--cpuset-cpus", "0"), {"cpuset.cpus": "0"}),
    "cpuset-mems": (("--cpuset-mems", "0"), {"cpuset.mems": "0"}),
    "pids-limit": (("--pids-limit", "7"), {"pids.max": "7"}),
    "pids-limit unlimited": (("--pids-limit", "-1"), {"pids.max": "max"}),
    "several": (("--pids-limit", "9", "--memory", "1g", "--cpu-share=2048"),
                {"pids.max": "9", "memory.limit_in_bytes": str(1024 * MIB), "cpu.shares": "2048"}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_an_option(runtime: Runtime, container: str, limits: Limits, case: str) -> None:
    """Its file has the value, and no other has changed."""
    words, expected = OPTIONS[case]
    if is_v2():
        expected = on_v2(expected)
    before = limits.all()
    result = runtime("update", *words, container)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert {name: limits[name] for name in expected} == expected
    # cpu.shares and cpu.idle are two faces of a weight
    faces = {"cpu.shares", "cpu.weight", "cpu.weight.nice"} if case == "cpu-idle" else {"cpu.weight.nice"}
    same = {"memory.kmem.limit_in_bytes"}
    after = limits.all()
    changed = {name for name in before if before[name] != after[name]}
    assert changed - set(expected) - faces - same == set()


def test_resources_from_a_file_and_from_stdin(runtime: Runtime, container: str, limits: Limits,
                                              tmp_path: Path) -> None:
    """The options are ignored beside it, as runc's are."""
    given = tmp_path / "resources.json"
    given.write_text(json.dumps({"pids": {"limit": 11}, "cpu": {"shares": 128}}))
    assert runtime("update", "--resources", given, "--pids-limit", "99", container).code == 0
    shares, value = ("cpu.weight", str(shares_to_weight(128))) if is_v2() else ("cpu.shares", "128")
    assert (limits["pids.max"], limits[shares]) == ("11", value)
    assert runtime("update", "-r", "-", container, stdin='{"pids": {"limit": 12}, "memory": null}').code == 0
    assert (limits["pids.max"], limits[shares]) == ("12", value)


def test_zeros_are_no_limits(runtime: Runtime, container: str, limits: Limits) -> None:
    """Clients send whole structures; the example of runc's help is one, and changes nothing."""
    before = limits.all()
    example = {"memory": {"limit": 0, "reservation": 0, "swap": 0, "checkBeforeUpdate": True},
               "cpu": {"shares": 0, "quota": 0, "burst": 0, "period": 0, "realtimeRuntime": 0, "realtimePeriod": 0,
                       "cpus": "", "mems": "", "idle": 0}, "blockIO": {"weight": 0}}
    result = runtime("update", "--resources", "-", container, stdin=json.dumps(example))
    assert (result.code, result.err) == (0, "")
    assert limits.all() == before


def test_a_later_update_starts_from_the_earlier(runtime: Runtime, container: str, limits: Limits) -> None:
    """Only the quota is given: its period is the last one, not the one of config.json."""
    assert runtime("update", "--cpu-period", "50000", container).code == 0
    assert runtime("update", "--cpu-quota", "30000", container).code == 0
    expected = {"cpu.cfs_quota_us": "30000", "cpu.cfs_period_us": "50000"}
    if is_v2():
        expected = on_v2(expected)
    assert {name: limits[name] for name in expected} == expected
    kept = json.loads((runtime.root / container / "state.json").read_text())["resources"]
    assert kept["cpu"] == {"shares": 512, "quota": 30000, "period": 50000} and kept["pids"] == {"limit": 50}
    config = json.loads((runtime.root / container / "config.json").read_text())
    assert config["linux"]["resources"]["cpu"]["quota"] == 50000


def test_what_others_set_is_left_alone(runtime: Runtime, container: str, limits: Limits) -> None:
    name = "cpu.weight" if is_v2() else "cpu.shares"
    (limits.directory("cpu") / name).write_text("777")
    assert runtime("update", "--pids-limit", "8", container).code == 0
    assert limits[name] == "777"


@pytest.mark.parametrize("words", [
    ("--pids-limit", "6", "--cpu-share", "99", "--cpuset-cpus", "999"),
    ("--memory", "80m", "--memory-reservation", "10m", "--cpu-quota", "20000", "--cpuset-mems", "77"),
    ("--cpu-share", "99", "--pids-limit", "6", "--cpu-quota", "3"),
    ("--pids-limit", "6", "--cpu-period", "5"),
], ids=" ".join)
def test_all_or_nothing(runtime: Runtime, container: str, limits: Limits, words: tuple[str, ...]) -> None:
    """The kernel rejects one value: every file reads as before, and so does what is kept."""
    before = limits.all()
    kept = (runtime.root / container / "state.json").read_text()
    result = runtime("update", *words, container)
    assert result.code == 1 and len(result.errors) == 1 and "/linux/resources/cpu" in result.err, result
    assert limits.all() == before
    assert (runtime.root / container / "state.json").read_text() == kept


@pytest.mark.parametrize(("words", "expected"), [
    (("--memory", "lots"), 'invalid value for memory: "lots" is not a size such as 512m'),
    (("--memory", "-5"), 'invalid value for memory: "-5" is not a size such as 512m'),
    (("--memory-swap", "1x"), 'invalid value for memory-swap: "1x" is not a size such as 512m'),
    (("--cpu-share", "-1"), 'invalid value for cpu-share: "-1" is not a number that is not negative'),
    (("--cpu-quota", "1_0"), 'invalid value for cpu-quota: "1_0" is not a number'),
    (("--cpu-period", "99999999999999999999"), "invalid value for cpu-period: "),
    (("--blkio-weight", "99999"), "/linux/resources/blockIO/weight"),
    (("--cpu-idle", "x"), 'invalid value for cpu-idle: "x" is not a number'),
    (("--l3-cache-schema", "L3:0=f"), "Intel RDT/CAT: l3 cache schema is not enabled"),
    (("--mem-bw-schema", "MB:0=20"), "Intel RDT/MBA: memory bandwidth schema is not enabled"),
    (("--resources", "/no/such/file"), "--resources /no/such/file: no such file or directory (ENOENT)"),
])
def test_a_bad_value_is_one_line(runtime: Runtime, container: str, limits: Limits, words: tuple[str, ...],
                                 expected: str) -> None:
    before = limits.all()
    result = runtime("update", *words, container)
    assert result.code == 1 and len(result.errors) == 1 and expected in result.err, result
    assert limits.all() == before


@pytest.mark.parametrize(("text", "expected"), [
    ("", "stdin: invalid JSON"),
    ("{", "stdin: invalid JSON at line 1"),
    ("[]", "/linux/resources: is not an object"),
    ('{"pids": {"limit": "7"}}', "/linux/resources/pids/limit"),
    ('{"pids": {"limit": 7, "limit": 8}}', "duplicate key"),
    ('{"memory": {"limit": 1.5}}', "/linux/resources/memory/limit"),
    ('{"pids": {"limit": 7}} {}', "something follows"),
])
def test_bad_json(runtime: Runtime, container: str, limits: Limits, text: str, expected: str) -> None:
    before = limits.all()
    result = runtime("update", "--resources", "-", container, stdin=text)
    assert result.code == 1 and len(result.errors) == 1 and expected in result.err, result
    assert limits.all() == before


def test_kernel_memory_is_ignored_with_a_warning(runtime: Runtime, container: str, limits: Limits) -> None:
    result = runtime("update", "--kernel-memory", "10m", "--pids-limit", "5", container)
    assert result.code == 0 and "Kernel memory settings are ignored and will be removed" in result.err
    assert limits["pids.max"] == "5"


def test_devices_are_not_touched(runtime: Runtime, container: str, limits: Limits) -> None:
    """containerd sends the whole of linux.resources; the device rules stay, as with runc."""
    def rules() -> str:
        if is_v2():
            return device_programs(limits.directory(""))
        return (limits.directory("devices") / "devices.list").read_text()

    before = rules()
    given = json.dumps({"devices": [{"allow": True, "access": "rwm"}], "pids": {"limit": 5}})
    assert runtime("update", "-r", "-", container, stdin=given).code == 0
    assert rules() == before
    assert limits["pids.max"] == "5"


def test_which_states(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.create(bundle.args("sleep 100"))
    limits = Limits(runtime, container)
    assert runtime("update", "--pids-limit", "21", container).code == 0 and limits["pids.max"] == "21"  # created
    assert runtime("start", container).code == 0
    assert runtime("pause", container).code == 0
    assert runtime("update", "--pids-limit", "22", container).code == 0 and limits["pids.max"] == "22"  # paused
    assert runtime.state(container)["status"] == "paused"
    assert runtime("kill", container, "KILL").code == 0
    runtime.wait(container)
    refused = runtime("update", "--pids-limit", "23", container)
    assert refused.errors == [f"pyrunc: update {container}: container not running"]
