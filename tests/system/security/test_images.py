# SPDX-License-Identifier: Apache-2.0
"""Hostile images: links where the runtime mounts, makes or masks something."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import Attack, look, outside, replace
from support import Bundle, Host, Runtime
from terminals import Tty

#: Paths below the root resolved as if the image could be trusted.
NAIVE_PATHS = """
import os
from pyrunc import console, devices, paths, rootfs
def naive(root_fd, path, flags=os.O_PATH, *, follow=True):
    return os.open(f"/proc/self/fd/{root_fd}/{path}", flags | os.O_CLOEXEC)
for module in (console, devices, paths, rootfs):
    module.open_in_root = naive
def naive_file(root_fd, path, mode=0o755):
    os.close(os.open(f"/proc/self/fd/{root_fd}/{path}", os.O_CREAT | os.O_CLOEXEC, mode))
    return naive(root_fd, path)
for module in (console, paths, rootfs):
    module.make_file = naive_file
"""
#: The same, but only where the runtime makes nodes: /dev itself is mounted below the root.
NAIVE_NODES = """
import os
from pyrunc import devices
devices.make_directory = lambda root_fd, path: os.open(f"/proc/self/fd/{root_fd}/{path}", os.O_PATH | os.O_CLOEXEC)
"""
LINKS_FOLLOWED = """
from pyrunc.rootfs import RootFs
make = RootFs.make_target
RootFs.make_target = lambda self, target, **options: make(self, target, **{**options, "follow": True})
"""
ANYTHING_ON_PROC = """
from pyrunc import rootfs
rootfs._check_proc = lambda *_: None
"""
ANY_NULL = """
from pyrunc import devices, rootfs
devices.plan = lambda config: []
rootfs._null_tree = lambda root: rootfs.k.open_tree(root.open("dev/null"))
"""

#: Standard streams that are the null device are opened again by its name.
NULL_BY_NAME = """
import os
from pyrunc import devices
plan = devices.plan
devices.plan = lambda config: [node for node in plan(config) if node.path != "/dev/null"]
devices.own_null = lambda root: os.dup2(os.open(f"/proc/self/fd/{root.fd}/dev/null", os.O_RDWR), 0)
"""


def without_dev(bundle: Bundle) -> None:
    bundle.config["mounts"] = [mount for mount in bundle.config["mounts"]
                               if not mount["destination"].startswith("/dev")]


@pytest.mark.attack("CVE-2019-16884", "a volume on /proc takes the labels that the runtime writes there")
def test_cve_2019_16884_nothing_but_a_procfs_on_proc(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                     runc: Runtime, weakened: Callable[[str], Runtime],
                                                     tmp_path: Path) -> None:
    (tmp_path / "fake" / "self" / "attr").mkdir(parents=True)
    (tmp_path / "fake" / "self" / "attr" / "exec").write_text("fake")
    original = list(bundle.config["mounts"])

    def works(victim: Runtime, destination: str) -> bool:
        bundle.config["mounts"] = [mount for mount in original if mount["destination"] != "/proc"]
        bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
        bundle.mount(tmp_path / "fake", destination, options=["rbind"])
        return victim.run(bundle, "cat /proc/self/attr/exec").out == "fake"

    attack.on("pyrunc without the check of /proc", works(weakened(ANYTHING_ON_PROC), "/proc"))
    attack.on(runc, works(runc, "/proc"))
    attack.on(runtime, works(runtime, "/proc"))
    for destination in ("/proc", "/proc/self/attr", "/proc/self", "//proc/./sys", "/x/../proc"):
        bundle.config["mounts"] = list(original)
        bundle.mount(tmp_path / "fake", destination, options=["rbind"])
        assert runtime.run(bundle, "true").code == 1, destination
        bundle.config["mounts"][-1] = {"destination": destination, "type": "tmpfs", "source": "tmpfs"}
        assert runtime.run(bundle, "true").code == 1, destination
    bundle.config["mounts"] = list(original)
    bundle.mount("/proc/sys", "/proc", options=["rbind"])  # of procfs, but no /proc
    assert "only a procfs can be mounted on /proc" in runtime.run(bundle, "true").err
    bundle.config["mounts"] = list(original)
    replace(bundle, "link", "/proc/self")
    bundle.mount(tmp_path / "fake", "/link", options=["rbind"])
    refused = runtime.run(bundle, "true")
    assert refused.code == 1 and "leads into /proc" in refused.err
    bundle.config["mounts"] = original
    assert runtime.run(bundle, "true").code == 0  # the control


@pytest.mark.attack("CVE-2019-18837", "a link in the image leads what is made for a mount to the host")
@pytest.mark.parametrize("name", ["etc", "mnt"])
def test_cve_2019_18837_links_of_the_image_stay_in_it(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                      runc: Runtime, weakened: Callable[[str], Runtime],
                                                      tmp_path: Path, name: str) -> None:
    place, before = outside(tmp_path)
    if name == "etc":
        for path in (bundle.rootfs / "etc").iterdir():
            path.unlink()
    replace(bundle, name, place)
    bundle.mount("tmpfs", f"/{name}/target/new", type="tmpfs", options=[])
    script = f"grep -c target/new /proc/self/mountinfo; touch /{name}/target/new/x"
    result = runtime.run(bundle, script)
    assert result.lines == ["1"], result  # the mount is there, below the root
    attack.on(runtime, look(place) != before)
    runc.run(bundle, script)
    attack.on(runc, look(place) != before)
    weakened(NAIVE_PATHS).run(bundle, script)
    attack.on("pyrunc with naive paths", look(place) != before)


@pytest.mark.attack("CVE-2019-19921, CVE-2023-27561, CVE-2023-28642",
                    "/proc or /sys is a link, so that the file system lands where its masks don't apply")
@pytest.mark.parametrize("name", ["proc", "sys"])
def test_cve_2019_19921_proc_or_sys_is_a_link(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                              runc: Runtime, weakened: Callable[[str], Runtime], tmp_path: Path,
                                              name: str) -> None:
    place, before = outside(tmp_path)
    inside = "/tmp/self/stat" if name == "proc" else "/tmp/kernel"
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    bundle.config["mounts"] = [mount for mount in bundle.config["mounts"]
                               if not mount["destination"].startswith("/sys/")]

    def works(victim: Runtime) -> bool:
        replace(bundle, name, "/tmp")
        return victim.run(bundle, f"test -e {inside}").code == 0

    attack.on("pyrunc that follows links there", works(weakened(LINKS_FOLLOWED)))
    attack.on(runc, works(runc))
    attack.on(runtime, works(runtime))
    for target in (place / "target", "/tmp", "tmp", "../../../../tmp"):
        replace(bundle, name, target)
        result = runtime.run(bundle, "true")
        assert result.code == 1 and "a link in the image can't stand where" in result.err, (target, result)
    assert look(place) == before


@pytest.mark.attack("CVE-2025-24965", "a file that the runtime makes in the image is a link to one of the host's")
def test_cve_2025_24965_files_made_in_the_image(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                runc: Runtime, weakened: Callable[[str], Runtime],
                                                tmp_path: Path) -> None:
    place, before = outside(tmp_path)
    source = tmp_path / "source"
    source.write_text("bound")
    replace(bundle, "etc/resolv.conf", place / "resolv.conf")
    replace(bundle, "etc/hosts", f"../../../../../..{place}/target/hosts")
    replace(bundle, "work", place / "cwd")
    bundle.mount(source, "/etc/resolv.conf").mount(source, "/etc/hosts")
    bundle.process["cwd"] = "/work"
    result = runtime.run(bundle, "cat /etc/resolv.conf /etc/hosts")
    assert result.out == "bound" * 2, result
    attack.on(runtime, look(place) != before)
    runc.run(bundle)
    attack.on(runc, look(place) != before)
    weakened(NAIVE_PATHS).run(bundle)
    attack.on("pyrunc with naive paths", look(place) != before)


@pytest.mark.attack("CVE-2025-31133", "/dev/null is a link, so that a mask shows what it leads to, writable")
def test_cve_2025_31133_the_mask_is_the_null_device(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                    runc: Runtime, weakened: Callable[[str], Runtime]) -> None:
    """The link leads to a sysctl of the container's own: a runtime that falls for it must not harm the host."""
    before = Path("/proc/sys/kernel/domainname").read_text()
    without_dev(bundle)
    (bundle.rootfs / "etc" / "secret").write_text("secret")
    bundle.linux["maskedPaths"] = ["/etc/secret"]
    bundle.linux["readonlyPaths"] = []
    # Not on stdout: runc 1.1.5 takes that for its /dev/null, and sends it the same way.
    script = "echo reached >/etc/secret; cat /proc/sys/kernel/domainname >/result"

    def works(victim: Runtime) -> bool:
        replace(bundle, "dev/null", "/proc/sys/kernel/domainname")
        (bundle.rootfs / "result").write_text("")
        victim.run(bundle, script)
        return (bundle.rootfs / "result").read_text() == "reached\n"

    attack.on("pyrunc without the checks of devices", works(weakened(ANY_NULL)))
    attack.on(runc, works(runc))
    attack.on(runtime, works(runtime))
    for target in ("/proc/sys/kernel/domainname", "/etc/passwd", "zero"):
        replace(bundle, "dev/null", target)
        result = runtime.run(bundle, "cat /etc/secret; echo x >/etc/secret")
        assert result.code == 1 and result.out == "", (target, result)
    (bundle.rootfs / "dev" / "null").unlink()
    (bundle.rootfs / "dev" / "null").write_text("a file")
    assert runtime.run(bundle, "cat /etc/secret").code == 1
    (bundle.rootfs / "dev" / "null").unlink()
    assert runtime.run(bundle, "cat /etc/secret").out == ""  # the control: made by the runtime
    assert Path("/proc/sys/kernel/domainname").read_text() == before


