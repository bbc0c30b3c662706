# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An Internet gateway that answered: its service, calls to it, and its boot id."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..address import same_host
from ..deadline import within
from ..mapping import Malformed, MappingError, Unreachable
from . import http, igd, ssdp
from .errors import Fault
from .oddities import note, noting
from .search import search

_OFFERS = {
    igd.MAPPINGS: "no port mapping: turn it on in the router's UPnP settings, or use another backend",
    igd.PINHOLES: "no IPv6 pinholes: open the port in the router's IPv6 firewall by hand, or try the method pcp",
}
_MAX_RANKED = 4  # services that are tried
_RANKING = 2.5  # seconds for each


class Gateway:
    """Talks to one service of one gateway."""

    def __init__(self, address: str, local_address: str, kinds: tuple[str, ...], asked: str, answer: ssdp.Answer):
        """Read the description; `asked` is what the gateway answered at: its own address, or a group's."""
        self.address = address
        self.local_address = local_address
        self.model = ""
        self.oddities: tuple[str, ...] = ()
        self._kinds = kinds
        self._asked = asked
        self._target = answer.target
        self._boot_id = answer.boot_id
        with self._conduct():
            self._read(answer.location)

    def call(self, action: str, arguments: dict[str, object] | None = None) -> dict[str, str]:
        """Return the results of an action; raise Fault when the router says no."""
        with self._conduct():
            while True:
                try:
                    return self._call(self._services[0], action, arguments or {})
                except (Malformed, Unreachable):
                    if len(self._services) == 1:
                        raise
                    del self._services[0]  # the other uplink's may be in order
                    note("has a service that does not work")

    def external_address(self) -> str:
        """Return "" when the router has none."""
        try:
            results = self.call("GetExternalIPAddress")
        except Fault:
            return ""  # what some routers say without an uplink; others say nothing, or zeros
        with self._conduct():
            return igd.external_address(self.address, results)

    def connected(self) -> bool:
        """Tell whether the uplink is up, as far as the router says."""
        with self._conduct():
            return self._is_up(self._services[0])

    def boot_id(self) -> int | None:
        """Ask for the number of the gateway's start. Not every gateway counts; some always say 1."""
        for sender, answer in search(self._asked, self.local_address):
            # The same kind: some routers describe themselves twice, as version 1 and as version 2.
            if same_host(sender, self.address) and answer.target == self._target:
                self._boot_id = answer.boot_id
                if answer.location != self._location:  # the daemon took another port when it started
                    # Anybody can send an answer with the router's address: one that leads nowhere is none.
                    with contextlib.suppress(MappingError), self._conduct():
                        self._read(answer.location)
                break
        return self._boot_id  # an answer that got lost is no news

    def _read(self, location: str) -> None:
        where = http.url(location, self.address)
        body = http.fetch(where, self.local_address)
        self.model = igd.model(body)
        services = igd.services(body, where, self._kinds)
        if not services:
            raise Unreachable(f"the router {self.address} speaks UPnP, but offers {_OFFERS[self._kinds]}")
        self._services = self._best(services)
        self._location = location

    def _best(self, services: list[igd.Service]) -> list[igd.Service]:
        """Return those that are equally good, of a router with several uplinks: in use, or at least in order."""
        if len(services) == 1:
            return services
        ranks = [self._rank(service) for service in services[:_MAX_RANKED]]
        if 0 < ranks.count(0) < len(ranks):
            note("has a service that does not work")
        return [service for service, rank in zip(services, ranks, strict=False) if rank == max(ranks)]

    def _rank(self, service: igd.Service) -> int:
        try:
            with within(_RANKING):
                if not self._is_up(service):
                    return 1
                if service.kind in igd.PINHOLES:
                    return 2
                results = self._call(service, "GetExternalIPAddress", {})
                return 3 if igd.external_address(self.address, results) else 2
        except Fault:
            return 2
        except MappingError:
            return 0

    def _call(self, service: igd.Service, action: str, arguments: dict[str, object]) -> dict[str, str]:
        headers, body = igd.request(service, action, arguments)
        answer = http.exchange(service.control, self.local_address, "POST", headers, body)
        return igd.response(service, action, *answer)

    def _is_up(self, service: igd.Service) -> bool:
        if service.kind in igd.PINHOLES:
            return True  # these say nothing about it
        try:
            status = self._call(service, "GetStatusInfo", {}).get("NewConnectionStatus", "")
            return status in ("Connected", "Up")  # the latter is no word of the specification, but of some routers
        except Fault:
            return False

    @contextlib.contextmanager
    def _conduct(self) -> Iterator[None]:
        """Take note of what the router does against the protocol, and tell its model with what it makes fail."""
        with noting() as noted:
            try:
                yield
            except MappingError as error:
                if self.model:
                    told = str(error).replace(self.address, f"{self.address} ({self.model})", 1)
                    error.args = (told,)
                raise
            finally:
                self.oddities = tuple(sorted({*self.oddities, *noted}))
