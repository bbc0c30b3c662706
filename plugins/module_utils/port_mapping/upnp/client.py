# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Map ports at a UPnP Internet gateway, of version 1 or 2."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..address import same_host
from ..mapping import Conflict, Granted, Holder, HolderUnknown, Life, Malformed, NoAddress, Unreachable, Wanted
from ..verdict import no_address
from ..words import printable
from . import errors, igd, ssdp
from .errors import Fault
from .gateway import Gateway
from .pinholes import PinholeClient
from .search import search
from .tries import Tries

_MAX_LEASE = 604800  # a week: the most that version 2 grants; version 1 takes it too
_MAX_MAPPINGS = 256
# Seconds after which nothing more is asked, whatever the others in the network are up to.
_LISTING = 20.0
_AT_ONCE = 0.5  # seconds to wait for the description at one address, before another one is asked for beside it
_MAX_LOCATIONS = 40
_MAX_OTHERS = 16
# 714 by the specification; others say 713, 402 (DD-WRT) or 501 (Linksys).
_NO_ENTRY = {
    errors.NO_SUCH_MAPPING,
    errors.NO_SUCH_INDEX,
    errors.INVALID_ARGUMENTS,
    errors.ACTION_FAILED,
}


@dataclass(frozen=True)
class Mapping:
    """An entry of the router's list, whoever made it."""

    protocol: str
    external_port: int
    internal_address: str
    internal_port: int
    lease: int
    description: str


class UpnpClient:
    """A gateway that was found; implements mapping.Client for IPv4."""

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
        return Life(external_address=self._gateway.external_address(), boot_id=boot_id)

    def holder(self, wanted: Wanted) -> Holder | None:
        try:
            entry = self._gateway.call("GetSpecificPortMappingEntry", _key(wanted))
        except Fault as fault:
            if fault.code in _NO_ENTRY:
                return None
            raise HolderUnknown(str(fault)) from fault  # no such action, or not for everybody
        granted = Granted("", wanted.external_port, _lease(entry))  # look() tells the address
        return Holder(printable(entry.get("NewInternalClient", "")), _port(entry, "NewInternalPort"), granted)

    def map(self, wanted: Wanted) -> Granted:
        self._is_there(wanted)  # before all: some routers give anybody's port to whoever asks last
        lease = min(wanted.lease, _MAX_LEASE)
        try:
            self._add(wanted, lease)
        except Fault as fault:
            if fault.code == errors.CONFLICT and self._is_there(wanted):  # or says who was faster
                self.remove(wanted)  # some routers renew nothing
            elif lease and fault.code in (errors.PERMANENT_ONLY, errors.INVALID_ARGUMENTS):
                lease = 0  # routers without leases should answer 725; some find the lease an invalid argument
            elif fault.code == errors.ACTION_FAILED and not self._gateway.external_address():
                raise NoAddress(no_address(self.gateway).explanation) from fault
            else:
                raise
            self._add(wanted, lease)
        entry = self._holder(wanted)
        # Not every router tells, or keeps to what was asked for.
        granted = entry.granted.lease if entry is not None else 0
        return Granted(self._gateway.external_address(), wanted.external_port, granted or lease)

    def unmap(self, wanted: Wanted) -> None:
        entry = self._holder(wanted)
        if entry is not None and self._is_mine(entry, wanted):
            self.remove(wanted)

    def remove(self, wanted: Wanted) -> None:
        """Delete the mapping of the external port, whoever's it is."""
        try:
            self._gateway.call("DeletePortMapping", _key(wanted))
        except Fault as fault:
            if fault.code != errors.NO_SUCH_MAPPING:
                raise

    def mappings(self) -> Iterator[Mapping]:
        """List what the router maps; it may keep to itself what is not this host's."""
        end = time.monotonic() + _LISTING
        for index in range(_MAX_MAPPINGS):
            try:
                entry = self._gateway.call("GetGenericPortMappingEntry", {"NewPortMappingIndex": index})
            except Fault:
                return  # 713 by the specification, but routers end their lists with all kinds of errors
            yield Mapping(
                protocol=printable(entry.get("NewProtocol", ""), 10).lower(),
                external_port=_port(entry, "NewExternalPort"),
                internal_address=printable(entry.get("NewInternalClient", "")),
                internal_port=_port(entry, "NewInternalPort"),
                lease=_lease(entry),
                description=printable(entry.get("NewPortMappingDescription", "")),
            )
            if time.monotonic() > end:
                return

    def _add(self, wanted: Wanted, lease: int) -> None:
        arguments = _key(wanted) | {
            "NewInternalPort": wanted.internal_port,
            "NewInternalClient": self.local_address,
            "NewEnabled": 1,
            "NewPortMappingDescription": wanted.description,
            "NewLeaseDuration": lease,
        }
        self._gateway.call("AddPortMapping", arguments)

    def _holder(self, wanted: Wanted) -> Holder | None:
        try:
            return self.holder(wanted)
        except HolderUnknown:
            return None

    def _is_mine(self, entry: Holder, wanted: Wanted) -> bool:
        return same_host(entry.internal_address, self.local_address) and entry.internal_port == wanted.internal_port

    def _is_there(self, wanted: Wanted) -> bool:
        """Tell whether the mapping exists; raise Conflict when the external port is mapped otherwise."""
        entry = self._holder(wanted)
        if entry is not None and not self._is_mine(entry, wanted):
            holder = f"{entry.internal_address}:{entry.internal_port}"
            raise Conflict(
                f"the router {self.gateway} maps its {wanted.protocol} port {wanted.external_port} to {holder} already,"
                f" not to {self.local_address}:{wanted.internal_port}: choose another external_port, or delete that"
                " mapping in the router"
            )
        return entry is not None


