# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: network devices that move into the container (config-linux.md, Network Devices).

A process of its own does it, standing in the container's network namespace, so that ours is never
left.  The kernel takes a device's addresses away when it moves: those that the specification wants
kept are given back.  When the container ends the kernel does as it always does with a namespace's
devices; only a create that fails puts them back.
"""

from __future__ import annotations

import errno
import os
from _struct import pack

from .channel import pair
from .errors import ConfigError, KernelError, PyruncError, kernel_error
from .linux import netlink
from .linux import process as k
from .linux.syscall import clone3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .linux.netlink import Address, Link, Route
    from .spec.types import Config

# What an address is added with; the rest (who made it, how long ago) is not for us to say.
_KEPT_ATTRIBUTES = (netlink.IFA_ADDRESS, netlink.IFA_LOCAL, netlink.IFA_BROADCAST, netlink.IFA_RT_PRIORITY,
                    netlink.IFA_PROTO)
_KEPT_FLAGS = (netlink.IFA_F_NODAD | netlink.IFA_F_HOMEADDRESS | netlink.IFA_F_MANAGETEMPADDR
               | netlink.IFA_F_NOPREFIXROUTE | netlink.IFA_F_MCAUTOJOIN)


class NetDevice:
    """A device of the host, and its name to be: perhaps a template with %d."""

    __slots__ = ("host", "name", "pointer")

    def __init__(self, host: str, name: str, pointer: str) -> None:
        self.host = host
        self.name = name
        self.pointer = pointer

    def describe(self) -> str:
        return f"network device {self.host}" + (f" as {self.name}" if self.name != self.host else "")


def plan(config: Config) -> list[NetDevice]:
    """The devices to move; their names were checked."""
    devices = (config.get("linux") or {}).get("netDevices") or {}
    return [NetDevice(host, entry.get("name") or host, "/linux/netDevices/" + host.replace("~", "~0"))
            for host, entry in devices.items()]


class NetDevices:
    """The devices that were moved into the namespace behind `namespace`."""

    __slots__ = ("moved", "namespace")

    def __init__(self, namespace: int) -> None:
        self.namespace = namespace
        self.moved: list[dict[str, Any]] = []

    def move(self, devices: list[NetDevice]) -> None:
        """Move all of them or none.  Raises PyruncError."""
        if os.fstat(self.namespace).st_ino == os.stat("/proc/self/ns/net").st_ino:
            raise ConfigError("/linux/netDevices",
                              "the network namespace is the runtime's own: there is nowhere to move to")
        self.moved = self._elsewhere(lambda here, there, home: _move_all(devices, here, there, self.namespace, home))

    def put_back(self) -> None:
        """Undo `move`, for a container that isn't to be.  Raises PyruncError."""
        moved, self.moved = self.moved, []
        if moved:
            self._elsewhere(lambda here, there, home: _put_back(moved, here, there, home))

    def _elsewhere(self, work: Callable[[Route, Route, int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Do `work` in a process that has a socket here and one in the container's network namespace."""
        ours, theirs = pair()
        pid = clone3(0)
        if pid == 0:
            try:
                ours.close()
                home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                here = netlink.Route()
                k.setns(self.namespace, k.CLONE_NEWNET)
                theirs.send("done", devices=work(here, netlink.Route(), home))
            except PyruncError as failure:
                theirs.send_error(failure)
            except OSError as failure:
                hint = "needs CAP_NET_ADMIN, on the host too" if failure.errno == errno.EPERM else ""
                theirs.send_error(kernel_error("move the network devices", failure, pointer="/linux/netDevices",
                                               hint=hint))
            except BaseException as failure:
                theirs.send_error(PyruncError(f"move the network devices: {failure!r}"))
            finally:
                os._exit(0)
        theirs.close()
        try:
            done: list[dict[str, Any]] = ours.expect("done")["devices"]
            return done
        except EOFError:
            raise PyruncError("the process that moves the network devices died") from None
        finally:
            ours.close()
            os.waitpid(pid, 0)


def _move_all(devices: list[NetDevice], here: Route, there: Route, target: int, home: int) -> list[dict[str, Any]]:
    taken = {name for link in there.links() for name in link.names}
    found = [(device, _find(device, here, taken)) for device in devices]
    moved: list[dict[str, Any]] = []
    try:
        for device, link in found:
            addresses = _addresses(here, link.index)  # a move, even down, may lose them
            record = {"name": device.host, "index": _free_index(there, link.index),
                      "up": bool(link.flags & netlink.IFF_UP), "old_index": link.index}
            try:
                here.move(link.index, target, device.name, record["index"])
            except OSError as error:
                if _is_there(there, record["index"]):
                    moved.append(record)
                raise _error(device, error) from None
            moved.append(record)
            try:
                _furnish(there, record["index"], addresses)
                there.set_up(record["index"])
            except OSError as error:
                raise _error(device, error) from None
    except PyruncError:
        _put_back(moved, here, there, home)
        raise
    return moved


def _find(device: NetDevice, here: Route, taken: set[str]) -> Link:
    """The device, if it may be moved.  Raises ConfigError."""
    try:
        link = here.link(device.host)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        raise ConfigError(device.pointer, f"there is no network device {device.host} in the runtime's network "
                                          "namespace") from None
    if "%" not in device.name and device.name in taken:
        raise ConfigError(device.pointer + ("/name" if device.name != device.host else ""),
                          f"the container's network namespace has a network device {device.name} already",
                          hint="give another name, or a template such as eth%d")
    return link


def _put_back(moved: list[dict[str, Any]], here: Route, there: Route, home: int) -> list[dict[str, Any]]:
    failure: OSError | None = None
    for record in reversed(moved):
        try:
            index = _free_index(here, record["old_index"])
            addresses = _addresses(there, record["index"])
            there.move(record["index"], home, record["name"], index)
            _furnish(here, index, addresses)
            if record["up"]:
                here.set_up(index)
        except OSError as error:
            failure = failure or error  # the others still go
    if failure is not None:
        raise kernel_error("put the network devices back", failure, pointer="/linux/netDevices")
    return []


def _free_index(route: Route, wanted: int) -> int:
    """A number for a device that comes: its own if it is free.  So it is known whatever the kernel names it."""
    used = {link.index for link in route.links()}
    return wanted if wanted not in used else max(used) + 1


def _is_there(route: Route, index: int) -> bool:
    try:
        route.link(index=index)
    except OSError:
        return False
    return True


def _addresses(route: Route, index: int) -> list[Address]:
    """config-linux.md: permanent addresses (IFA_F_PERMANENT) of global scope (RT_SCOPE_UNIVERSE), of any family."""
    return [address for address in route.addresses() if address.index == index
            and address.flags & netlink.IFA_F_PERMANENT and address.scope == netlink.RT_SCOPE_UNIVERSE]


def _furnish(route: Route, index: int, addresses: list[Address]) -> None:
    """Give the device the addresses; a label would have to begin with its new name, and is left to the kernel."""
    for address in addresses:
        rest = [(kind, value) for kind, value in address.attributes if kind in _KEPT_ATTRIBUTES]
        rest.append((netlink.IFA_FLAGS, pack("=I", address.flags & _KEPT_FLAGS)))
        route.add_address(index, address.family, address.prefix, address.scope, rest)


def _error(device: NetDevice, error: OSError) -> KernelError:
    said = getattr(error, "said", "")
    hint = ""
    if error.errno == errno.EPERM:
        hint = "needs CAP_NET_ADMIN, on the host too"
    elif error.errno == errno.EINVAL and not said:
        hint = "devices of this kind can't leave their network namespace"
    return kernel_error(device.describe() + (f": {said}" if said else ""), error, pointer=device.pointer, hint=hint)
