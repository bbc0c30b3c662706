# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open pinholes in the IPv6 firewall of a UPnP Internet gateway of version 2."""

from __future__ import annotations

import contextlib

from ..mapping import Granted, Holder, HolderUnknown, Life, Malformed, Refused, Wanted
from ..words import printable
from .errors import FIREWALL_OFF, NO_SUCH_PINHOLE, PINHOLES_OFF, Fault
from .gateway import Gateway

_MAX_LEASE = 86400  # a day, by the specification
_SHORT = 60
_PROTOCOLS = {"udp": 17, "tcp": 6}


class PinholeClient:
    """A gateway that was found; implements mapping.Client for IPv6.

    Pinholes go by an id that only the answer to their opening tells. To open one again extends it and tells its id (the
    specification says MUST): so there is nothing to remember.
    """

    method = "upnp"

    def __init__(self, gateway: Gateway):
        self.gateway = gateway.address
        self.local_address = gateway.local_address
        self._gateway = gateway

    @property
    def model(self) -> str:
        return self._gateway.model

    @property
    def oddities(self) -> tuple[str, ...]:
        return self._gateway.oddities

    def look(self) -> Life:
        boot_id = self._gateway.boot_id()
        with contextlib.suppress(Fault):  # also a no is a sign of life
            self._gateway.call("GetFirewallStatus")
        return Life(external_address=self.local_address, boot_id=boot_id)

    def holder(self, wanted: Wanted) -> Holder | None:
        raise HolderUnknown("UPnP has no question for the pinholes of a port")

    def remove(self, wanted: Wanted) -> None:
        raise HolderUnknown("UPnP has no question for the pinholes of a port")

    def map(self, wanted: Wanted) -> Granted:
        if wanted.external_port != wanted.internal_port:
            raise Refused(
                f"a pinhole translates no ports: set external_port ({wanted.external_port}) to internal_port"
                f" ({wanted.internal_port}) for IPv6"
            )
        lease = min(wanted.lease or _MAX_LEASE, _MAX_LEASE)
        try:
            self._open(wanted, lease)
        except Fault as fault:
            if fault.code != FIREWALL_OFF:  # with the firewall off, the port is open as it is
                raise
        return Granted(self.local_address, wanted.internal_port, lease)

    def unmap(self, wanted: Wanted) -> None:
        try:
            self._gateway.call("DeletePinhole", {"UniqueID": self._open(wanted, _SHORT)})
        except Fault as fault:
            if fault.code not in (FIREWALL_OFF, PINHOLES_OFF, NO_SUCH_PINHOLE):
                raise

    def _open(self, wanted: Wanted, lease: int) -> int:
        arguments = {
            "RemoteHost": "",
            "RemotePort": 0,
            "InternalClient": self.local_address,
            "InternalPort": wanted.internal_port,
            "Protocol": _PROTOCOLS[wanted.protocol],
            "LeaseTime": lease,
        }
        said = self._gateway.call("AddPinhole", arguments).get("UniqueID", "")
        if not (said.isascii() and said.isdigit() and len(said) <= 5):
            raise Malformed(f"the router {self.gateway} names a pinhole {printable(said)!r}, which is no number")
        return int(said)
