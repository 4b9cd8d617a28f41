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

_NETLINK_NETFILTER, _SOCK_RAW_CLOEXEC = 12, 3 | 0o2000000
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_NESTED = 0x8000
_TUPLE_ORIG, _TUPLE_REPLY, _FILTER = 1, 2, 25
_TUPLE_IP, _TUPLE_PROTO, _PROTO_NUM, _PROTO_DST_PORT = 1, 2, 1, 3
_V4_SRC, _V6_SRC = 1, 3
_F_IP_SRC, _F_PROTO_NUM, _F_DST_PORT = 1 << 0, 1 << 3, 1 << 5  # CTA_FILTER_F_CTA_…
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

    def forget_port(self, family: int, protocol: int, port: int) -> int:
        """Delete the entries of packets that were sent to that port; how many.  Linux 5.8.  Raises OSError."""
        wanted = _nested(_TUPLE_PROTO, attribute(_PROTO_NUM, bytes([protocol])),
                         attribute(_PROTO_DST_PORT, pack(">H", port)))
        return self._forget(family, _nested(_TUPLE_ORIG, wanted), _F_PROTO_NUM | _F_DST_PORT, 0)

    def forget_answers_of(self, address: bytes, protocol: int) -> int:
        """Delete the entries whose answers come from that address; how many.  Linux 5.8.  Raises OSError."""
        family = 4 if len(address) == 4 else 6
        wanted = _nested(_TUPLE_REPLY, _nested(_TUPLE_IP, attribute(_V4_SRC if family == 4 else _V6_SRC, address)),
                         _nested(_TUPLE_PROTO, attribute(_PROTO_NUM, bytes([protocol]))))
        return self._forget(family, wanted, 0, _F_IP_SRC | _F_PROTO_NUM)

    def _forget(self, family: int, tuples: bytes, original: int, reply: int) -> int:
        number = AF_INET if family == 4 else AF_INET6
        flags = _nested(_FILTER, attribute(1, pack("=I", original)), attribute(2, pack("=I", reply)))
        count = 0
        for body in self._ask(_GET, NLM_F_DUMP, number, tuples + flags):
            for kind, value in attributes(body):
                if kind == _TUPLE_ORIG:
                    try:
                        self._ask(_DELETE, NLM_F_ACK, number, _nested(_TUPLE_ORIG, value))
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
