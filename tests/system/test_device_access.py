# SPDX-License-Identifier: Apache-2.0
"""config-linux.md, Allowed Device list: which devices a container can open and make."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from container_cgroup import is_v2
from support import Bundle, Host, Runtime

from pyrunc import devices_bpf
from pyrunc.device_rules import Rules

V2_LANE = """#!/bin/sh
exec unshare --mount --propagation private sh -c 'umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup &&
    exec "$@"' _ {path} "$@"
"""
NODES = {"n-null": (1, 3), "n-zero": (1, 5), "n-full": (1, 7), "n-tun": (10, 200),
         "n-fuse": (10, 229), "n-loop-control": (10, 237)}
# What a permission check answers is EPERM; ENXIO and such come from the driver, after it.
PROBE = """cd /nodes; for n in *; do for how in r w; do
    if [ $how = r ]; then text=$( (: <$n) 2>&1 ); else text=$( (: >$n) 2>&1 ); fi
    case "$text" in *"ot permitted"*) ;; *) echo $n $how;; esac; done; done
    for new in 'c 1 11' 'b 7 0'; do mknod /tmp/new $new 2>/dev/null && echo made $new && rm /tmp/new; done; echo done"""


@pytest.fixture(params=["unified"] if is_v2() else ["hybrid", "unified"])
def lane(request: pytest.FixtureRequest, runtime: Runtime, make_runtime: Callable[[str], Runtime],
         tmp_path: Path) -> Callable[[str], Runtime]:
    """A runtime by its path on a host with v1 controllers, and on one with cgroup v2 alone."""
    def make(path: str) -> Runtime:
        path = runtime.path if path == "pyrunc" else path
        if request.param == "hybrid" or is_v2():
            return make_runtime(path)
        script = tmp_path / f"v2-{os.path.basename(path)}"
        script.write_text(V2_LANE.format(path=path))
        script.chmod(0o755)
        return make_runtime(str(script))

    return make


def rule(allow: bool, **fields: Any) -> dict[str, Any]:
    return {"allow": allow, **{"access": "rwm", **fields}}


def accessible(runtime: Runtime, bundle: Bundle, rules: list[dict[str, Any]] | None) -> set[str]:
    """`node r`, `node w` and `made …` for all that the container may."""
    (bundle.rootfs / "nodes").mkdir(exist_ok=True)
    for name, numbers in NODES.items():
        if not (bundle.rootfs / "nodes" / name).exists():
            os.mknod(bundle.rootfs / "nodes" / name, 0o600 | 0o020000, os.makedev(*numbers))
    bundle.config["root"]["readonly"] = False
    for kind in bundle.process["capabilities"].values():
        kind.append("CAP_MKNOD")
    resources = bundle.linux.setdefault("resources", {})
    resources.pop("devices", None)
    if rules is not None:
        resources["devices"] = rules
    result = runtime.run(bundle, PROBE)
    assert result.code == 0 and result.lines[-1] == "done", result
    return set(result.lines[:-1])


DEFAULT = {f"{name} {how}" for name in ("n-null", "n-zero", "n-full", "n-tun") for how in "rw"}
MAKING = {"made c 1 11", "made b 7 0"}
FUSE = {"n-fuse r", "n-fuse w"}
LISTS = {
    "no list": (None, DEFAULT),
    "deny all": ([rule(False)], DEFAULT),
    "a device": ([rule(False), rule(True, type="c", major=10, minor=229)], DEFAULT | FUSE),
    "read only": ([rule(False), rule(True, type="c", major=10, minor=237, access="r")], DEFAULT | {"n-loop-control r"}),
    "a major": ([rule(False), rule(True, type="c", major=10)],
                DEFAULT | FUSE | {"n-loop-control r", "n-loop-control w"}),
    "given and taken": ([rule(True, type="c", major=10, minor=229),
                         rule(False, type="c", major=10, minor=229, access="w")], DEFAULT | {"n-fuse r"}),
    "default denied": ([rule(False), rule(False, type="c", major=1, minor=3)], DEFAULT),
    "all": ([rule(True)], {f"{name} {how}" for name in NODES for how in "rw"}),
    "all but one": ([rule(True), rule(False, type="c", major=10, minor=229)],
                    {f"{name} {how}" for name in NODES for how in "rw"} - FUSE),
}


@pytest.mark.parametrize("case", LISTS)
def test_what_can_be_opened(lane: Callable[[str], Runtime], bundle: Bundle, host: Host, case: str) -> None:
    """As the list says; runc opens the same on the same bundle."""
    rules, expected = LISTS[case]
    ours = accessible(lane("pyrunc"), bundle, rules)
    assert ours == expected | MAKING
    assert accessible(lane("runc"), bundle, rules) == ours


def test_a_node_of_the_configuration_is_not_a_permission(lane: Callable[[str], Runtime], bundle: Bundle,
                                                         host: Host) -> None:
    """An engine gives a device for reading by a node and a rule `r`: the node must not add writing."""
    bundle.linux["devices"] = [{"path": "/dev/loop-control", "type": "c", "major": 10, "minor": 237}]
    read_only = [rule(False), rule(True, type="c", major=10, minor=237, access="r")]
    for rules, expected in (([rule(False)], DEFAULT), (read_only, DEFAULT | {"n-loop-control r"})):
        ours = accessible(lane("pyrunc"), bundle, rules)
        assert ours == expected | MAKING
        assert accessible(lane("runc"), bundle, rules) == ours


def test_an_exception_to_an_exception(runtime: Runtime, lane: Callable[[str], Runtime], bundle: Bundle, host: Host,
                                      request: pytest.FixtureRequest) -> None:
    """v2 can; v1 can't, and says which rule (runc refuses it on both)."""
    rules = [rule(False), rule(True, type="c", major=10, access="rw"),
             rule(False, type="c", major=10, minor=229, access="w")]
    if "unified" in request.node.name:
        assert accessible(lane("pyrunc"), bundle, rules) == (
            DEFAULT | MAKING | {"n-fuse r", "n-loop-control r", "n-loop-control w"})
        return
    bundle.linux.setdefault("resources", {})["devices"] = rules
    result = lane("pyrunc").run(bundle, "true")
    assert result.code == 1 and len(result.errors) == 1, result
    assert "/linux/resources/devices/2: cgroup v1 can't except c 10:229 w from the wider c 10:* rw" in result.err


