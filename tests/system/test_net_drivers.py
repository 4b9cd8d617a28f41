# SPDX-License-Identifier: Apache-2.0
"""Networks without a bridge: macvlan and ipvlan devices on one of the host's, and networks of names alone."""

from __future__ import annotations

import json

import pytest
from netlab import OUTSIDE_4, OUTSIDE_6, Lab
from netting import attach, detach, ip, left


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa"])
def test_macvlan(netlab: Lab, mode: str) -> None:
    """A container is a machine of its own in the network that the host is in, with a MAC address of its own."""
    netlab.pyrunc("net", "create", "lan", "--driver", "macvlan", "--subnet", "192.0.2.0/24", "--gateway", OUTSIDE_4,
                  "--subnet", "2001:db8:1::/64", "--gateway", OUTSIDE_6, "--mode", mode)
    one, two = netlab.container("one"), netlab.container("two")
    made = attach(netlab, one, "lan", "--ip", "192.0.2.50")
    before = left(netlab)
    second = attach(netlab, two, "lan")
    assert made["addresses"][0] == "192.0.2.50/24" and made["mac"] == one.links()["eth0"]["address"]
    info = one.links()["eth0"]["linkinfo"]
    assert (info["info_kind"], info["info_data"]["mode"]) == ("macvlan", mode)
    assert sorted(route for route in one.routes() if route.startswith("default")) == [
        f"default {OUTSIDE_4} eth0", f"default {OUTSIDE_6} eth0"]
    one.listen(80)
    for family, address in ((4, OUTSIDE_4), (6, OUTSIDE_6)):
        netlab.outside.listen(80, family=family)
        assert one.ask(address, 80)[:2] == ("outside", ip(made, family))
    assert netlab.outside.ask("192.0.2.50", 80).name == "one"
    if mode == "bridge":
        assert two.ask("192.0.2.50", 80).name == "one"
    assert netlab.router.ruleset() == [] and netlab.router.sysctl("ipv4.ip_forward") == "0"
    detach(netlab, two, "lan")
    assert two.links() == {} and left(netlab) == before
    assert ip(second) == "192.0.2.2"
    one.vanish()
    assert netlab.pyrunc("net", "prune").splitlines() == ["one/lan@eth0"]
    assert netlab.pyrunc("net", "rm", "lan") == "lan\n"
    assert netlab.router.links().keys() == {"out"}


def test_what_needs_a_bridge(netlab: Lab) -> None:
    netlab.pyrunc("net", "create", "lan", "--driver", "macvlan", "--subnet", "192.0.2.0/24", "--parent", "out")
    one = netlab.container("one")
    done = netlab.do("net", "attach", "one", "lan", "--netns", one.path, "-p", "80:80")
    assert (done.code, done.err) == (1, "pyrunc: net attach: ports can't be published from lan, a network of the "
                                        "driver macvlan (its containers are reached by their own addresses)\n")
    assert one.links() == {}


def test_ipvlan(netlab: Lab) -> None:
    """Where the kernel has such devices; where not, it says so, and nothing is left."""
    netlab.pyrunc("net", "create", "lan", "--driver", "ipvlan", "--subnet", "192.0.2.0/24", "--gateway", OUTSIDE_4)
    one = netlab.container("one")
    before = left(netlab)
    supported = netlab.router.do("ip", "link", "add", "probe", "link", "out", "type", "ipvlan").code == 0
    done = netlab.do("net", "attach", "one", "lan", "--netns", one.path, "--format", "json")
    if not supported:
        assert (done.code, done.err) == (1, "pyrunc: net attach: make the ipvlan device eth0: Unknown device type: "
                                            "rtnetlink: operation not supported (ENOTSUP) (this kernel has no such "
                                            "devices)\n")
        assert one.links() == {}
        assert {what: value for what, value in left(netlab).items() if what not in ("files", "leases")} == \
            {what: value for what, value in before.items() if what not in ("files", "leases")}
        assert set(left(netlab)["leases"].values()) == {0}
        return
    netlab.outside.listen(80)
    assert one.ask(OUTSIDE_4, 80)[:2] == ("outside", ip(json.loads(done.out)))
    assert one.links()["eth0"]["linkinfo"]["info_kind"] == "ipvlan"


def test_a_network_of_names_alone(netlab: Lab) -> None:
    """The driver none: the loopback, and nothing else."""
    netlab.pyrunc("net", "create", "off", "--driver", "none")
    one = netlab.container("one")
    one.ip("link set lo down")
    made = attach(netlab, one, "off")
    assert (made["addresses"], made["gateways"]) == ([], [])
    assert one.links() == {} and "127.0.0.1" in one.ip("address show up")
    assert netlab.pyrunc("net", "ls", "--format", "table").splitlines()[1].split() == ["off", "none", "-", "-", "1"]
    detach(netlab, one, "off")
    assert netlab.pyrunc("net", "rm", "off") == "off\n"
