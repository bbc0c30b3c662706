# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reachability probes: handshake initiations that the relay makes to itself, for others to carry to it.

Only who holds the relay's private key can make one, so that answering it tells strangers nothing. Each is answered
once, whatever address it comes from; it makes no session and binds nothing.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from peer_relay.drops import Refused
from peer_relay.wireguard.noise import TIMESTAMP_SIZE, Identity, InitiationWriter, random_index, tai64n

LIFETIME = 300.0  # seconds: an inventory of many devices takes its time
_AHEAD = 5.0  # seconds by which the clock may have been set back since
MAX_PROBES = 2048  # probes remembered, and so answered, within their lifetime
_LATEST = 16


class Answered(NamedTuple):
    """A probe that was answered: where it came from, its sender index, when."""

    source: bytes
    sender_index: int
    time: float


def make(identity: Identity, wall: float) -> bytes:
    """Return a probe (148 bytes), made at the Unix time `wall`."""
    return InitiationWriter(identity, identity.public, random_index(), tai64n(wall)).datagram


def _ephemeral(datagram: bytes) -> bytes:
    # What the handshake authenticates, unlike the index and the macs, which anybody can change in a copy.
    return datagram[8:40]


class Probes:
    """Which probes were answered. No probe whose timestamp is not above `since` is, so that old ones are forgotten."""

    def __init__(self) -> None:
        self.since = bytes(TIMESTAMP_SIZE)
        self.answered = 0
        self.latest: deque[Answered] = deque(maxlen=_LATEST)
        self._spent: dict[bytes, bytes] = {}  # ephemeral key -> timestamp

    def __len__(self) -> int:
        return len(self._spent)

    def refuse_spent(self, datagram: bytes) -> None:
        """Refuse a copy of an answered probe before it costs a curve operation."""
        if _ephemeral(datagram) in self._spent:
            raise Refused("probe_replayed")

    def admit(self, datagram: bytes, timestamp: bytes, wall: float) -> None:
        """Take an authentic probe, or refuse it."""
        oldest = max(self.since, tai64n(max(0.0, wall - LIFETIME)))
        if not oldest < timestamp <= tai64n(wall + _AHEAD):
            raise Refused("probe_expired")
        self.since = oldest
        self._spent = {key: made for key, made in self._spent.items() if made > oldest}
        if len(self._spent) >= MAX_PROBES:
            raise Refused("handshake_limited")
        self._spent[_ephemeral(datagram)] = timestamp

    def note(self, source: bytes, index: int, now: float) -> None:
        """Remember an answer for the status."""
        self.answered += 1
        self.latest.append(Answered(source, index, now))
