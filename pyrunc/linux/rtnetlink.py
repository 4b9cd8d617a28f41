# SPDX-License-Identifier: Apache-2.0
"""Requests that make devices, addresses and routes, for `netlink.Route.carry_out` (rtnetlink(7)).

A descriptor of a network namespace says where a device is to be; without one it is the socket's.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6
from _struct import pack

from .netlink import (
    IFA_ADDRESS,
    IFA_F_NODAD,
    IFA_FLAGS,
    IFA_LOCAL,
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    RTN_UNICAST,
    Request,
    attribute,
    name_bytes,
)

_NEW = NLM_F_CREATE | NLM_F_EXCL
_NLA_F_NESTED = 0x8000
_VETH_INFO_PEER = 1
_IFLA_MACVLAN_MODE, _IFLA_IPVLAN_MODE = 1, 1
_MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
_IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
_IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 4, 5
_IFLA_BRPORT_MODE = 4  # hairpin
_IFLA_AF_SPEC = 26
_IFLA_INET6_ADDR_GEN_MODE, _IN6_ADDR_GEN_MODE_EUI64 = 8, 0
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 254, 4, 0, 253
_RTNH_F_ONLINK = 4


def _header(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return pack("=BxHiII", 0, 0, index, flags, change)  # struct ifinfomsg


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, pack("=I", value))


def _nested(kind: int, *inner: bytes) -> bytes:
    return attribute(kind | _NLA_F_NESTED, b"".join(inner))


def _common(name: str, mac: bytes, mtu: int, namespace: int) -> bytes:
    found = attribute(IFLA_IFNAME, name_bytes(name))
    if mac:
        found += attribute(IFLA_ADDRESS, mac)
    if mtu:
        found += _number(IFLA_MTU, mtu)
    if namespace >= 0:
        found += attribute(IFLA_NET_NS_FD, pack("=i", namespace))
    return found


def _kind(kind: str, data: bytes = b"") -> bytes:
    return _nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode()),
                   *([_nested(IFLA_INFO_DATA, data)] if data else []))


def new_bridge(name: str, mac: bytes, mtu: int = 0) -> Request:
    """A bridge, down."""
    return RTM_NEWLINK, _NEW, _header() + _common(name, mac, mtu, -1) + _kind("bridge")


def new_veth(name: str, peer: str, namespace: int, *, peer_mac: bytes, mac: bytes = b"", mtu: int = 0,
             master: int = 0) -> Request:
    """A pair: `name` here, set up and a port of the bridge `master`; `peer` in the namespace, down."""
    other = _nested(_VETH_INFO_PEER, _header() + _common(peer, peer_mac, mtu, namespace))
    payload = _header(0, IFF_UP, IFF_UP) + _common(name, mac, mtu, -1) + _kind("veth", other)
    return RTM_NEWLINK, _NEW, payload + (_number(IFLA_MASTER, master) if master else b"")


def new_macvlan(name: str, parent: int, mode: str, namespace: int, *, mac: bytes, mtu: int = 0) -> Request:
    """A macvlan device on `parent`, in the namespace, down."""
    return (RTM_NEWLINK, _NEW, _header() + _common(name, mac, mtu, namespace) + _number(IFLA_LINK, parent)
            + _kind("macvlan", _number(_IFLA_MACVLAN_MODE, _MACVLAN_MODES[mode])))


def new_ipvlan(name: str, parent: int, mode: str, namespace: int, *, mtu: int = 0) -> Request:
    """An ipvlan device on `parent`, in the namespace, down; its MAC address is the parent's."""
    return (RTM_NEWLINK, _NEW, _header() + _common(name, b"", mtu, namespace) + _number(IFLA_LINK, parent)
            + _kind("ipvlan", attribute(_IFLA_IPVLAN_MODE, pack("=H", _IPVLAN_MODES[mode]))))


def delete_link(index: int) -> Request:
    return RTM_DELLINK, 0, _header(index)


def delete_link_named(name: str) -> Request:
    return RTM_DELLINK, 0, _header() + attribute(IFLA_IFNAME, name_bytes(name))


def link_up(index: int) -> Request:
    return RTM_NEWLINK, 0, _header(index, IFF_UP, IFF_UP)


def rename(index: int, name: str) -> Request:
    """Give a device that is down another name."""
    return RTM_NEWLINK, 0, _header(index) + attribute(IFLA_IFNAME, name_bytes(name))


def set_master(name: str, master: int) -> Request:
    """Make a device a port of the bridge."""
    return RTM_NEWLINK, 0, _header() + attribute(IFLA_IFNAME, name_bytes(name)) + _number(IFLA_MASTER, master)


def hairpin(name: str) -> Request:
    """Let a bridge send frames out of the port they came in by."""
    return (RTM_NEWLINK, 0, _header() + attribute(IFLA_IFNAME, name_bytes(name))
            + _nested(IFLA_LINKINFO, attribute(_IFLA_INFO_SLAVE_KIND, b"bridge"),
                      _nested(_IFLA_INFO_SLAVE_DATA, attribute(_IFLA_BRPORT_MODE, b"\x01"))))


def new_address(index: int, address: bytes, prefix: int, broadcast: bytes = b"") -> Request:
    """An address that is used at once: who hands it out knows that nobody else has it (no DAD)."""
    family = AF_INET if len(address) == 4 else AF_INET6
    payload = pack("=BBBBi", family, prefix, 0, _RT_SCOPE_UNIVERSE, index)  # struct ifaddrmsg
    payload += attribute(IFA_LOCAL, address) + attribute(IFA_ADDRESS, address)
    if broadcast:
        payload += attribute(4, broadcast)
    if family == AF_INET6:
        payload += _number(IFA_FLAGS, IFA_F_NODAD)
    return RTM_NEWADDR, _NEW, payload


def new_route(index: int, destination: bytes, prefix: int, gateway: bytes = b"", family: int = 0, *,
              onlink: bool = False) -> Request:
    """A route over a device; `destination` empty is the default route.  `family` 4 or 6 where nothing else tells."""
    size = len(destination) or len(gateway) or (4 if family == 4 else 16)
    payload = pack("=BBBBBBBBI", AF_INET if size == 4 else AF_INET6, prefix, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC,
                   _RT_SCOPE_UNIVERSE if gateway or size == 16 else _RT_SCOPE_LINK, RTN_UNICAST,
                   _RTNH_F_ONLINK if onlink else 0)  # struct rtmsg
    if destination:
        payload += attribute(RTA_DST, destination)
    if gateway:
        payload += attribute(RTA_GATEWAY, gateway)
    return RTM_NEWROUTE, _NEW, payload + _number(RTA_OIF, index)


def eui64_addresses(index: int) -> Request:
    """The device's link-local address is made of its MAC address, whatever the namespace's default."""
    inet6 = _nested(AF_INET6, attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_IN6_ADDR_GEN_MODE_EUI64])))
    return RTM_NEWLINK, 0, _header(index) + _nested(_IFLA_AF_SPEC, inet6)
