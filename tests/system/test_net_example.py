# SPDX-License-Identifier: Apache-2.0
"""Two containers on a bridge reach each other and, translated, the outside; published ports reach them."""

from __future__ import annotations

from pathlib import Path

import pytest
from netlab import OUTSIDE_4, OUTSIDE_6, PROTOCOLS, ROUTER_4, ROUTER_6, Lab, Unanswered
from netting import attach, gateway, ip

OUTSIDE = {4: OUTSIDE_4, 6: OUTSIDE_6}
ROUTER = {4: ROUTER_4, 6: ROUTER_6}


@pytest.mark.parametrize("family", [4, 6])
def test_two_containers_on_a_bridge(netlab: Lab, family: int) -> None:
    """The neighbour by its own address; the outside, which knows no way back, sees the router's."""
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24", "--ipv6")
    one, two = netlab.container("one"), netlab.container("two")
    here, there = attach(netlab, one, "web"), attach(netlab, two, "web")
    assert one.addresses("eth0") == here["addresses"]
    assert sorted(route.split()[0] for route in one.routes()) == sorted([
        "10.1.0.0/24", "default", "default", here["addresses"][1].partition("::")[0] + "::/64"])

    server = two.listen(80, family=family)
    netlab.outside.listen(80, family=family)
    assert one.ask(ip(there, family), 80)[:2] == ("two", ip(here, family))
    assert one.ask(OUTSIDE[family], 80)[:2] == ("outside", ROUTER[family])
    assert server.seen == [ip(here, family)]
    # The control: without the rules the question leaves with the container's address, and no answer finds back.
    netlab.router.nft("flush chain inet pyrunc from-web")
    assert one.hears_nothing(OUTSIDE[family], 80)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_published_port(netlab: Lab, protocol: str, family: int) -> None:
    """From outside, from the host by any of its addresses, from the container itself, a neighbour, another network."""
    for name in ("web", "other"):
        netlab.pyrunc("net", "create", name, "--ipv6")
    server, neighbour, stranger = (netlab.container(name) for name in ("server", "neighbour", "stranger"))
    made = attach(netlab, server, "web", "-p", f"8080:80/{protocol}")
    beside = attach(netlab, neighbour, "web")
    attach(netlab, stranger, "other")
    server.listen(80, protocol, family=family)
    outside = netlab.outside.ask(ROUTER[family], 8080, protocol)
    assert (outside.name, outside.source, outside.destination[-4:]) == (
        "server", OUTSIDE[family], (ip(made, family) if protocol == "tcp" else outside.destination)[-4:])
    hosts = [ROUTER[family], gateway(made, family), *(["127.0.0.1", "127.1.2.3"] if family == 4 else [])]
    for address in hosts:
        assert netlab.router.ask(address, 8080, protocol).name == "server", address
    for filtered in ("1", "0"):  # whether what a bridge forwards goes through the host's rules as well
        for name in ("iptables", "ip6tables") if Path("/proc/sys/net/bridge").exists() else ():
            netlab.router.sysctl(f"bridge.bridge-nf-call-{name}", filtered)
        for client in (server, neighbour, stranger):
            assert client.ask(ROUTER[family], 8080, protocol).name == "server", client.name
    # A neighbour, and the server itself, come back by the bridge's address, or they would answer past the host.
    assert neighbour.ask(gateway(made, family), 8080, protocol).source == gateway(made, family)
    assert server.ask(gateway(made, family), 8080, protocol).source == gateway(made, family)
    # Without the host's translation the neighbour is seen as itself.
    assert neighbour.ask(ip(made, family), 80, protocol).source == ip(beside, family)
    # The control: a port that isn't published.
    assert netlab.outside.hears_nothing(ROUTER[family], 80, protocol)


def test_localhost(netlab: Lab) -> None:
    """By ::1 a port can't be had; it is refused at once, so that 127.0.0.1, which programs try next, is reached."""
    netlab.pyrunc("net", "create", "web", "--ipv6")
    server = netlab.container("server")
    attach(netlab, server, "web", "-p", "8080:80")
    for family in (4, 6):
        server.listen(80, family=family)
    with pytest.raises(Unanswered, match="refused"):
        netlab.router.ask("::1", 8080)
    assert netlab.router.ask(ROUTER_6, 8080).name == "server"  # the control
    assert netlab.router.ask("127.0.0.1", 8080).name == "server"