def find(gateway: str, local_address: str, family: int = 4) -> UpnpClient | PinholeClient:
    """Find the Internet gateway: the one at the address `gateway`, or else the only other one that is connected."""
    kinds, client = (igd.PINHOLES, PinholeClient) if family == 6 else (igd.MAPPINGS, UpnpClient)
    zone = gateway.partition("%")[2]
    group = ssdp.GROUPS[family] + (f"%{zone}" if zone else "")
    tries: Tries[Gateway] = Tries()
    others: dict[str, ssdp.Answer] = {}
    for destination in filter(None, (gateway, group)):
        locations: set[str] = set()
        for sender, answer in search(destination, local_address):
            if not same_host(sender, gateway):
                if answer.target != ssdp.ROOT and len(others) < _MAX_OTHERS:
                    others.setdefault(sender, answer)
            elif answer.location not in locations and len(locations) < _MAX_LOCATIONS:
                tries.start(partial(Gateway, gateway, local_address, kinds, destination, answer))
                # The first is the only one in most homes; the others must not end the search by their waiting.
                found = tries.next(0.0 if locations else _AT_ONCE)
                locations.add(answer.location)
                if found:
                    return client(found)
        if found := tries.next():
            return client(found)
    for sender, answer in others.items():
        tries.start(partial(_connected, sender, local_address, kinds, group, answer))
    connected = list(iter(tries.next, None))
    if len(connected) == 1:
        return client(*connected)
    problems = tries.problems
    if connected:
        names = ", ".join(sorted(other.address for other in connected))
        problems.append(f"several answered: {names}: set gateway to one of them")
    told = "; ".join(dict.fromkeys(filter(None, problems)))  # each once
    raise Unreachable(told or "no UPnP gateway answers: turn UPnP on in the router's settings")


def _connected(*of_gateway: Any) -> Gateway:
    """Return a gateway whose uplink is up."""
    gateway = Gateway(*of_gateway)
    if not gateway.connected():
        raise Unreachable("")
    return gateway


def _key(wanted: Wanted) -> dict[str, object]:
    return {
        "NewRemoteHost": "",
        "NewExternalPort": wanted.external_port,
        "NewProtocol": wanted.protocol.upper(),
    }


def _port(entry: dict[str, str], name: str) -> int:
    return _number(entry.get(name, ""), name, 65535)


def _lease(entry: dict[str, str]) -> int:
    return _number(entry.get("NewLeaseDuration") or "0", "NewLeaseDuration", 2**32 - 1)


def _number(said: str, name: str, most: int) -> int:
    if not (said.isascii() and said.isdigit() and len(said) <= 10 and int(said) <= most):
        raise Malformed(f"the router says {printable(said)!r} for {name}, which is no number up to {most}")
    return int(said)
