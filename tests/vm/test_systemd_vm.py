# SPDX-License-Identifier: Apache-2.0
"""The systemd driver, with a systemd that is PID 1."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import wait_for

from pyrunc import cgroupv2, device_rules, limits, systemd_bus
from pyrunc.cgroup_systemd import Unit, is_users
from pyrunc.errors import ConfigError, ContainerError, PyruncError
from pyrunc.spec.types import Resources
from pyrunc.systemd_manager import Manager
from pyrunc.systemd_properties import annotated, settle

pytestmark = pytest.mark.vm_systemd

CGROUPS = Path("/sys/fs/cgroup")
# In a subshell: a redirection of `:` that fails would end the shell (POSIX, Special Built-In Utilities), and its unit.
DEVICES = "read -r line; for device in null zero; do (: </dev/$device) && echo $device; done; read -r line; exit 3"


class Scope:
    """A unit with a process in it."""

    def __init__(self, manager: Manager, unit: Unit) -> None:
        self.manager = manager
        self.unit = unit
        self.directory = CGROUPS / manager.locate(unit)[1:]
        self.process = subprocess.Popen(["sh", "-c", DEVICES], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)

    def start(self, annotations: dict[str, str] | None = None, **given: object) -> Scope:
        given["properties"] = annotated(annotations or {})
        self.manager.start(self.unit, [self.process.pid], mode="unified", **given)  # type: ignore[arg-type]
        return self

    def show(self, *names: str) -> list[str]:
        return show(self.unit.name, *names)

    def file(self, name: str) -> str:
        return (self.directory / name).read_text().strip()

    def limit(self, resources: Resources) -> Callable[[], None]:
        """As update does it: systemd, then the files."""
        directories = {"": str(self.directory)}
        writes = settle(cgroupv2.limits(resources, str(self.directory), pytest.fail), directories)
        undo = self.manager.set(self.unit, self.manager.limits(writes, directories), undo=True)
        limits.apply(writes, directories)
        return undo

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def show(unit: str, *names: str) -> list[str]:
    """Properties as systemctl tells them, in the order asked for."""
    done = subprocess.run(["systemctl", "show", unit, *(f"--property={name}" for name in names)],
                          capture_output=True, text=True, check=True, timeout=60)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return [found.get(name, "") for name in names]  # an empty list isn't shown


@pytest.fixture(params=["systemd itself", "the system bus"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """A manager by both ways that lead to it."""
    way = (systemd_bus._PRIVATE, False) if request.param == "systemd itself" else (systemd_bus._SYSTEM, True)
    monkeypatch.setattr(systemd_bus, "addresses", lambda user: [way])
    with Manager(False) as manager:
        yield manager


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager(False) as manager:
        yield manager


@pytest.fixture
def scope(manager: Manager, request: pytest.FixtureRequest) -> Iterator[Scope]:
    """A process, whose unit isn't started yet."""
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    yield from running(manager, Unit.parse(f"system.slice:pyrunc:{name}", "x", False))


def running(manager: Manager, unit: Unit) -> Iterator[Scope]:
    scope = Scope(manager, unit)
    try:
        yield scope
    finally:
        scope.end()
        manager.stop(unit)


def test_start_and_stop(either: Manager) -> None:
    """The scope has the process before start returns; stopped, nothing of it is left."""
    assert not is_users()
    unit = Unit.parse("pyrunctest-a-b.slice:pyrunc:both", "x", False)
    assert unit.cgroup_path() == "/pyrunctest.slice/pyrunctest-a.slice/pyrunctest-a-b.slice/pyrunc-both.scope"
    for scope in running(either, unit):
        scope.start()
        assert Path(f"/proc/{scope.process.pid}/cgroup").read_text() == f"0::{unit.cgroup_path()}\n"
        assert scope.show("ActiveState", "Slice", "Delegate", "DefaultDependencies", "Transient", "Description",
                          "MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting") == [
            "active", "pyrunctest-a-b.slice", "yes", "no", "yes", "libcontainer container both",
            "yes", "yes", "yes", "yes"]
        assert set(scope.file("cgroup.controllers").split()) >= {"cpu", "io", "memory", "pids"}
        assert Unit.from_data(unit.to_data()).cgroup_path() == unit.cgroup_path()
        either.stop(unit)
        assert scope.process.wait(20) == -15
        assert not scope.directory.exists()
        assert show(unit.name, "LoadState", "ActiveState") == ["not-found", "inactive"]
        either.stop(unit)  # again is no error


