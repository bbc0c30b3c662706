# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""IP addresses that come from another machine: read to bytes and written from bytes, so that no text passes through.

Python's `ipaddress` alone takes any text as an IPv6 scope id, line feeds included, and `str()` keeps it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Union

IPAddress = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]  # noqa: UP007 -- pylint

_LITERAL = re.compile(r"[0-9A-Fa-f:.]{2,45}")  # the longest is an IPv6 address whose end is written as an IPv4 one
_SHOWN = 60


def parse_address(value: str | bytes) -> IPAddress:
    """Return the address of a literal, or of its 4 or 16 octets; an IPv4-mapped IPv6 address is the IPv4 one.

    Scope ids, whitespace, ports, prefixes and everything else that is no part of an address raise ValueError.
    """
    try:
        if isinstance(value, str) and not _LITERAL.fullmatch(value):
            raise ValueError
        address = ipaddress.ip_address(value)
    except ValueError:
        shown = ascii(value[:_SHOWN]) + ("..." if len(value) > _SHOWN else "")
        raise ValueError(f"{shown} is no IP address: give one like 192.0.2.1 or 2001:db8::1") from None
    return getattr(address, "ipv4_mapped", None) or address


def canonical_address(value: str | bytes) -> str:
    """Return the one text of the address, which holds nothing but the address; raise ValueError as parse_address."""
    return str(parse_address(value))


def same_host(one: str, other: str) -> bool:
    """Tell whether two texts are the same address, zones aside."""
    try:
        return parse_address(one.partition("%")[0]) == parse_address(other.partition("%")[0])
    except ValueError:
        return False
