# SPDX-License-Identifier: Apache-2.0
"""config.md, Mounts: idmap, ridmap, uidMappings and gidMappings give the files of a mount other owners inside."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PYRUNC, Bundle, Host, Runtime

HOST = 100000  # root of the user namespace, on the host
USERNS = [{"containerID": 0, "hostID": HOST, "size": 65536}]
SHOW = "stat -c '%n %u:%g' /m/zero /m/five"


def mapping(inside: int, outside: int, size: int = 10) -> list[dict[str, int]]:
    return [{"containerID": inside, "hostID": outside, "size": size}]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs, which can have its ids mapped, with files of root and of uid 5, gid 6; and a tmpfs below it."""
    path = tmp_path / "source"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "source", path], check=True)
    try:
        (path / "below").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "below", path / "below"], check=True)
        for directory in (path, path / "below"):
            (directory / "zero").touch()
            (directory / "five").touch()
            os.chown(directory / "five", 5, 6)
        yield path
    finally:
        subprocess.run(["umount", "-R", path], check=True)


def mounted(bundle: Bundle, source: Path, *options: str, **members: Any) -> Bundle:
    bundle.mount(source, "/m", options=options)
    bundle.config["mounts"][-1].update(members)
    return bundle


def in_user_namespace(bundle: Bundle) -> Bundle:
    for path in (bundle.rootfs, *bundle.rootfs.rglob("*")):
        os.chown(path, HOST, HOST, follow_symlinks=False)
    for path in (bundle.path, *bundle.path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o111)
    bundle.namespace("user").namespace("cgroup")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = USERNS
    return bundle


def test_mappings_of_the_mount_without_a_user_namespace(runtime: Runtime, bundle: Bundle, host: Host,
                                                        source: Path) -> None:
    """containerID is the id on disk, hostID the one seen; both ways."""
    bundle.process["user"] = {"uid": 1003, "gid": 2004}
    script = f"{SHOW}; touch /m/made; stat -c %u:%g /m/made"
    mounted(bundle, source, "rbind", "idmap", uidMappings=mapping(0, 1000), gidMappings=mapping(0, 2000))
    assert runtime.run(bundle, script).lines == ["/m/zero 1000:2000", "/m/five 1005:2006", "1003:2004"]
    assert ((source / "made").stat().st_uid, (source / "made").stat().st_gid) == (3, 4)
    # The control: the same mount without.
    (source / "made").unlink()
    bundle.config["mounts"][-1] = {"source": str(source), "destination": "/m", "options": ["rbind"]}
    assert runtime.run(bundle, script).lines == ["/m/zero 0:0", "/m/five 5:6", "1003:2004"]


def test_mappings_imply_the_option(runtime: Runtime, bundle: Bundle, host: Host, source: Path) -> None:
    """config.md: the option SHOULD be there, so that older runtimes fail; the mapping holds without it."""
    mounted(bundle, source, "bind", uidMappings=mapping(0, 1000), gidMappings=mapping(0, 2000))
    assert runtime.run(bundle, SHOW).lines == ["/m/zero 1000:2000", "/m/five 1005:2006"]


def test_ids_that_are_not_mapped(runtime: Runtime, bundle: Bundle, host: Host, source: Path) -> None:
    """They are nobody's, and nobody without a mapping can own a file there (EOVERFLOW)."""
    mounted(bundle, source, "bind", "idmap", uidMappings=mapping(5, 1000, 1), gidMappings=mapping(6, 2000, 1))
    result = runtime.run(bundle, f"{SHOW}; touch /m/made")
    assert result.lines == ["/m/zero 65534:65534", "/m/five 1000:2000"]
    assert result.errors == ["touch: /m/made: Value too large for defined data type"]


def test_the_container_s_mapping_is_implied(runtime: Runtime, bundle: Bundle, host: Host, source: Path) -> None:
    """config.md, idmap: without mappings of its own, those of the container: on disk as inside."""
    mounted(in_user_namespace(bundle), source, "bind", "idmap")
    result = runtime.run(bundle, f"{SHOW}; touch /m/made; stat -c %u:%g /m/made")
    assert result.lines == ["/m/zero 0:0", "/m/five 5:6", "0:0"], result
    assert (source / "made").stat().st_uid == 0
    bundle.config["mounts"][-1]["options"] = ["bind"]  # the control: strangers' files
    assert runtime.run(bundle, SHOW).lines == ["/m/zero 65534:65534", "/m/five 65534:65534"]


def test_explicit_mappings_in_a_user_namespace(runtime: Runtime, bundle: Bundle, host: Host, source: Path) -> None:
    """They count from the host, not from the container: hostID is the host's."""
    mounted(in_user_namespace(bundle), source, "bind", "idmap", uidMappings=mapping(0, HOST + 1000),
            gidMappings=mapping(0, HOST + 2000))
    assert runtime.run(bundle, SHOW).lines == ["/m/zero 1000:2000", "/m/five 1005:2006"]


def test_the_mapping_of_a_joined_user_namespace(runtime: Runtime, bundle: Bundle, host: Host, source: Path) -> None:
    """The configuration doesn't tell its ids; the namespace does."""
    in_user_namespace(bundle)
    del bundle.linux["uidMappings"], bundle.linux["gidMappings"]
    holder = subprocess.Popen(["unshare", "-U", "sleep", "1000"])
    try:
        ready = subprocess.run(["sh", "-c", f"until [ $(readlink /proc/{holder.pid}/ns/user) != "
                                            "$(readlink /proc/self/ns/user) ]; do sleep 0.05; done"], timeout=20)
        assert ready.returncode == 0
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{name}").write_text(f"0 {HOST} 65536\n")
        bundle.namespace("user", f"/proc/{holder.pid}/ns/user")
        mounted(bundle, source, "bind", "idmap")
        result = runtime.run(bundle, f"{SHOW}; cat /proc/self/uid_map")
    finally:
        holder.kill()
        holder.wait()
    assert [line.split() for line in result.lines] == [["/m/zero", "0:0"], ["/m/five", "5:6"],
                                                       ["0", str(HOST), "65536"]], result


