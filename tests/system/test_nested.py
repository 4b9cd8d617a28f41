# SPDX-License-Identifier: Apache-2.0
"""pyrunc inside a pyrunc container: root of a user namespace makes containers of its own, user namespaces below its."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import PYRUNC, Bundle, Host, Runtime

from pyrunc.capabilities import known

OUTER, INNER = 100000, 1000  # root of the outer container, on the host; root of the inner one, in the outer


@pytest.fixture
def outer(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A container that has this machine's programs, pyrunc among them, every capability, and an unmasked /proc."""
    shutil.rmtree(bundle.rootfs)
    for name in ("dev", "proc", "sys", "run", "tmp", "etc", "inner"):
        (bundle.rootfs / name).mkdir(parents=True)
    for path in (Path("/bin"), Path("/sbin"), Path("/lib"), Path("/lib64")):
        if path.is_symlink():
            (bundle.rootfs / path.name).symlink_to(os.readlink(path))
        elif path.exists():
            bundle.mount(path, str(path), options=["rbind", "ro"])
    bundle.mount("/usr", "/usr", options=["rbind", "ro"])
    bundle.mount(sys.prefix, sys.prefix, options=["rbind", "ro"])
    inner = tmp_path / "inner"
    (inner / "rootfs/bin").mkdir(parents=True)
    for name in ("dev", "proc", "sys", "tmp", "etc"):
        (inner / "rootfs" / name).mkdir()
    shutil.copy2("/bin/busybox", inner / "rootfs/bin")
    for name in ("sh", "id", "cat", "sleep", "touch", "hostname", "stat"):
        (inner / "rootfs/bin" / name).symlink_to("busybox")
    bundle.mount(inner, "/inner", options=["rbind"])
    bundle.mount("tmpfs", "/run", type="tmpfs", options=["mode=755"])
    for path in (inner, *inner.rglob("*"), bundle.rootfs, *bundle.rootfs.iterdir()):
        os.chown(path, OUTER, OUTER, follow_symlinks=False)
    for path in (bundle.path, *bundle.path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o111)
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind] = known()
    bundle.process["noNewPrivileges"] = False
    bundle.process["env"] = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    bundle.process["rlimits"] = []
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    bundle.namespace("user").namespace("cgroup")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": OUTER, "size": 65536}]
    return bundle


def inner(tmp_path: Path, program: str, *, user_namespace: bool, **process: Any) -> None:
    """The config.json of the inner container: the default, in a user namespace of its own or in the outer's."""
    place = tmp_path / "inner"
    (place / "config.json").unlink(missing_ok=True)
    subprocess.run([PYRUNC, "spec"], cwd=place, check=True)
    config = json.loads((place / "config.json").read_text())
    config["process"].update(terminal=False, args=["sh", "-c", program], **process)
    config["root"]["readonly"] = False
    if user_namespace:
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [
            {"containerID": 0, "hostID": INNER, "size": 1000}]
        os.chown(place / "rootfs/tmp", OUTER + INNER, OUTER + INNER)
    (place / "config.json").write_text(json.dumps(config))
    (place / "config.json").chmod(0o644)


@pytest.mark.parametrize("user_namespace", [True, False], ids=["own user namespace", "outer's user namespace"])
def test_a_container_in_a_container(runtime: Runtime, outer: Bundle, host: Host, tmp_path: Path,
                                    user_namespace: bool) -> None:
    """Create, start, exec, delete; ids are mapped twice."""
    inner(tmp_path, "touch /tmp/made; exec sleep 1000", user_namespace=user_namespace)
    script = f"""
        set -e; cd /inner; P={PYRUNC}
        $P create --pid-file /run/pid web; $P start web
        $P exec web sh -c 'id -u; hostname; cat /proc/1/comm; cat /proc/self/uid_map'
        cat /proc/$(cat /run/pid)/uid_map; $P kill web KILL
        while $P state web | grep -q running; do sleep 0.05; done
        $P delete web; $P list -q; ls /run/pyrunc"""
    result = runtime.run(outer, script)
    root = INNER if user_namespace else 0
    size = 1000 if user_namespace else 65536
    assert result.code == 0, result
    lines = [" ".join(line.split()) for line in result.lines]
    # Whose ids a map is told in (user_namespaces(7)): its own namespace's is told in the ids of the one above.
    maps = [f"0 {root if user_namespace else OUTER} {size}"] * 2
    assert lines == ["0", "pyrunc", "sleep", *maps], result
    made = (tmp_path / "inner/rootfs/tmp/made").stat()
    assert made.st_uid == OUTER + root


def test_ids_that_the_outer_one_does_not_have(runtime: Runtime, outer: Bundle, host: Host, tmp_path: Path) -> None:
    """The kernel maps only what is mapped: the error has the pointer."""
    inner(tmp_path, "true", user_namespace=True)
    place = tmp_path / "inner/config.json"
    config = json.loads(place.read_text())
    config["linux"]["uidMappings"][0]["hostID"] = 70000
    place.write_text(json.dumps(config))
    result = runtime.run(outer, f"cd /inner; {PYRUNC} run web; ls /run/pyrunc")
    assert result.out == "", result
    (line,) = result.errors
    assert "/linux/uidMappings" in line and "EPERM" in line, line
