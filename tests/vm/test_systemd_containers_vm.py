# SPDX-License-Identifier: Apache-2.0
"""Containers with --systemd-cgroup, with a systemd that is PID 1; beside runc where it does the same."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import Bundle, Host, Runtime, wait_for

pytestmark = pytest.mark.vm_systemd

CGROUPS = Path("/sys/fs/cgroup")
LIMITS = {"memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20}, "pids": {"limit": 77},
          "cpu": {"quota": 50000, "period": 100000, "shares": 512, "cpus": "0"}}
PROPERTIES = ("ActiveState", "Slice", "Description", "MemoryMax", "MemorySwapMax", "MemoryLow", "TasksMax",
              "CPUQuotaPerSecUSec", "AllowedCPUs", "Delegate", "Transient")


class SystemdRuntime(Runtime):
    """A runtime with --systemd-cgroup."""

    def command(self, *words: str | Path) -> list[str]:
        return [*super().command()[:3], "--systemd-cgroup", *map(str, words)]


@pytest.fixture(scope="module", autouse=True)
def slices() -> None:
    """Those of `scope`, there before each test, for systemd keeps a slice that it has made."""
    subprocess.run(["systemctl", "start", "pyrunctest-c.slice"], check=True, timeout=60)


@pytest.fixture
def systemd(runtime: Runtime) -> Iterator[SystemdRuntime]:
    made = SystemdRuntime(runtime.path, runtime.root)
    made.ids = runtime.ids
    yield made
    made.clean_up()


@pytest.fixture
def beside(make_runtime: Callable[[str], Runtime]) -> Iterator[SystemdRuntime]:
    """runc, as it does it."""
    runc = make_runtime("runc")
    made = SystemdRuntime(runc.path, runc.root)
    yield made
    made.clean_up()


def show(unit: str, *names: str) -> dict[str, str]:
    done = subprocess.run(["systemctl", "show", unit, *(f"--property={name}" for name in names)],
                          capture_output=True, text=True, check=True, timeout=60)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def scope(bundle: Bundle, name: str, slice: str = "pyrunctest-c.slice") -> tuple[str, Path]:
    """Have the container in that unit; the unit, and its cgroup."""
    bundle.linux["cgroupsPath"] = f"{slice}:pyrunc:{name}"
    return f"pyrunc-{name}.scope", CGROUPS / "pyrunctest.slice" / slice / f"pyrunc-{name}.scope"


@pytest.mark.vm_short
def test_a_life(systemd: SystemdRuntime, beside: SystemdRuntime, bundle: Bundle, host: Host) -> None:
    """The unit, its properties and its files, as runc makes them; and nothing of it after delete."""
    bundle.linux["resources"] = LIMITS
    bundle.args("sleep 1000")
    found = []
    for runtime in (systemd, beside):
        unit, cgroup = scope(bundle, f"life-{runtime.name}")
        container = runtime.create(bundle)
        assert runtime.state(container)["status"] == "created"
        pid = runtime.state(container)["pid"]
        assert Path(f"/proc/{pid}/cgroup").read_text() == f"0::/{cgroup.relative_to(CGROUPS)}\n"
        properties = show(unit, *PROPERTIES)
        if runtime is systemd:  # else systemctl warns of drop-ins that have changed
            assert show(unit, "NeedDaemonReload") == {"NeedDaemonReload": "no"}
        properties["Description"] = properties["Description"].replace(runtime.name, "x")
        files = {name: (cgroup / name).read_text() for name in
                 ("memory.max", "memory.swap.max", "memory.low", "pids.max", "cpu.max", "cpuset.cpus")}
        assert runtime("start", container).code == 0
        assert runtime.state(container)["status"] == "running"
        assert runtime("kill", container, "KILL").code == 0
        runtime.wait(container)
        assert runtime("delete", container).code == 0
        assert not cgroup.exists()
        wait_for(lambda unit=unit: show(unit, "LoadState") == {"LoadState": "not-found"}, "the unit to be forgotten")
        found.append((properties, files))
    assert found[0] == found[1]
    assert found[0][0]["MemoryMax"] == str(64 << 20) and found[0][0]["ActiveState"] == "active"


@pytest.mark.vm_short
def test_the_cgroup_namespace_is_rooted_in_the_scope(systemd: SystemdRuntime, bundle: Bundle, host: Host) -> None:
    scope(bundle, "namespace")
    result = systemd.run(bundle, "cat /proc/self/cgroup")
    assert result.lines == ["0::/"], result


def test_delegated(systemd: SystemdRuntime, bundle: Bundle, host: Host) -> None:
    """A container that may write makes cgroups below, which go with it."""
    _, cgroup = scope(bundle, "delegated")
    for mount in bundle.config["mounts"]:
        if mount["type"] == "cgroup":
            mount["options"] = [option for option in mount["options"] if option != "ro"]
    script = "cd /sys/fs/cgroup && mkdir -p a/b && echo $$ > a/b/cgroup.procs && cat /proc/self/cgroup"
    result = systemd.run(bundle, script)
    assert result.lines == ["0::/a/b"], result
    assert not cgroup.exists()


@pytest.mark.vm_short
def test_pause_ps_and_update(systemd: SystemdRuntime, bundle: Bundle, host: Host) -> None:
    """update tells systemd too; what the kernel refuses leaves both as they were."""
    unit, cgroup = scope(bundle, "update")
    bundle.linux["resources"] = LIMITS
    container = systemd.create(bundle.args("sleep 1000"))
    assert systemd("start", container).code == 0
    assert systemd("pause", container).code == 0
    assert systemd.state(container)["status"] == "paused"
    assert systemd("resume", container).code == 0
    assert json.loads(systemd("ps", "--format", "json", container).out) == [systemd.state(container)["pid"]]
    assert systemd("update", "--pids-limit", "55", "--memory", str(48 << 20), container).code == 0
    assert show(unit, "TasksMax", "MemoryMax") == {"TasksMax": "55", "MemoryMax": str(48 << 20)}
    subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=60)
    assert ((cgroup / "pids.max").read_text(), (cgroup / "memory.max").read_text()) == ("55\n", f"{48 << 20}\n")
    refused = systemd("update", "--pids-limit", "66", "--cpuset-cpus", "500", container)
    assert refused.code == 1 and "/linux/resources/cpu/cpus" in refused.err, refused
    assert show(unit, "TasksMax", "AllowedCPUs") == {"TasksMax": "55", "AllowedCPUs": "0"}
    assert (cgroup / "pids.max").read_text() == "55\n"


@pytest.mark.vm_short
def test_devices(systemd: SystemdRuntime, bundle: Bundle, host: Host) -> None:
    """What config.json denies nobody can open, before and after systemd has gone over its units."""
    unit, _ = scope(bundle, "devices")
    bundle.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"},
                                             {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]}
    script = "mknod /tmp/k c 1 11; for device in /dev/null /tmp/k; do (: < $device) && echo $device; done; echo end"
    result = systemd.run(bundle, f"({script}) 2>/dev/null")
    assert result.lines == ["/dev/null", "end"], result
    container = systemd.create(bundle.args("sleep 1000"))
    assert show(unit, "DevicePolicy") == {"DevicePolicy": "strict"}
    assert systemd("delete", "--force", container).code == 0


def test_annotations(systemd: SystemdRuntime, bundle: Bundle, host: Host) -> None:
    unit, _ = scope(bundle, "annotations")
    bundle.config["annotations"] = {"org.systemd.property.TimeoutStopSec": "uint64 7",
                                    "org.systemd.property.CollectMode": "'inactive-or-failed'"}
    systemd.create(bundle)
    assert show(unit, "TimeoutStopUSec", "CollectMode") == {
        "TimeoutStopUSec": "7s", "CollectMode": "inactive-or-failed"}


@pytest.mark.parametrize(("change", "said"), [
    (lambda b: b.linux.update(cgroupsPath="/a/b"), "/linux/cgroupsPath: expected cgroupsPath to be of format"),
    (lambda b: b.config.update(annotations={"org.systemd.property.SuccessAction": "'reboot'"}),
     "/annotations/org.systemd.property.SuccessAction: the property SuccessAction may not be set by an annotation"),
    (lambda b: b.config.update(annotations={"org.systemd.property.CollectMode": "'sometimes'"}),
     "systemd can't make pyrunc-bad.scope: "),
    (lambda b: b.linux.update(resources={"cpu": {"cpus": "500"}}), "/linux/resources/cpu/cpus"),
    (lambda b: b.process.update(args=["/none"]), "/process/args/0"),
])
def test_a_create_that_fails(systemd: SystemdRuntime, bundle: Bundle, host: Host,
                             change: Callable[[Bundle], None], said: str) -> None:
    """One line, and neither a unit nor a cgroup left."""
    unit, cgroup = scope(bundle, "bad")
    change(bundle)
    result = systemd.run(bundle)
    assert result.code == 1 and said in result.err and result.err.count("\n") == 1, result
    assert not cgroup.exists()
    assert show(unit, "LoadState") == {"LoadState": "not-found"}


def test_a_unit_of_somebody_else(systemd: SystemdRuntime, bundle: Bundle, host: Host) -> None:
    """A second container of the same cgroupsPath is refused, and the first isn't touched by that."""
    unit, cgroup = scope(bundle, "mine")
    first = systemd.create(bundle.args("sleep 1000"))
    pid = systemd.state(first)["pid"]
    result = systemd("create", "--bundle", bundle.path, systemd.new_id())
    assert result.code == 1 and "/linux/cgroupsPath: cgroup" in result.err and f"process {pid} is in it" in result.err
    assert systemd.state(first)["status"] == "created"
    assert show(unit, "ActiveState") == {"ActiveState": "active"}
    assert (cgroup / "cgroup.procs").read_text() == f"{pid}\n"


