# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the kernel forget connections, over netlink, since the program `conntrack` is on few routers.

NAT rules see only a connection's first packet. A device that was sending before they changed would keep its connection,
and stay outside (or inside, when a forward is removed), for as long as it sends.

Standard library only: the role port_forward also installs this file on the router, for start-up.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

NETLINK_NETFILTER = 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
CT_GET, CT_DELETE = 0x101, 0x102
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
TUPLE_ORIG, TUPLE_IP, TUPLE_PROTO = 1, 1, 2
IP_V4_DST, PROTO_NUM, PROTO_DST_PORT = 2, 1, 3
NESTED, TYPE_MASK = 0x8000, 0x3FFF
HEADER = struct.Struct("=IHHII")
FAMILY = struct.pack("=BBH", socket.AF_INET, 0, 0)
PROTOCOLS = {socket.IPPROTO_UDP: "udp", socket.IPPROTO_TCP: "tcp"}


class Connection(NamedTuple):
    """Where a connection's first packet was sent."""

    protocol: str
    destination: str
    port: int
    tuple: bytes  # as the kernel names the connection


def forget_connections(matches: Callable[[Connection], bool]) -> int:
    """Forget the IPv4 connections that match; how many there were. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        netlink.settimeout(5)
        found = [connection for connection in _connections(netlink) if matches(connection)]
        for connection in found:
            _request(netlink, CT_DELETE, ACK, _attribute(TUPLE_ORIG | NESTED, connection.tuple))
            list(_answers(netlink))
    return len(found)


def _connections(netlink: socket.socket) -> Iterator[Connection]:
    _request(netlink, CT_GET, DUMP)
    for body in _answers(netlink):
        connection = read_connection(body[len(FAMILY) :])
        if connection:
            yield connection


def read_connection(attributes: bytes) -> Connection | None:
    """The connection that a message's attributes tell of; None: neither UDP nor TCP."""
    orig = dict(_attributes(attributes)).get(TUPLE_ORIG, b"")
    parts = dict(_attributes(orig))
    address = dict(_attributes(parts.get(TUPLE_IP, b""))).get(IP_V4_DST, b"")
    transport = dict(_attributes(parts.get(TUPLE_PROTO, b"")))
    protocol = PROTOCOLS.get(int.from_bytes(transport.get(PROTO_NUM, b""), "big"))
    port = transport.get(PROTO_DST_PORT, b"")
    if not protocol or len(address) != 4 or len(port) != 2:
        return None
    return Connection(protocol, socket.inet_ntoa(address), int.from_bytes(port, "big"), orig)


def _request(netlink: socket.socket, kind: int, flags: int, attributes: bytes = b"") -> None:
    body = FAMILY + attributes
    netlink.send(HEADER.pack(HEADER.size + len(body), kind, REQUEST | flags, 1, 0) + body)


def _answers(netlink: socket.socket) -> Iterator[bytes]:
    """The bodies of the messages up to the last one."""
    while True:
        data = netlink.recv(1 << 17)
        while len(data) >= HEADER.size:
            length, kind, _flags, _sequence, _port = HEADER.unpack_from(data)
            body, data = data[HEADER.size : length], data[(max(length, HEADER.size) + 3) & ~3 :]
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", body)[0]
                if code and code != 2:  # ENOENT: the connection has ended by itself
                    raise OSError(code, os.strerror(code))
                return
            if kind == NLMSG_DONE:
                return
            yield body


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & TYPE_MASK, data[4:length]
        data = data[(length + 3) & ~3 :]


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value
