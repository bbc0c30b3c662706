# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A registered device as the settings have it; apart from the device itself, whose module needs the crypto library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address


@dataclass(frozen=True)
class DeviceSettings:
    """One `[[device]]` of the settings; `public_key` is 32 bytes, `rate_limit` bytes a second (0: none).

    `expires` is the Unix time in seconds from which on the device is none any more.
    """

    name: str
    public_key: bytes
    addresses: tuple[IPv4Address | IPv6Address, ...]
    groups: frozenset[str] = frozenset({"default"})
    rate_limit: float = 0.0
    expires: float = math.inf