@pytest.mark.attack("CVE-2026-41579, CVE-2026-47766", "/dev is a link, so that nodes and links are made on the host")
@pytest.mark.parametrize("mounted", [True, False], ids=["dev-mounted", "no-dev-mount"])
def test_cve_2026_41579_dev_is_a_link(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack, runc: Runtime,
                                      weakened: Callable[[str], Runtime], tmp_path: Path, mounted: bool) -> None:
    """Device nodes, the links in /dev and the removal of ptmx stay in the image."""
    place, before = outside(tmp_path)
    if not mounted:
        without_dev(bundle)
    script = "echo x >/dev/null && readlink /dev/ptmx; test -c /dev/zero && echo zero"
    for target in (str(place), f"../../../../../../..{place}"):
        replace(bundle, "dev", target)
        result = runtime.run(bundle, script)
        assert result.lines == ["pts/ptmx", "zero"], result
        attack.on(runtime, look(place) != before)
    runc.run(bundle, script)
    attack.on(runc, look(place) != before)
    before = look(place)
    weakened(NAIVE_NODES).run(bundle, script)
    attack.on("pyrunc with naive paths", look(place) != before)


@pytest.mark.attack("CVE-2026-88264", "/dev/console is a link, so that a file is made on the host for a terminal")
def test_cve_2026_88264_the_console_is_a_link(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                              runc: Runtime, weakened: Callable[[str], Runtime],
                                              tmp_path: Path) -> None:
    place, before = outside(tmp_path)
    without_dev(bundle)
    bundle.mount("devpts", "/dev/pts", type="devpts", options=["newinstance", "ptmxmode=0666", "mode=0620"])
    bundle.process["terminal"] = True
    bundle.args("test -t 0 && echo terminal")

    def works(victim: Runtime) -> bool:
        replace(bundle, "dev/console", place / "made")
        tty = Tty(victim.command("run", "--bundle", bundle.save(), victim.new_id()))
        try:
            code = tty.wait()
        finally:
            tty.close()
        assert victim is not runtime or (code == 0 and b"terminal" in tty.seen), tty.seen
        return look(place) != before

    attack.on(runtime, works(runtime))
    attack.on(runc, works(runc))
    (place / "made").unlink(missing_ok=True)
    attack.on("pyrunc with naive paths", works(weakened(NAIVE_PATHS)))


