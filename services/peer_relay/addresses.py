# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Socket addresses as bytes: the beginning of the system's own sockaddr, so that the data plane need not convert.

IPv4: family, port, address (8 bytes of sockaddr_in). IPv6: the whole sockaddr_in6 (28 bytes), with the scope.
"""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import ip_address

from peer_common import endpoints

_V4 = struct.Struct("=H2s4s")
_V6 = struct.Struct("=H2sI16sI")
V4_SIZE, V6_SIZE = _V4.size, _V6.size


def pack(host: str, port: int) -> bytes:
    """Return the address bytes of a literal IPv4 or IPv6 address and a port; raise ValueError otherwise."""
    literal, _, scope = host.partition("%")
    address = ip_address(literal)
    try:
        wire_port = struct.pack(">H", port)
        if address.version == 4:
            return _V4.pack(socket.AF_INET, wire_port, address.packed)
        return _V6.pack(socket.AF_INET6, wire_port, 0, address.packed, int(scope or 0))
    except struct.error as error:
        raise ValueError(f"port {port} or scope {scope!r} is out of range") from error


def join(host: bytes, port: int) -> bytes:
    """Return the address bytes of the 4 or 16 bytes of an IP address and a port."""
    wire_port = port.to_bytes(2, "big")
    if len(host) == 4:
        return _V4.pack(socket.AF_INET, wire_port, host)
    return _V6.pack(socket.AF_INET6, wire_port, 0, host, 0)


def unpack(address: bytes) -> tuple[str, int]:
    """Return (host, port); the host of a link-local address carries its scope as a number."""
    if len(address) == V4_SIZE:
        _, port, host = _V4.unpack(address)
        return str(ip_address(host)), int.from_bytes(port, "big")
    _, port, _, host, scope = _V6.unpack(address)
    return str(ip_address(host)) + (f"%{scope}" if scope else ""), int.from_bytes(port, "big")


def text(address: bytes) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return endpoints.join(*unpack(address))


def port(address: bytes) -> int:
    """Return the port."""
    return int.from_bytes(address[2:4], "big")


def host_bytes(address: bytes) -> bytes:
    """Return the 4 or 16 bytes of the IP address."""
    return address[4:8] if len(address) == V4_SIZE else address[8:24]


def network(address: bytes) -> bytes:
    """Return what one subscriber holds: an IPv4 address, or the first 64 bits of an IPv6 one."""
    return address[4:8] if len(address) == V4_SIZE else address[8:16]


def site(address: bytes) -> bytes:
    """Return what one subscriber holds at the most: an IPv4 address, or the first 48 bits of an IPv6 one (RFC 6177)."""
    return address[4:8] if len(address) == V4_SIZE else address[8:14]


def is_unicast(address: bytes) -> bool:
    """Tell whether these are the bytes of an address and port that one host can be reached at, in its own family."""
    family = int.from_bytes(address[:2], sys.byteorder)
    if (len(address), family) not in ((V4_SIZE, socket.AF_INET), (V6_SIZE, socket.AF_INET6)):
        return False
    host = ip_address(host_bytes(address))
    mapped = host.version == 6 and host.ipv4_mapped
    broadcast = host.version == 4 and int(host) == 0xFFFFFFFF
    return any(address[2:4]) and not (host.is_multicast or host.is_unspecified or mapped or broadcast)
