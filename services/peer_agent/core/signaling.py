# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signaling (RFC 8445): candidates and keys that this agent and the other's exchange inside the tunnel.

When to send, what is known of the other, and the key for connectivity checks that comes of both sides' secrets.
"""

from __future__ import annotations

from collections.abc import Iterable

from peer_agent.core.actions import PairAction, SendMessage, SetKey
from peer_agent.core.paths import RelayView
from peer_agent.endpoints import Endpoint, Network, usable
from peer_agent.wire.control import MAX_CANDIDATES, Message
from peer_agent.wire.probes import Key

_INTERVAL = 60.0  # seconds between messages to an agent that answers
_MIN_WAIT, _MAX_WAIT = 1.0, 600.0  # seconds between attempts to find an agent, doubled each time
_FOLLOWER_WAIT = 0.5
_GONE = 2.5 * _INTERVAL  # seconds without a sign of the other's agent
_RESTART = 5.0  # seconds that an agent may take to start again
MAX_SEEN = 4  # addresses that relays see, of one device: behind a symmetric NAT each sees another
_MIN_INTERVAL = 1.0  # seconds between two messages about changes
_OFFLINE = 60.0  # seconds without a packet, after which one means that the other has come back


class Signaling:
    """The exchange with one other device."""

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
        self._wait = _MIN_WAIT
        self._said_at = self._alive_at = self._online_at = float("-inf")
        self._bye_at: float | None = None

    # --- this side ----------------------------------------------------------------------------------------------------

    def send_if_due(self, now: float, views: Iterable[RelayView]) -> None:
        """Send what is sent now and then, with how each relay is reached."""
        if now >= self.due:
            self.send(now, views, answer=self.key is None or now - self._alive_at > _INTERVAL)

    def send(self, now: float, views: Iterable[RelayView], **flags: bool) -> None:
        """Send a message with these flags of `Message`."""
        views = list(views)
        seen = [view.seen for view in views if view.seen]
        versions = [endpoint.address.version for endpoint in set(seen)]
        self._symmetric = len(versions) > len(set(versions))
        # What relays see comes first: a host with many bridges has more addresses than a message takes.
        told = dict.fromkeys((*list(dict.fromkeys(seen))[:MAX_SEEN], *self.own))
        endpoints = [endpoint for endpoint in told if usable(endpoint, self._overlays)]
        round_trips = {view.name: view.rtt + view.distrust for view in views if view.alive and view.rtt is not None}
        candidates = tuple(endpoints[:MAX_CANDIDATES])
        message = Message(self._secret, candidates, round_trips, self._symmetric, full=True, **flags)
        self._outbox.append(SendMessage(message))
        self._said_at = now
        if self.key:
            self.due = now + _INTERVAL
        else:
            self.due = now + self._wait
            self._wait = min(2 * self._wait, _MAX_WAIT)

    def set_own(self, now: float, own: Iterable[Endpoint]) -> bool:
        """Set this device's own candidates; return whether they have changed."""
        own = tuple(dict.fromkeys(own))
        if set(own) == set(self.own):
            return False
        self.own = own
        self.announce(now)
        return True

    def announce(self, now: float) -> None:
        """Send a message soon, if any was sent at all: something has changed."""
        if self._said_at == float("-inf"):
            return
        self.due = min(self.due, max(now, self._said_at + _MIN_INTERVAL))

    def search_again(self, now: float) -> None:
        """Look for the other's agent as eagerly as at the start."""
        self._wait = _MIN_WAIT
        self.announce(now)

    # --- the other side -----------------------------------------------------------------------------------------------

    def receive(self, now: float, message: Message) -> bool:
        """Read a message; return whether it is the first of this run of the other's agent."""
        fresh = self._other is None or message.secret != self._other.secret
        self._other = message
        self._alive_at = now
        self._bye_at = now if message.bye else None
        if fresh or self.key is None:
            self.key = Key(self._secret, message.secret, self._leader)
            self._outbox.append(SetKey(self.key))
            self.due = min(self.due, now + _INTERVAL)
        return fresh

    def note_probe(self, now: float) -> None:
        """A connectivity check of the other's agent came: it lives."""
        self._alive_at = now

    def note_traffic(self, now: float) -> None:
        """The other device sends: an agent may have started with it."""
        if self.key is None and now - self._online_at > _OFFLINE:
            self.search_again(now)
        self._online_at = now

    def is_restarting(self, now: float) -> bool:
        """Whether the other's agent has said goodbye, and may come back at once."""
        return self._bye_at is not None and now - self._bye_at < _RESTART

    def is_gone(self, now: float) -> bool:
        """Whether the other runs no agent any more."""
        if self.key is None:
            return False
        return now - self._alive_at > _GONE or (self._bye_at is not None and not self.is_restarting(now))

    def forget(self) -> None:
        """Do without the other's agent."""
        self.key = self._other = self._bye_at = None
        self._wait = _INTERVAL

    @property
    def remote_candidates(self) -> tuple[Endpoint, ...]:
        return self._other.candidates if self._other else ()

    @property
    def remote_relays(self) -> dict[str, float] | None:
        """The relays that the other reaches, or None when it has no agent to ask."""
        return self._other.relays if self._other else None

    @property
    def answers_full_size(self) -> bool:
        """Whether the other answers pings of full size: agents of 1.2.0 do not."""
        return bool(self._other and self._other.full)

    @property
    def symmetric_nats(self) -> int:
        """How many of the two sides are behind NATs that use another port for each destination (RFC 4787, section 4.1:
        address-dependent mapping). No punching gets through two of them, and through one only to a NAT that filters by
        nothing or by the address alone."""
        return self._symmetric + bool(self._other and self._other.symmetric)
