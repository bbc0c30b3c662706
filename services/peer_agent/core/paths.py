# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told about paths: how a relay is reached, and which path a pair takes."""

from __future__ import annotations

from typing import NamedTuple

from peer_agent.endpoints import Endpoint

RELAY, FALLBACK = "relay", "fallback"  # besides the kinds of candidates: lan and direct
_DISTRUST = 5.0  # seconds: more than the round trip to any relay, less than what an agent believes of one


class RelayView(NamedTuple):
    """One relay, as this device sees it."""

    name: str
    endpoint: Endpoint  # where WireGuard reaches it: its address, or this device's end of the fallback
    alive: bool = True
    fallback: bool = False
    rtt: float | None = None
    seen: Endpoint | None = None  # this device, as the relay sees it
    other_seen: Endpoint | None = None  # the other device, as the relay sees it
    failure: str = ""  # the reason that its fallback could not be opened last
    steady: bool = True  # it has not died lately

    @property
    def distrust(self) -> float:
        """Seconds by which both sides of a pair take a relay that died lately to be farther than it is."""
        return 0.0 if self.steady or self.fallback else _DISTRUST

    @property
    def kind(self) -> str:
        return FALLBACK if self.fallback else RELAY


class Path(NamedTuple):
    """The path that a pair takes."""

    kind: str  # lan, direct, relay or fallback
    via: str  # the relay's name, or ""
    endpoint: Endpoint | None
    since: float
    rtt: float | None  # seconds; over a relay only as far as the relay
    why_not: str  # the reason that there is no better one, a key of REASONS, or ""
    agent: bool  # whether the other runs an agent
    changes: int  # how often it has become another one
