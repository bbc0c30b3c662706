# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""When to check all candidates: both sides at the same moments, as a NAT lets in only answers to what went out."""

from __future__ import annotations

_FIRST, _LATER = 5, 3  # pings to each candidate in a round
_SPACING = 0.2  # seconds between them
_WAITS = (5.0, 10.0, 20.0, 40.0, 60.0)  # seconds from round to round
_BUSY_WAIT = 10.0  # a better path is worth more while data flows
_MIN_INTERVAL = 1.0  # seconds between rounds, whoever asks for them


class HolePunching:
    """Rounds of checks, at ever longer intervals."""

    def __init__(self) -> None:
        self._began_at = float("-inf")
        self._rounds = self._left = 0
        self._ping_at = 0.0

    def due(self, busy: bool, hopeless: bool) -> float:
        """Return when to begin the next round; hopeless: it takes a change of networks to succeed."""
        if not self._rounds:
            return self._began_at + _MIN_INTERVAL
        wait = _WAITS[min(self._rounds, len(_WAITS)) - 1]
        return self._began_at + (_WAITS[-1] if hopeless else min(wait, _BUSY_WAIT) if busy else wait)

    def begin_round(self, now: float) -> bool:
        """Begin a round; return False when one has just begun."""
        if now - self._began_at < _MIN_INTERVAL:
            return False
        self._left = _LATER if self._rounds else _FIRST
        self._rounds += 1
        self._began_at = self._ping_at = now
        return True

    def reset(self) -> None:
        """Something is new: begin soon, and be eager again."""
        self._rounds = 0

    def stop(self) -> None:
        """There is nothing to find."""
        self._left = 0

    @property
    def running(self) -> bool:
        return self._left > 0

    def should_ping(self, now: float) -> bool:
        """Whether to ping all candidates now."""
        if not self._left or now < self._ping_at:
            return False
        self._left -= 1
        self._ping_at = now + _SPACING
        return True
