# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Datagrams inside the tunnel: WireGuard sees to it that they come from whom their source address says."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from ipaddress import ip_address

from peer_agent.core.limits import BATCH
from peer_agent.endpoints import Address

_MAX_DATAGRAM = 2048
_UDP, _IP4, _IP6 = 8, 20, 40  # bytes of headers
_TRANSPORT, _BLOCK = 32, 16  # bytes that WireGuard adds, and of which it fills up the last


def counted_bytes(payload: bytes, address: Address) -> int:
    """Return how many bytes a datagram is in WireGuard's counters."""
    inner = len(payload) + _UDP + (_IP4 if address.version == 4 else _IP6)
    return _TRANSPORT + inner + -inner % _BLOCK


class OverlaySocket:
    """A UDP port on the tunnel's interface, for both IP versions."""

    def __init__(self, interface: str, port: int):
        self.moved = 0  # datagrams, to tell the agent's own from those that it is to watch
        self._sockets: dict[int, socket.socket] = {}
        try:
            for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                with contextlib.suppress(OSError) if version == 6 else contextlib.nullcontext():
                    self._open(version, family, interface, port)
        except OSError:
            self.close()
            raise

    def _open(self, version: int, family: socket.AddressFamily, interface: str, port: int) -> None:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            if version == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Nobody outside the tunnel can pretend to be in it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            sock.bind(("::" if version == 6 else "0.0.0.0", port))  # noqa: S104
        except OSError:
            sock.close()
            raise
        self._sockets[version] = sock

    @property
    def sockets(self) -> list[socket.socket]:
        return list(self._sockets.values())

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()

    def send(self, payload: bytes, address: Address, port: int) -> bool:
        """Send one datagram; return whether it could be: what is asked for without an answer is asked for again."""
        sock = self._sockets.get(address.version)
        if not sock:
            return False
        try:
            sock.sendto(payload, (str(address), port))
        except OSError:
            return False
        self.moved += 1
        return True

    def receive(self, sock: socket.socket, handle: Callable[[bytes, Address, int], None]) -> None:
        """Hand over a batch of what has arrived at one of the sockets: datagram, source address and port."""
        with contextlib.suppress(OSError):  # none left, or an error that an earlier datagram met
            for _ in range(BATCH):
                payload, (host, port, *_) = sock.recvfrom(_MAX_DATAGRAM)
                self.moved += 1
                if "%" not in host:
                    handle(payload, ip_address(host), port)
