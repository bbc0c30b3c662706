# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Under which address a server outside sees this host: a binding request of STUN, RFC 8489."""

from __future__ import annotations

import re
import secrets
import socket
import struct

from .address import canonical_address
from .mapping import Malformed, MappingError, Unreachable
from .udp import exchange

PORT = 3478
_PATIENCE = 3.0  # seconds

_REQUEST, _SUCCESS, _ERROR = 0x0001, 0x0101, 0x0111
_MAPPED_ADDRESS, _XOR_MAPPED_ADDRESS = 0x0001, 0x0020
_COOKIE = 0x2112A442
_HEADER = struct.Struct(">HHI12s")  # type, length of what follows, magic cookie, transaction
_SIZES = {1: 4, 2: 16}  # octets of an address, by STUN's number of its family
_SERVER = re.compile(r"(?P<host>[^][:\s]+)(:(?P<port>[0-9]{1,5}))?")
_IPV6 = re.compile(r"\[(?P<host>[0-9A-Fa-f:.]+)\](:(?P<port>[0-9]{1,5}))?")
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def request(transaction: bytes) -> bytes:
    return _HEADER.pack(_REQUEST, 0, _COOKIE, transaction)


def read(datagram: bytes, transaction: bytes) -> str:
    """Return the address that the response gives; attributes that do not matter here are passed over."""
    if len(datagram) < _HEADER.size:
        raise Malformed(f"its STUN response has {len(datagram)} octets, which none can have")
    kind, length, cookie, answered = _HEADER.unpack_from(datagram)
    if (cookie, answered) != (_COOKIE, transaction) or length != len(datagram) - _HEADER.size or length % 4:
        raise Malformed("its STUN response answers no question of this host")
    if kind == _ERROR:
        raise Unreachable("answers the STUN request with an error: name another STUN server")
    if kind != _SUCCESS:
        raise Malformed(f"its STUN response is of type {kind:#06x}")
    found = ""
    at = _HEADER.size
    while at + 4 <= len(datagram):
        attribute, size = struct.unpack_from(">HH", datagram, at)
        value = datagram[at + 4 : at + 4 + size]
        if len(value) != size:
            raise Malformed("its STUN response ends within an attribute")
        if attribute == _XOR_MAPPED_ADDRESS:
            # Some routers rewrite addresses that they find inside packets, so it travels in disguise.
            return _address(value, datagram[4:20])
        if attribute == _MAPPED_ADDRESS:  # all that a server of the elder RFC 3489 says
            found = _address(value, bytes(16))
        at += 4 + size + -size % 4
    if not found:
        raise Malformed("its STUN response gives no address")
    return found


def _address(value: bytes, mask: bytes) -> str:
    if len(value) < 4 or len(value) - 4 != _SIZES.get(value[1]):
        raise Malformed("its STUN response gives an address of no known family")
    packed = bytes(one ^ other for one, other in zip(value[4:], mask, strict=False))
    return canonical_address(packed)


def ask(server: str, family: int = 4) -> str:
    """Return the address under which the server, HOST or HOST:PORT, sees this host."""
    host, port = _parse(server)
    try:
        address = str(socket.getaddrinfo(host, port, _FAMILIES[family], socket.SOCK_DGRAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"the STUN server {host} has no IPv{family} address that is known here: {error}") from error
    transaction = secrets.token_bytes(12)
    return exchange(
        address, port, request(transaction), lambda datagram: read(datagram, transaction), patience=_PATIENCE
    )


def _parse(server: str) -> tuple[str, int]:
    """Split HOST, HOST:PORT, [ADDRESS] or [ADDRESS]:PORT."""
    match = _IPV6.fullmatch(server) or _SERVER.fullmatch(server)
    port = int(match["port"] or PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise MappingError(f"the STUN server {server!r} is not of the form HOST or HOST:PORT")
    return match["host"], port
