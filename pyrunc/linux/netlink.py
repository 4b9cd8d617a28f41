# SPDX-License-Identifier: Apache-2.0
"""Links and addresses through rtnetlink: requests, answers, attributes (netlink(7), rtnetlink(7))."""

from __future__ import annotations

import os
from _socket import socket
from _struct import pack, unpack_from
from errno import EAGAIN

AF_NETLINK = 16
_SOCK_RAW_CLOEXEC = 3 | 0o2000000
_NETLINK_ROUTE = 0
_SOL_NETLINK, _NETLINK_EXT_ACK = 270, 11

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
NLMSG_ERROR, _NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x2, 0x4, 0x300, 0x200, 0x400
_NLM_F_DUMP_INTR, _NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x10, 0x100, 0x200
_NLMSGERR_ATTR_MSG = 1

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_LINKINFO, IFLA_NET_NS_FD, IFLA_NEW_IFINDEX = 18, 28, 49
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_PROP_LIST, IFLA_ALT_IFNAME = 52, 53
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
IFA_FLAGS, IFA_RT_PRIORITY, IFA_PROTO = 8, 9, 11
IFF_UP = 1
IFA_F_NODAD, IFA_F_HOMEADDRESS, IFA_F_PERMANENT = 0x02, 0x10, 0x80
IFA_F_MANAGETEMPADDR, IFA_F_NOPREFIXROUTE, IFA_F_MCAUTOJOIN = 0x100, 0x200, 0x400
RT_SCOPE_UNIVERSE = 0
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
RTN_UNICAST = 1

_HEADER = "=IHHII"  # struct nlmsghdr: length, type, flags, sequence, port
_LINK = "=BxHiII"  # struct ifinfomsg: family, type, index, flags, change
_ROUTE = "=BBBBBBBBI"  # struct rtmsg: family, prefix lengths, tos, table, protocol, scope, type, flags
_ADDRESS = "=BBBBi"  # struct ifaddrmsg: family, prefix length, flags, scope, index
_TYPE_MASK = 0x3FFF  # of an attribute, without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_BUFFER = 1 << 16  # more than the kernel puts into one datagram (32 KiB)
_DUMPS = 20  # how often a list is asked for that changes meanwhile


def attribute(kind: int, value: bytes) -> bytes:
    """A struct rtattr with its value, padded."""
    return pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> list[tuple[int, bytes]]:
    """The attributes in `data`: (type, value)."""
    found = []
    at = 0
    while at + 4 <= len(data):
        length, kind = unpack_from("=HH", data, at)
        if length < 4:
            break
        found.append((kind & _TYPE_MASK, data[at + 4:at + length]))
        at += (length + 3) & ~3
    return found


Request = tuple[int, int, bytes]  # type, flags, payload


class Link:
    """A network device; `names` are its name and its alternative ones, `kind` is what rtnetlink calls its type."""

    __slots__ = ("address", "flags", "index", "kind", "link", "master", "mtu", "name", "names")

    def __init__(self, payload: bytes) -> None:
        _, _, self.index, self.flags, _ = unpack_from(_LINK, payload)
        self.name = ""
        self.names: list[str] = []
        self.kind = ""
        self.address = b""
        self.mtu = self.master = self.link = 0
        for kind, value in attributes(payload[16:]):
            if kind == IFLA_IFNAME:
                self.name = _text(value)
                self.names.append(self.name)
            elif kind == IFLA_ADDRESS:
                self.address = value
            elif kind == IFLA_MTU:
                self.mtu = unpack_from("=I", value)[0]
            elif kind == IFLA_MASTER:
                self.master = unpack_from("=I", value)[0]
            elif kind == IFLA_LINK:
                self.link = unpack_from("=I", value)[0]
            elif kind == IFLA_LINKINFO:
                for inner, text in attributes(value):
                    if inner == IFLA_INFO_KIND:
                        self.kind = _text(text)
            elif kind == IFLA_PROP_LIST:
                self.names += [_text(name) for inner, name in attributes(value) if inner == IFLA_ALT_IFNAME]


