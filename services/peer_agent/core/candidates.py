# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The remote candidates (RFC 8445): where the other device may be reached, and what connectivity checks have found out.

A ping is a connectivity check, a pong its success response. What the other signals are its host and server-reflexive
candidates; what a ping comes from, unsignaled, is a peer-reflexive one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from peer_agent.core.actions import SendProbe
from peer_agent.endpoints import Endpoint, Network, usable, within
from peer_agent.wire.probes import PING, Probe, new_number

LAN, DIRECT = "lan", "direct"
_MAX_SIGNALED = 12
_MAX_PEER_REFLEXIVE = 4  # NATs that give another port to each destination; each ping that arrives shows one
_HEARD = 60.0  # seconds for which a pong tells that somebody is there
_LOST = 1.0  # seconds after which a pong does not come any more
_MISSES = 2  # in a row, before a candidate has to begin anew
_FULL_MISSES = 6  # of full size: many, since loss must not be taken for a narrow path
_MAX_PENDING = 256


class Candidate:
    """One candidate of the other device."""

    def __init__(self, endpoint: Endpoint, kind: str):
        self.endpoint = endpoint
        self.kind = kind
        self.local = ""  # the address of this device that its probes reach
        self.rtt: float | None = None
        self.streak = 0  # pongs in a row
        self.proving_since = 0.0  # when the streak began
        self.claimed: int | None = None  # the number of the last ping by which the other said that it uses this path
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

    def note_pong(self, now: float, rtt: float, full: bool) -> None:
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

    def note_miss(self, full: bool) -> None:
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
    """All candidates of one device, bounded, and the pings that are under way."""

    def __init__(self, overlays: Iterable[Network]):
        self._overlays = tuple(overlays)
        self._networks: tuple[Network, ...] = ()
        self._signaled: dict[Endpoint, Candidate] = {}
        self._peer_reflexive: dict[Endpoint, Candidate] = {}
        self._pending: dict[int, _Ping] = {}
        self._serial = 0

    def __iter__(self) -> Iterator[Candidate]:
        yield from self._signaled.values()
        yield from self._peer_reflexive.values()

    def __len__(self) -> int:
        return len(self._signaled) + len(self._peer_reflexive)

    def get(self, endpoint: Endpoint) -> Candidate | None:
        return self._signaled.get(endpoint) or self._peer_reflexive.get(endpoint)

    def set_signaled(self, endpoints: Iterable[Endpoint]) -> bool:
        """Replace the candidates that the other signals, or a relay sees; return whether there is a new one."""
        wanted = [endpoint for endpoint in dict.fromkeys(endpoints) if usable(endpoint, self._overlays)][:_MAX_SIGNALED]
        before = self._signaled
        self._signaled = {endpoint: self.get(endpoint) or self._new(endpoint) for endpoint in wanted}
        for endpoint in wanted:
            self._peer_reflexive.pop(endpoint, None)
        return bool(self._signaled.keys() - before.keys())

    def add_peer_reflexive(self, endpoint: Endpoint, keep: Candidate | None) -> Candidate | None:
        """Return the candidate that the other's packet came from; the oldest makes room, but not the one in use."""
        known = self.get(endpoint)
        if known is not None or not usable(endpoint, self._overlays):
            return known
        if len(self._peer_reflexive) >= _MAX_PEER_REFLEXIVE:
            oldest = next(other for other in self._peer_reflexive.values() if other is not keep)
            del self._peer_reflexive[oldest.endpoint]
        return self._peer_reflexive.setdefault(endpoint, self._new(endpoint))

    def keep(self, candidate: Candidate) -> None:
        """Hold on to the one in use, also when nobody tells of it."""
        if self.get(candidate.endpoint) is not candidate:
            self.add_peer_reflexive(candidate.endpoint, None)
            self._peer_reflexive[candidate.endpoint] = candidate

    def classify(self, networks: Iterable[Network]) -> None:
        """Set the networks that this device is in: candidates there are reached without a router."""
        self._networks = tuple(networks)
        for candidate in self:
            candidate.kind = self._kind(candidate.endpoint)

    def _kind(self, endpoint: Endpoint) -> str:
        return LAN if within(endpoint.address, self._networks) else DIRECT

    def _new(self, endpoint: Endpoint) -> Candidate:
        return Candidate(endpoint, self._kind(endpoint))

    # --- checks -------------------------------------------------------------------------------------------------------

    def make_ping(self, now: float, candidate: Candidate, in_use: bool = False, full: bool = False) -> SendProbe:
        """Return a ping to send to the candidate."""
        self._serial += 1
        if len(self._pending) >= _MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        number = new_number(self._serial)
        self._pending[number] = _Ping(candidate, now, in_use, full)
        candidate.pinged_at = now
        if full:
            candidate.full_pinged_at = now
        heard = now - candidate.ponged_at <= _HEARD
        return SendProbe(candidate.endpoint, Probe(PING, number, in_use, full), heard)

    def match_pong(self, now: float, number: int, source: Endpoint) -> _Ping | None:
        """Return the ping that this pong answers, or None. A pong from elsewhere than the ping went proves nothing."""
        ping = self._pending.get(number)
        if ping is None or ping.candidate.endpoint != source:
            return None
        del self._pending[number]
        ping.candidate.note_pong(now, now - ping.sent_at, ping.full)
        return ping

    def expire(self, now: float) -> None:
        """Give up the pings that got no pong."""
        for number, ping in list(self._pending.items()):
            if now - ping.sent_at < _LOST:
                break
            del self._pending[number]
            ping.candidate.note_miss(ping.full)

    def forget(self) -> None:
        """Begin anew with all: the network, or the other's agent, is another one."""
        self._pending.clear()
        for candidate in self:
            candidate.forget()
            candidate.claimed = None
