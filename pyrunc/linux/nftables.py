# SPDX-License-Identifier: Apache-2.0
"""Tables, chains, rules, sets and their elements through nfnetlink: encoding, and transactions (nf_tables.h).

libnftables would read the whole ruleset back before each change, and its library costs more to load than a
transaction takes.  A register here is one of the sixteen of four bytes; a key of several fields takes as many in a row.
"""

from __future__ import annotations

from _socket import MSG_DONTWAIT, SOL_SOCKET
from _struct import pack, unpack_from
from errno import ENOENT

from .netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    NetlinkError,
    Socket,
    attribute,
    attributes,
    messages,
    refusal,
)

NFPROTO_INET, NFPROTO_IPV4, NFPROTO_BRIDGE, NFPROTO_IPV6 = 1, 2, 7, 10
HOOK_PREROUTING, HOOK_FORWARD, HOOK_OUTPUT, HOOK_POSTROUTING = 0, 2, 3, 4

_NETLINK_NETFILTER = 12
_SUBSYS_NFTABLES = 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN = 0, 1, 2, 3, 4
_NEWRULE, _GETRULE, _DELRULE, _NEWSET, _NEWSETELEM, _GETSETELEM, _DELSETELEM = 6, 7, 8, 9, 12, 13, 14
_NLM_F_APPEND = 0x800
_NESTED = 0x8000
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER = 1 << 17

_SET_INTERVAL, _SET_MAP = 0x4, 0x8
_ELEMENT_END = 1  # NFT_SET_ELEM_INTERVAL_END
_DATA_VERDICT = 0xFFFFFF00
_VERDICTS = {"drop": 0, "accept": 1, "jump": -3, "goto": -4, "return": -5}

#: Types of keys, as nft(8) numbers them for who lists a set, and their bytes.
IPV4, IPV6, MAC, PROTOCOL, PORT, INTERFACE = (7, 4), (8, 16), (9, 6), (12, 1), (13, 2), (41, 16)

Message = tuple[int, int, int, bytes]  # type, flags, family, attributes


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, pack(">I", value & 0xFFFFFFFF))


def _nested(kind: int, *inner: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(inner))


def interface(name: str) -> bytes:
    """A device's name as a key."""
    return name.encode().ljust(16, b"\0")


def key(*fields: bytes) -> bytes:
    """Fields as one key, each padded to a register."""
    return b"".join(field + bytes(-len(field) % 4) for field in fields)


# Expressions: a rule is a row of them; the first that doesn't match ends it.

def _expression(name: str, *inner: bytes) -> bytes:
    return _nested(1, _text(1, name), _nested(2, *inner))


def load_meta(which: str, register: int = 0) -> bytes:
    """What is known of the packet: protocol (of the Ethernet frame), iifname, oifname, nfproto, l4proto."""
    keys = {"protocol": 1, "iifname": 6, "oifname": 7, "nfproto": 15, "l4proto": 16}
    return _expression("meta", _u32(2, keys[which]), _u32(1, 8 + register))


def load_payload(base: str, offset: int, length: int, register: int = 0) -> bytes:
    """Bytes of the packet, from the link, network or transport header on."""
    return _expression("payload", _u32(1, 8 + register), _u32(2, ("link", "network", "transport").index(base)),
                       _u32(3, offset), _u32(4, length))


def load_conntrack(which: str, register: int = 0) -> bytes:
    """Bits of the connection: state, status."""
    return _expression("ct", _u32(2, {"state": 0, "status": 2}[which]), _u32(1, 8 + register))


def load_address_type(register: int = 0) -> bytes:
    """What the destination is to this host: RTN_LOCAL for one of its own."""
    return _expression("fib", _u32(1, 8 + register), _u32(2, 3), _u32(3, 2))


def compare(value: bytes, register: int = 0, *, equal: bool = True) -> bytes:
    return _expression("cmp", _u32(1, 8 + register), _u32(2, 0 if equal else 1), _nested(3, attribute(1, value)))


def mask(bits: bytes, register: int = 0) -> bytes:
    """Leave those bits of the register."""
    return _expression("bitwise", _u32(1, 8 + register), _u32(2, 8 + register), _u32(3, len(bits)),
                       _nested(4, attribute(1, bits)), _nested(5, attribute(1, bytes(len(bits)))))


