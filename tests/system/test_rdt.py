# SPDX-License-Identifier: Apache-2.0
"""config-linux.md, IntelRdt, on a simulated resctrl (tests/resctrl.py): nobody's processors here have the real one.

The runtime finds it as it would find that, in /proc/self/mountinfo, where it is called by its name: each
command runs with its own mountinfo so edited, in a mount namespace of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Bundle, Host, Runtime, wait_for

SERVER = Path(__file__).resolve().parent.parent / "resctrl.py"
RENAMED = ("sed 's/ - fuse.resctrl / - resctrl /' /proc/$$/mountinfo > \"$0\" && mount --bind \"$0\" "
           "/proc/$$/mountinfo && exec \"$@\"")


class There(Runtime):
    """The runtime under test, which finds resctrl."""

    mountinfo: Path

    def command(self, *words: Any) -> list[str]:
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", RENAMED, str(self.mountinfo),
                *super().command(*words)]


class Resctrl:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, name: str) -> str:
        return (self.path / name).read_text()

    def schemata(self, group: str = "") -> dict[str, str]:
        lines = self(f"{group}/schemata".lstrip("/")).replace(" ", "").splitlines()
        return dict(line.split(":") for line in lines)

    def tasks(self, group: str = "") -> list[int]:
        return [int(line) for line in self(f"{group}/tasks".lstrip("/")).split()]

    def groups(self, group: str = "") -> set[str]:
        return set(os.listdir(self.path / group)) - {"info", "mon_data", "mon_groups", "schemata", "tasks"}


@pytest.fixture
def resctrl(tmp_path: Path) -> Iterator[Resctrl]:
    path = tmp_path / "resctrl"
    path.mkdir()
    server = subprocess.Popen([sys.executable, str(SERVER), str(path)], stdout=subprocess.PIPE)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    try:
        yield Resctrl(path)
    finally:
        subprocess.run(["umount", path], check=True)
        server.communicate(timeout=20)


@pytest.fixture
def runtime(runtime: Runtime, resctrl: Resctrl, tmp_path: Path) -> Runtime:
    there = There(runtime.path, runtime.root)
    there.mountinfo = tmp_path / "mountinfo"
    return there


def wanting(bundle: Bundle, **members: Any) -> Bundle:
    bundle.linux["intelRdt"] = members
    return bundle.args("sleep", "100")


def pid_of(runtime: Runtime, container: str) -> int:
    return int(runtime.state(container)["pid"])


def test_a_group_by_the_name_of_the_container(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl) -> None:
    """Without closID: <container-id> is made, gets the init and the schemata, and delete removes it."""
    container = runtime.create(wanting(bundle, l3CacheSchema="L3:0=f0;1=f", memBwSchema="MB:0=20;1=70"))
    assert resctrl.groups() == {container}
    assert resctrl.tasks(container) == [pid_of(runtime, container)]
    assert resctrl.schemata(container) == {"L3": "0=f0;1=f", "MB": "0=20;1=70"}
    assert resctrl.schemata() == {"L3": "0=ff;1=ff", "MB": "0=100;1=100"}
    assert runtime("delete", "--force", container).code == 0
    assert resctrl.groups() == set()


def test_schemata_are_written_last(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl) -> None:
    """l3CacheSchema first, then memBwSchema, schemata after them: the later line wins."""
    container = runtime.create(wanting(bundle, l3CacheSchema="L3:0=f0", memBwSchema="MB:0=20",
                                       schemata=["L3:0=3;1=7", "MB:1=30"]))
    assert resctrl.schemata(container) == {"L3": "0=3;1=7", "MB": "0=20;1=30"}


def test_nothing_is_written_that_was_not_given(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl) -> None:
    """An empty object is a wish for a group; no intelRdt is none for anything."""
    container = runtime.create(wanting(bundle))
    assert resctrl.groups() == {container} and resctrl.schemata(container) == resctrl.schemata()
    assert resctrl.groups(f"{container}/mon_groups") == set()
    runtime.clean_up()
    del bundle.linux["intelRdt"]
    runtime.create(bundle)
    assert resctrl.groups() == set()
    wait_for(lambda: resctrl.tasks() == [], "whoever is left of the first to be reaped")


def test_a_class_of_its_own_name_is_made_and_stays(runtime: Runtime, bundle: Bundle, host: Host,
                                                   resctrl: Resctrl) -> None:
    """closID with schemata: the directory is made, and the runtime MUST NOT remove it."""
    container = runtime.create(wanting(bundle, closID="gold", schemata=["L3:0=f0"]))
    assert resctrl.groups() == {"gold"} and resctrl.tasks("gold") == [pid_of(runtime, container)]
    assert runtime("delete", "--force", container).code == 0
    assert resctrl.groups() == {"gold"} and resctrl.schemata("gold")["L3"] == "0=f0;1=ff"


def test_a_class_that_is_there(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl) -> None:
    """Its schemata have to be those of the configuration, in whatever form; they are not written."""
    (resctrl.path / "gold").mkdir()
    (resctrl.path / "gold/schemata").write_text("L3:0=f0\n")
    (resctrl.path / "gold/schemata").write_text("MB:0=15\n")
    before = resctrl("gold/schemata")
    container = runtime.create(wanting(bundle, closID="gold", l3CacheSchema="L3:1=ff;00=0F0", memBwSchema="MB:0=15"))
    assert resctrl.tasks("gold") == [pid_of(runtime, container)] and resctrl("gold/schemata") == before
    assert runtime("delete", "--force", container).code == 0
    result = runtime.run(wanting(bundle, closID="gold", l3CacheSchema="L3:0=ff"))
    assert result.code == 1 and resctrl("gold/schemata") == before
    wait_for(lambda: resctrl.tasks("gold") == [], "the first container's init to be reaped")
    if runtime.name == "pyrunc":
        assert "/linux/intelRdt/closID" in result.err and "L3:0=ff" in result.err


def test_a_class_without_schemata_has_to_be_there(runtime: Runtime, bundle: Bundle, host: Host,
                                                  resctrl: Resctrl) -> None:
    result = runtime.run(wanting(bundle, closID="gold"))
    assert result.code == 1 and "closID" in result.err and resctrl.groups() == set()
    (resctrl.path / "gold").mkdir()
    container = runtime.create(bundle)
    assert resctrl.tasks("gold") == [pid_of(runtime, container)]


def test_the_default_class(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl) -> None:
    """closID `/` is the root of the file system."""
    container = runtime.create(wanting(bundle, closID="/"))
    assert resctrl.groups() == set() and pid_of(runtime, container) in resctrl.tasks()
    assert runtime("delete", "--force", container).code == 0


@pytest.mark.parametrize("member", ["enableMonitoring", "enableCMT", "enableMBM"])
def test_monitoring(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl, member: str) -> None:
    """A MON group by the name of the container below the class, removed with the container; 1.2's names too."""
    (resctrl.path / "gold").mkdir()
    container = runtime.create(wanting(bundle, closID="gold", **{member: True}))
    pid = pid_of(runtime, container)
    assert resctrl.groups("gold/mon_groups") == {container}
    assert resctrl.tasks("gold") == resctrl.tasks(f"gold/mon_groups/{container}") == [pid]
    assert runtime("delete", "--force", container).code == 0
    assert resctrl.groups("gold/mon_groups") == set() and resctrl.groups() == {"gold"}


