# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a candidate becomes the path (RFC 8445): connectivity checks, a trial of those that answer, and a nomination.

The leader is the controlling agent: it nominates, by a flag in its pings.
"""

from __future__ import annotations

from peer_agent.core.actions import PairAction
from peer_agent.core.candidates import LAN, Candidate, Candidates
from peer_agent.core.hole_punching import HolePunching

_PROOF = 2  # pongs in a row that make a candidate valid
_COMPARE = 1.0  # seconds more for a round trip to become shorter than that of the running path
_LAN_SHARE = 0.8  # a path without a router is worth a round trip that is longer by a quarter
_MIN_TRIAL = 0.3  # seconds for a better candidate to prove itself as well
_RECENT = 3.0  # seconds for which a proof holds
_SPACING = 0.2  # seconds between pings to a candidate that has begun to prove itself
_MAX_TRIAL_PINGS = 20  # pings in the longest trial
_NOMINATION_TIMEOUT = 2.0  # seconds for the other to come along
_MIN_PENALTY, _MAX_PENALTY = 3.0, 60.0  # seconds of trial after a direct path has failed, doubled each time
_MAX_PENALTIES = 16


class Nomination:
    """The candidates of one device that may replace the running path."""

    def __init__(self, candidates: Candidates, leader: bool, outbox: list[PairAction]):
        self.hole_punching = HolePunching()
        self.nominee: Candidate | None = None  # leader: to be confirmed by the other; follower: to be proven yet
        self._nominated_at = 0.0
        self._candidates = candidates
        self._leader = leader
        self._outbox = outbox
        self.full_size = False  # whether the other answers pings of full size
        self._penalties: dict[tuple[str, str], float] = {}  # by the addresses of both ends: elsewhere may be better

    def rivals(self, direct: Candidate | None) -> list[Candidate]:
        """Return the candidates that would be better than the running path."""
        if direct is None:
            return list(self._candidates)
        if direct.kind == LAN:
            return []
        return [candidate for candidate in self._candidates if candidate.kind == LAN]

    def advance(self, now: float, direct: Candidate | None) -> None:
        """Go on with what is under way."""
        rivals = self.rivals(direct)
        if self.hole_punching.should_ping(now):
            for candidate in rivals:
                self.send_ping(now, candidate, direct)
        if self._leader:
            self._check_rivals(now, rivals, direct)
        if self.nominee:
            self._check_nominee(now, self.nominee, direct)

    def _check_rivals(self, now: float, rivals: list[Candidate], direct: Candidate | None) -> None:
        """Go on with the candidates that have begun to prove themselves, and pick the best that has."""
        proven = []
        for candidate in rivals:
            if not candidate.streak:
                continue
            penalty = self._penalties.get(_ends(candidate), 0.0)
            interval = max(_SPACING, penalty / _MAX_TRIAL_PINGS)
            if now - candidate.pinged_at >= interval:
                self.send_ping(now, candidate, direct)
            tried = now - candidate.proving_since
            trial = max(_MIN_TRIAL, penalty)
            if candidate.streak < _PROOF or not self._carries(candidate) or tried < trial:
                continue
            if _shorter(candidate, direct):
                proven.append(candidate)
            elif tried >= trial + _COMPARE:
                candidate.forget()
        if proven and self.nominee is None:
            self.nominate(now, min(proven, key=_weight), direct)

    def nominate(self, now: float, candidate: Candidate, direct: Candidate | None) -> None:
        """Have this one become the path."""
        if candidate is not self.nominee:
            self.nominee = candidate
            self.send_ping(now, candidate, direct)
        self._nominated_at = now

    def _check_nominee(self, now: float, nominee: Candidate, direct: Candidate | None) -> None:
        """Go on until both sides are ready."""
        if now - self._nominated_at > _NOMINATION_TIMEOUT:
            nominee.forget()
            self.nominee = None
        elif now - nominee.pinged_at >= _SPACING:
            self.send_ping(now, nominee, direct)

    def send_ping(self, now: float, candidate: Candidate, direct: Candidate | None) -> None:
        """Ping a candidate, at full size once it has answered a small one: nobody else gets large datagrams."""
        full = self.full_size and candidate is not direct and bool(candidate.streak) and not candidate.full
        self._outbox.append(self._candidates.make_ping(now, candidate, self.is_in_use(candidate, direct), full))

    def _carries(self, candidate: Candidate) -> bool:
        """Whether packets of full size arrive there, as far as that can be known."""
        return candidate.full or not self.full_size

    def trigger_check(self, now: float, candidate: Candidate, direct: Candidate | None) -> None:
        """Answer its ping by one of this side's (a triggered check): the NAT mapping there is open just now."""
        if not candidate.streak and now - candidate.pinged_at >= _SPACING and candidate in self.rivals(direct):
            self.send_ping(now, candidate, direct)

    def is_in_use(self, candidate: Candidate, direct: Candidate | None) -> bool:
        """Whether to say that this is the path: the leader says so before it moves."""
        return candidate is direct or (self._leader and candidate is self.nominee)

    def is_proven(self, now: float, candidate: Candidate) -> bool:
        """Whether the follower may go there when the leader says so."""
        return bool(candidate.streak) and self._carries(candidate) and now - candidate.ponged_at <= _RECENT

    def penalize(self, candidate: Candidate) -> None:
        """The direct path there has failed: it has to prove itself for longer next time."""
        penalty = self._penalties.pop(_ends(candidate), 0.0)
        if len(self._penalties) >= _MAX_PENALTIES:
            del self._penalties[next(iter(self._penalties))]
        self._penalties[_ends(candidate)] = min(max(2 * penalty, _MIN_PENALTY), _MAX_PENALTY)

    def forgive(self, candidate: Candidate) -> None:
        self._penalties.pop(_ends(candidate), None)


def _weight(candidate: Candidate) -> float:
    return candidate.round_trip * (_LAN_SHARE if candidate.kind == LAN else 1)


def _shorter(candidate: Candidate, direct: Candidate | None) -> bool:
    """Whether it is worth leaving the running direct path: what looks like a LAN may be a tunnel through this one."""
    return direct is None or candidate.round_trip <= direct.round_trip


def _ends(candidate: Candidate) -> tuple[str, str]:
    """Without the ports, which a NAT may change each time."""
    return candidate.local, candidate.endpoint.host
