# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long work of the loop's, done a little at a time, so that forwarding goes on meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]  # gives way after each short step, and returns the result

_SLICE = 0.001  # seconds of each turn


def finish(steps: Steps[Result]) -> Result:
    """Do all steps at once, and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


class Slices:
    """Jobs that wait for their turns, in order. A job deals with its errors and its result by itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._jobs: deque[Steps[Any]] = deque()

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: Steps[Any]) -> None:
        """Begin a job with the next turn that is free."""
        self._jobs.append(job)

    def add_first(self, job: Steps[Any]) -> None:
        """Begin a job with the next turn, before those that wait: somebody waits for it."""
        self._jobs.appendleft(job)

    def turn(self) -> None:
        """Go on for a slice of time, and one step at least."""
        end = self._clock() + _SLICE
        while self._jobs:
            try:
                next(self._jobs[0])
            except StopIteration:
                self._jobs.popleft()
            except BaseException:
                self._jobs.popleft()
                raise
            if self._clock() >= end:
                return
