# SPDX-License-Identifier: Apache-2.0
"""The root of a container: config.md, Root; config-linux.md, Masked Paths, Readonly Paths; runtime.md, Delete."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from mountinfo import host_mount, mount_at, mounts, of_process
from support import Bundle, Host, Runtime

PIVOT = pytest.mark.parametrize("pivot", [True, False], ids=["pivot", "no-pivot"])


def options(pivot: bool) -> tuple[str, ...]:
    return () if pivot else ("--no-pivot",)


def host_mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def test_readonly_root(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config.md: readonly true makes the root file system read-only; what is mounted below keeps its own."""
    for readonly in (True, False):
        bundle.config["root"]["readonly"] = readonly
        result = runtime.run(bundle, "touch /etc/new; touch /dev/shm/new && echo shm")
        assert result.lines == ["shm"]
        assert result.errors == (["touch: /etc/new: Read-only file system"] if readonly else [])
    assert (bundle.rootfs / "etc" / "new").exists()


def test_readonly_root_is_not_the_hosts(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """The flag belongs to the mount: the host goes on writing to the same directory."""
    bundle.config["root"]["readonly"] = True
    pid = runtime.state(runtime.create(bundle))["pid"]
    assert "ro" in mount_at(of_process(pid), "/").options
    (bundle.rootfs / "etc" / "from-the-host").write_text("seen")
    assert Path(f"/proc/{pid}/root/etc/from-the-host").read_text() == "seen"


def test_relative_and_absolute_root_path(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """config.md: path is absolute, or relative to the bundle."""
    shutil.copytree(bundle.rootfs, bundle.path / "a" / "b", symlinks=True)
    for path in ("a/b", str(bundle.path / "a" / "b"), "./a/../a/b/"):
        bundle.config["root"]["path"] = path
        assert runtime.run(bundle, "touch /made-inside").code == 0
        (bundle.path / "a" / "b" / "made-inside").unlink()


@PIVOT
def test_the_host_cannot_be_seen(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path, pivot: bool) -> None:
    """No mount of the host's shows, and no way up leads out of the root."""
    (tmp_path / "secret").write_text("of the host")
    with host_mount(tmp_path / "a-mount"):
        result = runtime.run(bundle, f"cat /proc/self/mountinfo; ls -d {tmp_path} ../../../../{tmp_path}; ls /; "
                                     "ls -d /proc/1/root/../../etc/debian_version", *options(pivot))
    roots = [mount for mount in mounts(result.out) if mount.point == "/"]
    assert [mount.root for mount in roots] == [str(bundle.rootfs)] or pivot is False or \
        roots[-1].root.endswith("/rootfs")
    assert len(roots) == 1
    assert "a-mount" not in result.out and "secret" not in result.out
    points = {mount.point for mount in mounts(result.out)}
    wanted = {mount["destination"] for mount in bundle.config["mounts"]}
    allowed = (*wanted, *bundle.linux["maskedPaths"], *bundle.linux["readonlyPaths"])
    assert all(point == "/" or point.startswith(allowed) for point in points)
    listing = result.lines[result.lines.index("bin"):]
    assert set(listing) == set(os.listdir(bundle.rootfs))
    assert len(result.errors) == 3


@PIVOT
def test_the_old_root_is_gone(runtime: Runtime, bundle: Bundle, host: Host, pivot: bool) -> None:
    """Not only hidden: with CAP_SYS_CHROOT and CAP_SYS_ADMIN the usual ways out of a chroot find nothing.

    Moving the root leaves the host's below, but no process can name it: there is no mount left to take away.
    """
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind] += ["CAP_SYS_CHROOT", "CAP_SYS_ADMIN"]
    script = ("mkdir -p /jail; cp /bin/busybox /jail/; "
              "chroot /jail /busybox sh -c 'cd ../../../../..; /busybox ls etc/debian_version'; ls -di / /..; "
              "umount -l / 2>/dev/null; ls /etc/passwd /etc/debian_version")
    result = runtime.run(bundle, script, *options(pivot))
    inode, above = (line.split()[0] for line in result.lines[:2])
    assert inode == above == str(bundle.rootfs.stat().st_ino)
    assert not [line for line in result.lines if "debian_version" in line]
    assert Path("/etc/debian_version").exists(), "the control: the host has it"


@PIVOT
def test_the_host_keeps_its_proc_and_sys(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                         pivot: bool) -> None:
    """Where everything is shared, as systemd has it, neither way of entering the root reaches the host's mounts."""
    bundle.save()
    for propagation in ("", "rshared"):
        bundle.linux["rootfsPropagation"] = propagation
        if not propagation:
            del bundle.linux["rootfsPropagation"]
        bundle.args("true").save()
        line = " ".join(runtime.command("run", *options(pivot), "--bundle", bundle.path, runtime.new_id()))
        script = f"mount --make-rshared /; cut -d' ' -f4- /proc/self/mountinfo >{tmp_path}/before; {line}; " \
                 f"code=$?; cut -d' ' -f4- /proc/self/mountinfo >{tmp_path}/after; exit $code"
        done = subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-c", script], capture_output=True,
                              text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done
        before = (tmp_path / "before").read_text()
        assert "shared:" in before and before == (tmp_path / "after").read_text(), propagation


def test_no_pivot_leaves_no_full_proc_for_a_nested_namespace(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Were the host's /proc left visible below, a nested user namespace could mount an unmasked one."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}  # mapping root itself would take CAP_SETFCAP
    script = "unshare -Urpf --mount-proc echo mounted"
    result = runtime.run(bundle, script, "--no-pivot")
    assert "mounted" not in result.lines and "mounted" not in runtime.run(bundle, script).lines
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    control = runtime.run(bundle, script)
    assert control.lines[:1] == ["mounted"], control


def test_no_pivot_where_the_host_has_a_proc_with_a_blank_in_its_path(runtime: Runtime, bundle: Bundle, host: Host,
                                                                     tmp_path: Path) -> None:
    """proc_pid_mountinfo(5) writes it as \\040."""
    with host_mount(tmp_path / "another proc", fstype="proc"):
        result = runtime.run(bundle, "echo ran", "--no-pivot")
        assert (result.out, result.err) == ("ran\n", "")


def test_masked_paths(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config-linux.md: masked files read as empty and directories too; what doesn't exist is passed over."""
    (bundle.rootfs / "etc" / "secret").write_text("secret")
    (bundle.rootfs / "etc" / "dir").mkdir()
    (bundle.rootfs / "etc" / "dir" / "file").write_text("secret")
    (bundle.rootfs / "etc" / "other").mkdir()
    (bundle.rootfs / "etc" / "link").symlink_to("secret2")
    (bundle.rootfs / "etc" / "secret2").write_text("secret")
    script = "cat /etc/secret /etc/dir/file /etc/link; ls /etc/dir /etc/other | wc -l; echo x >/etc/secret; " \
             "touch /etc/dir/x; cat /etc/secret"
    control = runtime.run(bundle, script)
    assert control.out.startswith("secret" * 3), control
    (bundle.rootfs / "etc" / "secret").write_text("secret")
    (bundle.rootfs / "etc" / "dir" / "x").unlink()
    bundle.linux["maskedPaths"] += ["/etc/secret", "/etc/dir", "/etc/other", "/etc/link", "/etc/none", "/etc/passwd/x"]
    result = runtime.run(bundle, script)
    assert result.lines == ["3"]  # the two names `ls` prints and the line between
    assert "touch: /etc/dir/x: Read-only file system" in result.errors
    assert (bundle.rootfs / "etc" / "secret").read_text() == "secret"


def test_masked_directories_share_one_file_system(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    for name in ("a", "b", "c"):
        (bundle.rootfs / name).mkdir()
    bundle.linux["maskedPaths"] = ["/a", "/b", "/c"]
    pid = runtime.state(runtime.create(bundle))["pid"]
    devices = {os.stat(f"/proc/{pid}/root/{name}").st_dev for name in ("a", "b", "c")}
    if runtime.name == "pyrunc":
        assert len(devices) == 1
    for name in ("a", "b", "c"):
        mount = mount_at(of_process(pid), f"/{name}")
        assert mount.fstype == "tmpfs" and "ro" in mount.options


def test_readonly_paths(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config-linux.md: the paths become read-only, with what is mounted below; their neighbours don't."""
    (bundle.rootfs / "data" / "sub").mkdir(parents=True)
    (bundle.rootfs / "file").write_text("")
    bundle.mount("tmpfs", "/data/sub", type="tmpfs", options=[])
    script = "touch /data/a; touch /data/sub/a; touch /file; touch /other; echo 1 >/proc/sys/kernel/shmmni"
    assert len(runtime.run(bundle, script).errors) == 1  # the default's /proc/sys
    bundle.linux["readonlyPaths"] += ["/data", "/file", "/none"]
    (bundle.rootfs / "data" / "a").unlink()
    result = runtime.run(bundle, script)
    read_only = "Read-only file system"
    assert result.errors == [f"touch: /data/a: {read_only}", f"touch: /data/sub/a: {read_only}",
                             f"touch: /file: {read_only}", f"sh: can't create /proc/sys/kernel/shmmni: {read_only}"]


@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
def test_without_a_mount_namespace_nothing_is_left_after_delete(runtime: Runtime, bundle: Bundle, host: Host,
                                                                tmp_path: Path, shared: bool) -> None:
    """The mounts are the host's then: seen there, and taken away by delete (runtime.md: what create made)."""
    with host_mount(tmp_path / "place") as place:
        if shared:
            subprocess.run(["mount", "--make-shared", place], check=True)
        bundle.config["root"]["path"] = str(shutil.copytree(bundle.rootfs, place / "rootfs", symlinks=True))
        bundle.without("mount")
        bundle.linux.pop("maskedPaths")
        bundle.linux.pop("readonlyPaths")
        before = host_mounts()
        container = runtime.create(bundle.args("sleep", "100"))
        assert f" {place}/rootfs/proc " in host_mounts()
        assert runtime("start", container).code == 0
        pid = runtime.state(container)["pid"]
        assert os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
        assert os.readlink(f"/proc/{pid}/root") == f"{place}/rootfs"
        assert runtime("kill", container, "KILL").code == 0
        runtime.wait(container)
        assert runtime("delete", container).code == 0
        assert host_mounts() == before
        failed = runtime.run(bundle.args("/no/such/program", ""))
        assert failed.code == 1 and host_mounts() == before


def test_a_failed_create_leaves_what_the_root_is_mounted_from(runtime: Runtime, bundle: Bundle, host: Host,
                                                              tmp_path: Path) -> None:
    """An engine's overlay, on the root's own path: it was unmounted for want of a mount of the container's there."""
    place = tmp_path / "a place"
    with host_mount(place):
        shutil.copytree(bundle.rootfs, place, symlinks=True, dirs_exist_ok=True)
        bundle.config["root"]["path"] = str(place)
        bundle.without("mount").linux.update(maskedPaths=[], readonlyPaths=[])
        before = host_mounts()
        for kind, path in (("time", "/no/such/file"), ("time", None)):
            bundle.without("time").namespace(kind, path)
            container = runtime.new_id()
            created = runtime("create", "--bundle", bundle.args("sleep", "100").save(), container)
            assert created.code == (1 if path else 0), created
            assert (host_mounts() == before) == bool(path)
        assert runtime("delete", "--force", container).code == 0
        assert host_mounts() == before


def test_a_bundle_on_a_read_only_file_system(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """Nothing has to be written to the root where every mount point exists."""
    for name in ("dev", "proc", "sys"):
        (bundle.rootfs / name).mkdir(exist_ok=True)
    bundle.save()
    with host_mount(tmp_path / "place") as place:
        shutil.copytree(bundle.path, place / "bundle", symlinks=True)
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        result = runtime("run", "--bundle", place / "bundle", runtime.new_id())
    assert result.code == 0, result
