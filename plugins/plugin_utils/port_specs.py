# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ports and protocols somebody else's rule speaks of, as routers write them."""

from __future__ import annotations

import re

# What OPNsense knows by name, of what anybody forwards.
_SERVICES = {"ssh": 22, "domain": 53, "http": 80, "ntp": 123, "snmp": 161, "https": 443, "isakmp": 500, "openvpn": 1194}
_NUMBERS = {"6": "tcp", "17": "udp"}


def covers(spec, port: int) -> bool | None:
    """Whether ports such as "443,40000-40100", "!53" or "" (any) hold the port; None where only the router knows."""
    text = "" if spec is None else str(spec).strip().lower()
    if text.startswith("!"):
        inner = covers(text[1:], port)
        return None if inner is None else not inner
    if text in ("", "any", "*"):
        return True
    found = [_part(part.strip(), port) for part in text.split(",")]
    return True if True in found else None if None in found else False


def _part(part: str, port: int) -> bool | None:
    if part in _SERVICES:
        return _SERVICES[part] == port
    bounds = re.fullmatch(r"([0-9]{1,5})(?:[-:]([0-9]{1,5}))?", part)
    return int(bounds[1]) <= port <= int(bounds[2] or bounds[1]) if bounds else None


def has_protocol(spec, protocol: str) -> bool:
    """Whether a protocol such as "udp", "TCP/UDP", "17", "!tcp" or "" (any) is, or may be, this one."""
    text = "" if spec is None else str(spec).strip().lower()
    if text.startswith("!"):
        return not has_protocol(text[1:], protocol)
    return text in ("", "any", "all", "*") or protocol in (_NUMBERS.get(part, part) for part in text.split("/"))
