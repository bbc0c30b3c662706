# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A token bucket: the one way in which the relay bounds rates."""

from __future__ import annotations


class TokenBucket:
    """Holds at most `burst` tokens, refilled at `rate` a second; starts full."""

    __slots__ = ("_burst", "_rate", "_time", "_tokens")

    def __init__(self, rate: float, burst: float):
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._time = float("-inf")

    def take(self, amount: float, now: float) -> bool:
        """Take `amount` tokens if they are there; a clock that stands still or goes back refills nothing."""
        if now > self._time:
            if self._time != float("-inf"):
                self._tokens = min(self._burst, self._tokens + (now - self._time) * self._rate)
            self._time = now
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True
