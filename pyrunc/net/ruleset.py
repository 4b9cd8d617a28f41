# SPDX-License-Identifier: Apache-2.0
"""The tables of rules: `inet pyrunc` for what is routed, `bridge pyrunc` for what a container's port lets in.

Containers and published ports are elements of sets and maps, networks are chains that a map leads to by the bridge's
name: no packet is ever compared with one after the other, and an attachment comes and goes as one transaction of
elements.  `nft list table inet pyrunc` shows it with comments.

What others have in their tables counts as well: a packet needs everybody's leave (foreign.py).
"""

from __future__ import annotations

from _struct import pack

from pyrunc.linux import nftables as nft

from . import links
from .links import BRIDGE_PREFIX, VETH_PREFIX
from .model import PROTOCOLS, pack_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyrunc.linux.nftables import Message

    from .model import Attachment, Network, Publish, Subnet

TABLE = "pyrunc"
INET, BRIDGE = nft.NFPROTO_INET, nft.NFPROTO_BRIDGE
_RAW, _DSTNAT, _FILTER, _SRCNAT = -300, -100, 0, 100
_BRIDGE_FIRST = -300
_ESTABLISHED_RELATED, _DNATED = pack("=I", 2 | 4), pack("=I", 1 << 5)
_LOCAL = pack("=I", 2)  # RTN_LOCAL
_LOOPBACK_6 = bytes(15) + b"\x01"
_IP, _ARP, _IP6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
_V4, _V6 = bytes([nft.NFPROTO_IPV4]), bytes([nft.NFPROTO_IPV6])
_SOURCE, _DESTINATION = {4: 12, 6: 8}, {4: 16, 6: 24}  # where addresses are in a header
_ADDRESS = {4: nft.IPV4, 6: nft.IPV6}
_ICMPV6, _ADVERTISED_ROUTER, _REDIRECT = b"\x3a", b"\x86", b"\x89"
_SOLICITED_NEIGHBOUR, _ADVERTISED_NEIGHBOUR = b"\x87", b"\x88"
_LINK_LOCAL, _LINK_LOCAL_MASK = b"\xfe\x80" + bytes(14), b"\xff\xc0" + bytes(14)


def bridged(networks: Iterable[Network]) -> list[Network]:
    """The networks that there are rules for."""
    return [network for network in networks if network.driver == "bridge"]


# Matches

def _in(prefix: str) -> bytes:
    return nft.load_meta("iifname") + nft.compare(prefix.encode())


def _device(which: str, name: str, *, equal: bool = True) -> bytes:
    return nft.load_meta(which) + nft.compare(nft.interface(name), equal=equal)


def _family(family: int) -> bytes:
    return nft.load_meta("nfproto") + nft.compare(_V4 if family == 4 else _V6)


def _within(subnet: Subnet, offset: int, *, equal: bool = True) -> bytes:
    """The address at that place of the network header is of the subnet."""
    size = subnet.bits // 8
    bits = ((1 << subnet.bits) - subnet.size).to_bytes(size, "big")
    return nft.load_payload("network", offset, size) + nft.mask(bits) + nft.compare(subnet.raw, equal=equal)


def _loopback(offset: int) -> bytes:
    return _family(4) + nft.load_payload("network", offset, 1) + nft.compare(b"\x7f")


def _dnated() -> bytes:
    return nft.load_conntrack("status") + nft.mask(_DNATED) + nft.compare(bytes(4), equal=False)


# The tables

def base(owner: str) -> list[Message]:
    """Tables, chains, sets, and the rules that are the same whatever the networks are; as if anew each time.

    `owner`, a comment, says whose they are.
    """
    return [nft.add_table(INET, TABLE, owner), *_inet(), *_bridge()]


