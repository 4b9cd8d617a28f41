# SPDX-License-Identifier: Apache-2.0
"""The roots of containerd's snapshotters: with mapped ids, as pods with user namespaces have them; in a file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from pyrunc_shim import idmapped
from pyrunc_shim import messages as m
from pyrunc_shim.ttrpc import RpcError
from shim_client import fifos, program, read_all
from support import wait_for

from pyrunc.errors import UsageError

from .test_shim import Box, box, events

__all__ = ["box", "events"]

HOST = 100000
MAPS = [f"uidmap=0:{HOST}:65536", f"gidmap=0:{HOST}:65536"]
SHOW = "stat -c '%n %u:%g' /bin/busybox /five; touch /made; stat -c %u:%g /made"


def prepare(box: Box, layers: int, upper: Path | None) -> m.Mount:
    """A bundle for c1, in a user namespace, and the mount of its root: layers, and `upper` if there is one."""
    bundle = box.make_bundle("c1").args(SHOW).namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": HOST, "size": 65536}]
    for path in (bundle.path, *bundle.path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o111)
    bundle.save()
    snapshots = box.tmp_path / "snapshots"
    paths = [snapshots / str(number) / "fs" for number in range(layers)]
    for path in paths:
        path.mkdir(parents=True)
    shutil.copytree(bundle.rootfs, paths[0], symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(bundle.rootfs)
    bundle.rootfs.mkdir()
    (paths[-1] / "five").touch()
    os.chown(paths[-1] / "five", 5, 6)
    if upper is None:
        return m.Mount(type="bind", source=str(paths[0]), options=[*MAPS, "rw", "rbind"])
    for name in ("fs", "work"):
        (upper / name).mkdir(parents=True)
        os.chown(upper / name, HOST, HOST)
    return m.Mount(type="overlay", source="overlay", options=[
        *MAPS, f"workdir={upper}/work", f"upperdir={upper}/fs", "lowerdir=" + ":".join(map(str, reversed(paths))),
        "index=off"])


@pytest.mark.parametrize("layers", [1, 3, 100])
def test_layers_with_mapped_ids(box: Box, layers: int) -> None:
    """On disk 0, on the host 100000, inside 0; what is made is the container's, in the upper layer."""
    upper = box.tmp_path / "snapshots" / "upper"
    root = prepare(box, layers, upper)
    assert seen(box, root) == ["/bin/busybox 0:0", "/five 5:6", "0:0"]
    made = upper / "fs" / "made"
    assert (made.stat().st_uid, made.stat().st_gid) == (HOST, HOST)
    assert str(box.tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_directory_with_mapped_ids(box: Box) -> None:
    """An image of one layer, without a snapshot above it: written through the mapping, it is 0 on disk."""
    root = prepare(box, 1, None)
    assert seen(box, root) == ["/bin/busybox 0:0", "/five 5:6", "0:0"]
    assert (Path(root.source) / "made").stat().st_uid == 0
    assert str(box.tmp_path) not in Path("/proc/self/mountinfo").read_text()


def seen(box: Box, root: m.Mount) -> list[str]:
    """What the container prints; the shim deletes it."""
    bundle = box.tmp_path / "c1"
    streams = fifos(box.tmp_path)
    said: list[bytes] = []
    threads = [read_all(streams[name], said) for name in ("stdout", "stderr")]
    shim = box.launch("c1", bundle)
    shim.create("c1", bundle, box.root, rootfs=[root], **streams)
    assert not (bundle / "layers").exists()
    shim.start("c1")
    assert shim.wait("c1") == 0
    for thread in threads:
        thread.join(20)
    shim.delete("c1")
    return b"".join(said).decode().splitlines()


@pytest.mark.parametrize("options", [["rbind", "ro", "nosuid"], [*MAPS, "rbind"]], ids=["bind", "mapped"])
def test_a_link_in_the_image_leads_nowhere_else(box: Box, options: list[str]) -> None:
    """A mount below the root: neither it nor what is done to it afterwards is where a link of the image points."""
    bundle = box.make_bundle("c1").args("true")
    bundle.save()
    image, source, outside = (box.tmp_path / name for name in ("image", "source", "outside"))
    bundle.rootfs.rename(image)
    for path in (bundle.rootfs, source, outside):
        path.mkdir()
    (source / "seen").touch()
    (image / "link").symlink_to(outside)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", outside], check=True)
    try:
        before = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(outside) in line]
        shim = box.launch("c1", bundle.path)
        shim.create("c1", bundle.path, box.root, rootfs=[
            m.Mount(type="bind", source=str(image), options=["rbind", "rw"]),
            m.Mount(type="bind", source=str(source), target="link", options=options)])
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        assert [line for line in lines if f" {outside} " in line] == before
        (place,) = {line.split()[4] for line in lines if line.split()[4].endswith(f"rootfs{outside}")}
        assert os.listdir(place) == ["seen"] and os.listdir(outside) == []
        assert os.statvfs(place).f_flag & os.ST_RDONLY == (os.ST_RDONLY if "ro" in options else 0)
        shim.delete("c1")
    finally:
        subprocess.run(["umount", outside], check=True)


