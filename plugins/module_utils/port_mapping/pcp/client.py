# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A router that speaks PCP."""

from __future__ import annotations

from collections.abc import Callable

from ..answers import conflict, translate
from ..mapping import (
    Conflict,
    Granted,
    Holder,
    HolderUnknown,
    Life,
    Malformed,
    MappingError,
    NoAddress,
    Refused,
    Wanted,
)
from ..natpmp.client import NatPmpClient
from ..udp import exchange
from ..upnp.starts import Starts
from ..verdict import no_address
from . import messages, nonce

_LOOK, _CHANGE = 2.0, 8.0  # seconds to wait; a small router may take some to change its rules


class PcpClient:
    """See mapping.Client."""

    method = "pcp"
    model = ""
    oddities: tuple[str, ...] = ()

    def __init__(self, gateway: str, local_address: str) -> None:
        self.gateway = gateway
        self.local_address = local_address
        self._starts = Starts(gateway, local_address)

    def look(self) -> Life:
        """The server tells its epoch; its external address it tells only with a mapping."""
        request = messages.announce(self.local_address)
        response = self._exchange(request, lambda datagram: messages.read(datagram, messages.ANNOUNCE), _LOOK)
        # Every response tells the epoch, also that of a server which does not know this request.
        if response.result not in (messages.SUCCESS, messages.UNSUPPORTED_OPCODE):
            raise self._refusal(response.result)
        return Life(epoch=response.epoch, boot_id=self._starts.number())

    def holder(self, wanted: Wanted) -> Holder | None:
        raise HolderUnknown("PCP has no question for whose a port is")

    def remove(self, wanted: Wanted) -> None:
        raise HolderUnknown("PCP has no question for whose a port is")

    def map(self, wanted: Wanted) -> Granted:
        if wanted.family == 6 and wanted.external_port != wanted.internal_port:
            raise Refused(
                f"a pinhole translates no ports: set external_port ({wanted.external_port}) to internal_port "
                f"({wanted.internal_port}) for IPv6"
            )
        response = self._ask(wanted, wanted.lease, prefer_failure=True)
        if response.result == messages.CANNOT_PROVIDE_EXTERNAL:
            # A mapping of this very internal port that lies on another external port stands in the way, too, and it
            # is this host's own: the server takes the nonce for its end from nobody else.
            self.unmap(wanted)
            response = self._ask(wanted, wanted.lease, prefer_failure=True)
        elif response.result == messages.UNSUPPORTED_OPTION:
            response = self._ask(wanted, wanted.lease, prefer_failure=False)
        if response.result == messages.CANNOT_PROVIDE_EXTERNAL:
            raise Conflict(conflict(self.gateway, wanted))
        if response.result != messages.SUCCESS:
            raise self._refusal(response.result)
        granted = response.granted
        if granted.external_port != wanted.external_port:
            self.unmap(wanted)
            raise Conflict(conflict(self.gateway, wanted))
        return Granted(granted.external_address, granted.external_port, response.lifetime)

    def unmap(self, wanted: Wanted) -> None:
        response = self._ask(wanted, 0, prefer_failure=False)
        if response.result == messages.NOT_AUTHORIZED and wanted.family == 6:
            # miniupnpd forgets at a renewal whose pinhole it is, but still lets it be renewed: for as short as can be.
            response = self._ask(wanted, 1, prefer_failure=False)
        # miniupnpd lacks resources for what is not there; no other server can lack any for an end.
        if response.result not in (messages.SUCCESS, messages.NO_RESOURCES):
            raise self._refusal(response.result)

    def _ask(self, wanted: Wanted, lifetime: int, prefer_failure: bool) -> messages.Response:
        mapping = messages.Mapping(
            nonce.of_mapping(wanted.protocol, wanted.internal_port),
            messages.PROTOCOLS[wanted.protocol],
            wanted.internal_port,
            wanted.external_port if lifetime else 0,
        )

        def read(datagram: bytes) -> messages.Response:
            response = messages.read(datagram, messages.MAP)
            if response.mapping and not response.mapping.is_answer_to(mapping):
                raise Malformed("its PCP response is about another mapping")
            if (
                lifetime
                and response.result == messages.SUCCESS
                and not (response.granted.external_port and response.lifetime)
            ):
                raise Malformed("its PCP response grants no port, or for no time")
            return response

        request = messages.map_request(self.local_address, mapping, lifetime, prefer_failure)
        return self._exchange(request, read, _CHANGE)

    def _has_address(self) -> bool:
        """Ask by NAT-PMP: miniupnpd calls it a lack of resources when it has no public address."""
        if ":" in self.gateway:
            return True
        try:
            return bool(NatPmpClient(self.gateway, self.local_address).external_address())
        except MappingError:
            return True  # for all that is known

    def _exchange(
        self, request: bytes, read: Callable[[bytes], messages.Response], patience: float
    ) -> messages.Response:
        # The server compares the sender with the address inside the request.
        return exchange(self.gateway, messages.PORT, request, read, patience=patience, source=self.local_address)

    def _refusal(self, result: int) -> Refused:
        if result == messages.NETWORK_FAILURE or (result == messages.NO_RESOURCES and not self._has_address()):
            return NoAddress(no_address(self.gateway).explanation)
        return Refused(f"the router {self.gateway} refused: {translate('PCP', result, messages.RESULTS)}")


def find(gateway: str, local_address: str) -> PcpClient:
    client = PcpClient(gateway, local_address)
    client.look()
    return client
