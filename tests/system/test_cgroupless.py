# SPDX-License-Identifier: Apache-2.0
"""--cgroup-manager, crun's: who makes the cgroup, and a container that goes without (Podman's --cgroups disabled)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from mountinfo import mounts
from support import Bundle, Host, Runtime

from pyrunc import cgroupless
from pyrunc.checkpoint import cgroup_binds

DISABLED = ("--cgroup-manager", "disabled")
DEVICES = "/linux/resources/devices: not enforced: the container has no cgroup for that"


@pytest.fixture(params=["host", "v2"])
def there(request: pytest.FixtureRequest, runtime: Runtime, v2: Runtime) -> Runtime:
    """The runtime where the cgroups are the machine's, and where they are v2's alone."""
    return runtime if request.param == "host" else v2


def test_a_container_stays_in_its_callers_cgroup(there: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """It, and what exec brings in; a cgroupsPath is nobody's business then."""
    bundle.linux["cgroupsPath"] = "/pyrunc-nobody/makes-this"
    bundle.linux.pop("resources", None)
    bundle.args("sleep", "100").save()
    container = there.new_id()
    created = there(*DISABLED, "create", "--bundle", bundle.path, "--pid-file", tmp_path / "pid", container)
    assert (created.code, created.err) == (0, "")
    assert there("start", container).code == 0
    assert there("exec", "-d", "--pid-file", tmp_path / "second", container, "sleep", "100").code == 0
    own = Path("/proc/self/cgroup").read_text()
    for file in ("pid", "second"):
        assert Path(f"/proc/{(tmp_path / file).read_text()}/cgroup").read_text() == own
    assert not [path for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith(("/makes-this", f"/{container}"))]
    for command in ("pause", "ps", "update --pids-limit 5", "events --stats"):
        result = there(*command.split(), container)
        assert result.code == 1
        assert result.err.startswith(f"pyrunc: {command.split()[0]} {container}: the container has no cgroup"), result
    assert there("update", "--pids-limit", "5", container).err.endswith(
        " (it was made with --cgroup-manager disabled)\n")
    assert there("delete", "--force", container).code == 0


def test_what_it_sees_of_cgroups_is_its_callers_and_read_only(there: Runtime, bundle: Bundle, host: Host) -> None:
    """Whose limits it is under; on v2 all of them, as an ordinary user's container without a cgroup of its own."""
    bundle.linux.pop("resources", None)
    for mount in bundle.config["mounts"]:
        if mount["type"] == "cgroup":
            mount["options"].remove("ro")
    result = there(*DISABLED, "run", "--bundle", bundle.args("cat /proc/self/mountinfo").save(), there.new_id())
    assert (result.code, result.err) == (0, "")
    seen = [mount for mount in mounts(result.out) if mount.fstype.startswith("cgroup")]
    own = {line.split(":")[1]: line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    is_v2 = there.name == "v2-lane" or len(own) == 1
    assert {mount.fstype for mount in seen} == {"cgroup2" if is_v2 else "cgroup"}
    for mount in seen:
        assert "ro" in mount.options
        if not is_v2:
            assert mount.root == own[mount.point.removeprefix("/sys/fs/cgroup/").replace("systemd", "name=systemd")]


def test_what_criu_is_told_is_mounted_from_outside() -> None:
    """The same, by the names that the mounts have in the container; on v2 there is nothing to tell."""
    own = {line.split(":")[1]: line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    expected = {}
    for controllers, path in own.items():
        name = "systemd" if controllers == "name=systemd" else controllers
        if controllers and len(own) > 1:
            expected[name] = f"/sys/fs/cgroup/{name}{path}".rstrip("/")
    assert cgroup_binds({"ociVersion": "1.3.0"}, cgroupless.plan("x")) == expected


@pytest.mark.parametrize(("resources", "pointer"), [
    ({"memory": {"limit": 1 << 26}}, "/linux/resources/memory/limit"),
    ({"pids": {"limit": 5}}, "/linux/resources/pids/limit"),
])
def test_a_limit_is_refused(runtime: Runtime, bundle: Bundle, host: Host, resources: dict[str, dict[str, int]],
                            pointer: str) -> None:
    """Nobody would enforce it (runtime.md, Create: what can't be applied is an error)."""
    bundle.linux["resources"] = resources
    result = runtime(*DISABLED, "run", "--bundle", bundle.args("echo ran").save(), runtime.new_id())
    assert (result.code, result.out) == (1, "")
    assert f": {pointer}: can't be limited: the container is not in the cgroup /sys/fs/cgroup" in result.err
    assert result.err.endswith(" (it was made with --cgroup-manager disabled)\n")


def test_device_rules_are_a_warning(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Every config.json of an engine's has some; crun says nothing."""
    bundle.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    result = runtime(*DISABLED, "run", "--bundle", bundle.args("echo ran").save(), runtime.new_id())
    assert (result.code, result.out) == (0, "ran\n")
    assert result.err == f"pyrunc: warning: {DEVICES}\n"


def test_cgroups_that_are_covered_by_another_mount(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """They are in /proc/self/mountinfo, but their places are another file system's: nothing is made in that."""
    covered = ["unshare", "--mount", "sh", "-ec", 'mount -t tmpfs none /sys; "$@"; find /sys -mindepth 1', "-"]
    words = runtime.command("run", "--bundle", bundle.args("echo ran").save(), runtime.new_id())
    done = subprocess.run([*covered, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "ran\n"), done
    assert DEVICES in done.stderr


def test_cgroups_that_are_read_only(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """As engines mount them for a container, in which this is another: an error that says how to go without."""
    script = """for place in $(awk '{print $5}' /proc/self/mountinfo | grep ^/sys/fs/cgroup); do
        mount -o remount,bind,ro "$place"; done; exec "$@\""""
    read_only = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "-"]
    words = ("run", "--bundle", bundle.args("echo ran").save(), runtime.new_id())
    done = [subprocess.run([*read_only, *runtime.command(*options, *words)], capture_output=True, text=True)
            for options in ((), DISABLED)]
    assert [(each.returncode, each.stdout) for each in done] == [(1, ""), (0, "ran\n")], done
    assert "EROFS" in done[0].stderr and "--cgroup-manager disabled goes without" in done[0].stderr, done[0]


def test_the_other_managers(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.linux["cgroupsPath"] = "neither:nor"
    bundle.args("echo ran").save()
    words = ("run", "--bundle", bundle.path)
    by_flag, by_name = (runtime(*option, *words, "web") for option in (
        ["--systemd-cgroup"], ["--cgroup-manager", "systemd"]))
    assert by_flag.code == 1 and "systemd" in by_flag.err
    assert (by_name.code, by_name.err) == (1, by_flag.err)
    bundle.linux["cgroupsPath"] = f"/pyrunc-{runtime.new_id()}"
    bundle.save()
    assert runtime("--cgroup-manager=cgroupfs", *words, runtime.new_id()).out == "ran\n"


@pytest.mark.parametrize(("words", "said"), [
    (("--cgroup-manager", "none"), '--cgroup-manager is cgroupfs, systemd or disabled, not "none"'),
    ((*DISABLED, "--systemd-cgroup"), "--systemd-cgroup and --cgroup-manager disabled exclude each other"),
])
def test_what_it_is_not(runtime: Runtime, host: Host, words: tuple[str, ...], said: str) -> None:
    result = runtime(*words, "list")
    assert (result.code, result.out, result.err) == (1, "", f"pyrunc: {said}\n")
