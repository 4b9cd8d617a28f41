# SPDX-License-Identifier: Apache-2.0
"""Frames as they are, heard and sent: what a container with CAP_NET_RAW does."""

from __future__ import annotations

import socket
from struct import pack
from typing import Any

from netlab import Node
from support import WAIT

from pyrunc.net.model import pack_address

BROADCAST = b"\xff" * 6
ETH_P_ALL, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6 = 3, 0x0806, 0x0800, 0x86DD


class Ear:
    """Frames that arrive at a node's device."""

    def __init__(self, node: Node, device: str = "eth0") -> None:
        with node.inside():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.bind((device, ETH_P_ALL))
        self.socket.settimeout(WAIT)

    def __enter__(self) -> Ear:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def until(self, mark: bytes) -> bytes:
        """All that arrives until a frame with these bytes does."""
        found = b""
        while mark not in found:
            frame, where = self.socket.recvfrom(4096)
            if where[2] != socket.PACKET_OUTGOING:
                found += frame + b"|"
        return found


class Mouth:
    """Sends any frame out of a container's device."""

    def __init__(self, node: Node, mac: str, device: str = "eth0") -> None:
        self.mac = bytes.fromhex(mac.replace(":", ""))
        with node.inside():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.socket.bind((device, 0))

    def __enter__(self) -> Mouth:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def frame(self, protocol: int, body: bytes, *, source: bytes = b"", target: bytes = BROADCAST) -> None:
        self.socket.send(target + (source or self.mac) + pack(">H", protocol) + body)

    def ipv4(self, source: str, target: str, mark: bytes, *, mac: bytes = b"", to: bytes = BROADCAST) -> None:
        datagram = pack(">HHHH", 9, 9, 8 + len(mark), 0) + mark
        head = pack(">BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0) + pack_address(source) + \
            pack_address(target)
        self.frame(ETH_P_IP, head[:10] + _sum(head) + head[12:] + datagram, source=mac, target=to)

    def ipv6(self, source: str, target: str, protocol: int, body: bytes, *, tags: int = 0, options: bool = False
             ) -> None:
        """Behind so many tags of VLAN 0; with `options`, an extension header that says nothing."""
        addresses = pack_address(source) + pack_address(target)
        if protocol == 58:
            body = body[:2] + _sum(addresses + pack(">II", len(body), 58) + body) + body[4:]
        if options:
            body, protocol = bytes([protocol, 0, 1, 4, 0, 0, 0, 0]) + body, 60
        packet = pack(">IHBB", 6 << 28, len(body), protocol, 255) + addresses + body
        kinds = [*[0x8100] * tags, ETH_P_IPV6]
        self.frame(kinds[0], b"".join(pack(">HH", 0, kind) for kind in kinds[1:]) + packet)

    def router_advertisement(self, source: str, prefix: str = "2001:db8:666::", **how: Any) -> None:
        """I am a router, these are your addresses (RFC 4861, 4.2; 4.6.1, 4.6.2)."""
        own = b"\x01\x01" + self.mac
        addresses = pack(">BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + pack_address(prefix)
        self.ipv6(source, "ff02::1", 58, pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + own + addresses,
                  **how)

    def arp(self, mac: bytes, address: str, mark: str) -> None:
        self.frame(ETH_P_ARP, pack(">HHBBH", 1, ETH_P_IP, 6, 4, 2) + mac + pack_address(address) + BROADCAST
                   + pack_address(mark))


def _sum(data: bytes) -> bytes:
    total = sum(int.from_bytes(data[at:at + 2].ljust(2, b"\0"), "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return pack(">H", ~total & 0xFFFF)
