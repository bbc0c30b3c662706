# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the relay answers inside the tunnel: ICMP and ICMPv6 echo on its own overlay addresses (RFC 792, RFC 4443)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

_ICMP, _ICMPV6 = 1, 58
_ECHO_REPLY = {_ICMP: 0, _ICMPV6: 129}
_ECHO_REQUEST = {_ICMP: 8, _ICMPV6: 128}


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
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


def _echo(protocol: int, message: bytes, pseudo_header: bytes) -> bytes | None:
    if len(message) < 8 or message[0] != _ECHO_REQUEST[protocol] or message[1] or _checksum(pseudo_header + message):
        return None
    reply = bytes([_ECHO_REPLY[protocol], 0, 0, 0]) + message[4:]
    return reply[:2] + struct.pack(">H", _checksum(pseudo_header + reply)) + reply[4:]


def echo_reply(packet: bytes) -> bytes | None:
    """Return the answer to an ICMP echo request, or None for any other packet.

    Padding behind the packet is cut off. Fragments and IPv4 options are not answered.
    """
    if len(packet) >= 28 and packet[0] == 0x45 and packet[9] == _ICMP:
        length, fragment = struct.unpack_from(">H", packet, 2)[0], struct.unpack_from(">H", packet, 6)[0]
        if not 28 <= length <= len(packet) or fragment & 0x3FFF:
            return None
        body = _echo(_ICMP, packet[20:length], b"")
        if body is None:
            return None
        head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, _ICMP, 0, packet[16:20], packet[12:16])
        return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + body
    if len(packet) >= 48 and packet[0] >> 4 == 6 and packet[6] == _ICMPV6:
        length = struct.unpack_from(">H", packet, 4)[0]
        if not 8 <= length <= len(packet) - 40:
            return None
        source, destination = packet[8:24], packet[24:40]
        pseudo_header = source + destination + struct.pack(">II", length, _ICMPV6)
        body = _echo(_ICMPV6, packet[40 : 40 + length], pseudo_header)
        if body is None:
            return None
        return struct.pack(">IHBB", 0x60000000, length, _ICMPV6, 64) + destination + source + body
    return None
