# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What others may make the agent do: so much at a time, so often, towards so many.

A device names addresses at which it may be reached, and a relay says where it sees one; either may name somebody else.
So probes are paid for, as RFC 9000 (section 8) has it: each pair has a small allowance, and beyond it sends no more
bytes than came in. Addresses that have not answered are probed within bounds that all pairs share: for each of them,
and for all. What has answered a pair just now is not in these, so that nobody can starve a path that works.
"""

from __future__ import annotations

from collections.abc import Hashable

from peer_agent.endpoints import Endpoint
from peer_agent.wire.probes import SIZE

BATCH = 64  # datagrams to read from one socket, before the others and what is due get their turn

_PROBE = SIZE + 28  # bytes, with the headers of IPv4 and UDP

# Each the most at once, and so many more a second.
_PAIR = 96, 0.5  # probes of one pair: a first round of 5 to each of 16 candidates, and some
_FULL_SIZE = 24, 1.0  # pings of full size of one pair: they go to what has answered, and six tell a narrow path
_PREFIX = 100, 1.0  # to one IPv4 address or IPv6 /64 that has not answered: 20 devices behind one NAT
_ALL = 1000, 50.0  # to all of those
_MESSAGES = 30, 10.0  # messages from one device that are read
_PROBES = 320, 100.0  # probes from one device that are answered: twice what its first round is
_MAX_PREFIXES = 4096


class Bucket:
    """An allowance that time fills up again (a token bucket)."""

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, now: float, size: tuple[float, float]):
        self._most, self._rate = size
        self._left, self._at = self._most, now

    def credit(self, now: float, amount: float) -> None:
        """Add to the allowance."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate + amount)
        self._at = now

    def has(self, now: float) -> bool:
        """Whether there is one left."""
        self.credit(now, 0.0)
        return self._left >= 1.0

    def consume(self, now: float) -> bool:
        """Spend one; return False when there is none."""
        if not self.has(now):
            return False
        self._left -= 1.0
        return True


class _Pair:
    def __init__(self, now: float):
        self.sending, self.full = Bucket(now, _PAIR), Bucket(now, _FULL_SIZE)
        self.messages, self.probes = Bucket(now, _MESSAGES), Bucket(now, _PROBES)


class Limits:
    """The allowances of all pairs of this device."""

    def __init__(self, now: float):
        self._pairs: dict[Hashable, _Pair] = {}
        self._prefixes: dict[tuple[int, int], Bucket] = {}
        self._all = Bucket(now, _ALL)

    def _pair(self, now: float, owner: Hashable) -> _Pair:
        return self._pairs.get(owner) or self._pairs.setdefault(owner, _Pair(now))

    def forget(self, owner: Hashable) -> None:
        """A device that is one no more."""
        self._pairs.pop(owner, None)

    def may_read(self, now: float, owner: Hashable, size: int) -> bool:
        """A control message of so many bytes came: return whether to read it."""
        pair = self._pair(now, owner)
        if not pair.messages.consume(now):
            return False
        pair.sending.credit(now, size / _PROBE)
        return True

    def may_answer(self, now: float, owner: Hashable) -> bool:
        """An authentic probe came: return whether to answer it."""
        pair = self._pair(now, owner)
        if not pair.probes.consume(now):
            return False
        pair.sending.credit(now, 1.0)
        return True

    def may_send(self, now: float, owner: Hashable, target: Endpoint, heard: bool, full: bool = False) -> bool:
        """Return whether a probe may go out. Heard: something authentic came from there just now. Full: it is large."""
        pair = self._pair(now, owner)
        buckets = [pair.sending, *([pair.full] if full else [])]
        buckets += [] if heard else [self._prefix(now, target), self._all]
        if not all(bucket.has(now) for bucket in buckets):
            return False
        for bucket in buckets:
            bucket.consume(now)
        return True

    def _prefix(self, now: float, target: Endpoint) -> Bucket:
        address = target.address
        key = (4, int(address)) if address.version == 4 else (6, int(address) >> 64)
        bucket = self._prefixes.pop(key, None) or Bucket(now, _PREFIX)
        if len(self._prefixes) >= _MAX_PREFIXES:
            del self._prefixes[next(iter(self._prefixes))]
        self._prefixes[key] = bucket  # the last of all: the longest unused goes first
        return bucket
