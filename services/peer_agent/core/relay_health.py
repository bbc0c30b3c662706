# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether one relay answers, one way or the other."""

from __future__ import annotations

_CALM = 10.0  # seconds between questions to a relay that is well
# One that has come back may go again: a question every 10 s sees few of its deaths, so it is asked more often.
_BACK, _BACK_CALM = 60.0, 2.0  # seconds since its return, and between questions meanwhile
_REMEMBERED = 600.0  # seconds for which a death counts
# Seconds that it has to live after a death before a pair that works elsewhere goes there, doubled with each death.
_PROBATION, _MAX_PROBATION = 30.0, 480.0
_LATE = 1.0  # seconds without an answer, after which it is suspected
_OFTEN = 0.25  # seconds between questions to one that is suspected
_VERDICT = 1.0  # seconds of suspicion, and a round trip, until it is dead: four questions, of which any may be answered
_DEAD, _LONG_DEAD = 1.0, 5.0  # seconds between questions to a dead one, at first and later
_LONG = 10.0
_PROOF = 2  # answers in a row that bring it back
_SMOOTH = 4
_MAX_PENDING = 16
_MAX_DEATHS = 64


class RelayHealth:
    """The questions to one relay and its answers."""

    def __init__(self, now: float, alive: bool = True):
        """`alive`: whether it counts as alive until it fails to answer."""
        self.alive = alive
        self.steady = alive  # it is alive, and has been for long enough after it had died
        self.rtt: float | None = None
        self.hits = 0  # answers since it was dead
        self._pending: dict[bytes, float] = {}
        self._ask_at = now
        self._suspected_since: float | None = None
        self._dead_since = now
        self._deaths: list[float] = []  # those that count, the latest last
        self._back_at = float("-inf")

    @property
    def deaths(self) -> int:
        """How often it has died within the last ten minutes or so."""
        return len(self._deaths)

    @property
    def waiting(self) -> bool:
        """Whether the last question is without an answer yet."""
        return bool(self._pending)

    def judge(self, now: float) -> bool:
        """Judge; return whether it has died just now."""
        self._deaths = [death for death in self._deaths if now - death < _REMEMBERED]
        self.steady = self.alive and now >= self._steady_at()
        if self.alive and self._suspected_since is None and any(now - sent >= _LATE for sent in self._pending.values()):
            self.suspect(now)
        if self._suspected_since is None or now - self._suspected_since < _VERDICT + (self.rtt or 0):
            return False
        self.alive = self.steady = False
        self.hits = 0
        self._suspected_since = None
        self._dead_since = now
        self._deaths = [*self._deaths, now][-_MAX_DEATHS:]
        self._pending.clear()
        return True

    def _steady_at(self) -> float:
        """Return when a relay that has come back is as good as any, should it live until then."""
        if not self._deaths:
            return float("-inf")
        return self._back_at + min(_PROBATION * 2.0 ** (len(self._deaths) - 1), _MAX_PROBATION)

    def _calm(self, now: float) -> float:
        """Return the seconds until the next question to a relay that is well."""
        return _BACK_CALM if now - self._back_at < _BACK else _CALM

    def suspect(self, now: float) -> None:
        """Find out at once."""
        if self.alive and self._suspected_since is None:
            self._suspected_since = now
        self._ask_at = min(self._ask_at, now)

    def should_ask(self, now: float) -> bool:
        """Whether to ask now."""
        return now >= self._ask_at

    def note_question(self, now: float, nonce: bytes) -> None:
        if len(self._pending) >= _MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        if not self.alive:
            kept = {other: sent for other, sent in self._pending.items() if now - sent < _LATE}
            if len(kept) < len(self._pending):
                self.hits = 0
            self._pending = kept
        self._pending[nonce] = now
        if not self.alive:
            self._ask_at = now + (_DEAD if now - self._dead_since < _LONG else _LONG_DEAD)
        else:
            self._ask_at = now + (self._calm(now) if self._suspected_since is None else _OFTEN)

    def note_answer(self, now: float, nonce: bytes) -> bool:
        """Note an answer; return False when nothing was asked with this nonce."""
        sent = self._pending.pop(nonce, None)
        if sent is None:
            return False
        self._pending = {other: at for other, at in self._pending.items() if at > sent}
        rtt = now - sent
        self.rtt = rtt if self.rtt is None else self.rtt + (rtt - self.rtt) / _SMOOTH
        if self.alive:
            # What was asked before the suspicion tells nothing of now.
            if self._suspected_since is None or sent >= self._suspected_since:
                self._suspected_since = None
                self._ask_at = now + self._calm(now)
            return True
        self.hits += 1
        self._ask_at = now
        if self.hits >= _PROOF:
            self.alive = True
            self._back_at = now
            self._ask_at = now + self._calm(now)
        return True

    def due(self) -> float:
        """Return when to call `tick`."""
        due = [self._ask_at]
        if self._suspected_since is not None:
            due.append(self._suspected_since + _VERDICT + (self.rtt or 0))
        elif self.alive and self._pending:
            due.append(min(self._pending.values()) + _LATE)
        if self.alive and not self.steady:
            due.append(self._steady_at())
        return min(due)
