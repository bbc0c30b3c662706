# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""IP addresses that come from another machine; the code is where the lease keeper gets it installed as well."""

from __future__ import annotations

import ipaddress
import re

from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.address import (
    IPAddress,
    canonical_address,
    parse_address,
)

__all__ = ["IPAddress", "canonical_address", "parse_address", "parse_interface", "parse_network"]

_WITH_PREFIX = re.compile(r"[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?")


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return the network of its text without host bits; raise ValueError, for scope ids as well."""
    return ipaddress.ip_network(_with_prefix(text))


def parse_interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """Return an address with its prefix length; raise ValueError, for scope ids as well."""
    return ipaddress.ip_interface(_with_prefix(text))


def _with_prefix(text: str) -> str:
    if not _WITH_PREFIX.fullmatch(text):
        raise ValueError(f"{text[:60]!a} is no address with a prefix length")
    return text
