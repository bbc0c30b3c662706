# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which relays are alive, and whether any is reached over UDP at all: for the whole device, without any I/O.

The directory of each relay is asked in the tunnel: its answer proves that the relay lives and that packets go both ways,
tells the round trip, and renews what the relay knows of this device's address. While no relay answers over UDP, one is
reached over the fallback, and UDP is tried again and again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from peer_agent.actions import Action, Ask, Connect, Disconnect, Note, Reach
from peer_agent.endpoints import Endpoint
from peer_agent.path import View


class Relay(NamedTuple):
    """A relay in the settings."""

    name: str
    endpoint: Endpoint
    fallback: bool  # it can be reached over TLS as well


class Relays:
    """All relays, in their stated order. `outbox` holds Ask, Reach, Connect, Disconnect and Note."""

    def __init__(self, relays: Iterable[Relay], now: float):
        self.outbox: list[Action] = []

    def tick(self, now: float) -> float:
        """Do what is due; return in how many seconds to call again at the latest."""

    def suspect(self, now: float, name: str) -> None:
        """A pair hears nothing over this relay."""

    def answered(self, now: float, name: str, nonce: bytes, seen: Endpoint | None) -> bool:
        """The relay's directory has answered this nonce; return False for an answer to nothing that was asked."""

    def fallback(self, now: float, name: str, endpoint: Endpoint | None) -> None:
        """The fallback to this relay is up, at this local endpoint, or has ended (None)."""

    def resolved(self, now: float, name: str, endpoint: Endpoint) -> None:
        """The relay's name has another address now."""

    def network(self, now: float) -> None:
        """This device's addresses have changed: ask all relays at once."""

    def views(self) -> list[View]:
        """How each relay is reached; give each that has changed to every pair, with what it says of the other device."""
