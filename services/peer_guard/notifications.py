# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's notifications (netlink groups) of removed rules and routes, and of changes of the packet filter."""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator

NETLINK_NETFILTER = 12
ROUTE_GROUPS = (1, 7, 8, 11, 19)  # links; routes and rules of IPv4; of IPv6
NFTABLES_GROUPS = (7,)
NEW_LINK, DEL_ROUTE, DEL_RULE = 16, 25, 33
OUT_INTERFACE = 4  # RTA_OIF
HEADER = struct.Struct("=IHHII")
SIZE = 1 << 18


class Notifications:
    """Those that concern one interface."""

    def __init__(self, interface: str):
        self.interface = interface
        self.route = _listen(socket.NETLINK_ROUTE, ROUTE_GROUPS)
        self.filter = _listen(NETLINK_NETFILTER, NFTABLES_GROUPS)

    def wait(self, seconds: float) -> bool:
        """Return whether something may have been removed: then, or when the time is over."""
        ready, _, _ = select.select([self.route, self.filter], [], [], seconds)
        concerns = [self._concerns(source) for source in ready]  # reads all of them
        return any(concerns)

    def _concerns(self, source: socket.socket) -> bool:
        found = False
        while True:
            try:
                data = source.recv(SIZE)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = True  # some were lost
                continue
            if source is self.filter:
                # The table's own name, or that of iptables' chain.
                found = found or self.interface.encode() + b"\0" in data or b"FORWARD\0" in data
            else:
                found = found or any(self._is_removal(kind, body) for kind, body in messages(data))

    def _is_removal(self, kind: int, body: bytes) -> bool:
        try:
            index = socket.if_nametoindex(self.interface)
        except OSError:
            return False
        if kind == NEW_LINK:  # routes of IPv4 go without a word when a link goes down
            return len(body) >= 8 and struct.unpack_from("=i", body, 4)[0] == index
        if kind == DEL_ROUTE:
            own = struct.pack("=HHI", 8, OUT_INTERFACE, index)
            nowhere = struct.pack("=HHI", 8, OUT_INTERFACE, socket.if_nametoindex("lo"))
            return own in body or nowhere in body
        return kind == DEL_RULE


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Return type and body of each netlink message."""
    position = 0
    while position + HEADER.size <= len(data):
        length, kind, _flags, _number, _port = HEADER.unpack_from(data, position)
        if length < HEADER.size:
            return
        yield kind, data[position + HEADER.size : position + length]
        position += length + 3 & ~3


def _listen(protocol: int, groups: tuple[int, ...]) -> socket.socket:
    source = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    source.bind((0, sum(1 << (group - 1) for group in groups)))
    return source
