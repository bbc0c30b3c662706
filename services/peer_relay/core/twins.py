# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hosts that use one key, as after a disk was cloned, told from one host that moves.

One host goes on under its newest session, wherever it is. Two have a session each, and use them side by side.
"""

from __future__ import annotations

from peer_relay.core.rate_limits import TokenBucket

_LATE = 10.0  # seconds for which packets of the session before may be under way
_RETURN = 10.0  # seconds within which hardly anybody comes back to where he was
_APART = 5.0  # seconds between two signs
# A sign that one host gives by an odd coincidence only, and one that it may give where two networks take turns.
_CERTAIN, _POSSIBLE = 2.0, 1.0
_SIGNS_RATE, _SIGNS_BURST = 1 / 60, 4.0
_LASTS = 300.0  # seconds for which it is told after the last sign


class Twins:
    """The signs of a second host that uses a device's key."""

    __slots__ = ("_found", "_left", "_noted", "_signs")

    def __init__(self) -> None:
        self._signs = TokenBucket(_SIGNS_RATE, _SIGNS_BURST)
        self._noted = float("-inf")
        self._left = b""  # where the device was before
        self._found: tuple[bytes, bytes, float] | None = None

    def moved(self, before: bytes, there: bytes, stayed: float, anew: bool, now: float) -> None:
        """Note that the device has left `before` after `stayed` seconds; `anew`: with a session made meanwhile."""
        if anew and there == self._left and stayed < _RETURN:
            self._note(before, there, _POSSIBLE, now)
        self._left = before

    def older_session_used(self, there: bytes, newer: bytes, age: float, now: float) -> None:
        """Note that the session before is used, while one that is `age` seconds old is used at `newer`."""
        if there != newer and age > _LATE:
            self._note(there, newer, _CERTAIN, now)

    def _note(self, one: bytes, other: bytes, weight: float, now: float) -> None:
        if now - self._noted < _APART:
            return
        self._noted = now
        if not self._signs.consume(weight, now):
            self._found = one, other, now

    def found(self, now: float) -> tuple[bytes, bytes] | None:
        """Return the two addresses, while there seem to be two hosts."""
        if self._found is None or now - self._found[2] > _LASTS:
            return None
        return self._found[:2]