def test_monitoring_that_can_not_be_is_an_error(runtime: Runtime, bundle: Bundle, host: Host,
                                                resctrl: Resctrl) -> None:
    (resctrl.path / "gold").mkdir()
    container = runtime.new_id()
    (resctrl.path / "gold/mon_groups" / container).mkdir()  # somebody else's
    wanting(bundle, closID="gold", enableMonitoring=True).save()
    result = runtime("create", "--bundle", bundle.path, container)
    assert result.code == 1 and "enableMonitoring" in result.err
    assert resctrl.groups("gold/mon_groups") == {container}


@pytest.mark.parametrize(("members", "said"), [
    ({"schemata": ["L3:0=fff"]}, "Mask fff out of range"),
    ({"closID": "gold", "schemata": ["L9:0=f"]}, "Unknown or unsupported resource name 'L9'"),
    ({"memBwSchema": "MB:0=5"}, "MB value 5 out of range"),
])
def test_what_the_kernel_refuses_is_told_in_its_words(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl,
                                                      members: dict[str, Any], said: str) -> None:
    """And nothing is left, not even a class with a name of its own."""
    result = runtime.run(wanting(bundle, **members))
    assert result.code == 1 and resctrl.groups() == set()
    if runtime.name == "pyrunc":
        assert "/linux/intelRdt" in result.err and said in result.err and "EINVAL" in result.err


def test_no_more_classes(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl) -> None:
    for name in ("a", "b"):
        (resctrl.path / name).mkdir()
    result = runtime.run(wanting(bundle))
    assert result.code == 1 and "ENOSPC" in result.err and "Out of CLOSIDs" in result.err


def test_a_create_that_fails_later_leaves_no_group(runtime: Runtime, bundle: Bundle, host: Host,
                                                   resctrl: Resctrl) -> None:
    for members in ({}, {"closID": "gold", "schemata": ["L3:0=f"], "enableMonitoring": True}):
        wanting(bundle, **members).args("/nowhere", "x")
        assert runtime.run(bundle).code != 0
        assert resctrl.groups() == set()