def test_the_default_is_runcs(manager: Manager) -> None:
    for scope in running(manager, Unit.parse(None, "default", False)):
        scope.start()
        assert Path(f"/proc/{scope.process.pid}/cgroup").read_text() == "0::/system.slice/runc-default.scope\n"


def test_a_directory_that_systemd_escapes(manager: Manager) -> None:
    for scope in running(manager, Unit.parse("memory.slice:_pyrunc:escaped", "x", False)):
        scope.start()
        path = Path(f"/proc/{scope.process.pid}/cgroup").read_text().strip()
        assert path == f"0::{scope.unit.cgroup_path()}" == "0::/_memory.slice/__pyrunc-escaped.scope"


def test_a_slice(manager: Manager) -> None:
    """A unit that is a slice takes its processes as any cgroup does."""
    for scope in running(manager, Unit.parse("pyrunctest.slice:ignored:pyrunctest-s.slice", "x", False)):
        scope.start()
        assert scope.show("ActiveState", "Description") == ["active", "libcontainer container pyrunctest-s.slice"]
        assert scope.file("cgroup.procs") == ""
        (scope.directory / "cgroup.procs").write_text(str(scope.process.pid))
        scope.limit({"pids": {"limit": 55}})
        assert scope.show("TasksMax") == ["55"]
        assert scope.file("pids.max") == "55"


