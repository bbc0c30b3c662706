# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which relay knows the session that WireGuard has with the other device.

A relay forwards by the indexes of a handshake that it has forwarded, so a session whose handshake went another way
needs a new handshake before that relay can carry it. Two new handshakes that cross spoil each other for 5 s, so there
is an order: a side that alone has data to send begins at once, then the leader, then the follower.
"""

from __future__ import annotations

_TURN = 0.5  # seconds for the handshake of the side whose turn is first: a round trip and a half
_AGAIN = (1.0, 2.0, 4.0)  # then WireGuard itself goes on, every 5 s


class Rehandshake:
    """The last handshake of one device, and the one that is wanted."""

    def __init__(self, leader: bool):
        self._wait = 0.0 if leader else _TURN
        self._slack = 1.0 if leader else 2.5  # what the two add to _AGAIN differs, lest they cross again
        self._stamp: int | None = None  # `wg show latest-handshakes`; 0: there was none; None: not looked yet
        self._sampled_via = self.carrier = ""  # a relay's name; "" for any other way, and for one that is not known
        self._relay = ""  # that is to carry the session
        self._moved = False  # since the last sample
        self._tries = 0
        self.due: float | None = None  # when to make a new handshake

    @property
    def wanted(self) -> bool:
        return self.due is not None

    def sample(self, stamp: int, via: str, heard: bool) -> None:
        """Note the time of the last handshake, over which relay WireGuard sends now, and whether data came."""
        steady = not self._moved and via == self._sampled_via
        if stamp != self._stamp:
            fresh = self._stamp is not None and stamp != 0
            self.carrier = via if fresh and (steady or self.wanted) else ""
        elif heard and steady:
            self.carrier = via or self.carrier  # it forwards, so it knows
        if self.carrier and self.carrier == self._relay:
            self.due = None
        self._stamp, self._sampled_via, self._moved = stamp, via, False

    def note_move(self, now: float, relay: str, turn: int) -> None:
        """The path is another one, over this relay, or "" for none. The turn: 0 when this side alone has data to send,
        or alone knows of the move; 1 when both have; 2 when only the other has."""
        self._moved = True
        self._relay = relay
        self._tries = 0
        unknown = bool(relay) and self.carrier != relay and (bool(self._stamp) or self.wanted)
        wait = self._wait + 2 * _TURN * (turn - 1) if turn else 0.0
        self.due = now + wait if unknown else None

    def force(self, now: float, relay: str) -> None:
        """The relay is alive and yet nothing comes: it may have lost what it knew."""
        self.carrier, self._relay = "", relay
        if self.due is None:
            self._tries = 0
            self.due = now + self._wait

    def should_start(self, now: float) -> bool:
        """Whether to make a new handshake now."""
        if self.due is None or now < self.due:
            return False
        if self._tries >= len(_AGAIN):
            self.due = None
            return False
        self.due = now + _AGAIN[self._tries] * self._slack
        self._tries += 1
        self._stamp = 0  # the old one goes with the [Peer]
        self.carrier = ""
        return True
