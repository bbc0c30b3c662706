# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A time for all questions of one errand: each has its own, but who answers them decides how many there are."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar

from .mapping import Unreachable

_end: ContextVar[float] = ContextVar("end", default=math.inf)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Have every question within end in time; one that is not asked any more raises Unreachable."""
    token = _end.set(min(_end.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _end.reset(token)


def left(most: float) -> float:
    """Return how many seconds a question may take, at most so many; raise Unreachable when there are none."""
    seconds = min(most, _end.get() - time.monotonic())
    if seconds <= 0:
        raise Unreachable("no time is left for more questions: what answers here takes too long with each")
    return seconds
