# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a device can be reached: an address and a UDP port."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from peer_common import endpoints

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@functools.lru_cache(maxsize=1024)  # reading text costs more than all else that is done with it
def read_address(text: str) -> Address:
    """Read an address out of anybody's text; raise ValueError.

    Python takes any text at all for a scope, and keeps it. A scope means nothing to another host.
    """
    if "%" in text:
        raise ValueError(f"{text!r} has a scope")
    return ip_address(text)


class Endpoint(NamedTuple):
    """A literal address and a port, in the one form that `wg` prints."""

    host: str
    port: int

    @classmethod
    def of(cls, host: str, port: int) -> Endpoint:
        """Return the endpoint; raise ValueError for a name, a scope, and a port out of range."""
        address = read_address(host)
        if not 0 < port < 65536:
            raise ValueError(f"port {port} is out of range")
        return cls(str(getattr(address, "ipv4_mapped", None) or address), port)

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `192.0.2.1:51820` or `[2001:db8::1]:51820`; raise ValueError for anything else."""
        return cls.of(*endpoints.split(text))

    @property
    def address(self) -> Address:
        return read_address(self.host)

    def __str__(self) -> str:
        return endpoints.join(self.host, self.port)


def within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


_THIS_NETWORK = IPv4Network("0.0.0.0/8")


def usable(endpoint: Endpoint, overlays: Iterable[Network]) -> bool:
    """Whether probes may go there: to one host, outside the tunnel. Broadcast is among what is reserved."""
    address = endpoint.address
    return not (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.is_reserved
        or address in _THIS_NETWORK
        or within(address, overlays)
    )