def test_below_a_cgroup_that_forbids_all_devices(v2: Runtime, bundle: Bundle, host: Host) -> None:
    """As Podman 4.3's cgroup of a pod does on v2: what needs none runs, with the /dev/null that it was given."""
    root = Path("/sys/fs/cgroup" if is_v2() else "/sys/fs/cgroup/unified")
    above = root / f"forbids-{os.getpid()}"
    above.mkdir()
    try:
        devices_bpf.attach(str(above), Rules(False), lambda _: None)
        bundle.linux["cgroupsPath"] = f"/{above.name}/container"
        bundle.args("(: </dev/null) 2>/said; test ! -t 0 && sleep 1000")
        container = v2.create(bundle)
        assert v2("start", container).code == 0
        assert v2.state(container)["status"] == "running"
        assert "not permitted" in (bundle.rootfs / "said").read_text()
        assert v2("delete", "--force", container).code == 0
    finally:
        above.rmdir()


@pytest.mark.parametrize("bad", [rule(True, access=""), rule(True, access="x"), rule(True, type="c", major=-7)])
def test_a_bad_rule(runtime: Runtime, bundle: Bundle, host: Host, bad: dict[str, Any]) -> None:
    bundle.linux.setdefault("resources", {})["devices"] = [rule(False), bad]
    result = runtime.run(bundle, "true")
    assert result.code == 1 and len(result.errors) == 1 and "/linux/resources/devices/1" in result.err, result
    host.assert_unchanged()
