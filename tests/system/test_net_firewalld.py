# SPDX-License-Identifier: Apache-2.0
"""firewalld beside pyrunc's networks, really running.  dockerd is, in the lane `docker` of conformance/."""

from __future__ import annotations

from pathlib import Path

import pytest
from firewalls import firewalld
from netlab import OUTSIDE_4, ROUTER_4, Lab
from netting import attach, detach, ip


def test_beside_firewalld(netlab: Lab, tmp_path: Path, long: bool) -> None:
    """An attach says that firewalld drops the traffic, and what to do; that works, and lasts over a reload.

    CVE-2025-54388: a reload opens no port that is for the host alone, nor a container to who knows the way.
    """
    if not long:
        pytest.skip("with --long: it takes ten seconds")
    netlab.outside.listen(80)
    one = netlab.container("one")
    one.listen(80)
    netlab.pyrunc("net", "create", "one", "--subnet", "10.1.0.0/24")
    netlab.outside.ip(f"route add 10.1.0.0/24 via {ROUTER_4}")
    words = ("net", "attach", "one", "one", "--netns", one.path, "-p", "8080:80", "-p", "127.0.0.1:8081:80")
    with firewalld(netlab.router, tmp_path / "firewalld") as wall:
        done = netlab.do(*words)
        assert (done.code, done.err) == (0, "pyrunc: warning: the chain filter_FORWARD of table inet firewalld drops "
                                            "what it doesn't know, one's traffic too: `firewall-cmd --permanent "
                                            "--zone=trusted --add-interface=pyr-one` and `firewall-cmd --reload` let "
                                            "it through\n")
        assert one.hears_nothing(OUTSIDE_4, 80)  # it is true
        wall("--permanent", "--zone=trusted", "--add-interface=pyr-one")
        wall("--reload")
        rules = netlab.router.run("nft", "list", "table", "inet", "pyrunc")
        with netlab.outside.connect(ROUTER_4, 8080) as connection:
            for when in ("as told", "after another reload"):
                assert one.ask(OUTSIDE_4, 80).name == "outside", when
                assert netlab.outside.ask(ROUTER_4, 8080).name == connection.ask().name == "one", when
                assert netlab.router.ask("127.0.0.1", 8081).name == "one", when
                assert netlab.outside.hears_nothing(ROUTER_4, 8081), when
                assert netlab.outside.hears_nothing("10.1.0.2", 80), when
                wall("--reload")
        assert rules.partition("map ")[0] == netlab.router.run("nft", "list", "table", "inet",
                                                               "pyrunc").partition("map ")[0]
        detach(netlab, one, "one")
        again = netlab.do(*words)
        assert (again.code, again.err) == (0, "")  # somebody has taken care
    assert ip(attach(netlab, netlab.container("two"), "one")) == "10.1.0.4"
