# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent has while its interface runs: sockets and drivers. All of it goes with the interface."""

from __future__ import annotations

from dataclasses import dataclass

from peer_agent.endpoints import Endpoint
from peer_agent.host.sockets import Sockets
from peer_agent.path_driver import PathDriver
from peer_agent.relay_driver import RelayDriver
from peer_agent.wireguard.interface import Interface


@dataclass
class Opened:
    """The interface runs, but no relay has an address yet."""

    interface: Interface  # as it was when last looked at
    sockets: Sockets
    relays: RelayDriver

    def end(self, _now: float) -> None:
        """End what is driven; the sockets stay, for what begins next."""
        self.relays.close()


@dataclass
class Attached(Opened):
    """The interface runs, and the paths over it are looked after."""

    paths: PathDriver
    location: tuple[list[Endpoint], object] | None = None  # where this device is, and how it reaches others

    def end(self, now: float) -> None:
        self.paths.stop(now)
        super().end(now)

    def sample(self, now: float) -> None:
        """Hand on what the interface says."""
        self.relays.sample(now, self.interface)
        self.paths.sample(now, self.interface)

    def tick(self, now: float) -> float:
        """Do what is due; return in how many seconds to call again at the latest."""
        self.relays.tick(now)
        self.paths.relays(now)
        delay = self.paths.tick(now)
        return min(delay, self.relays.tick(now))  # a pair may have come to suspect a relay
