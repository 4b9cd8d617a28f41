# SPDX-License-Identifier: Apache-2.0
"""An ordinary user's container with more than its own id: newuidmap and newgidmap write the maps (subuid(5))."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from support import PYRUNC, Bundle, Host

UID = 54321
FIRST = 700000  # the sub-ids it was granted


def as_user(bundle: Bundle, granted: int) -> subprocess.CompletedProcess[str]:
    """`run` as an ordinary user to whom the administrator has granted sub-ids: a /etc of this call's own says so."""
    place = bundle.path.parent
    (place / "passwd").write_text(Path("/etc/passwd").read_text() + f"tester:x:{UID}:{UID}::/:/bin/sh\n")
    for name in ("subuid", "subgid"):
        (place / name).write_text(f"tester:{FIRST}:{granted}\n")
    (place / "run").mkdir(exist_ok=True)
    bundle.save()
    for path in (place / "run", bundle.path, *bundle.path.rglob("*")):
        os.chown(path, UID, UID, follow_symlinks=False)
    for path in (bundle.path, *bundle.path.parents):
        path.chmod(path.stat().st_mode | 0o011)
    binds = " && ".join(f"touch /etc/{name} && mount --bind {place}/{name} /etc/{name}"
                        for name in ("passwd", "subuid", "subgid"))
    command = f"{binds} && exec setpriv --reuid {UID} --regid {UID} --clear-groups {PYRUNC} run t-rootless"
    return subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-c", command], cwd=bundle.path,
                          env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR": str(place / "run")},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


@pytest.fixture
def rootless(bundle: Bundle) -> Bundle:
    """The rootless default, with 1000 granted ids besides the user's own."""
    (bundle.path / "config.json").unlink()
    subprocess.run([PYRUNC, "spec", "--rootless"], cwd=bundle.path, check=True)
    bundle.config = json.loads((bundle.path / "config.json").read_text())
    bundle.process["terminal"] = False
    bundle.config["root"]["readonly"] = False
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [
        {"containerID": 0, "hostID": UID, "size": 1}, {"containerID": 1, "hostID": FIRST, "size": 1000}]
    return bundle


def test_granted_ids_are_mapped(rootless: Bundle, host: Host) -> None:
    """A process of another id than root inside; on the host what it makes is the granted id's."""
    rootless.process["user"] = {"uid": 5, "gid": 7, "additionalGids": [9]}
    (rootless.rootfs / "tmp").chmod(0o1777)
    result = as_user(rootless.args("id -u; id -G; touch /tmp/made; cat /proc/self/uid_map"), 1000)
    assert result.returncode == 0, result.stderr
    uid, groups, *uid_map = result.stdout.splitlines()
    assert (uid, groups) == ("5", "7 9")
    assert [line.split() for line in uid_map] == [["0", str(UID), "1"], ["1", str(FIRST), "1000"]]
    made = (rootless.rootfs / "tmp" / "made").stat()
    assert (made.st_uid, made.st_gid) == (FIRST + 4, FIRST + 6)


def test_ids_that_were_not_granted_are_refused(rootless: Bundle, host: Host) -> None:
    result = as_user(rootless.args("true"), 10)
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert "newuidmap" in line and "/linux/uidMappings" in line and "/etc/subuid" in line
