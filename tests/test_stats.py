# SPDX-License-Identifier: Apache-2.0
"""The stats of `events`: runc's types/events.go member for member, from the files of v1 and of v2."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from cgroup_lanes import lanes, made, spawn

from pyrunc import stats, stats_v1, stats_v2
from pyrunc.cli.events import duration
from pyrunc.cli.update import size
from pyrunc.errors import UsageError
from pyrunc.stats import MAX, Reading

# The members of types.Stats in order; those with ? are left out when they are zero or empty (omitempty, omitzero).
PSI = "psi?"
ENTRY = ["limit", "usage?", "max?", "failcnt"]
BLKIO = ["ioServiceBytesRecursive?", "ioServicedRecursive?", "ioQueueRecursive?", "ioServiceTimeRecursive?",
         "ioWaitTimeRecursive?", "ioMergedRecursive?", "ioTimeRecursive?", "sectorsRecursive?"]
SHAPE: dict[tuple[str, ...], list[str]] = {
    (): ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"],
    ("cpu",): ["usage?", "throttling?", PSI],
    ("cpu", "usage"): ["total?", "percpu?", "percpu_kernel?", "percpu_user?", "kernel", "user"],
    ("cpu", "throttling"): ["periods?", "throttledPeriods?", "throttledTime?"],
    ("cpu", "psi"): ["some?", "full?"],
    ("cpu", "psi", "some"): ["avg10", "avg60", "avg300", "total"],
    ("cpuset",): ["cpus?", "cpu_exclusive", "mems?", "mem_hardwall", "mem_exclusive", "memory_migrate",
                  "memory_spread_page", "memory_spread_slab", "memory_pressure", "sched_load_balance",
                  "sched_relax_domain_level"],
    ("memory",): ["cache?", "usage?", "swap?", "kernel?", "kernelTCP?", "raw?", PSI],
    **{("memory", name): ENTRY for name in ("usage", "swap", "kernel", "kernelTCP")},
    ("pids",): ["current?", "limit?"],
    ("blkio",): [*BLKIO, PSI],
    ("hugetlb", "2MB"): ["usage?", "max?", "failcnt"],
    ("intel_rdt",): [],
}


def full() -> Reading:
    """Something everywhere."""
    reading = Reading()
    reading.cpu = {"total": 7, "percpu": [3, 4], "percpu_kernel": [1, 2], "percpu_user": [2, 2], "kernel": 3, "user": 4}
    reading.throttling = {"periods": 5, "throttledPeriods": 2, "throttledTime": 900}
    reading.cpuset = dict.fromkeys(("cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate",
                                    "memory_spread_page", "memory_spread_slab", "memory_pressure",
                                    "sched_load_balance", "sched_relax_domain_level"), 1) | {"cpus": [0], "mems": [0]}
    reading.memory = {name: {"limit": 9, "usage": 8, "max": 7, "failcnt": 6}
                      for name in ("usage", "swap", "kernel", "kernelTCP")}
    reading.raw = {"cache": 5, "anon": 2}
    reading.pids = {"current": 3, "limit": 4}
    reading.blkio = {name.rstrip("?"): [{"major": 8, "minor": 0, "op": "Read", "value": 1}] for name in BLKIO}
    reading.hugetlb = {"2MB": {"usage": 1, "max": 2, "failcnt": 3}}
    pressure = {kind: {"avg10": 0.5, "avg60": 0, "avg300": 0, "total": 9} for kind in ("some", "full")}
    reading.psi = {"cpu": pressure, "memory": pressure, "blkio": pressure}
    return reading


def at(data: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        data = data[name]
    return data


@pytest.mark.parametrize("place", SHAPE, ids="/".join)
def test_every_member_in_runcs_order(place: tuple[str, ...]) -> None:
    assert list(at(stats.shape(full()), place)) == [name.rstrip("?") for name in SHAPE[place]]


def test_what_is_empty_is_left_out_or_zero_as_in_runc() -> None:
    assert stats.shape(Reading()) == {
        "cpu": {}, "memory": {}, "pids": {}, "blkio": {}, "hugetlb": {}, "intel_rdt": {}, "network_interfaces": None,
        "cpuset": {name: 0 for name in SHAPE["cpuset",] if not name.endswith("?")},
    }
    reading = full()
    reading.cpu = {"kernel": 1}
    reading.memory = {"usage": {"usage": 1}}
    reading.blkio = {"ioServicedRecursive": [{"major": 0, "minor": 0, "op": "", "value": 0}]}
    reading.hugetlb = {"2MB": {"usage": 0, "failcnt": 0}}
    reading.psi = {"cpu": {"some": {"avg10": 0, "total": 0}, "full": {"avg10": 0, "total": 1}}}
    data = stats.shape(reading)
    assert data["cpu"]["usage"] == {"kernel": 1, "user": 0}
    assert data["cpu"]["psi"] == {"full": {"avg10": 0, "avg60": 0, "avg300": 0, "total": 1}}
    assert data["memory"] == {"cache": 5, "usage": {"limit": 0, "usage": 1, "failcnt": 0},
                              "raw": {"anon": 2, "cache": 5}}
    assert data["blkio"] == {"ioServicedRecursive": [{}]} and data["hugetlb"] == {"2MB": {"failcnt": 0}}


V2 = {
    "cpu.stat": "usage_usec 12\nuser_usec 7\nsystem_usec 5\nnr_periods 9\nnr_throttled 3\nthrottled_usec 4\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "memory.stat": "anon 100\nfile 4096\nkernel 5\n",
    "memory.current": "5000\n", "memory.max": "8192\n", "memory.peak": "6000\n",
    "memory.swap.current": "10\n", "memory.swap.max": "1000\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "pids.current": "3\n", "pids.max": "max\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:1 \n",
}


def files(place: Path, contents: dict[str, str]) -> str:
    for name, content in contents.items():
        (place / name).write_text(content)
    return str(place)


def test_v2s_files(tmp_path: Path) -> None:
    """Microseconds become nanoseconds, swap includes memory, pids.max `max` is 0, io.stat becomes v1's tables."""
    data = stats.shape(stats_v2.read(files(tmp_path, V2)))
    assert data["cpu"] == {
        "usage": {"total": 12000, "kernel": 5000, "user": 7000},
        "throttling": {"periods": 9, "throttledPeriods": 3, "throttledTime": 4000},
        "psi": {"some": {"avg10": 1.5, "avg60": 0.25, "avg300": 0, "total": 77}},
    }
    assert data["memory"] == {
        "cache": 4096, "usage": {"limit": 8192, "usage": 5000, "max": 6000, "failcnt": 0},
        "swap": {"limit": 9192, "usage": 5010, "failcnt": 0}, "raw": {"anon": 100, "file": 4096, "kernel": 5},
        "psi": {},
    }
    assert data["pids"] == {"current": 3}
    assert data["blkio"] == {
        "ioServiceBytesRecursive": [{"major": 8, "op": "Read", "value": 1}, {"major": 8, "op": "Write", "value": 2}],
        "ioServicedRecursive": [{"major": 8, "op": "Read", "value": 3}, {"major": 8, "op": "Write", "value": 4}],
    }
    assert '"avg300":0,' in json.dumps(data, separators=(",", ":"))  # as Go writes it, not 0.0


