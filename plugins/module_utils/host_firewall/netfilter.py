# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to the kernel's netfilter over netlink, for what no program on the host can be asked."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

NETLINK_NETFILTER = 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
NESTED, TYPE_MASK = 0x8000, 0x3FFF
HEADER = struct.Struct("=IHHII")
FAMILY = struct.Struct("=BBH")  # in front of every message's attributes
NFT_GET_TABLE, NFT_TABLE_NAME = 0xA01, 1
FAMILIES = {0: "", 1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


def open_netlink() -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    netlink.settimeout(5)
    return netlink


def nftables_tables() -> list[tuple[str, str]]:
    """Family and name of each table of the kernel's nftables; none where it has no nftables, or does not say."""
    try:
        with open_netlink() as netlink:
            request(netlink, NFT_GET_TABLE, DUMP, family=socket.AF_UNSPEC)
            bodies = list(answers(netlink))
    except OSError:
        return []
    found = []
    for body in bodies:
        name = dict(attributes(body[FAMILY.size :])).get(NFT_TABLE_NAME, b"").rstrip(b"\0").decode(errors="replace")
        found.append((FAMILIES.get(body[0], str(body[0])), name))
    return found


def request(netlink: socket.socket, kind: int, flags: int, parts: bytes = b"", family: int = socket.AF_INET) -> None:
    body = FAMILY.pack(family, 0, 0) + parts
    netlink.send(HEADER.pack(HEADER.size + len(body), kind, REQUEST | flags, 1, 0) + body)


def answers(netlink: socket.socket) -> Iterator[bytes]:
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


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & TYPE_MASK, data[4:length]
        data = data[(length + 3) & ~3 :]


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value