def _inet() -> list[Message]:
    found: list[Message] = []
    hooks = {
        "raw": ("filter", nft.HOOK_PREROUTING, _RAW), "arriving": ("nat", nft.HOOK_PREROUTING, _DSTNAT),
        "output": ("nat", nft.HOOK_OUTPUT, _DSTNAT), "leaving": ("nat", nft.HOOK_POSTROUTING, _SRCNAT),
        "forward": ("filter", nft.HOOK_FORWARD, _FILTER), "published": None,
    }
    for name, hook in hooks.items():
        found += [nft.add_chain(INET, TABLE, name, hook), nft.flush_chain(INET, TABLE, name)]
    for family in (4, 6):
        address = _ADDRESS[family]
        found += [
            nft.add_set(INET, TABLE, f"ports{family}", nft.PROTOCOL, nft.PORT, data=(address, nft.PORT)),
            nft.add_set(INET, TABLE, f"ports{family}_at", address, nft.PROTOCOL, nft.PORT, data=(address, nft.PORT)),
            nft.add_set(INET, TABLE, f"from{family}", address, verdicts=True, interval=True),
        ]
    found += [nft.add_set(INET, TABLE, name, nft.INTERFACE, verdicts=True)
              for name in ("sources", "into", "towards", "outof")]
    found.append(nft.add_set(INET, TABLE, "isolated", nft.INTERFACE))

    def rule(chain: str, *expressions: bytes, comment: str = "") -> None:
        found.append(nft.add_rule(INET, TABLE, chain, *expressions, comment=comment))

    # With route_localnet a container's packets to 127.0.0.1 would reach the host's services (CVE-2020-8558).
    for offset in (_DESTINATION[4], _SOURCE[4]):
        rule("raw", _in(BRIDGE_PREFIX), _loopback(offset), nft.counter(), nft.verdict("drop"),
             comment="loopback addresses are the host's alone")
    rule("raw", nft.load_meta("iifname"), nft.lookup_verdict("sources"), comment="what a network's source may be")
    for chain in ("arriving", "output"):
        rule(chain, nft.verdict("jump", "published"))
    for family in (4, 6):
        size = 4 if family == 4 else 16
        words = size // 4
        proto = nft.NFPROTO_IPV4 if family == 4 else nft.NFPROTO_IPV6
        rule("published", _family(family), nft.load_payload("network", _DESTINATION[family], size),
             nft.load_meta("l4proto", words), nft.load_payload("transport", 2, 2, words + 1),
             nft.lookup(f"ports{family}_at", into=0), nft.destination_nat(proto, 0, words),
             comment="ports of one address")
        # What was sent to ::1 would get no answer.  Left alone it is refused at once, and 127.0.0.1 tried next.
        but = nft.load_payload("network", _DESTINATION[6], 16) + nft.compare(_LOOPBACK_6, equal=False) \
            if family == 6 else b""
        rule("published", _family(family), but, nft.load_address_type(), nft.compare(_LOCAL), nft.load_meta("l4proto"),
             nft.load_payload("transport", 2, 2, 1), nft.lookup(f"ports{family}", into=0),
             nft.destination_nat(proto, 0, words), comment="ports of every address of the host")
    rule("leaving", nft.load_meta("oifname"), nft.lookup_verdict("towards"))
    for family in (4, 6):
        rule("leaving", _family(family), nft.load_payload("network", _SOURCE[family], 4 if family == 4 else 16),
             nft.lookup_verdict(f"from{family}"))
    rule("forward", nft.load_conntrack("state"), nft.mask(_ESTABLISHED_RELATED), nft.compare(bytes(4), equal=False),
         nft.verdict("accept"))
    rule("forward", nft.load_meta("iifname"), nft.lookup_verdict("outof"))
    rule("forward", nft.load_meta("oifname"), nft.lookup_verdict("into"))
    return found


