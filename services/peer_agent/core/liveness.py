# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Consent freshness (RFC 7675) of the running direct path: when to ask for it, and when it has expired."""

from __future__ import annotations

IDLE = 5.0  # seconds between pings while no data flows: keeps the NATs' mappings, too
_PRECEDENCE = 1.0  # seconds by which the leader is sooner: one ping and its pong are enough for both sides
_TIMEOUT = 0.7  # seconds without a pong after data has stopped: as many pings as outlast a few lost ones
_ROUND_TRIPS = 3  # round trips to wait at least
_IDLE_TIMEOUT = 3.0  # nobody suffers, and the other's agent may just start again
_URGENT_INTERVAL, _IDLE_INTERVAL = 0.1, 0.5  # seconds between pings
_WORRY = 0.3  # seconds of suspicion after which to look for another path


class Liveness:
    """Of one path, and the suspicion against it, if there is one.

    While no data flows, a ping of the other side's is as good as one of this side's: if the pong does not reach it, it
    leaves the path, and says so.
    """

    def __init__(self, now: float, leader: bool):
        self._idle = IDLE if leader else IDLE + _PRECEDENCE
        self._quiet_since = now  # since a probe came
        self.answered_at = now
        self.urgent = False  # data has stopped
        self._firm = False  # data alone does not allay it
        self._since: float | None = None
        self._deadline = self._ping_at = 0.0

    @property
    def suspected(self) -> bool:
        return self._since is not None

    def suspect(self, now: float, rtt: float | None, firm: bool = False) -> None:
        """Data has stopped, or the other may have left (firm)."""
        self._begin(now, max(_TIMEOUT, _ROUND_TRIPS * (rtt or 0)))
        self._ping_at = now if not self.urgent else self._ping_at
        self.urgent = True
        self._firm |= firm

    def check_idle(self, now: float) -> None:
        """Begin to ask when nothing was heard for long."""
        if self._since is None and now - self._quiet_since >= self._idle:
            self._begin(now, _IDLE_TIMEOUT)

    def _begin(self, now: float, timeout: float) -> None:
        if self._since is None:
            self._since = self._ping_at = now
            self._deadline = now + timeout
        self._deadline = min(self._deadline, now + timeout)

    def note_data(self) -> None:
        """Data came over the path."""
        if not self._firm:
            self._clear()

    def note_pong(self, now: float) -> None:
        """A pong came over the path."""
        self.answered_at = self._quiet_since = now
        self._clear()

    def note_ping(self, now: float) -> None:
        """A ping came over the path: the other uses it."""
        self._quiet_since = now

    def _clear(self) -> None:
        self._since = None
        self.urgent = self._firm = False

    def should_ping(self, now: float) -> bool:
        """Whether to ping now."""
        if self._since is None or now < self._ping_at:
            return False
        self._ping_at = now + (_URGENT_INTERVAL if self.urgent else _IDLE_INTERVAL)
        return True

    def worried(self, now: float) -> bool:
        """Whether to look for another path meanwhile."""
        return self.urgent and self._since is not None and now - self._since >= _WORRY

    def expired(self, now: float) -> bool:
        """Whether to leave the path."""
        return self._since is not None and now >= self._deadline

    def due(self) -> float:
        """Return when there is something to do."""
        return self._quiet_since + self._idle if self._since is None else min(self._ping_at, self._deadline)
