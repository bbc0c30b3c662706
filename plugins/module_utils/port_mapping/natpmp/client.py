# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A router that speaks NAT-PMP."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ..answers import conflict, translate
from ..mapping import Conflict, Granted, Holder, HolderUnknown, Life, Malformed, NoAddress, Refused, Wanted
from ..udp import exchange
from ..upnp.starts import Starts
from ..verdict import no_address
from . import messages

_LOOK, _CHANGE = 2.0, 8.0  # seconds to wait; a small router may take some to change its rules


class NatPmpClient:
    """See mapping.Client."""

    method = "nat-pmp"
    model = ""
    oddities: tuple[str, ...] = ()

    def __init__(self, gateway: str, local_address: str) -> None:
        self.gateway = gateway
        self.local_address = local_address
        self._starts = Starts(gateway, local_address)

    def look(self) -> Life:
        response = self._ask_address()
        return Life(response.address, response.epoch, self._starts.number())

    def holder(self, wanted: Wanted) -> Holder | None:
        raise HolderUnknown("NAT-PMP has no question for whose a port is")

    def remove(self, wanted: Wanted) -> None:
        raise HolderUnknown("NAT-PMP has no question for whose a port is")

    def map(self, wanted: Wanted) -> Granted:
        granted = self._ask(wanted, wanted.external_port, wanted.lease)
        if granted.external_port != wanted.external_port:
            # The router tells of an older mapping of the same internal port, or gave what was free. Take neither.
            self.unmap(wanted)
            granted = self._ask(wanted, wanted.external_port, wanted.lease)
        if granted.external_port != wanted.external_port:
            self.unmap(wanted)
            raise Conflict(conflict(self.gateway, wanted))
        return Granted(self.external_address(), granted.external_port, granted.lifetime)

    def unmap(self, wanted: Wanted) -> None:
        with contextlib.suppress(NoAddress):  # without an address the router maps nothing
            self._ask(wanted, 0, 0)

    def external_address(self) -> str:
        """Return "" when the router has none."""
        return self._ask_address().address

    def _ask_address(self) -> messages.Response:
        response = self._exchange(messages.address_request(), messages.read_address, _LOOK)
        if response.result not in (messages.SUCCESS, messages.NETWORK_FAILURE):
            raise self._refusal(response.result)
        return response

    def _ask(self, wanted: Wanted, external_port: int, lifetime: int) -> messages.Response:
        def read(datagram: bytes) -> messages.Response:
            response = messages.read_map(datagram, wanted.protocol, wanted.internal_port)
            if lifetime and response.result == messages.SUCCESS and not (response.external_port and response.lifetime):
                raise Malformed("its NAT-PMP response grants no port, or for no time")
            return response

        request = messages.map_request(wanted.protocol, wanted.internal_port, external_port, lifetime)
        response = self._exchange(request, read, _CHANGE)
        if response.result != messages.SUCCESS:
            raise self._refusal(response.result)
        return response

    def _exchange(
        self, request: bytes, read: Callable[[bytes], messages.Response], patience: float
    ) -> messages.Response:
        return exchange(self.gateway, messages.PORT, request, read, patience=patience, source=self.local_address)

    def _refusal(self, result: int) -> Refused:
        if result == messages.NETWORK_FAILURE:
            return NoAddress(no_address(self.gateway).explanation)
        return Refused(f"the router {self.gateway} refused: {translate('NAT-PMP', result, messages.RESULTS)}")


def find(gateway: str, local_address: str) -> NatPmpClient:
    client = NatPmpClient(gateway, local_address)
    client.look()
    return client
