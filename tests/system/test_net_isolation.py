# SPDX-License-Identifier: Apache-2.0
"""Who can't reach whom: other networks, internal ones, the host's loopback, who claims to be somebody else."""

from __future__ import annotations

from struct import pack

import pytest
from netframes import Ear, Mouth
from netlab import OUTSIDE_4, OUTSIDE_6, ROUTER_4, ROUTER_6, Lab
from netting import attach, gateway, ip

from pyrunc.net.links import link_local
from pyrunc.net.model import pack_address, unpack_address


@pytest.mark.parametrize("family", [4, 6])
def test_networks_do_not_reach_each_other(netlab: Lab, family: int) -> None:
    """Unless both are open; nor is a container reached from outside past its published ports."""
    for name in ("one", "two"):
        netlab.pyrunc("net", "create", name, "--ipv6")
    for name in ("open", "free"):
        netlab.pyrunc("net", "create", name, "--ipv6", "--isolate=false")
    nodes = {name: netlab.container(name) for name in ("one", "two", "open", "free")}
    made = {name: attach(netlab, node, name) for name, node in nodes.items()}
    for node in nodes.values():
        node.listen(80, family=family)

    def reached(client: str, server: str) -> bool:
        return not nodes[client].hears_nothing(ip(made[server], family), 80)

    assert not reached("one", "two") and not reached("two", "one")
    assert not reached("one", "open") and not reached("open", "one")
    assert reached("open", "free") and reached("free", "open")  # the control: the way is there
    for name in ("one", "open"):  # who is outside, and knows the way, is stopped as well
        netlab.outside.ip(f"-{family} route add {ip(made[name], family)} via {ROUTER_4 if family == 4 else ROUTER_6}")
    assert netlab.outside.hears_nothing(ip(made["one"], family), 80)
    assert netlab.outside.ask(ip(made["open"], family), 80).name == "open"


@pytest.mark.parametrize("family", [4, 6])
def test_an_internal_network(netlab: Lab, family: int) -> None:
    """No way out, none in, no default route, no name server of the host's (CVE-2024-29018)."""
    netlab.pyrunc("net", "create", "inner", "--ipv6", "--internal")
    netlab.pyrunc("net", "create", "web", "--ipv6", "--isolate=false")
    one, two, web = (netlab.container(name) for name in ("one", "two", "web"))
    made = attach(netlab, one, "inner")
    attach(netlab, two, "inner")
    forwarding = f"ipv{family}.{'ip_forward' if family == 4 else 'conf.all.forwarding'}"
    assert netlab.router.sysctl(forwarding) == "0"  # set where a network needs it
    served = attach(netlab, web, "web", "-p", "8080:80")
    for node in (one, web, netlab.outside):
        node.listen(80, family=family)
    assert made["gateways"] == [] and not [route for route in one.routes() if route.startswith("default")]
    assert two.ask(ip(made, family), 80).name == "one"
    # Whoever makes himself a way still doesn't get anywhere.
    router = ip(made, family).rpartition("." if family == 4 else ":")[0] + (".1" if family == 4 else ":1")
    for node in (one, two):
        node.ip(f"-{family} route add default via {router}")
    outside = OUTSIDE_4 if family == 4 else OUTSIDE_6
    assert one.hears_nothing(outside, 80)
    assert one.hears_nothing(ip(served, family), 80)
    assert one.hears_nothing(ROUTER_4 if family == 4 else ROUTER_6, 8080)
    assert web.hears_nothing(ip(made, family), 80)
    assert web.ask(outside, 80).name == "outside"  # the control
    assert netlab.router.sysctl(forwarding) == "1"
    refused = netlab.do("net", "attach", "three", "inner", "--netns", netlab.container("three").path, "-p", "80:80")
    assert refused.err == ("pyrunc: net attach: inner is an internal network: none of its ports can be published\n")


def test_loopback_services_of_the_host(netlab: Lab) -> None:
    """CVE-2020-8558: published ports need route_localnet on the bridge; the guard keeps containers off 127.0.0.1."""
    netlab.pyrunc("net", "create", "web")
    server = netlab.container("server")
    made = attach(netlab, server, "web", "-p", "8080:80")
    server.listen(80)
    netlab.router.listen(9090, host="127.0.0.1", name="secret")
    assert netlab.router.sysctl("ipv4.conf.pyr-web.route_localnet") == "1"
    assert [netlab.router.sysctl(f"ipv4.conf.{name}.route_localnet") for name in ("all", "out")] == ["0", "0"]
    assert netlab.router.ask("127.0.0.1", 8080).name == "server"
    for node, via, device in ((server, gateway(made), "eth0"), (netlab.outside, ROUTER_4, "in")):
        # What an attacker would do: send 127.0.0.1 there.
        node.sysctl(f"ipv4.conf.{device}.route_localnet", "1")
        node.ip("address del 127.0.0.1/8 dev lo")
        node.ip(f"route add 127.0.0.1/32 via {via} dev {device} src {node.addresses(device)[0].partition('/')[0]}")
        assert node.hears_nothing("127.0.0.1", 9090), node.name
    netlab.router.nft("flush chain inet pyrunc raw")
    assert server.ask("127.0.0.1", 9090).name == "secret"  # the control: the rule is what stopped it
    assert netlab.outside.hears_nothing("127.0.0.1", 9090)  # here it is the kernel, as route_localnet is the bridge's


