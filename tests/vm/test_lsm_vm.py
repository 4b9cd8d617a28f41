# SPDX-License-Identifier: Apache-2.0
"""AppArmor, in a kernel that has it: a profile that denies, in create and in exec, and one that isn't there."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Bundle, Host, Runtime

pytestmark = pytest.mark.vm

PROFILE = """
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  file,
  capability,
  network,
  signal,
  deny /etc/{denied} rwklx,
}}
"""


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The names of two loaded profiles: under the one /etc/one can't be read, under the other /etc/two."""
    names = []
    for denied in ("one", "two"):
        name = f"pyrunc-{denied}-{uuid.uuid4().hex[:8]}"
        text = PROFILE.format(name=name, denied=denied)
        done = subprocess.run(["apparmor_parser", "--replace", "--skip-cache"], input=text, text=True,
                              capture_output=True, timeout=120)
        assert done.returncode == 0, done
        names.append(name)
    yield names[0], names[1]
    for name in names:
        Path("/sys/kernel/security/apparmor/.remove").write_text(name)


@pytest.fixture
def files(bundle: Bundle) -> Bundle:
    for name in ("one", "two"):
        (bundle.rootfs / "etc" / name).write_text(f"what is in {name}\n")
    return bundle


READ = "cat /proc/self/attr/apparmor/current; cat /etc/one; cat /etc/two"


@pytest.mark.vm_short
@pytest.mark.parametrize("flag", [True, False], ids=["no new privileges", "new privileges"])
def test_a_profile_confines(runtime: Runtime, files: Bundle, host: Host, profile: tuple[str, str], flag: bool) -> None:
    """config.md, apparmorProfile: the program runs under it, as another user too; without it nothing is denied."""
    files.process["noNewPrivileges"] = flag
    files.process["apparmorProfile"] = profile[0]
    files.process["user"] = {"uid": 1000, "gid": 1000}
    result = runtime.run(files, READ)
    assert result.lines == [f"{profile[0]} (enforce)", "what is in two"], result
    assert result.errors == ["cat: can't open '/etc/one': Permission denied"]
    del files.process["apparmorProfile"]
    control = runtime.run(files, READ)
    assert control.lines == ["unconfined", "what is in one", "what is in two"], control


def test_exec(runtime: Runtime, files: Bundle, host: Host, profile: tuple[str, str]) -> None:
    """exec's process has the container's profile, or the one of --apparmor."""
    files.process["apparmorProfile"] = profile[0]
    container = runtime.create(files.args("sleep", "1000"))
    assert runtime("start", container).code == 0
    pid = runtime.state(container)["pid"]
    assert Path(f"/proc/{pid}/attr/apparmor/current").read_text() == f"{profile[0]} (enforce)\n"
    plain = runtime("exec", container, "sh", "-c", READ)
    assert plain.lines == [f"{profile[0]} (enforce)", "what is in two"], plain
    other = runtime("exec", "--apparmor", profile[1], container, "sh", "-c", READ)
    assert other.lines == [f"{profile[1]} (enforce)", "what is in one"], other
    missing = runtime("exec", "--apparmor", "pyrunc-nothing", container, "true")
    assert missing.code != 0 and "/process/apparmorProfile: apply the AppArmor profile pyrunc-nothing" in missing.err
    assert "it is not loaded" in missing.err, missing


def test_a_profile_that_is_not_loaded(runtime: Runtime, files: Bundle, host: Host) -> None:
    """An error of create with the remedy; nothing is left."""
    files.process["apparmorProfile"] = "pyrunc-nothing"
    result = runtime.run(files, "true")
    assert result.code == 1 and len(result.errors) == 1, result
    assert "/process/apparmorProfile: apply the AppArmor profile pyrunc-nothing: write: " in result.err
    assert "(ENOENT) (it is not loaded: apparmor_parser --replace FILE loads it)" in result.err


def test_with_a_user_namespace_and_a_filter(runtime: Runtime, files: Bundle, host: Host,
                                            profile: tuple[str, str]) -> None:
    """The attribute is written before the privileges go and before the filter is loaded."""
    files.process["apparmorProfile"] = profile[0]
    files.namespace("user")
    files.linux["uidMappings"] = files.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 70000}]
    files.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO"}]}
    result = runtime.run(files, READ + "; chmod 700 /tmp")
    assert result.lines == [f"{profile[0]} (enforce)", "what is in two"], result
    assert result.errors[-1] == "chmod: /tmp: Operation not permitted"


def test_selinux_is_not_there(runtime: Runtime, files: Bundle, host: Host) -> None:
    """In runc's words; in this kernel AppArmor is the module that is on."""
    files.process["selinuxLabel"] = "system_u:system_r:container_t:s0"
    result = runtime.run(files, "true")
    assert result.code == 1 and result.err.strip().endswith(
        "/process/selinuxLabel: selinux label is specified in config, but selinux is disabled or not supported"), result