def test_out_of_memory(systemd: SystemdRuntime, bundle: Bundle, host: Host) -> None:
    """systemd's unit fails with it; the name is free again after delete."""
    unit, _ = scope(bundle, "oom")
    bundle.linux["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    for _ in range(2):
        container = systemd.create(bundle.args("exec tail /dev/zero"))
        assert systemd("start", container).code == 0
        systemd.wait(container)
        assert systemd("delete", container).code == 0
        assert show(unit, "LoadState") == {"LoadState": "not-found"}


def test_what_stays_behind_is_killed(systemd: SystemdRuntime, bundle: Bundle, host: Host) -> None:
    """Without a pid namespace a process may outlive the init, SIGTERM ignored: delete doesn't wait for 90 s."""
    _, cgroup = scope(bundle, "stays")
    bundle.without("pid")
    container = systemd.create(bundle.args("trap '' TERM; setsid sh -c \"trap '' TERM; sleep 1000\" & sleep 1000"))
    assert systemd("start", container).code == 0
    wait_for(lambda: len((cgroup / "cgroup.procs").read_text().split()) == 2, "both of them")
    assert systemd("delete", "--force", container, timeout=6).code == 0
    assert not cgroup.exists()


@pytest.mark.parametrize("namespace", [False, True], ids=["host's cgroup namespace", "cgroup namespace"])
@pytest.mark.parametrize("limit", [8, 4, 2, pytest.param(1, marks=pytest.mark.vm_short)],
                         ids=lambda limit: f"{limit} MiB")
def test_small_memory(systemd: SystemdRuntime, bundle: Bundle, host: Host, limit: int, namespace: bool) -> None:
    """A unit can't be without a process: until the init joins, another one is in it, which has gone then."""
    unit, cgroup = scope(bundle, "small")
    bundle.without("cgroup")
    if namespace:
        bundle.namespace("cgroup")
    bundle.linux["resources"] = {"memory": {"limit": limit << 20, "swap": limit << 20}}
    container = systemd.create(bundle.args("true"))
    pid = systemd.state(container)["pid"]
    assert (cgroup / "cgroup.procs").read_text() == f"{pid}\n"
    assert (cgroup / "memory.max").read_text() == f"{limit << 20}\n"
    assert show(unit, "ActiveState", "MemoryMax") == {"ActiveState": "active", "MemoryMax": str(limit << 20)}
    assert systemd("start", container).code == 0
    systemd.wait(container)
    assert systemd("delete", container).code == 0
    assert not cgroup.exists()
    assert systemd.run(bundle, "cat /proc/self/cgroup").lines == [
        "0::/" if namespace else f"0::/{cgroup.relative_to(CGROUPS)}"]


def test_memory_for_nobody(systemd: SystemdRuntime, bundle: Bundle, host: Host) -> None:
    """systemd sets the limit, the init is killed and the cgroup gone: it is said why, at whatever step that shows."""
    unit, cgroup = scope(bundle, "nobody")
    bundle.linux["resources"] = {"memory": {"limit": 1024, "swap": 1024}, "cpu": {"cpus": "0"}, "pids": {"limit": 50}}
    for _ in range(8):
        result = systemd.run(bundle, "true")
        assert result.code == 1 and result.err.endswith(
            "/linux/resources/memory/limit: the container's init was killed: out of memory with a limit of 1024 bytes "
            "(the program needs more to start)\n"), result
        assert not cgroup.exists()
    assert show(unit, "LoadState") == {"LoadState": "not-found"}


def test_cycles(systemd: SystemdRuntime, bundle: Bundle, host: Host) -> None:
    """The slices of the machine, after twenty containers, are those before."""
    scope(bundle, "cycle")
    before: set[str] = set()
    for count in range(20):
        assert systemd.run(bundle, "true").code == 0
        tree = {str(path) for path in CGROUPS.rglob("*") if path.is_dir() and "pyrunctest" in str(path)}
        before = before if count else tree
        assert tree == before


def test_output_in_the_journal(systemd: SystemdRuntime, bundle: Bundle, host: Host) -> None:
    """It is that of the unit which runs the container, as with runc; and a program may open /dev/stdout."""
    scope(bundle, "journal")
    bundle.args("echo first; echo again >/dev/stdout; echo third >&2").save()
    subprocess.run(["systemd-run", "--quiet", "--wait", "--unit=pyrunctest-journal",
                    f"--working-directory={bundle.path}", *systemd.command("run", systemd.new_id())],
                   check=True, timeout=120)
    subprocess.run(["journalctl", "--sync"], check=True, timeout=60)
    shown = subprocess.run(["journalctl", "--quiet", "--output=cat", "--unit=pyrunctest-journal.service"],
                           capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert [line for line in shown if line in ("first", "again", "third")] == ["first", "again", "third"], shown


# The user's own systemd

@pytest.fixture(scope="module")
def user() -> Iterator[pwd.struct_passwd]:
    """A user whose manager runs."""
    subprocess.run(["useradd", "--create-home", "containers"], check=True, timeout=60)
    found = pwd.getpwnam("containers")
    subprocess.run(["loginctl", "enable-linger", found.pw_name], check=True, timeout=60)
    wait_for(lambda: Path(f"/run/user/{found.pw_uid}/bus").exists(), "the bus of the user")
    yield found
    subprocess.run(["loginctl", "disable-linger", found.pw_name], check=True, timeout=60)


@pytest.mark.parametrize("namespace", [True, False], ids=["cgroup namespace", "host's cgroup namespace"])
def test_a_users_container(user: pwd.struct_passwd, systemd: SystemdRuntime, bundle: Bundle, namespace: bool) -> None:
    """An ordinary user's container, limited: the one way in which such a user gets limits.

    Without a cgroup namespace it sees its own cgroup, which has to be there by then.
    """
    uid, gid = user.pw_uid, user.pw_gid
    bundle.namespace("user").without("network")
    bundle.linux.update(uidMappings=[{"containerID": 0, "hostID": uid, "size": 1}],
                        gidMappings=[{"containerID": 0, "hostID": gid, "size": 1}],
                        resources={"memory": {"limit": 32 << 20}, "pids": {"limit": 33}})
    bundle.linux.pop("cgroupsPath", None)
    bundle.config["mounts"] = [mount for mount in bundle.config["mounts"]
                               if mount["destination"] not in ("/sys", "/dev/pts")]
    bundle.without("cgroup")
    if namespace:
        bundle.namespace("cgroup")
    bundle.process.pop("rlimits", None)
    bundle.args("exec sleep 1000").save()
    base = Path(os.environ["TMPDIR"])
    home = base / f"user-{namespace}"
    home.mkdir(mode=0o755)
    os.chown(home, uid, gid)
    subprocess.run(["cp", "-a", str(bundle.path), str(home / "bundle")], check=True, timeout=60)
    subprocess.run(["chown", "-R", f"{uid}:{gid}", str(home)], check=True, timeout=60)

    def as_user(*words: str) -> subprocess.CompletedProcess[str]:
        with open(base / "output", "w+") as output:  # and no pipe, which a created container would keep open
            done = subprocess.run(["setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "env", "-i",
                                   f"PATH={os.environ['PATH']}", f"HOME={user.pw_dir}",
                                   f"XDG_RUNTIME_DIR=/run/user/{uid}", systemd.path, "--systemd-cgroup", *words],
                                  stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=120, cwd=home)
            output.seek(0)
            return subprocess.CompletedProcess(words, done.returncode, output.read(), "")

    created = as_user("create", "--bundle", str(home / "bundle"), "mine")
    assert created.returncode == 0, created.stdout
    pid = json.loads(as_user("state", "mine").stdout)["pid"]
    path = f"/user.slice/user-{uid}.slice/user@{uid}.service/user.slice/runc-mine.scope"
    assert Path(f"/proc/{pid}/cgroup").read_text() == f"0::{path}\n"
    cgroup = CGROUPS / path[1:]
    assert ((cgroup / "memory.max").read_text(), (cgroup / "pids.max").read_text()) == (f"{32 << 20}\n", "33\n")
    assert as_user("start", "mine").returncode == 0
    shown = as_user("exec", "mine", "cat", "/sys/fs/cgroup/memory.max")
    assert shown.stdout == f"{32 << 20}\n", shown
    assert as_user("delete", "--force", "mine").returncode == 0
    assert not cgroup.exists()
    assert not list(Path(f"/run/user/{uid}/pyrunc").iterdir())
