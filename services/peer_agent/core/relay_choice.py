# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which relay a pair takes."""

from __future__ import annotations

from collections.abc import Iterable

from peer_agent.core.paths import RelayView

_BETTER, _MARGIN = 0.8, 0.01  # a relay is worth a move when its round trip is that much shorter: share, and seconds
_STEADY = 30.0  # seconds for which it has to be
_UNKNOWN = 1.0  # seconds of round trip to a relay that has not answered yet


class RelayChoice:
    """Chooses; stays with a relay that works until another has been better for long."""

    def __init__(self) -> None:
        self._better = ""
        self._better_since = 0.0

    def choose(
        self, now: float, current: str, views: Iterable[RelayView], theirs: dict[str, float] | None
    ) -> tuple[str, bool]:
        """Return the relay to take, and whether the move can wait until no data flows. `theirs`: round trips of the
        other's agent; without one the stated order decides, as it does on devices that have no agent."""
        scores = {
            view.name: (
                view.fallback,
                view.distrust + (index if theirs is None else _trip(view.rtt) + _trip(theirs.get(view.name))),
            )
            for index, view in enumerate(views)
            if view.alive
        }
        common = {name: score for name, score in scores.items() if theirs and name in theirs}
        scores = common or scores
        if not scores:
            return current, True
        best = min(scores, key=scores.__getitem__)
        if current not in scores or scores[current][0] > scores[best][0]:
            return best, False
        if scores[best][1] >= scores[current][1] * _BETTER - _MARGIN:
            best = ""
        if best != self._better:
            self._better, self._better_since = best, now
        return (best, True) if best and now - self._better_since >= _STEADY else (current, True)


def _trip(rtt: float | None) -> float:
    return _UNKNOWN if rtt is None else rtt
