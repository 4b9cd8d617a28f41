# SPDX-License-Identifier: Apache-2.0
"""A container's place in a network: made, undone, made again by `reload`, tidied up by `prune`.

While something is made or undone it is the store's working.json, which says all that has to be undone.  Each step of
undoing is harmless where the step it undoes has not been done; so whoever finds a working.json undoes it first.
"""

from __future__ import annotations

import errno
import os
import time

from pyrunc.errors import NetworkError, PyruncError, UsageError, kernel_error
from pyrunc.linux.netlink import Route
from pyrunc.linux.nftables import Netfilter

from . import foreign, gateways, hosts, links, networks, ruleset
from . import ports as published
from .ipam import Leases
from .model import (
    Attachment,
    Network,
    check_address,
    check_container,
    check_host_name,
    check_interface,
    check_mac,
    family_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyrunc.linux.nftables import Message

    from .links import Namespace
    from .model import Publish
    from .store import Store

    Warn = Callable[[str], None]

_PORT_TRIES = 32


def _silent(_: str) -> None:
    pass


def attach(store: Store, network: str, *, container: str, netns: str | int, ip: Iterable[str] = (), mac: str = "",
           publish: Iterable[Publish] = (), aliases: Iterable[str] = (), ifname: str = "",
           warn: Warn = _silent) -> Attachment:
    """Give the container in the network namespace (a path, or a descriptor) a place in the network.

    `ip` are addresses to have, at most one a family; else they are free ones.  `publish` are ports of the host.  The
    other containers of the network know it by its name and the `aliases`.  All of it is done, or nothing.
    Raises PyruncError.
    """
    found = networks.find(store, network)
    namespace = links.Namespace(netns)
    try:
        if namespace.identity == links.own_namespace():
            raise NetworkError("the container is in the host's own network namespace",
                               hint="give it a network namespace of its own")
        wanted = Attachment(
            check_container(container), found.name, interface=check_interface(ifname) if ifname else "",
            netns=namespace.path, netns_id=namespace.identity, mac=check_mac(mac) if mac else "",
            addresses=[check_address(address) for address in ip], ports=[port.check() for port in publish],
            aliases=[check_host_name(alias) for alias in aliases], created=int(time.time()))
        with _Work(store, warn) as work, store.locked():
            work.recover()
            return work.attach(found, wanted, namespace)
    finally:
        namespace.close()


def detach(store: Store, network: str, *, container: str, ifname: str = "", warn: Warn = _silent) -> bool:
    """Undo `attach`, whatever is left of it; whether there was anything.  Raises PyruncError."""
    with _Work(store, warn) as work, store.locked():
        done = work.recover(container, network)
        for attachment in store.attachments(network=network, container=check_container(container)):
            if not ifname or attachment.interface == ifname:
                work.detach(attachment)
                gateways.hand_on(store, attachment, warn)
                done = True
        return done


def reload(store: Store, *, warn: Warn = _silent) -> int:
    """Make bridges and rules anew, as after somebody flushed them; of how many attachments."""
    with _Work(store, warn) as work, store.locked():
        work.recover()
        return work.rebuild()


def prune(store: Store, *, warn: Warn = _silent) -> list[str]:
    """Undo what is left of containers that have gone, and take their addresses back; the attachments' keys."""
    with _Work(store, warn) as work, store.locked():
        work.recover()
        return work.prune()


def remove_network(store: Store, name: str, *, force: bool = False, warn: Warn = _silent) -> None:
    """Remove a network, its bridge and its rules.  Raises NetworkError while containers are in it, unless `force`."""
    with _Work(store, warn) as work, store.locked():
        work.recover()
        network = store.network(name)
        for attachment in store.attachments(network=name):
            if not force and work.is_alive(attachment):
                raise NetworkError(f"{attachment.container} is in the network {name}",
                                   hint=f"`pyrunc net detach {attachment.container} {name}`, or --force")
            work.detach(attachment)
            gateways.hand_on(store, attachment, warn)
        work.remove(network)


class _Work:
    """One command's work, under the store's lock: its sockets, made when they are first needed."""

    __slots__ = ("_netfilter", "_route", "_tables", "store", "warn")

    def __init__(self, store: Store, warn: Warn) -> None:
        self.store = store
        self.warn = warn
        self._route: Route | None = None
        self._netfilter: Netfilter | None = None
        self._tables = False  # whether they were there when they were first looked at

    @property
    def route(self) -> Route:
        if self._route is None:
            self._route = Route()
        return self._route

    @property
    def netfilter(self) -> Netfilter:
        if self._netfilter is None:
            self._netfilter = Netfilter()
            try:
                self._check_owner(self._netfilter)
            except BaseException:
                self._netfilter.close()
                self._netfilter = None
                raise
        return self._netfilter

    def _check_owner(self, netfilter: Netfilter) -> None:
        """The tables of this network namespace are one store's.  Raises NetworkError where they are another's."""
        owner = netfilter.table_comment(ruleset.INET, ruleset.TABLE)
        self._tables = owner is not None
        if not owner or owner == self.store.owner:
            return
        path = self.store.path_of(owner)
        exists = os.path.isdir(path)
        if exists and os.path.samefile(path, self.store.path):
            return
        if exists or any(link.name.startswith(links.VETH_PREFIX) for link in self.route.links()):
            raise NetworkError(f"the networks of this network namespace are kept in {path}, not in {self.store.path}",
                               hint=f"`--net-root {path}`, or a network namespace of its own" if exists else
                               f"there is no {path} here, but there are containers; without them this can be overcome")
        self.rebuild()  # somebody has removed it, and the rules are nobody's

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._route, self._netfilter):
            if each is not None:
                each.close()

    def recover(self, container: str = "", network: str = "") -> bool:
        """Undo what somebody worked on who died; whether it was this container's place in this network."""
        attachment = self.store.interrupted()
        if attachment is None:
            return False
        self._undo(attachment)
        return (attachment.container, attachment.network) == (container, network)

    # Attaching

    def attach(self, network: Network, wanted: Attachment, namespace: Namespace) -> Attachment:
        if network.driver == "bridge":
            self._renew(network)
        inside = links.names_inside(namespace)
        self._check(network, wanted, inside)
        self._choose_interface(wanted, inside)
        if network.driver == "bridge":
            wanted.host_interface = links.VETH_PREFIX + os.urandom(6).hex()
        wanted.addresses = tuple(self._addresses(network, wanted))
        published.check(wanted.ports, wanted.ips)
        if not wanted.mac and wanted.addresses and network.driver != "ipvlan":
            wanted.mac = links.mac_of(wanted.ips[0]).hex(":")
        wanted.gateways = gateways.choose(self.store, network, wanted)
        for attempt in range(_PORT_TRIES):
            ports = wanted.ports
            wanted.ports = tuple(published.choose(port) for port in ports)
            try:
                self._make(network, wanted, namespace)
                return wanted
            except _PortTaken as taken:
                wanted.ports = ports
                if attempt == _PORT_TRIES - 1 or any(port.host for port in ports):
                    raise NetworkError(str(taken), hint="`pyrunc net port` shows who has it") from None
        raise AssertionError("unreachable")

    def _renew(self, network: Network) -> None:
        """Make good what has been taken away since the last container came: by a reboot, or by somebody."""
        _ = self.netfilter  # refused before anything is done, if at all
        bridge = links.find(self.route, network.interface)
        if bridge is not None and self._tables:
            return
        alive = False
        for attachment in self.store.attachments(network=network.name if self._tables else ""):
            if self.is_alive(attachment):
                alive = True
            elif attachment.network == network.name:
                self.detach(attachment)
        if alive:
            self.rebuild()

    def _check(self, network: Network, wanted: Attachment, inside: set[str]) -> None:
        for other in self.store.attachments(network=network.name, container=wanted.container):
            if not self.is_alive(other):
                self.detach(other)
            elif not wanted.interface or other.interface == wanted.interface:
                raise NetworkError(f"{wanted.container} is in the network {network.name} already, "
                                   f"as {other.interface}")
        if network.driver != "bridge" and wanted.ports:
            raise NetworkError(f"ports can't be published from {network.name}, a network of the driver "
                               f"{network.driver}", hint="its containers are reached by their own addresses"
                               if network.driver != "none" else "")
        if network.internal and wanted.ports:
            raise NetworkError(f"{network.name} is an internal network: none of its ports can be published")
        if wanted.mac and network.driver in ("ipvlan", "none"):
            raise UsageError(f"in a network of the driver {network.driver} no MAC address can be chosen")
        if wanted.interface in inside:
            raise NetworkError(f"the container has a network device {wanted.interface} already",
                               hint="--interface gives it another name")

    def _choose_interface(self, wanted: Attachment, inside: set[str]) -> None:
        number = 0
        while not wanted.interface:
            name = f"eth{number}"
            if name not in inside:
                wanted.interface = name
            number += 1

    def _leases(self, network: Network, family: int) -> Leases:
        subnet = network.subnet(family)
        assert subnet is not None
        gateway = network.gateway(family)
        return Leases(f"{self.store.path}/leases/{network.name}.{family}", subnet, [gateway] if gateway else [])

    def _addresses(self, network: Network, wanted: Attachment) -> list[str]:
        """Those that are asked for, or free ones, with the mask; not yet taken."""
        found = []
        asked = {family_of(address): address for address in wanted.addresses}
        if len(asked) < len(wanted.addresses):
            raise UsageError("a container has one IPv4 and one IPv6 address in a network")
        for family, address in asked.items():
            if network.subnet(family) is None:
                raise NetworkError(f"{address}: the network {network.name} has no IPv{family} addresses")
        for subnet in network.subnets:
            with self._leases(network, subnet.family) as leases:
                address = asked.get(subnet.family, "")
                if address:
                    leases.check(address)
                else:
                    address = self._free(network, leases)
                found.append(f"{address}/{subnet.prefix}")
        return found

    def _free(self, network: Network, leases: Leases) -> str:
        try:
            return leases.choose()
        except NetworkError:
            gone = [attachment for attachment in self.store.attachments(network=network.name)
                    if not self.is_alive(attachment)]
            for attachment in gone:
                self.detach(attachment)
            self._reclaim(network)
            return leases.choose()

    def _make(self, network: Network, wanted: Attachment, namespace: Namespace) -> None:
        self.store.begin(wanted)
        try:
            for address in wanted.ips:
                with self._leases(network, family_of(address)) as leases:
                    leases.take(address)
            master = 0
            if network.driver == "bridge":
                master = self._bridge(network)
                self._add_elements(network, wanted)
            if network.driver == "none":
                links.loopback(namespace)
            else:
                links.make_device(self.route, network, wanted, namespace, master)
                wanted.mac = links.furnish(network, wanted, namespace)
            if wanted.ports:
                published.forget_packets(wanted)
            hosts.add(self.store, network, wanted)
            self.store.finish(wanted)
        except BaseException:
            self._undo(wanted, namespace)
            raise

    def _bridge(self, network: Network) -> int:
        """The bridge, and all that is the network's own; its number."""
        families = [subnet.family for subnet in network.subnets]
        if not network.internal:
            links.forward(families)
        link = links.find(self.route, network.interface)
        if link is None:
            foreign.look_for_routes(self.route, network, self.warn)
            self._commit([*ruleset.base(self.store.owner), *ruleset.network(network)])
        master = links.ensure_bridge(self.route, network)
        if not network.internal:
            foreign.admit(self.netfilter, network, self.warn)
        return master

    def _add_elements(self, network: Network, wanted: Attachment) -> None:
        elements = ruleset.attachment(wanted)
        batch = ruleset.adding(elements, new=True)
        try:
            self.netfilter.commit(batch)
        except OSError as error:
            if error.errno == errno.ENOENT:  # somebody has flushed the ruleset
                self.rebuild()
                self._commit(batch)
            elif error.errno == errno.EEXIST:
                raise _PortTaken(published.who_has(wanted, self.store.attachments())) from None
            else:
                raise kernel_error("add the rules", error) from None
        if wanted.ports and network.subnet(4) is not None:
            # Only now, with the guard in place: what comes from 127.0.0.1 may be routed to this bridge.
            links.route_localnet(network)

    def _commit(self, batch: list[Message]) -> None:
        try:
            self.netfilter.commit(batch)
        except OSError as error:
            if error.errno == errno.EEXIST:
                raise _PortTaken("a port is published already") from None
            hint = "this kernel has no nf_tables" if error.errno in (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP) else ""
            raise kernel_error("set the rules", error, hint=hint) from None

    # Undoing

    def detach(self, attachment: Attachment) -> None:
        if attachment.host_interface:
            _ = self.netfilter
        self.store.begin_undoing(attachment)
        self._undo(attachment)

    def _undo(self, attachment: Attachment, namespace: Namespace | None = None) -> None:
        """In reverse, whatever of it was done.  The network itself may be gone."""
        try:
            network: Network | None = self.store.network(attachment.network)
        except NetworkError:
            network = None
        hosts.remove(self.store, attachment)
        if attachment.host_interface:
            self._delete_elements(attachment)
        opened = None
        if not attachment.host_interface and namespace is None and attachment.netns and \
                links.is_namespace(attachment.netns, attachment.netns_id):
            namespace = opened = links.Namespace(attachment.netns)
        try:
            if attachment.interface and (network is None or network.driver != "none"):
                links.remove_device(self.route, attachment, namespace)
        finally:
            if opened is not None:
                opened.close()
        if attachment.ports:
            published.forget_packets(attachment)
        if network is not None:
            for address in attachment.ips:
                if network.subnet(family_of(address)) is not None:
                    with self._leases(network, family_of(address)) as leases:
                        leases.release(address)
        self.store.finish_undoing(attachment)

    def _delete_elements(self, attachment: Attachment) -> None:
        """The first element is under a name that nobody else has: without it nothing of it was ever added.

        Then a published port in the maps is another's, and stays.
        """
        elements = ruleset.attachment(attachment)
        if self._deleted(elements):
            return
        mark = elements[:1]
        if not self._committed([*ruleset.deleting(mark), *ruleset.adding(mark, new=True)]):
            return
        for family, name, each in elements[1:]:  # somebody has removed some of them: one by one
            for one in each:
                self._deleted([(family, name, [one])])
        self._deleted(mark)

    def _deleted(self, elements: list[tuple[int, str, list[bytes]]]) -> bool:
        return self._committed(ruleset.deleting(elements))

    def _committed(self, batch: list[Message]) -> bool:
        """Whether all that it names was there."""
        try:
            self.netfilter.commit(batch)
            return True
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise kernel_error("change the rules", error) from None
            return False

    # All of it

    def is_alive(self, attachment: Attachment) -> bool:
        """Whether the container's namespace is still there; with a pair, whether the pair is."""
        if attachment.host_interface:
            return links.find(self.route, attachment.host_interface) is not None
        if not attachment.netns_id:  # a damaged record
            return False
        return not attachment.netns or links.is_namespace(attachment.netns, attachment.netns_id)

    def rebuild(self) -> int:
        """Rules and bridges as the store has them; how many attachments there are."""
        alive = {link.name: link for link in self.route.links()}
        attachments = [attachment for attachment in self.store.attachments()
                       if not attachment.host_interface or attachment.host_interface in alive]
        inhabited = {attachment.network for attachment in attachments}
        known = ruleset.bridged(self.store.networks())
        present = [network for network in known if network.interface in alive or network.name in inhabited]
        names = {network.name for network in present}
        bridged = [attachment for attachment in attachments
                   if attachment.network in names and attachment.host_interface]
        self._commit(ruleset.everything(present, bridged, self.store.owner))
        for network in present:
            master = links.ensure_bridge(self.route, network)
            own = [attachment for attachment in bridged if attachment.network == network.name]
            for attachment in own:
                if alive[attachment.host_interface].master != master:
                    links.connect(self.route, attachment, master)
            if network.subnet(4) is not None and any(attachment.ports for attachment in own):
                links.route_localnet(network)
            if not network.internal:
                links.forward([subnet.family for subnet in network.subnets])
                foreign.admit(self.netfilter, network, self.warn)
        return len(attachments)

    def prune(self) -> list[str]:
        gone = []
        for attachment in self.store.attachments():
            if not self.is_alive(attachment):
                self.detach(attachment)
                gone.append(attachment.key)
        known = {attachment.host_interface for attachment in self.store.attachments()}
        for network in ruleset.bridged(self.store.networks()):
            self._reclaim(network)
            bridge = links.find(self.route, network.interface)
            for link in self.route.links() if bridge is not None else []:
                if bridge is not None and link.master == bridge.index and link.name not in known \
                        and link.name.startswith(links.VETH_PREFIX):
                    stray = Attachment("", network.name, interface="", host_interface=link.name)
                    links.remove_device(self.route, stray, None)
        return gone

    def _reclaim(self, network: Network) -> None:
        """Give back the addresses that no attachment has."""
        used = {address for attachment in self.store.attachments(network=network.name) for address in attachment.ips}
        for subnet in network.subnets:
            with self._leases(network, subnet.family) as leases:
                for address in leases.taken():
                    if address not in used:
                        leases.release(address)

    def remove(self, network: Network) -> None:
        """Its bridge, its rules, and what is known of it."""
        if network.driver == "bridge":
            _ = self.netfilter  # another's bridge may be called the same
            links.remove_bridge(self.route, network)
        self.store.forget_network(network.name)
        hosts.forget(self.store, network.name)
        if network.driver == "bridge":
            self.rebuild()
            if not ruleset.bridged(self.store.networks()):
                foreign.withdraw(self.netfilter)


class _PortTaken(PyruncError):
    """A published port is another's."""
