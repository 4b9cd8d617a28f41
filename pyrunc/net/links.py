# SPDX-License-Identifier: Apache-2.0
"""Devices of networks and containers: bridges, veth pairs, macvlan and ipvlan, their addresses, routes and sysctls."""

from __future__ import annotations

import errno
import os

from pyrunc.errors import KernelError, NetworkError, kernel_error
from pyrunc.linux import process as k
from pyrunc.linux import rtnetlink as rt
from pyrunc.linux.netlink import RTN_UNICAST, Route

from .model import Subnet, pack_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrunc.linux.netlink import Link, Request

    from .model import Attachment, Network

BRIDGE_PREFIX = "pyr-"
VETH_PREFIX = "pyv"
_LO = 1  # its number in every namespace
_HINTS = {errno.EOPNOTSUPP: "this kernel has no such devices", errno.ENODEV: "this kernel has no such devices",
          errno.EXFULL: "a bridge has 1023 ports at most, each container takes one: another network has room"}


class Namespace:
    """A network namespace, by path or by a descriptor that stays the caller's."""

    __slots__ = ("_home", "_owned", "fd", "identity", "path")

    def __init__(self, netns: str | int) -> None:
        self.path = netns if isinstance(netns, str) else ""
        self._home = -1
        self._owned = isinstance(netns, str)
        try:
            self.fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC) if isinstance(netns, str) else netns
        except OSError as error:
            raise kernel_error(f"open the network namespace {netns}", error, syscall="openat") from None
        try:
            if k.namespace_type(self.fd) != k.CLONE_NEWNET:
                raise OSError(errno.EINVAL, "")
        except OSError:
            self.close()
            raise NetworkError(f"{netns} is not a network namespace",
                               hint="give the path of /proc/PID/ns/net, or of one that `ip netns add` made") from None
        self.identity = _identity(os.fstat(self.fd))

    def close(self) -> None:
        if self._owned and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Namespace:
        """This thread stands in it."""
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            k.setns(self.fd, k.CLONE_NEWNET)
        except OSError as error:
            os.close(self._home)
            raise kernel_error("join the network namespace", error, hint="needs CAP_SYS_ADMIN") from None
        return self

    def __exit__(self, *_: object) -> None:
        try:
            k.setns(self._home, k.CLONE_NEWNET)
        finally:
            os.close(self._home)


def _identity(info: os.stat_result) -> str:
    return f"{info.st_dev}:{info.st_ino}"


def own_namespace() -> str:
    """The identity of the namespace we are in."""
    return _identity(os.stat("/proc/thread-self/ns/net"))


def is_namespace(path: str, identity: str) -> bool:
    """Whether the path still leads to that namespace."""
    try:
        return _identity(os.stat(path)) == identity
    except OSError:
        return False


def find(route: Route, name: str) -> Link | None:
    """The device of that name, if there is one."""
    try:
        return route.link(name)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None


def mac_of(address: str) -> bytes:
    """A MAC address for who has that IP address: whoever gets it next has the same, so no cache is ever wrong."""
    raw = pack_address(address)
    return (b"\x02\x70" if len(raw) == 4 else b"\x02\x76") + raw[-4:]


