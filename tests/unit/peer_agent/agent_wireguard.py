# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""WireGuard as the agent meets it: one [Peer] with its sessions, timers and roaming, in simulated time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from agent_net import Clock
from peer_agent.endpoints import Endpoint

_REKEY, _REJECT, _RETRY, _KEEPALIVE = 120.0, 180.0, 5.0, 10.0
_HEADERS = 28  # bytes, of IP and UDP
_sessions = itertools.count(1)


class Initiation(NamedTuple):
    session: int
    sender: str
    receiver: str


class Response(NamedTuple):
    session: int
    sender: str


class Data(NamedTuple):
    session: int
    sender: str
    content: Any  # None: a keepalive


def _size(message: Any) -> int:
    """In WireGuard's counters."""
    if not isinstance(message, Data):
        return 148 if isinstance(message, Initiation) else 92
    return weight(message.content)


def weight(content: Any) -> int:
    """Return the bytes that a packet in the tunnel is: a keepalive, talk of the agents, or data."""
    return 32 + (len(content) if isinstance(content, bytes) else 0 if content is None else 64)


class Peer:
    """A [Peer]: the other device."""

    def __init__(self, clock: Clock, own: str, other: str, endpoint: Endpoint, send: Callable, receive: Callable):
        self.clock, self.own, self.other, self.endpoint = clock, own, other, endpoint
        self._send, self._receive = send, receive  # (endpoint, content, size); (content)
        self.tx = self.rx = self.stamp = 0
        self.reset()

    def reset(self) -> None:
        """Remove the [Peer] and add it again."""
        self.tx = self.rx = self.stamp = 0
        self._current: tuple[int, float, bool] | None = None  # session, since, as initiator
        self._previous: int | None = None
        self._next: int | None = None  # as responder: not confirmed yet
        self._initiated: int | None = None
        self._initiated_at = float("-inf")
        self._queue: list[Any] = []
        self._owes_since: float | None = None  # data came, and nothing went back
        self._unanswered_since: float | None = None

    def send(self, content: Any) -> None:
        """A packet for the other comes out of the interface."""
        now = self.clock.now
        if self._current is None or now - self._current[1] > _REJECT:
            self._queue = [*self._queue, content][-128:]
            self._initiate()
            return
        session, since, initiator = self._current
        self._put(Data(session, self.own, content))
        if content is not None and self._unanswered_since is None:
            self._unanswered_since = now
            self.clock.at(now + _KEEPALIVE + _RETRY, self._stale)
        if initiator and now - since > _REKEY:
            self._initiate()

    def _put(self, message: Any, endpoint: Endpoint | None = None) -> None:
        size = _size(message)
        self.tx += size
        self._owes_since = None
        self._send(endpoint or self.endpoint, message, size + _HEADERS)

    def _initiate(self) -> None:
        if self.clock.now - self._initiated_at < _RETRY - 0.001:
            return
        self._initiated, self._initiated_at = next(_sessions), self.clock.now
        self._put(Initiation(self._initiated, self.own, self.other))
        jitter = 0.001 * (self._initiated * 89 % 333)
        self.clock.at(self.clock.now + _RETRY + jitter, self._retry)

    def _retry(self) -> None:
        if self._initiated is not None and self.clock.now - self._initiated_at >= _RETRY - 0.001 and self._queue:
            self._initiate()

    def _stale(self) -> None:
        since = self._unanswered_since
        if since is not None and self.clock.now - since >= _KEEPALIVE + _RETRY - 0.001:
            self._initiate()

    def receive(self, source: Endpoint, message: Any) -> None:
        """A datagram of the other's."""
        size = _size(message)
        if isinstance(message, Initiation):
            self._initiated = None  # one handshake at a time: two that cross spoil each other
            self._next = message.session
            self.rx += size
            self.endpoint = source
            self._put(Response(message.session, self.own))
        elif isinstance(message, Response):
            if message.session != self._initiated:
                return
            self.rx += size
            self.endpoint = source
            self._initiated = None
            self._establish(message.session, True)
            queue, self._queue = self._queue, []
            for content in queue or [None]:
                self.send(content)
        else:
            self._data(source, message, size)

    def _data(self, source: Endpoint, message: Data, size: int) -> None:
        if message.session == self._next:
            self._next = None
            self._establish(message.session, False)
            queue, self._queue = self._queue, []
            for content in queue:
                self.send(content)
        elif message.session not in (self._current and self._current[0], self._previous):
            return
        self.rx += size
        self.endpoint = source
        self._unanswered_since = None
        if message.content is not None:
            if self._owes_since is None:
                self._owes_since = self.clock.now
                self.clock.at(self.clock.now + _KEEPALIVE, self._keepalive)
            self._receive(message.content)

    def _keepalive(self) -> None:
        if self._owes_since is not None and self.clock.now - self._owes_since >= _KEEPALIVE - 0.001:
            self.send(None)

    def _establish(self, session: int, initiator: bool) -> None:
        self._previous = self._current[0] if self._current else None
        self._current = (session, self.clock.now, initiator)
        self.stamp = 1_700_000_000 + int(self.clock.now)
        self._unanswered_since = None
