# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""UDP datagrams with whatever source, into the network that a namespace is in."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from harness.netns import Namespace

_MARK = 0x666
_SO_MARK = 36
Place = tuple[str, int]


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Forger:
    """Whoever has that host in his hands."""

    def __init__(self, host: Namespace):
        # The host may be a NAT router: what is forged is no business of its connection tracking.
        rule = f"type filter hook output priority raw; mark {_MARK} notrack;"
        host.nft(f"table inet forger {{ chain output {{ {rule} }}; }}")
        self._sockets = {}
        with host.inside():
            for family in (socket.AF_INET, socket.AF_INET6):
                self._sockets[family] = made = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
                made.setsockopt(socket.SOL_SOCKET, _SO_MARK, _MARK)

    def send(self, payload: bytes, source: Place, destination: Place) -> None:
        size = 8 + len(payload)
        ends = ip_address(source[0]).packed, ip_address(destination[0]).packed
        if ":" in source[0]:
            head = struct.pack(">IHBB16s16s", 0x60000000, size, socket.IPPROTO_UDP, 64, *ends)
            udp = struct.pack(">HHHH", source[1], destination[1], size, 0) + payload
            checked = b"".join(ends) + struct.pack(">II", size, socket.IPPROTO_UDP) + udp
            udp = udp[:6] + struct.pack(">H", _checksum(checked) or 0xFFFF) + udp[8:]
            self._sockets[socket.AF_INET6].sendto(head + udp, (destination[0], 0))
            return
        udp = struct.pack(">HHHH", source[1], destination[1], size, 0)  # no checksum: IPv4 allows that
        header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + size, 0, 0, 64, socket.IPPROTO_UDP, 0, *ends)
        self._sockets[socket.AF_INET].sendto(header + udp + payload, (destination[0], 0))

    def close(self) -> None:
        for made in self._sockets.values():
            made.close()

    def __enter__(self) -> Forger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
