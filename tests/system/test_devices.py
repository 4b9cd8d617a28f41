# SPDX-License-Identifier: Apache-2.0
"""Device nodes and links in /dev (config-linux.md, Devices, Default Devices; runtime-linux.md, Dev symbolic links)."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mountinfo import host_mount, mount_at, of_process
from support import Bundle, Host, Runtime

DEFAULTS = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
         "ptmx": "pts/ptmx"}
USER = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def created(runtime: Runtime, bundle: Bundle) -> Path:
    """The root of a new container, from outside."""
    return Path(f"/proc/{runtime.state(runtime.create(bundle))['pid']}/root")


def device(bundle: Bundle, **entry: Any) -> None:
    bundle.linux.setdefault("devices", []).append(entry)


def remapped(bundle: Bundle) -> Bundle:
    """With a user namespace whose ids own the root."""
    bundle.namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = USER
    for path in (bundle.rootfs, *bundle.rootfs.rglob("*")):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    for path in (bundle.path, *bundle.path.parents):
        if path.stat().st_uid == 0 and str(path).startswith("/tmp/"):
            path.chmod(path.stat().st_mode | 0o111)
    return bundle


def test_default_devices(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config-linux.md: null, zero, full, random, urandom, tty are always there."""
    dev = created(runtime, bundle) / "dev"
    for name, numbers in DEFAULTS.items():
        info = os.lstat(dev / name)
        assert stat.S_ISCHR(info.st_mode) and (os.major(info.st_rdev), os.minor(info.st_rdev)) == numbers
        assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o666, 0, 0)
    known = {*DEFAULTS, *LINKS, "pts", "shm", "mqueue", "core"}
    assert set(os.listdir(dev)) <= known


