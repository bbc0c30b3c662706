# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""UDP datagrams with whatever source, into the network that a namespace is in (IPv4)."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from harness.netns import Namespace

_MARK = 0x666
_SO_MARK = 36
Place = tuple[str, int]


class Forger:
    """Whoever has that host in his hands."""

    def __init__(self, host: Namespace):
        # The host may be a NAT router: what is forged is no business of its connection tracking.
        rule = f"type filter hook output priority raw; mark {_MARK} notrack;"
        host.nft(f"table ip forger {{ chain output {{ {rule} }}; }}")
        with host.inside():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_MARK, _MARK)

    def send(self, payload: bytes, source: Place, destination: Place) -> None:
        size = 8 + len(payload)
        udp = struct.pack(">HHHH", source[1], destination[1], size, 0)  # no checksum: IPv4 allows that
        ends = ip_address(source[0]).packed, ip_address(destination[0]).packed
        header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + size, 0, 0, 64, socket.IPPROTO_UDP, 0, *ends)
        self._socket.sendto(header + udp + payload, (destination[0], 0))

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Forger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
