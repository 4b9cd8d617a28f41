# SPDX-License-Identifier: Apache-2.0
"""SELinux in force: labels of processes and mounts, under a policy that is just large enough for them.

No distribution's policy is needed to see whether a label is set: the one here knows a few types, leaves
what it doesn't know alone, and keeps container_t from secret_t.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import COUNTER, Counter, checkpoint, is_gone, restore, start
from support import Bundle, Host, Runtime, wait_for

from pyrunc.linux.syscall import call

pytestmark = pytest.mark.vm_selinux

KEYCTL_GET_SECURITY = 17  # keyctl_get_security(3)
SELINUXFS = Path("/sys/fs/selinux")
PROCESS = "system_u:system_r:container_t:s0:c1,c2"
OTHER = "system_u:system_r:other_t:s0"
FILES = "system_u:object_r:container_file_t:s0:c1,c2"
OTHER_FILES = "system_u:object_r:container_file_t:s0"
SECRET = "system_u:object_r:secret_t:s0"
POLICY = """
(handleunknown allow)
(mls true)
(policycap nnp_nosuid_transition)
(class process (transition dyntransition))
(class file (read write open))
(class dir (search))
(classorder (process file dir))
(sensitivity s0)
(sensitivityorder (s0))
(category c1)
(category c2)
(categoryorder (c1 c2))
(sensitivitycategory s0 (c1 c2))
(level low (s0))
(level high (s0 (c1 c2)))
(levelrange lowest (low low))
(levelrange all (low high))
(type kernel_t)
(type container_t)
(type other_t)
(type file_t)
(type container_file_t)
(type secret_t)
(typeattribute process_type)
(typeattributeset process_type (kernel_t container_t other_t))
(typeattribute open_type)
(typeattributeset open_type (kernel_t container_t other_t file_t container_file_t))
(typeattribute any_type)
(typeattributeset any_type (or (open_type) (secret_t)))
(role system_r)
(roletype system_r process_type)
(role object_r)
(roletype object_r file_t)
(roletype object_r container_file_t)
(roletype object_r secret_t)
(user system_u)
(userrole system_u system_r)
(userrole system_u object_r)
(userlevel system_u low)
(userrange system_u all)
(allow kernel_t process_type (process (transition dyntransition)))
(allow process_type open_type (file (read write open)))
(allow process_type any_type (dir (search)))
(allow kernel_t secret_t (file (read write open)))
(allow other_t secret_t (file (read write open)))
(context of_processes (system_u system_r kernel_t lowest))
(context of_files (system_u object_r file_t lowest))
(fsuse trans tmpfs of_files)
(fsuse trans devtmpfs of_files)
(fsuse trans devpts of_files)
(fsuse trans mqueue of_files)
(fsuse task pipefs of_processes)
(fsuse task sockfs of_processes)
(genfscon proc "/" of_files)
(genfscon sysfs "/" of_files)
(genfscon cgroup2 "/" of_files)
"""
#: The kernel's initial SIDs, in its order (security/selinux/include/initial_sid_to_string.h).
SIDS = ("kernel", "security", "unlabeled", "fs", "file", "file_labels", "init", "any_socket", "port", "netif", "netmsg",
        "node", "igmp_packet", "icmp_socket", "tcp_socket", "sysctl_modprobe", "sysctl", "sysctl_fs", "sysctl_kernel",
        "sysctl_net", "sysctl_net_unix", "sysctl_vm", "sysctl_dev", "kmod", "policy", "scmp_packet", "devnull")


@pytest.fixture(scope="module", autouse=True)
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The policy, loaded and enforced."""
    place = tmp_path_factory.mktemp("policy")
    text = POLICY + "".join(f"(sid {name})\n(sidcontext {name} {'of_processes' if name == 'kernel' else 'of_files'})\n"
                            for name in SIDS) + f"(sidorder ({' '.join(SIDS)}))\n"
    (place / "policy.cil").write_text(text)
    subprocess.run(["secilc", "--mls", "true", "--policyvers", "33", "--output", place / "policy",
                    "--filecontext", "/dev/null", place / "policy.cil"], check=True)
    subprocess.run(["mount", "-t", "selinuxfs", "selinuxfs", SELINUXFS], check=True)
    load = os.open(SELINUXFS / "load", os.O_RDWR)
    try:
        os.write(load, (place / "policy").read_bytes())  # in one piece
    finally:
        os.close(load)
    (SELINUXFS / "enforce").write_text("1")
    assert (SELINUXFS / "enforce").read_text() == "1"
    assert label("/proc/self/attr/current") == "system_u:system_r:kernel_t:s0"
    yield
    (SELINUXFS / "enforce").write_text("0")


def label(path: str | Path) -> str:
    return Path(path).read_bytes().decode().rstrip("\0\n")


