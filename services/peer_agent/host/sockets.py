# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sockets beside an interface, and the addresses of this host as they see them."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from peer_agent.endpoints import Address, Endpoint
from peer_agent.host import addresses
from peer_agent.host.addresses import HostAddress, LinkKind
from peer_agent.host.overlay_socket import OverlaySocket
from peer_agent.host.probe_socket import Datagram, ProbeSocket
from peer_agent.settings import Settings
from peer_agent.wire.probes import MAGIC
from peer_agent.wireguard.interface import Interface

_DATA_OVERHEAD = 32  # bytes that a transport message adds to the packet in it (whitepaper section 5.4.6)
# Documentation addresses: the way to everywhere, whatever the network is.
_ANYWHERE = (Endpoint("192.0.2.1", 9), Endpoint("2001:db8::1", 9))

Read = Callable[[float], None]  # what the loop calls, with the time, when a socket is readable


class Sockets:
    """The sockets that go with an interface as it runs, registered with the loop's selector until `close`."""

    def __init__(
        self,
        settings: Settings,
        selector: selectors.BaseSelector,
        probed: Callable[[float, Datagram], None],
        heard: Callable[[float, bytes, Address, int], None],
        interface: Interface,
    ):
        """Open them; raise OSError when the interface is gone, or has no port yet.

        `probed` takes what comes outside the tunnel, `heard` what comes inside it, each with the time before it.
        """
        self._settings = settings
        self._selector = selector
        self._probed, self._heard = probed, heard
        self._folder = Path("/sys/class/net", settings.interface)
        self._open_sockets(interface, self._shape_of(interface))

    def fit(self, interface: Interface) -> bool:
        """Open others if the interface is another one; return whether they are others. Raise OSError as above: there
        are none then."""
        shape = self._shape_of(interface)
        if shape == self._shape:
            return False
        self.close()
        self._open_sockets(interface, shape)
        return True

    def _shape_of(self, interface: Interface) -> tuple[int, int, int]:
        return socket.if_nametoindex(self._settings.interface), interface.port, interface.mark

    def _open_sockets(self, interface: Interface, shape: tuple[int, int, int]) -> None:
        if not interface.port:
            raise OSError("the interface is down")
        self._index = shape[0]
        own = frozenset(self._settings.addresses)
        # wireguard-go's socket forbids routers to cut its packets in pieces, the kernel's WireGuard does not.
        whole = (self._folder / "tun_flags").exists()
        self.probe = ProbeSocket(interface.port, interface.mark, MAGIC, self._index, own, whole)
        try:
            self.overlay = OverlaySocket(self._settings.interface, self._settings.control_port)
        except OSError:
            self.probe.close()
            raise
        for sock in self.probe.sockets:
            self._register(sock, partial(self._read_probes, sock))
        for sock in self.overlay.sockets:
            self._register(sock, partial(self._read_overlay, sock))
        self._shape = shape

    def _register(self, sock: socket.socket, read: Read) -> None:
        self._selector.register(sock, selectors.EVENT_READ, read)

    def _read_probes(self, sock: socket.socket, now: float) -> None:
        self.probe.receive(sock, partial(self._probed, now))

    def _read_overlay(self, sock: socket.socket, now: float) -> None:
        self.overlay.receive(sock, partial(self._heard, now))

    def close(self) -> None:
        """Close them, if they are not closed already."""
        for sock in (*self.probe.sockets, *self.overlay.sockets):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(sock)
        self.probe.close()
        self.overlay.close()

    @property
    def full_size(self) -> int:
        """Bytes of the datagram that carries the largest packet of the tunnel; raise OSError when it is gone."""
        return int((self._folder / "mtu").read_text()) + _DATA_OVERHEAD

    def source(self, target: Endpoint) -> str:
        """Return the address that packets to the target leave from, or "" when they would not leave."""
        try:
            return self.probe.source(target)
        except OSError:
            return ""

    def addresses(self) -> list[HostAddress]:
        """Return the addresses at which others may reach this host: first those that its packets to everywhere leave
        from, last those of its containers.

        A tunnel that is not the way to everywhere is none of its networks, and no way to another device: it may run
        through this one, as the overlays of container clusters do.
        """
        self.probe.avoid(())
        first = {self.source(target) for target in _ANYWHERE}
        found = [
            each._replace(kind=LinkKind.OUTSIDE) if str(each.interface.ip) in first else each
            for each in addresses.addresses(self._index)
        ]
        self.probe.avoid(each.interface.ip for each in found if each.kind is LinkKind.TUNNEL)
        usable = [each for each in found if each.kind is not LinkKind.TUNNEL]
        return sorted(usable, key=lambda each: (str(each.interface.ip) not in first, each.kind))
