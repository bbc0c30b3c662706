# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which path the packets to one other device take: the whole decision, without any I/O.

lan > direct > relay > fallback. Whoever runs a pair tells it what happens, and takes out of `outbox` what is to be done.
`now` is a clock that goes on while the host sleeps (CLOCK_BOOTTIME); the time of day is used nowhere.

Of the two sides, the one with the smaller overlay address leads: it picks a direct candidate that has proven itself and
says so in its pings; the follower moves there as soon as it has proof of its own, and only then does the leader move.
Either may leave a path that has gone silent, at once; pongs say whether their sender still uses the path, so the other
does not stay behind. WireGuard itself sends to wherever the other's last packet came from: `traffic` sees that, and
either believes it, when it goes with what probes have proven, or has it set back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from peer_agent.actions import Action, Note, Rekey, Say, Send, SetEndpoint, Suspect, Trust
from peer_agent.candidates import LAN, Candidate, Candidates
from peer_agent.control import Message
from peer_agent.endpoints import Address, Endpoint, Network, usable
from peer_agent.flow import Flow
from peer_agent.path import Path, View
from peer_agent.probes import PING, PONG, Key, Probe, Window
from peer_agent.sessions import Sessions


class Pair:
    """This device and one other."""

    def __init__(
        self,
        own: Address,
        other: Address,
        relays: Iterable[View],
        secret: bytes,
        overlays: Iterable[Network],
        now: float,
    ):
        """Take both overlay addresses (the first of each), the relays in their stated order, 32 random bytes that are
        new with each start of the agent, and the networks inside the tunnel, which no candidate may be in."""

    def tick(self, now: float) -> float:
        """Do what is due; return in how many seconds to call again at the latest."""

    @property
    def watching(self) -> bool:
        """Whether to call `traffic` at every tick: something is under way. Otherwise when the interface's counters have
        grown (looked at five times a second), and every 5 s."""

    def control(self, now: float, message: Message) -> None:
        """The other's agent said something, in the tunnel, from its overlay address."""

    def probed(self, now: float, probe: Probe, source: Endpoint, local: str) -> None:
        """A probe that opened with this pair's key came from there to this local address."""

    def traffic(self, now: float, tx: int, rx: int, endpoint: Endpoint | None, handshake: int) -> None:
        """The [Peer] in `wg show dump`: bytes, endpoint, and the time of the last handshake as it stands there. The first
        call tells which path runs already: it is kept as long as it works."""

    def relay(self, now: float, view: View) -> None:
        """A relay is alive, or dead, or reached in another way, or sees another address: call it for each change."""

    def network(self, now: float, endpoints: Iterable[Endpoint], networks: Iterable[Network]) -> None:
        """This device's own addresses with WireGuard's port (and the endpoints that the settings state), and the networks
        that it is in. Call it at the start, and when they change: a path from an address that is gone is left at once."""

    def stop(self, now: float) -> None:
        """The agent ends, maybe to start again at once: tell the other, and leave the path as it is."""

    @property
    def path(self) -> Path:
        """The path in use, for the status."""
