# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent stands on: the interface, and the sockets that depend on it. Both may go and come."""

from __future__ import annotations

import contextlib
import selectors
import socket
from pathlib import Path

from peer_agent.endpoints import Endpoint
from peer_agent.host import addresses
from peer_agent.host.addresses import HostAddress, Place
from peer_agent.host.overlay_socket import Tunnel
from peer_agent.host.probe_socket import RawPort
from peer_agent.settings import Settings
from peer_agent.wire.probes import MAGIC
from peer_agent.wireguard.interface import Interface

_DATA_OVERHEAD = 32  # bytes that a transport message adds to the packet in it (whitepaper section 5.4.6)
# Documentation addresses: the way to everywhere, whatever the network is.
_ANYWHERE = (Endpoint("192.0.2.1", 9), Endpoint("2001:db8::1", 9))


class Ground:
    """The sockets for one run of the interface; `raw` and `tunnel` are None while there is none."""

    def __init__(self, settings: Settings, selector: selectors.BaseSelector):
        self._settings = settings
        self._selector = selector
        self._folder = Path("/sys/class/net", settings.interface)
        self._shape: tuple[int, int, int] | None = None
        self.raw: RawPort | None = None
        self.tunnel: Tunnel | None = None

    def fit(self, interface: Interface) -> bool:
        """Open the sockets that go with the interface as it runs; return whether they are other ones than before.

        Raise OSError when it is gone, or has no port yet.
        """
        index = socket.if_nametoindex(self._settings.interface)
        shape = (index, interface.port, interface.mark)
        if shape == self._shape:
            return False
        self.leave()
        if not interface.port:
            raise OSError("the interface is down")
        own = frozenset(self._settings.addresses)
        # wireguard-go's socket forbids routers to cut its packets in pieces, the kernel's WireGuard does not.
        whole = (self._folder / "tun_flags").exists()
        self.raw = RawPort(interface.port, interface.mark, MAGIC, index, own, whole)
        try:
            self.tunnel = Tunnel(self._settings.interface, self._settings.control_port)
        except OSError:
            self.leave()
            raise
        for owner in (self.raw, self.tunnel):
            for sock in owner.sockets:
                self._selector.register(sock, selectors.EVENT_READ, owner)
        self._shape = shape
        return True

    def leave(self) -> None:
        """Close the sockets."""
        for owner in (self.raw, self.tunnel):
            if owner:
                for sock in owner.sockets:
                    with contextlib.suppress(KeyError):
                        self._selector.unregister(sock)
                owner.close()
        self.raw = self.tunnel = self._shape = None

    @property
    def full_size(self) -> int:
        """Bytes of the datagram that carries the largest packet of the tunnel; raise OSError when it is gone."""
        return int((self._folder / "mtu").read_text()) + _DATA_OVERHEAD

    def way(self, target: Endpoint) -> str:
        """Return the address that packets to the target leave from, or "" when they would not leave."""
        try:
            return self.raw.source(target) if self.raw else ""
        except OSError:
            return ""

    def forget_ways(self) -> None:
        if self.raw:
            self.raw.forget()

    def addresses(self) -> list[HostAddress]:
        """Return the addresses at which others may reach this host: first those that its packets to everywhere leave
        from, last those of its containers.

        A tunnel that is not the way to everywhere is none of its networks, and no way to another device: it may run
        through this one, as the overlays of container clusters do.
        """
        if self._shape is None:
            return []
        self.raw.avoid(())
        first = {self.way(target) for target in _ANYWHERE}
        found = [
            each._replace(place=Place.OUTSIDE) if str(each.interface.ip) in first else each
            for each in addresses.addresses(self._shape[0])
        ]
        self.raw.avoid(each.interface.ip for each in found if each.place is Place.TUNNEL)
        usable = [each for each in found if each.place is not Place.TUNNEL]
        return sorted(usable, key=lambda each: (str(each.interface.ip) not in first, each.place))
