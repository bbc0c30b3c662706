# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many connections there may be, in all and from one place."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Hashable
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address


def parse(host: str) -> Address:
    """Read an address as a socket tells it; raise ValueError."""
    address = ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def forwarded(header: str) -> Address | None:
    """Return whom a reverse proxy speaks for: the last entry of X-Forwarded-For is its own, the others are hearsay."""
    try:
        return parse(header.rpartition(",")[2].strip())
    except ValueError:
        return None


def network(address: Address) -> bytes:
    """Return what one subscriber holds: an IPv4 address, or the first 64 bits of an IPv6 one."""
    return address.packed[:8]


class Gate:
    """Counts connections; `refused` says how many were not let in, and why."""

    def __init__(self, max_connections: int, max_per_network: int):
        self.refused: Counter[str] = Counter()
        self._max_connections, self._max_per_network = max_connections, max_per_network
        self._here: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return self._here.total()

    @property
    def full(self) -> bool:
        return len(self) >= self._max_connections

    def crowded(self, address: Address | None) -> bool:
        """Whether the address has as many connections as it may."""
        return address is not None and self._here[network(address)] >= self._max_per_network

    def enter(self, address: Address | None) -> bool:
        """Let a connection in, if there is room. None: whom a reverse proxy speaks for is not known yet."""
        origin = address and network(address)
        if self.crowded(address):
            self.refused["too many from one address"] += 1
        elif self.full:
            self.refused["all places taken"] += 1
        else:
            self._here[origin] += 1
            return True
        return False

    def identify(self, address: Address) -> bool:
        """A connection that was let in unnamed turns out to come from this address: let it stay, if there is room."""
        self.leave(None)
        if self.enter(address):
            return True
        self._here[None] += 1
        return False

    def leave(self, address: Address | None) -> None:
        """A connection that was let in has ended."""
        origin = address and network(address)
        self._here[origin] -= 1
        if not self._here[origin]:
            del self._here[origin]


class Sources:
    """Gives each network a source address of its own on loopback: the relay can tell a loud one from the others.

    The relay binds no address of its own host to a device, with these as the exception: `peer_relay` must take every
    loopback source (127.0.0.0/8, and ::1 where it listens on IPv6 alone) for a device's possible address.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)  # nobody outside can choose whose address to share

    def source(self, address: Address | None) -> str:
        digest = hashlib.blake2s(network(address) if address else b"", key=self._key, digest_size=3).digest()
        # Neither a network's first address nor 127.0.0.1, which programs of this host use.
        return str(IPv4Address(b"\x7f" + bytes([digest[0] | 1, digest[1], digest[2] or 1])))
