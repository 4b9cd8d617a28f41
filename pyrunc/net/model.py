# SPDX-License-Identifier: Apache-2.0
"""What a network, a published port and an attachment are: values, read strictly, written as JSON.

Addresses are text as inet_ntop(3) writes it; `ipaddress` would cost 4 ms of CPU to import.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

DRIVERS = ("bridge", "macvlan", "ipvlan", "none")
MODES = {"macvlan": ("bridge", "private", "vepa", "passthru"), "ipvlan": ("l2", "l3", "l3s")}
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
MAX_PORTS = 65535
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_HEX = frozenset("0123456789abcdefABCDEF")
_IFNAMSIZ = 15


def check_name(name: str) -> str:
    """`name`, if it may be a network's (CVE-2021-20206: it becomes a file's).  Raises UsageError."""
    if not name or len(name) > 64 or name[0] in ".-" or not _NAME.issuperset(name):
        raise UsageError(f"{name!a} is no name of a network", hint="at most 64 letters, digits, and inside _ . -")
    return name


def check_container(name: str) -> str:
    """`name`, if it may be a container's.  Raises UsageError."""
    if not name or len(name) > 160 or name[0] in ".-+" or not _NAME.issuperset(name.replace("+", "_")):
        raise UsageError(f"{name!a} is no name of a container", hint="at most 160 letters, digits, and inside _ + . -")
    return name


def check_interface(name: str) -> str:
    """`name`, if a network device may be called so (dev_valid_name).  Raises UsageError."""
    if not name or len(name) > _IFNAMSIZ or name in (".", "..", "all", "default") or not _NAME.issuperset(name):
        raise UsageError(f"{name!a} is no name of a network device", hint="at most 15 letters, digits and _ . -")
    return name


def check_host_name(name: str) -> str:
    """`name`, if it may stand in /etc/hosts.  Raises UsageError."""
    if not name or len(name) > 253 or not _NAME.issuperset(name) or name[0] == "-":
        raise UsageError(f"{name!a} is no host name", hint="letters, digits, dots and hyphens make one")
    return name


