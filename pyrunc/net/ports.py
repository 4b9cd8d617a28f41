# SPDX-License-Identifier: Apache-2.0
"""Published ports: which are free, which are in use, and what is remembered of packets that were sent to them."""

from __future__ import annotations

import errno
from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)

from pyrunc.errors import NetworkError
from pyrunc.linux.conntrack import Conntrack

from .model import PROTOCOLS, Publish, family_of, pack_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .model import Attachment

_SOCK_CLOEXEC = 0o2000000
_TYPES = {"tcp": SOCK_STREAM, "udp": SOCK_DGRAM}


def families(port: Publish) -> tuple[int, ...]:
    """Which of IPv4 and IPv6 it is for."""
    return (family_of(port.host_ip),) if port.host_ip else (4, 6)


def check(ports: Iterable[Publish], addresses: Iterable[str]) -> None:
    """Whether they lead anywhere, and no program of the host has them.  Raises NetworkError."""
    has = {family_of(address) for address in addresses}
    seen: dict[tuple[str, str, int], Publish] = {}
    for port in ports:
        if not has.intersection(families(port)):
            raise NetworkError(f"{port}: the container has no IPv{families(port)[0]} address in this network")
        for step in range(port.count if port.host else 0):
            key = (port.host_ip, port.protocol, port.host + step)
            if key in seen:
                raise NetworkError(f"{port}/{port.protocol} is published twice")
            seen[key] = port
            in_use = _in_use(port, port.host + step)
            if in_use:
                raise NetworkError(f"port {port.host + step}/{port.protocol} of the host is in use by a program",
                                   errno=in_use, hint="publish another port, or stop what listens there")


def choose(port: Publish, *, taken: Iterable[int] = ()) -> Publish:
    """With a port of the host that no program has, if it had none.  Raises NetworkError."""
    if port.host:
        return port
    family = families(port)[0]
    for _ in range(64):
        made = _socket(family, port.protocol)
        try:
            made.bind((port.host_ip or ("0.0.0.0" if family == 4 else "::"), 0))
            number = int(made.getsockname()[1])
        finally:
            made.close()
        if number not in taken:
            return Publish(port.host_ip, number, port.container, port.protocol, port.count)
    raise NetworkError("no port of the host is free")


def _socket(family: int, protocol: str) -> socket:
    made = socket(AF_INET if family == 4 else AF_INET6, _TYPES.get(protocol, SOCK_STREAM) | _SOCK_CLOEXEC)
    if family == 6:
        made.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
    if protocol == "tcp":
        made.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)  # closed connections don't count, who listens does
    return made


def _in_use(port: Publish, number: int) -> int:
    """EADDRINUSE where a program has the port, else 0."""
    if port.protocol not in _TYPES:
        return 0
    for family in families(port):
        try:
            made = _socket(family, port.protocol)
        except OSError:  # no IPv6 here
            continue
        try:
            made.bind((port.host_ip or ("0.0.0.0" if family == 4 else "::"), number))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return errno.EADDRINUSE
        finally:
            made.close()
    return 0


def who_has(wanted: Attachment, others: Iterable[Attachment]) -> str:
    """Which of its ports is another's, in words."""
    for other in others:
        for port in other.ports:
            for own in wanted.ports:
                if own.protocol == port.protocol and own.host_ip == port.host_ip and \
                        own.host < port.host + port.count and port.host < own.host + own.count:
                    return f"port {own}/{own.protocol} is published by {other.container}"
    return "a port is published already, by somebody that pyrunc doesn't know"


def forget_packets(attachment: Attachment) -> None:
    """Who goes on sending datagrams from one port would go on reaching whoever was there before, or nobody.

    A connection's first packet decides where the rest goes; a datagram's entry lives as long as there are more.
    """
    numbers: dict[tuple[str, int], set[int]] = {}
    for port in attachment.ports:
        for family in families(port) if port.protocol != "tcp" else ():
            if attachment.ip(family):
                numbers.setdefault((port.protocol, family), set()).update(range(port.host, port.host + port.count))
    if not numbers:
        return
    conntrack = Conntrack()
    try:
        for (protocol, family), found in numbers.items():
            conntrack.forget(family, PROTOCOLS[protocol], found, pack_address(attachment.ip(family)))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.EPROTONOSUPPORT, errno.ENOENT):
            raise
    finally:
        conntrack.close()