def link_local(mac: bytes) -> bytes:
    """The link-local address that goes with it (RFC 4291, appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def set_sysctl(path: str, value: str, *, needed: bool = True) -> None:
    """Write /proc/sys/net/`path` unless it says so already.  Raises KernelError where that is `needed`."""
    try:
        fd = os.open(f"/proc/sys/net/{path}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # a kernel without IPv6, say
        return
    except OSError as error:
        fd = os.open(f"/proc/sys/net/{path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not needed or os.read(fd, 64).strip().decode() == value:
                return
        finally:
            os.close(fd)
        raise kernel_error(f"set net.{path.replace('/', '.')} to {value}", error, syscall="openat",
                           hint="is /proc/sys read-only?") from None
    try:
        if os.read(fd, 64).strip().decode() != value:
            os.pwrite(fd, value.encode(), 0)  # a sysctl is written from its beginning, or not at all
    except OSError as error:
        if needed:
            raise kernel_error(f"set net.{path.replace('/', '.')} to {value}", error, syscall="write") from None
    finally:
        os.close(fd)


def forward(families: Sequence[int]) -> None:
    """Let the host forward packets.  Raises KernelError."""
    if 4 in families:
        set_sysctl("ipv4/ip_forward", "1")
    if 6 in families:
        # A router takes no router's advertisements unless told to: the host must not lose its own way out.
        base = "/proc/sys/net/ipv6/conf"
        try:
            with open(f"{base}/all/forwarding") as file:
                if file.read().strip() == "1":
                    return
        except FileNotFoundError:
            return
        for name in os.listdir(base):
            if name not in ("all", "lo") and not name.startswith((BRIDGE_PREFIX, VETH_PREFIX)):
                try:
                    with open(f"{base}/{name}/accept_ra") as file:
                        accepts = file.read().strip() == "1"
                except OSError:  # it has gone
                    continue
                if accepts:
                    set_sysctl(f"ipv6/conf/{name}/accept_ra", "2", needed=False)
        set_sysctl("ipv6/conf/all/forwarding", "1")


def ensure_bridge(route: Route, network: Network) -> int:
    """The network's bridge, made if it isn't there: its number.  Raises PyruncError."""
    name = network.interface
    link = find(route, name)
    if link is not None and link.kind != "bridge":
        raise NetworkError(f"the host has a network device {name} that is no bridge",
                           hint=f"remove it, or `pyrunc net rm {network.name}` and make the network anew")
    if link is not None and link.flags & 1:
        return int(link.index)
    try:
        if link is None:
            mac = mac_of(network.gateways[0]) if network.gateways and network.gateways[0] else b""
            route.carry_out([rt.new_bridge(name, mac, network.mtu)])
            link = route.link(name)
        set_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
        set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0" if network.subnet(6) else "1")
        for subnet, gateway in zip(network.subnets, network.gateways, strict=True):
            if gateway:
                _add(route, rt.new_address(link.index, pack_address(gateway), subnet.prefix, _broadcast(subnet)))
        route.carry_out([rt.link_up(link.index)])  # the last thing: one that is up has all of it
    except OSError as error:
        raise _error(f"make the bridge {name}", error) from None
    return int(link.index)


def _add(route: Route, request: Request) -> None:
    """Carry it out; it may have been before."""
    try:
        route.carry_out([request])
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def _broadcast(subnet: Subnet) -> bytes:
    return subnet.last if subnet.family == 4 and subnet.prefix < 31 else b""


def remove_bridge(route: Route, network: Network) -> None:
    """No harm if it isn't there; what is no bridge stays.  Raises KernelError."""
    try:
        link = find(route, network.interface)
        if link is not None and link.kind == "bridge":
            route.carry_out([rt.delete_link(link.index)])
    except OSError as error:
        raise _error(f"remove the bridge {network.interface}", error) from None


def make_device(route: Route, network: Network, attachment: Attachment, namespace: Namespace, master: int) -> None:
    """The container's device, in its namespace and down.  Raises PyruncError."""
    mac = bytes.fromhex(attachment.mac.replace(":", ""))
    name = attachment.interface
    try:
        if network.driver == "bridge":
            requests = [rt.new_veth(attachment.host_interface, name, namespace.fd, peer_mac=mac, mtu=network.mtu,
                                    master=master)]
            if attachment.ports:
                requests.append(rt.hairpin(attachment.host_interface))
            route.carry_out(requests)
            return
        parent = find(route, network.parent)
        if parent is None:
            raise NetworkError(f"the host has no network device {network.parent}, which {network.name} is on")
        if network.driver == "macvlan":
            route.carry_out([rt.new_macvlan(name, parent.index, network.mode, namespace.fd, mac=mac, mtu=network.mtu)])
        else:
            route.carry_out([rt.new_ipvlan(name, parent.index, network.mode, namespace.fd, mtu=network.mtu)])
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise NetworkError(f"the container has a network device {name} already",
                               hint="--interface gives it another name") from None
        hint = _HINTS.get(error.errno or 0, "")
        raise _error(f"make the {network.driver} device {name}", error, hint) from None


def connect(route: Route, attachment: Attachment, master: int) -> None:
    """Plug the host's end of a pair into the bridge again, which is a new one.  Raises KernelError."""
    try:
        requests = [rt.set_master(attachment.host_interface, master)]
        if attachment.ports:
            requests.append(rt.hairpin(attachment.host_interface))
        route.carry_out(requests)
    except OSError as error:
        raise _error(f"plug {attachment.container} into its bridge", error) from None


def route_localnet(network: Network) -> None:
    """What comes from 127.0.0.1 may be routed to the bridge.  The guard has to be in place."""
    set_sysctl(f"ipv4/conf/{network.interface}/route_localnet", "1")


