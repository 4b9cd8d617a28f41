# SPDX-License-Identifier: Apache-2.0
"""Entries of connection tracking: found by a port or an address, and deleted (nfnetlink_conntrack.h)."""

from __future__ import annotations

import errno
from _socket import AF_INET, AF_INET6
from _struct import pack

from .netlink import NLM_F_ACK, NLM_F_DUMP, Socket, attribute, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

_NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_NESTED = 0x8000
_TUPLE_ORIG, _TUPLE_REPLY, _FILTER = 1, 2, 25
_TUPLE_IP, _TUPLE_PROTO, _PROTO_NUM, _PROTO_DST_PORT = 1, 2, 1, 3
_V4_SRC, _V6_SRC = 1, 3
_F_PROTO_NUM = 1 << 3  # CTA_FILTER_F_CTA_PROTO_NUM


def _nested(kind: int, *inner: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(inner))


class Conntrack(Socket):
    """A nfnetlink socket."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_NETLINK_NETFILTER, "conntrack")

    def forget(self, family: int, protocol: int, ports: Container[int], address: bytes) -> int:
        """Delete the entries of packets that were sent to one of the ports, or that `address` answers; how many.

        The kernel goes through the whole of its table for each question, so it is asked for the protocol alone
        (Linux 5.8; an older one tells everything).  Raises OSError.
        """
        head = pack("=BBH", AF_INET if family == 4 else AF_INET6, 0, 0)  # struct nfgenmsg
        wanted = _nested(_TUPLE_ORIG, _nested(_TUPLE_PROTO, attribute(_PROTO_NUM, bytes([protocol])))) + \
            _nested(_FILTER, attribute(1, pack("=I", _F_PROTO_NUM)), attribute(2, pack("=I", 0)))
        count = 0
        for body in self._ask(_GET, NLM_F_DUMP, head + wanted):
            parts = dict(attributes(body[len(head):]))
            original = parts.get(_TUPLE_ORIG, b"")
            way, answer = dict(attributes(original)), dict(attributes(parts.get(_TUPLE_REPLY, b"")))
            end = dict(attributes(way.get(_TUPLE_PROTO, b"")))
            if end.get(_PROTO_NUM) != bytes([protocol]):
                continue
            source = dict(attributes(answer.get(_TUPLE_IP, b""))).get(_V4_SRC if family == 4 else _V6_SRC)
            if int.from_bytes(end.get(_PROTO_DST_PORT, b""), "big") in ports or source == address:
                try:
                    self._ask(_DELETE, NLM_F_ACK, head + _nested(_TUPLE_ORIG, original))
                    count += 1
                except OSError as error:
                    if error.errno != errno.ENOENT:  # it has gone by itself
                        raise
        return count