def test_one_address_of_the_host_only(netlab: Lab) -> None:
    """CVE-2025-67499: a port with a host's address is that address's alone, and leaves others' traffic be."""
    netlab.pyrunc("net", "create", "web", "--ipv6")
    netlab.router.ip("address add 192.0.2.9/24 dev out")
    server, client = netlab.container("server"), netlab.container("client")
    attach(netlab, server, "web", "-p", "192.0.2.9:8080:80", "-p", "127.0.0.1:8081:80", "-p", f"[{ROUTER_6}]:8082:80",
           "-p", "0.0.0.0:8083:80", "-p", "[::]:8084:80")
    attach(netlab, client, "web")
    server.listen(80)
    server.listen(80, family=6)
    netlab.outside.listen(8080)
    assert netlab.outside.ask("192.0.2.9", 8080).name == "server"
    assert netlab.outside.hears_nothing(ROUTER_4, 8080)
    assert netlab.router.ask("127.0.0.1", 8081).name == "server"
    assert netlab.router.hears_nothing("127.0.0.2", 8081)
    assert netlab.outside.hears_nothing(ROUTER_4, 8081)
    assert netlab.outside.ask(ROUTER_6, 8082).name == "server"
    assert netlab.outside.hears_nothing(ROUTER_4, 8082)
    assert netlab.outside.ask(ROUTER_4, 8083).name == "server"
    assert netlab.outside.hears_nothing(ROUTER_6, 8083)
    assert netlab.outside.ask(ROUTER_6, 8084).name == "server"
    assert netlab.outside.hears_nothing(ROUTER_4, 8084)
    # What is on its way to somebody else's 8080 and 8083 is not ours.
    netlab.outside.listen(8083)
    assert client.ask(OUTSIDE_4, 8080).name == "outside"
    assert client.ask(OUTSIDE_4, 8083).name == "outside"


def test_ranges_and_ports_that_the_host_chooses(netlab: Lab) -> None:
    netlab.pyrunc("net", "create", "web")
    server = netlab.container("server")
    made = attach(netlab, server, "web", "-p", "8000-8009:80-89", "-p", "90", "-p", "91/udp")
    chosen = [port["hostPort"] for port in made["ports"][1:]]
    assert all(port > 1023 for port in chosen)
    for number in (80, 84, 89, 90):
        server.listen(number, name=f"at{number}")
    server.listen(91, "udp", name="at91")
    assert [netlab.outside.ask(ROUTER_4, port).name for port in (8000, 8004, 8009, chosen[0])] == [
        "at80", "at84", "at89", "at90"]
    assert netlab.outside.ask(ROUTER_4, chosen[1], "udp").name == "at91"
    assert netlab.outside.hears_nothing(ROUTER_4, 8010)
    assert netlab.pyrunc("net", "port", "server").splitlines() == [
        "80-89/tcp -> 0.0.0.0:8000-8009", f"90/tcp -> 0.0.0.0:{chosen[0]}", f"91/udp -> 0.0.0.0:{chosen[1]}"]
    assert netlab.pyrunc("net", "port", "server", "91/udp") == f"91/udp -> 0.0.0.0:{chosen[1]}\n"
    assert netlab.do("net", "port", "server", "91").err == \
        "pyrunc: net port: port 91 of server is not published\n"
    done = netlab.do("net", "port", "nobody")
    assert (done.code, done.err) == (1, "pyrunc: net port: nobody is in no network (`pyrunc net inspect` shows who is "
                                        "in one)\n")