def names_inside(namespace: Namespace) -> set[str]:
    """What the devices in the namespace are called."""
    with namespace:
        route = Route()
    try:
        return {name for link in route.links() for name in link.names}
    finally:
        route.close()


def furnish(network: Network, attachment: Attachment, namespace: Namespace) -> str:
    """Give the device its addresses and routes, and set it and lo up; its MAC address.  Raises KernelError."""
    name = attachment.interface
    try:
        with namespace:
            route = Route()
            # What a container's neighbour advertises is not to be believed (CVE-2020-13401), and without an
            # IPv6 subnet there is to be no IPv6 (CVE-2024-32473).  procfs shows the sysctls of where we stand.
            set_sysctl(f"ipv6/conf/{name}/accept_ra", "0", needed=False)
            set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0" if network.subnet(6) else "1", needed=False)
        try:
            link = route.link(name)
            requests = [rt.link_up(_LO), rt.link_up(link.index)]
            if network.subnet(6):  # its port lets no other link-local address in
                requests.insert(0, rt.eui64_addresses(link.index))
            for address in attachment.addresses:
                ip, _, prefix = address.partition("/")
                subnet = network.subnet(6 if ":" in ip else 4)
                requests.append(rt.new_address(link.index, pack_address(ip), int(prefix),
                                               _broadcast(subnet) if subnet else b""))
            for gateway in attachment.gateways:
                requests.append(rt.new_route(link.index, b"", 0, pack_address(gateway)))
            if not attachment.gateways and network.driver == "ipvlan" and network.mode != "l2" and not network.internal:
                requests += [rt.new_route(link.index, b"", 0, family=subnet.family) for subnet in network.subnets]
            route.carry_out(requests)
            return link.address.hex(":")
        finally:
            route.close()
    except OSError as error:
        raise _error(f"set up the container's {name}", error) from None


def add_default_routes(attachment: Attachment, namespace: Namespace) -> None:
    """By its gateways, on a device that is there.  Raises KernelError."""
    try:
        with namespace:
            route = Route()
        try:
            link = route.link(attachment.interface)
            route.carry_out([rt.new_route(link.index, b"", 0, pack_address(gateway))
                             for gateway in attachment.gateways])
        finally:
            route.close()
    except OSError as error:
        raise _error(f"add a default route by the container's {attachment.interface}", error) from None


def loopback(namespace: Namespace) -> None:
    """Set lo up.  Raises KernelError."""
    try:
        with namespace:
            route = Route()
        try:
            route.carry_out([rt.link_up(_LO)])
        finally:
            route.close()
    except OSError as error:
        raise _error("set up the container's lo", error) from None


def remove_device(route: Route, attachment: Attachment, namespace: Namespace | None) -> None:
    """Remove the container's device; no harm if it isn't there.  Raises KernelError."""
    try:
        if attachment.host_interface:
            _delete(route, attachment.host_interface)
        elif namespace is not None:
            with namespace:
                inner = Route()
            try:
                _delete(inner, attachment.interface)
            finally:
                inner.close()
    except OSError as error:
        raise _error(f"remove {attachment.host_interface or attachment.interface}", error) from None


def _delete(route: Route, name: str) -> None:
    try:
        route.carry_out([rt.delete_link_named(name)])
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def taken_subnets(route: Route) -> list[Subnet]:
    """What the host's routes lead to, and its own addresses; default routes apart.  Raises OSError.

    Two halves of all there is are a default route, as tunnels (OpenVPN's def1) have it.
    """
    found = []
    for entry in route.routes():
        if entry.type == RTN_UNICAST and entry.prefix > 1 and entry.destination:
            found.append(Subnet(4 if len(entry.destination) == 4 else 6, int.from_bytes(entry.destination, "big"),
                                entry.prefix))
    return found


def default_device(route: Route) -> str:
    """The device of the default route; "" without one.  Raises OSError."""
    for entry in route.routes():
        if not entry.prefix and entry.type == RTN_UNICAST and entry.device:
            return route.link(index=entry.device).name
    return ""


def _error(what: str, error: OSError, hint: str = "") -> KernelError:
    said = getattr(error, "said", "")
    if error.errno == errno.EPERM:
        hint = "needs CAP_NET_ADMIN, here and in the namespace"
    return kernel_error(f"{what}: {said}" if said else what, error, hint=hint)
