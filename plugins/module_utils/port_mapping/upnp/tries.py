# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions side by side, so that who keeps one waiting keeps nobody else waiting."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ..mapping import MappingError

T = TypeVar("T")

_MAX_RUNNING = 12


class Tries(Generic[T]):
    """Jobs in threads of their own, a few at a time; each one has to end in time by itself."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._running = 0
        self._waiting: deque[Callable[[], T]] = deque()
        self._done: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()

    def start(self, job: Callable[[], T]) -> None:
        if self._running < _MAX_RUNNING:
            self._launch(job)
        else:
            self._waiting.append(job)

    def _launch(self, job: Callable[[], T]) -> None:
        self._running += 1
        context = contextvars.copy_context()
        # A daemon: it must not delay the end of the program.
        threading.Thread(target=context.run, args=(self._run, job), daemon=True).start()

    def _run(self, job: Callable[[], T]) -> None:
        try:
            self._done.put(job())
        except Exception as error:
            self._done.put(error)

    def next(self, seconds: float | None = None) -> T | None:
        """Return what the next job that succeeds brings, waiting for so long, or until none is left: then None."""
        end = None if seconds is None else time.monotonic() + seconds
        while self._running:
            try:
                outcome = self._done.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
            except queue.Empty:
                return None
            self._running -= 1
            if self._waiting:
                self._launch(self._waiting.popleft())
            if isinstance(outcome, MappingError):
                self.problems.append(str(outcome))
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                return outcome
        return None
