# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do about silence: ask whether the relay lives, ask the other itself, then force a new session."""

from __future__ import annotations

_SUSPECT_EVERY, _SUSPECT_SELDOM = 1.0, 60.0  # seconds between questions whether the relay lives
_OFTEN = 4  # questions; then each wait is twice the one before: somebody who is off costs next to nothing
_ASK_EVERY = 1.0  # seconds between messages that want an answer
_MOST_ASKED = 3
_DEMAND, _LONGEST_DEMAND = 10.0, 120.0  # seconds from one forced handshake to the next, doubled each time


class Doubts:
    """What has been tried already."""

    def __init__(self, now: float):
        self._suspect_at = self._ask_at = self._demand_at = now
        self._demand_wait = _DEMAND
        self._asked = self._suspected = 0

    def suspect(self, now: float) -> bool:
        """Whether to have the relay asked now."""
        if now < self._suspect_at:
            return False
        self._suspected += 1
        self._suspect_at = now + min(_SUSPECT_EVERY * 2.0 ** min(max(0, self._suspected - _OFTEN), 9), _SUSPECT_SELDOM)
        return True

    def next(self, asks: bool) -> float:
        """Return when to do something about silence; asks: the other may be asked itself."""
        return min(self._suspect_at, self._ask_at) if asks else self._suspect_at

    def due(self, now: float) -> bool:
        """Whether it is time to do something about the other's silence."""
        return now >= self._ask_at

    def ask(self, now: float) -> bool:
        """Whether to ask the other now; False when it has been asked often enough."""
        self._ask_at = now + _ASK_EVERY
        if self._asked >= _MOST_ASKED:
            return False
        self._asked += 1
        return True

    def demand(self, now: float) -> bool:
        """Whether to force a handshake now."""
        if now < self._demand_at:
            return False
        self._demand_at = now + self._demand_wait
        self._demand_wait = min(2 * self._demand_wait, _LONGEST_DEMAND)
        return True

    def flowed(self) -> None:
        """Something came, or the path is another one."""
        self._asked = self._suspected = 0

    def answered(self, now: float) -> None:
        """The other has said something."""
        self._asked = self._suspected = 0
        self._ask_at = now + _MOST_ASKED * _ASK_EVERY
        self._demand_wait = _DEMAND