def lookup(name: str, register: int = 0, *, into: int | None = None, inverted: bool = False) -> bytes:
    """Whether the key is in the set (or isn't); in a map, its value goes `into` a register."""
    return _expression("lookup", _text(1, name), _u32(2, 8 + register),
                       *([_u32(3, 8 + into)] if into is not None else []), *([_u32(5, 1)] if inverted else []))


def lookup_verdict(name: str, register: int = 0) -> bytes:
    """What a map of verdicts says for the key; without an entry the rule is over."""
    return _expression("lookup", _text(1, name), _u32(2, 8 + register), _u32(3, 0))


def _verdict(word: str, chain: str = "") -> bytes:
    return _nested(2, _u32(1, _VERDICTS[word]), *([_text(2, chain)] if chain else []))


def verdict(word: str, chain: str = "") -> bytes:
    """drop, accept, return; jump and goto to a chain."""
    return _expression("immediate", _u32(1, 0), _nested(2, _verdict(word, chain)))


def counter() -> bytes:
    return _expression("counter")


def masquerade() -> bytes:
    return _expression("masq")


def destination_nat(family: int, address: int, port: int) -> bytes:
    """The address and port in those registers."""
    return _expression("nat", _u32(1, 1), _u32(2, family), _u32(3, 8 + address), _u32(5, 8 + port))


# Messages

def add_table(family: int, name: str, comment: str = "") -> Message:
    """A table; one that is there keeps the comment that it has."""
    return _NEWTABLE, NLM_F_CREATE, family, _text(1, name) + (attribute(6, _comment(comment)) if comment else b"")


def _comment(text: str) -> bytes:
    """User data, as nft(8) has it: type 0 is the comment of a rule, and of a table."""
    raw = text.encode("utf-8", "surrogateescape") + b"\0"
    return bytes([0, len(raw)]) + raw


def delete_table(family: int, name: str) -> Message:
    return _DELTABLE, 0, family, _text(1, name)


def add_chain(family: int, table: str, name: str, hook: tuple[str, int, int] | None = None) -> Message:
    """A chain; with `hook` (type, hook, priority) the kernel calls it.  No harm when it is there."""
    base = b""
    if hook is not None:
        kind, number, priority = hook
        base = _nested(4, _u32(1, number), _u32(2, priority)) + _u32(5, _VERDICTS["accept"]) + _text(7, kind)
    return _NEWCHAIN, NLM_F_CREATE, family, _text(1, table) + _text(3, name) + base


def flush_chain(family: int, table: str, name: str) -> Message:
    """Remove all its rules."""
    return _DELRULE, 0, family, _text(1, table) + _text(2, name)


def add_rule(family: int, table: str, chain: str, *expressions: bytes, comment: str = "", first: bool = False
             ) -> Message:
    note = attribute(7, _comment(comment)) if comment else b""
    return (_NEWRULE, NLM_F_CREATE | (0 if first else _NLM_F_APPEND), family,
            _text(1, table) + _text(2, chain) + _nested(4, *expressions) + note)


def delete_rule(family: int, table: str, chain: str, handle: int) -> Message:
    return _DELRULE, 0, family, _text(1, table) + _text(2, chain) + attribute(3, pack(">Q", handle))


