# SPDX-License-Identifier: Apache-2.0
"""config.md, Mounts and Linux mount options: each option seen in mountinfo, or by what it does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mountinfo import host_mount, host_tree, mount_at, of_process
from support import Bundle, Host, Runtime

# option -> (flags mountinfo shows, flags it doesn't)
SETTING = {
    "ro": ({"ro"}, {"rw"}),
    "rw": ({"rw"}, {"ro"}),
    "nosuid": ({"nosuid"}, set()),
    "nodev": ({"nodev"}, set()),
    "noexec": ({"noexec"}, set()),
    "noatime": ({"noatime"}, {"relatime"}),
    "nodiratime": ({"nodiratime"}, set()),
    "relatime": ({"relatime"}, {"noatime"}),
    "strictatime": (set(), {"relatime", "noatime"}),
    "norelatime": (set(), {"noatime"}),  # as mount(8): the kernel's default, relatime
    "nostrictatime": ({"relatime"}, {"noatime"}),
    "atime": (set(), {"noatime"}),
    "nosymfollow": ({"nosymfollow"}, set()),
}
LOCKED = ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow")
CLEARING = {
    "rw": ({"rw"}, {"ro"}),
    "suid": (set(), {"nosuid"}),
    "dev": (set(), {"nodev"}),
    "exec": (set(), {"noexec"}),
    "atime": (set(), {"noatime"}),
    "relatime": ({"relatime"}, {"noatime"}),
    "strictatime": (set(), {"noatime", "relatime"}),
    "diratime": (set(), {"nodiratime"}),
    "symfollow": (set(), {"nosymfollow"}),
}
# Of the access-time modes mountinfo shows nothing for the strict one.
ATIME = {"noatime", "relatime"}


def inside(runtime: Runtime, bundle: Bundle) -> str:
    """The mountinfo that the container's program sees."""
    result = runtime.run(bundle, "cat /proc/self/mountinfo")
    assert result.code == 0, result
    return result.out


