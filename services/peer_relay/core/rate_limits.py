# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Token buckets: the one way in which the relay bounds rates."""

from __future__ import annotations

from collections import OrderedDict


class TokenBucket:
    """Holds at most `burst` tokens, refilled at `rate` a second; starts full."""

    __slots__ = ("_burst", "_rate", "_time", "_tokens")

    def __init__(self, rate: float, burst: float):
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._time = float("-inf")

    def consume(self, amount: float, now: float, debt: float = 0.0) -> bool:
        """Take `amount` tokens if they are there; a clock that stands still or goes back refills nothing.

        With `debt` they may be taken in advance, up to so many: those who may not wait until they are there again.
        """
        if now > self._time:
            if self._time != float("-inf"):
                self._tokens = min(self._burst, self._tokens + (now - self._time) * self._rate)
            self._time = now
        if self._tokens + debt < amount:
            return False
        self._tokens -= amount
        return True

    def give_back(self, amount: float) -> None:
        """Return tokens that turned out not to be needed."""
        self._tokens = min(self._burst, self._tokens + amount)


class FairShares:
    """A token bucket for each of the latest `sources` sources, so that a loud one is told from the others."""

    def __init__(self, rate: float, burst: float, sources: int):
        self._rate, self._burst, self._sources = rate, burst, sources
        self._buckets: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def consume(self, source: bytes, now: float) -> bool:
        """Take one token of a source's share if it is there."""
        bucket = self._buckets.pop(source, None) or TokenBucket(self._rate, self._burst)
        self._buckets[source] = bucket
        if len(self._buckets) > self._sources:
            self._buckets.popitem(last=False)
        return bucket.consume(1, now)