def _bridge() -> list[Message]:
    """A port of a container lets in what is the container's: its MAC address and its IP addresses."""
    found: list[Message] = [nft.add_table(BRIDGE, TABLE)]
    for name, hook in (("prerouting", ("filter", nft.HOOK_PREROUTING, _BRIDGE_FIRST)), ("port", None)):
        found += [nft.add_chain(BRIDGE, TABLE, name, hook), nft.flush_chain(BRIDGE, TABLE, name)]
    found += [nft.add_set(BRIDGE, TABLE, "macs", nft.INTERFACE, nft.MAC),
              nft.add_set(BRIDGE, TABLE, "addresses4", nft.INTERFACE, nft.IPV4),
              nft.add_set(BRIDGE, TABLE, "addresses6", nft.INTERFACE, nft.IPV6)]
    drop, accept = nft.verdict("drop"), nft.verdict("accept")

    def rule(chain: str, *expressions: bytes, comment: str = "") -> None:
        found.append(nft.add_rule(BRIDGE, TABLE, chain, *expressions, comment=comment))

    def field(name: str, base: str, offset: int, size: int, *, inverted: bool = False) -> bytes:
        return nft.load_meta("iifname") + nft.load_payload(base, offset, size, 4) + nft.lookup(name, inverted=inverted)

    def protocol(number: bytes) -> bytes:
        return nft.load_meta("protocol") + nft.compare(number)

    def icmpv6(kind: bytes) -> bytes:
        return protocol(_IP6) + nft.load_meta("l4proto") + nft.compare(_ICMPV6) + \
            nft.load_payload("transport", 0, 1) + nft.compare(kind)

    rule("prerouting", _in(VETH_PREFIX), nft.verdict("jump", "port"))
    rule("port", field("macs", "link", 6, 6, inverted=True), nft.counter(), drop, comment="another's MAC address")
    rule("port", protocol(_ARP), field("macs", "network", 8, 6, inverted=True), nft.counter(), drop)
    rule("port", protocol(_ARP), field("addresses4", "network", 14, 4), accept)
    rule("port", protocol(_ARP), nft.load_payload("network", 14, 4), nft.compare(bytes(4)), accept, comment="a probe")
    rule("port", protocol(_ARP), nft.counter(), drop, comment="another's IP address")
    rule("port", protocol(_IP), field("addresses4", "network", 12, 4), accept)
    rule("port", protocol(_IP), nft.counter(), drop, comment="another's IP address")
    for kind in (_ADVERTISED_ROUTER, _REDIRECT):
        rule("port", icmpv6(kind), nft.counter(), drop, comment="a container is no router")
    nobody = nft.load_payload("network", 8, 16) + nft.compare(bytes(16))
    for kind, source in ((_ADVERTISED_NEIGHBOUR, b""), (_SOLICITED_NEIGHBOUR, nobody)):  # the latter: may I have it?
        rule("port", icmpv6(kind), source, field("addresses6", "transport", 8, 16, inverted=True), nft.counter(), drop,
             comment="another's IP address")
    rule("port", protocol(_IP6), field("addresses6", "network", 8, 16), accept)
    rule("port", protocol(_IP6), nobody, accept)
    rule("port", protocol(_IP6), nft.counter(), drop, comment="another's IP address")
    # A frame may hide in tags that the receiver takes off (CVE-2021-27853): what can't be looked into stays out.
    rule("port", nft.counter(), drop, comment="neither IP nor ARP")
    return found


