# SPDX-License-Identifier: Apache-2.0
"""What is there of an attachment, compared with what was made: devices, addresses, routes, rules, the lease."""

from __future__ import annotations

import errno

from pyrunc.errors import NetworkError
from pyrunc.linux.netlink import Route
from pyrunc.linux.nftables import NFPROTO_INET, Netfilter, delete_table

from . import links, ruleset
from .cni import OWN_FAILURE, CniError
from .ipam import Leases
from .model import family_of, pack_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .model import Attachment, Network
    from .store import Store

_NO_TABLE = "pyrunc-none"  # deleting it fails, and takes back all that was in the same transaction


def check(store: Store, network: Network, attachment: Attachment, netns: str, mac: str = "") -> None:
    """Raises CniError with all that is wrong; `mac` is the device's by now, where another plugin has changed it."""
    wrong: list[str] = []
    with store.locked():
        _check_leases(store, network, attachment, wrong)
        route = Route()
        try:
            if attachment.host_interface:
                _check_host(route, network, attachment, wrong)
        finally:
            route.close()
        if attachment.host_interface and not _rules_are_there(attachment):
            wrong.append("its rules are missing")
    _check_inside(network, attachment, netns, mac, wrong)
    if wrong:
        raise CniError(OWN_FAILURE, f"{attachment.container} is not as it was made: {wrong[0]}", "; ".join(wrong),
                       hint="`pyrunc net reload` restores rules and bridges")


def _check_leases(store: Store, network: Network, attachment: Attachment, wrong: list[str]) -> None:
    for address in attachment.ips:
        with _leases(store, network, family_of(address)) as leases:
            if address not in leases.taken():
                wrong.append(f"the address {address} isn't reserved")


def _leases(store: Store, network: Network, family: int) -> Leases:
    subnet = network.subnet(family)
    if subnet is None:
        raise NetworkError(f"the network {network.name} has no IPv{family} addresses")
    gateway = network.gateway(family)
    return Leases(f"{store.path}/leases/{network.name}.{family}", subnet, [gateway] if gateway else [])


def _check_host(route: Route, network: Network, attachment: Attachment, wrong: list[str]) -> None:
    bridge = links.find(route, network.interface)
    if bridge is None or not bridge.flags & 1:
        wrong.append(f"the bridge {network.interface} is missing or down")
    link = links.find(route, attachment.host_interface)
    if link is None:
        wrong.append(f"the host's device {attachment.host_interface} is missing")
    elif bridge is not None and link.master != bridge.index:
        wrong.append(f"the host's device {attachment.host_interface} is not at the bridge")


def _check_inside(network: Network, attachment: Attachment, netns: str, mac: str, wrong: list[str]) -> None:
    name = attachment.interface
    namespace = links.Namespace(netns)
    try:
        with namespace:
            route = Route()
    finally:
        namespace.close()
    try:
        link = links.find(route, name)
        if link is None:
            wrong.append(f"the device {name} is missing in the container")
            return
        if not link.flags & 1:
            wrong.append(f"the device {name} is down")
        if network.driver != "ipvlan" and link.address.hex(":") != (mac or attachment.mac).lower():
            wrong.append(f"the device {name} has the MAC address {link.address.hex(':')}")
        # As the kernel has them: the address, in a list of all.
        present = {(address.index, address.prefix, _address_of(address)) for address in route.addresses()}
        for each in attachment.addresses:
            address, _, prefix = each.partition("/")
            if (link.index, int(prefix), pack_address(address)) not in present:
                wrong.append(f"the device {name} has lost {each}")
        gateways = {entry.gateway for entry in route.routes() if not entry.destination and entry.device == link.index}
        wrong += [f"the default route by {gateway} is missing" for gateway in attachment.gateways
                  if pack_address(gateway) not in gateways]
    finally:
        route.close()


def _address_of(address: Any) -> bytes:
    """The device's own: where there is a peer it isn't what is called the address."""
    from pyrunc.linux.netlink import IFA_ADDRESS, IFA_LOCAL

    values = dict(address.attributes)
    found: bytes = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS) or b""
    return found


def _rules_are_there(attachment: Attachment) -> bool:
    """Whether all elements of the sets are: adding one that is there is refused, and nothing is changed either way."""
    netfilter = Netfilter()
    try:
        for family, name, each in ruleset.attachment(attachment):
            for one in each:
                try:
                    netfilter.commit([*ruleset.adding([(family, name, [one])], new=True),
                                      delete_table(NFPROTO_INET, _NO_TABLE)])
                except OSError as error:
                    if error.errno != errno.EEXIST:
                        return False
        return True
    finally:
        netfilter.close()


def available(store: Store, network: Network) -> None:
    """Whether another container could be attached.  Raises NetworkError, OSError."""
    Netfilter().close()
    with store.locked():
        for subnet in network.subnets:
            with _leases(store, network, subnet.family) as leases:
                leases.choose()


def describe(network: Network, attachment: Attachment) -> list[dict[str, Any]]:
    """The host's devices of an attachment, as a result of CNI has them."""
    route = Route()
    try:
        found = []
        for name in (network.interface, attachment.host_interface):
            link = links.find(route, name)
            found.append({"name": name, **({"mac": link.address.hex(":"), "mtu": link.mtu} if link else {})})
        return found
    finally:
        route.close()
