# SPDX-License-Identifier: Apache-2.0
"""Propagation of a mount (config.md, Linux mount options) and of the root (config-linux.md, rootfsPropagation)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mountinfo import host_mount, mount_at, mounts, of_process
from support import Bundle, Host, Runtime, wait_for


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)


def mount_inside(pid: int, *words: str | Path) -> None:
    """Mount in the container's mount namespace, with the host's capabilities and the container's busybox."""
    subprocess.run(["nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--wd=/proc/{pid}/root", "--",
                    "/bin/busybox", "mount", *words], check=True)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A shared mount of the host, with another on its `sub`."""
    with host_mount(tmp_path / "shared") as path:
        mount("--make-shared", path)
        (path / "new").mkdir()
        with host_mount(path / "sub"):
            (path / "sub" / "new").mkdir()
            yield path


# option -> (shared, master, unbindable) as the top's mountinfo shows them
KINDS = {
    "private": (False, False, False),
    "slave": (False, True, False),
    "shared": (True, True, False),
    "unbindable": (False, False, True),
}
DEFAULT = KINDS["slave"]  # the mount namespace is a slave of the host's


def kinds(text: str, point: str) -> tuple[bool, ...]:
    found = mount_at(text, point)
    return tuple(found.propagates(kind) for kind in ("shared", "master", "unbindable"))


@pytest.mark.parametrize("option", KINDS)
def test_option_of_a_bind(runtime: Runtime, bundle: Bundle, host: Host, shared: Path, option: str) -> None:
    """The plain form changes the top alone, the r-form the tree."""
    bundle.mount(shared, "/default", options=["rbind"])
    bundle.mount(shared, "/plain", options=["rbind", option]).mount(shared, "/tree", options=["rbind", f"r{option}"])
    seen = of_process(runtime.state(runtime.create(bundle))["pid"])
    assert kinds(seen, "/default") == kinds(seen, "/default/sub") == DEFAULT
    assert kinds(seen, "/plain") == kinds(seen, "/tree") == kinds(seen, "/tree/sub") == KINDS[option]
    assert kinds(seen, "/plain/sub") == DEFAULT
    runtime.clean_up()


def test_a_slave_sees_what_the_host_mounts_later(runtime: Runtime, bundle: Bundle, host: Host, shared: Path) -> None:
    bundle.mount(shared, "/slave", options=["rbind", "rslave"]).mount(shared, "/private", options=["rbind", "rprivate"])
    pid = runtime.state(runtime.create(bundle))["pid"]
    mount("-t", "tmpfs", "later", shared / "new")
    seen = [found.point for found in mounts(of_process(pid)) if found.source == "later"]
    assert seen == ["/slave/new"]
    mount_inside(pid, "-t", "tmpfs", "own", "slave/sub")
    assert " - tmpfs own " in of_process(pid)
    assert " - tmpfs own " not in Path("/proc/self/mountinfo").read_text()
    runtime.clean_up()


@pytest.mark.parametrize("propagation", ["rshared", "shared"])
def test_a_shared_mount_reaches_the_host(runtime: Runtime, bundle: Bundle, host: Host, shared: Path,
                                         propagation: str) -> None:
    """With a shared root, an rshared bind of a shared mount works both ways (what orchestrators call bidirectional)."""
    bundle.linux["rootfsPropagation"] = propagation
    bundle.mount(shared, "/both", options=["rbind", "rshared"]).mount(shared, "/one", options=["rbind", "rslave"])
    pid = runtime.state(runtime.create(bundle))["pid"]
    mount_inside(pid, "-t", "tmpfs", "from-inside", "both/new")
    assert mount_at(Path("/proc/self/mountinfo").read_text(), str(shared / "new")).source == "from-inside"
    mount_inside(pid, "-t", "tmpfs", "kept-inside", "tmp")
    mount_inside(pid, "-t", "tmpfs", "slaved", "one/sub")
    now = Path("/proc/self/mountinfo").read_text()
    assert "kept-inside" not in now and "slaved" not in now
    runtime.clean_up()


def test_a_user_namespace_gives_nothing_to_the_host(runtime: Runtime, bundle: Bundle, host: Host, shared: Path) -> None:
    """mount_namespaces(7): what a less privileged mount namespace has are slaves, whatever it asks for."""
    bundle.namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 4096}]
    bundle.linux["rootfsPropagation"] = "rshared"
    bundle.mount(shared, "/both", options=["rbind", "rshared"])
    pid = runtime.state(runtime.create(bundle))["pid"]
    assert mount_at(of_process(pid), "/both").propagates("master")
    mount_inside(pid, "-t", "tmpfs", "from-inside", "both/new")
    assert "from-inside" not in Path("/proc/self/mountinfo").read_text()
    runtime.clean_up()


ROOTS = {
    "": DEFAULT,
    "private": (False, False, False),
    "rprivate": (False, False, False),
    "slave": DEFAULT,
    "rslave": DEFAULT,
    "shared": (True, None, False),
    "rshared": (True, None, False),
    "unbindable": (False, False, True),
    "runbindable": (False, False, True),
}


@pytest.mark.parametrize("propagation", ROOTS)
def test_propagation_of_the_root(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                 propagation: str) -> None:
    """config-linux.md: the root's, with the host's root file system shared; the r-forms reach the mounts below."""
    if propagation:
        bundle.linux["rootfsPropagation"] = propagation
    bundle.mount("tmpfs", "/m", type="tmpfs", options=[])
    with host_mount(tmp_path / "host") as path:
        mount("--make-shared", path)
        bundle.config["root"]["path"] = str(copy_of(bundle.rootfs, path / "rootfs"))
        pid = runtime.state(runtime.create(bundle))["pid"]
        seen = of_process(pid)
        wanted = ROOTS[propagation]
        found = kinds(seen, "/")
        assert all(want is None or want == have for want, have in zip(wanted, found, strict=True)), found
        below = mount_at(seen, "/m")
        assert below.propagates("shared") == (propagation == "rshared")
        assert below.propagates("unbindable") == (propagation == "runbindable")
        # What the host mounts below the root later is seen by a slave only.
        mount("-t", "tmpfs", "later", path / "rootfs" / "mnt")
        assert (" - tmpfs later " in of_process(pid)) == wanted[1] if wanted[1] is not None else True
        subprocess.run(["umount", path / "rootfs" / "mnt"], check=True)
        # What the container mounts never gets out.
        mount_inside(pid, "-t", "tmpfs", "own", "mnt")
        assert " - tmpfs own " in of_process(pid)
        assert " - tmpfs own " not in Path("/proc/self/mountinfo").read_text()
        runtime.clean_up()


def copy_of(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


def test_unbindable_cannot_be_bound(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """mount(2), MS_UNBINDABLE; beside it a private root that can."""
    for propagation, works in (("unbindable", False), ("private", True)):
        bundle.linux["rootfsPropagation"] = propagation
        pid = runtime.state(runtime.create(bundle))["pid"]
        if works:
            mount_inside(pid, "--bind", "etc", "mnt")
        else:
            with pytest.raises(subprocess.CalledProcessError):
                mount_inside(pid, "--bind", "etc", "mnt")


def test_a_shared_root_is_a_group_of_its_own(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """config-linux.md, shared: mounts of nested containers belong to the peer group, none to the host's."""
    bundle.linux["rootfsPropagation"] = "shared"
    pid = runtime.state(runtime.create(bundle))["pid"]
    busybox = "/bin/busybox"
    nested = subprocess.Popen(["nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--wd=/proc/{pid}/root", "--", busybox,
                               "unshare", "-m", "--propagation", "shared", busybox, "sleep", "100"])
    try:
        own = os.readlink("/proc/self/ns/mnt"), os.readlink(f"/proc/{pid}/ns/mnt")
        wait_for(lambda: os.readlink(f"/proc/{nested.pid}/ns/mnt") not in own, "the nested mount namespace")
        mount_inside(nested.pid, "-t", "tmpfs", "nested", "mnt")
        assert mount_at(of_process(pid), "/mnt").source == "nested"
        assert mount_at(of_process(pid), "/mnt").propagates("shared")
        assert " - tmpfs nested " not in Path("/proc/self/mountinfo").read_text()
    finally:
        nested.kill()
        nested.wait()