def test_options_of_a_file_system(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Each option on a tmpfs of its own; beside it one without options."""
    bundle.mount("tmpfs", "/plain", type="tmpfs", options=[])
    for option in SETTING:
        bundle.mount("tmpfs", f"/with-{option}", type="tmpfs", options=[option])
    seen = inside(runtime, bundle)
    plain = mount_at(seen, "/plain").options
    assert plain == {"rw", "relatime"}
    for option, (there, absent) in SETTING.items():
        found = mount_at(seen, f"/with-{option}").options
        assert there <= found and not absent & found, (option, found)
        if option not in ("rw", "relatime", "norelatime", "nostrictatime", "atime"):
            assert found != plain, option


def test_options_of_a_bind(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """The kernel ignores a bind's flags: they need a second step, and keep the others of the source."""
    with host_mount(tmp_path / "source", "nodiratime"):
        for option in SETTING:
            bundle.mount(tmp_path / "source", f"/with-{option}", options=["bind", option])
        seen = inside(runtime, bundle)
    for option, (there, absent) in SETTING.items():
        found = mount_at(seen, f"/with-{option}").options
        assert there <= found and not absent & found, (option, found)
        assert "nodiratime" in found, option


def test_options_that_clear_flags_of_the_source(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    with host_tree(tmp_path / "source", *LOCKED) as source:
        bundle.mount(source, "/plain", options=["bind"])
        for option in CLEARING:
            bundle.mount(source, f"/with-{option}", options=["bind", option])
        seen = inside(runtime, bundle)
    assert set(LOCKED) <= mount_at(seen, "/plain").options
    for option, (there, absent) in CLEARING.items():
        found = mount_at(seen, f"/with-{option}").options
        assert there <= found and not absent & found, (option, found)
        kept = set(LOCKED) - absent - (ATIME if "atime" in option else set())
        assert kept <= found, (option, found)


@pytest.mark.parametrize("source", ["", ",".join(LOCKED)], ids=["setting", "clearing"])
def test_recursive_options_reach_submounts(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                           source: str) -> None:
    """Recursive `ro` and so on (mount_setattr(2) with AT_RECURSIVE); the plain form reaches only the top."""
    table = CLEARING if source else SETTING
    with host_tree(tmp_path / "source", *source.split(",") if source else ()) as tree:
        for option in table:
            bundle.mount(tree, f"/r-{option}", options=["rbind", f"r{option}"])
            bundle.mount(tree, f"/plain-{option}", options=["rbind", option])
        seen = inside(runtime, bundle)
        below = mount_at(Path("/proc/self/mountinfo").read_text(), str(tree / "sub")).options
    for option, (there, absent) in table.items():
        for point in (f"/r-{option}", f"/r-{option}/sub", f"/plain-{option}"):
            found = mount_at(seen, point).options
            assert there <= found and not absent & found, (point, found)
        assert mount_at(seen, f"/plain-{option}/sub").options == below


def test_recursive_readonly_is_so(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """What mountinfo says is what happens."""
    with host_tree(tmp_path / "source") as tree:
        bundle.mount(tree, "/rro", options=["rbind", "rro"]).mount(tree, "/ro", options=["rbind", "ro"])
        result = runtime.run(bundle, "for d in rro ro; do touch /$d/a; touch /$d/sub/a; done")
    assert result.errors == [f"touch: /{path}/a: Read-only file system" for path in ("rro", "rro/sub", "ro")]


@pytest.mark.parametrize("option", ["sync", "dirsync", "lazytime"])
def test_options_of_the_superblock(runtime: Runtime, bundle: Bundle, host: Host, option: str) -> None:
    bundle.mount("tmpfs", "/m", type="tmpfs", options=[option]).mount("tmpfs", "/plain", type="tmpfs", options=[])
    seen = inside(runtime, bundle)
    assert option in mount_at(seen, "/m").data
    assert option not in mount_at(seen, "/plain").data


@pytest.mark.parametrize("option", ["async", "nolazytime", "defaults", "loud", "silent", "mand", "nomand", "iversion",
                                    "noiversion"])
def test_options_that_change_nothing_to_be_seen(runtime: Runtime, bundle: Bundle, host: Host, option: str) -> None:
    bundle.mount("tmpfs", "/m", type="tmpfs", options=[option]).mount("tmpfs", "/plain", type="tmpfs", options=[])
    seen = inside(runtime, bundle)
    assert mount_at(seen, "/m").options == mount_at(seen, "/plain").options
    # Linux before 5.15 still shows mand.
    assert mount_at(seen, "/m").data - {"mand"} == mount_at(seen, "/plain").data


def test_unknown_options_go_to_the_file_system(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config.md: unknown options are passed as the file system's own; it refuses what it doesn't know."""
    bundle.mount("tmpfs", "/m", type="tmpfs", options=["size=64k", "nr_inodes=77"])
    assert {"size=64k", "nr_inodes=77"} <= mount_at(inside(runtime, bundle), "/m").data
    bundle.config["mounts"][-1]["options"] = ["no-such-option=1"]
    refused = runtime.run(bundle, "true")
    assert refused.code == 1
    if runtime.name == "pyrunc":
        assert "/mounts/7" in refused.err and "no-such-option" in refused.err


@pytest.mark.parametrize(("first", "second", "flag"), [("ro", "rw", "rw"), ("rw", "ro", "ro")])
def test_the_last_of_two_options_wins(runtime: Runtime, bundle: Bundle, host: Host, first: str, second: str,
                                      flag: str) -> None:
    bundle.mount("tmpfs", "/m", type="tmpfs", options=[first, second])
    assert flag in mount_at(inside(runtime, bundle), "/m").options


def test_bind_takes_the_top_and_rbind_the_tree(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    with host_tree(tmp_path / "source") as tree:
        bundle.mount(tree, "/bind", options=["bind"]).mount(tree, "/rbind", options=["rbind"])
        bundle.mount(tree, "/by-type", type="bind", options=["rbind"])
        result = runtime.run(bundle, "for d in bind rbind by-type; do cat /$d/file /$d/sub/file; done")
    assert result.lines == ["top", "top", "below", "top", "below"]
    assert result.errors == ["cat: can't open '/bind/sub/file': No such file or directory"]


def test_bind_of_a_file_and_targets_that_are_made(runtime: Runtime, bundle: Bundle, host: Host,
                                                  tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("a file\n")
    bundle.mount(source, "/new/dir/file").mount(source, "/etc/passwd").mount(tmp_path, "/new/other")
    result = runtime.run(bundle, "cat /new/dir/file /etc/passwd /new/other/source; stat -c %F /new/dir/file /new/other")
    assert result.lines == ["a file"] * 3 + ["regular file", "directory"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_bind_of_one_kind_on_the_other_is_an_error(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                                   kind: str) -> None:
    source = tmp_path / "source"
    if kind == "file":
        source.write_text("")
    else:
        source.mkdir()
    bundle.mount(source, "/etc" if kind == "file" else "/etc/passwd")
    result = runtime.run(bundle, "true")
    assert result.code == 1
    if runtime.name == "pyrunc":
        assert "/mounts/7" in result.err and f"the source is a {kind}" in result.err


def test_relative_source_and_destination(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config.md: a source is relative to the bundle, a destination to "/"."""
    (bundle.path / "data").mkdir()
    (bundle.path / "data" / "file").write_text("found\n")
    bundle.mount("data", "some/../where")
    assert runtime.run(bundle, "cat /where/file").lines == ["found"]


def test_mounts_are_made_in_the_listed_order(runtime: Runtime, make_bundle: Callable[[str], Bundle], host: Host,
                                             tmp_path: Path) -> None:
    (tmp_path / "file").write_text("below\n")
    over, under = make_bundle("over"), make_bundle("under")
    over.mount("tmpfs", "/m", type="tmpfs", options=[]).mount(tmp_path / "file", "/m/file")
    under.mount(tmp_path / "file", "/m/file").mount("tmpfs", "/m", type="tmpfs", options=[])
    assert runtime.run(over, "ls /m").lines == ["file"]
    assert runtime.run(under, "ls /m").lines == []


def test_read_only_tmpfs_with_mounts_below(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """The mount points below are made before it becomes read-only."""
    (tmp_path / "file").write_text("below\n")
    bundle.mount("tmpfs", "/m", type="tmpfs", options=["ro"]).mount(tmp_path / "file", "/m/a/file")
    result = runtime.run(bundle, "cat /m/a/file; touch /m/b")
    assert result.lines == ["below"]
    assert result.errors == ["touch: /m/b: Read-only file system"]


def test_tmpfs_has_the_mode_of_the_directory_below(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    for name, mode in (("sticky", 0o1777), ("own", 0o700), ("given", 0o700)):
        (bundle.rootfs / name).mkdir()
        (bundle.rootfs / name).chmod(mode)
        bundle.mount("tmpfs", f"/{name}", type="tmpfs", options=["mode=751"] if name == "given" else [])
    assert runtime.run(bundle, "stat -c %a /sticky /own /given").lines == ["1777", "700", "751"]


def test_tmpcopyup(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """tmpcopyup: contents, modes, owners, links, times and extended attributes; the image stays as it is."""
    data = bundle.rootfs / "data"
    (data / "dir").mkdir(parents=True)
    (data / "dir").chmod(0o1773)
    (data / "dir" / "file").write_text("x" * 100_000)
    (data / "dir" / "file").chmod(0o4750)
    os.chown(data / "dir", 12, 34)
    os.setxattr(data / "dir" / "file", "user.note", b"kept")
    os.utime(data / "dir" / "file", ns=(10**18, 10**18))
    (data / "link").symlink_to("/nowhere")
    os.mkfifo(data / "fifo")
    os.mknod(data / "null", 0o020644, os.makedev(1, 3))
    bundle.mount("tmpfs", "/data", type="tmpfs", options=["tmpcopyup"])
    bundle.mount("tmpfs", "/data/dir/empty", type="tmpfs", options=[])
    pid = runtime.state(runtime.create(bundle))["pid"]
    copy = Path(f"/proc/{pid}/root/data")
    assert mount_at(of_process(pid), "/data").fstype == "tmpfs"
    for name in ("dir", "dir/file", "link", "fifo", "null"):
        there, here = os.lstat(copy / name), os.lstat(data / name)
        assert (there.st_mode, there.st_uid, there.st_gid) == (here.st_mode, here.st_uid, here.st_gid), name
        assert there.st_rdev == here.st_rdev and there.st_dev != here.st_dev
    assert (copy / "dir" / "file").read_text() == "x" * 100_000
    assert os.lstat(copy / "dir" / "file").st_mtime_ns == 10**18
    assert os.readlink(copy / "link") == "/nowhere"
    if runtime.name == "pyrunc":
        assert os.getxattr(copy / "dir" / "file", "user.note") == b"kept"
    (copy / "dir" / "file").write_text("changed")
    assert (data / "dir" / "file").read_text() == "x" * 100_000
    assert not (data / "dir" / "empty").exists()


def test_remount(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """`remount` changes a mount made by an earlier entry, a bind as well as a file system, and only that."""
    (tmp_path / "file").write_text("")
    bundle.mount("tmpfs", "/m", type="tmpfs", options=["size=64k"])
    bundle.mount("tmpfs", "/m", type="tmpfs", options=["remount", "size=128k", "nosuid"])
    bundle.mount(tmp_path, "/b").mount(tmp_path, "/b", options=["remount", "bind", "ro"])
    bundle.mount(tmp_path / "file", "/f").mount(tmp_path / "file", "/f", options=["remount", "bind", "ro", "noexec"])
    seen = inside(runtime, bundle)
    assert "size=128k" in mount_at(seen, "/m").data and "nosuid" in mount_at(seen, "/m").options
    assert "ro" in mount_at(seen, "/b").options
    assert {"ro", "noexec"} <= mount_at(seen, "/f").options
    assert seen.count(" /m ") == seen.count(" /b ") == seen.count(" /f ") == 1
    assert "rw" in mount_at(seen, "/").options
    assert "ro" not in mount_at(Path("/proc/self/mountinfo").read_text(), "/").options


def test_remount_of_the_superblock_below_a_file(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """A remount whose destination is a file reaches that file's file system, not the root's."""
    with host_mount(tmp_path / "source", "size=64k"):
        (tmp_path / "source" / "file").write_text("")
        bundle.mount(tmp_path / "source" / "file", "/f")
        bundle.mount("tmpfs", "/f", type="tmpfs", options=["remount", "size=128k"])
        assert "size=128k" in mount_at(inside(runtime, bundle), "/f").data


@pytest.mark.parametrize("count", [2, 60], ids=["short", "long"])
def test_overlay(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path, count: int) -> None:
    """fsconfig(2) takes 255 bytes a value; layers make more, as mount(2) allows."""
    with host_mount(tmp_path / "o"):  # an overlay's upper layer can't be on every file system
        layers = [tmp_path / "o" / f"layer-{number}" for number in range(count)]
        for number, path in enumerate((*layers, tmp_path / "o" / "upper", tmp_path / "o" / "work")):
            path.mkdir()
            (path / f"file-{number}").write_text("")
        lower = "lowerdir=" + ":".join(map(str, layers))
        assert (len(lower) > 255) == (count > 2 or len(str(tmp_path)) > 110)
        bundle.mount("overlay", "/m", type="overlay",
                     options=["nosuid", lower, f"upperdir={tmp_path}/o/upper", f"workdir={tmp_path}/o/work"])
        result = runtime.run(bundle, "touch /m/new; ls /m; grep ' /m ' /proc/self/mountinfo >&2")
        assert result.lines == sorted([*(f"file-{number}" for number in range(count + 1)), "new"])
        assert "nosuid" in mount_at(result.err, "/m").options
        assert (tmp_path / "o" / "upper" / "new").exists()


def test_default_file_systems(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config-linux.md, Default Filesystems."""
    seen = inside(runtime, bundle)
    assert [mount_at(seen, point).fstype for point in ("/proc", "/sys", "/dev/pts", "/dev/shm", "/dev/mqueue")] == [
        "proc", "sysfs", "devpts", "tmpfs", "mqueue"]


@pytest.mark.parametrize("what", [{"type": "no-such-fs"}, {"type": "bind", "options": ["bind"], "source": "/nowhere"}])
def test_what_cannot_be_mounted_is_named(runtime: Runtime, bundle: Bundle, host: Host, what: dict[str, object]) -> None:
    bundle.config["mounts"].append({"destination": "/m", "source": "x", **what})
    result = runtime.run(bundle, "true")
    assert result.code == 1
    assert str(what.get("source", what["type"])) in result.err
    if runtime.name == "pyrunc":
        assert "/mounts/7" in result.err


def test_nothing_is_left_below_the_rootfs(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Mounts end with the container; the mount points it made in the image stay."""
    bundle.mount("tmpfs", "/new", type="tmpfs", options=[])
    assert runtime.run(bundle, "touch /new/file").code == 0
    assert os.listdir(bundle.rootfs / "new") == []
    assert subprocess.run(["grep", "-c", str(bundle.path), "/proc/self/mountinfo"], capture_output=True,
                          text=True).stdout == "0\n"


def test_a_bind_mount_has_no_options_of_a_file_system(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """mount(2) ignores them, and so do runc 1.1 and crun; a later runc refuses them.  They are told."""
    source = bundle.path / "source"
    source.mkdir()
    bundle.config["mounts"].append({"destination": "/mnt", "type": "bind", "source": str(source),
                                    "options": ["bind", "ro", "size=1m", "whatever"]})
    result = runtime.run(bundle, "grep ' /mnt ' /proc/self/mountinfo")
    pointer = f"/mounts/{len(bundle.config['mounts']) - 1}/options"
    assert result.code == 0 and " ro," in result.out, result
    assert [line for line in result.errors if pointer in line and "size=1m,whatever" in line], result
    bundle.config["mounts"][-1]["options"] = ["bind", "ro", "nosuid", "rprivate"]
    assert runtime.run(bundle, "true").err == ""
