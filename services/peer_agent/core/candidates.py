# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the other device may be reached directly, and what probes have found out about each place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from peer_agent.core.actions import Send
from peer_agent.endpoints import Endpoint, Network, usable, within
from peer_agent.wire.probes import PING, Probe, new_number

LAN, DIRECT = "lan", "direct"
_MOST_TOLD = 12
_MOST_REFLEXIVE = 4  # NATs that give another port to each destination; each ping that arrives shows one
_HEARD = 60.0  # seconds for which a pong tells that somebody is there
_LOST = 1.0  # seconds after which a pong does not come any more
_MISSES = 2  # in a row, before a candidate has to begin anew
_FULL_MISSES = 6  # of full size: many, since loss must not be taken for a narrow path
_MOST_PENDING = 256


class Candidate:
    """One endpoint of the other device."""

    def __init__(self, endpoint: Endpoint, kind: str):
        self.endpoint = endpoint
        self.kind = kind
        self.local = ""  # the address of this device that its probes reach
        self.rtt: float | None = None
        self.streak = 0  # pongs in a row
        self.proving_since = 0.0  # when the streak began
        self.claimed: int | None = None  # the number of the last ping that said that the other uses this path
        self.pinged_at = self.ponged_at = float("-inf")
        self.full = False  # a ping of full size was answered since the streak began
        self.narrow = False  # small ones are answered, those of full size are not
        self.full_pinged_at = self.full_ponged_at = float("-inf")
        self._misses = self._full_misses = 0

    @property
    def round_trip(self) -> float:
        """Seconds, to compare: infinite before the first pong."""
        return math.inf if self.rtt is None else self.rtt

    @property
    def full_pending(self) -> bool:
        """Whether the last ping of full size has no answer yet."""
        return self.full_pinged_at > self.full_ponged_at

    def pong(self, now: float, rtt: float, full: bool) -> None:
        if not self.streak:
            self.proving_since = now
        self.streak += 1
        self._misses = 0
        self.rtt = rtt if self.rtt is None else self.rtt + (rtt - self.rtt) / 4
        self.ponged_at = now
        if full:
            self.full, self.narrow = True, False
            self.full_ponged_at = now
            self._full_misses = 0

    def miss(self, full: bool) -> None:
        if full:
            self._full_misses += 1
            if self._full_misses >= _FULL_MISSES:
                self.narrow = True
                self.forget()
            return
        self._misses += 1
        if self._misses >= _MISSES:
            self.forget()

    def forget(self) -> None:
        """Begin anew: what was proven may not hold any more."""
        self.streak = self._misses = self._full_misses = 0
        self.full = False


class _Ping(NamedTuple):
    candidate: Candidate
    sent_at: float
    in_use: bool
    full: bool


class Candidates:
    """All that are known, bounded, and the pings that are under way."""

    def __init__(self, overlays: Iterable[Network]):
        self._overlays = tuple(overlays)
        self._networks: tuple[Network, ...] = ()
        self._told: dict[Endpoint, Candidate] = {}
        self._reflexive: dict[Endpoint, Candidate] = {}
        self._pending: dict[int, _Ping] = {}
        self._serial = 0

    def __iter__(self) -> Iterator[Candidate]:
        yield from self._told.values()
        yield from self._reflexive.values()

    def __len__(self) -> int:
        return len(self._told) + len(self._reflexive)

    def get(self, endpoint: Endpoint) -> Candidate | None:
        return self._told.get(endpoint) or self._reflexive.get(endpoint)

    def tell(self, endpoints: Iterable[Endpoint]) -> bool:
        """Take where the other says that it is, or a relay sees it; return whether there is anything new."""
        wanted = [endpoint for endpoint in dict.fromkeys(endpoints) if usable(endpoint, self._overlays)][:_MOST_TOLD]
        before = self._told
        self._told = {endpoint: self.get(endpoint) or self._new(endpoint) for endpoint in wanted}
        for endpoint in wanted:
            self._reflexive.pop(endpoint, None)
        return bool(self._told.keys() - before.keys())

    def reflect(self, endpoint: Endpoint, keep: Candidate | None) -> Candidate | None:
        """Return the candidate that the other's packet came from; the oldest makes room, but not the one in use."""
        known = self.get(endpoint)
        if known is not None or not usable(endpoint, self._overlays):
            return known
        if len(self._reflexive) >= _MOST_REFLEXIVE:
            del self._reflexive[next(place for place, other in self._reflexive.items() if other is not keep)]
        return self._reflexive.setdefault(endpoint, self._new(endpoint))

    def keep(self, candidate: Candidate) -> None:
        """Hold on to the one in use, also when nobody tells of it."""
        if self.get(candidate.endpoint) is not candidate:
            self.reflect(candidate.endpoint, None)
            self._reflexive[candidate.endpoint] = candidate

    def classify(self, networks: Iterable[Network]) -> None:
        """Take the networks that this device is in: what is there needs no router."""
        self._networks = tuple(networks)
        for candidate in self:
            candidate.kind = self._kind(candidate.endpoint)

    def _kind(self, endpoint: Endpoint) -> str:
        return LAN if within(endpoint.address, self._networks) else DIRECT

    def _new(self, endpoint: Endpoint) -> Candidate:
        return Candidate(endpoint, self._kind(endpoint))

    # --- probes -------------------------------------------------------------------------------------------------------

    def ping(self, now: float, candidate: Candidate, in_use: bool = False, full: bool = False) -> Send:
        """Return a ping to send to the candidate."""
        self._serial += 1
        if len(self._pending) >= _MOST_PENDING:
            del self._pending[next(iter(self._pending))]
        number = new_number(self._serial)
        self._pending[number] = _Ping(candidate, now, in_use, full)
        candidate.pinged_at = now
        if full:
            candidate.full_pinged_at = now
        heard = now - candidate.ponged_at <= _HEARD
        return Send(candidate.endpoint, Probe(PING, number, in_use, full), heard)

    def pong(self, now: float, number: int, source: Endpoint) -> _Ping | None:
        """Take a pong; return the ping that it answers. One from elsewhere than the ping went proves nothing."""
        ping = self._pending.get(number)
        if ping is None or ping.candidate.endpoint != source:
            return None
        del self._pending[number]
        ping.candidate.pong(now, now - ping.sent_at, ping.full)
        return ping

    def expire(self, now: float) -> None:
        """Give up the pings that got no pong."""
        for number, ping in list(self._pending.items()):
            if now - ping.sent_at < _LOST:
                break
            del self._pending[number]
            ping.candidate.miss(ping.full)

    def forget(self) -> None:
        """Begin anew with all: the network, or the other's agent, is another one."""
        self._pending.clear()
        for candidate in self:
            candidate.forget()
            candidate.claimed = None