class Address:
    """An address of a device; `attributes` as the kernel told them."""

    __slots__ = ("attributes", "family", "flags", "index", "prefix", "scope")

    def __init__(self, payload: bytes) -> None:
        self.family, self.prefix, self.flags, self.scope, self.index = unpack_from(_ADDRESS, payload)
        self.attributes = attributes(payload[8:])
        for kind, value in self.attributes:
            if kind == IFA_FLAGS:  # all 32 bits of them
                self.flags = unpack_from("=I", value)[0]


class RouteEntry:
    """A route: `destination` is the first address, empty in a default route; `device` 0 where it has several."""

    __slots__ = ("destination", "device", "family", "gateway", "prefix", "table", "type")

    def __init__(self, payload: bytes) -> None:
        self.family, self.prefix, _, _, self.table, _, _, self.type, _ = unpack_from(_ROUTE, payload)
        self.destination = self.gateway = b""
        self.device = 0
        for kind, value in attributes(payload[12:]):
            if kind == RTA_DST:
                self.destination = value
            elif kind == RTA_GATEWAY:
                self.gateway = value
            elif kind == RTA_OIF:
                self.device = unpack_from("=I", value)[0]
            elif kind == RTA_TABLE:  # all 32 bits of it
                self.table = unpack_from("=I", value)[0]


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "surrogateescape")


def name_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape") + b"\0"


class NetlinkError(OSError):
    """A refusal: `syscall` is the family that refused, `said` the kernel's own words, if it has some."""

    def __init__(self, number: int, syscall: str, said: str) -> None:
        super().__init__(number, os.strerror(number))
        self.syscall = syscall
        self.said = said


