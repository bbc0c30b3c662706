# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This host's way to its router."""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path
from typing import NamedTuple

from .mapping import Unreachable

_UP, _GATEWAY, _REJECT = 0x1, 0x2, 0x200
_ANYWHERE_V6 = "2000::"  # where the Internet's addresses begin
# linux/in6.h; Python has no names for them.
_IPV6_ADDR_PREFERENCES, _IPV6_PREFER_SRC_PUBLIC = 72, 0x2


class Route(NamedTuple):
    """A default route; the address of a link-local gateway has its zone."""

    metric: int
    gateway: str


def parse_ipv4(table: str) -> list[Route]:
    """The default routes of /proc/net/route."""
    routes = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[1] != fields[7] or int(fields[1], 16):
            continue
        if _usable(int(fields[3], 16)):
            # The kernel prints the number that it has in memory, whichever way this machine turns its octets.
            address = ipaddress.IPv4Address(struct.pack("=I", int(fields[2], 16)))
            routes.append(Route(int(fields[6]), str(address)))
    return routes


def parse_ipv6(table: str) -> list[Route]:
    """The default routes of /proc/net/ipv6_route."""
    routes = []
    for line in table.splitlines():
        fields = line.split()
        if len(fields) < 10 or int(fields[0], 16) or fields[1] != "00" or not _usable(int(fields[8], 16)):
            continue
        address = ipaddress.IPv6Address(bytes.fromhex(fields[4]))
        zone = f"%{fields[9]}" if address.is_link_local else ""
        routes.append(Route(int(fields[5], 16), f"{address}{zone}"))
    return routes


def _usable(flags: int) -> bool:
    return flags & (_UP | _GATEWAY | _REJECT) == _UP | _GATEWAY


def default_gateway(family: int) -> str:
    """The router of the default route. One into a tunnel has none, and does not count."""
    path, parse = {4: ("/proc/self/net/route", parse_ipv4), 6: ("/proc/self/net/ipv6_route", parse_ipv6)}[family]
    try:
        routes = parse(Path(path).read_text(encoding="ascii"))
    except FileNotFoundError:  # a kernel without IPv6
        routes = []
    if not routes:
        raise Unreachable(
            f"this host has no default route for IPv{family} over a router: see to its connection, or name the gateway"
        )
    return min(routes).gateway


def local_address(gateway: str, family: int) -> str:
    """This host's address towards the gateway; for IPv6 one that the Internet can reach and that stays."""
    kind = {4: socket.AF_INET, 6: socket.AF_INET6}[family]
    try:
        target = socket.getaddrinfo(gateway, 9, kind, socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0][4]
        with socket.socket(kind, socket.SOCK_DGRAM) as sock:
            if family == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_ADDR_PREFERENCES, _IPV6_PREFER_SRC_PUBLIC)
                if target[3]:  # towards a link-local address the kernel would choose a link-local one
                    interface = socket.if_indextoname(target[3])
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
                    target = (_ANYWHERE_V6, 9)
            sock.connect(target)  # sends nothing
            address = sock.getsockname()[0]
    except OSError as error:
        raise Unreachable(
            f"the gateway {gateway} cannot be reached by IPv{family} ({error.strerror}): name the router's address"
        ) from error
    if family == 6 and ipaddress.IPv6Address(address.partition("%")[0]).is_link_local:
        raise Unreachable(
            f"this host has only a link-local IPv6 address towards the gateway {gateway}: turn on IPv6 (prefix "
            "delegation) in the router"
        )
    return address