@pytest.mark.parametrize("family", [4, 6])
def test_sctp_is_translated(netlab: Lab, family: int) -> None:
    """Its packets, whether or not this kernel has its sockets: an INIT chunk arrives at the container's port."""
    import socket
    from struct import pack, unpack

    netlab.pyrunc("net", "create", "web", "--ipv6")
    server = netlab.container("server")
    made = attach(netlab, server, "web", "-p", "8080:80/sctp")
    domain = socket.AF_INET if family == 4 else socket.AF_INET6
    with server.inside():
        ear = socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_SCTP)
    with netlab.outside.inside():
        mouth = socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_SCTP)
    chunk = pack(">BBHIIHHI", 1, 0, 20, 7, 65536, 1, 1, 1)
    packet = pack(">HHI", 5000, 8080, 0) + bytes(4) + chunk
    packet = packet[:8] + pack("<I", _crc32c(packet)) + packet[12:]
    ear.settimeout(5)
    mouth.sendto(packet, (ROUTER[family], 0))
    heard, peer = ear.recvfrom(2048)
    heard = heard[20:] if family == 4 else heard
    assert unpack(">HH", heard[:4]) == (5000, 80) and peer[0] == OUTSIDE[family]
    assert ip(made, family) in netlab.router.run("nft", "list", "map", "inet", "pyrunc", f"ports{family}")
    ear.close()
    mouth.close()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_a_port_that_is_taken(netlab: Lab) -> None:
    """By a container, or by a program of the host; the second comes to nothing, and leaves nothing."""
    netlab.pyrunc("net", "create", "web")
    first, second = netlab.container("first"), netlab.container("second")
    attach(netlab, first, "web", "-p", "8080-8085:80-85")
    first.listen(81)
    listening = netlab.router.listen(9090)
    for words, said in (
            (("-p", "8081:80"), "port 0.0.0.0:8081/tcp is published by first (`pyrunc net port` shows who has it)"),
            (("-p", "9090:80"), "port 9090/tcp of the host is in use by a program: address already in use (EADDRINUSE) "
                                "(publish another port, or stop what listens there)"),
            (("-p", "7000:80", "-p", "7000:81"), "0.0.0.0:7000/tcp is published twice"),
            (("-p", "[fd00::1]:7000:80"), "[fd00::1]:7000: the container has no IPv6 address in this network")):
        done = netlab.do("net", "attach", "second", "web", "--netns", second.path, *words)
        assert (done.code, done.err, done.out) == (1, f"pyrunc: net attach: {said}\n", "")
        assert second.links() == {}
    assert netlab.outside.ask(ROUTER_4, 8081).name == "first"
    listening.close()
    attach(netlab, second, "web", "-p", "9090:80", "-p", "8081:80/udp")


def test_names(netlab: Lab) -> None:
    """The network's containers, in the file that they have as /etc/hosts: it is changed in place."""
    netlab.pyrunc("net", "create", "web", "--ipv6")
    one, two = netlab.container("one"), netlab.container("two")
    first = attach(netlab, one, "web", "--alias", "db", "--alias", "db.example")
    path = netlab.net_root / "hosts" / "net-web"
    inode = path.stat().st_ino
    second = attach(netlab, two, "web")

    def named() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            if not line.startswith("#"):
                address, _, names = line.partition("\t")
                for name in names.split():
                    found.setdefault(name, []).append(address)
        return found

    both = {name: [ip(first), ip(first, 6)] for name in ("one", "db", "db.example")}
    assert named() == {"localhost": ["127.0.0.1", "::1"], "ip6-localhost": ["::1"], "ip6-loopback": ["::1"], **both,
                       "two": [ip(second), ip(second, 6)]}
    netlab.pyrunc("net", "detach", "one", "web")
    assert "one" not in named() and "db" not in named() and named()["two"] == [ip(second), ip(second, 6)]
    assert path.stat().st_ino == inode and path.stat().st_mode & 0o777 == 0o644
    for _ in range(3):
        attach(netlab, one, "web", *(word for number in range(200) for word in ("--alias", f"name-{number}")))
        netlab.pyrunc("net", "detach", "one", "web")
    assert list(named()) == ["localhost", "ip6-localhost", "ip6-loopback", "two"]
    assert path.stat().st_size < 20_000 and path.stat().st_ino == inode
