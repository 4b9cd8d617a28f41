# SPDX-License-Identifier: Apache-2.0
"""What a network is told by: names, subnets, MAC addresses, published ports, read strictly."""

from __future__ import annotations

import pytest

from pyrunc.errors import UsageError
from pyrunc.net.model import (
    Attachment,
    Network,
    Publish,
    Subnet,
    check_container,
    check_interface,
    check_mac,
    check_name,
    parse_publish,
)


@pytest.mark.parametrize(("text", "parts"), [
    ("80", ("", 0, 80, 1, "tcp")),
    ("8080:80", ("", 8080, 80, 1, "tcp")),
    ("8080:80/udp", ("", 8080, 80, 1, "udp")),
    ("8080:80/SCTP", ("", 8080, 80, 1, "sctp")),
    ("127.0.0.1:8080:80", ("127.0.0.1", 8080, 80, 1, "tcp")),
    ("127.0.0.1::80", ("127.0.0.1", 0, 80, 1, "tcp")),
    (":8080:80", ("", 8080, 80, 1, "tcp")),
    ("0.0.0.0:53:53/udp", ("0.0.0.0", 53, 53, 1, "udp")),
    ("[fd00::1]:8080:80", ("fd00::1", 8080, 80, 1, "tcp")),
    ("[FD00:0::1]::80", ("fd00::1", 0, 80, 1, "tcp")),
    ("[::]:8080:80", ("::", 8080, 80, 1, "tcp")),
    ("8000-8010:80-90", ("", 8000, 80, 11, "tcp")),
    ("1-65535:1-65535", ("", 1, 1, 65535, "tcp")),
])
def test_published_ports(text: str, parts: tuple[str, int, int, int, str]) -> None:
    port = parse_publish(text)
    assert (port.host_ip, port.host, port.container, port.count, port.protocol) == parts
    again = Publish.from_data(port.to_data())
    assert again.to_data() == port.to_data()


@pytest.mark.parametrize("text", [
    "", ":", "80:", ":80:", "0:80", "80:0", "65536:80", "80:65536", "-1:80", "80:80:80:80", "a:80", "80/", "80/icmp",
    "80/tcp/udp", "::1:80:80", "[::1]80:80", "[::1:80:80", "[127.0.0.1]:80:80", "[::1]:80", "[::g]:80:80",
    "127.0.0:80:80", "127.0.0.256:80:80", "1_0:80", " 80:80", "80:80 ", "٨٠:80", "+80:80", "90-80:90-80",
    "8000-8010:80", "80:8000-8010", "80-90", "8000-8010:80-91", "localhost:80:80", "0x50:80", "127.0.0.1:80",
])
def test_what_publishes_nothing(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_publish(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a", "web", "a.b-c_d", "0", "x" * 64])
def test_names(name: str) -> None:
    assert check_name(name) == name and check_container(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a b", "-a", ".a", "a\n", "a@b", "é", "x" * 200])
def test_a_name_is_never_a_path(name: str) -> None:
    """CVE-2021-20206: it becomes a file's name."""
    for check in (check_name, check_container):
        with pytest.raises(UsageError):
            check(name)


@pytest.mark.parametrize("name", ["", "eth0/x", "a" * 16, ".", "..", "all", "default", "a b", "a:b", "%d"])
def test_what_no_device_is_called(name: str) -> None:
    with pytest.raises(UsageError):
        check_interface(name)


def test_mac_addresses() -> None:
    assert check_mac("02:AB:00:00:00:01") == "02:ab:00:00:00:01"
    for text in ("", "02:00:00:00:00", "02:00:00:00:00:0g", "01:00:5e:00:00:01", "00:00:00:00:00:00", "2:0:0:0:0:1",
                 "ff:ff:ff:ff:ff:ff", "02-00-00-00-00-01"):
        with pytest.raises(UsageError):
            check_mac(text)


@pytest.mark.parametrize(("text", "size", "first", "last"), [
    ("10.1.0.0/24", 256, "10.1.0.1", "10.1.0.254"),
    ("10.1.0.0/30", 4, "10.1.0.1", "10.1.0.2"),
    ("10.1.0.2/31", 2, "10.1.0.2", "10.1.0.3"),
    ("fd00:1::/64", 1 << 64, "fd00:1::1", "fd00:1::ffff:ffff:ffff:ffff"),
    ("fd00::8/126", 4, "fd00::9", "fd00::b"),
])
def test_subnets(text: str, size: int, first: str, last: str) -> None:
    subnet = Subnet.parse(text)
    assert (str(subnet), subnet.size) == (text, size)
    assert tuple(subnet.address(offset) for offset in subnet.usable()) == (first, last)
    assert first in subnet and last in subnet and "192.0.2.1" not in subnet and "2001:db8::1" not in subnet


@pytest.mark.parametrize("text", ["", "10.1.0.0", "10.1.0.0/", "10.1.0.0/33", "10.1.0.0/-1", "10.1.0.0/2_4",
                                  "fd00::/129", "10.1.0/24", "x/24", "10.1.0.0/024x", "10.1.0.0/255.255.255.0"])
def test_what_is_no_subnet(text: str) -> None:
    with pytest.raises(UsageError):
        Subnet.parse(text)


def test_a_subnet_with_bits_of_a_host_is_refused_with_the_right_one() -> None:
    with pytest.raises(UsageError) as error:
        Subnet.parse("10.1.0.7/24")
    assert "10.1.0.0/24" in error.value.hint


@pytest.mark.parametrize(("one", "other", "overlap"), [
    ("10.0.0.0/8", "10.1.0.0/24", True), ("10.1.0.0/24", "10.1.1.0/24", False), ("10.1.0.0/25", "10.1.0.128/25", False),
    ("fd00::/64", "fd00::/48", True), ("0.0.0.0/0", "::/0", False),
])
def test_overlaps(one: str, other: str, overlap: bool) -> None:
    assert Subnet.parse(one).overlaps(Subnet.parse(other)) is overlap
    assert Subnet.parse(other).overlaps(Subnet.parse(one)) is overlap


def test_values_survive_the_disk() -> None:
    network = Network("web", subnets=[Subnet.parse("10.1.0.0/24"), Subnet.parse("fd00::/64")],
                      gateways=["10.1.0.1", "fd00::1"], interface="pyr-web", mtu=1400, dns=["9.9.9.9"], isolate=False)
    assert Network.from_data(network.to_data()).to_data() == network.to_data()
    attachment = Attachment("c", "web", interface="eth0", host_interface="pyv1", mac="02:00:00:00:00:01",
                            addresses=["10.1.0.2/24"], ports=[parse_publish("1-2:3-4")], aliases=["db"])
    assert Attachment.from_data(attachment.to_data()).to_data() == attachment.to_data()
