# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An Internet gateway that answered: its service, calls to it, and its boot id."""

from __future__ import annotations

from . import http, igd, ssdp
from .mapping import Unreachable
from .upnp_errors import Fault
from .upnp_search import search

_OFFERS = {
    igd.MAPPINGS: "no port mapping: turn it on in the router's UPnP settings, or use another backend",
    igd.PINHOLES: "no IPv6 pinholes: open the port in the router's IPv6 firewall by hand, or try the method pcp",
}


class Gateway:
    """Talks to one service of one gateway."""

    def __init__(self, address: str, local_address: str, kinds: tuple[str, ...], asked: str, answer: ssdp.Answer):
        """Read the description; `asked` is what the gateway answered at: its own address, or a group's."""
        self.address = address
        self.local_address = local_address
        self._kinds = kinds
        self._asked = asked
        self._target = answer.target
        self._boot_id = answer.boot_id
        self._read(answer.location)

    def call(self, action: str, arguments: dict[str, object] | None = None) -> dict[str, str]:
        """Return the results of an action; raise Fault when the router says no."""
        return self._call(self._service, action, arguments or {})

    def connected(self) -> bool:
        """Tell whether the uplink is up, as far as the router says."""
        return self._connected(self._service)

    def boot_id(self) -> int | None:
        """Ask for the number of the gateway's start. Not every gateway counts; some always say 1."""
        for sender, answer in search(self._asked, self.local_address):
            # The same kind: some routers describe themselves twice, as version 1 and as version 2.
            if http.same_host(sender, self.address) and answer.target == self._target:
                self._boot_id = answer.boot_id
                if answer.location != self._location:  # the daemon took another port when it started
                    self._read(answer.location)
                break
        return self._boot_id  # an answer that got lost is no news

    def _read(self, location: str) -> None:
        where = http.url(location, self.address)
        body = http.fetch(where, self.local_address)
        services = igd.services(body, where, self._kinds)
        if not services:
            raise Unreachable(f"the router {self.address} speaks UPnP, but offers {_OFFERS[self._kinds]}")
        if len(services) > 1:  # a router with two uplinks, of which only one may be in use
            services.sort(key=self._connected, reverse=True)
        self._service = services[0]
        self._location = location

    def _call(self, service: igd.Service, action: str, arguments: dict[str, object]) -> dict[str, str]:
        headers, body = igd.request(service, action, arguments)
        answer = http.exchange(service.control, self.local_address, "POST", headers, body)
        return igd.response(service, action, *answer)

    def _connected(self, service: igd.Service) -> bool:
        if service.kind in igd.PINHOLES:
            return True  # these say nothing about it
        try:
            status = self._call(service, "GetStatusInfo", {}).get("NewConnectionStatus", "")
            return status in ("Connected", "Up")  # the latter is no word of the specification, but of some routers
        except Fault:
            return False
