# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the relay's host itself is reached, before any router translates."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from peer_common import endpoints

from peer_relay import addresses
from peer_relay.settings import Settings

# Documentation addresses stand for the Internet.
_WILDCARDS = {"0.0.0.0": (4, "192.0.2.1"), "::": (6, "2001:db8::1")}  # noqa: S104
# RFC 1918, 6598 and 4193. Python's is_private has more.
_TRANSLATED = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")))


def own(config: Settings) -> list[str]:
    """Return the host:port of each of the host's addresses at which the relay can be reached from elsewhere.

    Where it listens everywhere, these are the ones that the host uses towards the Internet, and the public one if that
    is the host's own.
    """
    public = endpoints.split(config.public_endpoint)[0] if config.public_endpoint else ""
    found: dict[str, None] = {}
    for host, port in config.listen:
        for address in _expand(host, public):
            if not any(ip_address(address) in network for network in config.networks):
                found[addresses.text(addresses.pack(address, port))] = None
    return list(found)


def inner(own_endpoints: list[str], public: str) -> str | None:
    """Return the endpoint in the relay's own network, where a router translates the public one to it."""
    for endpoint in own_endpoints:
        if endpoint != public and any(endpoints.literal(endpoint)[0] in network for network in _TRANSLATED):
            return endpoint
    return None


def _expand(host: str, public: str) -> Iterator[str]:
    if host not in _WILDCARDS:
        yield host
        return
    version, internet = _WILDCARDS[host]
    source = source_address(internet)
    if source:
        yield source
    with contextlib.suppress(ValueError):  # a name
        if ip_address(public).version == version and source_address(public) == public:
            yield public


def source_address(destination: str) -> str | None:
    """Return the address that this host would send from, which is the destination itself where it is the host's own.

    Nothing is sent.
    """
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((destination, 9))
            return sock.getsockname()[0]
    except OSError:
        return None