def _type(fields: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The number and length of a type of one or several fields."""
    number = 0
    for kind, _ in fields:
        number = number << 6 | kind
    return number, fields[0][1] if len(fields) == 1 else sum(-(-size // 4) * 4 for _, size in fields)


def add_set(family: int, table: str, name: str, *fields: tuple[int, int], data: tuple[tuple[int, int], ...] = (),
            verdicts: bool = False, interval: bool = False, identity: int = 1) -> Message:
    """A set of such keys; with `data` a map to such values, with `verdicts` one to verdicts.  It may be there."""
    number, length = _type(fields)
    flags = (_SET_INTERVAL if interval else 0) | (_SET_MAP if data or verdicts else 0)
    body = _text(1, table) + _text(2, name) + _u32(3, flags) + _u32(4, number) + _u32(5, length) + _u32(10, identity)
    if verdicts:
        body += _u32(6, _DATA_VERDICT) + _u32(7, 0)
    elif data:
        kind, size = _type(data)
        body += _u32(6, kind) + _u32(7, size)
    if fields == (INTERFACE,):  # for nft(8), which would take a single name for a big-endian number
        body += attribute(13, bytes([0, 4]) + pack("=I", 1))  # NFTNL_UDATA_SET_KEYBYTEORDER
    return _NEWSET, NLM_F_CREATE, family, body


def element(keys: bytes, data: bytes = b"") -> bytes:
    """An element of a set, or a map's with its value."""
    return _nested(1, _nested(1, attribute(1, keys)), *([_nested(2, attribute(1, data))] if data else []))


def element_verdict(keys: bytes, word: str, chain: str = "") -> bytes:
    return _nested(1, _nested(1, attribute(1, keys)), _nested(2, _verdict(word, chain)))


def element_end(keys: bytes) -> bytes:
    """The first key that is no longer in the interval."""
    return _nested(1, _nested(1, attribute(1, keys)), _u32(3, _ELEMENT_END))


def _elements(table: str, name: str, elements: list[bytes]) -> bytes:
    return _text(1, table) + _text(2, name) + _nested(3, *elements)


_ELEMENTS_IN_A_MESSAGE = 256  # the attribute that holds them has a length of 16 bits


def add_elements(family: int, table: str, name: str, elements: list[bytes], *, new: bool = False) -> list[Message]:
    """With `new`, EEXIST where a key is there already; else only where it has another value."""
    flags = NLM_F_CREATE | (NLM_F_EXCL if new else 0)
    return [(_NEWSETELEM, flags, family, _elements(table, name, elements[at:at + _ELEMENTS_IN_A_MESSAGE]))
            for at in range(0, len(elements), _ELEMENTS_IN_A_MESSAGE)]


def delete_elements(family: int, table: str, name: str, elements: list[bytes]) -> list[Message]:
    """ENOENT where one isn't there."""
    return [(_DELSETELEM, 0, family, _elements(table, name, elements[at:at + _ELEMENTS_IN_A_MESSAGE]))
            for at in range(0, len(elements), _ELEMENTS_IN_A_MESSAGE)]


class Chain:
    """A chain as the kernel has it; `hook` is -1 where nothing but other chains leads to it."""

    __slots__ = ("family", "hook", "name", "policy", "priority", "table", "type")

    def __init__(self, family: int, body: bytes) -> None:
        self.family = family
        self.table = self.name = self.type = self.policy = ""
        self.hook, self.priority = -1, 0
        for kind, value in attributes(body):
            if kind == 1:
                self.table = _decode(value)
            elif kind == 3:
                self.name = _decode(value)
            elif kind == 5:
                self.policy = "drop" if unpack_from(">I", value)[0] == 0 else "accept"
            elif kind == 7:
                self.type = _decode(value)
            elif kind == 4:
                for inner, number in attributes(value):
                    if inner == 1:
                        self.hook = unpack_from(">I", number)[0]
                    elif inner == 2:
                        self.priority = unpack_from(">i", number)[0]


class Rule:
    """A rule as the kernel has it: its expressions are (name, attributes' bytes)."""

    __slots__ = ("chain", "expressions", "handle", "table")

    def __init__(self, body: bytes) -> None:
        self.table = self.chain = ""
        self.handle = 0
        self.expressions: list[tuple[str, bytes]] = []
        for kind, value in attributes(body):
            if kind == 1:
                self.table = _decode(value)
            elif kind == 2:
                self.chain = _decode(value)
            elif kind == 3:
                self.handle = unpack_from(">Q", value)[0]
            elif kind == 4:
                for _, item in attributes(value):
                    parts = dict(attributes(item))
                    self.expressions.append((_decode(parts.get(1, b"")), parts.get(2, b"")))

    @property
    def verdict(self) -> str:
        """drop, accept, reject, …: what it ends with; "" when something else."""
        name, body = self.expressions[-1] if self.expressions else ("", b"")
        if name == "reject":
            return "reject"
        if name == "target":  # iptables' own, as it writes them itself
            return "reject" if _decode(dict(attributes(body)).get(1, b"")) == "REJECT" else ""
        for kind, value in attributes(body) if name == "immediate" else []:
            if kind == 2:
                for inner, words in attributes(value):
                    if inner == 2:
                        code = unpack_from(">i", dict(attributes(words))[1])[0]
                        return next((word for word, number in _VERDICTS.items() if number == code), "")
        return ""


def _decode(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


class Netfilter(Socket):
    """A nfnetlink socket."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_NETLINK_NETFILTER, "nftables")

    def commit(self, batch: list[Message]) -> None:
        """Carry out all of it, or nothing.  Raises the first refusal, a NetlinkError."""
        self._sequence += 1
        first = self._sequence
        parts = [_message(_BATCH_BEGIN, 0, 0, first, b"", _SUBSYS_NFTABLES)]
        for kind, flags, family, body in batch:
            self._sequence += 1
            parts.append(_message(_SUBSYS_NFTABLES << 8 | kind, flags, family, self._sequence, body))
        self._sequence += 1
        parts.append(_message(_BATCH_END, 0, 0, self._sequence, b"", _SUBSYS_NFTABLES))
        data = b"".join(parts)
        if len(data) > 100_000:
            for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
                try:
                    self._socket.setsockopt(SOL_SOCKET, option, len(data) * 2)
                except PermissionError:  # in a user namespace: what there is has to do
                    pass
        self._socket.send(data)
        # The transaction is over when send returns; without a word all is well.
        failure: NetlinkError | None = None
        while True:
            try:
                datagram = self._socket.recv(_BUFFER, MSG_DONTWAIT)
            except BlockingIOError:
                break
            for kind, flags, sequence, body in messages(datagram):
                if kind == NLMSG_ERROR and first <= sequence <= self._sequence:
                    failure = failure or refusal(body, flags, self._family)
        if failure is not None:
            raise failure

    def table_comment(self, family: int, name: str) -> str | None:
        """The table's comment; None where there is no such table.  Raises OSError."""
        try:
            (body,) = self._ask(_SUBSYS_NFTABLES << 8 | _GETTABLE, 0, pack("=BBH", family, 0, 0) + _text(1, name))
        except OSError as error:
            if error.errno == ENOENT:
                return None
            raise
        data = dict(attributes(body[4:])).get(6, b"")
        return data[2:2 + data[1]].rstrip(b"\0").decode("utf-8", "surrogateescape") if data[:1] == b"\0" else ""

    def chains(self) -> list[Chain]:
        """Every chain of every table.  Raises OSError."""
        return [Chain(family, body) for family, body in self._dump(_GETCHAIN, 0, b"")]

    def rules(self, family: int, table: str, chain: str = "") -> list[Rule]:
        """Those of the chain, or of the whole table.  Raises OSError."""
        query = _text(1, table) + (_text(2, chain) if chain else b"")
        return [Rule(body) for _, body in self._dump(_GETRULE, family, query)]

    def elements(self, family: int, table: str, name: str) -> int:
        """How many elements a set has.  Raises OSError."""
        count = 0
        for _, body in self._dump(_GETSETELEM, family, _text(1, table) + _text(2, name)):
            for kind, value in attributes(body):
                if kind == 3:
                    count += len(attributes(value))
        return count

    def _dump(self, kind: int, family: int, body: bytes) -> list[tuple[int, bytes]]:
        """Every answer: its family, and its attributes."""
        head = pack("=BBH", family, 0, 0)  # struct nfgenmsg
        return [(answer[0], answer[len(head):])
                for answer in self._ask(_SUBSYS_NFTABLES << 8 | kind, NLM_F_DUMP, head + body)]


def _message(kind: int, flags: int, family: int, sequence: int, body: bytes, resource: int = 0) -> bytes:
    """struct nlmsghdr, struct nfgenmsg (family, version, resource), attributes."""
    return pack("=IHHIIBB", 20 + len(body), kind, flags | NLM_F_REQUEST, sequence, 0, family, 0) \
        + pack(">H", resource) + body
