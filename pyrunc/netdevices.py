# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: network devices that move into the container (config-linux.md, Network Devices).

A process of its own does it, standing in the container's network namespace, so that ours is never
left.  The kernel takes a device's addresses away when it moves: those that the specification wants
kept are given back.  When the container ends the kernel does as it always does with a namespace's
devices; only a create that fails, or is killed, puts them back.
"""

from __future__ import annotations

import errno
import os
from _struct import pack

from .channel import pair
from .errors import ConfigError, KernelError, PyruncError, kernel_error, reference_token
from .linux import netlink
from .linux import process as k
from .linux.syscall import clone3

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any

    from .channel import Channel
    from .linux.netlink import Address, Link, Route
    from .spec.types import Config
else:
    import _signal  # what `signal` wraps; that one costs importing enum

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
    return [NetDevice(host, entry.get("name") or host, "/linux/netDevices/" + reference_token(host))
            for host, entry in devices.items()]


class NetDevices:
    """The devices moved into the namespace behind `namespace`, from `move` until `keep` or `put_back`.

    The process that moves them waits for either.  Should create be killed meanwhile, it ends the init that
    `pidfd` stands for and gives the devices back: the kernel would destroy the virtual ones.
    """

    __slots__ = ("channel", "namespace", "pid", "pidfd")

    def __init__(self, namespace: int, pidfd: int) -> None:
        self.namespace = namespace
        self.pidfd = pidfd
        self.pid = 0
        self.channel: Channel | None = None

    def move(self, devices: list[NetDevice], lock: int) -> None:
        """Move all of them or none.  Raises PyruncError.

        `lock`: a descriptor with the container's lock, so that whoever cleans up after a crash comes later.
        """
        if os.fstat(self.namespace).st_ino == os.stat("/proc/self/ns/net").st_ino:
            raise ConfigError("/linux/netDevices",
                              "the network namespace is the runtime's own: there is nowhere to move to")
        self.channel, theirs = pair()
        try:
            self.pid = clone3(0)
        except OSError as error:
            raise kernel_error("fork", error, pointer="/linux/netDevices") from None
        if self.pid == 0:
            try:
                _signal.set_wakeup_fd(-1)  # `run` has one, which we are about to close
                _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
                os.setsid()
                # Not our end of the init's channel: the init has to see that create is gone.
                k.close_all_but({theirs.fd, self.namespace, self.pidfd, lock})
                _main(theirs, devices, self.namespace, self.pidfd)
            finally:
                os._exit(0)
        theirs.close()
        self._wait()

    def keep(self) -> None:
        """The container is: the devices are its own from now on."""
        if self.channel is not None:
            try:
                self.channel.send("keep")
            except BrokenPipeError:
                pass  # killed by somebody, which changes nothing
            self._end()

    def put_back(self) -> None:
        """Undo `move`, for a container that isn't to be.  Raises PyruncError."""
        if self.channel is not None:
            try:
                self.channel.send("back")
            except BrokenPipeError:
                pass
            self._wait()
            self._end()

    def _wait(self) -> None:
        assert self.channel is not None
        try:
            self.channel.expect("done")
        except PyruncError:
            self._end()
            raise
        except EOFError:
            self._end()
            raise PyruncError("the process that moves the network devices died", pointer="/linux/netDevices") from None

    def _end(self) -> None:
        assert self.channel is not None
        self.channel.close()
        self.channel = None
        os.waitpid(self.pid, 0)


def _main(channel: Channel, devices: list[NetDevice], target: int, pidfd: int) -> None:
    """The process that moves: a socket in the runtime's network namespace, one in the container's."""
    try:
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        here = netlink.Route()
        k.setns(target, k.CLONE_NEWNET)
        there = netlink.Route()
        moved = _move_all(devices, here, there, target, home)
        if _is_wanted(channel):
            return
        try:
            _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)  # it may have been told that all is well
        except ProcessLookupError:
            pass
        _put_back(moved, here, there, home)
        channel.send("done")
    except PyruncError as failure:
        channel.send_error(failure)
    except BrokenPipeError:
        pass  # nobody is left to be told
    except OSError as failure:
        hint = "needs CAP_NET_ADMIN, on the host too" if failure.errno == errno.EPERM else ""
        channel.send_error(kernel_error("move the network devices", failure, pointer="/linux/netDevices", hint=hint))
    except BaseException as failure:
        channel.send_error(PyruncError(f"move the network devices: {failure!r}"))


def _is_wanted(channel: Channel) -> bool:
    """Say that the devices are there; whether they are to stay."""
    try:
        channel.send("done")
        return channel.receive().get("kind") == "keep"
    except (EOFError, BrokenPipeError):
        return False  # create was killed


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


def _put_back(moved: list[dict[str, Any]], here: Route, there: Route, home: int) -> None:
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
