# SPDX-License-Identifier: Apache-2.0
"""Networks: made, removed, and the default one, which is made when somebody first asks for it."""

from __future__ import annotations

import os
import time

from pyrunc.errors import NetworkError, UsageError
from pyrunc.linux.netlink import Route

from . import links
from .model import (
    DRIVERS,
    MODES,
    Network,
    Subnet,
    check_address,
    check_host_name,
    check_interface,
    check_name,
    pack_address,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .store import Store

DEFAULT = "default"
RESERVED = ("host", "none")  # what `image run` and docker's users call other things
#: Where subnets come from that nobody names: /24s of a corner that neither Docker nor Podman nor kind uses.
POOL = Subnet(4, 0x0AD00000, 12)  # 10.208.0.0/12
_POOL_PREFIX = 24
#: This host, groups; a link's own addresses and IPv4 ones as IPv6 writes them.
_NOT_FOR_NETWORKS = [Subnet.parse(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/96",
                                                     "::ffff:0.0.0.0/96", "fe80::/10", "ff00::/8")]
_MIN_MTU, _MAX_MTU = 576, 65535
_MIN_MTU_6 = 1280  # RFC 8200


def create(store: Store, name: str, *, driver: str = "bridge", subnets: Iterable[str] = (),
           gateways: Iterable[str] = (), ipv6: bool = False, mtu: int = 0, internal: bool = False,
           isolate: bool = True, dns: Iterable[str] = (), search: Iterable[str] = (), parent: str = "",
           mode: str = "") -> Network:
    """Make a network: what it is, not yet its bridge.  Raises UsageError, NetworkError."""
    if driver not in DRIVERS:
        raise UsageError(f"{driver!a} is no driver", hint=", ".join(DRIVERS))
    if name in RESERVED:
        raise UsageError(f"{name} can't be a network's name: `--net {name}` means something else")
    network = Network(
        check_name(name), driver=driver, mtu=mtu, internal=internal, isolate=isolate,
        dns=[check_address(address) for address in dns], search=[check_host_name(domain) for domain in search],
        created=int(time.time()))
    _check_device(network, parent, mode)
    wanted = [Subnet.parse(text) for text in subnets]
    if len({subnet.family for subnet in wanted}) < len(wanted):
        raise UsageError("a network has one subnet of IPv4 and one of IPv6 at most")
    least = _MIN_MTU_6 if ipv6 or any(subnet.family == 6 for subnet in wanted) else _MIN_MTU
    if mtu and not least <= mtu <= _MAX_MTU:
        raise UsageError(f"an MTU of {mtu} is out of range", hint=f"from {_MIN_MTU}, with IPv6 {_MIN_MTU_6}, "
                                                                  f"to {_MAX_MTU}")
    with store.locked():
        if store.has_network(name):
            raise NetworkError(f"there is a network {name} already")
        route = Route()
        try:
            _place(store, route, network, wanted, list(gateways), ipv6)
        finally:
            route.close()
        store.save_network(network)
    return network


def _check_device(network: Network, parent: str, mode: str) -> None:
    modes = MODES.get(network.driver, ())
    if parent and not modes:
        raise UsageError(f"--parent is for macvlan and ipvlan, not for {network.driver}")
    if mode and mode not in modes:
        raise UsageError(f"{mode!a} is no mode of {network.driver}", hint=", ".join(modes) or "it has none")
    network.parent = check_interface(parent) if parent else ""
    network.mode = mode or (modes[0] if modes else "")


def _place(store: Store, route: Route, network: Network, wanted: list[Subnet], gateways: list[str], ipv6: bool) -> None:
    """Where its addresses are, and what its bridge is called."""
    if network.driver == "none":
        if wanted or gateways or ipv6:
            raise UsageError("a network without devices has no subnet")
        return
    others = [(other, subnet) for other in store.networks() for subnet in other.subnets]
    taken = links.taken_subnets(route)
    for subnet in wanted:
        if subnet.size < 2 or subnet.prefix < 8:
            raise UsageError(f"{subnet} is no subnet to take addresses from", hint="from /8 on, and two at least")
        for its in _NOT_FOR_NETWORKS:
            if subnet.overlaps(its):
                raise UsageError(f"{subnet} is no subnet to take addresses from: {its} has another meaning")
        for other, its in others:
            if subnet.overlaps(its):
                raise NetworkError(f"{subnet} overlaps {its}, which is the network {other.name}'s")
        for its in taken if network.driver == "bridge" else ():
            if subnet.overlaps(its):
                raise NetworkError(f"{subnet} overlaps {its}, which this host has a route to")
    if not any(subnet.family == 4 for subnet in wanted) and network.driver == "bridge" and not \
            (wanted and not ipv6):
        wanted.insert(0, free_subnet([*taken, *(subnet for _, subnet in others)]))
    if ipv6 and not any(subnet.family == 6 for subnet in wanted):
        wanted.append(local_subnet())
    if not wanted:
        raise UsageError(f"a network of {network.driver} devices needs --subnet",
                         hint="that of the network which its parent is in")
    network.subnets = tuple(sorted(wanted, key=lambda subnet: subnet.family))
    network.gateways = _gateways(network, [check_address(gateway) for gateway in gateways])
    if network.driver == "bridge":
        network.interface = _bridge_name(store, route, network.name)
    elif not network.parent:
        network.parent = links.default_device(route)
        if not network.parent:
            raise NetworkError("this host has no default route to tell which device the network is on",
                               hint="--parent names it")
    elif links.find(route, network.parent) is None:
        raise NetworkError(f"this host has no network device {network.parent}")


def _gateways(network: Network, given: list[str]) -> tuple[str, ...]:
    """One for each subnet: as given, or the first address; "" where a foreign network has none that we know."""
    found = []
    for subnet in network.subnets:
        own = [gateway for gateway in given if len(pack_address(gateway)) * 8 == subnet.bits]
        if len(own) > 1:
            raise UsageError(f"{subnet} has one gateway, not {len(own)}")
        if own:
            first, last = subnet.usable()
            if not first <= subnet.offset(own[0]) <= last:
                raise UsageError(f"{own[0]} can't be a gateway: it stands for all of {subnet}")
            given.remove(own[0])
            found.append(own[0])
        elif network.driver == "bridge":
            found.append(subnet.address(subnet.usable()[0]))
        else:
            # ipvlan's l3 has no link to ask on: everything goes out by the device.
            found.append("" if network.internal or network.mode.startswith("l3") else
                         subnet.address(subnet.usable()[0]))
    if given:
        raise UsageError(f"the gateway {given[0]} is in none of the network's subnets")
    return tuple(found)


def _bridge_name(store: Store, route: Route, name: str) -> str:
    """pyr-NAME where that fits and is free."""
    used = {other.interface for other in store.networks()}
    candidate = links.BRIDGE_PREFIX + name
    while len(candidate) > 15 or candidate in used or links.find(route, candidate) is not None:
        candidate = links.BRIDGE_PREFIX + os.urandom(4).hex()
    return candidate


def free_subnet(taken: list[Subnet]) -> Subnet:
    """The first /24 of the pool that overlaps nothing.  Raises NetworkError."""
    size = 1 << (32 - _POOL_PREFIX)
    near = [subnet for subnet in taken if subnet.overlaps(POOL)]
    for step in range(POOL.size // size):
        candidate = Subnet(4, POOL.base + step * size, _POOL_PREFIX)
        if not any(candidate.overlaps(subnet) for subnet in near):
            return candidate
    raise NetworkError(f"no subnet of {POOL} is free", hint="--subnet names one")


def local_subnet() -> Subnet:
    """A /64 of our own (RFC 4193)."""
    return Subnet(6, int.from_bytes(b"\xfd" + os.urandom(5) + bytes(10), "big"), 64)


def find(store: Store, name: str) -> Network:
    """The network; the default one is made if it isn't there.  Raises NetworkError."""
    if name == DEFAULT and not store.has_network(name):
        try:
            return create(store, name)
        except NetworkError:
            if not store.has_network(name):  # else another was faster
                raise
    return store.network(name)