def test_without_resctrl(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """If none is mounted the runtime MUST generate an error."""
    plain = Runtime(runtime.path, runtime.root)
    result = plain.run(wanting(bundle))
    assert result.code == 1
    if runtime.name == "pyrunc":
        assert "/linux/intelRdt" in result.err and "mount -t resctrl" in result.err


def test_what_is_started_inside_and_by_exec(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl) -> None:
    container = runtime.create(wanting(bundle, enableMonitoring=True))
    assert runtime("start", container).code == 0
    pid_file = bundle.path / "exec.pid"
    assert runtime("exec", "--detach", "--pid-file", pid_file, container, "sleep", "100").code == 0
    pids = {pid_of(runtime, container), int(pid_file.read_text())}
    assert set(resctrl.tasks(container)) == set(resctrl.tasks(f"{container}/mon_groups/{container}")) == pids


def test_update(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl) -> None:
    container = runtime.create(wanting(bundle, l3CacheSchema="L3:0=f0"))
    result = runtime("update", "--l3-cache-schema", "L3:0=7", "--mem-bw-schema", "MB:1=50", container)
    assert result.code == 0, result
    assert resctrl.schemata(container) == {"L3": "0=7;1=ff", "MB": "0=100;1=50"}
    result = runtime("update", "--l3-cache-schema", "L3:0=fff", container)
    assert result.code == 1 and "Mask fff out of range" in result.err
    assert resctrl.schemata(container)["L3"] == "0=7;1=ff"
    assert runtime("update", "--mem-bw-schema", "L3:0=7", container).code == 1


def test_update_is_all_or_nothing(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl) -> None:
    """With a limit of the cgroup that is refused, the caches are given back too."""
    container = runtime.create(wanting(bundle, l3CacheSchema="L3:0=f0"))
    result = runtime("update", "--l3-cache-schema", "L3:0=7", "--cpuset-cpus", "4000", container)
    assert result.code == 1 and resctrl.schemata(container)["L3"] == "0=f0;1=ff", result


def test_update_of_a_container_without(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl) -> None:
    """It gets a group then, with all its processes, and delete removes it."""
    container = runtime.create(bundle.args("sleep 100 & exec sleep 100"))
    assert runtime("start", container).code == 0
    wait_for(lambda: len(json.loads(runtime("ps", "--format", "json", container).out)) == 2, "the second process")
    assert resctrl.groups() == set()
    assert runtime("update", "--l3-cache-schema", "L3:0=7", container).code == 0
    pids = json.loads(runtime("ps", "--format", "json", container).out)
    assert set(resctrl.tasks(container)) == set(pids) and resctrl.schemata(container)["L3"] == "0=7;1=ff"
    assert runtime("delete", "--force", container).code == 0
    assert resctrl.groups() == set()


def test_update_where_there_is_none(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """runc's words."""
    plain = Runtime(runtime.path, runtime.root)
    container = plain.create(bundle.args("sleep", "100"))
    runtime.ids += plain.ids
    result = plain("update", "--l3-cache-schema", "L3:0=7", container)
    assert result.code == 1 and "Intel RDT/CAT: l3 cache schema is not enabled" in result.err
    result = plain("update", "--mem-bw-schema", "MB:0=70", container)
    assert result.code == 1 and "Intel RDT/MBA: memory bandwidth schema is not enabled" in result.err


def test_events(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl) -> None:
    """intel_rdt as runc's types.IntelRdt is written."""
    container = runtime.create(wanting(bundle, l3CacheSchema="L3:0=f0", enableMonitoring=True))
    found = json.loads(runtime("events", "--stats", container).out)["data"]["intel_rdt"]
    monitored = [int(resctrl(f"{container}/mon_groups/{container}/mon_data/mon_L3_0{cache}/llc_occupancy"))
                 for cache in (0, 1)]
    assert found.pop("cmt_stats") == [{"llc_occupancy": value} for value in monitored]
    assert [set(entry) for entry in found.pop("mbm_stats")] == [{"mbm_total_bytes", "mbm_local_bytes"}] * 2
    assert found == {
        "l3_cache_info": {"cbm_mask": "ff", "min_cbm_bits": 1, "num_closids": 3},
        "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 3},
        "l3_cache_schema_root": "L3:0=ff;1=ff", "l3_cache_schema": "L3:0=f0;1=ff",
        "mem_bw_schema_root": "MB:0= 100;1= 100", "mem_bw_schema": "MB:0= 100;1= 100",
        "schemata": ["MB:0= 100;1= 100", "L3:0=f0;1=ff"],
    }


def test_a_crash_leaves_what_delete_removes(runtime: Runtime, bundle: Bundle, host: Host, resctrl: Resctrl) -> None:
    """Killed while its hook runs, the groups made: delete --force finds them in the state."""
    container = runtime.new_id()
    wanting(bundle, enableMonitoring=True)
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID"]}]}
    bundle.save()
    assert runtime("create", "--bundle", bundle.path, container).code != 0
    assert resctrl.groups() == {container}
    assert runtime("delete", "--force", container).code == 0
    assert resctrl.groups() == set()
