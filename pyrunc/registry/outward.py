# SPDX-License-Identifier: Apache-2.0
"""Connections to where a registry has sent us: not to this machine, nor to its link.

A redirect, a token's realm, an upload's Location are the registry's words.  One of somewhere else could have us
ask services that listen on the loopback device, or that clouds have at 169.254.169.254 (CVE-2026-48978).  It
is the connection that is looked at: a name may lead anywhere.
"""

from __future__ import annotations

import ipaddress
from socket import AF_INET, AF_INET6, SOCK_STREAM, gaierror, getaddrinfo, socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pyrunc.errors import RegistryError

if TYPE_CHECKING:
    from urllib3 import PoolManager


def is_inward(address: str) -> bool:
    """Whether an IP address is the loopback device's, or is not routed."""
    found = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(found, "ipv4_mapped", None) or found
    return inner.is_loopback or inner.is_link_local or inner.is_unspecified or inner.is_multicast


def has_inward(host: str) -> bool:
    """Whether a registry (`host[:port]`) is there itself."""
    try:
        found = getaddrinfo(urlsplit(f"//{host}").hostname or "", None, type=SOCK_STREAM)
    except (gaierror, ValueError):
        return False
    return any(is_inward(str(address[0])) for family, _, _, _, address in found if family in (AF_INET, AF_INET6))


class _Outward(HTTPConnection):
    def _new_conn(self) -> socket:
        connection = super()._new_conn()
        if connection.family in (AF_INET, AF_INET6) and is_inward(connection.getpeername()[0]):
            connection.close()
            # None of urllib3's errors, which are worth another try.
            raise RegistryError(f"it sends us to {self.host}: an address of this machine or its link",
                                hint="only a registry that is there itself may do that")
        return connection


class _OutwardTLS(HTTPSConnection, _Outward):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Outward


class _PoolTLS(HTTPSConnectionPool):
    ConnectionCls = _OutwardTLS


def confine(pool: PoolManager) -> None:
    """Have it refuse what is inward."""
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTLS}