def network(network: Network) -> list[Message]:
    """The chains of a network and what leads to them; as if anew each time."""
    name, device = network.name, network.interface
    found: list[Message] = []
    for kind in ("source", "in", "to", "from", "out"):
        found += [nft.add_chain(INET, TABLE, f"{kind}-{name}"), nft.flush_chain(INET, TABLE, f"{kind}-{name}")]
    drop, accept, back = nft.verdict("drop"), nft.verdict("accept"), nft.verdict("return")

    def rule(kind: str, *expressions: bytes, comment: str = "") -> None:
        found.append(nft.add_rule(INET, TABLE, f"{kind}-{name}", *expressions, comment=comment))

    for subnet in network.subnets:
        rule("source", _family(subnet.family), _within(subnet, _SOURCE[subnet.family]), back)
    source6 = nft.load_payload("network", _SOURCE[6], 16)
    rule("source", _family(6), source6, nft.mask(_LINK_LOCAL_MASK), nft.compare(_LINK_LOCAL), back)
    rule("source", _family(6), source6, nft.compare(bytes(16)), back)
    rule("source", nft.counter(), drop, comment="a source that is not of the network")

    rule("in", _device("iifname", device), accept, comment="within the network")
    if not network.internal:
        rule("in", _dnated(), accept, comment="published ports")
        if not network.isolate:
            rule("in", nft.load_meta("iifname"), nft.lookup("isolated", inverted=True), accept)
    rule("in", nft.counter(), drop, comment="from elsewhere")

    for subnet in network.subnets:
        own = _family(subnet.family) + _within(subnet, _SOURCE[subnet.family])
        rule("to", own, _dnated(), nft.masquerade(), comment="to a port that the same network publishes")
        if not network.internal:
            rule("from", _family(subnet.family), _device("oifname", device, equal=False), nft.masquerade())
    rule("to", _loopback(_SOURCE[4]), nft.masquerade(), comment="from the host's 127.0.0.1")
    if network.internal:
        rule("out", _device("oifname", device, equal=False), nft.counter(), drop, comment="nothing leaves")

    def lead(which: str, kind: str, word: str = "goto") -> None:
        found.extend(nft.add_elements(INET, TABLE, which,
                                      [nft.element_verdict(nft.interface(device), word, f"{kind}-{name}")]))

    lead("sources", "source")
    lead("into", "in")
    lead("towards", "to", "jump")
    lead("outof", "out", "jump")
    if network.isolate or network.internal:
        found += nft.add_elements(INET, TABLE, "isolated", [nft.element(nft.interface(device))])
    for subnet in network.subnets:
        interval = [nft.element_verdict(subnet.raw, "goto", f"from-{name}")]
        end = subnet.base + subnet.size
        if end < 1 << subnet.bits:
            interval.append(nft.element_end(end.to_bytes(subnet.bits // 8, "big")))
        found += nft.add_elements(INET, TABLE, f"from{subnet.family}", interval)
    return found


def attachment(attachment: Attachment) -> list[tuple[int, str, list[bytes]]]:
    """A container's elements: (family, set, elements)."""
    device = nft.interface(attachment.host_interface)
    mac = bytes.fromhex(attachment.mac.replace(":", ""))
    found: list[tuple[int, str, list[bytes]]] = [(BRIDGE, "macs", [nft.element(nft.key(device, mac))])]
    for address in attachment.ips:
        raw = pack_address(address)
        own = [raw] if len(raw) == 4 else [raw, links.link_local(mac)]
        found.append((BRIDGE, f"addresses{4 if len(raw) == 4 else 6}",
                      [nft.element(nft.key(device, each)) for each in own]))
    for port in attachment.ports:
        found += ports(port, attachment)
    return found


def ports(port: Publish, attachment: Attachment) -> list[tuple[int, str, list[bytes]]]:
    """The elements of a published port or range, in the maps of the families that it is for."""
    found = []
    for address in attachment.ips:
        raw = pack_address(address)
        family = 4 if len(raw) == 4 else 6
        if port.host_ip and (":" in port.host_ip) != (family == 6):
            continue
        everywhere = port.host_ip in ("", "0.0.0.0", "::")
        at = [] if everywhere else [pack_address(port.host_ip)]
        protocol = bytes([PROTOCOLS[port.protocol]])
        elements = [
            nft.element(nft.key(*at, protocol, pack(">H", port.host + step)),
                        nft.key(raw, pack(">H", port.container + step)))
            for step in range(port.count)]
        found.append((INET, f"ports{family}{'' if everywhere else '_at'}", elements))
    return found


def adding(found: Iterable[tuple[int, str, list[bytes]]], *, new: bool) -> list[Message]:
    return [message for family, name, elements in found
            for message in nft.add_elements(family, TABLE, name, elements, new=new)]


def deleting(found: Iterable[tuple[int, str, list[bytes]]]) -> list[Message]:
    return [message for family, name, elements in found
            for message in nft.delete_elements(family, TABLE, name, elements)]


def away() -> list[Message]:
    """Without the tables; it doesn't matter whether they were there."""
    return [message for family in (INET, BRIDGE)
            for message in (nft.add_table(family, TABLE), nft.delete_table(family, TABLE))]


def everything(networks: Sequence[Network], attachments: Iterable[Attachment], owner: str) -> list[Message]:
    """All anew, in one transaction."""
    found = away()
    networks = bridged(networks)
    if not networks:
        return found
    found += base(owner)
    for each in networks:
        found += network(each)
    gathered: dict[tuple[int, str], list[bytes]] = {}
    for each_attachment in attachments:
        for family, name, elements in attachment(each_attachment):
            gathered.setdefault((family, name), []).extend(elements)
    return found + adding(((family, name, elements) for (family, name), elements in gathered.items()), new=False)