def test_a_mount_that_fails_leaves_nothing(box: Box) -> None:
    root = prepare(box, 2, box.tmp_path / "snapshots" / "upper")
    root.options = [option for option in root.options if not option.startswith("workdir=")]
    bundle = box.tmp_path / "c1"
    shim = box.launch("c1", bundle)
    with pytest.raises(RpcError, match=r"mount overlay overlay on .*: mount: .*EINVAL"):
        shim.create("c1", bundle, box.root, rootfs=[root])
    assert not (bundle / "layers").exists()
    assert str(box.tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_file_system_whose_ids_cannot_be_mapped(box: Box) -> None:
    """sysfs, for one; the error says so, and nothing stays."""
    root = prepare(box, 1, None)
    root.source = "/sys"
    bundle = box.tmp_path / "c1"
    shim = box.launch("c1", bundle)
    with pytest.raises(RpcError, match=r"map the ids of /.*/rootfs.*EINVAL.*this kernel can't map the ids of sysfs"):
        shim.create("c1", bundle, box.root, rootfs=[root])
    assert str(box.tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_what_a_killed_worker_left_is_unmounted_by_delete(box: Box) -> None:
    """Layers that are mounted while the root is; containerd removes what is in the bundle next."""
    prepare(box, 1, None)
    bundle = box.tmp_path / "c1"
    shim = box.launch("c1", bundle)
    pid = shim.pid()
    (bundle / "layers").mkdir()
    mapping = idmapped.split(MAPS)[1]
    idmapped.remap(str(bundle / "rootfs"), str(bundle / "layers"), mapping)
    os.kill(pid, signal.SIGKILL)
    assert program(bundle, "c1", box.events, "-bundle", str(bundle), "delete").returncode == 0
    wait_for(lambda: str(bundle) not in Path("/proc/self/mountinfo").read_text(), "the layers to be unmounted")


@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_an_image_of_a_file_system(box: Box, mode: str) -> None:
    """The option loop, of the snapshotter blockfile: the device is free again when the container is deleted."""
    bundle = box.make_bundle("c1").args("touch /made 2>&1; grep ' / ' /proc/self/mounts | cut -d ' ' -f 1,3")
    bundle.config["root"]["readonly"] = False
    bundle.save()
    image = box.tmp_path / "image"
    subprocess.run(["mkfs.ext4", "-q", "-d", bundle.rootfs, image, "16m"], check=True)
    shutil.rmtree(bundle.rootfs)
    bundle.rootfs.mkdir()
    lines = seen(box, m.Mount(type="ext4", source=str(image), options=[mode, "loop"]))
    device, kind = lines[-1].split()
    assert kind == "ext4" and lines[:-1] == ([] if mode == "rw" else ["touch: /made: Read-only file system"])
    backing = Path("/sys/block", Path(device).name, "loop/backing_file")
    wait_for(lambda: not backing.exists() or str(image) not in backing.read_text(), "the device to be free")


def test_options_that_are_wrong() -> None:
    assert idmapped.split(["ro", "uidmap=0:5:1"]) == (["ro"], {})  # containerd maps both or nothing
    assert idmapped.split(["uidmap=0:5:1,1:9:2", "x=y", "gidmap=0:6:1"]) == (["x=y"], {
        "uidMappings": [{"containerID": 0, "hostID": 5, "size": 1}, {"containerID": 1, "hostID": 9, "size": 2}],
        "gidMappings": [{"containerID": 0, "hostID": 6, "size": 1}]})
    for text in ("0:5", "0:5:x", "-1:5:1", "0:5:1,"):
        with pytest.raises(UsageError, match="not of the form 0:100000:65536"):
            idmapped.split([f"uidmap={text}", "gidmap=0:6:1"])
