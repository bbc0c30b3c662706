# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Endpoints as text: host:port, with brackets around an IPv6 address (RFC 3986, section 3.2.2)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address


def split(text: str) -> tuple[str, int]:
    """Return the host, which may be a name and stands without brackets, and the port; raise ValueError."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    if not host or bracketed != (":" in host) or not 0 < number < 65536:
        raise ValueError(f"{text!r:.100} is no host:port, with brackets around an IPv6 address")
    return host, number


def literal(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """Return the address and the port; raise ValueError, for a name too."""
    host, port = split(text)
    return ip_address(host), port


def join(host: str, port: int) -> str:
    """Return the text of an endpoint."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
