# SPDX-License-Identifier: Apache-2.0
"""Entries of connection tracking: found by a port or an address, and deleted (nfnetlink_conntrack.h)."""

from __future__ import annotations

import errno
from _socket import AF_INET, AF_INET6, socket
from _struct import pack

from .netlink import (
    AF_NETLINK,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    attributes,
    messages,
    refusal,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

_NETLINK_NETFILTER, _SOCK_RAW_CLOEXEC = 12, 3 | 0o2000000
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_NESTED = 0x8000
_TUPLE_ORIG, _TUPLE_REPLY, _FILTER = 1, 2, 25
_TUPLE_IP, _TUPLE_PROTO, _PROTO_NUM, _PROTO_DST_PORT = 1, 2, 1, 3
_V4_SRC, _V6_SRC = 1, 3
_F_PROTO_NUM = 1 << 3  # CTA_FILTER_F_CTA_PROTO_NUM
_BUFFER = 1 << 16


def _nested(kind: int, *inner: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(inner))


class Conntrack:
    """A nfnetlink socket; it stays in the network namespace it was made in."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self) -> None:
        self._socket = socket(AF_NETLINK, _SOCK_RAW_CLOEXEC, _NETLINK_NETFILTER)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def forget(self, family: int, protocol: int, ports: Container[int], address: bytes) -> int:
        """Delete the entries of packets that were sent to one of the ports, or that `address` answers; how many.

        The kernel goes through the whole of its table for each question, so it is asked for the protocol alone
        (Linux 5.8; an older one tells everything).  Raises OSError.
        """
        number = AF_INET if family == 4 else AF_INET6
        wanted = _nested(_TUPLE_ORIG, _nested(_TUPLE_PROTO, attribute(_PROTO_NUM, bytes([protocol])))) + \
            _nested(_FILTER, attribute(1, pack("=I", _F_PROTO_NUM)), attribute(2, pack("=I", 0)))
        count = 0
        for body in self._ask(_GET, NLM_F_DUMP, number, wanted):
            parts = dict(attributes(body))
            original = parts.get(_TUPLE_ORIG, b"")
            way, answer = dict(attributes(original)), dict(attributes(parts.get(_TUPLE_REPLY, b"")))
            end = dict(attributes(way.get(_TUPLE_PROTO, b"")))
            if end.get(_PROTO_NUM) != bytes([protocol]):
                continue
            source = dict(attributes(answer.get(_TUPLE_IP, b""))).get(_V4_SRC if family == 4 else _V6_SRC)
            if int.from_bytes(end.get(_PROTO_DST_PORT, b""), "big") in ports or source == address:
                try:
                    self._ask(_DELETE, NLM_F_ACK, number, _nested(_TUPLE_ORIG, original))
                    count += 1
                except OSError as error:
                    if error.errno != errno.ENOENT:  # it has gone by itself
                        raise
        return count

    def _ask(self, kind: int, flags: int, family: int, body: bytes) -> list[bytes]:
        self._sequence += 1
        self._socket.send(pack("=IHHIIBBH", 20 + len(body), kind, flags | NLM_F_REQUEST, self._sequence, 0, family, 0,
                               0) + body)
        found: list[bytes] = []
        while True:
            for answer, answer_flags, sequence, payload in messages(self._socket.recv(_BUFFER)):
                if sequence != self._sequence:
                    continue
                if answer in (NLMSG_ERROR, NLMSG_DONE):
                    failure = refusal(payload, answer_flags, "conntrack") if answer == NLMSG_ERROR else None
                    if failure is not None:
                        raise failure
                    return found
                found.append(payload[4:])
