# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""IP addresses that come from another machine; the code is where the lease keeper gets it installed as well."""

from __future__ import annotations

from .port_mapping.address import IPAddress, canonical_address, parse_address

__all__ = ["IPAddress", "canonical_address", "parse_address"]
