# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's clock. The time of day, which may be set at any moment, is only told to others."""

from __future__ import annotations

import time

_ASLEEP = 1.0  # seconds by which the clocks may differ before this host has been asleep


def clock() -> float:
    """Return seconds that go on while the host sleeps, and that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Sleep:
    """Notices that the host has slept: only one of the two clocks goes on then."""

    def __init__(self) -> None:
        self._sum = self._slept()

    def passed(self) -> float:
        """Return how long the host has slept since the last time that it had; 0 when it has not."""
        slept = self._slept()
        if slept - self._sum < _ASLEEP:
            return 0.0
        since, self._sum = slept - self._sum, slept
        return since

    @staticmethod
    def _slept() -> float:
        return clock() - time.clock_gettime(time.CLOCK_MONOTONIC)
