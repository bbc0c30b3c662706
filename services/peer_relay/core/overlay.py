# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""IP inside the tunnel, as far as the relay answers it: ICMP and ICMPv6 echo (RFC 792, RFC 4443), and UDP (RFC 768).

Nothing else is understood: fragments and IPv4 options are not. Padding behind a packet is cut off.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

_ICMP, _UDP, _ICMPV6 = 1, 17, 58
_ECHO = {_ICMP: (8, 0), _ICMPV6: (128, 129)}  # request and reply
_UDP_HEADER = struct.Struct(">HHHH")  # source port, destination port, length, checksum


class _Packet(NamedTuple):
    """What an IP packet says; source and destination have 4 or 16 bytes."""

    source: bytes
    destination: bytes
    protocol: int
    body: bytes

    def reply(self, body: bytes) -> bytes:
        """Return the packet that goes back with another body."""
        if len(self.source) == 16:
            head = struct.pack(">IHBB", 0x60000000, len(body), self.protocol, 64)
            return head + self.destination + self.source + body
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, self.protocol, 0)
        head += self.destination + self.source
        return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + body

    def checksum(self, body: bytes) -> int:
        """Return the checksum of a body that goes one way or the other, under the pseudo-header where there is one."""
        if self.protocol == _ICMP:
            return _checksum(body)
        # IPv6 has wider fields and another order for the two numbers: their sum is the same.
        return _checksum(self.source + self.destination + struct.pack(">HH", self.protocol, len(body)) + body)


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def addresses(packet: bytes) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address] | None:
    """Return (source, destination) of an IP packet, or None when it is not one."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        return ip_address(packet[12:16]), ip_address(packet[16:20])
    if version == 6 and len(packet) >= 40:
        return ip_address(packet[8:24]), ip_address(packet[24:40])
    return None


def _read(packet: bytes) -> _Packet | None:
    """Take a packet apart; None for what is not understood."""
    if len(packet) >= 28 and packet[0] == 0x45:
        length, fragment = struct.unpack_from(">H", packet, 2)[0], struct.unpack_from(">H", packet, 6)[0]
        if 28 <= length <= len(packet) and not fragment & 0x3FFF:
            return _Packet(packet[12:16], packet[16:20], packet[9], packet[20:length])
    elif len(packet) >= 48 and packet[0] >> 4 == 6:
        length = struct.unpack_from(">H", packet, 4)[0]
        if 8 <= length <= len(packet) - 40:
            return _Packet(packet[8:24], packet[24:40], packet[6], packet[40 : 40 + length])
    return None


def echo_reply(packet: bytes) -> bytes | None:
    """Return the answer to an echo request, or None for any other packet."""
    asked = _read(packet)
    if asked is None or asked.protocol != (_ICMP if len(asked.source) == 4 else _ICMPV6):
        return None
    request, reply = _ECHO[asked.protocol]
    if asked.body[0] != request or asked.body[1] or asked.checksum(asked.body):
        return None
    body = bytes([reply, 0, 0, 0]) + asked.body[4:]
    return asked.reply(body[:2] + struct.pack(">H", asked.checksum(body)) + body[4:])


def udp_reply(packet: bytes, port: int, serve: Callable[[bytes], bytes | None]) -> bytes | None:
    """Return what `serve` answers to the datagram in a packet to a UDP port; None for any other, and if it does not."""
    asked = _read(packet)
    if asked is None or asked.protocol != _UDP:
        return None
    source_port, to_port, length, checksum = _UDP_HEADER.unpack_from(asked.body)
    if to_port != port or length != len(asked.body) or not source_port:
        return None
    # IPv4 leaves the choice of having one (RFC 768), IPv6 does not (RFC 8200, section 8.1).
    if asked.checksum(asked.body) and (checksum or len(asked.source) == 16):
        return None
    answer = serve(asked.body[_UDP_HEADER.size :])
    if answer is None:
        return None
    length = _UDP_HEADER.size + len(answer)
    checksum = asked.checksum(_UDP_HEADER.pack(port, source_port, length, 0) + answer)
    return asked.reply(_UDP_HEADER.pack(port, source_port, length, checksum or 0xFFFF) + answer)
