# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status document between the loop, which alone may build it, and the threads that answer requests with it."""

from __future__ import annotations

import contextlib
import functools
import json
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from peer_relay.slices import Slices, Steps
from peer_relay.status import metrics

ANSWER_WITHIN = 20.0  # seconds that a request waits for the loop
_SHARE = 10  # a document is told for this many times as long as it took to build


class Snapshot:
    """A status document, and what it is told as; each is made once, however many ask, and not in the loop's thread.

    `finish` adds to the document what needs no loop.
    """

    def __init__(self, document: dict[str, Any], finish: Callable[[dict[str, Any]], dict[str, Any]]):
        self._begun, self._finish = document, finish
        self._making = threading.RLock()

    @property
    def document(self) -> dict[str, Any]:
        """Return it as Python's values."""
        with self._making:
            return self._document

    def json(self) -> bytes:
        """Return it as JSON."""
        with self._making:
            return self._json

    def metrics(self) -> bytes:
        """Return it in Prometheus' text form."""
        with self._making:
            return self._metrics

    @functools.cached_property
    def _document(self) -> dict[str, Any]:
        return self._finish(self._begun)

    @functools.cached_property
    def _json(self) -> bytes:
        # In many calls: the encoder lets no other thread run before it is done.
        fields = (
            f"{json.dumps(key)}: [{', '.join(map(json.dumps, value))}]"
            if isinstance(value, list)
            else f"{json.dumps(key)}: {json.dumps(value)}"
            for key, value in self._document.items()
        )
        return f"{{{', '.join(fields)}}}".encode()

    @functools.cached_property
    def _metrics(self) -> bytes:
        return metrics.exposition(self._document)


class Snapshots:
    """Builds documents when they are asked for: one at a time, and seldom where that takes long.

    `build` is what the loop does, `finish` what is done with its document in a thread of who asks, and `wake` makes the
    loop look for questions.
    """

    def __init__(
        self,
        build: Callable[[], Steps[dict[str, Any]]],
        finish: Callable[[dict[str, Any]], dict[str, Any]],
        wake: Callable[[], None],
    ):
        self._build, self._finish, self._wake = build, finish, wake
        self._questions: queue.SimpleQueue[Future[Snapshot]] = queue.SimpleQueue()
        self._building = False
        self._latest: Snapshot | None = None
        self._good_until = float("-inf")

    def ask(self) -> Snapshot:
        """Return a document, from any thread but the loop's; raise TimeoutError."""
        latest = self._latest
        if latest and time.monotonic() < self._good_until:
            return latest
        answer: Future[Snapshot] = Future()
        self._questions.put(answer)
        self._wake()
        try:
            return answer.result(ANSWER_WITHIN)
        except FutureTimeout:
            raise TimeoutError(f"the relay did not answer within {ANSWER_WITHIN:.0f} s") from None

    def turn(self, slices: Slices) -> None:
        """Begin a document if one was asked for; the loop's part."""
        if not self._building and not self._questions.empty():
            self._building = True
            slices.add_first(self._answer())

    def _answer(self) -> Steps[None]:
        began, asked = time.monotonic(), []
        with contextlib.suppress(queue.Empty):
            while True:
                asked.append(self._questions.get_nowait())
        try:
            document = yield from self._build()
            self._latest = snapshot = Snapshot(document, self._finish)
            self._good_until = time.monotonic() + _SHARE * (time.monotonic() - began)
            for answer in asked:
                answer.set_result(snapshot)
        except Exception as error:
            for answer in asked:
                answer.set_exception(error)
            raise
        finally:
            self._building = False
