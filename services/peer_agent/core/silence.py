# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do when nothing comes: ask whether the relay lives, ask the other device itself, then force a handshake."""

from __future__ import annotations

_SUSPECT_INTERVAL, _MAX_SUSPECT_INTERVAL = 1.0, 60.0  # seconds between questions whether the relay lives
_OFTEN = 4  # questions; then each wait is twice the one before: somebody who is off costs next to nothing
_ASK_INTERVAL = 1.0  # seconds between messages that want an answer
_MAX_QUESTIONS = 3
_MIN_REHANDSHAKE, _MAX_REHANDSHAKE = 10.0, 120.0  # seconds from one forced handshake to the next, doubled each time


class Silence:
    """What has been tried already, and when to try the next."""

    def __init__(self, now: float):
        self._suspect_at = self._ask_at = self._rehandshake_at = now
        self._rehandshake_wait = _MIN_REHANDSHAKE
        self._asked = self._suspected = 0

    def should_suspect(self, now: float) -> bool:
        """Whether to have the relay asked now."""
        if now < self._suspect_at:
            return False
        self._suspected += 1
        doublings = min(max(0, self._suspected - _OFTEN), 9)
        self._suspect_at = now + min(_SUSPECT_INTERVAL * 2.0**doublings, _MAX_SUSPECT_INTERVAL)
        return True

    def due(self, asks: bool) -> float:
        """Return when to try the next thing; asks: the other may be asked itself."""
        return min(self._suspect_at, self._ask_at) if asks else self._suspect_at

    def is_due(self, now: float) -> bool:
        """Whether it is time to ask the other again, or to do without."""
        return now >= self._ask_at

    def should_ask(self, now: float) -> bool:
        """Whether to ask the other now; False when it has been asked often enough."""
        self._ask_at = now + _ASK_INTERVAL
        if self._asked >= _MAX_QUESTIONS:
            return False
        self._asked += 1
        return True

    def should_rehandshake(self, now: float) -> bool:
        """Whether to force a handshake now."""
        if now < self._rehandshake_at:
            return False
        self._rehandshake_at = now + self._rehandshake_wait
        self._rehandshake_wait = min(2 * self._rehandshake_wait, _MAX_REHANDSHAKE)
        return True

    def note_data(self) -> None:
        """Something came, or the path is another one."""
        self._asked = self._suspected = 0

    def note_answer(self, now: float) -> None:
        """The other has said something."""
        self._asked = self._suspected = 0
        self._ask_at = now + _MAX_QUESTIONS * _ASK_INTERVAL
        self._rehandshake_wait = _MIN_REHANDSHAKE