TABLE: dict[str, tuple[Resources, dict[str, str], dict[str, str]]] = {
    "memory": ({"memory": {"limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20}},
               {"MemoryMax": "67108864", "MemoryLow": "33554432", "MemorySwapMax": "33554432"},
               {"memory.max": "67108864", "memory.low": "33554432", "memory.swap.max": "33554432"}),
    "unlimited": ({"memory": {"limit": -1}, "pids": {"limit": -1}},
                  {"MemoryMax": "infinity", "MemorySwapMax": "infinity", "TasksMax": "infinity"},
                  {"memory.max": "max", "memory.swap.max": "max", "pids.max": "max"}),
    "shares": ({"cpu": {"shares": 512}}, {"CPUWeight": "59"}, {"cpu.weight": "59", "cpu.idle": "0"}),
    "quota": ({"cpu": {"quota": 12345, "period": 50000}},
              {"CPUQuotaPerSecUSec": "250ms", "CPUQuotaPeriodUSec": "50ms"}, {"cpu.max": "12500 50000"}),
    "period": ({"cpu": {"period": 20000}}, {"CPUQuotaPerSecUSec": "infinity", "CPUQuotaPeriodUSec": "20ms"},
               {}),  # in the file until systemd writes it anew: it knows no period without a quota
    "idle": ({"cpu": {"idle": 1, "shares": 512}}, {"CPUWeight": "idle"}, {"cpu.idle": "1"}),
    "cpuset": ({"cpu": {"cpus": "1", "mems": "0"}}, {"AllowedCPUs": "1", "AllowedMemoryNodes": "0"},
               {"cpuset.cpus": "1", "cpuset.mems": "0", "cpuset.cpus.effective": "1"}),
    "pids": ({"pids": {"limit": 30}}, {"TasksMax": "30"}, {"pids.max": "30"}),
    "no pids": ({"pids": {"limit": 0}}, {"TasksMax": "1"}, {"pids.max": "1"}),
    "block": ({"unified": {"io.weight": "default 300"}}, {"IOWeight": "300"}, {}),
    "bfq": ({"blockIO": {"weight": 300}}, {"IOWeight": "2300"}, {"io.bfq.weight": "default 300"}),
    "unified": ({"unified": {"memory.high": "50331648", "memory.min": "4096", "cpu.weight": "33", "pids.max": "7"}},
                {"MemoryHigh": "50331648", "MemoryMin": "4096", "CPUWeight": "33", "TasksMax": "7"},
                {"memory.high": "50331648", "memory.min": "4096", "cpu.weight": "33", "pids.max": "7"}),
}


@pytest.mark.parametrize("name", TABLE)
def test_limits(scope: Scope, name: str) -> None:
    """systemd and the files say the same, also after systemd has written its files anew; and it can be undone."""
    resources, properties, files = TABLE[name]
    if name == "block" and not (CGROUPS / "system.slice/io.weight").exists():
        resources = {}  # a kernel without io.cost: systemd alone is asked
    if name == "bfq":
        subprocess.run(["modprobe", "bfq"], check=True, timeout=60)
    scope.start()
    before = scope.show(*properties)
    assert before != list(properties.values()) or not resources
    if not resources:
        undo = scope.manager.set(scope.unit, [("IOWeight", ("t", 300))], undo=True)
    else:
        undo = scope.limit(resources)
    assert scope.show(*properties) == list(properties.values())
    assert {file: scope.file(file) for file in files} == files
    subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=60)
    scope.manager.set(scope.unit, [("ManagedOOMPreference", ("s", "avoid"))])
    assert scope.show(*properties) == list(properties.values())
    assert {file: scope.file(file) for file in files} == files
    undo()
    assert scope.show(*properties) == before


def test_leaving_idle(scope: Scope) -> None:
    """cpu.idle 0 is something that systemd has no word for: it is told to have no weight."""
    scope.start()
    scope.limit({"cpu": {"idle": 1}})
    assert scope.file("cpu.idle") == "1"
    scope.limit({"cpu": {"idle": 0}})
    scope.limit({"pids": {"limit": 9}})
    assert scope.file("cpu.idle") == "0"
    assert scope.show("CPUWeight") == ["[not set]"]


def test_limits_are_set_all_or_none(scope: Scope) -> None:
    scope.start()
    scope.limit({"pids": {"limit": 30}})
    wrong = [("TasksMax", ("t", 40)), ("CPUWeight", ("t", 20000))]
    with pytest.raises(ContainerError, match=r"/linux/resources: systemd refuses the limits of .*CPUWeight"):
        scope.manager.set(scope.unit, wrong)
    assert scope.show("TasksMax", "CPUWeight") == ["30", "[not set]"]
    assert scope.file("pids.max") == "30"


def test_devices(scope: Scope) -> None:
    """systemd's rules hold: of two devices the process can open the one that is allowed."""
    scope.start()
    rules = device_rules.Rules(False)
    rules.add(device_rules.Rule(True, "c", 1, 3, device_rules.ALL))
    rules.add(device_rules.Rule(True, "b", device_rules.ANY, device_rules.ANY, device_rules.MKNOD))
    rules.add(device_rules.Rule(True, "c", 136, device_rules.ANY, device_rules.ALL))
    before = scope.show("DevicePolicy", "DeviceAllow")
    undo = scope.manager.set(scope.unit, scope.manager.devices(rules, "unified"), undo=True)
    policy, allowed = scope.show("DevicePolicy", "DeviceAllow")[0], subprocess.run(
        ["systemctl", "show", scope.unit.name, "--property=DeviceAllow"], capture_output=True, text=True).stdout
    assert policy == "strict"
    assert sorted(allowed.splitlines()) == ["DeviceAllow=/dev/char/1:3 rwm", "DeviceAllow=block-* m",
                                            "DeviceAllow=char-136 rwm"]
    assert scope.process.stdin and scope.process.stdout
    scope.process.stdin.write("go\n")
    scope.process.stdin.flush()
    assert scope.process.stdout.readline() == "null\n"
    undo()
    assert scope.show("DevicePolicy", "DeviceAllow") == before == ["auto", ""]
    scope.process.stdin.write("go\n")
    scope.process.stdin.flush()
    assert scope.process.wait(20) == 3
    assert scope.process.stdout.read() == ""


def test_all_devices_or_all_but_some(scope: Scope) -> None:
    """systemd can't deny single devices: on v2 it is told to deny none, as our own program denies them."""
    scope.start()
    rules = device_rules.Rules(True, [device_rules.Rule(False, "c", 1, 5, device_rules.ALL)])
    scope.manager.set(scope.unit, scope.manager.devices(rules, "unified"))
    assert scope.show("DevicePolicy") == ["auto"]


def test_annotations(scope: Scope) -> None:
    scope.start(annotations={"org.systemd.property.TimeoutStopSec": "12.5", "unrelated": "x",
                             "org.systemd.property.CollectMode": "'inactive-or-failed'",
                             "org.systemd.property.Documentation": "['man:pyrunc(8)']",
                             "org.systemd.property.IODeviceWeight": "@a(st) [('/dev/vda', 77)]"})
    stop, *others = scope.show("TimeoutStopUSec", "CollectMode", "Documentation", "IODeviceWeight")
    assert stop in ("12.500s", "12.500000s")
    assert [text.strip('"') for text in others] == ["inactive-or-failed", "man:pyrunc(8)", "/dev/vda 77"]


def test_an_annotation_that_systemd_refuses(scope: Scope) -> None:
    with pytest.raises(ContainerError, match=f"systemd can't make {scope.unit.name}: .*TimeoutStopUSec|CollectMode"):
        scope.start(annotations={"org.systemd.property.CollectMode": "'sometimes'"})
    assert scope.show("ActiveState") == ["inactive"]


def test_an_annotation_that_starts_other_units(scope: Scope) -> None:
    with pytest.raises(ConfigError, match=r"/annotations/org.systemd.property.Wants: the property Wants may not"):
        scope.start(annotations={"org.systemd.property.Wants": "['poweroff.target']"})


def test_oom_group_is_told_at_the_start(scope: Scope) -> None:
    """OOMPolicy of a scope: since systemd 253, and left out before."""
    scope.start(unified={"memory.oom.group": "1"})
    if scope.manager.version >= 253:
        assert scope.show("OOMPolicy") == ["kill"]
    assert scope.manager.version >= 252


def test_a_unit_that_is_there_already(scope: Scope, manager: Manager) -> None:
    scope.start()
    other = Scope(manager, scope.unit)
    try:
        with pytest.raises(ContainerError, match=rf"/linux/cgroupsPath: systemd can't make {scope.unit.name}: "
                                                 "there is one already"):
            other.start()
        assert scope.file("cgroup.procs") == str(scope.process.pid)
        assert scope.process.poll() is None
    finally:
        other.end()


def test_what_a_failed_unit_has_left_is_in_nobodys_way(scope: Scope, manager: Manager) -> None:
    scope.start(annotations={"org.systemd.property.RuntimeMaxSec": "uint64 1"})
    assert scope.process.wait(20) == -15
    wait_for(lambda: scope.show("ActiveState") == ["failed"], "the unit to fail")
    other = Scope(manager, scope.unit)
    try:
        other.start()
        assert scope.show("ActiveState") == ["active"]
        assert other.file("cgroup.procs") == str(other.process.pid)
    finally:
        other.end()


def test_a_process_that_is_gone(scope: Scope) -> None:
    scope.end()
    said = f"(.*{scope.process.pid}|Failed to set unit properties: No such process)"  # the latter since systemd 257
    with pytest.raises(ContainerError, match=f"systemd can't make {scope.unit.name}: {said}"):
        scope.start()
    assert scope.show("LoadState") == ["not-found"]


def test_a_systemd_that_replaces_itself(either: Manager) -> None:
    """The connection is lost, and made anew."""
    for scope in running(either, Unit.parse("system.slice:pyrunc:reexec", "x", False)):
        scope.start()
        subprocess.run(["systemctl", "daemon-reexec"], check=True, timeout=60)
        scope.limit({"pids": {"limit": 21}})
        assert scope.show("TasksMax", "ActiveState") == ["21", "active"]
        subprocess.run(["systemctl", "daemon-reexec"], check=True, timeout=60)
        either.stop(scope.unit)
        assert scope.process.wait(20) == -15


def test_attach(scope: Scope, manager: Manager) -> None:
    scope.start()
    (scope.directory / "below").mkdir()
    other = Scope(manager, scope.unit)
    try:
        manager.attach(scope.unit, other.process.pid, "below")
        assert Path(f"/proc/{other.process.pid}/cgroup").read_text() == f"0::{scope.unit.cgroup_path()}/below\n"
        with pytest.raises(ContainerError, match=f"systemd can't put process {other.process.pid} into pyrunc-no.scope"):
            manager.attach(Unit.parse("system.slice:pyrunc:no", "x", False), other.process.pid)
    finally:
        other.end()


def test_many_one_after_the_other(manager: Manager) -> None:
    """The same name again and again: stop returns when it is free."""
    unit = Unit.parse("system.slice:pyrunc:again", "x", False)
    begun = time.monotonic()
    for _ in range(20):
        for scope in running(manager, unit):
            scope.start()
    assert not scope.directory.exists()
    assert time.monotonic() - begun < 60


# The user's own manager

USERS_SCRIPT = """
import os, subprocess, sys
from pyrunc.cgroup_systemd import Unit, is_users
from pyrunc import cgroupv2, limits
from pyrunc.systemd_manager import Manager
process = subprocess.Popen(["sleep", "100"])
unit = Unit.parse(sys.argv[1] or None, "mine", is_users())
with Manager(unit.user) as manager:
    try:
        path = manager.locate(unit)
        manager.start(unit, [process.pid], mode="unified")
        directory = "/sys/fs/cgroup" + path
        directories = {"": directory}
        writes = cgroupv2.limits({"pids": {"limit": 44}, "memory": {"limit": 1 << 25}}, directory, print)
        manager.set(unit, manager.limits(writes, directories))
        limits.apply(writes, directories)
        other = subprocess.Popen(["sleep", "100"])
        manager.attach(unit, other.pid)
        print(path)
        print(open(f"/proc/{process.pid}/cgroup").read().strip())
        print(open(f"/proc/{other.pid}/cgroup").read().strip())
        print(*(open(f"{directory}/{name}").read().strip() for name in ("pids.max", "memory.max")))
        other.kill()
        manager.stop(Unit.from_data(unit.to_data()))
        print(os.path.exists(directory), process.wait(20))
    finally:
        process.kill()
"""


@pytest.fixture(scope="module")
def user() -> Iterator[pwd.struct_passwd]:
    """A user whose manager runs."""
    subprocess.run(["useradd", "--create-home", "pyrunctest"], check=True, timeout=60)
    found = pwd.getpwnam("pyrunctest")
    subprocess.run(["loginctl", "enable-linger", found.pw_name], check=True, timeout=60)
    wait_for(lambda: Path(f"/run/user/{found.pw_uid}/bus").exists(), "the bus of the user")
    yield found
    subprocess.run(["loginctl", "disable-linger", found.pw_name], check=True, timeout=60)


def as_user(user: pwd.struct_passwd, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups", "env", "-i",
             f"PATH={os.environ['PATH']}", f"HOME={user.pw_dir}",
             *(f"{name}={value}" for name, value in environment.items()), *words)
    return subprocess.run(words, capture_output=True, text=True, timeout=120, cwd="/")


@pytest.mark.parametrize("how", ["bus", "address", "private", "user namespace"])
def test_the_users_manager(user: pwd.struct_passwd, how: str, tmp_path: Path) -> None:
    """Below the user's own service, by each way there is; in a user namespace our uid is another one's."""
    runtime = f"/run/user/{user.pw_uid}"
    path, environment = "", {"XDG_RUNTIME_DIR": runtime}
    expected = f"/user.slice/user-{user.pw_uid}.slice/user@{user.pw_uid}.service/user.slice/runc-mine.scope"
    words = [sys.executable, "-P", "-c", USERS_SCRIPT]
    if how == "address":
        environment = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus"}
        path, expected = "app.slice:pod:1", expected.replace("user.slice/runc-mine", "app.slice/pod-1")
    elif how == "private":
        (tmp_path / "systemd").mkdir()
        (tmp_path / "systemd/private").symlink_to(f"{runtime}/systemd/private")
        for place in (tmp_path, *tmp_path.parents):
            if place.is_relative_to(os.environ["TMPDIR"]):
                place.chmod(0o755 if place != Path(os.environ["TMPDIR"]) else 0o1777)
        environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    elif how == "user namespace":
        words = ["unshare", "--user", "--map-root-user", *words]
    done = as_user(user, *words, path, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [expected, f"0::{expected}", f"0::{expected}", "44 33554432", "False -15"]


def test_a_user_without_a_manager(user: pwd.struct_passwd) -> None:
    done = as_user(user, sys.executable, "-P", "-c", USERS_SCRIPT, "")
    assert done.stderr.splitlines()[-1].endswith(
        "the user's systemd can't be reached: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set (a user has "
        "one after a login, with a session bus (Debian's dbus-user-session); XDG_RUNTIME_DIR or "
        "DBUS_SESSION_BUS_ADDRESS tells where; or leave out --systemd-cgroup)"), done.stderr


def test_the_systems_manager_is_not_a_users(user: pwd.struct_passwd) -> None:
    """The bus lets them talk, and systemd refuses."""
    script = USERS_SCRIPT.replace("is_users()", "False")
    done = as_user(user, sys.executable, "-P", "-c", script, "")
    assert "systemd can't make runc-mine.scope" in done.stderr.splitlines()[-1], done.stderr
    assert show("runc-mine.scope", "LoadState") == ["not-found"]


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd_bus, "addresses", lambda user: [(str(tmp_path / "none"), True)])
    with pytest.raises(PyruncError, match=r"systemd can't be reached: .*none: No such file or directory"):
        Manager(False).stop(Unit.parse(None, "x", False))