def of_file(path: str | Path) -> str:
    return os.getxattr(path, "security.selinux").decode().rstrip("\0")


@pytest.fixture
def files(bundle: Bundle) -> Bundle:
    """A root with a file that container_t may read, and one that it may not."""
    for name in ("open", "secret"):
        (bundle.rootfs / "etc" / name).write_text(f"what is in {name}\n")
    os.setxattr(bundle.rootfs / "etc" / "secret", "security.selinux", SECRET.encode())
    return bundle


READ = "cat /proc/self/attr/current | tr -d '\\000'; echo; cat /etc/open; cat /etc/secret"


@pytest.mark.parametrize("flag", [True, False], ids=["no new privileges", "new privileges"])
def test_a_label_confines(runtime: Runtime, files: Bundle, host: Host, flag: bool) -> None:
    """config.md, selinuxLabel: the program runs under it, as another user too; without it nothing is denied."""
    files.process["noNewPrivileges"] = flag
    files.process["selinuxLabel"] = PROCESS
    files.process["user"] = {"uid": 1000, "gid": 1000}
    result = runtime.run(files, READ)
    assert result.lines == [PROCESS, "what is in open"], result
    assert result.errors == ["cat: can't open '/etc/secret': Permission denied"]
    del files.process["selinuxLabel"]
    control = runtime.run(files, READ)
    assert control.lines == ["system_u:system_r:kernel_t:s0", "what is in open", "what is in secret"], control


def test_mounts_have_their_label(runtime: Runtime, files: Bundle, host: Host) -> None:
    """config-linux.md, mountLabel: what the container's own file systems hold has it, what the image holds hasn't."""
    files.process["selinuxLabel"] = PROCESS
    files.linux["mountLabel"] = FILES
    files.mount("tmpfs", "/mnt", type="tmpfs", options=[])
    container = runtime.create(files.args("touch /mnt/made /dev/shm/made; sleep 1000"))
    assert runtime("start", container).code == 0
    pid = runtime.state(container)["pid"]
    root = Path(f"/proc/{pid}/root")
    wait_for(lambda: (root / "dev/shm/made").exists(), "the container's file")
    for path in ("mnt", "mnt/made", "dev", "dev/null", "dev/shm", "dev/shm/made", "dev/mqueue", "dev/pts/ptmx"):
        assert of_file(root / path) == FILES, path
    assert of_file(root / "etc/open") == "system_u:object_r:file_t:s0"
    assert label(f"/proc/{pid}/attr/current") == PROCESS


@pytest.mark.parametrize("wanted", ["", "context", "rootcontext"])
def test_by_which_option_mounts_have_their_label(runtime: Runtime, files: Bundle, host: Host, wanted: str) -> None:
    """mount(8): with `context` all there is has it, and no other; with `rootcontext` it can be given another."""
    files.process["selinuxLabel"] = PROCESS
    files.linux["mountLabel"] = FILES
    files.config["annotations"] = {"run.oci.mount_context_type": wanted} if wanted else {}
    files.mount("tmpfs", "/mnt", type="tmpfs", options=[])
    container = runtime.create(files.args("sleep", "1000"))
    top = Path(f"/proc/{runtime.state(container)['pid']}/root/mnt")
    assert of_file(top) == FILES
    (top / "made").touch()
    relabel = ("security.selinux", OTHER_FILES.encode())
    if wanted in ("", "context"):
        with pytest.raises(OSError, match="not supported"):
            os.setxattr(top / "made", *relabel)
    else:
        os.setxattr(top / "made", *relabel)
        assert of_file(top / "made") == OTHER_FILES


def test_an_option_that_is_none(runtime: Runtime, files: Bundle, host: Host) -> None:
    files.linux["mountLabel"] = FILES
    files.config["annotations"] = {"run.oci.mount_context_type": "mycontext"}
    result = runtime("create", "--bundle", files.save(), runtime.new_id())
    assert result.code == 1 and "/annotations/run.oci.mount_context_type: 'mycontext' is not one of" in result.err


@pytest.mark.parametrize("name", [PROCESS, ""], ids=["with a label", "without one"])
def test_its_keyring_has_its_label(runtime: Runtime, files: Bundle, host: Host, name: str) -> None:
    """The session keyring that create makes: what reads the program's keys has to be let by the same rules."""
    files.process["selinuxLabel"] = name
    container = runtime.create(files.args("sleep", "1000"))
    lines = [line.split() for line in Path("/proc/keys").read_text().splitlines()]
    serial, = (int(words[0], 16) for words in lines if f"_ses.{container}:" in words)
    buffer = bytearray(256)
    length = call("keyctl", KEYCTL_GET_SECURITY, serial, buffer, len(buffer))
    assert buffer[:length - 1].decode() == (name or "system_u:system_r:kernel_t:s0")
    assert label("/proc/self/attr/keycreate") == ""


