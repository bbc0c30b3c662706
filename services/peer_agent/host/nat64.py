# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""IPv4 addresses where there is only IPv6, and a NAT64: RFC 7050 finds its prefix, RFC 6052 puts them into it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from peer_agent.endpoints import Endpoint
from peer_agent.settings import HostPort

# A name that has no IPv6 address: a resolver that tells one has made it from the network's prefix.
NAME = HostPort("ipv4only.arpa", 9)
_KNOWN = tuple(int(IPv4Address(text)).to_bytes(4, "big") for text in ("192.0.0.170", "192.0.0.171"))
_LENGTHS = (96, 64, 56, 48, 40, 32)
_ZERO = 8  # the byte that is none of an IPv4 address's (RFC 6052 section 2.2)


def prefixes(answer: Iterable[Endpoint]) -> list[IPv6Network]:
    """Return the prefixes of this network's NAT64, from what its resolver says of NAME."""
    found = (_prefix(endpoint.address.packed) for endpoint in answer if endpoint.address.version == 6)
    return [prefix for prefix in dict.fromkeys(found) if prefix]


def _prefix(packed: bytes) -> IPv6Network | None:
    for length in _LENGTHS:
        if bytes(packed[place] for place in _places(length)) in _KNOWN and not packed[_ZERO]:
            return IPv6Network((packed, length), strict=False)
    return None


def _places(length: int) -> list[int]:
    """Where the bytes of an IPv4 address go."""
    return [place for place in range(length // 8, 16) if place != _ZERO][:4]


def synthesize(endpoint: Endpoint, prefix: IPv6Network) -> Endpoint:
    """Return where an endpoint with an IPv4 address is reached through the NAT64."""
    packed = bytearray(prefix.network_address.packed)
    for place, byte in zip(_places(prefix.prefixlen), endpoint.address.packed, strict=True):
        packed[place] = byte
    return Endpoint(str(IPv6Address(bytes(packed))), endpoint.port)
