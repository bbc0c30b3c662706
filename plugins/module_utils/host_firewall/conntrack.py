# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the kernel forget connections, over netlink, since the program `conntrack` is on few routers.

NAT rules see only a connection's first packet. A device that was sending before they changed would keep its connection,
and stay outside (or inside, when a forward is removed), for as long as it sends.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .netfilter import ACK, DUMP, FAMILY, NESTED, answers, attribute, attributes, open_netlink, request

CT_GET, CT_DELETE = 0x101, 0x102
TUPLE_ORIG, TUPLE_IP, TUPLE_PROTO = 1, 1, 2
IP_V4_DST, PROTO_NUM, PROTO_DST_PORT = 2, 1, 3
PROTOCOLS = {socket.IPPROTO_UDP: "udp", socket.IPPROTO_TCP: "tcp"}


class Connection(NamedTuple):
    """Where a connection's first packet was sent."""

    protocol: str
    destination: str
    port: int
    tuple: bytes  # as the kernel names the connection


def forget_connections(matches: Callable[[Connection], bool]) -> int:
    """Forget the IPv4 connections that match; how many there were. Raises OSError."""
    with open_netlink() as netlink:
        found = [connection for connection in _connections(netlink) if matches(connection)]
        for connection in found:
            request(netlink, CT_DELETE, ACK, attribute(TUPLE_ORIG | NESTED, connection.tuple))
            list(answers(netlink))
    return len(found)


def _connections(netlink: socket.socket) -> Iterator[Connection]:
    request(netlink, CT_GET, DUMP)
    for body in answers(netlink):
        connection = read_connection(body[FAMILY.size :])
        if connection:
            yield connection


def read_connection(parts: bytes) -> Connection | None:
    """The connection that a message's attributes tell of; None: neither UDP nor TCP."""
    orig = dict(attributes(parts)).get(TUPLE_ORIG, b"")
    names = dict(attributes(orig))
    address = dict(attributes(names.get(TUPLE_IP, b""))).get(IP_V4_DST, b"")
    transport = dict(attributes(names.get(TUPLE_PROTO, b"")))
    protocol = PROTOCOLS.get(int.from_bytes(transport.get(PROTO_NUM, b""), "big"))
    port = transport.get(PROTO_DST_PORT, b"")
    if not protocol or len(address) != 4 or len(port) != 2:
        return None
    return Connection(protocol, socket.inet_ntoa(address), int.from_bytes(port, "big"), orig)