@pytest.mark.attack("CVE-2026-88265", "/dev/null is a link to a file of the host's, which becomes a standard stream")
def test_cve_2026_88265_streams_that_were_null(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                               runc: Runtime, weakened: Callable[[str], Runtime],
                                               tmp_path: Path) -> None:
    """The file is mounted, and given to be read; its owner would change as well."""
    file = tmp_path / "file"
    without_dev(bundle)
    bundle.linux["maskedPaths"] = []
    bundle.mount(file, "/file", options=["bind", "ro"])
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.args("echo reached >&0")

    def works(victim: Runtime) -> bool:
        file.write_text("of the host")
        before = file.stat()
        replace(bundle, "dev/null", "../file")
        container = victim.new_id()
        with open("/dev/null", "r+b") as null:
            done = subprocess.run(victim.command("run", "--bundle", bundle.save(), container), stdin=null,
                                  capture_output=True, timeout=60)
        assert victim is not runtime or b"/dev/null exists in the rootfs and is not that device" in done.stderr, done
        after = file.stat()
        return file.read_text() != "of the host" or (before.st_uid, before.st_gid) != (after.st_uid, after.st_gid)

    attack.on(runtime, works(runtime))
    attack.on(runc, works(runc))
    bundle.config["mounts"][-1]["options"] = ["bind"]
    attack.on("pyrunc that opens it by its name", works(weakened(NULL_BY_NAME)))
