# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The NAT Port Mapping Protocol, RFC 6886: requests and responses as bytes, and what its result codes mean."""

from __future__ import annotations

import struct
from typing import NamedTuple

from ..address import parse_address
from ..answers import Answer
from ..mapping import Malformed, Unreachable

PORT = 5351
VERSION = 0
ADDRESS = 0
OPCODES = {"udp": 1, "tcp": 2}

_RESPONSE = 128
_HEADER = struct.Struct(">BBHI")  # version, opcode, result, epoch
_ADDRESS = struct.Struct(">8x4s")
_MAP_REQUEST = struct.Struct(">BBxxHHI")  # version, opcode, internal port, external port, lifetime
_MAP = struct.Struct(">8xHHI")  # internal port, external port, lifetime

SUCCESS = 0
NETWORK_FAILURE = 3
RESULTS = {  # but for NETWORK_FAILURE, which the verdict explains
    1: Answer("Unsupported Version", "it does not speak NAT-PMP", "choose the method pcp or upnp"),
    2: Answer(
        "Not Authorized/Refused",
        "it does not let this host map this port, or NAT-PMP is turned off",
        "allow it in the router's settings of NAT-PMP",
    ),
    4: Answer("Out of resources", "its table of mappings is full", "delete mappings on the router, or try again later"),
    5: Answer("Unsupported opcode", "it speaks NAT-PMP without mappings", "choose the method pcp or upnp"),
}


class Response(NamedTuple):
    """What the router said; what is not in its answer is left at 0."""

    result: int
    epoch: int
    address: str = ""  # "": none
    external_port: int = 0
    lifetime: int = 0


def address_request() -> bytes:
    return bytes([VERSION, ADDRESS])


def map_request(protocol: str, internal_port: int, external_port: int, lifetime: int) -> bytes:
    """Ask for a mapping, for its renewal, or with lifetime and external port 0 for its end."""
    return _MAP_REQUEST.pack(VERSION, OPCODES[protocol], internal_port, external_port, lifetime)


def read_address(datagram: bytes) -> Response:
    result, epoch = _read_header(datagram, ADDRESS, _ADDRESS)
    if result != SUCCESS:
        return Response(result, epoch)
    address = parse_address(_ADDRESS.unpack_from(datagram)[0])
    return Response(result, epoch, "" if address.is_unspecified else str(address))


def read_map(datagram: bytes, protocol: str, internal_port: int) -> Response:
    result, epoch = _read_header(datagram, OPCODES[protocol], _MAP)
    if result != SUCCESS:
        return Response(result, epoch)
    port, external_port, lifetime = _MAP.unpack_from(datagram)
    if port != internal_port:
        raise Malformed(f"its NAT-PMP response is about port {port}, not {internal_port}")
    return Response(result, epoch, "", external_port, lifetime)


def _read_header(datagram: bytes, opcode: int, body: struct.Struct) -> tuple[int, int]:
    """Return (result, epoch); raise Malformed, or Unreachable when the answer is of another version."""
    if len(datagram) < _HEADER.size:
        raise Malformed(f"its NAT-PMP response has {len(datagram)} octets, which none can have")
    version, kind, result, epoch = _HEADER.unpack_from(datagram)
    if version != VERSION:
        raise Unreachable(f"speaks version {version} of NAT-PMP's successor PCP, not NAT-PMP")
    if kind != opcode | _RESPONSE and (kind, result) != (0, 1):  # the answer to a version that it does not know
        raise Malformed(f"its answer to NAT-PMP opcode {opcode} is of kind {kind}")
    # A refusal need not have a body.
    if result == SUCCESS and len(datagram) != body.size:
        raise Malformed(f"its NAT-PMP response has {len(datagram)} octets instead of {body.size}")
    return result, epoch
