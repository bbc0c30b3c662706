# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This host's way to its router."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path
from typing import Any, NamedTuple

from .mapping import Unreachable

_UP, _GATEWAY, _REJECT = 0x1, 0x2, 0x200
_ANYWHERE_V6 = "2000::"  # where the Internet's addresses begin
# linux/sockios.h, linux/if_arp.h and linux/in6.h; Python has no names for them.
_SIOCGIFHWADDR, _ARPHRD_ETHER = 0x8927, 1
_IPV6_ADDR_PREFERENCES, _IPV6_PREFER_SRC_PUBLIC = 72, 0x2


class Route(NamedTuple):
    """A default route; the address of a link-local gateway has its zone."""

    metric: int
    gateway: str


class NextHop(NamedTuple):
    """This host's router, and how it is reached. What there is not is ""."""

    gateway: str
    address: str  # this host's, to which the router can forward
    interface: str = ""
    network: str = ""  # what the interface is in, as 192.168.1.0/24
    mac: str = ""  # the interface's


def parse_ipv4(table: str) -> list[Route]:
    """The default routes of /proc/net/route."""
    routes = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[1] != fields[7] or int(fields[1], 16):
            continue
        if _usable(int(fields[3], 16)) and _has_a_router(fields[0]):
            routes.append(Route(int(fields[6]), str(_ipv4(fields[2]))))
    return routes


def parse_network(table: str, address: str) -> tuple[str, str]:
    """The interface and the network of /proc/net/route that an address is in; "" where it is in none."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 8 and int(fields[7], 16) and int(fields[3], 16) & (_UP | _GATEWAY | _REJECT) == _UP:
            network = ipaddress.IPv4Network(f"{_ipv4(fields[1])}/{_ipv4(fields[7])}")
            if ipaddress.ip_address(address) in network:
                found.append((network.prefixlen, fields[0], str(network)))
    return max(found, default=(0, "", ""))[1:]


def _ipv4(field: str) -> ipaddress.IPv4Address:
    """The kernel prints the number that it has in memory, whichever way this machine turns its octets."""
    return ipaddress.IPv4Address(struct.pack("=I", int(field, 16)))


def parse_ipv6(table: str) -> list[Route]:
    """The default routes of /proc/net/ipv6_route."""
    routes = []
    for line in table.splitlines():
        fields = line.split()
        if len(fields) < 10 or int(fields[0], 16) or fields[1] != "00" or not _usable(int(fields[8], 16)):
            continue
        if not _has_a_router(fields[9]):
            continue
        address = ipaddress.IPv6Address(bytes.fromhex(fields[4]))
        zone = f"%{fields[9]}" if address.is_link_local else ""
        routes.append(Route(int(fields[5], 16), f"{address}{zone}"))
    return routes


def _usable(flags: int) -> bool:
    return flags & (_UP | _GATEWAY | _REJECT) == _UP | _GATEWAY


def _hardware(interface: str) -> tuple[int, bytes]:
    """The kind of an interface (ARPHRD_*) and its address; raise OSError when it is gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        found = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s24x", interface.encode()))
    return struct.unpack_from("=H6s", found, 16)


def _has_a_router(interface: str) -> bool:
    """Whether a network is behind it. What a VPN's tunnel calls its gateway is no router that could forward."""
    try:
        return _hardware(interface)[0] == _ARPHRD_ETHER
    except OSError:
        return True  # gone meanwhile


def next_hop(family: int, gateway: str = "") -> NextHop:
    """Return the way to the router, or to the one that is named; raise Unreachable.

    The address is the one that a router can forward to: not that of a VPN, whichever way the rest of the traffic takes,
    and of IPv6 not a temporary one, which is another tomorrow.
    """
    gateway = gateway or default_gateway(family)
    address = local_address(gateway, family)
    if family == 6:
        return NextHop(gateway, address)
    interface, network = parse_network(_table(4), address)
    try:
        mac = _hardware(interface)[1].hex(":") if interface else ""
    except OSError:
        mac = ""
    return NextHop(gateway, address, interface, network, mac)


def _table(family: int) -> str:
    path = {4: "/proc/self/net/route", 6: "/proc/self/net/ipv6_route"}[family]
    try:
        return Path(path).read_text(encoding="ascii")
    except FileNotFoundError:  # a kernel without IPv6
        return ""


def default_gateway(family: int) -> str:
    """The router of the default route. One into a tunnel has none, and does not count."""
    routes = {4: parse_ipv4, 6: parse_ipv6}[family](_table(family))
    if not routes:
        raise Unreachable(
            f"this host has no default route for IPv{family} over a router: see to its connection, or name the gateway"
        )
    return min(routes).gateway


def local_address(gateway: str, family: int) -> str:
    """This host's address towards the gateway; for IPv6 one that the Internet can reach and that stays."""
    kind = {4: socket.AF_INET, 6: socket.AF_INET6}[family]
    try:
        found = socket.getaddrinfo(gateway, 9, kind, socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        target: tuple[Any, ...] = found[0][4]
        with socket.socket(kind, socket.SOCK_DGRAM) as sock:
            if family == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_ADDR_PREFERENCES, _IPV6_PREFER_SRC_PUBLIC)
                if target[3]:  # towards a link-local address the kernel would choose a link-local one
                    interface = socket.if_indextoname(target[3])
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
                    target = (_ANYWHERE_V6, 9)
            sock.connect(target)  # sends nothing
            address = str(sock.getsockname()[0])
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
