# SPDX-License-Identifier: Apache-2.0
"""AppArmor, in a kernel that has it: a profile that denies, in create, exec and restore, and one that isn't there."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import COUNTER, Counter, checkpoint, is_gone, restore, start
from support import Bundle, Host, Runtime, wait_for

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


#: Says what it can read, once for each time that it is asked.
ANSWER = "if [ -e /asked ]; then rm /asked; cat /etc/one /etc/two >/answer 2>/dev/null; mv /answer /answered; fi;"


def confinement(pid: int) -> str:
    return Path(f"/proc/{pid}/attr/apparmor/current").read_text().rstrip("\n")


def test_a_checkpoint_keeps_it_or_takes_another(runtime: Runtime, files: Bundle, host: Host, images: Path,
                                                profile: tuple[str, str]) -> None:
    """What is restored is under the profile that it had, or that of --lsm-profile, and goes on under it."""
    files.process["apparmorProfile"] = profile[0]
    counter = Counter(files)
    container = start(runtime, files, COUNTER.replace("sleep", f"{ANSWER} sleep"))

    def readable() -> str:
        (files.rootfs / "asked").touch()
        answered = files.rootfs / "answered"
        wait_for(answered.exists, "an answer", 60)
        text = answered.read_text()
        answered.unlink()
        return text

    counter.reach()
    assert readable() == "what is in two\n"
    checkpoint(runtime, container, images)
    last = counter.check()
    other = ("--lsm-profile", f"apparmor:{profile[1]}")
    for options, name, seen in ((), profile[0], "two"), (other, profile[1], "one"):
        counter.path.write_text("".join(f"{number}\n" for number in range(1, last + 1)))
        restore(runtime, files, container, images, *options)
        assert confinement(runtime.state(container)["pid"]) == f"{name} (enforce)"
        counter.reach()
        assert readable() == f"what is in {seen}\n"
        assert runtime("delete", "--force", container).code == 0


def test_a_profile_that_a_restore_cannot_take(runtime: Runtime, files: Bundle, host: Host, images: Path,
                                              profile: tuple[str, str]) -> None:
    """One clear line, and nothing is left; above all, nothing runs unconfined that was to be confined."""
    counter = Counter(files)
    container = start(runtime, files)
    counter.reach()
    checkpoint(runtime, container, images)
    last = counter.check()
    words = ("restore", "--detach", "--image-path", images, "--bundle", files.path, container)
    for option, message in (
            (profile[0], f"--lsm-profile {profile[0]}: is not TYPE:NAME (TYPE is apparmor or selinux)"),
            (f"smack:{profile[0]}", f"--lsm-profile smack:{profile[0]}: is not TYPE:NAME"),
            ("selinux:system_u:system_r:container_t:s0", "selinux is disabled or not supported"),
            # criu passes over the profile where there was none, and restores it unconfined.
            (f"apparmor:{profile[0]}", f"criu has restored the container as unconfined, not as {profile[0]}")):
        refused = runtime(*words, "--lsm-profile", option, timeout=120)
        assert refused.code == 1 and len(refused.errors) == 1 and message in refused.err, refused
        assert is_gone(runtime, container)
    context = runtime(*words, "--lsm-mount-context", "system_u:object_r:container_file_t:s0")
    assert context.code == 1 and len(context.errors) == 1, context
    assert "--lsm-mount-context system_u:object_r:container_file_t:s0: SELinux is disabled" in context.err
    files.process["apparmorProfile"] = profile[0]  # by now
    files.save()
    refused = runtime(*words, timeout=120)
    assert refused.code == 1 and f"criu has restored the container as unconfined, not as {profile[0]}" in refused.err
    assert is_gone(runtime, container) and counter.check() == last
