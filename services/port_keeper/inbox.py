# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What threads and signal handlers leave for the service's loop."""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from typing import Any, NamedTuple


class Item(NamedTuple):
    """Something that was left, by whom or for whom, and when."""

    owner: object
    time: float
    outcome: Any


class Inbox:
    """Items in the order in which they came.

    Not queue.SimpleQueue: on Python 3.10, get() with a timeout may wait for ever once a signal has interrupted it.
    """

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._bell, self._ear = socket.socketpair()
        for end in (self._bell, self._ear):
            end.setblocking(False)

    def put(self, owner: object, now: float, outcome: object = None) -> None:
        """Leave an item; any thread may, and a signal handler at any moment."""
        self._items.append(Item(owner, now, outcome))
        with contextlib.suppress(OSError):  # full of unheard rings, or closed
            self._bell.send(b"\0")

    def pop(self, timeout: float) -> list[Item]:
        """Return all that is there, or what comes first within so many seconds."""
        select.select([self._ear], [], [], timeout)
        with contextlib.suppress(BlockingIOError):
            while self._ear.recv(4096):
                pass
        return [self._items.popleft() for _ in range(len(self._items))]

    def close(self) -> None:
        """Hear nothing any more."""
        self._bell.close()
        self._ear.close()