class Socket:
    """A netlink socket of a family; it stays in the network namespace it was made in."""

    __slots__ = ("_family", "_sequence", "_socket")

    def __init__(self, protocol: int, family: str) -> None:
        self._socket = socket(AF_NETLINK, _SOCK_RAW_CLOEXEC, protocol)
        self._family = family
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def _ask(self, kind: int, flags: int, payload: bytes) -> list[bytes]:
        """Send a request; the payloads of the answers.  Raises NetlinkError.

        What changed while the kernel listed it may lack entries, or have some twice: it is asked again.
        """
        for _ in range(_DUMPS):
            found, whole = self._ask_once(kind, flags, payload)
            if whole:
                return found
        raise NetlinkError(EAGAIN, self._family, "what is to be listed changes all the time")

    def _ask_once(self, kind: int, flags: int, payload: bytes) -> tuple[list[bytes], bool]:
        """The answers, and whether they are of one moment."""
        self._sequence += 1
        header = pack(_HEADER, 16 + len(payload), kind, flags | NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(header + payload)
        found: list[bytes] = []
        whole = True
        while True:
            for answer, answer_flags, sequence, body in messages(self._socket.recv(_BUFFER)):
                if sequence != self._sequence:
                    continue
                whole = whole and not answer_flags & _NLM_F_DUMP_INTR
                if answer == NLMSG_ERROR:
                    failure = refusal(body, answer_flags, self._family)
                    if failure is not None:
                        raise failure
                    return found, whole
                if answer == _NLMSG_DONE:
                    number = unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if number < 0:  # what ended the list before its end
                        raise NetlinkError(-number, self._family, "")
                    return found, whole
                found.append(body)
                if not answer_flags & NLM_F_MULTI:
                    return found, whole


class Route(Socket):
    """A rtnetlink socket."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_NETLINK_ROUTE, "rtnetlink")
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)

    def links(self) -> list[Link]:
        """Every device.  Raises OSError."""
        return [Link(payload) for payload in self._ask(RTM_GETLINK, NLM_F_DUMP, pack(_LINK, 0, 0, 0, 0, 0))]

    def link(self, name: str = "", index: int = 0) -> Link:
        """The device of that name or number.  Raises OSError, ENODEV when there is none."""
        query = attribute(IFLA_IFNAME, name_bytes(name)) if name else b""
        return Link(self._ask(RTM_GETLINK, 0, pack(_LINK, 0, 0, index, 0, 0) + query)[0])

    def addresses(self) -> list[Address]:
        """Every address of every device.  Raises OSError."""
        return [Address(payload) for payload in self._ask(RTM_GETADDR, NLM_F_DUMP, pack(_ADDRESS, 0, 0, 0, 0, 0))]

    def routes(self) -> list[RouteEntry]:
        """Every route of every table, both families.  Raises OSError."""
        return [RouteEntry(payload) for payload in self._ask(RTM_GETROUTE, NLM_F_DUMP, bytes(12))]

    def move(self, index: int, namespace: int, name: str, new_index: int) -> None:
        """Move a device into the network namespace behind a descriptor, as `name` (or a template with %d).

        IFLA_NEW_IFINDEX, Linux 5.13.  Raises OSError; the device may have been moved when the name was refused.
        """
        self._ask(RTM_NEWLINK, NLM_F_ACK, pack(_LINK, 0, 0, index, 0, 0)
                  + attribute(IFLA_NET_NS_FD, pack("=i", namespace)) + attribute(IFLA_IFNAME, name_bytes(name))
                  + attribute(IFLA_NEW_IFINDEX, pack("=i", new_index)))

    def set_up(self, index: int) -> None:
        """Set a device up.  Raises OSError."""
        self._ask(RTM_NEWLINK, NLM_F_ACK, pack(_LINK, 0, 0, index, IFF_UP, IFF_UP))

    def add_address(self, index: int, family: int, prefix: int, scope: int, rest: list[tuple[int, bytes]]) -> None:
        """Give a device an address.  Raises OSError."""
        self._ask(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, pack(_ADDRESS, family, prefix, 0, scope, index)
                  + b"".join(attribute(kind, value) for kind, value in rest))

    def carry_out(self, requests: list[Request]) -> None:
        """Send requests in one datagram, each to be acknowledged.

        The kernel goes on after one that it refuses; the first refusal is raised, an OSError.
        """
        first = self._sequence + 1
        parts = []
        for kind, flags, payload in requests:
            self._sequence += 1
            parts.append(pack(_HEADER, 16 + len(payload), kind, flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence, 0))
            parts.append(payload + bytes(-len(payload) % 4))
        self._socket.send(b"".join(parts))
        left = len(requests)
        failure: NetlinkError | None = None
        while left:
            for answer, flags, sequence, body in messages(self._socket.recv(_BUFFER)):
                if answer == NLMSG_ERROR and first <= sequence <= self._sequence:
                    left -= 1
                    failure = failure or refusal(body, flags, self._family)
        if failure is not None:
            raise failure


def messages(datagram: bytes) -> list[tuple[int, int, int, bytes]]:
    """The messages in a datagram: type, flags, sequence number, payload."""
    found = []
    at = 0
    while at + 16 <= len(datagram):
        length, kind, flags, sequence, _ = unpack_from(_HEADER, datagram, at)
        if length < 16:
            break
        found.append((kind, flags, sequence, datagram[at + 16:at + length]))
        at += (length + 3) & ~3
    return found


def refusal(body: bytes, flags: int, syscall: str) -> NetlinkError | None:
    """struct nlmsgerr: a negative errno (0 is an acknowledgement), the request, and perhaps attributes."""
    number = -unpack_from("=i", body)[0]
    if not number:
        return None
    said = ""
    if flags & _NLM_F_ACK_TLVS:
        request = 16 if flags & _NLM_F_CAPPED else (unpack_from("=I", body, 4)[0] + 3) & ~3
        for kind, value in attributes(body[4 + request:]):
            if kind == _NLMSGERR_ATTR_MSG:
                said = _text(value)
    return NetlinkError(number, syscall, said)