@pytest.mark.parametrize(("option", "below"), [("idmap", "0:0"), ("ridmap", "1000:2000")])
def test_ridmap_reaches_what_is_mounted_below(runtime: Runtime, bundle: Bundle, host: Host, source: Path,
                                              option: str, below: str) -> None:
    """config.md: ridmap is recursive, idmap is the top alone."""
    mounted(bundle, source, "rbind", option, uidMappings=mapping(0, 1000), gidMappings=mapping(0, 2000))
    result = runtime.run(bundle, "stat -c %u:%g /m/zero /m/below/zero")
    assert result.lines == ["1000:2000", below]


def test_other_options_apply_as_well(runtime: Runtime, bundle: Bundle, host: Host, source: Path) -> None:
    mounted(bundle, source, "rbind", "rro", "nosuid", "ridmap", uidMappings=mapping(0, 1000),
            gidMappings=mapping(0, 2000))
    bundle.process["user"] = {"uid": 1000, "gid": 2000}
    result = runtime.run(bundle, "touch /m/x; touch /m/below/x; grep -c ' /m.* ro,nosuid' /proc/self/mountinfo")
    assert result.errors == ["touch: /m/x: Read-only file system", "touch: /m/below/x: Read-only file system"]
    assert result.lines == ["1"]


def test_mounts_made_inside_stay_inside(runtime: Runtime, bundle: Bundle, host: Host, source: Path) -> None:
    """linux.rootfsPropagation, rslave by default, also for a source that comes from outside."""
    subprocess.run(["mount", "--make-shared", source], check=True)
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind].append("CAP_SYS_ADMIN")
    mounted(bundle, source, "bind", "idmap", uidMappings=mapping(0, 0), gidMappings=mapping(0, 0))
    script = "mkdir /m/inside; mount -t tmpfs x /m/inside; grep -c /m/inside /proc/self/mountinfo"
    before = Path("/proc/self/mountinfo").read_text()
    assert runtime.run(bundle, script + "; sleep 0.1").lines == ["1"]
    assert Path("/proc/self/mountinfo").read_text() == before
    container = runtime.create(bundle.args(script + "; exec sleep 100"))
    assert runtime("start", container).code == 0
    assert Path("/proc/self/mountinfo").read_text() == before
    runtime.clean_up()


def test_crun_s_own_form(runtime: Runtime, bundle: Bundle, host: Host, source: Path) -> None:
    """crun(1), idmap: what Podman's --mount idmap=… hands on; an @ makes the second number one of the container's."""
    mounted(in_user_namespace(bundle), source, "bind", "idmap=uids=0-101000-10#10-5-1;gids=@0-2000-10")
    result = runtime.run(bundle, SHOW)
    assert result.lines == ["/m/zero 1000:2000", "/m/five 1005:2006"], result


def test_a_file_system_that_can_not_is_named(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    mounted(bundle, Path("/proc/self/fdinfo"), "bind", "idmap", uidMappings=mapping(0, 1000),
            gidMappings=mapping(0, 2000))
    result = runtime.run(bundle, "true")
    assert result.code == 1
    (line,) = result.errors
    if runtime.name == "pyrunc":
        assert "/mounts/7" in line and "mount_setattr: invalid argument (EINVAL)" in line and "the ids of proc" in line


def test_only_a_bind_can_be_mapped(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.mount("tmpfs", "/m", type="tmpfs", options=["idmap"])
    bundle.config["mounts"][-1].update(uidMappings=mapping(0, 1000), gidMappings=mapping(0, 2000))
    result = runtime.run(bundle, "true")
    assert result.code == 1 and "/mounts/7" in result.err and "bind mount" in result.err


@pytest.mark.parametrize("text", ["idmap=x", "idmap=uids=0-0-1", "idmap=uids=0-1;gids=0-0-1",
                                  "ridmap=uids=@70000-0-1;gids=0-0-1", "idmap=uids=0-0-0;gids=0-0-1"])
def test_a_malformed_form_is_refused(runtime: Runtime, bundle: Bundle, host: Host, source: Path, text: str) -> None:
    mounted(bundle, source, "bind", text)
    result = runtime.run(bundle, "true")
    assert result.code == 1 and len(result.errors) == 1 and "/mounts/7" in result.err, result


def test_an_ordinary_user_is_told(runtime: Runtime, bundle: Bundle, host: Host, source: Path, tmp_path: Path) -> None:
    """It has no power over the file system, whatever namespaces it makes."""
    uid = 54321
    mounted(bundle, source, "bind", "idmap").namespace("user").without("network")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = mapping(0, uid, 1)
    bundle.config["mounts"] = bundle.config["mounts"][-1:]
    bundle.save()
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", uid, uid)
    for path in (bundle.path, *bundle.path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o111)
    done = subprocess.run(["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", PYRUNC, "run",
                           "--bundle", bundle.path, "t-idmap"], env={"XDG_RUNTIME_DIR": str(tmp_path / "run")},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert "/mounts/0" in line and "CAP_SYS_ADMIN" in line, line
