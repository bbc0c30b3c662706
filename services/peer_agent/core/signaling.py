# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this agent and the other's say to each other: when, what is known of the other, and the key that comes of it."""

from __future__ import annotations

from collections.abc import Iterable

from peer_agent.core.actions import PairAction, Say, Trust
from peer_agent.core.paths import View
from peer_agent.endpoints import Endpoint, Network, usable
from peer_agent.wire.control import MOST_CANDIDATES, Message
from peer_agent.wire.probes import Key

_EVERY = 60.0  # seconds between messages to an agent
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 600.0  # seconds between attempts to find an agent, doubled each time
_FOLLOWER_WAIT = 0.5
_GONE = 2.5 * _EVERY  # seconds without a sign of the other's agent
_RESTART = 5.0  # seconds that an agent may take to start again
MOST_SEEN = 4  # addresses that relays see, of one device: behind a symmetric NAT each sees another
_NEAREST = 1.0  # seconds between messages that tell of changes
_OFFLINE = 60.0  # seconds without a packet, after which one means that the other has come back


class Talk:
    """Both sides of the conversation."""

    def __init__(self, secret: bytes, leader: bool, overlays: Iterable[Network], outbox: list[PairAction], now: float):
        self.own: tuple[Endpoint, ...] = ()
        self.key: Key | None = None
        self.due = now if leader else now + _FOLLOWER_WAIT  # the handshakes of two that begin at once would cross
        self._secret = secret
        self._leader = leader
        self._overlays = tuple(overlays)
        self._outbox = outbox
        self._other: Message | None = None
        self._symmetric = False  # this side's NAT
        self._wait = _FIRST_WAIT
        self._said_at = self._alive_at = self._online_at = float("-inf")
        self._bye_at: float | None = None

    # --- this side ----------------------------------------------------------------------------------------------------

    def tick(self, now: float, views: Iterable[View]) -> None:
        if now >= self.due:
            self.say(now, views, answer=self.key is None or now - self._alive_at > _EVERY)

    def say(self, now: float, views: Iterable[View], **flags: bool) -> None:
        views = list(views)
        seen = [view.seen for view in views if view.seen]
        self._symmetric = any(len({place for place in seen if (":" in place.host) == six}) > 1 for six in (False, True))
        # What relays see comes first: a host with many bridges has more addresses than a message takes.
        told = dict.fromkeys((*list(dict.fromkeys(seen))[:MOST_SEEN], *self.own))
        places = [place for place in told if usable(place, self._overlays)]
        trips = {view.name: view.rtt + view.distrust for view in views if view.alive and view.rtt is not None}
        message = Message(self._secret, tuple(places[:MOST_CANDIDATES]), trips, self._symmetric, full=True, **flags)
        self._outbox.append(Say(message))
        self._said_at = now
        if self.key:
            self.due = now + _EVERY
        else:
            self.due = now + self._wait
            self._wait = min(2 * self._wait, _LONGEST_WAIT)

    def move(self, now: float, own: Iterable[Endpoint]) -> bool:
        """Take this device's own endpoints; return whether they have changed."""
        own = tuple(dict.fromkeys(own))
        if set(own) == set(self.own):
            return False
        self.own = own
        self.changed(now)
        return True

    def changed(self, now: float) -> None:
        """There is something to tell, once the conversation has begun."""
        if self._said_at == float("-inf"):
            return
        self.due = min(self.due, max(now, self._said_at + _NEAREST))

    def renew(self, now: float) -> None:
        """Look for the other's agent as eagerly as at the start."""
        self._wait = _FIRST_WAIT
        self.changed(now)

    # --- the other side -----------------------------------------------------------------------------------------------

    def hear(self, now: float, message: Message) -> bool:
        """Take a message; return whether it is the first of this run of the other's agent."""
        fresh = self._other is None or message.secret != self._other.secret
        self._other = message
        self._alive_at = now
        self._bye_at = now if message.bye else None
        if fresh or self.key is None:
            self.key = Key(self._secret, message.secret, self._leader)
            self._outbox.append(Trust(self.key))
            self.due = min(self.due, now + _EVERY)
        return fresh

    def lives(self, now: float) -> None:
        """A probe of the other's agent came."""
        self._alive_at = now

    def online(self, now: float) -> None:
        """The other sends: an agent may have come with it."""
        if self.key is None and now - self._online_at > _OFFLINE:
            self.renew(now)
        self._online_at = now

    def absent(self, now: float) -> bool:
        """Whether the other's agent has said goodbye, and may come back at once."""
        return self._bye_at is not None and now - self._bye_at < _RESTART

    def gone(self, now: float) -> bool:
        """Whether the other runs no agent any more."""
        if self.key is None:
            return False
        return now - self._alive_at > _GONE or (self._bye_at is not None and not self.absent(now))

    def forget(self) -> None:
        """Do without the other's agent."""
        self.key = self._other = self._bye_at = None
        self._wait = _EVERY

    @property
    def candidates(self) -> tuple[Endpoint, ...]:
        return self._other.candidates if self._other else ()

    @property
    def theirs(self) -> dict[str, float] | None:
        """The relays that the other reaches, or None when it has no agent to ask."""
        return self._other.relays if self._other else None

    @property
    def full(self) -> bool:
        """Whether the other answers pings of full size: agents of 1.2.0 do not."""
        return bool(self._other and self._other.full)

    @property
    def symmetric(self) -> int:
        """How many of the two sides are behind NATs that use another port for each destination (RFC 4787, section 4.1:
        address-dependent mapping). No punching gets through two of them, and through one only to a NAT that filters by
        nothing or by the address alone."""
        return self._symmetric + bool(self._other and self._other.symmetric)
