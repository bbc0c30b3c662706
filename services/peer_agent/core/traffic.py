# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether data flows on the running path, as WireGuard's counters of the [Peer] tell.

They count the agents' signaling, too, and what WireGuard does of itself (keepalives, handshakes). That
proves a path, but it is no data: nobody waits for more of it.
"""

from __future__ import annotations

from typing import NamedTuple

SILENCE = 0.4  # seconds without an answer to what was sent, or of a sudden end: time to ask
_LONG = 2.0  # seconds: sides that both send hear from each other more often
_FRESH = 1.0  # seconds after which data that came belongs to the past
_KEEPALIVE, _HANDSHAKE = 32, 148 + 92  # bytes


class Bytes(NamedTuple):
    """What a counter says, and how much of it is signaling that needs no answer."""

    all: int
    signaling: int = 0


class Traffic:
    """Counters and when they grew."""

    def __init__(self) -> None:
        self._sent = self._came = Bytes(-1)
        self._handshake = 0
        self._waiting_since: float | None = None  # what was sent then has had no answer yet
        self._unheard_since: float | None = None  # the same, whatever else has proven the path since
        self.sent_at = self.heard_at = float("-inf")
        self._asked_for = float("-inf")  # the end that was asked about

    def sample(self, now: float, sent: Bytes, came: Bytes, handshake: int, here: bool) -> bool:
        """Compare the counters with the last ones; return whether anything came. `handshake` is the time of the last
        one, `here` says whether what came took the running path."""
        known = self._sent.all >= 0 and sent.all >= self._sent.all and came.all >= self._came.all  # or a new [Peer]
        own = _KEEPALIVE + (_HANDSHAKE if handshake != self._handshake else 0)
        data_sent = known and _growth(self._sent, sent) > own
        data_came = known and _growth(self._came, came) > own
        heard = known and came.all > self._came.all
        self._sent, self._came, self._handshake = sent, came, handshake
        if data_sent:
            self.sent_at = now
            if self._waiting_since is None:
                self._waiting_since = now
            if self._unheard_since is None:
                self._unheard_since = now
        if heard and here:
            self._waiting_since = self._unheard_since = None
            if data_came:
                self.heard_at = now
        return heard

    def is_silent(self, now: float) -> bool:
        """Whether what was sent is without an answer for too long, or a flow of data has ended just now."""
        if self._waiting_since is not None and now - self._waiting_since >= SILENCE:
            return True
        return self.heard_at > self._asked_for and SILENCE <= now - self.heard_at < _FRESH

    def unanswered(self, now: float) -> float:
        """Return for how long what was sent has had no answer."""
        return now - self._waiting_since if self._waiting_since is not None else 0.0

    def unheard(self, now: float) -> float:
        """Return for how long data was sent and none came, though probes may have been answered."""
        return now - self._unheard_since if self._unheard_since is not None else 0.0

    def note_move(self, now: float) -> None:
        """The path is another one: what was sent over the one before tells nothing."""
        self.note_proof(now)
        self._unheard_since = None

    def turn(self, now: float) -> int:
        """Return whether this side alone had data to send (0), both had (1), or only the other (2)."""
        if now - self.sent_at > _LONG:
            return 2
        return 1 if self._waiting_since is None or self._waiting_since - self.heard_at < _LONG else 0

    def note_proof(self, now: float) -> None:
        """The path has proven itself otherwise: what was sent may need no answer."""
        self._waiting_since = None
        self._asked_for = self.heard_at

    def is_busy(self, now: float, seconds: float) -> bool:
        """Whether data has flowed lately, in whichever direction."""
        return now - max(self.sent_at, self.heard_at) < seconds

    def due(self, now: float) -> float:
        """Return when it will be silent, if it is not yet."""
        ends = self.heard_at + SILENCE if self.heard_at > self._asked_for else float("inf")
        waits = self._waiting_since + SILENCE if self._waiting_since is not None else float("inf")
        return min((due for due in (waits, ends) if due > now), default=float("inf"))


def _growth(before: Bytes, after: Bytes) -> int:
    """Return by how much data has grown."""
    return (after.all - before.all) - (after.signaling - before.signaling)
