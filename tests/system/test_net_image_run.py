# SPDX-License-Identifier: Apache-2.0
"""`pyrunc image run --net NAME -p HOST:CTR`: a container of an image, in networks of `pyrunc net`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from netlab import OUTSIDE_4, ROUTER_4, Lab, Unanswered
from support import wait_for


def heard(netlab: Lab) -> bytes:
    """What the published port says, nothing while nobody listens."""
    try:
        with netlab.outside.connect(ROUTER_4, 8080) as connection:
            return connection.socket.recv(100)
    except Unanswered:
        return b""


def test_published_and_gone(netlab: Lab, layout: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Reached by its port and by its name, reaches the outside; nothing of it is left, in either way of running."""
    words = ("--root", tmp_path / "state", "image")
    store = ("--store", tmp_path / "images")
    archive = tmp_path / "bb.tar"
    subprocess.run(["skopeo", "copy", "-q", f"oci:{layout}:bb", f"oci-archive:{archive}:bb"], check=True)
    netlab.pyrunc(*words, "load", *store, "-i", archive)
    name = netlab.pyrunc(*words, "ls", *store).splitlines()[1].split()[0]
    netlab.pyrunc("net", "create", "web", "--subnet", "10.5.0.0/24", "--dns", "10.5.0.1")
    netlab.outside.listen(7000)
    fresh = netlab.router.look()["rules"]
    request.addfinalizer(lambda: netlab.do("--root", tmp_path / "state", "delete", "--force", "web1"))
    netlab.pyrunc(*words, "run", *store, "-d", "--name", "web1", "--net", "web", "-p", "8080:80", name, "sh", "-c",
                  "while :; do echo from web1 | nc -l -p 80; done")
    # `run` returns with the shell's execve, nc comes later, and anew after each answer.
    wait_for(lambda: heard(netlab) == b"from web1\n", "the answer")
    done = netlab.do(*words, "run", *store, "--rm", "--net", "web", name, "sh", "-c",
                     "until nc web1 80 </dev/null; do sleep 0.1; done; "
                     f"echo | nc {OUTSIDE_4} 7000; echo; cat /etc/resolv.conf")
    assert (done.code, done.lines[0], done.lines[1].split()[:2], done.lines[2]) == (
        0, "from web1", ["outside", ROUTER_4], "nameserver 10.5.0.1"), done
    attached = netlab.net_root / "attachments"
    assert [path.parent.name for path in attached.glob("*/*")] == ["web1"]
    assert netlab.do("--root", tmp_path / "state", "delete", "--force", "web1").code == 0
    wait_for(lambda: not list(attached.glob("*/*")), "the hook to have run")
    assert not list((netlab.net_root / "hosts").glob("of-*"))
    netlab.pyrunc("net", "rm", "web")
    assert netlab.router.look()["rules"] == fresh
    for wrong, said in ((("--net", "host", "-p", "1:1"), "--publish takes a network"),
                        (("--net", "no"), "no network no")):
        done = netlab.do(*words, "run", *store, *wrong, name)
        assert done.code == 125 and said in done.err, done