def test_dev_symbolic_links(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """runtime-linux.md, Dev symbolic links; and ptmx, of the container's own devpts."""
    dev = created(runtime, bundle) / "dev"
    assert {name: os.readlink(dev / name) for name in LINKS} == LINKS
    result = runtime.run(bundle, "echo out >/dev/stdout | cat; cat /dev/stdin; ls /dev/pts; "
                                 "(echo err >/dev/stderr) 2>&1 | cat >&2", stdin="in\n")
    assert (result.out, result.err) == ("out\nin\nptmx\n", "err\n")


def test_default_devices_work(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """As far as the devices cgroup is the default's: the program can use each."""
    bundle.linux["resources"] = {}
    result = runtime.run(bundle, "echo x >/dev/null; head -c 3 /dev/zero | od -An -tx1; echo x >/dev/full; "
                                 "head -c 4 /dev/urandom | wc -c")
    assert result.lines == [" 00 00 00", "4"]
    assert result.errors == ["sh: write error: No space left on device"]


def test_configured_devices(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config-linux.md: type, path, major, minor, fileMode, uid, gid; parents are made; /dev isn't demanded."""
    device(bundle, type="c", path="/dev/char", major=1, minor=3, fileMode=0o640, uid=12, gid=34)
    device(bundle, type="u", path="/dev/unbuffered", major=1, minor=5)
    device(bundle, type="b", path="/dev/a/b/block", major=7, minor=0, fileMode=0o4600)
    device(bundle, type="p", path="/else/where/fifo", fileMode=0o622)
    root = created(runtime, bundle)
    found = {name: os.lstat(root / name) for name in ("dev/char", "dev/unbuffered", "dev/a/b/block",
                                                      "else/where/fifo")}
    assert [(stat.filemode(info.st_mode), os.major(info.st_rdev), os.minor(info.st_rdev), info.st_uid, info.st_gid)
            for info in found.values()] == [
        ("crw-r-----", 1, 3, 12, 34), ("crw-rw-rw-", 1, 5, 0, 0), ("brwS------", 7, 0, 0, 0),
        ("prw--w--w-", 0, 0, 0, 0)]


def test_mode_is_not_cut_by_the_umask(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    device(bundle, type="c", path="/dev/char", major=1, minor=3, fileMode=0o666)
    old = os.umask(0o077)
    try:
        root = created(runtime, bundle)
    finally:
        os.umask(old)
    for name in ("char", "null"):
        assert stat.S_IMODE(os.lstat(root / "dev" / name).st_mode) == 0o666


def test_a_configured_device_replaces_a_default_one(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    device(bundle, type="c", path="/dev/null", major=1, minor=3, fileMode=0o600)
    assert stat.S_IMODE(os.lstat(created(runtime, bundle) / "dev" / "null").st_mode) == 0o600


def test_an_existing_node_is_used(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """A node of the image's that is that device is kept, and gets its mode and owner."""
    os.mknod(bundle.rootfs / "null-of-the-image", 0o020600, os.makedev(1, 3))
    inode = os.lstat(bundle.rootfs / "null-of-the-image").st_ino
    device(bundle, type="c", path="/null-of-the-image", major=1, minor=3, fileMode=0o644, uid=5, gid=6)
    info = os.lstat(created(runtime, bundle) / "null-of-the-image")
    assert info.st_ino == inode
    if runtime.name == "pyrunc":
        assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o644, 5, 6)


def test_a_node_of_an_images_layer_gets_its_mode(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """On an overlay of two file systems a node's st_dev isn't its directory's, though it is no mount."""
    with host_mount(tmp_path / "lower") as lower, host_mount(tmp_path / "upper") as upper:
        subprocess.run(["cp", "-a", f"{bundle.rootfs}/.", lower], check=True)
        os.mknod(lower / "node", 0o020600, os.makedev(1, 3))
        for name in ("u", "w"):
            (upper / name).mkdir()
        with host_mount(bundle.rootfs, f"lowerdir={lower}", f"upperdir={upper}/u", f"workdir={upper}/w",
                        fstype="overlay") as root:
            assert os.lstat(root / "node").st_dev != root.stat().st_dev
            device(bundle, type="c", path="/node", major=1, minor=3, fileMode=0o644, uid=5)
            result = runtime.run(bundle, "stat -c '%a %u' /node")
    assert result.lines == ["644 5"], result


def test_a_node_that_is_mounted_is_left_as_it_is(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """It is the host's own: Podman binds all of them for an ordinary user's `--privileged`, who can't change them."""
    node = tmp_path / "node"
    os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.chown(node, 5, 6)
    bundle.mount(node, "/dev/null")
    bundle.mount(node, "/dev/given")
    bundle.linux["devices"] = [{"path": "/dev/given", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 7}]
    result = runtime.run(bundle, "stat -c '%t %T %a %u %g' /dev/null /dev/given")
    assert result.lines == ["1 3 600 5 6"] * 2, result
    info = node.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o600, 5, 6)


@pytest.mark.parametrize("what", ["file", "other numbers", "other type", "directory", "link"])
def test_a_file_that_is_not_the_device_is_an_error(runtime: Runtime, bundle: Bundle, host: Host, what: str) -> None:
    """config-linux.md: "If a file already exists at path that does not match … the runtime MUST generate an error"."""
    node = bundle.rootfs / "node"
    if what == "file":
        node.write_text("mine")
    elif what == "directory":
        node.mkdir()
    elif what == "link":
        os.mknod(bundle.rootfs / "target", 0o020600, os.makedev(1, 3))
        node.symlink_to("target")
    elif what == "other type":
        os.mknod(node, 0o060600, os.makedev(1, 3))
    else:
        os.mknod(node, 0o020600, os.makedev(1, 5))
    before = os.lstat(node)
    device(bundle, type="c", path="/node", major=1, minor=3)
    result = runtime.run(bundle, "true")
    assert result.code == 1
    if runtime.name == "pyrunc":
        assert "/linux/devices/0" in result.err and "/node exists in the rootfs and is not that device" in result.err
    after = os.lstat(node)
    assert (after.st_mode, after.st_ino, after.st_rdev) == (before.st_mode, before.st_ino, before.st_rdev)


def test_a_bound_dev_is_left_alone(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """/dev bound from outside is somebody else's: nothing is made or replaced there."""
    (tmp_path / "dev").mkdir()
    bundle.config["mounts"] = [mount for mount in bundle.config["mounts"] if mount["destination"] in ("/proc",)]
    bundle.mount(tmp_path / "dev", "/dev", options=["rbind"])
    bundle.linux["maskedPaths"] = []
    assert list((created(runtime, bundle) / "dev").iterdir()) == []


def test_in_a_user_namespace_the_hosts_nodes_are_bound(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """mknod(2) is not for user namespaces, and a node made there wouldn't work: the host's are bound."""
    device(bundle, type="c", path="/dev/full", major=1, minor=7)
    pid = runtime.state(runtime.create(remapped(bundle)))["pid"]
    for name, numbers in DEFAULTS.items():
        info = os.lstat(f"/proc/{pid}/root/dev/{name}")
        assert stat.S_ISCHR(info.st_mode) and (os.major(info.st_rdev), os.minor(info.st_rdev)) == numbers
        assert info.st_dev == os.lstat("/dev/null").st_dev
        assert mount_at(of_process(pid), f"/dev/{name}").fstype == "devtmpfs"
    bundle.linux["resources"] = {}
    result = runtime.run(bundle, "echo x >/dev/null; head -c 3 /dev/zero | od -An -tx1")
    assert (result.lines, result.err) == ([" 00 00 00"], "")


def test_in_a_user_namespace_a_device_may_have_another_name(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """docker run --device /dev/zero:/dev/source, with userns-remap or an ordinary user's dockerd.

    Others look for it at the container's path.
    """
    device(bundle, type="c", path="/dev/source", major=1, minor=5)
    device(bundle, type="c", path="/dev/random", major=1, minor=3)
    device(bundle, type="p", path="/dev/pipe", fileMode=0o620)
    bundle.linux["resources"] = {}
    result = runtime.run(remapped(bundle), "head -c 2 /dev/source | od -An -tx1; head -c 2 /dev/random | wc -c; "
                                           "stat -c '%F %a' /dev/pipe")
    assert (result.lines, result.err) == ([" 00 00", "0", "fifo 620"], "")


def test_a_device_the_host_has_not_cannot_be_bound(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    device(bundle, type="b", path="/dev/random", major=1, minor=250)
    result = runtime.run(remapped(bundle), "true")
    if runtime.name == "pyrunc":
        assert result.code == 1
        assert "/linux/devices/0" in result.err and "the host has no such device" in result.err