def family_of(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def pack_address(address: str) -> bytes:
    """The address as the kernel has it.  Raises UsageError."""
    try:
        return inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    except (OSError, ValueError):
        raise UsageError(f"{address!a} is no IP address") from None


def unpack_address(raw: bytes) -> str:
    return inet_ntop(AF_INET if len(raw) == 4 else AF_INET6, raw)


def check_address(address: str) -> str:
    """The address as it is written canonically.  Raises UsageError."""
    return unpack_address(pack_address(address))


def check_mac(text: str) -> str:
    """A unicast Ethernet address, in lower case.  Raises UsageError."""
    parts = text.split(":")
    if len(parts) != 6 or any(len(part) != 2 or not _HEX.issuperset(part) for part in parts):
        raise UsageError(f"{text!a} is no MAC address", hint="six bytes, as in 02:70:00:00:00:01")
    if int(parts[0], 16) & 1:
        raise UsageError(f"{text} is a group's MAC address, not a device's", hint="the first byte has to be even")
    if text.replace(":", "").strip("0") == "":
        raise UsageError(f"{text} is no device's MAC address")
    return text.lower()


class Subnet:
    """A range of addresses: `family` 4 or 6, `base` the first as a number, `prefix` the length of the mask."""

    __slots__ = ("base", "family", "prefix")

    def __init__(self, family: int, base: int, prefix: int) -> None:
        self.family = family
        self.base = base
        self.prefix = prefix

    @classmethod
    def parse(cls, text: str) -> Subnet:
        """`10.1.0.0/24`.  Raises UsageError."""
        address, slash, length = text.partition("/")
        raw = pack_address(address)
        bits = len(raw) * 8
        if not slash or not (length.isascii() and length.isdigit() and len(length) < 4 and int(length) <= bits):
            raise UsageError(f"{text!a} is no subnet", hint="as in 10.1.0.0/24 or fd00:1::/64")
        found = cls(4 if bits == 32 else 6, int.from_bytes(raw, "big"), int(length))
        if found.base & (found.size - 1):
            masked = cls(found.family, found.base & ~(found.size - 1), found.prefix)
            raise UsageError(f"{text} has bits of a host in it", hint=f"the subnet is {masked}")
        return found

    @property
    def bits(self) -> int:
        return 32 if self.family == 4 else 128

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return 1 << (self.bits - self.prefix)

    @property
    def raw(self) -> bytes:
        return self.base.to_bytes(self.bits // 8, "big")

    @property
    def last(self) -> bytes:
        return (self.base + self.size - 1).to_bytes(self.bits // 8, "big")

    def address(self, offset: int) -> str:
        """The address at `offset` from the first."""
        return unpack_address((self.base + offset).to_bytes(self.bits // 8, "big"))

    def offset(self, address: str) -> int:
        """Where `address` is in it.  Raises UsageError when it isn't."""
        raw = pack_address(address)
        offset = int.from_bytes(raw, "big") - self.base
        if len(raw) * 8 != self.bits or not 0 <= offset < self.size:
            raise UsageError(f"{address} is not in {self}")
        return offset

    def __contains__(self, address: str) -> bool:
        raw = pack_address(address)
        return len(raw) * 8 == self.bits and 0 <= int.from_bytes(raw, "big") - self.base < self.size

    def overlaps(self, other: Subnet) -> bool:
        return self.family == other.family and self.base < other.base + other.size and \
            other.base < self.base + self.size

    def usable(self) -> tuple[int, int]:
        """The first and the last offset that a device may have."""
        if self.family == 6:
            return (1, self.size - 1) if self.size > 2 else (0, self.size - 1)  # 0 is the routers' anycast address
        return (1, self.size - 2) if self.size > 2 else (0, self.size - 1)  # RFC 3021: /31 has neither

    def __str__(self) -> str:
        return f"{self.address(0)}/{self.prefix}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subnet) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash((self.base, self.prefix))


class Network:
    """A network: its subnets (at most one a family), each with the gateway at the same place in `gateways`."""

    __slots__ = ("created", "dns", "driver", "gateways", "interface", "internal", "isolate", "mode", "mtu", "name",
                 "parent", "search", "subnets")

    def __init__(self, name: str, *, driver: str = "bridge", subnets: Iterable[Subnet] = (),
                 gateways: Iterable[str] = (), interface: str = "", parent: str = "", mode: str = "", mtu: int = 0,
                 internal: bool = False, isolate: bool = True, dns: Iterable[str] = (), search: Iterable[str] = (),
                 created: int = 0) -> None:
        self.name = name
        self.driver = driver
        self.subnets = tuple(subnets)
        self.gateways = tuple(gateways)
        self.interface = interface  # the bridge
        self.parent = parent  # macvlan, ipvlan: the device below
        self.mode = mode
        self.mtu = mtu  # 0: the kernel's, or that of the device below
        self.internal = internal
        self.isolate = isolate
        self.dns = tuple(dns)
        self.search = tuple(search)
        self.created = created

    def subnet(self, family: int) -> Subnet | None:
        for subnet in self.subnets:
            if subnet.family == family:
                return subnet
        return None

    def gateway(self, family: int) -> str:
        """"" where there is none."""
        for subnet, gateway in zip(self.subnets, self.gateways, strict=True):
            if subnet.family == family:
                return gateway
        return ""

    def to_data(self) -> dict[str, Any]:
        return {
            "name": self.name, "driver": self.driver, "interface": self.interface, "parent": self.parent,
            "mode": self.mode, "subnets": [{"subnet": str(subnet), "gateway": gateway} for subnet, gateway in
                                           zip(self.subnets, self.gateways, strict=True)],
            "mtu": self.mtu, "internal": self.internal, "isolate": self.isolate, "dns": list(self.dns),
            "search": list(self.search), "created": self.created,
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Network:
        """Raises KeyError, TypeError, ValueError, UsageError for what `to_data` never wrote."""
        pairs = [(Subnet.parse(item["subnet"]), str(item["gateway"])) for item in data["subnets"]]
        return cls(
            check_name(data["name"]), driver=str(data["driver"]), subnets=[subnet for subnet, _ in pairs],
            gateways=[gateway for _, gateway in pairs], interface=str(data["interface"]), parent=str(data["parent"]),
            mode=str(data["mode"]), mtu=int(data["mtu"]), internal=bool(data["internal"]),
            isolate=bool(data["isolate"]), dns=data["dns"], search=data["search"], created=int(data["created"]))


class Publish:
    """Ports of the host that lead to ports of a container; `host` 0: one that is free."""

    __slots__ = ("container", "count", "host", "host_ip", "protocol")

    def __init__(self, host_ip: str, host: int, container: int, protocol: str = "tcp", count: int = 1) -> None:
        self.host_ip = host_ip  # "": every address of the host; 0.0.0.0 or :: every one of its family
        self.host = host
        self.container = container
        self.protocol = protocol
        self.count = count

    def to_data(self) -> dict[str, Any]:
        return {"hostIP": self.host_ip, "hostPort": self.host, "containerPort": self.container,
                "protocol": self.protocol, "count": self.count}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Publish:
        return cls(str(data["hostIP"]), int(data["hostPort"]), int(data["containerPort"]), str(data["protocol"]),
                   int(data["count"]))

    def check(self) -> Publish:
        """Itself, if the ports are ports.  Raises UsageError."""
        if self.protocol not in PROTOCOLS:
            raise UsageError(f"{self.protocol!a} is no protocol whose ports can be published", hint="tcp, udp or sctp")
        if self.host_ip:
            self.host_ip = check_address(self.host_ip)
            if self.host_ip == "::1":
                raise UsageError("what is sent to ::1 never leaves the loopback device: no port of it can be published",
                                 hint="127.0.0.1 can: programs that look for localhost try it next")
        for port in (self.container, self.container + self.count - 1, *((self.host, self.host + self.count - 1)
                                                                        if self.host else ())):
            if not 1 <= port <= MAX_PORTS:
                raise UsageError(f"{port} is no port", hint="from 1 to 65535")
        return self

    def __str__(self) -> str:
        """As `net port` and docker print the host's side."""
        address = self.host_ip or "0.0.0.0"
        return f"{f'[{address}]' if ':' in address else address}:{span(self.host, self.count)}"


def span(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def parse_publish(text: str) -> Publish:
    """`[HOSTIP:][HOSTPORT:]PORT[/PROTOCOL]`, ports perhaps ranges, IPv6 in brackets.  Raises UsageError.

    Without a host's port, or with an empty one, it is one that is free.
    """
    rest, slash, protocol = text.partition("/")
    host_ip = ""
    if rest.startswith("["):
        host_ip, bracket, rest = rest[1:].partition("]:")
        if not bracket or ":" not in host_ip:
            raise _bad_publish(text)
    parts = rest.split(":")
    if not host_ip and len(parts) == 3:
        host_ip = parts.pop(0)
        if host_ip and ":" not in host_ip:
            check_address(host_ip)
    if len(parts) > 2 or (slash and not protocol) or (host_ip and len(parts) == 1):
        raise _bad_publish(text)
    first, count = _range(parts[-1], text)
    host, hosts = (0, count) if len(parts) == 1 or not parts[0] else _range(parts[0], text)
    if hosts != count:
        raise UsageError(f"{text!a}: {hosts} ports of the host, {count} of the container",
                         hint="ranges have to be of the same length")
    if not host and count > 1:
        raise UsageError(f"{text!a}: a range needs the host's ports, too")
    return Publish(host_ip, host, first, protocol.lower() or "tcp", count).check()


def _range(text: str, whole: str) -> tuple[int, int]:
    """`8000` or `8000-8010`: the first, and how many."""
    low, dash, high = text.partition("-")
    first = _port(low, whole)
    last = _port(high, whole) if dash else first
    if last < first:
        raise UsageError(f"{whole!a}: the range {text} is backwards")
    return first, last - first + 1


def _port(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise _bad_publish(whole)
    if not 1 <= int(text) <= MAX_PORTS:
        raise UsageError(f"{whole!a}: {text} is no port", hint="from 1 to 65535")
    return int(text)


def _bad_publish(text: str) -> UsageError:
    return UsageError(f"{text!a} publishes nothing",
                      hint="[HOSTIP:][HOSTPORT:]PORT[/tcp|udp|sctp], as in 8080:80 or [fd00::1]:8000-8010:80-90/udp")


class Attachment:
    """A container's place in a network: all that is needed to undo it."""

    __slots__ = ("addresses", "aliases", "container", "created", "gateways", "host_interface", "interface", "mac",
                 "netns", "netns_id", "network", "ports")

    def __init__(self, container: str, network: str, *, interface: str, netns: str = "", netns_id: str = "",
                 host_interface: str = "", mac: str = "", addresses: Iterable[str] = (),
                 gateways: Iterable[str] = (), ports: Iterable[Publish] = (), aliases: Iterable[str] = (),
                 created: int = 0) -> None:
        self.container = container
        self.network = network
        self.interface = interface  # in the container
        self.netns = netns  # the path, if there was one
        self.netns_id = netns_id  # DEVICE:INODE of the namespace
        self.host_interface = host_interface  # the host's end of the pair
        self.mac = mac
        self.addresses = tuple(addresses)  # with the length of the mask: 10.1.0.2/24
        self.gateways = tuple(gateways)
        self.ports = tuple(ports)
        self.aliases = tuple(aliases)
        self.created = created

    @property
    def key(self) -> str:
        """What it is filed under."""
        return f"{self.container}/{self.network}@{self.interface}"

    @property
    def ips(self) -> list[str]:
        """The addresses without the mask."""
        return [address.partition("/")[0] for address in self.addresses]

    def ip(self, family: int) -> str:
        for address in self.ips:
            if family_of(address) == family:
                return address
        return ""

    def to_data(self) -> dict[str, Any]:
        return {
            "container": self.container, "network": self.network, "interface": self.interface, "netns": self.netns,
            "netnsID": self.netns_id, "hostInterface": self.host_interface, "mac": self.mac,
            "addresses": list(self.addresses), "gateways": list(self.gateways),
            "ports": [port.to_data() for port in self.ports], "aliases": list(self.aliases), "created": self.created,
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Attachment:
        """Raises KeyError, TypeError, ValueError, UsageError for what `to_data` never wrote."""
        return cls(
            check_container(data["container"]), check_name(data["network"]),
            interface=check_interface(data["interface"]), netns=str(data["netns"]), netns_id=str(data["netnsID"]),
            host_interface=str(data["hostInterface"]), mac=str(data["mac"]), addresses=data["addresses"],
            gateways=data["gateways"], ports=[Publish.from_data(port) for port in data["ports"]],
            aliases=data["aliases"], created=int(data["created"]))