def test_spoofed_sources_are_dropped(netlab: Lab) -> None:
    """A container with CAP_NET_RAW sends with its neighbour's addresses; the neighbour's neighbour hears nothing of it.

    What follows with the container's own addresses arrives: frames keep their order.
    """
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24", "--ipv6")
    evil, victim, third = (netlab.container(name) for name in ("evil", "victim", "third"))
    made = attach(netlab, evil, "web")
    other = attach(netlab, victim, "web")
    attach(netlab, third, "web")
    theirs = bytes.fromhex(other["mac"].replace(":", ""))
    with Ear(third) as ear, Mouth(evil, made["mac"]) as mouth:
        for source in (ip(other), "10.1.0.1", "10.1.0.77", "192.0.2.1", "127.0.0.1", "0.0.0.0"):
            mouth.ipv4(source, "10.1.0.255", b"spoofed IP")
        mouth.ipv4(ip(made), "10.1.0.255", b"spoofed MAC", mac=theirs)
        mouth.ipv4(ip(made), "10.1.0.255", b"honest 4")
        assert b"spoofed" not in ear.until(b"honest 4")

        mouth.arp(mouth.mac, ip(other), "10.9.9.2")
        mouth.arp(mouth.mac, "10.1.0.1", "10.9.9.3")
        mouth.arp(theirs, ip(made), "10.9.9.4")
        mouth.arp(mouth.mac, ip(made), "10.9.9.1")
        assert ear.until(pack_address("10.9.9.1")).count(pack_address("10.9.9.9")[:3]) == 1

        own = unpack_address(link_local(mouth.mac))
        assert own in evil.ip("-6 address show eth0 scope link")
        for source in (ip(other, 6), "2001:db8::7", "fe80::7"):
            mouth.ipv6(source, "ff02::1", 17, pack(">HHHH", 9, 9, 17, 0) + b"spoofed 6")
        mouth.ipv6(ip(made, 6), "ff02::1", 17, pack(">HHHH", 9, 9, 16, 0) + b"honest 6")
        mouth.ipv6(own, "ff02::1", 17, pack(">HHHH", 9, 9, 20, 0) + b"honest local")
        found = ear.until(b"honest local")
        assert b"spoofed" not in found and b"honest 6" in found

        # Neighbour advertisements (136), as the gateway and as itself; router advertisements (134), redirects (137);
        # a solicitation (135) by who wants to have the address.
        router = ip(made, 6).rpartition(":")[0] + ":1"
        for kind, source, target in ((136, ip(made, 6), router), (136, ip(made, 6), ip(other, 6)),
                                     (136, own, "fe80::7"), (134, own, "::"), (137, own, "::"),
                                     (135, "::", ip(other, 6)),
                                     (136, ip(made, 6), ip(made, 6)), (135, "::", own)):
            mouth.ipv6(source, "ff02::1", 58, pack(">BBHI", kind, 0, 0, 0xA0A1A2A3) + pack_address(target))
        mouth.ipv4(ip(made), "10.1.0.255", b"honest at the end")
        assert ear.until(b"honest at the end").count(pack(">I", 0xA0A1A2A3)) == 2

        # The control: the rules are what stopped it.
        netlab.router.nft("flush chain bridge pyrunc prerouting")
        mouth.ipv4(ip(other), "10.1.0.255", b"spoofed IP")
        ear.until(b"spoofed IP")
        # And behind them there are others, for what is routed: nothing leaves that is not of the network.
        bridge = bytes.fromhex(netlab.router.links()["pyr-web"]["address"].replace(":", ""))
        with Ear(netlab.outside, "in") as far:
            mouth.ipv4("203.0.113.7", OUTSIDE_4, b"of nobody", to=bridge)
            mouth.ipv4(ip(other), OUTSIDE_4, b"of the network", to=bridge)
            assert b"of nobody" not in far.until(b"of the network")


def test_router_advertisements_are_not_believed(netlab: Lab) -> None:
    """CVE-2020-13401, CVE-2020-10749: neither a container nor the bridge takes a route from who advertises one."""
    netlab.pyrunc("net", "create", "web", "--ipv6")
    one = netlab.container("one")
    attach(netlab, one, "web")
    assert one.sysctl("ipv6.conf.eth0.accept_ra") == "0"
    assert netlab.router.sysctl("ipv6.conf.pyr-web.accept_ra") == "0"


def test_no_ipv6_in_a_network_without(netlab: Lab) -> None:
    """CVE-2024-32473: not even the addresses that a kernel gives itself."""
    netlab.pyrunc("net", "create", "four")
    netlab.pyrunc("net", "create", "six", "--ipv6")
    one, two = netlab.container("one"), netlab.container("two")
    attach(netlab, one, "four")
    attach(netlab, two, "six")
    assert "inet6" not in one.ip("address show eth0") and "inet6" not in netlab.router.ip("address show pyr-four")
    assert "inet6 fe80" in two.ip("address show eth0")


def test_the_host_keeps_its_own_ipv6_route(netlab: Lab) -> None:
    """A host that forwards takes no router's advertisements, unless told: whoever had them has them still."""
    netlab.router.sysctl("ipv6.conf.out.accept_ra", "1")
    netlab.pyrunc("net", "create", "four")
    attach(netlab, netlab.container("one"), "four")
    before = [netlab.router.sysctl(f"ipv6.conf.{name}") for name in ("all.forwarding", "out.accept_ra")]
    netlab.pyrunc("net", "create", "six", "--ipv6")
    attach(netlab, netlab.container("two"), "six")
    after = [netlab.router.sysctl(f"ipv6.conf.{name}") for name in ("all.forwarding", "out.accept_ra")]
    assert (before, after) == (["0", "1"], ["1", "2"])
    assert netlab.router.sysctl("ipv4.ip_forward") == "1"
