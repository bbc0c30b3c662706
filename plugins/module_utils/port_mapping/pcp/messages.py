# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Port Control Protocol, RFC 6887: requests and responses as bytes, and what its result codes mean."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from ..address import parse_address
from ..answers import Answer
from ..mapping import Malformed, Unreachable

PORT = 5351
VERSION = 2
ANNOUNCE, MAP = 0, 1
PROTOCOLS = {"udp": 17, "tcp": 6}  # the numbers of IANA

_RESPONSE = 0x80
_MIN_SIZE, _MAX_SIZE = 24, 1100  # octets of a message, section 7
_REQUEST_HEADER = struct.Struct(">BBxxI16s")  # version, opcode, lifetime, the client's address
_RESPONSE_HEADER = struct.Struct(">BBxBII12x")  # version, opcode, result, lifetime, epoch
_MAP = struct.Struct(">12sB3xHH16s")  # nonce, protocol, internal port, external port, external address
_PREFER_FAILURE = struct.pack(">BxH", 2, 0)

SUCCESS = 0
NOT_AUTHORIZED = 2
UNSUPPORTED_OPCODE = 4
UNSUPPORTED_OPTION = 5
NETWORK_FAILURE = 7
NO_RESOURCES = 8
CANNOT_PROVIDE_EXTERNAL = 11
RESULTS = {  # but for NETWORK_FAILURE, which the verdict explains
    1: Answer("UNSUPP_VERSION", "it speaks another version of PCP", "choose the method nat-pmp or upnp"),
    NOT_AUTHORIZED: Answer(
        "NOT_AUTHORIZED",
        "it does not let this host map this port, or another program on this host holds a mapping of it",
        "allow it in the router's settings of PCP, or stop the other program",
    ),
    3: Answer("MALFORMED_REQUEST", "it did not understand the request", "update the router, or choose another method"),
    UNSUPPORTED_OPCODE: Answer("UNSUPP_OPCODE", "it speaks PCP without mappings", "choose the method nat-pmp or upnp"),
    UNSUPPORTED_OPTION: Answer("UNSUPP_OPTION", "it lacks an option of PCP", "choose the method nat-pmp or upnp"),
    6: Answer("MALFORMED_OPTION", "it did not understand an option", "update the router, or choose another method"),
    NO_RESOURCES: Answer(
        "NO_RESOURCES", "its table of mappings is full", "delete mappings on the router, or try again later"
    ),
    9: Answer("UNSUPP_PROTOCOL", "it does not map this protocol", "choose the method nat-pmp or upnp"),
    10: Answer("USER_EX_QUOTA", "this host has as many mappings as it may have", "delete some, or raise the quota"),
    CANNOT_PROVIDE_EXTERNAL: Answer(
        "CANNOT_PROVIDE_EXTERNAL", "the external port is not to be had", "choose another external port"
    ),
    12: Answer(
        "ADDRESS_MISMATCH",
        "it sees this host under another address: something between them translates addresses",
        "name the nearest router as the gateway, or connect this host to the router directly",
    ),
    13: Answer("EXCESSIVE_REMOTE_PEERS", "it cannot filter that many remote peers", "update the router"),
}


@dataclass(frozen=True)
class Mapping:
    """The part of a message that says which mapping is meant."""

    nonce: bytes
    protocol: int
    internal_port: int
    external_port: int = 0
    external_address: str = ""  # "": whichever

    def is_answer_to(self, request: Mapping) -> bool:
        return (self.nonce, self.protocol, self.internal_port) == (
            request.nonce,
            request.protocol,
            request.internal_port,
        )


@dataclass(frozen=True)
class Response:
    """What the server said; without `mapping` it is one to ANNOUNCE, or an error that repeats no request."""

    result: int
    lifetime: int
    epoch: int
    mapping: Mapping | None = None

    @property
    def granted(self) -> Mapping:
        """The mapping of a response that grants one: `read` takes none without."""
        if self.mapping is None:
            raise Malformed("its PCP response grants a mapping but does not say which")
        return self.mapping


def announce(client: str) -> bytes:
    """Ask for nothing but the epoch, section 14.1."""
    return _REQUEST_HEADER.pack(VERSION, ANNOUNCE, 0, _pack(client))


def map_request(client: str, mapping: Mapping, lifetime: int, prefer_failure: bool = False) -> bytes:
    """Ask for a mapping, for its renewal, or with lifetime 0 for its end."""
    # "Whichever address" is written in the family that is meant, section 11.1.
    whichever = "::" if ":" in client else "0.0.0.0"  # noqa: S104 - nothing is bound to it
    return (
        _REQUEST_HEADER.pack(VERSION, MAP, lifetime, _pack(client))
        + _MAP.pack(
            mapping.nonce,
            mapping.protocol,
            mapping.internal_port,
            mapping.external_port,
            _pack(mapping.external_address or whichever),
        )
        + (_PREFER_FAILURE if prefer_failure else b"")
    )


def read(datagram: bytes, opcode: int) -> Response:
    """Read a response to a request of this opcode; raise Malformed, or Unreachable when it is of another version."""
    if len(datagram) >= 2 and datagram[0] != VERSION and (datagram[1] & _RESPONSE or not datagram[0]):
        # A server of NAT-PMP answers with 8 octets of its own version, which is 0 (RFC 6886, section 3.5).
        other = "NAT-PMP" if datagram[0] == 0 else f"version {datagram[0]}"
        raise Unreachable(f"speaks {other}, not PCP version {VERSION}")
    if not _MIN_SIZE <= len(datagram) <= _MAX_SIZE or len(datagram) % 4:
        raise Malformed(f"its PCP response has {len(datagram)} octets, which none can have")
    version, kind, result, lifetime, epoch = _RESPONSE_HEADER.unpack_from(datagram)
    if (version, kind) != (VERSION, opcode | _RESPONSE):
        raise Malformed(f"its answer to PCP opcode {opcode} is of version {version} and kind {kind}")
    mapping = None
    if opcode == MAP and len(datagram) >= _MIN_SIZE + _MAP.size:
        nonce, protocol, internal, external, address = _MAP.unpack_from(datagram, _MIN_SIZE)
        mapping = Mapping(nonce, protocol, internal, external, _unpack(address))
    elif opcode == MAP and result == SUCCESS:
        raise Malformed("its PCP response grants a mapping but does not say which")
    return Response(result, lifetime, epoch, mapping)


def _pack(address: str) -> bytes:
    """An IPv4 address travels as an IPv4-mapped IPv6 address, section 5."""
    packed = ipaddress.ip_address(address).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def _unpack(packed: bytes) -> str:
    address = parse_address(packed)
    return "" if address.is_unspecified else str(address)