def test_exec(runtime: Runtime, files: Bundle, host: Host) -> None:
    """exec's process has the container's label, or the one of --process-label."""
    files.process["selinuxLabel"] = PROCESS
    container = runtime.create(files.args("sleep", "1000"))
    assert runtime("start", container).code == 0
    plain = runtime("exec", container, "sh", "-c", READ)
    assert plain.lines == [PROCESS, "what is in open"], plain
    other = runtime("exec", "--process-label", OTHER, container, "sh", "-c", READ)
    assert other.lines == [OTHER, "what is in open", "what is in secret"], other


def test_with_a_user_namespace_and_a_filter(runtime: Runtime, files: Bundle, host: Host) -> None:
    """The attribute is written before the privileges go and before the filter is loaded."""
    files.process["selinuxLabel"] = PROCESS
    files.linux["mountLabel"] = FILES
    files.namespace("user")
    files.linux["uidMappings"] = files.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 70000}]
    files.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO"}]}
    result = runtime.run(files, READ + "; chmod 700 /tmp")
    assert result.lines == [PROCESS, "what is in open"], result
    assert result.errors[-1] == "chmod: /tmp: Operation not permitted"


@pytest.mark.parametrize(("section", "key", "value"), [
    ("process", "selinuxLabel", "system_u:system_r:nobody_t:s0"), ("process", "selinuxLabel", "rubbish"),
    ("linux", "mountLabel", "system_u:object_r:nothing_t:s0")])
def test_a_label_that_the_policy_lacks(runtime: Runtime, files: Bundle, host: Host, section: str, key: str,
                                       value: str) -> None:
    """One line with the place in config.json; nothing is left."""
    files.config[section][key] = value
    result = runtime.run(files, "true")
    assert result.code == 1 and len(result.errors) == 1, result
    assert f"/{section}/{key}: the policy that is loaded knows no label {value}" in result.err


def test_apparmor_is_not_there(runtime: Runtime, files: Bundle, host: Host) -> None:
    files.process["apparmorProfile"] = "pyrunc-nothing"
    result = runtime.run(files, "true")
    assert result.code == 1 and "AppArmor is disabled or not supported" in result.err


def test_a_checkpoint_would_lose_the_label(runtime: Runtime, files: Bundle, host: Host, images: Path) -> None:
    """Debian's criu is built without SELinux: the container runs on, instead of coming back without its label."""
    files.process["selinuxLabel"] = PROCESS
    counter = Counter(files)
    container = start(runtime, files)
    counter.reach()
    refused = runtime("checkpoint", "--image-path", images, container, timeout=120)
    assert refused.code == 1 and len(refused.errors) == 1, refused
    assert f"criu leaves the label {PROCESS} out, which would be lost on restore" in refused.err
    assert runtime.state(container)["status"] == "running"
    counter.reach()
    assert label(f"/proc/{runtime.state(container)['pid']}/attr/current") == PROCESS


def test_a_restore_with_another_mount_label(runtime: Runtime, files: Bundle, host: Host, images: Path) -> None:
    """--lsm-mount-context takes the place of mountLabel; --lsm-profile is beyond Debian's criu, and says so."""
    files.linux["mountLabel"] = FILES
    files.mount("tmpfs", "/mnt", type="tmpfs", options=[])
    counter = Counter(files)
    container = start(runtime, files, "touch /mnt/made; " + COUNTER)
    counter.reach()
    assert of_file(f"/proc/{runtime.state(container)['pid']}/root/mnt/made") == FILES
    checkpoint(runtime, container, images)
    words = ("restore", "--detach", "--image-path", images, "--bundle", files.path, container)
    for option, value, message in (
            ("--lsm-profile", f"selinux:{PROCESS}", f"--lsm-profile selinux:{PROCESS}: "),
            ("--lsm-profile", "selinux:system_u:system_r:nobody_t:s0", "the policy that is loaded knows no label "),
            ("--lsm-mount-context", "system_u:object_r:nothing_t:s0", "the policy that is loaded knows no such label")):
        refused = runtime(*words, option, value, timeout=120)
        assert refused.code == 1 and len(refused.errors) == 1 and message in refused.err, refused
        assert "was built without SELinux" in refused.err or option != "--lsm-profile" or "nobody_t" in value, refused
        assert is_gone(runtime, container)
    restore(runtime, files, container, images, "--lsm-mount-context", OTHER_FILES)
    counter.reach()
    root = Path(f"/proc/{runtime.state(container)['pid']}/root")
    for path in ("mnt", "mnt/made", "dev", "dev/null", "dev/shm"):
        assert of_file(root / path) == OTHER_FILES, path
    assert of_file(root / "etc/open") == "system_u:object_r:file_t:s0"
