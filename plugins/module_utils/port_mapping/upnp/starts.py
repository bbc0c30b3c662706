# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router's starts, as its UPnP side numbers them."""

from __future__ import annotations

from . import search, ssdp


class Starts:
    """Tells of a restart that no epoch tells of.

    Many routers run miniupnpd with the system's uptime as the epoch of PCP and NAT-PMP. It may be restarted alone, as
    when the router's settings are saved, and lose all mappings; then only its number of UPnP changes.
    """

    def __init__(self, gateway: str, local_address: str):
        self._gateway = gateway
        self._local_address = local_address
        self._target = ""  # what has answered, by which it is known again: a router may be several devices
        self._silent = False

    def number(self) -> int | None:
        """Return the number, or None when there is no news. A router without UPnP is asked only once: it takes long."""
        if self._silent:
            return None
        for _sender, answer in search.search(self._gateway, self._local_address):
            if answer.target != ssdp.ROOT and answer.target == (self._target or answer.target):
                self._target = answer.target
                return answer.boot_id
        self._silent = not self._target  # of one that has answered, an answer may get lost
        return None
