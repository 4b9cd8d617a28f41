# SPDX-License-Identifier: Apache-2.0
"""Networks on a distribution's kernel: what is a module there, and devices that other kernels come without."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import netlab as network_lab
import pytest
from netlab import OUTSIDE_4, OUTSIDE_6, PROTOCOLS, ROUTER_4, ROUTER_6, Lab
from netting import attach, detach, ip, left

pytestmark = pytest.mark.vm


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Its devices' modules are not loaded by who makes network namespaces."""
    subprocess.run(["modprobe", "--all", "veth", "bridge", "macvlan", "ipvlan", "nf_tables"], check=True)
    with network_lab.lab(tmp_path) as made:
        yield made


@pytest.mark.vm_short
def test_ipvlan(lab: Lab) -> None:
    """The container's addresses are behind the host's own MAC address."""
    lab.pyrunc("net", "create", "lan", "--driver", "ipvlan", "--subnet", "192.0.2.0/24", "--gateway", OUTSIDE_4,
               "--subnet", "2001:db8:1::/64", "--gateway", OUTSIDE_6)
    one, two = lab.container("one"), lab.container("two")
    made = attach(lab, one, "lan", "--ip", "192.0.2.50")
    before = left(lab)
    attach(lab, two, "lan")
    info = one.links()["eth0"]
    assert (info["linkinfo"]["info_kind"], info["linkinfo"]["info_data"]["mode"]) == ("ipvlan", "l2")
    assert info["address"] == made["mac"] == lab.router.links()["out"]["address"]
    one.listen(80)
    for family, address in ((4, OUTSIDE_4), (6, OUTSIDE_6)):
        lab.outside.listen(80, family=family)
        assert one.ask(address, 80)[:2] == ("outside", ip(made, family))
    assert lab.outside.ask("192.0.2.50", 80).name == two.ask("192.0.2.50", 80).name == "one"
    detach(lab, two, "lan")
    assert two.links() == {} and left(lab) == before


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_ipvlan_routed(lab: Lab, mode: str) -> None:
    """The device has a subnet of its own, which the outside has to know the way to; no gateway, as there is no link."""
    lab.pyrunc("net", "create", "far", "--driver", "ipvlan", "--mode", mode, "--subnet", "10.9.0.0/24")
    one = lab.container("one")
    made = attach(lab, one, "far")
    assert one.routes() == ["10.9.0.0/24 - eth0", "default - eth0"] and made["gateways"] == []
    lab.outside.ip(f"route add 10.9.0.0/24 via {ROUTER_4}")
    lab.outside.listen(80)
    lab.router.ip("route add 10.9.0.0/24 dev out")
    assert one.ask(OUTSIDE_4, 80)[:2] == ("outside", ip(made))
    lab.pyrunc("net", "rm", "--force", "far")
    assert one.links() == {}


def test_the_example(lab: Lab) -> None:
    """All that nftables needs is a module here, loaded when it is asked for."""
    lab.pyrunc("net", "create", "web", "--ipv6")
    lab.pyrunc("net", "create", "other", "--ipv6")
    one, two, three = (lab.container(name) for name in ("one", "two", "three"))
    made = attach(lab, one, "web", "-p", "8080:80", "-p", "8080:80/udp", "-p", "8080:80/sctp")
    attach(lab, two, "web")
    attach(lab, three, "other")
    for family, outside, router in ((4, OUTSIDE_4, ROUTER_4), (6, OUTSIDE_6, ROUTER_6)):
        lab.outside.listen(80, family=family)
        assert one.ask(outside, 80).source == router
        for protocol in PROTOCOLS:
            one.listen(80, protocol, family=family)
            for client in (lab.outside, two, one, three):
                assert client.ask(router, 8080, protocol).name == "one", (client.name, protocol, family)
        assert three.hears_nothing(ip(made, family), 80)
    assert lab.router.ask("127.0.0.1", 8080).name == "one"
    lab.pyrunc("net", "rm", "--force", "web", "other")
    assert json.loads(lab.pyrunc("net", "ls", "--format", "json")) == [] and lab.router.ruleset() == []