def test_v2_unlimited_and_with_little(tmp_path: Path) -> None:
    directory = files(tmp_path, {"memory.current": "1\n", "memory.max": "max\n", "memory.swap.current": "0\n",
                                 "memory.swap.max": "max\n", "cgroup.procs": "1\n2\n"})
    data = stats.shape(stats_v2.read(directory))
    assert data["memory"]["usage"]["limit"] == data["memory"]["swap"]["limit"] == MAX == 18446744073709551615
    assert data["pids"] == {"current": 2}  # counted, where the controller isn't enabled
    (tmp_path / "memory.swap.current").unlink()
    assert stats_v2.read(directory).memory["swap"] == {"usage": 1, "limit": MAX}


def test_v1s_block_io_comes_from_the_first_files_that_have_it(tmp_path: Path) -> None:
    lines = "8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n"
    directory = files(tmp_path, {"blkio.throttle.io_serviced": lines, "blkio.throttle.io_service_bytes": lines,
                                 "blkio.bfq.sectors_recursive": ""})
    entries = [{"major": 8, "minor": 0, "op": op, "value": 4096} for op in ("Read", "Total")]
    assert stats_v1.read({"blkio": directory}).blkio == {"ioServicedRecursive": entries,
                                                        "ioServiceBytesRecursive": entries}
    files(tmp_path, {"blkio.throttle.io_serviced_recursive": "8:0 Write 1\n",
                     "blkio.throttle.io_service_bytes_recursive": "8:0 Write 2\n"})
    blkio = stats_v1.read({"blkio": directory}).blkio
    assert [blkio[name][0]["value"] for name in ("ioServicedRecursive", "ioServiceBytesRecursive")] == [1, 2]


@lanes("hybrid", "legacy", "unified")
def test_of_a_real_cgroup() -> None:
    """One process that has burnt some CPU."""
    with made() as cg:
        spawn(cg, "sh", "-c", "i=0; while :; do i=$((i + 1)); done")
        for _ in range(500):
            data = stats.stats(cg)
            if data["cpu"].get("usage", {}).get("total", 0) > 50_000_000:
                break
            time.sleep(0.01)
        assert data["cpu"]["usage"]["total"] > 50_000_000 and data["pids"]["current"] == 1
        assert data["cpu"]["usage"]["user"] <= 2 * data["cpu"]["usage"]["total"] + 20_000_000
        for place, names in SHAPE.items():
            try:
                found = list(at(data, place))
            except (KeyError, TypeError):
                continue
            known = [name.rstrip("?") for name in names]
            assert [name for name in known if name in found] == found, place


@pytest.mark.parametrize(("text", "seconds"), [
    ("5s", 5), ("1m30s", 90), ("1.5h", 5400), ("300ms", 0.3), ("0", 0), ("-5s", -5), ("+2s", 2), (".5s", 0.5),
    ("1h0m0.5s", 3600.5), ("20us", 0.00002), ("20\u00b5s", 0.00002), ("1000000ns", 0.001),
])
def test_a_duration_as_go_reads_it(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "5 s", "1.2.3s", ".s", "5S", "--5s", "5s3", "1e3s", "-"])
def test_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="takes a duration"):
        duration(text)


@pytest.mark.parametrize(("text", "value"), [
    ("0", 0), ("1000", 1000), ("32b", 32), ("32B", 32), ("32k", 32768), ("32KB", 32768), ("32kib", 32768),
    ("512m", 512 << 20), ("512 MiB", 512 << 20), ("1.5g", 3 << 29), ("1t", 1 << 40), ("1P", 1 << 50), ("2.5", 2),
])
def test_a_size_as_docker_reads_it(text: str, value: int) -> None:
    assert size(text) == value


@pytest.mark.parametrize("text", ["", "m", "-1", "-5m", "5x", "5mm", "5bm", "5ib", "5  m", " 5m", "5m ", "1,5g", "0x10",
                                  "\u0665", "1_0", "5e3", "1.2.3", "+5"])
def test_no_size(text: str) -> None:
    assert size(text) is None
